"""Environments that step on the host, as a team: agents in an order, with padded observations,
masks, and actions in the form of a dataset and in that of their spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxoff.envs.from_jaxmarl import is_discrete, scale_of
from jaxoff.errors import InvalidSetting


def to_unit(actions: Any, scale: Sequence[tuple[np.ndarray, np.ndarray]], lib: Any) -> Any:
    """Actions [N, A] between bounds (low, high) of each agent, scaled to [-1, 1]; padding is 0."""
    rows = []
    for action, (low, high) in zip(actions, scale, strict=True):
        unit = 2 * (action[: len(low)] - low) / (high - low) - 1
        rows.append(lib.pad(unit, (0, actions.shape[1] - len(low))))
    return lib.stack(rows)


class OneAgent:
    """A Gymnasium environment in PettingZoo's parallel interface, with one agent."""

    def __init__(self, env: Any) -> None:
        self.env, self.possible_agents, self.agents = env, ["agent_0"], ["agent_0"]

    def observation_space(self, agent: str) -> Any:
        """The space of the one agent's observations."""
        return self.env.observation_space

    def action_space(self, agent: str) -> Any:
        """The space of the one agent's actions."""
        return self.env.action_space

    def reset(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode."""
        self.agents = ["agent_0"]
        obs, info = self.env.reset(seed=seed)
        return {"agent_0": obs}, {"agent_0": info}

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """One step."""
        found = self.env.step(actions["agent_0"])
        if found[2] or found[3]:
            self.agents = []
        return tuple({"agent_0": value} for value in found)


class Team:
    """What is known of a PettingZoo environment before it is played."""

    def __init__(self, env: Any, name: str, horizon: int) -> None:
        self.agents = list(env.possible_agents)
        spaces = {agent: env.action_space(agent) for agent in self.agents}
        for agent, space in spaces.items():
            if hasattr(space, "n") and getattr(space, "shape", ()) not in ((), None):
                raise ValueError(
                    f"{name}: action space of '{agent}': expected Discrete, or Box of one axis; "
                    f"found {type(space).__name__} of shape {tuple(space.shape)}"
                )
        self.discrete = is_discrete(name, spaces)
        self.spaces = list(spaces.values())
        self.scale, self.bound = (None, 1.0) if self.discrete else scale_of(name, self.spaces)
        self.sizes = [int(s.n) if self.discrete else int(s.shape[0]) for s in self.spaces]
        self.starts = [int(getattr(s, "start", 0)) for s in self.spaces]
        self.views = [env.observation_space(agent) for agent in self.agents]
        self.name, self.horizon, self.size = name, horizon, max(self.sizes)
        self.wide: list[int] = []  # numbers that each agent observes, once they are measured

    def measure(self, seen: Mapping[str, Any]) -> None:
        """Learn the sizes of observations from those after a reset."""
        self.wide = [
            len(_numbers(_without_mask(seen[agent]), _without_mask(view)))
            if agent in seen
            else int(np.prod(_without_mask(view).shape))
            for agent, view in zip(self.agents, self.views, strict=True)
        ]

    def obs(self, seen: Mapping[str, Any]) -> np.ndarray:
        """Observations [N, O]; zeros for an agent that is not there."""
        rows = np.zeros((len(self.agents), max(self.wide)), np.float32)
        for row, agent, view, size in zip(rows, self.agents, self.views, self.wide, strict=True):
            if agent in seen:
                numbers = _numbers(_without_mask(seen[agent]), _without_mask(view))
                if len(numbers) != size:
                    raise ValueError(
                        f"{self.name}: observation of '{agent}': expected {size} numbers, as "
                        f"after the first reset, found {len(numbers)}"
                    )
                row[:size] = numbers
        return rows

    def masks(self, seen: Mapping[str, Any], infos: Mapping[str, Any], there: Any) -> np.ndarray:
        """Available actions [N, A]; of an agent that has left, its first one."""
        rows = np.zeros((len(self.agents), self.size), np.float32)
        for row, agent, size in zip(rows, self.agents, self.sizes, strict=True):
            told = _mask(seen.get(agent)), _mask(infos.get(agent))
            found = next((mask for mask in told if mask is not None), np.ones(size))
            if found.shape != (size,):
                raise ValueError(
                    f"{self.name}: 'action_mask' of '{agent}': expected shape ({size},), found "
                    f"{found.shape}"
                )
            if agent not in there and self.discrete:
                row[0] = 1
            elif not self.discrete:
                row[:] = 1
            else:
                row[:size] = found if found.any() else 1
        return rows

    def given(self, actions: Any, there: Any) -> list[Any]:
        """What a policy has given, by agent and in the environment's own form.

        Raises InvalidSetting for what an agent that is there cannot take.
        """
        if isinstance(actions, Mapping):
            found = [actions.get(agent) for agent in self.agents]
        else:
            array, n = np.asarray(actions), len(self.agents)
            if array.size % n or (self.discrete and array.size != n):
                raise InvalidSetting(
                    f"{self.name}: field 'policy': expected an action for each of {n} agents, "
                    f"found an array of shape {array.shape}"
                )
            found = list(array.reshape(n, *([] if self.discrete else [-1])))
        each = zip(self.agents, found, self.sizes, self.starts, strict=True)
        for agent, action, size, start in each:
            if agent in there and not self._takes(action, size, start):
                choice = f"a whole number {start} to {start + size - 1}"
                wanted = choice if self.discrete else f"{size} finite numbers"
                raise InvalidSetting(
                    f"{self.name}: field 'policy': action of '{agent}': expected {wanted}, found "
                    f"{action!r:.80}"
                )
        return found

    def _takes(self, action: Any, size: int, start: int) -> bool:
        try:
            numbers = np.asarray(action, np.float64).reshape(-1)
        except (TypeError, ValueError):
            return False
        if not self.discrete:  # those of agents with fewer are padded
            return len(numbers) >= size and bool(np.isfinite(numbers[:size]).all())
        return len(numbers) == 1 and numbers[0] in range(start, start + size)

    def ours(self, given: Sequence[Any], there: Any) -> np.ndarray:
        """The actions of a dataset: [N] from 0 on, or [N, A] scaled; 0 of agents that have left."""
        here = [agent in there for agent in self.agents]
        if self.discrete:
            numbers = [
                int(np.asarray(action).item()) - start if on else 0
                for action, start, on in zip(given, self.starts, here, strict=True)
            ]
            return np.array(numbers, np.int32)
        rows = np.zeros((len(self.agents), self.size), np.float32)
        for row, action, size, on in zip(rows, given, self.sizes, here, strict=True):
            row[:size] = np.asarray(action, np.float32).reshape(-1)[:size] if on else 0
        scaled = rows if self.scale is None else to_unit(rows, self.scale, np)
        return np.where(np.array(here)[:, None], scaled, 0).astype(np.float32)

    def native(self, agent: int, action: Any) -> Any:
        """An agent's action as its space has it."""
        if self.discrete:
            return int(np.asarray(action).item())
        array = np.asarray(action, np.float32).reshape(-1)[: self.sizes[agent]]
        return array.reshape(self.spaces[agent].shape)

    def random(self, avail: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        """Uniformly random actions in the environment's own form, by agent."""
        if self.discrete:
            drawn: list[Any] = [
                int(rng.choice(np.flatnonzero(row))) + start
                for row, start in zip(avail, self.starts, strict=True)
            ]
        else:
            drawn = [rng.uniform(space.low, space.high) for space in self.spaces]
        return dict(zip(self.agents, drawn, strict=True))


def _without_mask(value: Any) -> Any:
    """An observation, or its space, without PettingZoo's mask of actions beside it."""
    inner = getattr(value, "spaces", value)
    if isinstance(inner, Mapping) and "action_mask" in inner and "observation" in inner:
        return inner["observation"]
    return value


def _mask(told: Any) -> np.ndarray | None:
    if isinstance(told, Mapping) and told.get("action_mask") is not None:
        return np.asarray(told["action_mask"], np.float32).reshape(-1)
    return None


def _numbers(value: Any, space: Any) -> np.ndarray:
    """An observation as numbers [K]; a choice is one-hot, parts are in the order of their names."""
    spaces = getattr(space, "spaces", None)
    if isinstance(value, Mapping):
        named = spaces if isinstance(spaces, Mapping) else {}
        return np.concatenate([_numbers(value[k], named.get(k)) for k in sorted(value)])
    if isinstance(value, tuple):
        inner = spaces if isinstance(spaces, tuple | list) else (None,) * len(value)
        return np.concatenate([_numbers(*pair) for pair in zip(value, inner, strict=True)])
    if np.ndim(value) == 0 and hasattr(space, "n"):
        return np.eye(int(space.n), dtype=np.float32)[int(value) - int(getattr(space, "start", 0))]
    return np.asarray(value, np.float32).reshape(-1)
