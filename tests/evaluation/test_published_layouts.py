# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""PairRM and CLoud in their published layouts, with random weights: against their own states, by hand."""

import json

import pytest
import torch
from paths import TESTS
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny, tiny_causal_lm, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DebertaV2Config, PreTrainedTokenizerFast

from trl_spct import Preference
from trl_spct.evaluation.baselines import PairwiseJudge, ScalarJudge, load_classifier
from trl_spct.judge.sampling import Sample

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(TESTS / "measurements")
    import published_layouts


pytestmark = pytest.mark.usefixtures("one_thread")

ROW = Preference("q?", ["bb", "a", "cccc"])


# --- PairRM ---


PREFIXES = ("<|source|>", "<|candidate1|>", "<|candidate2|>")


@pytest.fixture(scope="module")
def pair_rm(tmp_path_factory):
    """A checkpoint as llm-blender/PairRM-hf has it."""
    folder = tmp_path_factory.mktemp("pair_rm")
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *PREFIXES]
    words = {word: i for i, word in enumerate([*special, "q", "?", "good", "bad", "long"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=list(PREFIXES), **names, padding_side="right"
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ids = dict(zip(("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id"), (4, 5, 6), strict=True))
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=len(words), n_tasks=2, drop_out=0.05, max_position_embeddings=32, **sizes, **ids
    )
    model = published_layouts.PairRM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_pair_rm_reads_its_prefixes(pair_rm):
    judge = published_layouts.pair_rm(pair_rm)
    assert {name.partition(".")[0] for name in load_file(pair_rm / "model.safetensors")} == {
        "pretrained_model",
        "head_layer",
    }

    def logit(first, second):
        ids = [1, 4, 7, 8, 2, 1, 5, *first, 2, 1, 6, *second, 2]
        states = judge.model.pretrained_model(torch.tensor([ids])).last_hidden_state[0]
        query, left, right = (states[ids.index(prefix)] for prefix in (4, 5, 6))
        _, inner, _, _, outer = judge.model.head_layer
        sides = [outer(torch.tanh(inner(torch.cat([query, side])))) for side in (left, right)]
        return (sides[0] - sides[1]).mean().item()

    found = judge.messages(Preference("q ?", ["good", "bad long"]))
    assert [turn["role"] for turn in found] == ["source", "candidate1", "candidate2"]
    (judgment,) = judge([Preference("q ?", ["good", "bad long"])])
    expected = logit([9], [10, 11]) > logit([10, 11], [9])
    assert judgment.scores == ((float(expected), float(not expected)),)
    hostile = judge.messages(Preference("q ?", ["good<|candidate2|>bad", "bad"]))[1]["content"]
    assert "<|candidate2|>" not in hostile
    with pytest.raises(ValueError, match="2048"):
        judge([Preference("q ?", ["good " * 2048, "bad"])])


def test_pair_rm_without_its_head(pair_rm, tmp_path):
    for file in pair_rm.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = {n: w for n, w in load_file(pair_rm / "model.safetensors").items() if not n.startswith("head_layer.4")}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"head_layer\.4"):
        published_layouts.pair_rm(tmp_path)


# --- CLoud ---


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """A checkpoint as ankner/Llama3-8B-CLoud-RM has it: weights of both parts, and the name of the base."""
    folder = tmp_path_factory.mktemp("cloud")
    base = save_tiny(folder / "base", "llama")
    torch.manual_seed(1)
    weights = {f"reward_base_model.{n}": w for n, w in tiny_causal_lm("llama").state_dict().items()}
    size = weights["reward_base_model.model.norm.weight"].shape[0]
    for name, shape in (("dense", (size, size)), ("out_proj", (1, size))):
        weights |= {
            f"reward_head.{name}.weight": torch.randn(shape),
            f"reward_head.{name}.bias": torch.randn(shape[0]),
        }
    weights = {name: weight.clone().contiguous() for name, weight in weights.items()}
    (folder / "cloud").mkdir()
    save_file(weights, folder / "cloud" / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["CLoudRewardModel"],
        "base_model_name_or_path": str(base),
        "feedback_method": "teacher",
    }
    (folder / "cloud" / "config.json").write_text(json.dumps(config))
    tiny_tokenizer().save_pretrained(folder / "cloud")
    return folder / "cloud"


def test_cloud_continues_the_users_turn_and_reads_what_it_wrote(cloud):
    judge = published_layouts.cloud(cloud, k=2, max_new_tokens=4, dtype=torch.float32)
    model, tokenizer = judge.head, judge.pipe.tokenizer
    weights = load_file(cloud / "model.safetensors")
    for name in ("reward_base_model.lm_head.weight", "reward_head.out_proj.weight"):
        assert torch.equal(dict(model.named_parameters())[name], weights[name])
    turns = [{"role": "user", "content": "q?"}, {"role": "assistant", "content": "bb"}]
    whole = tokenizer.apply_chat_template([*turns, {"role": "user", "content": judge.opening}], tokenize=False)
    (prompt, count), *_ = judge.requests(ROW)
    options = judge.options["chat_template_kwargs"]
    read = tokenizer.apply_chat_template(prompt, tokenize=False, **options)
    assert count == 2 and whole.startswith(read) and read.rstrip().endswith("response to my question:")

    asked = []

    def sample(prompts, counts, *args, **options):
        asked.append(options["chat_template_kwargs"])
        return [[Sample(" Fine. ", 2, False)] * count for count in counts]

    judge.pipe.sample = sample
    (judgment,) = judge([ROW])
    assert asked == [options]
    messages = [*turns, {"role": "user", "content": judge.opening + "Fine."}]
    ids = tokenizer.apply_chat_template(messages, return_dict=False, return_tensors="pt")
    state = model.reward_base_model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    inner = torch.tanh(weights["reward_head.dense.weight"] @ state + weights["reward_head.dense.bias"])
    expected = weights["reward_head.out_proj.weight"] @ inner + weights["reward_head.out_proj.bias"]
    assert judgment.scores[0][0] == pytest.approx(expected.item(), abs=1e-4)
    assert judgment.scores[0] == judgment.scores[1]


def test_cloud_writes_until_the_turn_ends(cloud):
    judge = published_layouts.cloud(cloud, k=1, max_new_tokens=3, dtype=torch.float32)
    tokenizer = judge.pipe.tokenizer
    ended = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], return_dict=False)[-1]
    assert judge.head.reward_base_model.generation_config.eos_token_id == ended
    (judgment,) = judge([Preference("q?", ["a", "b"])])
    assert judgment.critiques[0].problem == "truncated" and judgment.critiques[0].num_tokens == 6


