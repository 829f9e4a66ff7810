"""Sums and maps over rows that are computed block by block, so that the arrays between two layers
of a network fit into a CPU's cache.

On an accelerator there is a single block. Results equal those of a single block to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxoff.types import Array, Params, Transition

BLOCK_BYTES = 2**19  # of the largest array of a block; a core's cache holds some such arrays


def fits_cache() -> bool:
    """Whether a program is cut so that its arrays fit into a core's cache: on a CPU."""
    return jax.default_backend() == "cpu"


def count_of(rows: int, row_bytes: int) -> int:
    """Number of blocks into which to cut `rows` rows, each with `row_bytes` in the largest array.

    The number divides the rows. It is 1 on an accelerator.
    """
    if not fits_cache():
        return 1
    wanted = max(1, min(rows, rows * row_bytes // BLOCK_BYTES))
    return next(count for count in range(wanted, 0, -1) if rows % count == 0)


def summed(
    function: Callable[..., tuple[Array, Any]],
    params: Params,
    rows: Sequence[Any],
    axes: Sequence[int],
    count: int,
) -> tuple[Array, Any]:
    """function(params, *rows) -> (loss, metrics), for a function that is a sum over rows.

    rows: arrays or trees of arrays, whose axis of rows is that of `axes`. The loss may be
    differentiated by `params` alone: its gradient is added up in the same pass over the blocks.
    Metrics are constants.
    """
    if count == 1:
        return function(params, *rows)
    constant, cut = jax.lax.stop_gradient((params, _cut(rows, axes, count)))
    slope = jax.value_and_grad(function, has_aux=True)

    def one(total: Any, block: Sequence[Any]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, slope(constant, *block)), None

    shapes = jax.eval_shape(slope, constant, *jax.tree.map(lambda x: x[0], cut))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    ((loss, metrics), grads), _ = jax.lax.scan(one, zeros, cut)
    # A sum of zeros whose gradient is the one that was added up.
    zero = jax.tree.map(lambda g, p, c: jnp.sum(g * (p - c)), grads, params, constant)
    return loss + sum(jax.tree.leaves(zero)), jax.lax.stop_gradient(metrics)


def averaged(
    function: Callable[[Params, Transition], tuple[Array, Any]],
    params: Params,
    batch: Transition,
    hidden: int,
) -> tuple[Array, Any]:
    """function(params, batch) -> (loss, metrics), for means over the valid steps of a batch.

    batch: [B, ...] or windows [B, T, ...]; hidden: width of the networks that see each agent at
    each step. As for `summed`, the loss may be differentiated by `params` alone.
    """
    count = count_of(len(batch.valid), 4 * math.prod(batch.obs.shape[1:-1]) * hidden)
    if count == 1:
        return function(params, batch)
    total = jnp.maximum(jnp.sum(batch.valid), 1e-8)

    def part(params: Params, block: Transition) -> tuple[Array, Any]:
        share = jnp.sum(block.valid) / total
        return jax.tree.map(lambda mean: share * mean, function(params, block))

    return summed(part, params, (batch,), (0,), count)


def mapped(
    function: Callable[..., Array], rows: Sequence[Any], axes: Sequence[int], count: int
) -> Array:
    """function(*rows) -> [..., M], for a function of each row alone. rows, axes: as in `summed`."""
    if count == 1:
        return function(*rows)
    out = jax.lax.map(lambda block: function(*block), _cut(rows, axes, count))
    return jnp.moveaxis(out, 0, -2).reshape(*out.shape[1:-1], -1)


def each_in_turn(function: Callable[..., Any], axes: Sequence[int | None], *arguments: Any) -> Any:
    """As jax.vmap(function, axes)(*arguments), with axes 0 or None. On a CPU, one item comes after
    another, so that a core's cache holds the arrays of one.
    """
    if not fits_cache():
        return jax.vmap(function, axes)(*arguments)
    turns = [x for x, axis in zip(arguments, axes, strict=True) if axis is not None]

    def one(turn: list[Any]) -> Any:
        given = iter(turn)
        return function(
            *(x if axis is None else next(given) for x, axis in zip(arguments, axes, strict=True))
        )

    return jax.lax.map(one, turns)


def _cut(rows: Sequence[Any], axes: Sequence[int], count: int) -> list[Any]:
    """Blocks of rows, [count, ...]."""

    def cut(x: Array, axis: int) -> Array:
        shape = (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    return [
        jax.tree.map(lambda x, axis=axis: cut(x, axis), item)
        for item, axis in zip(rows, axes, strict=True)
    ]
