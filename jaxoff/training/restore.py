"""From the folder of a job back to its policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxoff import registry
from jaxoff.config import BUDGETS, config_fields, is_leaf
from jaxoff.data.dataset import place
from jaxoff.errors import InvalidSetting
from jaxoff.names import DataOptions
from jaxoff.training import mapping
from jaxoff.training.checkpoint import Checkpoints
from jaxoff.training.program import Program, RunState
from jaxoff.training.results import read_json
from jaxoff.training.spec import Job, TrainSpec, fitted, resolve
from jaxoff.types import Env, Episodes, Policy


def state_like(job: Job, env: Env, dataset: Any, stage: int, within: bool) -> Any:
    """Zeros [R, ...] in the structure of what a checkpoint of a stage holds, found by tracing the
    stages up to there: a RunState; within an interval, all that is carried, less the config.
    """
    mesh = mapping.run_mesh(1, jax.local_devices()[:1])
    carried = (job.config, empty_state(job))
    for index in range(stage + 1):
        program = Program(job, env, index, 1, mesh, "sequence", evaluates=False)
        carried = jax.eval_shape(program.prepare, carried[:2], dataset)
    held = carried[1:] if within else carried[1]
    return jax.tree.map(lambda x: np.zeros((job.num_runs, *x.shape[1:]), x.dtype), held)


def load_dataset(job: Job, env: Env, data: Episodes | None, sharding: Any = None) -> Any:
    """The data of a job on the device; nothing for a job that collects its own."""
    if data is None:
        return ()
    return place(
        data, env.spec, obs_dtype=job.spec.obs_dtype, sharding=sharding, source=job.spec.task
    )


def empty_state(job: Job) -> RunState:
    """The state of every run before the first stage, as host arrays [R, ...]."""
    keys = np.stack(
        [jax.random.key_data(jax.random.key(seed, impl=job.spec.prng)) for seed in job.seeds]
    )
    return RunState(keys, (), (), np.zeros(len(keys), np.int32), np.full(len(keys), -1, np.int32))


def restore_policy(
    folder: str | Path, run: int = 0, data_dir: str | None = None
) -> tuple[Env, Policy, TrainSpec]:
    """The trained policy of one run of a job, its environment, and what was trained.

    Raises FileNotFoundError naming the file that is missing, BrokenResult one that is damaged, or
    InvalidSetting for a run that is not there.
    """
    folder = Path(folder)
    file = folder / "config.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: expected the folder of a training job, found no config.json"
        )
    record = read_json(file, ("method", "task", "config", "grid", "git_commit", "data_dir"))
    known = {name: record[name] for name in TrainSpec.__dataclass_fields__ if name in record}
    fields = config_fields(registry.learner(record["method"], record["task"]).Config)
    strange = sorted(set(record["config"]) - set(fields))
    if strange:
        raise InvalidSetting(
            f"{file}: field 'config': expected settings that {record['method']} has on "
            f"{record['task']}, found {', '.join(strange)}, "
            f"of another version of jaxoff (commit {record['git_commit']})"
        )
    config = {
        name: value[0]
        if is_leaf(fields[name])
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in record["config"].items()
        # what follows from them is in the record too
        if name not in record["grid"] and name not in BUDGETS
    }
    spec = TrainSpec(
        **known | {"config": config, "steps": None, "data_dir": data_dir or record["data_dir"]}
    )
    job, env = resolve(spec), registry.make_env(spec.task)
    if not 0 <= run < job.num_runs:
        raise InvalidSetting(f"{folder}: field 'run': expected 0..{job.num_runs - 1}, found {run}")
    checkpoints = Checkpoints(folder / "checkpoint")
    meta = checkpoints.meta()
    if meta is None:
        raise FileNotFoundError(
            f"{folder / 'checkpoint'}: expected a complete checkpoint, found none"
        )
    options = DataOptions(spec.data_seed, spec.data_episodes, spec.data_dir)
    data = None if job.acts else registry.make_data(spec.task, options)
    job = fitted(job, data)
    dataset = load_dataset(job, env, data)
    within = meta.get("within", False)
    held = checkpoints.state(state_like(job, env, dataset, meta["stage_index"], within))
    state = jax.tree.map(lambda x: x[run], held[0] if within else held)
    checkpoints.close()
    config = jax.tree.map(lambda x: x[run], job.config)
    return (
        env,
        job.stages(config, env.spec)[meta["stage_index"]].learner.policy(state.learner),
        spec,
    )
