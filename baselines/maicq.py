"""MA-ICQ, the baseline of Pan et al. (OMAR, ICML 2022): the single-agent ICQ of Yang et al. (2021)
for each agent, continuous actions.

    y = r_i + gamma (1 - terminated) w min_k Q'_k(o', a'),
        w = clip(n softmax(min_k Q'_k(o', a') / beta_q) / alpha_w, 0, 1)      -> critic_loss
    -mean n softmax(A / beta_pi) log pi(a | o),
        A = r_i + gamma (1 - terminated) min_k Q_k(o', a') - min_k Q_k(o, a)  -> actor_loss
a' is the data's next action, and the softmaxes run over the batch. pi is a Gaussian around a tanh
net, whose log standard deviation, -6 + 6 sigmoid(p), is one number for each dimension. Evaluated by
its mode it plays the mean. The authors of OMAR did not release theirs: nets, rates, batches and
order of updates are those of their base, which MA-CQL and OMAR share
(jaxoff/learners/actor_critic.py). Differs from the single-agent code: twin critics, whose minimum
counts; no weight decay. A step whose next action the window does not hold is left out of
everything, unless it terminates.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxoff import distributions
from jaxoff.batches import as_windows
from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.learners.actor_critic import AgentBatch, Agents, State, learner, own_return, stages
from jaxoff.losses.implicit import batch_weight, effective
from jaxoff.losses.likelihood import masked_mean
from jaxoff.losses.td import ahead
from jaxoff.nets.gaussian import data_density, gaussian_policy
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.normalised import Net
from jaxoff.optimisers import adam
from jaxoff.types import Array, EnvSpec, Key, Learner, Params, Policy, Stage, Transition

ACTIONS = ("continuous",)


@struct.dataclass
class Config:
    """Settings of the base that MA-CQL, OMAR and MA-TD3+BC share in particle games; MA-ICQ's own
    were not released.
    """

    lr: float = 1e-2  # Adam, of the policies
    critic_lr: float = 1e-2  # Adam
    gamma: float = 0.95
    beta_q: float = 600.0  # temperature of the next values' weights
    beta_pi: float = 600.0  # temperature of the policy's weights
    alpha_w: float = 2.0  # divisor of the next values' weights, then clipped to [0, 1]
    polyak: float = 0.01  # share of the online parameters in a target update
    max_grad_norm: float = 0.5  # of each agent's policy and critic
    input_norm: Literal["batch", "dataset", "none"] = static("batch")
    truncated_ends: bool = static(False)  # the clock's end counts as terminal
    own_batches: bool = static(True)  # each agent learns from 1 / N of the batch
    hidden: int = static(64)  # of policies and critics
    layer_init: LayerInit = static("torch")  # how layers start: jaxoff/nets/layers.py
    steps: int = static(2001)
    batch_size: int = static(3072)  # of all agents together
    window: int = static(2)  # the first of the two steps has a next action


class Gaussian(NamedTuple):
    """Means' nets, and what log standard deviations are made of, [N, A]."""

    mean: Net
    spread: Array


class Method(NamedTuple):
    """Nets of one config."""

    config: Any
    agents: Agents


def with_next(batch: Transition) -> tuple[Transition, tuple[Array, Array]]:
    """Windows whose `valid` is 0 where a step has no target; beside them next actions, and where
    there are any.
    """
    batch = as_windows(batch)
    follows = batch.valid * ahead(batch.valid)
    usable = batch.valid * jnp.maximum(batch.terminated, follows)
    return batch._replace(valid=usable), (ahead(batch.actions), follows)


def next_values(m: Method, critic: Net, mine: AgentBatch) -> Array:
    """min_k Q_k(o', a') of the data's next actions, [M]; of no meaning where none follows."""
    (actions, follows), rows = mine.extras, mine.rows
    own = jnp.take(actions, mine.agent, 1)
    return jnp.min(
        m.agents.values(critic, jnp.take(rows.next_obs, mine.agent, 1), own[None], follows)[:, 0], 0
    )


