"""CFCQL, its losses in float64 NumPy, written from the equations (Shao et al., 2023) with loops
over steps, agents and actions.

Discrete: a batch is a dictionary of arrays [B, T, ...]. Continuous: rows [M, ...]. Parameters are
the nested dictionaries of the nets, as NumPy arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.icq_numpy import dense, mlp

Batch = dict[str, np.ndarray]


def log_sum_exp(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """log sum exp."""
    top = x.max(axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(x - top).sum(axis))


# --------------------------------------------------------------------------------------------
# discrete


def mix(params: Any, values: np.ndarray, state: np.ndarray, embed: int) -> float:
    """QMIX of values [N] at a state [S]: ELU(q |W1| + b1) |W2| + b2."""
    p = params["params"]
    first = np.abs(mlp(p["MLP_0"], state)).reshape(len(values), embed)
    hidden = values @ first + dense(p["Dense_0"], state)
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    return float(hidden @ np.abs(mlp(p["MLP_1"], state)) + mlp(p["MLP_2"], state)[0])


def outputs(params: Any, obs: np.ndarray, avail: np.ndarray) -> np.ndarray:
    """[N, A] from observations [N, O] and the agents' numbers; -inf where unavailable."""
    return np.where(avail > 0, mlp(params, np.concatenate([obs, np.eye(len(obs))], -1)), -np.inf)


def replaced_totals(
    mixer: Any, q: np.ndarray, actions: np.ndarray, state: np.ndarray, embed: int
) -> np.ndarray:
    """Q_tot with the entry of agent i replaced by its value of j, [N, A]; -inf where
    unavailable.
    """
    out = np.full(q.shape, -np.inf)
    for i, j in np.ndindex(*q.shape):
        if np.isfinite(q[i, j]):
            chosen = q[np.arange(len(q)), actions].copy()
            chosen[i] = q[i, j]
            out[i, j] = mix(mixer, chosen, state, embed)
    return out


def weights(totals: np.ndarray, log_mu: np.ndarray, tau: float) -> np.ndarray:
    """lambda [N] from KL(softmax totals, mu) over available actions, 1e-5 added to both."""
    apart = np.zeros(len(totals))
    for i, row in enumerate(totals):
        p = np.exp(row - log_sum_exp(row))
        for j in np.flatnonzero(np.isfinite(row)):
            apart[i] += (p[j] + 1e-5) * (np.log(p[j] + 1e-5) - np.log(np.exp(log_mu[i, j]) + 1e-5))
    if tau >= 100:
        return np.eye(len(apart))[apart.argmax()]
    mass = np.exp(tau * (apart - apart.max()))
    return mass / mass.sum()


def target(
    critic: Any,
    slow: Any,
    slow_mixer: Any,
    batch: Batch,
    b: int,
    embed: int,
    gamma: float,
    trace: float,
) -> np.ndarray:
    """lambda-return of one window [T] over slow values of the online argmax; 0 on padding."""
    out, length = np.zeros(batch["valid"].shape[1]), int(batch["valid"][b].sum())
    later = None
    for t in reversed(range(length)):
        seen = batch["next_obs"][b, t], batch["next_avail"][b, t]
        best = outputs(critic, *seen).argmax(-1)
        q = outputs(slow, *seen)[np.arange(len(best)), best]
        value = mix(slow_mixer, q, batch["next_state"][b, t], embed)
        ahead = value if later is None else (1 - trace) * value + trace * later
        later = out[t] = batch["reward"][b, t] + gamma * (1 - batch["terminated"][b, t]) * ahead
    return out


