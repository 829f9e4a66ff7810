"""Vaults in OG-MARL's layout that another program wrote.

What a vault claims is compared with what is on the disk before memory is allocated: a damaged
`vault_index` or shape would otherwise ask for terabytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxoff.data.convert.common import Slots, Steps, check_array, check_flags, pad, per_agent
from jaxoff.data.episodes import ends_of
from jaxoff.data.vault import open_array
from jaxoff.errors import InvalidDataset, InvalidEpisodes
from jaxoff.runtime import check_memory
from jaxoff.types import EnvSpec, Episodes

NEEDED = ("observations", "actions", "rewards", "terminals", "truncations")
_STATE, _LEGALS = "infos.state", "infos.legals"


# ------------------------------------------------------------------------------------ the arrays


class Vault(NamedTuple):
    """The arrays of a vault, whose sizes are checked but whose rows are not read yet."""

    path: Path
    arrays: dict[str, Any]  # name -> tensorstore's array [streams, more than length, ...]
    length: int  # steps of every stream
    streams: int

    def rows(self, name: str, stream: int | None = None) -> np.ndarray:
        """The steps of one stream [length, ...], or of all streams in turn [streams * length, ...].

        Raises InvalidDataset naming the array.
        """
        which = slice(None) if stream is None else slice(stream, stream + 1)
        try:
            value = np.asarray(self.arrays[name][which, : self.length].read().result())
        except (ValueError, IndexError) as error:  # tensorstore raises them for damaged files
            raise _damaged(self.path, name, error) from error
        return value.reshape(-1, *value.shape[2:])


def open_vault(path: Path, names: Collection[str], needed: Collection[str] = NEEDED) -> Vault:
    """The arrays of the vault folder `path`, as far as its `names` are those of OG-MARL.

    Raises InvalidDataset naming the array: where one of `needed` is missing, or where the arrays
    hold fewer steps than `vault_index` says, have different numbers of streams, or are larger than
    what is on the disk or the free memory.
    """
    missing = sorted(set(needed) - set(names))
    if missing:
        raise InvalidDataset(f"{path}: expected OG-MARL's arrays, found no {', '.join(missing)}")
    index = _open(path, "vault_index", "vault_index")
    if index.shape != (1,) or index.dtype.numpy_dtype.kind not in "iu":
        raise InvalidDataset(
            f"{path}: array 'vault_index': expected one whole number, found shape "
            f"{tuple(index.shape)} of {index.dtype.name}"
        )
    length = int(index.read().result()[0])
    if length < 1:
        raise InvalidDataset(
            f"{path}: array 'vault_index': expected at least one step, found {length}"
        )
    known = [name for name in (*NEEDED, _STATE, _LEGALS) if name in names]
    arrays = {name: _open(path, f"{name}.", name) for name in known}
    streams = arrays["rewards"].shape[0] if arrays["rewards"].rank else 0
    for name, array in arrays.items():
        if array.rank < 2 or array.shape[0] != streams or streams < 1:
            raise InvalidDataset(
                f"{path}: array '{name}': expected shape ({streams or 1}, steps, ...), found "
                f"{tuple(array.shape)}"
            )
        _check_chunks(path, name, array, length)
    numbers = {
        name: streams * length * math.prod(array.shape[2:]) * array.dtype.numpy_dtype.itemsize
        for name, array in arrays.items()
    }
    check_memory(str(path), sum(numbers.values()))
    return Vault(path, arrays, length, streams)


def _open(path: Path, name: str, shown: str) -> Any:
    try:
        return open_array(path, name)
    except ValueError as error:  # tensorstore raises it for damaged and for missing files
        raise _damaged(path, shown, error) from error


def _check_chunks(path: Path, name: str, array: Any, length: int) -> None:
    """Check that every chunk of the first `length` steps is stored."""
    sizes, chunk = (array.shape[0], length, *array.shape[2:]), array.chunk_layout.read_chunk.shape
    check_memory(
        f"{path}: array '{name}'", math.prod(chunk) * array.dtype.numpy_dtype.itemsize, "a chunk of"
    )
    steps = array.shape[1]
    counts = [-(-size // part) for size, part in zip(sizes, chunk, strict=True)]
    stored = 0
    for key in array.kvstore.list().result():
        place = re.split(r"[./]", key.decode(errors="replace"))
        if all(part.isdigit() for part in place) and len(place) == len(counts):
            stored += all(int(at) < count for at, count in zip(place, counts, strict=True))
    if length > steps or stored < math.prod(counts):
        raise InvalidDataset(
            f"{path}: array '{name}': expected the {length:,} steps that 'vault_index' says, in "
            f"{math.prod(counts):,} chunks, found {stored:,} chunks on the disk and a declared "
            f"size of {steps:,}"
        )


def _damaged(path: Path, name: str, error: Exception) -> InvalidDataset:
    reason = " ".join(str(error).split())
    return InvalidDataset(
        f"{path}: array '{name}': expected a readable array, found a missing or damaged "
        f"file ({reason})"
    )


# ---------------------------------------------------------------------------------- the episodes


def read_foreign(path: Path, names: Collection[str]) -> Episodes:
    """Episodes of a vault that another program wrote, whose arrays have the dotted `names`.

    The observation after the last step of an episode is not stored: the last one is repeated
    instead. Streams follow each other, and an unfinished last episode of each is truncated. An
    episode ends where every agent is terminal or truncated, each in its own way; it terminates
    where all are terminal. Flags are 0 or 1, and flags and rewards [M], [M, 1] of the team count
    for every agent. States of single agents are joined, and -inf padding becomes 0. Raises
    InvalidDataset or InvalidEpisodes naming the array.
    """
    vault = open_vault(path, names, (*NEEDED, _STATE))
    source, total = str(path), vault.streams * vault.length
    obs = without_padding(vault.rows("observations"))
    if obs.ndim != 3:
        raise InvalidEpisodes(
            f"{source}: field 'observations': expected shape ({total}, agents, numbers), found "
            f"{obs.shape}"
        )
    n = obs.shape[1]
    state = without_padding(vault.rows(_STATE)).reshape(total, -1)
    legals = vault.rows(_LEGALS) if _LEGALS in vault.arrays else None
    actions, choices = read_actions(source, vault.rows("actions"), legals, n)
    if choices:
        if legals is None:
            check_memory(f"{source}: field 'actions'", total * n * choices)
            legals = np.ones((total, n, choices), np.uint8)
        avail = check_array(source, _LEGALS, legals, (total, n, choices))
    else:
        avail = np.ones(actions.shape, np.uint8)  # some public vaults have legals without a meaning
    rewards = per_agent(source, "rewards", vault.rows("rewards"), n)
    flags = {
        name: check_flags(source, name, per_agent(source, name, vault.rows(name), n))
        for name in ("terminals", "truncations")
    }
    end, terminal = ends_of(flags["terminals"], flags["truncations"])
    end[vault.length - 1 :: vault.length] = True
    steps = Steps(
        seen=Slots(obs, state, avail),
        final=Slots(obs[end], state[end], avail[end]),
        actions=actions,
        rewards=rewards,
        lengths=np.diff(np.flatnonzero(end), prepend=-1),
        terminated=terminal[end],
    )
    discrete = bool(choices)
    return pad(steps, EnvSpec(path.name, n, obs.shape[2], state.shape[1], choices, discrete, 1))


def without_padding(values: np.ndarray) -> np.ndarray:
    """The values with zeros in place of -inf, by which OMAR's vaults mark what is not seen."""
    return np.where(np.isneginf(values), 0, values) if values.dtype.kind == "f" else values


