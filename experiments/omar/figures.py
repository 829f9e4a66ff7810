"""What is drawn for OMAR: the landscape of the motivating example, and improvements over the number
of agents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxoff.experiments.omar.landscape import bimodal

from jaxoff.report.figures import looks, save, style, write_note


def landscape(paths: Mapping[str, np.ndarray], stem: Path) -> list[Path]:
    """The value over the action with the ends of some seeds, and the actions on the way.

    paths: label -> actions [seeds, steps].
    """
    look, grid = looks(list(paths)), np.linspace(-1, 1, 401)
    with style() as new_figure:
        figure = new_figure(figsize=(8.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(grid, np.asarray(bimodal(grid)), color="#555555")
        for label, actions in paths.items():
            ends = actions[:, -1]
            left.plot(
                ends,
                np.asarray(bimodal(ends)),
                linestyle="none",
                marker="o",
                color=look[label]["color"],
                label=label,
            )
            right.plot(np.median(actions, 0), label=label, **look[label])
        left.set(xlabel="action", ylabel="value", title="where actors end")
        right.set(xlabel="actor steps", ylabel="action", title="median over seeds", ylim=(-1, 1))
        right.legend()
        return save(figure, stem)


def by_agents(
    series: Mapping[str, Mapping[int, Sequence[float]]],
    titles: Mapping[str, str],
    stem: Path,
    note: str = "",
) -> list[Path]:
    """A panel per series: percent over the number of agents, mean and standard deviation over
    seeds. note: how the policies were evaluated.
    """
    look = looks(list(series))
    with style() as new_figure:
        figure = new_figure(figsize=(4.0 * len(series), 3.0), layout="constrained")
        panels: Any = figure.subplots(1, len(series), squeeze=False)[0]
        for panel, (name, values) in zip(panels, series.items(), strict=True):
            counts = sorted(values)
            mean, spread = ([f(values[n]) for n in counts] for f in (np.mean, np.std))
            panel.bar(counts, mean, yerr=spread, color=look[name]["color"], capsize=3)
            panel.axhline(0.0, color="#555555", linewidth=1)
            panel.set_xticks(counts)
            panel.set(xlabel="agents", ylabel="%", title=titles[name])
        bars = "Bars: means over seeds; lines: one standard deviation to either side."
        write_note(figure, f"{bars} {note}".strip())
        return save(figure, stem)
