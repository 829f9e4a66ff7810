"""The page of an experiment: its table, as the file asks for it, and learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxoff.engines.experiment import Experiment
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

    missing: names of jobs that have not ended, which the page tells. Returns the page's path.
    Raises BrokenResult where the runs lack the table's metric.
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
    note = " ".join(filter(None, [asked.pop("note", ""), _told(missing)]))
    built = tables.build(
        parts, rows, list(dict.fromkeys(shown)), metric, title=title, note=note, **asked
    )
    render.write(built, out / "table")
    tell(built)
    measure = metric if metric in ("return_mean", "win_rate") else "return_mean"
    curved = [run for run in parts if any(measure in row for row in run.rows)]
    stems = ["table"]
    if curved:
        figures.curves(curved, measure, out / "curves", tasks=rows)
        stems.append("curves")
    text = " ".join([note, protocol.of_runs(parts, metric)]).strip()
    return index(out, experiment.title, [Section(title, text, stems)])


def _told(missing: Sequence[str]) -> str:
    return f"Not ended yet: {', '.join(missing)}." if missing else ""
