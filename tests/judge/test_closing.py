# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Scores are decoded behind critiques that ended without any, marked, and never in place of wrong ones."""

from itertools import product

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from test_engines import MODELS, TOKENIZER, choice, serving
from tiny_models import ARCHITECTURES, ON_CPU, save_tiny, tiny_causal_lm, tiny_tokenizer

from trl_spct import GRMRewardPipeline, OpenAIEngine, Preference, RejectiveSampler, RejectiveSamplerConfig
from trl_spct.evaluation.diagnostics import diagnose, report_cells
from trl_spct.evaluation.judgments import PipelineJudge, record_judgments
from trl_spct.judge.closing import CLOSABLE, ScoreLine, close_critiques, with_closed
from trl_spct.judge.critiques import closing_tag, without_thoughts
from trl_spct.judge.prompts import judge_messages, judge_template
from trl_spct.judge.sampling import Sample, encode_prompts, read_sample, sample_critiques
from trl_spct.judge.templates import JudgeTemplate
from trl_spct.trainers.rejection_report import rejection_report

pytestmark = pytest.mark.usefixtures("one_thread")

PAPER = judge_template("paper")
TAGS = JudgeTemplate(
    "Judge.", "<a>: <score_A> <score_B>", (0, 3), labels=("A", "B"), score_form="<s_{i}>{score}</s_{i}>"
)
ROWS = [Preference("Why?", ("Because.", "So it is.")), Preference("And how?", ("Like this.", "Not at all.", "Maybe."))]


@pytest.fixture
def server():
    def answer(path, body, number):
        if path.endswith("/models"):
            return MODELS
        if "structured_outputs" in body:
            text = TOKENIZER.decode(body["prompt"])
            return (
                (400, {}, {"error": {"message": "no"}})
                if "And how?" in text
                else {"choices": [choice("7, 3}", chat=False)]}
            )
        return {"choices": [choice("Hm.", i, chat=False) for i in range(body.get("n", 1))]}

    with serving(answer) as server:
        yield server


def line_of(n, template=PAPER):
    return ScoreLine.of(template, n)


# --- the line ---


@pytest.mark.parametrize(
    ("template", "n", "texts", "scores"),
    [
        (PAPER, 2, ("\n\nScores: \\boxed{", ", ", "}"), [*map(str, range(1, 11))]),
        (judge_template("paper", binary=True), 1, ("\n\nScores: \\boxed{", "}"), ["0", "1"]),
        (judge_template("compact"), 3, ("\n\nScores: \\boxed{", ", ", ", ", "}"), [*map(str, range(1, 11))]),
        (TAGS, 2, ("\n\nScores: <s_A>", "</s_A>\n<s_B>", "</s_B>"), ["0", "1", "2", "3"]),
    ],
)
def test_the_line_is_the_one_that_the_template_asks_for(template, n, texts, scores):
    line = ScoreLine.of(template, n)
    assert (line.texts, list(line.scores)) == (texts, scores)
    for drawn in (scores[:1] * n, scores[-1:] * n):
        inside = "".join(score + text for score, text in zip(drawn, texts[1:], strict=True))
        assert line.is_complete(inside) and line.allows(inside)
        assert template.parse("A critique." + line.opening + inside, n).scores == tuple(map(int, drawn))


def test_a_line_allows_the_beginnings_of_what_is_complete_and_nothing_else():
    line = ScoreLine(("", ", ", "}"), ("1", "2", "10"))
    whole = [f"{one}, {two}}}" for one, two in product(line.scores, repeat=2)]
    beginnings = {text[:length] for text in whole for length in range(len(text) + 1)}
    texts = {"".join(signs) for length in range(4) for signs in product("012, }", repeat=length)} | beginnings
    assert {text for text in texts if line.allows(text)} == beginnings
    assert {text for text in texts if line.is_complete(text)} == set(whole)
    assert max(map(len, whole)) < line.max_tokens


DRAFTS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
]


@given(st.lists(st.one_of(st.sampled_from([tag for tags in DRAFTS for tag in tags]), st.sampled_from(["a", " b\n"]))))
def test_an_open_draft_is_closed_by_its_own_tag(parts):
    text = "".join(parts)
    tag = closing_tag(text)
    assert (tag == "") == (without_thoughts(text) is not None)
    assert tag == "" or closing_tag(text + tag) == "" or len({o for o, _ in DRAFTS if o in text}) > 1
    for opens, closes in DRAFTS:
        assert closing_tag(f"Hm. {opens}I guess") == closes


