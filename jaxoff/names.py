"""Names of tasks, and the error for a name that does not exist."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxoff.errors import JaxoffError

if TYPE_CHECKING:
    from jaxoff.types import Env, EnvSpec, Episodes


class UnknownName(JaxoffError, ValueError):
    """A task, method, sampler or field that does not exist; the message lists the nearest names."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that is not among `known`."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known) or 'none'}"
    return UnknownName(f"unknown {kind} '{name}'; {hint}")


UNKNOWN = "unknown"  # the environment of a dataset whose metadata name none
FOLDER = "folder"  # the family of tasks that are a dataset folder
_PATHS = ("/", "./", "../", "~")  # what a text begins with that can only be a path


@dataclasses.dataclass(frozen=True)
class Task:
    """`[source:]family/scenario/quality`; source "" means jaxoff's own environment and recipe.

    A folder that holds a dataset is a task too. `folder` is then its absolute path, and the task's
    name is made of the folder's: `folder:mine` for `data/mine`.
    """

    source: str
    family: str
    scenario: str
    quality: str
    folder: str = ""

    @classmethod
    def parse(cls, text: str) -> Task:
        """Parse a task string, or the path of a dataset folder; raises UnknownName otherwise.

        A text is a path where it begins as one (`/`, `./`, `../`, `~`), or where it leads to a
        dataset.
        """
        if text.startswith(_PATHS) or text in (".", "..") or _holds_data(text):
            return cls._of_folder(text)
        source, _, rest = text.rpartition(":")
        parts = rest.split("/")
        if len(parts) != 3 or not all(parts):
            raise UnknownName(
                f"task '{text}': expected [source:]family/scenario/quality, found "
                f"{len(parts)} part(s), and no dataset folder there{below(text)}"
            )
        return cls(source, *parts)

    @classmethod
    def _of_folder(cls, text: str) -> Task:
        path = Path(os.path.abspath(Path(text).expanduser()))
        # A Vault is a folder NAME.vlt/UID, whose last part alone says little.
        vault = path.parent.suffix == ".vlt"
        name = f"{path.parent.stem}-{path.name}" if vault else path.name
        return cls("", FOLDER, name, "", str(path))

    def __str__(self) -> str:
        if self.folder:
            return f"{FOLDER}:{self.scenario}"
        source = f"{self.source}:" if self.source else ""
        return f"{source}{self.family}/{self.scenario}/{self.quality}"

    @property
    def slug(self) -> str:
        """The task as a file name."""
        if self.folder:
            return self.scenario
        return str(self).replace("/", "-").replace(":", "-")


def _holds_data(text: str) -> bool:
    """Whether a path is that of a folder with a dataset."""
    return bool(text) and (Path(text) / "metadata.json").is_file()


def below(place: str) -> str:
    """What an error adds for a folder that holds no dataset itself: where there is one in it."""
    for pattern in ("*/metadata.json", "*/*/metadata.json"):
        for file in sorted(Path(place).expanduser().glob(pattern) if place else ()):
            return f"; there is one in {file.parent}"
    return ""


class Sizes(NamedTuple):
    """The sizes of an environment that are known without building it; fields as in EnvSpec."""

    num_agents: int
    obs_size: int
    action_size: int
    discrete: bool
    horizon: int

    @classmethod
    def of(cls, spec: EnvSpec) -> Sizes:
        """The sizes of a specification."""
        return cls(*(getattr(spec, name) for name in cls._fields))


class Family(NamedTuple):
    """A family of tasks, of one source.

    tasks(): every named task string. env(task) -> Env. data(task, options) -> Episodes. pattern:
    describes further task strings that are accepted, if any. spec(task): the environment's
    specification, given where the environment takes long to build. sizes(task): the environment's
    sizes, without importing a simulator. packages: names of the simulator's packages, whose
    versions datasets record. env, data, spec and sizes raise UnknownName for a scenario or quality
    that does not exist.
    """

    name: str
    tasks: Callable[[], list[str]]
    env: Callable[[Task], Env]
    data: Callable[[Task, DataOptions], Episodes]
    source: str = ""
    pattern: str = ""
    spec: Callable[[Task], EnvSpec] | None = None
    sizes: Callable[[Task], Sizes] | None = None
    packages: tuple[str, ...] = ()


class DataOptions(NamedTuple):
    """Options of a dataset: seed and size for a recipe, or the folder of public data.

    pools: a folder of policy pools, searched before the shipped ones. progress(done, all) is called
    with the number of episodes made so far and of all episodes.
    """

    seed: int = 0
    episodes: int | None = None
    data_dir: str | None = None
    pools: str | None = None
    progress: Callable[[int, int], None] | None = None


def check_quality(task: Task, known: Iterable[str]) -> None:
    """Raise UnknownName unless the task is one of the `known` task strings."""
    known = list(known)
    if str(task) not in known:
        raise unknown("task", str(task), known)
