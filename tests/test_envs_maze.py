"""Maze2D: flight against MuJoCo in C, walls, the goal's region and time limits, and the waypoint
controller.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.data import recipes
from jaxoff.envs.maze import (
    MAZES,
    OFFSET,
    RADIUS,
    MazeState,
    fly,
    make_maze,
    next_cells,
    slide,
    waypoint_policy,
)
from jaxoff.types import TimeStep

KEY = jax.random.key(0)
FLY = jax.jit(fly)
SLIDE = jax.jit(slide)
UMAZE = make_maze("maze/umaze")
STEP = jax.jit(UMAZE.step)


def at(position, velocity=(0.0, 0.0), time=0):
    return MazeState(
        jnp.array(position, jnp.float32), jnp.array(velocity, jnp.float32), jnp.array(time)
    )


@functools.cache
def play_from(name, goal, steps):
    """Jitted: positions [E, 2] and velocities [E, 2] -> (Route, position, reward) over `steps`
    steps, [T, E].
    """
    env = make_maze(name)
    policy = waypoint_policy(env, goal)

    @jax.jit
    def play(position, velocity):
        def step(carry, _):
            state, memory = carry
            seen = jnp.concatenate([state.position, state.velocity], -1)
            memory, dist = policy.distribution(
                memory, TimeStep(seen[:, None], seen, None, None, None, None, None)
            )
            state, after = jax.vmap(env.step, (None, 0, 0))(KEY, state, dist.mode())
            return (state, memory), (memory, state.position, after.reward)

        count = len(position)
        start = MazeState(position, velocity, jnp.zeros(count, jnp.int32)), policy.initial((count,))
        return jax.lax.scan(step, start, length=steps)[1]

    return play


# ---------------------------------------------------------------------------------------- the mass


def test_flight_equals_mujoco_in_c():
    import mujoco

    model = mujoco.MjModel.from_xml_string("""
      <mujoco><option timestep="0.01" gravity="0 0 0" integrator="Euler"/><worldbody><body>
        <geom type="sphere" size="0.1" density="1000"/>
        <joint name="x" type="slide" axis="1 0 0" damping="1"/>
        <joint name="y" type="slide" axis="0 1 0" damping="1"/>
      </body></worldbody><actuator>
        <motor joint="x" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
        <motor joint="y" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
      </actuator></mujoco>""")
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    position, velocity = np.zeros(2), np.array([4.9, -0.3])
    for _ in range(100):
        # beyond the bounds, and against the top speed
        force = rng.uniform(-1.5, 1.5, 2) + np.array([0.5, 0])
        data.qpos[:], data.qvel[:] = position, np.clip(velocity, -5, 5)
        data.ctrl[:] = force
        mujoco.mj_step(model, data)
        new = np.asarray(FLY(jnp.array(velocity, jnp.float32), jnp.array(force, jnp.float32)))
        np.testing.assert_allclose(new, data.qvel, atol=1e-5)
        np.testing.assert_allclose(position + 0.01 * new, data.qpos, atol=1e-5)
        position, velocity = data.qpos.copy(), data.qvel.copy()


def test_flight_by_hand():
    # m = 4/3 pi 0.1^3 1000 = 4.18879; from rest: 0.01 * 100 / (4.18879 + 0.01) = 0.238164 m/s after
    # a step
    np.testing.assert_allclose(
        FLY(jnp.zeros(2), jnp.array([1.0, -3.0])), [0.238164, -0.238164], atol=1e-6
    )
    # no force: 5 m/s (clipped from 9) becomes 5 * 4.18879 / 4.19879
    np.testing.assert_allclose(FLY(jnp.array([9.0, 0]), jnp.zeros(2)), [4.988092, 0], atol=1e-6)


def test_mass_stops_dead_at_a_wall_and_slides_along_it():
    walls = jnp.asarray(MAZES["umaze"].walls)
    # cell (1, 2), centre (0.8, 1.8): free along the columns, walls above and below; the disc
    # reaches 0.4 from the centre
    position, velocity = SLIDE(walls, jnp.array([1.23, 1.9]), jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(position, [1.2, 1.9], atol=1e-6)
    np.testing.assert_allclose(velocity, [0, 3])
    # leaving it already
    position, velocity = SLIDE(walls, jnp.array([1.23, 1.9]), jnp.array([-2.0, 3.0]))
    np.testing.assert_allclose(velocity, [-2, 3])


def test_mass_rounds_a_corner():
    # cell (1, 3), centre (0.8, 2.8), is free on its left (1, 2) and below (2, 3); the corner
    # between, (2, 2), is wall
    x, y = 0.8 + 0.5, 2.8 - 0.5
    position, velocity = SLIDE(
        jnp.asarray(MAZES["umaze"].walls), jnp.array([x - 0.03, y + 0.04]), jnp.array([1.0, 0.0])
    )
    # normal (-0.6, 0.8): pushed out to 0.1; speed (1, 0) loses its part -0.6 along the normal
    np.testing.assert_allclose(position, [x - 0.06, y + 0.08], atol=1e-6)
    np.testing.assert_allclose(velocity, [1 - 0.36, 0.48], atol=1e-6)


@pytest.mark.parametrize("name", MAZES)
def test_mass_never_enters_a_wall(name):
    env = make_maze(f"maze/{name}")

    @jax.jit
    def wander(key):
        reset_key, force_key = jax.random.split(key)
        states = jax.vmap(env.reset)(jax.random.split(reset_key, 64))[0]
        # full force, held for 20 steps: hard knocks
        force = jnp.sign(jax.random.normal(force_key, (20, 64, 1, 2)))

        def step(states, force):
            states, _ = jax.vmap(env.step, (None, 0, 0))(KEY, states, force)
            return states, states.position

        return jax.lax.scan(step, states, jnp.repeat(force, 20, 0))[1]

    # [25600, 2], cell (r, c) has its centre at (r, c)
    places = np.asarray(wander(KEY)).reshape(-1, 2) + OFFSET
    walls = np.argwhere(env.game.walls)
    for block in np.array_split(places, 8):
        # to the nearest point of each wall
        apart = np.maximum(np.abs(block[:, None] - walls) - 0.5, 0)
        assert np.linalg.norm(apart, axis=-1).min() > RADIUS - 1e-4
    visited = np.unique(np.round(places).astype(int), axis=0)
    assert len(visited) == len(env.game.free)


# ---------------------------------------------------------------------------------------- the task


def test_reward_is_one_within_half_a_metre_of_the_goal():
    # the goal of umaze is (1, 1); the place is that after the step
    for y, paid in ((1.49, 1), (1.51, 0)):
        _, after = STEP(KEY, at((1.0, y)), jnp.zeros((1, 2)))
        assert (float(after.reward), bool(after.terminated)) == (paid, False)
    _, after = STEP(KEY, at((1.0, 1.49), (0.0, 5.0)), jnp.zeros((1, 2)))
    assert float(after.reward) == 0


@pytest.mark.parametrize(
    ("name", "limit", "goal"),
    [("umaze", 300, (1, 1)), ("medium", 600, (6, 6)), ("large", 800, (7, 9))],
)
def test_limits_goals_and_references_are_those_of_version_1(name, limit, goal):
    env = make_maze(f"maze/{name}")
    assert env is make_maze(f"maze/{name}")
    np.testing.assert_array_equal(env.game.goal, goal)
    assert env.spec.horizon == limit  # version 0: 150, 250, 600
    low, high = {"umaze": (23.85, 161.86), "medium": (13.13, 277.39), "large": (6.7, 273.99)}[name]
    assert env.spec.return_scale[:2] == (low, high)


def test_last_step_is_truncated():
    flags = [
        STEP(KEY, at((1.0, 1.0), time=time), jnp.zeros((1, 2)))[1].truncated for time in (298, 299)
    ]
    assert list(map(bool, flags)) == [False, True]


def test_recorded_episodes_last_as_long_as_the_limit():
    played = recipes.record(UMAZE, recipes.random_policy(UMAZE.spec), 100, KEY)
    assert (played.filled.sum(1) == 300).all()
    assert played.truncated[:, -1].all()
    assert not played.terminated.any()
    np.testing.assert_array_equal(played.obs[:, :, 0], played.state)
    start = played.state[:, 0]
    cells = np.round(start[:, :2])
    assert np.abs(start[:, :2] - cells).max() <= 0.1 + 1e-6
    # the goal's cell among them
    assert {tuple(c) for c in cells.astype(int)} == {tuple(c) for c in UMAZE.game.free}
    np.testing.assert_allclose(start[:, 2:].std(), 0.1, rtol=0.2)
    # D4RL's reference of random actions is 23.85; ours have s.e. of about 5
    np.testing.assert_allclose(played.reward.sum(1).mean(), 23.85, atol=20)


@pytest.mark.parametrize(
    ("name", "title"), [("umaze", "U_MAZE"), ("medium", "MEDIUM_MAZE"), ("large", "LARGE_MAZE")]
)
def test_maps_are_those_of_gymnasium_robotics(name, title):
    from gymnasium_robotics.envs.maze import maps

    np.testing.assert_array_equal(MAZES[name].walls, np.array(getattr(maps, title)) == 1)


def test_unknown_names_are_refused():
    with pytest.raises(
        ValueError,
        match="maze: expected one of maze/umaze, maze/medium, maze/large; found 'maze/huge'",
    ):
        make_maze("maze/huge")
    with pytest.raises(ValueError, match="goal: expected 'fixed' or 'random', found 'moving'"):
        waypoint_policy(UMAZE, "moving")


# ---------------------------------------------------------------------------------- the controller


@pytest.mark.parametrize("name", MAZES)
def test_routes_are_shortest(name):
    from scipy.sparse.csgraph import shortest_path

    walls = MAZES[name].walls
    free, onward = np.argwhere(~walls), next_cells(walls)
    distance = shortest_path(np.abs(free[:, None] - free[None]).sum(-1) == 1, unweighted=True)
    here, there = np.indices(onward.shape)
    apart = here != there
    np.testing.assert_array_equal(distance[onward, there][apart], distance[apart] - 1)
    np.testing.assert_array_equal(distance[here, onward][apart], 1)
    np.testing.assert_array_equal(np.diag(onward), np.arange(len(free)))


@pytest.mark.parametrize("name", MAZES)
def test_controller_reaches_the_goal_from_every_cell_and_stays(name):
    env = make_maze(f"maze/{name}")
    start = jnp.asarray(env.game.free, jnp.float32)
    _, position, reward = play_from(f"maze/{name}", "fixed", env.spec.horizon)(
        start, jnp.zeros_like(start)
    )
    assert np.asarray(reward).sum(0).min() > 0.3 * env.spec.horizon
    np.testing.assert_allclose(position[-1], np.tile(env.game.goal, (len(start), 1)), atol=0.02)
    assert np.asarray(reward)[-20:].all()


def test_random_targets_follow_one_another_and_depend_on_the_start_alone():
    start = jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0001]])
    route, position, _ = play_from("maze/umaze", "random", 1500)(start, jnp.zeros_like(start))
    target, reached = np.asarray(route.target), np.asarray(route.reached)
    assert reached[-1].min() >= 5
    np.testing.assert_array_equal(target[:, 0], target[:, 1])
    assert (target[:, 0] != target[:, 2]).any()
    assert len(np.unique(target[:, 0])) >= 4
    # at each arrival the mass was within 0.1 of the target it had
    change = np.flatnonzero(np.diff(reached[:, 0]))
    cells = UMAZE.game.free
    assert (
        np.linalg.norm(cells[target[change, 0]] - np.asarray(position)[change, 0], axis=-1) < 0.1
    ).all()
    assert (target[change, 0] != target[change + 1, 0]).all()
