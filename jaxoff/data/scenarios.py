"""The scenarios with an environment in jaxoff, and their sizes, without importing a simulator."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jaxoff.names import Sizes, Task


@functools.cache
def table(name: str) -> dict[str, dict[str, Any]]:
    """The file NAME.toml of this folder: `[source:]family/scenario` -> row of the table."""
    return tomllib.loads((resources.files("jaxoff.data") / f"{name}.toml").read_text())


def names(family: str) -> list[str]:
    """The scenarios of a family."""
    return [name.partition("/")[2] for name in table("scenarios") if name.startswith(f"{family}/")]


def sizes_of(row: Mapping[str, Any]) -> Sizes:
    """The sizes in a row of a table."""
    return Sizes(row["agents"], row["obs"], row["actions"], row["discrete"], row["horizon"])


def sizes(task: Task) -> Sizes:
    """The sizes of a task's scenario, which must be in the table."""
    return sizes_of(table("scenarios")[str(task).rpartition("/")[0]])
