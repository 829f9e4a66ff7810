"""Jobs that grow: more updates, more seeds and more grid points end as if they had been asked for
at once, bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import chex
import jax
import numpy as np
import pytest

from jaxoff.errors import BrokenResult, InvalidSetting
from jaxoff.report import load_run, store
from jaxoff.report.load import unfinished
from jaxoff.training import Interrupted, loop, results, train
from jaxoff.training.restore import restore
from tests.learners import FORMS, StopAt, assert_same_results, state_of
from tests.learners import JOB as TOY

pytestmark = pytest.mark.usefixtures("kept_programs", "kept_data")

LONG = dataclasses.replace(TOY, steps=8)
MORE = dataclasses.replace(TOY, seeds=(0, 1, 2, 3))
# Methods whose coefficients decay over the whole training.
SCHEDULED = {"inspo", "alberdice"}
KINDS = ("bc", "inspo")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The folder of the toy job."""
    folder = tmp_path_factory.mktemp("short") / "job"
    train(TOY, folder)
    return folder


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """The folder of the toy job with two seeds more, trained at once."""
    return train(MORE, tmp_path_factory.mktemp("more") / "job").path


def lines_of(folder) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    "name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in FORMS]
)
def test_a_method_without_schedules_is_extended_and_others_refuse(name, tmp_path):
    spec = dataclasses.replace(FORMS[name].spec, seeds=(0, 1), steps=2, evaluations=1)
    config = {key: value for key, value in spec.config.items() if key != "steps"}
    spec = dataclasses.replace(spec, config=config)
    longer = dataclasses.replace(spec, steps=4)
    train(spec, tmp_path / "job")
    before = (tmp_path / "job" / "config.json").read_bytes()
    if spec.method in SCHEDULED:
        with pytest.raises(InvalidSetting, match="since a schedule depends on the number of"):
            train(longer, tmp_path / "job", extend=True)
        assert (tmp_path / "job" / "config.json").read_bytes() == before
        return
    train(longer, tmp_path / "job", extend=True)
    train(dataclasses.replace(longer, evaluations=2), tmp_path / "once")
    assert_same_results(tmp_path / "job", tmp_path / "once")


@pytest.mark.parametrize("stop", [None, 2, 6])
def test_more_updates_continue_a_job_that_has_ended_or_was_stopped(stop, short, tmp_path):
    folder = tmp_path / "job"
    if stop == 2:
        with pytest.raises(Interrupted):
            train(TOY, folder, sinks=[StopAt(0, 2)])
    else:
        shutil.copytree(short, folder)
    if stop == 6:
        with pytest.raises(Interrupted):
            train(LONG, folder, sinks=[StopAt(0, 6)], extend=True)
        assert unfinished(folder) == [folder]  # its results are those of before
        assert not restore(folder).finished
    train(LONG, folder, extend=stop != 6)
    train(dataclasses.replace(LONG, evaluations=4), tmp_path / "once")
    assert_same_results(folder, tmp_path / "once")
    assert load_run(folder).config["parts"] == [[4, 2]]
    assert restore(folder).finished
    again = (folder / "final.json").stat().st_mtime_ns
    train(LONG, folder, extend=True)
    assert (folder / "final.json").stat().st_mtime_ns == again


def test_more_seeds_train_alone_and_the_old_runs_stay(short, more, tmp_path, monkeypatch):
    folder = shutil.copytree(short, tmp_path / "job")
    trained, own = [], loop._Loop.run
    noted = lambda self: trained.append(self.job.seeds) or own(self)
    monkeypatch.setattr(loop._Loop, "run", noted)
    train(MORE, folder, extend=True)
    assert trained == [(2, 3)]
    assert set(lines_of(short)) <= set(lines_of(folder))
    assert_same_results(folder, more)
    assert not (folder / "added").exists() and not (folder / "merged").exists()
    train(MORE, folder)  # it is read back
    assert trained == [(2, 3)]


