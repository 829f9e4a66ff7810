"""AlberDICE: alternating optimisation over stationary distributions (Matsunaga et al., NeurIPS
2023).

Each agent solves a regularised decision process in which its teammates' policies are fixed: reward
minus alpha times the divergence of (pi_i, pi_-i) from the data, over stationary distributions. The
dual problem has one variable, nu_i(s). The formulas are in jaxoff/losses/stationary.py:
dual_advantage (e^ of a step), dual_loss (for nu), advantage_loss (for e, a function of the action),
improvement_loss (projection to a policy, the I-projection). The teammates' actions in the data are
corrected by resampling rows in proportion to joint_ratio. mu_i(a_i) and mu_i(a_-i | s, a_i) are
fitted at the same time -> behaviour_step, agent_losses. Agents take turns, 0 to n-1 -> update.

Absorbing state: the released code extends every terminated episode to the time limit with steps in
an absorbing state that has an input of its own. Here nu of that state is 0, which is no restriction
since adding a constant to nu does not change the dual. So a terminated step has no nu(s'), its
absorbing steps have e^ = 0, and they enter dual_loss only as a count, for single steps as for
episodes. `limit` is the length to which episodes are extended (or cut).

Differs from the code: the true last state is not a step of its own; the gradient penalty has no
absorbing states; nu keeps the bias of its head, which is its offset from the absorbing state; mu is
the same for all turns of an update.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxoff.batches import as_windows, flatten
from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.in_sample import resample
from jaxoff.losses.likelihood import log_prob, masked_mean, negative_log_likelihood
from jaxoff.losses.stationary import (
    absorbing_steps,
    advantage_loss,
    dual_advantage,
    dual_loss,
    gradient_penalty,
    improvement_loss,
    joint_ratio,
    sampled_divergence,
    teammate_divergence,
)
from jaxoff.nets.actors import Actors
from jaxoff.nets.behaviour import TeammateModel
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.optimisers import adam
from jaxoff.types import Array, EnvSpec, Key, Learner, Out, Params, Transition

# last-layer weights of policies and behaviour models start uniform in +- this; biases do not
FIRST_HEAD = 1e-3

ACTIONS = ("discrete",)


@struct.dataclass
class Config:
    """Settings.

    Defaults are those of the released code, apart from `samples`, `steps` and batches.
    """

    lr: float = 1e-4  # learning rate of every net (Adam)
    gamma: float = 0.99
    alpha_start: float = 5.0  # initial weight of the divergence; decays exponentially to alpha_end
    alpha_end: float = 0.001  # weight of the divergence at the end of the stage
    conservative: float = 0.1  # weight of the conservative term in the loss of the critic e
    penalty: float = 0.1  # weight of the gradient penalty on the dual variable nu
    # joint actions sampled to estimate the divergence; 0: exact sum; released code: 16
    samples: int = static(0)
    # states in (1 - gamma) E nu. data: all states (released code); first: initial states (paper)
    initial: Literal["data", "first"] = static("data")
    limit: int = static(0)  # episode length with absorbing steps; 0: the environment's time limit
    hidden: int = static(128)
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    # how layers of policies and behaviour models start: jaxoff/nets/layers.py
    policy_init: LayerInit = static("xavier")
    steps: int = static(20000)
    batch_size: int = static(256)
    window: int = static(0)


class Nets(NamedTuple):
    """Parameters of one agent's nets; in State every tree has a leading axis [N]."""

    policy: Params
    critic: Params  # e_i(s, a_i)
    dual: Params  # nu_i(s)
    teammates: Params  # mu_i(a_-i | s, a_i)


class State(NamedTuple):
    """Trained parameters and optimiser states."""

    nets: Nets  # [N]
    opts: Nets  # [N]
    behaviour_policy: Params  # mu_i(a_i | o_i), one net shared by all agents
    behaviour_opt: optax.OptState
    updates: Array


class Method(NamedTuple):
    """Nets and optimiser of one config."""

    config: Config
    spec: EnvSpec
    actors: Actors
    behaviour: Actors
    teammates: TeammateModel
    scalar: MLP  # the architecture of both e and nu
    optimiser: optax.GradientTransformation


class Sample(NamedTuple):
    """The data of one agent's update: M rows, B' pairs of states."""

    rows: Transition
    log_mu: Array  # [M, A] of this agent
    ratio: Array  # [M] importance ratio of the teammates' actions
    counts: Array  # [M] how often each row was resampled
    divergence: Array  # [M] of the teammates' policies from the data
    absorbing: Array  # [] number of absorbing steps
    # two states [B', S]; interpolation weight of the first, and validity of the pair, [B']
    pair: tuple[Array, Array, Array, Array]


def alpha_at(config: Config, updates: Array) -> Array:
    """Exponential decay from alpha_start to alpha_end over the stage."""
    return config.alpha_start * (config.alpha_end / config.alpha_start) ** (updates / config.steps)


def with_limit(batch: Transition, limit: int) -> Transition:
    """The batch, where steps after the first `limit` of an episode are not valid."""
    return batch._replace(valid=batch.valid * (batch.steps_before < limit))


