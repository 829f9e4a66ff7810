"""This machine: jobs one after the other in this process, or in several processes at once."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from jaxoff import runtime
from jaxoff.engines.assignment import DONE, FAILED, LOST, Assignment, End
from jaxoff.engines.marks import failure
from jaxoff.errors import InvalidSetting, JaxoffError

STOPPED = 143  # status of a worker that has saved on request
BROKEN = 2  # status of a worker whose job has failed


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the engine."""

    workers: int = 1  # number of processes; 1: this process, one job after the other
    gpus: int = 0  # number of GPUs that the processes share out; 0: each sees what this one sees


def make(config: Config) -> Here | Workers:
    """The engine; one worker needs no other process."""
    if config.workers < 1:
        raise InvalidSetting(
            f"engine local: field 'workers': expected at least 1, found {config.workers}"
        )
    return Here() if config.workers == 1 else Workers(config)


class Here:
    """Does jobs in this process, with a progress bar each."""

    def __init__(self) -> None:
        self.waiting: deque[Assignment] = deque()

    def send(self, assignments: Sequence[Assignment]) -> None:
        """Take assignments."""
        self.waiting += assignments

    def ended(self) -> list[End]:
        """Do the next assignment. A fault of the program is raised, with its traceback."""
        assignment = self.waiting.popleft()
        try:
            assignment.train(bar=True)
        except JaxoffError as error:
            return [End(assignment, FAILED, f"{type(error).__name__}: {error}")]
        return [End(assignment, DONE)]

    def stop(self) -> None:
        """Forget what waits; a job that runs has heard the request itself."""
        self.waiting.clear()


class Workers:
    """Does each job in a process of its own, some at once, each with its share of the cores.

    A process that dies takes one job with it, which is lost; what it prints is in the job's
    `log.txt`. The workers hold a pipe of this process: they save and end when it is closed, also
    when this process is killed.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.pool = concurrent.futures.ThreadPoolExecutor(config.workers)
        self.open: dict[concurrent.futures.Future[End], Assignment] = {}
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        cores = runtime.cores()
        self.shares: queue.SimpleQueue[tuple[int, list[int]]] = queue.SimpleQueue()
        for worker in range(config.workers):
            mine = cores[worker :: config.workers] or [cores[worker % len(cores)]]
            self.shares.put((worker, mine))

    def send(self, assignments: Sequence[Assignment]) -> None:
        """Take assignments, which wait for a free worker."""
        for assignment in assignments:
            self.open[self.pool.submit(self._do, assignment)] = assignment

    def ended(self) -> list[End]:
        """Those that have ended, one at least."""
        done, _ = concurrent.futures.wait(self.open, return_when="FIRST_COMPLETED")
        return [self._end_of(future) for future in done]

    def _end_of(self, future: concurrent.futures.Future[End]) -> End:
        self.open.pop(future)
        return future.result()

    def stop(self) -> None:
        """Have the workers save and end, and wait for them."""
        self.stopped = True
        for process in list(self.processes):
            _close(process)
        self.pool.shutdown(cancel_futures=True)

    def _do(self, assignment: Assignment) -> End:
        if self.stopped:
            return End(assignment, LOST, "stopped on request")
        worker, cores = self.shares.get()
        try:
            return self._call(assignment, worker, cores)
        finally:
            self.shares.put((worker, cores))

    def _call(self, assignment: Assignment, worker: int, cores: list[int]) -> End:
        """Start a worker for one job, and tell how it has ended."""
        work = pickle.dumps((assignment, cores))
        assignment.folder.mkdir(parents=True, exist_ok=True)
        with (assignment.folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "jaxoff.engines.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | self._gpu(worker),
                start_new_session=True,  # a Ctrl-C is for this process, which passes it on once
            )
        self.processes.add(process)
        try:
            assert process.stdin is not None
            process.stdin.write(work)
            process.stdin.flush()
            if self.stopped:
                _close(process)
            status = process.wait()
        except BrokenPipeError:
            status = process.wait()
        finally:
            self.processes.discard(process)
            _close(process)
        if status == 0:
            return End(assignment, DONE)
        if status < 0 or status == STOPPED:
            why = f"its process ended by signal {-status if status < 0 else STOPPED - 128}"
            return End(assignment, LOST, why)
        told = failure(assignment.folder) or f"its process ended with status {status}"
        return End(assignment, FAILED, f"{told} ({assignment.folder / 'log.txt'})")

    def _gpu(self, worker: int) -> dict[str, str]:
        """What a worker's environment says of its GPU, of which it may have a part only."""
        if not self.config.gpus:
            return {}
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = given.split(",") if given else [str(gpu) for gpu in range(self.config.gpus)]
        names = names[: self.config.gpus]
        share = 0.9 / -(-self.config.workers // len(names))
        return {
            "CUDA_VISIBLE_DEVICES": names[worker % len(names)],
            "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.3f}",
        }


def _close(process: subprocess.Popen[Any]) -> None:
    """Close the pipe that a worker lives by."""
    try:
        if process.stdin is not None:
            process.stdin.close()
    except BrokenPipeError:
        pass
