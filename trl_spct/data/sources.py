# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Public judging data in their original schemas: one adapter per source, from a row to preference rows.

No adapter sets `reference`: where a source knows the right answer, it is kept in its own column, out of the prompt.
Data in a shape of [`Preference.from_row`] need no adapter, for instance Skywork-Reward-Preference-80K.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..judge.preferences import InvalidPreference
from ..judge.sampling import derive_seed

Row: TypeAlias = Mapping[str, Any]
Ranked: TypeAlias = tuple[Iterable[int], Sequence[float]]


class LeftOut(InvalidPreference):
    """A valid row that the rule of its source leaves out, for instance a tie; skipped for any `invalid_rows`."""


@dataclass(frozen=True)
class Source:
    """A public dataset in its original schema.

    Args:
        description (`str`): Name, license and reading rule, in one line.
        columns (`str`): Columns that the source is recognized by, separated by commas; all must be present.
        responses (`Callable`): From a row to its query and all of its responses; the labels are not read.
        ranked (`Callable`): From a row and its query to the numbers of the responses of each preference row, and their
            labels. Raises [`LeftOut`] where the source's rule makes no row.
        consumed (`str`, *optional*): Columns that become `query`, `responses` and `labels`, by default all `columns`.
    """

    description: str
    columns: str
    responses: Callable[[Row], tuple[Any, list[Any]]]
    ranked: Callable[[Row, Any], Iterable[Ranked]]
    consumed: str = ""

    @property
    def signature(self) -> frozenset[str]:
        return frozenset(self.columns.split(","))

    def read(self, row: Row, read_labels: bool = True) -> list[dict[str, Any]]:
        """Preference rows of a row; with `read_labels=False` a single one, with all responses."""
        query, responses = self.responses(row)
        if not read_labels:
            return [{"query": query, "responses": responses}]
        return [
            {"query": query, "responses": [responses[i] for i in numbers], "labels": list(labels)}
            for numbers, labels in self.ranked(row, query)
        ]


def detect_source(column_names: Collection[str]) -> str | None:
    """Name of the source whose signature these columns hold; `None` for no source, or more than one."""
    names = [name for name, source in SOURCES.items() if source.signature <= set(column_names)]
    return names[0] if len(names) == 1 else None


def get_source(name: str, column_names: Collection[str]) -> Source:
    """The source of that name, whose columns must be present."""
    if name not in SOURCES:
        raise ValueError(f"Found source {name!r}; expected one of {sorted(SOURCES)}.")
    source, advice = SOURCES[name], "Name another source, or rename the columns."
    require_columns(column_names, source.signature, f"Source {name!r}", advice)
    return source


def require_columns(column_names: Iterable[str], required: Iterable[str], name: str, advice: str) -> None:
    """Raises a `ValueError` that names the columns that are missing in a dataset."""
    missing = sorted({*required} - {*column_names})
    if missing:
        raise ValueError(f"{name}: found the columns {sorted(column_names)}; expected {missing} among them. {advice}")


def one_best(query: str, labels: Sequence[float]) -> tuple[list[int], list[float]]:
    """Numbers and labels of one of the best responses, chosen by a hash of the query, and of all with lower labels."""
    highest = max(labels)
    best = [i for i, label in enumerate(labels) if label == highest]
    if len(best) == len(labels):
        raise LeftOut(f"All {len(labels)} responses have the label {highest}; expected one that is better.", "ties")
    chosen = best[derive_seed(0, query) % len(best)]
    kept = [i for i, label in enumerate(labels) if i == chosen or label < highest]
    return kept, [labels[i] for i in kept]


def _in_columns(query: str, *responses: str) -> Callable[[Row], tuple[Any, list[Any]]]:
    return lambda row: (row[query], [row[name] for name in responses])


def _pair(better: Callable[[Row], Any]) -> Callable[[Row, Any], list[Ranked]]:
    """The rule of pairs, from the number of the better response: 1 or 2."""

    def ranked(row: Row, query: Any) -> list[Ranked]:
        number = better(row)
        if number not in (1, 2):
            raise InvalidPreference(f"Found {number!r} as the better response; expected 1 or 2.", "labels")
        return [((0, 1), (int(number == 1), int(number == 2)))]

    return ranked


