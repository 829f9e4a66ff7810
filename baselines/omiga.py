"""OMIGA: implicit global-to-local value regularisation (Wang et al., NeurIPS 2023), discrete or
continuous actions.

One mixer for both values: Q_tot = sum_i w_i(s) Q_i + b(s), V_tot = sum_i w_i(s) V_i + b(s), w >= 0.
Q_tot is regressed onto r + gamma V_tot(next) -> critic_loss; V_i solves
E_mu exp(w_i (Q_i - V_i) / alpha) = 1 -> value_loss; pi_i maximises the likelihood weighted by that
exponential -> policy_loss. Formulas: jaxoff/losses/implicit_values.py.
Differs from the released code: the mixer sees the global state, not a copy of it for each agent;
policies are masked to available actions in training too (`mask_actor=false`: at execution only);
terminal steps are those that the data mark (the code's StarCraft branch infers them from s' = s);
rewards are rewards, while that branch regresses on rewards-to-go, which its file reader puts in
their place (`rtg_reward=true`). In the code the three optimisers step in the order policy, Q and
mixer, V; no loss reads parameters that another optimiser has just updated, so here they step at
once, and then the three target networks are updated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxoff import distributions
from jaxoff.config import refuse_unread, static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.implicit_values import (
    exponent,
    exponent_shift,
    implicit_policy_loss,
    implicit_value_loss,
)
from jaxoff.losses.likelihood import log_prob, masked_mean, taken
from jaxoff.losses.td import one_step_target
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mixers import AffineMixer
from jaxoff.nets.mlp import MLP
from jaxoff.optimisers import adam
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
    TimeStep,
    Transition,
)

MEAN_BOUND = 9.0  # bound on the mean before tanh
LOG_STD_RANGE = (-5.0, 2.0)


@struct.dataclass
class Config:
    """Settings of the released code."""

    lr: float = 5e-4  # learning rate of each of the three optimisers (Adam)
    gamma: float = 0.99
    polyak: float = 0.005  # share of the online parameters in a target update
    alpha: float = 10.0  # weight of the regulariser
    max_grad_norm: float = 1.0  # largest gradient norm of policy, Q with mixer, and V, each
    mask_actor: bool = static(True)  # mask unavailable actions in training too
    rtg_reward: bool = static(False)  # rewards-to-go in place of rewards; needs whole episodes
    hidden: int = static(256)  # width of the two hidden layers
    mixer_hidden: int = static(64)  # width of the mixer
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(20000)
    batch_size: int = static(128)
    window: int = static(0)  # 0: single steps; -1: whole episodes


class State(NamedTuple):
    """Trained parameters, target networks and optimiser states."""

    policy: Params
    critic: Params  # Q_i
    mixer: Params
    value: Params  # V_i
    target_critic: Params
    target_mixer: Params
    target_value: Params
    policy_opt: optax.OptState
    critic_opt: optax.OptState  # optimises Q_i and mixer together
    value_opt: optax.OptState


class Method(NamedTuple):
    """Networks and optimiser of one config; all agents share each network and are told apart by a
    one-hot number in its input; the mixer mixes their values.
    """

    config: Config
    spec: EnvSpec
    actor: MLP
    critic: MLP
    value: MLP
    mixer: AffineMixer
    optimiser: optax.GradientTransformation


def init(m: Method, key: Key) -> State:
    """Freshly initialised networks; target networks are equal to them."""
    policy_key, critic_key, value_key, mixer_key = jax.random.split(key, 4)
    spec = m.spec
    seen = jnp.zeros(spec.obs_size + spec.num_agents)
    policy = m.actor.init(policy_key, seen)
    critic = m.critic.init(
        critic_key, seen if spec.discrete else jnp.zeros(seen.size + spec.action_size)
    )
    value = m.value.init(value_key, seen)
    mixer = m.mixer.init(mixer_key, jnp.zeros(spec.num_agents), jnp.zeros(spec.state_size))
    opts = (m.optimiser.init(x) for x in (policy, (critic, mixer), value))
    return State(policy, critic, mixer, value, critic, mixer, value, *opts)


# --- nets -----------------------------------------------------------------------------------------


def with_number(obs: Array) -> Array:
    """Observations with the one-hot number of each agent: [..., N, O] -> [..., N, O + N]."""
    n = obs.shape[-2]
    return jnp.concatenate(
        [obs, jnp.broadcast_to(jnp.eye(n, dtype=obs.dtype), (*obs.shape[:-1], n))], -1
    )


def q_taken(m: Method, params: Params, obs: Array, actions: Array) -> Array:
    """Q_i of the data's own action [..., N]."""
    seen = with_number(obs)
    if m.spec.discrete:
        return taken(m.critic.apply(params, seen), actions)
    bound = m.spec.action_bound  # public datasets hold actions beyond the bound
    return m.critic.apply(params, jnp.concatenate([seen, jnp.clip(actions, -bound, bound)], -1))[
        ..., 0
    ]


def normal_of(m: Method, out: Array) -> distributions.TanhNormal:
    """The policy with mean and log standard deviation from an actor's outputs [..., 2 A]."""
    mean, log_std = jnp.split(out, 2, -1)
    return distributions.TanhNormal(
        jnp.clip(mean, -MEAN_BOUND, MEAN_BOUND),
        jnp.clip(log_std, *LOG_STD_RANGE),
        m.spec.action_bound,
    )


def policy_of(m: Method, params: Params) -> Policy:
    """The joint policy: Categorical over available actions, or TanhNormal."""

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
        out = m.actor.apply(params, with_number(seen.obs))
        if not m.spec.discrete:
            return memory, normal_of(m, out)
        return memory, distributions.categorical(out, avail=seen.avail)

    return Policy(lambda batch_shape: (), distribution)


