"""OMIGA: losses and gradients against float64 NumPy, the traps of its formulas, and policies where
theory says what they are.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxoff.baselines import omiga

from jaxoff.data import recipes, samplers
from jaxoff.data.dataset import place
from jaxoff.distributions import TanhNormal
from jaxoff.envs.games.matrix import XOR, joint_probabilities, make_matrix
from jaxoff.losses.implicit_values import (
    exponent,
    exponent_shift,
    implicit_policy_loss,
    implicit_value_loss,
)
from jaxoff.types import EnvSpec, Transition
from tests import toys
from tests.reference import omiga_numpy as ref

B, T, N, A, BOUND = 6, 3, 2, 3, 1.5


# ----------------------------------------------------------------------------------- small problems


def spec_of(discrete: bool = True) -> EnvSpec:
    bound = 1.0 if discrete else BOUND
    return toys.spec_of(discrete, num_agents=N, horizon=T, action_bound=bound)


def batch_of(discrete: bool = True) -> Transition:
    """Windows of which two end early; real actions may leave the bound."""
    return toys.batch_of(spec_of(discrete), (3, 3, 3, 3, 2, 1), (1, 3, 4), bound=1.2 * BOUND)


def method(discrete: bool = True, **config: Any) -> omiga.Method:
    return omiga.method_of(
        omiga.Config(**{"hidden": 8, "mixer_hidden": 4} | config), spec_of(discrete)
    )


@functools.cache
def first_state(discrete: bool = True) -> omiga.State:
    """Slow nets that differ from the present ones."""
    m = method(discrete)
    state, other = map(jax.jit(lambda key: omiga.init(m, key)), map(jax.random.key, (0, 1)))
    return state._replace(
        target_critic=other.critic, target_mixer=other.mixer, target_value=other.value
    )


def nets_of(state: omiga.State) -> dict[str, Any]:
    """The same parameters, for NumPy."""
    layer = lambda x: (np.array(x["kernel"], float), np.array(x["bias"], float))
    nets = {}
    for name, tree in state._asdict().items():
        if name.endswith("mixer"):
            nets[name] = {
                part: layer(tree["params"][part]) for part in ("trunk", "scale", "offset")
            }
        elif not name.endswith("opt"):
            nets[name] = [layer(tree["params"][f"Dense_{k}"]) for k in range(3)]
    return nets


@functools.cache
def evaluated(
    discrete: bool, mask_actor: bool
) -> tuple[dict[str, float], dict[str, Any], np.ndarray]:
    """Losses, their gradients and z of the small problem, in double precision."""
    with jax.enable_x64(True):
        m, batch = method(discrete, alpha=0.3, gamma=0.9, mask_actor=mask_actor), batch_of(discrete)
        state = toys.double(first_state(discrete))

        @jax.jit
        def compute(state: omiga.State):
            grad = functools.partial(jax.value_and_grad, has_aux=True)
            (value, (z, _)), value_grad = grad(lambda p: omiga.value_loss(m, p, state, batch))(
                state.value
            )
            (critic, _), critic_grad = grad(lambda p: omiga.critic_loss(m, p, state, batch))(
                (state.critic, state.mixer)
            )
            policy, policy_grad = jax.value_and_grad(lambda p: omiga.policy_loss(m, p, z, batch))(
                state.policy
            )
            grads = {
                "value": value_grad,
                "critic": critic_grad[0],
                "mixer": critic_grad[1],
                "policy": policy_grad,
            }
            return {"value": value, "critic": critic, "policy": policy}, grads, z

        losses, grads, z = jax.device_get(compute(state))
    return (
        {name: float(x) for name, x in losses.items()},
        nets_of(state._replace(**grads)),
        z.reshape(-1, N),
    )


CASES = pytest.mark.parametrize(
    ("discrete", "mask_actor"),
    [(True, True), (True, False), (False, True)],
    ids=["discrete", "discrete, unmasked actor", "continuous"],
)


def reference_loss(
    name: str, nets: dict[str, Any], discrete: bool, mask_actor: bool, top: float, z: np.ndarray
) -> float:
    rows, bound = toys.rows_of(batch_of(discrete)), 1.0 if discrete else BOUND
    if name == "policy":
        return ref.policy_loss(nets, rows, z, discrete, bound, mask_actor)
    return (
        ref.value_loss(nets, rows, 0.3, discrete, bound, top)[0]
        if name == "value"
        else ref.critic_loss(nets, rows, 0.9, discrete, bound)
    )


def reference_constants(nets: dict[str, Any], discrete: bool) -> tuple[float, np.ndarray]:
    """zmax and z."""
    rows, bound = toys.rows_of(batch_of(discrete)), 1.0 if discrete else BOUND
    return ref.value_loss(nets, rows, 0.3, discrete, bound)[1], ref.exponents(
        nets, rows, 0.3, discrete, bound
    )[0]


@CASES
def test_losses_equal_float64_numpy(discrete, mask_actor):
    losses, _, z = evaluated(discrete, mask_actor)
    nets = nets_of(first_state(discrete))
    top, wanted_z = reference_constants(nets, discrete)
    np.testing.assert_allclose(z, wanted_z, rtol=1e-9)
    for name, loss in losses.items():
        assert loss == pytest.approx(
            reference_loss(name, nets, discrete, mask_actor, top, wanted_z), rel=1e-6
        ), name


@CASES
def test_gradients_equal_finite_differences_of_the_numpy_losses(discrete, mask_actor):
    # Four entries of each net, +-1e-5; z, zmax and the slow nets are held fixed, as constants of
    # each loss are.
    _, grads, _ = evaluated(discrete, mask_actor)
    nets = nets_of(first_state(discrete))
    top, z = reference_constants(nets, discrete)
    rng = np.random.default_rng(3)
    for name in ("value", "critic", "mixer", "policy"):
        layers = list(nets[name].values()) if name == "mixer" else nets[name]
        grad_layers = list(grads[name].values()) if name == "mixer" else grads[name]
        pairs = [
            pair for k in range(len(layers)) for pair in zip(layers[k], grad_layers[k], strict=True)
        ]
        for parameter, grad in [pairs[k] for k in rng.choice(len(pairs), 4)]:
            place_ = tuple(rng.integers(0, size) for size in parameter.shape)
            around = []
            for shift in (1e-5, -1e-5):
                parameter[place_] += shift
                loss = "critic" if name == "mixer" else name
                around.append(reference_loss(loss, nets, discrete, mask_actor, top, z))
                parameter[place_] -= shift
            assert grad[place_] == pytest.approx(
                (around[0] - around[1]) / 2e-5, rel=1e-5, abs=1e-8
            ), (name, place_)


# ------------------------------------------------------------------------------------- the formulas


def test_gradient_of_the_value_loss_is_the_missing_normalisation():
    # d/dV = exp(-zmax) (w / alpha) (1 - exp(z)): w = .5, alpha = 2, Q - V = 4 and -4, so z = 1 and
    # -1, zmax = 1.
    q, v, weight = jnp.array([4.0, -4.0]), jnp.zeros(2), jnp.full(2, 0.5)

    def total(v):
        z = exponent(q, v, weight, 2.0)
        return implicit_value_loss(z, v, weight, 2.0, exponent_shift(z, jnp.ones(2))).sum()

    np.testing.assert_allclose(
        jax.grad(total)(v), np.exp(-1) * 0.25 * (1 - np.exp([1.0, -1.0])), rtol=1e-6
    )


def test_beyond_the_clip_the_exponential_has_no_gradient():
    # z = 40 and -40 are clipped to 10 and -10: what is left of the gradient is exp(-10) (w / alpha)
    # of the linear part.
    q, v, weight = jnp.array([40.0, -40.0]), jnp.zeros(2), jnp.ones(2)

    def total(v):
        z = exponent(q, v, weight, 1.0)
        return implicit_value_loss(z, v, weight, 1.0, exponent_shift(z, jnp.ones(2))).sum()

    np.testing.assert_allclose(exponent(q, v, weight, 1.0), [10.0, -10.0])
    np.testing.assert_allclose(jax.grad(total)(v), np.full(2, np.exp(-10.0)), rtol=1e-6)


def test_shift_is_at_least_minus_one_and_ignores_padding():
    z = jnp.array([-5.0, -3.0, 8.0])
    assert float(exponent_shift(z, jnp.array([1.0, 1.0, 0.0]))) == -1.0
    assert float(exponent_shift(z, jnp.ones(3))) == 8.0


def test_weights_do_not_change_when_q_and_v_move_together():
    q, v, weight = jnp.array([1.0, 3.0]), jnp.array([0.5, 2.0]), jnp.array([0.3, 0.7])
    np.testing.assert_allclose(
        exponent(q + 7, v + 7, weight, 0.5), exponent(q, v, weight, 0.5), rtol=1e-5
    )


def test_no_gradient_of_the_policy_loss_reaches_the_values():
    slope = jax.grad(lambda z: implicit_policy_loss(z, jnp.array([-1.0, -2.0])).sum())(
        jnp.array([0.3, 0.1])
    )
    np.testing.assert_array_equal(slope, [0.0, 0.0])


def test_density_of_a_squashed_normal_integrates_to_one():
    # One dimension, bound 2: sum of densities on a grid of (-2, 2) times its step.
    dist = TanhNormal(jnp.array([0.3]), jnp.array([-0.5]), 2.0)
    grid = np.linspace(-2, 2, 4001)[1:-1]
    assert np.exp(dist.log_prob(jnp.asarray(grid)[:, None])).sum() * 1e-3 == pytest.approx(
        1, abs=1e-3
    )


def test_a_squashed_normal_samples_inside_its_bound_around_its_mode():
    dist = TanhNormal(jnp.array([[0.4, -9.0]]), jnp.full((1, 2), -5.0), 2.0)
    np.testing.assert_allclose(dist.mode(), [[2 * np.tanh(0.4), -2.0]], rtol=1e-5)
    drawn = dist.sample(seed=jax.random.key(0), sample_shape=(100,))
    assert drawn.shape == (100, 1, 2) and np.abs(drawn).max() <= 2
    # sigma = e^-5: .0135 / 10 of error
    np.testing.assert_allclose(drawn.mean(0), dist.mode(), atol=0.01)


@pytest.mark.parametrize("bound", [1.0, 0.4, 3.0])
def test_density_and_gradient_are_finite_at_the_bound_and_beyond(bound):
    actions = bound * jnp.array([[1.0], [-1.0], [1.3]])
    of = lambda mean: TanhNormal(mean, jnp.zeros((3, 1)), bound).log_prob(actions)
    assert np.isfinite(of(jnp.zeros((3, 1)))).all()
    assert np.isfinite(jax.grad(lambda mean: of(mean).sum())(jnp.zeros((3, 1)))).all()


# ------------------------------------------------------------------------------------------ updates


@functools.cache
def stepper(discrete: bool = True):
    """update(leaves of the config, state, batch), compiled once."""

    @jax.jit
    def update(leaves: dict[str, Any], state: omiga.State, batch: Transition):
        return omiga.update(method(discrete, **leaves), state, batch)

    leaves = {"lr": 5e-4, "gamma": 0.99, "polyak": 0.005, "alpha": 10.0, "max_grad_norm": 1.0}
    return lambda state, batch, **changes: update(
        {name: jnp.float32(changes.get(name, x)) for name, x in leaves.items()}, state, batch
    )


def test_gradients_of_each_optimiser_are_clipped_apart():
    # Adam's mean after the first step is .1 g, so its norm is .1 of the clipped norm 1e-4; Q and
    # mixer share one.
    after, _ = stepper()(first_state(), batch_of(), max_grad_norm=1e-4)
    for opt in (after.policy_opt, after.critic_opt, after.value_opt):
        assert np.linalg.norm(toys.flat(opt[1][0].mu)) == pytest.approx(1e-5, rel=1e-4)


def test_policies_are_weighted_by_v_before_its_step_and_metrics_are_the_losses():
    # V moves by lr = .1 in this update: z by the V after it would give another loss.
    nets = nets_of(first_state())
    top, z = reference_constants(nets, True)
    metrics = stepper()(first_state(), batch_of(), lr=0.1, alpha=0.3, gamma=0.9)[1].metrics
    for name in ("policy", "value", "critic"):
        assert float(metrics[name]) == pytest.approx(
            reference_loss(name, nets, True, True, top, z), rel=1e-5
        ), name


def test_rewards_to_go_end_with_the_episode():
    # Rewards 1, 2, 4 of which the last slot of the second episode is padding: 7, 6, 4 and 3, 2, 0.
    batch = batch_of()._replace(
        reward=jnp.array([[1.0, 2.0, 4.0]] * 2), valid=jnp.array([[1.0, 1, 1], [1, 1, 0]])
    )
    np.testing.assert_allclose(omiga.with_rewards_to_go(batch).reward, [[7, 6, 4], [3, 2, 0]])


def test_rewards_to_go_take_the_place_of_rewards_in_the_loss_of_q():
    # All values 0, so the loss is the mean square of the target: for three rewards of 1, (9 + 4 +
    # 1) / 3.
    state, whole = (
        constant_state(first_state(), np.zeros(A), 0.0),
        batch_of()._replace(reward=np.ones((B, T)), valid=np.ones((B, T))),
    )
    m = method(rtg_reward=True, window=-1)
    found = jax.jit(lambda state, batch: omiga.update(m, state, batch)[1].metrics["critic"])(
        state, whole
    )
    assert float(found) == pytest.approx(14 / 3, rel=1e-5)


def test_rewards_to_go_of_single_steps_are_refused():
    with pytest.raises(ValueError, match="rtg_reward=true: expected window=-1, found 0"):
        omiga.make(omiga.Config(rtg_reward=True), spec_of())


def constant_state(state: omiga.State, q: np.ndarray, v: float) -> omiga.State:
    """Q_i(a) = q [A], V_i = v, w_i = 1, b = 0 everywhere, present and slow."""

    def constant(tree: Any, last: str, values: Any) -> Any:
        tree = jax.tree.map(jnp.zeros_like, tree)
        tree["params"][last]["bias"] = tree["params"][last]["bias"] + jnp.asarray(
            values, jnp.float32
        )
        return tree

    critic, value = constant(state.critic, "Dense_2", q), constant(state.value, "Dense_2", v)
    mixer = constant(state.mixer, "scale", 1.0)
    return state._replace(
        critic=critic,
        value=value,
        mixer=mixer,
        target_critic=critic,
        target_value=value,
        target_mixer=mixer,
    )


@pytest.mark.parametrize("mask_actor", [True, False])
def test_executed_policies_never_take_unavailable_actions(mask_actor):
    avail = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    seen = toys.seen(spec_of(), avail=avail)
    m = method(mask_actor=mask_actor)
    probs = np.asarray(omiga.policy_of(m, first_state().policy).distribution((), seen)[1].probs)
    np.testing.assert_array_equal(probs > 0, avail > 0)


def test_extreme_temperatures_and_rewards_stay_finite():
    state, batch = first_state(), batch_of()
    for _ in range(3):
        state, out = stepper()(state, batch._replace(reward=1e3 * batch.reward), alpha=1e-3)
    assert np.isfinite(toys.flat(state)).all() and all(
        np.isfinite(float(x)) for x in out.metrics.values()
    )


# ---------------------------------------------------------------------------------------- toy truth


def test_learned_value_normalises_the_weights_in_one_state():
    # w = 1, b = 0, slow nets frozen at Q = (0, 1, 3), data (.5, .3, .2), alpha = 2: V = 2 log(.5 +
    # .3 e^.5 + .2 e^1.5). So the mean of exp((Q - V) / alpha) is 1, to 1e-3, and the policy ends
    # near mu exp((Q - V) / alpha).
    q, mu = np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.3, 0.2])
    actions = np.repeat(np.arange(3), (10 * mu).astype(int))[:, None].repeat(N, 1).astype(np.int32)
    batch = toys.plays(spec_of(), actions, 0.0)
    m = method(alpha=2.0, polyak=0.0, lr=2e-3)
    start = constant_state(first_state(), q, 0.0)
    start = start._replace(value=first_state().value)

    @jax.jit
    def train(state):
        return lax.scan(lambda s, _: (omiga.update(m, s, batch)[0], None), state, None, 3000)[0]

    after = train(start)
    v = m.value.apply(after.value, omiga.with_number(batch.obs[0]))[:, 0]
    np.testing.assert_allclose(v, np.full(N, 2 * np.log((mu * np.exp(q / 2)).sum())), atol=2e-3)
    np.testing.assert_allclose(
        (mu * np.exp((q - np.asarray(v)[:, None]) / 2)).sum(-1), np.ones(N), atol=1e-3
    )
    logits = m.actor.apply(after.policy, omiga.with_number(batch.obs[0]))
    best = mu * np.exp(q / 2) / (mu * np.exp(q / 2)).sum()
    np.testing.assert_allclose(jax.nn.softmax(logits), np.tile(best, (N, 1)), atol=0.01)


def test_small_alpha_leaves_the_data_on_xor_c_and_large_alpha_clones(optimised):
    # (c) holds AA, AB, BA: B pays more whatever the other does, so a sum of local values prefers
    # (B, B), which pays -2.
    data = place(recipes.xor("c", episodes=300), make_matrix("xor", XOR).spec)
    sampler, first = samplers.uniform(128), toys.seen(data.spec)

    def one(alpha: jax.Array) -> jax.Array:
        learner = omiga.make(
            omiga.Config(alpha=alpha, lr=5e-3, polyak=0.05, hidden=16, mixer_hidden=8), data.spec
        )

        def step(state, key):
            state, _ = learner.update(state, sampler.gather(data, sampler.draw((), data, key)), key)
            return state, learner.policy(state).distribution((), first)[1].probs

        _, policies = lax.scan(
            step, learner.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 1000)
        )
        return policies[-200:].mean(0)

    small, large = np.asarray(
        jax.jit(lambda alphas: lax.map(one, alphas))(jnp.array([0.05, 100.0]))
    )
    assert joint_probabilities(small)[1, 1] > 0.9, small
    np.testing.assert_allclose(large, [[2 / 3, 1 / 3]] * 2, atol=0.05)
