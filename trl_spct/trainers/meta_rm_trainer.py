# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Stage 3: training a Meta RM on critiques that are known to be correct or not (paper, section 6)."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import (
    AutoTokenizer,
    DataCollator,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from trl import RewardTrainer
from trl.data_utils import get_dataset_column_names
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.utils import create_model_from_path, get_config_model_id, global_then_local_main_first

from ..cards import PAPER, JudgeCards
from ..evaluation.guidance import describe
from ..evaluation.judgments import Judgment, credits_at
from ..evaluation.statistics import calibration_error, roc_auc
from ..jobs import write_json
from ..judge.critiques import Critique
from ..judge.meta_scoring import encode_meta, tokenizer_digest
from ..judge.modeling_meta_rm import EXTRAS_NAME, MetaRMForSequenceClassification, as_meta_rm, meta_loss
from ..judge.preferences import InvalidPreference, Preference, checked_labels
from ..judge.prompts import conversation_text, judge_template, meta_messages
from ..judge.sampling import keep_trainable, special_tokens
from ..judge.voting import Guidance
from .loading import check_output_dir, stored_template
from .meta_rm_config import MetaRMTrainingConfig


logger = get_logger(__name__)

COLUMNS = ("query", "responses", "critique", "label")
VOTE_COLUMNS = ("scores", "labels", "order")
NO_BALLOT = -1
RARE = 0.1
EVALUATED = {
    "roc_auc": "ROC-AUC",
    "ece": "expected calibration error",
    "plain_vote_accuracy": "accuracy of plain voting",
    "guided_vote_accuracy": "accuracy of guided voting",
    "votes_per_row": "votes per row",
}
"""Metrics that a card reports."""
FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "label": Value("float32"),
        "ballot": Value("int64"),
        "problem": Value("string"),
        "cause": Value("string"),
    }
)


