"""Distributions over the actions of all agents. This module alone uses distrax, which is imported
when the first continuous distribution is built: its import takes half a second.

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
    if logits is None:
        assert probs is not None
        return Categorical(probs / probs.sum(-1, keepdims=True), True)
    if avail is not None:
        logits = jnp.where(avail > 0, logits, UNAVAILABLE)
    return Categorical(jax.nn.log_softmax(logits), False)


def deterministic(actions: Array) -> Distribution:
    """All probability on these actions, indices or reals of any shape."""
    return Deterministic(jnp.asarray(actions))


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
class Categorical:
    """Indices [..., N] with normalised probabilities [..., N, A], or with their logarithms.

    Draws and densities are those of distrax, number for number; a draw from logits that are not
    finite is an index nevertheless.
    """

    given: Array
    as_probs: bool = dataclasses.field(metadata={"static": True})

    @property
    def logits(self) -> Array:
        """Logarithms of the probabilities [..., N, A]."""
        return jnp.log(self.given) if self.as_probs else self.given

    @property
    def probs(self) -> Array:
        """Probabilities [..., N, A]."""
        return self.given if self.as_probs else jax.nn.softmax(self.given)

    def sample(self, *, seed: Key, sample_shape: int | tuple[int, ...] = ()) -> Array:
        """Indices [*sample_shape, ..., N]."""
        shape = _shape(sample_shape) + self.given.shape[:-1]
        return jax.random.categorical(seed, self.logits, shape=shape)

    def log_prob(self, value: Array) -> Array:
        """Log probability [..., N] of indices [..., N]."""
        count = self.given.shape[-1]
        found = jnp.where(value[..., None] == jnp.arange(count), self.logits, 0.0).sum(-1)
        return jnp.where((value < 0) | (value >= count), -jnp.inf, found)

    def prob(self, value: Array) -> Array:
        """Probability [..., N] of indices [..., N]; 0 of an index that there is not."""
        return jnp.where(value[..., None] == jnp.arange(self.given.shape[-1]), self.probs, 0).sum(
            -1
        )

    def entropy(self) -> Array:
        """Entropy in nats [..., N]; an action whose probability is 0 adds nothing."""
        logits, probs = self.logits, self.probs
        return -jnp.where(probs > 0, probs * jnp.where(probs > 0, logits, 0.0), 0.0).sum(-1)

    def mode(self) -> Array:
        """The most probable indices [..., N]."""
        return jnp.argmax(self.given, -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Deterministic:
    """All probability on these actions, indices or reals of any shape."""

    actions: Array

    def sample(self, *, seed: Key, sample_shape: int | tuple[int, ...] = ()) -> Array:
        """The actions, repeated over sample_shape."""
        return jnp.broadcast_to(self.actions, _shape(sample_shape) + self.actions.shape)

    def log_prob(self, value: Array) -> Array:
        """0 for the actions, -inf elsewhere."""
        return jnp.where(value == self.actions, 0.0, -jnp.inf)

    def mode(self) -> Array:
        """The actions."""
        return self.actions


def _shape(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


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
