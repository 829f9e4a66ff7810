"""Configs of methods and samplers: their fields, and how values of a task and a user fill them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import math
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from importlib import resources
from importlib.resources.abc import Traversable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from jaxoff import registry
from jaxoff.errors import InvalidFile, InvalidSetting, WrongType
from jaxoff.names import Task, unknown

if TYPE_CHECKING:
    from jaxoff.types import EnvSpec


def static(default: Any, least: float | None = None) -> Any:
    """A field of a Config that is fixed when a program is compiled: a size, a switch or a word.

    Other fields are traced. The field is marked like one of `flax.struct.field(pytree_node=False)`.
    least: the smallest value, where it is not the one that `limits_of` has.
    """
    return dataclasses.field(default=default, metadata={"pytree_node": False, "least": least})


# Pairs of fields of a Config: the budget of a stage in slots, and the number of updates that
# follows from it once the dataset is known. Slots are counted like PyMARL's `t_max`: filled slots
# of whole episodes, each with its steps and one slot more. A budget of 0 stands for no budget.
BUDGETS = {"slots": "steps", "behaviour_slots": "behaviour_steps"}
# Fields that the training loop reads, whatever the method.
OF_THE_LOOP = ("steps", "batch_size", "window", *BUDGETS)


def config_fields(config_class: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a Config, by name."""
    return {field.name: field for field in dataclasses.fields(config_class)}


def is_leaf(field: dataclasses.Field[Any]) -> bool:
    """Whether a Config field is a traced leaf, which may be swept without a recompile."""
    return field.metadata.get("pytree_node", True)


class Setting(NamedTuple):
    """A field of a Config, with its value for a task."""

    name: str
    value: Any
    default: Any
    source: str  # where the value comes from: default, settings.toml, or you
    sweeps: bool  # whether --grid may sweep it within one program
    words: tuple[str, ...]  # the words that are allowed, for a field whose value is a word
    meaning: str


SizeName = Literal["laptop", "paper"]


def settings_of(
    module: ModuleType, task: Task, overrides: Mapping[str, Any], size: SizeName = "laptop"
) -> list[Setting]:
    """Every setting of a method for a task, in the order of its Config.

    Raises what `resolve_config` does.
    """
    config, defaults, hints = (
        resolve_config(module, task, overrides, size=size),
        module.Config(),
        get_type_hints(module.Config),
    )
    tuned, meanings, found = _settings(module, task, size), meanings_of(module.Config), []
    for name, field in config_fields(module.Config).items():
        source = "you" if name in overrides else "settings.toml" if name in tuned else "default"
        words = tuple(map(str, get_args(hints[name]))) if get_origin(hints[name]) is Literal else ()
        value, default = getattr(config, name), getattr(defaults, name)
        # A leaf is a float32 array here, so its last digits are rounding errors.
        plain = float(f"{float(value):.6g}") if is_leaf(field) else value
        if name in BUDGETS and source == "settings.toml" and not value:
            source = "you"  # a number of updates that the user gave has replaced the budget
        found.append(
            Setting(name, plain, default, source, is_leaf(field), words, meanings.get(name, ""))
        )
    return found


def meanings_of(config_class: type) -> dict[str, str]:
    """The meaning of each field: the comment behind it, or else the comment lines above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(config_class).split("\n"):
        code, _, comment = line.partition("  # ")
        name = re.match(r"    (\w+): ", code)
        if name:
            found[name.group(1)] = (comment or " ".join(above)).strip()
        stripped = line.strip()
        above = [*above, stripped.removeprefix("# ")] if stripped.startswith("# ") else []
    return found


def resolve_config(
    module: ModuleType, task: Task, overrides: Mapping[str, Any], *, size: SizeName = "laptop"
) -> Any:
    """A Config: its defaults, then the module's settings for the task, then the user's overrides.

    Settings are in the file `settings.toml` beside the module, see `_settings`. Every leaf becomes
    a float32 array of NumPy, since arrays of JAX would compile a program for each operation of the
    set-up. Raises UnknownName, WrongType or InvalidSetting naming the field, or what `_settings`
    does.
    """
    import numpy as np

    values = _settings(module, task, size)
    for slots, updates in BUDGETS.items():
        if updates in overrides and slots not in overrides:
            # A number of updates that the user gives replaces a budget in the settings.
            values.pop(slots, None)
    values.update(overrides)
    known = config_fields(module.Config)
    for name in values:
        if name not in known:
            raise unknown(f"field of {module.__name__}.Config", name, known)
    defaults, hints = module.Config(), get_type_hints(module.Config)
    made = {}
    for name, field in known.items():
        default, shown = getattr(defaults, name), f"{module.__name__}.Config.{name}"
        if default is None and is_leaf(field):
            raise InvalidSetting(
                f"{shown}: expected a number as the default of a field that is traced, found None; "
                "a field that may be None is static(None)"
            )
        made[name] = typed(shown, values.get(name, default), default, hints[name])
    config = checked(module.Config(**made))
    return config.replace(
        **{
            name: np.asarray(made[name], np.float32)
            for name, field in known.items()
            if is_leaf(field)
        }
    )


ANY = (-math.inf, math.inf)
COUNT, SHARE = (1, math.inf), (0, 1)
MAX_WHOLE = 2**31 - 1  # largest size of a whole number of a setting, with either sign
_ANY = "start_0 start_1 search_mean log_std return_low return_high target_return"
_COUNTS = """
    batch_size steps hidden critic_hidden actor_hidden vae_hidden mixer_hidden width
    decomposition_hidden embed layers heads experts members candidates n_step support anchors
    num_envs segment iterations epochs minibatches snapshots capacity collect rounds episodes
    policy_every policy_steps search_iterations search_samples search_elites period epsilon_steps
    epsilon_updates target_every num_samples
