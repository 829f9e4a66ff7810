"""Reads .npy and .npz files whose headers are compared with the file before memory is allocated.

A header of a few bytes may claim terabytes. Arrays of objects are refused, since reading them runs
what the file says.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from jaxoff.errors import InvalidFile
from jaxoff.runtime import check_file, check_memory

_DAMAGE = (
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
_ENCRYPTED = 1  # the bit of a zip member's flags


def read_npy(path: str | Path) -> np.ndarray:
    """The array of a .npy file. Raises FileNotFoundError, or InvalidFile naming the file."""
    path = check_file(path, "an .npy file")
    try:
        with path.open("rb") as file:
            return _array(str(path), file, path.stat().st_size)
    except InvalidFile:
        raise
    except _DAMAGE as error:
        raise InvalidFile(
            f"{path}: expected a whole .npy array, found a damaged file ({_said(error)})"
        ) from error


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Raises FileNotFoundError, or InvalidFile naming the file
    and the array.
    """
    path = check_file(path, "an .npz file")
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            check_memory(str(path), sum(item.file_size for item in archive.infolist()))
            for item in archive.infolist():
                name = item.filename.removesuffix(".npy")
                if name in arrays or name == item.filename or item.flag_bits & _ENCRYPTED:
                    raise ValueError(f"expected different names in .npy, found '{item.filename}'")
                with archive.open(item) as file:
                    arrays[name] = _array(f"{path}: array '{name}'", file, item.file_size)
    except InvalidFile:
        raise
    except _DAMAGE as error:
        raise InvalidFile(
            f"{path}: expected a whole .npz file, found a damaged file ({_said(error)})"
        ) from error
    return arrays


def _array(source: str, file: IO[bytes], size_bytes: int) -> np.ndarray:
    """Read one array. size_bytes: of its header and content."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected version 1.0 or 2.0, found {version}")
    one = version == (1, 0)
    header = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = header(file)
    except Exception as error:  # numpy passes on whatever Python's tokenizer and parser raise
        raise ValueError(f"no header: {error}") from error
    if dtype.hasobject:
        raise ValueError(f"expected no objects, found {dtype}")
    if min(shape, default=0) < 0:
        raise ValueError(f"expected sizes of at least 0, found shape {shape}")
    claim = math.prod(shape) * dtype.itemsize
    there = size_bytes - file.tell()
    if claim != there:
        raise InvalidFile(
            f"{source}: expected a whole .npy array, found a header of shape {shape} and "
            f"{dtype}, {claim:,} bytes, before {there:,} bytes"
        )
    check_memory(source, claim)
    data = bytearray(claim)
    if (found := file.readinto(data)) != claim:  # type: ignore[attr-defined]
        raise EOFError(f"{found:,} of {claim:,} bytes")
    array = np.frombuffer(data, dtype, math.prod(shape)) if claim else np.empty(shape, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
