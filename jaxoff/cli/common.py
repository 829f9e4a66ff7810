"""Helpers that several commands share: the console for output, and options NAME=VALUE."""

from __future__ import annotations

import tyro
from rich.console import Console

from jaxoff.errors import InvalidSetting

console = Console()
Many = tyro.conf.UseAppendAction  # an option that may be given several times


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
