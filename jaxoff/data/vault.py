"""The files of a flashbax Vault: one zarr array per leaf of a tree, and metadata.json.

A vault's arrays are (1, M, ...) with a declared length that is far larger; `vault_index` has the
true length M.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.errors import InvalidDataset, NotWritten

_VERSION = 1.2  # flashbax compares the integer part
_TIME_LIMIT = 10**13  # the declared length of every array
_CHUNK_BYTES = 2**20
_MOST_INFLATED = 1032  # bytes that one byte of a gzip file can stand for
_SMALL_BYTES = 2**28  # arrays of at most this size are read whatever the size of their files
INDEX = "vault_index"


# ------------------------------------------------------------------------------------------ writing


def write_vault(folder: Path, tree: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write arrays [1, M, ...] and metadata as the vault `folder`. Raises NotWritten."""
    leaves = flatten(tree)
    folder.mkdir(parents=True, exist_ok=True)
    with _storing(folder):
        for name, value in leaves.items():
            row = math.prod(value.shape[2:]) * value.itemsize
            chunk = max(1, min(value.shape[1], _CHUNK_BYTES // max(row, 1)))
            shapes = (1, _TIME_LIMIT, *value.shape[2:]), (1, chunk, *value.shape[2:])
            store = open_array(folder, name + ".", value.dtype, *shapes)
            store[:, : value.shape[1]].write(value).result()
        length = np.array([next(iter(leaves.values())).shape[1]], np.int32)
        open_array(folder, INDEX, np.int32, (1,), (1,)).write(length).result()
    text = json.dumps({**structure(tree), **metadata}, indent=1)
    (folder / "metadata.json").write_text(text, encoding="utf-8")


def structure(tree: dict[str, Any]) -> dict[str, Any]:
    """The fields of a vault's metadata that flashbax reads."""
    return {
        "version": _VERSION,
        "structure_shape": _map(lambda x: str(x.shape), tree),
        "structure_dtype": _map(lambda x: x.dtype.name, tree),
    }


@contextlib.contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Turn errors of tensorstore, which raises its own for a full disk, into NotWritten."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        text = str(error).partition(" [source locations")[0].partition(" [tensorstore_spec")[0]
        if found := re.search(r"os_error_code='(\d+)'", text):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder)) from error
        raise NotWritten(f"{folder}: could not be written: {text}") from error


def open_array(
    folder: Path, name: str, dtype: Any = None, shape: Any = None, chunks: Any = None
) -> Any:
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


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a vault. Raises InvalidDataset, which lists the folders beside a missing one.

    Only the fields that every vault has are checked.
    """
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
        metadata = json.loads(file.read_text(encoding="utf-8"))
        version, shapes = int(metadata["version"]), flatten(metadata["structure_shape"])
        if not all(isinstance(shape_of(text), tuple) for text in shapes.values()):
            raise TypeError("structure_shape")
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise _damaged(file, error) from error
    except RecursionError as error:
        raise _damaged(file, error) from None
    if version != int(_VERSION):
        raise InvalidDataset(
            f"{file}: field 'version': expected {int(_VERSION)}.x, found {metadata['version']}"
        )
    return metadata


def _damaged(file: Path, error: Exception) -> InvalidDataset:
    return InvalidDataset(
        f"{file}: expected the JSON metadata of a vault, found a damaged file ({error!r:.200})"
    )


def shape_of(text: str) -> tuple[int, ...]:
    """The shape of an array in a vault's metadata, such as "(1, 9, 2)"."""
    if not re.fullmatch(r"\((\d{1,15}, ?)*(\d{1,15})?\)", text):
        raise ValueError(f"structure_shape {text!r}")
    return literal_eval(text)


def read_vault(
    folder: Path, metadata: dict[str, Any], hashes: dict[str, str]
) -> dict[str, np.ndarray]:
    """The leaves of a vault by dotted name, each [M, ...], without the leading axis of size 1.

    hashes: what every leaf must hash to. Its length must be the one in the metadata. Raises
    InvalidDataset naming the array.
    """
    shapes = {name: shape_of(text) for name, text in flatten(metadata["structure_shape"]).items()}
    if set(hashes) != set(shapes):
        raise InvalidDataset(
            f"{folder / 'metadata.json'}: expected a hash for each of {sorted(shapes)}, "
            f"found {sorted(hashes)}"
        )
    length = _length(folder)
    leaves = {}
    for name, shape in shapes.items():
        if length != shape[1]:
            raise InvalidDataset(
                f"{folder}: array '{INDEX}': expected {shape[1]}, as metadata.json has for "
                f"'{name}', found {length}"
            )
        value = read_array(folder, name + ".", length)
        if value.shape[2:] != shape[2:] or value.shape[0] != 1:
            raise InvalidDataset(
                f"{folder}: array '{name}': expected shape {shape}, found {value.shape}"
            )
        if sha256(value) != hashes[name]:
            raise InvalidDataset(
                f"{folder}: array '{name}': expected content of hash {hashes[name][:12]}, "
                f"found {sha256(value)[:12]}"
            )
        leaves[name] = value[0]
    return leaves


def _length(folder: Path) -> int:
    """The number of rows M of a vault's arrays."""
    index = read_array(folder, INDEX)
    if index.shape != (1,) or index.dtype.kind not in "iu" or index[0] < 0:
        raise InvalidDataset(
            f"{folder}: array '{INDEX}': expected one whole number that is not negative, found "
            f"{index.tolist()}"
        )
    return int(index[0])


def read_array(folder: Path, name: str, length: int | None = None) -> np.ndarray:
    """An array of a vault, or its first `length` rows [1, length, ...].

    Raises InvalidDataset for a damaged file, and for an array that can't be in files of that size.
    """
    try:
        store = open_array(folder, name)
        if length is not None:
            store = store[:, :length]
        _check_size(folder, name, store)
        return np.asarray(store.read().result())
    except (ValueError, IndexError) as error:  # tensorstore raises it for missing files too
        if isinstance(error, InvalidDataset):
            raise
        raise InvalidDataset(
            f"{folder}: array '{name.rstrip('.')}': expected a readable array, found a "
            f"missing or damaged file ({error})"
        ) from error


def _check_size(folder: Path, name: str, store: Any) -> None:
    """Refuse an array, or chunks of one, that the files of the vault are too small for."""
    item = store.dtype.numpy_dtype.itemsize
    wanted = item * max(math.prod(store.shape), math.prod(store.chunk_layout.read_chunk.shape))
    if wanted <= _SMALL_BYTES:
        return
    found = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if wanted > _MOST_INFLATED * found:
        raise InvalidDataset(
            f"{folder}: array '{name.rstrip('.')}': expected at most the rows that its files can "
            f"hold, found {store.shape[1] if len(store.shape) > 1 else store.shape} rows of "
            f"{wanted:,} bytes in files of {found:,} bytes; '{INDEX}' or the array is damaged"
        )


# ------------------------------------------------------------------------------------ trees, hashes


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return flat


def _map(function: Any, tree: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _map(function, value) if isinstance(value, dict) else function(value)
        for name, value in tree.items()
    }


def hashes_of(tree: dict[str, Any]) -> dict[str, str]:
    """The hash of each leaf of a tree of arrays, by dotted name."""
    return {name: sha256(value) for name, value in flatten(tree).items()}


def sha256(value: np.ndarray) -> str:
    """SHA-256 of an array with its type and shape."""
    head = f"{value.dtype.str} {value.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(value).tobytes()).hexdigest()
