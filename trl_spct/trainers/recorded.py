# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Trajectories from recorded critiques, which another judge wrote: a cold start without sampling."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date
from functools import partial
from numbers import Integral, Real
from typing import Any

from datasets import Dataset, Features
from transformers import PreTrainedTokenizerBase

from ..data.preparation import Rows, preference_of, prepare_preferences
from ..judge.closing import ScoreLine
from ..judge.preferences import InvalidPreference
from ..judge.prompts import judge_messages, judge_template
from ..judge.sampling import TRUNCATED, Sample, encode_prompts, special_tokens
from ..judge.templates import JudgeTemplate
from .rejection import Trajectory, select_trajectories
from .rejection_report import counts_text, rejection_report, rejection_summary
from .trajectories import TRAJECTORY_FEATURES, trajectory_of

logger = logging.getLogger(__name__)

CRITIQUES = "critiques"


def recorded_trajectories(
    dataset: Rows,
    tokenizer: PreTrainedTokenizerBase,
    template: str = "paper",
    source: str | None = None,
    invalid_rows: Any = "error",
    reject_too_easy: bool = True,
    context_length: int | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Dataset:
    """Trajectories from critiques that were written elsewhere, by the rejection rule of [`RejectiveSampler`].

    Labeled preference rows have a column `critiques`, a list of mappings: each has either a whole `text`, with scores
    in the template's form, or a `reason` and a `verdict`: the index of the best response, `"tie"`, or one score each.
    The template's own score line then follows the reason, with 8 for the best response and 4 for the others, or 6 for
    all in a tie, which is incorrect (not in the paper; 7/9, 3/9 and 5/9 of a range other than 1 to 10).

    Indices and scores are in the order of the row. Where the author read another one, `order[p]` is the index of
    response number p + 1, and the prompt shows that order. Judgments of this package have these fields: their `scores`
    must be those of the text, and truncated critiques are unreadable.

    `tokenizer` is the judge's, `context_length` the most tokens of a prompt and its critique together; for the others
    see [`RejectiveSamplerConfig`]. `invalid_rows="drop"` skips and counts single critiques; rows with one critique are
    never too easy. Returns the columns of [`RejectiveSampler.collect`]; none is hinted."""
    prepared = prepare_preferences(dataset, source, invalid_rows)
    rows, numbers, dropped = prepared.dataset, prepared.row_numbers, Counter[str]()
    if CRITIQUES not in rows.column_names or "order" in rows.column_names or len({*numbers}) < len(rows):
        expected = f"`{CRITIQUES}` of a single preference in each row, with an `order` inside of each critique"
        raise ValueError(f"train_dataset: found the columns {sorted(rows.column_names)}; expected {expected}.")
    features = {name: kind for name, kind in rows.features.items() if name != CRITIQUES} | TRAJECTORY_FEATURES
    read = partial(_trajectory, template, tokenizer, special_tokens(tokenizer), context_length, chat_template_kwargs)

    def judge(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        row, index, records = {name: values[0] for name, values in batch.items()}, indices[0], []
        for number, critique in enumerate(row.pop(CRITIQUES) or ()):
            try:
                records.append({**read(row, critique), "row": index, "sample": number})
            except InvalidPreference as error:
                dropped[error.cause] += 1
                if invalid_rows == "error":
                    message = f"row {numbers[index]}, critique {number}: {error} `invalid_rows='drop'` skips it."
                    raise InvalidPreference(f"train_dataset {message}", error.cause) from error
        judged = [Trajectory(index, record["scores"], record["labels"]) for record in records]
        outcomes = select_trajectories(judged, reject_too_easy and len(judged) > 1).outcomes
        records = [{**record, "outcome": outcome.value} for record, outcome in zip(records, outcomes, strict=True)]
        return {name: [record[name] for record in records] for name in features}

    options: dict[str, Any] = {"with_indices": True, "batched": True, "batch_size": 1, "load_from_cache_file": False}
    trajectories = rows.map(judge, features=Features(features), remove_columns=rows.column_names, **options)
    _log(trajectories, len(rows), dropped)
    return trajectories


def _log(trajectories: Dataset, num_rows: int, dropped: Counter[str]) -> None:
    report, causes = rejection_report(trajectories), counts_text(dropped) or "none"
    if not report["rows"]:
        raise ValueError(f"train_dataset: found no critique to use in {num_rows} rows; dropped {causes}.")
    logger.info("Recorded critiques: %s", rejection_summary(report))
    if dropped or report["rows"] < num_rows:
        without = num_rows - report["rows"]
        logger.warning("Recorded critiques: dropped %s; %d rows are without any.", causes, without)
    for remark in report["remarks"]:
        logger.warning("Recorded critiques: %s", remark)


def _trajectory(
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    special: Iterable[str],
    limit: int | None,
    variables: Mapping[str, Any] | None,
    row: Mapping[str, Any],
    critique: Any,
) -> dict[str, Any]:
    n = len(row["responses"])
    text, order = _text_and_order(critique, n, judge_template(template, binary=n == 1))
    shown = preference_of(row).permuted(order)
    prompt = judge_messages(shown, template, n == 1, special_tokens=special)
    length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    tokens = length + len(encode_prompts(tokenizer, [prompt], variables)[0])
    _check(tokens <= (limit or tokens), "length", f"{tokens} tokens with the prompt", f"at most {limit}")
    sample = Sample(text, length, critique.get("problem") == TRUNCATED, closed=bool(critique.get("closed")))
    trajectory = trajectory_of({**row, "prompt": prompt, "order": order}, sample, template)
    stored, scores = critique.get("scores"), trajectory["scores"]
    same = stored == scores or None in (stored, scores)
    _check(same, "scores", f"the scores {stored}", f"{scores}, those of the text in the order of the row")
    return {**trajectory, "hinted": False, "sampled_on": date.today().isoformat()}


def _check(valid: bool, cause: str, found: str, expected: str) -> None:
    if not valid:
        raise InvalidPreference(f"Found {found}; expected {expected}.", cause)


def _text_and_order(critique: Any, n: int, template: JudgeTemplate) -> tuple[str, list[int]]:
    fields = critique if isinstance(critique, Mapping) else {}
    present = {name for name in ("text", "reason", "verdict") if fields.get(name) is not None}
    known = present in ({"text"}, {"reason", "verdict"})
    _check(known, "shape", f"the critique {critique!r:.120}", "a mapping with `text`, or with `reason` and `verdict`")
    text = fields["text" if "text" in present else "reason"]
    _check(isinstance(text, str) and bool(text.strip()), "empty", f"the critique {text!r}", "a text that is not empty")
    order = list(range(n) if fields.get("order") is None else fields["order"])
    is_order = sorted(order, key=repr) == sorted(range(n), key=repr)
    _check(is_order, "order", f"the order {order}", f"each index from 0 to {n - 1} once")
    if "verdict" in present:
        scores, line = _scores(fields["verdict"], n, *template.score_range), ScoreLine.of(template, n)
        behind = zip(order, line.texts[1:], strict=True)
        text += line.opening + "".join(f"{scores[response]:g}{between}" for response, between in behind)
    return text, order


def _scores(verdict: Any, n: int, low: int, high: int) -> list[float]:
    """Scores that carry a verdict, in the order of the row."""
    if isinstance(verdict, list) and len(verdict) == n and all(isinstance(score, Real) for score in verdict):
        return verdict
    best, other, tied = (round(low + (high - low) * share / 9) for share in (7, 3, 5))
    if isinstance(verdict, str):
        verdict = int(verdict) if verdict.isdecimal() else verdict.lower()
    if n > 1 and verdict == "tie":
        return [tied] * n
    is_index = isinstance(verdict, Integral) and not isinstance(verdict, bool) and 0 <= int(verdict) < n > 1
    expected = f"an index from 0 to {n - 1}, 'tie', or {n} scores" if n > 1 else "its score in a list"
    _check(is_index, "verdict", f"the verdict {verdict!r}", expected)
    return [best if response == verdict else other for response in range(n)]
