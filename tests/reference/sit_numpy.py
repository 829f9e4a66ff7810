"""SIT in float64 NumPy, written from the equations (Tian et al., AAAI 2023) with loops over
episodes, steps and agents.

Parameters are those of the flax modules, as nested dictionaries of arrays; a list of them where
there are several.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.inspo_numpy import gru_cell, log_softmax
from tests.reference.value_numpy import dense, mlp, q_mixer

Tree = dict[str, Any]


# ---------------------------------------------------------------------------- decomposition and
# replay


def softmax(x: np.ndarray) -> np.ndarray:
    """Over a vector."""
    mass = np.exp(x - x.max())
    return mass / mass.sum()


def own_rewards(
    params: Tree, state: np.ndarray, seen: np.ndarray, kind: str
) -> tuple[np.ndarray, float]:
    """Eq. 1 and 2 at one step: state [S], what agents saw and did [N, F] -> own rewards [N] and
    their total.
    """
    p = params["params"]
    reward = np.array([mlp(p["reward"], x)[0] for x in seen])
    if kind == "monotonic":
        return reward, q_mixer({"params": p["mixer"]}, reward, state)
    if kind == "attention":
        query = mlp(p["team"], state) @ p["query"]["kernel"]
        reward = reward * softmax(
            np.array([query @ (mlp(p["agent"], x) @ p["key"]["kernel"]) for x in seen])
        )
    return reward, float(reward.sum())


def decomposition_loss(
    members: list[Tree], rows: list[tuple[np.ndarray, np.ndarray, float]], kind: str
) -> float:
    """Eq. 3 over (state, seen, reward) of real steps."""
    return float(
        np.mean([(own_rewards(p, s, x, kind)[1] - r) ** 2 for p in members for s, x, r in rows])
    )


def credit(
    own: np.ndarray, lengths: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eq. 4, 5, and the mean over an episode of Eq. 6: own [M, E, T, N] -> mean, spread [E, T, N],
    priority [E, N].
    """
    _, count, steps, n = own.shape
    mean, spread, priority = (
        np.zeros((count, steps, n)),
        np.zeros((count, steps, n)),
        np.zeros((count, n)),
    )
    for e, length in enumerate(lengths):
        for i in range(n):
            for t in range(length):
                values = own[:, e, t, i]
                mean[e, t, i] = values.sum() / len(values)
                spread[e, t, i] = np.sqrt(((values - mean[e, t, i]) ** 2).sum() / len(values))
            gains = [
                sum(gamma ** (u - t) * mean[e, u, i] for u in range(t, length))
                for t in range(length)
            ]
            priority[e, i] = sum(gains) / length
    return mean, spread, priority


def draw_probabilities(
    priority: np.ndarray, types: tuple[int, ...], top: float, alpha: float
) -> np.ndarray:
    """Eq. 7 of every trajectory among its type, [E, N]."""
    out = np.zeros_like(priority)
    for kind in set(types):
        columns = [i for i, other in enumerate(types) if other == kind]
        part = priority[:, columns]
        scaled = top * (part - part.min()) / (part.max() - part.min())
        out[:, columns] = softmax((scaled / alpha).ravel()).reshape(part.shape)
    return out


def certainty(
    spread: np.ndarray,
    lengths: np.ndarray,
    types: tuple[int, ...],
    eta: float,
    floor: float,
    most: float,
) -> list[list[np.ndarray]]:
    """min(eta / max(u, u_floor), most) of each agent's real steps: [E][N] of [length]."""
    least = {}
    for kind in set(types):
        real = [
            spread[e, :length, i]
            for e, length in enumerate(lengths)
            for i, other in enumerate(types)
            if other == kind
        ]
        least[kind] = max(floor, float(np.percentile(np.concatenate(real), 5)))
    return [
        [
            np.minimum(eta / np.maximum(spread[e, :length, i], least[kind]), most)
            for i, kind in enumerate(types)
        ]
        for e, length in enumerate(lengths)
    ]


# --------------------------------------------------------------------------------------- the last
# stage


def q_value(
    params: Tree,
    team: np.ndarray,
    own: np.ndarray,
    before: np.ndarray,
    action: np.ndarray,
    gat: str,
) -> float:
    """Eq. 8 and the two embeddings, of one agent at one step; team [N, O]."""
    p = params["params"]
    x = mlp(p["local"], np.concatenate([own, before, action]))
    if gat != "none":
        w = p["gat"]["embed"]["kernel"]
        nodes = [o @ w for o in team]
        weight = np.full(len(nodes), 1 / len(nodes))
        if gat == "attention":
            both = np.concatenate([p["gat"]["of_own"]["kernel"], p["gat"]["of_node"]["kernel"]])[
                :, 0
            ]
            score = np.array([both @ np.concatenate([own @ w, h]) for h in nodes])
            weight = softmax(np.where(score > 0, score, 0.2 * score))
        x = np.concatenate([x, sum(a * h for a, h in zip(weight, nodes, strict=True))])
    return float(mlp(p["value"], x)[0])


