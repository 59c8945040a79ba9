# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Whether a judge's scores follow its words: of stored critiques whose text says that a response is better, the share
whose scores prefer it.

    python tests/measurements/words_and_scores.py outputs/smollm2-135m/pandalm_rft [more folders of evaluate.py]

The last "Response 1 is better", "Better: response 2" or the like counts. Intervals are over rows.
"""

import argparse
import re
import sys
from pathlib import Path

from trl_spct.evaluation.judgments import read_judgments
from trl_spct.evaluation.statistics import bootstrap_interval, mean
from trl_spct.judge.critiques import Critique
from trl_spct.judge.outcomes import highest

NAMED = re.compile(
    r"better: response (\d)|response (\d) is (?:a |the |clearly |more |much )*(?:better|convincing)", re.I
)


def follows(critique: Critique) -> bool | None:
    """Whether the scores prefer the response that the text calls better; `None` if it calls none so."""
    named = [int(first or second) for first, second in NAMED.findall(critique.text)]
    if not named or critique.scores is None or not 1 <= named[-1] <= len(critique.order):
        return None
    return highest(critique.scores) == (critique.order[named[-1] - 1],)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    for folder in parser.parse_args().folders:
        judgments = read_judgments(folder / "judgments")
        judged = [[found for c in row.critiques if (found := follows(c)) is not None] for row in judgments]
        shares = [mean(found) for found in judged if found]
        low, high = bootstrap_interval(shares)
        counts = sum(map(len, judged)), sum(len(row.critiques) for row in judgments)
        sys.stdout.write(
            f"{folder}: {counts[0]} of {counts[1]} critiques call a response better; the scores of "
            f"{100 * mean(shares):.1f} ({100 * low:.1f}–{100 * high:.1f}) % of them prefer it\n"
        )


if __name__ == "__main__":
    main()
