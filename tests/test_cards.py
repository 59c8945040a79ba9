# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import re
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import ModelCard
from peft import LoraConfig
from test_rejective_sampler import config, preference_rows, trainer_of
from tiny_models import save_tiny, tiny_causal_lm, tiny_tokenizer

from trl_spct import MetaRMTrainer, MetaRMTrainingConfig, RejectiveSampler, SPCTConfig, SPCTTrainer, packaged
from trl_spct.cards import PAPER, PAPER_VALUES
from trl_spct.judge.hub import LEFT_OUT, PushError, keep_private, push_command, pushing
from trl_spct.judge.prompts import judge_template


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def trained(judge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("somewhere") / "my-judge"
    trainer = trainer_of(folder, judge)
    trainer.train()
    return trainer, folder


def read(folder):
    text = (Path(folder) / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_judges_card_says_how_it_was_made(trained):
    trainer, folder = trained
    trainer.create_model_card(dataset_name="trl-lib/some-preferences")
    head, body = read(folder)
    assert head["datasets"] == ["trl-lib/some-preferences"] or head["datasets"] == "trl-lib/some-preferences"
    assert head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "text-generation"
    assert {"rft", "spct", "trl", "generative-reward-model", "generated_from_trainer"} <= set(head["tags"])
    assert "# my-judge" in body
    assert PAPER["title"] in body
    assert f"https://huggingface.co/papers/{PAPER['id']}" in body
    assert PAPER["citation"] in body
    assert "`compact`" in body
    assert "the pipeline reads this from\n`config.json`" in body
    assert "- preference rows: 4" in body
    assert "- trajectories: 16\n- sampled by: Script\n" in body
    assert "- unhinted, by outcome: 2 kept, 3 incorrect, 4 unreadable, 3 too_easy" in body
    assert "- unreadable, by cause: 3 missing, 1 truncated" in body


def test_the_table_compares_the_run_with_the_paper(trained):
    trainer, folder = trained
    trainer.create_model_card()
    _, body = read(folder)
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+ \| [^|]+ \| (?:yes)?) ?\|$", body, re.MULTILINE))
    assert {name: row.rstrip(" |") for name, row in rows.items()} == {
        "learning_rate": "0.01 | 5e-06 [P] | yes",
        "batch size": "2 | 1024 [P] | yes",
        "steps": "2 | 900 [P] | yes",
        "num_generations": "3 | 3 [P]",
        "temperature": "1.0 | not stated [?]",
        "max_completion_length": "64 | not stated [?]",
    }
    versions = re.search(r"Framework versions: (.*)\.$", body, re.MULTILINE)[1]
    assert [entry.split()[0] for entry in versions.split(", ")] == [
        "trl-spct",
        "trl",
        "transformers",
        "torch",
        "datasets",
    ]


def test_no_place_on_the_machine_gets_into_a_card(trained, judge, tmp_path):
    trainer, folder = trained
    rows = tmp_path / "rows.jsonl"
    preference_rows().to_json(rows)
    trainer.create_model_card(dataset_name=str(rows))
    head, body = read(folder)
    assert "datasets" not in head
    assert "base_model" not in head
    assert f"from {Path(judge).name} on rows.jsonl\n" in body
    assert 'model="my-judge"' in body
    assert str(tmp_path.parent) not in body
    assert str(Path(judge).parent) not in body
    assert str(folder.parent) not in body


@pytest.mark.parametrize("path", [True, False])
def test_who_sampled_is_named_without_a_place(path, judge, tmp_path):
    """A judge that samples for itself."""
    model = judge if path else tiny_causal_lm()
    args = config(tmp_path / "out", max_completion_length=2, hint="none", num_generations=2)
    tokenizer = None if path else tiny_tokenizer()
    trainer = RejectiveSampler(model, args=args, train_dataset=preference_rows(), processing_class=tokenizer)
    trainer.collect()
    trainer.create_model_card()
    name = Path(judge).name if path else "the judge, made in memory"
    assert f"- sampled by: {name}\n" in read(tmp_path / "out")[1]


def test_cards_of_trajectories(trained):
    _, folder = trained
    head, body = read(folder / "trajectories")
    assert head["configs"] == [{"config_name": "default", "data_files": "shard-*.parquet"}]
    rows = dict(re.findall(r"^\| (\w+) \| (\d+ \| \d+) \|$", body, re.MULTILINE))
    assert rows == {"kept": "2 | 3", "incorrect": "3 | 1", "unreadable": "4 | 0", "too_easy": "3 | 0"}
    assert "16 trajectories of 4 rows" in body
    assert "{'missing': 3, 'truncated': 1}" in body
    assert '"temperature": 1.0' in body
    loaded = load_dataset(str(folder / "trajectories"), cache_dir=str(folder / "cache"))["train"]
    assert len(loaded) == 16


def test_cards_of_trajectories_name_a_local_sampler_without_its_place(judge, tmp_path):
    args = config(tmp_path / "out", max_completion_length=2, hint="none")
    RejectiveSampler(judge, args=args, train_dataset=preference_rows()).collect()
    _, body = read(tmp_path / "out" / "trajectories")
    assert f"Critiques that `{Path(judge).name}` wrote" in body
    assert str(Path(judge).parent) not in body


def test_a_card_before_training_has_no_facts_of_the_data(judge, tmp_path):
    trainer = trainer_of(tmp_path / "out", judge)
    trainer.create_model_card(model_name="A judge", tags="mine")
    head, body = read(tmp_path / "out")
    assert "# A judge" in body
    assert "mine" in head["tags"]
    assert "## Data" not in body


def test_an_adapters_card_says_where_the_template_stands(judge, tmp_path):
    peft_config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    trainer = trainer_of(tmp_path / "out", judge, peft_config=peft_config)
    trainer.create_model_card()
    head, body = read(tmp_path / "out")
    assert head["library_name"] == "peft"
    assert re.search(r'pipeline\("grm-reward", model="[^"]+"\)', body)
    assert "`grm.json` beside the adapter" in body and "config.json" not in body
    assert "--enable-lora --lora-modules grm=" in body


def test_a_hub_model_is_named_as_the_base(tmp_path):
    model = tiny_causal_lm()
    model.config._name_or_path = "someone/base"
    trainer = trainer_of(
        tmp_path / "out", model, processing_class=tiny_tokenizer(), changes={"hub_model_id": "me/judge"}
    )
    trainer.create_model_card()
    head, body = read(tmp_path / "out")
    assert head["base_model"] == "someone/base"
    assert "It was trained from someone/base\n" in body
    assert 'model="me/judge"' in body


def test_a_model_from_memory_has_no_base(tmp_path):
    trainer = trainer_of(tmp_path / "out", tiny_causal_lm(), processing_class=tiny_tokenizer())
    trainer.create_model_card()
    head, body = read(tmp_path / "out")
    assert "trained from a model made in memory" in body
    assert "license" not in head


GEMMA = """---
license: gemma
base_model: google/gemma-2-2b
---

# A judge
"""


@pytest.mark.parametrize(
    ("card", "head"),
    [
        (GEMMA, {"license": "gemma", "base_model": "google/gemma-2-2b"}),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: https://l\n---\n",
            {"license": "other", "license_name": "own", "license_link": "https://l"},
        ),
        ("---\nlicense: [\n---\n", {}),
        ("no metadata", {}),
        (None, {}),
        ("---\nlicense: [mit, apache-2.0]\n---\n", {"license": ["mit", "apache-2.0"]}),
    ],
)
def test_the_license_is_inherited(card, head, tmp_path):
    """From the base's card, through local stages too."""
    base = save_tiny(tmp_path / "judge")
    if card is not None:
        (Path(base) / "README.md").write_text(card)
    trainer = trainer_of(tmp_path / "out", base)
    trainer.create_model_card()
    found, _ = read(tmp_path / "out")
    names = ("license", "license_name", "license_link", "base_model")
    assert {name: found[name] for name in names if name in found} == head


