"""CPU-seconds per update in blocks that fit into a core's cache, beside updates in one piece.

One run on one core: both programs start from the same state, draw the same batches, and are timed
in turn, beside products of 1024 x 1024 matrices, so that figures of noisy machines compare. In one
piece, agents of continuous tasks are trained together instead of one after the other. The process
is bound to its core from the start, since threads that wait for each other count as CPU time too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxoff import blocks, registry, runtime
from jaxoff.data.dataset import place
from jaxoff.files import write_text
from jaxoff.names import DataOptions
from jaxoff.training import TrainSpec, mapping
from jaxoff.training.program import Program
from jaxoff.training.restore import empty_state
from jaxoff.training.spec import fitted, resolve

UPDATES, ROUNDS, EPISODES = 20, 4, 500
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
    job, env = resolve(TrainSpec(method, task)), registry.make_env(task)
    data = registry.make_data(task, DataOptions(0, EPISODES))
    job, dataset, mesh = fitted(job, data), place(data, env.spec), mapping.run_mesh(1)
    shared, chunks, starts = (dataset, np.int32(UPDATES)), [], []
    fits = blocks.fits_cache
    for cut in (False, True):
        blocks.fits_cache = (lambda: True) if cut else (lambda: False)
        try:
            carried: Any = mapping.to_devices((job.config, empty_state(job)), mesh)
            for index in range(len(job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec))):
                program = Program(job, env, index, UPDATES, mesh, "sequence", evaluates=False)
                carried = program.prepare(carried[:2], dataset)
            chunks.append(program.chunk.lower(carried, shared).compile())
            starts.append(carried)
        finally:
            blocks.fits_cache = fits
    after = [chunk(start, shared)[0] for chunk, start in zip(chunks, starts, strict=True)]
    apart = max(map(_apart, *(jax.tree.leaves(x.run.learner) for x in after)))
    matrix = jnp.ones((1024, 1024))
    product = jax.jit(lambda x: x @ x)
    spent: list[list[float]] = [[], [], []]
    for _ in range(ROUNDS):
        for which, chunk in enumerate(chunks):
            seconds, (after[which], _) = _cpu(lambda: chunk(after[which], shared))  # noqa: B023
            spent[which].append(seconds / UPDATES)
        spent[2].append(_cpu(lambda: [product(matrix) for _ in range(10)])[0] / 10)
    whole, cut_up, one = map(min, spent)
    return Row(name, task, whole, cut_up, one, apart)


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


def markdown(rows: list[Row]) -> str:
    """The page."""
    title, rest = (__doc__ or "").strip().split("\n", 1)
    about = (
        f"{runtime.hardware()}; jax {jax.__version__}; commit {runtime.git_commit()}; "
        "command `taskset -c 0 python -m jaxoff.experiments.bench blocks`"
    )
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
