"""metrics.jsonl: one line per run and evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from jaxoff.errors import BrokenResult, naming
from jaxoff.files import plain, write_text
from jaxoff.logs.base import Record


class JsonLines:
    """Append rows {"stage", "stage_index", "step", "run", "seed", ...} to a file, flushed at each
    record.

    resume_from: (stage_index, step, run) of the rows that had been written at the checkpoint from
    which training continues, in order; `start` drops later rows of the file. None starts a new
    file.
    """

    def __init__(
        self, path: str | Path, resume_from: Sequence[tuple[int, int, int]] | None = None
    ) -> None:
        self.path, self.resume_from = Path(path), resume_from
        self._file: TextIO | None = None

    def start(self, info: dict[str, Any]) -> None:
        """Open the file, and on resume keep only the rows of `resume_from`.

        Raises BrokenResult where one of these rows is missing.
        """
        kept = [] if self.resume_from is None else _rows(self.path, self.resume_from)
        with naming(self.path):
            write_text(self.path, "".join(line + "\n" for line in kept))
        self._file = self.path.open("a")

    def record(self, rec: Record) -> None:
        """Write one line per run. Raises RuntimeError before `start`."""
        if self._file is None:
            raise RuntimeError(f"{self.path}: record() before start()")
        head = {"stage": rec.stage, "stage_index": rec.stage_index, "step": rec.step}
        lines = [json.dumps(plain(head | row), allow_nan=False) for row in rec.rows]
        with naming(self.path):
            self._file.write("".join(line + "\n" for line in lines))
            self._file.flush()

    def progress(self, rec: Record) -> None:
        """Do nothing, since only evaluations are logged."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with naming(self.path):
                file.close()


def _rows(path: Path, wanted: Sequence[tuple[int, int, int]]) -> list[str]:
    """The lines of the wanted rows, with which the file must begin."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines, kept = text.splitlines(), []
    for number, place in enumerate(wanted, 1):
        line = lines[number - 1] if number <= len(lines) else ""
        try:
            row = json.loads(line)
            found = (row["stage_index"], row["step"], row["run"])
        except (ValueError, RecursionError, KeyError, TypeError):
            found = None
        if found != place:
            raise BrokenResult(
                f"{path}: line {number}: expected the row of (stage, step, run) {place}, found "
                f"{line[:80]!r}; training can't go on without what it has logged: put back a copy "
                "of the file, or train the job anew with --overwrite"
            )
        kept.append(line)
    return kept
