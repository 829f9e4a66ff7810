"""Multi-agent MuJoCo inside jit: gymnasium's version-5 model files, stepped by MuJoCo's own MJX.

Rules, rewards and starts are those of gymnasium's HalfCheetah-v5, Walker2d-v5 and Hopper-v5. One
step from the same state agrees with MuJoCo in C to single precision; trajectories diverge after
some fifty steps, since contact is chaotic, so recorded actions never replay recorded states. On a
CPU the C simulator is some twenty times faster, and `physics="c"` calls it from inside jit
(`c_physics`).

The ant is not available: its reward and observation contain contact forces that MJX does not
provide.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxoff.envs.base import Game, GameEnv
from jaxoff.envs.mamujoco import layouts
from jaxoff.envs.mamujoco.c_physics import CPhysics
from jaxoff.errors import InvalidSetting
from jaxoff.runtime import needs
from jaxoff.types import Array, EnvSpec, Key, ReturnScale

# Names of SIT's tasks (Tian et al., 2023): the same bodies for 200 steps; the paper's observations
# are not published.
SIT = {"HalfCheetah_2l": "halfcheetah-2x3", "Walker_2l": "walker2d-2x3"}
SIT_HORIZON = 200
OMAR_SCALE = ReturnScale(
    -284.0,
    3568.8,
    "OMAR (Pan et al., 2022), HalfCheetah-v2, 1000 steps: random; expert. MuJoCo 2.0 physics",
)


class Task(NamedTuple):
    """gymnasium's constants of a body.

    A body is unhealthy, which terminates the episode, if its height or angle is out of range or a
    state value is too large.
    """

    gymnasium: str  # id of the environment on the host
    file: str
    frame_skip: int
    control_cost: float
    noise: float  # scale of the noise on the start state
    normal_speed: bool  # start velocities are normal, else uniform like the positions
    healthy: bool = False
    height: tuple[float, float] = (-jnp.inf, jnp.inf)
    angle: tuple[float, float] = (-jnp.inf, jnp.inf)
    largest: float = jnp.inf  # bound on all state values but the first two


TASKS = {
    "halfcheetah": Task("HalfCheetah-v5", "half_cheetah.xml", 5, 0.1, 0.1, True),
    "walker2d": Task(
        "Walker2d-v5", "walker2d_v5.xml", 4, 1e-3, 5e-3, False, True, (0.8, 2.0), (-1.0, 1.0)
    ),
    "hopper": Task(
        "Hopper-v5", "hopper.xml", 4, 1e-3, 5e-3, False, True, (0.7, jnp.inf), (-0.2, 0.2), 100.0
    ),
}


class MJXState(NamedTuple):
    """qpos [nq], qvel [nv], the solver's last acceleration [nv], from which it starts, and time
    [].
    """

    qpos: Array
    qvel: Array
    acceleration: Array
    time: Array


class MJX(Game):
    """One of TASKS, the body that the layout names. iterations: number of solver iterations, with
    twice as many of its line search; None: those of the model file.

    Four iterations agree with the file's hundred to single precision, and are faster. physics:
    "mjx", or "c" for the C simulator with the same state.
    """

    def __init__(
        self,
        layout: layouts.Layout,
        horizon: int,
        iterations: int | None = None,
        physics: str = "mjx",
    ) -> None:
        self.layout, self.horizon, self.task = layout, horizon, TASKS[layout.body]
        self.host_model = load_model(self.task.file)
        if iterations is not None:
            self.host_model.opt.iterations, self.host_model.opt.ls_iterations = (
                iterations,
                2 * iterations,
            )
        self.in_c = CPhysics(self.host_model, self.task.frame_skip) if physics == "c" else None
        if self.in_c is None:
            self.model = _mjx().put_model(self.host_model)
        self.dt = self.host_model.opt.timestep * self.task.frame_skip

    def start(self, key: Key) -> MJXState:
        """gymnasium's start: the model file's pose with noise."""
        q_key, v_key = jax.random.split(key)
        noise, nq, nv = self.task.noise, self.host_model.nq, self.host_model.nv
        qpos = jnp.asarray(self.host_model.qpos0, jnp.float32) + jax.random.uniform(
            q_key, (nq,), minval=-noise, maxval=noise
        )
        normal = self.task.normal_speed
        qvel = (
            noise * jax.random.normal(v_key, (nv,))
            if normal
            else jax.random.uniform(v_key, (nv,), minval=-noise, maxval=noise)
        )
        return MJXState(qpos, qvel, jnp.zeros(nv), jnp.zeros((), jnp.int32))

    def move(
        self, key: Key, state: MJXState, actions: Array
    ) -> tuple[MJXState, Array, Array, Array]:
        """Advance `frame_skip` simulation steps under the same control."""
        control = layouts.to_actuators(self.layout, actions)
        new = self.simulate(state, control)
        speed = (new.qpos[0] - state.qpos[0]) / self.dt
        reward = speed - self.task.control_cost * jnp.sum(jnp.square(control))
        terminated = jnp.zeros((), bool)
        if self.task.healthy:
            terminated = ~self.is_healthy(new)
            reward = reward + (1.0 - terminated)
        return new, reward, terminated, (new.time >= self.horizon) & ~terminated

    def simulate(self, state: MJXState, control: Array) -> MJXState:
        """The physics of one step; control [nu] in the order of the actuators."""
        if self.in_c is not None:
            qpos, qvel = self.in_c(state.qpos, state.qvel, control)
            return MJXState(qpos, qvel, state.acceleration, state.time + 1)
        mjx = _mjx()
        data = mjx.make_data(self.model)
        data = data.replace(
            qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.acceleration, ctrl=control
        )
        data, _ = jax.lax.scan(
            lambda d, _: (mjx.step(self.model, d), None), data, length=self.task.frame_skip
        )
        return MJXState(data.qpos, data.qvel, data.qacc_warmstart, state.time + 1)

    def is_healthy(self, state: MJXState) -> Array:
        """[] bool: upright and in bounds."""
        within = lambda x, bounds: (bounds[0] < x) & (x < bounds[1])
        rest = jnp.abs(jnp.concatenate([state.qpos[2:], state.qvel]))
        upright = within(state.qpos[1], self.task.height) & within(state.qpos[2], self.task.angle)
        return upright & jnp.all(rest < self.task.largest)

    def observe(self, state: MJXState) -> Array:
        """Observations [N, O] by the layout."""
        return layouts.observe(self.layout, jnp.concatenate([state.qpos, state.qvel]))

    def global_state(self, state: MJXState) -> Array:
        """gymnasium's observation: qpos without x, and qvel."""
        return layouts.state_of(self.layout.body, jnp.concatenate([state.qpos, state.qvel]))


