"""Rewards of agents' own: in batches, on disk, and in vaults of others."""

from __future__ import annotations

import numpy as np
import pytest

from jaxoff.batches import flatten
from jaxoff.data import disk, vault
from jaxoff.data.dataset import InvalidEpisodes, estimate_bytes, place, validate
from jaxoff.data.episodes import concatenate, cut, take, trim
from tests import toys
from tests.reference.toy_episodes import toy_episodes, toy_spec


def paid_apart(discrete: bool = True):
    """Toy episodes of lengths 3, 1, 5 whose agents get half more and half less than the team."""
    episodes = toy_episodes(discrete=discrete)
    return episodes._replace(
        agent_reward=episodes.reward[..., None] * np.array([1.5, 0.5], np.float32)
    )


def equal(a, b):
    for name, x, y in zip(a._fields, a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_windows_have_it_beside_the_teams_and_zero_on_padding(dtype):
    dataset = place(paid_apart(), toy_spec(), obs_dtype=dtype)
    batch = toys.window(dataset, dataset.episode_row, 6)
    # the reward of step t of episode e is 10 e + t + 1, for its length of 3, 1, 5
    np.testing.assert_array_equal(
        batch.reward, [[1, 2, 3, 0, 0, 0], [11, 0, 0, 0, 0, 0], [21, 22, 23, 24, 25, 0]]
    )
    np.testing.assert_array_equal(batch.agent_reward[..., 0], 1.5 * batch.reward)
    np.testing.assert_array_equal(batch.agent_reward.mean(-1), batch.reward)


def test_single_steps_and_flat_batches_have_it():
    dataset = place(paid_apart(), toy_spec())
    steps = toys.steps(dataset, dataset.step_row)
    np.testing.assert_array_equal(steps.agent_reward, steps.reward[:, None] * np.array([1.5, 0.5]))
    assert flatten(toys.window(dataset, dataset.episode_row, 6)).agent_reward.shape == (18, 2)


def test_a_shared_reward_is_none_and_takes_no_room():
    plain = place(toy_episodes(), toy_spec())
    assert toys.window(plain, plain.episode_row, 2).agent_reward is None
    # 9 steps + 3 last slots + 5 rows of padding, two floats each
    assert (
        estimate_bytes(paid_apart(), toy_spec()) - estimate_bytes(toy_episodes(), toy_spec())
        == 17 * 2 * 4
    )


def test_parts_of_datasets_keep_it():
    episodes = paid_apart()
    equal(concatenate([trim(take(episodes, np.array([k]))) for k in range(3)]), episodes)
    np.testing.assert_array_equal(cut(episodes, 2).agent_reward, episodes.agent_reward[:, :2])


def test_a_wrong_shape_is_refused():
    with pytest.raises(
        InvalidEpisodes,
        match=r"episodes: field 'agent_reward': expected shape \(3, 5, 2\), found \(3, 5\)",
    ):
        validate(paid_apart()._replace(agent_reward=toy_episodes().reward), toy_spec())


def test_numbers_that_are_not_finite_are_refused_but_not_on_padding():
    episodes = paid_apart()
    episodes.agent_reward[1, 1:] = np.nan
    validate(episodes, toy_spec())
    episodes.agent_reward[2, 4, 1] = np.inf
    with pytest.raises(
        InvalidEpisodes, match="field 'agent_reward': expected finite numbers, found 1 that are not"
    ):
        validate(episodes, toy_spec())


# ----------------------------------------------------------------------------------------------
# disk


@pytest.mark.parametrize("discrete", [True, False], ids=["discrete", "continuous"])
def test_the_disk_keeps_it(tmp_path, discrete):
    path, episodes = tmp_path / "toy.vlt" / "apart", paid_apart(discrete)
    disk.save(path, episodes, toy_spec(discrete), {})
    equal(disk.load(path)[0], episodes)
    rewards = vault.read_array(path, "rewards.", 9)
    assert rewards.shape == (1, 9, 2)  # (1, M, N), as others read it
    np.testing.assert_array_equal(rewards[0], episodes.agent_reward[episodes.filled])


def test_a_shared_reward_comes_back_from_disk_as_none(tmp_path):
    disk.save(tmp_path / "toy.vlt" / "shared", toy_episodes(), toy_spec(), {})
    assert disk.load(tmp_path / "toy.vlt" / "shared")[0].agent_reward is None
    assert (vault.read_array(tmp_path / "toy.vlt" / "shared", "rewards.", 9)[0].std(-1) == 0).all()


@pytest.mark.parametrize("apart", [True, False])
def test_a_vault_of_another_writer_has_their_mean_and_where_they_differ_each(tmp_path, apart):
    rewards = (
        np.array([[1.0, 3.0], [2.0, 4.0], [5.0, 5.0]], np.float32)
        if apart
        else np.ones((3, 2), np.float32)
    )
    ends = np.array([[0, 0], [1, 1], [1, 1]], np.float32)  # episodes of two steps and of one
    tree = {
        "observations": np.zeros((1, 3, 2, 4), np.float32),
        "actions": np.zeros((1, 3, 2), np.int32),
        "rewards": rewards[None],
        "terminals": ends[None],
        "truncations": np.zeros((1, 3, 2), np.float32),
        "infos": {"state": np.zeros((1, 3, 3), np.float32)},
    }
    vault.write_vault(tmp_path / "other.vlt" / "x", tree, {})
    found = disk.load(tmp_path / "other.vlt" / "x")[0]
    if apart:
        np.testing.assert_array_equal(found.reward, [[2, 3], [5, 0]])  # (1 + 3) / 2, (2 + 4) / 2; 5
        np.testing.assert_array_equal(found.agent_reward, [[[1, 3], [2, 4]], [[5, 5], [0, 0]]])
    else:
        np.testing.assert_array_equal(found.reward, [[1, 1], [1, 0]])
        assert found.agent_reward is None
