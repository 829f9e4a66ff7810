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
from jaxoff.cli import experiment
from jaxoff.cli import look as _look  # noqa: F401  registers its commands
from jaxoff.cli.checks import check_env, check_learner
from jaxoff.cli.common import as_folder, console
from jaxoff.cli.data import data_app
from jaxoff.cli.methods import methods, settings
from jaxoff.cli.push import policy_app
from jaxoff.cli.store import store_app
from jaxoff.cli.train import train
from jaxoff.errors import Interrupted, InvalidSetting, JaxoffError
from jaxoff.files import alone_in, check_writable_file

if TYPE_CHECKING:
    from jaxoff.report import tables

app = tyro.extras.SubcommandApp()
for command in (
    methods,
    settings,
    train,
    experiment.run,
    experiment.status,
    check_env,
    check_learner,
):
    app.command(command)


@app.command
def report(
    folder: tyro.conf.Positional[Path],
    /,
    source: Annotated[Literal["training", "evaluation"], tyro.conf.arg(name="from")] = "training",
    episodes: int | None = None,
    greedy: bool = False,
    sampled: bool = False,
    marl_eval: Path | None = None,
    scale: str = "",
    out: Path | None = None,
    published: Path | None = None,
) -> None:
    """Tables, curves and an index.html from result folders, without training.

    Args:
        folder: the folder of a job, of an experiment, or all of results/; or an experiment's file.
        source: the numbers of tables: of the last evaluation of training, or the latest of `jaxoff
            evaluate` for each run.
        episodes: with --from evaluation, only evaluations of this number of episodes.
        greedy: with --from evaluation, only evaluations of the policies' modes.
        sampled: with --from evaluation, only evaluations by sampled actions.
        marl_eval: a JSON file to write, with the results in the format of marl-eval's tools.
        scale: of an experiment's file, as it was given to `jaxoff run`.
        out: of an experiment's file, the folder that was given to `jaxoff run`.
        published: a folder of CSV files with published numbers, such as experiments/published; a
            table sets those on the report's datasets beside ours.
    """
    if marl_eval is not None:
        check_writable_file(marl_eval)
    from jaxoff.report import protocol, summary
    from jaxoff.report import report as build

    given = {"--episodes": episodes is not None, "--greedy": greedy, "--sampled": sampled}
    useless = [option for option, there in given.items() if there]
    if source == "training" and useless:
        raise InvalidSetting(
            f"{', '.join(useless)}: expected with --from evaluation only, found --from training"
        )
    drawn = _modes(greedy, sampled)
    if folder.suffix == ".toml" and not folder.is_dir():
        for option, value in (("--marl-eval", marl_eval), ("--published", published)):
            if value is not None:
                raise InvalidSetting(f"{option}: expected with a folder, found '{folder}'")
        later = source == "evaluation"
        choose = lambda runs: protocol.evaluated(runs, drawn, episodes) if later else runs
        experiment.report(folder, scale, out, choose)
        return
    if scale or out is not None:
        raise InvalidSetting(f"--scale, --out: expected with a file FILE.toml, found '{folder}'")
    found: list[tables.Table] = []
    page = build(
        as_folder(folder),
        source,
        sampled=drawn,
        episodes=episodes,
        tell=found.append,
        marl_eval=marl_eval,
        beside=published,
    )
    for table in found:
        if table.metric == "return_mean":
            console.print(_returns(table))
            told = summary.sentence(summary.verdicts(table))
            if told:
                console.print(told, highlight=False)
    console.print(f"page: {page}", soft_wrap=True)


