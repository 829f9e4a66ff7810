"""Gaussian policies over real actions: nets for the means, one number for the spread of each
dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import distrax
import jax.numpy as jnp

from jaxoff.types import Array, Carry, Params, Policy, TimeStep

LOG_STD = (-3.0, 0.0)  # the parameter itself is kept inside
LOG_STD_START = -0.5


class Gaussian(NamedTuple):
    """Parameters: nets of the means, and log_std [..., A], broadcast against means [..., N, A]."""

    net: Params
    log_std: Array


def gaussian(log_std: Array, mean: Array) -> distrax.Distribution:
    """N(mean, diagonal), means [..., N, A]; its mode is the mean."""
    return distrax.Independent(
        distrax.Normal(mean, jnp.broadcast_to(jnp.exp(log_std), mean.shape)), 1
    )


def data_density(dist: distrax.Distribution, actions: Array, bound: float) -> Array:
    """log density of the data's actions, clipped to the bound: not squashed, so finite at the
    bound; [..., N, A] -> [..., N].
    """
    return dist.log_prob(jnp.clip(actions, -bound, bound))


def bounded_spread(policy: Gaussian) -> Gaussian:
    """The parameters, with log_std moved back into its range."""
    return policy._replace(log_std=jnp.clip(policy.log_std, *LOG_STD))


def gaussian_policy(means: Policy, log_std: Array) -> Policy:
    """The policy around another one, whose modes are its means."""

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, distrax.Distribution]:
        memory, dist = means.distribution(memory, seen)
        return memory, gaussian(log_std, dist.mode())

    return Policy(means.initial, distribution)
