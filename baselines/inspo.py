"""InSPO: in-sample sequential policy optimisation (Liu et al., AAAI 2025).

Eq. 21, 22 -> behaviour stage: mu_i, and mu_i(a_-i | s, a_i) for the ratio. Eq. 23 -> draw_sample.
Eq. 10, 24 -> critic_step. Eq. 13, 20, 25 -> actor_step. The formulas are in
jaxoff/losses/in_sample.py. Algorithm 1 -> update: agents are updated one after the other, each with
the policies already updated in this iteration. Our choices, since the paper prints no constants:
expectations over a' are exact sums; policy weights are divided by their mean (normalise); the ratio
is a geometric mean over the n-1 teammates (ratio_power). Ablations: beta_start=0 (without entropy),
spo=off_rho1 (no teammate tracking), spo=off_stale (teammates' policies as they were at the start of
the iteration).
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxoff import blocks
from jaxoff.batches import flatten
from jaxoff.blocks import averaged, length_order, of_each, replaced, widest
from jaxoff.config import static
from jaxoff.data.dataset import Dataset
from jaxoff.errors import InvalidSetting
from jaxoff.learners.behaviour import Behaviour, behaviour_learner
from jaxoff.losses.in_sample import (
    conservative_value_loss,
    log_ratio,
    policy_weight,
    resample,
    soft_value,
    weighted_policy_loss,
)
from jaxoff.losses.likelihood import expectation, log_prob, masked_mean, taken
from jaxoff.losses.td import one_step_target
from jaxoff.nets.actors import Actors
from jaxoff.nets.behaviour import TeammateModel
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.optimisers import adam
from jaxoff.types import Array, EnvSpec, Key, Learner, Out, Params, Stage, Transition

MIN_LOG_MU = math.log(1e-6)
ALPHA_RANGE = (1e-3, 100.0)
NETS = ("policy", "critic", "target_critic")
METRICS = ("value", "policy", "divergence", "alpha", "effective_rows")

ACTIONS = ("discrete",)


@struct.dataclass
class Config:
    """Settings. Where the paper gives no number, we chose the default."""

    lr: float = 3e-4  # learning rate of every net (Adam)
    lr_alpha: float = 3e-4  # learning rate of alpha (Adam), with auto_alpha
    gamma: float = 0.99  # discount
    polyak: float = 0.005  # share of the online parameters in a target update
    alpha: float = 0.1  # weight of KL(pi | mu) (Eq. 9); its initial value with auto_alpha
    alpha_target: float = 0.2  # target of KL(pi | mu) with auto_alpha (Eq. 25), nats per agent
    # initial weight of the entropy (Eq. 9), decays exponentially; 0: no entropy
    beta_start: float = 0.1
    beta_end: float = 0.001  # weight of the entropy at the end of the stage
    cql: float = 0.1  # weight of the conservative term (Eq. 24, lambda)
    max_grad_norm: float = 10.0  # gradient-norm limit of each net
    auto_alpha: bool = static(False)  # adapt alpha so that KL(pi | mu) meets alpha_target (Eq. 25)
    # order in which the agents are updated
    order: Literal["random", "fixed", "semi-greedy"] = static("random")
    # teammates in the ratio of Eq. 23. on: updated; off_rho1: ratio 1; off_stale: before the update
    spo: Literal["on", "off_rho1", "off_stale"] = static("on")
    # resampling as integer weights on rows, or by copying rows (not if recurrent)
    resample: Literal["weights", "rows"] = static("weights")
    ratio_power: Literal["n-1", "n"] = static("n-1")  # exponent of the teammates' ratio: 1 / this
    # baseline of advantages: E_pi Q, or the regularised value (Eq. 10)
    baseline: Literal["expected", "soft"] = static("expected")
    normalise: bool = static(True)  # divide policy weights by their mean
    start_from_behaviour: bool = static(True)  # policies start from the behaviour models
    q_input: Literal["state", "obs", "both"] = static("state")  # input of the critics
    recurrent: bool = static(False)  # GRU policies of width 64; needs window != 0
    hidden: int = static(256)  # width of the hidden layers
    # checks on held-out episodes without improvement (of 100) that end the behaviour fit
    patience: int = static(20)
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    behaviour_steps: int = static(2000)  # updates of the behaviour stage
    steps: int = static(5000)
    batch_size: int = static(256)
    window: int = static(0)


class Own(NamedTuple):
    """Parameters and optimiser states of one agent; in State every tree has a leading axis [N]."""

    policy: Params
    critic: Params
    target_critic: Params
    log_alpha: Array
    policy_opt: optax.OptState
    critic_opt: optax.OptState
    alpha_opt: optax.OptState


class State(NamedTuple):
    """State of the main stage."""

    own: Own  # [N]
    behaviour_policy: Params  # frozen
    teammates: Params  # frozen
    updates: Array


class Method(NamedTuple):
    """Nets and optimisers of one config."""

    config: Config
    spec: EnvSpec
    actors: Actors
    teammates: TeammateModel
    critic: MLP
    optimiser: optax.GradientTransformation
    tuner: optax.GradientTransformation


class Sample(NamedTuple):
    """The data of one agent's update in one iteration: single steps [B], or windows [B, T]."""

    batch: Transition
    counts: Array  # [B] or [B, T], how often each step was resampled
    log_mu: Array  # [..., A] of this agent's behaviour model
    next_log_mu: Array  # [..., A]
    logits: Array  # [..., A] of this agent's policy before the update
    next_logits: Array  # [..., A]


