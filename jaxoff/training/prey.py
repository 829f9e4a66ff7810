"""Training of the prey of OMAR's tag and world, in turns with predators that hunt it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxoff import registry
from jaxoff.config import check_number, resolve_config
from jaxoff.envs.mpe.omar import make_prey_env, make_tag, make_world
from jaxoff.envs.mpe.prey import plain_prey, save_prey
from jaxoff.names import Task, unknown
from jaxoff.nets.actors import Actors
from jaxoff.training.on_policy import Snapshot, train_on_policy
from jaxoff.types import Array, Env, EnvSpec, Params, TimeStep

_MAKERS = {"tag": make_tag, "world": make_world}


def train_prey(
    world: str,
    path: Path,
    *,
    seed: int = 0,
    rounds: int = 3,
    overrides: Mapping[str, Any] | None = None,
    tell: Callable[[str, float], None] | None = None,
) -> Path:
    """Train a prey for `tag` or `world` with MAPPO and write it to `path` (.npz).

    Each round trains new predators against the prey of the previous round (in the first round, a
    random prey), and then a new prey against these predators. tell(who, mean return) is called
    after each training. Raises UnknownName, or InvalidSetting for a number out of range.
    """
    if world not in _MAKERS:
        raise unknown("world", world, _MAKERS)
    check_number("seed", seed)
    check_number("rounds", rounds)
    prey = "random"
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            env = _MAKERS[world](prey)
            params, snapshot = _trained(env, f"mpe/{world}", seed + 2 * turn, overrides)
            if tell:
                tell(f"round {turn + 1}: predators", float(snapshot.evaluation["returns"].mean()))
            prey_env = make_prey_env(world, _predators(env.spec, *params))
            (_, actor), snapshot = _trained(
                prey_env, f"mpe/{world}-prey", seed + 2 * turn + 1, overrides
            )
            if tell:
                tell(f"round {turn + 1}: prey", float(snapshot.evaluation["returns"].mean()))
            found = plain_prey(_layers(actor))
            prey = str(save_prey(Path(folder) / f"{turn}.npz", found))
    return save_prey(path, found)


def _trained(
    env: Env, name: str, seed: int, overrides: Mapping[str, Any] | None
) -> tuple[tuple[Actors, Params], Snapshot]:
    """Train with MAPPO: the actor with its parameters, and the last snapshot."""
    module = registry.online_learner("mappo")
    config = resolve_config(
        module, Task.parse(f"{name}/prey"), {"snapshots": 1, **(overrides or {})}
    )
    sizes = {
        field: getattr(config, field)
        for field in ("num_envs", "segment", "iterations", "snapshots")
    }
    *_, last = train_on_policy(
        module.make(config, env.spec), env, seed=seed, eval_episodes=256, **sizes
    )
    return (module.actors(config, env.spec), last.actor), last


def _predators(spec: EnvSpec, net: Actors, params: Params) -> Callable[[Array], Array]:
    """The predators' policy as a function from observations [3, O] to actions [3, 2], no noise."""
    nothing: Any = None
    return lambda obs: net.policy(params).distribution((), TimeStep(obs, *[nothing] * 6))[1].mode()


def _layers(actor: Params) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of the network of a single agent.

    The agent's index is a constant input of one, whose weights are added to the first bias.
    """
    layers = [
        (np.asarray(layer["kernel"]), np.asarray(layer["bias"]))
        for _, layer in sorted(actor["params"].items())
    ]
    weight, bias = layers[0]
    return [(weight[:-1], bias + weight[-1]), *layers[1:]]
