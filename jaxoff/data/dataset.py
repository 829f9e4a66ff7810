"""A dataset on the device: every slot of every episode is one row, and a batch is one gather.

The rows of an episode are consecutive: its L steps, then the slot observed after the last step. So
a step with its successor, a window and a whole episode are all runs of consecutive rows, and the
next observation is never stored twice. Fields are packed side by side, one matrix per storage
dtype.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from jaxoff import runtime
from jaxoff.data.checks import validate
from jaxoff.errors import InvalidEpisodes as InvalidEpisodes
from jaxoff.errors import JaxoffError
from jaxoff.types import Array, EnvSpec, Episodes, Transition

_WIDE = ("obs", "state")  # fields that may be stored in fewer bits


class DatasetTooLarge(JaxoffError, ValueError):
    """The dataset does not fit the memory allowed for it."""


@struct.dataclass
class Dataset:
    """Device-resident episodes. Build it with `place`.

    rows: storage dtype -> [rows, width]; the last `max_length` rows are padding, so that any window
    fits. step_row [M]: the row of each real step. episode_row [E]: the first row of each episode.
    episode_length [E]: its number of steps.
    """

    rows: dict[str, Array]
    step_row: Array
    episode_row: Array
    episode_length: Array
    layout: tuple[tuple[str, str, int, tuple[int, ...]], ...] = struct.field(pytree_node=False)
    spec: EnvSpec = struct.field(pytree_node=False)
    max_length: int = struct.field(pytree_node=False)

    @property
    def num_steps(self) -> int:
        """Number of real steps, M."""
        return self.step_row.shape[0]

    @property
    def num_episodes(self) -> int:
        """Number of episodes, E."""
        return self.episode_row.shape[0]

    def window(self, first_row: Array, length: int) -> Transition:
        """`length` steps from each first row [B] -> fields [B, length, ...].

        Slots beyond the end of the episode have `valid` 0.
        """
        # Read no more rows than the padding at the end allows: JAX moves a slice that reaches
        # beyond the array back into it.
        reach = min(length, self.max_length) + 1

        def read(matrix: Array) -> Array:
            found = jax.vmap(lambda r: lax.dynamic_slice_in_dim(matrix, r, reach))(first_row)
            return jnp.pad(found, ((0, 0), (0, length + 1 - reach), (0, 0)))

        fields = self._unpack({dtype: read(matrix) for dtype, matrix in self.rows.items()})
        now = {name: value[:, :-1] for name, value in fields.items()}
        # The slot after the last step is not filled, so this product stops at the end of the
        # episode.
        valid = jnp.cumprod(now["filled"], axis=1)
        episode = self.episode_of(first_row)
        before = (first_row - self.episode_row[episode])[:, None] + jnp.arange(length)
        return Transition(
            obs=now["obs"],
            state=now["state"],
            avail=now["avail"],
            actions=now["actions"],
            reward=now["reward"] * valid,
            terminated=now["terminated"] * valid,
            truncated=now["truncated"] * valid,
            valid=valid,
            steps_before=before,
            episode=jnp.broadcast_to(episode[:, None], before.shape),
            next_obs=fields["obs"][:, 1:],
            next_state=fields["state"][:, 1:],
            next_avail=fields["avail"][:, 1:],
            agent_reward=now["agent_reward"] * valid[..., None] if "agent_reward" in now else None,
            last_actions=self._last_actions(first_row, now["actions"], before),
        )

    def _last_actions(self, first_row: Array, actions: Array, before: Array) -> Array:
        """The action before each step; for a window's first step, read from the row before it."""
        earlier = jax.tree.map(lambda matrix: matrix[jnp.maximum(first_row - 1, 0)], self.rows)
        last = jnp.concatenate([self._unpack(earlier)["actions"][:, None], actions[:, :-1]], 1)
        begins = (before == 0).reshape(*before.shape, *[1] * (last.ndim - 2))
        return jnp.where(begins, -1 if self.spec.discrete else 0.0, last)

    def steps(self, row: Array) -> Transition:
        """The single step at each row [B] -> fields [B, ...]."""
        return jax.tree.map(lambda x: x[:, 0], self.window(row, 1))

    def unpacked(self, *names: str) -> dict[str, Array]:
        """Fields of all rows, [rows, ...]: all episodes one after the other, then padding."""
        fields = self._unpack(self.rows)
        return {name: fields[name] for name in names}

    def episode_of(self, row: Array) -> Array:
        """The number of the episode that each row belongs to."""
        return jnp.searchsorted(self.episode_row, row, side="right") - 1

    def moments(self, name: str) -> tuple[Array, Array]:
        """Mean and variance of a field over all real steps, each of the field's shape."""
        weight = self._column("filled")  # the slot after the last step, and padding, are not filled
        x = self._column(name)
        total = weight.reshape(-1, *[1] * (x.ndim - 1))
        mean = jnp.sum(x * total, 0) / jnp.sum(weight)
        return mean, jnp.sum(jnp.square(x - mean) * total, 0) / jnp.sum(weight)

    def _column(self, wanted: str) -> Array:
        """One field of every row: [rows, ...]."""
        for name, dtype, offset, shape in self.layout:
            if name == wanted:
                return (
                    self.rows[dtype][:, offset : offset + math.prod(shape)]
                    .reshape(-1, *shape)
                    .astype(jnp.float32)
                )
        raise KeyError(wanted)

    def _unpack(self, parts: dict[str, Array]) -> dict[str, Array]:
        fields = {}
        for name, dtype, offset, shape in self.layout:
            flat = parts[dtype][..., offset : offset + math.prod(shape)]
            value = flat.reshape(flat.shape[:-1] + shape).astype(jnp.float32)
            if name == "actions" and self.spec.discrete:
                value = value.astype(jnp.int32)  # exact: indices are far below 2**24
            fields[name] = value
        return fields


