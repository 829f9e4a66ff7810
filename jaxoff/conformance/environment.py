"""The facts that every environment keeps, checked on one of any package."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxoff import registry
from jaxoff.conformance.findings import Findings, Remark, check, same_form
from jaxoff.data.recipes import random_policy
from jaxoff.envs.from_jaxmarl import FromJaxMARL
from jaxoff.types import Env, EnvSpec, TimeStep

EPISODES = 6
_SIZES = ("num_agents", "obs_size", "state_size", "action_size", "horizon")
_PER_AGENT = {"obs_sizes": "obs_size", "action_sizes": "action_size", "agent_types": ""}
_NOT_PLAYED = "expected a task or an environment that can be stepped, found a specification alone"


def check_env(env: Any, *, seed: int = 0, tolerance: float = 1e-3) -> Findings:
    """Check an environment, or that of a task, against the contract `types.Env`.

    It is played at random, beyond the end of episodes. An environment of JaxMARL is checked as
    `FromJaxMARL` has it. tolerance: of numbers that two compiled programs give.
    """
    name = env if isinstance(env, str) else ""
    made = registry.make_env(env) if isinstance(env, str) else env
    made = FromJaxMARL(made) if hasattr(made, "step_env") else made
    name = name or str(getattr(getattr(made, "spec", None), "name", type(made).__name__))
    return check(name, FACTS, 3, made, _Played(made, seed, tolerance))


class _Played:
    """Episodes of random play, made when they are first asked for."""

    def __init__(self, env: Env, seed: int, tolerance: float) -> None:
        self.env, self.key, self.tolerance = env, jax.random.key(seed), tolerance

    @functools.cached_property
    def steps(self) -> TimeStep:
        """Time steps [2 horizon + 1, E, ...], which go on after the end of an episode."""
        return walk(self.env, self.key)


def walk(env: Env, key: Any) -> TimeStep:
    """Time steps [2 horizon + 1, E, ...] of available actions at random, beyond every end."""
    policy = random_policy(env.spec)

    def one(carry: Any, keys: Any) -> Any:
        state, seen = carry
        masks = jnp.where(seen.avail.any(-1, keepdims=True), seen.avail, 1.0)
        actions = policy.distribution((), seen._replace(avail=masks))[1].sample(seed=keys[0])
        dtype = jnp.int32 if env.spec.discrete else jnp.float32
        carry = env.step(keys[1], state, actions.astype(dtype))
        return carry, carry[1]

    def play(key: Any) -> TimeStep:
        reset, steps = jax.random.split(key)
        first = env.reset(reset)
        keys = jax.vmap(jax.random.split)(jax.random.split(steps, 2 * env.spec.horizon))
        rest = lax.scan(one, first, keys)[1]
        return jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), first[1], rest)

    keys = jax.random.split(key, EPISODES)
    return jax.device_get(jax.jit(jax.vmap(play, out_axes=1))(keys))


# ----------------------------------------------------------------------------- before it is played


def _specification(env: Env, played: _Played) -> Iterator[str]:
    spec = getattr(env, "spec", None)
    if not isinstance(spec, EnvSpec):
        yield f"env.spec: expected an EnvSpec, found {type(spec).__name__}."
        return
    if not (hasattr(env, "reset") and hasattr(env, "step")):
        yield f"{spec.name}: {_NOT_PLAYED}."
        return
    for name in _SIZES:
        value = getattr(spec, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield f"spec.{name}: expected a whole number of at least 1, found {value!r}."
    if not isinstance(spec.discrete, bool):
        yield f"spec.discrete: expected true or false, found {spec.discrete!r}."
    if not (isinstance(spec.action_bound, int | float) and 0 < spec.action_bound < math.inf):
        yield f"spec.action_bound: expected a number above 0, found {spec.action_bound!r}."
    for name, size in _PER_AGENT.items():
        values = getattr(spec, name)
        if values and len(values) != spec.num_agents:
            yield f"spec.{name}: expected {spec.num_agents} numbers, one per agent, found {values}."
        elif values and size and max(values) != getattr(spec, size):
            yield f"spec.{name}: expected a largest of {getattr(spec, size)}, found {values}."
    try:
        hash(spec)
    except TypeError as error:
        yield f"spec: expected values that can be hashed (tuples and not lists), but {error}."


def _expected(spec: EnvSpec) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape and the type of each field of a time step."""
    n = spec.num_agents
    return {
        "obs": ((n, spec.obs_size), "float32"),
        "state": ((spec.state_size,), "float32"),
        "avail": ((n, spec.action_size), "float32"),
        "reward": ((), "float32"),
        "terminated": ((), "bool"),
        "truncated": ((), "bool"),
        "last_actions": (spec.action_shape, "int32" if spec.discrete else "float32"),
    }


