"""Figure 6 of Tilbury et al. (2024): MADDPG+CQL on sequences, with and without PJAP; and the same
on what is there without a download.

PJAP as submitted, the same without its ramp, and as its authors changed it later: 1,024 other
windows are judged in each update. Their code means to draw those uniformly, and in effect draws
them by priority (docs/methods/pjap.md), so both are columns.

Data of the paper: OG-MARL's Good, and Good followed by Medium, of the two-agent HalfCheetah
(`--data-dir`). Without them: our own expert, and expert and medium in equal parts, of the same
robot, which need a pool of its policies; random policies, which need nothing; and a particle world,
whose pool is shipped. What is missing is named on the page.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxoff.experiments import paper
from jaxoff.experiments.paper import Column, Job, below, printed

from jaxoff import registry
from jaxoff.data.disk import InvalidDataset
from jaxoff.data.episodes import concatenate
from jaxoff.data.pools import InvalidPool
from jaxoff.eval import statistics
from jaxoff.eval.final import evaluate_policy
from jaxoff.files import write_text
from jaxoff.names import DataOptions
from jaxoff.report.figures import band_of, looks, save, style, write_note
from jaxoff.report.html import Section
from jaxoff.report.load import Run
from jaxoff.report.protocol import Protocol
from jaxoff.training import TrainSpec
from jaxoff.training.restore import restore_policy
from jaxoff.types import Episodes, ReturnScale

# Of the later code's changes, those of the sampler; its weight of the conservative term is 3 too.
LATER: dict[str, Any] = {"refresh": 1024, "ramp": 0.0, "eps": 1e-4}
VARIANTS = {"MADDPG+CQL": Column("maddpg")} | {
    f"MADDPG+CQL+PJAP{ending}": Column("maddpg", sampler="pjap", sampler_config=config)
    for ending, config in (
        ("", {}),
        (", no ramp", {"ramp": 0.0}),
        (", later, uniform", LATER | {"refresh_from": "uniform"}),
        (", later, by priority", LATER | {"refresh_from": "priorities"}),
    )
}
LATE = 0.1  # share of the training that "late" means
PAPER_SCALE = ReturnScale(0.0, 9132.2471, "0; largest return in Good")
SEQUENCES = {
    "actor": "recurrent",
    "share": True,
    "num_samples": 10,
    "optimiser": "rmsprop",
    "window": 20,
    "batch_size": 64,
}
PARTICLES = SEQUENCES | {
    "actor_lr": 3e-4,
    "critic_lr": 1e-3,
    "gamma": 0.95,
    "polyak": 0.005,
    "max_grad_norm": 0.0,
    "hidden": (256, 256),
}
WINDOWS = {"refresh": 0, "exponent": 0.99, "clip_actions": True}


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset of the figure: its tasks, one after the other, and what is set on it."""

    name: str
    tasks: tuple[str, ...]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sampler: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scale: ReturnScale | None = None  # None: that of the environment
    scales: tuple[str, ...] = ("full",)
    episodes: int | None = None  # of a recipe, below full scale


ROBOT, OURS, SPREAD = "og_marl:mamujoco/2halfcheetah", "mamujoco/halfcheetah-2x3", "mpe/spread"
SOURCES = (
    Source("Good", (f"{ROBOT}/Good",), scale=PAPER_SCALE),
    Source("Good-Medium", (f"{ROBOT}/Good", f"{ROBOT}/Medium"), scale=PAPER_SCALE),
    Source("HalfCheetah expert (ours)", (f"{OURS}/expert",), scales=("cpu", "full"), episodes=10),
    Source(
        "HalfCheetah expert + medium (ours)",
        (f"{OURS}/mix=50%[e e]+50%[m m]",),
        scales=("cpu", "full"),
        episodes=10,
    ),
    Source("HalfCheetah random (ours)", (f"{OURS}/random",)),
    Source(
        "spread expert",
        (f"{SPREAD}/expert",),
        PARTICLES,
        WINDOWS,
        None,
        ("smoke", "cpu", "full"),
        400,
    ),
    Source(
        "spread expert + medium",
        (f"{SPREAD}/mix=50%[e e e]+50%[m m m]",),
        PARTICLES,
        WINDOWS,
        None,
        ("full",),
        400,
    ),
)


@dataclasses.dataclass(frozen=True)
class Size(paper.Size):
    """How large a scale is; sampler: fields of PJAP, whose steepness rises over the same share of
    the training as in the authors' code, 150,000 of 500,000 updates.
    """

    final_episodes: int = 0
    sampler: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# A window counts once it has been judged. The authors' 500,000 batches of 64 judge each of a
# million windows some thirty times; at scale cpu those of ten episodes are judged as often as 128
# an update allow, some thirteen times.
_SMOKE = {"hidden": (8,), "actor_hidden": 8, "batch_size": 4, "num_samples": 2}
_CPU = {"batch_size": 16, "hidden": (64, 64)}
SIZES = {
    "smoke": Size(
        {"steps": 20} | _SMOKE, seeds=2, evaluations=2, eval_episodes=2, final_episodes=2
    ),
    "cpu": Size(
        {"steps": 1000} | _CPU,
        seeds=3,
        evaluations=10,
        eval_episodes=8,
        final_episodes=32,
        sampler={"refresh": 128},
    ),
    # the paper's
    "full": Size({"steps": 500_000}, seeds=10, evaluations=100, eval_episodes=4, final_episodes=40),
}


