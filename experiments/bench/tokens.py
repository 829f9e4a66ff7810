"""Tokens per second of transformers, of all runs together: in training, and in rollouts as
evaluation makes them.

A token is one position of the transformer's input sequence. A step of an agent is one to three of
them, by mode: its observation, and with it the previous action and the return to go. An update
reads batch x agents x C x tokens of a step, C steps of context; of YANHUI's batch only the anchors
go through the transformer. Windows that reach beyond the end of an episode count in full. A rollout
reads the whole context anew at each step, so that one joint step is agents x C x tokens of a step;
empty places count, steps of episodes that have ended don't. Both numbers are found by tracing.

Settings are those of the experiment at scale cpu (experiments/yanhui/runs.py), sampling included. A
rollout is 32 episodes a run, greedy, the game included, by nets that have made 200 updates. The
fastest of three after one warm-up. Ways as in speed.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxoff.experiments.bench import speed
from jaxoff.experiments.yanhui import runs
from rich.console import Console
from rich.progress import track

from jaxoff import runtime
from jaxoff.files import write_text
from jaxoff.nets.transformer import StepTransformer
from jaxoff.training import TrainSpec, mapping
from jaxoff.training.program import Program

TASK = "smax/3m/wspm-p50-n200"
COLUMNS = runs.MADT | {"MADT-C20": runs.CONTROLS["MADT-C20"]} | runs.YANHUI
RUNS, UPDATES = (1, 4, 16), 50


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Training: of updates; rollouts: of joint steps of episodes that have not ended.
    """

    learner: str
    way: str
    runs: int
    kind: str  # training, rollouts
    tokens_each: int  # of an update, or a joint step
    each_per_s: float  # updates or joint steps, of all runs together
    compile_s: float

    @property
    def tokens_per_s(self) -> float:
        """Of all runs together."""
        return self.tokens_each * self.each_per_s


def positions(function: Callable[..., Any], *args: Any) -> int:
    """Positions of input sequences that transformers read in function(*args), which is traced and
    not run.
    """
    read = []

    def count(call: Any, given: Any, named: Any, context: Any) -> Any:
        if isinstance(context.module, StepTransformer) and context.method_name == "__call__":
            read.append(math.prod(given[0].shape[:-1]) * len(context.module.tokens))
        return call(*given, **named)

    with nn.intercept_methods(count):
        jax.eval_shape(function, *args)
    return sum(read)


def tokens_of(ready: speed.Ready) -> tuple[int, int]:
    """Tokens of an update and of a joint step of one episode."""
    config = jax.tree.map(lambda x: x[0], ready.job.config)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), ready.carried[1])
    stage = ready.job.stages(config, ready.env.spec)[ready.program.index]
    key = jax.random.key(0)

    def update(state: Any, dataset: Any) -> Any:
        sampler = ready.job.sampler(stage, state.learner, config, ready.env, key)
        batch = sampler.gather(dataset, sampler.draw(state.sampler, dataset, key))
        return stage.learner.update(state.learner, batch, key)

    def step(state: Any) -> Any:
        policy = stage.learner.policy(state.learner)
        return policy.distribution(policy.initial(()), ready.env.reset(key)[1])[1].mode()

    return positions(update, state, ready.dataset), positions(step, state)


def measure(name: str, spec: TrainSpec, way: str, updates: int) -> list[Row]:
    """Compile and time training and rollouts of all runs of a job."""
    ready = speed.prepare(spec, way, updates)
    of_update, of_step = tokens_of(ready)
    count, made = len(spec.seeds), mapping.padded(len(spec.seeds), ready.mesh)
    shared = ready.dataset, speed.count_of(ready, updates)
    chunk, compile_s = speed.compiled(ready.program.chunk, ready.carried, shared)
    carried, best = speed.fastest(lambda carried: chunk(carried, shared)[0], ready.carried)
    rows = [Row(name, way, count, "training", of_update, made * updates / best.wall, compile_s)]
    program = Program(
        ready.job, ready.env, ready.program.index, updates, ready.mesh, ready.mode, evaluates=True
    )
    report, compile_s = speed.compiled(program.report, carried, ())
    lengths: list[np.ndarray] = []

    def play(carried: Any) -> Any:
        lengths.append(np.asarray(report(carried, ())["lengths"]))
        return carried

    best = speed.fastest(play, carried)[1]
    steps = float(np.sum(lengths[-1]))  # padded runs included, as for updates
    return [*rows, Row(name, way, count, "rollouts", of_step, steps / best.wall, compile_s)]


def run(
    out: Path, counts: Sequence[int], task: str = TASK, scale: str = "cpu", updates: int = UPDATES
) -> Path:
    """Measure, and write tokens.md."""
    rows: list[Row] = []
    plan = [(name, way, count) for name in COLUMNS for way in speed.ways() for count in counts]
    for name, way, count in track(plan, "measuring", console=Console(stderr=True)):
        spec = runs.specs([task], {name: COLUMNS[name]}, scale)[0]
        rows += measure(name, dataclasses.replace(spec, seeds=tuple(range(count))), way, updates)
    return write_text(out / "tokens.md", markdown(rows, task))


def markdown(rows: Sequence[Row], task: str) -> str:
    """The page."""
    first, *rest = (__doc__ or "").strip().split("\n", 1)
    about = (
        f"{runtime.hardware()}; jax {jax.__version__}; commit {runtime.git_commit()}; "
        "command `python -m jaxoff.experiments.bench tokens`"
    )
    lines = [
        f"# {first.rstrip('.')}",
        "",
        f"{about}; {task}.",
        "",
        *"".join(rest).strip().split("\n"),
    ]
    for kind, each in (("training", "update"), ("rollouts", "joint step")):
        mine = [row for row in rows if row.kind == kind]
        counts = sorted({row.runs for row in mine})
        head = [f"{count} run{'s'[: count > 1]}" for count in counts]
        lines += ["", f"## {kind.capitalize()}, tokens/s", ""]
        lines.append(
            "| "
            + " | ".join(
                [
                    "learner",
                    f"tokens of one {each}",
                    "way",
                    *head,
                    f"{each}s/s, most runs",
                    "compile s",
                ]
            )
            + " |"
        )
        lines.append("|---" * (len(counts) + 5) + "|")
        for name, way in dict.fromkeys((row.learner, row.way) for row in mine):
            group = {row.runs: row for row in mine if (row.learner, row.way) == (name, way)}
            last = group[counts[-1]]
            cells = [
                name,
                f"{last.tokens_each:,}",
                way,
                *(f"{group[count].tokens_per_s:,.0f}" for count in counts),
            ]
            spent = [row.compile_s for row in group.values()]
            lines.append(
                "| "
                + " | ".join(
                    [*cells, f"{last.each_per_s:,.0f}", f"{min(spent):.1f}–{max(spent):.1f}"]
                )
                + " |"
            )
    return "\n".join(lines) + "\n"
