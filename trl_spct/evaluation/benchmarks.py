# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The paper's benchmarks: tables, readers and metrics (paper, section 8).

[`~trl_spct.evaluation.benchmark_loading.load_benchmark`] reads them from the Hub or from a local copy, and refuses
rows that differ from the counts and balances recorded here. `None` marks a count that is not known for certain.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ..judge.outcomes import credit
from ..judge.preferences import InvalidPreference, Preference
from ..judge.voting import Scores
from . import benchmark_metrics as formulas
from .benchmark_metrics import OVERALL, Units
from .statistics import roc_auc


Row: TypeAlias = Mapping[str, Any]

EMPTY_RESPONSE = "(The response is empty.)"
"""Text that a judge reads in place of an empty response, so that no row is left out."""


@dataclass(frozen=True)
class Item:
    """The unit of a metric: one or more prompts for the judge, with their labels.

    Args:
        id (`str`): Name within its benchmark.
        group (`str`): Subset, domain or task.
        rows (tuple of [`Preference`]): The prompts, without labels.
        labels (tuple of label rows): Ground truth of each row; several responses may be right.
    """

    id: str
    group: str
    rows: tuple[Preference, ...]
    labels: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Metric:
    """From the scores of each item's rows to the values of a benchmark.

    Args:
        name (`str`): Name in tables.
        unit (`Callable`): Contribution of one item, given the scores of its rows (`None` without a vote).
        values (`Callable`): From contributions by group to named values, `"overall"` among them.
        linear (`bool`, *optional*, defaults to `True`): Whether contributions may be averaged before `values`.
        undefined (`str`, *optional*): Reason why a value is NaN.
    """

    name: str
    unit: Callable[[Item, Sequence[Scores]], Sequence[float]]
    values: Callable[[Units], dict[str, float]]
    linear: bool = True
    undefined: str = ""


