"""YANHUI: its objective against float64 NumPy, gate and posterior, the contrast's limits and
directions, the tabular toy.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxoff.baselines import yanhui

from jaxoff.config import checked
from jaxoff.data import samplers
from jaxoff.data.dataset import Dataset, place
from jaxoff.data.returns import positivity, returns_of, share_of_best
from jaxoff.losses.contrast import (
    Pairs,
    Scale,
    contrast_loss,
    contrast_terms,
    pairs_of,
    proximity,
    scale_of,
    some,
    squared_distances,
)
from jaxoff.losses.mixture import bound_loss, mixture_log_prob, posterior
from jaxoff.nets.experts import Experts, prototypes
from jaxoff.types import Policy, TimeStep
from tests.reference import yanhui_numpy as ref
from tests.reference.tabular_toy import SPEC, STATES, problem
from tests.test_madt import LENGTHS, cut, data

SIZES: dict[str, Any] = {
    "hidden": 8,
    "layers": 1,
    "heads": 2,
    "experts": 3,
    "width": 5,
    "mode": "rtg_state_action",
    "window": -1,
}
NUMBERS: dict[str, Any] = {
    "eta": 6.0,
    "nu": 5.0,
    "mu": 2.0,
    "contrast": 3.0,
    "return_high": 160.0,
    "gate_temperature": 0.5,
}
SCALE = Scale(jnp.array([1.0, 0.5, 0.0, 2.0]), jnp.asarray(0.6))


def method(**changes: Any) -> yanhui.Method:
    return yanhui.method_of(
        checked(yanhui.Config(**SIZES | NUMBERS | {"anchors": 3} | changes)), data().spec
    )


@functools.cache
def random_params(experts: int = 3) -> Any:
    m = method(experts=experts)
    state = jax.eval_shape(lambda: yanhui.init(m, yanhui.no_returns(), SCALE, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.6 * rng.normal(size=x.shape), state.policy)


def with_returns(m: yanhui.Method, params: Any) -> tuple[yanhui.State, Any, np.ndarray]:
    """(a state that knows the toy's returns, its episodes as windows, their returns to go)."""
    batch, to_go = cut(data(), data().episode_row, 6)
    return yanhui.State(params, (), jax.jit(returns_of)(data()), SCALE), batch, to_go


# --------------------------------------------------------------------------------- the whole
# objective


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"soft": False, "ce_weight": "rho", "cloning": 0.7},
        {"experts": 1},
        {"mix": "uniform", "cloning": 0.0},
    ],
    ids=["full", "hard, weighted", "no mixture", "printed mixture, no cross-entropy"],
)
def test_objective_and_gradient_equal_float64_numpy(changes):
    m = method(**changes)
    params = random_params(m.config.experts)
    if m.config.mix == "uniform":
        params = params | {
            "head": {"params": {k: v for k, v in params["head"]["params"].items() if k != "gate"}}
        }
    state, batch, to_go = with_returns(m, params)
    run = lambda p: yanhui.objective(m, p, state, batch, jax.random.key(0))[0]
    with jax.enable_x64(True):
        loss, grads = jax.jit(jax.value_and_grad(run))(params)
    rows = {name: np.asarray(x) for name, x in batch._asdict().items() if x is not None}
    whole = np.broadcast_to(np.array([6.0, 11.0, 141.0, 165.0])[:, None], (4, 6))
    fixed = (
        rows,
        np.asarray(to_go),
        whole,
        np.asarray(SCALE.inverse),
        float(SCALE.bandwidth),
        prototypes(m.config.experts, 5),
        m.config,
    )
    given = random_params(m.config.experts)
    assert float(loss) == pytest.approx(ref.objective(given, *fixed), rel=1e-6)
    # Only of the contrast does q's own change count: with it the slope is that of the numbers with
    # q let loose.
    if m.config.experts == 1:
        rng = np.random.default_rng(1)
        way = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        at = lambda h: ref.objective(jax.tree.map(lambda x, d: x + h * d, params, way), *fixed)
        found = sum(
            float(np.vdot(g, d))
            for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(way), strict=True)
        )
        assert found == pytest.approx((at(1e-5) - at(-1e-5)) / 2e-5, rel=1e-5)


