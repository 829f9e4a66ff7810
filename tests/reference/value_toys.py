"""Games for value methods, whose values are known exactly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxoff.types import EnvSpec, TimeStep, Transition

CELLS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])  # AA, AB, BA, BB
GAME = EnvSpec("game", 2, 3, 3, 2, discrete=True, horizon=3)


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
