"""Temporal-difference targets and errors, over any leading axes, not reduced."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxoff.types import Array


def one_step_target(reward: Array, terminated: Array, next_value: Array, gamma: float | Array) -> Array:
    """r + gamma (1 - terminated) V(next), as a constant.

    reward, terminated, next_value: [...] float. A truncated step is not terminated: the value of its
    true next observation counts. Returns [...].
    """
    chex.assert_equal_shape([reward, terminated, next_value])
    return jax.lax.stop_gradient(reward + gamma * (1.0 - terminated) * next_value)


def squared_td_error(value: Array, target: Array) -> Array:
    """Half the squared distance of values [...] to constant targets [...]."""
    chex.assert_equal_shape([value, target])
    return 0.5 * jnp.square(jax.lax.stop_gradient(target) - value)
