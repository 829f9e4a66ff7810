"""Ways to train a behaviour policy on a battle, each measured apart on smax/5m_vs_6m.

Every way is a whole training of the same number of environment steps: MAPPO with the settings of
the first row, of which the others change what their name says. The learning rate falls to zero over
these steps. The script of the allies is cloned for a quarter of them, and imitated beside the
surrogate until 0.6 of them. Weak enemies start battles with 0.8 of their health, for the first
0.4 of the steps. Wins are those of 512 battles against enemies of full health, played by sampling,
at 20 moments of training. CPU minutes are of the whole training, with compilation and these
battles.
"""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.progress import track

from jaxoff import registry, runtime
from jaxoff.config import resolve_config
from jaxoff.envs.smax.env import make_smax
from jaxoff.files import write_text
from jaxoff.names import Task
from jaxoff.training.on_policy import train_on_policy
from jaxoff.types import Key

SCENARIO, SEED, BATTLES = "smax/5m_vs_6m", 0, 512
BASE = {"iterations": 400, "snapshots": 20, "clone": 0.25, "imitation": 0.1, "imitation_until": 0.6}
ALONE = {"clone": 0.0, "imitation": 0.0}
WAYS: dict[str, dict[str, Any]] = {
    "units, script cloned and imitated": {},
    "no script": ALONE,
    "script only cloned": {"imitation": 0.0},
    "two layers": {"units": False, "hidden": 128},
    "two layers, no script": {"units": False, "hidden": 128} | ALONE,
    "two epochs": {"epochs": 2},
    "512 environments, two epochs": {"num_envs": 512, "iterations": 100, "epochs": 2},
    "memory": {"units": False, "recurrent": True, "hidden": 128, "head": 0.0},
    "weak enemies": {},
    "weak enemies, no script": ALONE,
}
WEAK, WEAK_SHARE = 0.8, 0.4  # of the enemies' health, and of the training


class Point(NamedTuple):
    """Wins at one moment of a training."""

    way: str
    steps: int
    cpu_minutes: float
    wins: float
    commit: str


class _WeakEnemies:
    """A battle whose enemies start without a part of their health."""

    def __init__(self, game: Any) -> None:
        self.game = game

    def __getattr__(self, name: str) -> Any:
        return getattr(self.game, name)

    def start(self, key: Key) -> Any:
        state = self.game.start(key)
        battle = state.state
        health = battle.unit_health.at[self.game.num_allies :].multiply(WEAK)
        return state.replace(state=battle.replace(unit_health=health))


def run(out: Path, ways: Sequence[str] = tuple(WAYS), base: dict[str, Any] = BASE) -> list[Path]:
    """Train by each way that the table lacks, and write the table after each of them.

    A training that was killed goes on from its last moment.
    """
    path = out / "teaching.csv"
    points = _read(path) if path.is_file() else []
    made: list[Path] = []
    for way in track(ways, "training", console=Console(stderr=True)):
        if way not in {point.way for point in points}:
            points += trained(way, base | WAYS[way], out)
        made = write(points, out)
    return made


def trained(way: str, overrides: dict[str, Any], out: Path) -> list[Point]:
    """Train by one way."""
    env = make_smax(*SCENARIO.split("/"))
    module = registry.online_learner("mappo")
    config = resolve_config(module, Task.parse(f"{SCENARIO}/pool"), overrides)
    weak = copy.copy(env)
    weak.game = _WeakEnemies(env.game)
    kept = out / f".teaching-{way.replace(' ', '-')}.unfinished.npz"
    snapshots = train_on_policy(
        module.make(config, env.spec, env.script),
        env,
        seed=SEED,
        num_envs=config.num_envs,
        segment=config.segment,
        iterations=config.iterations,
        snapshots=config.snapshots,
        eval_episodes=BATTLES,
        easier=weak if "weak" in way else None,
        easier_share=WEAK_SHARE,
        resume=kept,
    )
    points = [
        Point(
            way,
            snapshot.env_steps,
            round(snapshot.cpu_s / 60, 2),
            round(float(snapshot.evaluation["won"].mean()), 4),
            runtime.git_commit(),
        )
        for snapshot in snapshots
    ]
    kept.unlink()
    return points


def _read(path: Path) -> list[Point]:
    with path.open(newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [
            Point(
                row["way"],
                int(row["steps"]),
                float(row["cpu_minutes"]),
                float(row["wins"]),
                row["commit"],
            )
            for row in rows
        ]


def write(points: Sequence[Point], out: Path) -> list[Path]:
    """teaching.csv with all points, teaching.md with a row for each way, and their curves."""
    about = (
        f"{runtime.hardware()}; jax {jax.__version__}; seed {SEED}; command "
        "`python -m jaxoff.experiments.bench teaching`"
    )
    text = io.StringIO()
    text.write(f"# {about}\n")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerows([Point._fields, *points])
    title, rest = (__doc__ or "").strip().split("\n", 1)
    lines = [f"# {title.rstrip('.')}", "", f"{about}.", *rest.rstrip().split("\n"), ""]
    heads = ["way", "steps", "CPU minutes", "wins at the end", "most wins"]
    heads += [".25 by", ".5 by", "commit"]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for way in dict.fromkeys(point.way for point in points):
        found = [point for point in points if point.way == way]
        last, most = found[-1], max(point.wins for point in found)
        by = [_reached(found, share) for share in (0.25, 0.5)]
        lines += [
            f"| {way} | {last.steps:,} | {last.cpu_minutes:.1f} | {last.wins:.2f} | {most:.2f} | "
            f"{by[0]} | {by[1]} | {last.commit} |"
        ]
    missing = [way for way in WAYS if way not in {point.way for point in points}]
    if missing:
        lines += ["", f"Not trained yet: {'; '.join(missing)}."]
    return [
        write_text(out / "teaching.csv", text.getvalue()),
        write_text(out / "teaching.md", "\n".join(lines) + "\n"),
        *draw(points, out / "teaching"),
    ]


def _reached(points: Sequence[Point], share: float) -> str:
    """The steps and CPU minutes at which a share of the battles was first won."""
    first = next((point for point in points if point.wins >= share), None)
    return f"{first.steps:,} ({first.cpu_minutes:.1f} min)" if first else "no"


def draw(points: Sequence[Point], stem: Path) -> list[Path]:
    """Wins by steps, and by CPU minutes."""
    from jaxoff.report.figures import looks, save, style

    ways = list(dict.fromkeys(point.way for point in points))
    look: Any = looks(ways)
    with style() as new_figure:
        figure = new_figure(figsize=(7.5, 3.2), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for way in ways:
            found = [point for point in points if point.way == way]
            wins = [point.wins for point in found]
            panels[0].plot([p.steps / 1e6 for p in found], wins, label=way, **look[way])
            panels[1].plot([p.cpu_minutes for p in found], wins, **look[way])
        panels[0].set(xlabel="million environment steps", ylabel="battles won", ylim=(0, None))
        panels[1].set(xlabel="CPU minutes")
        figure.legend(loc="outside lower center", ncols=2)
        return save(figure, stem)
