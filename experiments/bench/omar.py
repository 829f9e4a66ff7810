"""`python -m jaxoff.experiments.bench.omar`: rounds per second of OMAR and of a PyTorch learner.

One is run after the other, on the same data.

Three agents, batches of 1024 for each, nets of 64, one million transitions, sampling included. The
peer that is written here does no more work than it must: from the same weights, batch and random
numbers it makes the same step as ours (tests/test_bench_omar.py).
`--public` times the authors' own learner and buffer beside both. Ours is also measured over numbers
of runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from jaxoff import runtime
from jaxoff.errors import MissingProgram

TASK = "mpe/spread/medium"
HERE = Path(__file__).parent


def peers(python: str, public: str | None, rounds: int) -> dict[str, dict[str, Any]]:
    """What PyTorch learners tell of themselves, on the data and with the weights of terms of ours;
    python: an interpreter that has torch.

    public: a checkout of the authors' repository, timed with one thread, its default, and with one
        for each core.
    Raises RuntimeError with the end of its errors where one fails.
    """
    import numpy as np
    from jaxoff.experiments.bench import speed

    from jaxoff.training import TrainSpec
    from jaxoff.training.spec import resolve

    episodes, config = speed.episodes_of(TASK), resolve(TrainSpec("omar", TASK)).config
    flat = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])
    data = {
        "obs": flat(episodes.obs[:, :-1]),
        "next_obs": flat(episodes.obs[:, 1:]),
        "actions": flat(episodes.actions),
        "reward": flat(episodes.agent_reward),
        "terminated": flat(episodes.terminated),
    }
    calls = {"PyTorch, written here": [str(HERE / "omar_torch.py")]}
    for threads in (1, len(runtime.cores())) if public else ():
        calls[f"the authors' code, threads: {threads}"] = [
            str(HERE / "omar_public.py"),
            public or "",
            f"--threads={threads}",
        ]
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        arrays: dict[str, Any] = {**data}
        np.savez(file, **arrays)
        weights = [
            f"--cql={float(config.cql[0])}",
            f"--mimic={float(config.mimic[0])}",
            f"--rounds={rounds}",
        ]
        for name, (script, *own) in calls.items():
            places = [*own[:1], str(file), *own[1:]]
            done = subprocess.run(
                [python, script, *places, *weights], capture_output=True, text=True
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise MissingProgram(
                    f"--peer-python {python}: expected an interpreter that has torch and numpy, "
                    f"found {last}; run pip install torch"
                )
            told[name] = json.loads(done.stdout.splitlines()[-1])
    return told


def main(arguments: list[str] | None = None) -> None:
    """Measure and write omar.md."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxoff.experiments.bench.omar", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=30, help="of a timing")
    parser.add_argument(
        "--runs", type=int, nargs="*", default=[1, 2, 4], help="numbers of runs of ours"
    )
    parser.add_argument(
        "--peer-python",
        default=sys.executable,
        help="interpreter that has torch; default: this one",
    )
    parser.add_argument("--public", help="a checkout of the authors' repository, to time it too")
    parser.add_argument("--out", type=Path, default=HERE, help="where omar.md goes")
    chosen = parser.parse_args(arguments)
    from jaxoff.experiments.bench import speed
    from rich.console import Console
    from rich.progress import track

    from jaxoff.files import write_text

    told = peers(chosen.peer_python, chosen.public, chosen.rounds)
    case = speed.Case("omar", TASK, {}, chosen.rounds)
    plan = [
        (way, count)
        for count in chosen.runs
        for way in (speed.ways() if count > 1 else ["sequence"])
    ]
    rows = [
        speed.measure("omar", case, way, count)
        for way, count in track(plan, "measuring", console=Console(stderr=True))
    ]
    lines = [
        "# OMAR: rounds per second beside PyTorch",
        "",
        f"{runtime.hardware()}; commit {runtime.git_commit()}; command `make bench-omar`, "
        f"{chosen.rounds} rounds a timing.",
    ]
    lines += [
        "",
        *(__doc__ or "").split("\n\n", 1)[1].strip().split("\n"),
        "A round updates all three agents. The data have "
        f"{next(iter(told.values()))['rows']:,} transitions.",
        "",
    ]
    columns = [
        "learner",
        "way",
        "runs",
        "rounds/s, all runs",
        *(f"against {name}" for name in told),
        "CPU ms of a round, sampling included",
        "of these, sampling",
        "compile s",
    ]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]

    def line(name: str, way: str, runs: int, speed: float, *costs: str) -> str:
        ratios = [f"{speed / peer['rounds_per_s']:.1f}" for peer in told.values()]
        return "| " + " | ".join([name, way, str(runs), f"{speed:.2f}", *ratios, *costs]) + " |"

    for name, peer in told.items():
        costs = f"{peer['cpu_ms']:.1f}", f"{peer['sampling_ms']:.1f}", ""
        lines.append(line(name, peer["about"], 1, peer["rounds_per_s"], *costs))
    for row in rows:
        costs = f"{row.cpu_ms:.1f}", "not timed apart", f"{row.compile_s:.1f}"
        lines.append(line("jaxoff", row.way, row.runs, row.updates_per_s, *costs))
    lines += [
        "",
        f"The matrix products of a round have {rows[0].operations / 1e9:.2f} G operations, of "
        f"which one run makes {rows[0].gflops:.1f} per nanosecond of CPU time; products of "
        f"{speed.SIDE} x {speed.SIDE} matrices reach {rows[0].limit_gflops:.0f} in the same run.",
    ]
    print(write_text(chosen.out / "omar.md", "\n".join(lines) + "\n"))


if __name__ == "__main__":
    runtime.setup(cache=False)  # compile times are measured
    main()
