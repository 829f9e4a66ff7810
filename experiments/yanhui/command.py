"""`python -m jaxoff.experiments.yanhui [PART] --scale smoke|cpu|full --out results/yanhui`.

Parts: table1, table2, fig1, fig2 (together: all), and claim: YANHUI, MADT and BC on 3m alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from jaxoff.experiments import checks as shared_checks
from jaxoff.experiments.jobs import Column
from jaxoff.experiments.yanhui import checks, figures, runs

from jaxoff.files import write_text
from jaxoff.report import figures as report_figures
from jaxoff.report import tables
from jaxoff.report.html import Section
from jaxoff.report.load import Run

PAPER = Path(__file__).with_name("paper.csv")
METRICS = {"return_mean": "", "win_rate": "-win-rate"}
NOTE = (
    "Jump point: mean return of greedy episodes after offline training, no step online. "
    "SMAX is not SMAC, and the data are from our own policies: numbers are not comparable "
    "with the paper's. "
)


class Job:
    """One call of the command.

    A result that is already in `out` is read back, not trained again.
    """

    def __init__(self, scale: str, out: Path) -> None:
        self.scale, self.out, self.size = scale, out, runs.SIZES[scale]

    def tasks(
        self, wanted: tuple[str, ...], percent: tuple[int, ...], episodes: int
    ) -> dict[str, str]:
        """task -> row label, of the maps that this scale has."""
        maps = [name for name in wanted if name in self.size.maps]
        return {
            runs.task_of(name, p, episodes): f"{name}, p = {p} %" for name in maps for p in percent
        }

    def run(
        self, tasks: Mapping[str, str], columns: Mapping[str, Column], share: float = 1.0
    ) -> list[Run]:
        """Train columns on tasks, a folder each below out/runs; share: of the updates."""
        return runs.run_all(list(tasks), columns, self.scale, self.out / "runs", share)

    def table(self, name: str, title: str, done: list[Run], tasks: dict[str, str]) -> list[str]:
        """Tables of return and win rate, with standard errors; returns the file stems."""
        made = {task: f"{done_steps(done, task):,} ({runs.madt_updates(task):,})" for task in tasks}
        updates = "; ".join(f"{label}: {made[task]}" for task, label in tasks.items())
        size = f"Episodes of an evaluation: {self.size.eval_episodes}. "
        note = (
            f"{NOTE}{size}Updates of every method (of MADT in 100 epochs of 128 windows): "
            f"{updates}."
        )
        stems = []
        for metric, suffix in METRICS.items():
            if not all(run.has(metric) for run in done):
                continue
            paper = tables.read_paper(PAPER, name) if metric == "return_mean" else None
            titled = f"{title}, {tables.METRICS[metric]}"
            built = tables.build(
                done, tasks, None, metric, title=titled, paper=paper, note=note, standard_error=True
            )
            tables.write(built, self.out / f"{name}{suffix}")
            stems.append(f"{name}{suffix}")
        return stems


def done_steps(done: list[Run], task: str) -> int:
    """Updates of the last stage, the same for every method."""
    return int(next(run.runs[0]["updates"] for run in done if run.task == task))


def table1(job: Job) -> Section:
    """Six methods and the controls, without and with poor data."""
    tasks = job.tasks(("3m", "3s_vs_5z", "corridor"), (0, 50), job.size.episodes)
    done = job.run(tasks, runs.COLUMNS)
    stems = job.table("table1", "YANHUI Table 1: jump points", done, tasks)
    found, listed = shared_checks.values_of(done), []
    for name in job.size.maps:
        clean, mixed = (runs.task_of(name, p, job.size.episodes) for p in (0, 50))
        if mixed in tasks:
            listed += [
                checks.tie(found, clean, tasks[clean]),
                *(checks.above(found, mixed, tasks[mixed], other) for other in ("MADT", "BC")),
            ]
            listed += [checks.kept(found, clean, mixed, name)] if name == "3m" else []
            listed += [checks.above(found, mixed, tasks[mixed], "MADT, filtered")]
    return Section("YANHUI Table 1", "", [*stems, write_checks(job, "table1-checks", listed, done)])


def claim(job: Job) -> Section:
    """The claim on 3m with the fewest columns."""
    tasks = job.tasks(("3m",), (0, 50), job.size.episodes)
    done = job.run(tasks, runs.CLAIM)
    stems = job.table("claim", "YANHUI on 3m", done, tasks)
    found, (clean, mixed) = shared_checks.values_of(done), tasks
    listed = [
        checks.tie(found, clean, tasks[clean]),
        *(checks.above(found, mixed, tasks[mixed], other) for other in ("MADT", "BC")),
    ]
    return Section(
        "YANHUI on 3m",
        "",
        [
            *stems,
            write_checks(
                job, "claim-checks", [*listed, checks.kept(found, clean, mixed, "3m")], done
            ),
        ],
    )


def write_checks(job: Job, stem: str, listed: list[checks.Check], done: list[Run]) -> str:
    """The list of checks as a file; returns its stem."""
    write_text(
        job.out / f"{stem}.md",
        shared_checks.markdown("YANHUI: what must hold", listed, tables.provenance(done)),
    )
    return stem


def table2(job: Job) -> Section:
    """Ablations at half poor data."""
    tasks = job.tasks(("3m", "MMM2"), (50,), job.size.episodes)
    done = job.run(tasks, runs.ABLATIONS | runs.MADT)
    stems = job.table("table2", "YANHUI Table 2: ablations", done, tasks)
    found = shared_checks.values_of(done)
    listed = [
        checks.above(found, task, label, other)
        for task, label in tasks.items()
        for other in runs.ABLATIONS
        if other != "YANHUI"
    ]
    listed += [
        check
        for task, label in tasks.items()
        for check in checks.without_contrast(found, task, label)
    ]
    return Section("YANHUI Table 2", "", [*stems, write_checks(job, "table2-checks", listed, done)])


def fig1(job: Job) -> Section:
    """Learning curves at half poor data."""
    tasks = job.tasks(("3m", "3s_vs_5z", "corridor"), (50,), job.size.episodes)
    report_figures.curves(
        job.run(tasks, runs.COLUMNS), "return_mean", job.out / "fig1", tasks=tasks, label="return"
    )
    return Section(
        "YANHUI Figure 1: learning curves",
        "Returns of greedy episodes while training, half of the episodes poor.",
        ["fig1"],
    )


def fig2(job: Job) -> Section:
    """Robustness to poor data on 3m with few episodes."""
    tasks = job.tasks(("3m",), job.size.percent, job.size.few)
    done = job.run(tasks, runs.CURVE_COLUMNS, job.size.few / job.size.episodes)
    by_percent = dict(zip(job.size.percent, tasks, strict=True))
    found = shared_checks.values_of(done)
    figures.robustness(found, by_percent, list(runs.CURVE_COLUMNS), "return", job.out / "fig2")
    stems = job.table("fig2-table", "YANHUI Figure 2: proportion of poor data", done, tasks)
    listed = checks.robust(found, by_percent, list(runs.CURVE_COLUMNS))
    text = f"3m, {job.size.few} episodes in all; means over seeds with standard errors."
    return Section(
        "YANHUI Figure 2", text, ["fig2", *stems, write_checks(job, "fig2-checks", listed, done)]
    )


PARTS: dict[str, Callable[[Job], Section]] = {
    "table1": table1,
    "table2": table2,
    "fig1": fig1,
    "fig2": fig2,
}


def run_parts(part: str, scale: str, out: Path) -> list[Section]:
    """Make a part, or all four: the sections of the page, their files below `out`."""
    job = Job(scale, out)
    if part == "claim":
        return [claim(job)]
    return [make(job) for name, make in PARTS.items() if part in (name, "all")]
