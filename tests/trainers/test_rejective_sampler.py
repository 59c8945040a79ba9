# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig
from tiny_models import ON_CPU, TURN_END, save_tiny, tiny_causal_lm, tiny_tokenizer
from transformers import AddedToken, AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig, TrainerCallback
from trl import SFTConfig

from trl_spct import Preference, RejectiveSampler, RejectiveSamplerConfig, parse_critique
from trl_spct.jobs import FolderInUseError, locked, write_json
from trl_spct.judge.closing import ScoreLine, unfinished
from trl_spct.judge.prompts import judge_template
from trl_spct.judge.sampling import EngineError, Sample, encode_prompts, sample_critiques
from trl_spct.trainers import rejective_sampler
from trl_spct.trainers.rejection import Outcome
from trl_spct.trainers.rejective_sampler import NothingKeptError, rejection_report

HINT = "The best response is"
BLOCK = re.compile(r"\[The Begin of Response ?\d*\]\n(.*?)\n\[The End of Response", re.DOTALL)
# Per row: what its unhinted critiques are, then what the hinted one is. c: correct, w: wrong, t: tie, u: unreadable,
# x: truncated behind a correct box.
PLAN = {"row 0": "cccc", "row 1": "cwuc", "row 2": "wtxw", "row 3": "uucc"}


def preference_rows(plan=PLAN):
    return Dataset.from_list(
        [
            {"query": f"{query}: name a prime.", "responses": ["GOOD", "bad", "worse"], "labels": [2.0, 1.0, 0.0]}
            for query in plan
        ]
    )


def critique(kind, responses):
    good = [9 if response == "GOOD" else 3 for response in responses]
    others = [3 if response == "GOOD" else 9 for response in responses]
    if len(responses) == 1:
        good, others = [int(responses == ["GOOD"])], [int(responses != ["GOOD"])]
    scores = {"c": good, "x": good, "w": others, "t": [5] * len(responses), "u": None}[kind]
    text = "no box" if scores is None else f"Some criteria. \\boxed{{{', '.join(map(str, scores))}}}"
    return Sample(text, len(text), truncated=kind == "x")


class Script:
    """A sampler that follows a plan and remembers what it was asked."""

    def __init__(self, plan=PLAN):
        self.plan = plan
        self.calls = []

    def __call__(self, prompts, k, seed, **options):
        self.calls.append([prompt[-1]["content"] for prompt in prompts])
        return [self.answer(prompt[-1]["content"], k) for prompt in prompts]

    def answer(self, text, k):
        kinds = next(kinds for query, kinds in self.plan.items() if f"{query}:" in text)
        kinds = kinds[-1] if k == 1 else kinds[:-1]
        return [critique(kind, BLOCK.findall(text)) for kind in kinds]


def config(folder, **changes):
    values = {
        "output_dir": str(folder),
        "template": "compact",
        **ON_CPU,
        "max_completion_length": 64,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "gradient_checkpointing": False,
        "rows_per_shard": 2,
    }
    return RejectiveSamplerConfig(**{**values, **changes})


