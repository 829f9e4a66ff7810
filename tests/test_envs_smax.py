"""SMAX: equal to JaxMARL's step by step, exact horizons and ends, both rewards, and the rules of
the extra maps.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxmarl.environments.smax import SMAX, HeuristicEnemySMAX, map_name_to_scenario

from jaxoff.envs.smax import FAMILIES, MAPS, X_MAPS, make_smax, smax_spec
from jaxoff.envs.smax.battle import Battle
from jaxoff.envs.smax.units import X_UNITS
from jaxoff.names import UnknownName

KEY = jax.random.key(0)
UP, RIGHT, DOWN, LEFT, STOP, ATTACK = range(6)
COPIES, STEPS = 4, 40
PLAYED = [
    "smax/3m",
    "smax/2s3z",
    "smax/3s_vs_5z",
    "smax-x/1c3s5z",
    "smax-x/2s_vs_1sc",
    "smax-x/corridor",
    "smax-x/MMM2",
]


def env_of(name):
    return make_smax(*name.split("/"))


@functools.cache
def player(name):
    """Legal random play that leans towards the enemy and to attacks, [COPIES, STEPS] of everything,
    with no end.
    """
    env = env_of(name)

    def act(carry, key):
        state, seen = carry
        action_key, step_key = jax.random.split(key)
        taste = jnp.zeros(env.spec.action_size).at[RIGHT].set(2.0).at[ATTACK:].set(3.0)
        actions = jax.random.categorical(action_key, jnp.where(seen.avail > 0, taste, -jnp.inf))
        new = env.step(step_key, state, actions)
        return new, (state, jax.random.key_data(step_key), actions, new)

    def episode(key):
        return jax.lax.scan(act, env.reset(key), jax.random.split(key, STEPS))[1]

    return jax.jit(jax.vmap(episode))


@functools.cache
def played(name):
    return jax.tree.map(
        np.asarray, jax.device_get(player(name)(jax.random.split(jax.random.key(1), COPIES)))
    )


@functools.cache
def start(name):
    """A first state of a battle (both teams), and its environment."""
    env = env_of(name)
    return env, jax.jit(env.reset)(KEY)[0]


def place(name, positions=(), health=()):
    """A state of the battle with units apart from each other and everybody at full health, but for
    {unit: value}.
    """
    env, state = start(name)
    far = jnp.array([[2.0 + 4 * (i % 7), 2.0 + 4 * (i // 7)] for i in range(env.game.num_units)])
    at, points = far, state.state.unit_health
    for unit, value in dict(positions).items():
        at = at.at[unit].set(jnp.array(value))
    for unit, value in dict(health).items():
        points = points.at[unit].set(value)
    return state.state.replace(unit_positions=at, unit_health=points, unit_alive=points > 0)


@functools.cache
def advance(name):
    return jax.jit(env_of(name).game.battle.advance)


def after(name, state, actions=()):
    """The battle one step later; units stop but for {unit: action}."""
    joint = np.full(len(state.unit_health), STOP)
    for unit, action in dict(actions).items():
        joint[unit] = action
    return advance(name)(KEY, state, jnp.array(joint))


# ------------------------------------------------------------------------------------------- makers


def test_stock_numbers_and_maps_are_those_of_jaxmarl():
    stock = SMAX()
    ours = Battle(MAPS["3m"])
    assert (ours.unit_type_names, ours.unit_type_shorthands) == (
        stock.unit_type_names,
        stock.unit_type_shorthands,
    )
    for name in (
        "velocities",
        "attacks",
        "attack_ranges",
        "sight_ranges",
        "radiuses",
        "health",
        "weapon_cooldowns",
    ):
        np.testing.assert_array_equal(
            getattr(ours, f"unit_type_{name}"), getattr(stock, f"unit_type_{name}")
        )
    for name, battle in MAPS.items():
        scenario = map_name_to_scenario(name)
        np.testing.assert_array_equal(battle.allies + battle.enemies, scenario.unit_types)
        assert len(battle.allies) == scenario.num_allies


def test_step_limits_are_those_of_smac():
    limits = {name: battle.limit for maps in FAMILIES.values() for name, battle in maps.items()}
    papers = {
        "3m": 60,
        "5m_vs_6m": 70,
        "8m": 120,
        "2s3z": 120,
        "6h_vs_8z": 150,
        "10m_vs_11m": 150,
        "3s_vs_5z": 250,
    }
    others = {"25m": 150, "3s5z": 150, "3s5z_vs_3s6z": 170, "27m_vs_30m": 180}
    extra = {"1c3s5z": 180, "2s_vs_1sc": 300, "corridor": 400, "MMM2": 180}
    assert limits == papers | others | extra


def test_spec_of_3m():
    spec = make_smax("smax", "3m").spec
    assert (spec.name, spec.num_agents, spec.obs_size, spec.action_size, spec.horizon) == (
        "smax/3m",
        3,
        75,
        8,
        60,
    )
    assert spec.state_size == 6 * (7 + 6)
    assert spec.discrete and spec.return_scale[:2] == (0.0, 20.0)


def test_specs_need_no_simulator_and_have_its_sizes():
    for family, maps in FAMILIES.items():
        for name in maps:
            spec, battle = smax_spec(family, name), make_smax(family, name).game.battle
            sizes = (battle.num_allies, battle.obs_size, battle.num_ally_actions)
            assert (spec.num_agents, spec.obs_size, spec.action_size) == sizes


def test_agents_of_one_kind_have_one_type():
    assert make_smax("smax", "2s3z").spec.agent_types == (2, 2, 3, 3, 3)


def test_one_object_for_one_battle():
    assert make_smax("smax", "3m") is make_smax("smax", map_name="3m", reward="x10")
    assert make_smax("smax", "3m") is not make_smax("smax", "3m", "smac")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smax", "3n"), "unknown map '3n'; nearest: .*3m"),
        (("smax", "corridor"), "unknown map 'corridor'"),  # it is one of smax-x
        (("smacs", "3m"), "unknown family 'smacs'; nearest: .*smax"),
        (("smax", "3m", "x1"), "unknown reward 'x1'; nearest: x10"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(UnknownName, match=message):
        make_smax(*arguments)


# ----------------------------------------------------------------------------- equality with
# JaxMARL


def test_every_step_equals_jaxmarl_with_its_own_keys():
    env = env_of("smax/2s3z")
    stock = HeuristicEnemySMAX(
        scenario=map_name_to_scenario("2s3z"), max_steps=env.spec.horizon - 1
    )

    @jax.jit
    @jax.vmap
    def step(state, key, actions):
        key = jax.random.wrap_key_data(key)
        obs, state, reward, done, _ = stock.step_env(
            key, state, {agent: actions[i] for i, agent in enumerate(stock.agents)}
        )
        mask = stock.get_avail_actions(state)
        return (
            state,
            [jnp.stack([x[a] for a in stock.agents]) for x in (obs, mask)],
            reward["ally_0"],
            done["__all__"],
        )

    state, key, actions, (new, seen) = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), played("smax/2s3z")
    )
    expected, (obs, mask), reward, done = step(state, key, actions)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=3e-5), new, expected)
    np.testing.assert_allclose(seen.obs, obs, atol=3e-6)
    np.testing.assert_array_equal(seen.avail, mask)
    np.testing.assert_allclose(seen.reward, 10 * reward, atol=1e-6)
    np.testing.assert_array_equal(seen.terminated | seen.truncated, done)
    assert seen.reward.max() > 0 and (new.state.unit_health == 0).any()  # there was a fight


def test_first_observation_equals_jaxmarl():
    env = env_of("smax/2s3z")
    stock = HeuristicEnemySMAX(scenario=map_name_to_scenario("2s3z"))
    expected, _ = stock.reset(KEY)
    _, first = jax.jit(env.reset)(KEY)
    np.testing.assert_allclose(
        first.obs, np.stack([expected[agent] for agent in stock.agents]), atol=1e-6
    )


# ---------------------------------------------------------------------------------- playing every
# map


@pytest.mark.parametrize("name", PLAYED)
def test_legal_play_gives_what_the_spec_says(name):
    env = env_of(name)
    _, _, _, (new, seen) = played(name)
    n, spec = env.spec.num_agents, env.spec
    assert seen.obs.shape == (COPIES, STEPS, n, spec.obs_size) and seen.obs.dtype == np.float32
    assert seen.state.shape == (COPIES, STEPS, spec.state_size) and seen.state.dtype == np.float32
    assert (
        seen.avail.shape == (COPIES, STEPS, n, spec.action_size) and seen.avail.dtype == np.float32
    )
    assert np.isfinite(seen.obs).all() and np.abs(seen.state).max() <= 1.0 + 1e-6
    assert (seen.reward >= 0).all()
    # The global state holds what the battle does.
    alive = new.state.unit_alive
    full = np.array([env.game.battle.max_health])
    np.testing.assert_allclose(env.game.health(seen.state), new.state.unit_health / full, atol=1e-6)
    np.testing.assert_allclose(
        env.game.positions(seen.state)[alive], new.state.unit_positions[alive], atol=1e-5
    )
    np.testing.assert_array_equal(
        env.won(seen.state), ~alive[..., n:].any(-1) & alive[..., :n].any(-1)
    )
    np.testing.assert_array_equal(
        seen.terminated, ~alive[..., n:].any(-1) | ~alive[..., :n].any(-1)
    )


@pytest.mark.parametrize("name", ["smax/3m", "smax-x/corridor"])
def test_the_dead_may_only_stop_and_the_living_may_move(name):
    _, _, _, (new, seen) = played(name)
    alive = new.state.unit_alive[..., : env_of(name).spec.num_agents]
    assert (~alive).any() and alive.any()
    only_stop = np.eye(seen.avail.shape[-1], dtype=np.float32)[STOP]
    np.testing.assert_array_equal(
        seen.avail[~alive], np.broadcast_to(only_stop, seen.avail[~alive].shape)
    )
    assert (seen.avail[alive][:, :ATTACK] == 1).all()


def test_same_key_same_trajectory():
    again = player("smax/3m")(jax.random.split(jax.random.key(1), COPIES))
    jax.tree.map(np.testing.assert_array_equal, played("smax/3m")[2:], jax.device_get(again)[2:])
    other = player("smax/3m")(jax.random.split(jax.random.key(2), COPIES))
    assert not np.array_equal(other[2], again[2])


def test_jit_equals_no_jit():
    # Without the script, whose hundreds of operations are the same functions either way.
    env, state = start("smax/3m")
    actions = jnp.array([RIGHT, UP, ATTACK, LEFT, LEFT, STOP])
    plain = env.game.battle.advance(KEY, state.state, actions)
    jitted = advance("smax/3m")(KEY, state.state, actions)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), plain, jitted)


def test_units_keep_their_order_beyond_ten(monkeypatch):
    # by name, ally_10 would come before ally_2, and enemy_10 before enemy_2
    env, state = start("smax/25m")
    game = env.game
    joint = jnp.arange(50)
    monkeypatch.setattr(game, "enemy_actions", lambda key, now: (joint[25:], None))
    monkeypatch.setattr(
        game.battle,
        "advance",
        lambda key, battle, actions: battle.replace(prev_attack_actions=actions),
    )
    new, *_ = jax.jit(lambda actions: game.move(KEY, state, actions))(joint[:25])
    np.testing.assert_array_equal(new.state.prev_attack_actions, joint)
    _, first = jax.jit(env.reset)(KEY)
    # after own health, before own cooldown and the six types
    np.testing.assert_allclose(first.obs[:, -9:-7] * 32, state.state.unit_positions[:25], atol=1e-5)


# ------------------------------------------------------------------------------------ ends and wins


def test_an_episode_lasts_exactly_its_horizon():
    # The spine crawler cannot come, and two stalkers that stop never meet it.
    env = env_of("smax-x/2s_vs_1sc")

    def stop(state, key):
        state, seen = env.step(key, state, jnp.full(2, STOP))
        return state, (seen.terminated, seen.truncated)

    _, (terminated, truncated) = jax.jit(
        lambda key: jax.lax.scan(stop, env.reset(key)[0], jax.random.split(key, 301))
    )(KEY)
    assert not terminated.any()
    assert int(jnp.argmax(truncated)) + 1 == env.spec.horizon == 300


def test_what_ends_an_episode_and_what_wins_it():
    env, state = start("smax/3m")
    kill = lambda units: jnp.array([0.0 if i in units else 45.0 for i in range(6)])
    cases = [  # dead units, steps made before -> terminated, truncated, won
        ((), 58, (False, False, False)),
        ((), 59, (False, True, False)),
        ((0, 1, 3, 4), 59, (False, True, False)),
        ((0, 1, 2), 5, (True, False, False)),
        ((3, 4, 5), 5, (True, False, True)),
        ((0, 1, 2, 3, 4, 5), 5, (True, False, False)),  # a draw is no win
        ((0, 1, 2), 59, (True, False, False)),
        ((3, 4, 5), 59, (True, False, True)),
    ]
    health = jnp.stack([kill(dead) for dead, _, _ in cases])
    made = jnp.array([steps for _, steps, _ in cases])

    def step(health, made):
        battle = state.state.replace(unit_health=health, unit_alive=health > 0, step=made)
        return env.step(KEY, state.replace(state=battle), jnp.full(3, STOP))

    new, seen = jax.jit(jax.vmap(step))(health, made)
    # JaxMARL's own flag agrees
    np.testing.assert_array_equal(new.state.done, seen.terminated | seen.truncated)
    found = list(
        zip(
            seen.terminated.tolist(),
            seen.truncated.tolist(),
            env.won(seen.state).tolist(),
            strict=True,
        )
    )
    assert found == [expected for _, _, expected in cases]


def test_won_works_on_recorded_arrays_of_any_leading_shape():
    env = env_of("smax/3m")
    states = np.zeros((2, 2, env.spec.state_size), np.float32)
    states[0, 0, 1] = 0.1  # an ally with a tenth of its health, no enemy
    states[0, 1, [1, 4]] = 0.1  # and an enemy
    states[1, 0, 4] = 0.1  # only an enemy
    won = env.won(states)
    assert isinstance(won, np.ndarray)
    assert won.tolist() == [[True, False], [False, False]]  # the last: all dead, a draw
    np.testing.assert_array_equal(env.won(jnp.asarray(states)), won)


# ------------------------------------------------------------------------------------------ rewards


def smac_reward(before, after, n, most):
    """SMAC's, scaled to 20, from health of all units before and after: unit by unit."""
    total = 0.0
    for unit in range(n, len(before)):
        total += max(before[unit] - after[unit], 0.0)
        total += 10.0 if before[unit] > 0 and after[unit] <= 0 else 0.0
    if all(after[n:] <= 0) and any(after[:n] > 0):
        total += 200.0
    return total * 20.0 / (sum(most[n:]) + 10.0 * (len(before) - n) + 200.0)


