"""Mixers: against float64 NumPy, monotone in every agent's value, normalised where they say so."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.nets.mixers import AffineMixer, LinearMixer, QMixer, SumMixer
from tests.reference import value_numpy as ref
from tests.toys import shaken

N, S = 3, 4
MIXERS: dict[str, tuple[Any, Any]] = {
    "sum": (SumMixer(), lambda p, q, s: float(np.sum(q))),
    "qmix": (QMixer(5, 6), ref.q_mixer),
    "qmix-linear": (QMixer(5, 0), ref.q_mixer),
    "linear": (LinearMixer(5, N), ref.linear_mixer),
    "linear-no-bias": (LinearMixer(5, N, bias=False), ref.linear_mixer),
    "affine": (AffineMixer(N, 5), ref.affine_mixer),
}


def problem(shape: tuple[int, ...] = (40,), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*shape, N)).astype(np.float32), rng.normal(size=(*shape, S)).astype(
        np.float32
    )


@functools.cache
def made(name: str) -> tuple[Any, Any]:
    """(compiled total(values, state), parameters) with no bias at zero."""
    mixer = MIXERS[name][0]
    params = shaken(mixer.init(jax.random.key(0), jnp.zeros(N), jnp.zeros(S)), 1, np.float32)
    return jax.jit(functools.partial(mixer.apply, params)), params


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_equals_float64(name):
    with jax.enable_x64(True):
        wide, values, state = jax.tree.map(
            lambda x: np.asarray(x, np.float64), (made(name)[1], *problem())
        )
        wanted = [MIXERS[name][1](wide, q, s) for q, s in zip(values, state, strict=True)]
        np.testing.assert_allclose(
            jax.jit(MIXERS[name][0].apply)(wide, values, state), wanted, rtol=1e-9
        )


@pytest.mark.parametrize("name", MIXERS)
def test_total_never_falls_when_one_value_rises(name):
    # Finite steps of 1 and of 50 up each axis, so that ELU's flat part is crossed too.
    total, _ = made(name)
    values, state = problem()
    for agent in range(N):
        for step in (1.0, 50.0):
            rise = np.asarray(
                total(values + step * np.eye(N, dtype=np.float32)[agent], state)
            ) - np.asarray(total(values, state))
            assert (rise >= -1e-5).all(), (agent, step)
            assert rise.max() > 0.01


@pytest.mark.parametrize("name", MIXERS)
def test_leading_axes_are_free(name):
    # [2, 5, 4] rows at once equal the 40 rows one after the other.
    total, _ = made(name)
    values, state = problem()
    folded = total(values.reshape(2, 5, 4, N), state.reshape(2, 5, 4, S))
    assert folded.shape == (2, 5, 4)
    np.testing.assert_allclose(np.ravel(folded), total(values, state), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["qmix", "linear", "affine"])
def test_weights_depend_on_the_state(name):
    # What one more of the first agent's value adds, at s and at 2 s.
    total, _ = made(name)
    values, state = problem()
    only = np.eye(N, dtype=np.float32)[0]
    alone = [total(values + only, s) - total(values, s) for s in (state, 2 * state)]
    assert np.abs(alone[0] - alone[1]).max() > 0.01


@pytest.mark.parametrize("name", ["linear", "linear-no-bias"])
def test_linear_weights_are_non_negative_and_sum_to_one(name):
    _, params = made(name)
    weights, _ = MIXERS[name][0].apply(params, problem()[1], method="weights")
    assert weights.shape == (40, N)
    assert (np.asarray(weights) >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)


def test_without_a_bias_it_is_zero_and_has_no_parameters():
    _, params = made("linear-no-bias")
    values, state = problem()
    weights, bias = MIXERS["linear-no-bias"][0].apply(params, state, method="weights")
    np.testing.assert_array_equal(bias, np.zeros(40))
    assert set(params["params"]) == {"first", "second"}
    np.testing.assert_allclose(
        made("linear-no-bias")[0](values, state), np.sum(weights * values, -1), rtol=1e-5, atol=1e-6
    )
    assert "offset" in made("linear")[1]["params"]


@pytest.mark.parametrize("name", ["linear", "affine"])
def test_a_linear_mixer_is_its_weights_and_bias(name):
    total, params = made(name)
    values, state = problem()
    weights, bias = MIXERS[name][0].apply(params, state, method="weights")
    np.testing.assert_allclose(
        total(values, state), np.sum(weights * values, -1) + bias, rtol=1e-5, atol=1e-5
    )


def test_all_weights_zero_give_no_nan():
    # |w1 w2| sums to 0: 0 / (0 + 1e-10) = 0, and the total is the bias alone.
    mixer = LinearMixer(5, N)
    params = jax.tree.map(jnp.zeros_like, made("linear")[1])
    values, state = problem()
    np.testing.assert_array_equal(mixer.apply(params, values, state), np.zeros(40))


@pytest.mark.parametrize("mixer", [LinearMixer(5), AffineMixer(1)])
def test_a_wrong_number_of_agents_is_refused(mixer):
    # One weight for three values would silently be a sum.
    with pytest.raises(AssertionError):
        mixer.init(jax.random.key(0), jnp.zeros(N), jnp.zeros(S))
