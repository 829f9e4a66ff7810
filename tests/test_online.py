"""Online training: what is stored, when episodes restart, and Fig. 2 of Tilbury et al. (2024)."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines import maddpg
from experiments.pjap import runs
from jaxoff.envs.games.matrix import XOR, make_matrix
from jaxoff.train.online import train_online
from jaxoff.types import EnvSpec, Learner, Out, Policy, TimeStep


class Clock:
    """One agent sees the time. Episodes started with an even draw terminate after 2 steps, others are truncated after 3."""

    spec = EnvSpec("clock", num_agents=1, obs_size=1, state_size=1, action_size=1, discrete=False, horizon=3)

    def reset(self, key):
        """Time 0."""
        state = (jnp.zeros(()), jax.random.bernoulli(key))
        return state, self._see(state, jnp.zeros(()), jnp.zeros((), bool), jnp.zeros((), bool), jnp.zeros((1, 1)))

    def step(self, key, state, actions):
        """One tick, reward 1."""
        state = (state[0] + 1, state[1])
        return state, self._see(state, jnp.ones(()), (state[0] >= 2) & state[1], state[0] >= 3, actions)

    def _see(self, state, reward, terminated, truncated, actions):
        time = state[0].reshape(1)
        return TimeStep(time[None], time, jnp.ones((1, 1)), reward, terminated, truncated, actions)


def still() -> Learner:
    """A learner that never learns; its policy remembers how many steps it has made in the episode."""

    def distribution(carry, step):
        return carry + 1, distrax.Deterministic(jnp.zeros((*step.obs.shape[:-1], 1)) + 0.01 * carry[..., None, None])

    policy = Policy(lambda shape: jnp.zeros(shape), distribution)
    return Learner(lambda key: jnp.zeros(()), lambda state, batch, key: (state + 1, Out({"seen": batch.obs.max()})), lambda state: policy)


@pytest.fixture(scope="module")
def clock():
    """20 steps of 6 clocks, two seeds, everything kept, no noise."""
    return train_online(lambda c: still(), 0.0, Clock(), seeds=(0, 1), steps=20, capacity=200, batch_size=4, num_envs=6, noise=0.0)


def by_env(field) -> np.ndarray:
    """First seed: [120, ...] -> [20 steps, 6 environments, ...]."""
    return np.asarray(field)[0].reshape(20, 6, *field.shape[2:])


def test_the_true_last_observation_is_stored_and_the_next_row_starts_anew(clock):
    now, after = by_env(clock.buffer.obs)[..., 0, 0], by_env(clock.buffer.next_obs)[..., 0, 0]
    np.testing.assert_array_equal(after, now + 1)  # never the 0 of the reset
    ended = (by_env(clock.buffer.terminated) + by_env(clock.buffer.truncated))[:-1] > 0
    np.testing.assert_array_equal(now[1:], np.where(ended, 0, now[:-1] + 1))


def test_terminated_and_truncated_are_stored_apart(clock):
    after = by_env(clock.buffer.next_obs)[..., 0, 0]
    terminated, truncated = by_env(clock.buffer.terminated), by_env(clock.buffer.truncated)
    assert terminated.sum() > 5 and truncated.sum() > 5
    assert (after[terminated > 0] == 2).all() and (after[truncated > 0] == 3).all()


def test_steps_and_episodes_are_counted(clock):
    before, number = by_env(clock.buffer.steps_before), by_env(clock.buffer.episode)
    np.testing.assert_array_equal(before, by_env(clock.buffer.obs)[..., 0, 0])
    first = number[before == 0]
    assert len(set(first)) == len(first)
    np.testing.assert_array_equal(number[1:][before[1:] > 0], number[:-1][before[1:] > 0])


def test_memory_restarts_with_the_episode(clock):
    # action = 0.01 * steps made in this episode
    np.testing.assert_allclose(by_env(clock.buffer.actions)[..., 0, 0], 0.01 * by_env(clock.buffer.steps_before), atol=1e-7)


def test_history_has_rewards_returns_and_metrics(clock):
    np.testing.assert_array_equal(clock.history["reward"], np.ones((20, 2)))
    assert np.isnan(clock.history["return"][0]).all() and ((clock.history["return"][-1] >= 2) & (clock.history["return"][-1] <= 3)).all()
    assert clock.history["seen"].shape == (20, 2) and clock.history["seen"].max() <= 2


def test_a_full_buffer_keeps_the_newest():
    # the action is a tenth of the updates made: in 5 steps of 6 rows, a capacity of 12 leaves those of 0.3 and 0.4
    def policy(state):
        act = lambda carry, step: (carry, distrax.Deterministic(0.1 * state * jnp.ones((*step.obs.shape[:-1], 1))))  # noqa: E731
        return Policy(lambda shape: (), act)

    counter = still()._replace(policy=policy)
    result = train_online(lambda c: counter, 0.0, Clock(), seeds=(0,), steps=5, capacity=12, batch_size=4, num_envs=6, noise=0.0)
    np.testing.assert_allclose(np.sort(result.buffer.actions.ravel()), [0.3] * 6 + [0.4] * 6, rtol=1e-6)


def test_a_seed_alone_equals_the_seed_among_others(clock):
    alone = train_online(lambda c: still(), 0.0, Clock(), seeds=(1,), steps=20, capacity=200, batch_size=4, num_envs=6, noise=0.0)
    np.testing.assert_array_equal(alone.buffer.obs[0], clock.buffer.obs[1])


def test_discrete_policies_explore_by_sampling():
    policy = Policy(lambda shape: (), lambda carry, step: (carry, distrax.Categorical(logits=jnp.zeros_like(step.avail))))
    learner = Learner(lambda key: jnp.zeros(()), lambda state, batch, key: (state, Out({})), lambda state: policy)
    env = make_matrix("xor", XOR)
    result = train_online(lambda c: learner, 0.0, env, seeds=(0,), steps=50, capacity=800, batch_size=8, num_envs=16)
    share = np.bincount((2 * result.buffer.actions[0, :, 0] + result.buffer.actions[0, :, 1]), minlength=4) / 800
    assert (np.abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 800)).all()
    np.testing.assert_allclose(result.history["exact_value"], 0.0)  # mean of 0, 1, 1, -2


def test_a_capacity_below_the_batch_is_refused():
    with pytest.raises(ValueError, match=r"'batch_size'.*capacity 8, found 16"):
        train_online(lambda c: still(), 0.0, Clock(), seeds=(0,), steps=1, capacity=8, batch_size=16, num_envs=4)


def test_figure_2_recovers_online_and_later_the_larger_the_buffer():
    results = runs.fig2_runs(range(10), capacities=(128, 1024))
    rewards = [result.history["exact_value"] for result in results]  # [191, 10] of each capacity
    for reward in rewards:
        assert (reward[-1] > 0.9).sum() >= 9
        np.testing.assert_allclose(reward[0], -0.48, atol=1e-6)  # -0.6 * 0.8
    passage = [np.median((reward > 0.9).argmax(0)) for reward in rewards]
    assert passage[0] < passage[1]


def test_the_learned_critic_learns_online():
    # decoupled, R = x + y: with fresh data and a learned critic, both actions go to the bound, whose reward is 2
    config = maddpg.Config(critic="learned", hidden=(32,), actor_lr=1e-2, critic_lr=1e-2)
    env = runs.game("decoupled")
    make = lambda c: maddpg.make(c, env.spec)  # noqa: E731
    result = train_online(make, config, env, seeds=(0,), steps=300, capacity=2048, batch_size=64, num_envs=16, noise=0.2)
    assert result.history["exact_value"][-1, 0] > 1.9
    actions = np.asarray(result.buffer.actions)
    assert actions.max() == 1.0 and (np.abs(actions) < 1).any()  # noise is added, and clipped to the bound
