"""What YANHUI's claim asks for: ties, differences, and areas of curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxoff.experiments import checks
from jaxoff.experiments.checks import Check, Values


def pooled_error(a: np.ndarray, b: np.ndarray) -> float:
    """Standard error of the difference of two means."""
    return float(np.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)))


def tie(values: Values, task: str, name: str) -> Check:
    """A1, without poor data: |YANHUI - MADT| is at most 1, or two pooled standard errors."""
    ours, theirs = values[task, "YANHUI"], values[task, "MADT"]
    gap, most = abs(ours.mean() - theirs.mean()), max(1.0, 2 * pooled_error(ours, theirs))
    return Check(
        f"A1, {name}: YANHUI and MADT tie",
        f"difference {gap:.2f}, allowed {most:.2f}",
        bool(gap <= most),
    )


def above(values: Values, task: str, name: str, other: str) -> Check:
    """A2, half of the data poor: YANHUI is above another column."""
    return checks.above(values, task, f"A2, {name}", "YANHUI", other)


def kept(values: Values, clean: str, mixed: str, name: str) -> Check:
    """A2 on the easy map: YANHUI keeps 80 % of its return without poor data."""
    share = values[mixed, "YANHUI"].mean() / max(values[clean, "YANHUI"].mean(), 1e-9)
    return Check(f"A2, {name}: YANHUI keeps 80 %", f"{100 * share:.0f} %", bool(share >= 0.8))


def without_contrast(values: Values, task: str, name: str) -> list[Check]:
    """A4, half of the data poor: YANHUI without contrast is within two pooled standard errors of
    MADT, and below YANHUI.
    """
    ours, ablated, theirs = (values[task, column] for column in ("YANHUI", "no contrast", "MADT"))
    gap, most = abs(ablated.mean() - theirs.mean()), 2 * pooled_error(ablated, theirs)
    below = f"no contrast {ablated.mean():.2f}, YANHUI {ours.mean():.2f}"
    return [
        Check(
            f"A4, {name}: no contrast and MADT tie",
            f"difference {gap:.2f}, allowed {most:.2f}",
            bool(gap <= most),
        ),
        Check(f"A4, {name}: no contrast below YANHUI", below, bool(ablated.mean() < ours.mean())),
    ]


def area(values: Values, tasks: Mapping[int, str], column: str, most: int = 90) -> float:
    """Mean return over the percentage of poor data, up to `most`, by the trapezoidal rule."""
    x = np.array([percent for percent in tasks if percent <= most], float)
    y = np.array([values[tasks[int(percent)], column].mean() for percent in x])
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / np.ptp(x))


def robust(values: Values, tasks: Mapping[int, str], columns: Sequence[str]) -> list[Check]:
    """A3: YANHUI's area under return over p <= 90 % is the largest, and its fall from 0 to 50 %
    smaller than MADT's.
    """
    areas = {name: area(values, tasks, name) for name in columns}
    best = max((name for name in columns if name != "YANHUI"), key=areas.__getitem__)
    text = f"YANHUI {areas['YANHUI']:.2f}, best other {best} {areas[best]:.2f}"
    falls = {
        name: values[tasks[0], name].mean() - values[tasks[50], name].mean()
        for name in ("YANHUI", "MADT")
    }
    fall = f"YANHUI {falls['YANHUI']:.2f}, MADT {falls['MADT']:.2f}"
    return [
        Check("A3: largest area under return(p), p <= 90 %", text, areas["YANHUI"] > areas[best]),
        Check(
            "A3: falls less than MADT from 0 to 50 %", fall, bool(falls["YANHUI"] < falls["MADT"])
        ),
    ]
