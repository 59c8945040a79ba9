# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Stage 3 of SPCT: a Meta RM, trained on critiques with known correctness (paper, section 6)."""

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
from ..evaluation.statistics import calibration_error, mean, roc_auc
from ..jobs import write_json
from ..judge.critiques import Critique
from ..judge.generation import keep_trainable
from ..judge.meta_scoring import encode_meta, tokenizer_digest
from ..judge.modeling_meta_rm import EXTRAS_NAME, MetaRMForSequenceClassification, as_meta_rm, meta_loss
from ..judge.preferences import InvalidPreference, Preference, checked_labels
from ..judge.prompts import conversation_text, judge_template, meta_messages
from ..judge.sampling import special_tokens
from ..judge.voting import Guidance
from .loading import check_output_dir, stored_template
from .meta_rm_config import MetaRMTrainingConfig


logger = get_logger(__name__)

COLUMNS = ("query", "responses", "critique", "label")
VOTE_COLUMNS = ("scores", "labels", "order")
NO_BALLOT = -1
RARE = 0.1
"""Share of a class below which a warning is logged."""
EVALUATED = {
    "roc_auc": "ROC-AUC",
    "ece": "expected calibration error",
    "plain_vote_accuracy": "accuracy of plain voting",
    "guided_vote_accuracy": "accuracy of guided voting",
    "votes_per_row": "votes per row",
}
"""Metrics on the model card."""
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
    Trainer for the Meta RM: binary cross-entropy on the correctness of critiques (paper, section 6).

    It is [`~trl.RewardTrainer`] with other data (a critique and its label instead of a pair), another loss and other
    metrics: `accuracy` and `positive_share` in training; in evaluation also `roc_auc` and `ece`, over the whole set;
    and, if its rows can vote, those of [`vote_metrics`]. Each can choose the best checkpoint
    (`metric_for_best_model="eval_guided_vote_accuracy"`).

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

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A path or id, loaded with [`MetaRMForSequenceClassification`] (with a new head on a causal LM; in float32
            unless `args.model_init_kwargs` says otherwise), or a model with one label. A native classifier becomes a
            Meta RM in place.
        args ([`MetaRMTrainingConfig`], *optional*):
            Configuration.
        data_collator ([`~transformers.DataCollator`], *optional*):
            Collator of rows with `input_ids` and `label`. [`~transformers.DataCollatorWithPadding`] by default.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows with the columns

            - `query`: a text, or a list of messages;
            - `responses`: the responses;
            - `order` (optional): `order[p]` is the response that the judge read as number p + 1, since critiques name
              responses by number. Without it, `responses` are in the order that the judge read;
            - `critique`: the judge's completion;
            - `label`: 1 if the critique is correct (Eq. 10, [`~trl_spct.judge.outcomes.meta_label`]), else 0.

            Rows with `input_ids` and `label` are used as they are.
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or `dict`, *optional*):
            Rows with the same columns. They can vote if they also have `order`, and `scores` and `labels` in the order
            of `responses`, as the rows of [`~trl_spct.data.preparation.meta_rows`] have.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer, with a chat template. Loaded from the model's path by default.
        compute_metrics (`Callable`, *optional*, defaults to [`classification_metrics`]):
            Replaces the evaluation metrics.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train, with `task_type="SEQ_CLS"`, so that the head is trained and saved, too.
        callbacks, quantization_config, **kwargs: Passed to [`~trl.RewardTrainer`].

    Raises:
        `ValueError`: for invalid rows, with their numbers, before training; for a model with more than one label; for
            an adapter that leaves the head random.
        `FileExistsError`: if `args.output_dir` holds an adapter and this run trains a full model, or the reverse.
    """

    _tag_names = ["trl", "spct", "meta-rm"]
    _name = "Meta RM"
    _paper = PAPER
    _card_template = "meta_rm.md"

    args: MetaRMTrainingConfig
    model: Any
    preprocess_logits_for_metrics: Any

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
        _check_head_is_trained(peft_config)
        if args.balance_classes and isinstance(train_dataset, IterableDataset):
            raise ValueError(
                "Found balance_classes=True with a stream of rows; expected a `Dataset`, or `pos_weight`."
            )
        self._ballots: dict[int, Ballot | None] = {}
        self._first_ballots: dict[str, int] = {}
        init_kwargs = args.model_init_kwargs
        kwargs_of_model = init_kwargs if isinstance(init_kwargs, dict) else {}
        is_path = isinstance(model, str)
        if isinstance(model, str):
            processing_class = processing_class or AutoTokenizer.from_pretrained(
                model, revision=kwargs_of_model.get("revision"), trust_remote_code=args.trust_remote_code
            )
            if args.chat_template_path is None and args.eos_token is None:
                # Invalid rows are found before a large model is loaded.
                train_dataset, eval_dataset = self._prepare_all(train_dataset, eval_dataset, processing_class, args)
            model = _load(model, args, kwargs_of_model, quantization_config)
        base = require_classifier(unwrapped(model))
        keep_trainable(base)
        try:
            if is_path:  # consumed; `RewardTrainer` would warn that they are ignored
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
        tokenizer: Any = self.processing_class
        if data_collator is None:
            self.data_collator = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=args.pad_to_multiple_of)
        stored = {"tokenizer": tokenizer_digest(tokenizer)}
        template = args.template or stored_template(base.config)
        if template is not None:
            stored["template"] = judge_template(template).digest
        base.config.meta_rm = {**base.config.meta_rm, **stored}
        # `RewardTrainer` has no labels and evaluates the loss alone.
        self.label_names = ["labels", "ballot"]
        self.compute_metrics = self._with_votes(compute_metrics or classification_metrics)
        if self.preprocess_logits_for_metrics is not None:
            preprocess = self.preprocess_logits_for_metrics
            self.preprocess_logits_for_metrics = lambda logits, labels: preprocess(logits, labels[0])
        self._pos_weight = args.pos_weight
        self.balance: ClassBalance | None = None
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
        options: dict[str, Any] = {}
        if not is_stream:
            # A cache would not notice when the text of the prompt changes with the package.
            options = {"num_proc": args.dataset_num_proc, "load_from_cache_file": False}
            options["desc"] = f"Tokenizing {dataset_name} dataset"
        row_options = {
            "tokenizer": processing_class,
            "args": args,
            "dataset_name": dataset_name,
            "first_ballot": first_ballot,
        }
        with global_then_local_main_first():
            encoded = dataset.map(
                encode_row,
                with_indices=True,
                fn_kwargs=row_options,
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
        """Number of a dataset's first row among all rows that vote; the same in each evaluation."""
        free = 1 + max(self._ballots, default=-1)
        return self._first_ballots.setdefault(dataset._fingerprint, free)

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
        """Adds the metrics of the votes; metrics of the same name take precedence."""

        def compute(prediction: EvalPrediction, **options: Any) -> dict[str, float]:
            labels, ballots = prediction.label_ids  # type: ignore[misc]
            logits = np.asarray(prediction.predictions)
            labeled = EvalPrediction(prediction.predictions, labels, prediction.inputs, prediction.losses)
            return {**self._vote_metrics(logits, ballots), **compute_metrics(labeled, **options)}

        return compute

    def _vote_metrics(self, logits: np.ndarray, ballots: np.ndarray) -> dict[str, float]:
        votes = [
            (ballot, float(logit))
            for number, logit in zip(ballots.reshape(-1), logits.reshape(-1), strict=True)
            if number != NO_BALLOT and (ballot := self._ballots[number]) is not None
        ]
        guidance = Guidance.of(unwrapped(self.model).config.meta_rm)
        return vote_metrics(judgments_of(votes), guidance) if votes else {}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        model = self.accelerator.unwrap_model(self.model)
        folder = output_dir or self.args.output_dir
        if is_peft_model(model) and self.args.should_save and folder:  # an adapter is saved without the config
            write_json(Path(folder, EXTRAS_NAME), unwrapped(model).config.meta_rm)

    def card_facts(self) -> dict[str, Any]:
        facts = super().card_facts()
        if self.balance is not None:
            facts |= {"correct": self.balance.correct, "incorrect": self.balance.incorrect}
        if self._pos_weight is not None:
            facts["weight of a correct critique"] = f"{self._pos_weight:.3g}"
        facts["guidance"] = describe(Guidance.of(unwrapped(self.model).config.meta_rm))
        return facts

    def card_results(self) -> dict[str, str]:
        last: dict[str, Any] = next((log for log in reversed(self.state.log_history) if "eval_roc_auc" in log), {})
        return {title: f"{last[f'eval_{name}']:.3f}" for name, title in EVALUATED.items() if f"eval_{name}" in last}

    @torch.no_grad()
    def _log_batch(self, attention_mask, logits, labels):
        tokens = self.accelerator.gather_for_metrics(attention_mask.sum()).sum().item()
        self._total_train_tokens += tokens // self._tp_size
        positive = labels.reshape(-1) > 0.5
        correct = (logits.reshape(-1) > 0) == positive
        for name, values in (("accuracy", correct), ("positive_share", positive)):
            self._metrics["train"][name].append(self.accelerator.gather_for_metrics(values.float()).mean().item())


