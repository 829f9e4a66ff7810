"""Returns of a dataset's episodes, and shares of the best return: what tells good data from
poor.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.data.dataset import Dataset
from jaxoff.types import Array, Transition


class Returns(NamedTuple):
    """Undiscounted team returns on the whole episode, for the steps of any batch."""

    to_go: Array  # [rows] from each row to the end of its episode
    first_row: Array  # [E]

    def ahead(self, batch: Transition) -> Array:
        """From each step on, its own reward included; [...], 0 beyond the end."""
        return jnp.where(
            batch.valid > 0, self.to_go[self.first_row[batch.episode] + batch.steps_before], 0.0
        )

    def whole(self, batch: Transition) -> Array:
        """Of the episode that each step belongs to, [...]."""
        return self.to_go[self.first_row[batch.episode]]


def returns_of(dataset: Dataset) -> Returns:
    """The returns of a dataset.

    The slot after the last step is not filled, so sums restart at each episode.
    """
    fields = dataset.unpacked("reward", "filled")

    def back(later: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        total = jnp.where(row[1] > 0, row[0] + later, 0.0)
        return total, total

    to_go = lax.scan(back, jnp.zeros(()), (fields["reward"], fields["filled"]), reverse=True)[1]
    return Returns(to_go, dataset.episode_row)


def no_returns() -> Returns:
    """Of one episode that pays nothing, for a learner that has seen no dataset."""
    return Returns(jnp.zeros(1), jnp.zeros(1, jnp.int32))


def episode_returns(dataset: Dataset) -> Array:
    """The return of the episode of each real step, [M]."""
    found = returns_of(dataset)
    return found.to_go[found.first_row[dataset.episode_of(dataset.step_row)]]


def share_of_best(returns: Array, low: Array | float, high: Array | float) -> Array:
    """Returns on a scale of 0 at `low` and 1 at `high`, clipped; [...] -> [...].

    Both ends belong to the task, never to the data: a dataset of nothing but poor episodes has no
    good ones.
    """
    return jnp.clip((returns - low) / (high - low), 0.0, 1.0)


def positivity(share: Array, slope: Array | float, midpoint: Array | float) -> Array:
    """How good an episode is, softly: sigmoid(slope (share - midpoint)), and one minus it how poor;
    [...] -> [...].
    """
    return jax.nn.sigmoid(slope * (share - midpoint))
