# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Writes the recipes for named models, `recipes/<model>/<stage>_<variant>.yaml`, and the table in `recipes/README.md`.

python recipes/make_recipes.py

What differs between models stands in `MODELS`, what differs between stages in one function each, and the hardware is
the smallest that the memory arithmetic in each header fits into. A new model is one entry in `MODELS`.
"""

import math
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


RECIPES = Path(__file__).parent
CONFIGS, TEMPLATES = "recipes/accelerate_configs", "recipes/chat_templates"
STAGES, VARIANTS = ("rft", "spct", "meta_rm"), ("full", "qlora")
TITLES = {"rft": "Rejective fine-tuning, stage 1", "spct": "Rule-based RL, stage 2", "meta_rm": "Meta RM, stage 3"}

CONTEXT, CRITIQUE = 4096, 1024
"""Tokens of prompt and critique together, and of a critique; ours, the paper gives none."""
GB = 1e9
USABLE = 0.9
"""Share of a GPU's memory that the arithmetic may fill; what it leaves out has to fit into the rest."""
NF4 = 0.516
"""Bytes per weight: 4 bits, and with nested quantization 0.127 more for the scales of 64 weights."""
LORA_R = 32
PAPER_BATCH = {"rft": 1024, "spct": 512, "meta_rm": 512}
SMALL_BATCH = 64
SLICE = 2000
"""Rows of each part of the mixture in the QLoRA recipes."""
GENERAL = "allenai/tulu-3-sft-mixture"
PAPER_SAMPLER = "deepseek-ai/DeepSeek-V2.5"


@dataclass(frozen=True)
class Model:
    """What differs between models.

    Args:
        start (`str`): The instruction-tuned checkpoint that recipes start from.
        kind (`str`): transformers' model type.
        config (`dict`): The configuration, as far as the number of parameters depends on it.
        base (`str`, *optional*): The pretrained checkpoint, for the models that the paper trained.
        turn_end (`str`, *optional*): What ends a turn, where the pretrained tokenizer's own end is another token.
        beta (`float`, *optional*, defaults to 0.08): KL coefficient, and its mark.
        extra (`dict`), judge (`dict`):
            Keys for all stages, and for rejective fine-tuning alone, which hands its tokenizer on; pairs of a value
            and its note.
        lora (`tuple[str, ...]`): LoRA's target modules.
    """

    start: str
    kind: str
    config: dict[str, Any]
    base: str | None = None
    turn_end: str | None = None
    beta: tuple[float, str] = (0.08, "[?] the paper's for 27B; 0.002 for its 16B [P]")
    extra: dict[str, tuple[Any, str]] = field(default_factory=dict)
    judge: dict[str, tuple[Any, str]] = field(default_factory=dict)
    lora: tuple[str, ...] = ("all-linear",)

    @property
    def built(self):
        return CONFIG_MAPPING[self.kind](**self.config)


def gemma(start: str, hidden: int, inner: int, layers: int, heads: int, kv: int, head: int, **kwargs) -> Model:
    shape = _shape(256000, hidden, inner, layers, heads, kv, head, tied=True)
    note = "Gemma-2 caps its attention scores, which sdpa cannot; flash_attention_2 where it is installed"
    return Model(start, "gemma2", shape, extra={"attn_implementation": ("eager", note)}, **kwargs)


def qwen3(start: str, hidden: int, inner: int, layers: int, heads: int, tied: bool) -> Model:
    shape = _shape(151936, hidden, inner, layers, heads, 8, 128, tied)
    template = (f"{TEMPLATES}/qwen3_no_thinking.jinja", "the judge does not think first")
    return Model(start, "qwen3", shape, judge={"chat_template_path": template})


def qwen2(start: str, vocab: int, hidden: int, inner: int, layers: int, heads: int, kv: int, tied: bool) -> Model:
    return Model(start, "qwen2", _shape(vocab, hidden, inner, layers, heads, kv, None, tied))


def _shape(vocab, hidden, inner, layers, heads, kv, head, tied) -> dict[str, Any]:
    shape = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": tied,
    }
    return shape if head is None else {**shape, "head_dim": head}


