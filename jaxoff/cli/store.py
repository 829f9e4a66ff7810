"""The command `jaxoff store add`: final numbers of result folders into a file to be committed."""

from __future__ import annotations

from pathlib import Path

import tyro

from jaxoff.cli.common import console
from jaxoff.errors import InvalidSetting

store_app = tyro.extras.SubcommandApp()


@store_app.command(name="add")
def store_add(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    /,
    to: Path,
    scale: str = "",
    dirty: bool = False,
) -> None:
    """Put the runs of result folders into a results store, a CSV file with one row per run.

    Runs that the store has are replaced; adding the same folders again changes nothing. Results
    from a source tree with changes that no commit has are refused.

    Args:
        folders: folders of jobs, or of experiments with such folders below them.
        to: the CSV file; curves of at most 20 points a run are kept beside it.
        scale: the size of the experiment, such as cpu or full, as a word in the rows.
        dirty: also accept results from a source tree with changes that no commit has.
    """
    from jaxoff.report import store
    from jaxoff.report.load import run_folders, unfinished

    found = {folder: run_folders(folder) for folder in folders}
    empty = next((folder for folder, inner in found.items() if not inner), None)
    if not folders or empty is not None:
        raise InvalidSetting(f"FOLDERS: expected folders of results, found {empty or 'none'}")
    waiting = {path for folder in folders for path in unfinished(folder)}
    done = [path for inner in found.values() for path in inner if path not in waiting]
    added, changed = store.add(to, dict.fromkeys(done), scale, dirty=dirty)
    console.print(f"{added} runs added, {changed} replaced, of {len(done)} jobs")
    if waiting:
        console.print(f"not ended, left out: {', '.join(sorted(path.name for path in waiting))}")
    console.print(f"store: {to}", soft_wrap=True)


@store_app.command(name="list")
def store_list(file: tyro.conf.Positional[Path], /) -> None:
    """Show what a results store holds: the runs of each label on each task, and their returns.

    Args:
        file: the CSV file.
    """
    import numpy as np
    from rich.table import Table

    from jaxoff.report import store_file

    if not file.is_file():
        raise InvalidSetting(f"FILE {file}: expected a results store, found none")
    groups: dict[tuple[str, str, str], list[store_file.Row]] = {}
    for row in store_file.read(file):
        groups.setdefault((row.task, row.label, row.scale), []).append(row)
    table = Table("task", "label", "scale", "runs", "mean return", "commit")
    for place, rows in groups.items():
        values = np.array([row.value("return_mean") for row in rows])
        kept = values[np.isfinite(values)]
        mean = f"{kept.mean():.4g}" if kept.size else ""
        commits = ", ".join(dict.fromkeys(row.commit for row in rows))
        table.add_row(*place, str(len(rows)), mean, commits)
    console.print(table)