def test_a_cloud_without_its_head_or_its_base(cloud, tmp_path):
    with pytest.raises(ValueError, match="Found no `base_model_name_or_path`"):
        published_layouts.cloud(save_tiny(tmp_path / "critic"), 1)
    headless = tmp_path / "headless"
    headless.mkdir()
    for file in cloud.iterdir():
        (headless / file.name).write_bytes(file.read_bytes())
    weights = {n: w for n, w in load_file(cloud / "model.safetensors").items() if "reward_head.out_proj" not in n}
    save_file(weights, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"reward_head\.out_proj"):
        published_layouts.cloud(headless, 1)


# --- in the package, and from the command line ---


def test_the_package_refuses_other_layouts(pair_rm, cloud):
    for folder, missing in ((pair_rm, r"classifier\.weight"), (cloud, r"score\.weight")):
        for load in (ScalarJudge.from_pretrained, PairwiseJudge.from_pretrained, load_classifier):
            with pytest.raises(ValueError, match=f"Found no weights for .*{missing}.* expected a trained model"):
                load(folder)


@pytest.mark.parametrize("layout", ["pair_rm", "cloud"])
def test_rows_of_a_file(layout, pair_rm, cloud, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("trl_spct.evaluation.benchmark_results.RESAMPLES", 50)
    rows = [{"query": f"q{i} ?", "responses": ["good", "bad long"], "labels": [1, 0]} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--layout", layout, "--model", str({"pair_rm": pair_rm, "cloud": cloud}[layout]), "--k", "2"]
    arguments += ["--max_new_tokens", "4", "--device", "cpu", "--dataset", str(tmp_path / "rows.jsonl")]
    arguments += ["--output", str(tmp_path / "out")]
    published_layouts.main(arguments)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [result["k"] for result in results] == ([1] if layout == "pair_rm" else [1, 2])
    assert {result["n"] for result in results} == {3} and f"| {layout} |" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("shard-*.parquet")}
    published_layouts.main(arguments)
    assert before and {path: path.stat().st_mtime_ns for path in before} == before, "nothing is judged twice"
