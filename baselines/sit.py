"""SIT: sharing individual trajectories (Tian et al., AAAI 2023), for discrete or continuous
actions.

I. An ensemble decomposes the team's reward into rewards of the agents, Eq. 1-3 ->
jaxoff/learners/decomposition.py. II. The agents' own rewards, their uncertainty u and the priority
of every trajectory, Eq. 4-7 -> prepare, jaxoff/losses/credit.py; the replay buffer of each type of
agents is an index into the one dataset -> data/samplers.py, trajectories. III. Each agent i learns
from trajectories of any agent j of its type, drawn separately for each i: Eq. 8 -> Critic, Eq. 9 ->
critic_target, critic_loss, Eq. 10 -> actor_loss.
Differs: Eq. 10 as printed ends in Q_i, whose gradient is zero; here log pi_i stands in its place,
as in the work that the paper cites. Eq. 9 leaves out how episodes end; the data hold no action
after the last step, so a truncated episode ends like a terminated one (truncation). Eq. 6 is
printed with a discount that grows. 1/u is bounded (u_floor, weight_max). The normaliser Z of Eq. 10
is taken over the batch at each time step (actor_norm). A network's inputs include the number of the
agent that learns, never that of the agent whose trajectory it learns from. Ablations:
decomposition=none, decomposition=sum (without attention), members=1, gat=none, alpha=1e9 (without
priority), decomposition=monotonic (MNC), critic_reward=team.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxoff import distributions
from jaxoff.blocks import averaged, by_length, of_each
from jaxoff.config import static
from jaxoff.data import samplers
from jaxoff.data.dataset import Dataset
from jaxoff.errors import InvalidSetting
from jaxoff.learners.decomposition import (
    Credit,
    Decomposed,
    Decomposition,
    decomposition_learner,
    over_episodes,
)
from jaxoff.losses.credit import (
    certainty_weights,
    effective_share,
    episode_means,
    returns_to_go,
    trajectory_log_probs,
)
from jaxoff.losses.implicit import batch_weight, effective
from jaxoff.losses.likelihood import expectation, log_prob, masked_mean
from jaxoff.losses.td import ahead, one_step_target
from jaxoff.nets.actors import Actors, init_by_type, over_agents
from jaxoff.nets.gat import GraphAttention
from jaxoff.nets.gaussian import (
    LOG_STD_START,
    Gaussian,
    bounded_spread,
    data_density,
    gaussian_policy,
)
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.optimisers import rmsprop
from jaxoff.types import (
    Array,
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

LOG_PROB_MIN = -20.0
BASELINE_SAMPLES = 4  # continuous actions of the policy whose mean value is the baseline


@struct.dataclass
class Config:
    """Settings of Tables 10 and 11; what the paper does not print is marked so."""

    lr: float = 5e-4  # learning rate of the policies
    critic_lr: float = 1e-4  # learning rate of the critics
    decomposition_lr: float = 1e-4  # learning rate of the reward decomposition
    gamma: float = 0.99
    alpha: float = 0.2  # temperature of the trajectory draws (Eq. 7); 1e9 draws uniformly
    priority_max: float = 20.0  # priorities of a type are rescaled to [0, priority_max]
    # fraction of priorities clipped at each tail before rescaling; not in the paper
    priority_trim: float = 0.0
    beta: float = 0.1  # temperature of the policy's weights (Eq. 10)
    eta: float = 1.0  # losses are weighted by eta / u, u the reward's uncertainty (Eq. 9 and 10)
    u_floor: float = 1e-3  # lower bound of u in the weight eta / u; not in the paper
    weight_max: float = 100.0  # upper bound of the weight eta / u; not in the paper
    max_grad_norm: float = 10.0  # largest gradient norm of each of the three optimisers
    # how the team's reward is decomposed; none: every agent is paid the team's reward
    decomposition: Literal["attention", "sum", "monotonic", "none"] = static("attention")
    members: int = static(5)  # size of the ensemble; with 1 the weights eta / u are 1
    # divide the decomposition's attention scores by sqrt(width); not in the paper
    attention_scale: bool = static(False)
    mask_dead: bool = static(False)  # agents that see nothing get no reward; not in the paper
    # reward of the critic: the agent's own, or the team's with weights eta / u of 1
    critic_reward: Literal["own", "team"] = static("own")
    # how the critic aggregates the team's observations; none: it sees the agent's own only
    gat: Literal["attention", "mean", "none"] = static("attention")
    # quantity in the softmax of Eq. 10: Q_i, or its advantage, which is not in the paper
    actor_weight: Literal["value", "advantage"] = static("value")
    # normaliser Z of Eq. 10: over the batch at each time step, or over all steps; not in the paper
    actor_norm: Literal["batch", "batch_time"] = static("batch")
    # mean: divide the weights eta / u by their mean in the batch; not in the paper
    weight_norm: Literal["none", "mean"] = static("none")
    # last step of a truncated episode: terminal, or left out of the critic's loss; not in the paper
    truncation: Literal["terminal", "skip"] = static("terminal")
    # types of the agents: those of the environment, or one type for all
    types: Literal["spec", "one"] = static("spec")
    target_every: int = static(100)  # updates between hard copies to the target critic
    hidden: int = static(64)  # width of the recurrent policies
    critic_hidden: int = static(32)  # width of the critics
    decomposition_hidden: int = static(64)  # width of the decomposition's networks
    decomposition_steps: int = static(20000)  # updates of the reward decomposition
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(15000)
    batch_size: int = static(32)  # episodes; in the last stage, trajectories of each agent
    # single real steps in a batch of the decomposition, not in the paper; 0: whole episodes
    decomposition_batch: int = static(0)
    window: int = static(-1)  # must be -1: whole episodes


class Replay(NamedTuple):
    """Replay buffer of individual trajectories: what is stored of each, by episode and agent."""

    log_prob: Array  # [E, N] log-probability of a trajectory's being drawn among those of its type
    reward: Array  # [E, T, N] the agents' own rewards
    weight: Array  # [E, T, N] eta / u
    effective: Array  # [] effective share of the trajectories that are drawn


class State(NamedTuple):
    """State of the last stage; parameters have an axis of types where there are several."""

    policy: Params  # networks of the logits, or a Gaussian
    critic: Params
    target_critic: Params
    policy_opt: optax.OptState
    critic_opt: optax.OptState
    updates: Array
    replay: Replay  # never changes in training


class View(NamedTuple):
    """Batch of each agent i: B trajectories of agents j of its type, with the whole team's
    observations.
    """

    team: Array  # [N, B, T, N, O] observations of all agents of the episode
    own: Array  # [N, B, T, O] observations of agent j
    # previous action of j: [N, B, T] int, -1 at the start; or [N, B, T, A], 0 at the start
    before: Array
    action: Array  # [N, B, T] int or [N, B, T, A]
    avail: Array  # [N, B, T, A]
    reward: Array  # [N, B, T]
    weight: Array  # [N, B, T]
    valid: Array  # [N, B, T]
    terminated: Array  # [N, B, T]


class Critic(nn.Module):
    """Q_i(o_j, previous a_j, a_j, o_-j), from an embedding of j's observation and actions and an
    embedding of its team's observations.
    """

    hidden: int
    gat: str
    layer_init: LayerInit = "torch"

    @nn.compact
    def __call__(self, team: Array, own: Array, before: Array, actions: Array) -> Array:
        """team [..., N, O], own [..., O], before [..., A], actions [..., K, A] -> values of the K
        actions [..., K].
        """
        wide = lambda x: jnp.broadcast_to(x[..., None, :], (*actions.shape[:-1], x.shape[-1]))
        local = MLP((self.hidden, self.hidden), layer_init=self.layer_init, name="local")
        x = local(jnp.concatenate([wide(own), wide(before), actions], -1))
        if self.gat != "none":
            seen = GraphAttention(
                self.hidden, self.gat == "attention", self.layer_init, name="gat"
            )(team, own)
            x = jnp.concatenate([x, wide(seen)], -1)
        return MLP((self.hidden, 1), layer_init=self.layer_init, name="value")(x)[..., 0]


class Method(NamedTuple):
    """Networks and optimisers of one config."""

    config: Config
    spec: EnvSpec
    types: tuple[int, ...]
    decomposition: Decomposition
    actors: Actors
    critic: Critic
    policy_opt: optax.GradientTransformation
    critic_opt: optax.GradientTransformation


# --- from the decomposition to the replay ---------------------------------------------------------


def prepare(m: Method, fitted: Decomposed | tuple[()], dataset: Dataset, key: Key) -> State:
    """Stage II, and freshly initialised networks for stage III."""
    policy_key, critic_key = jax.random.split(key)
    a, observation = m.spec.action_size, jnp.zeros(m.spec.obs_size)
    policy = m.actors.init(policy_key)
    if not m.spec.discrete:
        policy = Gaussian(policy, jnp.full((len(set(m.types)), a), LOG_STD_START))
    dummy = (
        jnp.zeros((m.spec.num_agents, m.spec.obs_size)),
        observation,
        jnp.zeros(a),
        jnp.zeros((1, a)),
    )
    critic = init_by_type(lambda k: m.critic.init(k, *dummy), critic_key, m.types)
    opts = m.policy_opt.init(policy), m.critic_opt.init(critic)
    return State(
        policy, critic, critic, *opts, jnp.zeros((), jnp.int32), replay_of(m, fitted, dataset)
    )


def replay_of(m: Method, fitted: Decomposed | tuple[()], dataset: Dataset) -> Replay:
    """The replay buffer, Eq. 4-7.

    Without a decomposition every agent is paid the team's reward. Only the agents' own rewards have
    an uncertainty; with the team's reward all weights are 1.
    """
    c = m.config
    team, valid = over_episodes(dataset, lambda batch: (batch.reward, batch.valid))
    team = jnp.broadcast_to(team[..., None], (*team.shape, m.spec.num_agents))
    if isinstance(fitted, Decomposed):
        credit = m.decomposition.credit(fitted.params, dataset, c.gamma)
    else:
        credit = Credit(
            team, jnp.zeros_like(team), episode_means(returns_to_go(team, valid, c.gamma), valid)
        )
    own = c.decomposition != "none" and c.critic_reward == "own"
    weight = jnp.ones_like(team)
    if own and c.members > 1:
        weight = certainty_weights(credit.spread, valid, m.types, c.eta, c.u_floor, c.weight_max)
    log_p = trajectory_log_probs(credit.priority, m.types, c.priority_max, c.alpha, c.priority_trim)
    return Replay(log_p, credit.reward if own else team, weight, effective_share(log_p, m.types))


def view_of(m: Method, batch: Transition) -> View:
    """A batch [N * B, T, ...] split by learning agent i, [N, B, T, ...], each item from the side of
    the agent j whose trajectory it is.
    """
    agent = batch.agent
    assert agent is not None and batch.agent_reward is not None and batch.weight is not None

    def own(x: Array) -> Array:
        return jnp.take_along_axis(x, agent.reshape(*agent.shape, *[1] * (x.ndim - 2)), 2)[:, :, 0]

    action = own(batch.actions)
    start = jnp.full_like(action[:, :1], -1 if m.spec.discrete else 0)
    before, weight = jnp.concatenate([start, action[:, :-1]], 1), own(batch.weight)
    if m.config.weight_norm == "mean":
        weight = weight / jnp.maximum(masked_mean(weight, batch.valid), 1e-8)
    credit = own(batch.agent_reward), weight
    view = View(
        batch.obs,
        own(batch.obs),
        before,
        action,
        own(batch.avail),
        *credit,
        batch.valid,
        batch.terminated,
    )
    return jax.tree.map(lambda x: x.reshape(m.spec.num_agents, -1, *x.shape[1:]), view)


# --- critic ---------------------------------------------------------------------------------------


def encode(m: Method, actions: Array) -> Array:
    """Actions as network inputs [..., A]: one-hot (zeros for -1), or real and clipped to the
    bound.
    """
    bound = m.spec.action_bound
    return (
        jax.nn.one_hot(actions, m.spec.action_size)
        if m.spec.discrete
        else jnp.clip(actions, -bound, bound)
    )


def values(m: Method, critic: Params, view: View, actions: Array | None = None) -> Array:
    """Q_i of the trajectories' actions [N, B, T], or of K given actions [N, B, T, K, A] -> [N, B,
    T, K].
    """
    asked = encode(m, view.action)[..., None, :] if actions is None else actions
    q = over_agents(m.critic.apply, m.types)(
        critic, view.team, view.own, encode(m, view.before), asked
    )
    return q[..., 0] if actions is None else q


def critic_target(m: Method, critic: Params, view: View) -> tuple[Array, Array]:
    """y = r_j + gamma (1 - terminated) Q'_i at the trajectory's next action, and the mask of steps
    that have a target; [N, B, T] each.
    """
    next_of = jax.vmap(ahead)
    follows = view.valid * next_of(view.valid)
    size = team_bytes(m, view, m.config.critic_hidden)
    q = of_each(functools.partial(values, m), critic, (view,), view.valid, size, axis=1)
    y = one_step_target(view.reward, view.terminated, follows * next_of(q), m.config.gamma)
    return y, view.valid if m.config.truncation == "terminal" else view.valid * jnp.maximum(
        view.terminated, follows
    )


def critic_loss(
    m: Method, critic: Params, view: View, target: Array, mask: Array
) -> tuple[Array, dict[str, Array]]:
    """Eq. 9: mean over the mask of eta / u (y - Q_i)^2, and the metrics to log."""

    def part(
        critic: Params, view: View, target: Array, mask: Array
    ) -> tuple[Array, dict[str, Array]]:
        q = values(m, critic, view)
        loss = masked_mean(view.weight * jnp.square(lax.stop_gradient(target) - q), mask)
        means = {"q": q, "target": target, "weight": view.weight}
        return loss, {"critic": loss} | {
            name: masked_mean(x, view.valid) for name, x in means.items()
        }

    # Without a target at truncations, the means are over two different masks: one block.
    size = team_bytes(m, view, m.config.critic_hidden) if m.config.truncation == "terminal" else 0
    return averaged(part, critic, (view, target, mask), mask, size, axis=1)


def team_bytes(m: Method, view: View, hidden: int) -> int:
    """Bytes of a hidden layer that sees, for each learning agent, the whole team at every step of
    one trajectory.
    """
    return 4 * m.spec.num_agents**2 * view.valid.shape[-1] * hidden


# --- policies -------------------------------------------------------------------------------------


def outputs(m: Method, nets: Params, view: View) -> Array:
    """Outputs of pi_i, given the agent number i, on the trajectories of agents j: [B, T, N, A]."""
    own, avail, before, valid = (
        jnp.moveaxis(x, 0, 2) for x in (view.own, view.avail, view.before, view.valid)
    )
    nothing = jnp.zeros(valid.shape[:2], bool)
    # the policies read an agent's own observations and no global state
    seen = TimeStep(own, nothing, avail, nothing, nothing, nothing, before)
    return m.actors.unroll(nets, m.actors.policy(nets).initial(valid.shape[:1]), seen, nothing)


def spread(m: Method, log_std: Array) -> Array:
    """log_std of each agent, [types, A] -> [N, A]."""
    return over_agents(lambda x: x, m.types)(log_std) if len(set(m.types)) > 1 else log_std


def actor_loss(
    m: Method, policy: Params, critic: Params, view: View, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Eq. 10: -mean eta / u c log pi_i(a_j), c = n softmax(Q_i / beta) over the batch at each time
    step; with actor_weight=advantage A_i takes the place of Q_i.
    """
    c = m.config
    back = lambda x: jnp.moveaxis(x, 0, 2)
    size = team_bytes(m, view, c.critic_hidden) if m.spec.discrete else 0
    weighed = of_each(
        lambda p, view: preference(m, p[0], p[1], view, key),
        (policy, critic),
        (view,),
        view.valid,
        size,
        axis=1,
    )
    signal, valid = back(weighed), back(view.valid)
    if c.actor_norm == "batch":
        share = batch_weight(signal, valid, c.beta)
    else:
        flat = lambda x: x.reshape(-1, x.shape[-1])
        share = batch_weight(flat(signal), flat(valid), c.beta).reshape(signal.shape)

    def part(policy: Params, view: View, share: Array) -> tuple[Array, dict[str, Array]]:
        valid = back(view.valid)
        if m.spec.discrete:
            log_pi = log_prob(outputs(m, policy, view), back(view.action))
        else:
            log_pi = data_density(gaussian(m, policy, view), back(view.action), m.spec.action_bound)
        log_pi = jnp.maximum(log_pi, LOG_PROB_MIN)
        loss = -masked_mean(lax.stop_gradient(back(view.weight) * back(share)) * log_pi, valid)
        return loss, {"policy": loss, "log_prob": masked_mean(log_pi, valid)}

    mine = jnp.moveaxis(share, 2, 0)
    size = 4 * m.spec.num_agents * view.valid.shape[-1] * c.hidden
    loss, metrics = averaged(part, policy, (view, mine), view.valid, size, axis=1)
    return loss, metrics | {"actor_effective": effective(share, valid)}


