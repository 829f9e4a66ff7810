"""The training jobs of a paper's tables: columns, how large a job is at a scale, and training what
is not there yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxoff import registry
from jaxoff.config import config_fields
from jaxoff.logs import Progress
from jaxoff.names import Task
from jaxoff.report.load import Run, load_run
from jaxoff.training import TrainSpec, train
from jaxoff.types import Env, Episodes


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: a registered method, what it sets at every scale, and the leaves that
    are swept.
    """

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
    sampled: bool = True  # evaluate by sampling from policies, else by their modes

    def config(self, method: str, task: str) -> dict[str, Any]:
        """What a method sets at this size, on such a task."""
        known = config_fields(registry.learner(method, task).Config)
        return {name: value for name, value in self.every.items() if name in known} | dict(
            self.own.get(method, {})
        )

    def spec(
        self, task: str, label: str, column: Column, chosen: Mapping[str, Any] | None = None
    ) -> TrainSpec:
        """The job of a cell; `chosen` is set over the size and under the column."""
        config = {**self.config(column.method, task), **(chosen or {}), **column.config}
        return TrainSpec(
            method=column.method,
            task=task,
            seeds=tuple(range(self.seeds)),
            config={name: value for name, value in config.items() if name not in column.grid},
            grid=column.grid,
            evaluations=self.evaluations,
            eval_episodes=self.eval_episodes,
            data_episodes=self.data_episodes,
            sampled=self.sampled,
            variant=label,
        )


def folder_name(spec: TrainSpec) -> str:
    """The folder of a job: its label, its task, and the seed of its data if that is not 0, in
    letters, digits, points and lines.
    """
    name = (
        f"{spec.label.lower().replace(', ', '-')}-{Task.parse(spec.task).slug}"
        + f"-data{spec.data_seed}" * (spec.data_seed > 0)
    )
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in name)


def run_all(
    specs: Iterable[TrainSpec],
    out: Path,
    data: Callable[[TrainSpec], Episodes] | None = None,
    env: Callable[[TrainSpec], Env] | None = None,
) -> list[Run]:
    """Train every job, or read back what is already there.

    data, env: where they are not those that the task's name gives.
    """
    runs = []
    for spec in specs:
        folder = out / folder_name(spec)
        if not (folder / "final.json").exists() or data is None:
            given = {
                name: made(spec)
                for name, made in (("data", data), ("env", env))
                if made is not None
            }
            train(spec, folder, [Progress(f"{spec.label} {spec.task}")], **given)
        runs.append(load_run(folder))
    return runs
