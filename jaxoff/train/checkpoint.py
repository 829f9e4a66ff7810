"""Checkpoints with orbax: the whole state of every run, so that a killed job resumes bit-exactly.

State is kept as host arrays [R, ...] without padding, so a job may resume on another number of devices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints of one job in a folder; the newest is kept. Only the first process writes."""

    def __init__(self, folder: Path) -> None:
        self.writes = jax.process_index() == 0
        multi = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="jaxoff")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            create=jax.process_count() == 1,
            multiprocessing_options=multi if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
        )
        if self.writes:
            folder.mkdir(parents=True, exist_ok=True)
        self.manager = ocp.CheckpointManager(folder.resolve(), options=options) if self.writes or folder.exists() else None

    def save(self, number: int, state: Any, meta: dict[str, Any]) -> None:
        """Start writing; returns before the file is complete. An unfinished write is never read."""
        if self.writes:
            self.manager.save(number, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)), force=True)

    def meta(self) -> dict[str, Any] | None:
        """Meta data of the newest complete checkpoint, or None."""
        if self.manager is None or self.manager.latest_step() is None:
            return None
        return self.manager.restore(self.manager.latest_step(), args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def state(self, like: Any) -> Any:
        """State of the newest complete checkpoint, in the structure of `like`."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        return self.manager.restore(self.manager.latest_step(), args=args)["state"]

    def close(self) -> None:
        """Wait for unfinished writes."""
        if self.manager is not None:
            self.manager.wait_until_finished()
            self.manager.close()
