# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import logging

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tiny_models import ON_CPU, save_tiny, tiny_tokenizer
from trl import GRPOTrainer

from trl_spct import SPCTConfig
from trl_spct.judge import generation
from trl_spct.judge.generation import Decoder
from trl_spct.judge.orders import derive_seed
from trl_spct.trainers import grouped_grpo, trl_internals
from trl_spct.trainers.grouped_grpo import GroupedGRPOTrainer, group_uniforms, regrouped
from trl_spct.trainers.trl_internals import OVERRIDES, changed

COMPLETION = 10


def rows(count=6):
    texts = ["Which is better? " + "tell me more " * (3 + number % 3) + str(number) for number in range(count)]
    return Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])


def evenness(completion_ids, **kwargs):
    return [float(sum(ids) % 7) for ids in completion_ids]


def drawn(trainer, prompt_ids):
    """Completions that depend on the prompt, the place in the group and the step alone."""
    completions = []
    for place, ids in enumerate(prompt_ids):
        draw = torch.Generator().manual_seed(derive_seed(0, place % 4, trainer.state.global_step, *ids) % 2**63)
        length = trainer.fixed_length or int(torch.randint(2, COMPLETION + 1, (1,), generator=draw))
        tokens = torch.randint(6, 262, (length,), generator=draw).tolist()
        completions.append(tokens if length == COMPLETION else [*tokens, tiny_tokenizer().eos_token_id])
    return completions, None


class Stock(GRPOTrainer):
    fixed_length = None

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        return drawn(self, prompt_ids)


class Grouped(GroupedGRPOTrainer):
    """Counts the tokens that the policy and the reference read."""

    tokens = 0
    fixed_length = None

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        return drawn(self, prompt_ids)

    def _packed(self, model, packed, *args):
        self.tokens += sum(len(row.rows) for row in packed)
        return super()._packed(model, packed, *args)


def trainer_of(kind, path, folder, dataset=None, peft_config=None, **changes):
    values = {
        "output_dir": str(folder),
        **ON_CPU,
        "gradient_checkpointing": False,
        "max_completion_length": COMPLETION,
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "optim": "sgd",  # Adam's first step divides every gradient by itself, be it nothing but rounding
        "temperature": 0.9,
    }
    return kind(
        path,
        reward_funcs=evenness,
        args=SPCTConfig(**{**values, **changes}),
        train_dataset=dataset or rows(),
        peft_config=peft_config,
    )


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    made = {}

    def judge(arch):
        if arch not in made:
            made[arch] = save_tiny(tmp_path_factory.mktemp(arch), arch)
        return made[arch]

    return judge


def assert_same_training(judges, tmp_path, arch="llama", averaged_per_batch=(), **changes):
    """Two steps of real training: the losses, what is logged and all weights are those of TRL's trainer."""
    runs = []
    for kind in (Stock, Grouped):
        trainer = trainer_of(kind, judges(arch), tmp_path / kind.__name__, learning_rate=0.5, **changes)
        before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        trainer.train()
        runs.append((trainer, before))
    (stock, before), (grouped, _) = runs
    logged = [
        [
            {k: v for k, v in entry.items() if "time" not in k and "runtime" not in k}
            for entry in t.state.log_history[:2]
        ]
        for t in (stock, grouped)
    ]
    for expected, found in zip(*logged, strict=True):
        assert expected.keys() == found.keys()
        for name in expected.keys() - set(averaged_per_batch):
            value = expected[name]
            assert found[name] == pytest.approx(value, rel=1e-3, abs=2e-5), name
    moved = 0
    after = dict(grouped.model.named_parameters())
    for name, value in stock.model.named_parameters():
        moved = max(moved, (value - before[name]).abs().max().item())
        torch.testing.assert_close(after[name], value, atol=2e-5, rtol=1e-4, msg=name)
    assert moved > 1e-3
    return grouped


@pytest.mark.parametrize("arch", ["gemma2", "llama", "qwen3", "deepseek_v2"])
def test_training_is_trls(arch, judges, tmp_path):
    grouped = assert_same_training(judges, tmp_path, arch)
    assert grouped.tokens > 0


