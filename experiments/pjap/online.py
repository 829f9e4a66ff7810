"""A learner trained online, step by step, with everything that its probe tells of each step: for
toy problems.

What `train` does with the sampler `online`, but the history has every update, and the buffer comes
out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.data import online_sampler
from jaxoff.types import Array, Env, Feedback, Key, Learner, Policy, State, Transition


class OnlineResult(NamedTuple):
    """What came out; leading axis of every array in history: updates, then seeds [K, R, ...].

    history: the learner's metrics [K, R], and the probe's outputs [K + 1, R, ...], the first before
        training.
    state: final learner states [R, ...]. buffer: stored steps [R, M, ...], oldest first only while
    the buffer has not wrapped.
    """

    history: dict[str, np.ndarray]
    state: State
    buffer: Transition


def train_online(
    make: Callable[[Any], Learner],
    config: Any,
    env: Env,
    *,
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
    online: Any,
) -> OnlineResult:
    """Train make(config) for `steps` updates on single steps that it collects, every seed in one
    program.

    online: an `online_sampler.Config`. Raises InvalidSetting if what one update adds exceeds the
        capacity.
    """
    program = jax.jit(
        jax.vmap(functools.partial(_run, make, env, steps, batch_size, online), in_axes=(None, 0))
    )
    history, state, stored = program(config, jnp.stack([jax.random.key(seed) for seed in seeds]))
    per_env = stored.reward.shape[2]
    fill = min(-(-online.warmup // online.num_envs), per_env)
    kept = min(per_env, fill + (steps + 1) * online.collect) * online.num_envs
    by_time = lambda x: jnp.swapaxes(x, 1, 2).reshape(len(seeds), -1, *x.shape[3:])[:, :kept]
    return OnlineResult(
        {name: np.moveaxis(np.asarray(value), 0, 1) for name, value in history.items()},
        state,
        jax.tree.map(by_time, stored),
    )


def _run(make, env: Env, steps: int, batch_size: int, online: Any, config: Any, key: Key):
    """One seed: (history [steps(+1), ...], learner state, stored steps)."""
    learner = make(config)
    init_key, env_key, key = jax.random.split(key, 3)
    state = learner.init(init_key)
    sampler = online_sampler.make_acting(online, batch_size, 0, env, learner.policy(state), env_key)
    probe: Callable[[Policy], dict[str, Array]] = getattr(env, "probe", None) or (lambda policy: {})

    def step(carry, key: Key):
        state, seen = carry
        draw_key, update_key, act_key = jax.random.split(key, 3)
        batch = sampler.draw(seen, (), draw_key)
        state, out = learner.update(state, batch, update_key)
        policy = learner.policy(state)
        assert sampler.feedback is not None
        seen = sampler.feedback(
            seen, (), Feedback(batch, out.signal, policy, jnp.ones(()), act_key, policy)
        )
        return (state, seen), (out.metrics, probe(policy))

    before = probe(learner.policy(state))
    (state, seen), (metrics, probed) = jax.lax.scan(
        step, (state, sampler.init(())), jax.random.split(key, steps)
    )
    probed = {name: jnp.concatenate([before[name][None], value]) for name, value in probed.items()}
    return metrics | probed, state, seen.buffer.experience