def test_order_of_items_and_of_experts_does_not_matter():
    m = method(anchors=4)
    state, batch, _ = with_returns(
        m, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), random_params())
    )
    run = jax.jit(
        lambda batch: yanhui.objective(m, state.policy, state, batch, jax.random.key(0))[0]
    )
    order = np.array([2, 0, 3, 1])
    assert float(run(jax.tree.map(lambda x: x[order], batch))) == pytest.approx(
        float(run(batch)), rel=1e-5
    )
    rng = np.random.default_rng(0)
    log_gate, log_part = jax.nn.log_softmax(rng.normal(size=(7, 3))), -rng.exponential(size=(7, 3))
    turn = np.array([1, 2, 0])
    pair = lambda k: (log_gate[:, k], log_part[:, k])
    same = [bound_loss(posterior(*pair(k)), *pair(k)) for k in (np.arange(3), turn)]
    np.testing.assert_allclose(same[0], same[1], rtol=1e-5)
    distance, pairs, actions = (
        rng.random((7, 3, 4)),
        Pairs(*rng.random((3, 7, 9))),
        rng.integers(4, size=9),
    )
    np.testing.assert_allclose(
        contrast_loss(distance[:, turn], pairs, actions, 20.0, 10.0, 4.0),
        contrast_loss(distance, pairs, actions, 20.0, 10.0, 4.0)[:, turn],
    )


# -------------------------------------------------------------------------------- gate and
# posterior


@pytest.mark.parametrize(("count", "width"), [(2, 1), (4, 64), (5, 4)])
def test_prototypes_are_unit_vectors_as_far_apart_as_can_be(count, width):
    omega = prototypes(count, width).astype(np.float64)
    wanted = np.full((count, count), -1 / (count - 1)) + (1 + 1 / (count - 1)) * np.eye(count)
    np.testing.assert_allclose(omega @ omega.T, wanted, atol=1e-6)
    with pytest.raises(
        ValueError,
        match=(
            f"field 'width': expected at least {count} for {count + 1} vectors, found {count - 1}"
        ),
    ):
        prototypes(count + 1, count - 1)


def test_the_gate_sums_to_one_and_its_prototypes_are_not_trained():
    head = Experts(4, 6, 5)
    x = jax.random.normal(jax.random.key(0), (9, 3, 8))

    @jax.jit
    def run(key):
        params = head.init(key, x, 1.0)
        return params, head.apply(params, x, 0.3), head.apply(params, x, 1e6)

    params, mixture, flat = run(jax.random.key(1))
    np.testing.assert_allclose(jnp.exp(mixture.log_gate).sum(-1), 1.0, rtol=1e-5)
    assert float(jnp.abs(mixture.cosine).max()) <= 1 + 1e-5 and mixture.cosine.shape == (9, 3, 4, 5)
    np.testing.assert_allclose(flat.log_gate, np.log(0.25), atol=1e-4)
    shapes = {name: jax.tree.map(jnp.shape, value) for name, value in params["params"].items()}
    assert shapes == {
        "experts": {"kernel": (8, 24), "bias": (24,)},
        "gate": {"kernel": (8, 6)},
        "actions": (5, 6),
    }


def test_posterior_is_bayes_rule_and_makes_the_bound_tight():
    rng = np.random.default_rng(0)
    gate = rng.dirichlet(np.ones(4), 50)
    part = rng.random((50, 4))
    q = posterior(jnp.log(gate), jnp.log(part))
    np.testing.assert_allclose(q, gate * part / (gate * part).sum(1, keepdims=True), rtol=1e-5)
    exact = -np.log((gate * part).sum(1))
    np.testing.assert_allclose(
        bound_loss(q, jnp.log(gate), jnp.log(part)), exact, rtol=1e-5, atol=1e-6
    )
    other = rng.dirichlet(np.ones(4), 50)
    assert (np.asarray(bound_loss(other, jnp.log(gate), jnp.log(part))) > exact).all()
    one = jnp.log(part[:, :1])
    np.testing.assert_allclose(
        bound_loss(posterior(jnp.zeros((50, 1)), one), jnp.zeros((50, 1)), one),
        -one[:, 0],
        rtol=1e-6,
    )


