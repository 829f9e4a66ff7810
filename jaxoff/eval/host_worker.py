"""The process that steps simulators for `jaxoff.eval.host`.

It is run as a file, and imports neither JAX nor jaxoff.

Messages are pairs (what, content) over a pipe. Each is answered by ("ok", content), by ("error",
text), or by ("refused", text) for a problem that the user has to solve.

    make   (kind, name, keyword arguments, a seed for each environment)
    reset  [(index, seed, start [Q] or None), ...]  -> [K, Q]: the numbers read from each simulator
    step   (indices [K], controls [K, U])           -> [K, Q], rewards [K], terminated [K],
                                                       truncated [K]
"""

from __future__ import annotations

import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

GOES_ON = "Training needs no simulator: jobs on public data log their losses without it."


class Refused(Exception):
    """A problem that the user has to solve; its message is shown without a traceback."""


class Robots:
    """Several gymnasium environments on MuJoCo; [qpos, qvel] are read from each."""

    def __init__(self, name: str, kwargs: dict[str, Any], seeds: list[int]) -> None:
        """Make one environment per seed; for a name 'module:id' the module is imported first.

        The seeds themselves are not used, since `reset` has a seed for each episode.
        """
        try:
            import gymnasium

            self.envs = [gymnasium.make(name, disable_env_checker=True, **kwargs) for _ in seeds]
        except Exception as error:
            if isinstance(error, ModuleNotFoundError):
                found = f"no package '{error.name}'"
            elif type(error).__name__ == "DependencyNotInstalled":  # gymnasium's
                found = str(error)
            else:
                raise
            raise Refused(
                f"{name}: expected gymnasium with MuJoCo and its robots, found {found}; run pip "
                f"install 'jaxoff[mujoco]'. {GOES_ON}"
            ) from error

    def reset(self, content: list[tuple[int, int, np.ndarray | None]]) -> np.ndarray:
        """Start an episode in some environments, at a given [qpos, qvel] if there is one."""
        for index, seed, start in content:
            self.envs[index].reset(seed=seed)
            if start is not None:
                robot = self._robot(index)
                robot.set_state(start[: robot.model.nq], start[robot.model.nq :])
        return np.stack([self._state(index) for index, _, _ in content])

    def step(self, content: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Make one step in the environments with the given indices."""
        rows = []
        for index, control in zip(*content, strict=True):
            _, reward, terminated, truncated, _ = self.envs[index].step(control)
            rows.append((self._state(index), reward, terminated, truncated))
        return tuple(np.array(column) for column in zip(*rows, strict=True))

    def _robot(self, index: int) -> Any:
        env = self.envs[index].unwrapped
        return getattr(env, "point_env", env)  # a maze holds its robot

    def _state(self, index: int) -> np.ndarray:
        data = self._robot(index).data
        return np.concatenate([data.qpos, data.qvel])


class Battles:
    """Several games of SMAC on StarCraft II.

    From each, [obs of each agent, state, avail of each agent, won] are read.
    """

    def __init__(self, name: str, kwargs: dict[str, Any], seeds: list[int]) -> None:
        """Make one game per seed.

        kwargs: arguments of SMAC, and `sizes`, the values of SMAC's get_env_info that the policy
        expects.
        """
        try:
            from smac.env import StarCraft2Env
        except ImportError as error:
            raise Refused(
                "smac: expected the package SMAC with its environment "
                "smac.env.StarCraft2Env, found none "
                f"({error}); install it from its authors' repository, "
                "github.com/oxwhirl/smac, and StarCraft II with its maps into the folder that "
                "SC2PATH names. The package called smac on the Python index is a different "
                f"program. {GOES_ON}"
            ) from error
        kwargs = dict(kwargs)
        sizes = kwargs.pop("sizes")
        # Without `continuing_episode`, SMAC does not tell a time limit from a terminal end.
        self.envs = [
            StarCraft2Env(map_name=name, seed=seed, continuing_episode=True, **kwargs)
            for seed in seeds
        ]
        found = self.envs[0].get_env_info()
        for field, size in sizes.items():
            if found[field] != size:
                raise Refused(
                    f"smac/{name}: field '{field}': expected {size}, as the policy was "
                    f"trained with, found {found[field]}"
                )

    def reset(self, content: list[tuple[int, int, np.ndarray | None]]) -> np.ndarray:
        """Start a battle in some games.

        A game is seeded only when it starts, so the seed of the battle is not used.
        """
        try:
            for index, _, _ in content:
                self.envs[index].reset()
        except Exception as error:
            no_map = isinstance(error, ValueError) and "not found" in str(error)  # pysc2's words
            if type(error).__name__ != "SC2LaunchError" and not no_map:
                raise
            kind = "of its maps" if no_map else "that starts"
            raise Refused(
                "smac: expected StarCraft II in the folder that SC2PATH names, found none "
                f"{kind} ({error}); install it there with its maps. {GOES_ON}"
            ) from error
        return np.stack([self._state(index, False) for index, _, _ in content])

    def step(self, content: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Make one step in the environments with the given indices."""
        rows = []
        for index, actions in zip(*content, strict=True):
            reward, ended, info = self.envs[index].step(actions.tolist())
            if "battle_won" not in info:
                raise RuntimeError(
                    "the connection to StarCraft II broke in a battle, whose result is not known"
                )
            limit = bool(info.get("episode_limit", False))
            rows.append(
                (self._state(index, info["battle_won"]), reward, ended and not limit, limit)
            )
        return tuple(np.array(column) for column in zip(*rows, strict=True))

    def _state(self, index: int, won: bool) -> np.ndarray:
        env = self.envs[index]
        parts = (*env.get_obs(), env.get_state(), *env.get_avail_actions(), [won])
        return np.concatenate([np.asarray(part, np.float32).reshape(-1) for part in parts])


KINDS = {"gymnasium": Robots, "smac": Battles}


def serve(connection: Connection) -> None:
    """Answer until the other side hangs up."""
    simulators: Any = None
    while True:
        try:
            what, content = connection.recv()
            try:
                if what == "make":
                    kind, *about = content
                    simulators, answer = KINDS[kind](*about), None
                else:
                    answer = getattr(simulators, what)(content)
                connection.send(("ok", answer))
            except Refused as error:
                connection.send(("refused", str(error)))
            except Exception:  # sent to the other process, which raises it
                connection.send(("error", traceback.format_exc()))
        except (EOFError, OSError):
            break
    for env in getattr(simulators, "envs", ()):
        env.close()  # needed for StarCraft II, which is a separate program


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
