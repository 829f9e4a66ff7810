"""Each paper by the smallest experiment that shows its point, for `make benchmark`.

At scale cpu updates and seeds are fewer than in the papers' tables, which `make inspo` and its
neighbours make; the other settings are theirs. A verdict is a paired difference over seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from jaxoff.experiments import checks
from jaxoff.experiments.inspo import figures as inspo_figures
from jaxoff.experiments.inspo import runs as inspo
from jaxoff.experiments.omar import parts as omar_parts
from jaxoff.experiments.omar import runs as omar
from jaxoff.experiments.paper import Job
from jaxoff.experiments.pjap import parts as pjap_parts
from jaxoff.experiments.sit import figures as sit_figures
from jaxoff.experiments.sit import parts as sit_parts
from jaxoff.experiments.sit import runs as sit
from jaxoff.experiments.yanhui import parts as yanhui_parts
from jaxoff.experiments.yanhui import runs as yanhui

from jaxoff.names import Task
from jaxoff.report.html import Section
from jaxoff.report.load import Run
from jaxoff.training import TrainSpec

GAMES = {
    "matrix/xor/b": "XOR (b)",
    "matrix/xor/c": "XOR (c)",
    "matrix/mne/imbalanced": "M-NE imbalanced",
    "grid/bridge/mixed": "Bridge mixed",
}
FEW = ("matrix/xor/b", "grid/bridge/mixed")  # games at scale smoke
BATCHES = {"xor": 128, "mne": 256, "bridge": 128}  # most rows of a batch
SPREAD = {"mpe/spread/medium-replay": "spread, medium-replay"}
PARTICLES = {"mpe/CN_3ls3l/imbalanced-low": "CN_3ls3l low"}
POOR = 50  # percent of poor episodes
SHORTER = "Updates and seeds are fewer than in the paper's table."


def shorter(
    specs: Iterable[TrainSpec], scale: str, steps: int, seeds: int = 3, **config: int
) -> list[TrainSpec]:
    """The jobs with at most so many updates and seeds at scale cpu; at another, as they are.

    config: set for those methods that have set it already, but a smaller number of theirs stays.
    Evaluations are at most five.
    """
    if scale != "cpu":
        return list(specs)
    found = []
    for spec in specs:
        own = {
            name: min(most, spec.config[name])
            for name, most in config.items()
            if name in spec.config
        }
        most = min(steps, spec.steps or spec.config.get("steps", steps))
        found.append(
            dataclasses.replace(
                spec,
                config={**spec.config, **own, "steps": most},
                steps=None,
                seeds=spec.seeds[:seeds],
                evaluations=min(spec.evaluations, 5),
            )
        )
    return found


def verdicts(
    job: Job, title: str, done: Sequence[Run], pairs: Mapping[str, Sequence[tuple[str, str]]]
) -> str:
    """Whether one column is above another, task -> pairs; returns the stem of the table."""
    found = checks.values_of(done)
    listed = [
        checks.above(found, task, task, *pair) for task, wanted in pairs.items() for pair in wanted
    ]
    return checks.write(job, "verdicts", title, listed, done)


def inspo_point(job: Job) -> Section:
    """In-sample sequential updates agree on one of several modes of the data."""
    games = {task: GAMES[task] for task in (FEW if job.scale == "smoke" else GAMES)}
    specs = [
        spec
        for task in games
        for spec in shorter(
            inspo.specs([task], inspo.PAPER_COLUMNS, job.scale),
            job.scale,
            2500 if task.startswith("grid") else 1500,
            5,
            batch_size=BATCHES[Task.parse(task).scenario],
        )
    ]
    done = job.run(specs)
    title = "InSPO: one of several modes"
    table = job.table("returns", f"{title}, returns", done, games, note=SHORTER)
    others = [name for name in inspo.PAPER_COLUMNS if name != "InSPO"]
    pairs = {task: [("InSPO", name) for name in others] for task in games}
    stems = [table, verdicts(job, f"{title}, verdicts", done, pairs)]
    mixed = [run for run in done if run.task.startswith("grid")]
    inspo_figures.learning_curves(mixed, {"grid/bridge/mixed": "mixed"}, job.out / "curves")
    own = [run for run in mixed if run.variant == "InSPO"]
    text = (
        "Data with several ways to succeed: agents that are cloned or improved each for itself "
        "mix them."
    )
    return Section(title, text, [*stems, "curves", *inspo_figures.episodes(own, job.out)])


def pjap_point(job: Job) -> Section:
    """Samples near the team's current joint action keep its update on the true slope."""
    return pjap_parts.fig5(job)


def omar_landscape(job: Job) -> Section:
    """An actor on a value with two modes."""
    return omar_parts.landscape_part(job)


def omar_point(job: Job) -> Section:
    """A search over actions finds what the gradient of a conservative critic does not."""
    specs = omar.specs(SPREAD, omar.PAIR, job.scale)
    if job.scale == "cpu":
        specs = [dataclasses.replace(spec, data_episodes=4000) for spec in specs]
    done = job.run(shorter(specs, job.scale, 1000), omar.data_of(job))
    title = "OMAR: a search beside the gradient"
    table = job.table("spread", f"{title}, returns on spread", done, SPREAD, note=SHORTER)
    pairs = {task: [("OMAR", "MA-CQL"), ("OMAR", "BC")] for task in SPREAD}
    return Section(title, "", [table, verdicts(job, f"{title}, verdicts", done, pairs)])


def sit_credit(job: Job) -> Section:
    """A decomposed reward tells the agents that earned it from those that act at random."""
    stems = sit_parts.credits(job, PARTICLES, "credit")
    text = "Own reward of each agent during the fit, and its share of the draws."
    return Section("SIT: whose trajectories are learned from", text, stems)


def sit_point(job: Job) -> Section:
    """Prioritised trajectories of single agents against batches of whole episodes."""
    columns = {"BC": sit.CLAIM["BC"], **sit.TUNED}
    specs = shorter(
        sit.specs(PARTICLES, columns, job.scale), job.scale, 1000, decomposition_steps=1000
    )
    done = job.run(specs)
    title = "SIT: data of unequal agents"
    stem = sit_parts.table(job, done, PARTICLES, "returns", f"{title}, returns", SHORTER)
    pairs = [("SIT, tuned", "ICQ, tuned"), ("SIT, tuned", "BC"), ("ICQ, tuned", "BC")]
    stems = [stem, verdicts(job, f"{title}, verdicts", done, dict.fromkeys(PARTICLES, pairs))]
    curves = sit_figures.learning_curves(done, PARTICLES, job.out / "curves")
    return Section(title, "", [*stems, curves])


def yanhui_point(job: Job) -> Section:
    """Poor episodes among good ones harm imitation, and less so with the return contrasted."""
    shares = (POOR,) if job.scale == "smoke" else (0, POOR)
    tasks = yanhui_parts.tasks_of(job, ("3m",), shares, few=True)
    specs = yanhui.specs(tasks, yanhui.CLAIM, job.scale)
    done = job.run(shorter(specs, job.scale, 600))
    title = "YANHUI: poor episodes in the data"
    stems = yanhui_parts.table(job, "returns", f"{title}, 3m", done, dict(tasks))
    pairs = {list(tasks)[-1]: [("YANHUI", "MADT"), ("YANHUI", "BC")]}
    return Section(title, "", [*stems, verdicts(job, f"{title}, verdicts", done, pairs)])


POINTS = {
    "inspo": (inspo_point,),
    "pjap": (pjap_point,),
    "omar": (omar_landscape, omar_point),
    "sit": (sit_credit, sit_point),
    "yanhui": (yanhui_point,),
}
