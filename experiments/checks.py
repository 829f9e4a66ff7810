"""What must hold for a paper's claim to be reproduced, decided by numbers: paired differences over
seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxoff.experiments.paper import Job, below
from scipy import stats

from jaxoff.report.load import Run

Values = Mapping[tuple[str, str], np.ndarray]  # (task, column) -> final returns by seed


class Check(NamedTuple):
    """A line of the list: what is asked, the numbers, and whether it holds."""

    name: str
    found: str
    holds: bool


def values_of(
    runs: Sequence[Run], metric: str = "return_mean"
) -> dict[tuple[str, str], np.ndarray]:
    """Final numbers by (task, column), in order of seeds; folders of a single seed are joined."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for run in runs:
        for seed, value in zip(run.seeds, run.values(metric), strict=True):
            found.setdefault((run.task, run.variant), {})[seed] = value
    return {
        place: np.array([by_seed[seed] for seed in sorted(by_seed)])
        for place, by_seed in found.items()
    }


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float]:
    """Mean of the paired differences a - b, their standard error, and the ends of the 95% interval
    (t distribution).
    """
    gap = a - b
    error = float(np.std(gap, ddof=1) / np.sqrt(len(gap))) if len(gap) > 1 else float("nan")
    reach = float(stats.t.ppf(0.975, max(len(gap) - 1, 1))) * error
    return float(gap.mean()), error, float(gap.mean()) - reach, float(gap.mean()) + reach


def above(values: Values, task: str, name: str, ours: str, other: str) -> Check:
    """A column is above another by two standard errors of the paired difference."""
    mean, error, low, high = difference(values[task, ours], values[task, other])
    text = f"difference {mean:.2f} ± {error:.2f}, 95% interval [{low:.2f}, {high:.2f}]"
    return Check(f"{name}: {ours} above {other}", text, bool(mean >= 2 * error and mean > 0))


def write(job: Job, stem: str, title: str, checks: Sequence[Check], runs: Sequence[Run]) -> str:
    """Write the list as a table, stem.md; returns the stem. runs: those that it is about."""
    lines = [f"# {title}", "", "| check | found | holds |", "|---|---|---|"]
    lines += [
        f"| {check.name} | {check.found} | {'yes' if check.holds else 'no'} |" for check in checks
    ]
    return job.text(stem, lines, below(runs))
