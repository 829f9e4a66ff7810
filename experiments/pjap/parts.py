"""The figures of Tilbury et al. (2024), and the numbers behind them as tables beside those of the
paper (`paper.csv`, and how each was obtained).

Parts: fig1 ... fig5, extras (together: all), and fig6, the sequences, which has sizes of its own.
smoke: two seeds and a tenth of the epochs, to see that everything runs. cpu: the paper's epochs
with ten seeds. full: the same with a hundred seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxoff.experiments.paper import NOTHING, Job, Paper, below, printed
from jaxoff.experiments.pjap import figures, runs, sequences
from jaxoff.experiments.pjap.online import OnlineResult

from jaxoff.eval import statistics
from jaxoff.report.figures import save, style
from jaxoff.report.html import Section
from jaxoff.report.render import write
from jaxoff.report.tables import Cell, Table

METHODS = ("MADDPG", "MADDPG+PJAP")
EXACT = "computed from the policies in training, without episodes"
Values = Mapping[tuple[str, str], np.ndarray]  # (row, column) -> a number of each seed


def section(
    job: Job, stem: str, title: str, text: str, figure: Any, made: Mapping[str, Table] = NOTHING
) -> Section:
    """Write a figure as PNG and SVG, and tables: a section of the page."""
    if figure is not None:
        with style():
            save(figure, job.out / stem)
    for name, table in made.items():
        write(table, job.out / name)
    return Section(title, text, [*([] if figure is None else [stem]), *made])


def numbers(
    stem: str, title: str, values: Values, metric: str, epochs: int, *, marked: bool = False
) -> dict[str, Table]:
    """A table of numbers under its stem; marked: whether the best of a row is."""
    rows, columns = (tuple(dict.fromkeys(place[axis] for place in values)) for axis in (0, 1))
    of_row = lambda row: {c: values[row, c] for c in columns if (row, c) in values}
    marks = {row: statistics.marks(of_row(row)) if marked else {} for row in rows}
    known = printed("pjap", stem)
    cells = {
        (r, c): Cell((np.asarray(x, float),), marks[r].get(c, ""), known.get((r, c), ""), EXACT)
        for (r, c), x in values.items()
    }
    seeds = max(len(x) for x in values.values())
    about = tuple(below(seeds=f"0–{seeds - 1}", updates=f"{epochs:,}"))
    return {stem: Table(title, rows, columns, cells, metric, "", about, (), bool(known))}


def fig1(job: Job) -> Section:
    """One datum, and the step that it causes."""
    text = (
        "Sign agreement: a single data point in the opposite quadrant makes the best "
        "response under data step against the true gradient."
    )
    title = "PJAP Figure 1: one step of miscoordination"
    return section(job, "fig1", title, text, figures.fig1())


def fig2(job: Job) -> Section:
    """Online, four buffer sizes."""
    size = runs.SIZES[job.scale]
    results = runs.fig2_runs(range(size.seeds), size.epochs(190))
    text = (
        "Online MADDPG in sign agreement: a larger buffer holds older actions, and the team "
        "takes longer to agree."
    )
    title, made = "PJAP Figure 2: off-policyness by buffer size", fig2_tables(results)
    return section(job, "fig2", title, text, figures.fig2(results), made)


def fig2_tables(
    results: Sequence[OnlineResult], capacities: Sequence[int] = runs.CAPACITIES
) -> dict[str, Table]:
    """Lowest and final reward, and the first epoch with a reward above 0.9 (the last epoch, if
    there is none).
    """
    rewards: dict[tuple[str, str], np.ndarray] = {}
    firsts: dict[tuple[str, str], np.ndarray] = {}
    for result, capacity in zip(results, capacities, strict=True):
        row, reward = f"capacity {capacity}", result.history["exact_value"]  # [K+1, R]
        above, last = reward > 0.9, reward.shape[0] - 1
        rewards |= {(row, "lowest"): reward.min(0), (row, "end"): reward[-1]}
        firsts[row, "first above 0.9"] = np.where(above.any(0), above.argmax(0), last)
    title = "Figure 2: reward of online MADDPG by buffer size"
    first = "Figure 2: first epoch with a reward above 0.9"
    made = numbers("fig2-reward", title, rewards, "reward", last)
    return made | numbers("fig2-epoch", first, firsts, "epoch", last)


def fig3(job: Job) -> Section:
    """Uniform data, three starts."""
    text = (
        "Offline MADDPG in sign agreement, uniform data with mean (-0.02, 0.04): every "
        "start drifts the same way, whatever the reward."
    )
    drawn = figures.fig3(*runs.fig3_runs(runs.SIZES[job.scale].epochs(200)))
    return section(job, "fig3", "PJAP Figure 3: uniform data", text, drawn)


def fig4(job: Job) -> Section:
    """Twin peaks, data around the origin and around a maximum: last coordinates (mean over the last
    20 epochs and both agents), and the fixed point that the moments predict.
    """
    size = runs.SIZES[job.scale]
    panels = {
        centre: runs.fig4_runs(centre, range(size.seeds), size.epochs())
        for centre in ("origin", "peak")
    }
    values = {}
    for centre, (data, paths) in panels.items():
        for i, sigma in enumerate(runs.SIGMAS_4):
            row = f"{centre}, sigma {sigma:g}"
            values[row, "trained"] = paths.theta[0, i, :, -runs.LATE :].mean((1, 2))
            end = runs.twin_peaks_fixed_point(runs.points_of(data[i]))
            values[row, "predicted"] = end.mean(keepdims=True)
    text = (
        "Offline MADDPG in twin peaks, data around the origin (a) and around a maximum (b); "
        "crosses are the predicted fixed points."
    )
    name = "Figure 4: end point in twin peaks, uniform samples"
    made = numbers("fig4-end", name, values, "coordinate, mean over agents", size.epochs())
    return section(job, "fig4", "PJAP Figure 4: twin peaks", text, figures.fig4(panels), made)


def fig5(job: Job) -> Section:
    """Uniform against PJAP."""
    size = runs.SIZES[job.scale]
    data, uniform, pjap = runs.fig5_runs(range(size.seeds), size.epochs())
    text = (
        "MADDPG with uniform samples and with proximal joint-action prioritisation, data "
        "around a maximum of twin peaks."
    )
    drawn, made = figures.fig5(data, uniform, pjap), fig5_tables(uniform, pjap)
    return section(job, "fig5", "PJAP Figure 5: prioritised joint actions", text, drawn, made)


def fig5_tables(uniform: runs.Paths, pjap: runs.Paths) -> dict[str, Table]:
    """End point, end reward and late distance by standard deviation and sampler."""
    late = f"distance, last {runs.LATE} epochs"
    made: dict[str, Table] = {}
    for stem, label, of in (
        ("fig5-end", "end point", lambda p, i: p.theta[0, i, :, -1].mean(-1)),
        ("fig5-reward", "end reward", lambda p, i: p.reward[0, i, :, -1]),
        ("fig5-distance", late, lambda p, i: p.distance[0, i, :, -runs.LATE :].mean(-1)),
    ):
        values = {
            (f"sigma {sigma:g}", method): of(paths, i)
            for i, sigma in enumerate(runs.SIGMAS_5)
            for method, paths in zip(METHODS, (uniform, pjap), strict=True)
        }
        title, marked = f"Figure 5: {label} in twin peaks", label == "end reward"
        made |= numbers(stem, title, values, label, uniform.distance.shape[-1], marked=marked)
    return made


def extras(job: Job) -> Section:
    """Not in the paper: permuted pairing, alpha x eps, size of the refreshed set."""
    size = runs.SIZES[job.scale]
    seeds, epochs, reward = range(size.seeds), size.epochs(), "end reward"
    pairs, paired = runs.pairing_runs(seeds, epochs)
    text = (
        "Beyond the paper: agent y's actions dealt anew, which best responses can't see; "
        "the grid of alpha and eps; the refreshed set."
    )
    values = {
        (row, name): paths.reward[0, i, :, -1]
        for i, row in enumerate(("paired", "permuted"))
        for name, paths in paired.items()
    }
    title = "Two clusters, one at each maximum: end reward"
    made = numbers("extra-pairing", title, values, reward, epochs)
    drawn = figures.pairing(paired, pairs)
    first = section(job, "extra-pairing", "PJAP: controls", text, drawn, made)
    swept = runs.grid_runs(seeds, epochs)
    cells = [(f"alpha {alpha:g}", f"eps {eps:g}") for alpha in runs.ALPHAS for eps in runs.FLOORS]
    values = dict(zip(cells, swept.reward[:, 0, :, -1], strict=True))
    title = "PJAP: end reward at sigma 1, by alpha and eps"
    made = numbers("extra-grid", title, values, reward, epochs)
    second = section(job, "extra-grid", "", "", figures.grid(swept), made)
    names = {0: "training batch (32)", -1: "all 512"}
    values = {
        (f"sigma {sigma:g}", names.get(count, f"{count} drawn")): paths.reward[0, i, :, -1]
        for count, paths in runs.refresh_runs(seeds, epochs).items()
        for i, sigma in enumerate(runs.SIGMAS_5)
    }
    title = "PJAP: end reward by refreshed set"
    made = numbers("extra-refresh", title, values, reward, epochs, marked=True)
    third = section(job, "extra-refresh", "", "", None, made)
    return first._replace(stems=[*first.stems, *second.stems, *third.stems])


PARTS: dict[str, Callable[[Job], Section]] = {
    make.__name__: make for make in (fig1, fig2, fig3, fig4, fig5, extras)
}
PAPER = Paper(
    "pjap",
    "PJAP",
    "Figures of Tilbury et al. (2024); all: 1-5.",
    {**PARTS, "fig6": sequences.fig6},
    {"all": PARTS},
    public=("fig6",),
)
