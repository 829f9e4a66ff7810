"""Small problems and helpers that the tests of methods share: ragged batches, what an agent sees,
numbers in place of parameters, slopes of losses.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxoff.types import EnvSpec, Episodes, TimeStep, Transition

# ------------------------------------------------------------------------------------------ data


def spec_of(discrete: bool = True, **changes: Any) -> EnvSpec:
    """Three agents that see 2 numbers and have 3 actions (or action dimensions); 4 steps."""
    return dataclasses.replace(EnvSpec("small", 3, 2, 3, 3, discrete, 4), **changes)


def episodes_of(
    spec: EnvSpec,
    lengths: Sequence[int],
    ended: Sequence[int] = (),
    seed: int = 0,
    bound: float = 1.0,
    steps: int = 0,
) -> Episodes:
    """Random episodes: those in `ended` terminate, the others are cut by the clock.

    Where actions are discrete, action 2 is unavailable in every second episode. Others are uniform
    within `bound`. What lies beyond the end of an episode is random too. steps: of the arrays, if
    more than the longest episode has.
    """
    rng, count, steps = np.random.default_rng(seed), len(lengths), max(*lengths, steps)
    n, a = spec.num_agents, spec.action_size
    avail = np.ones((count, steps + 1, n, a))
    last = np.arange(steps) == np.array(lengths)[:, None] - 1
    ends = last & np.isin(np.arange(count), list(ended))[:, None]
    actions = rng.uniform(-bound, bound, (count, steps, n, a))
    if spec.discrete:
        avail[::2, ..., 2] = 0
        drawn = rng.random((count, steps, n, a)) * avail[:, :-1]
        actions = drawn.argmax(-1).astype(np.int32)
    own = rng.normal(size=(count, steps, n))
    return Episodes(
        obs=rng.normal(size=(count, steps + 1, n, spec.obs_size)),
        state=rng.normal(size=(count, steps + 1, spec.state_size)),
        avail=avail,
        actions=actions,
        reward=own.mean(-1),
        terminated=ends,
        truncated=last & ~ends,
        filled=np.arange(steps) < np.array(lengths)[:, None],
        behaviour_level=np.zeros((count, n), np.int32),
        agent_reward=own,
    )


def windows_of(episodes: Episodes) -> Transition:
    """Every episode as a window from its first step on, as `Dataset.window` reads it."""
    count, steps = episodes.filled.shape
    first = np.full_like(episodes.actions[:, :1], -1 if episodes.actions.ndim == 3 else 0)
    slots = {name: getattr(episodes, name) for name in ("obs", "state", "avail")}
    ends = {name: getattr(episodes, name).astype(float) for name in ("terminated", "truncated")}
    return Transition(
        **{name: x[:, :-1] for name, x in slots.items()},
        **{f"next_{name}": x[:, 1:] for name, x in slots.items()},
        **ends,
        actions=episodes.actions,
        reward=episodes.reward,
        agent_reward=episodes.agent_reward,
        valid=episodes.filled.astype(float),
        steps_before=np.tile(np.arange(steps, dtype=np.int32), (count, 1)),
        episode=np.tile(np.arange(count, dtype=np.int32)[:, None], (1, steps)),
        last_actions=np.concatenate([first, episodes.actions[:, :-1]], 1),
    )


def batch_of(
    spec: EnvSpec,
    lengths: Sequence[int] = (4, 4, 3, 2, 1),
    ended: Sequence[int] = (0, 2, 4),
    seed: int = 0,
    bound: float = 1.0,
) -> Transition:
    """Windows of `episodes_of`, in double precision."""
    return windows_of(episodes_of(spec, lengths, ended, seed, bound))


def steps_of(spec: EnvSpec, count: int, seed: int = 0) -> Transition:
    """Single steps [count]: the first terminates, the last is padding, the others are cut."""
    return part(batch_of(spec, (*(1,) * (count - 1), 0), (0,), seed), (slice(None), 0))


def plays(spec: EnvSpec, actions: Any, reward: Any, valid: Any = None) -> Transition:
    """Steps of a game of one state, in which all that is seen is one; each ends the game.

    actions: [..., N] or [..., N, A]; reward: [...].
    """
    actions, n = jnp.asarray(actions), spec.num_agents
    lead = actions.shape[: actions.ndim - len(spec.action_shape)]
    obs, state = jnp.ones((*lead, n, spec.obs_size)), jnp.ones((*lead, spec.state_size))
    avail, ones, count = (
        jnp.ones((*lead, n, spec.action_size)),
        jnp.ones(lead),
        jnp.zeros(lead, int),
    )
    given = ones if valid is None else jnp.asarray(valid, jnp.float32)
    now = (obs, state, avail, actions, jnp.broadcast_to(reward, lead))
    return Transition(*now, ones, 0 * ones, given, count, count, obs, state, avail)


def seen(spec: EnvSpec, obs: Any = None, **changes: Any) -> TimeStep:
    """What is seen after a reset, with the leading axes of obs [..., N, O]; ones where nothing is
    given.
    """
    n = spec.num_agents
    obs = jnp.ones((n, spec.obs_size)) if obs is None else jnp.asarray(obs)
    lead = obs.shape[:-2]
    no = jnp.zeros(lead, bool)
    last = jnp.full((*lead, *spec.action_shape), -1 if spec.discrete else 0.0)
    state, avail = jnp.ones((*lead, spec.state_size)), jnp.ones((*lead, n, spec.action_size))
    step = TimeStep(obs, state, avail, jnp.zeros(lead), no, no, last)
    return step._replace(**changes)


def arrays(batch: Transition) -> dict[str, np.ndarray]:
    """The fields of a batch, for derivations in NumPy."""
    return {name: np.asarray(x) for name, x in batch._asdict().items() if x is not None}


def rows_of(batch: Transition) -> dict[str, np.ndarray]:
    """The fields of a batch of windows [B, T, ...] as rows [B T, ...]."""
    return {name: x.reshape(-1, *x.shape[2:]) for name, x in arrays(batch).items()}


# A batch of a dataset by one program, and not by one for each operation.
window = jax.jit(
    lambda dataset, first_row, length: dataset.window(first_row, length), static_argnums=2
)
steps = jax.jit(lambda dataset, row: dataset.steps(row))


def write_vault(
    folder: Path,
    tree: dict[str, Any],
    uid: str = "Good",
    buffer: int = 10,
    streams: Sequence[dict[str, Any]] = (),
) -> Path:
    """The vault folder/uid written by flashbax, from a buffer that is longer than the data.

    tree: arrays [M, ...] of consecutive steps. streams: such trees side by side instead.
    """
    from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
    from flashbax.vault import Vault

    length = len(jax.tree.leaves(tree)[0])
    longer = lambda x: np.pad(x, [(0, 0), (0, buffer - length)] + [(0, 0)] * (x.ndim - 2))
    tree = jax.tree.map(lambda *x: jnp.asarray(longer(np.stack(x))), *(streams or [tree]))
    folder.parent.mkdir(parents=True, exist_ok=True)
    vault = Vault(folder.name, tree, rel_dir=str(folder.parent), vault_uid=uid)
    index, full = jnp.array(length), jnp.array(False)
    vault.write(TrajectoryBufferState(experience=tree, current_index=index, is_full=full))
    return folder / uid


def put_array(folder: Path, name: str, value: np.ndarray, rows: int | None = None) -> None:
    """Replace an array of a vault, of which only the first `rows` rows are written."""
    import tensorstore

    base = {"driver": "file", "path": f"{folder}/"}
    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": name}}
    chunks = [1] * 2 + list(value.shape[2:])
    store = tensorstore.open(
        spec | {"metadata": {"chunks": chunks[-value.ndim :], "shape": value.shape}},
        dtype=value.dtype.name,
        create=True,
        delete_existing=True,
    ).result()
    where = ... if rows is None else (slice(None), slice(rows))
    store[where].write(value[where]).result()


# ------------------------------------------------------------------------------------ parameters


def flat(tree: Any) -> np.ndarray:
    """All numbers of a tree in one row."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def part(tree: Any, i: Any) -> Any:
    """One of stacked parameters, or of the items of a batch; taken by NumPy outside of programs."""
    return jax.tree.map(lambda x: (x if isinstance(x, jax.core.Tracer) else np.asarray(x))[i], tree)


