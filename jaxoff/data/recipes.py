"""Datasets made from a recipe: environments stepped in jit by random, scripted or given policies.

`record` plays a policy in any environment, `replay` plays given actions, and both return
`Episodes`; the other functions make the small datasets of the papers. Every result depends only on
its seed. Slots that are not `filled` are zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff import blocks, distributions
from jaxoff.data.episodes import concatenate, cut, fill, trim, with_level, zeros
from jaxoff.data.games import BRIDGE_QUALITIES, MNE_MARGINALS, XOR_ACTIONS, parse_polynomial
from jaxoff.envs.base import GameEnv
from jaxoff.envs.games.bridge import make_bridge
from jaxoff.envs.games.matrix import XOR, mne
from jaxoff.envs.games.polynomial import GAMES, make_polynomial
from jaxoff.envs.rolling import Trace, bounded, play
from jaxoff.errors import InvalidSetting
from jaxoff.types import Array, Carry, Distribution, Env, EnvSpec, Episodes, Key, Policy, TimeStep

Progress = Callable[[int, int], None]  # called with (episodes done, all episodes)

_CHUNK = 2048  # maximum number of episodes that are played at once
_CPU_CHUNK = 128  # the same on a CPU: a chunk is played until its longest episode ends
_CHUNK_BYTES = 2**29  # approximate maximum size of their arrays

BRIDGE_HORIZON = 50  # time limit in data collection; evaluation has another one
_OPPOSITE = np.array([0, 2, 1, 4, 3])  # opposites of Bridge's stay, up, down, right, left


# ------------------------------------------------------------------------- playing an environment


def record(
    env: Env,
    policy: Policy,
    count: int,
    key: Key,
    *,
    memory: Carry = None,
    noise: float | None = None,
    progress: Progress | None = None,
) -> Episodes:
    """Play `count` episodes of a policy, of at most `spec.horizon` steps each.

    The result is in NumPy arrays, padded to the longest episode. memory: the policy's memory before
    the first step, a tree of [count, ...]; None stands for policy.initial. noise: standard
    deviation of Gaussian noise on the policy's mode, as a share of the action bound, with actions
    clipped to the bound; None samples actions from the policy instead. progress(done, count) is
    called after each chunk of episodes. Every episode has its own random key, so it does not depend
    on how many episodes are played at once.
    """
    if count < 1:
        raise InvalidSetting(f"episodes: expected at least one, found {count}")
    memory = policy.initial((count,)) if memory is None else memory
    keys, chunk = jax.random.split(key, count), _chunk(env.spec, count)
    whole: Any = None
    for first in range(0, count, chunk):
        # A smaller last chunk is filled up with the first episodes again, so that all chunks are of
        # one size and use one compiled program.
        index = np.arange(first, first + chunk) % count
        played = _play(
            env,
            policy.distribution,
            noise,
            keys[index],
            jax.tree.map(lambda x, i=index: x[i], memory),
        )
        played = jax.tree.map(lambda x, most=count - first: np.asarray(x)[:most], played)
        whole = (
            jax.tree.map(lambda x: zeros((count, *x.shape[1:]), x.dtype), played)
            if whole is None
            else whole
        )
        fill(whole, first, played)
        if progress:
            progress(min(first + chunk, count), count)
    return trim(whole)


def replay(env: Env, actions: np.ndarray, key: Key, progress: Progress | None = None) -> Episodes:
    """Step `env` with given actions [E, T, N] or [E, T, N, A].

    An episode whose actions end before the environment ends it is marked truncated.
    """
    expected = env.spec.action_shape
    if actions.shape[2:] != expected:
        raise InvalidSetting(
            f"actions: expected shape [E, T, {', '.join(map(str, expected))}], found "
            f"{actions.shape}"
        )
    steps = min(actions.shape[1], env.spec.horizon)
    padded = np.zeros((len(actions), env.spec.horizon, *expected), actions.dtype)
    padded[:, :steps] = actions[:, :steps]
    memory = np.zeros(len(actions), np.int32), padded
    played = record(env, _SCRIPT, len(actions), key, memory=memory, progress=progress)
    return cut(played, steps)


def paid(payoff: np.ndarray, joint: np.ndarray, progress: Progress | None = None) -> Episodes:
    """What `replay` makes of joint actions [E, N] in a matrix game of one play, without JAX."""
    count, agents, yes = *joint.shape, np.ones((len(joint), 1), bool)
    if progress:
        progress(count, count)
    return Episodes(
        obs=np.ones((count, 2, agents, 1), np.float32),
        state=np.ones((count, 2, 1), np.float32),
        avail=np.ones((count, 2, agents, len(payoff)), np.float32),
        actions=joint[:, None].astype(np.int32),
        reward=payoff[tuple(joint.T)][:, None],
        terminated=yes,
        truncated=~yes,
        filled=yes,
        behaviour_level=np.full((count, agents), -1, np.int32),
    )


def _script_step(
    memory: tuple[Array, Array], seen: TimeStep
) -> tuple[tuple[Array, Array], Distribution]:
    time, actions = memory
    return (time + 1, actions), distributions.deterministic(actions[time])


_SCRIPT = Policy(lambda shape: (), _script_step)


@functools.cache
def random_policy(spec: EnvSpec) -> Policy:
    """The policy that is uniform over available actions, or over [-bound, bound] for real ones."""

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
        if spec.discrete:
            return memory, distributions.categorical(jnp.where(seen.avail > 0, 0.0, -jnp.inf))
        bound = jnp.full(seen.avail.shape, spec.action_bound)
        return memory, distributions.uniform(-bound, bound)

    return Policy(lambda shape: (), distribution)


@functools.cache
def scripted_policy(env: GameEnv) -> Policy:
    """The policy that takes the actions of the environment's script (`GameEnv.script`)."""
    script: Any = env.script

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
        return memory, distributions.deterministic(script(seen))

    return Policy(lambda shape: (), distribution)


