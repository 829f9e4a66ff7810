"""What is run for OMAR (Pan et al., 2022): columns, tasks, data and policies they need, and how
large at each scale.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxoff.experiments.omar import sources
from jaxoff.experiments.omar.sources import Row
from jaxoff.experiments.paper import Column, Job, Size, kind_of

from jaxoff import registry
from jaxoff.data import pools
from jaxoff.data.episodes import returns_of
from jaxoff.names import DataOptions
from jaxoff.report.load import Run
from jaxoff.training import TrainSpec
from jaxoff.training.pool import train_pool
from jaxoff.types import Episodes

COLUMNS = {
    "BC": Column("bc"),
    "MA-ICQ": Column("maicq"),
    "MA-TD3+BC": Column("td3bc"),
    "MA-CQL": Column("cql"),
    "OMAR": Column("omar"),
}
PAIR = {name: COLUMNS[name] for name in ("BC", "MA-CQL", "OMAR")}
CURVES = {name: COLUMNS[name] for name in ("BC", "MA-TD3+BC", "MA-CQL", "OMAR")}
# The paper's question is whether MA-CQL only climbs too slowly: larger steps of its actors, or more
# of them.
LARGER = {f"MA-CQL, actor lr {lr:g}": Column("cql", {"lr": lr}) for lr in (0.05, 0.1)}
MORE = {f"MA-CQL, {steps} actor steps": Column("cql", {"policy_steps": steps}) for steps in (5, 20)}

WORLDS = {"spread": "CN", "tag": "PP", "world": "World"}
QUALITIES = ("random", "medium-replay", "medium", "expert")
MPE = {
    f"mpe/{world}/{quality}": f"{quality} {name}"
    for quality in QUALITIES
    for world, name in WORLDS.items()
}
SPREAD = {
    task: label
    for task, label in MPE.items()
    if task in ("mpe/spread/random", "mpe/spread/medium-replay")
}
COUNTS = (1, 2, 3, 4, 5)
AGENTS = {f"mpe/{'spread' if n == 3 else f'spread-n{n}'}/medium-replay": n for n in COUNTS}
LINE = "mpe/spread-n2-1d/medium-replay"
# Each agent has a landmark of its own and is paid for that alone; one agent is the same task either
# way.
CONTROL = {f"mpe/spread{f'-n{n}' * (n != 3)}{'-own' * (n > 1)}/medium-replay": n for n in COUNTS}

# Online and offline. MATD3 is the learner below MA-CQL with values of the state and all actions and
# without a conservative term.
TWO_BY_TWO = {task: n for task, n in AGENTS.items() if n in (1, 3)}
OFFLINE = {name: COLUMNS[name] for name in ("MA-CQL", "OMAR")}
_MATD3 = {"cql": 0.0, "centralised": True}
ONLINE = {"MATD3": Column("cql", _MATD3), "MATD3+OMAR": Column("omar", _MATD3)}
# As the authors' learner that made their data: a round of gradient steps for 100 joint steps, noise
# .1, a buffer of a million.
COLLECT: dict[str, dict[str, Any]] = {
    "smoke": {"num_envs": 4, "collect": 5, "warmup": 80, "capacity": 400},
    "cpu": {"num_envs": 20, "collect": 5, "warmup": 1024, "capacity": 100_000},
    "full": {"num_envs": 20, "collect": 5, "warmup": 1024, "capacity": 1_000_000},
}
# online; at full scale the million steps of the authors' learner
ROUNDS = {"cpu": 2000, "full": 10_000}

# Decentralised and centralised critics; a critic for each agent (the paper's), and one for the team
# (the CFCQL code base's).
CN = {task: label for task, label in MPE.items() if label.endswith(" CN")}
_FORMS: dict[str, dict[str, Any]] = {
    "": {},
    "centralised": {"centralised": True},
    "one critic": {"shared_team": True},
}
CENTRALISED: dict[str, Column] = {
    name if not form else f"{name}, {form}": Column(method, config)
    for name, method in (("MA-TD3+BC", "td3bc"), ("MA-CQL", "cql"), ("OMAR", "omar"))
    for form, config in _FORMS.items()
    if not (method == "td3bc" and form == "one critic")
}

# Searches, and sweeps of the softmax one around its values.
SEARCHES = {
    "softmax": COLUMNS["OMAR"],
    "cem": Column(
        "omar", {"search": "cem", "search_iterations": 2, "search_samples": 20, "search_elites": 5}
    ),
    "random": Column("omar", {"search": "random"}),
}
SWEEPS: dict[str, dict[str, Column]] = {
    "J": {
        f"J = {n}": Column("omar", {} if n == 3 else {"search_iterations": n})
        for n in (1, 2, 3, 5, 10)
    },
    "K": {
        f"K = {n}": Column("omar", {} if n == 10 else {"search_samples": n})
        for n in (5, 10, 15, 20, 25)
    },
    "mu0": {"mu0": Column("omar", grid={"search_mean": (-0.2, -0.1, 0.0, 0.1, 0.2)})},
    "sigma0": {"sigma0": Column("omar", grid={"search_spread": (1.0, 1.5, 2.0, 2.5, 3.0)})},
}

# Robots and mazes: the released density of policy samples, and the logarithm that belongs there.
LOG_DENSITY = {
    f"{name}, log density": Column(method, {"plain_density": False})
    for name, method in (("MA-CQL", "cql"), ("OMAR", "omar"))
}
ROBOTS = tuple(
    Row(q, f"mamujoco/halfcheetah-2x3/{q}", f"omar:mamujoco/2halfcheetah/{q.title()}")
    for q in QUALITIES
)
MAZES = tuple(
    Row(maze, f"maze/{maze}/waypoint", f"d4rl:maze2d/{maze}/v1")
    for maze in ("umaze", "medium", "large")
)
MAZE_COLUMNS = {name.removeprefix("MA-"): column for name, column in COLUMNS.items()}  # one agent
TAUS = {"OMAR": Column("omar", grid={"mimic": (0.3, 0.5, 0.7, 0.9, 1.0)})}

# Battles. The paper's base is not released. MA-CQL is here the very learner of OMAR without the
# regression; MACQL is SIT's.
BATTLES = {
    "MACQL": Column("macql"),
    "MA-CQL": Column("omar", {"mimic": 0.0}),
    "OMAR": Column("omar"),
}
QUALITY = "medium-replay"  # as the paper's, data of the training of the behaviour policies
MAPS = {
    "smoke": ("smax/3m",),
    "cpu": ("smax/3m", "smax/2s3z"),
    "full": (
        "smax/3m",
        "smax/2s3z",
        "smax/3s5z",
        "smax-x/1c3s5z",
        "smax/3s_vs_5z",
        "smax/5m_vs_6m",
        "smax/8m",
    ),
}

RELEASED = 3072  # rows of a batch of three agents
# `full`: settings of `baselines/settings.toml`, which are the released code's. `cpu`: a quarter of
# each agent's batch, 3 seeds.
_CLONE = {"hidden": 64, "lr": 1e-3}
_FAST = {"steps": 4, "batch_size": 16, "hidden": 8, "critic_hidden": 8}
# cloning with the nets and steps of the others
_BODY = {"hidden": 256, "lr": 3e-4, "steps": 100_001}
_BATTLE: dict[str, Any] = {"window": -1, "hidden": 64, "batch_size": 32}
# Policies are evaluated by their modes.
Modes = functools.partial(Size, sampled=False)
SIZES: dict[str, dict[str, Size]] = {
    "mpe": {
        "smoke": Modes(
            _FAST | {"batch_size": 60}, seeds=2, evaluations=2, eval_episodes=4, data_episodes=40
        ),
        "cpu": Modes(
            {"batch_size": 768},
            {"bc": _CLONE | {"steps": 2001}},
            seeds=3,
            evaluations=10,
            eval_episodes=100,
        ),
        "full": Modes(
            own={"bc": _CLONE | {"batch_size": 1024, "steps": 2001}},
            evaluations=100,
            eval_episodes=100,
        ),
    },
    "mamujoco": {
        "smoke": Modes(_FAST, seeds=1, evaluations=1, eval_episodes=1, data_episodes=1),
        "cpu": Modes(
            {"steps": 3000, "hidden": 64}, seeds=3, evaluations=3, eval_episodes=8, data_episodes=50
        ),
        "full": Modes(own={"bc": _BODY | {"batch_size": 512}}, eval_episodes=100),
    },
    "maze": {
        "smoke": Modes(_FAST, seeds=1, evaluations=1, eval_episodes=2, data_episodes=4),
        "cpu": Modes(
            {"steps": 10_000, "hidden": 64},
            {"bc": _CLONE},
            seeds=3,
            evaluations=5,
            eval_episodes=50,
            data_episodes=500,
        ),
        "full": Modes(own={"bc": _BODY}, eval_episodes=100),
    },
    "smax": {
        "smoke": Modes(
            _FAST | {"embed": 4, "batch_size": 4},
            seeds=2,
            evaluations=1,
            eval_episodes=2,
            data_episodes=16,
        ),
        "cpu": Modes(
            _BATTLE | {"critic_hidden": 64, "steps": 1000},
            seeds=3,
            evaluations=5,
            data_episodes=1000,
        ),
        "full": Modes(_BATTLE | {"batch_size": 128}, evaluations=50),
    },
}
POOLS: dict[str, dict[str, Any]] = {  # over the settings of the method that trains them
    "smoke": {
        "iterations": 2,
        "num_envs": 8,
        "minibatches": 2,
        "epochs": 1,
        "hidden": 8,
        "snapshots": 2,
    },
    "cpu": {"iterations": 300},
    "full": {},
}


class Data:
    """The data of the particle games at the scale of a job; policies that don't come with the
    library are trained once, into out/pools.
    """

    def __init__(self, job: Job) -> None:
        self.__setstate__((job.scale, job.out / "pools"))

    def __getstate__(self) -> tuple[str, Path]:
        """What other processes need to make the same data."""
        return self.scale, self.folder

    def __setstate__(self, state: tuple[str, Path]) -> None:
        self.scale, self.folder = state
        # columns of a task come one after the other
        self.of = functools.lru_cache(maxsize=1)(self._make)

    def _make(self, task: str, seed: int, episodes: int | None) -> Episodes:
        name = "/".join(task.split("/")[:2])
        if task.endswith("/random"):
            return registry.make_data(task, DataOptions(seed, episodes))
        if not pools.has(name, self.folder if self.folder.is_dir() else None):
            path = self.folder / f"{name}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            train_pool(name, path, overrides=POOLS[self.scale])
        folder = str(self.folder) if self.folder.is_dir() else None
        return registry.make_data(task, DataOptions(seed, episodes, pools=folder))

    def __call__(self, spec: TrainSpec) -> Episodes:
        return self.of(spec.task, spec.data_seed, spec.data_episodes)


data_of = functools.lru_cache(maxsize=1)(Data)  # of a job


def specs(tasks: Iterable[str], columns: Mapping[str, Column], scale: str) -> list[TrainSpec]:
    """The jobs of a table; on particle games a batch has as many rows for each agent whatever their
    number.
    """
    found = []
    for task, (label, column) in itertools.product(tasks, columns.items()):
        size, chosen = SIZES[kind_of(task)][scale], {}
        if kind_of(task) == "mpe":
            each = size.every.get("batch_size", RELEASED) // 3
            # all agents learn from the same rows, and the critics from five parts of them
            if column.config.get("shared_team"):
                chosen = {"batch_size": 5 * each}
            elif "batch_size" in size.every and column.method != "bc":
                chosen = {"batch_size": each * registry.make_spec(task).num_agents}
        found.append(size.spec(task, label, column, chosen))
    return found


def online_specs(
    tasks: Iterable[str], columns: Mapping[str, Column], scale: str
) -> list[TrainSpec]:
    """The same jobs without data: the learners act.

    The quality in a task's name chooses settings only.
    """
    steps = {"steps": ROUNDS[scale]} if scale in ROUNDS else {}
    acting = {
        label: dataclasses.replace(
            column,
            config={**column.config, **steps},
            sampler="online",
            sampler_config=COLLECT[scale],
        )
        for label, column in columns.items()
    }
    return specs(tasks, acting, scale)


def trained(job: Job, tasks: Iterable[str], columns: Mapping[str, Column]) -> list[Run]:
    """Every column on every particle game."""
    return job.run(specs(tasks, columns, job.scale), data_of(job))


def behaviour(job: Job, task: str) -> tuple[float, float]:
    """Mean and standard deviation of the returns of a particle game's data."""
    episodes = SIZES["mpe"][job.scale].data_episodes
    return sources.behaviour(job, task, lambda: returns_of(data_of(job).of(task, 0, episodes)))


def about(scale: str) -> str:
    """What the settings of a table of particle games were."""
    size = SIZES["mpe"][scale]
    rows = size.every.get("batch_size", RELEASED) // 3
    rounds = size.every.get("steps", "released")
    return (
        f"Data: our own recipes, {size.data_episodes or 'all'} episodes. Rounds "
        f"of gradient steps: {rounds}; rows for each "
        f"agent in a batch: {rows}; gamma .95; inputs normalised by the batch; modes "
        "of final policies, "
        f"{size.eval_episodes} episodes."
    )
