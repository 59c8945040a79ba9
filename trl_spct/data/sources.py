# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Public judging data in their original schemas: one adapter per source, from a row to preference rows.

No adapter sets `reference`: where a source knows the right answer, it is kept in its own column, out of the prompt.

Data in a shape of [`Preference.from_row`] need no adapter, for instance Skywork-Reward-Preference-80K.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..judge.preferences import InvalidPreference
from ..judge.sampling import derive_seed


Row = Mapping[str, Any]


class LeftOut(InvalidPreference):
    """A valid row that the rule of its source leaves out, for instance a tie between the annotators.

    These rows are counted and skipped for any value of `invalid_rows`, since no repair is possible.
    """


@dataclass(frozen=True)
class Source:
    """A public dataset in its original schema.

    Args:
        description (`str`): Content and reading rule, in one line.
        license (`str`): SPDX identifier.
        signature (`frozenset` of `str`): Columns that the source is recognized by; all must be present.
        consumed (`frozenset` of `str`): Columns that become `query`, `responses` and `labels`. All others are kept.
        responses (`Callable`): From a row to its query and all of its responses, without a look at the labels.
        labeled (`Callable`): From a row, its query and its responses to preference rows with labels. Raises
            [`LeftOut`] where the source's rule makes none of the row.
    """

    description: str
    license: str
    signature: frozenset[str]
    consumed: frozenset[str]
    responses: Callable[[Row], tuple[Any, list[Any]]]
    labeled: Callable[[Row, Any, list[Any]], Iterable[dict[str, Any]]]

    def read(self, row: Row, read_labels: bool = True) -> list[dict[str, Any]]:
        """Preference rows of a row; with `read_labels=False` a single one, with all responses."""
        query, responses = self.responses(row)
        if not read_labels:
            return [{"query": query, "responses": responses}]
        return list(self.labeled(row, query, responses))


SOURCES: dict[str, Source] = {}


def detect_source(column_names: Collection[str]) -> str | None:
    """Name of the source whose signature these columns hold; `None` for no source, or more than one."""
    names = [name for name, source in SOURCES.items() if source.signature <= set(column_names)]
    return names[0] if len(names) == 1 else None


def get_source(name: str, column_names: Collection[str]) -> Source:
    """The source of that name.

    Raises:
        `ValueError`: if no source has that name, or if columns of its signature are missing.
    """
    if name not in SOURCES:
        raise ValueError(f"Found source {name!r}; expected one of {sorted(SOURCES)}.")
    missing = SOURCES[name].signature - set(column_names)
    if missing:
        raise ValueError(
            f"Source {name!r}: found the columns {sorted(column_names)}; expected {sorted(missing)} among them. Name "
            "another source, or rename the columns."
        )
    return SOURCES[name]


def one_best(query: str, responses: Sequence[Any], labels: Sequence[float]) -> dict[str, Any]:
    """A row with a single best response, in the given order, of responses that may share the highest label.

    Of the responses with the highest label one is kept, by a hash of the query, so that no place, model or style is
    favored; all responses with lower labels are kept.

    Raises:
        [`LeftOut`]: if all labels are equal.
    """
    highest = max(labels)
    best = [i for i, label in enumerate(labels) if label == highest]
    if len(best) == len(labels):
        raise LeftOut(f"All {len(labels)} responses have the label {highest}; expected one that is better.", "ties")
    chosen = best[derive_seed(0, query) % len(best)]
    kept = [i for i, label in enumerate(labels) if i == chosen or label < highest]
    return {"query": query, "responses": [responses[i] for i in kept], "labels": [labels[i] for i in kept]}


def source(
    name: str,
    description: str,
    license: str,
    signature: str,
    labeled: Callable[[Row, Any, list[Any]], Iterable[dict[str, Any]]],
    consumed: str | None = None,
):
    """Registers the decorated function as [`Source.responses`]; column lists are separated by commas."""

    def register(responses):
        columns = frozenset(signature.split(","))
        kept_apart = columns if consumed is None else frozenset(consumed.split(","))
        SOURCES[name] = Source(description, license, columns, kept_apart, responses, labeled)
        return responses

    return register


