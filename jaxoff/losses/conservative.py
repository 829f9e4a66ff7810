"""Conservative terms, which hold values of actions outside the data below those of the data's
actions; unreduced.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.losses.likelihood import taken
from jaxoff.types import UNAVAILABLE, Array, Key


def available_logsumexp(q: Array, avail: Array) -> Array:
    """log sum over available actions of exp q: [..., A] -> [...]; 0 where none is available
    (padding or after a terminal step).
    """
    found = jax.nn.logsumexp(jnp.where(avail > 0, q, UNAVAILABLE), -1)
    return jnp.where(jnp.any(avail > 0, -1), found, 0.0)


def conservative_term(q: Array, actions: Array, avail: Array) -> Array:
    """CQL(H), logsumexp_a q - q(a in the data), over available actions (Kumar et al., 2020, Eq. 4);
    [..., A] -> [...], >= 0.
    """
    return available_logsumexp(q, avail) - taken(q, actions)


def sampled_logsumexp(q: Array, log_density: Array, temperature: Array | float = 1.0) -> Array:
    """T logsumexp_m (q_m - log p(a_m)) / T over sampled actions (Kumar et al., 2020, appendix F).

    q [..., M], log_density broadcastable to it -> [...]. The number of samples is not divided out.
    """
    return temperature * jax.nn.logsumexp((q - log_density) / temperature, -1)


def agent_weights(deviation: Array, tau: Array | float) -> Array:
    """lambda_i = softmax_i(tau D_i), a constant: [..., N] -> [..., N]; from tau = 100 on, 1 for the
    largest D_i alone.

    These are the weights of the agents' conservative terms (CFCQL, Shao et al., 2023): larger for
    an agent that deviates further from its behaviour policy.
    """
    largest = jax.nn.one_hot(jnp.argmax(deviation, -1), deviation.shape[-1], dtype=deviation.dtype)
    return lax.stop_gradient(jnp.where(tau >= 100.0, largest, jax.nn.softmax(tau * deviation)))


def uniform_actions(key: Key, shape: tuple[int, ...], bound: float) -> tuple[Array, float]:
    """Actions of shape [..., A], uniform in +-bound, and log p of each: -A log(2 bound)."""
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound), -shape[-1] * math.log(
        2.0 * bound
    )


def near_actions(
    key: Key, centre: Array, count: int, noise: float, bound: float
) -> tuple[Array, Array]:
    """Actions [count, ..., A] with Gaussian noise around centre [..., A], clipped to +-bound, and
    log p [count, ...] before clipping.
    """
    away = noise * jax.random.normal(key, (count, *centre.shape))
    density = jnp.sum(
        -0.5 * jnp.square(away / noise) - math.log(noise * math.sqrt(2.0 * math.pi)), -1
    )
    return jnp.clip(centre + away, -bound, bound), density
