"""Action frequencies: each agent acts as often in a way as the data do, whatever it observes.

It counts a batch at a time. A method of your own has the same parts: a Config, a state, and `make`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxoff import distributions
from jaxoff.config import static
from jaxoff.types import UNAVAILABLE, Learner, Out, Policy

ACTIONS = ("discrete",)  # the kinds of actions that it has a form for


@struct.dataclass
class Config:
    """prior: count of every action at first. A float may be swept (--grid prior=1,2); sizes, and
    all that fixes the form of the program, are static.
    """

    prior: float = 1.0  # count of each action before the first update
    steps: int = static(20)  # number of updates
    batch_size: int = static(32)  # steps, or windows, in a batch
    window: int = static(0)  # 0: single steps; -1: whole episodes; else the length of windows


class State(NamedTuple):
    """All that changes in training."""

    counts: jax.Array  # [N, A]


def make(config, spec):
    """The method for a task with the specification `spec`, as three pure functions."""

    def init(key):
        return State(jnp.full((spec.num_agents, spec.action_size), config.prior))

    def update(state, batch, key):
        # a batch has fields [B, ...] of steps, or [B, T, ...] of windows; valid is 0 on padding
        taken = jax.nn.one_hot(batch.actions, spec.action_size) * batch.valid[..., None, None]
        counts = state.counts + taken.sum(tuple(range(batch.valid.ndim)))
        return State(counts), Out({"steps_seen": batch.valid.sum()})

    def policy(state):
        def distribution(memory, seen):
            logits = jnp.log(state.counts)  # unavailable actions are never taken
            return memory, distributions.categorical(jnp.where(seen.avail > 0, logits, UNAVAILABLE))

        return Policy(lambda batch_shape: (), distribution)

    return Learner(init, update, policy)
