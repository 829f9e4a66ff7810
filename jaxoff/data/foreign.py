"""Episodes of vaults that other programs wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxoff.data.episodes import ends_of, padded
from jaxoff.errors import InvalidDataset
from jaxoff.types import Episodes


def read_foreign(leaves: dict[str, np.ndarray], path: Path) -> Episodes:
    """Episodes of a vault that another program wrote; see `disk.load`."""
    missing = {
        "observations",
        "actions",
        "rewards",
        "terminals",
        "truncations",
        "infos.state",
    } - set(leaves)
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
    lengths = np.diff(np.flatnonzero(end), prepend=-1)
    clean = lambda x: np.where(np.isneginf(x), 0, x)
    flat = {
        "obs": clean(leaves["observations"]),
        "state": clean(leaves["infos.state"].reshape(total, -1)),
        "avail": legals,
    }
    return padded(
        np.arange(lengths.max()) < lengths[:, None],
        {name: (value, value[end]) for name, value in flat.items()},
        actions,
        leaves["rewards"],
        terminal,
        end & ~terminal,
        np.full((len(lengths), n), -1),
    )
