# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Evaluates a judge on the paper's benchmarks or on labeled rows: the benchmarks' own metrics over the number of votes,
plain and guided by a Meta RM, beside baselines that read no content.

accelerate launch recipes/evaluate.py \
    --model_name_or_path judge-spct --meta_rm judge-meta-rm \
    --benchmarks rewardbench ppe-preference ppe-correctness rmb=RMB_dataset --k 32 --greedy --output_dir judge-results

`--dataset_name rows.jsonl` evaluates on rows of your own. Without a model only the baselines are evaluated. A judge on
a server, here of `vllm serve judge-spct`:

    --base_url http://localhost:8000 --tokenizer_name_or_path judge-spct

Writes `judgments/` (every critique), `results.json`, `report.json` (protocol and diagnosis), `table.md`,
`model-index.json` (for a card) and `scaling.png`, and prints the tables. The same command resumes a killed run.
`--compare_with judge-rft-results …` adds judges evaluated before to tables and figures, and tests the difference,
paired by items. recipes/EVALUATION.md describes benchmarks, baselines and tables.
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from huggingface_hub.repocard_data import eval_results_to_model_index
from rich.console import Console
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

from trl_spct.data.loading import load_preferences, push_or_exit
from trl_spct.data.loading import load_rows as load_splits
from trl_spct.evaluation import reports
from trl_spct.evaluation.baselines import CONTENT_BLIND, ContentBlindJudge, PairwiseJudge, ScalarJudge
from trl_spct.evaluation.benchmark_loading import load_benchmark, load_rows
from trl_spct.evaluation.benchmark_results import benchmark_results, compare_judges, judge_benchmark
from trl_spct.evaluation.benchmarks import BENCHMARKS, rows_benchmark
from trl_spct.evaluation.diagnostics import diagnose, report_lines
from trl_spct.evaluation.fidelity import fidelity, meta_judged
from trl_spct.evaluation.judgments import PipelineJudge, read_judgments
from trl_spct.evaluation.reports import push_results, write_results
from trl_spct.evaluation.sampled_judges import ChoiceJudge, SemiScalarJudge
from trl_spct.jobs import stored_cost, write_json
from trl_spct.judge.voting import VOTING_TEMPERATURE, Guidance
from trl_spct.scripts import JudgeArguments, helped, inference_parser, load_judge, load_pipeline

ROWS = "rows"
"""Name of the rows of `dataset_name` among the benchmarks; their judgments have no folder of their own."""


@dataclass
class EvaluationArguments(ScriptArguments):
    """Arguments for evaluating a judge."""

    output_dir: str = helped("evaluation", "Output folder. A folder with the same run is resumed.")
    benchmarks: list[str] | None = helped(
        None, f"Benchmarks, each a name or name=path of a local copy. Names: {', '.join(sorted(BENCHMARKS))}."
    )
    allow_changed: bool = helped(False, "Accept benchmarks that differ from what is recorded of them.")
    scalar_rm: str | None = helped(None, "Scalar reward model to compare with, by path or Hub id.")
    pairwise_rm: str | None = helped(None, "Pairwise reward model to compare with.")
    semi_scalar_rm: list[str] | None = helped(None, "Semi-scalar reward model to compare with: a critic and its head.")
    llm_judge: str | None = helped(None, "Model that selects the best response, by majority, to compare with.")
    meta_judge: str | None = helped(
        None,
        "Model, or URL of its server, that says by majority of 3 whether the reason of a right critique is sound.",
    )
    token_prob: bool = helped(False, "Weigh the llm_judge's votes by the probability of their token.")
    baselines: bool = helped(True, "Compare with baselines that read no content.")
    compare_with: list[str] | None = helped(None, "Output folders of other judges' runs, to show and to test against.")
    k: list[int] = field(
        default_factory=lambda: [8],
        metadata={
            "help": "Numbers of votes, all read from one sampling run at the largest; a single number stands for "
            "every power of two up to it."
        },
    )
    greedy: bool = helped(False, "Judge once more, greedily.")
    rows_per_shard: int = helped(16, "Rows written at once.")
    seed: int = helped(0, "Seed of orders, samples and intervals.")
    source: str | None = helped(None, "Adapter for public data in its own schema. Known schemas are recognized.")
    prompt_column: str | None = helped(None, "Column with the prompt, if not query, prompt or messages.")
    invalid_rows: str = helped(
        "error", "drop counts rows that cannot be read, do not fit or are refused, by cause.", ("error", "drop")
    )
    max_rows: int | None = helped(None, "Size of a random sample of each benchmark's items.")
    metric: str = helped("accuracy", "Metric of dataset_name; roc_auc for single responses.", ("accuracy", "roc_auc"))
    group_column: str | None = helped(None, "Column of dataset_name by which results are broken down.")
    stage: str = helped("judge", "Name of the judge in tables and figures.")
    write_card: bool = helped(True, "Write the results into the card (README.md) of a judge that is a local folder.")
    results_hub_repo: str | None = helped(None, "Model repository of the judge, whose card gets the results.")
    hub_token: str | None = helped(None, "Access token. Default: that of the login.", repr=False)

    def __post_init__(self) -> None:
        self.k = sorted({self.k} if isinstance(self.k, int) else {*self.k})
        if not self.k or self.k[0] < 1:
            raise ValueError(f"Found k={self.k}; expected numbers of votes from 1 on.")
        if self.semi_scalar_rm is not None and len(self.semi_scalar_rm) != 2:
            raise ValueError(f"Found semi_scalar_rm={self.semi_scalar_rm}; expected a critic and its head.")
        for name in (benchmark.partition("=")[0] for benchmark in self.benchmarks or ()):
            if name not in BENCHMARKS:
                raise ValueError(f"Found the benchmark {name!r}; expected one of {', '.join(sorted(BENCHMARKS))}.")


