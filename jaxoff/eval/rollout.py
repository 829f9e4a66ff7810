"""Episodes of a policy inside jit: for evaluation, and step by step for pictures."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.types import Array, Env, Key, Policy, TimeStep


class Trace(NamedTuple):
    """A batch of episodes over time; leading axes [T, E]. Steps after the end have `alive` False."""

    before: TimeStep  # what was seen when acting
    actions: Array
    after: TimeStep
    alive: Array  # [T, E] bool: the step is real


def rollout(env: Env, policy: Policy, key: Key, episodes: int, *, sampled: bool) -> Trace:
    """Play `episodes` episodes side by side for the env's horizon.

    sampled: draw actions from the policy, else take its mode. Memory starts fresh in each episode.
    """
    reset_key, play_key = jax.random.split(key)
    env_state, first = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))

    def play(carry, key):
        env_state, seen, memory, alive = carry
        act_key, step_key = jax.random.split(key)
        memory, dist = policy.distribution(memory, seen)
        actions = dist.sample(seed=act_key) if sampled else dist.mode()
        env_state, after = jax.vmap(env.step)(jax.random.split(step_key, episodes), env_state, actions)
        done = after.terminated | after.truncated
        return (env_state, after, memory, alive & ~done), Trace(seen, actions, after, alive)

    start = (env_state, first, policy.initial((episodes,)), jnp.ones(episodes, bool))
    _, trace = lax.scan(play, start, jax.random.split(play_key, env.spec.horizon))
    return trace


def evaluate(env: Env, policy: Policy, key: Key, episodes: int, *, sampled: bool) -> dict[str, Array]:
    """Undiscounted returns [E] and lengths [E] of `episodes` episodes, and what the env's probe tells."""
    trace = rollout(env, policy, key, episodes, sampled=sampled)
    out = {
        "returns": jnp.sum(trace.after.reward * trace.alive, 0),
        "lengths": jnp.sum(trace.alive, 0),
    }
    probe = getattr(env, "probe", None)
    return out | (probe(policy) if probe else {})
