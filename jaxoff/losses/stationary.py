"""Optimisation over stationary distributions, one agent at a time (AlberDICE, Matsunaga et al.,
2023); rows [M] of a flattened batch.

The policies of an agent i and its teammates together have a stationary distribution over states and
actions; the dual variable nu_i(s) says how much that distribution can still gain at s, and
e_i(s, a_i) how much an action gains. An episode that terminates goes on for ever in an absorbing
state, whose nu is 0: see `dual_loss`.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.losses.conservative import available_logsumexp
from jaxoff.losses.likelihood import expectation, taken
from jaxoff.types import Array, Key

MAX_RATIO = 100.0  # importance ratios are clipped to this
LEAST_LOG = -23.025851  # log 1e-10; log probabilities are clipped to at least this


def joint_ratio(log_pi: Array, log_mates: Array, agent: Array | int) -> Array:
    """min(prod_j pi_j(a_j) / mu_i(a_j | s, a_i, ...), 100) over the teammates j of an agent i, a
    constant.

    log_pi, log_mates: log probabilities of the data's actions [..., N]; the agent's own entries are
        not used. -> [...].
    """
    mates = jnp.arange(log_pi.shape[-1]) != agent
    total = jnp.sum(jnp.where(mates, log_pi - log_mates, 0.0), -1)
    return lax.stop_gradient(jnp.exp(jnp.minimum(total, jnp.log(MAX_RATIO))))


def teammate_divergence(log_pi: Array, log_mates: Array, agent: Array | int) -> Array:
    """sum_j KL(pi_j || mu_i(. | s, a_i, ...)) over the teammates j of an agent i, a constant.

    log_pi, log_mates: log probabilities of all actions [..., N, A]; the agent's own entries are not
        used. -> [...].
    """
    mates = jnp.arange(log_pi.shape[-2]) != agent
    gap = jnp.maximum(log_pi, LEAST_LOG) - jnp.maximum(log_mates, LEAST_LOG)
    return lax.stop_gradient(jnp.sum(jnp.where(mates, expectation(log_pi, gap), 0.0), -1))


def sampled_divergence(
    key: Key, log_pi: Array, log_mates: Array, agent: Array | int, samples: int
) -> Array:
    """`teammate_divergence` as the mean over `samples` joint actions a_j ~ pi_j."""
    mates = jnp.arange(log_pi.shape[-2]) != agent
    gap = jnp.maximum(log_pi, LEAST_LOG) - jnp.maximum(log_mates, LEAST_LOG)
    # [samples, ..., N]
    drawn = jax.random.categorical(key, log_pi, shape=(samples, *log_pi.shape[:-1]))
    found = taken(jnp.broadcast_to(gap, (samples, *gap.shape)), drawn)
    return lax.stop_gradient(jnp.mean(jnp.sum(jnp.where(mates, found, 0.0), -1), 0))


def dual_advantage(
    reward: Array,
    terminated: Array,
    value: Array,
    next_value: Array,
    divergence: Array,
    alpha: Array | float,
    gamma: Array | float,
) -> Array:
    """e^ = r - alpha K + gamma nu(s') - nu(s), all [...]; gradients reach both values.

    nu of the absorbing state is 0.
    """
    chex.assert_equal_shape([reward, terminated, value, next_value, divergence])
    return reward - alpha * divergence + gamma * (1.0 - terminated) * next_value - value


def absorbing_steps(terminated: Array, valid: Array, steps_before: Array, limit: int) -> Array:
    """Number [...] of absorbing steps that follow each step, so that its episode has `limit` steps.

    At least 1 where an episode terminates: without any, the dual is unbounded below in nu of its
    last state.
    """
    left = jnp.maximum(limit - 1 - steps_before, 1).astype(valid.dtype)
    return jnp.where(valid > 0, terminated * left, 0.0)


def dual_loss(
    advantage: Array,
    counts: Array,
    mean_ratio: Array,
    steps: Array,
    absorbing: Array,
    alpha: Array | float,
) -> Array:
    """alpha log mean(ratio exp(e^ / alpha)): the log-mean-exp part of the dual loss of nu; scalar.

    advantage [M]; counts [M]: how often each row was resampled; mean_ratio []: mean ratio of the
    `steps` [] real rows; absorbing []: number of absorbing rows. These have r = K = 0 and nu(s) =
    nu(s') = 0, so their e^ is 0. Fixing nu there loses nothing: adding a constant c to nu
    everywhere adds (gamma - 1) c here and (1 - gamma) c to the other part, and so changes nothing.
    """
    weight = counts * steps * mean_ratio / jnp.maximum(jnp.sum(counts), 1.0)
    logits = jnp.append(advantage / alpha, 0.0)
    return alpha * (
        jax.nn.logsumexp(logits, b=jnp.append(weight, absorbing))
        - jnp.log(jnp.maximum(steps + absorbing, 1.0))
    )


def gradient_penalty(
    value: Callable[[Array], Array], state: Array, other: Array, share: Array
) -> Array:
    """Squared norm of the gradient of value([M, S]) -> [M], each of its own row, at share * state +
    (1 - share) * other; [M, S], [M] -> [M].
    """
    chex.assert_equal_shape([state, other])
    between = share[..., None] * state + (1.0 - share[..., None]) * other
    return jnp.sum(jnp.square(jax.grad(lambda rows: jnp.sum(value(rows)))(between)), -1)


def advantage_loss(
    e: Array,
    target: Array,
    actions: Array,
    log_mu: Array,
    avail: Array,
    conservative: Array | float,
) -> Array:
    """(e(a) - target)^2 + conservative (logsumexp_a e - E_mu e) over available actions; [..., A] ->
    [...].
    """
    error = jnp.square(taken(e, actions) - lax.stop_gradient(target))
    return error + conservative * (available_logsumexp(e, avail) - expectation(log_mu, e))


def improvement_loss(logits: Array, e: Array, log_mu: Array, alpha: Array | float) -> Array:
    """-E_pi e + alpha KL(pi || mu), minimal at pi ~ mu exp(e / alpha); [..., A] -> [...]."""
    log_pi = jnp.maximum(jax.nn.log_softmax(logits), LEAST_LOG)
    return expectation(
        logits, alpha * (log_pi - jnp.maximum(log_mu, LEAST_LOG)) - lax.stop_gradient(e)
    )
