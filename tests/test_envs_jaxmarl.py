"""Ours as an environment of JaxMARL's and back, bit for bit; and JaxMARL's own as ours."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import jaxmarl
import numpy as np
import pytest
from jaxmarl.environments import spaces
from jaxmarl.environments.multi_agent_env import MultiAgentEnv
from jaxmarl.environments.smax import map_name_to_scenario
from jaxmarl.wrappers.baselines import CTRolloutManager, LogWrapper

from jaxoff import registry
from jaxoff.data import recipes
from jaxoff.data.dataset import validate
from jaxoff.data.episodes import lengths_of
from jaxoff.envs.base import first_actions
from jaxoff.envs.from_jaxmarl import FromJaxMARL
from jaxoff.envs.to_jaxmarl import as_jaxmarl
from jaxoff.types import EnvSpec, TimeStep

KEY = jax.random.key(11)
SIZES, ACTIONS = (3, 1), (2, 4)  # of the two agents of Uneven


class Uneven:
    """Two agents of different sizes, padded; an action's number is paid to its agent.

    Three steps, or fewer where both play their last action.
    """

    def __init__(self, discrete: bool) -> None:
        self.spec = EnvSpec(
            "uneven", 2, 3, 2, 4, discrete, 3, SIZES, ACTIONS, (0, 1), 1.0 if discrete else 2.0
        )

    def reset(self, key):
        start, first = jax.random.uniform(key, ()), first_actions(self.spec)
        return (start, jnp.zeros((), jnp.int32)), self._seen(start, 0, jnp.zeros(2), first)

    def step(self, key, state, actions):
        start, time = state
        paid = actions if self.spec.discrete else actions.sum(-1)
        return (start, time + 1), self._seen(start, time + 1, paid.astype(jnp.float32), actions)

    def _seen(self, start, time, paid, last):
        true = lambda sizes, most: (np.arange(most) < np.array(sizes)[:, None]).astype(np.float32)
        terminated = jnp.all(last == np.array(ACTIONS) - 1) if self.spec.discrete else False
        terminated = jnp.asarray(terminated)
        return TimeStep(
            obs=(start + time) * true(SIZES, 3),
            state=jnp.stack([start, jnp.asarray(time, jnp.float32)]),
            avail=jnp.asarray(true(ACTIONS, 4)) if self.spec.discrete else jnp.ones((2, 4)),
            reward=paid.mean(),
            terminated=terminated,
            truncated=(time >= 3) & ~terminated,
            last_actions=last if self.spec.discrete else last * jnp.asarray(true(ACTIONS, 4)),
            agent_reward=paid,
        )


@functools.cache
def env_of(name):
    return Uneven(name == "uneven") if name.startswith("uneven") else registry.make_env(name)


def steps_of(env, count, key=KEY):
    """Timesteps [count + 1] of random legal play that goes on after an end; the same for the same
    keys.
    """
    policy = recipes.random_policy(env.spec)

    def one(carry, keys):
        state, seen = carry
        actions = policy.distribution((), seen)[1].sample(seed=keys[0])
        carry = env.step(keys[1], state, actions)
        return carry, carry[1]

    @jax.jit
    def play(key):
        first = env.reset(key)
        keys = jax.vmap(jax.random.split)(jax.random.split(key, count))
        return first[1], jax.lax.scan(one, first, keys)[1]

    first, rest = jax.device_get(play(key))
    return jax.tree.map(lambda a, b: np.concatenate([a[None], b]), first, rest)


NAMES = {  # task -> whether its agents have rewards of their own
    "grid/bridge/random": False,
    "mpe/spread/random": True,
    "mpe/tag/random": False,
    "smax/3m/random": False,
    "maze/umaze/random": False,
    "uneven": True,
}


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_gives_the_same_steps_bit_for_bit(name):
    env = env_of(name)
    back = FromJaxMARL(as_jaxmarl(env), individual=NAMES[name])
    same = ("name", "num_agents", "obs_size", "state_size", "action_size", "discrete", "horizon")
    for field in (*same, "obs_sizes", "action_sizes", "action_bound"):
        assert getattr(back.spec, field) == getattr(env.spec, field), field
    count = min(env.spec.horizon, 30)
    ours, theirs = steps_of(env, count), steps_of(back, count)
    for field, a, b in zip(TimeStep._fields, ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=field)
        assert a is b is None or a.dtype == b.dtype, field
    if name == "grid/bridge/random":
        assert theirs.terminated.any()  # by Bridge's rule, at its limit too
    elif count == env.spec.horizon and name != "smax/3m/random":
        assert theirs.truncated[-1] and not theirs.truncated[:-1].any()


@pytest.mark.parametrize("name", ["uneven", "uneven-real"])
def test_padding_is_cut_on_the_way_out(name):
    env = env_of(name)
    theirs = as_jaxmarl(env)
    obs, state = theirs.reset(KEY)
    masks = theirs.get_avail_actions(state)
    for agent, size, actions in zip(theirs.agents, SIZES, ACTIONS, strict=True):
        assert obs[agent].shape == theirs.observation_space(agent).shape == (size,)
        assert masks[agent].shape == (actions,) and (masks[agent] == 1).all()
        space = theirs.action_space(agent)
        if env.spec.discrete:
            assert isinstance(space, spaces.Discrete) and space.n == actions
        else:
            assert isinstance(space, spaces.Box) and space.shape == (actions,)
            assert (space.low, space.high) == (-2.0, 2.0)
    given = {a: jnp.ones(theirs.action_space(a).shape, jnp.int32) for a in theirs.agents}
    obs, state, reward, dones, info = theirs.step_env(KEY, state, given)
    # rewards of their own: an action's number, or the sum of its true dimensions
    assert [float(reward[a]) for a in theirs.agents] == ([1, 1] if env.spec.discrete else [2, 4])
    assert set(dones) == {*theirs.agents, "__all__"} and not any(dones.values())
    assert {"terminated", "truncated"} == set(info)
    assert theirs.agent_classes == {"type_0": ["agent_0"], "type_1": ["agent_1"]}


def test_true_sizes_come_back_as_a_spec():
    spec = FromJaxMARL(as_jaxmarl(env_of("uneven"))).spec
    assert (spec.obs_sizes, spec.action_sizes, spec.agent_types) == (SIZES, ACTIONS, (0, 1))


def test_jaxmarls_step_starts_the_next_episode():
    # Bridge with agents that stay ends by its limit of 20 steps.
    theirs = as_jaxmarl(env_of("grid/bridge/random"))
    assert isinstance(theirs, MultiAgentEnv)
    first, state = theirs.reset(KEY)
    stay = dict.fromkeys(theirs.agents, jnp.zeros((), jnp.int32))
    for t in range(20):
        obs, state, _, dones, info = theirs.step(jax.random.fold_in(KEY, t), state, stay)
        assert bool(dones["__all__"]) == (t == 19)
    assert bool(info["terminated"]) and int(state.step) == 0 and not state.done
    jax.tree.map(np.testing.assert_array_equal, obs, first)
    # and `reset_state` is where it starts
    _, other, *_ = theirs.step(KEY, state, stay)
    late = state._replace(step=jnp.int32(19), inner=state.inner._replace(time=jnp.int32(19)))
    _, new, *_ = theirs.step(KEY, late, stay, other)
    assert int(new.step) == 1


@pytest.mark.parametrize("name", ["smax/3m/random", "mpe/CN_3ls3l/random"])
def test_jaxmarls_wrappers_take_ours(name):
    env = env_of(name)
    theirs = as_jaxmarl(env)
    manager = CTRolloutManager(LogWrapper(theirs), batch_size=2)
    obs, state = manager.batch_reset(KEY)
    spec, n = env.spec, env.spec.num_agents
    masks = manager.get_valid_actions(state.env_state)
    assert obs[theirs.agents[0]].shape == (2, spec.obs_size + n)
    assert masks[theirs.agents[0]].shape == (2, spec.action_size)
    if name.startswith("smax"):  # whose global state its wrappers ask for
        np.testing.assert_array_equal(obs["__all__"], state.env_state.seen.state)
    np.testing.assert_array_equal(
        theirs.get_world_state(state.env_state), state.env_state.seen.state
    )
    actions = {a: jnp.argmax(masks[a], -1) for a in theirs.agents}
    obs, _, reward, dones, _ = manager.batch_step(KEY, state, actions)
    assert reward["__all__"].shape == dones["__all__"].shape == (2,)


# --------------------------------------------------------------------------------------- theirs


@functools.cache
def stock(name, **settings):
    return jaxmarl.make(name, **settings)


def replayed(theirs, steps, key=KEY):
    """What JaxMARL's `step_env` gives for the same keys and actions: lists over time."""
    count = len(steps.obs) - 1
    keys = jax.vmap(jax.random.split)(jax.random.split(key, count))
    obs, state = jax.jit(theirs.reset)(key)
    step, rows = jax.jit(theirs.step_env), [(obs, state, None, None)]
    for t in range(count):
        actions = {a: steps.last_actions[t + 1][i] for i, a in enumerate(theirs.agents)}
        obs, state, reward, dones, _ = step(keys[t, 1], state, actions)
        rows.append((obs, state, reward, dones))
    return rows


