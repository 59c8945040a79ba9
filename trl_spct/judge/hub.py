# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Pushes to the Hub, whose errors say how to push again, and the model card of a judge that a pipeline pushes."""

import logging
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError

from .prompts import CARD, template_name
from .repositories import usual_template

logger = logging.getLogger(__name__)

LEFT_OUT = ("_*", "checkpoint-*")  # by TRL's trainers
# Rows and critiques, pickled arguments, which hold `hub_token` and local paths, and TRL's reference adapter.
_PRIVATE = ("/trajectories/", "/fresh/", "/rows/", "/judgments/", "/ref/", "training_args.bin")

_TEXT = """
# {name}

A generative reward model: {base} as a pipeline of [trl_spct](https://pypi.org/project/trl-spct) prompts it
([Inference-Time Scaling for Generalist Reward Modeling](https://huggingface.co/papers/2504.02495)). It reads a query
and any number of responses, writes criteria and a critique, and ends with one score per response.

```python
import trl_spct
from transformers import pipeline

judge = pipeline("grm-reward", model="{repo_id}")
judgment = judge({{"query": "Name a prime number.", "responses": ["Four.", "Seven."]}}, k=8, seed=0)
judgment["scores"], judgment["best"]
```

The prompt is the template `{template}`. `k` critiques are sampled, each with the responses in an order of its own, and
their scores are added up. Unreadable critiques do not vote; `judgment["critiques"]` holds all texts and
says why.{more}
"""


class PushError(RuntimeError):
    """A push that failed; the message says where the result lies and how to push it again."""


def is_repo_id(name: str) -> bool:
    """Whether a name is a valid id of a Hub repository."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def keep_private(folder: str | os.PathLike) -> None:
    """Writes a `.gitignore`, which uploads to the Hub obey, into an output folder that has none."""
    path = Path(folder, ".gitignore")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(_PRIVATE) + "\n", encoding="utf-8")


def push_command(
    repo_id: str,
    folder: str | os.PathLike,
    repo_type: str = "model",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    private: bool | None = None,
    revision: str | None = None,
) -> str:
    """The shell command that pushes a folder."""
    words = ["hf", "upload", repo_id, os.path.abspath(folder), "."]
    words += [] if repo_type == "model" else ["--repo-type", repo_type]
    words += [word for pattern in include for word in ("--include", pattern)]
    words += [word for pattern in exclude for word in ("--exclude", pattern)]
    words += (["--private"] if private else []) + (["--revision", revision] if revision else [])
    return shlex.join(words)


def model_push_command(repo_id: str, args: Any) -> str:
    """[`push_command`] for the output folder of a trainer."""
    options = {"private": args.hub_private_repo, "revision": args.hub_revision}
    return push_command(repo_id, args.output_dir, exclude=LEFT_OUT, **options)


@contextmanager
def pushing(repo_id: str, what: str, again: str) -> Iterator[None]:
    """Turns errors of the Hub, the network and the disk into a [`PushError`], which says what remains where and which
    command or call pushes it again."""
    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        login = "Log in with `hf auth login`, as a user who may write there, and then p" if status == 401 else "P"
        raise PushError(
            f"Could not push to {repo_id}: {type(error).__name__}: {str(error).strip()}\n"
            f"Nothing is lost: {what}. {login}ush again with\n    {again}"
        ) from error


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    repo_type: str = "dataset",
    message: str = "Upload",
    include: Sequence[str] = (),
    private: bool | None = None,
    token: str | None = None,
    exclude: Sequence[str] = (),
) -> str:
    """Pushes a folder to a repository, which is created if it does not exist, and returns the address of the commit.
    The snippets of its card then name the repository.

    `include` and `exclude` are patterns of files. Raises [`PushError`].
    """

    def rename_card(full_id: str) -> None:
        card = Path(folder, CARD)
        if card.is_file():
            card.write_text(renamed(card.read_text(encoding="utf-8"), full_id), encoding="utf-8")

    again = push_command(repo_id, folder, repo_type, include, exclude, private)
    patterns = {"allow_patterns": list(include) or None, "ignore_patterns": list(exclude) or None}
    with pushing(repo_id, f"{os.path.abspath(folder)} holds it all", again):
        return upload(folder, repo_id, repo_type, message, private, token, rename_card, **patterns)


def upload(
    folder: str | os.PathLike, repo_id: str, repo_type: str, message: str, private, token, before: Callable, **options
) -> str:
    """Creates a repository if it does not exist, calls `before` with its full id, uploads a folder with the options of
    [`~huggingface_hub.HfApi.upload_folder`], and returns the address of the commit."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
    before(repo_id)
    options |= {"repo_id": repo_id, "repo_type": repo_type, "folder_path": Path(folder), "commit_message": message}
    return api.upload_folder(**options).commit_url


