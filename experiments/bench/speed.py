"""Updates per second of each learner by number of runs and by how runs share the machine.

sequence: one after the other on one device. vmap: batched on one device. sharded: spread over every
device, each mapping its own as `train` would. Timed: chunks of updates as training makes them,
sampling included and evaluation left out, after one warm-up; the fastest of three. Bytes are what
XLA plans for the program: arguments, results and temporaries.

CPU time is that of all threads of the process, so that figures from a machine with other work
compare. Operations are the multiplications and additions of an update's matrix products, with loops
counted as often as they run (hlo.py) and, of programs for several lengths of a block, the longest.
The limit is the rate of products of 1024 x 1024 matrices, timed between the chunks of each row.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxoff.experiments.bench import hlo
from rich.console import Console
from rich.progress import track

from jaxoff import registry, runtime
from jaxoff.data.dataset import place
from jaxoff.files import write_text
from jaxoff.names import DataOptions
from jaxoff.training import TrainSpec, mapping
from jaxoff.training.program import Program
from jaxoff.training.restore import empty_state
from jaxoff.training.spec import Job, fitted, resolve
from jaxoff.types import Env, Episodes

RUNS = (1, 4, 16)
RUNS_ACCELERATOR = (*RUNS, 64, 128, 256, 512, 1024)
REPEATS = 3
SIDE, PRODUCTS = 1024, 8  # size of the matrices whose products are timed, and their number
_OPERATIONS: dict[str, float] = {}  # learner -> operations of an update, counted once


@dataclasses.dataclass(frozen=True)
class Case:
    """A learner on a task at the sizes of the embedded suite; `updates` of a timed chunk.

    episodes: of the dataset; None: as many as the task has by default.
    """

    method: str
    task: str
    config: dict[str, Any]
    updates: int
    sampler: str = "uniform"
    episodes: int | None = None


CASES = {
    "bc": Case("bc", "grid/bridge/mixed", {"hidden": 64}, 200),
    "bc (GRU)": Case(
        "bc",
        "grid/bridge/optimal",
        {"hidden": 64, "recurrent": True, "window": -1, "batch_size": 32},
        20,
    ),
    "maddpg": Case("maddpg", "poly/twin_peaks/peak-s0.5", {"batch_size": 32}, 2000),
    "maddpg+pjap": Case("maddpg", "poly/twin_peaks/peak-s0.5", {"batch_size": 32}, 500, "pjap"),
    "inspo": Case("inspo", "grid/bridge/mixed", {"hidden": 64, "window": 0, "batch_size": 256}, 30),
    "alberdice": Case(
        "alberdice", "grid/bridge/mixed", {"hidden": 64, "batch_size": 256, "window": 0}, 30
    ),
    "omiga": Case("omiga", "grid/bridge/mixed", {"hidden": 64, "batch_size": 256}, 40),
    "cfcql": Case("cfcql", "grid/bridge/mixed", {"hidden": 64, "window": -1, "batch_size": 16}, 40),
    "omar": Case(
        "omar",
        "grid/bridge/mixed",
        {"hidden": 64, "critic_hidden": 64, "window": -1, "batch_size": 16},
        40,
    ),
    "omar (continuous)": Case("omar", "mpe/spread/medium", {}, 20),
    "cql (continuous)": Case("cql", "mpe/spread/medium", {}, 20),
    "td3bc": Case("td3bc", "mpe/spread/medium", {}, 50),
    "qmix": Case("qmix", "grid/bridge/mixed", {"hidden": 64, "window": -1, "batch_size": 16}, 40),
    "macql": Case("macql", "grid/bridge/mixed", {"hidden": 64, "window": -1, "batch_size": 16}, 40),
    "bcq": Case("bcq", "grid/bridge/mixed", {"hidden": 64, "window": -1, "batch_size": 16}, 40),
    "madt": Case("madt", "grid/bridge/mixed", {"batch_size": 256}, 20),
    "yanhui": Case(
        "yanhui",
        "grid/bridge/mixed",
        {"batch_size": 512, "anchors": 256, "return_low": -10.0, "return_high": -1.0},
        10,
    ),
    "icq": Case("icq", "grid/bridge/mixed", {"hidden": 64, "window": -1, "batch_size": 16}, 40),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement."""

    learner: str
    task: str
    way: str
    runs: int
    updates_per_s: float  # of all runs together
    compile_s: float
    program_mb: float
    operations: float  # of the matrix products of an update of one run
    cpu_ms: float  # CPU time of an update of one run
    limit_gflops: float  # operations per nanosecond of CPU time in products of large matrices

    @property
    def gflops(self) -> float:
        """Operations per nanosecond of CPU time."""
        return 1e-6 * self.operations / self.cpu_ms


