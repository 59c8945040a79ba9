# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import json
import math
import random
import re
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from processes import check_weights, trained_in
from rich.console import Console
from tiny_models import ON_CPU, TURN_END, save_tiny, tiny_causal_lm, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from trl import GRPOConfig, RichProgressCallback

from trl_spct import (
    RejectiveSampler,
    RejectiveSamplerConfig,
    SPCTConfig,
    SPCTTrainer,
    is_correct,
    parse_critique,
)
from trl_spct.data.preparation import prepare_judge_rows
from trl_spct.jobs import FolderInUseError, locked
from trl_spct.judge.sampling import Sample, special_tokens
from trl_spct.trainers.arguments import CHECKPOINTING
from trl_spct.trainers.spct_trainer import OutcomeReward, reordered


def preference_rows(n=8, start=0):
    return Dataset.from_list(
        [
            {
                "query": f"Which is larger? {i}",
                "responses": [f"{i}", f"{i + 1}"],
                "labels": [0.0, 1.0],
                "topic": f"t{i}",
            }
            for i in range(start, start + n)
        ]
    )


def learned_judge(path, arch="llama", steps=120):
    """Writes a judge that learned to end with `\\boxed{a, b}` and knows nothing about a and b."""
    tokenizer = tiny_tokenizer()
    rows = prepare_judge_rows(preference_rows(), tokenizer, template="compact").dataset
    prompts = [tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"] for row in rows]
    model = tiny_causal_lm(arch).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = random.Random(0)
    for _ in range(steps):
        batch = [
            (
                draw.choice(prompts),
                tokenizer(f"\\boxed{{{draw.randint(1, 9)}, {draw.randint(1, 9)}}}{TURN_END}").input_ids,
            )
            for _ in range(4)
        ]
        longest = max(len(prompt) + len(answer) for prompt, answer in batch)
        pads = [longest - len(prompt) - len(answer) for prompt, answer in batch]
        ids = [pad * [tokenizer.pad_token_id] + p + a for pad, (p, a) in zip(pads, batch, strict=True)]
        labels = [(pad + len(p)) * [-100] + a for pad, (p, a) in zip(pads, batch, strict=True)]
        ids = torch.tensor(ids)
        mask = (ids != tokenizer.pad_token_id).long()
        model(input_ids=ids, attention_mask=mask, labels=torch.tensor(labels)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_END)]
    model.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return learned_judge(tmp_path_factory.mktemp("learned"))


def config(folder, **changes):
    values = {
        "output_dir": str(folder),
        "template": "compact",
        **ON_CPU,
        "gradient_checkpointing": False,
        "max_completion_length": 24,
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 1,
    }
    return SPCTConfig(**{**values, **changes})


def trainer_of(folder, model, changes=None, rows=None, **kwargs):
    rows = preference_rows() if rows is None else rows
    return SPCTTrainer(model, args=config(folder, **(changes or {})), train_dataset=rows, **kwargs)


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.fixture(scope="module")
def trained(judge, tmp_path_factory):
    """A run with everything logged: (trainer, weights before, folder)."""
    folder = tmp_path_factory.mktemp("trained")
    changes = {"log_completions": True, "save_strategy": "steps", "save_steps": 2}
    trainer = trainer_of(folder, judge, changes)
    before = weights(trainer.model)
    trainer.train()
    return trainer, before, folder


def test_rows_become_judge_prompts(trained):
    trainer, _, _ = trained
    orders = set()
    for number, row in enumerate(trainer.train_dataset):
        assert row["topic"] == f"t{number}"
        assert row["labels"] == [0.0, 1.0]
        text = row["prompt"][0]["content"]
        assert [message["role"] for message in row["prompt"]] == ["user"]
        shown = [f"[The Begin of Response {i + 1}]\n{number + place}\n" for i, place in enumerate(row["order"])]
        assert all(block in text for block in shown)
        orders.add(tuple(row["order"]))
    assert orders == {(0, 1), (1, 0)}


def test_training_changes_parameters(trained):
    trainer, before, _ = trained
    for n, parameter in trainer.model.named_parameters():
        assert not torch.equal(before[n], parameter), f"Parameter {n} has not changed."


