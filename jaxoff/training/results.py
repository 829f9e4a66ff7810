"""The result of a job: what is in its folder, and how the folder is written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.files import plain, replacing, write_text


@dataclasses.dataclass
class Results:
    """A finished job.

    runs: one dictionary a run: seed, config leaves, return_mean, score, ... steps [K]: updates at
    each evaluation, the first before training. history: name -> [K, R, ...]. returns [R, E]: every
    episode of the last evaluation. path: its folder, or None.
    """

    runs: list[dict[str, Any]]
    steps: np.ndarray
    history: dict[str, np.ndarray]
    returns: np.ndarray
    timing: dict[str, float]
    path: Path | None = None


class Interrupted(RuntimeError):
    """A job was asked to stop; it has saved its state and continues when the same command is
    given.
    """


def write_json(path: Path, value: Any) -> None:
    """JSON with NaN as null, whole or not at all."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """A compressed .npz, whole or not at all."""
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def save(results: Results, folder: Path) -> None:
    """Write final.json and final.npz."""
    arrays = {"returns": results.returns, "steps": results.steps} | {
        f"history/{name}": value for name, value in results.history.items()
    }
    write_npz(folder / "final.npz", arrays)
    write_json(folder / "final.json", {"runs": results.runs, "timing": results.timing})


def load(folder: Path) -> Results:
    """Read back what `save` wrote."""
    final = json.loads((folder / "final.json").read_text())
    with np.load(folder / "final.npz") as arrays:
        history = {
            name.removeprefix("history/"): arrays[name]
            for name in arrays
            if name.startswith("history/")
        }
        return Results(
            final["runs"], arrays["steps"], history, arrays["returns"], final["timing"], folder
        )
