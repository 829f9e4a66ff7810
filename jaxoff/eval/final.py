"""Evaluation of a trained policy with many episodes, on whichever simulator its task has."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jaxoff.config import check_number
from jaxoff.errors import InvalidSetting
from jaxoff.eval.rollout import evaluate
from jaxoff.eval.statistics import normalised
from jaxoff.types import Env, Policy


def evaluate_policy(
    env: Env,
    policy: Policy,
    episodes: int = 100,
    seed: int = 0,
    *,
    sampled: bool = False,
    processes: int | None = None,
) -> dict[str, Any]:
    """Play `episodes` episodes of a policy, in jit or on a simulator on the host.

    The host is used for an environment without steps whose field `host` names a simulator. sampled:
    draw actions from the policy, else take its mode. Returns plain numbers: simulator, episodes,
    return_mean, return_std, return_sem; score and win_rate where they are known; returns, a list.
    Raises InvalidSetting for a number out of range, and where there is no simulator for the
    environment.
    """
    check_number("seed", seed)
    check_number("episodes", episodes)
    host: tuple[Any, ...] = getattr(env, "host", ())
    if hasattr(env, "step"):
        simulator = env.spec.name
        found = jax.jit(lambda key: evaluate(env, policy, key, episodes, sampled=sampled))(
            jax.random.key(seed)
        )
    elif host:
        from jaxoff.eval.host import evaluate_host, make_host

        simulator = f"{host[0]} on the host"
        found = evaluate_host(
            policy, make_host(*host, spec=env.spec), episodes, seed, processes, sampled
        )
    else:
        raise no_simulator(env)
    return summary(env, simulator, found)


def no_simulator(env: Any) -> InvalidSetting:
    """The error for an environment that cannot be played."""
    about = getattr(env, "about", "none")
    return InvalidSetting(
        f"{env.spec.name}: expected an environment with a simulator, found {about}"
    )


def summary(env: Env, simulator: str, found: dict[str, Any]) -> dict[str, Any]:
    """The result of `evaluate_policy` from the arrays [E] of the episodes that were played."""
    returns = np.asarray(found["returns"], np.float64)
    episodes = len(returns)
    out: dict[str, Any] = {
        "simulator": simulator,
        "episodes": episodes,
        "return_mean": float(returns.mean()),
    }
    out |= {
        "return_std": float(returns.std()),
        # of one episode nothing is known
        "return_sem": float(returns.std(ddof=1) / np.sqrt(episodes)) if episodes > 1 else math.nan,
    }
    if env.spec.return_scale is not None:
        out["score"] = float(normalised(out["return_mean"], env.spec.return_scale))
    if "won" in found:
        out["win_rate"] = float(np.mean(found["won"]))
    return out | {"returns": returns.tolist()}
