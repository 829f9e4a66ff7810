"""The command `python -m jaxoff.experiments.omar [PART] --scale smoke|cpu|full --out results/omar`.

Parts: landscape, motivation, agents, control, online, mpe, mujoco, smac, maze, centralised, search
(together: all); spread (a part of mpe); references (the returns that scores are measured by).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jaxoff.baselines.omar import continuous as omar
from jaxoff.experiments.jobs import Column
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
from jaxoff.experiments.omar.job import PAPER, Job, rescaled, with_data
from scipy import stats

from jaxoff import registry
from jaxoff.eval import statistics
from jaxoff.files import write_text
from jaxoff.report import figures as report_figures
from jaxoff.report import tables
from jaxoff.report.html import Section

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
    lines += ["", f"- Command: `python -m jaxoff.experiments.omar landscape --scale {job.scale}`"]
    write_text(job.out / "landscape.md", "\n".join(lines) + "\n")
    figures.landscape(paths, job.out / "landscape")
    text = (
        "The gradient climbs the mode at hand; the best of a search lies at the other. tau "
        "is the share of the regression onto it."
    )
    return Section("OMAR: the landscape of the motivating example", text, ["landscape"])


def motivation(job: Job) -> Section:
    """Spread of two agents on a line, medium-replay data."""
    done = job.run([runs.LINE], runs.CURVES | runs.LARGER | runs.MORE)
    mean, spread = job.behaviour(runs.LINE)
    note = (
        "Spread of two agents with one-dimensional actions; the authors did not release "
        "theirs: this is the same task with one "
        f"coordinate. The data's own return: {mean:.1f} ± {spread:.1f}. " + job.about()
    )
    built = tables.build(
        done,
        {runs.LINE: "n = 2, 1-D"},
        None,
        title="OMAR: motivating example",
        paper=tables.read_paper(PAPER, "motivation"),
        note=note,
    )
    tables.write(with_data(built, {"n = 2, 1-D": mean}), job.out / "motivation")
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
    done = job.run(list(tasks), runs.PAIR)
    value = {(run.task, run.variant): run.values("return_mean") for run in done}
    data = {task: job.behaviour(task)[0] for task in tasks}
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
    figures.by_agents(series, titles, job.out / f"{stem}-figure")
    labels = {task: f"n = {n}" for task, n in tasks.items()}
    points = np.array([(n, gain) for n, gained in series["MA-CQL"].items() for gain in gained])
    rank = stats.spearmanr(*points[np.isfinite(points).all(1)].T)
    trend = (
        " Spearman correlation of n with MA-CQL's improvement over the data, all seeds: "
        f"{rank.statistic:.2f} (p = {rank.pvalue:.2g})."
    )
    note = f"{about} {job.about()}{trend}"
    built = tables.build(done, labels, None, title=title, note=note)
    tables.write(with_data(built, {labels[task]: data[task] for task in labels}), job.out / stem)
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
    done, ours = job.run(list(tasks), columns), references.read()
    scale_of = lambda task, own: (
        ours["/".join(task.split("/")[:2])] if own else registry.make_spec(task).return_scale
    )
    data, stems = {task: job.behaviour(task)[0] for task in tasks}, [stem]
    plain = tables.build(done, tasks, None, title=f"{title}, mean return", note=job.about())
    tables.write(
        with_data(plain, {tasks[task]: value for task, value in data.items()}),
        job.out / f"{stem}-return",
    )
    kinds = {
        stem: (False, "the authors' references"),
        f"{stem}-own": (True, "references measured here (experiments/omar/references.csv)"),
    }
    for name, (own, about) in kinds.items():
        scored = [rescaled(run, scale_of(run.task, own)) for run in done]
        paper = None if own else tables.read_paper(PAPER, "mpe")
        note = f"0 is uniformly random play, 100 an expert: {about}. " + job.about()
        built = tables.build(
            scored,
            tasks,
            None,
            "score",
            title=f"{title}, by {about}",
            paper=paper,
            note=note,
            average=True,
        )
        values = {
            tasks[task]: float(statistics.normalised(value, scale_of(task, own)))
            for task, value in data.items()
        }
        tables.write(with_data(built, values, average=True), job.out / name)
    report_figures.curves(
        done, "return_mean", job.out / f"{stem}-curves", tasks=tasks, label="return"
    )
    return Section(title, job.about(), [*stems, f"{stem}-own", f"{stem}-return", f"{stem}-curves"])


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

# no part of "all"
ALONE: dict[str, Callable[[Job], Section]] = {"spread": spread, "references": measure_references}


def run_parts(part: str, scale: str, out: Path, data_dir: str | None = None) -> list[Section]:
    """Make a part, or all of them ("all"): the sections of the page, their files below `out`.

    data_dir: of public data.
    """
    job = Job(scale, out, data_dir)
    if part in ALONE:
        return [ALONE[part](job)]
    return [make(job) for name, make in PARTS.items() if part in (name, "all")]
