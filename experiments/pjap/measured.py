"""Numbers of PJAP's claims: closed forms beside the code that trains, and the toy runs of Figures 2
to 5, each figure one program.

The closed forms are the paper's formulas in double precision, from the moments of the data.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxoff.experiments.evidence.measures import Measure, Measured
from jaxoff.experiments.pjap import parts, runs

from jaxoff.envs.games.polynomial import GAMES, TWIN_PEAKS, peak, reward_of

A, B, C = TWIN_PEAKS
SEEDS = range(10)


def true_field(game: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient of a game's reward at lattice points [..., 2]."""
    one = np.ones_like(x)
    return np.stack(
        {
            "decoupled": (one, one),
            "sign": (y, x),
            "action": (2 * y - 2 * x, 2 * x - 2 * y),
            "twin_peaks": (
                -2 * A * x - 2 * B * x * y**2 + C * y,
                -2 * A * y - 2 * B * x**2 * y + C * x,
            ),
        }[game],
        -1,
    )


def induced_field(game: str, x: np.ndarray, y: np.ndarray, data: np.ndarray) -> np.ndarray:
    """What best responses to data [M, 2] follow: each agent meets the other's recorded actions."""
    (mx, my), (sx, sy), one = data.mean(0), (data**2).mean(0), np.ones_like(x)
    return np.stack(
        {
            "decoupled": (one, one),
            "sign": (my * one, mx * one),
            "action": (2 * my - 2 * x, 2 * mx - 2 * y),
            "twin_peaks": (
                C * my - (2 * A + 2 * B * sy) * x,
                C * mx - (2 * A + 2 * B * sx) * y,
            ),
        }[game],
        -1,
    )


def path(game: str, start: tuple[float, float], data: np.ndarray, eta: float, steps: int):
    """Joint policies [steps + 1, 2] under exact gradients."""
    (mx, my), (sx, sy) = data.mean(0), (data**2).mean(0)
    k, begin, met = np.arange(steps + 1)[:, None], np.array(start), np.array([my, mx])
    if game in ("decoupled", "sign"):
        return begin + eta * k * (np.ones(2) if game == "decoupled" else met)
    rate = np.full(2, 2.0) if game == "action" else 2 * A + 2 * B * np.array([sy, sx])
    fixed = met if game == "action" else C * met / rate
    return fixed + (1 - eta * rate) ** k * (begin - fixed)


def closed_forms() -> Iterator[Measured]:
    """Largest differences from the closed forms, of fields as a share of the largest gradient, and
    of paths; and of Eq. 5's fixed point from the maximum.
    """
    x, y = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    points = jnp.asarray(np.stack([x, y], -1), jnp.float32)
    apart = lambda a, b: float(np.abs(np.asarray(a) - b).max())
    share = lambda a, b: apart(a, b) / float(np.abs(b).max())
    for name in GAMES:
        payoff, gaps = runs.payoff(name), []
        for seed in range(5):
            drawn = np.random.default_rng(seed).normal(0.1 * seed, 0.5, (64, 2)).astype(np.float32)
            found = runs.induced_field(payoff, jnp.asarray(drawn), points)
            gaps.append(share(found, induced_field(name, x, y, drawn.astype(float))))
        gaps.append(share(runs.true_field(payoff, points), true_field(name, x, y)))
        data = np.random.default_rng(1).normal(0.3, 0.4, (64, 2)).astype(np.float32)
        episodes = [runs.episodes_of(data, runs.game(name))]
        trained = runs.train_paths(name, runs.full_batch_of, episodes, [0], epochs=60).theta[
            0, 0, 0
        ]
        gap = apart(trained, path(name, (-0.5, 0.5), data.astype(float), 0.02, 60))
        numbers = {"fields": max(gaps), "path": gap}
        yield Measured("closed forms", f"poly/{name}", 0, numbers)
    yield Measured("closed forms", "polynomial of degree 3, 3", 0, {"fields": _random_field()})
    best = float(peak(*TWIN_PEAKS))
    low, gaps = A / (B * best), []
    variance = lambda mean: (C * mean / best - 2 * A) / (2 * B) - mean**2
    for mean in np.linspace(low + 1e-6, best - 1e-6, 21):
        spread = np.sqrt(variance(mean)) * np.array([[-1.0, 1.0], [1.0, -1.0]])
        gaps.append(apart(runs.twin_peaks_fixed_point(mean + spread), best))
    outside = max(variance(mean) for mean in (0.0, low - 1e-3, best + 1e-3, 2.0))
    numbers = {"from the maximum": max(gaps), "largest variance outside": float(outside)}
    yield Measured("equation 5", "poly/twin_peaks", 0, numbers)