# --- main stage -----------------------------------------------------------------------------------


def prepare(m: Method, behaviour: Behaviour, dataset: Dataset, key: Key) -> State:
    """Start of the main stage: policies from the behaviour models, fresh critics."""
    policy_key, critic_key = jax.random.split(key)
    policy = behaviour.policy if m.config.start_from_behaviour else m.actors.init(policy_key)
    sizes = {
        "state": m.spec.state_size,
        "obs": m.spec.obs_size,
        "both": m.spec.state_size + m.spec.obs_size,
    }
    dummy = jnp.zeros(sizes[m.config.q_input])
    critic = jax.vmap(lambda k: m.critic.init(k, dummy))(
        jax.random.split(critic_key, m.spec.num_agents)
    )
    log_alpha = jnp.full(m.spec.num_agents, jnp.log(m.config.alpha))
    opts = (
        jax.vmap(m.optimiser.init)(policy),
        jax.vmap(m.optimiser.init)(critic),
        jax.vmap(m.tuner.init)(log_alpha),
    )
    return State(
        Own(policy, critic, critic, log_alpha, *opts),
        behaviour.policy,
        behaviour.teammates,
        jnp.zeros((), jnp.int32),
    )


def update(m: Method, state: State, batch: Transition, key: Key) -> tuple[State, Out]:
    """One iteration of Algorithm 1: agents are updated in turn on one batch."""
    config, n, beta = m.config, m.spec.num_agents, beta_at(m.config, state.updates)
    order = length_order(batch.valid) if config.resample == "weights" else None
    batch = batch if order is None else jax.tree.map(lambda x: x[order], batch)
    each = functools.partial(of_each, rows=(batch,), valid=batch.valid)
    behaviour = each(
        lambda p, batch: tuple(
            jnp.maximum(jax.nn.log_softmax(x), MIN_LOG_MU)
            for x in m.actors.outputs(p, batch, both=True)
        ),
        state.behaviour_policy,
        row_bytes=widest(batch, m.actors.hidden),
    )
    mates_bytes = n * widest(batch, config.hidden)
    log_mates = each(functools.partial(mates_log_prob, m), state.teammates, row_bytes=mates_bytes)
    outputs = functools.partial(m.actors.outputs, both=True)
    logits = each(outputs, state.own.policy, row_bytes=widest(batch, m.actors.hidden))
    order_key, sweep_key = jax.random.split(key)
    turns = update_order(order_key, config.order, advantage_size(m, state, batch))

    def one(
        carry: tuple[Own, Any, Array], turn: tuple[Array, Array, Key]
    ) -> tuple[tuple[Own, Any, Array], Array]:
        (everyone, nets, log_pi), (agent, following, key) = carry, turn
        before = own = of_agent(everyone, agent)._replace(**nets)
        ratio = jnp.exp(log_ratio(log_pi, log_mates[..., agent, :], agent, config.ratio_power))
        ratio = batch.valid * (jnp.ones_like(ratio) if config.spo == "off_rho1" else ratio)
        mine = (jnp.take(x, agent, -2, mode="clip") for x in (*behaviour, *logits))
        sample = draw_sample(config, key, Sample(batch, ratio, *mine), order)
        own, metrics = critic_step(m, own, agent, sample, beta)
        own, actor_metrics = actor_step(m, own, agent, sample, beta)
        if config.spo != "off_stale":  # later agents see the policy that was just updated
            updated = each(
                lambda p, batch: m.actors.one(p, agent, batch)[0],
                own.policy,
                row_bytes=widest(batch, m.actors.hidden) // n,
            )
            log_pi = log_pi.at[..., agent].set(log_prob(updated, batch.actions[..., agent]))
        everyone = jax.tree.map(
            lambda all_, old, new: all_ if new is old else replaced(all_, agent, new),
            everyone,
            before,
            own,
        )
        effective = jnp.square(jnp.sum(ratio)) / jnp.maximum(jnp.sum(jnp.square(ratio)), 1e-8)
        metrics |= actor_metrics | {"effective_rows": effective}
        carry = everyone, nets_of(everyone, following), log_pi
        return carry, jnp.stack([metrics[name] for name in METRICS])

    log_pi = log_prob(logits[0], batch.actions)  # [..., N]
    # On an accelerator, the next agent's nets are taken at the end of a turn: XLA adds a bias in
    # the kernel of a product where it is an argument of the loop's body, and not where it is
    # computed in it.
    start = state.own, nets_of(state.own, turns[0]), log_pi
    keys = jax.random.split(sweep_key, n)
    (own, *_), found = lax.scan(one, start, (turns, jnp.roll(turns, -1), keys))
    metrics = dict(zip(METRICS, jnp.mean(found, 0), strict=True)) | {"beta": beta}
    return state._replace(own=own, updates=state.updates + 1), Out(metrics)


