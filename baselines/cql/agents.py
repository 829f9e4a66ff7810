"""MA-CQL for continuous actions, the baseline of Pan et al. (OMAR, ICML 2022): each agent has a TD3
of its own with CQL's penalty.

    sum_k mean (Q_k(o, a) - y)^2
        + cql sum_k mean(T log sum_u exp((Q_k(o, u) - log p(u)) / T) - Q_k(o, a))  -> critic_loss
    y = r_i + gamma (1 - terminated) min_k Q'_k(o', pi'(o')), without smoothing noise
    -mean Q_1(o, pi(o)) + penalty mean pi(o)^2, by the critic just updated         -> actor_loss
u are uniform actions and, with samples=policy, also noisy policy actions at o' and o, all valued at
o. The sum is not divided by the number of samples. With `plain_density`, as in the released code,
the density of a policy's sample is subtracted where its logarithm belongs. With `centralised`,
critics see the state and all actions, and u is a joint action. Differs: batches are drawn with
replacement; all agents are updated at once, with the same result, since no agent uses another's
updated nets within an update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxoff.blocks import summed
from jaxoff.learners.actor_critic import AgentBatch, Agents, learner, own_of, stages
from jaxoff.losses.conservative import near_actions, sampled_logsumexp, uniform_actions
from jaxoff.losses.likelihood import masked_mean
from jaxoff.nets.normalised import Net
from jaxoff.optimisers import adam
from jaxoff.types import Array, EnvSpec, Key, Learner, Params, Stage

NOISE = 0.2  # standard deviation of actions sampled near a policy


class Method(NamedTuple):
    """Nets and the Config, which may be any with the fields of the continuous form."""

    config: Any
    agents: Agents


# --- critics --------------------------------------------------------------------------------------


def sampled(m: Method, mine: AgentBatch, key: Key) -> tuple[Array, Array]:
    """Actions that the conservative term holds down at each row, and log p of each: [K, M, D],
    [K, M]. Input normalisation treats each kind of them as a batch of its own.
    """
    c, rows, agents = m.config, mine.rows, m.agents
    bound, keys = agents.spec.action_bound, jax.random.split(key, 3)
    width = agents.spec.action_size * (agents.spec.num_agents if agents.centralised else 1)
    drawn, level = uniform_actions(keys[0], (c.num_samples, rows.valid.shape[0], width), bound)
    kinds = [(drawn, jnp.full(drawn.shape[:-1], level))]
    for obs, near_key in (
        ((rows.next_obs, keys[1]), (rows.obs, keys[2])) if c.samples == "policy" else ()
    ):
        centre = agents.played(mine.agent, mine.policies, obs, rows.valid)
        near, density = near_actions(near_key, centre, c.num_samples, NOISE, bound)
        kinds.append((near, jnp.exp(density) if c.plain_density else density))
    actions = [agents.standard_rows(actions, rows.valid) for actions, _ in kinds]
    return jnp.concatenate(actions), jnp.concatenate([density for _, density in kinds])


def conservative_loss(m: Method, values: Array, held: Array, log_density: Array) -> Array:
    """sum_k of the log-sum-exp of Q_k over sampled actions, held [2, K, M] with log p [K, M], minus
    Q_k(o, a) = values [2, M]; unreduced [M].
    """
    q, density = jnp.moveaxis(held, 1, -1), jnp.moveaxis(log_density, 0, -1)
    return jnp.sum(sampled_logsumexp(q, density, m.config.temperature) - values, 0)


def critic_loss(
    m: Method, critic: Net, mine: AgentBatch, key: Key
) -> tuple[Array, dict[str, Array]]:
    """`penalised_loss` with the next actions of the target policies."""
    ahead = m.agents.played(mine.agent, mine.target_policies, mine.rows.next_obs, mine.rows.valid)
    return penalised_loss(m, critic, mine, ahead, key)


def penalised_loss(
    m: Method, critic: Net, mine: AgentBatch, ahead: Array, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Sum of the twins' mean squared errors plus `cql` times the conservative term, over valid rows
    of one agent.

    ahead: next actions [M, D] as the critics take them: the agent's own, or those of all agents.
    """
    rows, agents, (drawn, log_density) = mine.rows, m.agents, sampled(m, mine, key)
    target = agents.target(mine, ahead, m.config.gamma)
    context, own = agents.standard(*agents.data_inputs(mine), rows.valid)
    weight = rows.valid / jnp.maximum(jnp.sum(rows.valid), 1e-8)
    actions = jnp.concatenate([own, drawn])  # [1 + K, M, D]

    def part(
        critic: Net, context: Array, actions: Array, target: Array, weight: Array, density: Array
    ) -> tuple[Array, dict[str, Array]]:
        q = agents.valued(critic, context, actions)  # [2, 1 + K, M]
        values = q[:, 0]
        value = jnp.sum(weight * jnp.sum(jnp.square(values - target), 0))
        conservative = jnp.sum(weight * conservative_loss(m, values, q[:, 1:], density))
        metrics = {
            "value": value,
            "conservative": conservative,
            "q": jnp.sum(weight * values[0]),
            "target": jnp.sum(weight * target),
        }
        return value + m.config.cql * conservative, metrics

    count = agents.blocks(len(weight), 2 * len(drawn))
    rows_of_all = context, actions, target, weight, log_density
    return summed(part, critic, rows_of_all, (0, 1, 0, 0, 1), count)


