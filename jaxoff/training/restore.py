"""Restore the trained policies of a job from its folder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff import registry
from jaxoff.config import BUDGETS, check_number, config_fields, is_leaf
from jaxoff.data import folders
from jaxoff.data.dataset import outline, place
from jaxoff.errors import InvalidSetting, JaxoffError, WrongType
from jaxoff.eval.final import evaluate_policy, no_simulator, summary
from jaxoff.eval.rollout import evaluate
from jaxoff.names import DataOptions, Task
from jaxoff.training import mapping
from jaxoff.training.checkpoint import Checkpoints
from jaxoff.training.program import Program, RunState
from jaxoff.training.results import broken, read_config
from jaxoff.training.spec import Job, TrainSpec, evaluation_steps, fitted, resolve
from jaxoff.types import Env, EnvSpec, Episodes, Policy


def state_like(job: Job, env: Env, dataset: Any, stage: int, within: bool) -> Any:
    """Zeros [R, ...] in the structure of a checkpoint in a stage, found by tracing the stages.

    That is a RunState, or for a checkpoint within an interval, Carried without its config.
    """
    mesh = mapping.run_mesh(1, jax.local_devices()[:1])
    carried = (job.config, empty_state(job))
    for index in range(stage + 1):
        program = Program(job, env, index, 1, mesh, "sequence", evaluates=False)
        carried = jax.eval_shape(program.prepare, carried[:2], dataset)
    held = carried[1:] if within else carried[1]
    return jax.tree.map(lambda x: np.zeros((job.num_runs, *x.shape[1:]), x.dtype), held)


def load_dataset(job: Job, env: Env, data: Episodes | None, sharding: Any = None) -> Any:
    """The dataset of a job on the device; () for a job that collects its own data."""
    if data is None:
        return ()
    return place(
        data, env.spec, obs_dtype=job.spec.obs_dtype, sharding=sharding, source=job.spec.task_name
    )


def empty_state(job: Job) -> RunState:
    """The state of every run before the first stage, as host arrays [R, ...]."""
    keys = np.stack(
        [jax.random.key_data(jax.random.key(seed, impl=job.spec.prng)) for seed in job.seeds]
    )
    return RunState(keys, (), (), np.zeros(len(keys), np.int32), np.full(len(keys), -1, np.int32))


class Restored(NamedTuple):
    """The trained policies of a job."""

    env: Env
    spec: EnvSpec  # what the learner was made for; `env` may be another of the same sizes
    job: Job
    stage: int
    learner: Any  # state of the stage's learner for all runs [R, ...]
    failed_at: np.ndarray  # [R] updates after which a run failed; -1 where it did not
    finished: bool

    def policy(self, config: Any, learner: Any) -> Policy:
        """The policy of one run, from its leaves of `job.config` and `learner`."""
        return self.job.stages(config, self.spec)[self.stage].learner.policy(learner)

    def policy_of(self, run: int) -> Policy:
        """The policy of a run, by its number. Raises InvalidSetting if there is no such run."""
        if not 0 <= run < self.job.num_runs:
            raise InvalidSetting(f"field 'run': expected 0..{self.job.num_runs - 1}, found {run}")
        return self.policy(*jax.tree.map(lambda x: x[run], (self.job.config, self.learner)))

    def policy_and_job(self, run: int = 0) -> tuple[Env, Policy, TrainSpec]:
        """The environment, the policy of a run, and the TrainSpec."""
        return self.env, self.policy_of(run), self.job.spec


def restore_policy(
    folder: str | Path, run: int = 0, data_dir: str | None = None, env: str = ""
) -> tuple[Env, Policy, TrainSpec]:
    """The environment, the trained policy of one run, and the TrainSpec of a job.

    The job's dataset is not needed, except for folders of earlier versions: data_dir is the folder
    of public datasets for these. env: the task or family/scenario whose environment is wanted, for
    a job that was trained on a dataset folder without one. Raises FileNotFoundError naming a
    missing file, BrokenResult naming a damaged one, UnknownName for an environment that is not
    registered, or InvalidSetting for a run that does not exist and an environment that does not
    fit.
    """
    return restore(folder, data_dir, env).policy_and_job(run)


def restore(folder: str | Path, data_dir: str | None = None, env: str = "") -> Restored:
    """The trained policies of all runs of a job. Raises what `restore_policy` does."""
    folder = Path(folder)
    file = folder / "config.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: expected the folder of a training job, found no config.json"
        )
    record = read_config(folder, ("method", "task", "config", "grid", "git_commit", "data_dir"))
    job, made_for = _job_and_env(record, file, data_dir)
    played = _env_to_play(record, job, made_for, file, env) if env else made_for
    saved = folder / "checkpoint"
    checkpoints = Checkpoints(saved) if saved.exists() else None
    meta = checkpoints.meta() if checkpoints else None
    if checkpoints is None or meta is None:
        raise FileNotFoundError(f"{saved}: expected a complete checkpoint, found none")
    job, dataset = _without_data(job, made_for, record)
    within, stage = meta.get("within", False), meta["stage_index"]
    like = state_like(job, made_for, dataset, stage, within)
    held = checkpoints.state(like, to_train=False)
    checkpoints.close()
    state = _finite(job, made_for, meta, *held) if within else held
    stages = job.stages(jax.tree.map(lambda x: x[0], job.config), made_for.spec)
    ended = (stage, meta["step"]) == (len(stages) - 1, stages[-1].steps)
    finished = ended and (folder / "final.json").exists()
    failed_at = np.asarray(state.failed_at)
    return Restored(played, made_for.spec, job, stage, state.learner, failed_at, finished)


def _finite(job: Job, env: Env, meta: dict[str, Any], run: RunState, finite: Any) -> RunState:
    """The state of all runs within an interval, as if the interval ended there.

    A run whose learner has a number that is not finite is lost: it has its learner of the start of
    the interval. finite: learners at the start of the interval.
    """
    stages = job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec)
    stage, last = stages[meta["stage_index"]], meta["stage_index"] == len(stages) - 1
    ends = job.ends(stage.steps) if last else evaluation_steps(stage.steps, stage.reports)
    start = max([0, *(end for end in ends if end <= meta["step"])])
    ok = np.ones(job.num_runs, bool)
    for x in jax.tree.leaves(run.learner):
        if jnp.issubdtype(x.dtype, jnp.floating):
            ok &= np.isfinite(np.asarray(x, np.float64)).reshape(len(ok), -1).all(1)
    failed_at = np.where(ok | (run.failed_at >= 0), run.failed_at, start)

    def chosen(new: Any, old: Any) -> Any:
        keep = (ok & (failed_at < 0)).reshape(-1, *(1,) * (new.ndim - 1))
        return np.where(keep, new, old)

    return run._replace(learner=jax.tree.map(chosen, run.learner, finite), failed_at=failed_at)


def _job_and_env(record: dict[str, Any], file: Path, data_dir: str | None) -> tuple[Job, Env]:
    """The job of a folder, and its environment.

    Of a task that is a dataset folder, what config.json tells is used, since that may be gone.
    """
    if "folder" not in record:
        job = _job_of(record, file, data_dir)
        return job, registry.make_env(job.spec.task)
    try:
        spec, task = folders.spec_from(record["env_spec"]), Task.parse(record["folder"])
    except (LookupError, TypeError, ValueError) as error:
        raise broken(file, "the specification of a dataset", error) from error
    # Earlier versions took a seed that nothing reads.
    seed = record.get("data_seed", 0) if record.get("data_episodes") else 0
    with folders.known(task, spec):
        told = record | {"task": record["folder"], "data_seed": seed}
        job = _job_of(told, file, data_dir)
    if record["env"]:
        return job, registry.make_env(record["env"])
    return job, folders.alone(task, spec)


def _env_to_play(record: dict[str, Any], job: Job, made_for: Env, file: Path, name: str) -> Env:
    """The environment that the user names for a job that has none."""
    if "folder" not in record or record["env"]:
        raise InvalidSetting(
            f"field 'env': expected for a job that was trained without an environment, found "
            f"'{name}' for {file.parent}, whose environment is {record.get('env') or job.spec.task}"
        )
    task = Task.parse(record["folder"])
    with folders.known(task, made_for.spec):
        env = folders.environment(task, name)
    if not hasattr(env, "step") and not getattr(env, "host", ()):
        raise no_simulator(env)
    return env


def _job_of(record: dict[str, Any], file: Path, data_dir: str | None) -> Job:
    """The job of a folder, with its runs in the order of the folder."""
    try:
        job = resolve(_spec_of(record, file, data_dir))
        parts = tuple((int(steps), int(number)) for steps, number in record.get("parts", ()))
        job = dataclasses.replace(job, parts=parts)
        return job.select(record["order"]) if "order" in record else job
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, JaxoffError) and not isinstance(error, WrongType):
            raise
        raise broken(file, "the settings of a job", " ".join(str(error).split())) from error


def evaluate_runs(
    found: Restored,
    runs: Sequence[int],
    episodes: int,
    seed: int,
    sampled: bool,
    processes: int | None = None,
) -> list[dict[str, Any]]:
    """The results of `eval.final.evaluate_policy` for several runs of a job.

    All runs play in one program, or one after the other on a simulator on the host, and every run
    plays from the same initial states.
    """
    policies = [found.policy_of(run) for run in runs]
    if not hasattr(found.env, "step"):
        play = functools.partial(evaluate_policy, found.env, sampled=sampled, processes=processes)
        return [play(policy, episodes, seed) for policy in policies]
    check_number("seed", seed)
    check_number("episodes", episodes)
    chosen = jax.tree.map(
        lambda x: np.asarray(x)[np.array(runs)], (found.job.config, found.learner)
    )

    def one(held: tuple[Any, Any]) -> dict[str, Any]:
        policy, key = found.policy(*held), jax.random.key(seed)
        return evaluate(found.env, policy, key, episodes, sampled=sampled)

    played = jax.device_get(jax.jit(lambda held: jax.lax.map(one, held))(chosen))
    name = found.env.spec.name
    return [
        summary(found.env, name, {key: value[k] for key, value in played.items()})
        for k in range(len(runs))
    ]


def _spec_of(record: dict[str, Any], file: Path, data_dir: str | None) -> TrainSpec:
    """The TrainSpec of a job, from its config.json."""
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
        # The numbers of updates that follow from budgets are in the record too.
        if name not in record["grid"] and name not in BUDGETS
    }
    return TrainSpec(
        **known | {"config": config, "steps": None, "data_dir": data_dir or record["data_dir"]}
    )


def _without_data(job: Job, env: Env, record: dict[str, Any]) -> tuple[Job, Any]:
    """The job as its dataset completes it, and the dataset's shapes, both from config.json."""
    about = record.get("data")
    if job.acts or about is None:
        return job, ()
    if "longest" in about:
        names = ("episodes", "steps", "longest", "individual")
        dataset = outline(env.spec, job.spec.obs_dtype, **{name: about[name] for name in names})
        return dataclasses.replace(job, longest=about["longest"]), dataset
    options = DataOptions(job.spec.data_seed, job.spec.data_episodes, job.spec.data_dir)
    data = registry.make_data(job.spec.task, options)
    return fitted(job, data), load_dataset(job, env, data)