def _chunk(spec: EnvSpec, count: int) -> int:
    """Number of episodes to play at once, so that their padded arrays take about _CHUNK_BYTES."""
    slot = spec.num_agents * (spec.obs_size + 2 * spec.action_size + 1) + spec.state_size + 4
    most = min(_CHUNK, _CPU_CHUNK) if blocks.fits_cache() else _CHUNK
    return max(1, min(count, most, _CHUNK_BYTES // (4 * slot * (spec.horizon + 1))))


@functools.partial(jax.jit, static_argnames=("env", "distribution", "noise"))
def _play(env: Env, distribution: Any, noise: float | None, keys: Key, memory: Carry) -> Episodes:
    """Episodes of `horizon` slots, one per key and memory; slots after an end are zero."""
    spec = env.spec
    reset_keys, act_keys, step_keys = jnp.moveaxis(
        jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0
    )
    act_keys, step_keys = (
        jax.vmap(lambda key: jax.random.split(key, spec.horizon), out_axes=1)(k)
        for k in (act_keys, step_keys)
    )

    def act_one(memory: Carry, seen: TimeStep, key: Key) -> tuple[Carry, Array]:
        memory, dist = distribution(memory, seen)
        if noise is None:
            actions = dist.sample(seed=key)
        else:
            mode = dist.mode()
            actions = bounded(
                spec, mode + noise * spec.action_bound * jax.random.normal(key, mode.shape)
            )
        return memory, actions.astype(jnp.int32 if spec.discrete else jnp.float32)

    def keep(trace: Trace) -> tuple[Any, ...]:
        after = trace.after
        ends = after.terminated, after.truncated & ~after.terminated
        row = (
            after.obs,
            after.state,
            after.avail,
            trace.actions,
            after.reward,
            *ends,
            trace.alive,
            after.agent_reward,
        )
        return jax.tree.map(
            lambda x: jnp.where(trace.alive.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x)),
            row,
        )

    def keys_of(t: Array) -> tuple[Key, Key]:
        return act_keys[t], step_keys[t]

    first, rows = play(env, jax.vmap(act_one), memory, reset_keys, keys_of, keep)
    obs, states, avail, actions, reward, terminated, truncated, filled, own = jax.tree.map(
        lambda x: jnp.moveaxis(x, 0, 1), rows
    )
    # An episode that has not ended after `horizon` steps is ended by the time limit.
    ongoing = filled[:, -1] & ~terminated[:, -1]
    truncated = truncated.at[:, -1].set(ongoing)
    front = lambda a, b: jnp.concatenate([a[:, None], b], 1)
    slots = front(first.obs, obs), front(first.state, states), front(first.avail, avail)
    level = jnp.full((keys.shape[0], spec.num_agents), -1, jnp.int32)
    fields: Any = (*slots, actions, reward, terminated, truncated, filled, level, own)
    return Episodes(*fields)  # device arrays, which `record` brings to the host


# -------------------------------------------------------------------------- datasets of the papers


def xor(
    quality: str, seed: int = 0, episodes: int | None = None, progress: Progress | None = None
) -> Episodes:
    """XOR of InSPO (Liu et al., 2025), table 1: each listed joint action equally often, shuffled.

    episodes: by default 1000, rounded down to a multiple of the number of joint actions.
    """
    listed = np.array(XOR_ACTIONS[quality], np.int32)
    each = _count(episodes, 1000, at_least=len(listed)) // len(listed)
    joint = np.random.default_rng(seed).permutation(np.repeat(listed, each, 0))
    return with_level(paid(XOR, joint, progress), 0)


def mne_samples(
    quality: str,
    offdiag: float = 0.0,
    seed: int = 0,
    episodes: int | None = None,
    progress: Progress | None = None,
) -> Episodes:
    """M-NE of InSPO, table 2: both agents' actions are drawn independently from one marginal.

    episodes: by default 10 000.
    """
    count = _count(episodes, 10_000)
    joint = (
        np.random.default_rng(seed)
        .choice(3, size=(count, 2), p=MNE_MARGINALS[quality])
        .astype(np.int32)
    )
    return with_level(paid(mne(offdiag), joint, progress), 0)


def bridge_script(count: int, seed: int) -> np.ndarray:
    """Actions [E, 8, 2] of the solutions of Bridge that the public `optimal` data hold.

    The agent that crosses first is drawn uniformly, as are the cell where the other one steps aside
    (the far cell, up or down of its side column) and the route among the equally short ones. An
    agent that has reached its goal acts at random.
    """
    rng = np.random.default_rng(seed)
    up, down, right, left = 1, 2, 3, 4
    aside = rng.choice([left, up, down], count)  # agent 0 steps aside; below, half are turned round
    # for each agent: whether the vertical one of its last two steps comes first
    by_row = rng.random((2, count)) < 0.5
    # agent 1 must not walk into the cell of agent 0
    by_row[1] = np.where(aside == left, True, np.where(aside == up, False, by_row[1]))
    script = rng.integers(5, size=(count, 8, 2)).astype(np.int32)
    script[:, :6, 0] = np.stack(
        [np.full(count, left), aside, _OPPOSITE[aside], *[np.full(count, right)] * 3], 1
    )
    script[:, 6:, 0] = np.where(by_row[0][:, None], [down, right], [right, down])
    script[:, :2, 1] = left
    script[:, 2:4, 1] = np.where(by_row[1][:, None], [up, left], [left, up])
    turn = rng.random(count) < 0.5  # turning the map by half a circle exchanges the agents
    script[turn] = _OPPOSITE[script[turn]][:, :, ::-1]
    return script


def bridge(
    quality: str, seed: int = 0, episodes: int | None = None, progress: Progress | None = None
) -> Episodes:
    """Bridge of AlberDICE (Matsunaga et al., 2023), collected with a time limit of 50 steps.

    optimal: 500 episodes of `bridge_script`, level 1.
    random: 500 episodes of uniformly random actions, level 0.
    mixed: 1000 episodes, first the random half and then the optimal half.
    The time limit is terminal, as in AlberDICE's data.
    """
    if quality == "mixed":
        count = _count(episodes, 1000, at_least=2)
        sizes = {"random": count - count // 2, "optimal": count // 2}
        parts, made = [], 0
        for name, size in sizes.items():
            parts.append(bridge(name, seed, size, _of_part(progress, made, count)))
            made += size
        return concatenate(parts)
    count, env, key = (
        _count(episodes, 500),
        make_bridge(horizon=BRIDGE_HORIZON),
        jax.random.key(seed),
    )
    if quality == "random":
        return with_level(record(env, random_policy(env.spec), count, key, progress=progress), 0)
    if quality != "optimal":
        raise InvalidSetting(
            f"bridge: expected one of {', '.join(BRIDGE_QUALITIES)}, found '{quality}'"
        )
    return with_level(replay(env, bridge_script(count, seed), key, progress), 1)


def polynomial(
    game: str,
    quality: str,
    seed: int = 0,
    episodes: int | None = None,
    progress: Progress | None = None,
) -> Episodes:
    """Polynomial games of Tilbury et al. (2024), sections 3 and 4: 512 joint actions of one step.

    uniform: each action ~ U(-1, 1); for `sign` the sample is shifted so that its mean is (-0.02,
    0.04), as in their figure 3. Actions of Gaussian qualities are not clipped, because clipping
    would change their moments.
    """
    rng, count = np.random.default_rng(seed), _count(episodes, 512)
    moments = parse_polynomial(game, quality)
    joint = rng.uniform(-1, 1, (count, 2)) if moments is None else rng.normal(*moments, (count, 2))
    if game == "sign" and moments is None:
        joint += np.array([-0.02, 0.04]) - joint.mean(0)
    script = joint.astype(np.float32)[:, None, :, None]  # [E, 1, N, A]
    env, key = make_polynomial(game, GAMES[game]), jax.random.key(seed)
    return with_level(replay(env, script, key, progress), 0)


def _of_part(progress: Progress | None, made: int, count: int) -> Progress | None:
    """The progress of a part of `count` episodes, of which `made` were made before."""
    return None if progress is None else lambda done, _: progress(made + done, count)


def _count(episodes: int | None, default: int, at_least: int = 1) -> int:
    count = default if episodes is None else episodes
    if count < at_least:
        raise InvalidSetting(f"episodes: expected at least {at_least}, found {count}")
    return count
