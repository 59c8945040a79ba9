# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Stage 2 of SPCT: rule-based online RL of the judge itself (paper, section 5)."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .cards import PAPER, JudgeCards
from .critiques import PROBLEMS
from .data import score_range_of
from .grouped_grpo import GroupedGRPOTrainer
from .judges import check_arguments, load_adapter, load_config, load_tokenizer, name_template, rows_for
from .outcomes import is_correct, outcome_reward
from .sampling import TRUNCATED, Sample, keep_trainable, read_sample
from .spct_config import SPCTConfig


class SPCTTrainer(JudgeCards, GroupedGRPOTrainer):
    """
    Trainer for the rule-based reinforcement learning of Self-Principled Critique Tuning (SPCT).

    It is [`~trl.GRPOTrainer`] with three things set: preference rows become judge prompts, the reward is +1 if the
    critique's scores put the labeled best strictly first (for a single response: equal its label) and −1 otherwise
    (Eq. 11 of the paper), and [`SPCTConfig`] asks for the original GRPO.

    ```python
    >>> from trl_spct import SPCTConfig, SPCTTrainer

    >>> trainer = SPCTTrainer(
    ...     model="judge-rft",
    ...     args=SPCTConfig(output_dir="judge-spct"),
    ...     train_dataset=load_dataset("trl-lib/ultrafeedback_binarized", split="train"),
    ... )
    >>> trainer.train()
    ```

    With full fine-tuning the KL reference is loaded again from where the model came from: hand a judge over by its
    saved path. A `PeftModel`, or an adapter's path, gets a frozen copy of its adapter as reference.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or `PeftModel`):
            The judge, best one that rejective fine-tuning has started. The path or id of an adapter continues it.
        reward_funcs (reward function or list of them, *optional*):
            Rewards to add to the outcome reward, see [`~trl.GRPOTrainer`]. `reward_weights` of the configuration, and
            `reward_processing_classes` if given as a list, begin with the outcome reward's (`1.0` and `None`).
        args ([`SPCTConfig`], *optional*):
            Configuration.
        train_dataset, eval_dataset ([`~datasets.Dataset`] or `dict` of them, *optional* for evaluation):
            Preference rows in any shape that [`~trl_spct.Preference.from_row`] reads. Columns that are not part of a
            preference are passed to the reward functions.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer with a chat template and a pad token. Loaded from the model's path by default.
        **kwargs: Passed to [`~trl.GRPOTrainer`].
    """

    _tag_names = ["trl", "spct", "grpo", "generative-reward-model"]
    _name = "SPCT"
    _paper = PAPER

    def __init__(
        self,
        model: "str | PreTrainedModel",
        reward_funcs: Callable | list[Callable] | None = None,
        args: SPCTConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs,
    ):
        config = load_config(model, args)
        if args is None:
            args = SPCTConfig(f"{config._name_or_path.split('/')[-1]}-SPCT")
        check_arguments(args, SPCTConfig)
        if args.beta != 0 and kwargs.get("peft_config") is None:
            _check_reference(model)
        processing_class = processing_class or load_tokenizer(model, config, args)

        def rows(dataset, name):
            return rows_for(dataset, processing_class, args, config, name)

        if train_dataset is not None:
            train_dataset = rows(train_dataset, "train_dataset")
        if isinstance(eval_dataset, dict):
            eval_dataset = {key: rows(dataset, f"eval_dataset[{key!r}]") for key, dataset in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = rows(eval_dataset, "eval_dataset")
        if reward_funcs is None:
            reward_funcs = []
        extra = list(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else [reward_funcs]
        self.outcome = OutcomeReward(args.template)
        self._evaluated = ""
        super().__init__(
            model=load_adapter(model, args, kwargs),
            reward_funcs=[self.outcome, *extra],
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.outcome.end_tokens = frozenset(self.eos_token_ids)
        keep_trainable(self.model)
        name_template(self.model.config, args.template)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluates as [`~trl.GRPOTrainer`] does, and names the metrics of each of several sets after it."""
        self._evaluated = metric_key_prefix.removeprefix("eval").removeprefix("_")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # TRL logs the metrics of all evaluation sets as `eval_…`, where the last one overwrites the others.
        if not self.model.training and self._evaluated:
            metrics = self._metrics["eval"]
            renamed = {f"{self._evaluated}_{name}": values for name, values in metrics.items()}
            metrics.clear()
            metrics.update(renamed)
        super().log(logs, start_time)


def _check_reference(model: "str | PreTrainedModel") -> None:
    """With full fine-tuning TRL loads the KL reference again, from the path in the configuration."""
    if isinstance(model, PreTrainedModel) and not model.config._name_or_path:
        raise ValueError(
            "Found a model that was made in memory, with beta != 0; expected one with a path, from which the KL "
            "reference is loaded. Save it and pass its path, pass a `peft_config`, or set `beta=0`."
        )


class OutcomeReward:
    """The outcome reward as TRL calls reward functions: lists in, one number per completion out.

    Logs `spct/accuracy`, `spct/tie`, `spct/unreadable`, one `spct/unreadable_{problem}` per problem that occurs, and
    `spct/margin` (the best response's score minus the highest other one, over readable critiques with n ≥ 2); the
    completions table gets the columns `scores`, `labels` and `order`.

    Args:
        template (`str`): Prompt template of the judge; it says which scores are in range.
        end_tokens (set of `int`, *optional*): A completion that ends on none of them was truncated, and is worth −1.
    """

    __name__ = "outcome_reward"

    def __init__(self, template: str = "paper", end_tokens: frozenset[int] = frozenset()):
        self.template = template
        self.end_tokens = end_tokens

    def __call__(
        self,
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        labels: Sequence[Sequence[float]],
        order: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list], None] | None = None,
        **kwargs,
    ) -> list[float]:
        critiques = [
            self._read(completion, ids, len(row))
            for completion, ids, row in zip(completions, completion_ids, labels, strict=True)
        ]
        scores = [critique.scores for critique in critiques]
        if log_metric is not None:
            for name, value in outcome_metrics(critiques, labels).items():
                log_metric(f"spct/{name}", value)
        if log_extra is not None:
            log_extra("scores", [None if row is None else list(row) for row in scores])
            log_extra("labels", [list(row) for row in labels])
            if order is not None:
                log_extra("order", [list(row) for row in order])
        return [outcome_reward(row, truth) for row, truth in zip(scores, labels, strict=True)]

    def _read(self, completion: Any, ids: Sequence[int], count: int):
        text = completion if isinstance(completion, str) else completion[-1].get("content") or ""
        truncated = bool(self.end_tokens) and (not ids or ids[-1] not in self.end_tokens)
        return read_sample(Sample(text, len(ids), truncated), count, score_range_of(count, self.template))


def outcome_metrics(critiques: Sequence[Any], labels: Sequence[Sequence[float]]) -> dict[str, float]:
    """Shares and means over a batch of critiques; see [`OutcomeReward`]."""
    total = len(critiques)
    problems = Counter(critique.problem for critique in critiques if critique.problem)
    margins = [
        _margin(critique.scores, row)
        for critique, row in zip(critiques, labels, strict=True)
        if critique.scores is not None and len(row) > 1
    ]
    metrics = {
        "accuracy": sum(is_correct(c.scores, row) for c, row in zip(critiques, labels, strict=True)) / total,
        "unreadable": sum(problems.values()) / total,
        "tie": sum(margin == 0 for margin in margins) / total,
    }
    for problem in (*PROBLEMS, TRUNCATED):
        metrics[f"unreadable_{problem}"] = problems[problem] / total
    if margins:
        metrics["margin"] = sum(margins) / len(margins)
    return metrics


def _margin(scores: Sequence[float], labels: Sequence[float]) -> float:
    """How far the labeled best lies above the best of the others; negative if below."""
    best = max(range(len(labels)), key=labels.__getitem__)
    return scores[best] - max(score for i, score in enumerate(scores) if i != best)
