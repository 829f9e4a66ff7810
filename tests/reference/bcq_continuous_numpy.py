"""Continuous MABCQ in float64 NumPy, agent by agent and step by step, from the equations of BCQ
with a linear mixer.

Parameters are the nested dictionaries of the nets; twins have a leading axis of 2. Batches are
those of `value_numpy`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.deterministic_numpy import member
from tests.reference.value_numpy import Arrays, Tree, linear_mixer, mlp


def seen(obs: np.ndarray, i: int) -> np.ndarray:
    """Observation of an agent of [N, O], and its number."""
    return np.concatenate([obs[i], np.eye(len(obs))[i]])


def vae_loss(vae: Tree, batch: Arrays, noise: np.ndarray) -> float:
    """Mean over steps and agents: squared error, mean over dimensions, plus half the mean
    divergence. noise [B, T, N, L].
    """
    out = []
    for b, t in np.argwhere(batch["valid"] > 0):
        for i in range(noise.shape[2]):
            x, a = seen(batch["obs"][b, t], i), batch["actions"][b, t, i]
            mean, log_std = np.split(mlp(vae["encoder"]["params"], np.concatenate([x, a])), 2)
            log_std = np.clip(log_std, -4, 15)
            u = decode(vae, x, mean + np.exp(log_std) * noise[b, t, i])
            divergence = 0.5 * (mean**2 + np.exp(log_std) ** 2 - 1 - 2 * log_std)
            out.append(((u - a) ** 2).mean() + 0.5 * divergence.mean())
    return float(np.mean(out))


def decode(vae: Tree, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """An action."""
    return np.tanh(mlp(vae["decoder"]["params"], np.concatenate([x, z])))


def candidate(vae: Tree, policy: Tree, x: np.ndarray, z: np.ndarray, reach: float) -> np.ndarray:
    """A decoded action, perturbed by at most `reach`."""
    u = decode(vae, x, z)
    return np.clip(u + reach * np.tanh(mlp(policy["params"], np.concatenate([x, u]))), -1, 1)


def twin(critic: Tree, k: int, x: np.ndarray, a: np.ndarray) -> float:
    """Q_ik."""
    return float(mlp(member(critic, k)["params"], np.concatenate([x, a]))[0])


def targets(
    nets: dict[str, Any], batch: Arrays, z: np.ndarray, gamma: float, reach: float, share: float
) -> np.ndarray:
    """y [B, T] of candidates' latents z [K, B, T, N, L]; slow nets and the VAE. 0 on padding."""
    out = np.zeros(batch["reward"].shape)
    for b, t in np.argwhere(batch["valid"] > 0):
        best = []
        for i in range(z.shape[3]):
            x = seen(batch["next_obs"][b, t], i)
            found = [
                candidate(nets["behaviour_policy"], nets["target_policy"], x, latent, reach)
                for latent in z[:, b, t, i]
            ]
            pairs = [[twin(nets["target_critic"], k, x, u) for k in range(2)] for u in found]
            best.append(max(share * min(pair) + (1 - share) * max(pair) for pair in pairs))
        total = linear_mixer(nets["target_mixer"], np.array(best), batch["next_state"][b, t])
        out[b, t] = batch["reward"][b, t] + gamma * (1 - batch["terminated"][b, t]) * total
    return out


def critic_loss(params: Any, y: np.ndarray, batch: Arrays) -> float:
    """Sum over twins of the mean of (y - Q_tot,k)^2. params: (critic, mixer)."""
    critic, mixer = params
    out = []
    for b, t in np.argwhere(batch["valid"] > 0):
        for k in range(2):
            q = [
                twin(critic, k, seen(batch["obs"][b, t], i), batch["actions"][b, t, i])
                for i in range(batch["obs"].shape[2])
            ]
            out.append((y[b, t] - linear_mixer(mixer, np.array(q), batch["state"][b, t])) ** 2)
    return 2 * float(np.mean(out))


def actor_loss(
    policy: Tree, critic: Tree, vae: Tree, batch: Arrays, z: np.ndarray, reach: float
) -> float:
    """-mean over steps and agents of Q_i1 of one candidate each; z [B, T, N, L]."""
    out = []
    for b, t in np.argwhere(batch["valid"] > 0):
        for i in range(z.shape[2]):
            x = seen(batch["obs"][b, t], i)
            out.append(twin(critic, 0, x, candidate(vae, policy, x, z[b, t, i], reach)))
    return -float(np.mean(out))