def trainer_of(folder, judge, sampler=None, rows=None, changes=None, **kwargs):
    rows = preference_rows() if rows is None else rows
    sampler = Script() if sampler is None else sampler
    return RejectiveSampler(
        judge, args=config(folder, **(changes or {})), train_dataset=rows, sampler=sampler, **kwargs
    )


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A path, as Gemma-2 ships: turns end with an end-of-sequence token of the generation config."""
    path = save_tiny(tmp_path_factory.mktemp("judge"))
    tokenizer = tiny_tokenizer()
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_END)]
    GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def collected(judge, tmp_path_factory):
    """Trajectories of the plan, collected once."""
    folder = tmp_path_factory.mktemp("collected")
    trainer = trainer_of(folder, judge)
    return trainer.collect(), trainer


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_outcomes_are_those_counted_by_hand(collected):
    trajectories, trainer = collected
    by_row = {row: [] for row in range(4)}
    for record in trajectories:
        by_row[record["row"]].append((record["hinted"], record["outcome"], record["problem"]))
    assert by_row == {
        0: [(False, "too_easy", None)] * 3 + [(True, "kept", None)],
        1: [
            (False, "kept", None),
            (False, "incorrect", None),
            (False, "unreadable", "missing"),
            (True, "kept", None),
        ],
        2: [
            (False, "incorrect", None),
            (False, "incorrect", None),
            (False, "unreadable", "truncated"),
            (True, "incorrect", None),
        ],
        3: [(False, "unreadable", "missing")] * 2 + [(False, "kept", None), (True, "kept", None)],
    }
    report = trainer.report
    assert report["outcomes"] == {"kept": 2, "incorrect": 3, "unreadable": 4, "too_easy": 3}
    assert report["hinted_outcomes"] == {"kept": 3, "incorrect": 1, "unreadable": 0, "too_easy": 0}
    assert report["problems"] == {"missing": 3, "truncated": 1}
    assert (report["trajectories"], report["rows"]) == (16, 4)
    assert report["accuracy"] == pytest.approx(5 / 12)
    assert report["remarks"][-1].startswith("60% of the kept critiques were hinted")


def test_sampled_and_scored_in_the_order_that_the_judge_read(collected):
    trajectories, _ = collected
    orders = set()
    for record in trajectories:
        original = ["GOOD", "bad", "worse"]
        assert record["responses"] == original and record["labels"] == [2.0, 1.0, 0.0], "the order of the row"
        shown = BLOCK.findall(record["prompt"][-1]["content"])
        assert shown == [original[index] for index in record["order"]]
        if record["outcome"] in ("kept", "too_easy"):
            assert record["scores"][0] == 9
            written = parse_critique(record["completion"][0]["content"], 3).scores
            assert written[shown.index("GOOD")] == 9
        orders.add(tuple(record["order"]))
    assert len(orders) > 1


def test_the_hint_names_the_best_of_the_shuffled_order_and_is_never_learned(collected):
    trajectories, trainer = collected
    asked = [text for call in trainer.sampler.calls for text in call if HINT in text]
    assert len(asked) == 4
    places = set()
    for text in asked:
        place = int(re.search(rf"{HINT}: Response (\d+)", text)[1])
        assert BLOCK.findall(text)[place - 1] == "GOOD"
        places.add(place)
    assert places != {1}
    assert not any(HINT in str(record["prompt"]) + str(record["completion"]) for record in trajectories)


def test_a_hint_names_how_strong_the_preference_is_where_rows_say_so(judge, tmp_path):
    rows = preference_rows().add_column("preference_strength", [-2, 1, None, 3])
    trainer = trainer_of(tmp_path, judge, rows=rows)
    trajectories = trainer.collect()
    hints = {
        re.search(r"row \d", text)[0]: text.split(HINT)[1].partition("(")[2]
        for call in trainer.sampler.calls
        for text in call
        if HINT in text
    }
    assert hints == {
        "row 0": "preference strength: 2 of 3)",
        "row 1": "preference strength: 1 of 3)",
        "row 2": "",
        "row 3": "preference strength: 3 of 3)",
    }
    assert "strength" not in str(trajectories["prompt"][:])


@pytest.mark.parametrize(
    ("hint", "hinted"), [("all", {0, 1, 2, 3}), ("failed", {2}), ("none", set())], ids=["all", "failed", "none"]
)
def test_hint_policies(hint, hinted, judge, tmp_path):
    trajectories = trainer_of(tmp_path, judge, changes={"hint": hint}).collect()
    assert {record["row"] for record in trajectories if record["hinted"]} == hinted
    assert len(trajectories) == 12 + len(hinted)


def test_too_easy_rows_can_be_kept(judge, tmp_path):
    trajectories = trainer_of(tmp_path, judge, changes={"reject_too_easy": False}).collect()
    assert [record["outcome"] for record in trajectories if record["row"] == 0] == ["kept"] * 4


def test_training_changes_parameters_and_learns_completions_only(judge, tmp_path):
    trainer = trainer_of(tmp_path, judge)
    before = weights(trainer.model)
    trainer.train()
    for n, parameter in trainer.model.named_parameters():
        assert not torch.equal(before[n], parameter), f"Parameter {n} has not changed."
    assert len(trainer.train_dataset) == 5
    tokenizer = tiny_tokenizer()
    kept = [record for record in trainer.trajectories if record["outcome"] == "kept"]
    for row, record in zip(trainer.train_dataset, kept, strict=True):
        learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert tokenizer.decode(learned) == record["completion"][0]["content"] + f"{TURN_END}\n"
        whole = tokenizer.decode(row["input_ids"])
        assert record["prompt"][0]["content"] in whole
        assert HINT not in whole
        assert row["labels"][: -len(learned)] == [-100] * (len(row["labels"]) - len(learned))


def test_collecting_and_training_in_two_jobs_is_one_job(judge, tmp_path):
    one = trainer_of(tmp_path / "one", judge)
    one.train()
    collector = trainer_of(tmp_path / "two", judge)
    collector.collect()
    saved = load_dataset(str(tmp_path / "two" / "trajectories"), split="train", cache_dir=str(tmp_path / "cache"))
    two = trainer_of(tmp_path / "three", judge, rows=saved)
    two.train()
    assert two.trajectories.to_list() == one.trajectories.to_list()
    first, second = weights(one.model), weights(two.model)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="expected preference rows to sample"):
        two.collect()


def test_nothing_kept_says_what_to_do(judge, tmp_path):
    plan = dict.fromkeys(PLAN, "uuuu")
    trainer = trainer_of(tmp_path, judge, Script(plan), preference_rows(plan))
    with pytest.raises(
        NothingKeptError,
        match=r"out of 16 \(\{'unreadable': 16\}; problems: 16 missing\).*max_completion_length.*max_thinking_tokens.*"
        r"close_critiques.*column `critiques`.*hint='all'",
    ):
        trainer.train()


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_with_what_is_missing(judge, collected, tmp_path):
    script = Script()

    def stopping(prompts, k, seed, **options):
        if "row 2:" in prompts[0][-1]["content"]:
            raise Stop
        return script(prompts, k, seed, **options)

    stopping.__qualname__ = "Script"  # the same sampler, as far as the manifest can tell
    with pytest.raises(Stop):
        trainer_of(tmp_path, judge, stopping).collect()
    resumed = Script()
    trajectories = trainer_of(tmp_path, judge, resumed).collect()
    assert trajectories.to_list() == collected[0].to_list()
    asked = [text for call in resumed.calls for text in call]
    assert len(asked) == 4  # rows 2 and 3, unhinted and hinted
    assert all("row 2:" in text or "row 3:" in text for text in asked)
    again = Script()
    trainer_of(tmp_path, judge, again).collect()
    assert again.calls == []


def test_what_an_engine_had_completed_when_it_failed_is_kept(judge, collected, tmp_path):
    script = Script()

    class Gone(RuntimeError):
        completed = {}

    def failing(prompts, k, seed, **options):
        if k == 1 and "row 2:" in prompts[0][-1]["content"]:  # hints of the second shard
            error = Gone("the server went away")
            error.completed = {1: script(prompts, k, seed, **options)[1]}
            raise error
        return script(prompts, k, seed, **options)

    failing.__qualname__ = "Script"
    with pytest.raises(Gone, match="went away") as caught:
        trainer_of(tmp_path, judge, failing).collect()
    assert "rows 2 to 3" in caught.value.__notes__[0]
    folder = tmp_path / "trajectories"
    assert {path.name for path in folder.glob("shard-*")} == {"shard-00000.parquet", "shard-00001.samples.partial"}
    resumed = Script()
    assert trainer_of(tmp_path, judge, resumed).collect().to_list() == collected[0].to_list()
    asked = [text for call in resumed.calls for text in call]
    assert len(asked) == 1 and "row 2:" in asked[0] and HINT in asked[0], "all else was done"
    assert not list(folder.glob("*.partial"))


def test_a_sampler_is_told_how_to_sample(judge, tmp_path):
    given = []

    def sampler(prompts, k, seed, *, temperature, top_p, max_new_tokens):
        given.append((len(prompts), k, seed, temperature, top_p, max_new_tokens))
        return Script()(prompts, k, seed)

    changes = {"temperature": 0.7, "top_p": 0.9, "seed": 5, "rows_per_shard": 4}
    trainer_of(tmp_path, judge, partial(sampler, temperature=0.1), changes=changes).collect()
    assert given == [(4, 3, 5, 0.7, 0.9, 64), (4, 1, 5, 0.7, 0.9, 64)], "the configuration decides"


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda prompts, k, seed: None, "takes .*temperature.*expected a path or id, a model, or a callable"),
        (3, "`sampler` is int; expected a path"),
    ],
)
def test_what_cannot_sample_is_refused_before_a_model_is_loaded(sampler, message, tmp_path):
    hollow = save_tiny(tmp_path / "hollow")
    (tmp_path / "hollow" / "model.safetensors").unlink()
    with pytest.raises(TypeError, match=message):
        trainer_of(tmp_path, hollow, sampler)


def test_a_sampler_that_returns_too_few_samples_is_named(judge, tmp_path):
    def sampler(prompts, k, seed, **options):
        return [[Sample("\\boxed{1, 2, 3}", 3, False)] for _ in prompts]

    with pytest.raises(ValueError, match=r"lists of \[1\] samples for 2 of 2 prompts; expected k = 3"):
        trainer_of(tmp_path, judge, sampler).collect()


def test_prompts_are_fenced_against_the_special_tokens_of_who_samples(judge, tmp_path):
    class Engine(Script):
        special_tokens = ("<|end|>",)

    rows = preference_rows().map(lambda row: {"responses": ["GOOD <|end|>", *row["responses"][1:]]})
    trainer = trainer_of(tmp_path, judge, Engine(dict.fromkeys(PLAN, "uuuu")), rows)
    trajectories = trainer.collect()
    assert not any("<|end|>" in text for call in trainer.sampler.calls for text in call)
    assert all("GOOD <|end|>" in row["prompt"][0]["content"] for row in trajectories), "the judge has no such token"


def test_a_row_that_its_hint_does_not_fit_goes_without(judge, tmp_path, caplog):
    rows = preference_rows()
    rows = rows.map(lambda row, i: {"query": row["query"] + "y" * 60 * (i == 1)}, with_indices=True)
    trainer = trainer_of(tmp_path, judge, rows=rows)
    tokenizer = tiny_tokenizer()
    lengths = [
        len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False))
        for row in trainer.rows
    ]
    trainer.context_length = max(lengths) + 64  # every prompt fits, as its check had found
    trajectories = trainer.collect()
    assert {row["row"] for row in trajectories if row["hinted"]} == {0, 2, 3}
    assert "Rows [1] have no hinted trajectory" in caplog.text
    assert len(trajectories) == 15


def test_rows_that_do_not_fit_another_sampler_are_named_before_it_samples(judge, tmp_path):
    short = save_tiny(tmp_path / "short", arch="llama", max_position_embeddings=100)
    with pytest.raises(ValueError, match="train_dataset row 0: the prompt has .* context of 100"):
        trainer_of(tmp_path, judge, short).collect()
    assert not list((tmp_path / "trajectories").glob("shard-*"))


def test_rows_that_do_not_fit_another_sampler_may_be_dropped(judge, tmp_path):
    """Of the user's rows 0 to 4, row 0 is a tie and row 2 is too long for the sampler."""
    short = save_tiny(tmp_path / "short", arch="llama", max_position_embeddings=900)
    rows = [{"query": f"Row {n}" + "y" * 1000 * (n == 2), "responses": ["GOOD", "bad"]} for n in range(5)]
    rows = Dataset.from_list([{**row, "labels": [1.0, float(n == 0)]} for n, row in enumerate(rows)])
    changes = {"invalid_rows": "drop", "max_completion_length": 4}
    trajectories = trainer_of(tmp_path, judge, short, rows, changes).collect()
    assert set(trajectories["query"]) == {"Row 1", "Row 3", "Row 4"}
    assert json.loads((tmp_path / "trajectories" / "rejection.json").read_text())["refused"] == {"length": 1}
    with pytest.raises(ValueError, match="^train_dataset row 1: the prompt has .* context of 900"):
        trainer_of(tmp_path / "b", judge, short, rows.select(range(1, 5)), {"max_completion_length": 4}).collect()


