"""What a page leads with: the best method on each task, by how much, and whether that is clear."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.eval import statistics
from jaxoff.report import figures
from jaxoff.report.render import cell_lines, digits_of, escaped
from jaxoff.report.tables import METRICS, NONE, SMALLER_IS_BETTER, Cell, Table, number_of

# What methods are compared by, where a page has tables of several of these numbers.
LEADING = ("win_rate", "score", "exact_value", "return_mean")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The best method on one task.

    best, next: labels of the two best means; next is "" where there is one method only. gap: the
    difference of the two means, and its 95 % bootstrap interval. ties: methods that Welch's test
    does not tell from the best; untested: those with fewer than two runs, for which there is no
    test. paper: the method with the best number in the paper, or "".
    """

    row: str
    metric: str
    best: str
    value: str
    next: str
    gap: tuple[float, float, float]
    ties: tuple[str, ...]
    untested: tuple[str, ...]
    paper: str
    digits: int

    @property
    def clear(self) -> bool:
        """Whether the best method is significantly better than every other one."""
        return bool(self.next) and not self.ties and not self.untested

    @property
    def text(self) -> str:
        """The verdict in words."""
        if not self.next:
            return "the only method"
        parts = []
        if self.ties:
            parts.append(f"no significant difference from {_listed(self.ties)}")
        if self.untested:
            parts.append(f"not tested against {_listed(self.untested)}: fewer than two runs")
        return "; ".join(parts) or "better than every other method"

    @property
    def agreement(self) -> str:
        """Whether the paper has the same method in front, in words."""
        if not self.paper:
            return NONE
        if self.paper == self.best:
            return "the same method"
        same = "no significant difference here" if self.paper in self.ties else "another one here"
        return f"{self.paper} ({same})"


def _listed(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names) if len(names) <= most else f"{len(names)} others"


def leading(tables: Iterable[Table]) -> list[Table]:
    """Of the tables of a section, those that methods are compared by: each row only once.

    Numbers that only an experiment knows come last; tables without marks compare no methods.
    """
    tables = [table for table in tables if any(x.mark == "best" for x in table.cells.values())]
    own = dict.fromkeys(table.metric for table in tables if table.metric not in METRICS)
    found: list[Table] = []
    for metric in (*LEADING, *own):
        for table in tables:
            seen = {row for other in found for row in other.rows}
            if table.metric == metric and table.rows and not seen & set(table.rows):
                found.append(table)
    return found


def verdicts(table: Table) -> list[Verdict]:
    """A verdict for each row of a table in which some run did not fail."""
    return [found for row in table.rows if (found := _verdict(table, row))]


def _verdict(table: Table, row: str) -> Verdict | None:
    cells: dict[str, Cell] = {
        name: table.cells[row, name]
        for name in table.columns
        if (row, name) in table.cells and table.cells[row, name].mark != "data"
    }
    kept = {name: cell for name, cell in cells.items() if cell.kept}
    best = next((name for name, cell in kept.items() if cell.mark == "best"), None)
    if best is None:
        return None
    sign = -1.0 if table.metric in SMALLER_IS_BETTER else 1.0
    others = sorted(
        (name for name in kept if name != best), key=lambda name: -sign * kept[name].mean
    )
    second = others[0] if others else ""
    gap = (float("nan"),) * 3
    if second:
        pair = [kept[best].tasks[0], kept[second].tasks[0]]
        low, high = statistics.bootstrap(pair, _difference)
        gap = (kept[best].mean - kept[second].mean, float(low), float(high))
    single = kept[best].kept < 2
    found = {name: number_of(cell.paper) for name, cell in cells.items()}
    printed = {name: sign * number for name, number in found.items() if number is not None}
    paper = max(printed, key=lambda name: printed[name]) if len(printed) > 1 else ""
    digits = digits_of(table, row)
    return Verdict(
        row,
        table.metric,
        best,
        cell_lines(kept[best], digits, table.standard_error)[0],
        second,
        gap,
        tuple(name for name in others if kept[name].mark == "*"),
        tuple(name for name in others if single or kept[name].kept < 2),
        paper,
        digits,
    )


