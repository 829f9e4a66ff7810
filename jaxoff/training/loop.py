"""The training loop: stages, and in each stage chunks. A chunk is one compiled call.

Between chunks Python logs, saves and shows progress; nothing else leaves the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxoff import registry, runtime
from jaxoff.data.edit import digest
from jaxoff.errors import Interrupted, InvalidSetting
from jaxoff.eval import statistics
from jaxoff.files import plain
from jaxoff.logs import JsonLines, Record, Sink
from jaxoff.names import DataOptions
from jaxoff.training import mapping, results
from jaxoff.training.checkpoint import Checkpoints
from jaxoff.training.program import Program, Report
from jaxoff.training.restore import empty_state, load_dataset, state_like
from jaxoff.training.results import Results
from jaxoff.training.spec import Job, TrainSpec, fitted, interval, resolve
from jaxoff.types import Env, Episodes


def train(
    spec: TrainSpec,
    out: Path | None = None,
    sinks: Sequence[Sink] = (),
    data: Episodes | None = None,
    env: Env | None = None,
) -> Results:
    """Train every run of a job in one program per stage, and return its results.

    out: the job's folder; with it the job logs, saves, resumes from its last checkpoint, and is
    read back if it is already complete. data, env: instead of the task's own. Raises a JaxoffError
    for a bad spec or dataset, Interrupted after SIGTERM or SIGINT.
    """
    job = resolve(spec)
    env = registry.make_env(spec.task) if env is None else env
    # what a method refuses, before data and folders are made
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
            return finished
    with jax.default_matmul_precision(spec.precision):
        return _Loop(job, env, data, None if out is None else Path(out), sinks, record).run()


def _describe(job: Job, data: Episodes | None) -> dict[str, Any]:
    """config.json: what was run, on what, by which code."""
    spec = dataclasses.asdict(job.spec)
    config = {f.name: getattr(job.config, f.name) for f in dataclasses.fields(job.config)}
    return spec | {
        "variant": job.spec.label,
        "seeds": list(job.spec.seeds),
        "config": {
            name: np.unique(value).tolist() if hasattr(value, "shape") else value
            for name, value in config.items()
        },
        "sampler_config": {
            f.name: getattr(job.sampler_config, f.name)
            for f in dataclasses.fields(job.sampler_config)
        },
        "num_runs": job.num_runs,
        "data": None
        if data is None
        else {
            "sha256": digest(data),
            "episodes": len(data.filled),
            "steps": int(np.sum(data.filled)),
        },
        "command": runtime.command(),
        "hardware": runtime.hardware(),
        "git_commit": runtime.git_commit(),
        "versions": runtime.versions(),
    }


def _begin(out: Path, record: dict[str, Any]) -> Results | None:
    """Claim the folder: the results if the same job is complete there, an error if it holds another
    job.
    """
    file = out / "config.json"
    if file.exists():
        loose = {
            "command",
            "hardware",
            "git_commit",
            "versions",
            "checkpoint_s",
            "mode",
            "data_dir",
        }
        wanted_record = json.loads(json.dumps(plain(record)))
        held = results.read_json(file)
        for name, wanted, found in _differences(wanted_record, held):
            if name.partition(".")[0] not in loose:
                raise InvalidSetting(
                    f"{file}: field '{name}': expected {wanted!r}, found {found!r}; "
                    "the folder holds another job: choose another, or remove it"
                )
        if (out / "final.json").exists():
            return results.load(out)
    elif jax.process_index() == 0:
        results.write_json(file, record)
    return None


def _differences(
    wanted: dict[str, Any], found: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(field, wanted, found) where two records differ, in order; `config.lr` is a field of a
    field.
    """
    for name, value in wanted.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(dict.fromkeys(other) | value, other, f"{prefix}{name}.")
        elif value != other:
            yield prefix + name, value, other


