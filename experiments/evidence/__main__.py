"""`python -m jaxoff.experiments.evidence`: compute what is missing, and write the pages of claims
and of published numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxoff import runtime

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    """Put measures into the stores, and write the page and its JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxoff.experiments.evidence",
        description="Verdicts on the papers' claims, from the stores of experiments/reference.",
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page")
    parser.add_argument(
        "--measure",
        nargs="*",
        default=(),
        metavar="NAME",
        help="also compute these measures, which take minutes or public data, where a store lacks "
        "them",
    )
    parser.add_argument("--data-dir", help="folder of public data, for measures that read it")
    parser.add_argument(
        "--no-measures", action="store_true", help="compute nothing: the page from what is there"
    )
    parser.add_argument(
        "--import-tables",
        action="store_true",
        help="put the numbers of committed tables into the stores",
    )
    parser.add_argument(
        "--dirty", action="store_true", help="compute measures from a changed source tree, too"
    )
    chosen = parser.parse_args()
    runtime.setup()  # before the first array
    from jaxoff.experiments import published
    from jaxoff.experiments.evidence import PAPERS, everything, imported, measures, page
    from jaxoff.experiments.published.page import markdown as published_page

    from jaxoff.errors import JaxoffError
    from jaxoff.files import write_text

    known = {name for paper in PAPERS for name in measures.measures_of(paper)}
    unknown = sorted(set(chosen.measure) - known)
    if unknown:
        parser.error(f"--measure: expected {', '.join(sorted(known))}, found {', '.join(unknown)}")
    public = any(
        measure.public
        for paper in PAPERS
        for name, measure in measures.measures_of(paper).items()
        if name in chosen.measure
    )
    if public != (chosen.data_dir is not None):
        readers = ", ".join(name for name in sorted(known) if name == "replays")
        parser.error(f"--data-dir: expected with --measure {readers}, and then only")
    try:
        for paper in PAPERS:
            if chosen.import_tables:
                print(f"{paper}: {imported.update(paper)} rows from tables")
            if not chosen.no_measures:
                asked = chosen.measure, chosen.data_dir
                for name in measures.update(paper, *asked, dirty=chosen.dirty):
                    print(f"{paper}: {name} computed")
    except (JaxoffError, OSError) as error:
        parser.error(str(error))
    found = everything()
    write_text(chosen.docs / "evidence.json", page.record(found))
    write_text(chosen.docs / "published.md", published_page(published.numbers()))
    print(f"page: {write_text(chosen.docs / 'evidence.md', page.markdown(found))}")
    print(page.headline(found))


if __name__ == "__main__":
    main()