def pairs_of_states(key: Key, batch: Transition) -> tuple[Array, Array, Array, Array]:
    """Pairs of states for the gradient penalty on nu: the first half of the batch with the second
    half at permuted times.
    """
    turn_key, share_key = jax.random.split(key)
    windows = as_windows(batch)
    half, time = (
        windows.valid.shape[0] // 2,
        jax.random.permutation(turn_key, windows.valid.shape[1]),
    )
    states = windows.state[:half], windows.state[half : 2 * half][:, time]
    real = (windows.valid[:half] * windows.valid[half : 2 * half][:, time]).reshape(-1)
    one, other = (x.reshape(-1, x.shape[-1]) for x in states)
    return one, other, jax.random.uniform(share_key, real.shape), real


# --- losses ---------------------------------------------------------------------------------------


def advantages(m: Method, params: Params, state: Array) -> Array:
    """e_i(s, .) from the net, one pass for each action: [M, S] -> [M, A]."""
    a = m.spec.action_size
    x = jnp.broadcast_to(state[:, None], (state.shape[0], a, state.shape[1]))
    return m.scalar.apply(
        params, jnp.concatenate([x, jnp.broadcast_to(jnp.eye(a), (*x.shape[:2], a))], -1)
    )[..., 0]


def dual_losses(m: Method, params: Params, sample: Sample, alpha: Array) -> tuple[Array, Array]:
    """Loss of nu_i, and e^ of each row [M]."""
    rows, config = sample.rows, m.config
    value, next_value = (m.scalar.apply(params, x)[..., 0] for x in (rows.state, rows.next_state))
    found = dual_advantage(
        rows.reward, rows.terminated, value, next_value, sample.divergence, alpha, config.gamma
    )
    steps = jnp.sum(rows.valid)
    loss = dual_loss(
        found, sample.counts, masked_mean(sample.ratio, rows.valid), steps, sample.absorbing, alpha
    )
    if config.initial == "first":
        start = masked_mean(value, rows.valid * (rows.steps_before == 0))
    else:  # every state counts as an initial one, absorbing states (value 0) included
        start = jnp.sum(value * rows.valid) / jnp.maximum(steps + sample.absorbing, 1.0)
    one, other, share, real = sample.pair
    slope = gradient_penalty(lambda x: m.scalar.apply(params, x)[..., 0], one, other, share)
    return loss + (1.0 - config.gamma) * start + config.penalty * masked_mean(slope, real), found


def agent_losses(
    m: Method, nets: Nets, agent: Array, sample: Sample, alpha: Array
) -> tuple[Array, dict[str, Array]]:
    """Sum of the losses of an agent's nets; the gradient of each reaches its own net only."""
    rows = sample.rows
    actions, avail = rows.actions[:, agent], rows.avail[:, agent]
    dual, target = dual_losses(m, nets.dual, sample, alpha)
    e = advantages(m, nets.critic, rows.state)
    critic = masked_mean(
        advantage_loss(e, target, actions, sample.log_mu, avail, m.config.conservative),
        sample.counts,
    )
    logits = m.actors.one(nets.policy, agent, rows)[0]
    policy = masked_mean(improvement_loss(logits, e, sample.log_mu, alpha), sample.counts)
    mates = m.teammates.log_prob(nets.teammates, agent, rows.state, rows.actions, rows.avail)
    teammates = masked_mean(-jnp.sum(mates, -1) / (m.spec.num_agents - 1), rows.valid)
    metrics = {"dual": dual, "value": critic, "policy": policy, "teammates": teammates}
    return dual + critic + policy + teammates, metrics


def behaviour_step(m: Method, state: State, rows: Transition) -> tuple[State, Array]:
    """One maximum-likelihood step of the shared mu, and its loss."""

    def loss_of(params: Params) -> Array:
        loss = negative_log_likelihood(m.behaviour.outputs(params, rows)[0], rows.actions)
        return masked_mean(loss, jnp.broadcast_to(rows.valid[:, None], loss.shape))

    loss, grads = jax.value_and_grad(loss_of)(state.behaviour_policy)
    steps, opt = m.optimiser.update(grads, state.behaviour_opt)
    return state._replace(
        behaviour_policy=optax.apply_updates(state.behaviour_policy, steps), behaviour_opt=opt
    ), loss


# --- one update -----------------------------------------------------------------------------------


def draw_sample(
    m: Method, nets: Nets, agent: Array, batch: Transition, log_pi: Array, log_mu: Array, key: Key
) -> Sample:
    """Ratio and divergence of the teammates, and rows resampled by the ratio; log_pi, log_mu [M, N,
    A].
    """
    draw_key, action_key, pair_key = jax.random.split(key, 3)
    rows = flatten(batch)
    # [M, N, A]
    mates = m.teammates.log_probs(nets.teammates, agent, rows.state, rows.actions, rows.avail)
    ratio = rows.valid * joint_ratio(
        log_prob(log_pi, rows.actions), log_prob(mates, rows.actions), agent
    )
    if m.config.samples:
        divergence = sampled_divergence(action_key, log_pi, mates, agent, m.config.samples)
    else:
        divergence = teammate_divergence(log_pi, mates, agent)
    absorbing = jnp.sum(
        absorbing_steps(
            rows.terminated, rows.valid, rows.steps_before, m.config.limit or m.spec.horizon
        )
    )
    pair = pairs_of_states(pair_key, batch)
    return Sample(
        rows,
        jnp.take(log_mu, agent, 1),
        ratio,
        resample(draw_key, ratio)[1],
        divergence,
        absorbing,
        pair,
    )