def test_without_contrast_value_and_gradient_are_those_of_the_mixture_likelihood():
    m = method(contrast=0.0)
    state, batch, to_go = with_returns(m, random_params())

    def likelihood(params):
        features = m.trunk.features(params["trunk"], batch, to_go)[:3]
        mixture = m.head.apply(params["head"], features, m.config.gate_temperature)
        log_part = yanhui.log_parts(m, mixture, batch.avail[:3])
        log_probs = mixture_log_prob(mixture.log_gate, log_part)
        taken = jnp.take_along_axis(log_probs, batch.actions[:3, ..., None], -1)[..., 0]
        weight = batch.valid[:3, :, None] * (batch.avail[:3].sum(-1) > 1)
        return -jnp.sum(weight * taken) / jnp.sum(weight)

    with jax.enable_x64(True):
        both = jax.jit(
            lambda p: [
                jax.value_and_grad(f)(p)
                for f in (
                    likelihood,
                    lambda p: yanhui.objective(m, p, state, batch, jax.random.key(0))[0],
                )
            ]
        )
        (wanted, slope), (found, grads) = both(state.policy)
    assert float(found) == pytest.approx(float(wanted), rel=1e-9)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)


# ---------------------------------------------------------------------------------------------- G

ETA, NU, MU = 20.0, 10.0, 4.0


def one_pair(distance: Any, rho: float, kappa: float = 1.0) -> np.ndarray:
    """(positive, negative) terms of one anchor, one expert and one item of the only action, at each
    distance: [2, D].
    """
    distance = jnp.asarray(distance, jnp.float32)
    pairs = pairs_of(
        jnp.full((distance.size, 1), kappa), jnp.array([rho]), jnp.ones((distance.size, 1))
    )
    return np.stack(
        contrast_terms(distance[:, None, None], pairs, jnp.zeros(1, jnp.int32), ETA, NU, MU)
    )[:, :, 0, 0]


def test_limits_of_a_positive_and_of_a_negative():
    distance = np.linspace(0, 1, 21)
    near, far = one_pair(distance, 1.0)
    assert (np.diff(near) > 0).all() and near[0] == pytest.approx(
        np.log1p(np.exp(-MU)) / ETA, rel=1e-5
    )
    np.testing.assert_allclose(far, np.log1p(np.exp(MU - NU)) / NU, rtol=1e-4)
    near, far = one_pair(distance, 0.0)
    np.testing.assert_allclose(near, np.log1p(np.exp(-MU)) / ETA, rtol=1e-4)
    assert (np.diff(far) < 0).all()
    np.testing.assert_allclose(
        far[[0, -1]], [np.log1p(np.exp(MU)) / NU, np.log1p(np.exp(MU - NU)) / NU], rtol=1e-4
    )


def test_g_is_positive_finite_and_additive_over_actions():
    rng = np.random.default_rng(0)
    distance, pairs = (
        jnp.asarray(rng.random((2, 2, 5))),
        Pairs(*jnp.asarray(rng.random((2, 2, 10_000))), jnp.ones((2, 10_000))),
    )
    actions = rng.integers(5, size=10_000)
    run = lambda eta: jax.value_and_grad(
        lambda d: contrast_loss(d, pairs, actions, eta, 60.0, 50.0).sum()
    )(distance)
    for eta in (20.0, 80.0):
        value, slope = jax.jit(run)(eta)
        assert np.isfinite(value) and value > 0 and np.isfinite(slope).all()
    grouped = np.stack(contrast_terms(distance, pairs, actions, ETA, NU, MU))
    single = np.stack(contrast_terms(distance, pairs, actions, ETA, NU, MU, group=False))[..., 0]
    scale = np.array([ETA, NU])[:, None, None]
    np.testing.assert_allclose(
        np.expm1(scale * single), np.expm1(scale[..., None] * grouped).sum(-1), rtol=1e-3
    )


