"""The tables and figures of YANHUI.

Parts: table1, table2, fig1, fig2 (together: all), and claim: YANHUI, MADT and BC on 3m alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxoff.experiments import checks as shared_checks
from jaxoff.experiments.paper import Column, Job, Paper
from jaxoff.experiments.yanhui import checks, figures, runs

from jaxoff.report import figures as report_figures
from jaxoff.report import protocol
from jaxoff.report.html import Section
from jaxoff.report.load import Run

NOTE = (
    "Jump point: mean return of greedy episodes after offline training, no step online. "
    "SMAX is not SMAC, and the data are from our own policies: numbers are not comparable "
    "with the paper's. "
)


def tasks_of(
    job: Job, wanted: Sequence[str], percent: Sequence[int], *, few: bool = False
) -> dict[str, str]:
    """task -> row label, of the maps that this scale has; few: with the episodes of Figure 2."""
    size = runs.SIZES[job.scale]
    episodes = size.few if few else size.episodes
    maps = [name for name in wanted if name in size.maps]
    return {runs.task_of(name, p, episodes): f"{name}, p = {p} %" for name in maps for p in percent}


def trained(
    job: Job, tasks: Mapping[str, str], columns: Mapping[str, Column], share: float = 1.0
) -> list[Run]:
    """Every column on every task; share: of the updates."""
    return job.run(runs.specs(tasks, columns, job.scale, share))


def table(job: Job, name: str, title: str, done: list[Run], tasks: dict[str, str]) -> list[str]:
    """Tables of return and win rate, with standard errors; returns the file stems."""
    made = {task: f"{done_steps(done, task):,} ({runs.madt_updates(task):,})" for task in tasks}
    updates = "; ".join(f"{label}: {made[task]}" for task, label in tasks.items())
    note = (
        f"{NOTE}Episodes of an evaluation: {runs.SIZES[job.scale].eval_episodes}. "
        f"Updates of every method (of MADT in 100 epochs of 128 windows): {updates}."
    )
    stems = {"return_mean": name, "win_rate": f"{name}-win-rate"}
    return job.metric_tables(stems, title, done, tasks, paper=name, note=note, standard_error=True)


def done_steps(done: list[Run], task: str) -> int:
    """Updates of the last stage, the same for every method."""
    return int(next(run.runs[0]["updates"] for run in done if run.task == task))


def table1(job: Job) -> Section:
    """Six methods and the controls, without and with poor data."""
    tasks = tasks_of(job, ("3m", "3s_vs_5z", "corridor"), (0, 50))
    done = trained(job, tasks, runs.COLUMNS)
    stems = table(job, "table1", "YANHUI Table 1: jump points", done, tasks)
    found, places, listed = shared_checks.values_of(done), list(tasks), []
    for clean, mixed in zip(places[::2], places[1::2], strict=True):
        name = tasks[clean].partition(",")[0]
        listed += what_must_hold(found, clean, mixed, tasks, kept=name == "3m")
        listed += [checks.above(found, mixed, tasks[mixed], "MADT, filtered")]
    return Section("YANHUI Table 1", "", [*stems, write_checks(job, "table1-checks", listed, done)])


def claim(job: Job) -> Section:
    """The claim on 3m with the fewest columns."""
    tasks = tasks_of(job, ("3m",), (0, 50))
    done = trained(job, tasks, runs.CLAIM)
    stems = table(job, "claim", "YANHUI on 3m", done, tasks)
    clean, mixed = tasks
    listed = what_must_hold(shared_checks.values_of(done), clean, mixed, tasks)
    return Section("YANHUI on 3m", "", [*stems, write_checks(job, "claim-checks", listed, done)])


def what_must_hold(
    found: checks.Values, clean: str, mixed: str, labels: Mapping[str, str], *, kept: bool = True
) -> list[checks.Check]:
    """The checks of a map, without and with poor data; kept: whether YANHUI has to keep 80 %."""
    return [
        checks.tie(found, clean, labels[clean]),
        *(checks.above(found, mixed, labels[mixed], other) for other in ("MADT", "BC")),
        *([checks.kept(found, clean, mixed, labels[clean].partition(",")[0])] if kept else []),
    ]


def write_checks(job: Job, stem: str, listed: list[checks.Check], done: list[Run]) -> str:
    """The list of checks as a file; returns its stem."""
    return shared_checks.write(job, stem, "YANHUI: what must hold", listed, done)


def table2(job: Job) -> Section:
    """Ablations at half poor data."""
    tasks = tasks_of(job, ("3m", "MMM2"), (50,))
    done = trained(job, tasks, runs.ABLATIONS | runs.MADT)
    stems = table(job, "table2", "YANHUI Table 2: ablations", done, tasks)
    found, others = shared_checks.values_of(done), [x for x in runs.ABLATIONS if x != "YANHUI"]
    listed = [checks.above(found, *place, other) for place in tasks.items() for other in others]
    for place in tasks.items():
        listed += checks.without_contrast(found, *place)
    return Section("YANHUI Table 2", "", [*stems, write_checks(job, "table2-checks", listed, done)])


def fig1(job: Job) -> Section:
    """Learning curves at half poor data."""
    tasks = tasks_of(job, ("3m", "3s_vs_5z", "corridor"), (50,))
    done = trained(job, tasks, runs.COLUMNS)
    report_figures.curves(done, "return_mean", job.out / "fig1", tasks=tasks, label="return")
    return Section(
        "YANHUI Figure 1: learning curves",
        "Returns of greedy episodes while training, half of the episodes poor.",
        ["fig1"],
    )


def fig2(job: Job) -> Section:
    """Robustness to poor data on 3m with few episodes."""
    size, columns = runs.SIZES[job.scale], runs.CURVE_COLUMNS
    tasks = tasks_of(job, ("3m",), size.percent, few=True)
    done = trained(job, tasks, columns, size.few / size.episodes)
    by_percent = dict(zip(size.percent, tasks, strict=True))
    found = shared_checks.values_of(done)
    note = protocol.of_runs(done)
    figures.robustness(found, by_percent, list(columns), "return", job.out / "fig2", note)
    stems = table(job, "fig2-table", "YANHUI Figure 2: proportion of poor data", done, tasks)
    listed = checks.robust(found, by_percent, list(columns))
    text = f"3m, {size.few} episodes in all; means over seeds with standard errors."
    return Section(
        "YANHUI Figure 2", text, ["fig2", *stems, write_checks(job, "fig2-checks", listed, done)]
    )


PARTS: dict[str, Callable[[Job], Section]] = {
    make.__name__: make for make in (table1, table2, fig1, fig2)
}
PAPER = Paper(
    "yanhui",
    "YANHUI",
    "Tables 1 and 2, Figures 1 and 2 of Meng et al. (2024).",
    {**PARTS, "claim": claim},
    {"all": PARTS},
)
