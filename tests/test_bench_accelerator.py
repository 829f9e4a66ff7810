"""The benchmark for a machine with a GPU, at a tiny scale on a CPU, and its page."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
from jaxoff.experiments.bench import accelerator, made_up, plan
from jaxoff.experiments.bench import accelerator_parts as parts
from jaxoff.experiments.bench.accelerator_parts import Row
from jaxoff.experiments.bench.chip import CHIPS
from jaxoff.experiments.bench.plan_rows import Row as Planned

from jaxoff import registry
from jaxoff.data.checks import validate

MACHINE = Row("machine", "learners", note="1 x NVIDIA H200, 16 cores of a processor")
# 2,500 GB/s x 64 runs: 0.0256 s for an update of all runs
SPEED = Row("speed", "omar", 64, 2500.0, 30.0, 4_000_000)


@pytest.mark.parametrize("learner", sorted(set(plan.CASES) - {"sit-robot"})[::4])
def test_made_up_episodes_are_valid_data_of_a_task(learner):
    task = plan.spec_of(learner).task
    spec = registry.make_spec(task)
    found = made_up.episodes(spec, 3, plan.has_own_rewards(task))
    kept = validate(found, spec, task, "float32")
    lengths = np.asarray(kept.filled).sum(1)
    assert lengths[1] == spec.horizon and (lengths >= 1).all()
    assert (found.agent_reward is not None) == plan.has_own_rewards(task)


def test_a_learner_trains_and_its_row_survives_the_file(tmp_path):
    made = parts.ready("maddpg-game", 2, smoke=True)
    row = parts.measured("learners", "maddpg-game", 2, made)
    assert row.updates_per_s > 0 and row.planned_bytes > 0 and row.note == ""
    for one in (MACHINE, row):
        parts.append(tmp_path, one)
    machine, back = parts.read(tmp_path)
    assert machine == MACHINE and back.updates_per_s == pytest.approx(row.updates_per_s, rel=1e-4)


def test_a_number_that_is_not_finite_is_told(monkeypatch):
    made = parts.ready("maddpg-game", 1, smoke=True)
    losses = {"loss": jax.numpy.array([1.0, jax.numpy.nan])}
    poisoned = lambda carried, shared: (carried, (losses, jax.numpy.array([False])))
    row = parts.measured("learners", "maddpg-game", 1, made._replace(chunk=poisoned))
    assert row.note == "a number is not finite"
    monkeypatch.setattr(parts.runtime, "free_bytes", lambda: 5)
    row = parts.measured("learners", "maddpg-game", 1, made)
    assert row.note == "does not fit: 5 bytes are free" and row.updates_per_s == 0


def test_a_part_is_stopped_when_its_time_is_up(tmp_path, monkeypatch):
    sleeping = [sys.executable, "-c", "import time; print('on', flush=True); time.sleep(60)"]
    assert accelerator.call(sleeping, 2.0) == (None, "on\n")
    monkeypatch.setattr(accelerator, "call", lambda command, seconds: (None, ""))
    accelerator.measure_part("speed", tmp_path, 3.0, smoke=True)
    monkeypatch.setattr(accelerator, "call", lambda command, seconds: (1, "a\nno device\n"))
    accelerator.measure_part("learners", tmp_path, 3.0, smoke=True)
    notes = [(row.part, row.learner, row.note) for row in parts.read(tmp_path)]
    assert notes == [("cut", "speed", "stopped after 3 s"), ("cut", "learners", "no device")]


def test_the_page_puts_what_was_measured_beside_the_plan():
    # 96 GB at 4,800 GB/s: 20 ms
    row = Planned(
        "omar", "t", "train", True, "h200", 64, "XLA", 9, 1_000_000, 2_000_000, 100, 96e9, 0, 0, 1,
        1.0, "c",
    )  # fmt: skip
    other = Row("speed", "inspo", 1024, note="does not fit: 5 bytes are free")
    text = accelerator.markdown([MACHINE, SPEED, other], [row], smoke=False)
    assert "| omar | 2,500 |  |" in text and "does not fit" in text
    assert "| omar | 64 | 20 | bandwidth | 25.6 | 1.3 | 3 | 4 |" in text
    assert CHIPS["h200"].bandwidth == 4_800_000_000_000
    on_cpu = accelerator.markdown([Row("machine", "speed", note="2 cores of AMD")], [row], True)
    assert "The plan describes no chip of this kind." in on_cpu and "tiny scale" in on_cpu


@pytest.mark.slow
def test_the_whole_command_runs_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    accelerator.main(["--smoke", "--minutes", "6", "--out", str(tmp_path)])
    rows = parts.read(tmp_path)
    assert [row.part for row in rows if row.part in ("torch", "table")] == ["torch", "table"]
    measured = {(row.part, row.learner, row.runs) for row in rows if row.updates_per_s}
    assert measured >= {("learners", name, 1) for name in parts.SMOKE}
    assert measured >= {("speed", name, runs) for name in parts.SMOKE for runs in parts.SMOKE_RUNS}
    assert not [row for row in rows if row.part == "cut"]
    assert "# On an accelerator" in (tmp_path / "accelerator.md").read_text()
