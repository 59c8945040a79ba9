# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Model and dataset cards from the templates in `model_cards/`."""

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from peft import PeftModel

from .jobs import SHARDS
from .judge.hub import (
    LEFT_OUT,
    PushError,
    keep_private,
    model_push_command,
    push_command,
    push_folder,
    pushing,
    upload,
)
from .judge.judge_card import META_RM_SENTENCE, read_model_card, rename_in_card
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

PAPER_VALUES: dict[str, dict[str, tuple[tuple | None, str]]] = {
    "RFT": {
        "learning_rate": ((5e-6,), "5e-6 [P]"),
        "batch size": ((1024,), "1024 [P]"),
        "steps": ((900,), "900 [P]"),
        "num_generations": ((3,), "3 [P]"),
        "temperature": (None, "not stated [?]"),
        "max_completion_length": (None, "not stated [?]"),
    },
    "SPCT": {
        "learning_rate": ((4e-7,), "4e-7 [P]"),
        "batch size": ((512,), "512 [P]"),
        "steps": ((900,), "900 [P]"),
        "num_generations": ((4,), "4 [P]"),
        "beta": ((0.08, 0.002), "0.08 for 27B, 0.002 for 16B [P]"),
        "loss_type": (("grpo",), "original GRPO [P]"),
        "scale_rewards": (("group",), "by the group [P]"),
        "epsilon": (None, "not stated [?]"),
        "temperature": (None, "not stated [?]"),
        "max_completion_length": (None, "not stated [?]"),
    },
    "Meta RM": {
        "learning_rate": ((1e-5,), "1e-5 [P]"),
        "batch size": ((512,), "512 [P]"),
        "steps": (None, "not stated [?]"),
        "max_length": (None, "not stated [?]"),
    },
}
"""For each trainer's arguments, the values that the paper states (sections 4 to 6 of the method) and their text on a
card; `None` where it states no value."""


@dataclass(frozen=True)
class Base:
    """The base of a model, from the base's card.

    Args:
        name (`str`, *optional*): Name on a card; never a path on this machine.
        repo_id (`str`, *optional*): The nearest ancestor on the Hub.
        license (`dict[str, Any]`): `license`, `license_name` and `license_link` of the ancestor's card.
    """

    name: str | None = None
    repo_id: str | None = None
    license: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str | None, token: str | None = None) -> "Base":
        """From a path or an id. Fields that cannot be read are empty."""
        if not name:
            return cls()
        is_local = os.path.isdir(name) or not is_repo_id(name)
        card = read_model_card(name, token)
        data = {} if card is None else card.data.to_dict()
        ancestor = data.get("base_model")
        known = isinstance(ancestor, str) and is_repo_id(ancestor)
        repo_id = name if not is_local else ancestor if known else None
        license = {key: data[key] for key in ("license", "license_name", "license_link") if data.get(key)}
        return cls(Path(name).resolve().name if is_local else name, repo_id, license)

    @property
    def terms(self) -> str:
        """The license in a sentence."""
        if self.name is None:
            return "none is known; the model was made in memory."
        if "license" not in self.license:
            return (
                f"that of {self.name} applies. It could not be read when this card was written, so look it up there."
            )
        stated = self.license["license"]
        shown = self.license.get("license_name") or (stated if isinstance(stated, str) else ", ".join(stated))
        link = self.license.get("license_link")
        return f"{f'[{shown}]({link})' if link else f'`{shown}`'}, as that of {self.name}."