def test_training_of_adapters_is_trls(judges, tmp_path):
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    assert assert_same_training(judges, tmp_path, peft_config=peft_config).tokens > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"mask_truncated_completions": True},
        {"num_iterations": 2},
        {"beta": 0.0},
        {"importance_sampling_level": "sequence"},
        {"loss_type": "dapo"},
        {"loss_type": "bnpo"},
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_training_with_other_options_is_trls(changes, judges, tmp_path):
    grouped = assert_same_training(judges, tmp_path, **changes)
    assert grouped.tokens > 0
    assert grouped.model.config._attn_implementation == "sdpa"


def test_groups_are_put_together_within_an_optimizer_step(judges, tmp_path):
    changes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    grouped = assert_same_training(judges, tmp_path, averaged_per_batch=("kl", "entropy"), **changes)
    for batch in grouped._buffered_inputs:
        assert all(torch.equal(ids, batch["prompt_ids"][0]) for ids in batch["prompt_ids"])


def test_regrouping_moves_whole_completions():
    def batch(prompts, first):
        numbers = torch.arange(first, first + len(prompts))
        return {
            "prompt_ids": torch.tensor([[0, p] if p > 1 else [p, p] for p in prompts]),
            "prompt_mask": torch.tensor([[int(p <= 1), 1] for p in prompts]),
            "advantages": numbers.float(),
            "num_items_in_batch": torch.tensor(9),
            "old_per_token_logps": None,
        }

    made = regrouped([batch([2, 1, 3, 2], 0), batch([1, 3, 3, 1], 4)])
    prompts = [int(row[1]) for part in made for row in part["prompt_ids"]]
    numbers = [int(x) for part in made for x in part["advantages"]]
    given = [2, 1, 3, 2, 1, 3, 3, 1]
    assert sorted(numbers) == list(range(8))
    assert [given[number] for number in numbers] == prompts
    assert sum(a != b for a, b in zip(prompts, prompts[1:], strict=False)) == 2
    assert [int(part["num_items_in_batch"]) for part in made] == [9, 9]
    assert [part["old_per_token_logps"] for part in made] == [None, None]


def test_short_prompts_take_trls_path(judges, tmp_path):
    dataset = Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}])
    trainer = trainer_of(Grouped, judges("llama"), tmp_path, dataset)
    trainer.fixed_length = COMPLETION
    trainer.train()
    assert trainer.tokens == 0
    longer = trainer_of(Grouped, judges("llama"), tmp_path)
    longer.fixed_length = COMPLETION
    longer.train()
    assert longer.tokens > 0


@pytest.mark.parametrize("obstacle", ["flash", "option", "mixing", "compiled"])
def test_what_cannot_be_shared_is_left_to_trl(obstacle, judges, tmp_path, caplog):
    trainer = trainer_of(Grouped, judges("llama"), tmp_path, share_prompts=obstacle != "option")
    if obstacle == "flash":
        for model in (trainer.model, trainer.ref_model):
            type(model.config)._attn_implementation.fset(model.config, "eager")
        trainer.model.__class__ = type("Other", (type(trainer.model),), {"_supports_attention_backend": False})
        trainer.ref_model.__class__ = trainer.model.__class__
    if obstacle == "compiled":
        trainer.args.torch_compile = True

    def mix(module, args, output):  # as a convolution or a recurrence would
        return output + output.cumsum(dim=1)

    if obstacle == "mixing":
        for model in (trainer.model, trainer.ref_model):
            model.model.layers[0].mlp.register_forward_hook(mix)
    with caplog.at_level(logging.INFO):
        trainer.train()
    said = [record.message for record in caplog.records if "read once per completion" in record.message]
    expected = {"flash": "does not call", "mixing": "log-probabilities differ", "compiled": "is compiled"}
    assert len(said) == (obstacle != "option")
    assert all(expected[obstacle] in message for message in said)
    assert trainer.tokens < 200  # at most the comparison


