"""What was compiled for the plan, a row for each program, and the file that keeps the rows."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from jaxoff.files import write_text


@dataclasses.dataclass(frozen=True)
class Row:
    """A compiled program; sizes in bytes, work of one update of all runs."""

    learner: str
    task: str
    stage: str
    last: bool  # whether it is the method's last stage
    chip: str
    runs: int
    kernels_of: str  # matrix products: XLA's own kernels, or those of cuBLAS
    arguments: int
    results: int  # that are not written in the place of arguments
    temporaries: int
    kernels: float
    moved: float
    products: float
    others: float
    waits: float
    compile_s: float
    commit: str

    @property
    def planned(self) -> int:
        """All bytes."""
        return self.arguments + self.results + self.temporaries


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    if not path.exists():
        return []
    kinds = get_type_hints(Row)
    make: dict[Any, Any] = {bool: lambda text: text == "True", int: int, float: float, str: str}
    with path.open(newline="") as file:
        lines = csv.DictReader(file)
        return [Row(**{name: make[kinds[name]](text) for name, text in x.items()}) for x in lines]


def write(path: Path, rows: Iterable[Row], learners: Sequence[str]) -> Path:
    """Write rows, in the order of learners, chips and runs."""
    stream = io.StringIO(newline="")
    fields = [field.name for field in dataclasses.fields(Row)]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(fields)
    place = lambda row: (learners.index(row.learner), row.last, row.stage, row.chip, row.runs)
    short = lambda value: f"{value:.6g}" if isinstance(value, float) else value
    writer.writerows(
        [short(x) for x in dataclasses.astuple(row)] for row in sorted(rows, key=place)
    )
    return write_text(path, stream.getvalue())
