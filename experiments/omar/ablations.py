"""Spread, four qualities: decentralised against centralised critics; searches, and sweeps of the
softmax search.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxoff.experiments.omar import runs
from jaxoff.experiments.paper import Column, Job

from jaxoff import registry
from jaxoff.eval import statistics
from jaxoff.report.html import Section
from jaxoff.report.load import by_config


def centralised(job: Job) -> Section:
    """Critics of the own observation and action, and of the state and all actions."""
    note = (
        "Spread, scores by the authors' references. centralised: a critic for each agent, "
        "of the state and all actions, as in the paper. "
        "one critic: for the team, paid what the first agent is; noise of .05 on target "
        "actions; of five parts of a batch, each as big as "
        "an agent's otherwise, the policies learn from one: this form of the code base of "
        "CFCQL makes five steps of its critic an update. "
        "State: all observations. The paper does not name the task of its centralised critics. "
        + runs.about(job.scale)
    )
    return Section(
        "OMAR: centralised critics",
        note,
        [scored(job, "centralised", "OMAR: centralised critics", runs.CENTRALISED, note)],
    )


def search(job: Job) -> Section:
    """Softmax, CEM, random shooting; iterations, samples, and where the softmax search starts."""
    note = (
        "Spread, scores by the authors' references. softmax: 3 x 10 samples, cem: 2 x 20 "
        "with 5 elites, random: 30. " + runs.about(job.scale)
    )
    stems = [scored(job, "search", "OMAR: searches", runs.SEARCHES, note)]
    for name, columns in runs.SWEEPS.items():
        note = "Spread, softmax search; the paper draws these flat, without numbers. "
        note += runs.about(job.scale)
        stems.append(scored(job, f"search-{name}", f"OMAR: {name} of the search", columns, note))
    return Section("OMAR: the search", note, stems)


def scored(job: Job, stem: str, title: str, columns: Mapping[str, Column], note: str) -> str:
    """A table of scores on the four qualities with their average, and how far columns' averages lie
    apart; returns its stem.
    """
    own = runs.COLUMNS["OMAR"]  # is trained once, whatever it is called
    named = {"OMAR" if column == own else label: label for label, column in columns.items()}
    done = runs.trained(job, runs.CN, {name: columns[label] for name, label in named.items()})
    # a grid has a column for each of its points
    shown = None if any(column.grid for column in columns.values()) else named
    if stem.startswith("search-"):
        by_column: dict[str, list[float]] = {}
        for run in by_config(done):
            by_column.setdefault(run.variant, []).append(statistics.mean(run.values("score")))
        means = [float(np.mean(values)) for values in by_column.values()]
        if np.isfinite(means).all():
            apart = 100.0 * (max(means) - min(means)) / abs(np.mean(means))
            note = f"{note} Averages lie {apart:.0f} % of their mean apart."
    scale = registry.make_spec(next(iter(runs.CN))).return_scale
    assert scale is not None
    data = {
        label: float(statistics.normalised(runs.behaviour(job, task)[0], scale))
        for task, label in runs.CN.items()
    }
    shown_as: dict[str, Any] = {"metric": "score", "paper": stem, "note": note, "average": True}
    return job.table(stem, title, done, runs.CN, shown, data=data, **shown_as)
