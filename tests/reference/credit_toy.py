"""Episodes whose team reward is the sum of what each agent earned, which is known."""

from __future__ import annotations

import numpy as np

from jaxoff.types import EnvSpec, Episodes

SKILL = (0.0, 0.5, 0.9)  # how often each agent does what pays most, rather than anything


def credit_spec(agents: int = 3) -> EnvSpec:
    """Three choices, three observed numbers each; all agents of one type."""
    return EnvSpec(
        "credit",
        num_agents=agents,
        obs_size=3,
        state_size=3 * agents,
        action_size=3,
        discrete=True,
        horizon=8,
    )


def credit_episodes(
    count: int, seed: int = 0, skill: tuple[float, ...] = SKILL, steps: int = 8
) -> tuple[Episodes, np.ndarray]:
    """(episodes, what each agent earned [E, T, N]): a + x_a / 2 for action a, x the three numbers
    that the agent sees.

    Those are uniform in +-1. An agent does 2 with its probability in `skill`, else anything; the
    order of skill is also its behaviour level. Lengths differ; every second episode terminates, the
    others are cut.
    """
    rng, n = np.random.default_rng(seed), len(skill)
    obs = rng.uniform(-1, 1, (count, steps + 1, n, 3)).astype(np.float32)
    actions = np.where(
        rng.random((count, steps, n)) < np.array(skill), 2, rng.integers(3, size=(count, steps, n))
    ).astype(np.int32)
    lengths = rng.integers(steps // 2, steps + 1, count)
    slots, filled = np.arange(steps + 1) <= lengths[:, None], np.arange(steps) < lengths[:, None]
    earned = (
        actions + np.take_along_axis(obs[:, :-1], actions[..., None], -1)[..., 0] / 2
    ) * filled[..., None]
    obs, last = obs * slots[..., None, None], np.arange(steps) == lengths[:, None] - 1
    ends = last & (np.arange(count) % 2 == 0)[:, None]
    episodes = Episodes(
        obs=obs,
        state=obs.reshape(count, steps + 1, -1),
        avail=np.ones((count, steps + 1, n, 3), np.float32) * slots[..., None, None],
        actions=actions * filled[..., None],
        reward=earned.sum(-1).astype(np.float32),
        terminated=ends,
        truncated=last & ~ends,
        filled=filled,
        behaviour_level=np.tile(np.argsort(np.argsort(skill)), (count, 1)).astype(np.int32),
    )
    return episodes, earned