@pytest.mark.parametrize("ended", [True, False])
def test_the_last_token_is_learned_whether_or_not_a_sampler_ends_with_one(ended, judge, tmp_path):
    tokenizer = tiny_tokenizer()

    class Ids(Script):
        def __call__(self, prompts, k, seed, **options):
            end = [tokenizer.eos_token_id] * ended
            drawn = super().__call__(prompts, k, seed, **options)
            return [[with_ids(sample, end) for sample in of_prompt] for of_prompt in drawn]

    def with_ids(sample, end):
        return replace(sample, ids=(*tokenizer(sample.text, add_special_tokens=False)["input_ids"], *end))

    trainer = trainer_of(tmp_path, judge, Ids())
    trainer.train()
    texts = [tokenizer.decode(ids) for ids in trainer.train_dataset["input_ids"]]
    assert texts and all(re.search(r"\\boxed\{[0-9, ]+\}<", text.splitlines()[-1]) for text in texts)


def test_the_cap_on_hinted_trajectories(judge, collected, tmp_path):
    trainer = trainer_of(tmp_path, judge, rows=collected[0], changes={"max_hinted_share": 0.5})
    trainer.train()
    assert len(trainer.train_dataset) == 4
    assert trainer.mixture == {"trajectories": 4, "hinted": 2, "general": 0}
    hints = collected[0].filter(lambda row: row["hinted"])
    with pytest.raises(NothingKeptError, match="No trajectory was kept out of 4 .*raise `max_hinted_share`"):
        trainer_of(tmp_path, judge, rows=hints, changes={"max_hinted_share": 0.5}).train()


def test_rounds_of_self_improvement(judge, tmp_path):
    """Each round samples with the weights of the one before, in a folder and an order of its own."""
    model, orders = judge, []
    for number in range(2):
        changes = {"seed": number, "max_completion_length": 4, "hint": "none", "reject_too_easy": False}
        args = config(tmp_path / f"round-{number}", **changes)
        trainer = RejectiveSampler(model, args=args, train_dataset=preference_rows())
        trajectories = trainer.collect()
        expected = sample_critiques(
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            tiny_tokenizer(),
            [trajectories[i]["prompt"] for i in range(0, 12, 3)],
            *(3, number),
            temperature=1.0,
            max_new_tokens=4,
        )
        texts = [sample.text for samples in expected for sample in samples]
        assert [record["completion"][0]["content"] for record in trajectories] == texts
        # So small a judge is never right: what it wrote is taken as if it were.
        trainer.trajectories = trajectories.map(lambda row: {"outcome": "kept"})
        trainer.train()
        trainer.save_model()
        manifest = json.loads((tmp_path / f"round-{number}" / "trajectories" / "manifest.json").read_text())
        assert manifest["sampler"] == str(model)
        orders.append(trajectories["order"][:])
        model = args.output_dir
    assert orders[0] != orders[1]


@pytest.mark.parametrize("arch", ["deepseek_v2", "llama", "qwen3"])
def test_other_architectures(arch, collected, tmp_path):
    path = save_tiny(tmp_path / arch, arch=arch)
    changes = {"eos_token": TURN_END, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}
    trainer = trainer_of(tmp_path, path, rows=collected[0], changes={**changes, "max_steps": 1})
    before = weights(trainer.model)
    trainer.train()
    unchanged = [n for n, value in trainer.model.named_parameters() if torch.equal(before[n], value)]
    assert all("expert" in name for name in unchanged), "experts that no token was sent to"


def test_packing(judge, collected, tmp_path):
    changes = {"packing": True, "max_length": 1024, "max_steps": 1}
    trainer = trainer_of(tmp_path, judge, rows=collected[0], changes=changes)
    before = weights(trainer.model)
    trainer.train()
    assert len(trainer.train_dataset) < 5
    assert all(not torch.equal(before[n], value) for n, value in trainer.model.named_parameters())


def test_fine_tuning_resumes_from_a_checkpoint(judge, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trainer_of(tmp_path, judge, changes=changes)
    whole.train()
    shutil.rmtree(tmp_path / "checkpoint-4")
    again = trainer_of(tmp_path, judge, Script({}), changes=changes)
    again.train(resume_from_checkpoint=True)
    assert again.sampler.calls == [], "the trajectories were there"
    assert again.state.global_step == 4
    first, second = weights(whole.model), weights(again.model)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_columns_of_odd_types_are_kept(judge, tmp_path):
    odd = {
        "when": [datetime(2026, 1, day) for day in (1, 2, 3, 4)],
        "bytes": [b"\x00\xff", b"", None, b"x"],
        "nested": [[{"a": [1.5]}], [], None, [{"a": None}]],
        "nothing": [None] * 4,
    }
    rows = preference_rows()
    for name, values in odd.items():
        rows = rows.add_column(name, values)
    trajectories = trainer_of(tmp_path, judge, rows=rows, changes={"hint": "none"}).collect()
    for name, values in odd.items():
        assert trajectories[name][::3] == values


KILLS = """
    import os, random, signal, sys
    from test_rejective_sampler import Script, trainer_of

    folder, judge = sys.argv[1:]
    dice = random.Random(0)


    def start(moment):
        \"\"\"A start that is killed when it opens or renames its n-th file in the folder.\"\"\"
        left = [moment]

        def kill(event, arguments):
            if event in ("open", "os.rename") and folder in str(arguments[0]):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        trainer = trainer_of(folder, judge, changes={"rows_per_shard": 1})
        trainer.log = lambda metrics: None
        trainer.collect()


    kills, ended = 0, False
    while not ended and kills < 40:
        moment = dice.randint(1, 4 + 2 * kills)
        child = os.fork()
        if child == 0:
            start(moment)
            os._exit(0)
        ended = os.waitpid(child, 0)[1] == 0
        kills += not ended
    assert ended
    print(kills)
"""


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_never_was(judge, collected, tmp_path):
    (tmp_path / "job.py").write_text(textwrap.dedent(KILLS))
    done = run_python([tmp_path / "job.py", tmp_path / "run", judge])
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 3
    resumed = Script({})
    trajectories = trainer_of(tmp_path / "run", judge, resumed, changes={"rows_per_shard": 1}).collect()
    assert resumed.calls == []
    assert trajectories.to_list() == collected[0].to_list()
    assert not list((tmp_path / "run" / "trajectories").glob("*.partial"))


KILLED = """
    import os, signal, sys
    from test_rejective_sampler import Script, preference_rows, trainer_of

    class Killing(Script):
        def __call__(self, prompts, k, seed, **options):
            if "row 2:" in prompts[0][-1]["content"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(prompts, k, seed, **options)

    Killing.__qualname__ = "Script"
    trainer_of(sys.argv[1], sys.argv[2], Killing()).collect()
"""


def run_python(arguments, **kwargs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, **kwargs)


def test_a_killed_run_goes_on_with_what_is_missing(judge, collected, tmp_path):
    (tmp_path / "job.py").write_text(textwrap.dedent(KILLED))
    done = run_python([tmp_path / "job.py", tmp_path / "run", judge])
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "run" / "trajectories"
    assert [path.name for path in sorted(folder.glob("shard-*.parquet"))] == ["shard-00000.parquet"]
    resumed = Script()
    trajectories = trainer_of(tmp_path / "run", judge, resumed).collect()
    assert trajectories.to_list() == collected[0].to_list()
    assert len(resumed.calls) == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 7}, "seed: 42 there, 7 now"),
        ({"temperature": 0.7}, "temperature: 1.0 there, 0.7 now"),
        ({"hint": "none"}, "hint: 'all' there, 'none' now"),
        ({"rows_per_shard": 3}, "rows_per_shard: 2 there, 3 now"),
        ({"template": "paper"}, "template: 'compact' there, 'paper' now"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_configuration_is_refused(changes, named, judge, collected):
    folder = collected[1].args.output_dir
    with pytest.raises(FileExistsError, match=re.escape(named)):
        trainer_of(folder, judge, changes=changes).collect()


def test_an_engine_with_other_variables_is_refused(judge, collected):
    sampler = Script()
    sampler.chat_template_kwargs = {"enable_thinking": False}
    with pytest.raises(
        FileExistsError, match="sampler_chat_template_kwargs: None there, {'enable_thinking': False} now"
    ):
        trainer_of(collected[1].args.output_dir, judge, sampler).collect()


def test_other_rows_are_refused(judge, collected):
    rows = preference_rows().map(lambda row: {"query": row["query"] + " Please."})
    with pytest.raises(FileExistsError, match="data: "):
        trainer_of(collected[1].args.output_dir, judge, rows=rows).collect()


def test_another_sampler_is_refused(judge, collected):
    def other(prompts, k, seed, **options):
        raise AssertionError

    with pytest.raises(FileExistsError, match="sampler: 'Script' there, '.*other' now"):
        trainer_of(collected[1].args.output_dir, judge, other).collect()


def test_a_judge_that_was_trained_on_in_its_folder_is_another_one(tmp_path):
    changes = {"max_completion_length": 2, "hint": "none"}

    def collect():
        args = config(tmp_path / "out", **changes)
        return RejectiveSampler(path, args=args, train_dataset=preference_rows()).collect()

    path = save_tiny(tmp_path / "judge")
    first = collect()
    save_tiny(tmp_path / "judge")
    assert collect().to_list() == first.to_list()
    save_tiny(tmp_path / "judge", seed=1)
    with pytest.raises(FileExistsError, match="sampler_weights: "):
        collect()


GENERAL = {
    "messages": [
        {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"It is {i}."}]}
        for i in range(40)
    ],
    "text": [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(40)],
    "conversational": [
        {
            "prompt": [{"role": "user", "content": f"Say {i}."}],
            "completion": [{"role": "assistant", "content": f"It is {i}."}],
        }
        for i in range(40)
    ],
    "with tools": [
        {
            "messages": [
                {"role": "user", "content": f"Say {i}.", "tool_calls": None},
                {"role": "assistant", "content": f"It is {i}.", "tool_calls": ["x"]},
            ],
            "source": "somewhere",
        }
        for i in range(40)
    ],
}


