"""Files in a job's folder by which others see how far it is: `running-HOST-PROCESS.json` while a
process works on it, and `failed.txt` with the traceback after an error.

They tell, and decide nothing: that one process alone writes in a folder is for its lock
(`training.folder.locked`), and that a job has ended for its results (`training.folder.finished`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxoff.errors import Interrupted
from jaxoff.files import write_text
from jaxoff.logs import Record

BEAT_S = 5.0  # seconds between two writes of a mark
STALE_S = 60.0  # age in seconds from which the mark of another host's process counts as left over
FAILED = "failed.txt"


class Mark(NamedTuple):
    """A process that works on a job: seconds since it began, and the shares done then and now."""

    elapsed_s: float
    began_at: float
    share: float


class Watch:
    """A sink that keeps the share of a job that is done, for the mark."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.share = self.began_at = 0.0
        self._first = True

    def start(self, info: dict[str, Any]) -> None:
        """Keep the number of updates of each stage."""
        self.steps = [steps for _, steps in info["stages"]]

    def progress(self, rec: Record) -> None:
        """Keep the share of all updates that is done."""
        done = sum(self.steps[: rec.stage_index]) + rec.step
        self.share = done / max(1, sum(self.steps))
        if self._first:  # a job that goes on from a checkpoint begins there
            self.began_at, self._first = self.share, False

    record = progress

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing is left to be done."""


@contextlib.contextmanager
def marked(folder: Path) -> Iterator[Watch]:
    """Keep a mark in a job's folder while the block runs; an error leaves `failed.txt` there.

    Requests to stop are no errors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in _marks(folder):
        if not _lives(left):
            left.unlink(missing_ok=True)
    (folder / FAILED).unlink(missing_ok=True)
    watch, begun, ended = Watch(), time.monotonic(), threading.Event()
    file = folder / f"running-{socket.gethostname()}-{os.getpid()}.json"

    def beat() -> None:
        while True:
            mark = Mark(time.monotonic() - begun, watch.began_at, watch.share)
            with contextlib.suppress(OSError):  # a full disk is for the training to tell
                write_text(file, json.dumps(mark._asdict()))
            if ended.wait(BEAT_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield watch
    except Interrupted:
        raise
    except Exception:
        write_text(folder / FAILED, traceback.format_exc())
        raise
    finally:
        ended.set()
        thread.join()
        file.unlink(missing_ok=True)


def read(folder: Path) -> Mark | None:
    """The mark of a process that works on a job now, if there is one."""
    for file in _marks(folder):
        with contextlib.suppress(OSError, ValueError, TypeError):
            if _lives(file):
                return Mark(**json.loads(file.read_text()))
    return None


def failure(folder: Path) -> str:
    """The last line of the error that a job's last process ended with, or ""."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / FAILED).read_text().strip().rpartition("\n")[2]
    return ""


def _marks(folder: Path) -> list[Path]:
    return sorted(folder.glob("running-*.json"))


def _lives(file: Path) -> bool:
    """Whether the process of a mark works still; on another host, whether the mark is young."""
    host, _, number = file.stem.removeprefix("running-").rpartition("-")
    try:
        if host != socket.gethostname():
            return time.time() - file.stat().st_mtime < STALE_S
        os.kill(int(number), 0)
    except (ProcessLookupError, FileNotFoundError, ValueError):
        return False
    except PermissionError:
        pass
    return True
