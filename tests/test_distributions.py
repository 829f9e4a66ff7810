"""Categorical and deterministic distributions are those of distrax, number for number."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff import distributions
from jaxoff.types import UNAVAILABLE

KEY = jax.random.key(3)
LOGITS = jax.random.normal(KEY, (7, 2, 5))
ACTIONS = jnp.arange(14).reshape(7, 2) % 7 - 1  # -1 and 5 are no actions
GIVEN = {
    "logits": {"logits": LOGITS},
    "probabilities": {"probs": jax.nn.softmax(LOGITS)},
    "logits of -inf": {"logits": jnp.where(LOGITS > 0, 0.0, -jnp.inf).at[..., 0].set(0.0)},
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_categorical_distribution_is_that_of_distrax(given):
    ours, theirs = distributions.categorical(**given), distrax.Categorical(**given)
    for shape in ((), 4, (2, 3)):
        draws = ours.sample(seed=KEY, sample_shape=shape)
        np.testing.assert_array_equal(draws, theirs.sample(seed=KEY, sample_shape=shape))
        assert draws.dtype == jnp.int32
    np.testing.assert_array_equal(ours.mode(), theirs.mode())
    np.testing.assert_array_equal(ours.log_prob(ACTIONS), theirs.log_prob(ACTIONS))
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    np.testing.assert_array_equal(ours.probs, theirs.probs)
    np.testing.assert_allclose(ours.prob(ACTIONS), theirs.prob(ACTIONS), rtol=1e-6)
    np.testing.assert_allclose(ours.entropy(), theirs.entropy(), rtol=1e-5)


def test_the_gradient_of_a_log_probability_is_that_of_distrax():
    actions = jnp.clip(ACTIONS, 0, 4)

    def gradient(kind):
        return jax.grad(lambda logits: kind(logits=logits).log_prob(actions).sum())(LOGITS)

    np.testing.assert_array_equal(
        gradient(distributions.categorical), gradient(distrax.Categorical)
    )


def test_the_gradient_of_an_entropy_is_that_of_distrax():
    masked = LOGITS.at[..., 1].set(UNAVAILABLE)

    def gradient(kind):
        return jax.grad(lambda logits: kind(logits=logits).entropy().sum())(masked)

    ours, theirs = gradient(distributions.categorical), gradient(distrax.Categorical)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_draw_from_logits_that_are_not_finite_is_an_action():
    draws = distributions.categorical(jnp.full((3, 2), jnp.nan)).sample(seed=KEY)
    assert ((draws >= 0) & (draws < 2)).all()


def test_a_deterministic_distribution_is_that_of_distrax():
    actions = LOGITS[..., 0]
    ours, theirs = distributions.deterministic(actions), distrax.Deterministic(actions)
    for shape in ((), 4, (2, 3)):
        np.testing.assert_array_equal(
            ours.sample(seed=KEY, sample_shape=shape), theirs.sample(seed=KEY, sample_shape=shape)
        )
    np.testing.assert_array_equal(ours.mode(), theirs.mode())
    np.testing.assert_array_equal(
        ours.log_prob(actions.at[0].add(1)), theirs.log_prob(actions.at[0].add(1))
    )
