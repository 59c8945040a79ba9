# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import pytest
from datasets import Dataset
from tiny_models import save_tiny, tiny_tokenizer
from transformers import pipeline

from trl_spct import SPCTConfig, SPCTTrainer
from trl_spct.data.preparation import prepare_judge_rows
from trl_spct.judge.sampling import Sample
from trl_spct.trainers import filtering as signal
from trl_spct.trainers.filtering import without_too_easy


def prepared(labels=((0.0, 1.0), (1.0, 0.0), (0.0, 1.0), (1.0,))):
    rows = [
        {"query": f"q{i}", "responses": [f"{i}{j}" for j in range(len(row))], "labels": list(row)}
        for i, row in enumerate(labels)
    ]
    return prepare_judge_rows(
        Dataset.from_list(rows), tiny_tokenizer(), template="compact", shuffle_responses=False
    ).dataset


def drawing(texts):
    def sampler(prompts, k, seed):
        assert len(prompts) == len(texts)
        return [[Sample(text, 5, "…" in text) for text in row] for row in texts]

    return sampler


RIGHT, WRONG, CUT = "\\boxed{2, 9}", "\\boxed{9, 2}", "\\boxed{2, 9} …"
TEXTS = [[RIGHT, RIGHT], [RIGHT, RIGHT], [RIGHT, CUT], ["\\boxed{1}", "\\boxed{1}"]]


def test_rows_that_are_right_every_time_are_removed():
    kept = without_too_easy(prepared(), drawing(TEXTS), k=2, template="compact")
    assert kept["query"] == ["q1", "q2"]


def test_scores_are_read_in_the_order_that_the_judge_read():
    rows = prepared(((0.0, 1.0), (1.0, 0.0)))
    swapped = rows.remove_columns("order").add_column("order", [[1, 0]] * 2, feature=rows.features["order"])
    drawn = drawing([[RIGHT, RIGHT]] * 2)
    assert without_too_easy(rows, drawn, k=2, template="compact")["query"] == ["q1"]
    assert without_too_easy(swapped, drawn, k=2, template="compact")["query"] == ["q0"]


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="all 1 rows are judged correctly 3 of 3 times"):
        without_too_easy(prepared(((0.0, 1.0),)), drawing([[RIGHT] * 3]), template="compact")
    with pytest.raises(ValueError, match="k=0"):
        without_too_easy(prepared(), drawing(TEXTS), k=0)


def test_preference_rows_are_filtered_by_a_judge_on_disk(tmp_path, monkeypatch):
    path = save_tiny(tmp_path / "judge")
    easy = pipeline("grm-reward", model=path)
    easy.model.config.grm = {"template": "compact"}
    easy.save_pretrained(tmp_path / "easy")
    easy = str(tmp_path / "easy")
    args = SPCTConfig(str(tmp_path), use_cpu=True, bf16=False, max_completion_length=4, easy_judge=easy)
    rows = Dataset.from_list(
        [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad", "domain": f"d{i}"} for i in range(3)]
    )
    asked = {}

    def judging(model, tokenizer, prompts, k, seed, **options):
        asked.update(options, k=k)
        assert "expert at scoring" not in prompts[0][0]["content"], "its own template, not that of the trained judge"
        best = ["good" in prompt[0]["content"].split("[The Begin of Response 1]")[1][:6] for prompt in prompts]
        boxes = ["\\boxed{9, 1}" if first else "\\boxed{1, 9}" for first in best]
        return [
            [Sample(box if "q1" not in p[0]["content"] else "?", 4, False)] * k
            for box, p in zip(boxes, prompts, strict=True)
        ]

    monkeypatch.setattr(signal, "sample_critiques", judging)
    kept = signal.without_easy_for(rows, "rows", args)
    assert kept.to_list() == [rows[1]]
    for given in (rows, rows.to_list()):
        trainer = SPCTTrainer(path, args=args, train_dataset=given)
        assert trainer.train_dataset["query"][:] == ["q1"], "in Python as in the recipe"
    assert asked["k"] == 3
    assert (asked["temperature"], asked["max_new_tokens"]) == (1.0, 4)
    monkeypatch.undo()
    assert len(signal.without_easy_for(rows, "rows", args)) == 3
