# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""A judge as a server: its answers are the pipeline's, for each client its own, and nothing waits without a bound."""

import asyncio
import importlib.util
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import pytest
from paths import ROOT
from test_rewards import Reader, scores_of, worth
from tiny_models import WITHOUT_THIS_PACKAGE, save_writing
from transformers import pipeline

from trl_spct import GRMRewardPipeline, JudgeReward, cli
from trl_spct.judge.costs import spend
from trl_spct.judge.sampling import EngineError, PromptRefusedError, Refusal, Sample

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from fastapi.testclient import TestClient  # noqa: E402

from trl_spct import serving  # noqa: E402
from trl_spct.serving import JudgeServer, ServeArguments  # noqa: E402

PACKAGE = ROOT / "trl_spct"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    return save_writing(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def judge(judge_folder):
    return pipeline("grm-reward", model=judge_folder, template="compact", max_new_tokens=32)


@asynccontextmanager
async def connected(server):
    """A client of a running server, in one event loop."""
    app = server.app()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        client.app = app
        yield client


def answers(server, *requests):
    """Responses to (path, body) that are sent at the same time."""

    async def ask():
        async with connected(server) as client:
            return await asyncio.gather(*(client.post(path, json=body) for path, body in requests))

    return asyncio.run(ask())


def answer(server, path, body):
    return answers(server, (path, body))[0]


def values(server, *requests):
    responses = answers(server, *requests)
    assert [response.status_code for response in responses] == [200] * len(requests), responses[0].text
    return [response.json() for response in responses]


def row(number, count=2):
    return {"query": f"Question {number}?", "responses": [f"answer {number} {place}" for place in range(count)]}


# --- the pipeline's answers ---


def test_a_row_and_rows(judge):
    server = JudgeServer(judge, ServeArguments(k=3))
    rows = [row(1), row(2, 3), row(1), {"prompt": "p", "chosen": "c", "rejected": "r", "labels": "nonsense"}]
    expected = judge([*rows[:3], {"query": "p", "responses": ["c", "r"]}], k=3, seed=0)
    one, many, greedy = values(server, ("/judge", rows[0]), ("/judge", rows), ("/judge?k=1", rows[1]))
    assert one == expected[0] and many == expected, "equal rows of one request draw apart, as in the pipeline"
    assert greedy == judge(rows[1], k=1)
    other = values(server, ("/judge?k=4&seed=5&temperature=0.9&order=random", rows[0]))[0]
    assert other == judge(rows[0], k=4, seed=5, temperature=0.9, order="random") != one


def test_a_row_alone_and_in_a_crowd(judge):
    """Twenty-four clients with three kinds of options at once."""
    server = JudgeServer(judge, ServeArguments(k=2), batch_size=5)
    options = [{"k": 2}, {"k": 3, "seed": 1}, {"k": 1}]
    rows = [(row(number % 11, 2 + number % 2), options[number % 3]) for number in range(24)]
    requests = [(f"/judge?{urlencode(chosen)}", content) for content, chosen in rows]
    alone = [judge(content, **{"seed": 0, **chosen}) for content, chosen in rows]
    assert values(server, *requests) == alone


def test_rows_of_all_clients_are_judged_together():
    reader = Reader()
    calls = []
    pipe = GRMRewardPipeline(
        lambda prompts, k, seed, **options: calls.append(len(prompts)) or reader(prompts, k, seed)
    )
    requests = [("/judge", {"query": f"q{n % 20}", "responses": worth(n % 10 + 1)}) for n in range(40)]
    found = values(JudgeServer(pipe, ServeArguments(k=1)), *requests)
    assert [judgment["scores"] for judgment in found] == [[n % 10 + 1] for n in range(40)]
    assert sum(calls) == 20, "equal rows are judged once"
    assert len(calls) <= serving.ENGINE_CALLS
    calls.clear()
    values(JudgeServer(pipe, ServeArguments(k=1), batch_size=3), *requests)
    assert sum(calls) == 20 and max(calls) == 3


# --- rewards ---


def pipe_of(author=None):
    return GRMRewardPipeline(Reader(author))


def samples(prompt, *responses, **columns):
    return [{"prompt": prompt, "response": response, "label": None, **columns} for response in responses]


def reader_of(pipe):
    return pipe.engine


def test_slime(judge):
    server = JudgeServer(judge, ServeArguments(k=3))
    group = judge({"query": "q", "responses": ["a", "b"]}, k=3, seed=0, max_responses_per_prompt="auto")
    alone = judge({"query": "q", "responses": ["a"]}, k=3, seed=0)
    assert group["means"] and alone["means"] is None and alone["problems"] == {"count": 3}
    requests = ("/remote_rm", samples("q", "a", "b")), ("/remote_rm", samples("q", "a")[0])
    assert values(server, *requests) == [group["means"], None]
    reader = JudgeServer(pipe_of(), ServeArguments(k=2))
    assert values(reader, ("/remote_rm", samples("q", "worth 7")[0])) == [7]


def test_openrlhf():
    pipe = pipe_of()
    body = {"query": ["p?worth 3", "q?worth 4", "p?worth 9"], "prompts": ["p?", "q?", "p?"], "labels": ["x", "", None]}
    (found,) = values(JudgeServer(pipe, ServeArguments(k=2)), ("/get_reward", body))
    assert found == {"rewards": [3, 4, 9], "scores": [3, 4, 9], "extra_logs": {}}
    judged = {frozenset(responses) for _, responses in reader_of(pipe).judged}
    assert judged == {frozenset(worth(3, 9)), frozenset(worth(4))}, "the responses to one prompt are one judgment"


def test_what_is_read_of_a_group():
    """Equal responses once, empty ones not at all, no drafts; messages as a prompt."""
    pipe = pipe_of()
    group = samples(
        [{"role": "user", "content": "q"}], "worth 3", "<think>worth 1</think>worth 8", "worth 3", "<think>"
    )
    assert values(JudgeServer(pipe, ServeArguments(k=1)), ("/remote_rm", group)) == [[3, 8, 3, 1]]
    assert [sorted(responses) for _, responses in reader_of(pipe).judged] == [worth(3, 8)]
    assert values(JudgeServer(pipe_of()), ("/remote_rm?thoughts=prefilled", samples("q", "worth 9"))) == [[1]]


def test_labels():
    pipe = pipe_of()
    labeled = samples("<|user|>q", "worth 3", label="The label.")
    server = JudgeServer(pipe, ServeArguments(k=1))
    values(server, *((f"/remote_rm?{label}", labeled) for label in ("", "label=reference", "label=query")))
    plain, reference, query = sorted((prompt for prompt, _ in reader_of(pipe).judged), key=lambda p: p.count("label"))[
        :3
    ]
    assert "The label." not in plain and "<|user|>q" in plain
    assert {("<|user|>q" in prompt, "The label." in prompt) for prompt in (reference, query)} == {
        (True, True),
        (False, True),
    }


def test_what_cannot_be_judged_has_no_reward():
    pipe = pipe_of(lambda responses, number: "no box" if "worth 2" in responses else scores_of(responses))
    server = JudgeServer(pipe, ServeArguments(k=2))
    body = samples("q", "worth 2", "worth 5") + samples("p", "worth 6")
    assert values(server, ("/remote_rm", body), ("/remote_rm?unreadable=4.5", body)) == [
        [None, None, 6],
        [4.5, 4.5, 6],
    ]
    logged = values(server, ("/get_reward", {"query": ["qworth 2"], "prompts": ["q"], "labels": [""]}))[0]
    assert logged == {"rewards": [None], "scores": [None], "extra_logs": {}}


def singles(path, prompt, *responses):
    return [(path, sample) for sample in samples(prompt, *responses)]


def test_a_group_that_comes_one_by_one_is_one_judgment(judge):
    pipe = pipe_of()
    server = JudgeServer(pipe, ServeArguments(k=1))
    requests = singles("/remote_rm?group_size=3", "p", *worth(3, 9, 4)) + singles(
        "/remote_rm?group_size=2", "q", *worth(7, 7)
    )
    random.Random(0).shuffle(requests)
    found = values(server, *requests)
    assert found == [int(body["response"].split()[1]) for _, body in requests]
    assert sorted(sorted(responses) for _, responses in reader_of(pipe).judged) == [worth(3, 4, 9), worth(7)]
    requests = singles("/remote_rm?group_size=2", "p", "b", "a")
    server = JudgeServer(judge, ServeArguments(k=2))
    first = values(server, *requests)
    assert values(server, *requests[::-1]) == first[::-1], "in any sequence"
    assert first[::-1] == judge({"query": "p", "responses": ["a", "b"]}, k=2, seed=0)["means"]


def test_a_group_that_stays_incomplete():
    server = JudgeServer(pipe_of(), ServeArguments(k=1, group_seconds=0.05))

    async def ask():
        async with connected(server) as client:
            url = "/remote_rm?group_size=3"
            two = await asyncio.gather(*(client.post(url, json=body) for body in samples("p", *worth(1, 2))))
            rest = await asyncio.gather(*(client.post(url, json=body) for body in samples("p", *worth(4, 5, 6))))
            return two, rest

    two, rest = asyncio.run(ask())
    assert [response.status_code for response in two] == [503, 503] and two[0].headers["retry-after"] == "1"
    assert two[0].json()["detail"]["message"] == "Found 2 responses of a group; expected 3 in 0.05 s."
    assert [response.json() for response in rest] == [4, 5, 6], "those that gave up are not waited for"
    assert not server._groups and not server._rows


# --- refusals ---


@pytest.mark.parametrize(
    ("path", "body", "number", "reason"),
    [
        ("/judge", [row(1), {"query": "q", "responses": []}], 1, "Row 1: Found responses of type"),
        ("/judge", 5, 0, "Found a row of type int; expected a mapping"),
        ("/judge?k=0", row(1), None, "Found k=0; expected a whole number"),
        ("/judge?k=65", row(1), None, "Found k=65; expected at most 64"),
        ("/judge?k=null", row(1), None, "Found k=None"),
        ("/judge?temperature=hot", row(1), None, "Found a value of another type"),
        ("/judge?template=/etc/passwd", row(1), None, "Found the parameters ['template']; expected some of"),
        ("/judge?guide=soft", row(1), None, "without a Meta RM"),
        ("/judge", [row(n) for n in range(9)], None, "Found 9 rows; expected at most 8"),
        (
            "/judge",
            [row(1), {"query": "q", "responses": ["x" * 20_001]}],
            1,
            "Found 20008 characters; expected 20000 or fewer",
        ),
        ("/judge", [row(1), {"query": "q", "responses": ["x" * 9_000]}], 1, "length"),
        ("/get_reward", {"query": ["pa"]}, None, "expected lists of one length"),
        ("/get_reward", {"query": ["pa"], "prompts": ["q"], "labels": [1]}, 0, "no response behind a prompt"),
        ("/remote_rm", [*samples("q", "a"), {"prompt": "q"}], 1, "no response behind a prompt"),
        ("/remote_rm", samples("q", "a", "b")[:1] + samples("", "c"), None, "Completion 1: Found an empty query"),
        ("/remote_rm?group_size=0", samples("q", "a"), None, "group_size=0"),
        ("/remote_rm?thoughts=loud", samples("q", "a"), None, "thoughts='loud'"),
        ("/remote_rm?label=reference", samples("q", "a", label=5), None, "`reference` is int"),
        ("/remote_rm?label=truth", samples("q", "a"), None, "Found label='truth'"),
        ("/remote_rm?unreadable=low", samples("q", "a"), None, "unreadable='low'"),
        ("/remote_rm?self=1&samples=2", samples("q", "a"), None, "Found the parameters ['samples', 'self']"),
    ],
)
def test_bad_input(judge, path, body, number, reason):
    response = answer(JudgeServer(judge, ServeArguments(k=1, max_rows=8, max_characters=20_000)), path, body)
    error = response.json()["detail"]
    assert response.status_code == 422 and reason in error["message"] + str(error["cause"]), error
    assert error["row"] == number and (number is None or error["message"].startswith(f"Row {number}: "))


def test_bodies(judge):
    async def ask():
        async with connected(JudgeServer(judge, ServeArguments(max_megabytes=1))) as client:
            contents = b"no JSON", b"[" * 10**5, b'"' + b"x" * 2**20 + b'"', b""
            return [await client.post("/judge", content=content) for content in contents]

    responses = asyncio.run(ask())
    assert [response.status_code for response in responses] == [422, 422, 413, 413]
    assert all("Traceback" not in response.text for response in responses)


def basic(key):
    return "Basic " + b64encode(f"user:{key}".encode()).decode()


def test_the_key(judge):
    """Without a key only `/health` answers. Clients that cannot send a header put the key into the URL."""

    async def ask():
        async with connected(JudgeServer(judge, ServeArguments(k=1), api_key="secret")) as client:
            keys = "", "Bearer secret", "bearer secret", basic("secret"), "Bearer secret1", basic("no"), "Basic !", "x"
            headers = [{"Authorization": key.encode()} if key else {} for key in keys]
            found = [(await client.post("/judge", json=row(1), headers=head)).status_code for head in headers]
            shown = [(await client.get(path)).status_code for path in ("/health", "/metrics")]
            return found, shown, (await client.post("/judge", json=row(1))).headers["www-authenticate"]

    found, shown, scheme = asyncio.run(ask())
    assert found == [401, 200, 200, 200, 401, 401, 401, 401]
    assert shown == [200, 401] and scheme == "Bearer"


# --- the queue ---


class Gate:
    """A [`Reader`] that waits to be opened, and counts the calls that wait."""

    def __init__(self, author=None):
        self.reader, self.opened, self.waiting = Reader(author), threading.Event(), threading.Semaphore(0)

    def __call__(self, prompts, k, seed, **options):
        self.waiting.release()
        assert self.opened.wait(60)
        return self.reader(prompts, k, seed)


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("waited for nothing")


def test_a_full_queue(monkeypatch):
    monkeypatch.setattr(serving, "ENGINE_CALLS", 1)
    gate = Gate()
    server = JudgeServer(GRMRewardPipeline(gate), ServeArguments(k=1, max_rows=2, max_queue=3))

    async def ask():
        async with connected(server) as client:
            running = asyncio.create_task(client.post("/judge", json={"query": "q0", "responses": ["worth 1"]}))
            await asyncio.to_thread(gate.waiting.acquire)
            bodies = [[{"query": f"q{n}{m}", "responses": [f"worth {n + m}"]} for m in range(2)] for n in (1, 4)]
            waiting = asyncio.create_task(client.post("/judge", json=bodies[0]))
            await until(lambda: server._waiting() == 2)
            refused = await client.post("/judge", json=bodies[1])
            health = (await client.get("/health")).json()
            gate.opened.set()
            return refused, health, (await running).json(), (await waiting).json()

    refused, health, first, others = asyncio.run(ask())
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    assert refused.json()["detail"]["message"].startswith("Found 2 waiting rows; expected room for 2 more")
    assert health["status"] == "ok" and health["waiting"] == 2
    assert [judgment["scores"] for judgment in (first, *others)] == [[1], [1], [2]]


async def sent(app, path, body, gone):
    """The messages that answer a request, whose client is gone when `gone` is set."""
    content, messages = json.dumps(body).encode(), []
    received = iter([{"type": "http.request", "body": content, "more_body": False}])

    async def receive():
        if (message := next(received, None)) is None:
            await gone.wait()
            message = {"type": "http.disconnect"}
        return message

    async def send(message):
        messages.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"content-length", str(len(content)).encode())], "http_version": "1.1", "scheme": "http"}
    await app({**scope, "server": ("x", 80), "client": ("y", 1), "root_path": ""}, receive, send)
    return messages[0]["status"]