def x10_reward(before, after, n, most):
    lost = [max(before[i] - after[i], 0.0) / most[i] for i in range(n, len(before))]
    return 10.0 * (sum(lost) / len(lost) + (all(after[n:] <= 0) and any(after[:n] > 0)))


@pytest.mark.parametrize(("reward", "reference"), [("x10", x10_reward), ("smac", smac_reward)])
def test_rewards_equal_a_count_over_recorded_health(reward, reference):
    game = make_smax("smax", "2s3z", reward).game
    most = np.array([160, 160, 150, 150, 150] * 2, float)
    state, _, _, (new, seen) = played("smax/2s3z")
    before = state.state.unit_health.reshape(-1, 10)
    after = new.state.unit_health.reshape(-1, 10)
    ends = np.zeros((3, 10), np.float32)  # all enemies die at once: a win, a draw, and all but one
    ends[0, 3], ends[2, 3], ends[2, 7] = 20, 20, 1
    before, after = np.concatenate([before, np.tile(most, (3, 1))]), np.concatenate([after, ends])
    expected = [reference(b, a, 5, most) for b, a in zip(before, after, strict=True)]
    found = jax.vmap(game.team_reward)(jnp.float32(before), jnp.float32(after))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if reward == "x10":
        np.testing.assert_allclose(seen.reward.reshape(-1), expected[:-3], rtol=1e-5, atol=1e-6)
    assert ((before[:, 5:] > 0) & (after[:, 5:] == 0)).any(0).all()  # kills are among them


