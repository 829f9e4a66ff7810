"""A Ray cluster, one that runs already or one on this machine: each job is a task of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxoff.engines.assignment import CANCELLED, LOST, Assignment, End, carry_out
from jaxoff.errors import Interrupted
from jaxoff.runtime import needs

STOP_S = 60.0  # seconds that jobs have to save before their wait is given up


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the engine."""

    address: str = ""  # of a cluster; "": that of RAY_ADDRESS, one that runs here, or a new one
    num_cpus: int = 1  # cores of each job
    num_gpus: float = 0.0  # GPUs of each job; a part of one is allowed


def make(config: Config) -> Engine:
    """The engine, connected to its cluster."""
    return Engine(config)


class Engine:
    """Sends each job as a task. Ray does not send it again itself: `engines.run` does."""

    def __init__(self, config: Config) -> None:
        with needs("--engine ray"):
            import ray
        self.ray, self.config = ray, config
        self.own = not ray.is_initialized()
        if self.own:
            ray.init(address=config.address or None, log_to_driver=False)
        self.remote = ray.remote(num_cpus=config.num_cpus, num_gpus=config.num_gpus, max_retries=0)(
            _carried_out
        )
        self.open: dict[Any, Assignment] = {}

    def send(self, assignments: Sequence[Assignment]) -> None:
        """Make a task of each assignment."""
        for each in assignments:
            named = self.remote.options(name=each.name)
            self.open[named.remote(each, self.config.num_cpus)] = each

    def ended(self) -> list[End]:
        """Those whose task has ended, one at least."""
        ready, _ = self.ray.wait(list(self.open), num_returns=1)
        return [self._end_of(each) for each in ready]

    def _end_of(self, task: Any) -> End:
        assignment, errors = self.open.pop(task), self.ray.exceptions
        try:
            return End(assignment, *self.ray.get(task))
        except errors.TaskCancelledError as error:
            return End(assignment, CANCELLED, str(error).partition("\n")[0])
        except errors.RayTaskError:  # a fault of the program keeps its traceback
            raise
        except errors.RayError as error:  # its process or its node is gone
            return End(assignment, LOST, type(error).__name__)

    def stop(self) -> None:
        """Interrupt all tasks, which save, and wait for them."""
        for task in self.open:
            self.ray.cancel(task)
        if self.open:
            self.ray.wait(list(self.open), num_returns=len(self.open), timeout=STOP_S)
        if self.own:
            self.ray.shutdown()


def _carried_out(assignment: Assignment, cores: int) -> tuple[str, str]:
    try:
        return carry_out(assignment, cores)
    except Interrupted as stop:
        return LOST, str(stop)
