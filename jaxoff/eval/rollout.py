"""Episodes of a policy inside jit, for evaluation and, with all their steps, for pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxoff.envs.rolling import Trace, bounded, play
from jaxoff.types import Array, Carry, Env, Key, Policy, TimeStep

__all__ = ["Trace", "evaluate", "rollout"]


def rollout(
    env: Env,
    policy: Policy,
    key: Key,
    episodes: int,
    *,
    sampled: bool,
    keep: Callable[[Trace], Any] = lambda trace: trace,
) -> Any:
    """Play `episodes` episodes side by side, of at most the environment's horizon.

    Returns a Trace, or what `keep` makes of each of its steps. sampled: draw actions from the
    policy, else take its mode. The policy's memory is reset for each episode.
    """
    reset_key, play_key = jax.random.split(key)
    step_keys = jax.random.split(play_key, env.spec.horizon)

    def keys(t: Array) -> tuple[Key, Key]:
        act_key, step_key = jax.random.split(step_keys[t])
        return act_key, jax.random.split(step_key, episodes)

    def act(memory: Carry, seen: TimeStep, key: Key) -> tuple[Carry, Array]:
        memory, dist = policy.distribution(memory, seen)
        return memory, bounded(env.spec, dist.sample(seed=key) if sampled else dist.mode())

    return play(
        env, act, policy.initial((episodes,)), jax.random.split(reset_key, episodes), keys, keep
    )[1]


def evaluate(
    env: Env, policy: Policy, key: Key, episodes: int, *, sampled: bool
) -> dict[str, Array]:
    """Play `episodes` episodes: undiscounted returns [E], lengths [E], and more where known.

    `won` [E] is added if the environment has a function `won`, and the outputs of its probe if it
    has one.
    """
    won = getattr(env, "won", None)

    def keep(trace: Trace) -> tuple[Array, Array, Array]:
        ended = trace.alive & (trace.after.terminated | trace.after.truncated)
        return (
            trace.after.reward * trace.alive,
            trace.alive,
            ended & won(trace.after.state) if won else ended,
        )

    reward, alive, victory = rollout(env, policy, key, episodes, sampled=sampled, keep=keep)
    out = {"returns": jnp.sum(reward, 0), "lengths": jnp.sum(alive, 0)}
    if won:
        out["won"] = victory.any(0)
    probe = getattr(env, "probe", None)
    return out | (probe(policy) if probe else {})