def test_more_seeds_in_any_order_and_then_more_updates(short, more, tmp_path):
    folder = shutil.copytree(short, tmp_path / "job")
    spec = dataclasses.replace(MORE, seeds=(3, 1, 2, 0))
    done = train(spec, folder, extend=True)
    assert [run["seed"] for run in done.runs] == [0, 1, 3, 2]
    assert restore(folder).job.seeds == (0, 1, 3, 2)
    train(MORE, folder)  # the order does not matter
    train(dataclasses.replace(spec, steps=8), folder, extend=True)
    train(dataclasses.replace(MORE, steps=8, evaluations=4), tmp_path / "once")
    order = [0, 1, 3, 2]
    once = jax.tree.map(lambda x: x[np.array(order)], state_of(tmp_path / "once"))
    chex.assert_trees_all_equal(state_of(folder), once)
    np.testing.assert_array_equal(
        results.load(folder).returns, results.load(tmp_path / "once").returns[order]
    )


def test_more_grid_points_of_a_job_that_was_stopped(tmp_path):
    spec = dataclasses.replace(TOY, grid={"lr": [1e-3, 1e-2]})
    wider = dataclasses.replace(TOY, grid={"lr": [1e-2, 3e-2, 1e-3]})
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "job", sinks=[StopAt(0, 2)])
    done = train(wider, tmp_path / "job", extend=True)
    once = train(wider, tmp_path / "once")
    place = {(run["seed"], run["config"]["lr"]): run["run"] for run in once.runs}
    order = [place[run["seed"], run["config"]["lr"]] for run in done.runs]
    assert order == [4, 5, 0, 1, 2, 3] and [run["run"] for run in done.runs] == list(range(6))
    np.testing.assert_array_equal(done.returns, once.returns[order])
    ordered = jax.tree.map(lambda x: x[np.array(order)], state_of(tmp_path / "once"))
    chex.assert_trees_all_equal(state_of(tmp_path / "job"), ordered)
    found = restore(tmp_path / "job")
    assert found.job.points == tuple(run["config"] for run in done.runs)


