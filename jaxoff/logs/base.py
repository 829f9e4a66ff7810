"""The records that are logged, and the interface of a log, which is all the training loop knows."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast


class Record(NamedTuple):
    """One evaluation of every run.

    step, total: number of updates so far, and in the whole stage. rows: a dictionary per run,
    {"run": int, "seed": int, name: number}; names are "return_mean", "return_std", "length_mean",
    "win_rate" and "exact_value" (where known), "loss/...". A number that is NaN belongs to a failed
    run, and is logged as missing.
    """

    stage: str
    stage_index: int
    step: int
    total: int
    rows: list[dict[str, Any]]


class Sink(Protocol):
    """A destination of records: start once, record any number of times, finish once."""

    def start(self, info: dict[str, Any]) -> None:
        """Called before training; info: the content of config.json, and of each run its number,
        seed, swept values ("config") and numeric settings, as info["runs"].
        """
        ...

    def record(self, rec: Record) -> None:
        """Called after each evaluation; the first is at step 0 of the last stage."""
        ...

    def progress(self, rec: Record) -> None:
        """Called after each chunk that does not end an interval; `rec` has no rows."""
        ...

    def finish(self, summary: dict[str, Any]) -> None:
        """Called after training with the content of final.json; empty if training was stopped."""
        ...


class Guarded:
    """A sink whose errors can't end a training: the first one is printed and switches it off."""

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
            logging.getLogger("jaxoff").debug("error of %s", name, exc_info=error)

    def start(self, info: dict[str, Any]) -> None:
        """Start the sink."""
        self._try(lambda sink: sink.start(info))

    def data(self, done: int, total: int) -> None:
        """Pass the progress of the dataset to a sink that shows it; see `making`."""
        self._try(lambda sink: cast(Any, sink).data(done, total))

    def record(self, rec: Record) -> None:
        """Pass a record to the sink."""
        self._try(lambda sink: sink.record(rec))

    def progress(self, rec: Record) -> None:
        """Pass progress to the sink."""
        self._try(lambda sink: sink.progress(rec))

    def finish(self, summary: dict[str, Any]) -> None:
        """Finish the sink."""
        self._try(lambda sink: sink.finish(summary))


@contextlib.contextmanager
def making(sinks: Sequence[Sink]) -> Iterator[Callable[[int, int], None] | None]:
    """The progress of a dataset that is made before training, as `DataOptions` takes it.

    It is passed to the sinks that show it, which have a method `data(done, total)`; at the end
    these are finished. None stands for no such sink. Their errors are printed, as Guarded does.
    """
    shown = [Guarded(sink) for sink in sinks if hasattr(sink, "data")]

    def progress(done: int, total: int) -> None:
        for guarded in shown:
            guarded.data(done, total)

    try:
        yield progress if shown else None
    finally:
        for guarded in shown:
            guarded.finish({})
