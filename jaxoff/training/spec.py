"""The description of a training job: one record, from which the command line is derived."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from jaxoff import registry
from jaxoff.config import (
    BUDGETS,
    SizeName,
    as_float32,
    check_number,
    check_word,
    config_fields,
    is_leaf,
    limits_of,
    resolve_config,
    typed,
)
from jaxoff.errors import InvalidSetting
from jaxoff.names import Task, UnknownName, unknown
from jaxoff.types import EnvSpec, Stage

if TYPE_CHECKING:
    from jaxoff.types import Env, Episodes, Key, Sampler


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """A training job: every combination of grid values and seeds is a run of one program.

    The comments behind and above the fields are the help of `jaxoff train`.
    """

    method: str  # a registered method, such as inspo
    # [source:]family/scenario/quality, see `jaxoff data list`; or the folder of a dataset
    task: str
    seeds: Sequence[int] = (0,)  # distinct whole numbers in 0 .. 2**32 - 1
    # values of fields of the method's Config
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # numeric field of the method's Config -> the values that the grid sweeps
    grid: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    sampler: str = "uniform"  # uniform, or another registered sampler such as pjap
    # values of fields of the sampler's Config
    sampler_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # settings of games and Bridge that train within a minute on a laptop, or the paper's; the same
    # for all other tasks
    size: SizeName = "laptop"
    # gradient updates of the last stage; by default the method's own number for the task
    steps: int | None = None
    # number of evaluations during training, in addition to the one before the first update
    evaluations: int = 10
    eval_episodes: int = 32  # number of episodes in each evaluation
    sampled: bool = True  # evaluate with actions sampled from the policy, else with its mode
    # random seed of the dataset, for a task with a recipe; or of the part of a dataset folder
    data_seed: int = 0
    # number of episodes in the dataset, for a task with a recipe or a dataset folder
    data_episodes: int | None = None
    data_dir: str | None = None  # folder of public datasets, for a task with a source
    # task or family/scenario whose environment evaluates policies, for a task that is a dataset
    # folder; by default what its metadata name, if anything; none: no evaluation
    env: str = ""
    # storage type of observations and states on the device
    obs_dtype: Literal["float32", "bfloat16"] = "float32"
    # random number generator; only with threefry2x32 is a run the same alone and among other runs
    prng: Literal["threefry2x32", "rbg", "unsafe_rbg"] = "threefry2x32"
    # precision of matrix products on an accelerator; "default" lets it use fewer bits
    precision: Literal["highest", "high", "default"] = "highest"
    # how runs share a device: all at once (vmap), one after another (sequence), or chosen by the
    # backend (auto)
    mode: Literal["auto", "vmap", "sequence"] = "auto"
    variant: str = ""  # column label in tables; "" is the method's name
    checkpoint_s: float = 60.0  # minimum time between checkpoints, in seconds

    def __post_init__(self) -> None:
        """A path becomes text: what `jaxoff.save` returns is a task."""
        object.__setattr__(self, "task", os.fspath(self.task))

    @property
    def label(self) -> str:
        """Column label in tables."""
        return self.variant or (
            self.method if self.sampler == "uniform" else f"{self.method}+{self.sampler}"
        )

    @property
    def task_name(self) -> str:
        """Row label in tables: the task, or `folder:NAME` for a dataset folder."""
        try:
            return str(Task.parse(self.task))
        except UnknownName:  # a relative path that leads nowhere any more
            return self.task

    def environment(self) -> Env:
        """The environment that evaluates the policies; a specification alone if there is none.

        Raises InvalidSetting where `env` does not fit the task.
        """
        task = Task.parse(self.task)
        if task.folder:
            from jaxoff.data import folders

            return folders.environment(task, self.env)
        if self.env:
            raise InvalidSetting(
                f"field 'env': expected for a task that is a dataset folder, found '{self.env}' "
                f"for '{self.task}', which has an environment of its own"
            )
        return registry.make_env(task)


@dataclasses.dataclass(frozen=True)
class Job:
    """A TrainSpec with every name resolved and checked, before any data are read.

    Runs are ordered by grid point (outer) and seed (inner).
    """

    spec: TrainSpec
    module: Any
    config: Any  # the method's Config of every run: leaves [R]
    sampler_module: Any
    sampler_config: Any
    points: tuple[dict[str, float], ...]  # grid point of each run
    seeds: tuple[int, ...]  # seed of each run
    longest: int = 0  # steps of the longest episode in the dataset, once the dataset is known
    # number of updates and of evaluations of the last stage before each time that it was extended
    parts: tuple[tuple[int, int], ...] = ()
    first: int = 0  # number of the first run, where these are added to the runs of a folder

    @property
    def num_runs(self) -> int:
        """Number of runs, R."""
        return len(self.seeds)

    def select(self, runs: Sequence[int], first: int = 0) -> Job:
        """The job of some of the runs, in the given order; `first` is the number of the first."""
        import jax
        import numpy as np

        return dataclasses.replace(
            self,
            config=jax.tree.map(lambda x: np.asarray(x)[np.array(runs)], self.config),
            points=tuple(self.points[run] for run in runs),
            seeds=tuple(self.seeds[run] for run in runs),
            first=first,
        )

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Number, seed and grid point of every run."""
        return [
            {"run": self.first + k, "seed": seed, "config": dict(point)}
            for k, (seed, point) in enumerate(zip(self.seeds, self.points, strict=True))
        ]

    @property
    def settings(self) -> list[dict[str, float]]:
        """The numeric settings of every run in their shortest decimal form, such as 0.0003."""
        import numpy as np

        leaves = {
            name: np.asarray(x) for name, x in vars(self.config).items() if hasattr(x, "shape")
        }
        return [
            {name: float(str(values[k])) for name, values in leaves.items()}
            for k in range(self.num_runs)
        ]

    def ends(self, steps: int) -> list[int]:
        """The numbers of updates after which the last stage, of `steps` updates, is evaluated."""
        start, found = 0, []
        for end, evaluations in (*self.parts, (steps, self.spec.evaluations)):
            found += [start + step for step in evaluation_steps(end - start, evaluations)]
            start = end
        return found

    def stages(self, config: Any, env_spec: EnvSpec) -> tuple[Stage, ...]:
        """The training stages of one run, whose config has leaves of shape []."""
        made = self.module.make(config, dataclasses.replace(env_spec, longest=self.longest))
        return (
            tuple(made)
            if isinstance(made, tuple) and made and isinstance(made[0], Stage)
            else (Stage("train", made, config.steps),)
        )

    @property
    def acts(self) -> bool:
        """Whether the sampler collects its own data by acting, so that there is no dataset."""
        return registry.acts(self.spec.sampler)

    def sampler(self, stage: Stage, state: Any, config: Any, env: Env, key: Key) -> Sampler:
        """The sampler of a stage: the stage's own, or else the one that the user chose.

        key: random key for what the sampler does before its first draw.
        """
        if stage.sampler is not None:
            return stage.sampler(state)
        if self.acts:
            policy = stage.learner.policy(state)
            return self.sampler_module.make_acting(
                self.sampler_config, config.batch_size, config.window, env, policy, key
            )
        return self.sampler_module.make(self.sampler_config, config.batch_size, config.window)


