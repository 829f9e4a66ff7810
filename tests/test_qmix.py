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
from jaxoff.types import EnvSpec, TimeStep
from tests.reference import value_numpy as ref
from tests.reference import value_toys as toys

SMALL: dict[str, Any] = {"hidden": 6, "embed": 4, "hyper": 5, "gamma": 0.9}


def shaken_state(config: qmix.Config, dtype: Any = np.float32) -> tuple[qmix.Method, qmix.State]:
    """Nets that differ from their slow copies everywhere."""
    m = qmix.method_of(config, toys.SPEC)
    state = jax.jit(functools.partial(qmix.init, m))(jax.random.key(0))
    move = lambda tree, seed: toys.shaken(tree, seed, dtype)
    return m, state._replace(
        critic=move(state.critic, 1),
        mixer=move(state.mixer, 2),
        target_critic=move(state.critic, 3),
        target_mixer=move(state.mixer, 4),
    )


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
        m, state = shaken_state(config, np.float64)
        batch = toys.random_batch(dtype=np.float64)
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


@functools.cache
def stepper() -> tuple[Any, qmix.State]:
    m, state = shaken_state(qmix.Config(**SMALL, target_every=100))
    return jax.jit(functools.partial(qmix.update, m)), state


def test_padding_changes_nothing():
    update, state = stepper()
    batch = toys.random_batch()
    clean, noisy = (update(state, x)[0] for x in (batch, toys.spoiled(batch, slots=True)))
    np.testing.assert_array_equal(toys.flat(clean), toys.flat(noisy))


def test_padding_changes_nothing_of_a_recurrent_net():
    # The slot after the last step is seen, as the next one of that step; what lies beyond it is
    # nonsense.
    m, state = shaken_state(qmix.Config(**SMALL, recurrent=True))
    update, batch = jax.jit(functools.partial(qmix.update, m)), toys.random_batch()
    beyond = (np.arange(toys.T) > toys.LENGTHS[:, None])[..., None, None]
    noise = toys.spoiled(batch)._replace(
        obs=np.where(beyond, 7, batch.obs), next_obs=batch.next_obs
    )
    clean, noisy = (update(state, x)[0] for x in (batch, noise))
    np.testing.assert_array_equal(toys.flat(clean), toys.flat(noisy))


def test_slow_nets_are_copied_at_update_100_and_not_before():
    update, state = stepper()
    for made, copied in ((98, False), (99, True)):  # then 99 and 100 updates are made
        after, _ = update(state._replace(updates=jnp.int32(made)), toys.random_batch())
        slow = toys.flat((after.target_critic, after.target_mixer))
        wanted = (
            (after.critic, after.mixer) if copied else (state.target_critic, state.target_mixer)
        )
        np.testing.assert_array_equal(slow, toys.flat(wanted))


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not():
    # r = 1: terminated, y = 1; truncated, y = 1 + .9 Q'_tot(s'), which is not 1. The mean target
    # tells.
    update, state = stepper()
    batch = toys.random_batch()
    ones, zeros = np.ones_like(batch.reward), np.zeros_like(batch.reward)
    ended = update(state, batch._replace(reward=ones, terminated=ones, truncated=zeros))[1].metrics[
        "target"
    ]
    cut = update(state, batch._replace(reward=ones, terminated=zeros, truncated=ones))[1].metrics[
        "target"
    ]
    assert float(ended) == pytest.approx(1.0, abs=1e-6)
    assert abs(float(cut) - 1.0) > 0.01


def test_the_target_is_mixed_at_the_next_state():
    update, state = stepper()
    batch = toys.random_batch()
    told = lambda **changes: float(update(state, batch._replace(**changes))[1].metrics["target"])
    assert told(state=batch.state + 1) == told()
    assert told(next_state=batch.next_state + 1) != pytest.approx(told(), abs=1e-3)


def test_an_unavailable_action_is_neither_chosen_nor_trained():
    # Action 2 is unavailable in every window: its output of 1e6 is in no target, and its bias gets
    # no gradient.
    update, state = stepper()
    batch = toys.random_batch()
    none = np.where(np.arange(3) == 2, 0.0, batch.avail).astype(np.float32)
    batch = batch._replace(actions=np.minimum(batch.actions, 1), avail=none, next_avail=none)
    lift = lambda tree: jax.tree.map(
        lambda x: np.where(np.arange(3) == 2, 1e6, x) if x.shape == (3,) else x, tree
    )
    (plain, out), (high, raised) = (
        update(s, batch)
        for s in (
            state,
            state._replace(critic=lift(state.critic), target_critic=lift(state.target_critic)),
        )
    )
    assert float(raised.metrics["target"]) == float(out.metrics["target"])
    head = high.critic["params"]["Dense_2"]["bias"]
    assert float(head[2]) == 1e6
    np.testing.assert_array_equal(head[:2], plain.critic["params"]["Dense_2"]["bias"][:2])


def test_the_policy_of_an_agent_uses_its_own_observation_only():
    m, state = shaken_state(qmix.Config(**SMALL))
    policy = qmix.make(m.config, toys.SPEC).policy(state)
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3, 2)), jnp.float32)
    seen = lambda obs: TimeStep(
        obs, jnp.zeros((20, 2)), jnp.ones((20, 3, 3)), *[jnp.zeros(20)] * 3, jnp.full((20, 3), -1)
    )
    first, other = (
        policy.distribution((), seen(x))[1].mode() for x in (obs, obs.at[:, 1:].set(3.0))
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
        toys.chain(),
        toys.matrix([0.0, 1.0, 1.0, 3.0], [0, 1, 2, 3]),
        toys.matrix(xor[1:3], [1, 2]),
        toys.matrix(xor[:3], [0, 1, 2]),
        toys.matrix(xor, [0, 1, 2, 3]),
    ]
    total, chosen, metrics = toys.fit(qmix, batches, 2500, 5e-3, {}, hyper=8)
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
        qmix.make(qmix.Config(recurrent=True, window=0), toys.SPEC)
    with pytest.raises(ValueError, match="qmix on 'real': expected discrete actions"):
        qmix.make(qmix.Config(), EnvSpec("real", 2, 1, 1, 1, False, 1))
