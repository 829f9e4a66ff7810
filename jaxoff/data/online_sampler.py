"""The built-in sampler `online`: instead of drawing from a dataset, the learner acts, and draws
from what it has seen.

For any off-policy method of one stage, on any environment in jit: `--sampler online`. Its state
holds the environments and a flashbax ring buffer, and so is saved, resumed and mapped over runs as
that of every other sampler. Episodes that end restart, after their last observation is stored;
`terminated` and `truncated` are stored apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import flashbax
import jax
import jax.numpy as jnp
from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
from flax import struct

from jaxoff.config import static
from jaxoff.data.recipes import random_policy
from jaxoff.envs.rolling import bounded
from jaxoff.errors import InvalidSetting
from jaxoff.types import (
    Array,
    Carry,
    Env,
    Feedback,
    Key,
    Policy,
    Sampler,
    State,
    TimeStep,
    Transition,
)


@struct.dataclass
class Config:
    """Floats are leaves, the rest is static."""

    # standard deviation of Gaussian exploration, as a share of the action bound; real actions
    noise: float = 0.1
    epsilon_start: float = 1.0  # share of uniformly random available actions of each agent; choices
    epsilon_end: float = 0.05
    epsilon_steps: float = 50_000.0  # joint steps until epsilon_end
    num_envs: int = static(16)
    collect: int = static(1)  # joint steps in each environment, before each update
    warmup: int = static(1024)  # joint steps with random actions before the first update, at least
    capacity: int = static(100_000)  # joint steps that are kept, at most


class Actors(NamedTuple):
    """The environments between two steps; leading axis [num_envs]."""

    env: State
    seen: TimeStep
    memory: Carry
    steps_before: Array
    episode: Array  # numbers that no other episode has


class Online(NamedTuple):
    """State of the sampler. `buffer` holds Transitions [num_envs, capacity // num_envs, ...]."""

    actors: Actors
    buffer: TrajectoryBufferState
    steps: Array  # joint steps made


def make(config: Config, batch_size: int, window: int) -> Sampler:
    """Refused: acting needs an environment and a learner, see `make_acting`."""
    raise InvalidSetting("sampler 'online': expected an environment to act in, found a dataset")


def make_acting(
    config: Config, batch_size: int, window: int, env: Env, policy: Policy, key: Key
) -> Sampler:
    """window: 0 for single steps, -1 for whole episodes, k > 0 for windows of k steps.

    policy: the first to act; key: of the start.

    `items` of a draw are the batch itself, as the places of a ring are soon others'. Raises
    InvalidSetting naming the field where nothing can be collected or a window does not fit.
    """
    if not hasattr(env, "step"):
        raise InvalidSetting(
            f"sampler 'online' on '{env.spec.name}': expected an environment in jit, found "
            "public data without one"
        )
    per_env, needed = config.capacity // config.num_envs, max(config.collect, window, 1)
    if per_env < needed:
        raise InvalidSetting(
            "sampler 'online': field 'capacity': expected at least "
            f"{needed * config.num_envs}, {needed} of each environment, "
            f"found {config.capacity}"
        )
    length = env.spec.horizon if window < 0 else max(window, 1)
    ring = flashbax.make_trajectory_buffer(
        config.num_envs, batch_size, length, 1, 0, max_length_time_axis=per_env
    )

    def collect(
        state: Online, policy: Policy, steps: int, key: Key, uniform: Array | float
    ) -> Online:
        actors, rows = act(env, policy, state.actors, steps, key, config.noise, uniform)
        return Online(actors, ring.add(state.buffer, rows), state.steps + steps * config.num_envs)

    def init(dataset: Any) -> Online:
        start_key, example_key, *keys = jax.random.split(key, 4)
        actors = start(env, policy, start_key, config.num_envs)
        row = jax.eval_shape(lambda: act(env, policy, actors, 1, example_key, 0.0, 0.0)[1])
        buffer = ring.init(jax.tree.map(lambda x: jnp.zeros(x.shape[2:], x.dtype), row))
        state = Online(actors, buffer, jnp.zeros((), jnp.int32))
        fill = min(-(-config.warmup // config.num_envs), per_env)
        if fill:
            state = collect(state, policy, fill, keys[0], 1.0)
        return collect(
            state, policy, config.collect, keys[1], uniform_share(config, env, state.steps)
        )

    def feedback(state: Online, dataset: Any, outcome: Feedback) -> Online:
        return collect(
            state,
            outcome.online or outcome.policy,
            config.collect,
            outcome.key,
            uniform_share(config, env, state.steps),
        )

    def draw(state: Online, dataset: Any, key: Key) -> Any:
        batch = sample(state.buffer, key, batch_size, length, whole=window < 0)
        return batch if window else jax.tree.map(lambda x: x[:, 0], batch)

    return Sampler(init, draw, lambda dataset, items: cast(Any, items), feedback)


def uniform_share(config: Config, env: Env, steps: Array) -> Array | float:
    """Share of uniformly random actions after so many joint steps; real actions have noise
    instead.
    """
    if not env.spec.discrete:
        return 0.0
    return config.epsilon_start + jnp.minimum(steps / config.epsilon_steps, 1.0) * (
        config.epsilon_end - config.epsilon_start
    )


def start(env: Env, policy: Policy, key: Key, num_envs: int) -> Actors:
    """Every environment at the start of an episode."""
    states, seen = jax.vmap(env.reset)(jax.random.split(key, num_envs))
    number = jnp.arange(num_envs)
    actors = Actors(states, seen, policy.initial((num_envs,)), jnp.zeros_like(number), number)
    # Environments start from literals, whose types are weak; those of later steps are not.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), actors)


def act(
    env: Env,
    policy: Policy,
    actors: Actors,
    steps: int,
    key: Key,
    noise: Array | float,
    uniform: Array | float,
) -> tuple[Actors, Transition]:
    """`steps` joint steps in every environment: what they led to, and the steps [num_envs, steps,
    ...].

    noise: of real actions, as a share of the bound; choices are sampled from the policy. uniform:
    share of agents' actions that are uniformly random among the available ones.
    """
    after, rows = jax.lax.scan(
        lambda now, k: _step(env, policy, now, k, noise, uniform),
        actors,
        jax.random.split(key, steps),
    )
    return after, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), rows)


def _step(
    env: Env, policy: Policy, actors: Actors, key: Key, noise: Array | float, uniform: Array | float
) -> tuple[Actors, Transition]:
    act_key, random_key, mix_key, step_key, reset_key = jax.random.split(key, 5)
    num_envs, seen, spec = actors.episode.shape[0], actors.seen, env.spec
    memory, dist = policy.distribution(actors.memory, seen)
    if spec.discrete:
        actions = dist.sample(seed=act_key)
    else:
        mode = dist.mode()
        actions = mode + noise * spec.action_bound * jax.random.normal(act_key, mode.shape)
    by_chance = random_policy(spec).distribution((), seen)[1].sample(seed=random_key)
    mixed = jax.random.bernoulli(mix_key, uniform, seen.obs.shape[:2])
    actions = bounded(
        spec, jnp.where(mixed.reshape(*mixed.shape, *[1] * (actions.ndim - 2)), by_chance, actions)
    )
    states, after = jax.vmap(env.step)(jax.random.split(step_key, num_envs), actors.env, actions)
    ended = after.terminated | after.truncated
    row = Transition(
        obs=seen.obs,
        state=seen.state,
        avail=seen.avail,
        actions=actions,
        reward=after.reward,
        terminated=after.terminated.astype(jnp.float32),
        truncated=(after.truncated & ~after.terminated).astype(jnp.float32),
        valid=jnp.ones(num_envs),
        steps_before=actors.steps_before,
        episode=actors.episode,
        next_obs=after.obs,
        next_state=after.state,
        next_avail=after.avail,
        agent_reward=after.agent_reward,
    )
    fresh_states, fresh_seen = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))
    ongoing = (states, after, memory, actors.steps_before + 1, actors.episode)
    restarted = (
        fresh_states,
        fresh_seen,
        policy.initial((num_envs,)),
        jnp.zeros_like(actors.episode),
        actors.episode + num_envs,
    )
    pick = lambda a, b: jnp.where(ended.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    return Actors._make(jax.tree.map(pick, restarted, ongoing)), row


def sample(
    buffer: TrajectoryBufferState, key: Key, batch_size: int, length: int, whole: bool
) -> Transition:
    """Windows [B, length, ...] that begin at steps drawn uniformly; whole: at the start of the
    episode of such a step.

    What lies beyond the end of the episode, or has not been seen yet, is there with `valid` 0: no
    window runs from one episode into the next, or from the newest step to the oldest. The first
    steps of an episode may be overwritten already; it then begins later.
    """
    rows = buffer.experience
    num_envs, capacity = rows.reward.shape
    count = jnp.where(buffer.is_full, capacity, buffer.current_index)
    oldest = jnp.where(buffer.is_full, buffer.current_index, 0)
    env_key, step_key = jax.random.split(key)
    who = jax.random.randint(env_key, (batch_size, 1), 0, num_envs)
    last = count if whole else jnp.maximum(count - length + 1, 1)
    age = jax.random.randint(step_key, (batch_size, 1), 0, last)
    if whole:
        age = jnp.maximum(age - rows.steps_before[who, (oldest + age) % capacity], 0)
    age = age + jnp.arange(length)
    batch = jax.tree.map(lambda x: x[who, (oldest + age) % capacity], rows)
    valid = ((age < count) & (batch.episode == batch.episode[:, :1])).astype(jnp.float32)
    ends = {name: getattr(batch, name) * valid for name in ("reward", "terminated", "truncated")}
    own = None if batch.agent_reward is None else batch.agent_reward * valid[..., None]
    return batch._replace(valid=valid, agent_reward=own, **ends)
