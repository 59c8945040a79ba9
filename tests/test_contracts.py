# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What the library relies on in TRL and transformers beyond their documented interfaces.

When one of these fails after an upgrade, the test says which name has changed, and the library is to follow.
"""

import inspect

import pytest
import torch
import transformers
import trl
from datasets import Dataset
from tiny_models import save_tiny, tiny_causal_lm, tiny_tokenizer
from transformers import (
    AttentionInterface,
    DynamicCache,
    GenerationConfig,
    Pipeline,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
)
from transformers.utils import cached_file, find_adapter_config_file
from trl import GRPOConfig, GRPOTrainer, RewardTrainer, SFTConfig, SFTTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import add_fused_lm_head, create_model_from_path

from trl_spct.judge.compat import CACHE
from trl_spct.judge.hub import LEFT_OUT
from trl_spct.trainers.trl_internals import OVERRIDES, changed


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (
            SFTTrainer._prepare_dataset,
            ["dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"],
        ),
        (SFTTrainer.create_model_card, ["model_name", "dataset_name", "tags"]),
        (GRPOTrainer.create_model_card, ["model_name", "dataset_name", "tags"]),
        (RewardTrainer.create_model_card, ["model_name", "dataset_name", "tags"]),
        (GRPOTrainer.log, ["logs", "start_time"]),
        (GRPOTrainer.evaluate, ["eval_dataset", "ignore_keys", "metric_key_prefix"]),
        (GRPOTrainer._log_metric, ["name", "value"]),
        (GRPOTrainer._log_completion_extra, ["column", "values"]),
        (Trainer.end, []),
        (Trainer.save_model, ["output_dir", "_internal_call"]),
        (
            Pipeline.get_iterator,
            ["inputs", "num_workers", "batch_size", "preprocess_params", "forward_params", "postprocess_params"],
        ),
        (Pipeline.run_single, ["inputs", "preprocess_params", "forward_params", "postprocess_params"]),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_signatures_of_what_is_overridden_or_called_by_position(function, names):
    assert parameters(function) == names


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (unwrap_model_for_generation, {"model", "accelerator", "gradient_checkpointing_kwargs"}),
        (create_model_from_path, {"model_id", "kwargs"}),
        (DynamicCache.__init__, {"config"}),
        (DynamicCache.reorder_cache, {"beam_idx"}),
        (cached_file, {"path_or_repo_id", "filename", "kwargs"}),
        (find_adapter_config_file, {"model_id"}),
        (Trainer.init_hf_repo, {"token"}),
        (Trainer.train, {"resume_from_checkpoint"}),
        (GRPOTrainer.__init__, {"reward_funcs", "quantization_config", "peft_config", "reward_processing_classes"}),
        (SFTTrainer.__init__, {"eval_dataset", "processing_class", "quantization_config", "peft_config"}),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_signatures_of_what_is_called_by_name(function, names):
    assert names <= set(parameters(function))


def test_methods_of_trl_that_are_overridden_still_exist_where_they_are_called():
    assert "create_model_card" in inspect.getsource(GRPOTrainer._save_checkpoint)
    assert "create_model_card" in inspect.getsource(SFTTrainer._save_checkpoint)
    assert "_metrics[mode]" in inspect.getsource(GRPOTrainer.log)


def test_pushing_saves_first_then_writes_the_card_and_leaves_out_what_a_push_by_hand_does():
    source = inspect.getsource(Trainer.push_to_hub)
    steps = ["self.save_model(_internal_call=True)", "self.create_model_card(", "upload_folder("]
    assert sorted(steps, key=source.index) == steps
    assert 'ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"]' in source and LEFT_OUT == ("_*", "checkpoint-*")
    assert "self.init_hf_repo(" in source


def test_configurations_know_what_ours_change():
    grpo = set(inspect.signature(GRPOConfig).parameters)
    assert {"beta", "loss_type", "scale_rewards", "use_bias_correction_kl", "num_generations", "top_k"} <= grpo
    assert {"vllm_importance_sampling_correction", "max_completion_length", "trust_remote_code"} <= grpo
    sft = set(inspect.signature(SFTConfig).parameters)
    assert {"max_length", "packing", "eos_token", "chat_template_path", "trust_remote_code"} <= sft
    assert "model_init_kwargs" in SFTConfig._VALID_DICT_FIELDS
    assert "model_init_kwargs" in GRPOConfig._VALID_DICT_FIELDS


@pytest.fixture(scope="module")
def reward_call(tmp_path_factory):
    """The keywords of one call of a reward function, and the trainer."""
    folder = tmp_path_factory.mktemp("grpo")
    seen = {}

    def reward(**kwargs):
        seen.update(kwargs)
        return [0.0] * len(kwargs["completions"])

    args = GRPOConfig(
        output_dir=str(folder / "out"),
        use_cpu=True,
        bf16=False,
        max_steps=1,
        max_completion_length=3,
        num_generations=2,
        per_device_train_batch_size=2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "Hi"}], "labels": [1.0], "order": [0]}] * 2)
    trainer = GRPOTrainer(save_tiny(folder / "judge"), reward_funcs=reward, args=args, train_dataset=rows)
    trainer.train()
    return seen, trainer


def test_reward_functions_are_called_with_these_keywords(reward_call):
    seen, _ = reward_call
    assert {"completions", "completion_ids", "log_metric", "log_extra", "labels", "order", "trainer_state"} <= set(
        seen
    )
    assert seen["labels"] == [[1.0], [1.0]]
    assert [[message["role"] for message in completion] for completion in seen["completions"]] == [["assistant"]] * 2
    assert all(isinstance(token, int) for ids in seen["completion_ids"] for token in ids)


def test_the_trainer_says_which_tokens_end_a_completion(reward_call):
    _, trainer = reward_call
    assert tiny_tokenizer().eos_token_id in set(trainer.eos_token_ids)


def test_generate_goes_on_from_a_filled_cache():
    model = tiny_causal_lm("gemma2")
    ids = torch.arange(10, 30).unsqueeze(0)
    settings = GenerationConfig(
        max_new_tokens=5, do_sample=False, eos_token_id=1, pad_token_id=0, disable_compile=True
    )
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(input_ids=ids[:, :-1], use_cache=True, **{CACHE: cache})
        cache.reorder_cache(torch.tensor([0, 0]))
        ids2 = ids.repeat(2, 1)
        filled = model.generate(ids2, attention_mask=ids2 * 0 + 1, generation_config=settings, **{CACHE: cache})
        fresh = model.generate(ids2, attention_mask=ids2 * 0 + 1, generation_config=settings)
    assert torch.equal(filled, fresh)
    assert filled.shape == (2, 25)


def test_a_configuration_keeps_what_is_added_to_it(tmp_path):
    config = tiny_causal_lm("llama").config
    config.grm = {"template": "compact", "template_digests": ["a", "b"]}
    config.save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).grm == config.grm
    assert isinstance(config, PreTrainedConfig)


def test_parsers_are_strict_and_read_yaml(tmp_path):
    (tmp_path / "config.yaml").write_text("dataset_name: there\n")
    parser = trl.TrlParser((trl.ScriptArguments,))
    (parsed,) = parser.parse_args_and_config(["--config", str(tmp_path / "config.yaml")], fail_with_unknown_args=True)
    assert parsed.dataset_name == "there"
    (tmp_path / "config.yaml").write_text("no_such_option: 1\n")
    with pytest.raises(ValueError, match="no_such_option"):
        parser.parse_args_and_config(["--config", str(tmp_path / "config.yaml")])


def test_private_methods_of_trl_are_overridden_as_they_are_known():
    assert [changed(name) for name in OVERRIDES] == [None] * 6
    source = inspect.getsource(GRPOTrainer)
    assert "completion_ids, logprobs = self._generate_single_turn(" in source
    assert "per_token_logps, entropies, aux_loss = self._get_per_token_logps_and_entropies(" in source
    assert "self._generate_and_score_completions(generation_batch)" in inspect.getsource(GRPOTrainer._prepare_inputs)
    assert parameters(GRPOTrainer.training_step) == ["model", "inputs", "num_items_in_batch"]


def test_generated_batches_are_kept_where_they_are_regrouped():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in source
    assert "self._buffered_inputs = [" in source


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_an_attention_function_gets_the_keywords_of_the_models_forward(arch):
    """With one row, no mask of the model's making, and with its layer's window."""
    calls = []

    def attention(module, query, key, value, attention_mask, *, note=None, sliding_window=None, **kwargs):
        calls.append((note, attention_mask, sliding_window, tuple(query.shape[:1])))
        return value.repeat_interleave(2, dim=1).transpose(1, 2), None

    AttentionInterface.register("of_this_test", attention)
    model = tiny_causal_lm(arch)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    model.config._attn_implementation = "of_this_test"
    ids = torch.arange(6, 12)[None]
    labels = ids.masked_fill(ids < 9, -100)
    outputs = model(input_ids=ids, position_ids=ids, shift_labels=labels, fused_lm_head=True, note="here")
    windows = [64, None] if arch == "gemma2" else [None, None]
    assert calls == [("here", None, window, (1,)) for window in windows]
    assert outputs.log_probs.shape == outputs.entropy.shape == (1, 6)
    assert (outputs.log_probs[0] != 0).tolist() == [False] * 3 + [True] * 3


def test_caches_and_attention_functions_that_decoding_builds_on():
    from transformers import DeepseekV2Config, LlamaConfig
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
    from transformers.masking_utils import sdpa_mask
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention
    from transformers.models.llama.modeling_llama import LlamaAttention

    assert parameters(DynamicLayer.update)[:2] == ["key_states", "value_states"]
    assert parameters(DynamicLayer.lazy_initialization) == ["key_states", "value_states"]
    assert parameters(DynamicLayer.get_mask_sizes) == ["query_length"]
    assert parameters(DynamicLayer.reorder_cache) == ["beam_idx"]
    assert parameters(PreTrainedModel.set_attn_implementation)[0] == "attn_implementation"
    assert {"q_length", "kv_length", "kv_offset", "attention_mask"} <= set(parameters(sdpa_mask))
    kinds = [type(layer) for layer in DynamicCache(config=tiny_causal_lm("gemma2").config).layers]
    assert kinds == [DynamicSlidingWindowLayer, DynamicLayer] and DynamicCache(config=LlamaConfig()).layers
    assert tiny_causal_lm("gemma2")._supports_attention_backend and LlamaConfig()._attn_implementation is None
    assert PreTrainedModel._can_set_attn_implementation() in (True, False)
    assert LlamaAttention(LlamaConfig(hidden_size=32), layer_idx=1).layer_idx == 1
    # Latent attention caches latents of one head, and expands them before it attends.
    assert parameters(DeepseekV2Attention.expand_kv) == ["kv_nope", "k_rot"]
    assert DeepseekV2Config().kv_lora_rank
