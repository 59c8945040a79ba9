# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judges and Meta RMs on servers: the contracts of [`sample_critiques`] and [`meta_scores`] over vLLM and others."""

import json
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from .judge.closing import ScoreLine, unfinished, with_scores
from .judge.costs import Cost, metered, spend
from .judge.modeling_meta_rm import EXTRAS_NAME
from .judge.preferences import Messages
from .judge.repositories import ADAPTER_FILE, read_json
from .judge.sampling import (
    EngineError,
    PromptRefusedError,
    Sample,
    check_sampling,
    derive_seed,
    encode_checked,
    ends_in_draft,
    per_prompt,
    special_tokens,
    storable,
)
from .server_answers import (
    DIALECTS,
    POOLING,
    STRUCTURED,
    BrokenAnswer,
    Refused,
    error_message,
    parse_answer,
    prompt_tokens,
    read_choices,
    read_logit,
    refusal,
)

if TYPE_CHECKING:
    import openai


logger = logging.getLogger(__name__)

LOCAL = "http://localhost:8000/v1"
_CONNECT_SECONDS = 10
_LONGEST_BACKOFF = 8.0
_NO_KEY = "EMPTY"
_POLL_SECONDS = 0.1


class ServerModel:
    """A model on a server; for the arguments see [`OpenAIEngine`]."""

    dialects: Sequence[str | None]
    described_in: tuple[str, str]  # a file beside an adapter, and an entry of the config
    counted = "read"

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        *,
        dialect: Any = None,
        client: "openai.OpenAI | Callable[[], openai.OpenAI] | None" = None,
        max_concurrent_requests: int = 64,
        max_retries: int = 10,
        timeout: float = 600.0,
        requests_per_minute: float = math.inf,
        tokens_per_minute: float = math.inf,
    ):
        if dialect not in self.dialects:
            raise ValueError(f"Found dialect={dialect!r}; expected one of {[*self.dialects]}.")
        per_minute = requests_per_minute, tokens_per_minute
        if max_concurrent_requests < 1 or max_retries < 0 or not min(timeout, *per_minute) > 0:
            numbers = f"{max_concurrent_requests=}, {max_retries=}, {timeout=}, {per_minute=}"
            raise ValueError(f"Found {numbers}; expected at least 1, at least 0, and the others more than 0.")
        if client is not None and (base_url or api_key):
            raise ValueError("Found a `client` beside `base_url` or `api_key`; expected the client to have them.")
        if find_spec("openai") is None:
            raise ImportError(f"`{type(self).__name__}` needs the `openai` client: `pip install openai`.")
        if client is None:
            root = _root(base_url or os.environ.get("OPENAI_BASE_URL") or LOCAL)
            key = _read_key(api_key or os.environ.get("OPENAI_API_KEY") or "")
            client = partial(_new_client, root, key, max_retries, timeout)
        self._source = client
        self._client: tuple[int, openai.OpenAI] | None = None
        self.model, self.dialect = model, dialect
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer) if isinstance(tokenizer, str) else tokenizer
        self.max_concurrent_requests, self.per_minute = max_concurrent_requests, per_minute
        self._share()

    def _share(self) -> None:
        """Makes what the threads of this process share."""
        self._slots = threading.BoundedSemaphore(self.max_concurrent_requests)
        self._limits = RateLimits(*self.per_minute) if min(self.per_minute) < math.inf else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None, "_slots": None, "_limits": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()

    @property
    def client(self) -> "openai.OpenAI":
        """The client; another one in a forked process, since processes cannot share connections."""
        if self._client is None or self._client[0] != os.getpid():
            self._client = (os.getpid(), self._source() if callable(self._source) else self._source)
        return self._client[1]

    @property
    def base_url(self) -> str:
        """Root of the API, without a user or a query."""
        return str(self.client.base_url.copy_with(userinfo=b"", query=None)).rstrip("/")

    @property
    def name(self) -> str:
        """Name of the model on the server, for manifests; asks the server if it was not given."""
        return self.model or self._served["id"]

    @cached_property
    def _stored(self) -> dict[str, Any]:
        """The description of the tokenizer or the model; empty if unknown."""
        file, entry = self.described_in
        for home in (getattr(self.tokenizer, "name_or_path", None), self.model):
            if home and (os.path.isdir(home) or "/" in home.strip("/")):
                if stored := read_json(home, file) or (read_json(home, "config.json") or {}).get(entry):
                    return stored
        return {}

    @cached_property
    def _served(self) -> dict[str, Any]:
        """The server's description of the model; empty if it lists no models and the name is known."""
        try:
            listed = self._ask("/models", None, lambda answer: answer.get("data"), threading.Event())
        except (EngineError, Refused) as error:
            if self.model is None or error.status is None:
                raise
            listed = None
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        models = {entry["id"]: entry for entry in entries if isinstance(entry.get("id"), str)}
        if self.model is not None:
            return models.get(self.model, {})
        if len(models) != 1:
            raise EngineError(f"Found models {[*models]} at {self.base_url}; expected one, or its name as `model`.")
        return next(iter(models.values()))

    def _ask(self, path: str, body: Any, read: Callable, stopping: threading.Event) -> Any:
        """Returns what `read` makes of the answer; a broken one is requested again as often as the client retries."""
        attempts = self.client.max_retries + 1
        for attempt in range(1, attempts + 1):
            try:
                with self._limits.admit(body, stopping) if body and self._limits else nullcontext():
                    answer = parse_answer(self._send(path, body))
                    value = read(answer)
                    spend(**({self.counted: prompt_tokens(answer, body)} if body else {}))
                return value
            except BrokenAnswer as error:
                message = f"{self._url(path)}: {self._shown(str(error))}"
            except Refused as refused:
                raise Refused(refused.refusal.cause, self._shown(str(refused)), refused.status) from None
            if attempt == attempts or stopping.wait(min(0.5 * 2.0 ** min(attempt - 1, 9), _LONGEST_BACKOFF)):
                break
        raise EngineError(f"{message} Gave up after {attempt} attempts.", status=200)

    def _url(self, path: str) -> str:
        return path if "://" in path else self.base_url + path

    def _send(self, path: str, body: Any) -> bytes:
        import openai

        client: Any = self.client
        url, attempts = self._url(path), client.max_retries + 1
        options = {"headers": {"Authorization": openai.Omit()}} if client.api_key == _NO_KEY else {}
        try:
            request = client.get if body is None else partial(client.post, body=body)
            return request(path, cast_to=bytes, options=options)
        except openai.APIStatusError as error:
            status, data = error.status_code, error.response.content
            text = f"{url} answered {status}: {self._shown(error_message(data))}."
            failure = refusal(text, status, data.decode(errors="replace"), attempts)
        except openai.OpenAIError as error:
            cause = error.__cause__ or error
            text = self._shown(f"{type(cause).__name__}: {cause}")
            failure = EngineError(f"{url} gave no answer ({text}). Gave up after {attempts} attempts.")
        raise failure

    def _shown(self, text: str) -> str:
        """A text for a message: without the API key, which some servers repeat, and cut if it is long."""
        key = self.client.api_key if self.client.api_key not in (None, _NO_KEY) else ""
        for secret in sorted({key, repr(key)[1:-1], json.dumps(key)[1:-1], *key.split()}, key=len, reverse=True):
            text = text.replace(secret, "***") if len(secret) > 3 else text
        return text if len(text) <= 600 else f"{text[:600]}…"


