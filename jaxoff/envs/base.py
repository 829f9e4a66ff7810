"""From a JaxMARL environment to our contract: stacked arrays, end flags apart, no auto-reset."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax.numpy as jnp
import numpy as np

from jaxoff.types import Array, EnvSpec, Key, Policy, State, TimeStep

with mock.patch("builtins.print"):  # its import prints about absent sub-packages
    from jaxmarl.environments import spaces
    from jaxmarl.environments.multi_agent_env import MultiAgentEnv

__all__ = ["FromJaxMARL", "Game", "GridPicture", "MultiAgentEnv", "ScenePicture", "spaces"]


class GridPicture(NamedTuple):
    """How an environment on a grid is drawn: walls [H, W] bool, goals [N, 2], positions(state [T,
    S]) -> [T, N, 2].
    """

    walls: np.ndarray
    goals: np.ndarray
    positions: Callable[[np.ndarray], np.ndarray]


class ScenePicture(NamedTuple):
    """How an environment of K bodies in the plane is drawn, from an episode's global states [T, S].

    bounds: (x0, y0, x1, y1) that are seen, or None to follow the bodies. radii [K]. kinds [K]:
    agent, ally, enemy, prey, obstacle, food, forest, landmark or goal. positions(state) -> [T, K,
    2], y upwards; health(state) -> [T, K] in 0..1, 0 if dead. walls: rectangles (x0, y0, x1, y1).
    """

    bounds: tuple[float, float, float, float] | None
    radii: np.ndarray
    kinds: tuple[str, ...]
    positions: Callable[[np.ndarray], np.ndarray]
    health: Callable[[np.ndarray], np.ndarray] | None = None
    walls: np.ndarray | None = None


class FromJaxMARL:
    """Our `Env` around a JaxMARL `MultiAgentEnv`.

    Its `step_env` is used, never `step`, whose auto-reset loses the last observation. `info` must
    hold `terminated` and `truncated` (a Game's does), and the environment `global_state(state)`
    [S]. probe(policy): what is known exactly of a policy, computed in jit at each evaluation.
    won(global state [..., S]) -> [...] bool: whether an episode that ended there was won, for
    arrays of JAX and of NumPy. individual: agents have rewards of their own, and the team's is
    their mean; else all are paid the team's.
    """

    def __init__(
        self,
        env: Any,
        spec: EnvSpec,
        probe: Callable[[Policy], dict[str, Array]] | None = None,
        picture: GridPicture | ScenePicture | None = None,
        won: Callable[[Any], Any] | None = None,
        individual: bool = False,
    ) -> None:
        self.env, self.spec, self.probe, self.picture, self.won, self.individual = (
            env,
            spec,
            probe,
            picture,
            won,
            individual,
        )

    def reset(self, key: Key) -> tuple[State, TimeStep]:
        """Start an episode: (state, first timestep)."""
        obs, state = self.env.reset(key)
        no = jnp.zeros((), bool)
        last = (
            jnp.full(self.spec.action_shape, -1, jnp.int32)
            if self.spec.discrete
            else jnp.zeros(self.spec.action_shape)
        )
        return state, self._timestep(obs, state, jnp.zeros(self.spec.num_agents), no, no, last)

    def step(self, key: Key, state: State, actions: Array) -> tuple[State, TimeStep]:
        """One joint step with actions [N] int or [N, A] float: (state, timestep)."""
        by_agent = {agent: actions[i] for i, agent in enumerate(self.env.agents)}
        obs, state, reward, _, info = self.env.step_env(key, state, by_agent)
        own = jnp.stack([reward[agent] for agent in self.env.agents])
        return state, self._timestep(
            obs, state, own, info["terminated"], info["truncated"], actions
        )

    def _timestep(
        self,
        obs: Any,
        state: State,
        reward: Array,
        terminated: Array,
        truncated: Array,
        last: Array,
    ) -> TimeStep:
        # Dictionaries come out of jit sorted by name, so agents are always indexed by name, in
        # order.
        agents = self.env.agents
        if self.spec.discrete:
            mask = self.env.get_avail_actions(state)
            avail = jnp.stack([mask[agent] for agent in agents]).astype(jnp.float32)
        else:
            avail = jnp.ones((self.spec.num_agents, self.spec.action_size))
        return TimeStep(
            obs=jnp.stack([obs[agent] for agent in agents]),
            state=self.env.global_state(state),
            avail=avail,
            reward=reward.mean() if self.individual else reward[0],
            terminated=terminated,
            truncated=truncated,
            last_actions=last,
            agent_reward=reward if self.individual else None,
        )


class Game(MultiAgentEnv, abc.ABC):
    """Base of our own games: a team reward or one for each agent, one shared global state, both end
    flags in `info`.

    A subclass gives `start(key)`, `move(key, state, actions [N, ...]) -> (state, reward [] or [N],
    terminated, truncated)`, `observe(state) [N, O]` and `global_state(state) [S]`.
    """

    def __init__(self, num_agents: int, obs_size: int, action_space: Any) -> None:
        super().__init__(num_agents)
        self.observation_spaces = {
            agent: spaces.Box(-jnp.inf, jnp.inf, (obs_size,)) for agent in self.agents
        }
        self.action_spaces = dict.fromkeys(self.agents, action_space)

    def reset(self, key: Key) -> tuple[dict[str, Array], State]:
        """JaxMARL's reset: (observations by agent, state)."""
        state = self.start(key)
        return self.get_obs(state), state

    def step_env(
        self, key: Key, state: State, actions: dict[str, Array]
    ) -> tuple[Any, State, Any, Any, Any]:
        """JaxMARL's step without auto-reset: (observations, state, rewards, dones, info)."""
        state, reward, terminated, truncated = self.move(
            key, state, jnp.stack([actions[a] for a in self.agents])
        )
        rewards = jnp.broadcast_to(reward, (self.num_agents,))
        done = terminated | truncated
        dones = dict.fromkeys(self.agents, done) | {"__all__": done}
        info = {"terminated": terminated, "truncated": truncated}
        return (
            self.get_obs(state),
            state,
            {agent: rewards[i] for i, agent in enumerate(self.agents)},
            dones,
            info,
        )

    def get_obs(self, state: State) -> dict[str, Array]:
        """Observations by agent."""
        obs = self.observe(state)
        return {agent: obs[i] for i, agent in enumerate(self.agents)}

    def get_avail_actions(self, state: State) -> dict[str, Array]:
        """Every action is available, unless a subclass says otherwise."""
        return {agent: jnp.ones(self.action_spaces[agent].n) for agent in self.agents}

    @abc.abstractmethod
    def start(self, key: Key) -> State:
        """The first state."""

    @abc.abstractmethod
    def move(self, key: Key, state: State, actions: Array) -> tuple[State, Array, Array, Array]:
        """One joint step: (state, the team's reward [] or each agent's [N], terminated,
        truncated).
        """

    @abc.abstractmethod
    def observe(self, state: State) -> Array:
        """Observations [N, O]."""

    @abc.abstractmethod
    def global_state(self, state: State) -> Array:
        """Global state [S]."""
