"""A battle of SMAX: JaxMARL's simulator on whole arrays, and the game that the allies play in it.

Importing this module imports JaxMARL; `make_smax` does so when it makes a battle.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.base import Game
from jaxoff.envs.from_jaxmarl import quiet_import
from jaxoff.envs.smax.units import BEST, KILL, WIN, Map
from jaxoff.runtime import needs
from jaxoff.types import Array, Key

with needs("smax"), quiet_import():
    from jaxmarl.environments.smax import Scenario, heuristic_enemy
    from jaxmarl.environments.smax.heuristic_enemy_smax_env import State as EnemyState
    from jaxmarl.environments.smax.smax_env import SMAX


class Battle(SMAX):
    """JaxMARL's SMAX on one of our maps, with actions of both teams: the same values, computed on
    whole arrays.

    Every unit's type is fixed by the map, so per-unit numbers are constants here; U units, allies
    first. Differs from JaxMARL: a unit of speed 0 is never pushed; walls that do not kill hold
    units back; flying units collide with nobody. A medivac heals instead of shooting, 12.6 health
    per second while its target is injured and in range, never above the target's maximum, and
    cannot heal itself. For an ally medivac action 5 + j means "heal ally j"; an enemy medivac,
    whatever its script does, heals the most injured unit of its team in range (the one with the
    lowest health fraction).
    """

    def __init__(self, battle: Map) -> None:
        units = battle.units
        types = np.array(battle.allies + battle.enemies, np.uint8)
        column = lambda name: np.array([getattr(unit, name) for unit in units], np.float32)
        super().__init__(
            scenario=Scenario(
                jnp.asarray(types), len(battle.allies), len(battle.enemies), False, False
            ),
            unit_type_names=[unit.name for unit in units],
            unit_type_shorthands=[unit.shorthand for unit in units],
            unit_type_velocities=jnp.asarray(column("speed")),
            unit_type_attacks=jnp.asarray(column("damage")),
            unit_type_attack_ranges=jnp.asarray(column("range")),
            unit_type_sight_ranges=jnp.asarray(column("sight")),
            unit_type_radiuses=jnp.asarray(column("radius")),
            unit_type_health=jnp.asarray(column("health")),
            unit_type_weapon_cooldowns=jnp.asarray(column("cooldown")),
            walls_cause_death=battle.walls_kill,
            max_steps=battle.limit - 1,  # JaxMARL tests the counter before it counts
        )
        (
            self.max_health,
            self.damage,
            self.range,
            self.sight,
            self.speed,
            self.cooldown,
            self.heal,
        ) = (
            column(name)[types]
            for name in ("health", "damage", "range", "sight", "speed", "cooldown", "heal")
        )
        self.kind = np.eye(len(units), dtype=np.float32)[types]
        self.size = np.array([self.map_width, self.map_height], np.float32)
        self.is_ally = np.arange(self.num_agents) < self.num_allies
        self.last_slot = np.where(
            self.is_ally, self.num_ally_actions - 1, self.num_enemy_actions - 1
        ).astype(np.float32)
        ground = ~np.array([unit.flies for unit in units])[types]
        radius = column("radius")[types]
        # least distance [U, U] between ground units
        self.apart = np.where(ground[:, None] & ground, radius[:, None] + radius, 0.0).astype(
            np.float32
        )
        self.others = np.array(
            [  # the other units in the order of the observation: the unit's own team first
                [j for j in range(self.num_agents)[:: 1 if i < self.num_allies else -1] if j != i]
                for i in range(self.num_agents)
            ]
        )

    def advance(self, key: Key, state: Any, actions: Array) -> Any:
        """The state after one step of half a second, with actions [U] int of both teams."""
        moves, attacks = self._decode_discrete_actions(actions)
        units = jnp.arange(self.num_agents)
        slot = attacks - self.num_movement_actions
        # the slots of enemies number their targets backwards
        target = jnp.where(self.is_ally, self.num_allies + slot, self.num_allies - 1 - slot)
        aims = (slot >= 0)[:, None] & (target[:, None] == units)  # [U, U] whom each unit shoots at
        healers = self.is_ally & (self.heal > 0)
        tends = (healers & (slot >= 0))[:, None] & (slot[:, None] == units) & self.is_ally
        jitter = self._jitter(key)

        def substep(carry: Any, jitter: Array) -> tuple[Any, None]:
            position, health, cooldown, alive = carry
            # [U, U] row unit is close enough to act on column unit, and both are alive
            reach = (_distances(position) < self.range[:, None]) & alive[:, None] & alive
            hits = aims & reach & (cooldown <= 0.0)[:, None] & (self.damage > 0.0)[:, None]
            fires = jnp.any(hits, 1)
            cooldown = cooldown + jnp.where(
                fires, self.cooldown + jitter - cooldown, -self.time_per_step
            )
            health = jnp.maximum(
                health - jnp.sum(jnp.where(hits, self.damage[:, None], 0.0), 0), 0.0
            )
            if self.heal.any():
                health = self._healed(health, reach, tends)
            moved = jnp.clip(
                position + moves * self.speed[:, None] * self.time_per_step, 0.0, self.size
            )
            position = jnp.where(alive[:, None], moved, position)
            if self.walls_cause_death:
                health = jnp.where(
                    jnp.any((position <= 0.0) | (position >= self.size), -1), 0.0, health
                )
            alive = health > 0.0
            return (self._pushed(position, alive), health, cooldown, alive), None

        start = (
            state.unit_positions,
            state.unit_health,
            state.unit_weapon_cooldowns,
            state.unit_alive,
        )
        (position, health, cooldown, alive), _ = jax.lax.scan(substep, start, jitter)
        return state.replace(
            unit_positions=position,
            unit_health=health,
            unit_weapon_cooldowns=cooldown,
            unit_alive=alive,
            prev_movement_actions=moves,
            prev_attack_actions=attacks,
            done=self.is_terminal(state.replace(unit_alive=alive)),
            step=state.step + 1,
        )

    def _jitter(self, key: Key) -> Array:
        """Random part of each shot's cooldown [substeps, U], with keys split in JaxMARL's order."""

        def split(key: Key, _: None) -> tuple[Key, Key]:
            key, now = jax.random.split(key)
            return key, now

        _, keys = jax.lax.scan(split, key, None, length=self.world_steps_per_env_step)
        draw = functools.partial(
            jax.random.uniform, minval=-self.time_per_step, maxval=2 * self.time_per_step
        )
        return jax.vmap(lambda key: jax.vmap(draw)(jax.random.split(key, self.num_agents)))(keys)

    def _healed(self, health: Array, reach: Array, tends: Array) -> Array:
        """Health [U] after the medivacs have healed for one substep; dead units stay dead."""
        other = ~np.eye(self.num_agents, dtype=bool)
        injured = (health > 0.0) & (health < self.max_health)
        # [U, U] units that an enemy medivac may heal
        own = (~self.is_ally & (self.heal > 0))[:, None] & ~self.is_ally & other & reach & injured
        worst = jnp.argmin(jnp.where(own, health / self.max_health, jnp.inf), 1)
        own = own & (worst[:, None] == jnp.arange(self.num_agents))
        gain = jnp.sum(
            jnp.where((tends & other & reach) | own, self.heal[:, None] * self.time_per_step, 0.0),
            0,
        )
        return jnp.where(injured, jnp.minimum(health + gain, self.max_health), health)

    def _pushed(self, position: Array, alive: Array) -> Array:
        """Positions [U, 2] after units that overlap have pushed each other half of the way
        apart.
        """
        x, y = position[:, 0], position[:, 1]
        # One array per coordinate: a last axis of two is slow on a CPU.
        away_x, away_y = x[:, None] - x, y[:, None] - y
        overlap = jax.nn.relu(
            self.apart / (_distances(position) + np.eye(self.num_agents, dtype=np.float32) + 1e-6)
            - 1.0
        )
        overlap = jnp.where(alive[:, None] & alive, overlap, 0.0)
        pushed = (
            position
            + jnp.stack([jnp.sum(away_x * overlap, 1), jnp.sum(away_y * overlap, 1)], -1) / 2
        )
        if not self.walls_cause_death:
            pushed = jnp.clip(pushed, 0.0, self.size)
        return jnp.where((alive & (self.speed > 0.0))[:, None], pushed, position)

    def _push_units_away(self, state: Any, firmness: float = 1.0) -> Any:
        """The method that JaxMARL's `reset` calls to separate the units."""
        return state.replace(unit_positions=self._pushed(state.unit_positions, state.unit_alive))

    def observe(self, state: Any, who: slice = slice(None)) -> Array:
        """JaxMARL's `unit_list` observations of the units `who` [.., O]: the other units in sight,
        then the unit itself.
        """
        alive, position, others = state.unit_alive, state.unit_positions, self.others[who]
        health, cooldown = self.fractions(state)
        target = state.prev_attack_actions / self.last_slot
        seen = jnp.concatenate(
            [state.prev_movement_actions, target[:, None], cooldown[:, None], self.kind], -1
        )
        sight = self.sight[who, None]
        away = (position[others] - position[who, None]) / sight[..., None]
        view = jnp.concatenate([health[others][..., None], away, seen[others]], -1)
        visible = (
            (jnp.take_along_axis(_distances(position)[who], others, 1) < sight)
            & alive[others]
            & alive[who, None]
        )
        view = jnp.where(visible[..., None], view, 0.0)
        own = jnp.concatenate(
            [health[:, None], position / self.size, cooldown[:, None], self.kind], -1
        )
        own = jnp.where(alive[:, None], own, 0.0)[who]
        return jnp.concatenate([view.reshape(len(others), -1), own], -1)

    def get_obs_unit_list(self, state: Any) -> dict[str, Array]:
        """Observations by agent, of both teams."""
        return dict(zip(self.agents, self.observe(state), strict=True))

    def fractions(self, state: Any) -> tuple[Array, Array]:
        """Health [U] and weapon cooldowns [U] as fractions of their maxima."""
        return state.unit_health / self.max_health, jnp.clip(
            state.unit_weapon_cooldowns / self.cooldown, 0.0, 1.0
        )

    def ally_actions(self, state: Any) -> Array:
        """Mask [N, A] of the allies' actions: a living unit in range may be attacked, or healed by
        a medivac; the dead may only stop.
        """
        n = self.num_allies
        alive = state.unit_alive
        reach = (
            (_distances(state.unit_positions) < self.range[:, None])[:n] & alive[:n, None] & alive
        )
        slots = reach[:, n:]
        medivac = self.heal[:n] > 0
        if medivac.any():
            patients = reach[:, :n] & ~np.eye(n, dtype=bool)
            patients = jnp.pad(patients, ((0, 0), (0, self.num_enemies)))[:, : self.num_enemies]
            slots = jnp.where(medivac[:, None], patients, slots)
        move = jnp.broadcast_to(alive[:n, None], (n, self.num_movement_actions - 1))
        return jnp.concatenate([move, jnp.ones((n, 1), bool), slots], -1).astype(jnp.float32)


