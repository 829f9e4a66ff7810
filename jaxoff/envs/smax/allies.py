"""A scripted policy of the allies, which sees the whole battle: a teacher, and a maker of data.

Every step each ally weighs its actions by what they are worth over that step, and takes the best.
The enemies' script is known: an enemy shoots at the ally that it shot at before while that one is
in range, else at the closest in range, and only walks if nobody is. So the shots of a step can be
foretold, and so can those that an ally avoids by walking out of range. What is weighed, in shares
of a team's total health (times 100):

    damage     what an ally's own shot does, never more than its target has left after the shots of
               the allies before it (focused fire without overkill); a kill is worth more
    safety     minus the shots that hit the ally in this step, and, less, minus those that it
               would have to expect in the next one: reloading units keep away from short-ranged
               enemies, and hurt units retreat
    place      minus the way to the nearest enemy in range of its weapon, to the middle of the
               allies, to a line of all allies across the way to the enemies, and, where the map
               asks for it, to the nearest corner

A medivac's place is near the most injured ally, and its shots are its healing. How much each of
them weighs is a `Tactics` of the map.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.smax.units import Tactics
from jaxoff.types import Array, TimeStep

if TYPE_CHECKING:
    from jaxoff.envs.smax.battle import SMAXGame

# up, right, down, left, and no move
_MOVES = np.array([(0, 1), (1, 0), (0, -1), (-1, 0), (0, 0)], np.float32)
_STAY = len(_MOVES) - 1
_EDGE = 0.8  # nearer to a wall that kills no ally walks
_NEVER = -1e6


class _Scene(NamedTuple):
    """What the allies [N] and enemies [E] of one battle are up to."""

    health: Array  # [U]
    position: Array  # [U, 2]
    wait: Array  # [U] seconds until the weapon is ready
    aim: Array  # [E, N] bool: whom each enemy is about to shoot at


def make_script(game: SMAXGame, tactics: Tactics | None = None) -> Callable[[TimeStep], Array]:
    """The function that gives the allies' actions [..., N] at a time step with any leading axes."""
    weights = game.tactics if tactics is None else tactics

    def script(seen: TimeStep) -> Array:
        lead = seen.state.shape[:-1]
        flat = [x.reshape(-1, *x.shape[len(lead) :]) for x in (seen.state, seen.avail)]
        actions = jax.vmap(functools.partial(_actions, game, weights))(*flat)
        return actions.reshape(*lead, game.num_allies)

    return script


def _actions(game: SMAXGame, tactics: Tactics, state: Array, avail: Array) -> Array:
    """The allies' actions [N] in a global state [S], of those that are available [N, A]."""
    scene = _scene(game, state)
    places = _place(game, tactics, scene) - _danger(game, tactics, scene)  # [N, 5]
    return _choose(game, tactics, scene, places, avail)


def _scene(game: SMAXGame, state: Array) -> _Scene:
    n, units, battle = game.num_allies, game.num_units, game.battle
    health, position = game.health(state) * battle.max_health, game.positions(state)
    wait = state[3 * units : 4 * units] * battle.cooldown
    slot = jnp.rint(state[6 * units : 7 * units] * battle.last_slot).astype(jnp.int32)
    before = n - 1 - (slot[n:] - battle.num_movement_actions)  # the target of the last shot
    away = jnp.linalg.norm(position[n:, None] - position[None, :n], axis=-1)  # [E, N]
    reach = (away < battle.range[n:, None]) & (health[n:, None] > 0) & (health[:n] > 0)
    kept = (before[:, None] == jnp.arange(n)) & (slot[n:, None] >= battle.num_movement_actions)
    closest = jnp.argmin(jnp.where(reach, away, jnp.inf), 1)[:, None] == jnp.arange(n)
    aim = reach & jnp.where((reach & kept).any(1, keepdims=True), kept, closest)
    return _Scene(health, position, wait, aim)


def _danger(game: SMAXGame, tactics: Tactics, scene: _Scene) -> Array:
    """What the enemies' shots cost each ally after each of its moves [N, 5]."""
    n, battle = game.num_allies, game.battle
    step = battle.time_per_step * battle.world_steps_per_env_step
    damage, reach = battle.damage[n:], battle.range[n:]
    foes, live = scene.position[n:, None, None], scene.health[n:] > 0  # [E, 1, 1, 2], [E]

    def distance(seconds: Array | float) -> Array:  # [E, N, 5]
        way = _MOVES * (battle.speed[:n, None, None] * jnp.asarray(seconds)[..., None, None, None])
        return jnp.linalg.norm(scene.position[:n, None] + way - foes, axis=-1)

    # Shots of this step: an enemy's target may have left its range when its weapon is ready.
    wait = scene.wait[n:]
    fires = live & (wait < step - battle.time_per_step / 2)
    hit = scene.aim[..., None] & (distance(wait) < reach[:, None, None]) & fires[:, None, None]
    taken = jnp.einsum("eia,e->ia", hit.astype(jnp.float32), damage)
    # Shots of the next step: enemies that have nobody in range come nearer.
    walk = jnp.where(scene.aim.any(1), 0.0, battle.speed[n:] * step)
    far = distance(step) - walk[:, None, None]
    first = far[..., _STAY] <= jnp.where(scene.health[:n] > 0, far[..., _STAY], jnp.inf).min(
        1, keepdims=True
    )
    share = jnp.where(scene.aim | (first & ~scene.aim.any(1, keepdims=True)), 1.0, tactics.other)
    near = (far < reach[:, None, None]) & live[:, None, None]
    rate = damage * jnp.minimum(step / battle.cooldown[n:], 1.0)
    later = jnp.einsum("eia,ei,e->ia", near.astype(jnp.float32), share, rate)
    # An ally that will shoot in the next step too does not mind being shot at, unless it is hurt.
    health, most = scene.health[:n, None], battle.max_health[:n, None]
    idle = scene.wait[:n, None] >= 2.0 * step - battle.time_per_step / 2
    fear = tactics.later * idle + tactics.hurt * (1.0 - health / most)
    dies = (taken >= health) * tactics.death * most
    return 100.0 * (tactics.now * taken + fear * later + dies) / battle.max_health[:n].sum()


