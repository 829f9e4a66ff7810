"""The compiled programs of all stages of a job.

They are traced one after the other, and compiled side by side in threads, while the first of them
run already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxoff import runtime
from jaxoff.errors import InvalidSetting
from jaxoff.training import mapping
from jaxoff.training.program import Program

# XLA's options for programs that are called seldom. On a CPU, preparing a stage compiles in a third
# of the time with them; an evaluation compiles in a quarter (3m of SMAX) to two fifths, and runs
# up to a tenth slower.
SHORT = 10_000  # steps of all episodes of an evaluation, up to which this was measured
QUICKLY: dict[str, Any] = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
}


class Stage(NamedTuple):
    """The programs of a stage that are to be compiled; see `Program`.

    prepare is None where a checkpoint takes its place, and report where no policy is played.
    """

    prepare: Future[Any] | None
    report: Future[Any] | None
    chunk: Future[Any]
    keep: Future[Any]


class Compiler:
    """Compiles the programs of a job. seconds: how long the training has waited for them."""

    def __init__(self, mesh: Mesh, num_runs: int, name: str) -> None:
        """name: method and task, for a message."""
        self.mesh, self.num_runs, self.name, self.seconds = mesh, num_runs, name, 0.0
        # Several processes must compile in the same order.
        alone = jax.process_count() == 1
        self.pool = ThreadPoolExecutor(len(runtime.cores()) if alone else 1)

    def stages(
        self, programs: Sequence[Program], carried: Any, shared: Any, first: int, resumes: bool
    ) -> list[Stage]:
        """Begin to compile the programs of the stages from `first` on.

        programs: of all stages. carried: (config, run) before the first of all. shared: dataset and
        number of updates. resumes: stage `first` goes on from a checkpoint.
        """
        begin, made = time.perf_counter(), []
        sharding = NamedSharding(self.mesh, P(mapping.AXIS))
        placed = lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding, weak_type=x.weak_type
        )
        for index, program in enumerate(programs):
            prepare = program.prepare.trace(carried[:2], shared[0])
            carried = jax.tree.map(placed, prepare.out_info)
            if index < first:
                continue
            report = program.report.trace(carried, ()) if program.plays else None
            made.append(
                Stage(
                    None if resumes and index == first else self._begin(prepare, seldom=True),
                    report and self._begin(report, seldom=_is_short(program)),
                    self._begin(program.chunk.trace(carried, shared)),
                    self._begin(program.keep.trace(carried)),
                )
            )
        self.pool.shutdown(wait=False)  # it takes no more, and ends with what it has
        self.seconds += time.perf_counter() - begin
        return made

    def _begin(self, traced: Any, seldom: bool = False) -> Future[Any]:
        """Begin to compile a program; seldom: it is called so rarely that compiling takes longer
        than all of its calls.
        """
        less = jax.config.read("jax_disable_most_optimizations")  # than QUICKLY has
        quick = seldom and not less and self.mesh.devices.flat[0].platform == "cpu"
        return self.pool.submit(_compile, traced.lower(), QUICKLY if quick else None)

    def now(self, program: Any, *args: Any) -> Any:
        """Compile a program, and wait for it. Raises what `made` does."""
        return self._waited(lambda: program.lower(*args).compile())

    def made(self, future: Future[Any]) -> Any:
        """Wait for a program. Raises InvalidSetting for one that needs more memory than is free."""
        return self._waited(future.result)

    def _waited(self, compile_: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        compiled = compile_()
        self.seconds += time.perf_counter() - begin
        needed, free = mapping.needed_bytes(compiled, self.mesh), runtime.free_bytes()
        if free is not None and needed > free:
            raise InvalidSetting(
                f"{self.name}: {needed:,} bytes of memory are needed for {self.num_runs} runs, "
                f"expected at most {free:,}; use fewer runs, or smaller batches or networks"
            )
        return compiled

    def close(self) -> None:
        """Forget what has not begun to compile."""
        self.pool.shutdown(wait=False, cancel_futures=True)


def _is_short(program: Program) -> bool:
    """Whether an evaluation is a matter of milliseconds."""
    return program.job.spec.eval_episodes * program.env.spec.horizon <= SHORT


def _compile(lowered: Any, options: dict[str, Any] | None) -> Any:
    """Compile a program, without the options where this version of XLA lacks one of them."""
    try:
        return lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        if options is None or "No such compile option" not in str(error):
            raise
        return lowered.compile()