def test_a_client_that_is_gone_leaves_the_queue(monkeypatch):
    """Its rows are not judged, save those that another client waits for."""
    monkeypatch.setattr(serving, "ENGINE_CALLS", 1)
    gate = Gate()
    server = JudgeServer(GRMRewardPipeline(gate), ServeArguments(k=1))
    bodies = [{"query": f"q{n}", "responses": [f"worth {n}"]} for n in range(1, 4)]

    async def ask():
        async with connected(server) as client:
            gone = asyncio.Event()
            stays = asyncio.create_task(client.post("/judge", json=bodies[0]))
            await asyncio.to_thread(gate.waiting.acquire)
            leaves = asyncio.create_task(sent(client.app, "/judge", bodies[1:], gone))
            shares = asyncio.create_task(client.post("/judge", json=bodies[2]))
            await until(lambda: sum(len(waiting.answers) for waiting in server._rows.values()) == 4)
            gone.set()
            status, left = await leaves, server._waiting()
            gate.opened.set()
            return status, left, [(await task).json()["scores"] for task in (stays, shares)]

    assert asyncio.run(ask()) == (499, 1, [[1], [3]])
    assert [responses for _, responses in gate.reader.judged] == [("worth 1",), ("worth 3",)]
    assert not server._rows


# --- failures ---


