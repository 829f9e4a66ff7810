"""MADT's net and loss in float64 NumPy, one window, one agent, one query at a time.

A batch is a dictionary of arrays [B, T, ...]; parameters are the nested dictionaries of the nets,
as NumPy arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import erf, log_softmax, softmax

TOKENS = {"state_only": "o", "state_action": "oa", "rtg_state_action": "roa"}


def dense(p: Any, x: np.ndarray) -> np.ndarray:
    """x W + b."""
    return x @ p["kernel"] + p.get("bias", 0.0)


def layer_norm(p: Any, x: np.ndarray) -> np.ndarray:
    """(x - mean) / sqrt(variance + 1e-5), scaled and moved."""
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p["scale"] + p["bias"]


def block(p: Any, x: list[np.ndarray], heads: int) -> list[np.ndarray]:
    """Attention, then the wide layer, both on normalised inputs and added."""
    width, size = len(x[0]), len(x[0]) // heads
    parts = [dense(p["Dense_0"], layer_norm(p["LayerNorm_0"], row)) for row in x]
    after = []
    for place, row in enumerate(x):
        found = []
        for head in range(heads):
            cut = [
                slice(kind * width + head * size, kind * width + (head + 1) * size)
                for kind in range(3)
            ]
            scores = np.array(
                [
                    parts[place][cut[0]] @ parts[other][cut[1]] / np.sqrt(size)
                    for other in range(place + 1)
                ]
            )
            found.append(
                sum(share * parts[other][cut[2]] for other, share in enumerate(softmax(scores)))
            )
        after.append(row + dense(p["Dense_1"], np.concatenate(found)))
    out = []
    for row in after:
        hidden = dense(p["Dense_2"], layer_norm(p["LayerNorm_1"], row))
        out.append(row + dense(p["Dense_3"], 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))))
    return out


def features(
    trunk: Any,
    mode: str,
    heads: int,
    obs: np.ndarray,
    last: np.ndarray,
    to_go: np.ndarray,
    time: np.ndarray,
) -> np.ndarray:
    """One sequence: obs [T, F], last [T], to_go [T], time [T] -> [T, H]."""
    p, tokens = trunk["params"], []
    for t in range(len(obs)):
        for kind in TOKENS[mode]:
            value = {
                "o": lambda t=t: dense(p["obs"], obs[t]),
                "r": lambda t=t: dense(p["return"], to_go[t : t + 1]),
                "a": lambda t=t: p["action"]["embedding"][max(last[t], 0)],
            }[kind]()
            tokens.append(np.tanh(value) + p["slots"][len(tokens)] + p["times"][time[t]])
    layer = 0
    while f"Block_{layer}" in p:
        tokens, layer = block(p[f"Block_{layer}"], tokens, heads), layer + 1
    count = len(TOKENS[mode])
    return np.stack(
        [layer_norm(p["LayerNorm_0"], tokens[count * t + count - 1]) for t in range(len(obs))]
    )


def all_features(
    trunk: Any, mode: str, heads: int, batch: dict[str, np.ndarray], to_go: np.ndarray
) -> np.ndarray:
    """Every window and agent, with the agent's number in its input: [B, T, N, H]."""
    agents = batch["obs"].shape[2]
    rows = []
    for b in range(len(batch["obs"])):
        per_agent = []
        for n in range(agents):
            number = np.tile(np.eye(agents)[n], (batch["obs"].shape[1], 1))
            seen = np.concatenate([batch["obs"][b, :, n], number], 1)
            per_agent.append(
                features(
                    trunk,
                    mode,
                    heads,
                    seen,
                    batch["last_actions"][b, :, n],
                    to_go[b],
                    batch["steps_before"][b],
                )
            )
        rows.append(np.stack(per_agent, 1))
    return np.stack(rows)


def loss(
    params: Any,
    mode: str,
    heads: int,
    batch: dict[str, np.ndarray],
    to_go: np.ndarray,
    masked: bool,
) -> float:
    """Mean of -log pi(a_t) over real steps at which an agent has a choice."""
    h = all_features(params["trunk"], mode, heads, batch, to_go)
    total, count = 0.0, 0
    for b, t, n in np.ndindex(*batch["actions"].shape):
        avail = batch["avail"][b, t, n] > 0
        if batch["valid"][b, t] == 0 or avail.sum() < 2:
            continue
        logits = h[b, t, n] @ params["head"]["params"]["kernel"]
        keep = np.flatnonzero(avail) if masked else np.arange(len(avail))
        total -= log_softmax(logits[keep])[list(keep).index(batch["actions"][b, t, n])]
        count += 1
    return total / count
