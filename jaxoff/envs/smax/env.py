"""SMAX (Rutherford et al., 2024) behind our interface: battles like SMAC's, without StarCraft.

Allies are the agents; enemies follow JaxMARL's script (shoot the closest in range, keep the target,
else walk to a visible opponent). Actions of an ally: 0 up, 1 right, 2 down, 3 left, 4 stop, 5 + j
attack enemy j. One step is half a second. Scores here cannot be compared with SMAC's, whose
opponent differs.

Differs from JaxMARL: SMAC's step limit is kept exactly (JaxMARL's episodes last one step longer
than their limit), and rewards are scaled. On the extra maps also: a unit of speed 0 is never
pushed, flying units collide with nobody and may be shot by all, and medivacs heal (see `Battle`).
"""

from __future__ import annotations

import functools

import numpy as np

from jaxoff.envs.base import GameEnv, ScenePicture
from jaxoff.envs.smax.units import BEST, FAMILIES, MOVES, UNIT_NUMBERS
from jaxoff.names import unknown
from jaxoff.types import EnvSpec, ReturnScale

REWARDS = ("x10", "smac")
# rectangles around the map, for pictures
EDGE = np.array([(-1, -1, 33, 0), (-1, 32, 33, 33), (-1, 0, 0, 32), (32, 0, 33, 32)])


def make_smax(family: str, map_name: str, reward: str = "x10") -> GameEnv:
    """A battle as an `Env`; the same object for the same arguments.

    family: `smax` (JaxMARL's maps and numbers) or `smax-x` (four more maps). reward: `x10`, ten
    times SMAX's own reward, that is 10 x the mean health fraction that enemies lost, and 10 for a
    win; or `smac`, SMAC's reward: health points that enemies lost, 10 for a kill, 200 for a win,
    scaled. With both the best possible return is 20, except that damage to health which an enemy
    medivac had restored (MMM2) is paid again. Raises UnknownName for an unknown family, map or
    reward.
    """
    _check_map(family, map_name)
    if reward not in REWARDS:
        raise unknown("reward", reward, REWARDS)
    return _make(family, map_name, reward)


def smax_spec(family: str, map_name: str) -> EnvSpec:
    """The specification of `make_smax(family, map_name)`, without the simulator. Raises
    UnknownName.
    """
    _check_map(family, map_name)
    battle = FAMILIES[family][map_name]
    units, kinds = len(battle.allies + battle.enemies), len(battle.units)
    return EnvSpec(
        name=f"{family}/{map_name}",
        num_agents=len(battle.allies),
        # each other unit's numbers and type; the unit's own health, position, cooldown and type
        obs_size=(units - 1) * (UNIT_NUMBERS + kinds) + 4 + kinds,
        state_size=units * (7 + kinds),
        action_size=MOVES + len(battle.enemies),
        discrete=True,
        horizon=battle.limit,
        agent_types=battle.allies,
        type_names=tuple(unit.name.replace("_", " ") for unit in battle.units),
        return_scale=ReturnScale(
            0.0, BEST, "no damage done; all enemies killed and the battle won"
        ),
    )


def _check_map(family: str, map_name: str) -> None:
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    if map_name not in FAMILIES[family]:
        raise unknown("map", map_name, FAMILIES[family])


@functools.cache
def _make(family: str, map_name: str, reward: str) -> GameEnv:
    from jaxoff.envs.smax.allies import make_script
    from jaxoff.envs.smax.battle import SMAXGame

    battle = FAMILIES[family][map_name]
    game = SMAXGame(battle, reward)
    radii = np.array([battle.units[kind].radius for kind in battle.allies + battle.enemies])
    kinds = ("ally",) * game.num_allies + ("enemy",) * game.num_enemies
    picture = ScenePicture(None, radii, kinds, game.positions, game.health, EDGE, game.shots)
    spec = smax_spec(family, map_name)
    return GameEnv(game, spec, picture=picture, won=game.won, script=make_script(game))
