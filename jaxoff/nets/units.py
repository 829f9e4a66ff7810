"""An actor for battles that treats units of a team alike, whatever their place in an observation.

Every enemy is embedded by the same weights, and so is every ally; the logit of an attack on an
enemy is computed from that enemy's embedding (Wang et al., 2020, action semantics networks). With a
memory, what is known of all units together passes through a GRU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxoff.envs.smax.units import FAMILIES, MOVES, UNIT_NUMBERS
from jaxoff.nets.layers import Dense, LayerInit
from jaxoff.nets.recurrent import GRU
from jaxoff.types import Array, Carry, EnvSpec


class UnitList(NamedTuple):
    """The units in an observation: other allies, then enemies, with so many numbers for each."""

    allies: int
    enemies: int
    numbers: int

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
    return UnitList(len(battle.allies) - 1, len(battle.enemies), numbers)


class UnitNet(nn.Module):
    """Logits [..., A] from an observation and the agent's number [..., O + N].

    Units are embedded together with the agent's own numbers, and pooled by mean and maximum; a unit
    out of sight counts as zeros. hidden: width of embeddings; the layers behind the pool have twice
    that. head: as for `MLP`. `RecurrentUnitNet` has the same logits with a memory.
    """

    units: UnitList
    hidden: int
    out: int
    layer_init: LayerInit = "torch"
    head: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply to the last axis."""
        return self.logits(x, lambda known: (None, known))[1]

    def logits(
        self, x: Array, remember: Callable[[Array], tuple[Carry, Array]]
    ) -> tuple[Carry, Array]:
        """The memory after the last step, and the logits.

        remember: a function of the layer behind the pool, which returns that memory and the layer
        that the logits are computed from.
        """

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
        pooled = [f(team, -2) for team in (ally, enemy) for f in (jnp.mean, jnp.max)]
        all_units = jax.nn.relu(layer("all", 2 * self.hidden)([myself[..., 0, :], *pooled]))
        memory, all_units = remember(all_units)
        all_units = jax.nn.relu(layer("inner", 2 * self.hidden)(all_units))
        target = layer("target")(enemy) + layer("aim", use_bias=False)(all_units)[..., None, :]
        attack = layer("attack", 1, head=self.head)(jax.nn.relu(target))[..., 0]
        moves = jnp.zeros((*attack.shape[:-1], MOVES), x.dtype)
        of_targets = jnp.concatenate([moves, attack], -1)
        return memory, layer("action", self.out, head=self.head)(all_units) + of_targets


class RecurrentUnitNet(UnitNet):
    """`UnitNet` with a GRU of width 2 `hidden` behind the pool: (memory, x [..., T, F]) -> (memory,
    [..., T, A]).
    """

    @nn.compact
    def __call__(  # type: ignore[override]
        self, memory: Array, x: Array, reset: Array | None = None
    ) -> tuple[Array, Array]:
        """Run over the time axis, the last but one; `reset` as for `GRU`."""
        gru = GRU(2 * self.hidden, self.layer_init, name="memory")
        return self.logits(x, lambda known: gru(memory, known, reset))