def of_agent(everyone: Any, agent: Array) -> Any:
    """One agent's part of a tree of arrays [N, ...]."""
    return jax.tree.map(lambda x: x[agent], everyone)


def nets_of(everyone: Own, agent: Array) -> dict[str, Params]:
    """The parameters of an agent's nets that are taken before its turn, by their fields in `Own`:
    none on a CPU, where that is a copy more.
    """
    names = () if blocks.fits_cache() else NETS
    return {name: of_agent(getattr(everyone, name), agent) for name in names}


def mates_log_prob(m: Method, teammates: Params, batch: Transition) -> Array:
    """log mu_i(a_j | s, a_i, ...) of every agent j by the model of each anchor i, [..., N, N]."""
    rows, n = flatten(batch), m.spec.num_agents
    of_anchor = lambda p, i: m.teammates.log_prob(p, i, rows.state, rows.actions, rows.avail)
    found = jax.vmap(of_anchor, out_axes=1)(teammates, jnp.arange(n))
    return found.reshape(*batch.valid.shape, n, n)


def draw_sample(config: Config, key: Key, sample: Sample, order: Array | None = None) -> Sample:
    """Importance resampling in proportion to `counts`: as integer weights on the steps, or as the
    drawn steps themselves.

    order: [B], see `length_order`, in which the windows are. They are drawn as they came, so that
    draws are the same on every platform.
    """
    shape, weight = sample.counts.shape, sample.counts
    if order is not None:
        weight = jnp.zeros_like(weight).at[order].set(weight)
    drawn, counts = resample(key, weight.reshape(-1))
    if config.resample == "weights":
        counts = counts.reshape(shape)
        return sample._replace(counts=counts if order is None else counts[order])
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(shape) :])[drawn], sample)
    return rows._replace(counts=jnp.ones_like(counts))


