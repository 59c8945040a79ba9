# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Stated values against found ones: judges that read nothing over all rows of public data, and a tiny judge over a few.

python tests/measurements/real_benchmarks.py --data FOLDER --output outputs/real_benchmarks

The folder holds one folder per source with `sample.jsonl` or `*.jsonl.gz` in the source's own schema. What is stated
comes from the sources' papers, or from whoever collected the rows, of which these may be a sample; a value holds if it
lies within the 95 % interval of the one found. Of the coin, which writes critiques with random scores, everything is
known by definition: prompts, orders, parsing, votes and metrics must bring it out. The tiny judge is byte-level and
has learned nothing but the form of a critique (`real_rows.py`). A start over the same folder goes on.
"""

import argparse
import gzip
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from real_rows import build_judge, rows_of  # noqa: E402
from transformers import pipeline  # noqa: E402

from trl_spct import GRMRewardPipeline  # noqa: E402
from trl_spct.evaluation.baselines import CONTENT_BLIND, ContentBlindJudge  # noqa: E402
from trl_spct.evaluation.benchmark_loading import LoadedBenchmark, load_benchmark, load_rows  # noqa: E402
from trl_spct.evaluation.benchmark_results import benchmark_results, judge_benchmark  # noqa: E402
from trl_spct.evaluation.benchmarks import rows_benchmark  # noqa: E402
from trl_spct.evaluation.diagnostics import diagnose  # noqa: E402
from trl_spct.evaluation.judgments import PipelineJudge  # noqa: E402
from trl_spct.evaluation.reports import bias_table, markdown_table  # noqa: E402
from trl_spct.judge.sampling import Sample, derive_seed  # noqa: E402


@dataclass(frozen=True)
class Stated:
    """A value that somebody states: of which judge, for which part, and where it is from."""

    judge: str
    value: float
    where: str
    part: str = "accuracy"


BY_HAND = "by definition"
STATED = {
    "rm-bench": [
        Stated("longest", value, "collector, chat", f"chat, {level}")
        for level, value in (("hard", 0.03), ("normal", 0.28), ("easy", 0.81))
    ],
    "ukpconvarg1": [Stated("longest", 0.77, "collector, all 11,650 pairs")],
    "hhh-alignment": [Stated("first", 1.0, "collector: the best is always first")],
    **{name: [Stated("random", 0.5, BY_HAND)] for name in ("llmbar", "pandalm", "evalbiasbench")},
}
FILES = {
    "llmbar": "sample.jsonl",
    "pandalm": "sample.jsonl",
    "hhh-alignment": "sample.jsonl",
    "evalbiasbench": "sample.jsonl",
    "gsm8k": "sample.jsonl",
    "ukpconvarg1": "all_strict.jsonl.gz",
}
GROUPS = {"hhh-alignment": "_subset", "llmbar": "_subset", "evalbiasbench": "bias"}


def load(data: Path) -> dict[str, LoadedBenchmark]:
    found = {
        "rm-bench": load_benchmark("rm-bench", str(data / "rm-bench" / "sample.jsonl"), check=False),
        "genrm-cot": load_benchmark("best-of-n", str(data / "genrm-cot" / "bestof16_300q.jsonl.gz")),
    }
    for name, file in FILES.items():
        rows = read(data / name / file)
        benchmark = rows_benchmark(name)
        group = GROUPS.get(name)
        found[name] = load_rows(benchmark, rows, name, "drop", group if group and group in rows[0] else None)
    return found


def read(path: Path) -> list[dict]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def blind_results(loaded: dict[str, LoadedBenchmark], output: Path) -> dict[str, list[dict]]:
    found = {}
    for name, benchmark in loaded.items():
        found[name] = []
        for blind in CONTENT_BLIND:
            folder = output / "baselines" / blind / name
            judgments = judge_benchmark(ContentBlindJudge(blind), benchmark, folder, rows_per_shard=100_000)
            found[name] += benchmark_results(benchmark, judgments, stage=blind, baseline=True)
    return found


def coin(prompts: list, k: list[int], seed: int, **_) -> list[list[Sample]]:
    """A sampler: one random score for each response that it finds in a prompt."""
    texts = [prompt[-1]["content"] for prompt in prompts]
    draws = [random.Random(derive_seed(seed, "coin", text)) for text in texts]
    counts = [text.count("[The End of Response") for text in texts]

    def write(draw: random.Random, count: int) -> Sample:
        return Sample(f"\\boxed{{{', '.join(str(draw.randint(1, 10)) for _ in range(count))}}}", 4 * count, False)

    return [
        [write(draw, count) for _ in range(samples)] for draw, count, samples in zip(draws, counts, k, strict=True)
    ]


def chance(benchmark: LoadedBenchmark) -> float:
    """What the coin is worth: the share of best responses; of strict comparisons of two scores from 1 to 10, .45."""
    if benchmark.benchmark.name == "rm-bench":
        return 0.45
    rows = [labels for item in benchmark.items for labels in item.labels]
    return sum(labels.count(max(labels)) / len(labels) for labels in rows) / len(rows)


def coin_results(loaded: dict[str, LoadedBenchmark], output: Path, k: int) -> dict[str, list[dict]]:
    found = {}
    for name, benchmark in loaded.items():
        judge = PipelineJudge(GRMRewardPipeline(coin), k, binary=benchmark.benchmark.binary, template="compact")
        judgments = judge_benchmark(judge, benchmark, output / "coin" / name, rows_per_shard=1000)
        found[name] = benchmark_results(benchmark, judgments, stage="coin", temperature=0.5)
    return found


def stated_and_found(results: dict[str, list[dict]], stated: dict[str, list[Stated]]) -> str:
    lines = ["| data | judge | value | stated | found (95 % interval) | n | holds | stated by |", "|" + "---|" * 8]
    for name, claims in stated.items():
        for claim in claims:
            result = next(result for result in results[name] if result["stage"] == claim.judge)
            value = result["values"].get(claim.part, [result[part] for part in ("accuracy", "low", "high")])
            holds = value[1] - 5e-3 <= claim.value <= value[2] + 5e-3
            shown = "{:.3f} ({:.3f}–{:.3f})".format(*value)
            what = result["metric"] if claim.part == "accuracy" else claim.part
            lines.append(
                f"| {name} | {claim.judge} | {what} | {claim.value:.2f} | {shown} | {result['n']} | "
                f"{'yes' if holds else 'NO'} | {claim.where} |"
            )
    return "\n".join(lines)


def tiny_judge(loaded: dict[str, LoadedBenchmark], data: Path, output: Path, rows: int, k: int) -> tuple:
    folder = output / "judge"
    if not (folder / "tokenizer_config.json").exists():  # what is written last
        build_judge(folder, rows_of(data / "gsm8k"))
    pipe = pipeline("grm-reward", model=str(folder), device="cpu")
    results, reports = [], {}
    for name, benchmark in loaded.items():
        few = benchmark.sampled(rows)
        judge = PipelineJudge(
            pipe, k, binary=few.benchmark.binary, template="compact", max_new_tokens=64, truncation="fair"
        )
        judgments = judge_benchmark(judge, few, output / "judgments" / name, rows_per_shard=4, progress=name)
        results += benchmark_results(few, judgments, stage="tiny judge", temperature=0.5)
        reports[name] = diagnose(judgments, [row for item in few.items for row in item.rows])
    return results, reports


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("outputs/real_benchmarks"))
    parser.add_argument("--rows", type=int, default=8, help="items of each source that the tiny judge reads")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--blind_only", action="store_true")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    loaded = load(options.data)
    results = blind_results(loaded, options.output)
    for name, found in coin_results(loaded, options.output, options.k).items():
        results[name] += found
    stated = {
        name: [*STATED.get(name, ()), Stated("coin", chance(benchmark), BY_HAND)] for name, benchmark in loaded.items()
    }
    every = [result for found in results.values() for result in found]
    texts = [stated_and_found(results, stated), markdown_table(every)]
    print("\n\n".join(texts), flush=True)  # noqa: T201
    if not options.blind_only:
        judged, reports = tiny_judge(loaded, options.data, options.output, options.rows, options.k)
        texts += [markdown_table(judged), bias_table(reports)]
        every += judged
        print("\n\n".join(texts[2:]))  # noqa: T201
    (options.output / "results.json").write_text(json.dumps(every, indent=1))
    (options.output / "tables.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
