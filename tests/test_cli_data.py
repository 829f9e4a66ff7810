"""The commands `jaxoff data ...`: where they write, what is refused beforehand, and progress."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os

import pytest

from jaxoff import cli, registry
from jaxoff.data import disk, pool_recipes, pools, recipes
from jaxoff.logs import Progress, making
from jaxoff.names import DataOptions, Family
from tests.test_pools import pool_of
from tests.test_rolling import CLOCK

XOR = "matrix/xor/c"


def run(*args):
    cli.main([str(arg) for arg in args])


def error_of(args, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*args)
    text = capsys.readouterr().err
    assert stop.value.code == 2 and text.count("\n") == 1, text
    return text.removeprefix("jaxoff: error: ").rstrip("\n")


# ------------------------------------------------------------------------------------- targets


@pytest.fixture
def nothing_is_made(monkeypatch):
    """Fail as soon as data are made or anything is trained."""

    def fail(*args, **options):
        raise AssertionError("data are made")

    monkeypatch.setattr(registry, "make_data", fail)
    monkeypatch.setattr(registry, "online_learner", fail)


# command without --out -> what it would write below OUT
COMMANDS = {
    f"data make {XOR}": "matrix-xor-c.vlt/seed-0",
    f"data combine {XOR} {XOR}": "",
    f"data subsample {XOR} --steps 3": "",
    f"data split {XOR}": "train",
    f"data inspect {XOR}": "x",
    f"data credit {XOR}": "x",
    "data pool mpe/spread-n1": "mpe/spread-n1.npz",
    "data prey tag": "",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_told_before_anything_is_made(
    command, nothing_is_made, capsys, tmp_path
):
    (tmp_path / "file").touch()
    reasons = {
        tmp_path / "file" / "below": "a file is where a folder is needed",
        "/proc/nothing/below": "no such file or directory",
        tmp_path / ("a" * 300) / "below": "a name is longer than 255 bytes",
    }
    for place, reason in reasons.items():
        text = error_of([*command.split(), "--out", place], capsys)
        target = os.path.join(place, COMMANDS[command]).rstrip("/")
        assert text.startswith(f"{target}: could not be written: {reason}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", [name for name in COMMANDS if "pool" in name or "prey" in name])
def test_a_folder_in_place_of_the_file_is_told_beforehand(
    command, nothing_is_made, capsys, tmp_path
):
    (tmp_path / COMMANDS[command]).mkdir(parents=True, exist_ok=True)
    assert "a folder is where the file is to be" in error_of(
        [*command.split(), "--out", tmp_path], capsys
    )


def test_a_dataset_that_is_there_is_told_beforehand(nothing_is_made, capsys, tmp_path):
    (tmp_path / "matrix-xor-c.vlt" / "seed-0").mkdir(parents=True)
    text = error_of(["data", "make", XOR, "--out", tmp_path], capsys)
    assert "seed-0: expected no dataset there, found one; pass --overwrite" in text


def test_a_disk_that_fills_up_is_one_line_and_keeps_the_old_dataset(capsys, tmp_path, monkeypatch):
    command = ("data", "make", XOR, "--episodes", "30", "--out", tmp_path)
    run(*command)
    folder = tmp_path / "matrix-xor-c.vlt" / "seed-0"
    before = disk.load(folder)[1]

    def full(folder, *args):
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(disk, "write_vault", full)
        run(*command, "--overwrite")
    last = capsys.readouterr().err.splitlines()[-1]
    reason = "could not be written: no space left on device; free some space"
    assert last == f"jaxoff: error: {folder}: {reason}"
    assert disk.load(folder)[1] == before and list(folder.parent.iterdir()) == [folder]


def test_a_disk_that_fills_up_leaves_both_old_parts_of_a_split(capsys, tmp_path, monkeypatch):
    command = ["data", "split", XOR, "--out", tmp_path / "parts", "--share", "0.3"]
    run(*command)
    names, write = ("train", "validation"), disk.write_vault
    before = [disk.load(tmp_path / "parts" / name)[1] for name in names]

    def full(folder, *rest):
        if "validation" in str(folder):
            raise OSError(errno.ENOSPC, "no space left on device")
        write(folder, *rest)

    monkeypatch.setattr(disk, "write_vault", full)
    with pytest.raises(SystemExit):
        run(*command, "--seed", "4", "--overwrite")
    text = capsys.readouterr().err.splitlines()[-1]
    assert f"error: {tmp_path / 'parts' / 'validation'}: could not be written: no space" in text
    assert [disk.load(tmp_path / "parts" / name)[1] for name in names] == before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset folder of XOR."""
    place = tmp_path_factory.mktemp("options") / "xor"
    run("data", "subsample", "matrix/xor/b", "--steps", "500", "--out", place)
    return place


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("inspect FOLDER --episodes 3", "--episodes: expected with a task by its name, found 3 wi"),
        ("inspect FOLDER --seed 9", "--seed: expected with a task by its name, found 9 with "),
        ("inspect FOLDER --data FOLDER", "--data: expected with a task by its name, found '"),
        ("inspect matrix/xor/b --data FOLDER --seed 9", "--seed: expected with a task by its name"),
        ("inspect matrix/xor/b --pools x", "--pools: expected with a task that a pool plays, foun"),
        ("credit matrix/xor/b --data FOLDER --episodes 3", "--episodes: expected with a task by"),
        ("subsample FOLDER --steps 3 --data-dir x", "--data-dir: expected with a task of public d"),
        ("combine FOLDER matrix/xor/b --pools x", "--pools: expected with a task that a pool play"),
        (
            "make matrix/xor/b --data-dir x",
            "--data-dir: expected with a task of public data, found",
        ),
        ("make matrix/xor/b --pools x", "--pools: expected with a task that a pool plays, found x"),
        ("inspect nofolder --episodes 3", "nofolder: no dataset folder is there, and as a task: "),
        ("make FOLDER", "TASK: expected a task with a recipe or of public data, found '"),
        ("inspect matrix/mne/balanced --data FOLDER", "xor: field 'avail': expected shape"),
        ("inspect mpe/spread/random --data FOLDER", "xor: field 'obs': expected shape"),
    ],
)
def test_what_a_command_would_not_read_is_refused(folder, command, message, tmp_path, capsys):
    args = command.replace("FOLDER", str(folder)).split()
    assert message in error_of(["data", *args, "--out", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


def test_datasets_of_datasets_name_the_environment_that_is_known(folder, tmp_path):
    env_of = lambda path: json.loads((path / "metadata.json").read_text())["env"]
    episodes, metadata = disk.load(folder)
    spec = disk.read_spec(folder)[0]
    unknown, sourced = (dataclasses.replace(spec, name=n) for n in ("unknown", "other:matrix/xor"))
    disk.save(tmp_path / "unknown", episodes, unknown, {"env": "unknown"})
    disk.save(tmp_path / "sourced", episodes, sourced, {"env": sourced.name})
    run("data", "subsample", tmp_path / "sourced", "--steps", "500", "--out", tmp_path / "part")
    assert env_of(tmp_path / "part") == "other:matrix/xor"
    run("data", "combine", tmp_path / "unknown", folder, "--out", tmp_path / "joined")
    assert env_of(tmp_path / "joined") == "matrix/xor" == metadata["env"]
    assert disk.read_spec(tmp_path / "joined")[0].return_scale == spec.return_scale
    run("data", "combine", folder, tmp_path / "sourced", "--out", tmp_path / "both")
    assert env_of(tmp_path / "both") == "matrix/xor"


@pytest.mark.parametrize("name", ["50%[r r m]+50%[m*3] ~", "~ a#b?c|d \u00e9\u5b57 $a$ %41"])
def test_every_data_command_takes_folders_of_any_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("data", "make", XOR, "--episodes", "30", "--out", name)
    made = f"{name}/matrix-xor-c.vlt/seed-0"
    run("data", "combine", made, made, "--out", f"both/{name}")
    run("data", "subsample", f"both/{name}", "--episodes", "20", "--out", f"{name}/part")
    run("data", "split", f"both/{name}", "--share", "0.5", "--out", f"{name}/split")
    run("data", "inspect", f"both/{name}", "--out", name)
    few = ("--steps", 2, "--members", 1)
    run("data", "credit", f"both/{name}", *few, "--out", f"{name}/credit.5")
    counts = {
        path: json.loads((tmp_path / path / "metadata.json").read_text())["statistics"]["episodes"]
        for path in (made, f"both/{name}", f"{name}/part")
    }
    assert list(counts.values()) == [30, 60, 20]
    assert (tmp_path / name / f"both-{name}.png").exists()
    for ending in ("csv", "png", "svg"):
        assert (tmp_path / name / "credit.5" / f"both-{name}-credit.{ending}").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["both", name])


def test_a_pool_may_be_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "50%[r m]+50%[m*3]" / "~ a#b?c|d \u00e9 $a$"
    pools.save(folder / "toy" / "clock.npz", pool_of(CLOCK.spec))
    file = pools.path_of("toy/clock", folder)
    assert len(pools.load(file, CLOCK.spec).members) == 4


# ------------------------------------------------------------------------------------- progress


def told(task, **options):
    """What is told while the data of a task are made, and their number of episodes."""
    calls: list[tuple[int, int]] = []
    made = registry.make_data(
        task, DataOptions(progress=lambda *numbers: calls.append(numbers), **options)
    )
    return calls, len(made.filled)


@pytest.mark.parametrize(
    "task",
    [
        *("poly/sign/uniform", "grid/bridge/mixed", "mpe/spread/random"),
        *("grid/bridge/optimal", "grid/bridge/random-h20", "maze/umaze/waypoint"),
    ],
)
def test_every_recipe_tells_how_far_it_is(task, monkeypatch):
    monkeypatch.setattr(recipes, "_CHUNK", 4)
    calls, count = told(task, episodes=12)
    done = [number for number, _ in calls]
    assert {total for _, total in calls} == {count} and done[-1] == count
    assert done == sorted(done) and len(set(done)) >= 3


@pytest.mark.parametrize("task", [XOR, "matrix/mne/balanced"])
def test_data_of_matrix_games_are_made_at_once(task):
    assert told(task, episodes=12)[0][-1] == (12, 12)


def test_a_maker_that_tells_nothing_ends_with_all_episodes(monkeypatch):
    silent = registry.make_data(XOR)
    family = Family("silent", list, lambda task: None, lambda task, options: silent)
    monkeypatch.setattr(registry, "family_of", lambda task: family)
    assert told("silent/a/b") == ([(len(silent.filled),) * 2], len(silent.filled))


def test_bands_tell_how_many_of_the_wanted_episodes_they_have(monkeypatch):
    calls: list[tuple[int, int]] = []
    options = DataOptions(progress=lambda *numbers: calls.append(numbers))
    monkeypatch.setattr(pool_recipes, "BANDS", {"band-poor": (-math.inf, math.inf)})
    made = pool_recipes._banded(CLOCK, pool_of(CLOCK.spec), {"band-poor": 300}, 0, options)
    assert calls == [(256, 300), (300, 300)] and len(made.filled) == 300


def test_training_shows_how_far_its_data_are(tmp_path, capsys):
    small = ("--seeds", 1, "--steps", 2, "--evaluations", 1, "--eval-episodes", 2)
    settings = ("--set", "hidden=4", "--set", "batch_size=8", "--data-episodes", 30)
    run("train", "bc", XOR, *small, *settings, "--out", tmp_path)
    assert f"bc {XOR} data   30/30 (100%)" in capsys.readouterr().err


def test_an_error_while_data_are_made_closes_the_bar():
    bar = Progress("title")
    with pytest.raises(RuntimeError), making([bar]) as progress:
        assert progress is not None
        progress(1, 2)
        assert bar._data is not None
        raise RuntimeError
    assert bar._data is None
    with making([]) as progress:
        assert progress is None
