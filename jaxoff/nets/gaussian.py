"""Gaussian policies over continuous actions: nets for the means, one log standard deviation per
dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxoff import distributions
from jaxoff.types import Array, Carry, Distribution, Params, Policy, TimeStep

LOG_STD = (-3.0, 0.0)  # range to which the parameter log_std is clipped
LOG_STD_START = -0.5


class Gaussian(NamedTuple):
    """Parameters: nets of the means, and log_std [..., A], broadcast against means [..., N, A]."""

    net: Params
    log_std: Array


def data_density(dist: Distribution, actions: Array, bound: float) -> Array:
    """Log density of the data's actions, clipped to the bound: [..., N, A] -> [..., N]. The policy
    is not squashed, so the density is finite at the bound.
    """
    return dist.log_prob(jnp.clip(actions, -bound, bound))


def bounded_spread(policy: Gaussian) -> Gaussian:
    """The parameters, with log_std moved back into its range."""
    return policy._replace(log_std=jnp.clip(policy.log_std, *LOG_STD))


def gaussian_policy(means: Policy, log_std: Array) -> Policy:
    """The Gaussian policy whose means are the modes of another policy."""

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
        memory, dist = means.distribution(memory, seen)
        return memory, distributions.normal(dist.mode(), log_std)

    return Policy(means.initial, distribution)
