"""Online training: what is stored and drawn, when episodes restart, the same loop as offline, and
Fig. 2 of Tilbury et al. (2024).
"""

from __future__ import annotations

import dataclasses

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines import maddpg
from jaxoff.experiments.pjap import runs
from jaxoff.experiments.pjap.online import train_online

from jaxoff import registry
from jaxoff.data import online_sampler
from jaxoff.envs.games.matrix import XOR, make_matrix
from jaxoff.training import Interrupted, TrainSpec, train
from jaxoff.training.restore import restore_policy
from jaxoff.types import EnvSpec, Learner, Out, Policy, TimeStep
from tests.learners import StopAt, state_of

KEEP = online_sampler.Config(noise=0.0, num_envs=6, warmup=0, capacity=198)


class Clock:
    """One agent sees the time.

    Episodes started with an even draw terminate after 2 steps, others are truncated after 3.
    """

    spec = EnvSpec(
        "clock", num_agents=1, obs_size=1, state_size=1, action_size=1, discrete=False, horizon=3
    )

    def reset(self, key):
        """Time 0."""
        state = (jnp.zeros(()), jax.random.bernoulli(key))
        return state, self._see(
            state, jnp.zeros(()), jnp.zeros((), bool), jnp.zeros((), bool), jnp.zeros((1, 1))
        )

    def step(self, key, state, actions):
        """One tick, reward 1."""
        state = (state[0] + 1, state[1])
        return state, self._see(
            state, jnp.ones(()), (state[0] >= 2) & state[1], state[0] >= 3, actions
        )

    def _see(self, state, reward, terminated, truncated, actions):
        time = state[0].reshape(1)
        return TimeStep(time[None], time, jnp.ones((1, 1)), reward, terminated, truncated, actions)


def still() -> Learner:
    """A learner that never learns; its policy remembers how many steps it has made in the
    episode.
    """

    def distribution(carry, step):
        return carry + 1, distrax.Deterministic(
            jnp.zeros((*step.obs.shape[:-1], 1)) + 0.01 * carry[..., None, None]
        )

    policy = Policy(lambda shape: jnp.zeros(shape), distribution)
    return Learner(
        lambda key: jnp.zeros(()),
        lambda state, batch, key: (state + 1, Out({"seen": batch.obs.max()})),
        lambda state: policy,
    )


@pytest.fixture(scope="module")
def clock():
    """20 steps of 6 clocks, two seeds, everything kept, no noise."""
    return train_online(
        lambda c: still(), 0.0, Clock(), seeds=(0, 1), steps=19, batch_size=4, online=KEEP
    )


def by_env(field) -> np.ndarray:
    """First seed: [120, ...] -> [20 steps, 6 environments, ...], one before the first update and
    one after each.
    """
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
    np.testing.assert_allclose(
        by_env(clock.buffer.actions)[..., 0, 0], 0.01 * by_env(clock.buffer.steps_before), atol=1e-7
    )


def test_history_has_the_metrics_of_every_update(clock):
    assert clock.history["seen"].shape == (19, 2) and clock.history["seen"].max() <= 2
    np.testing.assert_array_equal(clock.buffer.reward, np.ones((2, 120)))


def test_a_full_buffer_keeps_the_newest():
    # the action is a tenth of the updates made: of 6 rows before and after each of 4 updates, a
    # capacity of 12 leaves 0.3 and 0.4
    def policy(state):
        act = lambda carry, step: (
            carry,
            distrax.Deterministic(0.1 * state * jnp.ones((*step.obs.shape[:-1], 1))),
        )
        return Policy(lambda shape: (), act)

    counter = still()._replace(policy=policy)
    result = train_online(
        lambda c: counter,
        0.0,
        Clock(),
        seeds=(0,),
        steps=4,
        batch_size=4,
        online=KEEP.replace(capacity=12),
    )
    np.testing.assert_allclose(
        np.sort(result.buffer.actions.ravel()), [0.3] * 6 + [0.4] * 6, rtol=1e-6
    )


def test_a_seed_alone_equals_the_seed_among_others(clock):
    alone = train_online(
        lambda c: still(), 0.0, Clock(), seeds=(1,), steps=19, batch_size=4, online=KEEP
    )
    np.testing.assert_array_equal(alone.buffer.obs[0], clock.buffer.obs[1])


