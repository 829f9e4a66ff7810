"""The sampler `cyclic`: uniform for `period` updates, whose batches are then repeated forever.

OMAR's released code reseeds its batch generator at each evaluation, every ten updates, so in
particle games its runs never see any other batches. This sampler is only for comparison with such
runs.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct

from jaxoff.config import static
from jaxoff.data import uniform_sampler
from jaxoff.data.dataset import Dataset
from jaxoff.errors import InvalidSetting
from jaxoff.types import Array, Feedback, Key, Sampler


@struct.dataclass
class Config:
    """period: number of updates after which the same items are drawn again."""

    period: int = static(10)


def make(config: Config, batch_size: int, window: int) -> Sampler:
    """Like `uniform_sampler.make`, but items repeat with the period.

    State: that of the uniform sampler, the items [period, B], and the number of updates so far.
    """
    if config.period < 1:
        raise InvalidSetting(f"cyclic: field 'period': expected at least 1, found {config.period}")
    fresh = uniform_sampler.make(uniform_sampler.Config(), batch_size, window)

    def init(dataset: Dataset) -> Any:
        return (
            fresh.init(dataset),
            jnp.zeros((config.period, batch_size), jnp.int32),
            jnp.zeros((), jnp.int32),
        )

    def draw(state: Any, dataset: Dataset, key: Key) -> Array:
        inner, items, count = state
        return jnp.where(
            count < config.period, fresh.draw(inner, dataset, key), items[count % config.period]
        )

    def feedback(state: Any, dataset: Dataset, outcome: Feedback) -> Any:
        inner, items, count = state
        return inner, items.at[count % config.period].set(outcome.items), count + 1

    return Sampler(init, draw, fresh.gather, feedback)
