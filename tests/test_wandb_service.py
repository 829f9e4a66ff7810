"""W&B's own service process dies while a job trains: the job goes on, or is stopped as usual."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.learners import QUICK_ENV

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found in /proc"),
]
ROOT = Path(__file__).parent.parent
LIMIT_S = 180
STEPS, EVALUATIONS = 4000, 400


def start(out: Path) -> subprocess.Popen[str]:
    """A job that logs to W&B offline, in a process of its own."""
    sizes = ["--seeds", "1", "--steps", str(STEPS), "--evaluations", str(EVALUATIONS)]
    small = ["--set", "hidden=16", "--set", "batch_size=8", "--eval-episodes", "2"]
    job = ["train", "bc", "matrix/xor/b", *sizes, *small, "--wandb", "offline", "--out", str(out)]
    # other tests of this process may have started a service, which a child would use
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.Popen(
        [sys.executable, "-m", "jaxoff.cli", *job],
        env=own | QUICK_ENV | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def services(parent: int) -> list[int]:
    """The processes of W&B among the children of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # after the name, which may hold anything: state, parent
            above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if above == parent and b"wandb-core" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # the process has ended
            continue
    return found


def steps(out: Path) -> list[int]:
    """The numbers of updates of the evaluations that were logged."""
    file = out / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["step"] for line in lines]


def in_training(out: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A job that has logged some evaluations, and the processes of W&B that it has started."""
    child, end = start(out), time.monotonic() + LIMIT_S
    while len(steps(out)) < 3 and child.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    found = services(child.pid)
    if child.poll() is not None or not found:
        child.kill()
        raise AssertionError(f"no job with a service of W&B: {child.communicate()[1]}")
    return child, found


def end_of(child: subprocess.Popen[str]) -> str:
    """What a process has written to its error stream when it ends."""
    try:
        return child.communicate(timeout=LIMIT_S)[1]
    finally:
        child.kill()


def test_a_job_goes_on_without_wandbs_service(tmp_path):
    child, found = in_training(tmp_path / "job")
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    error = end_of(child)
    assert child.returncode == 0, error
    assert error.count("WandB is switched off, training goes on") == 1 and "Traceback" not in error
    assert (tmp_path / "job" / "final.json").exists()
    assert steps(tmp_path / "job") == list(range(10, STEPS + 1, 10))


def test_a_stop_that_reaches_wandbs_service_too_saves_the_state(tmp_path):
    child, found = in_training(tmp_path / "job")
    for pid in (child.pid, *found):
        os.kill(pid, signal.SIGTERM)
    error = end_of(child)
    assert child.returncode == 143, error
    assert "state saved in" in error and "Traceback" not in error
    assert len(steps(tmp_path / "job")) < EVALUATIONS
    again = start(tmp_path / "job")
    error = end_of(again)
    assert again.returncode == 0 and "Traceback" not in error, error
    assert steps(tmp_path / "job") == list(range(10, STEPS + 1, 10))
