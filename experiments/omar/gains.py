"""By how many percent one method's return is above another's: numbers, a table, and bars."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxoff.experiments.paper import Job

from jaxoff.eval import statistics
from jaxoff.files import write_text
from jaxoff.report.figures import looks, save, style, write_note
from jaxoff.report.tables import NONE


class Gain(NamedTuple):
    """Final values of some seeds of each of two methods, [n] and [m]; row and column are where it
    stands in a table.
    """

    row: str
    column: str
    ours: np.ndarray
    theirs: np.ndarray

    @property
    def percent(self) -> float:
        """100 (mean ours - mean theirs) / |mean theirs|; NaN where that is 0, or where all runs of
        one failed.
        """
        return float(_percent([statistics.finite(values) for values in self[2:]]))

    @property
    def interval(self) -> tuple[float, float]:
        """Its bootstrap interval over the seeds of both; not finite where theirs may be 0."""
        with np.errstate(all="ignore"):
            low, high = statistics.bootstrap(self[2:], _percent)
        return float(low), float(high)


def _percent(groups: Sequence[np.ndarray]) -> Any:
    if any(values.size == 0 for values in groups):
        return np.nan
    ours, theirs = (np.mean(values, -1) for values in groups)
    base = np.where(theirs == 0, np.nan, np.abs(theirs))
    return 100.0 * (ours - theirs) / base


def places(gains: Sequence[Gain]) -> tuple[list[str], list[str]]:
    """Rows and columns, in order."""
    return list(dict.fromkeys(gain.row for gain in gains)), list(
        dict.fromkeys(gain.column for gain in gains)
    )


def average(gains: Sequence[Gain], column: str) -> float:
    """Mean over rows of a column's gains, of those that are known."""
    return statistics.mean([gain.percent for gain in gains if gain.column == column])


def text(gain: Gain | None) -> str:
    """A cell: the gain, its interval, and what it is made of."""
    if gain is None or not np.isfinite(gain.percent):
        return (
            NONE
            if gain is None
            else (
                f"{NONE} ({statistics.mean(gain.ours):.3g} against "
                f"{statistics.mean(gain.theirs):.3g})"
            )
        )
    ends = (
        "[{:.1f}, {:.1f}]".format(*gain.interval)
        if np.isfinite(gain.interval).all()
        else f"[{NONE}]"
    )
    return (
        f"{gain.percent:.1f} % {ends}<br>{statistics.mean(gain.ours):.3g} against "
        f"{statistics.mean(gain.theirs):.3g}"
    )


def write(
    job: Job,
    stem: str,
    gains: Sequence[Gain],
    title: str,
    note: Sequence[str],
    about: Sequence[str],
    averaged: bool = False,
) -> None:
    """stem.md and stem.csv: rows and columns in order, a note, and lines about the runs.

    averaged: a last row of averages over rows, if there are several.
    """
    rows, columns = places(gains)
    at = {(gain.row, gain.column): gain for gain in gains}
    lines = [
        f"# {title}",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    lines += [
        "| " + " | ".join([row, *(text(at.get((row, column))) for column in columns)]) + " |"
        for row in rows
    ]
    if averaged and len(rows) > 1:
        means = [average(gains, column) for column in columns]
        lines.append(
            "| average | "
            + " | ".join(f"{mean:.1f} %" if np.isfinite(mean) else NONE for mean in means)
            + " |"
        )
    legend = (
        f"Gain over the mean of the other, with its {statistics.LEVEL:.0%} bootstrap "
        "interval over seeds; below it both means."
    )
    job.text(stem, [*lines, "", legend, "", *note], about)
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["row", "column", "percent", "low", "high", "ours", "theirs"])
    for gain in gains:
        seeds = (" ".join(f"{value:.8g}" for value in values) for values in gain[2:])
        table.writerow(
            [
                gain.row,
                gain.column,
                *(f"{value:.8g}" for value in (gain.percent, *gain.interval)),
                *seeds,
            ]
        )
    write_text(job.out / f"{stem}.csv", out.getvalue())


def bars(gains: Sequence[Gain], stem: Path, note: str = "") -> list[Path]:
    """Groups of bars: a group a row, a bar a column, with intervals.

    What is not known is left out. note: how the policies were evaluated.
    """
    rows, columns = places(gains)
    look, width = looks(columns), 0.8 / len(columns)
    with style() as new_figure:
        figure = new_figure(figsize=(1.2 + 1.3 * len(rows), 3.0), layout="constrained")
        panel: Any = figure.subplots()
        for place, column in enumerate(columns):
            shown = [gain for gain in gains if gain.column == column and np.isfinite(gain.percent)]
            x = [rows.index(gain.row) + width * (place - (len(columns) - 1) / 2) for gain in shown]
            middle, ends = (
                np.array([gain.percent for gain in shown]),
                np.array([gain.interval for gain in shown]).reshape(-1, 2),
            )
            panel.bar(x, middle, width, color=look[column]["color"], label=column)
            known = np.isfinite(ends).all(1)
            panel.vlines(np.array(x)[known], *ends[known].T, color="#222222", linewidth=1.2)
        panel.axhline(0.0, color="#555555", linewidth=1)
        panel.set_xticks(range(len(rows)), rows)
        panel.grid(axis="x", visible=False)
        panel.set_ylabel("gain, %")
        panel.legend()
        lines = f"Lines in the bars: {statistics.LEVEL:.0%} bootstrap intervals."
        write_note(figure, f"{lines} {note}".strip())
        return save(figure, stem)