def test_jaxmarls_spread_plays_as_ours():
    theirs = stock("MPE_simple_spread_v3")
    env = FromJaxMARL(theirs)
    spec = env.spec
    assert (spec.num_agents, spec.obs_size, spec.action_size, spec.discrete) == (3, 18, 5, True)
    assert (spec.name, spec.horizon, spec.state_size) == ("SimpleSpreadMPE", 25, 54)
    assert spec.obs_sizes == spec.action_sizes == spec.agent_types == ()
    steps = steps_of(env, 25)
    for t, (obs, _, reward, _) in enumerate(replayed(theirs, steps)):
        each = np.stack([obs[a] for a in theirs.agents])
        np.testing.assert_allclose(steps.obs[t], each, atol=1e-5)
        np.testing.assert_allclose(steps.state[t], each.ravel(), atol=1e-5)
        if reward is not None:
            own = np.array([reward[a] for a in theirs.agents])
            np.testing.assert_allclose(steps.agent_reward[t], own, atol=1e-5)
            np.testing.assert_allclose(steps.reward[t], own.mean(), atol=1e-5)
    assert (steps.avail == 1).all()
    assert not steps.terminated.any() and steps.truncated.tolist() == [False] * 25 + [True]


def test_jaxmarls_3m_plays_as_ours():
    theirs = jaxmarl.make("HeuristicEnemySMAX", scenario=map_name_to_scenario("3m"))
    env = FromJaxMARL(theirs, individual=False, horizon=60)
    spec = env.spec
    assert (spec.num_agents, spec.obs_size, spec.action_size, spec.horizon) == (3, 75, 8, 60)
    steps = steps_of(env, 60)
    rows = replayed(theirs, steps)
    for t, (obs, state, reward, _) in enumerate(rows):
        masks = theirs.get_avail_actions(state)
        np.testing.assert_array_equal(steps.avail[t], np.stack([masks[a] for a in theirs.agents]))
        np.testing.assert_allclose(
            steps.obs[t], np.stack([obs[a] for a in theirs.agents]), atol=1e-5
        )
        np.testing.assert_allclose(steps.state[t], obs["world_state"], atol=1e-4)
        if reward is not None:
            np.testing.assert_allclose(steps.reward[t], reward["ally_0"], atol=1e-5)
    assert (steps.avail == 0).any()
    # An end before the clock is one by the rules; theirs says no more than that it ended.
    done = [bool(row[3]["__all__"]) for row in rows[1:60]]
    assert steps.terminated[1:60].tolist() == done and steps.truncated[60]


