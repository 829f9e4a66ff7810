"""MABCQ for continuous actions: the baseline of Tian et al. (AAAI 2023, Eq. 12) with the parts of
BCQ (Fujimoto et al., ICML 2019).

A VAE of each agent's action given its observation models the data's actions -> behaviour_loss.
Candidates: actions u decoded from latents clipped to +-.5, moved by phi tanh xi(o, u)
    -> candidates.
y = r + gamma (1 - terminated)
    (sum_i w'_i max_u [share min_k + (1 - share) max_k] Q'_ik(o', u) + b'),
    over perturbed candidates u, by the target networks; sum_k mean (y - Q_tot,k)^2
    -> td_target, critic_loss.
xi: -mean_i Q_i1(o_i, u + phi tanh xi(o_i, u)), with one latent per agent -> actor_loss.
Execution: the best candidate by Q_i1; the latents are drawn once, so that policies are
    deterministic -> policy_of.
All nets are shared by the agents, whose number is in the input; the mixer is that of the discrete
form, one for both twins. The paper gives no detail of this form beyond Eq. 12. Policies have no
memory.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff import distributions
from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.likelihood import masked_mean
from jaxoff.losses.td import one_step_target
from jaxoff.nets.behaviour import JointVAE
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mixers import LinearMixer
from jaxoff.nets.mlp import MLP
from jaxoff.optimisers import rmsprop
from jaxoff.types import (
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

LATENT_CLIP = 0.5  # latents of candidates are clipped to +- this


@struct.dataclass
class Config:
    """Settings of Tian et al. (Table 11) where they print one, else those of BCQ."""

    lr: float = 5e-4  # learning rate (RMSprop) of critic, mixer and perturbation net
    lr_behaviour: float = 5e-4  # learning rate (RMSprop) of the VAE
    gamma: float = 0.99
    # gradient-norm limit of critic and mixer together, of the perturbation net, and of the VAE
    max_grad_norm: float = 10.0
    perturbation: float = 0.05  # largest perturbation (BCQ's Phi), as a share of the action bound
    soft_min: float = 0.75  # weight of the smaller twin (BCQ's lambda); the rest on the larger
    candidates: int = static(10)  # number of decoded actions that are compared
    vae_hidden: int = static(64)  # width of the VAE's hidden layers
    critic_hidden: int = static(32)  # width of the critic's two hidden layers
    mixer_bias: bool = static(True)  # whether the mixer has the bias b(s)
    target_every: int = static(100)  # updates between hard copies to the target networks
    embed: int = static(32)  # width of the mixer
    hidden: int = static(64)  # width of the perturbation net's hidden layers
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(15000)
    batch_size: int = static(32)
    window: int = static(-1)  # -1: whole episodes; 0: single steps


class State(NamedTuple):
    """Trained parameters, target networks, and the latents used in execution."""

    policy: Params  # xi
    critic: Params  # twins [2, ...]
    mixer: Params
    target_policy: Params
    target_critic: Params
    target_mixer: Params
    behaviour_policy: Params  # the VAE
    policy_opt: optax.OptState
    opt: optax.OptState  # of critic and mixer together
    behaviour_opt: optax.OptState
    latents: Array  # [K, L]
    updates: Array


class Method(NamedTuple):
    """Nets and optimisers of one config."""

    config: Config
    spec: EnvSpec
    vae: JointVAE  # a VAE of one agent's action
    shift: MLP  # xi
    critic: MLP
    mixer: LinearMixer
    optimiser: optax.GradientTransformation
    behaviour_optimiser: optax.GradientTransformation


def init(m: Method, key: Key) -> State:
    """Fresh nets; the target networks start as copies of them."""
    policy_key, critic_key, mixer_key, vae_key, latent_key = jax.random.split(key, 5)
    n, a = m.spec.num_agents, m.spec.action_size
    x = jnp.zeros(m.spec.obs_size + n + a)
    policy, vae = m.shift.init(policy_key, x), m.vae.init(vae_key)
    critic = jax.vmap(lambda k: m.critic.init(k, x))(jax.random.split(critic_key, 2))
    mixer = m.mixer.init(mixer_key, jnp.zeros(n), jnp.zeros(m.spec.state_size))
    nets = policy, critic, mixer
    opts = (
        m.optimiser.init(policy),
        m.optimiser.init((critic, mixer)),
        m.behaviour_optimiser.init(vae),
    )
    return State(
        *nets,
        *nets,
        vae,
        *opts,
        draw_latents(m, latent_key, (m.config.candidates,)),
        jnp.zeros((), jnp.int32),
    )


# --- candidates -----------------------------------------------------------------------------------


def numbered(obs: Array) -> Array:
    """Observations with the agent's number: [..., N, O] -> [..., N, O + N]."""
    n = obs.shape[-2]
    return jnp.concatenate([obs, jnp.broadcast_to(jnp.eye(n), (*obs.shape[:-1], n))], -1)