def layers_of(params: Any, agent: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of each layer of an MLP, or of one agent's where they are stacked."""
    layers = [params["params"][f"Dense_{k}"] for k in range(len(params["params"]))]
    one = lambda x: np.asarray(x if agent is None else x[agent], float)
    return [(one(layer["kernel"]), one(layer["bias"])) for layer in layers]


def drawn(tree: Any, seed: int = 1) -> Any:
    """Random numbers in double precision in place of every leaf."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.7 * rng.normal(size=x.shape), tree)


def shaken(tree: Any, seed: int, dtype: Any = np.float64) -> Any:
    """Parameters moved by normal noise, so that no bias is zero and no two nets agree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(x, dtype) + dtype(0.3) * rng.normal(size=x.shape).astype(dtype), tree
    )


def double(tree: Any) -> Any:
    """A config, or parameters, with every real number in double precision."""
    wide = lambda x: np.asarray(x, float) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x
    return jax.tree.map(wide, tree)


def single(tree: Any) -> Any:
    """The same with every real number in single precision, as NumPy arrays."""
    narrow = lambda x: x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
    return jax.tree.map(narrow, tree)


def shaken_state(
    module: ModuleType, config: Any, spec: EnvSpec, dtype: Any = np.float32
) -> tuple[Any, Any]:
    """The method of a config, and a state whose nets are random, so that slow copies differ
    everywhere; optimisers and counters are at zero.
    """
    state = jax.eval_shape(module.make(config, spec).init, jax.random.key(0))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    nets = [name for name in state._fields if not name.endswith(("opt", "updates"))]
    moved = {name: shaken(getattr(state, name), k, dtype) for k, name in enumerate(nets)}
    return module.method_of(config, spec), state._replace(**moved)


