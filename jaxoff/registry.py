"""Names to makers. Other packages add methods, samplers and task families through entry points.

Groups: `jaxoff.learners` (a module with `Config` and `make(config, spec)`), `jaxoff.samplers` (a module
with `Config` and `make(config, batch_size, window)`), `jaxoff.families` (a `Family`). The library itself
never imports a method.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import tomllib
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from importlib import metadata, resources
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp

from jaxoff.types import Env, EnvSpec, Episodes


class UnknownName(ValueError):
    """A task, method, sampler or field that does not exist; the message lists the nearest names."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that is not among `known`."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known) or 'none'}"
    return UnknownName(f"unknown {kind} '{name}'; {hint}")


@dataclasses.dataclass(frozen=True)
class Task:
    """`[source:]family/scenario/quality`; source "" is our own environment with data from a recipe."""

    source: str
    family: str
    scenario: str
    quality: str

    @classmethod
    def parse(cls, text: str) -> Task:
        """Parse a task string; raises UnknownName on a wrong form."""
        source, _, rest = text.rpartition(":")
        parts = rest.split("/")
        if len(parts) != 3 or not all(parts):
            raise UnknownName(f"task '{text}': expected [source:]family/scenario/quality, found {len(parts)} part(s)")
        return cls(source, *parts)

    def __str__(self) -> str:
        return f"{self.source + ':' if self.source else ''}{self.family}/{self.scenario}/{self.quality}"

    @property
    def slug(self) -> str:
        """The task as a file name."""
        return str(self).replace("/", "-").replace(":", "-")


class Family(NamedTuple):
    """A family of tasks, of one source.

    tasks(): every named task string. env(task) -> Env. data(task, options) -> Episodes. Both raise
    UnknownName for a scenario or quality that they do not have. `pattern` describes further task
    strings that are accepted, if any. spec(task): the environment's, where that takes long to build.
    """

    name: str
    tasks: Callable[[], list[str]]
    env: Callable[[Task], Env]
    data: Callable[[Task, DataOptions], Episodes]
    source: str = ""
    pattern: str = ""
    spec: Callable[[Task], EnvSpec] | None = None


class DataOptions(NamedTuple):
    """What a dataset is made from: recipe seed and size, or the folder of public data.

    pools: a folder of policy pools, looked in before the shipped ones. progress(done, all) is told of episodes made.
    """

    seed: int = 0
    episodes: int | None = None
    data_dir: str | None = None
    pools: str | None = None
    progress: Callable[[int, int], None] | None = None


def _entry(group: str) -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=group)}


def learner_names() -> list[str]:
    """Every registered method."""
    return sorted(_entry("jaxoff.learners"))


def learner(name: str) -> ModuleType:
    """The module of a method: it has `Config` and `make`."""
    return _load("jaxoff.learners", "method", name)


def online_learner(name: str) -> ModuleType:
    """The module of an on-policy method: its `make` gives a train.on_policy.OnPolicy."""
    return _load("jaxoff.online", "online method", name)


def sampler_names() -> list[str]:
    """Every registered sampler; `uniform` and `online` are built in."""
    return sorted({"uniform", "online", *_entry("jaxoff.samplers")})


def sampler(name: str) -> ModuleType:
    """The module of a sampler: it has `Config` and `make`."""
    if name == "uniform":
        from jaxoff.data import uniform_sampler

        return uniform_sampler
    if name == "online":
        from jaxoff.data import online_sampler

        return online_sampler
    return _load("jaxoff.samplers", "sampler", name)


def _load(group: str, kind: str, name: str) -> ModuleType:
    points = _entry(group)
    if name not in points:
        raise unknown(kind, name, points)
    return points[name].load()


@functools.cache
def families() -> dict[tuple[str, str], Family]:
    """(source, family) -> Family: the built-in ones, and those of other packages."""
    from jaxoff.data.families import BUILT_IN

    found = [*BUILT_IN, *(point.load() for point in _entry("jaxoff.families").values())]
    return {(family.source, family.name): family for family in found}


def family_of(task: Task) -> Family:
    """The family that a task belongs to."""
    known = families()
    if (task.source, task.family) not in known:
        names = [f"{source + ':' if source else ''}{name}" for source, name in known]
        raise unknown("task family", f"{task.source + ':' if task.source else ''}{task.family}", names)
    return known[task.source, task.family]


