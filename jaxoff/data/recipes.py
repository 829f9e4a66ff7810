"""Datasets made from a recipe: our environments stepped in jit by random, scripted or given policies.

`record` and `replay` turn any environment and any way to act into `Episodes`; the rest are the small
datasets of the papers. Every result is a function of its seed. Slots that are not `filled` are zero.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.games.bridge import make_bridge
from jaxoff.envs.games.matrix import XOR, make_matrix, mne
from jaxoff.envs.games.polynomial import GAMES, make_polynomial, peak
from jaxoff.types import Array, Env, EnvSpec, Episodes, Key, TimeStep

Act = Callable[[Key, TimeStep], Array]

_CHUNK = 2048  # episodes that are rolled at once

XOR_ACTIONS = {"a": [(0, 1)], "b": [(0, 1), (1, 0)], "c": [(0, 0), (0, 1), (1, 0)], "d": [(0, 0), (0, 1), (1, 0), (1, 1)]}
MNE_MARGINALS = {
    "balanced": (1 / 3, 1 / 3, 1 / 3),
    "imbalanced": (0.8, 0.1, 0.1),
    "imbalanced-0.9": (0.9, 0.05, 0.05),
    "imbalanced-0.98": (0.98, 0.01, 0.01),
}
BRIDGE_HORIZON = 50  # of data collection; evaluation has its own
BRIDGE_QUALITIES = ("optimal", "mixed", "random")
_OPPOSITE = np.array([0, 2, 1, 4, 3])  # of Bridge's stay, up, down, right, left
_NUMBER = r"(-?\d+(?:\.\d+)?)"
POLY_PATTERNS = {name: re.compile(text) for name, text in (
    ("origin", rf"origin-s{_NUMBER}"), ("peak", rf"peak-s{_NUMBER}"), ("normal", rf"normal-m{_NUMBER}-s{_NUMBER}"))}  # fmt: skip


# ------------------------------------------------------------------------------------- rolling an env


def record(env: Env, act: Act, count: int, key: Key) -> Episodes:
    """Roll `count` episodes with act(key, timestep) -> actions [N] or [N, A], which must be jittable.

    An episode lasts until the environment ends it, at most `spec.horizon` steps; one that is still
    running then is marked truncated. Returned as NumPy arrays, no longer than the longest episode.
    """
    return _roll_all(env, act, np.zeros((count, env.spec.horizon, 0), np.float32), key)


def replay(env: Env, actions: np.ndarray, key: Key) -> Episodes:
    """Step `env` with given actions [E, T, N] or [E, T, N, A], until it or they end (then: truncated)."""
    expected = env.spec.action_shape
    if actions.shape[2:] != expected:
        raise ValueError(f"actions: expected shape [E, T, {', '.join(map(str, expected))}], found {actions.shape}")
    return _roll_all(env, None, actions, key)


def random_actions(spec: EnvSpec) -> Act:
    """Uniformly random among available actions, or in [-bound, bound] where they are real."""

    def act(key: Key, timestep: TimeStep) -> Array:
        if spec.discrete:
            return jax.random.categorical(key, jnp.where(timestep.avail > 0, 0.0, -jnp.inf))
        return jax.random.uniform(key, spec.action_shape, minval=-spec.action_bound, maxval=spec.action_bound)

    return act


def _roll_all(env: Env, act: Act | None, script: np.ndarray, key: Key) -> Episodes:
    if script.shape[0] < 1 or script.shape[1] < 1:
        raise ValueError(f"episodes: expected at least one, of at least one step, found shape {script.shape[:2]}")
    keys = jax.random.split(key, script.shape[0])
    return trim(jax.tree.map(np.asarray, _roll_chunks(env, act, keys, jnp.asarray(script))))


@functools.partial(jax.jit, static_argnames=("env", "act"))
def _roll_chunks(env: Env, act: Act | None, keys: Key, script: Array) -> Episodes:
    return jax.lax.map(lambda x: _roll(env, act, *x), (keys, script), batch_size=min(_CHUNK, len(keys)))


def _roll(env: Env, act: Act | None, key: Key, script: Array) -> Episodes:
    """One episode of script.shape[0] slots, by `act` or by the script; what comes after its end is zero."""
    spec = env.spec
    reset_key, *keys = jax.random.split(key, 3)
    state, first = env.reset(reset_key)
    steps = script.shape[0]

    def step(carry, x):
        state, timestep, alive = carry
        act_key, step_key, scripted, last = x
        actions = (act(act_key, timestep) if act else scripted).astype(jnp.int32 if spec.discrete else jnp.float32)
        state, after = env.step(step_key, state, actions)
        ended = after.terminated | after.truncated
        truncated = after.truncated & ~after.terminated | last & ~ended
        row = (after.obs, after.state, after.avail, actions, after.reward, after.terminated, truncated, jnp.ones((), bool))
        row = jax.tree.map(lambda v: jnp.where(alive, v, jnp.zeros_like(v)), row)
        return (state, after, alive & ~ended), row

    xs = (jax.random.split(keys[0], steps), jax.random.split(keys[1], steps), script, jnp.arange(steps) == steps - 1)
    _, (obs, states, avail, actions, reward, terminated, truncated, filled) = jax.lax.scan(step, (state, first, jnp.ones((), bool)), xs)
    front = lambda a, b: jnp.concatenate([a[None], b])  # noqa: E731
    level = jnp.full((spec.num_agents,), -1, jnp.int32)
    slots = front(first.obs, obs), front(first.state, states), front(first.avail, avail)
    return Episodes(*slots, actions, reward, terminated, truncated, filled, level)


# ---------------------------------------------------------------------------------- parts of a dataset


def lengths_of(episodes: Episodes) -> np.ndarray:
    """Real steps of each episode, [E] int."""
    return np.asarray(episodes.filled).astype(bool).sum(1)


def _resize(episodes: Episodes, steps: int) -> Episodes:
    def fit(name: str, x: np.ndarray) -> np.ndarray:
        if name == "behaviour_level":
            return np.asarray(x)
        size = steps + (name in ("obs", "state", "avail"))
        x = np.asarray(x)[:, :size]
        return np.pad(x, [(0, 0), (0, size - x.shape[1])] + [(0, 0)] * (x.ndim - 2))

    return Episodes(**{name: fit(name, x) for name, x in episodes._asdict().items()})


def trim(episodes: Episodes) -> Episodes:
    """Without the padding that no episode needs."""
    return _resize(episodes, int(lengths_of(episodes).max()))


def cut(episodes: Episodes, steps: int) -> Episodes:
    """At most the first `steps` steps of each episode; those that lose their end are marked truncated."""
    if steps < 1:
        raise ValueError(f"cut: expected at least one step, found {steps}")
    lost = lengths_of(episodes) > steps
    short = _resize(episodes, min(steps, episodes.reward.shape[1]))
    truncated = short.truncated.copy()
    truncated[lost, -1] = True
    return short._replace(truncated=truncated)


def concatenate(parts: Sequence[Episodes]) -> Episodes:
    """Datasets one after the other, padded to the longest."""
    steps = max(part.reward.shape[1] for part in parts)
    return Episodes(*(np.concatenate(fields) for fields in zip(*(_resize(part, steps) for part in parts), strict=True)))


def take(episodes: Episodes, index: np.ndarray) -> Episodes:
    """The episodes of an index [K]."""
    return Episodes(*(np.asarray(x)[index] for x in episodes))


def with_level(episodes: Episodes, level: int) -> Episodes:
    """Mark every agent of every episode with a behaviour level."""
    return episodes._replace(behaviour_level=np.full_like(episodes.behaviour_level, level))


# ------------------------------------------------------------------------------- datasets of the papers


def xor(quality: str, seed: int = 0, episodes: int | None = None) -> Episodes:
    """XOR of InSPO (Liu et al., 2025), table 1: each listed joint action equally often, shuffled.

    episodes: default 1000, rounded down to a multiple of the number of joint actions.
    """
    listed = np.array(XOR_ACTIONS[quality], np.int32)
    each = _count(episodes, 1000, at_least=len(listed)) // len(listed)
    joint = np.random.default_rng(seed).permutation(np.repeat(listed, each, 0))
    return with_level(replay(make_matrix("xor", XOR), joint[:, None], jax.random.key(seed)), 0)


def mne_samples(quality: str, offdiag: float = 0.0, seed: int = 0, episodes: int | None = None) -> Episodes:
    """M-NE of InSPO, table 2: independent draws of both agents from one marginal; default 10 000."""
    count = _count(episodes, 10_000)
    joint = np.random.default_rng(seed).choice(3, size=(count, 1, 2), p=MNE_MARGINALS[quality]).astype(np.int32)
    return with_level(replay(make_matrix("mne", mne(offdiag)), joint, jax.random.key(seed)), 0)


def bridge_script(count: int, seed: int) -> np.ndarray:
    """Actions [E, 8, 2] of the solutions of Bridge that the public `optimal` data hold.

    Who crosses first is drawn uniformly, as is where the other one steps aside (the far cell, up or
    down of its side column), and then which of the equally short ways. A finished agent acts at random.
    """
    rng = np.random.default_rng(seed)
    up, down, right, left = 1, 2, 3, 4
    aside = rng.choice([left, up, down], count)  # agent 0 waits; turned round below for agent 1
    by_row = rng.random((2, count)) < 0.5  # of each agent: its last two steps begin with the vertical one
    by_row[1] = np.where(aside == left, True, np.where(aside == up, False, by_row[1]))  # not into the other's cell
    script = rng.integers(5, size=(count, 8, 2)).astype(np.int32)
    script[:, :6, 0] = np.stack([np.full(count, left), aside, _OPPOSITE[aside], *[np.full(count, right)] * 3], 1)
    script[:, 6:, 0] = np.where(by_row[0][:, None], [down, right], [right, down])
    script[:, :2, 1] = left
    script[:, 2:4, 1] = np.where(by_row[1][:, None], [up, left], [left, up])
    turn = rng.random(count) < 0.5  # the map turned by half a circle exchanges the agents
    script[turn] = _OPPOSITE[script[turn]][:, :, ::-1]
    return script


def bridge(quality: str, seed: int = 0, episodes: int | None = None) -> Episodes:
    """Bridge of AlberDICE (Matsunaga et al., 2023), collected with 50 steps at most.

    optimal: 500 episodes of `bridge_script`, level 1. random: 500 of uniformly random actions, level 0.
    mixed: 1000, random ones and then optimal ones, half each. The time limit is terminal, as there.
    """
    if quality == "mixed":
        count = _count(episodes, 1000, at_least=2)
        return concatenate([bridge("random", seed, count - count // 2), bridge("optimal", seed, count // 2)])
    count, env, key = _count(episodes, 500), make_bridge(horizon=BRIDGE_HORIZON), jax.random.key(seed)
    if quality == "random":
        return with_level(record(env, random_actions(env.spec), count, key), 0)
    if quality != "optimal":
        raise ValueError(f"bridge: expected one of {', '.join(BRIDGE_QUALITIES)}, found '{quality}'")
    return with_level(replay(env, bridge_script(count, seed), key), 1)


def parse_polynomial(game: str, quality: str) -> tuple[float, float] | None:
    """Mean and standard deviation of a Gaussian quality; None for `uniform`. Raises ValueError otherwise.

    Qualities: uniform, normal-m<mean>-s<sigma>, and for twin_peaks origin-s<sigma>, peak-s<sigma>.
    """
    if quality == "uniform":
        return None
    for kind, pattern in POLY_PATTERNS.items():
        found = pattern.fullmatch(quality)
        if found and (kind == "normal" or game == "twin_peaks"):
            mean = {"origin": 0.0, "peak": peak()}.get(kind, float(found[1]))
            sigma = float(found.groups()[-1])
            if sigma >= 0:
                return mean, sigma
    raise ValueError(f"poly/{game}: '{quality}' is no quality")


def polynomial(game: str, quality: str, seed: int = 0, episodes: int | None = None) -> Episodes:
    """Polynomial games of Tilbury et al. (2024), sections 3 and 4: 512 joint actions of one step.

    uniform: each action ~ U(-1, 1); for `sign` the sample is moved so that its mean is (-0.02, 0.04),
    as in their figure 3. Gaussian qualities are not clipped: that would change their moments.
    """
    rng, count = np.random.default_rng(seed), _count(episodes, 512)
    moments = parse_polynomial(game, quality)
    joint = rng.uniform(-1, 1, (count, 2)) if moments is None else rng.normal(*moments, (count, 2))
    if game == "sign" and moments is None:
        joint += np.array([-0.02, 0.04]) - joint.mean(0)
    script = joint.astype(np.float32)[:, None, :, None]  # [E, 1, N, A]
    return with_level(replay(make_polynomial(game, GAMES[game]), script, jax.random.key(seed)), 0)


def _count(episodes: int | None, default: int, at_least: int = 1) -> int:
    count = default if episodes is None else episodes
    if count < at_least:
        raise ValueError(f"episodes: expected at least {at_least}, found {count}")
    return count
