"""Episodes from somebody's own arrays and files, and how they are saved as a dataset folder.

`jaxoff.Episodes.from_steps` and `from_minari`, which say what they take, and `jaxoff.save`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxoff import registry
from jaxoff.data import folders
from jaxoff.data.checks import validate
from jaxoff.data.convert.common import Slots, Steps, check_array, check_flags, pad, per_agent
from jaxoff.data.convert.hdf5 import dataset, opened
from jaxoff.data.edit import PER_AGENT, spec_of
from jaxoff.data.episodes import ends_of
from jaxoff.data.foreign import read_actions
from jaxoff.errors import InvalidEpisodes, InvalidSetting
from jaxoff.names import UnknownName, unknown
from jaxoff.runtime import needs
from jaxoff.types import EnvSpec, Episodes, ReturnScale

ByAgent = Any  # an array, or a dictionary of arrays by agent
_SOURCE = "from_steps"
_FIELDS = ("horizon", "action_bound", "return_scale", *PER_AGENT)  # of a spec, that `save` takes


# ------------------------------------------------------------------------------------ flat arrays


def from_steps(given: Mapping[str, Any]) -> Episodes:
    """What `types.Episodes.from_steps` describes; given: its arguments, by their names."""
    given = _in_one_order(given)
    seen = _rows("obs", given["obs"], 3)
    count, n = seen.shape[:2]
    masks = None if given["avail"] is None else _rows("avail", given["avail"], 3, (count, n, -1))
    single = np.ndim(given["obs"]) == 2
    taken, choices = _actions(given["actions"], masks, given["num_actions"], seen.shape, single)
    if given["next_state"] is not None and given["state"] is None:
        raise InvalidEpisodes(f"{_SOURCE}: field 'state': expected with 'next_state', found none")
    for name in () if choices else ("avail", "next_avail", "num_actions"):
        if given[name] is not None:
            raise InvalidEpisodes(
                f"{_SOURCE}: field '{name}': expected none with real actions, found one"
            )
    flags = {name: given[name] for name in ("done", "terminated", "truncated")}
    flags = {name: flag for name, flag in flags.items() if flag is not None}
    end, terminal = _ends(flags, count, n, given["horizon"])
    last = np.flatnonzero(end)
    shape, later = (count, n, seen.shape[2]), given["next_obs"]
    after = seen if later is None else _rows("next_obs", later, 3, shape)
    states = _before_and_after(seen, after, given["state"], given["next_state"])
    if choices and masks is None:
        masks = np.ones((count, n, choices), np.uint8)
    masks_after = masks
    if given["next_avail"] is not None:
        masks_after = _rows("next_avail", given["next_avail"], 3, (count, n, choices))
    pick = lambda x: None if x is None else x[last]
    steps = Steps(
        seen=Slots(seen, states[0], masks if choices else None),
        final=Slots(after[last], states[1][last], pick(masks_after) if choices else None),
        actions=taken,
        rewards=_per_agent("reward", given["reward"], count, n),
        lengths=np.diff(last, prepend=-1),
        terminated=terminal[last],
    )
    size, bound = choices or taken.shape[-1], 1.0 if choices else max(1.0, np.abs(taken).max())
    spec = EnvSpec(_SOURCE, n, shape[2], states[0].shape[1], size, bool(choices), 1)
    return validate(pad(steps, spec), dataclasses.replace(spec, action_bound=bound), _SOURCE)


def _in_one_order(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, where all dictionaries have the agents in the order of the first one."""
    by_agent = {name: value for name, value in given.items() if isinstance(value, Mapping)}
    first = next(iter(by_agent), "")
    for name, value in by_agent.items():
        if value.keys() != by_agent[first].keys():
            expected, found = (", ".join(map(str, x)) or "none" for x in (by_agent[first], value))
            raise InvalidEpisodes(
                f"{_SOURCE}: field '{name}': expected the agents of '{first}', {expected}, found "
                f"{found}"
            )
    return dict(given) | {
        name: {agent: value[agent] for agent in by_agent[first]} for name, value in by_agent.items()
    }