class Draw:
    """One drawn trajectory: agent i learns from agent j of an episode.

    Arrays over its own real steps.
    """

    def __init__(self, batch: Any, row: int, i: int, encode: Any) -> None:
        length, j = int(batch.valid[row].sum()), int(batch.agent[row, 0])
        part = slice(0, length)
        self.i, self.length = i, length
        self.team, self.own = batch.obs[row, part], batch.obs[row, part, j]
        self.avail, self.raw = batch.avail[row, part, j], batch.actions[row, part, j]
        self.action = [encode(a) for a in self.raw]
        self.before = [np.zeros_like(self.action[0]), *self.action[:-1]]
        self.reward, self.weight = batch.agent_reward[row, part, j], batch.weight[row, part, j]
        self.terminated = batch.terminated[row, part]

    def q(self, critic: Tree, gat: str, t: int, action: np.ndarray | None = None) -> float:
        """Q_i at step t, of the trajectory's action or another one."""
        return q_value(
            critic,
            self.team[t],
            self.own[t],
            self.before[t],
            self.action[t] if action is None else action,
            gat,
        )


def draws_of(batch: Any, n: int, encode: Any) -> list[Draw]:
    """Every row of a batch [N * B, T, ...], agent by agent."""
    each = len(batch.valid) // n
    return [Draw(batch, row, row // each, encode) for row in range(len(batch.valid))]


def critic_loss(
    critics: list[Tree], slow: list[Tree], draws: list[Draw], gamma: float, gat: str, skip: bool
) -> float:
    """Eq. 9; critics of each agent. A cut episode ends, or its last step is left out (skip)."""
    total, count = 0.0, 0
    for d in draws:
        for t in range(d.length):
            final = t == d.length - 1
            if final and skip and not d.terminated[t]:
                continue
            y = d.reward[t] if final else d.reward[t] + gamma * d.q(slow[d.i], gat, t + 1)
            total += d.weight[t] * (y - d.q(critics[d.i], gat, t)) ** 2
            count += 1
    return total / count


def unroll(params: Tree, d: Draw, n: int) -> list[np.ndarray]:
    """Outputs of agent i's net at every step."""
    p = params["params"]
    g, h, out = p["GRU_0"], np.zeros(p["GRU_0"]["hidden"].shape[0]), []
    for t in range(d.length):
        x = np.maximum(
            dense(p["Dense_0"], np.concatenate([d.own[t], np.eye(n)[d.i], d.before[t]])), 0.0
        )
        h = gru_cell(h, x, g["input"]["kernel"], g["input"]["bias"], g["hidden"], g["hidden_bias"])
        out.append(dense(p["Dense_1"], h))
    return out


def log_density(mean: np.ndarray, log_std: np.ndarray, action: np.ndarray) -> float:
    """Of a diagonal Gaussian."""
    return float(
        (-0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum()
    )


def actor_loss(
    nets: list[Tree],
    critics: list[Tree],
    draws: list[Draw],
    beta: float,
    gat: str,
    signal: str,
    norm: str,
    log_std: Any = None,
) -> float:
    """Eq. 10 with log pi in place of Q_i; nets, critics and log_std of each agent.

    signal advantage: discrete alone.
    """
    n, cells = len(nets), {}
    for number, d in enumerate(draws):
        for t, out in enumerate(unroll(nets[d.i], d, n)):
            if log_std is None:
                log_pi = log_softmax(np.where(d.avail[t] > 0, out, -np.inf))
                chosen = log_pi[d.raw[t]]
            else:
                chosen = log_density(np.tanh(out), log_std[d.i], d.action[t])
            value = d.q(critics[d.i], gat, t)
            if signal == "advantage":
                may = np.flatnonzero(d.avail[t])
                value -= sum(
                    np.exp(log_pi[a]) * d.q(critics[d.i], gat, t, np.eye(len(out))[a]) for a in may
                )
            cells[number, t] = (value, max(chosen, -20.0), d.weight[t])
    total = 0.0
    for (number, t), (value, chosen, weight) in cells.items():
        same = [
            v
            for (k, u), (v, _, _) in cells.items()
            if draws[k].i == draws[number].i and (u == t or norm == "batch_time")
        ]
        share = (
            len(same)
            * np.exp((value - max(same)) / beta)
            / sum(np.exp((v - max(same)) / beta) for v in same)
        )
        total -= weight * share * chosen
    return total / len(cells)
