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

import hashlib
import json
import math
import os
import shutil
import uuid
from ast import literal_eval
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.data.dataset import validate
from jaxoff.data.episodes import padded, returns_of
from jaxoff.data.foreign import read_foreign
from jaxoff.errors import InvalidDataset
from jaxoff.types import EnvSpec, Episodes

SCHEMA = 1
_VAULT_VERSION = 1.2  # flashbax compares the integer part
_TIME_LIMIT = 10**13  # the declared length of every array; `vault_index` has the true length
_CHUNK_BYTES = 2**20
_NEEDED = {"n_agents", "action_type", "num_actions", "steps", "sha256", "sha256_final"}
_DONE = "terminals: the value beyond is zero; truncations: the clock ended the episode; never both"


# ------------------------------------------------------------------------------------------ writing


def save(
    path: str | Path,
    episodes: Episodes,
    spec: EnvSpec,
    info: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write episodes as the vault folder `path`, completely or not at all.

    info: JSON values for the metadata: env, scenario, recipe, seed, ... Padding is not written.
    overwrite: replace what is at `path` already. Raises InvalidEpisodes, ValueError for an info key
    that the format uses itself, and FileExistsError where `path` exists and overwrite is not set.
    """
    path = Path(path).absolute()
    validate(episodes, spec, str(path))
    main, final = _split(episodes, spec)
    ours = {
        "jaxoff_schema": SCHEMA,
        "n_agents": spec.num_agents,
        "action_type": "discrete" if spec.discrete else "continuous",
        "num_actions": spec.action_size,
        "horizon": spec.horizon,
        "steps": int(episodes.reward.shape[1]),
        "done_semantics": _DONE,
        "statistics": statistics(episodes),
        "sha256": _hashes(main),
        "sha256_final": _hashes(final),
    }
    taken = set(info) & {*ours, "version", "structure_shape", "structure_dtype"}
    if taken:
        raise ValueError(
            f"{path}: field 'info': expected keys that the format does not use, found "
            f"{sorted(taken)}"
        )
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: expected no dataset there, found one; pass overwrite=True")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        _write_vault(temporary, main, {"env": spec.name, **info, **ours})
        _write_vault(temporary / "final", final, {"jaxoff_schema": SCHEMA})
        if path.exists():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def _write_vault(folder: Path, tree: dict[str, Any], metadata: dict[str, Any]) -> None:
    leaves = _flatten(tree)
    folder.mkdir(parents=True)
    for name, value in leaves.items():
        row = math.prod(value.shape[2:]) * value.itemsize
        chunk = max(1, min(value.shape[1], _CHUNK_BYTES // row))
        store = _open(
            folder,
            name + ".",
            value.dtype,
            (1, _TIME_LIMIT, *value.shape[2:]),
            (1, chunk, *value.shape[2:]),
        )
        store[:, : value.shape[1]].write(value).result()
    index = next(iter(leaves.values())).shape[1]
    _open(folder, "vault_index", np.int32, (1,), (1,)).write(np.array([index], np.int32)).result()
    structure = {
        "version": _VAULT_VERSION,
        "structure_shape": _map(lambda x: str(x.shape), tree),
        "structure_dtype": _map(lambda x: x.dtype.name, tree),
    }
    (folder / "metadata.json").write_text(json.dumps({**structure, **metadata}, indent=1))


def _open(folder: Path, name: str, dtype: Any = None, shape: Any = None, chunks: Any = None) -> Any:
    """Open the array `name` of a vault; create it where a shape is given."""
    import tensorstore

    # a path and not a URL, since a folder may have any name
    base = {"driver": "file", "path": f"{folder.resolve()}/"}
    spec: dict[str, Any] = {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": base, "path": name},
    }
    if shape is None:
        return tensorstore.open(spec, read=True).result()
    spec["metadata"] = {"compressor": {"id": "gzip", "level": 5}, "chunks": list(chunks)}
    return tensorstore.open(spec, dtype=np.dtype(dtype).name, shape=shape, create=True).result()


# ------------------------------------------------------------------------------------------ reading


def load(path: str | Path) -> tuple[Episodes, dict[str, Any]]:
    """Episodes and metadata of the vault folder `path`.

    A vault that jaxoff wrote is read as it was saved, and every array is compared with its hash;
    slots that are not filled are zero.

    Vaults of other writers lack the observation after the last step of an episode: the last
    observation is repeated instead, and the end is marked truncated unless it was flagged terminal.
    An unfinished last episode is treated in the same way. In these vaults an episode ends where
    every agent is terminal or truncated, the team reward is the mean over agents, states of single
    agents are joined, and -inf padding becomes 0.

    Raises InvalidDataset naming the file or array.
    """
    path = Path(path).absolute()
    metadata = _metadata(path)
    if "jaxoff_schema" not in metadata:
        return read_foreign(_read_vault(path, metadata), path), metadata
    if metadata["jaxoff_schema"] != SCHEMA:
        raise InvalidDataset(
            f"{path / 'metadata.json'}: field 'jaxoff_schema': expected {SCHEMA}, found "
            f"{metadata['jaxoff_schema']}"
        )
    missing = _NEEDED - set(metadata)
    if missing:
        raise InvalidDataset(
            f"{path / 'metadata.json'}: expected the fields {sorted(_NEEDED)}, found no "
            f"{sorted(missing)}"
        )
    main = _read_vault(path, metadata, metadata["sha256"])
    final = _read_vault(path / "final", _metadata(path / "final"), metadata["sha256_final"])
    return _join(main, final, metadata, path), metadata


def _metadata(folder: Path) -> dict[str, Any]:
    file = folder / "metadata.json"
    if not file.is_file():
        beside = (
            sorted(p.name for p in folder.parent.iterdir() if p.is_dir())
            if folder.parent.is_dir()
            else []
        )
        raise InvalidDataset(
            f"{file}: expected the metadata of a vault, found no such file; folders beside "
            f"it: {', '.join(beside) or 'none'}"
        )
    try:
        metadata = json.loads(file.read_text())
        version, _ = int(metadata["version"]), metadata["structure_shape"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidDataset(
            f"{file}: expected the JSON metadata of a vault, found a damaged file ({error!r})"
        ) from error
    if version != int(_VAULT_VERSION):
        raise InvalidDataset(
            f"{file}: field 'version': expected {int(_VAULT_VERSION)}.x, found "
            f"{metadata['version']}"
        )
    return metadata


def _read_vault(
    folder: Path, metadata: dict[str, Any], hashes: dict[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The leaves of a vault by dotted name, each [M, ...], without the leading axis of size 1."""
    shapes = _flatten(metadata["structure_shape"])
    if hashes is not None and set(hashes) != set(shapes):
        raise InvalidDataset(
            f"{folder / 'metadata.json'}: expected a hash for each of {sorted(shapes)}, "
            f"found {sorted(hashes)}"
        )
    length = int(_read(folder, "vault_index")[0])
    leaves = {}
    for name, text in shapes.items():
        value = _read(folder, name + ".", length)
        if value.shape[2:] != tuple(literal_eval(text))[2:] or value.shape[0] != 1:
            raise InvalidDataset(
                f"{folder}: array '{name}': expected shape {text}, found {value.shape}"
            )
        if hashes is not None and _sha256(value) != hashes[name]:
            raise InvalidDataset(
                f"{folder}: array '{name}': expected content of hash {hashes[name][:12]}, "
                f"found {_sha256(value)[:12]}"
            )
        leaves[name] = value[0]
    return leaves


def _read(folder: Path, name: str, length: int | None = None) -> np.ndarray:
    try:
        store = _open(folder, name)
        return np.asarray((store if length is None else store[:, :length]).read().result())
    except ValueError as error:  # tensorstore raises it for damaged and for missing files
        raise InvalidDataset(
            f"{folder}: array '{name.rstrip('.')}': expected a readable array, found a "
            f"missing or damaged file ({error})"
        ) from error


def _join(
    main: dict[str, np.ndarray], final: dict[str, np.ndarray], metadata: dict[str, Any], path: Path
) -> Episodes:
    lengths, steps, total = final["length"], metadata["steps"], len(main["rewards"])
    if lengths.sum() != total:
        raise InvalidDataset(
            f"{path / 'final'}: array 'length': expected a sum of {total} steps, found "
            f"{lengths.sum()}"
        )
    filled = np.arange(steps) < lengths[:, None]
    if metadata["action_type"] == "continuous":
        n, a = metadata["n_agents"], metadata["num_actions"]
        main["infos.legals"], final["infos.legals"] = (
            np.ones((total, n, a), np.float32),
            np.ones((len(lengths), n, a), np.float32),
        )
    return padded(
        filled,
        {name: (main[leaf], final[leaf]) for name, leaf in _SLOTS.items()},
        main["actions"],
        main["rewards"],
        main["terminals"][:, 0],
        main["truncations"][:, 0],
        final["behaviour_level"],
    )


_SLOTS = {"obs": "observations", "state": "infos.state", "avail": "infos.legals"}


# ------------------------------------------------------------------------------------ trees, hashes


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= (
            _flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return flat


def _map(function: Any, tree: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _map(function, value) if isinstance(value, dict) else function(value)
        for name, value in tree.items()
    }


def _hashes(tree: dict[str, Any]) -> dict[str, str]:
    return {name: _sha256(value) for name, value in _flatten(tree).items()}


def _sha256(value: np.ndarray) -> str:
    head = f"{value.dtype.str} {value.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(value).tobytes()).hexdigest()
