"""Tables from result folders: tasks down, methods across. `report.render` writes them."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxoff.errors import BrokenResult
from jaxoff.eval import statistics
from jaxoff.report import protocol
from jaxoff.report.load import Run, by_config

NONE = "—"
AVERAGE = "average"
METRICS = {
    "return_mean": "mean return",
    "score": "normalised score",
    "exact_value": "exact value",
    "win_rate": "win rate",
    "out_of_data": "probability of joint actions that are not in the data",
}
SMALLER_IS_BETTER = {"out_of_data"}
_NUMBER = re.compile(r"\s*([-+−]?\d*\.?\d+)")
PAPER_FIELDS = ("table", "row", "column", "value", "source")


@dataclasses.dataclass(frozen=True)
class Cell:
    """Final values per seed of one method; NaN for a failed run.

    tasks: an array [n_t] per task; one array, except in an average over tasks. mark: "best", "*"
    (no significant difference from the best), "data" (a value of the data, not of a method) or "".
    paper: the number that the paper prints. evaluation: how the values were found, or that the
    policies were not evaluated, as text.
    """

    tasks: tuple[np.ndarray, ...]
    mark: str = ""
    paper: str = ""
    evaluation: str = ""

    @property
    def unplayed(self) -> bool:
        """Whether the policies were not evaluated, so that there are no values."""
        return self.evaluation == protocol.NOT_EVALUATED

    @property
    def total(self) -> int:
        """Number of runs, including failed ones."""
        return sum(values.size for values in self.tasks)

    @property
    def kept(self) -> int:
        """Number of runs that did not fail."""
        return sum(statistics.finite(values).size for values in self.tasks)

    @property
    def mean(self) -> float:
        """Mean over tasks of the mean over seeds."""
        return float(np.mean([statistics.mean(values) for values in self.tasks]))

    @property
    def std(self) -> float:
        """Standard deviation over seeds; NaN for an average over tasks."""
        return statistics.std(self.tasks[0]) if len(self.tasks) == 1 else float("nan")

    @property
    def iqm(self) -> tuple[float, float, float]:
        """Interquartile mean, and its stratified bootstrap interval."""
        kept = [statistics.finite(values) for values in self.tasks]
        if any(values.size == 0 for values in kept):
            return (float("nan"),) * 3
        low, high = statistics.bootstrap(kept, statistics.iqm)
        return float(statistics.iqm(kept)), float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of results.

    rows, columns: labels in order. cells: (row, column) -> Cell, absent where nothing was run.
    provenance: lines on seeds, hardware, commits and updates of the runs.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    metric: str
    note: str
    provenance: tuple[str, ...]
    commands: tuple[str, ...]
    standard_error: bool = False  # show the standard error of the mean, not the deviation

    @property
    def evaluation(self) -> str:
        """A sentence on how the numbers were found, or "" where that is not known."""
        return protocol.told(
            (place, cell.evaluation) for place, cell in self.cells.items() if not cell.unplayed
        )


def read_paper(file: str | Path, table: str) -> dict[tuple[str, str], str]:
    """(row, column) -> printed value of one table in a paper.csv.

    A value is "" where it could not be recovered. Columns of the file:
    table,row,column,value,source. Raises BrokenResult naming the file and field.
    """
    with Path(file).open(newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != PAPER_FIELDS:
            raise BrokenResult(
                f"{file}: header: expected {','.join(PAPER_FIELDS)}, found "
                f"{','.join(reader.fieldnames or ())}"
            )
        return {
            (line["row"], line["column"]): line["value"].strip()
            for line in reader
            if line["table"] == table
        }


def build(
    runs: Iterable[Run],
    rows: Sequence[str] | Mapping[str, str] | None = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    metric: str = "return_mean",
    *,
    title: str = "",
    paper: Mapping[tuple[str, str], str] | None = None,
    note: str = "",
    average: bool = False,
    standard_error: bool = False,
) -> Table:
    """A table of final values; larger values are better, except for SMALLER_IS_BETTER.

    rows: tasks, or task -> label; columns: variants, or variant -> label; None takes all, in order.
    metric: name of a number of final.json's runs. paper: (row label, column label) -> printed
    number. average: add a row with the average over tasks. standard_error: show the standard error
    instead of the standard deviation. Folders of the same task and variant are pooled. A job whose
    policies were not evaluated has a cell that says so. Raises BrokenResult where a metric is
    missing, or two such folders hold the same seed.
    """
    runs = by_config(runs)
    row_of = _labels(rows, dict.fromkeys(run.task for run in runs))
    column_of = _labels(columns, dict.fromkeys(run.variant for run in runs))
    shown = [run for run in runs if run.task in row_of and run.variant in column_of]
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in shown:
        groups.setdefault((row_of[run.task], column_of[run.variant]), []).append(run)
    for group in groups.values():
        _no_seed_twice(group)
    values = {
        place: np.concatenate([_values(run, metric) for run in group])
        for place, group in groups.items()
    }
    labels, names = tuple(dict.fromkeys(row_of.values())), tuple(dict.fromkeys(column_of.values()))
    cells = {}
    for row in labels:
        known = {name: values[row, name] for name in names if (row, name) in values}
        marks = statistics.marks(known, higher=metric not in SMALLER_IS_BETTER)
        for name, mark in marks.items():
            cells[row, name] = Cell(
                (values[row, name],),
                mark,
                (paper or {}).get((row, name), ""),
                "; ".join(dict.fromkeys(_evaluation(run, metric) for run in groups[row, name])),
            )
    if average:
        played = {place: values[place] for place, cell in cells.items() if not cell.unplayed}
        rows_played = [row for row in labels if any((row, name) in played for name in names)]
        cells |= _averages(played, rows_played, names, paper or {}, metric)
        labels = (*labels, AVERAGE)
    commands = tuple(dict.fromkeys(run.config["command"] for run in shown))
    return Table(
        title,
        labels,
        names,
        cells,
        metric,
        note,
        provenance(shown),
        commands,
        standard_error,
    )


def _evaluation(run: Run, metric: str) -> str:
    """How the final number of a metric was found, or that the policies were not evaluated."""
    unplayed = run.unplayed and not run.has(metric)
    return protocol.NOT_EVALUATED if unplayed else run.protocol.of(metric)


def _values(run: Run, metric: str) -> np.ndarray:
    """The final numbers [R]; NaN for a failed run, and where the policies were not evaluated."""
    if _evaluation(run, metric) == protocol.NOT_EVALUATED:
        return np.full(len(run.runs), np.nan)
    return run.values(metric)


def number_of(printed: str) -> float | None:
    """The number with which a printed value begins, such as -1.2 of "-1.2 ± 0.1"; None without."""
    found = _NUMBER.match(printed)
    return float(found[1].replace("−", "-")) if found else None


def provenance(runs: Sequence[Run]) -> tuple[str, ...]:
    """Lines with the seeds, hardware, commits and updates of some runs."""
    seeds = sorted({seed for run in runs for seed in run.seeds})
    span = (
        f"{seeds[0]}–{seeds[-1]}"
        if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
        else ", ".join(map(str, seeds))
    )
    commits = list(dict.fromkeys(str(run.config["git_commit"] or "unknown") for run in runs))
    hardware = list(dict.fromkeys(_text(run.config["hardware"]) for run in runs))
    by_label: dict[str, list[Run]] = {}
    for run in runs:
        by_label.setdefault(run.variant, []).append(run)
    return (
        f"Seeds: {span or 'none'}",
        f"Hardware: {'; '.join(hardware)}",
        f"Git commit{'s' if len(commits) > 1 else ''}: {', '.join(commits)}",
        f"Updates: {'; '.join(updates_of(label, some) for label, some in by_label.items())}",
    )


def updates_of(label: str, runs: Sequence[Run]) -> str:
    """How long the runs of a column were trained, as text.

    It has the updates of the last stage, and the budget in slots from which they follow, if any.
    """
    configs = [run.config["config"] for run in runs]
    counts, budgets = ({config.get(name, 0) for config in configs} for name in ("steps", "slots"))
    span = f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"
    return f"{label} {span}" + (f" ({max(budgets):,} slots)" if max(budgets) else "")


def _labels(
    wanted: Sequence[str] | Mapping[str, str] | None, found: Iterable[str]
) -> dict[str, str]:
    if wanted is None:
        return {name: name for name in found}
    return dict(wanted) if isinstance(wanted, Mapping) else {name: name for name in wanted}


def _no_seed_twice(group: Sequence[Run]) -> None:
    owner: dict[int, Path] = {}
    for run in group:
        for seed in run.seeds:
            if seed in owner:
                raise BrokenResult(
                    f"{run.path / 'final.json'}: field 'seed': expected seeds that "
                    f"{owner[seed]} does not have, "
                    f"for {run.variant} on {run.task}, found {seed}"
                )
            owner[seed] = run.path


def _averages(
    values: Mapping[tuple[str, str], np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    paper: Mapping[tuple[str, str], str],
    metric: str,
) -> dict[tuple[str, str], Cell]:
    whole = {
        name: tuple(values[row, name] for row in rows)
        for name in columns
        if rows and all((row, name) in values for row in rows)
    }
    cells = {name: Cell(tasks, "", paper.get((AVERAGE, name), "")) for name, tasks in whole.items()}
    known = [name for name, cell in cells.items() if np.isfinite(cell.mean)]
    sign = -1 if metric in SMALLER_IS_BETTER else 1
    best = max(known, key=lambda name: sign * cells[name].mean, default=None)
    return {
        (AVERAGE, name): dataclasses.replace(cell, mark="best") if name == best else cell
        for name, cell in cells.items()
    }


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value or "unknown")