@dataclass(frozen=True)
class Part:
    """One table of a benchmark.

    Args:
        name (`str`): Name in errors, and in the groups of its items where tables are groups.
        path (`str`, *optional*): Hub id; `None` if it is not on the Hub.
        files (tuple of `str`, *optional*): Patterns of its files in a local copy; the first with a match is used.
        split, config (`str`, *optional*): Split and configuration on the Hub.
        rows (`int`, *optional*): Number of rows.
        balance (mapping, *optional*): Count of each value of [`Benchmark.balance_of`].
    """

    name: str
    path: str | None = None
    files: tuple[str, ...] = ("**/*",)
    split: str = "train"
    config: str | None = None
    rows: int | None = None
    balance: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: tables, reader and metric.

    Args:
        name (`str`): Name on the command line.
        description (`str`): Content and way of judging, in one line.
        license (`str`): License of the rows, as stated by the authors.
        parts (tuple of [`Part`]): Its tables.
        columns (`frozenset` of `str`): Required columns.
        read (`Callable`): From a part and its rows to items.
        metric ([`Metric`]): The authors' metric.
        balance_of (`Callable`, *optional*): The value of a row that [`Part.balance`] counts.
        order (`str`, *optional*): Order of the responses, if the metric determines it; see the pipeline.
        binary (`bool`, *optional*, defaults to `False`): Whether single responses are judged 0 or 1.
        private (`bool`, *optional*, defaults to `False`): Whether its rows must never be published in plain text.
    """

    name: str
    description: str
    license: str
    parts: tuple[Part, ...]
    columns: frozenset[str]
    read: Callable[[Part, Iterable[Row]], Iterator[Item]]
    metric: Metric
    balance_of: Callable[[Row], str] | None = None
    order: str | None = None
    binary: bool = False
    private: bool = False


# --- metrics ---


def _comparisons(worth: Callable[[Scores, Sequence[float]], float]) -> Callable:
    def unit(item: Item, scores: Sequence[Scores]) -> tuple[float, float]:
        return sum(map(worth, scores, item.labels)), len(item.labels)

    return unit


def _single(item: Item, scores: Sequence[Scores]) -> tuple[float, float]:
    """(score, label); a response without a vote loses every comparison."""
    ((label,),) = item.labels
    vote = scores[0]
    return (-np.inf if label else np.inf) if vote is None else vote[0], label


def auc_values(units: Units) -> dict[str, float]:
    """ROC-AUC of single-response scores, over all items and by group."""
    groups = {**units, OVERALL: np.concatenate(list(units.values()))}
    return {group: roc_auc(array[:, 0], array[:, 1]) for group, array in groups.items()}


def _rm_bench_unit(item: Item, scores: Sequence[Scores]) -> tuple[float, float, float]:
    if len(item.rows) == 1:
        vote = scores[0]
        wins = [[vote is not None and vote[i] > vote[3 + j] for j in range(3)] for i in range(3)]
    else:
        won = [bool(formulas.beats_all(vote, truth)) for vote, truth in zip(scores, item.labels, strict=True)]
        wins = [won[3 * i : 3 * i + 3] for i in range(3)]
    return formulas.rm_bench_item(wins)


def _judgebench_unit(item: Item, scores: Sequence[Scores]) -> tuple[float, float]:
    return formulas.judgebench_item(scores, item.labels), 1.0


def _rewardbench2_unit(item: Item, scores: Sequence[Scores]) -> tuple[float, ...]:
    if item.group == "Ties":
        # Gaps and spreads are compared, and means of whole scores must not differ by how they were rounded.
        return tuple(round(value, 9) for value in formulas.ties_item(scores[0], scores[1], item.labels))
    return formulas.pick_credit(scores[0], item.labels[0]), 1.0


def _worth(scores: Scores, labels: Sequence[float]) -> float:
    return credit(scores, labels) if len(labels) == 1 else formulas.pick_credit(scores, labels)


PICK = Metric("accuracy, a tie worth 1/#tied", _comparisons(_worth), formulas.accuracy)
ROC_AUC = Metric("ROC-AUC", _single, auc_values, linear=False, undefined="all labels are the same")
METRICS = {"accuracy": PICK, "roc_auc": ROC_AUC}
"""Metrics for user rows. A single response is right if the mean of its 0/1 scores is nearer to its label."""


# --- reading ---


BENCHMARKS: dict[str, Benchmark] = {}


def _benchmark(name: str, description: str, license: str, columns: str, parts: Sequence[Part], metric: Metric, **more):
    """Registers the decorated function as the reader of a benchmark."""

    def register(read):
        BENCHMARKS[name] = Benchmark(
            name, description, license, tuple(parts), frozenset(columns.split(",")), read, metric, **more
        )
        return read

    return register


def _item(id: str, group: str, query: Any, *prompts: tuple[Sequence[str], Sequence[float]]) -> Item:
    """An item from its query, and from responses and labels of each of its prompts."""
    try:
        rows = tuple(Preference(query, tuple(map(_nonempty, texts))) for texts, _ in prompts)
    except InvalidPreference as error:
        raise InvalidPreference(f"{id}: {error}", error.cause) from None
    return Item(id, group, rows, tuple(tuple(labels) for _, labels in prompts))


def _nonempty(text: Any) -> Any:
    return EMPTY_RESPONSE if isinstance(text, str) and not text.strip() else text


@_benchmark(
    "rewardbench",
    "RewardBench: pairs in 23 subsets, weighted into four sections",
    "ODC-BY",
    "prompt,chosen,rejected,subset,id",
    [
        Part(
            "RewardBench",
            "allenai/reward-bench",
            ("**/*filtered*",),
            "filtered",
            rows=2985,
            # Weights are numbers of rows, but for `math-prm` (the authors' `constants.py`).
            balance={s: n for section in formulas.REWARDBENCH_SECTIONS.values() for s, n in section.items()}
            | {"math-prm": 447},
        )
    ],
    Metric("section mean, a tie worth 1/2", _comparisons(formulas.pick_credit), formulas.rewardbench),
    balance_of=lambda row: row["subset"],
)
def _rewardbench(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    for row in rows:
        yield _item(str(row["id"]), row["subset"], row["prompt"], ((row["chosen"], row["rejected"]), (1, 0)))


_RB2_ROWS = {"Factuality": 475, "Focus": 495, "Math": 183, "Precise IF": 160, "Safety": 450, "Ties": 102}


@_benchmark(
    "rewardbench-2",
    "RewardBench 2: best of four in five subsets, and Ties; each row is one list prompt",
    "ODC-BY",
    "id,prompt,chosen,rejected,num_correct,subset",
    [Part("RewardBench 2", "allenai/reward-bench-2", ("**/*test*",), "test", rows=1865, balance=_RB2_ROWS)],
    Metric("mean of subsets", _rewardbench2_unit, formulas.rewardbench2, linear=False),
    balance_of=lambda row: row["subset"],
)
def _rewardbench2(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    ties: dict[str, dict[str, tuple]] = {}
    for row in rows:
        prompt = ((*row["chosen"], *row["rejected"]), (1,) * len(row["chosen"]) + (0,) * len(row["rejected"]))
        if row["subset"] != "Ties":
            yield _item(str(row["id"]), row["subset"], row["prompt"], prompt)
            continue
        kind, _, number = row["id"].partition(":")
        ties.setdefault(number, {})[kind] = (row["prompt"], prompt)
    for number, pair in ties.items():
        if set(pair) != {"ref", "tied"}:
            raise ValueError(
                f"{part.name}: the Ties prompt {number} has the rows {sorted(pair)}; expected one `ref:{number}` and "
                f"one `tied:{number}`."
            )
        reference, tied = (_item(number, "Ties", *pair[kind]) for kind in ("ref", "tied"))
        yield Item(number, "Ties", reference.rows + tied.rows, reference.labels + tied.labels)


@_benchmark(
    "ppe-preference",
    "PPE Human Preference: pairs from Chatbot Arena, ties left out",
    "see its Hub card",
    "question_id,prompt,response_1,response_2,winner",
    [Part("PPE Human Preference", "lmarena-ai/PPE-Human-Preference-V1", ("**/*test*",), "test", rows=16038)],
    PICK,
    balance_of=lambda row: row["winner"],
)
def _ppe_preference(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    for row in rows:
        if row["winner"] in ("model_a", "model_b"):
            labels = (1, 0) if row["winner"] == "model_a" else (0, 1)
            pair = (row["response_1"], row["response_2"]), labels
            yield _item(str(row["question_id"]), "pairs", row["prompt"], pair)
        elif "tie" not in str(row["winner"]):
            raise ValueError(
                f"{part.name}: found the winner {row['winner']!r} for {row['question_id']}; expected `model_a`, "
                "`model_b` or a tie."
            )


_PPE_SETS = {"MMLU-Pro": 512, "MATH": 512, "GPQA": 512, "IFEval": 512, "MBPP-Plus": 507}


@_benchmark(
    "ppe-correctness",
    "PPE Correctness: conflict pairs among 32 responses to verifiable questions, mean of five sets",
    "see its Hub cards",
    "question_id,prompt,scores,sampled_conflict_pairs",
    [
        Part(name, f"lmarena-ai/PPE-{name}-Best-of-K", (f"**/PPE-{name}-Best-of-K*/**/*", f"**/*{name}*"), rows=rows)
        for name, rows in _PPE_SETS.items()
    ],
    Metric("mean over sets, a tie worth 1/2", _comparisons(formulas.pick_credit), formulas.macro_accuracy),
    balance_of=lambda row: f"{len(row['sampled_conflict_pairs'])} pairs",
)
def _ppe_correctness(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    for number, row in enumerate(rows):
        pairs = []
        for i, j in row["sampled_conflict_pairs"]:
            first, second = row["scores"][i], row["scores"][j]
            if first == second:
                raise ValueError(
                    f"{part.name} row {number}: the responses {i} and {j} of a conflict pair have the same score; "
                    "expected one correct one."
                )
            responses = (row[f"response_{i + 1}"], row[f"response_{j + 1}"])
            pairs.append((responses, (int(first > second), int(second > first))))
        if pairs:
            yield _item(f"{part.name}:{row['question_id']}", part.name, row["prompt"], *pairs)


# From `fig/*_dataset_table.pdf` in the authors' repository; the files agree.
_RMB_ROWS = {
    "Pairwise": {"Helpfulness": 10067, "Harmlessness": 7064},
    "BoN": {"Helpfulness": 2109, "Harmlessness": 1677},
}


@_benchmark(
    "rmb",
    "RMB: helpful and harmless, pairs and best-of-N; a best-of-N row is one list prompt",
    "none stated",
    "conversation_input",
    [
        Part(f"{goal} {kind}", None, (f"**/{kind}_set/{goal}/**/*.json",), rows=rows)
        for kind, goals in _RMB_ROWS.items()
        for goal, rows in goals.items()
    ],
    Metric("mean of four, the best must beat all", _comparisons(formulas.beats_all), formulas.macro_accuracy),
)
def _rmb(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    for row in rows:
        best, others = (row["bon_best"], row["loser_list"]) if "bon_best" in row else (row["chosen"], [row["reject"]])
        query = [{"role": turn["role"], "content": turn["content"]} for turn in row["conversation_input"]]
        responses = [response["answer"] for response in (best, *others)]
        labels = (1,) + (0,) * len(others)
        yield _item(f"{part.name}/{row.get('bon_uid') or row['pair_uid']}", part.name, query, (responses, labels))


_REALMISTAKE_TASKS = {
    "math_word_problem_generation": {"gpt4": (87, 53), "llama2": (128, 32)},
    "finegrained_fact_verification": {"gpt4": (88, 52), "llama2": (129, 31)},
    "answerability_classification": {"gpt4": (87, 53), "llama2": (130, 30)},
}
_REALMISTAKE_FILES = {"gpt4": "gpt-4*", "llama2": "Llama-2*"}


@_benchmark(
    "realmistake",
    "ReaLMistake: errors in single responses, ROC-AUC of scores from 1 to 10; its rows stay out of files and logs",
    "CC-BY-SA-4.0",
    "input,llm_response",
    [
        Part(
            f"{task}/{split}",
            "ryokamoi/realmistake",
            (f"**/{task}/*{split}*", f"**/{task}/{_REALMISTAKE_FILES[split]}"),
            split,
            task,
            sum(balance),
            dict(zip(("error", "no_error"), balance, strict=True)),
        )
        for task, splits in _REALMISTAKE_TASKS.items()
        for split, balance in splits.items()
    ],
    ROC_AUC,
    balance_of=lambda row: _error_label(row),
    private=True,
)
def _realmistake(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    for number, row in enumerate(rows):
        label = int(_error_label(row) == "no_error")
        yield _item(f"{part.name}/{number}", part.name, row["input"], ((row["llm_response"],), (label,)))


def _error_label(row: Row) -> str:
    label = row.get("error_label", row.get("label"))
    if label not in ("error", "no_error"):
        raise ValueError("Found a row without an error label; expected `error` or `no_error` in `error_label`.")
    return label


# By domain as in `data/*_filtered.json` of the authors' repository; `math` has the remaining rows.
_RM_BENCH_ROWS = {"chat": 129, "code": 228, "math": 529, "safety-refuse": 284, "safety-response": 157}
_RM_BENCH_FILES = ("**/total_dataset.json", "**/*train*")
_RM_BENCH: dict[str, Any] = {
    "license": "ODC-BY",
    "columns": "id,prompt,chosen,rejected,domain",
    "parts": [Part("RM-Bench", "THU-KEG/RM-Bench", _RM_BENCH_FILES, rows=1327, balance=_RM_BENCH_ROWS)],
    "balance_of": lambda row: row["domain"],
    "metric": Metric("mean of domains over the 3 × 3 matrix, strict", _rm_bench_unit, formulas.rm_bench),
}


@_benchmark("rm-bench", "RM-Bench: three chosen and three rejected responses in one list prompt", **_RM_BENCH)
def _rm_bench(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    for row in rows:
        responses = (*_three(part, row, "chosen"), *_three(part, row, "rejected"))
        yield _item(f"{row['domain']}/{row['id']}", row["domain"], row["prompt"], (responses, (1, 1, 1, 0, 0, 0)))


@_benchmark("rm-bench-pairs", "RM-Bench: nine pairs per prompt", **_RM_BENCH)
def _rm_bench_pairs(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    for row in rows:
        chosen, rejected = _three(part, row, "chosen"), _three(part, row, "rejected")
        pairs = [((right, wrong), (1, 0)) for right in chosen for wrong in rejected]
        yield _item(f"{row['domain']}/{row['id']}", row["domain"], row["prompt"], *pairs)


def _three(part: Part, row: Row, column: str) -> Sequence[str]:
    if len(row[column]) != 3:
        raise ValueError(
            f"{part.name}: row {row['id']} has {len(row[column])} responses in `{column}`; expected one in each of "
            "three styles."
        )
    return row[column]


_JUDGEBENCH_KINDS = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


def _judgebench_of(split: str, model: str, balance: Mapping[str, int]) -> dict[str, Any]:
    """JudgeBench on the responses of one model, as its authors publish results."""
    files = (f"**/*{split}*", f"**/*response_model={model}*")
    rows = sum(balance.values())
    return {
        "description": f"JudgeBench: pairs of {model} with one correct response, each judged in both orders",
        "license": "see its Hub card",
        "columns": "pair_id,source,question,response_A,response_B,label",
        "parts": [Part(split, "ScalerLab/JudgeBench", files, split, rows=rows, balance=balance)],
        "metric": Metric("accuracy over both orders", _judgebench_unit, formulas.accuracy),
        "balance_of": lambda row: row["label"],
        "order": "fixed",
    }


@_benchmark("judgebench-gpt", **_judgebench_of("gpt", "gpt-4o", {"A>B": 193, "B>A": 157}))
@_benchmark("judgebench-claude", **_judgebench_of("claude", "claude-3-5-sonnet", {"A>B": 143, "B>A": 127}))
def _judgebench(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    for row in rows:
        if row["label"] not in ("A>B", "B>A"):
            raise ValueError(
                f"{part.name}: pair {row['pair_id']} has the label {row['label']!r}; expected A>B or B>A."
            )
        first = int(row["label"] == "A>B")
        kind = next((kind for name, kind in _JUDGEBENCH_KINDS.items() if row["source"].startswith(name)), "other")
        responses = (row["response_A"], row["response_B"])
        both_orders = (responses, (first, 1 - first)), (responses[::-1], (1 - first, first))
        yield _item(row["pair_id"], kind, row["question"], *both_orders)


@_benchmark(
    "best-of-n",
    "Solutions of one question, any number of them right, in one list prompt (schema of GenRM-CoT)",
    "that of the file",
    "question,responses",
    [Part("best-of-n")],
    PICK,
)
def _best_of_n(part: Part, rows: Iterable[Row]) -> Iterator[Item]:
    for number, row in enumerate(rows):
        labels = [int(solution["correctness"]) for solution in row["responses"]]
        texts = [solution["model_output"] for solution in row["responses"]]
        yield _item(str(row.get("question_id", number)), "questions", row["question"], (texts, labels))


def rows_benchmark(name: str, metric: str = "accuracy") -> Benchmark:
    """A benchmark of user rows, for [`~trl_spct.evaluation.benchmark_loading.load_rows`].

    Args:
        name (`str`): Name in tables.
        metric (`str`, *optional*, defaults to `"accuracy"`):
            `"accuracy"`; or `"roc_auc"`, where single responses are scored from 1 to 10 instead of 0 or 1.
    """
    if metric not in METRICS:
        raise ValueError(f"Found metric={metric!r}; expected one of {sorted(METRICS)}.")
    return Benchmark(
        name,
        "preference rows",
        "that of the rows",
        (),
        frozenset(),
        lambda part, rows: preference_items(rows),
        METRICS[metric],
        binary=metric == "accuracy",
    )


def preference_items(rows: Iterable[Row | Preference], group_column: str | None = None) -> Iterator[Item]:
    """Rows of [`~trl_spct.data.preparation.prepare_preferences`] as items.

    Args:
        rows (iterable of rows): With labels.
        group_column (`str`, *optional*): Column whose values are the groups.
    """
    for number, row in enumerate(rows):
        preference, columns = (row, {}) if isinstance(row, Preference) else (Preference.from_row(row), row)
        if preference.labels is None:
            raise ValueError(f"Row {number} has no labels; expected ground truth to compare a judge with.")
        if group_column is not None and group_column not in columns:
            raise ValueError(f"Row {number} has no column `{group_column}`; found {sorted(columns)}.")
        group = "rows" if group_column is None else str(columns[group_column])
        yield Item(str(columns.get("id") or number), group, (replace(preference, labels=None),), (preference.labels,))
