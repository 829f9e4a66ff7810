"""What is run for Tilbury et al. (2024): the data of each figure, and their training, many runs in
one program.

A toy run here is a run of `jaxoff.training`, except that the datasets too are a mapped axis: all of
a figure's standard deviations, starts, sharpnesses and seeds are one compiled program.
Settings that the paper does not print are named in docs/methods/pjap.md.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxoff.baselines import maddpg, pjap
from jaxoff.experiments import paper
from jaxoff.experiments.pjap.online import OnlineResult, train_online

from jaxoff.data import online_sampler, samplers, uniform_sampler
from jaxoff.data.dataset import Dataset, place
from jaxoff.envs.base import GameEnv
from jaxoff.envs.games.polynomial import GAMES, TWIN_PEAKS, make_polynomial, peak, reward_of
from jaxoff.registry import make_data
from jaxoff.types import Array, Episodes, Feedback, Key, Sampler

POINTS, BATCH, EPOCHS = 512, 32, 100
SIGMAS_4, SIGMAS_5 = (0.0, 0.3, 1.0), (0.0, 0.2, 0.5, 1.0)
STARTS_3 = ((-0.5, 0.5), (0.5, 0.5), (-0.25, -0.75))
CAPACITIES = (128, 256, 512, 1024)
ALPHAS, FLOORS = (0.0, 4.0, 10.0, 16.0, 25.0, 64.0), (1e-4, 1e-3, 1e-2, 1e-1)
REFRESHES = (0, 32, 128, -1)
LATE = 20  # epochs that "late" and "last" mean


@dataclasses.dataclass(frozen=True)
class Size(paper.Size):
    """How many seeds there are, and what share of the paper's epochs."""

    share: float = 1.0

    def epochs(self, full: int = EPOCHS) -> int:
        """Epochs at this size, of so many in the paper."""
        return max(int(full * self.share), LATE)


SIZES = {"smoke": Size(seeds=2, share=0.1), "cpu": Size(seeds=10), "full": Size(seeds=100)}


class Paths(NamedTuple):
    """Toy runs: configurations C, datasets D, runs (seeds) R, epochs K.

    theta [C, D, R, K+1, 2] joint policies, the first before training; reward [C, D, R, K+1] their
    exact rewards; distance [C, D, R, K] mean |data action - policy| over the batch of each epoch,
    and agents.
    """

    theta: np.ndarray
    reward: np.ndarray
    distance: np.ndarray


@functools.cache
def game(name: str) -> GameEnv:
    """One of the paper's four games."""
    return make_polynomial(name, GAMES[name])


def payoff(name: str) -> Callable[[Array], Array]:
    """Reward of a game: joint actions [..., 2, 1] -> [...]."""
    return reward_of(GAMES[name])


def reward_in(env: GameEnv) -> Callable[[Array], Array]:
    """The exact reward that an environment tells of."""
    assert env.spec.payoff is not None
    return env.spec.payoff


@functools.cache
def data_of(task: str) -> Episodes:
    """The data of a task: 512 joint actions of one step."""
    return make_data(task)


def points_of(data: Episodes) -> np.ndarray:
    """Joint actions [M, 2] of episodes of one step."""
    return np.asarray(data.actions)[:, 0, :, 0]


def episodes_of(actions: np.ndarray, env: GameEnv) -> Episodes:
    """Joint actions [M, 2] played in a polynomial game: M episodes of one step."""
    joint = np.asarray(actions, np.float32)[:, None, :, None]  # [M, 1, 2, 1]
    count = joint.shape[0]
    return Episodes(
        obs=np.ones((count, 2, 2, 1), np.float32),
        state=np.ones((count, 2, 1), np.float32),
        avail=np.ones((count, 2, 2, 1), np.float32),
        actions=joint,
        reward=np.asarray(reward_in(env)(jnp.asarray(joint))),
        terminated=np.ones((count, 1), bool),
        truncated=np.zeros((count, 1), bool),
        filled=np.ones((count, 1), bool),
        behaviour_level=np.full((count, 2), -1, np.int32),
    )


def two_clusters(sigma: float, points: int = POINTS, seed: int = 0) -> np.ndarray:
    """Half of the data around each maximum of twin peaks, [points, 2]: the two actions are
    correlated.
    """
    sign = np.where(np.arange(points) % 2 == 0, 1.0, -1.0)[:, None]
    return sign * peak(*TWIN_PEAKS) + sigma * np.random.default_rng(seed).standard_normal(
        (points, 2)
    )


