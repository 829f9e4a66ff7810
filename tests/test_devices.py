"""Devices and processes: the same results on one device, on four, and on two processes; a job may
move between them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import chex
import numpy as np
import pytest

from jaxoff import runtime
from jaxoff.training import train
from tests.learners import FORMS, QUICK_ENV, state_of

LIMIT_S = 120
NEAR = {"rtol": 1e-6, "atol": 1e-8}
# 6 runs: two of 8 places are padding
SPEC = dataclasses.replace(FORMS["bc"].spec, seeds=(0, 1, 2, 3, 4, 5), checkpoint_s=0.0)

# argv: folder, host devices, step to stop at or -1, then for two processes: address, number of this
# process.
JOB = """
import sys
import jax
from jaxoff import runtime
folder, devices, stop, *pair = sys.argv[1:]
if pair:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
runtime.setup(cpu_devices=int(devices))
if pair:
    jax.distributed.initialize(pair[0], num_processes=2, process_id=int(pair[1]))
from pathlib import Path
import numpy as np
from jaxoff.training import Interrupted, train
from tests.learners import StopAt
from tests.test_devices import SPEC
from jaxoff.training import results
def refuse(path, *_):
    raise AssertionError(f"process 1 writes {path}")
assert len(jax.local_devices()) == int(devices)
if jax.process_index() > 0:
    results.write_json = results.write_npz = refuse
# Of two processes only the last is asked to stop.
sinks = [StopAt(0, int(stop))] if jax.process_index() == jax.process_count() - 1 else []
try:
    done = train(SPEC, Path(folder), sinks=sinks)
    file = f"{folder}-{jax.process_index()}.npz"
    np.savez(file, returns=done.returns, steps=done.steps, **done.history)
except Interrupted:
    raise SystemExit(143)
"""


def start(*args: object) -> subprocess.Popen[str]:
    """A Python process that trains SPEC."""
    command = [sys.executable, "-c", JOB, *map(str, args)]
    root = Path(__file__).parent.parent
    return subprocess.Popen(
        command,
        env=os.environ | QUICK_ENV,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(*jobs: subprocess.Popen[str], code: int = 0) -> None:
    """Wait for every process to end with `code`; none is left behind."""
    try:
        texts = [job.communicate(timeout=LIMIT_S)[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
            job.wait()
    for job, text in zip(jobs, texts, strict=True):
        assert job.returncode == code, text[-4000:]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The job in this process, on one device."""
    return train(SPEC, tmp_path_factory.mktemp("single") / "job")


def without_words(value):
    """A JSON value without its strings, which are compared exactly elsewhere."""
    if isinstance(value, dict):
        return {
            key: without_words(item) for key, item in value.items() if not isinstance(item, str)
        }
    return [without_words(item) for item in value] if isinstance(value, list) else value


def check_same(folder: Path, single) -> None:
    """Folder, returned arrays and rows equal those of one device, up to the rounding of programs
    for other numbers of runs.
    """
    chex.assert_trees_all_close(state_of(folder), state_of(single.path), **NEAR)
    rows, other = (
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (folder, single.path)
    )
    chex.assert_trees_all_close(*(without_words(x) for x in (rows, other)), **NEAR)
    runs, other = (
        json.loads((f / "final.json").read_text())["runs"] for f in (folder, single.path)
    )
    chex.assert_trees_all_close(
        *([without_words(run) | {"wall_s": 0} for run in x] for x in (runs, other)), **NEAR
    )
    for file in folder.parent.glob(f"{folder.name}-*.npz"):
        with np.load(file) as arrays:
            # discrete actions: equal, not near
            np.testing.assert_array_equal(arrays["returns"], single.returns)
            assert set(arrays) == {"returns", "steps", *single.history}
            for name, value in single.history.items():
                np.testing.assert_allclose(arrays[name], value, **NEAR, err_msg=name)


def test_six_runs_on_four_devices_equal_those_on_one(tmp_path, single):
    wait(start(tmp_path / "job", 4, -1))
    assert (tmp_path / "job-0.npz").exists()
    check_same(tmp_path / "job", single)


def test_a_job_stopped_on_four_devices_continues_on_one(tmp_path, single):
    wait(start(tmp_path / "job", 4, 2), code=143)
    assert not (tmp_path / "job" / "final.json").exists()
    train(SPEC, tmp_path / "job")
    check_same(tmp_path / "job", single)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]


def pair_of(folder: Path, stop: int) -> list[subprocess.Popen[str]]:
    """Two processes of a device each, which train SPEC together."""
    address = f"localhost:{free_port()}"
    return [start(folder, 1, stop, address, number) for number in range(2)]


def test_two_processes_give_the_results_of_one_and_may_be_stopped(tmp_path, single):
    wait(*pair_of(tmp_path / "job", 2), code=143)
    assert not (tmp_path / "job" / "final.json").exists()
    rows = [
        json.loads(line)["step"]
        for line in (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows == [2] * 6  # one process writes, and both stopped where one was asked to
    wait(*pair_of(tmp_path / "job", -1))
    assert len(list(tmp_path.glob("job-*.npz"))) == 2  # both processes returned all results
    check_same(tmp_path / "job", single)


def test_a_system_that_binds_no_process_to_cores_has_all_of_them(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert runtime.cores() == [0, 1, 2]
    assert "3 cores of " in runtime.hardware()
