# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import re
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from paths import TESTS
from peft import LoraConfig
from tiny_models import ON_CPU, save_tiny, tiny_tokenizer

from trl_spct import SPCTConfig, SPCTTrainer
from trl_spct.judge.orders import derive_seed
from trl_spct.trainers.refilling import PADDING, other_rows, with_groups


G = 4
WIDTH = 10


def teaches(number):
    """Which rows have signal: one of three."""
    return number % 3 == 0


def variety(completion_ids, topic, **kwargs):
    return [
        float(sum(ids) % 7) if teaches(int(name)) else 0.5 for ids, name in zip(completion_ids, topic, strict=True)
    ]


def sameness(completion_ids, **kwargs):
    return [1.0] * len(completion_ids)


def preference_rows(count=48):
    rows = [
        {"query": f"Which is larger? {i} {'?' * (i % 5)}", "responses": [f"{i}", f"{i + 1}"], "labels": [0.0, 1.0]}
        for i in range(count)
    ]
    return Dataset.from_list([{**row, "topic": str(i)} for i, row in enumerate(rows)])


class Recording(SPCTTrainer):
    """Keeps what was generated, and what batches became of it."""

    def __init__(self, *args, **kwargs):
        self.scored, self.batches, self.tokens = [], [], 0
        super().__init__(*args, **kwargs)

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        made = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self.tokens += sum(map(len, prompt_ids)) + sum(map(len, made[0]))
        return made

    def _batch_of(self, rows):
        self.scored.append(rows)
        return super()._batch_of(rows)

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        self.batches.append(batch)
        return batch


