"""Episodes on host simulators, MuJoCo in C and StarCraft II, with the policy in one jit.

They are needed for policies trained on public data, whose simulators are on the host; also, on a
CPU the C simulator is much faster than MJX. Simulators run in parallel processes of their own that
import no JAX; all episodes are played side by side, and the policy acts in all of them at once.
"""

from __future__ import annotations

import functools
import itertools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.config import check_number
from jaxoff.envs import maze
from jaxoff.envs.mamujoco import layouts, mjx
from jaxoff.envs.rolling import bounded
from jaxoff.errors import InvalidSetting, MissingProgram
from jaxoff.types import Array, EnvSpec, Policy, TimeStep

# Number of episodes that are played side by side. Results of sampled policies depend on it, but not
# on the number of processes.
WIDTH = 64


class HostEnv(NamedTuple):
    """A simulator on the host, and functions that translate between it and a policy.

    `sim` [..., Q] are the numbers that are read from the simulator.

    observe(sim) -> [..., N, O]; state(sim) -> [..., S]; control(actions) -> [..., U]; avail(sim) ->
    [..., N, A], or None where every action is available; won(sim after the last step) -> [...];
    reward(sim after the step) -> [...], or None for the simulator's own reward; start(generator) ->
    initial sim [Q] of an episode, or None for the simulator's own initial state. alone: the
    simulator is so large that each process holds only one.
    """

    # gymnasium's id, with "module:" before it for an environment of another package; or SMAC's map
    name: str
    kwargs: dict[str, Any]
    spec: EnvSpec
    observe: Callable[[Any], Any]
    state: Callable[[Any], Any]
    control: Callable[[Array], Array]
    reward: Callable[[np.ndarray], np.ndarray] | None = None
    start: Callable[[np.random.Generator], np.ndarray] | None = None
    avail: Callable[[Array], Array] | None = None
    won: Callable[[np.ndarray], np.ndarray] | None = None
    kind: str = "gymnasium"  # a key of host_worker.KINDS
    alone: bool = False


def make_host(
    name: str, layout: str = "omar", horizon: int | None = None, *, spec: EnvSpec | None = None
) -> HostEnv:
    """The host simulator of a name.

    Names are 'mamujoco/...' as in `make_mamujoco`; 'maze/umaze', 'maze/medium', 'maze/large'; and
    'smac/<map>', which needs a spec.

    MuJoCo bodies are gymnasium's own version-5 environments seen through `layouts`, which equals
    gymnasium-robotics' factorisation (tested) and avoids its dictionaries. Mazes are
    gymnasium-robotics' PointMaze in D4RL's coordinates, with D4RL's initial states, goals, reward
    and time limits; they still differ from D4RL in the version of MuJoCo, and in walls that stand
    on the ground. SMAC is its authors' StarCraft2Env with its default features and the sizes of
    `spec`; it needs the game. Raises ValueError.
    """
    if name.startswith("maze/"):
        return _maze_host(name, horizon)
    if name.startswith("smac/"):
        if spec is None:
            raise InvalidSetting(
                f"{name}: field 'spec': expected the sizes that a policy was trained with, "
                "found none"
            )
        return _smac_host(name.removeprefix("smac/"), spec)
    spec, table = mjx.resolve(name, layout, horizon)
    return HostEnv(
        name=mjx.TASKS[table.body].gymnasium,
        kwargs={"max_episode_steps": spec.horizon},
        spec=spec,
        observe=functools.partial(layouts.observe, table),
        state=functools.partial(layouts.state_of, table.body),
        control=functools.partial(layouts.to_actuators, table),
    )


