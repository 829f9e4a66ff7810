"""What a check has found: facts of a contract, and sentences on where they do not hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax


class Remark(str):
    """A sentence on what is allowed, but may not be meant."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """The facts that were checked on a part, in order.

    facts: a fact -> the sentences on where it does not hold, and remarks. unchecked: facts that
    were not checked, since an earlier one that they need does not hold.
    """

    name: str
    facts: dict[str, tuple[str, ...]]
    unchecked: tuple[str, ...] = ()

    @property
    def faults(self) -> list[str]:
        """The sentences on what is wrong."""
        return [x for texts in self.facts.values() for x in texts if not isinstance(x, Remark)]

    @property
    def remarks(self) -> list[str]:
        """The sentences on what is allowed, but may not be meant."""
        return [x for texts in self.facts.values() for x in texts if isinstance(x, Remark)]

    def __str__(self) -> str:
        lines = []
        for fact, texts in self.facts.items():
            wrong = any(not isinstance(text, Remark) for text in texts)
            lines.append(f"{'FAULT' if wrong else 'ok   '}  {fact}")
            lines += [f"       {'remark: ' * isinstance(x, Remark)}{x}" for x in texts]
        lines += [f"-      not checked: {fact}" for fact in self.unchecked]
        count = len(self.faults)
        end = "keeps the contract" if not count else f"{count} fault{'s' * (count > 1)}"
        return "\n".join([*lines, f"{self.name}: {end}"])


Fact = Callable[..., Iterable[str]]


def check(name: str, facts: Mapping[str, Fact], needed: int, *given: Any) -> Findings:
    """Check facts, each a function of `given` that yields sentences on where it does not hold.

    The first `needed` facts are needed by all that follow them. An exception is a fault, too.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, (fact, holds) in enumerate(facts.items()):
        found[fact] = tuple(_sentences(holds, given))
        wrong = any(not isinstance(text, Remark) for text in found[fact])
        if wrong and number < needed:
            return Findings(name, found, tuple(facts)[number + 1 :])
    return Findings(name, found)


def same_form(one: Any, other: Any) -> bool:
    """Whether two trees have the same structure."""
    forms: list[Any] = [jax.tree.structure(tree) for tree in (one, other)]
    return bool(forms[0] == forms[1])


def _sentences(holds: Fact, given: tuple[Any, ...]) -> Iterator[str]:
    try:
        yield from holds(*given)
    except Exception as error:  # of somebody else's code, which may raise anything
        text = " ".join(str(error).partition("\n----")[0].split())
        yield f"It raised {type(error).__name__}: {text[:400]}"
