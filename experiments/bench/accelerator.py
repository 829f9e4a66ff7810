"""`python -m jaxoff.experiments.bench.accelerator`: what there is to learn in 8 minutes on a GPU.

In this order, so that a cut leaves the most valuable part: every learner trains 20 updates; updates
per second of five learners at 1, 16, 64, 256 and 1,024 runs; OMAR's learner in PyTorch on the same
device, where torch is installed; an InSPO table at full scale, as far as time allows; planned
beside measured. Each part is a process of its own, which is stopped when its time is up, and rows
are written as they are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxoff.experiments.bench.accelerator_parts import RUNS, Row, append, read
from jaxoff.experiments.bench.chip import CHIPS
from jaxoff.experiments.bench.plan_rows import Row as Planned
from jaxoff.experiments.bench.plan_rows import read as read_plan

from jaxoff import runtime
from jaxoff.files import write_text

HERE = Path(__file__).parent
MINUTES = 8.0
# The largest share of the time that is left which a part may take.
SHARES = {"learners": 0.45, "speed": 0.75, "torch": 0.3, "table": 1.0}
RESERVE_S = 5.0  # for the page
OMAR = {"cql": 5.0, "mimic": 1.0}  # weights on spread's medium data


def call(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run a command for at most `seconds`: its status, None if it was stopped, and its output."""
    with tempfile.TemporaryFile("w+") as log:
        made = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            status: int | None = made.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(made.pid, signal.SIGKILL)
            made.wait()
            status = None
        log.seek(0)
        return status, log.read()


def last_line(text: str) -> str:
    """The last line of an output, shortened."""
    return (text.strip().splitlines() or ["no message"])[-1][:200]


def measure_part(part: str, out: Path, seconds: float, smoke: bool) -> None:
    """The learners or their speeds, in a process that writes its own rows."""
    module = "jaxoff.experiments.bench.accelerator_parts"
    command = [sys.executable, "-m", module, part, "--out", str(out), *["--smoke"] * smoke]
    status, text = call(command, seconds)
    if status is None:
        append(out, Row("cut", part, note=f"stopped after {seconds:.0f} s"))
    elif status:
        append(out, Row("cut", part, note=last_line(text)))


def measure_torch(python: str, out: Path, seconds: float, smoke: bool) -> None:
    """Rounds per second of OMAR's learner in PyTorch, on random data of spread's shapes."""
    rng, rows = np.random.default_rng(0), 2_000 if smoke else 100_000
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        normal = lambda *shape: rng.standard_normal((rows, *shape), np.float32)
        np.savez(
            file,
            obs=normal(3, 18),
            next_obs=normal(3, 18),
            actions=rng.uniform(-1, 1, (rows, 3, 2)).astype(np.float32),
            reward=normal(3),
            terminated=np.zeros(rows, bool),
        )
        probe = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
        status, text = call([python, "-c", probe], 60)
        if status:
            append(out, Row("torch", "omar", note=f"not measured: {last_line(text)}"))
            return
        weights = [f"--{name}={value}" for name, value in OMAR.items()]
        command = [python, str(HERE / "omar_torch.py"), str(file), *weights]
        command += [f"--device={last_line(text)}", f"--rounds={2 if smoke else 100}"]
        status, text = call(command, seconds)
    if status != 0:
        why = "its time was up" if status is None else last_line(text)
        append(out, Row("torch", "omar", note=f"not measured: {why}"))
        return
    told = json.loads(last_line(text))
    append(out, Row("torch", "omar", 1, told["rounds_per_s"], note=told["about"]))


def measure_table(out: Path, seconds: float, smoke: bool) -> None:
    """InSPO's table 1, as far as it comes; results stay where they are not in the way."""
    with tempfile.TemporaryDirectory() as folder:
        scale = "smoke" if smoke else "full"
        module = "jaxoff.experiments.inspo"
        command = [sys.executable, "-m", module, "table1", "--scale", scale, "--out", folder]
        begin = time.perf_counter()
        status, text = call(command, seconds)
        took = time.perf_counter() - begin
        jobs = len(list(Path(folder).rglob("final.json")))
        tables = sorted(Path(folder).rglob("table1*.md"))
        for path in tables:
            shutil.copy(path, out / f"accelerator-{path.name}")
        why = {None: "its time was up", 0: "complete"}.get(status, last_line(text))
        note = f"{jobs} jobs at scale {scale} in {took:.0f} s: {why}"
        append(out, Row("table", "inspo, table 1", note=note))


def chip_of(rows: Sequence[Row]) -> str:
    """The described chip that was measured on; "" for another device."""
    machine = next((row.note for row in rows if row.part == "machine"), "")
    return next((name for name in CHIPS if name.upper() in machine.upper()), "")


