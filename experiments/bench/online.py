"""Return of the online methods against environment steps and CPU minutes.

Each method trains with its settings of baselines/settings.toml, one seed, until its budget of
CPU minutes is spent, bound to one core (`taskset -c 0`), so that other programs on the machine
change wall time alone. Returns are those of the policy that data are made with; minutes include
compilation and evaluations.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxoff import registry, runtime
from jaxoff.config import resolve_config
from jaxoff.data.worlds import check_pooled
from jaxoff.files import write_text
from jaxoff.names import Task
from jaxoff.training.on_policy import train_on_policy

EPISODES = 16
MARKS = (2, 5, 10, 15, 20, 30, 60)  # CPU minutes that have a column of the page


class Point(NamedTuple):
    """The policy of a method after so many steps and minutes."""

    task: str
    method: str
    steps: int
    minutes: float
    return_mean: float


def trained(task: str, method: str, seed: int, minutes: float) -> Iterator[Point]:
    """The policies of one training, until it ends or the CPU minutes are spent."""
    begin = time.process_time()
    module, env = registry.online_learner(method), check_pooled(task).env()
    config = resolve_config(module, Task.parse(f"{task}/pool"), {})
    names = ("num_envs", "segment", "iterations", "snapshots")
    sizes: dict[str, Any] = {name: getattr(config, name) for name in names}
    learner = module.make(config, env.spec)
    for found in train_on_policy(learner, env, seed=seed, eval_episodes=EPISODES, **sizes):
        spent = (time.process_time() - begin) / 60
        yield Point(task, method, found.env_steps, spent, float(found.evaluation["returns"].mean()))
        if spent > minutes:
            return


def markdown(points: Sequence[Point], goal: float, command: str) -> str:
    """The page: the best return up to each mark, and when the goal was reached."""
    title, rest = (__doc__ or "").strip().split("\n", 1)
    marks = [mark for mark in MARKS if mark <= max(point.minutes for point in points)]
    about = f"{runtime.hardware()}; jax {jax.__version__}; commit {runtime.git_commit()}"
    lines = [f"# {title.rstrip('.')}", "", f"{about}; command `{command}`.", ""]
    lines += [*rest.strip().split("\n"), ""]
    heads = [*(f"{mark} min" for mark in marks), "last", "steps", "CPU min"]
    heads = ["task", "method", *heads, f"return {goal:,.0f} after"]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for task, method in dict.fromkeys((point.task, point.method) for point in points):
        own = [point for point in points if (point.task, point.method) == (task, method)]
        cells = []
        for mark in marks:
            until = [point for point in own if point.minutes <= mark]
            cells.append(f"{until[-1].return_mean:,.0f}" if own[-1].minutes >= mark else "")
        there = next((point for point in own if point.return_mean >= goal), None)
        cells += [f"{own[-1].return_mean:,.0f}", f"{own[-1].steps:,}", f"{own[-1].minutes:.1f}"]
        cells.append(
            "not reached"
            if there is None
            else f"{there.minutes:.1f} CPU min, {there.steps:,} steps"
        )
        lines.append(f"| {' | '.join([task, method, *cells])} |")
    return "\n".join(lines) + "\n"


def run(
    task: str, methods: Sequence[str], seed: int, minutes: float, goal: float, out: Path
) -> Path:
    """Train each method, and write online.csv and online.md after each policy."""
    command = (
        f"taskset -c 0 python -m jaxoff.experiments.bench.online {task} --methods "
        f"{' '.join(methods)} --seed {seed} --minutes {minutes:g} --goal {goal:g}"
    )
    points: list[Point] = []
    for method in methods:
        for point in trained(task, method, seed, minutes):
            points.append(point)
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([Point._fields, *points])
            write_text(out / "online.csv", text.getvalue())
            write_text(out / "online.md", markdown(points, goal, command))
    return out / "online.md"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("task", help="family/scenario, such as mamujoco/halfcheetah-2x3")
    parser.add_argument("--methods", nargs="+", default=["mappo", "matd3"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU minutes of each method")
    parser.add_argument("--goal", type=float, default=3000.0, help="a return to reach")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    runtime.setup()
    print(run(given.task, given.methods, given.seed, given.minutes, given.goal, given.out))


if __name__ == "__main__":
    main()
