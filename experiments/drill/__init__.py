"""Drills: what a training keeps under kills, bad input and failed runs, and what it repeats.

Each drill starts the command or the library in processes of its own, as a user would, and returns
a `Drill` for the page.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxoff.training.spec import TrainSpec

LIMIT_S = 300  # longest duration of a process


class Drill(NamedTuple):
    """One line of the page's first table, with the table of its tries."""

    name: str
    asked: str  # what must hold
    tries: int
    held: int
    head: tuple[str, ...]  # of the table of tries
    rows: Sequence[tuple[str, ...]]


def start(
    folder: Path,
    spec: TrainSpec,
    *,
    devices: int = 1,
    wandb: bool = False,
    pair: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Train a job in a process of its own; see `job.py`.

    devices: number of host devices. wandb: log to Weights & Biases, offline. pair: the address and
    the number of this process, where two processes train the job together.
    """
    settings = json.dumps(dataclasses.asdict(spec))
    options = [str(folder), settings, str(devices), "offline" if wandb else "disabled", *pair]
    return subprocess.Popen(
        [sys.executable, "-m", "jaxoff.experiments.drill.job", *options],
        env=os.environ | {"WANDB_SILENT": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process; its status and what it wrote to stderr."""
    try:
        text = process.communicate(timeout=LIMIT_S)[1]
    finally:
        process.kill()
        process.wait()
    return process.returncode, text


def finish(*processes: subprocess.Popen[str]) -> None:
    """Wait for processes that must end well. Raises RuntimeError with the end of what they say."""
    for status, text in [end_of(process) for process in processes]:
        if status:
            raise RuntimeError(f"a training ended with status {status}: {text[-2000:]}")


def outcome(folder: Path) -> dict[str, Any]:
    """All that a finished job left which does not depend on time: arrays, rows and results."""
    with np.load(folder / "final.npz") as file:
        arrays = {name: file[name] for name in file.files}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    runs = json.loads((folder / "final.json").read_text())["runs"]
    return {
        "arrays": arrays,
        "rows": rows,
        "runs": [{name: x for name, x in run.items() if name != "wall_s"} for run in runs],
        "state": state_of(folder),
    }


def state_of(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the last checkpoint of a job, by their places."""
    import jax

    from jaxoff.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder / "checkpoint")
    leaves = jax.tree_util.tree_leaves_with_path(checkpoints.state())
    checkpoints.close()
    return {jax.tree_util.keystr(where): np.asarray(leaf) for where, leaf in leaves}


def same(one: Any, other: Any) -> bool:
    """Whether two outcomes are equal bit for bit."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return bool(one == other)


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Largest difference between two sets of arrays, relative to the largest magnitude in its
    array.
    """
    worst = 0.0
    for name, value in one.items():
        if np.issubdtype(value.dtype, np.floating) and value.size:
            a, b = value.astype(float), other[name].astype(float)
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)))
        elif not np.array_equal(value, other[name]):
            return float("inf")
    return worst
