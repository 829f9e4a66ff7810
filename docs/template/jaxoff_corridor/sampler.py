"""The sampler `recent`: later steps of an episode are drawn more often than earlier ones."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct

from jaxoff.data import samplers


@struct.dataclass
class Config:
    """power: step t of an episode, counted from 1, is drawn in proportion to t ** power."""

    power: float = 1.0


def make(config, batch_size, window):
    """The sampler; window as in a method's Config."""

    def weights(dataset):
        rows = dataset.step_row
        first = dataset.episode_row[dataset.episode_of(rows)]
        return (rows - first + 1.0).astype(jnp.float32) ** config.power

    return samplers.weighted(batch_size, weights, window)
