"""The results of a job: the contents of its folder, and functions that read and write them."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from jaxoff.errors import BrokenResult
from jaxoff.files import plain, replacing, write_text


@dataclasses.dataclass
class Results:
    """A finished job.

    runs: one dictionary per run: seed, config leaves, return_mean, score, ... steps [K]: number of
    updates at each evaluation, the first before training. history: name -> [K, R, ...]. returns
    [R, E]: the return of every episode of the last evaluation. path: the job's folder, or None.
    """

    runs: list[dict[str, Any]]
    steps: np.ndarray
    history: dict[str, np.ndarray]
    returns: np.ndarray
    timing: dict[str, float]
    path: Path | None = None


def write_json(path: Path, value: Any) -> None:
    """Write JSON with NaN as null, completely or not at all."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Write a compressed .npz, completely or not at all."""
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_json(file: Path, names: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON object that must have these fields. Raises BrokenResult naming the file."""
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise BrokenResult(f"{file}: expected JSON, found {error}") from error
    check_fields(file, found, names)
    return found


def check_fields(where: Path | str, found: Any, names: Iterable[str]) -> None:
    """Raise BrokenResult unless a JSON value is an object that has these fields."""
    if not isinstance(found, dict):
        raise BrokenResult(f"{where}: expected an object, found {type(found).__name__}")
    for name in names:
        if name not in found:
            raise BrokenResult(f"{where}: field '{name}': expected, found only {sorted(found)}")


def read_npz(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz. Raises BrokenResult naming the file where it is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        raise BrokenResult(f"{file}: expected arrays, found {error}") from error


def save(results: Results, folder: Path, job: str = "") -> None:
    """Write final.json and final.npz. job: the job's identity, see `training.loop.identity`."""
    arrays = {"returns": results.returns, "steps": results.steps} | {
        f"history/{name}": value for name, value in results.history.items()
    }
    write_npz(folder / "final.npz", arrays)
    write_json(folder / "final.json", {"job": job, "runs": results.runs, "timing": results.timing})


def load(folder: Path) -> Results:
    """Read back what `save` wrote. Raises BrokenResult naming a file that is damaged."""
    final = read_json(folder / "final.json", ("runs", "timing"))
    arrays = read_npz(folder / "final.npz")
    check_fields(folder / "final.npz", arrays, ("steps", "returns"))
    history = {
        name.removeprefix("history/"): value
        for name, value in arrays.items()
        if name.startswith("history/")
    }
    return Results(
        final["runs"], arrays["steps"], history, arrays["returns"], final["timing"], folder
    )
