# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judges to compare with: by hand, against the model's own logits, and over a scripted engine."""

import json
import math
from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import tiny_causal_lm, tiny_config, tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from trl_spct import GRMRewardPipeline, Preference
from trl_spct.evaluation.baselines import ContentBlindJudge, ScalarJudge
from trl_spct.evaluation.judgments import credits_at, record_judgments
from trl_spct.evaluation.sampled_judges import ChoiceJudge
from trl_spct.judge.orders import count_occurrences
from trl_spct.judge.sampling import PromptTooLongError, Sample

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = Preference("q?", ["bb", "a", "cccc"])
SINGLE = Preference("q?", ["abc"])


def scores(judge, *rows):
    return [judgment.scores[0] for judgment in judge(rows)]


@pytest.mark.parametrize(
    ("name", "expected", "single"),
    [("first", (1, 0, 0), (1,)), ("longest", (2, 1, 4), (3,)), ("shortest", (-2, -1, -4), (-3,))],
)
def test_content_blind_judges(name, expected, single):
    assert scores(ContentBlindJudge(name), ROW, SINGLE) == [expected, single]


def test_lengths_are_no_verdicts():
    for name in ("longest", "shortest"):
        pair, single = (judgment.critiques[0] for judgment in ContentBlindJudge(name, binary=True)([ROW, SINGLE]))
        assert pair.scores is not None
        assert single.scores is None and single.problem == "no verdict"
    assert scores(ContentBlindJudge("first", binary=True), SINGLE) == [(1,)]


def test_a_coin():
    rows = [Preference(f"q{i}", ["a", "b"]) for i in range(400)]
    found = scores(ContentBlindJudge("random", 3), *rows)
    assert found == scores(ContentBlindJudge("random", 3), *rows) != scores(ContentBlindJudge("random", 4), *rows)
    assert 160 < sum(first > second for first, second in found) < 240
    verdicts = [
        value for (value,) in scores(ContentBlindJudge("random"), *(Preference(f"{i}", ["a"]) for i in range(400)))
    ]
    assert set(verdicts) == {0, 1} and 160 < sum(verdicts) < 240


def test_unknown_content_blind_judge():
    with pytest.raises(ValueError, match="Found 'middle'; expected one of"):
        ContentBlindJudge("middle")


def scalar(arch, **overrides):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(tiny_config(arch, num_labels=1, **overrides)).eval()


@pytest.mark.parametrize("arch", ["gemma2", "llama", "qwen3"])
def test_scalar_reward_models_score_each_response_alone(arch):
    model, tokenizer = scalar(arch), tiny_tokenizer()
    judge = ScalarJudge(model, tokenizer, batch_size=2)
    talk = Preference(
        [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": "go"},
        ],
        ["a"],
    )
    found = scores(judge, ROW, talk)
    assert scores(judge, ROW.permuted((2, 0, 1)))[0] == pytest.approx([found[0][i] for i in (2, 0, 1)], abs=1e-5)
    messages = [*talk.query, {"role": "assistant", "content": "a"}]
    ids = tokenizer.apply_chat_template(messages, return_dict=False, return_tensors="pt")
    assert found[1] == pytest.approx([model(ids).logits.item()], abs=1e-5)
    assert len(set(found[0])) == 3


@pytest.mark.parametrize("kind", ["Bert", "ModernBert", "Roberta"])
def test_encoders_are_read_as_they_are(kind):
    """Their positions count from the left, where a first token is pooled: no padding there, and no cache."""
    tokenizer = tiny_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_labels": 1}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes, **layers)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    row = Preference("q?", ["a", "a much longer answer than the first", "b"])
    found = scores(ScalarJudge(model, tokenizer), row)[0]
    talks = [[{"role": "user", "content": "q?"}, {"role": "assistant", "content": text}] for text in row.responses]
    encoded = [tokenizer.apply_chat_template(talk, return_dict=False, return_tensors="pt") for talk in talks]
    assert found == pytest.approx([model(ids).logits.item() for ids in encoded], abs=1e-5)