def ways() -> dict[str, tuple[list[Any], str]]:
    """How runs may share the machine: devices and mode."""
    devices = jax.devices()
    found = {"sequence": (devices[:1], "sequence"), "vmap": (devices[:1], "vmap")}
    if len(devices) > 1:
        found["sharded"] = (devices, mapping.choose_mode(devices[0].platform))
    return found


class Ready(NamedTuple):
    """A job whose runs are about to train: what to compile and what to call it with.

    `carried` is given up to the first chunk.
    """

    job: Job
    env: Env
    mesh: Mesh
    mode: str
    dataset: Any
    program: Program  # of the last stage
    carried: Any


@functools.lru_cache(maxsize=1)
def episodes_of(task: str, episodes: int | None = None) -> Episodes:
    """The data of a task; those of the last one are kept."""
    return registry.make_data(task, DataOptions(episodes=episodes))


def prepare(spec: TrainSpec, way: str, updates: int, episodes: int | None = None) -> Ready:
    """The runs of a job, on the devices of a way, at the start of its last stage; `updates` of a
    chunk, `episodes` of the data.
    """
    devices, mode = ways()[way]
    data = episodes_of(spec.task, episodes)
    job, env = fitted(resolve(spec), data), registry.make_env(spec.task)
    mesh = mapping.run_mesh(job.num_runs, devices)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    dataset = place(data, env.spec, sharding=sharding)
    carried = mapping.to_devices((job.config, empty_state(job)), mesh)
    for index in range(len(job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec))):
        program = Program(job, env, index, updates, mesh, mode, evaluates=False)
        carried = program.prepare(carried[:2], dataset)
    return Ready(job, env, mesh, mode, dataset, program, carried)


def count_of(ready: Ready, updates: int) -> jax.Array:
    """A number of updates on the devices of a way."""
    sharding = jax.sharding.NamedSharding(ready.mesh, jax.sharding.PartitionSpec())
    return jax.device_put(np.int32(updates), sharding)


def compiled(function: Any, carried: Any, shared: Any) -> tuple[Any, float]:
    """A function of a program, compiled, and how long that took."""
    begin = time.perf_counter()
    return function.lower(carried, shared).compile(), time.perf_counter() - begin


class Times(NamedTuple):
    """Seconds of the fastest of some calls, the CPU-seconds of the one that took fewest, and those
    of products of matrices beside them for an operation.
    """

    wall: float
    cpu: float
    operation: float


def fastest(call: Callable[[Any], Any], carried: Any) -> tuple[Any, Times]:
    """What the last of some calls of carried -> carried gave, and their times; the first is a
    warm-up, and not counted.
    """
    matrix = jnp.ones((SIDE, SIDE))
    products = jax.jit(lambda x: jax.lax.fori_loop(0, PRODUCTS, lambda _, y: x @ y, x))
    rows = []
    for _ in range(REPEATS + 1):
        carried, *spent = timed(call, carried)
        rows.append((*spent, timed(products, matrix)[2] / (2 * PRODUCTS * SIDE**3)))
    return carried, Times(*map(min, zip(*rows[1:], strict=True)))


def timed(call: Callable[[Any], Any], value: Any) -> tuple[Any, float, float]:
    """call(value), its seconds, and its CPU-seconds."""
    begin, cpu = time.perf_counter(), time.process_time()
    out = jax.block_until_ready(call(value))
    return out, time.perf_counter() - begin, time.process_time() - cpu


def measure(name: str, case: Case, way: str, runs: int) -> Row:
    """Compile and time one case."""
    ready = prepare(spec_of(case, runs), way, case.updates, case.episodes)
    shared = ready.dataset, count_of(ready, case.updates)
    chunk, compile_s = compiled(ready.program.chunk, ready.carried, shared)
    carried, best = fastest(lambda carried: chunk(carried, shared)[0], ready.carried)
    made = mapping.padded(runs, ready.mesh)
    if name not in _OPERATIONS:
        _OPERATIONS[name] = _operations(
            ready.job, ready.env, ready.program.index, ready.dataset, carried
        )
    return Row(
        name,
        case.task,
        way,
        runs,
        made * case.updates / best.wall,
        compile_s,
        planned_mb(chunk),
        _OPERATIONS[name],
        1e3 * best.cpu / (made * case.updates),
        1e-9 / best.operation,
    )


def spec_of(case: Case, runs: int) -> TrainSpec:
    """The job of a case with a number of seeds."""
    seeds = tuple(range(runs))
    return TrainSpec(case.method, case.task, seeds, case.config, size="paper", sampler=case.sampler)


