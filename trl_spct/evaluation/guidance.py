# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Choice of a Meta RM's guidance on held-out judgments (paper, section 6).

The paper tries k_meta of 1, 8 and 16 at k = 32 and keeps k/2 **[P]**. The best value depends on the judge and on the
Meta RM: one that separates well should keep few critiques, one that does not should keep all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ..judge.voting import DEFAULT_SHARE, Guidance
from .judgments import Judgment, credits_at, vote_schemes
from .statistics import bootstrap_interval, mean, paired_interval


PLAIN = Guidance(1.0)
"""All critiques vote alike, as without a Meta RM."""

CANDIDATES = (PLAIN, Guidance(guide="soft"), *(Guidance(share) for share in (0.875, 0.75, 0.5, 0.25, 0.125)))
"""Default candidates: plain voting, soft weights, and shares around the paper's 0.5 **[P]**."""


@dataclass(frozen=True)
class GuidanceChoice:
    """The chosen guidance, the number of votes at which it was made, and [`guidance_table`] of all candidates and
    numbers."""

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

    Returns:
        `list[dict]` of `k`, `k_meta`, `guide`, `voters` (mean effective number of voters of a readable block,
        `(Σw)² / Σw²`), `accuracy` (of [`~trl_spct.evaluation.judgments.scaling_results`]), `low`, `high`,
        `difference`, `difference_low`, `difference_high` (to plain voting) and `n` (rows).
    """
    ks = _checked(judgments, ks)
    if not candidates:
        raise ValueError("Found no candidates; expected at least one `Guidance`.")
    table = []
    for k in ks:
        plain = _accuracies(judgments, k, PLAIN)
        for guidance in candidates:
            credits = _accuracies(judgments, k, guidance)
            names = ("accuracy", "low", "high", "difference", "difference_low", "difference_high")
            bounds = bootstrap_interval(credits, seed=seed)
            values = (mean(credits), *bounds, *paired_interval(plain, credits, seed=seed))
            voters = _effective_voters(judgments, k, guidance)
            measured = {"voters": voters, **dict(zip(names, values, strict=True))}
            table.append({"k": k, **guidance.settings, **measured, "n": len(judgments)})
    return table


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
    most effective voters is chosen; without a visible difference the vote stays plain (`k_meta=1.0`). Not in the
    paper. The accuracy of the choice on these rows is biased upwards: report it on rows of other queries.

    Args:
        judgments (sequence of [`Judgment`]): With a meta score for each readable critique.
        ks (sequence of `int`, *optional*): Numbers of votes; defaults to the powers of two from 2 to all critiques.
        candidates (sequence of [`~trl_spct.judge.voting.Guidance`], *optional*): Candidates.
        k (`int`, *optional*): The number of votes to choose at; defaults to the largest of `ks`.
        seed (`int`, *optional*, defaults to `0`): Seed of the bootstrap.

    Returns:
        [`GuidanceChoice`]; [`store_guidance`] writes it into a Meta RM.
    """
    ks = _checked(judgments, ks)
    k = max(ks) if k is None else k
    if k not in ks:
        raise ValueError(f"Found k={k}; expected one of the numbers of votes that are tried, {list(ks)}.")
    table = guidance_table(judgments, ks, candidates, seed)
    rows = [row for row in table if row["k"] == k]
    credits = [_accuracies(judgments, k, guidance) for guidance in candidates]
    best = max(range(len(candidates)), key=lambda i: (round(rows[i]["accuracy"], 9), round(rows[i]["voters"], 9)))
    # A candidate of few voters can be worse than plain voting and yet not *significantly* worse than the best.
    least = min(0, rows[best]["difference"])
    unbeaten = [
        i
        for i, row in enumerate(rows)
        if row["difference"] >= least - 1e-9 and paired_interval(credits[i], credits[best], seed=seed)[1] <= 1e-9
    ]
    chosen = max(unbeaten, key=lambda i: (round(rows[i]["voters"], 9), round(rows[i]["accuracy"], 9), -i))
    return GuidanceChoice(candidates[chosen], k, tuple(table))


def store_guidance(model: PreTrainedModel, guidance: Guidance) -> None:
    """Writes a guidance into the config of a Meta RM, or of an adapter over one, from where pipelines read it."""
    settings = {**(getattr(model.config, "meta_rm", None) or {}), **guidance.settings}
    model.config.meta_rm = {name: value for name, value in settings.items() if value is not None}


def guidance_results_table(choice: GuidanceChoice, title: str | None = None):
    """A choice as a `rich` table; a star marks the chosen guidance."""
    from rich.table import Table

    table = Table(title=title)
    for column in ("guidance", "k", "voters", "accuracy", "95 % interval", "to plain voting", "95 % interval"):
        table.add_column(column, justify="left" if column == "guidance" else "right")
    for row in choice.table:
        guidance = Guidance.of(row)
        star = " *" if guidance == choice.guidance and row["k"] == choice.k else ""
        share = {name: 100 * value for name, value in row.items() if isinstance(value, float)}
        cells = (
            "{accuracy:.1f}",
            "{low:.1f} – {high:.1f}",
            "{difference:+.1f}",
            "{difference_low:+.1f} – {difference_high:+.1f}",
        )
        shown = (cell.format_map(share) for cell in cells)
        table.add_row(describe(guidance) + star, str(row["k"]), f"{row['voters']:.1f}", *shown)
    return table


def describe(guidance: Guidance | Mapping[str, Any]) -> str:
    """A readable name: `plain`, `soft`, `top 8`, `top 75 %`."""
    guidance = guidance if isinstance(guidance, Guidance) else Guidance.of(guidance)
    if guidance.guide == "soft":
        return "soft"
    if isinstance(guidance.k_meta, int):
        return f"top {guidance.k_meta}"
    share = DEFAULT_SHARE if guidance.k_meta is None else guidance.k_meta
    return "plain" if share == 1 else f"top {100 * share:g} %"


def _checked(judgments: Sequence[Judgment], ks: Iterable[int] | None) -> list[int]:
    for number, judgment in enumerate(judgments):
        if not judgment.guidable:
            raise ValueError(f"Row {number}: found readable critiques without a meta score; judge with a `meta_rm`.")
    ks = [k for k, _ in vote_schemes(judgments, None if ks is None else list(ks), guided=False) if ks or k > 1]
    if not ks:
        raise ValueError("Found 1 critique per row; expected at least 2 to choose among.")
    return ks


def _accuracies(judgments: Sequence[Judgment], k: int, guidance: Guidance) -> list[float]:
    return [mean(credits_at(judgment, k, guidance)) for judgment in judgments]


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
