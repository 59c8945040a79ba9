# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import copy
import inspect
import json
import subprocess
import sys

import pytest
import torch
from tiny_models import ARCHITECTURES, save_tiny, tiny_config, tiny_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from trl_spct.judge.generation import keep_trainable
from trl_spct.judge.meta_scoring import encode_meta, meta_scores
from trl_spct.judge.modeling_meta_rm import (
    MetaRMConfig,
    MetaRMForSequenceClassification,
    as_meta_rm,
    last_attended,
    meta_loss,
    meta_rm_class,
    native_config,
)
from trl_spct.judge.preferences import Preference
from trl_spct.judge.prompts import meta_messages

pytestmark = pytest.mark.usefixtures("one_thread")

NATIVE = [arch for arch in ARCHITECTURES if arch != "granite"]
PREFERENCE = Preference(query="Which is better?", responses=("one", "two"))
CONVERSATIONS = [
    meta_messages(PREFERENCE, text) for text in ("Both.", "The first one is \\boxed{8, 2}", "?", "No. " * 9)
]


def meta_rm(arch="gemma2", **overrides):
    torch.manual_seed(0)
    return MetaRMForSequenceClassification(tiny_config(arch, initializer_range=0.2, **overrides)).eval()


@torch.no_grad()
def logits(model, ids, mask=None):
    mask = None if mask is None else torch.tensor(mask)
    return model(input_ids=torch.tensor(ids), attention_mask=mask).logits


# --- a real model class ---


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_is_the_native_class(arch):
    model = meta_rm(arch)
    assert isinstance(model, MetaRMForSequenceClassification) and isinstance(model, PreTrainedModel)
    assert type(model).__name__ == f"{type(model.model).__name__.removesuffix('Model')}ForSequenceClassification"
    assert type(model) is meta_rm_class(type(model.config)), "one class per architecture"
    assert model.config.model_type == arch and model.config.num_labels == 1
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"model", "score"}
    assert model.score.weight.shape == (1, 32)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_padding_does_not_matter(arch, pad_is_eos):
    tokenizer = tiny_tokenizer(pad_is_eos)
    model, pad = meta_rm(arch), tokenizer.pad_token_id
    ids = [*tokenizer.encode("A critique."), tokenizer.eos_token_id]
    longer = [*tokenizer.encode("A longer critique."), tokenizer.eos_token_id]
    gap = len(longer) - len(ids)
    alone = torch.cat([logits(model, [ids]), logits(model, [longer])])
    ones, zeros = [1] * len(ids), [0] * gap
    right = logits(model, [ids + [pad] * gap, longer], [ones + zeros, [1] * len(longer)])
    left = logits(model, [[pad] * gap + ids, longer], [zeros + ones, [1] * len(longer)])
    torch.testing.assert_close(right, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(left, alone, atol=1e-5, rtol=1e-4)
    assert (alone[0] - alone[1]).abs() > 1e-3


def test_a_final_eos_counts_where_it_doubles_as_padding():
    tokenizer = tiny_tokenizer(pad_is_eos=True)
    model = meta_rm()
    ids = tokenizer.encode("A critique.")
    assert (logits(model, [[*ids, tokenizer.eos_token_id]]) - logits(model, [ids])).abs() > 1e-3


def test_last_attended_picks_the_right_most_token():
    hidden = torch.arange(12.0).reshape(3, 4, 1)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    assert last_attended(hidden, mask).flatten().tolist() == [1, 7, 11]
    assert last_attended(hidden, None).flatten().tolist() == [3, 7, 11]
    with pytest.raises(ValueError, match=r"shape \(3, 5\); expected .* \(3, 4\)"):
        last_attended(hidden, torch.ones(3, 5))


# --- the loss ---


def test_loss_is_binary_cross_entropy():
    values, labels = torch.tensor([[0.5], [-1.0], [2.0]]), torch.tensor([1, 0, 0])
    p = 1 / (1 + torch.exp(-values.flatten()))
    by_hand = -(p[0].log() + (1 - p[1]).log() + (1 - p[2]).log()) / 3
    for given in (labels, labels.float(), labels[:, None], labels[:, None].float(), labels.bool()):
        torch.testing.assert_close(meta_loss(values, given), by_hand)
    weighted = -(3 * p[0].log() + (1 - p[1]).log() + (1 - p[2]).log()) / 3
    torch.testing.assert_close(meta_loss(values, labels, pos_weight=3.0), weighted)
    with pytest.raises(ValueError, match="2 labels for 3 critiques"):
        meta_loss(values, labels[:2])


def test_model_returns_the_loss_of_its_logits():
    model, ids = meta_rm("llama"), torch.tensor([[7, 8, 9], [9, 8, 7]])
    outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0, 1]))
    torch.testing.assert_close(outputs.loss, meta_loss(outputs.logits, torch.tensor([0, 1])))
    assert outputs.logits.shape == (2, 1)
    assert isinstance(model(input_ids=ids, return_dict=False), tuple)


