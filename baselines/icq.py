"""ICQ: implicit constraint Q-learning for many agents (Yang et al., 2021), which only evaluates the
data's own actions.

Eq. 12, weights of the next values -> critic_target; Eq. 14, value and policy losses -> critic_loss,
actor_loss. Discrete and continuous actions, with a linear mixer: Q_tot = sum_i w_i(s) Q_i + b(s).
The MA-ICQ of Pan et al. (OMAR, 2022), for continuous actions and without a mixer, is a method of
its own: maicq.py.
Differs: padding is excluded from every softmax; a step whose next action is not in the data (the
last of a window, unless terminated) closes the lambda-return with its value and has no target of
its own (`truncation`).
By default as the released code, not the paper: temperature 1000 in the critic, advantages in the
actor's weights (`actor_weight`). As the paper, not the code: lambda .8 (code .75), gradient-norm
limit 10 (code 20), one critic step for all time steps (`per_timestep`), a policy without uniform
actions (`epsilon_start`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxoff import distributions
from jaxoff.batches import as_windows
from jaxoff.blocks import averaged, by_length, of_each, widest
from jaxoff.config import refuse_unread, static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.implicit import batch_weight, effective
from jaxoff.losses.likelihood import masked_mean, taken
from jaxoff.losses.td import ahead, lambda_return
from jaxoff.nets.actors import Actors
from jaxoff.nets.gaussian import (
    LOG_STD_START,
    Gaussian,
    bounded_spread,
    data_density,
    gaussian_policy,
)
from jaxoff.nets.layers import Dense, LayerInit
from jaxoff.nets.mixers import LinearMixer
from jaxoff.nets.mlp import MLP
from jaxoff.optimisers import rmsprop
from jaxoff.types import UNAVAILABLE, Array, EnvSpec, Key, Learner, Out, Params, Policy, Transition

BASELINE_SAMPLES = 4  # continuous: policy actions whose mean value is the baseline


# settings that only the form for discrete actions reads
_OF_CHOICES = ("mask_before_softmax", "epsilon_start", "epsilon_end", "epsilon_updates")


@struct.dataclass
class Config:
    """Settings of Tian et al. (2023), Table 11, where they print one."""

    lr: float = 5e-4  # learning rate of the policies (RMSprop)
    critic_lr: float = 1e-4  # learning rate of critic and mixer (RMSprop)
    gamma: float = 0.99
    trace: float = 0.8  # lambda of the lambda-return
    beta_critic: float = 1000.0  # temperature of the weights on next values; paper .1
    beta_actor: float = 0.1  # temperature of the policy's weights
    # gradient-norm limit of the policies, and of critic and mixer together
    max_grad_norm: float = 10.0
    # initial share of uniform actions in the trained policy (discrete actions); released code: .5
    epsilon_start: float = 0.0
    # final share of uniform actions in the trained policy; released code: .05
    epsilon_end: float = 0.0
    # weights of the policy loss come from advantages (released code) or values (paper)
    actor_weight: Literal["advantage", "value"] = static("advantage")
    # last step of a truncated episode: bootstrap by its value, or (not in the paper) as terminal
    truncation: Literal["value", "terminal"] = static("value")
    per_timestep: bool = static(False)  # one critic step per time step, as the released code
    # mask unavailable actions before mixing in uniform ones; released code: false
    mask_before_softmax: bool = static(True)
    mixer_bias: bool = static(True)  # whether the mixer has the bias b(s)
    # critic steps between hard copies to the target networks; released code: 600
    target_every: int = static(100)
    epsilon_updates: int = static(5000)  # updates until epsilon_end is reached
    embed: int = static(32)  # width of the mixer
    critic_hidden: int = static(32)  # width of the critic's hidden layers; released code: 256
    hidden: int = static(64)  # width of the policies' hidden layers
    recurrent: bool = static(False)  # GRU policies over the episode; needs window != 0
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(15000)
    batch_size: int = static(32)
    window: int = static(-1)  # -1: whole episodes; targets need the next action


class State(NamedTuple):
    """Trained parameters, target networks and optimiser states."""

    policy: Params  # nets that give logits, or a Gaussian
    critic: Params
    mixer: Params
    target_critic: Params
    target_mixer: Params
    policy_opt: optax.OptState
    critic_opt: optax.OptState
    updates: Array
    critic_steps: Array  # since the last hard copy


class Dueling(nn.Module):
    """Values of all actions, V + A without centring, on two shared layers: [..., F] -> [..., A]."""

    hidden: int
    actions: int
    layer_init: LayerInit = "torch"

    @nn.compact
    def __call__(self, x: Array | Sequence[Array]) -> Array:
        """Apply to the last axis; the input may be given in parts, as for `Dense`."""
        for _ in range(2):
            x = jax.nn.relu(Dense(self.hidden, self.layer_init)(x))
        return Dense(1, self.layer_init)(x) + Dense(self.actions, self.layer_init)(x)


class Method(NamedTuple):
    """Nets and optimisers of one config."""

    config: Config
    spec: EnvSpec
    actors: Actors
    critic: nn.Module
    mixer: LinearMixer
    policy_opt: optax.GradientTransformation
    critic_opt: optax.GradientTransformation


def init(m: Method, key: Key) -> State:
    """Fresh nets; the target networks start as copies of them."""
    policy_key, critic_key, mixer_key = jax.random.split(key, 3)
    n, a, spec = m.spec.num_agents, m.spec.action_size, m.spec
    policy = m.actors.init(policy_key)
    if not spec.discrete:
        policy = Gaussian(policy, jnp.full((a,), LOG_STD_START))
    zero = jnp.zeros((), jnp.int32)
    critic = m.critic.init(
        critic_key, jnp.zeros(spec.state_size + spec.obs_size + n + (0 if spec.discrete else a))
    )
    mixer = m.mixer.init(mixer_key, jnp.zeros(n), jnp.zeros(spec.state_size))
    return State(
        policy,
        critic,
        mixer,
        critic,
        mixer,
        m.policy_opt.init(policy),
        m.critic_opt.init((critic, mixer)),
        zero,
        zero,
    )


# --- values ---------------------------------------------------------------------------------------


def action_values(
    m: Method, critic: Params, batch: Transition, actions: Array | None = None
) -> Array:
    """Q_i(s, o_i, .) [..., N, A] if discrete, else Q_i(s, o_i, a_i) of actions [..., N, A] -> [...,
    N].

    actions may have axes before those of the batch.
    """
    seen = (batch.state[..., None, :], batch.obs, jnp.eye(m.spec.num_agents))
    if actions is None:
        return m.critic.apply(critic, seen)
    return m.critic.apply(critic, (*seen, actions))[..., 0]


def data_values(m: Method, critic: Params, batch: Transition) -> Array:
    """Q_i of the data's actions, [..., N]."""
    return (
        taken(action_values(m, critic, batch), batch.actions)
        if m.spec.discrete
        else action_values(m, critic, batch, batch.actions)
    )


