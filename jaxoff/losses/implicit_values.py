"""Values and policies under implicit regularisation of a mixed value (OMIGA; Wang et al., NeurIPS
2023); unreduced.

With the mixed value sum_i w_i (Q_i - V_i) and a KL regulariser of weight alpha, the best local
policy is mu_i exp(w_i (Q_i - V_i) / alpha). V_i normalises it: E_mu exp(w_i (Q_i - V_i) / alpha)
= 1. No action outside the data is ever evaluated.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax

from jaxoff.types import Array

CLIP = 10.0  # exponents are clipped to +-CLIP, as in the released code


def exponent(q: Array, v: Array, weight: Array, alpha: Array | float) -> Array:
    """z = w (Q - V) / alpha clipped to [-10, 10], all [..., N]; no gradient reaches q and weight
    or, where z is clipped, v.
    """
    chex.assert_equal_shape([q, v, weight])
    return jnp.clip(lax.stop_gradient(weight) * (lax.stop_gradient(q) - v) / alpha, -CLIP, CLIP)


def exponent_shift(z: Array, valid: Array) -> Array:
    """max(-1, largest z among valid entries), a constant scalar; z and valid of one shape."""
    chex.assert_equal_shape([z, valid])
    return lax.stop_gradient(jnp.max(jnp.where(valid > 0, z, -1.0), initial=-1.0))


def implicit_value_loss(
    z: Array, v: Array, weight: Array, alpha: Array | float, shift: Array
) -> Array:
    """exp(-shift) (exp(z) + w V / alpha) [..., N], minimal where E exp(z) = 1; z is from
    `exponent`, and shift [] only scales the loss.
    """
    chex.assert_equal_shape([z, v, weight])
    return jnp.exp(z - shift) + jnp.exp(-shift) * lax.stop_gradient(weight) * v / alpha


def implicit_policy_loss(z: Array, log_pi: Array) -> Array:
    """-exp(z) log pi(a) [..., N]: log likelihood of the data's actions, weighted by the ratio of
    the best policy to the behaviour policy.
    """
    chex.assert_equal_shape([z, log_pi])
    return -jnp.exp(lax.stop_gradient(z)) * log_pi