def _pair(better: Callable[[Row], Any]) -> Callable[[Row, Any, list[Any]], Iterable[dict[str, Any]]]:
    """The rule of pairs, from the number of the better response: 1 or 2."""

    def labeled(row: Row, query: Any, responses: list[Any]) -> Iterator[dict[str, Any]]:
        number = better(row)
        if number not in (1, 2):
            raise InvalidPreference(f"Found {number!r} as the better response; expected 1 or 2.", "labels")
        yield {"query": query, "responses": responses, "labels": [int(number == 1), int(number == 2)]}

    return labeled


_pair_by_label = _pair(lambda row: row["label"])


@source(
    "llmbar",
    "LLMBar: instruction following pairs; they are part of RewardBench Chat-Hard, so do not train and report on both",
    "MIT",
    "input,output_1,output_2,label",
    _pair_by_label,
)
def _llmbar(row: Row) -> tuple[Any, list[Any]]:
    return row["input"], [row["output_1"], row["output_2"]]


@source(
    "offsetbias",
    "OffsetBias: pairs against judge biases",
    "BSD-3-Clause",
    "instruction,output_1,output_2,label",
    _pair_by_label,
)
def _offsetbias(row: Row) -> tuple[Any, list[Any]]:
    return row["instruction"], [row["output_1"], row["output_2"]]


@source(
    "evalbiasbench",
    "EvalBiasBench: pairs for six judge biases",
    "BSD-3-Clause",
    "bias,instruction,response1,response2,label",
    _pair_by_label,
    consumed="instruction,response1,response2,label",
)
def _evalbiasbench(row: Row) -> tuple[Any, list[Any]]:
    return row["instruction"], [row["response1"], row["response2"]]


def _majority(row: Row) -> int:
    votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
    for vote in (1, 2):
        if votes.count(vote) >= 2:
            return vote
    raise LeftOut(f"The annotators voted {votes}; expected a majority for 1 or 2.", "ties")


@source(
    "pandalm",
    "PandaLM test set: pairs by majority of three annotators (ties are left out)",
    "Apache-2.0",
    "instruction,input,response1,response2,annotator1,annotator2,annotator3",
    _pair(_majority),
)
def _pandalm(row: Row) -> tuple[Any, list[Any]]:
    return _joined(row["instruction"], row["input"]), [row["response1"], row["response2"]]


def _labeled_choices(row: Row, query: Any, responses: list[Any]) -> Iterator[dict[str, Any]]:
    yield {"query": query, "responses": responses, "labels": row["targets"]["labels"]}


@source(
    "hhh-alignment",
    "HHH alignment: helpful, honest and harmless pairs",
    "Apache-2.0",
    "input,targets",
    _labeled_choices,
)
def _hhh_alignment(row: Row) -> tuple[Any, list[Any]]:
    return row["input"], row["targets"]["choices"]


@source(
    "ukpconvarg1",
    "UKPConvArg1: which of two arguments convinces more; the debate is read from `_topic`, if present",
    "CC-BY-4.0",
    "a1,a2,label",
    _pair(lambda row: {"a1": 1, "a2": 2}.get(row["label"], row["label"])),
)
def _ukpconvarg1(row: Row) -> tuple[Any, list[Any]]:
    debate, _, side = (part.replace("-", " ").strip() for part in (row.get("_topic") or "").partition("_"))
    query = f'Write a convincing argument in the debate "{debate}" for the side "{side}".' if side else _ARGUE
    return query, [re.sub(r"\s*<br/>\s*", "\n", row[name]).strip() for name in ("a1", "a2")]


_ARGUE = "Write a convincing argument."
_GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def _one_correct(row: Row, query: Any, responses: list[Any]) -> Iterator[dict[str, Any]]:
    labels = [int(row[model]["is_correct"]) for model in _GSM8K_MODELS]
    _check_contrast(labels)
    yield one_best(query, responses, labels)


