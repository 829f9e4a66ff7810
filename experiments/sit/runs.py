"""What is run for SIT (Tian et al., 2023): columns, tasks, and how large at each scale."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxoff.experiments.paper import Column, Size, kind_of, tuned

from jaxoff import registry
from jaxoff.data import pools
from jaxoff.learners import credit
from jaxoff.names import DataOptions
from jaxoff.training import TrainSpec
from jaxoff.types import Episodes

UNIFORM = 1e9  # an alpha that draws uniformly; infinity has no place in JSON
COLUMNS = {
    "BC": Column("bc"),
    "QMIX": Column("qmix"),
    "MABCQ": Column("bcq"),
    "MACQL": Column("macql"),
    "ICQ": Column("icq"),
    "SIT": Column("sit"),
}
# In the paper's order, FACMAC in QMIX's place; MACQL is there the decentralised MA-CQL.
_REAL = {"FACMAC": Column("facmac"), "MACQL": Column("cql")}
CONTINUOUS = {
    name: (COLUMNS | _REAL)[name] for name in ("BC", "FACMAC", "MABCQ", "MACQL", "ICQ", "SIT")
}
SIT = {"SIT": COLUMNS["SIT"]}
CLAIM = {name: COLUMNS[name] for name in ("BC", "ICQ", "SIT")}
# Chosen on particle worlds (`make sit-tune`); battles take them as they are. The paper's stand
# beside.
TUNED = {
    f"{name}, tuned": Column(method, tuned("sit", method, "*"))
    for name, method in (("ICQ", "icq"), ("SIT", "sit"))
}
SEARCH = {
    "mpe": {
        "ICQ, values": Column(
            "icq",
            {"truncation": "terminal", "actor_weight": "value"},
            {"beta_actor": (0.1, 1.0, 10.0, 100.0)},
        ),
        "ICQ, advantages": Column(
            "icq", {"truncation": "terminal"}, {"beta_actor": (0.1, 1.0, 10.0, 100.0)}
        ),
        "SIT": Column(
            "sit", {"priority_trim": 0.01}, {"alpha": (0.2, 2.0, 5.0), "beta": (0.1, 1.0, 10.0)}
        ),
    },
    "smax": {
        "ICQ, advantages": Column("icq", grid={"beta_actor": (0.1, 1.0, 10.0)}),
        "SIT, advantages": Column(
            "sit",
            {"priority_trim": 0.01, "actor_weight": "advantage"},
            {"alpha": (0.2, 2.0), "beta": (0.1, 1.0)},
        ),
    },
}
SEARCH_SEEDS = (10, 11)
ABLATIONS = SIT | {
    "w/o decomposition": Column("sit", {"decomposition": "none"}),
    "critic on team reward": Column("sit", {"critic_reward": "team"}),
    "w/o attention": Column("sit", {"decomposition": "sum"}),
    "w/o ensemble": Column("sit", {"members": 1}),
    "w/o GAT": Column("sit", {"gat": "none"}),
    "mean for GAT": Column("sit", {"gat": "mean"}),
    "advantages": Column("sit", {"actor_weight": "advantage"}),
}
PRIORITY = SIT | {"w/o priority": Column("sit", {"alpha": UNIFORM})}
MNC = SIT | {"MNC": Column("sit", {"decomposition": "monotonic"})}
EXCHANGE = {"ICQ": COLUMNS["ICQ"], "ICQ, exchange": COLUMNS["ICQ"]}
SWEEPS = {  # Figure 8; its points can't be read
    "alpha": (0.02, 0.2, 2.0, UNIFORM),
    "beta": (0.01, 0.1, 1.0, 10.0),
    "eta": (0.01, 0.1, 1.0, 10.0),
}
MAPS = {
    "smax": (
        "smax-x/2s_vs_1sc",
        "smax/3s_vs_5z",
        "smax/2s3z",
        "smax/8m",
        "smax-x/1c3s5z",
        "smax/10m_vs_11m",
    ),
    "mpe": ("mpe/CN_3ls3l", "mpe/CN_4ls4l", "mpe/PP_3p1p"),
    "mamujoco": ("mamujoco/HalfCheetah_2l", "mamujoco/Walker_2l"),
}
QUALITIES = ("low", "medium")


def label(scenario: str) -> str:
    """The paper's name of a map."""
    return scenario.rpartition("/")[2]


