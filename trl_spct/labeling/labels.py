# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rows of any kind → scores, the best of n, and preference pairs with a margin, as a judge's votes say."""

import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value, concatenate_datasets
from huggingface_hub import DatasetCardData

from ..cards import dataset_card
from ..evaluation.diagnostics import agreement, chosen_places, order_flips
from ..evaluation.judgments import Judgment
from ..jobs import SHARDS, in_one_step, write_json
from ..judge.hub import push_folder
from ..judge.prompts import conversation_text
from ..judge.sampling import derive_seed
from .rows import LabelRows
from .verdicts import batches


PAIRS = ("best-vs-worst", "best-vs-random", "all")
"""Which responses of a row make pairs, see [`preference_pairs`]."""

COLUMNS = ("scores", "best", "tied", "votes", "confidence", "problems")
"""What [`score_columns`] adds to a row."""

_MESSAGES = List({"role": Value("string"), "content": Value("string")})


def score_columns(verdicts: Dataset, prefix: str = "") -> Dataset:
    """What the judge says of each row, to stand beside its other columns.

    | column | |
    |---|---|
    | `scores` | mean score per vote of each response, whatever k; `None` if no critique of the row can be read |
    | `best` | a response with the highest score, drawn with the seed from `tied`; `None` without scores |
    | `tied` | all responses with the highest score |
    | `votes` | critiques that voted |
    | `confidence` | share of them whose own winner is `best`; `None` for n = 1 and for rows in blocks |
    | `problems` | why critiques could not be read, each; or `["length"]` if the row was too long to be judged |

    Args:
        verdicts ([`~datasets.Dataset`]): Of [`collect_verdicts`].
        prefix (`str`, *optional*, defaults to `""`): Put before the columns' names.
    """
    types = (List(Value("float64")), Value("int64"), List(Value("int64")), Value("int64"), Value("float64"))
    features = dict(zip(COLUMNS, (*types, List(Value("string"))), strict=True))

    def to_columns(record: dict[str, Any]) -> dict[str, Any]:
        values = (mean_scores(record), record["best"], record["tied"], sum(record["counted"]), _confidence(record))
        return {prefix + name: value for name, value in zip(COLUMNS, (*values, _problems(record)), strict=True)}

    return verdicts.map(
        to_columns,
        remove_columns=verdicts.column_names,
        features=Features({prefix + name: feature for name, feature in features.items()}),
        keep_in_memory=True,
        load_from_cache_file=False,
    )


def check_columns(rows: LabelRows, prefix: str = "") -> None:
    """Refuses rows with columns that [`score_columns`] would overwrite."""
    clashing = [prefix + name for name in COLUMNS if prefix + name in rows.originals.column_names]
    if clashing:
        raise ValueError(
            f"The rows have the columns {clashing} already, which the judge's would overwrite. Rename them, or put "
            'something before the names of the judge\'s, as `prefix="judge_"`.'
        )


def mean_scores(record: Mapping[str, Any]) -> list[float] | None:
    """Mean score per vote of each response of a stored verdict; `None` if there is none."""
    if record["totals"] is None or not record["weight"]:
        return None
    return [total / record["weight"] for total in record["totals"]]


def _confidence(record: Mapping[str, Any]) -> float | None:
    if record["totals"] is None or len(record["totals"]) < 2 or record["blocks"]:
        return None
    voters = [scores for scores, counted in zip(record["scores"], record["counted"], strict=True) if counted]
    return agreement(voters, record["best"])


def _problems(record: Mapping[str, Any]) -> list[str]:
    if record["refused"] is not None:
        return [record["refused"]]
    return [problem for problem in record["problems"] if problem is not None]


def best_of_n(rows: LabelRows, verdicts: Iterable[Mapping[str, Any]], messages: bool = False) -> Iterator[dict]:
    """The best response to each query, as rows of TRL's `prompt` and `completion`, with `score` and `row`.

    Of responses that share the highest score, it is the one that the pipeline has drawn. Rows without scores give
    none.

    Args:
        rows ([`LabelRows`]): What was judged.
        verdicts (iterable of records): Of [`collect_verdicts`].
        messages (`bool`, *optional*, defaults to `False`): Write texts as messages.
    """
    for number, (row, record) in enumerate(zip(rows, verdicts, strict=True)):
        scores = mean_scores(record)
        if scores is not None:
            best = record["best"]
            prompt, completion = _written(row.query, row.responses[best], messages=messages)
            yield {
                "prompt": prompt,
                "completion": completion,
                "score": scores[best],
                "row": rows.row_numbers[number],
            }