class Drawing(Recording):
    """Whose completions depend on prompt and place in the group alone, on TRL's path too."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        completions = []
        for place, ids in enumerate(prompt_ids):
            draw = torch.Generator().manual_seed(derive_seed(0, place % G, *ids) % 2**63)
            tokens = torch.randint(6, 262, (int(torch.randint(2, WIDTH, (1,), generator=draw)),), generator=draw)
            completions.append([*tokens.tolist(), tiny_tokenizer().eos_token_id])
        return completions, None


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("judge"), "llama")


def config(folder, **changes):
    values = {
        "output_dir": str(folder),
        "template": "compact",
        **ON_CPU,
        "gradient_checkpointing": False,
        "max_completion_length": WIDTH,
        "max_steps": 2,
        "per_device_train_batch_size": 4 * G,
        "per_device_eval_batch_size": 2 * G,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "reward_weights": [0.0, 1.0],
        "refill_groups": 30,
    }
    return SPCTConfig(**{**values, **changes})


def trainer_of(folder, judge, kind=Recording, reward=variety, rows=None, **changes):
    names = {"eval_dataset", "peft_config"}
    given = {name: changes.pop(name) for name in names & changes.keys()}
    rows = preference_rows() if rows is None else rows
    return kind(judge, args=config(folder, **changes), reward_funcs=reward, train_dataset=rows, **given)


def numbers(batch):
    """The row of each group of a batch."""
    texts = tiny_tokenizer().batch_decode(batch["prompt_ids"])
    found = [int(re.search(r"Which is larger\? (\d+)", text)[1]) for text in texts]
    groups = [found[start : start + G] for start in range(0, len(found), G)]
    assert all(len(set(group)) == 1 for group in groups)
    return [group[0] for group in groups]


def spread(batch):
    groups = batch["advantages"].view(-1, G)
    return (groups.amax(dim=1) - groups.amin(dim=1)).tolist()


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_groups_are_replaced_until_all_of_them_teach(judge, tmp_path):
    trainer = trainer_of(tmp_path, judge)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    drawn = [rows for rows in trainer.scored if len(rows) == 4 * G]
    assert len(trainer.batches) == len(logged(trainer, "spct/refilled")) == 2
    for batch, share, lacking in zip(
        trainer.batches, logged(trainer, "spct/refilled"), logged(trainer, "frac_reward_zero_std"), strict=True
    ):
        assert min(spread(batch)) > 0
        assert all(map(teaches, numbers(batch))) and len(set(numbers(batch))) == 4
        assert share == lacking > 0
        assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
    assert len(drawn) == 2 and sum(logged(trainer, "spct/refill_rounds")) == len(trainer.scored) - 2
    for n, parameter in trainer.model.named_parameters():
        assert not torch.equal(before[n], parameter), f"Parameter {n} has not changed."


def test_no_row_is_read_twice_in_a_step(judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, reward=sameness, max_steps=1, refill_groups=3)
    trainer.train()
    read = [row["topic"] for rows in trainer.scored for row in rows[::G]]
    assert [len(rows) for rows in trainer.scored] == [4 * G] * 4
    assert len(set(read)) == len(read)


def test_what_is_logged_is_of_the_rows_as_they_come_and_of_all_tokens(judge, tmp_path):
    trainer = trainer_of(tmp_path, judge)
    trainer.train()
    assert logged(trainer, "num_tokens")[-1] == trainer.tokens == trainer.state.num_input_tokens_seen
    first = [teaches(int(row["topic"])) for row in trainer.scored[0][::G]]
    assert logged(trainer, "frac_reward_zero_std")[0] == 1 - sum(first) / 4
    plain = trainer_of(tmp_path, judge, refill_groups=0)
    plain.train()
    assert plain.tokens < trainer.tokens and len(plain.scored) == 2
    names = ("reward", "completions/mean_length", "rewards/variety/std")
    for name in names:
        assert logged(plain, name)[0] == logged(trainer, name)[0], name
    assert logged(plain, "spct/refilled") == []


def test_where_every_group_teaches_nothing_changes(judge, tmp_path):
    def all_of_them(completion_ids, **kwargs):
        return [float(place % 2) for place, _ in enumerate(completion_ids)]

    ends = []
    for rounds in (0, 5):
        trainer = trainer_of(tmp_path, judge, reward=all_of_them, refill_groups=rounds)
        trainer.train()
        ends.append(dict(trainer.model.named_parameters()))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize(("count", "rounds"), [(48, 3), (6, 1), (4, 0)], ids=["rounds", "few rows", "no other rows"])
def test_what_cannot_be_replaced_stays(count, rounds, judge, tmp_path):
    rows = preference_rows(count)
    trainer = trainer_of(tmp_path, judge, reward=sameness, rows=rows, refill_groups=3, max_steps=1)
    trainer.train()
    assert logged(trainer, "spct/refill_rounds") == [rounds]
    assert logged(trainer, "spct/refilled") == [0.0]
    assert numbers(trainer.batches[0]) == [int(row["topic"]) for row in trainer.scored[0][::G]]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Recording, {}),
        (Drawing, {"share_prompts": False}),
        (Drawing, {"num_iterations": 2, "pad_to_multiple_of": 8}),
        (Drawing, {"loss_type": "dapo", "beta": 0.0}),
        (Drawing, {"mask_truncated_completions": True, "max_completion_length": 5}),
    ],
    ids=["shared prompts", "trl", "two iterations", "dapo", "masked"],
)
def test_a_refilled_batch_is_that_of_the_same_rows(kind, changes, judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, kind, **changes)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = [trainer.train_dataset[i] for i in (1, 3, 4, 5) for _ in range(G)]
    made = trainer._generate_and_score_completions(inputs)
    kept = numbers(made)
    assert kept[1] == 3 and not {1, 4, 5} & set(kept)
    given = trainer._batch_of([trainer.train_dataset[i] for i in kept for _ in range(G)])
    assert made.keys() == given.keys()
    for name in made.keys() - {"num_items_in_batch", "advantages"}:
        side = "prompt_mask" if name.startswith("prompt") else "completion_mask"
        for row in range(len(inputs)):
            found, expected = (batch[name][row][batch[side][row].bool()] for batch in (made, given))
            torch.testing.assert_close(found, expected, msg=name)
    torch.testing.assert_close(made["advantages"], given["advantages"])
    assert made["num_items_in_batch"] == given["num_items_in_batch"]
    losses = [trainer.compute_loss(trainer.model, batch).item() for batch in (made, given)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_batches_are_refilled_before_they_are_kept_for_several_steps(judge, tmp_path):
    changes = {"num_iterations": 2, "steps_per_generation": 2, "per_device_train_batch_size": 2 * G}
    trainer = trainer_of(tmp_path, judge, max_steps=8, **changes)
    trainer.train()
    assert len(trainer.batches) == 2
    assert all(min(spread(batch)) > 0 and len(batch["advantages"]) == 4 * G for batch in trainer.batches)
    kept = torch.cat([batch["advantages"] for batch in trainer._buffered_inputs])
    assert sorted(kept.tolist()) == sorted(trainer.batches[-1]["advantages"].tolist())


def test_adapters_are_trained(judge, tmp_path):
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    trainer = trainer_of(tmp_path, judge, peft_config=peft_config)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    assert min(spread(trainer.batches[-1])) > 0
    for n, parameter in trainer.model.named_parameters():
        assert torch.equal(before[n], parameter) is ("lora" not in n or ".ref." in n), f"Parameter {n}"


def test_evaluation_reads_its_rows_alone(judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, reward=sameness, eval_dataset=preference_rows(4))
    metrics = trainer.evaluate()
    assert [len(rows) for rows in trainer.scored] == [2 * G] * 2
    assert not any("refill" in name for name in metrics)


def test_a_resumed_run_refills_alike(judge, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trainer_of(tmp_path / "whole", judge, **changes)
    whole.train()
    resumed = trainer_of(tmp_path / "resumed", judge, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert list(map(numbers, resumed.batches)) == list(map(numbers, whole.batches[2:]))
    after = dict(resumed.model.named_parameters())
    for name, value in whole.model.named_parameters():
        torch.testing.assert_close(after[name], value, msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refill_groups": -1}, "refill_groups=-1; expected 0 for none"),
        ({"scale_rewards": "batch"}, "scale_rewards='batch'.*'group' or 'none'"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "normalize_then_sum"),
    ],
)
def test_what_cannot_be_refilled_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_groups_that_lie_in_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(SPCTConfig, "world_size", 2)
    assert config(tmp_path, per_device_train_batch_size=G).generation_batch_size == 2 * G
    assert config(tmp_path, per_device_train_batch_size=2, steps_per_generation=2).refill_groups
    assert config(tmp_path, per_device_train_batch_size=2, refill_groups=0).generation_batch_size == G
    with pytest.raises(ValueError, match="2 completions per process and generation; expected whole groups of 4"):
        config(tmp_path, per_device_train_batch_size=2)


def rows_of(prompts):
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": text}], "place": i} for i, text in enumerate(prompts)]
    )


def test_other_rows_come_in_an_order_of_the_seed():
    dataset = rows_of(["a", "b", "a", "c", "d"])
    taken = {derive_seed(0, dataset[1]["prompt"])}
    orders = {tuple(row["place"] for row in other_rows(dataset, taken, seed)) for seed in range(20)}
    assert len(orders) > 5
    assert {len(order) for order in orders} == {3}  # one of the two rows "a", never "b"
    assert all({3, 4} < set(order) <= {0, 2, 3, 4} for order in orders)
    assert [row["place"] for row in other_rows(dataset, taken, 2**64 - 1)] == [
        row["place"] for row in other_rows(dataset, taken, 2**64 - 1)
    ]


def test_groups_change_places_by_hand():
    def batch(first, prompt, width):
        ids = torch.arange(first, first + 4)[:, None]
        return {
            "prompt_ids": ids.expand(4, prompt),
            "prompt_mask": torch.ones(4, prompt).long(),
            "completion_ids": ids.expand(4, width),
            "completion_mask": torch.ones(4, width).long(),
            "ref_per_token_logps": -ids.expand(4, width).float(),
            "importance_sampling_ratio": torch.ones(4, 1),
            "advantages": ids[:, 0].float(),
            "num_items_in_batch": torch.tensor(9),
        }

    made = with_groups(batch(10, 2, 3), batch(20, 3, 2), [(0, 1)], num_generations=2, pad_token_id=99)
    assert made["prompt_ids"].tolist() == [[22] * 3, [23] * 3, [99, 12, 12], [99, 13, 13]]
    assert made["prompt_mask"].tolist() == [[1, 1, 1]] * 2 + [[0, 1, 1]] * 2
    assert made["completion_ids"].tolist() == [[22, 22, 99], [23, 23, 99], [12] * 3, [13] * 3]
    assert made["completion_mask"].tolist() == [[1, 1, 0]] * 2 + [[1, 1, 1]] * 2
    assert made["ref_per_token_logps"].tolist() == [[-22, -22, 0], [-23, -23, 0], [-12] * 3, [-13] * 3]
    assert made["importance_sampling_ratio"].tolist() == [[1]] * 4
    assert made["advantages"].tolist() == [22, 23, 12, 13]
    assert made["num_items_in_batch"] == 9
    unchanged = batch(10, 2, 3)
    assert all(value is unchanged[name] for name, value in with_groups(unchanged, {}, [], 2, 99).items())
    with pytest.raises(ValueError, match="pixel_values"):
        with_groups({**unchanged, "pixel_values": torch.ones(4)}, batch(20, 3, 2), [(0, 1)], 2, 99)
    assert {name for name, (side, _) in PADDING.items() if side == "left"} == {"prompt_ids", "prompt_mask"}


PROCESS = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_refilling import numbers, spread, trainer_of
trainer = trainer_of({folder!r}, {judge!r}, per_device_train_batch_size=8, max_steps=3)
trainer.train()
model = trainer.accelerator.unwrap_model(trainer.model)
found = dict(log=trainer.state.log_history, processes=trainer.accelerator.num_processes, tokens=trainer.tokens)
found["scored"] = [len(rows) for rows in trainer.scored]
found["read"] = [sorted({{row["topic"] for row in rows}}) for rows in trainer.scored]
found["numbers"] = [numbers(batch) for batch in trainer.batches]
found["spread"] = [min(spread(batch)) for batch in trainer.batches]
found["items"] = [batch["num_items_in_batch"].item() for batch in trainer.batches]
found["own"] = [batch["completion_mask"].sum().item() for batch in trainer.batches]
found["weights"] = {{name: value.detach() for name, value in model.named_parameters()}}
torch.save(found, {folder!r} + f"/{{trainer.accelerator.process_index}}.pt")
"""


@pytest.mark.slow
def test_two_processes_refill_together(judge, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PROCESS.format(tests=str(TESTS), folder=str(tmp_path), judge=str(judge)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29541", str(script)]
    subprocess.run(command, check=True, capture_output=True)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert one["processes"] == two["processes"] == 2
    assert one["scored"] == two["scored"] and len(one["scored"]) > 3
    for step in range(3):
        assert one["spread"][step] > 0 and two["spread"][step] > 0
        assert len({*one["numbers"][step], *two["numbers"][step]}) == 4
        assert one["items"][step] == two["items"][step] == one["own"][step] + two["own"][step]
    for first, second in zip(one["read"], two["read"], strict=True):
        assert not set(first) & set(second)
    log = [entry for entry in one["log"] if "spct/refilled" in entry]
    assert [entry["spct/refilled"] for entry in log] == [entry["frac_reward_zero_std"] for entry in log]
    assert log[-1]["num_tokens"] == one["tokens"] + two["tokens"]
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, msg=name)