def _imbalanced(scenario: str) -> dict[str, str]:
    """task -> label of both datasets of a map."""
    return {
        f"{scenario}/imbalanced-{quality}": f"{label(scenario)} {quality}" for quality in QUALITIES
    }


_CN = _imbalanced("mpe/CN_3ls3l")
# 3m is not one of the paper's maps, and composed like its 3s_vs_5z: battles of 3m are so short that
# minutes suffice.
_BATTLES = {
    "smax/2s3z/imbalanced-medium": "2s3z medium",
    "smax/3m/mix=[r r e]": "3m medium",
    "smax/3m/mix=50%[r r r]+50%[r r m]": "3m low",
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """A fit of rewards alone, and the maps of the table, of ablations, of the claim and its
    search.
    """

    fit: credit.Settings
    maps: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=lambda: MAPS)
    ablated: str = "smax/2s3z"
    motivation: str = "smax/3s_vs_5z"
    claimed: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {**_CN, **_imbalanced("smax/2s3z")}
    )


# `full` is Tables 10 and 11. `cpu`: fewer updates, larger steps for the decomposition, 3 seeds; in
# battles, whose episodes are much shorter than the limit, it is fitted to single steps. Policies
# are evaluated by their modes, but in battles by sampling, as the levels of the policies that made
# the data are of policies that sample: by its mode a clone of them can be much better.
_SMOKE = {
    "hidden": 8,
    "critic_hidden": 8,
    "decomposition_hidden": 8,
    "embed": 4,
    "steps": 4,
    "batch_size": 4,
    "window": -1,
}
_CPU = {
    "steps": 3000,
    "decomposition_steps": 3000,
    "decomposition_lr": 1e-3,
    "hidden": 64,
    "batch_size": 32,
    "window": -1,
}
_RECURRENT = {"recurrent": True}
# Table 11 holds for all methods: recurrent policies of width 64, batches of 32 episodes, 15,000
# updates.
_FULL = {"steps": 15000, "hidden": 64, "batch_size": 32, "window": -1}
_OWN = dict.fromkeys(("bc", "qmix", "bcq", "macql", "icq"), _RECURRENT)
# the continuous forms of MABCQ and MACQL have no memory
_ROBOTS = dict.fromkeys(("bc", "facmac", "icq"), _RECURRENT)


_FEW = {"sit": {"decomposition_steps": 4, "members": 2}}


def _sizes(own: Mapping[str, Mapping[str, Any]], cpu: Size, *, sampled: bool) -> dict[str, Size]:
    """The three sizes of a kind of map; own: of the recurrent methods."""
    tiny = {"seeds": 2, "evaluations": 1, "eval_episodes": 2, "data_episodes": 16}
    return {
        "smoke": Size(_SMOKE, {**own, **_FEW}, sampled=sampled, **tiny),
        "cpu": dataclasses.replace(cpu, own=own, sampled=sampled),
        "full": Size(_FULL, own, evaluations=30, sampled=sampled),
    }