def _number(config_class: type, name: str, value: Any) -> float:
    """A value of a numeric field of the grid, as a number that float32 holds."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number != number:
        raise InvalidSetting(f"grid field '{name}': expected numbers, found {value!r}")
    check_number(name, number, "grid field", limits_of(config_class, name))
    return number


def expanded(spec: TrainSpec) -> list[TrainSpec]:
    """One job for each combination of values of the grid's static fields, which it then fixes.

    A grid without static fields gives a single job. Values of numeric fields are read as numbers.
    Raises UnknownName for a field that does not exist, InvalidSetting for a value that is not a
    number.
    """
    _check_kinds(spec)
    config_class = registry.learner(spec.method, spec.task).Config
    known, defaults = config_fields(config_class), config_class()
    hints = get_type_hints(config_class)
    unknown_names = [name for name in spec.grid if name not in known]
    if unknown_names:
        raise unknown(f"field of {spec.method}'s Config", unknown_names[0], known)
    fixed = {
        name: [
            typed(f"grid field '{name}'", value, getattr(defaults, name), hints[name])
            for value in values
        ]
        for name, values in spec.grid.items()
        if not is_leaf(known[name])
    }
    swept = {
        name: [_number(config_class, name, value) for value in values]
        for name, values in spec.grid.items()
        if name not in fixed
    }
    for name, values in fixed.items():
        _check_distinct(name, values, values)
    points = [
        dict(zip(fixed, values, strict=True)) for values in itertools.product(*fixed.values())
    ]
    twice = next((name for name in fixed if name in spec.config), None)
    if twice:
        raise InvalidSetting(
            f"field '{twice}': expected in --set, --steps or --grid, found in two of them"
        )
    return [
        dataclasses.replace(spec, config={**spec.config, **point}, grid=swept) for point in points
    ]


def _check_distinct(name: str, values: Sequence[Any], held: Sequence[Any]) -> None:
    """Refuse values of a grid's field that are none, or not distinct as the program holds them."""
    if not len(values):
        raise InvalidSetting(f"grid field '{name}': expected at least one value, found none")
    if len(set(held)) < len(held):
        raise InvalidSetting(
            f"grid field '{name}': expected values that differ, found {', '.join(map(str, values))}"
        )