def critic_step(
    m: Method, own: Own, agent: Array, sample: Sample, beta: Array
) -> tuple[Own, dict[str, Array]]:
    """One step of the critic (Eq. 24), then the soft update of its target network."""
    batch, config, alpha = sample.batch, m.config, jnp.exp(own.log_alpha)
    size = widest(batch, config.hidden) // m.spec.num_agents

    def next_value(params: Params, batch: Transition, logits: Array, log_mu: Array) -> Array:
        seen = critic_input(config, batch.next_state, batch.next_obs, agent)
        return soft_value(logits, m.critic.apply(params, seen), log_mu, alpha, beta)

    given = (batch, sample.next_logits, sample.next_log_mu)
    value = of_each(next_value, own.target_critic, given, batch.valid, size)
    target = one_step_target(batch.reward, batch.terminated, value, config.gamma)

    def loss_of(
        params: Params, batch: Transition, target: Array, counts: Array
    ) -> tuple[Array, tuple[()]]:
        q = m.critic.apply(params, critic_input(config, batch.state, batch.obs, agent))
        actions, avail = batch.actions[..., agent], jnp.take(batch.avail, agent, -2, mode="clip")
        loss = conservative_value_loss(q, target, actions, avail, config.cql)
        return masked_mean(loss, counts), ()

    counts = sample.counts
    of_params = lambda p: averaged(loss_of, p, (batch, target, counts), counts, size)[0]
    loss, grads = jax.value_and_grad(of_params)(own.critic)
    steps, opt = m.optimiser.update(grads, own.critic_opt)
    critic = optax.apply_updates(own.critic, steps)
    target_critic = optax.incremental_update(critic, own.target_critic, config.polyak)
    return own._replace(critic=critic, target_critic=target_critic, critic_opt=opt), {"value": loss}


def actor_step(
    m: Method, own: Own, agent: Array, sample: Sample, beta: Array
) -> tuple[Own, dict[str, Array]]:
    """One step of the policy (Eq. 20) on the same resampled rows, then Eq. 25 with auto_alpha."""
    batch, config, alpha = sample.batch, m.config, jnp.exp(own.log_alpha)
    q = values(m, own.target_critic, agent, batch)
    actions = batch.actions[..., agent]
    value = (
        expectation(sample.logits, q)
        if config.baseline == "expected"
        else soft_value(sample.logits, q, sample.log_mu, alpha, beta)
    )
    weight = policy_weight(taken(q, actions) - value, taken(sample.log_mu, actions), alpha, beta)
    gap = jnp.clip(jax.nn.log_softmax(sample.logits) - sample.log_mu, -10.0, 10.0)
    divergence = masked_mean(expectation(sample.logits, gap), sample.counts)
    if config.normalise:
        weight = weight / jnp.maximum(masked_mean(weight, sample.counts), 1e-8)

    def loss_of(
        params: Params, batch: Transition, weight: Array, counts: Array
    ) -> tuple[Array, tuple[()]]:
        logits = m.actors.one(params, agent, batch)[0]
        loss = weighted_policy_loss(logits, batch.actions[..., agent], weight, counts, False)
        return loss, ()

    given = (batch, weight, sample.counts)
    size = widest(batch, m.actors.hidden) // m.spec.num_agents
    of_params = lambda p: averaged(loss_of, p, given, sample.counts, size)[0]
    loss, grads = jax.value_and_grad(of_params)(own.policy)
    steps, opt = m.optimiser.update(grads, own.policy_opt)
    own = own._replace(policy=optax.apply_updates(own.policy, steps), policy_opt=opt)
    if config.auto_alpha:  # a divergence above the target makes alpha grow
        step, alpha_opt = m.tuner.update(config.alpha_target - divergence, own.alpha_opt)
        own = own._replace(
            log_alpha=jnp.clip(own.log_alpha + step, *map(jnp.log, ALPHA_RANGE)),
            alpha_opt=alpha_opt,
        )
    return own, {"policy": loss, "divergence": divergence, "alpha": alpha}


