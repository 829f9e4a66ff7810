"""Kills: a training that is stopped at a random moment and started again ends as if undisturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxoff.experiments.drill import Drill, end_of, finish, outcome, same, start

from jaxoff.training.spec import TrainSpec

# Two stages in one, a sampler with a state in the other; both last some seconds.
JOBS = {
    "cfcql": TrainSpec(
        "cfcql",
        "matrix/xor/c",
        seeds=(0, 1, 2),
        steps=800,
        config={"behaviour_steps": 300, "window": 0},
        evaluations=6,
        checkpoint_s=0.3,
    ),
    "bc+pjap": TrainSpec(
        "bc",
        "matrix/xor/c",
        seeds=(0, 1, 2),
        steps=600,
        sampler="pjap",
        evaluations=6,
        checkpoint_s=0.3,
    ),
}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}


def drill(out: Path, tries: int, seed: int) -> Drill:
    """Kill each job in every way in turn, `tries` times in all, and let it end."""
    ways = [(name, word, wandb) for wandb in (False, True) for word in SIGNALS for name in JOBS]
    undisturbed = {name: _undisturbed(out / f"undisturbed-{name}", JOBS[name]) for name in JOBS}
    moments = np.random.default_rng(seed).uniform(size=tries)
    plan = [
        (out / f"killed-{number}", ways[number % len(ways)], float(moment))
        for number, moment in enumerate(moments)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda each: _kill(each, undisturbed), plan))
    head = ("job", "signal", "logger", "after s", "ended in s", "status", "continued from", "equal")
    asked_for = "a killed training that is started again ends bit for bit as an undisturbed one"
    held = sum(row[-1] == "yes" for row in rows)
    return Drill("kills at random moments", asked_for, tries, held, head, rows)


def _undisturbed(folder: Path, spec: TrainSpec) -> tuple[dict[str, Any], float]:
    """What a job leaves that is not disturbed, and for how many seconds it writes."""
    process = start(folder, spec)
    _wait_for_record(folder, process)
    begin = time.perf_counter()
    finish(process)
    return outcome(folder), time.perf_counter() - begin


def _kill(
    planned: tuple[Path, tuple[str, str, bool], float],
    undisturbed: Mapping[str, tuple[dict[str, Any], float]],
) -> tuple[str, ...]:
    """Kill a job at a moment, a share of its time, and let it end; a row of the table.

    planned: the folder, the way to kill the job, and the moment.
    """
    folder, (name, word, wandb), moment = planned
    spec = JOBS[name]
    whole, seconds = undisturbed[name]
    process = start(folder, spec, wandb=wandb)
    _wait_for_record(folder, process)
    time.sleep(moment * seconds)
    process.send_signal(SIGNALS[word])
    asked = time.perf_counter()
    status, _ = end_of(process)
    times = f"{moment * seconds:.2f}", f"{time.perf_counter() - asked:.2f}"
    place = _place(folder)
    finish(start(folder, spec, wandb=wandb))
    answer = "yes" if same(outcome(folder), whole) else "NO"
    return name, word, "W&B" if wandb else "none", *times, str(status), place, answer


def _wait_for_record(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the job has claimed its folder, which is its first file."""
    limit = time.perf_counter() + 120
    while not (folder / "config.json").exists():
        if time.perf_counter() > limit or process.poll() is not None:
            raise RuntimeError(f"{folder}: expected a training to begin, found none")
        time.sleep(0.01)


def _place(folder: Path) -> str:
    """Where a job continues, as its newest checkpoint tells."""
    if (folder / "final.json").exists():
        return "its end"
    metas = sorted(
        folder.glob("checkpoint/[0-9]*/meta/metadata"), key=lambda file: int(file.parts[-3])
    )
    if not metas:
        return "its start"
    meta = json.loads(metas[-1].read_text())
    return f"stage {meta['stage_index']}, update {meta['step']}"
