"""MuJoCo in C as a pure function inside jit, for CPUs, where MJX is some twenty times slower."""

from __future__ import annotations

import threading
from typing import Any

import jax
import numpy as np

from jaxoff.runtime import cores, needs
from jaxoff.types import Array


class CPhysics:
    """(qpos [..., nq], qvel [..., nv], control [..., nu]) -> qpos and qvel after `frame_skip`
    simulation steps under the same control.

    The same input gives the same output to the last bit, whatever else is in the batch: the solver
    starts afresh in every call. Rows with numbers that are not finite come out as NaN. A batch
    under vmap is one call, divided among the cores.
    """

    def __init__(self, model: Any, frame_skip: int) -> None:
        with needs("mamujoco"):
            import mujoco
            from mujoco.rollout import Rollout

        self.model, self.frame_skip = model, frame_skip
        self.sizes = (model.nq, model.nv)
        width = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        if width != 1 + sum(self.sizes):  # time, qpos, qvel
            raise ValueError(
                "c_physics: expected a model without activations and plugins, found a "
                f"state of {width} numbers"
            )
        threads = len(cores())
        self.data = [mujoco.MjData(model) for _ in range(threads)]
        self.rollout, self.lock = Rollout(nthread=threads), threading.Lock()

    def __call__(self, qpos: Array, qvel: Array, control: Array) -> tuple[Array, Array]:
        """Advance the simulation, under jit and vmap."""
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, np.float32) for x in (qpos, qvel))
        new: tuple[Array, Array] = jax.pure_callback(
            self.advance, shapes, qpos, qvel, control, vmap_method="broadcast_all"
        )
        return new

    def advance(self, *arrays: Any) -> tuple[np.ndarray, np.ndarray]:
        """Advance the simulation on the host, with NumPy arrays."""
        lead = np.shape(arrays[0])[:-1]
        qpos, qvel, control = (
            np.asarray(x, np.float64).reshape(-1, np.shape(x)[-1]) for x in arrays
        )
        state = np.concatenate([np.zeros((len(qpos), 1)), qpos, qvel], -1)
        lost = ~np.isfinite(np.concatenate([state, control], -1)).all(-1)
        state, control = (np.where(lost[:, None], 0.0, x) for x in (state, control))
        steps = np.repeat(control[:, None], self.frame_skip, 1)
        with self.lock:  # devices of one host share the threads
            moved = self.rollout.rollout(self.model, self.data, state, steps)[0][:, -1]
        found = np.split(
            np.where(lost[:, None], np.nan, moved).astype(np.float32)[:, 1:], [self.sizes[0]], -1
        )
        return tuple(x.reshape(*lead, -1) for x in found)  # type: ignore[return-value]
