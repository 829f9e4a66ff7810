"""The command `python -m jaxoff.experiments.sit [PART] --scale smoke|cpu|full --out results/sit`.

Parts: table1; fig1f, motivation; fig3, decomposition and priorities; fig4a, fig4b, fig4c,
ablations; fig7, a monotone decomposition; fig8, sweeps; fig9 ... fig14, learning curves; fig15 ...
fig20, decompositions of every dataset; together: all. And claim, a part of the table: SIT, ICQ and
BC on few maps (claim-mpe, claim-smax: of one kind); tune, the search behind its tuned columns.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxoff.experiments import checks
from jaxoff.experiments.jobs import Column
from jaxoff.experiments.sit import runs

from jaxoff import registry, runtime
from jaxoff.data.episodes import returns_of
from jaxoff.files import write_text
from jaxoff.learners import credit
from jaxoff.report import credit as credit_report
from jaxoff.report import figures, tables
from jaxoff.report.html import Section
from jaxoff.report.load import Run

PAPER = Path(__file__).with_name("paper.csv")
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
CREDITS = {
    f"fig{15 + 3 * q + k}": place
    for q in range(2)
    for k, place in enumerate(list(CURVES.values())[3 * q : 3 * q + 3])
}


class Job:
    """One call of the command.

    A result that is already in `out` is read back, not trained again.
    """

    def __init__(self, scale: str, out: Path) -> None:
        self.scale, self.out, self.at = scale, out, runs.SCALES[scale]

    def run(self, tasks: Mapping[str, str], columns: Mapping[str, Column]) -> list[Run]:
        """Train columns on tasks, one folder each below out/runs."""
        return runs.run_all(list(tasks), columns, self.scale, self.out / "runs")

    def command(self, part: str) -> str:
        """What makes this part again."""
        return f"python -m jaxoff.experiments.sit {part} --scale {self.scale}"

    def table(
        self,
        done: list[Run],
        tasks: Mapping[str, str],
        stem: str,
        title: str,
        note: str = "",
        *,
        paper: str = "",
    ) -> str:
        """A table of returns with the data's own, and returns its stem."""
        printed = tables.read_paper(PAPER, paper) if paper else None
        built = tables.build(
            done, tasks, None, title=title, paper=printed, note=" ".join(filter(None, (NOTE, note)))
        )
        cells = dict(built.cells)
        for task, row in tasks.items():
            mean = np.array([returns_of(runs.data_of(task, self.scale)).mean()])
            cells[row, "Behaviour"] = tables.Cell(
                (mean,), "", (printed or {}).get((row, "Behaviour"), "")
            )
        tables.write(
            dataclasses.replace(built, columns=("Behaviour", *built.columns), cells=cells),
            self.out / stem,
        )
        return stem


def table1(job: Job) -> Section:
    """Every method on every imbalanced dataset."""
    done: list[Run] = []
    tasks: dict[str, str] = {}
    lacking: list[str] = []
    for kind in runs.MAPS:
        for quality in runs.QUALITIES:
            here, absent = runs.tasks_of(kind, quality, job.scale)
            for task in here:
                done += job.run({task: here[task]}, runs.columns_of(task))
            tasks |= here
            lacking += [f"{runs.label(name)} {quality}" for name in absent]
    note = (
        f"Not run, since their policies don't come with the library: {', '.join(lacking)}."
        if lacking
        else ""
    )
    stem = job.table(done, tasks, "table1", "SIT Table 1: imbalanced data", note, paper="table1")
    return Section("SIT Table 1: agent-wise imbalanced data", note, [stem])


def claim(job: Job, part: str = "claim") -> Section:
    """SIT above ICQ above BC, with the paper's settings and with those that were chosen for either;
    of every kind of map or one.
    """
    kind = part.partition("-")[2]
    tasks = {
        task: name
        for task, name in job.at.claimed.items()
        if not kind or runs.kind_of(task) == kind
    }
    if not tasks:
        return Section(f"SIT: the claim, {kind}", "This scale has no such map.", [])
    done = [run for task in tasks for run in job.run({task: ""}, runs.CLAIM | runs.TUNED)]
    stem = job.table(done, tasks, part, "SIT: what must hold, returns", paper="table1")
    found, pairs = (
        checks.values_of(done),
        (("SIT", "ICQ"), ("ICQ", "BC"), ("SIT, tuned", "ICQ, tuned"), ("ICQ, tuned", "BC")),
    )
    places = [
        (task, pair)
        for task in tasks
        for pair in pairs
        if all((task, name) in found for name in pair)
    ]
    listed = [checks.above(found, task, tasks[task], *pair) for task, pair in places]
    write_text(
        job.out / f"{part}-checks.md",
        checks.markdown("SIT: what must hold", listed, tables.provenance(done)),
    )
    figures.curves(done, "return_mean", job.out / f"{part}-curves", tasks=tasks)
    return Section("SIT: the claim on few maps", "", [stem, f"{part}-checks", f"{part}-curves"])