# --- decoding ---


def reference(model, tokenizer, prompt, line):
    """The likeliest scores, read one token at a time with neither batch nor cache; tokens are single characters."""
    ids, text = list(prompt), ""
    while not line.is_complete(text):
        allowed = sorted(c for c in "0123456789, }" if line.allows(text + c))
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        tokens = [tokenizer.encode(c, add_special_tokens=False)[0] for c in allowed]
        best = max(range(len(allowed)), key=lambda i: logits[tokens[i]].item())
        ids, text = [*ids, tokens[best]], text + allowed[best]
    return text


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_likeliest_scores_are_decoded_behind_the_text(arch):
    tokenizer, model = tiny_tokenizer(), tiny_causal_lm(arch, initializer_range=0.3, tie_word_embeddings=False)
    prompts = [judge_messages(row, "compact") for row in ROWS]
    drawn = sample_critiques(model, tokenizer, prompts, 2, seed=0, max_new_tokens=7)
    samples, of_each = [sample for row in drawn for sample in row], [p for p in prompts for _ in range(2)]
    lines = [line_of(n) for n in (2, 2, 3, 3)]
    closed = close_critiques(model, tokenizer, of_each, samples, lines)
    for prompt, before, after, line, n in zip(of_each, samples, closed, lines, (2, 2, 3, 3), strict=True):
        assert after.text.startswith(before.text + line.opening) and not before.closed
        assert after.closed and not after.truncated and after.num_tokens == len(after.ids)
        kept = list(before.ids)
        while kept[-1] in tokenizer.all_special_ids:
            kept.pop()
        assert after.ids[-1] == tokenizer.eos_token_id and [*after.ids[: len(kept)]] == kept
        assert after.text == tokenizer.decode(after.ids[:-1], skip_special_tokens=True)
        critique = read_sample(after, n, PAPER)
        assert critique.closed and critique.problem is None and all(1 <= score <= 10 for score in critique.scores)
        (encoded,) = encode_prompts(tokenizer, [prompt])
        opening = tokenizer.encode(line.opening, add_special_tokens=False)
        scores = reference(model, tokenizer, [*encoded, *kept, *opening], line)
        assert after.text == before.text + line.opening + scores
    alone = close_critiques(model, tokenizer, of_each[3:], samples[3:], lines[3:], batch_size=1)
    assert alone == closed[3:], "in any batch"


def test_an_open_draft_is_closed_before_the_scores():
    tokenizer, model = tiny_tokenizer(), tiny_causal_lm()
    thinking = Sample("<think>Let me see", 17, True)
    prefilled = Sample("Let me see", 10, True, prefilled=True)
    opens = tiny_tokenizer()
    opens.chat_template = opens.chat_template.replace(
        "<start_of_turn>model\n{% endif", "<start_of_turn>model\n<think>{% endif"
    )
    for sample, of_judge in ((thinking, tokenizer), (prefilled, opens)):
        (closed,) = close_critiques(model, of_judge, [judge_messages(ROWS[0])], [sample], [line_of(2)])
        assert closed.text.startswith(sample.text + "\n</think>\n\nScores: \\boxed{")
        assert read_sample(closed, 2, PAPER).scores and closed.prefilled == sample.prefilled


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Good.\nScores: \\boxed{7, ", "Good."),
        ("Good. So \\boxed{", "Good. So"),
        ("Good.\nScores: \\boxed{7, 3", "Good."),
        ("Good.\nScores: \\boxed{7, 3}", None),
        ("\\boxed{7, 3} is too much. \\boxed{a", None),
        ("Good.", None),
        ("", None),
    ],
)
def test_a_score_line_that_was_cut_is_taken_back(text, kept):
    """The closed text has one line, not half of one before it."""
    kept, line, tokenizer = text if kept is None else kept, line_of(2), tiny_tokenizer()
    assert line.before(text) == kept
    for ids in (None, tuple(tokenizer.encode(text, add_special_tokens=False))):
        sample, prompt = Sample(text, len(text), True, ids), judge_messages(ROWS[0], "compact")
        (closed,) = close_critiques(tiny_causal_lm(), tokenizer, [prompt], [sample], [line])
        assert closed.text.startswith(kept + line.opening) and closed.text.count("boxed") == kept.count("boxed") + 1
        assert closed.num_tokens == len(closed.ids)


