"""The commands, and `main`, which reads a command line and ends with its status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tyro
from rich.table import Table

from jaxoff import runtime
from jaxoff.cli import edit as _edit  # noqa: F401  registers its commands
from jaxoff.cli.common import console
from jaxoff.cli.data import data_app
from jaxoff.cli.methods import methods, settings
from jaxoff.cli.train import train
from jaxoff.errors import Interrupted, JaxoffError

app = tyro.extras.SubcommandApp()
for command in (methods, settings, train):
    app.command(command)


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
    runtime.setup()
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
    runtime.setup()
    import numpy as np

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
    """Entry point of `jaxoff`.

    An error that the user can mend ends it with one line and status 2; any other is a fault of the
    program, and keeps its traceback. `--debug` before the command keeps every traceback.
    """
    args = sys.argv[1:] if args is None else args
    debug, args = args[:1] == ["--debug"], args[args[:1] == ["--debug"] :]
    try:
        _run(args)
    except Interrupted as stop:
        print(f"jaxoff: {stop}", file=sys.stderr)
        raise SystemExit(143) from None
    except (JaxoffError, OSError) as error:
        if debug:
            raise
        print(f"jaxoff: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(args: list[str]) -> None:
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
                "{list,make,fetch,inspect,combine,...}. `jaxoff --debug COMMAND ...` shows the "
                "traceback of an error."
            ),
            args=args,
        )
