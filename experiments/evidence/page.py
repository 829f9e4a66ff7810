"""docs/evidence.md and docs/evidence.json: every claim with its verdict, from the stores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jaxoff.experiments.evidence import PAPERS, UNTESTED, VERDICTS, Finding, Part
from jaxoff.experiments.paper import load

from jaxoff.files import plain
from jaxoff.report.render import code, escaped

MARKS = {True: "holds", False: "does not hold", None: "not tested"}
HEAD = """# Evidence

What the papers claim, and what our results say of it. Each verdict is computed by
`make evidence` from committed numbers, one row per run, in `experiments/reference/*/runs.csv`; no
verdict is written by hand, and a claim without rows is not tested. The checks are code, in
`experiments/*/claims.py`. The same is in [evidence.json](evidence.json).

A claim has parts. It is *reproduced* if all of them hold, *not reproduced* if none of those that
were tested does, *not tested* if no part has its rows, and otherwise *partly* reproduced: some
parts do not hold, or have no rows. An effect is a mean, or a mean difference, with its 95 %
interval over seeds. Scale `cpu` has smaller nets and fewer updates than the papers; `full` has
theirs. What was computed rather than trained has no scale.
"""


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """How many claims have each verdict."""
    found = Counter(finding.verdict for finding in findings)
    return {verdict: found[verdict] for verdict in VERDICTS}


def _name(finding: Finding) -> str:
    return f"{load(finding.paper).title} A{finding.claim.number}"


def _anchor(finding: Finding) -> str:
    """The address that the site and other readers of Markdown give a claim's heading."""
    text = f"{_name(finding)} {finding.claim.title}".lower()
    return "".join(x if x.isalnum() or x in "-_" else "-" if x == " " else "" for x in text)


def _distinct(finding: Finding, column: str) -> list[str]:
    return sorted({str(getattr(row, column)) for row in finding.rows if getattr(row, column)})


def _seeds(finding: Finding) -> str:
    """How many seeds the groups of rows that were used have."""
    groups = Counter((row.task, row.label, row.key) for row in finding.rows)
    few, many = (choose(groups.values(), default=0) for choose in (min, max))
    return str(many) if few == many else f"{few} to {many}"


def markdown(findings: Sequence[Finding]) -> str:
    """The page."""
    total = counts(findings)
    lines = [HEAD, "| paper | " + " | ".join(VERDICTS) + " |", "|---" * (len(VERDICTS) + 1) + "|"]
    for paper in PAPERS:
        some = counts([finding for finding in findings if finding.paper == paper])
        cells = " | ".join(str(some[verdict]) for verdict in VERDICTS)
        lines.append(f"| {load(paper).title} | {cells} |")
    lines += ["| all | " + " | ".join(str(total[verdict]) for verdict in VERDICTS) + " |", ""]
    for paper in PAPERS:
        of_paper = [finding for finding in findings if finding.paper == paper]
        lines += [
            f"## {load(paper).title}",
            "",
            "| claim | verdict | parts that hold |",
            "|---|---|---|",
        ]
        for finding in of_paper:
            tested = [part for part in finding.parts if part.holds is not None]
            held = sum(bool(part.holds) for part in tested)
            rest = len(finding.parts) - len(tested)
            text = f"{held} of {len(tested)}" if tested else ""
            text += ("; " if text else "") + f"{rest} not tested" if rest else ""
            link = f"[A{finding.claim.number} {finding.claim.title}](#{_anchor(finding)})"
            lines.append(f"| {link} | {finding.verdict} | {text} |")
        lines.append("")
        for finding in of_paper:
            lines += _section(finding)
    return "\n".join(lines).rstrip() + "\n"


def _section(finding: Finding) -> list[str]:
    claim = finding.claim
    lines = [
        f"### {_name(finding)} {claim.title}",
        "",
        f"**{finding.verdict.capitalize()}.** {claim.says}",
        "",
        f"Asked: {claim.asks}",
        "",
    ]
    tested = [part for part in finding.parts if part.holds is not None]
    if tested:
        lines += ["| part | found | verdict |", "|---|---|---|"]
        lines += [f"| {escaped(x.name)} | {escaped(x.found)} | {MARKS[x.holds]} |" for x in tested]
        lines.append("")
    lines += _untested(finding)
    if claim.means and len(tested) < len(finding.parts):
        links = ", ".join(f"[{x}](../experiments/reference/{x})" for x in claim.means)
        lines.append(f"- Means over seeds, without a row for each run: {links}")
    if finding.verdict != UNTESTED:
        lines += _origin(finding)
    return [*lines, f"- Rows come from: {claim.run}", ""]


def _untested(finding: Finding) -> list[str]:
    """Why parts were not tested, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for part in finding.parts:
        if part.holds is None:
            reasons.setdefault(part.found, []).append(part.name)
    return [
        f"- Not tested{f' ({escaped(names)})' if names else ''}: {escaped(reason)}."
        for reason, parts in reasons.items()
        for names in [", ".join(filter(None, parts))]
    ]


def _origin(finding: Finding) -> list[str]:
    """Seeds, scale, commits, hardware and commands of the rows that were used."""
    lines = []
    if finding.rows:
        scales = ", ".join(_distinct(finding, "scale")) or "none"
        where = "; ".join(", ".join(_distinct(finding, x)) for x in ("commit", "hardware"))
        count, seeds = len(finding.rows), _seeds(finding)
        lines.append(
            f"- {count} row{'s' * (count != 1)}, {seeds} seed{'s' * (seeds != '1')} of each; "
            f"scale {scales}; commit {where}"
        )
        tables = [x for x in _distinct(finding, "source") if x.endswith(".csv")]
        lines += [f"- Of these from tables: {', '.join(map(code, tables))}"] if tables else []
        lines.append(f"- Made by: {', '.join(map(code, _distinct(finding, 'command')))}")
    if finding.sources:
        lines.append(f"- Committed tables: {', '.join(map(code, finding.sources))}")
    return lines


def _part(part: Part) -> dict[str, Any]:
    named = dict(zip(("mean", "low", "high"), part.effect, strict=True)) if part.effect else None
    short = {k: float(f"{x:.4g}") for k, x in named.items()} if named else None
    return {"name": part.name, "found": part.found, "holds": part.holds, "effect": short}


def record(findings: Sequence[Finding]) -> str:
    """The page as JSON: counts, and for each claim its parts, effects and the origin of rows."""
    listed = [
        {
            "paper": finding.paper,
            "claim": f"A{finding.claim.number}",
            "title": finding.claim.title,
            "says": finding.claim.says,
            "asks": finding.claim.asks,
            "verdict": finding.verdict,
            "parts": [_part(part) for part in finding.parts],
            "rows": len(finding.rows),
            "seeds": _seeds(finding) if finding.rows else "",
            **{
                name: _distinct(finding, name)
                for name in ("scale", "commit", "hardware", "command", "source")
            },
            "tables": list(finding.sources),
            "run": finding.claim.run,
        }
        for finding in findings
    ]
    return json.dumps(plain({"counts": counts(findings), "claims": listed}), indent=1) + "\n"


def headline(findings: Sequence[Finding]) -> str:
    """The counts in one line."""
    return ", ".join(f"{number} {verdict}" for verdict, number in counts(findings).items())
