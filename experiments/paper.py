"""What the experiments of all papers share: columns, sizes, tuned values, one call of the command,
and the lines below a table.

A paper is a folder. `runs.py` says what is run, `figures.py` what is drawn, and `parts.py` makes
the tables, figures and sections of the page; `paper.csv` holds the numbers that the paper prints,
and `tuned.toml` the values that were searched here.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff import engines, runtime
from jaxoff.cli.common import pairs
from jaxoff.engines import Assignment, Engine
from jaxoff.engines.local import Here
from jaxoff.errors import JaxoffError
from jaxoff.files import write_text
from jaxoff.names import Task
from jaxoff.report import protocol, render, store, tables
from jaxoff.report.figures import same_looks
from jaxoff.report.html import Section, index
from jaxoff.report.load import Run, load_run
from jaxoff.training import TrainSpec
from jaxoff.training.columns import NOTHING, Column, Size
from jaxoff.types import Env, Episodes

SCALES = ("smoke", "cpu", "full")
__all__ = ["NOTHING", "Column", "Job", "Paper", "Size", "below", "main"]


def kind_of(task: str) -> str:
    """The kind of task that a size is for, as matrix, mpe or smax, of a task or a scenario."""
    return task.partition("/")[0].partition("-")[0]


def file_of(paper: str, name: str) -> Path:
    """A file in the folder of a paper."""
    return Path(__file__).parent / paper / name


def store_of(paper: str) -> Path:
    """The committed results of a paper's runs, one row each."""
    return Path(__file__).parent / "reference" / paper / "runs.csv"


def printed(paper: str, table: str) -> dict[tuple[str, str], str]:
    """(row, column) -> number, of a table that the paper prints."""
    return tables.read_paper(file_of(paper, "paper.csv"), table)


def tuned(paper: str, method: str, task: str) -> dict[str, Any]:
    """The values that were chosen for a method on a task, on other seeds than the tables'; {} where
    none were. tuned.toml has a table for each method and pattern of tasks.
    """
    found = tomllib.loads(file_of(paper, "tuned.toml").read_text()).get(method, {})
    return {
        name: value
        for pattern, table in found.items()
        if fnmatch(task, pattern)
        for name, value in table.items()
    }


def folder_name(spec: TrainSpec) -> str:
    """The folder of a job: its label, its task, and the seed of its data if that is not 0, in
    letters, digits, points and lines.
    """
    name = (
        f"{spec.label.lower().replace(', ', '-')}-{Task.parse(spec.task).slug}"
        + f"-data{spec.data_seed}" * (spec.data_seed > 0)
    )
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in name)


def below(
    runs: Sequence[Run] = (),
    seeds: str = "none",
    updates: str = "none",
    evaluation: str | None = None,
) -> list[str]:
    """The lines below a table: seeds, hardware, commit, updates, how the policies were evaluated,
    and the command as it was typed.

    runs: those that the table is made of; without any, the lines are of this very call. evaluation:
    a sentence, by default on the returns of the runs' last evaluations; "" where nothing was
    evaluated.
    """
    evaluation = protocol.of_runs(runs) if evaluation is None else evaluation
    if runs:
        about, commands = tables.provenance(runs), [run.config["command"] for run in runs]
    else:
        machine = (f"Hardware: {runtime.hardware()}", f"Git commit: {runtime.git_commit()}")
        about = (f"Seeds: {seeds}", *machine, f"Updates: {updates}")
        commands = [runtime.command()]
    lines = [*about, *filter(None, [evaluation])]
    return [*lines, *(f"Command: {render.code(command)}" for command in dict.fromkeys(commands))]


def with_data(
    table: tables.Table,
    values: Mapping[str, float],
    label: str = "data",
    paper: Mapping[tuple[str, str], str] = NOTHING,
) -> tables.Table:
    """The table with a first column of the data's own value in each row; paper: printed ones."""
    cells = {
        (row, label): tables.Cell((np.array([value]),), "data", paper.get((row, label), ""))
        for row, value in values.items()
    }
    if tables.AVERAGE in table.rows:
        each = tuple(np.array([value]) for value in values.values())
        cells[tables.AVERAGE, label] = tables.Cell(each, "data")
    return dataclasses.replace(table, columns=(label, *table.columns), cells=cells | table.cells)


