# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Draws, errors and limits of judging, over samplers that are written here."""

import logging
import random
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_models import save_tiny, tiny_causal_lm, tiny_config, tiny_tokenizer
from transformers import pipeline

from trl_spct import GRMRewardPipeline, MetaRMForSequenceClassification, Preference
from trl_spct.judge.orders import count_occurrences
from trl_spct.judge.preferences import InvalidPreference
from trl_spct.judge.sampling import EngineError, PromptTooLongError, Sample
from trl_spct.judge.templates import JudgeTemplate

pytestmark = pytest.mark.usefixtures("one_thread")

load_trained = MetaRMForSequenceClassification.load_trained

PAIR = {"query": "Name a prime.", "responses": ["worth 4", "worth 7"]}
BLOCK = re.compile(r"\[The Begin of Response(?: \d+)?\]\n(.*?)\n\[The End of Response(?: \d+)?\]", re.DOTALL)


def box(*scores):
    return rf"Scores: \boxed{{{', '.join(map(str, scores))}}}"


class Writer:
    """A sampler: `author(responses as read, number of the sample, seed)` writes each critique."""

    def __init__(self, author, tokenizer=None):
        self.author, self.tokenizer, self.calls = author, tokenizer, []

    def __call__(self, prompts, k, seed, *, first=None, **sampling):
        self.calls.append(len(prompts))
        firsts = first or [0] * len(prompts)
        return [
            [
                Sample(self.author(BLOCK.findall(prompt[-1]["content"]), start + j, seed), 1, False)
                for j in range(count)
            ]
            for prompt, count, start in zip(prompts, k, firsts, strict=True)
        ]


def judge_by(author, **options):
    return GRMRewardPipeline(Writer(author), device="cpu", **options)


def first_place(responses, number, seed):
    return box(10, *[1] * (len(responses) - 1))


def all_tied(responses, number, seed):
    return box(*[5] * len(responses))


def noise(responses, number, seed):
    """Scores that depend on the sample and the responses as a set, and not on which response stands where."""
    draw = random.Random(f"{sorted(responses)} {number} {seed}")
    return box(*(draw.randint(1, 10) for _ in responses))


DATA = {
    "alike": lambda i: {"query": f"Is {i} prime?", "responses": ["Yes", "No"]},
    "equal": lambda i: {"query": "Is it?", "responses": ["Yes", "No"]},
    "two queries": lambda i: {"query": "ab"[i % 2], "responses": ["Yes", "No"]},
    "references": lambda i: {"query": "Is it?", "responses": ["Yes", "No"], "reference": f"{i}"},
    "swapped": lambda i: {"query": f"{i // 2}", "responses": ["Yes", "No"] if i % 2 else ["No", "Yes"]},
    "turns": lambda i: {"query": [{"role": "user", "content": f"{i}"}], "responses": ["Yes", "No"]},
}


@pytest.mark.parametrize("order", ["balanced", "random"])
@pytest.mark.parametrize("data", DATA)
@given(seed=st.integers(0, 2**40), k=st.integers(1, 4), author=st.sampled_from([first_place, all_tied, noise]))
@settings(deadline=None, max_examples=6)
def test_a_judge_without_content_is_at_chance(data, order, seed, k, author):
    """400 rows: within five standard errors of one half."""
    rows = [DATA[data](i) for i in range(400)]
    judgments = judge_by(author)(rows, k=k, seed=seed, order=order, batch_size=64)
    share = sum(judgment["best"] == 0 for judgment in judgments) / len(rows)
    assert abs(share - 0.5) < 5 * 0.5 / 20, share


def last_place(responses, number, seed):
    return box(*[1] * (len(responses) - 1), 10)


def sometimes_unreadable(responses, number, seed):
    return first_place(responses, number, seed) if random.Random(f"{number} {seed}").random() < 0.5 else "no box"


few_texts = st.lists(st.text("ab \n\U0001f642é", min_size=1, max_size=3).filter(str.strip), min_size=2, max_size=4)
ways = st.fixed_dictionaries(
    {"k": st.integers(1, 9), "seed": st.integers(0, 2**40), "order": st.sampled_from(["balanced", "random"])},
    optional={"early_stopping": st.just("exact"), "max_responses_per_prompt": st.integers(2, 3)},
)


