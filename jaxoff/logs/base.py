"""What is logged, and what a log is. The training loop sees only this."""

from __future__ import annotations

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
