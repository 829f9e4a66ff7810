"""Files published with OMAR (Pan et al., 2022), whose layout CFCQL's continuous data share.

A folder `<env>/<level>/seed_<s>_data` has, for each agent i, obs_i, acs_i, rews_i, next_obs_i and
dones_i (.npy; HalfCheetah also states_i and next_states_i). Rows are in time order, and consecutive
episodes have a fixed length. CFCQL (Shao et al., 2023) published its data for continuous control in
the same layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxoff.data.convert.common import (
    Slots,
    Steps,
    check_actions,
    check_array,
    check_flags,
    read_npy,
)
from jaxoff.data.dataset import InvalidEpisodes
from jaxoff.runtime import check_folder
from jaxoff.types import EnvSpec

_TOLERANCE = 1e-3  # between a row's next_obs and the obs of the next row
_STRAY = 0.01  # share of rows that may differ by more


def read(folder: str | Path, spec: EnvSpec, *, steps: int, states: bool) -> Steps:
    """The dataset in `folder`, for the first `spec.num_agents` agents.

    Files of other agents (the prey) are ignored. steps: length of an episode (25 in the particle
    worlds, 1000 for HalfCheetah); it gives the episode boundaries, since `dones` are all zero in
    the particle worlds. An end is terminal where `dones` is set (HalfCheetah's time limit, as in
    the released code), else truncated. The observation after a last step is its next_obs. states:
    the state is states_i of all agents side by side; otherwise it is their observations.
    Raises FileNotFoundError or InvalidEpisodes naming the file.
    """
    folder = check_folder(folder, "a folder of .npy files")
    agents = range(spec.num_agents)
    rows = len(_array(folder, "rews_0", (-1,)))
    if rows == 0 or rows % steps:
        raise InvalidEpisodes(
            f"{folder / 'rews_0.npy'}: expected a multiple of {steps} rows, found {rows}"
        )

    def stack(name: str, *tail: int) -> np.ndarray:
        return np.stack(
            [_array(folder, f"{name}_{i}", (rows, *tail)).astype(np.float32) for i in agents], 1
        )

    obs, next_obs = stack("obs", spec.obs_size), stack("next_obs", spec.obs_size)
    last = np.arange(steps - 1, rows, steps)
    _check_order(folder, obs, next_obs, last)
    dones = np.asarray(check_flags(str(folder), "dones", stack("dones")).all(axis=1))
    stray = np.setdiff1d(np.flatnonzero(dones), last)
    if len(stray):
        raise InvalidEpisodes(
            f"{folder / 'dones_0.npy'}: expected ones only on every {steps}th row, found "
            f"one on row {stray[0]}"
        )
    if states:
        size = spec.state_size // spec.num_agents
        state, next_state = (
            stack("states", size).reshape(rows, -1),
            stack("next_states", size).reshape(rows, -1),
        )
    else:
        state, next_state = obs.reshape(rows, -1), next_obs.reshape(rows, -1)
    return Steps(
        seen=Slots(obs, state),
        final=Slots(next_obs[last], next_state[last]),
        actions=check_actions(str(folder), "acs", stack("acs", spec.action_size), rows, spec),
        rewards=stack("rews"),
        lengths=np.full(len(last), steps),
        terminated=dones[last],
    )


def _array(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return check_array(str(folder / f"{name}.npy"), name, read_npy(folder / f"{name}.npy"), shape)


def _check_order(folder: Path, obs: np.ndarray, next_obs: np.ndarray, last: np.ndarray) -> None:
    apart = np.abs(next_obs[:-1] - obs[1:]).max((1, 2), initial=0) > _TOLERANCE
    apart[last[:-1]] = False
    if apart.sum() > _STRAY * len(apart):
        raise InvalidEpisodes(
            f"{folder}: fields 'obs' and 'next_obs': expected rows in time order, "
            f"found {int(apart.sum())} of {len(obs)} rows that the next one does not follow"
        )
