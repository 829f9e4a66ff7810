"""Reads result folders; no other module of the report reads a run's files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.errors import BrokenResult
from jaxoff.report.protocol import Protocol
from jaxoff.training.results import check_fields, read_json, read_npz

FILES = ("config.json", "metrics.jsonl", "final.json", "final.npz")
CONFIG_FIELDS = ("method", "task", "command", "hardware", "git_commit")


@dataclasses.dataclass(frozen=True)
class Run:
    """One result folder: R runs of one method on one task.

    config: the content of config.json. rows: the lines of metrics.jsonl. runs: one dictionary per
    run, and timing: both from final.json. arrays: the arrays of final.npz, with "returns"
    [R, episodes], "steps" [K] and "history/..." [K, R, ...]. evaluated: how the numbers in `runs`
    were found, where they are not those of training.
    """

    path: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    timing: dict[str, float]
    arrays: dict[str, np.ndarray]
    variant: str
    evaluated: Protocol | None = None

    @property
    def task(self) -> str:
        """The task string."""
        return self.config["task"]

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return [run["seed"] for run in self.runs]

    @property
    def protocol(self) -> Protocol:
        """How the numbers in `runs` were found."""
        return self.evaluated or self.training

    @property
    def training(self) -> Protocol:
        """How the evaluations during training were made."""
        return Protocol(self.config.get("sampled"), self.config.get("eval_episodes"))

    @property
    def failed(self) -> np.ndarray:
        """[R] bool: the runs that met a number that is not finite."""
        return np.array([run.get("failed_at") is not None for run in self.runs], bool)

    def has(self, metric: str) -> bool:
        """Whether any run has a number of this name in final.json."""
        return any(run.get(metric) is not None for run in self.runs)

    def values(self, metric: str) -> np.ndarray:
        """The final numbers [R] of this name; NaN for a failed run.

        Raises BrokenResult where no run has the name.
        """
        if not any(metric in run for run in self.runs):
            raise BrokenResult(
                f"{self.path / 'final.json'}: field 'runs': expected '{metric}', found "
                f"{sorted(self.runs[0])}"
            )
        values = np.array([run.get(metric) for run in self.runs], np.float64)
        return np.where(self.failed, np.nan, values)

    def history(self, name: str) -> np.ndarray:
        """The array history/name [K, R, ...]. Raises BrokenResult where it is missing."""
        if f"history/{name}" not in self.arrays:
            raise BrokenResult(
                f"{self.path / 'final.npz'}: expected array 'history/{name}', found "
                f"{sorted(self.arrays)}"
            )
        return self.arrays[f"history/{name}"]


def load_run(path: str | Path) -> Run:
    """Read one result folder. Raises BrokenResult, naming the file that is missing or broken."""
    folder = Path(path)
    for name in FILES:
        if not (folder / name).is_file():
            raise BrokenResult(
                f"{folder / name}: expected a file, found none; a run writes it when it ends"
            )
    config = read_json(folder / "config.json", CONFIG_FIELDS)
    final = read_json(folder / "final.json", ("runs", "timing"))
    if not final["runs"]:
        raise BrokenResult(
            f"{folder / 'final.json'}: field 'runs': expected at least one run, found none"
        )
    for run in final["runs"]:
        check_fields(folder / "final.json", run, ("run", "seed"))
    variant = config.get("variant") or config["method"]
    return Run(
        folder,
        config,
        _json_lines(folder / "metrics.jsonl"),
        final["runs"],
        final["timing"],
        read_npz(folder / "final.npz"),
        variant,
    )


def run_folders(path: str | Path) -> list[Path]:
    """Every result folder at or below a path, finished or not, in order."""
    files = sorted(Path(path).rglob("config.json"))
    return [
        file.parent
        for file in files
        if not {"checkpoint", "wandb"} & set(file.relative_to(path).parts)
    ]


def unfinished(path: str | Path) -> list[Path]:
    """The result folders below a path whose runs have not ended."""
    return [folder for folder in run_folders(path) if not (folder / "final.json").exists()]


def load_experiment(path: str | Path) -> list[Run]:
    """Read every result folder at or below a path.

    Raises BrokenResult where there is no result folder, or one is broken.
    """
    folders = run_folders(path)
    if not folders:
        raise BrokenResult(f"{path}: expected result folders with a config.json, found none")
    return [load_run(folder) for folder in folders]


def by_config(runs: Iterable[Run]) -> list[Run]:
    """Split every folder that holds a grid into one `Run` per grid point.

    The label of such a run's variant names the grid point.
    """
    out = []
    for run in runs:
        configs = [each.get("config") or {} for each in run.runs]
        varied = [
            name
            for name in configs[0]
            if any(config.get(name) != configs[0][name] for config in configs)
        ]
        points = [tuple((name, config.get(name)) for name in varied) for config in configs]
        for point in dict.fromkeys(points):
            label = ", ".join(
                f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in point
            )
            keep = [i for i, other in enumerate(points) if other == point]
            out.append(select(run, keep, f"{run.variant} ({label})") if label else run)
    return out


def select(run: Run, keep: Sequence[int], variant: str) -> Run:
    """A new `Run` with some of the runs of a folder."""
    numbers = {run.runs[i]["run"] for i in keep}
    axis = {name: 1 for name in run.arrays if name.startswith("history/")} | {"returns": 0}
    return dataclasses.replace(
        run,
        rows=[row for row in run.rows if row["run"] in numbers],
        runs=[run.runs[i] for i in keep],
        arrays={
            name: np.take(value, keep, axis[name]) if name in axis else value
            for name, value in run.arrays.items()
        },
        variant=variant,
    )


def _json_lines(file: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = file.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise BrokenResult(f"{file}: expected text, found {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BrokenResult(f"{file}: line {number}: expected JSON, found {error}") from error
        check_fields(f"{file}: line {number}", row, ("stage_index", "step", "run"))
        rows.append(row)
    return rows