def usable(batch: Transition) -> Array:
    """1 where a step has a target, since its next action is in the window or it is terminated;
    [B, T].
    """
    return batch.valid * jnp.maximum(batch.terminated, ahead(batch.valid))


def closed(batch: Transition) -> Transition:
    """The batch [B, T, ...] of whole episodes with the last step of each marked as terminated, even
    where it was only truncated.
    """
    return batch._replace(
        terminated=jnp.maximum(batch.terminated, batch.valid * (1.0 - ahead(batch.valid)))
    )


def critic_target(m: Method, state: State, batch: Transition) -> tuple[Array, Array]:
    """lambda-return [B, T] over the target networks' values rho_t Q_tot(s_t, a_t), and the weights
    rho [B, T] (Eq. 12).
    """
    c, slow = m.config, (state.target_critic, state.target_mixer)
    total = of_each(
        lambda p, batch: m.mixer.apply(p[1], data_values(m, p[0], batch), batch.state),
        slow,
        (batch,),
        batch.valid,
        widest(batch, c.critic_hidden),
    )
    rho = batch_weight(total, batch.valid, c.beta_critic)
    # Where the episode continues after the window, the last step has no target; its value closes
    # the return of the step before it.
    return lambda_return(
        batch.reward, batch.terminated, usable(batch), ahead(rho * total), c.gamma, c.trace
    ), rho


def critic_loss(
    m: Method, params: tuple[Params, Params], batch: Transition, target: Array, mask: Array
) -> Array:
    """Eq. 14, value loss: mean of (target - Q_tot)^2 over mask; any leading axes.

    params: (critic, mixer).
    """

    def part(
        params: tuple[Params, Params], batch: Transition, target: Array, mask: Array
    ) -> tuple[Array, tuple[()]]:
        total = m.mixer.apply(params[1], data_values(m, params[0], batch), batch.state)
        return masked_mean(jnp.square(lax.stop_gradient(target) - total), mask), ()

    size = widest(batch, m.config.critic_hidden)
    return averaged(part, params, (batch, target, mask), mask, size)[0]


