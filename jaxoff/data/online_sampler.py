"""The built-in sampler `online`: the learner acts, and draws from its own replay buffer.

It replaces the dataset for any off-policy method of one stage, on any environment in jit:
`--sampler online`. The sampler's state holds the environments and a flashbax replay buffer, so it
is saved, resumed and mapped over runs like the state of every other sampler. An environment whose
episode ends is reset after its last observation is stored; `terminated` and `truncated` are stored
separately.
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
    """Settings of the replay buffer and of exploration. Floats are leaves, the rest is static."""

    # continuous actions: standard deviation of Gaussian exploration noise, as a share of the action
    # bound
    noise: float = 0.1
    # discrete actions: initial share of an agent's actions that are uniformly random among the
    # available ones
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05  # final share of random actions
    epsilon_steps: float = 50_000.0  # joint steps over which epsilon goes to epsilon_end
    num_envs: int = static(16)  # number of environments that are stepped together
    collect: int = static(1)  # joint steps in each environment before each update
    # minimum number of joint steps with random actions before the first update
    warmup: int = static(1024)
    capacity: int = static(100_000)  # maximum number of joint steps in the replay buffer


class Actors(NamedTuple):
    """The environments between two steps; leading axis [num_envs]."""

    env: State
    seen: TimeStep
    memory: Carry
    steps_before: Array  # steps made in the current episode
    episode: Array  # unique number of the current episode


class Online(NamedTuple):
    """State of the sampler. `buffer` holds Transitions [num_envs, capacity // num_envs, ...]."""

    actors: Actors
    buffer: TrajectoryBufferState
    steps: Array  # number of joint steps made so far


def make(config: Config, batch_size: int, window: int) -> Sampler:
    """Raise InvalidSetting: acting needs an environment and a learner, see `make_acting`."""
    raise InvalidSetting("sampler 'online': expected an environment to act in, found a dataset")


def make_acting(
    config: Config, batch_size: int, window: int, env: Env, policy: Policy, key: Key
) -> Sampler:
    """The sampler for an environment and an initial policy.

    window: 0 for single steps, -1 for whole episodes, k > 0 for windows of k steps. policy: the
    policy that acts until the first update. key: random key for the first environments and steps.
    The `items` of a draw are the batch itself, since slots of the replay buffer are soon
    overwritten. Raises InvalidSetting naming the field if no data can be collected or a window does
    not fit in the buffer.
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
    """Share of uniformly random actions after `steps` joint steps; 0 for continuous actions.

    Continuous actions are explored by noise instead.
    """
    if not env.spec.discrete:
        return 0.0
    return config.epsilon_start + jnp.minimum(steps / config.epsilon_steps, 1.0) * (
        config.epsilon_end - config.epsilon_start
    )


def start(env: Env, policy: Policy, key: Key, num_envs: int) -> Actors:
    """Reset every environment to the start of an episode."""
    states, seen = jax.vmap(env.reset)(jax.random.split(key, num_envs))
    number = jnp.arange(num_envs)
    actors = Actors(states, seen, policy.initial((num_envs,)), jnp.zeros_like(number), number)
    # Environments start from literals with weak types, but arrays of later steps have strong types.
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
    """Make `steps` joint steps in every environment.

    Returns the environments after them, and the transitions [num_envs, steps, ...]. noise: standard
    deviation of the noise on continuous actions, as a share of the action bound; discrete actions
    are sampled from the policy. uniform: share of the agents' actions that are uniformly random
    among the available ones.
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
        last_actions=seen.last_actions,
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
    """Windows [B, length, ...] that begin at uniformly drawn steps of the replay buffer.

    whole: begin at the start of the drawn step's episode instead. Slots beyond the end of the
    episode, or beyond the newest step, have `valid` 0: no window runs from one episode into the
    next, or from the newest step to the oldest. The slot after the last valid one has what was
    observed after that step, as in a `Dataset`. If the first steps of an episode have already been
    overwritten, it begins at its oldest step that is left.
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
    beyond = (valid[:, :-1] > 0) & (valid[:, 1:] == 0)

    def seen_after(now: Array, after: Array) -> Array:
        where = beyond.reshape(*beyond.shape, *[1] * (now.ndim - 2))
        return now.at[:, 1:].set(jnp.where(where, after[:, :-1], now[:, 1:]))

    seen = {
        name: seen_after(getattr(batch, name), getattr(batch, f"next_{name}"))
        for name in ("obs", "state", "avail")
    }
    return batch._replace(valid=valid, agent_reward=own, **ends, **seen)
