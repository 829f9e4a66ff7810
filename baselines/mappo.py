"""MAPPO and IPPO (Yu et al., 2022; de Witt et al., 2020): on-policy training of behaviour policies.

Clipped surrogate (Schulman et al., 2017, Eq. 7) -> policy_loss; generalised advantages (Schulman et
al., 2016, Eq. 16) -> advantages. One actor for all agents, with the agent's number; the critic maps
the global state to a value for every agent (MAPPO), or each agent's observation to its own (IPPO,
`central=False`). Differs: value targets are standardised by running moments instead of PopArt; the
policy loss of an agent with a single available action (a dead unit) is left out; learning rate and
entropy weight fall linearly to zero, the latter earlier, so that the last policies learn to do
without exploring.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff import distributions
from jaxoff.config import static
from jaxoff.nets.actors import Actors
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.training.on_policy import OnPolicy, Segments
from jaxoff.types import Array, Carry, Distribution, EnvSpec, Key, Params, Policy, TimeStep


@struct.dataclass
class Config:
    """Settings; floats are traced."""

    lr: float = 1e-3
    clip: float = 0.2  # Eq. 7, epsilon
    entropy: float = 0.01  # weight at the start
    entropy_until: float = 0.6  # share of training after which it is zero
    discount: float = 0.99
    trace: float = 0.95  # lambda of the advantages
    log_std: float = -0.5  # of continuous actions, at the start
    noise: float = 0.1  # standard deviation of continuous actions when evaluated and in datasets
    temperature: float = 1.0  # of choices when evaluated and in datasets
    central: bool = static(True)
    recurrent: bool = static(True)
    hidden: int = static(64)
    critic_hidden: int = static(128)
    layer_init: LayerInit = static("flax")  # how layers start: jaxoff/nets/layers.py
    epochs: int = static(4)
    minibatches: int = static(4)
    num_envs: int = static(128)
    segment: int = static(64)  # steps between updates
    iterations: int = static(300)
    snapshots: int = static(50)


class Nets(NamedTuple):
    """Parameters. `log_std` [A] is unused where actions are discrete."""

    actor: Params
    log_std: Array
    critic: Params


class Moments(NamedTuple):
    """Running mean and mean square of value targets, and the weight they have gathered (from
    zero).
    """

    mean: Array
    square: Array
    weight: Array


class State(NamedTuple):
    """What training moves."""

    nets: Nets
    optimiser: Any
    moments: Moments
    updates: Array  # int32 []


def actors(config: Config, spec: EnvSpec) -> Actors:
    """The actor net that a pool's parameters belong to."""
    return Actors(
        spec, config.hidden, recurrent=config.recurrent, share=True, layer_init=config.layer_init
    )


def cooled(actor: Params, temperature: Array | float) -> Params:
    """An actor whose logits are divided by the temperature: its last layer is."""
    layers = dict(actor["params"])
    head = max(name for name in layers if name.startswith("Dense_"))
    return {"params": layers | {head: jax.tree.map(lambda x: x / temperature, layers[head])}}


def moved(moments: Moments, target: Array) -> Moments:
    """The moments after another batch of targets, which weighs a tenth."""
    keep = 0.9
    fresh = Moments(target.mean(), jnp.square(target).mean(), jnp.ones(()))
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, moments, fresh)


def scale(moments: Moments) -> tuple[Array, Array]:
    """Mean and standard deviation that the moments tell; 0 and 1 before the first batch."""
    known = jnp.maximum(moments.weight, 1e-6)
    mean = moments.mean / known
    return mean, jnp.where(
        moments.weight > 0,
        jnp.sqrt(jnp.maximum(moments.square / known - jnp.square(mean), 1e-6)),
        1.0,
    )


# ------------------------------------------------------------------------------------------- losses


def advantages(
    values: Array,
    next_values: Array,
    reward: Array,
    terminated: Array,
    ended: Array,
    discount: Array | float,
    trace: Array | float,
) -> Array:
    """Generalised advantages [T, ...], Eq. 16, over segments in which episodes end.

    The value beyond a terminated step is zero, beyond a truncated one it is next_values; the sum
    over later steps stops at either.
    """
    delta = reward + discount * (1 - terminated) * next_values - values

    def back(later: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        gap, end = step
        total = gap + discount * trace * (1 - end) * later
        return total, total

    return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, ended), reverse=True)[1]


def policy_loss(
    log_prob: Array, old_log_prob: Array, advantage: Array, clip: Array | float
) -> Array:
    """Clipped surrogate, Eq. 7 of PPO with its sign turned; [...] unreduced."""
    ratio = jnp.exp(log_prob - old_log_prob)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


# ------------------------------------------------------------------------------------------ learner


