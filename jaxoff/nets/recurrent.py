"""A gated recurrent net over sequences: input products are computed for all steps at once, and only
the recurrence is scanned.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.nets.layers import Dense, GRUStart, LayerInit
from jaxoff.types import Array

GRUReset = Literal["after", "before"]


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al., 2014), in one of the two forms of common libraries.

    reset_gate: "after", the candidate is tanh(W x + b + r (U h + c)), as PyTorch and cuDNN have it;
    "before", it is tanh(W x + b + U (r h)), as Sonnet and the paper have it, without the bias c.
    __call__(memory [..., H], x [..., T, F], reset) -> (memory [..., H], outputs [..., T, H]).
    reset: [..., T] bool, where memory restarts from zero before the step, or None.
    """

    features: int
    layer_init: LayerInit = "torch"
    reset_gate: GRUReset = "after"

    @nn.compact
    def __call__(self, memory: Array, x: Array, reset: Array | None = None) -> tuple[Array, Array]:
        """Run over the time axis, the last but one."""
        width, start, after = (
            self.features,
            GRUStart(self.layer_init, self.features),
            self.reset_gate == "after",
        )
        from_input = nn.Dense(
            3 * width, kernel_init=start.input, bias_init=start.bias, name="input"
        )(x)
        hidden = self.param("hidden", start.hidden, (width, 3 * width))
        # With "before", only the first two gates' products can be computed from the memory alone.
        early = hidden if after else hidden[:, : 2 * width]
        bias = self.param("hidden_bias", start.hidden_bias, (width,)) if after else 0.0

        def step(h: Array, x: tuple[Array, Array | None]) -> tuple[Array, Array]:
            gates, fresh = x
            h = h if fresh is None else jnp.where(fresh[..., None], 0.0, h)
            r_in, z_in, n_in = jnp.split(gates, 3, -1)
            r_h, z_h, *n_h = jnp.split(h @ early, 3 if after else 2, -1)
            use, keep = jax.nn.sigmoid(r_in + r_h), jax.nn.sigmoid(z_in + z_h)
            recurrent = use * (n_h[0] + bias) if after else (use * h) @ hidden[:, 2 * width :]
            candidate = jnp.tanh(n_in + recurrent)
            h = (1 - keep) * candidate + keep * h
            return h, h

        fresh = None if reset is None else jnp.moveaxis(reset, -1, 0)
        memory, out = lax.scan(step, memory, (jnp.moveaxis(from_input, -2, 0), fresh))
        return memory, jnp.moveaxis(out, 0, -2)


class RecurrentNet(nn.Module):
    """Linear - ReLU - GRU - linear, as the agent nets of PyMARL: (memory, x [..., T, F]) ->
    (memory, [..., T, out]).

    activated: a ReLU after the GRU too, as in the policies of OG-MARL.
    """

    hidden: int
    out: int
    activated: bool = False
    layer_init: LayerInit = "torch"
    reset_gate: GRUReset = "after"

    @nn.compact
    def __call__(self, memory: Array, x: Array, reset: Array | None = None) -> tuple[Array, Array]:
        """Run over the time axis, the last but one."""
        x = jax.nn.relu(Dense(self.hidden, self.layer_init)(x))
        memory, h = GRU(self.hidden, self.layer_init, self.reset_gate)(memory, x, reset)
        return memory, Dense(self.out, self.layer_init)(jax.nn.relu(h) if self.activated else h)
