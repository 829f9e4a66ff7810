"""`jaxoff report FOLDER`: tables, figures and a page for a folder of results, without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxoff.errors import BrokenResult
from jaxoff.report import checkpoints, figures, html, protocol, published, render, tables, tuning
from jaxoff.report import marl_eval as export
from jaxoff.report.load import (
    Run,
    by_config,
    load_run,
    run_folders,
    separated,
    told_apart,
    unfinished,
)

MAX_CELLS = 12  # largest number of actions per agent for which joint policies are drawn


def report(
    folder: str | Path,
    source: Literal["training", "evaluation"] = "training",
    *,
    sampled: bool | None = None,
    episodes: int | None = None,
    beside: str | Path | None = None,
    tell: Callable[[tables.Table], None] = lambda table: None,
    marl_eval: str | Path | None = None,
) -> Path:
    """Rebuild the tables, curves, profiles and heat maps of every experiment at or below a folder.

    An experiment is a folder of result folders. Its tables and figures are written into it, and
    index.html into `folder`. Runs that have not ended are named on the page, and left out of tables
    and figures. So are broken ones: once everything else is written, a BrokenResult names their
    files. source: tables have the numbers of the last evaluation of training, or those of `jaxoff
    evaluate`, the latest of each run with these actions and this number of episodes where given
    (see `protocol.evaluated`). beside: a folder of published numbers, which get a table beside ours
    (see `published`). tell: called with every table that was written. marl_eval: a file for the
    results of all experiments in marl-eval's JSON format. Raises BrokenResult, too, if no run has
    ended, and InvalidSetting where evaluations are missing or differ, or where marl-eval could not
    read the results.
    """
    folder = Path(folder)
    numbers = [] if beside is None else published.read_folder(beside)
    if folder.exists() and not folder.is_dir():
        raise BrokenResult(f"{folder}: expected a folder of results, found a file")
    waiting, done, broken = unfinished(folder), [], {}
    for path in run_folders(folder):
        if path in waiting:
            continue
        try:
            done.append(load_run(path))
        except BrokenResult as error:
            broken[path] = str(error)
    if broken and not done:
        raise BrokenResult(_told(folder, broken))
    if not done:
        held = f"found {len(waiting)} that have not ended" if waiting else "found none"
        raise BrokenResult(
            f"{folder}: expected result folders with config.json and final.json, {held}"
        )
    groups: dict[Path, list[Run]] = {}
    for run in done:
        groups.setdefault(run.path if run.path == folder else run.path.parent, []).append(run)
    if source == "evaluation":  # of all experiments, before a file is written
        groups = {
            place: protocol.evaluated(runs, sampled, episodes) for place, runs in groups.items()
        }
    titles = {
        place: folder.resolve().name if place == folder else str(place.relative_to(folder))
        for place in groups
    }
    if marl_eval is not None:  # refused before a file is written
        export.write([(titles[place], runs) for place, runs in groups.items()], marl_eval)
    sections = []
    for place, runs in groups.items():
        made = _experiment(runs, place, tell)
        if published.write(numbers, separated(by_config(told_apart(runs))), place / "published"):
            made.append(place / "published")
        stems = [stem.relative_to(folder) for stem in made]
        text = f"{len(runs)} result folders, {sum(len(run.runs) for run in runs)} runs."
        for words, paths in (("Not ended yet", waiting), ("Broken", broken)):
            names = ", ".join(path.name for path in paths if path.parent == place)
            text += f" {words}: {names}." if names else ""
        sections.append(
            html.Section(titles[place], f"{text} {protocol.of_section(by_config(runs))}", stems)
        )
    page = html.index(folder, f"Results: {folder.resolve().name}", sections)
    if broken:
        raise BrokenResult(f"{page}: written without {_told(folder, broken)}")
    return page


def _told(folder: Path, broken: dict[Path, str]) -> str:
    """What is wrong with the broken result folders below a folder."""
    return f"{len(broken)} broken result folders below {folder}: " + " | ".join(broken.values())


def _experiment(
    runs: Sequence[Run], place: Path, tell: Callable[[tables.Table], None]
) -> list[Path]:
    """Write all tables and figures of some runs into a folder; returns their stems."""
    told = told_apart(runs)
    parts = separated(by_config(told))
    # A variant has the same look in every figure of the page.
    with figures.same_looks(dict.fromkeys(run.variant for run in parts)):
        stems = _tables(parts, place, tell) + _curves(parts, place)
        scores = _scores(parts)
        if scores:
            note = protocol.of_runs([run for run in parts if run.has("score")])
            figures.profiles(scores, place / "profiles", note=note)
            figures.bar_iqm(scores, place / "aggregate", note=note)
            stems += [place / "profiles", place / "aggregate"]
        metric = tuning.leading(runs)
        found = tuning.tuned(runs, told, metric) if metric else []
        if found:
            tuning.write(found, metric, place / "tuning")
            stems += [place / "tuning-figure", place / "tuning"]
        if checkpoints.write(parts, place / "checkpoints"):
            stems.append(place / "checkpoints")
        return stems + _heat_maps(parts, place)


def _tables(parts: Sequence[Run], place: Path, tell: Callable[[tables.Table], None]) -> list[Path]:
    """Write a table of each number that some run has; returns their stems."""
    stems = []
    several = len({run.task for run in parts}) > 1
    for metric in tables.METRICS:
        tasks = {run.task for run in parts if run.has(metric)}
        if metric == "return_mean":  # which every task has
            tasks |= {run.task for run in parts}
        having = [run for run in parts if run.knows(metric) and run.task in tasks]
        if not having:
            continue
        table = tables.build(
            having,
            metric=metric,
            title=tables.METRICS[metric].capitalize(),
            average=several and metric == "score",
        )
        render.write(table, place / f"table-{metric}")
        tell(table)
        stems.append(place / f"table-{metric}")
    return stems


def _curves(runs: Sequence[Run], place: Path) -> list[Path]:
    logged = [run for run in runs if any("return_mean" in row for row in run.rows)]
    stems = []
    for task in dict.fromkeys(run.task for run in logged):
        stems.append(place / f"curves-{_slug(task)}")
        metric = next(run.curve_metric for run in logged if run.task == task)
        having = [run for run in logged if any(metric in row for row in run.rows)]
        figures.curves(having, metric, stems[-1], tasks={task: task})
    return stems


def _scores(runs: Sequence[Run]) -> dict[str, list[np.ndarray]]:
    """Scores per variant and task.

    Only variants are included that were run on every task with scores, and that have a run which
    did not fail on each of these tasks.
    """
    having = [run for run in runs if run.has("score")]
    tasks = list(dict.fromkeys(run.task for run in having))
    out = {}
    for variant in dict.fromkeys(run.variant for run in having):
        each = {
            task: [
                run.values("score") for run in having if run.variant == variant and run.task == task
            ]
            for task in tasks
        }
        if all(each.values()):
            out[variant] = [np.concatenate(values) for values in each.values()]
    return {
        name: values
        for name, values in out.items()
        if all(np.isfinite(task).any() for task in values)
    }


def _heat_maps(runs: Sequence[Run], place: Path) -> list[Path]:
    """Draw final joint policies of two agents, a figure per task.

    They are means over the seeds that did not fail.
    """
    stems = []
    for task in dict.fromkeys(run.task for run in runs):
        policies = {}
        for run in runs:
            last = run.arrays.get("history/joint_policy", np.zeros((1, 0)))[-1]
            if (
                run.task == task
                and last.ndim == 3
                and last.shape[-1] <= MAX_CELLS
                and not run.failed.all()
            ):
                policies[run.variant] = last[~run.failed].mean(0)
        if policies:
            stems.append(place / f"policies-{_slug(task)}")
            actions = [str(action) for action in range(next(iter(policies.values())).shape[-1])]
            note = "Means over seeds of the joint policies at the last evaluation of training."
            figures.heat_maps(policies, actions, stems[-1], note=note)
    return stems


def _slug(task: str) -> str:
    return task.replace("/", "-").replace(":", "-")
