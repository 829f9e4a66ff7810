"""Our environments as JaxMARL's, for its algorithms and wrappers.

Importing this module imports JaxMARL.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxoff.envs.from_jaxmarl import quiet_import
from jaxoff.runtime import needs
from jaxoff.types import Array, Env, Key, State, TimeStep

with needs("as_jaxmarl"), quiet_import():
    from jaxmarl.environments.multi_agent_env import MultiAgentEnv
    from jaxmarl.environments.spaces import Box, Discrete


class Seen(NamedTuple):
    """Our environment's state, its last time step, and two fields that JaxMARL's states have."""

    inner: State
    seen: TimeStep
    step: Array  # [] int, number of steps made in this episode
    done: Array  # [] bool


class InJaxMARL(MultiAgentEnv):
    """Our environment behind JaxMARL's interface: see `as_jaxmarl`."""

    def __init__(self, env: Env) -> None:
        spec = env.spec
        super().__init__(spec.num_agents)
        self.env, self.spec, self.max_steps = env, spec, spec.horizon
        self.state_size = spec.state_size
        self.obs_sizes = spec.obs_sizes or (spec.obs_size,) * spec.num_agents
        self.action_sizes = spec.action_sizes or (spec.action_size,) * spec.num_agents
        bound = spec.action_bound
        self.observation_spaces = {
            agent: Box(-jnp.inf, jnp.inf, (size,))
            for agent, size in zip(self.agents, self.obs_sizes, strict=True)
        }
        self.action_spaces = {
            agent: Discrete(size) if spec.discrete else Box(-bound, bound, (size,))
            for agent, size in zip(self.agents, self.action_sizes, strict=True)
        }

    @property
    def name(self) -> str:
        """Our environment's name, by which JaxMARL's wrappers recognise SMAX."""
        return self.spec.name

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        """Agents by type, "type_0" and so on."""
        types = self.spec.agent_types or (0,) * self.num_agents
        return {
            f"type_{kind}": [a for a, own in zip(self.agents, types, strict=True) if own == kind]
            for kind in dict.fromkeys(types)
        }

    def reset(self, key: Key) -> tuple[dict[str, Array], Seen]:
        """Start an episode: (observations by agent, state)."""
        inner, seen = self.env.reset(key)
        state = Seen(inner, seen, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        return self.get_obs(state), state

    def step_env(
        self, key: Key, state: Seen, actions: dict[str, Array]
    ) -> tuple[dict[str, Array], Seen, dict[str, Array], dict[str, Array], dict[str, Array]]:
        """One step without auto-reset: (observations, state, rewards, dones, info)."""
        inner, seen = self.env.step(key, state.inner, self._joint(actions))
        done = seen.terminated | seen.truncated
        state = Seen(inner, seen, state.step + 1, done)
        own = seen.agent_reward
        rewards = {a: seen.reward if own is None else own[i] for i, a in enumerate(self.agents)}
        dones = dict.fromkeys([*self.agents, "__all__"], done)
        info = {"terminated": seen.terminated, "truncated": seen.truncated}
        return self.get_obs(state), state, rewards, dones, info

    def _joint(self, actions: dict[str, Array]) -> Array:
        """Actions by agent as [N] int, or padded as [N, A] float."""
        each = [jnp.asarray(actions[agent]) for agent in self.agents]
        if self.spec.discrete:
            return jnp.stack(each).astype(jnp.int32)
        most = self.spec.action_size
        return jnp.stack([jnp.pad(x, (0, most - x.shape[0])) for x in each]).astype(jnp.float32)

    def get_obs(self, state: Seen) -> dict[str, Array]:
        """Observations [O_i] by agent, and under `world_state` the global state [S]."""
        obs = state.seen.obs
        by_agent = {a: obs[i, : self.obs_sizes[i]] for i, a in enumerate(self.agents)}
        return by_agent | {"world_state": state.seen.state}

    def get_avail_actions(self, state: Seen) -> dict[str, Array]:
        """Masks [A_i] by agent, float."""
        avail = state.seen.avail
        return {a: avail[i, : self.action_sizes[i]] for i, a in enumerate(self.agents)}

    def get_world_state(self, state: Seen) -> Array:
        """The global state [S]."""
        return state.seen.state


def as_jaxmarl(env: Env) -> Any:
    """Any of our environments as a JaxMARL `MultiAgentEnv`.

    Agents are `agent_0`, `agent_1`, ..., each with its own unpadded sizes. All quantities are
    dictionaries by agent, as in JaxMARL; `dones["__all__"]` ends an episode, and `step` then starts
    the next one. All agents are paid the team's reward where they have no rewards of their own.
    `info` holds `terminated` and `truncated`, which JaxMARL's `done` flag does not distinguish. The
    global state is `obs["world_state"]`, as in JaxMARL's SMAX, and `get_world_state(state)`.
    """
    return InJaxMARL(env)
