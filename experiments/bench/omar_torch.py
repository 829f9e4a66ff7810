"""A PyTorch OMAR learner of the public settings, written anew from the method's description, to be timed beside ours.

Particle games: for each agent in turn a batch of its own, twin critics with ten uniform actions in the conservative term, the
softmax search (3 iterations of 10), inputs normalised by the batch, Adam with clipped gradients; slow nets after all agents.
Torch is no dependency: `make bench-omar` installs it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

BATCH, HIDDEN, LR, GAMMA, POLYAK, CLIP = 1024, 64, 0.01, 0.95, 0.01, 0.5
SAMPLES, ITERATIONS, PENALTY = 10, 3, 1e-3


def layers(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers with ReLU."""
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


class Actor(nn.Module):
    """obs [B, O] -> actions [B, A]."""

    def __init__(self, obs: int, actions: int) -> None:
        super().__init__()
        self.norm, self.net = nn.BatchNorm1d(obs), layers(obs, actions)
        nn.init.uniform_(self.net[-1].weight, -3e-3, 3e-3)

    def forward(self, obs: Any) -> Any:
        """Apply."""
        return torch.tanh(self.net(self.norm(obs)))


class Critics(nn.Module):
    """(obs [B, O], actions [B, A]) -> two values [B]."""

    def __init__(self, obs: int, actions: int) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.BatchNorm1d(obs + actions), layers(obs + actions, 1), layers(obs + actions, 1)

    def forward(self, obs: Any, actions: Any) -> tuple[Any, Any]:
        """Both."""
        x = self.norm(torch.cat([obs, actions], -1))
        return self.first(x)[:, 0], self.second(x)[:, 0]

    def one(self, obs: Any, actions: Any) -> Any:
        """The first."""
        return self.first(self.norm(torch.cat([obs, actions], -1)))[:, 0]

    def many(self, obs: Any, actions: Any, *, both: bool) -> Any:
        """Values of actions [B, K, A] -> [B, K], or two of these."""
        count = actions.shape[1]
        wide, flat = obs.repeat_interleave(count, 0), actions.reshape(-1, actions.shape[-1])
        out = self(wide, flat) if both else (self.one(wide, flat),)
        found = [x.view(-1, count) for x in out]
        return found if both else found[0]


class Agent:
    """One agent's nets, their slow copies and optimisers."""

    def __init__(self, obs: int, actions: int) -> None:
        self.actor, self.critics = Actor(obs, actions), Critics(obs, actions)
        self.slow_actor, self.slow_critics = Actor(obs, actions), Critics(obs, actions)
        self.slow_actor.load_state_dict(self.actor.state_dict())
        self.slow_critics.load_state_dict(self.critics.state_dict())
        self.actor_opt = torch.optim.Adam(self.actor.parameters(), lr=LR)
        self.critic_opt = torch.optim.Adam(self.critics.parameters(), lr=LR)

    def follow(self) -> None:
        """Soft updates of the slow nets."""
        with torch.no_grad():
            for fast, slow in ((self.actor, self.slow_actor), (self.critics, self.slow_critics)):
                for new, old in zip(fast.parameters(), slow.parameters(), strict=True):
                    old.lerp_(new, POLYAK)


def step(optimiser: Any, module: nn.Module, loss: Any) -> None:
    """One clipped gradient step."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), CLIP)
    optimiser.step()


def search(critics: Critics, obs: Any, size: int) -> tuple[Any, Any]:
    """The best of the last iteration's samples, and its value."""
    mean, spread = torch.zeros(len(obs), 1, size), torch.full((len(obs), 1, size), 2.0)
    for _ in range(ITERATIONS):
        actions = (mean + spread * torch.randn(len(obs), SAMPLES, size)).clamp(-1, 1)
        q = critics.many(obs, actions, both=False)
        mean = (q.softmax(1)[..., None] * actions).sum(1, keepdim=True)
        spread = (actions - mean).square().mean(1, keepdim=True).sqrt()
    value, index = q.max(1)
    return actions[torch.arange(len(obs)), index], value


def update(agent: Agent, batch: tuple[Any, ...], cql: float, mimic: float) -> None:
    """Critics, then the actor."""
    obs, actions, reward, after, terminated = batch
    size = actions.shape[-1]
    with torch.no_grad():
        target = reward + GAMMA * (1 - terminated) * torch.minimum(*agent.slow_critics(after, agent.slow_actor(after)))
    values = agent.critics(obs, actions)
    drawn = torch.rand(len(obs), SAMPLES, size) * 2 - 1
    held = agent.critics.many(obs, drawn, both=True)
    loss = sum(
        (q - target).square().mean() + cql * ((h + size * math.log(2)).logsumexp(1) - q).mean() for q, h in zip(values, held, strict=True)
    )
    step(agent.critic_opt, agent.critics, loss)
    own = agent.actor(obs)
    q = agent.critics.one(obs, own)
    with torch.no_grad():
        found, value = search(agent.critics, obs, size)
        wanted = torch.where((q >= value)[:, None], own, found)
    actor_loss = mimic * (own - wanted).square().mean() - (1 - mimic) * q.mean() + PENALTY * own.square().mean()
    step(agent.actor_opt, agent.actor, actor_loss)


class Learner:
    """All agents on data of arrays [M, N, ...]."""

    def __init__(self, data: dict[str, np.ndarray], cql: float, mimic: float) -> None:
        self.data = [
            tuple(torch.from_numpy(np.ascontiguousarray(data[name][:, i], np.float32)) for name in ("obs", "actions", "reward", "next_obs"))
            for i in range(data["obs"].shape[1])
        ]
        self.terminated = torch.from_numpy(np.asarray(data["terminated"], np.float32))
        self.agents = [Agent(data["obs"].shape[2], data["actions"].shape[2]) for _ in self.data]
        self.cql, self.mimic = cql, mimic

    def round(self) -> None:
        """One round: each agent in turn, with a fresh batch; then the slow nets."""
        for agent, columns in zip(self.agents, self.data, strict=True):
            rows = torch.randint(len(self.terminated), (BATCH,))
            obs, actions, reward, after = (x[rows] for x in columns)
            update(agent, (obs, actions, reward, after, self.terminated[rows]), self.cql, self.mimic)
        for agent in self.agents:
            agent.follow()
