"""Tilbury et al. (2024), section 3, in NumPy and float64: fields, paths and fixed points from the
moments of the data.

Written from the paper's formulas, without the library's code. x and y are agents 0 and 1.
"""

from __future__ import annotations

import numpy as np

A, B, C = 1.0, 4.0, 5.0
PEAK = np.sqrt((C - 2 * A) / (2 * B))


def reward(game: str, x, y):
    """Reward of joint actions."""
    return {
        "decoupled": lambda: x + y,
        "sign": lambda: x * y,
        "action": lambda: -((x - y) ** 2),
        "twin_peaks": lambda: -A * (x**2 + y**2) - B * x**2 * y**2 + C * x * y,
    }[game]()


def true_field(game: str, x, y):
    """Gradient of the reward, (d/dx, d/dy)."""
    one = np.ones_like(x)
    return {
        "decoupled": lambda: (one, one),
        "sign": lambda: (y, x),
        "action": lambda: (2 * y - 2 * x, 2 * x - 2 * y),
        "twin_peaks": lambda: (
            -2 * A * x - 2 * B * x * y**2 + C * y,
            -2 * A * y - 2 * B * x**2 * y + C * x,
        ),
    }[game]()


def moments(data):
    """Means and mean squares of data [M, 2]: m_x, m_y, s_x, s_y."""
    data = np.asarray(data, np.float64)
    return (*data.mean(0), *(data**2).mean(0))


def induced_field(game: str, x, y, data):
    """What best responses to data follow: agent x meets the data's y, and the reverse."""
    mx, my, sx, sy = moments(data)
    one = np.ones_like(x)
    return {
        "decoupled": lambda: (one, one),
        "sign": lambda: (my * one, mx * one),
        "action": lambda: (2 * my - 2 * x, 2 * mx - 2 * y),
        "twin_peaks": lambda: (
            C * my - (2 * A + 2 * B * sy) * x,
            C * mx - (2 * A + 2 * B * sx) * y,
        ),
    }[game]()


def path(game: str, start, data, eta: float, steps: int):
    """Joint policies [steps + 1, 2] under exact gradients, in closed form."""
    mx, my, sx, sy = moments(data)
    k = np.arange(steps + 1)[:, None]
    start = np.asarray(start, np.float64)
    if game in ("decoupled", "sign"):
        return start + eta * k * (np.ones(2) if game == "decoupled" else np.array([my, mx]))
    rate = np.full(2, 2.0) if game == "action" else 2 * A + 2 * B * np.array([sy, sx])
    fixed = np.array([my, mx]) if game == "action" else C * np.array([my, mx]) / rate
    return fixed + (1 - eta * rate) ** k * (start - fixed)


def twin_peaks_fixed_point(data):
    """C m / (2A + 2B s) with the other agent's moments, [2]."""
    mx, my, sx, sy = moments(data)
    return np.array([C * my / (2 * A + 2 * B * sy), C * mx / (2 * A + 2 * B * sx)])


def variance_of_equation_5(mean):
    """Eq. 5: the variance with which data of this mean lead to the maximum of the same sign;
    negative: impossible.
    """
    return -(mean**2) + C * np.abs(mean) / np.sqrt(2 * B * (C - 2 * A)) - A / B
