"""`python -m jaxoff.experiments.inspo`: see `jaxoff.experiments.inspo.command`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    from jaxoff.experiments.arguments import parse
    from jaxoff.experiments.inspo.command import PARTS, SMAX_PARTS, run_parts
    from jaxoff.experiments.inspo.tuning import tune

    from jaxoff.report.html import index

    parts = [*PARTS, *SMAX_PARTS, "smax", "tune"]
    chosen = parse(
        "jaxoff.experiments.inspo",
        "Tables 1-7, Figures 3 and 5 of Liu et al. (2025).",
        parts,
        "results/inspo",
    )
    if chosen.part == "tune":
        print(f"chosen: {tune(chosen.out)}")
        raise SystemExit
    print(f"page: {index(chosen.out, 'InSPO', run_parts(chosen.part, chosen.scale, chosen.out))}")