def tasks() -> list[str]:
    """Every named task of every family."""
    return [name for family in families().values() for name in family.tasks()]


def make_env(task: str | Task) -> Env:
    """The environment of a task."""
    parsed = Task.parse(task) if isinstance(task, str) else task
    return family_of(parsed).env(parsed)


def make_spec(task: str | Task) -> EnvSpec:
    """The specification of a task's environment."""
    parsed = Task.parse(task) if isinstance(task, str) else task
    family = family_of(parsed)
    return family.spec(parsed) if family.spec else family.env(parsed).spec


def make_data(task: str | Task, options: DataOptions = DataOptions()) -> Episodes:  # noqa: B008 (immutable)
    """The episodes of a task: from its recipe, or read from public data."""
    parsed = Task.parse(task) if isinstance(task, str) else task
    return family_of(parsed).data(parsed, options)


def check_quality(task: Task, known: Iterable[str]) -> None:
    """Raise UnknownName unless the task is among `known` task strings."""
    known = list(known)
    if str(task) not in known:
        raise unknown("task", str(task), known)


# Fields of a Config: a budget of a stage in filled slots of whole episodes (their steps, and one more each), as PyMARL's
# `t_max` counts, and the number of updates that follows from it once the data are known. A budget of 0 is none.
BUDGETS = {"slots": "steps", "behaviour_slots": "behaviour_steps"}


def fields(config_class: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a Config, by name."""
    return {field.name: field for field in dataclasses.fields(config_class)}


def is_leaf(field: dataclasses.Field[Any]) -> bool:
    """Whether a Config field is a traced leaf, which may be swept without a recompile."""
    return field.metadata.get("pytree_node", True)


def resolve(module: ModuleType, task: Task, overrides: Mapping[str, Any], kind: str = "field") -> Any:
    """A Config: its defaults, then the module's settings for the task, then the user's overrides.

    Settings are data: the file `settings.toml` beside the module, [method."task pattern"] tables; later
    ones win. Every leaf becomes a float32 array. Raises UnknownName or TypeError naming the field.
    """
    values = dict(_settings(module, task))
    for slots, updates in BUDGETS.items():
        if updates in overrides and slots not in overrides:
            values.pop(slots, None)  # a number of updates that a user gives takes the place of a budget in the settings
    values.update(overrides)
    known = fields(module.Config)
    for name in values:
        if name not in known:
            raise unknown(f"{kind} of {module.__name__}.Config", name, known)
    defaults, hints = module.Config(), get_type_hints(module.Config)
    typed = {}
    for name, field in known.items():
        default = getattr(defaults, name)
        value = _typed(f"{module.__name__}.Config.{name}", values.get(name, default), default)
        if get_origin(hints[name]) is Literal and value not in (words := get_args(hints[name])):
            raise ValueError(f"{kind} '{name}': expected one of {', '.join(map(str, words))}, found '{value}'")
        typed[name] = jnp.asarray(value, jnp.float32) if is_leaf(field) else value
    return module.Config(**typed)


def _typed(name: str, value: Any, default: Any) -> Any:
    if isinstance(value, jax.Array):
        return value
    wanted = type(default)
    if isinstance(value, str) and wanted is tuple and default:
        return tuple(_typed(name, part, default[0]) for part in value.split(","))
    if isinstance(value, str) and wanted in (int, float, bool):
        try:
            parsed = {"true": True, "false": False}.get(value.lower()) if wanted is bool else wanted(value)
        except ValueError:
            parsed = None
        if parsed is None:
            raise TypeError(f"{name}: expected {wanted.__name__}, found '{value}'")
        return parsed
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default is not None and not isinstance(value, wanted):
        raise TypeError(f"{name}: expected {wanted.__name__}, found {value!r}")
    return value


def _settings(module: ModuleType, task: Task) -> dict[str, Any]:
    package = module.__name__.rpartition(".")[0]
    file = resources.files(package) / "settings.toml" if package else None
    if file is None or not file.is_file():
        return {}
    table = tomllib.loads(file.read_text()).get(module.__name__.rpartition(".")[2], {})
    merged: dict[str, Any] = {}
    for pattern, values in table.items():
        if fnmatch(f"{task.family}/{task.scenario}/{task.quality}", pattern):
            merged.update(values)
    return merged
