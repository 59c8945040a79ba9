# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Sampling of k critiques for each of many prompts, and what it shares with engines, the other [`Sampler`]s."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .critiques import Critique, closing_tag, is_draft_tag, opens_draft
from .dates import dated_template
from .generation import Decoder, evaluating, generating, random_streams
from .orders import derive_seed
from .preferences import Messages
from .shared_prompts import Prefill, can_share, families, shared_lengths
from .templates import JudgeTemplate

TRUNCATED = "truncated"
_TAIL = 16  # Tokens at the end of a prompt in which a draft may be opened
_FAMILY = 4  # Batches that a shared beginning must fill to be kept for all of them


@dataclass(frozen=True)
class Sample:
    """One sampled completion, without special tokens.

    `num_tokens` counts the end token, `truncated` says that the limit came first, `ids` are the tokens and `logprobs`
    theirs where the sampler knows them, `prefilled` says that the prompt ended with an open draft (`<think>`), and
    `closed` that the scores were decoded apart from the text.
    """

    text: str
    num_tokens: int
    truncated: bool
    ids: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    prefilled: bool = False
    closed: bool = False
    logprobs: tuple[float, ...] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "text", storable(self.text))


def storable(text: str) -> str:
    """The text with `U+FFFD` in place of surrogates without a partner, which neither UTF-8 nor Arrow can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def read_sample(sample: Sample, num_responses: int, template: JudgeTemplate) -> Critique:
    """The critique of a sample, with scores as the template asks for them; a truncated sample has none."""
    if sample.truncated:
        return Critique(sample.text, problem=TRUNCATED)
    return replace(template.parse(sample.text, num_responses, sample.prefilled), closed=sample.closed)


class Sampler(Protocol):
    """Returns k samples of each prompt, in order, from the number `first` on: the calls with `k=2` and with
    `k=3, first=2` return together what one with `k=5` does."""

    def __call__(
        self,
        prompts: Sequence[Messages],
        k: int | Sequence[int],
        seed: int | None,
        *,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        first: int | Sequence[int] = 0,
    ) -> list[list[Sample]]: ...


class EngineModel(torch.nn.Module):
    """Gives a sampler the attributes that `Pipeline` reads from a model."""

    input_modalities = output_modalities = ("text",)
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, engine: Sampler):
        if not callable(engine):
            raise TypeError(
                f"Found a model of type {type(engine).__name__}; expected a model, or a sampler such as an "
                '`OpenAIEngine`. A path or an id goes to `pipeline("grm-reward", model=…)`.'
            )
        super().__init__()
        self.engine = engine
        self.generation_config = GenerationConfig()
        self.config = PreTrainedConfig(max_position_embeddings=getattr(engine, "context_length", None))
        self.config._name_or_path = str(getattr(engine, "name", type(engine).__name__))
        self.config.grm = getattr(engine, "grm", None)

    def can_generate(self) -> bool:
        return True


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses, with a `ValueError`, a tokenizer without a chat template or without a pad token."""
    problem = None
    if not getattr(tokenizer, "chat_template", None):
        problem = "chat template; set `tokenizer.chat_template`, as `trl.clone_chat_template` does."
    elif tokenizer.pad_token_id is None:
        problem = "pad token; set one, for instance `tokenizer.pad_token = tokenizer.eos_token`."
    if problem is not None:
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise ValueError(f"The tokenizer {name} has no {problem}")


# Brackets or bars, except HTML tags, which responses are written in and which control no judge.
_CONTROL = re.compile(
    r"(?!</?(?:a|b|blockquote|br|caption|code|div|em|h[1-6]|hr|i|img|li|ol|p|pre|s|span|strong|sub|sup|table|tbody|td"
    r"|tfoot|th|thead|tr|u|ul)/?>\Z).*[<\[{|｜]",
    re.DOTALL,
)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The strings that the tokenizer turns into tokens of their own, `<think>` and `<tool_call>` too. Not covered
    is text that spells one only once the tokenizer has normalized it."""
    added = tokenizer.added_tokens_decoder.values()
    controlling = {token.content for token in added if token.special or _CONTROL.match(token.content)}
    return tuple(sorted(controlling | set(tokenizer.all_special_tokens)))


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], chat_template_kwargs: Mapping | None = None
) -> list[list[int]]:
    """Token ids of each prompt, in the chat template (with its variables) and with the generation prompt."""
    if not prompts:
        return []
    return tokenizer.apply_chat_template(
        [list(prompt) for prompt in prompts],
        tokenize=True,
        return_dict=False,
        **{"add_generation_prompt": True, **dated_template(tokenizer), **(chat_template_kwargs or {})},
        tokenizer_kwargs={"verbose": False},  # no warning about `model_max_length`: the model's context is checked
    )


def context_length(config) -> int | None:
    """The number of positions that a model was built for; `None` where its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