def _random_field() -> float:
    """Largest difference of both fields of a random polynomial from its derivatives, as a share of
    the largest of these.
    """
    rng, poly = np.random.default_rng(0), np.polynomial.polynomial
    c = rng.normal(size=(4, 4)).astype(np.float32)
    data = rng.uniform(-1, 1, (32, 2)).astype(np.float32)
    x, y = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    points, payoff = jnp.asarray(np.stack([x, y], -1), jnp.float32), reward_of(c)
    d_x, d_y = (poly.polyder(c, axis=axis) for axis in (0, 1))
    both = np.stack([poly.polyval2d(x, y, d_x), poly.polyval2d(x, y, d_y)], -1)
    own, other = np.broadcast_arrays(x[..., None], data[:, 1])
    first = poly.polyval2d(own, other, d_x).mean(-1)
    other, own = np.broadcast_arrays(data[:, 0], y[..., None])
    induced = np.stack([first, poly.polyval2d(other, own, d_y).mean(-1)], -1)
    found = jax.jit(runs.induced_field, static_argnums=0)(payoff, jnp.asarray(data), points)
    pairs = [(runs.true_field(payoff, points), both), (found, induced)]
    return float(max(np.abs(np.asarray(x) - y).max() / np.abs(y).max() for x, y in pairs))


def figure_2() -> Iterator[Measured]:
    """Online, four buffer sizes: the last reward, and the first epoch with a reward above .9."""
    for capacity, result in zip(runs.CAPACITIES, runs.fig2_runs(SEEDS), strict=True):
        reward = result.history["exact_value"]  # [K+1, R]
        above = reward > 0.9
        first = np.where(above.any(0), above.argmax(0), len(reward) - 1)
        for seed in SEEDS:
            numbers = {"end reward": float(reward[-1, seed]), "first above 0.9": float(first[seed])}
            yield Measured(f"MADDPG online, buffer {capacity}", "poly/sign", seed, numbers)


def figure_3() -> Iterator[Measured]:
    """Uniform data: where three starts move to, and their rewards before and after."""
    _, paths = runs.fig3_runs()
    for seed in range(len(runs.STARTS_3)):
        theta, reward = paths.theta[seed, 0, 0], paths.reward[seed, 0, 0]
        moved = theta[-1] - theta[0]
        numbers = {"moved x": moved[0], "moved y": moved[1]}
        numbers |= {"start reward": reward[0], "end reward": reward[-1]}
        numbers = {name: float(value) for name, value in numbers.items()}
        yield Measured("MADDPG, exact gradients", "poly/sign/uniform", seed, numbers)


def figure_4() -> Iterator[Measured]:
    """Twin peaks, uniform samples: distance of the mean of the last epochs from the fixed point."""
    for centre in ("origin", "peak"):
        data, paths = runs.fig4_runs(centre, SEEDS)
        for i, sigma in enumerate(runs.SIGMAS_4):
            predicted = runs.twin_peaks_fixed_point(runs.points_of(data[i]))
            ends = paths.theta[0, i, :, -runs.LATE :].mean(1)  # [R, 2]
            for seed in SEEDS:
                gap = float(np.abs(ends[seed] - predicted).max())
                numbers = {"from the prediction": gap}
                task = f"poly/twin_peaks/{centre}-s{sigma:g}"
                yield Measured("MADDPG, last epochs", task, seed, numbers)


def figure_5() -> Iterator[Measured]:
    """Twin peaks, uniform samples and PJAP: the last reward, and the late distance."""
    _, uniform, pjap = runs.fig5_runs(SEEDS)
    same = np.abs(uniform.theta[0, 0] - pjap.theta[0, 0]).max((1, 2))
    for label, paths in zip(parts.METHODS, (uniform, pjap), strict=True):
        for i, sigma in enumerate(runs.SIGMAS_5):
            for seed in SEEDS:
                reward = paths.reward[0, i, seed, -1]
                late = paths.distance[0, i, seed, -runs.LATE :].mean()
                numbers = {"end reward": float(reward), "late distance": float(late)}
                if sigma == 0:
                    numbers["from the other sampler's path"] = float(same[seed])
                yield Measured(label, f"poly/twin_peaks/peak-s{sigma:g}", seed, numbers)


MEASURES = {
    "closed-forms": Measure(closed_forms),
    "figure-2": Measure(figure_2),
    "figure-3": Measure(figure_3),
    "figure-4": Measure(figure_4),
    "figure-5": Measure(figure_5),
}