@given(st.lists(few_texts, min_size=1, max_size=5), st.booleans(), ways, st.data())
@settings(deadline=None, max_examples=10)
def test_a_judge_without_content_is_at_chance_on_any_data(texts, numbered, how, data):
    """Rows that repeat or differ in a number, of 2 to 4 responses that may be equal, with or without a Meta RM."""
    authors = [first_place, last_place, all_tied, noise, sometimes_unreadable]
    judge = judge_by(data.draw(st.sampled_from(authors)), batch_size=data.draw(st.sampled_from([1, 7, 64])))
    if "early_stopping" not in how and data.draw(st.booleans()):
        judge.meta_rm = judge.meta_rm_tokenizer = tiny_tokenizer()  # whose config says nothing
        judge.meta_rm.config = None
        how |= data.draw(st.sampled_from([{}, {"guide": "soft"}, {"k_meta": 1}]))
    rows = [{"query": f"{i}?" if numbered else "Which?", "responses": texts[i % len(texts)]} for i in range(400)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "trl_spct.judge.pipelines.meta_scores",
            lambda model, tokenizer, conversations, **_: [len(messages[1]["content"]) for messages in conversations],
        )
        judgments = judge(rows, **how)
    winners = [(judgment["best"], len(row["responses"])) for row, judgment in zip(rows, judgments)]
    winners = [(best, n) for best, n in winners if best is not None]
    for place in range(2):
        expected = sum(1 / n for _, n in winners)
        spread = sum((1 - 1 / n) / n for _, n in winners) ** 0.5
        wins = sum(best == place for best, _ in winners)
        assert abs(wins - expected) <= 5 * spread + 1e-9, (place, wins, expected)


def test_equal_rows_are_judged_apart_whatever_the_batch():
    rows = [PAIR, {"query": "q", "responses": ["a", "b"]}, PAIR, PAIR] * 5
    options = {"k": 3, "seed": 0, "order": "random"}
    want = judge_by(noise)(rows, **options)
    assert len({str(judgment["critiques"]) for judgment in want[::4] + want[2::4] + want[3::4]}) == 15
    for batch_size in (2, 7, 50):
        assert judge_by(noise)(rows, batch_size=batch_size, **options) == want
    assert list(judge_by(noise)(iter(rows), batch_size=3, **options)) == want
    assert judge_by(noise)(PAIR, **options) == want[0]


def test_a_query_as_text_and_as_one_message_is_one_prompt():
    """Samples depend on the prompt alone, and are shared; orders are drawn apart, by the row."""
    rows = [PAIR, {**PAIR, "query": [{"role": "user", "content": PAIR["query"]}]}]
    one, other = judge_by(noise)(rows, k=20, seed=0, order="fixed")
    assert one["critiques"] == other["critiques"]
    judgments = judge_by(noise)(rows, k=20, seed=0, order="random")
    one, other = ([critique["order"] for critique in judgment["critiques"]] for judgment in judgments)
    assert one != other


@pytest.mark.parametrize("size", [1, 3, 8])
def test_shards_with_occurrences_are_judged_as_the_whole(size):
    rows = [PAIR, {"query": "q", "responses": ["a", "b"]}, PAIR, PAIR] * 3
    options = {"k": 2, "seed": 5}
    want = judge_by(noise)(rows, **options)
    occurrences = count_occurrences(map(Preference.from_row, rows))
    judge, found = judge_by(noise), []
    for start in range(0, len(rows), size):
        shard = slice(start, start + size)
        found += judge(rows[shard], occurrences=occurrences[shard], **options)
    assert found == want
    with pytest.raises(ValueError, match="Found 1 occurrences; expected one for each row"):
        judge([PAIR, PAIR], occurrences=[0])


def test_greedy_judging_repeats_itself_without_a_seed():
    judge = judge_by(first_place)
    for options in ({}, {"k": 4, "temperature": 0.0}):
        assert judge([PAIR] * 5, **options) == judge([PAIR] * 5, **options)
    drawn = [judge(PAIR, k=3, order="random")["critiques"] for _ in range(20)]
    assert any(critiques != drawn[0] for critiques in drawn)


# --- errors ---


def test_a_list_is_checked_before_any_row_is_judged():
    judge = judge_by(first_place, batch_size=1)
    for bad, message in (({"query": "", "responses": ["a"]}, "Row 3: Found an empty query"), (7, "Row 3: .*type int")):
        with pytest.raises(InvalidPreference, match=message):
            judge([PAIR] * 3 + [bad])
    assert not judge.engine.calls
    model = tiny_causal_lm("llama", max_position_embeddings=900)
    local = pipeline("grm-reward", model=model, tokenizer=tiny_tokenizer(), template="compact", max_new_tokens=4)
    local.sample = lambda *_, **__: pytest.fail("a row was judged")
    with pytest.raises(PromptTooLongError, match=r"^Row 1: .*truncation='fair'"):
        local([PAIR, {"query": "q" * 999, "responses": ["a", "b"]}], k=2)
    with pytest.raises(PromptTooLongError, match=r"^Row 0: (?!.*or cut).*cut already"):
        local([{"query": "q", "responses": ["a" * 99] * 30}], truncation="fair")