def cell(source: Source, label: str, scale: str, data_dir: str | None) -> TrainSpec:
    """The training job of a cell."""
    size, column = SIZES[scale], VARIANTS[label]
    spec = size.spec(source.tasks[0], label, column)
    ramp = {"ramp": 0.3 * size.every["steps"]}
    settings = {**source.sampler, **size.sampler, **ramp, **column.sampler_config}
    return dataclasses.replace(
        spec,
        config={**source.config, **spec.config},
        sampler_config=settings if column.sampler == "pjap" else {},
        sampled=False,
        data_dir=data_dir,
        data_episodes=None if scale == "full" else source.episodes,
        # the name of a task does not tell of data that are joined from several
        variant=f"{label}, {source.name}" if len(source.tasks) > 1 else label,
    )


def data_of(source: Source, scale: str, data_dir: str | None) -> Episodes:
    """The episodes of all of a source's tasks.

    Raises InvalidPool, FileNotFoundError or InvalidDataset where they can't be had.
    """
    options = DataOptions(0, None if scale == "full" else source.episodes, data_dir)
    return concatenate([registry.make_data(task, options) for task in source.tasks])


@functools.lru_cache(maxsize=1)
def _made(name: str, scale: str, data_dir: str | None) -> Episodes:
    source = next(source for source in SOURCES if source.name == name)
    return data_of(source, scale, data_dir)


def _of_job(name: str, scale: str, data_dir: str | None, spec: TrainSpec) -> Episodes:
    return _made(name, scale, data_dir)


def run_source(source: Source, job: Job) -> dict[str, Run] | str:
    """The trained jobs of every variant, or what is missing."""
    about = source.name, job.scale, job.data_dir
    try:
        _made(*about)
    except (InvalidPool, InvalidDataset, FileNotFoundError) as missing:
        return str(missing)
    places = {}
    for label in VARIANTS:
        letters = "".join(x if x.isalnum() else "-" for x in f"{label} {source.name}".lower())
        folder = job.out / "runs" / "-".join(filter(None, letters.split("-")))
        places[folder] = cell(source, label, job.scale, job.data_dir)
    done = job.train(places, functools.partial(_of_job, *about), whole=True)
    return dict(zip(VARIANTS, done, strict=True))


def final_returns(run: Run, episodes: int, data_dir: str | None) -> np.ndarray:
    """Mean return [R] of each run's final policy: in jit, or on the simulator of the data; NaN for
    a failed run.
    """
    file = run.path / "final-returns.csv"
    if not file.exists():
        found = []
        for index in range(len(run.runs)):
            env, policy, _ = restore_policy(run.path, index, data_dir)
            found.append(evaluate_policy(env, policy, episodes, seed=index)["return_mean"])
        write_text(file, "\n".join(map(repr, found)) + "\n")
    return np.where(run.failed, np.nan, np.loadtxt(file, ndmin=1))


def late_distance(run: Run) -> np.ndarray:
    """Mean over the last tenth of the training of the distance of the batch to the policy, [R]."""
    curve = run.history("loss/distance")
    return np.where(run.failed, np.nan, curve[-max(1, round(LATE * len(curve))) :].mean(0))


def interval(values: np.ndarray, statistic: Callable[[Any], Any]) -> str:
    """A statistic over seeds with its 95% bootstrap interval."""
    kept = [statistics.finite(values)]
    if not kept[0].size:
        return "failed"
    low, high = statistics.bootstrap(kept, statistic)
    return f"{float(statistic(kept)):.3g} [{low:.3g}, {high:.3g}]"


AGGREGATES = {
    "median over tasks": statistics.median_of_task_means,
    "median over seeds": statistics.median_of_runs,
    "IQM": statistics.iqm,
    "mean": statistics.mean_of_task_means,
}