_ON_BATTLES = Size(
    _CPU | {"steps": 600, "decomposition_batch": 512},
    seeds=3,
    evaluations=5,
    eval_episodes=100,
    data_episodes=5000,
)
_ON_PARTICLES = Size(_CPU, seeds=3, evaluations=6, data_episodes=5000)
_ON_ROBOTS = Size(
    _CPU | {"steps": 1000}, seeds=3, evaluations=5, eval_episodes=8, data_episodes=1000
)
SIZES = {
    "smax": _sizes(_OWN, _ON_BATTLES, sampled=True),
    "mpe": _sizes(_OWN, _ON_PARTICLES, sampled=False),
    "mamujoco": _sizes(_ROBOTS, _ON_ROBOTS, sampled=False),
}
SCALES = {
    "smoke": Scale(
        credit.Settings(steps=8, members=2, hidden=8),
        maps={"mpe": ("mpe/CN_3ls3l",)},
        ablated="mpe/CN_3ls3l",
        motivation="mpe/CN_3ls3l",
        claimed=_CN,
    ),
    "cpu": Scale(
        credit.Settings(steps=4000, lr=5e-4),
        maps={"smax": ("smax/3s_vs_5z", "smax/2s3z", "smax/8m"), "mpe": MAPS["mpe"]},
        claimed=_CN | _BATTLES,
    ),
    "full": Scale(credit.Settings()),
}


def columns_of(scenario: str) -> dict[str, Column]:
    """The methods that can be run there."""
    return CONTINUOUS if kind_of(scenario) == "mamujoco" else COLUMNS | TUNED


def tasks_of(kind: str, quality: str, scale: str) -> tuple[dict[str, str], list[str]]:
    """(task -> label of the maps of a kind at a scale, those whose policies don't come with the
    library and aren't run).
    """
    maps = SCALES[scale].maps.get(kind, ())
    have = [name for name in maps if pools.has(name)]
    return {f"{name}/imbalanced-{quality}": f"{label(name)} {quality}" for name in have}, [
        name for name in maps if name not in have
    ]


def specs(
    tasks: Iterable[str], columns: Mapping[str, Column] | None, scale: str
) -> list[TrainSpec]:
    """The training jobs of a table; columns: None is all that can be run on a task."""
    return [
        SIZES[kind_of(task)][scale].spec(task, name, column)
        for task in tasks
        for name, column in (columns_of(task) if columns is None else columns).items()
    ]


def search_specs(tasks: Iterable[str], scale: str) -> list[TrainSpec]:
    """Every point of the search, on seeds of its own."""
    found = [spec for task in tasks for spec in specs([task], SEARCH[kind_of(task)], scale)]
    return [dataclasses.replace(spec, seeds=SEARCH_SEEDS) for spec in found]


def exchanging(task: str, scale: str) -> Callable[[TrainSpec], Episodes]:
    """The data of Figure 1 (f): as they are, and, for its second column, with agents of a type
    exchanging what they saw and did at every step.
    """
    return functools.partial(_exchanging, task, scale)


def _exchanging(task: str, scale: str, spec: TrainSpec) -> Episodes:
    return _both(task, scale)["exchange" in spec.label]


@functools.lru_cache(maxsize=1)
def _both(task: str, scale: str) -> tuple[Episodes, Episodes]:
    """The episodes of a task, and those with agents exchanged."""
    episodes, spec = data_of(task, scale), registry.make_spec(task)
    return episodes, exchanged(episodes, spec.agent_types or (0,) * spec.num_agents)


def data_of(task: str, scale: str) -> Episodes:
    """The dataset of a task at a scale."""
    return registry.make_data(task, DataOptions(episodes=SIZES[kind_of(task)][scale].data_episodes))


def exchanged(episodes: Episodes, types: Sequence[int], seed: int = 0) -> Episodes:
    """Observations, available actions and actions of agents of one type in a random order at every
    step; the rest as it is.
    """
    rng = np.random.default_rng(seed)
    count, slots, n = np.asarray(episodes.obs).shape[:3]
    order = np.broadcast_to(np.arange(n), (count, slots, n)).copy()
    for kind in set(types):
        own = np.flatnonzero(np.asarray(types) == kind)
        order[..., own] = own[np.argsort(rng.random((count, slots, len(own))), -1)]
    pick = lambda x, index: np.take_along_axis(
        np.asarray(x), index.reshape(*index.shape, *[1] * (np.ndim(x) - 3)), 2
    )
    return episodes._replace(
        obs=pick(episodes.obs, order),
        avail=pick(episodes.avail, order),
        actions=pick(episodes.actions, order[:, :-1]),
    )
