"""Play whole episodes inside jit, for evaluation, datasets and pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.types import Array, Carry, Env, EnvSpec, Key, TimeStep

Act = Callable[[Carry, TimeStep, Key], tuple[Carry, Array]]


class Trace(NamedTuple):
    """A batch of episodes over time; leading axes [T, E].

    Steps after the end have `alive` False.
    """

    before: TimeStep  # time step at which the action was chosen
    actions: Array
    after: TimeStep
    alive: Array  # [T, E] bool: the step is real


def bounded(spec: EnvSpec, actions: Array) -> Array:
    """Actions within the environment's range: real ones clipped to the bound, discrete ones
    unchanged.
    """
    return actions if spec.discrete else jnp.clip(actions, -spec.action_bound, spec.action_bound)


def play(
    env: Env,
    act: Act,
    memory: Carry,
    reset_keys: Key,
    keys: Callable[[Array], tuple[Key, Key]],
    keep: Callable[[Trace], Any],
) -> tuple[TimeStep, Any]:
    """Play episodes side by side until all have ended, at most `spec.horizon` steps.

    act(memory, timestep, key) -> (memory, actions), all with a leading axis [E]. reset_keys: [E].
    keys(t) -> (the key of `act` at step t, the keys [E] of the environments). keep(trace): the part
    of a step to store. Returns the first timestep [E, ...], and the stored parts [T, E, ...], with
    zeros where no step was made.
    """
    horizon = env.spec.horizon

    def step(
        t: Array, env_state: Any, seen: TimeStep, memory: Carry, alive: Array
    ) -> tuple[Any, Any]:
        act_key, step_keys = keys(t)
        memory, actions = act(memory, seen, act_key)
        env_state, after = jax.vmap(env.step)(step_keys, env_state, actions)
        ended = after.terminated | after.truncated
        return (t + 1, env_state, after, memory, alive & ~ended), keep(
            Trace(seen, actions, after, alive)
        )

    def body(carry: Any) -> Any:
        now, kept = carry
        then, row = step(*now)
        return then, jax.tree.map(
            lambda all_, one: lax.dynamic_update_index_in_dim(all_, one, now[0], 0), kept, row
        )

    env_state, first = jax.vmap(env.reset)(reset_keys)
    start = (
        jnp.zeros((), jnp.int32),
        env_state,
        first,
        memory,
        jnp.ones(reset_keys.shape[0], bool),
    )
    row = jax.eval_shape(step, *start)[1]
    empty = jax.tree.map(lambda x: jnp.zeros((horizon, *x.shape), x.dtype), row)
    # A loop and not a scan: it stops when the last episode has ended, often long before the time
    # limit.
    _, kept = lax.while_loop(
        lambda carry: (carry[0][0] < horizon) & carry[0][4].any(), body, (start, empty)
    )
    return first, kept
