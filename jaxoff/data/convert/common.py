"""Helpers of the readers of public files: consecutive rows of steps, checks, and padding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxoff import numpy_file
from jaxoff.errors import InvalidEpisodes, InvalidFile
from jaxoff.runtime import check_file, check_memory
from jaxoff.types import EnvSpec, Episodes


class Slots(NamedTuple):
    """Observations, states and available actions before each step, or after the last step."""

    obs: np.ndarray  # [M, N, O]
    state: np.ndarray  # [M, S]
    avail: np.ndarray | None = None  # [M, N, A]; None: every action is available


class Steps(NamedTuple):
    """Consecutive episodes without padding: M steps, E episodes."""

    seen: Slots  # before each step, M rows
    final: Slots  # after the last step of each episode, E rows
    actions: np.ndarray  # [M, N] integers or [M, N, A]
    rewards: np.ndarray  # [M, N]
    lengths: np.ndarray  # [E]
    terminated: np.ndarray  # [E] bool; all other episodes are truncated

    @property
    def starts(self) -> np.ndarray:
        """The first row of each episode [E]."""
        return np.cumsum(self.lengths) - self.lengths


def check_array(source: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array if it has the shape `shape` (-1 is any size) and finite numbers.

    Raises InvalidEpisodes otherwise.
    """
    wanted = tuple(
        found if size == -1 else size for size, found in zip(shape, array.shape, strict=False)
    )
    if array.ndim != len(shape) or array.shape != wanted:
        text = str(shape).replace("-1", "any")
        raise InvalidEpisodes(
            f"{source}: field '{name}': expected shape {text}, found {array.shape}"
        )
    if array.dtype.kind not in "fiub":
        raise InvalidEpisodes(f"{source}: field '{name}': expected numbers, found {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidEpisodes(
            f"{source}: field '{name}': expected finite numbers, found "
            f"{int((~np.isfinite(array)).sum())} that are not"
        )
    return array


