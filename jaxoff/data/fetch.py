"""Downloads of OG-MARL's vaults: the archive of a scenario, checked, and unpacked to where readers
look.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import struct
import uuid
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jaxoff.data import public
from jaxoff.data.scenarios import table
from jaxoff.errors import InvalidSetting, JaxoffError
from jaxoff.names import Task
from jaxoff.runtime import needs

# The largest archives that are unpacked; all known ones are far smaller.
LIMIT_BYTES, LIMIT_FILES = 64 * 2**30, 1_000_000
_RATIO, _SMALL_BYTES = 100, 2**30  # larger ones may be this many times the size of the archive
_NAME_BYTES, _PATH_BYTES = 255, 4000  # the longest name and path that file systems take
_ENCRYPTED = 1  # the bit of a member's flags
_DAMAGE = (
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class FetchError(JaxoffError, RuntimeError):
    """A dataset could not be downloaded or unpacked; the message says what to do instead."""


class _NoSpace(FetchError):
    """A good archive for which the disk has too little space."""


def fetch(
    task: Task | str,
    data_dir: str | Path,
    *,
    sha256: str = "",
    unverified: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Download the vault of a task's scenario, with all its qualities, and return its folder.

    The folder is DATA_DIR/<source>/<env>/<scenario>.vlt; if it is there already, nothing is done.
    An archive that is already at DATA_DIR/downloads/<its name> is unpacked without a download; its
    own download goes to the folder DATA_DIR/downloads/partial, where one that was interrupted is
    continued. Either has to have the checksum that archives.toml knows, or else `sha256`, 64
    hexadecimal digits; unverified: unpack it without. say: called with progress messages. Raises
    UnknownName, InvalidSetting or FetchError.
    """
    task = Task.parse(task) if isinstance(task, str) else task
    public.make_env(task)
    if task.source not in public.VAULT_SOURCES:
        raise FetchError(
            f"{task}: expected a dataset that is published as a vault "
            f"({', '.join(public.VAULT_SOURCES)}), found source '{task.source}'; "
            f"get its file from the authors and pass --data-dir"
        )
    root = Path(data_dir).expanduser().absolute()
    target = root / task.source / task.family / f"{task.scenario}.vlt"
    if target.is_dir() and any(target.iterdir()):
        say(f"already there: {target}")
        return target
    name, known = archive_name(task), _known()
    wanted = known["sha256"].get(name, "") or sha256.lower()
    _check_wanted(name, wanted, sha256.lower(), unverified)
    archive = root / "downloads" / name
    by_hand = archive.is_file()
    if not by_hand:
        say(f"downloading {name} of {known['repository']}")
        archive = _download(name, root / "downloads", target)
    try:
        _verify(archive, wanted, say)
        say(f"unpacking {archive}")
        _unpack(archive, target)
    except _NoSpace:
        raise
    except FetchError:
        if not by_hand:  # the next fetch would take it for the whole one
            archive.unlink()
        raise
    if not by_hand:
        archive.unlink()
    say(f"ready: {target}")
    return target


def _known() -> dict[str, Any]:
    """The content of archives.toml."""
    return table("archives")


def _check_wanted(name: str, wanted: str, given: str, unverified: bool) -> None:
    if wanted and unverified:
        raise InvalidSetting(
            f"--unverified: expected no checksum for it to ignore, found {wanted} for {name}"
        )
    if given and (given != wanted or not re.fullmatch("[0-9a-f]{64}", given)):
        like = wanted if given != wanted else "64 hexadecimal digits"
        raise InvalidSetting(f"--sha256: expected {like} for {name}, found '{given}'")
    if not wanted and not unverified:
        raise FetchError(
            f"{name}: expected the sha256 of this archive in archives.toml, found none, since it "
            f"is not known; pass the one that {_page(name)} shows as --sha256, or pass "
            "--unverified to unpack whatever is downloaded"
        )


def _verify(archive: Path, wanted: str, say: Callable[[str], None]) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if wanted and found != wanted:
        raise FetchError(
            f"{archive}: expected sha256 {wanted}, found {found}; nothing was unpacked; delete the "
            "archive if it is there, and fetch again"
        )
    say(f"sha256 {found}, {'as expected' if wanted else 'which was not compared with any'}")


def _page(name: str) -> str:
    known = _known()
    return f"https://huggingface.co/datasets/{known['repository']}/blob/{known['revision']}/{name}"


