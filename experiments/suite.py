"""`python -m jaxoff.experiments.suite`: all of the embedded suite, on one page."""

from __future__ import annotations

import time

from jaxoff import runtime


def main() -> None:
    """Run InSPO's and PJAP's experiments and write index.html."""
    from jaxoff.experiments.arguments import parse
    from jaxoff.experiments.inspo import command as inspo
    from jaxoff.experiments.pjap import command as pjap

    from jaxoff.report.html import Section, index

    chosen = parse(
        "jaxoff.experiments.suite",
        "Games and Bridge: InSPO and PJAP.",
        ("inspo", "pjap"),
        "results/benchmark",
    )
    begin = time.perf_counter()
    sections: list[Section] = []
    for name, paper in (("inspo", inspo), ("pjap", pjap)):
        if chosen.part in (name, "all"):
            made = paper.run_parts("all", chosen.scale, chosen.out / name)
            sections += [
                section._replace(stems=[f"{name}/{stem}" for stem in section.stems])
                for section in made
            ]
    page = index(chosen.out, f"jaxoff: embedded suite, scale {chosen.scale}", sections)
    print(
        f"{len(sections)} sections in {time.perf_counter() - begin:.0f} s on {runtime.hardware()}"
    )
    print(f"page: {page}")


if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    main()
