"""What YANHUI (Meng et al., 2024) claims, as checks of the rows of its store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxoff.experiments.evidence import (
    Cells,
    Check,
    Claim,
    Missing,
    Part,
    above,
    interval,
    level,
    pooled_error,
    shown,
    welch,
)
from jaxoff.experiments.yanhui import checks, runs

EASY, HARD = "3m", ("3s_vs_5z", "corridor")
MAPS = (EASY, *HARD)
METHODS = tuple(runs.PAPER_COLUMNS)
BASELINES = METHODS[:-1]
TABLES = "`make yanhui-table1 SCALE=full`"


def task_of(name: str, percent: int, episodes: int = 200) -> str:
    """The dataset of a map with so many percent of poor episodes."""
    return runs.task_of(name, percent, episodes)


def keeps(share: float) -> Check:
    """On the easy map YANHUI keeps a share of its return without poor data."""

    def check(cells: Cells) -> Part:
        clean, mixed = (cells.of(task_of(EASY, p), "YANHUI") for p in (0, 50))
        found = mixed.mean() / clean.mean()
        return Part("", f"{found:.0%}, asked {share:.0%}", found >= share, welch(mixed, clean))

    return check


def by_percent(cells: Cells, columns: tuple[str, ...]) -> tuple[Mapping[int, str], checks.Values]:
    """The datasets of Figure 2 up to 90 %, and the returns of columns on them."""
    tasks = {p: task_of(EASY, p, 40) for p in runs.PERCENT if p <= 90}
    return tasks, {(task, x): cells.of(task, x) for task in tasks.values() for x in columns}


def largest_area(cells: Cells) -> Part:
    """YANHUI's area under the return over the percentage of poor data is the largest."""
    tasks, values = by_percent(cells, METHODS)
    areas = {name: checks.area(values, tasks, name) for name in METHODS}
    best = max(BASELINES, key=areas.__getitem__)
    text = f"YANHUI {areas['YANHUI']:.2f}, best baseline {best} {areas[best]:.2f}"
    return Part("", text, areas["YANHUI"] > areas[best])


def falls_less(cells: Cells) -> Part:
    """YANHUI falls less than MADT from no poor data to half."""
    tasks, values = by_percent(cells, ("YANHUI", "MADT"))
    falls = {x: values[tasks[0], x] - values[tasks[50], x] for x in ("YANHUI", "MADT")}
    gap = interval(falls["MADT"] - falls["YANHUI"])
    text = f"YANHUI {falls['YANHUI'].mean():.2f}, MADT {falls['MADT'].mean():.2f}"
    return Part("", text, gap[0] > 0, gap)


def ablations_in_order(cells: Cells) -> list[Part]:
    """The order of Table 2 on each of its maps that has rows."""
    order = ("YANHUI", "no mixture", "hard assignment")
    last = ("no contrast", "no cross-entropy")
    parts = []
    for name in (EASY, "MMM2"):
        task = task_of(name, 50)
        if not all(cells.has(task, label) for label in (*order, *last)):
            continue
        means = {label: float(cells.of(task, label).mean()) for label in (*order, *last)}
        chain = [means[label] for label in order] + [max(means[label] for label in last)]
        text = ", ".join(f"{label} {mean:.2f}" for label, mean in means.items())
        parts.append(Part(f"order on {name}", text, bool((np.diff(chain) < 0).all())))
    if not parts:
        raise Missing("no rows of the ablations of Table 2")
    return parts


def near_clean_baselines(cells: Cells) -> Part:
    """With 90 % poor data YANHUI is within two points of the best baseline without any."""
    ours = cells.of(task_of(EASY, 90, 40), "YANHUI")
    clean = {name: cells.of(task_of(EASY, 0, 40), name) for name in BASELINES}
    best = max(clean, key=lambda name: clean[name].mean())
    effect = welch(ours, clean[best])
    text = f"difference from {best} {shown(effect)}, allowed -2"
    return Part("", text, effect[0] >= -2, effect)


