"""The commands `jaxoff run` and `jaxoff status`, and `jaxoff report` of an experiment's file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from jaxoff import runtime
from jaxoff.cli.common import Many, as_folder, console, pairs
from jaxoff.errors import BrokenResult

if TYPE_CHECKING:
    from jaxoff.engines import Assignment
    from jaxoff.engines.experiment import Experiment
    from jaxoff.report import tables
    from jaxoff.report.load import Run

Settings = Annotated[tuple[str, ...], Many]


def run(
    file: tyro.conf.Positional[Path],
    /,
    *,
    engine: Literal["local", "slurm", "ray"] = "local",
    workers: int | None = None,
    engine_set: Settings = (),
    scale: str = "",
    out: Path | None = None,
    extend: bool = False,
) -> None:
    """Train every job of an experiment that is not done yet, and write its table.

    Args:
        file: the experiment, a TOML file.
        engine: where jobs are done. local: here, one after the other; slurm: a Slurm cluster, as an
            array; ray: a Ray cluster.
        workers: most jobs at once; with local, processes that share the cores.
        engine_set: NAME=VALUE sets a setting of the engine, over those in the file's table
            [engines.NAME]; may be given several times.
        scale: the table [scale.NAME] of the file whose values replace the file's own.
        out: folder of the results; by default results/FILE, or results/FILE-SCALE.
        extend: train what jobs lack that were trained before the file was changed: more updates,
            or more seeds or grid values.
    """
    experiment, assignments, _ = _read(file, scale, out, extend)
    from jaxoff import engines

    settings = {**experiment.engines.get(engine, {}), **pairs(engine_set, "--engine-set")}
    if workers is not None:
        settings["workers"] = workers
    engines.check(engine, settings)
    runtime.setup()
    experiment.check_metric()
    engines.run(assignments, engines.choose(engine, settings), _tell)
    report(file, scale, out)


def status(
    file: tyro.conf.Positional[Path],
    /,
    *,
    scale: str = "",
    out: Path | None = None,
) -> None:
    """How far an experiment is: jobs done, running, failed and to do, and the time left.

    Args:
        file: the experiment, a TOML file.
        scale: the scale that was given to `jaxoff run`.
        out: the folder that was given to `jaxoff run`.
    """
    _, assignments, place = _read(file, scale, out)
    from jaxoff.engines.status import STATES
    from jaxoff.engines.status import status as look

    found = look(assignments)
    shown = Table(title=f"{place}")
    for name in ("method", "task", "state", "done", "time"):
        shown.add_column(name, justify="right" if name in ("done", "time") else "left")
    for job in found.jobs:
        spec = job.assignment.spec
        took = f"{_time(job.seconds)}" if job.seconds else ""
        state = job.state if not job.text else f"{job.state}: {job.text}"
        shown.add_row(spec.label, spec.task_name, state, f"{100 * job.share:.0f} %", took)
    console.print(shown)
    counts = ", ".join(f"{found.count(state)} {state}" for state in STATES)
    left = "not known yet" if found.left_s is None else _time(found.left_s)
    console.print(f"{len(found.jobs)} jobs: {counts}; time left: {left}", soft_wrap=True)


def report(
    file: Path,
    scale: str = "",
    out: Path | None = None,
    choose: Callable[[Sequence[Run]], Sequence[Run]] = lambda runs: runs,
    show: Callable[[tables.Table], None] | None = None,
) -> None:
    """Write and print the table of an experiment, of its jobs that are done.

    choose: takes the runs and returns those that the table is made of. show: prints a table.
    """
    experiment, assignments, place = _read(file, scale, out, extend=True)
    from jaxoff.engines import table
    from jaxoff.report.load import load_run

    done = [each for each in assignments if each.done()]
    missing = [each.name for each in assignments if each not in done]
    if not done:
        raise BrokenResult(
            f"{place}: expected results of {file}, found none; `jaxoff run {file}` makes them"
        )
    runs = choose([load_run(each.folder) for each in done])
    page = table.write(experiment, runs, place, missing, show or _show)
    console.print(f"page: {page}", soft_wrap=True)


def _show(table: tables.Table) -> None:
    """Print a table: a line for each row, a column for each method."""
    from jaxoff.report import render

    shown = Table(title=f"{table.title}: mean ± standard deviation over seeds")
    for name in ("task", *table.columns):
        shown.add_column(name)
    for row in table.rows:
        cells = [table.cells.get((row, column)) for column in table.columns]
        texts = [
            ""
            if cell is None
            else render.cell_lines(cell, 3)[0]
            if cell.kept or cell.unplayed
            else "failed"
            for cell in cells
        ]
        shown.add_row(row, *texts)
    console.print(shown)


def _read(
    file: Path, scale: str, out: Path | None, extend: bool = False
) -> tuple[Experiment, list[Assignment], Path]:
    """The experiment of a file, its jobs, and the folder of its results."""
    runtime.check_file(file, "an experiment, a TOML file")
    place = out or Path("results") / (f"{file.stem}-{scale}" if scale else file.stem)
    as_folder(place, "--out")
    from jaxoff.engines import experiment

    found = experiment.read(file, scale)
    return found, found.assignments(place, extend), place


def _tell(text: str) -> None:
    console.print(text, soft_wrap=True)


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
