"""An experiment as a TOML file: methods, tasks, seeds, sizes, evaluation and a table.

tasks = ["matrix/xor/b", "matrix/xor/c"]
[methods]
bc = {}
InSPO = {method = "inspo", set = {hidden = 64}}
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from jaxoff import registry
from jaxoff.config import config_fields
from jaxoff.engines import ENGINES, Assignment, check
from jaxoff.errors import InvalidFile, InvalidSetting, JaxoffError
from jaxoff.names import Task, unknown
from jaxoff.report.tables import METRICS
from jaxoff.training.columns import Column, Size
from jaxoff.training.naming import folder_name
from jaxoff.training.spec import TrainSpec, expanded, resolve

# Numbers that every evaluation gives, or that a job has without one.
NUMBERS = ("return_mean", "return_std", "length_mean", "score", "updates", "wall_s")
Kinds = Mapping[str, Any]  # key of a TOML table -> its type
# Fields of a TrainSpec that all jobs share, under their own names.
SHARED: Kinds = {
    **{"data_seed": int, "data_dir": str, "env": str, "obs_dtype": str, "prng": str},
    **{"precision": str, "mode": str, "checkpoint_s": int | float, "size": str},
}
EVALUATION: Kinds = {"evaluations": int, "eval_episodes": int, "sampled": bool}
SCALE: Kinds = {
    **{"seeds": int | list, "steps": int, "data_episodes": int, "set": dict},
    **{"evaluations": int, "eval_episodes": int},
}
METHOD: Kinds = {"method": str, "set": dict, "grid": dict, "sampler": str, "sampler_set": dict}
TABLE: Kinds = {
    **{"metric": str, "columns": list, "title": str, "note": str},
    **{"average": bool, "standard_error": bool},
}
TOP: Kinds = {
    **{"title": str, "tasks": list | dict, "methods": dict, "seeds": int | list, "steps": int},
    **{"data_episodes": int, "set": dict, **SHARED},
    **{"evaluation": dict, "scale": dict, "table": dict, "engines": dict},
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a file says. Everything in it is checked; nothing is made yet.

    tasks: task -> label of its row. columns: label -> Column. shared: fields of every TrainSpec.
    table: the keys of TABLE that are given. engines: name of an engine -> its settings.
    """

    file: Path
    title: str
    tasks: Mapping[str, str]
    columns: Mapping[str, Column]
    size: Size
    seeds: tuple[int, ...]
    shared: Mapping[str, Any]
    table: Mapping[str, Any]
    engines: Mapping[str, Mapping[str, Any]]

    def specs(self) -> list[TrainSpec]:
        """The jobs: every method on every task, and a job for each value of a static grid's field.

        Raises a JaxoffError naming file, method and task for what can't be run.
        """
        found = []
        for task in self.tasks:
            for label, column in self.columns.items():
                try:
                    spec = self.size.spec(task, label, column)
                    spec = dataclasses.replace(spec, seeds=self.seeds, **self.shared)
                    if spec.data_episodes is None and Task.parse(task).folder:
                        spec = dataclasses.replace(spec, data_seed=0)  # which is of the recipes
                    made = [_told_apart(spec, each) for each in expanded(spec)]
                    for each in made:
                        resolve(each)
                    found += made
                except JaxoffError as error:
                    where = f"{self.file}: {label} on {task}"
                    raise InvalidSetting(f"{where}: {error}") from error
        return found

    def assignments(self, out: Path, extend: bool = False) -> list[Assignment]:
        """The jobs with their folders, each below `out`.

        Raises what `specs` does, and InvalidSetting where two jobs would have one folder.
        """
        place, owner = out.absolute(), dict[str, str]()
        found = []
        for spec in self.specs():
            name, told = folder_name(spec), f"{spec.label} on {spec.task}"
            if name in owner:
                raise InvalidSetting(
                    f"{self.file}: fields 'tasks' and 'methods': expected names by which each job "
                    f"has its own folder of results, found {owner[name]} and {told}, both in "
                    f"'{name}'; rename a method, or the folder of a dataset"
                )
            owner[name] = told
            found.append(Assignment(spec, place / name, extend=extend))
        return found

    def check_metric(self) -> None:
        """Raise UnknownName where no job can have the number that the table shows.

        The environments of the tasks are built if that depends on them. One that cannot be built
        here, or that computes numbers in a way that cannot be looked into, may have any.
        """
        metric, known = self.table.get("metric", "return_mean"), set(NUMBERS)
        if metric in known:
            return
        for task in self.tasks:
            found = _numbers_of(task, self.shared.get("env", ""))
            if found is None or metric in found:
                return
            known |= found
        raise unknown(f"metric in [table] of {self.file}, for its tasks,", metric, known)


