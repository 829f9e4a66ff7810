"""`python -m experiments.bench.omar`: rounds per second of OMAR beside a PyTorch learner, both on the same data, in one process.

Three agents, batches of 1024 for each, nets of 64, one million transitions, sampling included. Both use what threads they take by
default. Ours is also measured over numbers of runs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from jaxoff import runtime

TASK = "mpe/spread/medium"


def torch_rounds_per_s(rounds: int, repeats: int = 3) -> tuple[float, str]:
    """The PyTorch learner's rounds per second, the fastest of some timings after a warm-up; and its version and threads."""
    import numpy as np
    import torch

    from experiments.bench.omar_torch import Learner
    from jaxoff import registry

    episodes = registry.make_data(TASK)
    flat = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])  # noqa: E731
    data = {
        "obs": flat(episodes.obs[:, :-1]),
        "next_obs": flat(episodes.obs[:, 1:]),
        "actions": flat(episodes.actions),
        "reward": flat(episodes.agent_reward),
        "terminated": flat(episodes.terminated),
    }
    torch.manual_seed(0)
    learner, best = Learner(data, cql=5.0, mimic=1.0), float("inf")
    learner.round()
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(rounds):
            learner.round()
        best = min(best, time.perf_counter() - begin)
    return rounds / best, f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def main() -> None:
    """Measure and write omar.md."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.omar", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="of a timing")
    parser.add_argument("--runs", type=int, nargs="*", default=[1, 2, 4, 8], help="numbers of runs of ours")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where omar.md goes")
    chosen = parser.parse_args()
    from experiments.bench import speed
    from jaxoff.files import write_text

    theirs, about = torch_rounds_per_s(chosen.rounds)
    case = speed.Case("omar", TASK, {}, chosen.rounds)
    rows = [speed.measure("omar", case, way, count) for count in chosen.runs for way in speed.ways()]
    lines = [
        "# OMAR: rounds per second beside PyTorch",
        "",
        f"{runtime.hardware()}; {about}; commit {runtime.git_commit()}; command `make bench-omar`.",
    ]
    lines += ["", *(__doc__ or "").split("\n\n", 1)[1].strip().split("\n"), "A round updates all three agents.", ""]
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
