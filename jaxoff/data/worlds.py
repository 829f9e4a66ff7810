"""Tasks on simulators: particle worlds, SMAX, MAMuJoCo and mazes, and the qualities of their data.

This module lists them without importing a simulator; `pool_recipes` makes the datasets. A dataset
is played in jit by policies of a pool, as its quality says:

    random, medium, expert       one policy: uniformly random, the pool's nearest to medium, its
                                 best (OMAR, InSPO)
    medium-replay                snapshots from training up to the medium level, in order and in
                                 equal shares
    mixed                        half medium, then half expert
    imbalanced-low, -medium      the agent-wise compositions of SIT, Tables 7-9; also extreme,
                                 balanced-*
    mix=<composition>            any other composition, such as mix=50%[r r m]+50%[m*3]; for each
                                 episode, each agent draws a policy of its level from the pool
    band-poor, -medium, -expert  episodes of all members whose return is in [0, 10), [10, 18),
                                 [18, 20] (YANHUI)
    wspm-p<P>-n<N>               N episodes, P percent of them poor, the others expert (YANHUI)
    waypoint                     the controller of D4RL's mazes, from one random cell to the next
    scripted                     the script of SMAX's allies, which sees the whole battle
"""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxoff.data import compositions, scenarios
from jaxoff.names import Sizes, Task, UnknownName, unknown
from jaxoff.runtime import needs
from jaxoff.types import Env, EnvSpec

_CUTS = (0.3, 0.7)  # SIT, Tables 4-5: levels of SMAX and particle worlds
_CUTS_MUJOCO = (1 / 3, 2 / 3)  # Table 6
_OMAR = ("random", "medium-replay", "medium", "expert")
_INSPO = ("random", "medium-replay", "medium", "expert", "mixed")
SIT_QUALITIES = ("imbalanced-low", "imbalanced-medium")
BALANCED = {"balanced-random": "r", "balanced-medium": "m", "balanced-expert": "e"}
# quality -> (lowest return, upper bound of returns)
BANDS = {
    "band-poor": (-math.inf, 10.0),
    "band-medium": (10.0, 18.0),
    "band-expert": (18.0, math.inf),
}
WSPM = re.compile(r"wspm-p(100|[1-9]?\d)-n([1-9]\d*)")
_WSPM_LISTED = ("wspm-p0-n200", "wspm-p50-n200", "wspm-p50-n40")


class World(NamedTuple):
    """A scenario: its environment, the qualities that are listed, and how its pool is read."""

    env: Callable[[], Env]
    qualities: tuple[str, ...]
    episodes: int  # default number of episodes in a dataset
    replay_episodes: int | None = None  # the default for medium-replay, where it differs
    medium: float = 0.5  # where on the scale [random, best] of returns the medium policy lies
    cuts: tuple[float, float] = _CUTS
    compositions: dict[str, str] = {}  # noqa: RUF012 (never changed)
    spec: Callable[[], EnvSpec] | None = None  # given where the environment takes long to build
    # an environment with the same spaces, in which the first part of a pool's training is played
    easier: Callable[[], Env] | None = None
    easier_share: float = 0.0


# ------------------------------------------------------------------------------------------- worlds


def _later(place: str, *args: Any, **named: Any) -> Callable[[], Any]:
    """A function that calls "module:name" of `jaxoff.envs`, and imports the module only then.

    The call raises MissingProgram where a simulator's package is not installed.
    """

    def call() -> Any:
        module, _, name = place.partition(":")
        with needs(module.partition(".")[0]):
            return getattr(importlib.import_module(f"jaxoff.envs.{module}"), name)(*args, **named)

    return call


