"""Helpers that several commands share: the console for output, and options NAME=VALUE."""

from __future__ import annotations

from pathlib import Path

import tyro
from rich.console import Console

from jaxoff.errors import InvalidSetting

# Texts are shown as they are: [red] and :smile: in a label or a path mean nothing.
console = Console(markup=False, emoji=False)
Many = tyro.conf.UseAppendAction  # an option that may be given several times


def as_folder(path: Path, option: str = "FOLDER") -> Path:
    """The path, where a folder is or may be made. Raises InvalidSetting naming a file there."""
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise InvalidSetting(f"{option} {path}: expected a folder, but {place} is a file")
    return path


def pairs(items: tuple[str, ...], flag: str) -> dict[str, str]:
    """The NAME=VALUE texts of a flag, as a dictionary. Raises InvalidSetting naming the flag."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name or not value:
            raise InvalidSetting(f"{flag}: expected NAME=VALUE, found '{item}'")
        if name in found:
            raise InvalidSetting(
                f"{flag} {name}: expected once, found '{found[name]}' and '{value}'"
            )
        found[name] = value
    return found