def test_episodes_of_jaxmarls_environments_are_episodes_of_ours():
    env = FromJaxMARL(stock("MPE_simple_spread_v3"), "spread", horizon=7)
    episodes = recipes.record(env, recipes.random_policy(env.spec), 3, KEY)
    validate(episodes, env.spec, "spread")
    assert lengths_of(episodes).tolist() == [7] * 3


def test_agents_of_several_kinds_are_padded_and_masked():
    # one speaker (observes 3 numbers, says one of 3 words) and one listener (11, moves)
    env = FromJaxMARL(stock("MPE_simple_speaker_listener_v4"))
    assert env.spec.obs_sizes == (3, 11) and env.spec.action_sizes == (3, 5)
    assert env.spec.agent_types == (0, 1)
    steps = steps_of(env, 3)
    assert (steps.obs[:, 0, 3:] == 0).all() and (steps.obs[:, 1] != 0).any()
    assert (steps.avail[:, 0] == [1, 1, 1, 0, 0]).all() and (steps.avail[:, 1] == 1).all()


def test_real_actions_between_other_bounds_are_scaled():
    # theirs lie in [0, 1]: ours of -1, 0, 1 are their 0, 1/2, 1
    theirs = stock("MPE_simple_spread_v3", action_type="Continuous")
    env = FromJaxMARL(theirs)
    assert not env.spec.discrete and (env.spec.action_bound, env.spec.action_size) == (1.0, 5)
    state, _ = env.reset(KEY)
    ours = jnp.tile(jnp.array([-1.0, 0.0, 1.0, -1.0, 1.0]), (3, 1))
    _, seen = env.step(KEY, state, ours)
    given = dict.fromkeys(theirs.agents, jnp.array([0.0, 0.5, 1.0, 0.0, 1.0]))
    obs, *_ = theirs.step_env(KEY, state.inner, given)
    np.testing.assert_allclose(seen.obs, np.stack([obs[a] for a in theirs.agents]), atol=1e-6)


