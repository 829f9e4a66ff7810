"""What InSPO (Liu et al., 2025) claims, as checks of the rows of its store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from jaxoff.experiments.evidence import (
    Cells,
    Check,
    Claim,
    Missing,
    Part,
    cannot,
    interval,
    pooled_error,
    shown,
    welch,
    within,
)
from jaxoff.experiments.inspo import runs
from scipy import stats

EXACT, OUT = "exact_value", "out_of_data"
CLONED = {"a": 1.0, "b": 0.0, "c": 2 / 9, "d": 0.0}  # value of the product of the data's marginals
GAMES = {"mne": 0, "mne-20": -20}
XOR_TASKS = {f"({quality})": f"matrix/xor/{quality}" for quality in "abcd"}
SMAX = [f"smax/{name}/{quality}" for name in runs.MAPS for quality in runs.QUALITIES]
BUFFERS = [f"alberdice:grid/bridge/{quality}" for quality in ("optimal", "mixed")]
BUFFERS += [f"alberdice:matrix/xor/{quality}" for quality in "abcd"]
IN_GAMES = "`make inspo-table1 inspo-table2 inspo-table3 inspo-fig5`"
IN_BATTLES = "`make inspo-smax SCALE=full`"


def replay(task: str) -> Check:
    """No recorded number of a public buffer differs from what our game gives."""

    def check(cells: Cells) -> Part:
        wrong, of = (float(cells.of(task, "replay", x)[0]) for x in ("mismatches", "compared"))
        return Part("", f"{wrong:,.0f} of {of:,.0f} numbers differ", wrong == 0)

    return check


def fails_somewhere(label: str) -> Check:
    """A label stays below .9 on XOR (b) or (c)."""

    def check(cells: Cells) -> Part:
        found = [interval(cells.of(f"matrix/xor/{q}", label, EXACT)) for q in "bc"]
        text = f"mean {shown(found[0])} on (b), {shown(found[1])} on (c), asked below 0.9 on one"
        worst = min(found, key=lambda effect: effect[0])
        return Part("", text, worst[0] < 0.9, worst)

    return check


def worse_on_bridge(label: str) -> Check:
    """A label's returns on Bridge are below InSPO's on one dataset (Welch's test, p < .05)."""

    def check(cells: Cells) -> Part:
        found = {}
        for task in runs.BRIDGE:
            ours, theirs = (cells.of(task, name) for name in ("InSPO", label))
            p = float(stats.ttest_ind(theirs, ours, equal_var=False, alternative="less").pvalue)
            found[task] = p, welch(theirs, ours)
        text = "; ".join(
            f"{runs.BRIDGE[task]}: difference {shown(effect)}, p = {p:.2g}"
            for task, (p, effect) in found.items()
        )
        best = min(found.values(), key=lambda each: each[0])
        return Part("", text, best[0] < 0.05, best[1])

    return check


def smax_cells(cells: Cells, *labels: str) -> Iterator[str]:
    """The battles of Table 4 that have rows of all labels. Raises Missing where there is none."""
    found = [task for task in SMAX if all(cells.has(task, label) for label in labels)]
    if not found:
        raise Missing(f"no rows of {' and '.join(labels)} on battles of Table 4")
    return iter(found)


def above_cloning(cells: Cells) -> Part:
    """The share of battles in which InSPO wins at least as often as BC."""
    gaps = []
    for task in smax_cells(cells, "InSPO", "BC"):
        gaps.append(
            cells.of(task, "InSPO", "win_rate").mean() - cells.of(task, "BC", "win_rate").mean()
        )
    share = float(np.mean(np.array(gaps) >= 0))
    text = f"in {share:.0%} of {len(gaps)} of {len(SMAX)} battles, asked in 75 %"
    return Part("", text, share >= 0.75, interval(np.array(gaps)))


def orders_tie(cells: Cells) -> Part:
    """The share of pairs of update orders that do not differ (Welch's test, p >= .05)."""
    levels = []
    for task in smax_cells(cells, *runs.ORDERS):
        for one, other in itertools.combinations(runs.ORDERS, 2):
            values = [cells.of(task, name, "win_rate") for name in (one, other)]
            equal = pooled_error(*values) == 0 and values[0].mean() == values[1].mean()
            levels.append(1.0 if equal else stats.ttest_ind(*values, equal_var=False).pvalue)
    share = float(np.mean(np.array(levels) >= 0.05))
    text = f"{share:.0%} of {len(levels)} differences are not significant, asked 75 %"
    return Part("", text, share >= 0.75)


def cost(cells: Cells) -> Part:
    """The ratio of training times of InSPO and CFCQL, which the paper gives for four maps."""
    ratios = []
    for task in smax_cells(cells, "InSPO", "CFCQL"):
        ours, theirs = (cells.of(task, name, "seconds").mean() for name in ("InSPO", "CFCQL"))
        ratios.append(ours / theirs)
    effect = interval(np.array(ratios))
    return Part("", f"InSPO takes {shown(effect)} times as long", effect[0] > 1, effect)


def automatic(quality: str) -> Check:
    """The automatic alpha is within one pooled deviation of the best fixed one."""

    def check(cells: Cells) -> Part:
        task = f"smax/5m_vs_6m/{quality}"
        ours = cells.of(task, "auto", "win_rate")
        fixed = {name: cells.of(task, name, "win_rate") for name in runs.ALPHAS if name != "auto"}
        best = max(fixed, key=lambda name: fixed[name].mean())
        theirs = fixed[best]
        most = float(np.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / 2))
        gap = float(theirs.mean() - ours.mean())
        text = f"best is {best}, ahead by {gap:z.3g}, allowed {most:.3g}"
        return Part("", text, gap <= most, welch(ours, theirs))

    return check