def permuted(actions: np.ndarray, seed: int = 0) -> np.ndarray:
    """The same marginals with agent y's actions dealt anew: [M, 2]."""
    return np.stack([actions[:, 0], np.random.default_rng(seed).permutation(actions[:, 1])], -1)


def true_field(payoff: Any, points: Array) -> Array:
    """Gradient of the reward at joint actions [..., 2]."""
    return jax.grad(lambda p: payoff(p[..., None]).sum())(points)


def induced_field(payoff: Any, data: Array, points: Array) -> Array:
    """What agents that best respond to data [M, 2] follow at joint policies [..., 2] (the paper's
    grad J, Eq. 4).
    """

    def objective(p: Array) -> Array:
        own = jnp.broadcast_to(p[..., None, :, None], (*p.shape[:-1], data.shape[0], 2, 1))
        return (
            payoff(maddpg.brud_joint_actions(own, jnp.broadcast_to(data[..., None], own.shape)))
            .mean(-2)
            .sum()
        )

    return jax.grad(objective)(points)


def twin_peaks_fixed_point(
    data: np.ndarray, constants: tuple[float, float, float] = TWIN_PEAKS
) -> np.ndarray:
    """Where best responses to data [M, 2] converge in twin peaks: C m / (2A + 2B s), with the other
    agent's moments.
    """
    a, b, c = constants
    data = np.asarray(data, np.float64)
    mean, square = data.mean(0)[::-1], (data**2).mean(0)[::-1]
    return c * mean / (2 * a + 2 * b * square)


def full_batch_of(config: Any) -> Sampler:
    """Every item, once, in every batch: exact gradients."""
    return samplers.uniform(1)._replace(
        draw=lambda state, dataset, key: jnp.arange(dataset.num_steps)
    )


def uniform_sampler_of(config: Any, batch: int = BATCH) -> Sampler:
    """The baseline: uniform draws with replacement; takes any config, so that it replaces
    `pjap_sampler_of`.
    """
    return uniform_sampler.make(uniform_sampler.Config(), batch, 0)


def pjap_sampler_of(config: pjap.Config, batch: int = BATCH) -> Sampler:
    """PJAP on single steps."""
    return pjap.make(config, batch, 0)


def train_paths(
    name: str,
    sampler_of: Any,
    data: Sequence[Episodes],
    seeds: Sequence[int],
    *,
    learner: Sequence[maddpg.Config] = (maddpg.Config(),),
    sampler: Sequence[Any] = (pjap.Config(),),
    epochs: int = EPOCHS,
) -> Paths:
    """Offline MADDPG with the exact critic on every configuration x dataset x seed, in one program.

    learner and sampler configurations are paired; a single one is used with all of the other. They
    may differ in leaves only. Datasets have equal sizes. Equal seeds have equal random streams,
    whatever the sampler.
    """
    count = max(len(learner), len(sampler))
    learner, sampler = ([*x] * (count if len(x) == 1 else 1) for x in (learner, sampler))
    env = game(name)
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack([jnp.asarray(v) for v in x]), *trees)
    datasets = stack([place(episodes, env.spec) for episodes in data])
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    program = _program(name, sampler_of, epochs)
    return Paths(*(np.asarray(x) for x in program(stack(learner), stack(sampler), datasets, keys)))


@functools.cache
def _program(name: str, sampler_of: Any, epochs: int) -> Any:
    """The compiled training of configurations [C], datasets [D] and keys [R]; kept, so that equal
    shapes compile once.
    """
    one = functools.partial(_path, game(name), sampler_of, epochs)
    return jax.jit(
        jax.vmap(
            jax.vmap(jax.vmap(one, (None, None, None, 0)), (None, None, 0, None)),
            (0, 0, None, None),
        )
    )


def _path(
    env: GameEnv,
    sampler_of: Any,
    epochs: int,
    config: maddpg.Config,
    sampler_config: Any,
    dataset: Dataset,
    key: Key,
):
    learner, sampler = maddpg.make(config, env.spec), sampler_of(sampler_config)

    def epoch(carry, now):
        number, key = now
        state, items_state = carry
        draw_key, update_key, told_key = jax.random.split(key, 3)
        items = sampler.draw(items_state, dataset, draw_key)
        state, out = learner.update(state, sampler.gather(dataset, items), update_key)
        if sampler.feedback is not None:
            outcome = Feedback(
                items,
                out.signal,
                (learner.target_policy or learner.policy)(state),
                number + 1,
                told_key,
            )
            items_state = sampler.feedback(items_state, dataset, outcome)
        return (state, items_state), (state.actor[:, 0], out.metrics["distance"])

    init_key, key = jax.random.split(key)
    state = learner.init(init_key)
    inputs = (jnp.arange(epochs), jax.random.split(key, epochs))
    _, (theta, distance) = jax.lax.scan(epoch, (state, sampler.init(dataset)), inputs)
    theta = jnp.concatenate([state.actor[None, :, 0], theta])
    return theta, reward_in(env)(theta[..., None]), distance