def half_way(label: str) -> Check:
    """A value method with half poor data stays below the middle between poor and expert data."""

    def check(cells: Cells) -> Part:
        ours = cells.of(task_of(EASY, 50), label)
        bands = [f"{runs.SCENARIOS[EASY]}/band-{name}" for name in ("poor", "expert")]
        middle = float(np.mean([cells.dataset(task)["mean"] for task in bands]))
        effect = interval(ours)
        return Part("", f"{shown(effect)}, middle {middle:.2f}", effect[0] < middle, effect)

    return check


def over_pooled(name: str) -> Check:
    """Without contrast YANHUI is below YANHUI, by any amount."""

    def check(cells: Cells) -> Part:
        task = task_of(name, 50)
        ours, ablated = cells.of(task, "YANHUI"), cells.of(task, "no contrast")
        effect = welch(ours, ablated)
        text = f"difference {shown(effect)}, pooled error {pooled_error(ours, ablated):.2g}"
        return Part("", text, effect[0] > 0, effect)

    return check


CLAIMS = (
    Claim(
        1,
        "Expert data alone",
        "Without poor data YANHUI, MADT and cloning are all at or near the largest return.",
        "On each map YANHUI and MADT differ by at most 1 or two pooled standard errors; on the "
        "easy map BC is within 2 of MADT.",
        {
            **{
                f"YANHUI and MADT, {name}": level(task_of(name, 0), "YANHUI", "MADT", 2.0, 1.0)
                for name in MAPS
            },
            "BC and MADT, 3m": level(task_of(EASY, 0), "BC", "MADT", 0.0, 2.0),
        },
        TABLES,
        ("yanhui/claim.md", "yanhui/claim-checks.md"),
    ),
    Claim(
        2,
        "Half poor data",
        "With half of the episodes poor the baselines lose half of their return, and YANHUI "
        "hardly any.",
        "On each map YANHUI is above MADT and BC by two standard errors of the paired difference; "
        "on the easy map it keeps 80 % of its return.",
        {
            **{
                f"YANHUI above {other}, {name}": above(task_of(name, 50), "YANHUI", other, errors=2)
                for name in MAPS
                for other in ("MADT", "BC")
            },
            "YANHUI keeps 80 %, 3m": keeps(0.8),
        },
        TABLES,
        ("yanhui/claim.md", "yanhui/claim-checks.md"),
    ),
    Claim(
        3,
        "Proportion of poor data",
        "With 40 episodes YANHUI degrades least as the proportion of poor episodes grows.",
        "Its area under the return, up to 90 %, is larger than every baseline's, and its fall from "
        "0 to 50 % smaller than MADT's.",
        {"largest area": largest_area, "fall from 0 to 50 %": falls_less},
        "`make yanhui-fig2 SCALE=full`",
        ("yanhui/fig2-table.md", "yanhui/fig2-checks.md"),
    ),
    Claim(
        4,
        "Without contrast",
        "Without contrastive learning YANHUI is MADT with a mixture, and as sensitive to poor "
        "data as MADT.",
        "With half of the data poor it is within two pooled standard errors of MADT, and below "
        "YANHUI.",
        {
            "level with MADT": level(task_of(EASY, 50), "no contrast", "MADT"),
            "below YANHUI": over_pooled(EASY),
        },
        "`make yanhui-table2 SCALE=full`",
    ),
    Claim(
        5,
        "Order of the ablations",
        "Every part of the method helps: without the mixture it loses least, then with hard "
        "assignment, most without contrast or cross-entropy.",
        "The means of Table 2 are in this order.",
        {"": ablations_in_order},
        "`make yanhui-table2 SCALE=full`",
    ),
    Claim(
        6,
        "90 % poor data",
        "With 90 % poor data YANHUI is comparable with baselines without any.",
        "Its return is within 2 points of the best baseline's without poor data, 40 episodes each.",
        {"within two points": near_clean_baselines},
        "`make yanhui-fig2 SCALE=full`",
        ("yanhui/fig2-table.md", "yanhui/fig2-checks.md"),
    ),
    Claim(
        7,
        "Value methods",
        "BCQ, CQL and ICQ lose about half of their return with half of the data poor.",
        "They stay below the middle between the mean returns of poor and of expert data.",
        {label: half_way(label) for label in ("BCQ", "CQL", "ICQ")},
        TABLES,
    ),
)