def _mpe() -> dict[str, World]:
    # The medium level is where OMAR's medium data lie between its random and expert data.
    worlds = {
        "spread": World(_later("mpe.omar:make_spread"), _OMAR, 40_000, 3_900, 0.306),
        "tag": World(_later("mpe.omar:make_tag"), _OMAR, 40_000, 2_500, 0.568),
        "world": World(_later("mpe.omar:make_world"), _OMAR, 40_000, 3_200, 0.790),
    }

    def spread(*args: Any, **named: Any) -> World:
        make = _later("mpe.omar:make_spread", *args, **named)
        return World(make, _OMAR, 40_000, 3_900, 0.306)

    for n in (1, 2):
        worlds[f"spread-n{n}"] = spread(n)
    # Four and more begin in a space of four times the size, where those who are paid for all
    # landmarks together don't learn to reach any.
    for n in (4, 5):
        own = _later("mpe.omar:make_spread", n, cooperative=False)
        worlds[f"spread-n{n}"] = spread(n)._replace(easier=own, easier_share=0.3)
    for n in range(1, 6):
        worlds[f"spread-n{n}-1d" if n != 3 else "spread-1d"] = spread(n, 1)
    for n in range(2, 6):  # not n = 1, since a single agent has its own landmark anyway
        worlds[f"spread-n{n}-own" if n != 3 else "spread-own"] = spread(n, cooperative=False)
    particles = {
        "CN_3ls3l": ("50%[r r r]+50%[r r m]", "[r m e]"),
        "CN_4ls4l": ("50%[r r r r]+50%[r r r m]", "[r r e e]"),
        "PP_3p1p": ("50%[r r r]+50%[r r m]", "[r m e]"),
    }
    for name, texts in particles.items():
        make, named = _later("mpe.sit:make_sit", name), _sit(*texts)
        worlds[name] = World(make, _OMAR + SIT_QUALITIES, 10_000, compositions=named)
    return worlds


def _sit(low: str, medium: str) -> dict[str, str]:
    return {"imbalanced-low": low, "imbalanced-medium": medium}


_SIT_SMAX = {  # Table 7; on 10m_vs_11m q = 4 agents are random
    "smax/3s_vs_5z": ("50%[r r r]+50%[r r m]", "[r r e]"),
    "smax/2s3z": ("50%[r r r r r]+50%[r m r m m]", "[r e r e e]"),
    "smax/8m": ("50%[r*8]+50%[r m*7]", "[r e*7]"),
    "smax/10m_vs_11m": ("50%[r*10]+50%[r*4 m*6]", "[r*4 e*6]"),
    "smax-x/2s_vs_1sc": ("50%[r r]+50%[r m]", "[r e]"),
    "smax-x/1c3s5z": ("50%[r*9]+50%[m r r m r*4 m]", "[e r r e r*4 e]"),
}


def _smax(family: str) -> dict[str, World]:
    worlds = {}
    for name in scenarios.names(family):
        texts = _SIT_SMAX.get(f"{family}/{name}")
        named = _sit(*texts) if texts else {}
        if name == "2s3z":
            named["extreme"] = "99.5%[r*5]+0.5%[m*5]"
        # In SMAX the return of a battle is at most 10 if it is lost, and 20 if it is won; only
        # draws are in between.
        bands = ("band-poor", "band-expert", *_WSPM_LISTED)
        qualities = (*_INSPO, "scripted", *named, *BALANCED, *bands)
        worlds[name] = World(
            _later("smax:make_smax", family, name),
            qualities,
            5_000,
            compositions=named,
            spec=_later("smax:smax_spec", family, name),
        )
    return worlds


# The medium level is where OMAR's medium data of HalfCheetah lie between its random and expert
# data.
_MUJOCO: dict[str, Any] = {
    "qualities": _OMAR,
    "episodes": 1_000,
    "replay_episodes": 460,
    "medium": 0.511,
    "cuts": _CUTS_MUJOCO,
}


_SIT_MUJOCO = {
    "qualities": _OMAR + SIT_QUALITIES,
    "episodes": 10_000,
    "compositions": _sit("[r m]", "[r e]"),
}


def _mamujoco() -> dict[str, World]:
    def spec(name: str) -> EnvSpec:
        from jaxoff.envs.mamujoco.mjx import resolve

        return resolve(name, "omar", None)[0]

    return {
        name: World(
            _later("mamujoco.mjx:make_mamujoco", f"mamujoco/{name}"),
            **_MUJOCO
            | {"spec": functools.partial(spec, name)}
            | (_SIT_MUJOCO if name.endswith("_2l") else {}),
        )
        for name in scenarios.names("mamujoco")
    }