@pytest.mark.parametrize(
    ("epsilon", "wanted"),
    [
        ((0.0, 0.0), [0, 0, 0, 1]),
        ((1.0, 1.0), [1 / 4] * 4),
        ((0.5, 0.5), [1 / 16, 3 / 16, 3 / 16, 9 / 16]),
    ],
)
def test_choices_are_sampled_and_mixed_with_uniform_ones_for_each_agent(epsilon, wanted):
    # Both agents play B; with epsilon 1/2 each plays A with probability 1/4.
    policy = Policy(
        lambda shape: (),
        lambda carry, step: (
            carry,
            distrax.Categorical(logits=step.avail * jnp.array([-1e9, 0.0])),
        ),
    )
    learner = Learner(
        lambda key: jnp.zeros(()), lambda state, batch, key: (state, Out({})), lambda state: policy
    )
    online = online_sampler.Config(
        num_envs=16, warmup=0, capacity=800, epsilon_start=epsilon[0], epsilon_end=epsilon[1]
    )
    result = train_online(
        lambda c: learner,
        0.0,
        make_matrix("xor", XOR),
        seeds=(0,),
        steps=49,
        batch_size=8,
        online=online,
    )
    share = (
        np.bincount(
            (2 * result.buffer.actions[0, :, 0] + result.buffer.actions[0, :, 1]), minlength=4
        )
        / 800
    )
    wanted = np.array(wanted)
    assert (np.abs(share - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / 800)).all()


def test_the_share_of_uniform_choices_falls_on_a_line():
    config, env = (
        online_sampler.Config(epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=100.0),
        make_matrix("xor", XOR),
    )
    found = [
        float(online_sampler.uniform_share(config, env, jnp.asarray(k))) for k in (0, 50, 100, 1000)
    ]
    np.testing.assert_allclose(found, [1.0, 0.6, 0.2, 0.2], rtol=1e-6)
    # real actions have noise
    assert online_sampler.uniform_share(config, Clock(), jnp.asarray(0)) == 0.0


# ------------------------------------------------------------------------------------------- draws


def wrapped_ring():
    """The buffer of 3 clocks after 4 + 12 steps of each, in a ring of 12; the policy counts its
    steps.
    """
    online = KEEP.replace(num_envs=3, capacity=36, warmup=12, collect=12)
    sampler = online_sampler.make_acting(
        online, 64, 0, Clock(), still().policy(jnp.zeros(())), jax.random.key(2)
    )
    return sampler.init(()).buffer


@pytest.mark.parametrize("whole", [False, True])
def test_no_window_runs_into_the_next_episode_or_from_the_newest_step_to_the_oldest(whole):
    buffer = jax.jit(wrapped_ring)()
    # the place after the newest step holds the oldest
    assert bool(buffer.is_full) and int(buffer.current_index) == 4
    batch = jax.jit(lambda key: online_sampler.sample(buffer, key, 500, 3, whole))(
        jax.random.key(0)
    )
    valid, episode, before = (
        np.asarray(x) for x in (batch.valid, batch.episode, batch.steps_before)
    )
    assert (valid[:, 0] == 1).all() and (np.diff(valid, axis=1) <= 0).all() and (valid == 0).any()
    assert (episode == episode[:, :1])[valid > 0].all()
    np.testing.assert_array_equal(before[valid > 0], (before[:, :1] + np.arange(3))[valid > 0])
    np.testing.assert_array_equal(batch.reward, valid)
    ended = (np.asarray(batch.terminated + batch.truncated) > 0)[:, :-1]
    assert (valid[:, 1:][ended] == 0).all()
    # A recurrent net finds what was observed after the last step in the slot behind it.
    beyond = (valid[:, :-1] > 0) & (valid[:, 1:] == 0)
    for name in ("obs", "state", "avail"):
        slots, after = (np.asarray(getattr(batch, x)) for x in (name, f"next_{name}"))
        np.testing.assert_array_equal(slots[:, 1:][beyond], after[:, :-1][beyond])
    last, actions = np.asarray(batch.last_actions), np.asarray(batch.actions)
    np.testing.assert_array_equal(last[:, 1:][valid[:, 1:] > 0], actions[:, :-1][valid[:, 1:] > 0])
    rows = [np.ravel(x) for x in (buffer.experience.episode, buffer.experience.steps_before)]
    known = dict(zip(zip(*rows, strict=True), np.ravel(buffer.experience.actions), strict=True))
    for k in range(len(last)):
        place = episode[k, 0], before[k, 0] - 1
        if before[k, 0] == 0 or place in known:  # else it has been overwritten
            assert last[k, 0, 0, 0] == (known[place] if before[k, 0] else 0)
    # every episode from its first step, but for the one whose first steps are overwritten
    if whole:
        partial = np.unique(episode[before[:, 0] > 0][:, 0])
        assert len(partial) <= 3 and (before[:, 0] == 0).mean() > 0.6


