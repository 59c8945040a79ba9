# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Stage 3 of SPCT: a Meta RM, trained on critiques with known correctness (paper, section 6)."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from datasets import Dataset, Features, List, Value
from peft import PeftConfig
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import RewardTrainer
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.utils import create_model_from_path, global_then_local_main_first

from ..cards import PAPER, JudgeCards
from ..evaluation.statistics import calibration_error, roc_auc
from ..jobs import locked, write_json
from ..judge.generation import base_model, keep_trainable
from ..judge.meta_scoring import encode_meta, tokenizer_digest
from ..judge.modeling_meta_rm import EXTRAS_NAME, MetaRMForSequenceClassification, as_meta_rm, meta_loss
from ..judge.preferences import InvalidPreference, Preference
from ..judge.prompts import judge_template, meta_messages
from ..judge.repositories import adapter_base, described
from ..judge.sampling import special_tokens
from ..judge.voting import Guidance
from .loading import checked_arguments, each_set, load_tokenizer, model_kwargs, read_chat_template
from .meta_rm_config import MetaRMTrainingConfig
from .trl_internals import overrides_trl

logger = get_logger(__name__)

COLUMNS = ("query", "responses", "critique", "label")
RARE = 0.1
"""Share of a class below which a warning is logged."""
EVALUATED = {"roc_auc": "ROC-AUC", "ece": "expected calibration error"}
"""Metrics on the model card."""
_TEXT = Value("string")
FEATURES = Features(input_ids=List(Value("int32")), label=Value("float32"), problem=_TEXT, cause=_TEXT)