# --- policies -------------------------------------------------------------------------------------


def objective(
    m: Method, own: Array, value: Callable[[Array], Array], penalty: Array | float, key: Key
) -> tuple[Array, dict[str, Array]]:
    """-Q_1(o, pi(o)) plus `penalty` times the mean square of pi(o), unreduced: own [M, A], value
    [K, M, A] -> [K, M] => [M].
    """
    q = value(own[None])[0]
    return penalty * jnp.mean(jnp.square(own), -1) - q, {"policy_value": q}


def actor_loss(
    m: Method, policy: Net, critic: Net, mine: AgentBatch, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Mean of `objective` over valid rows of one agent."""
    rows = mine.rows
    own = m.agents.act(policy, own_of(rows.obs, mine.agent), rows.valid)
    loss, metrics = objective(
        m,
        own,
        m.agents.first_critic(critic, mine),
        m.config.action_penalty,
        key,
    )
    metrics = {
        name: masked_mean(value, rows.valid) for name, value in ({"policy": loss} | metrics).items()
    }
    return metrics["policy"], metrics


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Any, spec: EnvSpec) -> Method:
    """Nets of the continuous form. Raises InvalidSetting for settings that do not fit together."""
    c = config
    return Method(
        c,
        Agents(
            spec,
            c.hidden,
            c.input_norm,
            c.centralised,
            c.own_batches,
            c.truncated_ends,
            c.layer_init,
        ),
    )


def passes_of(config: Any) -> tuple[str, ...]:
    """The observation fields on which the policies are evaluated in an update, in order."""
    return ("obs", "next_obs", "obs") if config.samples == "policy" else ("obs",)


def make(config: Any, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """The learner; its policies are deterministic."""
    m = method_of(config, spec)

    def of_critic(critic: Params, mine: AgentBatch, key: Key) -> tuple[Array, dict[str, Array]]:
        return critic_loss(m, critic, mine, key)

    def of_actor(
        policy: Params, critic: Params, mine: AgentBatch, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        return actor_loss(m, policy, critic, mine, key)

    both = adam(config.lr, config.max_grad_norm), adam(config.critic_lr, config.max_grad_norm)
    passes = passes_of(config) + ("obs",) * (config.policy_steps - 1)
    more: dict[str, Any] = {"passes": passes, "policy_steps": config.policy_steps}
    return stages(
        m.agents, learner(m.agents, both, config.polyak, of_critic, of_actor, **more), config
    )
