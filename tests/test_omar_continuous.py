"""OMAR for continuous actions: its searches against loops, grids and known statistics, its loss by
hand and against float64 NumPy.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines.omar import continuous as omar
from jaxoff.baselines.omar.continuous import (
    best_of,
    cem_update,
    rectified_loss,
    search,
    softmax_update,
    target_action,
)
from jaxoff.experiments.omar.landscape import BEST, LOCAL, bimodal, climb

from jaxoff.learners.actor_critic import Agents
from jaxoff.training.spec import TrainSpec, resolve
from tests import toys
from tests.reference import actor_critic_numpy as ref
from tests.test_actor_critic import SIZES, SPEC, A, M, mine_of, nets_of

CEM: dict[str, Any] = {
    "search": "cem",
    "search_iterations": 2,
    "search_samples": 20,
    "search_elites": 5,
}
FORMS: dict[str, dict[str, Any]] = {"softmax": {}, "cem": CEM, "random": {"search": "random"}}


def found_by(
    config: omar.Config, value: Any, rows: int, size: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    return jax.tree.map(
        np.asarray,
        jax.jit(lambda key: search(config, value, (rows, size), 1.0, key))(jax.random.key(seed)),
    )


def noise_of(config: omar.Config, rows: int, size: int, seed: int = 0) -> np.ndarray:
    """The normal draws of a search, [J, K, M, A]."""
    keys = jax.random.split(jax.random.key(seed), config.search_iterations)
    return np.asarray(
        jax.vmap(lambda k: jax.random.normal(k, (config.search_samples, rows, size)))(keys)
    )


# -------------------------------------------------------------------------------------------
# searches


@pytest.mark.parametrize("name", ["softmax", "cem"])
def test_searches_equal_loops_over_rows(name):
    # A value of the row and both dimensions with several modes: sin(5 a_0 + m) + a_0 a_1 - a_1^2.
    config, rows = omar.Config(**FORMS[name], search_spread=1.5), 6
    number = np.arange(rows)
    value = lambda xp: (
        lambda a: xp.sin(5 * a[..., 0] + number) + a[..., 0] * a[..., 1] - a[..., 1] ** 2
    )
    action, q = found_by(config, value(jnp), rows, 2)
    noise = noise_of(config, rows, 2).astype(float)
    loops = ref.softmax_search if name == "softmax" else ref.cem_search
    wanted = loops(value(np), noise, 1.5, *(() if name == "softmax" else (5,)))
    np.testing.assert_allclose(action, wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(q, wanted[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_searches_find_what_brute_force_finds_on_a_grid(name):
    # One dimension, values whose best action differs by row, and lies on the bound in the first and
    # the last.
    best = np.linspace(-1.2, 1.2, 25)
    value = lambda a: -4 * jnp.square(a[..., 0] - best) + 0.1 * jnp.cos(3 * a[..., 0])
    config = omar.Config(**FORMS[name]).replace(search_samples=100, search_iterations=5)
    grid = np.linspace(-1, 1, 4001)
    top = np.asarray(value(jnp.broadcast_to(grid[:, None, None], (4001, 25, 1))))
    action, q = found_by(config, value, 25, 1)
    assert (np.abs(action) <= 1).all() and (q <= top.max(0) + 1e-5).all()
    assert (top.max(0) - q).max() < 0.05
    assert (
        np.abs(action[:, 0] - grid[top.argmax(0)]).max() < 0.05
        and np.abs(action[[0, -1], 0]).min() > 0.95
    )


def test_softmax_update_by_hand():
    # Samples (-1, 0, 1), q = (0, 0, ln 2): weights .25, .25, .5, mean .25; spread sqrt((1.5625 +
    # .0625 + .5625) / 3) = .853913.
    samples, q = (
        jnp.array([-1.0, 0.0, 1.0])[:, None, None],
        jnp.array([0.0, 0.0, np.log(2)])[:, None],
    )
    for shift in (0.0, 1e4):
        mean, spread = softmax_update(samples, q + shift)
        assert (float(mean[0, 0]), float(spread[0, 0])) == pytest.approx(
            (0.25, 0.853913), abs=1e-3 if shift else 1e-6
        )
    mean, spread = softmax_update(samples, jnp.full((3, 1), 7.0))
    assert (float(mean[0, 0]), float(spread[0, 0])) == pytest.approx(
        (0.0, np.sqrt(2 / 3)), abs=1e-6
    )


def test_first_draws_are_clipped_at_the_bound_in_two_thirds_of_coordinates():
    # One iteration of one sample ends with the first draw: N(0, 4), beyond 1 with probability .617.
    config = omar.Config(search_iterations=1, search_samples=1)
    samples, _ = found_by(config, lambda a: jnp.zeros(a.shape[:2]), 20_000, 2)
    assert np.abs(samples).max() == 1.0 and (np.abs(samples) == 1).mean() == pytest.approx(
        0.617, abs=0.01
    )


def test_a_search_starts_where_it_is_told():
    # A flat value: the first draws of one sample are normal around the mean, whatever the search.
    for name in ("softmax", "cem"):
        config = omar.Config(**FORMS[name]).replace(
            search_iterations=1, search_spread=0.01, search_mean=0.4
        )
        samples, _ = found_by(config, lambda a: jnp.zeros(a.shape[:2]), 1000, 1)
        assert samples.mean() == pytest.approx(0.4, abs=0.01) and samples.std() < 0.02


def test_cem_update_by_hand_keeps_elites_and_the_best_value_never_falls():
    # Elites .2 and .4: deviation over E - 1 is .141421.
    none = jnp.zeros((2, 1, 1)), jnp.full((2, 1), -jnp.inf)
    mean, spread, elites = cem_update(
        jnp.array([0.9, 0.2, 0.4])[:, None, None], jnp.array([0.0, 2.0, 1.0])[:, None], none
    )
    assert (float(mean[0, 0]), float(spread[0, 0])) == pytest.approx((0.3, 0.141421), abs=1e-6)
    # Worse samples later: the pool of 3 + 2 still has both, in order of value.
    _, _, again = cem_update(jnp.array([0.9, 0.8, 0.7])[:, None, None], jnp.zeros((3, 1)), elites)
    np.testing.assert_array_equal(again[0][:, 0, 0], np.float32([0.2, 0.4]))
    np.testing.assert_array_equal(again[1][:, 0], [2.0, 1.0])
    # Iteration by iteration on random values: what is kept of the pool of 25 never gets worse.
    rng = np.random.default_rng(0)
    elites = jnp.zeros((5, 30, 1)), jnp.full((5, 30), -jnp.inf)
    best = []
    for _ in range(4):
        samples, q = rng.normal(size=(20, 30, 1)), rng.normal(size=(20, 30))
        _, _, elites = cem_update(
            jnp.asarray(samples, jnp.float32), jnp.asarray(q, jnp.float32), elites
        )
        best.append(np.asarray(elites[1][0]))
    assert (
        elites[1].shape == (5, 30)
        and (np.diff(best, axis=0) >= 0).all()
        and np.isfinite(elites[1]).all()
    )


@pytest.mark.parametrize(("name", "wanted"), [("softmax", 0.637), ("cem", 0.894)])
def test_the_last_iterations_best_sample_finds_the_higher_of_two_narrow_modes_as_often_as_known(
    name, wanted, optimised
):
    # Q = .6 exp(-(a + .5)^2 / .02) + exp(-(a - .6)^2 / .02)
    value = lambda a: (
        0.6 * jnp.exp(-jnp.square(a[..., 0] + 0.5) / 0.02)
        + jnp.exp(-jnp.square(a[..., 0] - 0.6) / 0.02)
    )
    action, q = found_by(omar.Config(**FORMS[name]), value, 40_000, 1)
    assert (np.abs(action[:, 0] - 0.6) < 0.15).mean() == pytest.approx(wanted, abs=0.01)
    # the value is that of the sample
    np.testing.assert_allclose(q, value(action), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "wanted"), [(1, 0.107), (2, 0.226), (3, 0.304)])
def test_softmax_search_misses_a_quadratics_maximum_by_as_much_as_known(size, wanted, optimised):
    action, _ = found_by(
        omar.Config(), lambda a: -5 * jnp.sum(jnp.square(a - 0.3), -1), 20_000, size
    )
    assert np.sqrt(np.square(action - 0.3).mean()) == pytest.approx(wanted, abs=0.004)


def test_random_search_draws_as_many_samples_as_the_others_in_all():
    seen: list[Any] = []
    search(
        omar.Config(search="random"),
        lambda a: seen.append(a) or jnp.sum(a, -1),
        (2, 3),
        1.0,
        jax.random.key(0),
    )
    assert seen[0].shape == (30, 2, 3) and np.abs(seen[0]).max() <= 1
    action, q = best_of(seen[0], jnp.sum(seen[0], -1))
    assert q[1] == np.asarray(seen[0])[:, 1].sum(-1).max() and action[1].sum() == pytest.approx(
        float(q[1])
    )


# -----------------------------------------------------------------------------------------------
# loss


def test_loss_by_hand():
    # pi = .5, a^ = -.5, Q = 2, tau = .7: .7 * 1 - .3 * 2 + 1e-3 * .25 = .10025; the same with two
    # equal dimensions.
    for size in (1, 2):
        loss = rectified_loss(
            jnp.full((1, size), 0.5), jnp.full((1, size), -0.5), jnp.array([2.0]), 0.7, 1e-3
        )
        assert float(loss[0]) == pytest.approx(0.10025, rel=1e-5)


def test_ties_keep_the_policys_action_and_no_gradient_passes_the_target():
    own, found = jnp.array([[0.1], [0.2], [0.3]]), jnp.array([[0.9], [0.8], [0.7]])
    wanted = target_action(own, jnp.array([1.0, 2.0, 1.0]), found, jnp.array([1.0, 1.0, 1.5]))
    np.testing.assert_array_equal(wanted, np.float32([[0.1], [0.2], [0.7]]))
    # Where pi is the best, the mimic term is 0; its gradient where it is not: 2 (pi - a^) / A, here
    # of one dimension.
    of_q = lambda a: target_action(a, jnp.array([1.0, 2.0, 1.0]), found, jnp.array([1.0, 1.0, 1.5]))
    loss = lambda a: jnp.sum(rectified_loss(a, of_q(a), jnp.zeros(3), 1.0, 0.0))
    np.testing.assert_allclose(jax.grad(loss)(own)[:, 0], [0.0, 0.0, 2 * (0.3 - 0.7)], rtol=1e-5)
    # tau = 1: the same gradient for any Q with the same target
    of = lambda scale: jax.grad(
        lambda a: jnp.sum(rectified_loss(a, found, scale * a[:, 0] ** 2, 1.0, 1e-3))
    )(own)
    np.testing.assert_array_equal(of(1.0), of(50.0))


@pytest.mark.parametrize(
    ("name", "centralised"), [("softmax", False), ("cem", False), ("softmax", True)]
)
def test_actor_loss_and_gradient_equal_float64_numpy(name, centralised):
    i, nets, batch, key = 1, nets_of(centralised), toys.steps_of(SPEC, M), jax.random.key(4)
    config = omar.Config(**SIZES, **FORMS[name], mimic=0.6, centralised=centralised)

    def losses(config: Any, nets: Any, batch: Any) -> Any:
        m = omar.method_of(config, SPEC)
        critic, policy = toys.part(nets["critic"], i), toys.part(nets["policy"], i)
        mine = mine_of(nets, batch, i)
        actor = jax.value_and_grad(lambda p: omar.actor_loss(m, p, critic, mine, key)[0])(policy)
        draws = [
            jax.random.normal(k, (config.search_samples, M, A))
            for k in jax.random.split(key, config.search_iterations)
        ]
        return actor, jnp.stack(draws)

    with jax.enable_x64(True):
        (loss, grads), noise = jax.tree.map(
            np.asarray, jax.jit(losses)(toys.double(config), nets, batch)
        )
    rows, critic, policy = (
        toys.arrays(batch),
        toys.part(nets["critic"], i),
        toys.part(nets["policy"], i),
    )
    value = lambda samples: ref.first_values(critic, rows, i, samples, centralised)
    found, q = (
        ref.softmax_search(value, noise, 2.0)
        if name == "softmax"
        else ref.cem_search(value, noise, 2.0, 5)
    )
    own = ref.act(policy, rows["obs"][:, i], rows["valid"] > 0)
    target = np.where((value(own[None])[0] >= q)[:, None], own, found)
    # both kinds occur
    assert 0 < (target[:-1] == own[:-1]).all(-1).sum() < M - 1 or name != "softmax"
    wanted = lambda p: ref.actor_loss(p, critic, rows, i, target, centralised, 0.6, 1e-3)
    assert float(loss) == pytest.approx(wanted(policy), rel=1e-6)
    difference, way = toys.slope(wanted, policy, 3)
    assert toys.along(grads, way) == pytest.approx(difference, rel=1e-5)


def test_coefficient_of_the_target_is_no_rate_of_slow_nets():
    # mimic = 1 neither freezes nor copies the slow nets: they go 1 % of the way.
    learner = omar.make(omar.Config(**SIZES, mimic=1.0, polyak=0.01), SPEC)
    before = jax.jit(learner.init)(jax.random.key(0))
    after, out = jax.jit(learner.update)(before, toys.steps_of(SPEC, 6), jax.random.key(1))
    for slow, old, new in (
        (after.target_critic, before.critic, after.critic),
        (after.target_policy, before.policy, after.policy),
    ):
        np.testing.assert_allclose(
            toys.flat(slow), 0.99 * toys.flat(old) + 0.01 * toys.flat(new), rtol=1e-4, atol=1e-6
        )
        assert np.abs(toys.flat(new) - toys.flat(old)).max() > 1e-5
    assert float(resolve(TrainSpec("omar", "mpe/spread/medium")).config.mimic[0]) == 1.0
    assert 0 <= float(out.metrics["search_better"]) <= 1
    assert isinstance(omar.method_of(omar.Config(**SIZES), SPEC).agents, Agents)


# ------------------------------------------------------------------------------------------ toy
# truth


@pytest.mark.parametrize("name", ["softmax", "cem"])
def test_gradient_steps_stay_at_the_local_mode_and_the_target_leaves_it(name, optimised):
    # tau = 0, MA-CQL's actor, stays within .02 of -.6; tau = .7 and 1 reach .4 with every seed.
    config, shares = omar.Config(**FORMS[name]), jnp.array([0.0, 0.7, 1.0])
    run = jax.vmap(lambda mimic, key: climb(config, mimic, key)[-1], (None, 0))
    ends = np.asarray(
        jax.jit(lambda keys: jax.lax.map(lambda mimic: run(mimic, keys), shares))(
            jax.random.split(jax.random.key(0), 5)
        )
    )
    assert np.abs(ends[0] - LOCAL).max() < 0.02, ends[0]
    assert np.abs(ends[1:] - BEST).max() < 0.02, ends[1:]
    assert float(bimodal(jnp.float32(BEST))) > float(bimodal(jnp.float32(LOCAL)))
