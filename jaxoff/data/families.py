"""The task families that come with the library: matrix games, Bridge, polynomial games.

Names of tasks are read and checked without JAX; environments and recipes are imported only when one
is made.

A Bridge quality may end in `-h<steps>`: its episodes are then cut to that many steps, and those
that were longer are marked truncated (AlberDICE trains on 20 of 50 steps).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from jaxoff.data import folders, games, scenarios, worlds
from jaxoff.data.public import PUBLIC
from jaxoff.errors import InvalidSetting
from jaxoff.names import DataOptions, Family, Sizes, Task, check_quality, unknown
from jaxoff.types import Env, EnvSpec, Episodes

_POLY_TASKS = {name: ["uniform"] for name in games.POLYNOMIALS}
_POLY_TASKS["twin_peaks"] += [
    "origin-s0",
    "origin-s0.3",
    "origin-s1",
    "peak-s0",
    "peak-s0.2",
    "peak-s0.3",
    "peak-s0.5",
    "peak-s1",
]
_CUT = re.compile(r"(.+)-h([1-9]\d*)")
_PUBLIC = {  # task -> folder of the published dataset
    "alberdice:matrix/xor/a": "mmdp_game_1_from_start/buffer_02",
    "alberdice:matrix/xor/b": "mmdp_game_1_from_start/buffer_02_20",
    "alberdice:matrix/xor/c": "mmdp_game_1_from_start/buffer_00_02_20",
    "alberdice:matrix/xor/d": "mmdp_game_1_from_start/buffer_random",
    "alberdice:grid/bridge/optimal": "bridge_from_start/buffer_optimal",
    "alberdice:grid/bridge/mixed": "bridge_from_start/buffer_mix",
}


# ------------------------------------------------------------------------------------------- matrix


def _matrix_tasks() -> list[str]:
    return [f"matrix/xor/{q}" for q in games.XOR_ACTIONS] + [
        f"matrix/{s}/{q}" for s in games.MNE_REWARDS for q in games.MNE_MARGINALS
    ]


def _matrix_sizes(task: Task) -> Sizes:
    check_quality(task, _matrix_tasks())
    return scenarios.sizes(task)


def _matrix_env(task: Task) -> Env:
    check_quality(task, _matrix_tasks())
    from jaxoff.envs.games.matrix import XOR, make_matrix, mne

    name = f"matrix/{task.scenario}"
    return make_matrix(
        name, XOR if task.scenario == "xor" else mne(games.MNE_REWARDS[task.scenario])
    )


def _matrix_data(task: Task, options: DataOptions) -> Episodes:
    check_quality(task, _matrix_tasks())
    from jaxoff.data import recipes

    if task.scenario == "xor":
        return recipes.xor(task.quality, *_usual(options))
    reward = games.MNE_REWARDS[task.scenario]
    return recipes.mne_samples(task.quality, reward, *_usual(options))


def _usual(options: DataOptions) -> tuple[Any, ...]:
    """The options that every recipe of a game takes."""
    return options.seed, options.episodes, options.progress


# --------------------------------------------------------------------------------------------- grid


def _grid_tasks() -> list[str]:
    return [f"grid/bridge/{quality}" for quality in games.BRIDGE_QUALITIES]


def _without_cut(task: Task) -> tuple[Task, int | None]:
    found = _CUT.fullmatch(task.quality)
    return (
        (Task(task.source, task.family, task.scenario, found[1]), int(found[2]))
        if found
        else (task, None)
    )


def _grid_sizes(task: Task) -> Sizes:
    check_quality(_without_cut(task)[0], _grid_tasks())
    return scenarios.sizes(task)


def _grid_env(task: Task) -> Env:
    check_quality(_without_cut(task)[0], _grid_tasks())
    from jaxoff.envs.games.bridge import make_bridge

    return make_bridge("grid/bridge")


def _grid_data(task: Task, options: DataOptions) -> Episodes:
    whole, steps = _without_cut(task)
    check_quality(whole, _grid_tasks())
    from jaxoff.data import recipes
    from jaxoff.data.episodes import cut

    episodes = recipes.bridge(whole.quality, *_usual(options))
    return cut(episodes, steps) if steps else episodes


# --------------------------------------------------------------------------------------------- poly


def _poly_tasks() -> list[str]:
    return [
        f"poly/{game}/{quality}" for game, qualities in _POLY_TASKS.items() for quality in qualities
    ]


def _poly_sizes(task: Task) -> Sizes:
    try:
        games.parse_polynomial(task.scenario, task.quality)
    except InvalidSetting:
        raise unknown("task", str(task), _poly_tasks()) from None
    return scenarios.sizes(task)


def _poly_env(task: Task) -> Env:
    _poly_sizes(task)
    from jaxoff.envs.games.polynomial import GAMES, make_polynomial

    return make_polynomial(f"poly/{task.scenario}", GAMES[task.scenario])


def _poly_data(task: Task, options: DataOptions) -> Episodes:
    _poly_sizes(task)
    from jaxoff.data import recipes

    return recipes.polynomial(task.scenario, task.quality, *_usual(options))


# --------------------------------------------------------------------- data published by AlberDICE


def _public_tasks(family: str) -> list[str]:
    return [name for name in _PUBLIC if name.startswith(f"alberdice:{family}/")]


def _public_sizes(task: Task) -> Sizes:
    whole = _without_cut(task)[0] if task.family == "grid" else task
    check_quality(whole, _public_tasks(task.family))
    return scenarios.sizes(task)


def _public_matrix_env(task: Task) -> Env:
    check_quality(task, _public_tasks("matrix"))
    from jaxoff.envs.games.matrix import XOR, make_matrix

    return make_matrix("alberdice:matrix/xor", XOR, plays=50, state=(0.0, 1.0, 0.0, 1.0))


def _public_grid_env(task: Task) -> Env:
    check_quality(_without_cut(task)[0], _public_tasks("grid"))
    from jaxoff.envs.games.bridge import make_bridge

    return make_bridge("alberdice:grid/bridge")


def _public_data(task: Task, options: DataOptions) -> Episodes:
    whole, steps = _without_cut(task) if task.family == "grid" else (task, None)
    check_quality(whole, _public_tasks(task.family))
    import numpy as np

    from jaxoff.data.convert import alberdice
    from jaxoff.data.episodes import cut, take

    spec = (_public_matrix_env if task.family == "matrix" else _public_grid_env)(whole).spec
    episodes = alberdice.read(public_folder(str(whole), options.data_dir), spec)
    if options.episodes is not None:
        have = episodes.reward.shape[0]
        if not 1 <= options.episodes <= have:
            raise InvalidSetting(
                f"{task}: field 'episodes': expected 1..{have}, found {options.episodes}"
            )
        episodes = take(
            episodes,
            np.sort(np.random.default_rng(options.seed).permutation(have)[: options.episodes]),
        )
    return cut(episodes, steps) if steps else episodes


def public_folder(task: str, data_dir: str | None) -> Path:
    """The folder of a published AlberDICE dataset, below data_dir or data_dir/alberdice.

    Raises FileNotFoundError naming the folder that is expected.
    """
    wanted = _PUBLIC[task]
    if data_dir is None:
        raise FileNotFoundError(
            f"{task}: field 'data_dir': expected the folder that holds {wanted}, found "
            "none; pass --data-dir"
        )
    for folder in (Path(data_dir) / wanted, Path(data_dir) / "alberdice" / wanted):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"{task}: expected the folder {Path(data_dir) / wanted}, which does not exist"
    )


# ----------------------------------------------------------------------------- tasks on simulators


def _world_tasks(family: str) -> list[str]:
    return [
        f"{family}/{name}/{quality}"
        for name, world in worlds.WORLDS[family]().items()
        for quality in world.qualities
    ]


def _world_env(task: Task) -> Env:
    return worlds.check(task).env()


def _world_spec(task: Task) -> EnvSpec:
    return worlds.spec_of(worlds.check(task))


def _world_sizes(task: Task) -> Sizes:
    worlds.check(task)
    return worlds.sizes(task)


def _world_data(task: Task, options: DataOptions) -> Episodes:
    from jaxoff.data.pool_recipes import make

    return make(task, options)


def _checked(family: Family) -> Family:
    """The family, whose data are read from files and checked as all datasets are."""

    def data(task: Task, options: DataOptions) -> Episodes:
        from jaxoff.data.checks import validate

        return validate(family.data(task, options), family.env(task).spec, str(task))

    return family._replace(data=data)


_GRID_PATTERN = "grid/bridge/<quality>-h<steps>: episodes cut to so many steps"
_POLY_PATTERN = (
    "poly/<game>/normal-m<mean>-s<sigma>; poly/twin_peaks/origin-s<sigma>, peak-s<sigma>"
)
_MIX = "mix=<composition>, such as mix=50%[r r m]+50%[m*3]"
_ON_SIMULATORS = [
    Family(
        name,
        functools.partial(_world_tasks, name),
        _world_env,
        _world_data,
        spec=_world_spec,
        sizes=_world_sizes,
        pattern=""
        if name == "maze"
        else f"{name}/<scenario>/{_MIX}"
        + ("; wspm-p<percent poor>-n<episodes>" if "smax" in name else ""),
        packages=worlds.SIMULATORS.get(name, ()),
    )
    for name in worlds.WORLDS
]
_ALBERDICE = [
    Family(
        "matrix",
        lambda: _public_tasks("matrix"),
        _public_matrix_env,
        _public_data,
        source="alberdice",
        sizes=_public_sizes,
    ),
    Family(
        "grid",
        lambda: _public_tasks("grid"),
        _public_grid_env,
        _public_data,
        source="alberdice",
        sizes=_public_sizes,
        pattern=f"alberdice:{_GRID_PATTERN}",
    ),
]
BUILT_IN: list[Family] = [
    Family("matrix", _matrix_tasks, _matrix_env, _matrix_data, sizes=_matrix_sizes),
    Family("grid", _grid_tasks, _grid_env, _grid_data, pattern=_GRID_PATTERN, sizes=_grid_sizes),
    Family("poly", _poly_tasks, _poly_env, _poly_data, pattern=_POLY_PATTERN, sizes=_poly_sizes),
    *map(_checked, _ALBERDICE),
    *_ON_SIMULATORS,
    *map(_checked, PUBLIC),
    folders.FAMILY,
]
