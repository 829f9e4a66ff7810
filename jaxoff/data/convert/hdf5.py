"""HDF5 files of public data, whose datasets are checked before memory is allocated.

HDF5 can read other files by links, external storage and virtual datasets, and a small file can
claim a dataset of any size. All of that is refused by name.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.errors import InvalidEpisodes, JaxoffError
from jaxoff.runtime import check_file, check_memory, needs

# A dataset of more bytes is refused where it is this many times as large as what is stored of it.
_LARGE_BYTES, _LARGEST_RATIO = 2**28, 500


@contextlib.contextmanager
def opened(file: str | Path) -> Iterator[Any]:
    """The open HDF5 file. Raises FileNotFoundError, or InvalidEpisodes naming the file."""
    file = check_file(file, "an HDF5 file")
    with needs(str(file)):
        import h5py
    try:
        with h5py.File(file, "r") as source:
            yield source
    except JaxoffError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        # h5py raises these for damaged files
        raise InvalidEpisodes(
            f"{file}: expected a whole HDF5 file, found a damaged file ({error})"
        ) from error


def read_hdf5(file: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Datasets of an HDF5 file by name.

    Raises FileNotFoundError, or InvalidEpisodes naming the file and the dataset.
    """
    names = list(names)
    with opened(file) as source:
        found = {name: dataset(source, name) for name in names}
        missing = [name for name, array in found.items() if array is None]
        if missing:
            raise InvalidEpisodes(
                f"{file}: expected the datasets {', '.join(names)}, found no {', '.join(missing)}"
            )
        check_memory(str(file), sum(array.nbytes for array in found.values()))
        return {name: array[()] for name, array in found.items()}


def dataset(source: Any, name: str) -> Any:
    """The h5py dataset of an open file, checked but not read yet; None where there is none.

    Raises InvalidEpisodes naming the file and the dataset, or InvalidFile for what is larger than
    the free memory.
    """
    with needs(source.filename):
        import h5py

    shown, node = f"{source.filename}: dataset '{name}'", source
    for part in name.split("/"):
        if not isinstance(node, h5py.Group) or not node.id.links.exists(part.encode()):
            return None
        if node.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise InvalidEpisodes(
                f"{shown}: expected it in the file itself, found that '{part}' is a soft or "
                "external link"
            )
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        return None
    if node.external or node.is_virtual:
        raise InvalidEpisodes(
            f"{shown}: expected its numbers in the file itself, found "
            f"{'external storage' if node.external else 'a virtual dataset'}"
        )
    if node.shape is None or node.dtype.kind not in "fiub":
        raise InvalidEpisodes(f"{shown}: expected an array of numbers, found {node.dtype}")
    _check_size(shown, source, node)
    return node


def _check_size(shown: str, source: Any, node: Any) -> None:
    """Compare the size of a dataset with what is stored of it, and with the free memory."""
    claim, stored = math.prod(node.shape) * node.dtype.itemsize, node.id.get_storage_size()
    chunk = math.prod(node.chunks or (0,)) * node.dtype.itemsize
    whole = stored >= claim
    if node.chunks:
        counts = [-(-size // part) for size, part in zip(node.shape, node.chunks, strict=True)]
        whole = claim == 0 or node.id.get_num_chunks() >= math.prod(counts)
    if not whole or stored > Path(source.filename).stat().st_size:
        raise InvalidEpisodes(
            f"{shown}: expected the {claim:,} bytes of its shape {node.shape}, found a part of "
            f"them, {stored:,} bytes in the file"
        )
    large = max(claim, chunk)
    if large > _LARGE_BYTES and large > _LARGEST_RATIO * stored:
        raise InvalidEpisodes(
            f"{shown}: expected at most {_LARGEST_RATIO} bytes for each stored one, found "
            f"{large:,} for {stored:,}"
        )
    check_memory(shown, claim + chunk)
