"""SIT's partially observable particle maps (Tian et al., 2023): CN_3ls3l, CN_4ls4l, PP_3p1p.

SIT has no public code. The paper names the maps and how many others each agent sees; we chose the
rest: the particle physics of OpenAI's environments (acceleration multiplied in once: 5 for seekers,
3 for predators, 4 for the prey; velocity first, then position), and rewards that fit the published
range of returns.

Global state: positions of the bodies that move (agents, then prey), their velocities, then the
positions of landmarks.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.base import Game, GameEnv, ScenePicture
from jaxoff.envs.mpe.physics import (
    HORIZON,
    Bodies,
    ParticleState,
    advance,
    collisions,
    distances,
    is_over,
    others,
    unit,
)
from jaxoff.types import Array, EnvSpec, Key

MAPS = ("CN_3ls3l", "CN_4ls4l", "PP_3p1p")
VISIBILITIES = ("nearest", "fixed")
FORCES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float32)  # stay, -x, +x, -y, +y
OBS_SIZE = 10


class _Map(Game):
    """Common part of the maps: 5 actions, 25 steps, each agent sees one other agent, a team reward
    summed over agents.
    """

    def __init__(self, count: int, bodies: Bodies, visibility: str) -> None:
        self.count, self.bodies, self.nearest = count, bodies, visibility == "nearest"
        self.ring = (np.arange(count)[:, None] + np.arange(count)) % count  # row i: i, i + 1, ...

    def start(self, key: Key) -> ParticleState:
        """All positions uniform in +-1, at rest."""
        positions = jax.random.uniform(key, (len(self.bodies.size), 2), minval=-1.0, maxval=1.0)
        return ParticleState(
            positions, jnp.zeros((len(self.bodies.gain), 2)), jnp.zeros((), jnp.int32)
        )

    def global_state(self, state: ParticleState) -> Array:
        """Positions and velocities of the bodies that move, positions of landmarks."""
        movers = len(self.bodies.gain)
        return jnp.concatenate(
            [
                state.positions[:movers].ravel(),
                state.velocities.ravel(),
                state.positions[movers:].ravel(),
            ]
        )

    def picture_entities(self, state: np.ndarray) -> np.ndarray:
        """Positions [..., K, 2] of agents, prey, landmarks, from global states [..., S]."""
        points = state.reshape(*state.shape[:-1], -1, 2)
        movers = len(self.bodies.gain)
        return np.concatenate([points[..., :movers, :], points[..., 2 * movers :, :]], -2)

    def see(self, agents: Array, points: Array, candidates: np.ndarray, how_many: int) -> Array:
        """Offsets to the points that each agent sees, [N, 2 * how_many].

        candidates [N, C]: indices into points [P, 2]. An agent sees its first candidates
        (visibility "fixed"), or its nearest ones, nearest first and in order of `candidates` where
        equally near.
        """
        offsets = points[candidates] - agents[:, None]
        if self.nearest:
            order = jnp.argsort(jnp.linalg.norm(offsets, axis=-1), axis=-1, stable=True)
            offsets = jnp.take_along_axis(offsets, order[..., None], 1)
        return offsets[:, :how_many].reshape(self.count, -1)

    def see_agent(self, agents: Array) -> Array:
        """Offset to the one other agent that each sees, [N, 2]."""
        return self.see(agents, agents, others(self.count) if self.nearest else self.ring[:, 1:], 1)

    def collisions(self, state: ParticleState) -> Array:
        """Number of other agents that each agent overlaps, [N]."""
        return collisions(state.positions[: self.count], self.bodies.size[: self.count])


class Navigation(_Map):
    """Cooperative navigation: N agents seek N landmarks and see only some of them."""

    def __init__(self, count: int, visibility: str) -> None:
        bodies = Bodies(
            np.repeat([0.15, 0.05], count),
            np.repeat([True, False], count),
            gain=np.full(count, 5.0),
            max_speed=np.full(count, np.inf),
        )
        super().__init__(count, bodies, visibility)

    def move(
        self, key: Key, state: ParticleState, actions: Array
    ) -> tuple[ParticleState, Array, Array, Array]:
        """One joint step."""
        state = advance(self.bodies, state, jnp.asarray(FORCES)[actions])
        uncovered = (
            distances(state.positions[: self.count], state.positions[self.count :]).min(0).sum()
        )
        return state, -self.count * uncovered - self.collisions(state).sum(), *is_over(state)

    def observe(self, state: ParticleState) -> Array:
        """Velocity, position, offsets to two landmarks and to one other agent, [N, 10]."""
        agents, landmarks = state.positions[: self.count], state.positions[self.count :]
        candidates = np.sort(self.ring) if self.nearest else self.ring
        return jnp.concatenate(
            [
                state.velocities,
                agents,
                self.see(agents, landmarks, candidates, 2),
                self.see_agent(agents),
            ],
            -1,
        )


class Pursuit(_Map):
    """Three predators and a prey that flees by a fixed rule."""

    def __init__(self, visibility: str, prey_speed: float, arena: float) -> None:
        bodies = Bodies(
            size=np.array([0.075, 0.075, 0.075, 0.05]),
            collide=np.ones(4, bool),
            gain=np.array([3.0, 3.0, 3.0, 4.0]),
            max_speed=np.array([1.0, 1.0, 1.0, prey_speed]),
        )
        super().__init__(3, bodies, visibility)
        self.arena = arena

    def move(
        self, key: Key, state: ParticleState, actions: Array
    ) -> tuple[ParticleState, Array, Array, Array]:
        """One joint step of the predators and the prey, who act at once."""
        prey = state.positions[3]
        nearest = state.positions[jnp.argmin(jnp.linalg.norm(state.positions[:3] - prey, axis=-1))]
        state = advance(
            self.bodies,
            state,
            jnp.concatenate([jnp.asarray(FORCES)[actions], unit(prey - nearest)[None]]),
        )
        # The arena's wall stops the prey: its velocity along that axis becomes zero.
        inside = jnp.clip(state.positions[3], -self.arena, self.arena)
        velocity = jnp.where(inside == state.positions[3], state.velocities[3], 0.0)
        state = state._replace(
            positions=state.positions.at[3].set(inside),
            velocities=state.velocities.at[3].set(velocity),
        )
        gap = distances(state.positions[:3], state.positions[3:]).sum()
        return state, -gap - self.collisions(state).sum(), *is_over(state)

    def observe(self, state: ParticleState) -> Array:
        """Velocity, position, offsets to one other predator and to the prey, velocity of the prey,
        [3, 10].
        """
        agents, prey = state.positions[:3], state.positions[3]
        prey_velocity = jnp.broadcast_to(state.velocities[3], (3, 2))
        return jnp.concatenate(
            [state.velocities[:3], agents, self.see_agent(agents), prey - agents, prey_velocity], -1
        )


def make_sit(
    name: str, visibility: str = "nearest", prey_speed: float = 1.3, arena: float = 1.0
) -> GameEnv:
    """One of SIT's particle maps as an `Env`: CN_3ls3l, CN_4ls4l or PP_3p1p.

    Actions: stay, -x, +x, -y, +y. Observation (10), offsets relative to the observer: velocity,
    position, then for CN two landmarks and one other agent, for PP one other predator, the prey,
    and the prey's velocity. visibility: which landmarks and agents are seen, which the paper shows
    in a figure only: "nearest" (nearest first; our default), or "fixed" (landmarks i and i + 1,
    agent i + 1, all modulo N).
    Team reward, summed over agents. CN: minus the distance of each landmark to its nearest agent
    (counted N times, once per agent), minus 1 for each other agent that an agent overlaps. PP:
    minus the distance to the prey, minus 1 for each other predator that a predator overlaps.
    prey_speed, arena: for PP only, the prey's top speed, and the half width of the square that it
    cannot leave.
    Uniform actions have a return of -157 and -242 in CN (the paper's pools: -174 to -37, -289 to
    -41), and of -109 in PP, where the paper has -307 to -55. Without walls a faster prey that flees
    straight gets away, and even then the return of uniform actions is no less than -173, whatever
    the prey's speed, so no setting spans that range. The default arena is the square of the start
    positions: in it a scripted encirclement reaches -54, in an arena of 2 only -82.
    """
    if name not in MAPS:
        raise ValueError(f"sit: map: expected {', '.join(MAPS)}, found {name!r}")
    if visibility not in VISIBILITIES:
        raise ValueError(
            f"{name}: visibility: expected {' or '.join(VISIBILITIES)}, found {visibility!r}"
        )
    if not prey_speed > 0:
        raise ValueError(f"{name}: prey_speed: expected a positive number, found {prey_speed}")
    if not arena >= 1:
        raise ValueError(
            f"{name}: arena: expected at least 1, where the prey may start, found {arena}"
        )
    return _make(name, visibility, prey_speed, arena)


@functools.cache
def _make(name: str, visibility: str, prey_speed: float, arena: float) -> GameEnv:
    pursuit = name == "PP_3p1p"
    count = int(name[3])
    game = Pursuit(visibility, prey_speed, arena) if pursuit else Navigation(count, visibility)
    suffix = "" if visibility == "nearest" else "-fixed"
    spec = EnvSpec(
        f"mpe/{name}{suffix}",
        count,
        OBS_SIZE,
        16 if pursuit else 6 * count,
        len(FORCES),
        True,
        HORIZON,
    )
    kinds = ("agent",) * count + (("prey",) if pursuit else ("landmark",) * count)
    return GameEnv(
        game, spec, picture=ScenePicture(None, game.bodies.size, kinds, game.picture_entities)
    )