def _mabrax() -> dict[str, World]:
    def spec(name: str) -> EnvSpec:
        from jaxoff.envs.mamujoco.layouts import make_layout, spec_of

        return spec_of(f"mabrax/{name}", 1000, make_layout(*name.split("-")))

    return {
        name: World(
            _later("mamujoco.mabrax:make_mabrax", f"mabrax/{name}"),
            **_MUJOCO | {"spec": functools.partial(spec, name)},
        )
        for name in scenarios.names("mabrax")
    }


def _maze() -> dict[str, World]:
    counts = {"umaze": 3_333, "medium": 3_333, "large": 5_000}  # D4RL's 1, 2 and 4 million steps
    return {
        name: World(_later("maze:make_maze", f"maze/{name}"), ("waypoint", "random"), count)
        for name, count in counts.items()
    }


WORLDS: dict[str, Callable[[], dict[str, World]]] = {
    "mpe": functools.cache(_mpe),
    "smax": functools.cache(functools.partial(_smax, "smax")),
    "smax-x": functools.cache(functools.partial(_smax, "smax-x")),
    "mamujoco": functools.cache(_mamujoco),
    "mabrax": functools.cache(_mabrax),
    "maze": functools.cache(_maze),
}

# family -> packages of its simulator; the others are jaxoff's own
SIMULATORS = {
    "smax": ("jaxmarl",),
    "smax-x": ("jaxmarl",),
    "mamujoco": ("mujoco", "mujoco-mjx"),
    "mabrax": ("jaxmarl", "brax", "mujoco", "mujoco-mjx"),
}


# -------------------------------------------------------------------------------------------- names


def world_of(task: Task) -> World:
    """The scenario of a task. Raises UnknownName."""
    if task.family not in WORLDS:
        raise unknown("family with scenarios", task.family, WORLDS)
    worlds = WORLDS[task.family]()
    if task.scenario not in worlds:
        raise unknown(f"scenario of {task.family}", task.scenario, worlds)
    return worlds[task.scenario]


def spec_of(world: World) -> EnvSpec:
    """The specification of a scenario's environment."""
    return world.spec() if world.spec else world.env().spec


def sizes(task: Task) -> Sizes:
    """Sizes of a task's environment, which is built only if its scenario is not in the table."""
    world = world_of(task)
    known = task.scenario in scenarios.names(task.family)
    return scenarios.sizes(task) if known else Sizes.of(spec_of(world))


def check(task: Task) -> World:
    """The scenario of a task, after a check that the task's quality exists.

    Raises UnknownName, or InvalidSetting for a wrong composition.
    """
    world = world_of(task)
    if task.quality.startswith("mix="):
        compositions.parse(task.quality[4:], sizes(task).num_agents)
    elif task.quality not in world.qualities and not (
        "band-poor" in world.qualities and (task.quality in BANDS or WSPM.fullmatch(task.quality))
    ):
        raise unknown("quality", task.quality, world.qualities)
    return world


def check_pooled(name: str) -> World:
    """The scenario `family/scenario`, after a check that a pool plays some of its datasets.

    Raises UnknownName, which tells the scenarios that have pools.
    """
    family, slash, scenario = name.partition("/")
    pooled = [
        known
        for known, worlds in WORLDS.items()
        if any(needs_pool(Task("", known, *pair)) for pair in _qualities(worlds()))
    ]
    if family in pooled and slash and "/" not in scenario:
        return world_of(Task("", family, scenario, "pool"))
    raise UnknownName(
        f"'{name}': expected family/scenario with datasets that policies of a pool play; the "
        f"families {', '.join(pooled)} have such scenarios, see `jaxoff data list`"
    )


def _qualities(worlds: dict[str, World]) -> list[tuple[str, str]]:
    return [(name, quality) for name, world in worlds.items() for quality in world.qualities]


def needs_pool(task: Task) -> bool:
    """Whether the recipe of a task, of any family, plays policies of a pool."""
    played = ("random", "waypoint", "scripted")  # by other policies
    return not task.source and task.family in WORLDS and task.quality not in played
