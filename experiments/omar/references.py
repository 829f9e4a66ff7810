"""Reference returns of the particle games, measured here: uniformly random actions, and the best
policy of the pool.

They stand beside the authors' (`EnvSpec.return_scale`), whose experts, and whose prey in tag and
world, are not ours.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxoff.experiments.paper import below

from jaxoff import registry
from jaxoff.data import pools
from jaxoff.data.recipes import random_policy
from jaxoff.eval.rollout import evaluate
from jaxoff.files import write_text
from jaxoff.types import ReturnScale

FILE = Path(__file__).with_name("references.csv")
SEEDS, EPISODES = 5, 2000
FIELDS = (
    "task",
    "random",
    "random_se",
    "expert",
    "expert_se",
    "seeds",
    "episodes",
    "public_random",
    "public_expert",
)


class Reference(NamedTuple):
    """Mean returns, their standard errors over all episodes, and the public ones beside them."""

    task: str
    random: float
    random_se: float
    expert: float
    expert_se: float
    seeds: int
    episodes: int  # of each seed
    public_random: float
    public_expert: float


def measure(name: str, seeds: int = SEEDS, episodes: int = EPISODES) -> Reference:
    """Play both policies of `family/scenario`; the expert plays its mode, without the noise that
    data are made with.
    """
    env = registry.make_env(f"{name}/expert")
    pool = pools.load(pools.path_of(name), env.spec)
    best = int(np.argmax([member.return_mean for member in pool.members]))
    found = []
    for policy, sampled in (
        (random_policy(env.spec), True),
        (pools.mixture(pool, env.spec, (best,)), False),
    ):
        play = jax.jit(
            lambda key, policy=policy, sampled=sampled: evaluate(
                env, policy, key, episodes, sampled=sampled
            )["returns"]
        )
        returns = np.concatenate(
            [np.asarray(play(jax.random.key(1000 + seed)), np.float64) for seed in range(seeds)]
        )
        found += [float(returns.mean()), float(returns.std(ddof=1) / np.sqrt(returns.size))]
    public = env.spec.return_scale
    low, high = (public.low, public.high) if public else (float("nan"), float("nan"))
    return Reference(name, found[0], found[1], found[2], found[3], seeds, episodes, low, high)


def write(rows: list[Reference], file: Path) -> Path:
    """The table as a CSV file with a line of how it came about."""
    about = "; ".join(below(seeds="from 1000 on"))
    lines = [
        f"# {about}",
        ",".join(FIELDS),
        *(",".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in row) for row in rows),
    ]
    return write_text(file, "\n".join(lines) + "\n")


def read(file: Path = FILE) -> dict[str, ReturnScale]:
    """family/scenario -> our own scale, from a file that `write` made; {} if there is none."""
    if not file.is_file():
        return {}
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    return {
        row["task"]: ReturnScale(
            float(row["random"]),
            float(row["expert"]),
            f"measured, {row['seeds']} x {row['episodes']} episodes",
        )
        for row in csv.DictReader(lines)
    }
