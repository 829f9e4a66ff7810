"""A gated recurrent net over sequences: input products are computed for all steps at once, and only
the recurrence is scanned.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxoff import blocks
from jaxoff.nets.layers import Dense, GRUStart, LayerInit, dot_general
from jaxoff.types import Array

GRUReset = Literal["after", "before"]


def emptied(memory: Array, reset: Array | None) -> Array:
    """The memory, zero where it restarts."""
    return memory if reset is None else jnp.where(reset[..., None], 0.0, memory)


def recurrence(
    hidden: Array, bias: Array, memory: Array, gates: Array, reset: Array | None
) -> Array:
    """Memories [T, ..., W] after each step, with the reset gate after the recurrent product.

    hidden [W, 3 W], bias [W], memory [..., W] before the first step, gates [T, ..., 3 W] from the
    input, reset [T, ...] or None.
    """

    def step(h: Array, x: tuple[Array, Array | None]) -> tuple[Array, Array]:
        h = emptied(h, x[1])
        r_in, z_in, n_in = jnp.split(x[0], 3, -1)
        r_h, z_h, n_h = jnp.split(h @ hidden, 3, -1)
        use, keep = jax.nn.sigmoid(r_in + r_h), jax.nn.sigmoid(z_in + z_h)
        h = (1 - keep) * jnp.tanh(n_in + use * (n_h + bias)) + keep * h
        return h, h

    return lax.scan(step, memory, (gates, reset))[1]


def _forward(
    hidden: Array, bias: Array, memory: Array, gates: Array, reset: Array | None
) -> tuple[Array, Any]:
    out = recurrence(hidden, bias, memory, gates, reset)
    return out, (hidden, bias, memory, gates, reset, out)


def _backward(kept: Any, d_out: Array) -> tuple[Array, Array, Array, Array, None]:
    hidden, bias, memory, gates, reset, out = kept
    before = emptied(jnp.concatenate([memory[None], out[:-1]]), reset)
    r_in, z_in, n_in = jnp.split(gates, 3, -1)
    r_h, z_h, n_h = jnp.split(before @ hidden, 3, -1)
    use, keep, inner = jax.nn.sigmoid(r_in + r_h), jax.nn.sigmoid(z_in + z_h), n_h + bias
    candidate = jnp.tanh(n_in + use * inner)
    # Derivatives of a memory by the inputs of its gates.
    by_n = (1 - keep) * (1 - jnp.square(candidate))
    by_z = (before - candidate) * keep * (1 - keep)
    by_r = by_n * inner * use * (1 - use)
    by_product = jnp.concatenate([by_r, by_z, by_n * use], -1)  # [T, ..., 3 W]

    def step(d_after: Array, x: Any) -> tuple[Array, Array]:
        d_out, by_product, keep, fresh = x
        d = d_after + d_out
        d_product = jnp.concatenate([d, d, d], -1) * by_product
        return emptied(d * keep + d_product @ hidden.T, fresh), d

    inputs = d_out, by_product, keep, reset
    d_memory, d = lax.scan(step, jnp.zeros_like(memory), inputs, reverse=True)
    d_product = jnp.concatenate([d, d, d], -1) * by_product
    width = memory.shape[-1]
    d_hidden = before.reshape(-1, width).T @ d_product.reshape(-1, 3 * width)
    d_bias = jnp.sum((d * by_n * use).reshape(-1, width), 0)
    return d_hidden, d_bias, d_memory, jnp.concatenate([d * by_r, d * by_z, d * by_n], -1), None


# The same function for accelerators, with fewer kernels in its gradient: that keeps the memories
# alone, computes all gates anew in one product, carries one array back in time, and takes the
# gradient of `hidden` in one product over all steps. On a CPU it is no faster.
recurrence_in_few_kernels = jax.custom_vjp(recurrence)
recurrence_in_few_kernels.defvjp(_forward, _backward)


def recurrence_before(hidden: Array, memory: Array, gates: Array, reset: Array | None) -> Array:
    """Memories [T, ..., W] after each step, with the reset gate before the recurrent product."""
    width = memory.shape[-1]

    def step(h: Array, x: tuple[Array, Array | None]) -> tuple[Array, Array]:
        h = emptied(h, x[1])
        r_in, z_in, n_in = jnp.split(x[0], 3, -1)
        r_h, z_h = jnp.split(h @ hidden[:, : 2 * width], 2, -1)
        use, keep = jax.nn.sigmoid(r_in + r_h), jax.nn.sigmoid(z_in + z_h)
        h = (1 - keep) * jnp.tanh(n_in + (use * h) @ hidden[:, 2 * width :]) + keep * h
        return h, h

    return lax.scan(step, memory, (gates, reset))[1]


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
            3 * width,
            kernel_init=start.input,
            bias_init=start.bias,
            dot_general=dot_general,
            name="input",
        )(x)
        hidden = self.param("hidden", start.hidden, (width, 3 * width))
        gates = jnp.moveaxis(from_input, -2, 0)
        fresh = None if reset is None else jnp.moveaxis(reset, -1, 0)
        if after:
            bias = self.param("hidden_bias", start.hidden_bias, (width,))
            function = recurrence if blocks.fits_cache() else recurrence_in_few_kernels
            out = function(hidden, bias, memory, gates, fresh)
        else:
            out = recurrence_before(hidden, memory, gates, fresh)
        return out[-1] if len(out) else memory, jnp.moveaxis(out, 0, -2)


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
