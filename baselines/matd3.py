"""MATD3 (Ackermann et al., 2019), TD3 (Fujimoto et al., 2018) for several agents: it trains
behaviour policies with continuous actions online.

    sum_k mean (Q_k(s, a) - y)^2,
        y = r + gamma (1 - terminated) min_k Q'_k(s', pi'(o') + noise)         -> critic_loss
    -mean Q_1(s, pi(o))                                                       -> actor_loss
One actor for all agents, with the agent's number, and one pair of critics for the team, which see
the state and the actions of all agents. In an iteration, a segment is played in every environment
and stored, and `rounds` rounds are trained: `policy_every` steps of the critics, one of the actor,
one of the target networks. Differs: the agents' actions change together in the actor's objective;
the critics learn the mean of the agents' rewards; environments are played side by side, with fewer
updates than steps; the learning rates fall linearly to zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxoff import distributions
from jaxoff.config import static
from jaxoff.envs.rolling import bounded
from jaxoff.errors import InvalidSetting
from jaxoff.losses.td import one_step_target
from jaxoff.nets.actors import Actors
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.optimisers import adam
from jaxoff.training.on_policy import OnPolicy, Segments
from jaxoff.types import Array, Carry, Distribution, EnvSpec, Key, Params, Policy, TimeStep

ACTIONS = ("continuous",)


@struct.dataclass
class Config:
    """Settings; floats are traced."""

    lr: float = 3e-4  # learning rate of the actor at the start (Adam)
    critic_lr: float = 3e-4  # learning rate of the critics at the start (Adam)
    gamma: float = 0.99
    polyak: float = 0.005  # share of the online parameters in a target update
    explore: float = 0.1  # standard deviation of actions in training, as a share of the bound
    target_noise: float = 0.2  # standard deviation of the noise on target actions, likewise
    noise_clip: float = 0.5  # bound on the noise on target actions, likewise
    noise: float = 0.1  # standard deviation of actions in evaluations and datasets
    warmup: float = 25_000.0  # joint steps before the first update, with a deviation of the bound
    hidden: int = static(128)  # width of the actor's two hidden layers
    critic_hidden: int = static(256)  # width of the critics' two hidden layers
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    policy_every: int = static(2)  # steps of the critics for each step of the actor
    batch_size: int = static(256)  # joint steps in a batch
    capacity: int = static(300_000)  # most joint steps in the replay buffer
    num_envs: int = static(16)  # environments that are played side by side
    segment: int = static(16)  # steps of each environment between updates
    rounds: int = static(8)  # steps of the actor after a segment
    iterations: int = static(4000)  # rounds of playing a segment and training
    snapshots: int = static(25)  # policies that are kept in the course of training


class Nets(NamedTuple):
    """Parameters; the critics' have a leading axis [2]."""

    actor: Params
    critic: Params


class State(NamedTuple):
    """Everything that training updates. buffer [capacity, F]: steps, each packed as one row."""

    nets: Nets
    targets: Nets
    optimisers: tuple[Any, Any]
    buffer: Array
    stored: Array  # int32 [], joint steps stored so far


class Rows(NamedTuple):
    """Joint steps of the replay buffer; leading axis [B]."""

    obs: Array  # [B, N, O]
    state: Array
    actions: Array  # [B, N, A], within the bound
    reward: Array  # [B], mean of the agents'
    terminated: Array
    next_obs: Array
    next_state: Array


class Method(NamedTuple):
    """Networks and optimisers of one config for one environment."""

    config: Config
    spec: EnvSpec
    actor: Actors
    critic: MLP
    optimisers: tuple[optax.GradientTransformation, optax.GradientTransformation]


def actors(config: Config, spec: EnvSpec) -> Actors:
    """The actor network that the parameters of a policy pool belong to."""
    return Actors(spec, config.hidden, share=True, layer_init=config.layer_init)


# ------------------------------------------------------------------------------------------- buffer


