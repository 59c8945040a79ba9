# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Sampling on a server: the contract of [`sample_critiques`] over vLLM or any other OpenAI-compatible server."""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .judge.preferences import Messages
from .judge.sampling import (
    EngineError,
    PromptRefusedError,
    Sample,
    check_lengths,
    check_sampling,
    derive_seed,
    encode_prompts,
    ends_in_draft,
    per_prompt,
    special_tokens,
    storable,
)
from .server_answers import (
    DIALECTS,
    BrokenAnswer,
    Refused,
    error_message,
    parse_answer,
    parse_json,
    read_choices,
    refusal,
)


if TYPE_CHECKING:
    import openai


logger = logging.getLogger(__name__)


LOCAL = "http://localhost:8000/v1"
_CONNECT_SECONDS = 10
_LONGEST_BACKOFF = 8.0
_HOPELESS = 8  # Refused prompts after which a server that has completed none is not asked further


class ServerContextError(PromptRefusedError, ValueError):
    """A prompt and its completion exceed the context that the server was started with."""


class OpenAIEngine:
    """
    Samples critiques on a vLLM server, or on any other server that speaks OpenAI's API.

    Takes the place of a model wherever one samples, with the same prompts, options and results as
    [`~trl_spct.judge.sampling.sample_critiques`]. Needs the `openai` client: `pip install "trl-spct[openai]"`.

    ```python
    >>> # vllm serve Qwen/Qwen3-8B
    >>> engine = OpenAIEngine("Qwen/Qwen3-8B", tokenizer=AutoTokenizer.from_pretrained("Qwen/Qwen3-8B"))
    >>> engine([[{"role": "user", "content": "Which response is better?"}]], k=8, seed=0)
    >>> RejectiveSampler(model="google/gemma-2-2b-it", train_dataset=rows, sampler=engine).train()
    ```

    **Prompts.** With a `tokenizer` they are rendered and encoded here and sent as token ids to `/completions`: the
    server reads exactly what a model in this process would, and the token ids that it returns are decoded here.
    Without one they are sent as messages to `/chat/completions`, in the server's chat template. Prompts then cannot be
    fenced against the server's special tokens ([`~OpenAIEngine.special_tokens`] is empty), so that a hostile response
    may end its turn. Pass the tokenizer wherever the server takes token ids.

    **Seeds.** Every request has a seed made from `seed`, the prompt and the number of its first sample; other prompts,
    their order, the number of processes or a restart do not change it. vLLM draws sample j of a request with its seed
    + j, so that it draws the same samples however they are split over calls with `first`. Whether the same seed gives
    the same text is up to the server: vLLM repeats itself on one machine up to floating-point noise, OpenAI promises
    its best effort, some servers ignore the field. Models in this process draw other samples from the same seed.

    **Tokens.** `num_tokens` is the number of token ids that vLLM returns, or the usage of a request for one sample.
    Like `max_new_tokens` it includes what a server with a reasoning parser puts into `reasoning_content`. Where the
    server counts nothing, it is the tokenizer's count of the text, or without a tokenizer an estimate of one token per
    four bytes, which is logged. Reasoning is not part of the completion, which is the message's `content` alone: empty
    where the reasoning reached the token limit. A model's `refusal` is a completion.

    **Failures.** The client retries connection errors and the statuses 408, 409, 429 and 5xx after half a second to
    eight seconds, or when the server's `Retry-After` says; an answer without whole completions is requested again as
    often. A prompt that the server refuses (content filter, context length, another 400, 413 or 422) does not stop the
    others: at the end a [`~trl_spct.judge.sampling.PromptRefusedError`] holds all refusals by cause and all completed
    samples. After any other failure no further request is started, those in flight are awaited, and an
    [`~trl_spct.judge.sampling.EngineError`] names the prompt and holds what is complete.

    **Servers.** vLLM 0.32 on a CPU fails on a seeded request whose prefill is chunked: start it with
    `--no-enable-chunked-prefill`. `transformers serve` takes messages in `dialect="openai"`, and drops its model's own
    settings with `extra_body={"generation_config": '{"top_k": 0, "repetition_penalty": 1.0}'}`; its seed is the
    process's, so that samples repeat only with `max_concurrent_requests=1`.

    Args:
        model (`str`, *optional*):
            Name of the model on the server; its only one by default.
        base_url (`str`, *optional*):
            Root of the API; `OPENAI_BASE_URL` or `"http://localhost:8000/v1"` by default. `/v1` is added to an address
            without a path.
        api_key (`str`, *optional*):
            Sent as bearer token; `OPENAI_API_KEY` by default. No message shows it.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer, with a chat template.
        client (`openai.OpenAI`, or a callable that returns one, *optional*):
            Client to use instead of one made from `base_url`, `api_key`, `max_retries` and `timeout`, for instance an
            `openai.AzureOpenAI`. Only an engine with a callable can be pickled.
        dialect (`str`, *optional*, defaults to `"vllm"`):
            `"vllm"` asks for all samples of a prompt in one request, which prefills it once, and turns off the
            generation config of the server's model with fields that are vLLM's own. `"openai"` sends none of these
            and one request per sample.
        chat_template_kwargs (mapping, *optional*):
            Variables of the chat template, for instance `{"enable_thinking": False}`. Used here with a `tokenizer`,
            else sent to the server.
        extra_body (mapping, *optional*):
            Fields to add to every request, or to replace in it; `None` removes a field. For instance
            `{"max_tokens": None, "max_completion_tokens": 1024}` for a server that knows only the newer name.
        max_concurrent_requests (`int`, *optional*, defaults to `64`):
            Requests in flight at once, over all threads that call the engine.
        max_retries (`int`, *optional*, defaults to `10`):
            Retries of a request, about a minute in all.
        timeout (`float`, *optional*, defaults to `600.0`):
            Seconds to wait for an answer, which includes the time that the request waits in the server's queue.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        client: "openai.OpenAI | Callable[[], openai.OpenAI] | None" = None,
        dialect: str = "vllm",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        max_concurrent_requests: int = 64,
        max_retries: int = 10,
        timeout: float = 600.0,
    ):
        if dialect not in DIALECTS:
            raise ValueError(f"Found dialect={dialect!r}; expected one of {[*DIALECTS]}.")
        if max_concurrent_requests < 1 or max_retries < 0 or not timeout > 0:
            raise ValueError(
                f"Found max_concurrent_requests={max_concurrent_requests}, max_retries={max_retries} and "
                f"timeout={timeout}; expected max_concurrent_requests >= 1, max_retries >= 0 and timeout > 0."
            )
        if client is not None and (base_url or api_key):
            raise ValueError("Found a `client` beside `base_url` or `api_key`; expected the client to have them.")
        _import_openai()
        self._given_client = client
        self._client: openai.OpenAI | None = None
        self._process: int | None = None
        self._root = _root(base_url or os.environ.get("OPENAI_BASE_URL") or LOCAL) if client is None else None
        self._key = _read_key(api_key or os.environ.get("OPENAI_API_KEY")) if client is None else None
        self._announced: set[int] = set()
        self.model = model
        self.tokenizer = tokenizer
        self.dialect = dialect
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.extra_body = dict(extra_body or {})
        self.max_concurrent_requests = max_concurrent_requests
        self.max_retries = max_retries
        self.timeout = timeout
        self._slots = threading.BoundedSemaphore(max_concurrent_requests)

    def __getstate__(self) -> dict[str, Any]:
        if self._given_client is not None and not callable(self._given_client):
            raise TypeError(
                "Found an engine with a client, which holds open connections; expected a callable that returns a "
                "client, such as `client=partial(openai.AzureOpenAI, azure_endpoint=...)`, to pickle the engine."
            )
        return {**self.__dict__, "_client": None, "_slots": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._slots = threading.BoundedSemaphore(self.max_concurrent_requests)

    @property
    def client(self) -> "openai.OpenAI":
        """The client; another one in a forked process, since processes cannot share connections."""
        if self._client is None or self._process != os.getpid():
            given = self._given_client
            self._client = self._new_client() if given is None else given() if callable(given) else given
            self._process = os.getpid()
        return self._client

    def _new_client(self) -> "openai.OpenAI":
        openai = _import_openai()
        timeout = openai.Timeout(self.timeout, connect=min(_CONNECT_SECONDS, self.timeout))
        return openai.OpenAI(
            base_url=self._root,
            api_key="EMPTY" if self._key is None else self._key.get_secret_value(),
            max_retries=self.max_retries,
            timeout=timeout,
            http_client=openai.DefaultHttpxClient(timeout=timeout, event_hooks={"response": [self._announce]}),
        )

    def _announce(self, response: Any) -> None:
        """Logs once per status that requests are retried; the client itself does so on the level INFO."""
        status = response.status_code
        if (status in (408, 409, 429) or status >= 500) and status not in self._announced:
            self._announced.add(status)
            message = "%s answered %d; such requests are retried up to %d times."
            logger.warning(message, self._root, status, self.max_retries)

    @property
    def base_url(self) -> str:
        """Root of the API."""
        return self._root or str(self.client.base_url).rstrip("/")

    @property
    def name(self) -> str:
        """Name of the model on the server, for manifests; asks the server if it was not given."""
        return self.model or self._served["id"]

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The strings against which prompts are fenced: the tokenizer's, or none without one."""
        return special_tokens(self.tokenizer) if self.tokenizer is not None else ()

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and completion together, as the server says (`max_model_len`); `None` if it does not."""
        return self._served.get("max_model_len")

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
        progress: str | None = None,
    ) -> list[list[Sample]]:
        """Samples k completions of each prompt. Blocks, in any thread and inside a running event loop alike.

        Args:
            prompts (sequence of message lists): Distinct prompts. Equal prompts get equal seeds.
            k (`int` or sequence of `int`, *optional*, defaults to `1`): Samples per prompt.
            seed (`int`, *optional*): Drawn from torch's global generator if not given.
            temperature (`float`, *optional*, defaults to `0.5`):
                `0` decodes greedily: once per prompt, and all k samples are that one. No top-k is applied.
            top_p (`float`, *optional*, defaults to `1.0`): Nucleus sampling.
            max_new_tokens (`int`, *optional*, defaults to `1024`): Longest completion, in tokens.
            first (`int` or sequence of `int`, *optional*, defaults to `0`):
                Number of the first sample of each prompt, with which a later call continues an earlier one.
            progress (`str`, *optional*): Title of a progress bar over completions; no bar if not given.

        Returns:
            `list[list[Sample]]`: k samples for each prompt, in order.

        Raises:
            `ValueError`: if an option is out of its range, or a prompt and `max_new_tokens` exceed the server's
                context: [`~trl_spct.judge.sampling.PromptTooLongError`] before anything is sent where the tokenizer
                and the server's context are known, else [`ServerContextError`].
            [`~trl_spct.judge.sampling.PromptRefusedError`]: if the server refuses some of the prompts.
            [`~trl_spct.judge.sampling.EngineError`]: if the server refuses a request or does not answer.
        """
        check_sampling(temperature, top_p, max_new_tokens)
        counts = per_prompt("k", k, len(prompts), 1)
        starts = per_prompt("first", first, len(prompts), 0)
        if not prompts:
            return []
        if seed is None:
            seed = int(torch.randint(2**31, (1,)))
        path, inputs = self._render(prompts, max_new_tokens)
        drafts = [self.tokenizer is not None and ends_in_draft(self.tokenizer, fields["prompt"]) for fields in inputs]
        settings = {"model": self.name, "temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}

        def send(request: _Request, stopping: threading.Event) -> list[Sample]:
            number = _request_seed(seed, prompts[request.row], starts[request.row] + request.offset)
            body = self._body({**inputs[request.row], **settings, "seed": number}, request.size)
            read = partial(read_choices, size=request.size, tokenizer=self.tokenizer)
            drawn = self._ask("POST", path, body, read, stopping) * request.copies
            return [replace(sample, prefilled=True) for sample in drawn] if drafts[request.row] else drawn

        requests = [r for row, count in enumerate(counts) for r in self._requests(row, count, temperature == 0)]
        call = _Call(send, requests, counts, self._slots)
        with tqdm(total=sum(counts), desc=progress, disable=progress is None, unit="critique") as bar:
            call.run(min(self.max_concurrent_requests, len(requests)), bar)
        self._warn_of_early_ends(call.drawn(), max_new_tokens)
        if (error := call.error()) is not None:
            raise error
        return list(call.completed().values())

    def _render(self, prompts: Sequence[Messages], max_new_tokens: int) -> tuple[str, list[dict[str, Any]]]:
        """The endpoint, and each prompt as the fields of a request."""
        if self.tokenizer is None:
            template = {"chat_template_kwargs": self.chat_template_kwargs} if self.chat_template_kwargs else {}
            return "/chat/completions", [{"messages": _sendable(prompt), **template} for prompt in prompts]
        encoded = encode_prompts(self.tokenizer, prompts, self.chat_template_kwargs)
        if not all(encoded):
            raise ValueError(f"Prompt {[*map(bool, encoded)].index(False)} has no tokens; expected at least one.")
        check_lengths([len(ids) for ids in encoded], max_new_tokens, self.context_length, "Prompt")
        return "/completions", [{"prompt": ids} for ids in encoded]

    def _requests(self, row: int, count: int, greedy: bool) -> list["_Request"]:
        if greedy:
            return [_Request(row, 0, 1, copies=count)]
        size = count if self.dialect == "vllm" else 1
        return [_Request(row, offset, size) for offset in range(0, count, size)]

    def _body(self, fields: Mapping[str, Any], size: int) -> dict[str, Any]:
        several = {"n": size} if size > 1 else {}
        body = {**fields, **several, **DIALECTS[self.dialect], **self.extra_body}
        return {name: value for name, value in body.items() if value is not None}

    def _warn_of_early_ends(self, samples: Sequence[Sample], max_new_tokens: int) -> None:
        ends = [sample.num_tokens for sample in samples if sample.truncated and sample.num_tokens < max_new_tokens]
        if ends:
            logger.warning(
                "%s cut %d completions after %d to %d tokens of the %d that were requested: the server has a limit of "
                "its own. They count as truncated.",
                *(self.base_url, len(ends), min(ends), max(ends), max_new_tokens),
            )

    @cached_property
    def _served(self) -> dict[str, Any]:
        """The server's description of the model; empty if it lists no models and the name is known."""
        try:
            listed = self._ask("GET", "/models", None, lambda answer: answer.get("data"), threading.Event())
        except (EngineError, Refused) as error:
            if self.model is None or error.status is None:
                raise
            listed = None
        models = {entry.get("id"): entry for entry in listed or () if isinstance(entry, dict)}
        if self.model is not None:
            return models.get(self.model, {})
        if len(models) != 1:
            raise EngineError(
                f"Found the models {[*models]} at {self.base_url}; expected one, or its name as `model`."
            )
        return next(iter(models.values()))

    def _ask(
        self,
        method: str,
        path: str,
        body: Any,
        read: Callable[[dict[str, Any]], Any],
        stopping: threading.Event,
    ) -> Any:
        """Returns what `read` makes of the answer. Repeats the request if the answer is broken.

        Raises:
            [`Refused`]: if the server refuses the prompt.
            [`EngineError`]: after another refusal, or after `max_retries` retries.
        """
        attempts = self.client.max_retries + 1
        for attempt in range(1, attempts + 1):
            try:
                return read(parse_answer(self._send(method, path, body)))
            except BrokenAnswer as error:
                message = f"{self.base_url}{path}: {self._without_key(str(error))}"
            if attempt == attempts or stopping.wait(min(0.5 * 2.0 ** min(attempt - 1, 9), _LONGEST_BACKOFF)):
                break
        raise EngineError(f"{message} Gave up after {attempt} attempts.", status=200)

    def _send(self, method: str, path: str, body: Any) -> bytes:
        openai, url = _import_openai(), self.base_url + path
        anonymous = self._key is None and self._given_client is None
        options: Any = {"headers": {"Authorization": openai.Omit()}} if anonymous else {}
        try:
            if method == "GET":
                return self.client.get(path, cast_to=bytes, options=options)  # type: ignore[call-overload]
            return self.client.post(path, cast_to=bytes, body=body, options=options)  # type: ignore[call-overload]
        except openai.APIStatusError as error:
            code, data = error.status_code, error.response.content
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            message = self._without_key(f"{url} gave no answer ({type(cause).__name__}: {cause}).")
            raise EngineError(f"{message} Gave up after {self.client.max_retries + 1} attempts.") from None
        except openai.OpenAIError as error:
            raise EngineError(self._without_key(f"{url}: {type(error).__name__}: {error}")) from None
        message = error_message(parse_json(data)) or data[:300].decode(errors="replace")
        message = self._without_key(f"{url} answered {code}: {message.strip().rstrip('.')}.")
        raise refusal(message, code, data.decode(errors="replace"), self.client.max_retries + 1)

    def _without_key(self, text: str) -> str:
        """The text without the API key, which some servers repeat."""
        key = self._key.get_secret_value() if self._key is not None else getattr(self.client, "api_key", None)
        return text.replace(key, "***") if isinstance(key, str) and len(key) > 3 else text


