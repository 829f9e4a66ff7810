"""Matrix games of any number of agents, given a payoff array; the games XOR and M-NE of InSPO (Liu
et al., 2025).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxoff.envs.base import Game, GameEnv
from jaxoff.types import Array, EnvSpec, Key, Policy, ReturnScale, TimeStep

XOR = np.array([[0.0, 1.0], [1.0, -2.0]], np.float32)


def mne(offdiag: float = 0.0) -> np.ndarray:
    """Payoff [3, 3] of M-NE: 5, 10, 20 on the diagonal and `offdiag` elsewhere."""
    return np.where(np.eye(3, dtype=bool), np.array([5.0, 10.0, 20.0]), offdiag).astype(np.float32)


class MatrixState(NamedTuple):
    """Number of plays made so far in the episode."""

    time: Array


class MatrixGame(Game):
    """One joint action, one reward: payoff[a_0, ..., a_{N-1}].

    payoff: [A] * N array. plays: number of repetitions of the game in an episode; the last play
    terminates. state: the constant state [S] that every agent observes, by default a single 1; the
    AlberDICE buffers have [0, 1, 0, 1].
    """

    def __init__(
        self, payoff: np.ndarray, plays: int = 1, state: tuple[float, ...] = (1.0,)
    ) -> None:
        payoff = np.asarray(payoff, np.float32)
        if payoff.ndim < 1 or len(set(payoff.shape)) != 1:
            raise ValueError(
                f"payoff: expected as many actions on every axis, found shape {payoff.shape}"
            )
        self.num_agents = payoff.ndim
        self.payoff, self.plays, self.constant = payoff, plays, np.asarray(state, np.float32)

    def start(self, key: Key) -> MatrixState:
        """The state before the first play."""
        return MatrixState(jnp.zeros((), jnp.int32))

    def move(
        self, key: Key, state: MatrixState, actions: Array
    ) -> tuple[MatrixState, Array, Array, Array]:
        """One play."""
        time = state.time + 1
        reward = jnp.asarray(self.payoff)[tuple(actions[i] for i in range(self.num_agents))]
        return MatrixState(time), reward, time >= self.plays, jnp.zeros((), bool)

    def observe(self, state: MatrixState) -> Array:
        """The constant state, for each agent."""
        return jnp.tile(jnp.asarray(self.constant), (self.num_agents, 1))

    def global_state(self, state: MatrixState) -> Array:
        """The constant state."""
        return jnp.asarray(self.constant)


def joint_probabilities(marginals: Array) -> Array:
    """Joint probabilities of a product policy: marginals [N, A] -> [A] * N."""
    joint = marginals[0]
    for row in marginals[1:]:
        joint = joint[..., None] * row
    return joint


def make_matrix(
    name: str, payoff: np.ndarray, plays: int = 1, state: tuple[float, ...] = (1.0,)
) -> GameEnv:
    """A matrix game as an `Env`; its probe gives the joint policy and its exact value per play."""
    game = MatrixGame(payoff, plays, state)
    n, a = game.num_agents, payoff.shape[0]
    uniform, best = float(np.mean(payoff)) * plays, float(np.max(payoff)) * plays
    spec = EnvSpec(
        name=name,
        num_agents=n,
        obs_size=len(state),
        state_size=len(state),
        action_size=a,
        discrete=True,
        horizon=plays,
        return_scale=ReturnScale(
            uniform, best, "exact: uniformly random joint action; best joint action"
        ),
    )

    def probe(policy: Policy) -> dict[str, Array]:
        obs = jnp.tile(jnp.asarray(state, jnp.float32), (n, 1))
        no = jnp.zeros((), bool)
        first = TimeStep(
            obs, obs[0], jnp.ones((n, a)), jnp.zeros(()), no, no, jnp.full((n,), -1, jnp.int32)
        )
        _, dist = policy.distribution(policy.initial(()), first)
        joint = joint_probabilities(dist.probs)
        return {"joint_policy": joint, "exact_value": jnp.sum(joint * jnp.asarray(payoff))}

    return GameEnv(game, spec, probe)
