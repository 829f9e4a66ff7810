"""Small problems for value methods: ragged random windows, and games whose values are known
exactly.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxoff.types import EnvSpec, TimeStep, Transition

B, T, N, S, A = 5, 4, 3, 2, 3
LENGTHS = np.array([4, 4, 3, 2, 1])
SPEC = EnvSpec("small", N, 2, S, A, discrete=True, horizon=T)
CELLS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])  # AA, AB, BA, BB
GAME = EnvSpec("game", 2, 3, 3, 2, discrete=True, horizon=3)


def random_batch(seed: int = 0, dtype: Any = np.float32) -> Transition:
    """Windows [5, 4] of 4, 4, 3, 2 and 1 steps, two of them truncated; action 2 is unavailable in
    half of the windows.
    """
    rng = np.random.default_rng(seed)
    obs, state, avail = (
        rng.normal(size=(B, T + 1, N, 2)),
        rng.normal(size=(B, T + 1, S)),
        np.ones((B, T + 1, N, A)),
    )
    avail[::2, :, :, 2] = 0
    valid = np.arange(T) < LENGTHS[:, None]
    last = np.arange(T) == LENGTHS[:, None] - 1
    cut = np.isin(np.arange(B), [1, 3])[:, None]
    actions = np.where(
        avail[:, :-1, :, 2] > 0, rng.integers(0, 3, (B, T, N)), rng.integers(0, 2, (B, T, N))
    )
    floats = (
        obs[:, :-1],
        state[:, :-1],
        avail[:, :-1],
        actions.astype(np.int32),
        rng.normal(size=(B, T)),
        last & ~cut,
        last & cut,
        valid,
    )
    steps, episode = np.tile(np.arange(T), (B, 1)), np.tile(np.arange(B)[:, None], (1, T))
    batch = Transition(*floats, steps, episode, obs[:, 1:], state[:, 1:], avail[:, 1:])
    return jax.tree.map(lambda x: x if x.dtype.kind == "i" else x.astype(dtype), batch)


def spoiled(batch: Transition, slots: bool = False) -> Transition:
    """The batch with nonsense on padding; slots: in what is seen there too, from the slot after the
    last step on.
    """
    off = batch.valid == 0
    put = lambda x, value: np.where(
        off.reshape(off.shape + (1,) * (x.ndim - 2)), x.dtype.type(value), x
    )
    new = {
        "reward": 1e6,
        "actions": 2,
        "terminated": 1,
        "truncated": 1,
        "next_state": -9,
        "next_obs": 9,
        "next_avail": 0,
    }
    if slots:
        new |= {"obs": 7, "state": -7, "avail": 0}
    return batch._replace(**{name: put(getattr(batch, name), value) for name, value in new.items()})


def arrays(batch: Transition) -> dict[str, np.ndarray]:
    """For the NumPy derivations."""
    return {name: np.asarray(x) for name, x in batch._asdict().items() if x is not None}


def shaken(tree: Any, seed: int, dtype: Any = np.float64) -> Any:
    """Parameters moved by normal noise, so that no bias is zero and no two nets agree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(x, dtype) + dtype(0.3) * rng.normal(size=x.shape).astype(dtype), tree
    )


def slopes(
    function: Any, params: Any, grads: Any, count: int = 4
) -> tuple[list[float], list[float]]:
    """Along random directions: the gradient's, and central differences of a NumPy function of the
    parameters.
    """
    flat, back = ravel_pytree(params)
    grad, rng = np.asarray(ravel_pytree(grads)[0]), np.random.default_rng(0)
    directions = rng.normal(size=(count, len(flat)))
    numbers = lambda x: jax.tree.map(np.asarray, back(jnp.asarray(x)))
    found = [
        (function(numbers(flat + 1e-6 * v)) - function(numbers(flat - 1e-6 * v))) / 2e-6
        for v in directions
    ]
    return [float(grad @ v) for v in directions], found


