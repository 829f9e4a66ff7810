"""Rows of a store from committed tables that have a number of every seed.

Such a table was written before there was a store: its CSV file has the values of all seeds in a
cell, and the Markdown file beside it the hardware, the commit and the command. Its rows have no
settings and no updates, and name their table as their source; a job is never taken from them, and
they give way to the rows of runs (`python -m jaxoff.experiments.evidence --import-tables`).
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxoff.experiments.evidence import REFERENCE
from jaxoff.experiments.inspo import runs as inspo
from jaxoff.experiments.paper import store_of

from jaxoff.errors import BrokenResult
from jaxoff.report import store, store_file
from jaxoff.report.store_file import Row


class Tables(NamedTuple):
    """Tables with the same rows: stems of their files, and the task of each row's label."""

    stems: tuple[str, ...]
    tasks: Mapping[str, str]


def _by_label(tasks: Mapping[str, str]) -> dict[str, str]:
    return {label: task for task, label in tasks.items()}


TABLES = {
    "inspo": (
        Tables(("table2", "table2-exact", "table2-out-of-data"), _by_label(inspo.MNE)),
        Tables(("table3",), _by_label(inspo.BRIDGE)),
    ),
}


def about(file: Path) -> dict[str, Any]:
    """Hardware, commit and command of a table, from the lines at the end of its Markdown file."""
    lines = file.read_text().splitlines()
    found = {}
    for name, pattern in (
        ("hardware", r"- Hardware: (.*)"),
        ("commit", r"- Git commits?: (.*)"),
        ("command", r"- Command: `(.*)`"),
    ):
        matches = [match[1] for line in lines if (match := re.fullmatch(pattern, line))]
        if not matches:
            raise BrokenResult(f"{file}: expected a line '{pattern}', found none")
        found[name] = matches[-1]
    return found


def rows(paper: str) -> list[Row]:
    """The rows of the committed tables of a paper; several tables fill one row."""
    found: dict[tuple[str, str, int], Row] = {}
    for tables in TABLES.get(paper, ()):
        for stem in tables.stems:
            file = REFERENCE / paper / f"{stem}.csv"
            told = about(file.with_suffix(".md"))
            with file.open(newline="") as stream:
                for line in csv.DictReader(stream):
                    task = tables.tasks[line["row"]]
                    for seed, value in enumerate(line["values"].split()):
                        place = task, line["column"], seed
                        row = found.setdefault(place, _row(paper, stem, *place, told))
                        found[place] = _with(row, line["metric"], float(value))
    return list(found.values())


def _row(paper: str, stem: str, task: str, label: str, seed: int, told: Mapping[str, Any]) -> Row:
    key = store.digest({"paper": paper, "table": stem, "task": task, "label": label})
    method = inspo.COLUMNS[label].method
    source = f"experiments/reference/{paper}/{stem}.csv"
    return Row(key, method, label, task, seed, scale="cpu", source=source, **told)


def _with(row: Row, metric: str, value: float) -> Row:
    changed: dict[str, Any] = {metric: value}
    if metric in store_file.REAL:
        return dataclasses.replace(row, **changed)
    return dataclasses.replace(row, numbers={**row.numbers, metric: value})


def update(paper: str) -> int:
    """Put the rows of a paper's tables into its store, where it has none of the same label, task
    and scale; returns how many are new.
    """
    file = store_of(paper)
    held = {(row.task, row.label, row.scale) for row in store_file.read(file) if not row.of_table}
    new = [row for row in rows(paper) if (row.task, row.label, row.scale) not in held]
    return store.put(file, new)[0] if new else 0
