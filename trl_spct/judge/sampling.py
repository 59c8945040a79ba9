# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Many prompts, k critiques each: every distinct prompt is read once, and every sample has a seed of its own.

A *sampler* is any callable `sampler(prompts, k, seed, *, temperature, top_p, max_new_tokens) -> list[list[Sample]]`,
with prompts as message lists: an engine, or a `functools.partial` of [`sample_critiques`] over model and tokenizer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from .critiques import Critique, is_draft_tag, opens_draft
from .generation import Decoder, evaluating, generating, random_streams
from .orders import derive_seed
from .preferences import Messages
from .shared_prompts import Prefill, PrefixReader, can_share, families, shared_lengths
from .templates import JudgeTemplate


_FAMILY = 4  # Batches that a shared beginning must fill to be kept for all of them


@dataclass(frozen=True)
class Sample:
    """One sampled completion.

    Args:
        text (`str`): The completion without special tokens.
        num_tokens (`int`): Its length in tokens, the end-of-sequence token included.
        truncated (`bool`): Whether it ran into the token limit before it ended.
        ids (`tuple[int, ...]`, *optional*): Its tokens, where the sampler knows them.
        prefilled (`bool`, *optional*, defaults to `False`): Whether the prompt ended with an open draft (`<think>`).
    """

    text: str
    num_tokens: int
    truncated: bool
    ids: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    prefilled: bool = False

    def __post_init__(self):
        object.__setattr__(self, "text", storable(self.text))


def storable(text: str) -> str:
    """The text with `U+FFFD` in place of surrogates without a partner, which neither UTF-8 nor Arrow can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


TRUNCATED = "truncated"


def read_sample(sample: Sample, num_responses: int, template: JudgeTemplate) -> Critique:
    """Reads the scores from a sample in the form that the template asks for.

    A sample that reached the token limit has none, with the problem `"truncated"`: its last box may be an earlier one.
    """
    if sample.truncated:
        return Critique(sample.text, problem=TRUNCATED)
    return template.parse(sample.text, num_responses, sample.prefilled)


class Sampler(Protocol):
    """Samples completions of prompts: an engine, or a `functools.partial` of [`sample_critiques`]."""

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
    ) -> list[list[Sample]]:
        """Returns k samples of each prompt, in order. `first` is the number of each prompt's first sample: the calls
        with `k=2` and with `k=3, first=2` return together what one with `k=5` does."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer that cannot render a judge's prompt or pad a batch of them.

    Raises:
        `ValueError`: if it has no chat template or no pad token.
    """
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"The tokenizer {name} has no chat template; a judge is prompted with one user turn. Take a model "
            "with a chat template, or set `tokenizer.chat_template` (as `trl.clone_chat_template` does)."
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"The tokenizer {name} has no pad token, and prompts are judged in batches. Set one, for instance "
            "`tokenizer.pad_token = tokenizer.eos_token`."
        )


# Tags that vocabularies such as Gemma's have whole: text that responses are written in, not what controls a judge.
_MARKUP = re.compile(
    r"</?(?:a|b|blockquote|br|caption|code|div|em|h[1-6]|hr|i|img|li|ol|p|pre|s|span|strong|sub|sup|table|tbody|td|tfoot"
    r"|th|thead|tr|u|ul)/?>"
)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The strings that the tokenizer would turn into tokens of their own; prompts are fenced against them.

    Among them are added tokens that are not marked as special but look like it, in brackets or bars: `<think>`,
    `<tool_call>`, the roles of some DeepSeek models. Added words, white space and HTML tags are text.

    Not covered is what spells such a token only after the tokenizer has normalized it, where it has a normalizer and
    matches the token behind it (`AddedToken.normalized`): `<THINK>` under one that makes small letters, say.
    """
    added = tokenizer.added_tokens_decoder.values()
    controlling = {token.content for token in added if token.special or _is_control(token.content)}
    return tuple(sorted(controlling | set(tokenizer.all_special_tokens)))


def _is_control(token: str) -> bool:
    return bool(re.search(r"[<\[{|｜]", token)) and not _MARKUP.fullmatch(token)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """Token ids of each prompt, in the chat template and with the generation prompt.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): With a chat template.
        prompts (sequence of message lists): The prompts.
        chat_template_kwargs (mapping, *optional*): Variables of the chat template.
    """
    if not prompts:
        return []
    return tokenizer.apply_chat_template(
        [list(prompt) for prompt in prompts],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
        **(chat_template_kwargs or {}),
        tokenizer_kwargs={"verbose": False},  # no warning about `model_max_length`: the model's context is checked
    )


