"""`python -m jaxoff.experiments.pjap`: see `jaxoff.experiments.pjap.command`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    from jaxoff.experiments.arguments import parse
    from jaxoff.experiments.pjap.command import PARTS, run_parts

    from jaxoff.report.html import index

    chosen = parse(
        "jaxoff.experiments.pjap",
        "Figures of Tilbury et al. (2024); all: 1-5.",
        [*PARTS, "fig6"],
        "results/pjap",
        data_dir=True,
    )
    made = run_parts(chosen.part, chosen.scale, chosen.out, chosen.data_dir)
    print(f"page: {index(chosen.out, 'PJAP', made)}")