def _returns(table: tables.Table) -> Table:
    """A table of returns for a terminal, with a line for each task and method.

    A column that says the same in each line is part of the title, and an empty one is left out.
    """
    from jaxoff.report import render

    found = [
        (row, column, cell, "".join(render.cell_lines(cell, 3)[:1]) if cell.kept else "failed")
        for row in table.rows
        for column in table.columns
        if (cell := table.cells.get((row, column))) is not None
    ]
    columns: dict[str, list[str]] = {
        "task": [row for row, *_ in found],
        "method": [column for _, column, *_ in found],
        "runs": [str(cell.total) for _, _, cell, _ in found],
        table.title.lower(): [value for *_, value in found],
        "failed runs": [
            f"{cell.total - cell.kept} of {cell.total}" if 0 < cell.kept < cell.total else ""
            for _, _, cell, _ in found
        ],
        "best": [cell.mark for _, _, cell, _ in found],
    }
    counts = set(columns["runs"])
    title = f"{table.title}: mean ± standard deviation over seeds"
    if len(counts) == 1:
        count = counts.pop()
        title = title.replace("over seeds", f"over {count} seeds") if count != "1" else table.title
        del columns["runs"]
    if len(table.rows) == 1:
        title = f"{table.rows[0]}\n{title}"
        del columns["task"]
    columns = {name: texts for name, texts in columns.items() if any(texts)}
    shown = Table(*columns, title=title)
    for place, (row, *_) in enumerate(found):
        last = place + 1 == len(found) or found[place + 1][0] != row
        shown.add_row(*(texts[place] for texts in columns.values()), end_section=last)
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
    env: str = "",
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
        env: task or family/scenario whose environment is played, for a job that was trained on a
            dataset folder without an environment.
        data_dir: folder of public data; needed only for jobs of earlier versions.
    """
    asked = _modes(greedy, sampled)
    as_folder(folder)
    runtime.setup()
    from jaxoff.report.protocol import Protocol
    from jaxoff.training.restore import evaluate_runs, restore
    from jaxoff.training.results import EVALUATIONS, read_evaluations, read_json, write_json

    file = folder / EVALUATIONS
    read_evaluations(folder)  # refused before an hour of playing
    found = restore(folder, None if data_dir is None else str(data_dir), env)
    if processes is not None and hasattr(found.env, "step"):
        raise InvalidSetting(
            f"--processes: expected for a simulator on the host, found {processes} with the "
            f"environment {found.env.spec.name}, which plays in one program"
        )
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
    ended = read_json(folder / "final.json", {"runs": list})["runs"] if found.finished else []
    record = {
        "task": spec.task_name,
        **({"updates": ended[0]["updates"]} if ended and "updates" in ended[0] else {}),
        **({"env": env} if env else {}),
        "episodes": episodes,
        "seed": seed,
        "sampled": drawn,
        "finished": found.finished,
        "git_commit": runtime.git_commit(),
        "runs": rows,
    }
    with alone_in(folder):  # another evaluation may have ended in the meantime
        write_json(file, {"evaluations": [*read_evaluations(folder), record]})
    console.print(f"evaluations: {file}", soft_wrap=True)


def _numbers(runs: str, count: int) -> list[int]:
    """The numbers of the runs that --runs names."""
    try:
        if runs == "all":
            return list(range(count))
        return list(dict.fromkeys(int(part) for part in runs.split(",")))
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
    env: str = "",
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
        env: task or family/scenario whose environment is played, for a job that was trained on a
            dataset folder without an environment.
        data_dir: folder of public data; needed only for jobs of earlier versions.
        out: the GIF to write; by default FOLDER/play-RUN.gif.
    """
    asked = _modes(greedy, sampled)
    as_folder(folder)
    runtime.setup()
    import numpy as np

    from jaxoff.report.play import episode_of, write_gif
    from jaxoff.training.restore import restore_policy

    public = None if data_dir is None else str(data_dir)
    world, policy, spec = restore_policy(folder, run, public, env)
    drawn = spec.sampled if asked is None else asked
    episode = episode_of(world, policy, seed, sampled=drawn)
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
    text = f"{spec.label} on {spec.task_name}, {how}"
    path = write_gif(world, episode, out or folder / f"play-{run}.gif", text)
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
    runtime.own_process()
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
    elif args[:1] == ["policy"]:
        policy_app.cli(prog="jaxoff policy", description="Trained policies.", args=args[1:])
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
                "{list,make,fetch,inspect,combine,push,...}, jaxoff policy push, jaxoff store "
                "{add,list}. `jaxoff --debug "
                "COMMAND ...` shows the traceback of an error."
            ),
            args=args,
        )
