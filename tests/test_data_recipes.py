"""Recipes: the datasets of the papers, and how an environment is rolled into episodes."""

from __future__ import annotations

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff import registry
from jaxoff.data import recipes
from jaxoff.data.dataset import validate
from jaxoff.data.episodes import concatenate, cut, lengths_of, take, trim, with_level
from jaxoff.envs.games.bridge import make_bridge
from jaxoff.envs.games.matrix import XOR, make_matrix, mne
from jaxoff.names import DataOptions
from jaxoff.types import Policy
from tests.reference import bridge_numpy

KEY = jax.random.key(0)
STAY, LEFT = 0, 4


@pytest.fixture(scope="module")
def mixed():
    """Bridge's mixed data of seed 5: 500 random episodes, then 500 optimal ones."""
    return recipes.bridge("mixed", seed=5)


@pytest.fixture(scope="module")
def random_part():
    return recipes.bridge("random", seed=5)


@pytest.fixture(scope="module")
def optimal_part():
    return recipes.bridge("optimal", seed=5)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------ record,
# replay


def test_record_stops_at_the_end_and_leaves_zeros_behind(random_part):
    episodes = random_part
    validate(episodes, make_bridge().spec)
    lengths = lengths_of(episodes)
    assert lengths.min() < lengths.max() == 50
    e = int(lengths.argmin())
    assert episodes.terminated[e, lengths[e] - 1]
    assert not episodes.obs[e, lengths[e] + 1 :].any() and episodes.obs[e, lengths[e]].any()
    for field in (
        episodes.avail[e, lengths[e] + 1 :],
        episodes.actions[e, lengths[e] :],
        episodes.reward[e, lengths[e] :],
    ):
        assert not field.any()


