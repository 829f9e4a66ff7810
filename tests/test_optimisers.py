"""A limit of the gradients' norm, for each optimiser that has one."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxoff import optimisers

MAKE = {
    "adam": lambda limit: optimisers.adam(0.1, limit),
    "adamw": lambda limit: optimisers.adamw(0.1, limit, 0.1),
    "rmsprop": lambda limit: optimisers.rmsprop(0.1, limit),
    "sonnet_rmsprop": lambda limit: optimisers.sonnet_rmsprop(0.1, limit),
}
PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}
# The optimisers divide by the size of gradients, so that a limit shows where it varies in a pass.
GRADS = [jax.tree.map(lambda x, k=k: k * x, PARAMS) for k in (1.0, 30.0, 1.0)]


@pytest.mark.parametrize("name", MAKE)
def test_a_limit_of_zero_clips_nothing_and_a_small_one_does(name):
    def after(limit):
        step, params = MAKE[name](limit), PARAMS
        state = step.init(params)
        for grads in GRADS:
            changes, state = step.update(grads, state, params)
            params = optax.apply_updates(params, changes)
        return params

    free, clipped = after(1e9), after(2.0)
    chex.assert_trees_all_close(after(0.0), free)
    chex.assert_trees_all_close(jax.jit(after)(0.0), free, rtol=1e-5)  # a traced setting
    assert not jnp.allclose(free["bias"], clipped["bias"], rtol=1e-2)
    assert not jnp.allclose(free["bias"], PARAMS["bias"], rtol=1e-2)