def test_steps_not_made_yet_are_never_drawn():
    online = KEEP.replace(num_envs=3, capacity=30, collect=2)
    sampler = online_sampler.make_acting(
        online, 400, 3, Clock(), still().policy(jnp.zeros(())), jax.random.key(2)
    )
    batch = jax.jit(lambda: sampler.draw(sampler.init(()), (), jax.random.key(0)))()
    # two steps there are
    np.testing.assert_array_equal(batch.valid, np.tile([1.0, 1.0, 0.0], (400, 1)))


# ------------------------------------------------------------------------------------ the same loop

SPEC = TrainSpec(
    "maddpg",
    "mpe/spread/random",
    seeds=(0, 1),
    steps=6,
    evaluations=3,
    eval_episodes=2,
    sampler="online",
    sampler_config={"num_envs": 4, "warmup": 40, "capacity": 80},
    config={"actor": "recurrent", "hidden": (8,), "actor_hidden": 8, "batch_size": 4, "window": 5},
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A whole online training of recurrent policies, and its folder."""
    return train(SPEC, tmp_path_factory.mktemp("online") / "job")


def test_an_online_training_goes_on_bit_for_bit_with_its_environments_and_its_buffer(
    unbroken, tmp_path
):
    with pytest.raises(Interrupted):
        train(SPEC, tmp_path, sinks=[StopAt(0, 2)])
    continued = train(SPEC, tmp_path)
    state = state_of(tmp_path)
    chex.assert_trees_all_equal(state, state_of(unbroken.path))
    np.testing.assert_array_equal(continued.returns, unbroken.returns)
    # 40 at random, 4 before the first update and after each of 6, in a ring of 20 a environment
    np.testing.assert_array_equal(state["sampler"]["steps"], [68, 68])
    np.testing.assert_array_equal(state["sampler"]["buffer"]["current_index"], [17, 17])


def test_an_online_training_learns_from_what_it_does_and_gives_a_policy(unbroken):
    rows = state_of(unbroken.path)["sampler"]["buffer"]["experience"]
    obs, seen_next, ended = (
        np.asarray(rows[k] if isinstance(rows, dict) else getattr(rows, k))
        for k in ("obs", "next_obs", "truncated")
    )
    follows = ended[:, :, :16] == 0  # of the 17 steps there are
    # The same numbers, but for a last bit: each is computed where it is needed.
    np.testing.assert_allclose(obs[:, :, 1:17][follows], seen_next[:, :, :16][follows], rtol=1e-6)
    env, policy, _ = restore_policy(unbroken.path, 1)
    assert policy.distribution(policy.initial(()), env.reset(jax.random.key(0))[1])[
        1
    ].mode().shape == (3, 2)
    assert (
        unbroken.history["return_mean"].shape == (4, 2)
        and unbroken.path.joinpath("final.json").exists()
    )


def test_what_cannot_collect_is_refused_by_name():
    for change, message in (
        (
            {"sampler_config": {"capacity": 8, "num_envs": 4}},
            r"sampler 'online': field 'capacity': expected at least 20, 5 of each .* found 8",
        ),
        (
            {"method": "inspo", "task": "matrix/xor/b", "config": {}},
            "sampler 'online': expected a method of one stage, found inspo with",
        ),
        (
            {"task": "og_marl:mamujoco/2halfcheetah/Good"},
            "sampler 'online' on .*: expected an environment in jit, found public data",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train(dataclasses.replace(SPEC, **change))
    with pytest.raises(ValueError, match="sampler 'online': expected an environment to act in"):
        registry.sampler("online").make(online_sampler.Config(), 4, 0)


def test_figure_2_recovers_online_and_later_the_larger_the_buffer():
    results = runs.fig2_runs(range(10), capacities=(128, 1024))
    rewards = [result.history["exact_value"] for result in results]  # [191, 10] of each capacity
    for reward in rewards:
        assert (reward[-1] > 0.9).sum() >= 9
        np.testing.assert_allclose(reward[0], -0.48, atol=1e-6)  # -0.6 * 0.8
    passage = [np.median((reward > 0.9).argmax(0)) for reward in rewards]
    assert passage[0] < passage[1]


def test_the_learned_critic_learns_online():
    # decoupled, R = x + y: with fresh data and a learned critic, both actions go to the bound,
    # whose reward is 2
    config = maddpg.Config(critic="learned", hidden=(32,), actor_lr=1e-2, critic_lr=1e-2)
    env = runs.game("decoupled")
    make = lambda c: maddpg.make(c, env.spec)
    result = train_online(
        make,
        config,
        env,
        seeds=(0,),
        steps=300,
        batch_size=64,
        online=online_sampler.Config(noise=0.2, capacity=2048, warmup=64),
    )
    assert result.history["exact_value"][-1, 0] > 1.9
    actions = np.asarray(result.buffer.actions)
    # noise is added, and clipped to the bound
    assert actions.max() == 1.0 and (np.abs(actions) < 1).any()
