# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Trajectories from recorded critiques, against outcomes and texts by hand."""

import json
import re

import pytest
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import TESTS
from test_rejective_sampler import BLOCK, preference_rows, trainer_of, weights
from tiny_models import TURN_END, save_tiny, tiny_tokenizer

from trl_spct import GRMRewardPipeline, Preference
from trl_spct.data.meta_rows import meta_rows
from trl_spct.evaluation.judgments import CRITIQUE_FEATURES
from trl_spct.judge.preferences import InvalidPreference
from trl_spct.judge.prompts import judge_messages
from trl_spct.judge.sampling import Sample
from trl_spct.trainers.recorded import recorded_trajectories
from trl_spct.trainers.rejection_report import rejection_report


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("judge"))


def row(*critiques, n=2, best=0, query="Name a prime."):
    return {
        "query": query,
        "responses": [f"answer {i}" for i in range(n)],
        "labels": [float(i == best) for i in range(n)],
        "critiques": list(critiques),
    }


def trajectories_of(*rows, template="compact", **options):
    dataset = rows[0] if isinstance(rows[0], Dataset) else Dataset.from_list(list(rows))
    return recorded_trajectories(dataset, tiny_tokenizer(), template, **options)


def text_of(trajectory):
    return trajectory["completion"][0]["content"]


def test_outcomes_texts_and_scores_by_hand():
    trajectories = trajectories_of(
        row(
            {"text": r"One is short. Scores: \boxed{9, 2}"},
            {"text": r"The first is long. \boxed{9, 2}", "order": [1, 0]},
            {"text": r"Equal. \boxed{5, 5}"},
            {"text": "No box."},
            {"text": r"Out of range: \boxed{11, 2}"},
            {"reason": "One is right.", "verdict": "0"},
            {"reason": "Response 2 is right.", "verdict": "0", "order": [1, 0]},
            {"reason": "Two is right.", "verdict": "1"},
            {"reason": "Neither.", "verdict": "Tie"},
        )
    )
    found = [(t["sample"], t["outcome"], t["scores"], t["problem"], t["order"]) for t in trajectories]
    assert found == [
        (0, "kept", [9, 2], None, [0, 1]),
        (1, "incorrect", [2, 9], None, [1, 0]),
        (2, "incorrect", [5, 5], None, [0, 1]),
        (3, "unreadable", None, "missing", [0, 1]),
        (4, "unreadable", None, "range", [0, 1]),
        (5, "kept", [8, 4], None, [0, 1]),
        (6, "kept", [8, 4], None, [1, 0]),
        (7, "incorrect", [4, 8], None, [0, 1]),
        (8, "incorrect", [6, 6], None, [0, 1]),
    ]
    texts = [text_of(t) for t in trajectories]
    assert texts[1] == r"The first is long. \boxed{9, 2}", "as it was written"
    assert texts[5] == "One is right.\n\nScores: \\boxed{8, 4}"
    assert texts[6] == "Response 2 is right.\n\nScores: \\boxed{4, 8}", "in the order that was read"
    assert texts[8] == "Neither.\n\nScores: \\boxed{6, 6}"
    for t in trajectories:
        shown = BLOCK.findall(t["prompt"][-1]["content"])
        assert shown == [f"answer {i}" for i in t["order"]] and t["responses"] == ["answer 0", "answer 1"]
        assert t["num_tokens"] == len(text_of(t).encode()) and (t["row"], t["hinted"], t["closed"]) == (
            0,
            False,
            False,
        )
    report = rejection_report(trajectories)
    assert (report["ties"], report["places"]) == (2, {"place 1": 2, "place 2": 1})
    assert report["problems"] == {"missing": 1, "range": 1}
    assert report["accuracy"] == pytest.approx(3 / 9)


