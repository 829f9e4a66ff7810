"""The motivating example in one dimension: a fixed value with two modes, and where an actor's steps
lead.

A gradient step climbs the mode at hand; OMAR's target is the best of a search, wherever that lies.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxoff.baselines.omar.continuous import rectified_loss, search, target_action

from jaxoff.types import Array, Key

START, LOCAL, BEST = -0.6, -0.6, 0.4  # of the actor, and the two modes


def bimodal(action: Array | np.ndarray) -> Array:
    """A narrow mode of .6 at -.6 and a wide one of 1 at .4."""
    return 0.6 * jnp.exp(-jnp.square(action + 0.6) / 0.02) + jnp.exp(
        -jnp.square(action - 0.4) / 0.15
    )


def climb(
    config: Any,
    mimic: Array | float,
    key: Key,
    value: Any = bimodal,
    *,
    rows: int = 256,
    lr: float = 0.01,
    steps: int = 800,
) -> Array:
    """The action of a tanh actor with one parameter after each of `steps` Adam steps on OMAR's
    loss: [steps].

    rows: copies of the one state, each with a search of its own. config: of the search; mimic 0 is
        MA-CQL's actor.
    """
    optimiser = optax.adam(lr)

    def loss(parameter: Array, key: Key) -> Array:
        own = jnp.full((rows, 1), jnp.tanh(parameter))
        q = value(own[:, 0])
        found = search(config, lambda samples: value(samples[..., 0]), (rows, 1), 1.0, key)
        return jnp.mean(rectified_loss(own, target_action(own, q, *found), q, mimic, 1e-3))

    def step(carry: Any, key: Key) -> Any:
        parameter, opt = carry
        change, opt = optimiser.update(jax.grad(loss)(parameter, key), opt)
        parameter = optax.apply_updates(parameter, change)
        return (parameter, opt), jnp.tanh(parameter)

    start = jnp.arctanh(jnp.float32(START))
    return jax.lax.scan(step, (start, optimiser.init(start)), jax.random.split(key, steps))[1]
