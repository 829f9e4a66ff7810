"""MA-ICQ, the baseline of Pan et al. (OMAR, ICML 2022): the single-agent ICQ of Yang et al. (2021)
for each agent, continuous actions.

    y = r_i + gamma (1 - terminated) w min_k Q'_k(o', a'),
        w = clip(n softmax(min_k Q'_k(o', a') / beta_q) / alpha_w, 0, 1)      -> critic_loss
    -mean n softmax(A / beta_pi) log pi(a | o),
        A = r_i + gamma (1 - terminated) min_k Q_k(o', a') - min_k Q_k(o, a)  -> actor_loss
a' is the data's next action, and the softmaxes run over the batch of n rows. pi is a Gaussian
around the output of a tanh network, with a log standard deviation, -6 + 6 sigmoid(p), of one number
for each action dimension; its mode is the mean. The authors of OMAR did not release their MA-ICQ:
networks, learning rates, batches and order of updates are those of the base that their MA-CQL and
OMAR share (jaxoff/learners/actor_critic.py). Differs from the single-agent code: twin critics,
whose minimum is used; no weight decay. A step whose next action is not in the window is left out of
all losses and statistics, unless it terminates.
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
    """Settings that MA-CQL, OMAR and MA-TD3+BC share in particle games; MA-ICQ's own were not
    released.
    """

    lr: float = 1e-2  # learning rate of the policies (Adam)
    critic_lr: float = 1e-2  # learning rate of the critics (Adam)
    gamma: float = 0.95
    beta_q: float = 600.0  # temperature of the weights on next values in the critics' targets
    beta_pi: float = 600.0  # temperature of the weights in the policy's loss
    alpha_w: float = 2.0  # divides the weights on next values, which are then clipped to [0, 1]
    polyak: float = 0.01  # share of the online parameters in a target update
    max_grad_norm: float = 0.5  # largest gradient norm of each agent's policy and critic
    # normalise network inputs by statistics of the batch, or observations by those of the dataset
    input_norm: Literal["batch", "dataset", "none"] = static("batch")
    truncated_ends: bool = static(False)  # episodes cut by the time limit count as terminated
    own_batches: bool = static(True)  # each agent learns from its own 1 / N of the batch
    hidden: int = static(64)  # width of policies and critics
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(2001)
    batch_size: int = static(3072)  # steps of all agents together
    # steps of a window, at least 2: a target needs the next action; -1: whole episodes
    window: int = static(2)


class Gaussian(NamedTuple):
    """Networks of the means, and parameters p [N, A] of the log standard deviations."""

    mean: Net
    spread: Array


class Method(NamedTuple):
    """Networks of one config."""

    config: Any
    agents: Agents


def with_next(batch: Transition) -> tuple[Transition, tuple[Array, Array]]:
    """Windows whose `valid` is 0 where a step has no target; also the next actions, and a mask of
    the steps that have one.
    """
    batch = as_windows(batch)
    follows = batch.valid * ahead(batch.valid)
    usable = batch.valid * jnp.maximum(batch.terminated, follows)
    return batch._replace(valid=usable), (ahead(batch.actions), follows)


def next_values(m: Method, critic: Net, mine: AgentBatch) -> Array:
    """min_k Q_k(o', a') of the data's next actions, [M]; meaningless where no action follows."""
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
    """Gaussian policies whose mode is the mean."""
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
