"""Datasets from environments of JaxMARL, Gymnasium and PettingZoo, and of our own."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import jaxmarl
import numpy as np
import pytest

import jaxoff
from jaxoff.data import disk
from jaxoff.data.episodes import lengths_of, returns_of
from jaxoff.data.recipes import random_policy
from jaxoff.errors import InvalidSetting


class Space:
    """A space of Gymnasium's kind."""

    def __init__(self, n=None, low=None, high=None, shape=()):
        self.shape = shape
        if n is not None:
            self.n = n
        else:
            self.low, self.high = np.full(shape, low), np.full(shape, high)


class Parallel:
    """PettingZoo's parallel interface: agent `a` sees 2 numbers and has 2 actions, `b` 1 and 3.

    `a` leaves after two steps (terminated); `b` stays to the end after `length` steps. An action's
    number is paid to its agent. Action 0 of `b` is not available after an odd number of steps.
    """

    possible_agents = ("a", "b")
    metadata = {"name": "parallel"}  # noqa: RUF012
    max_cycles = 5

    def __init__(self, length=4, cut=False, low=None):
        self.length, self.cut, self.low = length, cut, low

    def observation_space(self, agent):
        return Space(low=-9, high=9, shape=(2 if agent == "a" else 1,))

    def action_space(self, agent):
        sizes = {"a": 2, "b": 3}
        if self.low is not None:
            return Space(low=self.low, high=3.0, shape=(sizes[agent],))
        return Space(n=sizes[agent])

    def seen(self):
        obs = {"a": np.array([self.time, 1.0]), "b": np.array([self.time])}
        masks = {"b": {"action_mask": np.array([self.time % 2 == 0, 1, 1])}}
        there = self.agents if self.time < 3 else ["b"]
        return {k: obs[k] for k in there}, {k: masks.get(k, {}) for k in there}

    def reset(self, seed):
        self.seed, self.time, self.agents, self.given = seed, 0, ["a", "b"], []
        return self.seen()

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.given.append(actions)
        before, self.time = self.agents, self.time + 1
        obs, infos = self.seen()
        over = self.time == self.length
        terminal = {a: (a == "a" and self.time == 2) or (over and not self.cut) for a in before}
        cut = dict.fromkeys(before, over and self.cut)
        reward = {a: float(np.sum(actions[a])) for a in before}
        self.agents = [a for a in before if not terminal[a] and not cut[a]]
        return obs, reward, terminal, cut, infos


def last(obs, avail, rng):
    """The last action of each agent."""
    return (avail * np.arange(1, avail.shape[1] + 1)).argmax(-1)