@dataclass(eq=False)
class PromptTooLongError(ValueError):
    """A prompt, called `name` in the message, that leaves no room for a completion in the model's context (`limit`).
    `row` and `completed` are as for [`EngineError`]."""

    name: str
    length: int
    max_new_tokens: int
    limit: int
    row: int
    advice: str = "Shorten or drop the row, lower the completion length, or take a shorter `template`."
    completed: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.args = tuple(vars(self).values())  # for pickle

    def __str__(self) -> str:
        return (
            f"{self.name}: the prompt has {self.length} tokens, and with up to {self.max_new_tokens} tokens of "
            f"critique it exceeds the model's context of {self.limit}. {self.advice}"
        )

    @property
    def lengths(self) -> tuple[int, int, int]:
        return self.length, self.max_new_tokens, self.limit


@dataclass(frozen=True)
class Refusal:
    """Why a server refuses a prompt for good (`cause`: `"content_filter"`, `"context_length"`, `"refused"`, or
    `"unreadable"`, an answer without a completion), and its answer."""

    cause: str
    message: str


@dataclass(eq=False)
class EngineError(RuntimeError):
    """A sampler failed: its server refused a request or did not answer.

    Args:
        reason (`str`): The request and the answer.
        row, status (`int`, *optional*): Number of the prompt in the call, or of the row; the HTTP status.
        completed (`dict[int, Any]`, *optional*):
            The samples of each complete prompt, or the judgment of each complete row, by number. The same call with
            the others and the same seed gives the rest.
        refusals (`dict[int, Refusal]`, *optional*): The prompts or rows that the server refuses, by number.
        note, name (`str`, *optional*): The end of the message, and how it calls the number.
    """

    reason: str
    row: int | None = None
    status: int | None = None
    completed: dict[int, Any] = field(default_factory=dict)
    refusals: dict[int, Refusal] = field(default_factory=dict)
    note: str = ""
    name: str = "Prompt"

    def __post_init__(self):
        self.args = tuple(vars(self).values())  # for pickle

    def __str__(self) -> str:
        number = "" if self.row is None else f"{self.name} {self.row}: "
        return f"{number}{self.reason} {self.note}".rstrip()

    def renumbered(
        self, numbers: Sequence[int], completed: dict[int, Any] | None = None, note: str = "", name: str = "Row"
    ) -> "EngineError":
        """The same failure in terms of rows: `numbers` has that of each prompt's row in the caller's dataset."""
        row = None if self.row is None else numbers[self.row]
        if completed is None:
            completed = {numbers[number]: samples for number, samples in self.completed.items()}
        refusals: dict[int, Refusal] = {}
        for number, refusal in self.refusals.items():
            refusals.setdefault(numbers[number], refusal)
        return replace(self, row=row, completed=completed, refusals=refusals, note=note, name=name)


class PromptRefusedError(EngineError):
    """A server refused some prompts (`refusals`, of which `row` is the first) and completed all others."""


def check_lengths(lengths: Sequence[int], max_new_tokens: int, limit: int | None, name: str = "Row") -> None:
    """Raises [`PromptTooLongError`] for the first prompt that leaves no room for a completion."""
    if limit is None:
        return
    for row, length in enumerate(lengths):
        if length + max_new_tokens > limit:
            raise PromptTooLongError(f"{name} {row}", length, max_new_tokens, limit, row)


