"""The tables and figures of OMAR.

Parts: landscape, motivation, agents, control, online, mpe, mujoco, smac, maze, centralised, search
(together: all); spread (a part of mpe); references (the returns that scores are measured by).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxoff.baselines.omar import continuous as omar
from jaxoff.experiments.omar import (
    ablations,
    battles,
    figures,
    landscape,
    online,
    references,
    runs,
    scores,
)
from jaxoff.experiments.paper import Column, Job, Paper, below
from scipy import stats

from jaxoff import registry
from jaxoff.eval import statistics
from jaxoff.report import figures as report_figures
from jaxoff.report import protocol
from jaxoff.report.html import Section
from jaxoff.report.load import Run
from jaxoff.types import ReturnScale

SHARES = (0.0, 0.5, 0.7, 0.9, 1.0)
SEARCHES = {
    "softmax": omar.Config(),
    "cem": omar.Config(search="cem", search_iterations=2, search_samples=20),
}


def landscape_part(job: Job) -> Section:
    """One dimension, a fixed value: gradient steps against the target of a search."""
    seeds, steps = (3, 40) if job.scale == "smoke" else (20, 800)
    keys = jax.random.split(jax.random.key(0), seeds)
    lines = [
        "# OMAR: an actor on a value with two modes",
        "",
        f"Start -0.6, modes -0.6 (0.6) and 0.4 (1.0); {seeds} seeds, {steps} steps.",
        "",
    ]
    lines += ["| search | tau | mean end | within .02 of 0.4 |", "|---|---|---|---|"]
    paths = {}
    for name, config in SEARCHES.items():
        play = jax.jit(
            jax.vmap(
                lambda mimic, key, config=config: landscape.climb(config, mimic, key, steps=steps),
                (None, 0),
            )
        )
        for share in SHARES:
            actions = np.asarray(play(np.float32(share), keys))
            reached = int((np.abs(actions[:, -1] - landscape.BEST) < 0.02).sum())
            lines.append(
                f"| {name} | {share:g} | {actions[:, -1].mean():.3f} | {reached}/{seeds} |"
            )
            if name == "softmax":
                paths["MA-CQL (tau 0)" if share == 0 else f"OMAR, tau {share:g}"] = actions
    about = below(seeds=f"{seeds} keys of seed 0", updates=f"{steps:,} steps of the actor")
    stem = job.text("landscape", lines, about)
    figures.landscape(paths, job.out / "landscape")
    text = (
        "The gradient climbs the mode at hand; the best of a search lies at the other. tau "
        "is the share of the regression onto it."
    )
    return Section("OMAR: the landscape of the motivating example", text, [stem])


def motivation(job: Job) -> Section:
    """Spread of two agents on a line, medium-replay data."""
    done = runs.trained(job, [runs.LINE], runs.CURVES | runs.LARGER | runs.MORE)
    mean, spread = runs.behaviour(job, runs.LINE)
    note = (
        "Spread of two agents with one-dimensional actions; the authors did not release "
        "theirs: this is the same task with one "
        f"coordinate. The data's own return: {mean:.1f} ± {spread:.1f}. " + runs.about(job.scale)
    )
    rows, own = {runs.LINE: "n = 2, 1-D"}, {"n = 2, 1-D": mean}
    title = "OMAR: motivating example"
    job.table("motivation", title, done, rows, paper="motivation", data=own, note=note)
    shown = [run for run in done if run.variant in runs.CURVES]
    report_figures.curves(
        shown,
        "return_mean",
        job.out / "motivation-curves",
        label="return",
        reference={"data": mean},
    )
    return Section("OMAR Figure 1: motivating example", note, ["motivation", "motivation-curves"])


def agents(job: Job) -> Section:
    """One to five agents: MA-CQL over the data, OMAR over MA-CQL."""
    return by_number(
        job, "agents", "OMAR Figure 2: number of agents", runs.AGENTS, "Spread, medium-replay."
    )


def control(job: Job) -> Section:
    """The same where agents have nothing to do with one another."""
    about = (
        "Each agent is paid for being near a landmark of its own; medium-replay. The paper "
        "finds no fall with the number of agents here."
    )
    return by_number(
        job, "control", "OMAR: number of agents, non-cooperative control", runs.CONTROL, about
    )


def by_number(job: Job, stem: str, title: str, tasks: Mapping[str, int], about: str) -> Section:
    """Improvements over the number of agents, and how that goes with MA-CQL's."""
    done = runs.trained(job, tasks, runs.PAIR)
    value = {(run.task, run.variant): run.values("return_mean") for run in done}
    data = {task: runs.behaviour(job, task)[0] for task in tasks}
    over = lambda a, b: (100.0 * (a - b) / abs(b)).tolist()
    series = {
        "MA-CQL": {n: over(value[task, "MA-CQL"], data[task]) for task, n in tasks.items()},
        "OMAR": {n: over(value[task, "OMAR"], data[task]) for task, n in tasks.items()},
        "gain": {
            n: over(value[task, "OMAR"], np.mean(value[task, "MA-CQL"]))
            for task, n in tasks.items()
        },
    }
    titles = {
        "MA-CQL": "MA-CQL over the data",
        "OMAR": "OMAR over the data",
        "gain": "OMAR over MA-CQL",
    }
    figures.by_agents(series, titles, job.out / f"{stem}-figure", protocol.of_runs(done))
    labels = {task: f"n = {n}" for task, n in tasks.items()}
    points = np.array([(n, gain) for n, gained in series["MA-CQL"].items() for gain in gained])
    rank = stats.spearmanr(*points[np.isfinite(points).all(1)].T)
    trend = (
        " Spearman correlation of n with MA-CQL's improvement over the data, all seeds: "
        f"{rank.statistic:.2f} (p = {rank.pvalue:.2g})."
    )
    note = f"{about} {runs.about(job.scale)}{trend}"
    own = {labels[task]: data[task] for task in labels}
    job.table(stem, title, done, labels, data=own, note=note)
    return Section(title, note, [stem, f"{stem}-figure"])


