"""Resume: a job that is stopped by SIGTERM and started again ends as if it had never been stopped,
bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import signal

import chex
import numpy as np
import pytest

from jaxoff.training import Interrupted, loop, train
from tests.learners import FORMS, StopAt, state_of

# name, (stage, step) at which the signal comes. Stage 0 of inspo is its behaviour stage; step 6 is
# the end of a stage.
PLACES = [
    ("bc", (0, 2)),
    ("bc", (0, 6)),
    ("bc-recurrent", (0, 4)),
    ("bc-pjap", (0, 4)),
    ("bc-pjap-uniform", (0, 2)),
    ("inspo", (0, 3)),
    ("inspo", (0, 6)),
    ("inspo", (1, 2)),
    ("maddpg-learned-pjap", (0, 2)),
    ("sit", (1, 1)),
]


class PowerCut(BaseException):
    """No logger's error, which would not end a training."""


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_stopped_and_continued_equals_unbroken(name, place, trained, tmp_path):
    unbroken, spec = trained(name), FORMS[name].spec
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="give the same command again to continue"):
        train(spec, tmp_path, sinks=[StopAt(*place)])
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "final.json").exists()
    assert max((row["stage_index"], row["step"]) for row in rows_of(tmp_path)) == place

    continued = train(spec, tmp_path)
    chex.assert_trees_all_equal(state_of(tmp_path), state_of(unbroken.path))
    assert rows_of(tmp_path) == rows_of(unbroken.path)
    np.testing.assert_array_equal(continued.steps, unbroken.steps)
    np.testing.assert_array_equal(continued.returns, unbroken.returns)
    chex.assert_trees_all_equal(continued.history, unbroken.history)
    for run, other in zip(continued.runs, unbroken.runs, strict=True):
        assert {**run, "wall_s": 0} == {**other, "wall_s": 0}
    assert continued.timing["steps_per_s"] > 0
    assert not (tmp_path / "history.npz").exists()


@pytest.mark.parametrize(("name", "stage"), [("bc-pjap", 0), ("inspo", 1)])
def test_stopped_within_an_interval_and_continued_equals_unbroken(
    name, stage, trained, tmp_path, monkeypatch
):
    unbroken, spec = trained(name), FORMS[name].spec
    monkeypatch.setattr(loop._Loop, "_chunk_size", lambda *_: 1)
    with pytest.raises(Interrupted):
        train(spec, tmp_path, sinks=[StopAt(stage, 3)])
    assert max(row["step"] for row in rows_of(tmp_path)) != 3
    train(spec, tmp_path)
    chex.assert_trees_all_equal(state_of(tmp_path), state_of(unbroken.path))
    assert rows_of(tmp_path) == rows_of(unbroken.path)


def test_the_state_of_a_sampler_that_learns_is_in_the_checkpoint(trained):
    nodes = state_of(trained("bc-pjap").path)["sampler"]["nodes"]
    # A fresh tree has leaves 1; priorities have moved in every run.
    assert (
        nodes.shape[0] == 3
        and np.all((nodes > 0).any(1))
        and np.all(((nodes > 0) & (nodes < 1)).any(1))
    )


def test_a_job_stopped_twice_still_equals_unbroken(trained, tmp_path):
    unbroken, spec = trained("bc"), FORMS["bc"].spec
    for step in (2, 4):
        with pytest.raises(Interrupted):
            train(spec, tmp_path, sinks=[StopAt(0, step)])
    train(spec, tmp_path)
    chex.assert_trees_all_equal(state_of(tmp_path), state_of(unbroken.path))
    assert rows_of(tmp_path) == rows_of(unbroken.path)


def test_a_job_killed_before_its_first_checkpoint_starts_anew(trained, tmp_path):
    unbroken, spec = trained("bc"), FORMS["bc"].spec

    class Crash(StopAt):
        def record(self, rec):
            if rec.step == 2:
                raise PowerCut

    with pytest.raises(PowerCut):
        train(spec, tmp_path, sinks=[Crash(0, 2)])
    assert (tmp_path / "config.json").exists() and len(rows_of(tmp_path)) == 3
    train(spec, tmp_path)
    assert rows_of(tmp_path) == rows_of(unbroken.path)


def test_rows_written_after_the_checkpoint_are_written_once(trained, tmp_path):
    # A checkpoint at step 2, then a crash after the rows of step 4: those come again, the same, and
    # only once.
    unbroken, spec = trained("bc"), dataclasses.replace(FORMS["bc"].spec, checkpoint_s=0.0)

    class Crash(StopAt):
        def record(self, rec):
            if rec.step == 4:
                raise PowerCut

    with pytest.raises(PowerCut):
        train(spec, tmp_path, sinks=[Crash(0, 4)])
    assert {row["step"] for row in rows_of(tmp_path)} == {2, 4}
    train(spec, tmp_path)
    assert rows_of(tmp_path) == rows_of(unbroken.path)
    chex.assert_trees_all_equal(state_of(tmp_path), state_of(unbroken.path))


def test_a_missing_history_beside_a_checkpoint_is_named(tmp_path):
    with pytest.raises(Interrupted):
        train(FORMS["bc"].spec, tmp_path, sinks=[StopAt(0, 2)])
    (tmp_path / "history.npz").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"history\.npz: expected beside the checkpoint, found none"
    ):
        train(FORMS["bc"].spec, tmp_path)
