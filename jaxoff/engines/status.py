"""How far an experiment is: which jobs are done, run, have failed, or are still to be done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxoff.engines import marks
from jaxoff.engines.assignment import Assignment
from jaxoff.training.results import read_json

STATES = ("done", "running", "failed", "to do")


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a job stands.

    state: one of STATES; a failed one is tried again by the next command. share: of the updates
    that are done. seconds: that it took, or has taken since its process began. left_s: seconds that
    are left, None where nothing tells. text: the error of a failed job.
    """

    assignment: Assignment
    state: str
    share: float = 0.0
    seconds: float = 0.0
    left_s: float | None = None
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Status:
    """All jobs of an experiment, and the seconds that are left at the present pace.

    left_s is None as long as no job tells how long it takes.
    """

    jobs: tuple[Standing, ...]
    left_s: float | None

    def count(self, state: str) -> int:
        """Number of jobs in a state."""
        return sum(job.state == state for job in self.jobs)


def status(assignments: Sequence[Assignment]) -> Status:
    """Look at the folders of jobs; nothing is written.

    A job that is still to be done is taken to last as long as those of the same label that are
    done, or else as all that are done or run; as many run at once as do now. Raises what
    `Assignment.done` does.
    """
    seen = [_standing(each) for each in assignments]
    lengths: dict[str, list[float]] = {}
    for each in seen:
        if each.state == "done":
            lengths.setdefault(each.assignment.spec.label, []).append(each.seconds)
        elif each.state == "running" and each.left_s is not None:
            lengths.setdefault(each.assignment.spec.label, []).append(each.seconds + each.left_s)
    every = [seconds for found in lengths.values() for seconds in found]
    jobs = tuple(_with_rest(each, lengths.get(each.assignment.spec.label, every)) for each in seen)
    rest = [each.left_s for each in jobs if each.state != "done"]
    known = [seconds for seconds in rest if seconds is not None]
    at_once = max(1, sum(each.state == "running" for each in jobs))
    return Status(jobs, sum(known) / at_once if len(known) == len(rest) else None)


def _standing(assignment: Assignment) -> Standing:
    # Results of a part of a job, which an extension adds to, are not those of another job.
    if dataclasses.replace(assignment, extend=True).done():
        timing = read_json(assignment.folder / "final.json", {"timing": dict})["timing"]
        seconds = timing.get("compile_s", 0.0) + timing.get("train_s", 0.0)
        return Standing(assignment, "done", 1.0, seconds, 0.0)
    mark = marks.read(assignment.folder)
    if mark is not None:
        gained = mark.share - mark.began_at
        left = mark.elapsed_s * (1 - mark.share) / gained if gained > 0 else None
        return Standing(assignment, "running", mark.share, mark.elapsed_s, left)
    error = marks.failure(assignment.folder)
    return Standing(assignment, "failed" if error else "to do", text=error)


def _with_rest(standing: Standing, lengths: Sequence[float]) -> Standing:
    """The job with an estimate of what is left, from the seconds of others."""
    if standing.left_s is not None or not lengths:
        return standing
    whole = float(np.mean(lengths))
    return dataclasses.replace(standing, left_s=max(0.0, whole - standing.seconds))
