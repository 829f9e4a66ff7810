"""`python -m jaxoff.experiments.sit`: see `jaxoff.experiments.sit.command`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    from jaxoff.experiments.arguments import parse
    from jaxoff.experiments.sit.command import ALONE, PARTS, run_parts

    from jaxoff.report.html import index

    chosen = parse(
        "jaxoff.experiments.sit",
        "Table 1 and the figures of Tian et al. (2023).",
        [*PARTS, *ALONE],
        "results/sit",
    )
    print(f"page: {index(chosen.out, 'SIT', run_parts(chosen.part, chosen.scale, chosen.out))}")
