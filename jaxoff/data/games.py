"""Qualities of the games' datasets: XOR, MNE, Bridge and the polynomial games; without JAX."""

from __future__ import annotations

import math
import re

from jaxoff.errors import InvalidSetting

XOR_ACTIONS = {
    "a": [(0, 1)],
    "b": [(0, 1), (1, 0)],
    "c": [(0, 0), (0, 1), (1, 0)],
    "d": [(0, 0), (0, 1), (1, 0), (1, 1)],
}
MNE_MARGINALS = {
    "balanced": (1 / 3, 1 / 3, 1 / 3),
    "imbalanced": (0.8, 0.1, 0.1),
    "imbalanced-0.9": (0.9, 0.05, 0.05),
    "imbalanced-0.98": (0.98, 0.01, 0.01),
}
MNE_REWARDS = {"mne": 0.0, "mne-20": -20.0}  # scenario -> reward off the diagonal
BRIDGE_QUALITIES = ("optimal", "mixed", "random")
POLYNOMIALS = ("decoupled", "sign", "action", "twin_peaks")
PEAK = math.sqrt(3 / 8)  # coordinate of twin peaks' maximum, envs.games.polynomial.peak()
_NUMBER = r"(-?\d+(?:\.\d+)?)"
POLY_PATTERNS = {
    name: re.compile(text)
    for name, text in (
        ("origin", rf"origin-s{_NUMBER}"),
        ("peak", rf"peak-s{_NUMBER}"),
        ("normal", rf"normal-m{_NUMBER}-s{_NUMBER}"),
    )
}


def parse_polynomial(game: str, quality: str) -> tuple[float, float] | None:
    """Mean and standard deviation of a Gaussian quality; None for `uniform`.

    Qualities: uniform, normal-m<mean>-s<sigma>, and for twin_peaks origin-s<sigma>, peak-s<sigma>.
    Raises InvalidSetting for any other quality.
    """
    if game not in POLYNOMIALS:
        raise InvalidSetting(f"poly: expected one of {', '.join(POLYNOMIALS)}, found '{game}'")
    if quality == "uniform":
        return None
    for kind, pattern in POLY_PATTERNS.items():
        found = pattern.fullmatch(quality)
        if found and (kind == "normal" or game == "twin_peaks"):
            mean = {"origin": 0.0, "peak": PEAK}.get(kind, float(found[1]))
            sigma = float(found.groups()[-1])
            if sigma >= 0:
                return mean, sigma
    raise InvalidSetting(f"poly/{game}: '{quality}' is no quality")
