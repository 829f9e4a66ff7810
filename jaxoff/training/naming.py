"""The names of the folders of jobs, which say how a job differs from its method's defaults."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff import registry
from jaxoff.config import SizeName, resolve_config
from jaxoff.names import Task
from jaxoff.training.spec import TrainSpec

LONGEST = 100  # letters of a name; what is longer is cut, and gets a digest


def folder_name(spec: TrainSpec) -> str:
    """METHOD-TASK and what differs from the defaults, or LABEL-TASK for a spec with a label.

    That is every setting of the method and the sampler that the user has changed, the names of the
    swept fields, the seed and the number of episodes of the data, and the number of updates. Seeds
    and swept values are not in the name, since a job may be extended by these.
    """
    stem, steps = _parts(spec)
    return f"{_safe(stem)}-steps={steps}" if steps else _safe(stem)


def folder_to_extend(spec: TrainSpec, place: Path) -> Path | None:
    """The folder in `place` of the same job with fewer updates, the most of them; None if none."""
    if spec.variant:
        return None
    stem, steps = _parts(spec)
    stem, steps, found = _safe(stem), steps or _default_steps(spec), {}
    for folder in place.glob(f"{stem}*"):
        shown = re.fullmatch(r"(?:-steps=(\d+))?", folder.name.removeprefix(stem))
        if shown and folder.is_dir():
            found[int(shown[1]) if shown[1] else _default_steps(spec)] = folder
    fewer = [number for number in found if number < steps]
    return found[max(fewer)] if fewer else None


def _parts(spec: TrainSpec) -> tuple[str, int]:
    """The name of a job without its number of updates, and that number if it is no default."""
    task = Task.parse(spec.task)
    if spec.variant:
        return f"{spec.variant}-{task.slug}", 0
    module, sampler = registry.learner(spec.method, task), registry.sampler(spec.sampler)
    given = dict(spec.config) | ({} if spec.steps is None else {"steps": spec.steps})
    changed = _changed(module, task, given, spec.size)
    steps = int(changed.pop("steps", 0))
    parts = [f"{name}={value}" for name, value in changed.items()]
    parts += [
        f"{spec.sampler}.{name}={value}"
        for name, value in _changed(sampler, task, spec.sampler_config, spec.size).items()
    ]
    parts += [f"grid={'+'.join(sorted(spec.grid))}"] if spec.grid else []
    parts += [f"size={spec.size}"] if spec.size != "laptop" else []
    parts += [f"data_seed={spec.data_seed}"] if spec.data_seed else []
    parts += [f"data_episodes={spec.data_episodes}"] if spec.data_episodes else []
    parts += [f"env={spec.env.replace('/', '-')}"] if spec.env else []
    return "-".join([spec.label, task.slug, *parts]), steps


def _changed(module: Any, task: Task, given: Mapping[str, Any], size: SizeName) -> dict[str, str]:
    """The values of the given fields of a Config that are not the defaults for task and size."""
    config, default = (resolve_config(module, task, each, size=size) for each in (given, {}))
    values = {name: (getattr(config, name), getattr(default, name)) for name in sorted(given)}
    return {
        name: _short(value)
        for name, (value, usual) in values.items()
        if not np.array_equal(value, usual)
    }


def _default_steps(spec: TrainSpec) -> int:
    task = Task.parse(spec.task)
    return int(resolve_config(registry.learner(spec.method, task), task, {}, size=spec.size).steps)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_short, value))
    return str(value).lower() if isinstance(value, bool) else str(np.asarray(value)[()])


def _safe(text: str) -> str:
    """A text as the name of a folder; what is changed in it shows as a digest at the end."""
    name = re.sub(r"[^A-Za-z0-9._,+=-]+", "-", text)
    if name == text and len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
