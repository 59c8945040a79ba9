# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Model and dataset cards from the templates in `model_cards/`."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData
from peft import PeftModel

from .hub import PushError, keep_private, model_push_command, push_folder, pushing
from .rejection_report import trajectory_groups
from .repositories import describe_adapter, described
from .shards import SHARDS


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
"""The paper that the trainers implement, in the form that TRL's model cards print."""

PAPER_VALUES = {
    "RFT": {"learning_rate": "5e-6", "batch size": "1024", "steps": "900", "num_generations": "3"},
    "SPCT": {
        "learning_rate": "4e-7",
        "batch size": "512",
        "steps": "900",
        "num_generations": "4",
        "beta": "0.08 (27B)",
        "loss_type": "original GRPO",
    },
    "Meta RM": {"learning_rate": "1e-5", "batch size": "512", "steps": "not stated"},
}
"""Training arguments that the paper states (arXiv 2504.02495, sections 4 to 6 of the method)."""


class JudgeCards:
    """Mixin for trainers: cards from our templates, through TRL's own hook [`~trl.GRPOTrainer.create_model_card`],
    beside an adapter, which has no config, what a pipeline must know about the judge, and pushes that lose nothing.

    `push_errors` holds the [`~trl_spct.hub.PushError`]s that did not stop the run.
    """

    _card_template = "judge.md"
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
        """As for [`~transformers.Trainer.push_to_hub`]: the output folder, without what is the run's own business
        (trajectories, rows, judgments, the pickled arguments). A `.gitignore` in the folder says what stays here.

        Raises:
            [`~trl_spct.hub.PushError`]: if it fails, saying how to push again.
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
            raise error.__cause__ from None  # it is not the Hub that failed

    @contextmanager
    def tolerating_push_errors(self) -> Iterator[None]:
        """A failing push of what comes beside the model is logged and kept in `push_errors`; the run goes on."""
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
        folder = Path(self.args.output_dir)
        base = self.model.config._name_or_path or None
        on_hub = base if base and not os.path.isdir(base) else None
        is_adapter = isinstance(self.model, PeftModel)
        is_local = dataset_name is not None and (os.path.exists(dataset_name) or "*" in dataset_name)
        tags = [tags] if isinstance(tags, str) else list(tags or [])
        card = ModelCard.from_template(
            ModelCardData(
                base_model=on_hub,
                datasets=None if is_local else dataset_name,
                library_name="peft" if is_adapter else "transformers",
                pipeline_tag="text-generation" if self._card_template == "judge.md" else "text-classification",
                tags=sorted({"generated_from_trainer", *self._tag_names, *tags}),
            ),
            template_path=str(template_path(self._card_template)),
            model_name=model_name or folder.name,
            repository=self.hub_model_id or self.args.hub_model_id or folder.name,
            judge="path/to/the/judge",
            base_model=on_hub or (Path(base).name if base else None),
            dataset_name=Path(dataset_name).name if is_local else dataset_name,
            is_adapter=is_adapter,
            method=self._name,
            template=getattr(self.args, "template", ""),
            facts=self.card_facts(),
            arguments=_arguments(self),
            versions={name: version(name) for name in ("trl-spct", "trl", "transformers", "torch", "datasets")},
            paper_title=PAPER["title"],
            paper_id=PAPER["id"],
            citation=PAPER["citation"],
        )
        card.save(folder / "README.md")

    def card_facts(self) -> dict[str, Any]:
        """What the card says of the data."""
        return {"rows": len(self.train_dataset)} if hasattr(self.train_dataset, "__len__") else {}


def write_trajectories_card(
    folder: Path, report: Mapping[str, Any], settings: Mapping[str, Any], versions: Mapping[str, str] | None = None
) -> None:
    """The card of a folder of trajectories; it tells `load_dataset(folder)` to read the parquet files alone.

    Args:
        folder (`Path`): Where the trajectories are.
        report (mapping): Of [`~trl_spct.rejection_report.rejection_report`]. Its figure is `rejection.png`.
        settings (mapping): How they were sampled.
        versions (mapping, *optional*): Of the packages that sampled them.
    """
    sampler = settings["sampler"]
    sampler = Path(sampler).name if os.path.isdir(sampler) else sampler
    card = DatasetCard.from_template(
        DatasetCardData(
            tags=["trl", "spct", "generative-reward-model"],
            size_categories=_size_category(report["trajectories"]),
            configs=[{"config_name": "default", "data_files": SHARDS}],
        ),
        template_path=str(template_path("trajectories.md")),
        report=report,
        groups=trajectory_groups(report),
        settings=json.dumps({**settings, "sampler": sampler}, indent=2, ensure_ascii=False),
        versions=versions or {},
        sampler=sampler,
        paper_title=PAPER["title"],
        paper_id=PAPER["id"],
    )
    card.save(folder / "README.md")


def push_trajectories(
    folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes a folder of trajectories to the Hub: the shards, the card, and the report with its figure.

    The manifest, which may name places on this machine, stays here; the card says what it says.

    Args:
        folder (`str` or path): What [`~trl_spct.RejectiveSampler.collect`] wrote, or a user edited the card of.
        repo_id (`str`): Of a dataset repository, which is created if it is not there.
        private (`bool`, *optional*): Whether a new repository is private; as the organization has it by default.
        token (`str`, *optional*): The one that is logged in with by default.

    Returns:
        `str`: address of the commit.

    Raises:
        [`~trl_spct.hub.PushError`]: if it fails, saying how to push again.
    """
    names = [SHARDS, "README.md", "rejection.json", "rejection.png"]
    return push_folder(folder, repo_id, "dataset", "Upload trajectories", names, private, token)


def _size_category(rows: int) -> str:
    """As the Hub counts rows."""
    bounds = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7}
    return next((name for name, bound in bounds.items() if rows < bound), "10M<n<100M")


def template_path(name: str) -> Path:
    """A card template: beside the installed modules, or beside the package in a checkout."""
    package = Path(__file__).parent
    folders = (package / "model_cards", package.parent / "model_cards")
    return next(folder / name for folder in folders if (folder / name).exists())


def _arguments(trainer: Any) -> list[tuple[str, Any, str]]:
    args = trainer.args
    here = {
        "batch size": args.per_device_train_batch_size
        * args.gradient_accumulation_steps
        * trainer.accelerator.num_processes,
        "steps": trainer.state.global_step,
    }
    stated = PAPER_VALUES.get(trainer._name, {})
    return [(name, here.get(name, getattr(args, name, "")), paper) for name, paper in stated.items()]