@functools.cache
def stepper(module: ModuleType, spec: EnvSpec, **config: Any) -> tuple[Callable[..., Any], Any]:
    """A compiled update(state, batch[, key]) of a method, and a shaken state."""
    m, state = shaken_state(module, module.Config(**config), spec)
    return jax.jit(functools.partial(module.update, m)), state


# ---------------------------------------------------------------------------------------- slopes


def slope(function: Callable[[Any], float], params: Any, seed: int) -> tuple[float, Any]:
    """Central difference of a NumPy function along a random direction, and the direction."""
    rng = np.random.default_rng(seed)
    way = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
    at = lambda h: function(jax.tree.map(lambda x, d: x + h * d, params, way))
    return (at(1e-6) - at(-1e-6)) / 2e-6, way


def along(grads: Any, way: Any) -> float:
    """The slope of a gradient along a direction."""
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(way), strict=True)
    return sum(float(np.vdot(g, d)) for g, d in pairs)


def slopes(
    function: Callable[[Any], float], params: Any, grads: Any, count: int = 4
) -> tuple[list[float], list[float]]:
    """Along random directions: the gradient's slopes, and central differences of a NumPy function
    of the parameters.
    """
    row, back = ravel_pytree(params)
    grad, rng = np.asarray(ravel_pytree(grads)[0]), np.random.default_rng(0)
    directions = rng.normal(size=(count, len(row)))
    numbers = lambda x: jax.tree.map(np.asarray, back(jnp.asarray(x)))
    found = [
        (function(numbers(row + 1e-6 * v)) - function(numbers(row - 1e-6 * v))) / 2e-6
        for v in directions
    ]
    return [float(grad @ v) for v in directions], found