def test_a_critique_without_room_for_scores_stays_as_it_is():
    tokenizer, prompt = tiny_tokenizer(), judge_messages(ROWS[0], "compact")
    length = len(encode_prompts(tokenizer, [prompt])[0])
    line, samples = line_of(2), [Sample("a" * 40, 40, True), Sample("a", 1, True)]
    fits = length + 1 + len(line.opening) + line.max_tokens
    model = tiny_causal_lm(max_position_embeddings=fits)
    long, short = close_critiques(model, tokenizer, [prompt] * 2, samples, [line] * 2)
    assert long is samples[0] and short.closed


def test_wrong_scores_are_not_replaced():
    texts = ["None.", r"\boxed{3, 9}", r"\boxed{3}", r"\boxed{0, 11}", r"\boxed{a, b}", "Cut \\boxed{1, 2}"]
    samples = [Sample(text, 5, text.startswith("Cut")) for text in texts]
    closed = []

    def close(prompts, samples, lines):
        closed.extend(zip(prompts, [sample.text for sample in samples], lines, strict=True))
        return [Sample(sample.text + r"\boxed{1, 2}", 9, False, closed=True) for sample in samples]

    (result,) = with_closed(close, ["prompt"], [samples], [(PAPER, 2)])
    assert closed == [("prompt", "None.", line_of(2)), ("prompt", "Cut \\boxed{1, 2}", line_of(2))]
    problems = [read_sample(sample, 2, PAPER).problem for sample in result]
    assert problems == [None, None, "count", "range", "value", None] and CLOSABLE == ("missing", "truncated")
    assert [sample.closed for sample in result] == [True, False, False, False, False, True]
    assert with_closed(None, ["prompt"], [samples[1:2]], [(PAPER, 2)]) == [samples[1:2]]


# --- thoughts ---


@pytest.mark.parametrize("prefilled", [False, True])
@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_a_draft_is_closed_when_its_budget_is_spent(arch, prefilled):
    """The same tokens as without a budget, then the tag, then the critique; drafts that ended are left alone."""
    tokenizer, model = tiny_tokenizer(), tiny_causal_lm(arch, initializer_range=0.3, tie_word_embeddings=False)
    if prefilled:
        tokenizer.chat_template = tokenizer.chat_template.replace("model\n{% endif", "model\n<think>{% endif")
    prompts, options = [judge_messages(row, "compact") for row in ROWS], {"seed": 0, "temperature": 1.0}
    free = sample_critiques(model, tokenizer, prompts, 3, max_new_tokens=60, **options)
    bound = sample_critiques(model, tokenizer, prompts, 3, max_new_tokens=60, max_thinking_tokens=35, **options)
    tag = tuple(tokenizer.encode("\n</think>\n\n", add_special_tokens=False))
    assert any(len(sample.ids) == 60 for row in free for sample in row)
    for before, after in zip([s for row in free for s in row], [s for row in bound for s in row], strict=True):
        if not prefilled or len(before.ids) <= 35:
            assert after == before
        else:
            assert after.ids[:35] == before.ids[:35] and after.ids[35 : 35 + len(tag)] == tag and after.prefilled
            assert without_thoughts(after.text, after.prefilled) is not None


def test_a_budget_for_thoughts_leaves_room(server):
    judge = GRMRewardPipeline(tiny_causal_lm("llama"), tiny_tokenizer(), max_new_tokens=9, template="compact")
    row = {"query": ROWS[0].query, "responses": ROWS[0].responses}
    assert judge(row, k=1, max_thinking_tokens=8)["drawn"] == 1
    for budget in (9, 0):
        with pytest.raises(ValueError, match=f"Found max_thinking_tokens={budget}"):
            judge(row, max_thinking_tokens=budget)
    engine = OpenAIEngine("judge", base_url=server.url, tokenizer=tiny_tokenizer())
    with pytest.raises(ValueError, match="max_thinking_tokens over an engine"):
        GRMRewardPipeline(engine, template="compact")(row, max_thinking_tokens=5)


# --- where it is an option ---


def judge_of(folder, **options):
    return GRMRewardPipeline(
        tiny_causal_lm("llama"), tiny_tokenizer(), max_new_tokens=9, template="compact", **options
    )