def test_head_may_have_another_dtype():
    model = meta_rm("qwen2")
    model.score.to(torch.bfloat16)
    assert logits(model, [[7, 8]]).dtype == torch.bfloat16


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = meta_rm("gemma2").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(input_ids=torch.tensor([[7, 8, 9]]), labels=torch.tensor([1]), use_cache=False).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


# --- configs ---


def test_label_counts():
    assert MetaRMForSequenceClassification(tiny_config("llama")).config.id2label == {0: "correct"}
    with pytest.raises(ValueError, match="num_labels=3; expected 1"):
        MetaRMForSequenceClassification(tiny_config("llama", num_labels=3))
    with pytest.raises(ValueError, match="num_labels=2; expected 1"):
        MetaRMForSequenceClassification(tiny_config("llama", architectures=["LlamaForSequenceClassification"]))


def test_encoders_are_refused():
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(ValueError, match="has no `score` head"):
        MetaRMForSequenceClassification(config)


def test_other_things_than_configs_are_refused():
    for thing in (None, "gemma2", {"model_type": "gemma2"}):
        with pytest.raises(TypeError, match=f"type {type(thing).__name__}; expected a `PreTrainedConfig`"):
            MetaRMForSequenceClassification(thing)


def test_native_config_leaves_its_source_alone():
    config = tiny_config("qwen3")
    native = native_config(config, {"k_meta": 2})
    assert config.num_labels == 2 and not hasattr(config, "meta_rm")
    assert native.num_labels == 1 and native.problem_type == "multi_label_classification"
    assert native.meta_rm == {"k_meta": 2}
    assert native_config(native) is native


def test_meta_rm_config_checks_its_values():
    with pytest.raises(ValueError, match="k_meta=0; expected at least 1"):
        MetaRMConfig(k_meta=0)
    with pytest.raises(ValueError, match="guide='best'"):
        MetaRMConfig(guide="best")
    assert MetaRMConfig(k_meta=0.75, guide="top").extras == {"k_meta": 0.75, "guide": "top"}


# --- checkpoints ---