class Broken(Writer):
    def __init__(self, at, error):
        super().__init__(first_place)
        self.at, self.error = at, error

    def __call__(self, *args, **kwargs):
        if len(self.calls) == self.at:
            raise self.error
        return super().__call__(*args, **kwargs)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("no"), EngineError("gone")], ids=repr)
def test_every_error_keeps_what_was_judged(error):
    rows = [{"query": f"{i}", "responses": ["a", "b"]} for i in range(6)]
    want = judge_by(first_place)(rows, seed=1)
    judge = GRMRewardPipeline(Broken(2, error), device="cpu")
    with pytest.raises(type(error)) as caught:
        judge(rows, seed=1, batch_size=2)
    assert caught.value.completed == dict(enumerate(want[:4]))
    said = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert "4 judgments that were not returned are in `completed`" in said and "seed=1" in said


def test_a_meta_rm_that_fails_leaves_no_half_judged_row(monkeypatch):
    judge = GRMRewardPipeline(Writer(first_place), tokenizer=tiny_tokenizer(), meta_rm=tiny_meta(), device="cpu")
    failing = lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("out of memory"))  # noqa: E731
    monkeypatch.setattr("trl_spct.judge.pipelines.meta_scores", failing)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        judge([PAIR], k=2, seed=0)
    assert caught.value.completed == {}


def test_a_chat_template_that_refuses_system_turns(monkeypatch):
    from trl_spct.judge import prompts

    template = JudgeTemplate.from_text("{conversation}\n{responses}\nScores: ", system="Be fair.")
    monkeypatch.setitem(prompts.TEMPLATES, "with a system turn", (template, template))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system role') if messages[0].role == 'system' }}x"
    judge = GRMRewardPipeline(Writer(first_place, tokenizer), device="cpu", template="with a system turn")
    with pytest.raises(ValueError, match=r"^Row 0: .*no system role.*begins with a system turn"):
        judge([PAIR, PAIR])


def test_guidance_without_a_meta_rm_is_refused():
    judge = judge_by(first_place)
    for options in ({"guide": "soft"}, {"k_meta": 3}, {"guide": "top", "k_meta": 0.5}):
        with pytest.raises(ValueError, match="without a Meta RM"):
            judge(PAIR, k=4, **options)
        with pytest.raises(ValueError, match="without a Meta RM"):
            judge_by(first_place, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 2.5}, "k=2.5; expected a whole number"),
        ({"k": "4"}, "k='4'"),
        ({"k": True}, "k=True"),
        ({"max_new_tokens": 5.5}, "max_new_tokens=5.5"),
        ({"seed": "x"}, "seed='x'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
    ],
    ids=str,
)
def test_numbers_that_are_not_whole(options, message):
    with pytest.raises(ValueError, match=message):
        judge_by(first_place)(PAIR, **options)


def test_unreadable_rows_are_explained_once(caplog):
    judge = judge_by(lambda responses, number, seed: "no box" if number else box(1))
    with caplog.at_level(logging.WARNING):
        judge([PAIR, PAIR], k=3, order="fixed", seed=0)
    (text,) = [message for message in caplog.messages if "has no scores" in message]
    assert text.startswith("Row 0 has no scores: 3 of its 3 critiques could not be read") and "`template`" in text
    assert "rejective fine-tuning" in text
    assert "2 missing" in text and "1 count" in text


def test_a_row_with_an_unreadable_block_is_explained(caplog):
    row = {"query": "?", "responses": ["a", "b", "c", "bad"]}
    judge = judge_by(lambda responses, number, seed: "no box" if "bad" in responses else all_tied(responses, 0, 0))
    with caplog.at_level(logging.WARNING):
        judgment = judge(row, k=2, seed=0, max_responses_per_prompt=2)
    unreadable = judgment["problems"]["missing"]
    assert judgment["scores"] is None and judgment["drawn"] == 6 > unreadable
    (text,) = [message for message in caplog.messages if "has no scores" in message]
    assert text.startswith(f"Row 0 has no scores: {unreadable} of its 6 critiques could not be read")


def test_a_sampler_that_returns_too_few_samples():
    judge = judge_by(first_place)
    judge.sample = lambda prompts, counts, seed, firsts, **_: [[] for _ in prompts]
    with pytest.raises(ValueError, match=r"returned \[0\] samples of the prompts; expected \[2\]"):
        judge(PAIR, k=2, order="fixed")


