"""Blocks: sums and maps over rows equal those in one piece, with their gradients."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff import blocks, draw
from jaxoff.training import train
from jaxoff.types import Array
from tests.learners import FORMS

pytestmark = pytest.mark.usefixtures("kept_data")
KEY = jax.random.key(0)
X, WEIGHT = jax.random.normal(KEY, (5, 12, 3)), jnp.arange(12.0)


def loss(params, x, weight):
    """A sum over rows, axis 1 of x [K, M, F] and axis 0 of weight [M]; (loss, metrics)."""
    value = jax.nn.logsumexp(jnp.tanh(x @ params["w"])[..., 0] + params["b"], 0)
    return jnp.sum(weight * value), {"count": jnp.sum(weight), "largest": jnp.sum(value)}


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_a_sum_in_blocks_has_the_value_and_gradient_of_the_whole(count):
    params = {"w": jnp.ones((3, 1)), "b": jnp.float32(0.3)}
    wanted = jax.value_and_grad(loss, has_aux=True)(params, X, WEIGHT)

    def cut(params, scale):
        found, metrics = blocks.summed(loss, params, (X, WEIGHT), (1, 0), count)
        return scale * found, metrics

    found = jax.jit(jax.value_and_grad(cut, has_aux=True))(params, 1.0)
    chex.assert_trees_all_close(found, wanted, rtol=1e-5)
    # as a part of a larger expression, and mapped over runs
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    twice = jax.vmap(jax.grad(lambda p: cut(p, 2.0)[0]))(many)
    each = jax.vmap(jax.grad(lambda p: loss(p, X, WEIGHT)[0]))(many)
    chex.assert_trees_all_close(twice, jax.tree.map(lambda x: 2 * x, each), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_map_in_blocks_equals_the_whole(count):
    found = blocks.mapped(lambda x, w: x.sum(-1) * w, (X, WEIGHT), (1, 0), count)
    np.testing.assert_array_equal(found, X.sum(-1) * WEIGHT)


def test_items_in_turn_are_those_at_once(monkeypatch):
    function = lambda x, scale, shift: {"y": x * scale["a"] + shift}
    given = (0, None, 0), X, {"a": 3.0}, jnp.arange(5.0)[:, None, None]
    found = blocks.each_in_turn(function, *given)
    monkeypatch.setattr(blocks, "fits_cache", lambda: False)
    chex.assert_trees_all_close(found, blocks.each_in_turn(function, *given), rtol=1e-6)


@pytest.mark.parametrize("small", [0, blocks.SMALL])
def test_an_accelerator_replaces_the_entry_of_one_agent_alone(small, monkeypatch):
    monkeypatch.setattr(blocks, "fits_cache", lambda: False)
    monkeypatch.setattr(blocks, "SMALL", small)
    everyone, own = jnp.arange(12.0).reshape(3, 2, 2), -jnp.ones((2, 2))
    found = jax.vmap(blocks.replaced, (None, 0, None))(everyone, jnp.arange(3), own)
    for agent, entries in enumerate(found):
        np.testing.assert_array_equal(entries[agent], own)
        others = np.delete(np.arange(3), agent)
        np.testing.assert_array_equal(entries[others], everyone[others])


def test_blocks_divide_the_rows_and_an_accelerator_has_one(monkeypatch):
    assert blocks.count_of(1024, 4) == 1
    size = blocks.BLOCK_BYTES // 100 + 1
    assert blocks.count_of(1000, size) == 10
    assert blocks.count_of(13, blocks.BLOCK_BYTES // 4) == 1  # 3 do not divide 13
    assert blocks.count_of(16, 2 * blocks.BLOCK_BYTES) == 16
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert blocks.count_of(1000, size) == 1


LENGTHS = jnp.array([3, 9, 0, 12, 5, 5, 1, 8])
WINDOWS = {
    "x": jax.random.normal(KEY, (8, 12, 3)),
    "valid": (jnp.arange(12) < LENGTHS[:, None]).astype(jnp.float32),
}


class Windows(NamedTuple):
    """Windows [B, T, ...], as far as blocks look at them."""

    x: Array
    valid: Array


def mean(params, batch, weight):
    """A mean over valid steps, which depends on earlier steps of the same window."""
    y = jnp.tanh(jnp.cumsum(batch.x @ params, 1))
    total = jnp.maximum(jnp.sum(weight), 1e-8)
    return jnp.sum(weight * y) / total, jnp.sum(weight * y**2) / total


def steps_seen(monkeypatch):
    """Lists the numbers of steps of the blocks that are traced."""
    seen, cut = [], blocks._on_steps

    def noted(axis, function, params, block):
        def called(params, *block):
            seen.append(block[0].shape[axis + 1])
            return function(params, *block)

        return cut(axis, called, params, block)

    monkeypatch.setattr(blocks, "_on_steps", noted)
    return seen


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("sort", [False, True])
def test_means_over_windows_in_blocks_are_those_of_the_whole(alone, sort, monkeypatch):
    seen, params = steps_seen(monkeypatch), jnp.array([0.5, -1.0, 2.0])
    batch = Windows(**WINDOWS)
    wanted = jax.value_and_grad(mean, has_aux=True)(params, batch, batch.valid)

    def cut(params):
        given = blocks.by_length(batch) if sort else batch
        rows = (given, given.valid)
        return blocks.averaged(mean, params, rows, given.valid, blocks.BLOCK_BYTES // 2)

    with blocks.alone() if alone else contextlib.nullcontext():
        found = jax.jit(jax.value_and_grad(cut, has_aux=True))(params)
    chex.assert_trees_all_close(found, wanted, rtol=1e-5)
    # A block is a program for each of the static lengths only where one run is computed at a time.
    assert set(seen) == (set(np.ceil(np.arange(1, 9) * 1.5)) if alone else {12})


@pytest.mark.parametrize("axis", [0, 1])
def test_arrays_of_windows_in_blocks_are_those_of_the_whole(axis):
    function = lambda scale, batch: {"y": scale * jnp.cumsum(batch.x, -2)}
    batch = Windows(**WINDOWS)
    wanted = function(2.0, batch)["y"]
    if axis:  # an axis before that of the windows, each of whose entries has an order of its own
        batch = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), batch)
        wanted = jnp.stack([wanted, wanted[::-1]])
    given = blocks.by_length(batch, axis)
    lengths = given.valid.sum(-1)
    assert (jnp.diff(lengths) <= 0).all() and lengths.sum() == batch.valid.sum()
    with blocks.alone():
        found = jax.jit(
            lambda given: blocks.of_each(
                function, 2.0, (given,), given.valid, blocks.BLOCK_BYTES // 2, axis
            )
        )(given)["y"]
    valid = given.valid[..., None]
    order = blocks.length_order(batch.valid, axis)
    picked = wanted[order] if not axis else jax.vmap(lambda x, o: x[o])(wanted, order)
    np.testing.assert_allclose(found * valid, picked * valid, rtol=1e-6)
    assert not (found == picked).all()  # steps that are padding in a whole block are left out


def test_an_accelerator_keeps_the_order_of_windows(monkeypatch):
    batch = Windows(**WINDOWS)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert blocks.by_length(batch) is batch and blocks.length_order(batch.valid) is None


@pytest.mark.parametrize("at_once", [0, draw.COMPARED_AT_ONCE])
def test_draws_of_an_accelerator_are_those_of_a_cpu(at_once, monkeypatch):
    total = draw.running_total(jnp.array([0.0, 2.0, 0.0, 1.0, 5.0]))
    found = draw.draw(total, KEY, 100)
    assert set(found.tolist()) == {1, 3, 4}
    monkeypatch.setattr(blocks, "fits_cache", lambda: False)
    monkeypatch.setattr(draw, "COMPARED_AT_ONCE", at_once)
    np.testing.assert_array_equal(draw.draw(total, KEY, 100), found)


@pytest.mark.parametrize(
    "name", ["sit", "omar-continuous", "inspo-recurrent", "qmix-recurrent", "cql-continuous"]
)
def test_a_learner_written_for_an_accelerator_has_the_same_numbers(name, monkeypatch, trained):
    wanted = trained(name)
    monkeypatch.setattr(blocks, "fits_cache", lambda: False)
    found = train(FORMS[name].spec)
    chex.assert_trees_all_close(found.history, wanted.history, rtol=1e-4, atol=1e-5)


SLOW = (
    "cfcql-continuous",
    "cfcql-samples",
    "cql-continuous",
    "omar-centralised",
    "omar-team",
    "macql",
    "cfcql-recurrent",
    "omar-recurrent",
    "omar",
    "icq-recurrent",
    "inspo",
)
CUT = (
    "omar-continuous",
    "qmix-recurrent",
    "inspo-recurrent",
    "sit",
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
)


@pytest.mark.parametrize("name", CUT)
def test_a_learner_in_blocks_equals_one_in_one_piece(name, monkeypatch, trained):
    wanted, cut, counts = trained(name), blocks._cut, []

    def noted(rows, axes, count):
        counts.append(count)
        return cut(rows, axes, count)

    monkeypatch.setattr(blocks, "_cut", noted)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 200)
    monkeypatch.setattr(blocks, "LENGTHS", 2)
    found = train(FORMS[name].spec)
    assert counts and min(counts) > 1
    chex.assert_trees_all_close(found.history, wanted.history, rtol=1e-4, atol=1e-5)


def test_omars_loss_over_padding_is_not_cut(monkeypatch):
    spec = FORMS["omar-recurrent"].spec
    spec = dataclasses.replace(spec, config=spec.config | {"mask_mse": False})
    wanted = train(spec)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 200)
    chex.assert_trees_all_close(train(spec).history, wanted.history, rtol=1e-4, atol=1e-5)
