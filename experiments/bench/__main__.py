"""`python -m jaxoff.experiments.bench [learner ...]`: see speed, tokens, blocks and growth."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup(cache=False)  # compile times are measured
    import argparse
    from pathlib import Path

    import jax
    from jaxoff.experiments.bench import blocks, growth, speed, tokens

    parser = argparse.ArgumentParser(
        prog="python -m jaxoff.experiments.bench",
        description="Updates/s of each learner by number of runs.",
    )
    pages = ("tokens", "blocks", "double", "growth")
    names = [*speed.CASES, *pages]
    parser.add_argument(
        "learner",
        nargs="*",
        choices=[[], *names],
        default=[],
        help="or tokens: of transformers; or blocks: cut into blocks or not; or double: the "
        "same in double precision; or growth: by size; default: every one",
    )
    parser.add_argument("--runs", nargs="*", type=int, help="numbers of runs to measure")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent,
        help="where speed.csv, .md, .png, .svg, tokens.md, blocks.md, double.md, growth.md go",
    )
    chosen = parser.parse_args()
    counts = chosen.runs or (
        speed.RUNS if jax.default_backend() == "cpu" else speed.RUNS_ACCELERATOR
    )
    wanted = chosen.learner or names
    learners = [name for name in wanted if name not in pages]
    made = speed.run(chosen.out, learners, counts) if learners else []
    made += [tokens.run(chosen.out, chosen.runs or tokens.RUNS)] if "tokens" in wanted else []
    made += [blocks.run(chosen.out)] if "blocks" in wanted else []
    made += [blocks.run_double(chosen.out)] if "double" in wanted else []
    made += growth.run(chosen.out) if "growth" in wanted else []
    print(*made, sep="\n")