def table(
    source: Source, returns: dict[str, np.ndarray], late: dict[str, np.ndarray], scale: ReturnScale
) -> list[str]:
    """Markdown lines of one dataset: aggregates of normalised final returns, raw returns, late
    distances, differences.
    """
    base, known = next(iter(VARIANTS)), printed("pjap", "fig6")
    scores = {
        label: statistics.normalised(values, scale) / 100 for label, values in returns.items()
    }
    lines = [
        f"## {source.name}",
        "",
        "| | " + " | ".join(VARIANTS) + " |",
        "|---" * (len(VARIANTS) + 1) + "|",
    ]

    def row(name: str, cells: dict[str, str]) -> None:
        shown = []
        for label, cell in cells.items():
            number = known.get((f"{source.name}, {name}", label), "")
            shown.append(cell + (f" (paper {number})" if number else ""))
        lines.append(f"| {name} | " + " | ".join(shown) + " |")

    for name, statistic in AGGREGATES.items():
        row(
            f"score, {name}",
            {label: interval(values, statistic) for label, values in scores.items()},
        )
    row(
        "return, mean",
        {
            label: interval(values, statistics.mean_of_task_means)
            for label, values in returns.items()
        },
    )
    row(
        "late distance",
        {label: interval(values, statistics.mean_of_task_means) for label, values in late.items()},
    )
    mean = statistics.mean_of_task_means
    row(
        "score minus baseline",
        {x: "" if x == base else interval(scores[x] - scores[base], mean) for x in scores},
    )
    row(
        "late distance minus baseline",
        {x: "" if x == base else interval(late[x] - late[base], mean) for x in late},
    )
    row(
        "seeds with a smaller distance",
        {
            x: "" if x == base else f"{int((late[x] < late[base]).sum())} of {late[x].size}"
            for x in late
        },
    )
    return [
        *lines,
        "",
        f"Score: 0 at return {scale.low:g}, 1 at {scale.high:g} ({scale.source}).",
        "",
    ]


def figure(
    done: dict[str, dict[str, Run]],
    returns: dict[str, dict[str, np.ndarray]],
    scales: dict[str, ReturnScale],
) -> Any:
    """Aggregates with intervals, and the distance over training; a row a dataset."""
    with style() as new:
        drawn = new(figsize=(10, 2.7 * len(done)), layout="constrained")
        axes, look = (
            drawn.subplots(len(done), 2, squeeze=False, width_ratios=(3, 2)),
            looks(list(VARIANTS)),
        )
        apart = 0.8 / len(VARIANTS)
        for (left, right), (name, runs) in zip(axes, done.items(), strict=True):
            for place, (label, run) in enumerate(runs.items()):
                scores = [
                    statistics.finite(
                        statistics.normalised(returns[name][label], scales[name]) / 100
                    )
                ]
                for column, statistic in enumerate(AGGREGATES.values()):
                    if scores[0].size:
                        low, high = statistics.bootstrap(scores, statistic)
                        height = column + apart * (place - (len(runs) - 1) / 2)
                        colour = look[label]["color"]
                        left.plot([low, high], [height, height], lw=4, alpha=0.35, color=colour)
                        left.plot(float(statistic(scores)), height, "|", ms=8, mew=2, color=colour)
                steps = run.arrays["steps"][1:]
                middle, low, high = band_of(run.history("loss/distance"), "ci")
                right.plot(steps, middle, label=label, **look[label])
                right.fill_between(steps, low, high, alpha=0.2, lw=0, color=look[label]["color"])
            left.set_yticks(range(len(AGGREGATES)), list(AGGREGATES))
            left.invert_yaxis()
            left.set(title=name, xlabel="normalised return")
            right.set(xlabel="updates", ylabel="distance of the batch", ylim=(0, None))
        axes[0, 1].legend()
    return drawn


def fig6(job: Job) -> Section:
    """Train, or read back; write fig6.md and fig6 as a picture.

    What is missing is named, not replaced.
    """
    scale, size, missing = job.scale, SIZES[job.scale], []
    done: dict[str, dict[str, Run]] = {}
    returns: dict[str, dict[str, np.ndarray]] = {}
    scales: dict[str, ReturnScale] = {}
    lines = ["# PJAP Figure 6: MADDPG+CQL on sequences", ""]
    for source in SOURCES:
        if scale not in source.scales:
            continue
        found = run_source(source, job)
        if isinstance(found, str):
            missing.append(f"**{source.name}: not run.** {found}")
            continue
        done[source.name] = found
        returns[source.name] = {
            label: final_returns(run, size.final_episodes, job.data_dir)
            for label, run in found.items()
        }
        spec = registry.make_spec(source.tasks[0])
        scales[source.name] = (
            source.scale
            or spec.return_scale
            or ReturnScale(0.0, 1.0, "no scale is known: raw returns")
        )
        late = {label: late_distance(run) for label, run in found.items()}
        lines += table(source, returns[source.name], late, scales[source.name])
    absent = [source.name for source in SOURCES if scale not in source.scales]
    lines += missing
    lines += [f"Not part of the scale {scale}: {', '.join(absent)}."] if absent else []
    lines += [
        "",
        "Late: the last tenth of the training. Intervals: 95%, bootstrap over seeds. "
        "Median over tasks: of one task, its mean. "
        f"Final returns: of {size.final_episodes} episodes a seed, without noise.",
    ]
    evaluation = (
        f"Evaluation: {Protocol(False, size.final_episodes, later=True).of('return_mean')}."
    )
    trained = [run for of in done.values() for run in of.values()]
    stems = [job.text("fig6", lines, below(trained, evaluation=evaluation))]
    if done:
        drawn = figure(done, returns, scales)
        write_note(drawn, evaluation)
        save(drawn, job.out / "fig6-curves")
        stems.append("fig6-curves")
    return Section(
        "PJAP Figure 6: sequences",
        "Aggregates over seeds, and the distance of the sampled sequences to the policy.",
        stems,
    )
