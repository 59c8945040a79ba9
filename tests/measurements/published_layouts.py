# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Accuracy of two published reward models, whose checkpoints no `Auto` class loads: `llm-blender/PairRM-hf` (arXiv
2306.02561) and `ankner/Llama3-8B-CLoud-RM` (arXiv 2408.11791).

python tests/measurements/published_layouts.py --layout cloud --model ankner/Llama3-8B-CLoud-RM --k 8 \
    --benchmarks rewardbench ppe-correctness --output outputs/cloud

`--dataset rows.jsonl` reads labeled rows of your own. Writes the judgments, which the same command resumes, and
`results.json`; prints the table. [`pair_rm`] and [`cloud`] give the judges to other programs. Both layouts were
checked with random weights of the same names alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DebertaV2Model,
    DebertaV2PreTrainedModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from trl_spct import GRMRewardPipeline, Preference
from trl_spct.data.loading import load_rows as load_splits
from trl_spct.evaluation.baselines import PairwiseJudge
from trl_spct.evaluation.benchmark_loading import LoadedBenchmark, load_benchmark, load_rows
from trl_spct.evaluation.benchmark_results import benchmark_results, judge_benchmark
from trl_spct.evaluation.benchmarks import rows_benchmark
from trl_spct.evaluation.reports import markdown_table
from trl_spct.evaluation.sampled_judges import SemiScalarJudge
from trl_spct.jobs import write_json
from trl_spct.judge.conversations import conversation_text
from trl_spct.judge.fence import Fence
from trl_spct.judge.meta_scoring import encode_meta
from trl_spct.judge.modeling_meta_rm import last_attended
from trl_spct.judge.repositories import read_json
from trl_spct.judge.sampling import special_tokens


