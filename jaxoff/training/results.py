"""The results of a job: the contents of its folder, and functions that read and write them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from jaxoff import numpy_file
from jaxoff.errors import BrokenResult, InvalidFile, InvalidSetting
from jaxoff.files import plain, replacing, write_text
from jaxoff.runtime import needs

if TYPE_CHECKING:
    from pandas import DataFrame

    from jaxoff.training.spec import TrainSpec
    from jaxoff.types import Env, Policy

    Restore = Callable[[int], tuple[Env, Policy, TrainSpec]]

ADDED, MERGED = "added", "merged"  # folders of runs that are added to a job
EVALUATIONS = "evaluations.json"
_OF_TRAINING = ("updates", "wall_s", "failed_at")  # what a run that failed tells, too
MEND = "put back a copy of the file, or train the job anew with --overwrite"
MEND_EVALUATIONS = "put back a copy of the file, or remove it and evaluate again"
Fields = Mapping[str, Any]  # name of a field -> its type, or `object` for any
NOTHING: Fields = {}
_WORDS = (
    *("method", "task", "command", "hardware", "git_commit", "sampler", "variant"),
    *("folder", "env"),
)
CONFIG: Fields = {  # types of fields of config.json
    **dict.fromkeys(_WORDS, str),
    **dict.fromkeys(("config", "grid", "sampler_config", "versions", "env_spec"), dict),
    **dict.fromkeys(("seeds", "parts", "order", "grown_from"), list),
    **dict.fromkeys(("evaluations", "eval_episodes", "num_runs", "data_seed"), int),
    "data": dict | None,
    "data_dir": str | None,
    "sampled": bool,
}


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
        """One flat dictionary per run: method, task, run, seed, swept settings, final numbers.

        The numbers of a run that failed are NaN, so that they are part of no mean.
        """
        head = {}
        if self.spec is not None:
            head = {"method": self.spec.label, "task": self.spec.task_name}
        rows = []
        for run in self.runs:
            failed = run.get("failed_at") is not None
            numbers = {
                name: value if not failed or name in _OF_TRAINING else np.nan
                for name, value in run.items()
                if name not in ("run", "seed", "config")
            }
            about = {name: run[name] for name in ("run", "seed") if name in run}
            rows.append(head | about | run.get("config", {}) | numbers)
        return rows

    def to_frame(self) -> DataFrame:
        """The rows as a pandas DataFrame. Raises MissingProgram where pandas is not installed."""
        with needs("results.to_frame"):
            import pandas

        return pandas.DataFrame(self.rows())

    def __repr__(self) -> str:
        """Method, task, runs, last return, failed runs and folder, in one line."""
        job = "a job" if self.spec is None else f"{self.spec.label} on {self.spec.task_name}"
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


def broken(where: Path | str, expected: str, found: object) -> BrokenResult:
    """The error for a damaged file of a results folder, which says what to do about it."""
    mend = MEND_EVALUATIONS if EVALUATIONS in str(where) else MEND
    return BrokenResult(f"{where}: expected {expected}, found {found}; {mend}")


def read_json(file: Path, fields: Fields = NOTHING) -> dict[str, Any]:
    """Read a JSON object that must have these fields. Raises BrokenResult naming the file."""
    found = _parsed(file, _text(file))
    check_fields(file, found, fields)
    return found


def check_fields(where: Path | str, found: Any, fields: Fields, some: Fields = NOTHING) -> None:
    """Raise BrokenResult unless a value is an object that has these fields, of these types.

    some: types of fields that may be missing.
    """
    if not isinstance(found, dict):
        raise broken(where, "an object", type(found).__name__)
    for name in fields:
        if name not in found:
            raise broken(f"{where}: field '{name}'", "a value", f"only {sorted(found)}")
    for name, kind in {**some, **fields}.items():
        value = found.get(name)
        wrong = (isinstance(value, bool) and kind is not bool) or not isinstance(value, kind)
        if name in found and kind is not object and wrong:
            words = " or ".join(each.__name__ for each in get_args(kind) or (kind,))
            raise broken(f"{where}: field '{name}'", words, repr(value)[:80])


def read_config(folder: Path, names: Iterable[str] = ()) -> dict[str, Any]:
    """The content of config.json, which must have the fields `names`, and has the right types.

    Raises BrokenResult where it has not, or where an addition of runs has not been completed.
    """
    if (folder / MERGED).exists():
        raise BrokenResult(
            f"{folder / MERGED}: expected no addition of runs that is not complete, found one; "
            "give the command with --extend again"
        )
    found = read_json(folder / "config.json", {name: CONFIG.get(name, object) for name in names})
    check_fields(folder / "config.json", found, {}, CONFIG)
    return found


def read_final(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of final.json and the arrays of final.npz, whose sizes fit each other."""
    file = folder / "final.json"
    final = read_json(file, {"runs": list, "timing": dict})
    if not final["runs"]:
        raise broken(f"{file}: field 'runs'", "at least one run", "none")
    for run in final["runs"]:
        check_fields(f"{file}: field 'runs'", run, {"run": int, "seed": int}, {"config": dict})
        _check_numbers(f"{file}: field 'runs'", run, ("config",))
    arrays = read_npz(folder / "final.npz", ("steps", "returns"))
    _check_runs(folder / "final.npz", arrays, {"returns": 0}, len(final["runs"]))
    return final, arrays


