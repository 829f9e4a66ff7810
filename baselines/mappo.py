"""MAPPO and IPPO (Yu et al., 2022; de Witt et al., 2020): on-policy training of behaviour policies.

Clipped surrogate (Schulman et al., 2017, Eq. 7) -> policy_loss; generalised advantages (Schulman et
al., 2016, Eq. 16) -> advantages. One actor for all agents, with the agent's number; the critic maps
the global state to a value for every agent (MAPPO), or each agent's observation to its own value
(IPPO, `central=False`). Differs: value targets are standardised by running moments instead of
PopArt; the policy loss of an agent with a single available action (a dead unit) is left out;
learning rate and entropy weight fall linearly to zero, the latter earlier, so that the last
policies learn to act without exploration. With `input_norm=running` nets see observations and
states standardised by the moments of all of them so far, which become part of the actor's first
layer in every policy that plays (jaxoff/nets/inputs.py). Where the environment has a script, the
actor may first imitate it (`clone`, `imitation`), on the states that the actor itself comes to
(Ross et al., 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxoff import blocks, distributions
from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.nets import inputs
from jaxoff.nets.actors import Actors
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.nets.units import unit_list
from jaxoff.optimisers import adam
from jaxoff.training.on_policy import OnPolicy, Segments
from jaxoff.types import Array, Carry, Distribution, EnvSpec, Key, Params, Policy, TimeStep


@struct.dataclass
class Config:
    """Settings; floats are traced."""

    lr: float = 1e-3
    clip: float = 0.2  # epsilon of the clipped surrogate (Eq. 7)
    entropy: float = 0.01  # initial weight of the entropy bonus
    entropy_until: float = 0.6  # share of training after which the entropy weight is zero
    gamma: float = 0.99
    trace: float = 0.95  # lambda of the generalised advantages
    log_std: float = -0.5  # initial log standard deviation of continuous actions
    least_std: float = 0.0  # least standard deviation of continuous actions in training
    noise: float = 0.1  # standard deviation of continuous actions in evaluations and datasets
    temperature: float = 1.0  # temperature of discrete actions in evaluations and datasets
    clone: float = 0.0  # share of training in which the actor only imitates the script
    imitation: float = 0.0  # weight of the imitation at the start of training, beside the surrogate
    imitation_until: float = 0.5  # share of training after which that weight is zero
    central: bool = static(True)  # the critic sees the global state (MAPPO); false: IPPO
    recurrent: bool = static(True)  # actor with a GRU
    units: bool = static(False)  # actor that treats units of a battle alike: jaxoff/nets/units.py
    hidden: int = static(64)  # width of the actor
    critic_hidden: int = static(128)  # width of the critic's two hidden layers
    layer_init: LayerInit = static("flax")  # initialisation of the layers: jaxoff/nets/layers.py
    # where it is not 0, the weights of the last layer start in +-head (not of a recurrent actor
    # without units)
    head: float = static(0.0)
    max_grad_norm: float = 0.5  # limit of the global norm of the gradients of both nets; 0: none
    # running: inputs of the nets are standardised by the moments of all inputs so far
    input_norm: Literal["none", "running"] = static("none")
    # minibatches are parts of all environments, or of all single steps (without a memory)
    shuffle: Literal["environments", "steps"] = static("environments")
    epochs: int = static(4)  # passes over the segments in an iteration
    # parts of the segments in a pass; a divisor of num_envs, or of the number of single steps
    minibatches: int = static(4)
    num_envs: int = static(128)  # environments that are played side by side
    segment: int = static(64)  # steps of each environment between updates
    iterations: int = static(300)  # rounds of playing a segment and training on it
    snapshots: int = static(50)  # policies that are kept in the course of training


class Nets(NamedTuple):
    """Parameters. `log_std` [A] is unused where actions are discrete."""

    actor: Params
    log_std: Array
    critic: Params


class Moments(NamedTuple):
    """Exponential averages of value targets and of their squares, and the total weight in them,
    which grows from zero.
    """

    mean: Array
    square: Array
    weight: Array


class State(NamedTuple):
    """Everything that training updates."""

    nets: Nets
    optimiser: Any
    moments: Moments
    updates: Array  # int32 []
    inputs: Any = ()  # moments of observations and of states; empty without input_norm


def actors(config: Config, spec: EnvSpec) -> Actors:
    """The actor network that the parameters of a policy pool belong to."""
    return Actors(
        spec,
        config.hidden,
        recurrent=config.recurrent,
        units=config.units,
        share=True,
        head=config.head,
        layer_init=config.layer_init,
    )


def cooled(actor: Params, temperature: Array | float) -> Params:
    """An actor whose logits, and so its last layers, are divided by the temperature."""
    layers = dict(actor["params"])
    dense = [name for name in layers if name.startswith("Dense_")]
    heads = [max(dense)] if dense else ["action", "attack"]  # of `UnitNet`
    cool = {name: jax.tree.map(lambda x: x / temperature, layers[name]) for name in heads}
    return {"params": layers | cool}


def moved(moments: Moments, target: Array) -> Moments:
    """The moments after one more batch of targets, which has a weight of a tenth."""
    keep = 0.9
    fresh = Moments(target.mean(), jnp.square(target).mean(), jnp.ones(()))
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, moments, fresh)


def scale(moments: Moments) -> tuple[Array, Array]:
    """Mean and standard deviation by the moments; 0 and 1 before the first batch."""
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
    gamma: Array | float,
    trace: Array | float,
) -> Array:
    """Generalised advantages [T, ...], Eq. 16, over segments in which episodes end.

    The value after a terminated step is zero, after a truncated one it is next_values; the sum over
    later steps stops at either.
    """
    delta = reward + gamma * (1 - terminated) * next_values - values

    def back(later: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        gap, end = step
        total = gap + gamma * trace * (1 - end) * later
        return total, total

    return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, ended), reverse=True)[1]


def policy_loss(
    log_prob: Array, old_log_prob: Array, advantage: Array, clip: Array | float
) -> Array:
    """Minus the clipped surrogate, Eq. 7 of PPO; [...] unreduced."""
    ratio = jnp.exp(log_prob - old_log_prob)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


# ------------------------------------------------------------------------------------------ learner


class Method(NamedTuple):
    """Networks and optimiser of one config for one environment."""

    config: Config
    spec: EnvSpec
    actor: Any
    critic: MLP
    optimiser: optax.GradientTransformation
    script: Callable[[TimeStep], Array] | None = None  # the actions to imitate; None: no imitation


def values(m: Method, nets: Nets, obs: Array, state: Array) -> Array:
    """Standardised values of the agents [..., N]."""
    if m.config.central:
        return m.critic.apply(nets.critic, state)
    n = m.spec.num_agents
    number = jnp.broadcast_to(jnp.eye(n), (*obs.shape[:-1], n))
    return m.critic.apply(nets.critic, jnp.concatenate([obs, number], -1))[..., 0]


def dist_of(m: Method, out: Array, log_std: Array) -> Distribution:
    """Distribution of actions from the outputs of the actor."""
    if m.spec.discrete:
        return distributions.categorical(out)
    return distributions.normal(out, log_std)


def log_std_of(m: Method, nets: Nets) -> Array:
    """Log standard deviation of continuous actions in training."""
    return jnp.maximum(nets.log_std, jnp.log(m.config.least_std))


def stochastic(m: Method, params: Params, log_std: Array) -> Policy:
    """The actor's policy; continuous actions are drawn around its outputs."""
    mean = m.actor.policy(params)
    if m.spec.discrete:
        return mean

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
        memory, dist = mean.distribution(memory, seen)
        return memory, dist_of(m, dist.mode(), log_std)

    return Policy(mean.initial, distribution)


