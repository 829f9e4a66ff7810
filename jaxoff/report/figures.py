"""Figures from results. Each function writes stem.png and stem.svg, and returns the two paths.

Labels are shown as they are, never as mathematics. A line below the panels tells how policies
were evaluated.
"""

from __future__ import annotations

import functools
import itertools
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxoff import registry
from jaxoff.errors import BrokenResult
from jaxoff.eval import statistics
from jaxoff.files import replacing
from jaxoff.report import protocol
from jaxoff.report.load import Run, by_config
from jaxoff.report.tables import METRICS
from jaxoff.runtime import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

# Okabe and Ito's colours, which colour-blind readers can tell apart, without their yellow; then
# brown, purple and olive.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"),
    *("#8C564B", "#6A3D9A", "#999933"),
)
DASHES = ("-", "--", ":", "-.")
PANEL = (3.4, 2.6)  # inches
PER_INCH = 12  # letters of a label
NOTE: dict[str, Any] = {"size": 7, "color": "#555555"}  # of the text on evaluations
PAPER: dict[str, Any] = {"marker": "D", "markersize": 5, "fillstyle": "none", "linestyle": "none"}
PAPER_LABEL = "the paper's number"
BANDS = {
    "ci": f"Lines: means over seeds; bands: {statistics.LEVEL:.0%} bootstrap intervals of them.",
    "std": "Lines: means over seeds; bands: one standard deviation.",
}
_LOOKS: ContextVar[Mapping[str, dict[str, Any]]] = ContextVar(
    "_LOOKS", default=MappingProxyType({})
)


@contextmanager
def style() -> Iterator[Any]:
    """The style of jaxoff's figures, for figures made inside the block.

    Yields the `Figure` class, which needs no display.
    """
    with needs("figures"):
        import matplotlib
        from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "figure.dpi": 100,
        "savefig.dpi": 200,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "legend.fontsize": 8.5,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e5e5e5",
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
        "axes.formatter.limits": (-3, 5),
        "axes.formatter.use_mathtext": True,
        "figure.constrained_layout.h_pad": 0.08,
        "svg.fonttype": "none",
        "svg.hashsalt": "jaxoff",  # equal figures give equal files
    }
    with matplotlib.rc_context(settings):
        yield Figure


@contextmanager
def same_looks(labels: Iterable[str]) -> Iterator[None]:
    """Inside the block every figure gives these labels the looks that they have together."""
    token = _LOOKS.set(looks(list(dict.fromkeys(labels))))
    try:
        yield
    finally:
        _LOOKS.reset(token)


