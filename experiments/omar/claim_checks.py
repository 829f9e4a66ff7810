"""What OMAR's claims ask of the rows of its store; `claims.py` has the claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxoff.experiments.evidence import (
    REFERENCE,
    Cells,
    Check,
    Missing,
    Part,
    interval,
    shown,
    welch,
)
from jaxoff.experiments.omar import runs
from jaxoff.experiments.paper import printed
from scipy import stats

from jaxoff import registry
from jaxoff.eval.statistics import normalised

REFERENCES = REFERENCE.parent / "omar" / "references.csv"
PUBLISHED = REFERENCE.parent / "datasets" / "paper.csv"
OWN_PREY = "the prey is our own, the authors' is not redistributed"
RANDOM = {"spread": (160.1, 1.1), "tag": (-4.24, 0.2), "world": (-6.79, 0.11)}
METHODS = ("MA-ICQ", "MA-TD3+BC", "MA-CQL", "OMAR")
REST = METHODS[:-1]


def task_of(world: str, quality: str) -> str:
    """A dataset of a particle world."""
    return f"mpe/{world}/{quality}"


def scores(cells: Cells, tasks: Iterable[str], labels: Iterable[str]) -> dict[str, np.ndarray]:
    """Mean normalised scores by label, [tasks], of tasks that have all labels."""
    return {
        label: np.array([cells.of(task, label, "score").mean() for task in tasks])
        for label in labels
    }


# ----------------------------------------------------------------------------------------- A1, A2


def golden(world: str) -> Check:
    """One step of a world has the published positions, velocities and rewards."""

    def check(cells: Cells) -> Part:
        gap = float(cells.of(f"mpe/{world}", "golden step", "largest difference").max())
        return Part("", f"largest difference {gap:.2g}, allowed 1e-5", gap <= 1e-5)

    return check


def uniform_play(world: str) -> Check:
    """Our uniformly random return is within three standard errors of the original's."""

    def check(cells: Cells) -> Part:
        line = next(x for x in cells.table(REFERENCES) if x["task"] == f"mpe/{world}")
        ours, error = float(line["random"]), float(line["random_se"])
        theirs, their_error = RANDOM[world]
        most = 3 * float(np.hypot(error, their_error))
        reach = 1.96 * error
        text = f"{ours:.2f} ± {error:.2f} against {theirs:.2f}, allowed {most:.2f}"
        text += f"; {OWN_PREY}" if world != "spread" else ""
        gap = ours - theirs
        return Part("", text, abs(gap) <= most, (gap, gap - reach, gap + reach))

    return check


def remade(world: str, quality: str) -> Check:
    """A dataset of ours has the published mean return: within three standard errors (random), 15 %
    (medium), or a normalised score of at least 90 (expert).
    """

    def check(cells: Cells) -> Part:
        found = cells.dataset(task_of(world, quality))
        ours, error = found["mean"], found["std"] / np.sqrt(found["episodes"])
        line = next(x for x in cells.table(PUBLISHED) if x["task"] == task_of(world, quality))
        theirs = float(line["mean"])
        effect = (ours - theirs, ours - theirs - 1.96 * error, ours - theirs + 1.96 * error)
        text = f"{ours:.1f}, published {theirs:.1f}"
        if quality == "random":
            spread = float(line["std"]) / np.sqrt(float(line["episodes"]))
            most = 3 * float(np.hypot(error, spread))
            return Part("", f"{text}, allowed {most:.2g}", abs(effect[0]) <= most, effect)
        if quality == "medium":
            share = abs(effect[0] / theirs)
            return Part("", f"{text}, {share:.0%} apart, allowed 15 %", share <= 0.15, effect)
        scale = registry.make_spec(task_of(world, quality)).return_scale
        assert scale is not None
        score = float(normalised(ours, scale))
        return Part("", f"{text}, score {score:.1f}, asked 90", score >= 90, effect)

    return check


