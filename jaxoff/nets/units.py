"""Actors for battles that treat units of a team alike, whatever their place in an observation.

Every enemy is embedded by the same weights, and so is every ally; the logit of an attack on an
enemy is computed from that enemy's embedding (Wang et al., 2020, action semantics networks). The
embeddings of `PairNet` also know how each ally stands to each enemy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.smax.units import FAMILIES, MOVES, UNIT_NUMBERS, Unit
from jaxoff.nets.layers import Dense, LayerInit
from jaxoff.types import Array, EnvSpec

# distances from the edge of a weapon's range beyond which they no longer matter
_NEAR = 2.0
_OWN_NUMBERS = 4  # of the unit itself, without its type: health, position (x, y) and cooldown


class UnitList(NamedTuple):
    """The units in an observation: other allies, then enemies, with so many numbers for each."""

    allies: int
    enemies: int
    numbers: int
    types: tuple[Unit, ...]

    @property
    def size(self) -> int:
        """Numbers in an observation that belong to other units; the unit's own follow."""
        return (self.allies + self.enemies) * self.numbers


def unit_list(spec: EnvSpec) -> UnitList | None:
    """The units in the observations of a battle, or None for another environment."""
    family, _, name = spec.name.partition("/")
    battle = FAMILIES.get(family, {}).get(name)
    if battle is None:
        return None
    numbers = UNIT_NUMBERS + len(battle.units)
    return UnitList(len(battle.allies) - 1, len(battle.enemies), numbers, battle.units)


class Pairs(NamedTuple):
    """What an agent sees of N allies, itself among them in the order of agents' numbers, and of E
    enemies.
    """

    allies: Array  # [..., N, F + 2] the numbers of each, whether it is the agent, or comes before
    enemies: Array  # [..., E, F]
    between: Array  # [..., N, E, 9] offset, distance, distances beyond their ranges and whether
    # they are in range, and whether they shot at each other in the last step


def pairs_of(units: UnitList, x: Array) -> Pairs:
    """Allies, enemies and pairs of them in inputs [..., O + N]; units out of sight have zeros."""
    n, enemies, types = units.allies + 1, units.enemies, units.types
    listed, own, number = jnp.split(x, [units.size, units.size + _OWN_NUMBERS + len(types)], -1)
    listed = listed.reshape(*x.shape[:-1], -1, units.numbers)
    others, theirs = jnp.split(listed, [units.allies], -2)
    # Other allies are listed without a gap: those after the agent have the next number.
    before = 1.0 - jnp.cumsum(number, -1)[..., None]  # [..., N, 1]
    earlier, none = before[..., :-1, :], jnp.zeros_like(others[..., :1, :])
    ours = jnp.concatenate([others * earlier, none], -2) + jnp.concatenate(
        [none, others * (1 - earlier)], -2
    )
    health, _, cooldown_and_type = jnp.split(own, [1, 3], -1)
    # what an agent sees of itself, at no distance; its last action is not in its observation
    still = jnp.zeros_like(own[..., :1])
    me = jnp.concatenate([health, *4 * [still], still - 1.0, cooldown_and_type], -1)
    ours = ours + number[..., None] * me[..., None, :]

    def of_type(team: Array, values: list[float]) -> Array:  # [..., units of the team]
        return team[..., UNIT_NUMBERS:] @ np.array(values, np.float32)

    def shot_at(team: Array, slots: int) -> Array:  # the slot of the last target, or below zero
        slot = jnp.rint(team[..., 5] * (MOVES + slots - 1)) - MOVES
        return jnp.where(of_type(team, [float(unit.damage > 0) for unit in types]) > 0, slot, -1)

    # offsets are in units of the agent's sight
    sight = own[..., _OWN_NUMBERS:] @ np.array([unit.sight for unit in types], np.float32)
    offset = theirs[..., None, :, 1:3] - ours[..., :, None, 1:3]
    away = jnp.sqrt(jnp.square(offset).sum(-1) + 1e-6)
    reaches = [unit.range for unit in types]
    beyond = [
        away * sight[..., None, None] - reach
        for reach in (of_type(ours, reaches)[..., None], of_type(theirs, reaches)[..., None, :])
    ]
    our_target = shot_at(ours, enemies)[..., None] == np.arange(enemies)
    their_target = n - 1 - shot_at(theirs, n)[..., None, :] == np.arange(n)[:, None]
    numbers = [
        away,
        *(jnp.clip(far / _NEAR, -1.0, 1.0) for far in beyond),
        *(far < 0 for far in beyond),
        our_target,
        their_target,
    ]
    between = jnp.stack([number.astype(x.dtype) for number in numbers], -1)
    marks = [number[..., None], before]
    return Pairs(
        jnp.concatenate([ours, *marks], -1), theirs, jnp.concatenate([offset, between], -1)
    )