def read_actions(
    source: str,
    actions: np.ndarray,
    legals: np.ndarray | None,
    agents: int,
    legals_name: str = _LEGALS,
) -> tuple[np.ndarray, int]:
    """Indices [M, N] and the number of choices, or reals [M, N, A] and 0.

    Actions without an axis of their own are indices: of integers or Booleans, or of floats that are
    whole. Floats [M, N, 1] are indices if they are whole, and legal by `legals`; without legals
    they may be either, and are refused if they could be indices.
    """
    total, name = len(actions), "actions"
    wide = actions.ndim == 3 and actions.shape[2] > 1
    check_array(source, name, actions, (total, agents, -1) if actions.ndim > 2 else (total, agents))
    if wide and actions.dtype.kind == "f":
        return actions.astype(np.float32), 0
    if wide:
        raise InvalidEpisodes(
            f"{source}: field '{name}': expected indices ({total}, {agents}) or reals, found "
            f"{actions.dtype} of shape {actions.shape}"
        )
    flat = actions.reshape(total, agents)
    whole = bool((flat == np.floor(flat)).all()) and flat.min() >= 0 and flat.max() < 2**31
    choices = 0 if legals is None or legals.ndim != 3 else legals.shape[2]
    if actions.ndim == 3 and actions.dtype.kind == "f":
        if not whole:
            return actions.astype(np.float32), 0
        if legals is None:
            raise InvalidEpisodes(
                f"{source}: field '{name}': expected reals, or indices beside '{legals_name}', "
                f"found whole floats of shape {actions.shape}, which may be either; store indices "
                "as integers"
            )
        index = np.minimum(flat.astype(np.int64), max(choices, 1) - 1)[..., None]
        legal = choices > flat.max() and np.take_along_axis(legals, index, 2).all()
        if not legal:
            return actions.astype(np.float32), 0
    if not whole or (choices and flat.max() >= choices):
        last = choices - 1 if choices else 2**31 - 1
        raise InvalidEpisodes(
            f"{source}: field '{name}': expected whole numbers 0..{last}, found "
            f"{flat.min()}..{flat.max()}, {int((flat != np.floor(flat)).sum())} of them not whole"
        )
    return flat.astype(np.int32), choices or int(flat.max()) + 1
