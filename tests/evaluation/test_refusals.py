# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rows that a server refuses, or that do not fit: counted by cause, or named."""

from dataclasses import replace

import pytest

from trl_spct import GRMRewardPipeline, Preference
from trl_spct.evaluation.diagnostics import diagnose, report_lines
from trl_spct.evaluation.judgments import PipelineJudge, judge_all, record_judgments, scaling_results
from trl_spct.evaluation.sampled_judges import ChoiceJudge
from trl_spct.judge.sampling import EngineError, PromptRefusedError, PromptTooLongError, Refusal, Sample

ROWS = [Preference(f"Question {i}?", ["worth 3", "worth 9"], [0, 1]) for i in range(9)]
IDS = [f"mine-{i}" for i in range(9)]


class Server:
    """An engine that refuses prompts about some questions as a real one does: all others are completed."""

    def __init__(self, text=r"\boxed{3, 9}", **causes):
        self.text, self.causes, self.asked = text, causes, 0

    def __call__(self, prompts, k, seed, **options):
        self.asked += len(prompts)
        texts = [messages[0]["content"] for messages in prompts]
        named = {n: [c for c, i in self.causes.items() if f"Question {i}?" in text] for n, text in enumerate(texts)}
        refusals = {n: Refusal(found[0], f"HTTP 400: {found[0]}.") for n, found in named.items() if found}
        completed = {n: [Sample(self.text, 5, False)] * k[n] for n in range(len(prompts)) if n not in refusals}
        if refusals:
            row = min(refusals)
            raise PromptRefusedError(refusals[row].message, row, 400, completed, refusals)
        return list(completed.values())


JUDGES = {
    "scores": (lambda engine: PipelineJudge(GRMRewardPipeline(engine), 2, order="fixed"), r"\boxed{3, 9}"),
    "choices": (lambda engine: ChoiceJudge(GRMRewardPipeline(engine), 2, order="fixed"), r"\boxed{2}"),
}


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_refused_rows_are_counted_by_cause_and_the_run_continues(name, batch_size, tmp_path):
    make, text = JUDGES[name]
    engine = Server(text, content_filter=1, context_length=7)
    judge = make(engine)
    judge.batch_size = batch_size
    judgments = record_judgments(judge, ROWS, tmp_path, ids=IDS, rows_per_shard=4, invalid_rows="drop")
    assert [judgment.id for judgment in judgments] == IDS and {len(j.critiques) for j in judgments} == {2}
    causes = {j.id: j.critiques[0].problem for j in judgments if j.critiques[0].scores is None}
    assert causes == {"mine-1": "content_filter", "mine-7": "context_length"}
    assert engine.asked == 9, "what was complete is not asked for again"
    assert [result["accuracy"] for result in scaling_results(judgments)] == [pytest.approx(7 / 9)] * 2
    report = diagnose(judgments)
    assert report["problems"] == {"content_filter": 2, "context_length": 2} and report["undecided"] == 2
    text = "\n".join(report_lines(report))
    assert "2 rows without a vote" in text and "content_filter: the server refuses the content" in text


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_without_drop_the_error_names_the_row_and_drop_resumes(name, batch_size, tmp_path):
    make, text = JUDGES[name]
    engine = Server(text, content_filter=6)
    judge = make(engine)
    judge.batch_size = batch_size
    with pytest.raises(
        PromptRefusedError, match=r'^Row mine-6: HTTP 400: content_filter\. .*invalid_rows="drop"'
    ) as e:
        record_judgments(judge, ROWS, tmp_path, ids=IDS, rows_per_shard=4)
    assert (e.value.row, e.value.status) == ("mine-6", 400)
    assert len(list(tmp_path.glob("shard-*.parquet"))) == 1
    before = engine.asked
    judgments = record_judgments(judge, ROWS, tmp_path, ids=IDS, rows_per_shard=4, invalid_rows="drop")
    assert engine.asked == before + 5 and sum(None in judgment.scores for judgment in judgments) == 1


class Cut(Server):
    """A server whose critiques end before their scores, and which can close them."""

    def close_critiques(self, prompts, samples, lines):
        return [replace(sample, text=f"{line.opening}3, 9}}", closed=True) for sample, line in zip(samples, lines)]


@pytest.mark.parametrize("causes", [{}, {"content_filter": 7}])
def test_critiques_beside_a_refused_row_are_closed_like_others(causes, tmp_path):
    judge = PipelineJudge(GRMRewardPipeline(Cut("Hm.", **causes)), 2, order="fixed", close_critiques=True)
    judgments = record_judgments(judge, ROWS, tmp_path, ids=IDS, invalid_rows="drop")
    assert [judgment.scores for judgment in judgments[:7]] == [((3, 9), (3, 9))] * 7
    assert all(critique.closed for judgment in judgments[:7] for critique in judgment.critiques)


def test_a_failure_behind_a_refusal_names_its_own_row(tmp_path):
    """The second pass judges the rows that are left: row 3 is the first of them."""

    class Failing(Server):
        def __call__(self, prompts, k, seed, **options):
            if not any(f"Question {i}?" in messages[0]["content"] for messages in prompts for i in (0, 1, 2)):
                raise EngineError("HTTP 500: gone.", 0, 500)
            return super().__call__(prompts, k, seed, **options)

    judge = PipelineJudge(GRMRewardPipeline(Failing(content_filter=1)), 2, batch_size=3, order="fixed")
    with pytest.raises(EngineError, match="^Row mine-3: HTTP 500: gone"):
        record_judgments(judge, ROWS, tmp_path, ids=IDS, invalid_rows="drop")


def test_rows_that_do_not_fit_count_as_length():
    def judge(rows, occurrences):
        for number, row in enumerate(rows):
            if row.query in ("Question 2?", "Question 3?"):
                raise PromptTooLongError(f"Row {number}", 9000, 10, 8192, number)
        return [row.query for row in rows]

    judged, causes = judge_all(judge, ROWS, [0] * 9, drop=True)
    assert causes == {2: "length", 3: "length"} and judged == {n: f"Question {n}?" for n in (0, 1, 4, 5, 6, 7, 8)}
    with pytest.raises(PromptTooLongError):
        judge_all(judge, ROWS, [0] * 9)


def test_other_failures_are_never_dropped(tmp_path):
    def engine(prompts, k, seed, **options):
        raise EngineError("HTTP 500: gone.", status=500)

    judge = PipelineJudge(GRMRewardPipeline(engine), 2)
    with pytest.raises(EngineError, match="^Rows mine-0 to mine-3: HTTP 500: gone"):
        record_judgments(judge, ROWS, tmp_path, ids=IDS, rows_per_shard=4, invalid_rows="drop")