def _place(game: SMAXGame, tactics: Tactics, scene: _Scene) -> Array:
    """What each ally's place is worth after each of its moves [N, 5]."""
    n, battle = game.num_allies, game.battle
    step = battle.time_per_step * battle.world_steps_per_env_step
    there = scene.position[:n, None] + _MOVES * (battle.speed[:n, None, None] * step)  # [N, 5, 2]
    live, heals = scene.health > 0, (battle.heal[:n] > 0)[:, None]
    away = jnp.linalg.norm(there[:, :, None] - scene.position, axis=-1)  # [N, 5, U]
    nearest = jnp.where(live[n:], away[..., n:], jnp.inf).min(-1)
    least = jnp.where(live, scene.health / battle.max_health, jnp.inf)[:n]
    others = jnp.where(np.eye(n, dtype=bool), jnp.inf, least)
    patient = jnp.take_along_axis(away, others.argmin(1)[:, None, None], -1)[..., 0]
    gap = jnp.maximum(
        jnp.where(heals, patient, nearest) - tactics.ratio * battle.range[:n, None], 0.0
    )
    seen = nearest[:, _STAY:] < battle.sight[:n, None]
    gap = gap * jnp.where(seen | heals, tactics.approach, tactics.advance)
    middle = (scene.position[:n] * live[:n, None]).sum(0) / jnp.maximum(live[:n].sum(), 1)
    crowd = jnp.linalg.norm(there - middle, axis=-1)
    corner = jnp.linalg.norm(jnp.minimum(there, battle.size - there), axis=-1)
    # how far an ally is ahead of the others or behind them, seen from the middle of the enemies
    theirs = (scene.position[n:] * live[n:, None]).sum(0) / jnp.maximum(live[n:].sum(), 1)
    ahead = theirs - middle
    rank = jnp.abs((there - middle) @ ahead) / (jnp.linalg.norm(ahead) + 1e-6)
    worth = -gap - tactics.group * crowd - tactics.rank * rank - tactics.corner * corner
    if battle.walls_cause_death:
        margin = jnp.minimum(there, battle.size - there).min(-1)
        worth = jnp.where(margin < _EDGE, worth - 100.0, worth)
    return worth


def _choose(game: SMAXGame, tactics: Tactics, scene: _Scene, places: Array, avail: Array) -> Array:
    """One ally after the other takes its best action; each knows the shots of those before it."""
    n, battle = game.num_allies, game.battle
    step = battle.time_per_step * battle.world_steps_per_env_step
    loads = scene.wait[:n] < step - battle.time_per_step / 2
    common = avail[:, len(_MOVES) :].mean(0)  # share of the allies that reach each enemy
    foes = battle.max_health[n:].sum()

    def one(left: Array, ally: tuple[Array, ...]) -> tuple[Array, Array]:
        place, can, damage, heals, ready = ally
        # enemies that earlier allies kill already are worth nothing
        done = jnp.minimum(damage, left)
        kills = (damage >= left) & (left > 0)
        worth = done + tactics.kill * kills * battle.max_health[n:]
        weak = 1.0 - left / battle.max_health[n:].max()
        worth = worth + tactics.focus * (left > 0) * (weak + common)
        worth = jnp.where(ready, 100.0, 10.0) * worth / foes
        lack = (battle.max_health - scene.health)[:n]
        heal = 100.0 * jnp.minimum(lack, battle.heal[:n].max() * step) / battle.max_health[:n].sum()
        heal = heal * (1.0 + lack / battle.max_health[:n])
        heal = jnp.pad(heal, (0, max(0, len(worth) - n)))[: len(worth)]
        shot = place[_STAY] + jnp.where(heals, heal, worth)
        value = jnp.where(can > 0, jnp.concatenate([place, shot]), _NEVER)
        action = jnp.argmax(value)
        hits = (jnp.arange(len(left)) == action - len(_MOVES)) & ready & ~heals
        return jnp.maximum(left - hits * damage, 0.0), action

    allies = (places, avail, battle.damage[:n], battle.heal[:n] > 0, loads)
    return jax.lax.scan(one, scene.health[n:], tuple(map(jnp.asarray, allies)))[1]
