"""Claims of the papers, and verdicts on them that are computed from committed results.

A claim has parts, and a part is a function of `Cells`, the rows of a paper's store. It returns a
`Part`: what was found, whether that is what the claim says, and the size of the effect with its
95 % interval. A part whose rows are not there is not tested, and says which rows it lacks. The
verdict of a claim follows from its parts and is written nowhere.

Each paper's `claims.py` has its claims, `measures.py` numbers that take seconds to compute and are
put into the stores, and `page.py` writes docs/evidence.md.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxoff.experiments import checks
from jaxoff.experiments.paper import store_of
from scipy import stats

from jaxoff.report import store_file
from jaxoff.report.store_file import Row

REPRODUCED, PARTLY, NOT, UNTESTED = "reproduced", "partly", "not reproduced", "not tested"
VERDICTS = (REPRODUCED, PARTLY, NOT, UNTESTED)
SCALES = ("full", "cpu", "")  # the largest that has the rows of a part is taken
PAPERS = ("inspo", "omar", "sit", "pjap", "yanhui")
REFERENCE = Path(__file__).parents[1] / "reference"
DATASETS = REFERENCE / "datasets" / "datasets.csv"


class Missing(Exception):
    """What a part needs and the store does not have; the text is shown on the page."""


class Part(NamedTuple):
    """A part of a claim: what was found, whether it is as claimed (None: not tested), and the size
    of the effect with the ends of its 95 % interval.
    """

    name: str
    found: str
    holds: bool | None
    effect: tuple[float, float, float] | None = None


class Cells:
    """The rows of a store at one scale, and which of them a part has used."""

    def __init__(self, rows: Iterable[Row], scale: str) -> None:
        self.scale, self.used = scale, dict[tuple[str, int], Row]()
        self.sources: list[str] = []  # committed tables that were used beside the store
        self._groups: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if row.scale in (scale, ""):
                self._groups.setdefault((row.task, row.label), []).append(row)

    def has(self, task: str, label: str) -> bool:
        """Whether there are rows of a label on a task."""
        return (task, label) in self._groups

    def rows(self, task: str, label: str, **settings: float) -> list[Row]:
        """The rows of a label on a task in order of seeds; settings: of a point of a grid.

        Raises Missing where there is none, or where a seed has several rows, of other settings.
        """
        found = [
            row
            for row in self._groups.get((task, label), ())
            if all(row.settings.get(name) == value for name, value in settings.items())
        ]
        if not found:
            at = "".join(f", {name} {value:g}" for name, value in settings.items())
            raise Missing(f"no rows of {label}{at} on {task}")
        if len({row.seed for row in found}) < len(found):
            raise Missing(f"rows of {label} on {task} are of several settings")
        self.used |= {row.place: row for row in found}
        return sorted(found, key=lambda row: row.seed)

    def of(
        self, task: str, label: str, metric: str = "return_mean", **settings: float
    ) -> np.ndarray:
        """The final numbers [seeds] of a label on a task. Raises Missing where there is none."""
        rows = self.rows(task, label, **settings)
        values = np.array([row.value(metric) for row in rows])
        if not np.isfinite(values).any():
            raise Missing(f"rows of {label} on {task} have no {metric}")
        return values

    def pair(
        self, task: str, one: str, other: str, metric: str = "return_mean"
    ) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of two labels on a task, of the seeds that both have."""
        found = [
            {row.seed: row.value(metric) for row in self.rows(task, label)}
            for label in (one, other)
        ]
        both = sorted(found[0].keys() & found[1].keys())
        if not both:
            raise Missing(f"{one} and {other} have no seeds in common on {task}")
        first, second = (np.array([values[seed] for seed in both]) for values in found)
        return first, second

    def table(self, file: Path) -> list[dict[str, str]]:
        """The lines of a committed table, whose lines of comment begin with #.

        Raises Missing where an installed jaxoff has no committed tables.
        """
        if not file.exists():
            raise Missing(f"the table {file.name} is not here")
        self.sources.append(file.relative_to(REFERENCE.parents[1]).as_posix())
        with file.open(newline="") as stream:
            return list(csv.DictReader(line for line in stream if not line.startswith("#")))

    def dataset(self, task: str) -> dict[str, float]:
        """Mean, deviation and number of the returns of one of our datasets, from their table.

        Raises Missing where the table lacks it.
        """
        for line in self.table(DATASETS):
            if line["task"] == task and not line["failed"]:
                names = {"mean": "return_mean", "std": "return_std", "episodes": "episodes"}
                return {name: float(line[column]) for name, column in names.items()}
        raise Missing(f"{DATASETS.name} has no row of {task}")