@source(
    "gsm8k",
    "GSM8K example solutions of four models: one correct (by a hash of the question) against all incorrect ones",
    "MIT",
    ",".join(("question", "ground_truth", *_GSM8K_MODELS)),
    _one_correct,
    consumed=",".join(("question", *_GSM8K_MODELS)),
)
def _gsm8k(row: Row) -> tuple[Any, list[Any]]:
    return row["question"], [row[model]["solution"] for model in _GSM8K_MODELS]


def _three_against_one(row: Row, query: Any, responses: list[Any]) -> Iterator[dict[str, Any]]:
    """Up to three incorrect solutions a row, in the order of the file, each row with the next correct one.

    A hash of the question chooses the first correct one; the solutions of a row keep the order of the file.
    """
    labels = [int(solution["correctness"]) for solution in row["responses"]]
    _check_contrast(labels)
    correct = [i for i, label in enumerate(labels) if label == 1]
    incorrect = [i for i, label in enumerate(labels) if label != 1]
    first = derive_seed(0, query)
    for number, start in enumerate(range(0, len(incorrect), 3)):
        kept = sorted([correct[(first + number) % len(correct)], *incorrect[start : start + 3]])
        yield {"query": query, "responses": [responses[i] for i in kept], "labels": [labels[i] for i in kept]}


@source(
    "genrm-cot",
    "GenRM-CoT: GSM8K solutions by the question; each incorrect one is used once, three against one correct one",
    "MIT",
    "question,target,responses",
    _three_against_one,
    consumed="question,responses",
)
def _genrm_cot(row: Row) -> tuple[Any, list[Any]]:
    return row["question"], [solution["model_output"] for solution in row["responses"]]


def _ranked(row: Row, query: Any, responses: list[Any]) -> Iterator[dict[str, Any]]:
    """One row per question, not six pairs: the pairs share a prompt and follow from the ranking.

    Labels are wins minus losses. Of the answers that share the highest label one is kept ([`one_best`]).
    """
    wins = _pair_wins(row["preference"])
    labels = [sum(wins[i][j] for j in range(4)) for i in range(4)]
    ranked = one_best(query, range(4), labels)
    kept = ranked["responses"]
    best = max(kept, key=labels.__getitem__)
    if any(wins[best][other] != 1 for other in kept if other != best):
        raise LeftOut(f"The preferences {row['preference']} single out no best answer.", "ties")
    yield {**ranked, "responses": [responses[i] for i in kept]}


@source(
    "finegrained-rlhf",
    "QA-Feedback: four answers from passages, ranked by six human pair preferences",
    "Apache-2.0",
    "question,passages,prediction 1,prediction 2,prediction 3,prediction 4,preference",
    _ranked,
)
def _finegrained_rlhf(row: Row) -> tuple[Any, list[Any]]:
    passages = "\n\n".join(" ".join(passage) for passage in row["passages"])
    query = _joined(row["question"], f"Answer from these passages:\n\n{passages}")
    return query, [row[f"prediction {i}"] for i in range(1, 5)]


def _pair_wins(preference: Sequence[int]) -> list[list[int]]:
    """`wins[i][j]` is 1 if answer i was preferred to j, -1 if j to i; pairs come as 12, 13, 14, 23, 24, 34."""
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    if len(preference) != len(pairs) or not set(preference) <= {0, 1, 2}:
        raise InvalidPreference(f"Found the preferences {preference}; expected six of 0, 1 and 2.", "labels")
    wins = [[0] * 4 for _ in range(4)]
    for (i, j), better in zip(pairs, preference, strict=True):
        wins[i][j] = {0: 0, 1: 1, 2: -1}[better]
        wins[j][i] = -wins[i][j]
    return wins


_TASKS = {
    "dyck_languages": "Complete the sequence so that all brackets are closed properly. Write only what is missing.",
    "multistep_arithmetic": "Compute the value of the expression.",
    "word_sorting": "Sort the words alphabetically.",
}


def _clean(row: Row, query: Any, responses: list[Any]) -> Iterator[dict[str, Any]]:
    yield {"query": query, "responses": responses, "labels": [int(row["mistake_index"] is None)]}


