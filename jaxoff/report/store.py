"""The results store: final numbers of runs in a CSV file that is small enough to be committed.

A row is a run. Its key is a digest of all settings of its job but the seed: method, label, task,
every field of the configuration, sampler, seed and size of the data, and how policies are
evaluated. A job whose runs are all in a store is read from there, as `stored` does for the
experiments of a paper. Curves are in a second file beside the first, with at most 20 points a run;
histories of other arrays, policies and the returns of single episodes are in result folders only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff import registry
from jaxoff.config import BUDGETS, resolve_config
from jaxoff.errors import InvalidSetting, JaxoffError
from jaxoff.files import alone_in, plain
from jaxoff.names import Task
from jaxoff.report.load import Run, load_run
from jaxoff.report.store_file import (
    COLUMNS,
    REAL,
    Curve,
    Row,
    as_text,
    read,
    read_curves,
    write,
)
from jaxoff.training.folder import LOOSE, describe
from jaxoff.training.spec import TrainSpec, resolve

POINTS = 20  # most points of a curve
CURVES = ("exact_value", "return_mean")  # the first of these that is there is kept
WINS = "win_rate"  # whose curve is kept, too
LATE = ("loss/distance",)  # logged metrics whose mean over the last tenth of training is kept
# not among `numbers`: they have columns of their own, or tell nothing of the policy
APART = {"run", "seed", "config", "updates", "wall_s", "failed_at", *REAL}
ACTIONS = {True: "sampled", False: "modes", None: ""}


def digest(parts: Mapping[str, Any]) -> str:
    """A key: the first 16 hexadecimal digits of a SHA-256 of some settings."""
    text = json.dumps(plain(dict(parts)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key_of(record: Mapping[str, Any], point: Mapping[str, float]) -> str:
    """The key of the runs of a job at one point of its grid; record: its config.json."""
    loose = {*LOOSE, "seeds", "num_runs", "data", "grid", "parts", "order", "steps", "env_spec"}
    loose |= {"size"}  # which only chooses the defaults of the settings
    kept = {name: value for name, value in record.items() if name not in loose}
    return digest(kept | {"config": _config_at(record, point)})


def _config_at(record: Mapping[str, Any], point: Mapping[str, float]) -> dict[str, Any]:
    """The method's settings at a point of the grid, without updates that follow from a budget."""
    shown = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in record["config"].items()
    }
    shown |= {name: float(str(np.float32(value))) for name, value in point.items()}
    derived = {updates for slots, updates in BUDGETS.items() if shown.get(slots)}
    return {name: value for name, value in shown.items() if name not in derived}


def _settings_at(record: Mapping[str, Any], point: Mapping[str, float]) -> dict[str, Any]:
    """The settings of a job at a point of its grid that are no defaults, and those of the point."""
    config, method, task = _config_at(record, point), record["method"], record["task"]
    usual = {
        field.name: field.default
        for field in dataclasses.fields(TrainSpec)
        if field.name not in (*LOOSE, "seeds", "steps", "config", "grid", "variant", "env", "size")
    }
    found = {
        name: record[name]
        for name, default in usual.items()
        if default is not dataclasses.MISSING and name in record and record[name] != default
    }
    found |= {f"sampler.{name}": value for name, value in record.get("sampler_config", {}).items()}
    try:
        # folders from before there were sizes have the paper's
        size = record.get("size", "paper")
        default = resolve_config(registry.learner(method, task), Task.parse(task), {}, size=size)
        known = {
            name: float(str(np.float32(x))) if hasattr(x, "shape") else plain(x)
            for name, x in vars(default).items()
        }
    except JaxoffError:  # a method or a task that is not here: all of its settings
        known = {}
    changed = {
        name: x
        for name, x in config.items()
        if name in point or name not in known or known[name] != x
    }
    return found | changed


