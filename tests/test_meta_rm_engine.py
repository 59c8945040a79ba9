# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""A Meta RM on a server gives the logits of one in this process; and rate limits. For the slow tests, on a real vLLM
server, see `test_engines.py`."""

import json
import math
import pickle
import threading
from collections import Counter
from itertools import count

import pytest
import torch
from datasets import Dataset
from test_engines import (
    MODELS,
    PROMPTS,
    PYTHON,
    TOKENIZER,
    Process,
    choice,
    engine_of,
    honest,
    impatient,  # noqa: F401
    judge_folder,
    needs_vllm,
    serve,  # noqa: F401
)
from tiny_models import save_writing, tiny_config
from trl import ModelConfig

from trl_spct import GRMRewardPipeline, JudgeReward, MetaRMForSequenceClassification, OpenAIEngine, engines
from trl_spct.engines import MetaRMEngine, RateLimits
from trl_spct.evaluation.judgments import PipelineJudge, record_judgments
from trl_spct.jobs import stored_cost
from trl_spct.judge.costs import Cost, metered, spend
from trl_spct.judge.meta_scoring import encode_meta, meta_scores, tokenizer_digest
from trl_spct.judge.preferences import Preference
from trl_spct.judge.prompts import judge_template
from trl_spct.judge.sampling import EngineError, PromptRefusedError
from trl_spct.labeling.judgments import LabelingJudge, judge_dataset
from trl_spct.labeling.rows import prepare_rows
from trl_spct.scripts import JudgeArguments, load_judge

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [Preference(f"Q{i}", (f"a{i}", "b", "c <end_of_turn>"), labels=(1.0, 0.0, 0.0)) for i in range(4)]
CONVERSATIONS = [
    [{"role": "user", "content": f"Is this right, {i % 3}?"}, {"role": "assistant", "content": f"\\boxed{{{i}, 3}}"}]
    for i in (1, 2, 3, 4, 5, 2)
]


def save_meta_rm(folder, arch="llama", **stored):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64} if arch in ("qwen2", "granite") else {"head_dim": 32}
    sizes |= {"query_pre_attn_scalar": 32} if arch == "gemma2" else {}
    config = tiny_config(arch, TOKENIZER, initializer_range=0.3, max_position_embeddings=2048, **sizes)
    model = MetaRMForSequenceClassification(config).eval()
    model.config.meta_rm = {"tokenizer": tokenizer_digest(TOKENIZER), **stored}
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def meta_rm(tmp_path_factory):
    """(folder without weights, model): a Meta RM by which two critiques of each row vote."""
    folder = tmp_path_factory.mktemp("meta_rm")
    model = save_meta_rm(folder, k_meta=2)
    (folder / "model.safetensors").unlink()
    return str(folder), model


def pooling(model, owner="vllm"):
    """A server that obeys: vLLM's `/pooling`, or SGLang's `/classify`, over a model in this process."""

    def answer(path, body, number):
        if path == "/v1/models":
            return {"data": [{"id": "meta", "owned_by": owner}]}
        ids = body["input" if owner == "vllm" else "input_ids"]
        with torch.no_grad():
            logit = model(torch.tensor([ids])).logits.item()
        if owner == "vllm":
            assert path == "/pooling" and body["model"] == "meta" and body["task"] == "classify"
            value = logit if body.get("use_activation") is False else 1 / (1 + math.exp(-logit))
            return {"data": [{"index": 0, "object": "pooling", "data": [value]}], "usage": {"prompt_tokens": len(ids)}}
        assert path == "/classify"
        return {"embedding": [logit], "meta_info": {"id": "1", "prompt_tokens": len(ids)}}

    return answer


def writing(path, body, number=0):
    """A judge whose critiques have scores that differ between samples."""
    if path.endswith("/models"):
        return MODELS
    n, base = body.get("n", 1), body["seed"] % 7
    texts = [f"\\boxed{{{(base + i) % 9 + 1}, {(base + 2 * i) % 9 + 1}, 5}}" for i in range(n)]
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 7}
    return {"choices": [choice(text, i, chat=False) for i, text in enumerate(texts)], "usage": usage}


@pytest.fixture
def judge(serve):  # noqa: F811
    return engine_of(serve(writing), tokenizer=TOKENIZER)


# --- logits ---


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
def test_logits_are_those_of_the_model_in_this_process(owner, meta_rm, serve):  # noqa: F811
    folder, model = meta_rm
    server = serve(pooling(model, owner))
    engine = MetaRMEngine(base_url=server.url, tokenizer=folder)
    with metered() as spent:
        scores = meta_scores(engine, engine.tokenizer, CONVERSATIONS)
    assert scores == pytest.approx(meta_scores(model, TOKENIZER, CONVERSATIONS), abs=1e-6)
    assert scores[1] == scores[5] and max(scores) - min(scores) > 0.1
    sent = [body.get("input") or body["input_ids"] for body in server.bodies]
    assert sum(spent, Cost()).scored == sum(map(len, sent)) and sum(spent, Cost()).read == 0
    assert {*map(tuple, sent)} == {tuple(encode_meta(TOKENIZER, conversation)) for conversation in CONVERSATIONS}
    assert engine([]) == []
    other = pickle.loads(pickle.dumps(engine))
    assert meta_scores(other, TOKENIZER, CONVERSATIONS) == scores and other.config.meta_rm == engine.config.meta_rm


def test_the_server_may_be_named(meta_rm, serve):  # noqa: F811
    """A gateway does not say what is behind it, and has a path of its own."""
    folder, model = meta_rm
    answer = pooling(model, "sglang")
    server = serve(lambda path, body, number: answer(path.removeprefix("/gate"), body, number))
    named = MetaRMEngine("meta", server.url + "/gate/v1", tokenizer=folder, dialect="sglang")
    assert named([[3, 4, 5]]) == pytest.approx([model(torch.tensor([[3, 4, 5]])).logits.item()], abs=1e-6)
    assert server.requests[-1][0] == "/gate/classify"
    with pytest.raises(ValueError, match=r"dialect='tgi'; expected one of \[None, 'vllm', 'sglang'\]"):
        MetaRMEngine("meta", dialect="tgi", tokenizer=TOKENIZER)
    with pytest.raises(TypeError, match="tokenizer"):
        MetaRMEngine("meta", server.url)


def test_requests_are_bounded_and_retried(meta_rm, serve):  # noqa: F811
    folder, model = meta_rm
    answer = pooling(model)
    server = serve(lambda path, body, number: (503, {}, b"") if number in (2, 4) else answer(path, body, number))
    engine = MetaRMEngine(base_url=server.url, tokenizer=folder, max_concurrent_requests=2)
    assert len(meta_scores(engine, TOKENIZER, CONVERSATIONS)) == 6 and server.peak <= 2 and len(server.bodies) == 8


@pytest.mark.parametrize(
    "answer",
    [
        {"data": [{"data": [1.0, 2.0]}]},
        {"data": [{"data": "AACAPw=="}]},
        {"data": []},
        {"embedding": [[1.0]]},
        b'{"data": [{"data": [NaN]}]}',
        {},
    ],
)
def test_no_logit_is_made_up(answer, meta_rm, serve):  # noqa: F811
    server = serve(lambda path, *_: MODELS if path == "/v1/models" else answer)
    with pytest.raises(EngineError, match="expected one finite logit"):
        MetaRMEngine(base_url=server.url, tokenizer=meta_rm[0])([[3, 4]])


# --- guided votes over two servers ---


def same(judgments, others):
    assert [len(a["critiques"]) for a in judgments] == [len(b["critiques"]) for b in others]
    for a, b in zip(judgments, others, strict=True):
        for name in a.keys() - {"critiques"}:
            assert a[name] == b[name], name
        for c, d in zip(a["critiques"], b["critiques"], strict=True):
            assert c["meta_score"] == pytest.approx(d["meta_score"], abs=1e-5)
            assert {**c, "meta_score": 0} == {**d, "meta_score": 0}


def test_guided_votes_with_judge_and_meta_rm_on_servers(judge, meta_rm, serve, tmp_path):  # noqa: F811
    """The pipeline, evaluation and labeling judge as with the Meta RM in this process; its config guides."""
    folder, model = meta_rm
    server = serve(pooling(model))
    here = GRMRewardPipeline(judge, meta_rm=model, meta_rm_tokenizer=TOKENIZER, template="compact")
    there = GRMRewardPipeline(judge, meta_rm=MetaRMEngine(base_url=server.url, tokenizer=folder), template="compact")
    assert there.guidance == here.guidance and there.guidance.k_meta == 2
    judgments = there(ROWS, k=4, seed=0)
    same(judgments, here(ROWS, k=4, seed=0))
    assert [judgment["votes"] for judgment in judgments] == [2] * 4
    plain = GRMRewardPipeline(judge, meta_rm=None, template="compact")(ROWS, k=4, seed=0)
    assert [judgment["scores"] for judgment in judgments] != [judgment["scores"] for judgment in plain]

    evaluated = [record_judgments(PipelineJudge(p, 4), ROWS, tmp_path / f"e{n}") for n, p in enumerate((here, there))]
    same(*([judgment.to_dict() for judgment in judgments] for judgments in evaluated))
    settings = PipelineJudge(there, 4).settings
    assert (settings["meta_rm"], settings["meta_rm_weights"]) == ("meta", "")

    rows = prepare_rows(Dataset.from_list([{"prompt": row.query, "responses": list(row.responses)} for row in ROWS]))
    labeled = [judge_dataset(LabelingJudge(p, 4), rows, tmp_path / f"l{n}") for n, p in enumerate((here, there))]
    same(*map(list, labeled))
    costs = [stored_cost(tmp_path / name) for name in ("e1", "l1")]
    assert all(cost.read > 0 and cost.written > 0 and cost.scored > 0 for cost in costs)
    assert costs[1].scored == sum(len(body["input"]) for body in server.bodies[-16:])


def test_a_reward_over_two_servers_can_be_pickled(judge, meta_rm, serve):  # noqa: F811
    folder, model = meta_rm
    engine = MetaRMEngine(base_url=serve(pooling(model)).url, tokenizer=folder)
    reward = JudgeReward(judge, meta_rm=engine, k=4, template="compact")
    inputs = ["Which?"] * 3, ["one", "two", "three"]
    assert pickle.loads(pickle.dumps(reward))(*inputs) == reward(*inputs)
    with pytest.raises(ValueError, match="in this process"):
        pickle.dumps(JudgeReward(judge, meta_rm=model, k=4, template="compact"))


def test_a_judge_here_and_its_meta_rm_there(meta_rm, serve, tmp_path):  # noqa: F811
    from transformers import pipeline

    folder, model = meta_rm
    home = save_writing(tmp_path / "judge")
    engine = MetaRMEngine(base_url=serve(pooling(model)).url, tokenizer=folder)
    there = pipeline("grm-reward", model=home, meta_rm=engine, template="compact", max_new_tokens=32)
    here = pipeline("grm-reward", model=home, meta_rm=model, template="compact", max_new_tokens=32)
    row = {"query": "Which?", "responses": ["a", "b"]}
    same([there(row, k=4, seed=0)], [here(row, k=4, seed=0)])
    with pytest.raises(ValueError, match="Found an engine"):
        there.save_pretrained(tmp_path / "saved")


def test_a_critique_that_the_server_refuses(judge, meta_rm, serve, tmp_path):  # noqa: F811
    """Its row is named, or counted by cause; the others are judged."""
    folder, model = meta_rm
    answer, marks = pooling(model), TOKENIZER.encode("Q2")

    def strict(path, body, number):
        ids = body and body.get("input")
        if ids and any(ids[i : i + len(marks)] == marks for i in range(len(ids))):
            return 400, {}, {"error": {"message": "This model's maximum context length is 8 tokens."}}
        return answer(path, body, number)

    meta = MetaRMEngine(base_url=serve(strict).url, tokenizer=folder)
    pipe = GRMRewardPipeline(judge, meta_rm=meta, template="compact")
    with pytest.raises(PromptRefusedError, match="Row 2: .*/pooling answered 400.*context length") as refused:
        pipe(ROWS, k=4, seed=0)
    assert {row: refusal.cause for row, refusal in refused.value.refusals.items()} == {2: "context_length"}
    judgments = record_judgments(PipelineJudge(pipe, 4), ROWS, tmp_path, invalid_rows="drop")
    problems = [Counter(critique.problem for critique in judgment.critiques) for judgment in judgments]
    assert problems == [{None: 4}, {None: 4}, {"context_length": 4}, {None: 4}]
    denied = MetaRMEngine(base_url=serve(lambda *_: (401, {}, b"No")).url, model="meta", tokenizer=folder)
    with pytest.raises(EngineError, match="Row 0: .*/pooling answered 401: No") as failed:
        GRMRewardPipeline(judge, meta_rm=denied, template="compact")(ROWS, k=4, seed=0)
    assert failed.value.completed == {} and failed.value.status == 401


def test_a_meta_rm_that_does_not_fit(judge, meta_rm, serve, tmp_path, caplog):  # noqa: F811
    server = serve(pooling(meta_rm[1]))
    save_meta_rm(tmp_path / "other", template=judge_template("paper").digest)
    other = MetaRMEngine(base_url=server.url, tokenizer=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="learned from critiques under another"):
        GRMRewardPipeline(judge, meta_rm=other, template="compact")
    spoilt = MetaRMEngine(base_url=server.url, tokenizer=meta_rm[0])
    spoilt.tokenizer.chat_template = "!" + spoilt.tokenizer.chat_template
    with pytest.raises(ValueError, match="other tokens than it was trained on"):
        GRMRewardPipeline(judge, meta_rm=spoilt, template="compact")
    assert not caplog.records
    bare = MetaRMEngine(base_url=server.url, tokenizer=judge_folder(tmp_path))
    assert GRMRewardPipeline(judge, meta_rm=bare, template="compact").guidance.k_meta is None
    assert "Found no description of the Meta RM meta" in caplog.text


def test_a_meta_rm_named_on_the_command_line(judge, meta_rm, serve):  # noqa: F811
    folder, model = meta_rm
    servers = {"base_url": judge.base_url, "meta_rm_base_url": serve(pooling(model)).url, "requests_per_minute": 1e6}
    pipe = load_judge(JudgeArguments(**servers, meta_rm=folder, guide="soft"), ModelConfig(), "cpu")
    assert isinstance(pipe.meta_rm, MetaRMEngine) and pipe.guidance.guide == "top"
    assert pipe.meta_rm.config.meta_rm["k_meta"] == 2 and pipe.engine.per_minute == (1e6, math.inf)
    for missing in (None, "none"):
        with pytest.raises(ValueError, match="`meta_rm_base_url` without `meta_rm`"):
            load_judge(JudgeArguments(**servers, meta_rm=missing), ModelConfig(), "cpu")
    for prices in ([1.0], [1.0, -1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="expected two numbers"):
            JudgeArguments(prices=prices)


# --- rate limits ---


class Clock(threading.Event):
    """Time that passes while someone waits."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0

    def __call__(self):
        return self.now

    def wait(self, timeout=None):
        self.now += timeout
        return False


