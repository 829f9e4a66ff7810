"""Datasets: recipes, samplers, storage on disk and public data. `load` is the entry point."""

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
    """The dataset of a task on the device, such as `load("smax/3m/medium")`. Writes no files.

    episodes, seed: size and random seed of a dataset that is made from a recipe. data_dir: folder
    of public datasets. pools: folder of policy pools, searched before the shipped ones. placing:
    options of `data.dataset.place`, such as obs_dtype. Returns a `data.dataset.Dataset`. Raises
    UnknownName, InvalidEpisodes, DatasetTooLarge, and the errors of the readers.
    """
    from jaxoff import registry
    from jaxoff.data.dataset import place

    made = registry.make_data(task, DataOptions(seed, episodes, data_dir, pools))
    return place(made, registry.make_spec(task), source=task, **placing)
