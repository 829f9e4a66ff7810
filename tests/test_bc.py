"""Behaviour cloning: exact values of products of marginals, recurrent and continuous forms."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from jax import lax
from jaxoff.baselines import bc

from jaxoff.data import recipes, samplers
from jaxoff.data.dataset import Dataset, place
from jaxoff.envs.games.bridge import make_bridge
from jaxoff.envs.games.matrix import XOR, joint_probabilities, make_matrix, mne
from jaxoff.training import TrainSpec, train
from jaxoff.types import EnvSpec, Episodes
from tests import toys
from tests.reference.toy_episodes import toy_episodes, toy_spec


@functools.cache
def cloner(actions: int):
    """program(dataset) -> policies [2, A] after 300 updates of two agents with `actions` choices in
    one state.
    """
    spec = EnvSpec("one-state", 2, 1, 1, actions, True, 1)
    learner, sampler = bc.make(bc.Config(hidden=32, lr=3e-3), spec), samplers.uniform(256)

    @jax.jit
    def program(dataset: Dataset) -> jax.Array:
        def step(state, key):
            return learner.update(
                state, sampler.gather(dataset, sampler.draw((), dataset, key)), key
            )[0], ()

        state, _ = lax.scan(
            step, learner.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 300)
        )
        return learner.policy(state).distribution((), toys.seen(spec))[1].probs

    return spec, program


def cloned_value(data: Episodes, payoff: np.ndarray) -> float:
    """Exact value of the cloned product policy."""
    spec, program = cloner(len(payoff))
    return float((np.asarray(joint_probabilities(program(place(data, spec)))) * payoff).sum())


@pytest.mark.parametrize(("data", "value"), [("a", 1.0), ("b", 0.0), ("c", 2 / 9), ("d", 0.0)])
def test_xor_value_is_that_of_the_product_of_marginals(data, value):
    # (c): pi = (2/3, 1/3) for both: 2 * 2/3 * 1/3 * 1 + 1/9 * -2 = 2/9.
    assert cloned_value(recipes.xor(data, episodes=600), XOR) == pytest.approx(value, abs=0.03)


@pytest.mark.parametrize(("data", "value"), [("balanced", 35 / 9), ("imbalanced", 3.5)])
def test_mne_value_is_that_of_the_product_of_marginals(data, value):
    # Balanced: (5 + 10 + 20)/9. Imbalanced: .64 * 5 + .01 * 10 + .01 * 20. Of the sampled data:
    # their own marginals.
    episodes = recipes.mne_samples(data, 0.0, 0, 10_000)
    counts = (
        np.stack(
            [np.bincount(np.asarray(episodes.actions)[:, 0, i], minlength=3) for i in range(2)]
        )
        / 10_000
    )
    exact = float((np.outer(*counts) * mne(0.0)).sum())
    assert exact == pytest.approx(value, abs=0.15)
    assert cloned_value(episodes, mne(0.0)) == pytest.approx(exact, abs=0.25)


def test_training_loop_reports_the_exact_value():
    results = train(
        TrainSpec(
            "bc",
            "matrix/xor/c",
            seeds=(0, 1),
            config={"hidden": 32, "lr": 3e-3},
            steps=300,
            evaluations=1,
        )
    )
    for run, joint in zip(results.runs, results.history["joint_policy"][-1], strict=True):
        assert run["exact_value"] == pytest.approx(2 / 9, abs=0.05)
        assert run["exact_value"] == pytest.approx(float((joint * XOR).sum()), abs=1e-5)


def test_first_loss_is_the_mean_over_valid_steps_and_agents():
    # All weights zero: every action of 3 has probability 1/3, so the loss is log 3, padding or not.
    dataset = place(toy_episodes((3, 1, 5)), toy_spec())
    batch = toys.window(dataset, dataset.episode_row, 5)
    config = bc.Config(hidden=4, window=-1)
    learner = bc.make(config, toy_spec())
    state = jax.jit(learner.init)(jax.random.key(0))
    zero = state._replace(policy=jax.tree.map(np.zeros_like, state.policy))
    assert float(
        jax.jit(learner.update)(zero, batch, jax.random.key(0))[1].metrics["policy"]
    ) == pytest.approx(np.log(3), rel=1e-6)


def test_recurrent_form_learns_bridge():
    # 60 optimal episodes of 8 steps: the mean -log pi starts at log 5 = 1.61 and falls below half
    # of that.
    env = make_bridge()
    dataset = place(recipes.bridge("optimal", episodes=60), env.spec)
    batch = toys.window(dataset, dataset.episode_row, 8)
    learner = bc.make(bc.Config(hidden=16, lr=0.01, recurrent=True, window=-1), env.spec)

    @jax.jit
    def fit(state):
        return lax.scan(
            lambda s, _: (lambda out: (out[0], out[1].metrics["policy"]))(
                learner.update(s, batch, None)
            ),
            state,
            None,
            150,
        )

    _, losses = fit(jax.jit(learner.init)(jax.random.key(0)))
    assert float(losses[0]) == pytest.approx(np.log(5), abs=0.4)
    assert float(losses[-1]) < 0.5 * np.log(5)


def test_continuous_form_is_a_regression():
    # Every action is (.3, -.2, .5) or its double in equal parts: the least squared error is at the
    # mean, 1.5 times.
    spec = toy_spec(discrete=False)
    dataset = place(toy_episodes((4, 4), discrete=False), spec)
    batch = toys.steps(dataset, dataset.step_row)
    base = np.array([0.3, -0.2, 0.5], np.float32)
    batch = batch._replace(
        obs=np.ones_like(batch.obs),
        actions=base
        * (1 + np.arange(8, dtype=np.float32) % 2)[:, None, None]
        * np.ones((8, 2, 3), np.float32),
    )
    learner = bc.make(bc.Config(hidden=16, lr=0.01), spec)
    fit = jax.jit(
        lambda s: lax.scan(lambda s, _: (learner.update(s, batch, None)[0], ()), s, None, 300)[0]
    )
    state = fit(jax.jit(learner.init)(jax.random.key(0)))
    _, dist = learner.policy(state).distribution((), toys.seen(spec, batch.obs[0]))
    np.testing.assert_allclose(dist.mode(), np.tile(1.5 * np.asarray(base), (2, 1)), atol=0.02)


def test_recurrent_form_needs_a_window():
    with pytest.raises(ValueError, match="field 'window': expected -1"):
        bc.make(bc.Config(recurrent=True), make_matrix("xor", XOR).spec)
