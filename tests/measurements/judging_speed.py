# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Time and peak memory of sampling k critiques of each row, against other ways to sample them.

python tests/measurements/judging_speed.py [--rows 4] [--k 32] [--rounds 3] [--base_url http://localhost:8000/v1]
python tests/measurements/judging_speed.py --model FOLDER --rows 1 --prompt 700 --vllm vllm/bin/python
python tests/measurements/judging_speed.py --model FOLDER --rows 1 --prompt 700 --profile
python tests/measurements/judging_speed.py --memory [--rows 1]

A judge with random weights, or that of `--model`, reads rows of two responses behind one template head; half of a
row's critiques see its responses in the other order. No critique ends early. Rounds of the variants alternate, each
with rows of its own (so that a server answers no more than the head from its prefix cache). Of each variant the best
round is shown, and the ratios to `ours` of the same round: by the clock, and by CPU seconds, which a busy machine
disturbs less. Everything runs on one thread.

- `ours`: `sample_critiques`.
- `generate`: `generate(num_return_sequences=k / 2, top_k=0)` on the two orders of a row.
- `loop`: the loop on the released judge's model card: a text-generation pipeline, one critique at a time, responses
  shuffled each time. Timed on eight critiques.
- `engine`: an OpenAI-compatible server given by `--base_url` that serves the folder which `--save` has written, or a
  vLLM that `--vllm` starts with the interpreter of its environment (its CPU seconds are those of all its processes).
- `floor`: nothing but the matrix products that `ours` cannot do without: every distinct prompt position once, and per
  decoding step the weights and the keys and values that the samples see. What the floor leaves out is everything else.

`--profile` tells where the CPU time of `ours` goes. Memory is how much the resident set of a process of its own grows
at its highest, over what it was with the model loaded and warm. One row by default, so that `ours` and `generate`
decode the same k critiques at once; `loop` decodes one.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from measuring import ARCHITECTURES, PartsClock, alternate, cpu_seconds, growth, print_speed, sizes_of
from rich.console import Console
from rich.table import Table
from tiny_models import tiny_causal_lm, tiny_tokenizer
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, pipeline
from transformers.utils import logging

from trl_spct.judge.decoding import SHARED_DECODING, PromptLayer, attend
from trl_spct.judge.generation import Decoder, SeededSampling, evaluating
from trl_spct.judge.sampling import sample_critiques

LOOPS = 8  # critiques for which the loop is timed
MARKUP = 24  # tokens of the chat template
LETTERS = "abcdefghijklmnopqrstuvwxyz ."


def build(args):
    """The judge and its tokenizer, without an end token: no critique ends early."""
    dtype = getattr(torch, args.dtype)
    if args.model:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
        tokenizer = AutoTokenizer.from_pretrained(args.model)
    else:
        tokenizer = tiny_tokenizer()
        model = tiny_causal_lm(args.arch, **{**sizes_of(args.arch), "eos_token_id": None}).to(dtype)
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    return model, tokenizer


def pieces_of(tokenizer) -> list[str]:
    """Texts of one token each: letters for a tokenizer of bytes, else words."""
    words = [token for token in tokenizer.get_vocab() if re.fullmatch("[Ġ▁][a-z]{3,}", token)]
    return sorted(f" {word[1:]}" for word in words) or list(LETTERS)


def text(draw: random.Random, length: int, pieces: Sequence[str] = LETTERS) -> str:
    return "".join(draw.choices(pieces, k=length))


def rows_of(args, number: int) -> list[list[list[dict[str, str]]]]:
    """Per row its prompt in both orders; head, conversation and two responses of a quarter of the prompt each."""
    head, draw = text(random.Random(-1), args.head, args.pieces), random.Random(number)
    rest = args.prompt - args.head - MARKUP
    rows = []
    for _ in range(args.rows):
        query, first, second = (
            text(draw, size, args.pieces) for size in (rest - 2 * (rest // 3), rest // 3, rest // 3)
        )
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

    server = OpenAIEngine(base_url=args.base_url, tokenizer=tokenizer, extra_body={"ignore_eos": True})
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
    config = model.config
    heads, layers, dim = config.num_key_value_heads, config.num_hidden_layers, config.head_dim
    group = config.num_attention_heads // heads
    batches = -(-samples // args.batch_size)
    batch = samples // batches
    prompts, each = 2 * args.rows // batches, args.k // 2
    draw = partial(torch.randn, dtype=model.dtype)
    states = draw(positions, max(linear.in_features for linear in linears))
    keys = draw(layers, prompts, heads, args.prompt, dim)
    own = draw(layers, batch, heads, args.new // 2, dim)  # half of a critique on average
    query = draw(prompts, heads, each * group, dim)
    scores = draw(prompts, heads, each * group, args.prompt)
    own_query, own_scores = draw(batch, heads, group, dim), draw(batch, heads, group, args.new // 2)
    with evaluating(model):
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


def profile(args, model, tokenizer) -> Table:
    """Shares of the CPU time of `ours`, by part."""
    clock = PartsClock(whole={"prefill"})

    for owner, name, part in (
        (Decoder, "prefill", "prefill"),
        (SeededSampling, "__call__", "sampling"),
        (PromptLayer, "update", "writing of keys and values"),
    ):
        setattr(owner, name, clock.timed(getattr(owner, name), part))
    AttentionInterface.register(SHARED_DECODING, clock.timed(attend, "attention"))
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        kind = type(module).__name__
        if module is head:
            clock.watch(module, "output layer")
        elif isinstance(module, torch.nn.Linear):
            clock.watch(module, "linear layers of the MLP" if ".mlp." in name else "projections of the attention")
        elif kind.endswith(("RMSNorm", "MLP")):
            clock.watch(module, "norms" if kind.endswith("Norm") else "activations")
    rounds = [rows_of(args, number) for number in range(args.rounds)]
    shares = [clock.shares(partial(ours, args, model, tokenizer, rows)) for rows in rounds]
    tokens = args.rows * args.k * args.new
    table = Table(title=f"{title_of(args)}, {1000 * min(of['total'] for of in shares) / tokens:.2f} ms per token")
    for column in ("", "share", f"all of {args.rounds}"):
        table.add_column(column, justify="right" if column else "left")
    for part in shares[0]:
        found = sorted(100 * of[part] for of in shares)
        if part != "total":
            table.add_row(part, f"{found[len(found) // 2]:.1f} %", ", ".join(f"{one:.1f}" for one in found))
    return table


def title_of(args) -> str:
    judge = Path(args.model).name if args.model else args.arch
    return (
        f"{judge} ({args.dtype}): {args.rows} rows, k = {args.k}, {args.prompt} tokens of prompt, {args.new} new, "
        f"{args.rounds} rounds"
    )


@contextmanager
def vllm_of(args) -> Iterator:
    """A vLLM server of the judge, on one thread."""
    from test_engines import Process

    options = f"--host 127.0.0.1 --dtype {args.dtype} --max-model-len {args.prompt + args.new + 256} "
    # On a CPU vLLM 0.32 dies over a seeded request whose prefill is chunked.
    options += "--enable-prefix-caching --no-enable-chunked-prefill " + args.vllm_options
    command = [args.vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", args.model, "--port", "{port}"]
    with tempfile.TemporaryDirectory() as folder:
        server = Process([*command, *options.split()], Path(folder, "log.txt"))
        try:
            yield server
        finally:
            server.kill()


def memory(args, variant: str) -> float:
    """Peak growth in MB, measured in a process of its own."""
    names = ("rows", "k", "prompt", "head", "new", "arch", "batch_size", "dtype", "model")
    given = [name for name in names if getattr(args, name) is not None]
    options = [text for name in given for text in (f"--{name}", str(getattr(args, name)))]
    command = [sys.executable, __file__, "--only", variant, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def report_memory(args) -> Table:
    table = Table(title=title_of(args))
    for column in ("", "peak growth, MB", f"all of {args.rounds}", "to ours"):
        table.add_column(column, justify="right" if column else "left")
    ours = None
    for variant in ("ours", "generate", "loop"):
        found = sorted(memory(args, variant) for _ in range(args.rounds))
        median = found[len(found) // 2]
        ours = ours or median
        table.add_row(variant, f"{median:.0f}", ", ".join(f"{one:.0f}" for one in found), f"{median / ours:.2f}")
    return table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="llama", choices=ARCHITECTURES)
    parser.add_argument("--model", help="folder of a judge instead of one with random weights")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rows", type=int, help="4 by default, 1 for memory")
    parser.add_argument("--k", type=int, default=32, help="critiques per row; even")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--head", type=int, default=256, help="of which the template's")
    parser.add_argument("--new", type=int, default=64, help="tokens of a critique")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    parser.add_argument("--profile", action="store_true", help="where the time of `ours` goes")
    parser.add_argument("--base_url")
    parser.add_argument("--vllm", help="interpreter of an environment with vLLM, for a server of `--model`")
    parser.add_argument("--vllm_options", default="", help="of that server, such as --enforce-eager")
    parser.add_argument("--save", help="write the judge to this folder, for a server, and stop")
    parser.add_argument("--only", choices=VARIANTS, help="one variant's memory, in this process")
    args = parser.parse_args()
    args.rows = args.rows or (1 if args.memory else 4)
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    if args.memory:
        Console().print(report_memory(args))
        return
    model, tokenizer = build(args)
    args.pieces = pieces_of(tokenizer)
    if args.save:
        model.save_pretrained(args.save)
        tokenizer.save_pretrained(args.save)
        return
    warm_up = argparse.Namespace(**{**vars(args), "rows": 1, "k": 2, "new": 4})
    if args.only:
        run, rows = VARIANTS[args.only], rows_of(args, 0)
        run(argparse.Namespace(**{**vars(warm_up), "prompt": 64, "head": 16}), model, tokenizer, rows_of(warm_up, 1))
        sys.stdout.write(f"{growth(lambda: run(args, model, tokenizer, rows))}\n")
    elif args.profile:
        ours(warm_up, model, tokenizer, rows_of(warm_up, 10**6))
        Console(width=120).print(profile(args, model, tokenizer))
    elif args.vllm:
        with vllm_of(args) as server:
            args.base_url = warm_up.base_url = server.url
            compare(args, warm_up, model, tokenizer, {"engine": partial(cpu_seconds, server.process.pid)})
    else:
        compare(args, warm_up, model, tokenizer, {})


def compare(args, warm_up, model, tokenizer, clocks: dict[str, Callable[[], float]]) -> None:
    """Times the variants, and prints the times per token."""

    def timed(run: Callable) -> Callable[[int], int]:
        return lambda number: run(args, model, tokenizer, rows_of(args, number)) * args.new

    variants = {name: VARIANTS[name] for name in args.variants if name != "engine" or args.base_url}
    for run in variants.values():
        run(warm_up, model, tokenizer, rows_of(warm_up, 10**6))
    measured = alternate({name: timed(run) for name, run in variants.items()}, args.rounds, clocks)
    print_speed(title_of(args), measured, () if clocks else ("engine",), "token")


if __name__ == "__main__":
    main()
