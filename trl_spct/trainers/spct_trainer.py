# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Stage 2 of SPCT: rule-based online RL of the judge itself (paper, section 5)."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..cards import PAPER, JudgeCards
from ..data.preparation import preference_of, response_order
from ..jobs import locked
from ..judge.critiques import opens_draft
from ..judge.generation import keep_trainable
from ..judge.orders import derive_seed
from ..judge.outcomes import outcome_reward
from ..judge.prompts import judge_messages, judge_template
from ..judge.sampling import Sample, decode_completions, read_sample, special_tokens
from .filtering import without_easy_for
from .grouped_grpo import GroupedGRPOTrainer
from .loading import checked_arguments, each_set, load_adapter, load_tokenizer, rows_for, store_template, with_template
from .meta_reward import MetaReward
from .monitoring import CollapseAlarms, critique_metrics
from .spct_config import SPCTConfig
from .trl_internals import overrides_trl


class SPCTTrainer(JudgeCards, GroupedGRPOTrainer):
    """
    Trainer for the rule-based reinforcement learning of Self-Principled Critique Tuning (SPCT).

    It is [`~trl.GRPOTrainer`] on preference rows, with the original GRPO. The reward is +1 if the critique's scores
    put the labeled best strictly first (for a single response: equal its label), else −1 (Eq. 11 of the paper). With
    `meta_rm` in the configuration, correct critiques are worth what a Meta RM says of them, see
    [`~trl_spct.trainers.meta_reward.MetaReward`].

    ```python
    >>> from trl_spct import SPCTConfig, SPCTTrainer

    >>> trainer = SPCTTrainer(
    ...     model="judge-rft",
    ...     args=SPCTConfig(output_dir="judge-spct"),
    ...     train_dataset=load_dataset("trl-lib/ultrafeedback_binarized", split="train"),
    ... )
    >>> trainer.train()
    ```

    With full fine-tuning the KL reference is loaded again from the judge's path; an adapter gets a frozen copy of it.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or `PeftModel`):
            The judge, best one that rejective fine-tuning has started. The path or id of an adapter continues it.
        reward_funcs (reward function or list of them, *optional*):
            Rewards to add to the outcome reward, see [`~trl.GRPOTrainer`]. `reward_weights` of the configuration, and
            `reward_processing_classes` if given as a list, begin with the outcome reward's (`1.0` and `None`).
        args ([`SPCTConfig`], *optional*): Configuration.
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

    args: SPCTConfig
    model: Any
    num_generations: int

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
        given, config = checked_arguments(model, args, SPCTConfig, self._name, kwargs.get("peft_config"))
        args = with_template(given, config)
        assert args.template is not None
        in_memory = isinstance(model, PreTrainedModel) and not config._name_or_path
        if in_memory and args.beta != 0 and kwargs.get("peft_config") is None:
            raise ValueError(
                "Found a model that was made in memory, with beta != 0; expected one with a path, from which the KL "
                "reference is loaded. Save it and pass its path, pass a `peft_config`, or set `beta=0`."
            )
        processing_class = processing_class or load_tokenizer(model, config, args)

        def prepare(dataset: Dataset, name: str) -> Dataset:
            return rows_for(dataset, processing_class, args, config, name).dataset

        if args.easy_judge is not None:
            train_dataset = each_set(train_dataset, partial(without_easy_for, args=given), "train_dataset")
        train_dataset = each_set(train_dataset, prepare, "train_dataset")
        eval_dataset = each_set(eval_dataset, prepare)
        self._prepare_rows = prepare
        if not isinstance(reward_funcs, (list, tuple)):
            reward_funcs = [] if reward_funcs is None else [reward_funcs]
        self.outcome = OutcomeReward(args.template, processing_class, chat_template_kwargs=args.variables)
        self._evaluated = ""
        super().__init__(
            model=load_adapter(model, args, kwargs),
            reward_funcs=[self.outcome, *reward_funcs],
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.outcome.end_tokens, self.outcome.tokenizer = frozenset(self.eos_token_ids), self._tokenizer
        keep_trainable(self.model)
        store_template(self.model.config, args)
        if args.meta_rm is not None:
            place = (self.model.dtype, self.accelerator.device)
            self.outcome.meta = MetaReward(args.meta_rm, args.meta_reward, args.template, *place)
        self._special_tokens = special_tokens(self._tokenizer)
        self.add_callback(CollapseAlarms())

    def train(self, *args, **kwargs):
        with locked(self.args.output_dir, self.accelerator.process_index):
            return super().train(*args, **kwargs)

    @overrides_trl
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.model.training and self.args.shuffle_responses:
            seed, template = derive_seed(self.args.seed, "epochs", self.state.global_step), self.args.template
            assert template is not None  # since `__init__`
            groups = [
                (reordered(row, seed, template, self._special_tokens), [*group]) for row, group in groupby(inputs)
            ]
            inputs = [dict(row) for row, group in groups for _ in group]
        with warnings.catch_warnings():  # TRL calls what transformers 5.24 has renamed
            warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)
            return super()._generate_and_score_completions(inputs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluates as [`~trl.GRPOTrainer`] does, also on preference rows, and names the metrics of each of several
        sets after it."""

        def prepare(rows: Dataset, name: str) -> Dataset:
            return rows if {"order", "labels", "query"} <= {*rows.column_names} else self._prepare_rows(rows, name)

        eval_dataset = eval_dataset if isinstance(eval_dataset, str) else each_set(eval_dataset, prepare)
        self._evaluated = metric_key_prefix.removeprefix("eval").removeprefix("_")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # TRL logs the metrics of all evaluation sets as `eval_…`, where the last one overwrites the others.
        if not self.model.training and self._evaluated:
            metrics = getattr(self, "_metrics", {"eval": {}})["eval"]
            renamed = {f"{self._evaluated}_{name}": values for name, values in metrics.items()}
            metrics.clear()
            metrics.update(renamed)
        super().log(logs, start_time)