def gaussian(m: Method, policy: Params, view: View) -> Distribution:
    """Distribution of continuous actions on the trajectories, [B, T, N, A]."""
    return distributions.normal(outputs(m, policy.net, view), spread(m, policy.log_std))


def preference(m: Method, policy: Params, critic: Params, view: View, key: Key) -> Array:
    """The quantity in the softmax of Eq. 10, [N, B, T]: Q_i, or its advantage."""
    q = values(m, critic, view)
    if m.config.actor_weight == "value":
        return q
    of_actions = lambda asked: values(
        m, critic, view, jnp.broadcast_to(asked, (*q.shape, *asked.shape[-2:]))
    )
    if m.spec.discrete:
        each = jnp.moveaxis(of_actions(jnp.eye(m.spec.action_size)), 0, 2)
        return q - jnp.moveaxis(expectation(outputs(m, policy, view), each), 2, 0)
    samples = gaussian(m, policy, view).sample(seed=key, sample_shape=BASELINE_SAMPLES)
    return q - jnp.mean(of_actions(jnp.moveaxis(encode(m, samples), (3, 0), (0, 3))), -1)


# --- update ---------------------------------------------------------------------------------------


def update(m: Method, state: State, batch: Transition, key: Key) -> tuple[State, Out]:
    """One step of the critics, then one of the policies by the new critics; the target critic is
    copied every `target_every` updates.
    """
    view = view_of(m, batch)
    if m.spec.discrete:  # the samples of continuous actions depend on the order of trajectories
        view = by_length(view, axis=1)
    target, mask = critic_target(m, state.target_critic, view)
    grads, metrics = jax.grad(lambda p: critic_loss(m, p, view, target, mask), has_aux=True)(
        state.critic
    )
    changes, critic_opt = m.critic_opt.update(grads, state.critic_opt)
    critic = optax.apply_updates(state.critic, changes)
    norms = {"critic_clipped": optax.tree.norm(grads)}
    grads, actor_metrics = jax.grad(lambda p: actor_loss(m, p, critic, view, key), has_aux=True)(
        state.policy
    )
    changes, policy_opt = m.policy_opt.update(grads, state.policy_opt)
    policy = optax.apply_updates(state.policy, changes)
    policy = policy if m.spec.discrete else bounded_spread(policy)
    norms |= {"policy_clipped": optax.tree.norm(grads)}
    metrics |= actor_metrics | {
        name: (norm > m.config.max_grad_norm).astype(jnp.float32) for name, norm in norms.items()
    }
    slow = optax.periodic_update(
        critic, state.target_critic, state.updates + 1, m.config.target_every
    )
    after = State(policy, critic, slow, policy_opt, critic_opt, state.updates + 1, state.replay)
    return after, Out(metrics | {"draw_effective": state.replay.effective})


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Networks of a config. Raises InvalidSetting for a window other than -1."""
    if config.window != -1:
        raise InvalidSetting(
            "sit: field 'window': expected -1, since trajectories are drawn whole, found "
            f"{config.window}"
        )
    types = (
        spec.agent_types if spec.agent_types and config.types == "spec" else (0,) * spec.num_agents
    )
    kind = "attention" if config.decomposition == "none" else config.decomposition
    switches: dict[str, Any] = {
        "scale": config.attention_scale,
        "mask_dead": config.mask_dead,
        "layer_init": config.layer_init,
    }
    decomposition = Decomposition(
        spec, config.members, config.decomposition_hidden, kind, **switches
    )
    actors = Actors(
        spec, config.hidden, recurrent=True, share=True, types=types, layer_init=config.layer_init
    )
    opts = (rmsprop(lr, config.max_grad_norm) for lr in (config.lr, config.critic_lr))
    return Method(
        config,
        spec,
        types,
        decomposition,
        actors,
        Critic(config.critic_hidden, config.gat, config.layer_init),
        *opts,
    )


def policy_of(m: Method, policy: Params) -> Policy:
    """Categorical over available actions, or Gaussians whose mode is the mean."""
    return (
        m.actors.policy(policy)
        if m.spec.discrete
        else gaussian_policy(m.actors.policy(policy.net), spread(m, policy.log_std))
    )


def make(config: Config, spec: EnvSpec) -> tuple[Stage, ...]:
    """Two stages, reward decomposition and learning from individual trajectories; with
    decomposition=none the second alone.
    """
    m = method_of(config, spec)

    def init(key: Key) -> State:
        raise RuntimeError("the last stage of sit starts from its dataset, by `prepare`")

    main = Learner(
        init,
        lambda state, batch, key: update(m, state, batch, key),
        lambda state: policy_of(m, state.policy),
    )
    fit = decomposition_learner(
        m.decomposition, rmsprop(config.decomposition_lr, config.max_grad_norm)
    )
    sampler = (
        samplers.uniform(config.decomposition_batch)
        if config.decomposition_batch
        else samplers.episodes(config.batch_size)
    )
    first = Stage(
        "decomposition", fit, config.decomposition_steps, sampler=lambda state: sampler, reports=40
    )
    last = Stage(
        "train",
        main,
        config.steps,
        prepare=lambda fitted, dataset, key: prepare(m, fitted, dataset, key),
        sampler=lambda state: samplers.trajectories(config.batch_size, m.types, *state.replay[:3]),
    )
    return (last,) if config.decomposition == "none" else (first, last)
