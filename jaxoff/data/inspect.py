"""The contents of a dataset: a table of numbers, and a page of plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.data.dataset import estimate_bytes
from jaxoff.data.disk import statistics
from jaxoff.data.edit import unique_groups
from jaxoff.data.episodes import lengths_of, returns_of
from jaxoff.eval.statistics import bin_edges
from jaxoff.files import replacing
from jaxoff.runtime import needs
from jaxoff.types import EnvSpec, Episodes

_HASH_ROWS = 65536  # rows that are hashed at once, so that a large dataset needs little memory
_DRAWN = 5000  # largest number of steps whose actions are plotted
# colours of the behaviour levels -1 (unknown), 0, 1, ...
_LEVEL_COLOURS = ("#bbbbbb", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


# ----------------------------------------------------------------------------------------- numbers


def describe(
    episodes: Episodes, spec: EnvSpec, won: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, Any]:
    """Statistics of a dataset, by name.

    episodes, transitions: their numbers. return_mean, return_std, return_min, return_max;
    length_mean, length_min, length_max: over episodes. win_rate: only with `won`, an environment's
    function from global states to victories. joint_saco: the share of distinct (state, joint
    action) rows among all rows, rounded to 4 decimals, as OG-MARL counts them. unique_episodes: the
    share of episodes that are not copies of an earlier episode. share_terminated, share_truncated:
    shares of episodes. device_mb: the size on a device with float32 observations, in 10^6 bytes.
    behaviour_levels: for each agent a dictionary level -> number of episodes. action_counts [N][A]
    for discrete actions, else action_mean and action_std [N][A].
    """
    filled = np.asarray(episodes.filled, bool)
    # [M, N] or [M, N, A]
    lengths, actions = lengths_of(episodes), np.asarray(episodes.actions)[filled]
    found: dict[str, Any] = statistics(episodes)
    found |= {
        "length_mean": float(lengths.mean()),
        "length_min": int(lengths.min()),
        "length_max": int(lengths.max()),
    }
    if won is not None:
        found["win_rate"] = win_rate(episodes, won)
    found["joint_saco"] = joint_saco(episodes)
    found["unique_episodes"] = (int(unique_groups(episodes).max()) + 1) / len(lengths)
    for name in ("terminated", "truncated"):
        found[f"share_{name}"] = float(
            (np.asarray(getattr(episodes, name), bool) & filled).any(1).mean()
        )
    found["device_mb"] = estimate_bytes(episodes, spec) / 1e6
    found["behaviour_levels"] = [_count(level) for level in np.asarray(episodes.behaviour_level).T]
    if spec.discrete:
        found["action_counts"] = [
            np.bincount(column, minlength=spec.action_size).tolist() for column in actions.T
        ]
    else:
        found["action_mean"] = actions.mean(0, dtype=np.float64).tolist()
        found["action_std"] = actions.std(0, dtype=np.float64).tolist()
    return found


def _count(values: np.ndarray) -> dict[int, int]:
    return {
        int(value): int(count)
        for value, count in zip(*np.unique(values, return_counts=True), strict=True)
    }


def win_rate(episodes: Episodes, won: Callable[[np.ndarray], np.ndarray]) -> float:
    """The share of episodes that ended in a global state that `won` counts as a victory."""
    lengths = lengths_of(episodes)
    each = np.arange(len(lengths))
    ended = (
        np.asarray(episodes.terminated)[each, lengths - 1]
        | np.asarray(episodes.truncated)[each, lengths - 1]
    )
    return float((ended & np.asarray(won(np.asarray(episodes.state)[each, lengths]))).mean())


def joint_saco(episodes: Episodes) -> float:
    """The share of distinct (state, joint action) rows among all rows.

    Rows are rounded to 4 decimals and compared by 64-bit hashes.
    """
    state, actions, filled = (
        np.asarray(episodes.state),
        np.asarray(episodes.actions),
        np.asarray(episodes.filled, bool),
    )
    width = state.shape[2] + int(np.prod(actions.shape[2:]))
    # The hash is a sum of columns times random odd factors, modulo 2^64; two different rows collide
    # with probability about 2^-60.
    factors = np.random.default_rng(0).integers(2**63, size=width, dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    hashes, each = [], max(1, _HASH_ROWS // filled.shape[1])
    for first in range(0, len(filled), each):
        part = slice(first, first + each)
        real = filled[part]
        taken = actions[part][real]
        rows = np.concatenate(
            [state[part, :-1][real], taken.reshape(len(taken), -1)], 1, dtype=np.float64
        )
        scaled = np.rint(rows * 1e4)
        fits = np.abs(scaled) < 2.0**63
        whole = np.where(fits, scaled, 0).astype(np.int64).view(np.uint64)
        whole = np.where(fits, whole, rows.view(np.uint64))  # huge numbers by their bits
        hashes.append((whole * factors).sum(1, dtype=np.uint64))
    flat = np.concatenate(hashes)
    return len(np.unique(flat)) / len(flat)


# ---------------------------------------------------------------------------------------- pictures


def plot(
    episodes: Episodes, spec: EnvSpec, path: str | Path, kinds: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write a page of plots, as a PNG and an SVG beside it, and return the two paths.

    kinds: what is written, where not both are wanted.

    The page shows returns (histogram and violin plot), lengths of episodes, and actions: a heat map
    of joint actions for two agents with discrete actions, a scatter plot for two agents with one
    real action each, else the use of each action by each agent. Where behaviour levels are known,
    it also shows the share of episodes by level for each agent.
    """
    with needs("figures"):
        import matplotlib
        from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"{path}: expected a file name that ends in .png, found '{path.suffix}'")
    returns, lengths = np.round(returns_of(episodes), 6), lengths_of(episodes)
    levels = np.asarray(episodes.behaviour_level)
    known = bool((levels >= 0).any())
    with matplotlib.rc_context({"svg.hashsalt": "jaxoff", "svg.fonttype": "none"}):
        figure = Figure(figsize=(12 if known else 9, 7), layout="constrained")
        axes = figure.subplot_mosaic(
            [["returns", "violin", "levels"], ["lengths", "actions", "actions"]]
            if known
            else [["returns", "violin"], ["lengths", "actions"]]
        )
        edges, beyond = bin_edges(returns, 40)
        axes["returns"].hist(np.clip(returns, edges[0], edges[-1]), bins=edges.tolist())
        axes["returns"].set(
            xlabel="return" + f"; the {beyond:,} beyond are in the outer bars" * (beyond > 0),
            ylabel="episodes",
            title=f"{spec.name}: {len(returns):,} episodes".replace("$", r"\$"),
        )
        axes["violin"].violinplot(returns, showmeans=True)
        axes["violin"].set(ylabel="return", xticks=[])
        each = (np.arange(lengths.min(), lengths.max() + 2) - 0.5).tolist()
        axes["lengths"].hist(lengths, bins=each if np.ptp(lengths) < 100 else 40)
        axes["lengths"].set(xlabel="steps of an episode", ylabel="episodes")
        _plot_actions(
            figure,
            axes["actions"],
            np.asarray(episodes.actions)[np.asarray(episodes.filled, bool)],
            spec,
        )
        if known:
            _plot_levels(axes["levels"], levels)
        paths = []
        nothing = {"png": {"Software": None}, "svg": {"Date": None}}  # files equal for equal data
        for kind, metadata in ((kind, nothing[kind]) for kind in kinds):
            paths.append(path.with_suffix(f".{kind}"))
            with replacing(paths[-1]) as temporary:
                figure.savefig(temporary, dpi=120, format=kind, metadata=metadata)
    return paths