@pytest.mark.parametrize("error", [0.01, 0.1])
def test_half_precision_may_round_in_proportion_to_the_log_probabilities(error, judges, tmp_path):
    """Those of a pretrained model differ by 0.04 on average in bfloat16."""

    class Rounded(Grouped):
        def _packed(self, *args):
            logps, entropies = super()._packed(*args)
            return logps * (1 + error), entropies

    trainer = trainer_of(Rounded, judges("llama"), tmp_path, bf16=True, beta=0.0)
    trainer.train()
    assert trainer._packing_works is (error == 0.01)


@pytest.mark.parametrize("bf16", [True, False])
def test_weights_are_cast_once_for_all_tokens(bf16, judges, tmp_path, monkeypatch):
    """Autocast keeps casts until its outermost context ends, which surrounds the whole of a generation."""
    complete, within = Decoder.complete, []

    def recorded(*args):
        within.append(torch.is_autocast_enabled("cpu"))
        return complete(*args)

    monkeypatch.setattr(Decoder, "complete", recorded)
    trainer_of(GroupedGRPOTrainer, judges("llama"), tmp_path, bf16=bf16, beta=0.0).train()
    assert within and set(within) == {bf16}


def test_it_is_said_once_what_is_shared(judges, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trainer_of(GroupedGRPOTrainer, judges("llama"), tmp_path).train()
    messages = [record.message for record in caplog.records if record.name == "trl_spct.trainers.grouped_grpo"]
    assert sorted(messages) == [
        "Prompts are prefilled once per group in generation.",
        "Prompts are read once per group in training.",
    ]


def generated(trainer, count=2, step=0):
    trainer.state.global_step = step
    prompts = [row["prompt"] for row in trainer.train_dataset.select(range(count)) for _ in range(4)]
    ids, _, _ = trainer._tokenize_prompts(prompts)
    return ids, trainer._generate_single_turn(ids, None, {}, 4)[0]


@pytest.mark.parametrize("copied", [True, False], ids=["copied", "shared"])
@pytest.mark.parametrize("arch", ["gemma2", "llama", "qwen3", "deepseek_v2"])
def test_completions_follow_the_models_law(arch, copied, judges, tmp_path, monkeypatch):
    """Each token is where the stream of its completion falls into the model's cumulative distribution."""
    shared = []
    decoding = generation.decoding_shared
    monkeypatch.setattr(grouped_grpo, "SHARED_TOKENS", 10**6 if copied else 0)
    monkeypatch.setattr(generation, "decoding_shared", lambda *args: shared.append(args) or decoding(*args))
    trainer = trainer_of(GroupedGRPOTrainer, judges(arch), tmp_path, temperature=0.8)
    trainer.model.train()
    prompts, completions = generated(trainer)
    assert bool(shared) is not copied
    seed = derive_seed(trainer.args.seed, "train", 0)
    uniforms = group_uniforms(prompts, 4, 0, seed, COMPLETION)
    assert len({tuple(completion) for completion in completions}) > 4
    for prompt, completion, stream in zip(prompts, completions, uniforms, strict=True):
        with torch.no_grad():
            logits = trainer.model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        cumulative = (logits.double() / 0.8).softmax(dim=-1).cumsum(dim=-1)
        for place, token in enumerate(completion):
            low = 0.0 if token == 0 else cumulative[place, token - 1]
            assert low - 1e-5 <= stream[place] <= cumulative[place, token] + 1e-5


def test_completions_end_with_their_end_token(judges, tmp_path):
    trainer = trainer_of(GroupedGRPOTrainer, judges("llama"), tmp_path, max_completion_length=200, temperature=4.0)
    ends = set(trainer.eos_token_ids)
    _, completions = generated(trainer)
    ended = [completion for completion in completions if len(completion) < 200]
    assert ended
    for completion in completions:
        assert not ends & set(completion[:-1])
    assert all(completion[-1] in ends for completion in ended)


def test_every_step_draws_anew_and_every_evaluation_alike(judges, tmp_path):
    trainer = trainer_of(GroupedGRPOTrainer, judges("llama"), tmp_path)
    trainer.model.train()
    first, again, later = (generated(trainer, step=step)[1] for step in (3, 3, 4))
    assert first == again != later
    trainer.model.eval()
    evaluated = [generated(trainer, step=step)[1] for step in (3, 4)]
    assert evaluated[0] == evaluated[1] != first


def test_streams_know_their_group_wherever_it_lies():
    prompts = [(1, 2)] * 4 + [(3,)] * 4
    whole = group_uniforms(prompts, 4, 0, 7, 5)
    halves = [group_uniforms(prompts[2 * rank : 2 * rank + 2], 4, rank, 7, 5) for rank in range(4)]
    assert torch.equal(torch.cat(halves), whole)
    assert len({tuple(stream.tolist()) for stream in whole}) == 8
    twice = group_uniforms([(1, 2)] * 8, 4, 0, 7, 5)
    assert torch.equal(twice[:4], whole[:4])
    assert len({tuple(stream.tolist()) for stream in twice}) == 8


@pytest.mark.parametrize(
    "changes", [{"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.2}, {"share_prompts": False}]
)
def test_other_sampling_is_trls(changes, judges, tmp_path):
    made = []
    for kind in (GRPOTrainer, GroupedGRPOTrainer):
        trainer = trainer_of(kind, judges("llama"), tmp_path, **changes)
        torch.manual_seed(5)
        made.append(generated(trainer)[1])
    assert made[0] == made[1]


def test_generation_leaves_the_model_as_it_was(judges, tmp_path):
    trainer = trainer_of(GroupedGRPOTrainer, judges("llama"), tmp_path, gradient_checkpointing=True)
    trainer.model.train()
    trainer.model.gradient_checkpointing_enable()
    before = trainer.model.generation_config.to_dict()
    generated(trainer)
    assert trainer.model.training
    assert all(module.gradient_checkpointing for module in trainer.model.model.layers)
    assert trainer.model.generation_config.to_dict() == before


@pytest.mark.parametrize(
    "name", [*(name for name, override in OVERRIDES.items() if override.trainer is GRPOTrainer), "_step"]
)
def test_another_version_of_trl(name, judges, tmp_path, monkeypatch, caplog):
    """A method with another parameter, or an attribute of another name: TRL's own path, said once, and its numbers."""
    if name == "_step":
        monkeypatch.setattr(trl_internals, "hasattr", lambda _, attribute: attribute != "_step", raising=False)
    else:
        stock = getattr(GRPOTrainer, name)

        def changed_method(self, *args, new_option=None, **kwargs):
            return stock(self, *args, **kwargs)

        monkeypatch.setattr(GRPOTrainer, name, changed_method)
    options = {"steps_per_generation": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    losses = []
    for kind in (Stock, Grouped if name != "_generate_single_turn" else GroupedGRPOTrainer):
        trainer = trainer_of(kind, judges("llama"), tmp_path, **options)
        with caplog.at_level(logging.WARNING):
            torch.manual_seed(3)
            trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    said = [record.message for record in caplog.records if "this version of TRL" in record.message]
    assert len(said) == (name != "_generate_and_score_completions"), "which SPCTTrainer overrides"
    assert len(losses[1]) == 2
    if name != "_generate_single_turn":
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_a_method_that_trl_no_longer_has(judges, tmp_path, monkeypatch, caplog):
    """Nobody calls the override: the log says so when the trainer is made."""
    monkeypatch.delattr(GRPOTrainer, "_generate_single_turn")
    with caplog.at_level(logging.WARNING):
        trainer_of(GroupedGRPOTrainer, judges("llama"), tmp_path)
    expected = "Critiques are generated as by TRL: this version of TRL has no `_generate_single_turn`."
    assert expected in [record.message for record in caplog.records]


def test_attributes_that_an_override_reads():
    assert changed("_prepare_inputs") is None
    assert changed("_prepare_inputs", object()).startswith("this version of TRL has no `_buffered_inputs`, `_step`")