def evaluate_host(
    policy: Policy,
    host: HostEnv,
    episodes: int,
    seed: int,
    processes: int | None = None,
    sampled: bool = False,
) -> dict[str, np.ndarray]:
    """Play exactly `episodes` episodes of a policy, and return their statistics.

    These are undiscounted returns [E], lengths [E], and won [E] where it is known. Each episode has
    its own seed, and WIDTH episodes are played to their ends before the next WIDTH begin; so short
    episodes are not over-represented, and the number of processes (by default the machine's cores)
    does not change a result. StarCraft II differs: each process has one game, which is seeded only
    when it starts, so there the number of processes matters. sampled: draw actions from the policy,
    else take its mode. Raises InvalidSetting for counts below one, MissingProgram where a program
    that the simulator needs is missing, RuntimeError when a simulator process fails.
    """
    check_number("seed", seed)
    for what, count in (
        ("episodes", episodes),
        ("processes", 1 if processes is None else processes),
    ):
        if count < 1:
            raise InvalidSetting(f"{what}: expected at least one, found {count}")
    count = processes or os.cpu_count() or 1
    width = min(episodes, count if host.alone else WIDTH)
    act = _acting(policy, host, sampled)
    seeds = np.random.SeedSequence(seed).spawn(episodes)
    parts = []
    with _workers(host, width, min(count, width), seed) as workers:
        for first in range(0, episodes, width):
            key = jax.random.fold_in(jax.random.key(seed), first)
            parts.append(
                _play(
                    workers,
                    host,
                    act,
                    policy.initial((width,)),
                    seeds[first : first + width],
                    key,
                    width,
                )
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _acting(policy: Policy, host: HostEnv, sampled: bool) -> Callable[..., Any]:
    """The policy as one jitted function.

    It maps (memory, sim [W, Q], timestep parts, key) to (memory, actions [W, N, A], control [W,
    U]).
    """
    spec = host.spec

    @jax.jit
    def act(
        memory: Any, sim: Array, reward: Array, last_actions: Array, key: Array
    ) -> tuple[Any, Array, Array]:
        over = jnp.zeros(len(sim), bool)
        avail = (
            host.avail(sim)
            if host.avail
            else jnp.ones((len(sim), spec.num_agents, spec.action_size))
        )
        seen = TimeStep(host.observe(sim), host.state(sim), avail, reward, over, over, last_actions)
        memory, dist = policy.distribution(memory, seen)
        actions = dist.sample(seed=key) if sampled else dist.mode()
        actions = bounded(spec, actions)
        return memory, actions, host.control(actions)

    return act


def _play(
    workers: Workers,
    host: HostEnv,
    act: Callable[..., Any],
    memory: Any,
    seeds: list[np.random.SeedSequence],
    key: Array,
    width: int,
) -> dict[str, np.ndarray]:
    """Play one episode for each of at most `width` seeds; ended and unused ones are not stepped."""
    begin = [
        (int(s.generate_state(1)[0]), host.start(np.random.default_rng(s)) if host.start else None)
        for s in seeds
    ]
    first = workers.reset(begin)
    sim = np.zeros((width, first.shape[1]), np.float32)
    sim[: len(first)] = first
    alive = np.arange(width) < len(seeds)
    reward = np.zeros(width, np.float32)
    actions = (
        jnp.full((width, *host.spec.action_shape), -1)
        if host.spec.discrete
        else jnp.zeros((width, *host.spec.action_shape))
    )
    returns, lengths = np.zeros(width), np.zeros(width, np.int64)
    for t in itertools.count():
        if not alive.any():
            break
        memory, actions, control = act(memory, sim, reward, actions, jax.random.fold_in(key, t))
        index = np.flatnonzero(alive)
        after, paid, terminated, truncated = workers.step(index, np.asarray(control)[index])
        sim[index] = after
        reward[index] = paid if host.reward is None else np.asarray(host.reward(after))
        returns[index] += reward[index]
        lengths[index] += 1
        alive[index] = ~(terminated | truncated)
    out = {"returns": returns[: len(seeds)], "lengths": lengths[: len(seeds)]}
    return out | ({"won": host.won(sim[: len(seeds)])} if host.won else {})


class Workers:
    """Simulator processes; environment i lives in process i modulo their number."""

    def __init__(self, host: HostEnv, width: int, count: int, folder: str, seed: int = 0) -> None:
        self.connections, self.processes = [], []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            with theirs:
                # The worker is run as a file and not as a module, so that it imports nothing of
                # this package, and no JAX. MuJoCo writes its log into the current folder.
                command = [
                    sys.executable,
                    str(Path(__file__).with_name("host_worker.py")),
                    str(theirs.fileno()),
                ]
                self.processes.append(
                    subprocess.Popen(
                        command, pass_fds=[theirs.fileno()], cwd=folder, stderr=subprocess.DEVNULL
                    )
                )
            self.connections.append(Connection(ours.detach()))
        seeds = [
            int(child.generate_state(1)[0])
            for child in np.random.SeedSequence([seed, 1]).spawn(width)
        ]
        try:
            self._ask(
                "make", [(host.kind, host.name, host.kwargs, seeds[w::count]) for w in range(count)]
            )
        except RuntimeError:
            self.close()
            raise

    def reset(self, begin: list[tuple[int, np.ndarray | None]]) -> np.ndarray:
        """Reset environments 0..K-1 with (seed, initial sim or None) each; returns sim [K, Q]."""
        count = len(self.connections)
        content = [
            [(i // count, *begin[i]) for i in range(w, len(begin), count)] or None
            for w in range(count)
        ]
        return self._merge(
            np.arange(len(begin)),
            [(part,) if part is not None else None for part in self._ask("reset", content)],
        )[0]

    def step(self, index: np.ndarray, control: np.ndarray) -> tuple[np.ndarray, ...]:
        """Step environments `index` [K] with controls [K, U].

        Returns sim [K, Q], and rewards, terminated and truncated, each [K].
        """
        count = len(self.connections)
        mine = [index % count == w for w in range(count)]
        return self._merge(
            index,
            self._ask("step", [(index[m] // count, control[m]) if m.any() else None for m in mine]),
        )

    def _merge(
        self, index: np.ndarray, parts: list[tuple[np.ndarray, ...] | None]
    ) -> tuple[np.ndarray, ...]:
        order = np.argsort(
            np.concatenate([np.flatnonzero(index % len(parts) == w) for w in range(len(parts))])
        )
        return tuple(
            np.concatenate(column)[order]
            for column in zip(*(p for p in parts if p is not None), strict=True)
        )

    def _ask(self, what: str, content: list[Any]) -> list[Any]:
        """Send each process its part (None: nothing), then collect the answers."""
        try:
            for connection, part in zip(self.connections, content, strict=True):
                if part is not None:
                    connection.send((what, part))
            answers = [
                c.recv() if part is not None else ("ok", None)
                for c, part in zip(self.connections, content, strict=True)
            ]
        except (EOFError, OSError) as lost:
            raise RuntimeError(
                f"a simulator process died during '{what}' (exit codes: "
                f"{[p.poll() for p in self.processes]})"
            ) from lost
        for state, answer in answers:
            if state == "refused":
                raise MissingProgram(answer)
            if state == "error":
                raise RuntimeError(f"a simulator process failed during '{what}':\n{answer}")
        return [answer for _, answer in answers]

    def close(self) -> None:
        """Close the connections, upon which the processes end."""
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.wait()


@contextmanager
def _workers(host: HostEnv, width: int, count: int, seed: int) -> Iterator[Workers]:
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(host, width, count, folder, seed)
        try:
            yield workers
        finally:
            workers.close()


# ------------------------------------------------------------------------------------- StarCraft II


def _smac_host(scenario: str, spec: EnvSpec) -> HostEnv:
    n, o, a = spec.num_agents, spec.obs_size, spec.action_size
    after_obs, after_state = n * o, n * o + spec.state_size
    sizes = {"n_agents": n, "obs_shape": o, "state_shape": spec.state_size, "n_actions": a}
    return HostEnv(
        name=scenario,
        kwargs={"sizes": sizes},
        spec=spec,
        observe=lambda sim: sim[..., :after_obs].reshape(*sim.shape[:-1], n, o),
        state=lambda sim: sim[..., after_obs:after_state],
        avail=lambda sim: sim[..., after_state : after_state + n * a].reshape(
            *sim.shape[:-1], n, a
        ),
        control=lambda actions: actions,
        won=lambda sim: sim[..., -1] > 0,
        kind="smac",
        alone=True,
    )


# ------------------------------------------------------------------------------------------- mazes


def _maze_host(name: str, horizon: int | None) -> HostEnv:
    env = maze.make_maze(name)
    game: maze.PointMass = env.game
    spec = env.spec
    rows, columns = game.walls.shape
    titles = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}

    def state(sim: Any) -> Any:
        # In gymnasium-robotics, x runs along the columns and y against the rows, and (0, 0) is the
        # middle of the map.
        row, column = (rows - 1) / 2 - sim[..., 1], sim[..., 0] + (columns - 1) / 2
        parts = (row - maze.OFFSET, column - maze.OFFSET, -sim[..., 3], sim[..., 2])
        return sim.__array_namespace__().stack(parts, -1)

    def control(actions: Array) -> Array:
        return jnp.stack([actions[..., 0, 1], -actions[..., 0, 0]], -1)

    def reward(sim: np.ndarray) -> np.ndarray:
        return np.linalg.norm(state(sim)[..., :2] - game.goal, axis=-1) <= maze.REACH

    def start(random: np.random.Generator) -> np.ndarray:
        row, column = (
            game.free[random.integers(len(game.free))] + random.uniform(-0.1, 0.1, 2) + maze.OFFSET
        )
        speed = 0.1 * random.standard_normal(2)
        return np.array([column - (columns - 1) / 2, (rows - 1) / 2 - row, *speed])

    return HostEnv(
        name=f"gymnasium_robotics:PointMaze_{titles[name.removeprefix('maze/')]}-v3",
        kwargs={"max_episode_steps": horizon or spec.horizon},
        spec=spec,
        observe=lambda sim: state(sim)[..., None, :],
        state=state,
        control=control,
        reward=reward,
        start=start,
    )
