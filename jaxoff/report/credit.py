"""Figures and a CSV of the results of a reward decomposition, see `jaxoff.learners.credit`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.data.episodes import returns_of
from jaxoff.eval.statistics import bin_edges
from jaxoff.files import write_text
from jaxoff.learners.credit import Verdict, by_agent
from jaxoff.losses.credit import members_of
from jaxoff.report.figures import (
    COLOURS,
    PANEL,
    add_legend,
    label_of,
    panels_of,
    save,
    style,
)
from jaxoff.types import EnvSpec, Episodes

BINS = 40


def kind_of(number: int, spec: EnvSpec | None = None) -> str:
    """The name of a kind of agents, such as its unit; `type 1` where kinds have no names."""
    names = spec.type_names if spec else ()
    return names[number] if number < len(names) else f"type {number}"


def names_of(types: Sequence[int], spec: EnvSpec | None = None) -> list[str]:
    """A name for each agent: `agent 2`, or `agent 2, zealot` where there are several kinds."""
    several = len(set(types)) > 1
    kinds = [kind_of(kind, spec) for kind in types]
    return [f"agent {i}, {kind}" if several else f"agent {i}" for i, kind in enumerate(kinds)]


def draw(
    found: Verdict, stem: str | Path, spec: EnvSpec | None = None, title: str = ""
) -> list[Path]:
    """Draw the results of a reward decomposition.

    Panels: individual reward of each agent during the fit; priorities of the agents' trajectories,
    one panel per kind of agents; each agent's share of the draws and of the data. spec: has the
    names of the kinds.
    """
    names, groups = names_of(found.types, spec), members_of(found.types)
    with style() as new_figure:
        figure, (first, *middle, last) = panels_of(new_figure, 2 + len(groups), PANEL)
        reward_curves(first, found, names)
        for panel, members in zip(middle, groups, strict=True):
            priority_histogram(panel, found, members, names)
            if len(groups) > 1:
                panel.set_title(kind_of(found.types[int(members[0])], spec))
        _shares(last, found, names)
        lines = dict(zip(names, first.get_legend_handles_labels()[0], strict=True))
        note = "Bars at the end of the lines: two standard deviations over the ensemble."
        add_legend(figure, lines, note)
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
    """Histogram of the priorities of trajectories, for the agents of one kind."""
    edges, beyond = bin_edges(found.priority[:, members], BINS)
    for i in members.tolist():
        panel.hist(
            np.clip(found.priority[:, i], edges[0], edges[-1]),
            bins=edges,
            alpha=0.45,
            color=COLOURS[i % len(COLOURS)],
            label=names[i],
        )
    far = f"\n{beyond:,} beyond are in the outer bars" * (beyond > 0)
    panel.set(xlabel=f"priority of a trajectory{far}", ylabel="episodes")


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
    panel.set(ylabel="share of draws\n(grey: of the data)", xticks=place, ylim=(0, 1))
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
