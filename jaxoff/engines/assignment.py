"""A job and the folder of its results: what engines send, wherever it is done."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxoff import runtime
from jaxoff.engines import marks
from jaxoff.errors import Interrupted, JaxoffError
from jaxoff.training.spec import TrainSpec, resolve

if TYPE_CHECKING:
    from jaxoff.types import Env, Episodes

DONE, FAILED, LOST, CANCELLED = "done", "failed", "lost", "cancelled"


@dataclasses.dataclass(frozen=True, eq=False)
class Assignment:
    """A job, and the folder where its results go.

    data, env: make what replaces the task's own; engines that use other processes need them to be
    picklable. extend: what the folder has is continued to what the job asks for. command, cwd: what
    the user has typed, and where.
    """

    spec: TrainSpec
    folder: Path
    data: Callable[[TrainSpec], Episodes] | None = None
    env: Callable[[TrainSpec], Env] | None = None
    extend: bool = False
    command: str = dataclasses.field(default_factory=runtime.command)
    cwd: str = dataclasses.field(default_factory=os.getcwd)

    @property
    def name(self) -> str:
        """Label and task."""
        return f"{self.spec.label} on {self.spec.task_name}"

    def done(self) -> bool:
        """Whether the folder has the results of this job, so that it is not run again.

        This is the one place that decides so. Raises InvalidSetting if the folder has those of
        another job, and what `resolve` does for settings that can't be used.
        """
        from jaxoff.training import folder

        return folder.finished(resolve(self.spec), self.folder, self.extend)

    def train(self, bar: bool = False) -> None:
        """Train the job, from its last checkpoint if it has one. Raises what `training.train` does.

        bar: show how far the training is.
        """
        from jaxoff.logs import Progress, Sink
        from jaxoff.training import loop

        with marks.marked(self.folder) as watch:
            sinks: list[Sink] = [watch]
            if bar:
                sinks.append(Progress(f"{self.spec.label} {self.spec.task}"))
            data = None if self.data is None else self.data(self.spec)
            env = None if self.env is None else self.env(self.spec)
            loop.train(self.spec, self.folder, sinks, data, env, extend=self.extend)


class End(NamedTuple):
    """How an assignment has ended: done, failed, lost with its process, or cancelled; and why."""

    assignment: Assignment
    state: str
    text: str = ""


def carry_out(assignment: Assignment, cores: int) -> tuple[str, str]:
    """Do an assignment in a process that an engine has for it: the state, and the error if any.

    cores: number of cores, and so of host devices. Raises Interrupted when asked to stop.
    """
    with contextlib.suppress(OSError):  # relative paths of tasks and data lead from there
        os.chdir(assignment.cwd)
    runtime.work_for(assignment.command)
    # Threads of XLA's CPU client: cores of others may be visible, and last digits of sums depend
    # on the number of threads.
    os.environ |= dict.fromkeys(("NPROC", "PJRT_NPROC"), str(cores))
    runtime.setup(cores)
    try:
        if not assignment.done():
            assignment.train()
    except Interrupted:
        raise
    except Exception as error:
        if not isinstance(error, JaxoffError | OSError):
            traceback.print_exc(file=sys.stderr)
        return FAILED, f"{type(error).__name__}: {error}"
    return DONE, ""
