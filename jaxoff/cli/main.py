"""The commands, and `main`, which reads a command line and ends with its status."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from jaxoff import runtime
from jaxoff.cli import edit as _edit  # noqa: F401  registers its commands
from jaxoff.cli import look as _look  # noqa: F401  registers its commands
from jaxoff.cli.checks import check_env, check_learner
from jaxoff.cli.common import as_folder, console
from jaxoff.cli.data import data_app
from jaxoff.cli.methods import methods, settings
from jaxoff.cli.store import store_app
from jaxoff.cli.train import train
from jaxoff.errors import Interrupted, InvalidSetting, JaxoffError

if TYPE_CHECKING:
    from jaxoff.report import tables

app = tyro.extras.SubcommandApp()
for command in (methods, settings, train, check_env, check_learner):
    app.command(command)


@app.command
def report(
    folder: tyro.conf.Positional[Path],
    /,
    source: Annotated[Literal["training", "evaluation"], tyro.conf.arg(name="from")] = "training",
    episodes: int | None = None,
    greedy: bool = False,
    sampled: bool = False,
    published: Path | None = None,
) -> None:
    """Tables, curves and an index.html from result folders, without training.

    Args:
        folder: the folder of a job, of an experiment, or all of results/.
        source: the numbers of tables: of the last evaluation of training, or the latest of `jaxoff
            evaluate` for each run.
        episodes: with --from evaluation, only evaluations of this number of episodes.
        greedy: with --from evaluation, only evaluations of the policies' modes.
        sampled: with --from evaluation, only evaluations by sampled actions.
        published: a folder of CSV files with published numbers, such as experiments/published; a
            table sets those on the report's datasets beside ours.
    """
    from jaxoff.report import report as build

    given = {"--episodes": episodes is not None, "--greedy": greedy, "--sampled": sampled}
    useless = [option for option, there in given.items() if there]
    if source == "training" and useless:
        raise InvalidSetting(
            f"{', '.join(useless)}: expected with --from evaluation only, found --from training"
        )
    drawn = _modes(greedy, sampled)
    found: list[tables.Table] = []
    page = build(
        as_folder(folder),
        source,
        sampled=drawn,
        episodes=episodes,
        beside=published,
        tell=found.append,
    )
    for table in found:
        if table.metric == "return_mean":
            console.print(_returns(table))
    console.print(f"page: {page}", soft_wrap=True)


def _returns(table: tables.Table) -> Table:
    """A table of returns for a terminal, with a line for each task and method."""
    shown = Table(title=f"{table.title}: mean ± standard deviation over seeds")
    for name in ("task", "method", "runs", table.title.lower(), "best"):
        shown.add_column(name)
    for row in table.rows:
        for column in table.columns:
            cell = table.cells.get((row, column))
            if cell is not None:
                value = f"{cell.mean:.3f} ± {cell.std:.3f}" if cell.kept else "failed"
                shown.add_row(row, column, str(cell.total), value, cell.mark)
        shown.add_section()
    return shown


def _modes(greedy: bool, sampled: bool) -> bool | None:
    """Whether the flags ask for sampled actions; None where neither is given."""
    if greedy and sampled:
        raise InvalidSetting("--greedy and --sampled: expected one of the two, found both")
    return True if sampled else False if greedy else None


@app.command
def evaluate(
    folder: tyro.conf.Positional[Path],
    /,
    runs: str = "all",
    episodes: int = 100,
    seed: int = 0,
    greedy: bool = False,
    sampled: bool = False,
    processes: int | None = None,
    data_dir: Path | None = None,
) -> None:
    """Play many episodes of trained policies, in jit or on the simulator of public data. The
    results are added to the folder's evaluations.json.

    Args:
        folder: the folder of a training job.
        runs: "all" for every run of the job, or numbers of runs with commas, such as 0,3.
        episodes: number of episodes to play with the policy of each run.
        seed: random seed of the episodes.
        greedy: act by the mode of each policy. Without --greedy and --sampled, actions are chosen
            as in the job's own evaluations.
        sampled: draw actions from the policies.
        processes: number of processes of a simulator on the host; by default one per core.
        data_dir: folder of public data; needed only for jobs of earlier versions.
    """
    asked = _modes(greedy, sampled)
    as_folder(folder)
    runtime.setup()
    from jaxoff.report.protocol import Protocol
    from jaxoff.training.restore import evaluate_runs, restore
    from jaxoff.training.results import EVALUATIONS, read_evaluations, write_json

    file, before = folder / EVALUATIONS, read_evaluations(folder)
    found = restore(folder, None if data_dir is None else str(data_dir))
    spec, chosen = found.job.spec, _numbers(runs, found.job.num_runs)
    if not found.finished:
        unfinished = f"{folder}: this job has not ended; its last checkpoint plays"
        print(f"jaxoff: {unfinished}", file=sys.stderr)
    drawn = spec.sampled if asked is None else asked
    played = evaluate_runs(found, chosen, episodes, seed, drawn, processes)
    numbers = [name for name, value in played[0].items() if isinstance(value, float)]
    table = Table("run", "seed", *(name.replace("_", " ") for name in numbers))
    table.title = f"{spec.label} on {spec.task_name}: {Protocol(drawn, episodes).how}"
    rows = []
    for run, row in zip(chosen, played, strict=True):
        failed = int(found.failed_at[run])
        about = {"run": run, "seed": found.job.seeds[run], "config": found.job.points[run]}
        rows.append(about | ({"failed_at": failed} if failed >= 0 else {}) | row)
        cells = ["failed" if failed >= 0 else f"{row[name]:.4g}" for name in numbers]
        table.add_row(str(run), str(about["seed"]), *cells)
    console.print(table)
    record = {
        "task": spec.task_name,
        "episodes": episodes,
        "seed": seed,
        "sampled": drawn,
        "finished": found.finished,
        "git_commit": runtime.git_commit(),
        "runs": rows,
    }
    write_json(file, {"evaluations": [*before, record]})
    console.print(f"evaluations: {file}", soft_wrap=True)


def _numbers(runs: str, count: int) -> list[int]:
    """The numbers of the runs that --runs names."""
    try:
        return list(range(count)) if runs == "all" else [int(part) for part in runs.split(",")]
    except ValueError:
        raise InvalidSetting(
            f"--runs: expected all, or numbers of runs with commas between them, found '{runs}'"
        ) from None


@app.command
def play(
    folder: tyro.conf.Positional[Path],
    /,
    run: int = 0,
    seed: int = 0,
    greedy: bool = False,
    sampled: bool = False,
    data_dir: Path | None = None,
    out: Path | None = None,
) -> None:
    """Play an episode of a trained policy: a GIF where the environment can be drawn, and its steps
    as a table.

    Args:
        folder: the folder of a training job.
        run: number of the run whose policy plays.
        seed: random seed of the episode.
        greedy: act by the mode of the policy. Without --greedy and --sampled, actions are chosen as
            in the job's own evaluations.
        sampled: draw actions from the policy.
        data_dir: folder of public data; needed only for jobs of earlier versions.
        out: the GIF to write; by default FOLDER/play-RUN.gif.
    """
    asked = _modes(greedy, sampled)
    as_folder(folder)
    runtime.setup()
    import numpy as np

    from jaxoff.report.play import episode_of, write_gif
    from jaxoff.training.restore import restore_policy

    env, policy, spec = restore_policy(folder, run, None if data_dir is None else str(data_dir))
    drawn = spec.sampled if asked is None else asked
    episode = episode_of(env, policy, seed, sampled=drawn)
    how = "sampled actions" if drawn else "modes of the policy"
    table = Table(
        "step",
        "actions",
        "reward",
        title=f"{spec.label} on {spec.task_name}, run {run}, {how}: "
        f"return {episode.reward.sum():.4f}",
    )
    for step, (actions, reward) in enumerate(zip(episode.actions, episode.reward, strict=True)):
        table.add_row(
            str(step),
            np.array2string(np.asarray(actions).reshape(-1), precision=3),
            f"{reward:.4f}",
        )
    console.print(table)
    path = write_gif(env, episode, out or folder / f"play-{run}.gif", f"{spec.label}, {how}")
    console.print(
        f"animation: {path}"
        if path
        else f"{spec.task_name} has no picture to draw, so there is no GIF",
        soft_wrap=True,
    )


def main(args: list[str] | None = None) -> None:
    """Entry point of `jaxoff`.

    An error that the user can mend is printed as one line, with exit status 2; any other error is a
    fault of the program and keeps its traceback. `--debug` before the command keeps every
    traceback.
    """
    args = sys.argv[1:] if args is None else args
    debug, args = args[:1] == ["--debug"], args[args[:1] == ["--debug"] :]
    if debug:  # also of errors that do not end a command, such as those of loggers
        logging.basicConfig()
        logging.getLogger("jaxoff").setLevel(logging.DEBUG)
    try:
        _run(args)
    except Interrupted as stop:
        print(f"jaxoff: {stop}", file=sys.stderr)
        raise SystemExit(143) from None
    except KeyboardInterrupt:
        print("jaxoff: stopped at once; what the last checkpoint holds is kept", file=sys.stderr)
        raise SystemExit(130) from None
    except (JaxoffError, OSError) as error:
        if debug:
            raise
        print(f"jaxoff: error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _one_line(error: Exception) -> str:
    """The message of an error; a line break or a tab of a path in it is written as in Python."""
    return "".join(x if x == " " or not x.isspace() else repr(x)[1:-1] for x in str(error))


def _run(args: list[str]) -> None:
    if args[:1] == ["data"]:
        data_app.cli(
            prog="jaxoff data",
            description="Datasets: find, make, look into, cut and join.",
            args=args[1:],
        )
    elif args[:1] == ["store"]:
        store_app.cli(
            prog="jaxoff store",
            description="Final numbers of runs in a CSV file that is committed.",
            args=args[1:],
        )
    else:
        app.cli(
            prog="jaxoff",
            description=(
                "Offline multi-agent reinforcement learning in JAX. Also: jaxoff data "
                "{list,make,fetch,inspect,combine,...}, jaxoff store {add,list}. `jaxoff --debug "
                "COMMAND ...` shows the traceback of an error."
            ),
            args=args,
        )