# --------------------------------------------------------------------------------------------- A3


def climbs_to(search: str, share: float, goal: float, reach: float) -> Check:
    """Every seed ends within `reach` of an action."""

    def check(cells: Cells) -> Part:
        ends = cells.of(f"value of two modes, tau {share:g}", search, "last action")
        near = int((np.abs(ends - goal) < reach).sum())
        effect = interval(ends)
        text = f"{near} of {len(ends)} seeds within {reach:g} of {goal:g}, mean {shown(effect)}"
        return Part("", text, near == len(ends), effect)

    return check


# --------------------------------------------------------------------------------------- A4 to A6


def gain(cells: Cells, task: str, ours: str, theirs: str) -> tuple[float, float, float]:
    """Percentage by which a label is above another on a task, with its interval."""
    one, other = cells.of(task, ours), cells.of(task, theirs)
    base = abs(other.mean())
    mean, low, high = (100 * x / base for x in welch(one, other))
    return mean, low, high


def trend(tasks: Mapping[str, int], falls: bool) -> Check:
    """The correlation of the number of agents with MA-CQL's improvement over the data."""

    def check(cells: Cells) -> Part:
        points = []
        for task, count in tasks.items():
            own = cells.dataset(task)["mean"]
            values = cells.of(task, "MA-CQL")
            points += [(count, 100 * (value - own) / abs(own)) for value in values]
        rank = stats.spearmanr(*np.array(points).T)
        text = f"Spearman correlation {rank.statistic:.2f}, p = {rank.pvalue:.2g}"
        holds = rank.statistic < 0 if falls else not (rank.statistic < 0 and rank.pvalue < 0.05)
        return Part("", text, bool(holds))

    return check


def gains_by_number(cells: Cells) -> list[Part]:
    """OMAR's gain over MA-CQL for each number of agents, and its mean for several."""
    found = {n: gain(cells, task, "OMAR", "MA-CQL") for task, n in runs.AGENTS.items()}
    several = float(np.mean([found[n][0] for n in found if n > 1]))
    text = "; ".join(f"n = {n}: {shown(effect)} %" for n, effect in found.items())
    return [
        Part("gain for each number", text, all(effect[0] > 0 for effect in found.values())),
        Part(
            "gain of several agents above that of one",
            f"{several:.3g} % against {found[1][0]:.3g} %",
            several > found[1][0],
        ),
    ]


def two_by_two(cells: Cells) -> list[Part]:
    """The four gains: online and offline, of one agent and of three."""
    sides = {"offline": ("OMAR", "MA-CQL"), "online": ("MATD3+OMAR", "MATD3")}
    found = {
        (side, n): gain(cells, task, *labels)
        for side, labels in sides.items()
        for task, n in runs.TWO_BY_TWO.items()
    }
    text = "; ".join(f"{side}, n = {n}: {shown(x)} %" for (side, n), x in found.items())
    largest = max(found, key=lambda place: found[place][0])
    return [
        Part(
            "no gain below 0 by more than its error", text, all(x[2] >= 0 for x in found.values())
        ),
        Part(
            "offline with several agents largest",
            f"largest is {largest[0]}, n = {largest[1]}",
            largest == ("offline", max(runs.TWO_BY_TWO.values())),
        ),
    ]


# --------------------------------------------------------------------------------- A7: the table


def near_best(cells: Cells) -> Part:
    """Cells in which OMAR is the best, or within one deviation of it."""
    good = 0
    for task in runs.MPE:
        values = {label: cells.of(task, label, "score") for label in METHODS}
        best = max(values.values(), key=lambda x: x.mean())
        good += bool(values["OMAR"].mean() >= best.mean() - np.std(best, ddof=1))
    return Part("", f"{good} of {len(runs.MPE)} cells, asked 10", good >= 10)


