# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Other judges that write: LLM-as-a-Judge (majority, TokenProb) and semi-scalar reward models (CLoud)."""

import math
import os
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, pipeline
from transformers.modeling_outputs import SequenceClassifierOutput

from ..judge.costs import spend
from ..judge.critiques import Critique, boxed_span
from ..judge.fence import Fence
from ..judge.generation import evaluating
from ..judge.meta_scoring import encode_meta, meta_scores
from ..judge.modeling_meta_rm import last_attended, require_head
from ..judge.orders import ORDERS, SAMPLES_PER_ROW, count_occurrences, draw_orders, row_seed
from ..judge.pipelines import TASK, GRMRewardPipeline, register
from ..judge.preferences import Messages, Preference
from ..judge.prompts import choice_messages, judge_messages, judge_template
from ..judge.repositories import read_json
from ..judge.sampling import (
    TRUNCATED,
    EngineError,
    PromptTooLongError,
    Sample,
    check_lengths,
    decode_completions,
    derive_seed,
    encode_prompts,
    read_sample,
)
from ..judge.shared_prompts import left_padded
from ..judge.templates import CHOICE, JudgeTemplate
from ..judge.voting import VOTING_TEMPERATURE
from .baselines import load_classifier, some_of
from .judgments import Judge, Judgment, described_model


Drawn = Sequence[tuple[Messages, list[Sample]]]
"""The prompts of a row with their samples."""


