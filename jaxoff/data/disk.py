"""Datasets on disk: a flashbax Vault in OG-MARL's layout, and a second vault of final observations.

A dataset is the folder of one vault, `.../<name>.vlt/<uid>`. Its main tree has every step of every
episode, one after the other, and is read by flashbax and OG-MARL. That tree has no observation
after the last step of an episode; these observations are in a second vault, the sub-folder `final`,
with one row per episode. `metadata.json` holds the specification, recipe, statistics, and a hash of
every array.

    observations (1, M, N, O)          actions (1, M, N) or (1, M, N, A)     rewards (1, M, N)
    terminals, truncations (1, M, N)   infos.state (1, M, S)
    infos.legals (1, M, N, A)          where actions are discrete
    final/: observations, infos.state, infos.legals as above; length (1, E),
        behaviour_level (1, E, N)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxoff import files, registry, runtime
from jaxoff.data import metadata as own
from jaxoff.data.dataset import validate
from jaxoff.data.edit import PER_AGENT, described, spec_of
from jaxoff.data.episodes import returns_of, zeros
from jaxoff.data.foreign import read_foreign
from jaxoff.data.vault import (
    flatten,
    hashes_of,
    read_metadata,
    read_vault,
    shape_of,
    structure,
    write_vault,
)
from jaxoff.errors import AlreadyThere, InvalidDataset, InvalidSetting
from jaxoff.names import UNKNOWN, Task, UnknownName
from jaxoff.types import EnvSpec, Episodes

_DONE = "terminals: the value beyond is zero; truncations: the clock ended the episode; never both"


# ------------------------------------------------------------------------------------------ writing


def save(
    path: str | Path,
    episodes: Episodes,
    spec: EnvSpec,
    info: dict[str, Any],
    *,
    overwrite: bool = False,
    beside: Callable[[Path, dict[str, Any]], None] = lambda folder, metadata: None,
) -> None:
    """Write episodes as the vault folder `path`, completely or not at all.

    info: JSON values for the metadata: env, scenario, recipe, seed, ... Padding is not written.
    overwrite: replace the dataset that is at `path` already; there is one at every moment. beside:
    writes further files, given the folder before it has its name, and the metadata. Raises
    InvalidEpisodes, InvalidSetting for an info key that the format uses itself, InvalidDataset for
    metadata that could not be read again, and what `check_target` does.
    """
    made = _ready(path, episodes, info, spec, overwrite)
    with files.replacing_folder(made.path, overwrite) as temporary:
        made.write(temporary)
        beside(temporary, made.metadata)


def save_parts(
    parts: Mapping[Path, tuple[Episodes, dict[str, Any]]], spec: EnvSpec, *, overwrite: bool = False
) -> None:
    """Write several vault folders as `save` does, all of them or none.

    parts: folder -> episodes and info.
    """
    made = [_ready(path, *part, spec, overwrite) for path, part in parts.items()]
    with files.replacing_folders([one.path for one in made], overwrite) as temporary:
        for one, folder in zip(made, temporary, strict=True):
            one.write(folder)


class _Ready(NamedTuple):
    """A dataset that is checked and can be written."""

    path: Path
    main: dict[str, Any]
    final: dict[str, Any]
    metadata: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write both vaults into a folder."""
        write_vault(folder, self.main, self.metadata)
        write_vault(folder / "final", self.final, own.seal(structure(self.final)))


def _ready(
    path: str | Path, episodes: Episodes, info: dict[str, Any], spec: EnvSpec, overwrite: bool
) -> _Ready:
    path = _place(path)
    check_target(path, overwrite)
    episodes = validate(episodes, spec, str(path))
    main, final = _split(episodes, spec)
    ours = {
        "n_agents": spec.num_agents,
        "action_type": "discrete" if spec.discrete else "continuous",
        "num_actions": spec.action_size,
        "action_bound": float(spec.action_bound),
        "horizon": spec.horizon,
        **{name: getattr(spec, name) for name in PER_AGENT if getattr(spec, name)},
        **({"return_scale": list(spec.return_scale)} if spec.return_scale else {}),
        "steps": int(episodes.reward.shape[1]),
        "done_semantics": _DONE,
        "statistics": statistics(episodes),
        "made_with": _made_with(spec),
        "sha256": hashes_of(main),
        "sha256_final": hashes_of(final),
    }
    metadata = own.seal(structure(main) | _checked_info(path, info, ours, spec) | ours)
    own.check(path / "metadata.json", metadata)  # whatever is written can be read
    return _Ready(path, main, final, metadata)


def check_target(path: str | Path, overwrite: bool) -> None:
    """Raise an error unless a dataset can be written at `path`.

    These are AlreadyThere, where something is there that may not be replaced: without overwrite
    anything, with overwrite what is no dataset; and NotWritten, where nothing can be written.
    """
    path = _place(path)
    files.check_writable(path)
    files.recover(path)
    if path.exists():
        if not overwrite:
            raise AlreadyThere(
                f"{path}: expected no dataset there, found one; pass --overwrite (overwrite=True)"
            )
        if not (path / "metadata.json").is_file() and not _is_empty(path):
            raise AlreadyThere(
                f"{path}: expected a dataset to replace, found something else; remove it, or "
                "choose another place"
            )


