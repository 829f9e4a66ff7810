"""MA-CQL and OMAR with one critic for the team, the centralised form of the code base of CFCQL
(Shao et al., NeurIPS 2023).

    sum_k mean (Q_k(s, a) - y)^2
        + cql times the conservative term of agents.py over joint actions     -> critic_loss
    y = r_1 + gamma (1 - terminated) min_k Q'_k(s', pi'(o') + e),
        e ~ N(0, target_noise^2), the sum clipped to the bound
    mean_i [mimic (pi_i - a^_i)^2 - (1 - mimic) Q_1(s, a_-i, pi_i)]
        + penalty sum_i mean pi_i^2                                           -> actor_loss
For agent i, Q_1 is evaluated at the data's joint action with pi_i in place of a_i; the search for
a^_i does the same. r_1 is the first agent's reward where agents have their own. An update takes a
batch of 1 + critic_steps parts: the first part trains the critics, then the policies by the new
critics; each further part makes one step of the critics; then the target networks make a soft
update.
The paper's own centralised form, a critic for each agent (`centralised`), is in
jaxoff/learners/actor_critic.py. Differs: the published code counts such an update as five. As that
code, samples=policy subtracts the logarithm of the density.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxoff.baselines.cql import agents
from jaxoff.baselines.cql.agents import Method

from jaxoff.errors import InvalidSetting
from jaxoff.learners.actor_critic import AgentBatch, State, as_rows, with_clock_ends
from jaxoff.losses.likelihood import masked_mean
from jaxoff.nets.normalised import Net, running, unit_stats
from jaxoff.optimisers import adam
from jaxoff.types import Array, EnvSpec, Key, Learner, Out, Params, Transition

# (method, own [M, A], value, penalty, key) -> [M], numbers to log
Objective = Callable[..., tuple[Array, dict[str, Array]]]


# --- losses ---------------------------------------------------------------------------------------


def critic_loss(
    m: Method, critic: Net, mine: AgentBatch, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Penalised TD error of the team's twin critics [2, ...] over valid rows, with noisy next
    actions.
    """
    noise_key, key = jax.random.split(key)
    bound = m.agents.spec.action_bound
    ahead = m.agents.played(0, mine.target_policies, mine.rows.next_obs, mine.rows.valid)
    ahead = jnp.clip(
        ahead + m.config.target_noise * jax.random.normal(noise_key, ahead.shape), -bound, bound
    )
    return agents.penalised_loss(m, critic, mine, ahead, key)


def actor_loss(
    m: Method, objective: Objective, policy: Net, critic: Net, mine: AgentBatch, key: Key
) -> tuple[Array, dict[str, Array]]:
    """One agent's part of the loss over valid rows: its objective divided by N, except for the
    penalty on its actions.

    The gradient of the team's loss with respect to a policy is that of its own part, since the
    other agents' actions are the data's.
    """
    rows, n = mine.rows, m.agents.spec.num_agents
    own = m.agents.act(policy, jnp.take(rows.obs, mine.agent, 1), rows.valid)
    loss, metrics = objective(
        m,
        own,
        m.agents.first_critic(critic, mine),
        n * m.config.action_penalty,
        key,
    )
    loss = masked_mean(loss, rows.valid) / n
    return loss, {"policy": loss * n} | {
        name: masked_mean(value, rows.valid) for name, value in metrics.items()
    }


# --- update ---------------------------------------------------------------------------------------


def init(m: Method, opts: tuple[Any, Any], key: Key) -> State:
    """Policies [N, ...], the team's twin critics [2, ...], and target networks equal to them."""
    policy, critics = m.agents.init(key)
    critic = jax.tree.map(lambda x: x[0], critics)
    states = jax.vmap(opts[0].init)(policy), opts[1].init(critic)
    spec = m.agents.spec
    return State(
        policy,
        critic,
        policy,
        critic,
        unit_stats(spec.num_agents, spec.obs_size),
        *states,
        jnp.zeros((), jnp.int32),
    )


def critic_step(
    m: Method, opt: Any, state: State, rows: Transition, key: Key
) -> tuple[State, dict[str, Array]]:
    """One gradient step of the critics on the given rows."""
    mine = AgentBatch(
        jnp.zeros((), jnp.int32), rows, state.policy, state.target_policy, state.target_critic
    )
    grads, metrics = jax.grad(lambda critic: critic_loss(m, critic, mine, key), has_aux=True)(
        state.critic
    )
    steps, critic_opt = opt.update(grads, state.critic_opt)
    return state._replace(
        critic=optax.apply_updates(state.critic, steps), critic_opt=critic_opt
    ), metrics