def test_a_judge_that_never_scores_has_votes(tmp_path):
    rows = [{"query": row.query, "responses": row.responses} for row in ROWS]
    judge = judge_of(tmp_path)
    plain, closed = judge(rows, k=4, seed=0), judge(rows, k=4, seed=0, close_critiques=True)
    for without, judgment in zip(plain, closed, strict=True):
        assert without["scores"] is None and without["closed"] == 0 and sum(without["problems"].values()) == 4
        assert judgment["closed"] == judgment["votes"] == 4 and judgment["problems"] == {}
        assert all(critique["closed"] and critique["counted"] for critique in judgment["critiques"])
        for before, after in zip(without["critiques"], judgment["critiques"], strict=True):
            assert after["text"].startswith(before["text"]) and after["order"] == before["order"]
    assert closed == judge(rows, k=4, seed=0, close_critiques=True, batch_size=2)


def test_closed_critiques_are_counted_apart(tmp_path):
    rows = [Preference(row.query, row.responses, (1, *[0] * (len(row) - 1))) for row in ROWS]
    judged = record_judgments(PipelineJudge(judge_of(tmp_path), 4, close_critiques=True), rows, tmp_path / "closed")
    report = diagnose(judged)
    assert report["closed"]["share"] == 1 and report["unreadable"] == 0 and "accuracy_of_whole" not in report["closed"]
    assert "; closed 100.0 %, right " in report_cells(report)["unreadable"]
    plain = diagnose(record_judgments(PipelineJudge(judge_of(tmp_path), 4), rows, tmp_path / "plain"))
    assert "closed" not in plain and "closed" not in report_cells(plain)["unreadable"]
    with pytest.raises(FileExistsError, match="close_critiques"):
        record_judgments(PipelineJudge(judge_of(tmp_path), 4), rows, tmp_path / "closed")


def test_rejective_sampling_begins_with_closed_critiques(tmp_path):
    judge = save_tiny(tmp_path / "judge", "llama")
    rows = Dataset.from_list(
        [{"prompt": f"Why {i}?", "chosen": "Because of it.", "rejected": "No idea at all."} for i in range(6)]
    )
    args = RejectiveSamplerConfig(
        str(tmp_path / "rft"), max_completion_length=9, template="compact", num_train_epochs=1,
        close_critiques=True, reject_too_easy=False, **ON_CPU,
    )  # fmt: skip
    trainer = RejectiveSampler(judge, args=args, train_dataset=rows)
    trajectories = trainer.collect()
    assert all(trajectories["closed"]) and not any(trajectories["problem"])
    report = rejection_report(trajectories)
    assert (
        report["closed"] == len(trajectories) and report["closed_kept"] == trajectories["outcome"][:].count("kept") > 0
    )
    trainer.train()
    ends = [trainer.judge_tokenizer.decode(ids) for ids in trainer.train_dataset["input_ids"]]
    assert all("Scores: \\boxed{" in text for text in ends)


def test_a_server_continues_the_token_ids(server, caplog):
    engine = OpenAIEngine("judge", base_url=server.url, tokenizer=tiny_tokenizer(), max_retries=0)
    judge = GRMRewardPipeline(engine, template="compact", max_new_tokens=50)
    row, other = ({"query": row.query, "responses": row.responses} for row in ROWS)
    judgment = judge(row, k=2, seed=0, close_critiques=True)
    assert judgment["closed"] == judgment["votes"] == 2
    assert [c["text"] for c in judgment["critiques"]] == ["Hm.\n\nScores: \\boxed{7, 3}"] * 2
    asked, closing = ([b for b in server.bodies if ("structured_outputs" in b) is flag] for flag in (False, True))
    assert len(asked) == len(closing) == 2, "one order each"
    ids = TOKENIZER.encode("Hm.\n\nScores: \\boxed{", add_special_tokens=False)
    for body in closing:
        assert body["prompt"] in [[*before["prompt"], *ids] for before in asked] and body["temperature"] == 0
        assert body["structured_outputs"] == {"regex": line_of(2).pattern}
    refused = judge(other, k=2, seed=0, close_critiques=True)
    assert refused["closed"] == 0 and refused["problems"] == {"missing": 2} and "could not be closed" in caplog.text


def test_samplers_that_cannot_close_are_refused_before_anything_is_sampled(server, tmp_path):
    for options in ({"dialect": "openai", "tokenizer": tiny_tokenizer()}, {}):
        engine = OpenAIEngine("judge", base_url=server.url, **options)
        with pytest.raises(ValueError, match="close_critiques with dialect"):
            GRMRewardPipeline(engine, template="compact")(
                {"query": "q", "responses": ["a", "b"]}, close_critiques=True
            )
    with pytest.raises(ValueError, match="close_critiques over a sampler of type function"):
        GRMRewardPipeline(lambda *_, **__: [], template="compact")("row", close_critiques=True)
    assert not server.bodies
