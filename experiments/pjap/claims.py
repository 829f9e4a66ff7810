"""What Tilbury et al. (2024) claim of best responses to data and of PJAP, as checks of the rows of
the store.
"""

from __future__ import annotations

import numpy as np
from jaxoff.experiments.evidence import (
    Cells,
    Check,
    Claim,
    Part,
    cannot,
    interval,
    shown,
    welch,
    within,
)
from jaxoff.experiments.pjap import runs

from jaxoff.eval import statistics

GOOD = "og_marl:mamujoco/2halfcheetah/Good"
LATE = "loss/distance, last tenth"
UNIFORM, PJAP = "MADDPG", "MADDPG+PJAP"
HERE = "`make evidence`"
SEQUENCES = "`make pjap-fig6 SCALE=full DATA=DIR`"


def closed(metric: str, limit: float, *tasks: str) -> Check:
    """The largest difference from a closed form, over some games."""

    def check(cells: Cells) -> Part:
        found = max(float(cells.of(task, "closed forms", metric).max()) for task in tasks)
        return Part("", f"largest difference {found:.2g}, asked {limit:g}", found <= limit)

    return check


def same_moves(cells: Cells) -> Part:
    """The three starts of Figure 3 move by the same vector."""
    moved = np.stack(
        [
            cells.of("poly/sign/uniform", "MADDPG, exact gradients", f"moved {axis}")
            for axis in "xy"
        ],
        -1,
    )
    apart = float(np.ptp(moved, axis=0).max())
    text = f"moved by ({moved[0, 0]:.3f}, {moved[0, 1]:.3f}), {apart:.2g} apart, asked 1e-5"
    return Part("", text, apart <= 1e-5)


def reward_falls(cells: Cells) -> Part:
    """The reward falls from at least two of the starts of Figure 3."""
    start, end = (
        cells.of("poly/sign/uniform", "MADDPG, exact gradients", f"{name} reward")
        for name in ("start", "end")
    )
    fell = int((end < start).sum())
    return Part(
        "", f"from {fell} of {len(start)} starts, asked 2", fell >= 2, interval(end - start)
    )


def ends_as_predicted(centre: str, sigma: float) -> Check:
    """Every seed's last epochs are within .03 of the fixed point that the moments predict."""

    def check(cells: Cells) -> Part:
        task = f"poly/twin_peaks/{centre}-s{sigma:g}"
        gaps = cells.of(task, "MADDPG, last epochs", "from the prediction")
        near, effect = int((gaps <= 0.03).sum()), interval(gaps)
        text = f"{near} of {len(gaps)} seeds within 0.03, largest distance {gaps.max():.3f}"
        return Part("", text, near == len(gaps), effect)

    return check


def spread(sigma: float) -> str:
    """The data of Figure 5 with a standard deviation."""
    return f"poly/twin_peaks/peak-s{sigma:g}"


def closer(sigma: float) -> Check:
    """PJAP's late distance is at most .6 of uniform sampling's."""

    def check(cells: Cells) -> Part:
        ours, theirs = (cells.of(spread(sigma), x, "late distance") for x in (PJAP, UNIFORM))
        share = ours.mean() / theirs.mean()
        text = f"{share:.2f} of {theirs.mean():.3f}, asked at most 0.6"
        return Part("", text, share <= 0.6, welch(ours, theirs))

    return check


def agrees(capacity: int) -> Check:
    """The team agrees with nine of ten seeds: the last reward is above .9."""

    def check(cells: Cells) -> Part:
        ends = cells.of("poly/sign", f"MADDPG online, buffer {capacity}", "end reward")
        above = int((ends > 0.9).sum())
        text = f"{above} of {len(ends)} seeds end above 0.9"
        return Part("", text, above >= 0.9 * len(ends), interval(ends))

    return check


def later_with_more(cells: Cells) -> Part:
    """The median first epoch with a reward above .9 does not fall with the buffer's size."""
    firsts = [
        float(np.median(cells.of("poly/sign", f"MADDPG online, buffer {n}", "first above 0.9")))
        for n in runs.CAPACITIES
    ]
    listed = zip(runs.CAPACITIES, firsts, strict=True)
    text = ", ".join(f"{n}: epoch {first:g}" for n, first in listed)
    return Part("", text, bool((np.diff(firsts) >= 0).all()))


def learns(cells: Cells) -> Part:
    """MADDPG+CQL is above the expert data of spread after at most 50,000 updates."""
    task = "mpe/spread/expert"
    effect, data = interval(cells.of(task, "MADDPG+CQL")), cells.dataset(task)["mean"]
    most = max(row.steps or 0 for row in cells.rows(task, "MADDPG+CQL"))
    failed = sum(row.failed_at is not None for row in cells.rows(task, "MADDPG+CQL"))
    text = f"{shown(effect)} after {most:,} updates, data {data:.1f}; {failed} failed runs"
    return Part("", text, effect[0] > data and most <= 50_000 and not failed, effect)


