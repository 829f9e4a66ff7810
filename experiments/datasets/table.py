"""What every dataset holds that is made from a recipe, beside what the papers print of theirs.

return: undiscounted, of the team, over episodes. win rate: of the episodes, where the environment
    tells it.
coverage: distinct pairs of state and joint action among all steps, rounded to 4 decimals. unique:
episodes that are not copies of an earlier one. MB: on a device, with float32 observations. seconds:
from nothing to the whole
dataset in memory, compilation included. paper: mean ± deviation of the return that the paper or the
card of its data prints for the dataset of this name, and the simulator that it is of. SMAC's and
SMAX's returns have the same scale but not the same game: they tell the levels apart, and nothing
else.
"""

from __future__ import annotations

import csv
import dataclasses
import gc
import io
import math
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxoff import registry, runtime
from jaxoff.data import inspect, pools, worlds
from jaxoff.data.episodes import returns_of
from jaxoff.files import replacing, write_text
from jaxoff.names import DataOptions, Task, unknown

PAPER = Path(__file__).with_name("paper.csv")
_KEPT = 1000  # quantiles of the returns of a dataset, for the figure
_COLUMNS = 4  # panels beside each other


@dataclasses.dataclass(frozen=True)
class Row:
    """One dataset, or why there is none.

    asked: the number of episodes that was asked for, 0 for the recipe's own.
    """

    task: str
    seed: int
    asked: int
    commit: str
    hardware: str
    failed: str = ""
    episodes: int = 0
    steps: int = 0
    return_mean: float = math.nan
    return_std: float = math.nan
    return_min: float = math.nan
    return_max: float = math.nan
    win_rate: float = math.nan
    coverage: float = math.nan
    unique: float = math.nan
    device_mb: float = math.nan
    seconds: float = math.nan

    @property
    def key(self) -> tuple[Any, ...]:
        """What a finished row need not be made again for."""
        return self.task, self.seed, self.asked, self.commit


# ------------------------------------------------------------------------------------------- making


def find(patterns: Sequence[str] = ("*",)) -> list[str]:
    """Tasks that match a pattern, have a recipe, and whose scenario has a pool if it needs one.

    Raises UnknownName for no match.
    """
    scenarios: dict[str, list[Task]] = {}
    for name in registry.tasks():
        task = Task.parse(name)
        if not task.source:
            scenarios.setdefault(f"{task.family}/{task.scenario}", []).append(task)
    # Without a pool even the random data are left out: on some simulators they take hours.
    ready = [
        group
        for name, group in scenarios.items()
        if not any(map(worlds.needs_pool, group)) or pools.has(name)
    ]
    names = [str(task) for group in ready for task in group]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise unknown("task, or one without its pool:", pattern, names)
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def measure(task: str, episodes: int | None, seed: int) -> tuple[Row, np.ndarray]:
    """Make one dataset and look at it: its row, and quantiles of its returns."""
    begin = time.perf_counter()
    made = registry.make_data(task, DataOptions(seed, None if _fixed(task) else episodes))
    seconds = time.perf_counter() - begin
    env, returns = registry.make_env(task), returns_of(made)
    found = inspect.describe(made, env.spec, getattr(env, "won", None))
    row = dataclasses.replace(
        _empty(task, episodes, seed),
        episodes=found["episodes"],
        steps=found["transitions"],
        **{
            name: found[name]
            for name in ("return_mean", "return_std", "return_min", "return_max", "device_mb")
        },
        win_rate=found.get("win_rate", math.nan),
        coverage=found["joint_saco"],
        unique=found["unique_episodes"],
        seconds=seconds,
    )
    return row, np.quantile(returns, np.linspace(0, 1, min(_KEPT, len(returns)))).astype(np.float32)


def _fixed(task: str) -> bool:
    """Whether the name of a task says how many episodes it has."""
    return "/wspm-" in task


def _empty(task: str, episodes: int | None, seed: int) -> Row:
    return Row(task, seed, episodes or 0, runtime.git_commit(), runtime.hardware())


