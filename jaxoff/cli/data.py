"""The commands `jaxoff data` list, make, fetch, pool and prey, and what all data commands share."""

from __future__ import annotations

import contextlib
import hashlib
import json as json_module
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro
from rich.box import SIMPLE
from rich.table import Column, Table
from rich.text import Text

from jaxoff import registry, runtime
from jaxoff.cli.common import Many, console, pairs
from jaxoff.errors import InvalidSetting
from jaxoff.names import DataOptions, Task, UnknownName

if TYPE_CHECKING:
    from jaxoff.types import EnvSpec, Episodes

data_app = tyro.extras.SubcommandApp()


@data_app.command(name="list")
def data_list(family: str = "", json: bool = False) -> None:
    """Every task, SCENARIO/QUALITY: made from a recipe, or read from public data.

    Args:
        family: show only tasks whose name contains this text.
        json: print JSON instead of a table.
    """
    from jaxoff.data import pools, worlds

    scenarios: dict[str, list[str]] = {}
    for name in registry.tasks():
        if family in name:
            scenarios.setdefault(name.rpartition("/")[0], []).append(name)
    rows = []
    for scenario, names in scenarios.items():
        sizes, tasks = registry.sizes(names[0]), [Task.parse(name) for name in names]
        kind = f"{sizes.action_size} {'choices' if sizes.discrete else 'reals'}"
        lacks = any(map(worlds.needs_pool, tasks)) and not pools.has(scenario)
        made = (
            "public data" if tasks[0].source else "recipe, pool not shipped" if lacks else "recipe"
        )
        qualities = " ".join(task.quality for task in tasks)
        rows.append(
            (
                scenario,
                qualities,
                str(sizes.num_agents),
                str(sizes.obs_size),
                kind,
                str(sizes.horizon),
                made,
            )
        )
    if json:
        keys = ("scenario", "qualities", "agents", "obs", "actions", "steps", "made_from")
        print(
            json_module.dumps(
                [dict(zip(keys, row, strict=True)) | {"qualities": row[1].split()} for row in rows],
                indent=1,
            )
        )
        return
    # Readers look for the names, so these are never cut.
    names_fit = Column(
        "scenario, its qualities", min_width=max((len(row[0]) for row in rows), default=4)
    )
    made_from = Column("made from", min_width=11, max_width=12)
    table = Table(
        names_fit,
        "agents",
        Column("obs", no_wrap=True),
        Column("actions", no_wrap=True),
        "steps",
        made_from,
        box=SIMPLE,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for scenario, qualities, *rest in rows:
        table.add_row(Text.assemble((scenario, "bold"), f"\n{qualities}"), *rest)
    console.print(table)
    for known in registry.families().values():
        if known.pattern and family in known.pattern:
            console.print(f"also {known.pattern}", highlight=False, soft_wrap=True)


@data_app.command(name="make")
def data_make(
    task: tyro.conf.Positional[str],
    /,
    episodes: int | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    pools: Path | None = None,
    out: Path = Path("data"),
    overwrite: bool = False,
) -> None:
    """Write the dataset of a task to disk, as a flashbax Vault, with a card of what it holds.

    Args:
        task: [source:]family/scenario/quality.
        episodes: number of episodes in the dataset, for a task with a recipe.
        seed: random seed of the dataset, for a task with a recipe.
        data_dir: folder of public datasets, for a task with a source.
        pools: folder of policy pools written by `jaxoff data pool`, searched before the pools that
            come with the library.
        out: folder for datasets; this one is written to OUT/TASK.vlt/seed-SEED.
        overwrite: replace a dataset that is already there.
    """
    import time

    runtime.setup()
    from jaxoff.data import card, disk

    begin = time.perf_counter()
    parsed = Task.parse(task)
    if parsed.folder:
        raise InvalidSetting(
            f"TASK: expected a task with a recipe or of public data, found '{task}', a dataset "
            "folder; `jaxoff data subsample` and `combine` make datasets of those"
        )
    registry.sizes(parsed)  # refuses a task that does not exist
    check_read([task], options_of(data_dir, pools, episodes, seed))
    folder = out / f"{parsed.slug}.vlt" / f"seed-{seed}"
    disk.check_target(folder, overwrite)
    env = registry.make_env(parsed)
    with shown(task) as progress:
        options = options_of(data_dir, pools, episodes, seed)._replace(progress=progress)
        made = registry.make_data(parsed, options)
    info = {
        "env": f"{parsed.family}/{parsed.scenario}",
        "scenario": parsed.scenario,
        "recipe": task,
        "seed": seed,
    }
    if not parsed.source and pools is None:
        count = [] if episodes is None else ["--episodes", str(episodes)]
        again = ["jaxoff", "data", "make", task, *count, "--seed", str(seed)]
        info["command"] = shlex.join(again)

    def beside(place: Path, metadata: dict[str, Any]) -> None:
        told = card.about(made, env.spec, metadata, getattr(env, "won", None))
        card.write(place, told, made)

    info |= _pool_info(parsed, env.spec, pools)
    disk.save(folder, made, env.spec, info, overwrite=overwrite, beside=beside)
    seconds = time.perf_counter() - begin
    console.print(f"{len(made.filled)} episodes, {int(made.filled.sum()):,} steps, {seconds:.1f} s")
    console.print(f"dataset: {folder}", soft_wrap=True)


@contextlib.contextmanager
def shown(title: str, unit: str = "episodes") -> Iterator[Callable[..., None]]:
    """A progress bar. It gives a function of the number done, the number of all, and a text."""
    from jaxoff.logs import Progress
    from jaxoff.logs.base import Record

    bar = Progress(title, unit=unit)
    bar.start({})
    try:
        yield lambda done, total, text="": bar.record(Record(text, 0, done, total, []))
    finally:
        bar.finish({})


def options_of(
    data_dir: Path | None, pools: Path | None, episodes: int | None = None, seed: int = 0
) -> DataOptions:
    """The options of a command, as the registry's DataOptions."""
    text = [None if folder is None else str(folder) for folder in (data_dir, pools)]
    return DataOptions(seed, episodes, data_dir=text[0], pools=text[1])


def check_read(
    names: Sequence[str], options: DataOptions, data: Path | None = None, *, seeded: bool = True
) -> None:
    """Refuse options that no dataset of a command reads.

    Dataset folders are read as they are, the folder of public data is for tasks with a source, and
    pools are for tasks whose data the policies of a pool play.

    names: tasks and dataset folders. data: a folder that is read instead. seeded: whether the seed
    is only that of the recipe.
    """
    from jaxoff.data import worlds

    folders = [name for name in names if (Path(name) / "metadata.json").is_file()]
    if data is not None and folders:
        raise InvalidSetting(
            f"--data: expected with a task by its name, found '{folders[0]}', a folder"
        )
    try:
        tasks = [] if data is not None else [Task.parse(x) for x in names if x not in folders]
    except UnknownName:  # which the command refuses itself
        return
    read = {
        "--episodes": (options.episodes, bool(tasks)),
        "--seed": (options.seed if seeded else 0, bool(tasks)),
        "--data-dir": (options.data_dir, any(task.source for task in tasks)),
        "--pools": (options.pools, any(map(worlds.needs_pool, tasks))),
    }
    kinds = {"--data-dir": "a task of public data", "--pools": "a task that a pool plays"}
    for option, (value, used) in read.items():
        if value and not used:
            where = "--data" if data is not None else ", ".join(names)
            raise InvalidSetting(
                f"{option}: expected with {kinds.get(option, 'a task by its name')}, found "
                f"{value} with {where}"
            )


def _pool_info(task: Task, spec: EnvSpec, folder: Path | None) -> dict[str, Any]:
    """Metadata of the pool that a dataset is made of: its file's hash, and how it was made."""
    from jaxoff.data import pools, worlds

    if not worlds.needs_pool(task):
        return {}
    path = pools.path_of(spec.name, folder)
    return {
        "pool": {
            "name": spec.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "made": pools.load(path, spec).made,
        }
    }


@data_app.command(name="fetch")
def data_fetch(
    task: tyro.conf.Positional[str],
    /,
    data_dir: Path,
    sha256: str = "",
    unverified: bool = False,
) -> None:
    """Download the public data of a task's scenario, with all its qualities, to the folder below
    --data-dir where `jaxoff data make` and `jaxoff train` look for it.

    Args:
        task: source:family/scenario/quality, such as og_marl:smac_v1/3m/Good.
        data_dir: folder of public datasets, the same as for `jaxoff data make`.
        sha256: checksum of the archive, from its page, where jaxoff does not know it.
        unverified: unpack the archive without a checksum; the one that it has is printed.
    """
    from jaxoff.data import fetch

    fetch.fetch(
        task,
        data_dir,
        sha256=sha256,
        unverified=unverified,
        say=lambda text: console.print(text, highlight=False, soft_wrap=True),
    )


@data_app.command(name="pool")
def data_pool(
    task: tyro.conf.Positional[str],
    /,
    method: str = "mappo",
    seed: int = 0,
    set: Annotated[tuple[str, ...], Many] = (),
    out: Path = Path("data/pools"),
) -> None:
    """Train the behaviour policies that datasets of a task are made of, from untrained to expert.

    Args:
        task: family/scenario, such as smax/3m.
        method: mappo, or matd3 for continuous actions.
        seed: seed of the training.
        set: NAME=VALUE sets a field of the method's Config; may be given several times.
        out: folder for pools; this one is written to OUT/FAMILY/SCENARIO.npz, and `jaxoff data make
            --pools OUT` uses it.
    """
    from jaxoff.data import pools, worlds
    from jaxoff.files import check_writable_file
    from jaxoff.logs import Progress
    from jaxoff.logs.base import Record

    worlds.check_pooled(task)
    path = out / f"{task}.npz"
    check_writable_file(path)
    runtime.setup()
    from jaxoff.training.pool import train_pool

    registry.online_learner(method)
    bar = Progress(f"{method} {task}", unit="steps")

    def tell(snapshot: Any, total: int) -> None:
        row = {"run": 0, "seed": seed, "return_mean": float(snapshot.evaluation["returns"].mean())}
        bar.record(Record("pool", 0, snapshot.env_steps, total, [row]))

    bar.start({})
    try:
        pool = train_pool(
            task, path, method=method, seed=seed, overrides=pairs(set, "--set"), tell=tell
        )
    finally:
        bar.finish({})
    console.print(_pool_table(pool))
    console.print(f"pool: {pools.path_of(task, out)}", soft_wrap=True)


@data_app.command(name="prey")
def data_prey(
    world: tyro.conf.Positional[str],
    /,
    out: Path,
    seed: int = 0,
    rounds: int = 3,
) -> None:
    """Train a prey for mpe/tag or mpe/world, in the same way as the shipped ones.

    Args:
        world: tag or world; no other world has a prey that is trained.
        out: the file to write, .npz.
        seed: seed of the training.
        rounds: number of rounds; each trains predators against the prey, and then a new prey
            against these predators.
    """
    from jaxoff.files import check_writable_file

    check_writable_file(out)
    runtime.setup()
    from jaxoff.training.prey import train_prey

    path = train_prey(
        world,
        out,
        seed=seed,
        rounds=rounds,
        tell=lambda who, value: console.print(f"{world}, {who}: return {value:.2f}"),
    )
    console.print(f"prey: {path}", soft_wrap=True)


def _pool_table(pool: Any) -> Table:
    """A table with one line per member of the pool."""
    table = Table(
        "steps of training",
        "level",
        "return",
        "win rate",
        "replay",
        title=f"{pool.name}: random policy {pool.random_return:.2f}",
    )
    for member in pool.members:
        win = "-" if member.win_rate is None else f"{member.win_rate:.3f}"
        score = f"{member.return_mean:.2f} ± {member.return_std:.2f}"
        table.add_row(
            f"{member.env_steps:,}", member.level, score, win, "x" if member.replay else ""
        )
    return table


class Found(NamedTuple):
    """A dataset that was found by its name."""

    episodes: Episodes
    spec: EnvSpec
    slug: str  # the dataset's name in the form of a file name
    won: Any  # the environment's `won` function, or None where it is unknown or has none
    origin: dict[str, Any]  # for the metadata of datasets that are made from this one


def find_data(text: str, options: DataOptions, data: Path | None = None) -> Found:
    """The dataset of a task, or of a dataset folder, about which less is known.

    data: a dataset folder that is read instead of the task's own data.
    """
    runtime.setup()
    from jaxoff.data import disk, edit
    from jaxoff.data.dataset import validate
    from jaxoff.files import recover

    recover(Path(text))
    if data is None and Path(text).is_dir():
        folder = Path(text).absolute()
        episodes, metadata = disk.load(folder)
        kept: dict[str, Any] = {
            name: metadata[name]
            for name in ("recipe", "seed", "pool", "made_by", "made_from")
            if name in metadata
        }
        origin = {
            "name": f"{folder.parent.name}/{folder.name}",
            "sha256": edit.digest(episodes),
            **kept,
        }
        return Found(
            episodes,
            edit.spec_of(episodes, metadata),
            f"{folder.parent.stem}-{folder.name}",
            None,
            origin,
        )
    try:
        task = Task.parse(text)
        env = registry.make_env(task)
    except UnknownName as error:
        raise UnknownName(f"{text}: no dataset folder is there, and as a task: {error}") from None
    if data is None:
        with shown(text) as progress:
            episodes = registry.make_data(task, options._replace(progress=progress))
    else:
        episodes = validate(disk.load(data)[0], env.spec, str(data))
    pool = (
        _pool_info(task, env.spec, None if options.pools is None else Path(options.pools))
        if data is None
        else {}
    )
    origin = {
        "name": text,
        "sha256": edit.digest(episodes),
        "recipe": text,
        "seed": options.seed,
        **pool,
    }
    return Found(episodes, env.spec, task.slug, getattr(env, "won", None), origin)
