"""Exact InSPO on one-state games, against the fixed points of its theory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from jaxoff.experiments.inspo import tabular

from jaxoff.envs.games.matrix import XOR, mne

BALANCED, IMBALANCED, EXTREME = [1 / 3] * 3, [0.8, 0.1, 0.1], [0.98, 0.01, 0.01]
SUPPORT = {"b": [[0, 1], [1, 0]], "c": [[1, 1], [1, 0]]}  # joint actions in the data of XOR


def both(mu: list[float]) -> np.ndarray:
    return np.array([mu, mu])


@pytest.mark.parametrize(
    ("offdiag", "mu", "alpha", "beta", "limit"),
    [
        (0, BALANCED, 1, 0, (0, 0, 1)),
        (0, BALANCED, 1, 5, (0.046, 0.048, 0.906)),
        (0, BALANCED, 5, 5, (0.202, 0.229, 0.569)),
        (0, IMBALANCED, 1, 0, (0.998, 0.001, 0.001)),
        (0, IMBALANCED, 1, 1, (0.894, 0.042, 0.064)),
        (0, IMBALANCED, 1, 5, (0.071, 0.051, 0.878)),
        (0, IMBALANCED, 1, 10, (0.274, 0.252, 0.474)),
        (0, EXTREME, 1, 5, (0.131, 0.060, 0.809)),
        (-20, IMBALANCED, 1, 0, (1, 0, 0)),
        (-20, IMBALANCED, 1, 5, (0.974, 0.013, 0.013)),
        (-20, IMBALANCED, 1, 10, (0.043, 0.036, 0.921)),
    ],
)
def test_mne_sweeps_end_at_the_tabulated_equilibrium(offdiag, mu, alpha, beta, limit):
    payoff = mne(offdiag).astype(float)
    policies = tabular.fixed_point(payoff, both(mu), alpha, beta)
    np.testing.assert_allclose(policies, both(limit), atol=2e-3)
    assert tabular.residual(payoff, both(mu), policies, alpha, beta) < 1e-6


def test_mne_equilibrium_satisfies_its_own_equation():
    # x = 0, so E R(a) = r_a pi(a). alpha = 5, beta = 5: log pi(a) - r_a pi(a) / 10 is the same for
    # every a (mu uniform).
    pi = tabular.fixed_point(mne(0.0), both(BALANCED), 5, 5)[0]
    gaps = np.log(pi) - np.array([5, 10, 20]) * pi / 10
    np.testing.assert_allclose(gaps, gaps[0], atol=1e-9)


@pytest.mark.parametrize(
    ("mu_0", "alpha", "beta", "order", "first", "second"),
    [
        (1 / 2, 0.05, 0.0, (0, 1), (1, 0), (0, 1)),
        (1 / 2, 0.05, 0.02, (0, 1), (1, 0), (0, 1)),
        (2 / 3, 0.05, 0.0, (0, 1), (1, 0), (0, 1)),
        (2 / 3, 0.05, 0.02, (0, 1), (1, 0), (0, 1)),
        (1 / 2, 0.05, 0.02, (1, 0), (0, 1), (1, 0)),
        (2 / 3, 0.05, 0.02, (1, 0), (0, 1), (1, 0)),
        (1 / 2, 0.2, 0.1, (0, 1), (0.9999, 0.0001), (0.0345, 0.9655)),
        (1 / 2, 1.0, 0.1, (0, 1), (0.6179, 0.3821), (0.6179, 0.3821)),
        (2 / 3, 1.0, 0.1, (0, 1), (0.6958, 0.3042), (0.6958, 0.3042)),
    ],
)
def test_xor_sweeps_end_at_the_tabulated_equilibrium(mu_0, alpha, beta, order, first, second):
    policies = tabular.fixed_point(XOR, both([mu_0, 1 - mu_0]), alpha, beta, order=order)
    np.testing.assert_allclose(policies, [first, second], atol=1e-4)


def test_xor_order_decides_the_mode_and_leaves_a_thousandth_elsewhere():
    # Uniform mu: B earns .5 - 1 = -.5, A earns .5. The agent that moves first takes A, so the other
    # takes B.
    for order, mode in (((0, 1), (0, 1)), ((1, 0), (1, 0))):
        policies = tabular.fixed_point(XOR, both([0.5, 0.5]), 0.05, 0.02, order=order)
        assert policies[0, mode[0]] * policies[1, mode[1]] > 0.999


@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (1, 1), (1, 5), (5, 5), (0.05, 0.02)])
@pytest.mark.parametrize("payoff", [mne(0.0), mne(-20.0), XOR], ids=["mne", "mne-20", "xor"])
def test_objective_never_decreases(payoff, alpha, beta):
    mu = both(IMBALANCED if len(payoff) == 3 else [2 / 3, 1 / 3])
    policies, before = mu.copy(), tabular.objective(payoff, mu, mu, alpha, beta)
    for agent in [0, 1, 1, 0] * 50:
        policies = tabular.sweep(payoff, mu, policies, alpha, beta, order=(agent,))
        after = tabular.objective(payoff, mu, policies, alpha, beta)
        assert after >= before - 1e-9
        before = after


def test_objective_is_payoff_less_divergence_plus_entropy():
    # pi = (1, 0) for both on XOR: payoff 0; KL to (1/2, 1/2) is log 2 each; entropy 0. alpha = .5:
    # 0 - .5 * 2 log 2 = -log 2.
    policies, mu = both([1.0, 0.0]), both([0.5, 0.5])
    assert tabular.objective(XOR, mu, policies, 0.5, 3.0) == pytest.approx(-np.log(2))
    # pi = mu: payoff (0 + 1 + 1 - 2) / 4 = 0, KL 0, entropy log 2 each: 3 * 2 log 2.
    assert tabular.objective(XOR, mu, mu, 0.5, 3.0) == pytest.approx(6 * np.log(2))


@pytest.mark.parametrize("offdiag", [0.0, -1.0, -20.0])
@pytest.mark.parametrize(
    "mu", [BALANCED, IMBALANCED, EXTREME], ids=["balanced", "imbalanced", "extreme"]
)
def test_annealing_reaches_the_best_equilibrium(offdiag, mu):
    for alpha in (0.1, 1.0):
        np.testing.assert_allclose(
            tabular.annealed(mne(offdiag), both(mu), alpha), both([0, 0, 1]), atol=2e-3
        )


def test_annealing_with_a_large_alpha_stays_at_the_datas_equilibrium():
    np.testing.assert_allclose(
        tabular.annealed(mne(0.0), both(IMBALANCED), 5.0), both([0.891, 0.051, 0.058]), atol=2e-3
    )


def test_without_entropy_imbalanced_data_hold_the_first_equilibrium():
    # alpha = 1: A earns .8 * 5 + log .8 = 3.78, C earns .1 * 20 + log .1 = -.30, so the very first
    # sweep goes to A.
    policies = tabular.fixed_point(mne(0.0), both(IMBALANCED), 1, 0)
    assert policies[:, 0].min() > 0.99
    assert tabular.value(mne(0.0), policies) == pytest.approx(5.0, abs=0.05)


def test_resampling_leaves_nothing_outside_the_data_on_c():
    support = np.array(SUPPORT["c"], float)
    policies = tabular.resampled_fixed_point(XOR, support, both([2 / 3, 1 / 3]), 0.05, 0.02)
    assert tabular.outside_mass(support, policies) < 1e-3
    assert tabular.value(XOR, policies) > 0.999


def test_resampling_alone_cannot_choose_between_the_equal_halves_of_b():
    # q = 1 for every action, and M_0(A) = pi_1(B): any pi_0(A) = pi_1(B) is at rest. This is why
    # cql is above 0 by default.
    policies = tabular.resampled_fixed_point(
        XOR, np.array(SUPPORT["b"]), both([0.5, 0.5]), 0.05, 0.02
    )
    np.testing.assert_allclose(policies, 0.5)


def test_resampling_follows_the_larger_part_of_b():
    # 60 % AB: pi_0(A) ~ .6^(5/7) pi_1(B), and pi_1(B) ~ .6^(5/7) pi_0(A): the larger part grows
    # until it is everything.
    policies = tabular.resampled_fixed_point(
        XOR, np.array(SUPPORT["b"]), np.array([[0.6, 0.4], [0.4, 0.6]]), 0.05, 0.02
    )
    np.testing.assert_allclose(policies, [[1, 0], [0, 1]], atol=1e-6)


def test_resampling_with_a_high_temperature_is_not_enough_on_c():
    # Measured with the sampled form of the same losses: alpha = .5 gives a value of .15 and .17 of
    # mass at (B, B).
    support = np.array(SUPPORT["c"], float)
    policies = tabular.resampled_fixed_point(XOR, support, both([2 / 3, 1 / 3]), 0.5, 0.001)
    assert 0.1 < tabular.outside_mass(support, policies) < 0.25
    assert tabular.value(XOR, policies) < 0.3


def test_resampling_on_full_support_is_the_plain_theory():
    # Every joint action occurs, so M_i = 1 and the conditional mean is the expectation.
    mu = both(IMBALANCED)
    resampled = tabular.resampled_fixed_point(mne(0.0), np.ones((3, 3)), mu, 1, 5)
    np.testing.assert_allclose(resampled, tabular.fixed_point(mne(0.0), mu, 1, 5), atol=1e-9)


def test_three_agents_average_over_both_teammates():
    payoff, policies = (
        np.random.default_rng(0).normal(size=(2, 2, 2)),
        np.array([[0.3, 0.7], [0.6, 0.4], [0.9, 0.1]]),
    )
    for agent in range(3):
        by_hand = np.zeros(2)
        for joint in itertools.product(range(2), repeat=3):
            others = np.prod([policies[j, joint[j]] for j in range(3) if j != agent])
            by_hand[joint[agent]] += others * payoff[joint]
        np.testing.assert_allclose(tabular.expected_payoff(payoff, policies, agent), by_hand)
    mu = np.full((3, 2), 0.5)
    limit = tabular.fixed_point(payoff, mu, 0.5, 0.5, sweeps=500)
    assert tabular.residual(payoff, mu, limit, 0.5, 0.5) < 1e-6


def test_temperatures_must_be_positive_together():
    with pytest.raises(
        ValueError, match=r"alpha, beta: expected >= 0 and a positive sum, found 0.0, 0.0"
    ):
        tabular.best_response(np.zeros(2), np.full(2, 0.5), 0.0, 0.0)
