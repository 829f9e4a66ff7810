"""MABCQ: its losses and gradients against float64 NumPy, which actions are kept, and games with
known values.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines.bcq import discrete as bcq

from jaxoff.types import UNAVAILABLE
from tests import toys
from tests.reference import value_numpy as ref
from tests.reference import value_toys

SPEC = toys.spec_of()
SMALL: dict[str, Any] = {"hidden": 6, "embed": 4, "gamma": 0.9}


@pytest.mark.parametrize(
    "config",
    [{}, {"recurrent": True, "mixer_bias": False}],
    ids=["feed-forward", "recurrent, no bias"],
)
def test_losses_and_gradients_equal_float64(config):
    # Ragged episodes, unavailable actions. zeta = .6 removes actions that the argmax would have
    # taken.
    config = bcq.Config(**SMALL | {"zeta": 0.6} | config)
    with jax.enable_x64(True):
        m, state = toys.shaken_state(bcq, config, SPEC, np.float64)
        batch, rows = toys.batch_of(SPEC), toys.arrays(toys.batch_of(SPEC))
        params = state.critic, state.mixer

        @jax.jit
        def both(state: bcq.State) -> Any:
            value = jax.value_and_grad(lambda p: bcq.loss(m, p, state, batch)[0])(
                (state.critic, state.mixer)
            )
            return value, jax.value_and_grad(lambda p: bcq.behaviour_loss(m, p, batch))(
                state.behaviour_policy
            )

        (found, grads), (cloned, clone_grads) = both(state)
        outputs = lambda tree: ref.agent_values(tree, rows, config.recurrent)
        mixer = functools.partial(ref.linear_mixer, state.target_mixer)
        next_q, slow, keep = (
            outputs(state.critic)[1],
            outputs(state.target_critic)[1],
            ref.keep_of(outputs(state.behaviour_policy)[1], 0.6),
        )
        target = ref.double_q_target(next_q, slow, rows, mixer, 0.9, keep)
        assert np.abs(target - ref.double_q_target(next_q, slow, rows, mixer, 0.9)).max() > 0.01

        def loss(params: Any) -> float:
            total = ref.of_taken(
                outputs(params[0])[0], rows, functools.partial(ref.linear_mixer, params[1])
            )
            return ref.squared_error(total, target, rows["valid"])

        def clone(params: Any) -> float:
            return ref.cloning(outputs(params)[0], rows)

        assert float(found) == pytest.approx(loss(params), rel=1e-10)
        assert float(cloned) == pytest.approx(clone(state.behaviour_policy), rel=1e-10)
        np.testing.assert_allclose(*toys.slopes(loss, params, grads), rtol=1e-5)
        np.testing.assert_allclose(
            *toys.slopes(clone, state.behaviour_policy, clone_grads, 2), rtol=1e-5
        )


# --------------------------------------------------------------------------------------- kept
# actions


def kept(probs: list[float], avail: list[float], zeta: float) -> list[bool]:
    logits = jnp.where(jnp.array(avail) > 0, jnp.log(jnp.array(probs)), UNAVAILABLE)
    return bcq.keep_mask(logits, jnp.array(avail), zeta).tolist()


def test_an_action_is_kept_above_zeta_times_the_largest():
    # Ratios 1, .5, .28, .22 against .3; a ratio equal to zeta is not kept.
    assert kept([0.5, 0.25, 0.14, 0.11], [1, 1, 1, 1], 0.3) == [True, True, False, False]
    assert kept([0.5, 0.25, 0.125, 0.125], [1, 1, 1, 1], 0.5) == [True, False, False, False]


def test_an_unavailable_action_is_never_kept_nor_the_largest():
    # Of (.9, .06, .04) the first is illegal: ratios over the others are 1 and 2/3, not .067 and
    # .044.
    assert kept([0.9, 0.06, 0.04], [0, 1, 1], 0.3) == [False, True, True]
    assert kept([0.9, 0.06, 0.04], [0, 1, 1], 0.0) == [False, True, True]


def test_zeta_0_keeps_all_available_actions_and_zeta_1_the_likeliest():
    # A ratio of e^-200 underflows in float32 and is still above zero.
    logits = jnp.array([0.0, -200.0, -1.0])
    assert bcq.keep_mask(logits, jnp.ones(3), 0.0).tolist() == [True, True, True]
    for zeta in (0.999, 1.0):
        assert bcq.keep_mask(logits, jnp.ones(3), zeta).tolist() == [True, False, False]


def policy_at(values: list[float], probs: list[float], avail: list[float], zeta: float) -> int:
    """What the policy plays where every agent has these values and behaviour probabilities."""
    m = bcq.method_of(bcq.Config(**SMALL, zeta=zeta), SPEC)
    constant = lambda key, row: jax.tree.map(jnp.zeros_like, m.actors.init(key)) | {"row": row}
    q, mu = (
        constant(jax.random.key(0), row) for row in (values, [float(np.log(p)) for p in probs])
    )
    for tree in (q, mu):
        tree["params"]["Dense_2"]["bias"] = jnp.array(tree.pop("row"))
    seen = toys.seen(SPEC, avail=jnp.tile(jnp.array(avail), (3, 1)))
    policy = bcq.policy_of(m, q, mu)
    return int(policy.distribution(policy.initial(()), seen)[1].mode()[0])


def test_the_policy_takes_the_best_kept_action():
    # Values 3, 2, 1; behaviour (.05, .5, .45): the best is not imitated, the second is.
    assert policy_at([3.0, 2.0, 1.0], [0.05, 0.5, 0.45], [1, 1, 1], 0.3) == 1
    assert policy_at([3.0, 2.0, 1.0], [0.05, 0.5, 0.45], [1, 1, 1], 0.0) == 0
    assert policy_at([3.0, 2.0, 1.0], [0.05, 0.45, 0.5], [1, 1, 1], 1.0) == 2


def test_the_policy_never_takes_an_unavailable_action():
    # The imitated and the best action are both illegal; of the two legal ones the less imitated is
    # below zeta.
    assert policy_at([9.0, -2.0, -1.0], [0.98, 0.019, 0.001], [0, 1, 1], 0.3) == 1
    assert policy_at([9.0, -2.0, -1.0], [0.98, 0.019, 0.001], [0, 0, 1], 0.3) == 2


# ----------------------------------------------------------------------------------------- one
# update


def test_targets_are_mixed_at_the_next_state():
    update, state = toys.stepper(bcq, SPEC, **SMALL)
    batch = toys.batch_of(SPEC)
    told = lambda **changes: float(update(state, batch._replace(**changes))[1].metrics["target"])
    assert told(state=batch.state + 1) == told()
    assert told(next_state=batch.next_state + 1) != pytest.approx(told(), abs=1e-3)


def test_behaviour_models_that_came_first_have_no_loss():
    _, state = toys.stepper(bcq, SPEC, **SMALL)
    for behaviour_steps in (0, 5):
        m = bcq.method_of(bcq.Config(**SMALL, behaviour_steps=behaviour_steps), SPEC)
        _, out = jax.eval_shape(functools.partial(bcq.update, m), state, toys.batch_of(SPEC))
        assert ("behaviour" in out.metrics) == (behaviour_steps == 0)


def test_values_start_from_the_behaviour_models_of_the_first_stage():
    stages = bcq.make(bcq.Config(**SMALL, behaviour_steps=5), SPEC)
    assert [(stage.name, stage.steps) for stage in stages] == [("behaviour", 5), ("train", 15000)]
    fitted = jax.jit(stages[0].learner.init)(jax.random.key(0))
    state = stages[1].prepare(fitted, None, jax.random.key(1))
    np.testing.assert_array_equal(toys.flat(state.behaviour_policy), toys.flat(fitted.policy))


# ------------------------------------------------------------------------------------- exact theory


@pytest.fixture(scope="module")
def games() -> Any:
    """The chain; a monotone game that is no sum; XOR (b); XOR (c) with zeta .3 and .6; XOR (d)."""
    xor = [0.0, 1.0, 1.0, -2.0]
    batches = [
        value_toys.chain(),
        value_toys.matrix([0.0, 1.0, 1.0, 3.0], [0, 1, 2, 3]),
        value_toys.matrix(xor[1:3], [1, 2]),
        value_toys.matrix(xor[:3], [0, 1, 2]),
        value_toys.matrix(xor[:3], [0, 1, 2]),
        value_toys.matrix(xor, [0, 1, 2, 3]),
    ]
    total, chosen, _ = value_toys.fit(
        bcq, batches, 1500, 5e-3, {"zeta": [0.3, 0.3, 0.3, 0.3, 0.6, 0.3]}
    )
    return np.asarray(total), np.asarray(chosen)


def test_values_of_a_chain_are_discounted_rewards(games):
    # Rewards 0, 0, 1, gamma .9: .81, .9, 1 for every joint action.
    np.testing.assert_allclose(
        games[0][0],
        np.broadcast_to(np.array([0.81, 0.9, 1.0])[:, None, None], (3, 2, 2)),
        atol=0.01,
    )


def test_a_full_matrix_is_fitted_by_its_nearest_sum(games):
    # 0, 1, 1, 3: rows and columns have means .5 and 2, all 1.25, so the sum is -.25, 1.25, 1.25,
    # 2.75.
    np.testing.assert_allclose(games[0][1, 0].ravel(), [-0.25, 1.25, 1.25, 2.75], atol=0.02)
    # XOR: 0, 1, 1, -2 has means .5 and -.5, all 0: 1, 0, 0, -1, so AA is played, which pays 0.
    np.testing.assert_allclose(games[0][5, 0].ravel(), [1, 0, 0, -1], atol=0.02)
    assert games[1][5].tolist() == [0, 0]


def test_on_xor_b_the_joint_action_is_outside_the_data(games):
    # w0 d0 = w1 d1 for the preferences d of A over B: both agents prefer the same action, and mu
    # keeps both.
    np.testing.assert_allclose(games[0][2, 0].ravel()[1:3], 1.0, atol=0.02)
    assert games[1][2].tolist() in ([0, 0], [1, 1])


def test_on_xor_c_the_threshold_decides(games):
    # The sum through 0, 1, 1 is 2 at BB. mu(B) / mu(A) = 1/2: kept with zeta .3, and BB is played,
    # which pays -2 and is not in the data; removed with zeta .6, and AA is played, which pays 0.
    np.testing.assert_allclose(games[0][3, 0].ravel(), [0, 1, 1, 2], atol=0.02)
    assert games[1][3].tolist() == [1, 1]
    assert games[1][4].tolist() == [0, 0]


# ------------------------------------------------------------------------------------------
# settings


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="bcq: field 'window': expected -1"):
        bcq.make(bcq.Config(recurrent=True, window=0), SPEC)
