# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("grm-reward")`: n responses in, k critiques, one vote (paper, sections 2.1, 3 and 6)."""

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from transformers import AutoTokenizer, Pipeline, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pipelines import PIPELINE_REGISTRY

from .closing import close_critiques, closer_of
from .dates import prints_date
from .hub import pushing, upload, write_judge_card
from .judging import JudgedRow, Judging, JudgingOptions, check_whole
from .meta_scoring import check_fit, check_template, is_engine, load_meta_rm, meta_scores
from .modeling_meta_rm import EXTRAS_NAME
from .orders import count_occurrences
from .preferences import Messages, Preference
from .prompts import judge_template
from .repositories import (
    META_RM_FOLDER,
    JudgeForCausalLM,
    changed_config,
    describe_adapter,
    described,
    locate_meta_rm,
    official_template,
    usual_template,
)
from .sampling import (
    EngineModel,
    Sample,
    Sampler,
    check_thinking,
    check_tokenizer,
    context_length,
    sample_critiques,
    special_tokens,
)
from .voting import VOTING_TEMPERATURE, Guidance

logger = logging.getLogger(__name__)

TASK = "grm-reward"
DEFAULT_MODEL = ("BBQGOD/DeepSeek-GRM-16B", "main")
_META_BATCH_SIZE = 32


