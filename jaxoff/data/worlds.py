"""Tasks on simulators: particle worlds, SMAX, MAMuJoCo, mazes; and the recipes of their datasets.

A dataset is a pool of policies and a composition, played in jit. Its quality is one of

    random, medium, expert       one policy: uniformly random, the pool's nearest to medium, its
    best (OMAR, InSPO) medium-replay                training up to the medium level, as equal shares
    of its snapshots, in order mixed                        half medium, then half expert
    imbalanced-low, -medium      the agent-wise compositions of SIT, Tables 7-9; also extreme,
    balanced-* mix=<composition>            any other, such as mix=50%[r r m]+50%[m*3]; each agent
    of each episode
                                 follows a member of its level, drawn anew
    band-poor, -medium, -expert  episodes of all members whose return is in [0, 10), [10, 18), [18,
    20] (YANHUI) wspm-p<P>-n<N>               N episodes, P percent of them poor, the others expert
    (YANHUI) waypoint                     the controller of D4RL's mazes, from one random cell to
    the next
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxoff.data import compositions, pools, recipes
from jaxoff.data.episodes import concatenate, returns_of, take, with_level
from jaxoff.names import DataOptions, Family, Task, unknown
from jaxoff.types import Env, EnvSpec, Episodes

_CUTS = (0.3, 0.7)  # SIT, Tables 4-5: levels of SMAX and particle worlds
_CUTS_MUJOCO = (1 / 3, 2 / 3)  # Table 6
_OMAR = ("random", "medium-replay", "medium", "expert")
_INSPO = ("random", "medium-replay", "medium", "expert", "mixed")
_SIT = ("imbalanced-low", "imbalanced-medium")
_BALANCED = {"balanced-random": "r", "balanced-medium": "m", "balanced-expert": "e"}
_BANDS = {"band-poor": (-np.inf, 10.0), "band-medium": (10.0, 18.0), "band-expert": (18.0, np.inf)}
_WSPM = re.compile(r"wspm-p(100|[1-9]?\d)-n([1-9]\d*)")
_WSPM_LISTED = ("wspm-p0-n200", "wspm-p50-n200", "wspm-p50-n40")
_ROUNDS = 40  # of playing all members, until a band has episodes enough
_BAND_SIZE = 1_000  # episodes of a band, as many as YANHUI wants at least


class World(NamedTuple):
    """A scenario: its environment, the qualities that are listed, and how its pool is read."""

    env: Callable[[], Env]
    qualities: tuple[str, ...]
    episodes: int  # default size
    replay_episodes: int | None = None  # default size of medium-replay, where it differs
    medium: float = 0.5  # share of [random, best] at which the medium policy lies
    cuts: tuple[float, float] = _CUTS
    compositions: dict[str, str] = {}  # noqa: RUF012 (never changed)
    spec: Callable[[], EnvSpec] | None = None  # where the environment takes long to build


# ------------------------------------------------------------------------------------------- worlds


def _mpe() -> dict[str, World]:
    from jaxoff.envs.mpe import omar, sit

    # Medium: where OMAR's medium data lie between its random and expert data.
    worlds = {
        "spread": World(omar.make_spread, _OMAR, 40_000, 3_900, 0.306),
        "tag": World(omar.make_tag, _OMAR, 40_000, 2_500, 0.568),
        "world": World(omar.make_world, _OMAR, 40_000, 3_200, 0.790),
    }
    for n in (1, 2, 4, 5):
        worlds[f"spread-n{n}"] = World(
            functools.partial(omar.make_spread, n), _OMAR, 40_000, 3_900, 0.306
        )
    for n in range(1, 6):
        name = f"spread-n{n}-1d" if n != 3 else "spread-1d"
        worlds[name] = World(functools.partial(omar.make_spread, n, 1), _OMAR, 40_000, 3_900, 0.306)
    for n in range(2, 6):  # an agent alone has a landmark of its own anyway
        name = f"spread-n{n}-own" if n != 3 else "spread-own"
        worlds[name] = World(
            functools.partial(omar.make_spread, n, cooperative=False), _OMAR, 40_000, 3_900, 0.306
        )
    particles = {
        "CN_3ls3l": ("50%[r r r]+50%[r r m]", "[r m e]"),
        "CN_4ls4l": ("50%[r r r r]+50%[r r r m]", "[r r e e]"),
        "PP_3p1p": ("50%[r r r]+50%[r r m]", "[r m e]"),
    }
    for name, texts in particles.items():
        worlds[name] = World(
            functools.partial(sit.make_sit, name), _OMAR + _SIT, 10_000, compositions=_sit(*texts)
        )
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
    from jaxoff.envs import smax

    worlds = {}
    for name in smax.FAMILIES[family]:
        texts = _SIT_SMAX.get(f"{family}/{name}")
        named = _sit(*texts) if texts else {}
        if name == "2s3z":
            named["extreme"] = "99.5%[r*5]+0.5%[m*5]"
        # In SMAX a battle pays at most 10 if it is lost, and 20 if it is won: between is nothing
        # but draws.
        qualities = (*_INSPO, *named, *_BALANCED, "band-poor", "band-expert", *_WSPM_LISTED)
        worlds[name] = World(
            functools.partial(smax.make_smax, family, name),
            qualities,
            5_000,
            compositions=named,
            spec=functools.partial(smax.smax_spec, family, name),
        )
    return worlds


# Medium: where OMAR's medium data of HalfCheetah lie between its random and expert data.
_MUJOCO = {
    "qualities": _OMAR,
    "episodes": 1_000,
    "replay_episodes": 460,
    "medium": 0.511,
    "cuts": _CUTS_MUJOCO,
}


def _mamujoco() -> dict[str, World]:
    from jaxoff.envs.mamujoco import layouts, mjx

    def world(name: str, **more: Any) -> World:
        spec = lambda: mjx.resolve(name, "omar", None)[0]
        return World(
            functools.partial(mjx.make_mamujoco, f"mamujoco/{name}"),
            **_MUJOCO | {"spec": spec} | more,
        )

    worlds = {
        f"{body}-{split}": world(f"{body}-{split}")
        for body in mjx.TASKS
        for split in layouts.BODIES[body].splits
    }
    sit = {"qualities": _OMAR + _SIT, "episodes": 10_000, "compositions": _sit("[r m]", "[r e]")}
    return worlds | {name: world(name, **sit) for name in mjx.SIT}


def _mabrax() -> dict[str, World]:
    from jaxoff.envs.mamujoco import layouts, mabrax

    def world(body: str, split: str) -> World:
        name = f"mabrax/{body}-{split}"
        spec = lambda: layouts.spec_of(name, 1000, layouts.make_layout(body, split))
        return World(functools.partial(mabrax.make_mabrax, name), **_MUJOCO | {"spec": spec})

    return {
        f"{body}-{split}": world(body, split)
        for body, about in layouts.BODIES.items()
        for split in about.splits
    }


def _maze() -> dict[str, World]:
    from jaxoff.envs.maze import make_maze

    sizes = {"umaze": 3_333, "medium": 3_333, "large": 5_000}  # D4RL's 1, 2 and 4 million steps
    return {
        name: World(functools.partial(make_maze, f"maze/{name}"), ("waypoint", "random"), count)
        for name, count in sizes.items()
    }


# ------------------------------------------------------------------------------------------ recipes


def world_of(task: Task) -> World:
    """The scenario of a task. Raises UnknownName."""
    worlds = WORLDS[task.family]()
    if task.scenario not in worlds:
        raise unknown(f"scenario of {task.family}", task.scenario, worlds)
    return worlds[task.scenario]


def check(task: Task) -> World:
    """The scenario of a task whose quality exists.

    Raises UnknownName, or ValueError for a wrong composition.
    """
    world = world_of(task)
    if task.quality.startswith("mix="):
        compositions.parse(task.quality[4:], world.env().spec.num_agents)
    elif task.quality not in world.qualities and not (
        "band-poor" in world.qualities and (task.quality in _BANDS or _WSPM.fullmatch(task.quality))
    ):
        raise unknown("quality", task.quality, world.qualities)
    return world


def needs_pool(task: Task) -> bool:
    """Whether the recipe of a task, of any family, plays the policies of a pool."""
    return not task.source and task.family in WORLDS and task.quality not in ("random", "waypoint")


def make(task: Task, options: DataOptions) -> Episodes:
    """The episodes of a task."""
    world = check(task)
    env, quality, seed = world.env(), task.quality, options.seed
    composition = world.compositions.get(quality)
    if quality.startswith("mix="):
        composition = quality[4:]
    elif quality in _BALANCED:
        composition = f"[{_BALANCED[quality]}*{env.spec.num_agents}]"
    count = _size(world, quality) if options.episodes is None else options.episodes
    key = jax.random.key(seed)
    if quality == "random":
        return with_level(
            recipes.record(
                env, recipes.random_policy(env.spec), count, key, progress=options.progress
            ),
            0,
        )
    if quality == "waypoint":
        from jaxoff.envs.maze import waypoint_policy

        return recipes.record(
            env, waypoint_policy(env, "random"), count, key, noise=0.5, progress=options.progress
        )
    pool = pools.load(pools.path_of(env.spec.name, options.pools), env.spec)
    if composition is not None:
        return _composed(env, pool, composition, count, seed, options)
    if quality in _BANDS:
        return _banded(env, pool, {quality: count}, seed, options)
    if found := _WSPM.fullmatch(quality):
        percent, total = int(found[1]), int(found[2])
        if options.episodes is not None:
            raise ValueError(
                f"{task}: field 'episodes': expected none, since the name tells {total}, "
                f"found {options.episodes}"
            )
        poor = round(percent / 100 * total)
        return _banded(env, pool, {"band-poor": poor, "band-expert": total - poor}, seed, options)
    return _played(env, pool, *_members(pool, world, quality), count, seed, options)


def _size(world: World, quality: str) -> int:
    """Episodes of a dataset whose size nobody chose."""
    if quality == "medium-replay":
        return world.replay_episodes or world.episodes
    if quality in _BANDS:
        return _BAND_SIZE
    return 10_000 if quality in (*_SIT, "extreme", *_BALANCED) else world.episodes


def _members(pool: pools.Pool, world: World, quality: str) -> tuple[list[int], list[int]]:
    """Members that play one after the other in equal shares, and their levels for plots."""
    medium, best = (
        pool.nearest(world.medium),
        int(np.argmax([member.return_mean for member in pool.members])),
    )
    if quality == "medium-replay":
        use = pool.replay()
        return use, [pools.LEVELS.index(pool.members[k].level) for k in use]
    return {"medium": ([medium], [1]), "expert": ([best], [2]), "mixed": ([medium, best], [1, 2])}[
        quality
    ]


def _played(
    env: Env,
    pool: pools.Pool,
    use: list[int],
    levels: list[int],
    count: int,
    seed: int,
    options: DataOptions,
) -> Episodes:
    """`count` episodes in which all agents follow the same member: equal shares, in the order of
    `use`.
    """
    if count < len(use):
        raise ValueError(
            f"episodes: expected at least one of each of {len(use)} policies, found {count}"
        )
    turn = np.arange(count) * len(use) // count
    choice = np.broadcast_to(turn[:, None], (count, env.spec.num_agents))
    episodes = _record(env, pool, use, choice, jax.random.key(seed), options)
    return episodes._replace(
        behaviour_level=np.broadcast_to(
            np.array(levels, np.int32)[turn][:, None], choice.shape
        ).copy()
    )


def _record(
    env: Env,
    pool: pools.Pool,
    use: Sequence[int],
    choice: np.ndarray,
    key: Any,
    options: DataOptions,
) -> Episodes:
    """Episodes in which agent i of episode e follows member use[choice[e, i]]."""
    policy, memory = (
        pools.mixture(pool, env.spec, tuple(use)),
        pools.choices(pool, env.spec, choice, len(use)),
    )
    noise = None if env.spec.discrete else pool.noise
    return recipes.record(
        env, policy, len(choice), key, memory=memory, noise=noise, progress=options.progress
    )


def _composed(
    env: Env, pool: pools.Pool, text: str, count: int, seed: int, options: DataOptions
) -> Episodes:
    """Agent-wise levels: each agent of each episode follows a member of its level, drawn
    independently.
    """
    parts = compositions.parse(text, env.spec.num_agents)
    # [count, N]
    levels = np.repeat([part.levels for part in parts], compositions.sizes(parts, count), 0)
    by_level = {level: pool.of_level(pools.LEVELS[level]) for level in np.unique(levels).tolist()}
    use = sorted({k for members in by_level.values() for k in members})
    rng, choice = np.random.default_rng(seed), np.zeros(levels.shape, np.int32)
    for level, members in by_level.items():
        here = levels == level
        choice[here] = rng.choice([use.index(k) for k in members], int(here.sum()))
    episodes = _record(env, pool, use, choice, jax.random.key(seed), options)
    return episodes._replace(behaviour_level=levels.astype(np.int32))


def _banded(
    env: Env, pool: pools.Pool, wanted: dict[str, int], seed: int, options: DataOptions
) -> Episodes:
    """So many episodes of each band of returns, from all members alike; the first found, so sets of
    one seed are nested.
    """
    every = list(range(len(pool.members)))
    found: dict[str, list[Episodes]] = {band: [] for band in wanted}
    have = dict.fromkeys(wanted, 0)
    each = 64 * len(every)
    for turn in range(_ROUNDS):
        rng = np.random.default_rng([seed, turn])
        who = rng.permutation(np.arange(each) % len(every))
        choice = np.broadcast_to(who[:, None], (each, env.spec.num_agents))
        played = _record(
            env, pool, every, choice, jax.random.fold_in(jax.random.key(seed), turn), options
        )
        returns = returns_of(played)
        for band in wanted:
            low, high = _BANDS[band]
            inside = np.flatnonzero((returns >= low) & (returns < high))[
                : wanted[band] - have[band]
            ]
            if len(inside):
                level = list(_BANDS).index(band)
                found[band].append(with_level(take(played, inside), level))
            have[band] += len(inside)
        if all(have[band] >= wanted[band] for band in wanted):
            return concatenate([part for parts in found.values() for part in parts])
    raise ValueError(
        f"{env.spec.name}: expected {wanted} episodes in the bands, found {have} in "
        f"{_ROUNDS * each} episodes of the pool"
    )


# ----------------------------------------------------------------------------------------- families


WORLDS: dict[str, Callable[[], dict[str, World]]] = {
    "mpe": functools.cache(_mpe),
    "smax": functools.cache(functools.partial(_smax, "smax")),
    "smax-x": functools.cache(functools.partial(_smax, "smax-x")),
    "mamujoco": functools.cache(_mamujoco),
    "mabrax": functools.cache(_mabrax),
    "maze": functools.cache(_maze),
}
_MIX = "mix=<composition>, such as mix=50%[r r m]+50%[m*3]"


def _tasks(family: str) -> list[str]:
    return [
        f"{family}/{name}/{quality}"
        for name, world in WORLDS[family]().items()
        for quality in world.qualities
    ]


def _env(task: Task) -> Env:
    return check(task).env()


def _spec(task: Task) -> EnvSpec:
    world = check(task)
    return world.spec() if world.spec else world.env().spec


FAMILIES = [
    Family(
        name,
        functools.partial(_tasks, name),
        _env,
        make,
        spec=_spec,
        pattern=""
        if name == "maze"
        else f"{name}/<scenario>/{_MIX}"
        + ("; wspm-p<percent poor>-n<episodes>" if "smax" in name else ""),
    )
    for name in WORLDS
]
