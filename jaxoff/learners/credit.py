"""Credit assignment: the team's reward is decomposed into own rewards of agents, and every agent of
every episode is judged by its own rewards.

Needs nothing but the dataset. The fit is that of `jaxoff.learners.decomposition`; held-out episodes
measure how far it can be trusted. Own rewards are not unique: only their total is observed, so
credit can move between agents that always act together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxoff.config import check_number
from jaxoff.data.dataset import Dataset, place
from jaxoff.data.edit import unique_groups
from jaxoff.errors import InvalidSetting
from jaxoff.learners.decomposition import Decomposition, decomposition_learner, over_episodes
from jaxoff.losses.credit import (
    episode_means,
    members_of,
    moments,
    returns_to_go,
    trajectory_log_probs,
)
from jaxoff.optimisers import rmsprop
from jaxoff.types import Array, EnvSpec, Episodes, Key, Transition

REPORTS = 40  # number of times that the fit logs its metrics, at most


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the decomposition; defaults are those of Tian et al. (2023), Table 10, except for
    the batch: they draw episodes.
    """

    steps: int = 20000
    lr: float = 1e-4
    batch_size: int = 512  # single steps from any episodes, so that none is padding
    members: int = 5  # nets in the ensemble
    hidden: int = 64
    kind: str = "attention"
    gamma: float = 0.99
    alpha: float = 0.2  # temperature of the reported sampling probabilities
    priority_max: float = 20.0  # upper end of the range to which priorities are rescaled
    # share of a type's priorities clipped at each end of their range before rescaling
    priority_trim: float = 0.0
    held_out: float = 0.1  # share of the episodes that is held out of the fit


class Verdict(NamedTuple):
    """The result for E episodes of at most T steps and N agents, by M members. NumPy arrays."""

    reward: np.ndarray  # [E, T, N] own rewards, mean over members; 0 on padding
    spread: np.ndarray  # [E, T, N] standard deviation of own rewards over members
    # [E, N] mean over an episode's steps of the discounted own return to go
    priority: np.ndarray
    uncertainty: np.ndarray  # [E, N] standard deviation of the priority over members
    probability: np.ndarray  # [E, N] of being drawn among the trajectories of the agent's type
    member_means: np.ndarray  # [M, N] mean own reward per step, over all data
    lengths: np.ndarray  # [E] real steps
    held_out: np.ndarray  # [E] bool
    r2: float  # R^2 of the team's reward on the fitted episodes
    r2_held_out: float  # R^2 of the team's reward on the held-out episodes; NaN without any
    steps: np.ndarray  # [K] updates made at each log entry
    history: dict[str, np.ndarray]  # logged metrics, [K] each
    types: tuple[int, ...]


def check_settings(settings: Settings, seed: int) -> None:
    """Raise InvalidSetting for settings out of range."""
    check_number("seed", seed)
    for name, low in (("steps", 1), ("batch_size", 1), ("members", 1), ("hidden", 1)):
        if getattr(settings, name) < low:
            raise InvalidSetting(
                f"credit: field '{name}': expected at least {low}, found {getattr(settings, name)}"
            )
    if not 0 <= settings.priority_trim < 0.5:
        raise InvalidSetting(
            "credit: field 'priority_trim': expected a share in [0, 0.5), found "
            f"{settings.priority_trim}"
        )
    if not 0 <= settings.held_out < 1:
        raise InvalidSetting(
            f"credit: field 'held_out': expected a share in [0, 1), found {settings.held_out}"
        )


