"""Choosing the coefficients that the paper tunes, for every method by the same rule, on seeds that
no table has.

All points of a grid are one program. The best mean of the last evaluation wins (the exact value of
a matrix game, the sampled return of Bridge); at a tie, the first point of the grid.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxoff.experiments.inspo import runs
from jaxoff.experiments.paper import Column, Job, below, kind_of

from jaxoff.files import write_text
from jaxoff.names import Task
from jaxoff.report.html import Section
from jaxoff.report.load import Run
from jaxoff.report.protocol import told

SEEDS = (10, 11)
Grid = Mapping[str, Sequence[float]]
# The task that coefficients are chosen on -> the tasks that use them. M-NE has one search for
# balanced and one for imbalanced data, whatever is paid off the diagonal and however rare the other
# actions are.
TASKS = {task: task for task in (*runs.XOR, *runs.BRIDGE)} | {
    "matrix/mne/balanced": "matrix/mne*/balanced",
    "matrix/mne/imbalanced": "matrix/mne*/imbalanced*",
}
# InSPO says that it tunes the conservative weights of OMAR and CFCQL, CFCQL's tau, OMIGA's
# temperature, and its own alpha.
GRIDS: dict[str, dict[str, Grid]] = {
    "matrix": {
        "omar": {"cql": (0.1, 1.0, 5.0), "mimic": (0.5, 0.9)},
        "alberdice": {"conservative": (0.0, 0.1), "alpha_end": (0.001, 0.1)},
        "cfcql": {"cql": (0.1, 1.0, 10.0), "tau": (0.0, 1.0, 100.0)},
        "omiga": {"alpha": (0.1, 1.0, 10.0, 100.0)},
        "inspo": {"alpha": (0.05, 0.1, 0.5, 1.0)},
        "macql": {"cql": (0.1, 2.0, 10.0)},
        "bcq": {"zeta": (0.1, 0.3, 0.9)},
        "icq": {"beta_actor": (0.01, 0.1, 1.0)},
    },
    "grid": {
        "omar": {"cql": (0.1, 1.0, 5.0)},
        "alberdice": {"alpha_start": (0.5, 5.0), "alpha_end": (0.02,), "conservative": (0.01, 0.1)},
        "cfcql": {"cql": (0.1, 1.0, 10.0)},
        "omiga": {"alpha": (0.1, 1.0, 10.0, 100.0)},
        "inspo": {"alpha": (0.02, 0.1)},
        "macql": {"cql": (0.1, 2.0)},
        "bcq": {"zeta": (0.1, 0.3)},
        "icq": {"beta_actor": (0.1, 1.0)},
    },
}


def best_point(run: Run) -> tuple[dict[str, float], dict[tuple[float, ...], float]]:
    """(the best point of a job's grid, the mean final value of every point).

    A failed run counts as minus infinity.
    """
    values = run.values(_metric(run))
    names = list(run.config["grid"])
    points = list(itertools.product(*run.config["grid"].values()))
    means = np.where(np.isfinite(values), values, -np.inf).reshape(len(points), -1).mean(1)
    return dict(zip(names, points[int(np.argmax(means))], strict=True)), dict(
        zip(points, means.tolist(), strict=True)
    )


def _metric(run: Run) -> str:
    """The number by which points are chosen."""
    return "exact_value" if run.has("exact_value") else "return_mean"


def tune(job: Job, tasks: Mapping[str, str] = TASKS) -> Section:
    """Train every grid at scale cpu and write tuned.toml, and tuning.md with the value of every
    point.
    """
    chosen: dict[tuple[str, str], dict[str, float]] = {}
    lines = ["# Tuning", "", "| method | task | point | mean final value |", "|---|---|---|---|"]
    places = {}
    for task in tasks:
        for method, grid in GRIDS[kind_of(task)].items():
            column = {f"{method} tuning": Column(method, grid=grid)}
            (spec,) = runs.specs([task], column, "cpu", use_tuned=False)
            path = job.out / "tuning" / f"{method}-{Task.parse(task).slug}"
            places[path] = dataclasses.replace(spec, seeds=SEEDS, evaluations=1)
    done = job.train(places)
    for spec, run in zip(places.values(), done, strict=True):
        method, task = spec.method, spec.task
        best, means = best_point(run)
        chosen[method, task] = best
        for point, mean in means.items():
            named = dict(zip(spec.grid, point, strict=True))
            text = ", ".join(f"{name} {value:g}" for name, value in named.items())
            shown = f"**{text}**" if named == best else text
            lines.append(f"| {method} | {task} | {shown} | {mean:.4f} |")
    evaluation = told(((run.task, run.variant), run.protocol.of(_metric(run))) for run in done)
    job.text("tuning", lines, below(done, evaluation=evaluation))
    head = (
        "# Chosen by `python -m jaxoff.experiments.inspo tune` on seeds 10 and 11; every value: "
        "experiments/reference/inspo/tuning.md.\n"
    )
    made = [
        f'\n[{method}."{tasks[task]}"]\n'
        + "".join(f"{name} = {value!r}\n" for name, value in best.items())
        for (method, task), best in sorted(chosen.items())
    ]
    write_text(job.out / "tuned.toml", head + "".join(made))
    return Section("InSPO: tuning", "What was chosen stands in tuned.toml.", ["tuning"])
