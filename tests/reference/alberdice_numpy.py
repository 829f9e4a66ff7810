"""AlberDICE in float64 NumPy, written from the equations (Matsunaga et al., 2023), rows looped
over.

A net is a list of (weight, bias); `rows` is a dictionary of arrays [M, ...]. Losses take the
parameters that they train and, as plain numbers, everything that is constant in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.inspo_numpy import Net, forward, log_softmax


def mates_tables(net: Net, anchor: int, rows: dict[str, np.ndarray]) -> np.ndarray:
    """log mu_anchor(. | s, a_anchor, the data's actions of teammates before j) [M, N, A]; 0 for the
    anchor.
    """
    actions, avail = rows["actions"], rows["avail"]
    (m, n), a = actions.shape, avail.shape[-1]
    out = np.zeros((m, n, a))
    mates = [j for j in range(n) if j != anchor]
    for row in range(m):
        for j in mates:
            shown = [np.eye(a)[actions[row, k]] if k < j else np.zeros(a) for k in mates[:-1]]
            x = np.concatenate(
                [np.eye(n)[j], rows["state"][row], np.eye(a)[actions[row, anchor]], *shown]
            )
            out[row, j] = log_softmax(forward(net, x)[0], avail[row, j])
    return out


def ratio_and_divergence(
    pi: np.ndarray, mates: np.ndarray, agent: int, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """min(prod_j pi_j / mu_j, 100) at the data's actions, and sum_j sum_a pi_j log(pi_j / mu_j);
    [M, N, A] each.
    """
    ratio, divergence = np.ones(len(pi)), np.zeros(len(pi))
    for row in range(len(pi)):
        for j in range(pi.shape[1]):
            if j == agent:
                continue
            ratio[row] *= pi[row, j, actions[row, j]] / np.exp(mates[row, j, actions[row, j]])
            for a in range(pi.shape[2]):
                if pi[row, j, a] > 0:
                    divergence[row] += pi[row, j, a] * (np.log(pi[row, j, a]) - mates[row, j, a])
    return np.minimum(ratio, 100), divergence


def absorbing_count(rows: dict[str, np.ndarray], limit: int) -> int:
    """Steps needed to fill every episode that ends up to `limit`, one at least."""
    total = 0
    for ended, valid, before in zip(
        rows["terminated"], rows["valid"], rows["steps_before"], strict=True
    ):
        if ended and valid:
            total += max(limit - (before + 1), 1)
    return total


def dual(net: Net, rows: dict[str, np.ndarray], c: dict[str, Any]) -> tuple[float, np.ndarray]:
    """Loss of nu, and e^ [M].

    c: divergence, ratio, counts [M], absorbing, alpha, gamma, penalty, initial, pair.
    """
    nu = lambda x: forward(net, x)[0][..., 0]
    going = 1 - rows["terminated"]
    hat = (
        rows["reward"]
        - c["alpha"] * c["divergence"]
        + c["gamma"] * going * nu(rows["next_state"])
        - nu(rows["state"])
    )
    steps = rows["valid"].sum()
    mean_ratio = (c["ratio"] * rows["valid"]).sum() / steps
    # A mean over the rows that were drawn stands for the `steps` real ones; the absorbing ones have
    # e^ = 0.
    drawn = (c["counts"] * mean_ratio * np.exp(hat / c["alpha"])).sum() / c["counts"].sum() * steps
    loss = c["alpha"] * np.log((drawn + c["absorbing"]) / (steps + c["absorbing"]))
    if c["initial"] == "data":
        start = (nu(rows["state"]) * rows["valid"]).sum() / (steps + c["absorbing"])
    else:
        first = rows["valid"] * (rows["steps_before"] == 0)
        start = (nu(rows["state"]) * first).sum() / first.sum()
    one, other, share, real = c["pair"]
    slopes = []
    for x in share[:, None] * one + (1 - share[:, None]) * other:
        slope = np.eye(len(x))
        for number, (weight, bias) in enumerate(net):  # the chain rule, forwards
            x, slope = x @ weight + bias, slope @ weight
            if number < len(net) - 1:
                slope, x = slope * (x > 0), np.maximum(x, 0)
        slopes.append((slope**2).sum())
    return loss + (1 - c["gamma"]) * start + c["penalty"] * (
        np.array(slopes) * real
    ).sum() / real.sum(), hat


def e_table(net: Net, state: np.ndarray, a: int) -> np.ndarray:
    """e(s, .) [M, A]."""
    return np.array(
        [[forward(net, np.concatenate([s, one]))[0][0] for one in np.eye(a)] for s in state]
    )


def value(
    net: Net,
    rows: dict[str, np.ndarray],
    agent: int,
    hat: np.ndarray,
    mu: np.ndarray,
    counts: np.ndarray,
    weight: float,
) -> float:
    """Loss of e; hat is constant."""
    avail = rows["avail"][:, agent]
    e, total = e_table(net, rows["state"], avail.shape[-1]), 0.0
    for row, action in enumerate(rows["actions"][:, agent]):
        may = avail[row] > 0
        term = (
            np.log(np.exp(e[row, may]).sum()) - (mu[row, may] * e[row, may]).sum()
            if may.any()
            else 0.0
        )
        total += counts[row] * ((e[row, action] - hat[row]) ** 2 + weight * term)
    return total / counts.sum()


def policy(
    net: Net,
    rows: dict[str, np.ndarray],
    agent: int,
    e: np.ndarray,
    mu: np.ndarray,
    counts: np.ndarray,
    alpha: float,
) -> float:
    """Loss of the policy; e is constant."""
    avail = rows["avail"][:, agent]
    log_pi, total = log_softmax(forward(net, rows["obs"][:, agent])[0], avail), 0.0
    for row in range(len(e)):
        for a in np.flatnonzero(avail[row]):
            pi = np.exp(log_pi[row, a])
            total += counts[row] * pi * (alpha * (log_pi[row, a] - np.log(mu[row, a])) - e[row, a])
    return total / counts.sum()


def teammates(net: Net, rows: dict[str, np.ndarray], agent: int) -> float:
    """Negative log-likelihood of the teammates' actions, a mean over steps and teammates."""
    tables, actions, total = mates_tables(net, agent, rows), rows["actions"], 0.0
    for row in np.flatnonzero(rows["valid"]):
        for j in range(actions.shape[1]):
            if j != agent:
                total -= tables[row, j, actions[row, j]]
    return total / (rows["valid"].sum() * (actions.shape[1] - 1))


def filled_dual(
    nu: np.ndarray,
    absorbing_nu: float,
    episodes: list[list[tuple[int, float, int]]],
    limit: int,
    alpha: float,
    gamma: float,
) -> float:
    """The same dual with the steps in the absorbing state written out; ratio 1, no divergence, no
    penalty.

    nu [S]; an episode is a list of (state, reward, next state), next state -1 where it terminates.
    """
    hats, starts = [], []
    value_of = lambda s: absorbing_nu if s < 0 else nu[s]
    for steps in episodes:
        rest = [(-1, 0.0, -1)] * (limit - len(steps)) if steps[-1][2] < 0 else []
        for s, reward, after in steps + rest:
            hats.append(reward + gamma * value_of(after) - value_of(s))
            starts.append(value_of(s))
    return alpha * np.log(np.mean(np.exp(np.array(hats) / alpha))) + (1 - gamma) * np.mean(starts)