@pytest.mark.parametrize("reward", ["x10", "smac"])
def test_the_best_return_is_20(reward):
    game = make_smax("smax", "3m", reward).game
    full, dead = jnp.full(6, 45.0), jnp.array([45.0, 0, 0, 0, 0, 0])
    assert float(game.team_reward(full, dead)) == pytest.approx(20.0)
    half = jnp.array([45.0, 45, 45, 20, 20, 20])
    parts = game.team_reward(full, half) + game.team_reward(half, dead)
    assert float(parts) == pytest.approx(20.0)


def test_smac_reward_without_a_win_is_at_most_165_parts_of_365_on_3m():
    game = make_smax("smax", "3m", "smac").game
    # 135 health + 30 for three kills, and everybody dies: 165 x 20 / (135 + 30 + 200)
    assert float(game.team_reward(jnp.full(6, 45.0), jnp.zeros(6))) == pytest.approx(165 * 20 / 365)


@pytest.mark.parametrize(
    "name",
    [
        "smax/3m",
        "smax/2s3z",
        "smax/3s_vs_5z",
        "smax-x/1c3s5z",
        "smax-x/2s_vs_1sc",
        "smax-x/corridor",
    ],
)
def test_returns_are_at_most_20(name):
    seen = played(name)[3][1]
    over = np.cumsum(seen.terminated, 1) - seen.terminated > 0
    assert np.where(over, 0, seen.reward).sum(1).max() <= 20.0


