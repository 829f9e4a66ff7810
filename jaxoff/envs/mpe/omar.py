"""OMAR's particle tasks (Pan et al., 2022): spread, tag and world, exact to the released code.

That code differs from other copies of these environments: the acceleration is multiplied in twice
(force 9 on a predator, 16 on the prey), spread pays for being near (1 / distance, at most 10), the
rewards of tag and world contain the distances to the prey, and the ranges of start positions
differ. Rewards and observations are taken after the move, episodes have 25 steps, and the time
limit truncates and never terminates. Actions are forces in [-1, 1] per axis, clipped in the step.

Global state: the trained agents' observations, one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.base import Game, GameEnv, ScenePicture
from jaxoff.envs.mpe import prey as preys
from jaxoff.envs.mpe.physics import (
    HORIZON,
    Bodies,
    ParticleState,
    advance,
    collisions,
    distances,
    is_over,
    others,
    overlaps,
)
from jaxoff.types import Array, EnvSpec, Key, ReturnScale

_SCALE = "OMAR's published reference returns: uniform actions; trained experts"
_SCALE_PREY = _SCALE + "; both measured against the authors' own prey network"
_CHASE_SCALES = {
    "tag": ReturnScale(-4.1, 185.6, _SCALE_PREY),
    "world": ReturnScale(-6.8, 79.5, _SCALE_PREY),
}


# ------------------------------------------------------------------------------------------- spread


class Spread(Game):
    """N agents cover N landmarks. See `make_spread`."""

    def __init__(self, count: int, dim: int, cooperative: bool) -> None:
        self.count, self.dim, self.cooperative = count, dim, cooperative
        self.bodies = Bodies(
            size=np.repeat([0.15, 0.05], count),
            collide=np.repeat([True, False], count),
            gain=np.full(count, 5.0),
            max_speed=np.full(count, np.inf),
        )

    def start(self, key: Key) -> ParticleState:
        """All positions uniform in +-1 for up to three agents, in +-2 for more; at rest."""
        bound = 1.0 if self.count <= 3 else 2.0
        positions = jax.random.uniform(key, (2 * self.count, self.dim), minval=-bound, maxval=bound)
        return ParticleState(positions, jnp.zeros((self.count, self.dim)), jnp.zeros((), jnp.int32))

    def rewards(self, state: ParticleState) -> Array:
        """Reward of each agent, [N]."""
        agents, landmarks = state.positions[: self.count], state.positions[self.count :]
        near = jnp.minimum(1.0 / distances(agents, landmarks), 10.0)
        if not self.cooperative:
            return jnp.diagonal(near)
        return near.max(0).sum() - 5.0 * collisions(agents, self.bodies.size[: self.count])

    def move(
        self, key: Key, state: ParticleState, actions: Array
    ) -> tuple[ParticleState, Array, Array, Array]:
        """One joint step; the reward is per agent, [N]."""
        state = advance(self.bodies, state, actions)
        return state, self.rewards(state), *is_over(state)

    def observe(self, state: ParticleState) -> Array:
        """Own velocity, own position, offsets to landmarks and to the other agents, and zeros for
        the others' messages, which are never sent.
        """
        agents = state.positions[: self.count]
        offsets = state.positions[None] - agents[:, None]
        landmarks = offsets[:, self.count :].reshape(self.count, -1)
        rest = jnp.take_along_axis(offsets, others(self.count)[..., None], 1).reshape(
            self.count, -1
        )
        return jnp.concatenate(
            [state.velocities, agents, landmarks, rest, jnp.zeros_like(rest)], -1
        )

    def global_state(self, state: ParticleState) -> Array:
        """All observations, [N * O]."""
        return self.observe(state).reshape(-1)

    def picture_entities(self, state: np.ndarray) -> np.ndarray:
        """Positions [..., 2N, D] of agents, then landmarks, from global states [..., S]."""
        obs = state.reshape(*state.shape[:-1], self.count, -1)
        agents = obs[..., self.dim : 2 * self.dim]
        offsets = obs[..., 0, 2 * self.dim : (2 + self.count) * self.dim].reshape(agents.shape)
        return np.concatenate([agents, agents[..., :1, :] + offsets], -2)


def make_spread(num_agents: int = 3, dim: int = 2, cooperative: bool = True) -> GameEnv:
    """Cooperative navigation as an `Env`: cover all landmarks, do not collide.

    Reward of agent i: the sum over landmarks of min(1 / distance of the nearest agent, 10), minus 5
    for each agent that it overlaps. TimeStep.agent_reward holds the rewards of the agents; the team
    reward is their mean, and the return of an episode is at most 25 * 10 * N.
    num_agents: 1 to 5. dim: 1 is the line of the paper's motivating example (the authors did not
    release theirs; this is the same task with one coordinate).
    cooperative: False pays agent i min(1 / distance to landmark i, 10) only, without the penalty;
        bodies still push each other.
    Observation (3 * dim * N): velocity, position, offsets to landmarks 0..N-1, offsets to the
    other agents in order, zeros (their messages). The name is mpe/spread, with the suffix -n2 and
    so on for other numbers of agents, then -1d and -own.
    """
    if num_agents not in range(1, 6):
        raise ValueError(f"spread: num_agents: expected 1 to 5, found {num_agents}")
    if dim not in (1, 2):
        raise ValueError(f"spread: dim: expected 1 or 2, found {dim}")
    return _make_spread(num_agents, dim, bool(cooperative))


@functools.cache
def _make_spread(num_agents: int, dim: int, cooperative: bool) -> GameEnv:
    name = (
        "mpe/spread"
        + (f"-n{num_agents}" if num_agents != 3 else "")
        + ("-1d" if dim == 1 else "")
        + ("" if cooperative else "-own")
    )
    scale = ReturnScale(159.8, 516.8, _SCALE) if name == "mpe/spread" else None
    size = 3 * dim * num_agents
    spec = EnvSpec(
        name, num_agents, size, num_agents * size, dim, False, HORIZON, return_scale=scale
    )
    game = Spread(num_agents, dim, cooperative)
    kinds = ("agent",) * num_agents + ("landmark" if cooperative else "goal",) * num_agents
    plane = ((0, 0), (0, 0), (0, 2 - dim))  # a line is drawn at y = 0
    picture = ScenePicture(
        None, game.bodies.size, kinds, lambda state: np.pad(game.picture_entities(state), plane)
    )
    return GameEnv(game, spec, picture=picture, individual=True)


# ------------------------------------------------------------------------------------- tag and
# world

_PREDATORS, _PREY, _MOVERS = slice(0, 3), 3, 4


class Chase:
    """Bodies and rewards of both sides in the tasks tag and world: three predators (0-2), one prey
    (3), then landmarks.

    The landmarks of the task world are an obstacle, two pieces of food and two forests; its forests
    hide nobody, as in the released code, where every body counts as a leader and leaders see all.
    """

    def __init__(self, name: str) -> None:
        self.world = name == "world"
        landmarks = [0.2, 0.03, 0.03, 0.3, 0.3] if self.world else [0.2, 0.2]
        solid = [True, False, False, False, False] if self.world else [True, True]
        self.bodies = Bodies(
            size=np.array([0.075, 0.075, 0.075, 0.045 if self.world else 0.05, *landmarks]),
            collide=np.array([True] * _MOVERS + solid),
            gain=np.array([9.0, 9.0, 9.0, 16.0]),  # acceleration 3 and 4, multiplied in twice
            max_speed=np.array([1.0, 1.0, 1.0, 1.3]),
        )
        # reward of the predators, and cost of the prey, for each contact
        self.catch = 5.0 if self.world else 10.0
        self.prey_obs_size = 22 if self.world else 14

    def start(self, key: Key) -> ParticleState:
        """Predators and prey uniform in +-1, landmarks in +-0.9, all at rest."""
        bound = np.repeat([1.0, 0.9], [_MOVERS, len(self.bodies.size) - _MOVERS])[:, None].astype(
            np.float32
        )
        positions = jax.random.uniform(key, (len(bound), 2), minval=-1.0, maxval=1.0) * bound
        return ParticleState(positions, jnp.zeros((_MOVERS, 2)), jnp.zeros((), jnp.int32))

    def touches(self, state: ParticleState, bodies: slice) -> Array:
        """Whether each predator and the prey overlap each of K given bodies, [4, K] bool."""
        return overlaps(
            state.positions[:_MOVERS],
            self.bodies.size[:_MOVERS],
            state.positions[bodies],
            self.bodies.size[bodies],
        )

    def gap(self, state: ParticleState) -> Array:
        """Distances of the predators to the prey, [3]."""
        return distances(state.positions[_PREDATORS], state.positions[_PREY, None])[:, 0]

    def catches(self, state: ParticleState) -> Array:
        """Number of predators in contact with the prey."""
        return self.touches(state, _PREDATORS)[_PREY].sum()

    def team_reward(self, state: ParticleState) -> Array:
        """The predators' common reward."""
        return self.catch * self.catches(state) - 0.1 * self.gap(state).sum()

    def prey_reward(self, state: ParticleState) -> Array:
        """The prey's reward for being far from predators, within +-1 on both axes and, in the task
        world, near food.
        """
        x = jnp.abs(state.positions[_PREY])
        bound = jnp.where(
            x < 0.9,
            0.0,
            jnp.where(x < 1.0, 10.0 * (x - 0.9), jnp.minimum(jnp.exp(2.0 * x - 2.0), 10.0)),
        ).sum()
        reward = 0.1 * self.gap(state).sum() - self.catch * self.catches(state)
        if not self.world:
            return reward - bound
        food = slice(5, 7)
        nearest = distances(state.positions[_PREY, None], state.positions[food]).min()
        # The sign of the last term looks wrong; it is that of the released code.
        return reward - 2.0 * bound + 2.0 * self.touches(state, food)[_PREY].sum() + 0.05 * nearest

    def observe_all(self, state: ParticleState) -> tuple[Array, Array]:
        """(predators' observations [3, 16 or 24], the prey's [14 or 22])."""
        movers = state.positions[:_MOVERS]
        offsets = state.positions[None] - movers[:, None]
        landmarks = offsets[:, _MOVERS:].reshape(_MOVERS, -1)
        rest = jnp.take_along_axis(offsets, others(_MOVERS)[..., None], 1).reshape(_MOVERS, -1)
        seen = jnp.concatenate([state.velocities, movers, landmarks, rest], -1)
        prey_velocity = jnp.broadcast_to(state.velocities[_PREY], (3, 2))
        flags = (
            jnp.where(self.touches(state, slice(7, 9)), 1.0, -1.0)
            if self.world
            else jnp.zeros((_MOVERS, 0))
        )
        predators = jnp.concatenate([seen[_PREDATORS], prey_velocity, flags[_PREDATORS]], -1)
        return predators, jnp.concatenate([seen[_PREY], flags[_PREY]])


