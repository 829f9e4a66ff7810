"""The rules that episodes keep, whatever they come from; see `validate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxoff.errors import InvalidEpisodes
from jaxoff.types import EnvSpec, Episodes

# Published data hold unclipped samples of Gaussian policies, a few bounds large, and so do the
# polynomial games. Larger numbers are in another unit.
MOST_BOUNDS = 100.0  # largest absolute value of a continuous action, as a multiple of the bound
_SLOTS = ("obs", "state", "avail")  # fields with a slot after the last step
_FLAGS = ("terminated", "truncated", "filled")
_WIDE = ("obs", "state")  # fields that may be stored in fewer bits
_LARGEST = {"float32": (2 - 2**-23) * 2.0**127, "bfloat16": (2 - 2**-7) * 2.0**127}
_PART = 256  # episodes that are checked at once, so that checks of large data need little memory


def validate(
    episodes: Episodes, spec: EnvSpec, source: str = "episodes", obs_dtype: str = "float32"
) -> Episodes:
    """The episodes in storage types, after a check that they keep the rules below.

    Storage types are float32, int32 for discrete actions and behaviour levels, and bool for flags.
    Arrays that have them already are not copied; padding that is not zero becomes zero. obs_dtype:
    the type of obs and state on the device, which must hold their numbers too.

    Rules: shapes agree with the spec; `filled` marks a prefix of at least one step; end flags are
    only on the last step, and never both; every number is real, finite and not too large for its
    storage type; flags and `avail` are 0 or 1; discrete actions are whole numbers that are in range
    and available; continuous ones are at most MOST_BOUNDS times the bound; every agent has an
    available action after an end that is not terminal. Raises InvalidEpisodes naming the field,
    what was expected, what was found, and the first index where it was found.
    """
    _check_shapes(episodes, spec, source)
    fields: dict[str, Any] = {
        name: _numbers(name, value, source)
        for name, value in episodes._asdict().items()
        if value is not None
    }
    for name in _FLAGS:
        fields[name] = _flags(source, name, fields[name]).astype(bool, copy=False)
    filled = fields["filled"]
    lengths = filled.sum(1)
    wrong = (filled != (np.arange(filled.shape[1]) < lengths[:, None])).any(1) | (lengths < 1)
    if wrong.any():
        raise InvalidEpisodes(
            f"{source}: field 'filled': expected ones, then zeros, and at least one step, "
            f"in every episode, found otherwise in episode {int(np.argmax(wrong))}"
        )
    _check_ends(fields, lengths, source)
    seen = np.arange(filled.shape[1] + 1) <= lengths[:, None]  # includes the slot after the end
    for name, value in fields.items():
        if name not in _FLAGS:
            mask = None if name == "behaviour_level" else seen if name in _SLOTS else filled
            whole = name == "behaviour_level" or (name == "actions" and spec.discrete)
            largest = _LARGEST[obs_dtype if name in _WIDE else "float32"]
            fields[name] = _stored(source, name, value, mask, whole, largest)
    _flags(source, "avail", fields["avail"])
    if spec.discrete:
        _check_discrete(fields, spec, lengths, source)
    else:
        most = MOST_BOUNDS * spec.action_bound
        expected = f"numbers in [-{most:g}, {most:g}], {MOST_BOUNDS:g} times the action bound"
        _refuse(source, "actions", fields["actions"], lambda x, _: np.abs(x) > most, expected)
    return Episodes(**fields)


def _flags(source: str, name: str, value: np.ndarray) -> np.ndarray:
    """A field, after a check that its numbers are 0 or 1."""
    if value.dtype != bool:
        _refuse(source, name, value, lambda x, _: (x != 0) & (x != 1), "0 or 1")
    return value


def _check_shapes(episodes: Episodes, spec: EnvSpec, source: str) -> None:
    """Refuse a field whose shape is not that of the spec, and a dataset without episodes."""
    if np.ndim(episodes.filled) != 2:
        raise InvalidEpisodes(
            f"{source}: field 'filled': expected shape (E, T), found {np.shape(episodes.filled)}"
        )
    count, steps = np.shape(episodes.filled)
    n, a = spec.num_agents, spec.action_size
    expected = {
        "obs": (count, steps + 1, n, spec.obs_size),
        "state": (count, steps + 1, spec.state_size),
        "avail": (count, steps + 1, n, a),
        "actions": (count, steps, *spec.action_shape),
        "reward": (count, steps),
        "terminated": (count, steps),
        "truncated": (count, steps),
        "filled": (count, steps),
        "behaviour_level": (count, n),
    }
    if episodes.agent_reward is not None:
        expected["agent_reward"] = (count, steps, n)
    for name, shape in expected.items():
        found = np.shape(getattr(episodes, name))
        if found != shape:
            raise InvalidEpisodes(
                f"{source}: field '{name}': expected shape {shape}, found {found}"
            )
    if count == 0:
        raise InvalidEpisodes(
            f"{source}: field 'filled': expected at least one episode, found none"
        )


def _numbers(name: str, value: Any, source: str) -> np.ndarray:
    """A field as an array of real numbers."""
    array = np.asarray(value)
    if array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise InvalidEpisodes(
            f"{source}: field '{name}': expected real numbers, found the type {array.dtype}"
        )
    return array


def _stored(
    source: str, name: str, value: np.ndarray, mask: np.ndarray | None, whole: bool, largest: float
) -> np.ndarray:
    """A field in its storage type, with zeros where the mask [E, ...] is not set.

    whole: int32, of whole numbers; else float32, of numbers up to `largest`.
    """
    dtype = np.int32 if whole else np.float32
    if mask is not None and _has_padding(value, mask):
        value = np.where(mask.reshape(*mask.shape, *[1] * (value.ndim - 2)), value, 0)
    low, high = value.min(initial=0), value.max(initial=0)  # not finite where any number is not
    if not (np.isfinite(low) and np.isfinite(high)):
        _refuse(source, name, value, lambda x, _: ~np.isfinite(x), "finite numbers")
    if whole:
        outside = lambda x, _: (x != np.floor(x)) | (x < -(2**31)) | (x >= 2**31)
        if value.dtype != np.int32:
            _refuse(source, name, value, outside, "whole numbers of 32 bits")
    elif high > largest or low < -largest:
        expected = f"numbers of at most {largest:.6g}, which the storage type holds"
        _refuse(source, name, value, lambda x, _: np.abs(x) > largest, expected)
    return value.astype(dtype, copy=False)


def _has_padding(value: np.ndarray, mask: np.ndarray) -> bool:
    """Whether any number is not zero where the mask is not set."""
    parts = range(0, len(mask), _PART)
    return any(value[k : k + _PART][~mask[k : k + _PART]].any() for k in parts)


def _check_ends(fields: dict[str, np.ndarray], lengths: np.ndarray, source: str) -> None:
    """Refuse an end flag before an episode's last step, and an end with both flags."""
    last = np.arange(fields["filled"].shape[1]) == lengths[:, None] - 1
    for name in ("terminated", "truncated"):
        early = fields[name] & ~last
        if early.any():
            episode = int(np.argwhere(early)[0][0])
            raise InvalidEpisodes(
                f"{source}: field '{name}': expected only on the last step, found earlier "
                f"in episode {episode}"
            )
    both = fields["terminated"] & fields["truncated"]
    if both.any():
        raise InvalidEpisodes(
            f"{source}: fields 'terminated' and 'truncated': expected at most one of them, "
            f"found both in episode {int(np.argwhere(both)[0][0])}"
        )