def test_checkpoints_are_native(tmp_path):
    """The point of the design: without this package installed, the same logits come out."""
    expected, ids = {}, [[7, 8, 9, 10], [10, 9, 8, 7]]
    for arch in NATIVE:
        model = MetaRMForSequenceClassification(
            native_config(tiny_config(arch, initializer_range=0.2), {"k_meta": 3})
        ).eval()
        model.save_pretrained(tmp_path / arch)
        stored = json.loads((tmp_path / arch / "config.json").read_text())
        assert stored["architectures"] == [type(model).__name__] and stored["model_type"] == arch
        reloaded = MetaRMForSequenceClassification.from_pretrained(tmp_path / arch)
        assert isinstance(reloaded, MetaRMForSequenceClassification) and reloaded.config.meta_rm == {"k_meta": 3}
        expected[arch] = logits(model, ids)
        torch.testing.assert_close(logits(reloaded, ids), expected[arch])
    code = f"""
import json, sys, torch
sys.modules["trl_spct"] = None
from transformers import AutoModelForSequenceClassification
logits = {{}}
for arch in {NATIVE}:
    model = AutoModelForSequenceClassification.from_pretrained({str(tmp_path)!r} + "/" + arch)
    assert type(model).__module__.startswith("transformers."), type(model)
    with torch.no_grad():
        logits[arch] = model(input_ids=torch.tensor({ids}), labels=torch.zeros(2, 1))["logits"].tolist()
    assert model.config.meta_rm == {{"k_meta": 3}}
sys.stdout.write("LOGITS" + json.dumps(logits))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.split("LOGITS")[1])
    for arch in NATIVE:
        torch.testing.assert_close(torch.tensor(found[arch]), expected[arch])


def test_the_released_layout_loads(tmp_path):
    """A plain `Gemma2ForSequenceClassification` with one label, whose config says nothing of a Meta RM."""
    torch.manual_seed(0)
    native = AutoModelForSequenceClassification.from_config(
        tiny_config("gemma2", num_labels=1, initializer_range=0.2)
    ).eval()
    native.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["architectures"] == ["Gemma2ForSequenceClassification"] and "meta_rm" not in stored
    model, info = MetaRMForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert isinstance(model, MetaRMForSequenceClassification) and model.config.meta_rm == {}
    torch.testing.assert_close(logits(model.eval(), [[7, 8, 9]]), logits(native, [[7, 8, 9]]))


@pytest.mark.parametrize("arch", ["gemma2", "granite"])
def test_device_map(arch, tmp_path):
    judge = save_tiny(tmp_path / "judge", arch)
    torch.manual_seed(0)
    plain = MetaRMForSequenceClassification.from_pretrained(judge).eval()
    plain.save_pretrained(tmp_path / "meta")
    places = dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.rotary_emb", "model.norm", "score"), "cpu")
    mapped = MetaRMForSequenceClassification.from_pretrained(
        tmp_path / "meta", device_map={**places, "model.layers.1": "disk"}, offload_folder=tmp_path / "offload"
    ).eval()
    assert mapped.hf_device_map["model.layers.1"] == "disk"
    torch.testing.assert_close(logits(mapped, [[7, 8, 9]]), logits(plain, [[7, 8, 9]]))


def test_what_is_pushed_is_what_is_saved(monkeypatch):
    seen = {}

    def upload(self, working_dir, repo_id, files_timestamps, **options):
        seen["repo_id"], seen["config"] = repo_id, json.loads(open(f"{working_dir}/config.json").read())

    monkeypatch.setattr(PreTrainedModel, "_upload_modified_files", upload)
    made = type("Api", (), {"create_repo": lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id})})
    monkeypatch.setattr("transformers.utils.hub.hf_api", made)
    model = MetaRMForSequenceClassification(native_config(tiny_config("llama"), {"k_meta": 0.75}))
    model.push_to_hub("me/meta-rm")
    assert seen["repo_id"] == "me/meta-rm" and seen["config"]["meta_rm"] == {"k_meta": 0.75}
    assert seen["config"]["architectures"] == ["LlamaForSequenceClassification"]


@pytest.mark.parametrize("arch", ["gemma2", "granite", "qwen2"])
def test_loads_from_a_causal_lm_and_reloads(arch, tmp_path):
    judge = save_tiny(tmp_path / "judge", arch)
    model = MetaRMForSequenceClassification.from_pretrained(judge, dtype=torch.float32)
    assert model.dtype == torch.float32 and model.config.num_labels == 1
    model.save_pretrained(tmp_path / "meta")
    reloaded = MetaRMForSequenceClassification.from_pretrained(tmp_path / "meta", config=MetaRMConfig(k_meta=5))
    assert reloaded.config.meta_rm == {"k_meta": 5}
    for (name, a), (other, b) in zip(model.named_parameters(), reloaded.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b)


def test_weights_are_those_of_the_causal_lm(tmp_path):
    from transformers import AutoModelForCausalLM

    judge = save_tiny(tmp_path, "llama")
    body = AutoModelForCausalLM.from_pretrained(judge).model.state_dict()
    loaded = MetaRMForSequenceClassification.from_pretrained(judge).model.state_dict()
    assert body.keys() == loaded.keys() and all(torch.equal(body[name], loaded[name]) for name in body)


def test_loading_refuses_other_label_counts(tmp_path):
    AutoModelForSequenceClassification.from_config(tiny_config("llama", num_labels=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_labels=2; expected 1"):
        MetaRMForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_labels=4; expected 1"):
        MetaRMForSequenceClassification.from_pretrained(tmp_path, num_labels=4)


def test_loading_passes_options_on(tmp_path):
    judge = save_tiny(tmp_path, "llama")
    model, info = MetaRMForSequenceClassification.from_pretrained(
        judge, dtype=torch.bfloat16, attn_implementation="eager", output_loading_info=True
    )
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    assert info["missing_keys"] == {"score.weight"} and not info["unexpected_keys"]


def test_a_native_classifier_becomes_a_meta_rm_in_place():
    native = AutoModelForSequenceClassification.from_config(tiny_config("llama", num_labels=1)).eval()
    weight, before = native.score.weight, logits(native, [[7, 8, 9]])
    model = as_meta_rm(native)
    assert model is native and isinstance(model, MetaRMForSequenceClassification) and model.score.weight is weight
    torch.testing.assert_close(logits(model, [[7, 8, 9]]), before)
    assert as_meta_rm(model) is model
    with pytest.raises(TypeError, match="expected a LlamaForSequenceClassification"):
        as_meta_rm(native.model)
    hooked = AutoModelForSequenceClassification.from_config(tiny_config("llama", num_labels=1))
    hooked.forward = hooked.forward
    with pytest.raises(TypeError, match="without hooks"):
        as_meta_rm(hooked)


def test_deepcopy_keeps_class_and_logits():
    model = meta_rm("granite")
    twin = copy.deepcopy(model)
    assert type(twin) is type(model)
    torch.testing.assert_close(logits(twin, [[7, 8]]), logits(model, [[7, 8]]))


@pytest.mark.parametrize("arch", ["deepseek_v2", "gemma2", "granite"])
def test_lora_saves_reloads_and_merges(arch, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    judge = save_tiny(tmp_path / "judge", arch)
    torch.manual_seed(0)
    base = MetaRMForSequenceClassification.from_pretrained(judge)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(base, config).eval()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("score" in name for name in trainable)
    expected = logits(model, [[7, 8, 9]])
    model.save_pretrained(tmp_path / "adapter")
    by_peft = PeftModel.from_pretrained(MetaRMForSequenceClassification.from_pretrained(judge), tmp_path / "adapter")
    torch.testing.assert_close(logits(by_peft.eval(), [[7, 8, 9]]), expected)
    directly = MetaRMForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(directly, [[7, 8, 9]]), expected)
    merged = model.merge_and_unload()
    assert isinstance(merged, MetaRMForSequenceClassification)
    torch.testing.assert_close(logits(merged, [[7, 8, 9]]), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ["gemma2", "qwen2"])
def test_nf4(arch, tmp_path):
    bnb = pytest.importorskip("bitsandbytes")
    judge = save_tiny(tmp_path / "judge", arch, hidden_size=64)
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    torch.manual_seed(0)
    model = MetaRMForSequenceClassification.from_pretrained(judge, quantization_config=options, dtype=torch.float32)
    keep_trainable(model)
    assert any(isinstance(module, bnb.nn.Linear4bit) for module in model.modules())
    assert type(model.score) is torch.nn.Linear, "the head is not quantized"
    expected = logits(model.eval(), [[7, 8, 9]])
    model.save_pretrained(tmp_path / "meta")
    reloaded = MetaRMForSequenceClassification.from_pretrained(tmp_path / "meta")
    keep_trainable(reloaded)
    torch.testing.assert_close(logits(reloaded.eval(), [[7, 8, 9]]), expected)


# --- scoring ---


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_scores_keep_order_and_do_not_depend_on_batches(pad_is_eos):
    tokenizer, model = tiny_tokenizer(pad_is_eos), meta_rm().train()
    alone = [meta_scores(model, tokenizer, [messages])[0] for messages in CONVERSATIONS]
    for batch_size in (1, 3, 8):
        assert meta_scores(model, tokenizer, CONVERSATIONS, batch_size) == pytest.approx(alone, abs=1e-4)
    assert meta_scores(model, tokenizer, []) == []
    assert len(set(alone)) == len(alone) and model.training
    assert alone[1] == logits(model.eval(), [encode_meta(tokenizer, CONVERSATIONS[1])]).item()
    with pytest.raises(ValueError, match="batch_size=0"):
        meta_scores(model, tokenizer, CONVERSATIONS, batch_size=0)


def test_encoding_is_the_chat_template_without_a_generation_prompt():
    tokenizer = tiny_tokenizer()
    ids = encode_meta(tokenizer, CONVERSATIONS[1])
    text = tokenizer.decode(ids)
    assert text.startswith("<bos><start_of_turn>user\nPlease score the responses.")
    assert text.endswith("<start_of_turn>model\nThe first one is \\boxed{8, 2}<end_of_turn>\n")
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="without a chat template"):
        encode_meta(tokenizer, CONVERSATIONS[1])


# --- contracts with transformers ---


def test_an_adapter_in_a_folder_of_a_whole_judge_stands_on_its_own_base(tmp_path):
    """Not on the judge beside it, which transformers would take for the base."""
    from peft import LoraConfig, get_peft_model

    base = save_tiny(tmp_path / "base", "llama", seed=1)
    model = MetaRMForSequenceClassification.from_pretrained(base)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    trained = get_peft_model(model, lora)
    judge = save_tiny(tmp_path / "judge", "llama", seed=2)
    trained.save_pretrained(f"{judge}/meta_rm")
    beside = MetaRMForSequenceClassification.from_pretrained(judge, subfolder="meta_rm").eval()
    torch.testing.assert_close(logits(beside, [[7, 8, 9]]), logits(trained.eval(), [[7, 8, 9]]))


def test_find_adapter_config_file_takes_the_hub_arguments():
    from transformers.utils import find_adapter_config_file

    from trl_spct.judge.repositories import HUB_KWARGS

    assert set(HUB_KWARGS) <= set(inspect.signature(find_adapter_config_file).parameters)


# --- for inference a head is never made up ---


def test_a_checkpoint_without_a_head_is_refused_for_inference(tmp_path):
    save_tiny(tmp_path / "causal", "llama")
    with pytest.raises(ValueError, match=r"Found no weights for \['score.weight'\].*train it with `MetaRMTrainer`"):
        MetaRMForSequenceClassification.load_trained(tmp_path / "causal")
    model = MetaRMForSequenceClassification.from_pretrained(tmp_path / "causal")
    model.save_pretrained(tmp_path / "meta")
    again = MetaRMForSequenceClassification.load_trained(tmp_path / "meta")
    assert torch.equal(again.score.weight, model.score.weight)


def test_an_adapter_without_a_head_is_refused_for_inference(tmp_path):
    from peft import LoraConfig, get_peft_model

    save_tiny(tmp_path / "causal", "llama")
    base = MetaRMForSequenceClassification.from_pretrained(tmp_path / "causal")
    head = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["score"]))
    with torch.no_grad():
        head.base_model.model.score.modules_to_save["default"].weight.fill_(0.5)
    head.save_pretrained(tmp_path / "head")
    loaded = MetaRMForSequenceClassification.load_trained(tmp_path / "head")
    assert (loaded.score.modules_to_save["default"].weight == 0.5).all()
    base = MetaRMForSequenceClassification.from_pretrained(tmp_path / "causal")
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="Found no weights for"):
        MetaRMForSequenceClassification.load_trained(tmp_path / "headless")


@pytest.mark.parametrize("stored", [True, False])
def test_an_adapter_whose_head_is_not_in_its_file_is_refused(stored, tmp_path):
    """Its config says that it replaces the head, whose weights would be those of the base or random."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file, save_file

    save_tiny(tmp_path / "causal", "llama")
    base = MetaRMForSequenceClassification.from_pretrained(tmp_path / "causal", config=MetaRMConfig(k_meta=3))
    base.save_pretrained(tmp_path / "base")
    base = MetaRMForSequenceClassification.from_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(r=2, task_type="SEQ_CLS")).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    assert any(name.endswith("score.weight") for name in weights)
    if stored:
        loaded = MetaRMForSequenceClassification.load_trained(tmp_path / "adapter", config=MetaRMConfig(guide="soft"))
        assert isinstance(loaded, PeftModel) and loaded.config.meta_rm == {"k_meta": 3, "guide": "soft"}
        assert any(parameter.requires_grad for parameter in loaded.parameters())
    else:
        save_file({name: value for name, value in weights.items() if "score" not in name}, file)
        with pytest.raises(ValueError, match="Found no weights for"):
            MetaRMForSequenceClassification.load_trained(tmp_path / "adapter")


def test_lora_on_a_head_needs_the_head_of_its_base(tmp_path):
    from peft import LoraConfig, get_peft_model

    save_tiny(tmp_path / "causal", "llama")
    base = MetaRMForSequenceClassification.from_pretrained(tmp_path / "causal")
    base.save_pretrained(tmp_path / "base")
    for name in ("base", "causal"):
        model = MetaRMForSequenceClassification.from_pretrained(tmp_path / name)
        get_peft_model(model, LoraConfig(r=2, target_modules=["score"])).save_pretrained(tmp_path / f"on-{name}")
    assert MetaRMForSequenceClassification.load_trained(tmp_path / "on-base").score.base_layer.weight.shape == (1, 32)
    with pytest.raises(ValueError, match="Found no weights for"):
        MetaRMForSequenceClassification.load_trained(tmp_path / "on-causal")
