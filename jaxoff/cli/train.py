"""The command `jaxoff train`, whose options are the fields of a `TrainSpec` and output folders."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_type_hints

import tyro
from rich.table import Table

from jaxoff import registry, runtime
from jaxoff.cli.common import Many, as_folder, console, pairs
from jaxoff.config import meanings_of
from jaxoff.errors import InvalidSetting, JaxoffError
from jaxoff.names import Task
from jaxoff.training.spec import TrainSpec

if TYPE_CHECKING:
    from jaxoff.logs import Sink
    from jaxoff.types import Episodes


class _Option(NamedTuple):
    """An option that looks different on the command line than its field of a TrainSpec."""

    name: str
    type: Any
    default: Any
    read: Callable[[Any], Any]  # makes the field's value from the option's value
    meaning: str = ""  # help text; "" stands for the comment of the field


def _seeds(text: str) -> tuple[int, ...]:
    """The seeds that --seeds names: by a number of seeds, or by a list with commas."""
    try:
        numbers = tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise InvalidSetting(
            "--seeds: expected a number of seeds, or seeds with commas between them, "
            f"found '{text}'"
        ) from None
    if not numbers:
        raise InvalidSetting(
            "--seeds: expected a number of seeds, or seeds with commas between them, found "
            f"'{text}'"
        )
    return numbers if "," in text else tuple(range(*numbers))


_MANY = Annotated[tuple[str, ...], Many]
_OPTIONS = {  # field -> option
    "seeds": _Option(
        "seeds",
        str,
        "5",
        _seeds,
        "how many seeds, 0 .. seeds-1; or the seeds themselves with commas, as 3,7,11 or 3,",
    ),
    "config": _Option(
        "set",
        _MANY,
        (),
        lambda items: pairs(items, "--set"),
        "NAME=VALUE sets a field of the method's Config; may be given several times",
    ),
    "grid": _Option(
        "grid",
        _MANY,
        (),
        lambda items: {name: text.split(",") for name, text in pairs(items, "--grid").items()},
        "NAME=V1,V2,... sweeps a setting; may be given several times. All points of numeric "
        "settings are one program; sizes, switches and words make a program, and a folder, for "
        "each of their values",
    ),
    "sampler_config": _Option(
        "sampler_set",
        _MANY,
        (),
        lambda items: pairs(items, "--sampler-set"),
        "NAME=VALUE sets a field of the sampler's Config; may be given several times",
    ),
    "sampled": _Option(
        "greedy",
        bool,
        False,
        lambda greedy: not greedy,
        "evaluate the mode of the policy instead of samples from it",
    ),
    "variant": _Option(
        "label",
        str,
        "",
        lambda label: label,
        "name of the job in the columns of tables, and of its folder: LABEL-TASK; by default the "
        "method's name",
    ),
    "data_dir": _Option(
        "data_dir", Path | None, None, lambda folder: None if folder is None else str(folder)
    ),
}
_LIBRARY_ONLY = ("checkpoint_s",)  # fields without an option on the command line


def _options() -> dict[str, tuple[_Option, bool]]:
    """Field of a TrainSpec -> (its option, whether the option is positional)."""
    hints, meanings = get_type_hints(TrainSpec), meanings_of(TrainSpec)
    found = {}
    for field in dataclasses.fields(TrainSpec):
        if field.name not in _LIBRARY_ONLY:
            same = _Option(field.name, hints[field.name], field.default, lambda value: value)
            option = _OPTIONS.get(field.name, same)
            option = option._replace(meaning=option.meaning or meanings[field.name])
            found[field.name] = option, field.default is option.default is dataclasses.MISSING
    return found


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Put the options of a TrainSpec before the own options of a command with `**options`."""
    hints, parameters = get_type_hints(command, include_extras=True), []
    for option, positional in _options().values():
        kind = inspect.Parameter.POSITIONAL_ONLY if positional else inspect.Parameter.KEYWORD_ONLY
        default = inspect.Parameter.empty if positional else option.default
        hints[option.name] = Annotated[option.type, tyro.conf.arg(help=f"{option.meaning}.")]
        parameters.append(inspect.Parameter(option.name, kind, default=default))
    own = inspect.signature(command).parameters.values()
    parameters += [each for each in own if each.kind is inspect.Parameter.KEYWORD_ONLY]
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = hints
    return command


def _spec(given: Mapping[str, Any]) -> TrainSpec:
    """The TrainSpec that the options of a command describe."""
    return TrainSpec(
        **{field: option.read(given[option.name]) for field, (option, _) in _options().items()}
    )


