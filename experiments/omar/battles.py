"""OMAR on battles, in SMAX: win rates over training, and the gain over a conservative learner
without the regression.
"""

from __future__ import annotations

import dataclasses

from jaxoff.experiments import jobs
from jaxoff.experiments.omar import gains, runs
from jaxoff.experiments.omar.gains import Gain
from jaxoff.experiments.omar.job import PAPER, Job

from jaxoff.data import pools
from jaxoff.report import figures, tables
from jaxoff.report.html import Section


def part(job: Job) -> Section:
    """Maps whose policies come with the library; the others are named."""
    maps, size = runs.MAPS[job.scale], runs.BATTLE_SIZES[job.scale]
    names = {name: name.rpartition("/")[2] for name in maps}
    tasks = {f"{name}/{runs.QUALITY}": names[name] for name in maps if pools.has(name)}
    lacking = [names[name] for name in maps if not pools.has(name)]
    specs = [
        size.spec(task, label, column) for task in tasks for label, column in runs.BATTLES.items()
    ]
    done = jobs.run_all(
        [dataclasses.replace(spec, sampled=False) for spec in specs], job.out / "runs"
    )
    note = (
        "SMAX is not SMAC: wins can't be compared with the paper's. Data: our own "
        f"recipes, {runs.QUALITY}, "
        f"{size.data_episodes or 'all'} episodes; greedy policies, {size.eval_episodes} "
        "battles. OMAR with discrete actions is the form of "
        "the CFCQL code base; MA-CQL the same learner without the regression (tau 0), "
        "MACQL a conservative learner with a linear mixer. "
        "2c_vs_64zg is not in SMAX."
        + (
            f" Not run, since their policies don't come with the library: {', '.join(lacking)}."
            * bool(lacking)
        )
    )
    stems = ["smac-gains", "smac-curves", "smac-win-rate", "smac-return"]
    for metric, stem in (("win_rate", "smac-win-rate"), ("return_mean", "smac-return")):
        tables.write(
            tables.build(
                done,
                tasks,
                None,
                metric,
                title=f"OMAR: battles, {tables.METRICS[metric]}",
                note=note,
            ),
            job.out / stem,
        )
    figures.curves(done, "win_rate", job.out / "smac-curves", tasks=tasks)
    wins = {(run.task, run.variant): run.values("win_rate") for run in done}
    rest = [name for name in runs.BATTLES if name != "OMAR"]
    found = [
        Gain(tasks[task], f"OMAR over {name}", wins[task, "OMAR"], wins[task, name])
        for task in tasks
        for name in rest
    ]
    printed = tables.read_paper(PAPER, "smac")["average", "OMAR over MA-CQL"]
    about = [f"Paper: on average {printed} over MA-CQL, on four maps of SMAC.", "", note, ""]
    about += [f"- {line}" for line in tables.provenance(done)] + [
        f"- Command: `python -m jaxoff.experiments.omar smac --scale {job.scale}`"
    ]
    gains.write(found, job.out / "smac-gains", "OMAR: gain in win rate", about, averaged=True)
    return Section("OMAR: battles", note, stems)
