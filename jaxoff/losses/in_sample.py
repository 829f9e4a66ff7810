"""In-sample policy improvement with behaviour and entropy regularisation; rows [M] of a flattened
batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.draw import draw, running_total
from jaxoff.losses.conservative import conservative_term
from jaxoff.losses.likelihood import expectation, masked_mean, negative_log_likelihood, taken
from jaxoff.types import UNAVAILABLE, Array, Key


def log_ratio(log_pi: Array, log_mates: Array, agent: Array | int, power: str = "n-1") -> Array:
    """Log importance ratio of the teammates of an agent (InSPO Eq. 23), [M], clipped to [-10, log
    100].

    log_pi: log pi_j(a_j) [M, N]; log_mates: log mu_i(a_j | s, a_i, ...) [M, N]; entries of the
    agent itself are not used. power: what the sum over teammates is divided by, "n-1" or "n".
    """
    n = log_pi.shape[-1]
    total = jnp.sum(jnp.where(jnp.arange(n) != agent, log_pi - log_mates, 0.0), -1)
    return jnp.clip(total / (n - 1 if power == "n-1" else n), -10.0, jnp.log(100.0))


def resample(key: Key, weight: Array) -> tuple[Array, Array]:
    """Draw M rows with replacement, P proportional to weight [M] >= 0: (rows [M], number of times
    that each row was drawn [M]).
    """
    drawn = draw(running_total(weight), key, weight.shape[0])
    return drawn, jnp.zeros_like(weight).at[drawn].add(1.0)


def soft_value(logits: Array, q: Array, log_mu: Array, alpha: Array, beta: Array) -> Array:
    """Regularised value (InSPO Eq. 10): E_pi[q - alpha log(pi / mu) - beta log pi] over actions,
    [..., A] -> [...].
    """
    log_pi = jax.nn.log_softmax(logits)
    gap = jnp.clip(log_pi - log_mu, -10.0, 10.0)
    # without this, beta times the log probability of a masked action would be infinite
    entropy = jnp.where(log_pi > 0.5 * UNAVAILABLE, log_pi, 0.0)
    return expectation(logits, q - alpha * gap - beta * entropy)


def conservative_value_loss(
    q: Array, target: Array, actions: Array, avail: Array, cql: Array | float
) -> Array:
    """Squared error plus `cql` times the conservative term over available actions (InSPO Eq. 24), q
    [M, A] -> [M].
    """
    error = jnp.square(taken(q, actions) - lax.stop_gradient(target))
    return error + cql * conservative_term(q, actions, avail)


def policy_weight(advantage: Array, log_mu_taken: Array, alpha: Array, beta: Array) -> Array:
    """exp((A - beta log mu(a)) / (alpha + beta)) (InSPO Eq. 20), [M] -> [M], clipped.

    Actions that are rare in the data weigh more.
    """
    return jnp.minimum(
        jnp.exp(jnp.clip((advantage - beta * log_mu_taken) / (alpha + beta), -20.0, 5.0)), 100.0
    )


def weighted_policy_loss(
    logits: Array, actions: Array, weight: Array, counts: Array, normalise: bool
) -> Array:
    """Weighted likelihood (InSPO Eq. 20), a scalar; counts [M] say how often each row was
    resampled.
    """
    loss = masked_mean(weight * negative_log_likelihood(logits, actions), counts)
    return loss / jnp.maximum(masked_mean(weight, counts), 1e-8) if normalise else loss