@_with_options
def train(
    method: str,
    task: str,
    /,
    *,
    data: Path | None = None,
    wandb: Literal["disabled", "offline", "online"] = "disabled",
    wandb_project: str = "",
    wandb_entity: str = "",
    experiment: str = "train",
    results: Path = Path("results"),
    out: Path | None = None,
    extend: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Train a method on a task: every grid point times every seed, in one program.

    Args:
        data: a dataset folder written by `jaxoff data make`, used instead of the task's own data.
        wandb: log to Weights & Biases: a group per job, with a W&B run per seed and one for their
            mean, a table of the runs and a GIF of an episode.
        wandb_project: project of Weights & Biases; by default jaxoff.
        wandb_entity: user or team of Weights & Biases; by default the one that W&B is set up for.
        experiment: name of the folder below --results, and a tag in Weights & Biases.
        results: folder for all results.
        out: folder of this job; by default RESULTS/EXPERIMENT/METHOD-TASK, followed by the settings
            that are not the method's defaults.
        extend: train what the job in the folder lacks: more updates (of which --evaluations are
            evaluated), seeds or grid values. Without --out and --label, a job that differs only in
            its --steps is continued and its folder renamed.
        overwrite: replace what the folder holds.
    """
    spec = _spec({"method": method, "task": task, **options})
    dashboard = _Dashboard(wandb, wandb_project, wandb_entity, experiment, spec.variant)
    dashboard.check(spec)
    registry.form_for(method, task)
    as_folder(out or results / experiment, "--results" if out is None else "--out")
    runtime.setup()

    from jaxoff.data import disk
    from jaxoff.eval.statistics import was_played
    from jaxoff.report.protocol import UNPLAYED, Protocol
    from jaxoff.training.naming import folder_name, folder_to_extend
    from jaxoff.training.spec import check_stages, expanded, resolve

    if data is not None and Task.parse(task).folder:
        raise InvalidSetting(f"--data: expected with a task by its name, found '{task}', a folder")
    useless = {"--data-episodes": spec.data_episodes, "--data-seed": spec.data_seed}
    for option, value in useless.items():
        if data is not None and value:
            raise InvalidSetting(f"{option}: expected none with --data, found {value}")
    if spec.data_dir is not None and not Task.parse(task).source:
        raise InvalidSetting(
            f"--data-dir: expected with a task of public data, found '{task}', a task of our own"
        )
    if extend and overwrite:
        raise InvalidSetting("--extend and --overwrite: expected one of the two, found both")
    jobs = expanded(spec)
    for job in jobs:  # every job is checked before the first one trains
        check_stages(resolve(job), job.environment().spec)
    episodes = None if data is None else disk.load(data)[0]
    place, name, rows = results / experiment, folder_name(spec), []
    wanted = out or place / name
    look = extend and out is None and not wanted.exists()
    fewer = folder_to_extend(spec, place) if look else None
    whole = wanted if fewer is None else fewer
    for job in jobs:
        point = {name: value for name, value in job.config.items() if name not in spec.config}
        name = ", ".join(f"{name}={value}" for name, value in point.items())
        folder = whole / name.replace(", ", "-").replace("=", "-") if point else whole
        rows += _train(job, folder, name, dashboard, episodes, (extend, overwrite))
    evaluation = Protocol(spec.sampled, spec.eval_episodes).of("return_mean")
    if not any(map(was_played, rows)) and any(row["failed_at"] is None for row in rows):
        evaluation = f"not evaluated: {UNPLAYED}"
    console.print(_summary(rows, evaluation))
    if whole != wanted:  # its name says how many updates it has
        whole.rename(wanted)
    console.print(f"results: {wanted}", soft_wrap=True)


class _Dashboard(NamedTuple):
    """How a command logs to Weights & Biases."""

    mode: Literal["disabled", "offline", "online"]
    project: str
    entity: str
    experiment: str
    label: str

    def check(self, spec: TrainSpec) -> None:
        """Raise InvalidSetting for options without effect, and for a grid in a sweep of W&B."""
        given = {"--wandb-project": self.project, "--wandb-entity": self.entity}
        useless = [option for option, value in given.items() if value]
        if self.mode == "disabled" and useless:
            raise InvalidSetting(
                f"{', '.join(useless)}: expected with --wandb offline or online, found disabled"
            )
        if self.mode != "disabled" and spec.grid and "WANDB_SWEEP_ID" in os.environ:
            raise InvalidSetting(
                f"--grid: expected --set in a sweep of W&B, whose agent chooses the values, found "
                f"{', '.join(spec.grid)}"
            )

    def sink(self, folder: Path, point: str, resume: bool) -> Sink:
        """The log of a job; point: the values of the static settings of the grid."""
        from jaxoff.logs import WandB

        name = f"{folder.parent.name}/{folder.name}" if point else folder.name
        return WandB(
            self.mode,
            self.project or "jaxoff",
            f"{self.experiment}/{name}",
            folder / "wandb",
            entity=self.entity or None,
            label="-".join(filter(None, (self.label, point.replace(", ", "-")))),
            tags=(self.experiment,),
            resume=resume,
            gif=functools.partial(_gif, folder),
        )


def _gif(folder: Path, run: int) -> Path | None:
    """An episode of a trained run; None where its environment can't be played or drawn."""
    from jaxoff.report.play import episode_gif
    from jaxoff.training.restore import restore_policy

    try:
        env, policy, spec = restore_policy(folder, run)
        if not hasattr(env, "step") or getattr(env, "picture", None) is None:
            return None
        return episode_gif(env, policy, 0, folder / f"play-{run}.gif", spec.sampled)
    except (JaxoffError, OSError) as error:
        print(f"jaxoff: {folder / f'play-{run}.gif'}: not drawn: {error}", file=sys.stderr)
        return None


def _train(
    spec: TrainSpec,
    folder: Path,
    point: str,
    dashboard: _Dashboard,
    episodes: Episodes | None,
    how: tuple[bool, bool],
) -> list[dict[str, Any]]:
    """Train a job, draw its learning curves, and return a row for each of its runs.

    point: the values of the static settings of the grid that this job trains with. how: whether to
    extend, and to overwrite, what the folder holds.
    """
    from jaxoff.logs import Progress
    from jaxoff.report import figures
    from jaxoff.report.load import load_run
    from jaxoff.training import train as run

    extend, overwrite = how
    sinks: list[Sink] = [Progress(" ".join(filter(None, (spec.label, spec.task_name, point))))]
    if dashboard.mode != "disabled":
        resume = (folder / "checkpoint").exists() and not overwrite
        sinks.append(dashboard.sink(folder, point, resume))
    done = run(spec, folder, sinks, data=episodes, extend=extend, overwrite=overwrite)
    try:
        read = load_run(folder)
        figures.curves([read], read.curve_metric, folder / "curves")
    except Exception as error:  # the results are already written, and other jobs may follow
        if not isinstance(error, JaxoffError | OSError):
            traceback.print_exc()
        print(f"jaxoff: {folder / 'curves'}: not drawn: {error!r}", file=sys.stderr)
    seconds = (
        f"compiled in {done.timing['compile_s']:.1f} s, trained in {done.timing['train_s']:.1f} s"
    )
    console.print(
        f"{f'{point}: ' if point else ''}{seconds}, {done.timing['steps_per_s']:,.0f} "
        "updates/s over all runs"
    )
    return [row | {"point": point} for row in done.runs]


def _summary(runs: list[dict[str, Any]], evaluation: str) -> Table:
    """A table with one line per grid point: mean and standard deviation over seeds.

    evaluation: how the policies were evaluated, as text.
    """
    import numpy as np

    from jaxoff.eval.statistics import was_played

    metrics = ("return_mean", "score", "win_rate", "exact_value")
    columns = ("setting", "seeds", *(metric.split("_mean")[0] for metric in metrics), "failed runs")
    lines: list[list[str]] = []
    points: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        swept = " ".join(f"{name}={value:g}" for name, value in run["config"].items())
        points.setdefault(" ".join(filter(None, (run.get("point"), swept))) or "-", []).append(run)
    for point, group in points.items():
        alive = [run for run in group if run["failed_at"] is None]
        cells = []
        for name in metrics:
            known = [run[name] for run in alive if run.get(name) is not None]
            values = [value for value in known if np.isfinite(value)]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            nothing = "not finite" if any(map(was_played, alive)) else "no simulator"
            cells.append(
                f"{np.mean(values):.3f}{spread}"
                if values
                else (nothing if known and name == "return_mean" else "-")
            )
        lines.append([point, str(len(group)), *cells, str(len(group) - len(alive))])
    table = Table(title=f"mean ± standard deviation over seeds; {evaluation}")
    shown = [i for i, name in enumerate(columns) if any(line[i] != "-" for line in lines)]
    for i in shown:
        table.add_column(columns[i].replace("_", " "))
    for line in lines:
        table.add_row(*(line[i] for i in shown))
    return table
