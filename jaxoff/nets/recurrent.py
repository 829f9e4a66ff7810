"""A gated recurrent net over sequences: input products for all steps at once, the scan keeps the recurrence."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.types import Array


class GRU(nn.Module):
    """GRU with reset applied after the hidden product, its bias inside (Cho et al., 2014, as cuDNN has it).

    __call__(memory [..., H], x [..., T, F], reset) -> (memory [..., H], outputs [..., T, H]).
    reset: [..., T] bool, where memory restarts from zero before the step, or None.
    """

    features: int

    @nn.compact
    def __call__(self, memory: Array, x: Array, reset: Array | None = None) -> tuple[Array, Array]:
        """Run over the time axis, the last but one."""
        width = self.features
        from_input = nn.Dense(3 * width, name="input")(x)
        hidden = self.param("hidden", nn.initializers.orthogonal(), (width, 3 * width))
        bias = self.param("hidden_bias", nn.initializers.zeros, (width,))

        def step(h: Array, x: tuple[Array, Array | None]) -> tuple[Array, Array]:
            gates, fresh = x
            h = h if fresh is None else jnp.where(fresh[..., None], 0.0, h)
            r_in, z_in, n_in = jnp.split(gates, 3, -1)
            r_h, z_h, n_h = jnp.split(h @ hidden, 3, -1)
            use, keep = jax.nn.sigmoid(r_in + r_h), jax.nn.sigmoid(z_in + z_h)
            candidate = jnp.tanh(n_in + use * (n_h + bias))
            h = (1 - keep) * candidate + keep * h
            return h, h

        fresh = None if reset is None else jnp.moveaxis(reset, -1, 0)
        memory, out = lax.scan(step, memory, (jnp.moveaxis(from_input, -2, 0), fresh))
        return memory, jnp.moveaxis(out, 0, -2)


class RecurrentNet(nn.Module):
    """Linear - ReLU - GRU - linear, as the agent nets of PyMARL: (memory, x [..., T, F]) -> (memory, [..., T, out]).

    activated: a ReLU after the GRU too, as the policies of OG-MARL.
    """

    hidden: int
    out: int
    activated: bool = False

    @nn.compact
    def __call__(self, memory: Array, x: Array, reset: Array | None = None) -> tuple[Array, Array]:
        """Run over the time axis, the last but one."""
        memory, h = GRU(self.hidden)(memory, jax.nn.relu(nn.Dense(self.hidden)(x)), reset)
        return memory, nn.Dense(self.out)(jax.nn.relu(h) if self.activated else h)