def sample_critiques(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    k: int | Sequence[int] = 1,
    seed: int | None = None,
    *,
    temperature: float = 0.5,
    top_p: float = 1.0,
    max_new_tokens: int = 1024,
    first: int | Sequence[int] = 0,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_thinking_tokens: int | None = None,
    batch_size: int = 64,
    progress: str | None = None,
) -> list[list[Sample]]:
    """Samples k completions of each prompt, as a [`Sampler`].

    Sample j of a prompt is drawn with a random stream that depends on `seed`, the prompt and j alone. Of the model's
    generation config only the end tokens count.

    Args:
        k, first (`int` or sequence of `int`): Samples of each prompt, and the number of its first one.
        seed (`int`, *optional*): Drawn from torch's global generator if not given.
        temperature (`float`, *optional*, defaults to `0.5`): `0` decodes greedily. There is no top-k.
        max_thinking_tokens (`int`, *optional*): Part of `max_new_tokens` after which an open draft is closed.
        batch_size (`int`, *optional*, defaults to `64`): Completions that are decoded together, from one prefill.
        progress (`str`, *optional*): Title of a progress bar over completions; no bar if not given.

    Raises `ValueError` for an option out of its range, an unfit tokenizer or a prompt that is too long, and
    `FloatingPointError` if the model's logits are not numbers.
    """
    check_sampling(temperature, top_p, max_new_tokens)
    check_thinking(max_thinking_tokens, max_new_tokens)
    if batch_size < 1:
        raise ValueError(f"Found batch_size={batch_size}; expected at least one completion at once.")
    counts, starts = per_prompt("k", k, len(prompts), 1), per_prompt("first", first, len(prompts), 0)
    seed = int(torch.randint(2**31, (1,))) if seed is None else seed
    check_tokenizer(tokenizer)
    encoded = encode_checked(tokenizer, prompts, max_new_tokens, context_length(model.config), chat_template_kwargs)
    drafts = [ends_in_draft(tokenizer, ids) for ids in encoded]
    settings = generation_settings(model, tokenizer, max_new_tokens)
    decoder = Decoder(model, settings, temperature, top_p)
    samples: list[list[Sample]] = [[] for _ in prompts]
    bar = tqdm(total=sum(counts), desc=progress, disable=progress is None, unit="critique")
    with torch.no_grad(), evaluating(model), generating(model, settings), bar:
        for batch, prefill in prefilled_batches(decoder, encoded, counts, batch_size):
            uniforms = _uniforms(encoded, starts, batch, seed, max_new_tokens) if temperature > 0 else None
            owners = [place for place, numbers in enumerate(batch.values()) for _ in numbers]
            sampled = [i for i, numbers in batch.items() for _ in numbers]
            if max_thinking_tokens is not None:
                tails = [end_of_prompt(tokenizer, encoded[i]) if drafts[i] else "" for i in sampled]
                decoder.constraint = ThoughtBudget(tokenizer, tails, max_thinking_tokens)
            completions = decoder.complete([encoded[i] for i in batch], owners, uniforms, prefill)
            for i, text, ids in zip(sampled, decode_completions(tokenizer, completions), completions, strict=True):
                truncated = ids[-1] not in settings.eos_token_id
                samples[i].append(Sample(text, len(ids), truncated, tuple(ids), drafts[i]))
            bar.update(len(completions))
    return samples


class ThoughtBudget(LogitsProcessor):
    """Closes drafts that are open after `budget` tokens; `tails` are the ends of prompts that open one.

    `rows` are the numbers of the rows that are decoded, and `start` is where their completions begin.
    """

    rows: Sequence[int] = ()
    start = 0

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tails: Sequence[str], budget: int):
        self.tokenizer, self.tails, self.budget = tokenizer, tails, budget
        self.forced: dict[int, list[int]] = {}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.start - self.budget
        for place, row in enumerate(self.rows if step >= 0 else ()):
            if step == 0:
                written = decode_completions(self.tokenizer, [input_ids[place, self.start :].tolist()])[0]
                tag = closing_tag(self.tails[row] + written)
                closing = self.tokenizer(f"\n{tag}\n\n", add_special_tokens=False)["input_ids"]
                self.forced[row] = closing if tag else []
            if step < len(self.forced[row]):
                scores[place] = torch.full_like(scores[place], -torch.inf)
                scores[place, self.forced[row][step]] = 0.0
        return scores


def encode_checked(
    tokenizer, prompts: Sequence[Messages], max_new_tokens: int, limit: int | None, chat_template_kwargs
) -> list[list[int]]:
    """As [`encode_prompts`], for prompts with at least one token that leave room for a completion."""
    encoded = encode_prompts(tokenizer, prompts, chat_template_kwargs)
    if not all(encoded):
        raise ValueError(f"Prompt {[*map(bool, encoded)].index(False)} has no tokens; expected at least one.")
    check_lengths([len(ids) for ids in encoded], max_new_tokens, limit, "Prompt")
    return encoded