class Flags(MultiAgentEnv):
    """One agent, an episode of `length` steps, and what `info` tells of its end."""

    def __init__(self, length=2, info=None, action=None, obs=3):
        super().__init__(1)
        self.length, self.info = length, info or {}
        self.action_spaces = {"agent_0": action or spaces.Discrete(2)}

    def reset(self, key):
        return {"agent_0": jnp.zeros(3)}, jnp.zeros((), jnp.int32)

    def step_env(self, key, state, actions):
        done = state + 1 >= self.length
        dones = {"agent_0": done, "__all__": done}
        return {"agent_0": jnp.ones(3)}, state + 1, {"agent_0": jnp.ones(())}, dones, self.info


@pytest.mark.parametrize(
    ("settings", "adapter", "flags"),
    [  # an end after two steps, by a horizon of: 3, 2; and what is told
        ({}, {"horizon": 3}, (True, False)),
        ({}, {"horizon": 2}, (False, True)),
        ({"length": 9}, {"horizon": 2}, (False, True)),
        ({"info": {"truncation": jnp.array(1.0)}}, {"horizon": 3}, (False, True)),
        ({"info": {"truncation": jnp.array(0.0)}}, {"horizon": 2}, (True, False)),
        ({}, {"horizon": 2, "terminated": lambda state: state == 2}, (True, False)),
        ({}, {"horizon": 3, "terminated": lambda state: state < 0}, (False, True)),
        (
            {"info": {"terminated": jnp.array(True), "truncated": jnp.array(False)}},
            {"horizon": 2},
            (True, False),
        ),
    ],
)
def test_ends_are_told_apart_as_far_as_theirs_tells(settings, adapter, flags):
    env = FromJaxMARL(Flags(**settings), **adapter)
    state, _ = env.reset(KEY)
    for _ in range(2):
        state, seen = env.step(KEY, state, jnp.zeros(1, jnp.int32))
    assert (bool(seen.terminated), bool(seen.truncated)) == flags


class Masked(Flags):
    max_steps = 5

    def get_avail_actions(self, state):
        return {"agent_0": jnp.ones(3)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FromJaxMARL(Flags()), "Flags: field 'horizon': expected a number of steps.*None"),
        (
            lambda: FromJaxMARL(Flags(action=spaces.MultiDiscrete([2, 3])), horizon=2),
            r"action space of 'agent_0': expected Discrete.*found MultiDiscrete of shape \(2,\)",
        ),
        (
            lambda: FromJaxMARL(Flags(action=spaces.Box(-jnp.inf, jnp.inf, (2,))), horizon=2),
            "action spaces: expected finite bounds, found -inf to inf",
        ),
        (
            lambda: FromJaxMARL(Masked()),
            r"available actions of 'agent_0': expected shape \(2,\), found \(3,\)",
        ),
    ],
)
def test_what_cannot_be_ours_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
