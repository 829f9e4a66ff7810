"""Reads result folders; no other module of the report reads a run's files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.errors import BrokenResult
from jaxoff.eval.statistics import was_played
from jaxoff.report.protocol import Protocol
from jaxoff.training.results import (
    ADDED,
    MERGED,
    broken,
    read_config,
    read_final,
    read_json,
    read_rows,
)

CONFIG_FIELDS = ("method", "task", "command", "hardware", "git_commit")
SETTINGS = (  # fields of config.json that tell jobs apart, besides those of the method's Config
    *("method", "sampler", "data_seed", "data_episodes", "prng", "precision", "obs_dtype"),
    *("sampled", "eval_episodes"),
)
# Of what tells jobs apart, that which nobody tunes: the data, number formats and evaluations.
CIRCUMSTANCES = {*SETTINGS, "data", "env"} - {"sampler"}
NO_RESULTS = {"checkpoint", "wandb", ADDED, MERGED}  # names of folders that hold no result folders


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

    @property
    def unplayed(self) -> bool:
        """Whether no policy was evaluated, since no environment is there that could play it."""
        played = self.evaluated or self.has("return_mean") or any(map(was_played, self.runs))
        return not played and not self.failed.all()

    @property
    def curve_metric(self) -> str:
        """What learning curves show: returns, or the first loss where no policy was evaluated."""
        last = self.rows[-1] if self.rows and self.unplayed else {}
        return next((name for name in last if name.startswith("loss/")), "return_mean")

    def has(self, metric: str) -> bool:
        """Whether any run has a number of this name in final.json."""
        return any(run.get(metric) is not None for run in self.runs)

    def knows(self, metric: str) -> bool:
        """Whether any run has a number of this name, or would have it had not all runs failed."""
        return self.has(metric) or (
            bool(self.failed.all()) and any(metric in run for run in self.runs)
        )

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
    config = read_config(folder, CONFIG_FIELDS)
    rows = [row for _, row in read_rows(folder / "metrics.jsonl")]
    final, arrays = read_final(folder)
    end = arrays["steps"][-1] if len(arrays["steps"]) else 0
    missing = {run["run"] for run in final["runs"]} - {
        row["run"] for row in rows if row["step"] == end
    }
    if missing:
        found = f"none of run {min(missing)}"
        raise broken(folder / "metrics.jsonl", f"a row of every run after {end} updates", found)
    variant = config.get("variant") or config["method"]
    return Run(folder, config, rows, final["runs"], final["timing"], arrays, variant)


def run_folders(path: str | Path) -> list[Path]:
    """Every result folder at or below a path, finished or not, in order.

    Links to folders are followed. A result folder that several paths lead to is found once in each
    experiment, the folder that holds it or a link to it. Where an experiment is linked, too, it has
    the name that it has without the link.
    """
    found: dict[tuple[str, str], Path] = {}  # true paths of experiment and result folder
    starts, entered = [str(path)], set[str]()
    for start in starts:  # links that are met on the way are added, and followed afterwards
        for place, names, files in os.walk(start):
            real = os.path.realpath(place)
            home = os.path.realpath(os.path.dirname(os.path.abspath(place)))
            if place != starts[0] and os.path.join(home, "").startswith(os.path.join(real, "")):
                break  # the start is a link to a folder that it lies in
            if "config.json" in (*files, *names):  # a folder of this name is refused when read
                found.setdefault((home, real), Path(place))
            names[:] = [] if real in entered else sorted(set(names) - NO_RESULTS)
            entered.add(real)
            inner = (os.path.join(place, name) for name in names)
            starts += [link for link in inner if os.path.islink(link)]
    return sorted(found.values(), key=lambda folder: folder / "config.json")


def unfinished(path: str | Path) -> list[Path]:
    """The result folders below a path whose runs have not ended, or are being extended."""
    return [folder for folder in run_folders(path) if not _ended(folder)]


def _ended(folder: Path) -> bool:
    """Whether a folder has results, be they damaged, that are not those of before an extension."""
    try:
        former = read_config(folder).get("grown_from")
        return (folder / "final.json").exists() and not (
            former and read_json(folder / "final.json").get("job") in former
        )
    except BrokenResult:
        return True


def load_experiment(path: str | Path) -> list[Run]:
    """Read every result folder at or below a path.

    Raises BrokenResult where there is no result folder, or one is broken.
    """
    folders = run_folders(path)
    if not folders:
        raise BrokenResult(f"{path}: expected result folders with a config.json, found none")
    return [load_run(folder) for folder in folders]


def told_apart(runs: Iterable[Run], only: Collection[str] | None = None) -> list[Run]:
    """The runs, whose variants name the settings in which folders of one task and variant differ.

    Folders that differ only in seeds keep one variant. The values that a folder sweeps are left to
    `by_config`. only: names of the settings that are looked at, by default all.
    """
    runs = list(runs)
    groups: dict[str, dict[str, list[Path]]] = {}  # variant -> task -> folders
    told = {run.path: _settings_of(run) for run in runs}
    for run in runs:
        groups.setdefault(run.variant, {}).setdefault(run.task, []).append(run.path)
    differ: dict[str, list[str]] = {}  # variant -> names of settings
    for variant, tasks in groups.items():
        names = dict.fromkeys(
            name for each in tasks.values() for path in each for name in told[path]
        )
        differ[variant] = [
            name
            for name in names
            if (only is None or name in only)
            and any(_differ([told[path] for path in each], name) for each in tasks.values())
        ]
    labels = {
        run.path: ", ".join(
            f"{name}={_short(told[run.path][name])}"
            for name in differ[run.variant]
            if name in told[run.path]
        )
        for run in runs
    }
    return [dataclasses.replace(run, variant=joined(run.variant, labels[run.path])) for run in runs]


def _differ(told: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a setting tells some jobs of one task and variant apart.

    The digest of the data does not where the seed and the number of its episodes say as much.
    """
    cause = ("data_seed", "data_episodes") if name == "data" else ()
    groups: dict[str, set[str]] = {}
    for settings in told:
        place = repr([settings.get(each) for each in cause])
        groups.setdefault(place, set()).add(repr(settings.get(name)))
    return any(len(values) > 1 for values in groups.values())


