"""Environments, methods and samplers of somebody's own, by name: `jaxoff.register`, `make_family`.

A package names its parts in entry points instead (see `jaxoff/registry.py`, and `docs/template`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxoff import registry
from jaxoff.errors import InvalidSetting
from jaxoff.names import DataOptions, Family, Sizes, Task, unknown
from jaxoff.types import Env, EnvSpec, Episodes

RANDOM = "random"  # the quality that every environment has
_EPISODES = 1000  # of it, where no number is given
Recipe = Callable[[Env, DataOptions], Episodes]


def register(name: str, part: Any, *, data: Mapping[str, Recipe] | None = None) -> None:
    """Add a method, a sampler or an environment to those of this process, by a name.

    part: a method, anything with `Config` and `make(config, spec)`, or with `FORMS`; a sampler,
    with `Config` and `make(config, batch_size, window)`; or an environment under the name
    family/scenario: a `types.Env`, one of JaxMARL, or a function that makes one. data: quality ->
    recipe(env, options) of an environment's datasets; `random`, which plays at random, is always
    there. A name that was registered in this process is replaced, so that a cell of a notebook may
    be run again. Raises InvalidSetting for the name of an installed part, or another kind of part.
    """
    method = hasattr(part, "FORMS") or (hasattr(part, "Config") and hasattr(part, "make"))
    if not method and "/" not in name and (_describes_env(part) or inspect.isfunction(part)):
        raise _no_env_name(name)
    if not method and "/" in name:
        _register_environment(name, part, data or {})
        return
    if data is not None:
        raise InvalidSetting(
            f"register '{name}': field 'data': expected with an environment, found it with "
            f"{getattr(part, '__name__', type(part).__name__)}"
        )
    needed = [] if hasattr(part, "FORMS") else _needed(getattr(part, "make", None))
    if inspect.isclass(part) and needed[:1] == ["self"]:
        raise InvalidSetting(
            f"register '{name}': expected an instance of {part.__name__}, since its `make` takes "
            "self, found the class"
        )
    if method and len(needed) == 3:
        registry.register_sampler(name, part)
        return
    registry.register(name, part)


def _needed(make: Callable[..., Any] | None) -> list[str]:
    """The names of the arguments that a function must be given; none of what is no function."""
    if not callable(make):
        return []
    parameters = inspect.signature(make).parameters.values()
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [x.name for x in parameters if x.kind in kinds and x.default is x.empty]


def _register_environment(name: str, part: Any, data: Mapping[str, Recipe]) -> None:
    family, _, scenario = name.partition("/")
    if not family or not scenario or "/" in scenario or ":" in name:
        raise _no_env_name(name)
    if not _is_env(part) and not callable(part):
        raise InvalidSetting(
            f"register '{name}': expected an environment, or a function that makes one, found "
            f"{type(part).__name__}"
        )
    held = _OWN.setdefault(family, ({}, {}))
    made = make_family(family, {**held[0], scenario: part}, {**held[1], scenario: data})
    registry.register_family(made)
    _OWN[family] = {**held[0], scenario: part}, {**held[1], scenario: data}


# family -> the scenarios that were registered in this process, and their recipes
_OWN: dict[str, tuple[dict[str, Any], dict[str, Mapping[str, Recipe]]]] = {}


def _no_env_name(name: str) -> InvalidSetting:
    return InvalidSetting(
        f"register '{name}': expected family/scenario as the name of an environment"
    )


def _is_env(part: Any) -> bool:
    """Whether a part is an environment; a class of environments is a function that makes one."""
    return _describes_env(part) and not inspect.isclass(part)


def _describes_env(part: Any) -> bool:
    return isinstance(getattr(part, "spec", None), EnvSpec) or hasattr(part, "step_env")


def make_family(
    name: str, envs: Mapping[str, Any], data: Mapping[str, Mapping[str, Recipe]] | None = None
) -> Family:
    """A family of tasks from its environments, for an entry point of `jaxoff.families`.

    envs: scenario -> an `Env`, one of JaxMARL, or a function that makes one; it is made when it is
    first asked for. data: scenario -> quality -> recipe(env, options) -> Episodes; each scenario
    has the quality `random` besides.
    """
    recipes = {scenario: {RANDOM: _random, **(data or {}).get(scenario, {})} for scenario in envs}

    def tasks() -> list[str]:
        return [f"{name}/{scenario}/{q}" for scenario, known in recipes.items() for q in known]

    @functools.cache
    def made(scenario: str) -> Env:
        part = envs[scenario]
        part = part if _is_env(part) else part()
        if hasattr(part, "step_env"):
            from jaxoff.envs.from_jaxmarl import FromJaxMARL

            try:
                part = FromJaxMARL(part, name=f"{name}/{scenario}")
            except ValueError as error:
                raise InvalidSetting(str(error)) from error
        return part

    def env(task: Task) -> Env:
        if task.scenario not in envs:
            raise unknown("task", str(task), tasks())
        return made(task.scenario)

    def episodes(task: Task, options: DataOptions) -> Episodes:
        world = env(task)
        if task.quality not in recipes[task.scenario]:
            raise unknown("task", str(task), tasks())
        return recipes[task.scenario][task.quality](world, options)

    return Family(name, tasks, env, episodes, sizes=lambda task: Sizes.of(env(task).spec))


def _random(env: Env, options: DataOptions) -> Episodes:
    """Episodes of uniformly random play."""
    import jax

    from jaxoff.data.recipes import random_policy, record

    count, key = options.episodes or _EPISODES, jax.random.key(options.seed)
    return record(env, random_policy(env.spec), count, key, progress=options.progress)