@dataclasses.dataclass(frozen=True)
class Job:
    """One call of the command; data_dir: the folder of public data.

    A result that is already in `out`, or whose rows are in the paper's store, is read back, not
    trained again. use_store: whether the store is looked up. engine: where jobs are trained, by
    default in this process.
    """

    paper: str
    scale: str
    out: Path
    data_dir: str | None = None
    engine: Engine | None = dataclasses.field(default=None, compare=False)
    use_store: bool = True

    def run(
        self,
        specs: Iterable[TrainSpec],
        data: Callable[[TrainSpec], Episodes] | None = None,
        env: Callable[[TrainSpec], Env] | None = None,
        folder: str = "runs",
        *,
        whole: bool = False,
    ) -> list[Run]:
        """Train every job, or read back what is there, one folder each below out/folder.

        data, env: where they are not those that the task's name gives. whole: a figure needs
        policies or arrays, which the store does not have.
        """
        return self.train(
            {self.out / folder / folder_name(spec): spec for spec in specs}, data, env, whole
        )

    def train(
        self,
        specs: Mapping[Path, TrainSpec],
        data: Callable[[TrainSpec], Episodes] | None = None,
        env: Callable[[TrainSpec], Env] | None = None,
        whole: bool = False,
    ) -> list[Run]:
        """What `run` does, of folder -> job."""
        done = {
            path: None if whole or path.exists() else self.stored(spec)
            for path, spec in specs.items()
        }
        sent = [
            Assignment(spec, path.absolute(), data, env)
            for path, spec in specs.items()
            if done[path] is None
        ]
        # In this process a bar shows each job, and elsewhere a line.
        tell = (lambda text: None) if self.engine is None else print
        engines.run(sent, self.engine or Here(), tell)
        return [load_run(path) if run is None else run for path, run in done.items()]

    def stored(self, spec: TrainSpec) -> Run | None:
        """The results of a job from the paper's store, if all of its runs are there."""
        done = store.stored(store_of(self.paper), spec) if self.use_store else None
        if done is not None:
            print(f"{spec.label} {spec.task}: from {done.path}", flush=True)
        return done

    def table(
        self,
        stem: str,
        title: str,
        runs: Sequence[Run],
        rows: Mapping[str, str] | None = None,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        *,
        paper: str = "",
        data: Mapping[str, float] | None = None,
        data_label: str = "data",
        **shown: Any,
    ) -> str:
        """Write a table of runs, as `tables.build` makes it, and return its stem.

        paper: the table whose printed numbers stand beside. data: the data's own value by row.
        """
        known = printed(self.paper, paper) or None
        built = tables.build(runs, rows, columns, title=title, paper=known, **shown)
        if data is not None:
            built = with_data(built, data, data_label, known or NOTHING)
        render.write(built, self.out / stem)
        return stem

    def metric_tables(
        self,
        stems: Mapping[str, str],
        title: str,
        runs: Sequence[Run],
        rows: Mapping[str, str] | None = None,
        paper: str = "",
        **shown: Any,
    ) -> list[str]:
        """A table of each metric that all runs have, metric -> stem; returns the stems.

        paper: the table whose printed numbers stand beside; what it prints are returns.
        """
        made = []
        for metric, stem in stems.items():
            if all(run.has(metric) for run in runs):
                known = paper if metric in ("return_mean", "exact_value") else ""
                named = f"{title}, {tables.METRICS[metric]}"
                shown |= {"metric": metric, "paper": known}
                made.append(self.table(stem, named, runs, rows, **shown))
        return made

    def text(self, stem: str, lines: Iterable[str], about: Iterable[str]) -> str:
        """Write stem.md, with the lines that `below` gives at its end, and return the stem."""
        ends = (f"- {line}" for line in about)
        write_text(self.out / f"{stem}.md", "\n".join([*lines, "", *ends]) + "\n")
        return stem


