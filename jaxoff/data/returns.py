"""Returns of a dataset's episodes, and shares of the best return, to tell good data from poor."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxoff.data.dataset import Dataset
from jaxoff.errors import InvalidSetting
from jaxoff.types import Array, Transition


class Returns(NamedTuple):
    """Undiscounted team returns of a dataset's episodes, for the steps of any batch."""

    to_go: Array  # [rows] return from each row to the end of its episode
    first_row: Array  # [E] first row of each episode

    def ahead(self, batch: Transition) -> Array:
        """Return from each step on, including the step's reward; [...], 0 beyond the end."""
        return jnp.where(
            batch.valid > 0, self.to_go[self.first_row[batch.episode] + batch.steps_before], 0.0
        )

    def whole(self, batch: Transition) -> Array:
        """Return of the whole episode that each step belongs to, [...]."""
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
    """The returns of one episode without reward, for a learner that has seen no dataset."""
    return Returns(jnp.zeros(1), jnp.zeros(1, jnp.int32))


def episode_returns(dataset: Dataset) -> Array:
    """The return of the episode of each real step, [M]."""
    found = returns_of(dataset)
    return found.to_go[found.first_row[dataset.episode_of(dataset.step_row)]]


def check_scale(method: str, low: Array | float, high: Array | float) -> None:
    """Raise InvalidSetting unless `low` is below `high`; traced values are not known."""
    if (
        not isinstance(low, jax.core.Tracer)
        and not isinstance(high, jax.core.Tracer)
        and low >= high
    ):
        raise InvalidSetting(
            f"{method}: field 'return_high': expected more than return_low={low:g}, found {high:g}"
        )


def share_of_best(returns: Array, low: Array | float, high: Array | float) -> Array:
    """Returns on a scale of 0 at `low` and 1 at `high`, clipped; [...] -> [...].

    Both ends are properties of the task, not of the dataset: in a dataset of only poor episodes no
    episode is good.
    """
    return jnp.clip((returns - low) / (high - low), 0.0, 1.0)


def positivity(share: Array, slope: Array | float, midpoint: Array | float) -> Array:
    """A soft score for how good an episode is: sigmoid(slope (share - midpoint)); [...] -> [...].

    One minus the score says how poor the episode is.
    """
    return jax.nn.sigmoid(slope * (share - midpoint))
