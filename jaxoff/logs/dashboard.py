"""Logs to Weights & Biases: a group per experiment, and a W&B run per run and per aggregate.

An aggregate has mean and standard deviation over seeds. wandb is imported only when this log is
switched on.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from jaxoff.eval.statistics import finite, mean, std
from jaxoff.files import write_text
from jaxoff.logs.base import Record
from jaxoff.runtime import needs

Mode = Literal["disabled", "offline", "online"]
TEAR_DOWN_S = 2.0  # longest wait for W&B's clean-up after an error


class WandB:
    """Every run has its own curve; runs that differ only in their seed share an aggregate W&B run.

    runs: one dictionary per run, {"run": int, "seed": int, "config": {leaf: value}}; `info["runs"]`
    of `start`, the runs that are trained, take their place. folder: holds wandb's files, and
    ids.json, with which a resumed training continues its curves. Metrics are named stage/name and
    drawn over stage/step. Runs that are added to a job have an aggregate of their own.
    """

    def __init__(
        self,
        mode: Mode,
        project: str,
        group: str,
        runs: Sequence[dict[str, Any]],
        folder: str | Path = ".",
        resume: bool = False,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(
                f"wandb: field 'mode': expected one of {', '.join(get_args(Mode))}, found '{mode}'"
            )
        if mode != "disabled":
            with needs("--wandb"):  # before the training, which an error in `start` does not end
                import wandb  # noqa: F401
        self.mode, self.project, self.group, self.folder, self.resume = (
            mode,
            project,
            group,
            Path(folder),
            resume,
        )
        self._open: dict[str, Any] = {}  # label -> wandb run
        self._stages: set[str] = set()
        self._take(runs)

    def _take(self, runs: Sequence[dict[str, Any]]) -> None:
        self.runs = list(runs)
        first = min((run["run"] for run in self.runs), default=0)
        prefix = f"from-{first}-" if first else ""
        self._label = {run["run"]: prefix + _aggregate_label(run, self.runs) for run in self.runs}
        self._not_curves = {
            "run",
            "seed",
            "failed_at",
            *(name for run in self.runs for name in run.get("config", {})),
        }

    def start(self, info: dict[str, Any]) -> None:
        """Open every W&B run."""
        with self._abandoned_on_error():
            self._start(info)

    def record(self, rec: Record) -> None:
        """Log every run, and the mean and std of each aggregate over runs that did not fail."""
        with self._abandoned_on_error():
            self._record(rec)

    def progress(self, rec: Record) -> None:
        """Do nothing, since only evaluations are logged."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Write final numbers into each W&B run's summary, and close all W&B runs."""
        with self._abandoned_on_error():
            self._finish(summary)

    @contextlib.contextmanager
    def _abandoned_on_error(self) -> Iterator[None]:
        """Give W&B up after an error. Its own clean-up at the end of the process would fail again,
        with a traceback, where its service process is gone; or wait, hence the thread.
        """
        try:
            yield
        except Exception:
            self._open = {}
            giving_up = threading.Thread(target=_tear_down, daemon=True)
            giving_up.start()
            giving_up.join(TEAR_DOWN_S)
            raise

    def _start(self, info: dict[str, Any]) -> None:
        if self.mode == "disabled":
            return
        with needs("--wandb"):
            import wandb

        if "runs" in info:
            self._take(info["runs"])
            info = {name: value for name, value in info.items() if name != "runs"}
        self.folder.mkdir(parents=True, exist_ok=True)
        ids = self._ids()
        info = json.loads(
            json.dumps(
                info,
                default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value),
            )
        )
        for label, config, kind in self._wanted():
            self._open[label] = wandb.init(
                project=self.project,
                group=self.group,
                name=f"{self.group}/{label}",
                job_type=kind,
                id=ids[label],
                config={**info, **config},
                dir=str(self.folder),
                mode=self.mode,
                reinit="create_new",
                resume="allow" if self.resume and self.mode == "online" else None,
                settings=wandb.Settings(silent=True, console="off"),
            )

    def _record(self, rec: Record) -> None:
        if not self._open:
            return
        if rec.stage not in self._stages:
            self._stages.add(rec.stage)
            for run in self._open.values():
                run.define_metric(f"{rec.stage}/step")
                run.define_metric(f"{rec.stage}/*", step_metric=f"{rec.stage}/step")
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rec.rows:
            numbers = {name: value for name, value in row.items() if name not in self._not_curves}
            group = groups.setdefault(self._label[row["run"]], [])
            if "failed_at" not in row:
                group.append(numbers)
            self._log(f"run-{row['run']}", rec, numbers)
        for label, rows in groups.items():
            self._log(label, rec, aggregate(rows))

    def _finish(self, summary: dict[str, Any]) -> None:
        for row in summary.get("runs", []):
            run = self._open.get(f"run-{row['run']}")
            if run is not None:
                run.summary.update(
                    {
                        f"final/{name}": value
                        for name, value in row.items()
                        if isinstance(value, int | float)
                    }
                )
        for run in self._open.values():
            run.finish()
        self._open = {}

    def _wanted(self) -> list[tuple[str, dict[str, Any], str]]:
        each = [
            (f"run-{run['run']}", {**run.get("config", {}), "seed": run["seed"]}, "run")
            for run in self.runs
        ]
        first = {self._label[run["run"]]: run for run in reversed(self.runs)}
        return each + [
            (label, dict(run.get("config", {})), "aggregate") for label, run in first.items()
        ]

    def _log(self, label: str, rec: Record, numbers: dict[str, Any]) -> None:
        known = {
            f"{rec.stage}/{name}": float(value)
            for name, value in numbers.items()
            if value is not None and np.isfinite(value)
        }
        self._open[label].log({f"{rec.stage}/step": rec.step, **known})

    def _ids(self) -> dict[str, str]:
        file = self.folder / "ids.json"
        known = json.loads(file.read_text()) if self.resume and file.exists() else {}
        ids = known | {
            label: secrets.token_hex(4) for label, _, _ in self._wanted() if label not in known
        }
        write_text(file, json.dumps(ids, indent=1))
        return ids


def _tear_down() -> None:
    """Close the connection to W&B's service process, whatever has become of it."""
    with contextlib.suppress(Exception):
        sys.modules["wandb"].teardown(exit_code=1)


def aggregate(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean and standard deviation of each name over `rows`, one per run, and the number of rows."""
    out: dict[str, float] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        kept = finite(np.array([row.get(name) for row in rows], np.float64))
        if kept.size:
            out[f"{name}/mean"] = mean(kept)
        if kept.size > 1:
            out[f"{name}/std"] = std(kept)
    return {**out, "runs": float(len(rows))}


def _aggregate_label(run: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    configs = [other.get("config", {}) for other in runs]
    mine = run.get("config", {})
    varied = [name for name in mine if any(config.get(name) != mine[name] for config in configs)]
    return "-".join(
        [
            "seeds",
            *(
                f"{name}={mine[name]:g}"
                if isinstance(mine[name], float)
                else f"{name}={mine[name]}"
                for name in varied
            ),
        ]
    )
