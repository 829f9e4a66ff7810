"""Polynomial games of two agents (Tilbury et al., 2024, section 3): one real action each, one step.

The reward is a polynomial given by its coefficients: R(x, y) = sum_ij c[i, j] x^i y^j.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxoff.envs.base import Game, GameEnv
from jaxoff.types import Array, EnvSpec, Key, Policy, ReturnScale, TimeStep

TWIN_PEAKS = (1.0, 4.0, 5.0)  # A, B, C of the paper's experiments


def twin_peaks(a: float = 1.0, b: float = 4.0, c: float = 5.0) -> np.ndarray:
    """Coefficients of -A (x^2 + y^2) - B x^2 y^2 + C x y; needs A, B > 0 and C > 2A."""
    if not (a > 0 and b > 0 and c > 2 * a):
        raise ValueError(f"twin peaks: expected A > 0, B > 0, C > 2A, found A={a}, B={b}, C={c}")
    out = np.zeros((3, 3), np.float32)
    out[2, 0] = out[0, 2] = -a
    out[2, 2], out[1, 1] = -b, c
    return out


def peak(a: float = 1.0, b: float = 4.0, c: float = 5.0) -> float:
    """Coordinate a+ of twin peaks' maxima, which lie at +-(a+, a+)."""
    return float(np.sqrt((c - 2 * a) / (2 * b)))


GAMES: dict[str, np.ndarray] = {
    "decoupled": np.array([[0, 1], [1, 0]], np.float32),
    "sign": np.array([[0, 0], [0, 1]], np.float32),
    "action": np.array([[0, 0, -1], [0, 2, 0], [-1, 0, 0]], np.float32),
    "twin_peaks": twin_peaks(*TWIN_PEAKS),
}


def reward_of(coefficients: np.ndarray) -> Callable[[Array], Array]:
    """Joint actions [..., 2, 1] -> rewards [...]."""
    table = np.asarray(coefficients, np.float32)

    def reward(actions: Array) -> Array:
        x, y = actions[..., 0, 0], actions[..., 1, 0]
        total = jnp.zeros_like(x)
        for i, j in np.argwhere(table):
            total = total + float(table[i, j]) * x ** int(i) * y ** int(j)
        return total

    return reward


class PolynomialState(NamedTuple):
    """The joint action played, zeros before the play."""

    actions: Array


class PolynomialGame(Game):
    """Two agents, one real action each, an episode of one step."""

    def __init__(self, coefficients: np.ndarray) -> None:
        self.reward = reward_of(coefficients)

    def start(self, key: Key) -> PolynomialState:
        """The state before the play."""
        return PolynomialState(jnp.zeros((2, 1)))

    def move(
        self, key: Key, state: PolynomialState, actions: Array
    ) -> tuple[PolynomialState, Array, Array, Array]:
        """One play, which terminates."""
        return (
            PolynomialState(actions),
            self.reward(actions),
            jnp.ones((), bool),
            jnp.zeros((), bool),
        )

    def observe(self, state: PolynomialState) -> Array:
        """The constant 1, for each agent."""
        return jnp.ones((2, 1))

    def global_state(self, state: PolynomialState) -> Array:
        """The constant 1."""
        return jnp.ones((1,))


def make_polynomial(name: str, coefficients: np.ndarray) -> GameEnv:
    """A polynomial game as an `Env`; its probe gives the joint action and its exact reward.

    The return scale runs from the mean reward of uniformly random joint actions in [-1, 1]^2 to the
    best reward there (on a grid of 401^2).
    """
    payoff = reward_of(coefficients)
    axis = np.linspace(-1, 1, 401, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)[..., None]
    table = np.asarray(coefficients)
    rewards = sum(
        table[i, j] * grid[..., 0, 0] ** i * grid[..., 1, 0] ** j for i, j in np.argwhere(table)
    )
    spec = EnvSpec(
        name=name,
        num_agents=2,
        obs_size=1,
        state_size=1,
        action_size=1,
        discrete=False,
        horizon=1,
        return_scale=ReturnScale(
            float(np.mean(rewards)),
            float(np.max(rewards)),
            "grid of 401 x 401 on [-1, 1]^2: mean; maximum",
        ),
        payoff=payoff,
    )

    def probe(policy: Policy) -> dict[str, Array]:
        no = jnp.zeros((), bool)
        first = TimeStep(
            jnp.ones((2, 1)),
            jnp.ones(1),
            jnp.ones((2, 1)),
            jnp.zeros(()),
            no,
            no,
            jnp.zeros((2, 1)),
        )
        _, dist = policy.distribution(policy.initial(()), first)
        actions = dist.mode()
        return {"joint_action": actions[:, 0], "exact_value": payoff(actions)}

    return GameEnv(PolynomialGame(coefficients), spec, probe)
