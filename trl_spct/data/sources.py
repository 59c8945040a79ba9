# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Public judging data in their original schemas: one small function per source, from a row to preference rows.

No adapter sets `reference`: where a source knows the right answer, it stays in a column of its own, out of the prompt.

Data in one of our own shapes need no adapter: Skywork-Reward-Preference-80K (whole conversations as `chosen` and
`rejected`, with a `source`) is read as any preference data of TRL.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..judge.preferences import InvalidPreference
from ..judge.sampling import derive_seed


Row = Mapping[str, Any]


class LeftOut(InvalidPreference):
    """A sound row that its source's own rule leaves out, for instance a tie between the annotators.

    Such rows are counted and skipped whatever `invalid_rows` says, since nobody could repair them.
    """


@dataclass(frozen=True)
class Source:
    """A public data set in its original schema.

    Args:
        description (`str`): What it holds and how it is read, in one line.
        license (`str`): Its licence, as an SPDX identifier.
        signature (`frozenset` of `str`): Columns that it is recognized by; all of them must be there.
        consumed (`frozenset` of `str`): Columns that the adapter turns into ours. All others are kept.
        read (`Callable`): From a row to its preference rows, with `query`, `responses` and `labels`. Raises
            [`LeftOut`] where the source's rule makes none of it.
    """

    description: str
    license: str
    signature: frozenset[str]
    consumed: frozenset[str]
    read: Callable[[Row], Iterator[dict[str, Any]]]


SOURCES: dict[str, Source] = {}


def detect_source(column_names: Collection[str]) -> str | None:
    """The name of the only source whose signature these columns hold; `None` if there is none, or more than one."""
    found = [name for name, source in SOURCES.items() if source.signature <= set(column_names)]
    return found[0] if len(found) == 1 else None


