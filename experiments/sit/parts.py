"""The tables and figures of SIT.

Parts: table1; fig1f, motivation; fig3, decomposition and priorities; fig4a, fig4b, fig4c,
ablations; fig7, a monotone decomposition; fig8, sweeps; fig9 ... fig14, learning curves; fig15 ...
fig20, decompositions of every dataset; together: all. And claim, a part of the table: SIT, ICQ and
BC on few maps (claim-mpe, claim-smax: of one kind); tune, the search behind its tuned columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxoff.experiments import checks
from jaxoff.experiments.paper import Column, Job, Paper, below, kind_of
from jaxoff.experiments.sit import figures, runs

from jaxoff import registry
from jaxoff.data.episodes import returns_of
from jaxoff.learners import credit
from jaxoff.report.credit import kind_of as kind_name
from jaxoff.report.html import Section
from jaxoff.report.load import Run

NOTE = (
    "Policies are evaluated by their modes, in battles by sampling, as those that made the "
    "data. SMAX is not SMAC, and the particle "
    "worlds' rewards are not published, so numbers are not comparable with the paper's. "
    "Behaviour is the mean return of the data."
)
CURVES = {
    f"fig{9 + 3 * q + k}": (kind, quality)
    for q, quality in enumerate(runs.QUALITIES)
    for k, kind in enumerate(runs.MAPS)
}
CREDITS = {f"fig{int(part[3:]) + 6}": place for part, place in CURVES.items()}


def trained(
    job: Job, tasks: Mapping[str, str], columns: Mapping[str, Column] | None = None
) -> list[Run]:
    """Some columns on every task, or all that can be run there."""
    return job.run(runs.specs(tasks, columns, job.scale))


def behaviour(task: str, scale: str) -> float:
    """The mean return of the data."""
    return float(returns_of(runs.data_of(task, scale)).mean())


def table(
    job: Job,
    done: Sequence[Run],
    tasks: Mapping[str, str],
    stem: str,
    title: str,
    note: str = "",
    *,
    paper: str = "",
) -> str:
    """A table of returns with the data's own; returns its stem."""
    own = {row: behaviour(task, job.scale) for task, row in tasks.items()}
    shown = {"note": " ".join(filter(None, (NOTE, note))), "paper": paper}
    return job.table(stem, title, done, tasks, data=own, data_label="Behaviour", **shown)


def table1(job: Job) -> Section:
    """Every method on every imbalanced dataset."""
    places = [(kind, quality) for kind in runs.MAPS for quality in runs.QUALITIES]
    here, absent = zip(*(runs.tasks_of(*place, job.scale) for place in places), strict=True)
    tasks = {task: label for labels in here for task, label in labels.items()}
    note = not_run(
        f"{runs.label(name)} {quality}"
        for (_, quality), names in zip(places, absent, strict=True)
        for name in names
    )
    title = "SIT Table 1: imbalanced data"
    stem = table(job, trained(job, tasks), tasks, "table1", title, note, paper="table1")
    return Section("SIT Table 1: agent-wise imbalanced data", note, [stem])


def not_run(names: Iterable[str]) -> str:
    """Says which maps are not run; nothing where all are."""
    listed = ", ".join(names)
    return f"Not run, since their policies don't come with the library: {listed}." * bool(listed)


def claim(job: Job, part: str = "claim") -> Section:
    """SIT above ICQ above BC, with the paper's settings and with those that were chosen for either;
    of every kind of map or one.
    """
    kind = part.partition("-")[2]
    claimed = runs.SCALES[job.scale].claimed
    tasks = {task: name for task, name in claimed.items() if kind in ("", kind_of(task))}
    if not tasks:
        return Section(f"SIT: the claim, {kind}", "This scale has no such map.", [])
    done = trained(job, tasks, runs.CLAIM | runs.TUNED)
    stem = table(job, done, tasks, part, "SIT: what must hold, returns", paper="table1")
    found = checks.values_of(done)
    pairs = (("SIT", "ICQ"), ("ICQ", "BC"), ("SIT, tuned", "ICQ, tuned"), ("ICQ, tuned", "BC"))
    listed = [
        checks.above(found, task, label, *pair) for task, label in tasks.items() for pair in pairs
    ]
    stems = [stem, checks.write(job, f"{part}-checks", "SIT: what must hold", listed, done)]
    curves = figures.learning_curves(done, tasks, job.out / f"{part}-curves")
    return Section("SIT: the claim on few maps", "", [*stems, curves])