def test_the_card_of_reinforcement_learning(judge, tmp_path):
    args = SPCTConfig(
        output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none", per_device_train_batch_size=4
    )
    rows = Dataset.from_list([{"query": "q", "responses": ["a", "b"], "labels": [0.0, 1.0]}] * 3)
    trainer = SPCTTrainer(judge, args=args, train_dataset=rows)
    trainer.create_model_card()
    head, body = read(tmp_path / "out")
    assert "grpo" in head["tags"]
    assert "- rows: 3" in body
    assert "| `beta` | 0.08 | 0.08 or 0.002 [P] |  |" in body
    assert "| `loss_type` | grpo | grpo [P] |  |" in body
    assert "| `learning_rate` | 4e-07 | 4e-07 [P] |  |" in body
    assert "| `scale_rewards` | group | group [P] |  |" in body


def test_the_card_of_a_meta_rm(judge, tmp_path):
    args = MetaRMTrainingConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none")
    rows = Dataset.from_list(
        [{"query": "q", "responses": ["a", "b"], "critique": "\\boxed{1, 2}", "label": label} for label in (0, 1)]
    )
    trainer = MetaRMTrainer(judge, args=args, train_dataset=rows)
    trainer.create_model_card()
    head, body = read(tmp_path / "out")
    assert head["pipeline_tag"] == "text-classification"
    assert "meta-rm" in head["tags"]
    assert "meta_rm=" in body
    assert "| `learning_rate` | 1e-05 | 1e-05 [P] |  |" in body


