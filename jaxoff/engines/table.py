"""The page of an experiment: its table, as the file asks for it, and learning curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxoff.engines.experiment import Experiment
from jaxoff.errors import InvalidSetting
from jaxoff.names import Task
from jaxoff.report import figures, protocol, render, tables
from jaxoff.report.html import Section, index
from jaxoff.report.load import Run, by_config


def write(
    experiment: Experiment,
    runs: Sequence[Run],
    out: Path,
    missing: Sequence[str] = (),
    tell: Callable[[tables.Table], None] = lambda table: None,
) -> Path:
    """Write the table and the curves of an experiment, and index.html, into a folder.

    missing: names of jobs that have not ended, which the page tells, as it does of jobs that lack
    the table's metric. Returns the page's path. Raises InvalidSetting where no job has it.
    """
    asked = dict(experiment.table)
    metric, wanted = asked.pop("metric", "return_mean"), asked.pop("columns", experiment.columns)
    title = asked.pop("title", experiment.title)
    parts = by_config(runs)
    names = {str(Task.parse(task)): label for task, label in experiment.tasks.items()}
    rows = {task: label for task, label in names.items() if any(run.task == task for run in parts)}
    shown = [
        part.variant
        for label in wanted
        for part in parts
        if part.variant == label or part.variant.startswith(f"{label} (")
    ]
    known, lacking = [], []
    for run in parts:
        if run.knows(metric) or run.unplayed:
            known.append(run)
        else:
            lacking.append(f"{run.variant} on {names.get(run.task, run.task)}")
    if not known:
        every = [item for run in parts for each in run.runs for item in each.items()]
        numbers = sorted({name for name, value in every if isinstance(value, float)})
        raise InvalidSetting(
            f"{experiment.file}: field 'table.metric': expected a number of the results, found "
            f"'{metric}'; they have {', '.join(numbers)}"
        )
    told = [_told("Not ended yet", missing), _told(f"Without {metric}", lacking)]
    note = " ".join(filter(None, [asked.pop("note", ""), *told]))
    built = tables.build(
        known, rows, list(dict.fromkeys(shown)), metric, title=title, note=note, **asked
    )
    render.write(built, out / "table")
    tell(built)
    played = [run for run in parts if not run.unplayed]
    unplayed = [run for run in parts if run.unplayed]
    stems = ["table"]
    stems += _curves(played, metric if metric == "win_rate" else "return_mean", out, "curves", rows)
    if unplayed:
        stems += _curves(unplayed, unplayed[0].curve_metric, out, "curves-losses", rows)
    text = " ".join([note, protocol.of_section(known, metric)]).strip()
    return index(out, experiment.title, [Section(title, text, stems)])


def _curves(
    runs: Sequence[Run], metric: str, out: Path, stem: str, rows: Mapping[str, str]
) -> list[str]:
    """Draw the learning curves of the runs that have logged a metric; returns the stem if any has.

    rows: task -> title of its panel.
    """
    logged = [run for run in runs if any(metric in row for row in run.rows)]
    if logged:
        tasks = {run.task for run in logged}
        titles = {task: title for task, title in rows.items() if task in tasks}
        figures.curves(logged, metric, out / stem, tasks=titles)
    return [stem] if logged else []


def _told(what: str, jobs: Sequence[str]) -> str:
    return f"{what}: {', '.join(jobs)}." if jobs else ""
