"""CFCQL for continuous actions (Shao et al., NeurIPS 2023, appendix): MATD3 with the counterfactual
conservative term.

    sum_k mean(sum_i lambda_i P_ik - Q_k(s, a)),
        P_ik = log sum_u exp(Q_k(s, a_-i, u) - log p(u))                      -> conservative_loss
over actions u of agent i while its teammates keep those of the data. lambda_i = softmax_i(tau (H -
log mu_i(pi_i))), where mu_i is a VAE of the joint action, fitted first (JointVAE in
jaxoff/nets/behaviour.py) -> behaviour_weights; H is the log density of a policy with noise .2 at
its own action. Policies: - mean_i Q_1(s, a_-i, pi_i(o_i)) -> policy_loss.
Differs: padding and steps without a next action in the window are left out; the reward is the
team's (reward = first: that of agent 0, as the code). As the code, input_norm = batch normalises
each call of a net by the statistics of its own batch (the counterfactual actions of all agents are
one batch), and the policies' running statistics are used in execution only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff import distributions
from jaxoff.batches import as_windows, flatten
from jaxoff.blocks import count_of, summed
from jaxoff.config import static
from jaxoff.data.dataset import Dataset
from jaxoff.errors import InvalidSetting
from jaxoff.learners.actor_critic import with_clock_ends
from jaxoff.losses.conservative import (
    agent_weights,
    near_actions,
    sampled_logsumexp,
    uniform_actions,
)
from jaxoff.losses.likelihood import masked_mean
from jaxoff.losses.td import one_step_target
from jaxoff.nets.actors import Actors
from jaxoff.nets.behaviour import JointVAE
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.nets.normalised import (
    Net,
    Stats,
    moments,
    normalised,
    running,
    standardised,
    unit_norm,
    unit_stats,
)
from jaxoff.optimisers import adam
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
    Stage,
    TimeStep,
    Transition,
)

NOISE = 0.2  # standard deviation of actions sampled near the policy
HEAD = 3e-3  # weights of a policy's last layer start in +-HEAD
NEVER = 1e10  # log density that excludes a sample from the log-sum-exp


@struct.dataclass
class Config:
    """Settings of the released code's particle games, which tunes `cql` and `tau` per dataset."""

    lr: float = 1e-3  # learning rate of policies and critics (Adam)
    gamma: float = 0.95
    cql: float = 1.0  # weight of the conservative term
    # scale in the softmax of deviations over agents; 0: equal weights; 100: all on the largest
    tau: float = 0.5
    max_grad_norm: float = 0.5  # gradient-norm limit, of each policy and of the critics
    polyak: float = 0.01  # share of the online parameters in a target update
    target_noise: float = 0.05  # standard deviation of the noise on target actions
    action_penalty: float = 1e-3  # weight of the penalty on the policies' squared actions
    vae_lr: float = 1e-4  # learning rate of the VAE (Adam)
    # batch: inputs are normalised by the statistics of each batch
    input_norm: Literal["batch", "none"] = static("batch")
    # actions in the penalty: uniform; policy: also noisy policy actions at this and the next step
    samples: Literal["uniform", "policy"] = static("uniform")
    num_samples: int = static(10)  # sampled actions of each kind in the penalty
    critic_state: Literal["state", "obs"] = static("state")  # critic input; obs: all observations
    # team: the team's reward; first: agent 0's own, where agents have their own rewards
    reward: Literal["team", "first"] = static("team")
    truncated_ends: bool = static(False)  # episodes cut by the time limit count as terminated
    policy_every: int = static(5)  # critic updates per policy update
    vae_hidden: int = static(750)  # width of the VAE's hidden layers
    # how agents' penalties are weighted: by deviation, or equally and without a VAE
    weights: Literal["deviation", "uniform"] = static("deviation")
    hidden: int = static(64)  # width of the hidden layers of policies and critics
    recurrent: bool = static(False)  # GRU policies over the episode; needs window != 0
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    behaviour_steps: int = static(2000)  # updates of the behaviour stage
    steps: int = static(10005)
    batch_size: int = static(1024)
    window: int = static(0)  # 0: single steps; -1: whole episodes


