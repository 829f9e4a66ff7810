"""What is drawn for Tilbury et al. (2024): figures 1 to 5, and three of our own.

Each returns a matplotlib figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxoff.experiments.pjap import runs
from jaxoff.experiments.pjap.online import OnlineResult

from jaxoff.envs.games.polynomial import TWIN_PEAKS, peak
from jaxoff.report.figures import style
from jaxoff.runtime import needs
from jaxoff.types import Episodes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUE, INDUCED, UNIFORM, PJAP, DATA, START = (
    "#0072B2",
    "#D55E00",
    "#D55E00",
    "#009E73",
    "#444444",
    "white",
)
PEAK = peak(*TWIN_PEAKS)


def fig1(
    start: tuple[float, float] = (-0.35, 0.45), datum: tuple[float, float] = (0.55, -0.4)
) -> Figure:
    """One datum in the opposite quadrant: the best responses to it point away from where the reward
    rises.
    """
    payoff = runs.payoff("sign")
    here = jnp.asarray(start)
    true = np.asarray(runs.true_field(payoff, here))
    induced = np.asarray(runs.induced_field(payoff, jnp.asarray([datum]), here))
    figure, ax = _grid(1, 1, 4.6)
    ax = ax[0, 0]
    _surface(figure, ax, "sign", bar=True)
    arrows = (
        (true, TRUE, r"true gradient $\nabla R$"),
        (induced, INDUCED, r"best responses to the datum $\nabla J$"),
    )
    for arrow, colour, label in arrows:
        props = {"arrowstyle": "-|>", "color": colour, "lw": 2.5, "shrinkA": 5, "shrinkB": 0}
        ax.annotate("", np.add(start, arrow), start, arrowprops=props)
        ax.plot([], [], color=colour, lw=2.5, label=label)
    for part in (np.array([induced[0], 0]), np.array([0, induced[1]])):
        ax.annotate(
            "",
            np.add(start, part),
            start,
            arrowprops={"arrowstyle": "->", "color": INDUCED, "lw": 1, "ls": ":", "shrinkA": 5},
        )
    ax.plot(*start, "o", color=START, ms=9, mec="black", label=r"policy $\theta$")
    ax.plot(*datum, "X", color=DATA, ms=9, mec="white", label="datum $a$")
    ax.set_ylabel("action y")
    ax.legend(loc="lower left", fontsize=8, frameon=True, framealpha=0.95)
    ax.set_title(
        rf"Sign agreement: $\nabla J\cdot\nabla R = {float(true @ induced):.2f} < 0$, so "
        r"the reward falls",
        fontsize=10,
    )
    return figure


def fig2(results: Sequence[OnlineResult], capacities: Sequence[int] = runs.CAPACITIES) -> Figure:
    """Online learning: paths, reward curves and final buffers, a column a capacity."""
    figure, axes = _grid(3, len(capacities), 2.7)
    for column, (result, capacity) in enumerate(zip(results, capacities, strict=True)):
        paths = result.history["joint_action"]  # [K+1, R, 2]
        rewards = result.history["exact_value"]  # [K+1, R]
        _surface(figure, axes[0, column], "sign")
        _paths(axes[0, column], np.moveaxis(paths, 1, 0), TRUE)
        axes[0, column].set_title(f"Buffer size {capacity}", fontsize=10)
        _bands(axes[1, column], rewards, TRUE)
        passed = np.median(np.where((rewards > 0.9).any(0), (rewards > 0.9).argmax(0), np.nan))
        if np.isfinite(passed):
            axes[1, column].axvline(passed, color=DATA, lw=0.8, ls=":")
            axes[1, column].text(passed - 4, -0.42, f"0.9 at {passed:.0f}", ha="right", fontsize=8)
        axes[1, column].set(xlabel="epochs", ylim=(-0.6, 1.1))
        points = np.asarray(result.buffer.actions)[0, :, :, 0]
        axes[2, column].scatter(*points.T, s=5, color=DATA, alpha=0.35, lw=0)
        axes[2, column].plot(*paths[0, 0], "o", color=START, ms=7, mec="black")
        axes[2, column].plot(*paths[-1, 0], "*", color=TRUE, ms=11, mec="white", clip_on=False)
        _plane(axes[2, column])
    for row, label in enumerate(
        (
            "paths, all seeds\naction y",
            "exact reward\nmean and range",
            "final buffer, first seed\naction y",
        )
    ):
        axes[row, 0].set_ylabel(label)
    return figure


def fig3(data: Episodes, paths: runs.Paths) -> Figure:
    """Uniform data with a small bias: the data, both fields, and paths from three starts."""
    payoff, points = runs.payoff("sign"), runs.points_of(data)
    figure, axes = _grid(1, 4, 3.1)
    axes = axes[0]
    axes[0].scatter(*points.T, s=6, color=DATA, alpha=0.5, lw=0)
    axes[0].plot(*points.mean(0), "P", color=INDUCED, ms=10, mec="white")
    _plane(axes[0])
    axes[0].set_title(
        f"(a) data, mean ({points[:, 0].mean():.2f}, {points[:, 1].mean():.2f})", fontsize=10
    )
    lattice = _lattice(9)
    for ax, field, title in (
        (axes[1], runs.true_field(payoff, lattice), r"(b) true field $\nabla R$"),
        (
            axes[2],
            runs.induced_field(payoff, jnp.asarray(points), lattice),
            r"(b) induced field $\nabla J$",
        ),
    ):
        _surface(figure, ax, "sign")
        _arrows(ax, lattice, field, "black")
        ax.set_title(title, fontsize=10)
    _surface(figure, axes[3], "sign", limit=1.4)
    _arrows(
        axes[3],
        lattice,
        runs.induced_field(payoff, jnp.asarray(points), lattice),
        INDUCED,
        alpha=0.35,
    )
    for path in paths.theta[:, 0, 0]:
        _paths(axes[3], path[None], TRUE)
    axes[3].set_title("(c) paths from three starts", fontsize=10)
    axes[0].set_ylabel("action y")
    return figure


def fig4(panels: Mapping[str, tuple[Sequence[Episodes], runs.Paths]]) -> Figure:
    """Twin peaks, data around the origin and around a maximum: paths, predicted fixed points and
    data.
    """
    payoff = runs.payoff("twin_peaks")
    figure, axes = _grid(2 * len(panels), 3, 2.6)
    for block, (centre, (data, paths)) in enumerate(panels.items()):
        for i, sigma in enumerate(runs.SIGMAS_4):
            ax, below = axes[2 * block : 2 * block + 2, i]
            points = runs.points_of(data[i])
            target = runs.twin_peaks_fixed_point(points).round(4) + 0.0
            _surface(figure, ax, "twin_peaks")
            _field_pair(ax, payoff, points)
            _paths(ax, paths.theta[0, i], UNIFORM)
            ax.plot(*target, "D", mfc="none", mec="black", ms=9, mew=1.3)
            where = rf"$\theta^*$ = ({target[0]:.3f}, {target[1]:.3f})"
            ax.set_title(f"{'ab'[block]}: {centre}, $\\sigma$ = {sigma:g}\n{where}", fontsize=9)
            _scatter(below, points)
    for row in range(0, len(axes), 2):
        axes[row, 0].set_ylabel("paths, all seeds\naction y")
        axes[row + 1, 0].set_ylabel("data\naction y")
    _legend(
        figure,
        [
            ("true field", "line", TRUE),
            ("induced field", "line", INDUCED),
            (r"predicted $\theta^*$", "D", "none"),
            ("start", "o", START),
            ("maxima", "+", "black"),
        ],
    )
    return figure


def fig5(data: Sequence[Episodes], uniform: runs.Paths, pjap: runs.Paths) -> Figure:
    """Twin peaks, uniform against PJAP: data, paths, distance to the sampled data, reward; a row a
    standard deviation.
    """
    payoff = runs.payoff("twin_peaks")
    figure, axes = _grid(len(runs.SIGMAS_5), 4, 2.6)
    for row, sigma in enumerate(runs.SIGMAS_5):
        points = runs.points_of(data[row])
        _scatter(axes[row, 0], points)
        axes[row, 0].set_ylabel(f"$\\sigma$ = {sigma:g}\naction y")
        _surface(figure, axes[row, 1], "twin_peaks")
        _field_pair(axes[row, 1], payoff, points)
        for paths, colour in ((uniform, UNIFORM), (pjap, PJAP)):
            _paths(axes[row, 1], paths.theta[0, row], colour)
            style = {"ls": "--"} if colour == UNIFORM else {}
            _bands(axes[row, 2], paths.distance[0, row].T, colour, **style)
            _bands(axes[row, 3], paths.reward[0, row].T, colour, **style)
        axes[row, 2].set_ylim(0, None)
        axes[row, 3].axhline(float(payoff(jnp.full((2, 1), PEAK))), color="black", lw=0.8, ls=":")
        axes[row, 3].set_ylim(-2.1, 0.75)
    for ax, title in zip(
        axes[0],
        ("data", "paths, all seeds", "distance of the batch to the policy", "exact reward"),
        strict=True,
    ):
        ax.set_title(title, fontsize=10)
    for ax in axes[-1, 2:]:
        ax.set_xlabel("epochs")
    _legend(
        figure,
        [
            ("MADDPG, and its induced field", "line", UNIFORM),
            ("MADDPG + PJAP", "line", PJAP),
            ("bands: range over seeds", "s", "#cccccc"),
            ("true field", "line", TRUE),
            ("start", "o", START),
            ("maxima", "+", "black"),
        ],
    )
    return figure


def pairing(results: dict[str, runs.Paths], data: Sequence[np.ndarray]) -> Figure:
    """Correlated data and the same marginals dealt anew: exact best responses cannot tell, PJAP
    needs no mean to find a peak.
    """
    figure, axes = _grid(2, 1 + len(results), 2.7)
    for row, (label, points) in enumerate(zip(("paired", "permuted"), data, strict=True)):
        _scatter(axes[row, 0], points)
        axes[row, 0].set_ylabel(f"{label}\naction y")
        for column, (name, paths) in enumerate(results.items(), start=1):
            _surface(figure, axes[row, column], "twin_peaks")
            _paths(axes[row, column], paths.theta[0, row], PJAP if name == "pjap" else UNIFORM)
            axes[row, column].set_title(
                f"{name}: reward {paths.reward[0, row, :, -1].mean():.3f}", fontsize=10
            )
    axes[0, 0].set_title("data", fontsize=10)
    return figure


def grid(paths: runs.Paths) -> Figure:
    """End reward of PJAP over sharpness and floor, data around the optimum with standard deviation
    1.
    """
    rewards = paths.reward[:, 0, :, -1].mean(-1).reshape(len(runs.ALPHAS), len(runs.FLOORS))
    figure, axes = _grid(1, 1, 4.4)
    ax = axes[0, 0]
    ax.grid(False)
    image = ax.imshow(rewards, cmap="viridis", vmin=0, vmax=0.5625, aspect="auto")
    for (i, j), value in np.ndenumerate(rewards):
        ax.text(
            j,
            i,
            f"{value:.3f}",
            ha="center",
            va="center",
            color="white" if value < 0.38 else "black",
            fontsize=9,
        )
    ax.set(xlabel=r"floor $\epsilon$", ylabel=r"sharpness $\alpha$")
    ax.set_xticks(range(len(runs.FLOORS)), [f"{x:g}" for x in runs.FLOORS])
    ax.set_yticks(range(len(runs.ALPHAS)), [f"{x:g}" for x in runs.ALPHAS])
    ax.set_title(r"PJAP, twin peaks, $\sigma$ = 1: mean end reward (optimum 0.5625)", fontsize=10)
    figure.colorbar(image, ax=ax)
    return figure


# ---------------------------------------------------------------------------------------------
# parts


def _grid(rows: int, columns: int, size: float) -> tuple[Figure, np.ndarray]:
    with style() as make:
        figure = make(figsize=(size * columns + 0.5, size * rows + 0.3), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def _plane(ax: Axes, limit: float = 1.08) -> None:
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="action x")
    ax.set_xticks([-1, 0, 1])
    ax.set_yticks([-1, 0, 1])
    ax.grid(False)


def _lattice(count: int) -> Any:
    axis = jnp.linspace(-0.9, 0.9, count)
    return jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)


def _scatter(ax: Axes, points: np.ndarray) -> None:
    """Data [M, 2]; what coincides is drawn as one large point."""
    alone = np.ptp(points) < 1e-3
    ax.scatter(
        points[:, 0],
        points[:, 1],
        s=60 if alone else 4,
        color=DATA,
        alpha=1.0 if alone else 0.5,
        lw=0,
    )
    _maxima(ax)
    _plane(ax)


def _surface(figure: Figure, ax: Axes, game: str, bar: bool = False, limit: float = 1.08) -> None:
    """The reward over joint actions with its zero line; colours stop at -1 or -2, so that the
    region of interest has some.
    """
    axis = np.linspace(-limit, limit, 201, dtype=np.float32)
    mesh = np.stack(np.meshgrid(axis, axis), -1)[..., None]
    reward = np.asarray(runs.payoff(game)(jnp.asarray(mesh)))
    low, high = (-1.0, 1.0) if game == "sign" else (-2.0, 0.5625)
    extent = (-limit, limit, -limit, limit)
    shown = ax.imshow(
        reward,
        origin="lower",
        extent=extent,
        cmap="cividis",
        alpha=0.7,
        vmin=low,
        vmax=high,
        interpolation="bilinear",
    )
    ax.contour(
        axis,
        axis,
        reward,
        levels=np.linspace(low, high, 9)[1:-1],
        colors="black",
        linewidths=0.3,
        alpha=0.4,
        linestyles="solid",
    )
    ax.contour(axis, axis, reward, levels=[0.0], colors="white", linewidths=0.9)
    if game == "twin_peaks":
        _maxima(ax)
    _plane(ax, limit)
    if bar:
        figure.colorbar(shown, ax=ax, label="reward", shrink=0.75)


def _maxima(ax: Axes) -> None:
    ax.plot([-PEAK, PEAK], [-PEAK, PEAK], "+", color="black", ms=9, mew=1.6, zorder=5)


def _arrows(ax: Axes, points: Any, field: Any, colour: str, alpha: float = 0.8) -> None:
    """Directions of equal length, so that a small bias is visible."""
    points, field = np.asarray(points), np.asarray(field)
    length = np.linalg.norm(field, axis=-1, keepdims=True)
    unit = np.where(length > 1e-6, field / np.maximum(length, 1e-12), 0.0)
    ax.quiver(
        *points.T,
        *unit.T,
        color=colour,
        alpha=alpha,
        scale=14,
        width=0.008,
        headwidth=4,
        pivot="tail",
        zorder=3,
    )


def _field_pair(ax: Axes, payoff: Any, points: np.ndarray) -> None:
    lattice = _lattice(7)
    _arrows(ax, lattice, runs.true_field(payoff, lattice), TRUE)
    _arrows(ax, lattice, runs.induced_field(payoff, jnp.asarray(points), lattice), INDUCED)


def _paths(ax: Axes, paths: np.ndarray, colour: str) -> None:
    """Paths [R, K+1, 2], each with its start and end."""
    for path in paths:
        ax.plot(*path.T, color=colour, lw=1.3, alpha=max(0.35, 1.0 / len(paths)))
    ax.plot(
        *paths[:, -1].T,
        "*",
        color=colour,
        ms=9,
        mec="white",
        mew=0.6,
        ls="",
        zorder=6,
        clip_on=False,
    )
    ax.plot(*paths[:, 0].T, "o", color=START, ms=7, mec="black", ls="", zorder=6)


def _bands(ax: Axes, values: np.ndarray, colour: str, **style: Any) -> None:
    """Mean and range over seeds of [K, R]."""
    epochs = np.arange(values.shape[0])
    ax.plot(epochs, values.mean(1), color=colour, lw=1.6, **style)
    ax.fill_between(epochs, values.min(1), values.max(1), color=colour, alpha=0.2, lw=0)


def _legend(figure: Figure, entries: Sequence[tuple[str, str, str]]) -> None:
    with needs("figures"):
        from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, lw=2)
        if kind == "line"
        else Line2D([], [], color=colour, marker=kind, ls="", ms=8, mec="black", mew=1.4)
        for _, kind, colour in entries
    ]
    figure.legend(
        handles,
        [text for text, _, _ in entries],
        loc="outside lower center",
        ncols=len(entries),
        fontsize=9,
        frameon=False,
    )