def preference_pairs(
    rows: LabelRows,
    verdicts: Iterable[Mapping[str, Any]],
    pairs: str = "best-vs-worst",
    min_margin: float = 0.0,
    seed: int = 0,
    messages: bool = False,
    skipped: Counter | None = None,
) -> Iterator[dict[str, Any]]:
    """Pairs of responses that the judge tells apart, in TRL's preference format, for `DPOTrainer` and `RewardTrainer`.

    Args:
        rows ([`LabelRows`]): What was judged.
        verdicts (iterable of records): Of [`collect_verdicts`].
        pairs (`str`, *optional*, defaults to `"best-vs-worst"`):
            `"best-vs-worst"`: one pair a row. `"best-vs-random"`: one pair a row, the best against any other that may
            be paired with it. `"all"`: any two responses. Where scores are shared, a draw decides who is best or
            worst, not the place.
        min_margin (`float`, *optional*, defaults to `0.0`):
            A pair's scores are further apart than this, in points per vote. A tie makes no pair.
        seed (`int`, *optional*, defaults to `0`): Of what is drawn.
        messages (`bool`, *optional*, defaults to `False`): Write texts as messages.
        skipped (`Counter`, *optional*):
            Counts pairs that were not made: `tie`, `margin` and `duplicate` (the same text twice); and rows that had
            none to make: `single` (n = 1) and `unreadable`.

    Yields:
        `dict`: `prompt`, `chosen`, `rejected`, `score_chosen`, `score_rejected`, `margin`, and `row`, the number of
        the row that it was made of.
    """
    check_pairs(pairs, min_margin)
    skipped = Counter() if skipped is None else skipped
    for number, (row, record) in enumerate(zip(rows, verdicts, strict=True)):
        scores = mean_scores(record)
        if scores is None or len(row) == 1:
            skipped["single" if len(row) == 1 else "unreadable"] += 1
            continue
        judged = _JudgedRow(row.responses, record["totals"], record["weight"], min_margin)
        draw = random.Random(derive_seed(seed, "pair", conversation_text(row.query), *row.responses))
        for chosen, rejected in judged.candidates(pairs, record["best"], draw):
            cause = judged.refusal(chosen, rejected)
            if cause is not None:
                skipped[cause] += 1
                continue
            texts = _written(row.query, row.responses[chosen], row.responses[rejected], messages=messages)
            yield {
                **dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)),
                "score_chosen": scores[chosen],
                "score_rejected": scores[rejected],
                "margin": judged.margin(chosen, rejected),
                "row": rows.row_numbers[number],
            }


def check_pairs(pairs: str, min_margin: float) -> None:
    """Refuses what [`preference_pairs`] does not know."""
    if pairs not in PAIRS:
        raise ValueError(f"Found pairs={pairs!r}; expected one of {', '.join(map(repr, PAIRS))}.")
    if not min_margin >= 0:
        raise ValueError(f"Found min_margin={min_margin}; expected a number of points from 0 on.")


@dataclass(frozen=True)
class _JudgedRow:
    """Which responses of a row make pairs. Sums are compared, since means of three votes are not exact."""

    responses: Sequence[str]
    totals: Sequence[float]
    weight: float
    min_margin: float

    def margin(self, chosen: int, rejected: int) -> float:
        return (self.totals[chosen] - self.totals[rejected]) / self.weight

    def refusal(self, chosen: int, rejected: int) -> str | None:
        """Why two responses make no pair; `None` if they do."""
        margin = self.margin(chosen, rejected)
        if margin <= self.min_margin:
            return "margin" if margin > 0 else "tie"
        return "duplicate" if self.responses[chosen] == self.responses[rejected] else None

    def candidates(self, pairs: str, best: int, draw: random.Random) -> list[tuple[int, int]]:
        others = [i for i in range(len(self.totals)) if i != best]
        if pairs == "all":
            order = sorted([best, *others], key=lambda i: -self.totals[i])
            return [(order[i], order[j]) for i in range(len(order)) for j in range(i + 1, len(order))]
        if pairs == "best-vs-random":
            return [(best, draw.choice([i for i in others if self.refusal(best, i) is None] or others))]
        lowest = min(self.totals[i] for i in others)
        return [(best, draw.choice([i for i in others if self.totals[i] == lowest]))]


def _written(query: Any, *answers: str, messages: bool) -> tuple:
    """A query and answers as TRL's trainers read them: all texts, or all messages."""
    if not messages and isinstance(query, str):
        return query, *answers
    prompt = [{"role": "user", "content": query}] if isinstance(query, str) else list(query)
    return prompt, *([{"role": "assistant", "content": answer}] for answer in answers)


