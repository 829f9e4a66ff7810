"""ICQ, its losses in float64 NumPy, written from the equations (Yang et al., 2021) with loops over
steps.

A batch is a dictionary of arrays [B, T, ...]; parameters are the nested dictionaries of the nets,
as NumPy arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]


def dense(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """x W + b."""
    return x @ p["kernel"] + p["bias"]


def mlp(params: Any, x: np.ndarray) -> np.ndarray:
    """Layers with ReLU between them."""
    layers = params.get("params", params)
    for k in range(len(layers)):
        x = dense(layers[f"Dense_{k}"], x if k == 0 else np.maximum(x, 0))
    return x


def dueling(params: Any, x: np.ndarray) -> np.ndarray:
    """V + A on two hidden layers."""
    p = params["params"]
    h = np.maximum(dense(p["Dense_1"], np.maximum(dense(p["Dense_0"], x), 0)), 0)
    return dense(p["Dense_2"], h) + dense(p["Dense_3"], h)


def mixer_weights(params: Any, state: np.ndarray, n: int) -> tuple[np.ndarray, float]:
    """w_i = |W1| |W2| over its sum, and b = linear - ReLU - linear, at one state [S]."""
    p = params["params"]
    first = np.abs(dense(p["first"], state)).reshape(n, -1)
    raw = first @ np.abs(dense(p["second"], state))
    return raw / (raw.sum() + 1e-10), float(mlp(p["offset"], state)[0])


def step_values(
    critic: Any, batch: Batch, b: int, t: int, actions: np.ndarray | None, discrete: bool
) -> np.ndarray:
    """Q_i at one step: [N, A] if discrete, else [N] at actions [N, A]."""
    n = batch["obs"].shape[2]
    x = np.concatenate([np.tile(batch["state"][b, t], (n, 1)), batch["obs"][b, t], np.eye(n)], -1)
    if discrete:
        return dueling(critic, x)
    return mlp(critic, np.concatenate([x, actions], -1))[:, 0]


def data_values(critic: Any, batch: Batch, b: int, t: int, discrete: bool) -> np.ndarray:
    """Q_i of the data's actions at one step, [N]."""
    actions = batch["actions"][b, t]
    q = step_values(critic, batch, b, t, actions, discrete)
    return q[np.arange(len(q)), actions] if discrete else q


def total_values(critic: Any, mixer: Any, batch: Batch, discrete: bool) -> np.ndarray:
    """Q_tot of the data's actions, [B, T]; 0 where not valid."""
    out = np.zeros(batch["valid"].shape)
    for b, t in zip(*np.nonzero(batch["valid"]), strict=True):
        q = data_values(critic, batch, b, t, discrete)
        w, bias = mixer_weights(mixer, batch["state"][b, t], len(q))
        out[b, t] = w @ q + bias
    return out


def softmax_weights(x: np.ndarray, valid: np.ndarray, temperature: float) -> np.ndarray:
    """n softmax(x / temperature) over axis 0, separately at each index of the other axes."""
    out = np.zeros_like(x)
    for place in np.ndindex(x.shape[1:]):
        rows = [b for b in range(len(x)) if valid[(b, *place[: valid.ndim - 1])] > 0]
        if rows:
            column = np.array([x[(b, *place)] for b in rows]) / temperature
            mass = np.exp(column - column.max())
            for b, share in zip(rows, mass / mass.sum(), strict=True):
                out[(b, *place)] = len(rows) * share
    return out


def targets(
    critic: Any, mixer: Any, batch: Batch, discrete: bool, **c: float
) -> tuple[np.ndarray, np.ndarray]:
    """G [B, T] and where it exists: backwards from the last step of each window, which is only used
    if it terminates.
    """
    total = total_values(critic, mixer, batch, discrete)
    x = softmax_weights(total, batch["valid"], c["beta_critic"]) * total
    out, mask = np.zeros_like(total), np.zeros_like(total)
    for b in range(len(total)):
        length = int(batch["valid"][b].sum())
        later = x[b, length - 1]  # stands for the return there, if the window goes on
        for t in reversed(range(length)):
            if batch["terminated"][b, t]:
                later = batch["reward"][b, t]
            elif t == length - 1:
                continue
            else:
                ahead = (1 - c["trace"]) * x[b, t + 1] + c["trace"] * later
                later = batch["reward"][b, t] + c["gamma"] * ahead
            out[b, t], mask[b, t] = later, 1
    return out, mask


def critic_loss(
    critic: Any, mixer: Any, batch: Batch, target: np.ndarray, mask: np.ndarray, discrete: bool
) -> float:
    """Mean over mask of (G - Q_tot)^2."""
    return float(
        (mask * (target - total_values(critic, mixer, batch, discrete)) ** 2).sum() / mask.sum()
    )


def log_probs(logits: np.ndarray, avail: np.ndarray, epsilon: float) -> np.ndarray:
    """log of (1 - epsilon) softmax over available actions + epsilon / their number; [A], -inf
    elsewhere.
    """
    may = avail > 0
    mass = np.where(may, np.exp(logits - logits[may].max()), 0.0)
    with np.errstate(divide="ignore"):
        return np.log((1 - epsilon) * mass / mass.sum() + epsilon * may / may.sum())


def gaussian_log_prob(mean: np.ndarray, log_std: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Density summed over dimensions, of actions clipped to [-1, 1]; [..., A] -> [...]."""
    z = (np.clip(actions, -1, 1) - mean) / np.exp(log_std)
    return (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)


def actor_loss(
    policy: Any, critic: Any, mixer: Any, batch: Batch, samples: np.ndarray | None = None, **c: Any
) -> float:
    """-mean of k c log pi(a) over valid steps and agents.

    samples [4, B, T, N, A] if continuous; policy is then (net, log_std).
    """
    discrete, shape = samples is None, batch["obs"].shape[:3]
    signal, log_prob, share = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for b, t in zip(*np.nonzero(batch["valid"]), strict=True):
        mine = data_values(critic, batch, b, t, discrete)
        share[b, t], _ = mixer_weights(mixer, batch["state"][b, t], shape[2])
        x = np.concatenate([batch["obs"][b, t], np.eye(shape[2])], -1)
        if discrete:
            out, q = mlp(policy, x), step_values(critic, batch, b, t, None, True)
            log_pi = np.stack(
                [log_probs(out[i], batch["avail"][b, t, i], c["epsilon"]) for i in range(shape[2])]
            )
            log_prob[b, t] = log_pi[np.arange(shape[2]), batch["actions"][b, t]]
            base = (np.exp(log_pi) * q).sum(-1)
        else:
            log_prob[b, t] = gaussian_log_prob(
                np.tanh(mlp(policy[0], x)), policy[1], batch["actions"][b, t]
            )
            base = np.mean(
                [step_values(critic, batch, b, t, one[b, t], False) for one in samples], 0
            )
        signal[b, t] = share[b, t] * mine if c["actor_weight"] == "value" else mine - base
    weight = softmax_weights(signal, batch["valid"], c["beta_actor"])
    outside = 1.0 if c["actor_weight"] == "value" else share
    return float(
        -(outside * weight * log_prob * batch["valid"][..., None]).sum()
        / (batch["valid"].sum() * shape[2])
    )
