"""OMIGA's losses in float64 NumPy, row by row, written from the formulas of Wang et al. (2023).

A net is a list of (weight, bias). The mixer is the three layers "trunk", "scale", "offset". `rows`
is a dictionary of arrays [M, ...]; `nets` holds "policy", "critic", "value", "mixer" and the slow
"target_critic", "target_value", "target_mixer".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.inspo_numpy import Net, forward, log_softmax

Layer = tuple[np.ndarray, np.ndarray]


def numbered(obs: np.ndarray, agent: int) -> np.ndarray:
    """Observation [O] of an agent of obs [N, O], then the one-hot of its number."""
    return np.concatenate([obs[agent], np.eye(len(obs))[agent]])


def mixer_weights(mixer: dict[str, Layer], state: np.ndarray) -> tuple[np.ndarray, float]:
    """w(s) [N] = |scale(h)| and b(s) = offset(h), h = relu(trunk(s))."""
    h = np.maximum(state @ mixer["trunk"][0] + mixer["trunk"][1], 0.0)
    return np.abs(h @ mixer["scale"][0] + mixer["scale"][1]), float(
        (h @ mixer["offset"][0] + mixer["offset"][1])[0]
    )


def q_taken(
    net: Net, obs: np.ndarray, actions: np.ndarray, discrete: bool, bound: float
) -> np.ndarray:
    """Q_i(o_i, a_i) [N] of one row."""
    out = []
    for i in range(len(obs)):
        x = numbered(obs, i)
        if discrete:
            out.append(forward(net, x)[0][actions[i]])
        else:  # observation, number, action
            out.append(forward(net, np.concatenate([x, np.clip(actions[i], -bound, bound)]))[0][0])
    return np.array(out)


def critic_loss(
    nets: dict[str, Any], rows: dict[str, np.ndarray], gamma: float, discrete: bool, bound: float
) -> float:
    """mean (w Q + b - [r + gamma (1 - terminated) (w V + b)'])^2, the last term by the slow
    nets.
    """
    total = 0.0
    for k in np.flatnonzero(rows["valid"]):
        w, b = mixer_weights(nets["mixer"], rows["state"][k])
        now = w @ q_taken(nets["critic"], rows["obs"][k], rows["actions"][k], discrete, bound) + b
        w, b = mixer_weights(nets["target_mixer"], rows["next_state"][k])
        v = [
            forward(nets["target_value"], numbered(rows["next_obs"][k], i))[0][0]
            for i in range(len(w))
        ]
        total += (
            now - rows["reward"][k] - gamma * (1 - rows["terminated"][k]) * (w @ np.array(v) + b)
        ) ** 2
    return total / rows["valid"].sum()


def exponents(
    nets: dict[str, Any], rows: dict[str, np.ndarray], alpha: float, discrete: bool, bound: float
) -> tuple[np.ndarray, ...]:
    """z, w and V of every row and agent [M, N]; slow Q and mixer, present V."""
    z, weights, values = (np.zeros(rows["obs"].shape[:2]) for _ in range(3))
    for k in range(len(z)):
        weights[k], _ = mixer_weights(nets["target_mixer"], rows["state"][k])
        values[k] = [
            forward(nets["value"], numbered(rows["obs"][k], i))[0][0] for i in range(z.shape[1])
        ]
        q = q_taken(nets["target_critic"], rows["obs"][k], rows["actions"][k], discrete, bound)
        z[k] = np.clip(weights[k] * (q - values[k]) / alpha, -10, 10)
    return z, weights, values


def value_loss(
    nets: dict[str, Any],
    rows: dict[str, np.ndarray],
    alpha: float,
    discrete: bool,
    bound: float,
    top: float | None = None,
) -> tuple[float, float]:
    """mean exp(z - zmax) + exp(-zmax) w V / alpha, and zmax; `top` holds it fixed, as the gradient
    does.
    """
    z, w, v = exponents(nets, rows, alpha, discrete, bound)
    real = rows["valid"] > 0
    top = max(-1.0, z[real].max()) if top is None else top
    return float((np.exp(z - top) + np.exp(-top) * w * v / alpha)[real].mean()), top


def log_density(out: np.ndarray, action: np.ndarray, bound: float) -> float:
    """Of bound * tanh(normal) at an action [A]; out [2 A] is the mean, clipped to 9, and log sigma,
    clipped to [-5, 2].
    """
    mean, log_std = np.clip(out[: len(action)], -9, 9), np.clip(out[len(action) :], -5, 2)
    edge = 1 - 1e-7
    y = np.arctanh(np.clip(action / bound, -edge, edge))
    normal = -0.5 * ((y - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    return float(np.sum(normal - np.log(1 - np.tanh(y) ** 2) - np.log(bound)))


def policy_loss(
    nets: dict[str, Any],
    rows: dict[str, np.ndarray],
    z: np.ndarray,
    discrete: bool,
    bound: float,
    masked: bool,
) -> float:
    """-mean exp(z) log pi_i(a_i | o_i)."""
    total = 0.0
    for k in np.flatnonzero(rows["valid"]):
        for i in range(z.shape[1]):
            out, action = (
                forward(nets["policy"], numbered(rows["obs"][k], i))[0],
                rows["actions"][k, i],
            )
            avail = rows["avail"][k, i] if masked else None
            log_pi = (
                log_softmax(out, avail)[action] if discrete else log_density(out, action, bound)
            )
            total -= np.exp(z[k, i]) * log_pi
    return total / (rows["valid"].sum() * z.shape[1])