def records(cells: Cells) -> list[Part]:
    """What a row of the store has of each run on games."""
    rows = [
        row
        for task in (*runs.XOR, *runs.MNE, *runs.BRIDGE)
        for label in runs.COLUMNS
        if cells.has(task, label)
        for row in cells.rows(task, label)
        if row.steps is not None
    ]
    if not rows:
        raise Missing("no rows of games")
    values = [
        row for row in rows if row.failed_at is not None or np.isfinite(row.value("return_mean"))
    ]
    complete = [row for row in rows if row.steps and row.settings]
    slots = [row for row in rows if row.settings.get("slots")]
    of = f"of {len(rows)} runs"
    return [
        Part("a return for each seed", f"{len(values)} {of}", len(values) == len(rows)),
        Part(
            "updates, and the settings that are no defaults",
            f"{len(complete)} {of}",
            len(complete) == len(rows),
        ),
        Part("budget in slots of batches", f"{len(slots)} {of}", len(slots) == len(rows)),
    ]


TABULAR = [f"matrix/{name}" for name in ("mne/balanced", "mne/imbalanced", "mne-20/imbalanced")]
TABULAR += ["matrix/xor/c"]


def extreme(metric: str, limit: float, largest: bool) -> Check:
    """The largest number of the exact iterations is below a limit, or the smallest is above."""

    def check(cells: Cells) -> Part:
        values = np.concatenate([cells.of(task, "exact iteration", metric) for task in TABULAR])
        found = float(values.max() if largest else values.min())
        asked = "below" if largest else "at least"
        holds = found < limit if largest else found >= limit
        text = f"{found:.2g} over {len(values)} settings, asked {asked} {limit:g}"
        return Part("", text, bool(holds))

    return check


