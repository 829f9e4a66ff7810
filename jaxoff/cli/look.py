"""The commands `jaxoff data inspect` and `credit`: what is in a dataset, and who in it was good."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.bar import Bar
from rich.table import Column, Table

from jaxoff import runtime
from jaxoff.cli.common import console
from jaxoff.cli.data import check_read, data_app, find_data, options_of, shown
from jaxoff.files import check_writable_file

if TYPE_CHECKING:
    import numpy as np

    from jaxoff.types import EnvSpec, Episodes


@data_app.command(name="inspect")
def data_inspect(
    task: tyro.conf.Positional[str],
    /,
    data: Path | None = None,
    episodes: int | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    pools: Path | None = None,
    out: Path = Path("results/data"),
) -> None:
    """What is in a dataset: returns, wins, lengths, coverage, copies, behaviour, actions; as a
    table and a picture.

    Args:
        task: [source:]family/scenario/quality, or a dataset folder.
        data: a dataset folder written by `jaxoff data make`, used instead of the task's own data.
        episodes: number of episodes in the dataset, for a task with a recipe.
        seed: random seed of the dataset, for a task with a recipe.
        data_dir: folder of public datasets, for a task with a source.
        pools: folder of policy pools, searched before the pools that come with the library.
        out: folder for the pictures, .png and .svg.
    """
    check_writable_file(out / "x")
    runtime.setup()
    from jaxoff.data import inspect
    from jaxoff.data.episodes import returns_of

    options = options_of(data_dir, pools, episodes, seed)
    check_read([task], options, data)
    found = find_data(task, options, data)
    table = Table("", task)
    for name, value in inspect.describe(found.episodes, found.spec, found.won).items():
        table.add_row(name.replace("_", " "), _short(name, value))
    console.print(table)
    console.print(_histogram(returns_of(found.episodes)))
    for path in inspect.plot(found.episodes, found.spec, out / f"{found.slug}.png"):
        console.print(f"picture: {path}", soft_wrap=True)


@data_app.command(name="credit")
def data_credit(
    task: tyro.conf.Positional[str],
    /,
    data: Path | None = None,
    episodes: int | None = None,
    seed: int = 0,
    steps: int = 20000,
    lr: float = 1e-4,
    members: int = 5,
    held_out: float = 0.1,
    trim: float = 0.0,
    one_type: bool = False,
    data_dir: Path | None = None,
    pools: Path | None = None,
    out: Path = Path("results/data"),
) -> None:
    """Who in the team was good: decompose the team reward into a reward for each agent, and judge
    the trajectory of every agent in every episode by it.

    Args:
        task: [source:]family/scenario/quality, or a dataset folder.
        data: a dataset folder written by `jaxoff data make`, used instead of the task's own data.
        episodes: number of episodes in the dataset, for a task with a recipe.
        seed: random seed of the fit, and of the dataset for a task with a recipe.
        steps: number of updates of the fit.
        lr: learning rate of the fit.
        members: number of models in the ensemble; their disagreement is the uncertainty.
        held_out: fraction of the episodes that is held out of the fit.
        trim: fraction of the priorities of each agent type that is clipped at each tail, before
            priorities are rescaled and become sampling probabilities.
        one_type: compare all agents with each other, instead of only agents of the same type.
        data_dir: folder of public datasets, for a task with a source.
        pools: folder of policy pools, searched before the pools that come with the library.
        out: folder for the files TASK-credit.csv, .png and .svg.
    """
    check_writable_file(out / "x")
    runtime.setup()
    from jaxoff.learners import credit
    from jaxoff.report import credit as report

    settings = credit.Settings(
        steps=steps, lr=lr, members=members, held_out=held_out, priority_trim=trim
    )
    credit.check_settings(settings, seed)
    options = options_of(data_dir, pools, episodes, seed)
    check_read([task], options, data, seeded=False)
    whole = find_data(task, options, data)
    with shown(f"credit {task}", "updates") as progress:

        def tell(done: int, total: int, metrics: dict[str, float]) -> None:
            progress(done * steps // total, steps, f"R² {metrics['r2']:.3f}")

        found = credit.judge(
            whole.episodes, whole.spec, settings, seed=seed, one_type=one_type, progress=tell
        )
    spec = dataclasses.replace(whole.spec, type_names=()) if one_type else whole.spec
    _print_credit(found, whole.episodes, spec, task)
    stem = out / f"{whole.slug}-credit"
    report.write_trajectories(found, whole.episodes, stem.with_name(f"{stem.name}.csv"))
    for path in [
        stem.with_name(f"{stem.name}.csv"),
        *report.draw(found, stem, spec, title=task),
    ]:
        console.print(f"written: {path}", soft_wrap=True)


def _print_credit(found: Any, episodes: Episodes, spec: EnvSpec, title: str) -> None:
    """Print what `learners.credit.judge` found: a line per agent, and the resulting draws."""
    import numpy as np

    from jaxoff.learners import credit
    from jaxoff.report.credit import kind_of

    head = ["own reward a step", "rank", "agree", "priority", "share of draws", "of data"]
    several = len(set(found.types)) > 1
    table = Table("agent", *(["kind"] * several), *head, title=title)
    for row in credit.by_agent(found):
        kind = [kind_of(row.type, spec)] * several
        reward = f"{row.reward:.4g} ± {row.reward_std:.2g}"
        shares = f"{row.drawn:.1%}", f"{row.data:.1%}"
        numbers = str(row.rank), f"{row.agreement:.0%}", f"{row.priority:.4g}"
        table.add_row(str(row.agent), *kind, reward, *numbers, *shares)
    console.print(table)
    told = "Rank: among agents of its kind. Agree: share of the ensemble that gives this rank."
    console.print(told, highlight=False)
    for level in credit.by_level(found, np.asarray(episodes.behaviour_level)):
        shares_of = (
            f"{level['data']:.1%} of the trajectories, {level['drawn']:.1%} of the draws, "
            f"priority {level['priority']:.4g}"
        )
        kind_name = kind_of(int(level["type"]), spec) if several else "all agents"
        console.print(
            f"{kind_name}, behaviour level {level['level']:.0f}: {shares_of}", highlight=False
        )
    for number, few, count in credit.effective_draws(found):
        kind_name = kind_of(number, spec) if several else "all agents"
        console.print(
            f"{kind_name}: draws fall on about {few:.0f} of {count:,} trajectories",
            highlight=False,
        )
    console.print(
        f"R² of the team's reward: {found.r2:.3f}; on {int(found.held_out.sum())} held-out "
        f"episodes {found.r2_held_out:.3f}"
    )


def _short(name: str, value: Any) -> str:
    if name == "behaviour_levels":
        return "\n".join(
            f"agent {agent}: "
            + ", ".join(
                f"{'unknown' if k < 0 else k} {v / sum(level.values()):.1%}"
                for k, v in level.items()
            )
            for agent, level in enumerate(value)
        )
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):  # one line per agent
        return "\n".join(
            ", ".join(f"{item:,}" if isinstance(item, int) else f"{item:.3g}" for item in agent)
            for agent in value
        )
    return f"{value:,}"


def _histogram(values: np.ndarray, bins: int = 12) -> Table:
    """Counts of values as bars of block characters; values far from the others share a row."""
    import numpy as np

    from jaxoff.eval.statistics import bin_edges

    values = np.round(values, 6)
    edges, _ = bin_edges(values, bins if np.ptp(values) > 0 else 1)
    rows = [
        (f"{low:.4g} to {high:.4g}", int(count))
        for count, low, high in zip(
            np.histogram(values, edges)[0], edges[:-1], edges[1:], strict=True
        )
    ]
    if np.ptp(values) == 0:
        rows = [(f"{values[0]:.4g}", values.size)]
    elif edges[0] > values.min() or edges[-1] < values.max():
        below = (f"below {edges[0]:.4g}", int((values < edges[0]).sum()))
        above = (f"above {edges[-1]:.4g}", int((values > edges[-1]).sum()))
        rows = [row for row in (below, *rows, above) if row in rows or row[1]]
    table = Table(Column("return", justify="right"), "", Column("episodes", justify="right"))
    most = max(count for _, count in rows)
    for name, count in rows:
        table.add_row(name, Bar(most, 0, count, width=36), f"{count:,}")
    return table
