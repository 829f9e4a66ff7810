"""Multi-layer perceptrons for policies, values and mixers, and a critic of many actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
from jax import lax

from jaxoff import blocks
from jaxoff.nets.layers import Dense, LayerInit
from jaxoff.types import Array, Params

NARROW = 8  # most inputs of a layer whose product is written as a sum


class MLP(nn.Module):
    """Hidden layers of the given widths with an activation, then a linear head: [..., F] -> [...,
    out].

    features: hidden widths, then the size of the output. head: where it is not 0, the weights of
    the last layer start uniform in +-head. The input may be given in parts, as for `Dense`.
    """

    features: Sequence[int]
    activation: Callable[[Array], Array] = jax.nn.relu
    layer_init: LayerInit = "torch"
    head: float = 0.0

    @nn.compact
    def __call__(self, x: Array | Sequence[Array]) -> Array:
        """Apply to the last axis."""
        *hidden, out = self.features
        for width in hidden:
            x = self.activation(Dense(width, self.layer_init)(x))
        return Dense(out, self.layer_init, head=self.head)(x)


class ActionCritic(nn.Module):
    """Values of many actions at each of some contexts: context [M, F], actions [K, M, A] -> [K, M].

    An MLP of [context, action] with two hidden layers; the first layer's product with the context
    is computed once for all K actions.
    """

    hidden: int
    layer_init: LayerInit = "torch"

    @nn.compact
    def __call__(self, context: Array, actions: Array, embedded: bool = False) -> Array:
        """Apply to the last axes. embedded: the context is what `embedding` makes of it."""
        fan_in = actions.shape[-1] + context.shape[-1]
        # On an accelerator the first layer of all K actions is never stored without the activation,
        # and the gradient of its bias is part of that of its product with the context.
        in_one_piece = not blocks.fits_cache()
        narrow = in_one_piece and actions.shape[-1] <= NARROW
        of_context = Dense(
            self.hidden, self.layer_init, fan_in=fan_in, ones=in_one_piece, name="context"
        )
        x = context if embedded else of_context(context)
        x = lax.optimization_barrier(x) if in_one_piece else x
        of_action = Dense(
            self.hidden,
            self.layer_init,
            use_bias=False,
            fan_in=fan_in,
            narrow=narrow,
            name="action",
        )
        x = jax.nn.relu(x + of_action(actions))
        # Rows on one axis: the gradient of a product over two axes of rows copies both operands.
        shape, x = x.shape[:-1], x.reshape(-1, self.hidden)
        x = jax.nn.relu(Dense(self.hidden, self.layer_init, name="inner")(x))
        return Dense(1, self.layer_init, name="value")(x).reshape(shape)


def embedding(params: Params, context: Array) -> Array:
    """What the first layer of an `ActionCritic` makes of contexts, [M, F] -> [M, hidden]."""
    layer = params["params"]["context"]
    dense = Dense(layer["bias"].shape[-1], ones=not blocks.fits_cache())
    return dense.apply({"params": layer}, context)
