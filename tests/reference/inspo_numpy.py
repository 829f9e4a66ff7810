"""InSPO, its losses and nets in float64 NumPy with gradients by hand, written from the equations
(Liu et al., 2025).

Rows are looped over where that keeps an equation visible. A net is a list of (weight, bias); `rows`
is a dictionary of arrays [M, ...]. Resampling is replaced by its expectation: counts are the ratios
themselves.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

Net = list[tuple[np.ndarray, np.ndarray]]


# ------------------------------------------------------------------------------------------
# arithmetic


def log_softmax(x: np.ndarray, avail: np.ndarray | None = None) -> np.ndarray:
    """Over available actions; -inf elsewhere."""
    if avail is not None:
        x = np.where(avail > 0, x, -np.inf)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def forward(net: Net, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Output, and the input of each layer for `backward`."""
    inputs = []
    for number, (weight, bias) in enumerate(net):
        inputs.append(x)
        x = x @ weight + bias
        if number < len(net) - 1:
            x = np.maximum(x, 0.0)
    return x, inputs


def backward(net: Net, inputs: list[np.ndarray], grad: np.ndarray) -> Net:
    """Gradients of the weights from the gradient of the output."""
    out: Net = []
    for (weight, _), x in zip(reversed(net), reversed(inputs), strict=True):
        out.append((x.T @ grad, grad.sum(0)))
        grad = (grad @ weight.T) * (x > 0)
    return out[::-1]


class Adam:
    """Adam after clipping the norm of the whole gradient."""

    def __init__(self, lr: float, max_norm: float = np.inf) -> None:
        self.lr, self.max_norm, self.count, self.mean, self.square = lr, max_norm, 0, None, None

    def step(self, params: list[np.ndarray], grads: list[np.ndarray]) -> list[np.ndarray]:
        """New parameters."""
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        grads = [g * min(1.0, self.max_norm / norm) if norm > 0 else g for g in grads]
        if self.mean is None:
            self.mean, self.square = ([np.zeros_like(g) for g in grads] for _ in range(2))
        self.count += 1
        self.mean = [0.9 * m + 0.1 * g for m, g in zip(self.mean, grads, strict=True)]
        self.square = [0.999 * v + 0.001 * g**2 for v, g in zip(self.square, grads, strict=True)]
        a, b = 1 - 0.9**self.count, 1 - 0.999**self.count
        moved = zip(params, self.mean, self.square, strict=True)
        return [p - self.lr * (m / a) / (np.sqrt(v / b) + 1e-8) for p, m, v in moved]

    def step_net(self, net: Net, grads: Net) -> Net:
        """New net."""
        flat = self.step([x for layer in net for x in layer], [x for layer in grads for x in layer])
        return list(zip(flat[::2], flat[1::2], strict=True))


# ----------------------------------------------------------------------------------------------
# losses


def log_ratio(log_pi: np.ndarray, log_mates: np.ndarray, agent: int, power: int) -> np.ndarray:
    """Eq. 23: mean over teammates, clipped to [-10, log 100]; [M, N] each -> [M]."""
    total = sum(log_pi[:, j] - log_mates[:, j] for j in range(log_pi.shape[1]) if j != agent)
    return np.clip(total / power, -10, np.log(100))


def soft_value(
    log_pi: np.ndarray, q: np.ndarray, log_mu: np.ndarray, alpha: float, beta: float
) -> np.ndarray:
    """Eq. 10: sum_a pi (q - alpha clip(log pi/mu) - beta log pi)."""
    out = np.zeros(len(q))
    for row in range(len(q)):
        for a in range(q.shape[1]):
            if np.isfinite(log_pi[row, a]):
                gap = np.clip(log_pi[row, a] - log_mu[row, a], -10, 10)
                out[row] += np.exp(log_pi[row, a]) * (
                    q[row, a] - alpha * gap - beta * log_pi[row, a]
                )
    return out