def test_agents_of_pettingzoo_become_an_axis(tmp_path):
    episodes = jaxoff.collect(Parallel(), last, 3, out=tmp_path / "parallel")
    assert lengths_of(episodes).tolist() == [4] * 3 and episodes.terminated.any(1).all()
    # `a` is paid 1 and 1, and then has left; `b` 2 in each of four steps; the team the mean
    np.testing.assert_array_equal(episodes.agent_reward[0], [[1, 2], [1, 2], [0, 2], [0, 2]])
    assert returns_of(episodes).tolist() == [5.0] * 3
    np.testing.assert_array_equal(episodes.obs[0, :, 0], [[0, 1], [1, 1], [2, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(episodes.obs[0, :, 1], [[t, 0] for t in range(5)])
    np.testing.assert_array_equal(episodes.actions[0], [[1, 2], [1, 2], [0, 2], [0, 2]])
    np.testing.assert_array_equal(
        episodes.avail[0, :4, 0], [[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]]
    )
    np.testing.assert_array_equal(episodes.avail[0, :2, 1], [[1, 1, 1], [0, 1, 1]])
    spec, metadata = disk.read_spec(tmp_path / "parallel")
    assert (spec.horizon, spec.obs_sizes, spec.action_sizes) == (5, (2, 1), (2, 3))
    assert (spec.name, spec.agent_types) == ("parallel", (0, 1))
    assert metadata["made_by"] == {"command": "collect", "seed": 0, "episodes": 3}


def test_ends_of_pettingzoo_are_told_apart():
    # one agent terminated, the other at its time limit: truncated; so is a cut at our horizon
    for env, horizon, steps in ((Parallel(cut=True), None, 4), (Parallel(length=9), 3, 3)):
        episodes = jaxoff.collect(env, last, 1, horizon=horizon)
        assert lengths_of(episodes).tolist() == [steps]
        assert episodes.truncated.any() and not episodes.terminated.any()


def test_actions_are_stored_from_minus_1_to_1_and_given_as_they_are():
    env = Parallel(low=1.0)  # real actions in [1, 3]
    act = lambda obs, avail, rng: {"a": [1.0, 3.0], "b": [2.0, 2.5, 1.5]}
    episodes = jaxoff.collect(env, act, 1)
    np.testing.assert_allclose(episodes.actions[0, 0], [[-1, 1, 0], [0, 0.5, -0.5]])
    np.testing.assert_array_equal(episodes.actions[0, 2, 0], [0, 0, 0])  # it has left
    np.testing.assert_array_equal(env.given[0]["b"], np.float32([2.0, 2.5, 1.5]))
    played = jaxoff.collect(Parallel(low=-3.0), None, 4)  # bounds that stay
    assert 1 < np.abs(played.actions).max() <= 3


@pytest.mark.parametrize(
    ("low", "action", "message"),
    [
        (None, {"a": 2, "b": 0}, r"action of 'a': expected a whole number 0 to 1, found 2"),
        (None, {"a": 0}, r"action of 'b': expected a whole number 0 to 2, found None"),
        (None, [0, 1, 1], r"expected an action for each of 2 agents, found an array of shape \(3,"),
        (-1.0, {"a": [0.5], "b": [0, 0, 0]}, r"action of 'a': expected 2 finite numbers, found"),
        (-1.0, {"a": [0.5, np.nan], "b": [0, 0, 0]}, r"action of 'a': expected 2 finite numbers"),
    ],
)
def test_actions_that_an_agent_cannot_take_are_refused(low, action, message):
    with pytest.raises(InvalidSetting, match=f"parallel: field 'policy': {message}"):
        jaxoff.collect(Parallel(low=low), lambda obs, avail, rng: action, episodes=1)


def test_a_choice_may_be_an_array_of_one_number():
    plain = jaxoff.collect(Parallel(), lambda obs, avail, rng: {"a": 1, "b": 2}, episodes=1)
    given = {"a": np.array([1]), "b": np.array([[2]])}
    arrays = jaxoff.collect(Parallel(), lambda obs, avail, rng: given, episodes=1)
    np.testing.assert_array_equal(plain.actions, arrays.actions)


def test_a_seed_makes_the_same_episodes():
    one, same, other = (jaxoff.collect(Parallel(), None, 5, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.actions, same.actions)
    assert (one.actions != other.actions).any()


def test_the_real_pettingzoo_is_collected():
    pettingzoo = pytest.importorskip("pettingzoo")
    from gymnasium import spaces
    from pettingzoo.utils import aec_to_parallel, parallel_to_aec

    class Real(pettingzoo.ParallelEnv):
        """Two agents whose choices, 3 and 4, are paid; the time limit is three steps."""

        metadata = {"name": "real"}  # noqa: RUF012
        possible_agents = ("x", "y")
        max_cycles = 3

        def observation_space(self, agent):
            return spaces.Dict({"t": spaces.Discrete(4), "one": spaces.Box(0, 1, (2,))})

        def action_space(self, agent):
            return spaces.Discrete(2, start=3)

        def seen(self):
            return {a: {"t": self.time, "one": np.ones(2, np.float32)} for a in self.agents}

        def reset(self, seed=None, options=None):
            self.agents, self.time = list(self.possible_agents), 0
            return self.seen(), {a: {} for a in self.agents}

        def step(self, actions):
            self.time += 1
            obs, by = self.seen(), lambda value: dict.fromkeys(self.agents, value)
            out = (obs, dict(actions), by(False), by(self.time == 3), by({}))
            self.agents = [] if self.time == 3 else self.agents
            return out

    episodes = jaxoff.collect(Real(), None, 20)
    assert lengths_of(episodes).tolist() == [3] * 20 and episodes.truncated.any(1).all()
    assert set(np.unique(episodes.actions)) == {0, 1}
    np.testing.assert_array_equal(episodes.agent_reward, episodes.actions + 3)
    # parts by their names: "one", and the time as one of four
    np.testing.assert_array_equal(episodes.obs[0, 3, 1], [1, 1, 0, 0, 0, 1])
    assert episodes.state.shape == (20, 4, 12)  # all observations, since it has no state
    with pytest.raises(InvalidSetting, match="found agents in turn"):
        jaxoff.collect(parallel_to_aec(Real()), None, 1)
    again = jaxoff.collect(aec_to_parallel(parallel_to_aec(Real())), None, 20, horizon=3)
    np.testing.assert_array_equal(again.actions, episodes.actions)


def test_gymnasium_is_a_team_of_one(tmp_path):
    env = gymnasium.make("CartPole-v1")
    act = lambda obs, avail, rng: int(obs[0, 2] > 0)
    episodes = jaxoff.collect(env, act, 4, out=tmp_path / "pole")
    spec = disk.read_spec(tmp_path / "pole")[0]
    assert (spec.num_agents, spec.obs_size, spec.action_size) == (1, 4, 2)
    assert (spec.name, spec.horizon) == ("CartPole-v1", 500)
    # a pole that falls is a termination, and every step pays 1
    assert episodes.terminated.any(1).all() and not episodes.truncated.any()
    np.testing.assert_array_equal(returns_of(episodes), lengths_of(episodes))
    seen = episodes.obs[0, : lengths_of(episodes)[0], 0]
    np.testing.assert_array_equal(episodes.actions[0, : len(seen), 0], seen[:, 2] > 0)
    # the observation after the end is the environment's own
    assert abs(episodes.obs[0, len(seen), 0, 2]) > 0.2095
    spec = jaxoff.TrainSpec("bc", str(tmp_path / "pole"), steps=2, evaluations=1)
    assert jaxoff.train(spec).runs[0]["failed_at"] is None


def test_real_actions_that_are_whole_stay_real():
    env = gymnasium.make("MountainCarContinuous-v0")
    episodes = jaxoff.collect(env, lambda obs, avail, rng: np.array([1.0]), 2, horizon=4)
    assert episodes.actions.dtype == np.float32 and (episodes.actions == 1).all()


def test_gymnasiums_time_limit_is_a_truncation():
    episodes = jaxoff.collect(gymnasium.make("Pendulum-v1", max_episode_steps=7), None, 2)
    assert lengths_of(episodes).tolist() == [7, 7] and episodes.truncated.any(1).all()
    assert 1 < np.abs(episodes.actions).max() <= 2


def test_jaxmarl_plays_in_jit(tmp_path):
    env = jaxmarl.make("MPE_simple_spread_v3")
    act = lambda obs, avail, key: jnp.argmax(obs[:, :5], -1)
    episodes = jaxoff.collect(env, act, 3, out=tmp_path / "spread")
    assert lengths_of(episodes).tolist() == [25] * 3 and episodes.truncated.any(1).all()
    np.testing.assert_array_equal(episodes.actions, episodes.obs[:, :-1, :, :5].argmax(-1))
    # real actions between 0 and 1, as JaxMARL has them, are stored from -1 to 1
    env = jaxmarl.make("MPE_simple_spread_v3", action_type="Continuous")
    half = lambda obs, avail, key: dict.fromkeys(env.agents, jnp.array([0, 0.5, 1, 0.25, 0.75]))
    episodes = jaxoff.collect(env, half, 1)
    np.testing.assert_allclose(episodes.actions[0, 3, 1], [-1, 0, 1, -0.5, 0.5])


def test_ours_play_a_policy_and_are_evaluated_by_their_name(tmp_path):
    env = jaxoff.make_env("matrix/xor/b")
    policy = random_policy(env.spec)
    episodes = jaxoff.collect(env, policy, 50, name="matrix/xor", out=tmp_path / "xor")
    assert len(np.unique(episodes.actions[:, 0], axis=0)) == 4
    draws = lambda obs, avail, key: jax.random.randint(key, (2,), 0, 2)
    assert len(np.unique(jaxoff.collect(env, draws, 50).actions[:, 0], axis=0)) == 4
    spec = jaxoff.TrainSpec("bc", str(tmp_path / "xor"), steps=2, evaluations=1)
    assert np.isfinite(jaxoff.train(spec).runs[0]["exact_value"])


class Endless(Parallel):
    max_cycles = None


class Turns(Parallel):
    agent_iter = None


@pytest.mark.parametrize(
    ("env", "settings", "message"),
    [
        (object(), {}, r"expected one environment of JaxMARL, PettingZoo .*, found object"),
        (Endless(), {}, "parallel: field 'horizon': expected the largest number of steps"),
        (Turns(), {}, "expected PettingZoo's parallel interface, found agents in turn"),
        (Parallel(), {"episodes": 0}, "'episodes'"),
        (Parallel(low=-np.inf), {}, "action spaces: expected finite bounds"),
        (gymnasium.make_vec("CartPole-v1", 2), {}, "expected one environment of JaxMARL"),
    ],
)
def test_other_environments_are_refused(env, settings, message):
    with pytest.raises(InvalidSetting, match=message):
        jaxoff.collect(env, None, **settings)
