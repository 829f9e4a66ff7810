"""Kills: a training that is stopped at a random moment and started again ends as if undisturbed."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
from jaxoff.experiments.drill import Drill, end_of, finish, outcome, same, start

from jaxoff.training.spec import TrainSpec

# Two stages in one, a sampler with a state in the other; both last some seconds.
JOBS = {
    "cfcql": TrainSpec(
        "cfcql",
        "matrix/xor/c",
        seeds=(0, 1, 2),
        steps=3000,
        config={"behaviour_steps": 1000, "window": 0},
        evaluations=6,
        checkpoint_s=0.3,
    ),
    "bc+pjap": TrainSpec(
        "bc",
        "matrix/xor/c",
        seeds=(0, 1, 2),
        steps=6000,
        sampler="pjap",
        evaluations=6,
        checkpoint_s=0.3,
    ),
}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}


def drill(out: Path, tries: int, seed: int) -> Drill:
    """Kill each job in every way in turn, `tries` times in all, and let it end."""
    rng, rows, held = np.random.default_rng(seed), [], 0
    ways = [(name, word, wandb) for wandb in (False, True) for word in SIGNALS for name in JOBS]
    undisturbed = {}
    for name, spec in JOBS.items():
        folder = out / f"undisturbed-{name}"
        process, begin = start(folder, spec), time.perf_counter()
        _wait_for_record(folder, process)
        began = time.perf_counter() - begin
        finish(process)
        undisturbed[name] = outcome(folder), time.perf_counter() - begin - began
    for number in range(tries):
        name, word, wandb = ways[number % len(ways)]
        folder, spec = out / f"killed-{number}", JOBS[name]
        whole, seconds = undisturbed[name]
        delay = float(rng.uniform(0, seconds))
        process = start(folder, spec, wandb=wandb)
        _wait_for_record(folder, process)
        time.sleep(delay)
        process.send_signal(SIGNALS[word])
        asked = time.perf_counter()
        status, _ = end_of(process)
        stopped, place = time.perf_counter() - asked, _place(folder)
        finish(start(folder, spec, wandb=wandb))
        equal = same(outcome(folder), whole)
        held += equal
        times = f"{delay:.2f}", f"{stopped:.2f}"
        logger, answer = "W&B" if wandb else "none", "yes" if equal else "NO"
        rows.append((name, word, logger, *times, str(status), place, answer))
    head = ("job", "signal", "logger", "after s", "ended in s", "status", "continued from", "equal")
    asked_for = "a killed training that is started again ends bit for bit as an undisturbed one"
    return Drill("kills at random moments", asked_for, tries, held, head, rows)


def _wait_for_record(folder: Path, process: object) -> None:
    """Wait until the job has claimed its folder, which is its first file."""
    limit = time.perf_counter() + 120
    while not (folder / "config.json").exists():
        if time.perf_counter() > limit or process.poll() is not None:  # type: ignore[attr-defined]
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