def encode_row(
    row: Mapping[str, Any],
    index: int,
    tokenizer: PreTrainedTokenizerBase,
    args: MetaRMTrainingConfig,
    dataset_name: str = "train",
    first_ballot: int | None = None,
) -> dict[str, Any]:
    """Encodes a row: `input_ids` and `label`, or the `problem` and its `cause` if the row is invalid."""
    problem = cause = ""
    ids: list[int] = []
    label = 0.0
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
    """The preference in the order that the judge read, the critique and the label of a row.

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
    """The vote of a critique in an evaluation.

    Args:
        row (`tuple`): Source, query and responses, which identify the row.
        labels, scores (`tuple`): In the order of the row.
    """

    row: tuple[Any, ...]
    labels: tuple[float, ...]
    scores: tuple[int, ...]


def ballot_of(row: Mapping[str, Any]) -> Ballot | None:
    """The vote in a row; `None` if the critique has no scores.

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


def judgments_of(votes: Iterable[tuple[Ballot, float]]) -> list[Judgment]:
    """Groups ballots and their meta scores by row."""
    rows: dict[tuple[Any, ...], list[tuple[Ballot, float]]] = {}
    for ballot, meta_score in votes:
        rows.setdefault(ballot.row, []).append((ballot, meta_score))
    return [
        Judgment(
            labels=group[0][0].labels,
            critiques=tuple(Critique("", ballot.scores, meta_score=meta_score) for ballot, meta_score in group),
        )
        for group in rows.values()
    ]