# --- losses ---------------------------------------------------------------------------------------


def critic_loss(
    m: Method, params: tuple[Params, Params], state: State, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """Mean over valid steps of (Q_tot - r - gamma V_tot(next))^2, with V_tot by the target
    networks, and the metrics to log. params: (critic, mixer).
    """
    critic, mixer = params
    next_v = m.value.apply(state.target_value, with_number(batch.next_obs))[..., 0]
    next_total = m.mixer.apply(state.target_mixer, next_v, batch.next_state)
    goal = one_step_target(batch.reward, batch.terminated, next_total, m.config.gamma)
    total = m.mixer.apply(mixer, q_taken(m, critic, batch.obs, batch.actions), batch.state)
    loss = masked_mean(jnp.square(total - goal), batch.valid)
    return loss, {
        "critic": loss,
        "q_total": masked_mean(total, batch.valid),
        "target": masked_mean(goal, batch.valid),
    }


def value_loss(
    m: Method, params: Params, state: State, batch: Transition
) -> tuple[Array, tuple[Array, dict[str, Array]]]:
    """Mean over valid steps and agents of the loss of V_i, with Q_i and w_i of the target networks;
    also the exponent z [..., N] and the metrics to log.
    """
    v = m.value.apply(params, with_number(batch.obs))[..., 0]
    q, alpha = q_taken(m, state.target_critic, batch.obs, batch.actions), m.config.alpha
    weight, _ = m.mixer.apply(state.target_mixer, batch.state, method="weights")
    valid = jnp.broadcast_to(batch.valid[..., None], v.shape)
    z = exponent(q, v, weight, alpha)
    loss = masked_mean(implicit_value_loss(z, v, weight, alpha, exponent_shift(z, valid)), valid)
    metrics = {
        "value": loss,
        "ratio": masked_mean(jnp.exp(z), valid),
        "weight": masked_mean(weight, valid),
    }
    return loss, (z, metrics)


def policy_loss(m: Method, params: Params, z: Array, batch: Transition) -> Array:
    """Mean over valid steps and agents of -exp(z) log pi_i(a_i | o_i)."""
    out = m.actor.apply(params, with_number(batch.obs))
    if m.spec.discrete:
        log_pi = log_prob(
            jnp.where(batch.avail > 0, out, UNAVAILABLE) if m.config.mask_actor else out,
            batch.actions,
        )
    else:
        log_pi = normal_of(m, out).log_prob(batch.actions)
    return masked_mean(
        implicit_policy_loss(z, log_pi), jnp.broadcast_to(batch.valid[..., None], z.shape)
    )


# --- update ---------------------------------------------------------------------------------------


def with_rewards_to_go(batch: Transition) -> Transition:
    """Whole episodes [B, T] in which each reward is replaced by the undiscounted sum of the rewards
    from that step to the end.
    """
    return batch._replace(reward=lax.cumsum(batch.reward * batch.valid, axis=1, reverse=True))


def update(m: Method, state: State, batch: Transition) -> tuple[State, Out]:
    """One step of each of the three optimisers, then an update of the target networks."""
    if m.config.rtg_reward:
        batch = with_rewards_to_go(batch)
    value_grads, (z, metrics) = jax.grad(lambda p: value_loss(m, p, state, batch), has_aux=True)(
        state.value
    )
    loss, policy_grads = jax.value_and_grad(lambda p: policy_loss(m, p, z, batch))(state.policy)
    critic_grads, critic_metrics = jax.grad(
        lambda p: critic_loss(m, p, state, batch), has_aux=True
    )((state.critic, state.mixer))

    def step(params: Params, grads: Params, opt: optax.OptState) -> tuple[Any, optax.OptState]:
        steps, opt = m.optimiser.update(grads, opt)
        return optax.apply_updates(params, steps), opt

    policy, policy_opt = step(state.policy, policy_grads, state.policy_opt)
    (critic, mixer), critic_opt = step((state.critic, state.mixer), critic_grads, state.critic_opt)
    value, value_opt = step(state.value, value_grads, state.value_opt)
    slow = state.target_critic, state.target_mixer, state.target_value
    slow_critic, slow_mixer, slow_value = optax.incremental_update(
        (critic, mixer, value), slow, m.config.polyak
    )
    after = State(
        policy,
        critic,
        mixer,
        value,
        slow_critic,
        slow_mixer,
        slow_value,
        policy_opt,
        critic_opt,
        value_opt,
    )
    return after, Out(metrics | critic_metrics | {"policy": loss})


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Networks of a config."""
    layers = (config.hidden, config.hidden)
    net = lambda out: MLP((*layers, out), layer_init=config.layer_init)
    actor = net(spec.action_size if spec.discrete else 2 * spec.action_size)
    critic = net(spec.action_size if spec.discrete else 1)
    mixer = AffineMixer(spec.num_agents, config.mixer_hidden, config.layer_init)
    return Method(config, spec, actor, critic, net(1), mixer, adam(config.lr, config.max_grad_norm))


def make(config: Config, spec: EnvSpec) -> Learner:
    """The learner, for discrete or continuous actions; its policy is stochastic."""
    if not spec.discrete:
        refuse_unread("omiga", config, ("mask_actor",), spec)
    if config.rtg_reward and config.window != -1:
        raise InvalidSetting(
            f"omiga: rtg_reward=true: expected window=-1, found {config.window}: "
            "rewards-to-go need whole episodes"
        )
    m = method_of(config, spec)
    return Learner(
        init=lambda key: init(m, key),
        update=lambda state, batch, key: update(m, state, batch),
        policy=lambda state: policy_of(m, state.policy),
    )
