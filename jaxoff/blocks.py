"""Sums and maps over rows that are computed block by block, so that the arrays between two layers
of a network fit into a CPU's cache.

On an accelerator there is a single block. Results equal those of a single block to rounding.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxoff.types import Array, Params, Transition

Tree = TypeVar("Tree", bound=Any)

BLOCK_BYTES = 2**19  # of the largest array of a block; a core's cache holds some such arrays
SMALL = 2**15  # most elements of an array that is written as a whole to replace a part of it
LENGTHS = 8  # static lengths of blocks of windows; each is a program of its own

# Whether the function that is traced is called for one run at a time. A mapped choice between
# programs would compute all of them.
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What is traced within is called for one run at a time, not mapped over runs."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


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
    called: Callable[..., Any] = lambda function, params, block: function(params, *block),
) -> tuple[Array, Any]:
    """function(params, *rows) -> (loss, metrics), for a function that is a sum over rows.

    rows: arrays or trees of arrays, whose axis of rows is that of `axes`. The loss may be
    differentiated by `params` alone: its gradient is added up in the same pass over the blocks.
    Metrics are constants. called: how a function is called on a block.
    """
    if count == 1:
        return function(params, *rows)
    constant, cut = jax.lax.stop_gradient((params, _cut(rows, axes, count)))
    slope = jax.value_and_grad(function, has_aux=True)

    def one(total: Any, block: Sequence[Any]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, called(slope, constant, block)), None

    shapes = jax.eval_shape(slope, constant, *jax.tree.map(lambda x: x[0], cut))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    ((loss, metrics), grads), _ = jax.lax.scan(one, zeros, cut)
    # A sum of zeros whose gradient is the one that was added up.
    zero = jax.tree.map(lambda g, p, c: jnp.sum(g * (p - c)), grads, params, constant)
    return loss + sum(jax.tree.leaves(zero)), jax.lax.stop_gradient(metrics)


# --- windows of steps -----------------------------------------------------------------------------


def widest(batch: Transition, hidden: int) -> int:
    """Bytes of a hidden layer of width `hidden` that sees every agent at every step of one window
    (or step) of a batch.
    """
    return 4 * math.prod(batch.obs.shape[1:-1]) * hidden


def by_length(batch: Tree, axis: int = 0) -> Tree:
    """The windows of a batch with a field `valid` [B, T], in the order of `length_order`."""
    order = length_order(batch.valid, axis)
    if order is None:
        return batch
    take: Callable[[Array, Array], Array] = lambda order, x: x[order]
    for _ in range(axis):
        take = jax.vmap(take)
    return jax.tree.map(functools.partial(take, order), batch)


def length_order(valid: Array, axis: int = 0) -> Array | None:
    """Positions [B] of windows with valid steps [B, T], the longest first, so that a block of
    neighbours can leave out the steps that are padding in all of them.

    axis: number of axes before those of the batch, each of whose entries is sorted alone. None on
    an accelerator, and where rows are single steps.
    """
    return jnp.argsort(-_steps(valid)) if fits_cache() and valid.ndim > axis + 1 else None


def averaged(
    function: Callable[..., tuple[Array, Any]],
    params: Params,
    rows: Sequence[Any],
    weight: Array,
    row_bytes: int,
    axis: int = 0,
) -> tuple[Array, Any]:
    """function(params, *rows) -> (loss, metrics), for means that are weighted by `weight`.

    rows: trees of arrays [B, ...] or windows [B, T, ...], with `axis` axes before; weight: [B] or
    [B, T], with these axes too, 0 in padding; row_bytes: bytes of one row in the largest array of
    the function. As for `summed`, the loss may be differentiated by `params` alone. Blocks leave
    out the steps that are padding in all of their windows, most in the order of `by_length`.
    """
    count = count_of(weight.shape[axis], row_bytes)
    if count == 1:
        return function(params, *rows)
    total = jnp.maximum(jnp.sum(weight), 1e-8)

    def part(params: Params, weight: Array, *block: Any) -> tuple[Array, Any]:
        share = jnp.sum(weight) / total
        return jax.tree.map(lambda mean: share * mean, function(params, *block))

    given = (weight, *rows)
    called = functools.partial(_on_steps, axis)
    return summed(part, params, given, (axis,) * len(given), count, called)


def of_each(
    function: Callable[..., Any],
    params: Params,
    rows: Sequence[Any],
    valid: Array,
    row_bytes: int,
    axis: int = 0,
) -> Any:
    """function(params, *rows) -> arrays [B, T, ...], for a function of each window alone, as a
    constant.

    rows, row_bytes, axis: as for `averaged`; valid: [B, T]. The result is 0 in padding that is left
    out.
    """
    count = count_of(valid.shape[axis], row_bytes)
    if count == 1:
        return jax.lax.stop_gradient(function(params, *rows))
    time = axis + 1

    def padded(params: Params, weight: Array, *block: Any) -> Any:
        def pad(x: Array) -> Array:
            missing = valid.shape[time] - x.shape[time] if valid.ndim > time else 0
            return jnp.pad(x, [(0, missing * (i == time)) for i in range(x.ndim)])

        return jax.tree.map(pad, function(params, *block))

    cut = _cut((valid, *rows), (axis,) * (1 + len(rows)), count)
    out = jax.lax.map(lambda block: _on_steps(axis, padded, params, block), cut)

    def joined(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, axis)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    return jax.lax.stop_gradient(jax.tree.map(joined, out))


def _steps(weight: Array) -> Array:
    """Number of steps of each window up to the last one that counts, [..., T] -> [...]."""
    return jnp.max(jnp.where(weight > 0, jnp.arange(1, weight.shape[-1] + 1), 0), -1)


def _on_steps(axis: int, function: Callable[..., Any], params: Params, block: Sequence[Any]) -> Any:
    """function(params, *block), without the steps after the last one that counts, in some of
    LENGTHS static lengths. The first item of the block is its weight, see `averaged`.
    """
    weight = block[0]
    if weight.ndim == axis + 1 or not _ALONE.get():
        return function(params, *block)
    steps = weight.shape[-1]
    sizes = sorted({-(-steps * part // LENGTHS) for part in range(1, LENGTHS + 1)})

    def on(size: int) -> Callable[..., Any]:
        shorter = lambda x: jax.lax.slice_in_dim(x, 0, size, axis=axis + 1)
        return lambda block: function(params, *jax.tree.map(shorter, block))

    which = jnp.searchsorted(jnp.asarray(sizes), jnp.max(_steps(weight)))
    return jax.lax.switch(which, [on(size) for size in sizes], block)


# --- maps -----------------------------------------------------------------------------------------


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


def replaced(everyone: Array, agent: Array, own: Array) -> Array:
    """Entries [N, ...] of all agents, with that of one agent replaced by its own [...].

    On an accelerator, an entry that each run takes from an agent of its own is a kernel for each
    array. Small arrays are chosen element by element instead, together with others.
    """
    if fits_cache() or everyone.size > SMALL:
        return everyone.at[agent].set(own)
    here = jnp.arange(len(everyone)) == agent
    return jnp.where(here.reshape(-1, *[1] * own.ndim), own, everyone)


def _cut(rows: Sequence[Any], axes: Sequence[int], count: int) -> list[Any]:
    """Blocks of rows, [count, ...]."""

    def cut(x: Array, axis: int) -> Array:
        shape = (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    return [
        jax.tree.map(lambda x, axis=axis: cut(x, axis), item)
        for item, axis in zip(rows, axes, strict=True)
    ]