def run(
    out: Path,
    patterns: Sequence[str],
    episodes: int | None,
    seed: int,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Make the tasks of `find` one after the other, and write datasets.csv after each; then the
    table and the figures.

    One that fails is a row with its message. Rows that are there already are kept, and made again
    only for another seed, size or commit, or if they failed.
    """
    tasks = find(patterns)
    rows = {row.task: row for row in read(out / "datasets.csv")}
    about = _about(patterns, episodes, seed)
    for number, task in enumerate(tasks, 1):
        label, blank = f"{number}/{len(tasks)} {task}", _empty(task, episodes, seed)
        if task in rows and rows[task].key == blank.key and not rows[task].failed:
            say(f"{label}: there already")
            continue
        try:
            rows[task], quantiles = measure(task, episodes, seed)
            with replacing(_returns_file(out, task)) as temporary, temporary.open("wb") as file:
                np.save(file, quantiles)
            say(
                f"{label}: {rows[task].episodes:,} episodes, return "
                f"{rows[task].return_mean:.4g}, {rows[task].seconds:.1f} s"
            )
        except Exception as error:  # the others are made all the same
            rows[task] = dataclasses.replace(
                blank, failed=" ".join(f"{type(error).__name__}: {error}".split())
            )
            say(f"{label}: failed: {rows[task].failed}")
        write_csv(out, rows.values(), about)
        # A pool's programs are made for its members, and so are of no use to the next dataset.
        jax.clear_caches()
        gc.collect()
    return [
        write_csv(out, rows.values(), about),
        write_markdown(out, rows.values(), about),
        *draw(out, rows.values()),
    ]


def _about(patterns: Sequence[str], episodes: int | None, seed: int) -> str:
    command = ["python", "-m", "jaxoff.experiments.datasets", "--seed", str(seed)]
    command += [] if episodes is None else ["--episodes", str(episodes)]
    command += [] if list(patterns) == ["*"] else ["--tasks", *patterns]
    return (
        f"{runtime.hardware()}; jax {jax.__version__}; commit {runtime.git_commit()}; seed "
        f"{seed}; command `{shlex.join(command)}`"
    )


def _returns_file(out: Path, task: str) -> Path:
    return out / "returns" / f"{Task.parse(task).slug}.npy"


# ------------------------------------------------------------------------------------------- tables


def read(path: Path) -> list[Row]:
    """The rows of a datasets.csv; none where there is no such file."""
    if not path.exists():
        return []
    kinds = {"int": int, "float": float, "str": str}
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    fields = dataclasses.fields(Row)
    return [
        Row(**{field.name: kinds[str(field.type)](row[field.name]) for field in fields})
        for row in csv.DictReader(lines)
    ]


def read_paper() -> dict[str, dict[str, str]]:
    """task -> mean, std, min, max, steps, episodes, simulator, source; "" where nothing is
    printed.
    """
    with PAPER.open(encoding="utf-8") as file:
        return {row["task"]: row for row in csv.DictReader(file)}


def _ordered(rows: Iterable[Row]) -> list[Row]:
    place = {name: k for k, name in enumerate(registry.tasks())}
    return sorted(rows, key=lambda row: place.get(row.task, len(place)))


def write_csv(out: Path, rows: Iterable[Row], about: str) -> Path:
    """datasets.csv: a comment with hardware, commit and command, and then all numbers."""
    stream = io.StringIO()
    stream.write(f"# {about}\n")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Row)])
    for row in _ordered(rows):
        writer.writerow(
            [
                f"{value:.6g}" if isinstance(value, float) else value
                for value in dataclasses.astuple(row)
            ]
        )
    return write_text(out / "datasets.csv", stream.getvalue())


def write_markdown(out: Path, rows: Iterable[Row], about: str) -> Path:
    """datasets.md: the same for reading, beside the papers' numbers."""
    rows, paper = _ordered(rows), read_paper()
    lines = [f"# Datasets that are made from a recipe\n\n{about}\n\n{(__doc__ or '').strip()}\n"]
    if len({(row.seed, row.asked, row.commit, row.hardware) for row in rows}) > 1:
        lines.append(
            "These rows come from several calls: seed, size, commit and hardware of each "
            "are in datasets.csv.\n"
        )
    heads = (
        "task",
        "episodes",
        "steps",
        "return",
        "least, largest",
        "paper",
        "the paper's simulator",
        "win rate",
        "coverage",
        "unique",
    )
    lines += ["| " + " | ".join((*heads, "MB", "seconds")) + " |", "|---" * (len(heads) + 2) + "|"]
    for row in rows:
        printed = paper.get(row.task, {})
        theirs = [
            _spread(printed.get("mean", ""), printed.get("std", "")),
            printed.get("simulator", ""),
        ]
        if row.failed:
            cells = ["failed", "", row.failed.replace("|", "\\|"), "", *theirs, "", "", "", "", ""]
        else:
            cells = [
                f"{row.episodes:,}",
                f"{row.steps:,}",
                f"{row.return_mean:.2f} ± {row.return_std:.2f}",
                f"{row.return_min:.2f}, {row.return_max:.2f}",
                *theirs,
                "" if math.isnan(row.win_rate) else f"{row.win_rate:.3f}",
                f"{row.coverage:.3f}",
                f"{row.unique:.3f}",
                f"{row.device_mb:.1f}",
                f"{row.seconds:.1f}",
            ]
        lines.append("| " + " | ".join([row.task, *cells]) + " |")
    return write_text(out / "datasets.md", "\n".join(lines) + "\n")


def _spread(mean: str, std: str) -> str:
    if not mean:
        return ""
    return f"{float(mean):.2f} ± {float(std):.2f}" if std else f"{float(mean):.2f}"


# -------------------------------------------------------------------------------------------
# figures


def draw(out: Path, rows: Iterable[Row]) -> list[Path]:
    """A figure for each family, returns-FAMILY.png and .svg: a panel for each scenario, a violin
    for each of its datasets.
    """
    from jaxoff.report.figures import save, style

    families: dict[str, dict[str, list[str]]] = {}
    for row in _ordered(rows):
        if not row.failed and _returns_file(out, row.task).exists():
            task = Task.parse(row.task)
            families.setdefault(task.family, {}).setdefault(task.scenario, []).append(row.task)
    paths = []
    for family, scenarios in families.items():
        across = min(_COLUMNS, len(scenarios))
        down = -(-len(scenarios) // across)
        with style() as new_figure:
            figure = new_figure(figsize=(3.6 * across, 3.0 * down), layout="constrained")
            panels = figure.subplots(down, across, squeeze=False).ravel()
            for panel, (scenario, tasks) in zip(panels, scenarios.items(), strict=False):
                panel.violinplot(
                    [np.load(_returns_file(out, task)) for task in tasks],
                    showmeans=True,
                    widths=0.8,
                )
                panel.set_xticks(
                    np.arange(len(tasks)) + 1,
                    [Task.parse(task).quality for task in tasks],
                    rotation=60,
                    ha="right",
                )
                panel.set(title=f"{family}/{scenario}", ylabel="return")
            for panel in panels[len(scenarios) :]:
                panel.axis("off")
            paths += save(figure, out / f"returns-{family}")
    return paths