def make(config: Config, spec: EnvSpec) -> OnPolicy:
    """The learner for environments of `spec`.

    Raises ValueError where `minibatches` does not divide `num_envs`.
    """
    if config.num_envs % config.minibatches:
        raise ValueError(
            "mappo: field 'minibatches': expected a divisor of num_envs = "
            f"{config.num_envs}, found {config.minibatches}"
        )
    actor = actors(config, spec)
    critic = MLP(
        (config.critic_hidden,) * 2 + (spec.num_agents if config.central else 1,),
        layer_init=config.layer_init,
    )
    total = config.iterations * config.epochs * config.minibatches
    optimiser = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adam(lambda count: config.lr * (1 - count / total), eps=1e-5),
    )

    def value(nets: Nets, obs: Array, state: Array) -> Array:  # [..., N], standardised
        if config.central:
            return critic.apply(nets.critic, state)
        number = jnp.broadcast_to(jnp.eye(spec.num_agents), (*obs.shape[:-1], spec.num_agents))
        return critic.apply(nets.critic, jnp.concatenate([obs, number], -1))[..., 0]

    def dist_of(out: Array, log_std: Array) -> Distribution:
        if spec.discrete:
            return distributions.categorical(out)
        return distributions.normal(out, log_std)

    def init(key: Key) -> State:
        actor_key, critic_key = jax.random.split(key)
        width = spec.state_size if config.central else spec.obs_size + spec.num_agents
        log_std = jnp.full(spec.action_size, config.log_std)
        nets = Nets(actor.init(actor_key), log_std, critic.init(critic_key, jnp.zeros(width)))
        return State(nets, optimiser.init(nets), Moments(*jnp.zeros(3)), jnp.zeros((), jnp.int32))

    def stochastic(params: Params, log_std: Array) -> Policy:
        mean = actor.policy(params)
        if spec.discrete:
            return mean

        def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
            memory, dist = mean.distribution(memory, seen)
            return memory, dist_of(dist.mode(), log_std)

        return Policy(mean.initial, distribution)

    def behaviour(state: State) -> Policy:
        return stochastic(state.nets.actor, state.nets.log_std)

    def policy_of(params: Params) -> Policy:
        return stochastic(params, jnp.full(spec.action_size, jnp.log(config.noise)))

    def loss(
        nets: Nets, part: dict[str, Any], entropy: Array | float
    ) -> tuple[Array, dict[str, Array]]:
        seg: Segments = part["segments"]
        dist = dist_of(actor.unroll(nets.actor, seg.memory, seg.seen, seg.reset), nets.log_std)
        log_prob = dist.log_prob(seg.actions)  # [B, T, N]
        # A unit with one thing to do (a dead one) has no policy to improve.
        free = (
            (seg.seen.avail.sum(-1) > 1).astype(jnp.float32)
            if spec.discrete
            else jnp.ones_like(log_prob)
        )
        count = jnp.maximum(free.sum(), 1.0)
        mean = (part["advantage"] * free).sum() / count
        std = jnp.sqrt((jnp.square(part["advantage"] - mean) * free).sum() / count)
        surrogate = policy_loss(
            log_prob, part["log_prob"], (part["advantage"] - mean) / (std + 1e-8), config.clip
        )
        spread = dist.entropy()
        fit = jnp.square(value(nets, seg.seen.obs, seg.seen.state) - part["target"])
        surrogate, spread = ((x * free).sum() / count for x in (surrogate, spread))
        return surrogate - entropy * spread + 0.5 * fit.mean(), {
            "policy_loss": surrogate,
            "entropy": spread,
            "value_loss": fit.mean(),
        }

    def update(state: State, seg: Segments, key: Key) -> tuple[State, dict[str, Array]]:
        """Some passes over the segments, in shuffled parts of environments."""
        nets = state.nets
        mean, std = scale(state.moments)
        now, then = (
            value(nets, obs, s) * std + mean
            for obs, s in ((seg.seen.obs, seg.seen.state), (seg.next_obs, seg.next_state))
        )
        ended = (seg.terminated | seg.truncated)[..., None]
        now_, then_, reward, terminated, ended = (
            jnp.moveaxis(x.astype(jnp.float32), 1, 0)
            for x in (now, then, seg.reward, seg.terminated[..., None], ended)
        )
        gae = advantages(now_, then_, reward, terminated, ended, config.discount, config.trace)
        advantage = jnp.moveaxis(gae, 0, 1)
        target = advantage + now
        moments = moved(state.moments, target)
        mean, std = scale(moments)
        old = dist_of(
            actor.unroll(nets.actor, seg.memory, seg.seen, seg.reset), nets.log_std
        ).log_prob(seg.actions)
        whole = {
            "segments": seg,
            "advantage": advantage,
            "target": (target - mean) / std,
            "log_prob": old,
        }
        weight = config.entropy * jnp.maximum(
            0.0, 1 - state.updates / (config.entropy_until * config.iterations)
        )

        def one(carry: tuple[Nets, Any], index: Array) -> tuple[tuple[Nets, Any], dict[str, Array]]:
            nets, opt = carry
            part = jax.tree.map(lambda x: x[index], whole)
            (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(nets, part, weight)
            steps, opt = optimiser.update(grads, opt, nets)
            return (optax.apply_updates(nets, steps), opt), metrics

        envs = seg.reset.shape[0]
        orders = jax.vmap(lambda k: jax.random.permutation(k, envs))(
            jax.random.split(key, config.epochs)
        )
        (nets, opt), metrics = jax.lax.scan(
            one, (nets, state.optimiser), orders.reshape(config.epochs * config.minibatches, -1)
        )
        metrics = jax.tree.map(jnp.mean, metrics) | {"reward": seg.reward.mean()}
        return State(nets, opt, moments, state.updates + 1), metrics

    def kept(state: State) -> Params:
        return cooled(state.nets.actor, config.temperature) if spec.discrete else state.nets.actor

    return OnPolicy(init, behaviour, update, kept, policy_of)
