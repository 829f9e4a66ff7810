"""Inputs normalised by the statistics of a net's batch, as in batch normalisation, but with
explicit state.

Training uses the batch's own statistics, execution the running ones; both are plain arrays in a
learner's state.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.types import Array, Params

STATS_RATE = 0.1  # weight of a new batch in the running statistics
EPS = 1e-5


class Norm(NamedTuple):
    """Scale and shift of normalised inputs, [..., F] each."""

    scale: Array
    shift: Array


class Net(NamedTuple):
    """Parameters of a net and of its input normalisation; norm is empty without one."""

    net: Params
    norm: Any


class Stats(NamedTuple):
    """Running mean and variance of inputs, [..., F] each."""

    mean: Array
    variance: Array


def unit_norm(*shape: int) -> Norm:
    """A scale of 1 and a shift of 0."""
    return Norm(jnp.ones(shape), jnp.zeros(shape))


def unit_stats(*shape: int) -> Stats:
    """A mean of 0 and a variance of 1."""
    return Stats(jnp.zeros(shape), jnp.ones(shape))


def moments(
    x: Array, weight: Array, axes: tuple[int, ...], mapped: str | None = None
) -> tuple[Array, Array]:
    """Mean and variance of x over axes; weight is broadcast against x, along these axes and the
    last one.

    mapped: the name of a vmap axis over which to average too.
    """

    def summed(y: Array) -> Array:
        y = jnp.sum(y, axes, keepdims=True)
        return y if mapped is None else lax.psum(y, mapped)

    copies = math.prod(x.shape[:-1]) // weight.size
    total = jnp.maximum(copies * summed(weight), 1.0)
    mean = summed(jnp.where(weight > 0, x, 0.0) * weight) / total
    variance = summed(jnp.where(weight > 0, jnp.square(x - mean), 0.0) * weight) / total
    return mean, variance


def standardised(x: Array, mean: Array, variance: Array) -> Array:
    """x with mean 0 and variance 1."""
    return (x - mean) * lax.rsqrt(variance + EPS)


def normalised(norm: Norm, x: Array, mean: Array, variance: Array) -> Array:
    """x standardised to mean 0 and variance 1, then scaled and shifted."""
    return norm.scale * standardised(x, mean, variance) + norm.shift


def running(stats: Stats, x: Array, weight: Array, axes: tuple[int, ...]) -> Stats:
    """Running statistics moved a tenth of the way to those of x over axes, weighted as in
    `moments`; the variance is the unbiased one.
    """
    count = jnp.sum(weight, axes)
    mean, variance = (jnp.squeeze(m, axes) for m in moments(x, weight, axes))
    fresh = Stats(mean, variance * count / jnp.maximum(count - 1.0, 1.0))
    return jax.tree.map(lambda old, new: old + STATS_RATE * (new - old), stats, fresh)


def folded(norm: Norm, net: Params) -> Params:
    """The parameters of an `ActionCritic` that makes of standardised inputs what another one makes
    of scaled and shifted ones.

    norm: of context and action, [F + A]. The gradient by the norm then takes no product over rows.
    """
    layers = dict(net["params"])
    context, action = layers["context"]["kernel"], layers["action"]["kernel"]  # [..., F, hidden]
    scales, shifts = (jnp.split(x[:, None], [context.shape[-2]]) for x in norm)
    bias = layers["context"]["bias"] + sum(
        jnp.sum(shift * kernel, -2) for shift, kernel in zip(shifts, (context, action), strict=True)
    )
    layers["context"] = {"kernel": scales[0] * context, "bias": bias}
    layers["action"] = {"kernel": scales[1] * action}
    return {"params": layers}