class Behaviour(NamedTuple):
    """State of the first stage."""

    vae: Params
    opt: optax.OptState


class State(NamedTuple):
    """State of the main stage; the VAE is frozen (and empty with equal weights)."""

    policy: Net  # [N, ...]
    critic: Net  # twins [2, ...], which share one input normalisation
    target_policy: Net
    target_critic: Net
    stats: Stats
    vae: Params
    policy_opt: optax.OptState
    critic_opt: optax.OptState
    updates: Array


class Method(NamedTuple):
    """Nets and optimisers of one config."""

    config: Config
    spec: EnvSpec
    actors: Actors
    critic: MLP
    vae: JointVAE
    policy_opt: optax.GradientTransformation
    critic_opt: optax.GradientTransformation


# --- inputs ---------------------------------------------------------------------------------------


def seen(m: Method, obs: Array, state: Array) -> Array:
    """Input of critic and VAE besides actions, the state or all observations: [..., N, O], [..., S]
    -> [..., F].
    """
    return state if m.config.critic_state == "state" else obs.reshape(*obs.shape[:-2], -1)


def standard(m: Method, x: Array, weight: Array) -> Array:
    """Inputs [..., M, F] of the critics, standardised over all axes but the last and over rows
    whose weight [M] is above 0, where critics normalise them.
    """
    if m.config.input_norm != "batch":
        return x
    wide = jnp.broadcast_to(weight[:, None], (*x.shape[:-1], 1))
    return standardised(x, *moments(x, wide, tuple(range(x.ndim - 1))))


def valued(m: Method, critic: Net, x: Array) -> Array:
    """Twin values of standardised inputs [..., F] -> [2, ...]."""
    if m.config.input_norm == "batch":
        x = critic.norm.scale * x + critic.norm.shift
    return jax.vmap(m.critic.apply, in_axes=(0, None))(critic.net, x)[..., 0]


def counterfactuals(m: Method, state: Array, mates: Array, own: Array, weight: Array) -> Array:
    """Standardised inputs of the critics for (s, a_-i, u): state [M, F], mates [M, N, A] and
    u = own [K, M, N, A] of every agent i -> [N, K, M, F'].
    """
    slot = jnp.eye(mates.shape[-2], dtype=bool)[:, None, None, :, None]
    joint = jnp.where(slot, own[None], mates[None, None])  # [N, K, M, N, A]
    joint = joint.reshape(*joint.shape[:-2], -1)
    x = jnp.concatenate([jnp.broadcast_to(state, (*joint.shape[:-1], state.shape[-1])), joint], -1)
    # all agents in one batch, so that they share its statistics
    return standard(m, x, weight)


def policy_actions(m: Method, policy: Net, batch: Transition) -> tuple[Array, Array]:
    """Actions [B, T, N, A] of all agents at this and the next step, from inputs normalised by this
    batch's statistics.
    """
    if m.config.input_norm == "batch":
        weight = jnp.broadcast_to(batch.valid[..., None, None], (*batch.obs.shape[:-1], 1))
        now, then = (
            normalised(policy.norm, x, *moments(x, weight, (0, 1)))
            for x in (batch.obs, batch.next_obs)
        )
        batch = batch._replace(obs=now, next_obs=then)
    return m.actors.outputs(policy.net, batch)


# --- behaviour stage ------------------------------------------------------------------------------


def behaviour_learner(m: Method) -> Learner:
    """Fits the VAE, whose inputs are the critic's; its policy decodes the mean of the prior."""
    optimiser = adam(m.config.vae_lr)

    def loss_of(vae: Params, rows: Transition, key: Key) -> Array:
        return masked_mean(
            m.vae.loss(vae, seen(m, rows.obs, rows.state), rows.actions, key), rows.valid
        )

    def init(key: Key) -> Behaviour:
        vae = m.vae.init(key)
        return Behaviour(vae, optimiser.init(vae))

    def update(state: Behaviour, batch: Transition, key: Key) -> tuple[Behaviour, Out]:
        loss, grads = jax.value_and_grad(loss_of)(state.vae, flatten(batch), key)
        steps, opt = optimiser.update(grads, state.opt)
        return Behaviour(optax.apply_updates(state.vae, steps), opt), Out({"behaviour": loss})

    def distribution(vae: Params, now: TimeStep) -> Distribution:
        state = seen(m, now.obs, now.state)
        return distributions.deterministic(
            m.vae.decode(vae, state, jnp.zeros((*state.shape[:-1], 2 * m.vae.size)))
        )

    return Learner(
        init,
        update,
        lambda state: Policy(
            lambda shape: (), lambda carry, now: (carry, distribution(state.vae, now))
        ),
    )


