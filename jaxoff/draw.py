"""Random draws in proportion to weights, by a running total; safe in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxoff import blocks
from jaxoff.types import Array, Key

COMPARED_AT_ONCE = 2**22  # most comparisons of a search that are all made at once


def running_total(weights: Array) -> Array:
    """Running total of weights [M] >= 0 that rises only where a weight is positive.

    A parallel float32 sum rounds neighbours differently, so by itself it may fall, or rise at a
    weight of zero.
    """
    # without the barrier, XLA fuses the computation of the weights into each step of the sum
    weights = lax.optimization_barrier(weights)
    return lax.cummax(jnp.where(weights > 0, jnp.cumsum(weights), 0.0))


def draw(total: Array, key: Key, count: int) -> Array:
    """Items [count] with replacement, from a running total [M]; an item of weight zero is never
    drawn.
    """
    # u in [0, 1), so u * total < total; side="right" skips every item at which the total does not
    # rise.
    wanted = jax.random.uniform(key, (count,)) * total[-1]
    return jnp.searchsorted(total, wanted, side="right", method=_method(total.shape[0] * count))


def _method(comparisons: int) -> str:
    """How a search compares. A loop is quicker to compile; on an accelerator each of its steps
    launches several kernels, and all comparisons at once are one.
    """
    if blocks.fits_cache():
        return "scan"
    return "compare_all" if comparisons <= COMPARED_AT_ONCE else "scan_unrolled"
