"""Datasets: recipes, samplers, disk, public data. `load` is the way in."""

from __future__ import annotations

from typing import Any

from jaxoff.names import DataOptions


def load(
    task: str,
    *,
    episodes: int | None = None,
    seed: int = 0,
    data_dir: str | None = None,
    pools: str | None = None,
    **placing: Any,
) -> Any:
    """The dataset of a task on the device, made or read without writing anything:
    `load("smax/3m/medium")`.

    episodes, seed: of a recipe. data_dir: folder of public datasets. pools: folder of policy pools,
    looked in before the shipped ones. placing: options of `data.dataset.place`, such as obs_dtype.
    Returns a `data.dataset.Dataset`; raises UnknownName, InvalidEpisodes, DatasetTooLarge and what
    readers raise.
    """
    from jaxoff import registry
    from jaxoff.data.dataset import place

    made = registry.make_data(task, DataOptions(seed, episodes, data_dir, pools))
    return place(made, registry.make_spec(task), source=task, **placing)
