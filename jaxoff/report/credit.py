"""Figures and a CSV of the results of a reward decomposition, see `jaxoff.learners.credit`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.data.episodes import returns_of
from jaxoff.files import write_text
from jaxoff.learners.credit import Verdict, by_agent
from jaxoff.losses.credit import members_of
from jaxoff.report.figures import COLOURS, PANEL, label_of, save, style
from jaxoff.types import Episodes

BINS = 40


def names_of(types: Sequence[int]) -> list[str]:
    """A name for each agent: `agent 2`, or `agent 2, type 1` where there are several types."""
    several = len(set(types)) > 1
    return [f"agent {i}, type {kind}" if several else f"agent {i}" for i, kind in enumerate(types)]


def draw(
    found: Verdict, stem: str | Path, names: Sequence[str] = (), title: str = ""
) -> list[Path]:
    """Draw the results of a reward decomposition.

    Panels: individual reward of each agent during the fit; priorities of the agents' trajectories,
    one panel per type; each agent's share of the draws and of the data.
    """
    names, groups = list(names) or names_of(found.types), members_of(found.types)
    with style() as new_figure:
        figure = new_figure(
            figsize=(PANEL[0] * (2 + len(groups)), PANEL[1] + 0.5), layout="constrained"
        )
        first, *middle, last = figure.subplots(1, 2 + len(groups))
        reward_curves(first, found, names)
        for panel, members in zip(middle, groups, strict=True):
            priority_histogram(panel, found, members, names)
        _shares(last, found, names)
        figure.legend(
            *first.get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(names))
        )
        figure.suptitle(label_of(title))
        return save(figure, stem)


def reward_curves(panel: Any, found: Verdict, names: Sequence[str]) -> None:
    """Mean individual reward of each agent during the fit.

    Error bars at the end are two standard deviations over the ensemble's members to either side.
    """
    for i, name in enumerate(names):
        panel.plot(
            found.steps,
            found.history[f"own_reward_{i}"],
            label=name,
            color=COLOURS[i % len(COLOURS)],
        )
        means = found.member_means[:, i]
        panel.errorbar(
            found.steps[-1],
            means.mean(),
            2 * means.std(),
            color=COLOURS[i % len(COLOURS)],
            capsize=2,
            linewidth=1,
        )
    panel.set(xlabel="updates of the decomposition", ylabel="own reward a step")


def priority_histogram(
    panel: Any, found: Verdict, members: np.ndarray, names: Sequence[str]
) -> None:
    """Histogram of the priorities of trajectories, for the agents of one type."""
    values = found.priority[:, members]
    edges = np.linspace(values.min(), values.max() + 1e-6, BINS + 1)
    for i in members.tolist():
        panel.hist(
            found.priority[:, i],
            bins=edges,
            alpha=0.45,
            color=COLOURS[i % len(COLOURS)],
            label=names[i],
        )
    panel.set(xlabel="priority of a trajectory", ylabel="episodes")


def _shares(panel: Any, found: Verdict, names: Sequence[str]) -> None:
    rows = by_agent(found)
    place = np.arange(len(rows))
    panel.bar(place - 0.2, [row.data for row in rows], 0.4, color="#bbbbbb", label="of the data")
    panel.bar(
        place + 0.2,
        [row.drawn for row in rows],
        0.4,
        color=[COLOURS[i % len(COLOURS)] for i in place],
    )
    panel.set(ylabel="share of draws (of data: grey)", xticks=place, ylim=(0, 1))
    panel.set_xticklabels([str(row.agent) for row in rows])
    panel.set_xlabel("agent")


def write_trajectories(found: Verdict, episodes: Episodes, path: str | Path) -> Path:
    """Write a CSV with a line for every agent of every episode.

    A line has the agent's individual return, its uncertainty, and the probability of being drawn.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "episode",
            "agent",
            "type",
            "level",
            "held_out",
            "steps",
            "team_return",
            "own_return",
            "priority",
            "uncertainty",
            "probability",
        ]
    )
    lengths, returns, own = found.lengths, returns_of(episodes), found.reward.sum(1)
    levels = np.asarray(episodes.behaviour_level)
    for episode, agent in np.ndindex(*found.priority.shape):
        numbers = (
            returns[episode],
            own[episode, agent],
            *(x[episode, agent] for x in (found.priority, found.uncertainty, found.probability)),
        )
        level = levels[episode, agent] if levels[episode, agent] >= 0 else ""
        kind, held = found.types[agent], int(found.held_out[episode])
        writer.writerow(
            [episode, agent, kind, level, held, lengths[episode], *(f"{x:.6g}" for x in numbers)]
        )
    return write_text(Path(path), out.getvalue())
