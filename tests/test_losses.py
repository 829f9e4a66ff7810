"""Likelihoods and InSPO's losses, against float64 re-derivations and by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.losses import in_sample
from jaxoff.losses.likelihood import expectation, log_prob, masked_mean, negative_log_likelihood
from jaxoff.types import UNAVAILABLE
from tests.reference import inspo_numpy as ref

M, N, A = 40, 3, 4


def problem(seed: int = 0) -> dict[str, np.ndarray]:
    """Random rows: action 3 is unavailable in half of them, and never taken there; a quarter has
    count 0.
    """
    rng = np.random.default_rng(seed)
    avail = np.ones((M, A))
    avail[::2, 3] = 0
    return {
        "logits": rng.normal(size=(M, A)),
        "q": rng.normal(size=(M, A)),
        "log_mu": ref.log_softmax(rng.normal(size=(M, A))),
        "avail": avail,
        "actions": np.where(avail[:, 3] > 0, rng.integers(0, 4, M), rng.integers(0, 3, M)),
        "target": rng.normal(size=M),
        "counts": rng.integers(0, 4, M).astype(float),
    }


def masked(p: dict[str, np.ndarray]) -> jnp.ndarray:
    return jnp.where(p["avail"] > 0, jnp.asarray(p["logits"], jnp.float32), UNAVAILABLE)


def test_masked_mean_counts_each_entry_by_its_weight():
    # (1 * 2 + 5 * 0 + 4 * 1) / 3 = 2, whatever stands where the weight is 0.
    assert float(
        masked_mean(jnp.array([1.0, 5.0, 4.0]), jnp.array([2.0, 0.0, 1.0]))
    ) == pytest.approx(2.0)
    assert float(masked_mean(jnp.array([1.0, 5.0]), jnp.zeros(2))) == 0.0
    with pytest.raises(AssertionError):
        masked_mean(jnp.ones((2, 3)), jnp.ones((2, 1)))


def test_log_prob_is_over_available_actions():
    # Logits (0, log 3, unavailable): probabilities (1/4, 3/4, 0).
    logits = jnp.array([[0.0, jnp.log(3.0), UNAVAILABLE]])
    np.testing.assert_allclose(log_prob(logits, jnp.array([1])), [np.log(0.75)], rtol=1e-6)
    np.testing.assert_allclose(
        negative_log_likelihood(logits, jnp.array([0])), [np.log(4)], rtol=1e-6
    )


def test_expectation_ignores_values_of_impossible_actions():
    # .25 * 8 + .75 * 4 = 5; the last action has probability 0, so even an infinite value adds
    # nothing.
    logits = jnp.array([0.0, jnp.log(3.0), UNAVAILABLE])
    assert float(expectation(logits, jnp.array([8.0, 4.0, jnp.inf]))) == pytest.approx(5.0)


@pytest.mark.parametrize("power", ["n-1", "n"])
@pytest.mark.parametrize("agent", range(N))
def test_log_ratio_equals_float64(agent, power):
    rng = np.random.default_rng(agent)
    log_pi, log_mates = rng.normal(size=(2, M, N)) * 8
    found = in_sample.log_ratio(jnp.asarray(log_pi), jnp.asarray(log_mates), agent, power)
    np.testing.assert_allclose(
        found,
        ref.log_ratio(log_pi, log_mates, agent, N - 1 if power == "n-1" else N),
        rtol=1e-5,
        atol=1e-5,
    )


def test_log_ratio_uses_the_conditional_of_the_teammate():
    # XOR (c), anchor 0, pi_1 uniform, rows AA, AB, BA. mu(a_1 | a_0): 1/2, 1/2, 1, so the ratios
    # are 1, 1, 1/2. The marginal mu_1 = (2/3, 1/3) would give 3/4, 3/2, 3/4.
    log_pi = jnp.log(jnp.full((3, 2), 0.5))
    conditional = jnp.log(jnp.array([[1.0, 0.5], [1.0, 0.5], [1.0, 1.0]]))
    np.testing.assert_allclose(
        jnp.exp(in_sample.log_ratio(log_pi, conditional, 0)), [1, 1, 0.5], rtol=1e-6
    )
    marginal = jnp.log(jnp.array([[1.0, 2 / 3], [1.0, 1 / 3], [1.0, 2 / 3]]))
    np.testing.assert_allclose(
        jnp.exp(in_sample.log_ratio(log_pi, marginal, 0)), [0.75, 1.5, 0.75], rtol=1e-6
    )


def test_log_ratio_is_clipped_and_never_uses_the_agents_own_entry():
    # Sums of the teammate: -30 -> -10, 30 -> log 100. The agent's own entry is 1e9 and changes
    # nothing.
    log_pi = jnp.array([[1e9, -30.0], [1e9, 30.0], [1e9, 1.0]])
    np.testing.assert_allclose(
        in_sample.log_ratio(log_pi, jnp.zeros((3, 2)), 0), [-10, np.log(100), 1], rtol=1e-6
    )


def test_soft_value_equals_float64():
    p = problem()
    found = in_sample.soft_value(masked(p), jnp.asarray(p["q"]), jnp.asarray(p["log_mu"]), 0.3, 0.2)
    wanted = ref.soft_value(ref.log_softmax(p["logits"], p["avail"]), p["q"], p["log_mu"], 0.3, 0.2)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_soft_value_by_hand():
    # pi = (3/4, 1/4), mu = (1/2, 1/2), q = (1, 5): 2 - .5 KL + 2 H, KL = .75 log 1.5 + .25 log .5 =
    # .1308, H = .5623.
    logits, log_mu = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    assert float(
        in_sample.soft_value(logits, jnp.array([1.0, 5.0]), log_mu, 0.5, 2.0)
    ) == pytest.approx(2 - 0.0654 + 1.1247, abs=1e-3)


@pytest.mark.parametrize("cql", [0.0, 0.7])
def test_conservative_value_loss_equals_float64(cql):
    p = problem()
    found = in_sample.conservative_value_loss(
        *(jnp.asarray(p[k]) for k in ("q", "target", "actions", "avail")), cql
    )
    wanted = ref.conservative_value_loss(p["q"], p["target"], p["actions"], p["avail"], cql)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_conservative_value_loss_ignores_unavailable_actions_and_the_target():
    # The second action may not be taken: neither its value nor a gradient to it. The target is
    # constant.
    def loss(q, target):
        return in_sample.conservative_value_loss(
            q, target, jnp.array([0]), jnp.array([[1.0, 0.0, 1.0]]), 0.5
        ).sum()

    q, target = jnp.array([[1.0, 50.0, 1.0]]), jnp.array([3.0])
    # (1 - 3)^2 + .5 (log 2e - 1)
    assert float(loss(q, target)) == pytest.approx(4 + 0.5 * np.log(2))
    to_q, to_target = jax.grad(loss, (0, 1))(q, target)
    np.testing.assert_allclose(to_q, [[2 * (1 - 3) + 0.5 * (0.5 - 1), 0.0, 0.5 * 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(to_target, [0.0])


def test_policy_weight_equals_float64():
    p = problem()
    advantage, log_mu = 5 * p["target"], p["log_mu"][:, 0]
    found = in_sample.policy_weight(jnp.asarray(advantage), jnp.asarray(log_mu), 0.3, 0.9)
    np.testing.assert_allclose(found, ref.policy_weight(advantage, log_mu, 0.3, 0.9), rtol=1e-5)


def test_policy_weight_is_larger_for_rare_actions():
    # A = 0, alpha = beta = 1: exp(-log mu / 2) = mu^-1/2, so .9 -> 1.054 and .1 -> 3.162.
    found = in_sample.policy_weight(jnp.zeros(2), jnp.log(jnp.array([0.9, 0.1])), 1.0, 1.0)
    np.testing.assert_allclose(found, [0.9**-0.5, 0.1**-0.5], rtol=1e-6)


def test_policy_weight_stays_finite_at_the_smallest_temperature():
    # (+-1000 - 0) / .001 = +-1e6, clipped to 5 and -20 before the exponential; exp(5) = 148 is cut
    # to 100.
    found = in_sample.policy_weight(jnp.array([1000.0, -1000.0]), jnp.zeros(2), 1e-3, 0.0)
    np.testing.assert_allclose(found, [100.0, np.exp(-20.0)], rtol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_weighted_policy_loss_and_its_gradient_equal_float64(normalise):
    p = problem()
    rng = np.random.default_rng(1)
    weight = np.exp(rng.normal(size=M))

    def ours(logits):
        masked_logits = jnp.where(p["avail"] > 0, logits, UNAVAILABLE)
        return in_sample.weighted_policy_loss(
            masked_logits,
            jnp.asarray(p["actions"]),
            *map(jnp.asarray, (weight, p["counts"])),
            normalise,
        )

    def theirs(logits):
        taken = ref.log_softmax(logits, p["avail"])[np.arange(M), p["actions"]]
        return ref.weighted_policy_loss(taken, weight, p["counts"], normalise)

    loss, grad = jax.value_and_grad(ours)(jnp.asarray(p["logits"], jnp.float32))
    assert float(loss) == pytest.approx(theirs(p["logits"]), rel=1e-5)
    step = 1e-6 * np.eye(M * A).reshape(M * A, M, A)
    differences = [(theirs(p["logits"] + s) - theirs(p["logits"] - s)) / 2e-6 for s in step]
    np.testing.assert_allclose(np.asarray(grad).ravel(), differences, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("beta", "minimiser"), [(1.0, [0.75, 0.25]), (0.0, [0.9, 0.1])])
def test_weighted_policy_loss_is_least_at_the_closed_form(beta, minimiser):
    # q = 0, mu = (.9, .1), alpha = 1: pi ~ mu^(alpha/(alpha+beta)), that is (.949, .316)/1.265 =
    # (.75, .25), or mu itself.
    actions = jnp.array([0] * 9 + [1])
    log_mu = jnp.log(jnp.where(actions == 0, 0.9, 0.1))
    weight = in_sample.policy_weight(jnp.zeros(10), log_mu, 1.0, beta)
    loss = lambda logits: in_sample.weighted_policy_loss(
        jnp.tile(logits, (10, 1)), actions, weight, jnp.ones(10), True
    )
    np.testing.assert_allclose(jax.grad(loss)(jnp.log(jnp.array(minimiser))), [0, 0], atol=1e-6)


def test_resample_counts_are_how_often_rows_were_drawn():
    weight = jnp.array([1.0, 0.0, 3.0, 2.0] * 64)
    drawn, counts = in_sample.resample(jax.random.key(0), weight)
    np.testing.assert_array_equal(counts, np.bincount(drawn, minlength=256))
    assert float(counts.sum()) == 256


def test_resample_mean_approaches_the_weighted_mean():
    # 1e5 draws of f: sum(w f) / sum(w), to 1 %.
    rng = np.random.default_rng(0)
    weight, f = (
        jnp.asarray(rng.exponential(size=100_000) * (rng.random(100_000) < 0.7)),
        1 + jnp.asarray(rng.random(100_000)),
    )
    f = f + weight  # correlated with the weight, so that plain averaging is wrong
    _, counts = in_sample.resample(jax.random.key(0), weight)
    wanted = float(jnp.sum(weight * f) / jnp.sum(weight))
    assert float(jnp.mean(f)) < 0.9 * wanted
    assert float(masked_mean(f, counts)) == pytest.approx(wanted, rel=0.01)


def test_resample_never_draws_a_row_of_weight_zero_even_where_float32_sums_waver(monkeypatch):
    # A float32 parallel sum rises at some zero weights; aim each uniform number exactly at such a
    # rise.
    rng = np.random.default_rng(0)
    weight = jnp.asarray((rng.random(15360) * (rng.random(15360) < 0.5)).astype(np.float32))
    total = np.asarray(jnp.cumsum(weight))
    aimed = np.concatenate([[0.0], total[:-1]]) / total[-1]
    for u in (
        aimed,
        np.nextafter(aimed, 1, dtype=np.float32),
        np.nextafter(aimed, 0, dtype=np.float32),
    ):
        exact = jnp.asarray(np.clip(u, 0, 1 - 2.0**-23), jnp.float32)
        monkeypatch.setattr(in_sample.jax.random, "uniform", lambda key, shape, exact=exact: exact)
        drawn, counts = in_sample.resample(jax.random.key(0), weight)
        assert float(jnp.sum(counts * (weight == 0))) == 0.0
        assert int(drawn.max()) < 15360
