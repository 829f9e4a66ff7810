"""What is drawn for SIT: returns over updates, and what a decomposition of the rewards makes of a
dataset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxoff.experiments.paper import kind_of
from jaxoff.experiments.sit import runs

from jaxoff import registry
from jaxoff.learners import credit
from jaxoff.report import credit as credit_report
from jaxoff.report import figures
from jaxoff.report.load import Run


def learning_curves(
    done: Sequence[Run],
    tasks: Mapping[str, str],
    stem: Path,
    reference: Mapping[str, float] | None = None,
) -> str:
    """Returns over updates, a panel for each task, with lines at the returns of `reference`;
    returns the stem's name.
    """
    figures.curves(done, "return_mean", stem, tasks=tasks, reference=reference)
    return stem.name


def decomposition(task: str, title: str, scale: str, kind: str, stem: Path) -> credit.Verdict:
    """Own rewards during the fit, priorities of trajectories by type, and shares of draws; returns
    what `credit.judge` finds.
    """
    spec = registry.make_spec(task)
    found = credit.judge(
        runs.data_of(task, scale),
        spec,
        dataclasses.replace(runs.SCALES[scale].fit, kind=kind),
        one_type=kind_of(task) == "mamujoco",
    )
    credit_report.draw(found, stem, spec, title=title)
    return found
