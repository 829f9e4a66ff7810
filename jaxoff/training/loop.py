"""The training loop: stages of intervals that end with an evaluation, and intervals of chunks.

A chunk is one compiled call of about ten seconds at most. Between chunks, Python shows progress and
saves checkpoints; after an interval it also logs. Nothing else leaves the device.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxoff import registry, runtime
from jaxoff.data.edit import digest
from jaxoff.errors import Interrupted, InvalidSetting
from jaxoff.eval import statistics
from jaxoff.files import plain
from jaxoff.logs import Guarded, JsonLines, Record, Sink
from jaxoff.names import DataOptions
from jaxoff.training import mapping, results
from jaxoff.training.checkpoint import Checkpoints
from jaxoff.training.program import Carried, Program
from jaxoff.training.restore import (
    Restored,
    empty_state,
    load_dataset,
    restore_policy,
    state_like,
)
from jaxoff.training.results import Results
from jaxoff.training.spec import Job, TrainSpec, evaluation_steps, fitted, resolve
from jaxoff.types import Env, Episodes

CHUNK_S = 10.0  # longest duration of a chunk, so that it stops and shows progress in time
CHUNK_UPDATES = 256  # most updates in a chunk, since their draws are made and stored together
# Fields of config.json that may differ between two runs of one job.
LOOSE = {"command", "hardware", "git_commit", "versions", "checkpoint_s", "mode", "data_dir"}


def train(
    spec: TrainSpec,
    out: Path | None = None,
    sinks: Sequence[Sink] = (),
    data: Episodes | None = None,
    env: Env | None = None,
) -> Results:
    """Train every run of a job in one program per stage, and return its results.

    out: the job's folder. If it is given, the job logs and saves there, resumes from its last
    checkpoint, and a job that is already complete is only read. sinks: further logs. data, env:
    episodes and environment that replace the task's own. Raises a JaxoffError for an invalid spec
    or dataset, Interrupted after SIGTERM or SIGINT.
    """
    job = resolve(spec)
    env = registry.make_env(spec.task) if env is None else env
    # A method refuses invalid settings here, before data and folders are made.
    job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec)
    if data is None and not job.acts:
        data = registry.make_data(
            spec.task, DataOptions(spec.data_seed, spec.data_episodes, spec.data_dir)
        )
    job = fitted(job, data)
    record = _describe(job, data)
    if out is not None:
        finished = _begin(Path(out), record)
        if finished is not None:
            policies = functools.partial(restore_policy, out)
            return dataclasses.replace(finished, spec=spec, restore=policies)
    with jax.default_matmul_precision(spec.precision):
        return _Loop(job, env, data, None if out is None else Path(out), sinks, record).run()


def _describe(job: Job, data: Episodes | None) -> dict[str, Any]:
    """The content of config.json: the job, its data and machine, and the version of the code."""
    spec = dataclasses.asdict(job.spec)
    config = {f.name: getattr(job.config, f.name) for f in dataclasses.fields(job.config)}
    return spec | {
        "variant": job.spec.label,
        "seeds": list(job.spec.seeds),
        "config": {
            name: _typed(np.unique(value)) if hasattr(value, "shape") else value
            for name, value in config.items()
        },
        "sampler_config": {
            name: _typed(value) if hasattr(value, "shape") else value
            for name, value in vars(job.sampler_config).items()
        },
        "num_runs": job.num_runs,
        "data": None
        if data is None
        else {
            "sha256": digest(data),
            "episodes": len(data.filled),
            "steps": int(np.sum(data.filled)),
            "longest": int(np.sum(data.filled, 1).max()),
            "individual": data.agent_reward is not None,
        },
        "command": runtime.command(),
        "hardware": runtime.hardware(),
        "git_commit": runtime.git_commit(),
        "versions": runtime.versions(),
    }


def _typed(value: Any) -> Any:
    """Numbers of float32 in their shortest decimal form: .0003 and not .0003000000142."""
    found = np.asarray(value)
    return [float(str(x)) for x in found.ravel()] if found.ndim else float(str(found[()]))


def _begin(out: Path, record: dict[str, Any]) -> Results | None:
    """Claim the folder for this job, and return its results if it is already complete there.

    Raises InvalidSetting if the folder holds another job.
    """
    file = out / "config.json"
    if file.exists():
        wanted_record = json.loads(json.dumps(plain(record)))
        held = results.read_json(file)
        for name, wanted, found in _differences(wanted_record, held):
            # Folders of earlier versions record less about the data.
            if found is None and name in ("data.longest", "data.individual"):
                continue
            if name.partition(".")[0] not in LOOSE:
                raise InvalidSetting(
                    f"{file}: field '{name}': expected {wanted!r}, found {found!r}; "
                    "the folder holds another job: choose another, or remove it"
                )
    elif (out / "final.json").exists():  # config.json was lost
        _check_owner(out / "final.json", results.read_json(out / "final.json").get("job"), record)
    if not file.exists() and jax.process_index() == 0:
        results.write_json(file, record)
    return results.load(out) if (out / "final.json").exists() else None


def identity(record: dict[str, Any]) -> str:
    """SHA-256 that identifies a job: of its config.json without how and where it was run."""
    kept = {name: value for name, value in record.items() if name not in LOOSE}
    return hashlib.sha256(json.dumps(plain(kept), sort_keys=True).encode()).hexdigest()


def _check_owner(file: Path, found: Any, record: dict[str, Any]) -> None:
    """Raise InvalidSetting if `found`, the identity in a file, is that of another job."""
    if found != identity(record):
        raise InvalidSetting(
            f"{file}: expected what this job has written, found what another has; "
            "choose another folder, or remove it"
        )


def _differences(
    wanted: dict[str, Any], found: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(field, wanted, found) for each field in which two records differ, in order.

    Names of nested fields are joined by dots, such as `config.lr`.
    """
    for name, value in wanted.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(dict.fromkeys(other) | value, other, f"{prefix}{name}.")
        elif not _same(value, other):
            yield prefix + name, value, other


