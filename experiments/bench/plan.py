"""Every method on its papers' tasks at full settings, compiled for GPUs that are not there.

XLA compiles for a described chip (chips/): only the CUDA wheels are needed, and no GPU. The
programs are those of training, chunks of at most 256 updates with all runs under vmap, for data of
the recipe's size; evaluation is not part of them. Nothing is run, so matrix products have the
kernels that XLA takes by default, not the fastest ones found by trying; where it has none, as for
madt, they are cuBLAS's. MAPPO, which trains behaviour policies by acting, is not among the methods.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxoff.experiments.bench import hlo, plan_page
from jaxoff.experiments.bench.chip import CHIPS
from jaxoff.experiments.bench.plan_rows import Row, read, write
from rich.console import Console
from rich.progress import track

from jaxoff import blocks, registry, runtime
from jaxoff.data.dataset import Dataset, outline
from jaxoff.errors import MissingProgram
from jaxoff.files import write_text
from jaxoff.names import unknown
from jaxoff.training import TrainSpec
from jaxoff.training.mapping import AXIS
from jaxoff.training.program import Program as TrainProgram
from jaxoff.training.restore import empty_state
from jaxoff.training.spec import resolve

HERE = Path(__file__).parent
RUNS = (1, 16, 64, 256, 1024)
MIDDLE = 64  # number of runs at which work and floors are compared
UPDATES = 256  # most updates in a chunk of training
# Kernels are compiled without LLVM's optimisations, which change no kernel, size or order.
QUICKLY = {"xla_backend_optimization_level": 0}
LIBRARY = {"xla_gpu_enable_triton_gemm": False}
# Programs in the order in which they are compiled, so that a cut leaves the most valuable ones.
PASSES = (
    ("a100", MIDDLE),
    ("a100", 1024),
    ("a100", 1),
    ("h100", MIDDLE),
    ("h200", MIDDLE),
    ("a100", 256),
    ("a100", 16),
)


# --- what is compiled -----------------------------------------------------------------------------


def _inspo(column: str, task: str) -> TrainSpec:
    from jaxoff.experiments.inspo import runs

    return runs.specs([task], {column: runs.COLUMNS[column]}, "full", use_tuned=False)[0]


def _omar(column: str, task: str) -> TrainSpec:
    from jaxoff.experiments.omar import runs

    return runs.specs([task], {column: runs.COLUMNS[column]}, "full")[0]


def _sit(column: str, task: str) -> TrainSpec:
    from jaxoff.experiments.sit import runs

    return runs.specs([task], {column: runs.columns_of(task)[column]}, "full")[0]


def _yanhui(column: str, task: str) -> TrainSpec:
    from jaxoff.experiments.yanhui import runs

    return runs.SIZES["full"].spec(task, column, runs.COLUMNS[column])


def _pjap(column: str, task: str) -> TrainSpec:
    from jaxoff.experiments.pjap import sequences

    source = next(source for source in sequences.SOURCES if source.tasks == (task,))
    return sequences.cell(source, column, "full", None)


def _plain(name: str, task: str) -> TrainSpec:
    method, _, sampler = name.partition("+")
    config = _SMALL if task == GAME else {}
    return TrainSpec(method, task, config=config, size="paper", sampler=sampler or "uniform")


BRIDGE, BATTLE, SPREAD = "grid/bridge/optimal", "smax/2s3z/medium", "mpe/spread/medium"
SMAX, CN = "smax/2s3z/imbalanced-medium", "mpe/CN_3ls3l/imbalanced-medium"
ROBOT, LEGS = "mamujoco/halfcheetah-2x3/medium", "mamujoco/HalfCheetah_2l/imbalanced-medium"
GAME, FEW = "poly/twin_peaks/peak-s0.5", "smax/3m/wspm-p50-n200"
EXPERT, MNE = "mpe/spread/expert", "matrix/mne/imbalanced"
_SMALL = {"batch_size": 32}
# learner -> how to make the training job of one cell of its paper's table
CASES: dict[str, tuple[Callable[..., TrainSpec], str, str]] = {
    "inspo": (_inspo, "InSPO", BRIDGE),
    "omar": (_omar, "OMAR", SPREAD),
    "sit": (_sit, "SIT", SMAX),
    "inspo-battle": (_inspo, "InSPO", BATTLE),
    "sit-particles": (_sit, "SIT", CN),
    "yanhui": (_yanhui, "YANHUI", FEW),
    "madt": (_yanhui, "MADT", FEW),
    "maddpg-pjap": (_pjap, "MADDPG+CQL+PJAP", EXPERT),
    "bc": (_inspo, "BC", BATTLE),
    "alberdice": (_inspo, "AlberDICE", BRIDGE),
    "omiga": (_inspo, "OMIGA", BATTLE),
    "cfcql": (_inspo, "CFCQL", BATTLE),
    "omar-battle": (_inspo, "OMAR", BATTLE),
    "cql": (_omar, "MA-CQL", SPREAD),
    "td3bc": (_omar, "MA-TD3+BC", SPREAD),
    "maicq": (_omar, "MA-ICQ", SPREAD),
    "cfcql-particles": (_plain, "cfcql", SPREAD),
    "omar-robot": (_omar, "OMAR", ROBOT),
    "qmix": (_sit, "QMIX", SMAX),
    "macql": (_sit, "MACQL", SMAX),
    "bcq": (_sit, "MABCQ", SMAX),
    "icq": (_sit, "ICQ", SMAX),
    "sit-robot": (_sit, "SIT", LEGS),
    "facmac-robot": (_sit, "FACMAC", LEGS),
    "bcq-robot": (_sit, "MABCQ", LEGS),
    "icq-robot": (_sit, "ICQ", LEGS),
    "maddpg-game": (_plain, "maddpg", GAME),
    "maddpg-pjap-game": (_plain, "maddpg+pjap", GAME),
    "inspo-game": (_inspo, "InSPO", MNE),
}
# Episodes and steps of the recipes' datasets (experiments/reference/datasets). Their longest
# episodes are taken to last until the time limit, except for those of LONGEST.
SIZES = {
    BRIDGE: (500, 4_000),
    BATTLE: (5_000, 357_377),
    SPREAD: (40_000, 1_000_000),
    SMAX: (10_000, 654_335),
    CN: (10_000, 250_000),
    ROBOT: (1_000, 1_000_000),
    LEGS: (10_000, 2_000_000),
    GAME: (512, 512),
    FEW: (200, 2_873),
    EXPERT: (40_000, 1_000_000),
    MNE: (10_000, 10_000),
}
LONGEST = {BRIDGE: 8}


def spec_of(learner: str) -> TrainSpec:
    """The training job of a learner's case, with one run."""
    make, column, task = CASES[learner]
    return dataclasses.replace(make(column, task), seeds=(0,), grid={})


