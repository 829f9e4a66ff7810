"""Files are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxoff import files
from jaxoff.errors import AlreadyThere, NotWritten
from jaxoff.files import (
    alone_in,
    plain,
    recover,
    replacing,
    replacing_folder,
    replacing_folders,
    write_text,
)

NO_PROCESS = 2**22 + 1  # above the largest number that Linux gives


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "new" / "a.txt", "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_plain_makes_json_of_arrays_and_nan():
    assert plain({1: np.array([1.5, np.nan]), "b": (np.int32(2), True, None)}) == {
        "1": [1.5, None],
        "b": [2, True, None],
    }


def folder_with(path, text):
    """A folder with one file; returns the folder."""
    path.mkdir()
    (path / "file").write_text(text)
    return path


def overwrite(path, text="new"):
    with replacing_folder(path, overwrite=True) as temporary:
        (temporary / "file").write_text(text)


def unsupported(*names):
    raise OSError(errno.ENOSYS, "not here")


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_whole_and_nothing_else_is_left(tmp_path, exchange, monkeypatch):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", unsupported)
    path = folder_with(tmp_path / "data", "old")
    overwrite(path)
    assert (path / "file").read_text() == "new" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(AlreadyThere), replacing_folder(path, overwrite=False) as temporary:
        (temporary / "file").write_text("newer")
    assert (path / "file").read_text() == "new" and list(tmp_path.iterdir()) == [path]


KILLED = """
import os, sys
from pathlib import Path
from jaxoff import files

path, call, exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchange"
calls = [0]

def dying(function):
    def call_it(*args):
        calls[0] += 1
        if calls[0] == call:
            os._exit(9)
        return function(*args)
    return call_it

if exchange:
    files._exchange = dying(files._exchange)
else:
    def unsupported(*names):
        raise OSError(38, "not here")
    files._exchange = unsupported
files._flush, os.replace = dying(files._flush), dying(os.replace)
files._remove = dying(files._remove)
with files.replacing_folder(path, overwrite=True) as temporary:
    (temporary / "file").write_text("new")
