"""Graph attention: what one node of a fully connected graph gathers from all of them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxoff.nets.layers import Dense, LayerInit
from jaxoff.types import Array


class GraphAttention(nn.Module):
    """One head of a graph attention layer (Velickovic et al., 2018), for one node: [..., N, F],
    [..., F] -> [..., features].

    h_n = W x_n; the output is the sum of all h_n, the node's own included, weighted by softmax_n
    LeakyReLU(a . [h_own; h_n]) with slope 0.2; nothing is applied after that. attention: false
    gives every node the same weight.
    """

    features: int
    attention: bool = True
    layer_init: LayerInit = "torch"

    def setup(self) -> None:
        """W, and the two halves of a."""
        self.embed = Dense(self.features, self.layer_init, use_bias=False)
        if self.attention:
            half = lambda: Dense(1, self.layer_init, use_bias=False, fan_in=2 * self.features)
            self.of_own, self.of_node = half(), half()

    def weights(self, nodes: Array, own: Array) -> Array:
        """Weights [..., N] that add up to 1; `own` is the attending node and is among `nodes`."""
        return self.weights_of(self.embed(nodes), own)

    def weights_of(self, h: Array, own: Array) -> Array:
        """`weights`, from the embedded nodes h [..., N, features]."""
        if not self.attention:
            return jnp.full(h.shape[:-1], 1.0 / h.shape[-2])
        score = self.of_own(self.embed(own)) + self.of_node(h)[..., 0]
        return jax.nn.softmax(jax.nn.leaky_relu(score, 0.2), -1)

    def __call__(self, nodes: Array, own: Array) -> Array:
        """The weighted sum [..., features]."""
        h = self.embed(nodes)
        return jnp.einsum("...n,...nf->...f", self.weights_of(h, own), h)
