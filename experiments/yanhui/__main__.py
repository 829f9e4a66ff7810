"""`python -m jaxoff.experiments.yanhui`: see `jaxoff.experiments.yanhui.command`."""

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    from jaxoff.experiments.arguments import parse
    from jaxoff.experiments.yanhui.command import PARTS, run_parts

    from jaxoff.report.html import index

    chosen = parse(
        "jaxoff.experiments.yanhui",
        "Tables 1 and 2, Figures 1 and 2 of Meng et al. (2024).",
        [*PARTS, "claim"],
        "results/yanhui",
    )
    print(f"page: {index(chosen.out, 'YANHUI', run_parts(chosen.part, chosen.scale, chosen.out))}")
