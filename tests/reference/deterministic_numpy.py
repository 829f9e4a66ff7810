"""Deterministic policies and their critics in float64 NumPy, row by row: MADDPG over windows with
its conservative term, and FACMAC.

Parameters are nested dictionaries of float64 arrays. A batch is a dictionary of arrays [B, T, ...]
whose slots follow one another: obs of slot t + 1 is next_obs of slot t.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from tests.reference.inspo_numpy import gru_cell
from tests.reference.value_numpy import Arrays, Tree, dense, mlp, q_mixer


def member(tree: Any, *index: int) -> Any:
    """One of stacked parameters."""
    return jax.tree.map(lambda x: x[index], tree)


def early_reset_cell(h: np.ndarray, x: np.ndarray, gru: Tree) -> np.ndarray:
    """Sonnet's GRU: the reset gate multiplies the memory before the candidate's product with it."""
    w_r, w_z, w_n = np.split(gru["input"]["kernel"], 3, -1)
    b_r, b_z, b_n = np.split(gru["input"]["bias"], 3)
    u_r, u_z, u_n = np.split(gru["hidden"], 3, -1)
    r = 1 / (1 + np.exp(-(x @ w_r + h @ u_r + b_r)))
    z = 1 / (1 + np.exp(-(x @ w_z + h @ u_z + b_z)))
    return (1 - z) * np.tanh(x @ w_n + (r * h) @ u_n + b_n) + z * h


def policy_actions(
    params: Tree, batch: Arrays, *, recurrent: bool, numbered: bool, last: bool, activated: bool
) -> Any:
    """tanh outputs of one net of all agents at every slot and at the next one, [B, T, N, A]; memory
    starts at zero with a window.
    """
    p, (episodes, steps, n, a) = params["params"], batch["actions"].shape
    out = np.zeros((episodes, steps + 1, n, a))
    for b, i in np.ndindex(episodes, n):
        h = np.zeros(p["GRU_0"]["hidden"].shape[0]) if recurrent else None
        for t in range(steps + 1):
            x = [
                batch["obs"][b, t, i] if t < steps else batch["next_obs"][b, -1, i],
                *([np.eye(n)[i]] if numbered else []),
            ]
            if not recurrent:
                out[b, t, i] = np.tanh(mlp(p, np.concatenate(x)))
                continue
            x += [batch["actions"][b, t - 1, i] if t else np.zeros(a)] if last else []
            g = p["GRU_0"]
            x = np.maximum(dense(p["Dense_0"], np.concatenate(x)), 0)
            if "hidden_bias" in g:
                first = g["input"]
                h = gru_cell(h, x, first["kernel"], first["bias"], g["hidden"], g["hidden_bias"])
            else:
                h = early_reset_cell(h, x, g)
            out[b, t, i] = np.tanh(dense(p["Dense_1"], np.maximum(h, 0) if activated else h))
    return out[:, :-1], out[:, 1:]


# ---------------------------------------------------------------------------------------------
# MADDPG


def joint_value(critic: Tree, k: int, state: np.ndarray, joint: np.ndarray) -> float:
    """Q_k(s, a_1 ... a_N)."""
    return float(mlp(member(critic, k)["params"], np.concatenate([state, joint.reshape(-1)]))[0])


def own_value(critic: Tree, k: int, i: int, obs: np.ndarray, action: np.ndarray) -> float:
    """Q_ik(o_i, a_i)."""
    return float(mlp(member(critic, i, k)["params"], np.concatenate([obs, action]))[0])


def maddpg_actor_loss(
    own: np.ndarray, critic: Tree, batch: Arrays, penalty: float, independent: int = 0
) -> float:
    """-mean over steps and agents of min_k Q_k(s, own_i, data's others) + penalty mean own^2.

    independent: number of own critics.
    """
    total = []
    for b, t in np.argwhere(batch["valid"] > 0):
        for i in range(own.shape[2]):
            if independent:
                value = min(
                    own_value(critic, k, i, batch["obs"][b, t, i], own[b, t, i])
                    for k in range(independent)
                )
            else:
                joint = batch["actions"][b, t].copy()
                joint[i] = own[b, t, i]
                value = min(joint_value(critic, k, batch["state"][b, t], joint) for k in range(2))
            total.append(penalty * np.mean(own[b, t, i] ** 2) - value)
    return float(np.mean(total))


def maddpg_critic_loss(
    critic: Tree,
    slow: Tree,
    slow_next: np.ndarray,
    batch: Arrays,
    gamma: float,
    weight: float,
    samples: Any,
    log_density: Any,
) -> float:
    """Mean over twins of half the squared errors plus weight (log sum_u exp(Q - log p_i(u)) - Q of
    the data), mean over agents i.

    samples [M, B, T, N, A], log_density [M, B, T, N].
    """
    out = []
    for b, t in np.argwhere(batch["valid"] > 0):
        beyond = min(
            joint_value(slow, k, batch["next_state"][b, t], slow_next[b, t]) for k in range(2)
        )
        y = batch["reward"][b, t] + gamma * (1 - batch["terminated"][b, t]) * beyond
        for k in range(2):
            q = joint_value(critic, k, batch["state"][b, t], batch["actions"][b, t])
            drawn = np.array(
                [joint_value(critic, k, batch["state"][b, t], u) for u in samples[:, b, t]]
            )
            level = np.mean(
                [
                    np.log(np.exp(drawn - log_density[:, b, t, i]).sum())
                    for i in range(batch["actions"].shape[2])
                ]
            )
            out.append(0.5 * (y - q) ** 2 + weight * (level - q))
    return float(np.mean(out))


def independent_critic_loss(
    critic: Tree, slow: Tree, slow_next: np.ndarray, batch: Arrays, gamma: float
) -> float:
    """Half the squared error of one critic an agent, to its own reward and next value."""
    out = []
    for b, t in np.argwhere(batch["valid"] > 0):
        for i in range(batch["actions"].shape[2]):
            beyond = own_value(slow, 0, i, batch["next_obs"][b, t, i], slow_next[b, t, i])
            y = batch["agent_reward"][b, t, i] + gamma * (1 - batch["terminated"][b, t]) * beyond
            out.append(
                0.5
                * (y - own_value(critic, 0, i, batch["obs"][b, t, i], batch["actions"][b, t, i]))
                ** 2
            )
    return float(np.mean(out))


# ---------------------------------------------------------------------------------------------
# FACMAC


def mixed(
    critic: Tree, mixer: Tree, obs: np.ndarray, actions: np.ndarray, state: np.ndarray
) -> float:
    """Q_tot of one step, agents' numbers in the critic's input."""
    n = len(obs)
    return q_mixer(
        mixer,
        [
            mlp(critic["params"], np.concatenate([obs[i], actions[i], np.eye(n)[i]]))[0]
            for i in range(n)
        ],
        state,
    )


def facmac_critic_loss(
    params: Any, slow: Any, slow_next: np.ndarray, batch: Arrays, gamma: float
) -> float:
    """Mean over valid steps of (y - Q_tot)^2. params, slow: (critic, mixer)."""
    out = []
    for b, t in np.argwhere(batch["valid"] > 0):
        beyond = mixed(*slow, batch["next_obs"][b, t], slow_next[b, t], batch["next_state"][b, t])
        y = batch["reward"][b, t] + gamma * (1 - batch["terminated"][b, t]) * beyond
        out.append(
            (y - mixed(*params, batch["obs"][b, t], batch["actions"][b, t], batch["state"][b, t]))
            ** 2
        )
    return float(np.mean(out))


def facmac_actor_loss(
    actions: np.ndarray, critic: Tree, mixer: Tree, batch: Arrays, penalty: float
) -> float:
    """-mean over valid steps of Q_tot of the current policies' actions, all at once, plus penalty
    mean actions^2.
    """
    steps = np.argwhere(batch["valid"] > 0)
    total = [
        mixed(critic, mixer, batch["obs"][b, t], actions[b, t], batch["state"][b, t])
        for b, t in steps
    ]
    return float(
        np.mean([penalty * np.mean(actions[b, t] ** 2) for b, t in steps]) - np.mean(total)
    )
