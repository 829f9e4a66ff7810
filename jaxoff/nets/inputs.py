"""Inputs of nets standardised by the moments of all inputs so far, and how a net takes them over.

A net that was trained on standardised inputs equals one on plain inputs whose first layer has other
weights. So policies that learn online from standardised observations are stored, and play, like
those that do not.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxoff.types import Array, Params

SMALLEST = 1e-2  # least standard deviation by which an input is divided


class InputMoments(NamedTuple):
    """Mean [F] and variance [F] of all inputs so far, and their number []."""

    mean: Array
    variance: Array
    total: Array


def unseen(size: int) -> InputMoments:
    """The moments before the first input, with which inputs stay as they are."""
    return InputMoments(jnp.zeros(size), jnp.ones(size), jnp.zeros(()))


def extended(moments: InputMoments, x: Array) -> InputMoments:
    """The moments with more inputs [..., F], each of which counts as much as each earlier one."""
    rows = x.reshape(-1, x.shape[-1])
    more, total = rows.shape[0], moments.total + rows.shape[0]
    apart, share = rows.mean(0) - moments.mean, more / total
    spread = share * rows.var(0) + (1 - share) * moments.variance
    between = share * (1 - share) * jnp.square(apart)
    return InputMoments(moments.mean + share * apart, spread + between, total)


def deviation(moments: InputMoments) -> Array:
    """What inputs are divided by, [F]."""
    return jnp.maximum(jnp.sqrt(moments.variance), SMALLEST)


def standardised(moments: InputMoments, x: Array) -> Array:
    """Inputs [..., F] with mean 0 and variance 1."""
    return (x - moments.mean) / deviation(moments)


def folded(params: Params, moments: InputMoments) -> Params:
    """The parameters of a net of plain inputs that equals a net of standardised ones.

    params: of one of the nets of `Actors`, whose first inputs [F] are those of the moments.
    """
    layers, size = dict(params["params"]), moments.mean.shape[0]
    first = layers["Dense_0"]
    scaled = first["kernel"][:size] / deviation(moments)[:, None]
    layers["Dense_0"] = {
        "kernel": jnp.concatenate([scaled, first["kernel"][size:]]),
        "bias": first["bias"] - moments.mean @ scaled,
    }
    return {"params": layers}
