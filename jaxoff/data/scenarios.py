"""The scenarios that have an environment here, and their sizes, without importing a simulator."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jaxoff.names import Sizes, Task


@functools.cache
def table(name: str) -> dict[str, dict[str, Any]]:
    """A file NAME.toml of this folder: `[source:]family/scenario` -> what it says of it."""
    return tomllib.loads((resources.files("jaxoff.data") / f"{name}.toml").read_text())


def names(family: str) -> list[str]:
    """The scenarios of a family."""
    return [name.partition("/")[2] for name in table("scenarios") if name.startswith(f"{family}/")]


def sizes_of(row: Mapping[str, Any]) -> Sizes:
    """Sizes as a row of a table has them."""
    return Sizes(row["agents"], row["obs"], row["actions"], row["discrete"], row["horizon"])


def sizes(task: Task) -> Sizes:
    """Sizes of the scenario of a task, which is one of the table."""
    return sizes_of(table("scenarios")[str(task).rpartition("/")[0]])