def most_in_a_minute(times, amounts):
    starts = range(len(times))
    return max(sum(a for t, a in zip(times, amounts, strict=True) if times[i] <= t < times[i] + 60) for i in starts)


def test_requests_in_any_minute():
    clock = Clock()
    limits, times = RateLimits(3, math.inf, clock), []
    for _ in range(8):
        with limits.admit({"prompt": [0] * 60, "max_tokens": 40}, clock):
            times.append(clock.now)
            clock.now += 7
    assert times[:3] == [1000, 1007, 1014] and most_in_a_minute(times, [1] * 8) == 3
    assert times[3:6] == pytest.approx([1060, 1067, 1074], abs=0.2), "as soon as there is room"


def test_tokens_in_any_minute():
    """A request counts as all that it may use until it is answered, and then as what it used."""
    clock = Clock()
    limits, times = RateLimits(math.inf, 100, clock), []
    for _ in range(12):
        with limits.admit({"prompt": [0] * 10, "max_tokens": 15, "n": 2}, clock):
            times.append(clock.now)
            spend(read=5, written=10)
    assert times[:5] == [1000] * 5, "60 used and 40 reserved"
    assert times[5:10] == pytest.approx([1060] * 5, abs=0.2) and most_in_a_minute(times, [15] * 12) == 75
    with limits.admit({"input": [0] * 1000}, clock):
        assert clock.now == pytest.approx(1180, abs=0.5), "one that exceeds the limit is sent alone"