def conservative_value_loss(
    q: np.ndarray, target: np.ndarray, actions: np.ndarray, avail: np.ndarray, cql: float
) -> np.ndarray:
    """Eq. 24, per row."""
    taken = q[np.arange(len(q)), actions]
    return (taken - target) ** 2 + cql * (np.log((avail * np.exp(q)).sum(1)) - taken)


def policy_weight(
    advantage: np.ndarray, log_mu: np.ndarray, alpha: float, beta: float
) -> np.ndarray:
    """Eq. 20: exp((A - beta log mu)/(alpha + beta)), exponent in [-20, 5], at most 100."""
    return np.minimum(np.exp(np.clip((advantage - beta * log_mu) / (alpha + beta), -20, 5)), 100)


def weighted_policy_loss(
    log_pi_taken: np.ndarray, weight: np.ndarray, counts: np.ndarray, normalise: bool
) -> float:
    """Eq. 20: mean_c(-w log pi), divided by mean_c(w)."""
    total = -(counts * weight * log_pi_taken).sum()
    return total / (counts * weight).sum() if normalise else total / counts.sum()


def teammates_log_prob(
    net: Net, anchor: int, state: np.ndarray, actions: np.ndarray, avail: np.ndarray
) -> np.ndarray:
    """Eq. 22: log mu_anchor(a_j | s, a_anchor, teammates before j) [M, N]; 0 for the anchor."""
    (m, n), a = actions.shape, avail.shape[-1]
    out = np.zeros((m, n))
    for row in range(m):
        mates = [j for j in range(n) if j != anchor]
        for j in mates:
            slots = [np.eye(a)[actions[row, k]] if k < j else np.zeros(a) for k in mates[:-1]]
            x = np.concatenate([np.eye(n)[j], state[row], np.eye(a)[actions[row, anchor]], *slots])
            out[row, j] = log_softmax(forward(net, x)[0], avail[row, j])[actions[row, j]]
    return out


# -------------------------------------------------------------------------------------------
# iteration


