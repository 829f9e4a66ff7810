"""QMIX on a fixed dataset (Rashid et al., 2018), as the offline baseline of Tian et al. (AAAI
2023).

Each agent has values of its own actions; a network with non-negative weights that depend on the
state mixes the values of the chosen actions to Q_tot, so that the joint argmax is the argmax of
each agent. One-step double Q target, hard target copies -> td_target. Squared error over valid
steps -> loss. Differs: target copies are counted in updates, where PyMARL counts episodes played;
the hypernetworks have one hidden layer as in later PyMARL (`hyper=0`: linear, as in the first
release). Nothing keeps the values of actions outside the data low: that is the point of the
comparison.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff.blocks import averaged, by_length, widest
from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.likelihood import masked_mean, taken
from jaxoff.losses.td import one_step_target
from jaxoff.nets.actors import Actors, greedy
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mixers import QMixer
from jaxoff.optimisers import rmsprop
from jaxoff.types import Array, EnvSpec, Key, Learner, Out, Params, Transition

ACTIONS = ("discrete",)


@struct.dataclass
class Config:
    """Settings of Tian et al. (Table 11) where they print one."""

    lr: float = 5e-4  # learning rate of agents and mixer (RMSprop)
    gamma: float = 0.99
    max_grad_norm: float = 10.0  # largest gradient norm of agents and mixer together
    target_every: int = static(100)  # updates between hard copies to the target networks
    embed: int = static(32)  # width of the mixer
    hyper: int = static(64)  # hidden width of the mixer's hypernetworks; 0: linear
    hidden: int = static(64)  # width of the agents' networks
    recurrent: bool = static(False)  # agents with a GRU over the episode; needs window != 0
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(15000)
    batch_size: int = static(32)
    window: int = static(-1)  # -1: whole episodes; 0: single steps


class State(NamedTuple):
    """Trained parameters, target networks and optimiser states."""

    critic: Params  # Q of all agents
    mixer: Params
    target_critic: Params
    target_mixer: Params
    opt: optax.OptState
    updates: Array


class Method(NamedTuple):
    """Networks and optimiser of one config."""

    config: Config
    actors: Actors
    mixer: QMixer
    optimiser: optax.GradientTransformation


def init(m: Method, key: Key) -> State:
    """Freshly initialised networks; target networks are equal to them."""
    critic_key, mixer_key = jax.random.split(key)
    critic, spec = m.actors.init(critic_key), m.actors.spec
    mixer = m.mixer.init(mixer_key, jnp.zeros(spec.num_agents), jnp.zeros(spec.state_size))
    return State(
        critic, mixer, critic, mixer, m.optimiser.init((critic, mixer)), jnp.zeros((), jnp.int32)
    )


def td_target(m: Method, state: State, batch: Transition, next_q: Array) -> Array:
    """Double Q target: the argmax of `next_q` [..., N, A] per agent, evaluated by the target
    networks at the next state -> [...].
    """
    _, slow = m.actors.outputs(state.target_critic, batch)
    value = m.mixer.apply(state.target_mixer, taken(slow, jnp.argmax(next_q, -1)), batch.next_state)
    return one_step_target(batch.reward, batch.terminated, value, m.config.gamma)


def loss(
    m: Method, params: tuple[Params, Params], state: State, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """Mean over valid steps of (y - Q_tot)^2, and the metrics to log. params: (critic, mixer)."""
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
    """One gradient step of agents and mixer; the target networks are copied every `target_every`
    updates.
    """
    params, updates = (state.critic, state.mixer), state.updates + 1
    batch = by_length(batch)
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
    return State(critic, mixer, target_critic, target_mixer, opt, updates), Out(metrics)


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Networks of a config. Raises InvalidSetting for what QMIX can't do."""
    if not spec.discrete:
        raise InvalidSetting(
            f"qmix on '{spec.name}': expected discrete actions, found continuous ones"
        )
    if config.recurrent and config.window == 0:
        raise InvalidSetting(
            "qmix: field 'window': expected -1 (episodes) or a length with recurrent=true, found 0"
        )
    actors = Actors(
        spec, config.hidden, recurrent=config.recurrent, share=True, layer_init=config.layer_init
    )
    return Method(
        config,
        actors,
        QMixer(config.embed, config.hyper, config.layer_init),
        rmsprop(config.lr, config.max_grad_norm),
    )


def make(config: Config, spec: EnvSpec) -> Learner:
    """The learner, for discrete actions; its policy takes the argmax of each agent's values."""
    m = method_of(config, spec)
    return Learner(
        init=lambda key: init(m, key),
        update=lambda state, batch, key: update(m, state, batch),
        policy=lambda state: greedy(m.actors.policy(state.critic)),
    )
