"""The tables of robots and mazes: normalised scores, returns, learning curves."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from jaxoff.experiments.omar import runs, sources
from jaxoff.experiments.omar.sources import Row
from jaxoff.experiments.paper import Column, Job, Size

from jaxoff.eval import statistics
from jaxoff.names import Task
from jaxoff.report import figures
from jaxoff.report.html import Section


def robots(job: Job) -> Section:
    """Two-agent HalfCheetah: four qualities, all methods."""
    note = (
        "Two-agent HalfCheetah in MJX, whose physics is not that of the authors' MuJoCo; "
        "the return scale is theirs. CEM search; "
        "conservative terms over uniform actions and actions near the policies, whose "
        "density is subtracted as it is, as in the released "
        "code; 'log density': its logarithm. gamma .95; the time limit counts as an end."
    )
    columns = runs.COLUMNS | runs.LOG_DENSITY
    return scores(
        job,
        "mujoco",
        "OMAR: two-agent HalfCheetah",
        runs.ROBOTS,
        columns,
        runs.SIZES["mamujoco"][job.scale],
        note,
    )


def mazes(job: Job) -> Section:
    """Point mazes: three sizes, all methods, and OMAR's tau."""
    note = (
        "Point mazes, one agent; scores by D4RL's references of version 1. The authors' "
        "settings were not released: those of HalfCheetah "
        "with gamma .99, the softmax search, tau .5 and a conservative term of weight 1."
    )
    size, rows = runs.SIZES["maze"][job.scale], runs.MAZES[: 1 if job.scale == "smoke" else None]
    section = scores(job, "maze", "OMAR: Maze2D", rows, runs.MAZE_COLUMNS, size, note)
    swept = scores(
        job,
        "maze-tau",
        "OMAR: Maze2D, tau",
        rows[: None if job.scale == "full" else 1],
        runs.TAUS,
        size,
        note.replace("tau .5", "several tau"),
        folder="runs/tau",
    )
    return section._replace(stems=[*section.stems, *swept.stems])


def scores(
    job: Job,
    stem: str,
    title: str,
    rows: Sequence[Row],
    columns: Mapping[str, Column],
    size: Size,
    note: str,
    folder: str = "runs",
) -> Section:
    """Tables of scores, with the printed ones, and of returns; curves.

    Rows whose data can't be had are named.
    """
    specs, data = sources.specs(rows, columns, size, job.data_dir), sources.Data(rows)
    done = job.run(specs, data, data.env, folder)
    label = {task: row.label for row in rows for task in (row.own, row.published)}
    lacking = [row.label for row in rows if sources.found(row, job.data_dir) is None]
    tasks, behaviour, scale = {}, {}, {}
    for spec in specs:
        if spec.task not in tasks:
            tasks[spec.task] = label[spec.task]
            of_data = functools.partial(data.returns, spec)
            behaviour[spec.task] = sources.behaviour(job, spec.task, of_data)[0]
            scale[spec.task] = data.env(spec).spec.return_scale
    origin = {
        "the authors' files": [label[task] for task in tasks if Task.parse(task).source],
        f"our own recipes, {size.data_episodes or 'all'} episodes": [
            label[task] for task in tasks if not Task.parse(task).source
        ],
        "not run, since there are neither files nor policies that come with the library": lacking,
    }
    told = "; ".join(f"{where}: {', '.join(names)}" for where, names in origin.items() if names)
    updates = size.every.get("steps", 100_001)
    extent = (
        f"Inputs normalised by the batch; {updates:,} updates; modes of final policies, "
        f"{size.eval_episodes} episodes."
    )
    note = f"{note} {extent} Data: {told}."
    if not tasks:
        return Section(title, note, [])
    own = {tasks[task]: value for task, value in behaviour.items()}
    job.table(f"{stem}-return", f"{title}, mean return", done, tasks, data=own, note=note)
    known = {
        tasks[task]: float(statistics.normalised(value, known_scale))
        for task, value in behaviour.items()
        if (known_scale := scale[task])
    }
    shown = {"metric": "score", "paper": stem, "note": note}
    job.table(stem, f"{title}, normalised", done, tasks, data=known, **shown)
    figures.curves(done, "return_mean", job.out / f"{stem}-curves", tasks=tasks, label="return")
    return Section(title, note, [stem, f"{stem}-return", f"{stem}-curves"])
