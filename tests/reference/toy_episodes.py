"""Episodes whose every number tells where it comes from, for tests of storage and samplers."""

from __future__ import annotations

import numpy as np

from jaxoff.types import EnvSpec, Episodes


def toy_spec(discrete: bool = True) -> EnvSpec:
    """Two agents, three actions (or action dimensions), four observed numbers."""
    return EnvSpec(
        "toy", num_agents=2, obs_size=4, state_size=3, action_size=3, discrete=discrete, horizon=6
    )


def toy_episodes(
    lengths: tuple[int, ...] = (3, 1, 5), discrete: bool = True, seed: int = 0
) -> Episodes:
    """state[e, t] = (e, t, 100 e + t); reward = 10 e + t + 1; the last episode is truncated, others
    terminate.

    Slots that are not filled are zero.
    """
    rng, count, steps = np.random.default_rng(seed), len(lengths), max(lengths)
    seen = np.arange(steps + 1) <= np.array(lengths)[:, None]  # [E, T+1]
    filled = np.arange(steps) < np.array(lengths)[:, None]
    e, t = np.meshgrid(np.arange(count), np.arange(steps + 1), indexing="ij")
    state = np.stack([e, t, 100 * e + t], -1) * seen[..., None]
    obs = rng.normal(size=(count, steps + 1, 2, 4)) * seen[..., None, None]
    avail = np.ones((count, steps + 1, 2, 3)) * seen[..., None, None]
    if discrete:
        actions = (rng.integers(3, size=(count, steps, 2)) * filled[..., None]).astype(np.int32)
    else:
        actions = (rng.normal(size=(count, steps, 2, 3)) * filled[..., None, None]).astype(
            np.float32
        )
    last = np.arange(steps) == np.array(lengths)[:, None] - 1
    cut = np.arange(count)[:, None] == count - 1
    return Episodes(
        obs=obs.astype(np.float32),
        state=state.astype(np.float32),
        avail=avail.astype(np.float32),
        actions=actions,
        reward=((10 * e + t + 1)[:, :steps] * filled).astype(np.float32),
        terminated=last & ~cut,
        truncated=last & cut,
        filled=filled,
        behaviour_level=np.stack([np.arange(count), np.arange(count) + 1], 1).astype(np.int32),
    )
