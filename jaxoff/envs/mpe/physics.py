"""Particle physics: discs on a plane without walls, pushed by forces and by soft contacts.

The step is that of OpenAI's particle environments (Lowe et al., 2017), which OMAR and SIT share:
the damped velocity first, then the position with the new velocity. The caller sets the force of a
unit action (`gain`), because OMAR's copy multiplies by the acceleration twice.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxoff.types import Array

DT = 0.1
DAMPING = 0.25  # share of the velocity lost in a step
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3  # softness of a contact
HORIZON = 25


class Bodies(NamedTuple):
    """The K bodies of an environment: first the M that move, then those that are fixed.

    size [K]: radius; collide [K]: pushes and is pushed; gain [M]: force of a unit action;
    max_speed [M]: infinity where speed is not limited.
    """

    size: np.ndarray
    collide: np.ndarray
    gain: np.ndarray
    max_speed: np.ndarray


class ParticleState(NamedTuple):
    """positions [K, D] of all bodies, velocities [M, D] of those that move, time [] in steps."""

    positions: Array
    velocities: Array
    time: Array


def distances(a: Array, b: Array) -> Array:
    """Distances [..., A, B] between points a [..., A, D] and b [..., B, D]."""
    return jnp.linalg.norm(a[..., :, None, :] - b[..., None, :, :], axis=-1)


def overlaps(a: Array, size_a: np.ndarray, b: Array, size_b: np.ndarray) -> Array:
    """Which discs overlap, [A, B] bool; discs that only touch do not."""
    return distances(a, b) < jnp.asarray(size_a[:, None] + size_b[None, :], jnp.float32)


def collisions(points: Array, size: np.ndarray) -> Array:
    """Number of the other discs that each of A discs overlaps, [A]."""
    return (overlaps(points, size, points, size) & ~np.eye(len(size), dtype=bool)).sum(1)


def contact_forces(bodies: Bodies, positions: Array) -> Array:
    """Forces [M, D] of all contacts on the bodies that move; two bodies at the same position do not
    push each other.
    """
    movers = len(bodies.gain)
    pushes = (
        bodies.collide[:movers, None]
        & bodies.collide[None, :]
        & ~np.eye(movers, len(bodies.size), dtype=bool)
    )
    reach = jnp.asarray(bodies.size[:movers, None] + bodies.size[None, :], jnp.float32)
    offset = positions[:movers, None] - positions[None, :]
    distance = jnp.linalg.norm(offset, axis=-1)
    # logaddexp is the softplus that does not overflow
    depth = CONTACT_MARGIN * jnp.logaddexp(0.0, (reach - distance) / CONTACT_MARGIN)
    strength = jnp.where(
        pushes & (distance > 0), CONTACT_FORCE * depth / jnp.where(distance > 0, distance, 1.0), 0.0
    )
    return (strength[..., None] * offset).sum(1)


def advance(bodies: Bodies, state: ParticleState, actions: Array) -> ParticleState:
    """One step of DT with actions [M, D].

    An action outside of [-1, 1] acts as the nearest one inside.
    """
    movers = len(bodies.gain)
    force = jnp.asarray(bodies.gain, jnp.float32)[:, None] * jnp.clip(
        actions, -1.0, 1.0
    ) + contact_forces(bodies, state.positions)
    velocities = (1.0 - DAMPING) * state.velocities + DT * force
    speed = jnp.linalg.norm(velocities, axis=-1, keepdims=True)
    cap = jnp.asarray(bodies.max_speed, jnp.float32)[:, None]
    velocities = jnp.where(
        speed > cap, velocities * (cap / jnp.where(speed > 0, speed, 1.0)), velocities
    )
    positions = state.positions.at[:movers].add(DT * velocities)
    return ParticleState(positions, velocities, state.time + 1)


def is_over(state: ParticleState) -> tuple[Array, Array]:
    """(terminated, truncated): only the time limit ends an episode, at step 25."""
    return jnp.zeros((), bool), state.time >= HORIZON


def others(count: int) -> np.ndarray:
    """Row i lists all of 0..count-1 but i, in order: [count, count-1]."""
    return np.array([[j for j in range(count) if j != i] for i in range(count)], int).reshape(
        count, count - 1
    )


def unit(vector: Array) -> Array:
    """Vectors [..., D] scaled to length 1; a zero vector stays zero."""
    length = jnp.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / jnp.where(length > 0, length, 1.0)