def context_length(config) -> int | None:
    """The number of positions that a model was built for; `None` where its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


class PromptTooLongError(ValueError):
    """A prompt that leaves no room for a completion.

    Args:
        name (`str`): How the message calls the prompt.
        length, max_new_tokens, limit (`int`): Tokens of the prompt, of the completion and of the model's context.
        row (`int`): Number of the prompt, or of the row.
        advice (`str`, *optional*): What to do.
        completed (`dict[int, Any]`, *optional*): As for [`EngineError`].
    """

    def __init__(
        self,
        name: str,
        length: int,
        max_new_tokens: int,
        limit: int,
        row: int,
        advice: str = "Shorten or drop the row, lower the completion length, or take a shorter `template`.",
        completed: dict[int, Any] | None = None,
    ):
        super().__init__(
            f"{name}: the prompt has {length} tokens, and with up to {max_new_tokens} tokens of critique it exceeds "
            f"the model's context of {limit}. {advice}"
        )
        self.lengths = (length, max_new_tokens, limit)
        self.row, self.advice = row, advice
        self.completed = completed or {}


@dataclass(frozen=True)
class Refusal:
    """Why a server does not complete a prompt, whatever is tried again.

    Args:
        cause (`str`):
            `"content_filter"`, `"context_length"`, `"refused"` (another refusal of the request) or `"unreadable"` (an
            answer without a completion).
        message (`str`): The server's answer.
    """

    cause: str
    message: str


class EngineError(RuntimeError):
    """A sampler failed: its server refused a request or did not answer.

    Args:
        reason (`str`): The request and the answer.
        row (`int`, *optional*): Number of the prompt in the call, or of the row; `None` if it was none of them.
        status (`int`, *optional*): The HTTP status; `None` if there was no answer.
        completed (`dict[int, Any]`, *optional*):
            What was complete when it failed, by number: the samples of each prompt, or the judgment of each row. The
            same call with the others and the same seed gives the rest.
        refusals (`dict[int, Refusal]`, *optional*): The prompts or rows that the server refuses, by number.
        note (`str`, *optional*): Added to the message, which also begins with the number.
        name (`str`, *optional*, defaults to `"Prompt"`): What the message calls the number.
    """

    def __init__(
        self,
        reason: str,
        row: int | None = None,
        status: int | None = None,
        completed: dict[int, Any] | None = None,
        refusals: dict[int, Refusal] | None = None,
        note: str = "",
        name: str = "Prompt",
    ):
        number = "" if row is None else f"{name} {row}: "
        super().__init__(f"{number}{reason} {note}".rstrip())
        self.reason = reason
        self.row = row
        self.status = status
        self.completed = completed or {}
        self.refusals = refusals or {}

    def renumbered(
        self, numbers: Sequence[int], completed: dict[int, Any] | None = None, note: str = "", name: str = "Row"
    ) -> "EngineError":
        """The same failure in terms of the rows that the prompts were made of.

        Args:
            numbers (sequence of `int`): Number of the row of each prompt, in the caller's dataset.
            completed (`dict[int, Any]`, *optional*): By number of the row; this failure's by default.
            note, name (`str`, *optional*): See [`EngineError`].
        """
        row = None if self.row is None else numbers[self.row]
        if completed is None:
            completed = {numbers[number]: done for number, done in self.completed.items()}
        refusals: dict[int, Refusal] = {}
        for number, refusal in self.refusals.items():
            refusals.setdefault(numbers[number], refusal)
        return type(self)(self.reason, row, self.status, completed, refusals, note, name)


class PromptRefusedError(EngineError):
    """A server refused some prompts (`refusals`, of which `row` is the first) and completed all others."""


def check_lengths(lengths: Sequence[int], max_new_tokens: int, limit: int | None, name: str = "Row") -> None:
    """Refuses prompts that leave no room for a completion.

    Raises:
        [`PromptTooLongError`]: naming the first prompt that does not fit, with the numbers.
    """
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
    batch_size: int = 64,
    progress: str | None = None,
) -> list[list[Sample]]:
    """Samples k completions of each prompt.

    Each prompt is prefilled once (once for every `batch_size` of its samples) and its cache expanded to its samples.
    Sample j of a prompt is drawn with a random stream of its own, made from `seed`, the prompt and j: up to
    floating-point noise it depends neither on the prompts that share its batch nor on how many processes share the
    work. The model's own generation config says which tokens end a completion, and nothing else.

    Args:
        model ([`~transformers.PreTrainedModel`] or `PeftModel`): A causal language model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): With a chat template and a pad token.
        prompts (sequence of message lists): Distinct prompts. Equal prompts get equal samples.
        k (`int` or sequence of `int`, *optional*, defaults to `1`): Samples per prompt.
        seed (`int`, *optional*): Drawn from torch's global generator if not given.
        temperature (`float`, *optional*, defaults to `0.5`): `0` decodes greedily. No top-k is ever applied.
        top_p (`float`, *optional*, defaults to `1.0`): Nucleus sampling.
        max_new_tokens (`int`, *optional*, defaults to `1024`): Longest completion, in tokens.
        first (`int` or sequence of `int`, *optional*, defaults to `0`):
            Number of the first sample of each prompt: with it a later call goes on where an earlier one stopped.
        chat_template_kwargs (mapping, *optional*): Variables of the chat template.
        batch_size (`int`, *optional*, defaults to `64`): Completions that are decoded together.
        progress (`str`, *optional*): Title of a progress bar over completions; no bar if not given.

    Returns:
        `list[list[Sample]]`: k samples for each prompt, in order.

    Raises:
        `ValueError`: if a prompt and `max_new_tokens` exceed the model's context ([`PromptTooLongError`]), if the
            tokenizer does not fit, or if an option is out of its range.
        `FloatingPointError`: if the model's logits are not numbers.
    """
    check_tokenizer(tokenizer)
    check_sampling(temperature, top_p, max_new_tokens)
    if batch_size < 1:
        raise ValueError(f"Found batch_size={batch_size}; expected at least one completion at once.")
    counts, starts = per_prompt("k", k, len(prompts), 1), per_prompt("first", first, len(prompts), 0)
    if seed is None:
        seed = int(torch.randint(2**31, (1,)))
    encoded = encode_prompts(tokenizer, prompts, chat_template_kwargs)
    if not all(encoded):
        raise ValueError(f"Prompt {[*map(bool, encoded)].index(False)} has no tokens; expected at least one.")
    check_lengths([len(ids) for ids in encoded], max_new_tokens, context_length(model.config), "Prompt")
    settings = _generation_config(model, tokenizer, max_new_tokens)
    decoder = Decoder(model, settings, temperature, top_p)
    samples: list[list[Sample]] = [[] for _ in prompts]
    with (
        torch.no_grad(),
        tqdm(total=sum(counts), desc=progress, disable=progress is None, unit="critique") as bar,
        evaluating(model),
        generating(model, settings),
    ):
        for batch, prefill in _prefilled(model, encoded, counts, batch_size, tokenizer.pad_token_id):
            uniforms = _uniforms(encoded, starts, batch, seed, max_new_tokens) if temperature > 0 else None
            completions = decoder.complete([encoded[i] for i in batch.prompts], batch.owners, uniforms, prefill)
            for place, sample in zip(batch.owners, _read_samples(tokenizer, completions, settings), strict=True):
                number = batch.prompts[place]
                samples[number].append(replace(sample, prefilled=ends_in_draft(tokenizer, encoded[number])))
            bar.update(len(completions))
    return samples


def check_sampling(temperature: float | None = None, top_p: float | None = None, max_new_tokens: int | None = None):
    """Refuses sampling options out of their range; `None` is not checked.

    Raises:
        `ValueError`: naming the option.
    """
    if temperature is not None and not 0 <= temperature < float("inf"):
        raise ValueError(f"Found temperature={temperature}; expected 0 (greedy) or a positive number.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"Found top_p={top_p}; expected more than 0 and at most 1.")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise ValueError(f"Found max_new_tokens={max_new_tokens}; expected at least 1.")


def per_prompt(name: str, value: int | Sequence[int], num_prompts: int, least: int) -> list[int]:
    """One number for each prompt, from one for all of them or from as many.

    Raises:
        `ValueError`: naming the option, if there are fewer or more, or if one is less than `least`.
    """
    values = [value] * num_prompts if isinstance(value, Integral) else list(value)  # type: ignore[arg-type]
    if len(values) != num_prompts or min(values, default=least) < least:
        raise ValueError(f"Found {name}={value!r} for {num_prompts} prompts; expected at least {least} for each.")
    return [*map(int, values)]


@dataclass(frozen=True)
class _Batch:
    """Which prompts are prefilled together, and how many samples of each are decoded, from which number on."""

    prompts: tuple[int, ...]
    counts: tuple[int, ...]
    first: int = 0

    @property
    def owners(self) -> list[int]:
        """Which of the batch's prompts each sample continues."""
        return [place for place, count in enumerate(self.counts) for _ in range(count)]


