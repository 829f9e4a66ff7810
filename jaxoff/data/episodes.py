"""Episodes as arrays: lengths, returns, and functions that cut, join and select episodes.

No simulator is needed.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxoff.types import Episodes

_HUGE = 2**22  # bytes of the smallest array for which NumPy asks for huge pages
# Pages of this process alone, of which more may be asked for than there is memory. Python 3.11 has
# no name for the last of these flags.
_PRIVATE = (
    mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    if sys.platform == "linux"
    else 0
)


def ends_of(terminals: np.ndarray, truncations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which steps [M] end an episode, and which terminate it, from flags [M, N] of each agent.

    A step ends the episode when every agent is terminal or truncated: one agent may have died
    earlier while another reaches the time limit. It terminates the episode when all agents are
    terminal.
    """
    terminal, over = terminals != 0, (terminals != 0) | (truncations != 0)
    return over.all(1), terminal.all(1)


def lengths_of(episodes: Episodes) -> np.ndarray:
    """Real steps of each episode, [E] int."""
    return np.asarray(episodes.filled).astype(bool).sum(1)


def returns_of(episodes: Episodes) -> np.ndarray:
    """Undiscounted team return of each episode, [E] float64."""
    return (
        np.where(np.asarray(episodes.filled, bool), np.asarray(episodes.reward), 0)
        .astype(np.float64)
        .sum(1)
    )


def _resize(episodes: Episodes, steps: int) -> Episodes:
    def fit(name: str, x: np.ndarray | None) -> np.ndarray | None:
        if x is None or name == "behaviour_level":
            return x if x is None else np.asarray(x)
        size = steps + (name in ("obs", "state", "avail"))
        x = np.asarray(x)[:, :size]
        if x.shape[1] == size:
            return x
        longer = zeros((len(x), size, *x.shape[2:]), x.dtype)
        longer[:, : x.shape[1]] = x
        return longer

    fitted: dict[str, Any] = {name: fit(name, x) for name, x in episodes._asdict().items()}
    return Episodes(**fitted)


def trim(episodes: Episodes) -> Episodes:
    """The episodes without padding beyond the longest episode."""
    return _resize(episodes, int(lengths_of(episodes).max()))


def cut(episodes: Episodes, steps: int) -> Episodes:
    """At most the first `steps` steps of each episode; shortened episodes are marked truncated."""
    if steps < 1:
        raise ValueError(f"cut: expected at least one step, found {steps}")
    lost = lengths_of(episodes) > steps
    short = _resize(episodes, min(steps, episodes.reward.shape[1]))
    truncated = short.truncated.copy()
    truncated[lost, -1] = True
    return short._replace(truncated=truncated)


def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros [*shape] that the operating system does not allocate before they are written to.

    For its own large arrays NumPy asks for huge pages, each of which is allocated as a whole, with
    the padding between the steps of two episodes.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _HUGE:
        return np.zeros(shape, dtype)
    flags: Any = {"flags": _PRIVATE} if _PRIVATE else {}
    return np.frombuffer(mmap.mmap(-1, size, **flags), dtype).reshape(shape)


def fill(whole: Episodes, first: int, part: Episodes) -> None:
    """Write the episodes of `part` into the larger zero arrays of `whole`, from index `first` on.

    Padding is not written, so in arrays that `zeros` made it takes no memory.
    """
    steps = np.asarray(part.filled, bool)
    slots = np.arange(steps.shape[1] + 1) <= steps.sum(1)[:, None]
    for name, target in whole._asdict().items():
        value = getattr(part, name)
        if name == "behaviour_level":
            target[first : first + len(steps)] = value
        elif target is not None:
            mask = slots if name in ("obs", "state", "avail") else steps
            target[first : first + len(steps), : mask.shape[1]][mask] = np.asarray(value)[mask]


def concatenate(parts: Sequence[Episodes]) -> Episodes:
    """Concatenate datasets, padded to the longest."""
    steps = max(part.reward.shape[1] for part in parts)
    if len(parts) == 1:
        return _resize(parts[0], steps)
    count = sum(len(part.filled) for part in parts)

    def empty(name: str, x: np.ndarray) -> np.ndarray:
        slots = () if name == "behaviour_level" else (steps + (name in ("obs", "state", "avail")),)
        return zeros((count, *slots, *x.shape[1 + len(slots) :]), x.dtype)

    fields: dict[str, Any] = {
        name: None if x is None else empty(name, x) for name, x in parts[0]._asdict().items()
    }
    whole = Episodes(**fields)
    first = 0
    for part in parts:
        fill(whole, first, part)
        first += len(part.filled)
    return whole


def take(episodes: Episodes, index: np.ndarray) -> Episodes:
    """The episodes with the numbers `index` [K], in that order."""
    return jax.tree.map(lambda x: np.asarray(x)[index], episodes)


def with_level(episodes: Episodes, level: int) -> Episodes:
    """Mark every agent of every episode with a behaviour level."""
    return episodes._replace(behaviour_level=np.full_like(episodes.behaviour_level, level))