def get_source(name: str, column_names: Collection[str]) -> Source:
    """The source of that name.

    Raises:
        `ValueError`: if there is none of that name, or if these are not its columns.
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

    Of the responses with the highest label one is kept, the others with it go, and all lower ones stay. A hash of the
    query decides which one, so that no place, model or style is favored.

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


def source(name: str, description: str, license: str, signature: str, consumed: str | None = None):
    """Registers the decorated function as adapter; column lists are separated by commas."""

    def register(read):
        columns = frozenset(signature.split(","))
        SOURCES[name] = Source(
            description, license, columns, columns if consumed is None else frozenset(consumed.split(",")), read
        )
        return read

    return register


@source(
    "llmbar",
    "LLMBar: instruction following pairs; they are part of RewardBench Chat-Hard, so do not train and report on both",
    "MIT",
    "input,output_1,output_2,label",
)
def _llmbar(row: Row) -> Iterator[dict[str, Any]]:
    yield _pair(row["input"], row["output_1"], row["output_2"], row["label"])


@source(
    "offsetbias",
    "OffsetBias: pairs against judge biases",
    "BSD-3-Clause",
    "instruction,output_1,output_2,label",
)
def _offsetbias(row: Row) -> Iterator[dict[str, Any]]:
    yield _pair(row["instruction"], row["output_1"], row["output_2"], row["label"])


@source(
    "evalbiasbench",
    "EvalBiasBench: pairs for six judge biases",
    "BSD-3-Clause",
    "bias,instruction,response1,response2,label",
    consumed="instruction,response1,response2,label",
)
def _evalbiasbench(row: Row) -> Iterator[dict[str, Any]]:
    yield _pair(row["instruction"], row["response1"], row["response2"], row["label"])


@source(
    "pandalm",
    "PandaLM test set: pairs by majority of three annotators (ties are left out)",
    "Apache-2.0",
    "instruction,input,response1,response2,annotator1,annotator2,annotator3",
)
def _pandalm(row: Row) -> Iterator[dict[str, Any]]:
    votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
    better = next((vote for vote in (1, 2) if votes.count(vote) >= 2), None)
    if better is None:
        raise LeftOut(f"The annotators voted {votes}; expected a majority for 1 or 2.", "ties")
    yield _pair(_joined(row["instruction"], row["input"]), row["response1"], row["response2"], better)


@source(
    "hhh-alignment",
    "HHH alignment: helpful, honest and harmless pairs",
    "Apache-2.0",
    "input,targets",
)
def _hhh_alignment(row: Row) -> Iterator[dict[str, Any]]:
    targets = row["targets"]
    yield {"query": row["input"], "responses": targets["choices"], "labels": targets["labels"]}


@source(
    "ukpconvarg1",
    "UKPConvArg1: which of two arguments convinces more; the debate is read from `_topic`, if it is there",
    "CC-BY-4.0",
    "a1,a2,label",
)
def _ukpconvarg1(row: Row) -> Iterator[dict[str, Any]]:
    debate, _, side = (part.replace("-", " ").strip() for part in (row.get("_topic") or "").partition("_"))
    query = f'Write a convincing argument in the debate "{debate}" for the side "{side}".' if side else _ARGUE
    first, second = (re.sub(r"\s*<br/>\s*", "\n", row[name]).strip() for name in ("a1", "a2"))
    yield _pair(query, first, second, {"a1": 1, "a2": 2}.get(row["label"], row["label"]))


_ARGUE = "Write a convincing argument."
_GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@source(
    "gsm8k",
    "GSM8K example solutions of four models: one correct (by a hash of the question) against all incorrect ones",
    "MIT",
    ",".join(("question", "ground_truth", *_GSM8K_MODELS)),
    consumed=",".join(("question", *_GSM8K_MODELS)),
)
def _gsm8k(row: Row) -> Iterator[dict[str, Any]]:
    solutions = [row[model] for model in _GSM8K_MODELS]
    labels = [int(solution["is_correct"]) for solution in solutions]
    _check_contrast(labels)
    yield one_best(row["question"], [solution["solution"] for solution in solutions], labels)


@source(
    "genrm-cot",
    "GenRM-CoT: GSM8K solutions by the question; each incorrect one is used once, three against one correct one",
    "MIT",
    "question,target,responses",
    consumed="question,responses",
)
def _genrm_cot(row: Row) -> Iterator[dict[str, Any]]:
    """Up to three incorrect solutions a row, in the order of the file, each row with the next correct one.

    The first correct one is found by a hash of the question; the solutions of a row keep the order of the file.
    """
    labels = [int(solution["correctness"]) for solution in row["responses"]]
    _check_contrast(labels)
    correct = [i for i, label in enumerate(labels) if label == 1]
    incorrect = [i for i, label in enumerate(labels) if label != 1]
    first = derive_seed(0, row["question"])
    for number, start in enumerate(range(0, len(incorrect), 3)):
        kept = sorted([correct[(first + number) % len(correct)], *incorrect[start : start + 3]])
        yield {
            "query": row["question"],
            "responses": [row["responses"][i]["model_output"] for i in kept],
            "labels": [labels[i] for i in kept],
        }


@source(
    "finegrained-rlhf",
    "QA-Feedback: four answers from passages, ranked by six human pair preferences",
    "Apache-2.0",
    "question,passages,prediction 1,prediction 2,prediction 3,prediction 4,preference",
)
def _finegrained_rlhf(row: Row) -> Iterator[dict[str, Any]]:
    """One row per question, not six pairs: the pairs share a prompt and follow from the ranking.

    Labels are wins minus losses. Of answers that nobody could tell apart at the top one is kept ([`one_best`]).
    """
    wins = _pair_wins(row["preference"])
    labels = [sum(wins[i][j] for j in range(4)) for i in range(4)]
    answers = [row[f"prediction {i}"] for i in range(1, 5)]
    passages = "\n\n".join(" ".join(passage) for passage in row["passages"])
    made = one_best(_joined(row["question"], f"Answer from these passages:\n\n{passages}"), range(4), labels)
    kept = made["responses"]
    best = max(kept, key=labels.__getitem__)
    if any(wins[best][other] != 1 for other in kept if other != best):
        raise LeftOut(f"The preferences {row['preference']} single out no best answer.", "ties")
    yield {**made, "responses": [answers[i] for i in kept]}


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


@source(
    "bigbench-mistake",
    "BIG-Bench Mistake: single reasoning traces, correct if no step is marked as a mistake",
    "Apache-2.0",
    "input,steps,target,answer,mistake_index",
    consumed="input,steps",
)
def _bigbench_mistake(row: Row) -> Iterator[dict[str, Any]]:
    # The inputs of some tasks do not say what to do; upstream it is the file name that does.
    query = _joined(_TASKS.get(row.get("_task"), ""), row["input"])
    yield {"query": query, "responses": ["\n".join(row["steps"])], "labels": [int(row["mistake_index"] is None)]}


@source(
    "halueval",
    "HaluEval general: single answers, correct if no hallucination is marked",
    "MIT",
    "user_query,chatgpt_response,hallucination",
)
def _halueval(row: Row) -> Iterator[dict[str, Any]]:
    verdict = str(row["hallucination"]).strip().lower()
    if verdict not in ("yes", "no"):
        raise InvalidPreference(f"Found the hallucination {row['hallucination']!r}; expected yes or no.", "labels")
    yield {"query": row["user_query"], "responses": [row["chatgpt_response"]], "labels": [int(verdict == "no")]}


@source(
    "ultrafeedback",
    "UltraFeedback: up to four completions by `overall_score` (revision 40b4365, December 2023, or later)",
    "MIT",
    "instruction,completions",
)
def _ultrafeedback(row: Row) -> Iterator[dict[str, Any]]:
    """Completions that have no score, or no text, cannot be ranked and go; at least two must be left.

    The first revision gave 10 to many completions that deserve 1. Where such a one shows (by a mean rating of at most
    2), the row is refused, and with it the revision: others, of middling ratings, do not show and were scored anew.
    """
    scored = [(completion, _score(completion)) for completion in row["completions"] or ()]
    scored = [(completion, score) for completion, score in scored if score is not None and _written(completion)]
    if len(scored) < 2:
        raise LeftOut(f"Found {len(scored)} completions with a score and a text; expected at least two.", "responses")
    for completion, score in scored:
        rating = _mean_rating(completion)
        if score == 10 and rating is not None and rating <= 2:
            raise InvalidPreference(
                f"Found the score 10 for a completion with a mean rating of {rating:g}, which is 1 in the corrected "
                "data; expected revision 40b4365 or later. Load it again, without an old `revision` or copy.",
                "revision",
            )
    yield one_best(row["instruction"], [c["response"] for c, _ in scored], [score for _, score in scored])


def _score(completion: Row) -> float | None:
    """The score of a completion; `None` where it is missing, in whichever way."""
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
    """The mean of the four aspects, which the first revision does not spell out."""
    if completion.get("fine-grained_score") is not None:
        return float(completion["fine-grained_score"])
    aspects = (completion.get("annotations") or {}).values()
    ratings = [str(aspect.get("Rating")) for aspect in aspects if isinstance(aspect, Mapping)]
    ratings = [float(rating) for rating in ratings if rating.isdigit()]
    return sum(ratings) / len(ratings) if ratings else None


@source(
    "helpsteer2-preference",
    "HelpSteer2-Preference: pairs with a strength from -3 (the first is better) to 3; ties and rows whose `split` is "
    "`val` are left out (drop that column to read them)",
    "CC-BY-4.0",
    "prompt,response_1,response_2,preference_strength",
    consumed="prompt,response_1,response_2",
)
def _helpsteer2_preference(row: Row) -> Iterator[dict[str, Any]]:
    """One file holds both splits: its training rows are what a judge may learn from."""
    if row.get("split") in ("val", "validation"):
        raise LeftOut(f"Found a row of the split {row['split']!r}; expected one to train on.", "held_out")
    strength = row["preference_strength"]
    if isinstance(strength, bool) or not isinstance(strength, Real) or not -3 <= strength <= 3:
        raise InvalidPreference(f"Found the preference strength {strength!r}; expected one from -3 to 3.", "labels")
    if strength == 0:
        raise LeftOut("The preference strength is 0; expected a better response.", "ties")
    yield _pair(_extra_id_turns(row["prompt"]), row["response_1"], row["response_2"], 1 if strength < 0 else 2)


def _extra_id_turns(prompt: str) -> str | list[dict[str, str]]:
    """A prompt whose later turns begin with `<extra_id_1>Role` as messages, of which the user has the last one."""
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


def _pair(query: Any, first: Any, second: Any, better: Any) -> dict[str, Any]:
    if better not in (1, 2):
        raise InvalidPreference(f"Found {better!r} as the better response; expected 1 or 2.", "labels")
    return {"query": query, "responses": [first, second], "labels": [int(better == 1), int(better == 2)]}


def _joined(*parts: str | None) -> str:
    return "\n\n".join(part for part in parts if part)


def _check_contrast(labels: Sequence[int]) -> None:
    if not any(labels):
        raise LeftOut("No response is correct; expected one.", "none_correct")
    if all(labels):
        raise LeftOut("All responses are correct; expected an incorrect one.", "all_correct")
