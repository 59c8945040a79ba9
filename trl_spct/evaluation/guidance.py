# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Choice of a Meta RM's guidance on held-out judgments (paper, section 6).

The paper tries k_meta of 1, 8 and 16 at k = 32 and keeps k/2 **[P]**. A Meta RM that separates well should keep few
critiques, one that does not should keep all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ..judge.voting import Guidance
from .judgments import Judgment, credits_at, vote_schemes
from .statistics import bootstrap_interval, mean, paired_interval

PLAIN = Guidance(1.0)
"""All critiques vote alike, as without a Meta RM."""

CANDIDATES = (PLAIN, Guidance(guide="soft"), *(Guidance(share) for share in (0.875, 0.75, 0.5, 0.25, 0.125)))
"""Default candidates: plain voting, soft weights, and shares around the paper's 0.5 **[P]**."""

_CELLS = "{accuracy:.1f} | {low:.1f} – {high:.1f} | {difference:+.1f} | {difference_low:+.1f} – {difference_high:+.1f}"


@dataclass(frozen=True)
class GuidanceChoice:
    """The chosen guidance, the number of votes of the choice, and the [`guidance_table`]."""

    guidance: Guidance
    k: int
    table: tuple[dict[str, Any], ...]


def guidance_table(
    judgments: Sequence[Judgment],
    ks: Sequence[int] | None = None,
    candidates: Sequence[Guidance] = CANDIDATES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Accuracy over k and over ways to guide, and its paired difference to plain voting, from one sampling run.

    `list[dict]` of `k`, `k_meta`, `guide`, `voters` (mean effective number of voters of a readable block,
    `(Σw)² / Σw²`), `accuracy` (of [`~trl_spct.evaluation.judgments.scaling_results`]), `low`, `high`, `difference`,
    `difference_low`, `difference_high` (to plain voting) and `n` (rows)."""
    return [row for k in _checked(judgments, ks, candidates) for row, _ in _compared(judgments, k, candidates, seed)]


def choose_guidance(
    judgments: Sequence[Judgment],
    ks: Sequence[int] | None = None,
    candidates: Sequence[Guidance] = CANDIDATES,
    k: int | None = None,
    seed: int = 0,
) -> GuidanceChoice:
    """Chooses how a Meta RM guides, on judgments of held-out rows.

    Of the candidate with the highest accuracy at `k` votes, and all candidates that are neither significantly worse
    (the 95 % interval of the paired difference to it reaches 0) nor less accurate than plain voting, the one with the
    most effective voters is chosen: without a visible difference plain voting. Not in the paper. The accuracy of the
    choice on these rows is biased upwards: report it on rows of other queries.

    Each readable critique needs a meta score. `ks` are numbers of votes, by default the powers of two from 2 to all
    critiques, and `k` the one to choose at, by default the largest. [`store_guidance`] writes the choice into a Meta
    RM."""
    ks = _checked(judgments, ks, candidates)
    k = max(ks) if k is None else k
    if k not in ks:
        raise ValueError(f"Found k={k}; expected one of the numbers of votes that are tried, {list(ks)}.")
    compared = {votes: _compared(judgments, votes, candidates, seed) for votes in ks}
    rows, credits = zip(*compared[k], strict=True)
    accuracies, voters = ([round(row[name], 9) for row in rows] for name in ("accuracy", "voters"))
    best = max(range(len(rows)), key=lambda i: (accuracies[i], voters[i]))
    # A candidate of few voters can be worse than plain voting and yet not *significantly* worse than the best.
    least = min(0, rows[best]["difference"])
    unbeaten = [
        i
        for i, row in enumerate(rows)
        if row["difference"] >= least - 1e-9 and paired_interval(credits[i], credits[best], seed=seed)[1] <= 1e-9
    ]
    chosen = max(unbeaten, key=lambda i: (voters[i], accuracies[i], -i))
    return GuidanceChoice(candidates[chosen], k, tuple(row for votes in ks for row, _ in compared[votes]))


def store_guidance(model: PreTrainedModel, guidance: Guidance) -> None:
    """Writes a guidance into the config of a Meta RM, or of an adapter over one, from where pipelines read it."""
    settings = {**(getattr(model.config, "meta_rm", None) or {}), **guidance.settings}
    model.config.meta_rm = {name: value for name, value in settings.items() if value is not None}


def guidance_results_table(choice: GuidanceChoice, title: str | None = None):
    """A choice as a `rich` table; a star marks the chosen guidance."""
    from rich.table import Column, Table

    numbers = ("k", "voters", "accuracy", "95 % interval", "to plain voting", "95 % interval")
    table = Table("guidance", *(Column(name, justify="right") for name in numbers), title=title)
    for row in choice.table:
        guidance = Guidance.of(row)
        star = " *" if (str(guidance), row["k"]) == (str(choice.guidance), choice.k) else ""
        share = {name: 100 * value for name, value in row.items() if isinstance(value, float)}
        cells = _CELLS.format_map(share).split(" | ")
        table.add_row(f"{guidance}{star}", str(row["k"]), f"{row['voters']:.1f}", *cells)
    return table


def _checked(judgments: Sequence[Judgment], ks: Iterable[int] | None, candidates: Sequence[Guidance]) -> list[int]:
    """The numbers of votes; refuses judgments and candidates that cannot be compared."""
    for number, judgment in enumerate(judgments):
        if not judgment.guidable:
            raise ValueError(f"Row {number}: found readable critiques without a meta score; judge with a `meta_rm`.")
    ks = [k for k, _ in vote_schemes(judgments, None if ks is None else list(ks), guided=False) if ks or k > 1]
    if not ks:
        raise ValueError("Found 1 critique per row; expected at least 2 to choose among.")
    if not candidates:
        raise ValueError("Found no candidates; expected at least one `Guidance`.")
    return ks


def _compared(
    judgments: Sequence[Judgment], k: int, candidates: Sequence[Guidance], seed: int
) -> list[tuple[dict[str, Any], list[float]]]:
    """For each candidate its row of [`guidance_table`], and the accuracy of each judgment."""
    plain = [mean(credits_at(judgment, k, PLAIN)) for judgment in judgments]
    compared = []
    for guidance in candidates:
        credits = plain if guidance.plain else [mean(credits_at(judgment, k, guidance)) for judgment in judgments]
        names = ("accuracy", "low", "high", "difference", "difference_low", "difference_high")
        bounds, differences = bootstrap_interval(credits, seed=seed), paired_interval(plain, credits, seed=seed)
        values = dict(zip(names, (mean(credits), *bounds, *differences), strict=True))
        voters = _effective_voters(judgments, k, guidance)
        row = {"k": k, **guidance.settings, "voters": voters, **values, "n": len(judgments)}
        compared.append((row, credits))
    return compared


def _effective_voters(judgments: Sequence[Judgment], k: int, guidance: Guidance) -> float:
    """Kish's effective sample size of the weights, averaged over the blocks with a readable critique."""
    sizes = []
    for judgment in judgments:
        for first in range(0, len(judgment.critiques) - k + 1, k):
            weights = guidance.weights(judgment.scores[first : first + k], judgment.meta_scores[first : first + k])
            if any(weights):
                top = max(weights)  # so that squares of tiny weights do not vanish
                sizes.append(sum(w / top for w in weights) ** 2 / sum((w / top) ** 2 for w in weights))
    return mean(sizes) if sizes else 0.0
