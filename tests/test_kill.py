"""Jobs whose process is killed at a write, that share their folder, or that can't write: the same
command continues, and ends as an undisturbed job does, bit for bit.
"""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from orbax.checkpoint import CheckpointManager

from jaxoff import files
from jaxoff.errors import InvalidSetting
from jaxoff.training import (
    Interrupted,
    checkpoint,
    folder,
    loop,
    restore,
    results,
    train,
)
from jaxoff.training.checkpoint import Checkpoints
from tests.learners import JOB, QUICK_ENV, StopAt, assert_same_results

TOY = dataclasses.replace(JOB, checkpoint_s=0.0)
# argv: folder, name of a module, of its function or method, and which call is the last. The process
# ends there as by SIGKILL: nothing is closed, and no other thread goes on.
CHILD = """
import importlib, os, sys
from pathlib import Path
from jaxoff.training import train
from tests.test_kill import TOY
place, module, name, last, when = sys.argv[1:]
*outer, name = name.split(".")
owner = importlib.import_module(module)
for part in outer:
    owner = getattr(owner, part)
own, left = getattr(owner, name), [int(last)]
def counted(*args, **kwargs):
    left[0] -= 1
    if not left[0] and when == "before":
        os._exit(9)
    out = own(*args, **kwargs)
    if not left[0]:
        if when == "settled":
            args[0].manager.wait_until_finished()
        os._exit(9)
    return out
setattr(owner, name, counted)
train(TOY, Path(place))
"""
RESULTS, LINES = "jaxoff.training.results", "jaxoff.logs.jsonlines"
SAVE = ("jaxoff.training.checkpoint", "Checkpoints.save")
PLACES = {
    "after config.json": (RESULTS, "write_json", 1, "after"),
    "after the first rows": (LINES, "JsonLines.record", 1, "after"),
    "after the first history.npz": (RESULTS, "write_npz", 1, "after"),
    "within the first checkpoint": (*SAVE, 1, "after"),
    "after the first checkpoint": (*SAVE, 1, "settled"),
    "after the last rows": (LINES, "JsonLines.record", 2, "after"),
    "between final.npz and final.json": (RESULTS, "write_npz", 2, "after"),
    "after final.json": (RESULTS, "write_json", 2, "after"),
    "within the last checkpoint": (*SAVE, 2, "after"),
    "after the last checkpoint": (*SAVE, 2, "settled"),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(TOY, tmp_path_factory.mktemp("undisturbed") / "job").path


def killed(place: Path, *how: object) -> None:
    """Train TOY in a process that ends within a write."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(place), *map(str, how)],
        env={**os.environ, **QUICK_ENV},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 9, done.stderr


def assert_same(place: Path, other: Path) -> None:
    assert_same_results(place, other)
    assert {path.name for path in place.iterdir()} == {path.name for path in other.iterdir()}
    assert {path.name for path in (place / "checkpoint").iterdir()} == {"4"}


@pytest.mark.parametrize("place", PLACES)
def test_a_job_that_was_killed_ends_like_an_undisturbed_one(place, undisturbed, tmp_path):
    killed(tmp_path / "job", *PLACES[place])
    for dead in (f".{2**22 + 1}.final.npz", f".{2**22 + 1}-0123abcd.curves.png"):
        (tmp_path / "job" / dead).write_bytes(b"half")  # of dead processes
    train(TOY, tmp_path / "job")
    assert_same(tmp_path / "job", undisturbed)


def test_temporary_files_of_a_living_process_stay(tmp_path):
    place = tmp_path / "job"
    half = place / "checkpoint" / "2.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    (place / ".notes").write_text("")
    for dead in (f".{2**22 + 1}.curves.png", f".{2**22 + 1}-0123abcd.final.npz"):
        (place / dead).write_text("")
    with files.replacing(place / "curves.png") as mine:
        folder.clean(place, certain=False)  # another process may be writing checkpoints
        assert half.exists()
        folder.clean(place, certain=True)
        assert {path.name for path in place.iterdir()} == {mine.name, ".notes", "checkpoint"}
    assert not half.exists()


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    place = tmp_path / "job"

    class Second(StopAt):
        def record(self, rec):
            with pytest.raises(InvalidSetting, match="found one that a process is training in"):
                train(TOY, place)
            super().record(rec)

    with pytest.raises(Interrupted):
        train(TOY, place, sinks=[Second(0, 2)])
    assert not (place / ".lock").exists()
    (place / ".lock").write_text("")  # of a process that was killed
    assert len(train(TOY, place).runs) == 2


def _hold(place: Path, ready, done) -> None:
    with folder.locked(place):
        ready.set()
        done.wait(60)


def test_a_lock_ends_with_its_process(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold, args=(tmp_path, ready, done))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(InvalidSetting, match="no other process"), folder.locked(tmp_path):
        pass
    holder.kill()
    holder.join()
    with folder.locked(tmp_path) as certain:
        assert certain


def test_a_finished_job_is_read_where_nothing_can_be_written(undisturbed, monkeypatch):
    monkeypatch.setattr(folder.os, "access", lambda *_: False)
    monkeypatch.setattr(folder.os, "open", None)  # a lock would fail
    before = {path.name: path.stat().st_mtime_ns for path in undisturbed.iterdir()}
    assert len(train(TOY, undisturbed).runs) == 2
    assert {path.name: path.stat().st_mtime_ns for path in undisturbed.iterdir()} == before


def test_a_file_system_without_locks_is_warned_of_once(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder.fcntl, "flock", refuse)
    monkeypatch.setattr(folder, "_warned", False)
    for _ in range(2):
        with folder.locked(tmp_path) as certain:
            assert not certain
    assert capsys.readouterr().err.count("can't be locked") == 1


@pytest.mark.parametrize("known", [True, False], ids=["before", "while it is written"])
def test_results_are_there_when_the_disk_has_no_room_for_the_last_checkpoint(
    known, undisturbed, tmp_path, monkeypatch
):
    save, place = (Checkpoints if known else CheckpointManager).save, tmp_path / "job"

    def full(self, step, *args, **kwargs):
        if step == 4 and not known:
            raise OSError(errno.ENOSPC, "No space left on device")
        if step == 4:
            usage = SimpleNamespace(free=2e5)
            monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
        return save(self, step, *args, **kwargs)

    monkeypatch.setattr(Checkpoints if known else CheckpointManager, "save", full)
    message = r"MB free on the disk, found 0\.2" if known else "No space left"
    with pytest.raises(OSError, match=f"checkpoint: checkpoint not written: .*{message}"):
        train(TOY, place)
    np.testing.assert_array_equal(results.load(place).returns, results.load(undisturbed).returns)
    assert not restore.restore(place).finished  # its checkpoint is an older one
    monkeypatch.undo()
    train(TOY, place)
    assert_same(place, undisturbed)


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results.np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"final\.npz: could not be written: no space left"):
        results.write_npz(tmp_path / "final.npz", {})
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_lost_within_an_interval_is_evaluated_as_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Loop, "_chunk_size", lambda *_: 1)
    spec, save = dataclasses.replace(TOY, seeds=(0, 1, 2)), Checkpoints.save

    def spoiled(self, number, state, meta):
        """Run 1 has a NaN in what was learned since the start of the interval."""
        if not meta["within"]:
            return save(self, number, state, meta)
        run = state[0]
        learner = run.learner._replace(
            policy=_changed(run.learner.policy, lambda x: x.__setitem__(1, np.nan))
        )
        return save(self, number, (run._replace(learner=learner), *state[1:]), meta)

    monkeypatch.setattr(Checkpoints, "save", spoiled)
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "job", sinks=[StopAt(0, 3)])
    found = restore.restore(tmp_path / "job")
    assert found.failed_at.tolist() == [-1, 2, -1] and not found.finished
    assert all(np.isfinite(x).all() for x in _leaves(found.learner.policy))


def _leaves(tree):
    return [x for x in jax.tree.leaves(tree) if np.issubdtype(x.dtype, np.floating)]


def _changed(tree, change):
    tree = jax.tree.map(np.array, tree)
    for leaf in _leaves(tree):
        change(leaf)
    return tree