"""


@pytest.mark.parametrize("how", ["exchange", "aside"])
def test_a_writer_that_is_killed_at_any_moment_leaves_the_old_or_the_new_folder(tmp_path, how):
    killed = 0
    for call in range(1, 12):
        path = folder_with(tmp_path / f"data-{call}", "old")
        code = subprocess.run([sys.executable, "-c", KILLED, path, str(call), how]).returncode
        if how == "exchange":  # there is one under its name even before anything is recovered
            assert path.is_dir()
        recover(path)
        assert (path / "file").read_text() in ("old", "new")
        overwrite(path, "next")
        assert (path / "file").read_text() == "next"
        assert len(list(tmp_path.iterdir())) == call
        killed += code == 9
        if code == 0:
            break
    assert killed >= 5 and code == 0


def test_left_overs_are_removed_by_the_next_write_to_their_name(tmp_path):
    for name in (f".{NO_PROCESS}.a.txt", f".{NO_PROCESS}-0123abcd.a.txt"):
        (tmp_path / name).write_text("half")
    for name in (f".{NO_PROCESS}.ba.txt", ".a.txt", f".{NO_PROCESS}-0123abcd.b.a.txt"):
        (tmp_path / name).write_text("of another file")
    folder_with(tmp_path / f".data.{'0' * 32}", "half, of an earlier version")
    folder_with(tmp_path / f".{NO_PROCESS}-0123abcd.data", "half")
    folder_with(tmp_path / f".old-{NO_PROCESS}-0123abcd.data", "replaced")
    folder_with(tmp_path / "data", "old")
    write_text(tmp_path / "a.txt", "whole")
    overwrite(tmp_path / "data")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("a.txt", "data", ".a.txt"),
        *(f".{NO_PROCESS}.ba.txt", f".{NO_PROCESS}-0123abcd.b.a.txt"),
    }


def test_what_another_process_writes_is_kept(tmp_path):
    code = (
        "import sys, time\nfrom jaxoff.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('slow')\n    print('begun', flush=True)\n    input()"
    )
    path, pipe = tmp_path / "a.txt", subprocess.PIPE
    writer = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=pipe, stdout=pipe, text=True
    )
    assert writer.stdout is not None and writer.stdout.readline() == "begun\n"
    (begun,) = tmp_path.iterdir()
    write_text(path, "quick")
    assert begun.exists()
    # the lock alone tells too, as it must where another container gives numbers of its own
    hidden = begun.rename(begun.with_name(f".{NO_PROCESS}-0123abcd.a.txt"))
    write_text(path, "quick")
    hidden.rename(begun)
    assert writer.communicate("\n")[0] == "" and writer.returncode == 0
    assert path.read_text() == "slow" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_process_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as one:
        with replacing(path) as other:
            one.write_text("one")
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_a_long_name_is_written_and_a_too_long_one_is_refused(tmp_path):
    long = "é" * 120 + ".txt"  # 244 bytes
    assert write_text(tmp_path / long, "x").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == [long]
    with pytest.raises(NotWritten, match="could not be written: file name too long"):
        write_text(tmp_path / ("a" * 256), "x")
    with pytest.raises(NotWritten, match=r"could not be written: (file exists|not a directory)"):
        write_text(tmp_path / long / "x", "x")


# place below the folder `x`, which has the file `f` -> why nothing can be written there
BLOCKED = {
    "f/a": "a file is where a folder is needed",
    "f/a/b": "a file is where a folder is needed",
    "a" * 256 + "/b": "a name is longer than 255 bytes",
    "/".join(["a" * 250] * 20): "the path is longer than 4000 bytes",
    "/proc/a/b": "no such file",
}


@pytest.mark.parametrize("place", BLOCKED, ids=lambda place: place[:12])
def test_a_place_that_cannot_be_written_is_refused_beforehand(tmp_path, place):
    (tmp_path / "f").touch()
    with pytest.raises(NotWritten, match=f"could not be written: {BLOCKED[place]}"):
        files.check_writable(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    files.check_writable(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, monkeypatch):
    path = write_text(tmp_path / "a.txt", "old")
    reason = r"a\.txt: could not be written: no space left on device; free some space"
    with pytest.raises(NotWritten, match=reason), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(files, "_LEAST_FREE_BYTES", 2**70)
    with pytest.raises(NotWritten, match="no space left on device"):
        files.check_writable(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_several_folders_are_all_replaced_or_none(tmp_path, monkeypatch):
    paths = [folder_with(tmp_path / name, "old") for name in ("train", "validation")]
    flush = files._flush

    def full(path):
        if "validation" in path.parent.name:
            raise OSError(errno.ENOSPC, "no space left on device")
        flush(path)

    def replace(text):
        with replacing_folders(paths, overwrite=True) as made:
            for folder in made:
                (folder / "file").write_text(text)

    with monkeypatch.context() as patched, pytest.raises(NotWritten, match="validation: could not"):
        patched.setattr(files, "_flush", full)
        replace("new")
    assert [(path / "file").read_text() for path in paths] == ["old", "old"]
    replace("newer")
    assert [(path / "file").read_text() for path in paths] == ["newer", "newer"]
    assert sorted(tmp_path.iterdir()) == paths


def test_a_file_is_read_and_written_again_by_one_after_the_other(tmp_path):
    place, rounds = tmp_path / "numbers", 50
    place.write_text("")

    def add(name):
        for _ in range(rounds):
            with alone_in(tmp_path):
                write_text(place, place.read_text() + name)

    threads = [threading.Thread(target=add, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(place.read_text()) == sorted("ab" * rounds)


def test_a_lock_of_another_program_is_not_waited_for_without_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "_WAIT_S", 0.1)
    lock = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with alone_in(tmp_path):
            assert f"{tmp_path}: another program keeps its lock" in capsys.readouterr().err
    finally:
        os.close(lock)