@dataclass(frozen=True)
class _Request:
    """`size` samples of prompt `row`, from number `offset` of this call on, each of which counts `copies` times."""

    row: int
    offset: int
    size: int
    copies: int = 1


class _Call:
    """The requests of one call, sent by several threads, and their samples.

    Args:
        send (`Callable`): Returns the samples of a request; raises [`Refused`] or [`EngineError`].
        requests (sequence of [`_Request`]): In the order in which they are sent.
        counts (sequence of `int`): Samples of each prompt.
        slots (`threading.Semaphore`): Held during each request.
    """

    def __init__(
        self,
        send: "Callable[[_Request, threading.Event], list[Sample]]",
        requests: Sequence[_Request],
        counts: Sequence[int],
        slots: threading.BoundedSemaphore,
    ):
        self.send = send
        self.slots = slots
        self.samples: list[list[Sample | None]] = [[None] * count for count in counts]
        self.refusals: dict[int, Refused] = {}
        self.failure: tuple[int, EngineError] | None = None
        self.stopping = threading.Event()
        self._answered = False
        self._pending: SimpleQueue[_Request] = SimpleQueue()
        self._outcomes: SimpleQueue[tuple[_Request, list[Sample] | Refused | EngineError] | None] = SimpleQueue()
        for request in requests:
            self._pending.put(request)

    def run(self, num_threads: int, bar: tqdm) -> None:
        """Returns when all requests are answered, or after a failure those in flight."""
        # Daemons: an interrupted process ends without the answers that it waits for.
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(num_threads)]
        try:
            for thread in threads:
                thread.start()
            running = num_threads
            while running:
                outcome = self._outcomes.get()
                if outcome is None:
                    running -= 1
                else:
                    self._keep(*outcome, bar)
        finally:
            self.stopping.set()

    def _work(self) -> None:
        try:
            while not self.stopping.is_set():
                request = self._pending.get_nowait()
                if request.row not in self.refusals:
                    with self.slots:
                        self._send_unless_stopped(request)
        except Empty:
            return
        finally:
            self._outcomes.put(None)

    def _send_unless_stopped(self, request: _Request) -> None:
        if self.stopping.is_set():
            return
        try:
            self._outcomes.put((request, self.send(request, self.stopping)))
        except Refused as refused:
            self._outcomes.put((request, refused))
        except EngineError as error:
            self._outcomes.put((request, error))  # before others fail because of it
            self.stopping.set()

    def _keep(self, request: _Request, outcome: "list[Sample] | Refused | EngineError", bar: tqdm) -> None:
        if isinstance(outcome, Refused):
            self.refusals.setdefault(request.row, outcome)
            if len(self.refusals) >= _HOPELESS and self._hopeless():
                self.stopping.set()
        elif isinstance(outcome, EngineError):
            self.failure = self.failure or (request.row, outcome)
        else:
            self._answered = True
            self.samples[request.row][request.offset : request.offset + len(outcome)] = outcome
            bar.update(len(outcome))

    def _hopeless(self) -> bool:
        """Whether the server completes no prompt at all, for no reason that lies in the prompts."""
        causes = {refused.refusal.cause for refused in self.refusals.values()}
        return not self._answered and causes <= {"refused", "unreadable"}

    def drawn(self) -> list[Sample]:
        return [sample for drawn in self.samples for sample in drawn if sample is not None]

    def completed(self) -> dict[int, list[Sample]]:
        """The samples of each prompt of which none is missing."""
        return {
            row: [s for s in drawn if s is not None] for row, drawn in enumerate(self.samples) if None not in drawn
        }

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
        if not refusals:
            if len(completed) < len(self.samples):  # an error of this code, which its thread has printed
                raise RuntimeError(f"Found no answer to some requests; {note}")
            return None
        row = next(iter(refusals))
        kind: type[EngineError]
        kind = ServerContextError if refusals[row].cause == "context_length" else PromptRefusedError
        kind = EngineError if self._hopeless() else kind
        return kind(refusals[row].message, row, self.refusals[row].status, completed, refusals, note)


