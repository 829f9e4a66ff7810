"""The file of a results store: a CSV file with a row for each run, and its curves beside it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxoff.errors import BrokenResult
from jaxoff.files import plain, write_text

TEXTS = (
    *("key", "method", "label", "task", "scale", "actions"),
    *("data", "commit", "hardware", "command", "source"),
)
WHOLE = ("seed", "steps", "episodes", "failed_at")
REAL = ("return_mean", "return_std", "win_rate", "score", "seconds")
OBJECTS = ("settings", "numbers")


@dataclasses.dataclass(frozen=True)
class Row:
    """A run: what was run, how its policy was evaluated, what came out, where and when it ran.

    scale: the size of the experiment, as cpu or full. settings: what differs from the method's and
    the command's defaults. actions: "sampled", "modes" of the policies, or "" where no policy was
    evaluated. episodes: of the evaluation. return_std: over these episodes. numbers: further final
    numbers by name. failed_at: updates after which a number was not finite. data: first digits of
    the dataset's SHA-256. seconds: of training, without compilation, the run's share of its job.
    source: the result folder or the program that the row is from.
    """

    key: str
    method: str
    label: str
    task: str
    seed: int
    scale: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    actions: str = ""
    episodes: int | None = None
    return_mean: float | None = None
    return_std: float | None = None
    win_rate: float | None = None
    score: float | None = None
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    failed_at: int | None = None
    data: str = ""
    commit: str = ""
    hardware: str = ""
    seconds: float | None = None
    command: str = ""
    source: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """Key and seed, which no other row of a store has."""
        return self.key, self.seed

    @property
    def of_table(self) -> bool:
        """Whether the row is from a table that was committed before there was a store."""
        return self.source.endswith(".csv")

    def value(self, metric: str) -> float:
        """The final number of this name; NaN where the run failed or has none."""
        found = getattr(self, metric) if metric in REAL else self.numbers.get(metric)
        return float("nan") if found is None or self.failed_at is not None else float(found)


class Curve(NamedTuple):
    """A metric of a run over its updates."""

    key: str
    seed: int
    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def curves_of(file: str | Path) -> Path:
    """The file of the curves of a store."""
    return Path(file).with_name(f"{Path(file).stem}-curves.csv")


def read(file: str | Path) -> list[Row]:
    """The rows of a store; none where there is no file. Raises BrokenResult naming the field."""
    rows: dict[tuple[str, int], Row] = {}
    for number, line in _lines(Path(file), COLUMNS):
        row = Row(**{name: _parsed(file, number, name, line[name]) for name in COLUMNS})
        if row.place in rows:
            raise BrokenResult(
                f"{file}: line {number}: fields 'key' and 'seed': expected a run once, found "
                f"{row.label} on {row.task} with seed {row.seed} again"
            )
        rows[row.place] = row
    return list(rows.values())


def read_curves(file: str | Path) -> list[Curve]:
    """The curves beside a store. Raises BrokenResult naming the field."""
    place, found = curves_of(file), []
    for number, line in _lines(place, Curve._fields):
        try:
            steps = tuple(map(int, line["steps"].split()))
            values = tuple(map(float, line["values"].split()))
            found.append(Curve(line["key"], int(line["seed"]), line["metric"], steps, values))
        except ValueError as error:
            raise BrokenResult(f"{place}: line {number}: expected numbers, found {error}") from None
    return found


def _lines(file: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with these columns, with their numbers; none without a file."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, strict=True)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            found = ",".join(reader.fieldnames or ())
            raise BrokenResult(f"{file}: header: expected {','.join(columns)}, found {found}")
        lines = [(reader.line_num, line) for line in reader]
    for number, line in lines:
        if None in line or None in line.values():
            raise BrokenResult(f"{file}: line {number}: expected {len(columns)} fields")
    return lines


def _parsed(file: str | Path, number: int, name: str, text: str) -> Any:
    """A field of a row from its text."""
    try:
        if name in OBJECTS:
            value = json.loads(text)
            if not isinstance(value, dict):
                raise ValueError(text)
            return value
        if name in TEXTS:
            return text
        return None if text == "" else int(text) if name in WHOLE else float(text)
    except ValueError:
        kind = "an object" if name in OBJECTS else "a number"
        raise BrokenResult(
            f"{file}: line {number}: field '{name}': expected {kind}, found {text!r}"
        ) from None


def as_text(name: str, value: Any) -> str:
    """A field of a row as text; numbers have eight digits."""
    if name in OBJECTS:
        short = {k: float(f"{x:.8g}") if isinstance(x, float) else x for k, x in value.items()}
        return json.dumps(plain(short), sort_keys=True)
    if value is None:
        return ""
    return f"{value:.8g}" if name in REAL else str(value)


def write(file: str | Path, rows: Iterable[Row], curves: Iterable[Curve] = ()) -> None:
    """Write a store, in order of task, label, settings and seed; each file at once."""
    rows = sorted(rows, key=lambda row: (row.task, row.label, row.key, row.seed))
    curves = sorted(curves)
    if curves or curves_of(file).exists():
        lines: list[Sequence[Any]] = [
            (*curve[:3], " ".join(map(str, curve.steps)), " ".join(f"{x:.5g}" for x in curve[4]))
            for curve in curves
        ]
        _write(curves_of(file), Curve._fields, lines)
    cells = [tuple(as_text(name, getattr(row, name)) for name in COLUMNS) for row in rows]
    _write(Path(file), COLUMNS, cells)


def _write(file: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, out.getvalue())
