"""OMAR's actor offline and online, alone and in a team: the four gains of the 2x2 comparison."""

from __future__ import annotations

from jaxoff.experiments import jobs
from jaxoff.experiments.omar import gains, runs
from jaxoff.experiments.omar.gains import Gain
from jaxoff.experiments.omar.job import Job

from jaxoff.report import figures, tables
from jaxoff.report.html import Section

SIDES = {"offline": ("OMAR", "MA-CQL"), "online": ("MATD3+OMAR", "MATD3")}


def part(job: Job) -> Section:
    """Offline, OMAR over MA-CQL; online, MATD3 with OMAR's actor objective over MATD3; spread of
    one agent and of three.
    """
    tasks = {task: f"n = {n}" for task, n in runs.TWO_BY_TWO.items()}
    done = job.run(list(tasks), runs.OFFLINE)
    acting = runs.online_specs(list(tasks), runs.ONLINE, job.scale)
    done += jobs.run_all(acting, job.out / "runs")
    collect = runs.COLLECT[job.scale]
    note = (
        "Spread. Offline: medium-replay. "
        + job.about()
        + f" Online: {acting[0].config.get('steps')} rounds, one for "
        f"{collect['num_envs'] * collect['collect']} joint steps in {collect['num_envs']} "
        f"environments, exploration noise .1, a buffer of {collect['capacity']:,}; MATD3 has "
        "values of the state and all actions (which is the same for n = 1) and no conservative "
        "term, MATD3+OMAR the same with the regression onto the best of the search. Its weight tau "
        "is that of the offline table, since the paper prints none for online play."
    )
    built = tables.build(
        done,
        tasks,
        [name for side in SIDES.values() for name in reversed(side)],
        title="OMAR: online and offline",
        note=note,
    )
    tables.write(built, job.out / "online")
    value = {(run.task, run.variant): run.values("return_mean") for run in done}
    found = [
        Gain(side, n, value[task, a], value[task, b])
        for side, (a, b) in SIDES.items()
        for task, n in tasks.items()
    ]
    about = [f"- {line}" for line in tables.provenance(done)] + [
        f"- Command: `python -m jaxoff.experiments.omar online --scale {job.scale}`"
    ]
    about.append(
        "- Paper: a plot without numbers; all four are positive, offline more than online, "
        "n > 1 more than n = 1."
    )
    gains.write(
        found, job.out / "online-gains", "OMAR: gain offline and online, alone and in a team", about
    )
    gains.bars(found, job.out / "online-gains")
    figures.curves(done, "return_mean", job.out / "online-curves", tasks=tasks, label="return")
    return Section(
        "OMAR: online and offline, one agent and three",
        note,
        ["online-gains", "online", "online-curves"],
    )
