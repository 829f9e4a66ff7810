"""OMAR on battles, in SMAX: win rates over training, and the gain over a conservative learner
without the regression.
"""

from __future__ import annotations

from jaxoff.experiments.omar import gains, runs
from jaxoff.experiments.omar.gains import Gain
from jaxoff.experiments.paper import Job, below, printed

from jaxoff.data import pools
from jaxoff.report import figures
from jaxoff.report.html import Section


def part(job: Job) -> Section:
    """Maps whose policies come with the library; the others are named."""
    maps, size = runs.MAPS[job.scale], runs.SIZES["smax"][job.scale]
    names = {name: name.rpartition("/")[2] for name in maps}
    tasks = {f"{name}/{runs.QUALITY}": names[name] for name in maps if pools.has(name)}
    lacking = [names[name] for name in maps if not pools.has(name)]
    done = job.run(runs.specs(tasks, runs.BATTLES, job.scale))
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
    stems = {"win_rate": "smac-win-rate", "return_mean": "smac-return"}
    made = job.metric_tables(stems, "OMAR: battles", done, tasks, note=note)
    figures.curves(done, "win_rate", job.out / "smac-curves", tasks=tasks)
    wins = {(run.task, run.variant): run.values("win_rate") for run in done}
    rest = [name for name in runs.BATTLES if name != "OMAR"]
    found = [
        Gain(tasks[task], f"OMAR over {name}", wins[task, "OMAR"], wins[task, name])
        for task in tasks
        for name in rest
    ]
    average = printed("omar", "smac")["average", "OMAR over MA-CQL"]
    about = [f"Paper: on average {average} over MA-CQL, on four maps of SMAC.", "", note]
    title = "OMAR: gain in win rate"
    gains.write(job, "smac-gains", found, title, about, below(done), averaged=True)
    return Section("OMAR: battles", note, ["smac-gains", "smac-curves", *made])
