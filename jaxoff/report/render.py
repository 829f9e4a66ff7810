"""Tables as Markdown, LaTeX and CSV. Labels of users are shown as they are, never as markup."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxoff.eval import statistics
from jaxoff.files import write_text
from jaxoff.report.protocol import UNPLAYED
from jaxoff.report.tables import AVERAGE, METRICS, NONE, Cell, Table

MOST_COLUMNS = 8  # of methods, unless there are as many tasks
IQM_TITLE = f"Interquartile means with {statistics.LEVEL:.0%} intervals"
IQM_LEGEND = (
    "Interquartile mean over seeds: a quarter of the values is left out at either end. In "
    f"brackets its {statistics.LEVEL:.0%} stratified bootstrap interval "
    f"({statistics.RESAMPLES:,} resamples)."
)
CSV_FIELDS = (
    *("row", "column", "metric", "runs", "kept", "mean", "std", "iqm", "iqm_low", "iqm_high"),
    *("mark", "paper", "values", "evaluation"),
)


def cell_lines(cell: Cell | None, digits: int, standard_error: bool = False) -> list[str]:
    """The lines of text in a cell, without marks; z in a format avoids a minus sign before zero."""
    if cell is None:
        return [NONE]
    width = cell.std / np.sqrt(cell.kept) if standard_error and cell.kept else cell.std
    spread = f" ± {width:z.{digits}f}" if np.isfinite(width) else ""
    lines = [f"{cell.mean:z.{digits}f}{spread}" if np.isfinite(cell.mean) else NONE]
    if cell.unplayed:
        lines = ["not evaluated"]
    elif cell.kept < cell.total:
        lines.append(f"{cell.total - cell.kept} of {cell.total} runs failed")
    if cell.paper:
        lines.append(f"paper {cell.paper}")
    return lines


def iqm_text(cell: Cell | None, digits: int) -> str:
    """The interquartile mean of a cell and its interval."""
    iqm, low, high = cell.iqm if cell else (float("nan"),) * 3
    if not np.isfinite(iqm):
        return NONE
    return f"{iqm:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"


def digits_of(table: Table, row: str) -> int:
    """Number of decimals in a row: fewer for large numbers, more for small ones."""
    means = [
        abs(table.cells[row, name].mean) for name in table.columns if (row, name) in table.cells
    ]
    largest = max((value for value in means if np.isfinite(value)), default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 100 else 2 if largest >= 1 else 3


def legend(table: Table) -> str:
    """The meaning of a table's numbers and marks, as text; the same for tables of one kind."""
    failed = any(cell.kept < cell.total and not cell.unplayed for cell in table.cells.values())
    unplayed = any(cell.unplayed for cell in table.cells.values())
    spread = "standard error" if table.standard_error else "standard deviation"
    return (
        f"Mean ± {spread} over seeds. Bold: best mean. "
        "*: no significant difference from it (two-sided Welch test, p ≥ "
        f"{statistics.SIGNIFICANCE})."
        + (" Failed runs met a number that is not finite; no statistic has them." if failed else "")
        + (f" Not evaluated: {UNPLAYED}." if unplayed else "")
        + (
            " paper: the number that the paper prints, where it is known."
            if any(cell.paper for cell in table.cells.values())
            else ""
        )
    )


