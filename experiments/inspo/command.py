"""`python -m jaxoff.experiments.inspo [PART] --scale smoke|cpu|full --out results/inspo`.

Parts: table1, table2, table3, fig3, fig5 (games and Bridge; together: all), table4 ... table7
(SMAX; together: smax).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxoff.experiments.inspo import figures, runs

from jaxoff import registry
from jaxoff.files import write_text
from jaxoff.report import figures as report_figures
from jaxoff.report import tables
from jaxoff.report.html import Section

PAPER = Path(__file__).with_name("paper.csv")
METRICS = {"return_mean": "", "exact_value": "-exact", "out_of_data": "-out-of-data"}
SMAX_NOTE = (
    "SMAX is not SMAC: the numbers are not comparable with the paper's. Actions are the "
    "policy's modes."
)


class Job:
    """One call of the command.

    A result that is already in `out` is read back, not trained again.
    """

    def __init__(self, scale: str, out: Path) -> None:
        self.scale, self.out = scale, out

    def run(self, tasks: Sequence[str], columns: dict[str, runs.Column]) -> list[runs.Run]:
        """Train columns on tasks, one folder each below out/runs."""
        return runs.run_all(tasks, columns, self.scale, self.out / "runs")

    def table(self, name: str, title: str, labels: dict[str, str], note: str) -> Section:
        """A table of every metric that the runs have, and the learning curves."""
        done = self.run(list(labels), runs.COLUMNS)
        stems = []
        for metric, suffix in METRICS.items():
            if all(run.has(metric) for run in done):
                paper = tables.read_paper(PAPER, name) if metric != "out_of_data" else None
                built = tables.build(
                    done,
                    labels,
                    None,
                    metric,
                    title=f"{title}, {tables.METRICS[metric]}",
                    paper=paper,
                    note=note,
                )
                tables.write(built, self.out / f"{name}{suffix}")
                stems.append(f"{name}{suffix}")
        figures.learning_curves(done, labels, self.out / f"{name}-curves")
        return Section(title, "", [*stems, f"{name}-curves"])


def table1(job: Job) -> Section:
    """XOR."""
    note = (
        "XOR, datasets of equal parts of the joint actions (a) AB; (b) AB, BA; (c) AA, AB, "
        "BA; (d) all four (not in the paper's table). "
        "The optimum is 1. Mean reward of the data: 1, 1, 0.667, 0. Return is of 32 "
        "sampled episodes, the exact value is the expectation, "
        "out-of-data is the probability of joint actions that the dataset does not hold."
    )
    return job.table("table1", "InSPO Table 1: XOR game", runs.XOR, note)


def table2(job: Job) -> Section:
    """M-NE."""
    note = (
        "M-NE, 5, 10 and 20 on the diagonal and x off it; the paper's x and imbalanced "
        "policy are not recoverable, so several are run: "
        "imbalanced is (0.8, 0.1, 0.1) for both agents, imbalanced-0.9 (0.9, 0.05, 0.05), "
        "imbalanced-0.98 (0.98, 0.01, 0.01). "
        "The optimum is 20."
    )
    return job.table("table2", "InSPO Table 2: M-NE game", runs.MNE, note)


def table3(job: Job) -> Section:
    """Bridge."""
    note = (
        "Bridge, horizon 20, actions sampled from the policy. Exact optimum -1.2355, "
        "uniformly random actions -7.100; the optimal "
        "dataset's own mean return is -1.262. Data are from our recipes, which follow the "
        "public buffers."
    )
    section = job.table("table3", "InSPO Table 3: Bridge", runs.BRIDGE, note)
    gifs = figures.episodes(job.run(list(runs.BRIDGE), {"InSPO": runs.COLUMNS["InSPO"]}), job.out)
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
    done = job.run(list(tasks), runs.TIMED)
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
    lines += [
        "",
        *(f"- {line}" for line in tables.provenance(done)),
        f"- Command: `python -m jaxoff.experiments.inspo table7 --scale {job.scale}`",
    ]
    write_text(job.out / "table7.md", "\n".join(lines) + "\n")
    return Section(
        "InSPO Table 7: training time",
        "All seeds of a cell are one program; both stages of a method are counted.",
        ["table7"],
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
    tasks: dict[str, str],
    columns: dict[str, runs.Column],
    *,
    note: str = "",
    average: bool = False,
) -> Section:
    """Tables of win rate and return on SMAX tasks, and the learning curves."""
    done = job.run(list(tasks), columns)
    stems = [name, f"{name}-return", f"{name}-curves"]
    for metric, stem in (("win_rate", name), ("return_mean", f"{name}-return")):
        built = tables.build(
            done,
            tasks,
            None,
            metric,
            title=f"{title}, {tables.METRICS[metric]}",
            note=note + SMAX_NOTE,
            average=average and len(tasks) > 1,
        )
        tables.write(built, job.out / stem)
    report_figures.curves(
        done, "win_rate", job.out / f"{name}-curves", tasks=tasks, label="win rate"
    )
    return Section(title, "", stems)


def fig3(job: Job) -> Section:
    """Joint policies on XOR (c)."""
    figures.joint_policies(job.run(["matrix/xor/c"], runs.COLUMNS), ("A", "B"), job.out / "fig3")
    text = (
        "Joint policy at the end of training on XOR dataset (c), which holds AA, AB and BA; "
        "seed 0 of each method."
    )
    return Section("InSPO Figure 3: converged joint policies", text, ["fig3"])


def fig5(job: Job) -> Section:
    """Ablations: without entropy on M-NE, without sequential policy optimisation on XOR."""
    inspo = {"InSPO": runs.COLUMNS["InSPO"]}
    mne = job.run(["matrix/mne/imbalanced"], inspo | runs.ENTROPY)
    xor = job.run(["matrix/xor/b"], inspo | runs.SEQUENTIAL)
    figures.joint_policies(mne, ("A", "B", "C"), job.out / "fig5a")
    figures.joint_policies(xor, ("A", "B"), job.out / "fig5b")
    figures.learning_curves(
        mne, {"matrix/mne/imbalanced": "M-NE imbalanced"}, job.out / "fig5a-curves"
    )
    figures.learning_curves(xor, {"matrix/xor/b": "XOR (b)"}, job.out / "fig5b-curves")
    stems = ["fig5a", "fig5a-curves", "fig5b", "fig5b-curves"]
    for name, done in (("fig5a", mne), ("fig5b", xor)):
        for metric in ("exact_value", "out_of_data"):
            built = tables.build(
                done,
                None,
                None,
                metric,
                title=f"InSPO Figure 5: ablation, {metric.replace('_', ' ')}",
            )
            tables.write(built, job.out / f"{name}-{metric.replace('_', '-')}")
            stems.append(f"{name}-{metric.replace('_', '-')}")
    text = (
        "(a) InSPO without the entropy term on imbalanced M-NE, whose local optimum is AA, "
        "with the alpha of the tables and with 1. "
        "(b) InSPO without teammate tracking on XOR (b), which holds AB and BA; and with "
        "teammates as "
        "they were at the start of an iteration."
    )
    return Section("InSPO Figure 5: ablations", text, stems)


PARTS: dict[str, Callable[[Job], Section]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "fig3": fig3,
    "fig5": fig5,
}


SMAX_PARTS: dict[str, Callable[[Job], Section]] = {
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "table7": table7,
}


def run_parts(part: str, scale: str, out: Path) -> list[Section]:
    """Make a part, all of the games ("all"), or all of SMAX ("smax"): the sections of the page,
    their files below `out`.
    """
    job = Job(scale, out)
    games = [make(job) for name, make in PARTS.items() if part in (name, "all")]
    return games + [make(job) for name, make in SMAX_PARTS.items() if part in (name, "smax")]
