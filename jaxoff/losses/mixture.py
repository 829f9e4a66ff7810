"""Exact likelihoods of mixtures with K components; unreduced, over any leading axes."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import xlogy

from jaxoff.types import Array


def posterior(log_gate: Array, log_part: Array) -> Array:
    """P(z | a, o), softmax over K of log P(z | o) + log P(a | o, z), [..., K] -> [..., K], a
    constant: the E-step.
    """
    chex.assert_equal_shape([log_gate, log_part])
    return lax.stop_gradient(jax.nn.softmax(log_gate + log_part))


def mixture_log_prob(log_gate: Array, log_part: Array) -> Array:
    """log sum_z P(z | o) P(a | o, z) of each action: [..., K], [..., K, A] -> [..., A]."""
    chex.assert_equal_shape([log_gate, log_part[..., 0]])
    return jax.nn.logsumexp(log_gate[..., None] + log_part, -2)


def bound_loss(q: Array, log_gate: Array, log_part: Array, cloning: Array | float = 1.0) -> Array:
    """sum_z q (log q - log P(z | o) - cloning log P(a | o, z)), [..., K] -> [...].

    With cloning = 1 it is at least -log sum_z P(z | o) P(a | o, z), and equal to it at the
    posterior.
    """
    chex.assert_equal_shape([q, log_gate, log_part])
    return jnp.sum(xlogy(q, q) - q * (log_gate + cloning * log_part), -1)
