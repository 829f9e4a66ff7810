"""Files published with OMIGA (Wang et al., 2023): HDF5 for multi-agent MuJoCo, torch for SMAC.

MuJoCo: datasets s, o, a, r, d, flat in time, with d = 1 on the last row of an episode. As in the
released code, that row only supplies the next observation of the row before it, whose step does not
bootstrap.
SMAC: a folder with one file per episode: for each agent, for each step, [state, obs, [action],
[reward], done, available actions].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.data.convert.common import (
    Slots,
    Steps,
    check_actions,
    check_array,
    check_flags,
    from_rows,
    join_state,
)
from jaxoff.data.convert.hdf5 import read_hdf5
from jaxoff.data.dataset import InvalidEpisodes
from jaxoff.errors import InvalidFile
from jaxoff.runtime import check_folder
from jaxoff.torch_file import read_torch
from jaxoff.types import EnvSpec


def read_mujoco(file: str | Path, spec: EnvSpec) -> Steps:
    """The episodes of an HDF5 file.

    The state is that of the first agent: the states of all agents are equal up to the agent's
    index. Raises FileNotFoundError or InvalidEpisodes naming the file and dataset.
    """
    file = Path(file)
    arrays = read_hdf5(file, "soard")
    count, n = len(check_array(str(file), "d", arrays["d"], (-1, 1))), spec.num_agents
    if count < 2:
        raise InvalidEpisodes(f"{file}: field 'd': expected two or more rows, found {count}")
    if arrays["r"].size != count:
        raise InvalidEpisodes(
            f"{file}: field 'r': expected {count} numbers, found shape {arrays['r'].shape}"
        )
    check_array(str(file), "o", arrays["o"], (count, n, spec.obs_size))
    check_array(str(file), "s", arrays["s"], (count, n, spec.state_size))
    reward = check_array(str(file), "r", arrays["r"].reshape(-1), (count,))
    done = check_flags(str(file), "d", arrays["d"][:, 0])
    last = np.flatnonzero(done | (np.arange(count) == count - 1))
    rows = {
        "obs": arrays["o"].astype(np.float32),
        "state": join_state(arrays["s"], spec).astype(np.float32),
        "actions": check_actions(str(file), "a", arrays["a"], count, spec),
        "rewards": np.repeat(reward.astype(np.float32)[:, None], n, 1),
    }
    return from_rows(str(file), rows, np.diff(last, prepend=-1) - 1, done[last])


def read_smac(folder: str | Path, spec: EnvSpec) -> Steps:
    """The episodes in `folder`, one file each, in the order of their names.

    Rewards are those of the file (the released code overwrites them with returns-to-go). An episode
    ends with its file (the released code infers ends from repeated states); it is terminated if all
    agents are done there, else truncated. The observation after the last step is unknown, so the
    last row is repeated. Raises FileNotFoundError or InvalidEpisodes naming the file.
    """
    folder = check_folder(folder, "a folder with one file an episode")
    files = sorted(
        file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")
    )
    if not files:
        raise FileNotFoundError(f"{folder}: expected one file an episode, found none")
    episodes = [_episode(file, spec) for file in files]
    joined = {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
    lengths = np.array([len(episode["rewards"]) for episode in episodes])
    last = np.cumsum(lengths) - 1
    seen = Slots(joined["obs"], joined["state"], joined["avail"])
    final = Slots(joined["obs"][last], joined["state"][last], joined["avail"][last])
    return Steps(seen, final, joined["actions"], joined["rewards"], lengths, joined["done"][last])


def _episode(file: Path, spec: EnvSpec) -> dict[str, np.ndarray]:
    """One episode: obs [T, N, O], state [T, S], avail [T, N, A], actions [T, N], rewards [T, N],
    done [T].
    """
    try:
        agents = read_torch(file)
    except InvalidFile as error:
        raise InvalidEpisodes(str(error)) from error
    n = spec.num_agents
    if (
        not isinstance(agents, list)
        or len(agents) != n
        or not all(isinstance(steps, list) for steps in agents)
    ):
        raise InvalidEpisodes(
            f"{file}: expected a list of {n} agents, each a list of steps, found {_kind(agents)}"
        )
    lengths = sorted({len(steps) for steps in agents})
    if len(lengths) != 1 or lengths[0] == 0:
        raise InvalidEpisodes(
            f"{file}: expected the same number of steps, at least one, for all agents, "
            f"found {lengths}"
        )
    wrong = next(
        (
            step
            for steps in agents
            for step in steps
            if not isinstance(step, list | tuple) or len(step) != 6
        ),
        None,
    )
    if wrong is not None:
        raise InvalidEpisodes(
            f"{file}: expected steps [state, obs, action, reward, done, available], found "
            f"{_kind(wrong)}"
        )
    length = lengths[0]

    def field(index: int, name: str, size: int) -> np.ndarray:
        try:
            values = np.array(
                [
                    [np.asarray(agents[i][t][index], np.float32).reshape(-1) for i in range(n)]
                    for t in range(length)
                ]
            )
        except (ValueError, TypeError) as error:
            raise InvalidEpisodes(
                f"{file}: field '{name}': expected numbers, as many in each step, found "
                f"otherwise ({error})"
            ) from error
        return check_array(str(file), name, values, (length, n, size))

    return {
        "state": field(0, "state", spec.state_size // n).reshape(length, -1),
        "obs": field(1, "obs", spec.obs_size),
        "actions": check_actions(str(file), "action", field(2, "action", 1), length, spec),
        "rewards": field(3, "reward", 1)[..., 0],
        "done": np.asarray(check_flags(str(file), "done", field(4, "done", 1)[..., 0]).all(axis=1)),
        "avail": field(5, "available", spec.action_size),
    }


def _kind(value: Any) -> str:
    return (
        f"{type(value).__name__} of {len(value)}"
        if isinstance(value, list | tuple | dict)
        else type(value).__name__
    )
