"""Results in the JSON format of marl-eval (https://github.com/instadeepai/marl-eval), whose tools
draw what Gorsane et al. (2022) recommend.

    {environment: {task: {algorithm: {seed_0: {
        step_0: {step_count: 0, return: [1.5], ...}, ...,
        absolute_metrics: {return: [1.5, 2.5, ...], ...}}}}}}

Differs: `step_count` is the number of gradient updates, since methods here learn from data and make
no steps in an environment; and `absolute_metrics` is of the last policy, the result of a run,
instead of the best one of training. Its numbers are those of the report's tables: of the last
evaluation of training, or of `jaxoff evaluate`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxoff.errors import InvalidSetting
from jaxoff.files import write_text
from jaxoff.names import Task
from jaxoff.report.load import Run, by_config, joined, told_apart

# name in final.json and in the history -> name in the export. marl-eval splits names at _ when it
# looks for those that are to be normalised, so the one that is has none.
METRICS = {"return_mean": "return", "win_rate": "win_rate", "exact_value": "exact_value"}
Tree = dict[str, Any]


def write(experiments: Sequence[tuple[str, Sequence[Run]]], file: str | Path) -> Path:
    """Write the results of runs that were evaluated; returns the file's path.

    experiments: the title and the runs of each. Raises InvalidSetting where two runs would have the
    same place in the file, or where methods of one environment differ in tasks, in numbers of runs
    that did not fail, in evaluations or in metrics, which marl-eval's tools cannot read.
    """
    tree: Tree = {}
    owner: dict[tuple[str, str, str, int], Path] = {}
    for run in _told_apart(experiments):
        environment, task = names_of(run.task)
        seeds = tree.setdefault(environment, {}).setdefault(task, {}).setdefault(run.variant, {})
        for place, seed in enumerate(run.seeds):
            if (environment, task, run.variant, seed) in owner:
                raise InvalidSetting(
                    f"--marl-eval: {run.path}: expected seeds that "
                    f"{owner[environment, task, run.variant, seed]} does not have, for "
                    f"{run.variant} on {environment}/{task}, found {seed}"
                )
            owner[environment, task, run.variant, seed] = run.path
            if not run.failed[place] and run.runs[place].get("return_mean") is not None:
                seeds[f"seed_{seed}"] = _of(run, place)
    for environment, tasks in tree.items():
        _check(environment, tasks)
    return write_text(Path(file), json.dumps(tree, indent=1, allow_nan=False) + "\n")


def _told_apart(experiments: Sequence[tuple[str, Sequence[Run]]]) -> list[Run]:
    """A `Run` per method and grid point of each job that was evaluated.

    The variant of a method names the experiment where two have runs of it with the same task and
    seed.
    """
    title_of = {run.path: title for title, runs in experiments for run in runs}
    parts = by_config(told_apart([run for _, runs in experiments for run in runs]))
    parts = [run for run in parts if not run.unplayed and run.has("return_mean")]
    titles: dict[tuple[str, str, int], set[str]] = {}
    for run in parts:
        for seed in run.seeds:
            titles.setdefault((run.variant, run.task, seed), set()).add(title_of[run.path])
    shared = {variant for (variant, *_), found in titles.items() if len(found) > 1}
    return [
        dataclasses.replace(run, variant=joined(run.variant, title_of[run.path]))
        if run.variant in shared
        else run
        for run in parts
    ]


def names_of(task: str) -> tuple[str, str]:
    """Environment and task of a task's name, in small letters, as marl-eval looks them up."""
    if task.startswith("folder:"):  # a dataset folder, by its name
        return "folder", task.removeprefix("folder:").lower()
    parsed = Task.parse(task)
    environment = f"{parsed.source}:{parsed.family}" if parsed.source else parsed.family
    rest = "/".join(filter(None, (parsed.scenario, parsed.quality)))
    return environment.lower(), rest.lower() or environment.lower()


def _of(run: Run, place: int) -> Tree:
    """The evaluations of one run of a folder."""
    history = {
        name: run.arrays[f"history/{metric}"][:, place]
        for metric, name in METRICS.items()
        if f"history/{metric}" in run.arrays
    }
    found: Tree = {
        f"step_{k}": {"step_count": int(step)}
        | {name: [float(values[k])] for name, values in history.items()}
        for k, step in enumerate(run.arrays["steps"])
    }
    final = {
        name: [float(run.runs[place][metric])]
        for metric, name in METRICS.items()
        if name in history and run.runs[place].get(metric) is not None
    }
    trained = run.arrays["returns"] if run.evaluated is None else ()
    returns = list(trained[place] if len(trained) else run.runs[place].get("returns", ()))
    if returns and None not in returns:  # those of every episode, where the folder has them
        final["return"] = [float(value) for value in returns]
    return found | {"absolute_metrics": final}


def _check(environment: str, tasks: Tree) -> None:
    """Refuse methods of an environment that have not the same tasks, runs, steps and metrics."""

    def expect(place: str, what: str, found: list[Any], expected: list[Any]) -> None:
        if found != expected:
            raise InvalidSetting(
                f"--marl-eval: {environment}/{place}: expected {what} "
                f"{', '.join(map(str, expected))} as elsewhere in {environment}, found "
                f"{', '.join(map(str, found)) or 'none'}; marl-eval reads only the same methods on "
                "all tasks, with equally many runs and evaluations"
            )

    first = next(iter(tasks.values()))
    methods = sorted(first)
    sample: Tree = next(iter(first[methods[0]].values()), {})
    runs, steps = len(first[methods[0]]), list(sample)
    metrics = sorted(sample.get("absolute_metrics", ()))
    for task, by_method in tasks.items():
        expect(task, "the methods", sorted(by_method), methods)
        for method, seeds in by_method.items():
            expect(f"{task}: {method}", "runs that did not fail:", [len(seeds)], [runs])
            for seed, evaluations in seeds.items():
                place = f"{task}: {method}, {seed}"
                expect(place, "the evaluations", list(evaluations), steps)
                expect(place, "the metrics", sorted(evaluations["absolute_metrics"]), metrics)