class MetaRMTrainer(JudgeCards, RewardTrainer):
    """
    Trainer for the Meta RM: binary cross-entropy on "is this critique correct" (paper, section 6).

    A thin subclass of [`~trl.RewardTrainer`], which is pairwise. What differs is the data (one critique and its label
    instead of a pair), the loss and the metrics: `accuracy` and `positive_share` in training, and in evaluation also
    `roc_auc` and `ece`, all over the whole evaluation set; and where its rows can vote `plain_vote_accuracy` and
    `guided_vote_accuracy` over the same critiques, see [`vote_metrics`]. Any of them can choose the best checkpoint
    (`metric_for_best_model="eval_guided_vote_accuracy"`).

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A path or Hub id, loaded with [`MetaRMForSequenceClassification.from_pretrained`] (with a fresh head from a
            causal LM; in float32 unless `args.model_init_kwargs` says otherwise), or a model with one label. A native
            classifier is turned into a Meta RM in place.
        args ([`MetaRMTrainingConfig`], *optional*):
            Configuration for this trainer. If `None`, a default configuration is used.
        data_collator ([`~transformers.DataCollator`], *optional*):
            Makes batches of rows with `input_ids` and `label`. Defaults to
            [`~transformers.DataCollatorWithPadding`].
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows with the columns

            - `query`: a text, or a list of messages;
            - `responses`: the responses;
            - `order` (optional): `order[p]` is the response that the judge read as number p + 1, since critiques name
              responses by number. Without it, `responses` are in the order that the judge read;
            - `critique`: the judge's whole text;
            - `label`: 1 if the critique is correct (Eq. 10, [`~trl_spct.judge.outcomes.meta_label`]), else 0.

            Rows with `input_ids` and `label` are taken as they are.
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or `dict`, *optional*):
            The same kind of rows. They can vote if they also have `order`, and `scores` and `labels` in the order of
            `responses`, as the rows of [`~trl_spct.data.preparation.meta_rows`] have.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer, with a chat template. Defaults to the one beside the model.
        compute_metrics (`Callable`, *optional*, defaults to [`classification_metrics`]):
            Replaces the evaluation metrics.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train, with `task_type="SEQ_CLS"` so that the head is trained and saved, too.
        **kwargs:
            `callbacks`, `optimizers`, `quantization_config` and whatever else [`~trl.RewardTrainer`] takes.

    Raises:
        `ValueError`: for rows that cannot be used, with their numbers, before training starts; for a model with more
            than one label; for an adapter that leaves the head random.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from trl_spct import MetaRMTrainer, MetaRMTrainingConfig

    >>> trainer = MetaRMTrainer(
    ...     model="google/gemma-2-27b-it",
    ...     args=MetaRMTrainingConfig(output_dir="meta-rm"),
    ...     train_dataset=load_dataset("json", data_files="critiques.jsonl", split="train"),
    ... )
    >>> trainer.train()
    ```
    """

    _tag_names = ["trl", "spct", "meta-rm"]
    _name = "Meta RM"
    _paper = PAPER
    _card_template = "meta_rm.md"

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: MetaRMTrainingConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | Mapping[str, Dataset | IterableDataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: Any | None = None,
        quantization_config: Any | None = None,
        **kwargs,
    ):
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = MetaRMTrainingConfig(f"{name.rstrip('/').split('/')[-1]}-MetaRM")
        check_output_dir(model, args, peft_config)
        if peft_config is not None:
            _check_head_is_trained(peft_config)
        if args.balance_classes and isinstance(train_dataset, IterableDataset):
            raise ValueError(
                "Found balance_classes=True with a stream of rows; expected a `Dataset`, or `pos_weight`."
            )
        self._ballots: dict[int, Ballot | None] = {}
        self._first_ballots: dict[str, int] = {}
        init_kwargs = args.model_init_kwargs
        is_path = isinstance(model, str)
        if is_path:
            processing_class = processing_class or AutoTokenizer.from_pretrained(
                model, revision=(init_kwargs or {}).get("revision"), trust_remote_code=args.trust_remote_code
            )
            if args.chat_template_path is None and args.eos_token is None:
                # Bad rows are found before a large model is loaded.
                train_dataset, eval_dataset = self._prepare_all(train_dataset, eval_dataset, processing_class, args)
            model = _load(model, args, quantization_config)
        base = unwrapped(model)
        require_classifier(base)
        keep_trainable(base)
        try:
            if is_path:  # used up: `RewardTrainer` would warn that they are ignored
                args.model_init_kwargs, quantization_config = None, None
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_metrics=compute_metrics or classification_metrics,
                callbacks=callbacks,
                peft_config=peft_config,
                quantization_config=quantization_config,
                **kwargs,
            )
        finally:
            args.model_init_kwargs = init_kwargs
        if data_collator is None:
            self.data_collator = DataCollatorWithPadding(
                self.processing_class, pad_to_multiple_of=args.pad_to_multiple_of
            )
        stored = {"tokenizer": tokenizer_digest(self.processing_class)}
        template = args.template or stored_template(base.config)
        if template is not None:
            stored["template"] = judge_template(template).digest
        base.config.meta_rm = {**base.config.meta_rm, **stored}
        # `RewardTrainer` has no labels, so that it evaluates by the loss alone.
        self.label_names = ["labels", "ballot"]
        self.compute_metrics = self._with_votes(self.compute_metrics)
        if self.preprocess_logits_for_metrics is not None:
            own = self.preprocess_logits_for_metrics
            self.preprocess_logits_for_metrics = lambda logits, labels: own(logits, labels[0])
        self._pos_weight, self.balance = args.pos_weight, None
        if isinstance(self.train_dataset, Dataset):
            self.balance = class_balance(self.train_dataset["label"])
            if args.balance_classes:
                self._pos_weight = self.balance.weight
            report_balance(self.balance, self._pos_weight)

    def _prepare_all(self, train_dataset, eval_dataset, processing_class, args):
        if isinstance(train_dataset, (Dataset, IterableDataset)):
            train_dataset = self._prepare_dataset(train_dataset, processing_class, args, "train")
        if isinstance(eval_dataset, Mapping):
            eval_dataset = {
                name: self._prepare_dataset(dataset, processing_class, args, name)
                for name, dataset in eval_dataset.items()
            }
        elif eval_dataset is not None:
            eval_dataset = self._prepare_dataset(eval_dataset, processing_class, args, "eval")
        return train_dataset, eval_dataset

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        columns = get_dataset_column_names(dataset)
        if "input_ids" in columns and "label" in columns:
            return dataset
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise ValueError(
                f"The {dataset_name} dataset has the columns {sorted(columns)} and lacks {missing}; expected "
                f"{list(COLUMNS)}, or `input_ids` and `label`. Rename its columns, or make it from "
                "trajectories with `trl_spct.data.preparation.meta_rows`."
            )
        is_stream = isinstance(dataset, IterableDataset)
        votes = dataset_name != "train" and not is_stream and set(VOTE_COLUMNS) <= set(columns)
        first_ballot = self._first_ballot(dataset) if votes else None
        options = {}
        if not is_stream:
            # A cache would not notice when the prompt's text changes with the package.
            options = {"num_proc": args.dataset_num_proc, "load_from_cache_file": False}
            options["desc"] = f"Tokenizing {dataset_name} dataset"
        with global_then_local_main_first():
            encoded = dataset.map(
                encode_row,
                with_indices=True,
                fn_kwargs={
                    "tokenizer": processing_class,
                    "args": args,
                    "dataset_name": dataset_name,
                    "first_ballot": first_ballot,
                },
                remove_columns=columns,
                features=FEATURES,
                **options,
            )
        if is_stream:
            usable = _is_usable if args.invalid_rows == "drop" else _usable_or_raise
            return encoded.filter(usable).remove_columns(["ballot", "problem", "cause"])
        encoded = _without_problems(encoded, args.invalid_rows, dataset_name)
        if not votes:
            return encoded.remove_columns("ballot")
        self._ballots |= {number: ballot_of(dataset[number - first_ballot]) for number in encoded["ballot"]}
        return encoded

    def _first_ballot(self, dataset: Dataset) -> int:
        """The number of a dataset's first row among all rows that vote; the same one whenever it is evaluated."""
        taken = 1 + max(self._ballots, default=-1)
        return self._first_ballots.setdefault(dataset._fingerprint, taken)

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            self._signature_columns = ["input_ids", "label", "ballot"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        loss = meta_loss(outputs.logits, labels, self._pos_weight)
        if self.model.training:
            self._log_batch(inputs["attention_mask"], outputs.logits, labels)
        self._metrics["train" if self.model.training else "eval"]["num_tokens"] = [self._total_train_tokens]
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs.setdefault("ballot", torch.full_like(inputs["labels"], NO_BALLOT, dtype=torch.long))
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _with_votes(self, compute_metrics: Callable[..., dict]) -> Callable[..., dict]:
        """The metrics with those of the votes before them, under which names of the user's own win."""

        def compute(prediction: EvalPrediction, **options) -> dict[str, float]:
            labels, ballots = prediction.label_ids
            own = EvalPrediction(prediction.predictions, labels, prediction.inputs, prediction.losses)
            return {**self._vote_metrics(prediction.predictions, ballots), **compute_metrics(own, **options)}

        return compute

    def _vote_metrics(self, logits: np.ndarray, ballots: np.ndarray) -> dict[str, float]:
        cast = [
            (self._ballots[number], float(logit))
            for number, logit in zip(ballots.reshape(-1), np.asarray(logits).reshape(-1), strict=True)
            if number != NO_BALLOT and self._ballots[number] is not None
        ]
        guidance = Guidance.of(unwrapped(self.model).config.meta_rm)
        return vote_metrics(judgments_of(cast), guidance) if cast else {}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        model = self.accelerator.unwrap_model(self.model)
        if is_peft_model(model) and self.args.should_save:  # an adapter is saved without the config
            write_json(Path(output_dir or self.args.output_dir, EXTRAS_NAME), unwrapped(model).config.meta_rm)

    def card_facts(self) -> dict[str, Any]:
        facts = super().card_facts()
        if self.balance is not None:
            facts |= {"correct": self.balance.correct, "incorrect": self.balance.incorrect}
        if self._pos_weight is not None:
            facts["weight of a correct critique"] = f"{self._pos_weight:.3g}"
        facts["guidance"] = describe(Guidance.of(unwrapped(self.model).config.meta_rm))
        return facts

    def card_results(self) -> dict[str, str]:
        found = next((log for log in reversed(self.state.log_history) if "eval_roc_auc" in log), {})
        return {title: f"{found[f'eval_{name}']:.3f}" for name, title in EVALUATED.items() if f"eval_{name}" in found}

    @torch.no_grad()
    def _log_batch(self, attention_mask, logits, labels):
        tokens = self.accelerator.gather_for_metrics(attention_mask.sum()).sum().item()
        self._total_train_tokens += tokens // self._tp_size
        positive = labels.reshape(-1) > 0.5
        correct = (logits.reshape(-1) > 0) == positive
        for name, values in (("accuracy", correct), ("positive_share", positive)):
            mean = self.accelerator.gather_for_metrics(values.float()).mean().item()
            self._metrics["train"][name].append(mean)


def encode_row(
    row: Mapping[str, Any],
    index: int,
    tokenizer: PreTrainedTokenizerBase,
    args: MetaRMTrainingConfig,
    dataset_name: str = "train",
    first_ballot: int | None = None,
) -> dict[str, Any]:
    """
    A row of critiques as the Meta RM reads it: `input_ids` and `label`, or the `problem` with it and its `cause`.

    Rows that cannot be used come back with a `problem`, so that all of them are counted at once.
    """
    problem = cause = ""
    ids, label = [], 0.0
    try:
        preference, critique, label = read_row(row)
        if first_ballot is not None:
            ballot_of(row)
        ids = encode_meta(tokenizer, meta_messages(preference, critique, special_tokens(tokenizer)))
        if args.max_length is not None and len(ids) > args.max_length:
            raise InvalidPreference(
                f"Found {len(ids)} tokens; expected at most max_length={args.max_length}. Raise it, or shorten the "
                "row.",
                "length",
            )
    except InvalidPreference as error:
        problem, cause, ids = f"{dataset_name} row {index}: {error}", error.cause, []
    ballot = NO_BALLOT if first_ballot is None else first_ballot + index
    return {"input_ids": ids, "label": float(label), "ballot": ballot, "problem": problem, "cause": cause}


def read_row(row: Mapping[str, Any]) -> tuple[Preference, str, float]:
    """
    The preference in the order that the judge read, the critique and the label in a row.

    Raises:
        `InvalidPreference`: if a part is missing or empty, if the order is not one of the responses, or if the label
            is not 0 or 1.
    """
    preference = Preference(query=row["query"], responses=row["responses"])
    if row.get("order") is not None:
        try:
            preference = preference.permuted(row["order"])
        except (TypeError, ValueError) as error:
            raise InvalidPreference(
                f"Found the order {row['order']} for {len(preference)} responses; expected each index once: {error}",
                "order",
            ) from error
    critique, label = row["critique"], row["label"]
    if not isinstance(critique, str) or not critique.strip():
        raise InvalidPreference(f"Found the critique {critique!r:.40}; expected a text that is not empty.", "critique")
    if isinstance(label, str) or label not in (0, 1):
        raise InvalidPreference(
            f"Found the label {label!r:.40}; expected 1 (the critique is correct) or 0, see `meta_label`.", "label"
        )
    return preference, critique, float(label)


@dataclass(frozen=True)
class Ballot:
    """How one critique votes in an evaluation.

    Args:
        row (`tuple`): What critiques have in common that vote on the same row: source, query and responses.
        labels, scores (`tuple[float, ...]`): In the order of the row.
    """

    row: tuple
    labels: tuple[float, ...]
    scores: tuple[float, ...]


def ballot_of(row: Mapping[str, Any]) -> Ballot | None:
    """The vote in a row; `None` if the critique could not be read, or the row cannot be used for another reason.

    Raises:
        `InvalidPreference`: if there is not one score and one label for each response.
    """
    if row["scores"] is None:
        return None
    scores, responses = tuple(row["scores"]), tuple(row["responses"])
    try:
        labels = checked_labels(row["labels"], len(responses))
    except (TypeError, ValueError) as error:
        raise _no_vote(row, str(error)) from error
    if len(scores) != len(responses):
        raise _no_vote(row, f"there are {len(scores)} scores.")
    return Ballot((row.get("source"), conversation_text(row["query"]), responses), labels, scores)


def _no_vote(row: Mapping[str, Any], reason: str) -> InvalidPreference:
    return InvalidPreference(
        f"Found the scores {row['scores']} and the labels {row['labels']} for {len(row['responses'])} responses; "
        f"expected one of each per response: {reason}",
        "vote",
    )


def judgments_of(cast: Iterable[tuple[Ballot, float]]) -> list[Judgment]:
    """Ballots with their meta scores, row by row."""
    rows: dict[tuple, list[tuple[Ballot, float]]] = {}
    for ballot, meta_score in cast:
        rows.setdefault(ballot.row, []).append((ballot, meta_score))
    return [
        Judgment(
            labels=votes[0][0].labels,
            critiques=tuple(Critique("", ballot.scores, meta_score=meta_score) for ballot, meta_score in votes),
        )
        for votes in rows.values()
    ]


def vote_metrics(judgments: Sequence[Judgment], guidance: Guidance) -> dict[str, float]:
    """What a Meta RM is for: the accuracy of the vote of all critiques of a row, plain and guided.

    Args:
        judgments (sequence of [`~trl_spct.evaluation.judgments.Judgment`]): With meta scores.
        guidance ([`~trl_spct.judge.voting.Guidance`]): How the Meta RM guides.

    Returns:
        `dict` of `plain_vote_accuracy`, `guided_vote_accuracy` and `votes_per_row` (mean k).
    """
    plain, guided = (
        [credits_at(judgment, len(judgment.critiques), mode)[0] for judgment in judgments] for mode in (None, guidance)
    )
    return {
        "plain_vote_accuracy": float(np.mean(plain)),
        "guided_vote_accuracy": float(np.mean(guided)),
        "votes_per_row": float(np.mean([len(judgment.critiques) for judgment in judgments])),
    }


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`accuracy` at logit 0, `roc_auc`, `ece` and `positive_share` over an evaluation set."""
    logits = np.asarray(prediction.predictions, dtype=np.float64).reshape(-1)
    positive = np.asarray(prediction.label_ids).reshape(-1) > 0.5
    return {
        "accuracy": float(((logits > 0) == positive).mean()),
        "roc_auc": roc_auc(logits, positive),
        "ece": calibration_error(logits, positive),
        "positive_share": float(positive.mean()),
    }


@dataclass(frozen=True)
class ClassBalance:
    """How many critiques are `correct` and `incorrect`."""

    correct: int
    incorrect: int

    @property
    def weight(self) -> float | None:
        """The `pos_weight` under which both classes weigh alike; `None` if one of them is missing."""
        return self.incorrect / self.correct if self.correct and self.incorrect else None


def class_balance(labels: Sequence[float]) -> ClassBalance:
    """Counts the labels of critiques."""
    correct = sum(label > 0.5 for label in labels)
    return ClassBalance(correct, len(labels) - correct)


def report_balance(balance: ClassBalance, pos_weight: float | None = None) -> None:
    """Logs the counts, and warns if one class is rare, with the `pos_weight` that balances them."""
    found = f"Found {balance.correct} correct and {balance.incorrect} incorrect critiques"
    rare = min(balance.correct, balance.incorrect) < RARE * (balance.correct + balance.incorrect)
    if not rare or pos_weight is not None:
        logger.info(f"{found}; pos_weight={pos_weight}.")
        return
    advice = "collect more of the rare class" if balance.weight else "collect critiques of the other class"
    if balance.weight:
        advice += f", or set `balance_classes=True` or `pos_weight={balance.weight:.3g}`"
    logger.warning(
        f"{found}; expected at least {RARE:.0%} of each. A Meta RM that learns only the common class ranks nothing: "
        f"{advice}."
    )


def require_classifier(model: PreTrainedModel) -> MetaRMForSequenceClassification:
    """The model as a Meta RM; raises unless it is a classifier with one label."""
    if model.config.num_labels != 1:
        raise ValueError(
            f"Found a {type(model).__name__} with num_labels={model.config.num_labels}; expected a Meta RM with one. "
            "Pass the model's path, or load it with `MetaRMForSequenceClassification.from_pretrained`."
        )
    return as_meta_rm(model)


def unwrapped(model: Any) -> PreTrainedModel:
    """The Meta RM under an adapter."""
    return model.get_base_model() if is_peft_model(model) else model


def _check_head_is_trained(peft_config: Any) -> None:
    saved = getattr(peft_config, "modules_to_save", None) or ()
    if getattr(peft_config, "task_type", None) != "SEQ_CLS" and "score" not in saved:
        raise ValueError(
            f"Found a `peft_config` with task_type={peft_config.task_type!r}; expected 'SEQ_CLS', without which the "
            "head stays random and is not saved. Set task_type='SEQ_CLS', or modules_to_save=['score']."
        )


def _load(path: str, args: MetaRMTrainingConfig, quantization_config: Any | None) -> PreTrainedModel:
    """A Meta RM from a path, by the rules of [`~trl.RewardTrainer`] for dtype, device map and seed."""
    kwargs = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    if quantization_config is not None:
        if "quantization_config" in kwargs:
            raise ValueError(
                "Found `quantization_config` both as an argument and in `args.model_init_kwargs`; expected it once."
            )
        kwargs["quantization_config"] = quantization_config
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        kwargs["device_map"] = None
    set_seed(args.seed)  # the head is random
    with suppress_seqcls_warning():
        return create_model_from_path(path, MetaRMForSequenceClassification, **kwargs)


def _is_usable(row: Mapping[str, Any]) -> bool:
    return not row["problem"]


def _usable_or_raise(row: Mapping[str, Any]) -> bool:
    if row["problem"]:
        raise ValueError(f"{row['problem']} Mend the row, or drop all such rows with `invalid_rows='drop'`.")
    return True


def _without_problems(dataset: Dataset, invalid_rows: str, dataset_name: str) -> Dataset:
    """Raises for the rows with a problem, or drops them with a warning."""
    problems = [problem for problem in dataset["problem"] if problem]
    causes = dict(Counter(cause for cause in dataset["cause"] if cause))
    if problems and invalid_rows == "error":
        first = "\n".join(f"  {problem}" for problem in problems[:3])
        raise ValueError(
            f"The {dataset_name} dataset has {len(problems)} of {len(dataset)} rows that cannot be used ({causes}), "
            f"the first of them:\n{first}\nMend them, or drop them all with `invalid_rows='drop'`."
        )
    if problems:
        logger.warning(f"Dropped {len(problems)} of {len(dataset)} rows of the {dataset_name} dataset: {causes}.")
        dataset = dataset.filter(_is_usable)
    if len(dataset) == 0:
        raise ValueError(f"The {dataset_name} dataset has no usable row; expected at least one. Dropped: {causes}.")
    return dataset.remove_columns(["problem", "cause"])