def tune(job: Job) -> Section:
    """Every point of the search for the tuned columns."""
    tasks = runs.SCALES[job.scale].claimed
    done = job.run(runs.search_specs(tasks, job.scale), folder="tuning")
    stem = table(job, done, tasks, "tuning", "SIT: tuning", "Seeds that no other table has.")
    return Section("SIT: tuning", "", [stem])


def fig1f(job: Job) -> Section:
    """What imbalanced data do to ICQ, with and without an exchange of agents' steps."""
    name = runs.SCALES[job.scale].motivation
    mates = registry.make_spec(f"{name}/imbalanced-low").num_agents - 1
    task = f"{name}/mix=[{' '.join(['r'] * mates)} m]"
    specs = runs.specs([task], runs.EXCHANGE, job.scale)
    done = job.run(specs, runs.exchanging(task, job.scale))
    lines = {
        f"{level} joint policy": behaviour(f"{name}/mix=[{level[0]}*{mates + 1}]", job.scale)
        for level in ("random", "medium")
    }
    labels = {task: f"{runs.label(name)}, one agent medium"}
    stem = figures.learning_curves(done, labels, job.out / "fig1f", lines)
    text = "Data of random agents and one medium agent."
    return Section("SIT Figure 1 (f): motivation", text, [stem])


def credits(job: Job, tasks: Mapping[str, str], stem: str, kind: str = "attention") -> list[str]:
    """Own rewards over the fit, priorities and shares of draws: a figure for each task, and one
    table of agents and levels.
    """
    lines = [
        "| data | agent | kind | own reward a step | agree | priority | share of draws | "
        "of the data |",
        "|---" * 8 + "|",
    ]
    more = ["| data | kind | level | of the data | of the draws | priority |", "|---" * 6 + "|"]
    fits, stems = [], []
    for task, name in tasks.items():
        episodes, spec = runs.data_of(task, job.scale), registry.make_spec(task)
        stems.append(f"{stem}-{name.replace(' ', '-')}")
        found = figures.decomposition(task, name, job.scale, kind, job.out / stems[-1])
        for row in credit.by_agent(found):
            shares = f"{row.agreement:.0%} | {row.priority:.3f} | {row.drawn:.1%} | {row.data:.1%}"
            lines.append(
                f"| {name} | {row.agent} | {kind_name(row.type, spec)} | {row.reward:.4f} ± "
                f"{row.reward_std:.4f} | {shares} |"
            )
        for level in credit.by_level(found, np.asarray(episodes.behaviour_level)):
            numbers = f"{level['data']:.1%} | {level['drawn']:.2%} | {level['priority']:.3f}"
            unit = kind_name(int(level["type"]), spec)
            more.append(f"| {name} | {unit} | {level['level']:.0f} | {numbers} |")
        few = ", ".join(
            f"{few:.0f} of {count:,} of {kind_name(number, spec)}"
            for number, few, count in credit.effective_draws(found)
        )
        quality = f"R² {found.r2:.3f}, on held-out episodes {found.r2_held_out:.3f}"
        fits.append(
            f"- {name}: {len(episodes.filled):,} episodes, {quality}; draws fall on about "
            f"{few} trajectories"
        )
    fit = runs.SCALES[job.scale].fit
    text = [f"# SIT: decomposition of the reward, {kind}", "", *lines, "", *more, "", *fits]
    about = below(seeds="0", updates=f"{fit.steps:,} of the decomposition, {fit}")
    return [job.text(stem, text, about), *stems]


def imbalanced(job: Job, *qualities: str) -> dict[str, str]:
    """Imbalanced datasets of the ablations' map."""
    name = runs.SCALES[job.scale].ablated
    return {f"{name}/imbalanced-{x}": f"{runs.label(name)} {x}" for x in qualities}


def fig3(job: Job) -> Section:
    """What the decomposition and the priorities make of two datasets."""
    text = (
        "Own reward of each agent during the fit, priorities of its trajectories by type, "
        "and its share of the draws."
    )
    stems = credits(job, imbalanced(job, "medium", "low"), "fig3")
    return Section("SIT Figure 3: decomposition and priorities", text, stems)


