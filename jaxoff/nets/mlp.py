"""Multi-layer perceptrons, one for all or a stack with own weights for each agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from jaxoff.types import Array


class MLP(nn.Module):
    """Hidden layers of the given widths with an activation, then a linear head: [..., F] -> [..., out].

    features: hidden widths, then the size of the output.
    """

    features: Sequence[int]
    activation: Callable[[Array], Array] = jax.nn.relu

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply to the last axis."""
        for width in self.features[:-1]:
            x = self.activation(nn.Dense(width)(x))
        return nn.Dense(self.features[-1])(x)