def _majority(row: Row) -> int:
    votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
    for vote in (1, 2):
        if votes.count(vote) >= 2:
            return vote
    raise LeftOut(f"The annotators voted {votes}; expected a majority for 1 or 2.", "ties")


def _debate(row: Row) -> tuple[Any, list[Any]]:
    debate, _, side = (part.replace("-", " ").strip() for part in (row.get("_topic") or "").partition("_"))
    query = "Write a convincing argument" + (f' in the debate "{debate}" for the side "{side}".' if side else ".")
    return query, [re.sub(r"\s*<br/>\s*", "\n", row[name]).strip() for name in ("a1", "a2")]


_GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def _one_correct(row: Row, query: Any) -> list[Ranked]:
    labels = [int(row[model]["is_correct"]) for model in _GSM8K_MODELS]
    _check_contrast(labels)
    return [one_best(query, labels)]


def _three_against_one(row: Row, query: Any) -> Iterator[Ranked]:
    """Up to three incorrect solutions a row, each with the next correct one; the first is chosen by a hash."""
    labels = [int(solution["correctness"]) for solution in row["responses"]]
    _check_contrast(labels)
    correct = [i for i, label in enumerate(labels) if label == 1]
    incorrect = [i for i, label in enumerate(labels) if label != 1]
    first = derive_seed(0, query)
    for number, start in enumerate(range(0, len(incorrect), 3)):
        kept = sorted([correct[(first + number) % len(correct)], *incorrect[start : start + 3]])
        yield kept, [labels[i] for i in kept]


def _check_contrast(labels: Sequence[int]) -> None:
    if not any(labels):
        raise LeftOut("No response is correct; expected one.", "none_correct")
    if all(labels):
        raise LeftOut("All responses are correct; expected an incorrect one.", "all_correct")


def _scored(row: Row, query: Any) -> list[Ranked]:
    """Completions without a score or a text are left out; at least two must remain.

    The first revision gave 10 to many completions that deserve 1. A row that shows this, by a mean rating of at most
    2, is refused, and with it the revision: others, of middling ratings, do not show it and were scored anew.
    """
    scores = {
        i: score
        for i, completion in enumerate(row["completions"] or ())
        if (score := _score(completion)) is not None and str(completion["response"]).strip()
    }
    if len(scores) < 2:
        raise LeftOut(f"Found {len(scores)} completions with a score and a text; expected at least two.", "responses")
    for i, score in scores.items():
        rating = _mean_rating(row["completions"][i])
        if score == 10 and rating is not None and rating <= 2:
            raise InvalidPreference(
                f"Found the score 10 for a completion with a mean rating of {rating:g}, which is 1 in the corrected "
                "data; expected revision 40b4365 or later. Load it again, without an old `revision` or copy.",
                "revision",
            )
    kept, labels = one_best(query, [*scores.values()])
    return [([[*scores][i] for i in kept], labels)]


def _score(completion: Row) -> float | None:
    """The score of a completion; `None` for `None`, an empty text, "N/A" and NaN."""
    score = completion["overall_score"]
    try:
        number = float("nan" if score in (None, "", "N/A") else score)
    except ValueError:
        raise InvalidPreference(f"Found the score {score!r}; expected a number from 1 to 10.", "labels") from None
    return None if number != number else number


def _mean_rating(completion: Row) -> float | None:
    """Mean of the ratings of the four aspects; the first revision has no column for it."""
    if completion.get("fine-grained_score") is not None:
        return float(completion["fine-grained_score"])
    aspects = (completion.get("annotations") or {}).values()
    texts = [str(aspect.get("Rating")) for aspect in aspects if isinstance(aspect, Mapping)]
    ratings = [float(text) for text in texts if text.isdigit()]
    return sum(ratings) / len(ratings) if ratings else None


def _stronger(row: Row) -> int:
    """One file holds both splits, of which only the training split may be learned from."""
    if row.get("split") in ("val", "validation"):
        raise LeftOut(f"Found a row of the split {row['split']!r}; expected one to train on.", "held_out")
    strength = row["preference_strength"]
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not -3 <= strength <= 3:
        raise InvalidPreference(f"Found the preference strength {strength!r}; expected one from -3 to 3.", "labels")
    if strength == 0:
        raise LeftOut("The preference strength is 0; expected a better response.", "ties")
    return 1 if strength < 0 else 2


