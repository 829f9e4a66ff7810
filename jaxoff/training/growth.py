"""Jobs that grow: more updates where no schedule depends on their number, and more runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxoff.errors import InvalidSetting
from jaxoff.files import write_text
from jaxoff.training import folder, mapping, results
from jaxoff.training.checkpoint import Checkpoints
from jaxoff.training.program import Program
from jaxoff.training.restore import empty_state, load_dataset, state_like
from jaxoff.training.spec import Job
from jaxoff.types import Env, Episodes


def check_schedules(job: Job, steps: int, env: Env, data: Episodes | None) -> None:
    """Raise InvalidSetting if the updates of a job depend on how many of them there are in all.

    The job's programs are lowered for its own number of updates and for the former one, `steps`.
    They are the same unless a schedule, a budget or a stage follows from that number.
    """
    before = dataclasses.replace(job, config=job.config.replace(steps=steps))
    shapes = jax.eval_shape(lambda x: x, load_dataset(job, env, data))
    for now, then in zip(_programs(job, env, shapes), _programs(before, env, shapes), strict=True):
        if now != then:
            raise InvalidSetting(
                f"field 'steps': expected {steps}, the number that the folder was trained for, "
                f"found {job.config.steps}; {job.spec.method} can't be extended with these "
                "settings, since a schedule depends on the number of updates: "
                f"{folder.ANEW}"
            )


def check_held(out: Path) -> None:
    """Raise BrokenResult if a job can't be extended, since its checkpoint can't be read."""
    with contextlib.closing(Checkpoints(out / "checkpoint")) as held:
        held.check()


def _programs(job: Job, env: Env, shapes: Any) -> Iterator[str]:
    """The text of every program of a job."""
    mesh = mapping.run_mesh(1, jax.local_devices()[:1])
    carried: Any = (job.config, empty_state(job))
    stages = job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec)
    count = jax.ShapeDtypeStruct((), np.int32)
    for index, stage in enumerate(stages):
        last = index == len(stages) - 1
        program = Program(job, env, index, 1, mesh, "sequence", evaluates=last)
        yield f"{len(stages)} {stage.name} {None if last else stage.steps}"
        yield program.prepare.lower(carried[:2], shapes).as_text()
        carried = jax.eval_shape(program.prepare, carried[:2], shapes)
        yield program.chunk.lower(carried, (shapes, count)).as_text()


def add(out: Path, record: dict[str, Any], jobs: tuple[Job, Job], env: Env, dataset: Any) -> None:
    """Add the finished runs in out/added to the finished job in `out`; record: its new config.json.

    The files of the job with all its runs are written apart, and then take the places of the old
    ones. If the process is killed in between, the next command for the folder completes that.
    """
    first, places = jax.process_index() == 0, (out, out / results.ADDED)
    new = out / results.ADDED / "all"  # not complete before it is moved
    if first:
        shutil.rmtree(new, ignore_errors=True)
    states, metas = zip(
        *(_held(*x, env, dataset) for x in zip(places, jobs, strict=True)), strict=True
    )
    total = {name: metas[0][name] + metas[1][name] for name in ("elapsed_s", "compile_s")}
    meta = metas[0] | total | {"job": folder.identity(record)}
    together = Checkpoints(new / "checkpoint")
    state = jax.tree.map(lambda *x: np.concatenate(x), *states)
    together.save(meta["stage_index"] * folder.STAGE + meta["step"], state, meta)
    together.close()
    if first:
        _write(new, places, record, [job.num_runs for job in jobs], metas)
        new.replace(out / results.MERGED)
        folder.complete_addition(out)
    mapping.anywhere([True])  # the other processes wait


def _held(place: Path, job: Job, env: Env, dataset: Any) -> tuple[Any, dict[str, Any]]:
    """The state and the metadata of a job's last checkpoint."""
    checkpoints = Checkpoints(place / "checkpoint")
    meta = checkpoints.meta()
    assert meta is not None
    state = checkpoints.state(state_like(job, env, dataset, meta["stage_index"], within=False))
    checkpoints.close()
    return state, meta


def _write(
    new: Path,
    places: tuple[Path, Path],
    record: dict[str, Any],
    sizes: list[int],
    metas: tuple[dict[str, Any], ...],
) -> None:
    """Write the results of two jobs as those of one."""
    rows = [pair for place in places for pair in results.read_rows(place / "metrics.jsonl")]
    rows.sort(key=lambda pair: tuple(pair[1][name] for name in ("stage_index", "step", "run")))
    write_text(new / "metrics.jsonl", "".join(f"{line}\n" for line, _ in rows))
    old, extra = (results.load(place) for place in places)
    timing = {name: old.timing[name] + extra.timing[name] for name in ("compile_s", "train_s")}
    made = sum(meta["updates"] * size for meta, size in zip(metas, sizes, strict=True))
    done = results.Results(
        [*old.runs, *extra.runs],
        old.steps,
        {name: np.concatenate([old.history[name], extra.history[name]], 1) for name in old.history},
        np.concatenate([old.returns, extra.returns]),
        timing | {"steps_per_s": made / max(timing["train_s"], 1e-9)},
    )
    results.save(done, new, folder.identity(record))
    results.write_json(new / "config.json", json.loads(json.dumps(record)))
