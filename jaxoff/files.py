"""Files and folders that are written completely or not at all.

What is written has a temporary name beside its target: a dot, the number of the writing process, a
random part, and the target's name. The writer holds a lock on it, by which the left-overs of a
writer that was killed are told from what is still being written. The next write to the same name
removes left-overs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff.errors import AlreadyThere, JaxoffError, NotWritten

_NAME_BYTES, _PATH_BYTES = 255, 4000  # longest name and path; Linux allows paths of 4095 bytes
_KEPT_BYTES = 200  # most bytes of a target's name in a temporary one, which keeps its suffix
_LEAST_FREE_BYTES = 2**20  # a disk with less free space counts as full
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WAIT_S = 60.0  # longest time that a lock is waited for
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
_TEMPORARY = r"\.\d+(?:-[0-9a-f]{8})?\."  # how a temporary name begins, in earlier versions too
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_WRITING: set[Path] = set()  # the temporary files and folders of this process


# ------------------------------------------------------------------------------------------ writing


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that replaces `path` at the end, or is removed on an error.

    The file is flushed to the disk before it gets its name, so that a power cut leaves the old or
    the new one. Raises NotWritten where the disk is full or no file can be at `path`.
    """
    path = Path(path)
    with _new(path, Path.touch) as temporary:
        yield temporary
        with _about(path):
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)