def read(file: Path, scale: str = "") -> Experiment:
    """Read an experiment. scale: the table [scale.NAME] whose values replace the file's own.

    Raises InvalidFile for what is no TOML or has another type, UnknownName for a key that does not
    exist, and InvalidSetting.
    """
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{file}: expected TOML, found {error}") from None
    _check(file, "", found, TOP)
    for name, kinds in (("evaluation", EVALUATION), ("table", TABLE)):
        _check(file, name, found.get(name, {}), kinds)
    for name in ("methods", "scale", "engines"):
        for key, table in found.get(name, {}).items():
            _typed(file, f"{name}.{key}", table, dict)
            if name == "engines":
                _check_engine(file, key, table)
            else:
                _check(file, f"{name}.{key}", table, METHOD if name == "methods" else SCALE)
    for name in ("tasks", "methods"):
        if not found.get(name):
            raise InvalidSetting(f"{file}: field '{name}': expected at least one, found none")
    if scale:
        if scale not in found.get("scale", {}):
            raise unknown(f"scale of {file}", scale, found.get("scale", {}))
        chosen = found["scale"][scale]
        evaluation = {name: chosen[name] for name in EVALUATION if name in chosen}
        rest = {name: value for name, value in chosen.items() if name not in evaluation}
        every = dict(found.get("set", {}))
        if "steps" in chosen:  # in place of the file's, wherever that has it
            every.pop("steps", None)
        if "steps" in chosen.get("set", {}):
            found.pop("steps", None)
        found |= rest | {
            "set": {**every, **chosen.get("set", {})},
            "evaluation": {**found.get("evaluation", {}), **evaluation},
        }
    return _made(file, found)


def _made(file: Path, found: Mapping[str, Any]) -> Experiment:
    """The experiment of a checked file."""
    columns = {label: _column(file, label, table) for label, table in found["methods"].items()}
    tasks = found["tasks"]
    for task in tasks:
        _typed(file, "tasks", task, str)
    rows = dict(tasks) if isinstance(tasks, dict) else {task: task for task in tasks}
    for name, label in rows.items():
        _typed(file, f"tasks.{name}", label, str)
        first = next(other for other in rows if rows[other] == label)
        if first != name:
            raise InvalidSetting(
                f"{file}: field 'tasks': expected a label of its own for each task, found "
                f"'{label}' for {first} and {name}"
            )
    seeds, steps = found.get("seeds", 5), found.get("steps")
    if steps is not None and "steps" in found.get("set", {}):
        raise InvalidSetting(
            f"{file}: field 'steps': expected once, found {steps} and, in [set], "
            f"{found['set']['steps']}"
        )
    every = {**({} if steps is None else {"steps": steps}), **found.get("set", {})}
    _check_settings(file, rows, columns, every)
    options = {**{"evaluations": 10, "eval_episodes": 32}, **found.get("evaluation", {})}
    if "data_episodes" in found:
        options["data_episodes"] = found["data_episodes"]
    made = Experiment(
        file=file,
        title=found.get("title", file.stem),
        tasks=rows,
        columns=columns,
        size=Size(every, **options),
        seeds=tuple(range(seeds) if isinstance(seeds, int) else seeds),
        shared={"size": "laptop"} | {name: found[name] for name in SHARED if name in found},
        table=found.get("table", {}),
        engines=found.get("engines", {}),
    )
    metric = made.table.get("metric", "return_mean")
    if metric not in METRICS and difflib.get_close_matches(metric, METRICS, 1, 0.8):
        raise unknown(f"metric in [table] of {file}", metric, METRICS)
    for label in made.table.get("columns", ()):
        _typed(file, "table.columns", label, str)
        if label not in columns:
            raise unknown(f"column of {file}", str(label), columns)
    return made


