"""Inputs normalised by the statistics of the batch that a net is given, as batch normalisation has
it, but in the open.

Training uses the batch's own statistics, execution the running ones; both are plain arrays of a
learner's state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.types import Array, Params

STATS_RATE = 0.1  # share of a batch in the running statistics
EPS = 1e-5


class Norm(NamedTuple):
    """Scale and shift of normalised inputs, [..., F] each."""

    scale: Array
    shift: Array


class Net(NamedTuple):
    """A net and the normalisation of its input; norm is empty without one."""

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
    """Mean and variance of x over axes, with weights of its shape but for the last axis, which is
    1.

    mapped: the name of an axis of vmap that counts as one of the axes.
    """

    def summed(y: Array) -> Array:
        y = jnp.sum(y, axes, keepdims=True)
        return y if mapped is None else lax.psum(y, mapped)

    total = jnp.maximum(summed(weight), 1.0)
    mean = summed(jnp.where(weight > 0, x, 0.0) * weight) / total
    variance = summed(jnp.where(weight > 0, jnp.square(x - mean), 0.0) * weight) / total
    return mean, variance


def normalised(norm: Norm, x: Array, mean: Array, variance: Array) -> Array:
    """x at mean 0 and variance 1, then scaled and shifted."""
    return norm.scale * (x - mean) * lax.rsqrt(variance + EPS) + norm.shift


def running(stats: Stats, x: Array, weight: Array, axes: tuple[int, ...]) -> Stats:
    """A tenth of the way to the statistics of x over axes, weights as in `moments`; the variance
    that is kept is the unbiased one.
    """
    count = jnp.sum(weight, axes)
    mean, variance = (jnp.squeeze(m, axes) for m in moments(x, weight, axes))
    fresh = Stats(mean, variance * count / jnp.maximum(count - 1.0, 1.0))
    return jax.tree.map(lambda old, new: old + STATS_RATE * (new - old), stats, fresh)