def failing(error):
    """An engine that fails with an error at prompts that ask for it."""

    def sample(prompts, k, seed, **options):
        if any("slow" in prompt[0]["content"] for prompt in prompts):
            time.sleep(0.3)
        bad = [number for number, prompt in enumerate(prompts) if "bad" in prompt[0]["content"]]
        if bad:
            raise error(bad)
        return Reader()(prompts, k, seed)

    return GRMRewardPipeline(sample)


GOOD, BAD = {"query": "q", "responses": worth(3)}, {"query": "bad", "responses": worth(4)}


def test_a_row_that_the_judges_server_refuses():
    def refuse(bad):
        refusals = {number: Refusal("content_filter", f"said no to {number}") for number in bad}
        return PromptRefusedError("no", bad[0], 400, {}, refusals)

    server = JudgeServer(failing(refuse), ServeArguments(k=1))
    good, bad, mixed = answers(
        server, ("/judge", GOOD), ("/judge", [GOOD, BAD]), ("/remote_rm", samples("bad", "x")[0])
    )
    assert good.json()["scores"] == [3] and mixed.json() is None
    error = bad.json()["detail"]
    assert (bad.status_code, error["row"], error["cause"]) == (422, 1, "content_filter")
    assert error["message"].startswith("Row 1: The judge cannot read it (content_filter)")