def fig2_runs(
    seeds: Sequence[int], epochs: int = 190, capacities: Sequence[int] = CAPACITIES
) -> list[OnlineResult]:
    """Online in sign agreement: as many noisy actions as a batch are added before each update; one
    result a capacity.
    """
    config = maddpg.Config(start_0=-0.6, start_1=0.8, clip=True)
    env = game("sign")
    return [
        train_online(
            lambda c: maddpg.make(c, env.spec),
            config,
            env,
            seeds=seeds,
            steps=epochs,
            batch_size=128,
            online=online_sampler.Config(noise=0.1, num_envs=128, warmup=0, capacity=capacity),
        )
        for capacity in capacities
    ]


def fig3_runs(epochs: int = 200) -> tuple[Episodes, Paths]:
    """Offline in sign agreement, exact gradients, three starts: (data, paths [3, 1, 1, ...])."""
    data = data_of("poly/sign/uniform")
    starts = [maddpg.Config(eta=0.1, start_0=x, start_1=y) for x, y in STARTS_3]
    return data, train_paths("sign", full_batch_of, [data], [0], learner=starts, epochs=epochs)


def fig4_runs(
    centre: str, seeds: Sequence[int], epochs: int = EPOCHS
) -> tuple[list[Episodes], Paths]:
    """Offline in twin peaks, data around the `origin` or the `peak`: (data of each sigma, paths [1,
    3, R, ...]).
    """
    data = [data_of(f"poly/twin_peaks/{centre}-s{sigma:g}") for sigma in SIGMAS_4]
    return data, train_paths("twin_peaks", uniform_sampler_of, data, seeds, epochs=epochs)


def fig5_runs(seeds: Sequence[int], epochs: int = EPOCHS) -> tuple[list[Episodes], Paths, Paths]:
    """Uniform against PJAP, data around the optimum: (data of each sigma, uniform, PJAP paths [1,
    4, R, ...]).
    """
    data = [data_of(f"poly/twin_peaks/peak-s{sigma:g}") for sigma in SIGMAS_5]
    both = [
        train_paths("twin_peaks", kind, data, seeds, epochs=epochs)
        for kind in (uniform_sampler_of, pjap_sampler_of)
    ]
    return data, both[0], both[1]


def pairing_runs(
    seeds: Sequence[int], epochs: int = EPOCHS, sigma: float = 0.2
) -> tuple[list[np.ndarray], dict[str, Paths]]:
    """Correlated data, and the same marginals without the correlation: (both [M, 2], paths [1, 2,
    R, ...] by sampler).
    """
    actions = [two_clusters(sigma), permuted(two_clusters(sigma))]
    data = [episodes_of(points, game("twin_peaks")) for points in actions]
    kinds = {
        "exact gradient": full_batch_of,
        "uniform": uniform_sampler_of,
        "pjap": pjap_sampler_of,
    }
    return actions, {
        name: train_paths("twin_peaks", kind, data, seeds, epochs=epochs)
        for name, kind in kinds.items()
    }


def grid_runs(seeds: Sequence[int], epochs: int = EPOCHS, sigma: float = 1.0) -> Paths:
    """PJAP on a grid of ALPHAS x FLOORS (row-major): paths [24, 1, R, ...]."""
    configs = [pjap.Config(alpha=alpha, eps=eps) for alpha in ALPHAS for eps in FLOORS]
    return train_paths(
        "twin_peaks",
        pjap_sampler_of,
        [data_of(f"poly/twin_peaks/peak-s{sigma:g}")],
        seeds,
        sampler=configs,
        epochs=epochs,
    )


def refresh_runs(seeds: Sequence[int], epochs: int = EPOCHS) -> dict[int, Paths]:
    """PJAP with each size of the refreshed set on the data of Fig. 5: paths [1, 4, R, ...]."""
    data = [data_of(f"poly/twin_peaks/peak-s{sigma:g}") for sigma in SIGMAS_5]
    return {
        refresh: train_paths(
            "twin_peaks",
            pjap_sampler_of,
            data,
            seeds,
            sampler=[pjap.Config(refresh=refresh)],
            epochs=epochs,
        )
        for refresh in REFRESHES
    }
