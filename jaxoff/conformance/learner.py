"""The facts that every method keeps, checked on one of any package.

A method learns from six short episodes of a problem that is made up here, one for each kind of
actions that it has a form for: three agents, each with one action that is never available.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff import registry
from jaxoff.config import config_fields, resolve_config
from jaxoff.conformance.findings import Findings, check, same_form
from jaxoff.data.dataset import Dataset, place
from jaxoff.names import Task, unknown
from jaxoff.training.spec import Job, TrainSpec
from jaxoff.types import EnvSpec, Episodes, Learner, Out, Stage, TimeStep, Transition

LENGTHS, ENDED, STEPS = (4, 2, 3, 1, 4, 3), (0, 2, 4), 4
AGENTS, OBS, STATE, ACTIONS, NEVER = 3, 4, 6, 5, 4
_NEEDED = {"steps": int, "batch_size": int, "window": int}  # static fields of a Config


def check_learner(
    method: str | Any, config: Mapping[str, Any] | None = None, *, seed: int = 0
) -> list[Findings]:
    """Check each form of a method against the contract `types.Learner`, or `Stage`.

    method: a registered name, or a module with `Config` and `make`, or one with `FORMS`. config:
    values of fields of the method's Config, which small networks make faster. Raises UnknownName.
    """
    if isinstance(method, str):
        if method not in registry.learner_names():
            raise unknown("method", method, registry.learner_names())
        name, forms = method, registry.forms(method)
    else:
        name, forms = getattr(method, "__name__", "the method"), registry.forms_of(method)
    found, known = [], {kind: _fields(module) for kind, module in forms.items()}
    for field in config or {}:
        if not any(field in fields for fields in known.values()):
            raise unknown(f"field of {name}'s Config", field, set().union(*known.values()))
    for kind, module in forms.items():
        own = {field: value for field, value in (config or {}).items() if field in known[kind]}
        case = _Case(module, kind == "discrete", own, seed)
        found.append(check(f"{name}, {kind} actions", FACTS, 3, case))
    return found


def _fields(module: Any) -> set[str]:
    """The fields of a module's Config; none where there is no such class."""
    config: Any = getattr(module, "Config", None)
    return set(config_fields(config)) if hasattr(config, "__dataclass_fields__") else set()


# -------------------------------------------------------------------------------------- the problem


def problem(discrete: bool) -> tuple[EnvSpec, Episodes]:
    """The specification and the six episodes of the problem."""
    rng, count = np.random.default_rng(0), len(LENGTHS)
    lengths = np.array(LENGTHS)[:, None]
    spec = EnvSpec("check", AGENTS, OBS, STATE, ACTIONS, discrete, STEPS)
    normal = lambda *shape: rng.normal(size=(count, *shape)).astype(np.float32)
    last = np.arange(STEPS) == lengths - 1
    ends = last & np.isin(np.arange(count), ENDED)[:, None]
    own, avail = normal(STEPS, AGENTS), np.ones((count, STEPS + 1, AGENTS, ACTIONS), np.float32)
    actions = np.clip(normal(STEPS, AGENTS, ACTIONS), -1, 1)
    if discrete:
        avail[..., NEVER] = 0
        actions = rng.integers(0, NEVER, (count, STEPS, AGENTS)).astype(np.int32)
    return spec, Episodes(
        obs=normal(STEPS + 1, AGENTS, OBS),
        state=normal(STEPS + 1, STATE),
        avail=avail,
        actions=actions,
        reward=own.mean(-1),
        terminated=ends,
        truncated=last & ~ends,
        filled=np.arange(STEPS) < lengths,
        behaviour_level=np.full((count, AGENTS), -1, np.int32),
        agent_reward=own,
    )