@pytest.mark.parametrize("shape", GENERAL)
def test_general_data_of_any_shape_is_mixed_in(shape, collected, judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, rows=collected[0], general_dataset=Dataset.from_list(GENERAL[shape]))
    kept, general = trainer._training_rows(trainer.trajectories)
    assert (len(kept), len(general)) == (5, 29)  # round(5.75 * 5)
    numbers = {re.fullmatch(r"Say (\d+)\.", row["prompt"][0]["content"])[1] for row in general}
    assert len(numbers) == 29
    assert all(
        row["completion"] == [{"role": "assistant", "content": f"It is {row['prompt'][0]['content'][4:]}"}]
        for row in general
    )


@pytest.mark.parametrize(("ratio", "mixed"), [(0.0, 0), (1.0, 5), (1000.0, 40)])
def test_general_ratio(ratio, mixed, collected, judge, tmp_path):
    general = Dataset.from_list(GENERAL["text"])
    changes = {"general_ratio": ratio}
    trainer = trainer_of(tmp_path, judge, rows=collected[0], changes=changes, general_dataset=general)
    kept, general = trainer._training_rows(trainer.trajectories)
    assert len(kept) == 5 and len(general or ()) == mixed


def test_training_on_a_mixture(collected, judge, tmp_path):
    general = Dataset.from_list(GENERAL["text"])
    trainer = trainer_of(tmp_path, judge, rows=collected[0], changes={"general_ratio": 1.0}, general_dataset=general)
    trainer.train()
    assert len(trainer.train_dataset) == 10
    assert all(-100 in row["labels"] and row["labels"][-1] != -100 for row in trainer.train_dataset)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x"}], "found the columns.*text.*expected instruction data"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "Preference rows hold no critique"),
        ([{"prompt": "p", "completion": "a", "label": True}], "Preference rows hold no critique"),
        ([{"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": ""}], "row 1: found no prompt or no"),
        ([{"messages": [{"role": "user", "content": "x"}] * 2}], "row 0: found a last turn of the role 'user'"),
    ],
)
def test_bad_instruction_data_is_refused_before_sampling(rows, message, judge, tmp_path):
    with pytest.raises(ValueError, match=f"general_dataset.*{message}"):
        trainer_of(tmp_path, judge, general_dataset=Dataset.from_list(rows))


def test_evaluation_on_rows_without_critiques_is_refused(judge, tmp_path):
    with pytest.raises(ValueError, match=r"eval_dataset\['a'\]: found the columns .*; expected trajectories"):
        trainer_of(tmp_path, judge, eval_dataset={"a": preference_rows()})
    trainer = trainer_of(tmp_path, judge)
    for rows in (preference_rows(), Dataset.from_list([{"prompt": "q", "completion": "good", "label": True}])):
        with pytest.raises(ValueError, match="eval_dataset: found the columns .*; expected trajectories"):
            trainer.evaluate(rows)


def test_evaluation_on_trajectories_uses_the_kept_ones(collected, judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, rows=collected[0], eval_dataset={"held": collected[0]})
    assert len(trainer.eval_dataset["held"]) == 5
    metrics = trainer.evaluate()
    assert metrics["eval_held_loss"] > 0
    assert trainer.evaluate(collected[0])["eval_loss"] == pytest.approx(metrics["eval_held_loss"])
    wrong = collected[0].filter(lambda row: row["outcome"] != "kept")
    with pytest.raises(ValueError, match="eval_dataset: found no kept trajectory among 11"):
        trainer_of(tmp_path, judge, rows=collected[0], eval_dataset=wrong)


def test_trajectories_of_another_template_are_refused(collected, judge, tmp_path):
    with pytest.raises(ValueError, match="template 'compact'.*Set `template='compact'`"):
        trainer_of(tmp_path, judge, rows=collected[0], changes={"template": "paper"})


def test_trajectories_must_be_whole(collected, judge, tmp_path):
    with pytest.raises(ValueError, match="expected what `collect\\(\\)` returned"):
        trainer_of(tmp_path, judge, rows=collected[0].remove_columns(["row"]))
    with pytest.raises(ValueError, match="found no trajectories"):
        trainer_of(tmp_path, judge, rows=collected[0].select([]))


def test_single_responses_are_judged_right_or_wrong(judge, tmp_path):
    rows = Dataset.from_list(
        [
            {"query": "row 1: name a prime.", "responses": ["GOOD"], "labels": [1.0]},
            {"query": "row 3: name a prime.", "responses": ["worse"], "labels": [0.0]},
        ]
    )
    trainer = trainer_of(tmp_path, judge, rows=rows)
    trajectories = trainer.collect()
    assert [record["outcome"] for record in trajectories] == [
        *["kept", "incorrect", "unreadable", "kept"],
        *["unreadable", "unreadable", "kept", "kept"],
    ]
    assert {tuple(record["scores"]) for record in trajectories if record["row"] == 1 and record["scores"]} == {(0,)}
    hinted = trainer.sampler.calls[1]
    assert [text.rstrip().splitlines()[-1] for text in hinted] == [
        "The correct score is: 1",
        "The correct score is: 0",
    ]
    assert not any("correct score is" in text for text in trainer.sampler.calls[0])


def test_a_verdict_of_ten_is_out_of_range_for_a_single_response(judge, tmp_path):
    rows = Dataset.from_list([{"query": "q", "responses": ["GOOD"], "labels": [1.0]}])

    def sampler(prompts, k, seed, **options):
        return [[Sample("\\boxed{10}", 3, False)] * k for _ in prompts]

    trajectories = trainer_of(tmp_path, judge, sampler, rows).collect()
    assert set(trajectories["problem"]) == {"range"}


def test_rows_of_different_lengths_share_a_shard(judge, tmp_path):
    rows = Dataset.from_list(
        [
            {"query": "row 1: x", "responses": ["GOOD"], "labels": [1.0]},
            {"query": "row 3: x", "responses": ["bad", "GOOD", "b", "c", "d"], "labels": [0.0, 1.0, 0.0, 0.0, 0.0]},
            {"query": "row 2: x", "responses": ["bad", "GOOD"], "labels": [0.0, 1.0]},
        ]
    )
    trajectories = trainer_of(tmp_path, judge, rows=rows).collect()
    found = {record["row"]: len(record["scores"]) for record in trajectories if record["scores"]}
    assert found == {0: 1, 1: 5, 2: 2}


