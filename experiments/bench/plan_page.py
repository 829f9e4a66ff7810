"""The page and the figure of the plan: memory, work and floors of every learner on three chips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxoff.experiments.bench.chip import CHIPS, LAUNCH_S, SHARE, Floor
from jaxoff.experiments.bench.plan_rows import Row

RUNS = (1, 16, 64, 256, 1024)
MIDDLE = 64  # number of runs at which work and floors are told
MOST = 10_000  # largest number of runs that is told
FIRST = "a100"  # the chip that all numbers of runs are compiled for
SIZE = (7.0, 7.6)  # inches, the width of a page
PARTS = {"launches": "o", "bandwidth": "s", "arithmetic": "^"}

MEMORY = """## Memory

Bytes that XLA plans for a chunk of training, the dataset included, compiled for the A100. The most
runs follow from the straight line through these bytes and {share:.0%} of a chip's memory, which JAX
takes unless it is told otherwise. Numbers beyond the runs that are compiled are an extrapolation,
and empty cells have not been compiled yet. Where a program does not fit into the A100, XLA computes
parts of it twice, which costs kernels and bytes below.
"""
WORK = """## Work and floor of one update of {runs} runs together

Kernels, bytes and operations are those of one pass of the loop over updates; loops within it count
as often as they run. Floor: the largest of kernels x {low:g} us (in brackets x {high:g} us), bytes
at the chip's bandwidth, and operations at its float32 rate (a half of it outside of matrix
products). Bytes that stay in the L2 cache may be faster than that. Earlier stages of a method have
rows of their own.
"""
SAME = """## One program for three chips

Kernels and bytes of an update of {runs} runs, compiled for each chip; the tables above take those
of the A100 where a chip has no row of its own.
"""
MENDED = """## Before and after

What the first plan showed and was then mended: one update of {runs} runs on the A100.
"""


def markdown(rows: Sequence[Row], before: Sequence[Row], about: str) -> str:
    """The page, from the rows that there are."""
    title, rest = about.strip().split("\n", 1)
    commits = ", ".join(sorted({row.commit for row in rows}))
    lines = [
        f"# Plan: {title.rstrip('.')}",
        "",
        *rest.strip().split("\n"),
        "",
        f"Command `make plan`; commit {commits}; jax {jax.__version__}. {len(rows)} programs, "
        f"{sum(row.compile_s for row in rows) / 60:.0f} minutes of compiling.",
        "",
        "| chip | memory | bandwidth | float32 |",
        "|---|---|---|---|",
        *(
            f"| {x.name} | {x.memory_bytes / 2**30:.1f} GiB | {x.bandwidth / 1e9:,.0f} GB/s | "
            f"{x.flops / 1e12:.1f} Tflop/s |"
            for x in CHIPS.values()
        ),
        "",
        *memory_table(rows),
        "",
        *work_table(rows),
        "",
        *same_table(rows),
    ]
    lines += ["", *mended_table(rows, before)] if before else []
    return "\n".join(lines) + "\n"


def by_learner(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """(learner, stage) -> rows on the first chip, by number of runs."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(
        (row for row in rows if row.chip == FIRST), key=lambda row: (row.last, row.runs)
    ):
        found.setdefault((row.learner, row.stage), []).append(row)
    order = list(dict.fromkeys(row.learner for row in rows))
    return dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))


def line_of(rows: Sequence[Row]) -> tuple[float, float]:
    """Bytes without a run, and bytes of each run: a line through planned bytes, fitted so that
    relative errors are small.
    """
    runs, planned = (np.array([f(x) for x in rows], float) for f in (_runs, _planned))
    each, fixed = np.polyfit(runs, planned, 1, w=1 / planned)
    return float(fixed), float(each)


def _runs(row: Row) -> int:
    return row.runs


def _planned(row: Row) -> int:
    return row.planned


def shown(most: int) -> str:
    """A number of runs that fit, as far as the line may be trusted."""
    return f"{max(0, most):,}" if most <= MOST else f"over {MOST:,}"


