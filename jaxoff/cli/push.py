"""The commands `jaxoff data push` and `jaxoff policy push`: uploads to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from jaxoff import runtime
from jaxoff.cli.common import console
from jaxoff.cli.data import data_app
from jaxoff.errors import InvalidSetting

if TYPE_CHECKING:
    from jaxoff.data import hub

policy_app = tyro.extras.SubcommandApp()


@data_app.command(name="push")
def data_push(
    folder: tyro.conf.Positional[Path],
    repository: tyro.conf.Positional[str],
    /,
    license: str = "",
    private: bool = False,
    local: Path | None = None,
) -> None:
    """Upload a dataset to the Hugging Face Hub, with a card and Croissant metadata.

    Args:
        folder: a dataset folder, such as `jaxoff data make` writes.
        repository: USER/NAME of the dataset's repository, which is made if it is not there.
        license: the dataset's license as an SPDX name, such as cc-by-4.0; by default that of jaxoff
            for a dataset of one of its recipes, and none for others.
        private: make a new repository private.
        local: write the files to this new folder, and upload nothing.
    """
    _prepare(repository, "dataset", private, local)
    from jaxoff.data import hub

    files = hub.dataset_files(folder, repository, license)
    _send(files, repository, "dataset", private, local)


@policy_app.command(name="push")
def policy_push(
    folder: tyro.conf.Positional[Path],
    repository: tyro.conf.Positional[str],
    /,
    license: str = "",
    private: bool = False,
    local: Path | None = None,
) -> None:
    """Upload the trained policies of a job to the Hugging Face Hub, with a card.

    Args:
        folder: the folder of a training job.
        repository: USER/NAME of the model's repository, which is made if it is not there.
        license: the license of the policies as an SPDX name, such as cc-by-4.0.
        private: make a new repository private.
        local: write the files to this new folder, and upload nothing.
    """
    _prepare(repository, "model", private, local)
    from jaxoff.training.publish import policy_files

    _send(policy_files(folder, repository, license), repository, "model", private, local)


def _prepare(repository: str, kind: str, private: bool, local: Path | None) -> None:
    """Refuse a wrong name or place before anything is read."""
    if private and local is not None:
        raise InvalidSetting("--private: expected for an upload, found --local, which makes none")
    runtime.setup()
    from jaxoff.data import hub

    hub.address(repository, kind)
    if local is not None:
        hub.check_local(local)


def _send(files: hub.Files, repository: str, kind: str, private: bool, local: Path | None) -> None:
    from jaxoff.data import hub

    if local is not None:
        hub.write_local(files, local)
        console.print(f"{len(files)} files for {repository}: {local}", soft_wrap=True)
        return
    message = f"{kind} by jaxoff"
    page = hub.upload(files, repository, kind, private=private, message=message)
    console.print(f"uploaded: {page}", soft_wrap=True)