@pytest.mark.parametrize("reward", ["x10", "smac"])
def test_healing_an_enemy_neither_pays_nor_costs(reward):
    game = make_smax("smax-x", "MMM2", reward).game
    before = jnp.asarray(game.battle.max_health).at[20:].set(10.0)
    assert float(game.team_reward(before, before.at[20].set(16.0))) == 0.0
    hurt = before.at[21].set(6.0)
    assert (
        float(game.team_reward(before, hurt.at[20].set(16.0)))
        == float(game.team_reward(before, hurt))
        > 0.0
    )


# ------------------------------------------------------------------------------------ rules of
# battle


def test_an_illegal_attack_does_nothing():
    state = place("smax/3m", {0: (4, 4), 3: (28, 28)})
    mask = env_of("smax/3m").game.battle.ally_actions(state)
    assert mask[0, ATTACK] == 0
    new = after("smax/3m", state, {0: ATTACK})
    np.testing.assert_array_equal(new.unit_health, state.unit_health)
    np.testing.assert_array_equal(new.unit_positions, state.unit_positions)


def test_a_legal_attack_hits_the_named_enemy():
    state = place("smax/3m", {0: (4, 20), 4: (8, 20), 3: (28, 28)})
    assert env_of("smax/3m").game.battle.ally_actions(state)[0].tolist() == [1, 1, 1, 1, 1, 0, 1, 0]
    # one shot of 9 at once; the next comes 0.61 s later at the least
    assert after("smax/3m", state, {0: ATTACK + 1}).unit_health.tolist() == [45, 45, 45, 45, 36, 45]


