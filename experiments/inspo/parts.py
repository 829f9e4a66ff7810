"""The tables and figures of InSPO.

Parts: table1, table2, table3, fig3, fig5 (games and Bridge; together: all), table4 ... table7
(SMAX; together: smax), and tune, the search for the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxoff.experiments.inspo import figures, runs
from jaxoff.experiments.inspo.tuning import tune
from jaxoff.experiments.paper import Column, Job, Paper, below, printed

from jaxoff import registry
from jaxoff.report import figures as report_figures
from jaxoff.report.html import Section
from jaxoff.report.load import Run

SMAX_NOTE = (
    "SMAX is not SMAC: the numbers are not comparable with the paper's. Actions are the "
    "policy's modes."
)


def trained(
    job: Job, tasks: Mapping[str, str], columns: Mapping[str, Column], *, whole: bool = False
) -> list[Run]:
    """Every column on every task; whole: with policies and arrays."""
    return job.run(runs.specs(tasks, columns, job.scale), whole=whole)


def games(job: Job, name: str, title: str, tasks: Mapping[str, str], note: str) -> Section:
    """A table of every metric that the runs have, and the learning curves."""
    done = trained(job, tasks, runs.COLUMNS)
    names = {"return_mean": "", "exact_value": "-exact", "out_of_data": "-out-of-data"}
    stems = {metric: f"{name}{ending}" for metric, ending in names.items()}
    made = job.metric_tables(stems, title, done, tasks, paper=name, note=note)
    figures.learning_curves(done, tasks, job.out / f"{name}-curves", printed("inspo", name))
    return Section(title, "", [*made, f"{name}-curves"])


def table1(job: Job) -> Section:
    """XOR."""
    note = (
        "XOR, datasets of equal parts of the joint actions (a) AB; (b) AB, BA; (c) AA, AB, "
        "BA; (d) all four (not in the paper's table). "
        "The optimum is 1. Mean reward of the data: 1, 1, 0.667, 0. Return is of 32 "
        "sampled episodes, the exact value is the expectation, "
        "out-of-data is the probability of joint actions that the dataset does not hold."
    )
    return games(job, "table1", "InSPO Table 1: XOR game", runs.XOR, note)


def table2(job: Job) -> Section:
    """M-NE."""
    note = (
        "M-NE, 5, 10 and 20 on the diagonal and x off it; the paper's x and imbalanced "
        "policy are not recoverable, so several are run: "
        "imbalanced is (0.8, 0.1, 0.1) for both agents, imbalanced-0.9 (0.9, 0.05, 0.05), "
        "imbalanced-0.98 (0.98, 0.01, 0.01). "
        "The optimum is 20."
    )
    return games(job, "table2", "InSPO Table 2: M-NE game", runs.MNE, note)


def table3(job: Job) -> Section:
    """Bridge."""
    note = (
        "Bridge, horizon 20, actions sampled from the policy. Exact optimum -1.2355, "
        "uniformly random actions -7.100; the optimal "
        "dataset's own mean return is -1.262. Data are from our recipes, which follow the "
        "public buffers."
    )
    section = games(job, "table3", "InSPO Table 3: Bridge", runs.BRIDGE, note)
    gifs = figures.episodes(trained(job, runs.BRIDGE, runs.INSPO), job.out)
    return section._replace(stems=[*section.stems, *gifs])


def table4(job: Job) -> Section:
    """SMAX."""
    return battles(
        job,
        "table4",
        "InSPO Table 4: SMAX",
        smax_tasks(job, runs.MAPS),
        runs.SMAX_COLUMNS,
        average=True,
    )


def table5(job: Job) -> Section:
    """Fixed alpha against the automatic one."""
    tasks = smax_tasks(job, ("5m_vs_6m",), ("expert", "mixed"))
    return battles(
        job,
        "table5",
        "InSPO Table 5: alpha",
        tasks,
        runs.ALPHAS,
        note="The paper does not say on which map; this is 5m_vs_6m. ",
    )


def table6(job: Job) -> Section:
    """Orders of updates."""
    return battles(
        job,
        "table6",
        "InSPO Table 6: order of updates",
        smax_tasks(job, ("5m_vs_6m", "6h_vs_8z")),
        runs.ORDERS,
    )


def table7(job: Job) -> Section:
    """Training time."""
    tasks = smax_tasks(job, runs.MAPS, ("medium",))
    done = trained(job, tasks, runs.TIMED)
    seconds = {(run.task, run.variant): run.timing["train_s"] / len(run.seeds) for run in done}
    lines = [
        "# InSPO Table 7: training time, seconds per seed without compilation",
        "",
        "| map | CFCQL | InSPO | ratio | agents |",
        "|---" * 5 + "|",
    ]
    for task, label in tasks.items():
        ours, theirs = seconds[task, "InSPO"], seconds[task, "CFCQL"]
        agents = registry.make_spec(task).num_agents
        lines.append(f"| {label} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} | {agents} |")
    return Section(
        "InSPO Table 7: training time",
        "All seeds of a cell are one program; both stages of a method are counted.",
        [job.text("table7", lines, below(done, evaluation=""))],
    )


def smax_tasks(
    job: Job, maps: Sequence[str], qualities: Sequence[str] = runs.QUALITIES
) -> dict[str, str]:
    """Tasks of these maps and qualities, as far as the scale has them; where it has none, the
    scale's own.
    """
    size = runs.SIZES["smax"][job.scale]
    maps = [name for name in maps if name in size.maps] or list(size.maps)
    qualities = [name for name in qualities if name in size.qualities] or list(size.qualities)
    return {f"smax/{name}/{quality}": f"{name} {quality}" for name in maps for quality in qualities}


def battles(
    job: Job,
    name: str,
    title: str,
    tasks: Mapping[str, str],
    columns: Mapping[str, Column],
    *,
    note: str = "",
    average: bool = False,
) -> Section:
    """Tables of win rate and return on SMAX tasks, and the learning curves."""
    done = trained(job, tasks, columns)
    stems = {"win_rate": name, "return_mean": f"{name}-return"}
    shown: dict[str, Any] = {"note": note + SMAX_NOTE, "average": average and len(tasks) > 1}
    made = job.metric_tables(stems, title, done, tasks, **shown)
    curves = job.out / f"{name}-curves"
    report_figures.curves(done, "win_rate", curves, tasks=tasks, label="win rate")
    return Section(title, "", [*made, f"{name}-curves"])


def fig3(job: Job) -> Section:
    """Joint policies on XOR (c)."""
    done = trained(job, {"matrix/xor/c": "(c)"}, runs.COLUMNS, whole=True)
    figures.joint_policies(done, ("A", "B"), job.out / "fig3")
    text = (
        "Joint policy at the end of training on XOR dataset (c), which holds AA, AB and BA; "
        "seed 0 of each method."
    )
    return Section("InSPO Figure 3: converged joint policies", text, ["fig3"])


def fig5(job: Job) -> Section:
    """Ablations: without entropy on M-NE, without sequential policy optimisation on XOR."""
    stems: list[str] = []
    for name, tasks, columns, actions in (
        ("fig5a", {"matrix/mne/imbalanced": "M-NE imbalanced"}, runs.ENTROPY, ("A", "B", "C")),
        ("fig5b", {"matrix/xor/b": "XOR (b)"}, runs.SEQUENTIAL, ("A", "B")),
    ):
        done = trained(job, tasks, runs.INSPO | columns, whole=True)
        figures.joint_policies(done, actions, job.out / name)
        figures.learning_curves(done, tasks, job.out / f"{name}-curves")
        made = {"exact_value": f"{name}-exact-value", "out_of_data": f"{name}-out-of-data"}
        stems += [name, f"{name}-curves"]
        stems += job.metric_tables(made, "InSPO Figure 5: ablation", done)
    text = (
        "(a) InSPO without the entropy term on imbalanced M-NE, whose local optimum is AA, "
        "with the alpha of the tables and with 1. "
        "(b) InSPO without teammate tracking on XOR (b), which holds AB and BA; and with "
        "teammates as "
        "they were at the start of an iteration."
    )
    return Section("InSPO Figure 5: ablations", text, stems)


Part = Callable[[Job], Section]
GAMES: dict[str, Part] = {make.__name__: make for make in (table1, table2, table3, fig3, fig5)}
BATTLES: dict[str, Part] = {make.__name__: make for make in (table4, table5, table6, table7)}
PAPER = Paper(
    "inspo",
    "InSPO",
    "Tables 1-7, Figures 3 and 5 of Liu et al. (2025).",
    {**GAMES, **BATTLES, "tune": tune},
    {"smax": BATTLES, "all": GAMES},
    scales={"tune": ("cpu",)},
)