def update(m: Method, state: State, batch: Transition, key: Key) -> tuple[State, Out]:
    """One turn of every agent on one batch; each sees its teammates' latest policies."""
    batch = with_limit(batch, m.config.limit or m.spec.horizon)
    rows, alpha, n = flatten(batch), alpha_at(m.config, state.updates), m.spec.num_agents
    log_mu = jax.nn.log_softmax(m.behaviour.outputs(state.behaviour_policy, rows)[0])
    state, behaviour = behaviour_step(m, state, rows)
    log_pi = jax.nn.log_softmax(m.actors.outputs(state.nets.policy, rows)[0])  # [M, N, A]

    def one(
        carry: tuple[Nets, Nets, Array], turn: tuple[Array, Key]
    ) -> tuple[tuple[Nets, Nets, Array], dict[str, Array]]:
        (everyone, opts, log_pi), (agent, key) = carry, turn
        nets, opt = jax.tree.map(lambda x: x[agent], (everyone, opts))
        sample = draw_sample(m, nets, agent, batch, log_pi, log_mu, key)
        grads, agent_metrics = jax.grad(agent_losses, argnums=1, has_aux=True)(
            m, nets, agent, sample, alpha
        )
        nets, opt = step_each(m.optimiser, nets, grads, opt)
        mine = jax.nn.log_softmax(m.actors.one(nets.policy, agent, rows)[0])
        everyone, opts = jax.tree.map(
            lambda all_, new: all_.at[agent].set(new), (everyone, opts), (nets, opt)
        )
        effective = jnp.square(jnp.sum(sample.ratio)) / jnp.maximum(
            jnp.sum(jnp.square(sample.ratio)), 1e-8
        )
        agent_metrics |= {
            "divergence": masked_mean(sample.divergence, rows.valid),
            "effective_rows": effective,
        }
        return (everyone, opts, log_pi.at[:, agent].set(mine)), agent_metrics

    start = (state.nets, state.opts, log_pi)
    (nets, opts, _), metrics = lax.scan(one, start, (jnp.arange(n), jax.random.split(key, n)))
    metrics = {name: jnp.mean(value) for name, value in metrics.items()} | {
        "alpha": alpha,
        "behaviour": behaviour,
    }
    return state._replace(nets=nets, opts=opts, updates=state.updates + 1), Out(metrics)


def step_each(
    optimiser: optax.GradientTransformation, nets: Nets, grads: Nets, opts: Nets
) -> tuple[Nets, Nets]:
    """One step of every net of an agent, each with its own optimiser state."""
    made = [optimiser.update(grad, opt) for grad, opt in zip(grads, opts, strict=True)]
    return Nets(
        *(optax.apply_updates(net, steps) for net, (steps, _) in zip(nets, made, strict=True))
    ), Nets(*(opt for _, opt in made))


# --- make -----------------------------------------------------------------------------------------


def first_state(m: Method, key: Key) -> State:
    """Policies and behaviour models that hardly depend on their inputs, and fresh critics."""
    keys = jax.random.split(key, 5)
    n, s, a = m.spec.num_agents, m.spec.state_size, m.spec.action_size
    scalars = lambda k, size: jax.vmap(lambda k: m.scalar.init(k, jnp.zeros(size)))(
        jax.random.split(k, n)
    )
    policy = m.actors.init(keys[0])
    nets = Nets(policy, scalars(keys[1], s + a), scalars(keys[2], s), m.teammates.init(keys[3]))
    opts = Nets(*(jax.vmap(m.optimiser.init)(net) for net in nets))
    mu = m.behaviour.init(keys[4])
    return State(nets, opts, mu, m.optimiser.init(mu), jnp.zeros((), jnp.int32))


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Nets and optimiser."""
    hidden = config.hidden
    start: dict[str, Any] = {"layer_init": config.policy_init, "head": FIRST_HEAD}
    actors, behaviour = Actors(spec, hidden, **start), Actors(spec, hidden, share=True, **start)
    mates = TeammateModel(spec, hidden, **start)
    scalar = MLP((hidden, hidden, 1), layer_init=config.layer_init)
    return Method(config, spec, actors, behaviour, mates, scalar, adam(config.lr))


def make(config: Config, spec: EnvSpec) -> Learner:
    """The learner. Discrete actions and two or more agents."""
    if not spec.discrete:
        raise InvalidSetting(
            f"alberdice on '{spec.name}': expected discrete actions, found continuous ones"
        )
    m = method_of(config, spec)
    return Learner(
        init=lambda key: first_state(m, key),
        update=lambda state, batch, key: update(m, state, batch, key),
        policy=lambda state: m.actors.policy(state.nets.policy),
    )