def _before_and_after(
    seen: np.ndarray, after: np.ndarray, state: Any, later: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The global states [M, S] before and after each step; without `later` they are the same."""
    if state is None:
        return _states(seen, None), _states(after, None)
    before = _states(seen, state)
    return before, before if later is None else _states(after, later)


def _rows(
    name: str, value: ByAgent, axes: int | None = None, shape: tuple[int, ...] = (-1, -1, -1)
) -> np.ndarray:
    """Numbers of each step [M, ...]; of a dictionary, side by side on the axis of agents.

    Agents with fewer numbers are padded with zeros. axes: 3 for [M, N, ...], where [M, ...] is a
    single agent.
    """
    if isinstance(value, Mapping):
        parts = [np.asarray(part) for part in value.values()]
        if not parts or len({(part.ndim, *part.shape[:1]) for part in parts}) > 1:
            raise InvalidEpisodes(
                f"{_SOURCE}: field '{name}': expected an array with as many steps for each agent, "
                f"found shapes {', '.join(str(part.shape) for part in parts) or 'of no agent'}"
            )
        if parts[0].ndim > 1:
            wide = max(part.shape[-1] for part in parts)
            lead = [(0, 0)] * (parts[0].ndim - 1)
            parts = [np.pad(part, [*lead, (0, wide - part.shape[-1])]) for part in parts]
        value = np.stack(parts, 1)
    array = np.asarray(value)
    if axes is None:
        return array
    if array.ndim == 2:
        array = array[:, None]
    if array.shape[:1] == (0,):
        raise InvalidEpisodes(f"{_SOURCE}: field '{name}': expected at least one step, found none")
    return check_array(_SOURCE, name, array, shape)


def _per_agent(name: str, value: ByAgent, count: int, agents: int) -> np.ndarray:
    """Numbers of each step and agent [M, N]; those of the team count for every agent."""
    array = per_agent(_SOURCE, name, _rows(name, value), agents)
    return check_array(_SOURCE, name, array, (count, agents))


def _states(obs: np.ndarray, state: Any) -> np.ndarray:
    """The global state of each step [M, S]; all observations side by side where none is given."""
    if state is None:
        return obs.reshape(len(obs), -1)
    array = np.asarray(state)
    return check_array(_SOURCE, "state", array.reshape(len(array), -1), (len(obs), -1))


def _actions(
    actions: ByAgent, masks: np.ndarray | None, number: int | None, shape: Sequence[int], one: bool
) -> tuple[np.ndarray, int]:
    """Indices [M, N] and the number of choices, or reals [M, N, A] and 0.

    number: of choices, if it is given. shape: of the observations. one: they are of one agent, and
    so are actions [M] or [M, A].

    Floats with an axis of their own are reals, also where all are whole, unless `masks` or `number`
    tell that they are choices.
    """
    array = _rows("actions", actions)
    one = one and not isinstance(actions, Mapping)
    told = masks is not None or number is not None
    real = array.dtype.kind == "f" and array.ndim == (2 if one else 3) and not told
    if one:
        whole = array.dtype.kind in "iub"
        array = array.reshape(len(array), -1) if whole else array.reshape(len(array), 1, -1)
    if number is not None and masks is not None and masks.shape[2] != number:
        raise InvalidEpisodes(
            f"{_SOURCE}: field 'num_actions': expected {masks.shape[2]}, the last axis of avail, "
            f"found {number}"
        )
    if array.shape[:2] != tuple(shape[:2]):
        raise InvalidEpisodes(
            f"{_SOURCE}: field 'actions': expected shape ({shape[0]}, {shape[1]}) of choices, or "
            f"with a further axis of reals, found {array.shape}"
        )
    if real:
        return check_array(_SOURCE, "actions", array, (*shape[:2], -1)).astype(np.float32), 0
    if number is not None and masks is None and array.shape[2:] == (1,):
        array = array[..., 0]
    taken, choices = read_actions(_SOURCE, array, masks, shape[1], "avail")
    if choices and number is not None:
        if number < choices:
            raise InvalidEpisodes(
                f"{_SOURCE}: field 'actions': expected whole numbers 0..{number - 1}, found "
                f"{choices - 1}"
            )
        choices = number
    return taken, choices


def _ends(
    flags: Mapping[str, ByAgent], count: int, agents: int, horizon: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which steps [M] end an episode, and which terminate it; the last step always ends one."""
    if not flags or ("done" in flags and len(flags) > 1):
        raise InvalidEpisodes(
            f"{_SOURCE}: expected 'done', or 'terminated' and 'truncated', found "
            f"{' and '.join(flags) or 'neither'}"
        )
    if horizon is not None and "done" not in flags:
        raise InvalidEpisodes(
            f"{_SOURCE}: field 'horizon': expected with 'done' only, found it with "
            f"{' and '.join(flags)}, which say how episodes end"
        )
    found = {}
    for name, value in flags.items():
        found[name] = check_flags(_SOURCE, name, _per_agent(name, value, count, agents))
    none = np.zeros((count, agents), bool)
    first = found.get("done", found.get("terminated", none))
    end, terminal = ends_of(first, found.get("truncated", none))
    end[-1] = True
    if horizon is not None:
        last = np.flatnonzero(end)
        lengths = np.diff(last, prepend=-1)
        if lengths.max() > horizon:
            raise InvalidEpisodes(
                f"{_SOURCE}: field 'horizon': expected at least {lengths.max()}, the steps of the "
                f"longest episode, found {horizon}"
            )
        terminal[last[lengths == horizon]] = False
    return end, terminal


# ----------------------------------------------------------------------------------------- Minari


def from_minari(source: Any) -> Episodes:
    """What `types.Episodes.from_minari` describes."""
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.exists():
            return _joined(str(path), _stored(path), _space_of(path))
        with needs(f"{source}: no such folder, and as the name of a Minari dataset"):
            from minari import load_dataset
        source = load_dataset(str(source))
    name = getattr(getattr(source, "spec", None), "dataset_id", "a Minari dataset")
    space: Any = getattr(source, "action_space", None)
    told = _Space()
    if hasattr(space, "n") and getattr(space, "shape", ()) in ((), None):
        told = _Space(int(space.n), int(getattr(space, "start", 0)))
    elif hasattr(space, "low"):
        told = _Space(real=True)
    fields = ("observations", "actions", "rewards", "terminations", "truncations")
    parts = ({field: getattr(each, field) for field in fields} for each in source)
    return _joined(str(name), parts, told)


class _Space(NamedTuple):
    """What is known of the actions of a Minari dataset: that they are choices, or reals."""

    choices: int | None = None  # their number
    start: int = 0  # the first choice
    real: bool = False


def _stored(path: Path) -> Iterator[dict[str, Any]]:
    """The episodes of a Minari folder, or of the HDF5 file in it."""
    places = [path, path / "main_data.hdf5", path / "data" / "main_data.hdf5"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{path}: expected data/main_data.hdf5 of Minari, found none")
    with opened(file) as source:
        count = sum(name.startswith("episode_") for name in source)
        for number in range(count):
            yield _episode(file, source, f"episode_{number}")


def _episode(file: Path, source: Any, name: str) -> dict[str, Any]:
    """The arrays of one episode; observations may be a tree of arrays."""

    def read(key: str) -> Any:
        found = dataset(source, key)
        if found is not None:
            return found[()]
        if key not in source or not hasattr(source[key], "keys"):
            raise InvalidEpisodes(f"{file}: expected the dataset '{key}', found none")
        return {part: read(f"{key}/{part}") for part in source[key]}

    fields = ("observations", "actions", "rewards", "terminations", "truncations")
    return {field: read(f"{name}/{field}") for field in fields}


def _space_of(path: Path) -> _Space:
    """What a Minari folder's metadata tell of its actions."""
    for folder in (path, path / "data", path.parent):
        try:
            told = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
            space = told["action_space"]
            space = json.loads(space) if isinstance(space, str) else space
            if space.get("type") == "Discrete":
                return _Space(int(space["n"]), int(space.get("start") or 0))
            return _Space(real=space.get("type") == "Box")
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
    return _Space()


def _flat(value: Any) -> np.ndarray:
    """A tree of arrays [L, ...] as [L, K]; parts of a dictionary in the order of their names."""
    if isinstance(value, Mapping):
        return np.concatenate([_flat(value[name]) for name in sorted(value)], 1)
    if isinstance(value, tuple | list) and value and not np.isscalar(value[0]):
        return np.concatenate([_flat(part) for part in value], 1)
    array = np.asarray(value)
    return array.reshape(len(array), -1)


def _joined(name: str, parts: Any, space: _Space) -> Episodes:
    """The episodes of one agent, one after the other; the last step of each ends it."""
    kept: dict[str, list[np.ndarray]] = {}
    for part in parts:
        rewards = np.asarray(part["rewards"])
        if rewards.ndim == 0:
            raise InvalidEpisodes(f"{name}: field 'rewards': expected one a step, found a number")
        if not len(rewards):
            continue
        obs, actions = _flat(part["observations"]), part["actions"]
        if isinstance(actions, Mapping | tuple):
            raise InvalidEpisodes(
                f"{name}: field 'actions': expected one array, found a {type(actions).__name__}"
            )
        for field in ("actions", "terminations", "truncations"):
            if np.shape(part[field])[:1] != rewards.shape[:1]:
                raise InvalidEpisodes(
                    f"{name}: field '{field}': expected {len(rewards)} rows, one for each reward, "
                    f"found shape {np.shape(part[field])}"
                )
        if len(obs) != len(rewards) + 1:
            raise InvalidEpisodes(
                f"{name}: field 'observations': expected {len(rewards) + 1} rows, one more than "
                f"steps, found {len(obs)}"
            )
        terminal, cut = (
            check_flags(name, field, np.array(part[field]))
            for field in ("terminations", "truncations")
        )
        cut[-1] |= not terminal[-1]
        row = (obs[:-1], obs[1:], np.asarray(actions), rewards, terminal, cut & ~terminal)
        names = ("obs", "next_obs", "actions", "reward", "terminated", "truncated")
        for field, value in zip(names, row, strict=True):
            kept.setdefault(field, []).append(value)
    if not kept:
        raise InvalidEpisodes(f"{name}: expected at least one episode with a step, found none")
    arrays: dict[str, Any] = {field: np.concatenate(values) for field, values in kept.items()}
    if space.real:  # whatever they are stored as, such as whole numbers
        arrays["actions"] = arrays["actions"].astype(np.float32).reshape(len(arrays["actions"]), -1)
    elif space.start:
        arrays["actions"] = arrays["actions"] - space.start
    try:
        return Episodes.from_steps(**arrays, num_actions=space.choices)
    except InvalidEpisodes as error:
        raise InvalidEpisodes(f"{name}: {error}") from error


# ----------------------------------------------------------------------------------------- saving


def save(
    episodes: Episodes,
    path: str | Path,
    *,
    env: str = "",
    info: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **fields: Any,
) -> Path:
    """Save episodes as a dataset folder, which is a task from then on; returns its path.

    env: the registered environment that they are of, a task or family/scenario; policies are then
    evaluated in it. Without it, sizes are those of the arrays, and `fields` may give what they do
    not tell: horizon (by default the steps of the longest episode), action_bound (by default 1;
    needed where actions are larger), return_scale, obs_sizes, action_sizes, agent_types, as in
    `EnvSpec`, with lists or arrays for tuples. info: further JSON values for the metadata.
    overwrite: replace the dataset there.
    Raises InvalidEpisodes, InvalidSetting, UnknownName, and AlreadyThere for a path that is taken.
    """
    from jaxoff.data import disk

    if not (info is None or (isinstance(info, Mapping) and all(isinstance(x, str) for x in info))):
        raise InvalidSetting(
            f"save: field 'info': expected a dictionary by text, found {info!r:.80}"
        )
    strange = [name for name in fields if name not in _FIELDS]
    if strange:
        raise unknown("field of a dataset", strange[0], _FIELDS)
    if env:
        if not (task := folders.registered(env)):
            raise UnknownName(
                f"save: field 'env': expected a task or family/scenario that is registered, found "
                f"'{env}'"
            )
        spec = registry.make_spec(task)
    else:
        spec = spec_of(episodes, {})
        played = np.asarray(episodes.actions)[np.asarray(episodes.filled) > 0]
        largest = 0.0 if spec.discrete else float(np.abs(played).max(initial=0.0))
        if largest > 1 and "action_bound" not in fields:
            raise InvalidSetting(
                f"save: field 'action_bound': expected the largest action that the environment "
                f"takes, since actions of up to {largest:g} are in the data, found none"
            )
    longest = int(np.sum(episodes.filled, -1).max(initial=1))
    told = {name: _told(name, value, spec, longest) for name, value in fields.items()}
    spec = dataclasses.replace(spec, **told)
    disk.save(path, episodes, spec, dict(info or {}), overwrite=overwrite)
    return Path(path)


def _told(name: str, value: Any, spec: EnvSpec, longest: int) -> Any:
    """A field of a specification that the user gives, in the type that `EnvSpec` has.

    longest: steps of the longest episode. Raises InvalidSetting naming the field.
    """
    real = lambda x: isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x)
    whole = lambda x: isinstance(x, Integral) and not isinstance(x, bool)
    many = isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim == 1)
    count = len(value) if many else -1
    read: Callable[[Any], Any]
    if name == "horizon":
        expected = f"a whole number of at least {longest}, the steps of the longest episode"
        fits, read = whole(value) and value >= longest, int
    elif name == "action_bound":
        expected = "a number above 0"
        fits, read = real(value) and value > 0, float
    elif name == "return_scale":
        expected = "two returns, the first below the second, and a text"
        fits = count == 3 and real(value[0]) and real(value[1]) and value[0] < value[1]
        fits = value is None or (fits and isinstance(value[2], str))
        read = lambda x: x and ReturnScale(float(x[0]), float(x[1]), x[2])
    else:
        most = {"obs_sizes": spec.obs_size, "action_sizes": spec.action_size}.get(name, math.inf)
        expected = f"a whole number for each of {spec.num_agents} agents"
        expected += f", of at most {most}" if most < math.inf else ""
        fits = count in (0, spec.num_agents) and all(whole(x) and 0 <= x <= most for x in value)
        read = lambda x: tuple(map(int, x))
    if not fits:
        raise InvalidSetting(f"save: field '{name}': expected {expected}, found {value!r:.80}")
    return read(value)
