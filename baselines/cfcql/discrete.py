"""CFCQL for discrete actions: counterfactual conservative Q-learning on QMIX values (Shao et al.,
NeurIPS 2023).

The penalty lowers the values of joint actions in which one agent deviates from the data's joint
action while the others keep to it, so it grows with the number of agents, not with the number of
joint actions:
    sum_i lambda_i log sum_j exp Q_tot(a_i <- j) - Q_tot(a in the data)
        -> counterfactual_totals, conservative_loss
lambda_i grows with the distance of agent i from its behaviour policy -> deviation, agent_weights.
QMIX values with lambda-returns -> loss. The first stage fits the behaviour models.
As the released code: lambda_i comes from a Kullback-Leibler divergence (weights = ratio: from the
expected ratio of policy and behaviour policy, as in the paper); tau of 100 or more means argmax.
Differs: target copies are counted in updates; the code copies its target networks every 200
episodes and counts 8 per update, so every 25 updates.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxoff.batches import as_windows
from jaxoff.blocks import averaged, by_length, widest
from jaxoff.config import static
from jaxoff.data.dataset import Dataset
from jaxoff.errors import InvalidSetting
from jaxoff.losses.conservative import agent_weights, available_logsumexp
from jaxoff.losses.likelihood import masked_mean, negative_log_likelihood, taken
from jaxoff.losses.td import lambda_return, squared_td_error
from jaxoff.nets.actors import Actors, greedy
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mixers import QMixer
from jaxoff.optimisers import adam
from jaxoff.types import UNAVAILABLE, Array, EnvSpec, Key, Learner, Out, Params, Stage, Transition

MIN_PROB = 1e-5  # added to both distributions that a deviation compares


@struct.dataclass
class Config:
    """Settings of the released code, which tunes `cql` and `tau` for each dataset."""

    lr: float = 1e-3  # learning rate of every net (Adam)
    gamma: float = 0.99
    trace: float = 0.6  # lambda of the lambda-return
    cql: float = 1.0  # weight of the conservative term; the code has .1 to 50 on SMAC
    # scale in the softmax of deviations over agents; 0: equal weights; 100: all on the largest
    tau: float = 0.5
    max_grad_norm: float = 10.0  # limit on the gradient norm of each update
    # how agents' penalties are weighted: KL deviation, policy ratio or equal (no behaviour stage)
    weights: Literal["deviation", "ratio", "uniform"] = static("deviation")
    target_every: int = static(25)  # updates between hard copies to the target networks
    embed: int = static(32)  # width of the mixer
    hyper: int = static(64)  # hidden width of the mixer's hypernetworks
    hidden: int = static(64)  # width of the agents' value nets and behaviour models
    recurrent: bool = static(False)  # GRU nets over the episode; needs window != 0
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    behaviour_steps: int = static(2000)  # updates of the behaviour stage
    # budget of the behaviour stage in filled slots, which then sets `behaviour_steps`; 0: none
    behaviour_slots: int = static(0)
    steps: int = static(5000)
    slots: int = static(0)  # training budget in filled slots, which then sets `steps`; 0: none
    batch_size: int = static(128)
    window: int = static(-1)  # -1: whole episodes; 0: single steps with one-step targets


class Behaviour(NamedTuple):
    """State of the first stage."""

    policy: Params
    opt: optax.OptState


class State(NamedTuple):
    """State of the main stage; behaviour_policy is frozen (and empty with equal weights)."""

    critic: Params  # values of all agents
    mixer: Params
    target_critic: Params
    target_mixer: Params
    behaviour_policy: Params
    opt: optax.OptState
    updates: Array


class Method(NamedTuple):
    """Nets and optimiser of one config."""

    config: Config
    actors: Actors
    mixer: QMixer
    optimiser: optax.GradientTransformation


def init(m: Method, behaviour_policy: Params, key: Key) -> State:
    """Fresh values; the target networks start as copies of them."""
    critic_key, mixer_key = jax.random.split(key)
    critic, spec = m.actors.init(critic_key), m.actors.spec
    mixer = m.mixer.init(mixer_key, jnp.zeros(spec.num_agents), jnp.zeros(spec.state_size))
    return State(
        critic,
        mixer,
        critic,
        mixer,
        behaviour_policy,
        m.optimiser.init((critic, mixer)),
        jnp.zeros((), jnp.int32),
    )


# --- behaviour stage ------------------------------------------------------------------------------


def behaviour_learner(m: Method) -> Learner:
    """Behaviour cloning with nets of the same architecture as the values."""

    def loss_of(params: Params, batch: Transition) -> Array:
        loss = negative_log_likelihood(m.actors.outputs(params, batch)[0], batch.actions)
        return masked_mean(loss, jnp.broadcast_to(batch.valid[..., None], loss.shape))

    def init(key: Key) -> Behaviour:
        params = m.actors.init(key)
        return Behaviour(params, m.optimiser.init(params))

    def update(state: Behaviour, batch: Transition, key: Key) -> tuple[Behaviour, Out]:
        loss, grads = jax.value_and_grad(loss_of)(state.policy, batch)
        steps, opt = m.optimiser.update(grads, state.opt)
        return Behaviour(optax.apply_updates(state.policy, steps), opt), Out({"behaviour": loss})

    return Learner(init, update, lambda state: m.actors.policy(state.policy))


# --- conservative term ----------------------------------------------------------------------------


def counterfactual_totals(m: Method, mixer: Params, q: Array, batch: Transition) -> Array:
    """Q_tot of the data's joint action with agent i's entry replaced by each j: q [..., N, A] ->
    [..., N, A].

    Entries of unavailable actions j are finite but meaningless: callers mask them.
    """
    q = jnp.where(batch.avail > 0, q, 0.0)
    own = jnp.eye(q.shape[-2], dtype=bool)[:, None, :]  # [N, 1, N]
    # [..., N, A, N]
    values = jnp.where(own, q[..., None], taken(q, batch.actions)[..., None, None, :])
    # the N A joint actions of a step share one set of mixer weights
    return m.mixer.apply(mixer, values, batch.state[..., None, None, :])


def deviation(totals: Array, log_mu: Array, avail: Array, kind: str = "deviation") -> Array:
    """D_i = KL(p_i, mu_i), or E_p_i[p_i / mu_i] if `ratio`, p_i = softmax_j Q_tot(a_i <- j): [...,
    N, A] -> [..., N].

    Sums run over available j; 1e-5 is added to both distributions.
    """
    p, mu = (
        jax.nn.softmax(jnp.where(avail > 0, totals, UNAVAILABLE)) + MIN_PROB,
        jnp.exp(log_mu) + MIN_PROB,
    )
    return jnp.sum(
        jnp.where(
            avail > 0, p * p / mu if kind == "ratio" else p * (jnp.log(p) - jnp.log(mu)), 0.0
        ),
        -1,
    )


def conservative_loss(
    m: Method, mixer: Params, q: Array, total: Array, log_mu: Array, batch: Transition
) -> tuple[Array, Array]:
    """sum_i lambda_i logsumexp_j Q_tot(a_i <- j) - Q_tot(a), and D_i: unreduced [...], [..., N].

    q, log_mu: [..., N, A]; total: Q_tot(a) [...]. log_mu is unused with equal weights.
    """
    totals = counterfactual_totals(m, mixer, q, batch)
    n = q.shape[-2]
    if m.config.weights == "uniform":
        apart, weight = jnp.zeros(q.shape[:-1]), jnp.full(q.shape[:-1], 1.0 / n)
    else:
        apart = deviation(totals, log_mu, batch.avail, m.config.weights)
        weight = agent_weights(apart, m.config.tau)
    return jnp.sum(
        weight * available_logsumexp(totals, batch.avail), -1
    ) - total, lax.stop_gradient(apart)


# --- values ---------------------------------------------------------------------------------------


def value_target(m: Method, state: State, batch: Transition, next_q: Array) -> Array:
    """lambda-return [B, T] of the target networks' values at each agent's argmax of `next_q`
    [B, T, N, A].
    """
    _, slow = m.actors.outputs(state.target_critic, batch)
    value = m.mixer.apply(state.target_mixer, taken(slow, jnp.argmax(next_q, -1)), batch.next_state)
    return lambda_return(
        batch.reward, batch.terminated, batch.valid, value, m.config.gamma, m.config.trace
    )


def loss(
    m: Method, params: tuple[Params, Params], state: State, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """Half the squared error plus `cql` times the conservative term, over valid steps.

    params: (critic, mixer); batch [B, T, ...].
    """
    critic, mixer = params
    q, next_q = m.actors.outputs(critic, batch)
    target = value_target(m, state, batch, next_q)
    total = m.mixer.apply(mixer, taken(q, batch.actions), batch.state)
    frozen = state.behaviour_policy
    log_mu = (
        q
        if m.config.weights == "uniform"
        else jax.nn.log_softmax(m.actors.outputs(frozen, batch)[0])
    )
    term, apart = conservative_loss(m, mixer, q, total, log_mu, batch)
    value, conservative = (
        masked_mean(squared_td_error(total, target), batch.valid),
        masked_mean(term, batch.valid),
    )
    metrics = {
        "value": value,
        "conservative": conservative,
        "q_total": masked_mean(total, batch.valid),
    }
    metrics |= {
        "target": masked_mean(target, batch.valid),
        "deviation": masked_mean(jnp.mean(apart, -1), batch.valid),
    }
    return value + m.config.cql * conservative, metrics


def update(m: Method, state: State, batch: Transition) -> tuple[State, Out]:
    """One step of values and mixer; target networks are copied every `target_every` updates."""
    params, updates = (state.critic, state.mixer), state.updates + 1
    batch = by_length(as_windows(batch))
    of_part = lambda p, part: loss(m, p, state, part)
    size = widest(batch, m.config.hidden)
    grads, metrics = jax.grad(
        lambda p: averaged(of_part, p, (batch,), batch.valid, size), has_aux=True
    )(params)
    steps, opt = m.optimiser.update(grads, state.opt)
    critic, mixer = optax.apply_updates(params, steps)
    slow = (state.target_critic, state.target_mixer)
    target_critic, target_mixer = optax.periodic_update(
        (critic, mixer), slow, updates, m.config.target_every
    )
    return State(
        critic, mixer, target_critic, target_mixer, state.behaviour_policy, opt, updates
    ), Out(metrics)


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """The nets of the discrete form."""
    actors = Actors(
        spec, config.hidden, recurrent=config.recurrent, share=True, layer_init=config.layer_init
    )
    return Method(
        config,
        actors,
        QMixer(config.embed, config.hyper, config.layer_init),
        adam(config.lr, config.max_grad_norm),
    )


def make(config: Config, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """A behaviour stage and a value stage; with equal weights, the value learner alone.

    Raises InvalidSetting for settings that do not fit together.
    """
    if config.recurrent and config.window == 0:
        raise InvalidSetting(
            "cfcql: field 'window': expected -1 (episodes) or a length with recurrent=true, found 0"
        )
    if not spec.discrete:
        raise InvalidSetting(
            f"cfcql on '{spec.name}': expected discrete actions in this form, found continuous ones"
        )
    m = method_of(config, spec)
    main = Learner(
        init=lambda key: init(m, (), key),
        update=lambda state, batch, key: update(m, state, batch),
        policy=lambda state: greedy(m.actors.policy(state.critic)),
    )
    if config.weights == "uniform":
        return main

    def prepare(behaviour: Behaviour, dataset: Dataset, key: Key) -> State:
        return init(m, behaviour.policy, key)

    return (
        Stage("behaviour", behaviour_learner(m), config.behaviour_steps),
        Stage("train", main, config.steps, prepare=prepare),
    )
