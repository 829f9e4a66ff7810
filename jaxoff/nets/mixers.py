"""Mixers: from one value per agent and the global state to a team value, monotone in every agent's
value.

values [..., N], state [..., S] -> total [...]. Leading axes are free.
"""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxoff.nets.layers import Dense, LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.types import Array


class SumMixer(nn.Module):
    """The sum over agents (VDN; Sunehag et al., 2018); no parameters."""

    @nn.compact
    def __call__(self, values: Array, state: Array) -> Array:
        """Total [...]."""
        return jnp.sum(values, -1)


class QMixer(nn.Module):
    """Two layers whose weights are non-negative functions of the state (QMIX; Rashid et al., 2018).

    hyper: width of the hidden layer of the nets that make the weights; 0 is a single linear map.
    """

    embed: int = 32
    hyper: int = 64
    layer_init: LayerInit = "torch"

    @nn.compact
    def __call__(self, values: Array, state: Array) -> Array:
        """Total [...]."""
        inner, layer_init = (self.hyper,) if self.hyper else (), self.layer_init
        n = values.shape[-1]
        first = jnp.abs(MLP((*inner, n * self.embed), layer_init=layer_init)(state)).reshape(
            *state.shape[:-1], n, self.embed
        )
        hidden = jax.nn.elu(
            jnp.einsum("...n,...ne->...e", values, first) + Dense(self.embed, layer_init)(state)
        )
        second = jnp.abs(MLP((*inner, self.embed), layer_init=layer_init)(state))
        return (
            jnp.einsum("...e,...e->...", hidden, second)
            + MLP((self.embed, 1), layer_init=layer_init)(state)[..., 0]
        )


class LinearMixer(nn.Module):
    """sum_i w_i(s) q_i + b(s), w >= 0 with sum_i w_i = 1 (ICQ; Yang et al., 2021).

    bias: whether b(s) is added; the paper has it, the released code does not.
    """

    embed: int = 32
    num_agents: int = 1
    bias: bool = True
    layer_init: LayerInit = "torch"

    def setup(self) -> None:
        """Two hyper-networks for the weights, one for the bias."""
        self.first = Dense(self.num_agents * self.embed, self.layer_init)
        self.second = Dense(self.embed, self.layer_init)
        self.offset = MLP((self.embed, 1), layer_init=self.layer_init)

    def weights(self, state: Array) -> tuple[Array, Array]:
        """(w [..., N], b [...]); b is zero without a bias."""
        first = jnp.abs(self.first(state)).reshape(*state.shape[:-1], self.num_agents, self.embed)
        raw = jnp.einsum("...ne,...e->...n", first, jnp.abs(self.second(state)))
        weights = raw / (jnp.sum(raw, -1, keepdims=True) + 1e-10)
        return weights, self.offset(state)[..., 0] if self.bias else jnp.zeros(state.shape[:-1])

    def __call__(self, values: Array, state: Array) -> Array:
        """Total [...]."""
        # one weight would be broadcast over all values
        chex.assert_axis_dimension(values, -1, self.num_agents)
        weights, bias = self.weights(state)
        return jnp.sum(weights * values, -1) + bias


class AffineMixer(nn.Module):
    """sum_i w_i(s) q_i + b(s), w >= 0 and not normalised, from one shared hidden layer (OMIGA; Wang
    et al., 2023).
    """

    num_agents: int
    hidden: int = 64
    layer_init: LayerInit = "torch"

    def setup(self) -> None:
        """One layer and two heads."""
        self.trunk = Dense(self.hidden, self.layer_init)
        self.scale, self.offset = Dense(self.num_agents, self.layer_init), Dense(1, self.layer_init)

    def weights(self, state: Array) -> tuple[Array, Array]:
        """(w [..., N], b [...])."""
        hidden = jax.nn.relu(self.trunk(state))
        return jnp.abs(self.scale(hidden)), self.offset(hidden)[..., 0]

    def __call__(self, values: Array, state: Array) -> Array:
        """Total [...]."""
        # one weight would be broadcast over all values
        chex.assert_axis_dimension(values, -1, self.num_agents)
        weights, bias = self.weights(state)
        return jnp.sum(weights * values, -1) + bias
