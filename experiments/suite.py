"""`python -m jaxoff.experiments.suite`: all of the embedded suite, on one page."""

from __future__ import annotations

import time

from jaxoff.experiments.paper import engine_of, load, parser_of

from jaxoff import runtime
from jaxoff.errors import JaxoffError
from jaxoff.report.html import Section, index

PAPERS = ("inspo", "pjap")


def main() -> None:
    """Run InSPO's and PJAP's experiments and write index.html."""
    runtime.setup()  # before the first array, and importing a simulator makes some
    about = "Games and Bridge: InSPO and PJAP."
    parser = parser_of("suite", about, (*PAPERS, "all"), "results/benchmark", data_dir=False)
    chosen = parser.parse_args()
    try:
        engine = engine_of(chosen)
    except JaxoffError as error:
        parser.error(str(error))
    begin = time.perf_counter()
    sections: list[Section] = []
    for name in PAPERS if chosen.part == "all" else (chosen.part,):
        made = load(name).make("all", chosen.scale, chosen.out / name, engine=engine)
        sections += [
            section._replace(stems=[f"{name}/{stem}" for stem in section.stems]) for section in made
        ]
    page = index(chosen.out, f"jaxoff: embedded suite, scale {chosen.scale}", sections)
    print(
        f"{len(sections)} sections in {time.perf_counter() - begin:.0f} s on {runtime.hardware()}"
    )
    print(f"page: {page}")


if __name__ == "__main__":
    main()