def test_enemies_count_their_targets_backwards():
    state = place("smax/3m", {0: (4, 20), 4: (8, 20)})
    # ally 0 is the last of the enemies' three targets
    assert after("smax/3m", state, {4: ATTACK + 2}).unit_health.tolist() == [36, 45, 45, 45, 45, 45]


def test_stock_walls_kill():
    new = after("smax/3m", place("smax/3m", {0: (0.5, 16)}), {0: LEFT})
    assert not new.unit_alive[0] and new.unit_alive[1:].all()


def test_corridor_walls_are_harmless_and_hold_units_back():
    name = "smax-x/corridor"
    # two zealots (radius 0.5) overlap at the left wall, and both want out; two in the upper right
    # corner
    state = place(name, {0: (0.1, 16), 1: (0.4, 16), 2: (31.9, 31.9), 3: (31.5, 31.5)})
    new = after(name, state, {0: LEFT, 1: LEFT, 2: UP, 3: RIGHT})
    assert new.unit_alive.all() and (new.unit_health == state.unit_health).all()
    assert (new.unit_positions >= 0).all() and (new.unit_positions <= 32).all()
    assert new.unit_positions[0, 0] == 0.0


def test_corridor_and_crawler_numbers():
    assert (X_UNITS[3].damage, X_UNITS[4].range, X_UNITS[4].damage) == (16, 1.2, 5)
    stalker = X_MAPS["2s_vs_1sc"].units[2]
    assert (stalker.damage, stalker.cooldown) == (18, 1.34)
    assert X_MAPS["1c3s5z"].units[2].damage == 13


