"""Observation layouts of the public multi-agent MuJoCo code bases: the joints that each agent
drives, and the numbers that it observes.

All layouts are tables of indices into the simulator's `[qpos, qvel]`. They show the same numbers in
different orders:

    omar         own joints only, sorted by name (foot, shin, thigh), position and velocity of
                 each. OMAR (Pan et al., 2022), whose actions go straight onto the actuators
                 (thigh, shin, foot): the two orders differ
    og_marl      OG-MARL's own 2halfcheetah data, from multiagent_mujoco 1.1: as `omar`, then
                 positions of the nearest joints of other agents, then velocities and positions of
                 the root, including x (a later version fixed this). Actions are in the order of
                 that version's partition: foot, shin, thigh
    omiga        the whole state and a one-hot agent number, each vector standardised by its own
                 mean and standard deviation. OMIGA (Wang et al., 2023)
    gymnasium    gymnasium-robotics, agent_obsk=0: as `omar`, then positions and velocities of the
                 root without x
    gymnasium-1  gymnasium-robotics, agent_obsk=1: the same with positions of the nearest joints of
                 other agents
The functions here work on NumPy and JAX arrays alike, and import no simulator.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from jaxoff.types import EnvSpec, ReturnScale

LAYOUTS = ("omar", "og_marl", "omiga", "gymnasium", "gymnasium-1")


class Body(NamedTuple):
    """A robot. The last positions and velocities are those of its joints, the ones before them are
    those of the root.

    The first `hidden` positions are left out of the state; `clip` bounds the velocities in the
    state.
    """

    joints: tuple[str, ...]  # in the order of qpos
    actuators: tuple[str, ...]  # in the order of ctrl
    links: tuple[tuple[str, ...], ...]  # groups of neighbouring joints
    splits: dict[str, tuple[tuple[str, ...], ...]]
    nq: int
    nv: int
    hidden: int = 1
    clip: float | None = None
    reversed_parts: bool = False  # gymnasium-robotics lists an agent's joints from the foot up


def _chain(*joints: str) -> tuple[tuple[str, ...], ...]:
    return tuple(itertools.pairwise(joints))


_CHEETAH = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
_WALKER = ("thigh", "leg", "foot", "thigh_left", "leg_left", "foot_left")
_HOPPER = ("thigh", "leg", "foot")
_ANT = ("hip1", "ankle1", "hip2", "ankle2", "hip3", "ankle3", "hip4", "ankle4")

BODIES = {
    "halfcheetah": Body(
        _CHEETAH,
        _CHEETAH,
        _chain("bfoot", "bshin", "bthigh", "fthigh", "fshin", "ffoot"),
        {"2x3": (_CHEETAH[:3], _CHEETAH[3:]), "6x1": tuple((j,) for j in _CHEETAH)},
        nq=9,
        nv=9,
    ),
    "walker2d": Body(
        _WALKER,
        _WALKER,
        _chain("foot", "leg", "thigh", "thigh_left", "leg_left", "foot_left"),
        {"2x3": (_WALKER[:3], _WALKER[3:])},
        nq=9,
        nv=9,
        clip=10.0,
        reversed_parts=True,
    ),
    "hopper": Body(
        _HOPPER,
        _HOPPER,
        _chain("foot", "leg", "thigh"),
        {"3x1": tuple((j,) for j in _HOPPER)},
        nq=6,
        nv=6,
        clip=10.0,
    ),
    # Contact forces, which other code bases put into the ant's observation, are not in [qpos, qvel]
    # and are left out.
    "ant": Body(
        _ANT,
        _ANT[6:] + _ANT[:6],
        (*((f"ankle{i}", f"hip{i}") for i in (1, 2, 3, 4)), ("hip1", "hip2", "hip3", "hip4")),
        {"2x4": (_ANT[:4], _ANT[4:])},
        nq=15,
        nv=14,
        hidden=2,
    ),
}


class Layout(NamedTuple):
    """Index tables of one body, split and layout; static and hashable. `make_layout` makes it."""

    body: str
    sees: tuple[tuple[int, ...], ...]  # [N][O] indices into [qpos, qvel]; -1 is padding
    obs_sizes: tuple[int, ...]  # observation sizes without padding
    actuators: tuple[tuple[int, ...], ...]  # [N][A] actuators that an agent's actions drive
    clip: float | None  # bound on the velocities
    standardised: bool  # observations end in a one-hot agent number and are standardised

    @property
    def num_agents(self) -> int:
        """Number of agents, N."""
        return len(self.sees)

    @property
    def obs_size(self) -> int:
        """Observation size O, that of the agent with the longest observation."""
        return len(self.sees[0]) + self.num_agents * self.standardised

    @property
    def action_size(self) -> int:
        """Action size A, the same for each agent."""
        return len(self.actuators[0])


@functools.cache
def make_layout(body: str, split: str, name: str = "omar") -> Layout:
    """The tables of a body (halfcheetah, walker2d, hopper, ant), a split (2x3, 6x1, 3x1, 2x4) and a
    layout.
    """
    robot = _known("body", body, BODIES)
    parts = _known(f"split of {body}", split, robot.splits)
    _known("layout", name, dict.fromkeys(LAYOUTS))
    if body == "ant" and name != "omar":
        raise ValueError(
            f"layout: ant has 'omar' only, as others hold contact forces; found '{name}'"
        )
    if name == "og_marl" and body != "halfcheetah":
        raise ValueError(f"layout: og_marl is that of halfcheetah, found '{body}'")
    first_q, first_v, root = (
        robot.nq - len(robot.joints),
        robot.nq + robot.nv - len(robot.joints),
        robot.nv - len(robot.joints),
    )
    q = {joint: first_q + i for i, joint in enumerate(robot.joints)}
    v = {joint: first_v + i for i, joint in enumerate(robot.joints)}

    def row(part: tuple[str, ...]) -> tuple[int, ...]:
        if name == "omiga":
            return tuple(range(robot.hidden, robot.nq + robot.nv))
        own = [i for joint in sorted(part) for i in (q[joint], v[joint])]
        if name == "omar":
            return tuple(own)
        near = (
            [q[joint] for joint in sorted(_neighbours(part, robot.links))]
            if name != "gymnasium"
            else []
        )
        if name == "og_marl":  # its root joints are in the order x, angle, z
            return (*own, *near, *(robot.nq + i for i in (0, 2, 1)), 0, 2, 1)
        return (*own, *near, *range(robot.hidden, first_q), *range(robot.nq, robot.nq + root))

    rows = [row(part) for part in parts]
    width = max(map(len, rows))
    turned = name == "og_marl" or (name.startswith("gymnasium") and robot.reversed_parts)
    order = [part[::-1] if turned else part for part in parts]
    return Layout(
        body=body,
        sees=tuple(r + (-1,) * (width - len(r)) for r in rows),
        obs_sizes=tuple(len(r) + len(rows) * (name == "omiga") for r in rows),
        actuators=tuple(tuple(robot.actuators.index(joint) for joint in part) for part in order),
        # MaMuJoCo clips the velocities of the hopper only
        clip=robot.clip if body == "hopper" or name == "omiga" else None,
        standardised=name == "omiga",
    )


def observe(layout: Layout, state: Any) -> Any:
    """Observations [..., N, O] from the simulator's [qpos, qvel] or from the state without hidden
    positions.

    state: [..., nq+nv] or [..., nq+nv-hidden] (17 for the half-cheetah), a NumPy or JAX array; the
    result is of the same kind. Raises ValueError for another size, or where the layout shows a
    hidden position.
    """
    robot = BODIES[layout.body]
    size, full = state.shape[-1], robot.nq + robot.nv
    if size not in (full, full - robot.hidden):
        raise ValueError(
            f"state: expected {full} or {full - robot.hidden} values of {layout.body}, found {size}"
        )
    table, shift = np.array(layout.sees), full - size
    if shift and ((table >= 0) & (table < shift)).any():
        raise ValueError(
            f"state: this layout shows the x position, expected [qpos, qvel] of {full} "
            f"values, found {size}"
        )
    xp = state.__array_namespace__()
    if layout.clip:
        bound = np.where(np.arange(size) < robot.nq - shift, np.inf, layout.clip).astype(np.float32)
        state = xp.clip(state, -bound, bound)
    seen = xp.where(table >= 0, state[..., np.maximum(table - shift, 0)], 0.0).astype(state.dtype)
    if not layout.standardised:
        return seen
    number = xp.broadcast_to(
        np.eye(layout.num_agents, dtype=state.dtype), (*seen.shape[:-1], layout.num_agents)
    )
    seen = xp.concatenate([seen, number], -1)
    return (seen - seen.mean(-1, keepdims=True)) / seen.std(-1, keepdims=True)


def state_of(body: str, simulator: Any) -> Any:
    """The global state from the simulator's [qpos, qvel] [..., nq+nv]: hidden positions are left
    out, velocities clipped.
    """
    robot = BODIES[body]
    state = simulator[..., robot.hidden :]
    if robot.clip is None:
        return state
    xp = state.__array_namespace__()
    cut = robot.nq - robot.hidden
    return xp.concatenate([state[..., :cut], state[..., cut:].clip(-robot.clip, robot.clip)], -1)


def to_actuators(layout: Layout, actions: Any) -> Any:
    """Actions [..., N, A] of the agents as the control vector [..., N*A] of the body."""
    order = np.argsort(np.concatenate([np.array(a) for a in layout.actuators]))
    return actions.reshape(*actions.shape[:-2], -1)[..., order]


def spec_of(name: str, horizon: int, layout: Layout, scale: ReturnScale | None = None) -> EnvSpec:
    """The spec of a body under a layout.

    Each agent has its own type, since no two drive the same kind of joints.
    """
    robot = BODIES[layout.body]
    return EnvSpec(
        name=name,
        num_agents=layout.num_agents,
        obs_size=layout.obs_size,
        state_size=robot.nq + robot.nv - robot.hidden,
        action_size=layout.action_size,
        discrete=False,
        horizon=horizon,
        obs_sizes=layout.obs_sizes,
        agent_types=tuple(range(layout.num_agents)),
        return_scale=scale,
    )


def split_name(name: str, family: str) -> tuple[str, str]:
    """('halfcheetah', '2x3') of 'mamujoco/halfcheetah-2x3'.

    Raises a ValueError that lists the known names.
    """
    body, _, split = name.removeprefix(f"{family}/").partition("-")
    if body not in BODIES or split not in BODIES[body].splits:
        there = ", ".join(f"{family}/{b}-{s}" for b, robot in BODIES.items() for s in robot.splits)
        raise ValueError(f"{family}: expected one of {there}; found '{name}'")
    return body, split


def _neighbours(part: tuple[str, ...], links: tuple[tuple[str, ...], ...]) -> set[str]:
    return {joint for link in links if set(link) & set(part) for joint in link} - set(part)


def _known(what: str, found: str, known: dict[str, Any]) -> Any:
    if found not in known:
        raise ValueError(f"{what}: expected one of {', '.join(known)}; found '{found}'")
    return known[found]
