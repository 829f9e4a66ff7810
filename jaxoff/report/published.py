"""Numbers that others have published, beside ours: files of them, and a table for a report.

`jaxoff report FOLDER --published DIR` reads every CSV file of DIR, such as the repository's
`experiments/published`, and adds a table of the numbers on the report's datasets.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxoff.errors import BrokenResult, InvalidSetting
from jaxoff.files import write_text
from jaxoff.report.load import Run
from jaxoff.report.render import escaped

KINDS = ("raw", "normalised", "win rate")
# What of a run a kind stands beside; win rates are printed in percent.
METRICS = {"raw": ("return_mean", 1.0), "normalised": ("score", 1.0), "win rate": ("win_rate", 100)}
# Our names of tasks that have the dynamics of a public dataset, whose data are our own.
SAME = {
    **{f"mpe/{world}": f"omar:mpe/simple_{world}" for world in ("spread", "tag", "world")},
    "mamujoco/halfcheetah-2x3": "omar:mamujoco/2halfcheetah",
}


class Number(NamedTuple):
    """A published number: source and table, dataset, method ("data" for the mean of a dataset),
    its deviation where it was printed, kind, and remarks.
    """

    source: str
    table: str
    dataset: str
    method: str
    number: float
    deviation: float | None
    kind: str
    remarks: str


def read(file: str | Path) -> list[Number]:
    """The numbers of a CSV file. Raises BrokenResult naming the line and the field."""
    file = Path(file)
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != Number._fields:
            found = ",".join(reader.fieldnames or ())
            raise BrokenResult(
                f"{file}: header: expected {','.join(Number._fields)}, found {found}"
            )
        return [_number(file, reader.line_num, line) for line in reader]


def _number(file: Path, line: int, fields: Mapping[str, str]) -> Number:
    place = f"{file}: line {line}"
    if fields["kind"] not in KINDS:
        raise BrokenResult(
            f"{place}: field 'kind': expected {', '.join(KINDS)}, found {fields['kind']!r}"
        )
    for name in ("source", "table", "dataset", "method"):
        if not fields[name]:
            raise BrokenResult(f"{place}: field '{name}': expected a text, found none")
    try:
        number = float(fields["number"])
        deviation = float(fields["deviation"]) if fields["deviation"] else None
    except ValueError as error:
        raise BrokenResult(f"{place}: expected a number, found {error}") from None
    if not math.isfinite(number):
        raise BrokenResult(f"{place}: field 'number': expected a finite number, found {number}")
    return Number(**dict(fields) | {"number": number, "deviation": deviation})  # type: ignore[arg-type]


def read_folder(folder: str | Path) -> list[Number]:
    """The numbers of every CSV file of a folder. Raises InvalidSetting where there is none."""
    files = sorted(Path(folder).glob("*.csv"))
    if not files:
        raise InvalidSetting(f"--published {folder}: expected a folder of CSV files, found none")
    return [number for file in files for number in read(file)]


def dataset_of(task: str) -> str:
    """The public dataset of a task: the task itself, or what has the same dynamics."""
    scenario, _, quality = task.rpartition("/")
    return f"{SAME[scenario]}/{quality.title()}" if scenario in SAME else task


def write(numbers: Sequence[Number], runs: Sequence[Run], stem: Path) -> bool:
    """Write stem.md: published numbers on the datasets of some results, with ours beside them.

    Nothing is written where there is no such number; returns whether there is one.
    """
    lines = []
    for task in dict.fromkeys(run.task for run in runs):
        for number in (x for x in numbers if x.dataset == dataset_of(task)):
            spread = "" if number.deviation is None else f" ± {number.deviation:g}"
            cells = (
                task,
                number.method,
                f"{number.number:g}{spread}",
                number.kind,
                _ours(runs, task, number),
                f"{number.source}, {number.table}",
                number.remarks,
            )
            lines.append("| " + " | ".join(map(escaped, cells)) + " |")
    if not lines:
        return False
    head = "| task | method | published | kind | ours | source | remarks |"
    note = (
        "Ours: the mean over seeds of the runs with this method's name, of the same kind. Our data "
        "of a task without a source are from our own recipes, so that numbers on it tell no more "
        "than an order. `data` is the mean return of the dataset."
    )
    text = ["# Published numbers", "", head, "|---" * 7 + "|", *lines, "", note]
    write_text(stem.with_name(f"{stem.name}.md"), "\n".join(text) + "\n")
    return True


def _ours(runs: Sequence[Run], task: str, number: Number) -> str:
    """The means of our runs with a method's name on a task, by label."""
    metric, factor = METRICS[number.kind]
    named = {name.lower() for name in (number.method, number.method.removeprefix("MA-"))}
    found = []
    for run in runs:
        labels = {
            run.variant.lower(),
            run.variant.lower().removeprefix("ma-"),
            run.config["method"],
        }
        labels |= {label.partition(" (")[0] for label in labels}  # without a point of a grid
        if run.task == task and labels & named and run.has(metric):
            values = run.values(metric)
            kept = values[~run.failed]
            if kept.size:
                found.append(f"{run.variant} {factor * kept.mean():.4g}")
    return ", ".join(dict.fromkeys(found))