# --- compile --------------------------------------------------------------------------------------


@contextlib.contextmanager
def as_on_accelerator() -> Iterator[None]:
    """Programs are traced as they are on an accelerator: in one piece."""
    fits = blocks.fits_cache
    blocks.fits_cache = lambda: False
    try:
        yield
    finally:
        blocks.fits_cache = fits


def has_plugin() -> bool:
    """Whether the CUDA wheels of JAX are installed."""
    plugins = importlib.util.find_spec("jax_plugins")
    return plugins is not None and importlib.util.find_spec("jax_plugins.xla_cuda12") is not None


@functools.cache
def mesh_of(chip: str) -> Mesh:
    """A mesh of one described chip. Raises MissingProgram without the CUDA wheels."""
    from jax.experimental import topologies

    if not has_plugin():
        raise MissingProgram("plan: expected the CUDA wheels of JAX, found none; run make plan")
    told = {"target_config": CHIPS[chip].description, "topology": "1x1x1"}
    described = topologies.get_topology_desc(chip, "cuda", **told)
    return Mesh(np.array(described.devices), (AXIS,), axis_types=(AxisType.Auto,))


def placed(tree: Any, mesh: Mesh, spec: P) -> Any:
    """Shapes of arrays on a mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def has_own_rewards(task: str) -> bool:
    """Whether agents have rewards of their own, as in some particle worlds."""
    return task.startswith("mpe/") and getattr(registry.make_env(task), "individual", False)


def dataset_of(spec: TrainSpec) -> Dataset:
    """The shapes of a job's dataset; its longest episode has as many steps as are allowed."""
    env, (episodes, steps) = registry.make_spec(spec.task), SIZES[spec.task]
    individual, longest = has_own_rewards(spec.task), LONGEST.get(spec.task, env.horizon)
    return outline(
        env, spec.obs_dtype, episodes=episodes, steps=steps, longest=longest,
        individual=individual,
    )  # fmt: skip


