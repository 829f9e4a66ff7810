"""Optimisers with the constants of the papers' code bases."""

from __future__ import annotations

import jax
import optax

from jaxoff.types import Array, Params


def adam(
    lr: Array | float, max_grad_norm: Array | float, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam on gradients clipped by their global norm."""
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(lr, eps=eps))


def rmsprop(lr: Array | float, max_grad_norm: Array | float) -> optax.GradientTransformation:
    """RMSprop as PyMARL has it, g / (sqrt(v) + 1e-5) with decay .99, on gradients clipped by their
    global norm.
    """
    step = optax.rmsprop(lr, decay=0.99, eps=1e-5, eps_in_sqrt=False, initial_scale=0.0)
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), step)


def sonnet_rmsprop(lr: Array | float, max_grad_norm: Array | float) -> optax.GradientTransformation:
    """RMSprop as Sonnet has it, g / sqrt(v + 1e-10) with decay .9, on gradients clipped by their
    global norm.
    """
    step = optax.rmsprop(lr, decay=0.9, eps=1e-10, eps_in_sqrt=True, initial_scale=0.0)
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), step)


def adamw(
    lr: Array | float, max_grad_norm: Array | float, decay: Array | float
) -> optax.GradientTransformation:
    """AdamW with GPT's betas (0.9, 0.95), on gradients clipped by their global norm; only weights
    of linear layers decay.
    """
    step = optax.adamw(lr, b1=0.9, b2=0.95, eps=1e-8, weight_decay=decay, mask=linear_weights)
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), step)


def linear_weights(params: Params) -> Params:
    """True for the leaves named `kernel`, False for biases, norms and tables."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", "") == "kernel", params
    )