def renamed(card: str, repo_id: str) -> str:
    """A card whose snippets load this repository instead of the one that the first of them loads."""
    judge, _, rest = card.partition('pipeline("grm-reward", model="')[2].partition('"')
    meta_rm = rest.removeprefix(', meta_rm="').partition('"')[0] if rest.startswith(', meta_rm="') else ""
    old = meta_rm or judge or card.partition('load_dataset("')[2].partition('"')[0]
    if old:
        for before, after in (('"', '"'), ("vllm serve ", "\n"), ("grm=", "\n"), ("--trajectories ", "`")):
            card = card.replace(f"{before}{old}{after}", f"{before}{repo_id}{after}")
    return card


def write_judge_card(
    model, folder: str | os.PathLike, repo_id: str, has_meta_rm: bool, has_code: bool, tags, token, revision
) -> None:
    """Writes into a folder the card that the repository has, else a short one with the snippet that loads the judge;
    `tags` are added to either."""
    try:
        card = ModelCard.load(hf_hub_download(repo_id, CARD, token=token, revision=revision))
    except EntryNotFoundError:
        card = _new_card(model, repo_id, has_meta_rm, has_code, token)
    card.data["tags"] = list(dict.fromkeys((*(card.data.get("tags") or ()), *tags)))
    card.save(Path(folder, CARD))


def read_model_card(home: str, token: str | None = None) -> ModelCard | None:
    """The card of a folder or of a repository; `None` if there is none, or if it cannot be read now."""
    place = Path(home, CARD) if os.path.isdir(home) else home
    if isinstance(place, Path) and not place.is_file():
        return None
    try:
        return ModelCard.load(place, token=token)
    except (HTTPError, OSError, ValueError, YAMLError) as error:
        logger.info("The card of %s cannot be read: %s", home, error)
        return None


def base_of(name: str | None, token: str | None = None) -> tuple[str | None, str | None, dict[str, Any]]:
    """The name of a base without a local path, its nearest ancestor on the Hub, and its license metadata."""
    if not name:
        return None, None, {}
    card = read_model_card(name, token)
    data = {} if card is None else card.data.to_dict()
    is_local = os.path.isdir(name) or not is_repo_id(name)
    ancestor = data.get("base_model") if is_local else name
    known = isinstance(ancestor, str) and is_repo_id(ancestor)
    license = {key: data[key] for key in ("license", "license_name", "license_link") if data.get(key)}
    return Path(name).resolve().name if is_local else name, ancestor if known else None, license


def _new_card(model, repo_id: str, has_meta_rm: bool, has_code: bool, token: str | None) -> ModelCard:
    home = (getattr(model, "judge_repository", None) or (model.config._name_or_path,))[0]
    name, base, license = base_of(home, token)
    facts = {"library_name": "transformers", "pipeline_tag": "text-generation", **license}
    data = ModelCardData(base_model=base, tags=["generative-reward-model", "spct", "trl"], **facts)
    guided = " The folder `meta_rm` holds a Meta RM, which guides the vote."
    without_package = " Without trl_spct installed, leave its import out and pass `trust_remote_code=True`."
    text = _TEXT.format(
        name=repo_id.rsplit("/", 1)[-1],
        base=f"[{base}](https://huggingface.co/{base})" if base and base == name else "a model",
        repo_id=repo_id,
        template=template_name(usual_template(model.config)),
        more=guided * has_meta_rm + without_package * has_code,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")
