"""MADDPG for continuous actions (Lowe et al., 2017), with the best response under data of Tilbury
et al. (2024).

Tilbury et al., Eq. 2 -> brud_joint_actions; Eq. 3 and 4 are the gradient of policy_values.
Exact form (`critic="exact"`, `actor="constant"`): in a stateless game with known payoff the critic
is the payoff, a policy is one number per agent and action dimension, and an update is one plain
gradient step of size eta for all agents at once, from the old policies.
Learned form: policies with tanh (MLP, or GRU over windows), twin critics on (state, joint action),
target networks.
With `num_samples` > 0 it is MADDPG+CQL as in OG-MARL: the conservative term of Kumar et al. (2020,
appendix F), whose samples replace the actions of all agents -> conservative_loss.
`independent`: each agent's critics see its own observation, action and reward. That is independent
DDPG or, with twin critics, TD3 without delay and noise.
Differs from Lowe et al.: twin critics (`critics=1`: one), whose minimum is the target and the
actor's objective, and Polyak averaging after every step, as in OG-MARL. Every step has its own true
successor, so the last step of a window is trained on too.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxoff import distributions
from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.conservative import sampled_logsumexp
from jaxoff.losses.likelihood import masked_mean
from jaxoff.losses.td import one_step_target, squared_td_error
from jaxoff.nets.actors import Actors
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.nets.recurrent import GRUReset
from jaxoff.optimisers import adam, sonnet_rmsprop
from jaxoff.types import (
    Array,
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

OPTIMISERS = {"adam": adam, "rmsprop": sonnet_rmsprop}

ACTIONS = ("continuous",)


@struct.dataclass
class Config:
    """Floats are leaves and may be swept; the rest is static.

    Learning rates, weights and `actor_hidden` of the learned form are those of the code submitted
    with PJAP (og-marl, branch pjap). `hidden` is that of OG-MARL's other code; the critics of the
    submission are (256, 256). The settings of the robot tasks use these, and the submission's
    optimiser and batch sizes.
    """

    eta: float = 0.02  # step size of a constant actor
    start_0: float = -0.5  # initial action of agents 0, 2, ... (constant actor)
    start_1: float = 0.5  # initial action of agents 1, 3, ... (constant actor)
    actor_lr: float = 3e-4  # learning rate of the policies
    critic_lr: float = 1e-3  # learning rate of the critics
    gamma: float = 0.99
    polyak: float = 0.005  # share of the online parameters in a target update
    cql: float = 5.0  # weight of the conservative term; no effect where num_samples is 0
    # noise of the conservative term's actions near the policy, as a share of the action bound
    noise: float = 0.3
    # weight of the policies' mean squared action; not used by a constant actor
    action_penalty: float = 1e-3
    max_grad_norm: float = 0.0  # largest gradient norm of actor and critic, each; 0: no clipping
    # auto: exact if the payoff is known, else learned
    critic: Literal["auto", "exact", "learned"] = static("auto")
    # auto: constant with the exact critic; else recurrent on windows, and an MLP on single steps
    actor: Literal["auto", "constant", "mlp", "recurrent"] = static("auto")
    independent: bool = static(False)  # critics see (o_i, a_i) and learn the agent's own reward
    # all agents share one policy (and independent critic), which sees the agent's number
    share: bool = static(False)
    # source of the other agents' actions in an agent's objective: the data, or their policies
    others: Literal["data", "policy"] = static("data")
    critics: Literal[1, 2] = static(2)  # number of critics: 2 are twins
    # sampled actions of each of three kinds in the conservative term; 0: no term
    num_samples: int = static(0, least=0)
    optimiser: Literal["adam", "rmsprop"] = static("adam")  # rmsprop is Sonnet's
    clip: bool = static(False)  # project a constant actor onto the action bound
    hidden: tuple[int, ...] = static((128, 128))  # widths of the critics' hidden layers
    actor_hidden: int = static(64)  # width of the policies
    layer_init: LayerInit = static("sonnet")  # initialisation of the layers: jaxoff/nets/layers.py
    # reset gate of a GRU acts before or after the recurrent product
    reset_gate: GRUReset = static("before")
    steps: int = static(100)
    batch_size: int = static(32)
    window: int = static(0)  # 0: single steps; -1: whole episodes; else the length of a window


class State(NamedTuple):
    """Parameters of actors and critics (empty if exact), target networks and optimiser states.

    A constant actor is an array of actions [N, A].
    """

    actor: Params
    critic: Params
    target_actor: Params
    target_critic: Params
    actor_opt: optax.OptState
    critic_opt: optax.OptState


class Method(NamedTuple):
    """Networks and optimisers of one config."""

    config: Config
    spec: EnvSpec
    actors: Actors
    critic: MLP
    actor_opt: optax.GradientTransformation
    critic_opt: optax.GradientTransformation


# --- nets -----------------------------------------------------------------------------------------


def init(m: Method, key: Key) -> State:
    """Freshly initialised networks, each twin critic from its own key; target networks are equal to
    them.
    """
    actor_key, critic_key = jax.random.split(key)
    c, n, a = m.config, m.spec.num_agents, m.spec.action_size
    if c.actor == "constant":
        start = jnp.where(jnp.arange(n) % 2 == 0, c.start_0, c.start_1)
        actor: Params = jnp.broadcast_to(start[:, None], (n, a)).astype(jnp.float32)
    else:
        actor = m.actors.init(actor_key)
    critic: Params = ()
    if c.critic == "learned":
        own = m.spec.obs_size + a + (n if c.share else 0)
        each = () if c.share or not c.independent else (n,)
        width = own if c.independent else m.spec.state_size + n * a
        one = lambda k: m.critic.init(k, jnp.zeros(width))
        critic = (jax.vmap(jax.vmap(one)) if each else jax.vmap(one))(
            jax.random.split(critic_key, (*each, c.critics))
        )
    return State(actor, critic, actor, critic, m.actor_opt.init(actor), m.critic_opt.init(critic))


def policy_actions(m: Method, actor: Params, batch: Transition) -> tuple[Array, Array]:
    """Actions [..., N, A] of all agents, at this and at the next slot."""
    if m.config.actor == "constant":
        still = jnp.broadcast_to(actor, (*batch.obs.shape[:-1], m.spec.action_size))
        return still, still
    return m.actors.outputs(actor, batch)


def joint_values(m: Method, critic: Params, obs: Array, state: Array, joint: Array) -> Array:
    """Values of joint actions [..., N, A] by each of K critics -> [K, ..., V]: one value for the
    team (V = 1), or one for each agent (V = N).

    obs [..., N, O] and state [..., S] may lack leading axes that the joint actions have.
    """
    if m.config.critic == "exact":
        assert m.spec.payoff is not None
        return m.spec.payoff(joint)[None, ..., None]
    twins = jax.vmap(m.critic.apply, in_axes=(0, None))
    lead = joint.shape[:-2]
    if not m.config.independent:
        flat = joint.reshape(*lead, -1)
        return twins(
            critic, jnp.concatenate([jnp.broadcast_to(state, (*lead, state.shape[-1])), flat], -1)
        )
    x = jnp.concatenate([jnp.broadcast_to(obs, (*lead, *obs.shape[-2:])), joint], -1)
    if not m.config.share:
        return jax.vmap(twins, in_axes=(0, -2), out_axes=-1)(critic, x)[..., 0, :]
    number = jnp.broadcast_to(jnp.eye(m.spec.num_agents), (*joint.shape[:-1], m.spec.num_agents))
    return twins(critic, jnp.concatenate([x, number], -1))[..., 0]


# --- losses ---------------------------------------------------------------------------------------


def brud_joint_actions(own: Array, data: Array) -> Array:
    """Best response under data, Eq. 2: [..., N, A] twice -> [..., N, N, A].

    Entry i is the data's joint action with agent i's action replaced by own[i], so a gradient with
    respect to own[i] passes through entry i alone.
    """
    own_slot = jnp.eye(own.shape[-2], dtype=bool)[..., None]  # [N, N, 1]
    return jnp.where(own_slot, own[..., None, :, :], data[..., None, :, :])


def policy_values(m: Method, critic: Params, batch: Transition, own: Array) -> Array:
    """Smaller of the critics' values of each agent's own action [..., N], while the other agents
    play the data's actions or their policies'; its gradient is Eq. 3.
    """
    if m.config.independent:
        return joint_values(m, critic, batch.obs, batch.state, own).min(0)
    joint = brud_joint_actions(
        own, batch.actions if m.config.others == "data" else lax.stop_gradient(own)
    )
    return joint_values(
        m, critic, batch.obs[..., None, :, :], batch.state[..., None, :], joint
    ).min(0)[..., 0]


def actor_loss(
    m: Method, actor: Params, critic: Params, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """Minus the mean value over valid steps and agents, plus the action penalty; for a constant
    actor, minus the sum over agents without a penalty.
    """
    own, _ = policy_actions(m, actor, batch)  # [..., N, A]
    objective = masked_mean(policy_values(m, critic, batch, own).mean(-1), batch.valid)
    gap = masked_mean(jnp.abs(own - batch.actions).mean((-2, -1)), batch.valid)
    metrics = {"objective": objective, "distance": gap}
    if m.config.actor == "constant":
        return -objective * m.spec.num_agents, metrics
    return m.config.action_penalty * masked_mean(
        jnp.square(own).mean((-2, -1)), batch.valid
    ) - objective, metrics


def td_target(m: Method, state: State, batch: Transition) -> Array:
    """r + gamma (1 - terminated) min_k Q'_k(s', mu'(o')), [..., V]; r is the agent's own reward
    where critics are independent.
    """
    _, then = policy_actions(m, state.target_actor, batch)
    value = joint_values(m, state.target_critic, batch.next_obs, batch.next_state, then).min(0)
    reward = jnp.broadcast_to(batch.reward[..., None], value.shape)
    if m.config.independent and batch.agent_reward is not None:
        reward = batch.agent_reward
    return one_step_target(
        reward, jnp.broadcast_to(batch.terminated[..., None], value.shape), value, m.config.gamma
    )


def conservative_loss(
    m: Method, critic: Params, values: Array, actor: Params, batch: Transition, key: Key
) -> Array:
    """log sum_u exp(Q_k(s, u) - log p(u_i)) - Q_k(s, a): [K, ..., N].

    values: Q_k(s, a) [K, ..., V].

    u are joint actions of three kinds, all evaluated at s: uniform ones, and those of the policies
    at o and at o' with Gaussian noise, clipped to the bound. p is the density of agent i's own
    action, by the noise before clipping.
    """
    bound, a, keys = m.spec.action_bound, m.spec.action_size, jax.random.split(key, 3)
    shape, scale = (
        (m.config.num_samples, *batch.actions.shape),
        m.config.noise * m.spec.action_bound,
    )
    samples = [jax.random.uniform(keys[0], shape, minval=-bound, maxval=bound)]
    log_density = [jnp.full(shape[:-1], -a * math.log(2.0 * bound))]
    for centre, noise_key in zip(
        policy_actions(m, lax.stop_gradient(actor), batch), keys[1:], strict=True
    ):
        noise = jax.random.normal(noise_key, shape)
        samples.append(jnp.clip(centre + scale * noise, -bound, bound))
        log_density.append(
            jnp.sum(-0.5 * jnp.square(noise) - jnp.log(scale) - 0.5 * math.log(2.0 * math.pi), -1)
        )
    q = joint_values(m, critic, batch.obs, batch.state, jnp.concatenate(samples))  # [K, 3M, ..., V]
    # [K, ..., N]
    level = sampled_logsumexp(
        jnp.moveaxis(q, 1, -1), jnp.moveaxis(jnp.concatenate(log_density), 0, -1)
    )
    return level - values


def critic_loss(
    m: Method, critic: Params, state: State, batch: Transition, key: Key
) -> tuple[Array, tuple[dict[str, Array], Array]]:
    """Mean over critics of half the squared TD error plus `cql` times the conservative term; also
    the signal for samplers, |TD error| per item [B].
    """
    target = td_target(m, state, batch)  # [..., V]
    values = joint_values(m, critic, batch.obs, batch.state, batch.actions)  # [K, ..., V]
    loss = squared_td_error(values, jnp.broadcast_to(target, values.shape)).mean((0, -1))
    td = masked_mean(loss, batch.valid)
    metrics = {
        "critic_loss": td,
        "value": masked_mean(values.mean((0, -1)), batch.valid),
        "target": masked_mean(target.mean(-1), batch.valid),
    }
    if m.config.num_samples:
        term = conservative_loss(m, critic, values, state.actor, batch, key).mean((0, -1))
        metrics["conservative"] = masked_mean(term, batch.valid)
        td = td + m.config.cql * metrics["conservative"]
    error = jnp.abs(values.mean(0) - target).mean(-1) * batch.valid
    inner = tuple(range(1, error.ndim))
    signal = error.sum(inner) / jnp.maximum(batch.valid.sum(inner), 1.0)
    return td, (metrics, lax.stop_gradient(signal))


# --- update, make ---------------------------------------------------------------------------------


def update(m: Method, state: State, batch: Transition, key: Key) -> tuple[State, Out]:
    """One simultaneous gradient step of every agent's policy and of the critics, on a batch
    [B, ...] or [B, T, ...].
    """
    learned, bound = m.config.critic == "learned", m.spec.action_bound
    if learned:  # critics are not evaluated at actions that no policy can play
        batch = batch._replace(actions=jnp.clip(batch.actions, -bound, bound))
    (_, metrics), grad = jax.value_and_grad(
        lambda p: actor_loss(m, p, state.critic, batch), has_aux=True
    )(state.actor)
    step, actor_opt = m.actor_opt.update(grad, state.actor_opt)
    actor = optax.apply_updates(state.actor, step)
    if m.config.actor == "constant" and m.config.clip:
        actor = jax.tree.map(lambda x: jnp.clip(x, -bound, bound), actor)
    metrics["actor_grad_norm"] = optax.tree.norm(grad)
    if not learned:
        return state._replace(actor=actor, target_actor=actor, actor_opt=actor_opt), Out(metrics)

    grad, (extra, signal) = jax.grad(lambda p: critic_loss(m, p, state, batch, key), has_aux=True)(
        state.critic
    )
    step, critic_opt = m.critic_opt.update(grad, state.critic_opt)
    critic = optax.apply_updates(state.critic, step)
    slow_actor, slow_critic = optax.incremental_update(
        (actor, critic), (state.target_actor, state.target_critic), m.config.polyak
    )
    return State(actor, critic, slow_actor, slow_critic, actor_opt, critic_opt), Out(
        metrics | extra, signal
    )


def resolved(config: Config, spec: EnvSpec) -> Config:
    """The config with every `auto` replaced by its choice. Raises InvalidSetting for impossible
    combinations.
    """
    if spec.discrete:
        raise InvalidSetting(
            f"maddpg: environment '{spec.name}': expected continuous actions, found "
            f"{spec.action_size} discrete ones"
        )
    critic, actor = config.critic, config.actor
    if critic == "auto":
        critic = "learned" if spec.payoff is None else "exact"
    if actor == "auto":
        actor = "constant" if critic == "exact" else "recurrent" if config.window else "mlp"
    if critic == "exact" and spec.payoff is None:
        raise InvalidSetting(
            "maddpg: field 'critic': 'exact' needs a known payoff, and environment "
            f"'{spec.name}' has none"
        )
    if critic == "exact" and config.independent:
        raise InvalidSetting(
            "maddpg: field 'independent': expected false with the exact critic, found true"
        )
    if config.independent and config.others != "data":
        raise InvalidSetting(
            "maddpg: field 'others': expected data with independent=true, whose critics see no "
            f"other agent, found {config.others}"
        )
    if actor == "recurrent" and not config.window:
        raise InvalidSetting(
            "maddpg: field 'window': expected -1 (episodes) or a length with "
            "actor=recurrent, found 0"
        )
    return dataclasses.replace(config, critic=critic, actor=actor)


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Networks of a config. Raises InvalidSetting as `resolved` does."""
    c = resolved(config, spec)
    nets: dict[str, Any] = {"layer_init": c.layer_init, "reset_gate": c.reset_gate}
    recurrent = c.actor == "recurrent"
    actors = Actors(
        spec,
        c.actor_hidden,
        recurrent=recurrent,
        share=c.share,
        last_action=False,
        activated=True,
        **nets,
    )
    make_opt = OPTIMISERS[c.optimiser]
    actor_opt = optax.sgd(c.eta) if c.actor == "constant" else make_opt(c.actor_lr, c.max_grad_norm)
    return Method(
        c,
        spec,
        actors,
        MLP((*c.hidden, 1), layer_init=c.layer_init),
        actor_opt,
        make_opt(c.critic_lr, c.max_grad_norm),
    )


def policy_of(m: Method, params: Params) -> Policy:
    """The deterministic policies."""
    if m.config.actor != "constant":
        return m.actors.policy(params)

    def distribution(carry: tuple[()], step: TimeStep) -> tuple[tuple[()], Distribution]:
        return carry, distributions.deterministic(
            jnp.broadcast_to(params, (*step.obs.shape[:-1], m.spec.action_size))
        )

    return Policy(initial=lambda batch_shape: (), distribution=distribution)


def make(config: Config, spec: EnvSpec) -> Learner:
    """MADDPG for the environment.

    Raises InvalidSetting for discrete actions, or where the payoff is needed and unknown.
    """
    m = method_of(config, spec)
    return Learner(
        init=lambda key: init(m, key),
        update=lambda state, batch, key: update(m, state, batch, key),
        policy=lambda state: policy_of(m, state.actor),
        target_policy=lambda state: policy_of(m, state.target_actor),
    )
