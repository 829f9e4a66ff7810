"""Optimisers as the papers' code bases have them."""

from __future__ import annotations

import optax

from jaxoff.types import Array


def adam(lr: Array | float, max_grad_norm: Array | float, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam on gradients clipped by their global norm."""
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(lr, eps=eps))


def rmsprop(lr: Array | float, max_grad_norm: Array | float) -> optax.GradientTransformation:
    """RMSprop as PyMARL has it, g / (sqrt(v) + 1e-5) with decay .99, on gradients clipped by their global norm."""
    step = optax.rmsprop(lr, decay=0.99, eps=1e-5, eps_in_sqrt=False, initial_scale=0.0)
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), step)


def sonnet_rmsprop(lr: Array | float, max_grad_norm: Array | float) -> optax.GradientTransformation:
    """RMSprop as Sonnet has it, g / sqrt(v + 1e-10) with decay .9, on gradients clipped by their global norm."""
    step = optax.rmsprop(lr, decay=0.9, eps=1e-10, eps_in_sqrt=True, initial_scale=0.0)
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), step)
