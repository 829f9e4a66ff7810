"""Weights for likelihoods and targets that only evaluate the data's own actions; unreduced."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from jaxoff.losses.likelihood import masked_mean
from jaxoff.types import Array


def batch_weight(x: Array, valid: Array, temperature: Array | float) -> Array:
    """Softmax of x / temperature over the batch, times the number of valid entries: [B, ...] -> [B,
    ...], a constant.

    The softmax runs over axis 0 at each position of the other axes, over entries with valid > 0
    only; the result has mean 1 over those and is 0 elsewhere (ICQ, Yang et al., 2021, Eq. 12, as
    the released code normalises). valid may have only the first axes of x, [B] or [B, T], and is
    then the same along the others.
    """
    valid = jnp.broadcast_to(valid.reshape(*valid.shape, *[1] * (x.ndim - valid.ndim)), x.shape)
    logits = jnp.where(valid > 0, x / temperature, -jnp.inf)
    top = jnp.max(logits, 0, keepdims=True)
    mass = jnp.where(valid > 0, jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0.0)), 0.0)
    count = jnp.sum(valid > 0, 0, keepdims=True)
    return lax.stop_gradient(count * mass / jnp.maximum(jnp.sum(mass, 0, keepdims=True), 1e-30))


def effective(weight: Array, valid: Array) -> Array:
    """Mean over the softmaxes along axis 0 of (sum c)^2 / (n sum c^2): 1 if all weights c are
    equal, 1/n if one entry has all the weight.
    """
    count = jnp.sum(valid, 0)
    share = jnp.square(jnp.sum(weight, 0)) / jnp.maximum(
        count * jnp.sum(jnp.square(weight), 0), 1e-8
    )
    return masked_mean(share, (count > 0).astype(share.dtype))
