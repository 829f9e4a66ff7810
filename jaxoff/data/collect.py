"""Datasets from somebody's own environment: of JaxMARL, PettingZoo's parallel interface, Gymnasium,
or one of ours. None of these packages is imported here.

    jaxoff.collect(env, policy, episodes=1000, out="data/mine")

Environments that are written in JAX play in jit; others step on the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.config import check_number
from jaxoff.data import disk, recipes
from jaxoff.data.team import OneAgent, Team, to_unit
from jaxoff.envs.from_jaxmarl import FromJaxMARL
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
        return actions if scale is None else to_unit(actions, scale, jnp)

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Any]:
        return memory, _Chosen(ours, seen)

    return Policy(lambda shape: (), distribution)


def _padded(action: Any, size: int) -> Array:
    """A choice as it is; reals padded with zeros at the end."""
    action = jnp.asarray(action)
    return action if action.ndim == 0 else jnp.pad(action, (0, size - action.shape[0]))


# ---------------------------------------------------------------------------------------- the host


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
    parallel = env if hasattr(env, "possible_agents") else OneAgent(env)
    team = _adapted(lambda: Team(parallel, name, limit))
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


def _joined(rows: list[dict[str, Any]], team: Team) -> tuple[Episodes, EnvSpec]:
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


def _play(env: Any, team: Team, policy: Any, rng: np.random.Generator) -> list[dict[str, Any]]:
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