class _Case:
    """A form of a method on the problem; its stages are prepared when they are first asked for."""

    def __init__(
        self, module: ModuleType, discrete: bool, given: dict[str, Any], seed: int
    ) -> None:
        self.module, self.given, self.key = module, given, jax.random.key(seed)
        self.spec, self.episodes = problem(discrete)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The episodes on the device."""
        return place(self.episodes, self.spec)

    @functools.cached_property
    def config(self) -> Any:
        """The Config with its defaults and what is given."""
        task = Task("", "check", "discrete" if self.spec.discrete else "continuous", "any")
        return resolve_config(self.module, task, self.given)

    @functools.cached_property
    def job(self) -> Job:
        """A job of one run."""
        runs: Any = jax.tree.map(lambda x: x[None], self.config)
        sampler = registry.sampler("uniform")
        spec = TrainSpec("check", "check/any/any")
        job = Job(spec, self.module, runs, sampler, sampler.Config(), ({},), (0,))
        return dataclasses.replace(job, longest=STEPS)

    @functools.cached_property
    def stages(self) -> list[_Stage]:
        """The stages, each from where an update of the stage before it has left."""
        found: list[_Stage] = []
        for number in range(len(self.job.stages(self.config, self.spec))):
            found.append(_Stage(self, number, found[-1].after[0] if found else ()))
        return found


class _Stage:
    """A stage of a method, what it starts from, a batch, and the result of an update."""

    def __init__(self, case: _Case, number: int, previous: Any) -> None:
        self.case, self.number = case, number
        dataset = case.dataset  # placed before anything is traced

        @jax.jit
        def prepare(config: Any, previous: Any, key: Any) -> tuple[Any, Transition]:
            stage = self.stage(config)
            state = (
                stage.prepare(previous, dataset, key) if stage.prepare else stage.learner.init(key)
            )
            env: Any = None
            sampler = case.job.sampler(stage, state, config, env, key)
            drawn = sampler.draw(sampler.init(dataset), dataset, key)
            return state, sampler.gather(dataset, drawn)

        @jax.jit
        def update(config: Any, state: Any, batch: Transition, key: Any) -> tuple[Any, Out]:
            return self.stage(config).learner.update(state, batch, key)

        self.prepare, self.update_of = prepare, update
        self.before, self.batch = jax.device_get(prepare(case.config, previous, case.key))
        self.again = jax.device_get(prepare(case.config, previous, case.key)[0])
        self.after = self.update(self.before, self.batch)

    def stage(self, config: Any) -> Stage:
        """The stage, as the method makes it of a config."""
        return self.case.job.stages(config, self.case.spec)[self.number]

    @property
    def name(self) -> str:
        """The stage's name, for sentences."""
        stages = self.case.job.stages(self.case.config, self.case.spec)
        return f"Stage '{stages[self.number].name}'" if len(stages) > 1 else "The learner"

    def update(self, state: Any, batch: Transition, key: Any = None) -> tuple[Any, Out]:
        """An update, on the host."""
        key = self.case.key if key is None else key
        return jax.device_get(self.update_of(self.case.config, state, batch, key))


