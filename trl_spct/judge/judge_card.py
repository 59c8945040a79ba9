# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Model card of a judge that a pipeline pushes."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from transformers import PreTrainedModel
from yaml import YAMLError

from .hub import CARD, is_repo_id, renamed
from .prompts import template_name
from .repositories import described


logger = logging.getLogger(__name__)

TAG = "generative-reward-model"
_META_RM_SENTENCE = "The folder `meta_rm` holds a Meta RM, which guides the vote."

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
    model,
    folder: str | os.PathLike,
    repo_id: str,
    has_meta_rm=False,
    has_code=False,
    tags=(),
    token=None,
    revision=None,
) -> None:
    """Writes the card of a judge into a folder that is pushed.

    It is the repository's card if there is one; else the card of the judge's source, if that is a judge's, under the
    new name; else a short one with the snippet that loads the judge.
    """
    try:
        card = ModelCard.load(hf_hub_download(repo_id, CARD, token=token, revision=revision))
    except EntryNotFoundError:
        home = (getattr(model, "judge_repository", None) or (model.config._name_or_path,))[0]
        source = read_model_card(home, token) if home else None
        if source is not None and TAG in (source.data.get("tags") or ()):
            card = source
            card.text = renamed(card.text, repo_id)
            if has_meta_rm and "`meta_rm`" not in card.text:
                card.text = card.text.replace("\nsays why.", f"\nsays why. {_META_RM_SENTENCE}", 1)
            figures = "scaling*.png"
            local = home if os.path.isdir(home) else snapshot_download(home, token=token, allow_patterns=figures)
            for path in Path(local).glob(figures):
                shutil.copy(path, folder)
        else:
            card = _new_card(model, source, home, repo_id, has_meta_rm, has_code)
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


def license_of(card: ModelCard | None) -> dict[str, Any]:
    """`license`, `license_name` and `license_link` of a card's metadata."""
    data = {} if card is None else card.data.to_dict()
    return {key: data[key] for key in ("license", "license_name", "license_link") if data.get(key)}


def _new_card(
    model: PreTrainedModel, source: ModelCard | None, home: str, repo_id: str, has_meta_rm: bool, has_code: bool
) -> ModelCard:
    base = home if home and not os.path.isdir(home) and is_repo_id(home) else None
    data = ModelCardData(
        base_model=base,
        library_name="transformers",
        tags=[TAG, "spct", "trl"],
        pipeline_tag="text-generation",
        **license_of(source),
    )
    without_package = " Without trl_spct installed, leave its import out and pass `trust_remote_code=True`."
    text = _TEXT.format(
        name=repo_id.rsplit("/", 1)[-1],
        base=f"[{base}](https://huggingface.co/{base})" if base else "a model",
        repo_id=repo_id,
        template=template_name(described(model.config).get("template", "paper")),
        more=(f" {_META_RM_SENTENCE}" if has_meta_rm else "") + (without_package if has_code else ""),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")