def check_sampling(temperature: float | None = None, top_p: float | None = None, max_new_tokens: int | None = None):
    """Raises a `ValueError` that names a sampling option out of its range; `None` is not checked."""
    if temperature is not None and not 0 <= temperature < float("inf"):
        raise ValueError(f"Found temperature={temperature}; expected 0 (greedy) or a positive number.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"Found top_p={top_p}; expected more than 0 and at most 1.")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise ValueError(f"Found max_new_tokens={max_new_tokens}; expected at least 1.")


def check_thinking(max_thinking_tokens: int | None, max_new_tokens: int) -> None:
    """Refuses a budget for thoughts that leaves nothing for the critique."""
    if max_thinking_tokens is not None and not 1 <= max_thinking_tokens < max_new_tokens:
        raise ValueError(
            f"Found max_thinking_tokens={max_thinking_tokens} with {max_new_tokens} tokens in all; expected at least "
            "1 and less than all, of which thoughts are a part."
        )


def per_prompt(name: str, value: int | Sequence[int], num_prompts: int, least: int) -> list[int]:
    """One number of at least `least` for each prompt, from one for all of them or from as many; else `ValueError`."""
    values = [value] * num_prompts if isinstance(value, Integral) else list(value)  # type: ignore[arg-type]
    if len(values) != num_prompts or min(values, default=least) < least:
        raise ValueError(f"Found {name}={value!r} for {num_prompts} prompts; expected at least {least} for each.")
    return [*map(int, values)]


def _batches(order: Sequence[int], counts: Sequence[int], batch_size: int) -> Iterator[dict[int, range]]:
    """Batches of at most `batch_size` completions: the numbers of the samples of each prompt."""
    batch: dict[int, range] = {}
    for i in order:
        if counts[i] > batch_size:
            yield from ({i: range(at, min(at + batch_size, counts[i]))} for at in range(0, counts[i], batch_size))
            continue
        if batch and sum(map(len, batch.values())) + counts[i] > batch_size:
            yield batch
            batch = {}
        batch[i] = range(counts[i])
    if batch:
        yield batch


def prefilled_batches(
    decoder: Decoder, encoded: Sequence[list[int]], counts: Sequence[int], batch_size: int
) -> Iterator[tuple[dict[int, range], Prefill | None]]:
    """Batches with the prefill of their prompts, which is `None` where the model cannot share (see [`can_share`])."""
    if not can_share(decoder.model.config):
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        yield from ((batch, None) for batch in _batches(order, counts, batch_size))
        return
    rows = [ids[:-1] for ids in encoded]
    shared = shared_lengths(rows)
    for length, order in families(rows, shared, counts, _FAMILY * batch_size):
        root = decoder.reader.read([rows[order[0]][:length]], [()])[1] if length else None
        prompts: list[int] = []
        prefill = None
        for batch in _batches(order, counts, batch_size):
            if prompts != [*batch]:
                prompts = [*batch]
                prefill = decoder.prefill([encoded[i] for i in prompts], [shared[i] for i in prompts], root)
            yield batch, prefill


def _uniforms(encoded, starts, batch: Mapping[int, range], seed: int, length: int) -> torch.Tensor:
    """(completions, length) numbers in [0, 1): one stream per sample, from the seed, its prompt and its number."""
    seeds = []
    for i, numbers in batch.items():
        prompt = derive_seed(seed, *encoded[i])
        seeds += [derive_seed(prompt, starts[i] + number) for number in numbers]
    return random_streams(seeds, length)


def generation_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int
) -> GenerationConfig:
    """Greedy settings with the end tokens of the model and of its tokenizer."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, (list, tuple)) else [ends]
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted({token for token in (*ends, tokenizer.eos_token_id) if token is not None}),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        disable_compile=True,
    )


def decode_completions(tokenizer: PreTrainedTokenizerBase, completions: Sequence[Sequence[int]]) -> list[str]:
    """The texts of completions without special tokens, except those that open and close a draft."""
    skipped, shown = special_ids(tokenizer)
    if shown:
        completions = [[token for token in ids if token not in skipped] for ids in completions]
    return tokenizer.batch_decode(completions, skip_special_tokens=not shown, clean_up_tokenization_spaces=False)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[set[int], set[int]]:
    """The special tokens that a text leaves out, and those that stay in it, since they open or close a draft."""
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    shown = {token for token, text in special.items() if is_draft_tag(text)}
    return {*special} - shown, shown


def ends_in_draft(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> bool:
    """Whether an encoded prompt ends with an open draft, which some chat templates begin themselves."""
    return opens_draft(end_of_prompt(tokenizer, prompt))


def end_of_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> str:
    """The text of the last tokens of an encoded prompt, in which a draft may be opened."""
    return tokenizer.decode(list(prompt[-_TAIL:]), clean_up_tokenization_spaces=False)
