# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Sampling on a server: the contract of [`sample_critiques`] over vLLM, or any other OpenAI-compatible server."""

import http.client
import itertools
import json
import logging
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .judge.preferences import Messages
from .judge.sampling import (
    EngineError,
    Sample,
    check_lengths,
    check_sampling,
    derive_seed,
    encode_prompts,
    per_prompt,
    special_tokens,
)


logger = logging.getLogger(__name__)


# vLLM reads what a request leaves open from the model's generation config, in which many a model has a top-k of 20 or
# 50. Token ids count the tokens of each sample, where the usage knows their sum only.
VLLM_FIELDS = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "return_token_ids": True,
}
DIALECTS: dict[str, dict[str, Any]] = {"vllm": VLLM_FIELDS, "openai": {}}

_CONNECT_SECONDS = 10
_LONGEST_BACKOFF, _LONGEST_WAIT = 60.0, 3600.0
_CONTEXT = re.compile(r"context[ _](length|size|window)|max_model_len|longer than the maximum", re.IGNORECASE)


class ServerContextError(EngineError, ValueError):
    """A prompt and its completion exceed the context that the server was started with."""


class _Transient(Exception):
    """A failure after which the same request may succeed, and how many seconds the server asks to wait."""

    def __init__(self, message: str, status: int | None = None, wait: float = 0.0):
        super().__init__(message)
        self.status = status
        self.wait = wait