"""
_SHARES = """
    gamma trace polyak mimic zeta soft_min epsilon_start epsilon_end entropy_until
"""
# Smallest and largest value of a setting of the library, by its name; any other number may be 0 or
# larger. See `limits_of` for settings of other packages.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),
    "window": (-1, math.inf),  # -1: whole episodes, 0: single steps, else a length
    "refresh": (-1, math.inf),  # -1: all items, 0: those of the training batch, else their number
    **dict.fromkeys(_ANY.split(), ANY),
    **dict.fromkeys(_COUNTS.split(), COUNT),
    **dict.fromkeys(_SHARES.split(), SHARE),
    "priority_trim": (0, 0.5),  # of each end
}


def limits_of(config_class: type, name: str) -> tuple[float, float]:
    """The smallest and the largest number that a field of a Config takes.

    They are those of RANGES in the library's own methods and samplers, and for what the training
    loop reads. Other packages may use the same names for something else, so their fields take any
    number, from the `least` on that the field states.
    """
    homes = [base for base in config_class.__mro__ if name in inspect.get_annotations(base)]
    ours = f"{homes[0].__module__}.".startswith("jaxoff.")
    least, most = RANGES.get(name, (0, math.inf)) if ours or name in OF_THE_LOOP else ANY
    stated = config_fields(config_class)[name].metadata.get("least")
    return least if stated is None else stated, most


def checked(config: Any, kind: str = "field") -> Any:
    """Return the config if its words are allowed and its numbers are finite and in their ranges.

    Raises InvalidSetting naming the field, what is allowed, what was found, and for a word the
    nearest allowed one.
    """
    import jax

    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if get_origin(hints[field.name]) is Literal:
            check_word(field.name, value, get_args(hints[field.name]), kind)
        elif not isinstance(value, jax.Array):
            for number in value if isinstance(value, tuple) else (value,):
                check_number(field.name, number, kind, limits_of(type(config), field.name))
    return config


def refuse_unread(method: str, config: Any, names: Iterable[str], spec: EnvSpec) -> None:
    """Raise InvalidSetting for a setting that a method does not read with the actions of an
    environment, if it has another value than its default. A traced value is not known.
    """
    import jax
    import numpy as np

    kind = "discrete" if spec.discrete else "continuous"
    for name in names:
        usual, found = getattr(type(config)(), name), getattr(config, name)
        if isinstance(found, jax.core.Tracer):
            continue
        if np.asarray(found) != np.asarray(usual).astype(np.asarray(found).dtype):
            raise InvalidSetting(
                f"{method}: field '{name}': expected {as_text(usual)}, since the {kind} actions of "
                f"{spec.name} do not read it, found {as_text(found)}"
            )


def as_text(value: Any) -> str:
    """A value of a setting as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_word(name: str, value: Any, words: tuple[Any, ...], kind: str = "field") -> None:
    """Raise InvalidSetting unless a value is one of the given words."""
    if value not in words:
        near = difflib.get_close_matches(str(value), map(str, words), n=1)
        hint = f"; nearest: {near[0]}" if near else ""
        raise InvalidSetting(
            f"{kind} '{name}': expected one of {', '.join(map(str, words))}, found '{value}'{hint}"
        )


