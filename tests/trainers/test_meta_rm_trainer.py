# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from paths import TESTS
from peft import LoraConfig, get_peft_model
from tiny_models import save_tiny, tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig
from trl import RewardTrainer

from trl_spct.evaluation.guidance import store_guidance
from trl_spct.jobs import FolderInUseError, locked
from trl_spct.judge.meta_scoring import encode_meta, meta_scores, tokenizer_digest
from trl_spct.judge.modeling_meta_rm import MetaRMForSequenceClassification, meta_loss
from trl_spct.judge.preferences import Preference
from trl_spct.judge.prompts import judge_template, meta_messages
from trl_spct.judge.voting import Guidance
from trl_spct.trainers.meta_rm_config import MetaRMTrainingConfig
from trl_spct.trainers.meta_rm_trainer import (
    MetaRMTrainer,
    classification_metrics,
    encode_row,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def quiet():
    disable_progress_bars()
    yield
    enable_progress_bars()


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A judge whose random features are strong enough to be separated in a few steps."""
    return save_tiny(tmp_path_factory.mktemp("judge"), "llama", tiny_tokenizer(True), initializer_range=0.2)


def row(i, **changes):
    critique = ("good " if i % 2 else "bad ") * 4 + "x" * (i % 3)
    return {"query": f"q{i % 5}", "responses": ["a", "b"], "critique": critique, "label": i % 2, **changes}


def rows(n=32, **changes):
    return Dataset.from_list([row(i, **changes) for i in range(n)])


def config(output_dir, **changes):
    values = {
        "use_cpu": True,
        "bf16": False,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 16,
        "max_steps": 12,
        "logging_steps": 4,
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        **changes,
    }
    return MetaRMTrainingConfig(output_dir=str(output_dir), **values)


def trainer_of(model, output_dir, train=None, eval=None, **changes):
    keys = ("processing_class", "peft_config", "quantization_config", "compute_metrics")
    others = {name: changes.pop(name) for name in keys if name in changes}
    return MetaRMTrainer(
        model,
        args=config(output_dir, **changes),
        train_dataset=train or rows(),
        eval_dataset=eval or rows(12),
        **others,
    )


# --- training ---


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_training_separates_the_classes(judge, tmp_path, gradient_checkpointing):
    trainer = trainer_of(judge, tmp_path, gradient_checkpointing=gradient_checkpointing)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    untrained = trainer.evaluate()
    trainer.train()
    trained = trainer.evaluate()
    for name, parameter in trainer.model.named_parameters():
        assert not torch.equal(parameter, before[name]), f"Parameter {name} has not changed."
    assert trained["eval_loss"] < 0.5 * untrained["eval_loss"]
    assert trained["eval_roc_auc"] == 1 > untrained["eval_roc_auc"]
    assert trained["eval_accuracy"] == 1 and trained["eval_positive_share"] == 0.5
    logged = trainer.state.log_history[0]
    assert {"loss", "accuracy", "positive_share", "num_tokens"} <= set(logged)


def test_scores_of_a_trained_model_survive_saving(judge, tmp_path):
    trainer = trainer_of(judge, tmp_path, max_steps=4)
    trainer.train()
    trainer.save_model(str(tmp_path / "meta"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "meta")
    conversations = [meta_messages(Preference("q", ("a", "b")), text) for text in ("good", "bad bad", "other")]
    expected = meta_scores(trainer.model, trainer.processing_class, conversations)
    model = MetaRMForSequenceClassification.from_pretrained(tmp_path / "meta")
    assert meta_scores(model, tokenizer, conversations) == pytest.approx(expected, abs=1e-6)
    assert json.loads((tmp_path / "meta" / "config.json").read_text())["architectures"] == [
        "LlamaForSequenceClassification"
    ]


def test_first_step_has_the_loss_of_the_scores(judge, tmp_path):
    """Trainer and scoring read the same tokens: the logged loss follows from the scores."""
    data = rows(16)
    trainer = trainer_of(judge, tmp_path, data, max_steps=1, logging_steps=1, pos_weight=3.0)
    conversations = [meta_messages(Preference(r["query"], r["responses"]), r["critique"]) for r in data]
    scores = meta_scores(trainer.model, trainer.processing_class, conversations)
    expected = meta_loss(torch.tensor(scores), torch.tensor(data["label"]), pos_weight=3.0).item()
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-3)


def test_accumulated_batches_make_the_same_step(judge, tmp_path):
    heads = []
    for size, steps in ((16, 1), (4, 4)):
        trainer = trainer_of(
            judge,
            tmp_path,
            rows(16),
            max_steps=1,
            logging_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        trainer.train()
        heads.append((trainer.state.log_history[0]["grad_norm"], trainer.model.score.weight))
    assert heads[0][0] == pytest.approx(heads[1][0], rel=1e-3)
    torch.testing.assert_close(heads[0][1], heads[1][1], atol=1e-3, rtol=1e-2)


def test_lora(judge, tmp_path):
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear")
    trainer = trainer_of(judge, tmp_path, peft_config=lora, eval_strategy="steps", eval_steps=6, max_steps=24)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    untrained = trainer.evaluate()
    trainer.train()
    trained = trainer.evaluate()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    assert trained["eval_loss"] < untrained["eval_loss"] and trained["eval_roc_auc"] > untrained["eval_roc_auc"]
    trainer.save_model(str(tmp_path / "adapter"))
    reloaded = MetaRMForSequenceClassification.from_pretrained(tmp_path / "adapter")
    conversations = [meta_messages(Preference("q", ("a", "b")), text) for text in ("good", "bad bad")]
    expected = meta_scores(trainer.model, trainer.processing_class, conversations)
    assert meta_scores(reloaded, trainer.processing_class, conversations) == pytest.approx(expected, abs=1e-5)


def test_qlora_keeps_training_after_an_evaluation(tmp_path):
    pytest.importorskip("bitsandbytes")
    judge = save_tiny(tmp_path / "judge", "qwen2", tiny_tokenizer(), hidden_size=64, initializer_range=0.2)
    trainer = trainer_of(
        judge,
        tmp_path,
        peft_config=LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear"),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
    )
    assert trainer.model.is_loaded_in_4bit
    untrained = trainer.evaluate()
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    unchanged = [n for n, p in trainer.model.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert not unchanged
    assert trainer.evaluate()["eval_loss"] < untrained["eval_loss"]


def test_best_model_by_auc(judge, tmp_path):
    trainer = trainer_of(
        judge,
        tmp_path,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        max_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="eval_roc_auc",
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.best_metric is not None
    card = (tmp_path / "checkpoint-4" / "..").resolve() / "README.md"
    text = card.read_text()
    assert "2504.02495" in text and "meta-rm" in text and "liu2025inference" in text and "Meta RM" in text


@pytest.mark.parametrize("kind", ["instance", "native", "peft"])
def test_model_instances(kind, tmp_path):
    config_ = tiny_config("gemma2", num_labels=1)
    if kind == "native":
        model = AutoModelForSequenceClassification.from_config(config_)
    else:
        model = MetaRMForSequenceClassification(config_)
    if kind == "peft":
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear"))
    trainer = trainer_of(model, tmp_path, processing_class=tiny_tokenizer(), max_steps=1)
    base = trainer.model.get_base_model() if kind == "peft" else trainer.model
    assert isinstance(base, MetaRMForSequenceClassification)
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def test_models_and_adapters_that_cannot_learn(judge, tmp_path):
    two = AutoModelForSequenceClassification.from_config(tiny_config("llama", num_labels=2))
    with pytest.raises(ValueError, match="num_labels=2; expected 1"):
        trainer_of(two, tmp_path, processing_class=tiny_tokenizer())
    with pytest.raises(ValueError, match="task_type='CAUSAL_LM'; expected 'SEQ_CLS'"):
        trainer_of(judge, tmp_path, peft_config=LoraConfig(task_type="CAUSAL_LM"))
    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(judge), LoraConfig(task_type="CAUSAL_LM", r=2))
    adapter.save_pretrained(tmp_path / "judge")
    with pytest.raises(ValueError, match="task_type='CAUSAL_LM'.*merge the adapter of a judge"):
        trainer_of(str(tmp_path / "judge"), tmp_path / "meta")


def test_model_init_kwargs_are_used_and_kept(judge, tmp_path):
    trainer = trainer_of(judge, tmp_path, model_init_kwargs={"dtype": "bfloat16"})
    assert trainer.model.dtype == torch.bfloat16
    assert trainer.args.model_init_kwargs == {"dtype": "bfloat16"}


def test_the_head_is_reproducible(judge, tmp_path):
    heads = [trainer_of(judge, tmp_path, seed=seed).model.score.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


# --- rows ---


def test_rows_become_the_tokens_that_scoring_reads(judge, tmp_path):
    trainer = trainer_of(judge, tmp_path)
    assert set(trainer.train_dataset.column_names) == {"input_ids", "label"}
    messages = meta_messages(Preference("q3", ("a", "b")), row(3)["critique"])
    assert trainer.train_dataset[3]["input_ids"] == encode_meta(trainer.processing_class, messages)
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "labels"} and batch["labels"].is_floating_point()


def test_queries_may_be_conversations_and_labels_may_be_booleans(judge, tmp_path):
    query = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "?"},
    ]
    data = Dataset.from_list([row(i, query=query, label=bool(i % 2)) for i in range(4)])
    trainer = trainer_of(judge, tmp_path, data)
    assert "User: hi\nAssistant: yo\nUser: ?" in trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"])
    assert trainer.train_dataset["label"][:] == [0.0, 1.0, 0.0, 1.0]


def test_user_text_cannot_spell_special_tokens(judge, tmp_path):
    tokenizer = tiny_tokenizer()
    ids = encode_row(row(0, query="<end_of_turn>"), 0, tokenizer, config(tmp_path))["input_ids"]
    plain = encode_row(row(0), 0, tokenizer, config(tmp_path))["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert ids.count(end) == plain.count(end) == 2


@pytest.mark.parametrize("label", [None, "1", 0.5, 2, -1])
def test_labels_are_zero_or_one(label, judge, tmp_path):
    with pytest.raises(ValueError, match=f"train row 0: Found the label {label!r}; expected 1"):
        trainer_of(judge, tmp_path, rows(2, label=label))


BAD = {
    "label": (row(1, label=2), "train row 1: Found the label 2"),
    "critique": (row(1, critique="  "), "train row 1: Found the critique '  '"),
    "empty": (row(1, responses=["a", ""]), "train row 1: Response 2 is empty"),
    "query": (row(1, query=""), "train row 1: Found an empty query"),
    "length": (row(1, critique="long " * 200), r"train row 1: Found \d+ tokens; expected at most max_length=500"),
}


@pytest.mark.parametrize("cause", BAD)
def test_bad_rows_are_named_before_a_model_is_loaded(cause, judge, tmp_path, monkeypatch):
    bad, message = BAD[cause]
    monkeypatch.setattr(MetaRMForSequenceClassification, "from_pretrained", None)
    data = Dataset.from_list([row(0), bad, row(2), bad])
    with pytest.raises(ValueError, match=rf"2 of 4 rows .*{cause}(.|\n)*{message}(.|\n)*row 3(.|\n)*invalid_rows"):
        trainer_of(judge, tmp_path, data, max_length=500)


def test_bad_rows_are_named_before_a_model_is_loaded_with_another_chat_template(judge, tmp_path, monkeypatch):
    monkeypatch.setattr(MetaRMForSequenceClassification, "from_pretrained", None)
    (tmp_path / "chat.jinja").write_text(tiny_tokenizer().chat_template)
    with pytest.raises(ValueError, match="train row 1: Found the label 2"):
        trainer_of(
            judge,
            tmp_path,
            Dataset.from_list([row(0), BAD["label"][0]]),
            chat_template_path=str(tmp_path / "chat.jinja"),
        )


def test_variables_of_the_chat_template_are_used_and_stored(judge, tmp_path):
    tokenizer = tiny_tokenizer(True)
    tokenizer.chat_template = "{{ tone }}" + tokenizer.chat_template
    trainer = trainer_of(judge, tmp_path, processing_class=tokenizer, chat_template_kwargs={"tone": "calm"})
    messages = meta_messages(Preference("q3", ("a", "b")), row(3)["critique"])
    assert trainer.train_dataset[3]["input_ids"] == encode_meta(tokenizer, messages, tone="calm")
    assert trainer.model.config.meta_rm["chat_template_kwargs"] == {"tone": "calm"}
    trainer.save_model()
    again = trainer_of(str(tmp_path), tmp_path / "again")
    assert again.args.chat_template_kwargs == {"tone": "calm"}, "its own"
    path = save_tiny(tmp_path / "judge", "llama", tokenizer, grm={"chat_template_kwargs": {"tone": "calm"}})
    assert trainer_of(path, tmp_path / "b").model.config.meta_rm["chat_template_kwargs"] == {"tone": "calm"}


def test_two_runs_do_not_train_into_one_folder(judge, tmp_path):
    trainer = trainer_of(judge, tmp_path, max_steps=1)
    with locked(tmp_path), pytest.raises(FolderInUseError, match="in use by another run"):
        trainer.train()
    trainer.train()


def test_bad_rows_are_dropped_and_counted(judge, tmp_path, caplog):
    data = Dataset.from_list([row(0), *(bad for bad, _ in BAD.values()), row(3)])
    with caplog.at_level(logging.WARNING):
        trainer = trainer_of(judge, tmp_path, data, max_length=500, invalid_rows="drop")
    assert len(trainer.train_dataset) == 2
    assert "Dropped 5 of 7 rows of the train dataset" in caplog.text and "'length': 1" in caplog.text
    with pytest.raises(ValueError, match="no usable row"):
        trainer_of(judge, tmp_path, Dataset.from_list([BAD["label"][0]]), invalid_rows="drop")


def test_missing_columns_are_named(judge, tmp_path):
    with pytest.raises(ValueError, match=r"eval dataset .* lacks \['critique', 'label'\]"):
        trainer_of(judge, tmp_path, eval=rows(4).remove_columns(["critique", "label"]))


def test_streams_are_refused(judge, tmp_path):
    with pytest.raises(TypeError, match="train dataset is IterableDataset; expected a `datasets.Dataset`"):
        trainer_of(judge, tmp_path, rows(4).to_iterable_dataset())


def test_several_evaluation_sets_and_own_metrics(judge, tmp_path):
    trainer = trainer_of(judge, tmp_path, eval={"a": rows(4), "b": rows(6)})
    metrics = trainer.evaluate()
    assert {"eval_a_roc_auc", "eval_b_accuracy"} <= set(metrics)
    assert "eval_roc_auc" in trainer.evaluate(rows(8))
    own = trainer_of(judge, tmp_path, compute_metrics=lambda prediction: {"n": len(prediction.label_ids)})
    assert own.evaluate()["eval_n"] == 12


@pytest.mark.parametrize(
    ("correct", "incorrect", "pos_weight", "message"),
    [(2, 20, None, "pos_weight=10`"), (2, 20, 10.0, None), (4, 4, None, None), (3, 0, None, "expected at least 10%")],
)
def test_imbalance_is_reported(correct, incorrect, pos_weight, message, judge, tmp_path, caplog):
    data = Dataset.from_list([row(1)] * correct + [row(0)] * incorrect)
    with caplog.at_level(logging.WARNING):
        trainer = trainer_of(judge, tmp_path, data, pos_weight=pos_weight)
    assert trainer.balance == {"correct": correct, "incorrect": incorrect}
    if message is None:
        assert "incorrect critiques" not in caplog.text
    else:
        assert f"Found {correct} correct and {incorrect} incorrect" in caplog.text and message in caplog.text


# --- metrics ---


def test_metrics_take_columns_and_rows():
    from transformers import EvalPrediction

    for shape in ((-1,), (-1, 1)):
        logits, labels = np.array([2.0, -1.0, 0.5, -3.0]), np.array([1.0, 1.0, 0.0, 0.0])
        metrics = classification_metrics(EvalPrediction(logits.reshape(shape), labels.reshape(shape)))
        # p = .881, .269, .622 and .047, each alone in its bin: (.119 + .731 + .622 + .047) / 4
        ece = pytest.approx(0.38004, abs=1e-5)
        assert metrics == {"accuracy": 0.5, "roc_auc": 0.75, "ece": ece, "positive_share": 0.5}


# --- the order that the judge read ---


@pytest.mark.parametrize("order", [[0, 0], [1], [0, 1, 2], [1, 2]])
def test_an_order_that_does_not_fit_is_named(order, judge, tmp_path):
    with pytest.raises(ValueError, match=r"train row 0: Found the order \[.*\] for 2 responses"):
        trainer_of(judge, tmp_path, rows(2, read_order=order))


def test_rows_of_an_earlier_version_are_refused(judge, tmp_path):
    """Their responses were in the order that the judge read, and `order` would permute them once more."""
    old = rows(2, order=[1, 0])
    with pytest.raises(ValueError, match="The train dataset has the column `order`.*expected `read_order`"):
        trainer_of(judge, tmp_path, old)
    with pytest.raises(ValueError, match="The eval dataset has the column `order`"):
        trainer_of(judge, tmp_path, eval=old)


def test_the_meta_rm_reads_the_responses_in_the_order_that_the_judge_read(tmp_path):
    given = {**row(0), "responses": ["one", "two", "three"]}
    shown = encode_row({**given, "read_order": [2, 0, 1]}, 0, tiny_tokenizer(), config(tmp_path))
    assert shown == encode_row({**given, "responses": ["three", "one", "two"]}, 0, tiny_tokenizer(), config(tmp_path))
    assert shown != encode_row(given, 0, tiny_tokenizer(), config(tmp_path))


def test_own_metrics_see_plain_labels(judge, tmp_path):
    seen = {}

    def own(prediction):
        seen["labels"] = prediction.label_ids
        return {"n": len(prediction.label_ids)}

    metrics = trainer_of(judge, tmp_path, compute_metrics=own).evaluate()
    assert seen["labels"].tolist() == rows(12)["label"][:] and metrics["eval_n"] == 12


# --- what is stored with it ---


@pytest.mark.parametrize("adapter", [False, True])
def test_template_and_guidance_are_stored(adapter, judge, tmp_path):
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear") if adapter else None
    trainer = trainer_of(judge, tmp_path / "meta", max_steps=1, template="compact", peft_config=lora)
    trainer.train()
    store_guidance(trainer.model, Guidance(0.75))
    trainer.save_model()
    loaded = MetaRMForSequenceClassification.from_pretrained(tmp_path / "meta")
    assert loaded.config.meta_rm == {
        "tokenizer": tokenizer_digest(trainer.processing_class),
        "template": judge_template("compact").digest,
        "chat_template_kwargs": {},
        "k_meta": 0.75,
        "guide": "top",
    }
    assert (tmp_path / "meta" / "meta_rm.json").exists() is adapter
    with pytest.raises(ValueError, match="Found template 'nonsense'"):
        config(tmp_path, template="nonsense")


# --- configuration ---


def test_defaults_are_the_papers(tmp_path):
    args = MetaRMTrainingConfig(str(tmp_path), use_cpu=True)
    assert args.learning_rate == 1e-5 and args.invalid_rows == "error" and args.pos_weight is None
    for changes in ({"invalid_rows": "skip"}, {"pos_weight": 0.0}, {"center_rewards_coefficient": 0.1}):
        with pytest.raises(ValueError, match=f"Found {next(iter(changes))}"):
            MetaRMTrainingConfig(str(tmp_path), use_cpu=True, **changes)


def test_config_parses_from_the_command_line(tmp_path):
    from trl import TrlParser

    (args,) = TrlParser(MetaRMTrainingConfig).parse_args_and_config(
        ["--output_dir", str(tmp_path), "--use_cpu", "--pos_weight", "2.5", "--invalid_rows", "drop"]
    )
    assert args.pos_weight == 2.5 and args.invalid_rows == "drop"
    assert all(field.metadata.get("help") for field in fields(MetaRMTrainingConfig) if field.name == "pos_weight")


# --- two processes ---


def test_two_processes_agree(judge, tmp_path):
    code = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "trainers")!r}]
import conftest, json, os
import test_meta_rm_trainer as t
trainer = t.trainer_of({judge!r}, {str(tmp_path)!r}, t.rows(16), t.rows(12), max_steps=2, logging_steps=1,
                       per_device_train_batch_size=8, per_device_eval_batch_size=3, ddp_backend="gloo")
assert trainer.accelerator.num_processes == 2
trainer.train()
metrics = trainer.evaluate()
values = [metrics[k] for k in ("eval_roc_auc", "eval_accuracy", "eval_ece", "eval_positive_share")]
open({str(tmp_path)!r} + "/rank" + os.environ["RANK"], "w").write(json.dumps(values))
trainer.accelerator.wait_for_everyone()  # a process that ends first may abort the other one
trainer.end()
"""
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with subprocess.Popen(
        [*command, str(tmp_path / "run.py")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    ) as process:
        try:
            _, errors = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # a launcher leaves its workers behind when it is killed alone
            raise
    assert process.returncode == 0, errors[-3000:]
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in range(2))
    assert first == second
    assert json.loads(first)[3] == 0.5, "every critique counts once"


# --- contracts with trl ---


def test_private_hooks_are_still_called():
    """What is overridden under a private name must exist upstream with the same signature, or it does nothing."""
    for name, parameters in {
        "_prepare_dataset": ["self", "dataset", "processing_class", "args", "dataset_name"],
        "_set_signature_columns_if_needed": ["self"],
        "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
    }.items():
        for owner in (RewardTrainer, MetaRMTrainer):
            assert list(inspect.signature(getattr(owner, name)).parameters) == parameters, (owner, name)
    source = inspect.getsource(RewardTrainer.__init__)
    assert source.count("self._prepare_dataset(") == 3 and "self.label_names = []" in source
    for attribute in ("_metrics", "_total_train_tokens", "_tp_size"):
        assert f"self.{attribute} =" in source


@pytest.mark.parametrize("name", ["_prepare_dataset", "_set_signature_columns_if_needed"])
def test_another_version_of_trl_is_refused(name, judge, tmp_path, monkeypatch):
    """Its own method reads pairs alone."""
    stock = getattr(RewardTrainer, name)
    monkeypatch.setattr(RewardTrainer, name, lambda self, *args, new_option=None: stock(self, *args))
    with pytest.raises(
        RuntimeError, match=f"critiques cannot be .*: this version of TRL has other parameters of `{name}`"
    ):
        trainer_of(judge, tmp_path).train()


def test_private_helpers_are_still_there():
    from trl.trainer.reward_trainer import suppress_seqcls_warning
    from trl.trainer.utils import create_model_from_path, get_config_model_id, global_then_local_main_first

    assert list(inspect.signature(create_model_from_path).parameters) == ["model_id", "architecture", "kwargs"]
    assert list(inspect.signature(get_config_model_id).parameters) == ["config"]
    for manager in (suppress_seqcls_warning, global_then_local_main_first):
        with manager():
            pass


def test_constructor_names_are_those_of_the_base():
    ours = set(inspect.signature(MetaRMTrainer.__init__).parameters) - {"kwargs"}
    assert ours <= set(inspect.signature(RewardTrainer.__init__).parameters)


def test_a_full_run_does_not_write_beside_an_adapter(judge, tmp_path):
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(FileExistsError, match="adapter_model.safetensors of an adapter"):
        trainer_of(judge, tmp_path)


def test_a_meta_rm_made_of_a_judge_reads_its_template(judge, tmp_path):
    path = save_tiny(tmp_path / "judge", "llama", tiny_tokenizer(True), grm={"template": "compact"})
    for template, expected in ((None, "compact"), ("paper", "paper")):
        trainer = trainer_of(path, tmp_path / "meta", template=template)
        assert trainer.model.config.meta_rm["template"] == judge_template(expected).digest
    assert "template" not in trainer_of(judge, tmp_path / "other").model.config.meta_rm