def _shapes(spec: EnvSpec) -> Rows:
    obs = (spec.num_agents, spec.obs_size)
    state: tuple[int, ...] = (spec.state_size,)
    shapes: Any = Rows(obs, state, spec.action_shape, (), (), obs, state)  # type: ignore[arg-type]
    return shapes


def stored(m: Method, state: State, seg: Segments) -> State:
    """The state with the steps of segments in the buffer, in the place of the oldest."""
    rows = Rows(
        seg.seen.obs,
        seg.seen.state,
        bounded(m.spec, seg.actions),
        seg.reward.mean(-1),
        seg.terminated.astype(jnp.float32),
        seg.next_obs,
        seg.next_state,
    )
    count = seg.terminated.size
    packed = jnp.concatenate([x.reshape(count, -1) for x in rows], -1)
    place = (state.stored + jnp.arange(count)) % m.config.capacity
    return state._replace(buffer=state.buffer.at[place].set(packed), stored=state.stored + count)


def drawn(m: Method, state: State, index: Array) -> Rows:
    """Joint steps of the buffer by their places [B]."""
    shapes = _shapes(m.spec)
    sizes = [int(np.prod(shape)) for shape in shapes]
    parts = jnp.split(state.buffer[index], np.cumsum(sizes)[:-1], -1)
    return Rows(*(x.reshape(-1, *shape) for x, shape in zip(parts, shapes, strict=True)))


# ------------------------------------------------------------------------------------------- losses


def played(m: Method, actor: Params, obs: Array) -> Array:
    """Actions [..., N, A] of the actor, without noise."""
    nothing: Any = None
    seen = TimeStep(obs, *[nothing] * 6)
    actions: Array = m.actor.policy(actor).distribution((), seen)[1].mode()
    return actions


def values(m: Method, critic: Params, state: Array, actions: Array) -> Array:
    """Values of joint actions by each of the critics, [K, B]."""
    x = jnp.concatenate([state, actions.reshape(*actions.shape[:-2], -1)], -1)
    return jax.vmap(m.critic.apply, in_axes=(0, None))(critic, x)[..., 0]


