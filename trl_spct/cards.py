# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Model and dataset cards from the templates in `model_cards/`."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData
from peft import PeftModel

from .jobs import SHARDS
from .judge.hub import CARD, LEFT_OUT, PushError, is_repo_id, keep_private, model_push_command, push_folder, pushing
from .judge.judge_card import META_RM_SENTENCE, license_of, read_model_card
from .judge.prompts import template_name
from .judge.repositories import describe_adapter, described


if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object

logger = logging.getLogger(__name__)

PAPER = {
    "title": "Inference-Time Scaling for Generalist Reward Modeling",
    "id": "2504.02495",
    # docstyle-ignore
    "citation": """\
@article{liu2025inferencetime,
    title        = {{Inference-Time Scaling for Generalist Reward Modeling}},
    author       = {Zijun Liu and Peiyi Wang and Runxin Xu and Shirong Ma and Chong Ruan and Peng Li and Yang Liu and
                    Yu Wu},
    year         = 2025,
    eprint       = {arXiv:2504.02495},
}""",
}
"""The paper that the trainers implement, in the form of TRL's model cards."""

_OF_PAPER = {"paper_title": PAPER["title"], "paper_id": PAPER["id"], "citation": PAPER["citation"]}

_UNSTATED = (None, "not stated [?]")

PAPER_VALUES: dict[str, dict[str, tuple[tuple | None, str]]] = {
    "RFT": {
        "learning_rate": ((5e-6,), "5e-6 [P]"),
        "batch size": ((1024,), "1024 [P]"),
        "steps": ((900,), "900 [P]"),
        "num_generations": ((3,), "3 [P]"),
        **dict.fromkeys(("temperature", "max_completion_length"), _UNSTATED),
    },
    "SPCT": {
        "learning_rate": ((4e-7,), "4e-7 [P]"),
        "batch size": ((512,), "512 [P]"),
        "steps": ((900,), "900 [P]"),
        "num_generations": ((4,), "4 [P]"),
        "beta": ((0.08, 0.002), "0.08 for 27B, 0.002 for 16B [P]"),
        "loss_type": (("grpo",), "original GRPO [P]"),
        "scale_rewards": (("group",), "by the group [P]"),
        **dict.fromkeys(("epsilon", "temperature", "max_completion_length"), _UNSTATED),
    },
    "Meta RM": {
        "learning_rate": ((1e-5,), "1e-5 [P]"),
        "batch size": ((512,), "512 [P]"),
        **dict.fromkeys(("steps", "max_length"), _UNSTATED),
    },
}
"""For each trainer's arguments, the values that the paper states (sections 4 to 6 of the method) and their text on a
card; `None` where it states no value."""


@dataclass(frozen=True)
class Base:
    """The base of a model, from the base's card: its name, never a local path, the nearest ancestor on the Hub, and
    the license metadata."""

    name: str | None = None
    repo_id: str | None = None
    license: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str | None, token: str | None = None) -> "Base":
        """From a path or an id. Fields that cannot be read are empty."""
        if not name:
            return cls()
        card = read_model_card(name, token)
        if is_repo_id(name) and not os.path.isdir(name):
            return cls(name, name, license_of(card))
        ancestor = None if card is None else card.data.get("base_model")
        known = isinstance(ancestor, str) and is_repo_id(ancestor)
        return cls(Path(name).resolve().name, ancestor if known else None, license_of(card))

    @property
    def terms(self) -> str:
        """The license in a sentence."""
        if self.name is None:
            return "none is known; the model was made in memory."
        if "license" not in self.license:
            return f"that of {self.name}. It could not be read when this card was written."
        stated = self.license["license"]
        shown = self.license.get("license_name") or (stated if isinstance(stated, str) else ", ".join(stated))
        link = self.license.get("license_link")
        return f"{f'[{shown}]({link})' if link else f'`{shown}`'}, as that of {self.name}."


