"""Reads files of torch.save without torch, and without running anything in them.

Both formats are read: the zip archive, and the stream of pickles of versions before 1.6. Only a few
harmless names are resolved, and none of them to the function of that name; all others are refused.

A small file can't ask for much time or memory either: its opcodes are looked at before they are
run, keys of dictionaries are plain, and parts that a file shares stay shared and are counted as
often as they are found.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxoff.errors import InvalidFile
from jaxoff.runtime import check_file

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
# What the parts of a file may add up to: items and bytes for each of its bytes, and at least.
_EXPANSION, _LEAST = 100, 2**16
# Opcodes with arguments of a fixed size, but for those of dictionaries. A memo's index is below
# 2**24: the unpickler allocates memory for every smaller one.
_FIXED = re.compile(
    rb"(?:[(012NQRabetl\]})\x81\x85-\x89\x93\x94]|[Kqh\x80][\s\S]|M[\s\S]{2}|[Jj][\s\S]{4}"
    rb"|r[\s\S]{3}\x00|[G\x95][\s\S]{8})+"
)
_SIZED = {
    b"U": 1,
    b"C": 1,
    b"\x8c": 1,
    b"\x8a": 1,
    b"X": 4,
    b"B": 4,
    b"T": 4,
    b"\x8b": 4,
    b"\x8e": 8,
}
_GLOBAL = re.compile(rb"c[\w.]*\n[\w.]*\n")
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


class _Storages(dict[str, _Storage]):
    """The storages of a file by key, which have no more bytes than the file."""

    def __init__(self, size_bytes: int) -> None:
        self.left = size_bytes

    def get_or_make(self, key: Any, dtype: str, count: int) -> tuple[_Storage, bool]:
        """The storage of a key, and whether it is new."""
        if _plain_key(key) in self:
            return self[key], False
        made = _Storage(dtype, count)
        self.left -= count * made.dtype.itemsize
        if count < 0 or self.left < 0:
            raise ValueError(f"expected storages within the file, found one of {count:,} numbers")
        self[key] = made
        return made, True


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


class _Names:
    """Resolves only harmless names, each to a stand-in that is made for this one file."""

    def __init__(self, file: Any, storage: Callable[[Any], _Storage]) -> None:
        super().__init__(file, encoding="latin1")  # type: ignore[call-arg]
        self.storage = storage
        numpy = {
            "_reconstruct": lambda *args: _Array(),
            "scalar": lambda dtype, data: np.frombuffer(data, dtype.made())[0].item(),
        }
        self.known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): lambda items=(): OrderedDict(
                (_plain_key(key), value) for key, value in items
            ),
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


class _Unpickler(_Names, pickle.Unpickler):
    """For pickles without dictionaries."""


class _CheckedUnpickler(_Names, pickle._Unpickler):  # type: ignore[name-defined]
    """For pickles with dictionaries, some ten times slower; their keys are checked.

    The hash of a tuple that holds another one twice, which holds a third one twice, and so on,
    would take forever.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def load_setitem(self) -> None:
        self._set([self.stack.pop(-2), self.stack.pop()])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._set(items)

    def _set(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_plain_key(key)] = value

    dispatch |= {pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems}
    dispatch |= {pickle.DICT[0]: load_dict}


def _plain_key(key: Any) -> Any:
    if type(key) not in _PLAIN:
        raise TypeError(f"expected keys that are texts or numbers, found {type(key).__name__}")
    return key


def _unpickler(file: io.BytesIO, storage: Callable[[Any], _Storage]) -> Any:
    """The unpickler for the pickle that begins where the file stands.

    Raises ValueError for opcodes that no version of torch or NumPy writes.
    """
    data, at, dictionaries = file.getbuffer(), file.tell(), False
    while True:
        if found := _FIXED.match(data, at) or _GLOBAL.match(data, at):
            at = found.end()
        code = bytes(data[at : at + 1])
        if code == b".":
            return (_CheckedUnpickler if dictionaries else _Unpickler)(file, storage)
        if code in _SIZED:
            start = at + 1 + _SIZED[code]
            at = start + int.from_bytes(data[at + 1 : start], "little")
        elif code in (b"d", b"s", b"u"):
            dictionaries, at = True, at + 1
        elif not found:
            what = f"0x{code.hex()}" if code else "the end"
            raise ValueError(f"expected opcodes that torch writes, found {what} at byte {at}")


