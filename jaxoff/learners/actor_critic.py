"""A deterministic policy and twin critics for every agent, and the learner that trains them
together.

Nothing is shared between agents. Policies see the agent's own observation; critics see the agent's
observation and action or, if centralised, the state and all actions. Input normalisation is that of
`jaxoff.nets.normalised`: in training each call of a net uses the statistics of its own inputs, so
that the data's and sampled actions are normalised separately; executed policies use running
statistics.
A method supplies the two losses; both are written for one agent and mapped over all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxoff.batches import flatten
from jaxoff.blocks import count_of, each_in_turn, mapped
from jaxoff.data.dataset import Dataset
from jaxoff.errors import InvalidSetting
from jaxoff.losses.td import one_step_target
from jaxoff.nets.actors import Actors
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import ActionCritic, embedding
from jaxoff.nets.normalised import (
    Net,
    Norm,
    Stats,
    folded,
    moments,
    normalised,
    running,
    standardised,
    unit_norm,
    unit_stats,
)
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

HEAD = 3e-3  # weights of a policy's last layer start in +-HEAD
UNIT = Norm(1.0, 0.0)  # type: ignore[arg-type]


class State(NamedTuple):
    """Trained parameters with leading axis [N], target networks, and statistics of the policies'
    inputs, [N, O] each.
    """

    policy: Params  # a Net, or what the method makes of one (`start` of `learner`)
    critic: Net  # net [N, 2, ...], norm [N, F]
    target_policy: Params
    target_critic: Net
    stats: Stats
    policy_opt: optax.OptState
    critic_opt: optax.OptState
    updates: Array


class AgentBatch(NamedTuple):
    """Inputs to the losses of one agent, besides the parameters that are differentiated."""

    agent: Array  # the agent's number
    rows: Transition  # [M, ...], of all agents
    # before this update, the agent's own; of all agents, [N, ...], where critics are centralised
    policies: Params
    target_policies: Params
    target_critic: Net  # the agent's own
    extras: Any = None  # what `view` returns with the rows, [M, ...]


Losses = Callable[..., tuple[Array, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Agents:
    """The nets, for continuous actions of equal size, and how they see a batch.

    own_batches: each agent learns from its own 1 / N of a batch. truncated_ends: episodes cut by
        the time limit count as terminated.
    mapped: the name of the vmap axis over agents where the statistics of a critic's inputs are
        taken over all agents' rows together; None: over each agent's rows separately.
    """

    spec: EnvSpec
    hidden: int
    # batch; dataset: observations standardised by the dataset's moments; none
    input_norm: Literal["batch", "dataset", "none"] = "batch"
    centralised: bool = False
    own_batches: bool = True
    truncated_ends: bool = False
    layer_init: LayerInit = "torch"
    mapped: str | None = None

    def __post_init__(self) -> None:
        name = f"'{self.spec.name}'"
        if self.spec.discrete:
            raise InvalidSetting(
                f"environment {name}: expected continuous actions, found discrete ones"
            )
        if self.centralised and self.input_norm == "dataset":
            raise InvalidSetting(
                "field 'input_norm': expected batch or none with centralised=true, found 'dataset'"
            )
        if len(set(self.spec.action_sizes)) > 1:
            raise InvalidSetting(
                f"environment {name}: expected actions of one size, found {self.spec.action_sizes}"
            )

    @property
    def actors(self) -> Actors:
        """The policies' nets."""
        return Actors(self.spec, self.hidden, head=HEAD, layer_init=self.layer_init)

    def init(self, key: Key) -> tuple[Net, Net]:
        """Policies [N, ...] and twin critics [N, 2, ...], with their norms."""
        spec, (policy_key, critic_key) = self.spec, jax.random.split(key)
        n, a = spec.num_agents, spec.action_size
        context, actions = (spec.state_size, n * a) if self.centralised else (spec.obs_size, a)
        start = lambda k: ActionCritic(self.hidden, self.layer_init).init(
            k, jnp.zeros((1, context)), jnp.zeros((1, 1, actions))
        )
        critic = jax.vmap(jax.vmap(start))(jax.random.split(critic_key, (n, 2)))
        norm = unit_norm if self.input_norm == "batch" else (lambda *shape: ())
        return Net(self.actors.init(policy_key), norm(n, spec.obs_size)), Net(
            critic, norm(n, context + actions)
        )

    def act(self, policy: Net, obs: Array, valid: Array) -> Array:
        """Actions of one agent in training, over rows with valid > 0: [M, O], [M] -> [M, A]."""
        if self.input_norm == "batch":
            obs = normalised(policy.norm, obs, *moments(obs, valid[:, None], (0,)))
        return self.spec.action_bound * jnp.tanh(self.actors.net().apply(policy.net, obs))

    def seen(self, agent: Array | int, obs: Array, state: Array) -> Array:
        """Input of a critic besides actions: [M, N, O], [M, S] -> [M, F]."""
        return state if self.centralised else own_of(obs, agent)

    def replaced(self, agent: Array | int, own: Array, actions: Array) -> Array:
        """Action input of a critic: own [K, M, A] or, if centralised, all of [M, N, A] with the
        agent's replaced by own -> [K, M, D].
        """
        if not self.centralised:
            return own
        slot = (jnp.arange(self.spec.num_agents) == agent)[:, None]
        joint = jnp.where(slot, own[:, :, None], actions)  # [K, M, N, A]
        return joint.reshape(*joint.shape[:2], -1)

    def played(self, agent: Array | int, policies: Net, obs: Array, valid: Array) -> Array:
        """Actions of policies, as `AgentBatch` has them, in training as a critic's input, the
        agent's own or all: [M, N, O] -> [M, D].
        """
        if not self.centralised:
            return self.act(policies, own_of(obs, agent), valid)
        joint = jax.vmap(self.act, in_axes=(0, 1, None), out_axes=1)(policies, obs, valid)
        return joint.reshape(joint.shape[0], -1)

    def standard(self, context: Array, actions: Array, valid: Array) -> tuple[Array, Array]:
        """Inputs of a critic, standardised over rows with valid > 0 where critics normalise them:
        [M, F], [K, M, D], [M].
        """
        return self.standard_rows(context, valid), self.standard_rows(actions, valid)

    def standard_rows(self, x: Array, valid: Array) -> Array:
        """One input of a critic, [M, F] or [K, M, D], standardised as `standard` does."""
        if self.input_norm != "batch":
            return x
        weight = valid.reshape(*[1] * (x.ndim - 2), -1, 1)
        axes = tuple(range(x.ndim - 1))
        return standardised(x, *moments(x, weight, axes, self.mapped))

    def valued(self, critic: Net, context: Array, actions: Array) -> Array:
        """Values of standardised inputs by each twin of one agent's critic: [M, F], [K, M, D] ->
        [2, K, M].
        """
        return jax.vmap(ActionCritic(self.hidden).apply, in_axes=(0, None, None))(
            self.plain(critic), context, actions
        )

    def plain(self, critic: Net) -> Params:
        """The parameters of a critic's nets for standardised inputs."""
        return folded(critic.norm, critic.net) if self.input_norm == "batch" else critic.net

    def values(self, critic: Net, context: Array, actions: Array, valid: Array) -> Array:
        """Values of K actions at each of M rows by each twin of one agent's critic: [M, F],
        [K, M, D] -> [2, K, M].
        """
        return self.valued(critic, *self.standard(context, actions, valid))

    def blocks(self, rows: int, actions: int) -> int:
        """Number of blocks in which to value `actions` actions at each of `rows` rows."""
        return count_of(rows, 4 * self.hidden * actions)

    def data_inputs(self, mine: AgentBatch) -> tuple[Array, Array]:
        """Inputs of a critic for the data's actions: [M, F], [1, M, D]."""
        rows, agent = mine.rows, mine.agent
        own = own_of(rows.actions, agent)[None]
        return self.seen(agent, rows.obs, rows.state), self.replaced(agent, own, rows.actions)

    def data_values(self, critic: Net, mine: AgentBatch) -> Array:
        """Twin values of the data's actions, [2, M]."""
        return self.values(critic, *self.data_inputs(mine), mine.rows.valid)[:, 0]

    def first_critic(self, critic: Net, mine: AgentBatch) -> Callable[[Array], Array]:
        """Q_1 as a function of the agent's actions; the others take the data's: [K, M, A] ->
        [K, M]. What does not depend on the actions is computed once.
        """
        rows, agent, net = mine.rows, mine.agent, ActionCritic(self.hidden)
        first = self.plain(critic._replace(net=jax.tree.map(lambda x: x[0], critic.net)))
        context = self.standard_rows(self.seen(agent, rows.obs, rows.state), rows.valid)
        embedded = embedding(first, context)

        def value(own: Array) -> Array:
            actions = self.standard_rows(self.replaced(agent, own, rows.actions), rows.valid)
            return mapped(
                lambda context, actions: net.apply(first, context, actions, embedded=True),
                (embedded, actions),
                (0, 1),
                self.blocks(len(context), len(own)),
            )

        return value

    def target(self, mine: AgentBatch, actions: Array, gamma: Array | float) -> Array:
        """r_i + gamma (1 - terminated) min_k Q'_k of next actions [M, D]: [M], a constant.

        r_i is the team's reward where agents have none of their own.
        """
        rows, agent = mine.rows, mine.agent
        context = self.seen(agent, rows.next_obs, rows.next_state)
        value = jnp.min(
            self.values(mine.target_critic, context, actions[None], rows.valid)[:, 0], 0
        )
        return own_return(agent, rows, value, gamma)

    def policy(self, policies: Net, stats: Stats) -> Policy:
        """The executed policies, normalised by running statistics (or the dataset's)."""
        plain = self.actors.policy(policies.net)
        if self.input_norm == "none":
            return plain
        norm = policies.norm or UNIT

        def distribution(memory: Carry, now: TimeStep) -> tuple[Carry, Distribution]:
            return plain.distribution(memory, now._replace(obs=normalised(norm, now.obs, *stats)))

        return Policy(plain.initial, distribution)