@pytest.mark.parametrize("status", [None, 500])
def test_the_judges_server_fails(status, monkeypatch):
    """What it said about a row is for the client of that row."""
    monkeypatch.setattr(serving, "ENGINE_CALLS", 1)
    pipe = failing(lambda bad: EngineError("The server said: secret of a row.", bad[0], status))
    server = JudgeServer(pipe, ServeArguments(k=1))
    (alone,) = answers(server, ("/judge", BAD))
    assert alone.status_code == 502 and "secret of a row" in alone.text

    async def ask():
        async with connected(server) as client:
            slow = asyncio.create_task(client.post("/judge", json={"query": "slow", "responses": worth(2)}))
            await until(lambda: any(waiting.running for waiting in server._rows.values()))
            bad = client.post("/judge", json=BAD), client.post("/remote_rm", json=samples("q", "worth 1")[0])
            return await asyncio.gather(slow, *bad)  # the last two wait, and are then judged together

    first, *together = asyncio.run(ask())
    assert [response.status_code for response in (first, *together)] == [200, 502, 502]
    assert ("secret" in together[1].text) == (status is None)


def test_an_error_of_another_row_is_not_ones_own(caplog):
    def crash(bad):
        return RuntimeError("out of memory, at /home/me")

    good, bad = answers(JudgeServer(failing(crash), ServeArguments(k=1)), ("/judge", GOOD), ("/judge", BAD))
    assert good.json()["scores"] == [3]
    assert bad.status_code == 500 and bad.text == "Internal Server Error"


