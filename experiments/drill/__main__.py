"""`python -m jaxoff.experiments.drill [PART ...]`: the drills, and a page that tells what held."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxoff.experiments.drill import Drill, exactness, inputs, kills

from jaxoff import runtime
from jaxoff.files import write_text

PARTS = ("kills", "inputs", "failed", "company")


def main() -> None:
    """Run the drills and write drill.md."""
    parser = argparse.ArgumentParser(prog="python -m jaxoff.experiments.drill", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"among {', '.join(PARTS)}; default: all")
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path, default=Path("results/drill"))
    chosen = parser.parse_args()
    wanted = chosen.part or PARTS
    if strange := [part for part in wanted if part not in PARTS]:
        parser.error(f"expected parts among {', '.join(PARTS)}, found {', '.join(strange)}")
    made = []
    with tempfile.TemporaryDirectory(prefix="jaxoff-drill-") as place:
        for part in wanted:
            folder = Path(place) / part
            if part == "kills":
                made.append(kills.drill(folder, chosen.kills, chosen.seed))
            elif part == "inputs":
                made.append(inputs.drill(folder))
            else:
                made.append(
                    {"failed": exactness.one_failed, "company": exactness.company}[part](folder)
                )
            print(f"{made[-1].name}: {made[-1].held} of {made[-1].tries}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    command = f"python -m jaxoff.experiments.drill {' '.join(chosen.part)}".strip()
    page = write_text(chosen.out / "drill.md", markdown(made, f"{command} --seed {chosen.seed}"))
    print(f"page: {page}")


def markdown(drills: list[Drill], command: str) -> str:
    """The page: one table of all drills, and a table of the tries of each."""
    versions = runtime.versions()
    lines = [
        "# What a training keeps, and what it repeats exactly",
        "",
        f"Command: `{command}`; {runtime.hardware()}; jax {versions['jax']}; "
        f"commit {runtime.git_commit()}.",
        "",
        *_table(
            ("drill", "what must hold", "held"),
            [(each.name, each.asked, f"{each.held} of {each.tries}") for each in drills],
        ),
    ]
    for each in drills:
        lines += [
            "",
            f"## {each.name[0].upper()}{each.name[1:]}",
            "",
            *_table(each.head, each.rows),
        ]
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


if __name__ == "__main__":
    main()
