"""Dataset folders as tasks: `jaxoff train bc data/mine`.

The specification comes from the folder's metadata. Policies are evaluated only where an environment
is named: by the user, or by the metadata (`recipe`, a task, or `env`, such as smax/3m). Without one
the environment of such a task is a specification alone.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxoff import registry
from jaxoff.errors import InvalidDataset, InvalidSetting
from jaxoff.names import (
    FOLDER,
    UNKNOWN,
    DataOptions,
    Family,
    Sizes,
    Task,
    UnknownName,
    below,
    unknown,
)
from jaxoff.types import Env, EnvSpec, Episodes

NONE = "none"  # stands for no environment, although the metadata name one
# Specifications of folders that need not exist any more, by path; see `known`.
_KNOWN: contextvars.ContextVar[Mapping[str, EnvSpec] | None] = contextvars.ContextVar(
    "known", default=None
)


@contextlib.contextmanager
def known(task: Task, spec: EnvSpec) -> Iterator[None]:
    """Within this context the task's folder is not read, and has this specification."""
    token = _KNOWN.set({**(_KNOWN.get() or {}), task.folder: spec})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def _spec(task: Task) -> EnvSpec:
    if not task.folder:
        raise unknown("task", str(task), [])
    return (_KNOWN.get() or {}).get(task.folder) or _described(task)[0]


def _described(task: Task) -> tuple[EnvSpec, dict[str, Any]]:
    """The specification and the metadata of a folder. Raises InvalidDataset naming it."""
    from jaxoff.data import disk

    if not (Path(task.folder) / "metadata.json").is_file():
        raise InvalidDataset(
            f"{task.folder}: expected a dataset folder with a metadata.json, found "
            f"{'a folder without one' if Path(task.folder).is_dir() else 'no such folder'}"
            f"{below(task.folder)}"
        )
    return disk.read_spec(task.folder)


def named(task: Task, name: str = "") -> str:
    """The task whose environment evaluates policies on a folder, "" for none.

    name: a task or family/scenario; "" stands for what the metadata name, `none` for none. Raises
    UnknownName for an environment that is not registered.
    """
    if name == NONE:
        return ""
    if name:
        if not (found := registered(name)):
            raise UnknownName(
                f"field 'env': expected a task or family/scenario that is registered, or "
                f"{NONE}, found '{name}'"
            )
        return found
    metadata = _described(task)[1]
    told = [metadata.get(field) for field in ("recipe", "env")]
    return next((text for text in map(registered, told) if text), "")


def environment(task: Task, name: str = "") -> Env:
    """The environment of a folder, or its specification alone; name: as for `named`.

    Raises what `named` does, and InvalidSetting for sizes that are not those of the dataset.
    """
    spec, found = _spec(task), named(task, name)
    if not found:
        return alone(task, spec)
    env = registry.make_env(found)
    _check_sizes(task, spec, found, env.spec)
    return env


def alone(task: Task, spec: EnvSpec) -> Env:
    """The environment of a folder that names none: its specification, and nothing to step."""
    from jaxoff.data.public import NoSimulator

    about = "a dataset folder that names none (--env TASK names one)"
    name = str(task) if spec.name == UNKNOWN else spec.name
    made: Any = NoSimulator(dataclasses.replace(spec, name=name), about=about)
    return made


def registered(name: Any) -> str:
    """A task with the environment that is named by a task or by family/scenario; "" if none is."""
    if not isinstance(name, str):
        return ""
    parts = name.split("/")
    try:
        if len(parts) == 3:
            registry.sizes(Task.parse(name))
            return name
        family = registry.family_of(Task.parse(f"{name}/any"))
    except UnknownName:
        return ""
    return next((text for text in family.tasks() if text.startswith(f"{name}/")), "")


def _check_sizes(task: Task, data: EnvSpec, name: str, env: EnvSpec) -> None:
    """Raise InvalidSetting for the first size in which a dataset and an environment differ."""
    for field in ("num_agents", "obs_size", "state_size", "action_size", "discrete"):
        if getattr(data, field) != getattr(env, field):
            raise InvalidSetting(
                f"{task.folder}: field 'env': expected an environment with {field} "
                f"{getattr(data, field)}, as the dataset has, found {getattr(env, field)} in "
                f"{name}; name another, or {NONE} to train without evaluation"
            )


def _data(task: Task, options: DataOptions) -> Episodes:
    """The episodes of a folder, or as many as the options ask for, drawn with their seed."""
    import numpy as np

    from jaxoff.data import disk
    from jaxoff.data.episodes import take

    _described(task)
    episodes, count = disk.load(task.folder)[0], options.episodes
    have = len(episodes.filled)
    if count is None:
        return episodes
    if not 1 <= count <= have:
        raise InvalidSetting(f"{task}: field 'episodes': expected 1..{have}, found {count}")
    chosen = np.random.default_rng(options.seed).permutation(have)[:count]
    return take(episodes, np.sort(chosen))


FAMILY = Family(
    FOLDER,
    tasks=lambda: [],
    env=environment,
    data=_data,
    pattern="a dataset folder, such as data/mine or ./mine",
    spec=_spec,
    sizes=lambda task: Sizes.of(_spec(task)),
)


def spec_from(record: Mapping[str, Any]) -> EnvSpec:
    """The specification that `record_of` has recorded."""
    from jaxoff.types import ReturnScale

    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    scale = fields.pop("return_scale", None)
    return EnvSpec(**fields, return_scale=ReturnScale(*scale) if scale else None)


def record_of(spec: EnvSpec) -> dict[str, Any]:
    """A specification in JSON's types; without a payoff, which no dataset has."""
    kept = dataclasses.asdict(dataclasses.replace(spec, payoff=None))
    return {name: value for name, value in kept.items() if name not in ("payoff", "longest")}