def values(m: Method, critic: Params, agent: Array, batch: Transition) -> Array:
    """Q of one agent's actions at each step, [..., A], as a constant."""
    return of_each(
        lambda p, batch: m.critic.apply(p, critic_input(m.config, batch.state, batch.obs, agent)),
        critic,
        (batch,),
        batch.valid,
        widest(batch, m.config.hidden) // m.spec.num_agents,
    )


def beta_at(config: Config, updates: Array) -> Array:
    """Exponential decay from beta_start to beta_end over the stage; beta_start = 0 stays 0."""
    start = jnp.maximum(config.beta_start, 1e-12)
    return jnp.where(
        config.beta_start > 0, start * (config.beta_end / start) ** (updates / config.steps), 0.0
    )


def update_order(key: Key, kind: str, scores: Array) -> Array:
    """The order of agents [N]: random, fixed, or semi-greedy (largest score at even places, random
    at odd ones).
    """
    n = scores.shape[0]
    if kind == "fixed":
        return jnp.arange(n)
    chance = jax.random.uniform(key, (n,))
    if kind == "random":
        return jnp.argsort(chance)
    order, left = [], jnp.ones(n, bool)
    for place in range(n):
        agent = jnp.argmax(jnp.where(left, scores if place % 2 == 0 else chance, -jnp.inf))
        order.append(agent)
        left = left.at[agent].set(False)
    return jnp.stack(order)


def advantage_size(m: Method, state: State, batch: Transition) -> Array:
    """Mean |A_i| of the batch at the start of an iteration [N], for the semi-greedy order."""
    if m.config.order != "semi-greedy":
        return jnp.zeros(m.spec.num_agents)

    def size(own: Own, agent: Array) -> Array:
        q = m.critic.apply(own.target_critic, critic_input(m.config, batch.state, batch.obs, agent))
        logits = m.actors.one(own.policy, agent, batch)[0]
        advantage = taken(q, batch.actions[..., agent]) - expectation(logits, q)
        return masked_mean(jnp.abs(advantage), batch.valid)

    return jax.vmap(size)(state.own, jnp.arange(m.spec.num_agents))


def critic_input(config: Config, state: Array, obs: Array, agent: Array) -> tuple[Array, ...]:
    """Parts of the critic's input: state [..., S], the agent's own observation in obs [..., N, O],
    or both.
    """
    own = jnp.take(obs, agent, -2, mode="clip")
    return {"state": (state,), "obs": (own,), "both": (state, own)}[config.q_input]


# --- make -----------------------------------------------------------------------------------------


def make(config: Config, spec: EnvSpec) -> tuple[Stage, ...]:
    """Two stages: behaviour models, then sequential policy optimisation. Discrete actions only."""
    if not spec.discrete:
        raise InvalidSetting(
            f"inspo on '{spec.name}': expected discrete actions, found continuous ones"
        )
    if config.recurrent and (config.window == 0 or config.resample == "rows"):
        raise InvalidSetting(
            "inspo: recurrent=true: expected window != 0 and resample='weights', since "
            "rows of a sequence can't be drawn apart"
        )
    actors = Actors(
        spec,
        64 if config.recurrent else config.hidden,
        recurrent=config.recurrent,
        layer_init=config.layer_init,
    )
    critic = MLP((config.hidden, config.hidden, spec.action_size), layer_init=config.layer_init)
    optimiser = adam(config.lr, config.max_grad_norm)
    teammates = TeammateModel(spec, config.hidden, layer_init=config.layer_init)
    m = Method(config, spec, actors, teammates, critic, optimiser, optax.adam(config.lr_alpha))

    behaviour = behaviour_learner(
        actors, m.teammates, optimiser, config.behaviour_steps, config.patience
    )

    def init(key: Key) -> State:
        raise RuntimeError("the main stage of inspo starts from its behaviour stage, by `prepare`")

    main = Learner(
        init=init,
        update=lambda state, batch, key: update(m, state, batch, key),
        policy=lambda state: m.actors.policy(state.own.policy),
    )
    return (
        Stage("behaviour", behaviour, config.behaviour_steps),
        Stage(
            "train",
            main,
            config.steps,
            prepare=lambda behaviour, dataset, key: prepare(m, behaviour, dataset, key),
        ),
    )
