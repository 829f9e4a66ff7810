"""Samplers: what is drawn, how often, and what a batch holds."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flashbax.buffers import sum_tree
from scipy.stats import chisquare

from jaxoff import registry
from jaxoff.data import dataset as data
from jaxoff.data import samplers
from jaxoff.draw import draw as draw_items
from jaxoff.draw import running_total
from jaxoff.types import Feedback
from tests.reference.toy_episodes import toy_episodes, toy_spec

KEY = jax.random.key(0)
LENGTHS = (3, 1, 6, 2, 4)  # 16 steps


@pytest.fixture(scope="module")
def ds():
    return data.place(toy_episodes(LENGTHS), toy_spec())


# One program for each shape, where each test would compile the operations one by one.
tree_of, set_leaves = jax.jit(samplers.tree_of), jax.jit(samplers.set_leaves)


def leaves_of(tree, count=16):
    """The leaves of a sum tree, which are the last of its nodes."""
    leaves = np.asarray(tree.nodes)[2**tree.tree_depth - 1 :]
    np.testing.assert_array_equal(leaves[count:], 0)
    return leaves[:count]


def draw_many(sampler, ds, draws, key=KEY):
    return np.asarray(jax.jit(lambda k: sampler.draw(sampler.init(ds), ds, k))(key))[:draws]


def after_feedback(sampler, tree, ds, items):
    """Leaves [16] after one feedback."""
    tree = jax.jit(lambda t, i: sampler.feedback(t, ds, told(i)))(tree, np.array(list(items)))
    return tree, leaves_of(tree)


def told(items, signal=None):
    return Feedback(
        items=items, signal=signal, policy=None, updates=jnp.ones((), int), key=jax.random.key(9)
    )


# ------------------------------------------------------------------------------ fixed distributions


def test_uniform_draws_every_real_step_equally(ds):
    sampler = samplers.uniform(100_000)
    items = draw_many(sampler, ds, 100_000)
    assert chisquare(np.bincount(items, minlength=16)).pvalue > 1e-3
    batch = jax.jit(lambda i: sampler.gather(ds, i))(items[:1000])
    np.testing.assert_array_equal(batch.valid, np.ones(1000))
    # the reward 10 e + t + 1 of a real step is never 0
    assert (np.asarray(batch.reward) > 0).all()
    np.testing.assert_array_equal(batch.reward, 10 * batch.episode + batch.steps_before + 1)


def test_episodes_are_whole_padded_and_masked(ds):
    sampler = samplers.episodes(10_000)
    items = draw_many(sampler, ds, 10_000)
    assert chisquare(np.bincount(items, minlength=5)).pvalue > 1e-3
    batch = jax.jit(sampler.gather)(ds, jnp.arange(5))
    assert batch.obs.shape == (5, 6, 2, 4)
    np.testing.assert_array_equal(batch.valid, toy_episodes(LENGTHS).filled)
    np.testing.assert_array_equal(batch.reward, toy_episodes(LENGTHS).reward)


@pytest.mark.parametrize("length", [1, 3, 9])
def test_windows_never_cross_the_end_of_an_episode(ds, length):
    sampler = samplers.windows(4000, length)
    batch = jax.jit(lambda items: sampler.gather(ds, items))(draw_many(sampler, ds, 4000))
    assert batch.valid.shape == (4000, length)
    valid, episode = np.asarray(batch.valid, bool), np.asarray(batch.episode)
    # each state row holds the number of its episode, and of its step
    np.testing.assert_array_equal(np.asarray(batch.state[..., 0])[valid], episode[valid])
    np.testing.assert_array_equal(
        np.asarray(batch.state[..., 1])[valid], np.asarray(batch.steps_before)[valid]
    )
    lengths = np.array(LENGTHS)[episode[:, 0]]
    np.testing.assert_array_equal(valid.sum(1), np.minimum(length, lengths))


def test_windows_draw_every_start_equally(ds):
    # length 3: lengths 3, 1, 6, 2, 4 have 1, 1, 4, 1, 2 starts, in order of steps
    starts = [0, 3, 4, 5, 6, 7, 10, 12, 13]
    counts = np.bincount(draw_many(samplers.windows(90_000, 3), ds, 90_000), minlength=16)
    assert np.flatnonzero(counts).tolist() == starts
    assert chisquare(counts[starts]).pvalue > 1e-3


def test_weighted_draws_by_weight_and_never_a_zero(ds):
    weights = jnp.array([0, 0, 5, 1, 0, 2, 0, 0, 1, 1, 3, 0, 0, 2, 1, 0], jnp.float32)
    counts = np.bincount(
        draw_many(samplers.weighted(160_000, lambda d: weights), ds, 160_000), minlength=16
    )
    some = np.asarray(weights) > 0
    assert not counts[~some].any()
    assert chisquare(counts[some], 10_000 * np.asarray(weights)[some]).pvalue > 1e-3


def test_weighted_never_draws_a_zero_among_many():
    # a plain parallel float32 sum rises at about one in a hundred of these zeros
    weights = jnp.where(
        jax.random.bernoulli(KEY, 0.5, (200_000,)), jax.random.uniform(KEY, (200_000,)), 0.0
    )
    total = np.asarray(jax.jit(running_total)(weights))
    rises = np.diff(total, prepend=0)
    assert (rises >= 0).all() and total[-1] == pytest.approx(float(weights.sum()), rel=1e-4)
    assert not rises[np.asarray(weights) == 0].any()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 7.0, 1e6])
def test_weighted_reaches_no_zero_at_the_ends(monkeypatch, scale):
    total = running_total(scale * jnp.array([0.0, 0.7, 0.3, 0.0]))
    largest = 1 - 2.0**-23  # of jax.random.uniform in float32
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape: jnp.array([0.0, largest], jnp.float32)
    )
    assert draw_items(total, KEY, 2).tolist() == [1, 2]


# ---------------------------------------------------------------------------------------
# prioritised

PRIORITIES = np.array(
    [1, 0.5, 0.001, 0.25, 0, 1, 0.75, 0.1, 0.2, 0.3, 0.9, 0.05, 1, 0.6, 0.4, 0.7], np.float32
)


def test_tree_draws_in_proportion_to_its_leaves():
    # strata make the variance smaller than a multinomial's, so the chi-square is bounded from above
    # only
    tree = samplers.tree_of(jnp.array(PRIORITIES))
    draws = jax.jit(jax.vmap(lambda k: samplers.draw_tree(tree, k, 32)))(
        jax.random.split(KEY, 3125)
    ).ravel()
    counts, some = np.bincount(draws, minlength=16), PRIORITIES > 0
    assert len(draws) == 100_000 and counts[4] == 0
    expected = 100_000 * PRIORITIES.astype(np.float64) / PRIORITIES.sum(dtype=np.float64)
    assert chisquare(counts[some], expected[some]).pvalue > 1e-3


@pytest.mark.parametrize("size", [1, 2, 5, 1025])
def test_tree_of_any_capacity_has_no_mass_beyond_it(size):
    leaves = np.random.default_rng(0).uniform(0.1, 1.1, size).astype(np.float32)
    tree = tree_of(leaves)
    np.testing.assert_allclose(tree.nodes[0], leaves.sum(), rtol=1e-6)
    np.testing.assert_array_equal(leaves_of(tree, size), leaves)
    items = jax.jit(lambda k: samplers.draw_tree(tree, k, 500))(KEY)
    assert set(np.unique(items).tolist()) <= set(range(size))


def consistent(tree):
    """Every inner node is the sum of its children, exactly."""
    nodes = np.asarray(tree.nodes)
    inner = np.arange(len(nodes) // 2)
    np.testing.assert_array_equal(nodes[inner], nodes[2 * inner + 1] + nodes[2 * inner + 2])


def test_identical_items_in_a_refresh_leave_the_tree_consistent():
    values = np.array([0.25, 0.25, 0.25, 0.5, 0.25], np.float32)
    tree = set_leaves(tree_of(np.ones(11, np.float32)), np.array([7, 7, 7, 2, 7]), values)
    consistent(tree)
    leaves = leaves_of(tree, 11)
    assert (leaves[7], leaves[2], float(tree.nodes[0])) == (0.25, 0.5, 9.75)


def test_identical_items_of_different_values_take_one_of_them():
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.4], np.float32)
    tree = set_leaves(tree_of(np.ones(11, np.float32)), np.full(5, 3), values)
    consistent(tree)
    assert leaves_of(tree, 11)[3] in values


def test_a_hundred_thousand_updates_do_not_drift():
    # capacity 100, priorities between 1e-3 and 1, and one leaf that stays at zero
    tree = tree_of(np.where(np.arange(100) == 77, 0.0, 1.0).astype(np.float32))

    def step(tree, key):
        at, value = jax.random.split(key)
        items = jax.random.randint(at, (8,), 0, 100)
        fresh = 10 ** jax.random.uniform(value, (8,), minval=-3.0, maxval=0.0)
        return samplers.set_leaves(tree, items, jnp.where(items == 77, 0.0, fresh)), None

    tree, _ = jax.jit(lambda t: jax.lax.scan(step, t, jax.random.split(KEY, 100_000)))(tree)
    leaves = leaves_of(tree, 100).astype(np.float64)
    assert abs(float(tree.nodes[0]) - leaves.sum()) / leaves.sum() < 1e-4
    assert leaves[77] == 0
    assert 77 not in np.asarray(
        jax.jit(jax.vmap(lambda k: samplers.draw_tree(tree, k, 64)))(jax.random.split(KEY, 500))
    )


def test_prioritised_starts_uniform_and_floors_what_is_refreshed(ds):
    floor = 1e-3
    sampler = samplers.prioritised(4, lambda d, f, batch: jnp.maximum(0.0 * batch.reward, floor))
    tree = sampler.init(ds)
    np.testing.assert_array_equal(leaves_of(tree), np.ones(16))
    after, leaves = after_feedback(sampler, tree, ds, [0, 3, 3, 8])
    np.testing.assert_array_equal(
        leaves, np.where(np.isin(np.arange(16), [0, 3, 8]), np.float32(floor), 1)
    )
    # 13 items of priority 1 and 3 of 0.001: a floored one is still reached, seldom
    draws = np.asarray(
        jax.jit(jax.vmap(lambda k: samplers.draw_tree(after, k, 100)))(jax.random.split(KEY, 3000))
    ).ravel()
    share = np.isin(draws, [0, 3, 8]).mean()
    assert 0 < share == pytest.approx(0.003 / 13.003, rel=0.5)


def test_exponent_is_applied_after_the_floor(ds):
    sampler = samplers.prioritised(
        2, lambda d, f, batch: jnp.full(batch.reward.shape, 0.25), exponent=0.5
    )
    assert after_feedback(sampler, sampler.init(ds), ds, [1, 2])[1][1:4].tolist() == [0.5, 0.5, 1.0]


def test_priority_sees_the_items_that_are_refreshed(ds):
    # priority = reward / 100, where reward = 10 e + t + 1
    by_reward = lambda d, f, batch: batch.reward / 100
    rewards = toy_episodes(LENGTHS).reward[toy_episodes(LENGTHS).filled] / np.float32(100)
    every = samplers.prioritised(4, by_reward, refresh=-1)
    leaves = after_feedback(every, every.init(ds), ds, range(4))[1]
    np.testing.assert_allclose(leaves, rewards, rtol=1e-6)
    some = samplers.prioritised(4, by_reward, refresh=6)
    leaves = after_feedback(some, some.init(ds), ds, range(4))[1]
    fresh = leaves < 1
    assert 3 <= fresh.sum() <= 6  # drawn anew from the priorities, not the training batch
    np.testing.assert_allclose(leaves[fresh], rewards[fresh], rtol=1e-6)


@pytest.mark.parametrize(
    ("window", "starts"),
    [(0, list(range(16))), (3, [0, 3, 4, 5, 6, 7, 10, 12, 13]), (9, [0, 3, 4, 10, 12])],
)
def test_a_uniform_refresh_judges_every_start_alike_whatever_its_priority(ds, window, starts):
    # One item is refreshed, so the one leaf that changes tells which was drawn. Half of the starts
    # have priority 1e-6: drawn by priority, they would make a millionth of the draws.
    sampler = samplers.prioritised(
        4,
        lambda d, f, batch: jnp.full(len(batch.reward), 0.5),
        refresh=1,
        refresh_from="uniform",
        window=window,
    )
    leaves = np.zeros(16, np.float32)
    leaves[starts] = np.where(np.arange(len(starts)) % 2, 1e-6, 1.0)
    tree = tree_of(leaves)

    def judged(key):
        after = sampler.feedback(tree, ds, told(jnp.arange(4))._replace(key=key))
        return sum_tree.get_batch(after, jnp.arange(16)) != leaves

    changed = np.asarray(jax.jit(jax.vmap(judged))(jax.random.split(KEY, 9000)))
    np.testing.assert_array_equal(changed.sum(1), 1)
    counts = changed.sum(0)
    assert np.flatnonzero(counts).tolist() == starts
    assert chisquare(counts[starts]).pvalue > 1e-3


@pytest.mark.parametrize("refresh_from", ["priorities", "uniform"])
def test_a_refresh_changes_the_priorities_of_the_drawn_items_and_no_others(ds, refresh_from):
    def by_reward(dataset, feedback, batch):
        return batch.reward.mean(1) / 100

    how: dict = {"exponent": 0.5, "refresh": 5, "refresh_from": refresh_from, "window": 3}
    sampler = samplers.prioritised(4, by_reward, **how)
    leaves = np.zeros(16, np.float32)
    leaves[[0, 4, 6, 12, 13]], leaves[[3, 5, 7, 10]] = 0.75, 1e-6
    tree = tree_of(leaves)

    def refreshed(tree, dataset, told):
        draws = {
            "priorities": lambda: samplers.draw_tree(tree, told.key, 5),
            "uniform": lambda: samplers.draw_starts(dataset, 3, told.key, 5),
        }
        items = draws[refresh_from]()
        fresh = by_reward(ds, None, dataset.window(dataset.step_row[items], 3)) ** 0.5
        return items, samplers.set_leaves(tree, items, fresh)

    given = tree, ds, told(np.arange(4))
    items, wanted = jax.jit(refreshed)(*given)
    found = jax.jit(sampler.feedback)(*given)
    np.testing.assert_array_equal(found.nodes, wanted.nodes)
    consistent(found)
    same = ~np.isin(np.arange(16), items)
    old, new = leaves_of(tree), leaves_of(found)
    np.testing.assert_array_equal(new[same], old[same])
    assert (new[~same] != old[~same]).all()


def test_items_are_drawn_by_priority_for_a_refresh_unless_it_is_said_otherwise(ds):
    trees = []
    for said in ({}, {"refresh_from": "priorities"}, {"refresh_from": "uniform"}):
        sampler = samplers.prioritised(4, lambda d, f, b: b.reward / 100, refresh=6, **said)
        once = jax.jit(lambda d, f, s=sampler: s.feedback(s.init(d), d, f))
        trees.append(once(ds, told(np.arange(4))).nodes)
    np.testing.assert_array_equal(trees[0], trees[1])
    assert (np.asarray(trees[0]) != np.asarray(trees[2])).any()


def test_windows_of_a_prioritised_sampler_start_only_where_they_fit(ds):
    sampler = samplers.prioritised(
        64, lambda d, f, batch: jnp.full(len(batch.reward), 0.5), refresh=-1, window=3
    )
    starts = np.isin(np.arange(16), [0, 3, 4, 5, 6, 7, 10, 12, 13])
    tree = sampler.init(ds)
    np.testing.assert_array_equal(leaves_of(tree), starts)
    after, leaves = after_feedback(sampler, tree, ds, range(2))
    np.testing.assert_array_equal(leaves, 0.5 * starts)
    batch = jax.jit(lambda t: sampler.gather(ds, sampler.draw(t, ds, KEY)))(after)
    assert batch.valid.shape == (64, 3)
    np.testing.assert_array_equal(
        batch.valid.sum(1), np.minimum(3, np.array(LENGTHS)[np.asarray(batch.episode[:, 0])])
    )


def test_draws_under_vmap_equal_single_draws(ds):
    keys = jax.random.split(KEY, 2)
    makers = [samplers.windows(8, 3), samplers.prioritised(8, lambda d, f, b: b.reward)]
    for sampler in makers:
        state = sampler.init(ds)
        one = jax.jit(lambda k, s=sampler, x=state: s.draw(x, ds, k))
        np.testing.assert_array_equal(jax.jit(jax.vmap(one))(keys), [one(k) for k in keys])


def test_the_built_in_sampler_makes_steps_windows_and_episodes(ds):
    module = registry.sampler("uniform")
    config = module.Config()
    assert not dataclasses.fields(config)
    shapes = {}
    for window in (0, 4, -1):
        sampler = module.make(config, 5, window)
        assert sampler.feedback is None
        shapes[window] = jax.eval_shape(
            lambda s=sampler: s.gather(ds, s.draw(s.init(ds), ds, KEY))
        ).reward.shape
    assert shapes == {0: (5,), 4: (5, 4), -1: (5, 6)}


def test_a_cyclic_sampler_repeats_its_first_batches_and_the_uniform_one_does_not(ds):
    module = registry.sampler("cyclic")
    sampler = module.make(module.Config(period=3), 8, 0)

    def step(state, key):
        items = sampler.draw(state, ds, key)
        return sampler.feedback(state, ds, told(items)), (
            items,
            samplers.uniform(8).draw((), ds, key),
        )

    keys = jax.random.split(KEY, 9)
    cyclic, uniform = (
        np.asarray(x) for x in jax.jit(lambda: jax.lax.scan(step, sampler.init(ds), keys)[1])()
    )
    np.testing.assert_array_equal(cyclic, np.tile(cyclic[:3], (3, 1)))
    np.testing.assert_array_equal(cyclic[:3], uniform[:3])
    assert len({tuple(row) for row in uniform}) == 9 and len({tuple(row) for row in cyclic}) == 3
    with pytest.raises(ValueError, match="cyclic: field 'period': expected at least 1, found 0"):
        module.make(module.Config(period=0), 8, 0)


@functools.cache
def of_odd_priorities(window, refresh):
    """A feedback and a draw of 256 items, compiled, of a sampler whose priorities are its signal.

    An odd priority is given to half of the refreshed items, and zero to all of them.
    """

    def odd(dataset, feedback, batch):
        half = jnp.where(jnp.arange(len(batch.reward)) % 2, feedback.signal, 0.5)
        return jnp.where(feedback.signal == 0, 0.0, half)

    sampler = samplers.prioritised(256, odd, window=window, refresh=refresh)
    return jax.jit(lambda d, f: sampler.feedback(sampler.init(d), d, f)), jax.jit(sampler.draw)


@pytest.mark.parametrize("priority", [np.nan, -1.0, 0.0, np.inf])
@pytest.mark.parametrize(("window", "refresh"), [(0, 0), (0, -1), (3, 6), (3, -1)])
def test_without_usable_priorities_items_are_drawn_uniformly(ds, priority, window, refresh):
    feedback, draw = of_odd_priorities(window, refresh)
    every = np.arange(16) if refresh >= 0 else np.arange(4)
    tree = feedback(ds, told(every, np.float32(priority)))
    if priority == 0 and refresh >= 0:
        tree = tree_of(np.zeros(16, np.float32))
    draws = np.asarray(draw(tree, ds, KEY))
    starts = [0, 3, 4, 5, 6, 7, 10, 12, 13] if window else list(range(16))
    counts = np.bincount(draws, minlength=16)
    assert np.flatnonzero(counts).tolist() == starts
    assert chisquare(counts[starts]).pvalue > 1e-3
    # A state that is not finite makes the run lost.
    assert bool(np.isfinite(tree.nodes).all()) == (priority == 0)


def test_a_priority_that_vanished_comes_back(ds):
    """An item whose priority was zero gets the next one that is positive."""
    for refresh in (0, -1):
        sampler = samplers.prioritised(
            4, lambda d, f, batch: jnp.full(len(batch.reward), f.signal), refresh=refresh
        )
        feedback = jax.jit(sampler.feedback)
        zero = feedback(sampler.init(ds), ds, told(np.arange(16), np.float32(0)))
        back = feedback(zero, ds, told(np.arange(16), np.float32(0.5)))
        np.testing.assert_array_equal(leaves_of(back), np.full(16, 0.5))