@source(
    "bigbench-mistake",
    "BIG-Bench Mistake: single reasoning traces, correct if no step is marked as a mistake",
    "Apache-2.0",
    "input,steps,target,answer,mistake_index",
    _clean,
    consumed="input,steps",
)
def _bigbench_mistake(row: Row) -> tuple[Any, list[Any]]:
    # The inputs of some tasks do not state the task; upstream, the file name does.
    return _joined(_TASKS.get(row.get("_task") or "", ""), row["input"]), ["\n".join(row["steps"])]


def _faithful(row: Row, query: Any, responses: list[Any]) -> Iterator[dict[str, Any]]:
    marked = str(row["hallucination"]).strip().lower()
    if marked not in ("yes", "no"):
        raise InvalidPreference(f"Found the hallucination {row['hallucination']!r}; expected yes or no.", "labels")
    yield {"query": query, "responses": responses, "labels": [int(marked == "no")]}


@source(
    "halueval",
    "HaluEval general: single answers, correct if no hallucination is marked",
    "MIT",
    "user_query,chatgpt_response,hallucination",
    _faithful,
)
def _halueval(row: Row) -> tuple[Any, list[Any]]:
    return row["user_query"], [row["chatgpt_response"]]


def _scored(row: Row, query: Any, responses: list[Any]) -> Iterator[dict[str, Any]]:
    """Completions without a score or a text cannot be ranked and are left out; at least two must remain.

    The first revision gave 10 to many completions that deserve 1. A row that shows this, by a mean rating of at most
    2, is refused, and with it the revision: others, of middling ratings, do not show it and were scored anew.
    """
    scored = [(completion, _score(completion)) for completion in row["completions"] or ()]
    ranked = [(completion, score) for completion, score in scored if score is not None and _written(completion)]
    if len(ranked) < 2:
        raise LeftOut(f"Found {len(ranked)} completions with a score and a text; expected at least two.", "responses")
    for completion, score in ranked:
        rating = _mean_rating(completion)
        if score == 10 and rating is not None and rating <= 2:
            raise InvalidPreference(
                f"Found the score 10 for a completion with a mean rating of {rating:g}, which is 1 in the corrected "
                "data; expected revision 40b4365 or later. Load it again, without an old `revision` or copy.",
                "revision",
            )
    yield one_best(query, [completion["response"] for completion, _ in ranked], [score for _, score in ranked])


@source(
    "ultrafeedback",
    "UltraFeedback: up to four completions by `overall_score` (revision 40b4365, December 2023, or later)",
    "MIT",
    "instruction,completions",
    _scored,
)
def _ultrafeedback(row: Row) -> tuple[Any, list[Any]]:
    return row["instruction"], [completion["response"] for completion in row["completions"] or ()]


def _score(completion: Row) -> float | None:
    """The score of a completion; `None` for `None`, an empty text, "N/A" and NaN."""
    score = completion["overall_score"]
    if score is None or score in ("", "N/A"):
        return None
    try:
        number = float(score)
    except ValueError:
        raise InvalidPreference(f"Found the score {score!r}; expected a number from 1 to 10.", "labels") from None
    return None if number != number else number


def _written(completion: Row) -> bool:
    return not isinstance(completion["response"], str) or bool(completion["response"].strip())


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


@source(
    "helpsteer2-preference",
    "HelpSteer2-Preference: pairs with a strength from -3 (the first is better) to 3; ties and rows whose `split` is "
    "`val` are left out (drop that column to read them)",
    "CC-BY-4.0",
    "prompt,response_1,response_2,preference_strength",
    _pair(_stronger),
    consumed="prompt,response_1,response_2",
)
def _helpsteer2_preference(row: Row) -> tuple[Any, list[Any]]:
    return _extra_id_turns(row["prompt"]), [row["response_1"], row["response_2"]]


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


def _joined(*parts: str | None) -> str:
    return "\n\n".join(part for part in parts if part)


def _check_contrast(labels: Sequence[int]) -> None:
    if not any(labels):
        raise LeftOut("No response is correct; expected one.", "none_correct")
    if all(labels):
        raise LeftOut("All responses are correct; expected an incorrect one.", "all_correct")
