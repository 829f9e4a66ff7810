"""What is run for YANHUI (Meng et al., 2024): maps, proportions of poor data, columns, and how
large at each scale.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping

from jaxoff.experiments import paper
from jaxoff.experiments.paper import Column

from jaxoff import registry
from jaxoff.data.episodes import lengths_of
from jaxoff.training import TrainSpec

SCENARIOS = {
    "3m": "smax/3m",
    "3s_vs_5z": "smax/3s_vs_5z",
    "corridor": "smax-x/corridor",
    "MMM2": "smax-x/MMM2",
}
CONTEXT = {"mode": "state_action", "window": 20}
YANHUI, MADT, BC = {"YANHUI": Column("yanhui")}, {"MADT": Column("madt")}, {"BC": Column("bc")}
# The paper's columns, in its order.
PAPER_COLUMNS = (
    {"BCQ": Column("bcq"), "CQL": Column("macql"), "ICQ": Column("icq")} | BC | MADT | YANHUI
)
# What the paper does not report: memory on both sides, returns to go, and its own remark on
# rejection sampling.
CONTROLS = {
    "BC-MLP": Column("bc", {"recurrent": False, "window": 0}),
    "MADT-C20": Column("madt", CONTEXT),
    "MADT-rtg": Column("madt", CONTEXT | {"mode": "rtg_state_action"}),
    "MADT, filtered": Column("madt", {"weighting": "filter"}),
    "MADT, return-weighted": Column("madt", {"weighting": "return"}),
}
COLUMNS = PAPER_COLUMNS | CONTROLS
# Figure 2: the paper's columns, and the controls that see what YANHUI sees, the return of an
# episode.
CURVE_COLUMNS = PAPER_COLUMNS | {
    name: CONTROLS[name] for name in ("MADT, filtered", "MADT, return-weighted")
}
ABLATIONS = YANHUI | {
    "no mixture": Column("yanhui", {"experts": 1}),
    "hard assignment": Column("yanhui", {"soft": False}),
    "no contrast": Column("yanhui", {"contrast": 0.0}),
    "no cross-entropy": Column("yanhui", {"cloning": 0.0}),
}
CLAIM = YANHUI | MADT | BC
PERCENT = (0, 10, 25, 50, 75, 90, 100)
MADT_BATCH, MADT_EPOCHS, LEAST_UPDATES = 128, 100, 10_000


@dataclasses.dataclass(frozen=True)
class Size(paper.Size):
    """How large the jobs are. Actions are the policy's modes, as in the paper.

    maps, percent: what is run of the paper's. episodes, few: of Tables 1 and 2, of Figure 2, where
        updates are fewer in that proportion.
    updates: of every method; 0 is what MADT makes in 100 epochs, at least 10,000.
    own_data: each seed has its own dataset, and is a job of its own.
    contexts: windows of several steps in a batch; 0 is as many as there are of single steps.
    """

    maps: tuple[str, ...] = ("3m",)
    percent: tuple[int, ...] = PERCENT
    episodes: int = 200
    few: int = 40
    updates: int = 0
    own_data: bool = False
    contexts: int = 0


_SMOKE = {"hidden": 8, "batch_size": 4, "anchors": 2, "support": 16}
# One dataset of all seeds, fewer and smaller batches, larger steps; the trunks are the paper's. Its
# 32 episodes of an evaluation leave a standard error of .8 on the return of a seed, hence more.
_CPU = {"lr": 1e-3, "hidden": 64}
_GPT = {"hidden": 32, "batch_size": 32}
_EPISODES = {"batch_size": 4}
SIZES = {
    "smoke": Size(
        _SMOKE,
        seeds=2,
        evaluations=1,
        eval_episodes=2,
        sampled=False,
        percent=(0, 50),
        episodes=8,
        few=4,
        updates=4,
    ),
    "cpu": Size(
        _CPU,
        {"madt": _GPT, "yanhui": _GPT | {"batch_size": 128, "anchors": 32, "support": 384}}
        | dict.fromkeys(("bc", "bcq", "macql", "icq"), _EPISODES),
        evaluations=6,
        eval_episodes=256,
        sampled=False,
        updates=6000,
        contexts=8,
    ),
    "full": Size(sampled=False, maps=tuple(SCENARIOS), own_data=True),
}


def task_of(map_name: str, percent: int, episodes: int) -> str:
    """The dataset of a map with so many percent of poor episodes."""
    return f"{SCENARIOS[map_name]}/wspm-p{percent}-n{episodes}"


@functools.cache
def madt_updates(task: str) -> int:
    """Updates of MADT in 100 epochs, an epoch being as many batches of 128 windows of all agents as
    the data have steps for.
    """
    return MADT_EPOCHS * (int(lengths_of(registry.make_data(task)).sum()) // MADT_BATCH)


def specs(
    tasks: Iterable[str], columns: Mapping[str, Column], scale: str, share: float = 1.0
) -> list[TrainSpec]:
    """The training jobs of a table; a cell is one job of all seeds, or one for each seed with its
    own dataset.

    share: of the updates, where the data are smaller than those of the tables; so that each episode
        is seen as often.
    """
    size, found = SIZES[scale], []
    for task, (label, column) in itertools.product(tasks, columns.items()):
        spec = size.spec(task, label, column)
        config = dict(spec.config)
        if config.get("recurrent") is False:  # single steps: as many as some episodes have
            config["batch_size"] = 16 * config.get("batch_size", MADT_BATCH // 16)
        if config.get("window", 0) > 1 and size.contexts:
            config["batch_size"] = size.contexts
        steps = round(share * size.updates) or max(round(share * LEAST_UPDATES), madt_updates(task))
        spec = dataclasses.replace(spec, config=config, steps=steps)
        found += [
            dataclasses.replace(spec, seeds=seeds, data_seed=seeds[0])
            for seeds in ([(seed,) for seed in spec.seeds] if size.own_data else [spec.seeds])
        ]
    return found
