"""A mixture of experts over discrete actions: a gate with fixed prototypes, and experts whose
vectors point at actions.

As in MiCE (Tsai et al., ICLR 2021), all vectors lie on a unit sphere of width d and are compared by
their cosine.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxoff.errors import InvalidSetting
from jaxoff.nets.transformer import Linear
from jaxoff.types import Array


class Mixture(NamedTuple):
    """log P(z | o) [..., K], and the cosine of each expert's vector with each action's [..., K,
    A].
    """

    log_gate: Array
    cosine: Array


class Experts(nn.Module):
    """Features [..., H] to a Mixture of `count` experts on a sphere of `width`; prototypes are
    constants.

    uniform: every expert has weight 1 / K, whatever the input. The temperature is the gate's.
    """

    count: int
    width: int
    num_actions: int
    uniform: bool = False

    @nn.compact
    def __call__(self, x: Array, temperature: Array | float) -> Mixture:
        """Log gate and experts' cosines for each item."""
        count, width = self.count, self.width
        experts = Linear(count * width, name="experts")(x)
        table = self.param(
            "actions", nn.initializers.normal(width**-0.5), (self.num_actions, width)
        )
        cosine = jnp.einsum(
            "...kd,ad->...ka", unit(experts.reshape(*x.shape[:-1], count, width)), unit(table)
        )
        if self.uniform or count == 1:
            return Mixture(jnp.full(cosine.shape[:-1], -jnp.log(float(count))), cosine)
        seen = unit(Linear(width, use_bias=False, name="gate")(x))
        return Mixture(jax.nn.log_softmax(seen @ prototypes(count, width).T / temperature), cosine)


def unit(x: Array) -> Array:
    """x / |x| on the last axis; zeros stay zeros."""
    return x * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), -1, keepdims=True), 1e-12))


def prototypes(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Unit vectors [count, width] as far apart as possible: every pairwise cosine is
    -1 / (count - 1). For count = 1, zeros.
    """
    if width < max(count - 1, 1):
        raise InvalidSetting(
            f"prototypes: field 'width': expected at least {max(count - 1, 1)} for {count} "
            f"vectors, found {width}"
        )
    if count == 1:
        return np.zeros((1, width), np.float32)
    left, sizes, _ = np.linalg.svd(np.eye(count) - 1.0 / count)
    simplex = (left * sizes)[:, : count - 1]  # centred one-hot vectors, in the space that they span
    simplex /= np.linalg.norm(simplex, axis=1, keepdims=True)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    return (simplex @ turn[: count - 1]).astype(np.float32)