def rows_of(run: Run, scale: str = "") -> list[Row]:
    """The rows of a result folder."""
    found = []
    for index, one in enumerate(run.runs):
        point = one.get("config") or {}
        numbers = {
            name: float(value)
            for name, value in one.items()
            if name not in APART and isinstance(value, int | float)
        } | _late(run, index)
        row = Row(
            key=key_of(run.config, point),
            method=run.config["method"],
            label=run.variant,
            task=run.task,
            seed=one["seed"],
            scale=scale,
            settings=_settings_at(run.config, point),
            steps=one.get("updates") or run.config["config"].get("steps"),
            actions=ACTIONS[run.config.get("sampled")],
            episodes=run.config.get("eval_episodes"),
            return_mean=one.get("return_mean"),
            return_std=_deviation(run, index, one),
            win_rate=one.get("win_rate"),
            score=one.get("score"),
            numbers=numbers,
            failed_at=one.get("failed_at"),
            data=((run.config.get("data") or {}).get("sha256") or "")[:12],
            commit=str(run.config["git_commit"]),
            hardware=str(run.config["hardware"]),
            seconds=run.timing["train_s"] / len(run.runs) if "train_s" in run.timing else None,
            command=run.config["command"],
            source=run.path.name,
        )
        found.append(row)
    return found


def _late(run: Run, index: int) -> dict[str, float]:
    """The metrics of LATE that a run has logged, as means over the last tenth of its training."""
    found = {}
    for name in LATE:
        curve = run.arrays.get(f"history/{name}")
        if curve is not None and len(curve):
            last = curve[-max(1, round(0.1 * len(curve))) :, index]
            found[f"{name}, last tenth"] = float(last.mean())
    return found


def _deviation(run: Run, index: int, one: Mapping[str, Any]) -> float | None:
    """The standard deviation of the returns of a run's episodes."""
    if one.get("return_std") is not None:
        return one["return_std"]
    returns = run.arrays["returns"]
    return float(np.std(returns[index])) if returns.ndim == 2 and returns.shape[1] else None


def thinned(run: Run) -> list[Curve]:
    """The curves of the runs of a result folder, of the last stage, with at most POINTS points."""
    last = max((row["stage_index"] for row in run.rows), default=0)
    shown = [name for name in CURVES if any(name in row for row in run.rows)][:1]
    points = {one["run"]: one.get("config") or {} for one in run.runs}
    seeds = {one["run"]: one["seed"] for one in run.runs}
    found: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for row in run.rows:
        for metric in (*shown, WINS) if row["stage_index"] == last else ():
            if row.get(metric) is not None:
                place = found.setdefault((row["run"], metric), [])
                place.append((row["step"], row[metric]))
    curves = []
    for (number, metric), listed in found.items():
        listed.sort()
        kept = np.unique(np.linspace(0, len(listed) - 1, POINTS).round().astype(int))
        steps, values = zip(*(listed[i] for i in kept), strict=True)
        key = key_of(run.config, points[number])
        curves.append(Curve(key, seeds[number], metric, steps, values))
    return curves


def put(
    file: str | Path, rows: Sequence[Row], curves: Sequence[Curve] = (), *, dirty: bool = False
) -> tuple[int, int]:
    """Put rows into a store, in place of those of the same runs; returns how many are new, and how
    many have changed. Rows of tables give way to runs of the same label, task and scale.

    dirty: also rows from a source tree with changes that no commit has. Raises InvalidSetting for
    such rows otherwise, and for rows whose key the store has with another dataset.
    """
    with alone_in(Path(file).parent):  # another process may put its rows there
        return _put(Path(file), rows, curves, dirty)


def _put(file: Path, rows: Sequence[Row], curves: Sequence[Curve], dirty: bool) -> tuple[int, int]:
    held = {row.place: row for row in read(file)}
    data = {row.key: row.data for row in held.values()}
    for row in rows:
        if not dirty and any(one.endswith("-dirty") for one in row.commit.split(", ")):
            raise InvalidSetting(
                f"{row.source}: field 'git_commit': expected a commit, found {row.commit}, a "
                "source tree with further changes; run it again from a commit, or give --dirty"
            )
        if data.setdefault(row.key, row.data) != row.data:
            raise InvalidSetting(
                f"{row.source}: field 'data': expected the dataset {data[row.key]} that {file} has "
                f"for {row.label} on {row.task}, found {row.data}; give a --label"
            )
    new = {row.place: row for row in rows}
    ran = {(row.task, row.label, row.scale) for row in rows if not row.of_table}
    held = {
        place: row
        for place, row in held.items()
        if not (row.of_table and (row.task, row.label, row.scale) in ran)
    }
    added = len(new.keys() - held.keys())
    same = lambda a, b: all(as_text(n, getattr(a, n)) == as_text(n, getattr(b, n)) for n in COLUMNS)
    changed = sum(not same(held[place], new[place]) for place in new.keys() & held.keys())
    if added or changed:
        kept = [curve for curve in read_curves(file) if (curve.key, curve.seed) not in new]
        write(file, (held | new).values(), [*kept, *curves])
    return added, changed