def _settings_of(run: Run) -> dict[str, Any]:
    """The settings of a job's config.json that may tell it from others, by name.

    These are all but seeds, what may differ between two runs of one job (`training.folder`), and
    the number of evaluations, on which no final number depends.
    """
    config = run.config
    own = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in config["config"].items()
        if len(config.get("grid", {}).get(name, ())) < 2  # `by_config` names values of a grid
    }
    digest = (config.get("data") or {}).get("sha256")
    if digest:  # folders of one name, and --data, may give a task different data
        own["data"] = str(digest)[:8]
    if "folder" in config:
        own["env"] = config.get("env") or "none"
    sampler = {f"sampler {name}": x for name, x in config.get("sampler_config", {}).items()}
    # later evaluations have actions and episodes of their own
    unread = () if run.evaluated is None else ("sampled", "eval_episodes")
    rest = {name: config[name] for name in SETTINGS if name in config and name not in unread}
    return own | sampler | rest


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def joined(variant: str, text: str) -> str:
    """A variant's label with settings in brackets, joined to those that it has."""
    if not text:
        return variant
    joined = variant.endswith(")") and " (" in variant
    return f"{variant[:-1]}, {text})" if joined else f"{variant} ({text})"


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
            out.append(select(run, keep, joined(run.variant, label)) if label else run)
    return out


def separated(runs: Iterable[Run]) -> list[Run]:
    """The runs of `by_config`, of which those name their folders that share a seed with others of
    their task and variant: a point of a grid, say, that was also trained by itself.
    """
    runs = list(runs)
    folders: dict[tuple[str, str, int], list[Path]] = {}
    for run in runs:
        for seed in run.seeds:
            folders.setdefault((run.task, run.variant, seed), []).append(run.path)
    shared = {place[:2] for place, paths in folders.items() if len(paths) > 1}
    return [
        dataclasses.replace(run, variant=joined(run.variant, f"in {run.path.name}"))
        if (run.task, run.variant) in shared
        else run
        for run in runs
    ]


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