def critic_step(m: Method, state: State, batch: Transition) -> tuple[State, dict[str, Array]]:
    """One step of critic and mixer or, with `per_timestep`, one for each time of the window that an
    episode reaches, in order.
    """
    (target, rho), mask = critic_target(m, state, batch), usable(batch)
    carry = ((state.critic, state.mixer), state.critic_opt)

    def step(
        carry: tuple[Params, optax.OptState], part: tuple[Transition, Array, Array]
    ) -> tuple[tuple[Params, optax.OptState], Array]:
        loss, grads = jax.value_and_grad(lambda p: critic_loss(m, p, *part))(carry[0])
        changes, opt = m.critic_opt.update(grads, carry[1])
        some = jnp.sum(part[-1]) > 0  # no step for a time that no episode reaches
        return jax.tree.map(
            lambda new, old: jnp.where(some, new, old),
            (optax.apply_updates(carry[0], changes), opt),
            carry,
        ), loss

    parts = (batch, target, mask)
    if m.config.per_timestep:
        carry, losses = lax.scan(step, carry, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), parts))
        loss, made = (
            masked_mean(losses, jnp.sum(mask, 0)),
            jnp.sum(jnp.any(mask > 0, 0), dtype=jnp.int32),
        )
    else:
        (carry, loss), made = step(carry, parts), jnp.ones((), jnp.int32)
    (critic, mixer), opt = carry
    metrics = {
        "value": loss,
        "target": masked_mean(target, mask),
        "critic_weight_max": jnp.max(rho),
    }
    return state._replace(
        critic=critic, mixer=mixer, critic_opt=opt, critic_steps=state.critic_steps + made
    ), metrics


# --- policies -------------------------------------------------------------------------------------


def mixed_log_probs(
    logits: Array, avail: Array, epsilon: Array | float, *, mask_first: bool = True
) -> Array:
    """Log probabilities [..., A] of a policy mixed with uniform actions; logits [..., A], unmasked.

    mask_first: (1 - epsilon) pi + epsilon / number of available actions, with pi a softmax over
    these. Otherwise, as the released code, the same mixture over all actions; unavailable actions
    are then removed and the rest renormalised.
    """
    counted = avail if mask_first else jnp.ones_like(avail)
    masked = lambda x: jnp.where(avail > 0, x, UNAVAILABLE)
    uniform = jnp.log(epsilon) - jnp.log(jnp.maximum(jnp.sum(counted, -1, keepdims=True), 1.0))
    log_pi = jax.nn.log_softmax(masked(logits) if mask_first else logits)
    mixed = jnp.logaddexp(jnp.log1p(-epsilon) + log_pi, uniform)
    return masked(mixed if mask_first else jax.nn.log_softmax(masked(mixed)))


def epsilon_at(config: Config, updates: Array) -> Array:
    """Linear interpolation from epsilon_start to epsilon_end."""
    share = jnp.minimum(updates / config.epsilon_updates, 1.0)
    return config.epsilon_start + share * (config.epsilon_end - config.epsilon_start)