def label_report(
    rows: LabelRows, verdicts: Dataset, made: Mapping[str, Any], best: int, scores: Dataset
) -> dict[str, Any]:
    """What came of labeling, JSON-like.

    Args:
        rows ([`LabelRows`]), verdicts ([`~datasets.Dataset`]): What was judged, and what came of it.
        made (mapping): What is known of the pairs.
        best (`int`): How many rows have a best response.
        scores ([`~datasets.Dataset`]): Of [`score_columns`], without a prefix.

    Returns:
        `dict`:

        - `rows`: how many were `read`, `dropped` (by cause), `judged` and `cut` to fit; `responses`: all of theirs.
        - `critiques` (`int`), `tokens` (mean length), `unreadable` (share) and `problems` (count by cause).
        - `unscored`: rows without scores, by the most frequent cause of theirs.
        - `score` and `confidence` (means), `ties`: share of scored rows with n ≥ 2 that have more than one winner.
        - `pairs`, `best_of_n`.
        - `places` and `order_flips`: the judge's position bias, see [`chosen_places`] and
          [`~trl_spct.evaluation.diagnostics.order_flips`].
    """
    problems, unscored, critiques, tokens, cut = Counter(), Counter(), 0, 0, 0
    for record in verdicts.remove_columns("texts"):
        causes = Counter(_problems(record))
        problems.update(problem for problem in record["problems"] if problem is not None)
        critiques, tokens = critiques + len(record["orders"]), tokens + sum(record["num_tokens"])
        cut += record["truncated"]
        if mean_scores(record) is None:
            unscored[min(causes, key=lambda cause: (-causes[cause], cause))] += 1
    given = [values for values in scores["scores"] if values is not None]
    tied = [len(tied) > 1 for values, tied in zip(scores["scores"], scores["tied"]) if values and len(values) > 1]
    return {
        "rows": {"read": rows.num_read, "dropped": rows.dropped, "judged": len(rows), "cut": cut},
        "responses": sum(map(len, rows.preferences["responses"])),
        "critiques": critiques,
        "tokens": tokens / critiques if critiques else None,
        "unreadable": sum(problems.values()) / critiques if critiques else None,
        "problems": dict(sorted(problems.items())),
        "unscored": dict(sorted(unscored.items())),
        "score": _mean([score for values in given for score in values]),
        "confidence": _mean([value for value in scores["confidence"] if value is not None]),
        "ties": _mean(tied),
        "pairs": dict(made),
        "best_of_n": best,
        "places": chosen_places(_judgments(verdicts)),
        "order_flips": order_flips(_judgments(verdicts)),
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in a few sentences, for a terminal."""
    read, pairs = report["rows"], report["pairs"]
    lines = [
        f"{read['read']} rows read, {_counted(read['dropped'])} dropped, {read['judged']} judged with "
        f"{report['critiques']} critiques, of which {_share(report['unreadable'])} unreadable"
        f"{_causes(report['problems'])}",
        f"rows without scores: {_counted(report['unscored'])}",
        f"pairs ({pairs['policy']}, margin over {pairs['min_margin']:g}): {pairs['made']}"
        + (f", mean margin {pairs['margin']:.2f}" if pairs["made"] else "")
        + f"; not made: {_counted(pairs['skipped'])}",
        f"best of n: {report['best_of_n']}; ties for the best: {_share(report['ties'])}",
    ]
    for n, shares in report["places"].items():
        lines.append(f"winner's place among {n}: " + ", ".join(map(_share, shares)))
    if report["order_flips"]:
        lines.append(f"two critiques in different orders disagree in {_share(report['order_flips']['flips'])}")
    return lines


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _counted(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values())}{_causes(counts)}"


def _causes(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{cause} {count}' for cause, count in counts.items())})" if counts else ""


def _judgments(verdicts: Dataset) -> Iterator[Judgment]:
    """What tells of places: rows that were judged whole."""
    return (
        Judgment((), record["scores"], orders=[tuple(order) for order in record["orders"]])
        for record in verdicts.select_columns(["scores", "orders", "blocks"])
        if not record["blocks"]
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def write_labels(
    rows: LabelRows,
    verdicts: Dataset,
    folder: str | os.PathLike,
    pairs: str = "best-vs-worst",
    min_margin: float = 0.0,
    seed: int = 0,
    messages: bool = False,
    prefix: str = "",
) -> dict[str, Any]:
    """Writes scores, the best of n and preference pairs as parquet, each into a folder of its own, and `report.json`.

    Args:
        rows ([`LabelRows`]), verdicts ([`~datasets.Dataset`]): What was judged, and what came of it.
        folder (`str` or path): Where to. What an earlier call wrote is replaced.
        pairs, min_margin, seed: See [`preference_pairs`].
        messages (`bool`, *optional*, defaults to `False`):
            Write prompts and answers as messages, to which trainers apply a chat template, where queries are texts.
        prefix (`str`, *optional*, defaults to `""`): See [`score_columns`].

    Returns:
        `dict`: see [`label_report`].
    """
    check_columns(rows, prefix)
    folder, skipped = Path(folder), Counter()
    messages = messages or rows.have_messages
    added = score_columns(verdicts, prefix)
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    scored = concatenate_datasets([rows.originals.with_format(None), added], axis=1)
    with in_one_step(folder / "scores" / "data.parquet") as path:
        scored.to_parquet(path)
    text = _MESSAGES if messages else Value("string")
    numbers = {"row": Value("int64")}
    best = {"prompt": text, "completion": text, "score": Value("float64"), **numbers}
    made = {"prompt": text, "chosen": text, "rejected": text}
    made |= {name: Value("float64") for name in ("score_chosen", "score_rejected", "margin")} | numbers
    num_best, _ = _write(folder / "best_of_n", best_of_n(rows, verdicts, messages), Features(best))
    found = preference_pairs(rows, verdicts, pairs, min_margin, seed, messages, skipped)
    num_pairs, margins = _write(folder / "preferences", found, Features(made))
    summary = {"policy": pairs, "min_margin": min_margin, "made": num_pairs}
    summary |= {"margin": margins / num_pairs if num_pairs else None, "skipped": dict(sorted(skipped.items()))}
    bare = added.rename_columns({name: name.removeprefix(prefix) for name in added.column_names})
    report = label_report(rows, verdicts, summary, num_best, bare)
    write_json(folder / "report.json", report)
    return report


def _write(folder: Path, records: Iterable[Mapping[str, Any]], features: Features) -> tuple[int, float]:
    """(records, sum of their margins), written with flat memory."""
    folder.mkdir(parents=True, exist_ok=True)
    count, margins, schema = 0, 0.0, features.arrow_schema
    with in_one_step(folder / "data.parquet") as path, pq.ParquetWriter(path, schema) as writer:
        for batch in batches(records, 1000):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
            margins += sum(record.get("margin", 0.0) for record in batch)
    return count, margins


PARTS = ("preferences", "best_of_n", "scores")


def write_labels_card(
    folder: str | os.PathLike,
    report: Mapping[str, Any],
    protocol: Mapping[str, Any],
    dataset_name: str | None = None,
    repo_id: str | None = None,
) -> None:
    """The card of a folder of labels; it tells `load_dataset(folder, "preferences")` what to read.

    Args:
        folder (`str` or path): What [`write_labels`] wrote. Verdicts in `verdicts/` beside it are part of the card.
        report (mapping): Of [`write_labels`].
        protocol (mapping): How the critiques came about, see [`PipelineJudge.protocol`].
        dataset_name (`str`, *optional*): What was labeled.
        repo_id (`str`, *optional*): Where the labels will be; the folder's name by default.
    """
    folder = Path(folder)
    data = {
        "preferences": report["pairs"]["made"],
        "best_of_n": report["best_of_n"],
        "scores": report["rows"]["judged"],
    }
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in PARTS if data[name]]
    configs[0]["default"] = True
    if (folder / "verdicts").is_dir():
        configs.append({"config_name": "verdicts", "data_files": f"verdicts/{SHARDS}"})
    is_local = dataset_name is not None and (os.path.exists(dataset_name) or "*" in dataset_name)
    card = dataset_card(
        "labels.md",
        DatasetCardData(
            tags=["trl", "spct", "generative-reward-model", "preference"],
            source_datasets=None if is_local or dataset_name is None else [dataset_name],
            configs=configs,
        ),
        report=report,
        parts=[config["config_name"] for config in configs],
        causes=_causes,
        protocol=json.dumps(dict(protocol), indent=2, ensure_ascii=False),
        judge=protocol["model"],
        k=protocol["k"],
        dataset_name=Path(dataset_name).name if is_local else dataset_name,
        repository=repo_id or folder.name,
        versions={name: version(name) for name in ("trl-spct", "transformers", "torch", "datasets")},
    )
    card.save(folder / "README.md")


def push_labels(folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Pushes a folder of labels to the Hub with its card: scores, pairs, the best of n, and all critiques.

    The manifest, which may name places on this machine, stays here.

    Args:
        folder (`str` or path): What [`write_labels`] and [`write_labels_card`] wrote.
        repo_id (`str`): Of a dataset repository, which is created if it is not there.
        private (`bool`, *optional*): Whether a new repository is private; as the account has it by default.
        token (`str`, *optional*): The one that is logged in with by default.

    Returns:
        `str`: address of the commit.

    Raises:
        [`~trl_spct.judge.hub.PushError`]: if it fails, saying how to push again.
    """
    names = [*(f"{name}/data.parquet" for name in PARTS), f"verdicts/{SHARDS}", "README.md", "report.json"]
    return push_folder(folder, repo_id, "dataset", "Upload labels", names, private, token)