def ranks_first(cells: Cells) -> Part:
    """OMAR's mean over the cells is the largest, by at least five points."""
    means = {label: float(x.mean()) for label, x in scores(cells, runs.MPE, METHODS).items()}
    rest = max(means[label] for label in REST)
    text = ", ".join(f"{label} {mean:.1f}" for label, mean in means.items())
    return Part("", text, means["OMAR"] >= rest + 5)


def ordered(label: str) -> Check:
    """A label's scores rise from random data to expert data in every world."""

    def check(cells: Cells) -> Part:
        rising = {}
        for world in runs.WORLDS:
            tasks = [task_of(world, quality) for quality in runs.QUALITIES]
            rising[world] = scores(cells, tasks, (label,))[label]
        text = "; ".join(
            f"{world} {' < '.join(f'{x:.1f}' for x in values)}" for world, values in rising.items()
        )
        return Part("", text, all((np.diff(x) > 0).all() for x in rising.values()))

    return check


def near_the_data(cells: Cells) -> Part:
    """MA-TD3+BC's scores on spread are within 12 points of the data's."""
    gaps, scale = {}, registry.make_spec(task_of("spread", "expert")).return_scale
    assert scale is not None
    for quality in runs.QUALITIES:
        own = float(normalised(cells.dataset(task_of("spread", quality))["mean"], scale))
        gaps[quality] = float(
            cells.of(task_of("spread", quality), "MA-TD3+BC", "score").mean() - own
        )
    text = ", ".join(f"{quality} {gap:z.1f}" for quality, gap in gaps.items())
    return Part("", f"differences {text}, allowed 12", all(abs(x) <= 12 for x in gaps.values()))


def conservative_fails(world: str) -> Check:
    """MA-CQL is below MA-TD3+BC on expert data, by at least 8 points, in the last world by 20."""
    least = 20.0 if world == "world" else 8.0

    def check(cells: Cells) -> Part:
        ours, theirs = (
            cells.of(task_of(world, "expert"), x, "score") for x in ("MA-TD3+BC", "MA-CQL")
        )
        effect = welch(ours, theirs)
        return Part("", f"difference {shown(effect)}, asked {least:g}", effect[0] >= least, effect)

    return check


# ------------------------------------------------------------------------------------- A8 to A12


def _every_level(over: np.ndarray) -> Part:
    """Whether OMAR's mean is above MA-CQL's on each dataset; over: the differences."""
    return Part(
        "OMAR above MA-CQL on every level", f"differences {over.round(1)}", bool((over > 0).all())
    )


def robots(cells: Cells) -> list[Part]:
    """The four rows of the two-agent HalfCheetah."""
    tasks = [row.own for row in runs.ROBOTS]
    means = scores(cells, tasks, METHODS)
    at = dict(zip(runs.QUALITIES, range(4), strict=True))
    text = lambda i: ", ".join(f"{label} {means[label][i]:.1f}" for label in METHODS)
    replay, expert = at["medium-replay"], at["expert"]
    best = max(means[label][replay] for label in REST)
    over = means["OMAR"] - means["MA-CQL"]
    return [
        _every_level(over),
        Part(
            "medium-replay: 1.1 times every baseline",
            text(replay),
            bool(means["OMAR"][replay] >= 1.1 * best),
        ),
        Part(
            "expert: OMAR and MA-TD3+BC within 10 points, MA-CQL 30 below",
            text(expert),
            bool(
                abs(means["OMAR"][expert] - means["MA-TD3+BC"][expert]) <= 10
                and min(means["OMAR"][expert], means["MA-TD3+BC"][expert]) - means["MA-CQL"][expert]
                >= 30
            ),
        ),
    ]