def test_the_completions_table_shows_how_rewards_came_about(trained):
    _, _, folder = trained
    tables = [pq.read_table(path).to_pylist() for path in sorted((folder / "completions").glob("*.parquet"))]
    records = [record for table in tables for record in table]
    assert len(records) == 16
    for record in records:
        text = record["completion"]
        text = text if isinstance(text, str) else text[-1]["content"]
        assert record["labels"] == [0.0, 1.0]
        expected = parse_critique(text, 2).scores
        assert record["scores"] is None or tuple(record["scores"][i] for i in record["order"]) == expected
        assert record["outcome_reward"] == (1.0 if is_correct(record["scores"], record["labels"]) else -1.0)
    assert {record["outcome_reward"] for record in records} == {1.0, -1.0}


def test_training_logs_say_how_good_the_judge_is(trained):
    trainer, _, folder = trained
    logged = [entry for entry in trainer.state.log_history if "spct/accuracy" in entry]
    assert len(logged) == 2
    for step, entry in enumerate(logged, start=1):
        records = pq.read_table(folder / "completions" / f"completions_{step:05d}.parquet").to_pylist()
        right = [is_correct(record["scores"], record["labels"]) for record in records]
        assert entry["spct/accuracy"] == pytest.approx(sum(right) / 8)
        assert entry["spct/unreadable"] == pytest.approx(sum(record["scores"] is None for record in records) / 8)
        ties = [record["scores"] is not None and len(set(record["scores"])) == 1 for record in records]
        assert entry["spct/tie"] == pytest.approx(sum(ties) / 8)
        assert entry["rewards/outcome_reward/mean"] == pytest.approx(2 * entry["spct/accuracy"] - 1)
        problems = [value for name, value in entry.items() if name.startswith("spct/unreadable_")]
        assert sum(problems) == pytest.approx(entry["spct/unreadable"])


def test_the_first_step_is_at_the_reference(trained):
    logged = [entry["kl"] for entry in trained[0].state.log_history if "kl" in entry]
    assert logged[0] == pytest.approx(0.0, abs=1e-6)
    assert logged[1] > 1e-4


def test_a_checkpoint_is_a_whole_judge(trained):
    _, _, folder = trained
    saved = folder / "checkpoint-2"
    assert (saved / "tokenizer_config.json").exists()
    assert AutoConfig.from_pretrained(saved).grm["template"] == "compact"
    card = (folder / "README.md").read_text()
    assert "Inference-Time Scaling for Generalist Reward Modeling" in card
    assert "2504.02495" in card


END = tiny_tokenizer().eos_token_id


def outcome_of(texts, labels, order, **options):
    """Rewards of completions that end with an end token."""
    tokenizer = tiny_tokenizer()
    return OutcomeReward("paper", tokenizer, frozenset({END}))(
        prompts=[[{"role": "user", "content": "judge"}]] * len(texts),
        completion_ids=[[*tokenizer.encode(text, add_special_tokens=False), END] for text in texts],
        labels=labels,
        order=order,
        **options,
    )


def test_rewards_by_hand():
    texts = [
        "\\boxed{2, 9}",
        "\\boxed{9, 2}",
        "\\boxed{5, 5}",
        "none",
        "\\boxed{2, 9, 1}",
        "\\boxed{2, 11}",
        "\\boxed{1}",
    ]
    labels = [[0.0, 1.0]] * 6 + [[1.0]]
    logged, tables = {}, {}
    rewards = outcome_of(
        texts,
        labels,
        [[0, 1]] * 6 + [[0]],
        log_metric=logged.__setitem__,
        log_extra=tables.__setitem__,
        trainer_state=None,
    )
    assert rewards == [1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0]
    assert logged["spct/accuracy"] == pytest.approx(2 / 7)
    assert logged["spct/tie"] == pytest.approx(1 / 7)
    assert logged["spct/margin"] == pytest.approx((7 - 7 + 0) / 3)
    assert logged["spct/unreadable"] == pytest.approx(3 / 7)
    assert logged["spct/unreadable_missing"] == pytest.approx(1 / 7)
    assert logged["spct/unreadable_count"] == pytest.approx(1 / 7)
    assert logged["spct/unreadable_range"] == pytest.approx(1 / 7)
    assert tables["scores"] == [[2, 9], [9, 2], [5, 5], None, None, None, [1]]
    assert tables["order"][-1] == [0]


