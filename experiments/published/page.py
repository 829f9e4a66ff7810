"""docs/published.md: what published numbers there are, and where they contradict each other."""

from __future__ import annotations

from collections.abc import Sequence

from jaxoff.experiments import published

from jaxoff.report.published import Number
from jaxoff.report.render import escaped

HEAD = """# Published numbers

Numbers of other work on the same public data, each with its source, in
`experiments/published/*.csv`. `jaxoff report FOLDER --published experiments/published` sets those
on a report's datasets beside ours. This page is written by `make evidence`.
"""
SOURCES = {
    "OMAR": "The tables of Pan et al. (2022), as on the slides of the talk.",
    "OG-MARL": "Statistics of 84 datasets, from the cards of github.com/instadeepai/og-marl.",
    "MADiff": "README of github.com/zbzhu99/madiff at three commits; the first has deviations.",
    "ComaDICE": "Outputs of a notebook of github.com/vietbt/ComaDICE, deviations over 5 seeds.",
    "CoFlow": "Pictures of tables of github.com/Guowei-Zou/coflow-release, read by eye.",
}
LEFT_OUT = """Left out, since no source with numbers was at hand: CFCQL's table of win rates; the
tables of OMIGA and of InSPO (InSPO's few known numbers are in `experiments/inspo/paper.csv`); the
appendices of OG-MARL's and Oryx's papers, of which there are ratios in pictures only. The printed
numbers of SIT, YANHUI and PJAP are in the `paper.csv` of their folders.
"""
AUDIT = """## Where they contradict each other

Found by comparing all rows: tables that mix kinds of numbers, columns of two sources with the same
numbers under different names, and numbers of one method on one dataset that differ by more than
1 % and the last printed digit. `data` is the mean return of a dataset. The cards of OG-MARL are of
one seed of OMAR's data, of which there are five.
"""


def markdown(numbers: Sequence[Number]) -> str:
    """The page."""
    lines = [HEAD, "| source | numbers | datasets | what it is |", "|---|---|---|---|"]
    for source, text in SOURCES.items():
        own = [each for each in numbers if each.source == source]
        datasets = len({each.dataset for each in own})
        lines.append(f"| {source} | {len(own)} | {datasets} | {text} |")
    lines += ["", LEFT_OUT, AUDIT]
    found = published.audit(numbers)
    for kind in dict.fromkeys(each.kind for each in found):
        some = [each for each in found if each.kind == kind]
        title = f"{kind[0].upper()}{kind[1:]}"
        lines += [f"### {title}: {len(some)}", "", "| where | what the sources say |", "|---|---|"]
        lines += [f"| {escaped(each.where)} | {escaped(each.text)} |" for each in some]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
