"""Tables from result folders: tasks down, methods across; markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxoff.errors import BrokenResult
from jaxoff.eval import statistics
from jaxoff.files import write_text
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
PAPER_FIELDS = ("table", "row", "column", "value", "source")


@dataclasses.dataclass(frozen=True)
class Cell:
    """Final values per seed of one method; NaN for a lost run.

    tasks: an array [n_t] per task; one array, except in an average over tasks. mark: "best", "*"
    (no significant difference from the best) or "". paper: the number that the paper prints.
    """

    tasks: tuple[np.ndarray, ...]
    mark: str = ""
    paper: str = ""

    @property
    def total(self) -> int:
        """Number of runs, including lost ones."""
        return sum(values.size for values in self.tasks)

    @property
    def kept(self) -> int:
        """Number of runs that were not lost."""
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
    provenance: lines on seeds, hardware, commits and updates of the runs. has_paper: whether
    numbers that a paper prints are shown.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    metric: str
    note: str
    provenance: tuple[str, ...]
    commands: tuple[str, ...]
    has_paper: bool = False
    standard_error: bool = False  # show the standard error of the mean, not the deviation


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
    instead of the standard deviation. Folders of the same task and variant are pooled. Raises
    BrokenResult where a metric is missing, or two such folders hold the same seed.
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
        place: np.concatenate([run.values(metric) for run in group])
        for place, group in groups.items()
    }
    labels, names = tuple(dict.fromkeys(row_of.values())), tuple(dict.fromkeys(column_of.values()))
    cells = {}
    for row in labels:
        known = {name: values[row, name] for name in names if (row, name) in values}
        marks = statistics.marks(known, higher=metric not in SMALLER_IS_BETTER)
        for name, mark in marks.items():
            cells[row, name] = Cell((values[row, name],), mark, (paper or {}).get((row, name), ""))
    if average:
        cells |= _averages(values, labels, names, paper or {})
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
        paper is not None,
        standard_error,
    )


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


def cell_lines(
    cell: Cell | None, digits: int, has_paper: bool, standard_error: bool = False
) -> list[str]:
    """The lines of text in a cell, without marks; z in a format avoids a minus sign before zero."""
    if cell is None:
        return [NONE]
    width = cell.std / np.sqrt(cell.kept) if standard_error and cell.kept else cell.std
    spread = f" ± {width:z.{digits}f}" if np.isfinite(width) else ""
    lines = [f"{cell.mean:z.{digits}f}{spread}" if np.isfinite(cell.mean) else NONE]
    iqm, low, high = cell.iqm
    if np.isfinite(iqm):
        lines.append(f"IQM {iqm:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]")
    if cell.kept < cell.total:
        lines.append(f"{cell.kept}/{cell.total} runs")
    if has_paper:
        lines.append(f"paper {cell.paper or NONE}")
    return lines


def digits_of(table: Table, row: str) -> int:
    """Number of decimals in a row: fewer for large numbers, more for small ones."""
    means = [
        abs(table.cells[row, name].mean) for name in table.columns if (row, name) in table.cells
    ]
    largest = max((value for value in means if np.isfinite(value)), default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 100 else 2 if largest >= 1 else 3


def legend(table: Table) -> str:
    """The meaning of a table's numbers and marks, as text."""
    lost = any(cell.kept < cell.total for cell in table.cells.values())
    spread = "standard error" if table.standard_error else "standard deviation"
    return (
        f"{METRICS.get(table.metric, table.metric).capitalize()}: mean ± {spread} over "
        "seeds, then the interquartile mean "
        f"with its {statistics.LEVEL:.0%} stratified bootstrap interval "
        f"({statistics.RESAMPLES} resamples). Bold: best mean. "
        "*: no significant difference from it (two-sided Welch test, p ≥ "
        f"{statistics.SIGNIFICANCE})."
        + (" k/n runs: the others ended in NaN and are not in the mean." if lost else "")
        + (
            f" paper: the number that the paper prints, {NONE} where it is not known."
            if table.has_paper
            else ""
        )
    )