def _column(file: Path, label: str, table: Mapping[str, Any]) -> Column:
    """The column of a table [methods.LABEL]; without `method` the label is the method's name."""
    for name, values in table.get("grid", {}).items():
        _typed(file, f"methods.{label}.grid.{name}", values, list)
    return Column(
        table.get("method", label),
        table.get("set", {}),
        table.get("grid", {}),
        table.get("sampler", "uniform"),
        table.get("sampler_set", {}),
    )


def _check_settings(
    file: Path, tasks: Mapping[str, str], columns: Mapping[str, Column], every: Mapping[str, Any]
) -> None:
    """Refuse a method that does not exist, and a setting for all methods that none of them has."""
    known: set[str] = set()
    for label, column in columns.items():
        for task in tasks:
            try:
                known |= set(
                    config_fields(registry.learner(column.method, Task.parse(task)).Config)
                )
            except JaxoffError as error:
                raise InvalidSetting(f"{file}: {label} on {task}: {error}") from error
    for name in every:
        if name not in known:
            raise unknown(f"setting in [set] of {file}", name, known)


def _numbers_of(task: str, env: str) -> set[str] | None:
    """The numbers that an evaluation on a task gives besides NUMBERS; None if that is not known.

    env: the environment that evaluates, where the task is a dataset folder.
    """
    import jax

    from jaxoff.data.recipes import random_policy

    try:
        world = TrainSpec("", task, env=env).environment()
    except (JaxoffError, ImportError):  # the training tells what is wrong, or runs elsewhere
        return None
    if not hasattr(world, "step"):  # tables say that the policies were not evaluated
        return set(METRICS)
    found = {"win_rate"} if getattr(world, "won", None) else set[str]()
    probe = getattr(world, "probe", None)
    if probe is not None:
        try:
            exact = jax.eval_shape(lambda: probe(random_policy(world.spec)))
        except Exception:  # a probe of someone else, which may need more of a policy
            return None
        found |= {name for name, value in exact.items() if value.shape == ()}
        found |= {"out_of_data"} if "joint_policy" in exact else set()
    return found


def _told_apart(spec: TrainSpec, each: TrainSpec) -> TrainSpec:
    """A job of a static grid, whose label names the values that it fixes."""
    fixed = [f"{name}={value}" for name, value in each.config.items() if name not in spec.config]
    return (
        dataclasses.replace(each, variant=f"{spec.label} ({', '.join(fixed)})") if fixed else each
    )


def _check_engine(file: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings of an engine that can't be used, naming the file."""
    if name not in ENGINES:
        raise unknown(f"table in [engines] of {file}", name, ENGINES)
    try:
        check(name, settings)
    except JaxoffError as error:
        raise type(error)(f"{file}: {error}") from error


def _check(file: Path, name: str, table: Mapping[str, Any], kinds: Kinds) -> None:
    """Refuse keys of a table that do not exist, and values of another type."""
    for key, value in table.items():
        if key not in kinds:
            raise unknown(f"key in {f'[{name}]' if name else 'the top'} of {file}", key, kinds)
        _typed(file, f"{name}.{key}" if name else key, value, kinds[key])


def _typed(file: Path, name: str, value: Any, kind: Any) -> None:
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return
    kinds: Sequence[Any] = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    words |= {list: "list", dict: "table"}
    wanted = " or ".join(words[each] for each in kinds)
    raise InvalidFile(f"{file}: field '{name}': expected {wanted}, found {value!r}")
