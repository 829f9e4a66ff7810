"""Public offline MARL datasets of other groups as task families: where they are and how checked.

A task `source:env/scenario/quality` is read from the folder that `--data-dir` names. Two layouts
are looked for, the vault first:

1. OG-MARL's vault (sources og_marl, omar, omiga, cfcql, alberdice):
   DIR/<source>/<env>/<scenario>.vlt/<quality>, DIR/<env>/<scenario>.vlt/<quality>,
   DIR/<scenario>.vlt/<quality>
2. the authors' own files, in DIR or DIR/<source>:
   omar    simple_spread/medium-replay/seed_0_data, HalfCheetah-v2/expert/seed_0_data: folders of
           .npy files
   cfcql   5m_vs_6m_medium_replay.h5
   omiga   Ant-v2-2x4-expert.hdf5; 6h_vs_8z/good: a folder of torch files
   d4rl    maze2d-umaze-sparse-v1.hdf5
   minari  pointmaze/umaze-v2/data/main_data.hdf5

OMAR's data have five parts, one per training seed of the authors: `DataOptions.seed` names the part
(a stream of the vault, or a seed_<s>_data folder). In OMAR's tag and world tasks the agents are the
three predators. CFCQL's continuous data are OMAR's, and are read as OMAR's. Datasets whose
dimensions are not published (gymnasium_mamujoco, flatland, 2ant of og_marl) are left out.

There is no simulator in jit for these tasks (except for simple_spread, which is exactly jaxoff's
mpe/spread): their environment is only a specification. Where a simulator on the host fits,
`jaxoff evaluate` uses it.
"""

from __future__ import annotations

import functools
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from jaxoff.data.scenarios import sizes_of, table
from jaxoff.errors import InvalidDataset, InvalidEpisodes, InvalidSetting
from jaxoff.names import DataOptions, Family, Sizes, Task, check_quality
from jaxoff.types import Env, EnvSpec, Episodes, ReturnScale

if TYPE_CHECKING:
    from jaxoff.data.convert.common import Steps

_FAMILIES = {
    "og_marl": ("smac_v1", "smac_v2", "mamujoco"),
    "omar": ("mpe", "mamujoco"),
    "omiga": ("smac_v1", "mamujoco"),
    "cfcql": ("smac_v1",),
    "alberdice": ("rware",),
    "d4rl": ("maze2d",),
    "minari": ("pointmaze",),
}
VAULT_SOURCES = ("og_marl", "omar", "omiga", "cfcql", "alberdice")
_OMIGA_FILES = {
    "6halfcheetah": "HalfCheetah-v2-6x1",
    "2ant": "Ant-v2-2x4",
    "3hopper": "Hopper-v2-3x1",
}
_COUNTS = ("transitions", "episodes")
_STATISTICS = (
    "return mean",
    "return standard deviation",
    "least return",
    "largest return",
    *_COUNTS,
)


class NoSimulator:
    """An environment with only a specification, in which policies cannot be evaluated in jit.

    host: arguments of `eval.host.make_host` for a simulator on the host that fits, or empty. about:
    what is there instead of a simulator, as text.
    """

    def __init__(
        self,
        spec: EnvSpec,
        host: tuple[str, ...] = (),
        about: str = "public data without one",
    ) -> None:
        self.spec, self.host, self.about = spec, host, about


# --------------------------------------------------------------------------------------- the table


def _table() -> dict[str, dict[str, Any]]:
    """`source:env/scenario` -> its dimensions, horizon, and published statistics by quality."""
    return table("public")


def tasks(source: str, env: str) -> list[str]:
    """Every public task of a source and environment."""
    return [
        f"{name}/{quality}"
        for name, row in _table().items()
        if name.startswith(f"{source}:{env}/")
        for quality in row["datasets"]
    ]


def published(task: Task) -> tuple[float, ...]:
    """The published statistics of a task, empty where there are none.

    They are mean, standard deviation, minimum and maximum of the return, numbers of transitions and
    of episodes, and joint SACo.
    """
    return tuple(_row(task)["datasets"][task.quality])


def _row(task: Task) -> dict[str, Any]:
    return _table()[f"{task.source}:{task.family}/{task.scenario}"]


def sizes(task: Task) -> Sizes:
    """Sizes of a public task's environment. Raises UnknownName."""
    check_quality(task, tasks(task.source, task.family))
    return sizes_of(_row(task))


