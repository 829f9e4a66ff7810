"""Episodes played to their end in jit: stopping, ends, keys, memory, noise."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.data import recipes
from jaxoff.data.dataset import validate
from jaxoff.data.episodes import _resize, lengths_of, take
from jaxoff.envs import rolling
from jaxoff.envs.base import GameEnv
from jaxoff.envs.games.polynomial import GAMES, make_polynomial
from jaxoff.eval.rollout import evaluate, rollout
from jaxoff.types import EnvSpec, Policy, TimeStep

KEY = jax.random.key(0)


class Clock:
    """An env of `lengths` (drawn at reset) steps: even ones terminate, odd ones are truncated.

    Everybody sees (length, steps made); the reward is the sum of the actions, and agents' own are
    their actions. ends: without it no episode ends by itself.
    """

    def __init__(self, lengths=(1, 2, 3, 4), horizon=6, ends=True, individual=True):
        self.lengths, self.ends, self.individual = jnp.array(lengths), ends, individual
        self.spec = EnvSpec(
            "toy/clock",
            num_agents=2,
            obs_size=2,
            state_size=2,
            action_size=3,
            discrete=True,
            horizon=horizon,
        )

    def reset(self, key):
        state = jnp.stack([jax.random.choice(key, self.lengths), 0])
        return state, self.seen(state, jnp.zeros(2), jnp.full(2, -1))

    def step(self, key, state, actions):
        state = state + jnp.array([0, 1])
        return state, self.seen(state, actions.astype(jnp.float32), actions)

    def seen(self, state, own, last):
        view, over = state.astype(jnp.float32), self.ends & (state[1] == state[0])
        even = state[0] % 2 == 0
        own_or_none = own if self.individual else None
        return TimeStep(
            jnp.tile(view, (2, 1)),
            view,
            jnp.ones((2, 3)),
            own.sum(),
            over & even,
            over & ~even,
            last,
            own_or_none,
        )


CLOCK = Clock()
UNIFORM = recipes.random_policy(CLOCK.spec)


def always(actions) -> Policy:
    """The policy that takes these actions [N, ...]."""
    actions = jnp.asarray(actions)
    where = lambda seen: jnp.broadcast_to(actions, (*seen.reward.shape, *actions.shape))
    return Policy(
        lambda shape: (), lambda memory, seen: (memory, distrax.Deterministic(where(seen)))
    )


@pytest.fixture(scope="module")
def played():
    return recipes.record(CLOCK, UNIFORM, 30, KEY)


# --------------------------------------------------------------------------------------------- play


def test_play_makes_no_step_after_the_last_end_and_equals_a_scan_over_the_horizon():
    made, keys = [], jax.random.split(KEY, 8)
    step_keys = jax.random.split(jax.random.key(1), (CLOCK.spec.horizon, 9))

    def act(memory, seen, key):
        return memory + 1, jax.random.randint(key, (8, 2), 0, 3) + 0 * memory[:, None]

    def keys_of(t):
        jax.debug.callback(lambda t: made.append(int(t)), t)
        return step_keys[t, 0], step_keys[t, 1:]

    first, kept = jax.jit(
        lambda: rolling.play(CLOCK, act, jnp.zeros(8, int), keys, keys_of, lambda trace: trace)
    )()
    jax.effects_barrier()
    lengths = np.asarray(first.state[:, 0]).astype(int)
    assert sorted(made) == list(range(lengths.max())) and lengths.max() < CLOCK.spec.horizon

    state, seen = jax.vmap(CLOCK.reset)(keys)
    alive, step = np.ones(8, bool), jax.jit(jax.vmap(CLOCK.step))
    for t in range(CLOCK.spec.horizon):
        actions = jax.random.randint(step_keys[t, 0], (8, 2), 0, 3)
        state, after = step(step_keys[t, 1:], state, actions)
        np.testing.assert_array_equal(kept.alive[t], alive)
        for found, wanted in ((kept.before, seen), (kept.after, after), (kept.actions, actions)):
            jax.tree.map(
                lambda a, b, t=t, alive=alive: np.testing.assert_array_equal(a[t][alive], b[alive]),
                found,
                wanted,
            )
        alive, seen = alive & ~np.asarray(after.terminated | after.truncated), after
    np.testing.assert_array_equal(kept.alive.sum(0), lengths)


# ------------------------------------------------------------------------------------------- record


def test_recorded_episodes_have_their_own_lengths_and_kinds_of_end(played):
    validate(played, CLOCK.spec)
    lengths = lengths_of(played)
    np.testing.assert_array_equal(lengths, played.state[:, 0, 0])
    assert set(lengths.tolist()) == {1, 2, 3, 4} and played.reward.shape == (30, 4)
    np.testing.assert_array_equal(played.terminated.any(1), lengths % 2 == 0)
    np.testing.assert_array_equal(played.truncated.any(1), lengths % 2 == 1)


def test_the_last_observation_is_the_one_after_the_end_and_not_of_a_next_episode(played):
    lengths = lengths_of(played)
    np.testing.assert_array_equal(
        played.obs[np.arange(30), lengths, 0], np.stack([lengths, lengths], 1)
    )
    np.testing.assert_array_equal(played.obs[0, : lengths[0] + 1, 1, 1], np.arange(lengths[0] + 1))


def test_rewards_of_agents_are_kept_and_zero_on_padding(played):
    np.testing.assert_array_equal(played.agent_reward, played.actions)
    np.testing.assert_array_equal(played.agent_reward.sum(-1), played.reward)
    assert recipes.record(Clock(individual=False), UNIFORM, 2, KEY).agent_reward is None


def test_an_episode_that_the_env_does_not_end_is_truncated_by_the_clock():
    episodes = recipes.record(Clock(ends=False, horizon=3), UNIFORM, 2, KEY)
    np.testing.assert_array_equal(episodes.truncated, [[False, False, True]] * 2)
    assert not episodes.terminated.any() and episodes.filled.all()


def test_one_key_gives_one_set_of_episodes(played):
    again, other = (
        recipes.record(CLOCK, UNIFORM, 30, KEY),
        recipes.record(CLOCK, UNIFORM, 30, jax.random.key(1)),
    )
    jax.tree.map(np.testing.assert_array_equal, again, played)
    assert not np.array_equal(other.actions, played.actions)


def test_an_episode_does_not_depend_on_how_many_are_played_at_once(played, monkeypatch):
    monkeypatch.setattr(recipes, "_CHUNK", 4)
    told = []
    # 4 + 4 + 1
    nine = recipes.record(
        CLOCK, UNIFORM, 9, KEY, progress=lambda done, count: told.append((done, count))
    )
    five = recipes.record(CLOCK, UNIFORM, 5, KEY)  # 4 + 1
    assert told == [(4, 9), (8, 9), (9, 9)]
    steps = played.reward.shape[1]
    for episodes, count in ((nine, 9), (five, 5)):
        fields = zip(_resize(episodes, steps), take(played, np.arange(count)), strict=True)
        for found, wanted in fields:
            np.testing.assert_array_equal(found, wanted)


def test_a_chunk_takes_no_more_memory_than_allowed(monkeypatch):
    # Clock: 2 * (2 + 2 * 3 + 1) + 2 + 4 = 24 numbers a slot, 7 slots: 672 bytes an episode
    monkeypatch.setattr(recipes, "_CHUNK_BYTES", 2 * 672 + 5)
    assert (recipes._chunk(CLOCK.spec, 100), recipes._chunk(CLOCK.spec, 1)) == (2, 1)
    monkeypatch.setattr(recipes, "_CHUNK_BYTES", 10)
    assert recipes._chunk(CLOCK.spec, 100) == 1


def counting(memory, seen):
    """Plays its memory, which goes round 0, 1, 2."""
    return (memory + 1) % 3, distrax.Deterministic(jnp.stack([memory, memory], -1))


def test_memory_given_from_outside_is_used_and_else_the_policys_own():
    env, policy = Clock(lengths=(4,)), Policy(lambda shape: jnp.zeros(shape, int), counting)
    given = recipes.record(env, policy, 3, KEY, memory=np.array([0, 1, 2]))
    np.testing.assert_array_equal(given.actions[..., 0], [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2]])
    own = recipes.record(env, policy, 3, KEY)
    np.testing.assert_array_equal(own.actions[..., 1], [[0, 1, 2, 0]] * 3)


def test_memory_belongs_to_its_episode_across_parts(monkeypatch):
    monkeypatch.setattr(recipes, "_CHUNK", 2)
    env, policy = Clock(lengths=(1,)), Policy(lambda shape: jnp.zeros(shape, int), counting)
    given = recipes.record(env, policy, 5, KEY, memory=np.array([0, 1, 2, 1, 0]))
    np.testing.assert_array_equal(given.actions[:, 0, 0], [0, 1, 2, 1, 0])


def test_noise_is_a_share_of_the_bound_around_the_mode_and_is_clipped_there():
    plain = make_polynomial("sign", GAMES["sign"])
    env = GameEnv(plain.game, dataclasses.replace(plain.spec, action_bound=2.0))
    actions = recipes.record(env, always([[0.0], [1.9]]), 4000, KEY, noise=0.1).actions[:, 0, :, 0]
    # agent 0: standard deviation 0.1 * 2 (within five of 0.2 / sqrt(8000)); agent 1: above 2 with
    # probability P(z > .5) = .309
    assert actions[:, 0].std() == pytest.approx(0.2, abs=0.012)
    assert actions[:, 1].max() == 2.0 and (actions[:, 1] == 2.0).mean() == pytest.approx(
        0.309, abs=0.04
    )


def test_without_noise_real_actions_are_the_policys_draws():
    env = make_polynomial("sign", GAMES["sign"])
    actions = recipes.record(env, recipes.random_policy(env.spec), 2000, KEY).actions
    assert -1 <= actions.min() < -0.98 and 0.98 < actions.max() <= 1
    np.testing.assert_allclose(actions.std(0), 1 / np.sqrt(3), atol=0.03)  # of U(-1, 1)


@pytest.mark.parametrize("count", [0, -1])
def test_no_episodes_are_refused(count):
    with pytest.raises(ValueError, match=f"episodes: expected at least one, found {count}"):
        recipes.record(CLOCK, UNIFORM, count, KEY)


# --------------------------------------------------------------------------------------- evaluation


class Won(NamedTuple):
    """Clock, and that an episode of four steps is a win."""

    spec: EnvSpec = CLOCK.spec
    reset = staticmethod(CLOCK.reset)
    step = staticmethod(CLOCK.step)
    won = staticmethod(lambda state: (state[..., 0] == 4) & (state[..., 1] == 4))


def test_evaluation_counts_rewards_steps_and_wins_up_to_the_end():
    # both agents always play 1: two a step, so the return is twice the length
    result = jax.jit(lambda key: evaluate(Won(), always([1, 1]), key, 20, sampled=True))(KEY)
    lengths = np.asarray(result["lengths"])
    assert set(lengths.tolist()) == {1, 2, 3, 4}
    np.testing.assert_array_equal(result["returns"], 2 * lengths)
    np.testing.assert_array_equal(result["won"], lengths == 4)


def test_an_env_that_cannot_tell_wins_has_none():
    result = evaluate(CLOCK, always([1, 1]), KEY, 2, sampled=False)
    assert set(result) == {"returns", "lengths"}


def test_a_rollout_takes_the_mode_or_draws():
    logits = jnp.log(jnp.array([0.2, 0.7, 0.1]))
    flat = lambda seen: jnp.broadcast_to(logits, (*seen.reward.shape, 2, 3))
    policy = Policy(
        lambda shape: (), lambda memory, seen: (memory, distrax.Categorical(logits=flat(seen)))
    )
    mode, drawn = (
        jax.jit(lambda s=s: rollout(CLOCK, policy, KEY, 200, sampled=s))().actions[0]
        for s in (False, True)
    )
    assert (mode == 1).all()
    np.testing.assert_allclose(
        np.bincount(np.asarray(drawn).ravel()) / 400, [0.2, 0.7, 0.1], atol=0.12
    )