def judge(
    episodes: Episodes,
    spec: EnvSpec,
    settings: Settings = Settings(),
    *,
    seed: int = 0,
    one_type: bool = False,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Verdict:
    """Fit the decomposition on a dataset and judge each of its trajectories.

    one_type: compare all agents with each other, not only agents of the same type.
        progress(done, all, metrics) is called after each part of the fit.
    Raises InvalidSetting for settings out of range, InvalidEpisodes for bad data.
    """
    check_settings(settings, seed)
    model = Decomposition(spec, settings.members, settings.hidden, settings.kind)
    types = (0,) * spec.num_agents if one_type or not spec.agent_types else spec.agent_types
    held = _held_out(episodes, settings.held_out, seed)
    dataset = place(episodes, spec)
    rows = dataset.step_row[np.flatnonzero(~np.repeat(held, np.asarray(dataset.episode_length)))]
    params, history = _fit(model, dataset, rows, settings, jax.random.key(seed), progress)
    found = jax.tree.map(
        np.asarray,
        jax.jit(
            lambda p, d: over_episodes(d, lambda batch: _judged(model, p, batch, settings.gamma))
        )(params, dataset),
    )
    reward, spread, priority, sums, errors = found
    log_p = trajectory_log_probs(
        jnp.asarray(priority.mean(1)),
        types,
        settings.priority_max,
        settings.alpha,
        settings.priority_trim,
    )
    filled = np.asarray(episodes.filled, bool)[:, : dataset.max_length]
    real = np.asarray(episodes.reward, np.float64)[:, : dataset.max_length]

    def fitted(mask: np.ndarray) -> float:
        part = real[mask][filled[mask]]
        return (
            float(1 - errors[mask].sum() / max(len(part) * part.var(), 1e-12))
            if len(part)
            else float("nan")
        )

    return Verdict(
        reward=reward,
        spread=spread,
        priority=priority.mean(1),
        uncertainty=priority.std(1),
        probability=np.exp(np.asarray(log_p)),
        member_means=sums.sum(0) / filled.sum(),
        lengths=filled.sum(1),
        held_out=held,
        r2=fitted(~held),
        r2_held_out=fitted(held),
        steps=history.pop("steps"),
        history=history,
        types=tuple(types),
    )


def _held_out(episodes: Episodes, share: float, seed: int) -> np.ndarray:
    """[E] bool: about this share of the episodes; all copies of an episode are held out or none."""
    groups = unique_groups(episodes)
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    return np.isin(groups, order[np.cumsum(sizes[order]) <= share * len(groups)])


def _fit(
    model: Decomposition, dataset: Dataset, rows: Array, settings: Settings, key: Key, progress: Any
) -> tuple[Any, dict[str, np.ndarray]]:
    """Parameters after a fit to the steps at the given rows, and logged metrics: means over each of
    at most REPORTS parts of the fit.
    """
    learner = decomposition_learner(model, rmsprop(settings.lr, 10.0))
    size = -(-settings.steps // REPORTS)

    @jax.jit
    def part(state: Any, key: Key, dataset: Dataset, rows: Array) -> tuple[Any, dict[str, Array]]:
        def one(state: Any, key: Key) -> tuple[Any, dict[str, Array]]:
            batch = dataset.steps(
                rows[jax.random.randint(key, (settings.batch_size,), 0, len(rows))]
            )
            state, out = learner.update(state, batch, key)
            return state, out.metrics

        state, metrics = lax.scan(one, state, jax.random.split(key, size))
        return state, jax.tree.map(jnp.mean, metrics)

    start, walk = jax.random.split(key)
    state, history = jax.jit(learner.init)(start), []
    parts = -(-settings.steps // size)
    for number in range(parts):
        state, metrics = part(state, jax.random.fold_in(walk, number), dataset, rows)
        history.append(
            {"steps": size * (number + 1)} | {name: float(value) for name, value in metrics.items()}
        )
        if progress:
            progress(number + 1, parts, history[-1])
    return state.params, {name: np.array([row[name] for row in history]) for name in history[0]}


def _judged(
    model: Decomposition, params: Any, batch: Transition, gamma: float
) -> tuple[Array, ...]:
    """For episodes [C, T]: mean own rewards and their spread [C, T, N], each member's priorities
    and sums of own rewards [C, M, N], squared errors [C].
    """
    own, totals = model.predict(params, batch)
    own = own * batch.valid[..., None]
    mean, spread = moments(own)
    priority = jax.vmap(lambda x: episode_means(returns_to_go(x, batch.valid, gamma), batch.valid))(
        own
    )
    errors = jnp.sum(jnp.square(jnp.mean(totals, 0) - batch.reward) * batch.valid, 1)
    return mean, spread, jnp.moveaxis(priority, 0, 1), jnp.moveaxis(jnp.sum(own, 2), 0, 1), errors


class AgentCredit(NamedTuple):
    """The verdict on one agent, over a whole dataset."""

    agent: int
    type: int
    reward: float  # mean own reward per step
    reward_std: float  # standard deviation of that over members
    rank: int  # rank in its type by own reward; 1 is best
    agreement: float  # share of members that give it this rank
    priority: float  # mean over episodes
    drawn: float  # its share of the draws of its type
    data: float  # its share of the trajectories of its type


def by_agent(found: Verdict) -> list[AgentCredit]:
    """The verdict on each agent."""
    out = []
    for members in members_of(found.types):
        ranks = (-found.member_means[:, members]).argsort(1).argsort(1) + 1  # [M, members]
        overall = (-found.member_means[:, members].mean(0)).argsort().argsort() + 1
        for place_, agent in enumerate(members.tolist()):
            means = found.member_means[:, agent]
            agreement = float((ranks[:, place_] == overall[place_]).mean())
            drawn = float(found.probability[:, agent].sum())
            row = (
                found.types[agent],
                float(means.mean()),
                float(means.std()),
                int(overall[place_]),
                agreement,
            )
            out.append(
                AgentCredit(
                    agent, *row, float(found.priority[:, agent].mean()), drawn, 1 / len(members)
                )
            )
    return sorted(out, key=lambda row: row.agent)


def by_level(found: Verdict, levels: np.ndarray) -> list[dict[str, float]]:
    """For each type and each known behaviour level [E, N]: share of the data, share of the draws,
    mean priority and own reward.
    """
    rows, own = [], found.reward.sum(1) / found.lengths[:, None]
    for members in members_of(found.types):
        known = levels[:, members]
        for level in np.unique(known[known >= 0]).tolist():
            mask = known == level
            numbers = {"data": mask.mean(), "drawn": found.probability[:, members][mask].sum()}
            numbers |= {
                "priority": found.priority[:, members][mask].mean(),
                "own_reward": own[:, members][mask].mean(),
            }
            rows.append(
                {"type": found.types[members[0]], "level": level}
                | {name: float(x) for name, x in numbers.items()}
            )
    return rows


def effective_draws(found: Verdict) -> list[tuple[int, float, int]]:
    """(type, effective number of trajectories drawn, 1 / sum p^2, number of trajectories) of each
    type.
    """
    parts = [
        (found.types[members[0]], found.probability[:, members])
        for members in members_of(found.types)
    ]
    return [(kind, float(1 / np.square(p, dtype=np.float64).sum()), p.size) for kind, p in parts]
