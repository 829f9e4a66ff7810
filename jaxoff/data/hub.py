"""Uploads to the Hugging Face Hub, as one commit; and the files of a dataset that are uploaded."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxoff.data import card, disk, folders, inspect
from jaxoff.errors import AlreadyThere, InvalidSetting, JaxoffError
from jaxoff.files import check_writable, replacing_folder
from jaxoff.names import Task
from jaxoff.runtime import needs

Files = Mapping[str, Path | bytes]  # path in the repository -> the file, or its content
_SITES = {"dataset": "https://huggingface.co/datasets", "model": "https://huggingface.co"}
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class HubError(JaxoffError, RuntimeError):
    """Files could not be uploaded; the message says why, and what to do."""


def address(repository: str, kind: str) -> str:
    """The page of a repository; kind: dataset or model. Raises InvalidSetting for a wrong name."""
    if not _NAME.fullmatch(repository):
        raise InvalidSetting(f"repository: expected USER/NAME, found '{repository}'")
    return f"{_SITES[kind]}/{repository}"


def check_local(folder: Path) -> None:
    """Raise AlreadyThere or NotWritten unless a new folder can be written."""
    if folder.exists():
        raise AlreadyThere(f"--local {folder}: expected nothing there, found something")
    check_writable(folder)


def files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Path in the folder and file, without hidden files, such as locks and temporary ones."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), path


def dataset_files(folder: str | Path, repository: str, license: str = "") -> Files:
    """The files of a dataset's folder, with a card that names the repository.

    Every array is read, so a damaged dataset is refused. license: an SPDX name; by default that of
    jaxoff for a dataset of one of its recipes, and none for others. Raises what `disk.load` does.
    """
    folder, page = Path(folder).absolute(), address(repository, "dataset")
    (episodes, metadata), (spec, _) = disk.load(folder), disk.read_spec(folder)
    won = None
    with contextlib.suppress(JaxoffError):  # an environment that is not registered here, or differs
        won = getattr(folders.environment(Task.parse(str(folder))), "won", None)
    told = card.about(episodes, spec, metadata, won, license, page)
    found: dict[str, Path | bytes] = dict(files_in(folder))
    found |= {name: text.encode() for name, text in card.texts(folder, told).items()}
    if card.PICTURE not in found:
        with tempfile.TemporaryDirectory() as place:
            (path,) = inspect.plot(episodes, spec, Path(place) / card.PICTURE, kinds=("png",))
            found[card.PICTURE] = path.read_bytes()
    return found


def write_local(files: Files, folder: Path) -> None:
    """Write files into a new folder, as `upload` would put them into a repository."""
    with replacing_folder(folder, overwrite=False) as temporary:
        for name, content in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)


def upload(files: Files, repository: str, kind: str, *, private: bool, message: str) -> str:
    """Upload files to a repository of the Hub, which is made if it is not there; gives its page.

    kind: dataset or model. private: make a repository that only its owners see. Raises HubError
    without a token or a connection, and where the Hub refuses.
    """
    page = address(repository, kind)
    with needs("push"):
        import huggingface_hub

    if not huggingface_hub.get_token():
        raise HubError(
            f"{repository}: expected a token of Hugging Face, found none; run `hf auth login`, or "
            "set HF_TOKEN; --local DIR writes the files to a folder instead"
        )
    made = [
        huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in files.items()
    ]
    try:
        hub = huggingface_hub.HfApi()
        hub.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        hub.create_commit(repository, made, commit_message=message, repo_type=kind)
    except Exception as error:  # huggingface_hub raises the errors of whichever HTTP client it uses
        reason = " ".join(str(error).split())[:200]
        raise HubError(
            f"{repository}: could not be uploaded ({type(error).__name__}: {reason}); expected a "
            "connection to huggingface.co and a token that may write there; --local DIR writes the "
            "files to a folder instead"
        ) from error
    return page