def mazes(cells: Cells) -> list[Part]:
    """The three mazes, in order of size."""
    tasks = [row.own for row in runs.MAZES]
    means = scores(cells, tasks, ("OMAR", "CQL", "ICQ"))
    gaps = means["OMAR"] - means["CQL"]
    text = ", ".join(f"{row.label} {gap:z.1f}" for row, gap in zip(runs.MAZES, gaps, strict=True))
    icq = ", ".join(f"{x:.1f}" for x in means["ICQ"])
    return [
        Part("OMAR above CQL", f"differences {text}", bool((gaps > 0).all())),
        Part("the difference grows with the maze", text, bool((np.diff(gaps) > 0).all())),
        Part("ICQ below 20", icq, bool((means["ICQ"] < 20).all())),
    ]


def battles(cells: Cells) -> Part:
    """The mean over maps of OMAR's relative gain in win rate over MA-CQL."""
    maps = [f"{name}/{runs.QUALITY}" for name in runs.MAPS["full"]]
    found = [x for x in maps if cells.has(x, "OMAR") and cells.has(x, "MA-CQL")]
    if not found:
        raise Missing("no rows of OMAR and MA-CQL on battles")
    gains = []
    for task in found:
        ours, theirs = (cells.of(task, x, "win_rate").mean() for x in ("OMAR", "MA-CQL"))
        if theirs > 0:
            gains.append(100 * (ours - theirs) / theirs)
    if not gains:
        raise Missing("MA-CQL wins no battle, so that there is no relative gain")
    effect, average = (
        interval(np.array(gains)),
        printed("omar", "smac")["average", "OMAR over MA-CQL"],
    )
    text = f"{shown(effect)} % over {len(gains)} maps; the paper has {average}"
    return Part("", text, effect[0] > 0, effect)


def searches(cells: Cells) -> Part:
    """Softmax at least as good as CEM, and CEM as random shooting, in the mean over spread."""
    means = {
        k: float(x.mean()) for k, x in scores(cells, runs.CN, ("OMAR", "cem", "random")).items()
    }
    text = ", ".join(f"{label} {mean:.1f}" for label, mean in means.items())
    return Part("", text, means["OMAR"] >= means["cem"] >= means["random"])


def flat(name: str) -> Check:
    """A setting of the search changes the mean over spread by less than 15 %."""

    def check(cells: Cells) -> Part:
        means = []
        for label, column in runs.SWEEPS[name].items():
            own = "OMAR" if not column.config and not column.grid else label
            (field, values), *_ = [*column.grid.items(), ("", ())]
            for value in values or (None,):
                point = {} if value is None else {field: value}
                each = [cells.of(task, own, "score", **point).mean() for task in runs.CN]
                means.append(float(np.mean(each)))
        apart = 100 * (max(means) - min(means)) / abs(float(np.mean(means)))
        return Part("", f"means are {apart:.0f} % apart, allowed 15 %", apart < 15)

    return check


def centralised(cells: Cells) -> list[Part]:
    """Critics of all observations and actions on spread."""
    names = [f"{name}, centralised" for name in ("OMAR", "MA-CQL", "MA-TD3+BC")]
    means = scores(cells, runs.CN, [*names, *(x.partition(",")[0] for x in names)])
    over = means[names[0]] - means[names[1]]
    twins = {x: float((means[x] - means[x.partition(",")[0]]).mean()) for x in names}
    text = ", ".join(f"{name.partition(',')[0]} {gap:z.1f}" for name, gap in twins.items())
    return [
        _every_level(over),
        Part(
            "no centralised method above its twin", f"differences {text}", max(twins.values()) <= 0
        ),
    ]


def cost(cells: Cells) -> Part:
    """OMAR's training time over MA-CQL's, on the tasks that have both."""
    tasks = [x for x in runs.MPE if cells.has(x, "OMAR") and cells.has(x, "MA-CQL")]
    if not tasks:
        raise Missing("no rows of OMAR and MA-CQL on particle worlds")
    pairs = [[cells.of(task, x, "seconds").mean() for x in ("OMAR", "MA-CQL")] for task in tasks]
    effect = interval(np.array([ours / theirs for ours, theirs in pairs]))
    return Part("", f"{shown(effect)} times as long, asked at most 1.3", effect[0] <= 1.3, effect)