def force(share: float, distance: float, flipped: bool = False) -> float:
    """dG/dD of the anchor's own item; positive: a step on G makes the action likelier.

    flipped: scores as similarities.
    """
    rho = positivity(jnp.asarray([share]), 10.0, 0.5)
    pairs = pairs_of(jnp.ones((1, 1)), rho, jnp.ones((1, 1)))
    g = lambda d: contrast_loss(
        (1 - d if flipped else d)[None, None, None], pairs, jnp.zeros(1, jnp.int32), ETA, NU, MU
    )[0, 0]
    return float(jax.grad(g)(jnp.asarray(distance)))


def test_good_data_attract_poor_data_repel_and_medium_data_do_less():
    assert force(1.0, 0.5) > 0.1 and force(0.0, 0.1) < -0.1
    assert abs(force(0.5, 0.5)) < abs(force(1.0, 0.5)) and abs(force(0.5, 0.1)) < abs(
        force(0.0, 0.1)
    )
    assert force(0.5, 0.05) < 0 < force(0.5, 0.95)  # a balance point between
    # the sign is what the scores are distances for
    assert force(1.0, 0.5, flipped=True) < 0 < force(0.0, 0.9, flipped=True)


def test_one_step_on_g_moves_the_policy_as_the_return_says():
    head, x, action = Experts(1, 6, 5), jax.random.normal(jax.random.key(0), (1, 8)), jnp.array([2])
    one = jnp.ones((1, 1))

    @jax.jit
    def change(rho):
        params = head.init(jax.random.key(1), x, 1.0)
        cosine = lambda p: head.apply(p, x, 1.0).cosine
        g = lambda p: contrast_loss(
            (1 - cosine(p)) / 2, pairs_of(one, rho[None], one), action, ETA, NU, MU
        ).sum()
        after = jax.tree.map(lambda p, d: p - 1e-3 * d, params, jax.grad(g)(params))
        before, then = (jax.nn.log_softmax(cosine(p)[0, 0] / 0.2)[2] for p in (params, after))
        return then - before

    assert float(change(jnp.asarray(0.993))) > 1e-4 and float(change(jnp.asarray(0.007))) < -1e-4


def test_what_is_no_neighbour_or_not_available_has_no_gradient_at_all():
    # Item 0 is far away, item 1 near but of an action that the anchor does not have; both are of
    # another action than item 2.
    near = jnp.array([[1e-3, 1.0, 1.0]])
    pairs = pairs_of(near, jnp.array([0.0, 0.0, 1.0]), jnp.array([[1.0, 0.0, 1.0]]))
    np.testing.assert_array_equal(pairs.member, [[0, 0, 1]])
    grads = jax.grad(lambda d: contrast_loss(d, pairs, jnp.array([0, 1, 2]), ETA, NU, MU).sum())(
        jnp.full((1, 1, 3), 0.4)
    )
    assert grads[0, 0, :2].tolist() == [0.0, 0.0] and grads[0, 0, 2] > 0


# -------------------------------------------------------------------------------- scores and
# proximity


def test_positivity_rises_with_the_return_is_the_same_in_any_dataset_and_hardens_with_its_slope():
    rho = lambda r, slope=10.0: np.asarray(
        positivity(share_of_best(jnp.asarray(r, jnp.float32), 0.0, 20.0), slope, 0.5)
    )
    np.testing.assert_allclose(
        rho([0, 5, 10, 14, 20]), [0.0067, 0.0759, 0.5, 0.8808, 0.9933], atol=1e-4
    )
    assert (np.diff(rho(np.linspace(-1, 21, 50))) >= 0).all() and (
        rho([18.0, 19.0, 20.0]) > 0.98
    ).all()
    # nothing of the other episodes is in it
    np.testing.assert_allclose(rho([3.0, 19.0])[:1], rho([3.0]), rtol=1e-6)
    # as soft=False has it
    np.testing.assert_allclose(rho([0.0, 4.0, 9.9, 18.0, 20.0], 1e4), [0, 0, 0, 1, 1], atol=1e-6)