def memory_table(rows: Sequence[Row]) -> Iterator[str]:
    """Planned bytes by number of runs, and the most runs that fit."""
    yield from MEMORY.format(share=SHARE).split("\n")
    heads = [f"{runs:,} run{'s'[: runs > 1]}, MB" for runs in RUNS]
    heads = ["learner", "task", *heads, "MB a run", *(f"most runs, {x.upper()}" for x in CHIPS)]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for (learner, _), group in by_learner(rows).items():
        if not group[-1].last:
            continue
        planned = {row.runs: f"{row.planned / 1e6:,.0f}" for row in group}
        cells = [learner, group[0].task, *(planned.get(runs, "") for runs in RUNS)]
        if len(group) > 1:
            fixed, each = line_of(group)
            most = [int((chip.usable_bytes - fixed) // each) for chip in CHIPS.values()]
            cells += [f"{each / 1e6:,.3g}", *map(shown, most)]
        else:
            cells += [""] * (1 + len(CHIPS))
        yield "| " + " | ".join(cells) + " |"


def floor_on(chip: str, learner: str, stage: str, rows: Sequence[Row]) -> tuple[Row, Floor] | None:
    """The floor of an update on a chip, from its own row, or else from the first chip's."""
    key = learner, stage, MIDDLE
    found = {row.chip: row for row in rows if (row.learner, row.stage, row.runs) == key}
    row = found.get(chip) or found.get(FIRST)
    if row is None:
        return None
    return row, floor_of(row, chip)


def floor_of(row: Row, chip: str) -> Floor:
    """The floor of an update of a compiled program."""
    return CHIPS[chip].floor(row.kernels, row.moved, row.products, row.others)


def work_table(rows: Sequence[Row]) -> Iterator[str]:
    """Kernels, bytes, operations and floors."""
    low, high = (1e6 * seconds for seconds in LAUNCH_S)
    yield from WORK.format(runs=MIDDLE, low=low, high=high).split("\n")
    heads = ["learner", "stage", "kernels", "GB moved", "Gflop, products", "Gop, others"]
    heads += [f"floor ms, {name.upper()}" for name in CHIPS]
    heads += [f"bound by, {name.upper()}" for name in CHIPS]
    heads += [f"one run, {FIRST.upper()}, ms", "bound by"]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for (learner, stage), group in by_learner(rows).items():
        floors = {chip: floor_on(chip, learner, stage, rows) for chip in CHIPS}
        here = floors[FIRST]
        if here is None:
            continue
        row = here[0]
        waits = f" + {row.waits - 1:g} waits" if row.waits > 1 else ""
        cells = [learner, stage, f"{row.kernels:,.0f}{waits}"]
        cells += [f"{x / 1e9:.3g}" for x in (row.moved, row.products, row.others)]
        for found in floors.values():
            assert found is not None
            slow = max(found[1].seconds, found[1].launches_s * LAUNCH_S[1] / LAUNCH_S[0])
            cells.append(f"{1e3 * found[1].seconds:.3g} ({1e3 * slow:.3g})")
        cells += [found[1].binds for found in floors.values() if found is not None]
        if group[0].runs == 1:
            alone = floor_of(group[0], FIRST)
            cells += [f"{1e3 * alone.seconds:.3g}", alone.binds]
        else:
            cells += ["", ""]
        yield "| " + " | ".join(cells) + " |"


def same_table(rows: Sequence[Row]) -> Iterator[str]:
    """Kernels and bytes of the same case on each chip, where it is compiled for more than one."""
    yield from SAME.format(runs=MIDDLE).split("\n")
    heads = ["learner", "stage", *(f"kernels, {x.upper()}" for x in CHIPS)]
    heads += [f"GB moved, {x.upper()}" for x in CHIPS] + [f"MB planned, {x.upper()}" for x in CHIPS]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    cases = dict.fromkeys((row.learner, row.stage) for row in rows)
    for case in cases:
        held = [row for row in rows if (row.learner, row.stage) == case and row.runs == MIDDLE]
        found = {row.chip: row for row in held}
        if len(found) < 2:
            continue
        cells = [*case]
        for show in (
            lambda row: f"{row.kernels:,.0f}",
            lambda row: f"{row.moved / 1e9:.3g}",
            lambda row: f"{row.planned / 1e6:,.0f}",
        ):
            cells += [show(found[chip]) if chip in found else "" for chip in CHIPS]
        yield "| " + " | ".join(cells) + " |"


def mended_table(rows: Sequence[Row], before: Sequence[Row]) -> Iterator[str]:
    """What was compiled before, beside what is compiled now."""
    yield from MENDED.format(runs=MIDDLE).split("\n")
    heads = ["learner", "stage", "kernels", "now", "GB moved", "now", "MB planned", "now"]
    heads += ["floor ms", "now", "floor's ratio"]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for learner, stage in dict.fromkeys((row.learner, row.stage) for row in before):
        pair = [floor_on(FIRST, learner, stage, held) for held in (before, rows)]
        if pair[0] is None or pair[1] is None:
            continue
        (old, slow), (new, fast) = pair[0], pair[1]
        cells = [learner, stage, f"{old.kernels:,.0f}", f"{new.kernels:,.0f}"]
        cells += [f"{x / 1e9:.3g}" for x in (old.moved, new.moved)]
        cells += [f"{x.planned / 1e6:,.0f}" for x in (old, new)]
        cells += [f"{1e3 * x.seconds:.3g}" for x in (slow, fast)]
        yield "| " + " | ".join([*cells, f"{slow.seconds / fast.seconds:.2f}"]) + " |"


def draw(rows: Sequence[Row], stem: Path) -> list[Path]:
    """What an update takes at least of launches, bandwidth and arithmetic, and memory of a run, a
    line for each learner.
    """
    from jaxoff.report.figures import COLOURS, save, style

    groups = {
        learner: group
        for (learner, stage), group in by_learner(rows).items()
        if group[-1].last and floor_on(FIRST, learner, stage, rows)
    }
    names = list(groups)
    places = np.arange(len(names))[::-1]
    with style() as new_figure:
        figure: Any = new_figure(figsize=SIZE, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        for (part, marker), colour in zip(PARTS.items(), COLOURS, strict=False):
            values = []
            for name, group in groups.items():
                found = floor_on(FIRST, name, group[-1].stage, rows)
                assert found is not None
                values.append(1e3 * getattr(found[1], f"{part}_s"))
            left.plot(values, places, marker, color=colour, label=part, markersize=5)
        left.set(xscale="log", xlabel=f"ms of an update of {MIDDLE} runs, A100, at least")
        left.set_yticks(places, names)
        left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.06), ncols=3)
        each = [line_of(group)[1] / 1e6 if len(group) > 1 else np.nan for group in groups.values()]
        right.plot(each, places, "D", color=COLOURS[3], markersize=5)
        right.set(xscale="log", xlabel="MB of memory a run")
        return save(figure, stem)