class OpenAIEngine(ServerModel):
    """
    Samples critiques on a vLLM server, or on any other server that speaks OpenAI's API.

    Takes the place of a model, with the prompts, options and results of
    [`~trl_spct.judge.sampling.sample_critiques`]. Needs `pip install "trl-spct[openai]"`.

    ```python
    >>> # vllm serve Qwen/Qwen3-8B
    >>> engine = OpenAIEngine("Qwen/Qwen3-8B", tokenizer="Qwen/Qwen3-8B")
    >>> RejectiveSampler(model="google/gemma-2-2b-it", train_dataset=rows, sampler=engine).train()
    ```

    - **Prompts.** With a `tokenizer` they are rendered here and sent as token ids to `/completions`. Without one they
      are sent as messages to `/chat/completions`, and cannot be fenced against the server's special tokens: a hostile
      response may end its turn. Pass the tokenizer wherever the server takes token ids.
    - **Seeds** of requests depend on `seed`, the prompt and the number of its first sample. What follows from them is
      up to the server.
    - **Completions** are the message's `content` without `reasoning_content`, or its `refusal`.
    - **Failures.** Connection errors, the statuses 408, 409, 429 and 5xx, and answers without whole completions are
      tried again. A prompt that the server refuses (content filter, context length, another 400, 413 or 422) does not
      stop the others. After any other failure no further request is started.

    Args:
        model (`str`, *optional*): Name of the model on the server; its only one by default.
        base_url (`str`, *optional*):
            Root of the API, by default `OPENAI_BASE_URL` or `"http://localhost:8000/v1"`. `/v1` is the default path.
        api_key (`str`, *optional*): Sent as bearer token; `OPENAI_API_KEY` by default. No message shows it.
        tokenizer (tokenizer or `str`, *optional*): The model's, with a chat template; or its path or Hub id.
        client (`openai.OpenAI`, or a callable that returns one, *optional*):
            Instead of `base_url`, `api_key`, `max_retries` and `timeout`, for instance an `openai.AzureOpenAI`. An
            engine with a callable can be pickled.
        dialect (`str`, *optional*, defaults to `"vllm"`):
            `"vllm"` asks for all samples of a prompt in one request, with fields of vLLM's own that turn off the
            generation config of the server's model. `"openai"` sends one request per sample without them.
        chat_template_kwargs (mapping, *optional*):
            Variables of the chat template, for instance `{"enable_thinking": False}`; by default those in the judge's
            repository. Used here with a `tokenizer`, else sent to the server.
        extra_body (mapping, *optional*):
            Fields of every request; `None` removes one: `{"max_tokens": None, "max_completion_tokens": 1024}`.
        max_concurrent_requests (`int`, *optional*, defaults to `64`): Over all threads that call the engine.
        max_retries (`int`, *optional*, defaults to `10`): Retries of a request, about a minute in all.
        timeout (`float`, *optional*, defaults to `600.0`): Seconds to wait for an answer, the server's queue included.
        requests_per_minute, tokens_per_minute (`float`, *optional*, defaults to infinity):
            Limits in any minute, of tokens read and written together; a request counts as all that it may write until
            it is answered. Retries follow the server's `Retry-After` alone.
    """

    dialects, described_in = tuple(DIALECTS), (ADAPTER_FILE, "grm")

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        *,
        dialect: str = "vllm",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **connection: Any,
    ):
        super().__init__(model, base_url, api_key, tokenizer, dialect=dialect, **connection)
        self._chat_template_kwargs = None if chat_template_kwargs is None else dict(chat_template_kwargs)
        self.extra_body = dict(extra_body or {})

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        """Variables of the chat template."""
        stored = self._stored.get("chat_template_kwargs") or {}
        return stored if self._chat_template_kwargs is None else self._chat_template_kwargs

    @property
    def grm(self) -> dict[str, Any] | None:
        """The template that the judge was trained with, from the repository or folder of the tokenizer or the model;
        `None` if it is not known."""
        return {k: v for k, v in self._stored.items() if k in ("template", "template_digests")} or None

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The strings against which prompts are fenced: the tokenizer's, or none without one."""
        return special_tokens(self.tokenizer) if self.tokenizer is not None else ()

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and completion together, as the server says (`max_model_len`); `None` if it does not."""
        length = self._served.get("max_model_len")
        return length if type(length) is int else None

    def __call__(
        self,
        prompts: Sequence[Messages],
        k: int | Sequence[int] = 1,
        seed: int | None = None,
        *,
        temperature: float = 0.5,
        top_p: float = 1.0,
        max_new_tokens: int = 1024,
        first: int | Sequence[int] = 0,
    ) -> list[list[Sample]]:
        """Samples as [`~trl_spct.judge.sampling.sample_critiques`], in any thread, inside of an event loop or not.

        Raises:
            [`~trl_spct.judge.sampling.PromptTooLongError`]: before anything is sent, if the context is known.
            [`~trl_spct.judge.sampling.PromptRefusedError`]: if the server refuses some of the prompts.
            [`~trl_spct.judge.sampling.EngineError`]: if the server refuses a request or does not answer.
        """
        check_sampling(temperature, top_p, max_new_tokens)
        counts, starts = per_prompt("k", k, len(prompts), 1), per_prompt("first", first, len(prompts), 0)
        if not prompts:
            return []
        seed = int(torch.randint(2**31, (1,))) if seed is None else seed
        path, inputs = self._render(prompts, max_new_tokens)
        drafts = [self.tokenizer is not None and ends_in_draft(self.tokenizer, fields["prompt"]) for fields in inputs]
        settings = {"model": self.name, "temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}

        def send(request: _Request, stopping: threading.Event) -> list[Sample]:
            text = json.dumps([dict(turn) for turn in prompts[request.row]], sort_keys=True)
            # 52 bits, which a server that reads JSON numbers as floats keeps apart
            number = derive_seed(seed, text) % 2**52 + starts[request.row] + request.offset
            several = {"n": request.size} if request.size > 1 else {}
            fields = {**inputs[request.row], **settings, "seed": number, **several}
            body = {**fields, **DIALECTS[self.dialect], **self.extra_body}
            body = {name: value for name, value in body.items() if value is not None}
            read = partial(read_choices, size=request.size, tokenizer=self.tokenizer)
            drawn = self._ask(path, body, read, stopping) * request.copies
            return [replace(sample, prefilled=True) for sample in drawn] if drafts[request.row] else drawn

        requests = []
        for row, count in enumerate(counts):
            copies = count if temperature == 0 else 1
            size = count if temperature != 0 and self.dialect == "vllm" else 1
            requests += [_Request(row, offset, size, copies) for offset in range(0, count, size * copies)]
        call = _Call(self, send, requests, counts)
        if (error := call.error()) is not None:
            raise error
        return list(call.completed().values())

    def close_critiques(
        self, prompts: Sequence[Messages], samples: Sequence[Sample], lines: Sequence[ScoreLine]
    ) -> list[Sample]:
        """Continues each sample with its score line, as [`~trl_spct.judge.closing.close_critiques`] does, with the
        structured outputs of the server. A sample whose request fails is returned as it is."""
        tokenizer = self.tokenizer
        if tokenizer is None or self.dialect not in STRUCTURED:
            raise ValueError(
                f"Found close_critiques with dialect={self.dialect!r} and "
                f"{'no' if tokenizer is None else 'a'} tokenizer; expected a `tokenizer`, since a critique is "
                f"continued as token ids, and one of the dialects {[*STRUCTURED]}, whose servers bind what they write."
            )
        beginnings = unfinished(tokenizer, prompts, samples, lines, self.chat_template_kwargs)
        read = partial(read_choices, size=1, tokenizer=tokenizer)

        def send(request: _Request, stopping: threading.Event) -> list[Sample]:
            (prompt, ids), line = beginnings[request.row], lines[request.row]
            settings = {"model": self.name, "temperature": 0.0, "max_tokens": line.max_tokens}
            binding = {STRUCTURED[self.dialect]: {"regex": line.pattern}}
            body = {"prompt": [*prompt, *ids], **settings, **DIALECTS[self.dialect], **binding, **self.extra_body}
            (answer,) = self._ask("/completions", body, read, stopping)
            scores = answer.ids or tokenizer(answer.text, add_special_tokens=False)["input_ids"]
            return [with_scores(tokenizer, samples[request.row], [*ids, *scores])]

        call = _Call(self, send, [_Request(row, 0, 1) for row in range(len(samples))], [1] * len(samples))
        if failure := call.error():
            logger.warning("Some critiques could not be closed: %s", failure)
        return [drawn or sample for (drawn,), sample in zip(call.samples, samples, strict=True)]

    def _render(self, prompts: Sequence[Messages], max_new_tokens: int) -> tuple[str, list[dict[str, Any]]]:
        """The endpoint, and each prompt as the fields of a request, which JSON and a tokenizer can hold."""
        prompts = [
            [{name: storable(v) if isinstance(v, str) else v for name, v in turn.items()} for turn in prompt]
            for prompt in prompts
        ]
        if self.tokenizer is None:
            variables = {"chat_template_kwargs": self.chat_template_kwargs} if self.chat_template_kwargs else {}
            return "/chat/completions", [{"messages": prompt, **variables} for prompt in prompts]
        options = (max_new_tokens, self.context_length, self.chat_template_kwargs)
        encoded = encode_checked(self.tokenizer, prompts, *options)
        return "/completions", [{"prompt": ids} for ids in encoded]


class MetaRMEngine(ServerModel):
    """
    Scores critiques with a Meta RM on a server: vLLM's pooling endpoint, or SGLang's `/classify`.

    Takes the place of a Meta RM in the pipeline. Conversations are rendered here and sent as token ids; the scores are
    logits without an activation. Failures are as those of [`OpenAIEngine`].

    ```python
    >>> # vllm serve judge-meta-rm --runner pooling --port 8001
    >>> meta_rm = MetaRMEngine(base_url="http://localhost:8001", tokenizer="judge-meta-rm")
    >>> judge = GRMRewardPipeline(OpenAIEngine(tokenizer="judge-spct"), meta_rm=meta_rm)
    ```

    Args:
        model, base_url, api_key, **connection: As for [`OpenAIEngine`], `client` and limits included.
        tokenizer (tokenizer or `str`):
            The Meta RM's folder or Hub id, whose config has its guidance and what it was trained with, or its own.
        dialect (`str`, *optional*): `"vllm"` or `"sglang"`; by default what the server says that it is, else vLLM.
    """

    dialects, described_in, counted = (None, *POOLING), (EXTRAS_NAME, "meta_rm"), "scored"

    def __init__(self, *names: str | None, tokenizer: PreTrainedTokenizerBase | str, **connection: Any):
        super().__init__(*names, tokenizer=tokenizer, **connection)  # type: ignore[misc]

    @cached_property
    def config(self) -> PreTrainedConfig:
        """Its name, and `meta_rm`: a [`MetaRMConfig`] as a dictionary."""
        config = PreTrainedConfig(meta_rm=self._stored)
        config._name_or_path = self.name
        if not config.meta_rm:
            advice = "it guides as in the paper, unchecked. Pass its folder or Hub id as `tokenizer` if it has one"
            logger.warning("Found no description of the Meta RM %s: %s.", self.name, advice)
        return config

    def __call__(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """One logit per row of token ids. Raises as [`OpenAIEngine`] does."""
        server: Any = self.dialect or self._served.get("owned_by")
        path, field, options = POOLING.get(server, POOLING["vllm"])
        name, url = self.name, self.base_url.removesuffix("/v1") + path

        def send(request: _Request, stopping: threading.Event) -> list[float]:
            body = {"model": name, field: list(rows[request.row]), **options}
            return [self._ask(url, body, read_logit, stopping)]

        call = _Call(self, send, [_Request(row, 0, 1) for row in range(len(rows))], [1] * len(rows))
        if (error := call.error()) is not None:
            raise error
        return [logit for (logit,) in call.samples]


class RateLimits:
    """At most so many requests, and tokens, in any minute."""

    def __init__(self, requests: float, tokens: float, clock: Callable[[], float] = time.monotonic):
        self.requests, self.tokens, self.clock = requests, tokens, clock
        self._turn, self._sent = threading.Lock(), deque[list[float]]()

    @contextmanager
    def admit(self, body: Mapping[str, Any], stopping: threading.Event) -> Iterator[None]:
        """Waits for a request's turn. It counts with all that it may write until it is answered."""
        longest = body.get("max_tokens") or body.get("max_completion_tokens") or 0
        most = prompt_tokens({}, body) + longest * body.get("n", 1)
        with self._turn:  # one thread waits for room, the others for their turn
            while self._is_full(most) and not stopping.wait(_POLL_SECONDS):
                pass
            sent = [self.clock(), most]
            self._sent.append(sent)
        with metered() as spent:
            yield
        cost = sum(spent, Cost())
        sent[1] = cost.read + cost.written + cost.scored

    def _is_full(self, tokens: int) -> bool:
        while self._sent and self._sent[0][0] <= self.clock() - 60:
            self._sent.popleft()
        used = sum(used for _, used in self._sent)
        return bool(self._sent) and (len(self._sent) >= self.requests or used + tokens > self.tokens)


