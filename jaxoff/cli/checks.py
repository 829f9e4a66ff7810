"""The commands `jaxoff check-env` and `check-learner`: contracts, checked on anybody's part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import tyro

from jaxoff import registry, runtime
from jaxoff.cli.common import Many, console, pairs
from jaxoff.config import check_number
from jaxoff.names import unknown

if TYPE_CHECKING:
    from jaxoff.conformance import Findings


def check_env(task: tyro.conf.Positional[str], /, seed: int = 0) -> None:
    """Check the environment of a task against the contract that learners rely on. Ends with status
    2 where a fact does not hold, and says in a sentence what is wrong.

    Args:
        task: [source:]family/scenario/quality; the quality has no part in it.
        seed: random seed of the episodes that are played.
    """
    registry.sizes(task)  # refuses a task that does not exist
    check_number("seed", seed)
    runtime.setup()
    from jaxoff.conformance import check_env as check

    _tell([check(task, seed=seed)])


def check_learner(
    method: tyro.conf.Positional[str],
    /,
    set: Annotated[tuple[str, ...], Many] = (),
    seed: int = 0,
) -> None:
    """Check a method, in each of its forms, against the contract that training relies on. Ends with
    status 2 where a fact does not hold, and says in a sentence what is wrong.

    Args:
        method: a registered method, see `jaxoff methods`.
        set: NAME=VALUE sets a field of the method's Config, such as a smaller size of its networks;
            may be given several times.
        seed: random seed of parameters and updates.
    """
    if method not in registry.learner_names():
        raise unknown("method", method, registry.learner_names())
    check_number("seed", seed)
    runtime.setup()
    from jaxoff.conformance import check_learner as check

    _tell(check(method, pairs(set, "--set"), seed=seed))


def _tell(found: list[Findings]) -> None:
    """Print what was found, and end with status 2 where anything is wrong."""
    for findings in found:
        console.print(str(findings), highlight=False, soft_wrap=True)
    if any(findings.faults for findings in found):
        raise SystemExit(2)
