"""`python -m experiments.sit`: see `experiments.sit.command`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    from experiments.arguments import parse
    from experiments.sit.command import ALONE, PARTS, run_parts
    from jaxoff.report.html import index

    chosen = parse(
        "experiments.sit",
        "Table 1 and the figures of Tian et al. (2023).",
        [*PARTS, *ALONE],
        "results/sit",
    )
    print(f"page: {index(chosen.out, 'SIT', run_parts(chosen.part, chosen.scale, chosen.out))}")
