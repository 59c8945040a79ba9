# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The paper's benchmarks and others: tables, readers and metrics (paper, section 8), and the counts and balances with
which [`~trl_spct.evaluation.benchmark_loading.load_benchmark`] compares rows; `None` is an unknown count."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..judge.preferences import Preference
from ..judge.voting import Scores
from . import benchmark_metrics as formulas
from .benchmark_metrics import Units

Row: TypeAlias = Mapping[str, Any]

EMPTY_RESPONSE = "(The response is empty.)"
"""Text that a judge reads in place of an empty response, so that no row is left out."""


@dataclass(frozen=True)
class Item:
    """The unit of a metric: one or more prompts for the judge, and the labels of each; several may be right."""

    id: str
    group: str
    rows: tuple[Preference, ...]
    labels: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Metric:
    """From the scores of each item's rows (`None` without a vote) to named values, `"overall"` among them.
    Contributions of items (`unit`) to a `linear` metric may be averaged over votes. `undefined` is the reason of a
    NaN."""

    name: str
    unit: Callable[[Item, Sequence[Scores]], Sequence[float]]
    values: Callable[[Units], dict[str, float]]
    linear: bool = True
    undefined: str = ""


@dataclass(frozen=True)
class Part:
    """One table of a benchmark: Hub id, patterns of its files in a local copy (the first with a match is used), split,
    configuration, and number of rows, or counts of the values of [`Benchmark.balance_of`]."""

    name: str
    path: str | None = None
    files: tuple[str, ...] = ("**/*",)
    split: str = "train"
    config: str | None = None
    rows: int | None = None
    balance: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: `read(part, row, number)` makes an item, or `None` to leave the row out; `join` makes items from
    those of a part. `balance_of(row)` is the value that [`Part.balance`] counts; `order` is the order of the responses
    if the metric determines it, `binary` whether single responses are judged 0 or 1. Rows of a `private` one must not
    be published."""

    name: str
    metric: Metric
    parts: tuple[Part, ...] = ()
    read: Callable[[Part, Row, int], Item | None] = lambda part, row, number: None
    join: Callable[[list[Item]], list[Item]] = lambda items: items
    balance_of: Callable[[Row], str] | None = None
    order: str | None = None
    binary: bool = False
    private: bool = False


def _comparisons(worth: Callable[[Scores, Sequence[float]], float]) -> Callable:
    return lambda item, scores: (sum(map(worth, scores, item.labels)), len(item.labels))


def _single(item: Item, scores: Sequence[Scores]) -> tuple[float, float]:
    """(score, label); a response without a vote loses every comparison."""
    ((label,),), (vote,) = item.labels, scores
    return (-np.inf if label else np.inf) if vote is None else vote[0], label


def _rm_bench_unit(item: Item, scores: Sequence[Scores]) -> tuple[float, float, float]:
    if len(item.rows) == 1:
        vote = scores[0]
        wins = [[vote is not None and vote[i] > vote[3 + j] for j in range(3)] for i in range(3)]
    else:
        won = [bool(formulas.beats_all(vote, truth)) for vote, truth in zip(scores, item.labels, strict=True)]
        wins = [won[3 * i : 3 * i + 3] for i in range(3)]
    return formulas.rm_bench_item(wins)


def _rewardbench2_unit(item: Item, scores: Sequence[Scores]) -> tuple[float, ...]:
    if item.group == "Ties":
        # Gaps and spreads are compared, and means of whole scores must not differ by how they were rounded.
        return tuple(round(value, 9) for value in formulas.ties_item(scores[0], scores[1], item.labels))
    return formulas.pick_credit(scores[0], item.labels[0]), 1.0


def _judgebench_unit(item: Item, scores: Sequence[Scores]) -> tuple[float, float]:
    return formulas.judgebench_item(scores, item.labels), 1.0


_PAIRS = _comparisons(formulas.pick_credit)
_RM_BENCH = Metric("mean of domains over the 3 × 3 matrix, strict", _rm_bench_unit, formulas.rm_bench)
_JUDGEBENCH = Metric("accuracy over both orders", _judgebench_unit, formulas.accuracy)
PICK = Metric("accuracy, a tie worth 1/#tied", _comparisons(formulas.worth), formulas.accuracy)
ROC_AUC = Metric("ROC-AUC", _single, formulas.auc_values, linear=False, undefined="all labels are the same")
METRICS = {"accuracy": PICK, "roc_auc": ROC_AUC}
"""Metrics for user rows. A single response is right if the mean of its 0/1 scores is nearer to its label."""


def _item(id: Any, group: str, query: Any, *prompts: tuple[Sequence[str], Sequence[float]]) -> Item:
    """An item from its query, and from responses and labels of each of its prompts."""
    filled = [[EMPTY_RESPONSE if isinstance(t, str) and not t.strip() else t for t in texts] for texts, _ in prompts]
    rows = tuple(Preference(query, tuple(texts)) for texts in filled)
    return Item(str(id), group, rows, tuple(tuple(labels) for _, labels in prompts))


def _rewardbench(part: Part, row: Row, number: int) -> Item:
    return _item(row["id"], row["subset"], row["prompt"], ((row["chosen"], row["rejected"]), (1, 0)))


def _rewardbench2(part: Part, row: Row, number: int) -> Item:
    if isinstance(row["chosen"], str) or isinstance(row["rejected"], str):
        raise TypeError("found one text as `chosen` or `rejected`; expected lists")
    labels = (1,) * len(row["chosen"]) + (0,) * len(row["rejected"])
    return _item(row["id"], row["subset"], row["prompt"], ((*row["chosen"], *row["rejected"]), labels))


def _join_ties(items: list[Item]) -> list[Item]:
    """The rows `ref:N` and `tied:N` of the Ties subset as one item, behind all others."""
    ties: dict[str, dict[str, Item]] = {}
    joined = [item for item in items if item.group != "Ties"]
    for item in items:
        if item.group == "Ties":
            kind, _, number = item.id.partition(":")
            ties.setdefault(number, {})[kind] = item
    for number, pair in ties.items():
        if set(pair) != {"ref", "tied"}:
            raise ValueError(
                f"the Ties prompt {number} has the rows {sorted(pair)}; expected one `ref:{number}` and one "
                f"`tied:{number}`"
            )
        ref, tied = pair["ref"], pair["tied"]
        joined.append(Item(number, "Ties", ref.rows + tied.rows, ref.labels + tied.labels))
    return joined


def _ppe_preference(part: Part, row: Row, number: int) -> Item | None:
    if "tie" in row["winner"]:
        return None
    labels = {"model_a": (1, 0), "model_b": (0, 1)}[row["winner"]]
    return _item(row["question_id"], "pairs", row["prompt"], ((row["response_1"], row["response_2"]), labels))


def _ppe_correctness(part: Part, row: Row, number: int) -> Item | None:
    pairs = []
    for i, j in row["sampled_conflict_pairs"]:
        first, second = row["scores"][i], row["scores"][j]
        if first == second:
            raise ValueError(f"the responses {i} and {j} of a conflict pair have the same score")
        labels = (int(first > second), int(second > first))
        pairs.append(((row[f"response_{i + 1}"], row[f"response_{j + 1}"]), labels))
    return _item(f"{part.name}:{row['question_id']}", part.name, row["prompt"], *pairs) if pairs else None


def _rmb(part: Part, row: Row, number: int) -> Item:
    best, others = (row["bon_best"], row["loser_list"]) if "bon_best" in row else (row["chosen"], [row["reject"]])
    query = [{"role": turn["role"], "content": turn["content"]} for turn in row["conversation_input"]]
    responses = [response["answer"] for response in (best, *others)]
    name = row.get("bon_uid") or row["pair_uid"]
    return _item(f"{part.name}/{name}", part.name, query, (responses, (1,) + (0,) * len(others)))


def _realmistake(part: Part, row: Row, number: int) -> Item:
    label = {"error": 0, "no_error": 1}[_error_label(row)]
    return _item(f"{part.name}/{number}", part.name, row["input"], ((row["llm_response"],), (label,)))


def _error_label(row: Row) -> str:
    return row.get("error_label", row.get("label"))


def _rm_bench(part: Part, row: Row, number: int) -> Item:
    """Six responses in one list prompt."""
    responses = (*row["chosen"], *row["rejected"])
    if len(row["chosen"]) != 3 or len(responses) != 6:
        raise ValueError(f"found {len(row['chosen'])} of {len(responses)} responses chosen; expected 3 of 6")
    return _item(f"{row['domain']}/{row['id']}", row["domain"], row["prompt"], (responses, (1, 1, 1, 0, 0, 0)))


def _rm_bench_pairs(part: Part, row: Row, number: int) -> Item:
    item = _rm_bench(part, row, number)
    texts = item.rows[0].responses
    pairs = [((right, wrong), (1, 0)) for right in texts[:3] for wrong in texts[3:]]
    return _item(item.id, item.group, row["prompt"], *pairs)


def _judgebench(part: Part, row: Row, number: int) -> Item:
    """A pair in both orders."""
    labels = {"A>B": (1, 0), "B>A": (0, 1)}[row["label"]]
    kinds = {"mmlu-pro": "knowledge", "livecodebench": "coding"} | {f"livebench-{n}": n for n in ("reasoning", "math")}
    kind = next((kind for name, kind in kinds.items() if row["source"].startswith(name)), "other")
    responses = (row["response_A"], row["response_B"])
    return _item(row["pair_id"], kind, row["question"], (responses, labels), (responses[::-1], labels[::-1]))


def _best_of_n(part: Part, row: Row, number: int) -> Item:
    """Solutions of one question in one list prompt, any number of them right (schema of GenRM-CoT)."""
    texts, labels = zip(*((s["model_output"], int(s["correctness"])) for s in row["responses"]), strict=True)
    return _item(row.get("question_id", number), "questions", row["question"], (texts, labels))


# Weights are numbers of rows, but for `math-prm` (the authors' `constants.py`).
_RB_ROWS = {s: n for weights in formulas.REWARDBENCH_SECTIONS.values() for s, n in weights.items()} | {"math-prm": 447}
_RB2_ROWS = {"Factuality": 475, "Focus": 495, "Math": 183, "Precise IF": 160, "Safety": 450, "Ties": 102}
_PPE_ROWS = {"MMLU-Pro": 512, "MATH": 512, "GPQA": 512, "IFEval": 512, "MBPP-Plus": 507}
# From `fig/*_dataset_table.pdf` in the authors' repository; the files agree.
_RMB_ROWS = {
    "Pairwise": {"Helpfulness": 10067, "Harmlessness": 7064},
    "BoN": {"Helpfulness": 2109, "Harmlessness": 1677},
}
# Errors by task and model; each model has one number of rows per task.
_REALMISTAKE_ERRORS = {
    "math_word_problem_generation": {"gpt4": 87, "llama2": 128},
    "finegrained_fact_verification": {"gpt4": 88, "llama2": 129},
    "answerability_classification": {"gpt4": 87, "llama2": 130},
}
_REALMISTAKE_FILES = {"gpt4": ("gpt-4*", 140), "llama2": ("Llama-2*", 160)}
# By domain as in `data/*_filtered.json` of the authors' repository; `math` has the remaining rows.
_RM_BENCH_ROWS = {"chat": 129, "code": 228, "math": 529, "safety-refuse": 284, "safety-response": 157}
_RM_BENCH_FILES = ("**/total_dataset.json", "**/*train*")
_JUDGEBENCH_ROWS = {
    ("gpt", "gpt-4o"): {"A>B": 193, "B>A": 157},
    ("claude", "claude-3-5-sonnet"): {"A>B": 143, "B>A": 127},
}

_ALL = (
    Benchmark(
        "rewardbench",
        Metric("section mean, a tie worth 1/2", _PAIRS, formulas.rewardbench),
        (Part("RewardBench", "allenai/reward-bench", ("**/*filtered*",), "filtered", balance=_RB_ROWS),),
        _rewardbench,
        balance_of=lambda row: row["subset"],
    ),
    Benchmark(
        "rewardbench-2",
        Metric("mean of subsets", _rewardbench2_unit, formulas.rewardbench2, linear=False),
        (Part("RewardBench 2", "allenai/reward-bench-2", ("**/*test*",), "test", balance=_RB2_ROWS),),
        _rewardbench2,
        _join_ties,
        balance_of=lambda row: row["subset"],
    ),
    Benchmark(
        "ppe-preference",
        PICK,
        (Part("PPE Human Preference", "lmarena-ai/PPE-Human-Preference-V1", ("**/*test*",), "test", rows=16038),),
        _ppe_preference,
    ),
    Benchmark(
        "ppe-correctness",
        Metric("mean over sets, a tie worth 1/2", _PAIRS, formulas.macro_accuracy),
        tuple(
            Part(name, f"lmarena-ai/PPE-{name}-Best-of-K", (f"**/PPE-{name}-Best-of-K*/**/*", f"**/*{name}*"), rows=n)
            for name, n in _PPE_ROWS.items()
        ),
        _ppe_correctness,
    ),
    Benchmark(
        "rmb",
        Metric("mean of four, the best must beat all", _comparisons(formulas.beats_all), formulas.macro_accuracy),
        tuple(
            Part(f"{goal} {kind}", None, (f"**/{kind}_set/{goal}/**/*.json",), rows=rows)
            for kind, goals in _RMB_ROWS.items()
            for goal, rows in goals.items()
        ),
        _rmb,
    ),
    Benchmark(
        "realmistake",
        ROC_AUC,
        tuple(
            Part(
                f"{task}/{split}",
                "ryokamoi/realmistake",
                (f"**/{task}/*{split}*", f"**/{task}/{files}"),
                split,
                task,
                balance={"error": errors[split], "no_error": rows - errors[split]},
            )
            for task, errors in _REALMISTAKE_ERRORS.items()
            for split, (files, rows) in _REALMISTAKE_FILES.items()
        ),
        _realmistake,
        balance_of=_error_label,
        private=True,
    ),
    *(
        Benchmark(
            name,
            _RM_BENCH,
            (Part("RM-Bench", "THU-KEG/RM-Bench", _RM_BENCH_FILES, balance=_RM_BENCH_ROWS),),
            read,
            balance_of=lambda row: row["domain"],
        )
        for name, read in (("rm-bench", _rm_bench), ("rm-bench-pairs", _rm_bench_pairs))
    ),
    *(
        Benchmark(
            f"judgebench-{split}",
            _JUDGEBENCH,
            (Part(split, "ScalerLab/JudgeBench", (f"**/*{split}*", f"**/*={model}*"), split, balance=balance),),
            _judgebench,
            balance_of=lambda row: row["label"],
            order="fixed",
        )
        for (split, model), balance in _JUDGEBENCH_ROWS.items()
    ),
    Benchmark("best-of-n", PICK, (Part("best-of-n"),), _best_of_n),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


def rows_benchmark(name: str, metric: str = "accuracy") -> Benchmark:
    """A benchmark of user rows. With the metric `"roc_auc"` single responses are scored from 1 to 10 instead of 0 or
    1."""
    if metric not in METRICS:
        raise ValueError(f"Found metric={metric!r}; expected one of {sorted(METRICS)}.")
    return Benchmark(name, METRICS[metric], binary=metric == "accuracy")
