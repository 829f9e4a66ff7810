"""A small grammar for the behaviour policies in a dataset: `50% [r r r] + 50% [r r m]`.

A composition is one or more parts joined by `+`. A part is a share of the episodes and a bracket
with a level for every agent: r random, m medium, e expert. A level may be repeated, `[r m*7]`. A
single part needs no share.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jaxoff.errors import InvalidSetting

LETTERS = {"r": 0, "m": 1, "e": 2}
_PART = re.compile(r"(?:(?P<share>\d+(?:\.\d+)?)\s*%\s*)?\[(?P<levels>[^\[\]]*)\]")
_LEVEL = re.compile(r"([rme])(?:\*([1-9]\d*))?")


class Part(NamedTuple):
    """A share of the episodes, and the level 0, 1 or 2 of each agent in them."""

    share: float
    levels: tuple[int, ...]


def parse(text: str, num_agents: int) -> list[Part]:
    """The parts of a composition, their shares adding up to one.

    Raises InvalidSetting naming what is wrong.
    """
    parts = []
    for piece in text.split("+"):
        found = _PART.fullmatch(piece.strip())
        if found is None:
            raise InvalidSetting(
                f"composition '{text}': expected SHARE% [LEVELS], found '{piece.strip()}'"
            )
        levels: list[int] = []
        for word in found["levels"].split():
            level = _LEVEL.fullmatch(word)
            if level is None:
                raise InvalidSetting(
                    f"composition '{text}': expected levels r, m, e or such as m*3, found '{word}'"
                )
            levels += [LETTERS[level[1]]] * int(level[2] or 1)
        if len(levels) != num_agents:
            raise InvalidSetting(
                f"composition '{text}': expected {num_agents} agents in "
                f"[{found['levels']}], found {len(levels)}"
            )
        parts.append(Part(float(found["share"] or 100) / 100, tuple(levels)))
    if abs(sum(part.share for part in parts) - 1) > 1e-9:
        raise InvalidSetting(
            f"composition '{text}': expected shares that add up to 100%, found "
            f"{100 * sum(p.share for p in parts):g}%"
        )
    return parts


def sizes(parts: list[Part], episodes: int) -> list[int]:
    """Number of episodes of each part; shares are rounded, and the last part takes the rest."""
    counts = [round(part.share * episodes) for part in parts[:-1]]
    if min([*counts, episodes - sum(counts)]) < 1:
        raise InvalidSetting(
            f"episodes: expected enough for at least one in each of {len(parts)} parts, "
            f"found {episodes}"
        )
    return [*counts, episodes - sum(counts)]
