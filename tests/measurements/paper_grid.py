# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
The paper's comparison in the tiny world: every kind of reward model, each with its own way to use k samples.

python tests/measurements/paper_grid.py --runs outputs/tiny_world --output outputs/paper_grid

`--runs` are finished runs of `tiny_world.py`. From their base judges, and on the rows of their GRM, are trained a
scalar (Bradley-Terry), a pairwise and a semi-scalar reward model and LLM-as-a-Judge (`equal_terms.py`). All judge the
held-out rows; printed are accuracies on rows with two or more responses over votes, with 95 % intervals over rows, the
paired difference to the GRM, and the accuracy with as many tokens as the GRM writes for eight votes. `grid.png` is the
figure. Finished parts are read, not repeated. The same on benchmarks with checkpoints of any size:

    accelerate launch recipes/evaluate.py --model_name_or_path judge-spct --meta_rm judge-meta-rm --k 1 8 32 \
        --scalar_rm RM --pairwise_rm PAIRWISE_RM --semi_scalar_rm CRITIC HEAD \
        --llm_judge google/gemma-2-27b-it --token_prob true --benchmarks rewardbench ppe-correctness
"""

from collections.abc import Callable
from pathlib import Path

from tiny_world import runs_parser

ROOT = Path(__file__).parents[2]

KS = (1, 8, 32)
REFERENCE = "GRM"
BUDGET_VOTES = 8
SINGLE = ("scalar", "pairwise")
COLUMNS = ("approach", "k = 1", "k = 8", "k = 32", "to the GRM, k = 32", "tokens a vote", "at equal tokens (k)")


def judged(run: Path, seed: int, folder: Path, part: int | None = None, votes: int = max(KS)) -> dict[str, list]:
    """Judgments of the held-out rows by approach, `None` for rows that it cannot judge."""
    from equal_terms import CHOICE, EqualTerms
    from tiny.job import Job, _quiet
    from transformers import pipeline

    from trl_spct import Preference
    from trl_spct.evaluation.baselines import PairwiseJudge, ScalarJudge
    from trl_spct.evaluation.judgments import record_judgments
    from trl_spct.evaluation.sampled_judges import ChoiceJudge, SemiScalarJudge

    _quiet()
    job = Job(run, seed, True)
    trained = EqualTerms(job, folder / "models", part)
    rows = [Preference.from_row(row) for row in list(job.rows("held_out"))[:part]]
    several = [row for row in rows if len(row) > 1]
    (folder / "models").mkdir(parents=True, exist_ok=True)
    options = {"seed": seed, "max_new_tokens": 56}

    def choice(token_prob: bool):
        pipe = pipeline("grm-reward", model=str(trained.path("llm_judge")), meta_rm=None, device="cpu")
        return ChoiceJudge(pipe, votes, template=CHOICE, token_prob=token_prob, **options)

    def semi_scalar():
        head = str(trained.path("semi_scalar"))
        return SemiScalarJudge.from_pretrained(job.path("rft"), head, k=votes, binary=True, device="cpu", **options)

    judges: dict[str, tuple[Callable, list]] = {
        "scalar": (lambda: ScalarJudge.from_pretrained(trained.path("scalar")), rows),
        "pairwise": (lambda: PairwiseJudge.from_pretrained(trained.path("pairwise")), several),
        "LLM-as-a-Judge": (lambda: choice(False), several),
        "TokenProb": (lambda: choice(True), several),
        "semi-scalar": (semi_scalar, rows),
    }
    found = {}
    for name, (load, asked) in judges.items():
        judgments = iter(record_judgments(load(), asked, folder / "judgments" / name, rows_per_shard=32))
        found[name] = [next(judgments) if len(row) > 1 or asked is rows else None for row in rows]
    return {**found, **grm(run, len(rows), votes)}


def grm(run: Path, count: int, votes: int) -> dict[str, list]:
    """The judgments of the run itself: after rejective fine-tuning, and after reinforcement learning."""
    from trl_spct.evaluation.judgments import read_judgments

    stages = {"GRM, RFT only": "rft", REFERENCE: "spct"}
    return {
        name: read_judgments(run / "judgments" / f"{stage}-k{votes}-T0.5")[:count] for name, stage in stages.items()
    }


def credits(judgments: list, k: int, guidance=None) -> list[float]:
    """The mean credit of each row with several responses; of one critique if there is only one."""
    from trl_spct.evaluation.judgments import credits_at
    from trl_spct.evaluation.statistics import mean

    several = [j for j in judgments if j is not None and len(j.labels) > 1]
    return [mean(credits_at(j, min(k, len(j.critiques)), guidance)) for j in several]


def tokens(judgments: list) -> float:
    """Mean tokens that a vote on a row writes."""
    counts = [c.num_tokens for j in judgments if j is not None and len(j.labels) > 1 for c in j.critiques]
    return sum(counts) / len(counts)


def single_auc(judgments: list) -> float | None:
    """ROC-AUC of the mean scores of single responses, `None` for approaches that do not score them."""
    from trl_spct.evaluation.judgments import votes_at
    from trl_spct.evaluation.statistics import roc_auc

    single = [j for j in judgments if j is not None and len(j.labels) == 1]
    votes = [votes_at(j, len(j.critiques))[0] for j in single]
    return roc_auc([v[0] if v else 0.5 for v in votes], [j.labels[0] for j in single]) if single else None


def approaches(found: dict[str, list]) -> dict[str, tuple[list, object]]:
    """Judgments and guidance by approach: the Meta RM guides the votes of the GRM."""
    from trl_spct.judge.voting import Guidance

    both = {name: (judgments, None) for name, judgments in found.items()}
    return {**both, "GRM + Meta RM": (found[REFERENCE], Guidance())}


def table(found: dict[str, list], most: int = max(KS)) -> list[str]:
    """The comparison as Markdown."""
    from trl_spct.evaluation.statistics import bootstrap_interval, mean, paired_interval

    ks = [k for k in KS if k <= most]
    budget = BUDGET_VOTES * tokens(found[REFERENCE])
    reference = credits(found[REFERENCE], most)
    columns = (*COLUMNS, "n = 1, ROC-AUC", "unreadable")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, (judgments, guidance) in approaches(found).items():
        accuracies = {k: credits(judgments, k, guidance) for k in ks}
        cells = [_interval(mean(of_k), bootstrap_interval(of_k)) for of_k in accuracies.values()]
        cells += ["–"] * (len(KS) - len(ks))
        if name in SINGLE:
            cells[1:] = ["does not scale"] * (len(cells) - 1)
        gain = paired_interval(reference, credits(judgments, most, guidance))
        cells.append("–" if name == REFERENCE else "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * g for g in gain)))
        written = tokens(judgments)
        fitting = min(most, max(1, int(budget / written))) if written else 1
        cells += [f"{written:.0f}", f"{100 * mean(credits(judgments, fitting, guidance)):.1f} ({fitting})"]
        auc = single_auc(judgments)
        critiques = [c for j in judgments if j is not None for c in j.critiques]
        cells += ["–" if auc is None else f"{auc:.3f}", f"{100 * mean([c.scores is None for c in critiques]):.1f} %"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def token_prob_gain(found: dict[str, list], most: int = max(KS)) -> str:
    """What the weights of TokenProb gain over the majority of the same votes."""
    from trl_spct.evaluation.statistics import paired_interval

    gains = []
    for k in [k for k in (2, *KS[1:]) if k <= most]:
        of_k = paired_interval(credits(found["LLM-as-a-Judge"], k), credits(found["TokenProb"], k))
        gains.append(f"k = {k}: " + "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * value for value in of_k)))
    return f"TokenProb to the majority: {', '.join(gains)}"


def _interval(value: float, bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def results(found: dict[str, list], most: int = max(KS)) -> list[dict]:
    """Results for the figure: what does not scale is a dotted line."""
    from trl_spct.evaluation.statistics import bootstrap_interval, mean

    lines = []
    for name, (judgments, guidance) in approaches(found).items():
        for k in [1] if name in SINGLE else [2**power for power in range(most.bit_length())]:
            of_k = credits(judgments, k, guidance)
            low, high = bootstrap_interval(of_k)
            stage = {
                "stage": REFERENCE if guidance else name,
                "guided": guidance is not None,
                "baseline": name in SINGLE,
            }
            lines.append({**stage, "k": k, "accuracy": mean(of_k), "low": low, "high": high})
    return lines


def together(of_seeds: list[dict[str, list]]) -> dict[str, list]:
    """The rows of all seeds."""
    return {name: [judgment for found in of_seeds for judgment in found[name]] for name in of_seeds[0]}


def main(arguments: list[str] | None = None) -> None:
    import torch
    from rich.console import Console

    from trl_spct.evaluation.reports import plot_scaling

    parser = runs_parser(__doc__, "outputs/paper_grid")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=240)
    found = {
        seed: judged(options.runs / f"seed{seed}", seed, options.output / f"seed{seed}") for seed in options.seeds
    }
    parts = {f"seed {seed}": of_seed for seed, of_seed in found.items()}
    if len(found) > 1:
        parts["all seeds"] = together([*found.values()])
    shown = {name: [*table(part), "", token_prob_gain(part)] for name, part in parts.items()}
    text = "\n\n".join(f"{name}\n\n" + "\n".join(lines) for name, lines in shown.items())
    (options.output / "table.md").write_text(text + "\n")
    plot_scaling(results([*parts.values()][-1]), options.output / "grid.png", "Held-out rows of the tiny world, n ≥ 2")
    console.print(text, markup=False)


if __name__ == "__main__":
    main()
