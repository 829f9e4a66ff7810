"""Bridge: two agents on a 3 x 6 grid must cross one lane in opposite directions (Fu et al., 2022).

Exact to the environment that collected the public AlberDICE buffers: agent 0 moves first and wins
contested cells, a goal is entered without a collision test, and the step that ends an episode
pays 0, at success and at the time limit, both of which are recorded as terminal.

    G1 .  #  #  .  .        G0, G1: goals of agents 0 and 1
    .  .  S0 S1 .  .        S0, S1: starts (adjacent)
    .  .  #  #  .  G0
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxoff.envs.base import Game, GameEnv, GridPicture
from jaxoff.types import Array, EnvSpec, Key, ReturnScale

MAP = ("1.##..", "......", "..##.0")
# stay, up, down, right, left
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, 1], [0, -1]], np.int32)
GOALS = np.array([[2, 5], [0, 0]], np.int32)
STARTS = {True: np.array([[1, 2], [1, 3]], np.int32), False: np.array([[1, 1], [1, 4]], np.int32)}
FREE = np.array([[cell != "#" for cell in row] for row in MAP])
# 0.1 x distance to each goal, in double precision and then rounded, as the data were stored.
COST = np.stack(
    [
        -0.1 * np.sqrt(((np.indices(FREE.shape).transpose(1, 2, 0) - goal) ** 2).sum(-1))
        for goal in GOALS
    ]
).astype(np.float32)


class BridgeState(NamedTuple):
    """positions [2, 2] (row, column); done [2]: reached its goal, or out of time; time []."""

    positions: Array
    done: Array
    time: Array


class Bridge(Game):
    """The game. horizon: time limit; start_adjacent: agents start on the bridge, as in all public
    data, else beside it.
    """

    def __init__(self, horizon: int = 20, start_adjacent: bool = True) -> None:
        self.horizon, self.starts = horizon, STARTS[start_adjacent]

    def start(self, key: Key) -> BridgeState:
        """The fixed starts."""
        return BridgeState(jnp.asarray(self.starts), jnp.zeros(2, bool), jnp.zeros((), jnp.int32))

    def move(
        self, key: Key, state: BridgeState, actions: Array
    ) -> tuple[BridgeState, Array, Array, Array]:
        """One joint step; actions of a finished agent are ignored."""
        pos, done = state.positions, state.done
        wish = pos + jnp.asarray(MOVES)[jnp.where(done, 0, actions)]
        inside = jnp.all((wish >= 0) & (wish < jnp.array(FREE.shape)), -1)
        cell = jnp.clip(wish, 0, jnp.array(FREE.shape) - 1)
        wish = jnp.where((inside & jnp.asarray(FREE)[cell[:, 0], cell[:, 1]])[:, None], wish, pos)
        moving = jnp.any(wish != pos, -1)
        free_pass = done | jnp.all(wish == jnp.asarray(GOALS), -1)  # no collision test on these

        # Agent 0 moves first. It stays if agent 1 stands still in its way, or if they would swap.
        into_1 = jnp.all(wish[0] == pos[1])
        swap = into_1 & jnp.all(wish[1] == pos[0]) & moving[1]
        meets = moving[0] & ~free_pass[0] & ~done[1]
        blocked_0 = meets & into_1 & (~moving[1] | swap)
        contested = meets & moving[1] & jnp.all(wish[0] == wish[1])
        new_0 = jnp.where(blocked_0, pos[0], wish[0])
        # Agent 1 stays on a contested cell and in a swap, else only if agent 0 is now in its way.
        forced = contested | (meets & swap)
        hits = moving[1] & ~free_pass[1] & ~done[0] & jnp.all(wish[1] == new_0)
        new_1 = jnp.where(forced | hits, pos[1], wish[1])

        new = jnp.stack([new_0, new_1])
        time = state.time + 1
        cost = jnp.where(done, 0.0, jnp.asarray(COST)[jnp.arange(2), new[:, 0], new[:, 1]])
        now_done = done | (time >= self.horizon) | jnp.all(new == jnp.asarray(GOALS), -1)
        ended = jnp.all(now_done)
        reward = jnp.where(ended, 0.0, (cost[0] + cost[1]) * 0.5)
        return BridgeState(new, now_done, time), reward, ended, jnp.zeros((), bool)

    def observe(self, state: BridgeState) -> Array:
        """Every agent observes the whole state."""
        return jnp.tile(self.global_state(state), (2, 1))

    def global_state(self, state: BridgeState) -> Array:
        """Per agent: row, column, goal row, goal column."""
        return (
            jnp.concatenate([state.positions, jnp.asarray(GOALS)], -1)
            .reshape(-1)
            .astype(jnp.float32)
        )


def make_bridge(name: str = "bridge", horizon: int = 20, start_adjacent: bool = True) -> GameEnv:
    """Bridge as an `Env`. The return scale holds for the default horizon and starts."""
    scale = None
    if horizon == 20 and start_adjacent:
        scale = ReturnScale(
            -7.09992,
            -1.2354526,
            "exact dynamic programming: uniformly random actions; optimal joint policy",
        )
    spec = EnvSpec(name, 2, 8, 8, 5, True, horizon, return_scale=scale)
    picture = GridPicture(
        ~FREE, GOALS, lambda state: state.reshape(len(state), 2, 4)[..., :2].astype(int)
    )
    return GameEnv(Bridge(horizon, start_adjacent), spec, picture=picture)