def actor_step(
    m: Method, opt: Any, objective: Objective, state: State, rows: Transition, key: Key
) -> tuple[State, dict[str, Array]]:
    """One step of every policy with the critics fixed; the critics' input normalisation treats the
    rows of all agents as one batch.
    """
    m = m._replace(agents=dataclasses.replace(m.agents, mapped="agents"))

    def one(
        agent: Array, policy: Net, policy_opt: Any, key: Key
    ) -> tuple[Params, Any, dict[str, Array]]:
        mine = AgentBatch(agent, rows, state.policy, state.target_policy, state.target_critic)
        grads, metrics = jax.grad(
            lambda p: actor_loss(m, objective, p, state.critic, mine, key), has_aux=True
        )(policy)
        steps, policy_opt = opt.update(grads, policy_opt)
        return optax.apply_updates(policy, steps), policy_opt, metrics

    n = m.agents.spec.num_agents
    policy, policy_opt, metrics = jax.vmap(one, axis_name="agents")(
        jnp.arange(n), state.policy, state.policy_opt, jax.random.split(key, n)
    )
    return state._replace(policy=policy, policy_opt=policy_opt), metrics


def update(
    m: Method,
    opts: tuple[Any, Any],
    objective: Objective,
    state: State,
    batch: Transition,
    key: Key,
) -> tuple[State, Out]:
    """Train critics and policies on the first part of a batch, then the critics on each further
    part; then update the target networks.
    """
    count, keys = 1 + m.config.critic_steps, jax.random.split(key, 3)
    size = batch.valid.shape[0]
    batch = with_clock_ends(batch) if m.agents.truncated_ends else batch
    dealt = jax.vmap(lambda part: as_rows(part)[0])(
        jax.tree.map(lambda x: x.reshape(count, size // count, *x.shape[1:]), batch)
    )
    rows, rest = jax.tree.map(lambda x: x[0], dealt), jax.tree.map(lambda x: x[1:], dealt)
    state, metrics = critic_step(m, opts[1], state, rows, keys[0])
    state, actor_metrics = actor_step(m, opts[0], objective, state, rows, keys[1])
    for field in agents.passes_of(m.config) if m.agents.input_norm == "batch" else ():
        state = state._replace(
            stats=running(state.stats, getattr(rows, field), rows.valid[:, None, None], (0,))
        )
    state, _ = lax.scan(
        lambda s, part: critic_step(m, opts[1], s, *part),
        state,
        (rest, jax.random.split(keys[2], count - 1)),
    )
    slow = optax.incremental_update(
        (state.policy, state.critic), (state.target_policy, state.target_critic), m.config.polyak
    )
    state = state._replace(target_policy=slow[0], target_critic=slow[1], updates=state.updates + 1)
    return state, Out({name: jnp.mean(value) for name, value in (metrics | actor_metrics).items()})


# --- make -----------------------------------------------------------------------------------------


def make(config: Any, spec: EnvSpec, name: str, objective: Objective) -> Learner:
    """The learner of the method called `name`, whose policies minimise `objective`.

    Raises InvalidSetting for settings that do not fit together.
    """
    if config.plain_density:
        raise InvalidSetting(
            f"{name}: field 'plain_density': expected false with shared_team=true, found true"
        )
    if getattr(config, "policy_steps", 1) != 1:
        raise InvalidSetting(
            f"{name}: field 'policy_steps': expected 1 with shared_team=true, found "
            f"{config.policy_steps}"
        )
    count, size = 1 + config.critic_steps, config.batch_size
    if size % count:
        raise InvalidSetting(
            f"field 'batch_size': expected a multiple of {count}, one part and "
            f"critic_steps={count - 1} more, found {size}"
        )
    m = agents.method_of(config.replace(centralised=True), spec)
    opts = adam(config.lr, config.max_grad_norm), adam(config.critic_lr, config.max_grad_norm)
    executed = lambda state: m.agents.policy(state.policy, state.stats)
    return Learner(
        init=lambda key: init(m, opts, key),
        update=lambda state, batch, key: update(m, opts, objective, state, batch, key),
        policy=executed,
        target_policy=lambda state: executed(state._replace(policy=state.target_policy)),
    )
