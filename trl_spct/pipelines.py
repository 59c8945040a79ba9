# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("grm-reward")`: n responses in, k critiques, one vote (paper, sections 2.1, 3 and 6)."""

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Pipeline, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import CONFIG_NAME, cached_file

from .meta_scoring import meta_scores
from .modeling_meta_rm import MetaRMForSequenceClassification
from .orders import ORDERS, draw_orders
from .outcomes import highest
from .preferences import InvalidPreference, Preference, restore_order
from .prompts import conversation_text, judge_messages, judge_template, meta_messages
from .sampling import (
    PromptTooLongError,
    check_sampling,
    check_tokenizer,
    context_length,
    derive_seed,
    read_sample,
    sample_critiques,
    special_tokens,
)
from .voting import VOTING_TEMPERATURE, Guidance, vote, weighted_vote


TASK = "grm-reward"
_META_BATCH_SIZE = 32
DEFAULT_MODEL = ("BBQGOD/DeepSeek-GRM-16B", "main")


class GRMRewardPipeline(Pipeline):
    """Generative reward model: scores any number of responses to a query by the vote of k critiques.

    ```python
    >>> import trl_spct
    >>> from transformers import pipeline

    >>> judge = pipeline("grm-reward", model="path/or/id")
    >>> verdict = judge({"query": "Name a prime.", "responses": ["4", "7"]}, k=8, seed=0)
    >>> verdict["scores"], verdict["best"]
    ([11, 71], 1)
    ```

    A row is a mapping in any shape that [`Preference.from_row`] reads; labels are not needed and never shown to the
    judge. A list of rows gives a list; an iterator or a `datasets.Dataset` gives an iterator.

    Each result is a `dict`:

    - `scores` (`list[float]` of length n, or `None`): the votes' sums in the order of the row's responses; `None` if
      no critique could be read.
    - `best` (`int` or `None`): a response with the highest sum; drawn at random (with the seed) from `tied`.
    - `tied` (`list[int]`): all responses with the highest sum.
    - `k`, `votes` (`int`): critiques sampled, and critiques that were counted.
    - `critiques` (`list[dict]` of length k, as they were drawn): `text`; `num_tokens`; `scores` (in the order of the
      row's responses) or `None`; `problem` (see [`Critique`], or `"truncated"` if it ran into the token limit);
      `order` (`order[p]` is the response that the judge read as number p + 1); `meta_score` or `None`; `counted`.

    Args:
        meta_rm ([`MetaRMForSequenceClassification`] or `str`, *optional*):
            A Meta RM, or where to load one from. It guides the vote: see `guide` and `k_meta`.
        meta_rm_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to the one beside `meta_rm` if that is a path or an id, else to the judge's.
        k (`int`, *optional*, defaults to `1`): Critiques per row.
        temperature (`float`, *optional*): Defaults to 0.5 for k > 1 and to 0, greedy, for k = 1.
        top_p (`float`, *optional*, defaults to `1.0`): Nucleus sampling. There is no top-k.
        max_new_tokens (`int`, *optional*):
            Longest critique in tokens. Defaults to the model's generation config, else to 1024 or half of the context,
            whichever is less.
        seed (`int`, *optional*): Makes orders and samples repeatable, whatever the batch size.
        order (`str`, *optional*, defaults to `"random"`):
            `"random"`: a fresh order of the responses for each critique, undone on its scores (paper). `"fixed"`: the
            row's own order. A greedy critique (`temperature=0`) of one row is read in one order only if k = 1.
        guide (`str`, *optional*):
            How the Meta RM guides: `"top"`, the `k_meta` best critiques vote; `"soft"`, all of them do, each weighted
            by the Meta RM's probability that it is correct. Defaults to what the Meta RM's config says, else `"top"`.
        k_meta (`int` or `float`, *optional*):
            Critiques that vote under `guide="top"`: how many, or which share of k. Defaults to what the Meta RM's
            config says, else to `max(1, k // 2)`.
        template (`str`, *optional*):
            Prompt template, see [`judge_template`]. Defaults to the one that the judge's config names, else `"paper"`.
        verdict (`bool`, *optional*, defaults to `False`):
            For single responses: ask for 0 or 1, as in training, instead of a score from 1 to 10.
        batch_size (`int`, *optional*, defaults to `1`): Rows judged together; `batch_size * k` critiques are decoded
            at once.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, *args, meta_rm=None, meta_rm_tokenizer=None, **kwargs):
        super().__init__(*args, **kwargs)
        check_tokenizer(self.tokenizer)
        self.meta_rm, self.meta_rm_tokenizer = self._load_meta_rm(meta_rm, meta_rm_tokenizer)

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Saves the judge, its tokenizer and this code, so that `pipeline("grm-reward", …, trust_remote_code=True)`
        loads them where this package is absent. A Meta RM is saved by its own `save_pretrained`."""
        config = self.model.config
        before = vars(config).get("custom_pipelines")
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:  # other copies of the model come without the code
            if before is None:
                vars(config).pop("custom_pipelines", None)
            else:
                config.custom_pipelines = before

    def _load_meta_rm(
        self, meta_rm: PreTrainedModel | str | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase | None]:
        if meta_rm is None:
            return None, None
        if not isinstance(meta_rm, torch.nn.Module):
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(meta_rm)
            meta_rm = MetaRMForSequenceClassification.from_pretrained(meta_rm, dtype=self.model.dtype)
        tokenizer = tokenizer or self.tokenizer
        check_tokenizer(tokenizer)
        if meta_rm.device != self.device:  # quantized models refuse even to stay where they are
            meta_rm = meta_rm.to(self.device)
        return meta_rm.eval(), tokenizer

    def _sanitize_parameters(
        self,
        k=None,
        temperature=None,
        top_p=None,
        max_new_tokens=None,
        seed=None,
        order=None,
        k_meta=None,
        guide=None,
        template=None,
        verdict=None,
        **unknown,
    ):
        if unknown:
            raise TypeError(f"{type(self).__name__} got unknown parameters {sorted(unknown)}.")
        if k is not None and k < 1:
            raise ValueError(f"Found k={k}; expected at least one critique per row.")
        if order is not None and order not in ORDERS:
            raise ValueError(f"Found order={order!r}; expected one of {', '.join(map(repr, ORDERS))}.")
        Guidance(k_meta, guide or "top")
        check_sampling(temperature, top_p, max_new_tokens)
        if template is not None:
            judge_template(template)
        reading = {"k": k, "seed": seed, "order": order}
        sampling = {
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
            "template": template,
            "verdict": verdict,
        }
        return _given(reading), _given(sampling), _given({"k_meta": k_meta, "guide": guide})

    def __call__(self, inputs, **kwargs):
        if hasattr(inputs, "column_names") and not isinstance(inputs, Mapping):
            inputs = (row for row in inputs)  # a `datasets` dataset, which `Pipeline` would take for one row
        elif isinstance(inputs, Iterator):
            inputs = (row for row in inputs)  # `Pipeline` knows generators only
        elif isinstance(inputs, tuple):
            inputs = list(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        if preprocess_params.get("seed") is None:
            preprocess_params = {**preprocess_params, "seed": int(torch.randint(2**31, (1,)))}
        guidance = self._guidance(**postprocess_params)
        return self._judge(inputs, batch_size, preprocess_params, forward_params, {"guidance": guidance})

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        return next(iter(self.get_iterator([inputs], 0, 1, preprocess_params, forward_params, postprocess_params)))

    def _judge(
        self, rows: Iterable[Any], batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[dict[str, Any]]:
        rows = enumerate(rows)
        while batch := list(islice(rows, batch_size)):
            inputs = [self._preprocess_numbered(number, row, preprocess_params) for number, row in batch]
            try:
                outputs = self.forward(inputs, **forward_params)
            except PromptTooLongError as error:
                row = batch[error.row][0]
                raise PromptTooLongError(f"Row {row}", *error.lengths, row) from None
            for output in outputs:
                yield self.postprocess(output, **postprocess_params)

    def _preprocess_numbered(self, number: int, row: Any, params: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.preprocess(row, **params)
        except InvalidPreference as error:
            raise InvalidPreference(f"Row {number}: {error}", error.cause) from None
        except ValueError as error:
            raise ValueError(f"Row {number}: {error}") from None

    def preprocess(self, row, k: int = 1, seed: int = 0, order: str = "random") -> dict[str, Any]:
        """Reads a row, and draws the order in which each of its k critiques will see the responses."""
        preference = row if isinstance(row, Preference) else Preference.from_row(row)
        for text in (conversation_text(preference.query), *preference.responses):
            text.encode()  # lone surrogates, which no tokenizer reads, are a `ValueError` here
        draw = random.Random(derive_seed(seed, "order", *preference.responses))
        return {"preference": preference, "orders": draw_orders(len(preference), k, order, draw), "seed": seed}

    def _forward(
        self,
        inputs: list[dict[str, Any]],
        temperature: float | None = None,
        top_p: float = 1.0,
        max_new_tokens: int | None = None,
        template: str | None = None,
        verdict: bool = False,
    ) -> list[dict[str, Any]]:
        """Samples and reads the critiques of a batch of rows; critiques of a row in the same order share a prefill."""
        template = template or (getattr(self.model.config, "grm", None) or {}).get("template", "paper")
        k = len(inputs[0]["orders"])
        fences = special_tokens(self.tokenizer)
        groups = [(row, order) for row, item in enumerate(inputs) for order in dict.fromkeys(item["orders"])]
        try:
            samples = sample_critiques(
                self.model,
                self.tokenizer,
                [
                    judge_messages(
                        _unlabeled(inputs[row], order), template, _is_verdict(inputs[row], verdict), False, fences
                    )
                    for row, order in groups
                ],
                [inputs[row]["orders"].count(order) for row, order in groups],
                inputs[0]["seed"],
                temperature=(VOTING_TEMPERATURE if k > 1 else 0.0) if temperature is None else temperature,
                top_p=top_p,
                max_new_tokens=self._default_length() if max_new_tokens is None else max_new_tokens,
                batch_size=len(inputs) * k,
            )
        except PromptTooLongError as error:
            row = groups[error.row][0]
            raise PromptTooLongError(f"Row {row}", *error.lengths, row) from None
        drawn = {group: iter(texts) for group, texts in zip(groups, samples, strict=True)}
        for row, item in enumerate(inputs):
            score_range = judge_template(template, _is_verdict(item, verdict)).score_range
            item["critiques"] = [_read(next(drawn[row, order]), order, score_range) for order in item["orders"]]
        self._add_meta_scores(inputs)
        return inputs

    def _default_length(self) -> int:
        configured = getattr(self.model.generation_config, "max_new_tokens", None)
        context = context_length(self.model.config)
        return configured or (min(1024, context // 2) if context else 1024)

    def _add_meta_scores(self, inputs: list[dict[str, Any]]) -> None:
        if self.meta_rm is None:
            return
        fences = special_tokens(self.meta_rm_tokenizer)
        critiques = [(item, critique) for item in inputs for critique in item["critiques"] if critique["scores"]]
        conversations = [
            meta_messages(_unlabeled(item, critique["order"]), critique["text"], fences)
            for item, critique in critiques
        ]
        scores = meta_scores(self.meta_rm, self.meta_rm_tokenizer, conversations, _META_BATCH_SIZE)
        for (_, critique), score in zip(critiques, scores, strict=True):
            critique["meta_score"] = score

    @property
    def guidance(self) -> Guidance | None:
        """How the Meta RM guides unless a call says otherwise; `None` without one."""
        return self._guidance(**self._postprocess_params)

    def _guidance(self, **asked) -> Guidance | None:
        return None if self.meta_rm is None else Guidance.of(getattr(self.meta_rm.config, "meta_rm", None), **asked)

    def postprocess(self, output: dict[str, Any], guidance: Guidance | None = None) -> dict[str, Any]:
        """Counts the votes of one row; all readable critiques vote alike without a `guidance`."""
        critiques = output["critiques"]
        rows = [critique["scores"] for critique in critiques]
        if guidance is None:
            weights, scores = [int(row is not None) for row in rows], vote(rows)
        else:
            weights = guidance.weights(rows, [critique["meta_score"] for critique in critiques])
            scores = weighted_vote(rows, weights)
        for critique, weight in zip(critiques, weights, strict=True):
            critique["counted"] = weight > 0
        tied = [] if scores is None else list(highest(scores))
        draw = random.Random(derive_seed(output["seed"], "tie", *output["preference"].responses))
        return {
            "scores": None if scores is None else list(scores),
            "best": draw.choice(tied) if tied else None,
            "tied": tied,
            "k": len(critiques),
            "votes": sum(critique["counted"] for critique in critiques),
            "critiques": critiques,
        }


def _unlabeled(item: dict[str, Any], order: tuple[int, ...]) -> Preference:
    preference = item["preference"].permuted(order)
    return Preference(preference.query, preference.responses, reference=preference.reference)


def _is_verdict(item: dict[str, Any], verdict: bool) -> bool:
    return verdict and len(item["preference"]) == 1


def _read(sample, order: tuple[int, ...], score_range: tuple[int, int]) -> dict[str, Any]:
    critique = read_sample(sample, len(order), score_range)
    scores = restore_order(critique.scores, order)
    return {
        "text": sample.text,
        "scores": None if scores is None else list(scores),
        "problem": critique.problem,
        "order": list(order),
        "meta_score": None,
        "counted": False,
        "num_tokens": sample.num_tokens,
    }


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


class _Default(dict):
    """The model that a bare task resolves to. Where it cannot be had, transformers' own error names no model."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if name == "model":
            try:
                cached_file(value[0], CONFIG_NAME, revision=value[1])
            except OSError as error:
                raise OSError(
                    f'Found no model for "{TASK}" and could not load the default, {value[0]}. Name a judge, by id or '
                    f'local path: `pipeline("{TASK}", model="path/to/judge")`.'
                ) from error
        return value


def register() -> None:
    """Makes `pipeline("grm-reward")` work. Without a model it resolves to the released 16B judge."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=GRMRewardPipeline,
            pt_model=AutoModelForCausalLM,
            default=_Default(model=DEFAULT_MODEL),
            type="text",
        )
