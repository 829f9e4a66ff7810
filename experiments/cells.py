"""What the experiments of several papers share: columns of tables, sizes of jobs, and cells that are trained once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxoff import registry
from jaxoff.logs import Progress
from jaxoff.report.load import Run, load_run
from jaxoff.train import TrainSpec, train


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: a registered method, and what it sets at every scale."""

    method: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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
    sampled: bool = True

    def config(self, method: str) -> dict[str, Any]:
        """What a method sets at this size."""
        known = registry.fields(registry.learner(method).Config)
        return {name: value for name, value in self.every.items() if name in known} | dict(self.own.get(method, {}))


def run_cell(spec: TrainSpec, out: Path, ending: str = "") -> Run:
    """Train a cell in a folder of its own below `out`, or read back what is already there."""
    label = spec.label.lower().replace(", ", "-")
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in label)
    folder = out / f"{name}-{registry.Task.parse(spec.task).slug}{ending}"
    train(spec, folder, [Progress(f"{spec.label} {spec.task}")])
    return load_run(folder)
