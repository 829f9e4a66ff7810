"""`python -m jaxoff.experiments.omar`: see `jaxoff.experiments.omar.command`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    from jaxoff.experiments.arguments import parse
    from jaxoff.experiments.omar.command import ALONE, PARTS, run_parts

    from jaxoff.report.html import index

    chosen = parse(
        "jaxoff.experiments.omar",
        "Pan et al. (2022): examples and particle games.",
        [*PARTS, *ALONE],
        "results/omar",
        data_dir=True,
    )
    made = run_parts(chosen.part, chosen.scale, chosen.out, chosen.data_dir)
    print(f"page: {index(chosen.out, 'OMAR', made)}")
