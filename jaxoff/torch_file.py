"""Reads files of torch.save without torch, and without running anything in them.

Both formats are read: the zip archive, and the stream of pickles of versions before 1.6. Only a few
harmless names are resolved, and none of them to the function of that name; all others are refused.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.errors import InvalidFile

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_PLAIN = {float, int, bool, str, type(None)}
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    OSError,
    MemoryError,
    struct.error,
)


class _Forbidden(Exception):
    """A pickle asks for a name that is not among the harmless ones."""


class _Dtype:
    """A numpy dtype as pickled: a code such as f8, then its byte order."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def made(self) -> np.dtype:
        dtype = np.dtype(self.code)
        if dtype.kind not in "fiub":
            raise ValueError(f"expected arrays of numbers, found {dtype}")
        return np.dtype(self.order + dtype.str[1:]) if self.order in "<>" else dtype


class _Array:
    """A numpy array as pickled."""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def made(self) -> np.ndarray:
        flat = np.frombuffer(self.data, self.dtype.made())
        return _native(flat.reshape(self.shape, order="F" if self.fortran else "C"))


class _Storage:
    """The numbers behind tensors; `data` comes later in the older format."""

    def __init__(self, dtype: str, count: int) -> None:
        if dtype not in _STORAGES.values():
            raise ValueError(f"expected a storage of numbers, found {dtype!r}")
        self.dtype, self.count = np.dtype(dtype).newbyteorder("<"), count
        self.data: bytes | None = None

    def fill(self, data: bytes) -> None:
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(
                f"expected a storage of {self.count * self.dtype.itemsize} bytes, found {len(data)}"
            )
        self.data = data


class _Tensor:
    """A view of a storage."""

    def __init__(
        self,
        storage: _Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *rest: Any,
    ) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def made(self) -> np.ndarray:
        flat = np.frombuffer(self.storage.data or b"", self.storage.dtype)
        reach = (
            self.offset
            + sum(
                (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
            )
            + 1
        )
        numbers = [self.offset, *self.shape, *self.strides]
        size: int = math.prod(list(self.shape))
        if min(numbers) < 0 or size > len(flat) or (size and reach > len(flat)):
            raise ValueError(
                f"expected a tensor within its storage of {len(flat)}, found shape "
                f"{self.shape}, strides {self.strides}"
            )
        strides = [stride * flat.itemsize for stride in self.strides]
        return _native(np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides))


def _native(array: np.ndarray) -> np.ndarray:
    return np.array(array, array.dtype.newbyteorder("="))


class _Unpickler(pickle.Unpickler):
    """Resolves only harmless names, each to a stand-in that is made for this one file."""

    def __init__(self, file: Any, storage: Callable[[Any], _Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self.storage = storage
        numpy = {
            "_reconstruct": lambda *args: _Array(),
            "scalar": lambda dtype, data: np.frombuffer(data, dtype.made())[0].item(),
        }
        self.known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),
            ("numpy", "ndarray"): "ndarray",
            ("numpy", "dtype"): lambda code, *args: _Dtype(code),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _Tensor(*args),
            ("torch._utils", "_rebuild_tensor"): lambda *args: _Tensor(*args),
            **{
                (f"numpy.{core}.multiarray", name): made
                for core in ("core", "_core")
                for name, made in numpy.items()
            },
            **{("torch", name): code for name, code in _STORAGES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise _Forbidden(f"{module}.{name}")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        return self.storage(pid)


def read_torch(path: str | Path) -> Any:
    """The content of a torch file: lists, tuples and dictionaries of numpy arrays and numbers.

    Tensors become numpy arrays. Raises FileNotFoundError, or InvalidFile naming the file, for
    damage and for any global that is not one of a few harmless ones.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a torch file, found none")
    try:
        with path.open("rb") as file:
            return _made(_read_zip(path) if zipfile.is_zipfile(file) else _read_stream(path))
    except _Forbidden as error:
        raise InvalidFile(
            f"{path}: expected tensors, arrays, numbers and containers only, found the "
            f"global '{error}', which is not run"
        ) from error
    except _DAMAGE as error:
        raise InvalidFile(
            f"{path}: expected a whole torch file, found a damaged one ({error!r})"
        ) from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        index = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(index) != 1:
            raise ValueError(f"expected one data.pkl, found {len(index)}")
        folder = index[0][: -len("data.pkl")]
        if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
            raise ValueError("expected an archive without compression")
        if (
            folder + "byteorder" in archive.namelist()
            and archive.read(folder + "byteorder") != b"little"
        ):
            raise ValueError("expected little-endian numbers")

        def storage(pid: Any) -> _Storage:
            _, dtype, key, _, count = pid
            made = _Storage(dtype, count)
            made.fill(archive.read(f"{folder}data/{key}"))
            return made

        return _Unpickler(io.BytesIO(archive.read(index[0])), storage).load()


def _read_stream(path: Path) -> Any:
    storages: dict[str, _Storage] = {}

    def storage(pid: Any) -> _Storage:
        _, dtype, key, _, count, view = pid
        if view is not None:
            raise ValueError("expected storages that are not views")
        return storages.setdefault(key, _Storage(dtype, count))

    file = io.BytesIO(path.read_bytes())

    def load() -> Any:
        return _Unpickler(file, storage).load()

    if load() != _MAGIC:
        raise ValueError("expected torch's first number")
    load()  # the format's version
    if not load()["little_endian"]:
        raise ValueError("expected little-endian numbers")
    value = load()
    for key in load():
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count != storages[key].count:
            raise ValueError(f"expected a storage of {storages[key].count} numbers, found {count}")
        storages[key].fill(file.read(count * storages[key].dtype.itemsize))
    return value


def _made(value: Any) -> Any:
    """The value with stand-ins replaced by arrays."""
    if isinstance(value, _Array | _Tensor):
        return value.made()
    if isinstance(value, list | tuple):
        if set(map(type, value)) <= _PLAIN:  # long lists of numbers are common
            return value
        return type(value)(_made(item) for item in value)
    if isinstance(value, dict):
        return {_made(key): _made(item) for key, item in value.items()}
    if type(value) not in _PLAIN:
        raise TypeError(
            f"expected tensors, arrays, numbers and containers, found {type(value).__name__}"
        )
    return value