def actor_loss(
    m: Method, policy: Params, state: State, batch: Transition, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Eq. 14, policy loss: -mean k_i(s) c_i log pi_i(a_i), where c_i is a softmax over the batch at
    each time and agent.

    advantage: c_i of Q_i(a_i) - E_pi Q_i, and k_i = w_i(s), as the released code. value: c_i of
        w_i Q_i(a_i), and k_i = 1, as printed.
    """
    share, _ = m.mixer.apply(state.mixer, batch.state, method="weights")
    printed = m.config.actor_weight == "value"
    given = discrete_signal if m.spec.discrete else continuous_signal
    mine, base, log_probs = given(m, policy, state, batch, key)
    weight = batch_weight(
        share * mine if printed else mine - base, batch.valid, m.config.beta_actor
    )
    scale = lax.stop_gradient(weight if printed else share * weight)

    def part(policy: Params, batch: Transition, scale: Array) -> tuple[Array, dict[str, Array]]:
        log_prob = log_probs(policy, batch)
        valid = jnp.broadcast_to(batch.valid[..., None], scale.shape)
        loss = -masked_mean(scale * log_prob, valid)
        return loss, {"policy": loss, "log_prob": masked_mean(log_prob, valid)}

    size = widest(batch, m.config.hidden) if m.spec.discrete else 0
    loss, metrics = averaged(part, policy, (batch, scale), batch.valid, size)
    valid = jnp.broadcast_to(batch.valid[..., None], weight.shape)
    return loss, metrics | {
        "actor_effective": effective(weight, valid),
        "advantage": masked_mean(mine - base, valid),
    }


# Values of the data's actions, values of the policy's actions on average [B, T, N] each, and
# log_probs(policy, batch) [B, T, N] of the data's actions.
Signal = tuple[Array, Array, Callable[[Params, Transition], Array]]


def discrete_signal(m: Method, policy: Params, state: State, batch: Transition, _: Key) -> Signal:
    """What the policy's weights are made of, for discrete actions."""
    epsilon = epsilon_at(m.config, state.updates)

    def log_pi(policy: Params, batch: Transition) -> Array:
        logits = m.actors.outputs(policy, batch, masked=False)[0]
        return mixed_log_probs(
            logits, batch.avail, epsilon, mask_first=m.config.mask_before_softmax
        )

    q = of_each(
        lambda p, batch: action_values(m, p, batch),
        state.critic,
        (batch,),
        batch.valid,
        widest(batch, m.config.critic_hidden),
    )
    base = of_each(
        lambda p, batch, q: jnp.sum(jnp.exp(log_pi(p, batch)) * q, -1),
        policy,
        (batch, q),
        batch.valid,
        widest(batch, m.config.hidden),
    )
    return (
        taken(q, batch.actions),
        base,
        lambda policy, batch: taken(log_pi(policy, batch), batch.actions),
    )


def continuous_signal(
    m: Method, policy: Params, state: State, batch: Transition, key: Key
) -> Signal:
    """What the policy's weights are made of, for continuous actions."""
    bound = m.spec.action_bound
    normal = lambda policy, batch: distributions.normal(
        m.actors.outputs(policy.net, batch)[0], policy.log_std
    )
    sampled = normal(policy, batch).sample(seed=key, sample_shape=BASELINE_SAMPLES)
    samples = jnp.clip(sampled, -bound, bound)
    return (
        action_values(m, state.critic, batch, batch.actions),
        jnp.mean(action_values(m, state.critic, batch, samples), 0),
        lambda policy, batch: data_density(normal(policy, batch), batch.actions, bound),
    )


def actor_step(m: Method, state: State, loss_of: Params) -> tuple[State, dict[str, Array]]:
    """One step of the policies on loss_of(policy) -> (loss, metrics)."""
    grads, metrics = jax.grad(loss_of, has_aux=True)(state.policy)
    changes, opt = m.policy_opt.update(grads, state.policy_opt)
    policy = optax.apply_updates(state.policy, changes)
    if not m.spec.discrete:
        policy = bounded_spread(policy)
    return state._replace(policy=policy, policy_opt=opt), metrics


def update(m: Method, state: State, batch: Transition, key: Key) -> tuple[State, Out]:
    """One update of critic and mixer, then of the policies by the new values; target networks are
    copied every `target_every` critic steps.
    """
    batch = as_windows(batch)
    if m.spec.discrete:  # the samples of continuous actions depend on the order of the windows
        batch = by_length(batch)
    if m.config.truncation == "terminal":
        batch = closed(batch)
    state, metrics = critic_step(m, state, batch)
    state, actor_metrics = actor_step(
        m, state, lambda policy: actor_loss(m, policy, state, batch, key)
    )
    new, old = (state.critic, state.mixer), (state.target_critic, state.target_mixer)
    # checked once per batch, however many critic steps it made, as the released code
    due = state.critic_steps >= m.config.target_every
    critic, mixer = jax.tree.map(lambda x, y: jnp.where(due, x, y), new, old)
    since = jnp.where(due, 0, state.critic_steps)
    state = state._replace(
        target_critic=critic, target_mixer=mixer, updates=state.updates + 1, critic_steps=since
    )
    return state, Out(metrics | actor_metrics)


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """The nets that a config asks for. Raises InvalidSetting for contradictory settings."""
    if not spec.discrete:
        refuse_unread("icq", config, _OF_CHOICES, spec)
    if config.truncation == "terminal" and config.window != -1:
        raise InvalidSetting(
            "icq: field 'window': expected -1 (episodes) with truncation=terminal, found "
            f"{config.window}"
        )
    if config.recurrent and config.window == 0:
        raise InvalidSetting(
            "icq: field 'window': expected -1 (episodes) or a length with recurrent=true, found 0"
        )
    if config.window in (0, 1) and spec.horizon > 1:
        raise InvalidSetting(
            "icq: field 'window': expected -1 (episodes) or at least 2, since targets "
            f"need the next action, found {config.window}"
        )
    actors = Actors(
        spec, config.hidden, recurrent=config.recurrent, share=True, layer_init=config.layer_init
    )
    mixer = LinearMixer(config.embed, spec.num_agents, config.mixer_bias, config.layer_init)
    width, start = config.critic_hidden, config.layer_init
    critic = (
        Dueling(width, spec.action_size, start)
        if spec.discrete
        else MLP((width, width, 1), layer_init=start)
    )
    opts = [rmsprop(lr, config.max_grad_norm) for lr in (config.lr, config.critic_lr)]
    return Method(config, spec, actors, critic, mixer, *opts)


def policy_of(m: Method, params: Params) -> Policy:
    """Categorical over available actions, or Gaussians whose mode is the mean."""
    return (
        m.actors.policy(params)
        if m.spec.discrete
        else gaussian_policy(m.actors.policy(params.net), params.log_std)
    )


def make(config: Config, spec: EnvSpec) -> Learner:
    """The learner, for discrete or continuous actions."""
    m = method_of(config, spec)
    return Learner(
        lambda key: init(m, key),
        lambda state, batch, key: update(m, state, batch, key),
        lambda state: policy_of(m, state.policy),
    )
