# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The paper's other reward models: pairwise, TokenProb and semi-scalar, by hand and against the models' own logits."""

import json
import math

import pytest
import torch
from test_baselines import saved, scalar
from tiny_models import save_tiny, tiny_causal_lm, tiny_tokenizer

from trl_spct import GRMRewardPipeline, Preference
from trl_spct.evaluation.baselines import PairwiseJudge
from trl_spct.evaluation.judgments import scaling_results, votes_at
from trl_spct.evaluation.sampled_judges import ChoiceJudge, SemiScalarJudge, answer_probabilities
from trl_spct.judge.prompts import judge_messages, meta_messages
from trl_spct.judge.sampling import Sample
from trl_spct.server_answers import read_choices

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = Preference("q?", ["bb", "a", "cccc"])


# --- pairwise ---


def test_wins_over_all_pairs_by_hand():
    judge = PairwiseJudge(scalar("llama"), tiny_tokenizer())
    # (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1): 0 beats 1 by 2 - 1, 0 and 2 are level, 1 beats 2
    assert judge._scores(3, [2.0, -1.0, 1.0, 3.0, -1.0, -3.0]) == [1.5, 1.0, 0.5]
    assert judge._scores(2, [5.0, 6.0]) == [0.0, 1.0], "both orders prefer the first place; the second by less"


def test_a_pair_is_read_in_both_orders():
    model, tokenizer = scalar("llama"), tiny_tokenizer()

    def logit(first, second):
        messages = meta_messages(Preference("q?", [first, second]), "")[:1]
        return model(tokenizer.apply_chat_template(messages, return_dict=False, return_tensors="pt")).logits.item()

    (judgment,) = PairwiseJudge(model, tokenizer, batch_size=2)([ROW])
    texts = ROW.responses
    wins = [sum(logit(a, b) > logit(b, a) for b in texts if b != a) for a in texts]
    assert judgment.scores == (tuple(map(float, wins)),) and sum(wins) == 3
    with pytest.raises(ValueError, match="Found a single response"):
        PairwiseJudge(model, tokenizer)([Preference("q?", ["a"])])


