"""The results of a job: the contents of its folder, and functions that read and write them."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from jaxoff.errors import BrokenResult, InvalidSetting, MissingProgram
from jaxoff.files import plain, replacing, write_text

if TYPE_CHECKING:
    from pandas import DataFrame

    from jaxoff.training.spec import TrainSpec
    from jaxoff.types import Env, Policy

    Restore = Callable[[int], tuple[Env, Policy, TrainSpec]]


@dataclasses.dataclass(repr=False)
class Results:
    """A finished job.

    runs: one dictionary per run: seed, config leaves, return_mean, score, ... steps [K]: number of
    updates at each evaluation, the first before training. history: name -> [K, R, ...]. returns
    [R, E]: the return of every episode of the last evaluation. path: the job's folder, or None.
    spec: the job. restore: number of a run -> its environment, trained policy and TrainSpec.
    """

    runs: list[dict[str, Any]]
    steps: np.ndarray
    history: dict[str, np.ndarray]
    returns: np.ndarray
    timing: dict[str, float]
    path: Path | None = None
    spec: TrainSpec | None = None
    restore: Restore | None = None

    def policy(self, run: int = 0) -> tuple[Env, Policy, TrainSpec]:
        """The environment, the trained policy of one run, and the TrainSpec of the job.

        It is what `jaxoff.load_policy` gives, also for a job without a folder. Raises
        InvalidSetting for a run that does not exist, or results that no training has given.
        """
        if self.restore is None:
            raise InvalidSetting("results.policy: expected results of a training, found numbers")
        return self.restore(run)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dictionary per run: method, task, run, seed, swept settings, final numbers."""
        head = {}
        if self.spec is not None:
            head = {"method": self.spec.label, "task": self.spec.task}
        return [
            head
            | {name: value for name, value in run.items() if name in ("run", "seed")}
            | run.get("config", {})
            | {name: value for name, value in run.items() if name not in ("run", "seed", "config")}
            for run in self.runs
        ]

    def to_frame(self) -> DataFrame:
        """The rows as a pandas DataFrame. Raises MissingProgram where pandas is not installed."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise MissingProgram(
                "results.to_frame: pandas is not installed; install it by `pip install pandas`, or "
                "take results.rows(), a list of dictionaries"
            ) from error
        return pandas.DataFrame(self.rows())

    def __repr__(self) -> str:
        """Method, task, runs, last return, failed runs and folder, in one line."""
        job = "a job" if self.spec is None else f"{self.spec.label} on {self.spec.task}"
        alive = [run.get("return_mean") for run in self.runs if run.get("failed_at") is None]
        kept = np.array(alive, np.float64)
        kept = kept[np.isfinite(kept)]
        spread = f" ± {kept.std(ddof=1):.3f}" if kept.size > 1 else ""
        parts = [
            f"{job}: {len(self.runs)} run{'s' * (len(self.runs) != 1)}",
            f"last return {kept.mean():.3f}{spread}" if kept.size else "no return",
            f"{len(self.runs) - len(alive)} failed",
            "in memory" if self.path is None else f"in {self.path}",
        ]
        return f"<Results of {', '.join(parts)}>"


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