def _forms(spec: EnvSpec, made: Any, when: str) -> Iterator[str]:
    """What is wrong with the shapes and types that a reset or a step gives."""
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], TimeStep)):
        yield f"{when} it returns {type(made).__name__}: expected (state, TimeStep)."
        return
    wanted = _expected(spec)
    if made[1].agent_reward is not None:
        wanted["agent_reward"] = ((spec.num_agents,), "float32")
    for name, (shape, dtype) in wanted.items():
        found = getattr(made[1], name)
        if not hasattr(found, "shape"):
            yield f"{when} {name} is a {type(found).__name__}: expected an array."
        elif (found.shape, found.dtype.name) != (shape, dtype):
            yield (
                f"{when} {name} is {found.dtype.name}{list(found.shape)}: expected "
                f"{dtype}{list(shape)}."
            )


def _resets(env: Env, played: _Played) -> Iterator[str]:
    spec = env.spec
    made = jax.eval_shape(env.reset, played.key)
    yield from (wrong := list(_forms(spec, made, "After a reset")))
    if wrong:
        return
    _, seen = jax.device_get(jax.jit(env.reset)(played.key))
    if seen.terminated or seen.truncated:
        yield "After a reset an end flag is set: expected neither."
    if seen.reward != 0 or np.any(0 if seen.agent_reward is None else seen.agent_reward):
        yield "After a reset the reward is not 0."
    first = -1 if spec.discrete else 0
    if (seen.last_actions != first).any():
        yield f"After a reset last_actions is {seen.last_actions.tolist()}: expected {first}."


