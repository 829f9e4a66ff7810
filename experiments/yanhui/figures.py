"""What is drawn for YANHUI: returns over the percentage of poor data.

Learning curves are the library's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxoff.experiments.yanhui.checks import Values

from jaxoff.report.figures import looks, save, style, write_note


def robustness(
    values: Values,
    tasks: Mapping[int, str],
    columns: Sequence[str],
    label: str,
    stem: Path,
    note: str = "",
) -> list[Path]:
    """Mean over seeds with standard errors, a line per column.

    tasks: percent -> task. note: how the policies were evaluated.
    """
    look = looks(columns)
    with style() as new_figure:
        figure = new_figure(figsize=(5.6, 3.6), layout="constrained")
        panel = figure.subplots()
        for name in columns:
            rows = [values[task, name] for task in tasks.values()]
            error = [
                np.std(row, ddof=1) / np.sqrt(len(row)) if len(row) > 1 else 0.0 for row in rows
            ]
            panel.errorbar(
                list(tasks),
                [row.mean() for row in rows],
                error,
                label=name,
                capsize=2,
                **look[name],
            )
        panel.set(xlabel="poor episodes, percent", ylabel=label)
        figure.legend(loc="outside right upper")
        lines = "Lines: means over seeds; bars: one standard error to either side."
        write_note(figure, f"{lines} {note}".strip())
        return save(figure, stem)