def test_a_row_with_too_few_completed_samples_is_not_judged():
    def sample(prompts, counts, seed, firsts, **_):
        one = Sample(box(1, 2), 1, False)
        raise EngineError("gone", 0, None, {0: [one] * counts[0], 1: [one] * (counts[1] - 1)})

    judge = judge_by(first_place)
    judge.sample = sample
    with pytest.raises(EngineError, match="^Row 0: gone") as caught:
        judge([PAIR, {**PAIR, "query": "?"}], k=3, order="fixed", batch_size=2)
    assert caught.value.completed.keys() == {0}


def test_a_server_that_failed_is_not_asked_to_close():
    """Rows that need it are drawn again; whole ones are kept."""

    class Gone:
        special_tokens = ()

        def __call__(self, prompts, counts, seed, **_):
            whole, cut = Sample(box(1, 2), 1, False), Sample("Hm.", 1, True)
            raise EngineError("gone", 2, None, {0: [whole] * counts[0], 1: [cut] * counts[1]})

        def close_critiques(self, prompts, samples, lines):
            assert not samples
            return []

    judge, rows = GRMRewardPipeline(Gone()), [{**PAIR, "query": f"q{i}"} for i in range(3)]
    with pytest.raises(EngineError, match="^Row 2: gone") as caught:
        judge(rows, k=2, order="fixed", batch_size=3, close_critiques=True, template="paper", max_new_tokens=4)
    assert caught.value.completed.keys() == {0}


def test_responses_that_a_cut_makes_equal_are_named():
    model = tiny_causal_lm("llama", max_position_embeddings=900)
    judge = pipeline("grm-reward", model=model, tokenizer=tiny_tokenizer(), template="compact", max_new_tokens=4)
    same = "x" * 600
    row = {"query": "?", "responses": [f"{same}A{same}", f"{same}B{same}", "short"]}
    assert judge(row, truncation="fair")["truncated"]["made_equal"] == [[0, 1]]
    row["responses"][1] = f"{same}B{same}y"
    assert judge(row, truncation="fair")["truncated"]["made_equal"] == []


# --- heads ---


def tiny_meta():
    torch.manual_seed(0)
    config = tiny_config("llama", initializer_range=0.2)
    config.problem_type, config.id2label, config.meta_rm = "multi_label_classification", {0: "correct"}, {}
    return MetaRMForSequenceClassification(config).eval()


def test_a_meta_rm_without_a_trained_head_is_refused(tmp_path):
    causal = save_tiny(tmp_path / "causal", "llama")
    with pytest.raises(ValueError, match=r"score\.weight"):
        load_trained(causal)
    with pytest.raises(OSError, match=r"Could not load the Meta RM .*score\.weight"):
        GRMRewardPipeline(Writer(first_place), tokenizer=tiny_tokenizer(), meta_rm=causal, device="cpu")
    tiny_meta().save_pretrained(tmp_path / "meta")
    assert torch.equal(load_trained(tmp_path / "meta").score.weight, tiny_meta().score.weight)


@pytest.mark.parametrize("has_head", [True, False])
def test_heads_of_adapters(has_head, tmp_path):
    """A head in the adapter counts, and one in its base; none in either is refused."""
    causal = save_tiny(tmp_path / "causal", "llama")
    model = MetaRMForSequenceClassification.from_pretrained(causal)
    lora = LoraConfig(task_type="SEQ_CLS" if has_head else None, target_modules=["q_proj"])
    adapter = get_peft_model(model, lora)
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            if "modules_to_save" in name:
                weight.fill_(3.0)
    adapter.save_pretrained(tmp_path / "adapter")
    if has_head:
        assert set(load_trained(tmp_path / "adapter").score.weight.flatten().tolist()) == {3.0}
        return
    with pytest.raises(ValueError, match=r"score\.weight"):
        load_trained(tmp_path / "adapter")
    tiny_meta().save_pretrained(tmp_path / "meta")
    on_head = get_peft_model(MetaRMForSequenceClassification.from_pretrained(tmp_path / "meta"), lora)
    on_head.save_pretrained(tmp_path / "second")
    assert torch.equal(load_trained(tmp_path / "second").score.weight, tiny_meta().score.weight)


def test_a_draft_that_the_chat_template_opens_is_not_read():
    judge = judge_by(first_place)
    texts = [box(1, 9), f"{box(1, 9)}</think>{box(8, 2)}"]
    judge.sample = lambda prompts, counts, seed, firsts, **_: [
        [Sample(text, 1, False, prefilled=True) for text in texts]
    ]
    critiques = judge(PAIR, k=2, seed=0, order="fixed")["critiques"]
    assert [critique["scores"] for critique in critiques] == [None, [8, 2]]
    assert critiques[0]["problem"] == "missing"