def flat(tree: Any) -> np.ndarray:
    """All numbers of a tree in one row."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


# ------------------------------------------------------------------------------------------------
# games


def matrix(payoff: list[float], cells: list[int]) -> Transition:
    """One play of each of the given cells of a 2 x 2 game (AA, AB, BA, BB), as windows [4, 3] with
    one valid step.
    """
    reward, valid = np.zeros((4, 3)), np.zeros((4, 3))
    reward[cells, 0], valid[cells, 0] = payoff, 1
    return _windows(reward, valid, np.array([1.0, 0, 0]), np.tile(np.eye(3)[0], (4, 4, 1)))


def chain() -> Transition:
    """Three steps with rewards 0, 0, 1 whatever is done, each joint action three times over:
    windows [4, 3].
    """
    reward = np.tile([0.0, 0, 1], (4, 1))
    return _windows(
        reward, np.ones((4, 3)), np.array([0.0, 0, 1]), np.tile(np.eye(4, 3), (4, 1, 1))
    )


def _windows(
    reward: np.ndarray, valid: np.ndarray, terminated: np.ndarray, slots: np.ndarray
) -> Transition:
    seen = np.tile(slots[:, :, None], (1, 1, 2, 1))
    actions, ones, zero = (
        np.tile(CELLS[:, None], (1, 3, 1)).astype(np.int32),
        np.ones((4, 3, 2, 2)),
        np.zeros((4, 3)),
    )
    ends, count = np.tile(terminated, (4, 1)), zero.astype(np.int32)
    fields = (
        seen[:, :-1],
        slots[:, :-1],
        ones,
        actions,
        reward,
        ends,
        zero,
        valid,
        count,
        count,
        seen[:, 1:],
        slots[:, 1:],
        ones,
    )
    return jax.tree.map(
        lambda x: x if x.dtype.kind == "i" else x.astype(np.float32), Transition(*fields)
    )


def fit(
    module: Any,
    batches: list[Transition],
    steps: int,
    lr: float,
    leaves: dict[str, list[float]],
    **static: Any,
) -> Any:
    """Train on each whole batch, the rate falling to zero: (Q_tot [K, 3, 2, 2] of the three slots,
    greedy [K, 2], metrics [K]).

    leaves: settings of each batch [K]. One program for all batches.
    """

    def one(batch: Transition, values: dict[str, jax.Array]) -> Any:
        config = module.Config(hidden=16, embed=8, target_every=10, gamma=0.9, **static, **values)
        state = module.make(config, GAME).init(jax.random.key(0))

        def step(state: Any, done: jax.Array) -> Any:
            state, out = module.make(config.replace(lr=lr * (1 - done / steps)), GAME).update(
                state, batch, None
            )
            return state, out.metrics

        state, metrics = lax.scan(step, state, jnp.arange(steps))
        m = module.method_of(config, GAME)
        q = m.actors.outputs(state.critic, jax.tree.map(lambda x: x[:1], batch))[0][0]  # [3, N, A]
        values = jnp.stack([q[:, 0][:, CELLS[:, 0]], q[:, 1][:, CELLS[:, 1]]], -1)  # [3, 4, N]
        total = m.mixer.apply(
            state.mixer, values, jnp.repeat(batch.state[0][:, None], 4, 1)
        ).reshape(3, 2, 2)
        obs, no = batch.obs[0, 0], jnp.zeros((), bool)
        first = TimeStep(obs, obs[0], jnp.ones((2, 2)), jnp.zeros(()), no, no, jnp.full(2, -1))
        policy = module.make(config, GAME).policy(state)
        chosen = policy.distribution(policy.initial(()), first)[1].mode()
        return total, chosen, jax.tree.map(lambda x: x[-1], metrics)

    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    return jax.jit(jax.vmap(one))(
        stacked, {name: jnp.asarray(v, jnp.float32) for name, v in leaves.items()}
    )