def read_history(file: Path, runs: int, kept: int) -> dict[str, np.ndarray]:
    """The arrays of history.npz or final.npz, of a number of runs and at least `kept` evaluations.

    Histories of losses may have an evaluation less, since there is none before training.
    """
    arrays = read_npz(file, ("steps",))
    if "last/returns" not in arrays and "returns" not in arrays:
        raise broken(file, "array 'returns'", f"only {sorted(arrays)}")
    _check_runs(file, arrays, {"returns": 0} if "returns" in arrays else {}, runs)
    if len(arrays["steps"]) < kept:
        raise broken(f"{file}: array 'steps'", f"{kept} evaluations", len(arrays["steps"]))
    return arrays


def _check_runs(
    file: Path, arrays: Mapping[str, np.ndarray], axes: Mapping[str, int], runs: int
) -> None:
    """Raise BrokenResult unless the arrays have this many runs on their axis of runs."""
    if arrays["steps"].ndim != 1:
        raise broken(f"{file}: array 'steps'", "one axis", f"shape {arrays['steps'].shape}")
    every = {name: 1 for name in arrays if name.startswith("history/")} | dict(axes)
    for name, axis in every.items():
        shape = arrays[name].shape
        if len(shape) <= axis or shape[axis] != runs:
            raise broken(f"{file}: array '{name}'", f"{runs} runs on axis {axis}", f"shape {shape}")


def read_rows(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Each line of metrics.jsonl with the row that it holds. Raises BrokenResult."""
    rows = []
    for number, line in enumerate(_text(file).splitlines(), 1):
        row = _parsed(f"{file}: line {number}", line)
        check_fields(f"{file}: line {number}", row, {"stage_index": int, "step": int, "run": int})
        _check_numbers(f"{file}: line {number}", row, ("stage",))
        rows.append((line, row))
    return rows


def _check_numbers(where: str, row: dict[str, Any], other: tuple[str, ...]) -> None:
    """Raise BrokenResult unless every value is a number or missing, but for those in `other`."""
    for name, value in row.items():
        if name not in other and not isinstance(value, int | float | None):
            raise broken(f"{where}: field '{name}'", "a number", repr(value)[:80])


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The evaluations in evaluations.json, none where there is no such file."""
    file = folder / EVALUATIONS
    return read_json(file, {"evaluations": list})["evaluations"] if file.exists() else []


def read_npz(file: Path, names: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a .npz, which must have the given names. Raises BrokenResult with the file."""
    try:
        arrays = numpy_file.read_npz(file)
    except (InvalidFile, FileNotFoundError) as error:
        found = str(error).rpartition("found ")[2]
        raise broken(file, "an archive of arrays", found) from error
    for name in names:
        if name not in arrays:
            raise broken(file, f"array '{name}'", f"only {sorted(arrays)}")
    return arrays


def _text(file: Path) -> str:
    if not file.is_file():
        raise broken(file, "a file", "a folder" if file.is_dir() else "none")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise broken(file, "text in UTF-8", error) from error


def _parsed(where: Path | str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise broken(where, "JSON", f"{text[:60]!r} ({error})") from error


def save(results: Results, folder: Path, job: str = "") -> None:
    """Write final.npz and final.json. job: the job's identity, see `training.folder.identity`."""
    arrays = {"returns": results.returns, "steps": results.steps, "job": np.array(job)} | {
        f"history/{name}": value for name, value in results.history.items()
    }
    write_npz(folder / "final.npz", arrays)
    write_json(folder / "final.json", {"job": job, "runs": results.runs, "timing": results.timing})


def load(folder: Path) -> Results:
    """Read back what `save` wrote. Raises BrokenResult naming a file that is damaged."""
    final, arrays = read_final(folder)
    history = {
        name.removeprefix("history/"): value
        for name, value in arrays.items()
        if name.startswith("history/")
    }
    return Results(
        final["runs"], arrays["steps"], history, arrays["returns"], final["timing"], folder
    )
