"""MABCQ: batch-constrained values with a linear mixer, the baseline of Tian et al. (AAAI 2023, Eq.
12), for discrete actions.

Behaviour models mu_i are fitted by maximum likelihood -> behaviour_loss. Actions whose mu_i is
above zeta times the largest one are kept -> keep_mask. Double Q target over the kept actions,
Q_tot = sum_i w_i(s) Q_i + b(s) -> td_target, loss. Execution is the argmax over the kept actions ->
policy_of.
Differs: mu_i and Q_i learn jointly (with `behaviour_steps` > 0, mu_i is fitted first and then
frozen, as the paper says); with discrete actions this mask takes the place of the perturbation of
Eq. 12. The ICQ code base instead shares one trunk, and has threshold 0.9 and a penalty on logits;
another port uses QMIX's mixer. Neither is Eq. 12, and neither is implemented.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff import distributions
from jaxoff.config import static
from jaxoff.data.dataset import Dataset
from jaxoff.errors import InvalidSetting
from jaxoff.losses.likelihood import masked_mean, negative_log_likelihood, taken
from jaxoff.losses.td import one_step_target
from jaxoff.nets.actors import Actors, greedy
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mixers import LinearMixer
from jaxoff.optimisers import rmsprop
from jaxoff.types import (
    UNAVAILABLE,
    Array,
    Carry,
    Distribution,
    EnvSpec,
    Key,
    Learner,
    Out,
    Params,
    Policy,
    Stage,
    TimeStep,
    Transition,
)


@struct.dataclass
class Config:
    """Settings of Tian et al. (Table 11) where they print one."""

    lr: float = 5e-4  # learning rate (RMSprop) of agents' values and mixer
    lr_behaviour: float = 5e-4  # learning rate (RMSprop) of the behaviour models
    gamma: float = 0.99
    # least mu(a) / max mu of an action that may be chosen (Eq. 12); 0: all, 1: argmax of mu
    zeta: float = 0.3
    # gradient-norm limit of values and mixer together, and of the behaviour models
    max_grad_norm: float = 10.0
    behaviour_steps: int = static(0)  # updates of a first stage for mu_i; 0: trained jointly
    mixer_bias: bool = static(True)  # whether the mixer has the bias b(s)
    target_every: int = static(100)  # updates between hard copies to the target networks
    embed: int = static(32)  # width of the mixer
    hidden: int = static(64)
    recurrent: bool = static(False)  # GRU nets over the episode; needs window != 0
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(15000)
    batch_size: int = static(32)
    window: int = static(-1)  # -1: whole episodes; 0: single steps


class Behaviour(NamedTuple):
    """Behaviour models mu_i of all agents."""

    policy: Params
    opt: optax.OptState


class State(NamedTuple):
    """Trained parameters, target networks and optimiser states."""

    critic: Params  # value nets of all agents
    mixer: Params
    target_critic: Params
    target_mixer: Params
    behaviour_policy: Params
    opt: optax.OptState
    behaviour_opt: optax.OptState
    updates: Array


class Method(NamedTuple):
    """Nets and optimisers of one config."""

    config: Config
    actors: Actors  # the same form for values and behaviour models
    mixer: LinearMixer
    optimiser: optax.GradientTransformation
    behaviour_optimiser: optax.GradientTransformation


def keep_mask(logits: Array, avail: Array, zeta: Array | float) -> Array:
    """Available actions with mu(a) / max mu > zeta, and the argmax of mu: [..., A] -> bool [...,
    A].

    logits: of mu, with a large negative number for unavailable actions. Where no action is
        available, none is kept.
    """
    gap = logits - jnp.max(logits, -1, keepdims=True)
    # In logarithms, so that a ratio that underflows is still above zeta = 0. The argmax term
    # matters for zeta = 1 only.
    return (avail > 0) & ((gap > jnp.log(zeta)) | (gap == 0))


# --- behaviour models -----------------------------------------------------------------------------


def behaviour_loss(m: Method, params: Params, batch: Transition) -> Array:
    """Mean of -log mu_i(a_i | tau_i) over valid steps and agents."""
    nll = negative_log_likelihood(m.actors.outputs(params, batch)[0], batch.actions)
    return masked_mean(nll, jnp.broadcast_to(batch.valid[..., None], nll.shape))


def behaviour_step(m: Method, behaviour: Behaviour, batch: Transition) -> tuple[Behaviour, Array]:
    """One gradient step of the behaviour models, and their loss."""
    value, grads = jax.value_and_grad(lambda p: behaviour_loss(m, p, batch))(behaviour.policy)
    steps, opt = m.behaviour_optimiser.update(grads, behaviour.opt)
    return Behaviour(optax.apply_updates(behaviour.policy, steps), opt), value


def fresh_behaviour(m: Method, key: Key) -> Behaviour:
    """Untrained behaviour models."""
    policy = m.actors.init(key)
    return Behaviour(policy, m.behaviour_optimiser.init(policy))


# --- values ---------------------------------------------------------------------------------------


def init(m: Method, behaviour: Behaviour, key: Key) -> State:
    """Fresh values for given behaviour models; the target networks are copies of the values."""
    critic_key, mixer_key = jax.random.split(key)
    critic, spec = m.actors.init(critic_key), m.actors.spec
    mixer = m.mixer.init(mixer_key, jnp.zeros(spec.num_agents), jnp.zeros(spec.state_size))
    opt = m.optimiser.init((critic, mixer))
    return State(
        critic, mixer, critic, mixer, behaviour.policy, opt, behaviour.opt, jnp.zeros((), jnp.int32)
    )


def td_target(m: Method, state: State, batch: Transition, next_q: Array) -> Array:
    """Double Q target [...]: the target networks value the argmax of `next_q` [..., N, A] over kept
    actions at the next state.
    """
    _, next_logits = m.actors.outputs(state.behaviour_policy, batch)
    keep = keep_mask(next_logits, batch.next_avail, m.config.zeta)
    chosen = jnp.argmax(jnp.where(keep, next_q, UNAVAILABLE), -1)
    _, slow = m.actors.outputs(state.target_critic, batch)
    value = m.mixer.apply(state.target_mixer, taken(slow, chosen), batch.next_state)
    return one_step_target(batch.reward, batch.terminated, value, m.config.gamma)


def loss(
    m: Method, params: tuple[Params, Params], state: State, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """Mean over valid steps of (y - Q_tot)^2, and metrics. params: (critic, mixer)."""
    critic, mixer = params
    q, next_q = m.actors.outputs(critic, batch)
    target = td_target(m, state, batch, next_q)
    total = m.mixer.apply(mixer, taken(q, batch.actions), batch.state)
    value = masked_mean(jnp.square(target - total), batch.valid)
    return value, {
        "value": value,
        "q_total": masked_mean(total, batch.valid),
        "target": masked_mean(target, batch.valid),
    }


def update(m: Method, state: State, batch: Transition) -> tuple[State, Out]:
    """One step of the values, and of the behaviour models unless they were fitted first; the target
    networks are copied every `target_every` updates.
    """
    params, updates = (state.critic, state.mixer), state.updates + 1
    behaviour, metrics = Behaviour(state.behaviour_policy, state.behaviour_opt), {}
    if m.config.behaviour_steps == 0:
        behaviour, metrics["behaviour"] = behaviour_step(m, behaviour, batch)
    grads, value_metrics = jax.grad(lambda p: loss(m, p, state, batch), has_aux=True)(params)
    steps, opt = m.optimiser.update(grads, state.opt)
    critic, mixer = optax.apply_updates(params, steps)
    slow = (state.target_critic, state.target_mixer)
    target_critic, target_mixer = optax.periodic_update(
        (critic, mixer), slow, updates, m.config.target_every
    )
    nets = (critic, mixer, target_critic, target_mixer, behaviour.policy)
    return State(*nets, opt, behaviour.opt, updates), Out(value_metrics | metrics)


def policy_of(m: Method, critic: Params, behaviour_policy: Params) -> Policy:
    """Argmax of each agent's values over the actions that its behaviour model keeps."""
    values, behaviour = m.actors.policy(critic), m.actors.policy(behaviour_policy)

    def initial(batch_shape: tuple[int, ...]) -> Carry:
        return values.initial(batch_shape), behaviour.initial(batch_shape)

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
        of_values, q = values.distribution(memory[0], seen)
        of_behaviour, mu = behaviour.distribution(memory[1], seen)
        keep = keep_mask(mu.logits, seen.avail, m.config.zeta)
        return (of_values, of_behaviour), distributions.categorical(q.logits, avail=keep)

    return greedy(Policy(initial, distribution))


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """The nets that a config asks for, for discrete actions.

    Raises InvalidSetting for what this form can't do.
    """
    if config.recurrent and config.window == 0:
        raise InvalidSetting(
            "bcq: field 'window': expected -1 (episodes) or a length with recurrent=true, found 0"
        )
    actors = Actors(
        spec, config.hidden, recurrent=config.recurrent, share=True, layer_init=config.layer_init
    )
    mixer = LinearMixer(config.embed, spec.num_agents, config.mixer_bias, config.layer_init)
    return Method(
        config,
        actors,
        mixer,
        rmsprop(config.lr, config.max_grad_norm),
        rmsprop(config.lr_behaviour, config.max_grad_norm),
    )


