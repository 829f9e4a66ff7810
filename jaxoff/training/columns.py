"""Columns of a table, and sizes of its jobs: what the jobs of an experiment are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jaxoff import registry
from jaxoff.config import config_fields
from jaxoff.training.spec import TrainSpec

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
            data_episodes=None if registry.acts(column.sampler) else self.data_episodes,
            sampled=self.sampled,
            variant=label,
        )