def _import_openai() -> Any:
    try:
        import openai
    except ImportError:
        raise ImportError(
            "`OpenAIEngine` needs the `openai` client: install `trl-spct[openai]` or `openai`."
        ) from None
    return openai


def _read_key(key: str | None) -> Any:
    """The API key without white space around it, as a `pydantic.SecretStr`, which no representation shows."""
    from pydantic import SecretStr

    if key is None or not (key := key.strip()):
        return None
    for problem, letters in {"a line break": "\r\n", "white space": " \t\v\f"}.items():
        if any(letter in key for letter in letters):
            raise ValueError(f"The API key contains {problem}; expected one word.")
    if not key.isascii() or not key.isprintable():
        raise ValueError("The API key contains a character that no HTTP header can hold; expected printable ASCII.")
    return SecretStr(key)


def _sendable(prompt: Messages) -> list[dict[str, Any]]:
    """Messages that JSON can hold."""
    return [{name: storable(v) if isinstance(v, str) else v for name, v in turn.items()} for turn in prompt]


def _root(base_url: str) -> str:
    """The root of the API, to which only a path is added."""
    url = urlsplit(base_url.strip().rstrip("/"))
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
        shown = f"{url.scheme}://{url.hostname}" if url.scheme and url.hostname else base_url
        raise ValueError(
            f"Found base_url={shown!r}; expected an address such as 'http://localhost:8000/v1', without a user or "
            "a query."
        )
    return url._replace(path=url.path or "/v1").geturl()


def _request_seed(seed: int, prompt: Messages, number: int) -> int:
    """Counts on from a number of 52 bits, which a server that reads JSON numbers as floats keeps apart."""
    return derive_seed(seed, json.dumps([dict(turn) for turn in prompt], sort_keys=True)) % 2**52 + number
