"""Value decomposition in float64 NumPy, row by row, from the equations: nets, mixers, targets and
losses.

Parameters are those of the flax modules, as nested dictionaries of float64 arrays. A batch is a
dictionary of arrays [B, T, ...] whose slots follow one another: obs of slot t + 1 is next_obs of
slot t.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.inspo_numpy import gru_cell, log_softmax

Tree = dict[str, Any]
Arrays = dict[str, np.ndarray]


# ------------------------------------------------------------------------------------------------
# nets


def dense(p: Tree, x: np.ndarray) -> np.ndarray:
    """x W + b."""
    return x @ p["kernel"] + p["bias"]


def mlp(p: Tree, x: np.ndarray) -> np.ndarray:
    """Dense layers with ReLU between them."""
    for k in range(len(p)):
        x = dense(p[f"Dense_{k}"], x)
        x = np.maximum(x, 0.0) if k < len(p) - 1 else x
    return x


def agent_values(
    params: Tree, batch: Arrays, recurrent: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Q_i(tau_i, .) of every slot and of the next one, [B, T, N, A]; -inf where an action is
    unavailable.
    """
    p, (episodes, steps, n, a) = params["params"], batch["avail"].shape
    out = np.zeros((episodes, steps + 1, n, a))
    for b in range(episodes):
        for i in range(n):
            before, h = np.zeros(a), np.zeros(p["GRU_0"]["hidden"].shape[0]) if recurrent else None
            for t in range(steps + 1):
                seen = batch["obs"][b, t, i] if t < steps else batch["next_obs"][b, -1, i]
                if not recurrent:
                    out[b, t, i] = mlp(p, np.concatenate([seen, np.eye(n)[i]]))
                    continue
                x = np.maximum(
                    dense(p["Dense_0"], np.concatenate([seen, np.eye(n)[i], before])), 0.0
                )
                g = p["GRU_0"]
                h = gru_cell(
                    h, x, g["input"]["kernel"], g["input"]["bias"], g["hidden"], g["hidden_bias"]
                )
                out[b, t, i] = dense(p["Dense_1"], h)
                before = np.eye(a)[batch["actions"][b, t, i]] if t < steps else before
    return np.where(batch["avail"] > 0, out[:, :-1], -np.inf), np.where(
        batch["next_avail"] > 0, out[:, 1:], -np.inf
    )


def q_mixer(params: Tree, values: np.ndarray, state: np.ndarray) -> float:
    """elu(q |W1(s)| + b1(s)) . |w2(s)| + v(s), for one state."""
    p = params["params"]
    second = np.abs(mlp(p["MLP_1"], state))
    first = np.abs(mlp(p["MLP_0"], state)).reshape(len(values), len(second))
    x = sum(values[i] * first[i] for i in range(len(values))) + dense(p["Dense_0"], state)
    hidden = np.array([v if v > 0 else np.exp(v) - 1 for v in x])
    return float(hidden @ second + mlp(p["MLP_2"], state)[0])


def linear_weights(params: Tree, state: np.ndarray, n: int) -> tuple[np.ndarray, float]:
    """w [N] with sum 1, and b, for one state."""
    p = params["params"]
    second = np.abs(dense(p["second"], state))
    first = np.abs(dense(p["first"], state)).reshape(n, len(second))
    raw = np.array([row @ second for row in first])
    return raw / (raw.sum() + 1e-10), float(mlp(p["offset"], state)[0]) if "offset" in p else 0.0


def linear_mixer(params: Tree, values: np.ndarray, state: np.ndarray) -> float:
    """sum_i w_i(s) q_i + b(s)."""
    weights, bias = linear_weights(params, state, len(values))
    return float(weights @ values + bias)


def affine_mixer(params: Tree, values: np.ndarray, state: np.ndarray) -> float:
    """sum_i w_i(s) q_i + b(s), not normalised."""
    p = params["params"]
    hidden = np.maximum(dense(p["trunk"], state), 0.0)
    return float(np.abs(dense(p["scale"], hidden)) @ values + dense(p["offset"], hidden)[0])


# ---------------------------------------------------------------------------------------------
# targets


def of_taken(q: np.ndarray, batch: Arrays, mixer: Any) -> np.ndarray:
    """Q_tot of the data's actions [B, T]; 0 on padding."""
    out = np.zeros(batch["valid"].shape)
    for b, t in np.argwhere(batch["valid"] > 0):
        out[b, t] = mixer(
            [q[b, t, i, a] for i, a in enumerate(batch["actions"][b, t])], batch["state"][b, t]
        )
    return out


def double_q_target(
    next_q: np.ndarray, slow: np.ndarray, batch: Arrays, mixer: Any, gamma: float, keep: Any = None
) -> np.ndarray:
    """r + gamma (1 - terminated) Q'_tot(s', Q'_i(a*)), a* = argmax of next_q over kept actions; [B,
    T].
    """
    out = np.zeros(batch["valid"].shape)
    for b, t in np.argwhere(batch["valid"] > 0):
        values = []
        for i in range(next_q.shape[2]):
            allowed = [
                a
                for a in range(next_q.shape[3])
                if np.isfinite(next_q[b, t, i, a]) and (keep is None or keep[b, t, i, a])
            ]
            values.append(slow[b, t, i, max(allowed, key=lambda a: next_q[b, t, i, a])])
        out[b, t] = batch["reward"][b, t] + gamma * (1 - batch["terminated"][b, t]) * mixer(
            values, batch["next_state"][b, t]
        )
    return out