def pick(table: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Entries [M] of a table [M, A] at the actions."""
    return np.take_along_axis(table, actions[:, None], 1)[:, 0]


def log_probs(net: Net, i: int, rows: dict[str, np.ndarray], later: str = "") -> np.ndarray:
    """log pi [M, A] of agent i, at the observations now or (later="next_") next."""
    return log_softmax(forward(net, rows[later + "obs"][:, i])[0], rows[later + "avail"][:, i])


def critic_step(
    me: dict[str, Any],
    i: int,
    rows: dict[str, np.ndarray],
    counts: np.ndarray,
    beta: float,
    c: dict[str, Any],
) -> float:
    """A step of agent i's critic and of its slow copy, in place; the loss."""
    actions, avail, total = rows["actions"][:, i], rows["avail"][:, i], counts.sum()
    next_log_mu = np.maximum(log_probs(me["mu"], i, rows, "next_"), np.log(1e-6))
    next_q = forward(me["target"], rows["next_state"])[0]
    next_log_pi = log_probs(me["policy"], i, rows, "next_")
    next_value = soft_value(next_log_pi, next_q, next_log_mu, me["alpha"], beta)
    target = rows["reward"] + c["gamma"] * (1 - rows["terminated"]) * next_value
    q, inputs = forward(me["critic"], rows["state"])
    loss = (counts * conservative_value_loss(q, target, actions, avail, c["cql"])).sum() / total
    grad = np.eye(q.shape[1])[actions] * (2 * (pick(q, actions) - target) - c["cql"])[:, None]
    grad = grad + c["cql"] * np.exp(log_softmax(q, avail))
    grads = backward(me["critic"], inputs, grad * counts[:, None] / total)
    me["critic"] = me["critic_opt"].step_net(me["critic"], grads)
    me["target"] = [
        tuple(c["tau"] * new + (1 - c["tau"]) * old for new, old in zip(*layers, strict=True))
        for layers in zip(me["critic"], me["target"], strict=True)
    ]
    return loss


def policy_step(
    me: dict[str, Any],
    i: int,
    rows: dict[str, np.ndarray],
    counts: np.ndarray,
    beta: float,
    c: dict[str, Any],
) -> tuple[float, float]:
    """A step of agent i's policy, in place; the loss, and the divergence from the behaviour."""
    actions, total = rows["actions"][:, i], counts.sum()
    log_mu = np.maximum(log_probs(me["mu"], i, rows), np.log(1e-6))
    q = forward(me["target"], rows["state"])[0]
    logits, inputs = forward(me["policy"], rows["obs"][:, i])
    log_pi = log_softmax(logits, rows["avail"][:, i])
    pi = np.exp(log_pi)
    soft = c["baseline"] == "soft"
    base = soft_value(log_pi, q, log_mu, me["alpha"], beta) if soft else (pi * q).sum(1)
    weight = policy_weight(pick(q, actions) - base, pick(log_mu, actions), me["alpha"], beta)
    loss = weighted_policy_loss(pick(log_pi, actions), weight, counts, c["normalise"])
    share = counts * weight / ((counts * weight).sum() if c["normalise"] else total)
    grads = backward(me["policy"], inputs, share[:, None] * (pi - np.eye(q.shape[1])[actions]))
    me["policy"] = me["policy_opt"].step_net(me["policy"], grads)
    divergence = (counts * soft_value(log_pi, np.zeros_like(q), log_mu, -1.0, 0.0)).sum() / total
    return loss, divergence


def iteration(
    agents: list[dict[str, Any]],
    rows: dict[str, np.ndarray],
    order: list[int],
    beta: float,
    **c: Any,
) -> dict[str, float]:
    """One iteration of Algorithm 1; changes `agents` in place and returns the means of what is
    logged.

    agents: per agent "policy", "critic", "target", "mu", "mates" nets, "alpha", and Adam
    "policy_opt", "critic_opt". c: gamma, tau, cql, power, normalise, baseline ("expected" or
    "soft"), spo.
    """
    valid, actions = rows["valid"], rows["actions"]
    start, logged = copy.deepcopy(agents), []
    for i in order:
        me = agents[i]
        mates = start if c["spo"] == "off_stale" else agents
        log_pi = np.stack(
            [
                pick(log_probs(mates[j]["policy"], j, rows), actions[:, j])
                for j in range(len(agents))
            ],
            1,
        )
        log_mates = teammates_log_prob(me["mates"], i, rows["state"], actions, rows["avail"])
        rho = np.exp(log_ratio(log_pi, log_mates, i, c["power"]))
        counts = valid * (np.ones_like(rho) if c["spo"] == "off_rho1" else rho)
        value = critic_step(me, i, rows, counts, beta, c)
        policy, divergence = policy_step(me, i, rows, counts, beta, c)
        effective = counts.sum() ** 2 / (counts**2).sum()
        logged.append((value, policy, divergence, effective))
    names = ("value", "policy", "divergence", "effective_rows")
    return dict(zip(names, np.mean(logged, 0).tolist(), strict=True))


# ----------------------------------------------------------------------------------------------- a
# GRU


def gru_cell(
    h: np.ndarray,
    x: np.ndarray,
    w_in: np.ndarray,
    b_in: np.ndarray,
    w_h: np.ndarray,
    b_n: np.ndarray,
) -> np.ndarray:
    """r, z, n gates side by side in w_in [F, 3H] and w_h [H, 3H]; reset multiplies the hidden
    product with its bias.
    """
    width = len(h)
    gates, hidden = x @ w_in + b_in, h @ w_h
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    r = sigmoid(gates[:width] + hidden[:width])
    z = sigmoid(gates[width : 2 * width] + hidden[width : 2 * width])
    n = np.tanh(gates[2 * width :] + r * (hidden[2 * width :] + b_n))
    return (1 - z) * n + z * h
