# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Model and dataset cards from the templates in `model_cards/`."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData
from peft import PeftModel

from . import packaged
from .jobs import SHARDS
from .judge.hub import PushError, base_of, is_repo_id, keep_private, model_push_command, push_folder, pushing
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

PAPER_VALUES: dict[str, Any] = {
    "RFT": {"learning_rate": [5e-6], "batch size": [1024], "steps": [900], "num_generations": [3]}
    | dict.fromkeys(("temperature", "max_completion_length"), []),
    "SPCT": {"learning_rate": [4e-7], "batch size": [512], "steps": [900], "num_generations": [4]}
    | {"beta": [0.08, 0.002], "loss_type": ["grpo"], "scale_rewards": ["group"]}
    | dict.fromkeys(("epsilon", "temperature", "max_completion_length"), []),
    "Meta RM": {"learning_rate": [1e-5], "batch size": [512]} | dict.fromkeys(("steps", "max_length"), []),
}
"""The values of each trainer's arguments in the paper (sections 4 to 6 of the method), that of 27B before 16B."""


class JudgeCards(_Trainer):
    """Mixin for trainers: model cards through TRL's hook [`~trl.GRPOTrainer.create_model_card`], the description of
    the judge beside an adapter, which has no config, and pushes whose errors say how to push again. `push_errors` are
    those that did not stop the run.
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
        """As [`~transformers.Trainer.push_to_hub`], without what [`~trl_spct.judge.hub.keep_private`] lists. A
        [`~trl_spct.judge.hub.PushError`] says how to push again."""
        repo_id = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).name
        folder = os.path.abspath(self.args.output_dir)
        self._is_saved = False
        try:
            with pushing(repo_id, f"{folder} holds it all", model_push_command(repo_id, self.args)):
                return super().push_to_hub(*args, **kwargs)
        except PushError as error:
            if error.__cause__ is not None and not self._is_saved:
                raise error.__cause__ from None  # saving failed, not the push
            raise

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
        is_adapter = isinstance(self.model, PeftModel)
        tags = [tags] if isinstance(tags, str) else tags or []
        base_name, base_id, license = self._base
        data = ModelCardData(
            base_model=base_id,
            datasets=None if is_local else dataset_name,
            library_name="peft" if is_adapter else "transformers",
            pipeline_tag="text-generation" if self._card_template == "judge.md" else "text-classification",
            tags=sorted({"generated_from_trainer", *self._tag_names, *tags}),
            **license,
        )
        card = ModelCard.from_template(
            data,
            template_path=str(packaged("model_cards") / self._card_template),
            model_name=model_name or folder.name,
            repository=self.hub_model_id or self.args.hub_model_id or folder.name,
            base_model=base_name,
            is_adapter=is_adapter,
            dataset_name=Path(dataset_name).name if dataset_name and is_local else dataset_name,
            method=self._name,
            template=template_name(getattr(self.args, "template", None) or ""),
            facts=self.card_facts(),
            results=self.card_results(),
            arguments=_arguments(self),
            versions=_versions(),
            paper=PAPER,
        )
        card.save(folder / "README.md")

    @cached_property
    def _base(self) -> tuple[str | None, str | None, dict[str, Any]]:
        # Read once: TRL's trainers write a card with each checkpoint.
        return base_of(self.model.config._name_or_path, self.args.hub_token)

    def card_facts(self) -> dict[str, Any]:
        """Facts on the training data, by name."""
        return {"rows": len(self.train_dataset)} if hasattr(self.train_dataset, "__len__") else {}

    def card_results(self) -> dict[str, str]:
        """Results on rows that were not trained on, by name."""
        return {}


def dataset_card(template: str, data: DatasetCardData, **facts: Any) -> DatasetCard:
    """A dataset card from a template of `model_cards/`, with `facts` and the paper as its variables."""
    path = packaged("model_cards") / template
    return DatasetCard.from_template(data, template_path=str(path), paper=PAPER, **facts)


def write_trajectories_card(folder: Path, report: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes the card of a folder of trajectories, with which `load_dataset(folder)` reads the parquet files alone.

    `report` is made by `trl_spct.trainers.rejection_report`, `settings` are those of the sampling.
    """
    sampler = settings["sampler"]
    sampler = Path(sampler).name if os.path.isdir(sampler) else sampler
    configs = [{"config_name": "default", "data_files": SHARDS}]
    card = dataset_card(
        "trajectories.md",
        DatasetCardData(tags=["trl", "spct", "generative-reward-model"], configs=configs),
        report=report,
        settings=json.dumps({**settings, "sampler": sampler}, indent=2, ensure_ascii=False),
        versions=_versions(),
        sampler=sampler,
        repository=folder.name,
    )
    card.save(folder / "README.md")


def push_trajectories(
    folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes a folder of trajectories, see [`~trl_spct.judge.hub.push_folder`], without its manifest, which may hold
    paths on this machine; the card holds its settings."""
    names = [SHARDS, "README.md", "rejection.json"]
    return push_folder(folder, repo_id, "dataset", "Upload trajectories", names, private, token)


def _arguments(trainer: Any) -> list[dict[str, Any]]:
    args = trainer.args
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * trainer.accelerator.num_processes
    counts = {"batch size": batch, "steps": trainer.state.global_step}
    rows = []
    for name, values in PAPER_VALUES.get(trainer._name, {}).items():
        here = counts.get(name, getattr(args, name, None))
        paper = f"{' or '.join(map(str, values))} [P]" if values else "not stated [?]"
        rows.append({"name": name, "here": here, "paper": paper, "differs": bool(values) and here not in values})
    return rows


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("trl-spct", "trl", "transformers", "torch", "datasets")}