class _Loop:
    """One job being trained."""

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
        self.sinks, self.record = list(sinks), record
        self.history: dict[str, list[np.ndarray]] = {}
        self.steps: list[int] = []
        self.last: dict[str, np.ndarray] = {}
        self.compile_s, self.elapsed_s, self.updates = 0.0, 0.0, 0
        self.saved_at = time.perf_counter()

    def run(self) -> Results:
        first_stage, first_chunk = 0, 0
        carried = mapping.to_devices((self.job.config, empty_state(self.job)), self.mesh)
        meta = self.checkpoints.meta() if self.checkpoints else None
        if meta:
            first_stage, first_chunk = meta["stage_index"], meta["chunk"]
            self.elapsed_s, self.compile_s, self.updates = (
                meta["elapsed_s"],
                meta["compile_s"],
                meta["updates"],
            )
            self._restore_history(meta)
        if self.out is not None and jax.process_index() == 0:
            self.sinks.insert(
                0,
                JsonLines(
                    self.out / "metrics.jsonl", (first_stage, meta["step"]) if meta else None
                ),
            )
        try:
            for sink in self.sinks:
                sink.start(
                    self.record | {"stages": [(stage.name, stage.steps) for stage in self.stages]}
                )
            with _stop_requests() as stop:
                for index in range(first_stage, len(self.stages)):
                    resumed = bool(meta) and index == first_stage
                    carried = self._stage(
                        index, carried, first_chunk if resumed else 0, resumed, stop
                    )
            return self._finish(carried)
        except BaseException:
            for sink in self.sinks:  # a bar left open would spoil the terminal
                sink.finish({})
            raise

    def _stage(
        self, index: int, carried: Any, chunk: int, resumed: bool, stop: threading.Event
    ) -> Any:
        stage, last = self.stages[index], index == len(self.stages) - 1
        size = interval(stage.steps, self.spec.evaluations if last else stage.reports)
        program = Program(self.job, self.env, index, size, self.mesh, self.mode, evaluates=last)
        carried = self._start_stage(program, carried, resumed)
        if last and not resumed:
            self._keep(0, Report({}, self._call(program.evaluate_now, carried)))
        compiled = self._compile(program.chunk, carried)
        for number in range(chunk, stage.steps // size):
            begin = time.perf_counter()
            with jax.transfer_guard("disallow"):
                carried, report = compiled(carried, self.dataset)
            report = mapping.to_host(report, self.job.num_runs)
            self.elapsed_s += time.perf_counter() - begin
            self.updates += size
            done = (number + 1) * size
            self._report(index, done, report, last, carried)
            # Processes save together and stop together: what any of them wants, all do.
            stopped, due = mapping.anywhere(
                [stop.is_set(), time.perf_counter() - self.saved_at > self.spec.checkpoint_s]
            )
            if stopped or due or (last and done == stage.steps):
                self._save(index, number + 1, done, carried)
            if stopped:
                self._interrupt()
        return carried

    def _start_stage(self, program: Program, carried: Any, resumed: bool) -> Any:
        if not resumed:
            return self._call(program.prepare, carried)
        assert self.checkpoints is not None
        like = state_like(
            self.job,
            self.env,
            self.dataset,
            program.index,
            (self.job.config, empty_state(self.job)),
        )
        return carried[0], mapping.to_devices(self.checkpoints.state(like), self.mesh)

    def _compile(self, function: Any, carried: Any) -> Any:
        begin = time.perf_counter()
        compiled = function.lower(carried, self.dataset).compile()
        self.compile_s += time.perf_counter() - begin
        return compiled

    def _call(self, function: Any, carried: Any) -> Any:
        compiled = self._compile(function, carried)
        begin = time.perf_counter()
        out = jax.block_until_ready(compiled(carried, self.dataset))
        self.elapsed_s += time.perf_counter() - begin
        return out if isinstance(out, tuple) else mapping.to_host(out, self.job.num_runs)

    def _report(self, index: int, done: int, report: Report, last: bool, carried: Any) -> None:
        failed = mapping.to_host(carried[1].failed_at, self.job.num_runs)
        scalars: dict[str, Any] = {f"loss/{name}": value for name, value in report.metrics.items()}
        if last:
            scalars |= self._keep(done, report)
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
        for sink in self.sinks:
            sink.record(entry)

    def _keep(self, done: int, report: Report) -> dict[str, np.ndarray]:
        """Add an evaluation to the history, and return its scalars [R] and probe arrays."""
        evaluation: dict[str, Any] = dict(report.evaluation)
        if not evaluation:  # no simulator in jit: nothing was played
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
        for name, value in report.metrics.items():
            self.history.setdefault(f"loss/{name}", []).append(np.asarray(value))
        return named

    def _save(self, index: int, chunk: int, step: int, carried: Any) -> None:
        if self.checkpoints is None:
            return
        assert self.out is not None
        state = mapping.to_host(carried[1], self.job.num_runs)
        meta = {
            "stage_index": index,
            "chunk": chunk,
            "step": step,
            "kept": len(self.steps),
            "elapsed_s": self.elapsed_s,
            "compile_s": self.compile_s,
            "updates": self.updates,
        }
        if jax.process_index() == 0:
            arrays = {f"history/{name}": np.stack(values) for name, values in self.history.items()}
            results.write_npz(
                self.out / "history.npz",
                arrays
                | {
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

    def _finish(self, carried: Any) -> Results:
        runs, failed = [], mapping.to_host(carried[1].failed_at, self.job.num_runs)
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
        done = Results(
            runs, np.asarray(self.steps), history, self.last["returns"], timing, self.out
        )
        if self.checkpoints:
            self.checkpoints.close()
        if self.out is not None and jax.process_index() == 0:
            results.save(done, self.out)
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


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that the chunk at work is finished and saved
    first.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {
        number: signal.signal(number, lambda *_: event.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