def keep_of(logits: np.ndarray, zeta: float) -> np.ndarray:
    """mu(a) / max mu > zeta, with mu(a) = 0 where the logit is -inf."""
    mu = np.exp(log_softmax(logits))
    return mu / mu.max(-1, keepdims=True) > zeta


def tree_backup(
    q: np.ndarray,
    next_value: np.ndarray,
    match: np.ndarray,
    batch: Arrays,
    gamma: float,
    trace: float,
    n: int,
) -> np.ndarray:
    """y_t = Q_t + sum_{l<n} (prod_{c=1..l} gamma trace match_{t+c}) delta_{t+l}, up to the end of
    the episode; [B, T].
    """
    out, valid = np.zeros(q.shape), batch["valid"]
    delta = batch["reward"] + gamma * (1 - batch["terminated"]) * next_value - q
    for b, t in np.argwhere(valid > 0):
        out[b, t] = q[b, t]
        for step in range(n):
            if t + step >= q.shape[1] or not valid[b, t + step]:
                break
            factor = np.prod([gamma * trace * match[b, t + c] for c in range(1, step + 1)])
            out[b, t] += factor * delta[b, t + step]
    return out


def backup_target(
    slow: np.ndarray, next_slow: np.ndarray, batch: Arrays, mixer: Any, kind: str, **c: Any
) -> np.ndarray:
    """Tree Backup of slow values [B, T, N, A] under their greedy or softmax policy."""
    shape = batch["valid"].shape
    next_value, match = np.zeros(shape), np.zeros(shape)
    probs = (
        (lambda x: np.eye(len(x))[np.argmax(x)])
        if kind == "greedy"
        else (lambda x: np.exp(log_softmax(x)))
    )
    for b, t in np.argwhere(batch["valid"] > 0):
        expected = []
        for row in next_slow[b, t]:
            pi = probs(row)
            expected.append(sum(pi[a] * row[a] for a in range(len(row)) if np.isfinite(row[a])))
        next_value[b, t] = mixer(expected, batch["next_state"][b, t])
        match[b, t] = np.prod(
            [probs(slow[b, t, i])[a] for i, a in enumerate(batch["actions"][b, t])]
        )
    return tree_backup(of_taken(slow, batch, mixer), next_value, match, batch, **c)


def lambda_return(batch: Arrays, next_value: np.ndarray, gamma: float, trace: float) -> np.ndarray:
    """(1 - trace) sum_k trace^(k-1) G^(k) + the rest of the weight on the longest, each G^(k)
    written out; [B, T].
    """
    out, valid = np.zeros(next_value.shape), batch["valid"]
    for b, t in np.argwhere(valid > 0):
        length = int(valid[b].sum()) - t
        returns = []
        for k in range(1, length + 1):
            total, alive = 0.0, 1.0
            for j in range(k):
                total += gamma**j * alive * batch["reward"][b, t + j]
                alive *= 1 - batch["terminated"][b, t + j]
            returns.append(total + gamma**k * alive * next_value[b, t + k - 1])
        out[b, t] = (
            sum((1 - trace) * trace ** (k - 1) * g for k, g in enumerate(returns[:-1], 1))
            + trace ** (length - 1) * returns[-1]
        )
    return out


# ----------------------------------------------------------------------------------------------
# losses


def squared_error(total: np.ndarray, target: np.ndarray, valid: np.ndarray) -> float:
    """Mean over valid steps of (y - Q_tot)^2."""
    return float(
        sum((target[b, t] - total[b, t]) ** 2 for b, t in np.argwhere(valid > 0)) / valid.sum()
    )


def cloning(logits: np.ndarray, batch: Arrays) -> float:
    """Mean over valid steps and agents of -log mu_i(a_i)."""
    log_mu = [
        log_softmax(logits[b, t, i])[a]
        for b, t in np.argwhere(batch["valid"] > 0)
        for i, a in enumerate(batch["actions"][b, t])
    ]
    return float(-np.mean(log_mu))


def conservative(q: np.ndarray, params: Tree, batch: Arrays, literal: bool) -> float:
    """Mean over valid steps of sum_i logsumexp_a(w_i Q_i) - w_i Q_i(a_i); as printed: sum_i
    logsumexp_a(w_i Q_i + b) - Q_tot.
    """
    out = []
    for b, t in np.argwhere(batch["valid"] > 0):
        weights, bias = linear_weights(params, batch["state"][b, t], q.shape[2])
        chosen = [q[b, t, i, a] for i, a in enumerate(batch["actions"][b, t])]
        offset = bias if literal else 0.0
        free = sum(
            np.log(sum(np.exp(w * x + offset) for x in row if np.isfinite(x)))
            for w, row in zip(weights, q[b, t], strict=True)
        )
        out.append(free - (weights @ chosen + offset))
    return float(np.mean(out))