def _steps(env: Env, played: _Played) -> Iterator[str]:
    spec = env.spec
    state, seen = jax.eval_shape(env.reset, played.key)
    dtype = jnp.int32 if spec.discrete else jnp.float32
    actions = jax.ShapeDtypeStruct(spec.action_shape, dtype)
    made = jax.eval_shape(env.step, played.key, state, actions)
    yield from (wrong := list(_forms(spec, made, "After a step")))
    if wrong:
        return
    if (seen.agent_reward is None) != (made[1].agent_reward is None):
        yield "agent_reward is there after a reset or after a step only: expected both or neither."
    before, after = (jax.tree_util.tree_flatten_with_path(x)[0] for x in (state, made[0]))
    if not same_form(state, made[0]):
        yield (
            f"A step gives a state of another structure: expected {jax.tree.structure(state)}, "
            f"found {jax.tree.structure(made[0])}."
        )
        return
    for (path, old), (_, new) in zip(before, after, strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            yield (
                f"state{jax.tree_util.keystr(path)} is {old.dtype}{list(old.shape)} after a reset "
                f"and {new.dtype}{list(new.shape)} after a step: expected the same."
            )


# --------------------------------------------------------------------------------- as it is played


def _lengths(steps: TimeStep) -> tuple[np.ndarray, np.ndarray]:
    """The number of the step at which each episode ends [E], and which steps [T, E] are before it.

    An episode that does not end has the number of all steps.
    """
    ended = steps.terminated | steps.truncated
    first = np.where(ended.any(0), ended.argmax(0), len(ended))
    return first, np.arange(len(ended))[:, None] <= first


def _ends(env: Env, played: _Played) -> Iterator[str]:
    steps, horizon = played.steps, env.spec.horizon
    both = int((steps.terminated & steps.truncated).sum())
    if both:
        yield (
            f"In {both} steps both end flags are set: expected terminated where the rules end the "
            "episode, and truncated where the time limit does."
        )
    first, _ = _lengths(steps)
    late = int((first > horizon).sum())
    if late:
        yield (
            f"{late} of {EPISODES} episodes of random play do not end within spec.horizon = "
            f"{horizon} steps: expected truncated after that many."
        )
        return
    each = np.arange(EPISODES)
    cut = steps.truncated[first, each] & ~steps.terminated[first, each]
    early = first[cut & (first < horizon)]
    if len(early):
        yield (
            f"The time limit (truncated) ends an episode after {early[0]} steps: expected "
            f"spec.horizon = {horizon}; an end by the rules is terminated."
        )
    whole = first == horizon
    if horizon > 1 and whole.any() and not cut[whole].any():
        yield Remark(
            f"All {int(whole.sum())} episodes that last spec.horizon = {horizon} steps end as "
            "terminated. If that is the time limit, say truncated: values beyond it are not zero."
        )


def _goes_on(env: Env, played: _Played) -> Iterator[str]:
    """A clock that starts again after an end tells an environment that resets itself."""
    steps, horizon = played.steps, env.spec.horizon
    first, _ = _lengths(steps)
    again = 0
    for number, end in enumerate(first):
        cut = np.flatnonzero(steps.truncated[end + 1 :, number]) + 1
        again += horizon > 1 and len(cut) > 0 and cut[0] == horizon
    if again:
        yield (
            f"After {again} of {EPISODES} ends the clock starts again, and ends another episode "
            f"{horizon} steps later: expected no automatic reset, which loses the last observation."
        )


def _values(env: Env, played: _Played) -> Iterator[str]:
    spec, steps = env.spec, played.steps
    _, live = _lengths(steps)
    for name in ("obs", "state", "reward", "agent_reward", "last_actions"):
        value = getattr(steps, name)
        if value is not None and not np.isfinite(value[live]).all():
            yield f"{name} has numbers that are not finite."
    if ((steps.avail[live] != 0) & (steps.avail[live] != 1)).any():
        yield "avail has numbers other than 0 and 1."
    terminal = steps.terminated & live
    lacks = live & ~terminal & ~(steps.avail != 0).any(-1).all(-1)
    if lacks.any():
        step, episode = np.argwhere(lacks)[0]
        yield (
            f"After {step} steps of episode {episode} an agent has no available action: expected "
            "at least one for each agent until the episode terminates."
        )
    if not spec.discrete and (steps.avail[live] != 1).any():
        yield "avail is not all ones, although actions are real."
    if steps.agent_reward is not None:
        gap = np.abs(steps.agent_reward.mean(-1) - steps.reward)[live].max()
        if gap > played.tolerance * (1 + np.abs(steps.reward[live]).max()):
            yield f"reward differs from the mean of agent_reward by {gap:.3g}: expected the mean."


def _padding(env: Env, played: _Played) -> Iterator[str]:
    spec, steps = env.spec, played.steps
    _, live = _lengths(steps)
    for name, sizes, all_sizes in (
        ("obs", spec.obs_sizes, spec.obs_size),
        ("avail", spec.action_sizes if spec.discrete else (), spec.action_size),
    ):
        beyond = np.arange(all_sizes) >= np.array(sizes or all_sizes).reshape(-1, 1)
        if (getattr(steps, name)[live] * beyond).any():
            yield f"{name} is not 0 beyond the true sizes {sizes} of the agents."
    if spec.discrete or not spec.action_sizes:
        return
    state, _ = jax.jit(env.reset)(played.key)
    beyond = np.arange(spec.action_size) >= np.array(spec.action_sizes)[:, None]
    step = jax.jit(env.step)
    one, other = (
        step(played.key, state, jnp.asarray(np.where(beyond, x, 0.0), jnp.float32))[1]
        for x in (0.0, spec.action_bound)
    )
    if not np.array_equal(one.obs, other.obs) or one.reward != other.reward:
        yield "Numbers of an action beyond an agent's true size change the step: expected not."


def _same(one: TimeStep, other: TimeStep, tolerance: float, live: np.ndarray) -> str:
    """The first field in which time steps differ; "" if none does."""
    for name, a, b in zip(TimeStep._fields, one, other, strict=True):
        if a is None:
            continue
        a, b = (np.asarray(x)[live].astype(np.float64) for x in (a, b))
        if not np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            return name
    return ""


def _keys(env: Env, played: _Played) -> Iterator[str]:
    again = walk(env, played.key)
    everywhere = np.ones(again.reward.shape, bool)
    if name := _same(played.steps, again, 0.0, everywhere):
        yield (
            f"The same key gives another {name} the second time: expected pure functions, whose "
            "only randomness is their key and which keep nothing between calls."
        )


def _alone(env: Env, played: _Played) -> Iterator[str]:
    keys = jax.random.split(played.key, 3)
    state, seen = jax.jit(jax.vmap(env.reset))(keys)
    actions = random_policy(env.spec).distribution((), seen)[1].sample(seed=played.key)
    dtype = jnp.int32 if env.spec.discrete else jnp.float32
    actions = actions.astype(dtype)
    many = jax.device_get(jax.jit(jax.vmap(env.step))(keys, state, actions)[1])
    alone = jax.tree.map(lambda x: x[1], state)
    one = jax.device_get(jax.jit(env.step)(keys[1], alone, actions[1])[1])
    second = jax.tree.map(lambda x: x[1], many)
    if name := _same(second, one, played.tolerance, np.ones((), bool)):
        yield (
            f"A step among others (vmap) gives another {name} than alone: expected the same, so "
            "that nothing depends on other environments."
        )
    if not np.array_equal(one.last_actions, np.asarray(actions[1])):
        yield "last_actions differs from the actions that the step was given."


FACTS = {
    "The specification is complete, and its sizes fit each other.": _specification,
    "reset(key) gives a state and a TimeStep of the specified shapes and types.": _resets,
    "step(key, state, actions) gives the same again, and a state of the same form.": _steps,
    "Every episode ends within the horizon, by the rules or by the time limit.": _ends,
    "After its end an episode does not start anew by itself.": _goes_on,
    "Numbers are finite, masks are 0 and 1, and every agent can act.": _values,
    "What lies beyond an agent's true sizes is 0, and has no effect.": _padding,
    "The same key gives the same episode.": _keys,
    "A step alone equals the step among others.": _alone,
}