CLAIMS = (
    Claim(
        1,
        "Games and readers",
        "The experiments are on public data of AlberDICE's games, which our environments and "
        "readers must reproduce.",
        "Every recorded step of the public buffers, played again in our games, gives the recorded "
        "reward and observation.",
        {task: replay(task) for task in BUFFERS},
        "`make evidence MEASURE=replays DATA=DIR`",
    ),
    Claim(
        2,
        "XOR",
        "Only InSPO and AlberDICE reach the optimum of XOR on datasets in which it takes "
        "coordination; cloning and value methods choose joint actions that the data do not show.",
        "InSPO's exact value is at least .97, with at most .02 of probability on joint actions "
        "outside the data; AlberDICE's is at least .95; BC's is that of the data's marginals, "
        "within .03; CFCQL and OMIGA stay below .9 on (b) or (c).",
        {
            **{
                f"InSPO's value on {name}": within(task, "InSPO", 0.97, metric=EXACT)
                for name, task in XOR_TASKS.items()
            },
            **{
                f"InSPO out of the data on {name}": within(task, "InSPO", high=0.02, metric=OUT)
                for name, task in XOR_TASKS.items()
                if name != "(d)"
            },
            **{
                f"AlberDICE's value on {name}": within(task, "AlberDICE", 0.95, metric=EXACT)
                for name, task in XOR_TASKS.items()
            },
            **{
                f"BC's value on ({q})": within(
                    f"matrix/xor/{q}", "BC", value - 0.03, value + 0.03, EXACT
                )
                for q, value in CLONED.items()
            },
            **{f"{name} fails on (b) or (c)": fails_somewhere(name) for name in ("CFCQL", "OMIGA")},
        },
        IN_GAMES,
    ),
    Claim(
        3,
        "M-NE",
        "InSPO finds the global optimum of M-NE on balanced and imbalanced data; without entropy "
        "it stays at the data's equilibrium.",
        "InSPO's exact value is at least 19 of 20 on balanced data and on data of (.8, .1, .1), "
        "with 0 and with -20 off the diagonal; without entropy it is 4.5 to 5.5. The paper's "
        "payoff off the diagonal and its imbalanced policy are not recoverable.",
        {
            **{
                f"InSPO, {quality}, {off} off the diagonal": within(
                    f"matrix/{game}/{quality}", "InSPO", 19.0, metric=EXACT
                )
                for game, off in GAMES.items()
                for quality in ("balanced", "imbalanced")
            },
            "InSPO without entropy, imbalanced": within(
                "matrix/mne/imbalanced", "InSPO w/o entropy", 4.5, 5.5, EXACT
            ),
        },
        IN_GAMES,
    ),
    Claim(
        4,
        "The iteration in theory",
        "The iteration raises the regularised objective in every step and ends at a quantal "
        "response equilibrium.",
        "Computed exactly: fixed points satisfy Eq. 12 within 1e-6, no step lowers the objective "
        "by more than 1e-9, and on XOR one joint action of the data gets .999 of the probability.",
        {
            "distance from Eq. 12": extreme("residual", 1e-6, True),
            "smallest change of the objective": extreme("smallest step", -1e-9, False),
            "likeliest joint action on XOR": within(
                "matrix/xor/b", "exact iteration", 0.999, metric="likeliest"
            ),
        },
        "`make evidence`",
    ),
    Claim(
        5,
        "Ablation of sequential updates",
        "Without sequential policy optimisation InSPO puts probability on joint actions outside "
        "the data of XOR (b).",
        "That probability is at least .3.",
        {"out of the data on (b)": within("matrix/xor/b", "InSPO w/o SPO", 0.3, metric=OUT)},
        IN_GAMES,
    ),
    Claim(
        6,
        "Bridge",
        "On Bridge InSPO and AlberDICE are near the optimum with both datasets; the other "
        "methods fail on at least one.",
        "InSPO and AlberDICE return at least -1.6 (the optimum is -1.2355); BC, OMIGA and CFCQL "
        "are below InSPO on one dataset (Welch's test, p < .05).",
        {
            **{
                f"{label}, {quality} data": within(task, label, -1.6)
                for label in ("InSPO", "AlberDICE")
                for task, quality in runs.BRIDGE.items()
            },
            **{f"{name} below InSPO": worse_on_bridge(name) for name in ("BC", "OMIGA", "CFCQL")},
        },
        IN_GAMES,
    ),
    Claim(
        7,
        "Battles",
        "In SMAC InSPO is at least level with cloning, the order of updates makes no significant "
        "difference, and training takes longer than CFCQL's.",
        "On SMAX in SMAC's place: InSPO wins as often as BC in 75 % of the battles; 75 % of the "
        "differences between orders are not significant; InSPO takes longer.",
        {
            "InSPO against BC": above_cloning,
            "orders of updates": orders_tie,
            "training time against CFCQL": cost,
        },
        IN_BATTLES,
    ),
    Claim(
        8,
        "Automatic alpha",
        "The automatic coefficient is as good as the best fixed one.",
        "Its win rate is within one pooled deviation of the best fixed alpha's, on 5m_vs_6m "
        "expert and mixed; the final divergence is within 25 % of its target.",
        {
            **{f"5m_vs_6m {quality}": automatic(quality) for quality in ("expert", "mixed")},
            "final divergence": cannot("the store has no divergences"),
        },
        IN_BATTLES,
    ),
    Claim(
        9,
        "Records",
        "Results must say what was run: scores of each seed, budgets, and settings that the "
        "paper does not give.",
        "Each row of a game has the run's return, its updates, the settings that differ from "
        "defaults, and the number of slots that its batches had.",
        {"": records},
        IN_GAMES,
    ),
)
