"""`python -m jaxoff.experiments.suite`: the five papers on one page, see points.py."""

from __future__ import annotations

import time

from jaxoff.experiments.paper import Job, engine_of, load, parser_of

from jaxoff import runtime
from jaxoff.errors import JaxoffError
from jaxoff.report.figures import same_looks
from jaxoff.report.html import Section, index


def main() -> None:
    """Run the papers' points and write index.html."""
    runtime.setup()  # before the first array, and importing a simulator makes some
    from jaxoff.experiments.points import POINTS

    about = "Five papers, each by the smallest experiment that shows its point."
    parser = parser_of("suite", about, (*POINTS, "all"), "results/benchmark", data_dir=False)
    chosen = parser.parse_args()
    try:
        engine = engine_of(chosen)
    except JaxoffError as error:
        parser.error(str(error))
    begin = time.perf_counter()
    sections: list[Section] = []
    names = list(POINTS) if chosen.part == "all" else [chosen.part]
    with same_looks(label for name in names for label in load(name).labels):
        for name in names:
            out, use_store = chosen.out / name, not chosen.no_store
            job = Job(name, chosen.scale, out, engine=engine, use_store=use_store)
            for make in POINTS[name]:
                section = make(job)
                stems = [f"{name}/{stem}" for stem in section.stems]
                sections.append(section._replace(stems=stems))
        page = index(chosen.out, f"jaxoff: five papers, scale {chosen.scale}", sections)
    print(
        f"{len(sections)} sections in {time.perf_counter() - begin:.0f} s on {runtime.hardware()}"
    )
    print(f"page: {page}")


if __name__ == "__main__":
    main()
