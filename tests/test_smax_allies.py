"""The script of SMAX's allies: what it foresees, whom it shoots, when it walks; and it wins."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff import registry
from jaxoff.data.dataset import validate
from jaxoff.data.recipes import random_policy
from jaxoff.data.worlds import needs_pool
from jaxoff.envs.smax import make_smax
from jaxoff.envs.smax.allies import _scene
from jaxoff.eval.rollout import evaluate
from jaxoff.names import DataOptions, Task
from jaxoff.types import TimeStep

KEY = jax.random.key(0)
UP, RIGHT, DOWN, LEFT, STOP, ATTACK = range(6)


@functools.cache
def start(name):
    env = make_smax(*name.split("/"))
    return env, jax.jit(env.reset)(KEY)[0]


def seen(name, positions, health=(), wait=(), targets=()) -> TimeStep:
    """A time step of a battle: units at positions [U, 2] and, but for {unit: value}, at full
    health, with loaded weapons and without a target (given by the number of its slot).
    """
    env, state = start(name)
    units = env.game.num_units
    points = np.array(state.state.unit_health)
    cooldown, last = np.zeros(units, np.float32), np.zeros(units, np.int32)
    for array, changes, shift in ((points, health, 0), (cooldown, wait, 0), (last, targets, 5)):
        for unit, value in dict(changes).items():
            array[unit] = value + shift
    battle = state.state.replace(
        unit_positions=jnp.asarray(positions, jnp.float32),
        unit_health=jnp.asarray(points),
        unit_alive=jnp.asarray(points > 0),
        unit_weapon_cooldowns=jnp.asarray(cooldown),
        prev_attack_actions=jnp.asarray(last),
    )
    no = jnp.zeros((), bool)
    return env._timestep(state.replace(state=battle), jnp.zeros(()), no, no, jnp.zeros(3))


@functools.cache
def script(name):
    return jax.jit(make_smax(*name.split("/")).script)


# three marines in a column, and three others in range of all of them
FACING = [(10, 15), (10, 16), (10, 17), (14, 15), (14, 16), (14, 17)]


def test_an_enemy_keeps_its_target_while_that_is_in_range_and_else_takes_the_closest():
    game = make_smax("smax", "3m").game
    # slots of enemies number the allies backwards: 2 is ally 0, 0 is ally 2
    at = list(FACING)
    at[5] = (14.95, 17)  # 5.3 from ally 0: out of range
    step = seen("smax/3m", at, targets={3: 0, 5: 2})
    aim = np.asarray(_scene(game, step.state).aim)
    np.testing.assert_array_equal(aim.argmax(1), [2, 1, 2])
    assert (aim.sum(1) == 1).all()
    away = seen("smax/3m", [(4, y) for y in (15, 16, 17)] + [(20, y) for y in (15, 16, 17)])
    assert not np.asarray(_scene(game, away.state).aim).any()


def test_allies_shoot_the_weakest_and_none_shoots_what_the_others_kill():
    # Enemy 1 has 18 points, two shots of 9: two allies kill it, and the third shoots another one.
    actions = np.asarray(script("smax/3m")(seen("smax/3m", FACING, health={4: 18})))
    assert sorted(actions == ATTACK + 1) == [False, True, True]
    assert (actions >= ATTACK).all()


def test_an_unready_ally_walks_out_of_the_range_of_a_shot_that_it_foresees():
    # Enemy 0 shoots ally 0 at a distance of 4.5 in .4 seconds, in which a marine walks 1.26: left,
    # away from it, to 5.76. Allies 1 and 2 are far away.
    at = [(10, 16), (3, 28), (3, 3), (14.5, 16), (29, 28), (29, 3)]
    shot = seen("smax/3m", at, wait={0: 0.6, 3: 0.4}, targets={3: 2})
    assert script("smax/3m")(shot)[0] == LEFT
    # A loaded weapon hits at once, wherever the ally walks; so it shoots as well.
    loaded = seen("smax/3m", at, targets={3: 2})
    assert script("smax/3m")(loaded)[0] == ATTACK


def test_the_dead_stop_and_nobody_walks_into_a_wall_that_kills():
    at = [(0.9, 16), (31, 31), (16, 31.1), (20, 2), (20, 4), (20, 6)]
    actions = np.asarray(script("smax/3m")(seen("smax/3m", at, health={1: 0})))
    assert actions[0] != LEFT and actions[1] == STOP and actions[2] != UP


def test_a_medivac_heals_the_most_injured_in_range():
    env = make_smax("smax-x", "MMM2")
    units = env.game.num_units
    at = [(8, 16)] + [(8 + i % 3, 14 + i // 3) for i in range(9)]
    at += [(28, 4 + i) for i in range(units - 10)]
    step = seen("smax-x/MMM2", at, health={2: 100, 4: 10})
    assert script("smax-x/MMM2")(step)[0] == ATTACK + 4


def test_scripted_data_need_no_pool_have_available_actions_and_win_where_random_ones_lose():
    env, task = make_smax("smax", "3m"), Task.parse("smax/3m/scripted")
    assert not needs_pool(task)
    episodes = registry.make_data(str(task), DataOptions(episodes=64))
    validate(episodes, env.spec)
    taken = np.take_along_axis(episodes.avail[:, :-1], episodes.actions[..., None], -1)[..., 0]
    assert (taken[episodes.filled] == 1).all()
    chance = jax.jit(
        lambda key: evaluate(env, random_policy(env.spec), key, 64, sampled=True)["won"].mean()
    )
    last = episodes.filled.sum(1)
    won = np.asarray(env.won(episodes.state[np.arange(64), last]))
    assert won.mean() > 0.6 and float(chance(KEY)) < 0.2
