"""What every environment keeps, whatever it is: one table of facts, run on each kind."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff import registry
from jaxoff.conformance import check_env
from jaxoff.data import recipes
from jaxoff.data.dataset import validate
from jaxoff.data.episodes import lengths_of

KEY = jax.random.key(3)
TASKS = {  # a task of each kind -> whether random play may end before the horizon
    "matrix/xor/d": False,
    "grid/bridge/random": True,
    "poly/sign/uniform": False,
    "mpe/spread/random": False,
    "mpe/spread-n5/random": False,
    "mpe/spread-1d/random": False,
    "mpe/tag/random": False,
    "mpe/world/random": False,
    "mpe/CN_4ls4l/random": False,
    "mpe/PP_3p1p/random": False,
    "smax/3m/random": True,
    "smax-x/2s_vs_1sc/random": True,
    "maze/umaze/random": False,
}
# a minute of compilation each
SLOW = {"mabrax/walker2d-2x3/random": False, "mamujoco/HalfCheetah_2l/random": False}
EACH = pytest.mark.parametrize(
    ("task", "ends"),
    [*TASKS.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in SLOW.items())],
)
COUNT = 6


@functools.cache
def played(task: str, seed: int = 0):
    env = registry.make_env(task)
    return recipes.record(
        env, recipes.random_policy(env.spec), COUNT, jax.random.fold_in(KEY, seed)
    )


@EACH
def test_episodes_have_the_shapes_and_ends_that_the_contract_says(task, ends):
    env, episodes = registry.make_env(task), played(task)
    # shapes, finite numbers, available actions, one end flag on the last step
    validate(episodes, env.spec, task)
    assert env.spec == registry.make_spec(task)
    lengths = lengths_of(episodes)
    ended = (episodes.terminated | episodes.truncated).any(1)
    assert ended.all()
    # Without a termination an episode has exactly the horizon's steps, and its end is the clock's.
    np.testing.assert_array_equal(episodes.truncated.any(1), ~episodes.terminated.any(1))
    assert (lengths[episodes.truncated.any(1)] == env.spec.horizon).all()
    assert ends or (lengths == env.spec.horizon).all()


@EACH
def test_the_same_key_plays_the_same_and_another_key_another_episode(task, ends):
    again = recipes.record(
        registry.make_env(task),
        recipes.random_policy(registry.make_spec(task)),
        COUNT,
        jax.random.fold_in(KEY, 0),
    )
    jax.tree.map(np.testing.assert_array_equal, again, played(task))
    other = played(task, 1)
    assert other.actions.shape != again.actions.shape or (other.actions != again.actions).any()


@EACH
def test_no_fact_of_the_contract_is_broken(task, ends):
    """Shapes, types, ends, masks, padding, keys, and steps side by side: `jaxoff check-env`."""
    found = check_env(task, tolerance=2e-4)
    assert not found.faults and not found.unchecked, str(found)
    # Bridge alone says that its time limit is a rule, as AlberDICE's collector did.
    assert bool(found.remarks) == task.startswith("grid/"), found.remarks


@EACH
def test_the_recorded_last_slot_is_the_end_of_the_episode_and_no_new_start(task, ends):
    """Stepping by hand with the recorded actions ends in the recorded last observation."""
    env, episodes = registry.make_env(task), played(task)
    length = int(lengths_of(episodes)[0])
    keys = jax.random.split(jax.random.split(jax.random.fold_in(KEY, 0), COUNT)[0], 3)
    step_keys = jax.random.split(keys[2], env.spec.horizon)

    @jax.jit
    def by_hand(actions):
        def step(state, x):
            state, after = env.step(x[0], state, x[1])
            return state, after.obs

        return jax.lax.scan(step, env.reset(keys[0])[0], (step_keys[:length], actions))[1]

    obs = by_hand(jnp.asarray(episodes.actions[0, :length]))
    # MJX's contacts are chaotic: two programs drift apart.
    tolerance = (
        {"rtol": 1e-3, "atol": 1e-3}
        if not task.startswith(("mamujoco", "mabrax"))
        else {"rtol": 1, "atol": 10}
    )
    np.testing.assert_allclose(episodes.obs[0, length], obs[-1], **tolerance)
    assert (episodes.obs[0, length + 1 :] == 0).all()


def test_every_listed_task_has_a_specification():
    for name in registry.tasks():
        spec = registry.make_spec(name)
        assert (
            min(spec.num_agents, spec.obs_size, spec.state_size, spec.action_size, spec.horizon) > 0
        ), name
