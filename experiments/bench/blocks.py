"""CPU-seconds per update in blocks that fit into a core's cache, beside updates in one piece.

One run on one core: both programs start from the same state, draw the same batches, and are timed
in turn, beside products of 1024 x 1024 matrices, so that figures of noisy machines compare. In one
piece, agents of continuous tasks are trained together instead of one after the other. The process
is bound to its core from the start, since threads that wait for each other count as CPU time too.
For MAPPO, an update is an iteration: 8,192 steps in 128 environments, and 16 minibatches, by the
settings of the map's pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxoff.baselines import mappo
from rich.console import Console
from rich.progress import track

from jaxoff import blocks, registry, runtime
from jaxoff.config import resolve_config
from jaxoff.data.dataset import place
from jaxoff.files import write_text
from jaxoff.names import DataOptions, Task
from jaxoff.training import TrainSpec, mapping
from jaxoff.training.on_policy import chunk_of, start
from jaxoff.training.program import Program
from jaxoff.training.restore import empty_state
from jaxoff.training.spec import fitted, resolve

UPDATES, ROUNDS, EPISODES = 20, 4, 500
ITERATIONS = 1  # of MAPPO, with 16 updates each
CASES = {
    "omar": ("omar", "mpe/spread/medium"),
    "cql (MA-CQL)": ("cql", "mpe/spread/medium"),
    "cfcql, continuous": ("cfcql", "mpe/spread/medium"),
    "qmix": ("qmix", "smax/2s3z/medium"),
    "macql": ("macql", "smax/2s3z/medium"),
    "cfcql": ("cfcql", "smax/2s3z/medium"),
    "icq": ("icq", "smax/2s3z/medium"),
    "omar, discrete": ("omar", "smax/2s3z/medium"),
    "sit, last stage": ("sit", "smax/2s3z/medium"),
    "inspo": ("inspo", "smax/2s3z/medium"),
    "mappo, with the steps it plays": ("mappo", "smax/8m/random"),
}


class Row(NamedTuple):
    """CPU-seconds of an update in one piece and in blocks, and of a product of matrices."""

    learner: str
    task: str
    whole_s: float
    blocks_s: float
    product_s: float
    apart: float  # largest difference of a parameter after the first updates, to the largest


def measure(name: str) -> Row:
    """Compile both programs of a case, and time them in turn."""
    method, task = CASES[name]
    made = pool(task) if method == "mappo" else learner(method, task)
    chunks, starts = zip(*(_cut(made, cut) for cut in (False, True)), strict=True)
    after = [chunk(start) for chunk, start in zip(chunks, starts, strict=True)]
    apart = max(map(_apart, *(jax.tree.leaves(x) for x in map(_learned, after))))
    matrix = jnp.ones((1024, 1024))
    product = jax.jit(lambda x: x @ x)
    spent: list[list[float]] = [[], [], []]
    updates = ITERATIONS if method == "mappo" else UPDATES
    for _ in range(ROUNDS):
        for which, chunk in enumerate(chunks):
            seconds, after[which] = _cpu(lambda: chunk(after[which]))  # noqa: B023
            spent[which].append(seconds / updates)
        spent[2].append(_cpu(lambda: [product(matrix) for _ in range(10)])[0] / 10)
    whole, cut_up, one = map(min, spent)
    return Row(name, task, whole, cut_up, one, apart)


def _cut(made: Callable[[], tuple[Any, Any]], cut: bool) -> tuple[Any, Any]:
    """A program and what it starts from, compiled in blocks or not."""
    fits = blocks.fits_cache
    blocks.fits_cache = lambda: cut
    try:
        return made()
    finally:
        blocks.fits_cache = fits


def _learned(carried: Any) -> Any:
    return carried.run.learner if hasattr(carried, "run") else carried.learner


def in_double(name: str) -> float:
    """Largest difference of a parameter, as in Row, where both programs compute in double precision
    from the same state.
    """
    made = learner(*CASES[name], double=True)
    chunks = [_cut(made, cut) for cut in (False, True)]
    after = [jax.tree.leaves(_learned(chunk(start))) for chunk, start in chunks]
    return max(map(_apart, *after))


def learner(method: str, task: str, double: bool = False) -> Callable[[], tuple[Any, Any]]:
    """Makes a chunk of updates of one run, and the state before it."""
    job, env = resolve(TrainSpec(method, task)), registry.make_env(task)
    data = registry.make_data(task, DataOptions(0, EPISODES))
    job, dataset, mesh = fitted(job, data), place(data, env.spec), mapping.run_mesh(1)
    shared, kind = (dataset, np.asarray(UPDATES)), _OfDoubledBatches if double else Program

    def made() -> tuple[Any, Any]:
        carried: Any = mapping.to_devices((job.config, empty_state(job)), mesh)
        for index in range(len(job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec))):
            program = kind(job, env, index, UPDATES, mesh, "sequence", evaluates=False)
            carried = program.prepare(carried[:2], dataset)
        with jax.enable_x64(double):
            carried = _doubled(carried) if double else carried
            chunk = program.chunk.lower(carried, shared).compile()

        def call(carried: Any) -> Any:
            with jax.enable_x64(double):
                return chunk(carried, shared)[0]

        return call, carried

    return made


def _doubled(tree: Any) -> Any:
    """A tree of arrays with its single-precision numbers as double-precision ones."""
    return jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, tree)


class _OfDoubledBatches(Program):
    """The programs of a stage whose updates see batches in double precision."""

    def _parts(self, config: Any) -> tuple[Any, Any]:
        stage, learner = super()._parts(config)
        update = lambda state, batch, key: learner.update(state, _doubled(batch), key)
        return stage, learner._replace(update=update)


def pool(task: str) -> Callable[[], tuple[Any, Any]]:
    """Makes iterations of MAPPO, which play a segment and train on it, and the state before."""
    env = registry.make_env(task)
    config = resolve_config(mappo, Task.parse(f"{task.rsplit('/', 1)[0]}/pool"), {})
    method = mappo.make(config, env.spec, getattr(env, "script", None))

    def made() -> tuple[Any, Any]:
        run = jax.jit(lambda key: start(method, env, config.num_envs, key))(jax.random.key(0))
        count = jnp.int32(ITERATIONS)
        chunk = chunk_of(method, env, config.segment).lower(run, count).compile()
        return lambda run: chunk(run, count)[0], run

    return made


def _cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU-seconds of a call, and its result."""
    begin = time.process_time()
    out = jax.block_until_ready(call())
    return time.process_time() - begin, out


