# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Model card of a judge that a pipeline pushes."""

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel
from yaml import YAMLError

from .repositories import described


logger = logging.getLogger(__name__)

TAG = "generative-reward-model"
META_RM_SENTENCE = "The folder `meta_rm` holds a Meta RM, which guides the vote."

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


def write_judge_card(
    model: PreTrainedModel,
    folder: str | os.PathLike,
    repo_id: str,
    has_meta_rm: bool = False,
    has_code: bool = False,
    tags: Sequence[str] = (),
    token: str | None = None,
    revision: str | None = None,
) -> None:
    """Writes the card of a judge into a folder that is pushed.

    It is the repository's card if there is one; else the card of the judge's source, if that is a judge's, under the
    new name; else a short one with the snippet that loads the judge.

    Args:
        model ([`~transformers.PreTrainedModel`]): The judge.
        folder (`str` or path): What is pushed.
        repo_id (`str`): The repository.
        has_meta_rm, has_code (`bool`, *optional*): Whether a Meta RM and the code are pushed as well.
        tags (sequence of `str`, *optional*): To add.
        token, revision (`str`, *optional*): Of the repository.
    """
    card = _card_there(repo_id, token, revision)
    if card is None:
        home = (getattr(model, "judge_repository", None) or (model.config._name_or_path,))[0]
        source = read_model_card(home, token) if home else None
        if source is not None and TAG in (source.data.get("tags") or ()):
            card = _inherited(source, home, folder, repo_id, has_meta_rm, token)
        else:
            card = _new_card(model, source, home, repo_id, has_meta_rm, has_code)
    old = card.data.get("tags") or []
    card.data["tags"] = [*old, *(tag for tag in tags if tag not in old)]
    card.save(Path(folder, "README.md"))


def read_model_card(home: str, token: str | None = None) -> ModelCard | None:
    """The card of a folder or of a repository; `None` if there is none, or if it cannot be read now."""
    place = Path(home, "README.md") if os.path.isdir(home) else home
    if isinstance(place, Path) and not place.is_file():
        return None
    try:
        return ModelCard.load(place, token=token)
    except (HTTPError, OSError, ValueError, YAMLError) as error:
        logger.info("The card of %s cannot be read: %s", home, error)
        return None


def rename_in_card(text: str, repo_id: str) -> str:
    """A card whose snippets name another repository of the judge or the Meta RM."""
    named = re.search(r'pipeline\("grm-reward", model="([^"]+)"(?:, meta_rm="([^"]+)")?', text)
    if named is None:
        return text
    old = re.escape(named[2] or named[1])
    return re.sub(rf'(["= ]){old}(?=["\n])', lambda match: match[1] + repo_id, text)


def _card_there(repo_id: str, token: str | None, revision: str | None) -> ModelCard | None:
    try:
        return ModelCard.load(hf_hub_download(repo_id, "README.md", token=token, revision=revision))
    except EntryNotFoundError:
        return None


def _inherited(
    card: ModelCard, home: str, folder: str | os.PathLike, repo_id: str, has_meta_rm: bool, token: str | None
) -> ModelCard:
    """The card of the judge's source under the new name, with its figures."""
    card.text = rename_in_card(card.text, repo_id)
    if has_meta_rm and "`meta_rm`" not in card.text:
        card.text = card.text.replace("\nsays why.", f"\nsays why. {META_RM_SENTENCE}", 1)
    for figure in sorted(set(re.findall(r"\]\((scaling[^/)]*\.png)\)", card.text))):
        path = Path(home, figure) if os.path.isdir(home) else Path(hf_hub_download(home, figure, token=token))
        if path.is_file():
            shutil.copy(path, Path(folder, figure))
    return card


def _new_card(
    model: PreTrainedModel, source: ModelCard | None, home: str, repo_id: str, has_meta_rm: bool, has_code: bool
) -> ModelCard:
    base = home if home and not os.path.isdir(home) and _is_repo_id(home) else None
    terms = {} if source is None else source.data.to_dict()
    license = {key: terms[key] for key in ("license", "license_name", "license_link") if terms.get(key)}
    data = ModelCardData(
        base_model=base,
        library_name="transformers",
        tags=[TAG, "spct", "trl"],
        pipeline_tag="text-generation",
        **license,
    )
    more = [META_RM_SENTENCE] if has_meta_rm else []
    if has_code:
        more.append("Without trl_spct installed, leave its import out and pass `trust_remote_code=True`.")
    text = _TEXT.format(
        name=repo_id.rsplit("/", 1)[-1],
        base=f"[{base}](https://huggingface.co/{base})" if base else "a model",
        repo_id=repo_id,
        template=described(model.config).get("template", "paper"),
        more="".join(f" {sentence}" for sentence in more),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
