"""Twelve states whose right action only good episodes show: how far cloning and contrast get with
more and more poor data.

States have features N(0, I_8), seen with noise .1; 6 actions; 40 episodes of 20 steps, states drawn
independently. Good episodes return U(18, 20) and take the right action 95 % of the time, poor ones
return U(0, 10) and take one fixed wrong action 70 % of the time, else any.
"""

from __future__ import annotations

import numpy as np

from jaxoff.types import EnvSpec, Episodes

STATES, WIDTH, ACTIONS, EPISODES, STEPS = 12, 8, 6, 40, 20
SPEC = EnvSpec("tabular", 1, WIDTH, 1, ACTIONS, True, STEPS)


def problem(poor: float, seed: int = 0) -> tuple[Episodes, np.ndarray, np.ndarray]:
    """(episodes with a share `poor` of poor ones, features [12, 8], right actions [12])."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(STATES, WIDTH))
    right = rng.integers(ACTIONS, size=STATES)
    wrong = (right + rng.integers(1, ACTIONS, size=STATES)) % ACTIONS
    state = rng.integers(STATES, size=(EPISODES, STEPS + 1))
    is_poor = np.arange(EPISODES) < round(poor * EPISODES)
    any_ = rng.integers(ACTIONS, size=(EPISODES, STEPS))
    chance = rng.random((EPISODES, STEPS))
    shown = state[:, :-1]
    actions = np.where(
        is_poor[:, None],
        np.where(chance < 0.7, wrong[shown], any_),
        np.where(chance < 0.95, right[shown], any_),
    )
    returns = np.where(is_poor, rng.uniform(0, 10, EPISODES), rng.uniform(18, 20, EPISODES))
    filled = np.ones((EPISODES, STEPS), bool)
    last = np.zeros_like(filled)
    last[:, -1] = True
    obs = features[state] + 0.1 * rng.normal(size=(EPISODES, STEPS + 1, WIDTH))
    episodes = Episodes(
        obs=obs[:, :, None].astype(np.float32),
        state=np.zeros((EPISODES, STEPS + 1, 1), np.float32),
        avail=np.ones((EPISODES, STEPS + 1, 1, ACTIONS), np.float32),
        actions=actions[..., None].astype(np.int32),
        reward=np.repeat(returns[:, None] / STEPS, STEPS, 1).astype(np.float32),
        terminated=last,
        truncated=np.zeros_like(last),
        filled=filled,
        behaviour_level=np.where(is_poor, 0, 2)[:, None].astype(np.int32),
    )
    return episodes, features.astype(np.float32), right