def _difference(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Difference of two means over the last axis."""
    return np.mean(groups[0], -1) - np.mean(groups[1], -1)


def sentence(found: Sequence[Verdict]) -> str:
    """How often each method is best, as text; "" where no methods were compared."""
    compared = [verdict for verdict in found if verdict.next]
    if not compared:
        return ""
    if len(compared) == 1:
        return f"Best mean: {compared[0].best}, {compared[0].text}."
    wins: dict[str, list[bool]] = {}
    for verdict in compared:
        wins.setdefault(verdict.best, []).append(verdict.clear)
    parts = []
    for name, clear in sorted(wins.items(), key=lambda item: -len(item[1])):
        sure = {len(clear): "all", 0: "none"}.get(sum(clear), str(sum(clear)))
        several = f" (significantly on {sure} of them)" if len(clear) > 1 else ""
        alone = " (significantly)" if clear[0] else " (not significantly)"
        parts.append(f"{name} on {len(clear)}{several or alone}")
    return f"Best mean on {len(compared)} tasks: {', '.join(parts)}."


def markdown(groups: Sequence[tuple[str, Sequence[Verdict]]]) -> str:
    """The verdicts as a Markdown table; groups: a name, "" for none, and its verdicts."""
    every = [verdict for _, found in groups for verdict in found]
    paper = any(verdict.paper for verdict in every)
    head = ["task", "number", "best", "mean", "next", "difference", "verdict"]
    head += ["best in the paper"] * paper
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, found in groups:
        for verdict in found:
            gap, low, high = (f"{value:+.{verdict.digits}f}" for value in verdict.gap)
            place = f"{name}: {verdict.row}" if name else verdict.row
            texts = [
                place,
                METRICS.get(verdict.metric, verdict.metric),
                verdict.best,
                verdict.value,
                verdict.next or NONE,
                f"{gap} [{low}, {high}]" if verdict.next else NONE,
                verdict.text,
                *([verdict.agreement] * paper),
            ]
            lines.append("| " + " | ".join(map(escaped, texts)) + " |")
    return "\n".join(lines) + "\n"


def draw(tables: Sequence[Table], stem: str | Path, most: int = 12) -> tuple[int, int]:
    """Means with their 95% intervals, a panel per row of the tables; what the paper prints is
    marked. Panels of one table stand side by side, at most four in a row.

    most: largest number of panels, which the tables share. Returns the numbers of rows that are
    drawn and that are left out; without any row nothing is written.
    """
    share = [0] * len(tables)
    for place in [i for row in range(most) for i, t in enumerate(tables) if row < len(t.rows)]:
        share[place] += sum(share) < most
    strips = [
        (table, table.rows[first : min(first + 4, count)])
        for table, count in zip(tables, share, strict=True)
        for first in range(0, count, 4)
    ]
    if not strips:
        return 0, 0
    look = figures.looks(list(dict.fromkeys(name for table in tables for name in table.columns)))
    shown = {name: figures.label_of(name, 3.0) for name in look}
    lines = {name: text.count("\n") + 1 for name, text in shown.items()}
    heights = [
        0.75 + sum(0.06 + 0.14 * lines[name] for name in table.columns) for table, _ in strips
    ]
    letters = max(len(line) for text in shown.values() for line in text.split("\n"))
    columns = max(len(rows) for _, rows in strips)
    with figures.style() as new_figure:
        figure = new_figure(
            figsize=(0.4 + 0.075 * letters + 2.4 * columns, sum(heights)), layout="constrained"
        )
        grid = figure.add_gridspec(len(strips), columns, height_ratios=heights)
        marks: list[Any] = []
        for number, (table, rows) in enumerate(strips):
            for place, row in enumerate(rows):
                panel = figure.add_subplot(grid[number, place])
                marks = (
                    _interval_panel(panel, table, row, look, shown if place == 0 else {}) or marks
                )
        note = f"Points: means over seeds; bars: {statistics.LEVEL:.0%} bootstrap intervals."
        figures.add_legend(
            figure, {figures.PAPER_LABEL: marks[0]}, note
        ) if marks else figures.write_note(figure, note)
        figures.save(figure, stem)
    return sum(share), sum(len(table.rows) for table in tables) - sum(share)


def _interval_panel(
    panel: Any,
    table: Table,
    row: str,
    look: Mapping[str, dict[str, Any]],
    names: Mapping[str, str],
) -> list[Any]:
    """Draw a row of a table, a line per column, with names where they are given; returns the marks
    of the paper's numbers.
    """
    marks: list[Any] = []
    for place, name in enumerate(table.columns):
        cell, colour = table.cells.get((row, name)), look[name]["color"]
        if cell is None:
            continue
        values = statistics.finite(cell.tasks[0])
        if values.size:
            low, high = statistics.bootstrap([values], statistics.mean_of_task_means)
            panel.hlines(place, low, high, color=colour, linewidth=2, alpha=0.6)
            panel.plot(statistics.mean(values), place, "o", color=colour, markersize=4.5)
        printed = number_of(cell.paper)
        if printed is not None:
            marks = panel.plot(printed, place, color="#444444", **figures.PAPER)
    labels = [names.get(name, "") for name in table.columns]
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(table.columns) - 0.4, -0.6)
    panel.grid(axis="y", visible=False)
    panel.set_title(figures.label_of(row, 2.5), fontsize=9)
    panel.set_xlabel(METRICS.get(table.metric, table.metric), fontsize=8)
    panel.margins(x=0.08)
    panel.locator_params(axis="x", nbins=4)
    return marks