def played(state: State) -> Params:
    """The actor's parameters for observations as they are."""
    actor = state.nets.actor
    return inputs.folded(actor, state.inputs[0]) if state.inputs else actor


def standardised(state: State, seg: Segments) -> Segments:
    """Segments with standardised observations and states."""
    if not state.inputs:
        return seg
    obs, states = (lambda x, k=k: inputs.standardised(state.inputs[k], x) for k in range(2))
    seen = seg.seen._replace(obs=obs(seg.seen.obs), state=states(seg.seen.state))
    return seg._replace(seen=seen, next_obs=obs(seg.next_obs), next_state=states(seg.next_state))


def row_bytes(m: Method, seg: Segments) -> int:
    """Bytes of the largest layer for the segment of one environment."""
    config, (_, steps, agents) = m.config, seg.reward.shape
    listed = unit_list(m.spec) if config.units else None
    copies = 3 if config.recurrent else 1
    if listed:
        copies = max(listed.allies + listed.enemies, 2 * copies)
    actor = agents * config.hidden * copies  # of units, or the gates of a GRU
    critic = config.critic_hidden * (1 if config.central else agents)
    return 4 * steps * max(actor, critic)


class Part(NamedTuple):
    """What a minibatch of environments is trained on, beside its segments [B, T, ...]; fields are
    [B, T, N].
    """

    advantage: Array
    target: Array  # standardised value
    log_prob: Array  # of the actions, by the policy that drew them
    weight: Array  # of an action in the losses
    value_weight: Array  # of a value in the losses
    advice: Array | None = None  # actions of the script