def own_of(x: Array, agent: Array | int) -> Array:
    """One agent's part of rows [M, N, ...]."""
    return jnp.take(x, agent, 1, mode="clip")


def with_clock_ends(batch: Transition) -> Transition:
    """The batch with steps that end at the time limit marked as terminated."""
    return batch._replace(terminated=jnp.maximum(batch.terminated, batch.truncated))


def own_return(
    agent: Array | int, rows: Transition, next_value: Array, gamma: Array | float
) -> Array:
    """r_i + gamma (1 - terminated) next_value [M], a constant; the team's reward where agents have
    none of their own.
    """
    reward = rows.reward if rows.agent_reward is None else own_of(rows.agent_reward, agent)
    return one_step_target(reward, rows.terminated, next_value, gamma)


def check_parts(size: int, num_agents: int) -> None:
    """Raise InvalidSetting unless a batch of this size has equal parts for all agents."""
    if size % num_agents:
        raise InvalidSetting(
            f"field 'batch_size': expected a multiple of {num_agents}, the number of "
            f"agents, found {size}"
        )


def split_by_agent(
    batch: Transition, num_agents: int, extras: Any = None
) -> tuple[Transition, Any]:
    """A batch [B, ...] or [B, T, ...] and its extras, split among agents: item b goes to agent
    b mod N, as rows [N, M, ...].
    """
    size = batch.valid.shape[0]
    check_parts(size, num_agents)
    stacks = jax.tree.map(
        lambda x: x.reshape(size // num_agents, num_agents, *x.shape[1:]), (batch, extras)
    )
    return jax.vmap(lambda pair: as_rows(*pair), in_axes=1)(stacks)


def as_rows(batch: Transition, extras: Any = None) -> tuple[Transition, Any]:
    """Leading axes [B] or [B, T] of a batch, and of its extras, to rows [M]."""
    axes = batch.valid.ndim
    return flatten(batch), jax.tree.map(lambda x: x.reshape(-1, *x.shape[axes:]), extras)


View = Callable[[Transition], tuple[Transition, Any]]


def rows_of(
    agents: Agents, state: State, batch: Transition, view: View
) -> tuple[tuple[Transition, Any], int | None]:
    """The rows of a batch with the extras of `view`, and the axis of their agents: 0 where each
    agent has its own rows, None where all learn from the same rows.
    """
    if agents.input_norm == "dataset":
        standard = lambda x: normalised(UNIT, x, *state.stats)
        batch = batch._replace(obs=standard(batch.obs), next_obs=standard(batch.next_obs))
    batch, extras = view(with_clock_ends(batch) if agents.truncated_ends else batch)
    if agents.own_batches:
        return split_by_agent(batch, agents.spec.num_agents, extras), 0
    return as_rows(batch, extras), None


def several_steps(
    loss: Callable[[Params, Key], tuple[Array, dict[str, Array]]],
    optimiser: optax.GradientTransformation,
    before: tuple[Params, Any],
    key: Key,
    count: int,
) -> tuple[tuple[Params, Any], dict[str, Array]]:
    """Parameters and optimiser state after `count` steps down a loss, and the last step's
    metrics.
    """

    def one(carry: tuple[Params, Any], key: Key) -> tuple[tuple[Params, Any], dict[str, Array]]:
        grads, metrics = jax.grad(loss, has_aux=True)(carry[0], key)
        steps, opt = optimiser.update(grads, carry[1])
        return (optax.apply_updates(carry[0], steps), opt), metrics

    if count == 1:
        return one(before, key)
    after, metrics = jax.lax.scan(one, before, jax.random.split(key, count))
    return after, jax.tree.map(lambda x: x[-1], metrics)


def at_turn(updates: Array, every: int, after: Any, before: Any) -> Any:
    """`after` in each `every`-th update, `before` in the others; `updates` counts those made before
    this one.
    """
    if every == 1:
        return after
    turn = (updates + 1) % every == 0
    return jax.tree.map(lambda x, y: jnp.where(turn, x, y), after, before)


def learner(
    agents: Agents,
    optimisers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    polyak: Array | float,
    critic_loss: Losses,
    actor_loss: Losses,
    *,
    start: Callable[[Net], Params] = lambda net: net,
    policy: Callable[[State], Policy] | None = None,
    policy_every: int = 1,
    policy_steps: int = 1,
    passes: tuple[str, ...] = ("obs",),
    view: View = lambda batch: (batch, None),
) -> Learner:
    """For each agent: one step of the critics, then of the policy by the new critics; then soft
    updates of all target networks.

    critic_loss(critic, mine, key) and actor_loss(policy, critic, mine, key) return (loss, metrics)
    of one agent. optimisers: of policy and critic. start: makes the policies' parameters from their
    nets. passes: the observation fields on which an update evaluates the policies, in order; each
    enters the policies' running statistics. policy_every: critic updates per update of policies and
    target networks. policy_steps: steps of a policy in such an update, all on the same rows. view:
    maps a batch to (batch, extras for the losses).
    """
    policy_opt, critic_opt = optimisers
    n = agents.spec.num_agents

    def init(key: Key) -> State:
        net, critic = agents.init(key)
        policy = start(net)
        opts = jax.vmap(policy_opt.init)(policy), jax.vmap(critic_opt.init)(critic)
        stats = unit_stats(n, agents.spec.obs_size)
        return State(policy, critic, policy, critic, stats, *opts, jnp.zeros((), jnp.int32))

    def one(
        agent: Array, own: tuple[Any, ...], given: Any, key: Key, state: State
    ) -> tuple[tuple[Any, ...], dict[str, Array]]:
        """Update one agent's part of the state; `state` is the whole before the update."""
        policy, critic, slow_policy, target_critic, stats, policy_state, critic_state = own
        (rows, extras), (critic_key, actor_key) = given, jax.random.split(key)
        of_all = state.policy, state.target_policy
        seen = of_all if agents.centralised else (policy, slow_policy)
        mine = AgentBatch(agent, rows, *seen, target_critic, extras)
        grads, metrics = jax.grad(critic_loss, has_aux=True)(critic, mine, critic_key)
        steps, critic_state = critic_opt.update(grads, critic_state)
        critic = optax.apply_updates(critic, steps)

        loss = lambda policy, key: actor_loss(policy, critic, mine, key)
        before = policy, policy_state
        after, actor_metrics = several_steps(loss, policy_opt, before, actor_key, policy_steps)
        after = at_turn(state.updates, policy_every, after, before)
        for field in passes if agents.input_norm == "batch" else ():
            stats = running(stats, own_of(getattr(rows, field), agent), rows.valid[:, None], (0,))
        return (after[0], critic, stats, after[1], critic_state), metrics | actor_metrics

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Out]:
        given, axis = rows_of(agents, state, batch, view)
        nets = (state.policy, state.critic, state.target_policy, state.target_critic)
        own = (*nets, state.stats, state.policy_opt, state.critic_opt)
        keys = jax.random.split(key, n)
        new, metrics = each_in_turn(
            one, (0, 0, axis, 0, None), jnp.arange(n), own, given, keys, state
        )
        policy, critic, stats, policy_state, critic_state = new
        slow = state.target_policy, state.target_critic
        moved = optax.incremental_update((policy, critic), slow, polyak)
        slow_policy, slow_critic = at_turn(state.updates, policy_every, moved, slow)
        online, count = (policy, critic), state.updates + 1
        state = State(*online, slow_policy, slow_critic, stats, policy_state, critic_state, count)
        return state, Out({name: jnp.mean(value) for name, value in metrics.items()})

    executed = policy or (lambda state: agents.policy(state.policy, state.stats))
    # The statistics are those of observations, so they also serve the target policies.
    return Learner(
        init, update, executed, lambda state: executed(state._replace(policy=state.target_policy))
    )


def stages(agents: Agents, made: Learner, config: Any) -> Learner | tuple[Stage, ...]:
    """The learner; with input_norm=dataset, as a stage that starts from the moments of the
    dataset's observations.

    Raises InvalidSetting for a batch that can't be split among the agents in equal parts.
    """
    if agents.own_batches:
        check_parts(config.batch_size, agents.spec.num_agents)
    if agents.input_norm != "dataset":
        return made

    def prepare(before: Any, dataset: Dataset, key: Key) -> State:
        return made.init(key)._replace(stats=Stats(*dataset.moments("obs")))

    return (Stage("train", made, config.steps, prepare=prepare),)
