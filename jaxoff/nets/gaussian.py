"""Gaussian policies over real actions: nets for the means, one number for the spread of each
dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxoff import distributions
from jaxoff.types import Array, Carry, Distribution, Params, Policy, TimeStep

LOG_STD = (-3.0, 0.0)  # the parameter itself is kept inside
LOG_STD_START = -0.5


class Gaussian(NamedTuple):
    """Parameters: nets of the means, and log_std [..., A], broadcast against means [..., N, A]."""

    net: Params
    log_std: Array


def data_density(dist: Distribution, actions: Array, bound: float) -> Array:
    """log density of the data's actions, clipped to the bound: not squashed, so finite at the
    bound; [..., N, A] -> [..., N].
    """
    return dist.log_prob(jnp.clip(actions, -bound, bound))


def bounded_spread(policy: Gaussian) -> Gaussian:
    """The parameters, with log_std moved back into its range."""
    return policy._replace(log_std=jnp.clip(policy.log_std, *LOG_STD))


def gaussian_policy(means: Policy, log_std: Array) -> Policy:
    """The policy around another one, whose modes are its means."""

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
        memory, dist = means.distribution(memory, seen)
        return memory, distributions.normal(dist.mode(), log_std)

    return Policy(means.initial, distribution)