class MetaRMTrainer(JudgeCards, RewardTrainer):
    """
    Trainer for the Meta RM: binary cross-entropy on the correctness of critiques (paper, section 6).

    It is [`~trl.RewardTrainer`] with other data (a critique and its label instead of a pair), another loss and other
    metrics: `accuracy` and `positive_share` in training; in evaluation also `roc_auc` and `ece`, over the whole set.

    ```python
    >>> rows = load_dataset("json", data_files="critiques.jsonl", split="train")
    >>> MetaRMTrainer("google/gemma-2-27b-it", MetaRMTrainingConfig("meta-rm"), train_dataset=rows).train()
    ```

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A path or id, loaded with [`MetaRMForSequenceClassification`] (with a new head on a causal LM; in float32
            unless `args.model_init_kwargs` says otherwise), or a model with one label, which becomes a Meta RM.
        args ([`MetaRMTrainingConfig`], *optional*): Configuration.
        train_dataset, eval_dataset ([`~datasets.Dataset`], or `dict` of them for evaluation):
            Rows with the columns

            - `query`, a text or a list of messages, and `responses`;
            - `read_order` (optional): `read_order[p]` is the response that the judge read as number p + 1, since
              critiques name responses by number. Without it, `responses` are in the order that the judge read;
            - `critique`: the judge's completion;
            - `label`: 1 if the critique is correct (Eq. 10, [`~trl_spct.judge.outcomes.meta_label`]), else 0.

            Rows with `input_ids` and `label` are used as they are.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer, with a chat template. Loaded from the model's path by default.
        **kwargs:
            Passed to [`~trl.RewardTrainer`]. Defaults: [`classification_metrics`] as `compute_metrics`, and
            [`~transformers.DataCollatorWithPadding`]. A `peft_config` needs `task_type="SEQ_CLS"` to train the head.
    """

    _tag_names = ["trl", "spct", "meta-rm"]
    _name = "Meta RM"
    _paper = PAPER
    _card_template = "meta_rm.md"

    args: MetaRMTrainingConfig
    model: Any

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: MetaRMTrainingConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs,
    ):
        args, config = checked_arguments(model, args, MetaRMTrainingConfig, "MetaRM", kwargs.get("peft_config"))
        continued = PeftConfig.from_pretrained(model) if isinstance(model, str) and adapter_base(model) else None
        for peft_config in filter(None, (kwargs.get("peft_config"), continued)):
            _check_head_is_trained(peft_config)
        init_kwargs = args.model_init_kwargs
        if args.chat_template_kwargs is None:
            stored = {**described(config), **(getattr(config, "meta_rm", None) or {})}
            args.chat_template_kwargs = stored.get("chat_template_kwargs")
        if isinstance(model, str):
            processing_class = processing_class or load_tokenizer(model, config, args)
            path = args.chat_template_path
            if args.eos_token is None and (path is None or path.endswith((".jinja", ".j2"))):
                read_chat_template(processing_class, path)

                # Invalid rows are found before a large model is loaded.
                def prepare(dataset: Dataset, name: str) -> Dataset:
                    return self._prepare_dataset(dataset, processing_class, args, name)

                train_dataset = each_set(train_dataset, prepare, "train")
                eval_dataset = each_set(eval_dataset, prepare, "eval")
            set_seed(args.seed)  # the head is random
            options: Any = model_kwargs(args, kwargs)
            with suppress_seqcls_warning():
                model = create_model_from_path(model, MetaRMForSequenceClassification, **options)
            args.model_init_kwargs = None  # `RewardTrainer` would warn that they are ignored
        base = as_meta_rm(base_model(model))
        keep_trainable(base)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **{**kwargs, "compute_metrics": kwargs.get("compute_metrics") or classification_metrics},
        )
        args.model_init_kwargs = init_kwargs
        if kwargs.get("data_collator") is None:
            multiple = args.pad_to_multiple_of
            self.data_collator = DataCollatorWithPadding(self.processing_class, pad_to_multiple_of=multiple)
        base.config.meta_rm = {**base.config.meta_rm, "tokenizer": tokenizer_digest(self.processing_class)}
        base.config.meta_rm["chat_template_kwargs"] = args.variables
        template = args.template or described(base.config).get("template")
        if template is not None:
            base.config.meta_rm["template"] = judge_template(template).digest
        # `RewardTrainer` has no labels and evaluates the loss alone.
        self.label_names = ["labels"]
        self._report_balance()

    @overrides_trl
    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        if not isinstance(dataset, Dataset):
            raise TypeError(f"The {dataset_name} dataset is {type(dataset).__name__}; expected a `datasets.Dataset`.")
        columns = dataset.column_names
        if "input_ids" in columns and "label" in columns:
            return dataset
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise ValueError(
                f"The {dataset_name} dataset has the columns {sorted(columns)} and lacks {missing}; expected "
                f"{list(COLUMNS)}, or `input_ids` and `label`. Make it with `trl_spct.data.meta_rows.meta_rows`."
            )
        if "order" in columns:
            raise ValueError(
                f"The {dataset_name} dataset has the column `order`, which an earlier version wrote beside responses "
                "in the order that the judge read; expected `read_order`. Make the rows again from trajectories."
            )
        with global_then_local_main_first():
            encoded = dataset.map(
                encode_row,
                with_indices=True,
                fn_kwargs={"tokenizer": processing_class, "args": args, "dataset_name": dataset_name},
                remove_columns=columns,
                features=FEATURES,
                num_proc=args.dataset_num_proc,
                load_from_cache_file=False,  # a cache would not notice another prompt in a new version
                desc=f"Tokenizing {dataset_name} dataset",
            )
        return _without_problems(encoded, args.invalid_rows, dataset_name)

    def _report_balance(self) -> None:
        """Logs the numbers of correct and incorrect critiques, and warns if a class is rare."""
        correct = sum(label > 0.5 for label in self.train_dataset["label"])
        incorrect = len(self.train_dataset) - correct
        self.balance = {"correct": correct, "incorrect": incorrect}
        counts = f"Found {correct} correct and {incorrect} incorrect critiques"
        if self.args.pos_weight is not None or min(correct, incorrect) >= RARE * (correct + incorrect):
            logger.info(f"{counts}; pos_weight={self.args.pos_weight}.")
        else:
            weight = f", or set `pos_weight={incorrect / correct:.3g}`" if correct and incorrect else ""
            logger.warning(
                f"{counts}; expected at least {RARE:.0%} of each. A Meta RM that learns only the common class ranks "
                f"nothing: collect more of the rare class{weight}."
            )

    @overrides_trl
    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            self._signature_columns = ["input_ids", "label"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        loss = meta_loss(outputs.logits, labels, self.args.pos_weight)
        if self.model.training:
            self._log_batch(inputs["attention_mask"], outputs.logits, labels)
        self._metrics["train" if self.model.training else "eval"]["num_tokens"] = [self._total_train_tokens]
        return (loss, outputs) if return_outputs else loss

    def train(self, *args, **kwargs):
        with locked(self.args.output_dir, self.accelerator.process_index):
            return super().train(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        model = self.accelerator.unwrap_model(self.model)
        folder = output_dir or self.args.output_dir
        if is_peft_model(model) and self.args.should_save and folder:  # an adapter is saved without the config
            write_json(Path(folder, EXTRAS_NAME), base_model(model).config.meta_rm)

    def card_facts(self) -> dict[str, Any]:
        facts = {**super().card_facts(), **self.balance}
        if self.args.pos_weight is not None:
            facts["weight of a correct critique"] = f"{self.args.pos_weight:.3g}"
        facts["guidance"] = str(Guidance.of(base_model(self.model).config.meta_rm))
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
) -> dict[str, Any]:
    """`input_ids` and `label` of a row, or the `problem` and its `cause` if the row is invalid."""
    problem, cause, ids, label = "", "", [], 0.0
    try:
        preference, critique, label = read_row(row)
        messages = meta_messages(preference, critique, special_tokens(tokenizer))
        ids = encode_meta(tokenizer, messages, **args.variables)
        if args.max_length is not None and len(ids) > args.max_length:
            raise InvalidPreference(
                f"Found {len(ids)} tokens; expected at most max_length={args.max_length}. Raise it, or shorten the "
                "row.",
                "length",
            )
    except InvalidPreference as error:
        problem, cause, ids = f"{dataset_name} row {index}: {error}", error.cause, []
    return {"input_ids": ids, "label": float(label), "problem": problem, "cause": cause}


def read_row(row: Mapping[str, Any]) -> tuple[Preference, str, float]:
    """The preference in the order that the judge read, the critique and the label of a row."""
    preference = Preference(query=row["query"], responses=row["responses"])
    order = row.get("read_order")
    if order is not None:
        try:
            preference = preference.permuted(order)
        except (TypeError, ValueError) as error:
            raise InvalidPreference(
                f"Found the order {order} for {len(preference)} responses; expected each index once: {error}", "order"
            ) from error
    critique, label = row["critique"], row["label"]
    if not isinstance(critique, str) or not critique.strip():
        raise InvalidPreference(f"Found the critique {critique!r:.40}; expected a text that is not empty.", "critique")
    if isinstance(label, str) or label not in (0, 1):
        raise InvalidPreference(
            f"Found the label {label!r:.40}; expected 1 (the critique is correct) or 0, see `meta_label`.", "label"
        )
    return preference, critique, float(label)


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


def _check_head_is_trained(peft_config: Any) -> None:
    saved = getattr(peft_config, "modules_to_save", None) or ()
    if getattr(peft_config, "task_type", None) != "SEQ_CLS" and "score" not in saved:
        raise ValueError(
            f"Found an adapter with task_type={peft_config.task_type!r}; expected 'SEQ_CLS', without which the head "
            "stays random and is not saved. Set task_type='SEQ_CLS' or modules_to_save=['score'] in a `peft_config`; "
            "merge the adapter of a judge (`merge_and_unload`) and start from the merged model."
        )


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
        dataset = dataset.filter(lambda row: not row["problem"])
    if len(dataset) == 0:
        raise ValueError(f"The {dataset_name} dataset has no usable row; expected at least one. Dropped: {causes}.")
    return dataset.remove_columns(["problem", "cause"])
