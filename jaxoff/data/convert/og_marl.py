"""Vaults of OG-MARL (Formanek et al., 2023): consecutive steps, read by OG-MARL's own rules.

Row t has the observation, action, reward, end flags, state and legal actions of step t. The
observation after the last step of an episode is not stored: the last row is repeated instead.
OMAR's vaults hold five streams, one for each of the authors' seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.data import vault
from jaxoff.data.convert.common import Slots, Steps, check_actions, check_array, join_state
from jaxoff.data.dataset import InvalidEpisodes
from jaxoff.data.episodes import ends_of
from jaxoff.errors import InvalidDataset
from jaxoff.types import EnvSpec


def read(
    path: str | Path,
    spec: EnvSpec,
    *,
    stream: int = 0,
    fixed_length: int | None = None,
    joined_obs: bool = False,
) -> Steps:
    """The episodes in the vault folder `path`.

    stream: number of the stream to read, where there are several. fixed_length: the number of steps
    of every episode, used where no end is flagged at all. joined_obs: take the agents'
    observations, side by side, as the state, and drop agents beyond `spec.num_agents` (the prey of
    OMAR's tasks).

    An episode ends where every agent is terminal or truncated. -inf padding becomes 0, states of
    single agents are joined, a trailing axis of size 1 of actions is dropped, and real actions are
    clipped to the bound. Legal actions are read for discrete actions only. Raises InvalidDataset or
    InvalidEpisodes naming the array.
    """
    path = Path(path).absolute()
    names, length = _checked(path, stream, joined_obs)

    def array(name: str) -> np.ndarray:
        return _rows(path, name, stream, length)

    def shaped(name: str, *tail: int) -> np.ndarray:
        return check_array(str(path), name, array(name), (length, *tail))

    n = spec.num_agents
    obs, rewards = array("observations"), array("rewards")
    if joined_obs:
        obs, rewards = obs[:, :n], rewards[:, :n]
    obs = check_array(str(path), "observations", _without_padding(obs), (length, n, spec.obs_size))
    state = (
        obs.reshape(length, -1)
        if joined_obs
        else join_state(_without_padding(array("infos.state")), spec)
    )
    check_array(str(path), "infos.state", state, (length, spec.state_size))
    check_array(str(path), "rewards", rewards, (length, n))
    actions = array("actions")[:, :n] if joined_obs else array("actions")
    actions = check_actions(str(path), "actions", actions, length, spec)
    avail = (
        shaped("infos.legals", n, spec.action_size)
        if spec.discrete and "infos.legals" in names
        else None
    )
    terminals = shaped("terminals", -1)
    ends, terminal = ends_of(terminals, shaped("truncations", terminals.shape[1]))
    if not ends.any():
        if fixed_length is None:
            raise InvalidEpisodes(
                f"{path}: fields 'terminals' and 'truncations': expected the end of an "
                "episode, found none"
            )
        ends = np.arange(length) % fixed_length == fixed_length - 1
    ends[-1] = True
    last = np.flatnonzero(ends)
    seen = Slots(obs, state, avail)
    final = Slots(obs[last], state[last], None if avail is None else avail[last])
    return Steps(seen, final, actions, rewards, np.diff(last, prepend=-1), terminal[last])


def _checked(path: Path, stream: int, joined_obs: bool) -> tuple[set[str], int]:
    """Names of a vault's arrays and its number of steps; refuses a vault that lacks something."""
    metadata = vault.read_metadata(path)
    names = set(vault.flatten(metadata["structure_shape"]))
    needed = {"observations", "actions", "rewards", "terminals", "truncations"} | (
        set() if joined_obs else {"infos.state"}
    )
    if needed - names:
        raise InvalidDataset(
            f"{path}: expected OG-MARL's arrays, found no {', '.join(sorted(needed - names))}"
        )
    streams = _store(path, "rewards").shape[0]
    if not 0 <= stream < streams:
        raise InvalidEpisodes(
            f"{path}: field 'seed': expected one of its {streams} streams, "
            f"0..{streams - 1}, found {stream}"
        )
    length = int(vault.read_array(path, "vault_index")[0])
    if length < 1:
        raise InvalidEpisodes(
            f"{path}: field 'vault_index': expected at least one step, found {length}"
        )
    return names, length


def _store(path: Path, name: str) -> Any:
    try:
        return vault.open_array(path, name + ".")
    except ValueError as error:  # tensorstore raises it for damaged and for missing files
        raise _damaged(path, name, error) from error


def _rows(path: Path, name: str, stream: int, length: int) -> np.ndarray:
    store = _store(path, name)
    try:
        return np.asarray(store[stream, :length].read().result())
    except (ValueError, IndexError) as error:
        raise _damaged(path, name, error) from error


def _damaged(path: Path, name: str, error: Exception) -> InvalidDataset:
    return InvalidDataset(
        f"{path}: array '{name}': expected a readable array, found a missing or damaged "
        f"file ({error})"
    )


def _without_padding(values: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(values), 0, values) if values.dtype.kind == "f" else values