# --- what is shown, and the command ---


def test_metrics():
    def sample(responses, number):
        spend(read=5, written=10, scored=1)
        return Sample("x", 10, truncated=True) if number else scores_of(responses)

    pipe = pipe_of(sample)
    server = JudgeServer(pipe, ServeArguments(k=3), prices=[2.0, 8.0])

    async def ask():
        async with connected(server) as client:
            before = read((await client.get("/metrics")).text)
            await asyncio.gather(client.post("/judge", json=[GOOD, BAD]), client.post("/judge", json=5))
            response = await client.get("/metrics")
            after = read(response.text)
            assert response.headers["content-type"].startswith("text/plain; version=")
            return {name: value - before.get(name, 0) for name, value in after.items()}

    def read(text):
        lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("trl_spct")]
        return {name: float(value) for name, _, value in lines}

    found = asyncio.run(ask())
    assert found['trl_spct_request_seconds_count{path="/judge",status="200"}'] == 1
    assert found['trl_spct_request_seconds_count{path="/judge",status="422"}'] == 1
    assert found["trl_spct_rows_total"] == 2 and found["trl_spct_queue_rows"] == 0
    assert found['trl_spct_unreadable_critiques_total{cause="truncated"}'] == 4
    assert found['trl_spct_tokens_total{direction="written"}'] == 60
    tokens = [found[f'trl_spct_tokens_total{{direction="{kind}"}}'] for kind in ("read", "scored")]
    assert tokens[0] == 5 * tokens[1] > 0 and found["trl_spct_judging_seconds_total"] > 0
    assert found["trl_spct_money_total"] == pytest.approx((2 * tokens[0] + 8 * 10 * tokens[1]) / 1e6)


