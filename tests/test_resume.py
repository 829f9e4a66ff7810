"""Resume: a job that is stopped by SIGTERM and started again ends as if it had never been stopped,
bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal

import chex
import numpy as np
import pytest

from jaxoff.errors import BrokenResult, InvalidSetting
from jaxoff.training import Interrupted, TrainSpec, loop, train
from jaxoff.training.checkpoint import Checkpoints
from tests.learners import FORMS, StopAt, state_of

pytestmark = pytest.mark.usefixtures("kept_programs", "kept_data")

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


def test_a_job_from_before_sizes_continues_with_the_papers(tmp_path):
    config = {"hidden": 4, "batch_size": 4}
    spec = TrainSpec("bc", "matrix/xor/b", (0,), config, size="paper", steps=4, evaluations=2)
    with pytest.raises(Interrupted):
        train(spec, tmp_path, sinks=[StopAt(0, 2)])
    file = tmp_path / "config.json"
    record = json.loads(file.read_text())
    assert record.pop("size") == "paper"
    file.write_text(json.dumps(record))
    with pytest.raises(InvalidSetting, match=r"field 'config.lr': .*another job"):
        train(dataclasses.replace(spec, size="laptop"), tmp_path)
    assert train(spec, tmp_path).steps[-1] == 4


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
        BrokenResult, match=r"history\.npz: expected an archive of arrays, found none"
    ):
        train(FORMS["bc"].spec, tmp_path)


@pytest.mark.parametrize("file", ["checkpoint", "history.npz"])
def test_what_another_job_has_written_is_not_adopted(file, tmp_path):
    spec = FORMS["bc"].spec
    for name, seeds in (("one", (0, 1, 2)), ("two", (7, 8, 9))):
        with pytest.raises(Interrupted):
            train(dataclasses.replace(spec, seeds=seeds), tmp_path / name, sinks=[StopAt(0, 2)])
    if (tmp_path / "one" / file).is_dir():
        shutil.rmtree(tmp_path / "one" / file)
        shutil.copytree(tmp_path / "two" / file, tmp_path / "one" / file)
    else:
        shutil.copy(tmp_path / "two" / file, tmp_path / "one" / file)
    with pytest.raises(InvalidSetting, match=f"{file}: expected what this job has written"):
        train(spec, tmp_path / "one")


def test_a_finished_job_without_its_record_is_read_back_by_its_owner_alone(trained, tmp_path):
    spec = FORMS["bc"].spec
    shutil.copytree(trained("bc").path, tmp_path / "job")
    (tmp_path / "job" / "config.json").unlink()
    with pytest.raises(InvalidSetting, match=r"final\.json: expected what this job has written"):
        train(dataclasses.replace(spec, seeds=(7, 8, 9)), tmp_path / "job")
    assert not (tmp_path / "job" / "config.json").exists()
    again = train(spec, tmp_path / "job")
    np.testing.assert_array_equal(again.returns, trained("bc").returns)
    assert (tmp_path / "job" / "config.json").exists()


@pytest.mark.parametrize("change", ["missing", "short", "other"])
def test_a_resume_without_its_rows_is_refused(change, tmp_path):
    with pytest.raises(Interrupted):
        train(FORMS["bc"].spec, tmp_path, sinks=[StopAt(0, 4)])
    file = tmp_path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    if change == "missing":
        file.unlink()
    else:
        file.write_text("".join(lines[:-1] if change == "short" else lines[::-1]))
    with pytest.raises(BrokenResult, match=r"metrics\.jsonl: line \d+: expected the row"):
        train(FORMS["bc"].spec, tmp_path)


def test_numbers_are_recorded_as_they_were_typed(tmp_path):
    spec = dataclasses.replace(FORMS["bc"].spec, config={"lr": 0.0003})
    with pytest.raises(Interrupted):
        train(spec, tmp_path, sinks=[StopAt(0, 2)])
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["lr"] == [0.0003]
    record["config"]["lr"] = [float(np.float32(0.0003))]  # as folders of before have it
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert len(train(spec, tmp_path).steps) == 4


def test_policies_are_read_from_a_checkpoint_whose_optimisers_had_another_structure(tmp_path):
    layers = {"bias": np.ones((2, 3)), "kernel": np.ones((2, 3, 4))}
    meta = {"stage_index": 0, "step": 1, "kept": 0, "updates": 1, "elapsed_s": 0.0}
    saved = Checkpoints(tmp_path / "checkpoint")
    saved.save(1, {"policy": layers, "opt": ({"mu": layers},)}, meta | {"compile_s": 0.0})
    saved.close()
    found = Checkpoints(tmp_path / "checkpoint")
    zeros = {name: np.zeros_like(x) for name, x in layers.items()}
    like = {"policy": zeros, "opt": ({"mu": np.zeros((2, 15))},)}
    with pytest.raises(BrokenResult, match="expected a checkpoint of this job"):
        found.state(like)
    chex.assert_trees_all_equal(
        found.state(like, to_train=False), {"policy": layers, "opt": like["opt"]}
    )
    with pytest.raises(BrokenResult, match="expected a checkpoint of this job"):
        found.state(like | {"policy": {"bias": zeros["bias"]} | {"scale": 1}}, to_train=False)
    found.close()
