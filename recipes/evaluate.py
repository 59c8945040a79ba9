# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
How good a judge is, on the paper's benchmarks or on labeled rows, and what more votes buy: the benchmarks' own metrics
over k, plain and guided by a Meta RM, beside judges that read nothing.

accelerate launch recipes/evaluate.py \
    --model_name_or_path judge-spct --meta_rm judge-meta-rm \
    --benchmarks rewardbench ppe-preference ppe-correctness rmb=RMB_dataset --k 32 --greedy --output_dir judge-results

Labeled rows of one's own come as `--dataset_name rows.jsonl` instead. Without a model only the judges that read
nothing are shown. A judge on a server, here of `vllm serve judge-spct`:

    --base_url http://localhost:8000 --tokenizer_name_or_path judge-spct --template paper

Writes `judgments/` (every critique), `results.json`, `report.json` (protocol, and what hides in an accuracy),
`table.md`, `model-index.json` (for a card), `scaling.png` and `cost.png`, and prints the tables. A run that was killed
goes on where it stopped. `--compare_with judge-rft-results …` puts other judges, evaluated before, into the tables and
figures, and tests the difference, paired by items.
"""

import argparse
import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from trl import ScriptArguments


@dataclass
class EvaluationArguments(ScriptArguments):
    """
    Arguments for evaluating a judge.

    Args:
        output_dir (`str`): Where judgments and results go. A folder with the same run is resumed.
        benchmarks (`list[str]`, *optional*): Benchmarks, each a name or `name=path/of/a/local/copy`.
        allow_changed (`bool`, *optional*): Accept benchmarks that are not what is recorded of them.
        meta_rm (`str`, *optional*): A Meta RM, by path or Hub id; the judge's own by default, if it has one.
        k_meta (`str`, *optional*):
            Critiques that vote where the Meta RM guides: how many (`8`), or which share (`0.5`, the paper's). As
            stored with the Meta RM by default; if that is plain voting, there are no guided results.
        guide (`str`, *optional*): `"top"` or `"soft"`, see the pipeline; as stored with the Meta RM by default.
        scalar_rm (`str`, *optional*): A scalar reward model to compare with, by path or Hub id.
        llm_judge (`str`, *optional*): A model that selects the best response, by majority, to compare with.
        baselines (`bool`, *optional*, defaults to `True`): Compare with judges that read nothing.
        compare_with (`list[str]`, *optional*): Output folders of other judges' runs, to show and to test against.
        contamination_dataset (`str`, *optional*): Training rows that are searched for in what is judged.
        base_url (`str`, *optional*):
            Address of a vLLM server, or of another OpenAI-compatible one, that has the judge; `model_name_or_path` is
            its name there, and may be left out where the server has only one. If it wants a key, this is read from
            the environment variable `OPENAI_API_KEY`.
        tokenizer_name_or_path (`str`, *optional*):
            Tokenizer of the judge on the server. With it prompts are sent as token ids and hostile text stays text.
        dialect (`str`, *optional*, defaults to `"vllm"`): `"openai"` for servers other than vLLM.
        k (`list[int]`, *optional*, defaults to `[8]`):
            Votes for which results are given, all from one sampling run at the most; of one number, every power of
            two up to it.
        greedy (`bool`, *optional*): Judge once more, greedily, beside the votes.
        temperature (`float`, *optional*): 0.5 for k > 1 and greedy for k = 1 by default (paper, section 6).
        max_new_tokens (`int`, *optional*): Longest critique in tokens; see the pipeline.
        template (`str`, *optional*): Prompt template; the one that the judge's configuration names by default.
        order (`str`, *optional*): In which order responses are read, see the pipeline.
        truncation (`str`, *optional*): `"fair"` cuts rows that do not fit into the judge's context.
        batch_size (`int`, *optional*): Rows whose k critiques are decoded together; 256 critiques in all by default.
        rows_per_shard (`int`, *optional*, defaults to `16`): Rows judged together and written at once.
        seed (`int`, *optional*, defaults to `0`): Of orders, samples and intervals.
        source (`str`, *optional*): Adapter for public data in its own schema; known schemas are recognized.
        invalid_rows (`str`, *optional*, defaults to `"error"`): `"drop"` counts rows that cannot be used.
        max_rows (`int`, *optional*): Judge a random sample of so many items of each benchmark.
        metric (`str`, *optional*, defaults to `"accuracy"`): For `dataset_name`; `"roc_auc"` for single responses.
        group_column (`str`, *optional*): The column of `dataset_name` by which results are broken down.
        stage (`str`, *optional*, defaults to `"judge"`): Name of the judge in table and figure.
        write_card (`bool`, *optional*, defaults to `True`):
            Write the results into the card of a judge that is a folder, in place of those of the same benchmarks.
        results_hub_repo (`str`, *optional*): Model repository, the judge's, whose card gets the results.
        judgments_hub_repo (`str`, *optional*): Dataset repository to push judgments and results to, with their card.
        hub_private_repo (`bool`, *optional*): Whether a new repository is private.
        hub_token (`str`, *optional*): The one that is logged in with by default.
    """

    output_dir: str = field(default="evaluation", metadata={"help": "Where judgments and results go."})
    benchmarks: list[str] | None = field(default=None, metadata={"help": "Benchmarks, each a name or name=path."})
    allow_changed: bool = field(default=False, metadata={"help": "Accept benchmarks that are not as recorded."})
    meta_rm: str | None = field(default=None, metadata={"help": "A Meta RM, by path or Hub id."})
    k_meta: str | None = field(default=None, metadata={"help": "Critiques that vote if guided: a number or a share."})
    guide: str | None = field(default=None, metadata={"help": "How the Meta RM guides.", "choices": ["top", "soft"]})
    scalar_rm: str | None = field(default=None, metadata={"help": "A scalar reward model to compare with."})
    llm_judge: str | None = field(default=None, metadata={"help": "A model that selects the best response."})
    baselines: bool = field(default=True, metadata={"help": "Compare with judges that read nothing."})
    compare_with: list[str] | None = field(default=None, metadata={"help": "Output folders of other judges' runs."})
    contamination_dataset: str | None = field(default=None, metadata={"help": "Training rows to search for."})
    base_url: str | None = field(default=None, metadata={"help": "Address of a server that has the judge."})
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer of the judge on the server, to send token ids."}
    )
    dialect: str = field(default="vllm", metadata={"help": "What the server speaks.", "choices": ["vllm", "openai"]})
    k: list[int] = field(
        default_factory=lambda: [8], metadata={"help": "Votes; of one number, every power of two up to it."}
    )
    greedy: bool = field(default=False, metadata={"help": "Judge once more, greedily, beside the votes."})
    temperature: float | None = field(default=None, metadata={"help": "0.5 for k > 1, greedy for k = 1 by default."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Longest critique in tokens."})
    template: str | None = field(default=None, metadata={"help": "Prompt template."})
    order: str | None = field(default=None, metadata={"help": "In which order responses are read."})
    truncation: str | None = field(default=None, metadata={"help": "'fair' cuts rows that are too long."})
    batch_size: int | None = field(default=None, metadata={"help": "Rows whose critiques are decoded together."})
    rows_per_shard: int = field(default=16, metadata={"help": "Rows judged together and written at once."})
    seed: int = field(default=0, metadata={"help": "Of orders, samples and intervals."})
    source: str | None = field(default=None, metadata={"help": "Adapter for public data in its own schema."})
    invalid_rows: str = field(
        default="error", metadata={"help": "What happens to unusable rows.", "choices": ["error", "drop"]}
    )
    max_rows: int | None = field(default=None, metadata={"help": "Judge a random sample of so many items."})
    metric: str = field(
        default="accuracy", metadata={"help": "The metric of dataset_name.", "choices": ["accuracy", "roc_auc"]}
    )
    group_column: str | None = field(default=None, metadata={"help": "Column by which results are broken down."})
    stage: str = field(default="judge", metadata={"help": "Name of the judge in table and figure."})
    write_card: bool = field(default=True, metadata={"help": "Write the results into the judge's card."})
    results_hub_repo: str | None = field(default=None, metadata={"help": "The judge's repository, for its card."})
    judgments_hub_repo: str | None = field(default=None, metadata={"help": "Dataset repository to push to."})
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Whether a new repository is private."})
    hub_token: str | None = field(default=None, metadata={"help": "The one that is logged in with by default."})

    def __post_init__(self):
        self.k = sorted({self.k} if isinstance(self.k, int) else {*self.k})
        if not self.k or self.k[0] < 1:
            raise ValueError(f"Found k={self.k}; expected numbers of votes from 1 on.")
        if isinstance(self.k_meta, str):
            self.k_meta = int(self.k_meta) if self.k_meta.isdigit() else float(self.k_meta)
        if self.k_meta is not None or self.guide is not None:
            from trl_spct.judge.voting import Guidance

            Guidance.of(None, self.k_meta, self.guide)  # refused before anything is judged


class Evaluation:
    """One run: what is judged, by whom, and what came of it."""

    def __init__(self, script_args, model_args, dataset_args):
        import torch
        from accelerate import PartialState

        self.args, self.model_args = script_args, model_args
        # Without `cpu` several processes on a machine without a GPU would each take themselves for the only one. They
        # wait for each other's last shard, which may take longer than a collective usually does.
        self.state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
        self.output = Path(script_args.output_dir)
        self.loaded = load_items(script_args, dataset_args)
        self.others = read_others(script_args, self.loaded)
        self.results = []
        self.report = {
            "judge": script_args.stage,
            "processes": self.state.num_processes,
            "items": {name: found.facts for name, found in self.loaded.items()},
        }

    def judged(self, judge, folder: str, name: str, rows_per_shard: int | None = None):
        """A judge's judgments of one benchmark; read, where they are there already."""
        from trl_spct.evaluation.benchmark_results import judge_benchmark

        return judge_benchmark(
            judge,
            self.loaded[name],
            self.output / folder / ("" if name == ROWS else name),
            rows_per_shard=rows_per_shard or self.args.rows_per_shard,
            progress=None if folder.startswith("baselines") else f"{folder}: {name}",
            process_index=self.state.process_index,
            num_processes=self.state.num_processes,
            wait=self.state.wait_for_everyone,
        )

    def add(self, name: str, judgments, stage: str, **described) -> None:
        from trl_spct.evaluation.benchmark_results import benchmark_results

        if not self.state.is_main_process:
            return
        several = len(self.args.k) > 1 and len(judgments[0].scores) == max(self.args.k)
        self.results += benchmark_results(
            self.loaded[name],
            judgments,
            self.args.k if several else None,
            seed=self.args.seed,
            stage=stage,
            **described,
        )

    def compare_baselines(self) -> None:
        from trl_spct.evaluation.baselines import CONTENT_BLIND, ContentBlindJudge

        for blind in CONTENT_BLIND if self.args.baselines else ():
            for name, found in self.loaded.items():
                judge = ContentBlindJudge(blind, self.args.seed, found.benchmark.binary)
                judgments = self.judged(judge, f"baselines/{blind}", name, 4096)
                self.add(name, judgments, blind, baseline=True)

    def compare_scalar_rm(self) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from trl_spct.evaluation.baselines import ScalarJudge

        path = self.args.scalar_rm
        if path is None:
            return
        model = AutoModelForSequenceClassification.from_pretrained(path, dtype=self.model_args.dtype)
        judge = ScalarJudge(model.to(self.state.device), AutoTokenizer.from_pretrained(path))
        for name in self.loaded:
            self.add(name, self.judged(judge, "scalar_rm", name), Path(path).name, baseline=True)

    def judge(self) -> None:
        """The judge itself: k votes of each row, and one greedy critique if asked for."""
        from trl_spct.evaluation.judgments import PipelineJudge

        most = max(self.args.k)
        model, revision = self.model_args.model_name_or_path, self.model_args.model_revision
        pipe = self.served() or self.pipeline(model, self.args.meta_rm or "auto", revision)
        guidance = self.guidance(pipe)
        guided = {"guidance": guidance} if guidance is not None and not guidance.plain else {"guided": False}
        runs = [("judgments", most, self.temperature)]
        if self.args.greedy and (most, self.temperature) != (1, 0.0):
            runs.insert(0, ("greedy", 1, 0.0))
        for name, found in self.loaded.items():
            for folder, k, temperature in runs:
                options = self.options(found.benchmark, temperature)
                judge = PipelineJudge(pipe, k, self.args.batch_size, binary=found.benchmark.binary, **options)
                judgments = self.judged(judge, folder, name)
                modes = {"guided": False} if temperature == 0 and k == 1 else guided
                self.add(name, judgments, self.args.stage, temperature=temperature, **modes)
            protocol = {**judge.protocol, "guidance": None if guidance is None else str(guidance)}
            self.report.setdefault("protocol", {})[name] = protocol
            if self.state.is_main_process:
                self.diagnose(name, judgments)
                self.compare(name, judgments, guided.get("guidance"))

    def guidance(self, pipe):
        """How the Meta RM guides; a way of reading the judgments, which are the same for all of them."""
        from trl_spct.judge.voting import Guidance

        if pipe.meta_rm is None:
            return None
        return Guidance.of(getattr(pipe.meta_rm.config, "meta_rm", None), self.args.k_meta, self.args.guide)

    def compare_llm_judge(self) -> None:
        from trl_spct.evaluation.baselines import ChoiceJudge

        if self.args.llm_judge is None:
            return
        pipe = self.pipeline(self.args.llm_judge)
        for name, found in self.loaded.items():
            if any(len(row) == 1 for item in found.items for row in item.rows):
                continue  # there is nothing to select from
            options = self.options(found.benchmark, self.temperature, ("order", "max_new_tokens"))
            judge = ChoiceJudge(pipe, max(self.args.k), **options)
            self.add(name, self.judged(judge, "llm_judge", name), "LLM-as-a-judge", temperature=self.temperature)

    def served(self):
        """The judge on a server, if one is named."""
        from transformers import AutoTokenizer

        from trl_spct import GRMRewardPipeline, OpenAIEngine

        args = self.args
        if args.base_url is None:
            return None
        engine = OpenAIEngine(
            self.model_args.model_name_or_path,
            args.base_url,
            api_key=os.environ.get("OPENAI_API_KEY"),
            tokenizer=args.tokenizer_name_or_path and AutoTokenizer.from_pretrained(args.tokenizer_name_or_path),
            dialect=args.dialect,
        )
        return GRMRewardPipeline(engine, meta_rm=args.meta_rm, device=self.state.device)

    def pipeline(self, model: str, meta_rm: str | None = None, revision: str | None = None):
        from transformers import pipeline
        from trl import get_quantization_config

        import trl_spct  # noqa: F401  registers the pipeline

        quantization = get_quantization_config(self.model_args)
        return pipeline(
            "grm-reward",
            model=model,
            revision=revision,
            meta_rm=meta_rm,
            dtype=self.model_args.dtype,
            device=self.state.device if quantization is None else None,
            device_map=None if quantization is None else {"": self.state.device},
            model_kwargs={
                "attn_implementation": self.model_args.attn_implementation,
                **({} if quantization is None else {"quantization_config": quantization}),
            },
        )

    @property
    def temperature(self) -> float:
        from trl_spct.judge.voting import VOTING_TEMPERATURE

        if self.args.temperature is not None:
            return self.args.temperature
        return VOTING_TEMPERATURE if max(self.args.k) > 1 else 0.0

    def options(self, benchmark, temperature: float, names=("order", "max_new_tokens", "template", "truncation")):
        asked = {name: getattr(self.args, name) for name in names}
        asked["order"] = benchmark.order or asked["order"]
        given = {name: value for name, value in asked.items() if value is not None}
        return {"seed": self.args.seed, "temperature": temperature, **given}

    def diagnose(self, name: str, judgments) -> None:
        from trl_spct.evaluation.diagnostics import diagnose_groups

        found = diagnose_groups(self.loaded[name], judgments)
        self.report.setdefault("diagnosis", {})[name] = found

    def compare(self, name: str, judgments, guidance) -> None:
        """Paired tests: guided against plain voting, and against the judgments of the same rows by other judges."""
        from trl_spct.evaluation.benchmark_results import compare_judges
        from trl_spct.evaluation.judgments import read_judgments

        loaded, most = self.loaded[name], len(judgments[0].scores)
        found = {}
        if guidance is not None and most > 1:
            ways = (False, guidance)
            tested = compare_judges(loaded, judgments, judgments, most, ways, self.args.seed)
            found["plain voting"] = {"k": most, **tested}
        for label, other in self.others.items():
            theirs = read_judgments(other.folder / "judgments" / ("" if name == ROWS else name))
            votes = min(most, len(theirs[0].scores))
            found[label] = {"k": votes, **compare_judges(loaded, theirs, judgments, votes, seed=self.args.seed)}
        if found:
            self.report.setdefault("comparison", {})[name] = found

    def check_contamination(self) -> None:
        from dataclasses import asdict

        from trl_spct.data.loading import load_named
        from trl_spct.data.preparation import prepare_preferences
        from trl_spct.evaluation.contamination import find_overlaps

        name = self.args.contamination_dataset
        if name is None:
            return
        train = load_named(name)["train"]
        rows = prepare_preferences(train, None, "drop", "contamination_dataset", require_labels=False)
        for benchmark, found in self.loaded.items():
            overlaps = [asdict(overlap) for overlap in find_overlaps(rows.dataset, found.items)]
            for overlap in overlaps:
                overlap["row"] = rows.row_numbers[overlap["row"]]
            self.report.setdefault("contamination", {})[benchmark] = {
                "training_rows": rows.num_read,
                "items": len({overlap["item"] for overlap in overlaps}),
                "overlaps": overlaps,
            }

    def write(self) -> None:
        from huggingface_hub.repocard_data import eval_results_to_model_index

        from trl_spct.evaluation.reports import breakdown_table, markdown_table, mean_results, read_evaluation
        from trl_spct.jobs import write_json

        for label, other in self.others.items():
            names = {found.benchmark.name for found in self.loaded.values()}
            self.results += [{**r, "stage": label} for r in other.own_results if r["benchmark"] in names]
        write_json(self.output / "results.json", self.results)
        write_json(self.output / "report.json", self.report)
        written = read_evaluation(self.output)
        tables = [markdown_table(self.results)]
        if written.diagnosis:
            tables.append(f"## What hides in these numbers\n\n{written.bias_table}")
        for name, own in self.by_benchmark():
            if len(own[0]["values"]) > 1:
                tables.append(f"## {own[0]['benchmark']}\n\n{breakdown_table(own)}")
            self.show(name, own)
        (self.output / "table.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
        self.plot(mean_results(self.results))
        index = eval_results_to_model_index(self.args.stage, written.eval_results)
        write_json(self.output / "model-index.json", index)
        self.publish()

    def publish(self) -> None:
        """Into the judge's card, in its folder and on the Hub, and the judgments to the Hub."""
        from trl_spct.data.loading import push_or_exit
        from trl_spct.evaluation.judgment_sets import push_judgments
        from trl_spct.evaluation.result_cards import push_results, write_results

        args, judge = self.args, self.model_args.model_name_or_path
        if args.write_card and judge is not None and Path(judge).is_dir():
            write_results(judge, self.output)
        pushes = []
        if args.results_hub_repo:
            pushes.append(lambda: push_results(args.results_hub_repo, self.output, args.hub_token))
        if args.judgments_hub_repo:
            where = (args.judgments_hub_repo, args.hub_private_repo, args.hub_token)
            pushes.append(lambda: push_judgments(self.output, *where))
        push_or_exit(*pushes)

    def plot(self, means: list) -> None:
        from trl_spct.evaluation.reports import plot_scaling

        if all(result.get("baseline") for result in means):
            return
        plot_scaling(means, self.output / "scaling.png")
        written = [result for result in means if result.get("baseline") or result["tokens"] > 0]
        plot_scaling(written, self.output / "cost.png", against="tokens")

    def by_benchmark(self) -> list:
        names = {name: found.benchmark.name for name, found in self.loaded.items()}
        return [
            (key, [result for result in self.results if result["benchmark"] == name]) for key, name in names.items()
        ]

    def show(self, name: str, results: list) -> None:
        """What a terminal shows of one benchmark."""
        from rich.console import Console

        from trl_spct.evaluation.diagnostics import report_lines
        from trl_spct.evaluation.reports import results_table

        console = Console()
        console.print(results_table(results, results[0]["benchmark"]))
        told = {part: self.report.get(part, {}).get(name) for part in ("diagnosis", "comparison", "contamination")}
        if told["diagnosis"]:
            console.print("\n".join(report_lines(told["diagnosis"]["all"])), highlight=False)
        for label, found in (told["comparison"] or {}).items():
            console.print(f"against {label}: {_difference(found)}", highlight=False)
        if told["contamination"]:
            console.print(f"items with a near duplicate among the training rows: {told['contamination']['items']}")


def _difference(found: dict) -> str:
    if "undefined" in found:
        return found["undefined"]
    points = {part: f"{100 * found[part]:+.1f}" for part in ("difference", "low", "high")}
    return "{difference} points ({low} to {high}), p = {p:.4f}, at k = {k}".format(**{**found, **points})


ROWS = "rows"
"""What is judged if it comes as `dataset_name`; its judgments are not in a folder of their own."""


def read_others(script_args, loaded: dict) -> dict:
    """The other judges' evaluations, by what they are called here; they must have judged the same rows."""
    from trl_spct.evaluation.reports import read_evaluation

    found = {}
    for folder in script_args.compare_with or ():
        other = read_evaluation(folder)
        for name, items in loaded.items():
            digest = other.report["items"].get(name, {}).get("digest")
            if digest != items.facts["digest"] or name not in other.protocol:
                raise ValueError(
                    f"{folder} has {'judged other rows' if digest else 'no judgments'} of {name}; expected those of "
                    "the same rows. Repeat that evaluation on them, or leave it out of `compare_with`."
                )
        taken = {*found, script_args.stage}
        label = other.judge if other.judge not in taken else f"{other.judge} ({Path(folder).resolve().name})"
        if label in taken:
            raise ValueError(f"Found two judges called {label!r} in `compare_with`; expected names (`stage`).")
        found[label] = other
    return found


def load_items(script_args, dataset_args) -> dict:
    """What is judged, by name, read and checked before any model is loaded."""
    from trl_spct.data.loading import load_preferences
    from trl_spct.evaluation.benchmark_loading import load_benchmark, load_rows
    from trl_spct.evaluation.benchmarks import rows_benchmark

    found = {}
    for name, _, path in (benchmark.partition("=") for benchmark in script_args.benchmarks or ()):
        found[name] = load_benchmark(name, path or None, check=not script_args.allow_changed)
    if script_args.dataset_name or dataset_args.datasets or not found:
        loaded = load_preferences(
            script_args, dataset_args, script_args.source, script_args.invalid_rows, script_args.seed
        )
        rows = loaded[script_args.dataset_test_split if script_args.dataset_test_split in loaded else "train"]
        name = Path(script_args.dataset_name or ROWS).name
        benchmark = rows_benchmark(name, script_args.metric)
        found[ROWS] = load_rows(benchmark, rows, group_column=script_args.group_column, where=name)
    return {name: items.sampled(script_args.max_rows, script_args.seed) for name, items in found.items()}


def main(script_args, model_args, dataset_args):
    evaluation = Evaluation(script_args, model_args, dataset_args)
    if evaluation.state.is_main_process:
        evaluation.check_contamination()
    if model_args.model_name_or_path is not None or script_args.base_url is not None:
        evaluation.judge()
    evaluation.compare_llm_judge()
    evaluation.compare_scalar_rm()
    evaluation.compare_baselines()
    if evaluation.state.is_main_process:
        evaluation.write()


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    from trl import DatasetMixtureConfig, ModelConfig, TrlParser

    dataclass_types = (EvaluationArguments, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("evaluate", help="Evaluate a judge", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