@pytest.fixture
def served(judge, monkeypatch):
    """The URL of a server, which answers in this process."""
    client = TestClient(JudgeServer(judge, ServeArguments(k=2), api_key="secret").app(), raise_server_exceptions=False)
    monkeypatch.setenv(serving.API_KEY, "secret")
    make = openai.OpenAI
    monkeypatch.setattr(openai, "OpenAI", lambda **options: make(**{**options, "max_retries": 0}, http_client=client))
    with client:
        yield "http://testserver"


def test_a_reward_of_trl_over_the_server(served, judge):
    prompts = ["Name a bird."] * 3 + [[{"role": "user", "content": "Name a fish."}]] * 2
    fish = [[{"role": "assistant", "content": text}] for text in ("Cod.", "Eel.")]
    completions = ["Owl.", "Bee.", "", *fish]
    options = {"k": 3, "seed": 4, "max_responses_per_prompt": 8}
    over, here = (JudgeReward(source, **options) for source in (served, judge))
    logged = {}, {}
    rewards = [
        reward(prompts=prompts, completions=completions, log_metric=metrics.__setitem__)
        for reward, metrics in zip((over, here), logged, strict=True)
    ]
    assert rewards[0] == rewards[1] and len(set(rewards[0])) > 1 and rewards[0][2] == 1.0
    assert logged[0] == logged[1]
    again = pickle.loads(pickle.dumps(over))
    assert again(prompts=prompts, completions=completions) == rewards[0]