def _place(path: str | Path) -> Path:
    """The absolute path of a dataset, or of the folder that a link at `path` points to."""
    path = Path(path).absolute()
    return path.resolve() if os.path.islink(path) else path


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _checked_info(
    path: Path, info: dict[str, Any], ours: dict[str, Any], spec: EnvSpec
) -> dict[str, Any]:
    """The user's fields of the metadata.

    Raises InvalidSetting for one that the format uses itself, and for values that JSON has not.
    """
    taken = set(info) & {*ours, *own.RESERVED, "version", "structure_shape", "structure_dtype"}
    if taken:
        raise InvalidSetting(
            f"{path}: field 'info': expected keys that the format does not use, found "
            f"{sorted(taken)}"
        )
    try:
        json.dumps(files.plain(info), allow_nan=False)
    except TypeError as error:
        raise InvalidSetting(f"{path}: field 'info': expected values of JSON, {error}") from error
    return {"env": spec.name, **info}


def _made_with(spec: EnvSpec) -> dict[str, str]:
    """jaxoff's commit, and the versions of what makes episodes of an environment."""
    try:
        packages = registry.family_of(Task.parse(f"{spec.name}/any")).packages
    except UnknownName:  # an environment that is not registered
        packages = ()
    return runtime.versions("jaxoff", "jax", *packages) | {"commit": runtime.git_commit()}


def statistics(episodes: Episodes) -> dict[str, float | int]:
    """Numbers of episodes and transitions; mean, deviation, minimum and maximum of the returns.

    Returns are undiscounted.
    """
    filled, returns = np.asarray(episodes.filled, bool), returns_of(episodes)
    return {
        "episodes": len(returns),
        "transitions": int(filled.sum()),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
    }


