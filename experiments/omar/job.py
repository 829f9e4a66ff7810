"""One call of the command, and the tables and figures that its parts share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxoff.experiments.jobs import Column
from jaxoff.experiments.omar import runs

from jaxoff.eval import statistics
from jaxoff.files import write_text
from jaxoff.report import tables
from jaxoff.report.load import Run
from jaxoff.types import ReturnScale

PAPER = Path(__file__).with_name("paper.csv")
DATA = "data"  # the column of the data's own return


class Job:
    """One call of the command.

    A result that is already in `out` is read back, not trained again. data_dir: of public data.
    """

    def __init__(self, scale: str, out: Path, data_dir: str | None = None) -> None:
        self.scale, self.out, self.data_dir, self.size = scale, out, data_dir, runs.SIZES[scale]
        self.data = runs.Data(scale, out / "pools")

    def run(self, tasks: Sequence[str], columns: Mapping[str, Column]) -> list[Run]:
        """Train columns on tasks, one folder each below out/runs."""
        return runs.run_all(tasks, columns, self.scale, self.out / "runs", self.data)

    def behaviour(
        self, task: str, returns: Callable[[], np.ndarray] | None = None
    ) -> tuple[float, float]:
        """Mean and standard deviation of the returns of a task's data; measured once.

        returns: theirs [E], where not by `runs.Data`.
        """
        file = self.out / "behaviour.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        if task not in known:
            found = returns() if returns else self.data.returns(task, self.size.data_episodes)
            known[task] = [float(found.mean()), float(found.std())]
            write_text(file, json.dumps(known, indent=1) + "\n")
        return known[task][0], known[task][1]

    def about(self) -> str:
        """What the settings of a table of particle games were."""
        rows = self.size.every.get("batch_size", runs.RELEASED) // 3
        rounds = self.size.every.get("steps", "released")
        return (
            f"Data: our own recipes, {self.size.data_episodes or 'all'} episodes. Rounds "
            f"of gradient steps: {rounds}; rows for each "
            f"agent in a batch: {rows}; gamma .95; inputs normalised by the batch; modes "
            "of final policies, "
            f"{self.size.eval_episodes} episodes."
        )


def with_data(
    table: tables.Table, values: Mapping[str, float], average: bool = False
) -> tables.Table:
    """The table with a first column of the data's own value in each row."""
    cells = {(row, DATA): tables.Cell((np.array([value]),)) for row, value in values.items()}
    if average:
        cells[tables.AVERAGE, DATA] = tables.Cell(
            tuple(np.array([value]) for value in values.values())
        )
    return dataclasses.replace(table, columns=(DATA, *table.columns), cells=cells | table.cells)


def rescaled(run: Run, scale: ReturnScale) -> Run:
    """The run with scores by another scale."""
    scored = [
        row | {"score": float(statistics.normalised(row["return_mean"], scale))} for row in run.runs
    ]
    return dataclasses.replace(run, runs=scored)
