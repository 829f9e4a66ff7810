"""`python -m jaxoff.experiments.datasets`: see `jaxoff.experiments.datasets.table`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup(cache=False)  # compile times are measured
    import argparse
    from pathlib import Path

    from jaxoff.experiments.datasets import table

    parser = argparse.ArgumentParser(
        prog="python -m jaxoff.experiments.datasets",
        description="Make every dataset, and a table of what they hold.",
    )
    parser.add_argument(
        "--tasks",
        nargs="*",
        default=["*"],
        metavar="PATTERN",
        help="task strings with * and ?; default: every one",
    )
    parser.add_argument(
        "--episodes", type=int, help="make so many of each, instead of its own number"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the recipes")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/datasets"),
        help="where datasets.csv, .md and the figures go",
    )
    chosen = parser.parse_args()
    print(*table.run(chosen.out, chosen.tasks, chosen.episodes, chosen.seed), sep="\n")