def read_torch(path: str | Path) -> Any:
    """The content of a torch file: lists, tuples and dictionaries of numpy arrays and numbers.

    Tensors become numpy arrays. Raises FileNotFoundError, or InvalidFile naming the file, for
    damage and for any global that is not one of a few harmless ones.
    """
    path = check_file(path, "a torch file")
    try:
        with path.open("rb") as file:
            value = _read_zip(path) if zipfile.is_zipfile(file) else _read_stream(path)
        return _Maker(path.stat().st_size).make(value)[0]
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

        storages = _Storages(path.stat().st_size)

        def storage(pid: Any) -> _Storage:
            _, dtype, key, _, count = pid
            made, is_new = storages.get_or_make(key, dtype, count)
            if is_new:
                with archive.open(f"{folder}data/{key}") as file:
                    made.fill(file.read(count * made.dtype.itemsize + 1))
            return made

        return _unpickler(io.BytesIO(archive.read(index[0])), storage).load()


def _read_stream(path: Path) -> Any:
    storages = _Storages(path.stat().st_size)

    def storage(pid: Any) -> _Storage:
        _, dtype, key, _, count, view = pid
        if view is not None:
            raise ValueError("expected storages that are not views")
        return storages.get_or_make(key, dtype, count)[0]

    file = io.BytesIO(path.read_bytes())

    def load() -> Any:
        return _unpickler(file, storage).load()

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


class _Maker:
    """Replaces stand-ins by arrays; parts that are shared stay shared.

    A reader of the result may go through a shared part as often as it is found, so the bytes and
    items are counted that often. size_bytes: of the file, which they may exceed a hundred times.
    """

    def __init__(self, size_bytes: int) -> None:
        self.limit, self.made_bytes = max(_EXPANSION * size_bytes, _LEAST), 0
        self.done: dict[int, tuple[Any, int] | None] = {}  # by identity; None: not yet ready

    def make(self, value: Any) -> tuple[Any, int]:
        """The value, and its number of bytes and items."""
        if type(value) in _PLAIN:
            return value, 1
        if id(value) not in self.done:
            self.done[id(value)] = None
            self.done[id(value)] = self._make(value)
        if (made := self.done[id(value)]) is None:
            raise ValueError("expected containers that do not hold themselves")
        return made

    def _make(self, value: Any) -> tuple[Any, int]:
        made: Any
        if isinstance(value, _Array | _Tensor):
            made = value.made()
            self.made_bytes += made.nbytes
            self._checked(self.made_bytes)
            size = 1 + made.nbytes
        elif isinstance(value, list | tuple):
            if set(map(type, value)) <= _PLAIN:  # long lists of numbers are common
                return value, 1 + len(value)
            parts = [self.make(item) for item in value]
            made, size = type(value)(part for part, _ in parts), 1 + sum(size for _, size in parts)
        elif isinstance(value, dict):
            pairs = {_plain_key(key): self.make(item) for key, item in value.items()}
            made = {key: part for key, (part, _) in pairs.items()}
            size = 1 + sum(1 + size for _, size in pairs.values())
        else:
            raise TypeError(
                f"expected tensors, arrays, numbers and containers, found {type(value).__name__}"
            )
        return made, self._checked(size)

    def _checked(self, size: int) -> int:
        if size > self.limit:
            raise ValueError(
                f"expected at most {self.limit:,} bytes and items, found shared parts that are "
                "more where each is counted as often as it is found"
            )
        return size