def sequences(name: str, task: str, ending: str = "") -> dict[str, Check]:
    """The two parts of Figure 6 on a dataset; ending: of the labels."""
    labels = (f"MADDPG+CQL+PJAP{ending}", f"MADDPG+CQL{ending}")

    def distance(cells: Cells) -> Part:
        ours, theirs = cells.pair(task, *labels, LATE)
        fewer, effect = int((ours < theirs).sum()), interval(ours - theirs)
        text = f"smaller with {fewer} of {len(ours)} seeds, difference {shown(effect)}"
        return Part("", text, fewer >= 0.9 * len(ours), effect)

    def returns(cells: Cells) -> Part:
        ours, theirs = (cells.of(task, label) for label in labels)
        gap = float(statistics.iqm([ours]) - statistics.iqm([theirs]))
        text = f"difference of interquartile means {gap:.4g}"
        return Part("", text, gap >= 0, welch(ours, theirs))

    return {f"{name}: late distance": distance, f"{name}: return": returns}


ALL = tuple(f"poly/{name}" for name in ("decoupled", "sign", "action", "twin_peaks"))
CLAIMS = (
    Claim(
        1,
        "Fields",
        "Agents that respond best to recorded actions follow a field that the data's moments "
        "give, and not the gradient of the reward.",
        "Gradients equal the closed forms within 1e-6 of the largest, on a lattice of 21 by 21 "
        "points, with five datasets, in four games; and those of a random polynomial.",
        {
            "four games": closed("fields", 1e-6, *ALL),
            "random polynomial": closed("fields", 1e-6, "polynomial of degree 3, 3"),
        },
        HERE,
    ),
    Claim(
        2,
        "Paths",
        "Under exact gradients the paths of policies have closed forms.",
        "Trained paths of 60 epochs equal them within 1e-5 in all four games.",
        {"four games": closed("path", 1e-5, *ALL)},
        HERE,
    ),
    Claim(
        3,
        "Equation 5",
        "In twin peaks a variance of the data exists that leads to the maximum, for means in a "
        "window only.",
        "With the variance of Eq. 5 the fixed point is the maximum within 1e-6, for 21 means in "
        "the window; outside it Eq. 5 asks for a negative variance.",
        {
            "inside the window": within(
                "poly/twin_peaks", "equation 5", high=1e-6, metric="from the maximum"
            ),
            "outside the window": within(
                "poly/twin_peaks", "equation 5", high=0.0, metric="largest variance outside"
            ),
        },
        HERE,
    ),
    Claim(
        4,
        "Figure 3",
        "On uniform data with a small bias every start drifts the same way, whatever the reward.",
        "The three displacements are equal within 1e-5, and from two starts the reward falls.",
        {"displacements": same_moves, "reward falls": reward_falls},
        HERE,
    ),
    Claim(
        5,
        "Figure 4",
        "In twin peaks training ends where the moments of the data say.",
        "The mean of the last 20 epochs is within .03 of that point, with every seed and standard "
        "deviation, in batches of 32.",
        {
            f"data around the {centre}, sigma {sigma:g}": ends_as_predicted(centre, sigma)
            for centre in ("origin", "peak")
            for sigma in runs.SIGMAS_4
        },
        HERE,
    ),
    Claim(
        6,
        "Figure 5",
        "Prioritised joint actions keep the team at the maximum on spread data, where uniform "
        "sampling fails, and train on data nearer to the policy.",
        "PJAP's last reward is at least .5 with sigma .5 and 1, uniform sampling's at most .45 and "
        ".2; PJAP's late distance is at most .6 of it; without spread the paths are identical.",
        {
            "PJAP, sigma 0.5": within(spread(0.5), PJAP, 0.5, metric="end reward"),
            "PJAP, sigma 1": within(spread(1.0), PJAP, 0.5, metric="end reward"),
            "uniform, sigma 0.5": within(spread(0.5), UNIFORM, high=0.45, metric="end reward"),
            "uniform, sigma 1": within(spread(1.0), UNIFORM, high=0.2, metric="end reward"),
            "distance, sigma 0.5": closer(0.5),
            "distance, sigma 1": closer(1.0),
            "sigma 0: same path": within(
                spread(0.0), PJAP, high=0.0, metric="from the other sampler's path"
            ),
        },
        HERE,
    ),
    Claim(
        7,
        "Figure 2",
        "Online, a larger buffer holds older actions, and the team takes longer to agree.",
        "With each of four buffers 9 of 10 seeds end with a reward above .9; the median epoch in "
        "which that is first so does not fall with the size.",
        {
            **{f"buffer {n}": agrees(n) for n in runs.CAPACITIES},
            "larger takes longer": later_with_more,
        },
        HERE,
    ),
    Claim(
        8,
        "The sampler",
        "Prioritised draws and their updates are cheap.",
        "The rules of priorities hold; a million draws and updates a second on an accelerator for "
        "a million items.",
        {
            "rules of priorities": cannot(
                "tests/test_pjap.py and tests/test_samplers.py hold them"
            ),
            "speed": cannot("the store has no timings of an accelerator"),
        },
        "`make bench-accelerator`",
    ),
    Claim(
        9,
        "MADDPG+CQL learns",
        "The learner that the sequences are compared with learns from expert data.",
        "On a small continuous task the return is above the data's mean within 50,000 updates, and "
        "losses stay finite.",
        {"return above the data's": learns},
        SEQUENCES,
    ),
    Claim(
        10,
        "Figure 6",
        "On sequences of the two-agent HalfCheetah PJAP trains on nearer data, and raises the "
        "return where the data are of two policies.",
        "The late distance is smaller with 9 of 10 seeds, and the interquartile mean of the return "
        "not lower, on both datasets.",
        {
            **sequences("Good", GOOD),
            **sequences("Good and Medium", GOOD, ", Good-Medium"),
        },
        SEQUENCES,
        ("pjap/fig6.md",),
    ),
)