def _plot_levels(axis: Any, levels: np.ndarray) -> None:
    agents, bottom = np.arange(levels.shape[1]), np.zeros(levels.shape[1])
    for level in np.unique(levels):
        share = (levels == level).mean(0)
        colour = _LEVEL_COLOURS[(int(level) + 1) % len(_LEVEL_COLOURS)]
        axis.bar(
            agents,
            share,
            bottom=bottom,
            color=colour,
            label="unknown" if level < 0 else f"level {level}",
        )
        bottom += share
    axis.set(xlabel="agent", ylabel="share of episodes", xticks=agents, ylim=(0, 1))
    axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, title="behaviour"
    )


def _plot_actions(figure: Any, axis: Any, actions: np.ndarray, spec: EnvSpec) -> None:
    n, a = spec.num_agents, spec.action_size
    some = actions[:: -(-len(actions) // _DRAWN)]
    if not spec.discrete and (n, a) == (2, 1):
        axis.scatter(some[:, 0, 0], some[:, 1, 0], s=4, alpha=0.5)
        axis.set(xlabel="action of agent 0", ylabel="action of agent 1")
        return
    if not spec.discrete:
        axis.violinplot(some.reshape(len(some), -1), showmeans=True)
        axis.set(xlabel="agent, dimension", ylabel="action", xticks=np.arange(n * a) + 1)
        axis.set_xticklabels(
            [f"{i},{d}" for i in range(n) for d in range(a)], rotation=90 if n * a > 8 else 0
        )
        return
    if n == 2:
        share = np.bincount(actions[:, 0] * a + actions[:, 1], minlength=a * a).reshape(a, a)
        axis.set(xlabel="action of agent 1", ylabel="action of agent 0")
    else:
        share = np.stack([np.bincount(column, minlength=a) for column in actions.T])
        axis.set(xlabel="action", ylabel="agent")
    image = axis.imshow(share / len(actions), aspect="auto", vmin=0)
    each = [range(0, count, -(-count // 25)) for count in share.shape]  # so that none overlap
    axis.set(xticks=each[1], yticks=each[0])
    figure.colorbar(image, ax=axis, label="share of steps")