@dataclass(frozen=True)
class _Request:
    """`size` results of prompt `row`, from number `offset` of this call on, each of which counts `copies` times."""

    row: int
    offset: int
    size: int
    copies: int = 1


class _Call:
    """The requests of one call, sent by several threads that hold a slot each, and their results, `samples`."""

    def __init__(self, model: ServerModel, send: Callable, requests: Sequence[_Request], counts: Sequence[int]):
        self.send, self.slots = send, model._slots
        self.samples: list[list[Any]] = [[None] * count for count in counts]
        self.refusals: dict[int, Refused] = {}
        self.failure: tuple[int, EngineError] | None = None
        self._stopping = threading.Event()
        self._pending: SimpleQueue[_Request] = SimpleQueue()
        for request in requests:
            self._pending.put(request)
        self._run(min(model.max_concurrent_requests, len(requests)))

    def _run(self, num_threads: int) -> None:
        """Returns when all requests are answered, or after a failure those in flight."""
        # Daemons: an interrupted process ends without the answers that it waits for.
        work = [partial(copy_context().run, self._work) for _ in range(num_threads)]  # which are metered as this one
        threads = [threading.Thread(target=target, daemon=True) for target in work]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self._stopping.set()

    def _work(self) -> None:
        while not (self._stopping.is_set() or self._pending.empty()):
            with suppress(Empty), self.slots:
                request = self._pending.get_nowait()
                if self._stopping.is_set() or request.row in self.refusals:
                    continue
                try:
                    drawn = self.send(request, self._stopping)
                    self.samples[request.row][request.offset : request.offset + len(drawn)] = drawn
                except Refused as refused:
                    self.refusals.setdefault(request.row, refused)
                except EngineError as error:
                    self.failure = self.failure or (request.row, error)  # before others fail because of it
                    self._stopping.set()

    def completed(self) -> dict[int, list[Any]]:
        """The samples of each prompt of which none is missing."""
        return {row: drawn for row, drawn in enumerate(self.samples) if None not in drawn}

    def error(self) -> EngineError | None:
        """The failure of the call, or its refusals."""
        completed = self.completed()
        refusals = {row: self.refusals[row].refusal for row in sorted(self.refusals)}
        note = f"{len(completed)} of {len(self.samples)} prompts are complete (`completed`)."
        if len(refusals) > 1 or (refusals and self.failure):
            note = f"{len(refusals)} prompts were refused (`refusals`). {note}"
        if self.failure is not None:
            row, error = self.failure
            return EngineError(error.reason, row, error.status, completed, refusals, note)
        if not refusals and len(completed) < len(self.samples):  # an error of this code, which its thread has printed
            raise RuntimeError(f"Found no answer to some requests; {note}")
        if not refusals:
            return None
        row = next(iter(refusals))
        # A server that completes no prompt at all, for no reason that lies in the prompts, refuses the request.
        in_prompts = {refusal.cause for refusal in refusals.values()} - {"refused", "unreadable"}
        kind = PromptRefusedError if in_prompts or any(map(any, self.samples)) else EngineError
        return kind(refusals[row].message, row, self.refusals[row].status, completed, refusals, note)


def _new_client(root: str, key: Any, max_retries: int, timeout: float) -> "openai.OpenAI":
    import openai

    secret = key.get_secret_value() or _NO_KEY
    limits = openai.Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout))
    return openai.OpenAI(base_url=root, api_key=secret, max_retries=max_retries, timeout=limits)


def _read_key(key: str) -> Any:
    """The API key without white space around it, as a `pydantic.SecretStr`, which no representation shows."""
    from pydantic import SecretStr

    key = key.strip()
    if not all("!" <= letter <= "~" for letter in key):
        problem = "a line break" if "\n" in key or "\r" in key else "white space or a character beyond ASCII"
        raise ValueError(f"The API key contains {problem}; expected one word of printable ASCII.")
    return SecretStr(key)


def _root(base_url: str) -> str:
    """The root of the API, to which only a path is added."""
    url = urlsplit(base_url.strip().rstrip("/"))
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.query or url.fragment:
        # Not shown: it may hold a key, or be one in the wrong place.
        raise ValueError(
            f"Found another `base_url`; expected an address such as {LOCAL!r}, without a user or a query."
        )
    return url._replace(path=url.path or "/v1").geturl()