@pytest.mark.parametrize(
    ("verdict", "best", "template", "line"),
    [
        (2, 2, "paper", r"Scores: \boxed{4, 4, 8}"),
        ([3.0, 10.0, 1.0], 1, "paper", r"Scores: \boxed{3, 10, 1}"),
        (
            0,
            0,
            "---\nscore_range: [0, 100]\nscore_form: <s{i}>{score}</s{i}>\n---\n"
            "{conversation}{responses}Grades: <s1>.",
            "Grades: <s1>78</s1>\n<s2>33</s2>\n<s3>33</s3>",
        ),
        (
            "tie",
            0,
            "---\nscore_range: [1, 5]\nlabels: ['A', 'B', 'C']\n---\n".replace("'", '"')
            + r"{conversation}{responses}Verdict: \boxed{x}",
            r"Verdict: \boxed{3, 3, 3}",
        ),
    ],
    ids=["index", "scores", "tags", "tie"],
)
def test_a_verdict_becomes_the_templates_own_score_line(verdict, best, template, line):
    (trajectory,) = trajectories_of(row({"reason": "Why.", "verdict": verdict}, n=3, best=best), template=template)
    assert text_of(trajectory) == f"Why.\n\n{line}"
    assert trajectory["outcome"] == ("incorrect" if verdict == "tie" else "kept")


def test_a_single_response_is_right_or_wrong():
    rows = [
        row({"reason": "It is.", "verdict": [1]}, {"text": r"Scores: \boxed{0}"}, n=1),
        row({"reason": "It is not.", "verdict": [0]}, n=1, best=1),
    ]
    found = [(t["row"], t["outcome"], t["scores"]) for t in trajectories_of(*rows)]
    assert found == [(0, "kept", [1]), (0, "incorrect", [0]), (1, "kept", [0])]
    for verdict in (0, 1):
        with pytest.raises(InvalidPreference, match=f"the verdict {verdict}; expected its score in a list"):
            trajectories_of(row({"reason": "It is.", "verdict": verdict}, n=1))


def test_rows_are_too_easy_if_several_critiques_are_all_correct():
    right, wrong = {"reason": "r", "verdict": 0}, {"reason": "w", "verdict": 1}
    rows = [row(right, right), row(right), row(right, wrong), row(wrong)]
    found = [(t["row"], t["outcome"]) for t in trajectories_of(*rows)]
    assert found == [
        *[(0, "too_easy"), (0, "too_easy"), (1, "kept"), (2, "kept"), (2, "incorrect"), (3, "incorrect")],
    ]
    kept = [t["outcome"] for t in trajectories_of(*rows, reject_too_easy=False)]
    assert kept == ["kept", "kept", "kept", "kept", "incorrect", "incorrect"]


@st.composite
def recorded_rows(draw):
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(2, 5))
        critiques = [
            {
                "reason": draw(st.sampled_from(["Why.", r"An early \boxed{1, 2} counts for nothing.", "a\n\nb "])),
                "verdict": draw(st.integers(0, n - 1)),
                "order": draw(st.permutations(range(n))),
            }
            for _ in range(draw(st.integers(0, 3)))
        ]
        rows.append(row(*critiques, n=n, best=draw(st.integers(0, n - 1))))
    if not any(r["critiques"] for r in rows):
        rows.append(row({"reason": "Why.", "verdict": 0, "order": [0, 1]}))
    return rows


@given(recorded_rows())
@settings(max_examples=25, deadline=None)
def test_any_order_and_verdict(rows):
    trajectories = trajectories_of(*rows)
    asked = [(i, j, r, c) for i, r in enumerate(rows) for j, c in enumerate(r["critiques"])]
    assert len(trajectories) == len(asked)
    for t, (i, j, r, c) in zip(trajectories, asked, strict=True):
        n, best = len(r["responses"]), r["labels"].index(1.0)
        rights = [critique["verdict"] == best for critique in r["critiques"]]
        expected = "incorrect" if not rights[j] else "too_easy" if all(rights) and len(rights) > 1 else "kept"
        assert (t["row"], t["sample"], t["outcome"]) == (i, j, expected)
        assert BLOCK.findall(t["prompt"][-1]["content"]) == [r["responses"][k] for k in c["order"]]
        assert text_of(t).startswith(c["reason"] + "\n\nScores: ")
        written = [int(score) for score in re.findall(r"\\boxed\{(.*?)\}", text_of(t))[-1].split(",")]
        assert written == [8 if k == c["verdict"] else 4 for k in c["order"]]
        assert t["scores"] == [8 if k == c["verdict"] else 4 for k in range(n)]
    # The whole texts, with orders and scores as judgments store them, are the same trajectories.
    whole = [
        {**r, "critiques": [{"text": text_of(t), "order": t["order"], "scores": t["scores"]} for t in of_row]}
        for i, r in enumerate(rows)
        for of_row in [[t for t in trajectories if t["row"] == i]]
    ]
    assert trajectories_of(*whole).to_list() == trajectories.to_list()


