# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Time of Meta RM scores for k critiques of one conversation, against reading every conversation whole.

python tests/measurements/meta_scoring_speed.py [--prompt 512] [--k 32] [--critique 64] [--rows 2] [--rounds 3]

A Meta RM with random weights; critiques are a quarter shorter to as long as `--critique`. Rounds of the variants
alternate. Of each the best is shown, and its ratios to `ours` in the same round: by the clock, and by the CPU seconds
of this process (one thread), which a busy machine disturbs less. The scores of all variants agree to `atol=1e-4`, or
it fails.
"""

import argparse
import random
from functools import partial

import torch
from judging_speed import text
from measuring import ARCHITECTURES, alternate, print_speed, sizes_of
from tiny_models import tiny_config, tiny_tokenizer

from trl_spct import MetaRMForSequenceClassification
from trl_spct.judge import meta_scoring


def conversations(args) -> list[list[dict[str, str]]]:
    draw = random.Random(0)
    found = []
    for _ in range(args.rows):
        user = {"role": "user", "content": text(draw, args.prompt)}
        for _ in range(args.k):
            critique = text(draw, draw.randint(args.critique * 3 // 4, args.critique))
            found.append([user, {"role": "assistant", "content": critique}])
    return found


def ours(args, model, tokenizer, messages) -> list[float]:
    return meta_scoring.meta_scores(model, tokenizer, messages, args.batch_size)


def plain(args, model, tokenizer, messages, batch_size=None) -> list[float]:
    """Batches of like length, each conversation whole."""
    encoded = [tuple(meta_scoring.encode_meta(tokenizer, conversation)) for conversation in messages]
    scores = {}
    with torch.no_grad():
        for rows, logits in meta_scoring._plain_logits(model, encoded, batch_size or args.batch_size, 0):
            scores.update(zip(rows, logits.flatten().tolist(), strict=True))
    return [scores[ids] for ids in encoded]


def one_by_one(args, model, tokenizer, messages) -> list[float]:
    return plain(args, model, tokenizer, messages, batch_size=1)


VARIANTS = {"ours": ours, "plain batches": plain, "one by one": one_by_one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="llama", choices=ARCHITECTURES)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--k", type=int, default=32, help="critiques per row")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a conversation with its responses")
    parser.add_argument("--critique", type=int, default=64, help="tokens of the longest critiques")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = MetaRMForSequenceClassification(tiny_config(args.arch, **sizes_of(args.arch))).eval()
    messages = conversations(args)
    scores = {}

    def score(name: str, number: int) -> int:
        scores[name] = torch.tensor(VARIANTS[name](args, model, tokenizer, messages))
        return len(messages)

    measured = alternate({name: partial(score, name) for name in VARIANTS}, args.rounds)
    for name in VARIANTS:
        torch.testing.assert_close(scores[name], scores["one by one"], rtol=0, atol=1e-4)
    shape = f"{args.rows} rows, k = {args.k}, {args.prompt} + {args.critique} tokens, batches of {args.batch_size}"
    print_speed(f"{args.arch}: {shape}", measured)


if __name__ == "__main__":
    main()