def test_shards_without_scores_or_problems_join_the_others(judge, tmp_path):
    plan = {"row 0": "uuuu", "row 1": "cccc", "row 2": "cwcc"}
    script = Script(plan)
    trajectories = trainer_of(tmp_path, judge, script, preference_rows(plan), {"rows_per_shard": 1}).collect()
    assert trajectories["scores"][:4] == [None] * 4
    assert trajectories["problem"][4:8] == [None] * 4
    assert len(trajectories) == 12


def test_unknown_columns_are_kept(judge, tmp_path):
    rows = preference_rows().add_column("topic", [{"name": f"t{i}"} for i in range(4)])
    trajectories = trainer_of(tmp_path, judge, rows=rows).collect()
    assert [record["topic"]["name"] for record in trajectories] == [f"t{i}" for i in range(4) for _ in range(4)]


def test_the_folder_says_what_it_holds(collected):
    _, trainer = collected
    folder = Path(trainer.args.output_dir) / "trajectories"
    assert json.loads((folder / "rejection.json").read_text()) == trainer.report
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["template"] == "compact"
    assert manifest["rows"] == 4
    assert rejection_report(load_dataset("parquet", data_files=str(folder / "*.parquet"))["train"]) == trainer.report
    assert not list(folder.glob("*.partial"))
    assert (manifest["seed"], manifest["sampler_revision"]) == (42, None)


class Recorder(TrainerCallback):
    def __init__(self):
        self.logged = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logged |= logs


def test_the_report_goes_to_the_trackers(judge, tmp_path):
    recorder = Recorder()
    trainer = trainer_of(tmp_path, judge, callbacks=[recorder])
    trainer.train()
    assert recorder.logged["rft/kept"] == pytest.approx(5 / 16)
    assert recorder.logged["rft/rows_with_0/3"] == 1 / 4
    assert recorder.logged["rft/trained_on/trajectories"] == 5
    assert recorder.logged["train_loss"] > 0
    facts = trainer.card_facts()
    assert (facts["fine-tuned on, trajectories"], facts["fine-tuned on, hinted"]) == (5, 3)


def test_adapters_are_trained_and_the_base_is_not(judge, tmp_path):
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "up_proj"])
    trainer = trainer_of(tmp_path, judge, peft_config=peft_config)
    before = weights(trainer.model)
    trainer.train()
    for n, parameter in trainer.model.named_parameters():
        assert torch.equal(before[n], parameter) is ("lora" not in n), f"Parameter {n}"


def test_an_adapter_goes_on_by_its_path(judge, collected, tmp_path):
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    first = trainer_of(tmp_path / "first", judge, rows=collected[0], peft_config=peft_config)
    first.train()
    first.save_model()
    second = trainer_of(tmp_path / "second", str(tmp_path / "first"), rows=collected[0])
    loaded, saved = weights(second.model), weights(first.model)
    adapters = [name for name in saved if "lora" in name]
    assert adapters
    assert all(torch.equal(loaded[name], saved[name]) for name in adapters)
    said = json.loads((tmp_path / "first" / "grm.json").read_text())
    assert said["template"] == first.args.template, "a pipeline prompts it as it was trained"
    second.train()
    assert not any(torch.equal(value, loaded[name]) for name, value in weights(second.model).items() if "lora" in name)


def test_quantized_models_keep_their_gradients_after_sampling(judge, tmp_path):
    script = Script()

    def sampler(prompts, k, seed, **options):
        sample_critiques(
            trainer.model, trainer.processing_class, prompts[:1], 1, seed, max_new_tokens=2, temperature=1.0
        )
        return script(prompts, k, seed, **options)

    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    trainer = trainer_of(
        tmp_path, judge, sampler, changes={"max_steps": 1}, quantization_config=quantization, peft_config=peft_config
    )
    before = weights(trainer.model)
    trainer.train()
    for n, parameter in trainer.model.named_parameters():
        if "lora" in n:
            assert not torch.equal(before[n], parameter), f"Parameter {n} has not changed."


def test_quantized_models_keep_their_gradients_after_evaluation(judge, collected, tmp_path):
    trainer = trainer_of(
        tmp_path,
        judge,
        rows=collected[0],
        changes={"max_steps": 1},
        eval_dataset=collected[0],
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False),
    )
    packed = {n: value for n, value in weights(trainer.model).items() if "lora" not in n}
    trainer.evaluate()
    trainer.train()
    after = weights(trainer.model)
    assert all(after[n].shape == value.shape and torch.equal(after[n], value) for n, value in packed.items())


def test_the_model_samples_itself(judge, tmp_path):
    changes = {"max_completion_length": 6, "rows_per_shard": 4, "num_generations": 2}
    trainer = RejectiveSampler(judge, args=config(tmp_path, **changes), train_dataset=preference_rows())
    trajectories = trainer.collect()
    unhinted = [record for record in trajectories if not record["hinted"]]
    expected = sample_critiques(
        AutoModelForCausalLM.from_pretrained(judge, dtype=torch.float32),
        tiny_tokenizer(),
        [trajectories[i]["prompt"] for i in range(0, 12, 3)],
        2,
        trainer.args.seed,
        temperature=1.0,
        max_new_tokens=6,
    )
    texts = [sample.text for samples in expected for sample in samples]
    assert [record["completion"][0]["content"] for record in unhinted] == texts
    assert len(set(texts)) > 4


@pytest.mark.parametrize("given", ["path", "instance"])
def test_another_model_may_sample(given, judge, tmp_path):
    other = save_tiny(tmp_path / "other", arch="llama", seed=3)
    sampler = other if given == "path" else AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32)
    changes = {"max_completion_length": 6, "hint": "none"}
    trajectories = trainer_of(tmp_path / given, judge, sampler, changes=changes).collect()
    expected = sample_critiques(
        AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32),
        tiny_tokenizer(),
        [trajectories[i]["prompt"] for i in range(0, 12, 3)],
        3,
        42,
        temperature=1.0,
        max_new_tokens=6,
    )
    texts = [sample.text for samples in expected for sample in samples]
    assert [record["completion"][0]["content"] for record in trajectories] == texts
    manifest = json.loads((tmp_path / given / "trajectories" / "manifest.json").read_text())
    assert manifest["sampler"] == other


TWO_PROCESSES = """
    import json, sys
    from test_rejective_sampler import Script, config, preference_rows, trainer_of
    from trl_spct import RejectiveSampler

    folder, judge = sys.argv[1:]
    own = RejectiveSampler(
        judge, args=config(folder + "/own", max_completion_length=6, rows_per_shard=1), train_dataset=preference_rows()
    )
    assert own.accelerator.num_processes == 2
    own.collect()
    scripted = trainer_of(folder + "/scripted", judge)
    scripted.train()
    assert len(scripted.trajectories) == 16
    asked = [text for call in scripted.sampler.calls for text in call]
    assert len(asked) == 4, "each process does its share"
    weights = {name: value.double().sum().item() for name, value in scripted.model.named_parameters()}
    with open(f"{folder}/rank-{scripted.accelerator.process_index}.json", "w") as file:
        json.dump(weights, file)
    scripted.accelerator.wait_for_everyone()  # a process that ends first may abort the other one
    scripted.end()
"""


def test_two_processes_make_the_trajectories_of_one(judge, collected, tmp_path):
    (tmp_path / "job.py").write_text(textwrap.dedent(TWO_PROCESSES))
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "--local-addr=localhost"]
    done = run_python([*launch, tmp_path / "job.py", tmp_path, judge])
    assert done.returncode == 0, done.stderr[-3000:]
    changes = {"max_completion_length": 6, "rows_per_shard": 1}
    alone = RejectiveSampler(judge, args=config(tmp_path / "alone", **changes), train_dataset=preference_rows())
    files = {"one": tmp_path / "alone", "two": tmp_path / "own"}
    alone.collect()
    one, two = (
        load_dataset("parquet", data_files=str(folder / "trajectories" / "*.parquet"))["train"].to_list()
        for folder in files.values()
    )
    assert one == two
    scripted = tmp_path / "scripted" / "trajectories" / "*.parquet"
    assert load_dataset("parquet", data_files=str(scripted))["train"].to_list() == collected[0].to_list()
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]


