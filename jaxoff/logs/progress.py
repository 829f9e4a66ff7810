"""A progress bar in a terminal or a notebook; elsewhere a plain line for every tenth of a stage."""

from __future__ import annotations

import importlib.util
import time
from datetime import timedelta
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from jaxoff.eval.statistics import finite, was_played
from jaxoff.logs.base import Record

AT_ONCE = 1e-2  # seconds; records that are closer in time give no speed


class Progress:
    """Shows stage, share done, updates per second, time left, and the current return over runs.

    title: text before the bar. console: by default the error stream, so that the standard output
    has only a command's results. unit: the unit of a record's `step`.
    """

    def __init__(self, title: str, console: Console | None = None, unit: str = "updates") -> None:
        self.title, self.console, self.unit = title, console or Console(stderr=True), unit
        self._data: Progress | None = None  # the bar of the dataset that is made before training
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._stage: int | None = None
        self._tenth = 0
        self._last = (0, time.perf_counter())  # step and time of the previous record

    def start(self, info: dict[str, Any]) -> None:
        """Draw the bar."""
        self._last = (0, time.perf_counter())
        widgets = self.console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        if self.console.is_terminal or widgets:
            columns = (
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.fields[speed]}", markup=False),
                TextColumn("{task.fields[score]}", markup=False),
            )
            self._bar = Bar(*columns, console=self.console)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=None, speed="compiling", score="")

    def record(self, rec: Record) -> None:
        """Move the bar, or write a line if another tenth of the stage is done."""
        if rec.rows and not rec.step:  # before the first update, whose program is still compiled
            return
        new_stage = rec.stage_index != self._stage
        speed = self._speed(rec, new_stage)
        label, score = f"{self.title} {rec.stage}", score_text(rec)
        if self._bar is not None and self._task is not None:
            if new_stage and self._stage is not None:
                self._bar.stop_task(self._task)
                self._task = self._bar.add_task(label, total=rec.total, speed="", score="")
            self._bar.update(
                self._task,
                description=label,
                total=rec.total,
                completed=rec.step,
                speed=speed,
                score=score,
            )
        elif new_stage or _tenth(rec) > self._tenth:
            share = f"{rec.step}/{rec.total} ({100 * rec.step // max(rec.total, 1)}%)"
            line = "  ".join(part for part in (label, share, speed, score) if part)
            self.console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._tenth = _tenth(rec)
        self._stage = rec.stage_index

    def progress(self, rec: Record) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None and rec.stage_index == self._stage:
            self._bar.update(self._task, completed=rec.step)

    def data(self, done: int, total: int) -> None:
        """Show how many episodes of the dataset are made, before the training starts."""
        if self._data is None:
            self._data = Progress(f"{self.title} data", self.console, "episodes")
            self._data.start({})
        self._data.record(Record("", 0, done, total, []))

    def finish(self, summary: dict[str, Any]) -> None:
        """Stop the bar, and leave it on the screen as it is."""
        if self._data is not None:
            self._data.finish({})
            self._data = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _speed(self, rec: Record, new_stage: bool) -> str:
        now = time.perf_counter()
        step, clock = (0, self._last[1]) if new_stage else self._last
        self._last = (rec.step, now)
        # The time of a stage's first record includes compilation, and after a resume its first step
        # is unknown; records that are read back come at once.
        if new_stage or now - clock < AT_ONCE or rec.step <= step:
            return ""
        per_s = (rec.step - step) / (now - clock)
        left = timedelta(seconds=round((rec.total - rec.step) / per_s))
        return f"{per_s:,.0f} {self.unit}/s, {left} left"


def score_text(rec: Record) -> str:
    """Mean and standard deviation of the return over runs, and the number of failed runs, if any.

    A failed run has met a number that is not finite.
    """
    if not any("return_mean" in row for row in rec.rows):
        return ""
    alive = [row for row in rec.rows if "failed_at" not in row]
    count = len(rec.rows) - len(alive)
    failed = f", {count} of {len(rec.rows)} runs failed" if count else ""
    kept = finite(np.array([row["return_mean"] for row in alive], np.float64))
    if len(kept) == 0:
        if any(map(was_played, alive)):
            return f"returns that are not finite{failed}"
        return f"{'no simulator' if alive else 'no return'}{failed}"
    spread = f" ± {kept.std(ddof=1):.3f}" if len(kept) > 1 else ""
    return f"return {kept.mean():.3f}{spread}{failed}"


def _tenth(rec: Record) -> int:
    return 10 * rec.step // max(rec.total, 1)
