"""What is run for InSPO (Liu et al., 2025): columns, tasks, and how large at each scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from jaxoff.experiments import paper
from jaxoff.experiments.paper import Column, kind_of, tuned

from jaxoff.training import TrainSpec

# The paper's columns, in its order, then the further value methods.
PAPER_COLUMNS = {
    "BC": Column("bc"),
    "OMAR": Column("omar"),
    "AlberDICE": Column("alberdice"),
    "CFCQL": Column("cfcql"),
    "OMIGA": Column("omiga"),
    "InSPO": Column("inspo"),
}
COLUMNS = PAPER_COLUMNS | {
    "QMIX": Column("qmix"),
    "MACQL": Column("macql"),
    "MABCQ": Column("bcq"),
    "ICQ": Column("icq"),
}
INSPO = {"InSPO": COLUMNS["InSPO"]}
ENTROPY = {
    "InSPO w/o entropy": Column("inspo", {"beta_start": 0.0}),
    "InSPO, alpha 1": Column("inspo", {"alpha": 1.0}),
    "InSPO w/o entropy, alpha 1": Column("inspo", {"beta_start": 0.0, "alpha": 1.0}),
}
SEQUENTIAL = {
    "InSPO w/o SPO": Column("inspo", {"spo": "off_rho1"}),
    "InSPO, stale teammates": Column("inspo", {"spo": "off_stale"}),
}
# as in Table 4
SMAX_COLUMNS = {name: column for name, column in PAPER_COLUMNS.items() if name != "AlberDICE"}
ALPHAS = {"auto": Column("inspo")} | {
    f"alpha {value:g}": Column("inspo", {"auto_alpha": False, "alpha": value})
    for value in (0.1, 1.0, 5.0, 10.0)
}
ORDERS = {order: Column("inspo", {"order": order}) for order in ("random", "fixed", "semi-greedy")}
TIMED = {name: PAPER_COLUMNS[name] for name in ("CFCQL", "InSPO")}

# an outcome there is all or nothing, and five seeds say little of how often it is which
XOR_SEEDS = 16
XOR = {f"matrix/xor/{quality}": f"({quality})" for quality in "abcd"}
MNE = {
    f"matrix/{game}/{quality}": f"{quality}, x = {offdiag}"
    for game, offdiag in (("mne", "0"), ("mne-20", "-20"))
    for quality in ("balanced", "imbalanced", "imbalanced-0.9", "imbalanced-0.98")
}
BRIDGE = {"grid/bridge/optimal": "optimal", "grid/bridge/mixed": "mixed"}
MAPS = ("2s3z", "3s_vs_5z", "5m_vs_6m", "6h_vs_8z")
QUALITIES = ("medium", "medium-replay", "expert", "mixed")


@dataclasses.dataclass(frozen=True)
class Size(paper.Size):
    """How large jobs are, and on battles which maps and qualities there are.

    The paper has 5 seeds and 32 episodes of evaluation. It evaluates stochastic policies on games,
    their modes on battles.
    """

    maps: tuple[str, ...] = MAPS
    qualities: tuple[str, ...] = QUALITIES


# `full` is the methods' own settings. `cpu` has narrower nets and fewer, larger steps; InSPO's were
# chosen on imbalanced M-NE and mixed Bridge (Bridge's alpha, M-NE's polyak and batch on seeds
# 10-14, lr and Bridge's polyak on seeds 0-4, which the tables have too). The coefficients that the
# paper tunes are tuned for every method alike: see `tuning`.
_SMOKE = {"hidden": 8, "critic_hidden": 8, "steps": 20, "batch_size": 32}
_BEHAVIOUR = {name: {"behaviour_steps": 10} for name in ("inspo", "cfcql")}
_MATRIX = {"hidden": 32, "critic_hidden": 32, "steps": 2000, "batch_size": 512, "lr": 1e-3}
_GRID = {"hidden": 64, "critic_hidden": 64, "steps": 8000, "batch_size": 256, "lr": 1e-3}
# about as many steps as 256 single ones
_EPISODES = {"window": -1, "batch_size": 16}
SIZES: dict[str, dict[str, Size]] = {
    "matrix": {
        "smoke": Size(_SMOKE, _BEHAVIOUR, evaluations=2),
        "cpu": Size(
            _MATRIX,
            {
                "bc": {"steps": 1000},
                "inspo": {"steps": 2500, "behaviour_steps": 1000, "polyak": 0.02},
            },
        ),
        "full": Size(),
    },
    "grid": {
        "smoke": Size(_SMOKE, _BEHAVIOUR, evaluations=2),
        "cpu": Size(
            _GRID,
            {
                "bc": {"steps": 4000},
                "inspo": {"behaviour_steps": 2000, "polyak": 0.02, "alpha": 0.02, "window": 0},
                "alberdice": {"window": 0},
                **dict.fromkeys(("omar", "cfcql", "qmix", "macql", "bcq", "icq"), _EPISODES),
            },
        ),
        "full": Size(),
    },
    "smax": {
        "smoke": Size(
            {"hidden": 8, "steps": 4, "batch_size": 4},
            {name: {"behaviour_steps": 4} for name in ("inspo", "cfcql")},
            seeds=2,
            evaluations=1,
            eval_episodes=2,
            data_episodes=16,
            sampled=False,
            maps=("3s_vs_5z",),
            qualities=("medium",),
        ),
        "cpu": Size(
            {"steps": 1000, "batch_size": 32},
            {"inspo": {"behaviour_steps": 500, "hidden": 64}, "cfcql": {"behaviour_steps": 500}},
            seeds=3,
            evaluations=5,
            data_episodes=1000,
            sampled=False,
            maps=("2s3z",),
        ),
        "full": Size(sampled=False),
    },
}


def specs(
    tasks: Iterable[str], columns: Mapping[str, Column], scale: str, *, use_tuned: bool = True
) -> list[TrainSpec]:
    """The training jobs of a table; scale cpu has the coefficients of tuned.toml."""
    found = []
    for task in tasks:
        size = SIZES[kind_of(task)][scale]
        if task in XOR and scale != "smoke":
            size = dataclasses.replace(size, seeds=XOR_SEEDS)
        for label, column in columns.items():
            chosen = tuned("inspo", column.method, task) if scale == "cpu" and use_tuned else {}
            found.append(size.spec(task, label, column, chosen))
    return found