def _check_discrete(
    fields: dict[str, np.ndarray], spec: EnvSpec, lengths: np.ndarray, source: str
) -> None:
    """Refuse discrete actions that are out of range or unavailable.

    Also refuse an agent without an available action after an end that is not terminal.
    """
    actions, avail, filled = fields["actions"], fields["avail"], fields["filled"]
    outside = lambda x, _: (x < 0) | (x >= spec.action_size)
    _refuse(source, "actions", actions, outside, f"0..{spec.action_size - 1}")

    def unavailable(taken: np.ndarray, part: slice) -> np.ndarray:
        allowed = np.take_along_axis(avail[part, :-1], taken[..., None], -1)[..., 0]
        return (allowed == 0) & filled[part, :, None]

    _refuse(source, "actions", actions, unavailable, "available actions")
    each = np.arange(len(lengths))
    after = avail[each, lengths].any(-1).all(-1)
    beyond = after | fields["terminated"][each, lengths - 1]
    if not beyond.all():
        raise InvalidEpisodes(
            f"{source}: field 'avail': expected an available action for every agent "
            "after a last step that is not terminated, "
            f"found none in episode {int(np.argmin(beyond))}"
        )


def _refuse(
    source: str,
    name: str,
    value: np.ndarray,
    rule: Callable[[np.ndarray, slice], np.ndarray],
    expected: str,
) -> None:
    """Raise InvalidEpisodes if any number of a field is wrong, with the first one and its index.

    rule(numbers, episodes) tells which numbers of some episodes are wrong.
    """
    count, first = 0, ""
    for start in range(0, len(value), _PART):
        part = slice(start, start + _PART)
        wrong = rule(value[part], part)
        if wrong.any() and not count:
            episode, *rest = np.argwhere(wrong)[0].tolist()
            index = [start + episode, *rest]
            first = f"the first {value[tuple(index)].item()!r} at {index}"
        count += int(wrong.sum())
    if count:
        raise InvalidEpisodes(
            f"{source}: field '{name}': expected {expected}, found {count} that are not, {first}"
        )
