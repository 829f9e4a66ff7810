"""Behaviour cloning: maximum likelihood of the data's actions, per agent.

Discrete: mean over valid steps and agents of -log pi_i(a_i | o_i). Continuous: mean squared error
of a deterministic policy. Either a feed-forward net per agent (matrix games, Bridge), or one
recurrent net shared by all agents that also sees the agent's previous action and number (SMAC), as
in Shao et al. (2023).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.likelihood import masked_mean, negative_log_likelihood
from jaxoff.nets.actors import Actors
from jaxoff.nets.layers import LayerInit
from jaxoff.optimisers import adam
from jaxoff.types import Array, EnvSpec, Key, Learner, Out, Params, Policy, Transition


@struct.dataclass
class Config:
    """Settings of behaviour cloning."""

    lr: float = 5e-4
    max_grad_norm: float = 10.0
    hidden: int = static(256)
    recurrent: bool = static(False)  # one GRU net shared by all agents; needs window != 0
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(5000)
    slots: int = static(0)  # training budget in filled slots, which then sets `steps`; 0: none
    batch_size: int = static(256)
    window: int = static(0)  # 0: single steps; -1: whole episodes


class State(NamedTuple):
    """Trained parameters and optimiser state."""

    policy: Params
    opt: optax.OptState


def actors_of(config: Config, spec: EnvSpec) -> Actors:
    """The nets that a config asks for.

    Raises InvalidSetting for a recurrent net on single steps.
    """
    if config.recurrent and config.window == 0:
        raise InvalidSetting(
            "bc: field 'window': expected -1 (episodes) or a length with recurrent=true, found 0"
        )
    return Actors(
        spec,
        config.hidden,
        recurrent=config.recurrent,
        share=config.recurrent,
        layer_init=config.layer_init,
    )


def cloning_loss(actors: Actors, params: Params, batch: Transition) -> Array:
    """Loss per step and agent [..., N]."""
    out, _ = actors.outputs(params, batch)
    if actors.spec.discrete:
        return negative_log_likelihood(out, batch.actions)
    return jnp.mean(jnp.square(out - batch.actions), -1)


def make(config: Config, spec: EnvSpec) -> Learner:
    """The learner, for discrete or continuous actions."""
    actors = actors_of(config, spec)
    optimiser = adam(config.lr, config.max_grad_norm)

    def init(key: Key) -> State:
        params = actors.init(key)
        return State(params, optimiser.init(params))

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Out]:
        def loss_of(params: Params) -> Array:
            loss = cloning_loss(actors, params, batch)
            return masked_mean(loss, jnp.broadcast_to(batch.valid[..., None], loss.shape))

        loss, grads = jax.value_and_grad(loss_of)(state.policy)
        updates, opt = optimiser.update(grads, state.opt)
        return State(optax.apply_updates(state.policy, updates), opt), Out({"policy": loss})

    def policy(state: State) -> Policy:
        return actors.policy(state.policy)

    return Learner(init, update, policy)