def compared(
    job: Job,
    part: str,
    title: str,
    tasks: Mapping[str, str],
    columns: Mapping[str, Column] | None,
    note: str = "",
) -> Section:
    """Curves and a table of some columns on some tasks."""
    done = trained(job, tasks, columns)
    curves = figures.learning_curves(done, tasks, job.out / f"{part}-curves")
    return Section(title, note, [table(job, done, tasks, part, title, note), curves])


def fig4a(job: Job) -> Section:
    """Ablations of stages I and III."""
    title, note = "SIT Figure 4 (a): ablations", "The last two columns are our own variants."
    return compared(job, "fig4a", title, imbalanced(job, "low"), runs.ABLATIONS, note)


def fig4b(job: Job) -> Section:
    """Priorities where good trajectories are rare."""
    name = runs.SCALES[job.scale].ablated
    n = registry.make_spec(f"{name}/imbalanced-low").num_agents
    # so few episodes have no half percent
    share = "99.5%[{0}]+0.5%[{1}]" if job.scale != "smoke" else "50%[{0}]+50%[{1}]"
    tasks = {f"{name}/mix={share.format(f'r*{n}', f'm*{n}')}": "extreme"}
    return compared(job, "fig4b", "SIT Figure 4 (b): priority", tasks, runs.PRIORITY)


def fig4c(job: Job) -> Section:
    """Agents that are all of one level."""
    name = runs.SCALES[job.scale].ablated
    n = registry.make_spec(f"{name}/imbalanced-low").num_agents
    tasks = {f"{name}/mix=[{level[0]}*{n}]": level for level in ("random", "medium", "expert")}
    return compared(job, "fig4c", "SIT Figure 4 (c): balanced data", tasks, None)


def fig7(job: Job) -> Section:
    """A monotone mixer in place of the attention."""
    tasks, title = imbalanced(job, "low"), "SIT Figure 7: monotone decomposition"
    stems = credits(job, tasks, "fig7b", "monotonic")
    stems += map(str, compared(job, "fig7c", title, tasks, runs.MNC).stems)
    return Section(title, "A monotone mixer knows own rewards up to a monotone map only.", stems)


def fig8(job: Job) -> Section:
    """Sweeps of alpha, beta and eta."""
    tasks = imbalanced(job, "low")
    stems: list[str | Path] = []
    for name, values in runs.SWEEPS.items():
        columns = {f"SIT, {name}": Column("sit", grid={name: values})}
        title = f"SIT Figure 8: {name}"
        stems += compared(job, f"fig8-{name}", title, tasks, columns).stems
    text = (
        "alpha = 1e9 draws uniformly. As beta goes to 0 the softmax over the batch "
        "imitates its best sample alone, which is not a policy "
        "without constraint. RMSprop hardly sees a factor of the loss, so eta acts through "
        "the clipping of gradients."
    )
    return Section("SIT Figure 8: sweeps", text, stems)


def curves(job: Job, part: str) -> Section:
    """Learning curves of all methods on the datasets of a kind of map and a quality."""
    tasks, lacking = runs.tasks_of(*CURVES[part], job.scale)
    if tasks:
        labels = {t: f"{row}, data {behaviour(t, job.scale):.1f}" for t, row in tasks.items()}
        figures.learning_curves(trained(job, tasks), labels, job.out / part)
    title = f"SIT Figure {part[3:]}: learning curves, {', '.join(CURVES[part])}"
    return Section(title, not_run(map(runs.label, lacking)), [part] if tasks else [])


def decompositions(job: Job, part: str) -> Section:
    """Own rewards and priorities on the datasets of a kind of map and a quality."""
    tasks, lacking = runs.tasks_of(*CREDITS[part], job.scale)
    title = f"SIT Figure {part[3:]}: own rewards, {', '.join(CREDITS[part])}"
    stems = credits(job, tasks, part) if tasks else []
    return Section(title, not_run(map(runs.label, lacking)), stems)


PARTS: dict[str, Callable[[Job], Section]] = {
    **{make.__name__: make for make in (table1, fig1f, fig3, fig4a, fig4b, fig4c, fig7, fig8)},
    **{part: functools.partial(curves, part=part) for part in CURVES},
    **{part: functools.partial(decompositions, part=part) for part in CREDITS},
}
CLAIMS = {
    part: functools.partial(claim, part=part) for part in ("claim", "claim-mpe", "claim-smax")
}
PAPER = Paper(
    "sit",
    "SIT",
    "Table 1 and the figures of Tian et al. (2023).",
    {**PARTS, **CLAIMS, "tune": tune},
    {"all": PARTS},
)
