"""Datasets from somebody's own environment: of JaxMARL, PettingZoo's parallel interface, Gymnasium,
or one of ours. None of these packages is imported here.

    jaxoff.collect(env, policy, episodes=1000, out="data/mine")

Environments that are written in JAX play in jit; others step on the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.config import check_number
from jaxoff.data import disk, recipes
from jaxoff.envs.from_jaxmarl import FromJaxMARL, is_discrete, scale_of
from jaxoff.errors import InvalidSetting
from jaxoff.types import Array, Carry, Env, EnvSpec, Episodes, Key, Policy, TimeStep

Act = Callable[..., Any]
_NO_HORIZON = (
    "field 'horizon': expected the largest number of steps of an episode, since the environment "
    "tells none; found None"
)


def collect(
    env: Any,
    policy: Act | Policy | None = None,
    episodes: int = 100,
    *,
    seed: int = 0,
    horizon: int | None = None,
    name: str = "",
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Episodes:
    """Play a policy in an environment and return the episodes; with `out`, save them as a dataset.

    policy(obs, avail, random) -> actions. obs [N, O] and avail [N, A] are padded to the largest
    agent. actions are those of the environment itself: [N] or [N, A], or a dictionary by agent;
    for Gymnasium, those of its one agent. random is a NumPy Generator; for an environment in JAX it
    is a key, and the policy is traced. None plays at random. For environments in JAX a
    `types.Policy` will do too, which has a memory and acts by samples.

    In the dataset, discrete actions count from 0, and real ones are scaled to [-1, 1] unless their
    bounds are -b and b of one number b. Agents that have left are seen as zeros, and have one
    available action, 0. horizon: the largest number of steps of an episode, by default what the
    environment tells. name: of the environment, in the dataset's metadata; one that is registered
    evaluates policies that are trained on the dataset. Raises InvalidSetting.
    """
    check_number("seed", seed)
    check_number("episodes", episodes)
    if out is not None:
        disk.check_target(out, overwrite)
    if isinstance(getattr(env, "spec", None), EnvSpec) or hasattr(env, "step_env"):
        found, spec = _in_jit(env, policy, episodes, seed, horizon, name)
    else:
        found, spec = _on_host(env, policy, episodes, seed, horizon, name)
    if out is not None:
        made = {"command": "collect", "seed": seed, "episodes": episodes}
        disk.save(out, found, spec, {"made_by": made, "seed": seed}, overwrite=overwrite)
    return found


# ------------------------------------------------------------------------------------------ in jit


class _Chosen(NamedTuple):
    """The actions of a function, in the form of a distribution that is sampled."""

    act: Act
    seen: TimeStep

    def sample(self, seed: Key) -> Array:
        """Actions [N] or [N, A] of one episode."""
        return self.act(self.seen.obs, self.seen.avail, seed)


def _in_jit(
    env: Any, policy: Any, episodes: int, seed: int, horizon: int | None, name: str
) -> tuple[Episodes, EnvSpec]:
    """Episodes of an environment that is written in JAX, and its specification."""
    if hasattr(env, "step_env"):
        env = _adapted(lambda: FromJaxMARL(env, name or None, horizon))
    elif horizon is not None and horizon != env.spec.horizon:
        raise InvalidSetting(
            f"field 'horizon': expected {env.spec.horizon}, the environment's own, found {horizon}"
        )
    if policy is None:
        policy = recipes.random_policy(env.spec)
    elif not isinstance(policy, Policy):
        policy = _memoryless(env, policy)
    played = recipes.record(env, policy, episodes, jax.random.key(seed))
    return played, dataclasses.replace(env.spec, name=name or env.spec.name)


def _adapted(make: Callable[[], Any]) -> Any:
    """What a function makes; a ValueError of the adapter is one that the user can mend."""
    try:
        return make()
    except ValueError as error:
        raise InvalidSetting(str(error)) from error


def _memoryless(env: Env, act: Act) -> Policy:
    """A function of observations, masks and a key as a policy of an environment in JAX."""
    scale, agents = getattr(env, "scale", None), getattr(env, "agents", ())

    def ours(obs: Array, avail: Array, key: Key) -> Array:
        actions = act(obs, avail, key)
        if isinstance(actions, Mapping):
            actions = jnp.stack([_padded(actions[a], env.spec.action_size) for a in agents])
        actions = jnp.asarray(actions).reshape(env.spec.action_shape)
        return actions if scale is None else _to_unit(actions, scale, jnp)

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Any]:
        return memory, _Chosen(ours, seen)

    return Policy(lambda shape: (), distribution)


def _padded(action: Any, size: int) -> Array:
    """A choice as it is; reals padded with zeros at the end."""
    action = jnp.asarray(action)
    return action if action.ndim == 0 else jnp.pad(action, (0, size - action.shape[0]))


def _to_unit(actions: Any, scale: Sequence[tuple[np.ndarray, np.ndarray]], lib: Any) -> Any:
    """Actions [N, A] between bounds (low, high) of each agent, scaled to [-1, 1]; padding is 0."""
    rows = []
    for action, (low, high) in zip(actions, scale, strict=True):
        unit = 2 * (action[: len(low)] - low) / (high - low) - 1
        rows.append(lib.pad(unit, (0, actions.shape[1] - len(low))))
    return lib.stack(rows)


# ---------------------------------------------------------------------------------------- the host


class _OneAgent:
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


class _Team:
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
        scaled = rows if self.scale is None else _to_unit(rows, self.scale, np)
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


def _on_host(
    env: Any, policy: Any, episodes: int, seed: int, horizon: int | None, name: str
) -> tuple[Episodes, EnvSpec]:
    """Episodes of an environment that steps on the host, and its specification."""
    name = name or _name_of(env)
    if isinstance(policy, Policy):
        raise InvalidSetting(
            f"{name}: field 'policy': expected a function of (obs, avail, random) for an "
            "environment that is not written in JAX, found a jaxoff Policy"
        )
    if hasattr(env, "num_envs") or not (hasattr(env, "reset") and hasattr(env, "step")):
        raise InvalidSetting(
            f"field 'env': expected one environment of JaxMARL, PettingZoo (parallel), Gymnasium "
            f"or jaxoff, found {type(env).__name__}"
        )
    if hasattr(env, "agent_iter"):
        raise InvalidSetting(
            f"{name}: field 'env': expected PettingZoo's parallel interface, found agents in turn; "
            "pettingzoo.utils.aec_to_parallel(env) has it"
        )
    limit = _limit(env) if horizon is None else horizon
    if not limit:
        raise InvalidSetting(f"{name}: {_NO_HORIZON}")
    check_number("horizon", limit)
    parallel = env if hasattr(env, "possible_agents") else _OneAgent(env)
    team = _adapted(lambda: _Team(parallel, name, limit))
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(episodes):
        rows += _play(parallel, team, policy, rng)
    return _joined(rows, team)


def _name_of(env: Any) -> str:
    told = getattr(getattr(env, "spec", None), "id", None)
    metadata = getattr(env, "metadata", None) or {}
    return str(told or metadata.get("name") or type(getattr(env, "unwrapped", env)).__name__)


def _limit(env: Any) -> int | None:
    """The time limit that an environment tells; None if it tells none."""
    told = [getattr(getattr(env, "spec", None), "max_episode_steps", None)]
    for each in (env, getattr(env, "unwrapped", None)):
        told += [getattr(each, name, None) for name in ("max_cycles", "max_steps")]
    return next((int(x) for x in told if isinstance(x, int | np.integer) and x > 0), None)


def _joined(rows: list[dict[str, Any]], team: _Team) -> tuple[Episodes, EnvSpec]:
    """The episodes of all steps, and the specification of their environment."""
    arrays: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if not team.discrete:
        del arrays["avail"], arrays["next_avail"]
    if not arrays["state"].shape[1]:
        del arrays["state"], arrays["next_state"]  # the environment has none
    found = Episodes.from_steps(**arrays, num_actions=team.size if team.discrete else None)
    kinds = list(zip(team.wide, team.sizes, strict=True))
    order = list(dict.fromkeys(kinds))
    return found, EnvSpec(
        name=team.name,
        num_agents=len(team.agents),
        obs_size=max(team.wide),
        state_size=found.state.shape[2],
        action_size=team.size,
        discrete=team.discrete,
        horizon=team.horizon,
        obs_sizes=tuple(team.wide) if len(set(team.wide)) > 1 else (),
        action_sizes=tuple(team.sizes) if len(set(team.sizes)) > 1 else (),
        agent_types=tuple(map(order.index, kinds)) if len(order) > 1 else (),
        action_bound=team.bound,
    )


def _state(env: Any) -> np.ndarray:
    """The global state of a PettingZoo environment; empty where it has none."""
    try:
        return np.asarray(env.state(), np.float32).reshape(-1)
    except (AttributeError, NotImplementedError):
        return np.zeros(0, np.float32)


def _play(env: Any, team: _Team, policy: Any, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The steps of an episode, which is played to its end or to the time limit."""
    seen, infos = env.reset(seed=int(rng.integers(2**31)))
    if not team.wide:
        team.measure(seen)
    there, over = set(env.agents), dict.fromkeys(team.agents, (False, False))
    obs, avail, state = team.obs(seen), team.masks(seen, infos, there), _state(env)
    rows = []
    for step in range(team.horizon):
        drawn = team.random(avail, rng) if policy is None else policy(obs, avail, rng)
        given = team.given(drawn, there)
        taken = {a: team.native(i, given[i]) for i, a in enumerate(team.agents) if a in there}
        actions = team.ours(given, there)
        seen, reward, terminal, cut, infos = env.step(taken)
        for agent in there:
            over[agent] = bool(terminal.get(agent, False)), bool(cut.get(agent, False))
        there = {agent for agent in there if not any(over[agent])} & set(env.agents)
        after = team.obs(seen), team.masks(seen, infos, there or taken), _state(env)
        by_rule = not there and all(flags[0] for flags in over.values())
        rows.append(
            {
                "obs": obs,
                "next_obs": after[0],
                "actions": actions,
                "avail": avail,
                "next_avail": after[1],
                "state": state,
                "next_state": after[2],
                "reward": np.array([float(reward.get(a, 0.0)) for a in team.agents], np.float32),
                "terminated": by_rule,
                "truncated": not by_rule and (not there or step == team.horizon - 1),
            }
        )
        if not there:
            break
        obs, avail, state = after
    return rows
