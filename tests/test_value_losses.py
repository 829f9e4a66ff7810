"""Lambda returns, conservative terms and batch weights: against float64 NumPy, by hand, and where
padding must not matter.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.losses.conservative import available_logsumexp, conservative_term, sampled_logsumexp
from jaxoff.losses.implicit import batch_weight
from jaxoff.losses.td import lambda_return, one_step_target, squared_td_error
from tests.reference import value_numpy as ref

B, T = 6, 5
LENGTHS = np.array([5, 5, 4, 3, 2, 1])
returns = jax.jit(lambda_return)


def windows(seed: int = 0) -> dict[str, np.ndarray]:
    """Ragged windows: the last steps of episodes 0, 2 and 4 terminate, those of the others are cut
    by the clock.
    """
    rng = np.random.default_rng(seed)
    last = np.arange(T) == LENGTHS[:, None] - 1
    return {
        "reward": rng.normal(size=(B, T)),
        "terminated": (last & (np.arange(B) % 2 == 0)[:, None]).astype(float),
        "valid": (np.arange(T) < LENGTHS[:, None]).astype(float),
        "next_value": rng.normal(size=(B, T)),
    }


def found(p: dict[str, np.ndarray], gamma: float = 0.9, trace: float = 0.8) -> np.ndarray:
    return np.asarray(
        returns(
            *(
                jnp.asarray(p[k], jnp.float32)
                for k in ("reward", "terminated", "valid", "next_value")
            ),
            gamma,
            trace,
        )
    )


# ------------------------------------------------------------------------------------- lambda
# returns


@pytest.mark.parametrize("trace", [0.0, 0.3, 0.8, 1.0])
def test_lambda_return_equals_the_weighted_n_step_returns(trace):
    p = windows()
    wanted = ref.lambda_return(p, p["next_value"], 0.9, trace)
    np.testing.assert_allclose(found(p, trace=trace), wanted, rtol=1e-5, atol=1e-6)


def test_lambda_return_by_hand():
    # r = 1, 2, V = 10, 20, gamma = .5, trace = .5, truncated: G_1 = 2 + 10 = 12, G_0 = 1 + .5 (.5 *
    # 10 + .5 * 12) = 6.5.
    p = {"reward": [[1, 2]], "terminated": [[0, 0]], "valid": [[1, 1]], "next_value": [[10, 20]]}
    np.testing.assert_allclose(found({k: np.array(v) for k, v in p.items()}, 0.5, 0.5), [[6.5, 12]])
    # Terminated: G_1 = 2, G_0 = 1 + .5 (5 + 1) = 4.
    p["terminated"] = [[0, 1]]
    np.testing.assert_allclose(found({k: np.array(v) for k, v in p.items()}, 0.5, 0.5), [[4, 2]])


def test_lambda_0_is_one_step():
    p = windows()
    one = p["valid"] * (p["reward"] + 0.9 * (1 - p["terminated"]) * p["next_value"])
    np.testing.assert_allclose(found(p, trace=0.0), one, rtol=1e-5, atol=1e-6)


def test_lambda_1_of_a_terminated_episode_is_monte_carlo():
    p = windows()
    p["terminated"] = (np.arange(T) == LENGTHS[:, None] - 1).astype(float)
    wanted = np.zeros((B, T))
    for b in range(B):
        for t in reversed(range(LENGTHS[b])):
            wanted[b, t] = p["reward"][b, t] + 0.9 * (wanted[b, t + 1] if t + 1 < LENGTHS[b] else 0)
    np.testing.assert_allclose(found(p, trace=1.0), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        found(p | {"next_value": p["next_value"] + 1e3}, trace=1.0), found(p, trace=1.0)
    )


def test_the_trace_that_is_given_is_the_one_used():
    # .8 and .75 are different returns: nothing overwrites the setting.
    p = windows()
    assert np.abs(found(p, trace=0.8) - found(p, trace=0.75)).max() > 0.01


def test_padding_length_does_not_change_lambda_returns():
    # Episodes padded by 1 and by 7 more steps of nonsense, truncated ones too: the return starts at
    # the last real step.
    p = windows()
    for more in (1, 7):
        longer = {
            k: np.concatenate([v, np.full((B, more), 0.0 if k == "valid" else 1e6)], 1)
            for k, v in p.items()
        }
        # Fill what was padding before, too.
        longer = {
            k: v if k == "valid" else np.where(longer["valid"] > 0, v, 1e6)
            for k, v in longer.items()
        }
        np.testing.assert_array_equal(found(longer)[:, :T], found(p))
        np.testing.assert_array_equal(found(longer)[:, T:], 0)


def test_lambda_return_has_one_value_per_agent_where_values_have():
    # next_value [B, T, N]: each agent's return is that of its own values. N = T, so a wrong axis
    # would go unseen.
    p = windows()
    values = np.random.default_rng(1).normal(size=(B, T, T))
    per_agent = found(p | {"next_value": values})
    for agent in range(T):
        np.testing.assert_allclose(
            per_agent[..., agent], found(p | {"next_value": values[..., agent]}), rtol=1e-6
        )


def test_lambda_return_is_a_constant():
    p = windows()
    grad = jax.grad(
        lambda v: jnp.sum(lambda_return(p["reward"], p["terminated"], p["valid"], v, 0.9, 0.8))
    )(jnp.asarray(p["next_value"]))
    np.testing.assert_array_equal(grad, 0)


def test_one_step_target_and_its_error():
    # 1 + .5 * 4 = 3; terminated: 1. Half of (3 - 2)^2 and (1 - 2)^2.
    target = one_step_target(jnp.ones(2), jnp.array([0.0, 1.0]), jnp.full(2, 4.0), 0.5)
    np.testing.assert_allclose(target, [3, 1])
    np.testing.assert_allclose(squared_td_error(jnp.full(2, 2.0), target), [0.5, 0.5])


# --------------------------------------------------------------------------------- conservative
# terms


def test_conservative_term_equals_float64():
    rng = np.random.default_rng(0)
    q, avail = rng.normal(size=(50, 4)) * 3, (rng.random((50, 4)) < 0.6).astype(float)
    actions = rng.integers(0, 4, 50)
    avail[np.arange(50), actions] = 1
    legal = [row[may > 0] for row, may in zip(q, avail, strict=True)]
    wanted = [np.log(np.exp(row).sum()) for row in legal] - q[np.arange(50), actions]
    term = conservative_term(jnp.asarray(q, jnp.float32), jnp.asarray(actions), jnp.asarray(avail))
    np.testing.assert_allclose(term, wanted, rtol=1e-5, atol=1e-5)
    assert (np.asarray(term) >= -1e-6).all()


def test_conservative_term_is_zero_only_with_one_legal_action():
    # logsumexp(q) = q; with a second action 20 below it is e^-20 away, with an equal one log 2.
    q, actions = jnp.array([[3.0, 3.0, -17.0]]), jnp.array([0])
    values = [
        float(conservative_term(q, actions, jnp.array([legal]))[0])
        for legal in ([1, 0, 0], [1, 0, 1], [1, 1, 0])
    ]
    assert values[0] == 0.0
    assert values[2] == pytest.approx(np.log(2), rel=1e-6)


def test_conservative_term_ignores_unavailable_actions():
    # Neither value nor gradient sees a million at an illegal action.
    def term(q: jax.Array) -> jax.Array:
        return conservative_term(q, jnp.array([0]), jnp.array([[1.0, 1.0, 0.0]])).sum()

    for junk in (-5.0, 1e6):
        value, grad = jax.value_and_grad(term)(jnp.array([[0.0, 0.0, junk]]))
        assert float(value) == pytest.approx(np.log(2), rel=1e-6)
        np.testing.assert_allclose(grad, [[-0.5, 0.5, 0.0]], atol=1e-6)


def test_conservative_term_stays_finite_where_nothing_is_available():
    # Padding: finite, so that a mask of 0 removes it, gradient and all.
    q, none = jnp.ones((1, 3)), jnp.zeros((1, 3))
    value, grad = jax.value_and_grad(
        lambda q: 0.0 * conservative_term(q, jnp.array([0]), none).sum()
    )(q)
    assert np.isfinite(float(value))
    np.testing.assert_array_equal(grad, 0)
    assert np.isfinite(available_logsumexp(q, none)).all()


def test_sampled_logsumexp_over_every_action_is_exact():
    # Four actions, each drawn once at density 1/4: logsumexp(q + log 4) - log 4 = logsumexp(q).
    q = jnp.array([0.3, -1.0, 2.0, 0.5])
    estimate = sampled_logsumexp(q, jnp.log(0.25)) - jnp.log(4.0)
    assert float(estimate) == pytest.approx(float(available_logsumexp(q, jnp.ones(4))), rel=1e-6)


def test_sampled_logsumexp_corrects_for_the_density():
    # q(a) = a on [0, 1], a drawn from density 2a by inversion: the mean of e^a / 2a is e - 1, where
    # without density it is not.
    a = np.sqrt((np.arange(20000) + 0.5) / 20000)
    estimate = float(sampled_logsumexp(jnp.asarray(a), jnp.log(2 * jnp.asarray(a)))) - np.log(20000)
    assert estimate == pytest.approx(np.log(np.e - 1), abs=2e-3)
    assert float(sampled_logsumexp(jnp.asarray(a), jnp.zeros(20000))) - np.log(
        20000
    ) == pytest.approx(np.log(2.0), abs=2e-3)


def test_sampled_logsumexp_tends_to_the_largest_as_the_temperature_falls():
    # T = .01: the largest of (1, 2) dominates. T = 2: 2 log(e^.5 + e^1).
    q, none = jnp.array([1.0, 2.0]), jnp.zeros(2)
    assert float(sampled_logsumexp(q, none, 0.01)) == pytest.approx(2.0, abs=1e-5)
    assert float(sampled_logsumexp(q, none, 2.0)) == pytest.approx(
        2 * np.log(np.exp(0.5) + np.e), rel=1e-6
    )


# --------------------------------------------------------------------------------------- batch
# weights


def ragged(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, T)).astype(np.float32), (np.arange(T) < LENGTHS[:, None]).astype(
        np.float32
    )


def test_batch_weight_equals_float64():
    x, valid = ragged()
    wanted = np.zeros((B, T))
    for t in range(T):
        alive = [b for b in range(B) if valid[b, t]]
        total = sum(np.exp(float(x[b, t]) / 0.5) for b in alive)
        for b in alive:
            wanted[b, t] = len(alive) * np.exp(float(x[b, t]) / 0.5) / total
    np.testing.assert_allclose(batch_weight(x, valid, 0.5), wanted, rtol=1e-5)


def test_batch_weights_have_mean_one_at_each_step():
    # Over the batch, not over time: 6, 5, 4, 3 and 2 valid entries.
    x, valid = ragged()
    weight = np.asarray(batch_weight(x, valid, 0.1))
    np.testing.assert_allclose(weight.sum(0), valid.sum(0), rtol=1e-5)
    assert np.abs(weight.sum(1) / valid.sum(1) - 1).max() > 0.1
    np.testing.assert_array_equal(weight[valid == 0], 0)


@pytest.mark.parametrize("junk", [1e6, -1e6, np.inf])
def test_a_padded_value_changes_no_other_weight(junk):
    x, valid = ragged()
    spoiled = np.where(valid > 0, x, np.float32(junk))
    np.testing.assert_array_equal(batch_weight(spoiled, valid, 0.1), batch_weight(x, valid, 0.1))


def test_a_mask_without_the_agents_axis_counts_for_all_agents():
    # x [B, T, N] with N = T = B and valid [B, T]: taken along the trailing axes it would mask
    # agents instead of steps.
    rng = np.random.default_rng(0)
    x, valid = (
        rng.normal(size=(T, T, T)).astype(np.float32),
        (np.arange(T) < LENGTHS[1:, None]).astype(np.float32),
    )
    whole = np.broadcast_to(valid[..., None], x.shape)
    np.testing.assert_array_equal(batch_weight(x, valid, 0.5), batch_weight(x, whole, 0.5))
    np.testing.assert_array_equal(np.asarray(batch_weight(x, valid, 0.5))[whole == 0], 0)


def test_a_step_where_nothing_is_valid_has_weight_zero():
    x, valid = ragged()
    assert np.asarray(batch_weight(x, 0 * valid, 0.1) == 0).all()


def test_weights_of_a_hot_critic_are_near_one_and_of_a_cold_actor_are_not():
    # Q in [-20, 20]: at temperature 1000 e^(+-.02) around the mean, at .1 one entry takes nearly
    # all of 100.
    q, valid = np.linspace(-20, 20, 100, dtype=np.float32), np.ones(100, np.float32)
    critic, actor = (
        np.asarray(batch_weight(q, valid, temperature)) for temperature in (1000.0, 0.1)
    )
    assert critic.min() > 0.9
    assert critic.max() < 1.1
    assert actor.max() > 95


def test_batch_weights_are_constants_and_finite_for_large_values():
    valid = jnp.ones(3)
    assert np.isfinite(batch_weight(jnp.array([1e4, -1e4, 0.0]), valid, 0.1)).all()
    np.testing.assert_array_equal(
        jax.grad(lambda x: jnp.sum(x * 0 + batch_weight(x, valid, 0.1)))(
            jnp.array([1.0, 2.0, 3.0])
        ),
        0,
    )