def _layout(
    spec: EnvSpec, obs_dtype: str, individual: bool
) -> tuple[tuple[tuple[str, str, int, tuple[int, ...]], ...], dict[str, int]]:
    shapes = {
        "obs": (spec.num_agents, spec.obs_size),
        "state": (spec.state_size,),
        "avail": (spec.num_agents, spec.action_size),
        "actions": spec.action_shape,
        "reward": (),
        "terminated": (),
        "truncated": (),
        "filled": (),
    }
    if individual:
        shapes["agent_reward"] = (spec.num_agents,)
    layout: list[tuple[str, str, int, tuple[int, ...]]] = []
    width: dict[str, int] = {}
    for name, shape in shapes.items():
        dtype = obs_dtype if name in _WIDE else "float32"
        offset = width.get(dtype, 0)
        layout.append((name, dtype, offset, shape))
        width[dtype] = offset + math.prod(shape)
    return tuple(layout), width


def estimate_bytes(episodes: Episodes, spec: EnvSpec, obs_dtype: str = "float32") -> int:
    """Bytes that `place` would need on the device."""
    lengths = np.asarray(episodes.filled).sum(1)
    rows = int(lengths.sum()) + len(lengths) + int(lengths.max())
    _, width = _layout(spec, obs_dtype, episodes.agent_reward is not None)
    packed = sum(w * rows * jnp.dtype(dtype).itemsize for dtype, w in width.items())
    return packed + 4 * (int(lengths.sum()) + 2 * len(lengths))


def place(
    episodes: Episodes,
    spec: EnvSpec,
    *,
    obs_dtype: str = "float32",
    limit_bytes: int | None = None,
    sharding: Any = None,
    source: str = "episodes",
) -> Dataset:
    """Check episodes, as `checks.validate` does, and copy them to the device.

    obs_dtype: storage type of obs and state, "float32" or "bfloat16"; they are read as float32.
    limit_bytes: refuse a larger dataset; None stands for the device's free memory (CPU: no limit).
    sharding: a jax sharding for the arrays, for several devices; None is the default device.
    Raises InvalidEpisodes, or DatasetTooLarge with the numbers.
    """
    episodes = validate(episodes, spec, source, obs_dtype)
    needed = estimate_bytes(episodes, spec, obs_dtype)
    limit = runtime.free_bytes() if limit_bytes is None else limit_bytes
    if limit is not None and needed > limit:
        fewer = estimate_bytes(episodes, spec, "bfloat16")
        raise DatasetTooLarge(
            f"{source}: field 'dataset': {needed:,} bytes are needed on the device with "
            f"{obs_dtype} observations "
            f"({fewer:,} with bfloat16), expected at most {limit:,}; use fewer episodes or "
            "--obs-dtype bfloat16"
        )
    lengths = np.asarray(episodes.filled).sum(1).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    longest, total = int(lengths.max()), int((lengths + 1).sum())
    layout, width = _layout(spec, obs_dtype, episodes.agent_reward is not None)
    # [E, T+1] slots of an episode
    keep = np.arange(episodes.reward.shape[1] + 1) <= lengths[:, None]
    packed = {dtype: np.zeros((total + longest, w), jnp.dtype(dtype)) for dtype, w in width.items()}
    for name, dtype, offset, shape in layout:
        value = np.asarray(getattr(episodes, name))
        # a field of T steps has no value in the slot after the last step
        if value.shape[1] != keep.shape[1]:
            value = np.concatenate([value, np.zeros_like(value[:, :1])], 1)
        value = value[keep].reshape(total, -1)
        packed[dtype][:total, offset : offset + math.prod(shape)] = value
    offsets = np.arange(total) - np.repeat(starts, lengths + 1)
    put = lambda x: jax.device_put(x, sharding)
    return Dataset(
        rows={dtype: put(matrix) for dtype, matrix in packed.items()},
        step_row=put(np.flatnonzero(offsets < np.repeat(lengths, lengths + 1)).astype(np.int32)),
        episode_row=put(starts.astype(np.int32)),
        episode_length=put(lengths.astype(np.int32)),
        layout=layout,
        spec=spec,
        max_length=longest,
    )


def outline(
    spec: EnvSpec, obs_dtype: str, *, episodes: int, steps: int, longest: int, individual: bool
) -> Dataset:
    """The Dataset that `place` would return for data of this size, with shapes instead of arrays.

    episodes, steps: their total numbers. longest: steps of the longest episode. individual: whether
    agents have individual rewards.
    """
    layout, width = _layout(spec, obs_dtype, individual)
    shape: Any = jax.ShapeDtypeStruct
    numbers = lambda count: shape((count,), jnp.int32)
    rows = steps + episodes + longest
    return Dataset(
        rows={name: shape((rows, w), jnp.dtype(name)) for name, w in width.items()},
        step_row=numbers(steps),
        episode_row=numbers(episodes),
        episode_length=numbers(episodes),
        layout=layout,
        spec=spec,
        max_length=longest,
    )
