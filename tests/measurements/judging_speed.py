# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Time and peak memory of sampling k critiques of each row, against other ways to sample them.

python tests/measurements/judging_speed.py [--rows 4] [--k 32] [--rounds 3] [--base_url http://localhost:8000/v1]
python tests/measurements/judging_speed.py --memory [--rows 1]

One judge with random weights reads rows of two responses behind one template head; half of a row's critiques see its
responses in the other order. No critique ends early. Rounds of the variants alternate, each round with rows of its own
(so that no server answers from its prefix cache), and the best of each variant counts: by the clock, and by the CPU
seconds of this process (one thread), which a busy machine disturbs less.

- `ours`: `sample_critiques`.
- `generate`: `generate(num_return_sequences=k / 2, top_k=0)` on the two orders of a row.
- `loop`: the loop on the released judge's model card: a text-generation pipeline, one critique at a time, responses
  shuffled each time. Timed on eight critiques.
- `engine`: an OpenAI-compatible server given by `--base_url` that serves the folder which `--save` has written.
- `floor`: nothing but the matrix products that `ours` cannot do without: every distinct prompt position once, and per
  decoding step the weights and the keys and values that the samples see. What the floor leaves out is everything else.

Memory is how much the resident set of a process of its own grows at its highest, over what it was with the model
loaded and warm. One row by default, so that `ours` and `generate` decode the same k critiques at once; `loop` decodes
one.
"""

import argparse
import random
import subprocess
import sys
from collections.abc import Callable

import torch
from measuring import ARCHITECTURES, SIZES, alternate, growth, print_speed, sizes_of
from rich.console import Console
from rich.table import Table
from tiny_models import tiny_causal_lm, tiny_tokenizer
from transformers import pipeline
from transformers.utils import logging

from trl_spct.judge.sampling import sample_critiques


LOOPS = 8  # critiques for which the loop is timed
MARKUP = 24  # tokens of the chat template
LETTERS = "abcdefghijklmnopqrstuvwxyz ."


def build(arch: str):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None  # no critique ends early
    model = tiny_causal_lm(arch, **{**sizes_of(arch), "eos_token_id": None})
    model.generation_config.eos_token_id = None
    return model, tokenizer


def text(draw: random.Random, length: int) -> str:
    return "".join(draw.choices(LETTERS, k=length))


def rows_of(args, number: int) -> list[list[list[dict[str, str]]]]:
    """Per row its prompt in both orders; head, conversation and two responses of a quarter of the prompt each."""
    head, draw = text(random.Random(-1), args.head), random.Random(number)
    rest = args.prompt - args.head - MARKUP
    rows = []
    for _ in range(args.rows):
        query, first, second = (text(draw, size) for size in (rest - 2 * (rest // 3), rest // 3, rest // 3))
        orders = (head + query + first + second, head + query + second + first)
        rows.append([[{"role": "user", "content": content}] for content in orders])
    return rows


def ours(args, model, tokenizer, rows) -> int:
    prompts = [prompt for row in rows for prompt in row]
    samples = sample_critiques(
        model, tokenizer, prompts, args.k // 2, 0, max_new_tokens=args.new, batch_size=args.batch_size
    )
    return sum(map(len, samples))


def generate(args, model, tokenizer, rows) -> int:
    count = 0
    for row in rows:
        inputs = tokenizer.apply_chat_template(row, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        output = model.generate(
            **inputs, do_sample=True, temperature=0.5, top_k=0, max_new_tokens=args.new,
            num_return_sequences=args.k // 2,
        )  # fmt: skip
        count += len(output)
    return count


def loop(args, model, tokenizer, rows) -> int:
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    draw, count = random.Random(0), 0
    for row in rows[:1]:
        for _ in range(min(args.k, LOOPS)):
            pipe(draw.choice(row), max_new_tokens=args.new, do_sample=True, temperature=0.5, top_k=0)
            count += 1
    return count


def engine(args, model, tokenizer, rows) -> int:
    from trl_spct.engines import OpenAIEngine

    server = OpenAIEngine(base_url=args.base_url, tokenizer=tokenizer)
    samples = server([prompt for row in rows for prompt in row], args.k // 2, 0, max_new_tokens=args.new)
    assert all(sample.num_tokens == args.new for group in samples for sample in group)
    return sum(map(len, samples))


@torch.no_grad()
def floor(args, model, tokenizer, rows) -> int:
    """Matrix products only."""
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    samples = args.rows * args.k
    rest = args.prompt - args.head - MARKUP
    positions = args.head + args.rows * (rest - 2 * (rest // 3) + 4 * (rest // 3))  # head, queries, both orders
    heads, dim, layers = SIZES["num_key_value_heads"], SIZES["head_dim"], SIZES["num_hidden_layers"]
    batches = -(-samples // args.batch_size)
    batch = samples // batches
    prompts, each = 2 * args.rows // batches, args.k // 2
    states = torch.randn(positions, max(linear.in_features for linear in linears))
    keys = torch.randn(layers, prompts, heads, args.prompt, dim)
    own = torch.randn(layers, batch, heads, args.new // 2, dim)  # half of a critique on average
    query = torch.randn(prompts, heads, each, dim)
    scores = torch.randn(prompts, heads, each, args.prompt)
    own_query, own_scores = torch.randn(batch, heads, 1, dim), torch.randn(batch, heads, 1, args.new // 2)
    for linear in linears[:-1]:  # the head of the model reads last tokens only
        linear(states[:, : linear.in_features])
    for _ in range(batches * args.new):
        for linear in linears:
            linear(states[:batch, : linear.in_features])
        for layer in range(layers):
            query @ keys[layer].transpose(-1, -2)
            scores @ keys[layer]
            own_query @ own[layer].transpose(-1, -2)
            own_scores @ own[layer]
    return samples


VARIANTS = {"ours": ours, "generate": generate, "loop": loop, "engine": engine, "floor": floor}


def memory(args, variant: str) -> float:
    """Peak growth in MB, measured in a process of its own."""
    names = ("rows", "k", "prompt", "head", "new", "arch", "batch_size")
    options = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    command = [sys.executable, __file__, "--only", variant, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def report_memory(args) -> Table:
    table = Table(title=f"{args.arch}: {args.rows} rows, k = {args.k}, {args.prompt} tokens of prompt, {args.new} new")
    for column in ("", "peak growth, MB", f"all of {args.rounds}", "to ours"):
        table.add_column(column, justify="right" if column else "left")
    ours = None
    for variant in ("ours", "generate", "loop"):
        found = sorted(memory(args, variant) for _ in range(args.rounds))
        median = found[len(found) // 2]
        ours = ours or median
        table.add_row(variant, f"{median:.0f}", ", ".join(f"{one:.0f}" for one in found), f"{median / ours:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="llama", choices=ARCHITECTURES)
    parser.add_argument("--rows", type=int, help="4 by default, 1 for memory")
    parser.add_argument("--k", type=int, default=32, help="critiques per row; even")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--head", type=int, default=256, help="of which the template's")
    parser.add_argument("--new", type=int, default=64, help="tokens of a critique")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    parser.add_argument("--base_url")
    parser.add_argument("--save", help="write the judge to this folder, for a server, and stop")
    parser.add_argument("--only", choices=VARIANTS, help="one variant's memory, in this process")
    args = parser.parse_args()
    args.rows = args.rows or (1 if args.memory else 4)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    if args.memory:
        Console().print(report_memory(args))
        return
    model, tokenizer = build(args.arch)
    if args.save:
        model.save_pretrained(args.save)
        tokenizer.save_pretrained(args.save)
        return
    warm_up = argparse.Namespace(**{**vars(args), "rows": 1, "k": 2, "new": 4})
    if args.only:
        run, rows = VARIANTS[args.only], rows_of(args, 0)
        run(argparse.Namespace(**{**vars(warm_up), "prompt": 64, "head": 16}), model, tokenizer, rows_of(warm_up, 1))
        sys.stdout.write(f"{growth(lambda: run(args, model, tokenizer, rows))}\n")
        return
    variants = {name: run for name, run in VARIANTS.items() if name != "engine" or args.base_url}
    for run in variants.values():
        run(warm_up, model, tokenizer, rows_of(warm_up, 10**6))

    def timed(run: Callable) -> Callable[[int], int]:
        return lambda number: run(args, model, tokenizer, rows_of(args, number))

    best = alternate({name: timed(run) for name, run in variants.items()}, args.rounds)
    title = f"{args.arch}: {args.rows} rows, k = {args.k}, {args.prompt} tokens of prompt, {args.new} new"
    print_speed(title, best, elsewhere=("engine",))


if __name__ == "__main__":
    main()