def test_sharded_models_do_not_sample(judge, collected, tmp_path):
    trainer = RejectiveSampler(judge, args=config(tmp_path), train_dataset=preference_rows())
    trainer.is_fsdp_enabled = True
    with pytest.raises(RuntimeError, match="FSDP or ZeRO-3.*Call `collect\\(\\)` in a job without sharding"):
        trainer.collect()
    prepared = trainer_of(collected[1].args.output_dir, judge)
    prepared.is_fsdp_enabled = True
    assert len(prepared.collect()) == 16


def learned(trainer):
    return [[token for token in row["labels"] if token != -100] for row in trainer.train_dataset]


def test_a_judge_always_learns_to_stop(collected, tmp_path):
    path = save_tiny(tmp_path / "endless")  # its turns end with <end_of_turn>, its texts with <eos>
    trainer = trainer_of(tmp_path, path, rows=collected[0])
    trainer.train()
    assert all(ids[-1] == tiny_tokenizer().eos_token_id for ids in learned(trainer))
    trainer = trainer_of(tmp_path, path, rows=collected[0], changes={"eos_token": TURN_END})
    trainer.train()
    assert all(tiny_tokenizer().decode(ids[-2:]) == f"{TURN_END}\n" for ids in learned(trainer))
    assert trainer.model.generation_config.eos_token_id[0] == trainer.processing_class.convert_tokens_to_ids(TURN_END)


def test_a_chat_template_may_come_with_the_configuration(judge, collected, tmp_path):
    tokenizer = tiny_tokenizer()
    (tmp_path / "chat.jinja").write_text(tokenizer.chat_template)
    tokenizer.chat_template = None
    changes = {"chat_template_path": str(tmp_path / "chat.jinja")}
    trainer = trainer_of(tmp_path, judge, changes=changes, processing_class=tokenizer)
    assert trainer.collect().to_list() == collected[0].to_list()
    with pytest.raises(ValueError, match="no chat template"):
        bare = tiny_tokenizer()
        bare.chat_template = None
        trainer_of(tmp_path, judge, processing_class=bare)


def test_the_configuration_names_the_template_for_the_pipeline(judge, collected, tmp_path):
    trainer = trainer_of(tmp_path, judge, rows=collected[0])
    trainer.train()
    trainer.save_model()
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["grm"]["template"] == "compact"
    assert len(saved["grm"]["template_digests"]) == 2
    assert (tmp_path / "tokenizer_config.json").exists()


def test_a_bad_row_is_named_before_the_model_is_loaded(judge, tmp_path):
    hollow = tmp_path / "hollow"
    save_tiny(hollow)
    (hollow / "model.safetensors").unlink()
    rows = [*preference_rows().to_list(), {"query": "q", "responses": ["a", "b"], "labels": [1.0, 1.0]}]
    with pytest.raises(ValueError, match="train_dataset row 4"):
        trainer_of(tmp_path, str(hollow), rows=Dataset.from_list(rows))


def test_rows_that_cannot_be_used_may_be_dropped(judge, tmp_path):
    rows = [*preference_rows().to_list(), {"query": "q", "responses": ["a", "b"], "labels": [1.0, 1.0]}]
    trainer = trainer_of(tmp_path, judge, rows=Dataset.from_list(rows), changes={"invalid_rows": "drop"})
    assert len(trainer.rows) == 4


def test_train_dataset_is_required(judge, tmp_path):
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        RejectiveSampler(judge, args=config(tmp_path))


def test_configurations_of_trl_are_refused(judge, tmp_path):
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(TypeError, match="`args` is SFTConfig; expected RejectiveSamplerConfig"):
        RejectiveSampler(judge, args=args, train_dataset=preference_rows())


def test_streams_are_refused(judge, collected, tmp_path):
    stream = preference_rows().to_iterable_dataset()
    with pytest.raises(TypeError, match="train_dataset is IterableDataset"):
        trainer_of(tmp_path, judge, rows=stream)
    with pytest.raises(TypeError, match="general_dataset is IterableDataset"):
        trainer_of(tmp_path, judge, rows=collected[0], general_dataset=stream)


def test_models_in_memory_need_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="expected a tokenizer as `processing_class`"):
        trainer_of(tmp_path, tiny_causal_lm())
    trainer = trainer_of(tmp_path, tiny_causal_lm(), processing_class=tiny_tokenizer())
    assert len(trainer.collect()) == 16


def test_the_configuration_is_the_papers():
    values = RejectiveSamplerConfig(use_cpu=True, bf16=False)
    assert values.num_generations == 3
    assert values.learning_rate == 5e-6
    assert values.hint == "all"
    assert values.reject_too_easy is True
    assert values.general_ratio == pytest.approx(1070 / 186, abs=0.01)
    assert values.max_length is None


def test_the_configuration_survives_serialization(tmp_path):
    given = config(tmp_path, hint="failed", template="compact", trajectories_dir="there", model_init_kwargs='{"a": 1}')
    again = RejectiveSamplerConfig(
        **{name: value for name, value in given.to_dict().items() if not str(value).startswith("<")}
    )
    for name in ("hint", "template", "trajectories_dir", "general_ratio", "rows_per_shard", "model_init_kwargs"):
        assert getattr(again, name) == getattr(given, name)
    assert given.model_init_kwargs == {"a": 1}
    torch.save(given, tmp_path / "training_args.bin")
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).to_dict() == given.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 0}, "num_generations=0"),
        ({"hint": "some"}, "hint='some'"),
        ({"temperature": 0.0}, "temperature=0.0; expected more than 0, since greedy samples are all the same"),
        ({"temperature": -1.0}, "temperature=-1"),
        ({"top_p": 0.0}, "top_p=0"),
        ({"num_generations": 1}, "every correct trajectory counts as too easy"),
        ({"rows_per_shard": 0}, "rows_per_shard=0"),
        ({"sampling_batch_size": 0}, "sampling_batch_size=0"),
        ({"general_ratio": -1.0}, "general_ratio=-1"),
        ({"max_hinted_share": 1.5}, "max_hinted_share=1.5"),
    ],
)
def test_impossible_configurations_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_every_outcome_is_reported(collected):
    assert set(collected[1].report["outcomes"]) == {outcome.value for outcome in Outcome}
    assert Preference.from_row(collected[0][0]).labels is not None


# Opens the draft in the generation prompt and strips it from finished turns, as R1-distill's.
STRIPS = (
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
    "{{ m.content.split('</think>')[-1] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n<think>\n{% endif %}"
)
# Moves the draft of a finished turn before its answer, as Nemotron's, and closes an empty one.
MOVES = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<start_of_turn>model\n<think></think>"
    "{{ m.content | replace('</think>', '') | upper }}<end_of_turn>\n{% else %}<start_of_turn>user\n{{ m.content }}"
    "<end_of_turn>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@pytest.mark.parametrize("template", [STRIPS, MOVES], ids=["strips", "moves"])