def _split(episodes: Episodes, spec: EnvSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """The trees of the main vault and of the final vault."""
    filled = np.asarray(episodes.filled, bool)
    lengths, n = filled.sum(1), spec.num_agents
    each = np.arange(len(lengths))

    def steps(x: Any, dtype: Any = np.float32) -> np.ndarray:
        return np.asarray(x)[:, : filled.shape[1]][filled][None].astype(dtype)

    def last(x: Any) -> np.ndarray:
        return np.asarray(x)[each, lengths][None].astype(np.float32)

    def per_agent(x: Any) -> np.ndarray:
        return np.repeat(steps(x)[..., None], n, -1)

    main: dict[str, Any] = {
        "observations": steps(episodes.obs),
        "actions": steps(episodes.actions, np.int32 if spec.discrete else np.float32),
        "rewards": per_agent(episodes.reward)
        if episodes.agent_reward is None
        else steps(episodes.agent_reward),
        "terminals": per_agent(episodes.terminated),
        "truncations": per_agent(episodes.truncated),
        "infos": {"state": steps(episodes.state)},
    }
    final: dict[str, Any] = {
        "observations": last(episodes.obs),
        "infos": {"state": last(episodes.state)},
        "length": lengths[None].astype(np.int32),
        "behaviour_level": np.asarray(episodes.behaviour_level)[None].astype(np.int32),
    }
    if spec.discrete:
        main["infos"]["legals"], final["infos"]["legals"] = (
            steps(episodes.avail),
            last(episodes.avail),
        )
    return main, final


# ------------------------------------------------------------------------------------------ reading


def load(path: str | Path) -> tuple[Episodes, dict[str, Any]]:
    """Episodes and metadata of the vault folder `path`.

    A vault that jaxoff wrote is read as it was saved; its metadata and every array are compared
    with their hashes, and slots that are not filled are zero.

    Vaults of other writers are read by the rules of `foreign.read_foreign`.

    Raises InvalidDataset naming the file or array, or InvalidEpisodes.
    """
    path = Path(path).absolute()
    files.recover(path)
    metadata = read_metadata(path)
    if own.is_foreign(metadata):
        episodes = read_foreign(path, flatten(metadata["structure_shape"]))
    else:
        own.check(path / "metadata.json", metadata)
        episodes = _read_own(path, metadata)
    return validate(episodes, spec_of(episodes, metadata), str(path)), metadata


def read_spec(path: str | Path) -> tuple[EnvSpec, dict[str, Any]]:
    """The specification and the metadata of a dataset; its arrays are read only where they must be.

    That is where another program wrote it. Raises what `load` does.
    """
    path = Path(path).absolute()
    files.recover(path)
    metadata = read_metadata(path)
    if own.is_foreign(metadata):
        return spec_of(load(path)[0], metadata), metadata
    own.check(path / "metadata.json", metadata)
    try:
        shapes = {name: shape_of(x) for name, x in flatten(metadata["structure_shape"]).items()}
        *_, obs_size = shapes["observations"]
        state_size = shapes["infos.state"][-1]
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidDataset(
            f"{path / 'metadata.json'}: field 'structure_shape': expected the shapes of "
            f"observations and infos.state, found {metadata['structure_shape']!r:.80}"
        ) from error
    spec = EnvSpec(
        name=metadata.get("env", UNKNOWN),
        num_agents=metadata["n_agents"],
        obs_size=obs_size,
        state_size=state_size,
        action_size=metadata["num_actions"],
        discrete=metadata["action_type"] == "discrete",
        horizon=metadata["horizon"],
        action_bound=metadata.get("action_bound", 1.0),
        **described(metadata),
    )
    return spec, metadata


def _read_own(path: Path, metadata: dict[str, Any]) -> Episodes:
    """Episodes of a vault that jaxoff wrote, whose metadata were checked."""
    main = read_vault(path, metadata, metadata["sha256"])
    about = read_metadata(path / "final")
    own.check_seal(path / "final" / "metadata.json", about)
    final = read_vault(path / "final", about, metadata["sha256_final"])
    _check_arrays(path, main, final, metadata)
    return _join(main, final, metadata)


def _check_arrays(
    path: Path, main: dict[str, np.ndarray], final: dict[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Refuse arrays that disagree with each other or with the metadata.

    Datasets of schema 1, whose metadata have no hash, depend on this check.
    """
    n, a = metadata["n_agents"], metadata["num_actions"]
    discrete = metadata["action_type"] == "discrete"
    slots: dict[str, tuple[int | None, ...]] = {"observations": (n, None), "infos.state": (None,)}
    if discrete:
        slots["infos.legals"] = (n, a)
    steps = {"rewards": (n,), "terminals": (n,), "truncations": (n,)}
    wanted = {
        path: slots | steps | {"actions": (n,) if discrete else (n, a)},
        path / "final": slots | {"length": (), "behaviour_level": (n,)},
    }
    for (folder, shapes), arrays in zip(wanted.items(), (main, final), strict=True):
        for name, shape in shapes.items():
            found = arrays[name].shape[1:] if name in arrays else None
            if (
                found is None
                or len(found) != len(shape)
                or any(size not in (None, other) for size, other in zip(shape, found, strict=True))
            ):
                text = ", ".join("any" if size is None else str(size) for size in ("M", *shape))
                raise InvalidDataset(
                    f"{folder}: array '{name}': expected shape ({text}), as metadata.json has it, "
                    f"found {'none' if found is None else arrays[name].shape}"
                )
    lengths, total = final["length"], len(main["rewards"])
    if (lengths < 1).any() or lengths.sum() != total:
        raise InvalidDataset(
            f"{path / 'final'}: array 'length': expected at least one step in each episode and a "
            f"sum of {total} steps, found {lengths.min()} and {lengths.sum()}"
        )
    longest = int(lengths.max())
    most = metadata["steps"] if own.is_sealed(metadata) else max(metadata["horizon"], longest)
    if not longest <= metadata["steps"] <= most:
        raise InvalidDataset(
            f"{path / 'metadata.json'}: field 'steps': expected {longest} to {most}, found "
            f"{metadata['steps']}"
        )


def _join(
    main: dict[str, np.ndarray], final: dict[str, np.ndarray], metadata: dict[str, Any]
) -> Episodes:
    """Padded episodes from the trees of both vaults.

    The team reward is the mean over agents; where agents' rewards differ, they are kept too.
    """
    lengths, steps = final["length"], metadata["steps"]
    filled = np.arange(steps) < lengths[:, None]
    if metadata["action_type"] == "continuous":
        shape = metadata["n_agents"], metadata["num_actions"]
        main["infos.legals"] = np.ones((len(main["rewards"]), *shape), np.float32)
        final["infos.legals"] = np.ones((len(lengths), *shape), np.float32)

    def spread(flat: np.ndarray) -> np.ndarray:
        out = zeros((*filled.shape, *flat.shape[1:]), flat.dtype)
        out[filled] = flat
        return out

    def spread_slots(name: str) -> np.ndarray:
        out = zeros((len(lengths), steps + 1, *main[name].shape[1:]), np.float32)
        out[:, :steps][filled] = main[name]
        out[np.arange(len(lengths)), lengths] = final[name]
        return out

    rewards = main["rewards"]
    shared = bool((rewards == rewards[:, :1]).all())
    return Episodes(
        obs=spread_slots("observations"),
        state=spread_slots("infos.state"),
        avail=spread_slots("infos.legals"),
        actions=spread(main["actions"]),
        reward=spread(rewards[:, 0] if shared else rewards.mean(1)),
        terminated=spread(main["terminals"][:, 0]),
        truncated=spread(main["truncations"][:, 0]),
        filled=filled,
        behaviour_level=final["behaviour_level"],
        agent_reward=None if shared else spread(rewards),
    )