def normalised(part: Part) -> Part:
    """A minibatch with standardised advantages, and with weights that sum to 1."""
    weight, value_weight = (x / jnp.maximum(x.sum(), 1.0) for x in (part.weight, part.value_weight))
    mean = (part.advantage * weight).sum()
    std = jnp.sqrt((jnp.square(part.advantage - mean) * weight).sum())
    return part._replace(
        advantage=(part.advantage - mean) / (std + 1e-8), weight=weight, value_weight=value_weight
    )


def log_prob_of(m: Method, nets: Nets, seg: Segments) -> tuple[Array, Distribution]:
    """Log-probabilities [B, T, N] of the actions of segments, and the distributions."""
    out = m.actor.unroll(nets.actor, seg.memory, seg.seen, seg.reset)
    dist = dist_of(m, out, log_std_of(m, nets))
    return dist.log_prob(seg.actions), dist


class Shares(NamedTuple):
    """Weights of the terms of the actor's loss."""

    entropy: Array | float
    surrogate: Array | float = 1.0
    imitation: Array | float = 0.0


def shares_at(config: Config, updates: Array) -> Shares:
    """The weights after a number of updates."""
    done = updates / config.iterations
    entropy = config.entropy * jnp.maximum(0.0, 1 - done / config.entropy_until)
    imitation = config.imitation * jnp.maximum(0.0, 1 - done / config.imitation_until)
    cloning = done < config.clone
    return Shares(entropy, jnp.where(cloning, 0.0, 1.0), jnp.where(cloning, 1.0, imitation))


def loss_of(
    m: Method, nets: Nets, seg: Segments, part: Part, shares: Shares
) -> tuple[Array, dict[str, Array]]:
    """Clipped surrogate, entropy bonus, value error and, with a script, the negative log-likelihood
    of its actions, as weighted sums over [B, T, N].
    """
    log_prob, dist = log_prob_of(m, nets, seg)
    surrogate = policy_loss(log_prob, part.log_prob, part.advantage, m.config.clip)
    fit = jnp.square(values(m, nets, seg.seen.obs, seg.seen.state) - part.target)
    surrogate, spread = ((x * part.weight).sum() for x in (surrogate, dist.entropy()))
    fit = (fit * part.value_weight).sum()
    metrics = {"policy_loss": surrogate, "entropy": spread, "value_loss": fit}
    total = shares.surrogate * surrogate - shares.entropy * spread + 0.5 * fit
    if part.advice is not None:
        metrics["imitation_loss"] = -(dist.log_prob(part.advice) * part.weight).sum()
        total = total + shares.imitation * metrics["imitation_loss"]
    return total, metrics