@dataclasses.dataclass(frozen=True)
class Paper:
    """The parts of a paper, and what the command is told of them.

    groups: name -> parts that are made together; `all` is made where no part is named. public:
    parts that read public data. scales: of a part that has not all three.
    """

    name: str  # of its folder
    title: str
    about: str
    parts: Mapping[str, Callable[[Job], Section]]
    groups: Mapping[str, Collection[str]]
    public: Collection[str] = ()
    scales: Mapping[str, Collection[str]] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The labels of all columns in runs.py, in order, which figures give fixed colours."""
        tables = vars(importlib.import_module(f"jaxoff.experiments.{self.name}.runs")).values()
        columns = [table for table in tables if isinstance(table, Mapping)]
        return list(
            dict.fromkeys(
                label
                for table in columns
                for label, column in table.items()
                if isinstance(column, Column)
            )
        )

    def check(self, part: str, scale: str, data_dir: str | None) -> None:
        """Raises ValueError naming a setting that the part does not read."""
        if data_dir is not None and not {part, *self.groups.get(part, ())} & set(self.public):
            readers = ", ".join(self.public) or "none"
            raise ValueError(f"--data-dir: {part} reads no public data; parts that do: {readers}")
        if scale not in self.scales.get(part, SCALES):
            has = ", ".join(self.scales[part])
            raise ValueError(f"--scale: {part} has {has} alone, found {scale}")

    def make(
        self,
        part: str,
        scale: str,
        out: Path,
        data_dir: str | None = None,
        engine: Engine | None = None,
        use_store: bool = True,
    ) -> list[Section]:
        """Make a part or a group: the sections of the page, their files below `out`.

        use_store: whether jobs whose rows are committed are read from there. Raises ValueError for
        a setting that is not read, before anything is made.
        """
        self.check(part, scale, data_dir)
        job = Job(self.name, scale, out, data_dir, engine, use_store)
        return [self.parts[name](job) for name in self.groups.get(part, (part,))]


def load(name: str) -> Paper:
    """The paper of a folder."""
    return importlib.import_module(f"jaxoff.experiments.{name}.parts").PAPER


def parser_of(
    name: str, about: str, parts: Iterable[str], out: str, data_dir: bool
) -> argparse.ArgumentParser:
    """Part, scale and out, and data_dir where it is asked for, from the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m jaxoff.experiments.{name}", description=about)
    parser.add_argument("part", nargs="?", default="all", choices=list(parts))
    parser.add_argument(
        "--scale", default="cpu", choices=SCALES, help="sizes of nets, steps and seeds"
    )
    parser.add_argument(
        "--out", default=Path(out), type=Path, help="folder for results, tables and figures"
    )
    parser.add_argument(
        "--no-store",
        action="store_true",
        help="train also the jobs whose results are committed in experiments/reference",
    )
    if data_dir:
        parser.add_argument("--data-dir", help="folder of public datasets")
    parser.add_argument(
        "--engine", choices=engines.ENGINES, default="local", help="where jobs are trained"
    )
    parser.add_argument("--workers", help="most jobs at once; with local, processes")
    parser.add_argument(
        "--engine-set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the engine; may be given several times",
    )
    return parser


def engine_of(chosen: argparse.Namespace) -> Engine | None:
    """The engine of a command line that `parser_of` has read; None for this process.

    Raises a JaxoffError for settings that can't be used.
    """
    settings = pairs(tuple(chosen.engine_set), "--engine-set")
    if chosen.workers is not None:
        settings["workers"] = chosen.workers
    engine = engines.choose(chosen.engine, settings)
    return None if isinstance(engine, Here) else engine


def main(name: str) -> None:
    """The command `python -m jaxoff.experiments.NAME [PART]`."""
    runtime.setup()  # before the first array, and importing a simulator makes some
    paper = load(name)
    names = [*paper.parts, *paper.groups]
    parser = parser_of(name, paper.about, names, f"results/{name}", data_dir=True)
    chosen = parser.parse_args()
    try:
        paper.check(chosen.part, chosen.scale, chosen.data_dir)
        engine = engine_of(chosen)
    except (ValueError, JaxoffError) as error:
        parser.error(str(error))
    with same_looks(paper.labels):
        made = paper.make(
            chosen.part, chosen.scale, chosen.out, chosen.data_dir, engine, not chosen.no_store
        )
        print(f"page: {index(chosen.out, paper.title, made)}")