def is_repo_id(name: str) -> bool:
    """Whether a name is a valid id of a Hub repository; the Hub refuses cards with other names."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


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
        """Pushes the output folder as [`~transformers.Trainer.push_to_hub`] does, without trajectories, rows,
        judgments and pickled arguments, which a `.gitignore` in the folder lists.

        Raises:
            [`~trl_spct.judge.hub.PushError`]: if it fails, saying how to push again.
        """
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
        """Writes `README.md` into the output folder.

        Args:
            model_name (`str`, *optional*): Title; the output folder's name by default.
            dataset_name (`str`, *optional*): What it was trained on.
            tags (`str` or `list[str]`, *optional*): In addition to the trainer's own.
        """
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
            template=getattr(self.args, "template", ""),
            facts=self.card_facts(),
            results=self.card_results(),
            arguments=_arguments(self),
            versions={name: version(name) for name in ("trl-spct", "trl", "transformers", "torch", "datasets")},
        )
        card.save(folder / "README.md")

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
    """A model card from a template of `model_cards/`.

    Args:
        kind (`str`): `"judge.md"` or `"meta_rm.md"`.
        name, repository (`str`): The card's title, and the id or path to load the model from.
        base ([`Base`]): The model's base.
        is_adapter (`bool`): Whether the repository holds an adapter.
        tags (iterable of `str`): Tags of the Hub's search.
        datasets (`str`, *optional*): Hub id of the training data.
        **facts: Further variables of the template.
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
    """Pushes the folder of a judge or a Meta RM with its card, whose snippets then name the repository.

    Trajectories, rows, judgments, checkpoints and pickled arguments of the run are not pushed.

    Args:
        folder (`str` or path): Output folder of a trainer.
        repo_id (`str`): The repository, created if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private; by default as the account has it.
        token (`str`, *optional*): Token; by default that of `hf auth login`.

    Returns:
        `str`: address of the commit.

    Raises:
        [`~trl_spct.judge.hub.PushError`]: if it fails, saying how to push again.
    """
    path = Path(folder, "README.md")

    def rename(full_id: str) -> None:
        if path.is_file():
            path.write_text(rename_in_card(path.read_text(encoding="utf-8"), full_id), encoding="utf-8")

    keep_private(folder)
    again = push_command(repo_id, folder, exclude=LEFT_OUT, private=private)
    with pushing(repo_id, f"{os.path.abspath(folder)} holds it all", again):
        return upload(folder, repo_id, "model", "Upload", private, token, rename, ignore_patterns=list(LEFT_OUT))


def dataset_card(template: str, data: DatasetCardData, **facts: Any) -> DatasetCard:
    """A dataset card from a template of `model_cards/`.

    Args:
        template (`str`): File in `model_cards/`.
        data ([`~huggingface_hub.DatasetCardData`]): Metadata of the card.
        **facts: Variables of the template, beside those of the paper.
    """
    return DatasetCard.from_template(data, template_path=str(template_path(template)), **_OF_PAPER, **facts)


def write_trajectories_card(
    folder: Path,
    report: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    versions: Mapping[str, str] | None = None,
) -> None:
    """Writes the card of a folder of trajectories, with which `load_dataset(folder)` reads the parquet files alone.

    Args:
        folder (`Path`): Folder of the trajectories.
        report (mapping): Of [`~trl_spct.trainers.rejection_report.rejection_report`].
        groups (mapping): Of [`~trl_spct.trainers.rejection_report.trajectory_groups`].
        settings (mapping): Settings of the sampling.
        versions (mapping, *optional*): Package versions of the sampling.
    """
    sampler = settings["sampler"]
    sampler = Path(sampler).name if os.path.isdir(sampler) else sampler
    card = dataset_card(
        "trajectories.md",
        DatasetCardData(
            tags=["trl", "spct", "generative-reward-model"],
            size_categories=_size_category(report["trajectories"]),
            configs=[{"config_name": "default", "data_files": SHARDS}],
        ),
        report=report,
        groups=groups,
        settings=json.dumps({**settings, "sampler": sampler}, indent=2, ensure_ascii=False),
        versions=versions or {},
        sampler=sampler,
        repository=folder.name,
    )
    card.save(folder / "README.md")


def push_trajectories(
    folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes a folder of trajectories to the Hub: the shards, the card and the report.

    The manifest, which may hold paths on this machine, is not pushed; the card holds its settings.

    Args:
        folder (`str` or path): Output folder of [`~trl_spct.RejectiveSampler.collect`].
        repo_id (`str`): The dataset repository, created if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private; by default as the account has it.
        token (`str`, *optional*): Token; by default that of `hf auth login`.

    Returns:
        `str`: address of the commit.

    Raises:
        [`~trl_spct.judge.hub.PushError`]: if it fails, saying how to push again.
    """
    names = [SHARDS, "README.md", "rejection.json"]
    before = naming(folder)
    return push_folder(folder, repo_id, "dataset", "Upload trajectories", names, private, token, before)


def naming(folder: str | os.PathLike) -> Callable[[str], None]:
    """A function that writes the id of a dataset's repository into the snippets of the folder's card."""

    def write(repo_id: str) -> None:
        path = Path(folder, "README.md")
        text = path.read_text(encoding="utf-8")
        named = re.sub(r'(load_dataset\()"[^"]*"', lambda found: f'{found[1]}"{repo_id}"', text)
        path.write_text(re.sub(r"(--trajectories )[^\s`]+", rf"\g<1>{repo_id}", named), encoding="utf-8")

    return write


def _size_category(rows: int) -> str:
    """The Hub's category of a number of rows."""
    bounds = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7}
    return next((name for name, bound in bounds.items() if rows < bound), "10M<n<100M")


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
