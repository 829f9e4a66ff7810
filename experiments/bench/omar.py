"""`python -m experiments.bench.omar`: rounds per second of OMAR beside a PyTorch learner, one after the other on the same data.

Three agents, batches of 1024 for each, nets of 64, one million transitions, sampling included. Both use what threads they take by
default. Ours is also measured over numbers of runs. From the same weights, batch and random numbers both make the same step
(tests/test_bench_omar.py).
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

TASK = "mpe/spread/medium"
PEER = Path(__file__).with_name("omar_torch.py")


def peer(python: str, rounds: int) -> dict[str, Any]:
    """What the PyTorch learner tells of itself, run by an interpreter that has torch, on the data and with the weights of terms of ours.

    Raises RuntimeError with the end of its errors where it fails.
    """
    import numpy as np

    from experiments.bench import speed
    from jaxoff.train import TrainSpec
    from jaxoff.train.spec import resolve

    episodes, config = speed.episodes_of(TASK), resolve(TrainSpec("omar", TASK)).config
    flat = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])  # noqa: E731
    data = {
        "obs": flat(episodes.obs[:, :-1]),
        "next_obs": flat(episodes.obs[:, 1:]),
        "actions": flat(episodes.actions),
        "reward": flat(episodes.agent_reward),
        "terminated": flat(episodes.terminated),
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        np.savez(file, **data)
        weights = [f"--cql={float(config.cql[0])}", f"--mimic={float(config.mimic[0])}"]
        done = subprocess.run([python, str(PEER), str(file), *weights, f"--rounds={rounds}"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"peer-python {python}: expected an interpreter that has torch and numpy, found\n{done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main(arguments: list[str] | None = None) -> None:
    """Measure and write omar.md."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.omar", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="of a timing")
    parser.add_argument("--runs", type=int, nargs="*", default=[1, 2, 4, 8], help="numbers of runs of ours")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has torch; default: this one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where omar.md goes")
    chosen = parser.parse_args(arguments)
    from rich.console import Console
    from rich.progress import track

    from experiments.bench import speed
    from jaxoff.files import write_text

    told = peer(chosen.peer_python, chosen.rounds)
    theirs, about = told["rounds_per_s"], told["about"]
    case = speed.Case("omar", TASK, {}, chosen.rounds)
    plan = [(way, count) for count in chosen.runs for way in speed.ways()]
    rows = [speed.measure("omar", case, way, count) for way, count in track(plan, "measuring", console=Console(stderr=True))]
    lines = [
        "# OMAR: rounds per second beside PyTorch",
        "",
        f"{runtime.hardware()}; {about}; commit {runtime.git_commit()}; command `make bench-omar`.",
    ]
    lines += [
        "",
        *(__doc__ or "").split("\n\n", 1)[1].strip().split("\n"),
        f"A round updates all three agents. The data have {told['rows']:,} transitions.",
        "",
    ]
    lines += ["| learner | way | runs | rounds/s, all runs | against PyTorch | compile s |", "|---|---|---|---|---|---|"]
    lines.append(f"| PyTorch | one after the other | 1 | {theirs:.2f} | 1.0 | |")
    for row in rows:
        lines.append(
            f"| jaxoff | {row.way} | {row.runs} | {row.updates_per_s:.2f} | {row.updates_per_s / theirs:.1f} | {row.compile_s:.1f} |"
        )
    flops, found = rows[0].flops_per_update, rows[0].updates_per_s
    lines += ["", f"XLA counts {flops / 1e9:.2f} Gflop for a round: at {found:.2f} rounds/s {flops * found / 1e9:.1f} Gflop/s."]
    print(write_text(chosen.out / "omar.md", "\n".join(lines) + "\n"))


if __name__ == "__main__":
    runtime.setup(cache=False)  # compile times are measured
    main()
