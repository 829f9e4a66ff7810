"""The compiled parts of training: prepare a stage, train one chunk of it, evaluate.

Each is written for one run and mapped over the run axis. All randomness comes from the run's key,
the stage and the number of updates made, so results do not depend on chunks, devices or other runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxoff.data.dataset import Dataset
from jaxoff.eval.rollout import evaluate
from jaxoff.training.mapping import map_runs
from jaxoff.training.spec import Job
from jaxoff.types import Array, Env, Feedback, Key, Learner, Out, Sampler, Transition

PREPARE, DRAW, UPDATE, FEEDBACK, EVALUATE, COLLECT = range(6)  # what a key is for


class RunState(NamedTuple):
    """All that a run carries.

    `key` are raw key data and never change; the rest is what training moves.
    """

    key: Any  # [2] uint32
    learner: Any
    sampler: Any
    updates: Array | np.ndarray  # in this stage
    failed_at: Array | np.ndarray  # updates in this stage when it met a NaN, else -1


class Report(NamedTuple):
    """What leaves the device after a chunk."""

    metrics: dict[str, Array]  # means over the chunk
    evaluation: dict[str, Array]  # "returns" [E], "lengths" [E] and the env's probe


class Program:
    """The functions of one stage, to be lowered and compiled once each.

    `mode` is how runs share a device.
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
        self.evaluate_now = compiled(self._evaluate_now, donate=False)

    def _parts(self, config: Any) -> tuple[Any, Learner]:
        stage = self.job.stages(config, self.env.spec)[self.index]
        return stage, stage.learner

    def _key(self, run: RunState, purpose: int) -> Key:
        key = jax.random.wrap_key_data(run.key, impl=self.job.spec.prng)
        return jax.random.fold_in(jax.random.fold_in(key, self.index), purpose)

    def _prepare(self, per_run: tuple[Any, RunState], dataset: Dataset) -> tuple[Any, RunState]:
        """The state that this stage starts from; `learner` is the state of the stage before."""
        config, run = per_run
        stage, learner = self._parts(config)
        key = self._key(run, PREPARE)
        state = (
            learner.init(key) if stage.prepare is None else stage.prepare(run.learner, dataset, key)
        )
        sampler = self.job.sampler(stage, state, config, self.env, self._key(run, COLLECT))
        return config, RunState(
            run.key, state, sampler.init(dataset), jnp.zeros((), jnp.int32), run.failed_at
        )

    def _chunk(
        self, per_run: tuple[Any, RunState], dataset: Dataset
    ) -> tuple[tuple[Any, RunState], Report]:
        """`updates` gradient steps, then an evaluation.

        A run that is no longer finite keeps its last finite state.
        """
        config, run = per_run
        stage, learner = self._parts(config)
        sampler = self.job.sampler(stage, run.learner, config, self.env, self._key(run, COLLECT))
        (state, sampler_state), metrics = self._train(learner, sampler, run, dataset)
        metrics = jax.tree.map(lambda x: jnp.mean(x.astype(jnp.float32), 0), metrics)
        ok = _all_finite(state) & (run.failed_at < 0)
        failed_at = jnp.where(ok | (run.failed_at >= 0), run.failed_at, run.updates)
        new = RunState(run.key, state, sampler_state, run.updates + self.updates, failed_at)
        run = jax.tree.map(lambda new, old: jnp.where(ok, new, old), new, run)._replace(
            failed_at=failed_at
        )
        return (config, run), Report(metrics, self._evaluation(learner, run))

    def _train(
        self, learner: Learner, sampler: Sampler, run: RunState, dataset: Dataset
    ) -> tuple[tuple[Any, Any], dict[str, Array]]:
        number = run.updates + jnp.arange(self.updates)
        draw, update, tell = (self._key(run, purpose) for purpose in (DRAW, UPDATE, FEEDBACK))
        fold = jax.vmap(jax.random.fold_in, (None, 0))

        def one(carry: tuple[Any, Any], step: Any) -> tuple[tuple[Any, Any], dict[str, Array]]:
            state, sampler_state = carry
            count, items, draw_key, update_key = step
            if sampler.feedback is not None:
                items = sampler.draw(sampler_state, dataset, draw_key)
            batch: Transition = sampler.gather(dataset, items)
            state, out = learner.update(state, batch, update_key)
            if sampler.feedback is not None:
                sampler_state = self._feedback(
                    learner, sampler, (state, sampler_state), dataset, items, out, count + 1, tell
                )
            return (state, sampler_state), out.metrics

        draw_keys = fold(draw, number)
        # A sampler that never changes makes the draws of the whole chunk in one call.
        items = (
            None
            if sampler.feedback
            else jax.vmap(lambda key: sampler.draw(run.sampler, dataset, key))(draw_keys)
        )
        return lax.scan(
            one, (run.learner, run.sampler), (number, items, draw_keys, fold(update, number))
        )

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

    def _evaluate_now(self, per_run: tuple[Any, RunState], dataset: Dataset) -> dict[str, Array]:
        """An evaluation without training."""
        config, run = per_run
        return self._evaluation(self._parts(config)[1], run)

    def _evaluation(self, learner: Learner, run: RunState) -> dict[str, Array]:
        # public data may be of a simulator that is not in jit
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
