"""The training loop: stages of intervals that end with an evaluation, and intervals of chunks.

A chunk is one compiled call of about ten seconds at most. Between chunks, Python shows progress and
saves checkpoints; after an interval it also logs. Nothing else leaves the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxoff import registry
from jaxoff.data.checks import validate
from jaxoff.errors import Interrupted, InvalidSetting
from jaxoff.eval import statistics
from jaxoff.logs import Guarded, JsonLines, Record, Sink, making
from jaxoff.names import DataOptions
from jaxoff.training import folder, growth, mapping, results
from jaxoff.training.checkpoint import Checkpoints
from jaxoff.training.compiling import Compiler, Stage
from jaxoff.training.history import History
from jaxoff.training.program import Carried, Program
from jaxoff.training.restore import (
    Restored,
    empty_state,
    load_dataset,
    restore_policy,
    state_like,
)
from jaxoff.training.results import Results
from jaxoff.training.spec import Job, TrainSpec, check_stages, evaluation_steps, fitted, resolve
from jaxoff.training.stop import CHUNK_S, Stop
from jaxoff.types import Env, Episodes

CHUNK_UPDATES = 256  # most updates in a chunk, since their draws are made and stored together


def train(
    spec: TrainSpec,
    out: Path | None = None,
    sinks: Sequence[Sink] = (),
    data: Episodes | None = None,
    env: Env | None = None,
    *,
    extend: bool = False,
    overwrite: bool = False,
) -> Results:
    """Train every run of a job in one program per stage, and return its results.

    out: the job's folder. If it is given, the job logs and saves there, resumes from its last
    checkpoint, and a job that is already complete is only read. sinks: further logs. data, env:
    episodes and environment that replace the task's own. extend: a job in the folder that has fewer
    updates, or fewer runs, is continued to those of the spec. overwrite: what is in the folder is
    replaced. Raises a JaxoffError for an invalid spec or dataset, or a folder of another job;
    Interrupted after SIGTERM or SIGINT; OSError where results can't be written.
    """
    if extend and overwrite:
        raise InvalidSetting("'extend' and 'overwrite': expected one of the two, found both")
    if out is None and (extend or overwrite):
        raise InvalidSetting("'extend' and 'overwrite': expected with a folder, found none")
    job = resolve(spec)
    env = spec.environment() if env is None else env
    # A method refuses invalid settings here, before data and folders are made.
    check_stages(job, env.spec)
    if job.acts and data is not None:
        raise InvalidSetting(f"'data': expected none with sampler '{spec.sampler}', found episodes")
    if data is None and not job.acts:
        options = DataOptions(spec.data_seed, spec.data_episodes, spec.data_dir)
        with making(sinks) as progress:
            data = registry.make_data(spec.task, options._replace(progress=progress))
    if data is not None:  # refused before the folder is written
        data = validate(data, env.spec, spec.task_name, spec.obs_dtype)
    job = fitted(job, data)
    with jax.default_matmul_precision(spec.precision):
        if out is None:
            return _Loop(job, env, data, None, sinks, folder.describe(job, data, env), []).run()
        only = jax.process_index() == 0
        with folder.locked(Path(out)) if only else contextlib.nullcontext(False) as certain:
            return _in_folder(job, env, data, Path(out), sinks, (extend, overwrite, certain))


def _in_folder(
    job: Job,
    env: Env,
    data: Episodes | None,
    out: Path,
    sinks: Sequence[Sink],
    how: tuple[bool, bool, bool],
) -> Results:
    """Train what a folder lacks of a job; how: to extend, to overwrite, whether it is locked."""
    extend, overwrite, certain = how
    record = folder.describe(job, data, env)
    stages = job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec)
    last = (len(stages) - 1) * folder.STAGE + stages[-1].steps

    def planned() -> dict[str, Any]:
        folder.clean(out, certain)
        return folder.plan(out, record, extend, overwrite)._asdict()

    plan = folder.Plan(**mapping.from_first(planned))
    here, added = plan.jobs(job)
    if plan.steps is not None:
        growth.check_schedules(here, plan.steps, env, data)
        mapping.from_first(lambda: growth.check_held(out))
    mapping.from_first(lambda: folder.begin(out, plan, overwrite))
    if mapping.from_first(lambda: folder.complete(out, plan.record, last)):
        mapping.from_first(lambda: (out / "history.npz").unlink(missing_ok=True))
    else:
        held = plan.record
        if not plan.writes:
            held = mapping.from_first(lambda: folder.resumed(out, plan.record, record))
        done = _Loop(here, env, data, out, sinks, held, plan.owners).run()
        if added is None:
            return done
    if added is not None and plan.grown is not None:
        grown, place = plan.grown, out / results.ADDED
        mapping.from_first(lambda: folder.begin_added(out, grown, last))
        if not mapping.from_first(lambda: folder.complete(place, grown, last)):
            own = [folder.identity(grown)]
            _Loop(added, env, data, place, sinks, grown, own).run()
        growth.add(out, grown, (here, added), env, load_dataset(job, env, data))
    policies = functools.partial(restore_policy, out)
    return dataclasses.replace(results.load(out), spec=job.spec, restore=policies)


class _Loop:
    """The state of one job while it is trained."""

    def __init__(
        self,
        job: Job,
        env: Env,
        data: Episodes | None,
        out: Path | None,
        sinks: Sequence[Sink],
        record: dict[str, Any],
        owners: list[str],
    ) -> None:
        """record: the content of config.json. owners: the identities of jobs whose files are this
        job's, in addition to its own.
        """
        self.job, self.env, self.out, self.spec = job, env, out, job.spec
        self.mesh = mapping.run_mesh(job.num_runs)
        platform = self.mesh.devices.flat[0].platform
        self.mode = mapping.choose_mode(platform) if self.spec.mode == "auto" else self.spec.mode
        self.dataset = load_dataset(job, env, data, NamedSharding(self.mesh, P()))
        self.stages = job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec)
        self.checkpoints = Checkpoints(out / "checkpoint") if out else None
        self.sinks: list[Sink] = [Guarded(sink) for sink in sinks]
        self.record, self.identity = record, folder.identity(record)
        self.owners = [self.identity, *owners]
        self.history = History(job.num_runs, data)
        name = f"{self.spec.method} on {self.spec.task}"
        self.compiler = Compiler(self.mesh, job.num_runs, name)
        self.elapsed_s, self.updates = 0.0, 0
        self.saved_at = time.perf_counter()
        self.chunk_s = 0.0  # seconds per update in the last chunk
        self.sums: dict[str, Any] = {}  # sums of metrics over this interval's updates, [R] float64
        self.stop = Stop()

    def run(self) -> Results:
        first_stage = 0
        carried: Any = mapping.to_devices((self.job.config, empty_state(self.job)), self.mesh)
        meta = self.checkpoints.meta() if self.checkpoints else None
        if meta:
            assert self.out is not None
            if "job" in meta:  # folders of earlier versions lack it
                folder.check_owner(self.out / "checkpoint", meta["job"], self.owners)
            first_stage = meta["stage_index"]
            self.elapsed_s, self.updates = meta["elapsed_s"], meta["updates"]
            self.compiler.seconds = meta["compile_s"]
            self.sums = {name: np.asarray(value) for name, value in meta.get("sums", {}).items()}
            self.history.restore(self.out, meta["kept"], self.owners)
        if self.out is not None and jax.process_index() == 0:
            self.sinks.insert(
                0,
                JsonLines(self.out / "metrics.jsonl", self._logged(meta) if meta else None),
            )
        try:
            with self.stop:
                stages = [(stage.name, stage.steps) for stage in self.stages]
                told = zip(self.job.runs, self.job.settings, strict=True)
                runs = [about | {"settings": settings} for about, settings in told]
                for sink in self.sinks:
                    sink.start(self.record | {"stages": stages, "runs": runs})
                programs = [self._program(index) for index in range(len(self.stages))]
                shared = self.dataset, self._number(0)
                compiled = self.compiler.stages(programs, carried, shared, first_stage, bool(meta))
                for program, made in zip(programs[first_stage:], compiled, strict=True):
                    at = meta if program.index == first_stage else None
                    carried = self._stage(program, made, carried, at)
            return self._finish(carried)
        except BaseException:
            self.compiler.close()
            for sink in self.sinks:  # a progress bar that stays open would spoil the terminal
                sink.finish({})
            if self.checkpoints:  # a write that has begun is completed, not left to a later run
                self.checkpoints.close()
            raise

    def _logged(self, meta: dict[str, Any]) -> list[tuple[int, int, int]]:
        """(stage, step, run) of every row that metrics.jsonl must have at a checkpoint."""
        return [
            (index, step, run)
            for index in range(meta["stage_index"] + 1)
            for step in self._ends(index)
            if (index, step) <= (meta["stage_index"], meta["step"])
            for run in range(self.job.first, self.job.first + self.job.num_runs)
        ]

    def _ends(self, index: int) -> list[int]:
        """The numbers of updates after which a stage logs a report."""
        stage = self.stages[index]
        if index == len(self.stages) - 1:
            return self.job.ends(stage.steps)
        return evaluation_steps(stage.steps, stage.reports)

    def _program(self, index: int) -> Program:
        """The functions of a stage."""
        starts_and_ends = [0, *self._ends(index)]
        updates = min(CHUNK_UPDATES, int(np.diff(starts_and_ends).max()))
        last = index == len(self.stages) - 1
        return Program(self.job, self.env, index, updates, self.mesh, self.mode, evaluates=last)

    def _stage(
        self, program: Program, made: Stage, carried: Any, meta: dict[str, Any] | None
    ) -> Carried:
        """Train a stage. meta: metadata of the checkpoint in this stage to resume from, if any."""
        index, ends = program.index, self._ends(program.index)
        starts, last = [0, *ends[:-1]], index == len(self.stages) - 1
        if meta is not None:
            carried = self._restored(carried[0], program, meta)
        else:
            assert made.prepare is not None
            carried = self._prepared(self.compiler.made(made.prepare), carried)
        done, self.chunk_s = meta["step"] if meta else 0, 0.0
        report = self.compiler.made(made.report) if made.report else None
        if last and meta is None:
            self._begin(index, self.history.keep(0, {}, self._played(report, carried)), carried)
        chunk, keep = self.compiler.made(made.chunk), self.compiler.made(made.keep)
        for start, end in zip(starts, ends, strict=True):
            if done >= end:  # an interval before the checkpoint
                continue
            while done < end:
                count = self._chunk_size(min(program.updates, end - done))
                begin = time.perf_counter()
                carried, (metrics, finite) = self._timed(chunk, carried, count)
                self.chunk_s = (time.perf_counter() - begin) / count
                done, self.updates = done + count, self.updates + count
                # sums in float64, so that means do not depend on the size of chunks
                for name, value in metrics.items():
                    self.sums[name] = self.sums.get(name, 0.0) + value[:, :count].sum(1, float)
                if done < end:
                    self._between(index, done, carried)
            carried = self._settled(program, keep, carried, finite, end - start)
            played = self._played(report, carried) if last else {}
            means = {k: np.float32(v / (end - start)) for k, v in self.sums.items()}
            self.sums = {}
            self._report(index, done, means, played, carried)
        return carried

    def _begin(self, index: int, scalars: dict[str, Any], carried: Carried) -> None:
        """Tell the sinks of the evaluation before the first update, unless training is to stop.

        metrics.jsonl has the evaluations after it only.
        """
        entry = self._record(index, 0, scalars, carried)
        for sink in self.sinks:
            if not (self.stop.requested or isinstance(sink, JsonLines)):
                sink.record(entry)

    def _settled(
        self, program: Program, keep: Any, carried: Carried, finite: Any, count: int
    ) -> Carried:
        """All runs at the end of an interval of `count` updates: finite, or back at its start."""
        if finite.all():
            return keep(carried)
        # A padded run is a copy of the last one.
        shared = mapping.to_devices(finite, self.mesh), self._number(count)
        return self.compiler.now(program.mend, carried, *shared)(carried, *shared)

    def _chunk_size(self, most: int) -> int:
        """Updates in the next chunk, from the time per update; the same on all processes."""
        wanted = int(CHUNK_S / self.chunk_s) if self.chunk_s else 16
        return mapping.least(max(1, min(wanted, most)))

    def _number(self, value: int) -> Any:
        return jax.device_put(np.int32(value), NamedSharding(self.mesh, P()))

    def _timed(self, chunk: Any, carried: Carried, count: int) -> tuple[Carried, Any]:
        """Call a compiled chunk: Carried stays on the device, other results go to the host."""
        begin, number = time.perf_counter(), self._number(count)
        with jax.transfer_guard("disallow"):
            carried, out = jax.block_until_ready(chunk(carried, (self.dataset, number)))
        out = mapping.to_host(out, self.job.num_runs)
        self.elapsed_s += time.perf_counter() - begin
        return carried, out

    def _played(self, report: Any, carried: Carried) -> dict[str, Any]:
        """An evaluation of all runs; nothing where the environment is a simulator on the host."""
        if report is None:
            return {}
        begin = time.perf_counter()
        with jax.transfer_guard("disallow"):
            out = jax.block_until_ready(report(carried, ()))
        out = mapping.to_host(out, self.job.num_runs)
        self.elapsed_s += time.perf_counter() - begin
        return out

    def _between(self, index: int, done: int, carried: Carried) -> None:
        """After a chunk within an interval: show progress, and save or stop if it is time to."""
        stage = self.stages[index]
        entry = Record(stage.name, index, done, stage.steps, [])
        for sink in self.sinks:
            sink.progress(entry)
        stopped, due = self._wanted()
        if stopped or due:
            self._save(index, done, carried, within=True)
        if stopped:
            self._interrupt()

    def _wanted(self) -> tuple[bool, bool]:
        """Whether to stop, and whether to save: all processes do so as soon as one wants to."""
        due = time.perf_counter() - self.saved_at > self.spec.checkpoint_s
        stopped, due = mapping.anywhere([self.stop.requested, due])
        return stopped, due

    def _restored(self, config: Any, program: Program, meta: dict[str, Any]) -> Carried:
        """The state in a checkpoint, copied to the devices."""
        assert self.checkpoints is not None
        within = meta.get("within", False)
        like = state_like(self.job, self.env, self.dataset, program.index, within)
        held = self.checkpoints.state(like)
        if within:
            return Carried(config, *mapping.to_devices(held, self.mesh))
        run = mapping.to_devices(held, self.mesh)
        return Carried(config, run, jax.tree.map(jnp.copy, run.learner))

    def _prepared(self, prepare: Any, carried: Any) -> Carried:
        """All runs at the start of a stage."""
        begin = time.perf_counter()
        out = jax.block_until_ready(prepare(carried[:2], self.dataset))
        self.elapsed_s += time.perf_counter() - begin
        return out

    def _report(
        self,
        index: int,
        done: int,
        metrics: dict[str, Any],
        played: dict[str, Any],
        carried: Carried,
    ) -> None:
        """Log an interval.

        If training is to stop, its state is saved after metrics.jsonl is written but before other
        sinks are called, since these may fail or be slow.
        """
        last = index == len(self.stages) - 1
        scalars = {f"loss/{name}": value for name, value in metrics.items()}
        if last:
            scalars |= self.history.keep(done, metrics, played)
        entry = self._record(index, done, scalars, carried)
        own = [sink for sink in self.sinks if isinstance(sink, JsonLines)]
        for lines in own:
            lines.record(entry)
        stopped, due = self._wanted()
        # The last checkpoint is written after the results.
        saved = stopped or (due and not (last and done == self.stages[index].steps))
        if saved:
            self._save(index, done, carried, within=False)
        for sink in self.sinks:
            if sink not in own:
                sink.record(entry)
        if stopped or self._wanted()[0]:  # a stop may have been requested in the meantime
            if not saved:
                self._save(index, done, carried, within=False)
            self._interrupt()

    def _record(self, index: int, done: int, scalars: dict[str, Any], carried: Carried) -> Record:
        """A record of all runs, with those scalars that are one number per run."""
        failed, rows = mapping.to_host(carried.run.failed_at, self.job.num_runs), []
        for k, about in enumerate(self.job.runs):
            row = {"run": about["run"], "seed": about["seed"], **about["config"]} | {
                name: float(value[k]) for name, value in scalars.items() if value.ndim == 1
            }
            rows.append(row | ({"failed_at": int(failed[k])} if failed[k] >= 0 else {}))
        stage = self.stages[index]
        return Record(stage.name, index, done, stage.steps, rows)

    def _save(self, index: int, step: int, carried: Carried, within: bool) -> None:
        """Write a checkpoint; `within` an interval, with the learner's state at its start."""
        if self.checkpoints is None:
            return
        assert self.out is not None
        if jax.process_index() == 0:
            results.write_npz(self.out / "history.npz", self.history.arrays(self.identity))
        self._save_state(index, step, carried, within)

    def _save_state(self, index: int, step: int, carried: Carried, within: bool = False) -> None:
        """Write a checkpoint without the history of evaluations that belongs to it."""
        if self.checkpoints is None:
            return
        held = carried[1:] if within else carried.run
        state = mapping.to_host(held, self.job.num_runs)
        meta = {
            "job": self.identity,
            "stage_index": index,
            "within": within,
            "step": step,
            "kept": len(self.history.steps),
            "elapsed_s": self.elapsed_s,
            "compile_s": self.compiler.seconds,
            "updates": self.updates,
            "sums": {name: np.asarray(value).tolist() for name, value in self.sums.items()},
        }
        self.checkpoints.save(index * folder.STAGE + step, state, meta)
        self.saved_at = time.perf_counter()

    def _score(self, value: float) -> float:
        scale = self.env.spec.return_scale
        return float("nan") if scale is None else float(statistics.normalised(value, scale))

    def _interrupt(self) -> None:
        if self.checkpoints:
            self.checkpoints.close()
        hint = (
            f"state saved in {self.out}; give the same command again to continue, without "
            "--overwrite"
            if self.out
            else "no folder was given, so nothing was saved"
        )
        error = Interrupted(f"stopped on request: {hint}")
        error.signals = tuple(self.stop.received)
        raise error

    def _finish(self, carried: Carried) -> Results:
        """Write the results, and then the last checkpoint, which may be large."""
        runs, failed = [], mapping.to_host(carried.run.failed_at, self.job.num_runs)
        for k, about in enumerate(self.job.runs):
            values = self.history.final(k)
            runs.append(
                {**about, **values}
                | {"score": self._score(values["return_mean"]), "updates": self.stages[-1].steps}
                | {
                    "wall_s": self.elapsed_s,
                    "failed_at": int(failed[k]) if failed[k] >= 0 else None,
                }
            )
        timing = {
            "compile_s": self.compiler.seconds,
            "train_s": self.elapsed_s,
            "steps_per_s": self.updates * self.job.num_runs / max(self.elapsed_s, 1e-9),
        }
        kept = self.history
        policies: Any = functools.partial(restore_policy, self.out or "")
        if self.out is None:
            last = len(self.stages) - 1
            learner = mapping.to_host(carried.run.learner, self.job.num_runs)
            policies = Restored(
                self.env, self.env.spec, self.job, last, learner, failed, True
            ).policy_and_job
        done = Results(
            runs,
            np.asarray(kept.steps),
            kept.stacked(),
            kept.returns,
            timing,
            self.out,
            self.spec,
            policies,
        )
        if self.out is not None and jax.process_index() == 0:
            results.save(done, self.out, self.identity)
        self._save_state(len(self.stages) - 1, self.stages[-1].steps, carried)
        if self.checkpoints:
            self.checkpoints.close()
        if self.out is not None and jax.process_index() == 0:
            (self.out / "history.npz").unlink(missing_ok=True)
        for sink in self.sinks:
            sink.finish(
                {
                    "runs": runs,
                    "timing": timing,
                    "path": None if self.out is None else str(self.out),
                }
            )
        return done
