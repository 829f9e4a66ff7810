"""How layers start: the one place that sets the initialiser of every linear layer and recurrent
cell.

torch: weights and biases uniform in +-1 / sqrt(fan in); all of a GRU uniform in +-1 / sqrt(width)
    (PyTorch's default).
xavier: weights uniform in +-sqrt(6 / (fan in + fan out)), biases as torch's.
flax: weights normal with variance 1 / fan in, truncated at two deviations; biases 0; recurrent
    weights orthogonal.
sonnet: weights normal with deviation 1 / sqrt(fan in) before truncation at two deviations; biases
    0; weights of a GRU uniform as xavier's, over all of its gates together.
The field `layer_init` of a method's Config has its released code's initialiser as the default. A
wrong one is not found by tests that copy weights, and it decides some published results
(docs/methods/cfcql.md).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxoff import blocks
from jaxoff.types import Array

LayerInit = Literal["torch", "xavier", "flax", "sonnet"]
Initialiser = Callable[..., Array]
# standard deviation of a standard normal that is truncated at two deviations
TRUNCATED_DEVIATION = 0.87962566103423978


def within(bound: float) -> Initialiser:
    """Initialiser: uniform in +-bound."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def kernel_init(layer_init: LayerInit, fan_in: int, fan_out: int) -> Initialiser:
    """Initialiser of the weights of a linear layer."""
    if layer_init == "torch":
        return within(fan_in**-0.5)
    if layer_init == "xavier":
        return within((6.0 / (fan_in + fan_out)) ** 0.5)
    # Flax corrects for the truncation, so that the variance is 1 / fan in; Sonnet does not.
    scale = {"flax": 1.0, "sonnet": TRUNCATED_DEVIATION**2}[layer_init]
    return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")


def bias_init(layer_init: LayerInit, fan_in: int) -> Initialiser:
    """Initialiser of the biases of a linear layer."""
    return within(fan_in**-0.5) if layer_init in ("torch", "xavier") else nn.initializers.zeros


@jax.custom_vjp
def _rows_product(x: Array, kernel: Array) -> Array:
    return jnp.dot(x, kernel)


def _rows_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.dot(x, kernel), (x, kernel)


def _rows_backward(kept: tuple[Array, Array], d_out: Array) -> tuple[Array, Array]:
    x, kernel = kept
    count = math.prod(x.shape[:-1])
    rows, d_rows = (y.reshape(count, y.shape[-1]) for y in (x, d_out))
    return jnp.dot(d_rows, kernel.T).reshape(x.shape), jnp.dot(rows.T, d_rows)


_rows_product.defvjp(_rows_forward, _rows_backward)


def product(x: Array, kernel: Array) -> Array:
    """x @ kernel: [..., F], [F, O] -> [..., O].

    On a CPU the gradient of the kernel is a product of matrices whose rows are all of x's. XLA
    would sum over several axes of rows, for which it copies one of the factors into an order that
    its products are slow in.
    """
    if not blocks.fits_cache():
        return jnp.dot(x, kernel)
    kind = jnp.result_type(x, kernel)
    # `jnp.array` also turns NumPy arrays that a program closes over into ones of JAX.
    return _rows_product(jnp.array(x, kind), jnp.array(kernel, kind))


def dot_general(x: Array, kernel: Array, *_: object, **__: object) -> Array:
    """`product` for the field of that name of flax's layers, which gives the axes that it sums."""
    return product(x, kernel)


class Dense(nn.Module):
    """A linear layer that starts as `layer_init` says: [..., fan in] -> [..., features].

    head: where it is not 0, the weights start uniform in +-head. fan_in: where it is not 0, the
    number of inputs that the initialiser assumes; for one of several layers whose outputs are added
    up, which then start like a single layer on all inputs. narrow: the product with few inputs is
    written as a sum, which XLA computes together with what follows instead of storing it. ones: the
    bias is one more row of the weights, and each input has a one at its end, so that one product
    adds the bias, and another one gives the gradients of both.
    The inputs may be given in several parts, whose other axes are broadcast against each other: the
    result is that of their concatenation, which is not made, and a part that many rows share is
    multiplied once.
    """

    features: int
    layer_init: LayerInit = "torch"
    use_bias: bool = True
    head: float = 0.0
    fan_in: int = 0
    narrow: bool = False
    ones: bool = False

    @nn.compact
    def __call__(self, x: Array | Sequence[Array]) -> Array:
        """Apply to the last axis."""
        parts: list[Array] = list(x) if isinstance(x, list | tuple) else [cast(Array, x)]
        sizes = [part.shape[-1] for part in parts]
        size, fan_in = sum(sizes), self.fan_in or sum(sizes)
        start = (
            within(self.head) if self.head else kernel_init(self.layer_init, fan_in, self.features)
        )
        kernel = self.param("kernel", start, (size, self.features))
        if self.ones:
            bias = self.param("bias", bias_init(self.layer_init, fan_in), (self.features,))
            x = jnp.concatenate([*parts, jnp.ones((*parts[0].shape[:-1], 1))], -1)
            return jnp.dot(x, jnp.concatenate([kernel, bias[None]]))
        if self.narrow:
            (one,) = parts
            products = [one[..., k, None] * kernel[k] for k in range(size)]
        else:
            pieces = jnp.split(kernel, np.cumsum(sizes)[:-1])
            products = [product(*pair) for pair in zip(parts, pieces, strict=True)]
        y = functools.reduce(jnp.add, products)
        return (
            y + self.param("bias", bias_init(self.layer_init, fan_in), (self.features,))
            if self.use_bias
            else y
        )


class GRUStart:
    """Initialisers of a GRU's parameters: input weights [F, 3 W], recurrent weights [W, 3 W],
    biases [3 W] and [W].

    Gates are in the order reset, update, candidate. PyTorch adds two biases in each of the first
    two gates; here each gate has one bias, which starts as the sum of two draws.
    """

    def __init__(self, layer_init: LayerInit, width: int) -> None:
        self.layer_init, self.width = layer_init, width

    def input(self, key: Array, shape: tuple[int, int], dtype: type = jnp.float32) -> Array:
        """Weights of the input."""
        if self.layer_init in ("torch", "xavier"):
            return within(self.width**-0.5)(key, shape, dtype)
        start = (
            nn.initializers.lecun_normal()
            if self.layer_init == "flax"
            else nn.initializers.glorot_uniform()
        )
        return start(key, shape, dtype)

    def hidden(self, key: Array, shape: tuple[int, int], dtype: type = jnp.float32) -> Array:
        """Weights of the memory."""
        if self.layer_init in ("torch", "xavier"):
            return within(self.width**-0.5)(key, shape, dtype)
        start = (
            nn.initializers.orthogonal()
            if self.layer_init == "flax"
            else nn.initializers.glorot_uniform()
        )
        return start(key, shape, dtype)

    def bias(self, key: Array, shape: tuple[int], dtype: type = jnp.float32) -> Array:
        """Biases added to the input product."""
        if self.layer_init not in ("torch", "xavier"):
            return jnp.zeros(shape, dtype)
        first, second = within(self.width**-0.5)(key, (2, *shape), dtype)
        return jnp.where(jnp.arange(shape[0]) < 2 * self.width, first + second, first)

    def hidden_bias(self, key: Array, shape: tuple[int], dtype: type = jnp.float32) -> Array:
        """Biases added to the candidate's recurrent product."""
        return (
            within(self.width**-0.5)(key, shape, dtype)
            if self.layer_init in ("torch", "xavier")
            else jnp.zeros(shape, dtype)
        )