def add(
    file: str | Path, folders: Iterable[Path], scale: str = "", *, dirty: bool = False
) -> tuple[int, int]:
    """Put the runs of result folders into a store.

    Raises what `put` and `load_run` do, and InvalidSetting where two folders have a run of one job
    and seed.
    """
    runs = [load_run(folder) for folder in folders]
    rows: dict[tuple[str, int], Row] = {}
    where: dict[tuple[str, int], Path] = {}
    for run in runs:
        for row in rows_of(run, scale):
            if row.place in rows:
                raise InvalidSetting(
                    f"{run.path}: field 'seed': expected runs that {where[row.place]} does not "
                    f"have, found seed {row.seed} of {row.label} on {row.task} in both"
                )
            rows[row.place], where[row.place] = row, run.path
    curves = [curve for run in runs for curve in thinned(run)]
    return put(file, [*rows.values()], curves, dirty=dirty)


# ------------------------------------------------------------------------- results from the store


def load(file: str | Path) -> list[Run]:
    """The rows of a store as results, one for each key, as if they were read from folders."""
    groups: dict[str, list[Row]] = {}
    for row in read(file):
        groups.setdefault(row.key, []).append(row)
    curves = read_curves(file)
    return [_run(Path(file), rows, _record(rows), curves) for rows in groups.values()]


def stored(file: str | Path, spec: TrainSpec) -> Run | None:
    """The results of a job from a store, None unless the store has all of its runs.

    A job on a dataset folder, whose data its name does not tell, is never in a store.
    """
    if not Path(file).exists() or Task.parse(spec.task).folder:
        return None
    job, held = resolve(spec), {row.place: row for row in read(file)}
    env: Any = None  # which tells only of a dataset folder
    record: dict[str, Any] = json.loads(json.dumps(plain(describe(job, None, env))))
    places = [
        (key_of(record, point), seed) for point, seed in zip(job.points, job.seeds, strict=True)
    ]
    if any(place not in held for place in places):
        return None
    rows = [held[place] for place in places]
    points = [dict(point) for point in job.points]
    return _run(Path(file), rows, record | _origin(rows), read_curves(file), points)


def _origin(rows: Sequence[Row]) -> dict[str, Any]:
    """Where some rows were made, as fields of config.json."""
    names = {"hardware": "hardware", "git_commit": "commit", "command": "command"}
    return {
        name: ", ".join(dict.fromkeys(getattr(row, column) for row in rows))
        for name, column in names.items()
    }


def _record(rows: Sequence[Row]) -> dict[str, Any]:
    """What a store tells of the config.json of the runs of one key."""
    first = rows[0]
    rest = {
        "config": dict(first.settings) | {"steps": first.steps},
        "sampled": {"sampled": True, "modes": False}.get(first.actions),
        "eval_episodes": first.episodes,
    }
    return {"method": first.method, "task": first.task, "grid": {}} | _origin(rows) | rest


def _run(
    file: Path,
    rows: Sequence[Row],
    record: dict[str, Any],
    curves: Iterable[Curve],
    points: Sequence[Mapping[str, float]] = (),
) -> Run:
    """Rows as results; points: of the grid, one for each row."""
    number = {row.place: index for index, row in enumerate(rows)}
    runs = []
    for index, row in enumerate(rows):
        about = {"run": index, "seed": row.seed, "config": dict(points[index]) if points else {}}
        final = {name: getattr(row, name) for name in REAL if name != "seconds"}
        final |= row.numbers
        known = {name: value for name, value in final.items() if value is not None}
        runs.append(about | known | {"updates": row.steps, "failed_at": row.failed_at})
    logged: dict[tuple[int, int], dict[str, Any]] = {}
    for curve in curves:
        if (curve.key, curve.seed) in number:
            run = number[curve.key, curve.seed]
            for step, value in zip(curve.steps, curve.values, strict=True):
                head = {"stage_index": 0, "stage": "train", "step": step, "run": run}
                logged.setdefault((step, run), head)[curve.metric] = value
    steps = sorted({step for step, _ in logged})
    arrays = {"steps": np.array(steps, int), "returns": np.zeros((len(rows), 0))}
    seconds = [row.seconds for row in rows if row.seconds is not None]
    timing = {"train_s": sum(seconds)} if len(seconds) == len(rows) else {}
    listed = [logged[place] for place in sorted(logged)]
    return Run(file, record, listed, runs, timing, arrays, rows[0].label)