class Predators(Game):
    """A `Chase` whose agents are the predators; prey(key, prey's observation) -> prey's action."""

    def __init__(self, chase: Chase, prey: preys.Act) -> None:
        self.chase, self.prey = chase, prey

    def start(self, key: Key) -> ParticleState:
        """A random start."""
        return self.chase.start(key)

    def move(
        self, key: Key, state: ParticleState, actions: Array
    ) -> tuple[ParticleState, Array, Array, Array]:
        """One joint step of the predators and the prey, who act at once."""
        flight = self.prey(key, self.chase.observe_all(state)[1])
        state = advance(self.chase.bodies, state, jnp.concatenate([actions, flight[None]]))
        return state, self.chase.team_reward(state), *is_over(state)

    def observe(self, state: ParticleState) -> Array:
        """The predators' observations, [3, 16 or 24]."""
        return self.chase.observe_all(state)[0]

    def global_state(self, state: ParticleState) -> Array:
        """All observations, [3 * O]."""
        return self.observe(state).reshape(-1)

    def picture_entities(self, state: np.ndarray) -> np.ndarray:
        """Positions [..., K, 2] of predators, prey, then landmarks, from global states [..., S]."""
        obs = state.reshape(*state.shape[:-1], 3, -1)
        landmarks = 2 * (len(self.chase.bodies.size) - _MOVERS)
        offsets = obs[..., 0, 4 : 4 + landmarks + 6].reshape(*state.shape[:-1], -1, 2)
        fixed, prey = offsets[..., : landmarks // 2, :], offsets[..., -1:, :]
        own = obs[..., 2:4]
        return np.concatenate([own, own[..., :1, :] + prey, own[..., :1, :] + fixed], -2)


class Prey(Game):
    """A `Chase` whose only agent is the prey; predators(observations [3, O]) -> actions [3, 2]."""

    def __init__(self, chase: Chase, predators: Callable[[Array], Array]) -> None:
        self.chase, self.predators = chase, predators

    def start(self, key: Key) -> ParticleState:
        """A random start."""
        return self.chase.start(key)

    def move(
        self, key: Key, state: ParticleState, actions: Array
    ) -> tuple[ParticleState, Array, Array, Array]:
        """One joint step of the predators and the prey, who act at once."""
        hunt = self.predators(self.chase.observe_all(state)[0])
        state = advance(self.chase.bodies, state, jnp.concatenate([hunt, actions]))
        return state, self.chase.prey_reward(state), *is_over(state)

    def observe(self, state: ParticleState) -> Array:
        """The prey's observation, [1, 14 or 22]."""
        return self.chase.observe_all(state)[1][None]

    def global_state(self, state: ParticleState) -> Array:
        """The prey's observation, [14 or 22]."""
        return self.chase.observe_all(state)[1]


def make_tag(prey: str = "learned") -> GameEnv:
    """Predator-prey as an `Env`: three predators, a faster prey, two obstacles.

    Team reward: 10 for each predator in contact with the prey, minus 0.1 x the sum of the
    predators' distances to the prey.
    Observation (16): velocity, position, offsets to the obstacles, to the other predators, to the
    prey, velocity of the prey.
    prey: "learned" (the network that is shipped), "flee" (a rule, see `jaxoff.envs.mpe.prey.flee`),
    "random" (uniform), "still", or the path of a prey network, .npz in our format or .pt as
    published with OMAR. The file is read once: another network needs another path.
    Raises FileNotFoundError, InvalidPrey, or ValueError for another word.
    """
    return _make_chase("tag", str(prey))


def make_world(prey: str = "learned") -> GameEnv:
    """World as an `Env`: three predators, a faster prey, one obstacle, two pieces of food, two
    forests.

    Three predators and one prey, as in the released code; the paper's text has another number. Team
    reward: 5 for each predator in contact with the prey, minus 0.1 x the sum of the predators'
    distances to the prey.
    Observation (24): velocity, position, offsets to obstacle, food 0 and 1, forest 0 and 1, to the
    other predators, to the prey, velocity of the prey, and for each forest 1 if the observer is in
    it, else -1. prey: as for `make_tag`.
    """
    return _make_chase("world", str(prey))


def make_prey_env(world: str, predators: Callable[[Array], Array]) -> GameEnv:
    """Tag or world with the prey as the single agent, to train a prey by the released code's prey
    reward.

    world: "tag" or "world". predators(observations [3, 16 or 24]) -> actions [3, 2], jittable.
    Observation (14 or 22): velocity, position, offsets to landmarks and to the predators; in world
    also the two forest flags. Each call makes a new object, compared by identity.
    """
    if world not in ("tag", "world"):
        raise ValueError(f"prey environment: world: expected tag or world, found {world!r}")
    chase = Chase(world)
    spec = EnvSpec(
        f"mpe/{world}-prey", 1, chase.prey_obs_size, chase.prey_obs_size, 2, False, HORIZON
    )
    return GameEnv(Prey(chase, predators), spec)


@functools.cache
def _make_chase(world: str, prey: str) -> GameEnv:
    chase = Chase(world)
    size = chase.prey_obs_size + 2
    spec = EnvSpec(
        f"mpe/{world}", 3, size, 3 * size, 2, False, HORIZON, return_scale=_CHASE_SCALES[world]
    )
    game = Predators(chase, preys.make_prey(prey, world, chase.prey_obs_size))
    landmarks = (
        ("obstacle", "food", "food", "forest", "forest")
        if chase.world
        else ("obstacle", "obstacle")
    )
    picture = ScenePicture(
        None,
        chase.bodies.size,
        ("agent", "agent", "agent", "prey", *landmarks),
        game.picture_entities,
    )
    return GameEnv(game, spec, picture=picture)