@functools.cache
def make_env(task: Task) -> Any:
    """The environment of a public task: mostly a specification that cannot be stepped.

    Raises UnknownName.
    """
    check_quality(task, tasks(task.source, task.family))
    row = _row(task)
    low, high = row.get("scale", (0.0, 1.0))
    spec = EnvSpec(
        name=f"{task.source}:{task.family}/{task.scenario}",
        num_agents=row["agents"],
        obs_size=row["obs"],
        state_size=row["state"],
        action_size=row["actions"],
        discrete=row["discrete"],
        horizon=row["horizon"],
        return_scale=ReturnScale(low, high, "random and expert returns of the authors")
        if "scale" in row
        else None,
    )
    if (task.source, task.scenario) == ("omar", "simple_spread"):
        from jaxoff.envs.base import GameEnv
        from jaxoff.envs.mpe.omar import make_spread

        return GameEnv(make_spread().game, spec, individual=True)
    return NoSimulator(spec, tuple(row.get("host", ())))


# ----------------------------------------------------------------------------------------- reading


def read(task: Task | str, options: DataOptions, *, verify: bool = True) -> Episodes:
    """The episodes of a public task, read from `options.data_dir`.

    Where `options.episodes` is set, that number of episodes is drawn with the seed. verify: compare
    the statistics with the published ones, which are those of the vaults, and for OMAR those of the
    first of five parts. A vault that differs is refused with InvalidEpisodes; the authors' own
    files that differ are read with a warning. Raises UnknownName, FileNotFoundError,
    InvalidDataset, InvalidEpisodes.
    """
    from jaxoff.data.convert.common import pad, take

    task = Task.parse(task) if isinstance(task, str) else task
    spec = make_env(task).spec
    path, vault = locate(task, options)
    steps, comparable = (
        _read_vault(path, task, spec, options.seed)
        if vault
        else _read_files(path, task, spec, options.seed, verify)
    )
    if verify and comparable:
        returns = np.add.reduceat(steps.rewards.astype(np.float64), steps.starts)
        wrong = _compare(task, steps.lengths, steps.terminated, [returns[:, 0], returns.mean(1)])
        text = (
            f"{path}: expected the published statistics of {task}, found other {'; '.join(wrong)}"
        )
        if wrong and vault:
            raise InvalidEpisodes(
                f"{text}; jaxoff.data.public.read(..., verify=False) reads it all the same"
            )
        if wrong:
            warnings.warn(text, stacklevel=2)
    if options.episodes is not None:
        have = len(steps.lengths)
        if not 1 <= options.episodes <= have:
            raise InvalidSetting(
                f"{task}: field 'episodes': expected 1..{have}, found {options.episodes}"
            )
        steps = take(
            steps,
            np.sort(np.random.default_rng(options.seed).permutation(have)[: options.episodes]),
        )
    return pad(steps, spec)


def locate(task: Task, options: DataOptions) -> tuple[Path, bool]:
    """The path of a task's data, and whether it is a vault; see the module's docstring.

    Raises FileNotFoundError or InvalidDataset.
    """
    vault, files = f"{task.family}/{task.scenario}.vlt", _files(task, options.seed)
    wanted = (
        [f"the vault {task.source}/{vault}/{task.quality}"] if task.source in VAULT_SOURCES else []
    )
    wanted += [f"the authors' {files}"] if files else []
    if options.data_dir is None:
        raise FileNotFoundError(
            f"{task}: field 'data_dir': expected the folder that holds "
            f"{' or '.join(wanted)}, found none; pass --data-dir"
        )
    root = Path(options.data_dir).expanduser().absolute()
    folders = (
        [root / task.source / vault, root / vault, root / f"{task.scenario}.vlt"]
        if task.source in VAULT_SOURCES
        else []
    )
    for folder in folders:
        if (folder / task.quality).is_dir():
            return folder / task.quality, True
    for base in (root, root / task.source) if files else ():
        if (base / cast(str, files)).exists():
            return base / cast(str, files), False
    for folder in folders:
        if folder.is_dir():
            there = sorted(p.name for p in folder.iterdir() if p.is_dir())
            raise InvalidDataset(
                f"{folder}: expected the dataset '{task.quality}', found "
                f"{', '.join(there) or 'none'}"
            )
    hint = f"; `jaxoff data fetch {task}` downloads the vault" if folders else ""
    if task.source == "omar" and files:
        parts = sorted(
            p.name
            for base in (root, root / "omar")
            for p in (base / files).parent.glob("seed_*_data")
        )
        hint += f"; there are {', '.join(parts)}" if parts else ""
    raise FileNotFoundError(
        f"{root}: field 'data_dir': expected {' or '.join(wanted)}, found none{hint}"
    )