class SampledJudge(Judge):
    """A judge that samples with a pipeline: `requests` makes the prompts of a row with the number of samples of each,
    and `read` its k critiques. Options are those of [`~trl_spct.evaluation.judgments.PipelineJudge`]."""

    kind: str

    def __init__(
        self,
        pipe: GRMRewardPipeline,
        k: int,
        seed: int = 0,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ):
        self.pipe, self.k, self.seed = pipe, k, seed
        self.batch_size = batch_size or max(1, 256 // k)
        self.options: dict[str, Any] = {
            "temperature": (VOTING_TEMPERATURE if k > 1 else 0.0) if temperature is None else temperature,
            "top_p": 1.0,
            "max_new_tokens": pipe.default_length if max_new_tokens is None else max_new_tokens,
        }
        settings = {"judge": self.kind, "k": k, "seed": seed, **settings}
        variables = {"chat_template_kwargs": pipe.chat_template_kwargs or None}
        self.settings = {**settings, **described_model(pipe.model), **self.options, **variables}

    def requests(self, row: Preference, occurrence: int = 0) -> list[tuple[Messages, int]]:
        raise NotImplementedError

    def read(self, rows: Sequence[Preference], occurrences: Sequence[int], drawn: Sequence[Drawn]) -> Iterable:
        raise NotImplementedError

    def check(self, row: Preference) -> None:
        if self.pipe.tokenizer is not None:
            variables = self.options.get("chat_template_kwargs", self.pipe.chat_template_kwargs)
            ids = encode_prompts(self.pipe.tokenizer, [prompt for prompt, _ in self.requests(row)], variables)
            check_lengths([max(map(len, ids))], self.options["max_new_tokens"], self.pipe.context)

    def __call__(self, rows: Sequence[Preference], occurrences: Sequence[int] | None = None) -> list[Judgment]:
        occurrences = count_occurrences(rows) if occurrences is None else occurrences
        judged: dict[int, Judgment] = {}
        for first in range(0, len(rows), self.batch_size):
            self._judge(range(first, min(first + self.batch_size, len(rows))), rows, occurrences, judged)
        return list(judged.values())

    def _judge(
        self, numbers: range, rows: Sequence[Preference], occurrences: Sequence[int], judged: dict[int, Judgment]
    ) -> None:
        """Adds judgments to `judged`; errors hold them by row."""
        asked = [(n, *request) for n in numbers for request in self.requests(rows[n], occurrences[n])]
        owners, prompts, counts = map(list, zip(*asked, strict=True))
        firsts, failure = [occurrences[n] * SAMPLES_PER_ROW for n in owners], None
        try:
            samples = dict(enumerate(self.pipe.sample(prompts, counts, self.seed, firsts, **self.options)))
        except PromptTooLongError as error:
            number = owners[error.row]
            raise PromptTooLongError(f"Row {number}", *error.lengths, number, completed=judged) from None
        except EngineError as error:
            samples, failure = error.completed, error
        missing = {n for i, n in enumerate(owners) if i not in samples}
        drawn: dict[int, list] = {n: [] for n in numbers if n not in missing}
        for i, n in enumerate(owners):
            if n in drawn:
                drawn[n].append((prompts[i], samples[i]))
        read = self.read([rows[n] for n in drawn], [occurrences[n] for n in drawn], list(drawn.values()))
        judged |= {n: Judgment((), tuple(critiques)) for n, critiques in zip(drawn, read, strict=True)}
        if failure is not None:
            raise failure.renumbered(owners, judged) from failure.__cause__


class ChoiceJudge(SampledJudge):
    """LLM-as-a-Judge with majority vote: a critique scores 1 for the response that it selects as the best, and 0 for
    the others (paper, section 2.5).

    With `token_prob` a vote weighs the probability of the number's tokens (the paper's TokenProb, section 6), by the
    model's distribution at T = 1 **[?]**; of a server with its tokenizer and `extra_body={"logprobs": 1}`. The box of
    the `template` holds the number of the best response."""

    kind = "choice"

    def __init__(
        self,
        *args: Any,
        order: str = ORDERS[0],
        token_prob: bool = False,
        template: JudgeTemplate = CHOICE,
        **options: Any,
    ):
        options |= {"order": order, "template_digest": template.digest}
        if token_prob:
            options["token_prob"] = True
        super().__init__(*args, **options)
        self.order, self.token_prob, self.template = order, token_prob, template

    def requests(self, row: Preference, occurrence: int = 0) -> list[tuple[Messages, int]]:
        drawn, special = self._orders(row, occurrence), self.pipe.special_tokens
        orders = dict.fromkeys(drawn)
        return [(choice_messages(row.permuted(order), special, self.template), drawn.count(order)) for order in orders]

    def _orders(self, row: Preference, occurrence: int) -> list[tuple[int, ...]]:
        draw = random.Random(derive_seed(row_seed(self.seed, row, occurrence), "order"))
        return draw_orders(len(row), self.k, self.order, draw)

    def read(self, rows: Sequence[Preference], occurrences: Sequence[int], drawn: Sequence[Drawn]) -> Iterable:
        for row, occurrence, prompts in zip(rows, occurrences, drawn, strict=True):
            orders = self._orders(row, occurrence)
            distinct = zip(dict.fromkeys(orders), prompts, strict=True)
            choices = {order: iter(self._choices(*of_prompt, order)) for order, of_prompt in distinct}
            yield [next(choices[order]) for order in orders]

    def _choices(self, prompt: Messages, samples: list[Sample], order: tuple[int, ...]) -> list[Critique]:
        template = replace(self.template, score_range=(1, len(order)))
        critiques = [read_sample(sample, 1, template) for sample in samples]
        readable = [i for i, critique in enumerate(critiques) if critique.scores is not None]
        weights = dict.fromkeys(readable, 1.0)
        if self.token_prob:
            found = answer_probabilities(self.pipe, prompt, [samples[i] for i in readable])
            weights = dict(zip(readable, found, strict=True))
        for i, (critique, sample) in enumerate(zip(critiques, samples, strict=True)):
            scores: Any = critique.scores and [0.0] * len(order)
            if scores:
                scores[order[critique.scores[0] - 1]] = weights[i]  # type: ignore[index]
            scores = scores and tuple(scores)
            critiques[i] = replace(critique, scores=scores, order=order, num_tokens=sample.num_tokens)
        return critiques


def answer_probabilities(pipe: GRMRewardPipeline, prompt: Messages, samples: Sequence[Sample]) -> list[float]:
    """The probability of the tokens with the number in the last box of each sample of a prompt."""
    if pipe.engine is not None and any(sample.logprobs is None for sample in samples):
        expected = 'an `OpenAIEngine` of vLLM with a `tokenizer` and `extra_body={"logprobs": 1}`, or no `token_prob`'
        raise ValueError(f"Found an engine that returns no probabilities of tokens; expected {expected}.")
    spans: list[Any] = [_number_tokens(pipe.tokenizer, sample) for sample in samples]
    if pipe.engine is not None:
        return [math.exp(sum(s.logprobs[t] for t in span)) for s, span in zip(samples, spans, strict=True)]  # type: ignore[index]
    (beginning,) = encode_prompts(pipe.tokenizer, [prompt], pipe.chat_template_kwargs)
    places, weights = [(i, t) for i, span in enumerate(spans) for t in span], [1.0] * len(samples)
    with torch.no_grad(), evaluating(pipe.model):
        for batch in (places[start : start + 8] for start in range(0, len(places), 8)):
            rows = [[*beginning, *samples[i].ids[:t]] for i, t in batch]  # type: ignore[index]
            ids, mask = left_padded(rows, pipe.tokenizer.pad_token_id, pipe.model.device)
            spend(read=int(mask.sum()))
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
            logits = pipe.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
            for (i, t), values in zip(batch, logits.float().softmax(dim=-1), strict=True):
                weights[i] *= values[samples[i].ids[t]].item()  # type: ignore[index]
    return weights


def _number_tokens(tokenizer: Any, sample: Sample) -> range:
    (begin, stop), ids = boxed_span(sample.text), sample.ids or ()

    def end(place: int) -> int:
        return len(decode_completions(tokenizer, [ids[: place + 1]])[0])

    first = bisect_right(range(len(ids)), begin, key=end)
    return range(first, bisect_left(range(len(ids)), stop, key=end) + 1)


class SemiScalarJudge(SampledJudge):
    """A semi-scalar reward model: a critic writes about each response, and a head reads both as one scalar; k votes
    are the mean (paper, section 6). Critiques of a row in which one reaches the token limit are `"truncated"`.

    The critic judges single responses with the pipeline's template (`binary` as there, by default as in the head's
    `config.semi_scalar`), and the `head` is a classifier with one label that reads this prompt and the critique; or
    both are a [`CLoud`], which has its own prompt."""

    kind = "semi-scalar"

    def __init__(
        self, pipe: GRMRewardPipeline, head: PreTrainedModel, *args: Any, binary: bool | None = None, **options: Any
    ):
        binary = bool((getattr(head.config, "semi_scalar", None) or {}).get("binary")) if binary is None else binary
        self.head, self.binary, self.template = head, binary, pipe.find_template()
        digest = None if isinstance(head, CLoud) else judge_template(self.template, binary).digest
        weights = described_model(head)["model_weights"]
        super().__init__(pipe, *args, **options, binary=binary, template_digest=digest, head_weights=weights)
        if isinstance(head, CLoud):
            self.options["chat_template_kwargs"] = {"add_generation_prompt": False, "continue_final_message": True}

    @classmethod
    def from_pretrained(
        cls, critic: str, head: str | None = None, device: Any = None, dtype: Any = "auto", **options: Any
    ) -> "SemiScalarJudge":
        """Loads a critic and a head, or a [`CLoud`]; without a trained head it raises."""
        if head is not None:
            register()
            pipe: Any = pipeline(TASK, model=critic, meta_rm=None, device=device, dtype=dtype)
            return cls(pipe, load_classifier(head, dtype=dtype).to(pipe.device), **options)
        cloud, tokenizer = CLoud.load(critic, dtype=dtype), AutoTokenizer.from_pretrained(critic)
        end_of_turn = encode_meta(tokenizer, [{"role": "user", "content": "a"}])[-1]
        cloud.reward_base_model.generation_config.eos_token_id = end_of_turn
        pipe = GRMRewardPipeline(cloud.reward_base_model, tokenizer, meta_rm=None, device=device)
        return cls(pipe, cloud.to(pipe.device), **options)

    def requests(self, row: Preference, occurrence: int = 0) -> list[tuple[Messages, int]]:
        return [(self._prompt(some_of(row, (place,))), self.k) for place in range(len(row))]

    def _prompt(self, row: Preference) -> list[dict[str, str]]:
        if not isinstance(self.head, CLoud):
            return judge_messages(row, self.template, self.binary, special_tokens=self.pipe.special_tokens)
        fence, query = Fence(self.pipe.special_tokens), row.query
        turns: Any = [{"role": "user", "content": query}] if isinstance(query, str) else query
        turns = [*turns, {"role": "assistant", "content": row.responses[0]}, {"role": "user", "content": CLoud.prompt}]
        return [{"role": turn["role"], "content": fence(turn["content"])} for turn in turns]

    def _conversation(self, prompt: Messages, critique: str) -> list[Any]:
        critique = Fence(self.pipe.special_tokens)(critique)
        if isinstance(self.head, CLoud):
            return [*prompt[:-1], {"role": "user", "content": CLoud.prompt + critique.strip()}]
        return [*prompt, {"role": "assistant", "content": critique}]

    def read(self, rows: Sequence[Preference], occurrences: Sequence[int], drawn: Sequence[Drawn]) -> Iterable:
        talks = [self._conversation(prompt, s.text) for of in drawn for prompt, samples in of for s in samples]
        logits = iter(meta_scores(self.head, self.pipe.tokenizer, talks))
        for of_row in drawn:
            scores = zip(*[[next(logits) for _ in samples] for _, samples in of_row], strict=True)
            yield map(_joined, scores, zip(*[samples for _, samples in of_row], strict=True))


def _joined(scores: Any, samples: Sequence[Sample]) -> Critique:
    """The critiques of all responses as one."""
    problem = TRUNCATED if any(sample.truncated for sample in samples) else None
    text, tokens = "\n\n".join(s.text for s in samples), sum(s.num_tokens for s in samples)
    return Critique(text, None if problem else scores, problem, tuple(range(len(samples))), num_tokens=tokens)


class CLoud(PreTrainedModel):
    """The layout of `ankner/Llama3-8B-CLoud-RM` (arXiv 2408.11791): a causal language model whose critique continues a
    turn of the user, and a head of two layers that reads its last state."""

    config_class = PreTrainedConfig
    base_model_prefix = "reward_base_model"
    _supports_sdpa = True
    prompt = (
        "The following is a break down on the correctness and usefulness of the assistant's response to my question: "
    )

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.reward_base_model, size = AutoModelForCausalLM.from_config(config), config.hidden_size
        self.reward_head = nn.ModuleDict({"dense": nn.Linear(size, size), "out_proj": nn.Linear(size, 1)})
        self.post_init()

    @classmethod
    def load(cls, name: str | os.PathLike, **kwargs: Any) -> "CLoud":
        """Loads a checkpoint, whose config names the base model; without a trained head it raises."""
        base = (read_json(name, "config.json") or {}).get("base_model_name_or_path")
        if base is None:
            expected = "the layout of ankner/Llama3-8B-CLoud-RM, or a `head` beside the critic"
            raise ValueError(f"Found no `base_model_name_or_path` in the config of {name!r}; expected {expected}.")
        kwargs |= {"config": AutoConfig.from_pretrained(base), "output_loading_info": True}
        model, info = cls.from_pretrained(name, **kwargs)
        require_head(info, name)
        return model.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs) -> SequenceClassifierOutput:
        states = self.reward_base_model.base_model(input_ids, attention_mask=attention_mask, **kwargs)[0]
        last = last_attended(states, attention_mask[:, -states.shape[1] :])
        return SequenceClassifierOutput(logits=self.reward_head["out_proj"](self.reward_head["dense"](last).tanh()))