def test_a_group_that_the_judge_cannot_read_has_no_reward(served):
    long = "word " * 5000
    rewards = JudgeReward(served, k=1)(prompts=["a", "a", "b", "b"], completions=["x", "y", long, "z"])
    assert rewards[2:] == [None, None] and None not in rewards[:2]


def test_a_reward_names_what_the_server_refuses(served, monkeypatch):
    with pytest.raises(EngineError, match="Found the parameters \\['template'\\]"):
        JudgeReward(served, template="paper")
    monkeypatch.setenv(serving.API_KEY, "another")
    with pytest.raises(EngineError, match="Found another API key, or none"):
        JudgeReward(served)


def test_arguments():
    for name in ("max_k", "max_rows", "max_characters", "max_megabytes"):
        with pytest.raises(ValueError, match=f"Found {name}=0"):
            ServeArguments(**{name: 0})
    with pytest.raises(ValueError, match="Found max_queue=5; expected at least max_rows=6"):
        ServeArguments(max_queue=5, max_rows=6)
    with pytest.raises(ValueError, match="without a Meta RM"):
        JudgeServer(pipe_of(), options={"k_meta": 2})


def test_the_command(judge_folder, judge, monkeypatch):
    """The server's defaults, which a request precedes."""
    served = []
    monkeypatch.setattr(serving.uvicorn, "run", lambda app, **options: served.append((app, options)))
    monkeypatch.setenv(serving.API_KEY, "k")
    command = ["serve", "--model_name_or_path", judge_folder, "--dtype", "float32", "--k", 2, "--seed", 3, "--port", 5]
    command += ["--max_new_tokens", 32, "--template", "compact", "--temperature", 0.9, "--order", "random"]
    assert cli.main([str(word) for word in command]) == 0
    ((app, options),) = served
    assert options == {"host": "127.0.0.1", "port": 5, "timeout_keep_alive": 75}

    async def ask():
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": "Bearer k"}
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, headers=headers) as client:
            return [(await client.post(f"http://x/judge?{query}", json=row(1))).json() for query in ("", "k=3&seed=0")]

    chosen = {"temperature": 0.9, "order": "random"}
    assert asyncio.run(ask()) == [judge(row(1), k=2, seed=3, **chosen), judge(row(1), k=3, seed=0, **chosen)]