@pytest.mark.parametrize("trainer", [RejectiveSampler, SPCTTrainer, MetaRMTrainer])
def test_every_trainer_has_the_papers_values(trainer):
    assert trainer._name in PAPER_VALUES
    assert trainer._paper["id"] == "2504.02495"
    assert "spct" in trainer._tag_names


@pytest.mark.parametrize("name", ["judge.md", "meta_rm.md", "trajectories.md"])
def test_templates_are_found(name):
    text = (packaged("model_cards") / name).read_text(encoding="utf-8")
    assert text.startswith("---\n{{ card_data }}\n---\n")


def test_cards_load_as_cards(trained):
    trainer, folder = trained
    trainer.create_model_card()
    assert ModelCard.load(folder / "README.md").data.library_name == "transformers"


def test_a_disk_that_is_full_is_not_the_hubs_failure(judge, tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path / "out", judge)
    trainer.hub_model_id = "me/judge"

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(trainer.model, "save_pretrained", full)
    with pytest.raises(OSError, match="^No space left on device$"):
        trainer.push_to_hub()


def test_a_base_and_rows_that_are_gone_are_no_ids_of_the_hub(tmp_path):
    """The Hub refuses cards that name paths, and nobody else can use them."""
    model = tiny_causal_lm()
    model.config._name_or_path = "/gone/somewhere/judge-0"
    trainer = trainer_of(tmp_path / "out", model, processing_class=tiny_tokenizer())
    trainer.create_model_card(dataset_name="../gone/rows.jsonl")
    head, body = read(tmp_path / "out")
    assert "base_model" not in head and "datasets" not in head
    assert "from judge-0 on rows.jsonl\n" in body and "gone/" not in body


def test_the_card_of_a_meta_rm_says_what_it_is_worth_on_held_out_rows(judge, tmp_path):
    args = MetaRMTrainingConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none")
    rows = Dataset.from_list(
        [{"query": "q", "responses": ["a", "b"], "critique": f"\\boxed{{{i}, 2}}", "label": i % 2} for i in range(4)]
    )
    trainer = MetaRMTrainer(judge, args=args, train_dataset=rows, eval_dataset=rows)
    trainer.create_model_card()
    assert "## Results\n\nNot evaluated on rows" in read(tmp_path / "out")[1]
    found = trainer.evaluate()
    trainer.create_model_card()
    assert f"on held-out rows:\n\n- ROC-AUC: {found['eval_roc_auc']:.3f}\n- expected" in read(tmp_path / "out")[1]


def test_a_template_from_a_file_is_named_by_its_digest(judge, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("Score.\n{conversation}\n{responses}\nScores: ")
    trainer = trainer_of(tmp_path / "out", judge, changes={"template": str(file)})
    trainer.create_model_card()
    _, body = read(tmp_path / "out")
    assert f"the template `text {judge_template(str(file)).digest}`" in body
    assert str(tmp_path) not in body and "{conversation}" not in body


def test_no_token_gets_into_a_card_a_manifest_or_a_report(judge, tmp_path, monkeypatch):
    """Only the pickled arguments hold it, which are never pushed."""
    secret = "hf_" + "s3cret" * 5
    for name in ("HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, secret)
    trainer = trainer_of(
        tmp_path / "out", judge, changes={"hub_token": secret, "model_init_kwargs": {"token": secret}}
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(dataset_name="someone/rows")
    keep_private(tmp_path / "out")
    assert "training_args.bin" in (tmp_path / "out" / ".gitignore").read_text().splitlines()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"README.md", "manifest.json", "config.json"} <= {path.name for path in files}
    assert {path.name for path in files if secret.encode() in path.read_bytes()} <= {"training_args.bin"}
    command = push_command("me/judge", tmp_path / "out", exclude=LEFT_OUT, private=True)
    with pytest.raises(PushError) as raised, pushing("me/judge", "all of it is here", command):
        raise OSError("refused")
    assert secret not in str(raised.value)