def check_number(
    name: str, value: Any, kind: str = "field", limits: tuple[float, float] | None = None
) -> None:
    """Raise InvalidSetting for a number that is not finite, not in its range, or of another size
    than its type holds.

    limits: smallest and largest value, by default those of RANGES. Whole numbers are below 2^31 in
    size; a float that is not 0 but becomes 0 or infinite in float32 is refused.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    least, most = RANGES.get(name, (0, math.inf)) if limits is None else limits
    if isinstance(value, float) and not math.isfinite(value):
        wanted = "a finite number"
    elif not least <= value <= most:
        wanted = f"{least} to {most}" if math.isfinite(most) else f"at least {least}"
    elif isinstance(value, int) and not math.isfinite(most) and abs(value) > MAX_WHOLE:
        wanted = f"at most {MAX_WHOLE}" if value > 0 else f"at least {-MAX_WHOLE}"
    elif isinstance(value, float) and value != 0 and abs(as_float32(value)) in (0.0, math.inf):
        wanted = "a number that float32 holds"
    else:
        return
    found = f"{value:g}" if isinstance(value, float) else str(value)
    raise InvalidSetting(f"{kind} '{name}': expected {wanted}, found {found}")


def as_float32(value: float) -> float:
    """The float32 that is nearest to a number; it may be infinite."""
    import numpy as np

    with np.errstate(over="ignore"):
        return float(np.float32(value))


def typed(name: str, value: Any, default: Any, hint: Any = None) -> Any:
    """A value, which may be text, as the type of a field's default. Raises WrongType.

    hint: the field's annotation, which tells the type where the default is None: `float | None`.
    """
    import jax
    import numpy as np

    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    kinds = [kind for kind in get_args(hint) if kind in (bool, int, float, str)]
    if default is None and value is not None and kinds:
        for kind in kinds:
            with contextlib.suppress(WrongType):
                return typed(name, value, kind())
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise WrongType(f"{name}: expected {expected}, found {value!r}")
    wanted = type(default)
    if isinstance(value, str) and wanted is tuple and default:
        return tuple(typed(name, part, default[0]) for part in value.split(","))
    if isinstance(value, str) and wanted in (int, float, bool):
        try:
            parsed = (
                {"true": True, "false": False}.get(value.lower())
                if wanted is bool
                else wanted(value)
            )
        except ValueError:
            parsed = None
        if parsed is None:
            raise WrongType(f"{name}: expected {wanted.__name__}, found '{value}'")
        return parsed
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if default is not None and not fits:
        raise WrongType(f"{name}: expected {wanted.__name__}, found {value!r}")
    return value


def _settings(module: ModuleType, task: Task, size: SizeName) -> dict[str, Any]:
    """The settings of a method for a task, from the file `settings.toml` beside the method.

    The file has tables [method."task pattern"], where `method` is a name that the method is
    registered by, or its module's; a later table overrides earlier ones. At size laptop, the tables
    [laptop."*"."task pattern"] of all methods come next, of which a method takes the numbers that
    it has, and then its own, [laptop.method."task pattern"]. What is registered, but is no module,
    has no file. Raises what `_tables` does.
    """
    home = module.__name__ if isinstance(module, ModuleType) else ""
    # A form of a method has the names and the settings of its package.
    if hasattr(sys.modules.get(home.rpartition(".")[0]), "FORMS"):
        home = home.rpartition(".")[0]
    package, _, name = home.rpartition(".")
    file = resources.files(package) / "settings.toml" if package else None
    if file is None or not file.is_file():
        return {}
    tables, known = _tables(file, package), registry.modules_of()
    laptop = tables.pop("laptop", {}) if size == "laptop" else {}
    names = {name, *(each for each in known if known[each] & {home, module.__name__})}
    defaults, merged = module.Config(), dict[str, Any]()
    # A field of the same name may be no number, as the widths of several layers.
    fits = lambda field: isinstance(getattr(defaults, field, None), int | float)
    for chosen, wanted in ((tables, names), (laptop, {"*"}), (laptop, names)):
        for method in (each for each in chosen if each in wanted):
            for pattern, values in chosen[method].items():
                if fnmatch(f"{task.family}/{task.scenario}/{task.quality}", pattern):
                    merged |= {key: x for key, x in values.items() if method != "*" or fits(key)}
    return merged


def _tables(file: Traversable, package: str) -> dict[str, Any]:
    """The tables of the file `settings.toml` in a package.

    Raises InvalidFile or UnknownName, naming the file and the table, for one that nothing reads:
    its name is that of no method, sampler or module of the package, or no task fits its pattern.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidFile(f"{file}: expected TOML, found otherwise: {error}") from error
    folder, parts = resources.files(package), registry.modules_of()
    known = [x for x in parts if package in {name.rpartition(".")[0] for name in parts[x]}]
    laptop = tables.get("laptop", {})
    named = {name: part for name, part in tables.items() if name != "laptop"}
    if not isinstance(laptop, dict):
        raise InvalidFile(f"{file}: table 'laptop': expected tables of methods, found {laptop!r}")
    named |= {f"laptop.{name}": part for name, part in laptop.items()}
    for shown, patterns in named.items():
        name = shown.removeprefix("laptop.")
        is_module = (folder / f"{name}.py").is_file() or (folder / name).is_dir()
        if not (name in known or is_module or shown == "laptop.*"):
            raise unknown(f"table of {file}", shown, known)
        found = patterns.items() if isinstance(patterns, dict) else [(str(patterns), patterns)]
        for pattern, values in found:
            if not isinstance(values, dict) or not _fits_some_task(pattern):
                raise InvalidFile(
                    f"{file}: table '{shown}': expected a table for each pattern that tasks fit, "
                    f"as [{shown}.\"family/*\"], found '{pattern}'"
                )
    return tables


def _fits_some_task(pattern: str) -> bool:
    """Whether a pattern may fit family/scenario/quality, where a wildcard may stand for a slash."""
    slashes, wild = pattern.count("/"), any(sign in pattern for sign in "*?[")
    return ":" not in pattern.partition("/")[0] and (slashes == 2 or (wild and slashes < 2))
