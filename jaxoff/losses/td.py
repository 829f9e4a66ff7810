"""Temporal-difference targets and errors, over any leading axes, not reduced."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxoff.types import Array


def one_step_target(
    reward: Array, terminated: Array, next_value: Array, gamma: float | Array
) -> Array:
    """r + gamma (1 - terminated) V(next), as a constant.

    reward, terminated, next_value: [...] float. A truncated step is not terminated: it bootstraps
    from the value of its true next observation. Returns [...].
    """
    chex.assert_equal_shape([reward, terminated, next_value])
    return jax.lax.stop_gradient(reward + gamma * (1.0 - terminated) * next_value)


def ahead(x: Array) -> Array:
    """x at the next slot of a window [B, T, ...]; 0 for the last slot."""
    return jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], 1)


def squared_td_error(value: Array, target: Array) -> Array:
    """Half the squared error of values [...] against constant targets [...]."""
    chex.assert_equal_shape([value, target])
    return 0.5 * jnp.square(jax.lax.stop_gradient(target) - value)


def lambda_return(
    reward: Array,
    terminated: Array,
    valid: Array,
    next_value: Array,
    gamma: float | Array,
    trace: float | Array,
) -> Array:
    """TD(lambda) returns over windows, as constants: [B, T, ...] -> [B, T, ...] (Sutton and Barto,
    2018, Eq. 12.20).

    G_t = r_t + gamma (1 - terminated_t) [(1 - trace) V_{t+1} + trace G_{t+1}], where G after the
    last valid step of each window is V itself, so that padding is never used. reward, terminated
    and valid [B, T] are broadcast over the further axes of next_value, the value of the slot after
    each step. The result is 0 where not valid.
    """
    reward, terminated, valid = (
        x.reshape(*x.shape, *[1] * (next_value.ndim - x.ndim)) for x in (reward, terminated, valid)
    )
    follows = jnp.concatenate([valid[:, 1:], jnp.zeros_like(valid[:, :1])], 1)

    def back(later: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, going, valid, follows, value = step
        ahead = jnp.where(follows > 0, (1 - trace) * value + trace * later, value)
        total = jnp.where(valid > 0, reward + gamma * going * ahead, 0.0)
        return total, total

    steps = tuple(
        jnp.moveaxis(x, 1, 0) for x in (reward, 1.0 - terminated, valid, follows, next_value)
    )
    returns = jax.lax.scan(back, jnp.zeros_like(next_value[:, 0]), steps, reverse=True)[1]
    return jax.lax.stop_gradient(jnp.moveaxis(returns, 0, 1))
