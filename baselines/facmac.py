"""FACMAC for continuous actions (Peng et al., NeurIPS 2021), on a fixed dataset as the baseline of
Tian et al. (AAAI 2023), or online.

The values Q_i(o_i, a_i) of each agent are mixed to Q_tot by non-negative weights that depend on the
state (QMIX's mixer). y = r + gamma (1 - terminated) Q'_tot(s', Q'_i(o'_i, mu'_i(o'_i))), squared
error over valid steps -> td_target, critic_loss. Centralised policy gradient: the actions of all
agents come from their current policies at once, and only the policies are updated -> actor_loss.
Discrete actions are left to QMIX and refused here. Differs from the released code: padding is
excluded from the actor's loss too. Defaults are the sizes, RMSprop and hard target copies of Tian
et al. (Table 11); `optimiser=adam` and `target_every=0` (soft target updates by `polyak`) are the
released code's.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.likelihood import masked_mean
from jaxoff.losses.td import one_step_target
from jaxoff.nets.actors import Actors
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mixers import QMixer
from jaxoff.nets.mlp import MLP
from jaxoff.optimisers import adam, rmsprop
from jaxoff.types import Array, EnvSpec, Key, Learner, Out, Params, Transition

OPTIMISERS = {"rmsprop": rmsprop, "adam": lambda lr, norm: adam(lr, norm, eps=0.01)}

ACTIONS = ("continuous",)


@struct.dataclass
class Config:
    """Settings of Tian et al. (Table 11) where they print one. "Released code" stands for its
    MAMuJoCo settings.
    """

    lr: float = 5e-4  # learning rate of the policies; released code: 1e-3
    critic_lr: float = 5e-4  # learning rate of critic and mixer; released code: 1e-3
    gamma: float = 0.99
    polyak: float = 0.001  # share of the online parameters in a soft target update (released code)
    action_penalty: float = 1e-3  # weight of the penalty on the mean squared action (released code)
    # gradient-norm limit of the policies, and of critic and mixer together; released code: .5
    max_grad_norm: float = 10.0
    # updates between hard copies to the target networks; 0: soft updates (released code)
    target_every: int = static(100, least=0)
    optimiser: Literal["rmsprop", "adam"] = static("rmsprop")  # released code: adam, with eps .01
    # policies and critic take the agent's number; released code: false
    agent_id: bool = static(True)
    embed: int = static(32)  # width of the mixer; released code: 64
    hyper: int = static(64)  # hidden width of the mixer's hypernetworks; 0: linear
    critic_hidden: int = static(32)  # width of the critic's two hidden layers; released code: 400
    hidden: int = static(64)  # width of the policies' hidden layers; released code: 400
    recurrent: bool = static(False)  # GRU policies over the episode; needs window != 0
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(15000)
    batch_size: int = static(32)
    # -1: whole episodes; 0: single steps; released code: 0, with batches of 100
    window: int = static(-1)


class State(NamedTuple):
    """Trained parameters, target networks and optimiser states."""

    policy: Params
    critic: Params
    mixer: Params
    target_policy: Params
    target_critic: Params
    target_mixer: Params
    policy_opt: optax.OptState
    critic_opt: optax.OptState
    updates: Array


class Method(NamedTuple):
    """Nets and optimisers of one config."""

    config: Config
    actors: Actors
    critic: MLP
    mixer: QMixer
    policy_opt: optax.GradientTransformation
    critic_opt: optax.GradientTransformation


def init(m: Method, key: Key) -> State:
    """Fresh nets; the target networks start as copies of them."""
    policy_key, critic_key, mixer_key = jax.random.split(key, 3)
    spec = m.actors.spec
    width = spec.obs_size + spec.action_size + (spec.num_agents if m.config.agent_id else 0)
    policy, critic = m.actors.init(policy_key), m.critic.init(critic_key, jnp.zeros(width))
    mixer = m.mixer.init(mixer_key, jnp.zeros(spec.num_agents), jnp.zeros(spec.state_size))
    nets = (policy, critic, mixer)
    return State(
        *nets,
        *nets,
        m.policy_opt.init(policy),
        m.critic_opt.init((critic, mixer)),
        jnp.zeros((), jnp.int32),
    )


def agent_values(m: Method, critic: Params, obs: Array, actions: Array) -> Array:
    """Q_i(o_i, a_i) of every agent: [..., N, O], [..., N, A] -> [..., N]."""
    x = [obs, actions]
    if m.config.agent_id:
        x.append(jnp.broadcast_to(jnp.eye(obs.shape[-2]), (*obs.shape[:-1], obs.shape[-2])))
    return m.critic.apply(critic, jnp.concatenate(x, -1))[..., 0]


def td_target(m: Method, state: State, batch: Transition) -> Array:
    """r + gamma (1 - terminated) Q'_tot of the target policies' next actions, [...]."""
    _, then = m.actors.outputs(state.target_policy, batch)
    values = agent_values(m, state.target_critic, batch.next_obs, then)
    total = m.mixer.apply(state.target_mixer, values, batch.next_state)
    return one_step_target(batch.reward, batch.terminated, total, m.config.gamma)


def critic_loss(
    m: Method, params: tuple[Params, Params], state: State, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """Mean over valid steps of (y - Q_tot)^2 at the data's actions, and metrics.

    params: (critic, mixer).
    """
    target = td_target(m, state, batch)
    total = m.mixer.apply(
        params[1], agent_values(m, params[0], batch.obs, batch.actions), batch.state
    )
    value = masked_mean(jnp.square(target - total), batch.valid)
    return value, {
        "value": value,
        "q_total": masked_mean(total, batch.valid),
        "target": masked_mean(target, batch.valid),
    }


def actor_loss(
    m: Method, policy: Params, critic: Params, mixer: Params, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """-mean over valid steps of Q_tot(s, Q_i(o_i, mu_i(o_i))) of all current policies, plus the
    penalty on the size of their actions.
    """
    actions, _ = m.actors.outputs(policy, batch)
    total = m.mixer.apply(mixer, agent_values(m, critic, batch.obs, actions), batch.state)
    size = jnp.mean(jnp.square(actions), (-2, -1))
    loss = masked_mean(m.config.action_penalty * size - total, batch.valid)
    gap = masked_mean(jnp.abs(actions - batch.actions).mean((-2, -1)), batch.valid)
    return loss, {"policy": loss, "action_size": masked_mean(size, batch.valid), "distance": gap}


def update(m: Method, state: State, batch: Transition) -> tuple[State, Out]:
    """One step of critic and mixer, then of the policies by the new values, then target updates."""
    bound, c = m.actors.spec.action_bound, m.config
    batch = batch._replace(actions=jnp.clip(batch.actions, -bound, bound))
    params, updates = (state.critic, state.mixer), state.updates + 1
    grads, metrics = jax.grad(lambda p: critic_loss(m, p, state, batch), has_aux=True)(params)
    steps, critic_opt = m.critic_opt.update(grads, state.critic_opt)
    critic, mixer = optax.apply_updates(params, steps)

    grads, actor_metrics = jax.grad(lambda p: actor_loss(m, p, critic, mixer, batch), has_aux=True)(
        state.policy
    )
    steps, policy_opt = m.policy_opt.update(grads, state.policy_opt)
    new = (optax.apply_updates(state.policy, steps), critic, mixer)
    old = (state.target_policy, state.target_critic, state.target_mixer)
    slow = (
        optax.periodic_update(new, old, updates, c.target_every)
        if c.target_every
        else optax.incremental_update(new, old, c.polyak)
    )
    opts = {"policy_opt": policy_opt, "critic_opt": critic_opt, "updates": updates}
    return State(*new, *slow, **opts), Out(metrics | actor_metrics)


def method_of(config: Config, spec: EnvSpec) -> Method:
    """The nets that a config asks for. Raises InvalidSetting for what FACMAC can't do."""
    if spec.discrete:
        raise InvalidSetting(
            f"facmac on '{spec.name}': expected continuous actions, found discrete ones, "
            "which are qmix's"
        )
    if config.recurrent and config.window == 0:
        raise InvalidSetting(
            "facmac: field 'window': expected -1 (episodes) or a length with "
            "recurrent=true, found 0"
        )
    actors = Actors(
        spec,
        config.hidden,
        recurrent=config.recurrent,
        share=True,
        numbered=config.agent_id,
        layer_init=config.layer_init,
    )
    critic, optimiser = (
        MLP((config.critic_hidden, config.critic_hidden, 1), layer_init=config.layer_init),
        OPTIMISERS[config.optimiser],
    )
    opts = [optimiser(lr, config.max_grad_norm) for lr in (config.lr, config.critic_lr)]
    return Method(
        config, actors, critic, QMixer(config.embed, config.hyper, config.layer_init), *opts
    )


def make(config: Config, spec: EnvSpec) -> Learner:
    """The learner, for continuous actions."""
    m = method_of(config, spec)
    return Learner(
        init=lambda key: init(m, key),
        update=lambda state, batch, key: update(m, state, batch),
        policy=lambda state: m.actors.policy(state.policy),
        target_policy=lambda state: m.actors.policy(state.target_policy),
    )
