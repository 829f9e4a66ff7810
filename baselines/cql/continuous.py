"""MA-CQL for continuous actions: its settings, and the choice between critics per agent and team
critics.
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

    lr: float = 1e-2  # learning rate of the policies (Adam)
    critic_lr: float = 1e-2  # learning rate of the critics (Adam)
    gamma: float = 0.95
    cql: float = 2.0  # weight of the conservative term
    max_grad_norm: float = 0.5  # gradient-norm limit, of each agent's policy and critic
    polyak: float = 0.01  # share of the online parameters in a target update
    action_penalty: float = 1e-3  # weight of the penalty on the policies' squared actions
    temperature: float = 1.0  # temperature of the log-sum-exp in the penalty
    # with shared_team: standard deviation of the noise on target actions
    target_noise: float = 0.05
    # actions in the penalty: uniform; policy: also noisy policy actions at the next and this step
    samples: Literal["uniform", "policy"] = static("uniform")
    num_samples: int = static(10)  # sampled actions of each kind in the penalty
    # subtract the density of policy samples, not its logarithm, as the released code does
    plain_density: bool = static(False)
    # statistics that normalise the inputs: of each batch, or of the dataset's observations
    input_norm: Literal["batch", "dataset", "none"] = static("batch")
    policy_steps: int = static(1)  # policy steps per critic step, on the same batch
    centralised: bool = static(False)  # critics take the state and all actions
    shared_team: bool = static(False)  # a single centralised critic for the whole team
    # with shared_team: steps of the critic alone after each joint step of critic and policies
    critic_steps: int = static(4)
    own_batches: bool = static(True)  # each agent learns from its own 1 / N of the batch
    truncated_ends: bool = static(False)  # episodes cut by the time limit count as terminated
    hidden: int = static(64)  # width of the hidden layers of policies and critics
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(2001)
    batch_size: int = static(3072)  # items of all agents together
    window: int = static(0)  # 0: single steps; -1: whole episodes


def make(config: Config, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """The learner; its policies are deterministic.

    Raises InvalidSetting for discrete actions and settings that do not fit together.
    """
    if config.shared_team:
        return team.make(config, spec, "cql", agents.objective)
    return agents.make(config, spec)
