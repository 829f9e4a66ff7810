"""Numbers of claims that need no training job: closed forms, exact iterations, toy runs that are
one program. Each measure takes seconds, or is asked for by name; its rows are put into the store
of its paper, and are not computed again while they are there.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxoff.experiments.paper import store_of

from jaxoff import runtime
from jaxoff.report import store, store_file
from jaxoff.report.store_file import Row

MEASURED = ("inspo", "omar", "sit", "pjap")  # papers with a `measured.py`


class Measured(NamedTuple):
    """Numbers by name under a label, on a task, of a seed or another index."""

    label: str
    task: str
    seed: int
    numbers: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Measure:
    """A function that gives numbers; version: raised when what it computes changes.

    slow: whether it takes minutes, and is made only where it is asked for by name. public: whether
    it reads public data, whose folder is then its argument, and is asked for by name as well.
    """

    compute: Callable[..., Iterable[Measured]]
    version: int = 1
    slow: bool = False
    public: bool = False

    @property
    def asked(self) -> bool:
        """Whether it is made only where it is asked for."""
        return self.slow or self.public


def measures_of(paper: str) -> dict[str, Measure]:
    """The measures of a paper, by name."""
    if paper not in MEASURED:
        return {}
    return importlib.import_module(f"jaxoff.experiments.{paper}.measured").MEASURES


def source_of(name: str, measure: Measure) -> str:
    """The source that the rows of a measure name."""
    return f"measure {name}, version {measure.version}"


def command_of(name: str, measure: Measure) -> str:
    """The command that computes a measure."""
    asked = f" MEASURE={name}" * measure.asked
    return f"make evidence{asked}{' DATA=DIR' * measure.public}"


def missing(paper: str, rows: Iterable[Row], names: Iterable[str] = ()) -> dict[str, Measure]:
    """The measures whose rows a store lacks; those that must be asked for only where named."""
    held = {row.source for row in rows}
    return {
        name: measure
        for name, measure in measures_of(paper).items()
        if source_of(name, measure) not in held and (name in names or not measure.asked)
    }


def rows_of(paper: str, name: str, measure: Measure, data_dir: str | None = None) -> list[Row]:
    """Compute a measure: its rows."""
    begin = time.perf_counter()
    found = list(measure.compute(data_dir) if measure.public else measure.compute())
    seconds = (time.perf_counter() - begin) / len(found)
    return [
        Row(
            key=store.digest({"paper": paper, "measure": name, "label": x.label, "task": x.task}),
            method="",
            label=x.label,
            task=x.task,
            seed=x.seed,
            numbers=dict(x.numbers),
            commit=runtime.git_commit(),
            hardware=runtime.hardware(),
            seconds=seconds,
            command=command_of(name, measure),
            source=source_of(name, measure),
        )
        for x in found
    ]


def update(
    paper: str,
    names: Iterable[str] = (),
    data_dir: str | None = None,
    *,
    dirty: bool = False,
    file: Path | None = None,
) -> list[str]:
    """Compute what the store of a paper lacks, and put it there; returns the names of measures.

    names: measures that are asked for. data_dir: the folder of public data. Raises InvalidSetting
    for a source tree with changes that no commit has, unless dirty.
    """
    file = store_of(paper) if file is None else file
    made = missing(paper, store_file.read(file), names)
    for name, measure in made.items():
        rows = rows_of(paper, name, measure, data_dir)
        old = f"measure {name}, version "
        kept = [row for row in store_file.read(file) if not row.source.startswith(old)]
        if len(kept) < len(store_file.read(file)):  # rows of another version give way
            store_file.write(file, kept, store_file.read_curves(file))
        store.put(file, rows, dirty=dirty)
    return list(made)
