"""Views of a batch: its leading axes as rows or as windows, and the steps at which an agent has
more than one available action.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxoff.types import Array, Transition


def flatten(batch: Transition) -> Transition:
    """Leading axes [B] or [B, T] of a batch to rows [M]."""
    axes = batch.valid.ndim
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[axes:]), batch)


def as_windows(batch: Transition) -> Transition:
    """The batch with leading axes [B, T]; single steps [B] become windows of length 1."""
    return batch if batch.valid.ndim == 2 else jax.tree.map(lambda x: x[:, None], batch)


def choosing(batch: Transition) -> Array:
    """1 at the valid steps of each agent at which more than one action is available, [..., N]; a
    dead agent has one at most.
    """
    return batch.valid[..., None] * (jnp.sum(batch.avail, -1) > 1)
