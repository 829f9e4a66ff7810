"""MA-CQL for continuous actions: its settings, and which of the two forms of critics they ask
for.
"""

from __future__ import annotations

from typing import Literal

from flax import struct
from jaxoff.baselines.cql import agents, team

from jaxoff.config import static
from jaxoff.nets.layers import LayerInit
from jaxoff.types import EnvSpec, Learner, Stage


@struct.dataclass
class Config:
    """Settings of the released code's particle games."""

    lr: float = 1e-2  # Adam, of the policies
    critic_lr: float = 1e-2  # Adam, of the critics
    gamma: float = 0.95
    cql: float = 2.0  # weight of the conservative term
    max_grad_norm: float = 0.5  # of each agent's policy and critic
    polyak: float = 0.01  # share of the online parameters in a target update
    action_penalty: float = 1e-3  # on squared actions of the policies
    temperature: float = 1.0  # of the log-sum-exp
    target_noise: float = 0.05  # standard deviation, of target actions with shared_team
    # uniform; policy: also near the policy, next and now
    samples: Literal["uniform", "policy"] = static("uniform")
    num_samples: int = static(10)  # of each kind
    plain_density: bool = static(False)  # of policy samples: p, not log p, as released
    input_norm: Literal["batch", "dataset", "none"] = static("batch")
    policy_steps: int = static(1)  # of a policy to one of its critics, on the same batch
    centralised: bool = static(False)  # critics of the state and all actions
    shared_team: bool = static(False)  # one centralised critic for the whole team
    critic_steps: int = static(4)  # with shared_team: steps of the critic alone to one of all
    own_batches: bool = static(True)  # each agent learns from 1 / N of the batch
    truncated_ends: bool = static(False)  # the clock's end counts as terminal
    hidden: int = static(64)  # of policies and critics
    layer_init: LayerInit = static("torch")  # how layers start: jaxoff/nets/layers.py
    steps: int = static(2001)
    batch_size: int = static(3072)  # of all agents together
    window: int = static(0)  # single steps


def make(config: Config, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """The learner; its policies are deterministic.

    Raises InvalidSetting for discrete actions and forms that can't be.
    """
    if config.shared_team:
        return team.make(config, spec, "cql", agents.objective)
    return agents.make(config, spec)
