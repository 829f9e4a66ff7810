"""MADDPG: the exact form against the closed forms of Tilbury et al. (2024), the learned form
against hand-made batches.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines import maddpg
from jaxoff.experiments.pjap import runs

from jaxoff.config import checked
from jaxoff.data import samplers
from jaxoff.data.dataset import place
from jaxoff.envs.games.matrix import XOR, make_matrix
from jaxoff.envs.games.polynomial import GAMES, make_polynomial, reward_of
from jaxoff.losses.td import one_step_target, squared_td_error
from jaxoff.types import Transition
from tests import toys
from tests.reference import polynomial_numpy as ref

SPEC = toys.spec_of(discrete=False, num_agents=2)


def all_steps(data: np.ndarray, game: str) -> Transition:
    """All of the data of a game, as one batch."""
    env = runs.game(game)
    dataset = place(runs.episodes_of(data, env), env.spec)
    return toys.steps(dataset, dataset.step_row)


def one_step(game: str, data: np.ndarray, **config) -> np.ndarray:
    """Change of theta [2] in one update on all of the data."""
    learner = maddpg.make(maddpg.Config(**config), runs.game(game).spec)
    state = jax.jit(learner.init)(jax.random.key(0))
    new, _ = jax.jit(learner.update)(state, all_steps(data, game), jax.random.key(1))
    return np.asarray(new.actor - state.actor)[:, 0]


# ---------------------------------------------------------------------------------------- exact
# form


def test_each_agent_responds_to_the_other_agents_data():
    # sign agreement, m_x = 1, m_y = 0: dJ/dx = m_y = 0 and dJ/dy = m_x = 1, so only y moves, by eta
    moved = one_step("sign", np.array([[1.0, 0.5], [1.0, -0.5]]), eta=0.1)
    np.testing.assert_allclose(moved, [0.0, 0.1], atol=1e-7)


def test_both_agents_step_from_the_old_policy():
    # twin peaks at (-0.5, 0.5), datum (1, 1): dJ/dx = 5*1 - (2+8)*(-0.5) = 10, dJ/dy = 5 - 10*0.5 =
    # 0; eta 0.1
    moved = one_step("twin_peaks", np.array([[1.0, 1.0]]), eta=0.1)
    np.testing.assert_allclose(moved, [1.0, 0.0], atol=1e-6)


def test_a_constant_actor_is_clipped_only_on_request():
    data = np.array([[1.0, 1.0]])  # the step above, doubled: x goes from -0.5 to 1.5
    np.testing.assert_allclose(one_step("twin_peaks", data, eta=0.2)[0], 2.0, rtol=1e-6)
    np.testing.assert_allclose(one_step("twin_peaks", data, eta=0.2, clip=True)[0], 1.5, rtol=1e-6)


def test_equations_3_and_4_hold_on_a_lattice_for_every_game_and_dataset():
    axis = np.linspace(-1, 1, 21)
    x, y = np.meshgrid(axis, axis)
    points = jnp.asarray(np.stack([x, y], -1), jnp.float32)
    induced = jax.jit(runs.induced_field, static_argnums=0)
    for name in GAMES:
        payoff = runs.game(name).spec.payoff
        np.testing.assert_allclose(
            runs.true_field(payoff, points), np.stack(ref.true_field(name, x, y), -1), atol=2e-6
        )
        for seed in range(5):
            data = np.random.default_rng(seed).normal(0.1 * seed, 0.5, (64, 2)).astype(np.float32)
            expected = np.stack(ref.induced_field(name, x, y, data), -1)
            np.testing.assert_allclose(
                induced(payoff, jnp.asarray(data), points), expected, atol=4e-6
            )


def test_fields_of_a_random_polynomial_of_degree_3_3():
    rng = np.random.default_rng(0)
    c, data = (
        rng.normal(size=(4, 4)).astype(np.float32),
        rng.uniform(-1, 1, (32, 2)).astype(np.float32),
    )
    x, y = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    d_x, d_y = (
        np.polynomial.polynomial.polyder(c, axis=0),
        np.polynomial.polynomial.polyder(c, axis=1),
    )
    value = np.polynomial.polynomial.polyval2d
    points = jnp.asarray(np.stack([x, y], -1), jnp.float32)
    payoff = reward_of(c)
    np.testing.assert_allclose(
        runs.true_field(payoff, points),
        np.stack([value(x, y, d_x), value(x, y, d_y)], -1),
        atol=2e-5,
    )
    own_x, data_y = np.broadcast_arrays(x[..., None], data[:, 1])
    data_x, own_y = np.broadcast_arrays(data[:, 0], y[..., None])
    expected = np.stack(
        [value(own_x, data_y, d_x).mean(-1), value(data_x, own_y, d_y).mean(-1)], -1
    )
    np.testing.assert_allclose(
        runs.induced_field(payoff, jnp.asarray(data), points), expected, atol=2e-5
    )


@pytest.mark.parametrize("name", GAMES)
def test_training_follows_the_closed_form_path(name):
    data = np.random.default_rng(1).normal(0.3, 0.4, (64, 2)).astype(np.float32)
    paths = runs.train_paths(
        name, runs.full_batch_of, [runs.episodes_of(data, runs.game(name))], [0], epochs=60
    )
    expected = ref.path(name, (-0.5, 0.5), data, 0.02, 60)
    np.testing.assert_allclose(paths.theta[0, 0, 0], expected, atol=1e-5)
    np.testing.assert_allclose(paths.reward[0, 0, 0], ref.reward(name, *expected.T), atol=5e-5)


def test_best_responses_cannot_see_how_the_data_are_paired():
    data = runs.two_clusters(0.2)
    np.testing.assert_allclose(
        one_step("twin_peaks", data), one_step("twin_peaks", runs.permuted(data)), atol=1e-6
    )


def test_equation_5_gives_the_maximum_inside_its_window_and_nothing_outside():
    # window [A/(B a+), a+] = [0.4082, 0.6124]; with variance v of Eq. 5, theta* = C m / (2A + 2B
    # (m^2 + v)) = a+
    low = ref.A / (ref.B * ref.PEAK)
    np.testing.assert_allclose([low, ref.PEAK], [0.4082483, 0.6123724], atol=1e-7)
    for mean in np.linspace(low + 1e-6, ref.PEAK - 1e-6, 21):
        spread = np.sqrt(ref.variance_of_equation_5(mean))
        data = mean + spread * np.array([[-1.0, 1.0], [1.0, -1.0]])  # mean and variance are exact
        np.testing.assert_allclose(runs.twin_peaks_fixed_point(data), ref.PEAK, atol=1e-6)
    outside = np.array([0.0, low - 1e-3, ref.PEAK + 1e-3, 2.0])
    assert (ref.variance_of_equation_5(outside) < 0).all()
    np.testing.assert_allclose(np.sqrt(ref.variance_of_equation_5(0.5103104)), 0.1020621, atol=1e-6)


def test_figure_3_moves_every_start_by_the_same_vector_away_from_reward():
    # eta K (m_y, m_x) = 0.1 * 200 * (0.04, -0.02) = (0.8, -0.4)
    data, paths = runs.fig3_runs()
    np.testing.assert_allclose(runs.points_of(data).mean(0), (-0.02, 0.04), atol=1e-6)
    moved = paths.theta[:, 0, 0, -1] - paths.theta[:, 0, 0, 0]
    np.testing.assert_allclose(moved, np.tile([0.8, -0.4], (3, 1)), atol=1e-5)
    assert (paths.reward[:, 0, 0, -1] < paths.reward[:, 0, 0, 0]).sum() >= 2


@pytest.mark.parametrize("centre", ["origin", "peak"])
def test_figure_4_ends_where_the_moments_of_the_data_predict(centre):
    # Noise of minibatches of 32 around the exact path: with rate r = eta (2A + 2B s), theta is an
    # AR(1) process of coefficient 1 - r whose steps have the deviation eta std(C a - 2B theta* a^2)
    # / sqrt(32); its mean over 20 epochs has the standard error `spread`, 0.018 at sigma = 1. So
    # single seeds stray by more than 0.03 there, and 0.03 is asked of their mean.
    data, paths = runs.fig4_runs(centre, range(10))
    for i, points in enumerate(map(runs.points_of, data)):
        predicted = ref.twin_peaks_fixed_point(points)
        ends = paths.theta[0, i, :, -20:].mean(1)  # [10, 2]
        other = points[:, ::-1].astype(np.float64)
        rate = 0.02 * (2 * ref.A + 2 * ref.B * (other**2).mean(0))
        shock = 0.02 * (ref.C * other - 2 * ref.B * predicted * other**2).std(0) / np.sqrt(32)
        lag = np.arange(-19, 20)[:, None]
        of_mean = np.sqrt(((20 - np.abs(lag)) / 400 * (1 - rate) ** np.abs(lag)).sum(0))
        spread = shock / np.sqrt(1 - (1 - rate) ** 2) * of_mean
        assert (np.abs(ends.mean(0) - predicted) <= 0.03).all()
        exact = ref.path("twin_peaks", (-0.5, 0.5), points, 0.02, 100)[-20:].mean(0)
        assert (np.abs(ends - exact) <= 3.5 * spread + 1e-4).all()
        if i < 2:
            assert (np.abs(ends - predicted) <= 0.03).all()


def test_frozen_priorities_act_as_weighted_moments():
    # theta* = C m / (2A + 2B s) with moments under p_i, here p = exp(-16 |a - (0.5, 0.5)|^2 / 4)
    episodes = runs.data_of("poly/twin_peaks/peak-s0.5")
    points = runs.points_of(episodes).astype(np.float64)
    weight = np.exp(-4 * ((points - 0.5) ** 2).sum(-1))
    weight /= weight.sum()
    mean, square = (
        (weight[:, None] * points).sum(0)[::-1],
        (weight[:, None] * points**2).sum(0)[::-1],
    )
    expected = ref.C * mean / (2 * ref.A + 2 * ref.B * square)
    weigh = lambda dataset: jnp.asarray(weight, jnp.float32)
    paths = runs.train_paths(
        "twin_peaks", lambda config: samplers.weighted(1024, weigh), [episodes], [0], epochs=150
    )
    np.testing.assert_allclose(paths.theta[0, 0, 0, -20:].mean(0), expected, atol=0.01)
    assert np.abs(expected - ref.twin_peaks_fixed_point(points)).min() > 0.05


def test_gaussian_data_are_not_clipped():
    points = runs.points_of(runs.data_of("poly/twin_peaks/peak-s1"))
    assert (np.abs(points) > 1).mean() > 0.3
    clipped = runs.twin_peaks_fixed_point(np.clip(points, -1, 1))
    assert np.abs(clipped - runs.twin_peaks_fixed_point(points)).max() > 0.05


# -------------------------------------------------------------------------------------- learned
# form


def test_td_target_stops_at_termination_only():
    # r + gamma (1 - terminated) v: 1 + 0.5 * 4 = 3, and 1 where terminated
    target = one_step_target(
        jnp.array([1.0, 1.0]), jnp.array([0.0, 1.0]), jnp.array([4.0, 4.0]), 0.5
    )
    np.testing.assert_allclose(target, [3.0, 1.0])
    # (3 - 1)^2 / 2
    np.testing.assert_allclose(squared_td_error(jnp.array([1.0, 1.0]), target), [2.0, 0.0])


def test_targets_carry_no_gradient():
    grad = jax.grad(
        lambda v: squared_td_error(
            jnp.zeros(1), one_step_target(jnp.ones(1), jnp.zeros(1), v, 0.9)
        ).sum()
    )
    np.testing.assert_array_equal(grad(jnp.ones(1)), [0.0])


def test_joint_action_of_an_agent_holds_its_own_action_and_the_others_data():
    own, data = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[10.0], [20.0], [30.0]])
    expected = [[1, 20, 30], [10, 2, 30], [10, 20, 3]]
    np.testing.assert_array_equal(maddpg.brud_joint_actions(own, data)[..., 0], expected)


def test_value_of_one_agent_has_no_gradient_to_another():
    own, data = jnp.ones((2, 1)), jnp.full((2, 1), 3.0)
    grad = jax.grad(lambda o: maddpg.brud_joint_actions(o, data)[0].prod())(own)
    np.testing.assert_array_equal(grad[:, 0], [3.0, 0.0])


def test_the_signal_is_one_number_of_each_item():
    learner = maddpg.make(maddpg.Config(hidden=(8,)), SPEC)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    _, out = jax.eval_shape(learner.update, state, toys.steps_of(SPEC, 6), jax.random.key(0))
    assert out.signal.shape == (6,)


def test_twin_critics_and_agents_start_different():
    state = jax.jit(maddpg.make(maddpg.Config(hidden=(8,)), SPEC).init)(jax.random.key(0))
    for tree in (state.critic, state.actor):
        matrix = next(x for x in jax.tree.leaves(tree) if x.ndim == 3)
        assert np.abs(matrix[0] - matrix[1]).max() > 0.01


def test_learned_form_reaches_the_bound_where_more_is_better():
    # decoupled: R = x + y, so with a learned critic both policies should go to the action bound 1
    env = runs.game("decoupled")
    config = maddpg.Config(critic="learned", hidden=(32,), actor_lr=1e-2, critic_lr=1e-2)
    learner, dataset = (
        maddpg.make(config, env.spec),
        place(runs.data_of("poly/decoupled/uniform"), env.spec),
    )
    sampler = samplers.uniform(64)

    def step(state, key):
        batch = sampler.gather(dataset, sampler.draw((), dataset, key))
        return learner.update(state, batch, key)[0], None

    state, _ = jax.jit(
        lambda: jax.lax.scan(
            step, learner.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 400)
        )
    )()
    _, dist = learner.policy(state).distribution((), toys.seen(env.spec))
    assert (np.asarray(dist.mode()) > 0.95).all()


def test_a_mapped_run_equals_the_single_run():
    data = [runs.data_of("poly/twin_peaks/peak-s1")]
    many = runs.train_paths("twin_peaks", runs.uniform_sampler_of, data, [0, 1, 2], epochs=20)
    one = runs.train_paths("twin_peaks", runs.uniform_sampler_of, data, [1], epochs=20)
    np.testing.assert_allclose(many.theta[0, 0, 1], one.theta[0, 0, 0], atol=1e-6)


def test_settings_that_cannot_work_are_refused_by_name():
    with pytest.raises(ValueError, match="continuous actions, found 2 discrete"):
        maddpg.make(maddpg.Config(), make_matrix("xor", XOR).spec)
    with pytest.raises(ValueError, match=r"'critic'.*known payoff.*'small'"):
        maddpg.make(maddpg.Config(critic="exact"), SPEC)
    with pytest.raises(ValueError, match=r"'actor'.*found 'linear'"):
        maddpg.make(
            checked(maddpg.Config(actor="linear")), make_polynomial("poly/sign", GAMES["sign"]).spec
        )
