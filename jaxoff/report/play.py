"""One episode of a policy, as arrays and as a GIF."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxoff.config import check_number
from jaxoff.envs.base import GridPicture, ScenePicture
from jaxoff.eval.final import no_simulator
from jaxoff.eval.rollout import rollout
from jaxoff.report.gif import grid_gif
from jaxoff.report.scene import scene_gif
from jaxoff.types import Env, Policy


class Episode(NamedTuple):
    """state [T+1, S], actions [T, N] or [T, N, A], reward [T] of one episode of T steps."""

    state: np.ndarray
    actions: np.ndarray
    reward: np.ndarray


def episode_of(env: Env, policy: Policy, seed: int, *, sampled: bool) -> Episode:
    """Play one episode to its end. Raises InvalidSetting where there is no simulator in jit."""
    check_number("seed", seed)
    if not hasattr(env, "step"):
        raise no_simulator(env)
    trace = jax.jit(lambda key: rollout(env, policy, key, 1, sampled=sampled))(jax.random.key(seed))
    length = int(np.sum(trace.alive[:, 0]))
    state = np.concatenate(
        [np.asarray(trace.before.state[:1, 0]), np.asarray(trace.after.state[:length, 0])]
    )
    return Episode(
        state, np.asarray(trace.actions[:length, 0]), np.asarray(trace.after.reward[:length, 0])
    )


def write_gif(env: Env, episode: Episode, path: Path, text: str = "") -> Path | None:
    """Write an episode as a GIF; None if the environment has no `picture` that says how."""
    picture = getattr(env, "picture", None)
    state, reward = episode.state, episode.reward
    if isinstance(picture, GridPicture):
        return grid_gif(picture.positions(state), picture.walls, picture.goals, path, reward, text)
    if isinstance(picture, ScenePicture):
        health = None if picture.health is None else picture.health(state)
        points = picture.positions(state)
        return scene_gif(
            points,
            picture.kinds,
            picture.radii,
            path,
            reward,
            text,
            health=health,
            walls=picture.walls,
            bounds=picture.bounds,
            shots=None if picture.shots is None else picture.shots(state),
            result=result_of(env, picture, state[-1:]),
        )
    return None


def result_of(env: Env, picture: ScenePicture, last: np.ndarray) -> str:
    """Who has won a battle, by its last global state [1, S]; "" for what is no battle."""
    won = getattr(env, "won", None)
    if won is None or picture.health is None or "enemy" not in picture.kinds:
        return ""
    if bool(np.asarray(won(last))[0]):
        return "allies won"
    alive = {
        kind for kind, left in zip(picture.kinds, picture.health(last)[0] > 0, strict=True) if left
    }
    if alive >= {"ally", "enemy"}:
        return "time ran out"
    return "enemies won" if "enemy" in alive else "all are dead"


def episode_gif(
    env: Env, policy: Policy, seed: int, path: str | Path, sampled: bool = True
) -> Path | None:
    """Play one episode and write it as a GIF; None if the environment cannot be drawn.

    The GIF shows the environment's name. sampled: draw actions from the policy, else take its mode.
    """
    return write_gif(env, episode_of(env, policy, seed, sampled=sampled), Path(path), env.spec.name)