def _differ(one: Any, other: Any, rtol: float = 0.0) -> str:
    """The path of the first leaf in which two trees differ; "" if none does."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True)
    for (path, a), b in pairs:
        if not np.allclose(a, b, rtol=rtol, atol=rtol, equal_nan=True):
            return f"state{jax.tree_util.keystr(path)}"
    return ""


# ---------------------------------------------------------------------------------------- the facts


def _config(case: _Case) -> Iterator[str]:
    if not (hasattr(case.module, "Config") and hasattr(case.module, "make")):
        yield "The module has no Config and make(config, spec)."
        return
    if not hasattr(case.module.Config, "replace"):
        yield "Config: expected a class with the decorator flax.struct.dataclass."
        return
    try:
        config = case.module.Config()
    except TypeError as error:
        yield f"Config: expected a default for every field, but {error}."
        return
    for name, kind in _NEEDED.items():
        value = getattr(config, name, None)
        if not isinstance(value, kind) or isinstance(value, bool):
            yield (
                f"Config.{name}: expected a whole number, made by jaxoff.config.static(...), found "
                f"{value!r}."
            )
    for field in dataclasses.fields(config):
        value, leaf = getattr(config, field.name), field.metadata.get("pytree_node", True)
        if leaf and not isinstance(value, float):
            yield (
                f"Config.{field.name}: expected a float, which is traced and may be swept, found "
                f"{value!r}; sizes, switches and words are static(...)."
            )


def _makes(case: _Case) -> Iterator[str]:
    made = case.module.make(case.config, dataclasses.replace(case.spec, longest=STEPS))
    stages = made if isinstance(made, tuple) and made and isinstance(made[0], Stage) else ()
    if not stages and not isinstance(made, Learner):
        yield f"make returns {type(made).__name__}: expected a Learner, or a tuple of Stage."
        return
    for stage in stages:
        if not isinstance(stage, Stage) or not isinstance(stage.learner, Learner):
            yield f"make returns a tuple with {type(stage).__name__}: expected Stage of a Learner."
            return
    # make runs in compiled programs, in which the numbers of a Config are traced
    jax.eval_shape(lambda config: len(case.job.stages(config, case.spec)), case.config)


def _updates(case: _Case) -> Iterator[str]:
    for stage in case.stages:
        (after, out), before = stage.after, stage.before
        if not isinstance(out, Out):
            yield f"{stage.name}: update returns {type(out).__name__}: expected (state, Out)."
            return
        if not same_form(before, after):
            yield f"{stage.name}: update gives a state of another structure than init."
            return
        leaves = jax.tree_util.tree_leaves_with_path(before)
        for (path, old), new in zip(leaves, jax.tree.leaves(after), strict=True):
            if (np.shape(old), np.asarray(old).dtype) != (np.shape(new), np.asarray(new).dtype):
                yield (
                    f"{stage.name}: state{jax.tree_util.keystr(path)} is "
                    f"{np.asarray(old).dtype}{list(np.shape(old))} before an update and "
                    f"{np.asarray(new).dtype}{list(np.shape(new))} after it: expected the same."
                )
            elif not np.isfinite(np.asarray(new, np.float64)).all():
                yield f"{stage.name}: state{jax.tree_util.keystr(path)} is not finite."
        for name, value in out.metrics.items():
            if np.shape(value) != ():
                yield f"{stage.name}: metric '{name}' has shape {np.shape(value)}: expected ()."


def _trains(case: _Case) -> Iterator[str]:
    for stage in case.stages:
        if not _differ(stage.before, stage.after[0]):
            yield f"{stage.name}: an update changes nothing in the state."


def _pure(case: _Case) -> Iterator[str]:
    for stage in case.stages:
        if path := _differ(stage.before, stage.again):
            yield f"{stage.name}: the same key gives another {path} after init the second time."
        fresh = jax.device_get(
            jax.jit(lambda c, s, b, k, stage=stage: stage.stage(c).learner.update(s, b, k))(
                case.config, stage.before, stage.batch, case.key
            )
        )
        if path := _differ(stage.after[0], fresh[0]):
            yield (
                f"{stage.name}: the same update gives another {path} the second time: expected "
                "pure functions that keep nothing between calls."
            )


def _runs(case: _Case) -> Iterator[str]:
    """Two runs with different settings and keys, mapped, equal each run beside a copy of itself.

    That is the same compiled program. Another one rounds otherwise, and Adam's first step makes a
    whole learning rate of the sign of a gradient near zero.
    """
    doubled = lambda x, y: jax.tree.map(lambda a, b: jnp.stack([a, b]), x, y)
    other = jax.tree.map(lambda x: x * 0.5, case.config)
    keys = jax.random.split(case.key, 2)
    for stage in case.stages:
        states = doubled(stage.before, stage.before)
        mapped = jax.vmap(stage.update_of, (0, 0, None, 0))
        both = jax.device_get(mapped(doubled(case.config, other), states, stage.batch, keys)[0])
        for run, config in enumerate((case.config, other)):
            twice = doubled(config, config), states, stage.batch, jnp.stack([keys[run]] * 2)
            alike = jax.device_get(mapped(*twice)[0])
            if path := _differ(*(jax.tree.map(lambda x, k=run: x[k], y) for y in (both, alike))):
                yield (
                    f"{stage.name}: run {run} of two (vmap) gets another {path} beside a different "
                    "run than beside one like it: expected runs that do not know of each other."
                )
                break


def _padding(case: _Case) -> Iterator[str]:
    for stage in case.stages:
        batch = stage.batch
        if batch.valid.ndim < 2 or (batch.valid != 0).all():
            continue
        absent = np.asarray(batch.valid == 0)
        # The slot after the last step may be read: a recurrent net is unrolled over it.
        beyond = absent & ~np.roll(~absent, 1, 1)
        put = lambda x, where, value: np.where(
            where.reshape(*where.shape, *[1] * (x.ndim - 2)), x.dtype.type(value), x
        )
        noise: dict[str, Any] = {
            "actions": 1,
            "reward": 1e3,
            "agent_reward": -1e3,
            "next_obs": -1e2,
            "next_state": 1e2,
            "terminated": 1,
        }
        noise = {
            name: put(getattr(batch, name), absent, value)
            for name, value in noise.items()
            if getattr(batch, name) is not None
        }
        noise |= {name: put(getattr(batch, name), beyond, 1e2) for name in ("obs", "state")}
        after = [stage.update(stage.after[0], x)[0] for x in (batch, batch._replace(**noise))]
        if path := _differ(*after):
            yield (
                f"{stage.name}: what lies in padding (valid 0) changes {path}: expected sums and "
                "means over valid steps alone."
            )


def _terminal(case: _Case) -> Iterator[str]:
    rng = np.random.default_rng(1)
    for stage in case.stages:
        batch = stage.batch
        single = batch.valid.ndim == 1
        first = np.ones_like(batch.valid)
        if not single:  # one step of each episode, which ends it
            first = np.broadcast_to(
                np.float32(np.arange(batch.valid.shape[1]) == 0), batch.valid.shape
            )
        steps = batch._replace(valid=first, terminated=first, truncated=0 * first)
        moved = {
            name: rng.normal(size=getattr(batch, name).shape).astype(np.float32)
            for name in ("next_obs", "next_state")
        }
        after = [stage.update(stage.after[0], x)[0] for x in (steps, steps._replace(**moved))]
        if path := _differ(*after):
            yield (
                f"{stage.name}: what follows a terminated step changes {path}: expected a value of "
                "zero beyond it."
            )


def _acts(case: _Case) -> Iterator[str]:
    spec = case.spec

    def act(config: Any, state: Any, seen: TimeStep, key: Any) -> Any:
        policy = case.stages[-1].stage(config).learner.policy(state)
        memory = policy.initial(seen.obs.shape[:-2])
        after, dist = policy.distribution(memory, seen)
        return memory, after, dist.sample(seed=key), dist.mode()

    for lead in ((), (7,)):
        seen = _seen(spec, lead)
        state = case.stages[-1].after[0]
        memory, after, *actions = jax.device_get(jax.jit(act)(case.config, state, seen, case.key))
        same = same_form(memory, after) and all(
            (np.shape(a), np.asarray(a).dtype) == (np.shape(b), np.asarray(b).dtype)
            for a, b in zip(jax.tree.leaves(memory), jax.tree.leaves(after), strict=True)
        )
        if not same:
            yield "The policy's memory has another form after a step than at first."
        for how, taken in zip(("sample", "mode"), actions, strict=True):
            if taken.shape != (*lead, *spec.action_shape):
                yield (
                    f"policy: {how} has shape {taken.shape} for observations {seen.obs.shape}: "
                    f"expected {(*lead, *spec.action_shape)}."
                )
            elif spec.discrete and taken.dtype.kind not in "iu":
                yield f"policy: {how} is {taken.dtype}: expected whole numbers."
            elif spec.discrete and (taken == NEVER).any():
                yield f"policy: {how} takes an action that is not available."
            elif not np.isfinite(taken).all():
                yield f"policy: {how} has numbers that are not finite."


def _seen(spec: EnvSpec, lead: tuple[int, ...]) -> TimeStep:
    """What agents see after a reset."""
    rng, n = np.random.default_rng(2), spec.num_agents
    normal = lambda *shape: jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32)
    avail = np.ones((*lead, n, spec.action_size), np.float32)
    if spec.discrete:
        avail[..., NEVER] = 0
    no, first = jnp.zeros(lead, bool), -1 if spec.discrete else 0.0
    last = jnp.full((*lead, *spec.action_shape), first)
    obs, state = normal(n, spec.obs_size), normal(spec.state_size)
    return TimeStep(obs, state, jnp.asarray(avail), jnp.zeros(lead), no, no, last)


def _unavailable(case: _Case) -> Iterator[str]:
    """An unavailable action has no probability, whatever the parameters are."""
    if not case.spec.discrete:
        return
    seen = _seen(case.spec, (64,))

    @jax.jit
    def chance(config: Any, state: Any) -> Any:
        policy = case.stages[-1].stage(config).learner.policy(state)
        dist = policy.distribution(policy.initial((64,)), seen)[1]
        return dist.probs[..., NEVER]

    most = float(np.max(jax.device_get(chance(case.config, case.stages[-1].after[0]))))
    if most > 0:
        yield (
            f"policy: an action that is not available has a probability of up to {most:.3g}: "
            "expected 0 (TimeStep.avail)."
        )


FACTS = {
    "Config has defaults, floats that are traced, and static sizes.": _config,
    "make(config, spec) gives a Learner or Stages, also of traced numbers.": _makes,
    "init and update give states of the same form, of finite numbers.": _updates,
    "An update trains something.": _trains,
    "The same key and batch give the same update.": _pure,
    "Runs side by side do not change each other.": _runs,
    "Padding changes nothing.": _padding,
    "What follows a terminated step changes nothing.": _terminal,
    "The policy acts for any number of episodes, in the form of the actions.": _acts,
    "Actions that are not available are never taken.": _unavailable,
}
