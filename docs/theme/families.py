"""What the pages of docs/datasets/ tell of a family from the registry and the reference results.

A page has marks: where the table of scenarios goes, that of the shipped pools of policies, and that
of datasets. Nothing is computed here; the numbers are those of the pools' files and of
experiments/reference/datasets/datasets.csv.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff import registry
from jaxoff.data import pools
from jaxoff.names import Task

ROOT = Path(__file__).parents[2]
NUMBERS = ROOT / "experiments" / "reference" / "datasets" / "datasets.csv"
SCENARIOS, POOLS, DATASETS = "<!-- scenarios -->", "<!-- pools -->", "<!-- datasets -->"
FLOATS = ("return", "coverage", "device")  # what the names of columns with numbers begin with
# Page -> the families of tasks that it is about.
PAGES = {
    **{name: (name,) for name in ("matrix", "grid", "poly", "mpe", "maze")},
    "smax": ("smax", "smax-x"),
    "robots": ("mamujoco", "mabrax"),
}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the tables into the page of a family."""
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    if folder != "datasets":
        return markdown
    families = PAGES[name]
    markdown = markdown.replace(SCENARIOS, "\n".join(scenarios(families)))
    markdown = markdown.replace(POOLS, "\n".join(shipped(families)))
    return markdown.replace(DATASETS, "\n".join(datasets(families)))


def scenarios(families: Sequence[str]) -> Iterator[str]:
    """A table of the scenarios that have a recipe, with their sizes, and their qualities: those of
    all scenarios in a sentence.
    """
    found: dict[str, list[Task]] = {}
    for task in map(Task.parse, registry.tasks()):
        if not task.source and task.family in families:
            found.setdefault(f"{task.family}/{task.scenario}", []).append(task)
    shared = [
        task.quality
        for task in next(iter(found.values()))
        if all(task.quality in {one.quality for one in tasks} for tasks in found.values())
    ]
    every = "Every scenario has" if len(found) > 1 else "It has"
    if shared:
        yield f"{every} the qualities {', '.join(f'`{quality}`' for quality in shared)}."
        yield ""
    more = any(task.quality not in shared for tasks in found.values() for task in tasks)
    yield "| scenario | agents | observation | actions | steps |" + " further qualities |" * more
    yield "|---" * (5 + more) + "|"
    for scenario, tasks in found.items():
        sizes = registry.sizes(tasks[0])
        kind = "choices" if sizes.discrete else "reals" if sizes.action_size > 1 else "real"
        others = ", ".join(f"`{task.quality}`" for task in tasks if task.quality not in shared)
        yield (
            f"| `{scenario}` | {sizes.num_agents} | {sizes.obs_size} | {sizes.action_size}\u00a0"
            f"{kind} | {sizes.horizon} |" + f" {others} |" * more
        )


def shipped(families: Sequence[str]) -> Iterator[str]:
    """A table of the pools that come with the library."""
    yield "| pool | random | best | win rate | steps | CPU min | KB | command |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in pools.shipped():
        if name.partition("/")[0] not in families:
            continue
        file = pools.path_of(name)
        with np.load(file) as arrays:
            meta = json.loads(str(arrays["meta"]))
        best = max(meta["members"], key=lambda member: member["return_mean"])
        config, curve = meta["made"]["config"], meta["made"].get("curve")
        steps = config["iterations"] * config["segment"] * config["num_envs"]
        won = "" if best["win_rate"] is None else f"{best['win_rate']:.3f}"
        # Files of before these were kept do not tell the minutes.
        minutes = f"{curve[-1]['cpu_minutes']:.1f}" if curve else ""
        yield (
            f"| `{name}` | {meta['random_return']:,.1f} | {best['return_mean']:,.1f} | {won} "
            f"| {steps:,} | {minutes} | {file.stat().st_size / 1e3:,.0f} "
            f"| `{meta['made']['command']}` |"
        )


def rows(families: Sequence[str]) -> list[dict[str, str]]:
    """The rows of datasets.csv that are of these families."""
    lines = [line for line in NUMBERS.read_text().splitlines() if not line.startswith("#")]
    return [row for row in csv.DictReader(lines) if Task.parse(row["task"]).family in families]


def datasets(families: Sequence[str]) -> Iterator[str]:
    """A table of the datasets as their recipes make them."""
    measured = rows(families)
    if not measured:
        yield "No dataset of this family is among the reference results."
        return
    wins = any(row["win_rate"] not in ("", "nan") for row in measured)
    yield f"| task | episodes | steps | return | range |{' win rate |' * wins} coverage | MB |"
    yield "|---" * (7 + wins) + "|"
    for row in measured:
        if row["failed"]:
            yield f"| `{row['task']}` | not made |" + " |" * (5 + wins)
            continue
        number = {
            name: float(row[name]) for name in row if name.startswith(("return", "cov", "dev"))
        }
        won = f" {float(row['win_rate']):.3f} |" if wins else ""
        yield (
            f"| `{row['task']}` | {int(row['episodes']):,} | {int(row['steps']):,} "
            f"| {number['return_mean']:.2f}\u00a0±\u00a0{number['return_std']:.2f} "
            f"| {number['return_min']:.2f}\u00a0to\u00a0{number['return_max']:.2f} |{won} "
            f"{number['coverage']:.3f} | {number['device_mb']:.1f} |"
        )
