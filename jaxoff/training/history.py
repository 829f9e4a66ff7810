"""The evaluations of a job while it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.eval import statistics
from jaxoff.training import folder, results
from jaxoff.types import Episodes


class History:
    """Evaluations of R runs.

    steps: number of updates at each evaluation. values: name -> [R, ...] of each evaluation.
    returns [R, E]: the returns of the episodes of the last one.
    """

    def __init__(self, num_runs: int, data: Episodes | None) -> None:
        self.num_runs, self.data = num_runs, data
        self.steps: list[int] = []
        self.values: dict[str, list[np.ndarray]] = {}
        self.returns = np.zeros((num_runs, 0))

    def keep(
        self, done: int, metrics: dict[str, np.ndarray], played: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Add an evaluation, and return its scalars [R] and probe arrays."""
        evaluation: dict[str, Any] = dict(played)
        if not evaluation:  # without a simulator in jit no episodes were played
            evaluation = {
                name: np.full((self.num_runs, 1), np.nan) for name in ("returns", "lengths")
            }
        self.returns, lengths = evaluation.pop("returns"), evaluation.pop("lengths")
        named: dict[str, Any] = {
            "return_mean": self.returns.mean(1),
            "return_std": self.returns.std(1),
            "length_mean": lengths.mean(1),
        }
        if "won" in evaluation:
            named["win_rate"] = evaluation.pop("won").mean(1)
        named |= evaluation
        if "joint_policy" in evaluation and self.data is not None:
            named["out_of_data"] = statistics.out_of_data(
                evaluation["joint_policy"],
                np.asarray(self.data.actions)[np.asarray(self.data.filled)],
            )
        self.steps.append(done)
        for name, value in {**named, **{f"loss/{k}": v for k, v in metrics.items()}}.items():
            self.values.setdefault(name, []).append(value)
        return named

    def stacked(self) -> dict[str, np.ndarray]:
        """Every history [K, R, ...] by its name."""
        return {name: np.stack(values) for name, values in self.values.items()}

    def final(self, run: int) -> dict[str, float]:
        """The numbers of a run at the last evaluation."""
        return {
            name: float(values[-1][run])
            for name, values in self.values.items()
            if values[-1].ndim == 1 and not name.startswith("loss/")
        }

    def arrays(self, job: str) -> dict[str, np.ndarray]:
        """The content of history.npz. job: the identity of the job."""
        named = {f"history/{name}": value for name, value in self.stacked().items()}
        about = {"job": np.array(job), "steps": np.asarray(self.steps)}
        return {**named, **about, "returns": self.returns}

    def restore(self, out: Path, kept: int, owners: list[str]) -> None:
        """Take over the first `kept` evaluations, those that were made before a checkpoint.

        They are in history.npz, or in final.npz where the checkpoint is that of a job's end. The
        file may be ahead of a checkpoint whose write did not complete. Raises BrokenResult where it
        is missing or damaged, InvalidSetting where another job has written it.
        """
        if not kept:
            return
        file = out / "history.npz"
        if not file.exists() and (out / "final.npz").exists():
            file = out / "final.npz"
        arrays = results.read_history(file, self.num_runs, kept)
        if "job" in arrays:
            folder.check_owner(file, str(arrays["job"]), owners)
        self.steps = arrays["steps"].tolist()[:kept]
        for name, value in arrays.items():
            if name.startswith("history/"):
                later = len(arrays["steps"]) - kept
                self.values[name.removeprefix("history/")] = list(value)[: len(value) - later]
        former = "last/returns"  # in folders of earlier versions
        self.returns = arrays[former if former in arrays else "returns"]