def beside(seen: Array, actions: Array) -> Array:
    """Inputs of a net: seen [..., N, F] next to each of actions [K, ..., N, A], or [..., N, A]."""
    return jnp.concatenate(
        [jnp.broadcast_to(seen, (*actions.shape[:-1], seen.shape[-1])), actions], -1
    )


def draw_latents(m: Method, key: Key, shape: tuple[int, ...]) -> Array:
    """Latents [*shape, L] of candidates."""
    return jnp.clip(
        jax.random.normal(key, (*shape, 2 * m.spec.action_size)), -LATENT_CLIP, LATENT_CLIP
    )


def candidates(m: Method, vae: Params, policy: Params, seen: Array, latents: Array) -> Array:
    """Perturbed actions decoded from latents [K, ..., N, L] or [..., N, L] and inputs seen
    [..., N, F]; no gradient reaches the VAE.
    """
    bound = m.spec.action_bound
    decoded = jax.lax.stop_gradient(m.vae.decode(vae, seen, latents)[..., 0, :])
    moved = m.config.perturbation * bound * jnp.tanh(m.shift.apply(policy, beside(seen, decoded)))
    return jnp.clip(decoded + moved, -bound, bound)


def twin_values(m: Method, critic: Params, seen: Array, actions: Array) -> Array:
    """Q_ik(o_i, a_i) of both twins: [2, ..., N] of actions [..., N, A]."""
    return jax.vmap(m.critic.apply, (0, None))(critic, beside(seen, actions))[..., 0]


def soft_minimum(values: Array, share: Array | float) -> Array:
    """share min + (1 - share) max over twins: [2, ...] -> [...] (BCQ, Eq. 13)."""
    return share * jnp.min(values, 0) + (1.0 - share) * jnp.max(values, 0)


# --- losses ---------------------------------------------------------------------------------------


def behaviour_loss(m: Method, vae: Params, batch: Transition, key: Key) -> Array:
    """The VAE's loss, mean over valid steps and agents."""
    seen, actions = numbered(batch.obs), batch.actions
    flat = m.vae.loss(
        vae, seen.reshape(-1, seen.shape[-1]), actions.reshape(-1, 1, actions.shape[-1]), key
    )
    return masked_mean(
        flat.reshape(actions.shape[:-1]),
        jnp.broadcast_to(batch.valid[..., None], actions.shape[:-1]),
    )


def td_target(m: Method, state: State, batch: Transition, key: Key) -> Array:
    """r + gamma (1 - terminated) Q'_tot of every agent's best candidate at the next slot, [...]."""
    c, seen = m.config, numbered(batch.next_obs)
    latents = draw_latents(m, key, (c.candidates, *seen.shape[:-1]))
    actions = candidates(m, state.behaviour_policy, state.target_policy, seen, latents)
    best = jnp.max(soft_minimum(twin_values(m, state.target_critic, seen, actions), c.soft_min), 0)
    total = m.mixer.apply(state.target_mixer, best, batch.next_state)
    return one_step_target(batch.reward, batch.terminated, total, c.gamma)


