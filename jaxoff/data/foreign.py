"""Episodes of vaults in OG-MARL's layout that another program wrote."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from jaxoff.data.convert.common import Slots, Steps, pad
from jaxoff.data.episodes import ends_of
from jaxoff.data.vault import read_metadata, read_vault
from jaxoff.errors import InvalidDataset
from jaxoff.types import EnvSpec, Episodes


def read_foreign(path: Path, names: Collection[str]) -> Episodes:
    """Episodes of a vault that another program wrote, whose arrays have the dotted `names`.

    The observation after the last step of an episode is not stored: the last one is repeated
    instead, and the end is marked truncated unless it was flagged terminal. An unfinished last
    episode is treated in the same way. An episode ends where every agent is terminal or truncated,
    the team reward is the mean over agents, states of single agents are joined, and -inf padding
    becomes 0.
    """
    leaves = read_vault(path, read_metadata(path))
    missing = {
        "observations",
        "actions",
        "rewards",
        "terminals",
        "truncations",
        "infos.state",
    } - set(names)
    if missing:
        raise InvalidDataset(
            f"{path}: expected OG-MARL's arrays, found no {', '.join(sorted(missing))}"
        )
    total, n = leaves["rewards"].shape
    if total == 0:
        raise InvalidDataset(f"{path}: array 'vault_index': expected at least one step, found none")
    actions, discrete = leaves["actions"], np.issubdtype(leaves["actions"].dtype, np.integer)
    if discrete and actions.ndim == 3:
        actions = actions[..., 0]
    # Some public vaults of continuous actions carry legals that mean nothing.
    every = np.ones((total, n, int(actions.max()) + 1)) if discrete else np.ones(actions.shape)
    legals = leaves.get("infos.legals", every) if discrete else every
    for name in ("terminals", "truncations"):
        if leaves[name].shape != (total, n):
            raise InvalidDataset(
                f"{path}: array '{name}': expected shape {(total, n)}, as that of rewards, found "
                f"{leaves[name].shape}"
            )
    end, terminal = ends_of(leaves["terminals"], leaves["truncations"])
    end[-1] = True
    clean = lambda x: np.where(np.isneginf(x), 0, x)
    obs, state = (
        clean(leaves["observations"]),
        clean(leaves["infos.state"].reshape(total, -1)),
    )
    steps = Steps(
        seen=Slots(obs, state, legals),
        final=Slots(obs[end], state[end], legals[end]),
        actions=actions,
        rewards=leaves["rewards"],
        lengths=np.diff(np.flatnonzero(end), prepend=-1),
        terminated=terminal[end],
    )
    return pad(steps, EnvSpec("", n, obs.shape[-1], state.shape[-1], 1, discrete, 1))
