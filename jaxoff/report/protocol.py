"""How policies were evaluated, as every table and figure tells it; results of `jaxoff evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxoff.errors import BrokenResult, InvalidSetting
from jaxoff.training.results import (
    EVALUATIONS,
    Fields,
    broken,
    check_fields,
    read_evaluations,
)

if TYPE_CHECKING:
    from jaxoff.report.load import Run

# Metrics that an environment computes from the policy itself.
EXACT = {"exact_value", "out_of_data"}
UNPLAYED = "no environment that can be played here is named"  # why policies are not evaluated
NOT_EVALUATED = f"not evaluated: {UNPLAYED}"
ENTRY: Fields = {"episodes": int, "sampled": bool, "finished": bool, "runs": list}
ROW: Fields = {"run": int, "seed": int, "return_mean": object}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the final numbers of a run were found.

    sampled: whether actions were drawn from the policy, else they were its mode. episodes: number
    of episodes of each run. Both are None in a folder that does not tell. later: whether `jaxoff
    evaluate` played the episodes, else they are those of the last evaluation of training.
    """

    sampled: bool | None = None
    episodes: int | None = None
    later: bool = False

    @property
    def how(self) -> str:
        """Episodes and actions of an evaluation, as text."""
        count = "unknown number of" if self.episodes is None else f"{self.episodes:,}"
        actions = {True: "sampled actions", False: "modes of the policies", None: "unknown actions"}
        return f"{count} episodes per run, {actions[self.sampled]}"

    @property
    def point(self) -> str:
        """When the policies were evaluated, as text."""
        return "jaxoff evaluate, after training" if self.later else "last evaluation of training"

    def of(self, metric: str) -> str:
        """How the final number of a metric was found, as text."""
        if metric in EXACT:
            return f"{self.point}, computed from the policies without episodes"
        return f"{self.point}, {self.how}"

    def along(self, metric: str) -> str:
        """How the numbers of a metric along the training were found, as text."""
        if metric.startswith("loss/"):
            return "means over the updates since the evaluation before"
        exact = "each point computed from the policies without episodes"
        return exact if metric in EXACT else f"each point {self.how}"


def told(places: Iterable[tuple[tuple[str, str], str]]) -> str:
    """A sentence on how the numbers of a table were found, or "" if that is not known.

    places: (row, column) and text of each number. Where texts differ, the sentence names the rows,
    the columns, or else the cells of each.
    """
    known = [(place, text) for place, text in places if text]
    names = [
        lambda place: place[0],
        lambda place: place[1],
        lambda place: f"{place[1]} on {place[0]}",
    ]
    for name in names:
        by_name: dict[str, set[str]] = {}
        for place, text in known:
            by_name.setdefault(name(place), set()).add(text)
        if all(len(texts) == 1 for texts in by_name.values()):
            break
    groups: dict[str, list[str]] = {}
    for label, texts in by_name.items():
        groups.setdefault("; ".join(sorted(texts)), []).append(label)
    if len(groups) < 2:
        return "".join(f"Evaluation: {text}." for text in groups)
    parts = [f"{', '.join(labels)}: {text}" for text, labels in groups.items()]
    return f"Evaluations differ. {'. '.join(parts)}."


def of_runs(runs: Iterable[Run], metric: str = "return_mean") -> str:
    """The sentence of `told` on the final numbers of some runs."""
    return told(((run.task, run.variant), run.protocol.of(metric)) for run in runs)


def of_section(runs: Iterable[Run], metric: str = "return_mean") -> str:
    """What `of_runs` tells of the evaluated runs, and on which tasks none was, or none had a finite
    return.
    """
    runs = list(runs)
    played = [run for run in runs if not run.unplayed]
    paid = [run for run in played if not run.has(metric) and not run.failed.all()]
    texts = [of_runs(played, metric)]
    for task in dict.fromkeys(run.task for run in paid if metric == "return_mean"):
        texts.append(f"No return of a policy on {task} is a finite number.")
    tasks = ", ".join(dict.fromkeys(run.task for run in runs if run.unplayed))
    if tasks:
        texts.append(f"Policies on {tasks} were not evaluated: {UNPLAYED}.")
    return " ".join(filter(None, texts))