def looks(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and dash pattern of each label, all different for up to 40 labels.

    A label that is the name of a registered method (in letters of any case, such as TD3+BC for
    td3bc) has the same look in every figure; so has any label of the enclosing `same_looks`.
    """
    slots = [
        {"color": colour, "linestyle": dash} for dash, colour in itertools.product(DASHES, COLOURS)
    ]
    known = _LOOKS.get()
    methods = {_letters(name): number for number, name in enumerate(registry.learner_names())}
    found: dict[str, dict[str, Any]] = {}
    for label in labels:
        number = methods.get(_letters(label), len(slots))
        look = known.get(label) or (slots[number] if number < len(slots) else None)
        if look is not None and look not in found.values():
            found[label] = look
    for label in labels:
        if label not in found:
            free = [slot for slot in slots if slot not in found.values()]
            colours = {look["color"] for look in found.values()}
            new = [slot for slot in free if slot["color"] not in colours]
            found[label] = (new or free or slots[len(found) % len(slots) :])[0]
    return {label: found[label] for label in labels}


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def label_of(text: str, inches: float = 5.0) -> str:
    """A user's text for a figure: without a meaning of $, in lines of at most this length."""
    most = max(1, int(inches * PER_INCH))
    lines = [textwrap.wrap(line, most) or [""] for line in text.expandtabs(4).splitlines()]
    return "\n".join(part for line in lines for part in line).replace("$", r"\$")


def save(figure: Figure, stem: str | Path) -> list[Path]:
    """Write a figure as stem.png and stem.svg, each completely or not at all."""
    with needs("figures"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

    stem = Path(stem)
    FigureCanvasAgg(figure)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)  # once, not for each file again
        figure.set_layout_engine("none")
    paths = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        path = stem.with_name(f"{stem.name}.{kind}")
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        paths.append(path)
    return paths


def curve(runs: Sequence[Run], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric in the logs of result folders: (updates [K], values [K, R]), NaN for missing values
    and for runs that failed.

    Updates of all stages that log the metric are counted on from stage to stage. Raises
    BrokenResult where the metric was never logged.
    """
    found: dict[tuple[int, int], dict[tuple[int, int], float]] = {}
    for index, run in enumerate(runs):
        failed = {each["run"] for each, fell in zip(run.runs, run.failed, strict=True) if fell}
        for row in run.rows:
            if metric in row:
                value = None if row["run"] in failed else row[metric]
                found.setdefault((row["stage_index"], row["step"]), {})[index, row["run"]] = (
                    np.nan if value is None else value
                )
    if not found:
        raise BrokenResult(
            f"{runs[0].path / 'metrics.jsonl'}: expected rows with '{metric}', found none"
        )
    places = sorted(found)
    columns = sorted({column for row in found.values() for column in row})
    ends: dict[int, int] = {}
    for stage, step in places:
        ends[stage] = max(ends.get(stage, 0), step)
    before = dict(zip(ends, itertools.accumulate(ends.values(), initial=0), strict=False))
    values = [[found[place].get(column, np.nan) for column in columns] for place in places]
    return np.array([before[stage] + step for stage, step in places]), np.array(values, np.float64)


def band_of(values: np.ndarray, band: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, low, high), each [K], over the runs of values [K, R].

    band: "ci" for the bootstrap interval of the mean, "std" for one standard deviation.
    """
    if band not in BANDS:
        raise ValueError(f"curves: field 'band': expected 'ci' or 'std', found '{band}'")
    middle = np.array([statistics.mean(row) for row in values])
    if band == "std":
        spread = np.nan_to_num([statistics.std(row) for row in values])
        return middle, middle - spread, middle + spread
    ends = [statistics.bootstrap([row], statistics.mean_of_task_means) for row in values]
    return middle, np.array([low for low, _ in ends]), np.array([high for _, high in ends])


def curves(
    runs: Sequence[Run],
    metric: str,
    stem: str | Path,
    *,
    band: str = "ci",
    tasks: Mapping[str, str] | None = None,
    label: str | None = None,
    reference: Mapping[str, float] | None = None,
    paper: Mapping[tuple[str, str], float] | None = None,
) -> list[Path]:
    """Learning curves, a panel per task and a line per variant: mean over seeds, with a band.

    tasks: task -> title of its panel, by default all tasks. label: label of the vertical axis.
    reference: name -> a level that is drawn as a grey line. paper: (title of a panel, variant) ->
    the number that a paper prints, which is marked at the right edge.
    """
    runs = by_config(runs)
    tasks = tasks or {run.task: run.task for run in runs}
    variants = list(dict.fromkeys(run.variant for run in runs))
    look = looks(variants)
    with style() as new_figure:
        figure, panels = panels_of(new_figure, len(tasks), PANEL)
        lines: dict[str, Any] = {}
        marks: list[Any] = []
        for panel, (task, title) in zip(panels, tasks.items(), strict=True):
            for variant in variants:
                group = [run for run in runs if run.task == task and run.variant == variant]
                if not group:
                    continue
                x, values = curve(group, metric)
                middle, low, high = band_of(values, band)
                (lines[variant],) = panel.plot(x, middle, **look[variant])
                colour = look[variant]["color"]
                panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                printed = (paper or {}).get((title, variant))
                if printed is not None:
                    edge = panel.get_yaxis_transform()
                    panel.plot(1, printed, color=colour, transform=edge, clip_on=False, **PAPER)
                    marks = panel.plot([], [], color="#777777", **PAPER)
            for name, level in (reference or {}).items():
                lines[name] = panel.axhline(
                    level, color="#777777", linestyle=(0, (4, 3)), linewidth=1
                )
            panel.set_title(label_of(title, PANEL[0]))
            panel.set_xlabel("gradient updates")
        for panel in panels[:: columns_of(len(tasks))]:
            panel.set_ylabel(label or METRICS.get(metric, metric))
        lines |= dict.fromkeys([PAPER_LABEL] * bool(marks), *marks[:1])
        told = protocol.told(
            ((tasks[run.task], run.variant), run.training.along(metric))
            for run in runs
            if run.task in tasks
        )
        add_legend(figure, lines, f"{BANDS[band]} {told}".strip())
        return save(figure, stem)


def profiles(
    scores: Mapping[str, statistics.Tasks],
    stem: str | Path,
    *,
    label: str = "normalised score τ",
    note: str = "",
) -> list[Path]:
    """Performance profiles: share of runs above τ, with its 95% interval.

    scores: variant -> values per task. note: how they were found.
    """
    look = looks(list(scores))
    kept = np.concatenate(
        [statistics.finite(values) for tasks in scores.values() for values in tasks]
    )
    if kept.size == 0:
        raise BrokenResult("profiles: field 'scores': expected some finite score, found none")
    margin = 0.05 * (np.ptp(kept) or 1.0)
    tau = np.linspace(kept.min() - margin, kept.max() + margin, 201)
    with style() as new_figure:
        figure, (panel,) = panels_of(new_figure, 1, (4.6, 3.2))
        lines: dict[str, Any] = {}
        for name, tasks in scores.items():
            share, low, high = statistics.profile(tasks, tau)
            (lines[name],) = panel.plot(tau, share, **look[name])
            panel.fill_between(tau, low, high, color=look[name]["color"], alpha=0.15, linewidth=0)
        panel.set(xlabel=label, ylabel="share of runs above τ", ylim=(-0.02, 1.02))
        bands = f"Bands: {statistics.LEVEL:.0%} bootstrap intervals of the share."
        add_legend(figure, lines, f"{bands} {note}".strip())
        return save(figure, stem)


def bar_iqm(
    scores: Mapping[str, statistics.Tasks],
    stem: str | Path,
    *,
    label: str = "normalised score",
    note: str = "",
) -> list[Path]:
    """Interquartile mean and mean with 95% intervals, a bar per variant.

    scores: variant -> values per task. note: how they were found.
    """
    names = list(scores)
    look, shown = looks(names), [label_of(name, 2.5) for name in names]
    height = 0.75 + 0.32 * len(names) + 0.2 * sum(name.count("\n") for name in shown)
    measures = {"IQM": statistics.iqm, "mean": statistics.mean_of_task_means}
    with style() as new_figure:
        figure, panels = panels_of(new_figure, 2, (3.2, height))
        for panel, (title, measure) in zip(panels, measures.items(), strict=True):
            for place, name in enumerate(names):
                kept = [statistics.finite(values) for values in scores[name]]
                low, high = statistics.bootstrap(kept, measure)
                if not np.isfinite(low):
                    panel.text(
                        0,
                        place,
                        " every run failed",
                        va="center",
                        fontsize=8,
                        color="#777777",
                        transform=panel.get_yaxis_transform(),
                    )
                    continue
                panel.barh(
                    place, high - low, left=low, height=0.55, color=look[name]["color"], alpha=0.45
                )
                # An interval may have no width, but the line at the estimate is always visible.
                panel.vlines(
                    measure(kept),
                    place - 0.36,
                    place + 0.36,
                    color=look[name]["color"],
                    linewidth=2.2,
                )
            panel.set_yticks(range(len(names)), shown if panel is panels[0] else [""] * len(names))
            panel.set_ylim(len(names) - 0.4, -0.6)
            panel.grid(axis="y", visible=False)
            panel.set(title=title, xlabel=label)
            panel.use_sticky_edges = False  # leave room beside a bar at the smallest value
            panel.margins(x=0.08)
            panel.locator_params(axis="x", nbins=5)
        bars = f"Bars: {statistics.LEVEL:.0%} bootstrap intervals; lines in them: the estimates."
        write_note(figure, f"{bars} {note}".strip())
        return save(figure, stem)


def heat_maps(
    policies: Mapping[str, np.ndarray],
    actions: Sequence[str],
    stem: str | Path,
    *,
    agents: tuple[str, str] = ("agent 1", "agent 2"),
    label: str = "probability",
    note: str = "",
) -> list[Path]:
    """Joint policies of two agents, a panel per label, with the probabilities in the cells.

    policies: label -> [A, A]; the first agent's actions are the rows. actions: their A names. note:
    when the policies were taken.
    """
    for name, policy in policies.items():
        if np.shape(policy) != (len(actions), len(actions)):
            raise ValueError(
                f"heat_maps: '{name}': expected shape {(len(actions), len(actions))}, "
                f"found {np.shape(policy)}"
            )
    side = max(1.9, 0.55 * len(actions) + 0.8)
    titles = [label_of(name, side) for name in policies]
    above = 0.15 * max((title.count("\n") for title in titles), default=0)
    with style() as new_figure:
        figure, panels = panels_of(new_figure, len(policies), (side, side + 0.15 + above))
        for place, (panel, policy) in enumerate(zip(panels, policies.values(), strict=True)):
            image = panel.imshow(policy, cmap="Blues", vmin=0, vmax=1)
            for i, j in np.ndindex(*np.shape(policy)):
                panel.text(
                    j,
                    i,
                    f"{policy[i, j]:.2f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if policy[i, j] > 0.55 else "#222222",
                )
            panel.set_xticks(range(len(actions)), actions)
            panel.set_yticks(range(len(actions)), actions)
            panel.set(title=titles[place], xlabel=agents[1])
            if place % columns_of(len(policies)) == 0:
                panel.set_ylabel(agents[0])
            panel.grid(visible=False)
            panel.tick_params(length=0)
            panel.spines[:].set_visible(False)
        figure.colorbar(
            image, ax=list(panels), shrink=0.85, label=label, aspect=25, pad=0.02
        ).outline.set_visible(False)
        write_note(figure, note)
        return save(figure, stem)


def columns_of(count: int) -> int:
    """The number of panels in a row of a figure of `count` panels: four at most."""
    return count if count <= 4 else math.ceil(count / math.ceil(count / 4))


def panels_of(
    new_figure: type[Figure], count: int, size: tuple[float, float]
) -> tuple[Figure, list[Any]]:
    """A figure with `count` panels of `size` inches each, at most four in a row."""
    if count < 1:
        raise ValueError("figure: expected at least one panel, found none")
    columns = columns_of(count)
    rows = math.ceil(count / columns)
    figure = new_figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(_tick_formatter()(useMathText=False))
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


@functools.cache
def _tick_formatter() -> type[ScalarFormatter]:
    """The class of formatters, which matplotlib is imported for."""
    with needs("figures"):
        from matplotlib.ticker import ScalarFormatter

    class Ticks(ScalarFormatter):
        """Numbers of ticks are plain text, and only a power of ten that is common to them is
        mathematics, which takes matplotlib long to read.
        """

        def get_offset(self) -> str:
            """The common power of ten, as in × 10⁵; empty for most axes."""
            self.set_useMathText(True)
            try:
                return super().get_offset()
            finally:
                self.set_useMathText(False)

    return Ticks


def add_legend(figure: Figure, lines: Mapping[str, Any], note: str) -> None:
    """Add a note and a legend of these lines below the panels, and enlarge the figure for them."""
    if not lines:
        return
    note = _wrapped(figure, note)
    width, height = figure.get_size_inches()
    names = [label_of(name, width - 0.6) for name in lines]
    longest = max(len(part) for name in names for part in name.split("\n"))
    columns = max(1, min(len(names), int(width / (0.55 + 0.075 * longest))))
    rows = sum(sorted((name.count("\n") + 1 for name in names), reverse=True)[::columns])
    figure.set_size_inches(width, height + 0.2 + 0.2 * rows + 0.13 * (note.count("\n") + 1))
    # matplotlib leaves out names that begin with _, so they are set afterwards.
    numbers = list(map(str, range(len(names))))
    legend = figure.legend(lines.values(), numbers, loc="outside lower center", ncols=columns)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    legend.set_title(note)
    legend.get_title().set(**NOTE, multialignment="center")


def write_note(figure: Figure, text: str) -> None:
    """Write a text below the panels, and enlarge the figure to make room for it."""
    if not text:
        return
    text = _wrapped(figure, text)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.1 + 0.13 * (text.count("\n") + 1))
    figure.supxlabel(text, **NOTE)


def _wrapped(figure: Figure, text: str) -> str:
    """A note in lines as long as the figure is wide."""
    return label_of(text, figure.get_size_inches()[0] * 9 / NOTE["size"] * 1.3)