def critic_loss(
    m: Method, critic: Net, mine: AgentBatch, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Sum of the twins' mean squared errors, over rows of one agent that have a target."""
    c, rows, follows = m.config, mine.rows, mine.extras[1]
    value = jnp.where(follows > 0, next_values(m, mine.target_critic, mine), 0.0)
    weight = jnp.clip(batch_weight(value, follows, c.beta_q) / c.alpha_w, 0.0, 1.0)
    target = own_return(mine.agent, rows, weight * value, c.gamma)
    q = m.agents.data_values(critic, mine)
    loss = masked_mean(jnp.sum(jnp.square(q - target), 0), rows.valid)
    metrics = {
        "value": loss,
        "target": masked_mean(target, rows.valid),
        "critic_weight_max": jnp.max(weight),
    }
    return loss, metrics


def log_std(spread: Array) -> Array:
    """-6 + 6 sigmoid(p)."""
    return -6.0 + 6.0 * jax.nn.sigmoid(spread)


def actor_loss(
    m: Method, policy: Gaussian, critic: Net, mine: AgentBatch
) -> tuple[Array, dict[str, Array]]:
    """Weighted likelihood of the data's actions, over rows of one agent that have a target; the
    weights are constants.
    """
    c, rows, follows = m.config, mine.rows, mine.extras[1]
    q = jnp.min(m.agents.data_values(critic, mine), 0)
    value = jnp.where(follows > 0, next_values(m, critic, mine), 0.0)
    advantage = own_return(mine.agent, rows, value, c.gamma) - q
    weight = batch_weight(advantage, rows.valid, c.beta_pi)
    mean = m.agents.act(policy.mean, jnp.take(rows.obs, mine.agent, 1), rows.valid)
    likelihood = data_density(
        distributions.normal(mean, log_std(policy.spread)),
        jnp.take(rows.actions, mine.agent, 1),
        m.agents.spec.action_bound,
    )
    loss = -masked_mean(weight * likelihood, rows.valid)
    metrics = {
        "policy": loss,
        "log_prob": masked_mean(likelihood, rows.valid),
        "advantage": masked_mean(advantage, rows.valid),
    }
    return loss, metrics | {"actor_effective": effective(weight, rows.valid)}


def policy_of(m: Method, state: State) -> Policy:
    """Gaussians whose mode is the mean."""
    return gaussian_policy(
        m.agents.policy(state.policy.mean, state.stats), log_std(state.policy.spread)
    )


def make(config: Config, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """The learner.

    Raises InvalidSetting for discrete actions, and for windows that hold no next action.
    """
    if spec.discrete:
        raise InvalidSetting(
            f"maicq on '{spec.name}': expected continuous actions, found discrete ones, "
            "which are icq's"
        )
    if config.window in (0, 1) and spec.horizon > 1:
        raise InvalidSetting(
            "maicq: field 'window': expected -1 (episodes) or at least 2, since targets "
            f"need the next action, found {config.window}"
        )
    c = config
    m = Method(
        config,
        Agents(spec, c.hidden, c.input_norm, False, c.own_batches, c.truncated_ends, c.layer_init),
    )
    shape = spec.num_agents, spec.action_size

    def of_critic(critic: Params, mine: AgentBatch, key: Key) -> tuple[Array, dict[str, Array]]:
        return critic_loss(m, critic, mine, key)

    def of_actor(
        policy: Params, critic: Params, mine: AgentBatch, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        return actor_loss(m, policy, critic, mine)

    both = adam(config.lr, config.max_grad_norm), adam(config.critic_lr, config.max_grad_norm)
    hooks: dict[str, Any] = {
        "start": lambda net: Gaussian(net, jnp.zeros(shape)),
        "policy": lambda state: policy_of(m, state),
    }
    return stages(
        m.agents,
        learner(m.agents, both, config.polyak, of_critic, of_actor, view=with_next, **hooks),
        config,
    )
