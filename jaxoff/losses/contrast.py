"""Soft contrast of a policy with data of known quality: it draws the policy towards actions of good
episodes and away from those of poor ones.

Anchors n are M steps of the policy, compared with those of J data items j that are near them. The
form of G is Eq. 2 of Meng et al. (ICASSP 2024); the scores, which the paper does not print, are
distances in [0, 1] made of reward and proximity.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.types import Array, Key

NEAR = 0.05  # least proximity of a neighbour
FLOOR = 0.05  # least bandwidth
LARGE = 60.0  # largest exponent whose exp float32 can add up many times without overflow


class Pairs(NamedTuple):
    """Weights of each pair [M, J], constants in [0, 1], and 0 where j is not a neighbour of n."""

    attract: Array  # w+ = proximity x positivity
    repel: Array  # w- = proximity x (1 - positivity)
    member: Array  # 1 where j is a neighbour of n, else 0


def pairs_of(proximity: Array, positivity: Array, allowed: Array, soft: bool = True) -> Pairs:
    """Weights of all pairs. Neighbours are pairs with proximity [M, J] of at least .05 whose action
    is available at the anchor, allowed [M, J].

    positivity [J]: how good the episode of each item is; one minus it is how poor. soft=False:
        all neighbours have proximity 1.
    """
    chex.assert_equal_shape([proximity, allowed])
    member = (proximity >= NEAR) * (allowed > 0)
    weight = member * (proximity if soft else 1.0)
    return Pairs(
        *lax.stop_gradient(
            (weight * positivity, weight * (1.0 - positivity), member.astype(jnp.float32))
        )
    )


def contrast_loss(
    distance: Array,
    pairs: Pairs,
    actions: Array,
    eta: Array | float,
    nu: Array | float,
    mu: Array | float,
) -> Array:
    """G of Eq. 2, [M, K], always > 0 where an anchor has a neighbour.

    distance [M, K, A]: D of each anchor's policy to each action, in [0, 1]; actions [J] int of the
    items. With sc+ = w+ D and sc- = 1 - w- (1 - D), G is the sum over actions a of log(1 + sum_{j:
    a_j = a} exp(eta sc+ - mu)) / eta + log(1 + sum_{j: a_j = a} exp(mu - nu sc-)) / nu. A pair that
    is no negative has sc- = 1, as if it were far already.
    """
    return jnp.sum(jnp.add(*contrast_terms(distance, pairs, actions, eta, nu, mu)), -1)


def contrast_terms(
    distance: Array,
    pairs: Pairs,
    actions: Array,
    eta: Array | float,
    nu: Array | float,
    mu: Array | float,
    group: bool = True,
) -> tuple[Array, Array]:
    """(positive, negative) terms of G for each action, [M, K, A] each; group=False: all actions in
    one sum, [M, K, 1].
    """
    chex.assert_equal_shape([pairs.attract, pairs.repel, pairs.member])
    chex.assert_shape(pairs.member, (distance.shape[0], actions.shape[0]))
    kinds = jax.nn.one_hot(actions, distance.shape[-1])
    d = jnp.einsum("nka,ja->nkj", distance, kinds)
    attract, repel, member = (x[:, None] for x in pairs)
    sums = kinds if group else jnp.ones((actions.shape[0], 1))

    def term(exponent: Array, most: Array | float, scale: Array | float) -> Array:
        # Exponents that could overflow are all reduced by c: log(1 + e^c S) = c + log(e^-c + S).
        # With c = 0, log1p is exact.
        excess = jnp.maximum(most - LARGE, 0.0)
        total = jnp.einsum("nkj,ja->nka", member * jnp.exp(exponent - excess), sums)
        return (
            jnp.where(excess > 0, excess + jnp.log(jnp.exp(-excess) + total), jnp.log1p(total))
            / scale
        )

    near, far = attract * d, 1.0 - repel * (1.0 - d)
    return term(eta * near - mu, eta - mu, eta), term(mu - nu * far, mu, nu)


# --------------------------------------------------------------------------------------- proximity


class Scale(NamedTuple):
    """The scale on which observations are compared."""

    inverse: Array  # [O] 1 / standard deviation; 0 for dimensions that never change
    bandwidth: Array  # []


def squared_distances(x: Array, y: Array, inverse: Array) -> Array:
    """Mean over the dimensions that change of ((x - y) / std)^2: [M, O], [J, O] -> [M, J]."""
    kept = jnp.maximum(jnp.sum(inverse > 0), 1)
    x, y = (value * inverse * lax.rsqrt(kept.astype(jnp.float32)) for value in (x, y))
    gap = jnp.sum(jnp.square(x), -1)[:, None] + jnp.sum(jnp.square(y), -1) - 2 * x @ y.T
    return jnp.maximum(gap, 0.0)


def proximity(x: Array, y: Array, scale: Scale) -> Array:
    """Gaussian kernel exp(-delta^2 / (2 bandwidth^2)), a constant: [M, O], [J, O] -> [M, J]."""
    gap = squared_distances(x, y, scale.inverse)
    return lax.stop_gradient(jnp.exp(-0.5 * gap / jnp.square(scale.bandwidth)))


def scale_of(obs: Array, real: Array, sample: Array, episode: Array) -> Scale:
    """The scale of a dataset: standard deviations of its observations obs [M, O] where real [M] is
    1, and the bandwidth of a sample.

    sample [J, O] with episode [J] (negative for an item to leave out): the bandwidth is the median
    distance to the nearest item of another episode, at least .05.
    """
    count = jnp.maximum(jnp.sum(real), 1.0)
    mean = jnp.sum(obs * real[:, None], 0) / count
    variance = jnp.sum(jnp.square(obs - mean) * real[:, None], 0) / count
    inverse = jnp.where(variance > 1e-10, lax.rsqrt(jnp.maximum(variance, 1e-10)), 0.0)
    gap = squared_distances(sample, sample, inverse)
    apart = (episode[:, None] != episode) & (episode >= 0) & (episode >= 0)[:, None]
    nearest = jnp.sqrt(jnp.min(jnp.where(apart, gap, jnp.inf), 1))
    middle = jnp.nanmedian(jnp.where(jnp.isfinite(nearest), nearest, jnp.nan))
    return Scale(inverse, jnp.maximum(jnp.nan_to_num(middle), FLOOR))


def some(key: Key, valid: Array, count: int) -> Array:
    """Indices of `count` random items of valid [M] without repetition, invalid items last; all
    items in order if there are at most `count`.
    """
    if count >= valid.shape[0]:
        return jnp.arange(valid.shape[0])
    return lax.top_k(valid + jax.random.uniform(key, valid.shape), count)[1]
