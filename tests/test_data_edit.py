"""Datasets joined, drawn from and split: copies stay together, steps stay whole, errors name the
field.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from jaxoff.data import disk, edit
from jaxoff.data.episodes import concatenate, lengths_of, returns_of, take, zeros
from jaxoff.types import Episodes
from tests.reference.toy_episodes import toy_episodes, toy_spec


def copies(times: int, lengths: tuple[int, ...] = (3, 1, 5, 2)) -> Episodes:
    """Every episode `times` times, one after the other: 0 0 1 1 ..., each copy of another level."""
    made = take(toy_episodes(lengths), np.repeat(np.arange(len(lengths)), times))
    return made._replace(behaviour_level=np.arange(2 * len(made.filled)).reshape(-1, 2))


def numbers(episodes: Episodes) -> np.ndarray:
    """The number of each episode before it was moved: state[:, 0, 2] is 100 e."""
    return (episodes.state[:, 0, 2] / 100).astype(int)


def assert_whole(episodes: Episodes) -> None:
    """state[t] is (e, t, 100 e + t) from t = 0 to L, one end flag on the last step, and nothing
    after it.
    """
    for e, length in enumerate(lengths_of(episodes)):
        np.testing.assert_array_equal(episodes.state[e, : length + 1, 1], np.arange(length + 1))
        assert (episodes.state[e, : length + 1, 0] == episodes.state[e, 0, 0]).all()
        ends = episodes.terminated[e] | episodes.truncated[e]
        assert ends.tolist() == [t == length - 1 for t in range(episodes.reward.shape[1])]
        assert not episodes.state[e, length + 1 :].any()


# ----------------------------------------------------------------------------------------- copies


def test_groups_are_numbered_as_they_appear_and_levels_do_not_count():
    np.testing.assert_array_equal(edit.unique_groups(copies(2)), [0, 0, 1, 1, 2, 2, 3, 3])


def test_padding_does_not_tell_copies_apart_but_any_real_number_does():
    episodes = copies(2, (1, 2))
    dirty = episodes.obs.copy()
    dirty[1, 2] = 7.0  # episode 1 has one step, so slot 2 is padding
    np.testing.assert_array_equal(edit.unique_groups(episodes._replace(obs=dirty)), [0, 0, 1, 1])
    dirty[1, 1] += 1e-6 + dirty[1, 1] * 1e-5  # the slot after its last step is not
    np.testing.assert_array_equal(edit.unique_groups(episodes._replace(obs=dirty)), [0, 1, 2, 2])


def test_an_episode_is_no_copy_of_a_longer_one_that_begins_alike():
    long = toy_episodes((4,))
    filled = np.array([[True, True, False, False]])
    short = long._replace(filled=filled)
    assert edit.unique_groups(concatenate([long, short])).tolist() == [0, 1]


# ------------------------------------------------------------------------------------------ split


@pytest.mark.parametrize("seed", range(5))
def test_copies_never_lie_on_both_sides(seed):
    first, second = edit.split(copies(8, (3, 1, 5, 2, 4)), 0.6, seed)
    assert len(first.filled) == 24 and len(second.filled) == 16  # 3 of 5 groups of 8
    assert not set(numbers(first)) & set(numbers(second))
    assert set(numbers(first)) | set(numbers(second)) == set(range(5))


def test_split_is_a_function_of_its_seed_and_keeps_order_and_steps():
    episodes = toy_episodes((3, 1, 5, 2, 4, 4, 1, 2))
    np.random.seed(0)  # noqa: NPY002
    one = edit.split(episodes, 0.75, 3)
    np.random.seed(1)  # noqa: NPY002 (the global generator plays no part)
    two = edit.split(episodes, 0.75, 3)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.state, b.state)
        assert_whole(a)
        assert (np.diff(numbers(a)) > 0).all()
    assert (len(one[0].filled), len(one[1].filled)) == (6, 2)
    assert {tuple(numbers(edit.split(episodes, 0.75, seed)[1])) for seed in range(10)} != {
        tuple(numbers(one[1]))
    }


def test_both_parts_have_an_episode_however_small_the_share():
    for share in (0.001, 0.999):
        assert min(len(part.filled) for part in edit.split(toy_episodes((3, 1, 5)), share, 0)) == 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_outside_of_0_to_1_is_refused(share):
    with pytest.raises(
        ValueError, match=f"split: field 'share': expected a number between 0 and 1, found {share}"
    ):
        edit.split(toy_episodes(), share, 0)


def test_copies_of_one_episode_cannot_be_split():
    with pytest.raises(ValueError, match="split: expected at least two unique episodes, found 1"):
        edit.split(copies(6, (3,)), 0.5, 0)


# -------------------------------------------------------------------------------------- subsample


def test_a_number_of_unique_episodes_is_met_exactly_and_padding_is_cut():
    episodes = toy_episodes((3, 1, 5, 2, 4, 4, 1, 2))
    part = edit.subsample(episodes, 0, episodes=3)
    assert len(part.filled) == 3 and part.reward.shape[1] == lengths_of(part).max()
    assert_whole(part)


@pytest.mark.parametrize("seed", range(5))
def test_steps_are_kept_while_they_fit_in_the_drawn_order(seed):
    # after a shuffle, episodes are kept while their cumulative length is at most 9
    lengths = (3, 1, 5, 2, 4)
    order = np.random.default_rng(seed).permutation(5)
    expected = order[np.cumsum(np.array(lengths)[order]) <= 9]
    part = edit.subsample(toy_episodes(lengths), seed, steps=9)
    assert numbers(part).tolist() == sorted(expected) and part.filled.sum() <= 9
    assert_whole(part)


def test_a_subsample_has_all_copies_of_an_episode_or_none():
    part = edit.subsample(copies(4), 1, episodes=10)
    # two groups of 4 fit in 10
    assert np.unique(numbers(part), return_counts=True)[1].tolist() == [4, 4]


def test_a_subsample_of_everything_is_everything():
    episodes = toy_episodes()
    for part in (edit.subsample(episodes, 0, episodes=3), edit.subsample(episodes, 0, steps=9)):
        for found, expected in zip(part, episodes, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "subsample: expected either episodes or steps, found both or none"),
        (
            {"episodes": 1, "steps": 1},
            "subsample: expected either episodes or steps, found both or none",
        ),
        ({"episodes": 0}, "subsample: field 'episodes': expected at least 1, found 0"),
        ({"steps": 34}, r"subsample: field 'steps': expected 1\.\.33, found 34"),
        (
            {"episodes": 2},
            "field 'episodes': expected at least 3, .* found 2; 4 of 12 episodes are unique",
        ),
    ],
)
def test_limits_that_cannot_be_met_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        edit.subsample(copies(3), 0, **limits)  # 12 episodes, 3 * (3 + 1 + 5 + 2) = 33 steps


# ---------------------------------------------------------------------------------------- combine


def test_parts_follow_each_other_and_no_step_is_lost_or_doubled(tmp_path):
    parts = [toy_episodes((3, 1)), toy_episodes((5,)), toy_episodes((2, 2))]
    both = edit.combine(parts)
    assert lengths_of(both).tolist() == [3, 1, 5, 2, 2] and both.reward.shape == (5, 5)
    assert_whole(both)
    disk.save(tmp_path / "d.vlt" / "0", both, toy_spec(), {})
    read, metadata = disk.load(tmp_path / "d.vlt" / "0")
    np.testing.assert_array_equal(read.state, both.state)
    # statistics are those of the whole: 6, 11 + ... of the toy's rewards 10 e + t + 1
    assert metadata["statistics"]["transitions"] == 13
    assert metadata["statistics"]["return_mean"] == pytest.approx(returns_of(both).mean())


def test_a_split_is_undone_by_combine():
    episodes = toy_episodes((3, 1, 5, 2))
    both = edit.combine(edit.split(episodes, 0.5, 0))
    back = take(both, np.argsort(numbers(both)))
    for found, expected in zip(back, episodes, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"obs": np.zeros((3, 6, 2, 5), np.float32)},
            r"field 'obs': expected \(2, 4\) as in a, found \(2, 5\) in b",
        ),
        (
            {"state": np.zeros((3, 6, 9), np.float32)},
            r"field 'state': expected \(3,\) as in a, found \(9,\) in b",
        ),
        (
            {"avail": np.zeros((3, 6, 2, 7), np.float32)},
            r"field 'avail': expected \(2, 3\) as in a, found \(2, 7\) in b",
        ),
        (
            {"behaviour_level": np.zeros((3, 4), np.int32)},
            "field 'num_agents': expected 2 as in a, found 4 in b",
        ),
    ],
)
def test_parts_of_other_sizes_are_refused_by_field(change, message):
    with pytest.raises(ValueError, match=f"combine: {message}"):
        edit.combine([toy_episodes(), toy_episodes()._replace(**change)], ["a", "b"])


def test_indices_and_reals_are_not_joined():
    expected = (
        r"field 'actions': expected discrete of shape \(2,\) as in part 1, found "
        r"continuous of shape \(2, 3\) in part 2"
    )
    with pytest.raises(ValueError, match=expected):
        edit.combine([toy_episodes(), toy_episodes(discrete=False)])


def test_combining_nothing_is_refused():
    with pytest.raises(ValueError, match="combine: expected at least one dataset, found none"):
        edit.combine([])


def test_the_teams_reward_stands_for_an_agents_where_a_part_has_no_others():
    plain = toy_episodes((2,))
    own = plain._replace(agent_reward=np.stack([plain.reward - 1, plain.reward + 1], -1))
    both = edit.combine([plain, own])
    # rewards 1, 2: both agents have them in the first episode; 0, 1 and 2, 3 in the second
    assert both.agent_reward.tolist() == [[[1, 1], [2, 2]], [[0, 2], [1, 3]]]
    np.testing.assert_array_equal(both.agent_reward.mean(-1), both.reward)


# ------------------------------------------------------------------------------------- provenance


def test_the_digest_tells_datasets_apart():
    episodes = toy_episodes()
    other = episodes.reward.copy()
    other[2, 4] += 1
    assert (
        edit.digest(episodes)
        == edit.digest(toy_episodes())
        != edit.digest(episodes._replace(reward=other))
    )


def test_the_specification_of_a_dataset_on_disk(tmp_path):
    for discrete in (True, False):
        folder = tmp_path / str(discrete) / "0"
        disk.save(folder, toy_episodes(discrete=discrete), toy_spec(discrete), {})
        assert edit.spec_of(*disk.load(folder)) == toy_spec(discrete)
    unnamed = edit.spec_of(toy_episodes(), {})
    assert unnamed == dataclasses.replace(toy_spec(), name="unknown", horizon=5)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's memory counters")
def test_padding_takes_no_memory():
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    whole = zeros((400, 200, 1000), np.float32)  # 320 MB, of which a tenth is written to
    whole[:, :20] = 1.0
    assert resident() - before < 80e6 and whole.sum() == 400 * 20 * 1000
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() != "2":  # may ask for more
        assert zeros((10_000, 400, 4_000), np.float32)[-1, -1, -1] == 0  # 64 GB