def targets(m: Method, nets: Nets, moments: Moments, seg: Segments) -> tuple[Array, Array]:
    """Advantages (GAE) and value targets [B, T, N], in units of the return."""
    mean, std = scale(moments)
    now, then = (
        values(m, nets, obs, state) * std + mean
        for obs, state in ((seg.seen.obs, seg.seen.state), (seg.next_obs, seg.next_state))
    )
    ended = (seg.terminated | seg.truncated)[..., None]
    now_, then_, reward, terminated, ended = (
        jnp.moveaxis(x.astype(jnp.float32), 1, 0)
        for x in (now, then, seg.reward, seg.terminated[..., None], ended)
    )
    gamma, trace = m.config.gamma, m.config.trace
    gae = advantages(now_, then_, reward, terminated, ended, gamma, trace)
    advantage = jnp.moveaxis(gae, 0, 1)
    return advantage, advantage + now


def update(m: Method, state: State, seg: Segments, key: Key) -> tuple[State, dict[str, Array]]:
    """`epochs` passes over the segments, in shuffled minibatches of environments or steps."""
    nets, config, seen = state.nets, m.config, seg.seen
    advice = m.script(seen) if m.script else None  # a script knows no standardised states
    seg = standardised(state, seg)
    advantage, target = targets(m, nets, state.moments, seg)
    if config.shuffle == "steps":
        seg, advantage, target, advice = jax.tree.map(
            lambda x: x.reshape(-1, 1, *x.shape[2:]), (seg, advantage, target, advice)
        )
    moments = moved(state.moments, target)
    mean, std = scale(moments)
    size = row_bytes(m, seg)
    weight = jnp.ones_like(advantage)
    if m.spec.discrete:  # a unit with a single available action is dead and has nothing to learn
        weight = (seg.seen.avail.sum(-1) > 1).astype(jnp.float32)
    behaviour = lambda nets, seg: log_prob_of(m, nets, seg)[0]
    whole = Part(
        advantage,
        (target - mean) / std,
        blocks.of_each(behaviour, nets, (seg,), weight[..., 0], size),
        weight,
        jnp.ones_like(advantage),
        advice,
    )
    shares = shares_at(config, state.updates)

    def loss(nets: Nets, part: Part, index: Array) -> tuple[Array, dict[str, Array]]:
        # The segments of a block are looked up within it, which spares a copy of them all.
        return loss_of(m, nets, jax.tree.map(lambda x: x[index], seg), part, shares)

    def one(carry: tuple[Nets, Any], index: Array) -> tuple[tuple[Nets, Any], dict[str, Array]]:
        nets, opt = carry
        rows = normalised(jax.tree.map(lambda x: x[index], whole)), index
        total = lambda nets: blocks.summed(
            loss, nets, rows, (0, 0), blocks.count_of(len(index), size)
        )
        (_, metrics), grads = jax.value_and_grad(total, has_aux=True)(nets)
        steps, opt = m.optimiser.update(grads, opt, nets)
        return (optax.apply_updates(nets, steps), opt), metrics

    keys = jax.random.split(key, config.epochs)
    orders = jax.vmap(lambda k: jax.random.permutation(k, seg.reset.shape[0]))(keys)
    parts = orders.reshape(config.epochs * config.minibatches, -1)
    (nets, opt), metrics = jax.lax.scan(one, (nets, state.optimiser), parts)
    metrics = jax.tree.map(jnp.mean, metrics) | {"reward": seg.reward.mean()}
    more = tuple(map(inputs.extended, state.inputs, (seen.obs, seen.state)))
    return State(nets, opt, moments, state.updates + 1, more), metrics