# --- main stage -----------------------------------------------------------------------------------


def init(m: Method, vae: Params, key: Key) -> State:
    """Fresh policies and twin critics; the target networks start as copies of them."""
    policy_key, critic_key = jax.random.split(key)
    n, o = m.spec.num_agents, m.spec.obs_size
    width = m.vae.width + m.vae.size
    norm = unit_norm if m.config.input_norm == "batch" else (lambda *shape: ())
    policy = Net(m.actors.init(policy_key), norm(n, o))
    critic = Net(
        jax.vmap(lambda k: m.critic.init(k, jnp.zeros(width)))(jax.random.split(critic_key, 2)),
        norm(width),
    )
    stats, opts = unit_stats(n, o), (m.policy_opt.init(policy), m.critic_opt.init(critic))
    return State(policy, critic, policy, critic, stats, vae, *opts, jnp.zeros((), jnp.int32))


def behaviour_weights(m: Method, state: State, rows: Transition, actions: Array, key: Key) -> Array:
    """lambda_i [M, N], larger the less likely the policies' actions [M, N, A] are under the data;
    constants that sum to 1 over agents.
    """
    if m.config.weights == "uniform":
        return jnp.full(actions.shape[:-1], 1.0 / m.spec.num_agents)
    log_mu = m.vae.log_prob(state.vae, seen(m, rows.obs, rows.state), actions, key)
    return agent_weights(
        -m.spec.action_size * math.log(NOISE * math.sqrt(2.0 * math.pi)) - log_mu, m.config.tau
    )


class Sampled(NamedTuple):
    """Actions that the conservative term holds down at each row, and log p of each."""

    inputs: Array  # [N, K, M, F], standardised
    log_density: Array  # [N, K, M]


def sampled(
    m: Method,
    rows: Transition,
    near: tuple[Array, Array],
    ahead: tuple[Array, Array],
    key: Key,
) -> list[Sampled]:
    """The kinds of sampled actions, all valued at s: uniform ones and, with samples=policy, also
    noisy policy actions at o and at o'; with those at o', teammates take the data's next actions.

    near: the policies' actions at this and the next step [M, N, A]; ahead: the data's next actions,
        and where these exist [M].
    """
    keys, state, bound = (
        jax.random.split(key, 3),
        seen(m, rows.obs, rows.state),
        m.spec.action_bound,
    )
    drawn, level = uniform_actions(keys[0], (m.config.num_samples, *rows.actions.shape), bound)
    inputs = counterfactuals(m, state, rows.actions, drawn, rows.valid)
    found = [Sampled(inputs, jnp.full(inputs.shape[:-1], level))]
    kinds = ((near[0], rows.actions, rows.valid), (near[1], ahead[0], rows.valid * ahead[1]))
    for (centre, mates, counts), sample_key in zip(
        kinds if m.config.samples == "policy" else (), keys[1:], strict=False
    ):
        drawn, density = near_actions(sample_key, centre, m.config.num_samples, NOISE, bound)
        density = jnp.where(counts > 0, jnp.moveaxis(density, -1, 0), NEVER)
        found.append(Sampled(counterfactuals(m, state, mates, drawn, counts), density))
    return found


def conservative_loss(
    m: Method, critic: Net, values: Array, weight: Array, kinds: Sequence[Sampled]
) -> Array:
    """sum_k of sum_i lambda_i P_ik - Q_k(s, a), unreduced [M].

    values: Q_k(s, a) [2, M]; weight: lambda [M, N].
    """
    q = jnp.concatenate([valued(m, critic, kind.inputs) for kind in kinds], 2)  # [2, N, K, M]
    density = jnp.concatenate([kind.log_density for kind in kinds], 1)
    held = sampled_logsumexp(jnp.moveaxis(q, 2, -1), jnp.moveaxis(density, 1, -1))  # [2, N, M]
    return jnp.sum(jnp.sum(weight.T * held, 1) - values, 0)


