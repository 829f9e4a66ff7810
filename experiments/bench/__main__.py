"""`python -m experiments.bench [learner ...]`: see `experiments.bench.speed`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup(cache=False)  # compile times are measured
    import argparse
    from pathlib import Path

    import jax

    from experiments.bench import speed

    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description="Updates/s of each learner by number of runs.")
    parser.add_argument("learner", nargs="*", choices=[[], *speed.CASES], default=[], help="default: every one")
    parser.add_argument("--runs", nargs="*", type=int, help="numbers of runs to measure")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where speed.csv, .md, .png, .svg go")
    chosen = parser.parse_args()
    counts = chosen.runs or (speed.RUNS if jax.default_backend() == "cpu" else speed.RUNS_ACCELERATOR)
    print(*speed.run(chosen.out, chosen.learner or list(speed.CASES), counts), sep="\n")
