"""Losses of MA-CQL, MA-TD3+BC and OMAR in float64 NumPy, written from the equations, for one agent;
search with loops over rows.

rows: dictionary of arrays [M, ...] of all agents; keep [M] bool. Parameters are the nested
dictionaries of the nets with a leading axis [N], a net being (parameters, (scale, shift)). Critics
are written as nets of the concatenated input.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.cfcql_numpy import batch_norm, log_sum_exp, normal_log_density, of_twin
from tests.reference.icq_numpy import dense, mlp

Batch = dict[str, np.ndarray]


def of_agent(net: Any, i: int) -> Any:
    """One agent's (parameters, norm)."""
    pick = lambda x: {k: pick(v) for k, v in x.items()} if isinstance(x, dict) else x[i]
    return pick(net[0]), tuple(x[i] for x in net[1])


def act(policy: Any, obs: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """One agent's actions [M, A], statistics over kept rows."""
    return np.tanh(mlp(policy[0], batch_norm(policy[1], obs, keep)))


def values(critic: Any, context: np.ndarray, actions: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Twin values of actions [K, M, D] at contexts [M, F], statistics over all K samples of kept
    rows -> [2, K, M].
    """
    count, rows = actions.shape[:2]
    x = np.concatenate([np.broadcast_to(context, (count, *context.shape)), actions], -1)
    x = batch_norm(critic[1], x, np.broadcast_to(keep, (count, rows)))
    out = []
    for k in range(2):
        p = of_twin(critic[0], k)
        h = np.maximum(
            x @ np.concatenate([p["context"]["kernel"], p["action"]["kernel"]])
            + p["context"]["bias"],
            0,
        )
        out.append(dense(p["value"], np.maximum(dense(p["inner"], h), 0))[..., 0])
    return np.stack(out)


def seen(rows: Batch, i: int, central: bool, after: str = "") -> np.ndarray:
    """What the critic of agent i sees beside actions."""
    return rows[f"{after}state"] if central else rows[f"{after}obs"][:, i]


def with_own(rows: Batch, i: int, own: np.ndarray, central: bool) -> np.ndarray:
    """own [K, M, A], or the data's joint actions with it in place of agent i's."""
    if not central:
        return own
    joint = np.broadcast_to(rows["actions"], (len(own), *rows["actions"].shape)).copy()
    joint[:, :, i] = own
    return joint.reshape(*own.shape[:2], -1)


def team(policies: Any, i: int, obs: np.ndarray, keep: np.ndarray, central: bool) -> np.ndarray:
    """Actions of agent i's policy, or of all of them side by side."""
    return np.concatenate(
        [
            act(of_agent(policies, j), obs[:, j], keep)
            for j in (range(obs.shape[1]) if central else [i])
        ],
        -1,
    )


def target(nets: dict[str, Any], rows: Batch, i: int, gamma: float, central: bool) -> np.ndarray:
    """r_i + gamma (1 - terminated) min_k Q'_k."""
    keep = rows["valid"] > 0
    ahead = team(nets["target_policy"], i, rows["next_obs"], keep, central)
    slow = values(
        of_agent(nets["target_critic"], i), seen(rows, i, central, "next_"), ahead[None], keep
    )[:, 0].min(0)
    return rows["agent_reward"][:, i] + gamma * (1 - rows["terminated"]) * slow


def data_values(critic: Any, rows: Batch, i: int, central: bool) -> np.ndarray:
    """[2, M]."""
    own = with_own(rows, i, rows["actions"][None, :, i], central)
    return values(critic, seen(rows, i, central), own, rows["valid"] > 0)[:, 0]


def cql_critic_loss(
    nets: dict[str, Any],
    critic: Any,
    rows: Batch,
    i: int,
    draws: list[np.ndarray],
    central: bool,
    **c: Any,
) -> float:
    """draws: uniform actions, then noise around the policies at o' and at o, if these are
    sampled.
    """
    keep, q = rows["valid"] > 0, data_values(critic, rows, i, central)
    kinds = [(draws[0], np.full(draws[0].shape[:2], -draws[0].shape[-1] * np.log(2.0)))]
    for noise, obs in zip(draws[1:], ("next_obs", "obs"), strict=False):
        density = normal_log_density(noise / 0.2, 0.2)
        near = np.clip(team(nets["policy"], i, rows[obs], keep, central) + noise, -1, 1)
        kinds.append((near, np.exp(density) if c["plain_density"] else density))
    found = np.concatenate(
        [values(critic, seen(rows, i, central), actions, keep) - log_p for actions, log_p in kinds],
        1,
    )
    held = c["temperature"] * log_sum_exp(found / c["temperature"], 1)
    loss = (q - target(nets, rows, i, c["gamma"], central)) ** 2 + c["cql"] * (held - q)
    return float(loss.sum(0)[keep].mean())


def first_values(critic: Any, rows: Batch, i: int, own: np.ndarray, central: bool) -> np.ndarray:
    """Q_1 of own actions [K, M, A]."""
    return values(
        critic, seen(rows, i, central), with_own(rows, i, own, central), rows["valid"] > 0
    )[0]


def actor_loss(
    policy: Any,
    critic: Any,
    rows: Batch,
    i: int,
    wanted: np.ndarray | None,
    central: bool,
    mimic: float,
    penalty: float,
) -> float:
    """mimic (pi - a^)^2 - (1 - mimic) Q_1 + penalty pi^2; without wanted [M, A], mimic is 0."""
    keep = rows["valid"] > 0
    own = act(policy, rows["obs"][:, i], keep)
    total = 0.0
    for m in np.flatnonzero(keep):
        q = first_values(critic, rows, i, own[None], central)[0, m]
        near = 0.0 if wanted is None else ((own[m] - wanted[m]) ** 2).mean()
        total += mimic * near - (1 - mimic) * q + penalty * (own[m] ** 2).mean()
    return total / keep.sum()


def team_critic_loss(
    nets: dict[str, Any],
    critic: Any,
    rows: Batch,
    draws: list[np.ndarray],
    noise: np.ndarray,
    gamma: float,
    cql: float,
) -> float:
    """One critic for the team, (parameters [2, ...], norm): noise [M, N A] on target actions; draws
    as in `cql_critic_loss`.
    """
    keep, n = rows["valid"] > 0, rows["actions"].shape[1]
    everyone = lambda policies, obs: np.concatenate(
        [act(of_agent(policies, j), obs[:, j], keep) for j in range(n)], -1
    )
    ahead = np.clip(everyone(nets["target_policy"], rows["next_obs"]) + noise, -1, 1)
    slow = values(nets["target_critic"], rows["next_state"], ahead[None], keep)[:, 0].min(0)
    y = rows["agent_reward"][:, 0] + gamma * (1 - rows["terminated"]) * slow
    q = values(critic, rows["state"], rows["actions"].reshape(1, len(keep), -1), keep)[:, 0]
    found = [values(critic, rows["state"], draws[0], keep) + draws[0].shape[-1] * np.log(2.0)]
    for away, obs in zip(draws[1:], ("next_obs", "obs"), strict=False):
        near = np.clip(everyone(nets["policy"], rows[obs]) + away, -1, 1)
        log_p = (-0.5 * (away / 0.2) ** 2 - np.log(0.2 * np.sqrt(2 * np.pi))).sum(-1)
        found.append(values(critic, rows["state"], near, keep) - log_p)
    return float(
        ((q - y) ** 2 + cql * (log_sum_exp(np.concatenate(found, 1), 1) - q)).sum(0)[keep].mean()
    )


def team_actor_loss(
    policies: Any, critic: Any, rows: Batch, wanted: np.ndarray, mimic: float, penalty: float
) -> float:
    """mimic mean_{N,B,d} (pi - a^)^2 - (1 - mimic) mean_{N,B} Q_1 + penalty sum_i mean pi_i^2;
    wanted [N, M, A].
    """
    keep = rows["valid"] > 0
    near, value, size = [], [], 0.0
    for i in range(len(wanted)):
        own = act(of_agent(policies, i), rows["obs"][:, i], keep)
        near.append(((own - wanted[i]) ** 2)[keep])
        value.append(
            values(critic, rows["state"], with_own(rows, i, own[None], True), keep)[0, 0][keep]
        )
        size += (own[keep] ** 2).mean()
    return float(mimic * np.mean(near) - (1 - mimic) * np.mean(value) + penalty * size)


def td3bc_actor_loss(
    policy: Any,
    critic: Any,
    rows: Batch,
    i: int,
    alpha: float,
    penalty: float,
    scale: float | None = None,
) -> float:
    """-lambda Q_1 + (pi - a)^2 + penalty pi^2; scale: lambda held."""
    keep = rows["valid"] > 0
    own = act(policy, rows["obs"][:, i], keep)
    q = first_values(critic, rows, i, own[None], False)[0]
    scale = alpha / np.abs(q[keep]).mean() if scale is None else scale
    return float(
        ((own - rows["actions"][:, i])[keep] ** 2).mean()
        - scale * q[keep].mean()
        + penalty * (own[keep] ** 2).mean()
    )


def icq_losses(
    policy: Any, critic: Any, fixed: Any, slow: Any, rows: Batch, length: int, i: int, **c: float
) -> tuple[float, float]:
    """(value loss of critic, policy loss by fixed) of windows of `length` rows; policy is ((net,
    norm), p of the deviation).
    """
    count = len(rows["valid"])
    follows = (
        np.array(
            [
                rows["valid"][k] * rows["valid"][k + 1] if (k + 1) % length else 0.0
                for k in range(count)
            ]
        )
        > 0
    )
    keep = (rows["valid"] > 0) & (follows | (rows["terminated"] > 0))
    ahead = np.roll(rows["actions"][:, i], -1, 0)[None]
    reward, going = rows["agent_reward"][:, i], c["gamma"] * (1 - rows["terminated"])

    def beyond(net: Any) -> np.ndarray:
        return np.where(
            follows, values(net, rows["next_obs"][:, i], ahead, follows)[:, 0].min(0), 0.0
        )

    def softmax(x: np.ndarray, mask: np.ndarray, temperature: float) -> np.ndarray:
        mass = np.where(mask, np.exp((x - x[mask].max()) / temperature), 0.0)
        return mask.sum() * mass / mass.sum()

    data = lambda net: values(net, rows["obs"][:, i], rows["actions"][None, :, i], keep)[:, 0]
    later = beyond(slow)
    target = (
        reward + going * np.clip(softmax(later, follows, c["beta_q"]) / c["alpha_w"], 0, 1) * later
    )
    value = ((data(critic) - target) ** 2).sum(0)[keep].mean()
    weight = softmax(reward + going * beyond(fixed) - data(fixed).min(0), keep, c["beta_pi"])
    log_std = -6 + 6 / (1 + np.exp(-policy[1]))
    z = (rows["actions"][:, i] - act(policy[0], rows["obs"][:, i], keep)) / np.exp(log_std)
    return float(value), float(
        -(weight * (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1))[keep].mean()
    )


def softmax_search(value: Any, noise: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """noise [J, K, M, A]; value(samples [K, M, A]) -> [K, M].

    The best of the last iteration and its value.
    """
    rounds, count, rows, size = noise.shape
    mean, std = np.zeros((rows, size)), np.full((rows, size), spread)
    for j in range(rounds):
        samples = np.clip(mean + std * noise[j], -1, 1)
        q = value(samples)
        for m in range(rows):
            w = np.exp(q[:, m] - q[:, m].max())
            w /= w.sum()
            mean[m] = sum(w[k] * samples[k, m] for k in range(count))
            std[m] = np.sqrt(sum((samples[k, m] - mean[m]) ** 2 for k in range(count)) / count)
    best = q.argmax(0)
    return samples[best, np.arange(rows)], q[best, np.arange(rows)]


def cem_search(
    value: Any, noise: np.ndarray, spread: float, elites: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same with the mean and the sample deviation of elites, which stay in the pool with their
    values.
    """
    rounds, _, rows, size = noise.shape
    mean, std = np.zeros((rows, size)), np.full((rows, size), spread)
    kept: list[list[tuple[float, np.ndarray]]] = [[] for _ in range(rows)]
    for j in range(rounds):
        samples = np.clip(mean + std * noise[j], -1, 1)
        q = value(samples)
        for m in range(rows):
            pool = sorted(
                [*zip(q[:, m], samples[:, m], strict=True), *kept[m]], key=lambda pair: -pair[0]
            )
            kept[m] = pool[:elites]
            chosen = np.stack([a for _, a in kept[m]])
            mean[m], std[m] = chosen.mean(0), chosen.std(0, ddof=1)
    return np.stack([k[0][1] for k in kept]), np.array([k[0][0] for k in kept])
