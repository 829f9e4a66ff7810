"""Single-agent mazes: D4RL's Maze2D HDF5 files (Fu et al., 2020), and Minari's PointMaze files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
)
from jaxoff.data.convert.hdf5 import dataset, opened, read_hdf5
from jaxoff.data.dataset import InvalidEpisodes
from jaxoff.types import EnvSpec


def read_maze2d(file: str | Path, spec: EnvSpec, *, rows: int | None = None) -> Steps:
    """The episodes of a `maze2d-*-sparse-v1.hdf5`, with one agent.

    rows: the number of rows that the file must have. Mazes never terminate: `terminals` and
    `timeouts` both only cut the data into episodes. As in D4RL's own reader, the last row before a
    cut only supplies the next observation of the row before it; it is not a step. A row's reward
    tells whether its own observation is at the goal, and not the next one as in the simulator; it
    is read as it is. Raises FileNotFoundError or InvalidEpisodes naming the file and dataset, also
    for files of version 0, in which no end is marked.
    """
    file = Path(file)
    arrays = read_hdf5(file, ("observations", "actions", "rewards", "terminals", "timeouts"))
    count = len(check_array(str(file), "rewards", arrays["rewards"], (-1,)))
    if rows is not None and count != rows:
        raise InvalidEpisodes(f"{file}: field 'rewards': expected {rows} rows, found {count}")
    terminals, timeouts = (
        check_flags(str(file), name, check_array(str(file), name, arrays[name], (count,)))
        for name in ("terminals", "timeouts")
    )
    obs = check_array(
        str(file), "observations", arrays["observations"], (count, spec.obs_size)
    ).astype(np.float32)
    actions = check_array(str(file), "actions", arrays["actions"], (count, spec.action_size))[
        :, None
    ]
    ends = terminals | timeouts
    if not ends.any():
        raise InvalidEpisodes(
            f"{file}: field 'timeouts': expected the end of an episode, found none"
        )
    ends[-1] = True
    lengths = np.diff(np.flatnonzero(ends), prepend=-1) - 1
    table = {
        "obs": obs[:, None],
        "state": obs,
        "actions": check_actions(str(file), "actions", actions, count, spec),
        "rewards": arrays["rewards"].astype(np.float32)[:, None],
    }
    return from_rows(str(file), table, lengths, np.zeros(len(lengths), bool))


def read_minari(file: str | Path, spec: EnvSpec) -> Steps:
    """The episodes of a PointMaze `main_data.hdf5`, with one agent.

    Observation and state are position, velocity and goal. An episode is terminated if the last of
    its `terminations` is set, else truncated. Raises FileNotFoundError or InvalidEpisodes naming
    the file and dataset.
    """
    file = Path(file)
    with opened(file) as source:
        count = sum(name.startswith("episode_") for name in source)
        if count == 0:
            raise InvalidEpisodes(f"{file}: expected groups episode_0, episode_1, ..., found none")
        episodes = [_episode(file, source, f"episode_{i}", spec) for i in range(count)]
    seen, final, actions, rewards, terminated = zip(*episodes, strict=True)
    _warn_of_goals(file, seen, final)
    flat, after = np.concatenate(seen), np.stack(final)
    return Steps(
        seen=Slots(flat[:, None], flat),
        final=Slots(after[:, None], after),
        actions=check_actions(
            str(file), "actions", np.concatenate(actions)[:, None], len(flat), spec
        ),
        rewards=np.concatenate(rewards)[:, None],
        lengths=np.array([len(part) for part in rewards]),
        terminated=np.array(terminated),
    )


def _warn_of_goals(file: Path, seen: Sequence[np.ndarray], final: Sequence[np.ndarray]) -> None:
    """Warn where the first observation of episodes has the goal of the episode before.

    PointMaze made it before it drew the new goal. Observations are [L, 6] and [6], the goal last.
    """
    stale = sum(
        len(rows) > 1
        and bool((rows[0, -2:] == last[-2:]).all() and (rows[0, -2:] != rows[1, -2:]).any())
        for last, rows in zip(final[:-1], seen[1:], strict=True)
    )
    if stale:
        warnings.warn(
            f"{file}: in {stale} of {len(seen)} episodes the first observation has the goal of the "
            "episode before; it is read as it is",
            stacklevel=4,
        )


def _episode(
    file: Path, source: Any, name: str, spec: EnvSpec
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]:
    """One episode: observations [L, 6], final observation [6], actions [L, A], rewards [L], and
    whether the end is terminal.
    """

    def array(part: str, *shape: int) -> np.ndarray:
        key = f"{name}/{part}"
        if (found := dataset(source, key)) is None:
            raise InvalidEpisodes(f"{file}: expected the dataset '{key}', found none")
        return check_array(str(file), key, found[()], shape).astype(np.float32)

    rewards = array("rewards", -1)
    length = len(rewards)
    if length == 0:
        raise InvalidEpisodes(
            f"{file}: field '{name}/rewards': expected at least one step, found none"
        )
    seen = np.concatenate(
        [
            array("observations/observation", length + 1, spec.obs_size - 2),
            array("observations/desired_goal", length + 1, 2),
        ],
        1,
    )
    terminations = check_flags(str(file), f"{name}/terminations", array("terminations", length))
    return (
        seen[:-1],
        seen[-1],
        array("actions", length, spec.action_size),
        rewards,
        bool(terminations[-1]),
    )