def mpe(job: Job) -> Section:
    """Three tasks, four qualities, all methods."""
    return games(job, "mpe", "OMAR Table 1: particle games", runs.MPE, runs.COLUMNS)


def spread(job: Job) -> Section:
    """A part of the same table, which takes minutes: spread, random and medium-replay; cloning,
    MA-CQL, OMAR.
    """
    return games(job, "spread", "OMAR: spread, a part of Table 1", runs.SPREAD, runs.PAIR)


def games(
    job: Job, stem: str, title: str, tasks: Mapping[str, str], columns: Mapping[str, Column]
) -> Section:
    """Tables of returns, of scores by both scales, and the learning curves; the data's own return
    stands first.
    """
    done, ours = runs.trained(job, tasks, columns), references.read()

    def scale_of(task: str, own: bool) -> ReturnScale:
        if own:
            return ours["/".join(task.split("/")[:2])]
        published = registry.make_spec(task).return_scale
        assert published is not None, task
        return published

    data, about = {task: runs.behaviour(job, task)[0] for task in tasks}, runs.about(job.scale)
    own = {tasks[task]: value for task, value in data.items()}
    job.table(f"{stem}-return", f"{title}, mean return", done, tasks, data=own, note=about)
    for name, measured, scale in (
        (stem, False, "the authors' references"),
        (f"{stem}-own", True, "references measured here (experiments/omar/references.csv)"),
    ):
        scored = [rescaled(run, scale_of(run.task, measured)) for run in done]
        values = {
            tasks[task]: float(statistics.normalised(value, scale_of(task, measured)))
            for task, value in data.items()
        }
        shown: dict[str, Any] = {
            "metric": "score",
            "paper": "" if measured else "mpe",
            "note": f"0 is uniformly random play, 100 an expert: {scale}. {about}",
            "average": True,
        }
        job.table(name, f"{title}, by {scale}", scored, tasks, data=values, **shown)
    curves = job.out / f"{stem}-curves"
    report_figures.curves(done, "return_mean", curves, tasks=tasks, label="return")
    return Section(title, about, [stem, f"{stem}-own", f"{stem}-return", f"{stem}-curves"])


def rescaled(run: Run, scale: ReturnScale) -> Run:
    """The run with scores by another scale."""
    scored = [
        row | {"score": float(statistics.normalised(row["return_mean"], scale))} for row in run.runs
    ]
    return dataclasses.replace(run, runs=scored)


def measure_references(job: Job) -> Section:
    """Random and expert returns of our environments."""
    sizes = (1, 8) if job.scale == "smoke" else (references.SEEDS, references.EPISODES)
    rows = [references.measure(f"mpe/{world}", *sizes) for world in runs.WORLDS]
    references.write(rows, job.out / "references.csv")
    text = "; ".join(
        f"{r.task}: {r.random:.1f} to {r.expert:.1f} (public {r.public_random:.1f} to "
        f"{r.public_expert:.1f})"
        for r in rows
    )
    return Section("Reference returns", text, [])


PARTS: dict[str, Callable[[Job], Section]] = {
    "landscape": landscape_part,
    "motivation": motivation,
    "agents": agents,
    "control": control,
    "online": online.part,
    "mpe": mpe,
    "mujoco": scores.robots,
    "smac": battles.part,
    "maze": scores.mazes,
    "centralised": ablations.centralised,
    "search": ablations.search,
}

PAPER = Paper(
    "omar",
    "OMAR",
    "Pan et al. (2022): examples and particle games.",
    {**PARTS, "spread": spread, "references": measure_references},
    {"all": PARTS},
    public=("mujoco", "maze"),
)
