"""The small games: rules, exact values, and JaxMARL's interface."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.data import recipes
from jaxoff.envs.games.bridge import FREE, GOALS, BridgeState, make_bridge
from jaxoff.envs.games.matrix import XOR, joint_probabilities, make_matrix, mne
from jaxoff.envs.games.polynomial import GAMES, make_polynomial, peak, reward_of, twin_peaks
from tests.reference import bridge_numpy

KEY = jax.random.key(0)
STAY, UP, DOWN, RIGHT, LEFT = range(5)
CELLS = [tuple(map(int, cell)) for cell in np.argwhere(FREE)]


def all_joint_steps():
    """Every pair of distinct free cells off the goals, with either agent also finished, x 25 joint
    actions.
    """
    places = [[c for c in CELLS if c != bridge_numpy.GOAL[i]] + ["done"] for i in range(2)]
    for pair in itertools.product(*places):
        done = [p == "done" for p in pair]
        cells = [bridge_numpy.GOAL[i] if done[i] else pair[i] for i in range(2)]
        if not all(done) and (any(done) or cells[0] != cells[1]):
            for joint in itertools.product(range(5), repeat=2):
                yield cells, done, joint


BRIDGE_STEP = jax.jit(make_bridge(horizon=20).step)


def step_bridge(cells, done, actions, time=0):
    return BRIDGE_STEP(
        KEY, BridgeState(jnp.array(cells), jnp.array(done), jnp.array(time)), jnp.array(actions)
    )


def positions_after(cells, actions, done=(False, False)):
    return [tuple(map(int, p)) for p in step_bridge(cells, done, actions)[0].positions]


# ------------------------------------------------------------------------------------------- bridge


def test_bridge_starts_as_published():
    _, first = make_bridge().reset(KEY)
    np.testing.assert_array_equal(first.state, [1, 2, 2, 5, 1, 3, 0, 0])
    np.testing.assert_array_equal(first.obs, [first.state, first.state])
    _, apart = make_bridge(start_adjacent=False).reset(KEY)
    np.testing.assert_array_equal(apart.state, [1, 1, 2, 5, 1, 4, 0, 0])


@pytest.mark.parametrize(
    ("cells", "actions", "after"),
    [
        ([(1, 1), (2, 0)], (LEFT, UP), [(1, 0), (2, 0)]),  # both want (1, 0): agent 0 wins
        ([(1, 2), (1, 3)], (RIGHT, LEFT), [(1, 2), (1, 3)]),  # a swap: both stay
        ([(1, 2), (1, 3)], (RIGHT, RIGHT), [(1, 3), (1, 4)]),  # agent 0 follows
        ([(1, 2), (1, 3)], (LEFT, LEFT), [(1, 1), (1, 2)]),  # agent 1 follows
        ([(1, 2), (1, 3)], (RIGHT, STAY), [(1, 2), (1, 3)]),  # into one that stays
        ([(1, 2), (1, 3)], (RIGHT, UP), [(1, 2), (1, 3)]),  # into one that bumps a wall
        ([(1, 2), (1, 3)], (STAY, LEFT), [(1, 2), (1, 3)]),
        ([(1, 2), (1, 3)], (UP, LEFT), [(1, 2), (1, 3)]),
        ([(0, 1), (2, 1)], (UP, DOWN), [(0, 1), (2, 1)]),  # off the grid
        # agent 0 enters its goal on top of agent 1
        ([(1, 5), (2, 5)], (DOWN, STAY), [(2, 5), (2, 5)]),
        ([(0, 0), (1, 0)], (STAY, UP), [(0, 0), (0, 0)]),  # and agent 1 its own on top of agent 0
        # agent 0 wins agent 1's goal, even from its owner
        ([(1, 0), (0, 1)], (UP, LEFT), [(0, 0), (0, 1)]),
    ],
)
def test_bridge_resolves_by_hand(cells, actions, after):
    assert positions_after(cells, actions) == after


def test_bridge_finished_agent_is_transparent_and_deaf():
    # agent 1 stands finished on (0, 0): agent 0 walks onto it; agent 1's action does nothing
    assert positions_after([(0, 1), (0, 0)], (LEFT, DOWN), done=(False, True)) == [(0, 0), (0, 0)]


def test_bridge_step_that_ends_pays_nothing():
    # agent 0 is done, agent 1 enters its goal: all done, reward 0; one step before it pays for
    # agent 1 only
    _, after = step_bridge([(2, 5), (0, 1)], [True, False], (STAY, LEFT))
    assert (float(after.reward), bool(after.terminated)) == (0.0, True)
    _, before = step_bridge([(2, 5), (0, 1)], [True, False], (STAY, STAY))
    # distance of (0, 1) to (0, 0) is 1: mean of (0, -0.1)
    assert float(before.reward) == np.float32(-0.05)


def test_bridge_time_limit_is_terminal_and_pays_nothing():
    _, after = step_bridge([(1, 2), (1, 3)], [False, False], (STAY, STAY), time=19)
    assert (bool(after.terminated), bool(after.truncated), float(after.reward)) == (
        True,
        False,
        0.0,
    )


def test_bridge_equals_the_agent_by_agent_reference_in_every_state():
    cases = list(all_joint_steps())
    cells, done, joint = (jnp.array(x) for x in zip(*cases, strict=True))
    env = make_bridge(horizon=20)
    new, after = jax.jit(
        jax.vmap(lambda p, d, a: env.step(KEY, BridgeState(p, d, jnp.zeros((), int)), a))
    )(cells, done, joint)
    expected = [bridge_numpy.step(c, d, 0, 20, j) for c, d, j in cases]
    np.testing.assert_array_equal(new.positions, [e[0] for e in expected])
    np.testing.assert_array_equal(new.done, [e[1] for e in expected])
    # bit-equal
    np.testing.assert_array_equal(after.reward, np.array([e[2] for e in expected], np.float32))
    np.testing.assert_array_equal(after.terminated, [e[3] for e in expected])
    assert len(cases) > 4000


def test_bridge_equals_the_reference_on_random_play():
    env = make_bridge(horizon=50, start_adjacent=False)
    played = recipes.record(env, recipes.random_policy(env.spec), 40, jax.random.key(1))
    for e in range(40):
        cells, done = [(1, 1), (1, 4)], [False, False]
        for t in range(int(played.filled[e].sum())):
            cells, done, reward, over = bridge_numpy.step(cells, done, t, 50, played.actions[e, t])
            assert [tuple(played.state[e, t + 1, i : i + 2]) for i in (0, 4)] == cells
            assert (played.reward[e, t], played.terminated[e, t]) == (reward, over)
        assert over


def bridge_tables():
    """(next index, reward, ended) of every state and joint action, from the JAX step function."""
    states = list(itertools.product(range(18), range(18), range(2), range(2)))
    index = {s: k for k, s in enumerate(states)}
    p = np.array([[divmod(s[0], 6), divmod(s[1], 6)] for s in states])
    d = np.array([s[2:] for s in states], bool)
    joint = jnp.array(list(itertools.product(range(5), repeat=2)))
    env = make_bridge(horizon=10**6)
    one = lambda q, f, a: env.step(KEY, BridgeState(q, f, jnp.zeros((), int)), a)
    new, after = jax.jit(jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None)))(
        jnp.array(p), jnp.array(d), joint
    )
    q, f = np.asarray(new.positions), np.asarray(new.done)
    cell = q[..., 0] * 6 + q[..., 1]
    follow = ((cell[..., 0] * 18 + cell[..., 1]) * 2 + f[..., 0]) * 2 + f[..., 1]
    return (
        follow,
        np.asarray(after.reward, np.float64),
        np.asarray(after.terminated),
        index[8, 9, 0, 0],
    )


def test_bridge_exact_values_by_dynamic_programming():
    follow, reward, ended, start = bridge_tables()

    def value(horizon, over_actions):
        v = np.zeros(len(reward))  # with one step to go: that step ends the episode and pays 0
        for _ in range(horizon - 1):
            v = over_actions(np.where(ended, 0.0, reward + v[follow]), axis=1)
        return v[start]

    assert value(20, np.max) == pytest.approx(-1.2354526, abs=1e-6)
    assert value(50, np.max) == pytest.approx(-1.2354526, abs=1e-6)
    assert value(20, np.mean) == pytest.approx(-7.09992, abs=1e-5)
    assert value(50, np.mean) == pytest.approx(-17.55857, abs=1e-5)
    scale = make_bridge().spec.return_scale
    assert (scale.low, scale.high) == (
        pytest.approx(value(20, np.mean), abs=1e-5),
        pytest.approx(value(20, np.max), abs=1e-6),
    )


# ------------------------------------------------------------------------------------------- matrix


def test_matrix_payoffs_are_as_published():
    np.testing.assert_array_equal(XOR, [[0, 1], [1, -2]])
    np.testing.assert_array_equal(mne(-20.0), [[5, -20, -20], [-20, 10, -20], [-20, -20, 20]])


def test_matrix_game_pays_its_table():
    env = make_matrix("xor", XOR)
    state, _ = env.reset(KEY)
    for joint in itertools.product(range(2), repeat=2):
        _, after = env.step(KEY, state, jnp.array(joint))
        assert (float(after.reward), bool(after.terminated)) == (XOR[joint], True)
        np.testing.assert_array_equal(after.last_actions, joint)


def test_matrix_game_repeats_and_ends_at_its_last_play():
    env = make_matrix("xor", XOR, plays=3, state=(0.0, 1.0, 0.0, 1.0))
    played = recipes.record(env, recipes.random_policy(env.spec), 5, KEY)
    np.testing.assert_array_equal(played.terminated, [[False, False, True]] * 5)
    np.testing.assert_array_equal(played.state, np.tile([0, 1, 0, 1], (5, 4, 1)))


def test_matrix_game_keeps_eleven_agents_in_order():
    # names sorted as text would put agent_10 after agent_1; only agent 10 plays 1: payoff index
    # 0...01
    payoff = np.arange(2**11, dtype=np.float32).reshape((2,) * 11)
    env = make_matrix("many", payoff)
    _, after = env.step(KEY, env.reset(KEY)[0], jnp.eye(11, dtype=int)[10])
    assert float(after.reward) == 1.0
    _, after = env.step(KEY, env.reset(KEY)[0], jnp.eye(11, dtype=int)[2])
    assert float(after.reward) == 2.0**8


def test_joint_probabilities_are_products():
    joint = joint_probabilities(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    np.testing.assert_allclose(joint, [[0.125, 0.125], [0.375, 0.375]])


@pytest.mark.parametrize(
    ("quality", "bc", "data"), [("a", 1, 1), ("b", 0, 1), ("c", 2 / 9, 2 / 3), ("d", 0, 0)]
)
def test_xor_behaviour_cloning_values_are_exact(quality, bc, data):
    episodes = recipes.xor(quality)
    marginals = np.stack(
        [np.bincount(episodes.actions[:, 0, i], minlength=2) for i in range(2)]
    ) / len(episodes.actions)
    assert float((joint_probabilities(marginals) * XOR).sum()) == pytest.approx(bc, abs=1e-6)
    assert episodes.reward.mean() == pytest.approx(data, abs=1e-6)


@pytest.mark.parametrize(
    ("quality", "offdiag", "bc"),
    [
        ("balanced", 0, 35 / 9),
        ("imbalanced", 0, 3.5),
        ("balanced", -20, -85 / 9),
        ("imbalanced", -20, -3.3),
    ],
)
def test_mne_behaviour_cloning_values_are_exact(quality, offdiag, bc):
    marginals = np.tile(recipes.MNE_MARGINALS[quality], (2, 1))
    assert float((joint_probabilities(marginals) * mne(offdiag)).sum()) == pytest.approx(
        bc, abs=1e-5
    )


# --------------------------------------------------------------------------------------- polynomial


def test_polynomial_rewards_by_hand():
    at = jnp.array([[-0.5], [0.25]])
    # x + y, x y, -(x - y)^2, -(x^2 + y^2) - 4 x^2 y^2 + 5 x y
    expected = {
        "decoupled": -0.25,
        "sign": -0.125,
        "action": -0.5625,
        "twin_peaks": -0.3125 - 0.0625 - 0.625,
    }
    for game, value in expected.items():
        assert float(reward_of(GAMES[game])(at)) == pytest.approx(value), game


def test_twin_peaks_landscape():
    reward = reward_of(GAMES["twin_peaks"])
    assert peak() == pytest.approx(0.6123724357)
    assert float(reward(jnp.full((2, 1), peak()))) == pytest.approx(0.5625)
    assert float(reward(jnp.array([[-0.5], [0.5]]))) == pytest.approx(-2.0)
    hessian = jax.jit(jax.hessian(lambda v: reward(v[:, None])))(jnp.full(2, peak()))
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [-6, -4], atol=1e-4)
    with pytest.raises(ValueError, match="C > 2A"):
        twin_peaks(1.0, 4.0, 2.0)


# --------------------------------------------------------------------------------------- contract

ENVS = [
    make_bridge(horizon=3),
    make_matrix("xor", XOR),
    make_matrix("mne", mne(), plays=2),
    make_polynomial("sign", GAMES["sign"]),
]


@pytest.mark.parametrize("wrapped", ENVS, ids=lambda e: e.spec.name)
def test_timesteps_have_the_shapes_of_the_spec(wrapped):
    spec = wrapped.spec
    state, first = wrapped.reset(KEY)
    actions = recipes.random_policy(spec).distribution((), first)[1].sample(seed=KEY)
    _, after = jax.jit(wrapped.step)(KEY, state, actions)
    for timestep in (first, after):
        assert timestep.obs.shape == (spec.num_agents, spec.obs_size)
        assert timestep.state.shape == (spec.state_size,)
        assert timestep.avail.shape == (spec.num_agents, spec.action_size)
        assert timestep.last_actions.shape == spec.action_shape
        assert timestep.reward.shape == timestep.terminated.shape == timestep.truncated.shape == ()
    assert float(first.reward) == 0
    np.testing.assert_array_equal(
        first.last_actions, np.full(spec.action_shape, -1 if spec.discrete else 0)
    )


def test_bridge_goals_are_the_published_ones():
    np.testing.assert_array_equal(GOALS, bridge_numpy.GOAL)
    assert len(CELLS) == 14
