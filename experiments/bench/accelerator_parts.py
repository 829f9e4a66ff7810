"""What `make bench-accelerator` measures, a part in a process of its own.

learners: every learner of the plan trains 20 updates, one run. speed: updates per second of all
runs, of five learners. Both at full settings, on random numbers in the shapes of the task's data,
since timings do not depend on them. Every row is written as soon as it is measured.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from jaxoff import runtime
from jaxoff.training import TrainSpec

UPDATES, REPEATS, EPISODES = 20, 3, 400
# Of each number of runs all learners, so that a cut leaves learners that can be compared.
SPEED = ("inspo", "omar", "sit-particles", "qmix", "td3bc")
RUNS = (64, 1, 1024, 256, 16)
SMOKE = ("maddpg-game", "td3bc")
SMOKE_RUNS = (1, 2)
_TINY = ("hidden", "critic_hidden", "decomposition_hidden")


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement; 0 is what was not measured."""

    part: str
    learner: str
    runs: int = 0
    updates_per_s: float = 0.0  # of all runs together
    compile_s: float = 0.0
    planned_bytes: int = 0
    note: str = ""


def append(out: Path, row: Row) -> None:
    """Add a row to accelerator.csv."""
    path, fields = out / "accelerator.csv", [field.name for field in dataclasses.fields(Row)]
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(fields)
        values = dataclasses.astuple(row)
        writer.writerow([f"{x:.5g}" if isinstance(x, float) else x for x in values])


def read(out: Path) -> list[Row]:
    """The rows of accelerator.csv."""
    path = out / "accelerator.csv"
    if not path.exists():
        return []
    kinds: dict[str, Any] = {"runs": int, "planned_bytes": int}
    kinds |= dict.fromkeys(("updates_per_s", "compile_s"), float)
    with path.open(newline="") as file:
        lines = csv.DictReader(file)
        return [Row(**{name: kinds.get(name, str)(x) for name, x in row.items()}) for row in lines]


class Ready(NamedTuple):
    """Compiled programs of a learner's last stage."""

    start: Any  # () -> the state at the start of the stage
    chunk: Any
    shared: Any
    planned_bytes: int
    compile_s: float


def spec_of(learner: str, runs: int, smoke: bool) -> TrainSpec:
    """The training job of a learner of the plan; smoke: with tiny networks and batches."""
    from jaxoff.experiments.bench import plan

    from jaxoff import registry
    from jaxoff.config import config_fields

    spec = dataclasses.replace(plan.spec_of(learner), seeds=tuple(range(runs)))
    if not smoke:
        return spec
    known = config_fields(registry.learner(spec.method, spec.task).Config)
    tiny = {name: 8 for name in _TINY if name in known and spec.method != "maddpg"}
    return dataclasses.replace(spec, config={**spec.config, **tiny, "batch_size": 30})


def ready(learner: str, runs: int, smoke: bool) -> Ready:
    """Compile a learner's programs, with its data on the device."""
    import jax
    import numpy as np
    from jaxoff.experiments.bench import made_up, plan
    from jaxoff.experiments.bench.speed import compiled

    from jaxoff import registry
    from jaxoff.data.dataset import place
    from jaxoff.training import mapping
    from jaxoff.training.program import Program
    from jaxoff.training.restore import empty_state
    from jaxoff.training.spec import fitted, resolve

    spec = spec_of(learner, runs, smoke)
    env: Any = SimpleNamespace(spec=registry.make_spec(spec.task))
    data = made_up.episodes(env.spec, 12 if smoke else EPISODES, plan.has_own_rewards(spec.task))
    job, mesh = fitted(resolve(spec), data), mapping.run_mesh(1)
    mode = mapping.choose_mode(jax.default_backend())
    first: Any = mapping.to_devices((job.config, empty_state(job)), mesh)
    stages = job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec)
    with jax.default_matmul_precision(spec.precision):
        dataset = place(data, env.spec, source=spec.task)
        shared, carried, seconds = (dataset, np.int32(UPDATES)), first, 0.0
        prepares: list[Any] = []
        for index in range(len(stages)):
            program = Program(job, env, index, UPDATES, mesh, mode, evaluates=False)
            made, took = compiled(program.prepare, carried[:2], dataset)
            carried = jax.eval_shape(program.prepare, carried[:2], dataset)
            carried = plan.placed(carried, mesh, jax.sharding.PartitionSpec(mapping.AXIS))
            prepares, seconds = [*prepares, made], seconds + took
        chunk, took = compiled(program.chunk, carried, shared)

    def start() -> Any:
        state = first
        for prepare in prepares:
            state = prepare(state[:2], dataset)
        return state

    return Ready(start, chunk, shared, mapping.needed_bytes(chunk, mesh), seconds + took)


