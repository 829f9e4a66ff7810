"""MACQL: its loss and gradient against float64 NumPy, Tree Backup by hand, and games with known
values.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines import macql
from scipy.optimize import brentq

from jaxoff.config import checked
from tests import toys
from tests.reference import value_numpy as ref
from tests.reference import value_toys

SPEC = toys.spec_of()
SMALL: dict[str, Any] = {"hidden": 6, "embed": 4, "gamma": 0.9}


@pytest.mark.parametrize(
    "config",
    [
        {"backup_policy": "softmax", "n_step": 3},
        {"backup_policy": "greedy", "recurrent": True, "cql_literal": True},
        {"cql_target": "onestep_double", "mixer_bias": False},
    ],
    ids=["softmax, three steps", "greedy, recurrent, as printed", "double Q, no bias"],
)
def test_loss_and_gradient_equal_float64(config):
    # Ragged episodes, unavailable actions; differences along four directions.
    config = macql.Config(**SMALL | config)
    with jax.enable_x64(True):
        m, state = toys.shaken_state(macql, config, SPEC, np.float64)
        batch, rows = toys.batch_of(SPEC), toys.arrays(toys.batch_of(SPEC))
        params = state.critic, state.mixer
        (found, _), grads = jax.jit(
            jax.value_and_grad(functools.partial(macql.loss, m), has_aux=True)
        )(params, state, batch)
        outputs = lambda tree: ref.agent_values(tree, rows, config.recurrent)
        mixer, (slow, next_slow) = (
            functools.partial(ref.linear_mixer, state.target_mixer),
            outputs(state.target_critic),
        )
        if config.cql_target == "onestep_double":
            target = ref.double_q_target(outputs(state.critic)[1], next_slow, rows, mixer, 0.9)
        else:
            target = ref.backup_target(
                slow,
                next_slow,
                rows,
                mixer,
                config.backup_policy,
                gamma=0.9,
                trace=0.93,
                n=config.n_step,
            )

        def loss(params: Any) -> float:
            q = outputs(params[0])[0]
            total = ref.of_taken(q, rows, functools.partial(ref.linear_mixer, params[1]))
            return (
                2 * ref.conservative(q, params[1], rows, config.cql_literal)
                + ref.squared_error(total, target, rows["valid"]) / 2
            )

        assert float(found) == pytest.approx(loss(params), rel=1e-10)
        np.testing.assert_allclose(*toys.slopes(loss, params, grads), rtol=1e-5)


# ---------------------------------------------------------------------------------------- Tree
# Backup


@functools.cache
def compiled(n: int) -> Any:
    return jax.jit(functools.partial(macql.tree_backup, n=n))


def backup(
    n: int,
    match: list[float],
    valid: list[float],
    ended: int | None = None,
    junk: float = 0.0,
    trace: float = 0.5,
) -> np.ndarray:
    """Rewards 1, 2, 4, Q = 1 and V = 2 everywhere, gamma = .5; `junk` is added wherever the step is
    not valid.
    """
    valid_row = np.array([valid], np.float32)
    spoil = lambda x: np.where(valid_row > 0, x, x + junk).astype(np.float32)
    ends = np.zeros((1, 3), np.float32) if ended is None else np.eye(3, dtype=np.float32)[[ended]]
    reward = spoil(np.array([[1.0, 2, 4]]))
    found = compiled(n)(
        spoil(np.ones((1, 3))),
        spoil(np.full((1, 3), 2.0)),
        spoil(np.array([match])),
        reward,
        ends,
        valid_row,
        0.5,
        trace,
    )
    return np.asarray(found)[0]


def test_tree_backup_by_hand():
    # delta_t = r + .5 * 2 - 1 = r: 1, 2, 4. Each step further weighs .5 * .5 * pi = .25 with pi =
    # 1. y_0 = 1 + 1 + .25 * 2 + .0625 * 4 = 2.75, y_1 = 1 + 2 + .25 * 4 = 4, y_2 = 1 + 4 = 5.
    np.testing.assert_allclose(backup(3, [1, 1, 1], [1, 1, 1]), [2.75, 4, 5])
    # n = 2 leaves out the last term of y_0; n = 1 is r + gamma V.
    np.testing.assert_allclose(backup(2, [1, 1, 1], [1, 1, 1]), [2.5, 4, 5])
    np.testing.assert_allclose(backup(1, [1, 1, 1], [1, 1, 1]), [2, 3, 5])


def test_tree_backup_is_cut_where_the_policy_would_act_otherwise():
    # pi(a_1) = 0: y_0 is one step, y_1 is as before. pi(a_0) is in no product.
    np.testing.assert_allclose(backup(3, [1, 0, 1], [1, 1, 1]), [2, 4, 5])
    np.testing.assert_allclose(backup(3, [0, 1, 1], [1, 1, 1]), [2.75, 4, 5])
    np.testing.assert_allclose(backup(3, [1, 1, 1], [1, 1, 1], trace=0.0), [2, 3, 5])


def test_tree_backup_never_looks_at_padding_or_beyond_an_end():
    # Two valid steps: y_0 = 1 + 1 + .25 * 2, y_1 = 1 + 2; a million on the third changes nothing.
    np.testing.assert_allclose(backup(3, [1, 1, 1], [1, 1, 0], junk=1e6)[:2], [2.5, 3])
    # Terminated at the second: delta_1 = 2 - 1 = 1 and nothing after it, so y_0 = 1 + 1 + .25, y_1
    # = 1 + 1.
    np.testing.assert_allclose(backup(3, [1, 1, 1], [1, 1, 1], ended=1)[:2], [2.25, 2])


def test_a_window_shorter_than_n_is_backed_up_to_its_end():
    np.testing.assert_allclose(backup(5, [1, 1, 1], [1, 1, 1]), backup(3, [1, 1, 1], [1, 1, 1]))


def test_greedy_probabilities_are_over_available_actions():
    # The raw argmax is masked to -1e10, as `Actors.outputs` gives it.
    q = jnp.array([-1e10, 1.0, 2.0])
    np.testing.assert_array_equal(macql.action_probs("greedy", q), [0, 0, 1])
    np.testing.assert_allclose(
        macql.action_probs("softmax", q), [0, 1 / (1 + np.e), np.e / (1 + np.e)], rtol=1e-6
    )


# ----------------------------------------------------------------------------------------- one
# update


def test_single_steps_are_windows_of_length_one():
    # The same 5 first steps as [5, ...] and as [5, 1, ...].
    update, state = toys.stepper(macql, SPEC, **SMALL)
    batch = jax.tree.map(lambda x: x[:, :1], toys.batch_of(SPEC))
    single, window = (
        update(state, jax.tree.map(lambda x: x[:, 0], batch))[0],
        update(state, batch)[0],
    )
    np.testing.assert_allclose(toys.flat(single), toys.flat(window), atol=1e-7)


def test_the_conservative_term_is_zero_only_where_one_action_is_legal():
    # Every agent has one legal action: logsumexp of one value is that value. With two, it is larger
    # than either.
    update, state = toys.stepper(macql, SPEC, **SMALL)
    batch = toys.batch_of(SPEC)
    one = np.eye(3, dtype=np.float32)[batch.actions]
    assert float(
        update(state, batch._replace(avail=one))[1].metrics["conservative"]
    ) == pytest.approx(0.0, abs=1e-6)
    two = np.maximum(one, np.eye(3, dtype=np.float32)[(batch.actions + 1) % 3])
    assert float(update(state, batch._replace(avail=two))[1].metrics["conservative"]) > 0.1


# ------------------------------------------------------------------------------------- exact theory


@pytest.fixture(scope="module")
def games() -> Any:
    """The chain; XOR (b); XOR (c) with cql 2 and 0; XOR (d)."""
    xor = [0.0, 1.0, 1.0, -2.0]
    batches = [
        value_toys.chain(),
        value_toys.matrix(xor[1:3], [1, 2]),
        value_toys.matrix(xor[:3], [0, 1, 2]),
        value_toys.matrix(xor[:3], [0, 1, 2]),
        value_toys.matrix(xor, [0, 1, 2, 3]),
    ]
    total, chosen, metrics = value_toys.fit(
        macql, batches, 1500, 5e-3, {"cql": [2.0, 2.0, 2.0, 0.0, 2.0]}
    )
    return (
        np.asarray(total),
        np.asarray(chosen),
        {name: np.asarray(x) for name, x in metrics.items()},
    )


def test_values_of_a_chain_are_discounted_rewards(games):
    # Rewards 0, 0, 1, gamma .9: .81, .9, 1. All actions are equally frequent and equally good, so
    # that the conservative term, N log 2 for equal values, is at its minimum there and moves
    # nothing.
    np.testing.assert_allclose(
        games[0][0],
        np.broadcast_to(np.array([0.81, 0.9, 1.0])[:, None, None], (3, 2, 2)),
        atol=0.01,
    )
    assert float(games[2]["conservative"][0]) == pytest.approx(2 * np.log(2), abs=1e-3)


def preference(share: float, slope: Any) -> float:
    """d = w q(B) - w q(A) of each agent at the minimum, from the derivative of the squared error in
    d.
    """
    return brentq(lambda d: 4 * (1 / (1 + np.exp(-d)) - share) + slope(d), -5, 5)


def test_on_xor_c_values_are_where_both_parts_of_the_loss_balance(games):
    # Conservative, two agents: 2 * 2 (log(1 + e^d) - d / 3). Squared, with the best offset c = 2 (1
    # - d) / 3: errors -c, 1 - c - d twice, half their mean square (1 - d)^2 / 9. Zero derivative: d
    # = -.367, A is preferred, and AA pays 0: inside the data, but not their best.
    d = preference(1 / 3, lambda d: -2 * (1 - d) / 9)
    assert d == pytest.approx(-0.367, abs=1e-3)
    c = 2 * (1 - d) / 3
    np.testing.assert_allclose(games[0][2, 0].ravel(), [c, c + d, c + d, c + 2 * d], atol=0.01)
    assert games[1][2].tolist() == [0, 0]


def test_without_the_conservative_term_xor_c_is_extrapolated_out_of_the_data(games):
    # The sum through 0, 1, 1 is 2 at BB, which pays -2.
    np.testing.assert_allclose(games[0][3, 0].ravel(), [0, 1, 1, 2], atol=0.02)
    assert games[1][3].tolist() == [1, 1]


def test_on_xor_d_values_are_where_both_parts_of_the_loss_balance(games):
    # Uniform data: errors of the sum c, c + d, c + d, c + 2 d to 0, 1, 1, -2 with best c = -d: half
    # the mean square is (d^2 + 2 + (d + 2)^2) / 8, derivative (d + 1) / 2; share 1/2. A is
    # preferred, and AA pays 0.
    d = preference(1 / 2, lambda d: (d + 1) / 2)
    np.testing.assert_allclose(games[0][4, 0].ravel(), [-d, 0, 0, d], atol=0.01)
    assert games[1][4].tolist() == [0, 0]


def test_on_xor_b_no_action_is_preferred(games):
    # Both actions of both agents are equally frequent and pay 1: equal values minimise both parts,
    # and which joint action is played is left to noise.
    np.testing.assert_allclose(games[0][1, 0], 1.0, atol=0.01)


# ------------------------------------------------------------------------------------------
# settings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"cql_target": "retrace"},
            "field 'cql_target': expected one of tree_backup, onestep_double, found 'retrace'",
        ),
        (
            {"backup_policy": "mu"},
            "field 'backup_policy': expected one of greedy, softmax, found 'mu'",
        ),
        ({"n_step": 0}, "field 'n_step': expected at least 1, found 0"),
        ({"recurrent": True, "window": 0}, "macql: field 'window': expected -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        macql.make(checked(macql.Config(**config)), SPEC)
