"""Online off-policy training: act with noise, store, sample, update, in one compiled scan over steps.

For any `Learner` on single steps. A step is one joint action in each of `num_envs` environments and one
update from a ring buffer. Capacity is the size of the past that the learner sees: the smaller, the
nearer to on-policy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flashbax
import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.rolling import bounded
from jaxoff.types import Array, Carry, Env, Key, Learner, Policy, State, TimeStep, Transition


class OnlineResult(NamedTuple):
    """What came out; leading axis of every array in history: steps, then seeds [K, R, ...].

    history: the learner's metrics and `reward` (mean over environments) of each step [steps, R]; `return`,
    the mean return of the last finished episode of each environment, NaN before the first; and the
    probe's outputs [steps + 1, R, ...], the first before training.
    state: final learner states [R, ...]. buffer: stored steps [R, min(capacity, added), ...], oldest first
    only while the buffer has not wrapped.
    """

    history: dict[str, np.ndarray]
    state: State
    buffer: Transition


class _Actors(NamedTuple):
    """The environments between two steps; leading axis [num_envs]."""

    env: State
    seen: TimeStep
    carry: Carry
    steps_before: Array
    episode: Array  # numbers that no other episode has
    episode_return: Array
    last_return: Array


def train_online(
    make: Callable[[Any], Learner],
    config: Any,
    env: Env,
    *,
    seeds: Sequence[int],
    steps: int,
    capacity: int,
    batch_size: int,
    num_envs: int,
    noise: float = 0.1,
) -> OnlineResult:
    """Train make(config) online, every seed in one program.

    noise: standard deviation of Gaussian exploration as a share of the action bound, to which actions
    are clipped; discrete policies explore by being sampled. Raises ValueError if a batch, or what one
    step adds, exceeds the capacity.
    """
    for name, value in (("batch_size", batch_size), ("num_envs", num_envs)):
        if value > capacity:
            raise ValueError(f"train_online: field '{name}': expected at most the capacity {capacity}, found {value}")
    buffer = flashbax.make_item_buffer(capacity, min(batch_size, num_envs), batch_size, add_batches=True)
    program = jax.jit(jax.vmap(functools.partial(_run, make, env, buffer, steps, num_envs, noise), in_axes=(None, 0)))
    history, state, stored = program(config, jnp.stack([jax.random.key(seed) for seed in seeds]))
    kept = min(capacity, steps * num_envs)
    return OnlineResult(
        history={name: np.moveaxis(np.asarray(value), 0, 1) for name, value in history.items()},
        state=state,
        buffer=jax.tree.map(lambda x: x[:, 0, :kept], stored.experience),
    )


def _run(make, env, buffer, steps: int, num_envs: int, noise: float, config, key: Key):
    """One seed: (history [steps(+1), ...], learner state, buffer state)."""
    learner = make(config)
    init_key, env_key, key = jax.random.split(key, 3)
    state = learner.init(init_key)
    actors = _start(env, learner.policy(state), env_key, num_envs)
    _, example = jax.eval_shape(lambda: _act(env, learner.policy(state), noise, actors, key))
    stored = buffer.init(jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), example))
    probe: Callable[[Policy], dict[str, Array]] = getattr(env, "probe", None) or (lambda policy: {})

    def step(carry, key: Key):
        state, actors, stored = carry
        act_key, sample_key, update_key = jax.random.split(key, 3)
        actors, rows = _act(env, learner.policy(state), noise, actors, act_key)
        stored = buffer.add(stored, rows)
        state, out = learner.update(state, buffer.sample(stored, sample_key).experience, update_key)
        told = out.metrics | {"reward": rows.reward.mean(), "return": actors.last_return.mean()}
        return (state, actors, stored), (told, probe(learner.policy(state)))

    before = probe(learner.policy(state))
    (state, _, stored), (told, probed) = jax.lax.scan(step, (state, actors, stored), jax.random.split(key, steps))
    probed = {name: jnp.concatenate([before[name][None], value]) for name, value in probed.items()}
    return told | probed, state, stored


def _start(env: Env, policy: Policy, key: Key, num_envs: int) -> _Actors:
    states, seen = jax.vmap(env.reset)(jax.random.split(key, num_envs))
    zeros = jnp.zeros(num_envs)
    number = jnp.arange(num_envs)
    return _Actors(states, seen, policy.initial((num_envs,)), jnp.zeros_like(number), number, zeros, jnp.full(num_envs, jnp.nan))


def _act(env: Env, policy: Policy, noise: float, actors: _Actors, key: Key) -> tuple[_Actors, Transition]:
    """One joint step in every environment. Ended episodes restart, after their last observation is stored."""
    noise_key, step_key, reset_key = jax.random.split(key, 3)
    num_envs = actors.steps_before.shape[0]
    seen = actors.seen
    carry, dist = policy.distribution(actors.carry, seen)
    if env.spec.discrete:
        actions = dist.sample(seed=noise_key)
    else:
        mean = dist.mode()
        actions = bounded(env.spec, mean + noise * env.spec.action_bound * jax.random.normal(noise_key, mean.shape))
    states, after = jax.vmap(env.step)(jax.random.split(step_key, num_envs), actors.env, actions)
    rows = Transition(
        obs=seen.obs,
        state=seen.state,
        avail=seen.avail,
        actions=actions,
        reward=after.reward,
        terminated=after.terminated.astype(jnp.float32),
        truncated=after.truncated.astype(jnp.float32),
        valid=jnp.ones(num_envs),
        steps_before=actors.steps_before,
        episode=actors.episode,
        next_obs=after.obs,
        next_state=after.state,
        next_avail=after.avail,
        agent_reward=after.agent_reward,
    )
    ended = after.terminated | after.truncated
    fresh_states, fresh_seen = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))
    total = actors.episode_return + after.reward
    ongoing = (states, after, carry, actors.steps_before + 1, actors.episode, total)
    zeros = jnp.zeros_like(actors.steps_before)
    restarted = (fresh_states, fresh_seen, policy.initial((num_envs,)), zeros, actors.episode + num_envs, jnp.zeros(num_envs))
    new = jax.tree.map(lambda a, b: jnp.where(ended.reshape(-1, *[1] * (a.ndim - 1)), a, b), restarted, ongoing)
    return _Actors._make((*new, jnp.where(ended, total, actors.last_return))), rows