def measured(part: str, learner: str, runs: int, made: Ready) -> Row:
    """Train, and time chunks after the first."""
    import jax
    import numpy as np
    from jaxoff.experiments.bench import speed

    about, free = (part, learner, runs), runtime.free_bytes()
    if free is not None and made.planned_bytes > free:
        note = f"does not fit: {free:,} bytes are free"
        return Row(*about, 0.0, made.compile_s, made.planned_bytes, note)
    metrics: dict[str, Any] = {}

    def call(carried: Any) -> Any:
        carried, (told, _) = made.chunk(carried, made.shared)
        metrics.update(told)
        return carried

    _, times = speed.fastest(call, made.start())
    finite = all(bool(np.isfinite(np.asarray(x)).all()) for x in jax.tree.leaves(metrics))
    note = "" if finite else "a number is not finite"
    return Row(*about, runs * UPDATES / times.wall, made.compile_s, made.planned_bytes, note)


def batches(part: str, smoke: bool) -> Iterator[list[tuple[str, int]]]:
    """Learners and numbers of runs that are compiled side by side and then timed in turn."""
    from jaxoff.experiments.bench import plan

    if part == "learners":
        names = SMOKE if smoke else tuple(plan.CASES)
        yield from ([(name, 1) for name in names[k : k + 6]] for k in range(0, len(names), 6))
    else:
        for runs in SMOKE_RUNS if smoke else RUNS:
            yield [(name, runs) for name in (SMOKE if smoke else SPEED)]


def run(part: str, out: Path, smoke: bool) -> None:
    """Measure a part. A learner that fails has a row with its error."""
    append(out, Row("machine", part, note=runtime.hardware()))
    threads = max(1, min(6, len(runtime.cores()) // 2))
    with ThreadPoolExecutor(threads) as pool:
        for todo in batches(part, smoke):
            begun: list[Future[Ready]] = [pool.submit(ready, *one, smoke) for one in todo]
            for (learner, runs), made in zip(todo, begun, strict=True):
                append(out, tried(part, learner, runs, made))


def tried(part: str, learner: str, runs: int, made: Future[Ready]) -> Row:
    """The row of a learner, or of its error."""
    begin = time.perf_counter()
    try:
        row = measured(part, learner, runs, made.result())
    except Exception as error:  # what fails on a device is what this is to show
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Row(part, learner, runs, note=f"failed: {text}")
    print(f"{part} {learner} {runs}: {time.perf_counter() - begin:.1f} s", flush=True)
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxoff.experiments.bench.accelerator_parts", description=__doc__
    )
    parser.add_argument("part", choices=("learners", "speed"))
    parser.add_argument("--smoke", action="store_true", help="tiny, for a test on a CPU")
    parser.add_argument("--out", type=Path, required=True, help="folder of accelerator.csv")
    chosen = parser.parse_args(arguments)
    run(chosen.part, chosen.out, chosen.smoke)


if __name__ == "__main__":
    runtime.setup(cache=False, cpu_devices=1)
    main()
