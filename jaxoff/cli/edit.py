"""The commands `jaxoff data combine`, `subsample` and `split`: datasets out of datasets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from jaxoff.cli.common import console
from jaxoff.cli.data import Found, check_read, data_app, find_data, options_of
from jaxoff.errors import InvalidSetting
from jaxoff.names import UNKNOWN

if TYPE_CHECKING:
    from jaxoff.types import EnvSpec, Episodes


def _save_made(
    made: Mapping[Path, tuple[Episodes, dict[str, Any]]],
    spec: EnvSpec,
    parts: list[Found],
    overwrite: bool,
) -> None:
    """Write datasets, with how each was made, all of them or none."""
    import numpy as np

    from jaxoff.data import disk

    info = {
        "env": spec.name,
        "scenario": spec.name.rpartition("/")[2],
        "made_from": [part.origin for part in parts],
    }
    saved = {path: (episodes, info | {"made_by": how}) for path, (episodes, how) in made.items()}
    disk.save_parts(saved, spec, overwrite=overwrite)
    for path, (episodes, _) in made.items():
        console.print(f"{len(episodes.filled)} episodes, {int(np.sum(episodes.filled)):,} steps")
        console.print(f"dataset: {path}", soft_wrap=True)


@data_app.command(name="combine")
def data_combine(
    datasets: tyro.conf.Positional[tuple[str, ...]],
    /,
    out: Path,
    data_dir: Path | None = None,
    pools: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Join datasets of one environment.

    Args:
        datasets: dataset folders, or tasks [source:]family/scenario/quality.
        out: the dataset folder to write.
        data_dir: folder of public datasets, for a task with a source.
        pools: folder of policy pools, searched before the pools that come with the library.
        overwrite: replace a dataset that is already there.
    """
    from jaxoff.data import disk, edit

    disk.check_target(out, overwrite)
    options = options_of(data_dir, pools)
    check_read(datasets, options)
    parts = [find_data(text, options) for text in datasets]
    names: dict[str, str] = {
        part.spec.name.rpartition(":")[2]: text
        for part, text in zip(parts, datasets, strict=True)
        if part.spec.name != UNKNOWN
    }
    if len(names) > 1:
        (one, first), (other, second) = list(names.items())[:2]
        raise InvalidSetting(
            f"combine: field 'env': expected one environment, found {one} in {first} and "
            f"{other} in {second}"
        )
    made = edit.combine([part.episodes for part in parts], datasets)
    known = [part.spec for part in parts if part.spec.name != UNKNOWN]
    spec = known[0] if known else parts[0].spec
    for part, text in zip(parts, datasets, strict=True):
        for field in ("action_bound", *edit.PER_AGENT):
            expected, found = getattr(spec, field), getattr(part.spec, field)
            if found != expected:
                raise InvalidSetting(
                    f"combine: field '{field}': expected {expected} as in {datasets[0]}, found "
                    f"{found} in {text}"
                )
    spec = dataclasses.replace(
        spec,
        # of several sources: the environment that they have in common
        name=spec.name if len({one.name for one in known}) < 2 else next(iter(names)),
        horizon=max(part.spec.horizon for part in parts),
    )
    _save_made({out: (made, {"command": "combine"})}, spec, parts, overwrite)


@data_app.command(name="subsample")
def data_subsample(
    dataset: tyro.conf.Positional[str],
    /,
    out: Path,
    episodes: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    pools: Path | None = None,
    overwrite: bool = False,
) -> None:
    """A random part of a dataset, with at most a given number of episodes or of steps.

    All copies of an episode are in the part, or none are; so the part may be smaller than the
    limit.

    Args:
        dataset: a dataset folder, or a task [source:]family/scenario/quality.
        out: the dataset folder to write.
        episodes: largest number of episodes in the part.
        steps: largest number of steps in the part; give this or --episodes.
        seed: random seed of the choice of episodes.
        data_dir: folder of public datasets, for a task with a source.
        pools: folder of policy pools, searched before the pools that come with the library.
        overwrite: replace a dataset that is already there.
    """
    from jaxoff.data import disk, edit

    edit.check_part(seed, episodes, steps)
    disk.check_target(out, overwrite)
    options = options_of(data_dir, pools)
    check_read([dataset], options)
    whole = find_data(dataset, options)
    made = edit.subsample(whole.episodes, seed, episodes, steps)
    how = {"command": "subsample", "episodes": episodes, "steps": steps, "seed": seed}
    _save_made({out: (made, how)}, whole.spec, [whole], overwrite)


@data_app.command(name="split")
def data_split(
    dataset: tyro.conf.Positional[str],
    /,
    out: Path,
    share: float = 0.9,
    seed: int = 0,
    data_dir: Path | None = None,
    pools: Path | None = None,
    overwrite: bool = False,
) -> None:
    """A dataset in two parts, OUT/train and OUT/validation.

    All copies of an episode are in the same part.

    Args:
        dataset: a dataset folder, or a task [source:]family/scenario/quality.
        out: the folder to write both parts to.
        share: fraction of the episodes in OUT/train, as near as copies of episodes allow.
        seed: random seed of the split.
        data_dir: folder of public datasets, for a task with a source.
        pools: folder of policy pools, searched before the pools that come with the library.
        overwrite: replace datasets that are already there.
    """
    from jaxoff.data import disk, edit

    edit.check_split(share, seed)
    names = ("train", "validation")
    for name in names:
        disk.check_target(out / name, overwrite)
    options = options_of(data_dir, pools)
    check_read([dataset], options)
    whole = find_data(dataset, options)
    how = {"command": "split", "share": share, "seed": seed}
    parts = edit.split(whole.episodes, share, seed)
    made = {
        out / name: (part, how | {"part": name}) for name, part in zip(names, parts, strict=True)
    }
    _save_made(made, whole.spec, [whole], overwrite)
