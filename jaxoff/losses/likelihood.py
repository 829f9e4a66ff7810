"""Likelihoods and divergences of categorical policies, unreduced, over any leading axes."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxoff.types import UNAVAILABLE, Array


def masked_mean(x: Array, weight: Array) -> Array:
    """Mean of x with weights >= 0 of the same shape; 0 where all weights are 0."""
    chex.assert_equal_shape([x, weight])
    return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1e-8)


def taken(values: Array, actions: Array) -> Array:
    """values(a): [..., A] at actions [...] int -> [...]; 0 where the action is masked (padding or
    after a terminal step).
    """
    chex.assert_equal_shape([values[..., 0], actions])
    chex.assert_type(actions, int)
    # Summed up, since the gradient of a gather is a scatter.
    here = actions[..., None] == jnp.arange(values.shape[-1])
    found = jnp.sum(jnp.where(here, values, 0.0), -1)
    return jnp.where(found > 0.5 * UNAVAILABLE, found, 0.0)


def log_prob(logits: Array, actions: Array) -> Array:
    """log pi(a): logits [..., A] with unavailable actions masked, actions [...] int -> [...]."""
    return taken(jax.nn.log_softmax(logits), actions)


def negative_log_likelihood(logits: Array, actions: Array) -> Array:
    """Behaviour cloning loss, -log pi(a): logits [..., A], actions [...] int -> [...]."""
    return -log_prob(logits, actions)


def expectation(logits: Array, values: Array) -> Array:
    """sum_a pi(a) values(a) over [..., A] -> [...]; an action of probability zero adds exactly
    zero.
    """
    chex.assert_equal_shape([logits, values])
    probs = jax.nn.softmax(logits)
    return jnp.sum(jnp.where(probs > 0, probs * values, 0.0), -1)
