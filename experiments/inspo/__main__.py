"""`python -m experiments.inspo`: see `experiments.inspo.command`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    from experiments.arguments import parse
    from experiments.inspo.command import PARTS, run_parts
    from jaxoff.report.html import index

    chosen = parse("experiments.inspo", "Tables 1-3, Figures 3 and 5 of Liu et al. (2025).", list(PARTS), "results/inspo")
    print(f"page: {index(chosen.out, 'InSPO', run_parts(chosen.part, chosen.scale, chosen.out))}")
