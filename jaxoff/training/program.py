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
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxoff.data.dataset import Dataset
from jaxoff.eval.rollout import evaluate
from jaxoff.training.mapping import map_runs
from jaxoff.training.spec import Job
from jaxoff.types import Array, Env, Feedback, Key, Learner, Out, Sampler, Transition

PURPOSES = 6
PREPARE, DRAW, UPDATE, FEEDBACK, EVALUATE, COLLECT = range(PURPOSES)  # purposes of random keys


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

    `updates` is the largest number of updates in a chunk, `mode` how runs share a device.

    `prepare` takes ((config, run), dataset) and returns Carried at the start of the stage. `chunk`
    takes (carried, (dataset, number of updates)) and returns Carried, metrics [updates], of which
    only the first entries, one per update made, are valid, and whether every number of a run is
    finite. An interval ends with `keep`, which takes Carried, or where a run is not finite with
    `mend`, which takes (carried, finite [R], number of updates of the interval). `report` takes
    (carried, ()) and returns an evaluation: "returns" [E], "lengths" [E] and the outputs of the
    environment's probe. Carried is donated to all but `report`.
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
        # The simulator of public data may not run in jit.
        self.plays = evaluates and hasattr(env, "step")
        runs = NamedSharding(mesh, P("runs"))

        def compiled(function: Callable[..., Any], donate: bool = True) -> Any:
            return jax.jit(function, out_shardings=runs, donate_argnums=(0,) if donate else ())

        chunk = map_runs(self._chunk, mesh, mode)

        # The state at the start of the interval is not mapped: a loop over runs would copy it.
        def whole_chunk(carried: Carried, shared: tuple[Dataset, Array]) -> Any:
            run, kept, finite = chunk((carried.config, carried.run), shared)
            return carried._replace(run=run), (kept, finite)

        self.prepare = compiled(map_runs(self._prepare, mesh, mode), donate=False)
        self.chunk = compiled(whole_chunk)
        self.keep = compiled(lambda carried: carried._replace(finite=_copied(carried.run.learner)))
        self.mend = compiled(_mended)
        report = map_runs(self._report, mesh, mode)
        self.report = compiled(lambda carried, shared: report(carried[:2], shared), donate=False)

    def _parts(self, config: Any) -> tuple[Any, Learner]:
        stage = self.job.stages(config, self.env.spec)[self.index]
        return stage, stage.learner

    def _keys(self, run: RunState) -> Key:
        """The random keys of this stage [6], by purpose; made in one call, which is one kernel."""
        key = jax.random.wrap_key_data(run.key, impl=self.job.spec.prng)
        return _fold(jax.random.fold_in(key, self.index), jnp.arange(PURPOSES))

    def _prepare(self, per_run: tuple[Any, RunState], dataset: Dataset) -> Carried:
        """The initial state of this stage; `run.learner` is that of the stage before."""
        config, run = per_run
        stage, learner = self._parts(config)
        keys = self._keys(run)
        key = keys[PREPARE]
        state = (
            learner.init(key) if stage.prepare is None else stage.prepare(run.learner, dataset, key)
        )
        sampler = self.job.sampler(stage, state, config, self.env, keys[COLLECT])
        updates = jnp.zeros((), jnp.int32)
        run = RunState(run.key, state, sampler.init(dataset), updates, run.failed_at)
        return Carried(config, run, state)

    def _chunk(
        self, per_run: tuple[Any, RunState], shared: tuple[Dataset, Array]
    ) -> tuple[RunState, dict[str, Array], Array]:
        """Make the given number of updates, at most `updates`.

        Returns the run, the metrics of the updates, and whether the run is healthy: it has not
        failed before, and all its numbers are finite.
        """
        (config, run), (dataset, count) = per_run, shared
        stage, learner = self._parts(config)
        keys = self._keys(run)
        sampler = self.job.sampler(stage, run.learner, config, self.env, keys[COLLECT])
        number = run.updates + jnp.arange(self.updates)
        folded = jax.vmap(_fold, (0, None))(keys[jnp.array([DRAW, UPDATE])], number)
        draw_keys, update_keys = folded
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
                    learner, sampler, states, dataset, items, out, made, keys[FEEDBACK]
                )
            metrics = {k: jnp.asarray(v, jnp.float32) for k, v in out.metrics.items()}
            return state, sampler_state, metrics

        # The update is traced once beforehand, since the loop needs the names of its metrics.
        traced, shapes = jax.make_jaxpr(one, return_shape=True)(0, run.learner, run.sampler)
        # Metrics are kept in one matrix, since each array that is written is a kernel.
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[2])
        none, named = ravel_pytree(zeros)

        def step(index: Array, carry: Any) -> Any:
            *states, kept = carry
            flat = jaxpr_as_fun(traced)(*jax.tree.leaves((index, *states)))
            *states, metrics = jax.tree.unflatten(jax.tree.structure(shapes), flat)
            row = ravel_pytree(metrics)[0]
            return *states, lax.dynamic_update_index_in_dim(kept, row, index, 0)

        start = (run.learner, run.sampler, jnp.zeros((self.updates, none.size), none.dtype))
        state, sampler_state, rows = lax.fori_loop(0, count, step, start)
        kept = jax.vmap(named)(rows)
        made = run.updates + count
        # The state of a sampler that acts holds environments, whose numbers are their own.
        healthy = _all_finite(state if self.job.acts else (state, sampler_state))
        run = RunState(run.key, state, sampler_state, made, run.failed_at)
        return run, kept, healthy & (run.failed_at < 0)

    def _report(self, per_run: tuple[Any, RunState], shared: tuple[()]) -> dict[str, Array]:
        """An evaluation of the policy."""
        (config, run), spec = per_run, self.job.spec
        policy = self._parts(config)[1].policy(run.learner)
        key = jax.random.fold_in(self._keys(run)[EVALUATE], run.updates)
        return evaluate(self.env, policy, key, spec.eval_episodes, sampled=spec.sampled)

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


_fold = jax.vmap(jax.random.fold_in, (None, 0))


def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _mended(carried: Carried, healthy: Array, count: Array) -> Carried:
    """All runs at the end of an interval of `count` updates.

    A run with a number that is not finite goes back to its last finite state.
    """
    config, run, finite = carried
    before = run.updates - count
    failed_at = jnp.where(healthy | (run.failed_at >= 0), run.failed_at, before)

    def chosen(new: Array, old: Array) -> Array:
        return jnp.where(healthy.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    state = jax.tree.map(chosen, run.learner, finite)
    updates = jnp.where(healthy, run.updates, before)
    run = RunState(run.key, state, run.sampler, updates, failed_at)
    return Carried(config, run, _copied(state))


def _all_finite(tree: Any) -> Array:
    """Whether every number is finite, found in all leaves at once, since kernels compile long."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    if not leaves:
        return jnp.ones((), bool)
    return jnp.all(jnp.isfinite(jnp.concatenate([x.reshape(-1) for x in leaves])))