def _distances(position: Array) -> Array:
    """Distances [U, U] between positions [U, 2]."""
    x, y = position[:, 0], position[:, 1]
    return jnp.sqrt(jnp.square(x[:, None] - x) + jnp.square(y[:, None] - y))


class SMAXGame(Game):
    """A battle in which the allies are the agents, against JaxMARL's scripted enemies.

    The global state [S] has U units, allies first (`num_allies` of them), then enemies, and
    consists of U health fractions; U positions (x, y) as fractions of the map; U weapon cooldowns
    as fractions; U last moves (x, y); U last targets, scaled as in the observations; U one-hot unit
    types. A dead unit is all zeros but for its type. reward: as in `make_smax`.
    """

    def __init__(self, battle: Map, reward: str) -> None:
        self.battle = Battle(battle)
        self.reward, self.horizon, self.tactics = reward, battle.limit, battle.tactics
        self.num_allies, self.num_enemies = self.battle.num_allies, self.battle.num_enemies
        self.num_units = self.battle.num_agents
        self.script = heuristic_enemy.create_heuristic_policy(self.battle, 1)

    def start(self, key: Key) -> Any:
        """JaxMARL's start: the battle, and the memory of each enemy's script."""
        _, start_key = jax.random.split(key)
        _, battle = self.battle.reset(start_key)
        fresh = [heuristic_enemy.get_heuristic_policy_initial_state()] * self.num_enemies
        memory = jax.tree.map(lambda *each: jnp.stack(each), *fresh)
        return EnemyState(state=battle, enemy_policy_state=memory)

    def move(self, key: Key, state: Any, actions: Array) -> tuple[Any, Array, Array, Array]:
        """One step of both teams, with JaxMARL's keys."""
        key, enemy_key = jax.random.split(key)
        before, n = state.state, self.num_allies
        scripted, memory = self.enemy_actions(enemy_key, state)
        after = self.battle.advance(key, before, jnp.concatenate([actions, scripted]))
        terminated = ~jnp.any(after.unit_alive[:n]) | ~jnp.any(after.unit_alive[n:])
        truncated = (after.step >= self.horizon) & ~terminated
        reward = self.team_reward(before.unit_health, after.unit_health)
        state = state.replace(state=after, enemy_policy_state=memory)
        return state, reward, terminated, truncated

    def enemy_actions(self, key: Key, state: Any) -> tuple[Array, Any]:
        """Actions of the scripted enemies [E], and the scripts' memory."""
        seen = self.battle.observe(state.state, slice(self.num_allies, None))
        keys = jax.random.split(key, self.num_enemies)
        return jax.vmap(self.script)(keys, state.enemy_policy_state, seen)

    def team_reward(self, health_before: Array, health_after: Array) -> Array:
        """The allies' reward [] for a step, from health [U] before and after (see `make_smax`)."""
        n, most = self.num_allies, self.battle.max_health[self.num_allies :]
        before, after = health_before[n:], health_after[n:]
        lost = jnp.maximum(before - after, 0.0)  # no negative reward for a healed enemy
        won = jnp.all(after <= 0.0) & jnp.any(health_after[:n] > 0.0)
        if self.reward == "x10":
            return 10.0 * (jnp.sum(lost / most) / self.num_enemies + won)
        kills = jnp.sum((before > 0.0) & (after <= 0.0))
        scale = BEST / (most.sum() + KILL * self.num_enemies + WIN)
        return scale * (jnp.sum(lost) + KILL * kills + WIN * won)

    def observe(self, state: Any) -> Array:
        """JaxMARL's observations of the allies, [N, O]."""
        return self.battle.observe(state.state, slice(self.num_allies))

    def available(self, state: Any) -> Array:
        """The mask [N, A] of the allies' available actions."""
        return self.battle.ally_actions(state.state)

    def global_state(self, state: Any) -> Array:
        """The global state [S], all numbers within [-1, 1]."""
        inner, game = self.battle, state.state
        health, cooldown = inner.fractions(game)
        target = game.prev_attack_actions / inner.last_slot
        parts = [
            health,
            game.unit_positions / inner.size,
            cooldown,
            game.prev_movement_actions,
            target,
        ]
        alive = [
            jnp.where(game.unit_alive[:, None], part.reshape(self.num_units, -1), 0.0).reshape(-1)
            for part in parts
        ]
        return jnp.concatenate([*alive, inner.kind.reshape(-1)])

    def health(self, state: Any) -> Any:
        """Health fractions [..., U] in a global state [..., S], 0 if dead; allies first."""
        return state[..., : self.num_units]

    def positions(self, state: Any) -> Any:
        """Positions [..., U, 2] (x, y) in map units (the map is 32 x 32) in a global state [...,
        S]; allies first.
        """
        flat = state[..., self.num_units : 3 * self.num_units]
        return flat.reshape(*flat.shape[:-1], self.num_units, 2) * self.battle.size

    def shots(self, state: np.ndarray) -> np.ndarray:
        """Whom each unit shot at in the step before each of an episode's states [T, S]: [T, U]
        numbers of units, -1 for none.

        A unit has shot if its weapon's cooldown did not just run down by the length of a step. The
        last shots of a unit that died in the step are not seen, nor is what a medivac heals.
        """
        units, n, inner = self.num_units, self.num_allies, self.battle
        state = np.asarray(state)
        wait = state[:, 3 * units : 4 * units] * inner.cooldown
        passed = inner.time_per_step * inner.world_steps_per_env_step
        fired = np.zeros(wait.shape, bool)
        fired[1:] = wait[1:] > np.maximum(wait[:-1] - passed, 0.0) + 1e-3
        scaled = state[:, 6 * units : 7 * units] * inner.last_slot
        slot = np.rint(scaled).astype(int) - inner.num_movement_actions
        target = np.where(inner.is_ally, n + slot, n - 1 - slot)
        return np.where(fired & (slot >= 0) & (inner.damage > 0), target, -1)

    def won(self, state: Any) -> Any:
        """Whether a final global state [..., S] is a win: no enemy alive, some ally alive (both
        dead is a draw).
        """
        health = self.health(state)
        return (health[..., self.num_allies :] <= 0).all(-1) & (
            health[..., : self.num_allies] > 0
        ).any(-1)
