"""The command line. Everything it does is one call of a documented function."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.table import Table

from jaxoff import cli_edit as _edit  # noqa: F401  registers its commands
from jaxoff import runtime
from jaxoff.cli_data import Many, console, data_app, pairs
from jaxoff.cli_methods import methods, settings
from jaxoff.names import Task
from jaxoff.training.results import Interrupted

app = tyro.extras.SubcommandApp()
app.command(methods)
app.command(settings)


def _grid(items: tuple[str, ...]) -> dict[str, list[str]]:
    return {name: values.split(",") for name, values in pairs(items, "--grid").items()}


def _seeds(text: str) -> tuple[int, ...]:
    """The seeds of --seeds: a number of them, or a list with commas."""
    try:
        numbers = tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise ValueError(
            "--seeds: expected a number of seeds, or seeds with commas between them, "
            f"found '{text}'"
        ) from None
    return numbers if "," in text else tuple(range(*numbers))


@app.command
def train(
    method: tyro.conf.Positional[str],
    task: tyro.conf.Positional[str],
    /,
    seeds: str = "5",
    grid: Annotated[tuple[str, ...], Many] = (),
    set: Annotated[tuple[str, ...], Many] = (),
    sampler: str = "uniform",
    sampler_set: Annotated[tuple[str, ...], Many] = (),
    steps: int | None = None,
    evaluations: int = 10,
    eval_episodes: int = 32,
    greedy: bool = False,
    data: Path | None = None,
    data_dir: Path | None = None,
    data_episodes: int | None = None,
    data_seed: int = 0,
    obs_dtype: Literal["float32", "bfloat16"] = "float32",
    precision: Literal["highest", "high", "default"] = "highest",
    prng: Literal["threefry2x32", "rbg", "unsafe_rbg"] = "threefry2x32",
    mode: Literal["auto", "vmap", "sequence"] = "auto",
    wandb: Literal["disabled", "offline", "online"] = "disabled",
    experiment: str = "train",
    results: Path = Path("results"),
    out: Path | None = None,
) -> None:
    """Train a method on a task: every grid point times every seed, in one program.

    Args:
        method: a registered method, such as inspo.
        task: [source:]family/scenario/quality, see `jaxoff data list`.
        seeds: how many seeds, 0 .. seeds-1; or the seeds themselves with commas, as 3,7,11 or 3,.
        grid: NAME=V1,V2,... sweeps a setting; may be given several times. All points of numeric
            settings are one program; sizes, switches and words make a program, and a folder, for
            each of their values.
        set: NAME=VALUE sets a field of the method's Config; may be given several times.
        sampler: uniform, or a registered one such as pjap.
        sampler_set: NAME=VALUE sets a field of the sampler's Config.
        steps: gradient steps; default the method's own for the task.
        evaluations: evaluations over training, beside the one before it.
        eval_episodes: episodes of each evaluation.
        greedy: evaluate the mode of the policy instead of samples from it.
        data: a dataset folder written by `jaxoff data make`, instead of the task's own data.
        data_dir: folder of public datasets, for a task with a source.
        data_episodes: size of a recipe's dataset, in episodes.
        data_seed: seed of a recipe's dataset.
        obs_dtype: how observations are stored on the device.
        precision: of matrix products on an accelerator.
        prng: the generator of random numbers; only threefry2x32 gives the same run alone and among
            others.
        mode: how runs share a device.
        wandb: log to Weights & Biases: a group per experiment, a run per seed, and their mean.
        experiment: folder below --results, and the group in W&B.
        results: where result folders go.
        out: the job's own folder; default RESULTS/EXPERIMENT/METHOD-TASK.
    """
    from jaxoff.data import disk
    from jaxoff.training import TrainSpec
    from jaxoff.training.spec import expanded, resolve

    spec = TrainSpec(
        method=method,
        task=task,
        seeds=_seeds(seeds),
        config=pairs(set, "--set"),
        grid=_grid(grid),
        sampler=sampler,
        sampler_config=pairs(sampler_set, "--sampler-set"),
        steps=steps,
        evaluations=evaluations,
        eval_episodes=eval_episodes,
        sampled=not greedy,
        data_seed=data_seed,
        data_episodes=data_episodes,
        data_dir=None if data_dir is None else str(data_dir),
        obs_dtype=obs_dtype,
        prng=prng,
        precision=precision,
        mode=mode,
    )
    jobs = expanded(spec)
    for job in jobs:  # all of them are checked before the first one trains
        resolve(job)
    episodes = None if data is None else disk.load(data)[0]
    whole, rows = out or results / experiment / f"{spec.label}-{Task.parse(task).slug}", []
    for job in jobs:
        point = {name: value for name, value in job.config.items() if name not in spec.config}
        name = ", ".join(f"{name}={value}" for name, value in point.items())
        folder = whole / name.replace(", ", "-").replace("=", "-") if point else whole
        rows += _train(job, folder, name, wandb, experiment, episodes)
    console.print(_summary(rows))
    console.print(f"results: {whole}", soft_wrap=True)


def _train(
    spec: Any, folder: Path, point: str, wandb: Any, experiment: str, episodes: Any
) -> list[dict[str, Any]]:
    """Train a job and draw its curves: a row for each of its runs.

    point: the values of static settings that it is for.
    """
    from jaxoff.logs import Progress, Sink, WandB
    from jaxoff.report import figures
    from jaxoff.report.load import load_run
    from jaxoff.training import train as run
    from jaxoff.training.spec import resolve

    job, title = resolve(spec), " ".join(filter(None, (spec.label, spec.task, point)))
    runs = [
        {"run": k, "seed": seed, "config": leaves}
        for k, (seed, leaves) in enumerate(zip(job.seeds, job.points, strict=True))
    ]
    sinks: list[Sink] = [Progress(title)]
    if wandb != "disabled":
        sinks.append(
            WandB(
                wandb,
                "jaxoff",
                experiment,
                runs,
                folder / "wandb",
                resume=(folder / "checkpoint").exists(),
            )
        )
    done = run(spec, folder, sinks, data=episodes)
    figures.curves([load_run(folder)], "return_mean", folder / "curves")
    seconds = (
        f"compiled in {done.timing['compile_s']:.1f} s, trained in {done.timing['train_s']:.1f} s"
    )
    console.print(
        f"{f'{point}: ' if point else ''}{seconds}, {done.timing['steps_per_s']:,.0f} "
        "updates/s over all runs"
    )
    return [row | {"point": point} for row in done.runs]


def _summary(runs: list[dict[str, Any]]) -> Table:
    """One line a grid point: mean and deviation over seeds."""
    table = Table(title="last evaluation: mean ± standard deviation over seeds")
    for name in ("setting", "seeds", "return", "score", "win rate", "exact value", "lost"):
        table.add_column(name)
    points: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        swept = " ".join(f"{name}={value:g}" for name, value in run["config"].items())
        points.setdefault(" ".join(filter(None, (run.get("point"), swept))) or "-", []).append(run)
    for point, group in points.items():
        alive = [run for run in group if run["failed_at"] is None]
        cells = []
        for name in ("return_mean", "score", "win_rate", "exact_value"):
            values = [run[name] for run in alive if run.get(name) is not None]
            cells.append(
                f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"
                if values
                else "-"
            )
        table.add_row(point, str(len(group)), *cells, str(len(group) - len(alive)))
    return table


@app.command
def report(folder: tyro.conf.Positional[Path], /) -> None:
    """Tables, curves and an index.html from result folders, without training.

    Args:
        folder: a job's folder, an experiment's, or all of results/.
    """
    from jaxoff.report import report as build

    console.print(f"page: {build(folder)}", soft_wrap=True)


@app.command
def evaluate(
    folder: tyro.conf.Positional[Path],
    /,
    run: int = 0,
    episodes: int = 100,
    seed: int = 0,
    sampled: bool = False,
    processes: int | None = None,
    data_dir: Path | None = None,
) -> None:
    """Play many episodes of a trained policy, in jit or on the simulator of public data; adds
    evaluation.json to the folder.

    Args:
        folder: a job's folder.
        run: which of its runs.
        episodes: how many to play.
        seed: seed of the episodes.
        sampled: draw actions from the policy, instead of its mode.
        processes: of a simulator on the host; default one per core.
        data_dir: folder of public datasets, for a task with a source.
    """
    from jaxoff.eval.final import evaluate_policy
    from jaxoff.files import write_text
    from jaxoff.training.restore import restore_policy

    env, policy, spec = restore_policy(folder, run, None if data_dir is None else str(data_dir))
    found = evaluate_policy(env, policy, episodes, seed, sampled=sampled, processes=processes)
    table = Table("", f"{spec.label} on {spec.task}, run {run}")
    for name, value in found.items():
        if not isinstance(value, list):
            table.add_row(
                name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value)
            )
    console.print(table)
    record = {
        "task": spec.task,
        "run": run,
        "seed": seed,
        "sampled": sampled,
        "git_commit": runtime.git_commit(),
        **found,
    }
    console.print(
        f"evaluation: {write_text(folder / 'evaluation.json', json.dumps(record, indent=1))}",
        soft_wrap=True,
    )


@app.command
def play(
    folder: tyro.conf.Positional[Path],
    /,
    run: int = 0,
    seed: int = 0,
    greedy: bool = False,
    data_dir: Path | None = None,
    out: Path | None = None,
) -> None:
    """Play an episode of a trained policy: a GIF where the environment can be drawn, and its steps
    as a table.

    Args:
        folder: a job's folder.
        run: which of its runs.
        seed: seed of the episode.
        greedy: take the mode of the policy instead of sampling.
        data_dir: folder of public datasets, for a task with a source.
        out: the GIF; default FOLDER/play-RUN.gif.
    """
    from jaxoff.report.play import episode_of, write_gif
    from jaxoff.training.restore import restore_policy

    env, policy, spec = restore_policy(folder, run, None if data_dir is None else str(data_dir))
    episode = episode_of(env, policy, seed, sampled=not greedy)
    table = Table(
        "step",
        "actions",
        "reward",
        title=f"{spec.label} on {spec.task}, run {run}: return {episode.reward.sum():.4f}",
    )
    for step, (actions, reward) in enumerate(zip(episode.actions, episode.reward, strict=True)):
        table.add_row(
            str(step),
            np.array2string(np.asarray(actions).reshape(-1), precision=3),
            f"{reward:.4f}",
        )
    console.print(table)
    path = write_gif(env, episode, out or folder / f"play-{run}.gif", spec.label)
    console.print(
        f"animation: {path}" if path else f"{spec.task} has no picture to draw, so there is no GIF",
        soft_wrap=True,
    )


def main(args: list[str] | None = None) -> None:
    """Entry point of `jaxoff`. A bad input ends it with one clear line and status 2."""
    args = sys.argv[1:] if args is None else args
    runtime.setup()
    try:
        if args[:1] == ["data"]:
            data_app.cli(
                prog="jaxoff data",
                description="Datasets: find, make, look into, cut and join.",
                args=args[1:],
            )
        else:
            app.cli(
                prog="jaxoff",
                description=(
                    "Offline multi-agent reinforcement learning in JAX. Also: jaxoff data "
                    "{list,make,fetch,inspect,combine,...}."
                ),
                args=args,
            )
    except Interrupted as stop:
        print(f"jaxoff: {stop}", file=sys.stderr)
        raise SystemExit(143) from None
    except (ValueError, TypeError, FileNotFoundError, FileExistsError, IndexError) as error:
        print(f"jaxoff: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
