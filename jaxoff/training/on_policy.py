"""Online on-policy training: act in many environments and learn from those steps, in one program.

It trains the behaviour policies of datasets. Snapshots of the policy are taken during training, so
that a training run gives policies of every level.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.rolling import bounded
from jaxoff.errors import InvalidFile, InvalidSetting
from jaxoff.eval.rollout import evaluate
from jaxoff.files import replacing
from jaxoff.types import Array, Carry, Env, Key, Params, Policy, State, TimeStep


class Segments(NamedTuple):
    """Consecutive steps of many environments; leading axes [B, T].

    Episodes may begin and end within a segment. reset: whether the step is the first of its
    episode. memory [B, ...]: the policy's memory before the first step.
    """

    seen: TimeStep
    actions: Array  # as drawn from the policy, before clipping to the action bound
    reward: Array  # [B, T, N] reward of each agent
    terminated: Array
    truncated: Array
    reset: Array
    next_obs: Array
    next_state: Array
    memory: Carry


class OnPolicy(NamedTuple):
    """A method that trains online, on the steps that it has just played (an off-policy one stores
    them in its state).

    init(key) -> state; behaviour(state) -> the Policy that collects steps; policy(state) -> the
    Policy that is evaluated; update(state, segments, key) -> (state, metrics); actor(state) -> the
    parameters of the policy that are kept in a snapshot, and policy_of(parameters) -> Policy.
    """

    init: Callable[[Key], State]
    behaviour: Callable[[State], Policy]
    update: Callable[[State, Segments, Key], tuple[State, dict[str, Array]]]
    actor: Callable[[State], Params]
    policy_of: Callable[[Params], Policy]


class Collectors(NamedTuple):
    """The environments between two segments; leading axis [B]."""

    env: State
    seen: TimeStep
    memory: Carry
    reset: Array


class Snapshot(NamedTuple):
    """The policy at one point of training.

    metrics: means over the updates since the last snapshot. evaluation: "returns" [E], ... cpu_s:
    CPU-seconds of the training up to there, in all processes that took part.
    """

    env_steps: int
    actor: Params
    metrics: dict[str, float]
    evaluation: dict[str, np.ndarray]
    cpu_s: float = 0.0


class _Run(NamedTuple):
    learner: State
    collectors: Collectors
    key: Key


def start(learner: OnPolicy, env: Env, num_envs: int, key: Key) -> _Run:
    """The state before training."""
    init_key, env_key, key = jax.random.split(key, 3)
    state = learner.init(init_key)
    env_state, seen = jax.vmap(env.reset)(jax.random.split(env_key, num_envs))
    memory = learner.behaviour(state).initial((num_envs,))
    run = _Run(state, Collectors(env_state, seen, memory, jnp.ones(num_envs, bool)), key)
    # Environments start from literals with weak types, but arrays of later steps have strong types,
    # for which everything would be compiled again.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), run)


def collect(
    env: Env, policy: Policy, collectors: Collectors, steps: int, key: Key
) -> tuple[Collectors, Segments]:
    """Make `steps` steps in every environment.

    An environment whose episode ends is reset, after its last observation is stored.
    """
    num_envs = collectors.reset.shape[0]

    def step(now: Collectors, key: Key) -> tuple[Collectors, Any]:
        act_key, step_key, reset_key = jax.random.split(key, 3)
        memory, dist = policy.distribution(now.memory, now.seen)
        actions = dist.sample(seed=act_key)
        made = bounded(env.spec, actions)
        env_state, after = jax.vmap(env.step)(jax.random.split(step_key, num_envs), now.env, made)
        own = after.reward[:, None] if after.agent_reward is None else after.agent_reward
        own = jnp.broadcast_to(own, (num_envs, env.spec.num_agents))
        row = (
            now.seen,
            actions,
            own,
            after.terminated,
            after.truncated,
            now.reset,
            after.obs,
            after.state,
        )
        ended = after.terminated | after.truncated
        fresh = (
            *jax.vmap(env.reset)(jax.random.split(reset_key, num_envs)),
            policy.initial((num_envs,)),
        )
        pick = lambda a, b: jnp.where(ended.reshape(-1, *[1] * (a.ndim - 1)), a, b)
        env_state, seen, memory = jax.tree.map(pick, fresh, (env_state, after, memory))
        return Collectors(env_state, seen, memory, ended), row

    after, rows = jax.lax.scan(step, collectors, jax.random.split(key, steps))
    return after, Segments._make(
        (*jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), rows), collectors.memory)
    )


def chunk_of(learner: OnPolicy, env: Env, segment: int) -> Any:
    """The jitted program (run, count) -> (run after `count` iterations, mean metrics)."""

    def iteration(run: _Run) -> tuple[_Run, dict[str, Array]]:
        collect_key, update_key, key = jax.random.split(run.key, 3)
        collectors, segments = collect(
            env, learner.behaviour(run.learner), run.collectors, segment, collect_key
        )
        state, metrics = learner.update(run.learner, segments, update_key)
        return _Run(state, collectors, key), metrics

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(run: _Run, count: Array) -> tuple[_Run, dict[str, Array]]:
        def body(_: Array, carry: tuple[_Run, dict[str, Array]]) -> tuple[_Run, dict[str, Array]]:
            run, sums = carry
            run, metrics = iteration(run)
            return run, jax.tree.map(jnp.add, sums, metrics)

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(iteration, run)[1]
        )
        run, sums = jax.lax.fori_loop(0, count, body, (run, zeros))
        return run, jax.tree.map(lambda x: x / count, sums)

    return chunk


def _evaluation_of(learner: OnPolicy, env: Env, eval_episodes: int) -> Any:
    """The jitted program run -> (parameters of the policy, its evaluation)."""

    @jax.jit
    def evaluate_now(run: _Run) -> tuple[Params, dict[str, Array]]:
        actor = learner.actor(run.learner)
        # The fourth child of the key: the first three belong to the next iteration, and
        # fold_in(key, 0) is the first of them.
        return actor, evaluate(
            env,
            learner.policy_of(actor),
            jax.random.fold_in(run.key, 3),
            eval_episodes,
            sampled=True,
        )

    return evaluate_now


def train_on_policy(
    learner: OnPolicy,
    env: Env,
    *,
    seed: int,
    num_envs: int,
    segment: int,
    iterations: int,
    snapshots: int,
    eval_episodes: int,
    easier: Env | None = None,
    easier_share: float = 0.0,
    resume: Path | None = None,
) -> Iterator[Snapshot]:
    """Train, and yield a snapshot of the policy before training and `snapshots` more during it.

    The k-th of K snapshots is taken after (k / K)^2 of all iterations, since early policies change
    fastest. Evaluations sample from the policy. One compiled program makes all iterations between
    two snapshots. easier: an environment with the same states and spaces, in which the first
    `easier_share` of the iterations is played; evaluations are in `env` from the start. resume: a
    file to which the whole state is written after each snapshot; if it exists, its snapshots are
    yielded first and training continues from it, bit for bit. Raises InvalidSetting for more
    snapshots than iterations, and where a metric is not finite; InvalidFile for a file of another
    training.
    """
    if not 1 <= snapshots <= iterations:
        raise InvalidSetting(
            f"train_on_policy: field 'snapshots': expected 1..{iterations}, found {snapshots}"
        )
    times = np.round(iterations * (np.arange(snapshots + 1) / snapshots) ** 2).astype(int)
    times = np.maximum(times, np.arange(snapshots + 1))

    began = time.process_time()
    easy = 0.0 if easier is None else easier_share * iterations
    chunks = [chunk_of(learner, played, segment) for played in (env, easier or env)]
    evaluate_now = _evaluation_of(learner, env, eval_episodes)
    run = jax.jit(lambda key: start(learner, env, num_envs, key))(jax.random.key(seed))
    done: list[Snapshot] = []
    if resume is not None and resume.is_file():
        run, done = _read(
            resume, run, jax.device_get(evaluate_now(run)[0]), (times * segment * num_envs).tolist()
        )
        yield from done
        began -= done[-1].cpu_s
    metrics: dict[str, Array] = {}
    for index in range(len(done), snapshots + 1):
        if index:
            chunk = chunks[int(times[index] <= easy)]
            run, metrics = chunk(run, jnp.asarray(times[index] - times[index - 1], jnp.int32))
        actor, evaluation = jax.device_get(evaluate_now(run))
        means = {name: float(value) for name, value in metrics.items()}
        if not np.isfinite(list(means.values())).all():
            raise InvalidSetting(
                f"train_on_policy: expected finite metrics, found {means} after {index} of "
                f"{snapshots} snapshots"
            )
        steps, cpu_s = int(times[index]) * segment * num_envs, time.process_time() - began
        done.append(Snapshot(steps, actor, means, evaluation, cpu_s))
        if resume is not None:
            _write(resume, run, done)
        yield done[-1]


def _write(path: Path, run: _Run, done: list[Snapshot]) -> None:
    """Write the whole state of training to one file, completely or not at all."""
    leaves = enumerate(jax.tree.leaves(run))
    arrays: dict[str, Any] = {f"run{i}": np.asarray(_plain(leaf)) for i, leaf in leaves}
    for k, snapshot in enumerate(done):
        arrays |= {f"actor{k}.{i}": leaf for i, leaf in enumerate(jax.tree.leaves(snapshot.actor))}
        arrays |= {f"evaluation{k}.{name}": value for name, value in snapshot.evaluation.items()}
    about = [
        (snapshot.env_steps, snapshot.metrics, sorted(snapshot.evaluation), snapshot.cpu_s)
        for snapshot in done
    ]
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def _read(
    path: Path, run: _Run, actor: Params, env_steps_of: list[int]
) -> tuple[_Run, list[Snapshot]]:
    """Read what `_write` wrote, and check that it is of this training.

    run, actor: initial state and untrained actor of this training. env_steps_of: number of
    environment steps before each of its snapshots.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        leaves = [_as(arrays[f"run{i}"], like) for i, like in enumerate(jax.tree.leaves(run))]
        done = []
        for k, (env_steps, metrics, names, cpu_s) in enumerate(json.loads(str(arrays["about"]))):
            params = [
                _as(arrays[f"actor{k}.{i}"], like) for i, like in enumerate(jax.tree.leaves(actor))
            ]
            evaluation = {name: arrays[f"evaluation{k}.{name}"] for name in names}
            done.append(
                Snapshot(
                    env_steps,
                    jax.tree.unflatten(jax.tree.structure(actor), map(np.asarray, params)),
                    metrics,
                    evaluation,
                    cpu_s,
                )
            )
        if (steps := [snapshot.env_steps for snapshot in done]) != env_steps_of[: len(done)]:
            raise ValueError(f"expected snapshots after {env_steps_of} steps, found {steps}")
        if not all(map(np.allclose, jax.tree.leaves(done[0].actor), jax.tree.leaves(actor))):
            raise ValueError("expected the untrained policy of this seed, found another")
    except Exception as error:
        raise InvalidFile(
            f"{path}: expected a file of this training to go on from, found another or a "
            f"damaged one ({error!r})"
        ) from error
    return jax.tree.unflatten(jax.tree.structure(run), leaves), done


def _plain(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _as(value: np.ndarray, like: Any) -> Array:
    """An array of a file as a leaf like `like`. Raises ValueError for another shape or dtype."""
    leaf = (
        jax.random.wrap_key_data(jnp.asarray(value))
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
        else jnp.asarray(value)
    )
    if leaf.shape != like.shape or leaf.dtype != like.dtype:
        raise ValueError(f"expected {like.shape} {like.dtype}, found {leaf.shape} {leaf.dtype}")
    return leaf