def _batches(order: Sequence[int], counts: Sequence[int], batch_size: int) -> Iterator[_Batch]:
    """Prompts in the order given, at most `batch_size` completions at once."""
    prompts: list[int] = []
    for index in order:
        if counts[index] > batch_size:
            for first in range(0, counts[index], batch_size):
                yield _Batch((index,), (min(batch_size, counts[index] - first),), first)
            continue
        if prompts and sum(counts[i] for i in prompts) + counts[index] > batch_size:
            yield _Batch(tuple(prompts), tuple(counts[i] for i in prompts))
            prompts = []
        prompts.append(index)
    if prompts:
        yield _Batch(tuple(prompts), tuple(counts[i] for i in prompts))


def _prefilled(
    model: PreTrainedModel, encoded: Sequence[list[int]], counts: Sequence[int], batch_size: int, pad_token_id: int
) -> Iterator[tuple[_Batch, Prefill | None]]:
    """Batches, each with what the model keeps of all prompt tokens but the last, which `generate` reads itself.

    `None` where the model cannot share (see [`can_share`]) or where no prompt has a second token.
    """
    if not can_share(model.config):
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        yield from ((batch, None) for batch in _batches(order, counts, batch_size))
        return
    rows = [ids[:-1] for ids in encoded]
    shared = shared_lengths(rows)
    reader = PrefixReader(model, pad_token_id, logits_to_keep=1)
    for length, order in families(rows, shared, counts, _FAMILY * batch_size):
        root = reader.read([rows[order[0]][:length]], [()])[1] if length else None
        prefill: Prefill | None = None
        prompts: tuple[int, ...] = ()
        for batch in _batches(order, counts, batch_size):
            if batch.prompts != prompts:
                prompts = batch.prompts
                read = any(rows[i] for i in prompts)
                prefill = (
                    reader.read([rows[i] for i in prompts], [shared[i] for i in prompts], root)[1] if read else None
                )
            yield batch, prefill


