"""What every table of trained methods needs: columns, sizes of jobs, and jobs that are trained once and then read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxoff import registry
from jaxoff.logs import Progress
from jaxoff.report.load import Run, load_run
from jaxoff.train import TrainSpec, train
from jaxoff.types import Episodes


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: a registered method, and what it sets at every scale; grid: leaves that are swept."""

    method: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    grid: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)


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
    sampled: bool = True  # whether policies are evaluated as they are, or by their modes

    def config(self, method: str) -> dict[str, Any]:
        """What a method sets at this size."""
        known = registry.fields(registry.learner(method).Config)
        return {name: value for name, value in self.every.items() if name in known} | dict(self.own.get(method, {}))

    def job(self, task: str, label: str, column: Column, chosen: Mapping[str, Any] | None = None) -> TrainSpec:
        """The training job of a cell. chosen: over the size's settings, under the column's."""
        return TrainSpec(
            method=column.method,
            task=task,
            seeds=tuple(range(self.seeds)),
            config={**self.config(column.method), **(chosen or {}), **column.config},
            grid=column.grid,
            evaluations=self.evaluations,
            eval_episodes=self.eval_episodes,
            data_episodes=self.data_episodes,
            sampled=self.sampled,
            variant=label,
        )


def run_all(
    tasks: Sequence[str],
    columns: Mapping[str, Column],
    job: Callable[[str, str, Column], TrainSpec],
    out: Path,
    data: Callable[[str, str], Episodes | None] = lambda task, label: None,
) -> list[Run]:
    """Train every column on every task, or read back what is already there. data: of a cell, instead of the task's own."""
    runs = []
    for task in tasks:
        for label, column in columns.items():
            name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in label.lower().replace(", ", "-"))
            slug = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in registry.Task.parse(task).slug)
            train(job(task, label, column), out / f"{name}-{slug}", [Progress(f"{label} {task}")], data=data(task, label))
            runs.append(load_run(out / f"{name}-{slug}"))
    return runs