def critic_loss(
    m: Method, params: tuple[Params, Params], state: State, batch: Transition, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Sum of both twins' mean of (y - Q_tot,k)^2 over valid steps, and metrics.

    params: (critic, mixer).
    """
    target = td_target(m, state, batch, key)
    values = twin_values(m, params[0], numbered(batch.obs), batch.actions)
    total = jax.vmap(lambda q: m.mixer.apply(params[1], q, batch.state))(values)
    value = masked_mean(jnp.sum(jnp.square(target - total), 0), batch.valid)
    return value, {
        "value": value,
        "q_total": masked_mean(total[0], batch.valid),
        "target": masked_mean(target, batch.valid),
    }


def actor_loss(
    m: Method, policy: Params, critic: Params, vae: Params, batch: Transition, key: Key
) -> Array:
    """-Q_i1 of one perturbed candidate of each agent, mean over valid steps and agents."""
    seen = numbered(batch.obs)
    own = candidates(m, vae, policy, seen, draw_latents(m, key, seen.shape[:-1]))
    q = twin_values(m, critic, seen, own)[0]
    return -masked_mean(q, jnp.broadcast_to(batch.valid[..., None], q.shape))


def update(m: Method, state: State, batch: Transition, key: Key) -> tuple[State, Out]:
    """One step of the VAE, then of critic and mixer, then of the perturbation net by the new
    values; the target networks are copied every `target_every` updates.
    """
    bound, (vae_key, critic_key, actor_key) = m.spec.action_bound, jax.random.split(key, 3)
    batch, updates = (
        batch._replace(actions=jnp.clip(batch.actions, -bound, bound)),
        state.updates + 1,
    )
    cloned, grads = jax.value_and_grad(lambda p: behaviour_loss(m, p, batch, vae_key))(
        state.behaviour_policy
    )
    steps, behaviour_opt = m.behaviour_optimiser.update(grads, state.behaviour_opt)
    vae = optax.apply_updates(state.behaviour_policy, steps)
    state = state._replace(behaviour_policy=vae, behaviour_opt=behaviour_opt, updates=updates)

    params = state.critic, state.mixer
    grads, metrics = jax.grad(lambda p: critic_loss(m, p, state, batch, critic_key), has_aux=True)(
        params
    )
    steps, opt = m.optimiser.update(grads, state.opt)
    critic, mixer = optax.apply_updates(params, steps)

    loss, grads = jax.value_and_grad(lambda p: actor_loss(m, p, critic, vae, batch, actor_key))(
        state.policy
    )
    steps, policy_opt = m.optimiser.update(grads, state.policy_opt)
    new = optax.apply_updates(state.policy, steps), critic, mixer
    slow = optax.periodic_update(
        new,
        (state.target_policy, state.target_critic, state.target_mixer),
        updates,
        m.config.target_every,
    )
    nets = dict(zip(State._fields, (*new, *slow), strict=False))
    return state._replace(**nets, policy_opt=policy_opt, opt=opt), Out(
        metrics | {"behaviour": cloned, "policy": loss}
    )


def policy_of(m: Method, state: State) -> Policy:
    """Each agent plays its best candidate by Q_1; the latents are the same at every step."""

    def distribution(memory: Carry, now: TimeStep) -> tuple[Carry, Distribution]:
        seen = numbered(now.obs)
        latents = state.latents.reshape(-1, *[1] * (seen.ndim - 1), state.latents.shape[-1])
        latents = jnp.broadcast_to(
            latents, (len(state.latents), *seen.shape[:-1], latents.shape[-1])
        )
        actions = candidates(m, state.behaviour_policy, state.policy, seen, latents)
        best = jnp.argmax(twin_values(m, state.critic, seen, actions)[0], 0)
        return memory, distributions.deterministic(
            jnp.take_along_axis(actions, best[None, ..., None], 0)[0]
        )

    return Policy(lambda batch_shape: (), distribution)


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """The nets that a config asks for. Raises InvalidSetting for what this form can't do."""
    if spec.discrete:
        raise InvalidSetting(
            f"bcq on '{spec.name}': expected continuous actions in this form, found discrete ones"
        )
    start = config.layer_init
    vae = JointVAE(
        dataclasses.replace(spec, num_agents=1),
        spec.obs_size + spec.num_agents,
        config.vae_hidden,
        start,
    )
    shift = MLP((config.hidden, config.hidden, spec.action_size), layer_init=start)
    critic = MLP((config.critic_hidden, config.critic_hidden, 1), layer_init=start)
    mixer = LinearMixer(config.embed, spec.num_agents, config.mixer_bias, start)
    opts = (
        rmsprop(config.lr, config.max_grad_norm),
        rmsprop(config.lr_behaviour, config.max_grad_norm),
    )
    return Method(config, spec, vae, shift, critic, mixer, *opts)


def make(config: Config, spec: EnvSpec) -> Learner:
    """The learner; its policies are deterministic."""
    m = method_of(config, spec)
    return Learner(
        lambda key: init(m, key), lambda *args: update(m, *args), lambda state: policy_of(m, state)
    )