def test_an_engine_with_limits(serve, monkeypatch):  # noqa: F811
    clock, times = count(0, 1), []
    monkeypatch.setattr(engines, "_POLL_SECONDS", 0.001)

    def answer(path, body, number):
        times.append(engine._limits._sent[-1][0])
        return honest(path, body)

    engine = engine_of(serve(answer), requests_per_minute=2, max_concurrent_requests=1)
    engine._limits.clock = lambda: next(clock)  # a second passes whenever someone asks
    samples = engine(PROMPTS, 2, 7)
    assert most_in_a_minute(times, [1] * 6) == 2 and 120 <= times[-1] - times[0] < 140
    assert samples == engine_of(serve())(PROMPTS, 2, 7)
    assert pickle.loads(pickle.dumps(engine)).per_minute == (2, math.inf)
    for wrong in ({"requests_per_minute": 0}, {"tokens_per_minute": -1}):
        with pytest.raises(ValueError, match="per_minute="):
            OpenAIEngine("judge", **wrong)


def test_tokens_that_servers_report(serve):  # noqa: F811
    """By their usage; else by the ids that are sent, or a quarter of the bytes of messages."""

    def answer(path, body, number):
        reply = honest(path, body)
        return {**reply, "usage": {"prompt_tokens": 1000}} if number == 0 else reply

    def cost_of(engine, k):
        with metered() as spent:
            (drawn,) = engine(PROMPTS[:1], k, 7)
        assert sum(spent, Cost()).written == sum(sample.num_tokens for sample in drawn)
        return sum(spent, Cost()).read

    engine = engine_of(serve(answer))
    assert cost_of(engine, 3) == 1000
    assert cost_of(engine, 3) == len(json.dumps(PROMPTS[0])) // 4
    assert cost_of(engine_of(serve(), dialect="openai"), 3) == 3 * (len(json.dumps(PROMPTS[0])) // 4)
    ids = engine_of(serve(), tokenizer=TOKENIZER)
    assert cost_of(ids, 3) == len(TOKENIZER.apply_chat_template(PROMPTS[0], add_generation_prompt=True)["input_ids"])


# --- a real server ---


def start_pooling(folder, log):
    flags = "--runner pooling --host 127.0.0.1 --dtype float32 --enforce-eager --max-model-len 2048"
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", "{port}"]
    return Process([*command, *flags.split()], log)


class TestVLLM:
    pytestmark = needs_vllm

    @pytest.mark.parametrize("arch", ["llama", "gemma2", "qwen3", "granite"])
    def test_logits(self, arch, tmp_path):
        """vLLM loads the checkpoint of a Meta RM as it is, and pools the logit of this process."""
        model = save_meta_rm(tmp_path / "meta", arch, k_meta=2)
        server = start_pooling(tmp_path / "meta", tmp_path / "log.txt")
        try:
            engine = MetaRMEngine(base_url=server.url, tokenizer=str(tmp_path / "meta"))
            with metered() as spent:
                scores = meta_scores(engine, engine.tokenizer, CONVERSATIONS * 20)
            long = [{"role": "user", "content": "x" * 3000}, {"role": "assistant", "content": "y"}]
            with pytest.raises(PromptRefusedError, match="Critique|Prompt") as refused:
                meta_scores(engine, engine.tokenizer, [CONVERSATIONS[0], long])
            assert refused.value.refusals[1].cause == "context_length" and list(refused.value.completed) == [0]
        finally:
            server.kill()
        want = meta_scores(model, TOKENIZER, CONVERSATIONS * 20)
        assert scores == pytest.approx(want, abs=1e-3) and max(want) - min(want) > 0.1
        assert min(want) < 0 or max(want) > 1, "which an activation would show"
        assert sum(spent, Cost()).scored == sum(len(encode_meta(TOKENIZER, c)) for c in CONVERSATIONS * 20)