def make(config: Config, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """One learner, or two stages with `behaviour_steps` > 0."""
    if not spec.discrete:
        raise InvalidSetting(
            f"bcq on '{spec.name}': expected discrete actions in this form, found continuous ones"
        )
    m = method_of(config, spec)

    def start(key: Key) -> State:
        behaviour_key, key = jax.random.split(key)
        return init(m, fresh_behaviour(m, behaviour_key), key)

    values = Learner(
        init=start,
        update=lambda state, batch, key: update(m, state, batch),
        policy=lambda state: policy_of(m, state.critic, state.behaviour_policy),
    )
    if config.behaviour_steps == 0:
        return values

    def fit(behaviour: Behaviour, batch: Transition, key: Key) -> tuple[Behaviour, Out]:
        behaviour, value = behaviour_step(m, behaviour, batch)
        return behaviour, Out({"behaviour": value})

    def prepare(behaviour: Behaviour, dataset: Dataset, key: Key) -> State:
        return init(m, behaviour, key)

    first = Learner(
        lambda key: fresh_behaviour(m, key),
        fit,
        lambda behaviour: m.actors.policy(behaviour.policy),
    )
    return (
        Stage("behaviour", first, config.behaviour_steps),
        Stage("train", values, config.steps, prepare=prepare),
    )
