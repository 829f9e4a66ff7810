"""CPU time of an update by agents, batch and length of windows, and memory by number of runs.

One run, in sequence, on one device, as `speed.py` times it; data are of random policies. One size
varies at a time, the others are those of the first row of a learner. Memory is what XLA plans for
all runs mapped together on one device: arguments, results and temporaries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxoff.experiments.bench import speed
from rich.console import Console
from rich.progress import track

from jaxoff import runtime
from jaxoff.files import write_text

RUNS = (1, 4, 16, 64)
BATTLE = {"window": 20, "batch_size": 32}
BASE = {
    "qmix": speed.Case("qmix", "smax/8m/random", BATTLE, 5, episodes=200),
    "inspo": speed.Case(
        "inspo", "smax/8m/random", {"window": 0, "batch_size": 256}, 5, "uniform", 200
    ),
    "omar": speed.Case("omar", "mpe/spread-n4/random", {"batch_size": 512}, 5, "uniform", 200),
}
BATTLES = {
    3: "smax/3m/random",
    5: "smax/2s3z/random",
    8: "smax/8m/random",
    10: "smax/10m_vs_11m/random",
}
SPREADS = {n: f"mpe/spread-n{n}/random" for n in (1, 2, 4, 5)}
BATCHES = (0.25, 0.5, 1.0, 2.0)  # of the batch of BASE
WINDOWS = (5, 10, 20, 40)  # steps


class Point(NamedTuple):
    """A measurement: what varies, its size, and CPU ms or, for runs, MB."""

    learner: str
    axis: str
    size: int
    value: float


def cases(learner: str) -> list[tuple[str, int, speed.Case]]:
    """The cases of a learner: what varies, its size, the case."""
    base = BASE[learner]
    tasks = SPREADS if base.task.startswith("mpe") else BATTLES
    batch = base.config["batch_size"]
    found = [("agents", n, dataclasses.replace(base, task=task)) for n, task in tasks.items()]
    for axis, name, sizes in (
        ("batch", "batch_size", [int(share * batch) for share in BATCHES]),
        ("window", "window", WINDOWS if base.config.get("window") else ()),
    ):
        found += [
            (axis, size, dataclasses.replace(base, config=base.config | {name: size}))
            for size in sizes
        ]
    return found


def run(out: Path, learners: Sequence[str] = tuple(BASE), runs: Sequence[int] = RUNS) -> list[Path]:
    """Measure, and write growth.md and growth.png/svg, also after each learner."""
    points: list[Point] = []
    made: list[Path] = []
    for learner in track(learners, "measuring", console=Console(stderr=True)):
        for axis, size, case in cases(learner):
            row = speed.measure(f"{learner} {axis} {size}", case, "sequence", 1)
            points.append(Point(learner, axis, size, row.cpu_ms))
        points += [Point(learner, "runs", count, planned(BASE[learner], count)) for count in runs]
        made = write(points, out)
    return made


def planned(case: speed.Case, runs: int) -> float:
    """MB that XLA plans for a number of runs mapped together."""
    spec = speed.spec_of(case, runs)
    ready = speed.prepare(spec, "vmap", case.updates, case.episodes)
    shared = ready.dataset, speed.count_of(ready, case.updates)
    return speed.planned_mb(speed.compiled(ready.program.chunk, ready.carried, shared)[0])


def write(points: Sequence[Point], out: Path) -> list[Path]:
    """The table and the curves."""
    title, rest = (__doc__ or "").strip().split("\n", 1)
    lines = [f"# {title.rstrip('.')}", ""]
    lines += [
        f"{runtime.hardware()}; jax {jax.__version__}; commit {runtime.git_commit()}; command "
        "`python -m jaxoff.experiments.bench growth`.",
        *rest.rstrip().split("\n"),
        "",
    ]
    for learner in dict.fromkeys(point.learner for point in points):
        base = BASE[learner]
        settings = ", ".join(f"{name} {value}" for name, value in base.config.items())
        lines += [f"## {learner} on {base.task}, {settings}", ""]
        lines += ["| what varies | size | CPU ms per update, or MB |", "|---|---|---|"]
        lines += [
            f"| {p.axis} | {p.size} | {p.value:.1f} {'MB' if p.axis == 'runs' else 'ms'} |"
            for p in points
            if p.learner == learner
        ] + [""]
    page = write_text(out / "growth.md", "\n".join(lines).rstrip() + "\n")
    return [page, *draw(points, out / "growth")]


def draw(points: Sequence[Point], stem: Path) -> list[Path]:
    """A panel for each size that varies; a dotted line grows in proportion."""
    from jaxoff.report.figures import looks, save, style

    axes = list(dict.fromkeys(point.axis for point in points))
    learners = list(dict.fromkeys(point.learner for point in points))
    look: Any = looks(learners)
    with style() as new_figure:
        figure = new_figure(figsize=(3.0 * len(axes), 2.8), layout="constrained")
        for panel, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
            for learner in learners:
                found = [p for p in points if (p.learner, p.axis) == (learner, axis)]
                if not found:
                    continue
                sizes, first = [p.size for p in found], found[0]
                panel.plot(sizes, [p.value for p in found], label=learner, **look[learner])
                line = [first.value * size / first.size for size in sizes]
                panel.plot(sizes, line, color="0.7", linestyle=":", zorder=0)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set(xlabel=axis, title="MB planned" if axis == "runs" else "CPU ms per update")
        figure.axes[0].legend()
        return save(figure, stem)
