"""MA-TD3+BC, a baseline of Pan et al. (OMAR, ICML 2022): the TD3+BC of Fujimoto and Gu (NeurIPS
2021) for each agent.

    sum_k mean (Q_k(o, a) - y)^2,
        y = r_i + gamma (1 - terminated) min_k Q'_k(o', pi'(o'))              -> critic_loss
    -lambda mean Q_1(o, pi(o)) + mean (pi(o) - a)^2 + penalty mean pi(o)^2,
        lambda = alpha / mean |Q_1(o, pi(o))|                                 -> actor_loss
lambda is a constant in the gradient. The authors of OMAR did not release their MA-TD3+BC; networks,
learning rates and order of updates are those of OMAR's base (jaxoff/learners/actor_critic.py).
Differs from TD3+BC, always as in OMAR's base: no smoothing noise and no delayed policy updates
(`target_noise`, `policy_every`), observations normalised by the batch (`input_norm=dataset`:
standardised by the dataset, as in TD3+BC), a penalty on actions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxoff.config import static
from jaxoff.learners.actor_critic import AgentBatch, Agents, learner, own_of, stages
from jaxoff.losses.likelihood import masked_mean
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.normalised import Net
from jaxoff.optimisers import adam
from jaxoff.types import Array, EnvSpec, Key, Learner, Params, Stage

ACTIONS = ("continuous",)


@struct.dataclass
class Config:
    """Settings of OMAR's particle games, and alpha of TD3+BC."""

    lr: float = 1e-2  # learning rate of the policies (Adam)
    critic_lr: float = 1e-2  # learning rate of the critics (Adam)
    gamma: float = 0.95
    alpha: float = 2.5  # weight of the normalised values against behaviour cloning
    polyak: float = 0.01  # share of the online parameters in a target update
    max_grad_norm: float = 0.5  # largest gradient norm of each agent's policy and critic
    action_penalty: float = 1e-3  # weight of the policies' mean squared action
    target_noise: float = 0.0  # standard deviation of the noise on target actions; in TD3 .2
    noise_clip: float = 0.5  # bound on the noise on target actions
    policy_every: int = static(1)  # critic updates for each update of the policies; in TD3 2
    # normalise network inputs by statistics of the batch, or observations by those of the dataset
    input_norm: Literal["batch", "dataset", "none"] = static("batch")
    centralised: bool = static(False)  # critics see the state and the actions of all agents
    own_batches: bool = static(True)  # each agent learns from its own 1 / N of the batch
    truncated_ends: bool = static(False)  # episodes cut by the time limit count as terminated
    hidden: int = static(64)  # width of policies and critics
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(2001)
    batch_size: int = static(3072)  # steps of all agents together
    window: int = static(0)  # 0: single steps


class Method(NamedTuple):
    """Networks of one config."""

    config: Config
    agents: Agents


def critic_loss(
    m: Method, critic: Net, mine: AgentBatch, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Sum of the twins' mean squared errors, over valid rows of one agent."""
    c, rows, bound = m.config, mine.rows, m.agents.spec.action_bound
    ahead = m.agents.played(mine.agent, mine.target_policies, rows.next_obs, rows.valid)
    noise = jnp.clip(
        c.target_noise * jax.random.normal(key, ahead.shape), -c.noise_clip, c.noise_clip
    )
    target = m.agents.target(mine, jnp.clip(ahead + noise, -bound, bound), c.gamma)
    values = m.agents.data_values(critic, mine)
    loss = masked_mean(jnp.sum(jnp.square(values - target), 0), rows.valid)
    return loss, {
        "value": loss,
        "q": masked_mean(values[0], rows.valid),
        "target": masked_mean(target, rows.valid),
    }


def actor_loss(
    m: Method, policy: Net, critic: Net, mine: AgentBatch
) -> tuple[Array, dict[str, Array]]:
    """Minus the normalised value, plus the behaviour cloning error and the action penalty, over
    valid rows of one agent; squares are averaged over action dimensions.
    """
    c, rows = m.config, mine.rows
    own = m.agents.act(policy, own_of(rows.obs, mine.agent), rows.valid)
    q = m.agents.first_critic(critic, mine)(own[None])[0]
    size = masked_mean(jnp.abs(q), rows.valid)
    scale = lax.stop_gradient(c.alpha / jnp.maximum(size, 1e-8))
    clone = masked_mean(
        jnp.mean(jnp.square(own - own_of(rows.actions, mine.agent)), -1), rows.valid
    )
    penalty = masked_mean(jnp.mean(jnp.square(own), -1), rows.valid)
    mean_q = masked_mean(q, rows.valid)
    loss = -scale * mean_q + clone + c.action_penalty * penalty
    return loss, {"policy": loss, "policy_value": mean_q, "clone": clone, "scale": scale}


def make(config: Config, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """The learner, for continuous actions; its policies are deterministic.

    Raises InvalidSetting for impossible combinations.
    """
    c = config
    agents = Agents(
        spec, c.hidden, c.input_norm, c.centralised, c.own_batches, c.truncated_ends, c.layer_init
    )
    m = Method(config, agents)

    def of_critic(critic: Params, mine: AgentBatch, key: Key) -> tuple[Array, dict[str, Array]]:
        return critic_loss(m, critic, mine, key)

    def of_actor(
        policy: Params, critic: Params, mine: AgentBatch, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        return actor_loss(m, policy, critic, mine)

    both = adam(config.lr, config.max_grad_norm), adam(config.critic_lr, config.max_grad_norm)
    made = learner(
        agents, both, config.polyak, of_critic, of_actor, policy_every=config.policy_every
    )
    return stages(agents, made, config)