class PairRM(DebertaV2PreTrainedModel):
    """A head of two layers reads the states of the prefixes of the query and of either response."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        config.num_labels, config.is_causal, size = 1, False, config.hidden_size
        self.pretrained_model = DebertaV2Model(config)
        layers = (nn.Identity(), nn.Linear(2 * size, size), nn.Tanh(), nn.Identity(), nn.Linear(size, config.n_tasks))
        self.head_layer = nn.Sequential(*layers)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs) -> SequenceClassifierOutput:
        states = self.pretrained_model(input_ids, attention_mask=attention_mask).last_hidden_state
        prefixes = (self.config.source_prefix_id, self.config.cand1_prefix_id, self.config.cand2_prefix_id)
        places = [(input_ids == prefix).int().argmax(dim=1) for prefix in prefixes]
        query, *sides = (states[torch.arange(len(states)), place] for place in places)
        first, second = (self.head_layer(torch.cat([query, side], dim=-1)) for side in sides)
        return SequenceClassifierOutput(logits=(first - second).mean(dim=-1))


class PairRMJudge(PairwiseJudge):
    """A [`PairRM`], whose three texts together have up to 2,048 tokens; longer rows are refused."""

    chat_template = "{% for m in messages %}{{ '[CLS]<|' + m['role'] + '|>' + m['content'] + '[SEP]' }}{% endfor %}"

    def __init__(self, model: PairRM, tokenizer: Any, batch_size: int = 8):
        tokenizer.chat_template = self.chat_template
        super().__init__(model, tokenizer, batch_size)
        self.context = 2048

    def messages(self, pair: Preference) -> list[Any]:
        texts = (conversation_text(pair.query, speaker=False), *pair.responses)
        fence, roles = Fence(special_tokens(self.tokenizer)), ("source", "candidate1", "candidate2")
        return [{"role": role, "content": fence(text)} for role, text in zip(roles, texts, strict=True)]


class CLoud(PreTrainedModel):
    """A causal language model whose critique continues a turn of the user, and a head of two layers that reads its
    last state."""

    config_class = PreTrainedConfig
    base_model_prefix = "reward_base_model"
    _supports_sdpa = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.reward_base_model, size = AutoModelForCausalLM.from_config(config), config.hidden_size
        self.reward_head = nn.ModuleDict({"dense": nn.Linear(size, size), "out_proj": nn.Linear(size, 1)})
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs) -> SequenceClassifierOutput:
        states = self.reward_base_model.base_model(input_ids, attention_mask=attention_mask, **kwargs)[0]
        last = last_attended(states, attention_mask[:, -states.shape[1] :])
        return SequenceClassifierOutput(logits=self.reward_head["out_proj"](self.reward_head["dense"](last).tanh()))


class CLoudJudge(SemiScalarJudge):
    """A [`CLoud`] with the prompt of its authors."""

    opening = (
        "The following is a break down on the correctness and usefulness of the assistant's response to my question: "
    )

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.settings |= {"judge": "cloud", "template_digest": None}
        self.options["chat_template_kwargs"] = {"add_generation_prompt": False, "continue_final_message": True}

    def prompt(self, row: Preference) -> list[dict[str, str]]:
        fence, query = Fence(self.pipe.special_tokens), row.query
        turns: Any = [{"role": "user", "content": query}] if isinstance(query, str) else query
        turns = [*turns, {"role": "assistant", "content": row.responses[0]}, {"role": "user", "content": self.opening}]
        return [{"role": turn["role"], "content": fence(turn["content"])} for turn in turns]

    def conversation(self, prompt, critique: str) -> list[Any]:
        critique = Fence(self.pipe.special_tokens)(critique).strip()
        return [*prompt[:-1], {"role": "user", "content": self.opening + critique}]


def pair_rm(path: str | Path, device: Any = None, **options: Any) -> PairwiseJudge:
    """The judge of a checkpoint in the layout of `llm-blender/PairRM-hf`; options are those of its `__init__`."""
    return PairRMJudge(trained(PairRM, path).to(device or "cpu"), AutoTokenizer.from_pretrained(path), **options)


def cloud(path: str | Path, k: int, device: Any = None, dtype: Any = "auto", **options: Any) -> SemiScalarJudge:
    """The judge of a checkpoint in the layout of `ankner/Llama3-8B-CLoud-RM`; options are those of its `__init__`."""
    base = (read_json(path, "config.json") or {}).get("base_model_name_or_path")
    if base is None:
        expected = "a checkpoint in the layout of ankner/Llama3-8B-CLoud-RM"
        raise ValueError(f"Found no `base_model_name_or_path` in the config of {str(path)!r}; expected {expected}.")
    model = trained(CLoud, path, config=AutoConfig.from_pretrained(base), dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(path)
    end_of_turn = encode_meta(tokenizer, [{"role": "user", "content": "a"}])[-1]
    model.reward_base_model.generation_config.eos_token_id = end_of_turn
    pipe = GRMRewardPipeline(model.reward_base_model, tokenizer, meta_rm=None, device=device)
    return CLoudJudge(pipe, model.to(pipe.device), k, **options)


def trained(layout: type[PreTrainedModel], path: str | Path, **kwargs: Any) -> Any:
    """Loads a checkpoint that has all weights of the head."""
    model, info = layout.from_pretrained(path, output_loading_info=True, **kwargs)
    missing = sorted(key for key in info["missing_keys"] if key.startswith(("head_layer.", "reward_head.")))
    if missing:
        raise ValueError(f"Found no weights for {missing} in {str(path)!r}; expected a trained {layout.__name__}.")
    return model.eval()


def load(benchmarks: Sequence[str] | None, dataset: str | None) -> dict[str, LoadedBenchmark]:
    """The items by the name of their folder."""
    if dataset is not None:
        splits, name = load_splits(dataset), Path(dataset).name
        rows = splits["test" if "test" in splits else "train"]
        return {"rows": load_rows(rows_benchmark(name), rows, where=name)}
    named = (benchmark.partition("=") for benchmark in benchmarks or ())
    return {name: load_benchmark(name, path or None) for name, _, path in named}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=("pair_rm", "cloud"), required=True)
    parser.add_argument("--model", required=True)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--benchmarks", nargs="+", help="names, or name=path of a local copy")
    data.add_argument("--dataset", help="labeled rows in any shape that evaluate.py reads")
    parser.add_argument("--k", type=int, default=8, help="critiques per response of CLoud; PairRM has none")
    parser.add_argument("--max_new_tokens", type=int, default=1024)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    loaded = load(options.benchmarks, options.dataset)
    if options.layout == "pair_rm":
        judge: Any = pair_rm(options.model, options.device)
    else:
        judge = cloud(options.model, options.k, options.device, max_new_tokens=options.max_new_tokens)
    results = []
    for name, items in loaded.items():
        judgments = judge_benchmark(judge, items, options.output / name, rows_per_shard=16, progress=name)
        results += benchmark_results(items, judgments, stage=options.layout)
    write_json(options.output / "results.json", results)
    print(markdown_table(results))  # noqa: T201


if __name__ == "__main__":
    main()
