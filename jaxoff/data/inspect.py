"""What is in a dataset: a table of numbers, and a page of plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.data.disk import statistics
from jaxoff.files import replacing
from jaxoff.types import EnvSpec, Episodes

_HASH_ROWS = 65536  # rows that are hashed at once, so that a large dataset needs little memory


def describe(episodes: Episodes, spec: EnvSpec) -> dict[str, Any]:
    """Numbers about a dataset.

    episodes, transitions, return_mean, return_std, return_min, return_max; length_mean, length_min,
    length_max; joint_saco, the share of distinct (state, joint action) rows among all, rounded to 4
    decimals, as OG-MARL counts them; share_terminated and share_truncated of episodes;
    behaviour_levels, for each agent a dictionary level -> episodes; and action_counts [N][A] where
    actions are discrete, else action_mean and action_std [N][A].
    """
    filled = np.asarray(episodes.filled, bool)
    lengths, actions = filled.sum(1), np.asarray(episodes.actions)[filled]  # [M, N] or [M, N, A]
    found: dict[str, Any] = statistics(episodes)
    found |= {"length_mean": float(lengths.mean()), "length_min": int(lengths.min()), "length_max": int(lengths.max())}
    found["joint_saco"] = _joint_saco(np.asarray(episodes.state)[:, :-1][filled], actions)
    for name in ("terminated", "truncated"):
        found[f"share_{name}"] = float((np.asarray(getattr(episodes, name), bool) & filled).any(1).mean())
    found["behaviour_levels"] = [_count(level) for level in np.asarray(episodes.behaviour_level).T]
    if spec.discrete:
        found["action_counts"] = [np.bincount(column, minlength=spec.action_size).tolist() for column in actions.T]
    else:
        found["action_mean"] = actions.mean(0, dtype=np.float64).tolist()
        found["action_std"] = actions.std(0, dtype=np.float64).tolist()
    return found


def _count(values: np.ndarray) -> dict[int, int]:
    return {int(value): int(count) for value, count in zip(*np.unique(values, return_counts=True), strict=True)}


def _joint_saco(state: np.ndarray, actions: np.ndarray) -> float:
    """Distinct rows of (state, joint action), by 64-bit hashes of their 4-decimal roundings, over all rows."""
    flat = actions.reshape(len(actions), -1)
    # A random odd factor a column; sums wrap around, and two different rows meet with chance about 2^-60.
    factors = np.random.default_rng(0).integers(2**63, size=state.shape[1] + flat.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty(len(flat), np.uint64)
    for start in range(0, len(flat), _HASH_ROWS):
        part = slice(start, start + _HASH_ROWS)
        rows = np.concatenate([state[part], flat[part]], 1, dtype=np.float64)
        hashes[part] = (np.rint(rows * 1e4).astype(np.int64).view(np.uint64) * factors).sum(1, dtype=np.uint64)
    return len(np.unique(hashes)) / len(flat)


def plot(episodes: Episodes, spec: EnvSpec, path: str | Path) -> None:
    """A page of plots as a PNG: returns (histogram, violin), lengths of episodes, actions.

    Actions: a heat map of joint actions where two agents choose among indices, a scatter plot where
    each of two chooses one real number, else the use of each action by each agent.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"{path}: expected a file name that ends in .png, found '{path.suffix}'")
    filled = np.asarray(episodes.filled, bool)
    returns = np.round(np.where(filled, np.asarray(episodes.reward), 0).astype(np.float64).sum(1), 6)
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    axes[0, 0].hist(returns, bins=40)
    axes[0, 0].set(xlabel="return", ylabel="episodes", title=f"{spec.name}: {len(returns):,} episodes")
    axes[0, 1].violinplot(returns, showmeans=True)
    axes[0, 1].set(ylabel="return", xticks=[])
    lengths = filled.sum(1)
    axes[1, 0].hist(lengths, bins=np.arange(lengths.min(), lengths.max() + 2) - 0.5 if np.ptp(lengths) < 100 else 40)
    axes[1, 0].set(xlabel="steps of an episode", ylabel="episodes")
    _plot_actions(figure, axes[1, 1], np.asarray(episodes.actions)[filled], spec)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _plot_actions(figure: Any, axis: Any, actions: np.ndarray, spec: EnvSpec) -> None:
    n, a = spec.num_agents, spec.action_size
    if not spec.discrete and (n, a) == (2, 1):
        some = actions[:: -(-len(actions) // 5000), :, 0]
        axis.scatter(some[:, 0], some[:, 1], s=4, alpha=0.5)
        axis.set(xlabel="action of agent 0", ylabel="action of agent 1")
        return
    if not spec.discrete:
        axis.violinplot(actions.reshape(len(actions), -1), showmeans=True)
        axis.set(xlabel="agent, dimension", ylabel="action", xticks=np.arange(n * a) + 1)
        axis.set_xticklabels([f"{i},{d}" for i in range(n) for d in range(a)], rotation=90 if n * a > 8 else 0)
        return
    if n == 2:
        share = np.bincount(actions[:, 0] * a + actions[:, 1], minlength=a * a).reshape(a, a)
        axis.set(xlabel="action of agent 1", ylabel="action of agent 0")
    else:
        share = np.stack([np.bincount(column, minlength=a) for column in actions.T])
        axis.set(xlabel="action", ylabel="agent")
    image = axis.imshow(share / len(actions), aspect="auto", vmin=0)
    axis.set(xticks=range(share.shape[1]), yticks=range(share.shape[0]))
    figure.colorbar(image, ax=axis, label="share of steps")