def _uniforms(encoded, starts, batch: _Batch, seed: int, length: int) -> torch.Tensor:
    """(completions, length) numbers in [0, 1): one stream per sample, from the seed, its prompt and its number."""
    seeds = []
    for index, count in zip(batch.prompts, batch.counts, strict=True):
        prompt = derive_seed(seed, *encoded[index])
        begin = starts[index] + batch.first
        seeds += [derive_seed(prompt, number) for number in range(begin, begin + count)]
    return random_streams(seeds, length)


def _generation_config(model, tokenizer, max_new_tokens: int) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(_end_tokens(model, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        disable_compile=True,
    )


def _end_tokens(model, tokenizer) -> set[int]:
    named = getattr(model.generation_config, "eos_token_id", None)
    named = named if isinstance(named, (list, tuple)) else [named]
    return {token for token in (*named, tokenizer.eos_token_id) if token is not None}


def _read_samples(tokenizer, completions: Sequence[list[int]], settings: GenerationConfig) -> list[Sample]:
    ends = set(settings.eos_token_id)
    texts = decode_completions(tokenizer, completions)
    return [
        Sample(text, len(ids), truncated=ids[-1] not in ends, ids=tuple(ids))
        for text, ids in zip(texts, completions, strict=True)
    ]


def decode_completions(tokenizer: PreTrainedTokenizerBase, completions: Sequence[Sequence[int]]) -> list[str]:
    """The texts of completions without special tokens, save those that open and close a draft."""
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    skipped = {token for token, text in special.items() if not is_draft_tag(text)}
    if len(skipped) < len(special):
        completions = [[token for token in ids if token not in skipped] for ids in completions]
    return tokenizer.batch_decode(
        completions, skip_special_tokens=len(skipped) == len(special), clean_up_tokenization_spaces=False
    )


def ends_in_draft(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> bool:
    """Whether an encoded prompt ends with an open draft, as with chat templates that begin the answer themselves."""
    return opens_draft(tokenizer.decode(list(prompt[-16:]), clean_up_tokenization_spaces=False))
