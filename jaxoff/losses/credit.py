"""Credit of single agents for a team's reward, and the sampling probabilities that follow from it
(Tian et al., AAAI 2023); unreduced.

Arrays are [E, T, N] over the steps of whole episodes; a type is a set of agents that can replace
each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.losses.td import lambda_return
from jaxoff.types import Array


def decomposition_error(totals: Array, reward: Array) -> Array:
    """Mean over members of the squared error of their totals, Eq. 3: totals [M, ...], reward [...]
    -> [...].
    """
    chex.assert_equal_shape([totals[0], reward])
    return jnp.mean(jnp.square(totals - reward), 0)


def moments(own: Array) -> tuple[Array, Array]:
    """Mean and population standard deviation over the members of an ensemble, Eq. 4 and 5: [M, ...]
    -> two of [...].
    """
    return jnp.mean(own, 0), jnp.std(own, 0)


def returns_to_go(reward: Array, valid: Array, gamma: Array | float) -> Array:
    """g_t = sum over t' >= t of gamma^(t' - t) r_t', Eq. 6; reward [E, T, N], valid [E, T] -> [E,
    T, N], 0 where not valid.

    Nothing is added for what lies beyond the end of an episode. (The paper prints the exponent with
    the other sign.)
    """
    return lambda_return(reward, jnp.zeros_like(valid), valid, jnp.zeros_like(reward), gamma, 1.0)


def episode_means(x: Array, valid: Array) -> Array:
    """Mean over the real steps of each episode: [E, T, N], [E, T] -> [E, N].

    The mean of returns to go is the priority of a trajectory.
    """
    chex.assert_equal_shape([x[..., 0], valid])
    return jnp.sum(x * valid[..., None], 1) / jnp.maximum(jnp.sum(valid, 1), 1.0)[:, None]


def rescaled(x: Array, top: Array | float, trim: Array | float = 0.0) -> Array:
    """x shifted and scaled to [0, top]; all 0 where x does not vary.

    trim: this share of the values is clipped at each end before rescaling, so that a few outliers
        don't set the range.
    """
    low, high = jnp.quantile(x, trim), jnp.quantile(x, 1.0 - trim)
    spread = high - low
    return jnp.where(
        spread < 1e-8, 0.0, top * (jnp.clip(x, low, high) - low) / jnp.maximum(spread, 1e-8)
    )


def trajectory_log_probs(
    priority: Array,
    types: Sequence[int],
    top: Array | float,
    alpha: Array | float,
    trim: Array | float = 0.0,
) -> Array:
    """log p of every trajectory among those of its type, Eq. 7: priority [E, N] -> [E, N].

    p adds up to 1 over all episodes and all agents of a type. Priorities of a type are first
    rescaled to [0, top], with the share `trim` clipped at each end; alpha = inf gives a uniform
    choice.
    """
    out = jnp.zeros_like(priority)
    for members in members_of(types):
        own = rescaled(priority[:, members], top, trim) / alpha
        out = out.at[:, members].set(jax.nn.log_softmax(own.reshape(-1)).reshape(own.shape))
    return out


def certainty_weights(
    spread: Array,
    valid: Array,
    types: Sequence[int],
    eta: Array | float,
    floor: Array | float,
    most: Array | float,
) -> Array:
    """min(eta / max(u, u_floor), most) of Eq. 9 and 10: u [E, T, N] -> [E, T, N].

    u is the spread over members. u_floor is its 5th percentile over the real steps of a type, and
    at least `floor`: u is about 0 where all members agree, as on steps of dead units.
    """
    out = jnp.zeros_like(spread)
    for members in members_of(types):
        u = spread[..., members]
        least = jnp.maximum(
            floor, jnp.nanpercentile(jnp.where(valid[..., None] > 0, u, jnp.nan), 5.0)
        )
        out = out.at[..., members].set(jnp.minimum(eta / jnp.maximum(u, least), most))
    return out


def members_of(types: Sequence[int]) -> list[np.ndarray]:
    """The agents of each type, in the order in which types first appear."""
    return [np.flatnonzero(np.asarray(types) == kind) for kind in dict.fromkeys(types)]


def effective_share(log_prob: Array, types: Sequence[int]) -> Array:
    """(1 / sum p^2) / count, mean over types: 1 for a uniform choice, 1/count where one trajectory
    has all the probability; [E, N] -> [].
    """
    parts = [log_prob[:, members] for members in members_of(types)]
    return jnp.mean(jnp.stack([jnp.exp(-jax.nn.logsumexp(2 * part)) / part.size for part in parts]))