def discrete_loss(
    critic: Any,
    mixer: Any,
    slow: Any,
    slow_mixer: Any,
    behaviour: Any,
    batch: Batch,
    held: dict[str, Any] | None = None,
    **c: Any,
) -> tuple[float, dict[str, Any]]:
    """Half the squared error plus cql times the conservative term; `held` fixes targets and
    weights, for differences.
    """
    total, conservative, made = 0.0, 0.0, {"target": {}, "weight": {}}
    for b in range(len(batch["valid"])):
        returns = (
            target(critic, slow, slow_mixer, batch, b, c["embed"], c["gamma"], c["trace"])
            if held is None
            else held["target"][b]
        )
        made["target"][b] = returns
        for t in np.flatnonzero(batch["valid"][b]):
            actions, state = batch["actions"][b, t], batch["state"][b, t]
            q = outputs(critic, batch["obs"][b, t], batch["avail"][b, t])
            data = mix(mixer, q[np.arange(len(q)), actions], state, c["embed"])
            totals = replaced_totals(mixer, q, actions, state, c["embed"])
            mu = outputs(behaviour, batch["obs"][b, t], batch["avail"][b, t])
            weight = (
                weights(totals, mu - log_sum_exp(mu)[:, None], c["tau"])
                if held is None
                else held["weight"][b, t]
            )
            made["weight"][b, t] = weight
            total += 0.5 * (data - returns[t]) ** 2
            conservative += weight @ log_sum_exp(totals) - data
    steps = batch["valid"].sum()
    return (total + c["cql"] * conservative) / steps, made


# ------------------------------------------------------------------------------------------
# continuous


