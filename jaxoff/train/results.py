"""The result of a job: what is in its folder, and how the folder is written."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass
class Results:
    """A finished job.

    runs: one dictionary a run: seed, config leaves, return_mean, score, ... steps [K]: updates at each
    evaluation, the first before training. history: name -> [K, R, ...]. returns [R, E]: every episode
    of the last evaluation. path: its folder, or None.
    """

    runs: list[dict[str, Any]]
    steps: np.ndarray
    history: dict[str, np.ndarray]
    returns: np.ndarray
    timing: dict[str, float]
    path: Path | None = None


class Interrupted(RuntimeError):
    """A job was asked to stop; it has saved its state and continues when the same command is given."""


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data.encode() if isinstance(data, str) else data)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """JSON with NaN as null, written atomically."""
    write_atomic(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A compressed .npz, written atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def save(results: Results, folder: Path) -> None:
    """Write final.json and final.npz."""
    arrays = {"returns": results.returns, "steps": results.steps} | {f"history/{name}": value for name, value in results.history.items()}
    write_npz(folder / "final.npz", arrays)
    write_json(folder / "final.json", {"runs": results.runs, "timing": results.timing})


def load(folder: Path) -> Results:
    """Read back what `save` wrote."""
    final = json.loads((folder / "final.json").read_text())
    with np.load(folder / "final.npz") as arrays:
        history = {name.removeprefix("history/"): arrays[name] for name in arrays if name.startswith("history/")}
        return Results(final["runs"], arrays["steps"], history, arrays["returns"], final["timing"], folder)
