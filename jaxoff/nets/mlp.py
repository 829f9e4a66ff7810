"""Multi-layer perceptrons, one for all or a stack with own weights for each agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from jaxoff.types import Array


def within(bound: float) -> Callable[..., Array]:
    """Initialiser: uniform in +-bound."""
    return lambda key, shape, dtype=float: jax.random.uniform(key, shape, dtype, -bound, bound)


def fan_in_dense(width: int, fan_in: int, *, bias: bool = True, head: float = 0.0, name: str | None = None) -> nn.Dense:
    """A linear layer with weights and bias uniform in +-1 / sqrt(fan_in), as PyTorch starts them; head > 0: weights in +-head."""
    every = fan_in**-0.5
    return nn.Dense(width, use_bias=bias, kernel_init=within(head or every), bias_init=within(every), name=name)


class MLP(nn.Module):
    """Hidden layers of the given widths with an activation, then a linear head: [..., F] -> [..., out].

    features: hidden widths, then the size of the output. fan_in: start layers as `fan_in_dense` does, the head's
    weights in +-head if that is not 0.
    """

    features: Sequence[int]
    activation: Callable[[Array], Array] = jax.nn.relu
    fan_in: bool = False
    head: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply to the last axis."""
        for index, width in enumerate(self.features):
            last = index == len(self.features) - 1
            layer = fan_in_dense(width, x.shape[-1], head=self.head if last else 0.0) if self.fan_in else nn.Dense(width)
            x = layer(x) if last else self.activation(layer(x))
        return x


class ActionCritic(nn.Module):
    """Values of many actions at each of some contexts: context [M, F], actions [K, M, A] -> [K, M].

    An MLP of [context, action] with two hidden layers, whose product with the context is made once for all K.
    """

    hidden: int

    @nn.compact
    def __call__(self, context: Array, actions: Array) -> Array:
        """Apply to the last axes."""
        fan_in = context.shape[-1] + actions.shape[-1]
        x = fan_in_dense(self.hidden, fan_in, name="context")(context)
        x = jax.nn.relu(x + fan_in_dense(self.hidden, fan_in, bias=False, name="action")(actions))
        x = jax.nn.relu(fan_in_dense(self.hidden, self.hidden, name="inner")(x))
        return fan_in_dense(1, self.hidden, name="value")(x)[..., 0]