def reward_of(m: Method, rows: Transition) -> Array:
    """The reward that the critics learn from: the team's or, with reward=first, agent 0's own where
    agents have their own rewards.
    """
    return (
        rows.reward
        if m.config.reward == "team" or rows.agent_reward is None
        else rows.agent_reward[..., 0]
    )


def critic_loss(
    m: Method, critic: Net, state: State, batch: Transition, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Sum of the twins' mean squared errors plus `cql` times the conservative term.

    batch: windows [B, T, ...].
    """
    rows, (noise_key, weight_key, sample_key) = flatten(batch), jax.random.split(key, 3)
    as_rows = lambda x: x.reshape(rows.actions.shape)
    now, then = map(as_rows, policy_actions(m, state.policy, batch))
    slow, bound = as_rows(policy_actions(m, state.target_policy, batch)[1]), m.spec.action_bound
    slow = jnp.clip(
        slow + m.config.target_noise * jax.random.normal(noise_key, slow.shape), -bound, bound
    )
    inputs = lambda obs, state, joint: standard(
        m,
        jnp.concatenate([seen(m, obs, state), joint.reshape(joint.shape[0], -1)], -1),
        rows.valid,
    )
    ahead = inputs(rows.next_obs, rows.next_state, slow)
    next_value = jnp.min(valued(m, state.target_critic, ahead), 0)
    target = one_step_target(reward_of(m, rows), rows.terminated, next_value, m.config.gamma)
    follows = jnp.pad(batch.valid, ((0, 0), (0, 1)))[:, 1:].reshape(-1)
    # the last slot has no next action and is masked
    next_actions = as_rows(jnp.concatenate([batch.actions[:, 1:], batch.actions[:, -1:]], 1))
    weight = behaviour_weights(m, state, rows, now, weight_key)
    kinds = sampled(m, rows, (now, then), (next_actions, follows), sample_key)
    share = rows.valid / jnp.maximum(jnp.sum(rows.valid), 1e-8)

    def part(
        critic: Net, data: Array, target: Array, weight: Array, share: Array, kinds: Any
    ) -> tuple[Array, dict[str, Array]]:
        values = valued(m, critic, data)
        mean = lambda x: jnp.sum(share * x)
        value = mean(jnp.sum(jnp.square(values - target), 0))
        conservative = mean(conservative_loss(m, critic, values, weight, kinds))
        metrics = {
            "value": value,
            "conservative": conservative,
            "q_total": mean(values[0]),
            "target": mean(target),
            "weight_max": mean(jnp.max(weight, -1)),
        }
        return value + m.config.cql * conservative, metrics

    actions = len(kinds) * m.config.num_samples * m.spec.num_agents
    return summed(
        part,
        critic,
        (inputs(rows.obs, rows.state, rows.actions), target, weight, share, kinds),
        (0, 0, 0, 0, 2),
        count_of(len(share), 2 * 4 * m.config.hidden * actions),
    )


def policy_loss(m: Method, policy: Net, critic: Net, batch: Transition) -> Array:
    """-mean_i Q_1(s, a_-i, pi_i(o_i)) + penalty sum_i mean pi_i^2, over valid rows."""
    rows = flatten(batch)
    own = policy_actions(m, policy, batch)[0].reshape(rows.actions.shape)
    # [M, N]
    state = seen(m, rows.obs, rows.state)
    q = valued(m, critic, counterfactuals(m, state, rows.actions, own[None], rows.valid))[0, :, 0].T
    size = jnp.sum(jnp.mean(jnp.square(own), -1), -1)
    return masked_mean(m.config.action_penalty * size - jnp.mean(q, -1), rows.valid)


def update(m: Method, state: State, batch: Transition, key: Key) -> tuple[State, Out]:
    """One step of the critics; every `policy_every` updates, also one of the policies and soft
    updates of the target networks.
    """
    batch, updates = (
        as_windows(with_clock_ends(batch) if m.config.truncated_ends else batch),
        state.updates + 1,
    )
    grads, metrics = jax.grad(
        lambda critic: critic_loss(m, critic, state, batch, key), has_aux=True
    )(state.critic)
    steps, critic_opt = m.critic_opt.update(grads, state.critic_opt)
    critic = optax.apply_updates(state.critic, steps)

    loss, grads = jax.value_and_grad(lambda policy: policy_loss(m, policy, critic, batch))(
        state.policy
    )
    steps, policy_opt = m.policy_opt.update(grads, state.policy_opt)
    policy = optax.apply_updates(state.policy, steps)
    slow = optax.incremental_update(
        (policy, critic), (state.target_policy, state.target_critic), m.config.polyak
    )
    new, old = (
        (policy, *slow, policy_opt),
        (state.policy, state.target_policy, state.target_critic, state.policy_opt),
    )
    turn = updates % m.config.policy_every == 0
    policy, target_policy, target_critic, policy_opt = jax.tree.map(
        lambda x, y: jnp.where(turn, x, y), new, old
    )
    weight = jnp.broadcast_to(batch.valid[..., None, None], (*batch.obs.shape[:-1], 1))
    stats = (
        running(state.stats, batch.obs, weight, (0, 1))
        if m.config.input_norm == "batch"
        else state.stats
    )
    return (
        State(
            policy,
            critic,
            target_policy,
            target_critic,
            stats,
            state.vae,
            policy_opt,
            critic_opt,
            updates,
        ),
        Out(metrics | {"policy": loss}),
    )


def policy_of(m: Method, state: State) -> Policy:
    """The deterministic policies, whose inputs are normalised by running statistics."""
    plain = m.actors.policy(state.policy.net)
    if m.config.input_norm == "none":
        return plain

    def distribution(memory: Carry, now: TimeStep) -> tuple[Carry, Distribution]:
        return plain.distribution(
            memory, now._replace(obs=normalised(state.policy.norm, now.obs, *state.stats))
        )

    return Policy(plain.initial, distribution)


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Nets and optimisers. Raises InvalidSetting for discrete actions or contradictory settings."""
    if spec.discrete:
        raise InvalidSetting(
            f"cfcql on '{spec.name}': expected continuous actions in this form, found discrete ones"
        )
    if config.recurrent and config.window == 0:
        raise InvalidSetting(
            "cfcql: field 'window': expected -1 (episodes) or a length with recurrent=true, found 0"
        )
    if config.recurrent and config.input_norm == "batch":
        raise InvalidSetting(
            "cfcql: field 'input_norm': expected none with recurrent=true, found 'batch'"
        )
    if config.samples == "policy" and config.window in (0, 1):
        raise InvalidSetting(
            "cfcql: field 'window': expected -1 or at least 2 with samples=policy, for "
            f"next actions, found {config.window}"
        )
    width = spec.state_size if config.critic_state == "state" else spec.num_agents * spec.obs_size
    critic, one = (
        MLP((config.hidden, config.hidden, 1), layer_init=config.layer_init),
        adam(config.lr, config.max_grad_norm),
    )
    each = optax.GradientTransformation(
        jax.vmap(one.init), lambda grads, state, params=None: jax.vmap(one.update)(grads, state)
    )
    actors = Actors(
        spec, config.hidden, recurrent=config.recurrent, head=HEAD, layer_init=config.layer_init
    )
    return Method(
        config,
        spec,
        actors,
        critic,
        JointVAE(spec, width, config.vae_hidden, config.layer_init),
        each,
        one,
    )


def make(config: Config, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """A VAE stage and a MATD3 stage; with equal weights, the MATD3 learner alone."""
    m = method_of(config, spec)
    main = Learner(
        init=lambda key: init(m, (), key),
        update=lambda state, batch, key: update(m, state, batch, key),
        policy=lambda state: policy_of(m, state),
    )
    if config.weights == "uniform":
        return main

    def prepare(behaviour: Behaviour, dataset: Dataset, key: Key) -> State:
        return init(m, behaviour.vae, key)

    return Stage("behaviour", behaviour_learner(m), config.behaviour_steps), Stage(
        "train", main, config.steps, prepare=prepare
    )
