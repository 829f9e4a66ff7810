"""Buffers published with AlberDICE (Matsunaga et al., 2023): a folder of .npy files and meta.json.

In an episode of L real steps, slots 0..L are filled: slots 0..L-1 hold the steps, and slot L holds
the observation after the last step and an action that was drawn but never executed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxoff.data.convert.common import check_flags, read_json, read_npy
from jaxoff.data.dataset import InvalidEpisodes
from jaxoff.types import EnvSpec, Episodes

_FIELDS = (
    "state",
    "obs",
    "actions",
    "actions_onehot",
    "avail_actions",
    "reward",
    "terminated",
    "filled",
)


def read(folder: str | Path, spec: EnvSpec) -> Episodes:
    """The buffer in `folder`, whose environment is described by `spec`.

    Only executed steps are kept, padded to the longest episode. Every end is terminal, because the
    collector recorded time limits as terminal. Behaviour levels are unknown (-1). Raises
    FileNotFoundError or InvalidEpisodes, naming the file, what was expected and what was found.
    """
    folder = Path(folder)
    arrays = {name: read_npy(folder / f"{name}.npy") for name in _FIELDS}
    _check_shapes(folder, arrays, spec, _episodes_in(folder / "meta.json"))
    filled, terminated = (
        check_flags(str(folder / f"{name}.npy"), name, arrays[name][..., 0])
        for name in ("filled", "terminated")
    )
    lengths = _check_marks(folder, filled, terminated)
    steps = int(lengths.max())
    _check_actions(folder, arrays, filled)
    # A step is a filled slot, except the last, whose predecessor did not end the episode.
    valid = filled[:, :-1] & ~np.pad(terminated, ((0, 0), (1, 0)))[:, :-2]
    seen = np.arange(steps + 1) <= lengths[:, None]

    def slots(name: str) -> np.ndarray:
        value = arrays[name][:, : steps + 1].astype(np.float32)
        return np.where(seen.reshape(seen.shape + (1,) * (value.ndim - 2)), value, 0)

    mask = valid[:, :steps]
    return Episodes(
        obs=slots("obs"),
        state=slots("state"),
        avail=slots("avail_actions"),
        actions=np.where(mask[..., None], arrays["actions"][:, :steps, :, 0], 0).astype(np.int32),
        reward=np.where(mask, arrays["reward"][:, :steps, 0], 0).astype(np.float32),
        terminated=terminated[:, :steps],
        truncated=np.zeros_like(mask),
        filled=mask,
        behaviour_level=np.full((len(lengths), spec.num_agents), -1, np.int32),
    )


def _episodes_in(file: Path) -> int:
    found = read_json(file)
    count = found.get("episodes_in_buffer") if isinstance(found, dict) else None
    if type(count) is not int:
        raise InvalidEpisodes(
            f"{file}: expected JSON with an integer 'episodes_in_buffer', found {found!r:.100}"
        )
    return count


def _check_shapes(folder: Path, arrays: dict[str, np.ndarray], spec: EnvSpec, count: int) -> None:
    slots = arrays["filled"].shape[1] if arrays["filled"].ndim > 1 else 0
    n, a = spec.num_agents, spec.action_size
    tails = {
        "state": (spec.state_size,),
        "obs": (n, spec.obs_size),
        "actions": (n, 1),
        "actions_onehot": (n, a),
        "avail_actions": (n, a),
    }
    for name, array in arrays.items():
        expected = (count, slots, *tails.get(name, (1,)))
        if array.shape != expected:
            raise InvalidEpisodes(
                f"{folder / name}.npy: expected shape {expected}, found {array.shape}"
            )
        if array.dtype.kind not in "fiub":
            raise InvalidEpisodes(f"{folder / name}.npy: expected numbers, found {array.dtype}")


def _check_marks(folder: Path, filled: np.ndarray, terminated: np.ndarray) -> np.ndarray:
    """Number of steps of each episode, [E].

    Raises InvalidEpisodes where `filled` is not a prefix, or the end flag is not on the slot before
    the last filled one.
    """
    seen = filled.sum(1)
    wrong = (filled != (np.arange(filled.shape[1]) < seen[:, None])).any(1) | (seen < 2)
    if wrong.any():
        raise InvalidEpisodes(
            f"{folder / 'filled.npy'}: expected two or more ones, then zeros, found "
            f"otherwise in episode {wrong.argmax()}"
        )
    wrong = (terminated != (np.arange(filled.shape[1]) == seen[:, None] - 2)).any(1)
    if wrong.any():
        e = int(wrong.argmax())
        where = np.flatnonzero(terminated[e]).tolist()
        raise InvalidEpisodes(
            f"{folder / 'terminated.npy'}: expected a single one in slot {seen[e] - 2} of "
            f"episode {e}, found slots {where}"
        )
    return seen - 1


def _check_actions(folder: Path, arrays: dict[str, np.ndarray], filled: np.ndarray) -> None:
    actions, onehot = arrays["actions"][..., 0], arrays["actions_onehot"]
    expected = (actions[..., None] == np.arange(onehot.shape[-1])) & filled[..., None, None]
    if (onehot != expected).any():
        e, t = np.argwhere((onehot != expected).any((2, 3)))[0]
        found = onehot[e, t].tolist()
        raise InvalidEpisodes(
            f"{folder / 'actions_onehot.npy'}: expected actions {actions[e, t].tolist()} "
            f"in episode {e}, slot {t}, found {found}"
        )
