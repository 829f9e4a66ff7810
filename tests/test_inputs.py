"""Inputs standardised by running moments, and the net of plain inputs that takes them over."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.nets import inputs
from jaxoff.nets.actors import Actors
from jaxoff.types import TimeStep
from tests.reference.toy_episodes import toy_spec

KEY = jax.random.key(0)


def test_moments_in_parts_are_those_of_all_inputs_at_once():
    rng = np.random.default_rng(0)
    parts = [rng.normal(k, 1 + k, (2 + k, 3, 4)).astype(np.float32) for k in range(3)]
    found = inputs.unseen(4)
    for part in parts:
        found = inputs.extended(found, jnp.asarray(part))
    whole = np.concatenate([part.reshape(-1, 4) for part in parts])
    assert float(found.total) == len(whole) == 27
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.variance, whole.var(0), rtol=1e-5)
    standard = inputs.standardised(found, jnp.asarray(whole))
    np.testing.assert_allclose(standard.std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)


def test_before_the_first_input_they_stay_as_they_are_and_one_that_never_moves_does_not_blow_up():
    x = jnp.array([[3.0, -2.0]])
    np.testing.assert_array_equal(inputs.standardised(inputs.unseen(2), x), x)
    still = inputs.extended(inputs.unseen(2), jnp.tile(x, (5, 1)))
    # variance 0, so divided by the least deviation: (3.1 - 3) / .01
    np.testing.assert_allclose(inputs.standardised(still, x + 0.1), [[10, 10]], rtol=1e-4)


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_a_folded_net_equals_the_net_of_standardised_inputs(recurrent):
    spec = toy_spec(False)
    net, draw = Actors(spec, 5, recurrent=recurrent, share=True), np.random.default_rng(0)
    params = net.init(KEY)
    moments = inputs.extended(inputs.unseen(4), jnp.asarray(draw.normal(2, 3, (50, 4))))
    nothing = jnp.zeros(7)
    last = jnp.asarray(draw.normal(size=(7, 2, 3)), jnp.float32)
    obs = jnp.asarray(draw.normal(2, 3, (7, 2, 4)), jnp.float32)
    seen = TimeStep(obs, nothing, jnp.ones((7, 2, 3)), *[nothing] * 3, last)

    def out(params, seen):
        policy = net.policy(params)
        return policy.distribution(policy.initial((7,)), seen)[1].mode()

    plain = out(inputs.folded(params, moments), seen)
    wanted = out(params, seen._replace(obs=inputs.standardised(moments, obs)))
    np.testing.assert_allclose(plain, wanted, rtol=1e-4, atol=1e-6)
    assert not np.allclose(plain, out(params, seen), atol=1e-2)