def _mjx() -> ModuleType:
    with needs("mamujoco"):
        import mujoco.mjx as mjx  # an absent one is told apart from a wrong one
    return mjx


def load_model(file: str) -> Any:
    """A MuJoCo model file that ships with gymnasium, as `mujoco.MjModel`."""
    with needs("mamujoco"):
        import gymnasium
        import mujoco

    spec = mujoco.MjSpec.from_file(
        str(Path(gymnasium.__file__).parent / "envs/mujoco/assets" / file)
    )
    mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1
    model = spec.compile()
    # set by hand: the attribute is deprecated, and MuJoCo would write a log file about it
    if mass > 0:
        mujoco.mj_setTotalmass(model, mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def resolve(name: str, layout: str, horizon: int | None) -> tuple[EnvSpec, layouts.Layout]:
    """Spec and layout of a 'mamujoco/...' name; horizon None stands for 1000, or SIT's 200."""
    short = name.removeprefix("mamujoco/")
    if horizon is None:
        horizon = SIT_HORIZON if short in SIT else 1000
    body, split = layouts.split_name(SIT.get(short, short), "mamujoco")
    if body not in TASKS:
        raise ValueError(
            f"mamujoco: expected one of {', '.join(TASKS)}; found '{body}', whose contact "
            "forces MJX does not give"
        )
    table = layouts.make_layout(body, split, layout)
    scale = OMAR_SCALE if (body, split, horizon) == ("halfcheetah", "2x3", 1000) else None
    return layouts.spec_of(f"mamujoco/{short}", horizon, table, scale), table


@functools.cache
def make_mamujoco(
    name: str,
    layout: str = "omar",
    horizon: int | None = None,
    iterations: int | None = None,
    physics: str | None = None,
) -> GameEnv:
    """'mamujoco/halfcheetah-2x3', -6x1, 'mamujoco/walker2d-2x3', 'mamujoco/hopper-3x1' as an `Env`.

    'mamujoco/HalfCheetah_2l' and 'mamujoco/Walker_2l' are SIT's tasks, with 200 steps. layout: one
    of `layouts.LAYOUTS`. State: qpos without x, and qvel (17; hopper 11). The return scale is
    OMAR's, measured with an older MuJoCo, and holds for halfcheetah-2x3 with 1000 steps only.
    physics: "mjx" or "c"; None is C on a CPU and MJX on an accelerator, where C is refused.
    """
    spec, table = resolve(name, layout, horizon)
    physics = physics or ("c" if jax.default_backend() == "cpu" else "mjx")
    if physics not in ("c", "mjx"):
        raise ValueError(f"mamujoco: field 'physics': expected 'c' or 'mjx', found {physics!r}")
    if physics == "c" and jax.default_backend() != "cpu":
        raise InvalidSetting(
            "mamujoco: field 'physics': expected 'mjx' on an accelerator, whose programs would "
            "wait for the host at every step, found 'c'"
        )
    return GameEnv(MJX(table, spec.horizon, iterations, physics), spec)
