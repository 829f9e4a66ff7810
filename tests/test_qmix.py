"""Offline QMIX: its loss and gradient against float64 NumPy, the traps of targets and masks, and
games with known values.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxoff.baselines import qmix

from jaxoff.optimisers import rmsprop
from jaxoff.types import EnvSpec
from tests import toys
from tests.reference import value_numpy as ref
from tests.reference import value_toys

SPEC = toys.spec_of()
SMALL: dict[str, Any] = {"hidden": 6, "embed": 4, "hyper": 5, "gamma": 0.9}


@pytest.mark.parametrize(
    "config",
    [{}, {"recurrent": True, "hyper": 0}],
    ids=["feed-forward", "recurrent, linear hypernets"],
)
def test_loss_and_gradient_equal_float64(config):
    # Ragged episodes, unavailable actions, nonsense rewards on padding. Differences along four
    # directions.
    config = qmix.Config(**SMALL | config)
    with jax.enable_x64(True):
        m, state = toys.shaken_state(qmix, config, SPEC, np.float64)
        batch = toys.batch_of(SPEC)
        (found, _), grads = jax.jit(
            jax.value_and_grad(functools.partial(qmix.loss, m), has_aux=True)
        )((state.critic, state.mixer), state, batch)
        rows = toys.arrays(batch)
        next_q = ref.agent_values(state.critic, rows, config.recurrent)[1]
        slow = ref.agent_values(state.target_critic, rows, config.recurrent)[1]
        target = ref.double_q_target(
            next_q, slow, rows, functools.partial(ref.q_mixer, state.target_mixer), 0.9
        )

        def loss(params: Any) -> float:
            q = ref.agent_values(params[0], rows, config.recurrent)[0]
            return ref.squared_error(
                ref.of_taken(q, rows, functools.partial(ref.q_mixer, params[1])),
                target,
                rows["valid"],
            )

        assert float(found) == pytest.approx(loss((state.critic, state.mixer)), rel=1e-10)
        np.testing.assert_allclose(
            *toys.slopes(loss, (state.critic, state.mixer), grads), rtol=1e-5
        )


# ----------------------------------------------------------------------------------------- one
# update


def test_the_target_is_mixed_at_the_next_state():
    update, state = toys.stepper(qmix, SPEC, **SMALL)
    batch = toys.batch_of(SPEC)
    told = lambda **changes: float(update(state, batch._replace(**changes))[1].metrics["target"])
    assert told(state=batch.state + 1) == told()
    assert told(next_state=batch.next_state + 1) != pytest.approx(told(), abs=1e-3)


def test_the_policy_of_an_agent_uses_its_own_observation_only():
    m, state = toys.shaken_state(qmix, qmix.Config(**SMALL), SPEC)
    policy = qmix.make(m.config, SPEC).policy(state)
    obs = 5 * jax.random.normal(jax.random.key(0), (20, 3, 2))
    first, other = (
        policy.distribution((), toys.seen(SPEC, x))[1].mode()
        for x in (obs, obs.at[:, 1:].set(-9.0))
    )
    np.testing.assert_array_equal(first[:, 0], other[:, 0])
    assert (first[:, 1:] != other[:, 1:]).any()


def test_rmsprop_has_pytorchs_epsilon():
    # g = 1: v = .01, step lr / (sqrt(.01) + 1e-5) = lr * 9.999; eps inside the root would give lr *
    # 9.995.
    optimiser = rmsprop(1.0, 10.0)
    step, _ = optimiser.update(jnp.ones(()), optimiser.init(jnp.zeros(())))
    assert float(step) == pytest.approx(-1 / (0.1 + 1e-5), rel=1e-6)


def test_gradients_are_clipped_by_the_norm_of_agents_and_mixer_together():
    # (6, 8) has norm 10, (12, 16) twice that: clipped to 10 both make the same step.
    optimiser = rmsprop(0.1, 10.0)
    params = (jnp.zeros(()), jnp.zeros(()))
    steps = [
        optimiser.update(g, optimiser.init(params))[0]
        for g in ((jnp.array(6.0), jnp.array(8.0)), (jnp.array(12.0), jnp.array(16.0)))
    ]
    np.testing.assert_allclose(*steps, rtol=1e-6)
    assert float(optax.global_norm(steps[0])) > 0


# ------------------------------------------------------------------------------------- exact theory


@pytest.fixture(scope="module")
def games() -> Any:
    """The chain; a game that is monotone but not a sum; XOR (b), (c) and (d)."""
    xor = [0.0, 1.0, 1.0, -2.0]
    batches = [
        value_toys.chain(),
        value_toys.matrix([0.0, 1.0, 1.0, 3.0], [0, 1, 2, 3]),
        value_toys.matrix(xor[1:3], [1, 2]),
        value_toys.matrix(xor[:3], [0, 1, 2]),
        value_toys.matrix(xor, [0, 1, 2, 3]),
    ]
    total, chosen, metrics = value_toys.fit(qmix, batches, 2500, 5e-3, {}, hyper=8)
    return (
        np.asarray(total),
        np.asarray(chosen),
        {name: np.asarray(x) for name, x in metrics.items()},
    )


def test_values_of_a_chain_are_discounted_rewards(games):
    # Rewards 0, 0, 1, gamma .9: .81, .9, 1 for every joint action.
    np.testing.assert_allclose(
        games[0][0],
        np.broadcast_to(np.array([0.81, 0.9, 1.0])[:, None, None], (3, 2, 2)),
        atol=0.01,
    )


def test_a_monotone_payoff_is_fitted_exactly_though_it_is_no_sum(games):
    # 0, 1, 1, 3: no sum over agents fits it (1 + 1 - 0 = 2), a monotone mixer does.
    np.testing.assert_allclose(games[0][1, 0].ravel(), [0, 1, 1, 3], atol=0.02)
    assert games[1][1].tolist() == [1, 1]


def test_on_xor_b_the_greedy_joint_action_is_outside_the_data(games):
    # Q_tot(AB) = Q_tot(BA) and strict monotonicity force both agents to prefer the same action.
    np.testing.assert_allclose(games[0][2, 0].ravel()[1:3], 1.0, atol=0.02)
    assert games[1][2].tolist() in ([0, 0], [1, 1])


def test_on_xor_c_the_greedy_joint_action_is_the_worst(games):
    # AA 0 < AB 1 and AA 0 < BA 1: each agent prefers B, and BB, which the data do not show, pays
    # -2.
    np.testing.assert_allclose(games[0][3, 0].ravel()[:3], [0, 1, 1], atol=0.02)
    assert games[1][3].tolist() == [1, 1]


def test_on_xor_d_no_monotone_fit_finds_the_optimum(games):
    # The monotone function nearest to 0, 1, 1, -2 is 2/3, 2/3, 2/3, -2, mean squared error 1/6; the
    # nearest sum is 1, 0, 0, -1, error 1. Whatever is reached between the two, both agents prefer
    # A, and AA pays 0.
    assert 1 / 6 - 1e-3 < float(games[2]["value"][4]) < 1 + 1e-3
    assert games[1][4].tolist() == [0, 0]


# ------------------------------------------------------------------------------------------
# settings


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="qmix: field 'window': expected -1"):
        qmix.make(qmix.Config(recurrent=True, window=0), SPEC)
    with pytest.raises(ValueError, match="qmix on 'real': expected discrete actions"):
        qmix.make(qmix.Config(), EnvSpec("real", 2, 1, 1, 1, False, 1))