def heading(table: Table) -> str:
    """The table's title, which names its numbers."""
    title, metric = table.title or "Results", METRICS.get(table.metric, table.metric)
    return title if metric.lower() in title.lower() else f"{title}, {metric}"


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, in one line; a line break becomes <br>."""
    text = _MARKS.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), text.strip("\n"))
    return "<br>".join(text.splitlines())


def code(text: str) -> str:
    """A code span of Markdown that holds any text; line breaks become spaces."""
    text = " ".join(text.splitlines())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def rows_of(
    columns: Sequence[str], rows: Sequence[str], cell: Callable[[str, str], Sequence[str]]
) -> list[str]:
    """The lines of a Markdown table; cell: (row, column) -> lines, in Markdown.

    Tasks go down, or methods do where there are so many that the table would be too wide.
    """
    if turned := len(columns) > max(MOST_COLUMNS, len(rows)):
        across, down = rows, columns
    else:
        across, down = columns, rows
    first = "method" if turned else "task"
    lines = ["| " + " | ".join([first, *map(escaped, across)]) + " |"]
    lines.append("|" + "---|" * (len(across) + 1))
    for name in down:
        cells = [cell(other, name) if turned else cell(name, other) for other in across]
        lines.append("| " + " | ".join([escaped(name), *map("<br>".join, cells)]) + " |")
    return lines


def folded(title: str, lines: Iterable[str]) -> list[str]:
    """Lines of Markdown that are hidden until a reader unfolds them."""
    # markdown="1" has MkDocs read what is inside as Markdown; GitHub does so without it
    return [f'<details markdown="1"><summary>{escaped(title)}</summary>', "", *lines, "</details>"]


def markdown(table: Table) -> str:
    """The table as GitHub markdown, with interquartile means folded, its legend and provenance."""

    def shown(row: str, name: str) -> list[str]:
        cell = table.cells.get((row, name))
        first, *rest = cell_lines(cell, digits_of(table, row), table.standard_error)
        mark = cell.mark if cell else ""
        first = f"**{first}**" if mark == "best" else f"{first} \\*" if mark == "*" else first
        return [first, *rest]

    def iqm(row: str, name: str) -> list[str]:
        return [iqm_text(table.cells.get((row, name)), digits_of(table, row))]

    lines = [f"# {escaped(heading(table))}", ""]
    lines += [*rows_of(table.columns, table.rows, shown), ""]
    if any(cell.kept > 1 for cell in table.cells.values()):
        lines += folded(IQM_TITLE, [*rows_of(table.columns, table.rows, iqm), "", IQM_LEGEND, ""])
        lines += [""]
    lines += [legend(table).replace("*:", "\\*:"), ""]
    lines += [escaped(table.evaluation), ""] if table.evaluation else []
    lines += [table.note, ""] if table.note else []
    lines += [f"- {escaped(line)}" for line in table.provenance]
    lines += [f"- Command: {code(command)}" for command in table.commands]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX table environment that needs booktabs; provenance in comments."""
    head = [
        f"% {' '.join(line.splitlines())}"
        for line in (*table.provenance, *(f"Command: {command}" for command in table.commands))
    ]
    body = []
    for row in table.rows:
        texts = [_tex(row)]
        for name in table.columns:
            cell = table.cells.get((row, name))
            first, *rest = map(_tex, cell_lines(cell, digits_of(table, row), table.standard_error))
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
    parts = (f"{heading(table)}.", legend(table), table.evaluation, table.note)
    caption = " ".join(filter(None, parts))
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
    writer.writerow(CSV_FIELDS)
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
                    cell.evaluation,
                ]
            )
    return out.getvalue()


def read(file: str | Path, title: str = "") -> Table | None:
    """The table that `comma_separated` wrote, without its provenance; None for another file.

    The average over tasks is not read, since its values are not told apart by task.
    """
    with Path(file).open(newline="") as stream:
        reader = csv.DictReader(stream)
        # files of earlier versions do not say how the values were found
        if tuple(reader.fieldnames or ()) not in (CSV_FIELDS, CSV_FIELDS[:-1]):
            return None
        lines = [line for line in reader if line["row"] != AVERAGE]
    cells = {
        (line["row"], line["column"]): Cell(
            (np.array(line["values"].split(), np.float64),),
            line["mark"],
            line["paper"],
            line.get("evaluation", ""),
        )
        for line in lines
    }
    rows, columns = (tuple(dict.fromkeys(line[name] for line in lines)) for name in CSV_FIELDS[:2])
    metric = lines[0]["metric"] if lines else ""
    return Table(title, rows, columns, cells, metric, "", (), ())


def write(table: Table, stem: str | Path) -> list[Path]:
    """Write stem.md, stem.tex and stem.csv, each completely or not at all; returns their paths."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    texts = {".md": markdown(table), ".tex": latex(table), ".csv": comma_separated(table)}
    return [write_text(stem.with_name(stem.name + ending), text) for ending, text in texts.items()]


_MARKS = re.compile(r"[\\`*\[\]<>&|$~]|(?<![^\W_])_|_(?![^\W_])")  # not the _ within a word
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_TEX = {letter: f"\\{letter}" for letter in "&%#_${}"} | {
    # after a line break of LaTeX, [ and * would be its argument
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\n": " ",
    "\t": " ",
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