def fitted(job: Job, data: Episodes | None) -> Job:
    """The job, completed with what follows from its dataset.

    That is the length of the longest episode, and the number of updates of each stage whose budget
    is given in slots.
    """
    if data is None:
        return job
    import numpy as np

    lengths, config = np.asarray(data.filled).sum(1), job.config
    # slots in the batch of one update; the slot after the last step of an episode counts too
    made = config.batch_size * (float(lengths.mean()) + 1.0)
    budgets = {updates: getattr(config, slots, 0) for slots, updates in BUDGETS.items()}
    counts = {updates: math.ceil(budget / made) for updates, budget in budgets.items() if budget}
    return dataclasses.replace(job, config=config.replace(**counts), longest=int(lengths.max()))


def _check_budgets(method: str, config: Any, overrides: Mapping[str, Any]) -> None:
    """Refuse a budget in slots without whole episodes, or together with a number of updates."""
    for slots, updates in BUDGETS.items():
        budget = getattr(config, slots, 0)
        if budget and updates in overrides:
            raise InvalidSetting(
                f"{method}: fields '{slots}' and '{updates}': expected one of the two, found both"
            )
        if budget and config.window != -1:
            raise InvalidSetting(
                f"{method}: field 'window': expected -1 (episodes) with {slots}={budget}, "
                f"found {config.window}"
            )


def _check_kinds(spec: TrainSpec) -> None:
    """Refuse settings, grids and seeds that are no dictionaries and lists, by name."""
    for name in ("config", "sampler_config", "grid"):
        if not isinstance(getattr(spec, name), Mapping):
            raise InvalidSetting(
                f"field '{name}': expected a dictionary, found {getattr(spec, name)!r}"
            )
    lists = {f"grid field '{name}'": values for name, values in spec.grid.items()}
    for name, values in ({"field 'seeds'": spec.seeds} | lists).items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise InvalidSetting(f"{name}: expected a list, found {values!r}")


def _check_spec(spec: TrainSpec) -> None:
    """Refuse an invalid value of a TrainSpec, naming the field, what is allowed and the value."""
    _check_kinds(spec)
    hints = get_type_hints(TrainSpec)
    for name, hint in hints.items():
        if get_origin(hint) is Literal:
            check_word(name, getattr(spec, name), get_args(hint))
    whole = {"steps": 1, "evaluations": 1, "eval_episodes": 1, "data_seed": 0, "data_episodes": 1}
    for name, least in whole.items():
        value = getattr(spec, name)
        if value is None and name in ("steps", "data_episodes"):
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise InvalidSetting(
                f"field '{name}': expected a whole number of at least {least}, found {value!r}"
            )
        check_number(name, int(value))
    if not isinstance(spec.sampled, bool):
        raise InvalidSetting(f"field 'sampled': expected true or false, found {spec.sampled!r}")
    pause = spec.checkpoint_s
    if isinstance(pause, bool) or not isinstance(pause, int | float) or not 0 <= pause < math.inf:
        raise InvalidSetting(
            f"field 'checkpoint_s': expected a number of seconds of at least 0, found {pause!r}"
        )
    if spec.steps is not None and "steps" in spec.config:
        raise InvalidSetting(
            f"field 'steps': expected once, found {spec.steps} and, among the method's "
            f"settings, {spec.config['steps']}"
        )
    seeds = list(spec.seeds)
    wrong = [
        seed
        for seed in seeds
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**32
    ]
    if not seeds or wrong or len(set(seeds)) < len(seeds):
        raise InvalidSetting(
            "field 'seeds': expected distinct whole numbers in 0 .. 2**32 - 1, at least "
            f"one, found {seeds}"
        )