def vote_metrics(judgments: Sequence[Judgment], guidance: Guidance) -> dict[str, float]:
    """Accuracy of the vote of all critiques of a row, plain and guided.

    Args:
        judgments (sequence of [`~trl_spct.evaluation.judgments.Judgment`]): With meta scores.
        guidance ([`~trl_spct.judge.voting.Guidance`]): Rule of the guided vote.

    Returns:
        `dict` of `plain_vote_accuracy`, `guided_vote_accuracy` and `votes_per_row` (mean k).
    """
    plain, guided = (
        [credits_at(judgment, len(judgment.critiques), mode)[0] for judgment in judgments] for mode in (None, guidance)
    )
    return {
        "plain_vote_accuracy": mean(plain),
        "guided_vote_accuracy": mean(guided),
        "votes_per_row": mean([len(judgment.critiques) for judgment in judgments]),
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
    """Numbers of correct and of incorrect critiques."""

    correct: int
    incorrect: int

    @property
    def weight(self) -> float | None:
        """The `pos_weight` that balances the classes; `None` if one of them is empty."""
        return self.incorrect / self.correct if self.correct and self.incorrect else None


def class_balance(labels: Sequence[float]) -> ClassBalance:
    """Counts labels by class."""
    correct = sum(label > 0.5 for label in labels)
    return ClassBalance(correct, len(labels) - correct)


def report_balance(balance: ClassBalance, pos_weight: float | None = None) -> None:
    """Logs the counts, and warns if a class is rare, with the `pos_weight` that balances them."""
    counts = f"Found {balance.correct} correct and {balance.incorrect} incorrect critiques"
    rare = min(balance.correct, balance.incorrect) < RARE * (balance.correct + balance.incorrect)
    if not rare or pos_weight is not None:
        logger.info(f"{counts}; pos_weight={pos_weight}.")
        return
    advice = "collect more of the rare class" if balance.weight else "collect critiques of the other class"
    if balance.weight:
        advice += f", or set `balance_classes=True` or `pos_weight={balance.weight:.3g}`"
    logger.warning(
        f"{counts}; expected at least {RARE:.0%} of each. A Meta RM that learns only the common class ranks nothing: "
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


def _check_head_is_trained(peft_config: Any | None) -> None:
    if peft_config is None:
        return
    saved = getattr(peft_config, "modules_to_save", None) or ()
    if getattr(peft_config, "task_type", None) != "SEQ_CLS" and "score" not in saved:
        raise ValueError(
            f"Found a `peft_config` with task_type={peft_config.task_type!r}; expected 'SEQ_CLS', without which the "
            "head stays random and is not saved. Set task_type='SEQ_CLS', or modules_to_save=['score']."
        )


def _load(
    path: str, args: MetaRMTrainingConfig, init_kwargs: Mapping[str, Any], quantization_config: Any | None
) -> PreTrainedModel:
    """Loads a Meta RM by the rules of [`~trl.RewardTrainer`] for dtype, device map and seed."""
    kwargs = {"trust_remote_code": args.trust_remote_code, **init_kwargs}
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
        return create_model_from_path(path, MetaRMForSequenceClassification, **kwargs)  # type: ignore[arg-type]


def _is_usable(row: Mapping[str, Any]) -> bool:
    return not row["problem"]


def _usable_or_raise(row: Mapping[str, Any]) -> bool:
    if row["problem"]:
        raise ValueError(f"{row['problem']} Correct the row, or drop invalid rows with `invalid_rows='drop'`.")
    return True


def _without_problems(dataset: Dataset, invalid_rows: str, dataset_name: str) -> Dataset:
    """Raises for invalid rows, or drops them with a warning."""
    problems = [problem for problem in dataset["problem"] if problem]
    causes = dict(Counter(cause for cause in dataset["cause"] if cause))
    if problems and invalid_rows == "error":
        first = "\n".join(f"  {problem}" for problem in problems[:3])
        raise ValueError(
            f"The {dataset_name} dataset has {len(problems)} of {len(dataset)} rows that cannot be used ({causes}), "
            f"the first of them:\n{first}\nCorrect them, or drop them with `invalid_rows='drop'`."
        )
    if problems:
        logger.warning(f"Dropped {len(problems)} of {len(dataset)} rows of the {dataset_name} dataset: {causes}.")
        dataset = dataset.filter(_is_usable)
    if len(dataset) == 0:
        raise ValueError(f"The {dataset_name} dataset has no usable row; expected at least one. Dropped: {causes}.")
    return dataset.remove_columns(["problem", "cause"])