def test_record_asks_the_policy_at_each_step_and_stores_what_it_did():
    env = make_matrix("xor", XOR, plays=4)
    # plays the other of its last actions; the first play sees -1, so (0, 0), (1, 1), (0, 0), (1, 1)
    other = Policy(
        lambda shape: (),
        lambda memory, seen: (memory, distrax.Deterministic((seen.last_actions + 1) % 2)),
    )
    episodes = recipes.record(env, other, 3, KEY)
    np.testing.assert_array_equal(episodes.actions[0, :, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(episodes.reward, np.tile([0, -2, 0, -2], (3, 1)))


def test_random_actions_never_take_what_is_not_available():
    env = make_matrix("xor", XOR)
    _, first = env.reset(KEY)
    first = first._replace(avail=jnp.array([[0.0, 1.0], [1.0, 1.0]]))
    _, dist = recipes.random_policy(env.spec).distribution((), first)
    drawn = dist.sample(seed=KEY, sample_shape=200)
    assert (np.unique(drawn[:, 0]).tolist(), np.unique(drawn[:, 1]).tolist()) == ([1], [0, 1])


def test_replay_of_a_recording_gives_the_recording(random_part):
    replayed = recipes.replay(make_bridge(horizon=50), random_part.actions, KEY)
    assert equal(with_level(replayed, 0), random_part)


def test_replay_that_runs_out_of_actions_is_truncated():
    episodes = recipes.replay(make_bridge(horizon=20), np.full((2, 3, 2), STAY), KEY)
    np.testing.assert_array_equal(episodes.truncated, [[False, False, True]] * 2)
    assert not episodes.terminated.any()


def test_replay_refuses_actions_of_a_wrong_shape():
    with pytest.raises(ValueError, match=r"expected shape \[E, T, 2\], found \(4, 3, 3\)"):
        recipes.replay(make_bridge(), np.zeros((4, 3, 3), int), KEY)


# ------------------------------------------------------------------------------------------- parts


def test_cut_keeps_the_next_observation_and_marks_the_lost_end(mixed):
    short = cut(mixed, 20)
    lengths = lengths_of(mixed)
    assert short.reward.shape == (1000, 20)
    np.testing.assert_array_equal(short.state, mixed.state[:, :21])
    np.testing.assert_array_equal(short.truncated[:, -1], lengths > 20)
    np.testing.assert_array_equal(short.terminated.any(1), lengths <= 20)
    validate(short, make_bridge().spec)


def test_cut_changes_nothing_where_all_are_shorter(optimal_part):
    assert equal(cut(optimal_part, 20), optimal_part)


def test_concatenate_pads_to_the_longest(random_part, optimal_part):
    both = concatenate([optimal_part, random_part])
    assert both.obs.shape[:2] == (1000, random_part.obs.shape[1])
    assert equal(trim(take(both, np.arange(500))), optimal_part)
    assert equal(take(both, np.arange(500, 1000)), random_part)


# ------------------------------------------------------------------------------------------- games


@pytest.mark.parametrize(("quality", "count"), [("a", 1000), ("b", 1000), ("c", 999), ("d", 1000)])
def test_xor_has_each_listed_joint_action_equally_often(quality, count):
    joint = recipes.xor(quality).actions[:, 0]
    found, each = np.unique(joint, axis=0, return_counts=True)
    assert [tuple(row) for row in found.tolist()] == recipes.XOR_ACTIONS[quality]
    assert each.tolist() == [count // len(found)] * len(found)


@pytest.mark.parametrize("payoff", [XOR, mne(-20.0)], ids=["xor", "mne"])
def test_the_episodes_of_a_matrix_game_are_those_that_its_environment_plays(payoff):
    joint = np.random.default_rng(0).integers(len(payoff), size=(50, 2)).astype(np.int32)
    played = recipes.replay(make_matrix("game", payoff), joint[:, None], jax.random.key(0))
    chex.assert_trees_all_equal(recipes.paid(payoff, joint), played, strict=True)


def test_xor_is_shuffled_by_its_seed():
    a, again, b = (recipes.xor("b", seed).actions for seed in (0, 0, 1))
    assert (a == again).all() and (a != b).any()
    assert 300 < np.abs(np.diff(a[:, 0, 0])).sum() < 700  # neighbours differ about half the time


@pytest.mark.parametrize("quality", recipes.MNE_MARGINALS)
def test_mne_follows_its_marginals(quality):
    joint = recipes.mne_samples(quality).actions[:, 0]
    assert len(joint) == 10_000
    p = np.array(recipes.MNE_MARGINALS[quality])
    share = np.bincount(joint[:, 0] * 3 + joint[:, 1], minlength=9) / 10_000
    # five standard deviations of a share: 5 sqrt(p (1 - p) / 10000) <= 0.025
    np.testing.assert_allclose(share.reshape(3, 3), np.outer(p, p), atol=0.025)


def test_mne_imbalanced_holds_the_best_joint_action_often_enough():
    joint = recipes.mne_samples("imbalanced").actions[:, 0]
    assert (joint == 2).all(1).sum() >= 20  # 100 are expected


def test_mne_off_diagonal_reward_is_part_of_the_scenario():
    plain, hard = (
        registry.make_data(f"matrix/{s}/balanced", DataOptions(episodes=200))
        for s in ("mne", "mne-20")
    )
    np.testing.assert_array_equal(plain.actions, hard.actions)
    np.testing.assert_array_equal(np.where(plain.reward == 0, -20, plain.reward), hard.reward)


def reference_positions(script):
    """Position sequences, by the independent reference, of scripts [E, 8, 2]; asserts that each
    ends then.
    """
    found = []
    for actions in script:
        cells, done, path = [(1, 2), (1, 3)], [False, False], []
        for t, joint in enumerate(actions):
            assert not all(done)
            cells, done, _, _ = bridge_numpy.step(cells, done, t, 50, joint)
            path.append(tuple(cells))
        assert all(done)
        found.append(tuple(path))
    return found


def test_bridge_optimal_is_sixteen_ways_of_three_returns(optimal_part):
    episodes = optimal_part
    assert episodes.reward.shape == (500, 8)
    assert episodes.terminated[:, -1].all() and not episodes.truncated.any()
    returns, counts = np.unique(episodes.reward.sum(1).round(4), return_counts=True)
    np.testing.assert_allclose(returns, [-1.2904, -1.2591, -1.2355])
    # a third each, five deviations
    assert (np.abs(counts - 500 / 3) < 5 * np.sqrt(500 * 2 / 9)).all()
    first = np.unique(episodes.actions[:, 0], axis=0, return_counts=True)
    assert first[0].tolist() == [[3, 3], [4, 4]] and (np.abs(first[1] - 250) < 56).all()
    assert len(set(reference_positions(recipes.bridge_script(2000, seed=3)))) == 16


def test_bridge_finished_agents_act_at_random():
    script = recipes.bridge_script(2000, seed=0)
    left = script[:, 0, 0] == LEFT  # agent 1 crosses first and has finished after four steps
    share = np.bincount(script[left, 4:, 1].ravel(), minlength=5) / (4 * left.sum())
    np.testing.assert_allclose(share, 0.2, atol=0.03)


def test_bridge_mixed_is_random_episodes_then_optimal_ones(mixed, random_part, optimal_part):
    np.testing.assert_array_equal(mixed.behaviour_level[:, 0], [0] * 500 + [1] * 500)
    assert equal(concatenate([random_part, optimal_part]), mixed)


def test_bridge_task_quality_may_cut(optimal_part):
    found = registry.make_data("grid/bridge/optimal-h6", DataOptions(seed=5))
    assert equal(found, cut(optimal_part, 6)) and found.truncated[:, 5].all()


def test_bridge_random_scores_as_exact_dynamic_programming_says(random_part):
    returns = random_part.reward.sum(1)
    # exact value -17.559 for 50 steps; a mean of 500 of standard deviation about 4 is within 5 * 4
    # / sqrt(500) = 0.9
    assert returns.mean() == pytest.approx(-17.559, abs=0.9)


# -------------------------------------------------------------------------------------- polynomial


def test_sign_uniform_has_the_published_sample_mean():
    joint = recipes.polynomial("sign", "uniform").actions[:, 0, :, 0]
    assert joint.shape == (512, 2)
    np.testing.assert_allclose(joint.mean(0, dtype=np.float64), [-0.02, 0.04], atol=1e-7)


def test_uniform_is_raw_elsewhere_and_covers_the_square():
    joint = recipes.polynomial("action", "uniform", episodes=4000).actions[:, 0, :, 0]
    assert -1 <= joint.min() < -0.99 and 0.99 < joint.max() <= 1
    assert (joint.mean(0) != 0).all()
    np.testing.assert_allclose(joint.var(0), 1 / 3, atol=0.03)


@pytest.mark.parametrize(
    ("quality", "mean", "sigma"),
    [
        ("origin-s0", 0, 0),
        ("origin-s1", 0, 1),
        ("peak-s0.5", 0.6123724357, 0.5),
        ("normal-m-0.25-s0.1", -0.25, 0.1),
    ],
)
def test_gaussian_qualities_have_their_moments(quality, mean, sigma):
    joint = recipes.polynomial("twin_peaks", quality, episodes=4000).actions[:, 0, :, 0]
    # five standard deviations of a mean of 4000: 0.08 sigma; unclipped, so sigma is kept
    np.testing.assert_allclose(joint.mean(0, dtype=np.float64), mean, atol=0.08 * sigma + 1e-6)
    np.testing.assert_allclose(joint.std(0), sigma, atol=0.06 * sigma + 1e-6)


@pytest.mark.parametrize(
    "quality", ["peak-s0.5", "origin-s1", "normal-m1", "normal-m0-s-1", "best"]
)
def test_qualities_that_a_game_has_not_are_refused(quality):
    with pytest.raises(ValueError, match="poly/sign"):
        recipes.polynomial("sign", quality)


# -------------------------------------------------------------------------------------------- tasks


OWN = [t for t in registry.tasks() if t.split("/")[0] in ("matrix", "poly")]  # Bridge is above


@pytest.mark.parametrize("task", [*OWN, "poly/action/normal-m0.5-s0.1"])
def test_every_listed_task_has_valid_data_of_the_asked_size(task):
    episodes = registry.make_data(task, DataOptions(seed=1, episodes=12))
    assert episodes.reward.shape[0] == 12
    validate(episodes, registry.make_env(task).spec, task)


@pytest.mark.parametrize("task", ["matrix/mne/balanced", "poly/twin_peaks/peak-s1"])
def test_a_recipe_is_a_function_of_its_seed(task):
    a, again, b = (
        registry.make_data(task, DataOptions(seed=seed, episodes=20)) for seed in (7, 7, 8)
    )
    assert equal(a, again) and not np.array_equal(a.actions, b.actions)


def test_a_recording_and_a_script_follow_their_seeds():
    env = make_matrix("xor", XOR)
    policy = recipes.random_policy(env.spec)
    a, again, b = (
        recipes.record(env, policy, 50, jax.random.key(seed)).actions for seed in (5, 5, 6)
    )
    assert (a == again).all() and (a != b).any()
    a, again, b = (recipes.bridge_script(50, seed) for seed in (5, 5, 6))
    assert (a == again).all() and (a != b).any()


def test_a_dataset_of_no_episodes_is_refused():
    with pytest.raises(ValueError, match="expected at least 1, found 0"):
        registry.make_data("matrix/mne/balanced", DataOptions(episodes=0))
    with pytest.raises(ValueError, match="expected at least 4, found 3"):
        registry.make_data("matrix/xor/d", DataOptions(episodes=3))
