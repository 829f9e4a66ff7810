"""What is logged, and what a log is. The training loop sees only this."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class Record(NamedTuple):
    """One evaluation of every run.

    step of total updates in the stage. rows: a dictionary per run, {"run": int, "seed": int, name:
    number}; names are "return_mean", "return_std", "length_mean", "win_rate" and "exact_value"
    (where known), "loss/...". A number that is NaN belongs to a lost run, and is logged as missing.
    """

    stage: str
    stage_index: int
    step: int
    total: int
    rows: list[dict[str, Any]]


class Sink(Protocol):
    """Where records go: start once, any number of records, finish once."""

    def start(self, info: dict[str, Any]) -> None:
        """Before training; info is what config.json holds."""
        ...

    def record(self, rec: Record) -> None:
        """After each evaluation."""
        ...

    def progress(self, rec: Record) -> None:
        """After each chunk that ends no interval; `rec` has no rows."""
        ...

    def finish(self, summary: dict[str, Any]) -> None:
        """After training; summary is what final.json holds, or empty if training was stopped."""
        ...


class Guarded:
    """A sink that can't end a training: at its first error it is named, and asked no more."""

    def __init__(self, sink: Sink) -> None:
        self.sink: Sink | None = sink

    def _try(self, call: Callable[[Sink], None]) -> None:
        if self.sink is None:
            return
        try:
            call(self.sink)
        except Exception as error:
            name = type(self.sink).__name__
            self.sink = None
            print(f"jaxoff: {name} is switched off, training goes on: {error!r}", file=sys.stderr)

    def start(self, info: dict[str, Any]) -> None:
        """Start the sink."""
        self._try(lambda sink: sink.start(info))

    def record(self, rec: Record) -> None:
        """Pass a record on."""
        self._try(lambda sink: sink.record(rec))

    def progress(self, rec: Record) -> None:
        """Pass progress on."""
        self._try(lambda sink: sink.progress(rec))

    def finish(self, summary: dict[str, Any]) -> None:
        """Finish the sink."""
        self._try(lambda sink: sink.finish(summary))