def evaluated(
    runs: Sequence[Run], sampled: bool | None = None, episodes: int | None = None
) -> list[Run]:
    """The runs of a table with the numbers of `jaxoff evaluate` in place of those of training.

    Each run has the latest entry of its folder's evaluations.json with these actions and this
    number of episodes, where given. Raises InvalidSetting where a run has no such entry, or where
    the entries differ in actions or in the number of episodes; BrokenResult for a damaged file.
    """
    found = [_latest(run, sampled, episodes) for run in runs]
    by_protocol: dict[Protocol, list[Path]] = {}
    for run, entries in zip(runs, found, strict=True):
        for protocol, _ in entries:
            by_protocol.setdefault(protocol, []).append(run.path)
    if len(by_protocol) > 1:
        parts = [
            f"{protocol.how} in {', '.join(dict.fromkeys(map(str, folders)))}"
            for protocol, folders in by_protocol.items()
        ]
        raise InvalidSetting(
            f"--from evaluation: expected evaluations with the same actions and number of "
            f"episodes, found {'; '.join(parts)}; choose some by --greedy, --sampled and "
            "--episodes, or play others by `jaxoff evaluate FOLDER` with the same options"
        )
    return [
        dataclasses.replace(run, runs=[row for _, row in entries], evaluated=entries[0][0])
        for run, entries in zip(runs, found, strict=True)
    ]


def _latest(
    run: Run, sampled: bool | None, episodes: int | None
) -> list[tuple[Protocol, dict[str, Any]]]:
    """The protocol and the numbers of the latest fitting evaluation of each run of a folder."""
    file = run.path / EVALUATIONS
    latest: dict[int, tuple[Protocol, dict[str, Any]]] = {}
    for protocol, rows in _entries(run):
        if sampled in (None, protocol.sampled) and episodes in (None, protocol.episodes):
            latest |= {row["run"]: (protocol, row) for row in rows}
    missing = [row["run"] for row in run.runs if row["run"] not in latest]
    if missing:
        options = [
            "" if episodes is None else f" --episodes {episodes}",
            "" if sampled is None else " --sampled" if sampled else " --greedy",
            " --env FAMILY/SCENARIO" if run.config.get("env") == "" else "",
        ]
        raise InvalidSetting(
            f"{file}: expected an evaluation of each run, found none of runs "
            f"{', '.join(map(str, missing))}; `jaxoff evaluate {run.path}{''.join(options)}` "
            "makes it"
        )
    for row in run.runs:
        seed = latest[row["run"]][1]["seed"]
        if seed != row["seed"]:
            raise BrokenResult(
                f"{file}: field 'seed': expected {row['seed']} for run {row['run']}, found {seed}"
            )
    return [latest[row["run"]] for row in run.runs]


def _entries(run: Run) -> list[tuple[Protocol, list[dict[str, Any]]]]:
    """The evaluations of a folder's policies in its evaluations.json, in order; none without one.

    An entry that was made before the training had ended, or before it was extended to more updates,
    is of other policies.
    """
    found, updates = [], run.runs[0].get("updates")
    for number, entry in enumerate(read_evaluations(run.path)):
        where = f"{run.path / EVALUATIONS}: evaluation {number}"
        check_fields(where, entry, ENTRY)
        # Entries of earlier versions do not tell the number of updates.
        if entry.get("updates", None if run.config.get("parts") else updates) != updates:
            continue
        for row in entry["runs"]:
            check_fields(where, row, ROW, {"returns": list})
            for value in row.get("returns", ()):
                if not isinstance(value, int | float | None):
                    raise broken(f"{where}: field 'returns'", "numbers", repr(value)[:80])
        if entry["finished"]:
            found.append((Protocol(entry["sampled"], entry["episodes"], True), entry["runs"]))
    return found
