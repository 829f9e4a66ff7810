"""The run axis: a function of one run becomes a program of many runs, on all available devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxoff import blocks
from jaxoff.errors import InvalidSetting, JaxoffError

AXIS = "runs"


def choose_mode(platform: str) -> str:
    """How the runs on one device are mapped: "vmap" on an accelerator, "sequence" on a CPU.

    On a CPU both are about as fast (experiments/bench/speed.md), and a sequence needs the memory of
    only one run. One host device per core doubles the speed on a CPU, see `runtime.setup`.
    """
    return "sequence" if platform == "cpu" else "vmap"


def run_mesh(num_runs: int, devices: list[Any] | None = None) -> Mesh:
    """A mesh over the run axis: every device of every process, but no more devices than runs."""
    devices = list(devices or jax.devices())
    if jax.process_count() == 1:
        devices = devices[: max(1, num_runs)]
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def padded(num_runs: int, mesh: Mesh) -> int:
    """The number of runs, rounded up to a multiple of the number of devices."""
    size = mesh.devices.size
    return -(-num_runs // size) * size


def map_runs(function: Callable[..., Any], mesh: Mesh, mode: str) -> Callable[..., Any]:
    """Map function(per_run, shared) of one run over the leading axis R of per_run's leaves.

    R must be divisible by the number of devices of the mesh.
    """

    def local(per_run: Any, shared: Any) -> Any:
        if mode == "vmap":
            return jax.vmap(function, in_axes=(0, None))(per_run, shared)
        if mode == "sequence":
            with blocks.alone():
                return jax.lax.map(lambda one: function(one, shared), per_run)
        raise ValueError(f"mode: expected 'vmap' or 'sequence', found '{mode}'")

    return jax.shard_map(
        local, mesh=mesh, in_specs=(P(AXIS), P()), out_specs=P(AXIS), check_vma=False
    )


def to_devices(tree: Any, mesh: Mesh) -> Any:
    """Copy host arrays [R, ...] to the mesh, padded by repeating the last run.

    Every process must hold the same arrays.
    """
    sharding = NamedSharding(mesh, P(AXIS))

    def put(x: Any) -> jax.Array:
        x = np.asarray(x)
        extra = padded(len(x), mesh) - len(x)
        full = np.concatenate([x, np.repeat(x[-1:], extra, 0)]) if extra else x
        return jax.make_array_from_callback(full.shape, sharding, lambda index: full[index])

    return jax.tree.map(put, tree)


def to_host(tree: Any, num_runs: int) -> Any:
    """The first num_runs entries of the run axis, as NumPy arrays on every process."""
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(lambda x: np.array(x)[:num_runs], jax.device_get(tree))


def anywhere(flags: list[bool]) -> list[bool]:
    """Each flag, true if it is true on any process."""
    if jax.process_count() == 1:
        return flags
    return np.any(multihost_utils.process_allgather(np.asarray(flags)), 0).tolist()


def least(number: int) -> int:
    """The smallest of the numbers that the processes pass."""
    if jax.process_count() == 1:
        return number
    return int(np.min(multihost_utils.process_allgather(np.asarray(number))))


def needed_bytes(compiled: Any, mesh: Mesh) -> int:
    """Memory that a compiled function allocates when it is called, in bytes for each device.

    On a CPU it is that of all host devices together. 0 where XLA does not tell.
    """
    planned, devices = compiled.memory_analysis(), mesh.local_devices
    if planned is None:
        return 0
    new = planned.output_size_in_bytes - planned.alias_size_in_bytes + planned.temp_size_in_bytes
    return int(new * (len(devices) if devices[0].platform == "cpu" else 1))


def from_first(make: Callable[[], Any]) -> Any:
    """The JSON value that the first process makes, on every process.

    An error that a user can mend is raised on every process.
    """
    if jax.process_count() == 1:
        return make()
    found: list[Any] = ["", None]
    failed: JaxoffError | None = None
    if jax.process_index() == 0:
        try:
            found[1] = make()
        except JaxoffError as error:
            failed, found[0] = error, str(error)
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = multihost_utils.broadcast_one_to_all(
        text if jax.process_index() == 0 else np.zeros(size, np.uint8)
    )
    message, value = json.loads(np.asarray(text).tobytes())
    if message:
        raise failed or InvalidSetting(message)
    return value