def per_agent(source: str, name: str, array: np.ndarray, agents: int) -> np.ndarray:
    """Numbers of each step and agent, [M, N].

    Numbers of the team, [M] or [M, 1], count for every agent; a further axis of size 1 is dropped.
    Raises InvalidEpisodes for any other shape.
    """
    rows = len(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.shape in ((rows,), (rows, 1)):
        array = np.broadcast_to(array.reshape(rows, 1), (rows, agents))
    return check_array(source, name, array, (rows, agents))


def check_flags(source: str, name: str, array: np.ndarray) -> np.ndarray:
    """Flags as Booleans. Raises InvalidEpisodes for numbers other than 0 and 1.

    A sum of flags in 8 bits may have wrapped, and a share or a probability is no flag.
    """
    if array.dtype.kind not in "fiub":
        raise InvalidEpisodes(f"{source}: field '{name}': expected flags, found {array.dtype}")
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        raise InvalidEpisodes(
            f"{source}: field '{name}': expected flags 0 and 1, found {array[wrong][0]} and "
            f"{int(wrong.sum()) - 1} more that are neither"
        )
    return array == 1


def check_actions(
    source: str, name: str, actions: np.ndarray, rows: int, spec: EnvSpec
) -> np.ndarray:
    """Actions of M = `rows` steps in jaxoff's form: indices [M, N], or reals [M, N, A].

    Indices are checked to be in range; they may come with a trailing axis of size 1, and as whole
    floats. Reals are clipped to the action bound.
    """
    if not spec.discrete:
        check_array(source, name, actions, (rows, *spec.action_shape))
        return np.clip(actions, -spec.action_bound, spec.action_bound).astype(np.float32)
    if actions.ndim == 3 and actions.shape[-1] == 1:
        actions = actions[..., 0]
    whole = check_array(source, name, actions, (rows, *spec.action_shape)).astype(np.int32)
    if (whole != actions).any() or whole.min() < 0 or whole.max() >= spec.action_size:
        raise InvalidEpisodes(
            f"{source}: field '{name}': expected whole numbers 0..{spec.action_size - 1}, "
            f"found {actions.min()}..{actions.max()}"
        )
    return whole


def join_state(state: np.ndarray, spec: EnvSpec) -> np.ndarray:
    """One state per row, from one state per agent [M, N, S'].

    If the state of one agent already has all S numbers, the first agent's is taken; otherwise the
    agents' states are put side by side.
    """
    if state.ndim == 3:
        state = state[:, 0] if state.shape[-1] == spec.state_size else state.reshape(len(state), -1)
    return state


def pad(steps: Steps, spec: EnvSpec) -> Episodes:
    """Episodes in float32, padded to the longest. Behaviour levels are unknown (-1).

    The team reward is the mean over agents; `agent_reward` is set only where rewards differ. Raises
    InvalidFile where one long episode among many short ones asks for more than the free memory.
    """
    lengths, count = steps.lengths, len(steps.lengths)
    longest = int(lengths.max())
    # Padding itself takes no memory before it is written to; the marks of real steps do.
    check_memory(
        f"{spec.name}: {count:,} episodes that are padded to {longest:,} steps", count * longest
    )
    filled = np.arange(longest) < lengths[:, None]
    last = np.arange(longest) == lengths[:, None] - 1

    def spread(flat: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        out = np.zeros((*filled.shape, *flat.shape[1:]), dtype)
        out[filled] = flat
        return out

    def slots(seen: np.ndarray, final: np.ndarray) -> np.ndarray:
        out = np.zeros((count, longest + 1, *seen.shape[1:]), np.float32)
        out[:, :-1][filled] = seen
        out[np.arange(count), lengths] = final
        return out

    if steps.seen.avail is None or steps.final.avail is None:
        avail = np.zeros((count, longest + 1, spec.num_agents, spec.action_size), np.float32)
        avail[np.arange(longest + 1) <= lengths[:, None]] = 1
    else:
        avail = slots(steps.seen.avail, steps.final.avail)
    shared = (steps.rewards == steps.rewards[:, :1]).all()
    return Episodes(
        obs=slots(steps.seen.obs, steps.final.obs),
        state=slots(steps.seen.state, steps.final.state),
        avail=avail,
        actions=spread(steps.actions, np.int32 if spec.discrete else np.float32),
        reward=spread(steps.rewards[:, 0] if shared else steps.rewards.mean(1, dtype=np.float64)),
        terminated=last & steps.terminated[:, None],
        truncated=last & ~steps.terminated[:, None],
        filled=filled,
        behaviour_level=np.full((count, spec.num_agents), -1, np.int32),
        agent_reward=None if shared else spread(steps.rewards),
    )


def take(steps: Steps, which: np.ndarray) -> Steps:
    """The episodes `which` [K], in that order."""
    rows = np.concatenate(
        [
            np.arange(start, start + length)
            for start, length in zip(steps.starts[which], steps.lengths[which], strict=True)
        ]
    )

    def pick(slots: Slots, index: np.ndarray) -> Slots:
        avail = None if slots.avail is None else slots.avail[index]
        return Slots(slots.obs[index], slots.state[index], avail)

    return Steps(
        pick(steps.seen, rows),
        pick(steps.final, which),
        steps.actions[rows],
        steps.rewards[rows],
        steps.lengths[which],
        steps.terminated[which],
    )


def from_rows(
    source: str, rows: Mapping[str, np.ndarray], lengths: np.ndarray, terminated: np.ndarray
) -> Steps:
    """Steps from files in which the row after a step holds its next observation.

    The last row of an episode only supplies the next observation of the row before it; it is not a
    step. rows: obs, state, actions, rewards, each [M + E, ...]. lengths [E]: number of rows of each
    episode, minus one. An episode of a single row has no step and is left out. Raises
    InvalidEpisodes where no episode is left.
    """
    last = np.cumsum(lengths + 1) - 1
    step = np.ones(len(rows["rewards"]), bool)
    step[last] = False
    real = lengths > 0
    if not real.any():
        raise InvalidEpisodes(f"{source}: expected episodes of two or more rows, found none")
    return Steps(
        seen=Slots(rows["obs"][step], rows["state"][step]),
        final=Slots(rows["obs"][last[real]], rows["state"][last[real]]),
        actions=rows["actions"][step],
        rewards=rows["rewards"][step],
        lengths=lengths[real],
        terminated=terminated[real],
    )


def read_npy(file: Path) -> np.ndarray:
    """The array of an .npy file. Raises FileNotFoundError or InvalidEpisodes, naming the file."""
    try:
        return numpy_file.read_npy(file)
    except InvalidFile as error:
        raise InvalidEpisodes(str(error)) from error


def read_json(file: Path) -> Any:
    """The value of a JSON file. Raises FileNotFoundError or InvalidEpisodes, naming the file."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        text = check_file(file, "a JSON file").read_text(encoding="utf-8")
        return json.loads(text, parse_constant=refuse)
    except InvalidFile as error:
        raise InvalidEpisodes(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise InvalidEpisodes(f"{file}: expected JSON, found a damaged file ({error})") from error