def test_what_is_no_scalar_reward_model():
    with pytest.raises(ValueError, match="a classifier with 2 labels"):
        ScalarJudge(
            AutoModelForSequenceClassification.from_config(tiny_config("llama", num_labels=2)), tiny_tokenizer()
        )
    judge = ScalarJudge(scalar("llama", max_position_embeddings=64), tiny_tokenizer())
    with pytest.raises(PromptTooLongError, match="Row 1: the prompt has") as caught:
        judge([Preference("q?", ["a", "b"]), Preference("q?", ["a", "b" * 200])])
    assert caught.value.row == 1


class Engine:
    """Selects the response that holds `good`, by its place in the prompt; every third answer has no box."""

    def __init__(self):
        self.prompts = []

    def __call__(self, prompts, k, seed, **options):
        self.options = options
        found = []
        for messages, count in zip(prompts, k, strict=True):
            text = messages[0]["content"]
            self.prompts.append(text)
            place = next(i for i in (1, 2, 3) if f"[The Begin of Response {i}]\ngood" in text)
            found.append([Sample(rf"Best Response: \boxed{{{place}}}", 9, False)] * count)
        return found


def test_majority_of_choices():
    engine = Engine()
    judge = ChoiceJudge(GRMRewardPipeline(engine), 6)
    row = Preference("q?", ["bad", "worse", "good"])
    (judgment,) = judge([row])
    assert judgment.scores == ((0, 0, 1),) * 6, "whatever place it was read in"
    assert len({critique.order for critique in judgment.critiques}) == len(engine.prompts) == 3
    assert engine.options["temperature"] == 0.5
    assert "1 to 10" not in engine.prompts[0] and "select the best response" in engine.prompts[0]


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (Sample("no box", 2, False), "missing"),
        (Sample(r"\boxed{3}", 2, False), "range"),
        (Sample(r"\boxed{0}", 2, False), "range"),
        (Sample(r"\boxed{1, 2}", 2, False), "count"),
        (Sample(r"\boxed{A}", 2, False), "value"),
        (Sample(r"\boxed{1}", 2, True), "truncated"),
    ],
)
def test_choices_that_cannot_be_read(sample, problem):
    pipe = GRMRewardPipeline(lambda prompts, k, seed, **options: [[sample] * count for count in k])
    (judgment,) = ChoiceJudge(pipe, 1)([Preference("q?", ["a", "b"])])
    assert judgment.scores == (None,) and judgment.critiques[0].problem == problem


# --- judges that read nothing are at chance, on any data ---


class FirstPlace:
    """An engine that always selects the response that it reads first."""

    def __call__(self, prompts, k, seed, **options):
        return [[Sample(r"Best Response: \boxed{1}", 5, False)] * count for count in k]


ROWS = {
    "yes and no": lambda i: Preference(f"Is {i} prime?", ["Yes", "No"]),
    "one row again and again": lambda i: Preference("Is 7 prime?", ["Yes", "No"]),
    "five rows": lambda i: Preference(f"{i % 5}?", ["Yes", "No"]),
    "four responses": lambda i: Preference(f"{i}?", ["a", "b", "c", "d"]),
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(ROWS)), st.integers(0, 2**40), st.integers(1, 3), st.integers(1, 90))
def test_judges_without_content_are_at_chance(name, seed, k, shard):
    """Within 4.5 standard errors, a one-sided tail of 3 in a million, wherever the best response stands."""
    rows = [ROWS[name](i) for i in range(300)]
    n = len(rows[0])
    blind, choice = ContentBlindJudge("random", seed), ChoiceJudge(GRMRewardPipeline(FirstPlace()), k, seed)
    occurrences = count_occurrences(rows)
    parts = [slice(first, first + shard) for first in range(0, len(rows), shard)]
    for judge, votes in ((blind, 1), (choice, k)):
        judgments = [judgment for part in parts for judgment in judge(rows[part], occurrences[part])]
        assert judgments == judge(rows), "whatever the batch"
        for best in range(n):
            labels = tuple(int(i == best) for i in range(n))
            credits = [credits_at(replace(judgment, labels=labels), votes)[0] for judgment in judgments]
            assert abs(sum(credits) / 300 - 1 / n) <= 4.5 * math.sqrt((1 / n) * (1 - 1 / n) / 300)


