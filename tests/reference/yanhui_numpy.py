"""YANHUI's objective in float64 NumPy, one anchor, one expert and one pair at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, softmax

from tests.reference.madt_numpy import all_features, dense


def unit(x: np.ndarray) -> np.ndarray:
    """x / |x|."""
    return x / np.linalg.norm(x)


def mixture(
    head: Any, h: np.ndarray, omega: np.ndarray, tau_g: float
) -> tuple[np.ndarray, np.ndarray]:
    """log P(z | o) [K] and cosines [K, A] of one item."""
    p, (count, width) = head["params"], omega.shape
    parts = dense(p["experts"], h).reshape(count, width)
    cosine = np.array([[unit(f) @ unit(v) for v in p["actions"]] for f in parts])
    g = unit(h @ p["gate"]["kernel"]) if count > 1 else np.zeros(width)
    return log_softmax([omega[k] @ g / tau_g for k in range(count)]), cosine


def contrast(
    distance: np.ndarray,
    attract: np.ndarray,
    repel: np.ndarray,
    member: np.ndarray,
    actions: np.ndarray,
    c: Any,
) -> float:
    """G of one anchor and expert: distance [A]; attract, repel, member, actions [J]."""
    total = 0.0
    for a in range(len(distance)):
        near = far = 0.0
        for j in np.flatnonzero((actions == a) & (member > 0)):
            near += np.exp(c.eta * attract[j] * distance[a] - c.mu)
            far += np.exp(c.mu - c.nu * (1 - repel[j] * (1 - distance[a])))
        total += np.log1p(near) / c.eta + np.log1p(far) / c.nu
    return total


def scores(
    n: int, items: dict[str, np.ndarray], inverse: np.ndarray, width: float, c: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w+, w- and membership of all items j at anchor n."""
    attract, repel, member = (np.zeros(len(items["valid"])) for _ in range(3))
    kept = inverse > 0
    for j in np.flatnonzero(items["valid"]):
        gap = np.mean(((items["obs"][n] - items["obs"][j]) * inverse)[kept] ** 2)
        kappa = 1.0 if n == j else np.exp(-gap / (2 * width**2))
        u = items["share"][j]
        rho = expit(c.slope * (u - c.midpoint))
        if not c.soft:
            if 0.5 < u < 0.9:
                continue
            rho = float(u >= 0.9)
        if kappa < 0.05 or items["avail"][n, items["actions"][j]] == 0:
            continue
        kappa = kappa if c.soft else 1.0
        attract[j], repel[j], member[j] = kappa * rho, kappa * (1 - rho), 1.0
    return attract, repel, member


def objective(
    params: Any,
    batch: dict[str, np.ndarray],
    to_go: np.ndarray,
    whole: np.ndarray,
    inverse: np.ndarray,
    width: float,
    omega: Any,
    c: Any,
) -> float:
    """E_n sum_k q [contrast G - cloning log p(a | n, k) - log p(k | o) + log q], anchors the first
    c.anchors windows.
    """
    h = all_features(params["trunk"], c.mode, c.heads, batch, to_go)
    agents, count = h.shape[2], 0
    flat = lambda x: x.reshape(-1, *x.shape[3:])
    items = {name: flat(batch[name]) for name in ("obs", "avail", "actions")}
    items["valid"] = np.repeat(batch["valid"].reshape(-1), agents) * (items["avail"].sum(-1) > 1)
    u = np.clip((whole - c.return_low) / (c.return_high - c.return_low), 0, 1)
    items["share"] = np.repeat(u.reshape(-1), agents)
    h, total = flat(h), 0.0
    for n in range(c.anchors * batch["obs"].shape[1] * agents):
        if not items["valid"][n]:
            continue
        log_gate, cosine = mixture(params["head"], h[n], omega, c.gate_temperature)
        if c.mix == "uniform":
            log_gate = np.full(len(omega), -np.log(len(omega)))
        keep = np.flatnonzero(items["avail"][n])
        place = list(keep).index(items["actions"][n])
        log_p = np.array(
            [log_softmax(cosine[k, keep] / c.action_temperature)[place] for k in range(len(omega))]
        )
        q = softmax(log_gate + log_p)
        pairs = scores(n, items, inverse, width, c)
        g = np.array(
            [contrast((1 - cosine[k]) / 2, *pairs, items["actions"], c) for k in range(len(omega))]
        )
        weight = expit(c.slope * (items["share"][n] - c.midpoint)) if c.ce_weight == "rho" else 1.0
        total += np.sum(q * (c.contrast * g - c.cloning * weight * log_p - log_gate + np.log(q)))
        count += 1
    return total / count
