"""MADDPG for continuous actions (Lowe et al., 2017), with the best response under data of Tilbury et al. (2024).

Tilbury et al., Eq. 2 -> brud_joint_actions; Eq. 3 and 4 -> actor_loss, whose gradient it is.
Exact form (`critic="exact"`, `actor="constant"`): in a stateless game with known payoff the critic is the
payoff, a policy is one number per agent and action dimension, and an update is one plain gradient step
of size eta for all agents at once, from the old policies.
Learned form: an MLP with tanh for each agent, twin centralised critics on (state, joint action), slow targets
and Adam.
Differs from Lowe et al.: twin critics, whose minimum is the target and the actor's objective, and Polyak
averaging after every step, as in OG-MARL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff.losses.likelihood import masked_mean
from jaxoff.losses.td import one_step_target, squared_td_error
from jaxoff.nets.mlp import MLP
from jaxoff.types import Array, EnvSpec, Key, Learner, Out, Params, Policy, TimeStep, Transition


@struct.dataclass
class Config:
    """Floats are leaves and may be swept; the rest is static."""

    eta: float = 0.02  # step size of a constant actor
    start_0: float = -0.5  # first action of agents 0, 2, ... (constant actor)
    start_1: float = 0.5  # first action of agents 1, 3, ...
    actor_lr: float = 3e-4  # Adam, MLP actor
    critic_lr: float = 1e-3  # Adam
    gamma: float = 0.99
    tau: float = 0.005  # share of the online parameters in a target update
    critic: str = struct.field(pytree_node=False, default="auto")  # exact | learned; auto: exact if the payoff is known
    actor: str = struct.field(pytree_node=False, default="auto")  # constant | mlp; auto: constant with the exact critic
    clip: bool = struct.field(pytree_node=False, default=False)  # project a constant actor onto the action bound
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(128, 128))
    steps: int = struct.field(pytree_node=False, default=100)
    batch_size: int = struct.field(pytree_node=False, default=32)
    window: int = struct.field(pytree_node=False, default=0)


class State(NamedTuple):
    """Parameters [N, ...] of the actors, of the twin critics [2, ...] (empty if exact), their slow copies and optimisers."""

    actor: Params
    critic: Params
    target_actor: Params
    target_critic: Params
    actor_opt: optax.OptState
    critic_opt: optax.OptState


class Nets(NamedTuple):
    """actions(params, obs [..., N, O]) -> [..., N, A]; values(params, state [..., S], joint [..., N, A]) -> [2, ...]."""

    init: Callable[[Key], tuple[Params, Params]]
    actions: Callable[[Params, Array], Array]
    values: Callable[[Params, Array, Array], Array]


def make(config: Config, spec: EnvSpec) -> Learner:
    """MADDPG for the environment. Raises ValueError for discrete actions, or where the payoff is needed and unknown."""
    config = _resolve(config, spec)
    nets = _nets(config, spec)
    actor_opt = optax.sgd(config.eta) if config.actor == "constant" else optax.adam(config.actor_lr)
    critic_opt = optax.adam(config.critic_lr)

    def init(key: Key) -> State:
        actor, critic = nets.init(key)
        return State(actor, critic, actor, critic, actor_opt.init(actor), critic_opt.init(critic))

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Out]:
        """One simultaneous step of every agent (and of the critics) on a batch [B, ...] or [B, T, ...]."""
        (_, metrics), grad = jax.value_and_grad(actor_loss, has_aux=True)(state.actor, state.critic, nets, batch)
        step, actor_state = actor_opt.update(grad, state.actor_opt)
        actor = optax.apply_updates(state.actor, step)
        if config.actor == "constant" and config.clip:
            actor = jax.tree.map(lambda x: jnp.clip(x, -spec.action_bound, spec.action_bound), actor)
        metrics["actor_grad_norm"] = jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(grad)))
        if config.critic == "exact":
            return state._replace(actor=actor, target_actor=actor, actor_opt=actor_state), Out(metrics)

        (_, (extra, signal)), grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic, state, config, nets, batch)
        step, critic_state = critic_opt.update(grad, state.critic_opt)
        critic = optax.apply_updates(state.critic, step)
        slow_actor, slow_critic = optax.incremental_update((actor, critic), (state.target_actor, state.target_critic), config.tau)
        return State(actor, critic, slow_actor, slow_critic, actor_state, critic_state), Out(metrics | extra, signal)

    return Learner(
        init=init,
        update=update,
        policy=lambda state: _policy(nets, state.actor),
        target_policy=lambda state: _policy(nets, state.target_actor),
    )


def brud_joint_actions(own: Array, data: Array) -> Array:
    """Best response under data, Eq. 2: [..., N, A] twice -> [..., N, N, A].

    Entry i is the data's joint action with agent i's action replaced by its own, so a gradient with
    respect to own[i] passes through entry i alone.
    """
    own_slot = jnp.eye(own.shape[-2], dtype=bool)[..., None]  # [N, N, 1]
    return jnp.where(own_slot, own[..., None, :, :], data[..., None, :, :])


def actor_loss(actor: Params, critic: Params, nets: Nets, batch: Transition) -> tuple[Array, dict[str, Array]]:
    """Minus the sum over agents of the mean value of their best responses; its gradient is Eq. 3 (Eq. 4 if exact)."""
    own = nets.actions(actor, batch.obs)  # [..., N, A]
    joint = brud_joint_actions(own, batch.actions)  # [..., N, N, A]
    values = nets.values(critic, batch.state[..., None, :], joint).min(0)  # [..., N]
    objective = masked_mean(values.sum(-1), batch.valid)
    gap = jnp.abs(own - batch.actions).mean((-2, -1))
    return -objective, {"objective": objective / own.shape[-2], "distance": masked_mean(gap, batch.valid)}


def critic_loss(
    critic: Params, state: State, config: Config, nets: Nets, batch: Transition
) -> tuple[Array, tuple[dict[str, Array], Array]]:
    """Mean over both critics of the squared TD error to the smaller target value; the signal is |TD error| per item [B]."""
    next_actions = nets.actions(state.target_actor, batch.next_obs)
    next_value = nets.values(state.target_critic, batch.next_state, next_actions).min(0)
    target = one_step_target(batch.reward, batch.terminated, next_value, config.gamma)  # [...]
    values = nets.values(critic, batch.state, batch.actions)  # [2, ...]
    loss = squared_td_error(values, jnp.broadcast_to(target, values.shape)).mean(0)
    error = jnp.abs(values.mean(0) - target) * batch.valid
    inner = tuple(range(1, error.ndim))
    signal = error.sum(inner) / jnp.maximum(batch.valid.sum(inner), 1.0)
    total = masked_mean(loss, batch.valid)
    return total, ({"critic_loss": total, "value": masked_mean(values.mean(0), batch.valid)}, jax.lax.stop_gradient(signal))


def _resolve(config: Config, spec: EnvSpec) -> Config:
    if spec.discrete:
        raise ValueError(f"maddpg: environment '{spec.name}': expected continuous actions, found {spec.action_size} discrete ones")
    critic, actor = config.critic, config.actor
    if critic == "auto":
        critic = "learned" if spec.payoff is None else "exact"
    if actor == "auto":
        actor = "constant" if critic == "exact" else "mlp"
    for name, value, known in (("critic", critic, ("exact", "learned")), ("actor", actor, ("constant", "mlp"))):
        if value not in known:
            raise ValueError(f"maddpg: field '{name}': expected auto, {known[0]} or {known[1]}, found '{value}'")
    if critic == "exact" and spec.payoff is None:
        raise ValueError(f"maddpg: field 'critic': 'exact' needs a known payoff, and environment '{spec.name}' has none")
    return dataclasses.replace(config, critic=critic, actor=actor)


def _nets(config: Config, spec: EnvSpec) -> Nets:
    n, a = spec.num_agents, spec.action_size
    actor, critic = MLP((*config.hidden, a)), MLP((*config.hidden, 1))

    def init(key: Key) -> tuple[Params, Params]:
        actor_key, critic_key = jax.random.split(key)
        if config.actor == "constant":
            start = jnp.where(jnp.arange(n) % 2 == 0, config.start_0, config.start_1)
            actor_params: Params = jnp.broadcast_to(start[:, None], (n, a)).astype(jnp.float32)
        else:
            actor_params = jax.vmap(lambda k: actor.init(k, jnp.zeros(spec.obs_size)))(jax.random.split(actor_key, n))
        if config.critic == "exact":
            return actor_params, ()
        flat = jnp.zeros(spec.state_size + n * a)
        return actor_params, jax.vmap(lambda k: critic.init(k, flat))(jax.random.split(critic_key, 2))

    def actions(params: Params, obs: Array) -> Array:
        if config.actor == "constant":
            return jnp.broadcast_to(params, (*obs.shape[:-1], a))
        return jnp.tanh(jax.vmap(actor.apply, in_axes=(0, -2), out_axes=-2)(params, obs)) * spec.action_bound

    def values(params: Params, state: Array, joint: Array) -> Array:
        if config.critic == "exact":
            assert spec.payoff is not None
            return spec.payoff(joint)[None]
        flat = joint.reshape(*joint.shape[:-2], n * a)
        inputs = jnp.concatenate([jnp.broadcast_to(state, (*flat.shape[:-1], state.shape[-1])), flat], -1)
        return jax.vmap(critic.apply, in_axes=(0, None))(params, inputs)[..., 0]

    return Nets(init, actions, values)


def _policy(nets: Nets, params: Params) -> Policy:
    def distribution(carry: tuple[()], step: TimeStep) -> tuple[tuple[()], distrax.Distribution]:
        return carry, distrax.Deterministic(nets.actions(params, step.obs))

    return Policy(initial=lambda batch_shape: (), distribution=distribution)
