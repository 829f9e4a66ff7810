"""Downloads of OG-MARL's vaults: the archive of a scenario, unpacked to where readers look."""

from __future__ import annotations

import shutil
import stat
import uuid
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from jaxoff.data import public
from jaxoff.errors import JaxoffError
from jaxoff.names import Task

REPOSITORY = "InstaDeepAI/og-marl"
LIMIT_BYTES = 64 * 2**30  # largest unpacked size of an archive; all known ones are far smaller


class FetchError(JaxoffError, RuntimeError):
    """A dataset could not be downloaded or unpacked; the message says what to do instead."""


def fetch(
    task: Task | str, data_dir: str | Path, *, say: Callable[[str], None] = lambda text: None
) -> Path:
    """Download the vault of a task's scenario, with all its qualities, and return its folder.

    The folder is DATA_DIR/<source>/<env>/<scenario>.vlt; if it is there already, nothing is done.
    An interrupted download is continued. An archive that is already at DATA_DIR/downloads/<its
    name> is unpacked without a download. say: called with progress messages. Raises UnknownName,
    or FetchError.
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
    name = archive_name(task)
    archive = root / "downloads" / name
    by_hand = archive.is_file()
    if not by_hand:
        say(f"downloading {name} of {REPOSITORY}")
        _download(name, root / "downloads", archive, target)
    say(f"unpacking {archive}")
    _unpack(archive, target)
    if not by_hand:
        archive.unlink()
    say(f"ready: {target}")
    return target


def archive_name(task: Task) -> str:
    """The archive of a task's scenario in the public repository."""
    folder = "core" if task.source == "og_marl" else f"prior_work/{task.source}"
    return f"{folder}/{task.family}/{task.scenario}.zip"


def _download(name: str, folder: Path, archive: Path, target: Path) -> None:
    import huggingface_hub

    try:
        huggingface_hub.hf_hub_download(
            repo_id=REPOSITORY, repo_type="dataset", filename=name, local_dir=folder
        )
    except Exception as error:  # huggingface_hub raises the errors of whichever HTTP client it uses
        raise FetchError(
            f"{name}: could not be downloaded from {REPOSITORY} ({type(error).__name__}); download "
            f"https://huggingface.co/datasets/{REPOSITORY}/resolve/main/{name} by hand, "
            f"and either put it at {archive} and fetch again, or unpack it so that {target} exists"
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
                _check_member(archive, item, target.name)
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
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise FetchError(
            f"{archive}: expected a whole zip archive, found a damaged one ({error}); "
            "delete it and fetch again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_member(archive: Path, item: zipfile.ZipInfo, folder: str) -> None:
    path, kind = PurePosixPath(item.filename), stat.S_IFMT(item.external_attr >> 16)
    unsafe = (
        path.is_absolute() or ".." in path.parts or "\\" in item.filename or ":" in item.filename
    )
    if unsafe or path.parts[:1] != (folder,):
        raise FetchError(
            f"{archive}: expected only files below {folder}, found '{item.filename}'; "
            "nothing was unpacked"
        )
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise FetchError(
            f"{archive}: expected only files and folders, found the link or device "
            f"'{item.filename}'; nothing was unpacked"
        )


def _check_size(archive: Path, size: int, target: Path) -> None:
    if size > LIMIT_BYTES:
        raise FetchError(
            f"{archive}: expected at most {LIMIT_BYTES:,} bytes when unpacked, found "
            f"{size:,}; nothing was unpacked"
        )
    base = next(folder for folder in target.parents if folder.is_dir())
    free = shutil.disk_usage(base).free
    if size > free:
        raise FetchError(
            f"{base}: expected {size:,} bytes of free disk for {archive.name}, found "
            f"{free:,}; nothing was unpacked"
        )