def batch_norm(norm: Any, x: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Scale and shift of x [..., F] at mean 0 and variance 1 over the rows of keep."""
    rows = x[keep]
    return norm[0] * (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) + norm[1]


def of_twin(params: Any, k: int) -> Any:
    """Parameters of one of a stack of nets."""
    return {
        name: {part: x[k] for part, x in layer.items()} for name, layer in params["params"].items()
    }


def twin_values(critic: Any, state: np.ndarray, joint: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Twin values of rows: state [M, S], joint [K, M, N, A], statistics over all K samples of kept
    rows -> [2, K, M].
    """
    count, rows = joint.shape[:2]
    x = np.concatenate(
        [np.broadcast_to(state, (count, *state.shape)), joint.reshape(count, rows, -1)], -1
    )
    x = batch_norm(critic[1], x, np.broadcast_to(keep, (count, rows)))
    return np.stack([mlp(of_twin(critic[0], k), x)[..., 0] for k in range(2)])


def replaced_values(
    critic: Any, state: np.ndarray, mates: np.ndarray, own: np.ndarray, keep: np.ndarray
) -> list[np.ndarray]:
    """For each agent i, twin values [2, K, M] of mates [M, N, A] with its action that of own [K, M,
    N, A]; one statistic for all.
    """
    joints = []
    for i in range(own.shape[2]):
        joint = np.broadcast_to(mates, own.shape).copy()
        joint[:, :, i] = own[:, :, i]
        joints.append(joint)
    return np.split(twin_values(critic, state, np.concatenate(joints), keep), len(joints), 1)


def policies(policy: Any, obs: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """tanh nets of all agents on normalised inputs, [M, N, O] -> [M, N, A]."""
    n = obs.shape[1]
    out = [
        np.tanh(
            mlp(
                of_twin(policy[0], i),
                batch_norm((policy[1][0][i], policy[1][1][i]), obs[:, i], keep),
            )
        )
        for i in range(n)
    ]
    return np.stack(out, 1)


def normal_log_density(z: np.ndarray, std: float) -> np.ndarray:
    """Of z standard deviations `std` from the mean, summed over the last axis."""
    return (-0.5 * z**2 - np.log(std * np.sqrt(2 * np.pi))).sum(-1)


def log_behaviour(vae: Any, state: np.ndarray, joint: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """log mu_i: importance sampling with q(z | s, a) and given noise [L, M, latent]; [M, N]."""
    rows, n, a = joint.shape
    out = mlp(vae["encoder"], np.concatenate([state, joint.reshape(rows, -1)], -1))
    size = out.shape[1] // 2
    mean, log_std = out[:, :size], np.clip(out[:, size:], -4, 15)
    terms = []
    for one in noise:
        z = mean + np.exp(log_std) * one
        found = np.tanh(mlp(vae["decoder"], np.concatenate([state, z], -1))).reshape(rows, n, a)
        std = np.sqrt(0.5 / 4)
        log_q = normal_log_density(one, 1.0) - log_std.sum(-1)
        terms.append(
            normal_log_density((joint - found) / std, std)
            + (normal_log_density(z, 1.0) - log_q)[:, None]
        )
    return log_sum_exp(np.stack(terms), 0) - np.log(len(noise))


def critic_loss(
    nets: dict[str, Any],
    rows: Batch,
    follows: np.ndarray,
    next_actions: np.ndarray,
    draws: dict[str, Any],
    **c: Any,
) -> float:
    """Both errors plus cql times the conservative term.

    draws: target [M, N, A], latent, uniform, now, next [K, M, N, A].
    """
    keep, n, a = rows["valid"] > 0, rows["actions"].shape[1], rows["actions"].shape[2]
    now, then = (policies(nets["policy"], rows[seen], keep) for seen in ("obs", "next_obs"))
    slow = np.clip(policies(nets["target_policy"], rows["next_obs"], keep) + draws["target"], -1, 1)
    next_value = twin_values(nets["target_critic"], rows["next_state"], slow[None], keep)[:, 0].min(
        0
    )
    y = rows["reward"] + c["gamma"] * (1 - rows["terminated"]) * next_value
    q = twin_values(nets["critic"], rows["state"], rows["actions"][None], keep)[:, 0]
    apart = -a * np.log(0.2 * np.sqrt(2 * np.pi)) - log_behaviour(
        nets["vae"], rows["state"], now, draws["latent"]
    )
    mass = np.exp(c["tau"] * (apart - apart.max(-1, keepdims=True)))
    weight = mass / mass.sum(-1, keepdims=True)
    kinds = [
        (
            draws["uniform"],
            rows["actions"],
            keep,
            np.full(draws["uniform"].shape[:3], a * np.log(0.5)),
        )
    ]
    for centre, mates, kept, noise in (
        (now, rows["actions"], keep, draws["now"]),
        (then, next_actions, keep & follows, draws["next"]),
    ):
        kinds.append(
            (np.clip(centre + noise, -1, 1), mates, kept, normal_log_density(noise / 0.2, 0.2))
        )
    # Q_k - log p of each agent, [2, samples, M]
    terms: list[list[np.ndarray]] = [[] for _ in range(n)]
    for own, mates, kept, log_p in kinds:
        found = replaced_values(nets["critic"], rows["state"], mates, own, kept)
        for i in range(n):
            # a sample that isn't there weighs nothing
            terms[i].append(found[i] - np.where(kept, log_p[:, :, i], 1e10))
    level = np.stack([log_sum_exp(np.concatenate(x, 1), 1) for x in terms], -1)
    loss = (q - y) ** 2 + c["cql"] * ((weight * level).sum(-1) - q)
    return float(loss.sum(0)[keep].mean())


def policy_loss(policy: Any, critic: Any, rows: Batch, penalty: float) -> float:
    """-mean_i Q_1 with the action of agent i replaced, plus penalty times the squares."""
    keep, total = rows["valid"] > 0, 0.0
    own = policies(policy, rows["obs"], keep)
    for i, q in enumerate(replaced_values(critic, rows["state"], rows["actions"], own[None], keep)):
        total += -q[0, 0][keep].mean() / own.shape[1] + penalty * (own[keep][:, i] ** 2).mean()
    return total


def vae_loss(vae: Any, rows: Batch, noise: np.ndarray) -> float:
    """Mean squared error plus .5 KL per latent dimension, over valid rows."""
    keep, joint = rows["valid"] > 0, rows["actions"].reshape(len(rows["valid"]), -1)
    out = mlp(vae["encoder"], np.concatenate([rows["state"], joint], -1))
    size = out.shape[1] // 2
    mean, log_std = out[:, :size], np.clip(out[:, size:], -4, 15)
    found = np.tanh(
        mlp(vae["decoder"], np.concatenate([rows["state"], mean + np.exp(log_std) * noise], -1))
    )
    divergence = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std)
    return float((((found - joint) ** 2).mean(-1) + 0.5 * divergence.mean(-1))[keep].mean())