class JudgeCards(_Trainer):
    """Mixin for trainers: model cards through TRL's hook [`~trl.GRPOTrainer.create_model_card`], the description of
    the judge beside an adapter, which has no config, and pushes whose errors say how to push again.

    `push_errors` holds the [`~trl_spct.judge.hub.PushError`]s that did not stop the run.
    """

    _card_template = "judge.md"
    _name: str
    _tag_names: list[str]
    push_errors: tuple[PushError, ...] = ()
    _is_saved = False

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PeftModel) and self.args.should_save and described(model.config):
            describe_adapter(output_dir or self.args.output_dir, described(model.config))
        self._is_saved = True

    def init_hf_repo(self, *args, **kwargs) -> None:
        super().init_hf_repo(*args, **kwargs)
        if self.is_world_process_zero():
            keep_private(self.args.output_dir)

    def push_to_hub(self, *args, **kwargs):
        """[`~transformers.Trainer.push_to_hub`] without trajectories, rows, judgments and pickled arguments, which a
        `.gitignore` in the folder lists. A [`~trl_spct.judge.hub.PushError`] says how to push again."""
        repo_id = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).name
        folder = os.path.abspath(self.args.output_dir)
        self._is_saved = False
        try:
            with pushing(repo_id, f"{folder} holds it all", model_push_command(repo_id, self.args)):
                return super().push_to_hub(*args, **kwargs)
        except PushError as error:
            if self._is_saved:
                raise
            assert error.__cause__ is not None
            raise error.__cause__ from None  # saving failed, not the push

    @contextmanager
    def tolerating_push_errors(self) -> Iterator[None]:
        """Logs the error of a failing push and appends it to `push_errors`; the run continues."""
        try:
            yield
        except PushError as error:
            logger.error("%s", error)
            self.push_errors = (*self.push_errors, error)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes `README.md` into the output folder, with its name as the title by default and further tags."""
        if not self.is_world_process_zero():
            return
        assert self.args.output_dir is not None
        folder = Path(self.args.output_dir)
        is_local = dataset_name is not None and (os.path.exists(dataset_name) or not is_repo_id(dataset_name))
        tags = [tags] if isinstance(tags, str) else list(tags or [])
        card = render_card(
            self._card_template,
            name=model_name or folder.name,
            repository=self.hub_model_id or self.args.hub_model_id or folder.name,
            base=self._base,
            is_adapter=isinstance(self.model, PeftModel),
            tags={"generated_from_trainer", *self._tag_names, *tags},
            datasets=None if is_local else dataset_name,
            dataset_name=Path(dataset_name).name if dataset_name and is_local else dataset_name,
            method=self._name,
            template=template_name(getattr(self.args, "template", None) or ""),
            facts=self.card_facts(),
            results=self.card_results(),
            arguments=_arguments(self),
            versions=_versions(),
        )
        card.save(folder / CARD)

    @cached_property
    def _base(self) -> Base:
        """Read once: TRL's trainers write a card with each checkpoint."""
        return Base.read(self.model.config._name_or_path, self.args.hub_token)

    def card_facts(self) -> dict[str, Any]:
        """Facts on the training data, by name."""
        return {"rows": len(self.train_dataset)} if hasattr(self.train_dataset, "__len__") else {}

    def card_results(self) -> dict[str, str]:
        """Results on rows that were not trained on, by name."""
        return {}


def render_card(
    kind: str,
    name: str,
    repository: str,
    base: Base,
    is_adapter: bool,
    tags: Iterable[str],
    datasets: str | None = None,
    **facts: Any,
) -> ModelCard:
    """A model card from a template of `model_cards/`, `"judge.md"` or `"meta_rm.md"`.

    `repository` is the id or path that its snippets load, `datasets` the Hub id of the training data, and `facts` are
    further variables of the template.
    """
    return ModelCard.from_template(
        ModelCardData(
            base_model=base.repo_id,
            datasets=datasets,
            library_name="peft" if is_adapter else "transformers",
            pipeline_tag="text-generation" if kind == "judge.md" else "text-classification",
            tags=sorted(tags),
            **base.license,
        ),
        template_path=str(template_path(kind)),
        model_name=name,
        repository=repository,
        base_model=base.name,
        is_adapter=is_adapter,
        license=base.terms,
        meta_rm=META_RM_SENTENCE,
        **_OF_PAPER,
        **facts,
    )


def push_judge(folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Pushes the output folder of a trainer, a judge or a Meta RM with its card, see
    [`~trl_spct.judge.hub.push_folder`].

    Trajectories, rows, judgments, checkpoints and pickled arguments of the run are not pushed.
    """
    keep_private(folder)
    return push_folder(folder, repo_id, "model", private=private, token=token, exclude=LEFT_OUT)


def dataset_card(template: str, data: DatasetCardData, **facts: Any) -> DatasetCard:
    """A dataset card from a template of `model_cards/`, with `facts` and the paper as its variables."""
    return DatasetCard.from_template(data, template_path=str(template_path(template)), **_OF_PAPER, **facts)


def write_trajectories_card(folder: Path, report: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes the card of a folder of trajectories, with which `load_dataset(folder)` reads the parquet files alone.

    `report` is made by `trl_spct.trainers.rejection_report`, `settings` are those of the sampling.
    """
    sampler = settings["sampler"]
    sampler = Path(sampler).name if os.path.isdir(sampler) else sampler
    card = dataset_card(
        "trajectories.md",
        DatasetCardData(
            tags=["trl", "spct", "generative-reward-model"],
            configs=[{"config_name": "default", "data_files": SHARDS}],
        ),
        report=report,
        settings=json.dumps({**settings, "sampler": sampler}, indent=2, ensure_ascii=False),
        versions=_versions(),
        sampler=sampler,
        repository=folder.name,
    )
    card.save(folder / CARD)


def push_trajectories(
    folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes a folder of trajectories, see [`~trl_spct.judge.hub.push_folder`]: the shards, the card and the report.

    The manifest, which may hold paths on this machine, is not pushed; the card holds its settings.
    """
    names = [SHARDS, CARD, "rejection.json"]
    return push_folder(folder, repo_id, "dataset", "Upload trajectories", names, private, token)


def template_path(name: str) -> Path:
    """Path of a card template: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    folders = (package / "model_cards", package.parent / "model_cards")
    return next(folder / name for folder in folders if (folder / name).exists())


def _arguments(trainer: Any) -> list[dict[str, Any]]:
    args = trainer.args
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * trainer.accelerator.num_processes
    own = {"batch size": batch, "steps": trainer.state.global_step}
    rows = []
    for name, (values, paper) in PAPER_VALUES.get(trainer._name, {}).items():
        here = own.get(name, getattr(args, name, None))
        rows.append({"name": name, "here": here, "paper": paper, "differs": values is not None and here not in values})
    return rows


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("trl-spct", "trl", "transformers", "torch", "datasets")}
