"""The command `python -m jaxoff.experiments.pjap [fig1 ...

fig5 | extras | all | fig6] --scale smoke|cpu|full --out results/pjap`.

smoke: two seeds and a tenth of the epochs, to see that everything runs. cpu: the paper's epochs
with ten seeds. full: the same with a hundred seeds. fig6, the sequences, has sizes of its own and
is no part of `all`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxoff.experiments.pjap import figures, runs, sequences, tables

from jaxoff.report.figures import save, style
from jaxoff.report.html import Section
from jaxoff.report.tables import Table, write

SCALES = {"smoke": (2, 0.1), "cpu": (10, 1.0), "full": (100, 1.0)}  # seeds, share of the epochs


class Job:
    """One call of the command: where it writes, and with how many seeds and epochs."""

    def __init__(self, scale: str, out: Path, command: str) -> None:
        seeds, self.share = SCALES[scale]
        self.seeds, self.out = range(seeds), out
        self.about = tables.about(self.seeds, command)

    def epochs(self, full: int = runs.EPOCHS) -> int:
        """Epochs of this scale."""
        return max(int(full * self.share), tables.LATE)

    def section(
        self,
        name: str,
        title: str,
        text: str,
        figure: Any,
        made: Mapping[str, Table] = MappingProxyType({}),
    ) -> Section:
        """Write a figure as PNG and SVG, and tables: a section of the page."""
        if figure is not None:
            with style():
                save(figure, self.out / name)
        for stem, table in made.items():
            write(table, self.out / stem)
        return Section(title, text, [*([] if figure is None else [name]), *made])


def fig1(job: Job) -> Section:
    """One datum, and the step that it causes."""
    text = (
        "Sign agreement: a single data point in the opposite quadrant makes the best "
        "response under data step against the true gradient."
    )
    return job.section("fig1", "PJAP Figure 1: one step of miscoordination", text, figures.fig1())


def fig2(job: Job) -> Section:
    """Online, four buffer sizes."""
    results = runs.fig2_runs(job.seeds, job.epochs(190))
    text = (
        "Online MADDPG in sign agreement: a larger buffer holds older actions, and the team "
        "takes longer to agree."
    )
    made = tables.fig2(results, runs.CAPACITIES, job.about)
    return job.section(
        "fig2", "PJAP Figure 2: off-policyness by buffer size", text, figures.fig2(results), made
    )


def fig3(job: Job) -> Section:
    """Uniform data, three starts."""
    text = (
        "Offline MADDPG in sign agreement, uniform data with mean (-0.02, 0.04): every "
        "start drifts the same way, whatever the reward."
    )
    return job.section(
        "fig3", "PJAP Figure 3: uniform data", text, figures.fig3(*runs.fig3_runs(job.epochs(200)))
    )


def fig4(job: Job) -> Section:
    """Twin peaks, data around the origin and around a maximum."""
    panels = {
        centre: runs.fig4_runs(centre, job.seeds, job.epochs()) for centre in ("origin", "peak")
    }
    text = (
        "Offline MADDPG in twin peaks, data around the origin (a) and around a maximum (b); "
        "crosses are the predicted fixed points."
    )
    return job.section(
        "fig4",
        "PJAP Figure 4: twin peaks",
        text,
        figures.fig4(panels),
        {"fig4-end": tables.fig4(panels, job.about)},
    )


def fig5(job: Job) -> Section:
    """Uniform against PJAP."""
    data, uniform, pjap = runs.fig5_runs(job.seeds, job.epochs())
    text = (
        "MADDPG with uniform samples and with proximal joint-action prioritisation, data "
        "around a maximum of twin peaks."
    )
    made = tables.fig5(uniform, pjap, job.about)
    return job.section(
        "fig5",
        "PJAP Figure 5: prioritised joint actions",
        text,
        figures.fig5(data, uniform, pjap),
        made,
    )


def extras(job: Job) -> Section:
    """Not in the paper: permuted pairing, alpha x eps, size of the refreshed set."""
    pairs, results = runs.pairing_runs(job.seeds, job.epochs())
    text = (
        "Beyond the paper: agent y's actions dealt anew, which best responses can't see; "
        "the grid of alpha and eps; the refreshed set."
    )
    first = job.section(
        "extra-pairing",
        "PJAP: controls",
        text,
        figures.pairing(results, pairs),
        {"extra-pairing": tables.pairing(results, job.about)},
    )
    swept = runs.grid_runs(job.seeds, job.epochs())
    second = job.section(
        "extra-grid", "", "", figures.grid(swept), {"extra-grid": tables.grid(swept, job.about)}
    )
    sizes = runs.refresh_runs(job.seeds, job.epochs())
    third = job.section(
        "extra-refresh", "", "", None, {"extra-refresh": tables.refresh(sizes, job.about)}
    )
    return first._replace(stems=[*first.stems, *second.stems, *third.stems])


PARTS: dict[str, Callable[[Job], Section]] = {
    "fig1": fig1,
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "extras": extras,
}


def run_parts(part: str, scale: str, out: Path, data_dir: str | None = None) -> list[Section]:
    """Make a part, or all of the games: the sections of the page, their files below `out`.

    data_dir: of public data, for fig6.
    """
    if part == "fig6":
        return [sequences.fig6(scale, out, data_dir)]
    job = Job(scale, out, f"python -m jaxoff.experiments.pjap {part} --scale {scale}")
    return [make(job) for name, make in PARTS.items() if part in (name, "all")]
