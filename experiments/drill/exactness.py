"""Exactness: a run alone and among others, beside a failed run, on more devices and processes."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxoff.experiments.drill import Drill, distance, finish, outcome, same, start

from jaxoff.training.spec import TrainSpec

MODES: tuple[Literal["sequence", "vmap"], ...] = ("sequence", "vmap")
RUNS = 16
ROUNDING = 1e-4  # relative difference that rounding may make in some hundred updates
SPEC = TrainSpec(
    "cfcql",
    "matrix/xor/c",
    seeds=tuple(range(RUNS)),
    steps=200,
    config={"behaviour_steps": 50, "window": 0},
    evaluations=4,
)


def one_failed(out: Path) -> Drill:
    """A run that meets a NaN among healthy ones: it alone fails, and the others stay the same."""
    rates, rows, held = [1e-3 * (1 + k) for k in range(RUNS - 1)], [], 0
    for mode in MODES:
        found = []
        for last in (1e30, 0.5):
            folder = out / f"failed-{mode}-{last:g}"
            grid = {"lr": [*rates, last]}
            finish(start(folder, dataclasses.replace(SPEC, seeds=(0,), grid=grid, mode=mode)))
            found.append(outcome(folder))
        bad, good = found
        failed = [run["failed_at"] for run in bad["runs"]]
        right = failed[:-1] == [None] * (RUNS - 1) and failed[-1] is not None
        equal = same(_some(bad, RUNS - 1), _some(good, RUNS - 1))
        held += right and equal
        rows.append((mode, str(failed[-1]), "yes" if right else "NO", "yes" if equal else "NO"))
    head = ("mode", "failed at update", "only it failed", "15 others equal")
    return Drill(
        f"one run of {RUNS} meets a NaN",
        "it alone fails, and the others are bit for bit as without it",
        len(rows),
        held,
        head,
        rows,
    )


def company(out: Path) -> Drill:
    """The same runs alone, among others, on four devices, and on two processes."""
    rows, whole = [], {}
    for mode in MODES:
        folder = out / f"among-{mode}"
        finish(start(folder, dataclasses.replace(SPEC, mode=mode)))
        whole[mode] = outcome(folder)
    for mode in MODES:
        folder = out / f"alone-{mode}"
        alone = dataclasses.replace(SPEC, seeds=(5,), mode=mode)
        finish(start(folder, alone))
        one = _run(outcome(folder), 0)
        other = _run(whole[mode], 5)
        rows.append(_row("alone and among 16", mode, one, other, exact=mode == "sequence"))
    spec, address = dataclasses.replace(SPEC, mode="sequence"), f"localhost:{_free_port()}"
    four, two = out / "four-devices", out / "two-processes"
    finish(start(four, spec, devices=4))
    finish(*(start(two, spec, pair=(address, str(number))) for number in range(2)))
    for what, folder in (("four devices and one", four), ("two processes and one", two)):
        one, other = outcome(folder)["state"], whole["sequence"]["state"]
        rows.append(_row(what, "sequence", one, other, exact=False))
    held = sum(row[-1] == "yes" for row in rows)
    head = ("what is compared", "mode", "bit for bit", "largest difference", "promised", "held")
    return Drill(
        "the same runs in other company",
        "bit for bit in mode sequence on the same devices, else to rounding",
        len(rows),
        held,
        head,
        rows,
    )


def _row(
    what: str, mode: str, one: dict[str, Any], other: dict[str, Any], exact: bool
) -> tuple[str, ...]:
    equal, far = same(one, other), distance(one, other)
    promised = "bit for bit" if exact else f"within {ROUNDING:g}"
    held = equal if exact else far <= ROUNDING
    cells = "yes" if equal else "no", f"{far:.1g}", promised, "yes" if held else "NO"
    return (what, mode, *cells)


def _some(found: dict[str, Any], count: int) -> dict[str, Any]:
    """An outcome with its first `count` runs alone, without the grid's values."""
    return {
        "state": {name: value[:count] for name, value in found["state"].items()},
        "rows": [row for row in found["rows"] if row["run"] < count],
        "runs": found["runs"][:count],
    }


def _run(found: dict[str, Any], number: int) -> dict[str, np.ndarray]:
    """The state of one run."""
    return {name: value[number] for name, value in found["state"].items()}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return int(sock.getsockname()[1])
