"""Recipes of datasets that the policies of a pool play; see `worlds` for the qualities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np

from jaxoff.data import compositions, pools, recipes
from jaxoff.data.episodes import concatenate, returns_of, take, with_level
from jaxoff.data.worlds import BALANCED, BANDS, SIT_QUALITIES, WSPM, World, check
from jaxoff.errors import InvalidSetting
from jaxoff.names import DataOptions, Task
from jaxoff.types import Env, Episodes

_ROUNDS = 40  # maximum number of rounds in which all members play to fill the bands of returns
_BAND_SIZE = 1_000  # episodes of a band, the least that YANHUI asks for


def make(task: Task, options: DataOptions) -> Episodes:
    """The episodes of a task."""
    world = check(task)
    env, quality, seed = world.env(), task.quality, options.seed
    composition = world.compositions.get(quality)
    if quality.startswith("mix="):
        composition = quality[4:]
    elif quality in BALANCED:
        composition = f"[{BALANCED[quality]}*{env.spec.num_agents}]"
    count = _size(world, quality) if options.episodes is None else options.episodes
    key = jax.random.key(seed)
    if quality == "random":
        return with_level(
            recipes.record(
                env, recipes.random_policy(env.spec), count, key, progress=options.progress
            ),
            0,
        )
    if quality == "scripted":
        return recipes.record(
            env, recipes.scripted_policy(cast(Any, env)), count, key, progress=options.progress
        )
    if quality == "waypoint":
        from jaxoff.envs.maze import waypoint_policy

        return recipes.record(
            env,
            waypoint_policy(cast(Any, env), "random"),
            count,
            key,
            noise=0.5,
            progress=options.progress,
        )
    pool = pools.load(pools.path_of(env.spec.name, options.pools), env.spec)
    if composition is not None:
        return _composed(env, pool, composition, count, seed, options)
    if quality in BANDS:
        return _banded(env, pool, {quality: count}, seed, options)
    if found := WSPM.fullmatch(quality):
        percent, total = int(found[1]), int(found[2])
        if options.episodes is not None:
            raise InvalidSetting(
                f"{task}: field 'episodes': expected none, since the name tells {total}, "
                f"found {options.episodes}"
            )
        poor = round(percent / 100 * total)
        return _banded(env, pool, {"band-poor": poor, "band-expert": total - poor}, seed, options)
    return _played(env, pool, *_members(pool, world, quality), count, seed, options)


def _size(world: World, quality: str) -> int:
    """Default number of episodes of a dataset."""
    if quality == "medium-replay":
        return world.replay_episodes or world.episodes
    if quality in BANDS:
        return _BAND_SIZE
    return 10_000 if quality in (*SIT_QUALITIES, "extreme", *BALANCED) else world.episodes


def _members(pool: pools.Pool, world: World, quality: str) -> tuple[list[int], list[int]]:
    """Members of the pool that play equal shares of the episodes in turn, and their levels."""
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
    """`count` episodes in each of which all agents follow the same member.

    The members play equal shares of the episodes, in the order of `use`.
    """
    if count < len(use):
        raise InvalidSetting(
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
    """Episodes of a composition of levels per agent.

    Each agent of each episode follows a member of its level, drawn independently.
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
    """The wanted number of episodes of each band of returns, played by all members equally often.

    The first episodes found in a band are taken, so a smaller dataset of the same seed is part of a
    larger one.
    """
    every = list(range(len(pool.members)))
    found: dict[str, list[Episodes]] = {band: [] for band in wanted}
    have = dict.fromkeys(wanted, 0)
    each = 64 * len(every)
    for turn in range(_ROUNDS):
        rng = np.random.default_rng([seed, turn])
        who = rng.permutation(np.arange(each) % len(every))
        choice = np.broadcast_to(who[:, None], (each, env.spec.num_agents))
        key = jax.random.fold_in(jax.random.key(seed), turn)
        # The progress is that of the bands; this part of the episodes is found or not.
        played = _record(env, pool, every, choice, key, options._replace(progress=None))
        returns = returns_of(played)
        for band in wanted:
            low, high = BANDS[band]
            inside = np.flatnonzero((returns >= low) & (returns < high))[
                : wanted[band] - have[band]
            ]
            if len(inside):
                level = list(BANDS).index(band)
                found[band].append(with_level(take(played, inside), level))
            have[band] += len(inside)
        if options.progress:
            options.progress(sum(have.values()), sum(wanted.values()))
        if all(have[band] >= wanted[band] for band in wanted):
            return concatenate([part for parts in found.values() for part in parts])
    raise InvalidSetting(
        f"{env.spec.name}: expected {wanted} episodes in the bands, found {have} in "
        f"{_ROUNDS * each} episodes of the pool"
    )
