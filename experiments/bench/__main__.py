"""`python -m jaxoff.experiments.bench [learner ...]`: speeds, and how policies were trained."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup(cache=False)  # compile times are measured
    import argparse
    from pathlib import Path

    import jax
    from jaxoff.experiments.bench import blocks, growth, speed, teaching, tokens

    parser = argparse.ArgumentParser(
        prog="python -m jaxoff.experiments.bench",
        description="Updates/s of each learner by number of runs.",
    )
    pages = ("tokens", "blocks", "double", "growth")
    names = [*speed.CASES, *pages]
    slow = "teaching"  # one to two hours: only where it is named
    parser.add_argument(
        "learner",
        nargs="*",
        choices=[[], *names, slow],
        default=[],
        help="or tokens: of transformers; or blocks: cut into blocks or not; or double: the "
        "same in double precision; or growth: by size; or teaching: ways to train a behaviour "
        "policy, one to two hours; default: every one but teaching",
    )
    parser.add_argument("--runs", nargs="*", type=int, help="numbers of runs to measure")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent,
        help="where speed.csv, .md, .png, .svg and the pages of the others go",
    )
    chosen = parser.parse_args()
    counts = chosen.runs or (
        speed.RUNS if jax.default_backend() == "cpu" else speed.RUNS_ACCELERATOR
    )
    wanted = chosen.learner or names
    if chosen.runs and not {*speed.CASES, "tokens"} & {*wanted}:
        parser.error(f"argument --runs: expected a learner or tokens, found {' '.join(wanted)}")
    learners = [name for name in wanted if name not in (*pages, slow)]
    made = speed.run(chosen.out, learners, counts) if learners else []
    made += [tokens.run(chosen.out, chosen.runs or tokens.RUNS)] if "tokens" in wanted else []
    made += [blocks.run(chosen.out)] if "blocks" in wanted else []
    made += [blocks.run_double(chosen.out)] if "double" in wanted else []
    made += growth.run(chosen.out) if "growth" in wanted else []
    made += teaching.run(chosen.out) if slow in wanted else []
    print(*made, sep="\n")