def markdown(table: Table) -> str:
    """The table as GitHub markdown, with its legend and provenance."""
    safe = lambda text: text.replace("|", "\\|")
    head = "| " + " | ".join(["task", *map(safe, table.columns)]) + " |"
    lines = [f"# {table.title or 'Results'}", "", head, "|" + "---|" * (len(table.columns) + 1)]
    for row in table.rows:
        texts = [safe(row)]
        for name in table.columns:
            cell = table.cells.get((row, name))
            first, *rest = cell_lines(
                cell, digits_of(table, row), table.has_paper, table.standard_error
            )
            mark = cell.mark if cell else ""
            texts.append(
                "<br>".join(
                    [
                        f"**{first}**"
                        if mark == "best"
                        else f"{first} \\*"
                        if mark == "*"
                        else first,
                        *rest,
                    ]
                )
            )
        lines.append("| " + " | ".join(texts) + " |")
    lines += ["", legend(table).replace("*:", "\\*:"), ""]
    lines += [table.note, ""] if table.note else []
    lines += [f"- {line}" for line in table.provenance] + [
        f"- Command: `{command}`" for command in table.commands
    ]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX table environment that needs booktabs; provenance in comments."""
    head = [
        f"% {line}"
        for line in (*table.provenance, *(f"Command: {command}" for command in table.commands))
    ]
    body = []
    for row in table.rows:
        texts = [_tex(row)]
        for name in table.columns:
            cell = table.cells.get((row, name))
            first, *rest = map(
                _tex, cell_lines(cell, digits_of(table, row), table.has_paper, table.standard_error)
            )
            mark = cell.mark if cell else ""
            first = (
                rf"\textbf{{{first}}}"
                if mark == "best"
                else f"{first}$^*$"
                if mark == "*"
                else first
            )
            stacked = r" \\ ".join([first, *(rf"\scriptsize {line}" for line in rest)])
            texts.append(rf"\shortstack{{{stacked}}}" if rest else first)
        body.append(" & ".join(texts) + r" \\")
    caption = " ".join(
        part for part in (table.title and f"{table.title}.", legend(table), table.note) if part
    )
    return "\n".join(
        [
            *head,
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(caption)}}}",
            rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
            r"\toprule",
            " & ".join(["task", *map(_tex, table.columns)]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def comma_separated(table: Table) -> str:
    """The table as CSV, a line per cell, with every seed's value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "row",
            "column",
            "metric",
            "runs",
            "kept",
            "mean",
            "std",
            "iqm",
            "iqm_low",
            "iqm_high",
            "mark",
            "paper",
            "values",
        ]
    )
    for row in table.rows:
        for name in table.columns:
            cell = table.cells.get((row, name))
            if cell is None:
                continue
            numbers = [
                f"{value:.8g}" if np.isfinite(value) else ""
                for value in (cell.mean, cell.std, *cell.iqm)
            ]
            values = " ".join(f"{value:.8g}" for values in cell.tasks for value in values)
            writer.writerow(
                [
                    row,
                    name,
                    table.metric,
                    cell.total,
                    cell.kept,
                    *numbers,
                    cell.mark,
                    cell.paper,
                    values,
                ]
            )
    return out.getvalue()


def write(table: Table, stem: str | Path) -> list[Path]:
    """Write stem.md, stem.tex and stem.csv, each completely or not at all; returns their paths."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    texts = {".md": markdown(table), ".tex": latex(table), ".csv": comma_separated(table)}
    return [write_text(stem.with_name(stem.name + ending), text) for ending, text in texts.items()]


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
) -> dict[tuple[str, str], Cell]:
    whole = {
        name: tuple(values[row, name] for row in rows)
        for name in columns
        if all((row, name) in values for row in rows)
    }
    cells = {name: Cell(tasks, "", paper.get((AVERAGE, name), "")) for name, tasks in whole.items()}
    known = [name for name, cell in cells.items() if np.isfinite(cell.mean)]
    best = max(known, key=lambda name: cells[name].mean, default=None)
    return {
        (AVERAGE, name): dataclasses.replace(cell, mark="best") if name == best else cell
        for name, cell in cells.items()
    }


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value or "unknown")


_TEX = {letter: f"\\{letter}" for letter in "&%#_${}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "—": "---",
    "–": "--",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