@contextlib.contextmanager
def replacing_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `path` that replaces `path` at the end, or is removed on an error.

    Where the file system can exchange two names, there is a folder at `path` at every moment.
    Elsewhere the old folder is moved aside for an instant; if the process is killed then,
    `recover(path)` moves it back. Raises NotWritten where the disk is full or no folder can be at
    `path`, and AlreadyThere where there is one and overwrite is not set.
    """
    with replacing_folders([path], overwrite) as (temporary,):
        yield temporary


@contextlib.contextmanager
def replacing_folders(paths: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    """`replacing_folder` for several folders, none of which gets its name before all of them are on
    the disk.
    """
    for path in paths:
        recover(path)
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(_new(path, Path.mkdir)) for path in paths]
        yield made
        for path, temporary in zip(paths, made, strict=True):
            with _about(path):
                for folder, _, names in os.walk(temporary):
                    for name in (*names, ""):
                        _flush(Path(folder, name))
        for path, temporary in zip(paths, made, strict=True):
            with _about(path):
                _put(temporary, path, overwrite)
                _flush(path.parent)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block with the same folder, which need not exist.

    For a file that is read, changed and written again. Where the file system has no locks, nothing
    is waited for; nor for longer than a minute, since programs of others may lock the folder, too.
    """
    folder = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())
    lock, end = os.open(folder, os.O_RDONLY), time.monotonic() + _WAIT_S
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    print(
                        f"jaxoff: {folder}: another program keeps its lock, which is no longer "
                        "waited for",
                        file=sys.stderr,
                    )
                    break
                time.sleep(0.02)
            except OSError:
                break
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _new(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new locked temporary file or folder beside `path`, which is removed at the end.

    The left-overs of killed writers to `path` are removed first, and new folders above `path` if
    nothing gets there.
    """
    temporary = _temporary(path)
    missing = [folder for folder in path.parents if not os.path.lexists(folder)]
    _WRITING.add(temporary)
    try:
        with _about(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            make(temporary)
            lock = os.open(temporary, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with _about(path, _FULL):
                yield temporary
        finally:
            os.close(lock)
    finally:
        _remove(temporary)
        _WRITING.discard(temporary)
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            for folder in () if os.path.lexists(path) else missing:
                folder.rmdir()


def _put(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give a folder its final name; a folder that had the name is at `temporary` afterwards."""
    if not path.exists():
        os.replace(temporary, path)
        return
    if not overwrite:
        raise AlreadyThere(f"{path}: another process has written it in the meantime")
    try:
        _exchange(temporary, path)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        aside = _temporary(path, "old-")
        os.replace(path, aside)
        os.replace(temporary, path)
        os.replace(aside, temporary)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step. Raises OSError, with ENOSYS where the system can't."""
    libc, code = ctypes.CDLL(None, use_errno=True), errno.ENOSYS
    if hasattr(libc, "renameat2"):
        names = os.fsencode(one), os.fsencode(other)
        if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # some file systems can't do it for folders
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _about(path: Path, codes: Collection[int] = ()) -> Iterator[None]:
    """Turn errors of the operating system into NotWritten, which names `path`.

    codes: only errors with one of these numbers; none stands for all.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, JaxoffError) or (codes and error.errno not in codes):
            raise
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> NotWritten:
    """The error for a file or folder that could not be written."""
    # Temporary names tell nothing; a folder on the way, or one of its names, does.
    telling = error.filename in {*map(str, path.absolute().parents), *path.parts}
    where = f" ({error.filename})" if telling else ""
    todo = "free some space" if error.errno in _FULL else "choose another place"
    reason = (error.strerror or str(error)).lower()
    return NotWritten(f"{path}: could not be written: {reason}{where}; {todo}")


def check_writable(path: Path) -> None:
    """Raise NotWritten unless a new file or folder could be written at `path`.

    The lengths of its names, the nearest folder that exists, and the free space of its disk are
    checked. What is at `path` is not looked at.
    """
    path = path.absolute()
    with _about(path):
        base = next((folder for folder in path.parents if os.path.lexists(folder)), Path("/"))
        if not base.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder is needed", str(base))
        longest = _longest_name(base)
        for name in path.relative_to(base).parts:
            if len(os.fsencode(name)) > longest:
                raise OSError(errno.ENAMETOOLONG, f"a name is longer than {longest} bytes", name)
        if len(os.fsencode(path)) > _PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, f"the path is longer than {_PATH_BYTES} bytes")
        probe = _temporary(base / "probe")
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(base)) from error
        disk = shutil.disk_usage(base)
        if disk.total and disk.free < _LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(base))


def check_writable_file(path: Path) -> None:
    """Raise NotWritten unless a file could be written at `path`, where one may be already."""
    with _about(path):
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, "a folder is where the file is to be", str(path))
    check_writable(path)


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return _NAME_BYTES


# --------------------------------------------------------------------------------------- left-overs


def recover(path: Path) -> None:
    """Move the folder back to `path` that a killed writer had moved aside, if nothing is there."""
    if path.exists():
        return
    for aside in _beside(path, "old-"):
        if _is_left(aside):
            os.replace(aside, path)
            return


def clean(folder: Path) -> None:
    """Remove the files that killed writers left in a folder; what a live process writes is kept."""
    for found in folder.glob(".[0-9]*"):
        if re.match(_TEMPORARY, found.name) and found.is_file() and _is_left(found):
            _remove(found)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers to `path` left beside it; what a live process writes is kept."""
    for found in [*_beside(path), *(_beside(path, "old-") if path.exists() else ())]:
        if _is_left(found):
            _remove(found)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _temporary(path: Path, mark: str = "") -> Path:
    """A new temporary name beside `path`. mark: "old-" for what is moved aside."""
    return path.with_name(f".{mark}{os.getpid()}-{uuid.uuid4().hex[:8]}.{_end(path.name)}")


def _end(name: str) -> str:
    """The end of a file name, so short that a temporary name is not too long."""
    return os.fsencode(name)[-_KEPT_BYTES:].decode(errors="ignore")


def _beside(path: Path, mark: str = "") -> list[Path]:
    """Temporary files and folders of `path`, those of earlier versions of jaxoff included."""
    name = re.escape(_end(path.name))
    pattern = rf"\.{mark}\d+-[0-9a-f]{{8}}\.{name}"
    if not mark:
        pattern += rf"|\.\d+\.{name}|\.{name}\.[0-9a-f]{{32}}"
    with contextlib.suppress(OSError):
        return [found for found in path.parent.iterdir() if re.fullmatch(pattern, found.name)]
    return []


def _is_left(temporary: Path) -> bool:
    """Whether no process writes a temporary file or folder any more."""
    number = re.match(r"\.(?:old-)?(\d+)[-.]", temporary.name)
    if temporary in _WRITING or (number is not None and _is_other(int(number[1]))):
        return False
    try:
        lock = os.open(temporary, os.O_RDONLY)
    except OSError:  # it is gone
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its writer holds the lock
        return False
    finally:
        os.close(lock)
    return True


def _is_other(process: int) -> bool:
    """Whether a number is that of another process that lives."""
    if process == os.getpid():  # in a container, all processes may get the same number
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


# --------------------------------------------------------------------------------------------- text


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file, completely or not at all; returns its path."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def plain(value: Any) -> Any:
    """A value in JSON's types: arrays become lists, and numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
