# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("grm-reward")`: n responses in, k critiques, one vote (paper, sections 2.1, 3 and 6)."""

import logging
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Pipeline,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import CONFIG_NAME, cached_file

from .critiques import read_principles
from .hub import pushing, upload
from .meta_scoring import check_fit, check_template, meta_scores
from .modeling_meta_rm import MetaRMForSequenceClassification
from .orders import ORDERS, align_blocks, derive_seed, draw_orders, split_blocks
from .outcomes import highest
from .preferences import InvalidPreference, Messages, Preference, restore_order
from .prompts import OFFICIAL, judge_messages, judge_template, meta_messages, principle_messages
from .repositories import (
    META_RM_FOLDER,
    AutoModelForCausalLM,
    describe_adapter,
    described,
    locate_meta_rm,
    official_template,
)
from .sampling import (
    EngineError,
    PromptTooLongError,
    Sample,
    Sampler,
    check_sampling,
    check_tokenizer,
    context_length,
    read_sample,
    sample_critiques,
    special_tokens,
)
from .stopping import critiques_to_go, decided
from .templates import JudgeTemplate
from .truncation import Cuts, fit_preference, prompt_length
from .voting import VOTING_TEMPERATURE, Guidance, weighted_vote


logger = logging.getLogger(__name__)

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

    If the server of an engine fails, an [`~trl_spct.engines.EngineError`] names the row, and its `completed` maps the
    numbers of rows to the verdicts that were not yet handed out: all of them for a list, those of the same batch for
    an iterator. Judging the other rows with the seed that it names gives the same as if nothing had happened.

    Each result is a `dict`:

    - `scores` (`list[float]` of length n, or `None`): the votes' sums in the order of the row's responses; `None` if
      no critique could be read. They are sums over fewer critiques if sampling stopped early, and of a row that was
      judged in blocks the aligned means times k.
    - `best` (`int` or `None`): a response with the highest sum; drawn at random (with the seed) from `tied`.
    - `tied` (`list[int]`): all responses with the highest sum.
    - `k`, `drawn`, `votes` (`int`): critiques asked for, sampled and counted. Fewer are sampled than asked for only
      with `early_stopping`, and more (k for each block) only in blocks.
    - `weight` (`int` or `float`): what all votes weigh, so that `scores` over `weight` are means per vote: their
      number, unless `guide="soft"`; in blocks k.
    - `problems` (`dict[str, int]`): how many critiques could not be read, by cause.
    - `critiques` (`list[dict]`, as they were drawn): `text`; `num_tokens`; `scores` (in the order of the row's
      responses) or `None`; `problem` (see [`Critique`], or `"truncated"` if it ran into the token limit); `order`
      (`order[p]` is the response that the judge read as number p + 1); `meta_score` or `None`; `counted`. In blocks
      they follow block by block, with the score `None` for responses that are not in the block.
    - `truncated` (`dict` or `None`): tokens that were left out of the `query`, of each of the `responses` and of the
      `reference`.
    - `blocks` (`dict` or `None`): the `responses` of each block, the `anchor` that stands in all of them, and its mean
      score in each of them (`anchor_scores`). See [`~trl_spct.judge.orders.align_blocks`].

    Args:
        model ([`~transformers.PreTrainedModel`] or a sampler):
            The judge. A sampler, for instance an [`~trl_spct.engines.OpenAIEngine`], judges over a server:
            `GRMRewardPipeline(engine)`. `pipeline` also takes a path or an id, of an adapter too.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The judge's, with a chat template. A sampler brings its own, or does without.
        meta_rm ([`MetaRMForSequenceClassification`] or `str`, *optional*, defaults to `"auto"`):
            A Meta RM, or where to load one from. It guides the vote: see `guide` and `k_meta`. `"auto"` takes the one
            that the judge's repository carries or names, if it does; `None` or `False` takes none. One that says that
            plain voting is best (`k_meta=1.0` in its config) scores no critique, unless a `guide` or a `k_meta` is
            asked for: `k_meta=1.0` for its scores beside a plain vote.
        meta_rm_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to the one beside `meta_rm` if that is a path or an id, else to the judge's.
        k (`int`, *optional*, defaults to `1`): Critiques per row.
        temperature (`float`, *optional*): Defaults to 0.5 for k > 1 and to 0, greedy, for k = 1.
        top_p (`float`, *optional*, defaults to `1.0`): Nucleus sampling. There is no top-k.
        max_new_tokens (`int`, *optional*):
            Longest critique in tokens. Defaults to the model's generation config, else to 1024 or half of the context,
            whichever is less.
        seed (`int`, *optional*): Makes orders and samples repeatable, whatever the batch size.
        order (`str`, *optional*, defaults to `"balanced"`):
            In which order each critique reads the responses, which is undone on its scores. `"balanced"` (ours): the n
            rotations of a random order in turn, so that each response stands in each place equally often and no more
            than n prompts are read. `"random"`: a fresh order for each critique (paper). `"fixed"`: the row's own.
            Balanced is the default for its fewer prompts, 2.7 a row instead of 4.0 at k = 8, at no visible loss: over
            three base judges of the tiny world, 512 rows each, four times, Voting@2 −0.7 (95 % interval −1.8 to +0.5),
            @4 −0.3 (−1.4 to +0.8), @8 −0.3 (−1.3 to +0.7) points (`tests/measurements/orders.py --repeats 4`).
        early_stopping (`str` or `float`, *optional*):
            Stop sampling for a row when the vote of all k critiques is decided. `"exact"`: when no critiques that are
            left could change the winner. A `float` such as 0.05: when another winner is that improbable, see
            [`decided`]. The critiques are the first of those that would have been sampled otherwise,
            and `best` is meant to be the same; `scores` are sums over those that were. A single response stops early
            only with `binary`, rows in blocks never do. With random orders at k = 32 three stages of judges of the
            tiny world needed 12, 17 and 31 % fewer critiques with `"exact"`, and 29, 40 and 67 % fewer with 0.05, with
            which 0.13, 0.07 and 0 % of 1536 rows got another winner (`tests/measurements/deciding.py`).
        guide (`str`, *optional*):
            How the Meta RM guides: `"top"`, the `k_meta` best critiques vote; `"soft"`, all of them do, each weighted
            by the Meta RM's probability that it is correct. Defaults to what the Meta RM's config says, else `"top"`.
        k_meta (`int` or `float`, *optional*):
            Critiques that vote under `guide="top"`: how many, or which share of k. Defaults to what the Meta RM's
            config says, else to `max(1, k // 2)`.
        template (`str`, *optional*):
            Prompt template, see [`judge_template`]. Defaults to the one that the judge's config names, else `"paper"`.
            `"official"` is the one on the judge's own model card if it is a released one or a folder with its card,
            else the one on the card of `BBQGOD/DeepSeek-GRM-27B`.
        binary (`bool`, *optional*, defaults to `False`):
            For single responses: ask for 0 or 1, as in training, instead of a score from 1 to 10.
        max_responses_per_prompt (`int` or `str`, *optional*):
            Judge rows with more responses in blocks with a shared anchor (ours). `"auto"`: as many as fit into the
            judge's context.
        truncation (`str`, *optional*):
            What to do with a row that does not fit into the judge's context. By default it is refused, with the
            numbers. `"fair"`: cut its texts, all responses alike, see [`~trl_spct.judge.truncation.fit_preference`].
        batch_size (`int`, *optional*, defaults to `1`): Rows judged together; `batch_size * k` critiques are decoded
            at once.
    """

    write_card = None  # set by the package: its card templates do not travel with the code
    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, model, tokenizer=None, *args, meta_rm="auto", meta_rm_tokenizer=None, **kwargs):
        if not isinstance(model, torch.nn.Module):
            tokenizer = tokenizer or getattr(model, "tokenizer", None)
            model = _EngineModel(model)
        super().__init__(model, tokenizer, *args, **kwargs)
        if self.engine is None or self.tokenizer is not None:
            check_tokenizer(self.tokenizer)
        if "template" in self._forward_params:
            self._template(self._forward_params["template"])
        self.meta_rm, self.meta_rm_tokenizer = self._load_meta_rm(meta_rm, meta_rm_tokenizer)

    @property
    def engine(self) -> Sampler | None:
        """The sampler that takes the place of a model; `None` if there is a model."""
        return getattr(self.model, "engine", None)

    def save_pretrained(self, save_directory: str | os.PathLike, include_code: bool = False, **kwargs) -> None:
        """Saves the judge and its tokenizer as a plain model repository, and its Meta RM as a folder of it.

        Args:
            save_directory (`str` or `os.PathLike`): Where to.
            include_code (`bool`, *optional*, defaults to `False`):
                Copy this code as well, so that `pipeline("grm-reward", …, trust_remote_code=True)` runs where this
                package is not installed. Without this package such a repository asks for `trust_remote_code=True`; a
                plain one is a causal language model like any other.
            **kwargs: As for [`~transformers.PreTrainedModel.save_pretrained`].

        Raises:
            `ValueError`: over an engine, whose model is elsewhere; and for code beside an adapter, which has no config
                to name it.
        """
        if self.engine is not None:
            raise ValueError("Found an engine, whose model is not in this process; there is nothing to save.")
        adapter = hasattr(self.model, "peft_config")
        if adapter and include_code:
            raise ValueError(
                "Found an adapter, whose repository has no config to name the code. Merge it into its base first "
                "(`model.merge_and_unload()`), or leave `include_code` out."
            )
        entry = {name: value for name, value in described(self.model.config).items() if name != "meta_rm"}
        named = described(self.model.config).get("meta_rm") or "./"
        if self.meta_rm is not None:
            entry["meta_rm"] = META_RM_FOLDER
        elif not named.startswith("./"):
            entry["meta_rm"] = named
        # `pipeline` hands a quantization on to the tokenizer, whose file cannot hold it.
        getattr(self.tokenizer, "init_kwargs", {}).pop("quantization_config", None)
        with _changed(self.model.config, grm=entry or None, custom_pipelines=None):
            if include_code:
                super().save_pretrained(save_directory, **kwargs)
            else:
                self.model.save_pretrained(save_directory, **kwargs)
                self.tokenizer.save_pretrained(save_directory)
        if self.meta_rm is not None:
            folder = os.path.join(save_directory, META_RM_FOLDER)
            self.meta_rm.save_pretrained(folder)
            self.meta_rm_tokenizer.save_pretrained(folder)
        if adapter:
            describe_adapter(save_directory, entry)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        include_code: bool = False,
        commit_message: str = "Upload judge",
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tags: Sequence[str] | None = None,
        **kwargs,
    ) -> str:
        """Pushes what [`~GRMRewardPipeline.save_pretrained`] saves to the Hub, with a card.

        A card that is there stays. Otherwise it is that of where the judge was loaded from, if this was made by our
        trainers, or one that says how to use the judge.

        Args:
            repo_id (`str`): Where to; the repository is created if it is not there.
            include_code (`bool`, *optional*, defaults to `False`): As for `save_pretrained`.
            commit_message, commit_description, private, token, revision, create_pr, tags (*optional*):
                As for [`~transformers.utils.PushToHubMixin.push_to_hub`].
            **kwargs: For `save_pretrained`, such as `max_shard_size`.

        Returns:
            `str`: address of the commit.

        Raises:
            [`~trl_spct.judge.hub.PushError`]: if it fails, saying how to push again.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, include_code=include_code, **kwargs)

            def write_card(full_id: str) -> None:
                if self.write_card is not None:
                    self.write_card(folder, full_id, include_code, tags or (), token, revision)

            again = f"judge.push_to_hub({repo_id!r}{', include_code=True' if include_code else ''})"
            with pushing(repo_id, "the judge is in memory", again):
                return upload(
                    folder,
                    repo_id,
                    "model",
                    commit_message,
                    private,
                    token,
                    write_card,
                    commit_description=commit_description,
                    revision=revision,
                    create_pr=create_pr,
                )

    def _load_meta_rm(
        self, meta_rm: PreTrainedModel | str | bool | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase | None]:
        if meta_rm is None or meta_rm is False:
            return None, None
        if not isinstance(meta_rm, torch.nn.Module):
            located = locate_meta_rm(self.model) if meta_rm == "auto" else (meta_rm, {})
            if located is None:
                return None, None
            name, place = located
            try:
                meta_rm = MetaRMForSequenceClassification.load_trained(name, dtype=self.model.dtype, **place)
            except (OSError, ValueError) as error:  # which is of either kind where a folder or its config is missing
                raise OSError(
                    f"Could not load the Meta RM {name!r}{f' {place}' if place else ''}: {error} Pass another "
                    "`meta_rm`, or `meta_rm=None` to vote without one."
                ) from error
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(name, **place)
        tokenizer = tokenizer or self.tokenizer
        check_tokenizer(tokenizer)
        check_fit(meta_rm, tokenizer, self._template(self._forward_params.get("template")))
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
        binary=None,
        early_stopping=None,
        max_responses_per_prompt=None,
        truncation=None,
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
        if template not in (None, OFFICIAL):  # whose card depends on the model
            judge_template(template)
        _error(early_stopping)
        _check_most(max_responses_per_prompt)
        if truncation not in (None, False, "fair"):
            raise ValueError(f"Found truncation={truncation!r}; expected 'fair', or False to refuse what is too long.")
        reading = {"k": k, "seed": seed, "order": order}
        judging = {
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
            "template": template,
            "binary": binary,
            "early_stopping": early_stopping,
            "max_responses_per_prompt": max_responses_per_prompt,
            "truncation": truncation,
        }
        return _given(reading), _given(judging), _given({"k_meta": k_meta, "guide": guide})

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
        if guidance is not None and guidance.plain and not postprocess_params:
            guidance = None  # nobody asked for scores that no vote needs
        guided = {"guidance": guidance}
        if (error := _error(forward_params.get("early_stopping"))) is not None:
            decided((), 0, error=error, **guided)  # refuses what does not go together before anything is sampled
        return self._judge(inputs, batch_size, preprocess_params, {**forward_params, **guided}, guided)

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        return next(iter(self.get_iterator([inputs], 0, 1, preprocess_params, forward_params, postprocess_params)))

    def _judge(
        self, rows: Iterable[Any], batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[dict[str, Any]]:
        returned = isinstance(rows, list)  # at the end, all at once; what is yielded is the caller's
        judged: dict[int, dict[str, Any]] = {}
        rows = enumerate(rows)
        while batch := list(islice(rows, batch_size)):
            inputs = [self._preprocess_numbered(number, row, preprocess_params) for number, row in batch]
            try:
                outputs = self.forward(inputs, **forward_params)
            except PromptTooLongError as error:
                row = batch[error.row][0]
                raise PromptTooLongError(f"Row {row}", *error.lengths, row) from None
            except _Interrupted as stop:
                judged |= {batch[item["row"]][0]: self.postprocess(item, **postprocess_params) for item in stop.done}
                row = None if stop.row is None else batch[stop.row][0]
                raise _failure(stop.error, row, judged, preprocess_params["seed"]) from stop.error
            for (number, _), output in zip(batch, outputs, strict=True):
                verdict = self.postprocess(output, **postprocess_params)
                if returned:
                    judged[number] = verdict
                yield verdict

    def _preprocess_numbered(self, number: int, row: Any, params: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.preprocess(row, **params)
        except InvalidPreference as error:
            raise InvalidPreference(f"Row {number}: {error}", error.cause) from None
        except ValueError as error:
            raise ValueError(f"Row {number}: {error}") from None

    def preprocess(self, row, k: int = 1, seed: int = 0, order: str = "balanced") -> dict[str, Any]:
        """Reads a row, and draws the order in which each of its k critiques will see the responses."""
        preference = row if isinstance(row, Preference) else Preference.from_row(row)
        return _case(replace(preference, labels=None), k, seed, order)

    def _forward(
        self,
        inputs: list[dict[str, Any]],
        temperature: float | None = None,
        top_p: float = 1.0,
        max_new_tokens: int | None = None,
        template: str | None = None,
        binary: bool = False,
        early_stopping: str | float | None = None,
        max_responses_per_prompt: int | str | None = None,
        truncation: str | None = None,
        guidance: Guidance | None = None,
    ) -> list[dict[str, Any]]:
        """Samples and reads the critiques of a batch of rows, in rounds if rows may leave when they are decided."""
        k, error = inputs[0]["k"], _error(early_stopping)
        template = self._template(template)
        if self.meta_rm is not None:
            check_template(getattr(self.meta_rm.config, "meta_rm", None), template)
        options = {
            "temperature": (VOTING_TEMPERATURE if k > 1 else 0.0) if temperature is None else temperature,
            "top_p": top_p,
            "max_new_tokens": self._default_length() if max_new_tokens is None else max_new_tokens,
        }
        for row, item in enumerate(inputs):
            item["row"] = row
            item["parts"] = self._parts(item, template, binary, options, max_responses_per_prompt, truncation)
            for part in item["parts"]:
                part["row"], part["error"] = row, error if len(item["parts"]) == 1 else None
        parts = [part for item in inputs for part in item["parts"]]
        while rounds := [(part, count) for part in parts if (count := _next_count(part, guidance))]:
            drawn, failure = self._draw(rounds, template, options)
            if guidance is not None:
                self._add_meta_scores(drawn)
            if failure is not None:
                done = [item for item in inputs if not any(_next_count(part, guidance) for part in item["parts"])]
                raise _Interrupted(*failure, done)
        return inputs

    def _parts(self, item, template: str, binary: bool, options, most: int | str | None, truncation: str | None):
        """What is judged in one prompt each: the whole row, or its blocks; cut if need be and asked for."""
        preference, responses, seed = item["preference"], item["preference"].responses, item["seed"]
        binary = binary and len(preference) == 1
        limit, room = context_length(self.model.config), options["max_new_tokens"]
        if (most == "auto" or truncation) and self.tokenizer is None:
            raise ValueError(
                "Found max_responses_per_prompt='auto' or a truncation over an engine without a tokenizer; expected "
                "one to count tokens with: `GRMRewardPipeline(engine, tokenizer=…)`."
            )

        def blocks_of(most: int) -> list[tuple[tuple[int, ...], Preference]]:
            blocks = split_blocks(len(preference), most, random.Random(derive_seed(seed, "blocks", *responses)))
            return [(block, replace(preference, responses=tuple(responses[i] for i in block))) for block in blocks]

        def fits(block: Preference) -> bool:
            return limit is None or prompt_length(block, self.tokenizer, template, binary) + room <= limit

        blocks = blocks_of(len(responses) if most in (None, "auto") else most)
        while most == "auto" and len(blocks[0][0]) > 2 and not all(fits(block) for _, block in blocks):
            blocks = blocks_of(len(blocks[0][0]) - 1)  # the first block is of the largest
        parts = []
        for members, block in blocks:
            part = item if len(blocks) == 1 else _case(block, item["k"], seed, item["order"])
            cuts = None
            if truncation:
                block, cuts = fit_preference(
                    block, self.tokenizer, limit, room, template=template, binary=binary, row=item["row"]
                )
            reader = judge_template(template, binary)
            fixed = {"binary": binary, "template": reader, "score_range": reader.score_range}
            parts.append({**part, **fixed, "preference": block, "members": members, "cuts": cuts, "critiques": []})
        return parts

    def _draw(
        self, rounds: list[tuple[dict[str, Any], int]], template: str, options: dict[str, Any]
    ) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], tuple[EngineError, int | None] | None]:
        """Samples the next critiques of each part; those of a part in the same order share a prompt.

        Returns:
            The critiques, each with its part; and if the sampler failed, how and on which row. Then a part of which a
            sample is missing has got none.
        """
        requests = []
        for part, count in rounds:
            past, new = part["orders"][: len(part["critiques"])], part["orders"][len(part["critiques"]) :][:count]
            requests += [(part, order, new.count(order), past.count(order)) for order in dict.fromkeys(new)]
        fences = self._fences()
        prompts = [
            judge_messages(part["preference"].permuted(order), template, part["binary"], False, fences)
            for part, order, _, _ in requests
        ]
        counts, firsts = ([request[place] for request in requests] for place in (2, 3))
        failure = None
        try:
            samples = self._sample(prompts, counts, rounds[0][0]["seed"], firsts, **options)
        except PromptTooLongError as error:
            row = requests[error.row][0]["row"]
            raise PromptTooLongError(f"Row {row}", *error.lengths, row) from None
        except EngineError as error:
            samples = [error.completed.get(number) for number in range(len(requests))]
            failure = error, None if error.row is None else requests[error.row][0]["row"]
        missing = {id(request[0]) for request, drawn in zip(requests, samples, strict=True) if drawn is None}
        texts = {(id(part), order): iter(s or ()) for (part, order, _, _), s in zip(requests, samples, strict=True)}
        drawn = []
        for part, count in rounds:
            if id(part) in missing:
                continue
            for order in part["orders"][len(part["critiques"]) :][:count]:
                critique = _read(next(texts[id(part), order]), order, part["template"])
                part["critiques"].append(critique)
                drawn.append((part, critique))
        return drawn, failure

    def _sample(self, prompts, counts, seed: int, firsts=None, **options) -> list[list[Sample]]:
        """The one place that asks for samples, whoever gives them."""
        if firsts is not None and any(firsts):
            options["first"] = firsts
        if self.engine is not None:
            return self.engine(prompts, counts, seed, **options)
        return sample_critiques(
            self.model, self.tokenizer, prompts, counts, seed, batch_size=max(1, sum(counts)), **options
        )

    def _fences(self) -> tuple[str, ...]:
        if self.tokenizer is not None:
            return special_tokens(self.tokenizer)
        return tuple(getattr(self.engine, "special_tokens", ()))

    def _template(self, asked: str | None) -> str:
        """The name of the template: what was asked for, or what the judge learned with."""
        stored = described(self.model.config)
        if self.engine is not None and asked is None and "template" not in stored:
            _warn_of_default_template()
        template = official_template(asked or stored.get("template", "paper"), self.model.config)
        digests = [judge_template(template, binary).digest for binary in (False, True)]
        if asked is None and stored.get("template_digests", digests) != digests:
            raise ValueError(
                f"Found the template {template!r} with the digests {digests}; the judge learned with another text of "
                f"that name, {stored['template_digests']}. Name that text with `add_template` of "
                "`trl_spct.judge.prompts`, or pass `template` to judge all the same."
            )
        return template

    def _default_length(self) -> int:
        configured = getattr(self.model.generation_config, "max_new_tokens", None)
        context = context_length(self.model.config)
        return configured or (min(1024, context // 2) if context else 1024)

    def _add_meta_scores(self, drawn: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        fences = special_tokens(self.meta_rm_tokenizer)
        readable = [(part, critique) for part, critique in drawn if critique["scores"]]
        conversations = [
            meta_messages(part["preference"].permuted(critique["order"]), critique["text"], fences)
            for part, critique in readable
        ]
        scores = meta_scores(self.meta_rm, self.meta_rm_tokenizer, conversations, _META_BATCH_SIZE)
        for (_, critique), score in zip(readable, scores, strict=True):
            critique["meta_score"] = score

    def principles(
        self,
        queries: str | Iterable[str | Messages],
        temperature: float = 0.0,
        seed: int | None = None,
        top_p: float = 1.0,
        max_new_tokens: int | None = None,
        template: str | None = None,
        batch_size: int = 8,
    ) -> list[str | None] | str | None:
        """Writes principles for queries alone, to be kept and handed to the judge as the rows' `principles` (ours).

        They do not depend on the responses, so that they are written once per query, can be read and edited, and no
        response can move them.

        ```python
        >>> rows = [{"query": "Name a prime.", "responses": ["4", "7"]}]
        >>> kept = judge.principles([row["query"] for row in rows])
        >>> verdicts = judge([{**row, "principles": text} for row, text in zip(rows, kept)], k=8)
        ```

        Args:
            queries (`str` or iterable of queries): A text, or texts and conversations. Equal queries are asked once.
            temperature (`float`, *optional*, defaults to `0.0`): Greedy by default.
            seed, top_p, max_new_tokens, template: As for judging.
            batch_size (`int`, *optional*, defaults to `8`): Queries at once.

        Returns:
            `list` of a text for each query, or `None` where none could be read or the answer ran into the token limit.
            A text or `None` for a single text.
        """
        if isinstance(queries, str):
            options = (temperature, seed, top_p, max_new_tokens, template, batch_size)
            return self.principles([queries], *options)[0]
        check_sampling(temperature, top_p, max_new_tokens)
        template = self._template(template)
        prompts = [principle_messages(query, template, self._fences()) for query in queries]
        distinct = list({prompt[0]["content"]: prompt for prompt in prompts}.values())
        options = {"temperature": temperature, "top_p": top_p}
        options["max_new_tokens"] = self._default_length() if max_new_tokens is None else max_new_tokens
        seed = int(torch.randint(2**31, (1,))) if seed is None else seed
        found: dict[str, str | None] = {}
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            for prompt, (sample,) in zip(batch, self._sample(batch, [1] * len(batch), seed, **options), strict=True):
                found[prompt[0]["content"]] = None if sample.truncated else read_principles(sample.text)
        if missing := sum(text is None for text in found.values()):
            logger.warning("Found no principles in the answers to %d of %d queries.", missing, len(found))
        return [found[prompt[0]["content"]] for prompt in prompts]

    @property
    def guidance(self) -> Guidance | None:
        """How the Meta RM guides unless a call says otherwise; `None` without one."""
        return self._guidance(**self._postprocess_params)

    def _guidance(self, **asked) -> Guidance | None:
        return None if self.meta_rm is None else Guidance.of(getattr(self.meta_rm.config, "meta_rm", None), **asked)

    def postprocess(self, output: dict[str, Any], guidance: Guidance | None = None) -> dict[str, Any]:
        """Counts the votes of one row; all readable critiques vote alike without a `guidance`."""
        parts, k = output["parts"], output["k"]
        totals = [_count(part, guidance) for part in parts]
        scores = totals[0][0] if len(parts) == 1 else _aligned(parts, totals, k)
        critiques = [
            _in_row(critique, part, len(output["preference"])) for part in parts for critique in part["critiques"]
        ]
        tied = [] if scores is None else list(highest(scores))
        draw = random.Random(derive_seed(output["seed"], "tie", *output["preference"].responses))
        return {
            "scores": None if scores is None else list(scores),
            "best": draw.choice(tied) if tied else None,
            "tied": tied,
            "k": k,
            "drawn": len(critiques),
            "votes": sum(critique["counted"] for critique in critiques),
            "weight": totals[0][1] if len(parts) == 1 else k,
            "problems": dict(Counter(critique["problem"] for critique in critiques if critique["problem"])),
            "critiques": critiques,
            "truncated": _truncated(parts, len(output["preference"])),
            "blocks": None if len(parts) == 1 else _blocks(parts, totals),
        }


class _EngineModel:
    """What `Pipeline` asks of a model, for an engine that samples elsewhere."""

    input_modalities = output_modalities = ("text",)
    dtype = torch.float32

    def __init__(self, engine: Sampler):
        if not callable(engine):
            raise TypeError(
                f"Found a model of type {type(engine).__name__}; expected a model, or a sampler such as an "
                '`OpenAIEngine`. A path or an id goes to `pipeline("grm-reward", model=…)`.'
            )
        self.engine = engine
        self.device = torch.device("cpu")
        self.generation_config = GenerationConfig()
        self.config = PreTrainedConfig(max_position_embeddings=getattr(engine, "context_length", None))
        self.config._name_or_path = str(getattr(engine, "name", type(engine).__name__))

    def to(self, device) -> "_EngineModel":
        return self

    def can_generate(self) -> bool:
        return True

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return iter(())


class _Interrupted(Exception):
    """A sampler failed on a row of a batch, in which others are done."""

    def __init__(self, error: EngineError, row: int | None, done: list[dict[str, Any]]):
        super().__init__(str(error))
        self.error, self.row, self.done = error, row, done


def _failure(error: EngineError, row: int | None, judged: dict[int, Any], seed: int) -> EngineError:
    """A sampler's failure in terms of the rows that were judged, and how to go on."""
    reason = error.__cause__ if isinstance(error.__cause__, EngineError) else error  # in terms of no prompts
    named = "" if row is None else f"Row {row}: "
    told = f"{len(judged)} verdicts that were not handed out are in `completed`, by the number of their row."
    again = f"To go on, judge the rows that are left with seed={seed}."
    return type(error)(f"{named}{reason} {told} {again}", row, error.status, judged)


def _case(preference: Preference, k: int, seed: int, order: str) -> dict[str, Any]:
    draw = random.Random(derive_seed(seed, "order", *preference.responses))
    orders = draw_orders(len(preference), k, order, draw)
    return {"preference": preference, "orders": orders, "k": k, "seed": seed, "order": order}


def _next_count(part: dict[str, Any], guidance: Guidance | None) -> int:
    """How many critiques to sample next: all at once, or as many as it takes until the vote can be decided.

    A round has at least a sixteenth of all critiques, since its prompts are read anew.
    """
    drawn, k = len(part["critiques"]), part["k"]
    if drawn == k or part["error"] is None:
        return k - drawn
    rows, metas = _columns(part)
    asked = (k, len(part["preference"]), part["score_range"], part["error"])
    least = critiques_to_go(rows, *asked, None if guidance is None else metas, guidance)
    return min(max(least, k // 16), k - drawn) if least else 0


def _columns(part: dict[str, Any]) -> tuple[list, list]:
    """Scores and meta scores of the critiques of a part."""
    return tuple([critique[name] for critique in part["critiques"]] for name in ("scores", "meta_score"))


def _count(part: dict[str, Any], guidance: Guidance | None) -> tuple[tuple[float, ...] | None, float]:
    """The sums of a part's votes and how much all votes weigh; marks the critiques that are counted."""
    rows, metas = _columns(part)
    if guidance is None:
        weights = [int(row is not None) for row in rows]
    else:  # the share that votes is one of all critiques, those that were not needed included
        missing = [None] * (part["k"] - len(rows))
        weights = guidance.weights([*rows, *missing], [*metas, *missing])[: len(rows)]
    for critique, weight in zip(part["critiques"], weights, strict=True):
        critique["counted"] = weight > 0
    return weighted_vote(rows, weights), sum(weights)


def _means(totals: list[tuple[tuple[float, ...] | None, float]]) -> list[tuple[float, ...] | None]:
    return [None if sums is None else tuple(value / weight for value in sums) for sums, weight in totals]


def _aligned(parts: list[dict[str, Any]], totals, k: int) -> tuple[float, ...] | None:
    aligned = align_blocks([part["members"] for part in parts], _means(totals))
    return None if aligned is None else tuple(round(k * score, 9) for score in aligned)


def _blocks(parts: list[dict[str, Any]], totals) -> dict[str, Any]:
    return {
        "responses": [list(part["members"]) for part in parts],
        "anchor": parts[0]["members"][0],
        "anchor_scores": [None if means is None else means[0] for means in _means(totals)],
    }


def _truncated(parts: list[dict[str, Any]], n: int) -> dict[str, Any] | None:
    """What was left out of the row; of a text that stands in several blocks, where most of it was."""
    cuts = [(part["members"], part["cuts"] or Cuts(0, (0,) * len(part["members"]))) for part in parts]
    if not any(cut for _, cut in cuts):
        return None
    responses = [0] * n
    for members, cut in cuts:
        for member, count in zip(members, cut.responses, strict=True):
            responses[member] = max(responses[member], count)
    return {
        "query": max(cut.query for _, cut in cuts),
        "responses": responses,
        "reference": max(cut.reference for _, cut in cuts),
    }


def _in_row(critique: dict[str, Any], part: dict[str, Any], n: int) -> dict[str, Any]:
    """A critique of a block, in numbers of the row's responses."""
    members = part["members"]
    if len(members) == n:
        return critique
    scores = critique["scores"]
    if scores is not None:
        given = dict(zip(members, scores, strict=True))
        scores = [given.get(response) for response in range(n)]
    return {**critique, "scores": scores, "order": [members[place] for place in critique["order"]]}


def _read(sample: Sample, order: tuple[int, ...], template: JudgeTemplate) -> dict[str, Any]:
    critique = read_sample(sample, len(order), template)
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


@cache
def _warn_of_default_template() -> None:
    """Warns once: a server does not say with which template its judge was trained."""
    logger.warning(
        "Judging with template 'paper', since a server does not name the template of its judge. Pass `template=` if "
        "the judge was trained with another one."
    )


def _error(early_stopping: str | float | None) -> float | None:
    """The probability with which another winner is put up with; `None` if nothing stops early."""
    if early_stopping is None or early_stopping is False:
        return None
    if early_stopping == "exact":
        return 0.0
    if isinstance(early_stopping, float) and 0 < early_stopping < 1:
        return early_stopping
    raise ValueError(
        f"Found early_stopping={early_stopping!r}; expected 'exact', a probability of error between 0 and 1, or False."
    )


def _check_most(most: int | str | None) -> None:
    if most is None or most == "auto" or (isinstance(most, int) and not isinstance(most, bool) and most >= 2):
        return
    raise ValueError(f"Found max_responses_per_prompt={most!r}; expected 'auto', or a number from 2 on.")


@contextmanager
def _changed(config: PreTrainedConfig, **entries):
    """The config with other entries, and back; `None` takes one out. Other copies of the model are not concerned."""
    before = {name: vars(config)[name] for name in entries if name in vars(config)}
    for name, value in entries.items():
        vars(config).pop(name, None)
        if value is not None:
            setattr(config, name, value)
    try:
        yield
    finally:
        for name in entries:
            vars(config).pop(name, None)
        for name, value in before.items():
            setattr(config, name, value)


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
