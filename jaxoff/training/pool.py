"""From a training run to a pool: choose snapshots, measure their returns, and name their levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxoff import registry, runtime
from jaxoff.config import check_number, config_fields, resolve_config
from jaxoff.data import pools
from jaxoff.data.pools import LEVELS, Member, Pool, level_of
from jaxoff.data.recipes import random_policy
from jaxoff.data.worlds import check_pooled
from jaxoff.errors import InvalidSetting
from jaxoff.eval.rollout import evaluate
from jaxoff.names import Task
from jaxoff.training.on_policy import OnPolicy, Snapshot, train_on_policy
from jaxoff.types import Env

# environment steps with which the return of each kept policy is measured, in 64 to 512 episodes,
# and with which that of each snapshot is, in 16 to 128
MEASURED, LOOKED_AT = 100_000, 32_000


def train_pool(
    name: str,
    path: Path,
    *,
    method: str = "mappo",
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    tell: Callable[[Snapshot, int], None] | None = None,
) -> Pool:
    """Train the behaviour policies of `family/scenario` and write them as a pool file.

    method: the online method. overrides: values of fields of its Config, which replace its settings
    for the task. tell(snapshot, total environment steps) is called after each snapshot. A training
    that was killed continues from its last snapshot, which is kept beside `path`.
    """
    check_number("seed", seed)
    world = check_pooled(name)
    task, module = Task.parse(f"{name}/pool"), registry.online_learner(method)
    env, config = world.env(), resolve_config(module, task, overrides or {})
    learner = module.make(config, env.spec, getattr(env, "script", None))
    actors = module.actors(config, env.spec)
    resume = path.with_name(f".{path.stem}.unfinished.npz")
    easier = world.easier() if world.easier else None
    options: dict[str, int] = {
        name: getattr(config, name) for name in ("num_envs", "segment", "iterations", "snapshots")
    }
    options["eval_episodes"] = max(16, min(128, LOOKED_AT // env.spec.horizon))
    total = config.iterations * config.segment * config.num_envs
    pool = build(
        env,
        learner,
        train_on_policy(
            learner,
            env,
            seed=seed,
            easier=easier,
            easier_share=world.easier_share,
            resume=resume,
            **options,
        ),
        cuts=world.cuts,
        medium=world.medium,
        net={"hidden": config.hidden, "recurrent": actors.recurrent, "units": actors.units},
        noise=float(config.noise),
        made={
            "command": " ".join(
                [
                    "jaxoff data pool",
                    name,
                    *([] if method == "mappo" else [f"--method {method}"]),
                    f"--seed {seed}",
                    *(f"--set {k}={v}" for k, v in (overrides or {}).items()),
                ]
            ),
            "seed": seed,
            "method": method,
            **({"easier": {easier.spec.name: world.easier_share}} if easier else {}),
            "config": {
                field: np.asarray(getattr(config, field)).item()
                for field in config_fields(module.Config)
            },
            "commit": runtime.git_commit(),
            "hardware": runtime.hardware(),
            "versions": runtime.versions(),
        },
        episodes=max(64, min(512, MEASURED // env.spec.horizon)),
        tell=lambda snapshot: tell(snapshot, total) if tell else None,
    )
    pools.save(path, pool)
    resume.unlink(missing_ok=True)
    return pool


def build(
    env: Env,
    learner: OnPolicy,
    snapshots: Iterable[Snapshot],
    *,
    cuts: tuple[float, float],
    medium: float,
    net: dict[str, Any],
    noise: float,
    made: dict[str, Any],
    episodes: int = 512,
    per_level: int = 3,
    replay: int = 8,
    tell: Callable[[Snapshot], None] | None = None,
) -> Pool:
    """Build a pool: train to the end of `snapshots`, choose some, and measure their returns.

    Parameters are rounded to half precision before they are measured. cuts: shares of [random,
    best] at which levels begin (SIT, Table 4-6: .3 and .7 for SMAC and particle worlds, 1/3 and 2/3
    for MAMuJoCo). medium: the share of [random, best] at which the medium policy of a dataset lies;
    training up to there makes medium-replay. made: how the pool is made, to which the returns of
    all snapshots are added. Raises InvalidSetting if training never got above the random policy's
    return.
    """
    taken = []
    for snapshot in snapshots:
        taken.append(snapshot)
        if tell:
            tell(snapshot)
    evaluate_now = jax.jit(
        lambda actor, key: evaluate(env, learner.policy_of(actor), key, episodes, sampled=True)
    )
    key = jax.random.key(made["seed"])
    by_chance = jax.jit(
        lambda key: evaluate(env, random_policy(env.spec), key, 4 * episodes, sampled=True)[
            "returns"
        ].mean()
    )
    low = float(by_chance(key))
    rough = [float(snapshot.evaluation["returns"].mean()) for snapshot in taken]
    kept, replayed = choose(rough, low, cuts, medium, per_level, replay)
    actors = [
        jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), taken[k].actor)
        for k in kept
    ]
    results = [jax.device_get(evaluate_now(actor, key)) for actor in actors]
    means = [float(result["returns"].mean()) for result in results]
    _check_above(max(means), low)
    members = [
        Member(
            env_steps=taken[k].env_steps,
            return_mean=mean,
            return_std=float(result["returns"].std()),
            win_rate=float(result["won"].mean()) if "won" in result else None,
            level=level_of(mean, low, max(means), cuts),
            replay=k in replayed,
        )
        for k, mean, result in zip(kept, means, results, strict=True)
    ]
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *actors)
    curve = [
        {"env_steps": one.env_steps, "cpu_minutes": round(one.cpu_s / 60, 2), "return_mean": mean}
        for one, mean in zip(taken, rough, strict=True)
    ]
    made = made | {"curve": curve}
    return Pool(env.spec.name, net, noise, params, tuple(members), low, cuts, episodes, made)


def choose(
    returns: Sequence[float],
    low: float,
    cuts: tuple[float, float],
    medium: float,
    per_level: int,
    replay: int,
) -> tuple[list[int], list[int]]:
    """Numbers of the snapshots to keep, in order of training, and of those for medium-replay.

    Kept are: of each level `per_level` snapshots, spread evenly; the untrained one; the one nearest
    to the share `medium` of [low, best]; the best; and those for medium-replay. Medium-replay uses
    `replay` snapshots, spread evenly from the first one to the first that reaches that share.
    """
    high = max(returns)
    _check_above(high, low)
    target = low + medium * (high - low)
    kept = {0, int(np.argmax(returns)), int(np.argmin(np.abs(np.array(returns) - target)))}
    levels = [level_of(value, low, high, cuts) for value in returns]
    for level in LEVELS:
        kept |= set(_spread([k for k, found in enumerate(levels) if found == level], per_level))
    reached = next(k for k, value in enumerate(returns) if value >= target)
    replayed = _spread(range(reached + 1), replay)
    return sorted(kept | set(replayed)), replayed


def _check_above(high: float, low: float) -> None:
    if high <= low:
        raise InvalidSetting(
            f"pool: expected training to get above the random policy's return {low:.2f}, "
            f"found at best {high:.2f}"
        )


def _spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spread from the first to the last."""
    index = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in index]
