"""The numbers behind the figures, as tables beside those of the paper (`paper.csv`, and how each
was obtained).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxoff.experiments.pjap import runs

from jaxoff import runtime
from jaxoff.eval import statistics
from jaxoff.report.tables import Cell, Table, read_paper
from jaxoff.training.online import OnlineResult

PAPER = Path(__file__).with_name("paper.csv")
METHODS = ("MADDPG", "MADDPG+PJAP")
LATE = 20  # epochs that "late" and "last" mean


def fig2(
    results: Sequence[OnlineResult], capacities: Sequence[int], about: tuple[str, ...]
) -> dict[str, Table]:
    """Lowest and final reward, and the first epoch with a reward above 0.9 (the last epoch, if
    there is none).
    """
    rewards: dict[tuple[str, str], np.ndarray] = {}
    epochs: dict[tuple[str, str], np.ndarray] = {}
    for result, capacity in zip(results, capacities, strict=True):
        row, reward = f"capacity {capacity}", result.history["exact_value"]  # [K+1, R]
        above = reward > 0.9
        rewards |= {(row, "lowest"): reward.min(0), (row, "end"): reward[-1]}
        epochs[row, "first above 0.9"] = np.where(
            above.any(0), above.argmax(0), reward.shape[0] - 1
        )
    return {
        "fig2-reward": _table(
            "fig2-reward",
            "Figure 2: reward of online MADDPG by buffer size",
            rewards,
            "reward",
            about,
        ),
        "fig2-epoch": _table(
            "fig2-epoch", "Figure 2: first epoch with a reward above 0.9", epochs, "epoch", about
        ),
    }


def fig4(panels: Mapping[str, tuple[Sequence, runs.Paths]], about: tuple[str, ...]) -> Table:
    """Last coordinates (mean over the last 20 epochs and both agents), and the fixed point that the
    moments predict.
    """
    values = {}
    for centre, (data, paths) in panels.items():
        for i, sigma in enumerate(runs.SIGMAS_4):
            row = f"{centre}, sigma {sigma:g}"
            values[row, "trained"] = paths.theta[0, i, :, -LATE:].mean((1, 2))
            values[row, "predicted"] = runs.twin_peaks_fixed_point(runs.points_of(data[i])).mean(
                keepdims=True
            )
    return _table(
        "fig4-end",
        "Figure 4: end point in twin peaks, uniform samples",
        values,
        "coordinate, mean over agents",
        about,
    )


def fig5(uniform: runs.Paths, pjap: runs.Paths, about: tuple[str, ...]) -> dict[str, Table]:
    """End point, end reward and late distance by standard deviation and sampler."""
    quantities = {
        "end": ("end point", lambda p, i: p.theta[0, i, :, -1].mean(-1), False),
        "reward": ("end reward", lambda p, i: p.reward[0, i, :, -1], True),
        "distance": (
            f"distance, last {LATE} epochs",
            lambda p, i: p.distance[0, i, :, -LATE:].mean(-1),
            False,
        ),
    }
    tables = {}
    for name, (label, of, marked) in quantities.items():
        values = {
            (f"sigma {sigma:g}", method): of(paths, i)
            for i, sigma in enumerate(runs.SIGMAS_5)
            for method, paths in zip(METHODS, (uniform, pjap), strict=True)
        }
        tables[f"fig5-{name}"] = _table(
            f"fig5-{name}", f"Figure 5: {label} in twin peaks", values, label, about, marked
        )
    return tables


def refresh(results: Mapping[int, runs.Paths], about: tuple[str, ...]) -> Table:
    """End reward of PJAP by the number of priorities that are refreshed after an update."""
    names = {0: "training batch (32)", -1: "all 512"}
    values = {
        (f"sigma {sigma:g}", names.get(size, f"{size} drawn")): paths.reward[0, i, :, -1]
        for i, sigma in enumerate(runs.SIGMAS_5)
        for size, paths in results.items()
    }
    return _table(
        "extra-refresh", "PJAP: end reward by refreshed set", values, "end reward", about, True
    )


def grid(paths: runs.Paths, about: tuple[str, ...]) -> Table:
    """End reward of PJAP by sharpness and floor at sigma 1."""
    cells = [(f"alpha {alpha:g}", f"eps {eps:g}") for alpha in runs.ALPHAS for eps in runs.FLOORS]
    values = dict(zip(cells, paths.reward[:, 0, :, -1], strict=True))
    return _table(
        "extra-grid", "PJAP: end reward at sigma 1, by alpha and eps", values, "end reward", about
    )


def pairing(results: Mapping[str, runs.Paths], about: tuple[str, ...]) -> Table:
    """End reward on correlated data and on the same marginals dealt anew."""
    values = {
        (row, name): paths.reward[0, i, :, -1]
        for i, row in enumerate(("paired", "permuted"))
        for name, paths in results.items()
    }
    return _table(
        "extra-pairing",
        "Two clusters, one at each maximum: end reward",
        values,
        "end reward",
        about,
    )


def about(seeds: Sequence[int], command: str) -> tuple[str, ...]:
    """Lines that say how the numbers came about."""
    lines = (
        f"Seeds: 0–{len(seeds) - 1}",
        f"Hardware: {runtime.hardware()}",
        f"Git commit: {runtime.git_commit()}",
        f"Command: `{command}`",
    )
    return lines


def _table(
    name: str,
    title: str,
    values: dict[tuple[str, str], np.ndarray],
    metric: str,
    about: tuple[str, ...],
    marked: bool = False,
) -> Table:
    printed = read_paper(PAPER, name)
    rows, columns = (tuple(dict.fromkeys(place[axis] for place in values)) for axis in (0, 1))
    marks = {
        row: statistics.marks({c: values[row, c] for c in columns if (row, c) in values})
        if marked
        else {}
        for row in rows
    }
    cells = {
        (r, c): Cell((np.asarray(x, float),), marks[r].get(c, ""), printed.get((r, c), ""))
        for (r, c), x in values.items()
    }
    return Table(title, rows, columns, cells, metric, "", about, (), bool(printed))