def _apart(one: Any, other: Any) -> float:
    """Largest difference of two arrays, relative to the largest magnitude of the first."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-30))


def run(out: Path) -> Path:
    """Measure every case, and write blocks.md, also after each."""
    rows: list[Row] = []
    for name in track(CASES, "measuring", console=Console(stderr=True)):
        rows.append(measure(name))
        write_text(out / "blocks.md", markdown(rows))
    return out / "blocks.md"


def run_double(out: Path) -> Path:
    """Compare the programs of every offline learner in double precision, and write double.md."""
    lines = [
        f"# Parameters after {UPDATES} updates in blocks and in one piece, in double precision",
        "",
        f"{_about('python -m jaxoff.experiments.bench double')}.",
        "",
        "Single precision alone shows larger differences ([blocks.md](blocks.md)), since Adam and",
        "RMSprop divide small gradients by their own size in the first steps.",
        "",
        "| learner | task | largest difference, relative to the largest parameter of its array |",
        "|---|---|---|",
    ]
    for name in track([name for name in CASES if CASES[name][0] != "mappo"], "comparing"):
        lines.append(f"| {name} | {CASES[name][1]} | {in_double(name):.1g} |")
        write_text(out / "double.md", "\n".join(lines) + "\n")
    return out / "double.md"


def _about(command: str) -> str:
    return (
        f"{runtime.hardware()}; jax {jax.__version__}; commit {runtime.git_commit()}; "
        f"command `{command}`"
    )


def markdown(rows: list[Row]) -> str:
    """The page."""
    title, rest = (__doc__ or "").strip().split("\n", 1)
    about = _about("taskset -c 0 python -m jaxoff.experiments.bench blocks")
    head = (
        "learner | task | in one piece, CPU ms | in blocks, CPU ms | ratio | product of matrices, "
        f"GFLOP/s | difference after {UPDATES} updates"
    )
    lines = [f"# {title.rstrip('.')}", "", f"{about}.", "", *rest.strip().split("\n"), ""]
    lines += [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    for row in rows:
        lines.append(
            f"| {row.learner} | {row.task} | {1e3 * row.whole_s:.1f} | {1e3 * row.blocks_s:.1f} | "
            f"{row.whole_s / row.blocks_s:.2f} | {2e-9 * 1024**3 / row.product_s:.0f} | "
            f"{row.apart:.1g} |"
        )
    return "\n".join(lines) + "\n"