def test_rewards_and_tables_are_in_the_order_of_the_row():
    tables = {}
    rewards = outcome_of(
        ["\\boxed{2, 9, 4}"] * 2, [[0.0, 2.0, 1.0]] * 2, [[0, 1, 2], [1, 2, 0]], log_extra=tables.__setitem__
    )
    assert rewards == [1.0, -1.0]
    assert tables["scores"] == [[2, 9, 4], [4, 2, 9]] and tables["labels"] == [[0.0, 2.0, 1.0]] * 2


TEXT = tiny_tokenizer().encode("\\boxed{2, 9}", add_special_tokens=False)


@pytest.mark.parametrize(
    ("ids", "reward"), [([*TEXT, END], 1.0), ([END, *TEXT], -1.0), (TEXT, -1.0), ([], -1.0)], ids=str
)
def test_a_truncated_completion_is_worth_nothing_whatever_it_says(ids, reward):
    outcome = OutcomeReward("paper", tiny_tokenizer(), frozenset({END}))
    prompt = [{"role": "user", "content": "judge"}]
    assert outcome(prompts=[prompt], completion_ids=[ids], labels=[[0.0, 1.0]], order=[[0, 1]]) == [reward]


# Opens a draft in the generation prompt, unless a variable says no.
OPENS = (
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% if enable_thinking is not defined or enable_thinking %}"
    "<think>\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    ("text", "thinking", "reward"),
    [
        ("\\boxed{2, 9}", True, -1.0),
        ("\\boxed{2, 9} </think> none", True, -1.0),
        ("\\boxed{9, 2} </think> \\boxed{2, 9}", True, 1.0),
        ("\\boxed{2, 9}", False, 1.0),
        ("<think> \\boxed{2, 9}", False, -1.0),
    ],
)
@pytest.mark.parametrize("special", [False, True], ids=["words", "special tokens"])
def test_a_draft_is_not_read_in_training_either(text, thinking, reward, special):
    """TRL decodes completions without special tokens, and so without the tags of such drafts."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OPENS
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    end = tokenizer.eos_token_id
    ids = [*tokenizer.encode(text, add_special_tokens=False), end]
    outcome = OutcomeReward("paper", tokenizer, frozenset({end}), {"enable_thinking": thinking})
    shown = tokenizer.decode(ids, skip_special_tokens=True)
    rewards = outcome(
        prompts=[[{"role": "user", "content": "judge"}]] * 2,
        completions=[[{"role": "assistant", "content": shown}]] * 2,
        completion_ids=[ids] * 2,
        labels=[[0.0, 1.0]] * 2,
        order=[[0, 1]] * 2,
    )
    assert rewards == [reward] * 2


def test_variables_of_the_chat_template_reach_every_prompt(judge, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OPENS
    changes = {"chat_template_kwargs": {"enable_thinking": False}}
    trainer = trainer_of(tmp_path / "a", judge, changes, eval_dataset=preference_rows(2), processing_class=tokenizer)
    prompt = trainer.train_dataset[0]["prompt"]
    assert not trainer.outcome._opens_draft(prompt)
    assert trainer.model.config.grm["chat_template_kwargs"] == {"enable_thinking": False}
    trainer.save_model()
    again = trainer_of(tmp_path / "b", str(tmp_path / "a"), processing_class=tokenizer)
    assert again.args.chat_template_kwargs == again.chat_template_kwargs == {"enable_thinking": False}, "its own"
    changes = {"chat_template_kwargs": {}}
    other = trainer_of(tmp_path / "c", str(tmp_path / "a"), changes, processing_class=tokenizer)
    assert other.outcome._opens_draft(prompt) and "chat_template_kwargs" not in other.model.config.grm


def test_two_runs_do_not_train_into_one_folder(judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, {"max_steps": 1})
    with locked(tmp_path), pytest.raises(FolderInUseError, match="in use by another run"):
        trainer.train()
    trainer.train()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trls_calls_do_not_warn(checkpointing, judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, {"max_steps": 1, CHECKPOINTING: checkpointing})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    assert not [warning for warning in caught if "gradient_checkpointing" in str(warning.message)]


def test_completions_that_do_not_end_are_worth_nothing_in_training(judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, {"max_completion_length": 12, "max_steps": 1})
    assert trainer.outcome.end_tokens == {
        tiny_tokenizer().eos_token_id,
        tiny_tokenizer().convert_tokens_to_ids(TURN_END),
    }
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "spct/accuracy" in entry)
    assert logged["spct/unreadable_truncated"] == 1.0
    assert logged["rewards/outcome_reward/mean"] == -1.0


def test_adapters_are_trained_and_the_base_is_not(judge, tmp_path):
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "up_proj"])
    trainer = trainer_of(tmp_path, judge, peft_config=peft_config)
    before = weights(trainer.model)
    trainer.train()
    for n, parameter in trainer.model.named_parameters():
        assert torch.equal(before[n], parameter) is ("lora" not in n), f"Parameter {n}"


def test_quantized_models_train_beside_evaluation(judge, tmp_path):
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False, r=2)
    trainer = trainer_of(
        tmp_path,
        judge,
        {"max_steps": 2, "temperature": 2.0},
        eval_dataset=preference_rows(2),
        quantization_config=quantization,
        peft_config=peft_config,
    )
    trainer.evaluate()
    before = weights(trainer.model)
    trainer.train()
    for n, parameter in trainer.model.named_parameters():
        if "lora" in n:
            assert not torch.equal(before[n], parameter), f"Parameter {n} has not changed."


def test_the_best_model_is_chosen_by_accuracy(judge, tmp_path):
    changes = {
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_spct/accuracy",
    }
    trainer = trainer_of(tmp_path, judge, changes, eval_dataset=preference_rows(4, start=100))
    trainer.train()
    found = {entry["step"]: entry["eval_spct/accuracy"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert set(found) == {1, 2}
    assert trainer.state.best_metric == max(found.values())
    best = trainer.state.best_model_checkpoint
    saved = AutoModelForCausalLM.from_pretrained(best, dtype=torch.float32)
    current = weights(trainer.model)
    assert all(torch.equal(value, current[name]) for name, value in weights(saved).items())


def test_several_evaluation_sets_are_told_apart(judge, tmp_path):
    sets = {"near": preference_rows(2), "far": preference_rows(2, start=500)}
    trainer = trainer_of(tmp_path, judge, eval_dataset=sets)
    metrics = trainer.evaluate()
    assert {"eval_near_spct/accuracy", "eval_far_spct/accuracy"} <= set(metrics)
    assert "eval_spct/accuracy" not in metrics
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"eval_near_spct/accuracy", "eval_far_spct/accuracy", "eval_near_kl"} <= logged
    assert "eval_spct/accuracy" in trainer.evaluate(preference_rows(2)), "rows as the constructor takes them"
    assert "eval_new_spct/accuracy" in trainer.evaluate({"new": preference_rows(2)})
    with pytest.raises(ValueError, match=r"eval_dataset\['far'\] row 0"):
        trainer_of(
            tmp_path,
            judge,
            eval_dataset={
                **sets,
                "far": Dataset.from_list([{"query": "q", "responses": ["a", "b"], "labels": [1, 1]}]),
            },
        )


def brevity(completions, topic, **kwargs):
    assert all(name.startswith("t") for name in topic)
    return [-len(completion[-1]["content"]) / 100 for completion in completions]


@pytest.mark.parametrize("given", [brevity, [brevity], (brevity,)], ids=["function", "list", "tuple"])
def test_rewards_of_ones_own_are_added(given, judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, {"reward_weights": [1.0, 0.5], "max_steps": 1}, reward_funcs=given)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "rewards/brevity/mean" in entry)
    total = logged["rewards/outcome_reward/mean"] + 0.5 * logged["rewards/brevity/mean"]
    assert logged["reward"] == pytest.approx(total, abs=1e-5)


def test_a_resumed_run_ends_like_one_that_never_stopped(judge, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trainer_of(tmp_path / "whole", judge, changes)
    whole.train()
    resumed = trainer_of(tmp_path / "resumed", judge, changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    first, second = weights(whole.model), weights(resumed.model)
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_handed_over_from_rejective_fine_tuning(adapter, judge, tmp_path):
    def sampler(prompts, k, seed, **sampling):
        better = [max(range(2), key=lambda i: int(texts[i])) for texts in map(shown, prompts)]
        return [[Sample(f"\\boxed{{{3 + 5 * (b == 0)}, {3 + 5 * (b == 1)}}}", 9, False)] * k for b in better]

    def shown(prompt):
        text = prompt[0]["content"]
        return [text.split(f"[The Begin of Response {i}]\n")[1].split("\n")[0] for i in (1, 2)]

    args = RejectiveSamplerConfig(
        output_dir=str(tmp_path / "rft"),
        template="compact",
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        reject_too_easy=False,
        max_steps=2,
        learning_rate=1e-3,
        save_strategy="no",
    )
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]) if adapter else None
    first = RejectiveSampler(
        judge, args=args, train_dataset=preference_rows(), sampler=sampler, peft_config=peft_config
    )
    first.train()
    first.save_model()
    changes = {"log_completions": False, "temperature": 1.5}
    trainer = trainer_of(tmp_path / "spct", str(tmp_path / "rft"), changes)
    assert isinstance(trainer.model, PeftModel) is adapter
    trainer.train()
    logged = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert logged[0] == pytest.approx(0.0, abs=1e-6)
    assert logged[1] > 1e-6


def test_the_defaults_are_the_original_grpo_with_the_papers_numbers():
    args = SPCTConfig(use_cpu=True, bf16=False)
    assert args.learning_rate == 4e-7
    assert args.beta == 0.08
    assert args.num_generations == 4
    assert args.loss_type == "grpo"
    assert args.scale_rewards == "group"
    assert args.use_bias_correction_kl is False
    assert args.importance_sampling_level == "token"
    assert args.num_iterations == 1
    assert args.top_k == 0
    assert (args.top_p, args.temperature) == (1.0, 1.0)
    assert args.mask_truncated_completions is False
    assert args.vllm_importance_sampling_correction is False
    stock = GRPOConfig(use_cpu=True, bf16=False)
    assert args.epsilon == stock.epsilon == 0.2
    assert args.delta is None


def test_the_configuration_survives_serialization(tmp_path):
    given = config(tmp_path, source="hhh", model_init_kwargs='{"a": 1}')
    values = {name: value for name, value in given.to_dict().items() if not str(value).startswith("<")}
    values = {name: value for name, value in values.items() if name not in ("generation_batch_size",)}
    again = SPCTConfig(**values)
    for name in ("template", "source", "beta", "loss_type", "model_init_kwargs", "shuffle_responses"):
        assert getattr(again, name) == getattr(given, name)
    torch.save(given, tmp_path / "training_args.bin")
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).to_dict() == given.to_dict()


@pytest.mark.parametrize("arch", ["gemma2", "llama", "qwen2", "qwen3", "deepseek_v2"])
def test_every_architecture_trains(arch, judge, tmp_path):
    path = judge if arch == "llama" else learned_judge(tmp_path / "judge", arch, steps=120 if arch == "gemma2" else 60)
    trainer = trainer_of(tmp_path / "run", path, {"temperature": 1.2})
    before = weights(trainer.model)
    trainer.train()
    assert trainer.state.global_step == 2
    changed = [name for name, value in weights(trainer.model).items() if not torch.equal(before[name], value)]
    assert len(changed) > 0.8 * len(before)


def hollow(path):
    save_tiny(path)
    (Path(path) / "model.safetensors").unlink()
    return str(path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"labels": [1.0, 1.0]}, "row 8"),
        ({"responses": ["a"], "labels": [3.0]}, "row 8"),
        ({"responses": ["a", ""]}, "row 8"),
        ({"query": "long " * 2000}, "row 8: the prompt has \\d+ tokens"),
    ],
    ids=["no best", "neither 0 nor 1", "empty", "too long"],
)
def test_a_bad_row_is_named_before_the_model_is_loaded(bad, message, tmp_path):
    row = {"query": "q", "responses": ["a", "b"], "labels": [0.0, 1.0], "topic": "t", **bad}
    rows = Dataset.from_list([*preference_rows().to_list(), row])
    with pytest.raises(ValueError, match=f"train_dataset {message}"):
        trainer_of(tmp_path, hollow(tmp_path / "hollow"), rows=rows)


def test_a_changed_template_is_warned_of(judge, trained, tmp_path, caplog):
    trainer_of(tmp_path, judge)
    assert "template" not in caplog.text
    trainer_of(tmp_path, str(trained[2] / "checkpoint-2"), {"template": "paper"})
    assert "was trained with the template 'compact', and is now trained with 'paper'" in caplog.text


def test_a_model_in_memory_has_no_reference(tmp_path):
    model, tokenizer = tiny_causal_lm(), tiny_tokenizer()
    with pytest.raises(ValueError, match="made in memory, with beta != 0"):
        trainer_of(tmp_path, model, processing_class=tokenizer)
    assert trainer_of(tmp_path, model, {"beta": 0.0}, processing_class=tokenizer).ref_model is None
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    trainer_of(tmp_path, tiny_causal_lm(), processing_class=tokenizer, peft_config=peft_config)


def test_configurations_of_trl_are_refused(judge, tmp_path):
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(TypeError, match="`args` is GRPOConfig; expected SPCTConfig"):
        SPCTTrainer(judge, args=args, train_dataset=preference_rows())


def test_a_quantized_adapter_goes_on_by_its_path(judge, tmp_path):
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False, r=2)
    first = trainer_of(
        tmp_path / "first", judge, {"max_steps": 1}, quantization_config=quantization, peft_config=peft_config
    )
    first.train()
    first.save_model()
    second = trainer_of(tmp_path / "second", str(tmp_path / "first"), quantization_config=quantization)
    assert second.model.base_model.model.is_loaded_in_4bit
    loaded = weights(second.model)
    for name, value in weights(first.model).items():
        if "lora" in name:
            assert torch.equal(loaded[name], value), name


def test_state_is_json(trained):
    state = json.loads((trained[2] / "checkpoint-2" / "trainer_state.json").read_text())
    assert any("spct/accuracy" in entry for entry in state["log_history"])


def test_responses_are_read_in_a_fresh_order_each_time(judge, tmp_path):
    changes = {"log_completions": True, "max_steps": 4, "max_completion_length": 3}
    trainer = trainer_of(tmp_path, judge, changes, rows=preference_rows(2))
    mapped = {row["topic"]: row for row in trainer.train_dataset}
    trainer.train()
    orders = {}
    for path in sorted((tmp_path / "completions").glob("*.parquet")):
        for record in pq.read_table(path).to_pylist():
            (turn,) = record["prompt"]
            number = int(turn["content"].split("Which is larger? ")[1].split("\n")[0])
            shown = [turn["content"].split(f"[The Begin of Response {i}]\n")[1].split("\n")[0] for i in (1, 2)]
            assert shown == [str(number + place) for place in record["order"]]
            assert record["labels"] == [0.0, 1.0]
            orders.setdefault(number, {}).setdefault(record["step"], set()).add(tuple(record["order"]))
    assert all(len(of_step) == 1 for steps in orders.values() for of_step in steps.values())
    assert any(len(set.union(*steps.values())) == 2 for steps in orders.values())
    assert {row["topic"]: row for row in trainer.train_dataset} == mapped


def test_reordering_a_row_by_hand():
    rows = prepare_judge_rows(preference_rows(1), tiny_tokenizer(), template="compact", shuffle_responses=False)
    row = rows.dataset[0]
    found = [reordered(row, seed, "compact", special_tokens(tiny_tokenizer())) for seed in range(8)]
    assert {tuple(other["order"]) for other in found} == {(0, 1), (1, 0)}
    for other in found:
        assert other["labels"] == row["labels"]
        assert (other["prompt"] == row["prompt"]) is (other["order"] == [0, 1])
        assert other["responses"] == row["responses"]
        back = reordered(other, 3, "compact", special_tokens(tiny_tokenizer()))
        assert back == found[3]
    shortened = {**row, "prompt": [{"role": "user", "content": "shortened"}]}
    assert reordered(shortened, 1, "compact", ()) == shortened


def test_the_loss_is_the_papers(judge, tmp_path):
    """GRPO's objective on a batch by hand: 1/|o| per completion, the clipped ratio, beta times k3, mean over G."""
    trainer = trainer_of(tmp_path, judge, {"beta": 0.08, "num_iterations": 2})
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    draw = torch.Generator().manual_seed(0)
    lengths = [2, 5, 3, 5]
    prompt = torch.randint(6, 262, (1, 40), generator=draw).expand(4, -1)
    completion = torch.randint(6, 262, (4, 5), generator=draw)
    mask = torch.tensor([[int(t < length) for t in range(5)] for length in lengths])
    with torch.no_grad():
        logits = trainer.model(input_ids=torch.cat([prompt, completion], dim=1)).logits[:, 39:-1].log_softmax(dim=-1)
    logps = logits.gather(2, completion[..., None])[..., 0]
    shift = torch.tensor([[0.5, -0.5, 0.1, -0.1, 0.0]])
    reference, rewards = logps + 0.3 * shift.flip(1), [1.0, -1.0, -1.0, -1.0]
    mean = sum(rewards) / 4
    deviation = (sum((r - mean) ** 2 for r in rewards) / 3) ** 0.5
    advantages = [(r - mean) / (deviation + 1e-4) for r in rewards]
    expected = 0.0
    for i, length in enumerate(lengths):
        for t in range(length):
            ratio = math.exp(float(-shift[0, t]))
            clipped = min(max(ratio, 0.8), 1.2)
            gap = float(reference[i, t] - logps[i, t])
            surrogate = min(ratio * advantages[i], clipped * advantages[i])
            expected -= (surrogate - 0.08 * (math.exp(gap) - gap - 1)) / length / 4
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": mask,
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": logps + shift,
        "ref_per_token_logps": reference,
    }
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(expected, rel=1e-4)


