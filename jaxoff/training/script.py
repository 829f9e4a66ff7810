"""`jaxoff.train`: training from a script or a notebook, set up as the command `jaxoff train` is."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from jaxoff import runtime

if TYPE_CHECKING:
    from jaxoff.logs import Sink
    from jaxoff.training.results import Results
    from jaxoff.training.spec import TrainSpec
    from jaxoff.types import Env, Episodes


def train(
    spec: TrainSpec,
    out: str | Path | None = None,
    sinks: Sequence[Sink] = (),
    data: Episodes | None = None,
    env: Env | None = None,
    *,
    extend: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Results:
    """Train every run of a job, as `training.loop.train` does, on every core and with a bar.

    Host devices and the compilation cache are set up first (see `runtime.setup`). A process in
    which JAX has already started keeps its devices, which is said once. extend: train what the job
    in `out` lacks. overwrite: replace what is in `out`. progress: show how far
    training is; by default where the error stream is a terminal, and in a notebook. Raises what
    `training.loop.train` does.
    """
    if not runtime.setup():
        _warn_of_devices()
    from jaxoff.logs import Progress
    from jaxoff.training import loop  # makes arrays, hence after the set-up

    if progress is None:
        console = Console(stderr=True)
        seen = console.is_terminal or console.is_jupyter
        progress = seen and not any(isinstance(sink, Progress) for sink in sinks)
    shown: list[Sink] = [Progress(f"{spec.label} {spec.task_name}")] if progress else []
    place = None if out is None else Path(out)
    return loop.train(spec, place, [*shown, *sinks], data, env, extend=extend, overwrite=overwrite)


@functools.cache
def _warn_of_devices() -> None:
    """Warn, once in a process, that JAX has started with fewer host devices than cores."""
    warnings.warn(
        "JAX had already started, so that runs do not use every core; call jaxoff.setup() before "
        "anything else uses JAX, in a notebook after a restart",
        RuntimeWarning,
        stacklevel=3,
    )
