"""Random episodes in the shapes of a task's data: for timings, which need no simulator."""

from __future__ import annotations

import numpy as np

from jaxoff.types import EnvSpec, Episodes


def episodes(spec: EnvSpec, count: int, individual: bool, seed: int = 0) -> Episodes:
    """`count` episodes that are cut by the clock at the environment's limit or, every second one,
    end somewhere before it. Every action is available. individual: agents have own rewards.
    """
    rng, steps = np.random.default_rng(seed), spec.horizon
    n, a = spec.num_agents, spec.action_size

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    lengths = np.where(np.arange(count) % 2, steps, rng.integers(1, steps + 1, count))
    clock = np.arange(steps)
    last = clock == lengths[:, None] - 1
    ended = last & (lengths < steps)[:, None]
    actions: np.ndarray = rng.uniform(-spec.action_bound, spec.action_bound, (count, steps, n, a))
    if spec.discrete:
        actions = rng.integers(0, min(spec.action_sizes or (a,)), (count, steps, n))
    own = normal(count, steps, n)
    return Episodes(
        obs=normal(count, steps + 1, n, spec.obs_size),
        state=normal(count, steps + 1, spec.state_size),
        avail=np.ones((count, steps + 1, n, a), np.float32),
        actions=actions.astype(np.int32 if spec.discrete else np.float32),
        reward=own.mean(-1),
        terminated=ended,
        truncated=last & ~ended,
        filled=clock < lengths[:, None],
        behaviour_level=np.full((count, n), -1, np.int32),
        agent_reward=own if individual else None,
    )
