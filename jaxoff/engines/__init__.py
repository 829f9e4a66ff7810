"""Engines: where the jobs of an experiment are done. `local` uses this machine, `slurm` and `ray` a
cluster.

An engine is a module with a `Config`, the settings that the user may give, and `make(config)`,
which returns an `Engine`. `run` sends jobs to one, and sends those again whose process was lost:
they go on from their last checkpoint, as the same command does after a kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints

from jaxoff.config import check_number, check_word, config_fields, typed
from jaxoff.engines.assignment import CANCELLED, DONE, LOST, Assignment, End
from jaxoff.errors import Interrupted, JobsFailed
from jaxoff.names import unknown
from jaxoff.training.spec import resolve

ENGINES = ("local", "slurm", "ray")
ATTEMPTS = 4  # times that a job is sent before its loss counts as a failure

__all__ = ["ATTEMPTS", "ENGINES", "Assignment", "End", "Engine", "check", "choose", "run"]


class Engine(Protocol):
    """Where jobs are done. It knows neither what a job is nor whether it is sent again."""

    def send(self, assignments: Sequence[Assignment]) -> None:
        """Take assignments, to be done as soon as there is room."""
        ...

    def ended(self) -> list[End]:
        """Wait until at least one assignment has ended; those that have, each of them once."""
        ...

    def stop(self) -> None:
        """Have what runs save and end, and forget the rest."""
        ...


def check(name: str, settings: Mapping[str, Any]) -> Any:
    """The Config of an engine with some settings, whose values may be text.

    Raises UnknownName for an engine or a setting that does not exist, WrongType or InvalidSetting
    for a value that can't be used.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    config = importlib.import_module(f"jaxoff.engines.{name}").Config
    defaults, hints, made = config(), get_type_hints(config), {}
    for field, value in settings.items():
        if field not in config_fields(config):
            raise unknown(f"setting of the engine {name}", field, config_fields(config))
        made[field] = typed(f"engine {name}: {field}", value, getattr(defaults, field))
        check_number(field, made[field], f"engine {name}: field")
        if get_origin(hints[field]) is Literal:
            check_word(field, made[field], get_args(hints[field]), f"engine {name}: field")
    return dataclasses.replace(defaults, **made)


def choose(name: str, settings: Mapping[str, Any]) -> Engine:
    """The engine of this name. Raises what `check` does; MissingProgram if it isn't installed."""
    config = check(name, settings)
    return importlib.import_module(f"jaxoff.engines.{name}").make(config)


def run(
    assignments: Sequence[Assignment],
    engine: Engine,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Do all assignments whose results are not there yet; those that are lost are sent again.

    tell: called with a line for each that has ended. Every job is checked before the first is sent.
    Raises JobsFailed at the end where some have failed, Interrupted after a request to stop.
    """
    for assignment in assignments:
        resolve(assignment.spec)
    waiting = [assignment for assignment in assignments if not assignment.done()]
    sent = dict.fromkeys(waiting, 1)
    failed: list[End] = []
    open_, count = len(waiting), len(waiting)
    try:
        with _stopping():
            if waiting:
                engine.send(waiting)
            while open_:
                for end in engine.ended():
                    again = end.state == LOST and sent[end.assignment] < ATTEMPTS
                    about = f"{end.assignment.name}: {end.state}"
                    if again:
                        sent[end.assignment] += 1
                        tell(f"{about}, sent again: {end.text}")
                        engine.send([end.assignment])
                        continue
                    open_ -= 1
                    reason = "" if end.state == DONE else f": {end.text}"
                    tell(f"{count - open_}/{count} {about}{reason}")
                    failed += [end] if end.state != DONE else []
    except BaseException:
        engine.stop()
        raise
    if failed:
        raise JobsFailed(_told(failed, count))


def _told(failed: Sequence[End], count: int) -> str:
    words = {LOST: f"lost {ATTEMPTS} times", CANCELLED: "cancelled"}
    each = [
        f"{end.assignment.folder} ({words.get(end.state, end.state)}): {end.text}" for end in failed
    ]
    return f"{len(failed)} of {count} jobs have failed: " + " | ".join(each)


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Have SIGTERM and SIGINT raise Interrupted, which ends the wait for an engine."""

    def ask(number: int, _: object) -> None:
        error = Interrupted("stopped on request: give the same command again to continue")
        error.signals = (number,)
        raise error

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