def _files(task: Task, seed: int) -> str | None:
    """The path of the authors' own file or folder, below the data folder; None without one."""
    level = task.quality.lower()
    match task.source, task.family:
        case "omar", _:
            folder = "HalfCheetah-v2" if task.family == "mamujoco" else task.scenario
            return f"{folder}/{level}/seed_{seed}_data"
        case "cfcql", _:
            return f"{task.scenario}_{level.replace('-', '_')}.h5"
        case "omiga", "mamujoco":
            return f"{_OMIGA_FILES[task.scenario]}-{level}.hdf5"
        case "omiga", _:
            return f"{task.scenario}/{level}"
        case "d4rl", _:
            return f"maze2d-{task.scenario}-sparse-{task.quality}.hdf5"
        case "minari", _:
            return f"pointmaze/{task.scenario}-{task.quality}/data/main_data.hdf5"
    return None


def _read_vault(path: Path, task: Task, spec: EnvSpec, seed: int) -> tuple[Steps, bool]:
    """The steps, and whether the published statistics describe this part of the data."""
    from jaxoff.data.convert import og_marl

    stream = seed if task.source == "omar" else 0
    fixed = spec.horizon if task.source == "omar" else None
    return og_marl.read(
        path, spec, stream=stream, fixed_length=fixed, joined_obs=task.family == "mpe"
    ), stream == 0


def _read_files(
    path: Path, task: Task, spec: EnvSpec, seed: int, verify: bool
) -> tuple[Steps, bool]:
    from jaxoff.data.convert import cfcql, d4rl, omar, omiga

    match task.source, task.family:
        case "omar", _:
            return omar.read(
                path, spec, steps=spec.horizon, states=task.family == "mamujoco"
            ), seed == 0
        case "cfcql", _:
            return cfcql.read(path, spec, seed=seed), True
        case "omiga", "mamujoco":
            # The reader leaves out last rows that the published numbers count.
            return omiga.read_mujoco(path, spec), False
        case "omiga", _:
            return omiga.read_smac(path, spec), True
        case "d4rl", _:
            return d4rl.read_maze2d(path, spec, rows=_row(task)["rows"] if verify else None), False
    return d4rl.read_minari(path, spec), False


# -------------------------------------------------------------------------------------- statistics


def verify(task: Task | str, episodes: Episodes) -> list[str]:
    """One sentence for each statistic of a task's episodes that differs from the published one.

    Returns are compared with an absolute tolerance of 0.01 and a relative one of 10^-5 (the
    published ones are sums in single precision), counts exactly. An unfinished last episode counts
    for transitions only. Where agents have individual rewards, it is enough that the first agent's
    return or the mean over agents agrees.
    """
    task = Task.parse(task) if isinstance(task, str) else task
    make_env(task)
    filled = np.asarray(episodes.filled, bool)
    team = np.where(filled, np.asarray(episodes.reward), 0).astype(np.float64).sum(1)
    returns = [team]
    if episodes.agent_reward is not None:
        returns.insert(
            0,
            np.where(filled, np.asarray(episodes.agent_reward)[..., 0], 0)
            .astype(np.float64)
            .sum(1),
        )
    return _compare(task, filled.sum(1), np.asarray(episodes.terminated.any(1)), returns)


def _compare(
    task: Task, lengths: np.ndarray, terminated: np.ndarray, returns: list[np.ndarray]
) -> list[str]:
    wanted = published(task)
    if not wanted:
        return []
    # The public vaults flag only ends that are terminal.
    unfinished = bool(terminated.any() and not terminated[-1])
    end = len(lengths) - unfinished
    counts = (float(lengths.sum()), float(end))
    problems = []
    for value in returns:
        whole = value[:end]
        found = (whole.mean(), whole.std(), whole.min(), whole.max(), *counts)
        problems.append(
            [
                f"{name} (expected {expected:.10g}, found {number:.10g})"
                for name, expected, number in zip(_STATISTICS, wanted, found, strict=False)
                if not (
                    number == expected
                    if name in _COUNTS
                    else math.isclose(number, expected, rel_tol=1e-5, abs_tol=0.01)
                )
            ]
        )
    return min(problems, key=len)


# ---------------------------------------------------------------------------------------- families


def _env(task: Task) -> Env:
    return cast(Env, make_env(task))


PUBLIC: list[Family] = [
    Family(env, functools.partial(tasks, source, env), _env, read, source=source, sizes=sizes)
    for source, envs in _FAMILIES.items()
    for env in envs
]
