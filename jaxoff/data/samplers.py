"""Samplers: they choose the steps, windows or episodes of each batch.

An item is the number of a step, window or episode. Draws are with replacement. A sampler whose
`feedback` is None never changes its state, so a chunk of updates makes all its draws in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flashbax.buffers import sum_tree

from jaxoff.data.dataset import Dataset
from jaxoff.draw import draw, running_total
from jaxoff.losses.credit import members_of
from jaxoff.types import Array, Feedback, Key, Sampler, Transition

RefreshFrom = Literal["priorities", "uniform"]


def uniform(batch_size: int) -> Sampler:
    """Single steps, drawn uniformly from all real steps: batches [B, ...]."""
    return Sampler(
        init=lambda dataset: (),
        draw=lambda state, dataset, key: jax.random.randint(
            key, (batch_size,), 0, dataset.num_steps
        ),
        gather=_gather_steps,
    )


def weighted(batch_size: int, weights: Callable[[Dataset], Array], window: int = 0) -> Sampler:
    """Items drawn in proportion to fixed weights(dataset) [M] >= 0 of their first steps.

    An item of weight zero is never drawn; if every weight is zero, all items are equally likely.
    window: 0 for single steps, a length, or -1 for whole episodes.
    """

    def init(dataset: Dataset) -> Array:
        given = weights(dataset)
        given = jnp.where(jnp.any(given > 0), given, 1.0)
        return running_total(
            given * _window_starts(dataset, _length(dataset, window)) if window else given
        )

    def gather(dataset: Dataset, items: Array) -> Transition:
        return (
            dataset.window(dataset.step_row[items], _length(dataset, window))
            if window
            else _gather_steps(dataset, items)
        )

    return Sampler(init, lambda state, dataset, key: draw(state, key, batch_size), gather)


def episodes(batch_size: int) -> Sampler:
    """Whole episodes, padded to the longest episode of the dataset: batches [B, T, ...]."""
    return Sampler(
        init=lambda dataset: (),
        draw=lambda state, dataset, key: jax.random.randint(
            key, (batch_size,), 0, dataset.num_episodes
        ),
        gather=lambda dataset, items: dataset.window(
            dataset.episode_row[items], dataset.max_length
        ),
    )


def trajectories(
    batch_size: int, types: Sequence[int], log_prob: Array, reward: Array, weight: Array
) -> Sampler:
    """For each agent, whole trajectories of agents of its type, with fixed probabilities.

    The probabilities exp(log_prob) [E, N] add up to 1 over the episodes and agents of each type.
    Item k N + j is the trajectory of agent j in episode k. A batch [N * batch_size, T, ...] has the
    draws for agent 0 first; it holds whole joint episodes, and its field `agent` is j. reward,
    weight [E, T, N], with T steps of the longest episode: they become the batch's `agent_reward`
    and `weight`. Only the batch is copied, not the dataset.
    """
    agents, groups = len(types), members_of(types)

    def draw_all(totals: tuple[Array, ...], dataset: Dataset, key: Key) -> Array:
        items = jnp.zeros((agents, batch_size), jnp.int32)
        for group, total, one in zip(
            groups, totals, jax.random.split(key, len(groups)), strict=True
        ):
            index = draw(total, one, len(group) * batch_size).reshape(len(group), batch_size)
            items = items.at[group].set(
                index // len(group) * agents + jnp.asarray(group)[index % len(group)]
            )
        return items.reshape(-1)

    def gather(dataset: Dataset, items: Array) -> Transition:
        episode, agent = items // agents, items % agents
        batch = dataset.window(dataset.episode_row[episode], dataset.max_length)
        agent = jnp.broadcast_to(agent[:, None], batch.valid.shape)
        return batch._replace(agent_reward=reward[episode], weight=weight[episode], agent=agent)

    return Sampler(
        init=lambda dataset: tuple(
            running_total(jnp.exp(log_prob[:, group]).reshape(-1)) for group in groups
        ),
        draw=draw_all,
        gather=gather,
    )


def windows(batch_size: int, length: int) -> Sampler:
    """Windows of a fixed length, drawn uniformly from all window starts: batches [B, length, ...].

    A window never crosses the end of an episode: an episode of L steps has max(1, L - length + 1)
    starts, and an episode that is shorter than a window is padded.
    """

    def draw_window(counts: Array, dataset: Dataset, key: Key) -> Array:
        # Drawn as integers: a million starts are equally likely, which float32 cannot tell apart.
        return jnp.searchsorted(
            counts, jax.random.randint(key, (batch_size,), 0, counts[-1]), side="right"
        )

    return Sampler(
        init=lambda dataset: jnp.cumsum(_window_starts(dataset, length).astype(jnp.int32)),
        draw=draw_window,
        gather=lambda dataset, items: dataset.window(dataset.step_row[items], length),
    )


def prioritised(
    batch_size: int,
    priority: Callable[[Dataset, Feedback, Transition], Array],
    *,
    exponent: float | Array = 1.0,
    refresh: int = 0,
    refresh_from: RefreshFrom = "priorities",
    window: int = 0,
) -> Sampler:
    """Items drawn with probability proportional to priority ** exponent, refreshed after each
    update.

    priority(dataset, feedback, batch) -> [B] > 0, for the refreshed items.
    refresh: 0 refreshes the items of the training batch, k > 0 refreshes k drawn items, -1
    refreshes every item.
    refresh_from: how these k items are drawn: by the current priorities, or uniformly from all
    items, so that an item of low priority need not wait for a rare draw before it is refreshed.
    window: 0 for single steps, else windows of that length.
    New items have priority 1, which no priority may exceed, so that data not yet seen are still
    drawn. A negative priority is kept as NaN. While the sum of all priorities is zero or not
    finite, items are drawn uniformly.
    """

    def draw_items(tree: sum_tree.SumTreeState, dataset: Dataset, key: Key, count: int) -> Array:
        total = tree.nodes[0]
        return jnp.where(
            (total > 0) & jnp.isfinite(total),
            draw_tree(tree, key, count),
            draw_starts(dataset, window, key, count),
        )

    def gather(dataset: Dataset, items: Array) -> Transition:
        return (
            dataset.window(dataset.step_row[items], window)
            if window
            else _gather_steps(dataset, items)
        )

    def init(dataset: Dataset) -> sum_tree.SumTreeState:
        starts = _window_starts(dataset, window) if window else jnp.ones(dataset.num_steps)
        return tree_of(starts.astype(jnp.float32))

    def feedback(
        tree: sum_tree.SumTreeState, dataset: Dataset, outcome: Feedback
    ) -> sum_tree.SumTreeState:
        if refresh < 0:
            items = jnp.arange(dataset.num_steps)
        elif refresh > 0 and refresh_from == "uniform":
            items = draw_starts(dataset, window, outcome.key, refresh)
        elif refresh > 0:
            items = draw_items(tree, dataset, outcome.key, refresh)
        else:
            items = outcome.items
        fresh = priority(dataset, outcome._replace(items=items), gather(dataset, items)) ** exponent
        fresh = jnp.where(fresh < 0, jnp.nan, fresh)
        if refresh >= 0:  # drawn items are starts of windows
            return set_leaves(tree, items, fresh)
        return tree_of(jnp.where(_window_starts(dataset, window), fresh, 0.0) if window else fresh)

    return Sampler(
        init=init,
        draw=lambda tree, dataset, key: draw_items(tree, dataset, key, batch_size),
        gather=gather,
        feedback=feedback,
    )


def tree_of(leaves: Array) -> sum_tree.SumTreeState:
    """A flashbax sum tree with the given leaves [M] >= 0; each inner node is summed once."""
    tree = sum_tree.init(max(leaves.shape[0], 2))
    level = jnp.zeros(2**tree.tree_depth).at[: leaves.shape[0]].set(leaves)
    levels = [level]
    for _ in range(tree.tree_depth):
        level = level.reshape(-1, 2).sum(1)
        levels.append(level)
    return tree.replace(nodes=jnp.concatenate(levels[::-1]))


def set_leaves(tree: sum_tree.SumTreeState, items: Array, values: Array) -> sum_tree.SumTreeState:
    """Set the leaves `items` [B] to values [B], and sum every ancestor again from its children.

    flashbax adds differences to the ancestors; these drift in float32 until items of priority zero
    are drawn (flashbax issue 52). Sums over children cannot drift, and repeated items need no
    special treatment.
    """
    nodes = tree.nodes.at[sum_tree.get_tree_index(tree.tree_depth, items)].set(values)
    for depth in range(tree.tree_depth - 1, -1, -1):
        items = items // 2
        child = sum_tree.get_tree_index(depth + 1, 2 * items)
        nodes = nodes.at[sum_tree.get_tree_index(depth, items)].set(nodes[child] + nodes[child + 1])
    return tree.replace(nodes=nodes)


def draw_tree(tree: sum_tree.SumTreeState, key: Key, count: int) -> Array:
    """Stratified draw of `count` items in proportion to their leaves, none of priority zero."""
    items = sum_tree.stratified_sample(tree, count, key)
    # Rounding in the descent can end just past the last item with positive priority; such a draw
    # is replaced by a drawn item with positive priority.
    mass = sum_tree.get_batch(tree, items)
    return jnp.where(mass > 0, items, items[jnp.argmax(mass)])


def draw_starts(dataset: Dataset, window: int, key: Key, count: int) -> Array:
    """Draw `count` items uniformly from all starts of windows (window 0: from all steps).

    The draw uses the number of starts in each episode: a sampler with feedback draws again in every
    update, and a pass over all items each time would cost more than the draw itself.
    """
    if not window:
        return jax.random.randint(key, (count,), 0, dataset.num_steps)
    starts = jnp.maximum(dataset.episode_length - window, 0) + 1  # [E]
    total = jnp.cumsum(starts)
    chosen = jax.random.randint(key, (count,), 0, total[-1])
    episode = jnp.searchsorted(total, chosen, side="right")
    # Each earlier episode has one row more than it has steps.
    first = dataset.episode_row[episode] - episode
    return first + chosen - (total - starts)[episode]


def _length(dataset: Dataset, window: int) -> int:
    return dataset.max_length if window < 0 else window


def _gather_steps(dataset: Dataset, items: Array) -> Transition:
    return dataset.steps(dataset.step_row[items])


def _window_starts(dataset: Dataset, length: int) -> Array:
    """Whether a window may start at each step, [M] bool."""
    episode = dataset.episode_of(dataset.step_row)
    index = dataset.step_row - dataset.episode_row[episode]
    return index <= jnp.maximum(dataset.episode_length[episode] - length, 0)
