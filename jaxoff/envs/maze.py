"""Maze2D: a point mass finds a goal in a maze, after D4RL (Fu et al., 2020), version 1 with its
sparse reward.

The state and the observation are (x, y, vx, vy). As in D4RL x runs along the rows of the map and y
along its columns, and the centre of cell (r, c) is at (r - 0.2, c - 0.2), while starts and goals
are at (r, c).

Free motion is that of MuJoCo's Euler integrator with implicit damping. Walls differ: MuJoCo's soft
contacts are not reproduced. Here the mass stops dead along the normal of a wall and slides without
friction along it, so returns agree with MuJoCo's roughly, and trajectories along walls do not.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff import distributions
from jaxoff.envs.base import Game, GameEnv, ScenePicture
from jaxoff.types import Array, Distribution, EnvSpec, Key, Policy, ReturnScale, TimeStep

DT, GEAR, DAMPING, RADIUS, TOP_SPEED = 0.01, 100.0, 1.0, 0.1, 5.0  # s, N, N s/m, m, m/s per axis
MASS = 4 / 3 * np.pi * RADIUS**3 * 1000  # 4.18879 kg
OFFSET = 0.2  # D4RL puts the body at 1.2 and the first wall at 1
REACH = 0.5  # distance from the goal within which the reward is paid


class Maze2D(NamedTuple):
    """A map (#: wall, G: goal), its time limit, and D4RL's reference returns of version 1."""

    rows: tuple[str, ...]
    horizon: int
    low: float
    high: float

    @property
    def walls(self) -> np.ndarray:
        """[rows, columns] bool."""
        return np.array([[cell == "#" for cell in row] for row in self.rows])

    @property
    def goal(self) -> np.ndarray:
        """[2] float, position of the goal in the coordinates of the observation."""
        return np.argwhere(np.array([list(row) for row in self.rows]) == "G")[0].astype(np.float32)


MAZES = {
    "umaze": Maze2D(("#####", "#G..#", "###.#", "#...#", "#####"), 300, 23.85, 161.86),
    "medium": Maze2D(
        (
            "########",
            "#..##..#",
            "#..#...#",
            "##...###",
            "#..#...#",
            "#.#..#.#",
            "#...#.G#",
            "########",
        ),
        600,
        13.13,
        277.39,
    ),
    "large": Maze2D(
        (
            "############",
            "#....#.....#",
            "#.##.#.#.#.#",
            "#......#...#",
            "#.####.###.#",
            "#..#.#.....#",
            "##.#.#.#.###",
            "#..#...#.G.#",
            "############",
        ),
        800,
        6.7,
        273.99,
    ),
}


class MazeState(NamedTuple):
    """position [2], velocity [2], time []."""

    position: Array
    velocity: Array
    time: Array


class PointMass(Game):
    """A point mass in a maze, one of MAZES: one agent, two forces in [-1, 1]; never terminates."""

    def __init__(self, maze: Maze2D) -> None:
        self.maze = maze
        self.walls, self.goal = maze.walls, maze.goal
        self.free = np.argwhere(~self.walls)  # [K, 2] free cells, including the goal

    def start(self, key: Key) -> MazeState:
        """Near any free cell or the goal, moving slowly, as in D4RL."""
        cell_key, place_key, speed_key = jax.random.split(key, 3)
        cell = jnp.asarray(self.free)[jax.random.randint(cell_key, (), 0, len(self.free))]
        position = cell + jax.random.uniform(place_key, (2,), minval=-0.1, maxval=0.1)
        return MazeState(
            position, 0.1 * jax.random.normal(speed_key, (2,)), jnp.zeros((), jnp.int32)
        )

    def move(
        self, key: Key, state: MazeState, actions: Array
    ) -> tuple[MazeState, Array, Array, Array]:
        """Move for one time step and slide along walls; the reward is 1 near the goal, else 0."""
        velocity = fly(state.velocity, actions[0])
        position, velocity = slide(
            jnp.asarray(self.walls), state.position + DT * velocity, velocity
        )
        reward = (jnp.linalg.norm(position - self.goal) <= REACH).astype(jnp.float32)
        time = state.time + 1
        return (
            MazeState(position, velocity, time),
            reward,
            jnp.zeros((), bool),
            time >= self.maze.horizon,
        )

    def observe(self, state: MazeState) -> Array:
        """The whole state."""
        return self.global_state(state)[None]

    def global_state(self, state: MazeState) -> Array:
        """(x, y, vx, vy)."""
        return jnp.concatenate([state.position, state.velocity])


def fly(velocity: Array, force: Array) -> Array:
    """Velocity [2] after one step without contact: MuJoCo's Euler step with implicit damping.

    m (v' - v) / dt = gear u - damping v'; the old velocity is clipped first, u is clipped to
    [-1, 1].
    """
    velocity = jnp.clip(velocity, -TOP_SPEED, TOP_SPEED)
    return (MASS * velocity + DT * GEAR * jnp.clip(force, -1.0, 1.0)) / (MASS + DT * DAMPING)


def slide(walls: Array, position: Array, velocity: Array) -> tuple[Array, Array]:
    """Push a disc at position [2] out of walls [rows, columns], and remove its speed into them.

    The disc moves less than its radius in a step, so its centre never gets into a wall: only the
    four sides and the four corners of the cell that it is in matter.
    """
    centre = jnp.round(position + OFFSET).astype(jnp.int32)
    beside = position - (centre - OFFSET)  # in [-0.5, 0.5]
    gap = 0.5 - RADIUS
    # the border of a map is wall, so this slice never leaves the map
    around = jax.lax.dynamic_slice(walls, tuple(centre - 1), (3, 3))
    for axis in range(2):
        for side in (-1, 1):
            wall = around[1 + side * (1 - axis), 1 + side * axis]
            hit = wall & (side * beside[axis] > gap)
            into = hit & (side * velocity[axis] > 0)
            beside = beside.at[axis].set(jnp.where(hit, side * gap, beside[axis]))
            velocity = velocity.at[axis].set(jnp.where(into, 0.0, velocity[axis]))
    for row, column in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        corner = 0.5 * jnp.array([row, column])
        apart = beside - corner
        distance = jnp.sqrt(jnp.maximum(jnp.sum(apart**2), 1e-12))
        normal = apart / distance
        hit = around[1 + row, 1 + column] & (distance < RADIUS)
        inward = jnp.minimum(jnp.dot(velocity, normal), 0.0)
        beside = jnp.where(hit, corner + RADIUS * normal, beside)
        velocity = jnp.where(hit, velocity - inward * normal, velocity)
    return centre - OFFSET + beside, velocity


@functools.cache
def make_maze(name: str) -> GameEnv:
    """'maze/umaze', 'maze/medium' or 'maze/large' as an `Env` of one agent, state [4] = (x, y, vx,
    vy).

    The return scale is D4RL's of version 1; version 0 has other time limits and other reference
    returns.
    """
    maze = MAZES.get(name.removeprefix("maze/"))
    if maze is None:
        raise ValueError(
            f"maze: expected one of {', '.join(f'maze/{m}' for m in MAZES)}; found '{name}'"
        )
    scale = ReturnScale(
        maze.low, maze.high, "D4RL, maze2d version 1: uniformly random actions; waypoint controller"
    )
    spec = EnvSpec(
        f"maze/{name.removeprefix('maze/')}", 1, 4, 4, 2, False, maze.horizon, return_scale=scale
    )
    return GameEnv(PointMass(maze), spec, picture=_picture(maze))


def _picture(maze: Maze2D) -> ScenePicture:
    """The maze drawn like its printed map: columns (y) to the right, rows (x) downwards; the ring
    marks the area of the reward.
    """
    rows, columns = maze.walls.shape

    def turned(points: np.ndarray) -> np.ndarray:
        return np.stack([points[..., 1], -points[..., 0]], -1)

    def positions(state: np.ndarray) -> np.ndarray:
        return np.stack(
            [turned(state[..., :2]), np.broadcast_to(turned(maze.goal), (*state.shape[:-1], 2))], -2
        )

    low, high = -0.5 - OFFSET, 0.5 - OFFSET  # edges of cell 0
    walls = np.array([(c + low, -r - high, c + high, -r - low) for r, c in np.argwhere(maze.walls)])
    rim = 0.7  # width of the outer walls that the picture cuts off
    bounds = (low + rim, rim - (rows - 1) - high, columns - 1 + high - rim, -low - rim)
    return ScenePicture(
        bounds, np.array([RADIUS, REACH]), ("agent", "goal"), positions, walls=walls
    )


# ------------------------------------------------------------------------------- the behaviour
# policy


class Route(NamedTuple):
    """The controller's memory, each field [...]: target and waypoint are indices of free cells, -1
    before the first step.
    """

    target: Array
    waypoint: Array
    reached: Array  # number of targets reached so far
    seed: Array  # uint32, seed of the sequence of targets


def next_cells(walls: np.ndarray) -> np.ndarray:
    """The next cell on a shortest path from free cell i to free cell j, [K, K] int; i itself where
    i = j.

    Free cells are numbered row by row. Of equally short paths the one that first goes up, left,
    right or down, in this order, is taken.
    """
    free = np.argwhere(~walls)
    beside = np.abs(free[:, None] - free[None]).sum(-1) == 1
    steps = np.where(np.eye(len(free), dtype=bool), 0, len(free))
    for _ in free:  # value iteration: one more step each time
        steps = np.minimum(steps, np.where(beside[:, :, None], steps[None], len(free)).min(1) + 1)
    by = np.where(beside[:, :, None], steps[None], len(free))  # [from, over, to]
    return np.where(np.eye(len(free), dtype=bool), np.arange(len(free))[:, None], by.argmin(1))


@functools.cache
def waypoint_policy(env: GameEnv, goal: str = "fixed") -> Policy:
    """D4RL's waypoint controller: force 10 (waypoint - position) - velocity, clipped to [-1, 1].

    The waypoints are the centres of the cells on a shortest path, the last is the target itself;
    the controller turns to the next one within 0.1 of a waypoint. goal "fixed": the target is the
    environment's goal, where the mass stays. goal "random": the targets are free cells one after
    the other, as D4RL collected its data; the k-th is a hash of k and of the first position of the
    episode, never the cell that the mass is in. Noise on actions is left to the recorder of the
    data: D4RL's noisy data add 0.5 N(0, 1). Differs from D4RL: waypoints are not jittered. Raises
    ValueError for another goal.
    """
    if goal not in ("fixed", "random"):
        raise ValueError(f"goal: expected 'fixed' or 'random', found '{goal}'")
    game: PointMass = env.game
    cells = jnp.asarray(game.free, jnp.float32)  # [K, 2]
    onward = jnp.asarray(next_cells(game.walls))
    numbers = jnp.asarray(np.cumsum(~game.walls).reshape(game.walls.shape) - 1)
    home = int(np.flatnonzero((game.free == game.goal).all(-1))[0])
    count = len(game.free)

    def draw(here: Array, reached: Array, seed: Array) -> Array:
        if goal == "fixed":
            return jnp.full_like(here, home)
        other = (_mix(seed ^ _mix(reached.astype(jnp.uint32))) % (count - 1)).astype(jnp.int32)
        return other + (other >= here)

    def initial(shape: tuple[int, ...]) -> Route:
        none = jnp.full(shape, -1, jnp.int32)
        return Route(none, none, jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.uint32))

    def distribution(route: Route, timestep: TimeStep) -> tuple[Route, Distribution]:
        position, velocity = timestep.state[..., :2], timestep.state[..., 2:]
        cell = jnp.round(position + OFFSET).astype(jnp.int32)
        here = numbers[cell[..., 0], cell[..., 1]]
        fresh = route.target < 0
        bits = jax.lax.bitcast_convert_type(position, jnp.uint32)
        seed = jnp.where(fresh, _mix(bits[..., 0] ^ _mix(bits[..., 1])), route.seed)
        at_target = jnp.linalg.norm(cells[route.target] - position, axis=-1) < RADIUS
        arrived = ~fresh & at_target & (goal == "random")
        reached = route.reached + arrived
        anew = fresh | arrived
        target = jnp.where(anew, draw(here, reached, seed), route.target)
        at_waypoint = jnp.linalg.norm(cells[route.waypoint] - OFFSET - position, axis=-1) < RADIUS
        from_cell = jnp.where(anew, here, route.waypoint)
        waypoint = jnp.where(anew | at_waypoint, onward[from_cell, target], route.waypoint)
        aim = jnp.where((waypoint == target)[..., None], cells[target], cells[waypoint] - OFFSET)
        action = jnp.clip(10.0 * (aim - position) - velocity, -1.0, 1.0)
        dist = distributions.deterministic(action[..., None, :])
        return Route(target, waypoint, reached, seed), dist

    return Policy(initial, distribution)


def _mix(x: Array) -> Array:
    """A 32-bit integer hash (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
