"""Checkpoints with orbax: the whole state of every run, so that a killed job resumes bit-exactly.

The state is stored as host arrays [R, ...] without padding, so a job may resume on another number
of devices. If there are several processes, the first one reads and writes, and sends the others
what it has read.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxoff.errors import BrokenResult
from jaxoff.training.mapping import from_first
from jaxoff.training.results import broken, check_fields

ROOM = 2**20  # bytes that a checkpoint may need beyond its arrays
META = dict.fromkeys(("stage_index", "step", "kept", "updates"), int) | dict.fromkeys(
    ("elapsed_s", "compile_s"), int | float
)


def _of_others(record: logging.LogRecord) -> bool:
    """Whether a logged error is not orbax's own, which are raised here."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_of_others)


def _but_optimisers(found: Any, like: Any) -> Any:
    """The leaves found in a checkpoint in the structure of `like`, which has those of optimisers
    itself where they are not found. Raises KeyError for any other leaf.
    """
    name = lambda path: tuple(
        str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path
    )
    leaves = {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found)}

    def chosen(path: Any, default: Any) -> Any:
        leaf = leaves.get(name(path))
        if leaf is not None and leaf.shape == default.shape:
            return leaf
        if any(part.endswith(("opt", "opts")) for part in name(path)):
            return default
        raise KeyError(name(path))

    return jax.tree_util.tree_map_with_path(chosen, like)


class Checkpoints:
    """The checkpoints of one job in a folder, of which only the newest is kept.

    With several processes, every process must call `meta` and `state`.
    """

    def __init__(self, folder: Path) -> None:
        self.manager: ocp.CheckpointManager | None = None
        self.alias: tempfile.TemporaryDirectory[str] | None = None  # holds a link to the folder
        if jax.process_index() > 0:
            return
        if folder.exists() and not folder.is_dir():
            raise broken(folder, "a folder of checkpoints", "a file")
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
        """Start writing; returns before the file is complete. An unfinished write is never read.

        Raises OSError where it can't be written, as the write before this one.
        """
        manager = self.manager
        if manager is not None and manager.latest_step() != number:
            self._check_room(sum(np.asarray(x).nbytes for x in jax.tree.leaves(state)) + ROOM)
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            )
            self._written(lambda: manager.save(number, args=args, force=True))

    def meta(self) -> dict[str, Any] | None:
        """The metadata of the newest complete checkpoint, or None.

        Raises BrokenResult where a field is missing or of a wrong type.
        """

        def read() -> dict[str, Any] | None:
            if self.manager is None or self.manager.latest_step() is None:
                return None
            found = self._read(ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            check_fields(self._newest(), found, META, {"within": bool, "sums": dict, "job": str})
            return found

        return from_first(read)

    def state(self, like: Any = None, to_train: bool = True) -> Any:
        """The state in the newest complete checkpoint, with the structure of `like`, by default as
        nested dictionaries.

        to_train: false where optimisers are not used, whose states are as in `like` then if an
        earlier version has stored them in another structure.
        """
        read = lambda like: self._read(ocp.args.Composite(state=ocp.args.StandardRestore(like)))[
            "state"
        ]
        if self.manager is not None:
            try:
                like = read(like)
            except BrokenResult as error:
                if to_train:
                    raise
                try:
                    like = _but_optimisers(read(None), like)
                except LookupError:
                    raise error from None
        return (
            like
            if jax.process_count() == 1
            else jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(like))
        )

    def check(self) -> None:
        """Read the newest complete checkpoint, if any, to see that it is whole; raises BrokenResult
        where it is not.
        """
        if self.manager is not None and self.manager.latest_step() is not None:
            self._read(
                ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
            )

    def _newest(self) -> Path:
        assert self.manager is not None
        return Path(self.manager.directory) / str(self.manager.latest_step())

    def _read(self, args: Any) -> Any:
        """A part of the newest complete checkpoint.

        Raises BrokenResult where it is damaged, or its structure is that of another job. Orbax
        raises errors of many kinds for damaged files.
        """
        assert self.manager is not None
        try:
            return self.manager.restore(self.manager.latest_step(), args=args)
        except Exception as error:
            reason = f"a damaged or different one ({' '.join(str(error).split())[:200]})"
            raise broken(self._newest(), "a checkpoint of this job", reason) from error

    def _check_room(self, wanted: int) -> None:
        """Raise OSError where the disk has not this many bytes, before orbax fails in threads."""
        assert self.manager is not None
        free = shutil.disk_usage(self.manager.directory).free
        if free < wanted:
            reason = f"expected {wanted / 1e6:.1f} MB free on the disk, found {free / 1e6:.1f}"
            raise OSError(f"{self.manager.directory}: checkpoint not written: {reason}")

    def _written(self, write: Callable[[], object]) -> None:
        """Call a function that writes; its errors become an OSError of one line."""
        assert self.manager is not None
        try:
            write()
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise OSError(f"{self.manager.directory}: checkpoint not written: {reason}") from error

    def close(self) -> None:
        """Wait for unfinished writes. Raises OSError where one could not be completed."""
        if self.manager is not None:
            self._written(self.manager.wait_until_finished)
            self.manager.close()
        if self.alias is not None:
            self.alias.cleanup()
