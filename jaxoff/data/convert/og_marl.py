"""Vaults of OG-MARL (Formanek et al., 2023): consecutive steps, read by OG-MARL's own rules.

Row t has the observation, action, reward, end flags, state and legal actions of step t. The
observation after the last step of an episode is not stored: the last row is repeated instead.
OMAR's vaults hold five streams, one for each of the authors' seeds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxoff.data import vault
from jaxoff.data.convert.common import (
    Slots,
    Steps,
    check_actions,
    check_array,
    check_flags,
    join_state,
    per_agent,
)
from jaxoff.data.dataset import InvalidEpisodes
from jaxoff.data.episodes import ends_of
from jaxoff.data.foreign import NEEDED, open_vault, without_padding
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

    An episode ends where every agent is terminal or truncated, each in its own way. Flags are 0 or
    1, and flags and rewards [M], [M, 1] of the team count for every agent. -inf padding becomes 0,
    states of single agents are joined, a trailing axis of size 1 of actions is dropped, and real
    actions are clipped to the bound. Legal actions are read for discrete actions only. Raises
    InvalidDataset or InvalidEpisodes naming the array.
    """
    path = Path(path).absolute()
    names = set(vault.flatten(vault.read_metadata(path)["structure_shape"]))
    stored = open_vault(path, names, NEEDED if joined_obs else (*NEEDED, "infos.state"))
    if not 0 <= stream < stored.streams:
        raise InvalidEpisodes(
            f"{path}: field 'seed': expected one of its {stored.streams} streams, "
            f"0..{stored.streams - 1}, found {stream}"
        )
    length = stored.length

    def array(name: str) -> np.ndarray:
        return stored.rows(name, stream)

    def shaped(name: str, *tail: int) -> np.ndarray:
        return check_array(str(path), name, array(name), (length, *tail))

    n = spec.num_agents
    obs = array("observations")
    everyone = obs.shape[1] if obs.ndim == 3 and joined_obs else n
    rewards = per_agent(str(path), "rewards", array("rewards"), everyone)[:, :n]
    if joined_obs:
        obs = obs[:, :n]
    obs = check_array(str(path), "observations", without_padding(obs), (length, n, spec.obs_size))
    state = (
        obs.reshape(length, -1)
        if joined_obs
        else join_state(without_padding(array("infos.state")), spec)
    )
    check_array(str(path), "infos.state", state, (length, spec.state_size))
    actions = array("actions")[:, :n] if joined_obs else array("actions")
    actions = check_actions(str(path), "actions", actions, length, spec)
    avail = (
        shaped("infos.legals", n, spec.action_size)
        if spec.discrete and "infos.legals" in names
        else None
    )
    terminals, truncations = (
        check_flags(str(path), name, per_agent(str(path), name, array(name), everyone))
        for name in ("terminals", "truncations")
    )
    ends, terminal = ends_of(terminals, truncations)
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