def tune(job: Job) -> Section:
    """Every point of the search for the tuned columns."""
    tasks = job.at.claimed
    done = runs.search(list(tasks), job.scale, job.out / "tuning")
    return Section(
        "SIT: tuning",
        "",
        [job.table(done, tasks, "tuning", "SIT: tuning", "Seeds that no other table has.")],
    )


def fig1f(job: Job) -> Section:
    """What imbalanced data do to ICQ, with and without an exchange of agents' steps."""
    name = job.at.motivation
    mates = registry.make_spec(f"{name}/imbalanced-low").num_agents - 1
    task = f"{name}/mix=[{' '.join(['r'] * mates)} m]"
    done = runs.run_exchange(task, job.scale, job.out / "runs")
    levels = {
        f"{level} joint policy": f"{name}/mix=[{letter}*{mates + 1}]"
        for level, letter in (("random", "r"), ("medium", "m"))
    }
    lines = {
        label: float(returns_of(runs.data_of(mix, job.scale)).mean())
        for label, mix in levels.items()
    }
    figures.curves(
        done,
        "return_mean",
        job.out / "fig1f",
        tasks={task: f"{runs.label(name)}, one agent medium"},
        reference=lines,
    )
    return Section(
        "SIT Figure 1 (f): motivation", "Data of random agents and one medium agent.", ["fig1f"]
    )


def credits(job: Job, tasks: Mapping[str, str], stem: str, kind: str = "attention") -> list[str]:
    """Own rewards over the fit, priorities and shares of draws: a figure for each task, and one
    table of agents and levels.
    """
    lines = [
        "| data | agent | type | own reward a step | agree | priority | share of draws | "
        "of the data |",
        "|---" * 8 + "|",
    ]
    more = ["| data | type | level | of the data | of the draws | priority |", "|---" * 6 + "|"]
    fits, stems = [], []
    for task, name in tasks.items():
        episodes, spec = runs.data_of(task, job.scale), registry.make_spec(task)
        found = credit.judge(
            episodes,
            spec,
            dataclasses.replace(job.at.fit, kind=kind),
            one_type=runs.kind_of(task) == "mamujoco",
        )
        stems.append(f"{stem}-{name.replace(' ', '-')}")
        credit_report.draw(found, job.out / stems[-1], title=name)
        for row in credit.by_agent(found):
            shares = f"{row.agreement:.0%} | {row.priority:.3f} | {row.drawn:.1%} | {row.data:.1%}"
            lines.append(
                f"| {name} | {row.agent} | {row.type} | {row.reward:.4f} ± "
                f"{row.reward_std:.4f} | {shares} |"
            )
        for level in credit.by_level(found, np.asarray(episodes.behaviour_level)):
            numbers = f"{level['data']:.1%} | {level['drawn']:.2%} | {level['priority']:.3f}"
            more.append(f"| {name} | {level['type']:.0f} | {level['level']:.0f} | {numbers} |")
        few = ", ".join(
            f"{few:.0f} of {count:,} of type {kind}"
            for kind, few, count in credit.effective_draws(found)
        )
        fit = f"R² {found.r2:.3f}, on held-out episodes {found.r2_held_out:.3f}"
        fits.append(
            f"- {name}: {len(episodes.filled):,} episodes, {fit}; draws fall on about "
            f"{few} trajectories"
        )
    about = [
        f"- {runtime.hardware()}; commit {runtime.git_commit()}; {job.at.fit}",
        f"- Command: `{job.command(stem)}`",
    ]
    text = [f"# SIT: decomposition of the reward, {kind}", "", *lines, "", *more, "", *fits, *about]
    write_text(job.out / f"{stem}.md", "\n".join(text) + "\n")
    return [stem, *stems]


def imbalanced(job: Job) -> dict[str, str]:
    """The two imbalanced datasets of the ablations' map, medium first."""
    name = job.at.ablated
    return {
        f"{name}/imbalanced-{quality}": f"{runs.label(name)} {quality}"
        for quality in ("medium", "low")
    }


def fig3(job: Job) -> Section:
    """What the decomposition and the priorities make of two datasets."""
    text = (
        "Own reward of each agent during the fit, priorities of its trajectories by type, "
        "and its share of the draws."
    )
    return Section(
        "SIT Figure 3: decomposition and priorities", text, credits(job, imbalanced(job), "fig3")
    )


def compared(
    job: Job,
    part: str,
    title: str,
    tasks: Mapping[str, str],
    columns: Mapping[str, Column],
    note: str = "",
) -> Section:
    """Curves and a table of some columns on some tasks."""
    done = job.run(tasks, columns)
    figures.curves(done, "return_mean", job.out / f"{part}-curves", tasks=tasks)
    return Section(title, note, [job.table(done, tasks, part, title, note), f"{part}-curves"])