def _same(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal; floats are compared as float32."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, float) and isinstance(other, float):
        return bool(np.float32(value) == np.float32(other))
    return bool(value == other)


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
    ) -> None:
        self.job, self.env, self.out, self.spec = job, env, out, job.spec
        self.mesh = mapping.run_mesh(job.num_runs)
        platform = self.mesh.devices.flat[0].platform
        self.mode = mapping.choose_mode(platform) if self.spec.mode == "auto" else self.spec.mode
        self.dataset = load_dataset(job, env, data, NamedSharding(self.mesh, P()))
        self.stages = job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec)
        if job.acts and len(self.stages) > 1:
            names = ", ".join(stage.name for stage in self.stages)
            raise InvalidSetting(
                f"sampler '{self.spec.sampler}': expected a method of one stage, found "
                f"{self.spec.method} with {names}"
            )
        if self.spec.sampler != "uniform" and all(stage.sampler for stage in self.stages):
            raise InvalidSetting(
                f"field 'sampler': expected uniform, since {self.spec.method} draws by "
                f"itself, found '{self.spec.sampler}'"
            )
        self.checkpoints = Checkpoints(out / "checkpoint") if out else None
        self.data = data
        self.sinks: list[Sink] = [Guarded(sink) for sink in sinks]
        self.record = record
        self.history: dict[str, list[np.ndarray]] = {}
        self.steps: list[int] = []
        self.last: dict[str, np.ndarray] = {}
        self.compile_s, self.elapsed_s, self.updates = 0.0, 0.0, 0
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
                _check_owner(self.out / "checkpoint", meta["job"], self.record)
            first_stage = meta["stage_index"]
            self.elapsed_s, self.compile_s, self.updates = (
                meta["elapsed_s"],
                meta["compile_s"],
                meta["updates"],
            )
            self.sums = {name: np.asarray(value) for name, value in meta.get("sums", {}).items()}
            self._restore_history(meta)
        if self.out is not None and jax.process_index() == 0:
            self.sinks.insert(
                0,
                JsonLines(self.out / "metrics.jsonl", self._logged(meta) if meta else None),
            )
        try:
            with self.stop:
                stages = [(stage.name, stage.steps) for stage in self.stages]
                for sink in self.sinks:
                    sink.start(self.record | {"stages": stages})
                for index in range(first_stage, len(self.stages)):
                    at = meta if meta and index == first_stage else None
                    carried = self._stage(index, carried, at)
            return self._finish(carried)
        except BaseException:
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
            for run in range(self.job.num_runs)
        ]

    def _ends(self, index: int) -> list[int]:
        """The numbers of updates after which a stage logs a report."""
        stage, last = self.stages[index], index == len(self.stages) - 1
        return evaluation_steps(stage.steps, self.spec.evaluations if last else stage.reports)

    def _stage(self, index: int, carried: Any, meta: dict[str, Any] | None) -> Carried:
        """Train a stage. meta: metadata of the checkpoint in this stage to resume from, if any."""
        last = index == len(self.stages) - 1
        ends = self._ends(index)
        starts = [0, *ends[:-1]]
        most = max(end - start for start, end in zip(starts, ends, strict=True))
        updates = min(most, CHUNK_UPDATES)
        program = Program(self.job, self.env, index, updates, self.mesh, self.mode, evaluates=last)
        if meta is None:
            carried = self._compiled(program.prepare, carried[:2], self.dataset)
        else:
            carried = self._restored(carried[0], program, meta)
        done, self.chunk_s = meta["step"] if meta else 0, 0.0
        report = self._compile(program.report, carried, (self.dataset, self._number(0)))
        if last and meta is None:
            carried, first = self._timed(report, carried, 0)
            self._keep(0, {}, first)
        chunk = self._compile(program.chunk, carried, (self.dataset, self._number(0)))
        for start, end in zip(starts, ends, strict=True):
            while done < end:
                count = self._chunk_size(min(updates, end - done))
                begin = time.perf_counter()
                carried, metrics = self._timed(chunk, carried, count)
                self.chunk_s = (time.perf_counter() - begin) / count
                done, self.updates = done + count, self.updates + count
                # sums in float64, so that means do not depend on the size of chunks
                for name, value in metrics.items():
                    self.sums[name] = self.sums.get(name, 0.0) + value[:, :count].sum(1, float)
                if done < end:
                    self._between(index, done, carried)
                else:
                    carried, played = self._timed(report, carried, end - start)
                    means = {k: np.float32(v / (end - start)) for k, v in self.sums.items()}
                    self.sums = {}
                    self._report(index, done, means, played, carried)
        return carried

    def _chunk_size(self, most: int) -> int:
        """Updates in the next chunk, from the time per update; the same on all processes."""
        wanted = int(CHUNK_S / self.chunk_s) if self.chunk_s else 16
        return mapping.least(max(1, min(wanted, most)))

    def _number(self, value: int) -> Any:
        return jax.device_put(jnp.int32(value), NamedSharding(self.mesh, P()))

    def _timed(self, function: Any, carried: Carried, count: int) -> tuple[Carried, Any]:
        """Call a compiled function: Carried stays on the device, other results go to the host."""
        begin, number = time.perf_counter(), self._number(count)
        with jax.transfer_guard("disallow"):
            carried, out = jax.block_until_ready(function(carried, (self.dataset, number)))
        out = mapping.to_host(out, self.job.num_runs)
        self.elapsed_s += time.perf_counter() - begin
        return carried, out

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

    def _compile(self, function: Any, *args: Any) -> Any:
        begin = time.perf_counter()
        compiled = function.lower(*args).compile()
        self.compile_s += time.perf_counter() - begin
        return compiled

    def _compiled(self, function: Any, *args: Any) -> Any:
        compiled = self._compile(function, *args)
        begin = time.perf_counter()
        out = jax.block_until_ready(compiled(*args))
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
        failed = mapping.to_host(carried.run.failed_at, self.job.num_runs)
        last = index == len(self.stages) - 1
        scalars = {f"loss/{name}": value for name, value in metrics.items()}
        if last:
            scalars |= self._keep(done, metrics, played)
        rows = []
        for run, (seed, point) in enumerate(zip(self.job.seeds, self.job.points, strict=True)):
            row = {"run": run, "seed": seed, **point} | {
                name: float(value[run]) for name, value in scalars.items() if value.ndim == 1
            }
            rows.append(row | ({"failed_at": int(failed[run])} if failed[run] >= 0 else {}))
        entry = Record(
            stage=self.stages[index].name,
            stage_index=index,
            step=done,
            total=self.stages[index].steps,
            rows=rows,
        )
        own = [sink for sink in self.sinks if isinstance(sink, JsonLines)]
        for lines in own:
            lines.record(entry)
        stopped, due = self._wanted()
        saved = stopped or due or (last and done == self.stages[index].steps)
        if saved:
            self._save(index, done, carried, within=False)
        for sink in self.sinks:
            if sink not in own:
                sink.record(entry)
        if stopped or self._wanted()[0]:  # a stop may have been requested in the meantime
            if not saved:
                self._save(index, done, carried, within=False)
            self._interrupt()

    def _keep(
        self, done: int, metrics: dict[str, np.ndarray], played: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Add an evaluation to the history, and return its scalars [R] and probe arrays."""
        evaluation: dict[str, Any] = dict(played)
        if not evaluation:  # without a simulator in jit no episodes were played
            evaluation = {
                name: np.full((self.job.num_runs, 1), np.nan) for name in ("returns", "lengths")
            }
        returns, lengths = evaluation.pop("returns"), evaluation.pop("lengths")
        named: dict[str, Any] = {
            "return_mean": returns.mean(1),
            "return_std": returns.std(1),
            "length_mean": lengths.mean(1),
        }
        if "won" in evaluation:
            named["win_rate"] = evaluation.pop("won").mean(1)
        named |= evaluation
        if "joint_policy" in evaluation and self.data is not None:
            named["out_of_data"] = statistics.out_of_data(
                evaluation["joint_policy"],
                np.asarray(self.data.actions)[np.asarray(self.data.filled)],
            )
        self.steps.append(done)
        self.last = {"returns": returns, **named}
        for name, value in named.items():
            self.history.setdefault(name, []).append(value)
        for name, value in metrics.items():
            self.history.setdefault(f"loss/{name}", []).append(value)
        return named

    def _save(self, index: int, step: int, carried: Carried, within: bool) -> None:
        """Write a checkpoint; `within` an interval, with the learner's state at its start."""
        if self.checkpoints is None:
            return
        assert self.out is not None
        held = carried[1:] if within else carried.run
        state = mapping.to_host(held, self.job.num_runs)
        meta = {
            "job": identity(self.record),
            "stage_index": index,
            "within": within,
            "step": step,
            "kept": len(self.steps),
            "elapsed_s": self.elapsed_s,
            "compile_s": self.compile_s,
            "updates": self.updates,
            "sums": {name: np.asarray(value).tolist() for name, value in self.sums.items()},
        }
        if jax.process_index() == 0:
            arrays = {f"history/{name}": np.stack(values) for name, values in self.history.items()}
            results.write_npz(
                self.out / "history.npz",
                arrays
                | {
                    "job": np.array(identity(self.record)),
                    "steps": np.asarray(self.steps),
                    **{f"last/{k}": v for k, v in self.last.items()},
                },
            )
        self.checkpoints.save(index * 1_000_000_000 + step, state, meta)
        self.saved_at = time.perf_counter()

    def _restore_history(self, meta: dict[str, Any]) -> None:
        assert self.out is not None
        file = self.out / "history.npz"
        if not file.exists():
            raise FileNotFoundError(f"{file}: expected beside the checkpoint, found none")
        arrays = results.read_npz(file)
        results.check_fields(file, arrays, ("steps",))
        if "job" in arrays:
            _check_owner(file, str(arrays["job"]), self.record)
        # The file may be one evaluation ahead of a checkpoint whose write did not complete.
        self.steps = arrays["steps"].tolist()[: meta["kept"]]
        for name, value in arrays.items():
            if name.startswith("history/"):
                self.history[name.removeprefix("history/")] = list(value)[
                    : len(value) - (len(arrays["steps"]) - meta["kept"])
                ]
        self.last = {
            name.removeprefix("last/"): value
            for name, value in arrays.items()
            if name.startswith("last/")
        }

    def _score(self, value: float) -> float:
        scale = self.env.spec.return_scale
        return float("nan") if scale is None else float(statistics.normalised(value, scale))

    def _interrupt(self) -> None:
        if self.checkpoints:
            self.checkpoints.close()
        hint = (
            f"state saved in {self.out}; give the same command again to continue"
            if self.out
            else "no folder was given, so nothing was saved"
        )
        raise Interrupted(f"stopped on request: {hint}")

    def _finish(self, carried: Carried) -> Results:
        runs, failed = [], mapping.to_host(carried.run.failed_at, self.job.num_runs)
        for run, (seed, point) in enumerate(zip(self.job.seeds, self.job.points, strict=True)):
            values = {
                name: float(value[run])
                for name, value in self.last.items()
                if name != "returns" and value.ndim == 1
            }
            runs.append(
                {"run": run, "seed": seed, "config": point, **values}
                | {"score": self._score(values["return_mean"]), "updates": self.stages[-1].steps}
                | {
                    "wall_s": self.elapsed_s,
                    "failed_at": int(failed[run]) if failed[run] >= 0 else None,
                }
            )
        timing = {
            "compile_s": self.compile_s,
            "train_s": self.elapsed_s,
            "steps_per_s": self.updates * self.job.num_runs / max(self.elapsed_s, 1e-9),
        }
        history = {name: np.stack(values) for name, values in self.history.items()}
        policies: Any = functools.partial(restore_policy, self.out or "")
        if self.out is None:
            last = len(self.stages) - 1
            learner = mapping.to_host(carried.run.learner, self.job.num_runs)
            policies = Restored(self.env, self.job, last, learner, failed, True).policy_and_job
        done = Results(
            runs,
            np.asarray(self.steps),
            history,
            self.last["returns"],
            timing,
            self.out,
            self.spec,
            policies,
        )
        if self.checkpoints:
            self.checkpoints.close()
        if self.out is not None and jax.process_index() == 0:
            results.save(done, self.out, identity(self.record))
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


class Stop:
    """Requests to stop, by SIGTERM or SIGINT.

    At the first request the current chunk is finished and the state is saved; a second request
    stops at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        text = f"saving after this chunk, at most {CHUNK_S + 2:.0f} s; again to stop now\n"
        os.write(2, text.encode())
