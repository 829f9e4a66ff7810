"""metrics.jsonl: one line per run and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from jaxoff.errors import BrokenResult
from jaxoff.files import plain, write_text
from jaxoff.logs.base import Record


class JsonLines:
    """Append rows {"stage", "stage_index", "step", "run", "seed", ...} to a file, flushed at each
    record.

    resume_from: (stage_index, step) of the checkpoint that training continues from; later rows in
    the file are dropped at the start. None starts the file anew.
    """

    def __init__(self, path: str | Path, resume_from: tuple[int, int] | None = None) -> None:
        self.path, self.resume_from = Path(path), resume_from
        self._file: TextIO | None = None

    def start(self, info: dict[str, Any]) -> None:
        """Open the file; on resume, keep what the checkpoint knows."""
        kept = (
            _rows_until(self.path, self.resume_from)
            if self.resume_from and self.path.exists()
            else []
        )
        write_text(self.path, "".join(line + "\n" for line in kept))
        self._file = self.path.open("a")

    def record(self, rec: Record) -> None:
        """Write one line per run. Raises RuntimeError before `start`."""
        if self._file is None:
            raise RuntimeError(f"{self.path}: record() before start()")
        head = {"stage": rec.stage, "stage_index": rec.stage_index, "step": rec.step}
        lines = [json.dumps(plain(head | row), allow_nan=False) for row in rec.rows]
        self._file.write("".join(line + "\n" for line in lines))
        self._file.flush()

    def progress(self, rec: Record) -> None:
        """Nothing: an evaluation is what is logged."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _rows_until(path: Path, last: tuple[int, int]) -> list[str]:
    lines = path.read_text().splitlines()
    kept = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            place = (row["stage_index"], row["step"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            if number == len(lines):  # the process was stopped while it wrote this line
                break
            raise BrokenResult(
                f"{path}: line {number}: expected a JSON object with stage_index and step, "
                f"found {line[:80]!r}"
            ) from error
        if place <= tuple(last):
            kept.append(line)
    return kept
