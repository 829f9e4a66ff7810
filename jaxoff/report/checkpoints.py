"""The last policy beside the best one of training, by the evaluations that were made on the way."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxoff.eval import statistics
from jaxoff.files import write_text
from jaxoff.report import render
from jaxoff.report.load import Run
from jaxoff.report.tables import METRICS

NOTE = (
    "last: at the end of training, which is what all other tables and figures show. best: at the "
    "best evaluation of each run, and the median of the updates at which that was; it is chosen by "
    "the same episodes that measure it, so it is optimistic. Both are mean ± standard deviation "
    "over seeds, of the evaluations during training."
)


def write(runs: Sequence[Run], stem: Path, metric: str = "return_mean") -> bool:
    """Write stem.md and stem.csv: last and best of each method on each task.

    runs: one for each task and variant at most, or several with different seeds. Returns whether
    some run has more than one evaluation of the metric; otherwise nothing is written.
    """
    name = f"history/{metric}"
    having = [
        run
        for run in runs
        if len(run.arrays.get(name, ())) > 1 and np.isfinite(run.arrays[name]).any()
    ]
    if not having:
        return False
    rows = list(dict.fromkeys(run.task for run in having))
    columns = list(dict.fromkeys(run.variant for run in having))
    found = {
        (row, column): [run for run in having if (run.task, run.variant) == (row, column)]
        for row in rows
        for column in columns
    }
    last, best, when = ({}, {}, {})
    for place, group in found.items():
        some = [_of(run, name) for run in group]
        last[place], best[place], when[place] = (
            np.concatenate([each[i] for each in some]) if some else np.zeros(0) for i in range(3)
        )

    def cell(row: str, column: str) -> list[str]:
        if not found[row, column]:
            return [render.NONE]
        largest = np.nanmax(np.abs([*best[row, column], 0.0]))
        digits = 1 if largest >= 100 else 2 if largest >= 1 else 3
        after = statistics.finite(when[row, column])
        updates = f" at {np.median(after):,.0f}" if after.size else ""
        return [
            f"last {_text(last[row, column], digits)}",
            f"best {_text(best[row, column], digits)}{updates}",
        ]

    title = f"Last and best checkpoint, {METRICS.get(metric, metric)}"
    lines = [f"# {title}", "", *render.rows_of(columns, rows, cell), "", NOTE]
    write_text(stem.with_name(f"{stem.name}.md"), "\n".join(lines) + "\n")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "method", "metric", "last", "best", "best_at"])
    for place in found:
        values = (_listed(part[place]) for part in (last, best, when))
        writer.writerow([*place, metric, *values])
    write_text(stem.with_name(f"{stem.name}.csv"), out.getvalue())
    return True


def _of(run: Run, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Last value, best value and its number of updates, each [R]; NaN for a failed run."""
    values = np.where(run.failed, np.nan, np.asarray(run.arrays[name], np.float64))  # [K, R]
    known = np.where(np.isfinite(values), values, -np.inf)
    steps = np.asarray(run.arrays["steps"], np.float64)[-len(values) :]
    gone = ~np.isfinite(values).any(0)
    best = np.where(gone, np.nan, known.max(0))
    return values[-1], best, np.where(gone, np.nan, steps[known.argmax(0)])


def _text(values: np.ndarray, digits: int) -> str:
    mean, spread = statistics.mean(values), statistics.std(values)
    if not np.isfinite(mean):
        return render.NONE
    return f"{mean:z.{digits}f}" + (f" ± {spread:.{digits}f}" if np.isfinite(spread) else "")


def _listed(values: np.ndarray) -> str:
    return " ".join(f"{value:.8g}" for value in values)