class OpenAIEngine:
    """
    Samples critiques on a vLLM server, or on any other server that speaks OpenAI's API.

    Takes the place of a model wherever one samples, with the same prompts, options and results as
    [`~trl_spct.judge.sampling.sample_critiques`].

    ```python
    >>> # vllm serve Qwen/Qwen3-8B
    >>> engine = OpenAIEngine("Qwen/Qwen3-8B", tokenizer=AutoTokenizer.from_pretrained("Qwen/Qwen3-8B"))
    >>> engine([[{"role": "user", "content": "Which response is better?"}]], k=8, seed=0)
    >>> RejectiveSampler(model="google/gemma-2-2b-it", train_dataset=rows, sampler=engine).train()
    ```

    **Prompts.** With a `tokenizer` they are rendered and encoded here, and sent as token ids to `/completions`: the
    server reads exactly what a model in this process would, and the token ids that it returns are decoded here.
    Without one they are sent as messages to `/chat/completions`, in the server's chat template; whoever writes the
    prompts then cannot know which strings the server takes for special tokens ([`~OpenAIEngine.special_tokens`] is
    empty), so that a hostile response may end its turn. Give the tokenizer wherever the server takes token ids.

    **Seeds.** Every request has a seed, made from `seed`, the prompt and the number of its first sample, and from
    nothing else: neither the other prompts nor their order, the number of processes or a restart change it. (vLLM
    without a request seed repeats itself after every start, since its own is 0.) vLLM draws sample j of a request with
    its seed + j, so that it draws the same samples however they are split over calls with `first`. Whether the same
    seed gives the same text is up to the server: vLLM does on one machine up to floating-point noise, in which batches
    of another make-up differ, and a long completion may turn on it; OpenAI promises its best effort; some servers
    ignore the field. Other servers and models in this process draw other samples from the same seed; greedy decoding
    agrees with them up to that noise.

    **Tokens.** `num_tokens` is the number of token ids that vLLM returns, or the usage of a request for one sample.
    Like `max_new_tokens` it includes what a server with a reasoning parser puts into `reasoning_content`. Such
    reasoning is not part of the completion, which is the message's `content` alone: empty where the reasoning ran into
    the token limit. With a `tokenizer` nothing is parsed, and the completion is all that the model wrote.

    **Failures.** No answer, a broken one, and the statuses 408, 429 and 5xx are retried after 1, 2, 4, … seconds, or
    when the server's `Retry-After` says. After any other failure no further request is started, those under way are
    awaited, and an [`EngineError`] names the prompt and holds what is complete. No sample is ever made up: a choice
    that ended for any reason but `"stop"` and `"length"` is a failure. Proxies named in the environment are not used.

    **Servers.** vLLM 0.32 on a CPU dies over a seeded request whose prefill is chunked: start it with
    `--no-enable-chunked-prefill`. `transformers serve` takes messages in `dialect="openai"`, and drops its model's own
    settings with `extra_body={"generation_config": '{"top_k": 0, "repetition_penalty": 1.0}'}`; its seed is the
    process's, so that samples repeat with `max_concurrent_requests=1` only.

    Args:
        model (`str`, *optional*):
            Name of the model on the server; its only one by default.
        base_url (`str`, *optional*, defaults to `"http://localhost:8000/v1"`):
            Root of the API. `/v1` is added to an address without a path.
        api_key (`str`, *optional*):
            Sent as bearer token. No environment variable is read.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer, with a chat template.
        dialect (`str`, *optional*, defaults to `"vllm"`):
            `"vllm"` asks for all samples of a prompt in one request, which prefills it once, and turns off the
            generation config of the server's model with fields that are vLLM's own. `"openai"` sends none of these
            and one request per sample.
        extra_body (mapping, *optional*):
            Fields to add to every request, or to replace in it; `None` takes a field out. For instance
            `{"chat_template_kwargs": {"enable_thinking": False}}` for vLLM, or
            `{"max_tokens": None, "max_completion_tokens": 1024}` for a server that knows only the newer name.
        max_concurrent_requests (`int`, *optional*, defaults to `64`):
            Requests in flight at once, over all threads that call the engine.
        max_retries (`int`, *optional*, defaults to `6`):
            Retries of a request, about a minute in all.
        timeout (`float`, *optional*, defaults to `600.0`):
            Seconds to wait for an answer, which includes the time that the request waits in the server's queue.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str = "http://localhost:8000/v1",
        api_key: str | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        dialect: str = "vllm",
        extra_body: Mapping[str, Any] | None = None,
        max_concurrent_requests: int = 64,
        max_retries: int = 6,
        timeout: float = 600.0,
    ):
        if dialect not in DIALECTS:
            raise ValueError(f"Found dialect={dialect!r}; expected one of {[*DIALECTS]}.")
        if max_concurrent_requests < 1 or max_retries < 0 or not timeout > 0:
            raise ValueError(
                f"Found max_concurrent_requests={max_concurrent_requests}, max_retries={max_retries} and "
                f"timeout={timeout}; expected at least one request, no negative number of retries and a positive time."
            )
        self.model = model
        self.base_url = _root(base_url)
        self.api_key = api_key
        self.tokenizer = tokenizer
        self.dialect = dialect
        self.extra_body = dict(extra_body or {})
        self.max_concurrent_requests = max_concurrent_requests
        self.max_retries = max_retries
        self.timeout = timeout
        self._slots = threading.BoundedSemaphore(max_concurrent_requests)

    @property
    def name(self) -> str:
        """Name of the model on the server, for manifests; asks the server if it was not given."""
        return self.model or self._served["id"]

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The strings against which prompts are fenced: the tokenizer's, or none where it is not known."""
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
                `0` decodes greedily: once per prompt, and all k samples are that one. No top-k is ever applied.
            top_p (`float`, *optional*, defaults to `1.0`): Nucleus sampling.
            max_new_tokens (`int`, *optional*, defaults to `1024`): Longest completion, in tokens.
            first (`int` or sequence of `int`, *optional*, defaults to `0`):
                Number of the first sample of each prompt: with it a later call goes on where an earlier one stopped.
            progress (`str`, *optional*): Title of a progress bar over completions; no bar if not given.

        Returns:
            `list[list[Sample]]`: k samples for each prompt, in order.

        Raises:
            `ValueError`: if an option is out of its range, or a prompt and `max_new_tokens` exceed the server's
                context: [`~trl_spct.judge.sampling.PromptTooLongError`] before anything is sent where the tokenizer is
                known and the server says how long its context is, else [`ServerContextError`].
            [`EngineError`]: if the server refuses a request or does not answer it, with what is complete.
        """
        check_sampling(temperature, top_p, max_new_tokens)
        counts = per_prompt("k", k, len(prompts), 1)
        starts = per_prompt("first", first, len(prompts), 0)
        if not prompts:
            return []
        if seed is None:
            seed = int(torch.randint(2**31, (1,)))
        path, inputs = self._render(prompts, max_new_tokens)
        settings = {"model": self.name, "temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}

        def body(request: _Request) -> dict[str, Any]:
            row = request.row
            drawn = _request_seed(seed, prompts[row], starts[row] + request.offset)
            return self._body({**inputs[row], **settings, "seed": drawn}, request.size)

        requests = [r for row, count in enumerate(counts) for r in self._requests(row, count, temperature == 0)]
        with tqdm(total=sum(counts), desc=progress, disable=progress is None, unit="critique") as bar:
            samples, failure = self._gather(path, requests, body, counts, bar)
        if failure is not None:
            raise _with_completed(*failure, samples) from failure[1]
        self._warn_of_early_ends(samples, max_new_tokens)
        return samples

    def _render(self, prompts: Sequence[Messages], max_new_tokens: int) -> tuple[str, list[dict[str, Any]]]:
        """The endpoint, and what each prompt is in a request to it."""
        if self.tokenizer is None:
            return "/chat/completions", [{"messages": [dict(turn) for turn in prompt]} for prompt in prompts]
        encoded = encode_prompts(self.tokenizer, prompts)
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

    def _gather(
        self,
        path: str,
        requests: Sequence["_Request"],
        body: Callable[["_Request"], dict[str, Any]],
        counts: Sequence[int],
        bar: tqdm,
    ) -> tuple[list[list[Sample]], tuple[int, EngineError] | None]:
        """Sends the requests, and puts what comes back in its place; after a failure only what is under way.

        Returns:
            The samples of each prompt, with `None` for what did not come, and the number of the prompt that failed
            with its error if one did.
        """
        samples: list[list[Sample | None]] = [[None] * count for count in counts]
        failures: list[tuple[int, EngineError]] = []
        with ThreadPoolExecutor(min(self.max_concurrent_requests, len(requests))) as executor, self._open() as wire:

            def send(request: _Request) -> list[tuple[Sample, list[int] | None]]:
                if wire.stopping.is_set():
                    return []
                try:
                    return self._ask(wire, "POST", path, body(request), partial(_read_choices, size=request.size))
                except EngineError as error:
                    failures.append((request.row, error))  # before the others give up because of it
                    wire.stopping.set()
                    return []

            futures = {executor.submit(send, request): request for request in requests}
            for future in as_completed(futures):
                request = futures[future]
                drawn = [self._decoded(*choice) for choice in future.result()] * request.copies
                samples[request.row][request.offset : request.offset + len(drawn)] = drawn
                bar.update(len(drawn))
        return samples, failures[0] if failures else None

    def _decoded(self, sample: Sample, ids: list[int] | None) -> Sample:
        """The text as a model in this process would have it, wherever that can be told."""
        if ids is None or self.tokenizer is None:
            return sample
        texts = self.tokenizer.batch_decode([ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return replace(sample, text=texts[0])

    def _warn_of_early_ends(self, samples: Iterable[Sequence[Sample]], max_new_tokens: int) -> None:
        ends = [s.num_tokens for drawn in samples for s in drawn if s.truncated and s.num_tokens < max_new_tokens]
        if ends:
            logger.warning(
                "%s cut %d completions after %d to %d tokens of the %d that were asked for: the server has a limit of "
                "its own. They count as truncated.",
                *(self.base_url, len(ends), min(ends), max(ends), max_new_tokens),
            )

    @cached_property
    def _served(self) -> dict[str, Any]:
        """What the server says about the model; nothing if it lists no models and the name is known."""
        try:
            with self._open() as wire:
                listed = self._ask(wire, "GET", "/models", None, lambda answer: answer.get("data"))
        except EngineError as error:
            if self.model is None or error.status is None:
                raise
            listed = None  # a server may list no models, and needs not where the name is known
        models = {entry.get("id"): entry for entry in listed or () if isinstance(entry, dict)}
        if self.model is not None:
            return models.get(self.model, {})
        if len(models) != 1:
            raise EngineError(
                f"Found the models {[*models]} at {self.base_url}; expected one, or its name as `model`."
            )
        return next(iter(models.values()))

    def _open(self) -> "_Connections":
        return _Connections(self.base_url, self.api_key, self.timeout, self._slots)

    def _ask(
        self, wire: "_Connections", method: str, path: str, body: Any, read: Callable[[dict[str, Any]], Any]
    ) -> Any:
        """What `read` makes of the answer; asks again while there is hope.

        Raises:
            [`EngineError`]: if the server refuses, or after `max_retries` retries.
        """
        url = self.base_url + path
        data = None if body is None else json.dumps(body).encode()
        for attempt in itertools.count(1):
            try:
                return read(_read_answer(url, *wire.exchange(method, path, data)))
            except ssl.SSLCertVerificationError as error:
                raise EngineError(f"{url}: {error}.") from error
            except _Transient as error:
                failure = error
            except (OSError, http.client.HTTPException) as error:
                failure = _Transient(f"{url} gave no answer ({type(error).__name__}: {error}).")
            if attempt > self.max_retries or not wire.pause(attempt, failure):
                raise EngineError(f"{failure} Gave up after {attempt} attempts.", status=failure.status) from failure


@dataclass(frozen=True)
class _Request:
    """`size` samples of prompt `row`, from number `offset` of this call on, each of which counts `copies` times."""

    row: int
    offset: int
    size: int
    copies: int = 1


class _Connections:
    """The connections of one call, kept alive from request to request; leaving the context ends what is under way.

    Args:
        base_url, api_key, timeout: As for [`OpenAIEngine`].
        slots (`threading.Semaphore`): Held during each exchange.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout: float, slots: threading.Semaphore):
        self.url = urlsplit(base_url)
        self.timeout = timeout
        self.slots = slots
        self.headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key is not None:
            self.headers["Authorization"] = f"Bearer {api_key}"
        self.stopping = threading.Event()  # no new request, no retry
        self._closed = False
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._announced = 0

    def __enter__(self) -> "_Connections":
        return self

    def __exit__(self, *_) -> None:
        self.stopping.set()
        with self._lock:
            self._closed = True
            for connection in self._idle:
                connection.close()
            sockets = [connection.sock for connection in self._busy if connection.sock is not None]
        for sock in sockets:
            try:
                # Wakes the thread that reads from it, which closing would not. `SSLSocket` has its own, unsafe here.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                logger.debug("A connection was gone before it could be ended.")

    def exchange(self, method: str, path: str, data: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of an answer; an `OSError` or `HTTPException` if there is none."""
        with self.slots:
            connection = self._take()
            kept = connection.sock is not None
            try:
                return self._send(connection, method, path, data)
            except ConnectionError:
                if not kept:
                    raise
            # A server closes a connection that was idle for long, which shows only when it is used again.
            return self._send(self._take(new=True), method, path, data)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, data: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        whole = False
        try:
            if connection.sock is None:
                self._connect(connection)
            connection.request(method, self.url.path + path, data, self.headers)
            response = connection.getresponse()
            answer = response.status, response.headers, response.read()
            whole = True
        finally:
            self._put_back(connection, whole)
        return answer

    def _take(self, new: bool = False) -> http.client.HTTPConnection:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the call has ended")
            kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
            kept = self._idle and not new
            connection = self._idle.pop() if kept else kind(self.url.hostname, self.url.port)
            self._busy.add(connection)
        return connection

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        connection.timeout = min(_CONNECT_SECONDS, self.timeout)
        connection.connect()
        connection.sock.settimeout(self.timeout)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._closed:
            raise ConnectionAbortedError("the call has ended")

    def _put_back(self, connection: http.client.HTTPConnection, whole: bool) -> None:
        with self._lock:
            self._busy.remove(connection)
            if whole and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def pause(self, attempt: int, failure: _Transient) -> bool:
        """Waits for the time of the next attempt; says whether there shall be one."""
        if self.stopping.is_set():
            return False
        wait = _backoff(attempt, failure.wait)
        with self._lock:
            news, self._announced = attempt > self._announced, max(attempt, self._announced)
        logger.log(logging.WARNING if news else logging.DEBUG, "%s Asking again in %.1f s.", failure, wait)
        return not self.stopping.wait(wait)


def _backoff(attempt: int, asked: float) -> float:
    """Seconds before the next attempt: 1, 2, 4, … less up to a quarter, so that threads do not come back all at once,
    or as many as the server asks for."""
    backoff = min(_LONGEST_BACKOFF, 2.0 ** min(attempt - 1, 9)) * random.SystemRandom().uniform(0.75, 1.0)
    return min(max(backoff, asked), _LONGEST_WAIT)


def _read_answer(url: str, status: int, headers: Mapping[str, str], data: bytes) -> dict[str, Any]:
    """The JSON object of a successful answer; anything else is raised, as something that may pass or not."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    message = _message(answer) or data[:300].decode(errors="replace")
    message = f"{url} answered {status}: {message.strip().rstrip('.')}."
    if status in (408, 429) or status >= 500:
        raise _Transient(message, status, _retry_after(headers.get("Retry-After")))
    if status != 200:
        raise _refusal(message, status)
    if not isinstance(answer, dict) or answer.get("error"):
        raise _Transient(message, status)
    return answer


def _message(answer: Any) -> str:
    """The message of an error, in the shapes of OpenAI, vLLM and FastAPI."""
    for name in ("error", "message", "detail"):
        if isinstance(answer, dict) and answer.get(name):
            return _message(answer[name])
    return answer if isinstance(answer, str) else json.dumps(answer)[:300] if answer else ""


def _refusal(message: str, status: int) -> EngineError:
    if status in (400, 413, 422) and _CONTEXT.search(message):
        advice = "Shorten or drop the row, lower `max_new_tokens`, or start the server with a longer context."
        return ServerContextError(f"{message} {advice}", status=status)
    if any(name in message for name in VLLM_FIELDS):
        message += ' `dialect="openai"` leaves out the fields that only vLLM knows.'
    return EngineError(message, status=status)


def _retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait: it gives a number of them, or a date."""
    if value is None:
        return 0.0
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _read_choices(answer: dict[str, Any], size: int) -> list[tuple[Sample, list[int] | None]]:
    """The samples of a request, and their token ids if the server gave them."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _Transient(f"Found no choices in the answer {json.dumps(answer)[:300]}.", 200)
    if len(choices) != size:
        advice = ' `dialect="openai"` asks for one at a time.' if size > 1 else ""
        raise EngineError(
            f"Found {len(choices)} choices; expected the {size} that were asked for.{advice}", status=200
        )
    usage = answer.get("usage")
    total = usage.get("completion_tokens") if isinstance(usage, dict) and size == 1 else None
    if all(isinstance(choice.get("index"), int) for choice in choices):
        choices = sorted(choices, key=itemgetter("index"))
    return [_read_choice(choice, total) for choice in choices]


def _read_choice(choice: dict[str, Any], total: int | None) -> tuple[Sample, list[int] | None]:
    reason, ids, message = choice.get("finish_reason"), choice.get("token_ids"), choice.get("message")
    if reason in (None, "abort", "error"):
        raise _Transient(f"Found a completion that the server broke off ({reason}).", 200)
    if reason not in ("stop", "length"):
        raise EngineError(f"Found the finish reason {reason!r}; expected 'stop' or 'length'.", status=200)
    text = choice.get("text")
    if isinstance(message, dict):
        text = message.get("content")
        if text is None and (message.get("reasoning") or message.get("reasoning_content")):
            text = ""
    if not isinstance(text, str):
        raise EngineError(f"Found a choice without text: {json.dumps(choice)[:300]}.", status=200)
    number = len(ids) if isinstance(ids, list) else total
    if not isinstance(number, int):
        raise EngineError(
            "Found neither the token ids of the samples nor a usage of one sample alone, and so no number of tokens; "
            'with `dialect="openai"` every sample has a usage of its own, where the server gives any.',
            status=200,
        )
    return Sample(text, number, truncated=reason == "length"), ids if isinstance(ids, list) else None


def _with_completed(row: int, error: EngineError, samples: Sequence[Sequence[Sample | None]]) -> EngineError:
    completed = {number: drawn for number, drawn in enumerate(samples) if None not in drawn}
    told = f"{len(completed)} of {len(samples)} prompts are complete (`completed`)."
    return type(error)(f"Prompt {row}: {error} {told}", row, error.status, completed)


def _root(base_url: str) -> str:
    """The root of the API, at which nothing but a path can be added."""
    url = urlsplit(base_url.rstrip("/"))
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
        raise ValueError(
            f"Found base_url={base_url!r}; expected an address such as 'http://localhost:8000/v1', without a user or "
            "a query."
        )
    return url._replace(path=url.path or "/v1").geturl()


def _request_seed(seed: int, prompt: Messages, number: int) -> int:
    """Counts on from a number of 52 bits, which a server that reads JSON numbers as floats keeps apart, too."""
    return derive_seed(seed, json.dumps([dict(turn) for turn in prompt], sort_keys=True)) % 2**52 + number
