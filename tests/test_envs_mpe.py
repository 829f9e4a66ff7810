"""The particle worlds of OMAR and SIT: golden steps, an independent reference, random play,
visibility.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff import registry
from jaxoff.envs.mpe.omar import Chase, make_prey_env, make_spread, make_tag, make_world
from jaxoff.envs.mpe.physics import ParticleState, advance
from jaxoff.envs.mpe.sit import make_sit
from tests.reference import mpe_numpy as reference

KEY = jax.random.key(0)
PUBLIC = (
    Path(
        os.environ.get(
            "JAXOFF_PUBLIC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"
        )
    )
    / "omar_prey"
)
MOVERS = [(0, 0), (0.3, 0.3), (-0.4, 0.1), (0.1, 0.05)]
SPEEDS = [(0, 0), (0.2, 0), (0, -0.3), (0.5, 0.5)]
LANDMARKS = {
    "tag": [(0.5, 0.5), (-0.6, -0.2)],
    "world": [(0.5, 0.5), (-0.6, -0.2), (0.3, -0.7), (0, 0.1), (-0.8, 0.8)],
}
ACTIONS = [(1, 0), (-0.5, 0.25), (0, -1)]
# World: (team reward, prey reward) before the step; published prey's action; positions and team
# reward after it.
GOLDEN = {
    "tag": (
        (9.9065546, -9.9065546),
        (-0.201182, 0.298293),
        [(0.0781966, -0.0059017), (0.2699997, 0.3224997), (-0.4, 0), (0.1171143, 0.1411286)],
        -0.0925332,
    ),
    "world": (
        (4.9065547, -4.8693895),
        (0.0845888, 0.2117299),
        [(0.0826685, -0.0036658), (0.2699997, 0.3224997), (-0.4, 0), (0.1583657, 0.1250425)],
        -0.0948343,
    ),
}
MAKERS = {
    "mpe/spread": make_spread,
    "mpe/tag": lambda: make_tag("flee"),
    "mpe/world": lambda: make_world("random"),
    "mpe/CN_3ls3l": lambda: make_sit("CN_3ls3l"),
    "mpe/CN_4ls4l": lambda: make_sit("CN_4ls4l"),
    "mpe/PP_3p1p": lambda: make_sit("PP_3p1p"),
}
ADVANCE = {
    world: jax.jit(functools.partial(advance, Chase(world).bodies)) for world in ("tag", "world")
}
STEPS = {name: jax.jit(make().step) for name, make in MAKERS.items()}
RESETS = {name: jax.jit(make().reset) for name, make in MAKERS.items()}


def particles(positions, velocities, time=0):
    return ParticleState(
        jnp.array(positions, jnp.float32),
        jnp.array(velocities, jnp.float32),
        jnp.array(time, jnp.int32),
    )


def crowd(world, seed, count=3):
    """A crowded random state, (bodies, positions, velocities), and actions of all that move."""
    rng = np.random.default_rng(seed)
    kinds = reference.bodies(world, count)
    movers = sum(body["moves"] for body in kinds)
    return (
        kinds,
        rng.uniform(-0.35, 0.35, (len(kinds), 2)),
        rng.uniform(-1, 1, (movers, 2)),
        rng.uniform(-1, 1, (4, movers, 2)),
    )


def in_contact(kinds, positions, movers):
    return any(
        reference.touching(kinds, positions, i, j)
        for i in range(movers)
        for j in range(movers)
        if i != j
    )


def uniform(spec, key):
    """Uniform actions."""
    if spec.discrete:
        return jax.random.randint(key, spec.action_shape, 0, spec.action_size)
    return jax.random.uniform(key, spec.action_shape, minval=-1.0, maxval=1.0)


def returns_of_uniform_actions(env, count):
    """(returns [count], truncated [count, 25]) of whole episodes; none may be terminated."""

    def episode(key):
        def step(state, key):
            act, move = jax.random.split(key)
            state, seen = env.step(move, state, uniform(env.spec, act))
            return state, (seen.reward, seen.truncated, seen.terminated)

        first, rest = jax.random.split(key)
        return jax.lax.scan(step, env.reset(first)[0], jax.random.split(rest, 25))[1]

    reward, truncated, terminated = jax.jit(jax.vmap(episode))(
        jax.random.split(jax.random.key(1), count)
    )
    assert not terminated.any()
    return np.asarray(reward).sum(1), np.asarray(truncated)


def public_prey(world):
    path = PUBLIC / f"simple_{world}.pt"
    if not path.is_file():
        pytest.skip("the public prey networks are not present")
    return str(path)


# ------------------------------------------------------------------------------------- OMAR: golden
# steps


@pytest.mark.parametrize(("mover", "action", "speed"), [(0, (1, 0), 0.9), (3, (1, 0), 1.3)])
def test_acceleration_is_multiplied_in_twice(mover, action, speed):
    # predator: 3 * 3 * 0.1 = 0.9; prey: 4 * 4 * 0.1 = 1.6, capped at 1.3
    far = [(10.0 * i, 7.0) for i in range(6)]
    actions = np.zeros((4, 2), np.float32)
    actions[mover] = action
    after = ADVANCE["tag"](particles(far, np.zeros((4, 2))), jnp.asarray(actions))
    np.testing.assert_allclose(after.velocities[mover], (speed, 0), rtol=1e-5)
    np.testing.assert_allclose(after.positions[mover], (10 * mover + 0.1 * speed, 7), rtol=1e-5)
    expected = reference.step(reference.bodies("tag"), np.array(far), np.zeros((4, 2)), actions)
    np.testing.assert_allclose(expected[1][mover], (speed, 0), rtol=1e-12)


def test_spread_agent_has_force_five():
    # 5 * 0.1 = 0.5; the agents are 10 apart
    far = [(10.0 * i, 0.0) for i in range(6)]
    after, _ = STEPS["mpe/spread"](
        KEY, particles(far, np.zeros((3, 2))), jnp.array([(1.0, 0), (0, 0), (0, 0)])
    )
    np.testing.assert_allclose(after.velocities, [(0.5, 0), (0, 0), (0, 0)], rtol=1e-6)
    np.testing.assert_allclose(after.positions[0], (0.05, 0), rtol=1e-6)


def test_spread_golden_step():
    positions = np.array([(0, 0), (0.2, 0), (-0.5, 0.5), (0.05, 0), (1, 1), (-0.5, 0.4)])
    velocities = np.array([(0, 0), (0, 0), (0.1, -0.2)])
    after_positions = [(-0.05, 0), (0.275, 0.0125), (-0.4925, 0.435)]
    after_velocities = [(-0.5, 0), (0.75, 0.125), (0.075, -0.65)]
    state = particles(positions, velocities)
    np.testing.assert_allclose(
        make_spread().game.rewards(state), (15.780869, 15.780869, 20.780869), rtol=1e-5
    )
    after, seen = STEPS["mpe/spread"](KEY, state, jnp.array(ACTIONS, jnp.float32))
    np.testing.assert_allclose(after.positions[:3], after_positions, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(after.velocities, after_velocities, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(seen.agent_reward, [20.816284] * 3, rtol=1e-5)
    kinds = reference.bodies("spread")
    np.testing.assert_allclose(
        reference.spread_rewards(kinds, positions), (15.780869, 15.780869, 20.780869), rtol=1e-7
    )
    p, v = reference.step(kinds, positions, velocities, ACTIONS)
    np.testing.assert_allclose(p[:3], after_positions, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(v, after_velocities, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(reference.spread_rewards(kinds, p), [20.816284] * 3, rtol=1e-7)


@pytest.mark.parametrize("world", GOLDEN)
def test_chase_golden_step(world):
    before, flight, after_positions, after_reward = GOLDEN[world]
    chase, positions = Chase(world), MOVERS + LANDMARKS[world]
    state, actions = particles(positions, SPEEDS), [*ACTIONS, flight]
    np.testing.assert_allclose(
        (chase.team_reward(state), chase.prey_reward(state)), before, rtol=1e-5
    )
    after = ADVANCE[world](state, jnp.array(actions))
    np.testing.assert_allclose(after.positions[:4], after_positions, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(chase.team_reward(after), after_reward, rtol=1e-5)
    kinds = reference.bodies(world)
    np.testing.assert_allclose(
        reference.chase_rewards(world, kinds, np.array(positions)), before, rtol=1e-7
    )
    p, _ = reference.step(kinds, np.array(positions), np.array(SPEEDS), actions)
    np.testing.assert_allclose(p[:4], after_positions, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(reference.chase_rewards(world, kinds, p)[0], after_reward, rtol=1e-5)


def test_world_forest_flags_of_the_golden_state():
    predators, prey = Chase("world").observe_all(particles(MOVERS + LANDMARKS["world"], SPEEDS))
    # agent 0 at (0, 0): 0.1 from forest 0 at (0, 0.1), 1.13 from forest 1 at (-0.8, 0.8); radii add
    # up to 0.375
    assert predators[0, -2:].tolist() == [1, -1]
    assert (predators.shape, prey.shape) == ((3, 24), (22,))


@pytest.mark.parametrize("world", GOLDEN)
def test_published_prey_makes_the_golden_step(world):
    env = (make_tag if world == "tag" else make_world)(public_prey(world))
    _, flight, after_positions, after_reward = GOLDEN[world]
    state = particles(MOVERS + LANDMARKS[world], SPEEDS)
    np.testing.assert_allclose(
        env.game.prey(KEY, env.game.chase.observe_all(state)[1]), flight, rtol=1e-5
    )
    after, seen = jax.jit(env.step)(KEY, state, jnp.array(ACTIONS, jnp.float32))
    np.testing.assert_allclose(after.positions[:4], after_positions, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.reward, after_reward, rtol=1e-5)


# -------------------------------------------------------------------------------- OMAR: the
# reference


@pytest.mark.parametrize("world", ["spread", "tag", "world"])
def test_worlds_equal_the_reference_in_a_crowd(world):
    starts, acts, expected, touching = [], [], [], []
    for seed in range(40):
        kinds, p, v, actions = crowd(world, seed)
        for a in actions:
            starts.append(particles(p, v))
            acts.append(a)
            before, (p, v) = p, reference.step(kinds, p, v, a)
            touching.append([in_contact(kinds, q, len(v)) for q in (before, p)])
            seen = [reference.observation(world, kinds, p, v, i) for i in range(len(v))]
            if world == "spread":
                expected.append((p, v, reference.spread_rewards(kinds, p), np.stack(seen)))
            else:
                expected.append(
                    (p, v, reference.chase_rewards(world, kinds, p), np.stack(seen[:3]), seen[3])
                )
    game = make_spread().game if world == "spread" else Chase(world)

    def one(state, a):
        state = advance(game.bodies, state, a)
        if world == "spread":
            return *state[:2], game.rewards(state), game.observe(state)
        return (
            *state[:2],
            jnp.stack([game.team_reward(state), game.prey_reward(state)]),
            *game.observe_all(state),
        )

    ours = jax.jit(jax.vmap(one))(
        jax.tree.map(lambda *x: jnp.stack(x), *starts), jnp.array(np.array(acts), jnp.float32)
    )
    for x, y in zip(ours, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(x, np.stack(y), rtol=2e-5, atol=2e-5)
    assert min(np.sum(touching, 0)) > 30  # of 160 steps that begin, and that end, in contact


@pytest.mark.parametrize("name", STEPS)
def test_bodies_in_one_place_stay_finite(name):
    # all at distance 0: no direction, no force; softplus of (0.3 - 0) / 1e-3 = 300 must not
    # overflow either
    first, _ = RESETS[name](KEY)
    state = first._replace(positions=jnp.zeros_like(first.positions))
    actions = jnp.zeros(
        MAKERS[name]().spec.action_shape, jnp.int32 if MAKERS[name]().spec.discrete else jnp.float32
    )
    after, seen = STEPS[name](KEY, state, actions)
    assert all(
        np.isfinite(x).all()
        for x in (after.positions, after.velocities, seen.obs, seen.state, seen.reward)
    )
    if name == "mpe/spread":
        np.testing.assert_array_equal(after.velocities, 0)
        np.testing.assert_array_equal(seen.agent_reward, [3 * 10 - 5 * 2] * 3)


def test_contact_of_a_whole_unit_deep_is_linear():
    # dist - dmin = -1: depth 1, force 100, velocity 0.1 * 100 = 10 apart
    bodies = make_spread(2).game.bodies._replace(size=np.array([0.75, 0.75, 0.05, 0.05]))
    after = jax.jit(functools.partial(advance, bodies))(
        particles([(0, 0), (0.5, 0), (9, 9), (9, 9)], np.zeros((2, 2))), jnp.zeros((2, 2))
    )
    np.testing.assert_allclose(after.velocities, [(-10, 0), (10, 0)], rtol=1e-5)


def test_action_beyond_one_is_clipped():
    state = particles([(0, 0), (3, 0), (6, 0), (9, 9), (9, 9), (9, 9)], np.zeros((3, 2)))
    wild, _ = STEPS["mpe/spread"](KEY, state, jnp.array([(50.0, -3), (0, 0), (0, 0)]))
    legal, _ = STEPS["mpe/spread"](KEY, state, jnp.array([(1.0, -1), (0, 0), (0, 0)]))
    np.testing.assert_array_equal(wild.positions, legal.positions)


# -------------------------------------------------------------------------------- OMAR: rewards and
# time


def test_spread_rewards_differ_by_the_collision_penalty():
    # agents 0 and 1 overlap (0.2 < 0.3) before and after a step without force, agent 2 is far away
    state = particles([(0, 0), (0.2, 0), (3, 3), (0, 1), (1, 0), (1, 1)], [(1, 0), (1, 0), (0, 0)])
    state = state._replace(positions=state.positions.at[1].set(jnp.array([0.25, 0])))
    rewards = make_spread().game.rewards(state)
    assert (float(rewards[2] - rewards[0]), float(rewards[0] - rewards[1])) == (5.0, 0.0)
    _, seen = STEPS["mpe/spread"](KEY, state, jnp.zeros((3, 2)))
    assert float(seen.reward) == pytest.approx(float(seen.agent_reward.mean()))


def test_spread_alone_pays_for_the_own_landmark_only():
    # agents 0, 1 overlap: no penalty; own landmarks at distance 0.5, 2, 0.01 (capped at 10)
    state = particles([(0, 0), (0.2, 0), (3, 3), (0, 0.5), (2.2, 0), (3, 3.01)], np.zeros((3, 2)))
    np.testing.assert_allclose(
        make_spread(cooperative=False).game.rewards(state), (2, 0.5, 10), rtol=1e-5
    )
    np.testing.assert_array_equal(
        registry.make_env("mpe/spread-own/random").game.rewards(state),
        make_spread(cooperative=False).game.rewards(state),
    )
    # alone it is the cooperative task
    alone = particles([(0.3, 0), (0, 0.4)], [(0, 0)])
    np.testing.assert_allclose(
        [make_spread(1, cooperative=c).game.rewards(alone)[0] for c in (True, False)],
        [2, 2],
        rtol=1e-5,
    )


def test_one_dimension_is_two_with_a_coordinate_at_zero():
    line = np.array([0.0, 0.1, 0.35, 0.2, -0.5, 0.9])
    plane = particles([(x, 0) for x in line], np.zeros((3, 2)))
    push = jnp.array([0.5, -1.0, 0.25])
    flat, seen_flat = STEPS["mpe/spread"](KEY, plane, jnp.stack([push, jnp.zeros(3)], -1))
    thin, seen_thin = jax.jit(make_spread(3, dim=1).step)(
        KEY, particles(line[:, None], np.zeros((3, 1))), push[:, None]
    )
    np.testing.assert_allclose(thin.positions[:, 0], flat.positions[:, 0], rtol=1e-6)
    np.testing.assert_allclose(seen_thin.agent_reward, seen_flat.agent_reward, rtol=1e-6)
    np.testing.assert_allclose(seen_thin.obs, seen_flat.obs[:, ::2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", range(1, 6))
def test_spread_sizes_and_start_ranges(count):
    env = make_spread(count)
    states = jax.vmap(env.game.start)(jax.random.split(KEY, 500))
    _, first = jax.eval_shape(env.reset, KEY)
    assert (first.obs.shape, first.state.shape) == ((count, 6 * count), (6 * count * count,))
    assert env.spec.name == ("mpe/spread" if count == 3 else f"mpe/spread-n{count}")
    bound = 1 if count <= 3 else 2
    extreme = float(jnp.abs(states.positions).max())
    assert 0.95 * bound < extreme <= bound
    assert float(jnp.abs(states.velocities).max()) == 0


@pytest.mark.parametrize("world", ["tag", "world"])
def test_chase_start_ranges(world):
    states = jax.vmap(Chase(world).start)(jax.random.split(KEY, 500))
    movers, landmarks = (
        jnp.abs(states.positions[:, :4]).max(),
        jnp.abs(states.positions[:, 4:]).max(),
    )
    assert 0.95 < float(movers) <= 1
    assert 0.85 < float(landmarks) <= 0.9


def test_tag_score_is_one_predators_reward():
    # the reward of all predators is common, and counted once: 10 for the one contact, less 0.1 per
    # distance
    state = particles([(0, 0), (0, 5), (5, 0), (0, 0.12), (9, 9), (-9, 9)], np.zeros((4, 2)))
    distances = 0.12 + 4.88 + np.hypot(5, 0.12)
    assert float(Chase("tag").team_reward(state)) == pytest.approx(10 - 0.1 * distances)
    env = make_tag("flee")
    _, reward, _, _ = jax.jit(env.game.move)(KEY, state, jnp.zeros((3, 2)))
    assert reward.shape == () and env.step(KEY, state, jnp.zeros((3, 2)))[1].agent_reward is None


@pytest.mark.parametrize(
    ("make", "expected", "tolerance"),
    [(lambda: make_spread(), 160.1, 1.1), ("tag", -4.24, 0.2), ("world", -6.79, 0.11)],
)
def test_uniform_actions_return_what_the_original_does(make, expected, tolerance):
    env = (
        make() if callable(make) else (make_tag if make == "tag" else make_world)(public_prey(make))
    )
    returns, truncated = returns_of_uniform_actions(env, 3000)
    error = returns.std() / np.sqrt(len(returns))
    assert error == pytest.approx(tolerance, rel=0.15)
    assert abs(returns.mean() - expected) < 3 * error
    assert truncated[:, 24].all() and not truncated[:, :24].any()  # 25 rewards, no more
    if callable(make):
        assert returns.max() <= 750


def test_return_scales_are_the_published_ones():
    scales = [
        env.spec.return_scale[:2] for env in (make_spread(), make_tag("flee"), make_world("flee"))
    ]
    assert scales == [(159.8, 516.8), (-4.1, 185.6), (-6.8, 79.5)]
    assert make_spread(4).spec.return_scale is None


# ------------------------------------------------------------------------------------------- all
# worlds


@pytest.mark.parametrize("name", STEPS)
def test_world_keeps_the_contract(name):
    env, step = MAKERS[name](), STEPS[name]
    spec = env.spec
    assert MAKERS[name]() is env and spec.name == name

    def roll(step, key):
        state, seen = RESETS[name](key)
        rows = [seen]
        for k in jax.random.split(key, 25):
            state, seen = step(k, state, uniform(spec, k))
            rows.append(seen)
        return rows

    rows, again = roll(step, KEY), roll(step, KEY)
    jax.tree.map(np.testing.assert_array_equal, rows, again)  # same key, same trajectory
    for row in rows:
        assert (row.obs.shape, row.state.shape) == (
            (spec.num_agents, spec.obs_size),
            (spec.state_size,),
        )
        assert not row.terminated
    assert [bool(row.truncated) for row in rows] == [False] * 25 + [True]
    _, seen = RESETS[name](KEY)
    # the picture's positions are the state's
    shown = env.game.picture_entities(np.asarray(seen.state)[None])[0]
    np.testing.assert_allclose(shown, RESETS[name](KEY)[0].positions, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mpe/tag", "mpe/PP_3p1p"])
def test_step_is_the_same_without_jit_and_for_two_at_once(name):
    env = MAKERS[name]()
    state, _ = RESETS[name](KEY)
    actions = uniform(env.spec, KEY)
    one, plain = STEPS[name](KEY, state, actions), env.step(KEY, state, actions)
    pair = jax.jit(jax.vmap(env.step, (None, 0, 0)))(
        KEY, *jax.tree.map(lambda x: jnp.stack([x, x]), (state, actions))
    )
    for a, b, c in zip(
        jax.tree.leaves(plain), jax.tree.leaves(one), jax.tree.leaves(pair), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(c, [b, b], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("world", "size"), [("tag", 14), ("world", 22)])
def test_prey_environment_is_the_same_world_from_the_other_side(world, size):
    hunt = lambda obs: jnp.array(ACTIONS, jnp.float32) + 0 * obs[:, :2]
    env = make_prey_env(world, hunt)
    assert (env.spec.name, env.spec.num_agents, env.spec.obs_size) == (f"mpe/{world}-prey", 1, size)
    state = particles(MOVERS + LANDMARKS[world], SPEEDS, time=24)
    after, seen = jax.jit(env.step)(KEY, state, jnp.array([GOLDEN[world][1]]))
    np.testing.assert_allclose(after.positions[:4], GOLDEN[world][2], rtol=1e-5, atol=1e-6)
    p = np.asarray(after.positions, float)
    np.testing.assert_allclose(
        seen.reward, reference.chase_rewards(world, reference.bodies(world), p)[1], rtol=1e-5
    )
    assert (seen.obs.shape, seen.state.shape, bool(seen.truncated), bool(seen.terminated)) == (
        (1, size),
        (size,),
        True,
        False,
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_spread(6), "num_agents: expected 1 to 5, found 6"),
        (lambda: make_spread(3, dim=3), "dim: expected 1 or 2, found 3"),
        (
            lambda: make_prey_env("spread", lambda obs: obs),
            "world: expected tag or world, found 'spread'",
        ),
        (
            lambda: make_sit("CN_5ls5l"),
            "map: expected CN_3ls3l, CN_4ls4l, PP_3p1p, found 'CN_5ls5l'",
        ),
        (
            lambda: make_sit("CN_3ls3l", visibility="all"),
            "visibility: expected nearest or fixed, found 'all'",
        ),
        (
            lambda: make_sit("PP_3p1p", prey_speed=0),
            "prey_speed: expected a positive number, found 0",
        ),
        (
            lambda: make_sit("PP_3p1p", arena=0.5),
            "arena: expected at least 1, where the prey may start, found 0.5",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --------------------------------------------------------------------------------------------------
# SIT


@pytest.mark.parametrize(
    ("action", "velocity"),
    [(0, (0, 0)), (1, (-0.5, 0)), (2, (0.5, 0)), (3, (0, -0.5)), (4, (0, 0.5))],
)
def test_sit_actions_push_along_the_axes(action, velocity):
    far = particles([(0, 0), (5, 0), (0, 5), (1, 1), (1, 1), (1, 1)], np.zeros((3, 2)))
    after, _ = STEPS["mpe/CN_3ls3l"](KEY, far, jnp.array([action, 0, 0]))
    np.testing.assert_allclose(after.velocities[0], velocity, rtol=1e-6)  # 5 * 0.1, once
    np.testing.assert_allclose(after.positions[0], np.multiply(velocity, 0.1), rtol=1e-6)


def test_sit_reward_counts_distances_for_every_agent_and_no_self_collision():
    # seekers far apart, none moves: nearest distances 1, 2, 3, so -(1 + 2 + 3) for each of three
    # agents
    state = particles([(0, 0), (20, 0), (0, 20), (1, 0), (20, 2), (3, 20)], np.zeros((3, 2)))
    _, seen = STEPS["mpe/CN_3ls3l"](KEY, state, jnp.zeros(3, int))
    assert float(seen.reward) == pytest.approx(-18, rel=1e-6)


def test_sit_collision_costs_both_agents_one():
    # seekers 0 and 1 overlap by 0.2 before the move; at rest they are pushed apart: force 20, 0.2
    # each
    state = particles([(0, 0), (0.1, 0), (0, 20), (0, 0), (0, 0), (0, 20)], np.zeros((3, 2)))
    after, seen = STEPS["mpe/CN_3ls3l"](KEY, state, jnp.zeros(3, int))
    p = np.asarray(after.positions, float)
    apart = np.linalg.norm(p[0] - p[1])
    assert apart == pytest.approx(0.1 + 2 * 0.2)  # and 0.5 is no collision
    near = np.linalg.norm(p[:2], axis=1).min()
    assert float(seen.reward) == pytest.approx(-3 * 2 * near, rel=1e-5)
    state = state._replace(
        velocities=jnp.array([(2.6, 0), (-2.6, 0), (0, 0)])
    )  # 0.75 * 2.6 - 2 = -0.05: apart by 0.11 after the move, so one for each
    after, seen = STEPS["mpe/CN_3ls3l"](KEY, state, jnp.zeros(3, int))
    p = np.asarray(after.positions, float)
    assert np.linalg.norm(p[0] - p[1]) < 0.3
    assert float(seen.reward) == pytest.approx(
        -3 * 2 * np.linalg.norm(p[:2], axis=1).min() - 2, rel=1e-5
    )


def test_hidden_agent_changes_the_state_and_not_the_observation():
    # of seeker 0, seeker 1 is the nearest: seeker 2 is hidden, and so is the farthest landmark
    env = make_sit("CN_3ls3l")
    state = particles(
        [(0, 0), (0.5, 0), (0.9, 0.9), (0.1, 0.1), (-0.3, 0), (1, -1)], np.zeros((3, 2))
    )
    moved = state._replace(
        positions=state.positions.at[jnp.array([2, 5])].set(jnp.array([(0.8, -0.9), (-1.0, 1)]))
    )
    np.testing.assert_array_equal(env.game.observe(state)[0], env.game.observe(moved)[0])
    assert (env.game.global_state(state) != env.game.global_state(moved)).any()
    assert (env.game.observe(state)[2] != env.game.observe(moved)[2]).any()
    # nearest first
    np.testing.assert_allclose(env.game.observe(state)[0], [0, 0, 0, 0, 0.1, 0.1, -0.3, 0, 0.5, 0])


def test_hidden_predator_changes_the_state_and_not_the_observation():
    env = make_sit("PP_3p1p")
    state = particles(
        [(0, 0), (0.5, 0), (0.9, 0.9), (0.2, 0.7)], [(0, 0), (0, 0), (0, 0), (0.3, 0.4)]
    )
    moved = state._replace(positions=state.positions.at[2].set(jnp.array([-0.9, 0.4])))
    np.testing.assert_array_equal(env.game.observe(state)[0], env.game.observe(moved)[0])
    assert (env.game.global_state(state) != env.game.global_state(moved)).any()
    np.testing.assert_allclose(env.game.observe(state)[0], [0, 0, 0, 0, 0.5, 0, 0.2, 0.7, 0.3, 0.4])


def test_equally_near_agents_are_seen_by_index():
    state = particles([(0, 0), (0.5, 0), (-0.5, 0), (1, 0), (0, 1), (-1, 0)], np.zeros((3, 2)))
    seen = make_sit("CN_3ls3l").game.observe(state)
    np.testing.assert_allclose(seen[0, 4:], [1, 0, 0, 1, 0.5, 0])


def test_fixed_visibility_is_by_index():
    # agent i sees landmarks i, i + 1 and agent i + 1, modulo 3, wherever they are
    points = np.array([(0, 0), (0.5, 0), (0.1, 0.1), (1, 1), (-1, 0), (0, 0.2)])
    env = make_sit("CN_3ls3l", visibility="fixed")
    obs = np.asarray(env.game.observe(particles(points, np.zeros((3, 2)))))
    for i in range(3):
        j = (i + 1) % 3
        np.testing.assert_allclose(
            obs[i, 4:],
            np.concatenate([points[k] - points[i] for k in (3 + i, 3 + j, j)]),
            rtol=1e-6,
        )
    assert env.spec.name == "mpe/CN_3ls3l-fixed"
    chase = make_sit("PP_3p1p", visibility="fixed").game.observe(
        particles(points[:4], np.zeros((4, 2)))
    )
    np.testing.assert_allclose(chase[:, 4:6], points[[1, 2, 0]] - points[:3], rtol=1e-6)


def test_sit_prey_flees_from_the_nearest_predator():
    # predators idle, the nearest at (0.3, 0): the prey at 0 goes to -x, at 4 * 0.1 = 0.4 per unit
    # of time
    state = particles([(0.3, 0), (0, 0.9), (-0.9, 0), (0, 0)], np.zeros((4, 2)))
    after, _ = STEPS["mpe/PP_3p1p"](KEY, state, jnp.zeros(3, int))
    np.testing.assert_allclose(after.velocities[3], (-0.4, 0), atol=1e-6)
    np.testing.assert_allclose(after.positions[3], (-0.04, 0), atol=1e-6)


def test_sit_reward_of_predators():
    # idle predators at distance 1, 2, 3 of a prey that does not leave its corner; predators far
    # from each other
    state = particles([(0, 1), (-1, 1), (1, -2), (1, 1)], np.zeros((4, 2)))
    after, seen = STEPS["mpe/PP_3p1p"](KEY, state, jnp.zeros(3, int))
    np.testing.assert_array_equal(after.positions[3], (1, 1))
    np.testing.assert_array_equal(after.velocities[3], 0)  # the wall takes its speed
    assert float(seen.reward) == pytest.approx(-6)


def test_prey_speed_and_arena_are_what_is_asked():
    env = make_sit("PP_3p1p", prey_speed=0.2, arena=3.0)
    state = particles([(0, 0), (-5, 0), (-5, 5), (2.99, 0)], [(0, 0), (0, 0), (0, 0), (0.2, 0)])
    step = jax.jit(env.step)
    after, _ = step(
        KEY, state._replace(positions=state.positions.at[3, 0].set(2.0)), jnp.zeros(3, int)
    )
    np.testing.assert_allclose(after.positions[3], (2.02, 0), rtol=1e-6)
    after, _ = step(KEY, state, jnp.zeros(3, int))
    np.testing.assert_array_equal(after.positions[3], (3.0, 0))


@pytest.mark.parametrize(
    ("name", "expected"), [("CN_3ls3l", -157), ("CN_4ls4l", -242), ("PP_3p1p", -109)]
)
def test_sit_uniform_actions_return_what_is_documented(name, expected):
    env = make_sit(name)
    returns, _ = returns_of_uniform_actions(env, 2000)
    assert returns.mean() == pytest.approx(expected, rel=0.02)
