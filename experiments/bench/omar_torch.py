"""A PyTorch OMAR learner of the public settings, written anew from the method's description, to be
timed beside ours.

Particle games: for each agent in turn a batch of its own, twin critics with ten uniform actions in
the conservative term, the softmax search (3 iterations of 10), inputs normalised by the batch, Adam
with clipped gradients; slow nets after all agents. Torch is no dependency, and this file needs
nothing else of the project: `python omar_torch.py DATA.npz` times it with an interpreter that has
torch, and prints what it found as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

BATCH, HIDDEN, LR, GAMMA, POLYAK, CLIP = 1024, 64, 0.01, 0.95, 0.01, 0.5
SAMPLES, ITERATIONS, PENALTY = 10, 3, 1e-3


def layers(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers with ReLU."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, outputs),
    )


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
        self.norm, self.first, self.second = (
            nn.BatchNorm1d(obs + actions),
            layers(obs + actions, 1),
            layers(obs + actions, 1),
        )

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


def search(critics: Critics, obs: Any, noise: Any) -> tuple[Any, Any]:
    """The best of the last iteration's samples, and its value; noise [ITERATIONS, B, SAMPLES, A],
    normal.
    """
    mean, spread = (
        torch.zeros(len(obs), 1, noise.shape[-1]),
        torch.full((len(obs), 1, noise.shape[-1]), 2.0),
    )
    for drawn in noise:
        actions = (mean + spread * drawn).clamp(-1, 1)
        q = critics.many(obs, actions, both=False)
        mean = (q.softmax(1)[..., None] * actions).sum(1, keepdim=True)
        spread = (actions - mean).square().mean(1, keepdim=True).sqrt()
    value, index = q.max(1)
    return actions[torch.arange(len(obs)), index], value


def critic_loss(agent: Agent, batch: tuple[Any, ...], drawn: Any, cql: float) -> Any:
    """Squared errors and the conservative term of both critics; drawn [B, SAMPLES, A], uniform in
    [-1, 1].
    """
    obs, actions, reward, after, terminated = batch
    with torch.no_grad():
        target = reward + GAMMA * (1 - terminated) * torch.minimum(
            *agent.slow_critics(after, agent.slow_actor(after))
        )
    held = agent.critics.many(obs, drawn, both=True)
    level = actions.shape[-1] * math.log(2)
    pairs = zip(agent.critics(obs, actions), held, strict=True)
    return sum(
        (q - target).square().mean() + cql * ((h + level).logsumexp(1) - q).mean() for q, h in pairs
    )


def actor_loss(agent: Agent, obs: Any, noise: Any, mimic: float) -> Any:
    """Towards what the search found where that is better, and up the first critic."""
    own = agent.actor(obs)
    q = agent.critics.one(obs, own)
    with torch.no_grad():
        found, value = search(agent.critics, obs, noise)
        wanted = torch.where((q >= value)[:, None], own, found)
    return (
        mimic * (own - wanted).square().mean()
        - (1 - mimic) * q.mean()
        + PENALTY * own.square().mean()
    )


def update(
    agent: Agent, batch: tuple[Any, ...], drawn: Any, noise: Any, cql: float, mimic: float
) -> tuple[Any, Any]:
    """Critics, then the actor by the new critics: both losses."""
    of_critics = critic_loss(agent, batch, drawn, cql)
    step(agent.critic_opt, agent.critics, of_critics)
    of_actor = actor_loss(agent, batch[0], noise, mimic)
    step(agent.actor_opt, agent.actor, of_actor)
    return of_critics, of_actor


class Learner:
    """All agents on data of arrays [M, N, ...]."""

    def __init__(self, data: dict[str, np.ndarray], cql: float, mimic: float) -> None:
        device = torch.get_default_device()
        self.data = [
            tuple(
                torch.as_tensor(np.ascontiguousarray(data[name][:, i], np.float32), device=device)
                for name in ("obs", "actions", "reward", "next_obs")
            )
            for i in range(data["obs"].shape[1])
        ]
        self.terminated = torch.as_tensor(np.asarray(data["terminated"], np.float32), device=device)
        self.agents = [Agent(data["obs"].shape[2], data["actions"].shape[2]) for _ in self.data]
        self.cql, self.mimic = cql, mimic

    def batch(self, columns: tuple[Any, ...]) -> tuple[Any, ...]:
        """An agent's batch: obs, actions, reward, next obs, terminated."""
        rows = torch.randint(len(self.terminated), (BATCH,))
        return (*(x[rows] for x in columns), self.terminated[rows])

    def sample(self) -> None:
        """The batches of one round alone."""
        for columns in self.data:
            self.batch(columns)

    def round(self) -> None:
        """One round: each agent in turn, with a fresh batch; then the slow nets."""
        for agent, columns in zip(self.agents, self.data, strict=True):
            batch = self.batch(columns)
            actions = batch[1]
            drawn = torch.rand(BATCH, SAMPLES, actions.shape[-1]) * 2 - 1
            noise = torch.randn(ITERATIONS, BATCH, SAMPLES, actions.shape[-1])
            update(agent, batch, drawn, noise, self.cql, self.mimic)
        for agent in self.agents:
            agent.follow()


def timed(
    round_: Callable[[], None],
    sample: Callable[[], None],
    rounds: int,
    repeats: int,
    wait: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Rounds per second, and CPU milliseconds of a round and of its batches alone: the best of
    `repeats` timings.
    """
    rows = []
    for _ in range(repeats):
        spent = []
        for call in (round_, sample):
            wait()
            begin, cpu = time.perf_counter(), time.process_time()
            for _ in range(rounds):
                call()
            wait()
            spent += [time.perf_counter() - begin, time.process_time() - cpu]
        rows.append(spent)
    wall, cpu, _, sampling = map(min, zip(*rows, strict=True))
    return {
        "rounds_per_s": rounds / wall,
        "cpu_ms": 1e3 * cpu / rounds,
        "sampling_ms": 1e3 * sampling / rounds,
    }


def main() -> None:
    """Time rounds after a warm-up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "data",
        help=".npz of obs, next_obs [M, N, O], actions [M, N, A], reward [M, N], terminated [M]",
    )
    parser.add_argument("--cql", type=float, required=True, help="weight of the conservative term")
    parser.add_argument("--mimic", type=float, required=True, help="weight of the search")
    parser.add_argument("--rounds", type=int, default=30, help="of a timing")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timings, of which the fastest counts"
    )
    parser.add_argument("--device", default="cpu", help="of torch: cpu or cuda")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_device(chosen.device)
    with np.load(chosen.data) as arrays:
        learner = Learner(dict(arrays), chosen.cql, chosen.mimic)
    wait = torch.cuda.synchronize if chosen.device != "cpu" else lambda: None
    learner.round()
    times = timed(learner.round, learner.sample, chosen.rounds, chosen.repeats, wait)
    about = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    if chosen.device != "cpu":
        about = f"torch {torch.__version__}, {torch.cuda.get_device_name()}"
    print(json.dumps({"about": about, "rows": len(learner.terminated)} | times))


if __name__ == "__main__":
    main()
