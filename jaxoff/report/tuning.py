"""What tuning brings: the expected best of k configurations of a grid, for k = 1, 2, ...

A method that was tried with more settings has had more chances. Dodge et al. (2019, "Show your
work") therefore report the expected best value of k configurations that are drawn from those
tried. Drawn without replacement, as here, the estimate is unbiased (Tang et al., 2020, "Showing
your work doesn't always work").
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxoff.eval import statistics
from jaxoff.files import write_text
from jaxoff.report import figures, render
from jaxoff.report.load import CIRCUMSTANCES, Run, by_config, told_apart
from jaxoff.report.summary import LEADING
from jaxoff.report.tables import METRICS

NOTE = (
    "Expected mean of the best of k configurations, which are drawn from those that were trained, "
    "without replacement (Dodge et al., 2019; Tang et al., 2020); the value of a configuration is "
    "its mean over seeds. ± is the standard deviation over such draws. Configurations are chosen "
    "by the same episodes that measure them, so values at many configurations are optimistic. "
    "Configurations whose runs all failed are left out."
)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A method on a task: the mean over seeds of each configuration [G], in the order trained."""

    task: str
    label: str
    values: np.ndarray

    @property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [G] of the best of k = 1 ... G configurations."""
        return statistics.expected_best(self.values)


def leading(runs: Iterable[Run]) -> str:
    """The number by which configurations are compared: the first that all jobs with a grid have.

    Jobs that were not evaluated, or whose runs all failed, have no say. Returns "" where no number
    is left.
    """
    having = [run for run in runs if _swept(run) and not run.unplayed and not run.failed.all()]
    return next((name for name in LEADING if having and all(run.has(name) for run in having)), "")


def tuned(runs: Iterable[Run], parts: Iterable[Run], metric: str) -> list[Tuned]:
    """The methods that were trained with a grid of settings, two of which did not fail.

    runs: result folders; parts: the same folders, with variants that tell settings apart. Folders
    that differ in data, number formats or evaluations are different methods here, since the best
    of such folders is not one that tuning has found.
    """
    runs = list(runs)
    found: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}
    for run, part in zip(told_apart(runs, CIRCUMSTANCES), parts, strict=True):
        if _swept(run) and run.has(metric):
            points = found.setdefault((run.task, run.variant), {})
            for point in by_config([part]):  # whose seeds may lie in several folders
                points.setdefault(point.variant, []).append(point.values(metric))
    kept = [
        Tuned(
            *place, statistics.finite([statistics.mean(np.concatenate(x)) for x in points.values()])
        )
        for place, points in found.items()
    ]
    return [each for each in kept if each.values.size > 1]


def _swept(run: Run) -> bool:
    """Whether a folder is that of a grid, or of one value of a grid over sizes or words."""
    return bool(run.config.get("grid")) or " --grid" in run.config["command"]


def counts_of(largest: int) -> list[int]:
    """The numbers of configurations that a table shows: powers of two, and all."""
    return sorted({2**power for power in range(largest.bit_length())} | {largest})


def write(found: Sequence[Tuned], metric: str, stem: Path) -> None:
    """Write the table stem.md and stem.csv, and the figure stem-figure.png and .svg."""
    name = METRICS.get(metric, metric)
    counts = counts_of(max(each.values.size for each in found))
    lines = [f"# Number of tuned configurations, {name}", ""]
    head = ["task", "method", "configurations", *(f"best of {k}" for k in counts)]
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "method", "metric", "k", "expected", "std"])
    for each in found:
        mean, spread = each.expected
        digits = 1 if np.abs(mean).max() >= 100 else 2 if np.abs(mean).max() >= 1 else 3
        cells = [
            f"{mean[k - 1]:z.{digits}f} ± {spread[k - 1]:.{digits}f}" if k <= mean.size else ""
            for k in counts
        ]
        texts = [render.escaped(each.task), render.escaped(each.label), str(mean.size), *cells]
        lines.append("| " + " | ".join(texts) + " |")
        for k in range(mean.size):
            numbers = f"{mean[k]:.8g}", f"{spread[k]:.8g}"
            writer.writerow([each.task, each.label, metric, k + 1, *numbers])
    write_text(stem.with_name(f"{stem.name}.md"), "\n".join([*lines, "", NOTE]) + "\n")
    write_text(stem.with_name(f"{stem.name}.csv"), out.getvalue())
    draw(found, name, stem.with_name(f"{stem.name}-figure"))


def draw(found: Sequence[Tuned], name: str, stem: Path) -> list[Path]:
    """The expected best over the number of configurations: a panel per task, a line per method."""
    tasks = list(dict.fromkeys(each.task for each in found))
    look = figures.looks(list(dict.fromkeys(each.label for each in found)))
    with figures.style() as new_figure:
        figure, panels = figures.panels_of(new_figure, len(tasks), figures.PANEL)
        lines = {}
        for panel, task in zip(panels, tasks, strict=True):
            for each in (each for each in found if each.task == task):
                mean, spread = each.expected
                k, style = np.arange(1, mean.size + 1), look[each.label]
                (lines[each.label],) = panel.plot(k, mean, marker="o", markersize=3, **style)
                low = np.maximum(mean - spread, each.values.min())
                high = np.minimum(mean + spread, each.values.max())
                panel.fill_between(k, low, high, color=style["color"], alpha=0.15, linewidth=0)
            panel.set_title(figures.label_of(task, figures.PANEL[0]))
            panel.set_xlabel("configurations tried")
            panel.xaxis.get_major_locator().set_params(integer=True)
        for panel in panels[:: figures.columns_of(len(tasks))]:
            panel.set_ylabel(f"expected best {name}")
        figures.add_legend(figure, lines, "Bands: one standard deviation over the configurations.")
        return figures.save(figure, stem)
