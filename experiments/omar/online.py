"""OMAR's actor offline and online, alone and in a team: the four gains of the 2x2 comparison."""

from __future__ import annotations

from jaxoff.experiments.omar import gains, runs
from jaxoff.experiments.omar.gains import Gain
from jaxoff.experiments.paper import Job, below

from jaxoff.report import figures, protocol
from jaxoff.report.html import Section

SIDES = {"offline": ("OMAR", "MA-CQL"), "online": ("MATD3+OMAR", "MATD3")}


def part(job: Job) -> Section:
    """Offline, OMAR over MA-CQL; online, MATD3 with OMAR's actor objective over MATD3; spread of
    one agent and of three.
    """
    tasks = {task: f"n = {n}" for task, n in runs.TWO_BY_TWO.items()}
    done = runs.trained(job, tasks, runs.OFFLINE)
    acting = runs.online_specs(tasks, runs.ONLINE, job.scale)
    done += job.run(acting)
    collect = runs.COLLECT[job.scale]
    note = (
        "Spread. Offline: medium-replay. "
        + runs.about(job.scale)
        + f" Online: {acting[0].config.get('steps')} rounds, one for "
        f"{collect['num_envs'] * collect['collect']} joint steps in {collect['num_envs']} "
        f"environments, exploration noise .1, a buffer of {collect['capacity']:,}; MATD3 has "
        "values of the state and all actions (which is the same for n = 1) and no conservative "
        "term, MATD3+OMAR the same with the regression onto the best of the search. Its weight tau "
        "is that of the offline table, since the paper prints none for online play."
    )
    columns = [name for side in SIDES.values() for name in reversed(side)]
    job.table("online", "OMAR: online and offline", done, tasks, columns, note=note)
    value = {(run.task, run.variant): run.values("return_mean") for run in done}
    found = [
        Gain(side, n, value[task, a], value[task, b])
        for side, (a, b) in SIDES.items()
        for task, n in tasks.items()
    ]
    about = [
        "Paper: a plot without numbers; all four are positive, offline more than online, "
        "n > 1 more than n = 1."
    ]
    title = "OMAR: gain offline and online, alone and in a team"
    gains.write(job, "online-gains", found, title, about, below(done))
    gains.bars(found, job.out / "online-gains", protocol.of_runs(done))
    figures.curves(done, "return_mean", job.out / "online-curves", tasks=tasks, label="return")
    return Section(
        "OMAR: online and offline, one agent and three",
        note,
        ["online-gains", "online", "online-curves"],
    )
