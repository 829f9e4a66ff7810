"""Numbers of SIT's claims on the decomposition of the reward alone, without training policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxoff.experiments.evidence.measures import Measure, Measured
from jaxoff.experiments.sit import runs
from jaxoff.experiments.sit.claims import DECOMPOSITION, LOW, MEDIUM, MONOTONE

from jaxoff import registry
from jaxoff.learners import credit
from jaxoff.losses.credit import members_of

KINDS = {DECOMPOSITION: "attention", MONOTONE: "monotonic"}
PLACES = ((MEDIUM, DECOMPOSITION), (LOW, DECOMPOSITION), (LOW, MONOTONE))
SEEDS = range(5)


def numbers_of(found: credit.Verdict, levels: np.ndarray) -> dict[str, float]:
    """Fit, own reward of each agent, probabilities that an agent's trajectory has a higher priority
    than another's of its type, and the share of the highest level in the draws over its share in
    the data, the least of all types.

    levels: [E, N] of the policies that made the data.
    """
    numbers = {"r2 held out": float(found.r2_held_out)}
    numbers |= {f"own reward {x.agent}": float(x.reward) for x in credit.by_agent(found)}
    for members in members_of(found.types):
        for a in members:
            for b in (b for b in members if b != a):
                below = np.sort(found.priority[:, a])
                rank = np.searchsorted(below, found.priority[:, b], "left")
                numbers[f"priority {b} above {a}"] = float(rank.mean() / len(below))
    by_type: dict[float, dict[str, float]] = {}
    for line in credit.by_level(found, levels):
        if line["level"] >= by_type.get(line["type"], line)["level"]:
            by_type[line["type"]] = line
    shares = [line["drawn"] / line["data"] for line in by_type.values()]
    return numbers | {"share of the highest level over the data's": float(min(shares))}


def decompositions(
    places: Sequence[tuple[str, str]] = PLACES, scale: str = "cpu", seeds: Sequence[int] = SEEDS
) -> Iterator[Measured]:
    """The decomposition of 2s3z's imbalanced datasets, at scale cpu, with several seeds."""
    for task, label in places:
        episodes, spec = runs.data_of(task, scale), registry.make_spec(task)
        levels = np.asarray(episodes.behaviour_level)
        settings = dataclasses.replace(runs.SCALES[scale].fit, kind=KINDS[label])
        for seed in seeds:
            found = credit.judge(episodes, spec, settings, seed=seed)
            yield Measured(label, task, seed, numbers_of(found, levels))


MEASURES = {"decompositions": Measure(decompositions, slow=True)}
