"""Ways to train a behaviour policy on a battle, each measured apart on smax/5m_vs_6m.

Every way is a whole training by MAPPO, with the same number of environment steps. The first row
has the settings of this map's pool but for what is named here, and every other row changes what
its name says. The learning rate falls to zero over the steps. The script of the allies is cloned
for a quarter of the steps, and imitated beside the surrogate until 0.6 of them. Weak enemies
start their battles with 0.8 of their health, during the first 0.4 of the steps. At 20 moments of
a training, 512 battles are played by sampling, against enemies of full health. CPU minutes are
those of the whole training, with compilation and these battles.
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
WEAK, WEAK_SHARE = 0.8, 0.4  # share of their health that weak enemies have; share of the training


class Way(NamedTuple):
    """How a training differs from that with the settings of BASE."""

    settings: dict[str, Any]
    weak_enemies: bool = False


WAYS = {
    "units, script cloned and imitated": Way({}),
    "no script": Way(ALONE),
    "script only cloned": Way({"imitation": 0.0}),
    "two layers": Way({"units": False, "hidden": 128}),
    "two layers, no script": Way({"units": False, "hidden": 128} | ALONE),
    "clip of 0.05": Way({"clip": 0.05}),
    "clip of 0.1": Way({"clip": 0.1}),
    "two epochs": Way({"epochs": 2}),
    "512 environments, two epochs": Way({"num_envs": 512, "iterations": 100, "epochs": 2}),
    "memory": Way({"units": False, "recurrent": True, "hidden": 128, "head": 0.0}),
    "units with a memory": Way({"recurrent": True}),
    "weak enemies": Way({}, weak_enemies=True),
    "weak enemies, no script": Way(ALONE, weak_enemies=True),
}


class Point(NamedTuple):
    """Wins at one moment of a training."""

    way: str
    steps: int
    cpu_minutes: float
    wins: float
    machine: str  # hardware, and the version of JAX
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


def run(out: Path, ways: Sequence[str] = tuple(WAYS)) -> list[Path]:
    """Train by each way that the table lacks, and write the table after each of them.

    A training that was killed goes on from its last snapshot, which is kept beside the table.
    """
    path = out / "teaching.csv"
    points = _read(path) if path.is_file() else []
    made: list[Path] = []
    for way in track(ways, "training", console=Console(stderr=True)):
        kept = out / f".teaching-{way.replace(' ', '-')}.unfinished.npz"
        if way not in {point.way for point in points}:
            points += trained(way, kept)
        made = write(points, out)
        kept.unlink(missing_ok=True)
    return made


def trained(way: str, kept: Path) -> list[Point]:
    """The wins in the course of a training; `kept` is its file of snapshots."""
    env, module = make_smax(*SCENARIO.split("/")), registry.online_learner("mappo")
    task = Task.parse(f"{SCENARIO}/pool")
    config = resolve_config(module, task, BASE | WAYS[way].settings)
    weak = copy.copy(env)
    weak.game = _WeakEnemies(env.game)
    snapshots = train_on_policy(
        module.make(config, env.spec, env.script),
        env,
        seed=SEED,
        num_envs=config.num_envs,
        segment=config.segment,
        iterations=config.iterations,
        snapshots=config.snapshots,
        eval_episodes=BATTLES,
        easier=weak if WAYS[way].weak_enemies else None,
        easier_share=WEAK_SHARE,
        resume=kept,
    )
    machine = f"{runtime.hardware()}; jax {jax.__version__}"
    return [
        Point(
            way,
            snapshot.env_steps,
            round(snapshot.cpu_s / 60, 2),
            round(float(snapshot.evaluation["won"].mean()), 4),
            machine,
            runtime.git_commit(),
        )
        for snapshot in snapshots
    ]


def _read(path: Path) -> list[Point]:
    with path.open(newline="") as file:
        return [
            Point(
                row["way"],
                int(row["steps"]),
                float(row["cpu_minutes"]),
                float(row["wins"]),
                row["machine"],
                row["commit"],
            )
            for row in csv.DictReader(file)
        ]


def write(points: Sequence[Point], out: Path) -> list[Path]:
    """teaching.csv with all points, teaching.md with a row for each way, and their curves."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerows([Point._fields, *points])
    title, rest = (__doc__ or "").strip().split("\n", 1)
    machines = " and ".join(dict.fromkeys(point.machine for point in points))
    lines = [f"# {title.rstrip('.')}", ""]
    lines += [
        f"{machines}; seed {SEED}; command `python -m jaxoff.experiments.bench teaching`.",
        *rest.rstrip().split("\n"),
        "",
    ]
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
