"""Unit types and maps of SMAX, as data.

`MAPS` are JaxMARL's own, with JaxMARL's numbers (Rutherford et al., 2024) and SMAC's step limits
(Samvelyan et al., 2019). `X_MAPS` are four SMAC maps that SMAX lacks, with a longer unit table;
their scores stand for themselves, so they form a separate family.
"""

from __future__ import annotations

from typing import NamedTuple

# SMAC's rewards for a kill and for a win, and the best return, to which rewards are scaled
KILL, WIN, BEST = 10.0, 200.0, 20.0
MOVES = 5  # actions of a unit before those on a target: four ways to move, and to stop
# numbers of another unit in an observation, without its type: its health, offset (x, y), last move
# (x, y), last target and cooldown
UNIT_NUMBERS = 7


class Unit(NamedTuple):
    """One type of unit. `health` includes shields; a unit of speed 0 never moves."""

    name: str
    shorthand: str
    health: float
    damage: float  # per shot
    range: float  # range of its weapon, or of its healing
    sight: float
    speed: float  # map units per second
    radius: float
    cooldown: float  # seconds between shots
    heal: float = 0.0  # health per second: it heals its team instead of shooting
    flies: bool = False  # collides with nobody


class Tactics(NamedTuple):
    """How the allies' script weighs what it may do on a map; see `allies`."""

    now: float = 1.0  # cost of shots that hit an ally in this step, against those that it makes
    later: float = 0.5  # the same of shots to be expected in the next one, for a reloading ally
    hurt: float = 0.3  # the same for an ally that has almost no health left
    other: float = 0.3  # share of those of enemies that are likely to shoot at someone else
    death: float = 0.5  # cost of dying, in maximum healths
    kill: float = 0.3  # worth of a kill, in maximum healths
    focus: float = 3.0  # preference for the weakest enemy
    approach: float = 0.8  # cost of each unit of way to an enemy in sight that is out of range
    advance: float = 0.3  # the same while no enemy is in sight; 0 waits for the enemies
    ratio: float = 0.9  # the distance that allies seek, as a share of their weapon's range
    group: float = 0.02  # cost of each unit of distance to the middle of the allies
    rank: float = 0.0  # cost of each unit of distance to a line of all allies
    corner: float = 0.0  # cost of each unit of distance to the nearest corner


class Map(NamedTuple):
    """The two teams as indices into `units`, and the time limit in steps of half a second."""

    allies: tuple[int, ...]
    enemies: tuple[int, ...]
    limit: int
    units: tuple[Unit, ...]
    walls_kill: bool = True  # as in JaxMARL: a unit that touches the edge of the map dies
    tactics: Tactics = Tactics()  # of the allies' script


UNITS = (
    Unit("marine", "m", 45, 9, 5, 9, 3.15, 0.375, 0.61),
    Unit("marauder", "M", 125, 10, 6, 10, 2.25, 0.5625, 1.07),
    Unit("stalker", "s", 160, 13, 6, 10, 4.13, 0.625, 1.87),
    Unit("zealot", "Z", 150, 8, 2, 9, 3.15, 0.5, 0.86),
    Unit("zergling", "z", 35, 5, 2, 8, 4.13, 0.375, 0.5),
    Unit("hydralisk", "h", 80, 12, 5, 9, 3.15, 0.625, 0.59),
)
MARINE, MARAUDER, STALKER, ZEALOT, ZERGLING, HYDRALISK, COLOSSUS, SPINE_CRAWLER, MEDIVAC = (
    [i] for i in range(9)
)


def _map(
    allies: list[int],
    enemies: list[int],
    limit: int,
    units: tuple[Unit, ...] = UNITS,
    walls_kill: bool = True,
    tactics: Tactics = Tactics(),  # noqa: B008 (never changed)
) -> Map:
    return Map(tuple(allies), tuple(enemies), limit, units, walls_kill, tactics)


# Units that are fewer than their like, and so have to shoot together from the first shot on
_LINE = Tactics(rank=1.0)
# found by a search for the most wins with this script, the cross-entropy method
_FIVE = Tactics(
    now=0.9,
    later=0.15,
    hurt=0.15,
    other=0.2,
    kill=0.1,
    focus=3.3,
    approach=0.5,
    advance=0.55,
    ratio=0.75,
    group=0.2,
    rank=1.4,
    corner=0.3,
)

MAPS = {
    "3m": _map(3 * MARINE, 3 * MARINE, 60),
    "8m": _map(8 * MARINE, 8 * MARINE, 120),
    "25m": _map(25 * MARINE, 25 * MARINE, 150),
    "5m_vs_6m": _map(5 * MARINE, 6 * MARINE, 70, tactics=_FIVE),
    "10m_vs_11m": _map(10 * MARINE, 11 * MARINE, 150, tactics=_LINE),
    "27m_vs_30m": _map(27 * MARINE, 30 * MARINE, 180),
    "2s3z": _map(2 * STALKER + 3 * ZEALOT, 2 * STALKER + 3 * ZEALOT, 120),
    "3s5z": _map(3 * STALKER + 5 * ZEALOT, 3 * STALKER + 5 * ZEALOT, 150),
    "3s5z_vs_3s6z": _map(3 * STALKER + 5 * ZEALOT, 3 * STALKER + 6 * ZEALOT, 170),
    "3s_vs_5z": _map(3 * STALKER, 5 * ZEALOT, 250),
    "6h_vs_8z": _map(6 * HYDRALISK, 8 * ZEALOT, 150),
}

_STOCK = {unit.name: unit for unit in UNITS}
X_UNITS = (
    _STOCK["marine"],
    _STOCK["marauder"]._replace(speed=3.15),  # in the same time unit as the other units
    _STOCK["stalker"],
    _STOCK["zealot"]._replace(damage=16),  # both blows of an attack
    # with a range of 2, two ranks of zerglings reach one zealot and corridor is never won
    _STOCK["zergling"]._replace(range=1.2),
    _STOCK["hydralisk"],
    Unit("colossus", "c", 350, 20, 7, 10, 3.15, 1.0, 1.07),  # two beams of 10, no splash
    Unit("spine_crawler", "S", 300, 30, 7, 11, 0, 0.875, 1.32),
    Unit("medivac", "d", 150, 0, 4, 11, 3.5, 0.75, 1.0, heal=12.6, flies=True),
)
# A stalker's damage against the armoured spine crawler, and its cooldown in the same time unit as
# the other units.
_VS_ARMOUR = (*X_UNITS[:2], X_UNITS[2]._replace(damage=18, cooldown=1.34), *X_UNITS[3:])

X_MAPS = {
    "1c3s5z": _map(
        COLOSSUS + 3 * STALKER + 5 * ZEALOT, COLOSSUS + 3 * STALKER + 5 * ZEALOT, 180, X_UNITS
    ),
    "2s_vs_1sc": _map(2 * STALKER, SPINE_CRAWLER, 300, _VS_ARMOUR),
    "corridor": _map(
        6 * ZEALOT, 24 * ZERGLING, 400, X_UNITS, walls_kill=False, tactics=Tactics(corner=0.3)
    ),
    "MMM2": _map(
        MEDIVAC + 2 * MARAUDER + 7 * MARINE,
        MEDIVAC + 3 * MARAUDER + 8 * MARINE,
        180,
        X_UNITS,
        tactics=_LINE,
    ),
}
FAMILIES = {"smax": MAPS, "smax-x": X_MAPS}