def resolve(spec: TrainSpec) -> Job:
    """Check every name and value of a TrainSpec.

    Raises UnknownName, WrongType or InvalidSetting.
    """
    import jax
    import numpy as np

    task = Task.parse(spec.task)
    registry.family_of(task)
    if task.folder and spec.task in registry.tasks():
        raise InvalidSetting(
            f"task '{spec.task}': expected './{spec.task}' for the dataset folder of this name, or "
            "the task from another working folder, found both"
        )
    module = registry.learner(spec.method, task)
    _check_spec(spec)
    overrides = dict(spec.config) | ({} if spec.steps is None else {"steps": spec.steps})
    config = resolve_config(module, task, overrides, size=spec.size)
    _check_budgets(spec.method, config, overrides)
    known = config_fields(module.Config)
    twice = sorted(set(spec.grid) & set(overrides))
    if twice:
        raise InvalidSetting(
            f"field '{twice[0]}': expected in --set, --steps or --grid, found in two of them"
        )
    for name, values in spec.grid.items():
        if name not in known:
            raise unknown(f"field of {spec.method}'s Config", name, known)
        if not is_leaf(known[name]):
            raise InvalidSetting(
                f"grid field '{name}': expected a numeric field of {spec.method}'s Config, "
                "found a static one, "
                "which `expanded` makes a job of for each value"
            )
        numbers = [_number(module.Config, name, value) for value in values]
        _check_distinct(name, values, [as_float32(number) for number in numbers])
    for name in ("data_episodes", "data_seed") if registry.acts(spec.sampler) else ():
        if getattr(spec, name):
            raise InvalidSetting(
                f"field '{name}': expected none with sampler '{spec.sampler}', which plays itself, "
                f"found {getattr(spec, name)}"
            )
    if task.folder and spec.data_seed and spec.data_episodes is None:
        raise InvalidSetting(
            f"field 'data_seed': expected with 'data_episodes' for a dataset folder, of which it "
            f"draws a part, found {spec.data_seed} without"
        )
    points = [
        dict(zip(spec.grid, map(float, values), strict=True))
        for values in itertools.product(*spec.grid.values())
    ]
    runs = [(point, int(seed)) for point in points for seed in spec.seeds]
    leaves = jax.tree.map(lambda x: np.repeat(x[None], len(runs), 0), config)
    swept = {name: np.asarray([point[name] for point, _ in runs], np.float32) for name in spec.grid}
    sampler_module = registry.sampler(spec.sampler)
    return Job(
        spec=spec,
        module=module,
        config=leaves.replace(**swept),
        sampler_module=sampler_module,
        sampler_config=resolve_config(sampler_module, task, spec.sampler_config, size=spec.size),
        points=tuple(point for point, _ in runs),
        seeds=tuple(seed for _, seed in runs),
    )


def check_stages(job: Job, env_spec: EnvSpec) -> None:
    """Let the method refuse the settings of every grid point, and refuse a sampler that its stages
    do not use, or that cannot feed all of them.

    A sampler that acts does so with the policy of a single stage, and there is no dataset.
    """
    import jax

    method, sampler = job.spec.method, job.spec.sampler
    for run in {tuple(point.items()): run for run, point in enumerate(job.points)}.values():
        stages = job.stages(jax.tree.map(lambda x, run=run: x[run], job.config), env_spec)
        if job.acts and len(stages) > 1:
            names = ", ".join(stage.name for stage in stages)
            raise InvalidSetting(
                f"sampler '{sampler}': expected a method of one stage, found {method} with {names}"
            )
        if job.acts and stages[0].prepare is not None:
            raise InvalidSetting(
                f"sampler '{sampler}': expected a method that starts without a dataset, found "
                f"{method} with these settings"
            )
        if sampler != "uniform" and all(stage.sampler for stage in stages):
            raise InvalidSetting(
                f"field 'sampler': expected uniform, since {method} draws by itself, found "
                f"'{sampler}'"
            )


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Numbers of updates after which a stage is evaluated, `evaluations` of them at most.

    They are spread as evenly as whole numbers allow, and the last one is `steps`.
    """
    count = min(evaluations, steps)
    return [round(steps * number / count) for number in range(1, count + 1)]