def _extra_id_turns(prompt: str) -> str | list[dict[str, str]]:
    """Messages of a prompt whose later turns begin with `<extra_id_1>Role`; the last one is the user's."""
    first, *rest = re.split(r"\n?<extra_id_1>(User|Assistant)\n", prompt)
    if "<extra_id_1>" in "".join((first, *rest[1::2])) or (rest and rest[-2] != "User"):
        raise InvalidPreference(
            "Found a prompt with `<extra_id_1>` that cannot be split into turns, or whose last turn is not the user's;"
            " expected `<extra_id_1>User` or `<extra_id_1>Assistant` on a line of its own before each turn.",
            "query",
        )
    if not rest:
        return first
    turns = [*([("User", first)] if first.strip() else []), *zip(rest[::2], rest[1::2], strict=True)]
    return [{"role": role.lower(), "content": text} for role, text in turns]


SOURCES = {
    "llmbar": Source(
        "LLMBar (MIT): instruction following pairs, part of RewardBench Chat-Hard: do not train and report on both",
        "input,output_1,output_2,label",
        _in_columns("input", "output_1", "output_2"),
        _pair(lambda row: row["label"]),
    ),
    "offsetbias": Source(
        "OffsetBias (BSD-3-Clause): pairs against judge biases",
        "instruction,output_1,output_2,label",
        _in_columns("instruction", "output_1", "output_2"),
        _pair(lambda row: row["label"]),
    ),
    "evalbiasbench": Source(
        "EvalBiasBench (BSD-3-Clause): pairs for six judge biases",
        "bias,instruction,response1,response2,label",
        _in_columns("instruction", "response1", "response2"),
        _pair(lambda row: row["label"]),
        consumed="instruction,response1,response2,label",
    ),
    "pandalm": Source(
        "PandaLM test set (Apache-2.0): pairs by majority of three annotators (ties are left out)",
        "instruction,input,response1,response2,annotator1,annotator2,annotator3",
        lambda row: (
            "\n\n".join(filter(None, (row["instruction"], row["input"]))),
            [row["response1"], row["response2"]],
        ),
        _pair(_majority),
    ),
    "hhh-alignment": Source(
        "HHH alignment (Apache-2.0): helpful, honest and harmless pairs",
        "input,targets",
        lambda row: (row["input"], row["targets"]["choices"]),
        lambda row, query: [(range(len(row["targets"]["choices"])), row["targets"]["labels"])],
    ),
    "ukpconvarg1": Source(
        "UKPConvArg1 (CC-BY-4.0): which of two arguments convinces more; the debate is read from `_topic`, if present",
        "a1,a2,label",
        _debate,
        _pair(lambda row: {"a1": 1, "a2": 2}.get(row["label"], row["label"])),
    ),
    "gsm8k": Source(
        "GSM8K solutions of four models (MIT): one correct (by a hash of the question) against all incorrect ones",
        ",".join(("question", "ground_truth", *_GSM8K_MODELS)),
        lambda row: (row["question"], [row[model]["solution"] for model in _GSM8K_MODELS]),
        _one_correct,
        consumed=",".join(("question", *_GSM8K_MODELS)),
    ),
    "genrm-cot": Source(
        "GenRM-CoT (MIT): GSM8K solutions by question; each incorrect one is used once, three against one correct one",
        "question,target,responses",
        lambda row: (row["question"], [solution["model_output"] for solution in row["responses"]]),
        _three_against_one,
        consumed="question,responses",
    ),
    "ultrafeedback": Source(
        "UltraFeedback (MIT): up to four completions by `overall_score` (revision 40b4365, December 2023, or later)",
        "instruction,completions",
        lambda row: (row["instruction"], [completion["response"] for completion in row["completions"] or ()]),
        _scored,
    ),
    "helpsteer2-preference": Source(
        "HelpSteer2-Preference (CC-BY-4.0): pairs with a strength from -3 (the first is better) to 3; ties and rows "
        "whose `split` is `val` are left out (drop that column to read them)",
        "prompt,response_1,response_2,preference_strength",
        lambda row: (_extra_id_turns(row["prompt"]), [row["response_1"], row["response_2"]]),
        _pair(_stronger),
        consumed="prompt,response_1,response_2",
    ),
}
