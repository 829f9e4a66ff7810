"""The compiled parts of training: prepare a stage, train a chunk of it, report on an interval.

Each is written for one run and mapped over the run axis. All randomness comes from the run's key,
its purpose, the stage and the number of updates so far, so results do not depend on chunks, devices
or other runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxoff.data.dataset import Dataset
from jaxoff.eval.rollout import evaluate
from jaxoff.training.mapping import map_runs
from jaxoff.training.spec import Job
from jaxoff.types import Array, Env, Feedback, Key, Learner, Out, Sampler, Transition

PREPARE, DRAW, UPDATE, FEEDBACK, EVALUATE, COLLECT = range(6)  # purposes of random keys


class RunState(NamedTuple):
    """The whole state of a run.

    `key` is raw key data that never changes; training changes the other fields.
    """

    key: Any  # [2] uint32
    learner: Any
    sampler: Any
    updates: Array | np.ndarray  # number of updates made in this stage
    # number of updates in the stage before the interval with the first NaN, -1 for a healthy run
    failed_at: Array | np.ndarray


class Carried(NamedTuple):
    """The state between two chunks: a run, and its learner at the start of the interval."""

    config: Any
    run: RunState
    finite: Any  # the learner's state at the start of the interval, when it was finite


class Program:
    """The functions of one stage, to be lowered and compiled once each.

    `updates` is the largest number of updates in a chunk, `mode` how runs share a device. `chunk`
    and `report` take (carried, (dataset, number of updates)). `chunk` returns metrics [updates], of
    which only the first entries, one per update made, are valid. `report` returns an evaluation:
    "returns" [E], "lengths" [E] and the outputs of the environment's probe.
    """

    def __init__(
        self,
        job: Job,
        env: Env,
        stage_index: int,
        updates: int,
        mesh: Mesh,
        mode: str,
        evaluates: bool,
    ) -> None:
        self.job, self.env, self.index, self.updates, self.evaluates = (
            job,
            env,
            stage_index,
            updates,
            evaluates,
        )
        runs = NamedSharding(mesh, P("runs"))

        def compiled(function: Callable[..., Any], donate: bool) -> Any:
            return jax.jit(
                map_runs(function, mesh, mode),
                out_shardings=runs,
                donate_argnums=(0,) if donate else (),
            )

        self.prepare = compiled(self._prepare, donate=False)
        self.chunk = compiled(self._chunk, donate=True)
        self.report = compiled(self._report, donate=True)

    def _parts(self, config: Any) -> tuple[Any, Learner]:
        stage = self.job.stages(config, self.env.spec)[self.index]
        return stage, stage.learner

    def _key(self, run: RunState, purpose: int) -> Key:
        key = jax.random.wrap_key_data(run.key, impl=self.job.spec.prng)
        return jax.random.fold_in(jax.random.fold_in(key, self.index), purpose)

    def _prepare(self, per_run: tuple[Any, RunState], dataset: Dataset) -> Carried:
        """The initial state of this stage; `run.learner` is that of the stage before."""
        config, run = per_run
        stage, learner = self._parts(config)
        key = self._key(run, PREPARE)
        state = (
            learner.init(key) if stage.prepare is None else stage.prepare(run.learner, dataset, key)
        )
        sampler = self.job.sampler(stage, state, config, self.env, self._key(run, COLLECT))
        updates = jnp.zeros((), jnp.int32)
        run = RunState(run.key, state, sampler.init(dataset), updates, run.failed_at)
        return Carried(config, run, state)

    def _chunk(
        self, carried: Carried, shared: tuple[Dataset, Array]
    ) -> tuple[Carried, dict[str, Array]]:
        """Make the given number of updates, at most `updates`, and return their metrics."""
        (config, run, finite), (dataset, count) = carried, shared
        stage, learner = self._parts(config)
        sampler = self.job.sampler(stage, run.learner, config, self.env, self._key(run, COLLECT))
        number = run.updates + jnp.arange(self.updates)
        draw, update, tell = (self._key(run, purpose) for purpose in (DRAW, UPDATE, FEEDBACK))
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        draw_keys, update_keys = fold(draw, number), fold(update, number)
        # A sampler that never changes makes the draws of the whole chunk in one call.
        drawn = (
            None
            if sampler.feedback
            else jax.vmap(lambda key: sampler.draw(run.sampler, dataset, key))(draw_keys)
        )

        def one(index: Any, state: Any, sampler_state: Any) -> tuple[Any, Any, dict[str, Array]]:
            if sampler.feedback is None:
                items = jax.tree.map(lambda x: x[index], drawn)
            else:
                items = sampler.draw(sampler_state, dataset, draw_keys[index])
            batch: Transition = sampler.gather(dataset, items)
            state, out = learner.update(state, batch, update_keys[index])
            if sampler.feedback is not None:
                made, states = number[index] + 1, (state, sampler_state)
                sampler_state = self._feedback(
                    learner, sampler, states, dataset, items, out, made, tell
                )
            metrics = {k: jnp.asarray(v, jnp.float32) for k, v in out.metrics.items()}
            return state, sampler_state, metrics

        # The update is traced once beforehand, since the loop needs the names of its metrics.
        traced, shapes = jax.make_jaxpr(one, return_shape=True)(0, run.learner, run.sampler)

        def step(index: Array, carry: Any) -> Any:
            *states, kept = carry
            flat = jaxpr_as_fun(traced)(*jax.tree.leaves((index, *states)))
            *states, metrics = jax.tree.unflatten(jax.tree.structure(shapes), flat)
            return *states, {name: kept[name].at[index].set(x) for name, x in metrics.items()}

        kept = {name: jnp.zeros((self.updates, *x.shape)) for name, x in shapes[2].items()}
        start = (run.learner, run.sampler, kept)
        state, sampler_state, kept = lax.fori_loop(0, count, step, start)
        made = run.updates + count
        run = RunState(run.key, state, sampler_state, made, run.failed_at)
        return Carried(config, run, finite), kept

    def _report(
        self, carried: Carried, shared: tuple[Dataset, Array]
    ) -> tuple[Carried, dict[str, Array]]:
        """An evaluation at the end of an interval of `count` updates.

        A run with a number that is not finite goes back to its last finite state.
        """
        (config, run, finite), count = carried, shared[1]
        # The state of a sampler that acts holds environments, whose numbers are their own.
        watched = run.learner if self.job.acts else (run.learner, run.sampler)
        ok = _all_finite(watched) & (run.failed_at < 0)
        before = run.updates - count
        failed_at = jnp.where(ok | (run.failed_at >= 0), run.failed_at, before)
        state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), run.learner, finite)
        updates = jnp.where(ok, run.updates, before)
        run = RunState(run.key, state, run.sampler, updates, failed_at)
        return Carried(config, run, state), self._evaluation(self._parts(config)[1], run)

    def _feedback(
        self,
        learner: Learner,
        sampler: Sampler,
        states: tuple[Any, Any],
        dataset: Dataset,
        items: Array,
        out: Out,
        count: Array,
        key: Key,
    ) -> Any:
        online = learner.policy(states[0])
        slow = learner.target_policy(states[0]) if learner.target_policy else online
        outcome = Feedback(items, out.signal, slow, count, jax.random.fold_in(key, count), online)
        assert sampler.feedback is not None
        return sampler.feedback(states[1], dataset, outcome)

    def _evaluation(self, learner: Learner, run: RunState) -> dict[str, Array]:
        # The simulator of public data may not run in jit.
        if not self.evaluates or not hasattr(self.env, "step"):
            return {}
        key = jax.random.fold_in(self._key(run, EVALUATE), run.updates)
        return evaluate(
            self.env,
            learner.policy(run.learner),
            key,
            self.job.spec.eval_episodes,
            sampled=self.job.spec.sampled,
        )


def _all_finite(tree: Any) -> Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return (
        jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
        if leaves
        else jnp.ones((), bool)
    )
