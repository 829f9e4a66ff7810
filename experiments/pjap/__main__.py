"""`python -m experiments.pjap`: see `experiments.pjap.command`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    from experiments.arguments import parse
    from experiments.pjap.command import PARTS, run_parts
    from jaxoff.report.html import index

    chosen = parse(
        "experiments.pjap",
        "Figures of Tilbury et al. (2024); all: 1-5.",
        [*PARTS, "fig6"],
        "results/pjap",
        data_dir=True,
    )
    made = run_parts(chosen.part, chosen.scale, chosen.out, chosen.data_dir)
    print(f"page: {index(chosen.out, 'PJAP', made)}")