def test_a_spine_crawler_is_never_moved():
    name = "smax-x/2s_vs_1sc"
    state = place(name, {0: (24, 16), 1: (8, 8), 2: (24.3, 16)})  # a stalker stands in the crawler
    new = after(name, state, {2: RIGHT})
    np.testing.assert_array_equal(new.unit_positions[2], state.unit_positions[2])
    # radii 0.625 + 0.875: the stalker is pushed out, all but a remainder that halves each time
    assert float(jnp.linalg.norm(new.unit_positions[0] - new.unit_positions[2])) > 1.4
    everywhere = played(name)[3][0].state.unit_positions[:, :, 2]
    assert (everywhere == everywhere[:, :1]).all()


# of MMM2: allies 0 medivac, 1-2 marauders, 3-9 marines; enemies 10, 11-13, 14-21
MEDIVAC, ENEMY_MEDIVAC = 0, 10


def test_a_medivac_heals_the_named_ally_at_its_rate():
    state = place("smax-x/MMM2", {MEDIVAC: (16, 28), 4: (18, 28), 5: (16, 26)}, {4: 20.0, 5: 20.0})
    new = after("smax-x/MMM2", state, {MEDIVAC: ATTACK + 4})
    # 12.6 health a second for half a second
    np.testing.assert_allclose(new.unit_health[jnp.array([4, 5])], [26.3, 20.0], rtol=1e-6)


def test_a_medivac_never_heals_above_the_most():
    state = place("smax-x/MMM2", {MEDIVAC: (16, 28), 4: (18, 28)}, {4: 44.0})
    assert float(after("smax-x/MMM2", state, {MEDIVAC: ATTACK + 4}).unit_health[4]) == 45.0


@pytest.mark.parametrize(
    ("patient", "where", "points"),
    [(4, (21, 28), 20.0), (4, (18, 28), 0.0), (MEDIVAC, (16, 28), 20.0)],
    ids=["out of range", "dead", "itself"],
)
def test_a_medivac_does_not_heal(patient, where, points):
    state = place("smax-x/MMM2", {MEDIVAC: (16, 28), patient: where}, {patient: points})
    assert env_of("smax-x/MMM2").game.battle.ally_actions(state)[MEDIVAC, ATTACK + patient] == 0
    assert (
        float(after("smax-x/MMM2", state, {MEDIVAC: ATTACK + patient}).unit_health[patient])
        == points
    )


def test_a_medivac_hurts_nobody_and_its_slots_are_allies():
    # ally 4 and enemies 11 and 14 in range (4) of the medivac; the slot of enemy 14 is the slot of
    # ally 4
    state = place("smax-x/MMM2", {MEDIVAC: (16, 28), 4: (18, 28), 11: (14, 28), 14: (16, 30)})
    assert env_of("smax-x/MMM2").game.battle.ally_actions(state)[MEDIVAC, ATTACK:].tolist() == [
        0,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]
    new = after("smax-x/MMM2", state, {MEDIVAC: ATTACK + 4})
    np.testing.assert_array_equal(new.unit_health, state.unit_health)


def test_an_enemy_medivac_heals_the_most_injured_in_range_whatever_its_script_does():
    # enemies 14 (20 of 45) and 11 (100 of 125) are in range, 15 (1 of 45) is not
    state = place(
        "smax-x/MMM2",
        {ENEMY_MEDIVAC: (16, 28), 14: (18, 28), 11: (14, 28), 15: (22, 28)},
        {14: 20.0, 11: 100.0, 15: 1.0},
    )
    new = after("smax-x/MMM2", state)
    np.testing.assert_allclose(
        new.unit_health[jnp.array([14, 11, 15])], [26.3, 100.0, 1.0], rtol=1e-6
    )


def test_medivacs_fly_and_may_be_shot():
    # the medivac hovers over an enemy marine, which shoots it: nobody is pushed. Ally 0 is the last
    # of ten targets.
    state = place("smax-x/MMM2", {MEDIVAC: (16, 28), 14: (16.1, 28)})
    new = after("smax-x/MMM2", state, {14: ATTACK + 9})
    np.testing.assert_array_equal(new.unit_positions, state.unit_positions)
    assert float(new.unit_health[MEDIVAC]) == 150 - 9