def planned_mb(program: Any) -> float:
    """MB that XLA plans for a compiled program: arguments, results and temporaries."""
    memory = program.memory_analysis()
    planned = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return planned / 1e6


def _operations(job: Any, env: Any, stage: int, dataset: Any, carried: Any) -> float:
    """Operations of the matrix products of one update of one run, sampling included."""
    program = Program(
        job, env, stage, 1, mapping.run_mesh(1, jax.devices()[:1]), "sequence", evaluates=False
    )
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), carried[:2])
    text = jax.jit(program._chunk).lower(one, (dataset, np.int32(1))).compile().as_text()
    return hlo.Program(text or "").update().products


def run(out: Path, names: Sequence[str], counts: Sequence[int]) -> list[Path]:
    """Measure, and write speed.csv, speed.md and speed.png/svg."""
    plan = [(name, way, runs) for name in names for way in ways() for runs in counts]
    rows = [
        measure(name, CASES[name], way, runs)
        for name, way, runs in track(plan, "measuring", console=Console(stderr=True))
    ]
    return write(rows, out)


def write(rows: Sequence[Row], out: Path) -> list[Path]:
    """The table in two forms, and the curves."""
    about = (
        f"{runtime.hardware()}; jax {jax.__version__}; commit {runtime.git_commit()}; "
        "command `make bench`"
    )
    fields = [field.name for field in dataclasses.fields(Row)]
    stream = io.StringIO()
    stream.write(f"# {about}\n")
    writer = csv.writer(stream)
    writer.writerow(fields)
    writer.writerows(
        [
            [f"{v:.4g}" if isinstance(v, float) else v for v in dataclasses.astuple(row)]
            for row in rows
        ]
    )
    write_text(out / "speed.csv", stream.getvalue())
    counts = sorted({row.runs for row in rows})
    found = {(row.learner, row.way, row.runs): row for row in rows}
    lines = [
        f"# Updates per second, all runs together\n\n{about}\n\n"
        f"{__doc__.split(chr(10), 2)[2].strip()}\n"
    ]
    lines.append(
        "| learner | task | way | "
        + " | ".join(f"{count} run{'s'[: count > 1]}" for count in counts)
        + " | compile s | program MB, most runs | CPU ms per update, most runs | million operations"
        " per update | GFLOP/s per CPU-second | share of the limit |"
    )
    lines.append("|---" * (len(counts) + 9) + "|")
    for learner, way in dict.fromkeys((row.learner, row.way) for row in rows):
        group = [found[learner, way, count] for count in counts]
        speeds = " | ".join(f"{row.updates_per_s:,.0f}" for row in group)
        compile_s = f"{min(r.compile_s for r in group):.1f}–{max(r.compile_s for r in group):.1f}"
        most = group[-1]
        cost = (
            f"{most.program_mb:.1f} | {most.cpu_ms:.3g} | {1e-6 * most.operations:,.1f} | "
            f"{most.gflops:.1f} | {most.gflops / most.limit_gflops:.0%}"
        )
        lines.append(f"| {learner} | {group[0].task} | {way} | {speeds} | {compile_s} | {cost} |")
    write_text(out / "speed.md", "\n".join(lines) + "\n")
    return [out / "speed.csv", out / "speed.md", *draw(rows, out / "speed")]


def draw(rows: Sequence[Row], stem: Path) -> list[Path]:
    """Updates per second over the number of runs, a panel per learner, four in a row."""
    from jaxoff.report.figures import add_legend, columns_of, looks, panels_of, save, style

    learners, kinds = (
        list(dict.fromkeys(row.learner for row in rows)),
        list(dict.fromkeys(row.way for row in rows)),
    )
    look = looks(kinds)
    with style() as new_figure:
        figure, panels = panels_of(new_figure, len(learners), (2.7, 2.2))
        lines: dict[str, Any] = {}
        for panel, learner in zip(panels, learners, strict=True):
            for way in kinds:
                group = [row for row in rows if row.learner == learner and row.way == way]
                speeds = [row.updates_per_s for row in group]
                (lines[way],) = panel.plot([row.runs for row in group], speeds, **look[way])
            counts = sorted({row.runs for row in rows})
            panel.set_xscale("log", base=2)
            panel.set_xticks(counts, [str(count) for count in counts])
            panel.set(title=learner, xlabel="runs")
            panel.set_ylim(bottom=0)
        for panel in panels[:: columns_of(len(learners))]:
            panel.set_ylabel("updates/s, all runs")
        note = (
            "sequence: one run after the other on one device. vmap: batched on one device. "
            "sharded: spread over every device."
        )
        add_legend(figure, lines, note)
        return save(figure, stem)