def reordered(row: Mapping[str, Any], seed: int, template: str, fences: Sequence[str]) -> dict[str, Any]:
    """A row of [`judge_rows`] whose prompt shows the responses in another order, drawn from the seed and the row.

    Rows of a single response, and rows whose prompt is not what their columns make, stay as they are.
    """

    def prompt(order: Sequence[int]) -> list[dict[str, str]]:
        return judge_messages(preference.permuted(order), template, special_tokens=fences)

    preference = preference_of(row)
    if len(preference) == 1 or prompt(row["order"]) != row["prompt"]:
        return dict(row)
    order = response_order(len(preference), seed, preference.query, *preference.responses)
    return {**row, "prompt": prompt(order), "order": list(order)}


class OutcomeReward:
    """The outcome reward as TRL calls reward functions: lists in, one number per completion out.

    Logs [`critique_metrics`] as `spct/…`, and in the completions table `scores` and `labels` (in the row order),
    `problem` and `order`. With `meta`, which rewards the correct ones, of these also the mean `spct/meta_reward` and
    the share `spct/sound` with a meta score above 0.

    Completions are read from their ids, since TRL leaves out drafts, or their tags; one that ends on none of
    `end_tokens` was truncated, and is worth −1.
    """

    __name__ = "outcome_reward"

    def __init__(
        self,
        template: str,
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: frozenset[int] = frozenset(),
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ):
        self.template, self.tokenizer, self.end_tokens = template, tokenizer, end_tokens
        self.meta: MetaReward | None = None
        self.chat_template_kwargs = chat_template_kwargs or {}

    def __call__(
        self,
        prompts: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        labels: Sequence[Sequence[float]],
        order: Sequence[Sequence[int]],
        domain: Sequence[str | None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list], None] | None = None,
        **kwargs,
    ) -> list[float]:
        critiques = [
            read_sample(sample, len(shown), judge_template(self.template, len(shown) == 1)).in_row_order(shown)
            for sample, shown in zip(self._samples(prompts, completion_ids), order, strict=True)
        ]
        scores = [critique.scores for critique in critiques]
        if log_metric is not None:
            for name, value in critique_metrics(critiques, labels, domain).items():
                log_metric(f"spct/{name}", value)
        if log_extra is not None:
            log_extra("scores", [None if row is None else list(row) for row in scores])
            log_extra("labels", [list(row) for row in labels])
            log_extra("problem", [critique.problem for critique in critiques])
            log_extra("order", [list(row) for row in order])
        rewards = [outcome_reward(row, truth) for row, truth in zip(scores, labels, strict=True)]
        if self.meta is not None:
            correct = [place for place, reward in enumerate(rewards) if reward > 0]
            read = [preference_of({name: kwargs[name][i] for name in ("query", "responses")}) for i in correct]
            meta_scores = self.meta(read, [critiques[i] for i in correct])
            for place, score in zip(correct, meta_scores, strict=True):
                rewards[place] = self.meta.reward(score)
            if log_metric is not None and correct:
                log_metric("spct/meta_reward", sum(rewards[place] for place in correct) / len(correct))
                log_metric("spct/sound", sum(score > 0 for score in meta_scores) / len(correct))
        return rewards

    def _samples(self, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]]) -> list[Sample]:
        texts = decode_completions(self.tokenizer, completion_ids)
        groups = [(self._opens_draft(prompt), [*group]) for prompt, group in groupby(prompts)]
        drafts = [opens for opens, group in groups for _ in group]
        return [
            Sample(text, len(ids), truncated=not ids or ids[-1] not in self.end_tokens, prefilled=opened)
            for text, ids, opened in zip(texts, completion_ids, drafts, strict=True)
        ]

    def _opens_draft(self, prompt: Any) -> bool:
        """Whether the chat template opens a draft behind a prompt."""
        options = {"tokenize": False, "add_generation_prompt": True, **self.chat_template_kwargs}
        return opens_draft(self.tokenizer.apply_chat_template(prompt, **options))
