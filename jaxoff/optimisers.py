"""Optimisers with the constants of the papers' code bases.

They see all parameters of a net as one vector (`optax.flatten`): a few operations on one array are
compiled faster, and run faster, than the same ones on every layer. A limit of the gradients' norm
of 0 leaves them as they are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxoff.types import Array, Params


def adam(
    lr: optax.ScalarOrSchedule,
    max_grad_norm: Array | float | None = None,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam; with max_grad_norm, on gradients clipped by their global norm."""
    return _clipped(optax.adam(lr, eps=eps), max_grad_norm)


def rmsprop(lr: Array | float, max_grad_norm: Array | float) -> optax.GradientTransformation:
    """RMSprop as PyMARL has it, g / (sqrt(v) + 1e-5) with decay .99, on gradients clipped by their
    global norm.
    """
    step = optax.rmsprop(lr, decay=0.99, eps=1e-5, eps_in_sqrt=False, initial_scale=0.0)
    return _clipped(step, max_grad_norm)


def sonnet_rmsprop(lr: Array | float, max_grad_norm: Array | float) -> optax.GradientTransformation:
    """RMSprop as Sonnet has it, g / sqrt(v + 1e-10) with decay .9, on gradients clipped by their
    global norm.
    """
    step = optax.rmsprop(lr, decay=0.9, eps=1e-10, eps_in_sqrt=True, initial_scale=0.0)
    return _clipped(step, max_grad_norm)


def _clipped(
    step: optax.GradientTransformation, max_grad_norm: Array | float | None
) -> optax.GradientTransformation:
    if max_grad_norm is None:
        return _flat(step)
    return _flat(optax.chain(_limited(max_grad_norm), step))


def _limited(max_grad_norm: Array | float) -> optax.GradientTransformation:
    """Gradients clipped by their global norm; with a limit of 0 they are not clipped."""

    def update(grads: Params, state: optax.OptState, params: Params | None = None):
        limit = jnp.where(max_grad_norm > 0, max_grad_norm, jnp.inf)
        return optax.clip_by_global_norm(limit).update(grads, state, params)

    return optax.GradientTransformation(optax.clip_by_global_norm(1.0).init, update)


def _flat(step: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optax.flatten`, which can't do without parameters (those of a critic that is known)."""
    flat = optax.flatten(step)
    of = lambda tree: flat if jax.tree.leaves(tree) else step
    return optax.GradientTransformation(
        lambda params: of(params).init(params),
        lambda grads, state, params=None: of(grads).update(grads, state, params),
    )


def adamw(
    lr: Array | float, max_grad_norm: Array | float, decay: Array | float
) -> optax.GradientTransformation:
    """AdamW with GPT's betas (0.9, 0.95), on gradients clipped by their global norm; only weights
    of linear layers decay.
    """
    step = optax.chain(
        optax.flatten(optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8)),
        optax.add_decayed_weights(decay, linear_weights),  # knows the layers by their names
        optax.scale_by_learning_rate(lr),
    )
    return optax.chain(optax.flatten(_limited(max_grad_norm)), step)


def linear_weights(params: Params) -> Params:
    """True for the leaves named `kernel`, False for biases, norms and tables."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", "") == "kernel", params
    )