def _logits(
    layer: Callable[..., Dense], head: float, out: int, myself: Array, ally: Array, enemy: Array
) -> Array:
    """Logits [..., A] from embeddings of the agent [..., 1, H] and of the units of each team."""
    width = myself.shape[-1]
    pooled = [f(team, -2) for team in (ally, enemy) for f in (jnp.mean, jnp.max)]
    all_units = jax.nn.relu(layer("all", 2 * width)([myself[..., 0, :], *pooled]))
    all_units = jax.nn.relu(layer("inner", 2 * width)(all_units))
    target = layer("target")(enemy) + layer("aim", use_bias=False)(all_units)[..., None, :]
    attack = layer("attack", 1, head=head)(jax.nn.relu(target))[..., 0]
    moves = jnp.zeros((*attack.shape[:-1], MOVES), attack.dtype)
    return layer("action", out, head=head)(all_units) + jnp.concatenate([moves, attack], -1)


class UnitNet(nn.Module):
    """Logits [..., A] from an observation and the agent's number [..., O + N].

    Units are embedded together with the agent's own numbers, and pooled by mean and maximum; a unit
    out of sight counts as zeros. hidden: width of embeddings; the layers behind the pool have twice
    that. head: as for `MLP`.
    """

    units: UnitList
    hidden: int
    out: int
    layer_init: LayerInit = "torch"
    head: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply to the last axis."""

        def layer(name: str, width: int = self.hidden, **more: bool | float) -> Dense:
            return Dense(width, self.layer_init, name=name, **more)

        listed, own = jnp.split(x, [self.units.size], -1)
        listed = listed.reshape(*x.shape[:-1], -1, self.units.numbers)
        seen = (listed[..., :1] > 0).astype(x.dtype)  # a unit in sight has health
        myself = layer("own")(own)[..., None, :]
        ally, enemy = (
            jax.nn.relu(layer(name)(part) + myself) * there
            for name, part, there in zip(
                ("ally", "enemy"),
                jnp.split(listed, [self.units.allies], -2),
                jnp.split(seen, [self.units.allies], -2),
                strict=True,
            )
        )
        return _logits(layer, self.head, self.out, myself, ally, enemy)


class PairNet(nn.Module):
    """As `UnitNet`, with pairs: each ally, the agent among them, to each enemy.

    A pair is embedded from both units and from what is between them (`pairs_of`), with half of
    `hidden` as its width. A unit's embedding is computed from its numbers, from the mean of its
    pairs and, for an enemy, from its pair with the agent.
    """

    units: UnitList
    hidden: int
    out: int
    layer_init: LayerInit = "torch"
    head: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply to the last axis."""

        def layer(name: str, width: int = self.hidden, **more: bool | float) -> Dense:
            return Dense(width, self.layer_init, name=name, **more)

        allies, enemies, between = pairs_of(self.units, x)
        own, number = x[..., self.units.size :], x[..., -self.units.allies - 1 :]
        here, there = ((team[..., :1] > 0).astype(x.dtype) for team in (allies, enemies))
        both = [between, allies[..., :, None, :], enemies[..., None, :, :]]
        pairs = jax.nn.relu(layer("pair", self.hidden // 2)(both))
        pairs = pairs * here[..., :, None, :] * there[..., None, :, :]
        with_me = jnp.einsum("...aeh,...a->...eh", pairs, number)
        myself = layer("own")(own)[..., None, :]
        ally = layer("ally")([allies, pairs.mean(-2)])
        enemy = layer("enemy")([enemies, pairs.mean(-3), with_me])
        ally = jax.nn.relu(ally + myself) * here
        enemy = jax.nn.relu(enemy + myself) * there
        return _logits(layer, self.head, self.out, myself, ally, enemy)