def test_proximity_is_of_standardised_numbers_that_change_and_its_width_of_other_episodes():
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(40, 3)) * [1.0, 10.0, 0.0] + [0.0, 5.0, 7.0]
    real = np.r_[np.ones(30), np.zeros(10)]
    episode = np.r_[np.arange(30) % 5, -np.ones(10)].astype(int)
    found = jax.jit(scale_of)(
        jnp.asarray(obs), jnp.asarray(real), jnp.asarray(obs), jnp.asarray(episode)
    )
    std = obs[:30].std(0)
    np.testing.assert_allclose(found.inverse, [1 / std[0], 1 / std[1], 0.0], rtol=1e-4)
    x = obs[:30, :2] / std[:2]
    gap = np.sqrt(((x[:, None] - x) ** 2).mean(-1))
    nearest = np.where(episode[:30, None] == episode[:30], np.inf, gap).min(1)
    assert float(found.bandwidth) == pytest.approx(np.median(nearest), rel=1e-4)
    np.testing.assert_allclose(
        squared_distances(jnp.asarray(obs[:4]), jnp.asarray(obs[4:9]), found.inverse),
        gap[:4, 4:9] ** 2,
        atol=1e-4,
    )
    kappa = proximity(jnp.asarray(obs[:4]), jnp.asarray(obs[4:9]), found)
    np.testing.assert_allclose(
        kappa, np.exp(-(gap[:4, 4:9] ** 2) / (2 * np.median(nearest) ** 2)), atol=1e-4
    )


def test_support_is_drawn_without_repetition_and_padding_last():
    valid = jnp.array([0.0, 1, 1, 0, 1, 1])
    for seed in range(3):
        found = np.asarray(some(jax.random.key(seed), valid, 5))
        assert set(found[:4].tolist()) == {1, 2, 4, 5} and found[4] in (0, 3)
    assert some(jax.random.key(0), valid, 9).tolist() == list(range(6))


# ------------------------------------------------------------------------------------------- policy


