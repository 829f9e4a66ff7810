"""A Slurm cluster: jobs are sent as an array, through submitit.

Before its time is over, or when a more urgent job takes its place, Slurm sends a job the signal
SIGUSR2. submitit would start the job anew at once; here the training first ends its chunk and
saves, and then has submitit put the job into the queue again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jaxoff.engines.assignment import CANCELLED, FAILED, LOST, Assignment, End, carry_out
from jaxoff.errors import Interrupted, InvalidSetting, MissingProgram
from jaxoff.runtime import needs

REQUEUES = 1000  # times that a job may use up its time limit and go on
GRACE_S = 15.0  # seconds that a result may need to be seen on a shared file system
OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the engine."""

    partition: str = ""  # "": the cluster's default
    time_min: int = 60  # time limit of a job, after which it goes on in another place
    cpus: int = 2  # cores of each job
    gpus: int = 0  # GPUs of each job
    memory_gb: float = 0.0  # memory of each job; 0: the cluster's default
    workers: int = 256  # most jobs of an array that run at once
    account: str = ""  # account that is charged; "": the user's default
    constraint: str = ""  # features that nodes must have
    save_s: int = 90  # seconds between the signal to save and the end of the time
    poll_s: float = 10.0  # seconds between two looks into the queue
    cluster: Literal["slurm", "local"] = "slurm"  # local: submitit's own processes, for a trial


def make(config: Config) -> Engine:
    """The engine. Raises MissingProgram without submitit or Slurm's commands."""
    return Engine(config)


class Sent:
    """What submitit calls: an assignment, which saves before it is put into the queue again."""

    def __init__(self, assignment: Assignment, cores: int) -> None:
        self.assignment, self.cores = assignment, cores

    def __call__(self) -> tuple[str, str]:
        """Do the assignment; after SIGUSR2 hand over to submitit once the state is saved."""
        handler = signal.getsignal(signal.SIGUSR2)
        try:
            return carry_out(self.assignment, self.cores)
        except Interrupted as stop:
            if signal.SIGUSR2 in stop.signals and callable(handler):
                handler(signal.SIGUSR2, None)  # calls `checkpoint` below, and ends the process
            return LOST, str(stop)

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again: the same, which goes on from what is saved."""
        with needs("--engine slurm"):
            from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Engine:
    """Sends arrays, and looks into the queue for jobs that have gone without a result.

    The queue is asked by `squeue`, since not every cluster keeps accounts for `sacct`.
    """

    def __init__(self, config: Config) -> None:
        with needs("--engine slurm"):
            import submitit
        self.submitit, self.config = submitit, config
        self.open: dict[str, tuple[Any, Assignment]] = {}
        self.gone: dict[str, float] = {}  # when a job was first seen to be out of the queue
        self.executors: dict[Path, Any] = {}
        if config.cluster == "slurm":
            _asked("squeue", "--version")

    def send(self, assignments: Sequence[Assignment]) -> None:
        """Send assignments as one array. Raises InvalidSetting while the queue has them already."""
        place = assignments[0].folder.parent
        if place not in self.executors:
            self.executors[place] = self._executor(place)
        sent = [Sent(each, self.config.cpus) for each in assignments]
        executor = self.executors[place]
        with executor.batch():
            jobs = [executor.submit(each) for each in sent]
        for job, assignment in zip(jobs, assignments, strict=True):
            self.open[job.job_id] = job, assignment

    def _executor(self, place: Path) -> Any:
        """submitit's executor, whose files are in the folder `slurm` beside those of the jobs."""
        config = self.config
        made = self.submitit.AutoExecutor(
            place / "slurm", cluster=config.cluster, slurm_max_num_timeout=REQUEUES
        )
        own = {
            "slurm_partition": config.partition,
            "slurm_account": config.account,
            "slurm_constraint": config.constraint,
            "mem_gb": config.memory_gb,
            "gpus_per_node": config.gpus,
        }
        name = f"jaxoff-{hashlib.sha256(str(place).encode()).hexdigest()[:12]}"
        made.update_parameters(
            name=name,
            timeout_min=config.time_min,
            cpus_per_task=config.cpus,
            slurm_array_parallelism=max(1, config.workers),
            slurm_signal_delay_s=config.save_s,
            **{key: value for key, value in own.items() if value},
        )
        if config.cluster == "slurm":
            there = _asked("squeue", "--me", "--noheader", "--array", "--name", name, "-o", "%i")
            if there.split():
                raise InvalidSetting(
                    f"{place}: expected none of its jobs in the queue, found "
                    f"{', '.join(there.split())}; wait until they end, or cancel them by scancel"
                )
        return made

    def ended(self) -> list[End]:
        """Those that have a result, or none and are out of the queue; one at least."""
        while True:
            states = self._states()
            found = [end for key in list(self.open) if (end := self._end_of(key, states))]
            if found:
                return found
            time.sleep(self.config.poll_s)

    def _end_of(self, key: str, states: dict[str, str]) -> End | None:
        """How a job has ended, if it has."""
        job, assignment = self.open[key]
        state = states.get(key, "")
        now = time.monotonic()
        told = _result(job) if job.paths.result_pickle.exists() else (LOST, "")
        if told[0] != LOST:
            found = End(assignment, *told)
        elif state and state not in OVER:
            self.gone.pop(key, None)
            return None
        elif state == "CANCELLED":
            found = End(assignment, CANCELLED, f"job {key} was cancelled")
        elif told[1]:
            found = End(assignment, *told)
        elif now - self.gone.setdefault(key, now) < GRACE_S:
            return None
        else:
            found = End(assignment, LOST, f"job {key} left the queue: {state or 'not there'}")
        del self.open[key]
        self.gone.pop(key, None)
        return found

    def _states(self) -> dict[str, str]:
        """The state of each open job that the queue knows."""
        if self.config.cluster == "local":
            return {
                key: "FAILED" if job.done() else "RUNNING" for key, (job, _) in self.open.items()
            }
        numbers = ",".join(sorted({key.partition("_")[0] for key in self.open}))
        command = ("squeue", "--noheader", "--array", "--states=all", "--jobs", numbers)
        try:
            told = _asked(*command, "-o", "%i|%T")
        except MissingProgram:  # the controller does not answer now
            return dict.fromkeys(self.open, "UNKNOWN")
        return dict(line.strip().split("|") for line in told.splitlines() if "|" in line)

    def stop(self) -> None:
        """Cancel all jobs; those that run save within the time that Slurm gives them."""
        for job, _ in self.open.values():
            job.cancel(check=False)


def _result(job: Any) -> tuple[str, str]:
    """State and text of a job that has ended by itself: what `Sent` returned, or an error."""
    with job.paths.result_pickle.open("rb") as file:
        kind, value = pickle.load(file)
    return value if kind == "success" else (FAILED, str(value).strip().rpartition("\n")[2])


def _asked(*command: str) -> str:
    """What a command of Slurm prints. Raises MissingProgram where there is none."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise MissingProgram(
            f"--engine slurm: expected Slurm's command '{command[0]}' on the path, found none; "
            "give the command on a machine of the cluster"
        ) from None
    if done.returncode and "Invalid job id" not in done.stderr:
        raise MissingProgram(
            f"--engine slurm: expected an answer of {command[0]}, found: {done.stderr.strip()}"
        )
    return done.stdout