BAD = {
    "index": ({"reason": "r", "verdict": 2}, "the verdict 2; expected an index from 0 to 1, 'tie', or 2 scores"),
    "number": ({"reason": "r", "verdict": -1}, "the verdict -1"),
    "word": ({"reason": "r", "verdict": "first"}, "the verdict 'first'"),
    "bool": ({"reason": "r", "verdict": True}, "the verdict True"),
    "scores": ({"reason": "r", "verdict": [8, 3, 1]}, r"the verdict \[8, 3, 1\]"),
    "order": ({"text": r"\boxed{8, 3}", "order": [1, 1]}, r"the order \[1, 1\]; expected each index from 0 to 1 once"),
    "places": ({"text": r"\boxed{8, 3}", "order": [1, 2]}, r"the order \[1, 2\]"),
    "short": ({"text": r"\boxed{8, 3}", "order": [0]}, r"the order \[0\]"),
    "empty": ({"text": " \n"}, "the critique ' .n'; expected a text that is not empty"),
    "no reason": ({"reason": "", "verdict": 0}, "the critique ''"),
    "stored": (
        {"text": r"\boxed{8, 3}", "order": [1, 0], "scores": [8.0, 3.0]},
        r"the scores \[8.0, 3.0\]; expected \[3, 8\], those of the text in the order of the row",
    ),
    "no verdict": ({"reason": "r"}, "expected a mapping with `text`, or with `reason` and `verdict`"),
    "both": ({"text": "t", "verdict": 0}, "expected a mapping"),
    "nothing": ({"critique": "t"}, "expected a mapping"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_critiques_are_refused_with_their_row_or_counted(name, caplog):
    bad, message = BAD[name]
    good = {"text": r"\boxed{8, 3}"}
    rows = Dataset.from_list([row(good), row(), row(good)])
    critiques = [[good], [], [good, bad]]
    rows = rows.remove_columns("critiques").add_column("critiques", critiques)
    with pytest.raises(InvalidPreference, match=rf"train_dataset row 2, critique 1: Found .*{message}.*'drop'"):
        trajectories_of(rows)
    trajectories = trajectories_of(rows, invalid_rows="drop")
    assert [(t["row"], t["sample"]) for t in trajectories] == [(0, 0), (2, 0)]
    assert re.search(r"dropped 1 (verdict|order|empty|scores|shape); 1 rows are without any\.", caplog.text)


def test_no_model_is_loaded_for_bad_critiques(judge, tmp_path):
    save_tiny(tmp_path / "hollow")
    (tmp_path / "hollow" / "model.safetensors").unlink()
    rows = Dataset.from_list([row({"reason": "r", "verdict": 7})])
    with pytest.raises(ValueError, match="train_dataset row 0, critique 0: Found the verdict 7"):
        trainer_of(tmp_path, str(tmp_path / "hollow"), rows=rows)


def test_what_cannot_be_used_at_all_is_refused():
    with pytest.raises(ValueError, match="expected `critiques`"):
        trajectories_of(Dataset.from_list([row()]).remove_columns("critiques"))
    with pytest.raises(ValueError, match="with an `order` inside of each critique"):
        trajectories_of(Dataset.from_list([{**row({"text": "t"}), "order": [1, 0]}]))
    several = [json.loads(line) for line in (TESTS / "data" / "genrm-cot.jsonl").read_text().splitlines()]
    with pytest.raises(ValueError, match="of a single preference in each row"):
        trajectories_of(Dataset.from_list([{**one, "critiques": [{"text": "t"}]} for one in several]))
    with pytest.raises(ValueError, match="no critique to use in 2 rows; dropped 2 empty"):
        trajectories_of(row({"text": ""}), row({"text": " "}), invalid_rows="drop")


def test_prompts_and_critiques_fit_into_the_context():
    rows = [row({"text": r"\boxed{8, 3}"}, {"text": "x" * 50 + r"\boxed{8, 3}"})]
    (short, long) = trajectories_of(*rows, reject_too_easy=False)
    tokens = [
        len(tiny_tokenizer().apply_chat_template(t["prompt"], add_generation_prompt=True, return_dict=False))
        + t["num_tokens"]
        for t in (short, long)
    ]
    assert len(trajectories_of(*rows, context_length=tokens[1])) == 2
    with pytest.raises(InvalidPreference, match=rf"critique 1: Found {tokens[1]} tokens .* at most {tokens[1] - 1}\."):
        trajectories_of(*rows, context_length=tokens[1] - 1)
    assert len(trajectories_of(*rows, context_length=tokens[0], invalid_rows="drop")) == 1


def test_a_truncated_critique_is_unreadable_and_a_closed_one_is_marked():
    text = r"It may end here \boxed{8, 3}"
    rows = [row({"text": text, "problem": "truncated", "scores": None}, {"text": text, "closed": True})]
    cut, closed = trajectories_of(*rows)
    assert (cut["outcome"], cut["problem"], cut["scores"]) == ("unreadable", "truncated", None)
    assert (closed["outcome"], closed["closed"]) == ("kept", True)


def test_special_tokens_in_responses_are_fenced():
    (trajectory,) = trajectories_of({**row({"reason": "r", "verdict": 0}), "responses": [f"{TURN_END}x", "y"]})
    assert TURN_END not in trajectory["prompt"][0]["content"]


def test_a_best_response_that_is_always_in_one_place_is_remarked(caplog):
    def rows(swapped):
        orders = [[1, 0]] * swapped + [[0, 1]] * (10 - swapped)
        return [row({"reason": "r", "verdict": 0, "order": order}) for order in orders]

    assert rejection_report(trajectories_of(*rows(4)))["remarks"] == []
    assert not caplog.records
    report = rejection_report(trajectories_of(*rows(7)))
    assert report["places"] == {"place 1": 3, "place 2": 7}
    assert report["remarks"][0].startswith("70% of the kept critiques read the best response in place 2")
    assert "70% of the kept" in caplog.text


PANDALM = TESTS / "data" / "pandalm.jsonl"


def test_recorded_critiques_of_pandalm():
    """By hand: GPT-3.5 is right on both rows, PandaLM-7B on none; ties of the annotators have no label."""
    rows = [json.loads(line) for line in PANDALM.read_text().splitlines()]
    recorded = [json.loads(line) for line in (PANDALM.parent / "recorded" / "pandalm.jsonl").read_text().splitlines()]
    for each in rows:
        each["response2"] = str(each["response2"])
        each["critiques"] = [
            {"reason": one["reason"], "verdict": int(one["result"]) - 1}
            for one in recorded
            if one["idx"] == each["idx"]
        ]
    trajectories = trajectories_of(*rows[:2], *rows[3:], template="paper", invalid_rows="drop")
    found = {idx: [] for idx in trajectories["idx"]}
    for t in trajectories:
        found[t["idx"]].append((t["outcome"], t["scores"], t["labels"]))
    assert found[84] == [("kept", [8, 4], [1, 0]), ("incorrect", [4, 8], [1, 0])]
    assert found[586] == [("kept", [4, 8], [0, 1]), ("incorrect", [8, 4], [0, 1])]
    assert not {142, 625} & found.keys()
    # The number is the user's, although the source left rows out before.
    rows[3]["critiques"][0]["verdict"] = 5
    with pytest.raises(InvalidPreference, match="train_dataset row 2, critique 0: Found the verdict 5"):
        trajectories_of(rows[0], rows[2], rows[3])


# --- with the rest of the package ---


def strong_judge(prompts, k, seed, **options):
    """An engine that always prefers GOOD."""
    counts = [k] * len(prompts) if isinstance(k, int) else k
    samples = []
    for prompt, count in zip(prompts, counts, strict=True):
        scores = [9 if text == "GOOD" else 3 for text in BLOCK.findall(prompt[-1]["content"])]
        text = f"Specific Criteria: truth. \\boxed{{{', '.join(map(str, scores))}}}"
        samples.append([Sample(text, len(text), False)] * count)
    return samples


def test_judgments_of_a_stronger_judge_feed_fine_tuning():
    rows = preference_rows()
    pipe = GRMRewardPipeline(strong_judge, max_new_tokens=64)
    judged = pipe(rows.remove_columns("labels").to_list(), k=3, seed=0, template="compact")
    critiques = [judgment["critiques"] for judgment in judged]
    stored = Dataset.from_dict({"critiques": critiques}, Features({"critiques": List(CRITIQUE_FEATURES)}))
    trajectories = trajectories_of(concatenate_datasets([rows, stored], axis=1), reject_too_easy=False)
    assert set(trajectories["outcome"]) == {"kept"} and trajectories["scores"][:] == [[9, 3, 3]] * 12
    assert trajectories["order"][:] == [critique["order"] for of_row in critiques for critique in of_row]
    assert len({tuple(order) for order in trajectories["order"]}) > 1
    assert set(trajectories_of(rows.add_column("critiques", critiques))["outcome"]) == {"too_easy"}


def test_they_are_as_collected_ones(judge, tmp_path):
    rows = preference_rows().add_column("topic", ["a", "b", "c", "d"])
    collected = trainer_of(tmp_path, judge, rows=rows).collect()
    recorded = trajectories_of(rows.add_column("critiques", [[{"text": r"\boxed{9, 2, 1}"}, {"text": "no"}]] * 4))
    assert recorded.features == collected.features and recorded.column_names == collected.column_names
    assert len(concatenate_datasets([collected, recorded])) == 16 + 8
    assert [one["label"] for one in meta_rows(recorded)] == [1] * 4
    assert recorded[0]["prompt"] == judge_messages(Preference.from_row(rows[0]), "compact")


def test_training_on_recorded_critiques(judge, tmp_path, caplog):
    critiques = [
        [{"reason": "GOOD is right.", "verdict": 0, "order": [1, 0, 2]}, {"reason": "bad is right.", "verdict": 1}],
        [{"reason": "The first.", "verdict": 0}],
        [],
        [{"reason": "The third.", "verdict": 2}],
    ]
    rows = preference_rows().add_column("critiques", critiques)
    held = trajectories_of(rows.select([1]))
    trainer = trainer_of(tmp_path, judge, rows=rows, eval_dataset=held)
    with pytest.raises(ValueError, match="recorded critiques as `train_dataset`"):
        trainer.collect()
    before = weights(trainer.model)
    with caplog.at_level("INFO"):
        trainer.train()
    assert trainer.sampler.calls == [], "nothing is sampled"
    assert "Fine-tuned on 2 trajectories, 0 hinted, 0 general of 4 trajectories of 3 rows" in caplog.text
    assert "ties: 0; place of the best response where kept: 1 place 1, 1 place 2" in caplog.text
    assert "Recorded critiques: dropped none; 1 rows are without any." in caplog.text
    for name, parameter in trainer.model.named_parameters():
        assert not torch.equal(before[name], parameter), f"Parameter {name} has not changed."
    tokenizer = tiny_tokenizer()
    learned = [
        tokenizer.decode(
            [token for token, label in zip(one["input_ids"], one["labels"], strict=True) if label != -100]
        )
        for one in trainer.train_dataset
    ]
    expected = ["GOOD is right.\n\nScores: \\boxed{4, 8, 4}", "The first.\n\nScores: \\boxed{8, 4, 4}"]
    assert [text.removesuffix(f"{TURN_END}\n").removesuffix("<eos>") for text in learned] == expected
    assert BLOCK.findall(tokenizer.decode(trainer.train_dataset[0]["input_ids"])) == ["bad", "GOOD", "worse"]
    assert trainer.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize("kind", [Value("string"), List(Value("float64"))], ids=["strings", "scores"])
def test_verdicts_of_a_file_have_one_type(kind):
    verdict = {"string": ["0", "tie"]}.get(getattr(kind, "dtype", None), [[8.0, 3.0], [5.0, 5.0]])
    features = Features(
        {
            "query": Value("string"),
            "responses": List(Value("string")),
            "labels": List(Value("int64")),
            "critiques": List({"reason": Value("string"), "verdict": kind, "text": Value("string")}),
        }
    )
    rows = [row(*({"reason": "r", "verdict": v, "text": None} for v in verdict))]
    trajectories = trajectories_of(Dataset.from_list(rows, features))
    assert trajectories["outcome"][:] == ["kept", "incorrect"]