class Running:
    """`trl-spct serve` in a process of its own, and how OpenRLHF and slime ask it, as their code and documentation
    describe it: OpenRLHF sends each response alone with up to 5 tries, slime with up to 10."""

    def __init__(self, folder, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["serve", "--model_name_or_path", folder, "--template", "compact", "--max_new_tokens", 32]
        command = [sys.executable, "-m", "trl_spct.cli", *map(str, [*command, "--port", port, *options])]
        environment = {**os.environ, serving.API_KEY: "secret"}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.url = f"http://rl:secret@127.0.0.1:{port}"
        for _ in range(600):
            assert self.process.poll() is None, self.process.stderr.read()
            try:
                httpx.get(f"{self.url}/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.2)

    async def posted(self, url, body, tries):
        for attempt in range(tries):
            try:
                async with httpx.AsyncClient(timeout=180) as client:
                    response = await client.post(url, json=body)
                    response.raise_for_status()
                    return response.json()
            except httpx.HTTPError:
                if attempt + 1 == tries:
                    raise
                await asyncio.sleep(0.1)

    async def openrlhf(self, query, prompt, label, **parameters):
        url = f"{self.url}/get_reward?{urlencode(parameters)}"
        found = await self.posted(url, {"query": [query], "prompts": [prompt], "labels": [label]}, 5)
        return found["rewards"], found["scores"], found["extra_logs"]

    async def slime(self, prompt, response, label, **parameters):
        sample = {"prompt": prompt, "response": response, "label": label}
        return await self.posted(f"{self.url}/remote_rm?{urlencode(parameters)}", sample, 10)


@pytest.fixture(scope="module")
def running(judge_folder):
    server = Running(judge_folder, "--k", 2)
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.mark.slow
def test_frameworks_ask_a_real_server(running, judge):
    """Groups of two that come one by one, from both frameworks at once; verl's and slime's functions in a process
    without this package."""
    groups = {
        prompt: judge({"query": prompt, "responses": ["bad", "good"]}, k=2, seed=0)["means"] for prompt in "abcd"
    }

    async def ask():
        asked = [
            asyncio.gather(
                *(running.openrlhf(f"{prompt}{text}", prompt, "", group_size=2) for text in ("good", "bad"))
            )
            for prompt in "ab"
        ]
        asked += [
            asyncio.gather(*(running.slime(prompt, text, None, group_size=2) for text in ("good", "bad")))
            for prompt in "cd"
        ]
        return await asyncio.gather(*asked)

    *openrlhf, third, fourth = asyncio.run(ask())
    for prompt, found in zip("ab", openrlhf, strict=True):
        assert [rewards[0] for rewards, _, _ in found] == groups[prompt][::-1]
        assert all(scores == rewards and logs == {} for rewards, scores, logs in found)
    assert [third, fourth] == [groups["c"][::-1], groups["d"][::-1]]
    assert httpx.post(running.url.replace("rl:secret@", "") + "/judge", json=row(1)).status_code == 401
    pytest.importorskip("openai")
    script = WITHOUT_THIS_PACKAGE + FUNCTIONS
    path = PACKAGE / "remote_rewards.py"
    done = subprocess.run([sys.executable, "-c", script, path, running.url], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[{"score": score} for score in groups["a"]], groups["c"], True]


FUNCTIONS = """
import asyncio, importlib.util
from types import SimpleNamespace

spec = importlib.util.spec_from_file_location("remote_rewards", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
url = sys.argv[2] + "/remote_rm"


async def main():
    group = url + "?group_size=2"
    asked = [module.compute_score("d", text, "x", {"question": "a"}, url=group) for text in ("bad", "good")]
    scores = await asyncio.gather(*asked)
    samples = [SimpleNamespace(prompt="c", response=text, label=None, other=1) for text in ("bad", "good")]
    rewards = await module.group_rm(SimpleNamespace(rm_url=url), samples)
    try:
        await module.group_rm(SimpleNamespace(rm_url=url), samples[0])  # this judge scores two responses
        refused = False
    except ValueError:
        refused = True
    print(json.dumps([scores, rewards, refused]))


asyncio.run(main())
"""


@pytest.mark.slow
def test_a_stop_finishes_what_was_begun(judge_folder, judge):
    server = Running(judge_folder, "--k", 8, "--batch_size", 1)
    rows = [row(number) for number in range(20)]

    async def ask():
        async with httpx.AsyncClient(timeout=180, limits=httpx.Limits(max_connections=None)) as client:
            begun = [asyncio.create_task(client.post(f"{server.url}/judge", json=content)) for content in rows]
            while (await client.get(f"{server.url}/health")).json()["waiting"] < 10:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            with pytest.raises(httpx.TransportError):
                await client.get(f"{server.url}/health", headers={"Connection": "close"})
            return [response.json() for response in await asyncio.gather(*begun)]

    assert asyncio.run(ask()) == [judge(content, k=8, seed=0) for content in rows]
    _, log = server.process.communicate(timeout=60)
    assert server.process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM) and "Traceback" not in log


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    spec = importlib.util.spec_from_file_location("trl_spct.serving_without", PACKAGE / "serving.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    with pytest.raises(ImportError, match=r'Serving a judge needs `pip install "trl-spct\[serve\]"`'):
        spec.loader.exec_module(module)