def compiled(learner: str, chip: str, runs: int, *, stages: bool = True) -> Iterator[Row]:
    """Compile a learner's programs of training for a chip.

    stages: all of them, or only the last one's.
    """
    spec = dataclasses.replace(spec_of(learner), seeds=tuple(range(runs)))
    mesh, dataset = mesh_of(chip), dataset_of(spec)
    job = dataclasses.replace(resolve(spec), longest=dataset.max_length)
    env: Any = SimpleNamespace(spec=dataset.spec)
    found = job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec)
    shared = placed(dataset, mesh, P()), placed(np.int32(0), mesh, P())
    carried = placed((job.config, empty_state(job)), mesh, P(AXIS))
    with as_on_accelerator(), jax.default_matmul_precision(spec.precision):
        for index, stage in enumerate(found):
            updates = min(stage.steps, UPDATES)
            program = TrainProgram(job, env, index, updates, mesh, "vmap", evaluates=False)
            held = jax.eval_shape(program.prepare, carried[:2], shared[0])
            carried = placed(held, mesh, P(AXIS))
            last = index == len(found) - 1
            if last or stages:
                begin = time.perf_counter()
                lowered = program.chunk.lower(carried, shared)
                try:
                    made, products = lowered.compile(QUICKLY), "XLA"
                except jax.errors.JaxRuntimeError:  # some products have no tiling of XLA's own
                    made, products = lowered.compile(QUICKLY | LIBRARY), "cuBLAS"
                about = learner, spec.task, stage.name, last, chip, runs, products
                yield row_of(made, about, begin)
    jax.clear_caches()


def row_of(made: Any, about: tuple[Any, ...], begin: float) -> Row:
    """What a compiled program takes and does. begin: when its compilation began."""
    seconds = time.perf_counter() - begin
    memory, work = made.memory_analysis(), hlo.Program(made.as_text()).update()
    arguments = memory.argument_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    taken = arguments, results, memory.temp_size_in_bytes
    values = *about, *taken, *work, round(seconds, 1), runtime.git_commit()
    return Row(**dict(zip((field.name for field in dataclasses.fields(Row)), values, strict=True)))


# --- rows and page --------------------------------------------------------------------------------


def run(out: Path, learners: Iterable[str], passes: Iterable[tuple[str, int]], again: bool) -> None:
    """Compile what plan.csv lacks, or with `again` everything, and write the page after each."""
    path, fresh = out / "plan.csv", set()
    learners = list(learners)
    todo = [(learner, *one) for one in passes for learner in learners]
    for learner, chip, runs in track(todo, "compiling", console=Console(stderr=True)):
        rows = {(x.learner, x.stage, x.chip, x.runs): x for x in read(path)}
        key = learner, chip, runs
        have = any((x.learner, x.chip, x.runs) == key and x.last for x in rows.values())
        if have and (not again or key in fresh):
            continue
        fresh.add(key)
        stages = (chip, runs) == PASSES[0]
        for row in compiled(learner, chip, runs, stages=stages):
            rows[row.learner, row.stage, row.chip, row.runs] = row
        write(path, rows.values(), list(CASES))
        write_page(out)


def write_page(out: Path) -> list[Path]:
    """plan.md and plan.png/svg from plan.csv and, for what was mended, plan_before.csv."""
    rows, before = read(out / "plan.csv"), read(out / "plan_before.csv")
    page = write_text(out / "plan.md", plan_page.markdown(rows, before, __doc__ or ""))
    return [page, *plan_page.draw(rows, out / "plan")]


def main(arguments: list[str] | None = None) -> None:
    """Compile, and write plan.csv, plan.md and plan.png/svg."""
    name = "python -m jaxoff.experiments.bench.plan"
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    parser.add_argument("learner", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--chips", nargs="*", default=list(CHIPS), choices=list(CHIPS))
    parser.add_argument("--runs", nargs="*", type=int, default=RUNS, help="numbers of runs")
    parser.add_argument("--again", action="store_true", help="compile what plan.csv has, too")
    parser.add_argument("--page", action="store_true", help="only write the page from plan.csv")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of plan.csv and plan.md")
    chosen = parser.parse_args(arguments)
    strange = [name for name in chosen.learner if name not in CASES]
    if strange:
        raise unknown("learner of the plan", strange[0], CASES)
    if not chosen.page:
        wanted = [(chip, runs) for chip, runs in PASSES if chip in chosen.chips]
        wanted = [(chip, runs) for chip, runs in wanted if runs in chosen.runs]
        jax.config.update("jax_platforms", "cpu")
        run(chosen.out, chosen.learner or CASES, wanted, chosen.again)
    print(*write_page(chosen.out), sep="\n")


if __name__ == "__main__":
    main()
