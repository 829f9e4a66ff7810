"""Files published with CFCQL (Shao et al., 2023) for SMAC: one HDF5 file per map and quality.

A file holds whole episodes. In an episode of L real steps, slots 0..L are filled: slots 0..L-1 hold
the steps, and slot L the observation after the last step. `terminated` is 1 in slot L-1, or nowhere
if the time limit ended the episode. The continuous data of the same authors are in OMAR's layout:
see `omar`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxoff.data.convert.common import Slots, Steps, check_actions, check_array, check_flags
from jaxoff.data.convert.hdf5 import read_hdf5
from jaxoff.data.dataset import InvalidEpisodes
from jaxoff.types import EnvSpec

EPISODES = 5000  # number of episodes that the authors train on
# datasets of the file; its dataset `probs` is not read
_FIELDS = ("state", "obs", "actions", "avail_actions", "reward", "terminated", "filled")


def read(file: str | Path, spec: EnvSpec, *, seed: int = 0) -> Steps:
    """The episodes in `file`; of more than 5000, `seed` draws 5000 without replacement.

    Raises FileNotFoundError or InvalidEpisodes naming the file and dataset.
    """
    file = Path(file)
    arrays = read_hdf5(file, _FIELDS)
    count, slots = arrays["filled"].shape[:2] if arrays["filled"].ndim > 1 else (0, 0)
    if count == 0:
        raise InvalidEpisodes(
            f"{file}: field 'filled': expected episodes (E, T, 1), found shape "
            f"{arrays['filled'].shape}"
        )
    n, a = spec.num_agents, spec.action_size
    tails = {
        "state": (spec.state_size,),
        "obs": (n, spec.obs_size),
        "actions": (n, 1),
        "avail_actions": (n, a),
    }
    for name, array in arrays.items():
        check_array(str(file), name, array, (count, slots, *tails.get(name, (1,))))
    if count > EPISODES:
        drawn = np.sort(np.random.default_rng(seed).permutation(count)[:EPISODES])
        arrays, count = {name: array[drawn] for name, array in arrays.items()}, EPISODES
    filled, terminated = (
        check_flags(str(file), name, arrays[name][..., 0]) for name in ("filled", "terminated")
    )
    lengths = _lengths(file, filled, terminated)
    step = np.arange(slots) < lengths[:, None]
    each = np.arange(count)

    def seen(name: str) -> np.ndarray:
        return arrays[name][step].astype(np.float32)

    def final(name: str) -> np.ndarray:
        return arrays[name][each, lengths].astype(np.float32)

    return Steps(
        seen=Slots(seen("obs"), seen("state"), seen("avail_actions")),
        final=Slots(final("obs"), final("state"), final("avail_actions")),
        actions=check_actions(
            str(file), "actions", arrays["actions"][step], int(lengths.sum()), spec
        ),
        rewards=np.repeat(seen("reward"), n, 1),
        lengths=lengths,
        terminated=np.asarray(terminated.any(1)),
    )


def _lengths(file: Path, filled: np.ndarray, terminated: np.ndarray) -> np.ndarray:
    """Number of steps of each episode, [E].

    Raises InvalidEpisodes where `filled` is not a prefix, or an end flag is not on the last step.
    """
    seen = filled.sum(1)
    slot = np.arange(filled.shape[1])
    wrong = (filled != (slot < seen[:, None])).any(1) | (seen < 2)
    if wrong.any():
        raise InvalidEpisodes(
            f"{file}: field 'filled': expected two or more ones, then zeros, found "
            f"otherwise in episode {wrong.argmax()}"
        )
    wrong = (terminated & (slot != seen[:, None] - 2)).any(1)
    if wrong.any():
        e = int(wrong.argmax())
        raise InvalidEpisodes(
            f"{file}: field 'terminated': expected a one in slot {seen[e] - 2} of episode "
            f"{e}, or none, "
            f"found slots {np.flatnonzero(terminated[e]).tolist()}"
        )
    return seen - 1
