"""Discrete OMAR's targets and losses in float64 NumPy, step by step, from the equations of the form
in the CFCQL code base.

A layer is (weight, bias), a net a list of layers. An actor is a net, or a dictionary for a
recurrent one: layers "first" and "last", and "gru", the arguments of `gru_cell`. A critic has
"trunks", two nets of two layers, and "of_action" and
"of_state", lists of one layer for both trunks or of one each. `batch` is a dictionary of arrays [B,
T, ...]; obs, state and avail have T + 1 slots.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.inspo_numpy import Net, forward, gru_cell, log_softmax


def numbered(obs: np.ndarray, agent: int) -> np.ndarray:
    """Observation [O] of an agent of obs [N, O], then the one-hot of its number."""
    return np.concatenate([obs[agent], np.eye(len(obs))[agent]])


def critic_values(critic: dict[str, Any], state: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """[2, N, A] of one slot: head per action plus head per state, on relu of each trunk."""
    out = []
    for twin, trunk in enumerate(critic["trunks"]):
        head = min(twin, len(critic["of_action"]) - 1)
        each = []
        for i in range(len(obs)):
            h = np.maximum(forward(trunk, np.concatenate([state, numbered(obs, i)]))[0], 0.0)
            each.append(
                forward([critic["of_action"][head]], h)[0]
                + forward([critic["of_state"][head]], h)[0]
            )
        out.append(each)
    return np.array(out)


def actor_logits(
    actor: Net | dict[str, Any], obs: np.ndarray, actions: np.ndarray, count: int
) -> np.ndarray:
    """Logits [T + 1, N, A] of one episode, not masked: obs [T + 1, N, O], actions [T, N], `count`
    actions to choose from.

    A recurrent actor also sees the previous action, zeros at first, and starts from zero memory.
    """
    slots, n = obs.shape[:2]
    out = np.zeros((slots, n, count))
    for i in range(n):
        memory = np.zeros(len(actor["first"][1])) if isinstance(actor, dict) else None
        for t in range(slots):
            x = numbered(obs[t], i)
            if isinstance(actor, dict):
                before = np.eye(count)[actions[t - 1, i]] if t else np.zeros(count)
                x = np.maximum(forward([actor["first"]], np.concatenate([x, before]))[0], 0.0)
                memory = gru_cell(memory, x, *actor["gru"])
                out[t, i] = forward([actor["last"]], memory)[0]
            else:
                out[t, i] = forward(actor, x)[0]
    return out


def lambda_returns(
    reward: np.ndarray, next_q: np.ndarray, terminated: bool, gamma: float, trace: float
) -> np.ndarray:
    """Of one episode of L steps, by definition: (1 - lambda) lambda^(n-1) of each n-step return,
    the rest of the weight on the last.
    """
    steps = len(reward)
    out = np.zeros(steps)
    for t in range(steps):
        rewards, weight = 0.0, 1.0
        for n in range(1, steps - t + 1):
            last = t + n == steps
            rewards += gamma ** (n - 1) * reward[t + n - 1]
            beyond = 0.0 if last and terminated else next_q[t + n - 1]
            out[t] += weight * (1.0 if last else 1 - trace) * (rewards + gamma**n * beyond)
            weight *= trace
    return out


def targets(
    actor: Any, critic: dict[str, Any], batch: dict[str, np.ndarray], gamma: float, trace: float
) -> np.ndarray:
    """The smaller of both slow critics' TD(lambda) under the slow actor's best available action:
    [B, T, N]; 0 on padding.
    """
    out = np.zeros(batch["actions"].shape)
    for row in range(len(out)):
        length = int(batch["valid"][row].sum())
        logits = actor_logits(
            actor, batch["obs"][row], batch["actions"][row], batch["avail"].shape[-1]
        )
        best = np.where(batch["avail"][row] > 0, logits, -np.inf).argmax(-1)
        for i in range(out.shape[2]):
            next_q = [
                critic_values(critic, batch["state"][row, k], batch["obs"][row, k])[
                    :, i, best[k, i]
                ]
                for k in range(1, length + 1)
            ]
            ended = bool(batch["terminated"][row, length - 1])
            both = [
                lambda_returns(batch["reward"][row, :length], q, ended, gamma, trace)
                for q in np.array(next_q).T
            ]
            out[row, :length, i] = np.minimum(*both)
    return out


def critic_loss(
    critic: dict[str, Any],
    goal: np.ndarray,
    batch: dict[str, np.ndarray],
    cql: float,
    masked: bool,
    slots: list[int],
) -> float:
    """Sum over both of mean (Q - y)^2 + cql mean(logsumexp Q - Q(a)), over valid steps of these
    slots and agents.
    """
    total, count = 0.0, 0
    for row, t in np.ndindex(goal.shape[:2]):
        if t not in slots or not batch["valid"][row, t]:
            continue
        both = critic_values(critic, batch["state"][row, t], batch["obs"][row, t])
        for i in range(goal.shape[2]):
            count += 1
            for q in both[:, i]:
                taken = q[batch["actions"][row, t, i]]
                counted = q[batch["avail"][row, t, i] > 0] if masked else q
                total += (taken - goal[row, t, i]) ** 2 + cql * (
                    np.log(np.exp(counted).sum()) - taken
                )
    return total / count


def actor_loss(
    actor: Any,
    critic: dict[str, Any],
    batch: dict[str, np.ndarray],
    mimic: float,
    mask_argmax: bool,
    mask_mse: bool,
) -> float:
    """(1 - mimic) mean -(Q1(a) - E_pi Q1) log(pi(a) + 1e-5) + mimic mean (pi - onehot argmax Q1)^2.

    Without mask_mse the second mean is over all slots; after the slot that follows the last step no
    action is available, and pi is then uniform, the softmax of equal numbers.
    """
    rows, steps, n = batch["actions"].shape
    count = batch["avail"].shape[-1]
    gradient, regression, slots = 0.0, 0.0, 0
    for row in range(rows):
        logits = actor_logits(actor, batch["obs"][row], batch["actions"][row], count)
        for t in range(steps):
            real = t <= batch["valid"][row].sum()
            q = critic_values(critic, batch["state"][row, t], batch["obs"][row, t])[0]
            for i in range(n):
                avail = batch["avail"][row, t, i] > 0
                pi = np.exp(log_softmax(logits[t, i], avail)) if real else np.full(count, 1 / count)
                if batch["valid"][row, t]:
                    taken = batch["actions"][row, t, i]
                    gradient -= (q[i, taken] - (pi * q[i]).sum()) * np.log(pi[taken] + 1e-5)
                if batch["valid"][row, t] or not mask_mse:
                    best = np.argmax(np.where(avail, q[i], -np.inf) if mask_argmax else q[i])
                    regression += ((pi - np.eye(count)[best]) ** 2).mean()
                    slots += 1
    return (1 - mimic) * gradient / (batch["valid"].sum() * n) + mimic * regression / slots
