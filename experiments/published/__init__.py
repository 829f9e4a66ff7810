"""Numbers that others have published, with their sources, and an audit of where they disagree.

Each CSV file of this folder is of one source. A row is a number that was read from a public
source: a table of a repository's README, the output of a notebook, a file, slides, or a picture of
a table, which its remarks say. kind is `raw` (returns), `normalised` (0 is random play, 100 an
expert, by the references of the dataset's authors) or `win rate` (percent). What could not be read
from a source is not here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxoff.report.published import Number, read

FOLDER = Path(__file__).parent
LEAST = 3  # datasets that two columns must share to be called the same


@dataclasses.dataclass(frozen=True)
class Finding:
    """A disagreement: its kind, where, and what the sources say."""

    kind: str
    where: str
    text: str


def numbers() -> list[Number]:
    """All numbers, in order of files."""
    return [each for file in sorted(FOLDER.glob("*.csv")) for each in read(file)]


def short(method: str) -> str:
    """A method's name without the prefix that some tables have."""
    return method.removeprefix("MA-")


def told(group: Sequence[Number]) -> str:
    """Numbers with their sources, those that are equal together, as text."""
    by: dict[float, dict[str, None]] = {}
    for each in group:
        by.setdefault(each.number, {})[f"{each.source}, {each.table}"] = None
    return "; ".join(f"{number:g} ({'; '.join(places)})" for number, places in by.items())


def differing(found: Iterable[Number]) -> list[Finding]:
    """Numbers of one method, dataset and kind that differ by more than 1 %, and by more than the
    last digit that is printed.
    """
    groups: dict[tuple[str, str, str], list[Number]] = {}
    for each in found:
        groups.setdefault((each.dataset, short(each.method), each.kind), []).append(each)
    out = []
    for (dataset, method, kind), group in groups.items():
        values = [each.number for each in group]
        apart, size = max(values) - min(values), max(map(abs, values))
        if apart > max(0.01 * size, 0.051 if size < 1000 else 0.51):
            several = len({each.source for each in group}) > 1
            name = "sources differ" if several else "a source has changed"
            out.append(Finding(f"{name}, {kind}", f"{method} on {dataset}", told(group)))
    return sorted(out, key=lambda finding: finding.kind, reverse=True)


def columns(found: Iterable[Number]) -> dict[tuple[str, str, str], dict[str, float]]:
    """(source, table, method) -> dataset -> number, without the means of data."""
    out: dict[tuple[str, str, str], dict[str, float]] = {}
    for each in found:
        if each.method != "data":
            out.setdefault((each.source, each.table, each.method), {})[each.dataset] = each.number
    return out


def renamed(found: Sequence[Number]) -> list[Finding]:
    """Columns of two sources that agree on most shared datasets under different names."""
    out = []
    for (one, values), (other, others) in itertools.combinations(columns(found).items(), 2):
        both = sorted(values.keys() & others.keys())
        same = [dataset for dataset in both if values[dataset] == others[dataset]]
        if (
            one[0] != other[0]
            and short(one[2]) != short(other[2])
            and len(same) >= LEAST
            and len(same) > len(both) / 2
        ):
            text = (
                f"{one[2]} of {one[0]} ({one[1]}) and {other[2]} of {other[0]} ({other[1]}) have "
                f"the same number on {len(same)} of {len(both)} datasets"
            )
            out.append(Finding("the same column under two names", f"{one[2]}, {other[2]}", text))
    return out


def mixed(found: Iterable[Number]) -> list[Finding]:
    """Tables that set normalised and raw numbers of methods beside one another."""
    kinds: dict[tuple[str, str], dict[str, set[str]]] = {}
    for each in found:
        if each.method != "data":
            place = kinds.setdefault((each.source, each.table), {})
            place.setdefault(each.kind, set()).add(each.method)
    return [
        Finding(
            "two kinds of numbers in one table",
            f"{source}, {table}",
            "; ".join(f"{kind}: {', '.join(sorted(methods))}" for kind, methods in by.items()),
        )
        for (source, table), by in kinds.items()
        if len(by) > 1
    ]


def audit(found: Sequence[Number]) -> list[Finding]:
    """Where the published numbers contradict each other."""
    return [*mixed(found), *renamed(found), *differing(found)]