class Evaluation:
    """One run: the evaluated items, the judges, and the results."""

    def __init__(self, script_args, judge_args, model_args, dataset_args):
        self.args, self.judge_args, self.model_args = script_args, judge_args, model_args
        # Without `cpu` each of several processes on a machine without a GPU would be a main process of its own.
        # Processes wait for each other's last shard, which may take longer than a collective usually does.
        self.state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
        index, count = self.state.process_index, self.state.num_processes
        self.processes = {"process_index": index, "num_processes": count, "wait": self.state.wait_for_everyone}
        self.output = Path(script_args.output_dir)
        self.loaded = load_items(script_args, dataset_args)
        self.others = read_others(script_args, self.loaded)
        self.results = []
        self.report = {
            "judge": script_args.stage,
            "processes": self.state.num_processes,
            "items": {name: items.facts for name, items in self.loaded.items()},
        }
        default = VOTING_TEMPERATURE if max(script_args.k) > 1 else 0.0
        self.temperature = default if judge_args.temperature is None else judge_args.temperature

    def folder(self, folder: str, name: str) -> Path:
        """The folder of the judgments of one benchmark."""
        return self.output / folder / ("" if name == ROWS else name)

    def judged(self, judge, folder: str, name: str, rows_per_shard: int | None = None):
        """Judgments of one benchmark by one judge, resumed from `folder`."""
        judgments = judge_benchmark(
            judge,
            self.loaded[name],
            self.folder(folder, name),
            invalid_rows=self.args.invalid_rows,
            rows_per_shard=rows_per_shard or self.args.rows_per_shard,
            progress=None if folder.startswith("baselines") else f"{folder}: {name}",
            **self.processes,
        )
        if folder not in ("judgments", "greedy") and self.state.is_main_process:
            cost = stored_cost(self.folder(folder, name))
            read = {**diagnose(judgments), "cost": cost and cost.report()}
            self.report.setdefault("baselines", {}).setdefault(name, {})[folder] = read
        return judgments

    def add(self, name: str, judgments, stage: str, **described) -> None:
        if self.state.is_main_process:
            several = len(self.args.k) > 1 and len(judgments[0].critiques) == max(self.args.k)
            ks, seed = self.args.k if several else None, self.args.seed
            self.results += benchmark_results(self.loaded[name], judgments, ks, seed=seed, stage=stage, **described)

    def compare_baselines(self) -> None:
        for blind in CONTENT_BLIND if self.args.baselines else ():
            for name, items in self.loaded.items():
                judge = ContentBlindJudge(blind, self.args.seed, items.benchmark.binary)
                self.add(name, self.judged(judge, f"baselines/{blind}", name, 4096), blind, baseline=True)

    def compare_reward_models(self) -> None:
        """Reward models that write nothing, which do not scale, and semi-scalar ones, with the judge's votes."""
        args, options = self.args, {"device": self.state.device, "dtype": self.model_args.dtype}
        sampling = {"k": max(args.k), "seed": args.seed, "temperature": self.temperature}
        sampling["max_new_tokens"] = self.judge_args.max_new_tokens
        for kind, load in {
            "scalar_rm": ScalarJudge,
            "pairwise_rm": PairwiseJudge,
            "semi_scalar_rm": SemiScalarJudge,
        }.items():
            if (paths := getattr(args, kind)) is None:
                continue
            paths, scales = [paths] if isinstance(paths, str) else paths, kind == "semi_scalar_rm"
            judge = load.from_pretrained(*paths, **options, **(sampling if scales else {}))
            described = {"temperature": self.temperature} if scales else {"baseline": True}
            for name in self.loaded:
                if kind != "pairwise_rm" or not self.has_singles(name):
                    self.add(name, self.judged(judge, kind, name), Path(paths[-1]).name, **described)

    def has_singles(self, name: str) -> bool:
        """Whether a row has a single response, which leaves nothing to compare."""
        return any(len(row) == 1 for item in self.loaded[name].items for row in item.rows)

    def judge(self) -> None:
        """Evaluates the judge with k votes per row, and with one greedy critique if asked for."""
        most = max(self.args.k)
        pipe = load_judge(self.judge_args, self.model_args, self.state.device)
        meta_judge = self.load_meta_judge()
        guidance = None  # applied to stored judgments, which are the same for every guidance
        if pipe.meta_rm is not None:
            guidance = Guidance.of(getattr(pipe.meta_rm.config, "meta_rm", None), **self.judge_args.guidance)
        guided = {"guidance": guidance} if guidance is not None and not guidance.plain else {"guided": False}
        runs = [("judgments", most, self.temperature)]
        if self.args.greedy and (most, self.temperature) != (1, 0.0):
            runs.insert(0, ("greedy", 1, 0.0))
        for name, items in self.loaded.items():
            for folder, k, temperature in runs:
                options = self.options(items.benchmark, temperature)
                judge = PipelineJudge(pipe, k, self.judge_args.batch_size, binary=items.benchmark.binary, **options)
                judgments = self.judged(judge, folder, name)
                modes = {"guided": False} if temperature == 0 and k == 1 else guided
                self.add(name, judgments, self.args.stage, temperature=temperature, **modes)
            protocol = {**judge.protocol, "guidance": None if guidance is None else str(guidance)}
            self.report.setdefault("protocol", {})[name] = protocol
            rows = [row for item in items.items for row in item.rows]
            read = {}
            if meta_judge is not None and not items.benchmark.private:  # whose critiques are hashes
                judged = meta_judged(judgments, rows, meta_judge, self.folder("meta_judge", name), **self.processes)
                read["meta_judged"] = fidelity(judged)
            if self.state.is_main_process:
                self.report.setdefault("diagnosis", {})[name] = {**diagnose(judgments, rows), **read}
                if (cost := stored_cost(*(self.folder(folder, name) for folder, *_ in runs))) is not None:
                    self.report["diagnosis"][name]["cost"] = cost.report(self.judge_args.prices)
                self.compare(name, judgments, guided.get("guidance"))

    def load_meta_judge(self) -> PipelineJudge | None:
        if (path := self.args.meta_judge) is None:
            return None
        url, name = (path, None) if "://" in path else (None, path)
        judge_args = JudgeArguments(base_url=url, api_key=self.judge_args.api_key, meta_rm="none")
        model_args = replace(self.model_args, model_name_or_path=name, model_revision="main")
        return PipelineJudge(load_judge(judge_args, model_args, self.state.device), 3, seed=self.args.seed)

    def compare_llm_judge(self) -> None:
        if self.args.llm_judge is None:
            return
        pipe = load_pipeline(self.args.llm_judge, self.model_args, self.state.device)
        stage = "LLM-as-a-judge" + ", TokenProb" * self.args.token_prob
        for name, items in self.loaded.items():
            if not self.has_singles(name):
                options = self.options(items.benchmark, self.temperature, "order", "max_new_tokens")
                judge = ChoiceJudge(pipe, max(self.args.k), token_prob=self.args.token_prob, **options)
                self.add(name, self.judged(judge, "llm_judge", name), stage, temperature=self.temperature)

    def options(self, benchmark, temperature: float, *names: str) -> dict:
        options = {"seed": self.args.seed, **self.judge_args.options(*names), "temperature": temperature}
        return {**options, "order": benchmark.order} if benchmark.order else options

    def compare(self, name: str, judgments, guidance) -> None:
        """Paired tests: guided against plain voting, and the judge against others on the same rows."""
        loaded, seed, most = self.loaded[name], self.args.seed, len(judgments[0].critiques)
        comparisons = {}
        if guidance is not None and most > 1:
            test = compare_judges(loaded, judgments, judgments, most, (None, guidance), seed)
            comparisons["plain voting"] = {"k": most, **test}
        for label, other in self.others.items():
            others = read_judgments(other.folder / "judgments" / ("" if name == ROWS else name))
            votes = min(most, len(others[0].critiques))
            test = compare_judges(loaded, others, judgments, votes, seed=seed)
            comparisons[label] = {"k": votes, **test}
        if comparisons:
            self.report.setdefault("comparison", {})[name] = comparisons

    def write(self) -> None:
        for label, other in self.others.items():
            names = {items.benchmark.name for items in self.loaded.values()}
            self.results += [{**r, "stage": label} for r in other.own_results if r["benchmark"] in names]
        write_json(self.output / "results.json", self.results)
        write_json(self.output / "report.json", self.report)
        written = reports.read_evaluation(self.output)
        tables = [reports.markdown_table(self.results)]
        if written.bias_table:
            tables.append(f"## Diagnosis\n\n{written.bias_table}")
        for name, items in self.loaded.items():
            results = [result for result in self.results if result["benchmark"] == items.benchmark.name]
            if len(results[0]["values"]) > 1:
                tables.append(f"## {items.benchmark.name}\n\n{reports.breakdown_table(results)}")
            self.show(name, results)
        (self.output / "table.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
        means = reports.mean_results(self.results)
        if not all(result.get("baseline") for result in means):
            reports.plot_scaling(means, self.output / "scaling.png")
        index = eval_results_to_model_index(self.args.stage, written.eval_results)
        write_json(self.output / "model-index.json", index)
        self.publish()

    def publish(self) -> None:
        """Writes the results into the judge's card, in its folder and on the Hub."""
        args, judge = self.args, self.model_args.model_name_or_path
        local = args.write_card and judge is not None and Path(judge).is_dir()
        if local and write_results(judge, self.output):
            card = Path(judge) / "README.md"
            Console().print(f"Wrote the results into {card}; `--write_card false` leaves it unchanged", soft_wrap=True)
        if args.results_hub_repo:
            push_or_exit(lambda: push_results(args.results_hub_repo, self.output, args.hub_token))

    def show(self, name: str, results: list) -> None:
        """Prints the results of one benchmark."""
        console = Console()
        console.print(reports.results_table(results, results[0]["benchmark"]))
        if diagnosis := self.report.get("diagnosis", {}).get(name):
            console.print("\n".join(report_lines(diagnosis)), highlight=False)
        for label, test in self.report.get("comparison", {}).get(name, {}).items():
            points = {
                name: f"{100 * test[name]:+.1f}" for name in ("difference", "low", "high") if test[name] is not None
            }
            text = test.get("undefined") or "{difference} points ({low} to {high}), at k = {k}"
            console.print(f"against {label}: {text.format_map({**test, **points})}", highlight=False)


def read_others(script_args, loaded: dict) -> dict:
    """Evaluations of other judges on the same rows, by the judges' names."""
    others = {}
    for folder in script_args.compare_with or ():
        other = reports.read_evaluation(folder)
        for name, items in loaded.items():
            digest = other.report["items"].get(name, {}).get("digest")
            if digest != items.facts["digest"] or name not in other.report["protocol"]:
                raise ValueError(
                    f"{folder} has {'judged other rows' if digest else 'no judgments'} of {name}; expected those of "
                    "the same rows. Repeat that evaluation on them, or remove it from `compare_with`."
                )
        taken = {*others, script_args.stage}
        judge = other.report["judge"]
        label = judge if judge not in taken else f"{judge} ({Path(folder).resolve().name})"
        if label in taken:
            raise ValueError(f"Found two judges named {label!r} in `compare_with`; expected distinct names (`stage`).")
        others[label] = other
    return others


def load_items(script_args, dataset_args) -> dict:
    """The evaluated items by name, read and checked before any model is loaded."""
    args, loaded = script_args, {}
    for name, _, path in (benchmark.partition("=") for benchmark in args.benchmarks or ()):
        loaded[name] = load_benchmark(name, path or None, check=not args.allow_changed)
    if args.dataset_name or dataset_args.datasets or not loaded:
        if args.dataset_name and not dataset_args.datasets and not args.dataset_streaming:
            splits = load_splits(args.dataset_name, args.dataset_config)
        else:
            options = (args.source, args.invalid_rows, args.seed)
            splits = load_preferences(args, dataset_args, *options, prompt_column=args.prompt_column)
        rows = splits[args.dataset_test_split if args.dataset_test_split in splits else "train"]
        name = Path(args.dataset_name or ROWS).name
        benchmark = rows_benchmark(name, args.metric)
        source = None if dataset_args.datasets else args.source
        reading = (source, args.invalid_rows, args.group_column, name, args.prompt_column)
        loaded[ROWS] = load_rows(benchmark, rows, *reading)
    return {name: items.sampled(args.max_rows, args.seed) for name, items in loaded.items()}


def main(script_args, judge_args, model_args, dataset_args):
    evaluation = Evaluation(script_args, judge_args, model_args, dataset_args)
    if model_args.model_name_or_path is not None or judge_args.base_url is not None:
        evaluation.judge()
    evaluation.compare_llm_judge()
    evaluation.compare_reward_models()
    evaluation.compare_baselines()
    if evaluation.state.is_main_process:
        evaluation.write()


def make_parser():
    return inference_parser(EvaluationArguments, JudgeArguments, ModelConfig, DatasetMixtureConfig)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