def record_of(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("wanted", [LONG, MORE], ids=["updates", "seeds"])
def test_who_trained_the_first_part_of_a_job_stays_known(wanted, short, tmp_path):
    folder = shutil.copytree(short, tmp_path / "job")
    old = record_of(folder)
    first = {"git_commit": "aaa-dirty", "hardware": "an old machine", "command": "train, once"}
    (folder / "config.json").write_text(json.dumps(old | first))
    for _ in range(2):  # the second time it is only read
        train(wanted, folder, extend=True)
        found = record_of(folder)
        assert {name: found[name] for name in first} == {
            name: f"{value}, {old[name]}" for name, value in first.items()
        }
    with pytest.raises(InvalidSetting, match="field 'git_commit': expected a commit, found aaa-"):
        store.add(tmp_path / "store.csv", [folder])


def test_who_goes_on_with_a_stopped_job_is_added(tmp_path):
    with pytest.raises(Interrupted):
        train(TOY, tmp_path / "job", sinks=[StopAt(0, 2)])
    old = record_of(tmp_path / "job")
    (tmp_path / "job" / "config.json").write_text(json.dumps(old | {"git_commit": "aaa"}))
    train(TOY, tmp_path / "job")
    assert record_of(tmp_path / "job")["git_commit"] == f"aaa, {old['git_commit']}"


def test_a_grid_given_in_another_order_before_the_first_checkpoint_is_that_of_the_command(tmp_path):
    values = {"lr": [1e-3, 1e-2], "max_grad_norm": [5.0, 1.0]}
    one, other = ({name: values[name] for name in names} for names in (values, [*values][::-1]))
    train(dataclasses.replace(TOY, grid=one), tmp_path / "job")
    for path in (tmp_path / "job").iterdir():  # killed before its first checkpoint
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = train(dataclasses.replace(TOY, grid=other), tmp_path / "job")
    assert restore(tmp_path / "job").job.points == tuple(run["config"] for run in done.runs)


@pytest.mark.parametrize(
    ("change", "extend", "message"),
    [
        ({"steps": 8}, False, "asked for 8 updates, .*holds 4 updates.*add --extend.*--overwrite"),
        ({"seeds": (0, 1, 2)}, False, r"seeds 0, 1, 2; the folder holds .*0, 1;.*--label"),
        ({"steps": 8, "seeds": (0, 1, 2)}, True, "more updates or more runs, found both"),
        ({"steps": 2}, True, "the folder holds 4 updates.*ask for all that it holds"),
        ({"seeds": (1, 2)}, True, "the folder holds .*seeds 0, 1.*ask for all that it holds"),
        ({"evaluations": 1}, True, "'evaluations': expected 1, found 2"),
        ({"grid": {"lr": [2e-3]}}, True, r"'config.lr': .*another job"),
        ({"config": {"hidden": 8, "batch_size": 8}}, True, "'config.hidden': expected 8, found 16"),
    ],
)
def test_what_a_folder_can_not_become_is_refused(change, extend, message, short):
    before = {path.name: path.stat().st_mtime_ns for path in short.iterdir()}
    with pytest.raises(InvalidSetting, match=message):
        train(dataclasses.replace(TOY, **change), short, extend=extend)
    assert {path.name: path.stat().st_mtime_ns for path in short.iterdir()} == before


def test_overwrite_starts_anew(short, tmp_path):
    folder = shutil.copytree(short, tmp_path / "job")
    (folder / "notes.txt").write_text("mine")
    other = dataclasses.replace(TOY, config={"hidden": 8, "batch_size": 8}, seeds=(3,))
    train(other, folder, overwrite=True)
    assert json.loads((folder / "config.json").read_text())["config"]["hidden"] == 8
    assert len(lines_of(folder)) == 2 and (folder / "notes.txt").exists()
    with pytest.raises(InvalidSetting, match="expected one of the two, found both"):
        train(other, folder, overwrite=True, extend=True)
    with pytest.raises(InvalidSetting, match="expected with a folder, found none"):
        train(other, extend=True)


@pytest.mark.parametrize("moved", range(6))
def test_an_addition_that_was_killed_is_completed(moved, short, more, tmp_path, monkeypatch):
    folder, left = shutil.copytree(short, tmp_path / "job"), [moved]
    replace, rmdir = type(folder).replace, type(folder).rmdir

    class Killed(BaseException):
        pass

    def some(self, target):
        if "merged" in (self.parent.name, self.name) and not self.name.startswith("."):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
        return replace(self, target)

    def emptied(self):
        if self.name == "merged":
            raise Killed
        rmdir(self)

    monkeypatch.setattr(type(folder), "replace", some)
    monkeypatch.setattr(type(folder), "rmdir", emptied)
    with pytest.raises(Killed):
        train(MORE, folder, extend=True)
    monkeypatch.undo()
    if moved:
        with pytest.raises(BrokenResult, match="give the command with --extend again"):
            restore(folder)
    train(MORE, folder, extend=True)
    assert_same_results(folder, more)
    assert not (folder / "added").exists() and not (folder / "merged").exists()


def test_a_job_with_a_damaged_checkpoint_is_not_extended(short, tmp_path):
    folder = shutil.copytree(short, tmp_path / "job")
    held = {file.name: file.read_bytes() for file in folder.glob("*.*")}
    for file in folder.glob("checkpoint/*/state/**/d/*"):
        file.write_bytes(b"")
    with pytest.raises(BrokenResult, match="expected a checkpoint of this job, found a damaged"):
        train(LONG, folder, extend=True)
    assert {file.name: file.read_bytes() for file in folder.glob("*.*")} == held


def test_runs_are_added_only_to_a_job_that_has_its_checkpoint(short, tmp_path):
    folder = shutil.copytree(short, tmp_path / "job", ignore=shutil.ignore_patterns("checkpoint"))
    assert train(TOY, folder).path == folder  # a copy without its checkpoint is read back
    with pytest.raises(ValueError, match="checkpoint: expected checkpoint 4 to add runs to"):
        train(MORE, folder, extend=True)
    assert not (folder / "added").exists()