@pytest.mark.parametrize("knows_ids", [True, False])
def test_what_was_sampled_is_trained_on_although_the_template_rewrites_it(template, knows_ids, judge, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    end = tokenizer.convert_tokens_to_ids(TURN_END)

    class Thinker(Script):
        def answer(self, text, k):
            made = super().answer(text, k)
            texts = [f" first, this </think>  {sample.text}" for sample in made]
            ids = [(*tokenizer.encode(text, add_special_tokens=False), end) if knows_ids else None for text in texts]
            return [Sample(t, 9, s.truncated, i) for t, s, i in zip(texts, made, ids, strict=True)]

    trainer = trainer_of(tmp_path, judge, Thinker(), processing_class=tokenizer, eval_dataset=None)
    trainer.train()
    kept = [record for record in trainer.trajectories if record["outcome"] == "kept"]
    assert len(kept) == len(trainer.train_dataset) == 5
    for row, record in zip(trainer.train_dataset, kept, strict=True):
        prompt = tokenizer.apply_chat_template(record["prompt"], add_generation_prompt=True, return_dict=False)
        assert row["input_ids"][: len(prompt)] == prompt
        completion = tokenizer.decode(row["input_ids"][len(prompt) :])
        assert completion == record["completion"][0]["content"] + f"{TURN_END}\n"
        assert row["labels"] == [-100] * len(prompt) + row["input_ids"][len(prompt) :]
    other = trainer_of(tmp_path / "eval", judge, rows=trainer.trajectories, processing_class=tokenizer)
    other.eval_dataset = other._prepared(trainer.trajectories.select(range(3, 4)), False, "eval")
    assert other.eval_dataset[0] == trainer.train_dataset[0], "row 0 keeps its hinted critique, without the hint"


def test_sampled_tokens_are_trained_on_as_they_were_cut(judge, tmp_path):
    """Text has many tokenizations; ids of another vocabulary do not decode to the text and are not used."""
    tokenizer = tiny_tokenizer()
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    text = "good \\boxed{9, 1, 1}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    cut = [*ids[:4], tokenizer.bos_token_id, *ids[4:], end]  # decoded without special tokens, it is the same text
    rows = trainer_of(tmp_path, judge).collect().filter(lambda row: row["outcome"] == "kept").select(range(3))
    changed = [{"completion_ids": cut}, {"completion_ids": [7, 8, 9, end]}, {"completion_ids": None}]
    rows = Dataset.from_list(
        [
            {**row, **change, "completion": [{"role": "assistant", "content": text}]}
            for row, change in zip(rows, changed, strict=True)
        ],
        features=rows.features,
    )
    trainer = trainer_of(tmp_path / "train", judge, rows=rows)
    trainer.train()
    newline = tokenizer.encode("\n", add_special_tokens=False)
    assert learned(trainer) == [[*cut, *newline], [*ids, end, *newline], [*ids, end, *newline]]


def test_an_end_token_that_only_the_tokenizer_file_calls_special_is_not_learned(judge, tmp_path):
    """As Llama 3's `<|eot_id|>` where a sampler ends with it, and the judge with another."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|eot|>", special=True)])
    eot = tokenizer.convert_tokens_to_ids("<|eot|>")
    assert eot not in tokenizer.all_special_ids
    text = "good \\boxed{9, 1, 1}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    rows = trainer_of(tmp_path, judge).collect().filter(lambda row: row["outcome"] == "kept").select([0])
    change = {"completion_ids": [*ids, eot], "completion": [{"role": "assistant", "content": text}]}
    rows = Dataset.from_list([{**rows[0], **change}], features=rows.features)
    trainer = trainer_of(tmp_path / "train", judge, rows=rows, processing_class=tokenizer)
    trainer.model.resize_token_embeddings(len(tokenizer))
    trainer.train()
    end, newline = tokenizer.convert_tokens_to_ids(TURN_END), tokenizer.encode("\n", add_special_tokens=False)
    assert learned(trainer) == [[*ids, end, *newline]]
    line = ScoreLine.of(judge_template(), 2)
    prompt, cut = [{"role": "user", "content": "q"}], Sample("Hm.", 1, False, ids=(*ids[:2], eot))
    ((_, begun),) = unfinished(tokenizer, [prompt], [cut], [line])
    assert begun == [*ids[:2], *tokenizer.encode(line.opening, add_special_tokens=False)]


def thinking(tokenizer, text):
    """A sampler whose critiques are text behind a draft of special tokens."""
    end = tokenizer.convert_tokens_to_ids(TURN_END)

    class Thinker(Script):
        def answer(self, prompt, k):
            made = [(text.format(sample.text), sample) for sample in super().answer(prompt, k)]
            ids = [(*tokenizer.encode(text, add_special_tokens=False), end) for text, _ in made]
            return [Sample(text, 9, s.truncated, i) for (text, s), i in zip(made, ids, strict=True)]

    return Thinker()


def test_drafts_of_special_tokens_are_trained_on_as_they_were_sampled(judge, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<think>", "</think>"]}, replace_extra_special_tokens=False
    )
    trainer = trainer_of(tmp_path, judge, thinking(tokenizer, "<think>so</think>{}"), processing_class=tokenizer)
    trainer.model.resize_token_embeddings(len(tokenizer))
    trajectories = trainer.collect()
    changed = [
        [ids[0], tokenizer.bos_token_id, *ids[1:]] for ids in trajectories["completion_ids"]
    ]  # of the same text
    rows = trajectories.remove_columns("completion_ids").add_column(
        "completion_ids", changed, feature=trajectories.features["completion_ids"]
    )
    trainer.trajectories = rows
    trainer.train()
    newline = tokenizer.encode("\n", add_special_tokens=False)
    kept = [record for record in rows if record["outcome"] == "kept"]
    assert learned(trainer) == [[*record["completion_ids"], *newline] for record in kept] and len(kept) == 5


@pytest.mark.parametrize(
    ("text", "difference"),
    [
        ("{}", "opens a draft, and the critique never closes it"),
        ("<think>so</think>{}", "the critique opens it again"),
    ],
)
def test_critiques_that_do_not_fit_to_the_judges_prompt_are_refused(text, difference, judge, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = STRIPS
    trainer = trainer_of(tmp_path, judge, thinking(tokenizer, text), processing_class=tokenizer)
    with pytest.raises(ValueError, match=rf"of row 0 does not fit to the judge's prompt: .*{difference}"):
        trainer.train()


# Llama 3.2's way to print today's date, and Qwen3's way to switch drafts off.
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}Today: "
    "{{ date_string }}\n{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n"
    "{% if quiet is defined %}Quiet.\n{% endif %}{% endif %}"
)


def shown_prompts(monkeypatch):
    """The prompts that are read in this process, as texts."""
    texts = []

    def sampling(model, tokenizer, prompts, k=1, seed=None, *, chat_template_kwargs=None, **options):
        texts.extend(map(tokenizer.decode, encode_prompts(tokenizer, prompts, chat_template_kwargs)))
        return Script()(prompts, k, seed)

    monkeypatch.setattr(rejective_sampler, "sample_critiques", sampling)
    return texts


def dated_trainer(folder, judge, **changes):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = DATED
    args = config(folder, **changes)
    return RejectiveSampler(judge, args=args, train_dataset=preference_rows(), processing_class=tokenizer)


def test_a_resumed_run_goes_on_with_the_date_it_began_with(judge, tmp_path, monkeypatch):
    shown = shown_prompts(monkeypatch)
    dated_trainer(tmp_path, judge).collect()
    today = datetime.now().strftime("%d %b %Y")
    assert len(shown) == 8 and all(text.startswith(f"Today: {today}\n") for text in shown)
    folder = tmp_path / "trajectories"
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", {**manifest, "started_on": "2020-02-03"})
    first = pq.read_table(folder / "shard-00000.parquet")
    earlier = first.set_column(
        first.column_names.index("sampled_on"), "sampled_on", pa.array(["2020-02-03"] * len(first))
    )
    pq.write_table(earlier.cast(first.schema), folder / "shard-00000.parquet")
    (folder / "shard-00001.parquet").unlink()
    shown.clear()
    trainer = dated_trainer(tmp_path, judge)
    trainer.train()
    assert len(shown) == 4 and all(text.startswith("Today: 03 Feb 2020\n") for text in shown)
    later = dated_trainer(tmp_path / "later", judge)
    later.trajectories = trainer.trajectories  # of a job on another day
    later.train()
    for tokenized in (trainer.train_dataset, later.train_dataset):
        texts = [trainer.judge_tokenizer.decode(ids) for ids in tokenized["input_ids"]]
        assert len(texts) == 5 and all(text.startswith("Today: 03 Feb 2020\n") for text in texts)


def test_variables_of_the_chat_template_reach_every_prompt(judge, tmp_path, monkeypatch):
    shown = shown_prompts(monkeypatch)
    variables = {"quiet": True, "date_string": "a day"}
    trainer = dated_trainer(tmp_path, judge, chat_template_kwargs=variables, general_ratio=1.0)
    trainer.general_dataset = Dataset.from_list(GENERAL["conversational"])
    trainer.train()
    texts = [*shown, *map(trainer.judge_tokenizer.decode, trainer.train_dataset["input_ids"])]
    assert len(texts) == 18 and all(text.startswith("Today: a day\n") for text in texts)
    assert sum("model\nQuiet.\n" in text for text in texts) == 13, "all but the general data"
    manifest = json.loads((tmp_path / "trajectories" / "manifest.json").read_text())
    assert manifest["chat_template_kwargs"] == trainer.model.config.grm["chat_template_kwargs"] == variables
    with pytest.raises(FileExistsError, match="chat_template_kwargs"):
        dated_trainer(tmp_path, judge, chat_template_kwargs={"quiet": True}).collect()
    trainer.save_model()
    assert dated_trainer(tmp_path / "next", str(tmp_path)).args.chat_template_kwargs == variables, "the judge's own"


def test_two_runs_do_not_train_into_one_folder(collected, judge, tmp_path):
    changes = {"trajectories_dir": str(tmp_path / "own")}
    trainer = trainer_of(tmp_path / "own", judge, changes=changes)
    trainer.train()
    trainer = trainer_of(tmp_path, judge, rows=collected[0])
    with locked(tmp_path), pytest.raises(FolderInUseError, match="in use by another run"):
        trainer.train()
    trainer.train()


def test_a_model_keeps_the_tokens_that_it_samples(judge, tmp_path):
    args = config(tmp_path, max_completion_length=5)
    trajectories = RejectiveSampler(judge, args=args, train_dataset=preference_rows()).collect()
    tokenizer = tiny_tokenizer()
    for record in trajectories:
        assert len(record["completion_ids"]) == record["num_tokens"] <= 5
        decoded = tokenizer.decode(record["completion_ids"], skip_special_tokens=True)
        assert decoded == record["completion"][0]["content"]


def test_any_callable_of_the_documented_signature_samples(judge, tmp_path):
    script = Script()

    def sampler(prompts, k, seed, *, temperature, top_p, max_new_tokens):
        assert (temperature, top_p, max_new_tokens) == (1.0, 1.0, 64) and isinstance(k, int)
        return script(prompts, k, seed)

    assert len(trainer_of(tmp_path, judge, sampler).collect()) == 16


@pytest.mark.parametrize("given", [False, True], ids=["collected", "given"])
def test_a_summary_is_logged(given, collected, judge, tmp_path, caplog):
    with caplog.at_level("INFO"):
        trainer_of(tmp_path, judge, rows=collected[0] if given else None).train()
    assert "Fine-tuned on 5 trajectories, 3 hinted, 0 general of 16 trajectories of 4 rows" in caplog.text
    assert "16 trajectories of 4 rows" in caplog.text
    assert "unhinted: 2 kept, 3 incorrect, 4 unreadable, 3 too_easy; hinted: 3 kept, 1 incorrect, 0 un" in caplog.text
    assert "unreadable, by cause: 3 missing, 1 truncated" in caplog.text


def test_the_judges_own_template_is_the_default(judge, tmp_path):
    trainer = trainer_of(tmp_path / "one", judge, changes={"template": None})
    assert trainer.args.template == "paper"
    trained = trainer_of(tmp_path / "two", judge)
    trained.save_model()
    again = trainer_of(tmp_path / "three", str(tmp_path / "two"), changes={"template": None})
    assert again.args.template == "compact" and again.rows[0]["prompt"] == trained.rows[0]["prompt"]
    assert config(tmp_path, template=None).template is None, "arguments may be used again for another judge"


def test_an_adapters_own_template_is_the_default(judge, tmp_path):
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    changes = {"chat_template_kwargs": {"tone": "calm"}}
    trainer_of(tmp_path / "one", judge, changes=changes, peft_config=lora).save_model()
    again = trainer_of(tmp_path / "two", str(tmp_path / "one"), changes={"template": None})
    assert (again.args.template, again.args.chat_template_kwargs) == ("compact", {"tone": "calm"})


def test_a_folder_holds_an_adapter_or_a_full_model(judge, tmp_path):
    lora = LoraConfig(task_type="CAUSAL_LM", r=2)
    trainer_of(tmp_path / "adapter", judge, peft_config=lora).save_model()
    with pytest.raises(
        FileExistsError, match=r"adapter_model.safetensors of an adapter.*this run trains a full model"
    ):
        trainer_of(tmp_path / "adapter", judge)
    trainer_of(tmp_path / "adapter", judge, peft_config=lora)  # as a resumed run does
    trainer_of(tmp_path / "adapter", str(tmp_path / "adapter"))
    (tmp_path / "full" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "full" / "checkpoint-2" / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(FileExistsError, match="checkpoint-2.*of a full model.*this run trains an adapter"):
        trainer_of(tmp_path / "full", judge, peft_config=lora)
    with pytest.raises(FileExistsError, match="of a full model"):
        trainer_of(tmp_path / "full", str(tmp_path / "adapter"))
    trainer_of(tmp_path / "full", judge)


class Refusing(Script):
    """Refuses to complete some prompts, as a server with a content filter does, and completes all others."""

    class Error(RuntimeError):
        def __init__(self, completed, refusals):
            super().__init__("Found a refusal.")
            self.completed, self.refusals = completed, refusals

    def __init__(self, refused):
        super().__init__()
        self.refused = refused

    def __call__(self, prompts, k, seed, **options):
        texts = [prompt[-1]["content"] for prompt in prompts]
        refusals = {i: SimpleNamespace(cause="content_filter") for i, text in enumerate(texts) if self.refused(text)}
        samples = dict(enumerate(super().__call__(prompts, k, seed)))
        if refusals:
            raise self.Error({i: s for i, s in samples.items() if i not in refusals}, refusals)
        return list(samples.values())


@pytest.mark.parametrize("rows_per_shard", [1, 2, 4])
def test_rows_that_the_sampler_refuses_are_dropped_by_cause(rows_per_shard, judge, collected, tmp_path, caplog):
    sampler = Refusing(lambda text: "row 1:" in text or ("row 3:" in text and HINT in text))
    changes = {"invalid_rows": "drop", "rows_per_shard": rows_per_shard}
    trainer = trainer_of(tmp_path, judge, sampler, changes=changes)
    expected = [r for r in collected[0] if r["row"] != 1 and not (r["row"] == 3 and r["hinted"])]
    assert trainer.collect().to_list() == expected
    assert trainer.report["refused"] == {"content_filter": 2}
    assert "The sampler refused 2 content_filter prompts." in caplog.text
    again = trainer_of(tmp_path, judge, sampler, changes=changes)
    asked = len(sampler.calls)
    assert again.collect().to_list() == expected and again.report["refused"] == {"content_filter": 2}
    assert len(sampler.calls) == asked, "a restart asks for nothing"


def test_a_sampler_that_refuses_everything_keeps_nothing(judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, Refusing(lambda text: True), changes={"invalid_rows": "drop"})
    assert len(trainer.collect()) == 0 and trainer.report["refused"] == {"content_filter": 4}
    with pytest.raises(NothingKeptError, match="out of 0"):
        trainer.train()


def test_a_refused_row_stops_a_run_that_may_not_drop_it(judge, tmp_path):
    trainer = trainer_of(tmp_path, judge, Refusing(lambda text: "row 1:" in text))
    with pytest.raises(Refusing.Error):
        trainer.collect()
    again = trainer_of(tmp_path, judge, Refusing(lambda text: False))
    assert len(again.collect()) == 16
    assert not any("row 0:" in text for text in again.sampler.calls[0]), "it was complete"


def test_an_engine_that_fails_names_the_users_row_and_its_query(judge, tmp_path):
    def failing(prompts, k, seed, **options):
        raise EngineError("No answer.", 1, 500)

    bad = {"query": "q", "responses": ["a", "b"], "labels": [1.0, 1.0]}
    rows = Dataset.from_list([bad, *preference_rows().to_list()])
    trainer = trainer_of(tmp_path, judge, failing, rows=rows, changes={"invalid_rows": "drop", "rows_per_shard": 4})
    with pytest.raises(EngineError, match=r"^train_dataset row 2: No answer. Its query begins '.*row 1: "):
        trainer.collect()