def method_of(
    config: Config, spec: EnvSpec, script: Callable[[TimeStep], Array] | None = None
) -> Method:
    """Networks and optimiser.

    Raises InvalidSetting for minibatches of unequal size, for what a recurrent actor or actions of
    the kind do not read, and for an imitation without a script.
    """
    imitates = [name for name in ("clone", "imitation") if getattr(config, name) > 0]
    if imitates and script is None:
        raise InvalidSetting(
            f"mappo: field '{imitates[0]}': expected 0, since {spec.name} has no script to "
            f"imitate, found {getattr(config, imitates[0]):g}"
        )
    kind = "discrete" if spec.discrete else "continuous"
    for name in ("log_std", "least_std", "noise") if spec.discrete else ("temperature",):
        usual, found = getattr(Config, name), getattr(config, name)
        if not np.isclose(found, usual):
            raise InvalidSetting(
                f"mappo: field '{name}': expected {usual:g}, since the {kind} actions of "
                f"{spec.name} do not read it, found {found:g}"
            )
    if config.units:
        if config.input_norm != "none":
            raise InvalidSetting(
                f"mappo: field 'input_norm': expected none with units=true, found "
                f"{config.input_norm}"
            )
        if unit_list(spec) is None:
            raise InvalidSetting(
                f"mappo: field 'units': expected false, since observations of {spec.name} do not "
                f"list units"
            )
    single = config.shuffle == "steps"
    if config.recurrent and (single or (config.head and not config.units)):
        field, wanted = ("shuffle", "environments") if single else ("head", "0")
        raise InvalidSetting(
            f"mappo: field '{field}': expected {wanted} with recurrent=true, found "
            f"{getattr(config, field)}"
        )
    size, name = config.num_envs, "num_envs"
    if single:
        size, name = size * config.segment, "num_envs * segment"
    if size % config.minibatches:
        raise InvalidSetting(
            f"mappo: field 'minibatches': expected a divisor of {name} = {size}, found "
            f"{config.minibatches}"
        )
    outputs = spec.num_agents if config.central else 1
    critic = MLP((config.critic_hidden,) * 2 + (outputs,), layer_init=config.layer_init)
    total = config.iterations * config.epochs * config.minibatches
    optimiser = adam(lambda count: config.lr * (1 - count / total), config.max_grad_norm, eps=1e-5)
    teacher = script if imitates else None
    return Method(config, spec, actors(config, spec), critic, optimiser, teacher)


def make(
    config: Config, spec: EnvSpec, script: Callable[[TimeStep], Array] | None = None
) -> OnPolicy:
    """The learner for environments of `spec`. Raises what `method_of` does.

    script: the actions [..., N] of the environment's scripted policy at a time step, if it has one.
    """
    m = method_of(config, spec, script)

    def init(key: Key) -> State:
        actor_key, critic_key = jax.random.split(key)
        width = spec.state_size if config.central else spec.obs_size + spec.num_agents
        log_std = jnp.full(spec.action_size, config.log_std)
        critic = m.critic.init(critic_key, jnp.zeros(width))
        nets = Nets(m.actor.init(actor_key), log_std, critic)
        start = Moments(*jnp.zeros(3)), jnp.zeros((), jnp.int32)
        sizes = (spec.obs_size, spec.state_size) if config.input_norm == "running" else ()
        return State(nets, m.optimiser.init(nets), *start, tuple(map(inputs.unseen, sizes)))

    def policy_of(params: Params) -> Policy:
        return stochastic(m, params, jnp.full(spec.action_size, jnp.log(config.noise)))

    def kept(state: State) -> Params:
        actor = played(state)
        return cooled(actor, config.temperature) if spec.discrete else actor

    return OnPolicy(
        init,
        lambda state: stochastic(m, played(state), log_std_of(m, state.nets)),
        lambda state, seg, key: update(m, state, seg, key),
        kept,
        policy_of,
    )
