"""A corridor of K cells in which two agents start at random and are paid for meeting.

Each agent stays or moves to a neighbouring cell; it cannot choose a move into the wall. They meet
where both are in one cell: that ends the episode by the rules (`terminated`). The time limit ends
it otherwise (`truncated`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

import jaxoff
from jaxoff.data.recipes import record
from jaxoff.types import EnvSpec, Policy, TimeStep

STAY, LEFT, RIGHT = range(3)


class Places(NamedTuple):
    """The state: the cell of each agent [2], and the number of steps made."""

    cells: jax.Array
    time: jax.Array


class Corridor:
    """The environment; it keeps nothing between calls."""

    def __init__(self, cells: int, horizon: int) -> None:
        self.cells = cells
        self.spec = EnvSpec(
            name="corridor",
            num_agents=2,
            obs_size=2,
            state_size=2,
            action_size=3,
            discrete=True,
            horizon=horizon,
        )

    def reset(self, key):
        """Start an episode in two random cells."""
        state = Places(jax.random.randint(key, (2,), 0, self.cells), jnp.int32(0))
        return state, self._seen(state, jnp.float32(0), jnp.full(2, -1), jnp.zeros((), bool))

    def step(self, key, state, actions):
        """Move both agents; a step costs 0.1, and the step that makes them meet pays 1."""
        moves = jnp.array([0, -1, 1])[actions]
        state = Places(jnp.clip(state.cells + moves, 0, self.cells - 1), state.time + 1)
        met = state.cells[0] == state.cells[1]
        return state, self._seen(state, jnp.where(met, 1.0, -0.1), actions, met)

    def _seen(self, state, reward, last_actions, met):
        places = state.cells / (self.cells - 1)
        allowed = [jnp.ones(2), state.cells > 0, state.cells < self.cells - 1]
        return TimeStep(
            obs=jnp.stack([places, places[::-1]], 1),  # [N, O]: one's own place, and the other's
            state=places,
            avail=jnp.stack(allowed, 1).astype(jnp.float32),
            reward=reward,
            terminated=met,
            truncated=(state.time >= self.spec.horizon) & ~met,
            last_actions=last_actions,
        )


class Towards(NamedTuple):
    """Actions [..., N], in the form of a distribution, of which a recipe takes samples."""

    actions: jax.Array

    def sample(self, seed):
        """The actions."""
        return self.actions


def together(env, options):
    """Episodes of a policy that walks towards the other agent, the recipe of a dataset."""

    def distribution(memory, seen):
        own, other = seen.obs[..., 0], seen.obs[..., 1]
        first = jnp.arange(2) == 0  # the first agent moves, and the second waits
        walk = jnp.where(other > own, RIGHT, jnp.where(other < own, LEFT, STAY))
        return memory, Towards(jnp.where(first, walk, STAY))

    policy = Policy(lambda shape: (), distribution)
    return record(env, policy, options.episodes or 200, jax.random.key(options.seed))


FAMILY = jaxoff.make_family(
    "corridor",
    envs={"narrow": lambda: Corridor(5, 8), "wide": lambda: Corridor(9, 16)},
    data={"narrow": {"together": together}, "wide": {"together": together}},
)
