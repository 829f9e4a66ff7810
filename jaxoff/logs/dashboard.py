"""Logs to Weights & Biases: a group per job, and a W&B run per run and per aggregate.

An aggregate has mean and standard deviation over seeds. wandb is imported only when this log is
switched on.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from jaxoff.eval.statistics import finite, mean, std
from jaxoff.files import plain, write_text
from jaxoff.logs.base import Record
from jaxoff.runtime import needs

Mode = Literal["disabled", "offline", "online"]
SWEEP = "WANDB_SWEEP_ID"  # set by W&B's sweep agent in the processes that it starts
TEAR_DOWN_S = 2.0  # longest wait for W&B's clean-up after an error
_NAME, _TAG = 128, 64  # most letters of a name and of a tag


class WandB:
    """Every run has its own curve; runs that differ only in their seed share an aggregate W&B run.

    The runs are those that `start` is told. They are called METHOD/TASK/LABEL/seed-SEED, where
    LABEL is `label` and the swept settings, and their aggregate METHOD/TASK/LABEL/mean. Metrics are
    named stage/name and drawn over stage/step. At the end every aggregate has a table of its runs,
    and one of them a GIF.

    project, entity, group: where W&B shows them; without an entity, in the user's own. tags: in
    addition to method, task and label. folder: holds wandb's files, and ids.json, with which a
    resumed training continues its curves. Runs that are added to a job have an aggregate of their
    own. gif: writes an episode of a run, by its number, and gives the file or None. In a process of
    W&B's sweep agent, the sweep's own W&B run is the aggregate, and the only one.
    """

    def __init__(
        self,
        mode: Mode,
        project: str,
        group: str,
        folder: str | Path = ".",
        *,
        entity: str | None = None,
        label: str = "",
        tags: Sequence[str] = (),
        resume: bool = False,
        gif: Callable[[int], Path | None] = lambda run: None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(
                f"wandb: field 'mode': expected one of {', '.join(get_args(Mode))}, found '{mode}'"
            )
        if mode != "disabled":
            with needs("--wandb"):  # before the training, which an error in `start` does not end
                import wandb  # noqa: F401
        self.mode, self.project, self.entity = mode, project, entity
        self.group, self.label, self.tags = group, label, tuple(tags)
        self.folder, self.resume, self.gif = Path(folder), resume, gif
        self._open: dict[str, Any] = {}  # label -> wandb run
        self._stages: set[str] = set()
        self._take([])

    def _take(self, runs: Sequence[dict[str, Any]]) -> None:
        self.runs = list(runs)
        first = min((run["run"] for run in self.runs), default=0)
        prefix = f"from-{first}-" if first else ""
        self._swept = {run["run"]: _swept(run, self.runs) for run in self.runs}
        self._label = {
            run: prefix + "-".join(filter(None, ("seeds", swept)))
            for run, swept in self._swept.items()
        }
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

        self._take(info.get("runs", []))
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep, ids = SWEEP in os.environ, self._ids()
        for label, runs in self._wanted(sweep).items():
            self._open[label] = wandb.init(
                # a sweep has a project and an identity for its run
                project=None if sweep else self.project,
                entity=None if sweep else self.entity,
                id=None if sweep else ids[label],
                group=self.group[:_NAME],
                **self._named(info, label, runs[0]),
                job_type="run" if label.startswith("run-") else "aggregate",
                config=_config(info, runs, label),
                dir=str(self.folder),
                mode=self.mode,
                reinit="create_new",
                resume="allow" if self.resume and self.mode == "online" and not sweep else None,
                settings=wandb.Settings(silent=True, console="off"),
            )

    def _named(self, info: dict[str, Any], label: str, run: dict[str, Any]) -> dict[str, Any]:
        """The name and the tags of a W&B run; run: its first run."""
        method = str(info.get("method", ""))
        if info.get("sampler", "uniform") != "uniform":
            method = f"{method}+{info['sampler']}"
        parts = (self.label, self._swept[run["run"]])
        whole = [method, str(info.get("task", "")), "-".join(filter(None, parts)) or "default"]
        last = f"/seed-{run['seed']}" if label.startswith("run-") else "/mean"
        name = "/".join(whole)[: _NAME - len(last)] + last
        tags = dict.fromkeys(tag[:_TAG] for tag in (*self.tags, *whole) if tag)
        return {"name": name, "tags": list(tags)}

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
        if self._open and summary:
            self._log_media(summary.get("runs", []))
        for run in self._open.values():
            run.finish()
        self._open = {}

    def _log_media(self, rows: Sequence[dict[str, Any]]) -> None:
        """A table of its runs for every aggregate; for one, an episode of its first sound run."""
        with needs("--wandb"):
            import wandb

        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            flat = {name: value for name, value in row.items() if name != "config"}
            groups.setdefault(self._label[row["run"]], []).append(row.get("config", {}) | flat)
        for label, group in groups.items():
            names: list[Any] = list(dict.fromkeys(name for row in group for name in row))
            cells: list[Any] = [[plain(row.get(name)) for name in names] for row in group]
            self._open[label].log({"final/runs": wandb.Table(columns=names, data=cells)})
        sound = next((row["run"] for row in rows if row.get("failed_at") is None), None)
        episode = None if sound is None else self.gif(sound)
        if episode is not None:
            video = wandb.Video(str(episode), format="gif", caption=f"run {sound}")
            self._open[self._label[sound]].log({"final/episode": video})

    def _wanted(self, sweep: bool = False) -> dict[str, list[dict[str, Any]]]:
        """Label of each W&B run -> the runs that it shows."""
        each = {} if sweep else {f"run-{run['run']}": [run] for run in self.runs}
        groups: dict[str, list[dict[str, Any]]] = {}
        for run in self.runs:
            groups.setdefault(self._label[run["run"]], []).append(run)
        return each | groups

    def _log(self, label: str, rec: Record, numbers: dict[str, Any]) -> None:
        known = {
            f"{rec.stage}/{name}": float(value)
            for name, value in numbers.items()
            if value is not None and np.isfinite(value)
        }
        if label in self._open:  # a sweep has no W&B run for each run
            self._open[label].log({f"{rec.stage}/step": rec.step, **known})

    def _ids(self) -> dict[str, str]:
        file = self.folder / "ids.json"
        known = json.loads(file.read_text()) if self.resume and file.exists() else {}
        ids = known | {
            label: secrets.token_hex(4) for label in self._wanted() if label not in known
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


def _swept(run: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """The settings in which a run differs from others, as NAME=VALUE with hyphens between them."""
    configs = [other.get("config", {}) for other in runs]
    mine = run.get("config", {})
    varied = [name for name in mine if any(config.get(name) != mine[name] for config in configs)]
    return "-".join(
        f"{name}={mine[name]:g}" if isinstance(mine[name], float) else f"{name}={mine[name]}"
        for name in varied
    )


def _config(info: dict[str, Any], runs: Sequence[dict[str, Any]], label: str) -> dict[str, Any]:
    """The config of a W&B run: the job's, with the runs' own settings and seed, or seeds."""
    first = runs[0]
    settings = {**info.get("config", {}), **first.get("settings", {})}
    seeds = [run["seed"] for run in runs]
    about = {"seed": seeds[0]} if label.startswith("run-") else {"seeds": seeds}
    whole = {name: value for name, value in info.items() if name not in ("runs", "seeds")}
    made = plain({**whole, "config": settings, **first.get("config", {}), **about})
    return json.loads(json.dumps(made, default=str))