def fig4a(job: Job) -> Section:
    """Ablations of stages I and III."""
    tasks = dict(list(imbalanced(job).items())[1:])
    return compared(
        job,
        "fig4a",
        "SIT Figure 4 (a): ablations",
        tasks,
        runs.ABLATIONS,
        "The last two columns are our own variants.",
    )


def fig4b(job: Job) -> Section:
    """Priorities where good trajectories are rare."""
    n = registry.make_spec(f"{job.at.ablated}/imbalanced-low").num_agents
    # so few episodes have no half percent
    share = "99.5%[{0}]+0.5%[{1}]" if job.scale != "smoke" else "50%[{0}]+50%[{1}]"
    task = f"{job.at.ablated}/mix={share.format(f'r*{n}', f'm*{n}')}"
    return compared(job, "fig4b", "SIT Figure 4 (b): priority", {task: "extreme"}, runs.PRIORITY)


def fig4c(job: Job) -> Section:
    """Agents that are all of one level."""
    name = job.at.ablated
    n = registry.make_spec(f"{name}/imbalanced-low").num_agents
    tasks = {
        f"{name}/mix=[{letter}*{n}]": level
        for level, letter in (("random", "r"), ("medium", "m"), ("expert", "e"))
    }
    return compared(job, "fig4c", "SIT Figure 4 (c): balanced data", tasks, runs.columns_of(name))


def fig7(job: Job) -> Section:
    """A monotone mixer in place of the attention."""
    tasks = dict(list(imbalanced(job).items())[1:])
    stems = credits(job, tasks, "fig7b", "monotonic")
    section = compared(job, "fig7c", "SIT Figure 7: monotone decomposition", tasks, runs.MNC)
    return section._replace(
        stems=[*stems, *section.stems],
        text="A monotone mixer knows own rewards up to a monotone map only.",
    )


def fig8(job: Job) -> Section:
    """Sweeps of alpha, beta and eta."""
    tasks, stems = dict(list(imbalanced(job).items())[1:]), []
    for name, values in runs.SWEEPS.items():
        done = job.run(tasks, {f"SIT, {name}": Column("sit", grid={name: values})})
        figures.curves(done, "return_mean", job.out / f"fig8-{name}-curves", tasks=tasks)
        stems += [
            job.table(done, tasks, f"fig8-{name}", f"SIT Figure 8: {name}"),
            f"fig8-{name}-curves",
        ]
    text = (
        "alpha = 1e9 draws uniformly. As beta goes to 0 the softmax over the batch "
        "imitates its best sample alone, which is not a policy "
        "without constraint. RMSprop hardly sees a factor of the loss, so eta acts through "
        "the clipping of gradients."
    )
    return Section("SIT Figure 8: sweeps", text, stems)


def curves(job: Job, part: str) -> Section:
    """Learning curves of all methods on the datasets of a kind of map and a quality."""
    kind, quality = CURVES[part]
    tasks, lacking = runs.tasks_of(kind, quality, job.scale)
    text = (
        "Not run, since their policies don't come with the library: "
        f"{', '.join(map(runs.label, lacking))}."
        if lacking
        else ""
    )
    if tasks:
        done = [run for task in tasks for run in job.run({task: ""}, runs.columns_of(task))]
        levels = {task: float(returns_of(runs.data_of(task, job.scale)).mean()) for task in tasks}
        figures.curves(
            done,
            "return_mean",
            job.out / part,
            tasks={t: f"{label}, data {levels[t]:.1f}" for t, label in tasks.items()},
        )
    return Section(
        f"SIT Figure {part[3:]}: learning curves, {kind}, {quality}", text, [part] if tasks else []
    )


def decompositions(job: Job, part: str) -> Section:
    """Own rewards and priorities on the datasets of a kind of map and a quality."""
    kind, quality = CREDITS[part]
    tasks, lacking = runs.tasks_of(kind, quality, job.scale)
    text = (
        "Not run, since their policies don't come with the library: "
        f"{', '.join(map(runs.label, lacking))}."
        if lacking
        else ""
    )
    return Section(
        f"SIT Figure {part[3:]}: own rewards, {kind}, {quality}",
        text,
        credits(job, tasks, part) if tasks else [],
    )


PARTS: dict[str, Callable[[Job], Section]] = {
    **{make.__name__: make for make in (table1, fig1f, fig3, fig4a, fig4b, fig4c, fig7, fig8)},
    **{part: functools.partial(curves, part=part) for part in CURVES},
    **{part: functools.partial(decompositions, part=part) for part in CREDITS},
}

# No part of "all".
ALONE: dict[str, Callable[[Job], Section]] = {
    **{part: functools.partial(claim, part=part) for part in ("claim", "claim-mpe", "claim-smax")},
    "tune": tune,
}


def run_parts(part: str, scale: str, out: Path) -> list[Section]:
    """Make a part, or all: the sections of the page, their files below `out`."""
    job = Job(scale, out)
    if part in ALONE:
        return [ALONE[part](job)]
    return [make(job) for name, make in PARTS.items() if part in (name, "all")]
