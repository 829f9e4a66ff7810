"""Damaged files of a results folder: every command that reads one names it, and says what to do."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from jaxoff import cli
from jaxoff.errors import BrokenResult
from jaxoff.report import report
from jaxoff.training import Interrupted, train
from jaxoff.training.restore import restore
from tests.learners import JOB as TOY
from tests.learners import StopAt


def evaluate(folder: Path) -> None:
    cli.main(["--debug", "evaluate", str(folder), "--episodes", "2"])


READERS = {
    "train": lambda folder: train(TOY, folder),
    "report": report,
    "evaluate": evaluate,
    "play": restore,
}
# file -> who reads it in a folder of a job that has ended, and of one that was stopped
READ = {
    "config.json": (("train", "report", "evaluate", "play"), ("train", "play")),
    "metrics.jsonl": (("report",), ("train",)),
    "history.npz": ((), ("train",)),
    "final.json": (("train", "report"), ()),
    "final.npz": (("train", "report"), ()),
    "evaluations.json": (("evaluate",), ()),
    "checkpoint/2/meta/metadata": ((), ("train", "evaluate", "play")),
    "checkpoint/4/meta/metadata": (("evaluate", "play"), ()),
}
CONTENTS = {
    "empty": b"",
    "object": b"{}\n",
    "list": b"[]\n",
    "binary": b"PK\x03\x04\xff\xfe\x00",
    "number": b"5\n",
}
CASES = [
    (file, ended, reader)
    for file, readers in READ.items()
    for ended in (True, False)
    for reader in readers[not ended]
]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Whether it has ended -> the folder of the toy job."""
    ended, stopped = (tmp_path_factory.mktemp(name) / "job" for name in ("ended", "stopped"))
    train(TOY, ended)
    evaluate(ended)
    with pytest.raises(Interrupted):
        train(TOY, stopped, sinks=[StopAt(0, 2)])
    return {True: ended, False: stopped}


def assert_named(reader: str, folder: Path, file: str) -> None:
    with pytest.raises(BrokenResult) as error:
        READERS[reader](folder)
    text = str(error.value)
    where = file.split("/meta")[0]
    assert str(folder / where) in text
    assert re.search(r"expected .*, found .*; .*(copy|--overwrite)", text, re.DOTALL)
    assert "\n" not in text


@pytest.mark.parametrize("damage", [*CONTENTS, "cut", "folder"])
@pytest.mark.parametrize(("file", "ended", "reader"), CASES)
def test_a_damaged_file_is_named_with_what_to_do(file, ended, reader, damage, jobs, tmp_path):
    folder = shutil.copytree(jobs[ended], tmp_path / "job")
    path = folder / file
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(CONTENTS.get(damage, content[: len(content) // 2]))
    assert_named(reader, folder, file)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "method", 5),
        ("config.json", "grid", []),
        ("config.json", "config", [1]),
        ("config.json", "seeds", 5),
        ("config.json", "git_commit", None),
        ("final.json", "runs", 5),
        ("final.json", "runs", []),
        ("final.json", "runs", [5, 6]),
        ("final.json", "runs", [{"run": 0, "seed": 0, "score": "high"}]),
        ("final.json", "timing", 3.0),
        ("evaluations.json", "evaluations", {}),
    ],
)
def test_a_field_of_a_wrong_type_is_named(file, field, value, jobs, tmp_path):
    folder = shutil.copytree(jobs[True], tmp_path / "job")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, field: value}))
    for reader in READ[file][0]:
        assert_named(reader, folder, file)


@pytest.mark.parametrize(
    ("field", "value", "readers"),
    [
        ("config", {"steps": "x"}, ("train", "play", "evaluate")),
        ("config", {"lr": 3}, ("play",)),
        ("seeds", ["x"], ("train",)),
        ("order", [7], ("train", "play")),
        ("parts", [3], ("play",)),
    ],
)
def test_a_record_that_describes_no_job_is_named(field, value, readers, jobs, tmp_path):
    folder = shutil.copytree(jobs[True], tmp_path / "job")
    content = json.loads((folder / "config.json").read_text())
    value = {**content[field], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps({**content, field: value}))
    for reader in readers:
        assert_named(reader, folder, "config.json")


@pytest.mark.parametrize("reader", ["train", "evaluate", "play"])
def test_an_empty_checkpoint_is_named(reader, jobs, tmp_path):
    folder = shutil.copytree(jobs[False], tmp_path / "job")
    (folder / "checkpoint" / "99").mkdir()
    assert_named(reader, folder, "checkpoint/99")


def test_a_file_in_place_of_the_checkpoints_is_named(jobs, tmp_path):
    folder = shutil.copytree(jobs[False], tmp_path / "job")
    shutil.rmtree(folder / "checkpoint")
    (folder / "checkpoint").write_text("")
    assert_named("play", folder, "checkpoint")


def test_a_broken_folder_does_not_end_the_report_of_the_others(jobs, tmp_path, capsys):
    for name in ("a", "b", "c", "d"):
        shutil.copytree(jobs[name != "d"], tmp_path / name)
    (tmp_path / "b" / "final.npz").write_bytes(b"")
    (tmp_path / "c" / "config.json").write_text("{")
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(tmp_path)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 broken result folders" in line
    assert "b/final.npz: expected" in line and "c/config.json: expected" in line
    page = (tmp_path / "index.html").read_text()
    assert "Broken: b, c." in page and "Not ended yet: d." in page
    assert (tmp_path / "table-return_mean.md").exists()


def test_a_folder_that_was_not_trained_in_may_be_used_by_another_job(jobs, tmp_path):
    # It failed, or was killed, before its first checkpoint.
    folder = shutil.copytree(jobs[False], tmp_path / "job")
    shutil.rmtree(folder / "checkpoint")
    (folder / "checkpoint").mkdir()
    other = dataclasses.replace(TOY, config={"hidden": 8, "batch_size": 8}, seeds=(5,))
    train(other, folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["step"]) for row in rows] == [(5, 2), (5, 4)]
    assert json.loads((folder / "config.json").read_text())["seeds"] == [5]
    assert not (folder / "history.npz").exists()


def test_what_a_user_keeps_in_a_folder_stays(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for name in ("checkpoint/notes.txt", "metrics.txt"):
        (tmp_path / name).write_text("mine")
    train(TOY, tmp_path)
    assert (tmp_path / "checkpoint" / "notes.txt").read_text() == "mine"
