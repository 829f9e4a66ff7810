"""Distributions over the actions of all agents. This module alone uses distrax, which is imported
when the first distribution is built.

Axes: agents N last for indices, [..., N]; agents and dimensions for reals, [..., N, A].
"""

from __future__ import annotations

import dataclasses
import functools
import math
from types import ModuleType

import jax
import jax.numpy as jnp

from jaxoff.runtime import needs
from jaxoff.types import UNAVAILABLE, Array, Distribution, Key

EDGE = 1.0 - 1e-7  # actions are clipped to this share of the bound, where atanh is finite


@functools.cache
def _distrax() -> ModuleType:
    """The distrax package. Its first import may happen while a program is traced, and its constants
    must not become part of that program.
    """
    with needs("jaxoff"), jax.ensure_compile_time_eval():
        import distrax
    return distrax


def categorical(
    logits: Array | None = None, *, probs: Array | None = None, avail: Array | None = None
) -> Distribution:
    """Categorical over indices [..., N], from either logits or probabilities [..., N, A].

    avail: [..., N, A], 0 where an action may not be taken; its logit is then UNAVAILABLE.
    """
    if logits is not None and avail is not None:
        logits = jnp.where(avail > 0, logits, UNAVAILABLE)
    return _distrax().Categorical(logits=logits, probs=probs)


def deterministic(actions: Array) -> Distribution:
    """All probability on these actions, indices or reals of any shape."""
    return _distrax().Deterministic(actions)


def normal(mean: Array, log_std: Array) -> Distribution:
    """Normal with independent dimensions: mean [..., A]; log_std is broadcast against it.

    A log density is that of a whole action, [...]; the mode is the mean.
    """
    std = jnp.broadcast_to(jnp.exp(log_std), mean.shape)
    return _distrax().Independent(_distrax().Normal(mean, std), 1)


def uniform(low: Array, high: Array) -> Distribution:
    """Uniform between low and high, of equal shapes; one log density per dimension."""
    return _distrax().Uniform(low, high)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TanhNormal:
    """bound * tanh(x), x normal with independent dimensions: mean, log_std [..., N, A].

    Its mode is bound * tanh(mean), which is executed without noise; the density itself may be
    larger elsewhere.
    """

    mean: Array
    log_std: Array
    bound: float = dataclasses.field(default=1.0, metadata={"static": True})

    def sample(self, *, seed: Key, sample_shape: int | tuple[int, ...] = ()) -> Array:
        """Actions [*sample_shape, ..., N, A]."""
        return self.bound * self._within_one().sample(seed=seed, sample_shape=sample_shape)

    def log_prob(self, value: Array) -> Array:
        """Log density [..., N] of actions [..., N, A]; those at or beyond the bound are clipped to
        just inside it.
        """
        scale = value.shape[-1] * math.log(self.bound)
        return self._within_one().log_prob(jnp.clip(value / self.bound, -EDGE, EDGE)) - scale

    def mode(self) -> Array:
        """Actions [..., N, A] without noise."""
        return self.bound * jnp.tanh(self.mean)

    def _within_one(self) -> Distribution:
        """The distribution for a bound of 1."""
        distrax = _distrax()
        inner = distrax.MultivariateNormalDiag(self.mean, jnp.exp(self.log_std))
        return distrax.Transformed(inner, distrax.Block(distrax.Tanh(), 1))