def test_policy_is_the_mixture_and_knows_neither_returns_nor_labels():
    m = method(mode="state_only", window=1)
    assert list(inspect.signature(yanhui.policy_of).parameters) == ["m", "params"]
    key, no = jax.random.key(3), jnp.zeros(2, bool)
    seen = TimeStep(
        jnp.ones((2, 2, 4)),
        jnp.ones((2, 3)),
        jnp.ones((2, 2, 3)).at[0, 0, 1].set(0),
        jnp.zeros(2),
        no,
        no,
        -jnp.ones((2, 2), int),
    )

    @jax.jit
    def run(seen):
        params = yanhui.init(m, yanhui.no_returns(), SCALE, key).policy
        policy: Policy = yanhui.policy_of(m, params)
        dist = policy.distribution(policy.initial((2,)), seen)[1]
        mixture = m.head.apply(
            params["head"],
            m.trunk.step(params["trunk"], policy.initial((2,)), seen)[1],
            m.config.gate_temperature,
        )
        return dist.probs, mixture

    probs, mixture = run(seen)
    parts = np.exp(
        np.where(
            np.asarray(seen.avail)[..., None, :] > 0,
            mixture.cosine / m.config.action_temperature,
            -np.inf,
        )
    )
    wanted = (np.exp(mixture.log_gate)[..., None] * parts / parts.sum(-1, keepdims=True)).sum(-2)
    np.testing.assert_allclose(probs, wanted, rtol=1e-4)
    assert probs[0, 0, 1] == 0.0 and float(probs.sum(-1).min()) == pytest.approx(1.0)
    np.testing.assert_array_equal(
        run(seen._replace(reward=jnp.full(2, 9.0), last_actions=jnp.ones((2, 2), int)))[0], probs
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": "sum"}, "field 'mix': expected one of gate, uniform, found 'sum'"),
        ({"ce_weight": "r"}, "field 'ce_weight': expected one of none, rho, found 'r'"),
        ({"experts": 0}, "field 'experts': expected at least 1, found 0"),
        ({"experts": 9, "width": 4}, "field 'width': expected at least 8 for 9 vectors, found 4"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        method(**changes)


# ---------------------------------------------------------------------------------------------- toy


@functools.cache
def toy_program() -> Any:
    """(dataset, features, contrast, cloning) -> (greedy actions [12], metrics), 1500 updates.

    Batches are their own support.
    """
    sampler = samplers.uniform(128)
    sizes: dict[str, Any] = {
        "hidden": 32,
        "layers": 1,
        "width": 32,
        "batch_size": 128,
        "support": 128,
    }

    @jax.jit
    def run(dataset: Dataset, features: jax.Array, contrast: Any, cloning: Any) -> Any:
        (stage,) = yanhui.make(
            yanhui.Config(lr=3e-3, contrast=contrast, cloning=cloning, bandwidth=3.0, **sizes), SPEC
        )

        def step(state, key):
            draw, use = jax.random.split(key)
            state, out = stage.learner.update(
                state, sampler.gather(dataset, sampler.draw((), dataset, draw)), use
            )
            return state, out.metrics

        keys = jax.random.split(jax.random.key(1), 1500)
        state, told = lax.scan(step, stage.prepare(None, dataset, jax.random.key(0)), keys)
        no, row = jnp.zeros(STATES, bool), features[:, None]
        seen = TimeStep(
            row,
            row[:, 0],
            jnp.ones((STATES, 1, 6)),
            jnp.zeros(STATES),
            no,
            no,
            jnp.full((STATES, 1), -1),
        )
        policy = stage.learner.policy(state)
        return policy.distribution(policy.initial((STATES,)), seen)[1].mode()[:, 0], jax.tree.map(
            lambda x: x[-100:].mean(), told
        )

    return run


def toy_accuracy(
    poor: float, contrast: float, cloning: float = 1.0
) -> tuple[float, dict[str, float]]:
    episodes, features, right = problem(poor)
    actions, told = toy_program()(place(episodes, SPEC), features, contrast, cloning)
    return float(np.mean(np.asarray(actions) == right)), {
        name: float(value) for name, value in told.items()
    }


def test_toy_cloning_falls_with_poor_data_and_the_full_objective_holds(optimised):
    cloned = {poor: toy_accuracy(poor, 0.0)[0] for poor in (0.0, 0.5, 0.9)}
    assert cloned[0.0] == 1.0 and 0.4 < cloned[0.5] < 0.95 and cloned[0.9] < 0.2
    for poor in (0.0, 0.5, 0.9):
        accuracy, told = toy_accuracy(poor, 20.0)
        # Of 12 states; which of them training gets right with .9 poor depends on last bits of XLA:
        # all with JAX 0.10, all but one with 0.12.
        assert accuracy >= (1.0 if poor < 0.9 else 11 / 12 - 1e-6), poor
        assert told["usage_max"] < 0.95
    assert toy_accuracy(0.9, 5.0)[0] < 0.6  # the coefficient matters
    assert 0.7 < toy_accuracy(0.9, 20.0, 0.0)[0] <= 1.0  # without cross-entropy


def test_defaults_are_those_of_the_toy():
    defaults = {field.name: field.default for field in dataclasses.fields(yanhui.Config)}
    wanted = {
        "experts": 4,
        "width": 64,
        "gate_temperature": 1.0,
        "action_temperature": 0.2,
        "eta": 20.0,
        "nu": 10.0,
        "mu": 4.0,
    }
    assert {name: defaults[name] for name in wanted} == wanted and (
        defaults["contrast"],
        defaults["cloning"],
    ) == (20.0, 1.0)
    assert len(LENGTHS) == 4