def test_pairwise_heads_must_be_trained(tmp_path):
    folder = saved(tiny_causal_lm("llama"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_labels": 1, "id2label": {"0": "score"}}))
    with pytest.raises(ValueError, match=r"score\.weight"):
        PairwiseJudge.from_pretrained(folder)


# --- TokenProb ---


def sample_of(tokenizer, text, **fields):
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) + (tokenizer.eos_token_id,)
    return Sample(text, len(ids), False, ids, **fields)


def test_token_probabilities_are_those_of_the_model():
    model, tokenizer = tiny_causal_lm("llama"), tiny_tokenizer()
    pipe = GRMRewardPipeline(model, tokenizer)
    prompt = [{"role": "user", "content": "Which?"}]
    texts = [r"Not \boxed{1}, but Best Response: \boxed{ 2}.", r"\boxed{12} is it"]
    found = answer_probabilities(pipe, prompt, [sample_of(tokenizer, text) for text in texts])
    beginning = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    for text, digits, probability in zip(texts, ("2", "12"), found, strict=True):
        start = len(beginning) + text.rindex(digits)
        ids = beginning + tokenizer(text, add_special_tokens=False)["input_ids"]
        shares = model(torch.tensor([ids])).logits[0].softmax(dim=-1)
        expected = math.prod(shares[place - 1, ids[place]].item() for place in range(start, start + len(digits)))
        assert probability == pytest.approx(expected, rel=1e-4) and 0 < probability < 1


class Weighted:
    """An engine that selects response 1 twice and 2 once, with the probabilities that it is given."""

    tokenizer = tiny_tokenizer()
    chat_template_kwargs = None

    def __init__(self, *probabilities):
        self.probabilities = probabilities

    def __call__(self, prompts, k, seed, **options):
        drawn = []
        for choice, probability in zip((1, 1, 2), self.probabilities, strict=True):
            sample = sample_of(self.tokenizer, rf"\boxed{{{choice}}}")
            values = [-0.5] * len(sample.ids)
            values[len(r"\boxed{")] = math.log(probability) if probability else 0.0
            drawn.append(
                Sample(sample.text, sample.num_tokens, False, sample.ids, logprobs=probability and tuple(values))
            )
        return [drawn[:count] for count in k]


def test_votes_weigh_the_probability_of_their_token():
    row = Preference("q?", ["a", "b"])

    def vote(token_prob):
        pipe = GRMRewardPipeline(Weighted(0.2, 0.3, 0.9))
        (judgment,) = ChoiceJudge(pipe, 3, order="fixed", token_prob=token_prob)([row])
        return judgment.scores, votes_at(judgment, 3)[0]

    scores, majority = vote(False)
    assert scores == ((1, 0), (1, 0), (0, 1)) and majority == pytest.approx((2 / 3, 1 / 3))
    scores, weighted = vote(True)
    assert [score for row in scores for score in row] == pytest.approx([0.2, 0, 0.3, 0, 0, 0.9])
    assert weighted == pytest.approx((0.5 / 3, 0.9 / 3)), "one sure vote outweighs two others"


def test_engines_without_probabilities_are_refused():
    judge = ChoiceJudge(GRMRewardPipeline(Weighted(None, None, None)), 3, order="fixed", token_prob=True)
    with pytest.raises(ValueError, match=r'`extra_body=\{"logprobs": 1\}`'):
        judge([Preference("q?", ["a", "b"])])


def test_probabilities_in_a_servers_answer():
    tokenizer = tiny_tokenizer()
    ids = tokenizer("ab", add_special_tokens=False)["input_ids"]
    choice = {"text": "ab", "token_ids": ids, "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.1, -2.0]}}
    (sample,) = read_choices({"choices": [choice]}, 1, tokenizer)
    assert sample.logprobs == (-0.1, -2.0)
    for values in ([-0.1], None):
        (sample,) = read_choices({"choices": [{**choice, "logprobs": {"token_logprobs": values}}]}, 1, tokenizer)
        assert sample.logprobs is None


# --- semi-scalar ---


class Critic:
    """An engine that writes a critique of its own for each sample; the last one of `cut` responses is cut."""

    def __init__(self, tokenizer, cut=""):
        self.tokenizer, self.cut, self.asked = tokenizer, cut, []
        self.special_tokens = ()

    def __call__(self, prompts, k, seed, **options):
        self.asked += prompts
        cut = [bool(self.cut) and f"\n{self.cut}\n" in prompt[-1]["content"] for prompt in prompts]
        return [
            [Sample(f"critique {j}", 3, cut[i] and j == count - 1) for j in range(count)] for i, count in enumerate(k)
        ]


def test_the_score_is_the_mean_over_critiques():
    head, tokenizer = scalar("llama"), tiny_tokenizer()
    pipe = GRMRewardPipeline(Critic(tokenizer))
    judge = SemiScalarJudge(pipe, head, 2)
    (judgment,) = judge([ROW])

    def logit(response, critique):
        messages = judge_messages(Preference("q?", [response]), special_tokens=pipe.special_tokens)
        messages = [*messages, {"role": "assistant", "content": critique}]
        return head(tokenizer.apply_chat_template(messages, return_dict=False, return_tensors="pt")).logits.item()

    expected = [[logit(response, f"critique {j}") for response in ROW.responses] for j in range(2)]
    for scores, of_sample in zip(judgment.scores, expected, strict=True):
        assert scores == pytest.approx(of_sample, abs=1e-5)
    means = [(a + b) / 2 for a, b in zip(*expected, strict=True)]
    assert votes_at(judgment, 2)[0] == pytest.approx(means, abs=1e-5)
    assert [critique.num_tokens for critique in judgment.critiques] == [9, 9]
    assert judgment.critiques[1].text == "critique 1\n\n" * 2 + "critique 1"
    (single,) = judge([Preference("q?", ["a"])])
    assert len(single.scores[0]) == 1


def test_cut_critiques_have_no_vote():
    pipe = GRMRewardPipeline(Critic(tiny_tokenizer(), cut="cccc"))
    (judgment,) = SemiScalarJudge(pipe, scalar("llama"), 3)([ROW])
    assert [critique.problem for critique in judgment.critiques] == [None, None, "truncated"]
    (result,) = scaling_results([judgment.__class__((0, 0, 1), judgment.critiques)], [1])
    assert result["unreadable"] == pytest.approx(1 / 3)


def test_semi_scalar_heads_must_be_trained(tmp_path):
    """Before the critic is loaded."""
    with pytest.raises(ValueError, match=r"score\.weight"):
        SemiScalarJudge.from_pretrained("no critic", str(saved(tiny_causal_lm("llama"), tmp_path)), k=1)


def test_critic_and_head_are_loaded_from_two_folders(tmp_path):
    critic, head = save_tiny(tmp_path / "critic"), saved(scalar("llama"), tmp_path / "head")
    judge = SemiScalarJudge.from_pretrained(str(critic), str(head), k=2, max_new_tokens=3)
    (judgment,) = judge([Preference("q?", ["a", "b"])])
    assert judgment.critiques[0].problem == "truncated" and judge.settings["judge"] == "semi-scalar"
    asked = [judge_messages(Preference("q?", ["a"]), binary=binary) for binary in (False, True)]
    assert judge.requests(Preference("q?", ["a"]))[0][0] == asked[0]
    judge.head.config.semi_scalar = {"binary": True}
    again = SemiScalarJudge(judge.pipe, judge.head, 2)
    assert again.requests(Preference("q?", ["a"]))[0][0] == asked[1], "as the head was trained"
