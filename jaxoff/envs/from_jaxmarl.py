"""JaxMARL's environments as ours. This module does not import JaxMARL.

env = FromJaxMARL(jaxmarl.make("MPE_simple_spread_v3"))
state, seen = env.reset(key)
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.base import first_actions
from jaxoff.types import Array, EnvSpec, Key, State, TimeStep


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Import JaxMARL without its printed notes about absent sub-packages and the warning that Brax
    is deprecated.

    JaxMARL's MABrax module points sys.stdout elsewhere and then back at the original stream, which
    would undo a redirection that was in place.
    """
    with (
        mock.patch("builtins.print"),
        contextlib.redirect_stdout(sys.stdout),
        contextlib.redirect_stderr(sys.stderr),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


class Played(NamedTuple):
    """JaxMARL's state, and the number of steps made in this episode."""

    inner: Any
    time: Array


class FromJaxMARL:
    """A JaxMARL environment as an `Env`: a team of agents, all with discrete actions or all with
    real ones.

    Its `step_env` is used, never `step`, whose auto-reset loses the last observation (MABrax needs
    auto_reset=False, since it resets itself in `step_env` too). Observations and actions are padded
    to the largest size, with the true sizes in the spec. Real actions keep their bounds where these
    are -b and b with one b for all agents; otherwise they are scaled to [-1, 1]. The global state
    is `world_state` of the observations, else the result of `get_world_state`, else the
    concatenation of all observations. The team's reward is the mean of the agents' rewards.

    name: None takes the environment's own name. horizon: the time limit of an episode in steps;
    None takes the environment's `max_steps` or `episode_length`. JaxMARL's particle worlds and SMAX
    count from 0 and end one step later than that. individual: agents have rewards of their own,
    which learners are given beside the team's; False where all agents are paid the same reward,
    which is then the team's. terminated(JaxMARL's state) -> [] bool: whether an episode that ended
    in this state was terminated by the rules and not by the time limit. None: `info` decides
    (`terminated`, or Brax's `truncation`); where it has neither, an end before the horizon is a
    termination, and an end at the horizon a truncation.

    Raises ValueError for other action spaces, for masks of other sizes, and where no horizon is
    known.
    """

    def __init__(
        self,
        env: Any,
        name: str | None = None,
        horizon: int | None = None,
        individual: bool = True,
        terminated: Callable[[Any], Array] | None = None,
    ) -> None:
        self.env, self.individual, self.terminated = env, individual, terminated
        obs, state = jax.eval_shape(env.reset, jax.random.key(0))
        self.agents = tuple(env.agents)
        self.obs_sizes = tuple(_size(obs[agent]) for agent in self.agents)
        spaces = [env.action_space(agent) for agent in self.agents]
        name = env.name if name is None else name
        discrete = is_discrete(name, dict(zip(self.agents, spaces, strict=True)))
        self.action_sizes = tuple(
            int(space.n) if discrete else int(space.shape[0]) for space in spaces
        )
        self.scale, bound = (None, 1.0) if discrete else scale_of(name, spaces)
        self.masks = _masks(env, state) if discrete else None
        if self.masks is not None:
            _check_masks(name, jax.eval_shape(self.masks, state), self.agents, self.action_sizes)
        self.spec = EnvSpec(
            name=name,
            num_agents=len(self.agents),
            obs_size=max(self.obs_sizes),
            state_size=jax.eval_shape(self._global_state, obs, state).shape[0],
            action_size=max(self.action_sizes),
            discrete=discrete,
            horizon=_horizon(env, name) if horizon is None else horizon,
            obs_sizes=self.obs_sizes if len(set(self.obs_sizes)) > 1 else (),
            action_sizes=self.action_sizes if len(set(self.action_sizes)) > 1 else (),
            agent_types=_types(env, list(zip(self.obs_sizes, self.action_sizes, strict=True))),
            action_bound=bound,
        )

    def reset(self, key: Key) -> tuple[Played, TimeStep]:
        """Start an episode: (state, first timestep)."""
        obs, inner = self.env.reset(key)
        no, own = jnp.zeros((), bool), jnp.zeros(self.spec.num_agents)
        state = Played(inner, jnp.zeros((), jnp.int32))
        return state, self._timestep(obs, inner, own, no, no, first_actions(self.spec))

    def step(self, key: Key, state: Played, actions: Array) -> tuple[Played, TimeStep]:
        """One joint step with actions [N] int or [N, A] float: (state, timestep)."""
        by_agent = {agent: self._given(i, actions[i]) for i, agent in enumerate(self.agents)}
        obs, inner, reward, done, info = self.env.step_env(key, state.inner, by_agent)
        own = jnp.stack([jnp.asarray(reward[a], jnp.float32).reshape(()) for a in self.agents])
        time = state.time + 1
        ends = self._ends(inner, jnp.asarray(done["__all__"], bool), info, time)
        return Played(inner, time), self._timestep(obs, inner, own, *ends, actions)

    def _given(self, agent: int, action: Array) -> Array:
        """An agent's action in the form that JaxMARL's environment takes."""
        if self.spec.discrete:
            return action
        action = action[: self.action_sizes[agent]]
        if self.scale is None:
            return action
        low, high = self.scale[agent]
        return low + (action + 1.0) / 2.0 * (high - low)

    def _ends(self, inner: Any, done: Array, info: Any, time: Array) -> tuple[Array, Array]:
        """(terminated, truncated)."""
        clock = time >= self.spec.horizon
        if self.terminated is not None:
            by_rule = done & self.terminated(inner)
        elif "terminated" in info:
            by_rule = info["terminated"]
        elif "truncation" in info:
            by_rule = done & (info["truncation"] == 0)
        else:
            by_rule = done & ~clock
        return by_rule, (done | clock) & ~by_rule

    def _global_state(self, obs: Any, inner: Any) -> Array:
        if "world_state" in obs:
            return _flat(obs["world_state"])
        if hasattr(self.env, "get_world_state"):
            return _flat(self.env.get_world_state(inner))
        return jnp.concatenate([_flat(obs[agent]) for agent in self.agents])

    def _available(self, inner: Any) -> Array:
        size = self.spec.action_size
        if not self.spec.discrete:
            return jnp.ones((self.spec.num_agents, size))
        if self.masks is None:
            masks = {a: jnp.ones(n) for a, n in zip(self.agents, self.action_sizes, strict=True)}
        else:
            masks = self.masks(inner)
        return jnp.stack([_padded(masks[a].astype(jnp.float32), size) for a in self.agents])

    def _timestep(
        self, obs: Any, inner: Any, own: Array, terminated: Array, truncated: Array, last: Array
    ) -> TimeStep:
        # Dictionaries come out of jit sorted by name, so agents are always asked for by name, in
        # order.
        return TimeStep(
            obs=jnp.stack([_padded(_flat(obs[a]), self.spec.obs_size) for a in self.agents]),
            state=self._global_state(obs, inner),
            avail=self._available(inner),
            reward=own.mean() if self.individual else own[0],
            terminated=terminated,
            truncated=truncated,
            last_actions=last,
            agent_reward=own if self.individual else None,
        )


def _flat(x: Any) -> Array:
    """All numbers of an array or of a tree of arrays, [K] float32."""
    return jnp.concatenate([jnp.asarray(leaf, jnp.float32).ravel() for leaf in jax.tree.leaves(x)])


def _size(shapes: Any) -> int:
    """The total number of elements of arrays of these shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def _padded(x: Array, size: int) -> Array:
    """[K] padded with zeros at the end to [size]."""
    return jnp.pad(x, (0, size - x.shape[0]))


def is_discrete(name: str, spaces: dict[str, Any]) -> bool:
    """Whether all actions are discrete, judged by the attributes of a space and not by its class,
    since several packages define such classes.
    """
    kinds = {}
    for agent, space in spaces.items():
        kinds[agent] = "discrete" if hasattr(space, "n") else "real"
        if kinds[agent] == "real" and not (hasattr(space, "low") and len(space.shape) == 1):
            raise ValueError(
                f"{name}: action space of '{agent}': expected Discrete, or Box of one axis; found "
                f"{type(space).__name__} of shape {tuple(space.shape)}"
            )
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"{name}: action spaces: expected all Discrete or all Box, found "
            + ", ".join(f"{agent}: {kind}" for agent, kind in kinds.items())
        )
    return "discrete" in kinds.values()


def scale_of(
    name: str, spaces: list[Any]
) -> tuple[list[tuple[np.ndarray, np.ndarray]] | None, float]:
    """(bounds (low, high) [A_i] of each agent, to which actions in [-1, 1] are scaled, or None
    where actions are passed on unscaled; the action bound of the spec).
    """
    bounds = [
        (np.broadcast_to(np.float32(s.low), s.shape), np.broadcast_to(np.float32(s.high), s.shape))
        for s in spaces
    ]
    edges = np.concatenate([np.concatenate(pair) for pair in bounds])
    if not np.isfinite(edges).all():
        raise ValueError(
            f"{name}: action spaces: expected finite bounds, found {edges.min()} to {edges.max()}"
        )
    bound = bounds[0][1][0]
    if all((low == -bound).all() and (high == bound).all() for low, high in bounds):
        return None, float(bound)
    return bounds, 1.0


def _masks(env: Any, state: Any) -> Callable[[State], dict[str, Array]] | None:
    """JaxMARL's masks by agent, or None where the environment has none."""
    try:
        jax.eval_shape(env.get_avail_actions, state)
    except NotImplementedError:
        return getattr(env, "get_legal_moves", None)
    return env.get_avail_actions


def _check_masks(name: str, masks: Any, agents: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    """Raise ValueError unless the masks (shapes by agent) have an entry for each action."""
    for agent, size in zip(agents, sizes, strict=True):
        if masks[agent].shape != (size,):
            raise ValueError(
                f"{name}: available actions of '{agent}': expected shape {(size,)}, found "
                f"{masks[agent].shape}"
            )


def _horizon(env: Any, name: str) -> int:
    """The environment's own time limit in steps. Raises ValueError if it states none."""
    for field in ("max_steps", "episode_length"):
        if hasattr(env, field):
            return int(getattr(env, field))
    raise ValueError(
        f"{name}: field 'horizon': expected a number of steps, since the environment has no "
        "'max_steps'; found None"
    )


def _types(env: Any, sizes: list[tuple[int, int]]) -> tuple[int, ...]:
    """The type of each agent: agents of one class (where the environment has classes) and of equal
    sizes are of one type; () where all agents are.
    """
    try:
        classes = env.agent_classes
        classes = classes() if callable(classes) else classes  # a method in the particle worlds
    except NotImplementedError:
        classes = {}
    class_of = {agent: name for name, agents in classes.items() for agent in agents}
    kinds = [(class_of.get(a), *size) for a, size in zip(env.agents, sizes, strict=True)]
    order = list(dict.fromkeys(kinds))
    return tuple(order.index(kind) for kind in kinds) if len(order) > 1 else ()
