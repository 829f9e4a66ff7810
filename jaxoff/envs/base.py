"""jaxoff's own environments behind the `Env` interface: stacked arrays, separate flags for the two
ways an episode ends, no auto-reset.

`from_jaxmarl` turns JaxMARL's environments into ours, `to_jaxmarl` turns ours into JaxMARL's.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxoff.types import Array, EnvSpec, Key, Policy, State, TimeStep

__all__ = ["Game", "GameEnv", "GridPicture", "ScenePicture"]


class GridPicture(NamedTuple):
    """How an environment on a grid is drawn: walls [H, W] bool, goals [N, 2], positions(state [T,
    S]) -> [T, N, 2].
    """

    walls: np.ndarray
    goals: np.ndarray
    positions: Callable[[np.ndarray], np.ndarray]


class ScenePicture(NamedTuple):
    """How an environment of K bodies in the plane is drawn, from an episode's global states [T, S].

    bounds: (x0, y0, x1, y1), the visible part of the plane, or None to follow the bodies. radii
    [K]. kinds [K]: agent, ally, enemy, prey, obstacle, food, forest, landmark or goal.
    positions(state) -> [T, K, 2], y upwards; health(state) -> [T, K] in 0..1, 0 if dead. walls:
    rectangles (x0, y0, x1, y1). shots(state) -> [T, K] int, the body that each body shot at in the
    step before, or -1.
    """

    bounds: tuple[float, float, float, float] | None
    radii: np.ndarray
    kinds: tuple[str, ...]
    positions: Callable[[np.ndarray], np.ndarray]
    health: Callable[[np.ndarray], np.ndarray] | None = None
    walls: np.ndarray | None = None
    shots: Callable[[np.ndarray], np.ndarray] | None = None


class Game(abc.ABC):
    """The rules of an environment as functions of its state. `GameEnv` makes an `Env` of it."""

    @abc.abstractmethod
    def start(self, key: Key) -> State:
        """The first state of an episode."""

    @abc.abstractmethod
    def move(self, key: Key, state: State, actions: Array) -> tuple[State, Array, Array, Array]:
        """One joint step, actions [N] int or [N, A] float: (state, the team's reward [] or each
        agent's [N], terminated, truncated).
        """

    @abc.abstractmethod
    def observe(self, state: State) -> Array:
        """Observations [N, O]."""

    @abc.abstractmethod
    def global_state(self, state: State) -> Array:
        """Global state [S]."""

    def available(self, state: State) -> Array | None:
        """Mask [N, A] of available actions, 1 or 0; None where all actions are always available."""
        return None


class GameEnv:
    """A `Game` as an `Env`.

    probe(policy): exact quantities of a policy, such as its value, computed in jit at each
    evaluation. won(global state [..., S]) -> [...] bool: whether an episode that ended in this
    state was won, for arrays of JAX and of NumPy. individual: agents have rewards of their own, and
    the team's reward is their mean; else all agents are paid the team's reward. script(timestep) ->
    actions [..., N]: a scripted policy without memory, for time steps with any leading axes.
    """

    def __init__(
        self,
        game: Any,
        spec: EnvSpec,
        probe: Callable[[Policy], dict[str, Array]] | None = None,
        picture: GridPicture | ScenePicture | None = None,
        won: Callable[[Any], Any] | None = None,
        individual: bool = False,
        script: Callable[[TimeStep], Array] | None = None,
    ) -> None:
        self.game, self.spec, self.probe = game, spec, probe
        self.picture, self.won, self.individual, self.script = picture, won, individual, script

    def reset(self, key: Key) -> tuple[State, TimeStep]:
        """Start an episode: (state, first timestep)."""
        state, no = self.game.start(key), jnp.zeros((), bool)
        return state, self._timestep(state, jnp.zeros(()), no, no, first_actions(self.spec))

    def step(self, key: Key, state: State, actions: Array) -> tuple[State, TimeStep]:
        """One joint step with actions [N] int or [N, A] float: (state, timestep)."""
        state, reward, terminated, truncated = self.game.move(key, state, actions)
        return state, self._timestep(state, reward, terminated, truncated, actions)

    def _timestep(
        self, state: State, reward: Array, terminated: Array, truncated: Array, last: Array
    ) -> TimeStep:
        count = self.spec.num_agents
        avail = self.game.available(state)
        own = jnp.broadcast_to(reward, (count,))
        return TimeStep(
            obs=self.game.observe(state),
            state=self.game.global_state(state),
            avail=jnp.ones((count, self.spec.action_size)) if avail is None else avail,
            reward=own.mean() if self.individual else own[0],
            terminated=terminated,
            truncated=truncated,
            last_actions=last,
            agent_reward=own if self.individual else None,
        )


def first_actions(spec: EnvSpec) -> Array:
    """`TimeStep.last_actions` after a reset: [N] of -1, or zeros [N, A]."""
    shape = spec.action_shape
    return jnp.full(shape, -1, jnp.int32) if spec.discrete else jnp.zeros(shape)
