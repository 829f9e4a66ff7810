"""Multi-agent Brax: the same bodies on Brax's own physics, through JaxMARL's MABrax.

The dynamics are not MuJoCo's (and differ between backends, even on whether the walker falls), so
returns cannot be compared with those of D4RL, OMAR or SIT. Brax is no longer developed; `mjx` is
its successor.

Observations follow `layouts` and not JaxMARL's tables, of which halfcheetah_6x1 reads one place too
far (index 17 of 17 values, which JAX clips). The walker's velocities are clipped at 10 in Brax's
observation, and therefore in every layout here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxoff.envs.base import Game, GameEnv
from jaxoff.envs.from_jaxmarl import quiet_import
from jaxoff.envs.mamujoco import layouts
from jaxoff.runtime import needs
from jaxoff.types import Array, Key

BACKENDS = ("spring", "positional", "generalized", "mjx")


class MABrax(Game):
    """JaxMARL's MABraxEnv without its resets inside a step, seen through one of our layouts."""

    def __init__(self, layout: layouts.Layout, backend: str, horizon: int) -> None:
        self.layout = layout
        self.agents = [f"agent_{i}" for i in range(layout.num_agents)]
        with needs("mabrax"), _quiet():
            from jaxmarl.environments.mabrax import MABraxEnv

            self.inner = MABraxEnv(
                layout.body,
                episode_length=horizon,
                auto_reset=False,
                backend=backend,
                # no observations: `observe` makes them by our layout
                agent_obs_mapping={agent: jnp.arange(0) for agent in self.agents},
                agent_action_mapping={
                    agent: jnp.array(drives)
                    for agent, drives in zip(self.agents, layout.actuators, strict=True)
                },
            )

    def start(self, key: Key) -> Any:
        """Brax's start: a `brax.envs.State`."""
        return _strong(self.inner.reset(key)[1])

    def move(self, key: Key, state: Any, actions: Array) -> tuple[Any, Array, Array, Array]:
        """One joint step; Brax counts the steps and reports in `info` whether the time limit ended
        the episode.
        """
        by_agent = {agent: actions[i] for i, agent in enumerate(self.agents)}
        _, state, reward, dones, info = self.inner.step_env(key, state, by_agent)
        truncated = info["truncation"] > 0
        return _strong(state), reward["__all__"], dones["__all__"] & ~truncated, truncated

    def observe(self, state: Any) -> Array:
        """Observations by the layout, from Brax's observation."""
        return layouts.observe(self.layout, state.obs)

    def global_state(self, state: Any) -> Array:
        """Brax's observation: positions without x (the ant's without x and y), and velocities."""
        return state.obs


def _strong(state: Any) -> Any:
    """The same arrays without JAX's weak types, which differ between Brax's first state and the
    next ones: one compilation then serves both.
    """
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress known notes: those of JaxMARL's import, and MuJoCo's on its old model file, which it
    would also write to a log file.
    """
    with needs("mabrax"):
        import mujoco

    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with quiet_import():
            yield
    finally:
        mujoco.set_mju_user_warning(handler)


@functools.cache
def make_mabrax(
    name: str, layout: str = "omar", backend: str = "spring", horizon: int = 1000
) -> GameEnv:
    """'mabrax/halfcheetah-2x3', -6x1, 'mabrax/walker2d-2x3', 'mabrax/hopper-3x1', 'mabrax/ant-2x4'
    as an `Env`.

    layout: one of `layouts.LAYOUTS` except og_marl, since Brax's observation has no x position.
    backend: one of BACKENDS. State: 17 values (hopper 11, ant 27).
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}; found '{backend}'")
    if layout == "og_marl":
        raise ValueError("layout: Brax's observation has no x position, which 'og_marl' shows")
    body, split = layouts.split_name(name, "mabrax")
    table = layouts.make_layout(body, split, layout)
    spec = layouts.spec_of(f"mabrax/{body}-{split}", horizon, table)
    return GameEnv(MABrax(table, backend, horizon), spec)
