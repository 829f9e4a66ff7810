"""A learner in a package of its own: installed, found by its entry point, trained through the
command line.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.learners import QUICK_ENV

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "toy-counts"
version = "1.0"
[project.entry-points."jaxoff.learners"]
counts = "toy_counts"
[tool.hatch.build.targets.wheel]
include = ["toy_counts.py"]
"""

# A whole method: the data's action frequencies, one batch at a time.
MODULE = '''
"""Plays each agent's actions as often as the data do."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxoff import distributions
from jaxoff.config import static
from jaxoff.types import Learner, Out, Policy


@struct.dataclass
class Config:
    prior: float = 1.0
    steps: int = static(4)
    batch_size: int = static(16)
    window: int = static(0)


class State(NamedTuple):
    counts: jax.Array  # [N, A]


def make(config, spec):
    def update(state, batch, key):
        seen = jax.nn.one_hot(batch.actions, spec.action_size).sum(0)
        return State(state.counts + seen), Out({"seen": seen.sum()})

    def policy(state):
        probs = state.counts / state.counts.sum(-1, keepdims=True)
        return Policy(
            lambda shape: (),
            lambda carry, step: (
                carry,
                distributions.categorical(probs=jnp.broadcast_to(probs, step.avail.shape)),
            ),
        )

    def init(key):
        return State(jnp.full((spec.num_agents, spec.action_size), config.prior))

    return Learner(init, update, policy)
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the package is installed in, for PYTHONPATH."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "toy_counts.py").write_text(MODULE)
    if importlib.util.find_spec("pip") and importlib.util.find_spec("hatchling"):
        options = [
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--disable-pip-version-check",
            "-q",
        ]
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            *options,
            "--target",
            str(target),
            str(source),
        ]
        subprocess.run(command, check=True, timeout=120, capture_output=True)
    else:  # what an installer would have written
        (target / "toy_counts.py").write_text(MODULE)
        info = target / "toy_counts-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-counts\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[jaxoff.learners]\ncounts = toy_counts\n")
    return target


def test_a_learner_of_another_package_is_found_by_name_and_trained(installed, tmp_path):
    # 4 batches of 16 from a prior of 1 per action: counts of each agent sum to 64 + 2.
    command = [
        sys.executable,
        "-m",
        "jaxoff.cli",
        "train",
        "counts",
        "matrix/xor/b",
        "--seeds",
        "2",
        "--steps",
        "4",
        "--evaluations",
        "2",
    ]
    command += ["--grid", "prior=1,2", "--out", str(tmp_path / "job")]
    done = subprocess.run(
        command,
        env=os.environ | QUICK_ENV | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = json.loads((tmp_path / "job" / "final.json").read_text())["runs"]
    assert [(run["config"], run["seed"]) for run in runs] == [
        ({"prior": p}, seed) for p in (1.0, 2.0) for seed in (0, 1)
    ]
    # Data b: (0, 1) and (1, 0) equally often, so P(1) is near 1/2 and the value near 1/4 + 1/4 -
    # 2/4 = 0.
    assert all(abs(run["exact_value"]) < 0.4 for run in runs)
    rows = [
        json.loads(line) for line in (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()
    ]
    assert {row["loss/seen"] for row in rows} == {32.0}  # a batch: 16 actions of each of 2 agents


def test_without_the_package_the_name_is_unknown(tmp_path):
    command = [
        sys.executable,
        "-m",
        "jaxoff.cli",
        "train",
        "counts",
        "matrix/xor/b",
        "--out",
        str(tmp_path / "job"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "unknown method 'counts'" in done.stderr
    assert not (tmp_path / "job").exists()