class Display(RichProgressCallback):
    """Keeps what a terminal would have shown at each log; without one, only the last is printed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_log(self, *args, **kwargs):
        super().on_log(*args, **kwargs)
        with (console := Console(width=200)).capture() as shown:
            console.print(self.training_status.status)
        self.seen.append(shown.get())


@pytest.mark.slow
def test_trls_own_display_shows_critiques_and_metrics(judge, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    display = Display()
    changes = {"log_completions": True, "num_completions_to_print": 2, "eval_strategy": "steps", "eval_steps": 1}
    trainer_of(tmp_path, judge, changes, eval_dataset=preference_rows(2), callbacks=[display]).train()
    shown = capsys.readouterr().out
    assert "Training" in shown and "train_runtime" in shown
    assert re.search("Prompt.*Completion.*outcome_reward.*Advantage.*labels.*order.*problem.*scores", shown)
    assert "[The Begin of Response 1]" in shown
    panels = "".join(display.seen)
    for panel, metric in (("spct", "unreadable"), ("eval_spct", "accuracy_n2"), ("rewards", "outcome_reward")):
        assert re.search(rf" {panel} ", panels) and f" {metric}" in panels


MAKE = """
from test_spct_trainer import config, preference_rows
from trl_spct import SPCTTrainer
args = config({folder!r}, per_device_train_batch_size={batch}, max_steps=2, learning_rate=1e-3)
trainer = SPCTTrainer({judge!r}, args=args, train_dataset=preference_rows())
"""


@pytest.mark.slow
def test_two_processes_train_as_one(judge, tmp_path):
    names = {"folder": str(tmp_path), "judge": judge}
    found = {n: trained_in(n, MAKE.format(**names, batch=8 // n), tmp_path) for n in (1, 2)}
    assert [found[n]["processes"] for n in (1, 2)] == [1, 2]
    for one, two in zip(found[1]["log"][:2], found[2]["log"][:2], strict=True):
        for name in ("loss", "grad_norm", "reward", "kl", "spct/accuracy", "spct/unreadable"):
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name
    check_weights(found[2], found[1])


def test_a_full_run_does_not_write_beside_an_adapter(judge, tmp_path):
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(FileExistsError, match="adapter_model.safetensors of an adapter"):
        trainer_of(tmp_path, judge)


def test_the_judges_own_template_is_the_default(trained, tmp_path):
    trained[0].save_model(str(tmp_path / "judge"))
    trainer = trainer_of(tmp_path / "again", str(tmp_path / "judge"), {"template": None})
    assert trainer.args.template == trainer.outcome.template == "compact"
    assert trainer.model.config.grm["template"] == "compact"
