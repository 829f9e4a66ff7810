"""Multi-agent MuJoCo: index tables against gymnasium-robotics, MJX against MuJoCo in C, Brax's end
flags.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from jaxoff.envs.mamujoco import layouts
from jaxoff.envs.mamujoco.layouts import BODIES, make_layout, observe, state_of, to_actuators
from jaxoff.envs.mamujoco.mabrax import make_mabrax
from jaxoff.envs.mamujoco.mjx import MJXState, make_mamujoco
from jaxoff.errors import InvalidSetting

KEY = jax.random.key(0)
SCENARIOS = {"halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "hopper": "Hopper", "ant": "Ant"}
SPLITS = [(body, split) for body, robot in BODIES.items() for split in robot.splits]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the current folder


def numbered(body, hidden=0):
    """[qpos, qvel] whose value k is k, from `hidden` on."""
    return np.arange(hidden, BODIES[body].nq + BODIES[body].nv, dtype=np.float32)


# ------------------------------------------------------------------------------------------ layouts


# The ant's observation there holds contact forces, which are not in [qpos, qvel]: only its own
# joints are compared.
@pytest.mark.parametrize(
    ("body", "split", "layout", "obsk"),
    [
        (*s, *kind)
        for s in SPLITS
        for kind in (("omar", 0), ("gymnasium", 0), ("gymnasium-1", 1))
        if s[0] != "ant" or kind[0] == "omar"
    ],
)
def test_layout_equals_gymnasium_robotics(body, split, layout, obsk):
    from gymnasium_robotics import mamujoco_v1

    local = layout == "omar"  # without globals, and for the ant without contact forces
    kwargs = {"global_categories": (), "local_categories": [["qpos", "qvel"]]} if local else {}
    theirs = mamujoco_v1.parallel_env(
        scenario=SCENARIOS[body], agent_conf=split, agent_obsk=obsk, **kwargs
    )
    theirs.reset(seed=0)
    table, rng = make_layout(body, split, layout), np.random.default_rng(0)
    for _ in range(3):
        actions = {
            agent: rng.uniform(-1, 1, theirs.action_space(agent).shape)
            for agent in theirs.possible_agents
        }
        obs, *_ = theirs.step(actions)
    data = theirs.single_agent_env.unwrapped.data
    sim = np.concatenate([data.qpos, data.qvel])
    ours = observe(table, sim)
    for i, agent in enumerate(theirs.possible_agents):
        np.testing.assert_array_equal(ours[i, : table.obs_sizes[i]], obs[agent])
        np.testing.assert_array_equal(ours[i, table.obs_sizes[i] :], 0)
    state = state_of(body, sim)
    np.testing.assert_array_equal(state, theirs.state()[: len(state)])
    # there an agent's actions run from the foot up, in `omar` as the actuators do
    if not (local and body == "walker2d"):
        stacked = np.stack([actions[agent] for agent in theirs.possible_agents])
        np.testing.assert_array_equal(
            to_actuators(table, stacked), theirs.map_local_actions_to_global_action(actions)
        )


@pytest.mark.parametrize("body", ["halfcheetah", "walker2d"])
def test_omar_layout_has_the_published_indices(body):
    # into the 17 values: (foot, shin, thigh) x (position, velocity)
    expected = [[4, 13, 3, 12, 2, 11], [7, 16, 6, 15, 5, 14]]
    table = make_layout(body, "2x3")
    np.testing.assert_array_equal(observe(table._replace(clip=None), np.arange(17.0)), expected)
    # x is in front of these
    np.testing.assert_array_equal(observe(table, numbered(body)), np.array(expected) + 1)


def test_observations_run_foot_to_thigh_and_actions_thigh_to_foot():
    model_state = np.zeros(18, np.float32)
    model_state[3] = 0.3  # bthigh, behind x, z and the angle of the root
    obs = observe(make_layout("halfcheetah", "2x3"), model_state)
    np.testing.assert_array_equal(obs, [[0, 0, 0, 0, np.float32(0.3), 0], [0] * 6])
    actions = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(
        to_actuators(make_layout("halfcheetah", "2x3"), actions), [1, 2, 3, 4, 5, 6]
    )


def test_joints_and_actuators_are_those_of_the_model_files():
    from jaxoff.envs.mamujoco.mjx import TASKS, load_model

    for body, file in [(body, task.file) for body, task in TASKS.items()] + [("ant", "ant.xml")]:
        model, robot = load_model(file), BODIES[body]
        assert (model.nq, model.nv, model.nu) == (robot.nq, robot.nv, len(robot.actuators))
        names = [model.joint(i).name for i in range(model.njnt)][-len(robot.joints) :]
        assert [n.replace("_joint", "").replace("_", "") for n in names] == [
            j.replace("_", "") for j in robot.joints
        ]
        driven = [
            names.index(model.joint(model.actuator(i).trnid[0]).name) for i in range(model.nu)
        ]
        assert [robot.joints[k] for k in driven] == list(robot.actuators)


def test_og_marl_layout_is_13_values_with_x_and_its_actions_run_foot_to_thigh():
    table = make_layout("halfcheetah", "2x3", "og_marl")
    # own (foot, shin, thigh) x (q, qd); the other thigh's q; root velocities x, angle, z; root
    # positions x, angle, z
    back = [5, 14, 4, 13, 3, 12, 6, 9, 11, 10, 0, 2, 1]
    front = [8, 17, 7, 16, 6, 15, 3, 9, 11, 10, 0, 2, 1]
    np.testing.assert_array_equal(observe(table, numbered("halfcheetah")), [back, front])
    np.testing.assert_array_equal(
        to_actuators(table, np.array([[3, 2, 1], [6, 5, 4]])), [1, 2, 3, 4, 5, 6]
    )
    with pytest.raises(
        ValueError, match=r"shows the x position, expected \[qpos, qvel\] of 18 values, found 17"
    ):
        observe(table, numbered("halfcheetah", 1))


@pytest.mark.parametrize(
    ("body", "split", "size"), [("halfcheetah", "6x1", 23), ("hopper", "3x1", 14)]
)
def test_omiga_layout_is_state_and_number_standardised(body, split, size):
    table = make_layout(body, split, "omiga")
    sim = np.random.default_rng(0).normal(size=BODIES[body].nq + BODIES[body].nv)
    obs = observe(table, sim)
    assert obs.shape == (table.num_agents, size) == (table.num_agents, table.obs_size)
    row = np.concatenate([sim[1:], np.eye(table.num_agents)[2]])
    np.testing.assert_allclose(obs[2], (row - np.mean(row)) / np.std(row), rtol=1e-12)


def test_velocities_are_clipped_where_gymnasium_clips():
    sim = np.full(18, 50.0, np.float32)
    assert state_of("walker2d", sim).tolist() == [50.0] * 8 + [10.0] * 9
    assert state_of("halfcheetah", sim).tolist() == [50.0] * 17
    # multiagent_mujoco clips the hopper's only
    assert observe(make_layout("walker2d", "2x3"), sim).max() == 50
    assert observe(make_layout("hopper", "3x1"), np.full(12, -50.0)).tolist() == [[-50, -10]] * 3


@pytest.mark.parametrize(("body", "split"), SPLITS, ids=map("-".join, SPLITS))
def test_layouts_are_the_same_in_numpy_and_in_jit_with_leading_axes(body, split):
    sim = (
        np.random.default_rng(0)
        .normal(size=(2, 3, BODIES[body].nq + BODIES[body].nv))
        .astype(np.float32)
    )
    for name in layouts.LAYOUTS if body == "halfcheetah" else ("omar",):
        table = make_layout(body, split, name)
        here, there = observe(table, sim), jax.jit(lambda x, table=table: observe(table, x))(sim)
        assert here.shape == (2, 3, table.num_agents, table.obs_size)
        assert here.dtype == there.dtype == np.float32
        np.testing.assert_allclose(here, there, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_layout("cat", "2x3"),
            "body: expected one of halfcheetah, walker2d, hopper, ant; found 'cat'",
        ),
        (lambda: make_layout("hopper", "2x3"), "split of hopper: expected one of 3x1; found '2x3'"),
        (
            lambda: make_layout("hopper", "3x1", "mine"),
            "layout: expected one of omar, og_marl, .*; found 'mine'",
        ),
        (
            lambda: make_layout("ant", "2x4", "omiga"),
            "layout: ant has 'omar' only, .* found 'omiga'",
        ),
        (
            lambda: make_layout("walker2d", "2x3", "og_marl"),
            "og_marl is that of halfcheetah, found 'walker2d'",
        ),
        (
            lambda: observe(make_layout("hopper", "3x1"), np.zeros(17)),
            "expected 12 or 11 values of hopper, found 17",
        ),
        (
            lambda: make_mamujoco("mamujoco/cheetah"),
            "mamujoco: expected one of mamujoco/halfcheetah-2x3, .*; found "
            "'mamujoco/cheetah'|found 'cheetah'",
        ),
        (
            lambda: make_mamujoco("mamujoco/ant-2x4"),
            "mamujoco: expected one of halfcheetah, walker2d, hopper; found 'ant'",
        ),
        (
            lambda: make_mamujoco("mamujoco/hopper-3x1", physics="brax"),
            "field 'physics': expected 'c' or 'mjx', found 'brax'",
        ),
        (
            lambda: make_mabrax("mabrax/halfcheetah-2x3", layout="og_marl"),
            "no x position, which 'og_marl' shows",
        ),
        (
            lambda: make_mabrax("mabrax/halfcheetah-2x3", backend="c"),
            "backend: expected one of spring, .*; found 'c'",
        ),
    ],
)
def test_unknown_names_and_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_c_physics_are_refused_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(InvalidSetting, match=r"'physics': expected 'mjx' on an accelerator, .*'c'"):
        make_mamujoco("mamujoco/hopper-3x1", horizon=7, physics="c")
    assert make_mamujoco("mamujoco/hopper-3x1", horizon=8).game.in_c is None


# ---------------------------------------------------------------------------------------------- MJX

STEPS = 20


def follow(name, gymnasium_id, actions, physics="mjx"):
    """Step ours and gymnasium from the same states; errors of positions and rewards, and the
    timesteps.
    """
    import gymnasium

    env, theirs = (
        make_mamujoco(name, horizon=STEPS, physics=physics),
        gymnasium.make(gymnasium_id).unwrapped,
    )
    theirs.reset(seed=0)
    step = jax.jit(env.step)
    state, first = env.reset(KEY)
    errors, rows = [], [first]
    for action in actions:
        theirs.set_state(np.asarray(state.qpos, np.float64), np.asarray(state.qvel, np.float64))
        obs, reward, terminated, *_ = theirs.step(np.asarray(to_actuators(env.game.layout, action)))
        state, after = step(KEY, state, action)
        np.testing.assert_allclose(after.state, obs, atol=2e-3)
        sim = np.concatenate([theirs.data.qpos, theirs.data.qvel])
        np.testing.assert_allclose(after.obs, observe(env.game.layout, sim), atol=2e-3)
        np.testing.assert_allclose(after.reward, reward, atol=1e-3)
        assert bool(after.terminated) == terminated
        errors.append(np.abs(np.asarray(state.qpos) - theirs.data.qpos))
        rows.append(after)
    return np.array(errors), rows


def random_actions(scale=1.0):
    return np.random.default_rng(1).uniform(-scale, scale, (STEPS, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("physics", ["mjx", "c"])
def test_cheetah_step_equals_gymnasiums_and_ends_by_the_clock_alone(physics):
    errors, rows = follow("mamujoco/halfcheetah-2x3", "HalfCheetah-v5", random_actions(), physics)
    assert errors.mean() < 1e-5
    assert errors.max() < 1e-4
    assert [bool(r.truncated) for r in rows] == [False] * STEPS + [True]
    assert not any(bool(r.terminated) for r in rows)


@pytest.mark.slow
def test_walker_step_equals_mujoco_in_c_and_terminates_as_in_gymnasium():
    """Slow: MJX compiles four Runge-Kutta steps, about 15 s and more."""
    errors, _ = follow("mamujoco/walker2d-2x3", "Walker2d-v5", random_actions())
    assert errors.mean() < 1e-5


@pytest.mark.parametrize(
    ("body", "gymnasium_id"), [("walker2d-2x3", "Walker2d-v5"), ("hopper-3x1", "Hopper-v5")]
)
def test_other_bodies_in_c_step_and_terminate_as_in_gymnasium(body, gymnasium_id):
    actions = random_actions()[:, :1, :1].repeat(3, 1) if body == "hopper-3x1" else random_actions()
    errors, _ = follow(f"mamujoco/{body}", gymnasium_id, actions, "c")
    assert errors.max() < 1e-5


def test_physics_in_c_does_not_depend_on_the_batch_or_on_earlier_calls_and_keeps_nan_to_its_row():
    env = make_mamujoco("mamujoco/halfcheetah-2x3", physics="c")
    states = jax.vmap(env.game.start)(jax.random.split(KEY, 4))
    control = jax.random.uniform(KEY, (4, 6), minval=-1)
    whole = jax.jit(jax.vmap(env.game.in_c))(states.qpos, states.qvel, control)
    alone = [env.game.in_c(states.qpos[i], states.qvel[i], control[i]) for i in (2, 0)]
    for i, found in zip((2, 0), alone, strict=True):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), whole, found)
    twice = jax.jit(jax.vmap(jax.vmap(env.game.in_c, (0, None, 0)), (None, 0, None)))(
        states.qpos, states.qvel, control
    )
    assert twice[1].shape == (4, 4, 9)  # some arguments mapped, some not
    np.testing.assert_array_equal(twice[0][1, 1], whole[0][1])
    torn = jax.jit(jax.vmap(env.game.in_c))(states.qpos, states.qvel, control.at[1, 0].set(jnp.nan))
    assert np.isnan(torn[0][1]).all()
    np.testing.assert_array_equal(torn[0][0], whole[0][0])


def test_physics_is_that_of_the_backend_unless_named():
    default = make_mamujoco("mamujoco/halfcheetah-2x3").game
    assert (default.in_c is not None) == (jax.default_backend() == "cpu")
    assert make_mamujoco("mamujoco/halfcheetah-2x3", physics="mjx").game.in_c is None


def test_walker_health_has_gymnasiums_bounds():
    env = make_mamujoco("mamujoco/walker2d-2x3").game
    good = MJXState(jnp.zeros(9).at[1].set(1.25), jnp.zeros(9), jnp.zeros(9), jnp.zeros((), int))
    healthy = lambda **q: bool(
        env.is_healthy(good._replace(qpos=good.qpos.at[q["at"]].set(q["to"])))
    )
    # height in (0.8, 2), angle in (-1, 1); other joints are free
    assert [healthy(at=1, to=z) for z in (0.79, 0.81, 1.99, 2.01)] == [False, True, True, False]
    assert [healthy(at=2, to=a) for a in (-1.01, -0.99, 0.99, 1.01)] == [False, True, True, False]
    assert healthy(at=5, to=2.5)


def test_starts_have_gymnasiums_noise():
    keys = jax.random.split(KEY, 2000)
    cheetah = jax.jit(jax.vmap(make_mamujoco("mamujoco/halfcheetah-2x3").game.start))(keys)
    assert 0.099 < jnp.abs(cheetah.qpos).max() <= 0.1  # uniform
    np.testing.assert_allclose(cheetah.qvel.std(), 0.1, rtol=0.03)  # normal
    walker = jax.jit(jax.vmap(make_mamujoco("mamujoco/walker2d-2x3").game.start))(keys)
    assert 0.00499 < jnp.abs(walker.qvel).max() <= 0.005
    np.testing.assert_allclose(walker.qpos.mean(0)[1], 1.25, atol=1e-3)


def test_model_without_the_deprecated_attribute_is_the_same_model():
    import gymnasium

    from jaxoff.envs.mamujoco.mjx import load_model

    ours, theirs = load_model("half_cheetah.xml"), gymnasium.make("HalfCheetah-v5").unwrapped.model
    assert ours.body_mass.sum() == pytest.approx(14)
    for field in (
        "body_mass",
        "body_inertia",
        "dof_invweight0",
        "actuator_gear",
        "qpos0",
        "jnt_stiffness",
    ):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
    assert (ours.opt.timestep, ours.opt.integrator) == (0.01, mujoco.mjtIntegrator.mjINT_EULER)


def test_solver_iterations_are_settable_and_names_of_sit_last_200_steps():
    assert (
        make_mamujoco("mamujoco/halfcheetah-2x3", iterations=4).game.host_model.opt.ls_iterations
        == 8
    )
    for name, body in (("HalfCheetah_2l", "halfcheetah"), ("Walker_2l", "walker2d")):
        env = make_mamujoco(f"mamujoco/{name}")
        assert (env.spec.name, env.spec.horizon, env.game.horizon, env.game.layout.body) == (
            f"mamujoco/{name}",
            200,
            200,
            body,
        )
        assert env.spec.return_scale is None
    assert make_mamujoco("mamujoco/halfcheetah-2x3") is make_mamujoco("mamujoco/halfcheetah-2x3")


def test_return_scale_is_omars_and_holds_for_its_task_alone():
    scale = make_mamujoco("mamujoco/halfcheetah-2x3").spec.return_scale
    assert (scale.low, scale.high) == (-284.0, 3568.8)
    assert make_mamujoco("mamujoco/halfcheetah-2x3", horizon=500).spec.return_scale is None
    assert make_mamujoco("mamujoco/halfcheetah-6x1").spec.return_scale is None


# ------------------------------------------------------------------------------------------- MABrax


def test_brax_steps_through_our_layout_and_ends_by_the_clock_alone():
    env = make_mabrax("mabrax/walker2d-2x3", horizon=3)
    assert env is make_mabrax("mabrax/walker2d-2x3", horizon=3)
    # still pytest's: the import of MABrax points it back at the original
    assert sys.stdout is not sys.__stdout__
    step = jax.jit(env.step)
    state, seen = jax.jit(env.reset)(KEY)
    for t in range(3):
        np.testing.assert_array_equal(seen.obs[0], seen.state[jnp.array([4, 13, 3, 12, 2, 11])])
        actions = jnp.array([[1.0, 0, 0], [0, 0, 0]])
        before = state.pipeline_state.x.pos[0, 0]
        state, seen = step(KEY, state, actions)
        speed = (state.pipeline_state.x.pos[0, 0] - before) / env.game.inner.env.dt
        # healthy, and the cost of one action of 1
        np.testing.assert_allclose(seen.reward, speed + 1 - 1e-3, atol=1e-4)
        assert (bool(seen.terminated), bool(seen.truncated)) == (False, t == 2)
    assert step._cache_size() == 1  # Brax's first state has weak types that its next has not


@pytest.mark.parametrize(
    ("done", "clock", "flags"),
    [(1.0, 0.0, (True, False)), (1.0, 1.0, (False, True)), (0.0, 0.0, (False, False))],
)
def test_brax_end_flags_are_told_apart(monkeypatch, done, clock, flags):
    env = make_mabrax("mabrax/walker2d-2x3").game
    answer = (
        {},
        jnp.zeros(()),
        {"__all__": jnp.ones(())},
        {"__all__": jnp.array(done, bool)},
        {"truncation": jnp.array(clock)},
    )
    monkeypatch.setattr(env.inner, "step_env", lambda *_: answer)
    _, reward, terminated, truncated = env.move(KEY, jnp.zeros(()), jnp.zeros((2, 3)))
    assert (float(reward), bool(terminated), bool(truncated)) == (1.0, *flags)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("hopper-3x1", (2, 2, 2)), ("ant-2x4", (8, 8)), ("halfcheetah-6x1", (2,) * 6)],
)
def test_brax_bodies_have_the_sizes_of_the_spec(name, sizes):
    env = make_mabrax(f"mabrax/{name}")
    first = jax.eval_shape(lambda: env.reset(KEY))[1]
    assert env.spec.obs_sizes == sizes
    assert first.obs.shape == (len(sizes), env.spec.obs_size)
    assert first.state.shape == (env.spec.state_size,)


def test_jaxmarls_own_cheetah_table_reads_out_of_bounds():
    from jaxmarl.environments.mabrax.mappings import _agent_observation_mapping as theirs

    assert max(int(i.max()) for i in theirs["halfcheetah_6x1"].values()) == 17  # of 0..16
