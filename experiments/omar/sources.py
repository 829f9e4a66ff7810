"""Tables of robots and mazes: data as the authors published them, where they lie in `--data-dir`,
else by our own recipe.

Settings and environment are those of our task either way. What needs policies that don't come with
the library is not run.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxoff.experiments.paper import Column, Job, Size

from jaxoff import registry
from jaxoff.config import config_fields, is_leaf, resolve_config
from jaxoff.data import pools, public, worlds
from jaxoff.data.disk import InvalidDataset
from jaxoff.data.episodes import returns_of
from jaxoff.files import write_text
from jaxoff.names import DataOptions, Task
from jaxoff.training import TrainSpec
from jaxoff.types import Env, Episodes


class Row(NamedTuple):
    """A row of a table: our task, and the same data as they were published."""

    label: str
    own: str
    published: str


def found(row: Row, data_dir: str | None) -> str | None:
    """The task whose data can be had, the published ones first; None if there are none."""
    if data_dir is not None:
        try:
            public.locate(Task.parse(row.published), DataOptions(data_dir=data_dir))
            return row.published
        except (FileNotFoundError, InvalidDataset):
            pass
    lacks = worlds.needs_pool(Task.parse(row.own)) and not pools.has(row.own.rpartition("/")[0])
    return None if lacks else row.own


def settings(method: str, task: str) -> dict[str, Any]:
    """All that a method sets on a task, as plain values."""
    module = registry.learner(method, task)
    config, fields = resolve_config(module, Task.parse(task), {}), config_fields(module.Config)
    return {
        name: float(getattr(config, name)) if is_leaf(field) else getattr(config, name)
        for name, field in fields.items()
    }


def parts(task: str, seeds: Sequence[int], data_dir: str | None) -> dict[int, tuple[int, ...]]:
    """Part of the data -> seeds that learn from it: each its own, as in the paper, where there are
    so many; else all the first.
    """
    if task.startswith("omar:") and len(seeds) > 1:
        try:
            for seed in seeds:
                public.locate(Task.parse(task), DataOptions(seed, data_dir=data_dir))
            return {seed: (seed,) for seed in seeds}
        except (FileNotFoundError, InvalidDataset):
            pass
    return {0: tuple(seeds)}


def specs(
    rows: Sequence[Row], columns: Mapping[str, Column], size: Size, data_dir: str | None
) -> list[TrainSpec]:
    """The jobs of those rows whose data can be had."""
    made = []
    for row in rows:
        task = found(row, data_dir)
        for label, column in columns.items() if task else ():
            assert task is not None
            # The published data's name has no settings of its own.
            chosen = (
                {}
                if task == row.own
                else settings(column.method, row.own) | size.config(column.method, task)
            )
            spec = size.spec(task, label, column, chosen)
            for part, seeds in parts(task, spec.seeds, data_dir).items():
                own: dict[str, Any] = {
                    "seeds": seeds,
                    "data_seed": part,
                    "data_dir": None if task == row.own else data_dir,
                }
                made.append(dataclasses.replace(spec, **own))
    return made


class Data:
    """Episodes and environments of the jobs of some rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.__setstate__({row.published: row.own for row in rows})

    def __getstate__(self) -> dict[str, str]:
        """What other processes need to make the same data: published task -> ours."""
        return self.own

    def __setstate__(self, own: dict[str, str]) -> None:
        self.own = own
        # columns of a task come one after the other
        self.of = functools.lru_cache(maxsize=1)(self._make)

    def env(self, spec: TrainSpec) -> Env:
        """Ours, in jit."""
        return registry.make_env(self.own.get(spec.task, spec.task))

    def returns(self, spec: TrainSpec) -> np.ndarray:
        """Of the data's own episodes, [E]."""
        return returns_of(self(spec))

    def _make(self, task: str, options: DataOptions) -> Episodes:
        episodes = registry.make_data(task, options)
        # the authors' robots have the state once for each agent, one after the other
        if task in self.own:
            size = registry.make_spec(self.own[task]).state_size
            episodes = episodes._replace(state=episodes.state[..., :size])
        return episodes

    def __call__(self, spec: TrainSpec) -> Episodes:
        return self.of(spec.task, DataOptions(spec.data_seed, spec.data_episodes, spec.data_dir))


def behaviour(job: Job, task: str, returns: Callable[[], np.ndarray]) -> tuple[float, float]:
    """Mean and standard deviation of the returns [E] of a task's data, measured once."""
    file = job.out / "behaviour.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if task not in known:
        found = returns()
        known[task] = [float(found.mean()), float(found.std())]
        write_text(file, json.dumps(known, indent=1) + "\n")
    return known[task][0], known[task][1]
