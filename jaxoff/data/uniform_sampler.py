"""The built-in sampler `uniform`: steps, windows or whole episodes with equal probability."""

from __future__ import annotations

from flax import struct

from jaxoff.data import samplers
from jaxoff.types import Sampler


@struct.dataclass
class Config:
    """The sampler has no settings."""


def make(config: Config, batch_size: int, window: int) -> Sampler:
    """The sampler; window: 0 for single steps, -1 for whole episodes, k > 0 for k steps."""
    if window < 0:
        return samplers.episodes(batch_size)
    return samplers.windows(batch_size, window) if window else samplers.uniform(batch_size)