def critic_loss(
    m: Method, critic: Params, targets: Nets, rows: Rows, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Sum of the twins' mean squared errors."""
    c, bound = m.config, m.spec.action_bound
    noise = c.target_noise * jax.random.normal(key, rows.actions.shape)
    noise = bound * jnp.clip(noise, -c.noise_clip, c.noise_clip)
    ahead = bounded(m.spec, played(m, targets.actor, rows.next_obs) + noise)
    value = values(m, targets.critic, rows.next_state, ahead).min(0)
    target = one_step_target(rows.reward, rows.terminated, value, c.gamma)
    found = values(m, critic, rows.state, rows.actions)
    loss = jnp.square(found - target).mean(-1).sum()
    return loss, {"critic_loss": loss, "value": found.mean()}


def actor_loss(m: Method, actor: Params, critic: Params, rows: Rows) -> Array:
    """Minus the first critic's mean value of the actor's joint actions."""
    first = jax.tree.map(lambda x: x[:1], critic)
    return -values(m, first, rows.state, played(m, actor, rows.obs)).mean()


# ------------------------------------------------------------------------------------------ learner


def train_round(m: Method, state: State, key: Key) -> tuple[State, dict[str, Array]]:
    """`policy_every` steps of the critics, then one of the actor and of the target networks."""
    (actor, critic), (actor_opt, critic_opt) = state.nets, state.optimisers
    draw_key, *keys = jax.random.split(key, m.config.policy_every + 1)
    held = jnp.minimum(state.stored, m.config.capacity)
    shape = (m.config.policy_every, m.config.batch_size)
    for index, noise_key in zip(jax.random.randint(draw_key, shape, 0, held), keys, strict=True):
        rows = drawn(m, state, index)
        grads, metrics = jax.grad(
            lambda critic, rows=rows, key=noise_key: critic_loss(
                m, critic, state.targets, rows, key
            ),
            has_aux=True,
        )(critic)
        steps, critic_opt = m.optimisers[1].update(grads, critic_opt)
        critic = optax.apply_updates(critic, steps)
    grads = jax.grad(lambda actor: actor_loss(m, actor, critic, rows))(actor)
    steps, actor_opt = m.optimisers[0].update(grads, actor_opt)
    nets = Nets(optax.apply_updates(actor, steps), critic)
    targets = optax.incremental_update(nets, state.targets, m.config.polyak)
    return State(nets, targets, (actor_opt, critic_opt), state.buffer, state.stored), metrics


def update(m: Method, state: State, seg: Segments, key: Key) -> tuple[State, dict[str, Array]]:
    """Store segments, and train `rounds` rounds once there are enough steps."""
    state = stored(m, state, seg)

    def one(learnt: Any, key: Key) -> tuple[Any, dict[str, Array]]:
        # The buffer is no part of what a round changes, and so is never copied.
        after, metrics = train_round(m, state._replace(**learnt), key)
        return {name: getattr(after, name) for name in learnt}, metrics

    def train(before: Any) -> tuple[Any, dict[str, Array]]:
        return jax.lax.scan(one, before, jax.random.split(key, m.config.rounds))

    def wait(before: Any) -> tuple[Any, dict[str, Array]]:
        like = jax.eval_shape(train, before)[1]
        return before, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    before = {name: getattr(state, name) for name in ("nets", "targets", "optimisers")}
    learnt, metrics = jax.lax.cond(state.stored >= m.config.warmup, train, wait, before)
    metrics = jax.tree.map(jnp.mean, metrics) | {"reward": seg.reward.mean()}
    return state._replace(**learnt), metrics


def noisy(m: Method, actor: Params, deviation: Array | float) -> Policy:
    """The actor's policy with Gaussian noise on its actions."""
    plain = m.actor.policy(actor)

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
        memory, dist = plain.distribution(memory, seen)
        return memory, distributions.normal(dist.mode(), jnp.log(deviation))

    return Policy(plain.initial, distribution)


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Networks and optimisers. Raises InvalidSetting for discrete actions, and for a buffer that is
    smaller than what is played between two updates.
    """
    if spec.discrete:
        raise InvalidSetting(
            f"matd3: environment '{spec.name}': expected continuous actions, found "
            f"{spec.action_size} discrete ones"
        )
    least = config.num_envs * config.segment
    if config.capacity < least:
        raise InvalidSetting(
            f"matd3: field 'capacity': expected at least num_envs * segment = {least}, found "
            f"{config.capacity}"
        )
    critic = MLP((config.critic_hidden,) * 2 + (1,), layer_init=config.layer_init)
    total = config.iterations * config.rounds
    falling = lambda lr, total: adam(lambda count: lr * jnp.maximum(0.0, 1 - count / total))
    optimisers = falling(config.lr, total), falling(config.critic_lr, total * config.policy_every)
    return Method(config, spec, actors(config, spec), critic, optimisers)


def make(config: Config, spec: EnvSpec, script: object = None) -> OnPolicy:
    """The learner for environments of `spec`. Raises what `method_of` does.

    script: of the environment, which this method does not imitate.
    """
    m = method_of(config, spec)

    def init(key: Key) -> State:
        actor_key, critic_key = jax.random.split(key)
        width = spec.state_size + spec.num_agents * spec.action_size
        start = jax.vmap(lambda key: m.critic.init(key, jnp.zeros(width)))
        nets = Nets(m.actor.init(actor_key), start(jax.random.split(critic_key)))
        opts = tuple(map(lambda opt, net: opt.init(net), m.optimisers, nets))
        size = sum(int(np.prod(shape)) for shape in _shapes(spec))
        buffer = jnp.zeros((config.capacity, size))
        return State(nets, nets, opts, buffer, jnp.zeros((), jnp.int32))

    def behaviour(state: State) -> Policy:
        share = jnp.where(state.stored < config.warmup, 1.0, config.explore)
        return noisy(m, state.nets.actor, share * spec.action_bound)

    return OnPolicy(
        init,
        behaviour,
        lambda state, seg, key: update(m, state, seg, key),
        lambda state: state.nets.actor,
        lambda params: noisy(m, params, config.noise),
    )