def test_equal_rows_are_judged_apart(tmp_path):
    """In shards of one row each, and as often as they occur."""
    rows = [Preference("Is 7 prime?", ["Yes", "No"])] * 64
    judgments = record_judgments(ContentBlindJudge("random"), rows, tmp_path, [(1, 0)] * 64, rows_per_shard=1)
    assert 16 < sum(credits_at(judgment, 1)[0] for judgment in judgments) < 48
    assert len({judgment.scores for judgment in judgments}) == 64


def test_a_choice_judge_samples_equal_rows_apart():
    asked = []

    def engine(prompts, k, seed, first=None, **options):
        asked.extend(zip([messages[0]["content"] for messages in prompts], first or [0] * len(prompts), strict=True))
        return [[Sample(r"\boxed{1}", 5, False)] * count for count in k]

    ChoiceJudge(GRMRewardPipeline(engine), 1, order="fixed")([Preference("q?", ["a", "b"])] * 3)
    assert len({text for text, _ in asked}) == 1 and len(set(asked)) == 3


def test_a_choice_judge_finds_long_rows_before_the_start(tmp_path):
    pipe = GRMRewardPipeline(tiny_causal_lm("llama", max_position_embeddings=2048), tiny_tokenizer())
    rows = [Preference("q?", ["a", "b" * (9000 if i == 4 else 1)]) for i in range(6)]
    with pytest.raises(PromptTooLongError, match=r"Row 4: the prompt has") as caught:
        record_judgments(ChoiceJudge(pipe, 1, max_new_tokens=3), rows, tmp_path, [(1, 0)] * 6, rows_per_shard=2)
    assert caught.value.row == 4 and not list(tmp_path.glob("*.parquet"))


# --- only trained heads score ---


def saved(model, folder):
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_trained_head_is_loaded_as_it_is(tmp_path):
    model = scalar("llama")
    judge = ScalarJudge.from_pretrained(saved(model, tmp_path))
    assert scores(judge, ROW)[0] == pytest.approx(scores(ScalarJudge(model, tiny_tokenizer()), ROW)[0], abs=1e-5)


def test_a_head_drawn_at_random_is_refused(tmp_path):
    """A causal language model, and a classifier whose head has another name."""
    causal = saved(tiny_causal_lm("llama"), tmp_path / "causal")
    renamed = saved(scalar("llama"), tmp_path / "renamed")
    weights = load_file(renamed / "model.safetensors")
    weights["v_head.weight"] = weights.pop("score.weight")
    save_file(weights, renamed / "model.safetensors", metadata={"format": "pt"})
    for folder in (causal, renamed):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_labels": 1, "id2label": {"0": "score"}}))
        with pytest.raises(ValueError, match=r"score\.weight"):
            ScalarJudge.from_pretrained(folder)


@pytest.mark.parametrize("saves_head", [True, False])
def test_heads_of_adapters(saves_head, tmp_path):
    base = saved(scalar("llama") if saves_head else tiny_causal_lm("llama"), tmp_path / "base")
    kwargs = {"num_labels": 1}
    model = AutoModelForSequenceClassification.from_pretrained(base, **kwargs)
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["score"] if saves_head else None)
    adapter = saved(get_peft_model(model, config), tmp_path / "adapter")
    if saves_head:
        assert len(set(scores(ScalarJudge.from_pretrained(adapter, **kwargs), ROW)[0])) == 3
    else:
        with pytest.raises(ValueError, match=r"score\.weight"):
            ScalarJudge.from_pretrained(adapter, **kwargs)
