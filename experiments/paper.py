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
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxoff import registry, runtime
from jaxoff.config import config_fields
from jaxoff.files import write_text
from jaxoff.logs import Progress
from jaxoff.names import Task
from jaxoff.report import protocol, render, store, tables
from jaxoff.report.html import Section, index
from jaxoff.report.load import Run, load_run
from jaxoff.training import TrainSpec, train
from jaxoff.types import Env, Episodes

SCALES = ("smoke", "cpu", "full")
NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: a registered method, what it sets at every scale, the leaves that are
    swept, and the sampler with its settings.
    """

    method: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    grid: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    sampler: str = "uniform"
    sampler_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the jobs of a kind of task are at a scale.

    every: set for each method that has such a field; own: for one method, over it.
    """

    every: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    seeds: int = 5
    evaluations: int = 20
    eval_episodes: int = 32
    data_episodes: int | None = None
    sampled: bool = True  # evaluate by sampling from policies, else by their modes

    def config(self, method: str, task: str) -> dict[str, Any]:
        """What a method sets at this size, on such a task."""
        known = config_fields(registry.learner(method, task).Config)
        chosen = {name: value for name, value in self.every.items() if name in known}
        return {**chosen, **self.own.get(method, {})}

    def spec(
        self, task: str, label: str, column: Column, chosen: Mapping[str, Any] = NOTHING
    ) -> TrainSpec:
        """The training job of a cell; `chosen` is set over the size and under the column."""
        config = {**self.config(column.method, task), **chosen, **column.config}
        return TrainSpec(
            method=column.method,
            task=task,
            seeds=tuple(range(self.seeds)),
            config={name: value for name, value in config.items() if name not in column.grid},
            grid=dict(column.grid),
            size="paper",
            sampler=column.sampler,
            sampler_config=dict(column.sampler_config),
            evaluations=self.evaluations,
            eval_episodes=self.eval_episodes,
            data_episodes=self.data_episodes,
            sampled=self.sampled,
            variant=label,
        )


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


def trained(spec: TrainSpec, folder: Path, **given: Any) -> Run:
    """A job's runs, trained or read back; given: data and env, where not those of the task."""
    train(spec, folder, [Progress(f"{spec.label} {spec.task}")], **given)
    return load_run(folder)


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
        (row, label): tables.Cell((np.array([value]),), "", paper.get((row, label), ""))
        for row, value in values.items()
    }
    if tables.AVERAGE in table.rows:
        each = tuple(np.array([value]) for value in values.values())
        cells[tables.AVERAGE, label] = tables.Cell(each)
    return dataclasses.replace(table, columns=(label, *table.columns), cells=cells | table.cells)


@dataclasses.dataclass(frozen=True)
class Job:
    """One call of the command; data_dir: the folder of public data.

    A result that is already in `out`, or whose rows are in the paper's store, is read back, not
    trained again. use_store: whether the store is looked up.
    """

    paper: str
    scale: str
    out: Path
    data_dir: str | None = None
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
        runs, makers = [], {"data": data, "env": env}
        for spec in specs:
            path = self.out / folder / folder_name(spec)
            done = None if whole or path.exists() else self.stored(spec)
            if done is not None:
                runs.append(done)
            elif data is not None and (path / "final.json").exists():
                runs.append(load_run(path))
            else:
                given = {name: make(spec) for name, make in makers.items() if make is not None}
                runs.append(trained(spec, path, **given))
        return runs

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
        use_store: bool = True,
    ) -> list[Section]:
        """Make a part or a group: the sections of the page, their files below `out`.

        use_store: whether jobs whose rows are committed are read from there. Raises ValueError for
        a setting that is not read, before anything is made.
        """
        self.check(part, scale, data_dir)
        job = Job(self.name, scale, out, data_dir, use_store)
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
    return parser


def main(name: str) -> None:
    """The command `python -m jaxoff.experiments.NAME [PART]`."""
    runtime.setup()  # before the first array, and importing a simulator makes some
    paper = load(name)
    names = [*paper.parts, *paper.groups]
    parser = parser_of(name, paper.about, names, f"results/{name}", data_dir=True)
    chosen = parser.parse_args()
    try:
        paper.check(chosen.part, chosen.scale, chosen.data_dir)
    except ValueError as error:
        parser.error(str(error))
    use_store = not chosen.no_store
    made = paper.make(chosen.part, chosen.scale, chosen.out, chosen.data_dir, use_store)
    print(f"page: {index(chosen.out, paper.title, made)}")