Check = Callable[[Cells], "Part | list[Part]"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    says: the paper's statement in our words. asks: what the parts ask. parts: name -> check. run:
    the commands that give the rows. means: committed tables that have means over seeds only, below
    experiments/reference.
    """

    number: int
    title: str
    says: str
    asks: str
    parts: Mapping[str, Check]
    run: str = ""
    means: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim with what was found for its parts, and the rows that this is from."""

    paper: str
    claim: Claim
    parts: tuple[Part, ...]
    rows: tuple[Row, ...]
    sources: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One of VERDICTS: all parts hold; none that was tested; or anything between."""
        tested = [part.holds for part in self.parts if part.holds is not None]
        if not tested:
            return UNTESTED
        if not any(tested):
            return NOT
        return REPRODUCED if all(tested) and len(tested) == len(self.parts) else PARTLY


def findings(paper: str, claims: Sequence[Claim], rows: Sequence[Row]) -> list[Finding]:
    """What the rows of a store say of claims."""
    return [_finding(paper, claim, rows) for claim in claims]


def _finding(paper: str, claim: Claim, rows: Sequence[Row]) -> Finding:
    parts: list[Part] = []
    used: dict[tuple[str, int], Row] = {}
    sources: dict[str, None] = {}
    for name, check in claim.parts.items():
        found, cells = _tested(name, check, rows)
        parts += found
        if any(part.holds is not None for part in found):
            used |= cells.used
            sources |= dict.fromkeys(cells.sources)
    return Finding(paper, claim, tuple(parts), tuple(used.values()), tuple(sources))


def _tested(name: str, check: Check, rows: Sequence[Row]) -> tuple[list[Part], Cells]:
    """The parts that a check gives at the largest scale that has its rows, or what it lacks."""
    lacks = ""
    for scale in SCALES:
        cells = Cells(rows, scale)
        try:
            found = check(cells)
        except Missing as missing:
            lacks = lacks or str(missing)
            continue
        made = found if isinstance(found, list) else [found]
        whole = lambda holds: None if holds is None else bool(holds)
        return [
            part._replace(name=part.name or name, holds=whole(part.holds)) for part in made
        ], cells
    return [Part(name, lacks, None)], cells


@functools.cache
def claims_of(paper: str) -> tuple[Claim, ...]:
    """The claims of a paper, in order."""
    import importlib

    return tuple(importlib.import_module(f"jaxoff.experiments.{paper}.claims").CLAIMS)


def everything(stores: Mapping[str, Path] | None = None) -> list[Finding]:
    """The findings of all papers; stores: files to read in place of the committed ones."""
    found = []
    for paper in PAPERS:
        rows = store_file.read((stores or {}).get(paper, store_of(paper)))
        found += findings(paper, claims_of(paper), rows)
    return found


# ------------------------------------------------------------------------ what several papers ask


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval (t distribution); equal ends for equal values."""
    kept = values[np.isfinite(values)]
    mean = float(kept.mean())
    if len(kept) < 2:
        return mean, float("nan"), float("nan")
    reach = float(stats.t.ppf(0.975, len(kept) - 1) * kept.std(ddof=1) / np.sqrt(len(kept)))
    return mean, mean - reach, mean + reach


def shown(effect: tuple[float, float, float]) -> str:
    """A mean with its interval, as text."""
    mean, low, high = effect
    ends = f" [{low:z.3g}, {high:z.3g}]" if np.isfinite([low, high]).all() else ""
    return f"{mean:z.3g}{ends}"


def within(
    task: str,
    label: str,
    low: float = -np.inf,
    high: float = np.inf,
    metric: str = "return_mean",
) -> Check:
    """The mean of a label's numbers on a task lies between two limits."""

    def check(cells: Cells) -> Part:
        effect = interval(cells.of(task, label, metric))
        asked = f"at least {low:g}" if np.isinf(high) else f"at most {high:g}"
        asked = asked if np.isinf(high) or np.isinf(low) else f"{low:g} to {high:g}"
        return Part("", f"mean {shown(effect)}, asked {asked}", low <= effect[0] <= high, effect)

    return check


def above(
    task: str, one: str, other: str, metric: str = "return_mean", errors: float = 0.0
) -> Check:
    """A label is above another, by so many standard errors of the paired difference."""

    def check(cells: Cells) -> Part:
        mean, error, low, high = checks.difference(*cells.pair(task, one, other, metric))
        asked = f", asked above {errors:g} standard errors ({errors * error:.3g})" * (errors > 0)
        holds = mean > 0 and not mean < errors * error
        text = f"difference {shown((mean, low, high))}{asked}"
        return Part("", text, bool(holds), (mean, low, high))

    return check


def level(task: str, one: str, other: str, errors: float = 2.0, least: float = 0.0) -> Check:
    """Two labels differ by at most `least`, or so many pooled standard errors."""

    def check(cells: Cells) -> Part:
        ours, theirs = cells.of(task, one), cells.of(task, other)
        gap, error = float(ours.mean() - theirs.mean()), pooled_error(ours, theirs)
        most = max(least, errors * error)
        text = f"difference {gap:z.3g}, allowed {most:.3g}"
        return Part("", text, abs(gap) <= most, welch(ours, theirs))

    return check


def pooled_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Standard error of the difference of two means; 0 for single numbers."""
    parts = [np.var(x, ddof=1) / len(x) if len(x) > 1 else 0.0 for x in (ours, theirs)]
    return float(np.sqrt(sum(parts)))


def welch(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Difference of two means with Welch's 95 % interval."""
    gap = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2 or pooled_error(ours, theirs) == 0:
        return gap, gap, gap
    ends = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return gap, float(ends.low), float(ends.high)


def cannot(reason: str) -> Check:
    """A part that results cannot test, and why."""

    def check(cells: Cells) -> Part:
        raise Missing(reason)

    return check