def archive_name(task: Task) -> str:
    """The archive of a task's scenario in the public repository."""
    folder = "core" if task.source == "og_marl" else f"prior_work/{task.source}"
    return f"{folder}/{task.family}/{task.scenario}.zip"


def _download(name: str, folder: Path, target: Path) -> Path:
    with needs("jaxoff data fetch"):
        import huggingface_hub

    known = _known()
    repository, revision = known["repository"], known["revision"]
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                repo_id=repository,
                repo_type="dataset",
                filename=name,
                revision=revision,
                local_dir=folder / "partial",
            )
        )
    except Exception as error:  # huggingface_hub raises the errors of whichever HTTP client it uses
        raise FetchError(
            f"{name}: could not be downloaded from {repository} ({type(error).__name__}); download "
            f"https://huggingface.co/datasets/{repository}/resolve/{revision}/{name} by hand, and "
            f"either put it at {folder / name} and fetch again, or unpack it so that {target} "
            "exists"
        ) from error


def _unpack(archive: Path, target: Path) -> None:
    """Unpack `<scenario>.vlt` of an archive to `target`, completely or not at all.

    Archives with files that would be written outside of that folder are refused.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with zipfile.ZipFile(archive) as source:
            members = [
                item for item in source.infolist() if not item.filename.startswith("__MACOSX/")
            ]
            for item in members:
                _check_member(archive, item, temporary, target.name)
            _check_names(archive, [item.filename for item in members])
            _check_size(archive, sum(item.file_size for item in members), target)
            temporary.mkdir(parents=True)
            source.extractall(temporary, members)
        if not any((temporary / target.name).glob("*/metadata.json")):
            raise FetchError(
                f"{archive}: expected the folder {target.name} with a vault in it, found none"
            )
        if target.is_dir():
            target.rmdir()  # the folder is empty
        (temporary / target.name).replace(target)
    except FetchError:
        raise
    except _DAMAGE as error:
        raise FetchError(
            f"{archive}: expected a whole zip archive, found a damaged one ({error}); "
            "delete it and fetch again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_member(archive: Path, item: zipfile.ZipInfo, base: Path, folder: str) -> None:
    """Refuse members that would not be written as plain files or folders below `folder`."""
    name = item.filename
    path, kind = PurePosixPath(name), stat.S_IFMT(item.external_attr >> 16)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
    longest = max(len(os.fsencode(part)) for part in (*path.parts, ""))
    problem = ""
    if unsafe or path.parts[:1] != (folder,):
        problem = f"only files below {folder}, found {name!r}"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = f"only files and folders, found the link or device {name!r}"
    elif longest > _NAME_BYTES or len(os.fsencode(base / path)) > _PATH_BYTES:
        problem = f"names of at most {_NAME_BYTES} bytes, found {name!r:.80}..."
    elif item.flag_bits & _ENCRYPTED:
        problem = f"files that are not encrypted, found {name!r}"
    elif item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = f"files that are stored or deflated, found {name!r} of another method"
    if problem:
        raise FetchError(f"{archive}: expected {problem}; nothing was unpacked")


def _check_names(archive: Path, names: Sequence[str]) -> None:
    """Refuse a name that two files have, or a file and a folder."""
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for name in names:
        path = PurePosixPath(name)
        if path in files or (path in folders and not name.endswith("/")):
            raise FetchError(
                f"{archive}: expected each name once, found {name!r} of several files or folders; "
                "nothing was unpacked"
            )
        (folders if name.endswith("/") else files).add(path)
        folders.update(path.parents)
    if both := files & folders:
        raise FetchError(
            f"{archive}: expected each name once, found {str(min(both))!r} of a file and a folder; "
            "nothing was unpacked"
        )
    if len(names) > LIMIT_FILES:
        raise FetchError(
            f"{archive}: expected at most {LIMIT_FILES:,} files, found {len(names):,}; nothing "
            "was unpacked"
        )


def _check_size(archive: Path, size: int, target: Path) -> None:
    limit = min(LIMIT_BYTES, max(_SMALL_BYTES, _RATIO * archive.stat().st_size))
    if size > limit:
        raise FetchError(
            f"{archive}: expected at most {limit:,} bytes when unpacked, found "
            f"{size:,}; nothing was unpacked"
        )
    base = next(folder for folder in target.parents if folder.is_dir())
    free = shutil.disk_usage(base).free
    if size > free:
        raise _NoSpace(
            f"{base}: expected {size:,} bytes of free disk for {archive.name}, found "
            f"{free:,}; nothing was unpacked"
        )