class GRMRewardPipeline(Pipeline):
    """Generative reward model: scores any number of responses to a query by the vote of k critiques.

    ```python
    >>> judge = pipeline("grm-reward", model="path/or/id")
    >>> judgment = judge({"query": "Name a prime.", "responses": ["4", "7"]}, k=8, seed=0)
    >>> judgment["scores"], judgment["best"]
    ([11, 71], 1)
    ```

    All options but the models can be set for the pipeline and for each call of it.

    Args:
        > Models

        model ([`~transformers.PreTrainedModel`] or an engine): The judge; `pipeline` also takes its path or id.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): The judge's, if an engine has none.
        meta_rm ([`MetaRMForSequenceClassification`], `str` or an engine, *optional*, defaults to `"auto"`):
            A Meta RM, its path or id, or one on a server. `"auto"`: the one that the judge's repository names, if
            any. `None`: none.
        meta_rm_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Of the Meta RM, if not beside it.
        batch_size (`int`, *optional*, defaults to `1`): Rows judged together. Does not change results.

        > Sampling of critiques

        k (`int`, *optional*, defaults to `1`): Critiques per row.
        temperature (`float`, *optional*): Defaults to 0.5 for k > 1 (paper, section 6), else to 0, greedy.
        top_p (`float`, *optional*, defaults to `1.0`): Nucleus sampling. There is no top-k.
        max_new_tokens (`int`, *optional*): Defaults to the generation config's, else to 1024 or half of the context.
        max_thinking_tokens (`int`, *optional*):
            Tokens of `max_new_tokens` after which an open draft (`<think>`) is closed. Not over an engine, whose
            server may have a setting of its own.
        close_critiques (`bool`, *optional*, defaults to `False`):
            Decode the scores alone behind critiques that ended without any or reached the token limit (not in the
            paper), see [`~trl_spct.judge.closing.close_critiques`]. They are marked as `closed`, and vote.
        seed (`int`, *optional*): Makes all draws repeatable, in any batch. 0 under greedy decoding, else random.
        early_stopping (`str` or `float`, *optional*):
            Stop when the winner is certain (`"exact"`), or wrong with at most this probability, see
            [`~trl_spct.judge.stopping.decided`]. Not for rows in blocks, or single responses without `binary`.

        > Voting

        guide (`str`, *optional*):
            `"top"`: the `k_meta` critiques that the Meta RM scores best vote. `"soft"` (not in the paper): all vote,
            weighted by the probability that they are correct. Defaults to the Meta RM's config, else to `"top"`.
        k_meta (`int` or `float`, *optional*):
            Critiques that vote, or their share of k. Defaults to the Meta RM's config, else to `max(1, k // 2)`
            (paper). Where the config says 1.0, critiques have no meta scores unless this is set.

        > Prompt

        template (`str`, *optional*): See [`judge_template`]. Defaults to the judge's own, see [`usual_template`].
            `"official"`: the prompt on the judge's model card, or else on that of `BBQGOD/DeepSeek-GRM-27B`.
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template, such as `{"enable_thinking": False}`, saved with the judge. Defaults to its
            config. Read by a Meta RM without its own; an engine has its own.
        order (`str`, *optional*, defaults to `"balanced"`):
            How each critique reads the responses: in rotations of a random order (`"balanced"`, not in the paper), in
            a random order of its own (`"random"`, paper), or in that of the row (`"fixed"`).
        binary (`bool`, *optional*, defaults to `False`): Ask for 0 or 1 for single responses, as in training.
        max_responses_per_prompt (`int` or `str`, *optional*):
            Judge rows with more responses in blocks that share one (not in the paper); `"auto"`: as many as fit.
        truncation (`str`, *optional*):
            `"fair"` cuts the texts of rows that exceed the judge's context, see
            [`~trl_spct.judge.truncation.fit_preference`]. By default these rows are refused.
    """

    _load_tokenizer = True  # type: ignore[assignment]
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]

    tokenizer: Any  # None over an engine without one

    def __init__(
        self,
        model: PreTrainedModel | Sampler,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *args,
        meta_rm: Any = "auto",
        meta_rm_tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int | None = None,
        **kwargs,
    ):
        loaded: Any = model
        if not isinstance(model, torch.nn.Module):
            tokenizer = tokenizer or getattr(model, "tokenizer", None)
            loaded = EngineModel(model)
        super().__init__(loaded, tokenizer, *args, **kwargs)  # type: ignore[arg-type]
        self.batch_size = 1 if batch_size is None else batch_size
        check_whole("batch_size", self.batch_size, 1, "at least 1 row")
        if self.engine is None or self.tokenizer is not None:
            check_tokenizer(self.tokenizer)
        self.meta_rm, self.meta_rm_tokenizer = self._load_meta_rm(meta_rm, meta_rm_tokenizer)
        options = JudgingOptions(**self.preset)
        self._guidance(options)
        self._chat_template_kwargs(options)
        if "template" in self.preset:
            self.find_template()
        self._has_warned = False

    @property
    def preset(self) -> dict[str, Any]:
        """The options of judging that were set for the pipeline."""
        return dict(self._forward_params)

    @property
    def engine(self) -> Sampler | None:
        """The sampler that judges in place of a model; `None` if there is a model."""
        return getattr(self.model, "engine", None)

    @property
    def context(self) -> int | None:
        """Positions of the judge; `None` if unknown."""
        return context_length(self.model.config)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens that prompts are fenced against."""
        of_engine = getattr(self.engine, "special_tokens", ())
        return tuple(of_engine) if self.tokenizer is None else special_tokens(self.tokenizer)

    @property
    def guidance(self) -> Guidance | None:
        """How the Meta RM guides unless a call says otherwise; `None` without a Meta RM."""
        return self._guidance(JudgingOptions(**self.preset))

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        """Variables of the judge's chat template unless a call sets others."""
        return self._chat_template_kwargs(JudgingOptions(**self.preset))

    def judging(self, **options) -> Judging:
        """How the pipeline judges with these options, which precede its own: checked, and with all defaults."""
        chosen = JudgingOptions(**{**self.preset, **_given(options)})
        template = self.find_template(chosen.template)
        variables, guidance = self._chat_template_kwargs(chosen), self._guidance(chosen)
        meta_score: Any = None
        if self.meta_rm is not None:
            stored = getattr(self.meta_rm.config, "meta_rm", None) or {}
            check_template(stored, template)
            meta_score = partial(meta_scores, self.meta_rm, self.meta_rm_tokenizer, batch_size=_META_BATCH_SIZE)
            meta_score = partial(meta_score, chat_template_kwargs=stored.get("chat_template_kwargs", variables))
        if guidance is not None and guidance.plain and chosen.guide is None and chosen.k_meta is None:
            guidance = None  # no vote needs meta scores
        temperature = chosen.temperature
        if temperature is None:
            temperature = VOTING_TEMPERATURE if chosen.k > 1 else 0.0
        seed = chosen.seed
        if seed is None:
            seed = 0 if temperature == 0 else int(torch.randint(2**31, (1,)))
        max_new_tokens = chosen.max_new_tokens or self.default_length
        sampling: dict[str, Any] = {"temperature": temperature, "top_p": chosen.top_p}
        if chosen.max_thinking_tokens is not None:
            check_thinking(chosen.max_thinking_tokens, max_new_tokens)
            sampling["max_thinking_tokens"] = chosen.max_thinking_tokens
            if self.engine is not None:
                raise ValueError(
                    "Found max_thinking_tokens over an engine; expected the setting of its server, such as "
                    '`extra_body={"thinking_token_budget": 512}` of a vLLM that knows it.'
                )
        if self.engine is None:
            sampling["chat_template_kwargs"] = variables
        return Judging(
            options=chosen,
            template=template,
            seed=int(seed),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            guidance=guidance,
            tokenizer=self.tokenizer,
            special_tokens=self.special_tokens,
            context=self.context,
            chat_template_kwargs=variables,
            sample=partial(self.sample, max_new_tokens=max_new_tokens, **sampling),
            meta_score=meta_score,
            close=self._closer(variables) if chosen.close_critiques else None,
            meta_special_tokens=() if self.meta_rm is None else special_tokens(self.meta_rm_tokenizer),
        )

    def find_template(self, name: str | None = None) -> str:
        """The name of the template: this one, else the pipeline's, else the judge's."""
        name = name or self.preset.get("template")
        stored = described(self.model.config)
        usual = usual_template(self.model.config)
        if self.engine is not None and name is None and "template" not in stored and usual == "paper":
            logger.warning_once(  # type: ignore[attr-defined]  # transformers adds it to all loggers
                "Judging with template 'paper', since the server names none. Pass `template=` if the judge was "
                "trained with another one."
            )
        template = official_template(name or usual, self.model.config)
        digests = [judge_template(template, binary).digest for binary in (False, True)]
        if name is None and stored.get("template_digests", digests) != digests:
            raise ValueError(
                f"Found the template {template!r} with the digests {digests}; the judge was trained with another text "
                f"of that name, {stored['template_digests']}. Name that text with `add_template` of "
                "`trl_spct.judge.prompts`, or pass `template` to judge all the same."
            )
        return template

    @property
    def default_length(self) -> int:
        """The default of `max_new_tokens`."""
        configured = getattr(self.model.generation_config, "max_new_tokens", None)
        return configured or min(1024, (self.context or 2048) // 2)

    def sample(
        self, prompts: Sequence[Messages], counts: Sequence[int], seed: int, firsts: Sequence[int] = (), **sampling
    ) -> list[list[Sample]]:
        """Samples of prompts, `counts` of each from the numbers `firsts` on."""
        if any(firsts):
            sampling["first"] = firsts
        if self.engine is not None:
            return self.engine(prompts, counts, seed, **sampling)
        sampling = {"chat_template_kwargs": self.chat_template_kwargs, "batch_size": max(1, sum(counts)), **sampling}
        return sample_critiques(self.model, self.tokenizer, prompts, counts, seed, **sampling)

    def _closer(self, variables: Mapping[str, Any]) -> Callable[..., list[Sample]]:
        if self.engine is None:
            return partial(close_critiques, self.model, self.tokenizer, chat_template_kwargs=variables)
        return closer_of(self.engine)

    def __call__(  # type: ignore[override]
        self, inputs: Any, *, batch_size: int | None = None, occurrences: Iterable[int] | None = None, **options
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        """Judges a row or many.

        Args:
            inputs (mapping, [`Preference`] or rows):
                A row in any shape that [`Preference.from_row`] reads; the judge never sees labels. A list of rows is
                checked before the first is judged; an iterator or a `datasets.Dataset` gives an iterator.
            occurrences (iterable of `int`, *optional*):
                For a part of a dataset: [`~trl_spct.judge.orders.count_occurrences`] of its rows in the whole.
            batch_size, **options: As for the pipeline, whose options they precede.

        Returns:
            For each row a `dict`:

            - `scores` (`list[float]` of length n, or `None`): sums of the votes in the order of the row's responses,
              in blocks the aligned means times k; `None` if no critique could be read. `means`: the same per vote.
            - `best` (`int` or `None`): a response with the highest sum, drawn from all of them (`tied`, `list[int]`).
            - `k`, `drawn`, `votes` (`int`): critiques asked for, sampled and counted; `weight`: sum of their weights.
            - `closed` (`int`): critiques whose scores were decoded behind their text, see `close_critiques`.
            - `problems` (`dict[str, int]`): number of unreadable critiques by cause.
            - `critiques` (`list[dict]`): the fields of [`Critique`], in the order drawn. In blocks block by block, and
              the score is `None` for responses outside of the block.
            - `truncated` (`dict` or `None`): tokens cut from the `query`, each of the `responses` and the `reference`,
              and the groups of different responses that were `made_equal` by it.
            - `blocks` (`dict` or `None`): the `responses` of each block, the `anchor` that all share, and its mean
              score in each (`anchor_scores`).

        Raises:
            [`PromptTooLongError`], [`~trl_spct.judge.preferences.InvalidPreference`], [`EngineError`]: naming the row.
                The attribute `completed` of any error holds judgments that were not yet returned, by row number.
        """
        judging = self.judging(**options)
        size = self.batch_size if batch_size is None else batch_size
        check_whole("batch_size", size, 1, "at least 1 row")
        if isinstance(inputs, (Mapping, Preference, str)) or not hasattr(inputs, "__iter__"):
            return next(self._judge([inputs], size, judging, occurrences))
        if isinstance(inputs, (list, tuple)):
            return list(self._judge(inputs, size, judging, occurrences))
        return self._judge(iter(inputs), size, judging, occurrences)

    def _judge(self, inputs, batch_size: int, judging: Judging, occurrences) -> Iterator[dict[str, Any]]:
        rows, returned_at_once = self._prepared(inputs, judging, occurrences), isinstance(inputs, Sequence)
        if returned_at_once:
            rows = iter(list(rows))  # all are checked before one is judged
        judged: dict[int, dict[str, Any]] = {}
        batches = iter(lambda: list(islice(rows, batch_size)), [])
        for number, batch in enumerate(batches):
            try:
                self.forward(batch, judging=judging)
            except Exception as error:
                judged |= {row.number: judging.result(row) for row in batch if judging.finished(row)}
                raise judging.with_completed(error, judged) from error.__cause__
            if number == 0:  # a prompt was rendered; one that cannot be was reported with its row
                self._warn_of_date(judging)
            for row in batch:
                judgment = self.postprocess(row, judging=judging)
                if returned_at_once:
                    judged[row.number] = judgment
                yield judgment

    def _prepared(self, inputs, judging: Judging, occurrences: Iterable[int] | None) -> Iterator[JudgedRow]:
        seen: Counter[str] = Counter()
        numbers = None if occurrences is None else iter(occurrences)
        for number, row in enumerate(inputs):
            preference = judging.read(number, row)
            occurrence = count_occurrences([preference], seen)[0] if numbers is None else next(numbers, None)
            if occurrence is None:
                raise ValueError(f"Found {number} occurrences; expected one for each row.")
            yield judging.prepare(number, preference, occurrence)

    def preprocess(self, row: Any, *, judging: Judging) -> JudgedRow:  # type: ignore[override]
        return next(self._prepared([row], judging, None))

    def _forward(self, rows: list[JudgedRow], *, judging: Judging) -> list[JudgedRow]:  # type: ignore[override]
        judging.judge(rows)
        return rows

    def postprocess(self, row: JudgedRow, *, judging: Judging) -> dict[str, Any]:  # type: ignore[override]
        judgment = judging.result(row)
        if judgment["scores"] is None and not self._has_warned:
            self._has_warned = True
            logger.warning("%s Logged once.", judging.explain(row, judgment))
        return judgment

    def _warn_of_date(self, judging: Judging) -> None:
        if self.tokenizer is not None and prints_date(self.tokenizer, judging.chat_template_kwargs):
            logger.warning_once(  # type: ignore[attr-defined]
                "The judge's chat template prints today's date: tomorrow the same seed gives other judgments. Set the "
                'date with `chat_template_kwargs`, for instance `{"date_string": "26 Jul 2024"}` for Llama 3.'
            )

    def _sanitize_parameters(self, **options):
        options = _given(options)
        JudgingOptions(**options)
        return {}, options, {}

    def _guidance(self, options: JudgingOptions) -> Guidance | None:
        if self.meta_rm is not None:
            stored = getattr(self.meta_rm.config, "meta_rm", None)
            return Guidance.of(stored, k_meta=options.k_meta, guide=options.guide)
        if options.guide is not None or options.k_meta is not None:
            raise ValueError(
                f"Found guide={options.guide!r} and k_meta={options.k_meta!r} without a Meta RM, where they have no "
                "effect; expected a `meta_rm` with them, or neither."
            )
        return None

    def _chat_template_kwargs(self, options: JudgingOptions) -> dict[str, Any]:
        if self.engine is None:
            stored = described(self.model.config).get("chat_template_kwargs") or {}
            return dict(stored if options.chat_template_kwargs is None else options.chat_template_kwargs)
        if options.chat_template_kwargs is not None:
            raise ValueError(
                f"Found chat_template_kwargs={options.chat_template_kwargs} over an engine, which renders the prompts "
                "itself; expected them there: `OpenAIEngine(…, chat_template_kwargs=…)`."
            )
        return dict(getattr(self.engine, "chat_template_kwargs", None) or {})

    def _load_meta_rm(self, meta_rm: Any, tokenizer: PreTrainedTokenizerBase | None) -> tuple[Any, Any]:
        if meta_rm is None or meta_rm is False:
            return None, None
        model = meta_rm
        if is_engine(meta_rm):
            tokenizer = tokenizer or meta_rm.tokenizer
        elif not isinstance(meta_rm, torch.nn.Module):
            located = locate_meta_rm(self.model) if meta_rm == "auto" else (meta_rm, {})
            if located is None:
                return None, None
            name, place = str(located[0]), located[1]
            model = load_meta_rm(name, self.model.dtype, place)
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(name, **place)
        tokenizer = tokenizer or self.tokenizer
        check_tokenizer(tokenizer)
        check_fit(model, tokenizer, self.find_template())
        if is_engine(model):
            return model, tokenizer
        if model.device != self.device:  # quantized models refuse even to stay where they are
            model = model.to(self.device)
        return model.eval(), tokenizer

    def save_pretrained(self, save_directory: str | os.PathLike, include_code: bool = False, **kwargs) -> None:
        """Saves the judge and its tokenizer as a plain model repository, and its Meta RM in a folder of it.

        With `include_code` the pipeline's code is copied too, for `pipeline("grm-reward", …, trust_remote_code=True)`
        without this package. `kwargs` are for the model's `save_pretrained`.
        """
        if self.engine is not None or is_engine(self.meta_rm):
            raise ValueError("Found an engine, whose model is not in this process; there is nothing to save.")
        adapter = hasattr(self.model, "peft_config")
        if adapter and include_code:
            raise ValueError(
                "Found an adapter, whose repository has no config to name the code. Merge it into its base first "
                "(`model.merge_and_unload()`), or leave `include_code` out."
            )
        entry = dict(described(self.model.config))
        if (usual := usual_template(self.model.config)) != "paper":
            entry["template"] = usual
        if self.meta_rm is not None:
            entry["meta_rm"] = META_RM_FOLDER
        elif (entry.get("meta_rm") or "./").startswith("./"):
            entry.pop("meta_rm", None)  # a folder of another repository
        if "chat_template_kwargs" in self.preset:
            entry["chat_template_kwargs"] = self.preset["chat_template_kwargs"]
        # `pipeline` passes a quantization config to the tokenizer too, whose file cannot hold it.
        getattr(self.tokenizer, "init_kwargs", {}).pop("quantization_config", None)
        with changed_config(self.model.config, grm=entry or None, custom_pipelines=None):
            if include_code:
                super().save_pretrained(save_directory, **kwargs)
                # transformers does not know the class that loads adapters, and code is saved with full models only
                self.model.config.custom_pipelines[TASK]["pt"] = ("AutoModelForCausalLM",)
                self.model.config.save_pretrained(save_directory)
            else:
                self.model.save_pretrained(save_directory, **kwargs)
                self.tokenizer.save_pretrained(save_directory)
        if self.meta_rm is not None:
            folder = os.path.join(save_directory, META_RM_FOLDER)
            self.meta_rm.save_pretrained(folder)
            if hasattr(self.meta_rm, "peft_config"):
                describe_adapter(folder, self.meta_rm.config.meta_rm, EXTRAS_NAME)
            self.meta_rm_tokenizer.save_pretrained(folder)
        if adapter:
            describe_adapter(save_directory, entry)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        include_code: bool = False,
        commit_message: str = "Upload judge",
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        tags: Sequence[str] = (),
        **options,
    ) -> str:
        """Pushes what [`~GRMRewardPipeline.save_pretrained`] saves to the Hub, with a model card, see
        [`~trl_spct.judge.hub.write_judge_card`], and returns the URL of the commit.

        Arguments are as for [`~transformers.utils.PushToHubMixin.push_to_hub`]; other `options` are for
        [`~huggingface_hub.HfApi.upload_folder`].
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, include_code=include_code)

            def write_card(full_id: str) -> None:
                has_meta_rm = self.meta_rm is not None
                write_judge_card(self.model, folder, full_id, has_meta_rm, include_code, tags, token, revision)

            again = f"judge.push_to_hub({repo_id!r}{', include_code=True' * include_code})"
            with pushing(repo_id, "the judge is in memory", again):
                options["revision"] = revision
                return upload(folder, repo_id, "model", commit_message, private, token, write_card, **options)


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def register() -> None:
    """Registers the task `"grm-reward"`, which loads the released 16B judge if no model is named."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        default = {"model": DEFAULT_MODEL}
        PIPELINE_REGISTRY.register_pipeline(TASK, GRMRewardPipeline, JudgeForCausalLM, default=default, type="text")