def markdown(rows: Sequence[Row], planned: Sequence[Planned], smoke: bool) -> str:
    """The page, from the rows that there are."""
    machine = next((row.note for row in rows if row.part == "machine"), "unknown")
    command = f"make bench-accelerator{' SMOKE=1' if smoke else ''}"
    lines = ["# On an accelerator", ""]
    if smoke:
        lines += ["At a tiny scale, which shows only that the command runs.", ""]
    lines += [f"{machine}; commit {runtime.git_commit()}; command `{command}`.", ""]
    cuts = [f"- {row.learner}: {row.note}" for row in rows if row.part == "cut"]
    lines += ["What was cut short:", "", *cuts, ""] if cuts else []
    lines += [*learners_table(rows), *speed_table(rows)]
    others = [row for row in rows if row.part in ("torch", "table")]
    lines += ["", "## Beside them", ""] if others else []
    for row in others:
        speed = f"{row.updates_per_s:,.1f} rounds/s; " if row.updates_per_s else ""
        name = "OMAR in PyTorch" if row.part == "torch" else "InSPO, table 1"
        lines.append(f"- {name}: {speed}{row.note}")
    return "\n".join([*lines, *compared_table(rows, planned)]) + "\n"


def learners_table(rows: Sequence[Row]) -> Iterator[str]:
    """Every learner, one run."""
    yield from ("## Every learner trains 20 updates", "")
    yield "| learner | updates/s, one run | compile s | planned MB | |"
    yield "|---|---|---|---|---|"
    for row in rows:
        if row.part == "learners":
            yield (
                f"| {row.learner} | {row.updates_per_s:,.1f} | {row.compile_s:.1f} | "
                f"{row.planned_bytes / 1e6:,.0f} | {row.note or 'all numbers finite'} |"
            )


def speed_table(rows: Sequence[Row]) -> Iterator[str]:
    """Updates per second by number of runs."""
    found = {(row.learner, row.runs): row for row in rows if row.part == "speed"}
    counts = sorted({runs for _, runs in found} | (set() if found else set(RUNS)))
    yield from ("", "## Updates per second, all runs together", "")
    heads = ["learner", *(f"{runs:,} run{'s'[: runs > 1]}" for runs in counts)]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for learner in dict.fromkeys(name for name, _ in found):
        cells = [learner]
        for runs in counts:
            row = found.get((learner, runs))
            cells.append("" if row is None else row.note or f"{row.updates_per_s:,.0f}")
        yield "| " + " | ".join(cells) + " |"


def compared_table(rows: Sequence[Row], planned: Sequence[Planned]) -> Iterator[str]:
    """Measured time of an update of all runs beside the plan's floor, and memory beside memory."""
    name = chip_of(rows)
    last = {(row.learner, row.runs, row.chip): row for row in planned if row.last}
    chip = CHIPS.get(name)
    yield from ("", "## Planned and measured", "")
    if chip is None:
        yield "The plan describes no chip of this kind."
        return
    yield "Bytes differ by the dataset, which is smaller in the measurement than in the plan."
    yield ""
    yield "| learner | runs | floor ms | bound by | measured ms | ratio | MB, plan | MB, here |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        key = row.learner, row.runs
        plan = last.get((*key, name)) or last.get((*key, "a100"))
        if row.part not in ("learners", "speed") or not row.updates_per_s or plan is None:
            continue
        floor = chip.floor(plan.kernels, plan.moved, plan.products, plan.others)
        took = row.runs / row.updates_per_s
        new = plan.results + plan.temporaries
        yield (
            f"| {row.learner} | {row.runs:,} | {1e3 * floor.seconds:.3g} | {floor.binds} | "
            f"{1e3 * took:.3g} | {took / floor.seconds:.1f} | {new / 1e6:,.0f} | "
            f"{row.planned_bytes / 1e6:,.0f} |"
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure all parts, and write accelerator.csv and accelerator.md after each."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxoff.experiments.bench.accelerator", description=__doc__
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of the whole command")
    parser.add_argument("--smoke", action="store_true", help="tiny, for a test on a CPU")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--parts", nargs="*", choices=list(SHARES), default=list(SHARES))
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else HERE
    parser.add_argument("--out", type=Path, default=out, help="folder of accelerator.csv and .md")
    chosen = parser.parse_args(arguments)
    end = time.monotonic() + 60 * chosen.minutes - RESERVE_S
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "accelerator.csv").unlink(missing_ok=True)
    planned = read_plan(HERE / "plan.csv")
    page = chosen.out / "accelerator.md"
    for part in chosen.parts:
        seconds = SHARES[part] * (end - time.monotonic())
        if part == "torch":
            measure_torch(chosen.peer_python, chosen.out, seconds, chosen.smoke)
        elif part == "table":
            measure_table(chosen.out, seconds, chosen.smoke)
        else:
            measure_part(part, chosen.out, seconds, chosen.smoke)
        write_text(page, markdown(read(chosen.out), planned, chosen.smoke))
        print(f"{part}: {end - time.monotonic():.0f} s are left", flush=True)
    print(page)


if __name__ == "__main__":
    main()
