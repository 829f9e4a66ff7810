"""The fields that jaxoff adds to the metadata of its own datasets, and how damage is noticed.

    jaxoff_schema       2; datasets of schema 1 were written without sha256_metadata
    n_agents, num_actions, horizon, steps, action_type, action_bound, done_semantics, statistics
    obs_sizes, action_sizes, agent_types, return_scale      as in EnvSpec, where there are any
    made_with           versions of jaxoff, JAX and the simulator, and jaxoff's commit
    sha256, sha256_final        the hash of each array, in the main vault and in the final vault
    sha256_metadata     the hash of all other fields

A dataset that has fields of this list but no schema is damaged. One that has none was written by
another program.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from jaxoff.errors import InvalidDataset
from jaxoff.files import plain

SCHEMA = 2
_SCHEMAS = (1, SCHEMA)
_SEAL = "sha256_metadata"
RESERVED = {"jaxoff_schema", _SEAL}  # fields that `seal` adds
_OWN = {*RESERVED, "done_semantics", "sha256", "sha256_final"}
_COUNTS = ("n_agents", "num_actions", "horizon", "steps")  # whole numbers of at least 1
_HASHES = ("sha256", "sha256_final")


def seal(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata in JSON's types, with the schema's number and the hash of all fields."""
    whole = json.loads(json.dumps(plain({"jaxoff_schema": SCHEMA, **metadata}), allow_nan=False))
    return whole | {_SEAL: _hash(whole)}


def _hash(metadata: dict[str, Any]) -> str:
    """SHA-256 of the metadata without its own hash, as canonical JSON."""
    kept = {name: value for name, value in metadata.items() if name != _SEAL}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_sealed(metadata: dict[str, Any]) -> bool:
    """Whether the metadata have a hash, which those of schema 1 lack."""
    return _SEAL in metadata


def is_foreign(metadata: dict[str, Any]) -> bool:
    """Whether another program wrote a vault: it has no field that is jaxoff's own."""
    return not _OWN & set(metadata)


def check_seal(file: Path, metadata: dict[str, Any]) -> None:
    """Raise InvalidDataset where the schema is unknown, or where a field was changed."""
    schema = metadata.get("jaxoff_schema")
    if schema not in _SCHEMAS or isinstance(schema, bool):
        raise _wrong(file, "jaxoff_schema", " or ".join(map(str, _SCHEMAS)), schema)
    if schema == 1 and _SEAL not in metadata:
        return
    if metadata.get(_SEAL) != _hash(metadata):
        raise _wrong(
            file,
            _SEAL,
            "the hash of the other fields",
            metadata.get(_SEAL),
            "; a field was changed",
        )


def check(file: Path, metadata: dict[str, Any]) -> None:
    """Raise InvalidDataset naming the file and the field where a dataset's metadata are damaged."""
    check_seal(file, metadata)
    missing = {*_COUNTS, *_HASHES, "action_type"} - set(metadata)
    if missing:
        raise InvalidDataset(f"{file}: expected jaxoff's fields, found no {sorted(missing)}")
    for name in _COUNTS:
        value = metadata[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _wrong(file, name, "a whole number of at least 1", value)
    if metadata["action_type"] not in ("discrete", "continuous"):
        raise _wrong(file, "action_type", "discrete or continuous", metadata["action_type"])
    bound = metadata.get("action_bound", 1.0)
    if not isinstance(bound, int | float) or not bound > 0:
        raise _wrong(file, "action_bound", "a number above 0", bound)
    for name in _HASHES:
        value = metadata[name]
        if not isinstance(value, dict) or not all(isinstance(x, str) for x in value.values()):
            raise _wrong(file, name, "a hash for each array", value)
    for name in ("obs_sizes", "action_sizes", "agent_types"):
        value = metadata.get(name, [])
        whole = isinstance(value, list) and all(type(x) is int and x >= 0 for x in value)
        if not whole or len(value) not in (0, metadata["n_agents"]):
            raise _wrong(file, name, "a whole number for each agent", value)
    scale = metadata.get("return_scale", [0.0, 1.0, ""])
    kinds = [int | float, int | float, str]
    if not isinstance(scale, list) or len(scale) != 3 or not all(map(isinstance, scale, kinds)):
        raise _wrong(file, "return_scale", "two returns and a text", scale)
    for name in ("env", "scenario", "recipe"):
        if not isinstance(metadata.get(name, ""), str):
            raise _wrong(file, name, "a text", metadata[name])


def _wrong(file: Path, name: str, expected: str, found: Any, note: str = "") -> InvalidDataset:
    return InvalidDataset(f"{file}: field '{name}': expected {expected}, found {found!r:.80}{note}")
