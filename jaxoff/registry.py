"""The registry of methods, samplers and task families, which other packages extend by entry points.

Groups of entry points: `jaxoff.learners` (a module with `Config` and `make(config, spec)`, or a
package of two such modules: see `forms`), `jaxoff.samplers` (a module with `Config` and
`make(config, batch_size, window)`), `jaxoff.families` (a `Family`, or a list of them). The
library's own methods, samplers and families are registered in the same way, so nothing here imports
a method, a sampler or a simulator.
"""

from __future__ import annotations

import functools
import os
import sys
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

from jaxoff import outlines
from jaxoff.errors import InvalidSetting
from jaxoff.names import DataOptions, Family, Sizes, Task, UnknownName, below, unknown
from jaxoff.outlines import Outline
from jaxoff.types import Env, EnvSpec, Episodes

KINDS = ("discrete", "continuous")  # kinds of actions


def _entry(group: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of a group by their names."""
    return {point.name: point for point in _entry_points(*map(_seen, sys.path)).select(group=group)}


def _seen(place: str) -> tuple[str, int]:
    """A folder that Python imports from, with a number that changes if a package is installed."""
    try:
        return place, os.stat(place or ".").st_mtime_ns
    except OSError:
        return place, 0


@functools.lru_cache(maxsize=1)
def _entry_points(*places: tuple[str, int]) -> Any:
    """All entry points of the packages in these places; a search reads a file of each package.

    The types of Python 3.11 and 3.12 differ, and both have `select`.
    """
    return metadata.entry_points()


# Parts that were added in this process, besides those of entry points.
_METHODS: dict[str, ModuleType] = {}
_SAMPLERS: dict[str, ModuleType] = {}
_FAMILIES: dict[tuple[str, str], Family] = {}


def register(name: str, module: Any) -> None:
    """Add a method in this process, as an entry point of `jaxoff.learners` would.

    module: as `forms` describes it, or any object with the same attributes. It replaces another
    that was added in this process. Raises InvalidSetting for the name of an installed method, a
    module that has neither `FORMS`, nor `Config` and `make`, or other kinds of actions than KINDS.
    """
    _check_new("method", name, "jaxoff.learners")
    if not hasattr(module, "FORMS") and not (hasattr(module, "Config") and hasattr(module, "make")):
        raise InvalidSetting(
            f"method '{name}': expected a module with FORMS, or with Config and make, "
            f"found {_name_of(module)}"
        )
    field = "FORMS" if getattr(module, "FORMS", None) else "ACTIONS"
    kinds = getattr(module, field, KINDS)
    if isinstance(kinds, str) or not set(kinds) or not set(kinds) <= set(KINDS):
        raise InvalidSetting(
            f"method '{name}': field '{field}': expected some of the kinds of actions {KINDS}, "
            f"found {kinds if isinstance(kinds, str) else tuple(kinds)!r}"
        )
    _METHODS[name] = _named(name, module)


def register_sampler(name: str, module: Any) -> None:
    """Add a sampler in this process, as an entry point of `jaxoff.samplers` would."""
    _check_new("sampler", name, "jaxoff.samplers")
    _SAMPLERS[name] = _named(name, module)


def register_family(family: Family) -> None:
    """Add a family of tasks in this process; one that was added before is replaced."""
    if (family.source, family.name) in _installed():
        raise InvalidSetting(
            f"family '{family.name}': expected a new name, found one that is registered"
        )
    _FAMILIES[family.source, family.name] = family


def _check_new(kind: str, name: str, group: str) -> None:
    if name in _entry(group):
        raise InvalidSetting(f"{kind} '{name}': expected a new name, found one that is registered")


def _name_of(module: Any) -> str:
    return getattr(module, "__name__", type(module).__name__)


def _named(name: str, module: Any) -> Any:
    """The module, or what stands for one, which has a name for messages."""
    if hasattr(module, "__name__"):
        return module
    return SimpleNamespace(
        **{k: getattr(module, k) for k in dir(module) if k[:2] != "__"}, __name__=name
    )


def learner_names() -> list[str]:
    """The names of all registered methods."""
    return sorted({*_entry("jaxoff.learners"), *_METHODS})


def forms(name: str) -> dict[str, ModuleType]:
    """Kind of actions, discrete or continuous -> the method's module with `Config` and `make`.

    A method registers one module, for both kinds or only for those in its `ACTIONS`; or a package
    whose `FORMS` has a module for each kind.
    """
    return forms_of(
        _METHODS[name] if name in _METHODS else _load("jaxoff.learners", "method", name)
    )


def forms_of(module: Any) -> dict[str, ModuleType]:
    """What `forms` returns for the method that is in a module or package."""
    found: dict[str, ModuleType] = getattr(module, "FORMS", None) or dict.fromkeys(
        getattr(module, "ACTIONS", KINDS), module
    )
    return found


def outlines_of(name: str) -> dict[str, Outline]:
    """Kind of actions -> name and docstring of the module that `forms` has for it.

    They are read from the source; a method whose source does not show them is imported.
    """
    point, found = _entry("jaxoff.learners").get(name), None
    if point is not None and name not in _METHODS and not point.attr:
        found = outlines.read(point.module, KINDS)
    return found or {
        kind: Outline(module.__name__, module.__doc__ or "") for kind, module in forms(name).items()
    }


def form_for(name: str, task: str | Task) -> str:
    """The kind of a task's actions, after a check that the method has a form for it.

    Neither the method nor the simulator is imported. Raises UnknownName where there is no such
    method or task, or where the method has no form for the task's actions.
    """
    if name not in learner_names():
        raise unknown("method", name, learner_names())
    kind = KINDS[0] if sizes(task).discrete else KINDS[1]
    if kind not in outlines_of(name):
        others = [other for other in learner_names() if kind in outlines_of(other)]
        raise UnknownName(
            f"method '{name}' has no form for the {kind} actions of '{task}'; methods that "
            f"have: {', '.join(others)}"
        )
    return kind


def learner(name: str, task: str | Task) -> ModuleType:
    """The module of a method for a task: it has `Config` and `make`.

    Raises UnknownName as `form_for` does.
    """
    return forms(name)[form_for(name, task)]


def online_learner(name: str) -> ModuleType:
    """The module of an on-policy method, whose `make` returns a training.on_policy.OnPolicy."""
    return _load("jaxoff.online", "online method", name)


def sampler_names() -> list[str]:
    """The names of all registered samplers."""
    return sorted({*_entry("jaxoff.samplers"), *_SAMPLERS})


def sampler(name: str) -> ModuleType:
    """The module of a sampler: it has `Config` and `make`."""
    return _SAMPLERS[name] if name in _SAMPLERS else _load("jaxoff.samplers", "sampler", name)


def modules_of() -> dict[str, set[str]]:
    """Name of each method and sampler -> the names of its modules, none of which is imported.

    The modules of a method's forms are among them only where it was registered in this process.
    """
    found: dict[str, set[str]] = {}
    for group in ("jaxoff.learners", "jaxoff.online", "jaxoff.samplers"):
        for name, point in _entry(group).items():
            found.setdefault(name, set()).add(point.module)
    for name, part in [*_METHODS.items(), *_SAMPLERS.items()]:
        modules = (part, *getattr(part, "FORMS", {}).values())
        found.setdefault(name, set()).update(map(_name_of, modules))
    return found


def acts(name: str) -> bool:
    """Whether a sampler collects its own data by acting, so that there is no dataset."""
    return hasattr(sampler(name), "make_acting")


def _load(group: str, kind: str, name: str) -> ModuleType:
    points = _entry(group)
    if name not in points:
        raise unknown(kind, name, {*points, *(_SAMPLERS if kind == "sampler" else ())})
    return points[name].load()


def families() -> dict[tuple[str, str], Family]:
    """(source, family) -> Family, for every registered family."""
    return _installed() | _FAMILIES


@functools.cache
def _installed() -> dict[tuple[str, str], Family]:
    """The families of entry points, which name a Family, or a list of them."""
    found: dict[tuple[str, str], Family] = {}
    for point in _entry("jaxoff.families").values():
        loaded = point.load()
        found |= {
            (family.source, family.name): family
            for family in ([loaded] if isinstance(loaded, Family) else loaded)
        }
    return found


def family_of(task: Task) -> Family:
    """The family that a task belongs to."""
    known = families()
    if (task.source, task.family) not in known:
        if os.path.isdir(str(task)):
            raise UnknownName(
                f"task '{task}': expected a dataset folder, or [source:]family/scenario/quality, "
                f"found a folder without a metadata.json{below(str(task))}"
            )
        names = [f"{source + ':' if source else ''}{name}" for source, name in known]
        raise unknown(
            "task family", f"{task.source + ':' if task.source else ''}{task.family}", names
        )
    return known[task.source, task.family]


def tasks() -> list[str]:
    """The named tasks of all families."""
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


def sizes(task: str | Task) -> Sizes:
    """Sizes of a task's environment; no simulator is imported where the family knows them."""
    parsed = Task.parse(task) if isinstance(task, str) else task
    family = family_of(parsed)
    if family.sizes is not None:
        return family.sizes(parsed)
    return Sizes.of(make_spec(parsed))


def make_data(task: str | Task, options: DataOptions = DataOptions()) -> Episodes:  # noqa: B008 (immutable)
    """The episodes of a task: from its recipe, or read from public data.

    `options.progress` is called with the number of all episodes at the end, if not before.
    """
    if not 0 <= options.seed < 2**32:
        raise InvalidSetting(f"field 'seed': expected 0 to {2**32 - 1}, found {options.seed}")
    parsed = Task.parse(task) if isinstance(task, str) else task
    made = family_of(parsed).data(parsed, options)
    if options.progress:
        options.progress(len(made.filled), len(made.filled))
    return made