MODELS: dict[str, Model] = {
    "gemma-2-27b": gemma(
        *("google/gemma-2-27b-it", 4608, 36864, 46, 32, 16, 128),
        base="google/gemma-2-27b",
        turn_end="<end_of_turn>",
        beta=(0.08, "[P] smaller ones collapse on some subsets"),
    ),
    "gemma-2-9b": gemma("google/gemma-2-9b-it", 3584, 14336, 42, 16, 8, 256),
    "gemma-2-2b": gemma("google/gemma-2-2b-it", 2304, 9216, 26, 8, 4, 256),
    "deepseek-v2-lite": Model(
        "deepseek-ai/DeepSeek-V2-Lite-Chat",
        "deepseek_v2",
        {
            **_shape(102400, 2048, 10944, 27, 16, 16, None, tied=False),
            "moe_intermediate_size": 1408,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "q_lora_rank": None,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
        base="deepseek-ai/DeepSeek-V2-Lite",
        beta=(0.002, "[P]"),
        lora=("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
    ),
    "qwen3-0.6b": qwen3("Qwen/Qwen3-0.6B", 1024, 3072, 28, 16, tied=True),
    "qwen3-1.7b": qwen3("Qwen/Qwen3-1.7B", 2048, 6144, 28, 16, tied=True),
    "qwen3-4b": qwen3("Qwen/Qwen3-4B", 2560, 9728, 36, 32, tied=True),
    "qwen3-8b": qwen3("Qwen/Qwen3-8B", 4096, 12288, 36, 32, tied=False),
    "qwen3-14b": qwen3("Qwen/Qwen3-14B", 5120, 17408, 40, 40, tied=False),
    "qwen3-32b": qwen3("Qwen/Qwen3-32B", 5120, 25600, 64, 64, tied=False),
    "qwen2.5-0.5b": qwen2("Qwen/Qwen2.5-0.5B-Instruct", 151936, 896, 4864, 24, 14, 2, tied=True),
    "qwen2.5-7b": qwen2("Qwen/Qwen2.5-7B-Instruct", 152064, 3584, 18944, 28, 28, 4, tied=False),
    "qwen2.5-14b": qwen2("Qwen/Qwen2.5-14B-Instruct", 152064, 5120, 13824, 48, 40, 8, tied=False),
    "qwen2.5-32b": qwen2("Qwen/Qwen2.5-32B-Instruct", 152064, 5120, 27648, 64, 40, 8, tied=False),
    "llama-3.1-8b": Model(
        "meta-llama/Llama-3.1-8B-Instruct",
        "llama",
        _shape(128256, 4096, 14336, 32, 32, 8, 128, tied=False),
    ),
}


# Sizes


@dataclass(frozen=True)
class Size:
    """Parameters of a model: all, those of embeddings and head, those of the largest layer, those that nf4 packs, and
    those of LoRA adapters; bytes of keys and values per token in 16 bits; and the width of a layer's inner states."""

    parameters: int
    embeddings: int
    layer: int
    packed: int
    lora: int
    cache: int
    inner: int


@cache
def size_of(name: str) -> Size:
    """Counted on transformers' own model, without memory for it."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MODELS[name].built)
    return measured(model, MODELS[name].lora)


def measured(model: PreTrainedModel, lora: tuple[str, ...]) -> Size:
    config, head = model.config, model.get_output_embeddings()
    linear = {path: m for path, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    targets = [m for path, m in linear.items() if lora == ("all-linear",) or path.endswith(lora)]
    ends = {id(m.weight): m.weight.numel() for m in (model.get_input_embeddings(), head)}
    if config.model_type == "deepseek_v2":
        states = config.kv_lora_rank + config.qk_rope_head_dim  # keys and values are kept compressed
        inner = (config.num_experts_per_tok + config.n_shared_experts) * config.moe_intermediate_size
    else:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        states, inner = 2 * config.num_key_value_heads * head_dim, config.intermediate_size
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        embeddings=sum(ends.values()),
        layer=max(sum(p.numel() for p in layer.parameters()) for layer in model.model.layers),
        packed=sum(m.weight.numel() for m in linear.values()),
        lora=LORA_R * sum(m.in_features + m.out_features for m in targets),
        cache=2 * config.num_hidden_layers * states,
        inner=inner,
    )


# Memory


@dataclass(frozen=True)
class Term:
    """One line of the arithmetic: a product of factors, over the GPUs that share it."""

    what: str
    factors: tuple[float, ...]
    shared_by: int = 1

    @property
    def text(self) -> str:
        return " x ".join(map(_number, self.factors)) + (f" / {self.shared_by}" if self.shared_by > 1 else "")

    @property
    def gigabytes(self) -> float:
        """Of the factors as they are printed, so that a reader gets the same."""
        return math.prod(float(_number(factor)) for factor in self.factors) / self.shared_by / GB


def _number(value: float) -> str:
    return f"{value / 1e9:.3f}e9" if value >= 1e8 else f"{value:g}" if value < 1e6 else f"{value / 1e6:.2f}e6"


@dataclass(frozen=True)
class Plan:
    """How a recipe runs: its hardware, and the batches that fit.

    Args:
        config (`str`): Of `recipes/accelerate_configs`.
        gpus (`int`), memory (`int`): How many, and the GB of each.
        batch (`int`): Sequences per device and forward pass.
        sampling (`int`): Critiques that are decoded together on a device.
    """

    config: str
    gpus: int
    memory: int
    batch: int
    sampling: int

    @property
    def sharded(self) -> bool:
        return self.config in ("fsdp2", "multi_node")

    @property
    def needs(self) -> str:
        return f"{self.gpus} x {self.memory} GB" + (" (2 machines)" if self.config == "multi_node" else "")


@cache
def plan_of(name: str, stage: str, variant: str) -> Plan:
    """The first hardware that the stage fits on, with the largest batches."""
    kinds = (
        [("ddp", 8, 80), ("fsdp2", 8, 80), ("multi_node", 16, 80)]
        if variant == "full"
        else [("single_gpu", 1, memory) for memory in (24, 48, 80)]
    )
    for kind in kinds:
        for batch in (4, 2, 1):
            for sampling in (64, 32, 16, 8):
                plan = Plan(*kind, batch, sampling)
                peaks = [sum(term.gigabytes for term in terms) for _, terms in memory_of(name, stage, variant, plan)]
                if max(peaks) <= USABLE * plan.memory:
                    return plan
    raise ValueError(f"{name}: {stage}_{variant} fits on no hardware that is known here.")


def memory_of(name: str, stage: str, variant: str, plan: Plan) -> list[tuple[str, list[Term]]]:
    """The moments at which a GPU holds most, and what it holds then."""
    size, config = size_of(name), MODELS[name].built
    held = _held_full(size, stage, plan) if variant == "full" else _held_qlora(size, stage)
    width = 4 if variant == "full" else 2
    tokens = (plan.batch, CONTEXT)
    activations = [
        Term("layer inputs, checkpointed", (config.num_hidden_layers, *tokens, config.hidden_size, width)),
        Term("the layer that is computed again", (*tokens, 10 * config.hidden_size + 4 * size.inner, 4)),
    ]
    if "attn_implementation" in MODELS[name].extra:
        heads = config.num_attention_heads
        activations.append(Term("its attention scores, eager", (plan.batch, heads, CONTEXT, CONTEXT, 14)))
    moments = [("it trains", [*held, *_vllm(name, stage, variant, plan), *activations])]
    weights = [held[0]] if variant == "full" else held[:2]
    cache = Term("keys and values", (plan.sampling, CONTEXT, size.cache * width / 2))
    if stage == "spct" and variant == "qlora":
        moments.append(("it samples", [*held, cache]))
    elif stage == "rft" and not served(name, variant):
        if plan.sharded:  # whole copies collect before, in 16 bits
            weights = [Term("weights, bfloat16", (size.parameters, 2))]
            cache = replace(cache, factors=(plan.sampling, CONTEXT, size.cache))
        moments.append(("it collects" if plan.sharded else "it samples", [*weights, cache]))
    elif stage == "meta_rm" and not plan.sharded:
        judge = [replace(term, what=f"the judge's {term.what}") for term in weights]
        moments.append(("the guidance is chosen", [*held, *judge, cache]))
    return moments


def _held_full(size: Size, stage: str, plan: Plan) -> list[Term]:
    shards = plan.gpus if plan.sharded else 1
    held = [
        Term("weights, float32", (size.parameters, 4), shards),
        Term("gradients, float32", (size.parameters, 4), shards),
        Term("Adam's two moments, float32", (size.parameters, 8), shards),
    ]
    if stage == "spct":
        held.append(Term("KL reference, float32", (size.parameters, 4), shards))
    if plan.sharded:
        held.append(Term("two layers and the embeddings, whole", (2 * size.layer + size.embeddings, 4)))
    else:
        held.append(Term("gradients in DDP's buckets", (size.parameters, 4)))
    return held


def _held_qlora(size: Size, stage: str) -> list[Term]:
    return [
        Term("weights, nf4", (size.packed, NF4)),
        Term("weights, bfloat16", (size.parameters - size.packed, 2)),
        Term("LoRA: weights, gradients, two moments", (size.lora, 8)),
        *([Term("KL reference: the adapter of stage 1", (size.lora, 4))] if stage == "spct" else []),
    ]


def served(name: str, variant: str) -> bool:
    """Whether a model samples on a vLLM server: those that are too large for one GPU, and the paper's stronger one."""
    return variant == "full" and (size_of(name).parameters > 20e9 or MODELS[name].base is not None)


def colocated(name: str) -> bool:
    """Whether vLLM shares the GPUs with training."""
    return size_of(name).parameters <= 20e9


def vllm_share(name: str) -> tuple[float, int]:
    """vLLM's share of a GPU's memory, and over how many GPUs it splits the model: 12 GB beside the weights."""
    split = 2 if size_of(name).parameters > 10e9 else 1
    return math.ceil((2 * size_of(name).parameters / split / GB + 12) / 80 * 20) / 20, split


def _vllm(name: str, stage: str, variant: str, plan: Plan) -> list[Term]:
    if stage != "spct" or variant != "full" or not colocated(name):
        return []
    return [Term("vLLM: its share of the GPU", (vllm_share(name)[0], plan.memory, GB))]


# Recipes


class Recipe:
    """One file: its header and its keys."""

    def __init__(self, name: str, stage: str, variant: str):
        self.name, self.stage, self.variant = name, stage, variant
        self.model, self.plan = MODELS[name], plan_of(name, stage, variant)
        self.is_papers = variant == "full" and self.model.base is not None
        self.start = self.model.base if self.is_papers else self.model.start

    @property
    def path(self) -> str:
        return f"recipes/{self.name}/{self.stage}_{self.variant}.yaml"

    def output(self, stage: str) -> str:
        return f"outputs/{self.name}/{stage}_{self.variant}"

    @property
    def text(self) -> str:
        body = {"rft": self._rft, "spct": self._spct, "meta_rm": self._meta_rm}[self.stage]()
        return "\n".join([*self._header(), "", *body]) + "\n"

    # The header.

    def _header(self) -> Iterator[str]:
        how = "QLoRA (nf4)" if self.variant == "qlora" else "full fine-tuning"
        paragraphs = [
            f"{TITLES[self.stage]}, of {self.start}: {how}. Written by recipes/make_recipes.py: copy it to change it. "
            "Two lines make it yours: the model, and `datasets` (or `dataset_name: rows.jsonl` in its place).",
            "[P] stated in the paper (arXiv 2504.02495), [?] stated nowhere and ours." + self._start,
            f"Needs {self.plan.needs}. Never run at this size: parsed, and run for two steps on a CPU with a tiny "
            f"{self.model.kind} in place of the model, tiny rows and short lengths (test_recipe_runs.py).",
        ]
        for paragraph in paragraphs:
            yield from (f"# {line}" for line in textwrap.wrap(paragraph, 117))
            yield "#"
        for line in self._launch():
            yield f"# {line}".rstrip()
        yield "#"
        yield "# Memory of one GPU in GB of 1e9 bytes, at the longest lengths allowed; arithmetic, never measured:"
        for moment, terms in memory_of(self.name, self.stage, self.variant, self.plan):
            for term in terms:
                yield f"#     {term.what:<40}{term.text:<36}= {term.gigabytes:6.2f}"
            yield f"#   while {moment + ':':<70}= {sum(term.gigabytes for term in terms):6.2f}"

    @property
    def _start(self) -> str:
        if self.stage == "spct":
            return ""
        if not self.is_papers:
            return (
                " The paper starts from pretrained checkpoints [P]; for smaller budgets this starts from an "
                "instruction-tuned one, which can write critiques at once."
            )
        left_out = "`general_dataset_name` and " if self.stage == "rft" else ""
        return (
            " The paper's: it starts from the pretrained checkpoint. To start from an instruction-tuned one, "
            f"{self.model.start}, leave out {left_out}what names a chat template or an end of turn."
        )

    def _launch(self) -> list[str]:
        return {"rft": self._launch_rft, "spct": self._launch_spct, "meta_rm": self._launch_meta_rm}[self.stage]()

    def _command(self, config: str, *more: str, script: str | None = None, recipe: str | None = None) -> list[str]:
        lines = [
            f"accelerate launch --config_file {CONFIGS}/{config}.yaml recipes/{script or self.stage}.py",
            f"--config {recipe or self.path}",
            *more,
        ]
        return [(line if first else f"    {line}") + " \\" for first, line in _numbered(lines[:-1])] + [
            f"    {lines[-1]}"
        ]

    def _launch_rft(self) -> list[str]:
        if self._serves:
            return [
                "A sharded model cannot sample for itself. First critiques are collected from a server, by a process",
                "that needs no GPU and only holds the model in main memory; then they are trained on.",
                "",
                *self._serve(PAPER_SAMPLER if self.is_papers else self.start),
                *_on_cpu(self.path),
                *self._command(self.plan.config, f"--trajectories {self.output('rft')}/trajectories"),
            ]
        if self.plan.sharded:
            return [
                "A sharded model cannot sample for itself. First whole copies of it collect critiques; then they are",
                "trained on.",
                "",
                *self._command("ddp", "--collect_only --dtype bfloat16"),
                *self._command(self.plan.config, f"--trajectories {self.output('rft')}/trajectories"),
            ]
        return self._command(self.plan.config)

    def _launch_spct(self) -> list[str]:
        if self.variant == "full" and not colocated(self.name):
            return [
                "vLLM generates on 8 GPUs of another machine, whose address `vllm_server_base_url` names:",
                "",
                f"VLLM_SERVER_DEV_MODE=1 vllm serve {self.output('rft')} --tensor-parallel-size 8 \\",
                f"    --max-model-len {CONTEXT} --logprobs-mode processed_logprobs --max-logprobs -1 \\",
                '    --weight-transfer-config \'{"backend": "nccl"}\'',
                *self._command(self.plan.config),
            ]
        return self._command(self.plan.config)

    def _launch_meta_rm(self) -> list[str]:
        if not self.plan.sharded:
            return self._command(self.plan.config)
        fresh = f"--model_name_or_path {self.output('spct')} --output_dir outputs/{self.name}/fresh"
        fresh = [fresh, "--num_generations 3 --hint none --reject_too_easy false"]
        rft = f"recipes/{self.name}/rft_full.yaml"
        collect = self._command("ddp", *fresh, "--collect_only --dtype bfloat16", script="rft", recipe=rft)
        if Recipe(self.name, "rft", "full")._serves:
            fresh.append(f"--sampler_tokenizer_name_or_path {self.output('spct')}")
            collect = [*self._serve(self.output("spct")), *_on_cpu(rft, *fresh)]
        return [
            "First the trained judge writes 3 fresh critiques per row [P], then the Meta RM learns from all of them.",
            "",
            *collect,
            *self._command(self.plan.config),
        ]

    @property
    def _serves(self) -> bool:
        return served(self.name, self.variant)

    def _serve(self, model: str) -> list[str]:
        template = self.model.judge.get("chat_template_path") if model == self.start else None
        more = f" \\\n    --chat-template {template[0]}" if template else ""
        return f"vllm serve {model} --tensor-parallel-size 8 --max-model-len {CONTEXT + 128}{more}".split("\n")

    # The keys.

    def _rft(self) -> list[str]:
        return [
            *self._model_keys(),
            *self._chat_template(),
            *_keys(self.model.judge, skip=("chat_template_path",) if self.is_papers else ()),
            *self._output_keys(),
            f"# trajectories_hub_repo: your-name/{self.name}-trajectories  # pushes them when they are collected",
            "",
            *self._data_keys(),
            *self._general_keys(),
            "",
            "# Sampling and rejection",
            *self._sampler_keys(),
            *_keys(
                {
                    "num_generations": (3, "[P]"),
                    "hint": ("all", "one hinted critique per row [P]; whether for all rows [?]"),
                    "max_hinted_share": (0.5, "[?] hinted critiques may take short cuts [P]"),
                    "reject_too_easy": (True, "[P]"),
                    "temperature": (1.0, "[?]"),
                    **self._lengths(),
                    **({} if self._serves else {"sampling_batch_size": (self.plan.sampling, "what fits, see above")}),
                    "rows_per_shard": (64, "a process that is killed loses at most one shard"),
                    "ddp_timeout": (7200, "seconds; processes wait for the last shard"),
                }
            ),
            "",
            *self._training_keys(
                lr={"full": (5e-6, "[P]"), "qlora": (5e-5, "[?] ten times the paper's, since LoRA")},
                steps={"max_steps": (900, "[P]")} if self.is_papers else {"num_train_epochs": (1, "[?]")},
                schedule={"lr_scheduler_type": ("cosine", "[?]"), "warmup_steps": (0.03, "[?] a share of all steps")},
            ),
        ]

    def _general_keys(self) -> list[str]:
        if self.is_papers:
            keys = {"general_dataset_name": ([GENERAL], "[?] the paper's 1070K instructions are internal")}
        else:
            keys = {"general_dataset_name": ([GENERAL], "[?] without any the paper loses 5 points")}
        keys["general_ratio"] = (5.75, "[P] 1070K to 186K, at most")
        return [("" if self.is_papers else "# ") + line for line in _keys(keys)]

    def _sampler_keys(self) -> list[str]:
        if not self._serves:
            return ["# The model samples for itself; a stronger one with sampler_name_or_path or sampler_base_url."]
        keys = {"sampler_base_url": ("http://localhost:8000", "of the vLLM server, see above")}
        if self.is_papers:
            keys["sampler_tokenizer_name_or_path"] = (PAPER_SAMPLER, "[P] DeepSeek-V2.5-0905 samples")
        elif self.model.kind != "qwen3":  # whose own template would let it think; the server has another one
            keys["sampler_tokenizer_name_or_path"] = (self.start, "the model samples for itself [?]")
        return _keys(keys)

    def _spct(self) -> list[str]:
        judge = self.output("rft")
        kept = "its adapter goes on, and a frozen copy of it is the KL reference" if self.variant == "qlora" else ""
        return [
            *self._model_keys(judge, kept or "stage 1, by its path: the KL reference is loaded from there, too"),
            *self._output_keys(),
            "",
            *self._data_keys(),
            "# easy_judge: deepseek-ai/DeepSeek-V2-Lite-Chat  # [P] removes what it gets right 3 of 3 times",
            "",
            "# Loss and advantages are the original GRPO's [P], which `SPCTConfig` asks for.",
            *_keys(
                {
                    "num_generations": (4, "[P]"),
                    "beta": self.model.beta,
                    "temperature": (1.0, "[?]"),
                    **self._lengths(),
                }
            ),
            *self._generation_keys(),
            "",
            *self._training_keys(
                lr={
                    "full": (4e-7, "[P]"),
                    "qlora": (2e-5, "[?] below that, updates of bfloat16 adapters are rounded away"),
                },
                steps={"max_steps": (900, "[P]") if self.variant == "full" else (300, "[?]")},
                schedule={"lr_scheduler_type": ("constant", "[?]")},
                batch_note="[P] 512 in all; whether critiques or prompts [?]",
            ),
            *_keys(
                {
                    "log_completions": (True, ""),
                    "num_completions_to_print": (2, ""),
                    "eval_strategy": ("steps", "on the held-out rows"),
                    "eval_steps": (100, ""),
                }
            ),
        ]

    def _generation_keys(self) -> list[str]:
        if self.variant == "qlora":
            steps = max(1, self.plan.sampling // self.plan.batch)
            note = f"batches that are generated at once: {self.plan.sampling} critiques"
            return _keys({"steps_per_generation": (steps, note)})
        keys = {"use_vllm": (True, "false: the trainer generates, token by token")}
        if not colocated(self.name):
            keys["vllm_mode"] = ("server", "see above")
            keys["vllm_server_base_url"] = ("http://localhost:8000", "address of that machine")
            return _keys(keys)
        share, split = vllm_share(self.name)
        keys["vllm_mode"] = ("colocate", "or `server` with `vllm_server_base_url`, on GPUs of its own")
        keys["vllm_gpu_memory_utilization"] = (share, "")
        keys["vllm_tensor_parallel_size"] = (split, "")
        keys["vllm_max_model_length"] = (CONTEXT, "")
        return _keys(keys)

    def _meta_rm(self) -> list[str]:
        own = self.output("rft") + "/trajectories"
        if self.plan.sharded:
            parts = [own, f"outputs/{self.name}/fresh/trajectories"]
            sampling = _keys({"trajectories": (parts, "of stage 1, and the judge's fresh ones")})
            chosen = _keys({"eval_share": (0.02, "[?] evaluates the Meta RM, which guides with k/2 [P]")})
        else:
            sampling = _keys(
                {
                    "trajectories": ([own], "of stage 1"),
                    "judge_name_or_path": (self.output("spct"), "samples fresh critiques, and votes for the choice"),
                    "num_generations": (3, "[P]"),
                    "temperature": (1.0, "[?]"),
                    "max_completion_length": (CRITIQUE, "[?]"),
                    "sampling_batch_size": (self.plan.sampling, "what fits, see above"),
                }
            )
            chosen = _keys(
                {
                    "eval_share": (0.05, "[?] chooses how the Meta RM guides"),
                    "choose_k": (32 if self.plan.sampling >= 32 else 8, "[?]"),
                    "ddp_timeout": (7200, "seconds; processes wait for the last shard"),
                }
            )
        return [
            *self._model_keys(),
            *self._chat_template(),
            *self._output_keys(),
            "",
            *self._data_keys(),
            "",
            "# Critiques to learn from",
            *sampling,
            *chosen,
            *_keys({"max_length": (CONTEXT, "[?] longer conversations are dropped, never cut")}),
            "",
            *self._training_keys(
                lr={"full": (1e-5, "[P]"), "qlora": (1e-4, "[?] ten times the paper's, since LoRA")},
                steps={"num_train_epochs": (1, "[?]")},
                schedule={"lr_scheduler_type": ("cosine", "[?]"), "warmup_steps": (0.03, "[?] a share of all steps")},
            ),
        ]

    def _model_keys(self, path: str | None = None, note: str | None = None) -> list[str]:
        keys = {"model_name_or_path": (path or self.start, "[P]" if note is None and self.is_papers else note or "")}
        keys |= self.model.extra
        if self.variant == "full":
            return ["# Model", *_keys(keys | {"dtype": ("float32", "master weights; computed in bfloat16")})]
        keys |= {
            "dtype": ("bfloat16", ""),
            "load_in_4bit": (True, ""),
            "bnb_4bit_quant_type": ("nf4", ""),
            "use_bnb_nested_quant": (True, ""),
        }
        if self.stage != "spct":
            targets = self.model.lora[0] if len(self.model.lora) == 1 else list(self.model.lora)
            of_experts = "; the experts are no linear layers" if self.model.kind == "deepseek_v2" else ""
            keys |= {
                "use_peft": (True, ""),
                "lora_r": (LORA_R, "[?]"),
                "lora_alpha": (2 * LORA_R, "[?]"),
                "lora_dropout": (0.0, "critiques are sampled from the model that is trained"),
                "lora_target_modules": (targets, f"[?]{of_experts}"),
            }
        if self.stage == "meta_rm":
            keys["lora_task_type"] = ("SEQ_CLS", "so that the head is trained and saved, too")
        return ["# Model", *_keys(keys)]

    def _chat_template(self) -> list[str]:
        if not self.is_papers:
            return []
        keys = {"chat_template_path": (f"{TEMPLATES}/{self.model.kind}.jinja", "a pretrained tokenizer may have none")}
        if self.model.turn_end:
            keys["eos_token"] = (self.model.turn_end, "what ends the judge's turn")
        return _keys(keys)

    def _output_keys(self) -> list[str]:
        pushed = {"rft": "judge-rft", "spct": "judge", "meta_rm": "meta-rm"}[self.stage]
        return _keys(
            {
                "output_dir": (self.output(self.stage), ""),
                "push_to_hub": (False, "true after `hf auth login`"),
                "hub_model_id": (f"{self.name}-{pushed}", "in your own namespace"),
            }
        )

    def _data_keys(self) -> list[str]:
        small = self.variant == "qlora"
        note = f"; here the first {SLICE} rows of each" if small else ""
        lines = [f"# Data: the public part of the paper's, see recipes/data/paper_mixture.yaml{note}", "datasets:"]
        for part in mixture():
            part = {**part, "split": f"{part['split']}[:{SLICE}]"} if small else part
            lines.append(f"  - {_flow(part)}")
        return [
            *lines,
            *_keys(
                {
                    "test_split_size": (0.02 if small else 0.002, "[?] held out in all stages alike"),
                    "invalid_rows": ("drop", "rows that are too long or cannot be used, counted by cause"),
                }
            ),
        ]

    def _lengths(self) -> dict[str, tuple[Any, str]]:
        return {
            "max_completion_length": (CRITIQUE, "[?]"),
            "max_context_length": (CONTEXT, "[?] prompt and critique; bounds the memory above"),
        }

    def _training_keys(self, lr, steps, schedule, batch_note: str = "[P]") -> list[str]:
        total = PAPER_BATCH[self.stage] if self.variant == "full" else SMALL_BATCH
        accumulation = total // (self.plan.batch * self.plan.gpus)
        made = f"{self.plan.batch} x {accumulation} x {self.plan.gpus} GPUs = {total}"
        note = f"{made} {'[?]' if self.variant == 'qlora' else batch_note}"
        return [
            "# Training",
            *_keys(
                {
                    "learning_rate": lr[self.variant],
                    **schedule,
                    **steps,
                    "per_device_train_batch_size": (self.plan.batch, ""),
                    "gradient_accumulation_steps": (accumulation, note),
                    "logging_steps": (1, ""),
                    "save_steps": (100, ""),
                    "save_total_limit": (2, ""),
                    "report_to": ("none", "or trackio, wandb, tensorboard"),
                }
            ),
        ]


def _on_cpu(recipe: str, *more: str) -> list[str]:
    lines = [f"python recipes/rft.py --config {recipe}", *more]
    lines.append("--collect_only --use_cpu --bf16 false --dtype bfloat16")
    return [(line if first else f"    {line}") + " \\" for first, line in _numbered(lines[:-1])] + [f"    {lines[-1]}"]


def _numbered(lines: list[str]) -> Iterator[tuple[bool, str]]:
    return ((place == 0, line) for place, line in enumerate(lines))


def _keys(keys: dict[str, tuple[Any, str]], skip: tuple[str, ...] = ()) -> list[str]:
    written = {name: f"{name}: {_flow(value)}" for name, (value, _) in keys.items() if name not in skip}
    return [f"{line}  # {keys[name][1]}" if keys[name][1] else line for name, line in written.items()]


def _flow(value: Any) -> str:
    if isinstance(value, float) and 0 < value < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{exponent}"
    dumped = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()
    return dumped.removesuffix("...").strip()


@cache
def mixture() -> tuple[dict[str, Any], ...]:
    """The parts of the paper's public mixture."""
    return tuple(yaml.safe_load((RECIPES / "data" / "paper_mixture.yaml").read_text())["datasets"])


def recipes() -> list[Recipe]:
    return [Recipe(name, stage, variant) for name in MODELS for variant in VARIANTS for stage in STAGES]


# The table of the README


BEGIN, END = "<!-- written by make_recipes.py -->", "<!-- end -->"


def table() -> str:
    rows = ["| model | variant | 1 `rft` | 2 `spct` | 3 `meta_rm` |", "|---|---|---|---|---|"]
    for name in MODELS:
        for variant in VARIANTS:
            cells = [_cell(Recipe(name, stage, variant)) for stage in STAGES]
            rows.append(f"| {name} | {variant} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(recipe: Recipe) -> str:
    peak = max(
        sum(term.gigabytes for term in terms)
        for _, terms in memory_of(recipe.name, recipe.stage, recipe.variant, recipe.plan)
    )
    plan = recipe.plan
    return f"[{plan.gpus} x {plan.memory} GB]({recipe.path.removeprefix('recipes/')}), `{plan.config}`, {peak:.0f} GB"


def with_table(readme: str) -> str:
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", readme, flags=re.DOTALL)


def main() -> None:
    for recipe in recipes():
        path = RECIPES.parent / recipe.path
        path.parent.mkdir(exist_ok=True)
        path.write_text(recipe.text, encoding="utf-8")
    readme = RECIPES / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
