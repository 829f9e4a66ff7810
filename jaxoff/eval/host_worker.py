"""The process that steps simulators for `jaxoff.eval.host`. Run as a file; it imports neither JAX nor jaxoff.

Messages are pairs (what, content) over a pipe; each is answered by ("ok", content) or ("error", text).

    make   (gymnasium id, keyword arguments, number of environments)
    reset  [(index, seed, [qpos, qvel] or None), ...]  -> [K, Q]: [qpos, qvel] of each
    step   (indices [K], controls [K, U])              -> [K, Q], rewards [K], terminated [K], truncated [K]
"""

from __future__ import annotations

import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


class Simulators:
    """Several gymnasium environments on MuJoCo."""

    def make(self, content: tuple[str, dict[str, Any], int]) -> None:
        """Start them; 'module:id' imports the module first."""
        import gymnasium

        name, kwargs, count = content
        self.envs = [gymnasium.make(name, disable_env_checker=True, **kwargs) for _ in range(count)]

    def reset(self, content: list[tuple[int, int, np.ndarray | None]]) -> np.ndarray:
        """Start an episode in some, at a given [qpos, qvel] if there is one."""
        for index, seed, start in content:
            self.envs[index].reset(seed=seed)
            if start is not None:
                robot = self._robot(index)
                robot.set_state(start[: robot.model.nq], start[robot.model.nq :])
        return np.stack([self._state(index) for index, _, _ in content])

    def step(self, content: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
        """One step of some."""
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


def serve(connection: Connection) -> None:
    """Answer until the other side hangs up."""
    simulators = Simulators()
    while True:
        try:
            connection.send(_answer(simulators, *connection.recv()))
        except (EOFError, OSError):
            return


def _answer(simulators: Simulators, what: str, content: Any) -> tuple[str, Any]:
    try:
        return "ok", getattr(simulators, what)(content)
    except Exception:  # told to the other side, which raises it there
        return "error", traceback.format_exc()


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
