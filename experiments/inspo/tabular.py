"""InSPO on one-state games, exactly: no networks, no sampling, double precision.

Eq. 9 -> objective, Eq. 12 -> residual, Eq. 13 -> sweep. Policies and behaviour are arrays [N, A], a
payoff has shape [A] * N. `resampled_fixed_point` is where the learner's own losses come to rest
when the data show only some joint actions, and the three other solvers are the theory with the
whole payoff.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax, xlogy


def expected_payoff(payoff: np.ndarray, policies: np.ndarray, agent: int) -> np.ndarray:
    """E over the other agents' actions of the payoff, for each action of one agent: [A]."""
    table = np.moveaxis(payoff, agent, 0)
    for policy in reversed([p for i, p in enumerate(policies) if i != agent]):
        table = table @ policy
    return table


def best_response(q: np.ndarray, mu: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """argmax_p E_p[q] - alpha KL(p | mu) + beta H(p), which is mu^(alpha/(alpha+beta))
    exp(q/(alpha+beta)) / Z: [A].

    Raises ValueError unless alpha >= 0, beta >= 0 and alpha + beta > 0.
    """
    if alpha < 0 or beta < 0 or alpha + beta <= 0:
        raise ValueError(f"alpha, beta: expected >= 0 and a positive sum, found {alpha}, {beta}")
    with np.errstate(divide="ignore"):  # an action that the data never show stays at zero
        return softmax((xlogy(alpha, mu) + q) / (alpha + beta))


def sweep(
    payoff: np.ndarray,
    mu: np.ndarray,
    policies: np.ndarray,
    alpha: float,
    beta: float,
    order: Sequence[int] | None = None,
) -> np.ndarray:
    """One iteration of Eq. 13: each agent of `order` (default 0..N-1) responds to the policies as
    they then are: [N, A].
    """
    policies = policies.copy()
    for agent in range(len(policies)) if order is None else order:
        policies[agent] = best_response(
            expected_payoff(payoff, policies, agent), mu[agent], alpha, beta
        )
    return policies


def fixed_point(
    payoff: np.ndarray,
    mu: np.ndarray,
    alpha: float,
    beta: float,
    sweeps: int = 5000,
    order: Sequence[int] | None = None,
) -> np.ndarray:
    """Where at most `sweeps` sweeps from pi = mu end, a quantal response equilibrium: [N, A]."""
    policies = np.array(mu, float)
    for _ in range(sweeps):
        before, policies = policies, sweep(payoff, mu, policies, alpha, beta, order)
        if np.array_equal(before, policies):
            break
    return policies


def annealed(
    payoff: np.ndarray,
    mu: np.ndarray,
    alpha: float,
    beta_start: float = 100.0,
    beta_end: float = 0.01,
    levels: int = 200,
    sweeps: int = 20,
    order: Sequence[int] | None = None,
) -> np.ndarray:
    """`sweeps` sweeps at each of `levels` betas from beta_start down to beta_end (geometric), from
    pi = mu: [N, A].
    """
    policies = np.array(mu, float)
    for beta in np.geomspace(beta_start, beta_end, levels):
        for _ in range(sweeps):
            before, policies = policies, sweep(payoff, mu, policies, alpha, beta, order)
            if np.array_equal(before, policies):
                break
    return policies


def resampled_fixed_point(
    payoff: np.ndarray,
    support: np.ndarray,
    mu: np.ndarray,
    alpha: float,
    beta: float,
    sweeps: int = 1000,
    order: Sequence[int] | None = None,
) -> np.ndarray:
    """Where the resampled losses (Eq. 20, 23, 24) rest, if only joint actions of `support` [A] * N
    bool occur: [N, A].

    pi_i ~ mu_i^(alpha/(alpha+beta)) M_i exp(q_i/(alpha+beta)): M_i(a_i) is the probability that the
    teammates choose actions that the data show together with a_i, q_i the mean payoff given that
    they do.
    """
    policies, shown = np.array(mu, float), np.asarray(support, float)
    for _ in range(sweeps):
        for agent in range(len(policies)) if order is None else order:
            mass = expected_payoff(shown, policies, agent)
            q = expected_payoff(shown * payoff, policies, agent) / np.maximum(mass, 1e-300)
            raw = best_response(q, mu[agent], alpha, beta) * mass
            policies[agent] = raw / raw.sum()
    return policies


def value(payoff: np.ndarray, policies: np.ndarray) -> float:
    """Expected payoff of the product policy."""
    return float(policies[0] @ expected_payoff(payoff, policies, 0))


def outside_mass(support: np.ndarray, policies: np.ndarray) -> float:
    """Probability of joint actions that the data do not show."""
    return 1.0 - value(np.asarray(support, float), policies)


def objective(
    payoff: np.ndarray, mu: np.ndarray, policies: np.ndarray, alpha: float, beta: float
) -> float:
    """J (Eq. 9): E[payoff] - alpha sum_i KL(pi_i | mu_i) + beta sum_i H(pi_i), in nats."""
    negative_entropy = xlogy(policies, policies).sum()
    divergence = negative_entropy - xlogy(policies, mu).sum()
    return value(payoff, policies) - alpha * float(divergence) - beta * float(negative_entropy)


def residual(
    payoff: np.ndarray, mu: np.ndarray, policies: np.ndarray, alpha: float, beta: float
) -> float:
    """Largest violation of Eq. 12, |pi_i(a) - right-hand side|, over agents and actions."""
    wanted = [
        best_response(expected_payoff(payoff, policies, i), mu[i], alpha, beta)
        for i in range(len(policies))
    ]
    return float(np.abs(policies - np.stack(wanted)).max())
