"""Checkpoints with orbax: the whole state of every run, so that a killed job resumes bit-exactly.

The state is stored as host arrays [R, ...] without padding, so a job may resume on another number
of devices. If there are several processes, the first one reads and writes, and sends the others
what it has read.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxoff.errors import BrokenResult


class Checkpoints:
    """The checkpoints of one job in a folder, of which only the newest is kept.

    With several processes, every process must call `meta` and `state`.
    """

    def __init__(self, folder: Path) -> None:
        self.manager: ocp.CheckpointManager | None = None
        self.alias: tempfile.TemporaryDirectory[str] | None = None  # holds a link to the folder
        if jax.process_index() > 0:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = place = folder.resolve()
        if not re.fullmatch(r"[\w./ -]*", str(place)):
            # orbax reads [, * and \ in a path as patterns and the like, and would lose arrays
            self.alias = tempfile.TemporaryDirectory(prefix="jaxoff-")
            place = Path(self.alias.name) / "checkpoint"
            place.symlink_to(self.folder)
        several = jax.process_count() > 1
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="jaxoff"
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            create=not several,
            multiprocessing_options=alone if several else ocp.options.MultiprocessingOptions(),
        )
        self.manager = ocp.CheckpointManager(place, options=options)

    def save(self, number: int, state: Any, meta: dict[str, Any]) -> None:
        """Start writing; returns before the file is complete. An unfinished write is never read."""
        if self.manager is not None:
            self.manager.save(
                number,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
                ),
                force=True,
            )

    def meta(self) -> dict[str, Any] | None:
        """The metadata of the newest complete checkpoint, or None."""
        found = None
        if self.manager is not None and self.manager.latest_step() is not None:
            found = self._read(ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        if jax.process_count() == 1:
            return found
        text = np.frombuffer(json.dumps(found).encode(), np.uint8)
        size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
        text = multihost_utils.broadcast_one_to_all(
            text if jax.process_index() == 0 else np.zeros(size, np.uint8)
        )
        return json.loads(np.asarray(text).tobytes())

    def state(self, like: Any) -> Any:
        """The state in the newest complete checkpoint, with the structure of `like`."""
        if self.manager is not None:
            like = self._read(ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]
        return (
            like
            if jax.process_count() == 1
            else jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(like))
        )

    def _read(self, args: Any) -> Any:
        """A part of the newest complete checkpoint.

        Raises BrokenResult where it is damaged, or its structure is that of another job.
        """
        assert self.manager is not None
        step = self.manager.latest_step()
        try:
            return self.manager.restore(step, args=args)
        except (LookupError, TypeError, ValueError) as error:
            raise BrokenResult(
                f"{self.folder / str(step)}: expected a checkpoint of this job, found a "
                f"damaged or different one ({' '.join(str(error).split())[:200]})"
            ) from error

    def close(self) -> None:
        """Wait for unfinished writes."""
        if self.manager is not None:
            self.manager.wait_until_finished()
            self.manager.close()
        if self.alias is not None:
            self.alias.cleanup()
