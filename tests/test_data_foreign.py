"""Vaults that flashbax wrote without jaxoff: ends of episodes, odd shapes and types, and sizes that
are not true.
"""

from __future__ import annotations

import numpy as np
import pytest

from jaxoff.data import disk
from jaxoff.data.dataset import InvalidEpisodes, validate
from jaxoff.errors import InvalidDataset, JaxoffError
from jaxoff.types import EnvSpec
from tests.toys import put_array, write_vault


def both(values):
    return np.repeat(np.array(values, np.float32)[:, None], 2, 1)


def tree_of(steps=6):
    """Rewards 1..6; step 1 is terminal, step 3 truncated, and the last episode is unfinished."""
    return {
        "observations": np.arange(steps * 2 * 3, dtype=np.float32).reshape(steps, 2, 3),
        "actions": np.array([[0, 1], [1, 0], [1, 1], [0, 0], [1, 0], [0, 1]], np.int32),
        "rewards": both([1, 2, 3, 4, 5, 6]),
        "terminals": both([0, 1, 0, 0, 0, 0]),
        "truncations": both([0, 0, 0, 1, 0, 0]),
        "infos": {
            "state": np.arange(steps * 4, dtype=np.float32).reshape(steps, 4),
            "legals": np.ones((steps, 2, 2), np.float32),
        },
    }


@pytest.fixture
def read(tmp_path, capsys):
    """Episodes of a tree, or of several streams, by way of a vault that flashbax writes."""

    def load(tree, streams=()):
        folder = tmp_path / str(len(list(tmp_path.iterdir()))) / "foreign.vlt"
        return disk.load(write_vault(folder, tree, streams=streams))[0]

    return load


def test_a_vault_is_read_with_its_true_length(tmp_path, capsys):
    episodes, metadata = disk.load(write_vault(tmp_path / "foreign.vlt", tree_of()))
    assert metadata["structure_shape"]["rewards"] == "(1, 10, 2)"  # the buffer was longer
    assert episodes.filled.sum(1).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(episodes.reward, [[1, 2], [3, 4], [5, 6]])
    assert episodes.terminated.tolist() == [[False, True], [False, False], [False, False]]
    assert episodes.truncated.tolist() == [[False, False], [False, True], [False, True]]
    # unknown, so repeated
    np.testing.assert_array_equal(episodes.state[:, 2], episodes.state[:, 1])
    np.testing.assert_array_equal(episodes.state[1, 0], [8, 9, 10, 11])
    validate(episodes, EnvSpec("foreign", 2, 3, 4, 2, True, 2))


def test_an_episode_ends_where_each_agent_ends_in_its_own_way(read):
    tree = tree_of()
    # At step 3 agent 0 is terminal, while agent 1 meets the clock; at step 2 agent 0 alone is.
    tree["terminals"][2:4, 0], tree["truncations"][3, 0] = 1, 0
    episodes = read(tree)
    assert episodes.filled.sum(1).tolist() == [2, 2, 2]
    assert not episodes.terminated[1].any() and episodes.truncated[1, 1]


def test_streams_follow_each_other_and_each_has_an_unfinished_end(read):
    # The first stream ends in the middle of an episode, which the second one does not continue.
    second = tree_of()
    second["rewards"], second["terminals"] = second["rewards"] + 10, both([0, 0, 0, 0, 0, 1])
    episodes = read(tree_of(), [tree_of(), second])
    assert episodes.filled.sum(1).tolist() == [2, 2, 2, 4, 2]
    np.testing.assert_array_equal(episodes.reward[2:4], [[5, 6, 0, 0], [11, 12, 13, 14]])
    assert episodes.terminated.any(1).tolist() == [True, False, False, False, True]


TEAM = {
    "scalars": lambda x: x[:, 0],
    "a column": lambda x: x[:, :1],
    "an axis": lambda x: x[..., None],
}


@pytest.mark.parametrize("shape", TEAM)
@pytest.mark.parametrize("names", [("rewards",), ("terminals", "truncations")])
def test_numbers_of_the_team_count_for_every_agent(shape, names, read):
    wanted, tree = read(tree_of()), tree_of()
    for name in names:
        tree[name] = TEAM[shape](tree[name])
    for found, value in zip(read(tree), wanted, strict=True):
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, bool])
def test_whole_numbers_are_actions_whatever_their_type(dtype, read):
    tree = tree_of()
    tree["actions"] = tree["actions"].astype(dtype)
    episodes = read(tree)
    assert episodes.actions.dtype == np.int32
    np.testing.assert_array_equal(episodes.actions.reshape(6, 2), tree_of()["actions"])


@pytest.mark.parametrize("legals", [True, False])
def test_floats_with_an_axis_of_one_number_are_choices_only_where_that_is_certain(legals, read):
    tree = tree_of()
    tree["actions"] = tree["actions"][..., None].astype(np.float32)
    if legals:
        assert read(tree).actions.dtype == np.int32
    else:
        del tree["infos"]["legals"]
        with pytest.raises(InvalidEpisodes, match="'actions': expected reals, or indices beside"):
            read(tree)
    tree["actions"] = tree["actions"] - 0.5
    assert read(tree).actions.shape == (3, 2, 2, 1)


def test_oddities_are_made_regular(read):
    tree = tree_of()
    tree["actions"] = tree["actions"][..., None]  # as in RWARE
    tree["observations"][:, 1, 2] = -np.inf  # padding of OMAR's tag
    tree["infos"]["state"] = tree["infos"]["state"].reshape(6, 2, 2)  # one state an agent
    del tree["infos"]["legals"]
    tree["rewards"][:, 1] += 2  # rewards that are not shared: their mean
    episodes = read(tree)
    assert episodes.actions.shape == (3, 2, 2)
    assert not episodes.obs[:, :, 1, 2].any()
    np.testing.assert_array_equal(episodes.state[0, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(episodes.reward, [[2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(episodes.avail, np.ones((3, 3, 2, 2)))


def test_legals_of_continuous_actions_are_ignored(read):
    tree = tree_of()
    tree["actions"] = np.linspace(-1, 1, 6 * 2 * 3, dtype=np.float32).reshape(6, 2, 3)
    tree["infos"]["legals"] = np.zeros((6, 2, 5), np.float32)
    episodes = read(tree)
    assert episodes.actions.dtype == np.float32
    np.testing.assert_array_equal(episodes.avail, np.ones((3, 3, 2, 3)))


WRONG = {
    "flags of three agents": (
        "terminals",
        np.zeros((6, 3)),
        r"'terminals': expected shape \(6, 2\)",
    ),
    "flags of two axes": ("truncations", np.zeros((6, 2, 2)), r"'truncations': expected shape"),
    "flags that wrapped": ("terminals", np.full((6, 2), 254, np.uint8), "flags 0 and 1, found 254"),
    "flags that are shares": ("terminals", both([0, 0.5, 0, 0, 0, 0]), "found 0.5 and 1 more"),
    "flags that are NaN": ("truncations", both([0, np.nan, 0, 0, 0, 0]), "'truncations': expected"),
    "rewards of three agents": ("rewards", np.zeros((6, 3)), r"'rewards': expected shape \(6, 2\)"),
    "rewards that are NaN": (
        "rewards",
        both([0, np.nan, 0, 0, 0, 0]),
        "'rewards': expected finite",
    ),
    "observations of one agent": ("observations", np.zeros((6, 3)), "'observations': expected"),
    "half actions": ("actions", both([0, 0.5, 1, 0, 0, 0]), r"'actions': .* 0\.0\.\.1\.0, 2 of"),
    "negative actions": ("actions", both([0, -1, 1, 0, 0, 0]), r"found -1\.0\.\.1\.0, 0 of them"),
    "actions beyond legals": ("actions", np.full((6, 2), 2), r"whole numbers 0\.\.1, found 2\.\.2"),
    "one-hot actions": ("actions", np.ones((6, 2, 2), np.int32), "expected indices"),
    "actions of three agents": ("actions", np.zeros((6, 3), np.int32), "'actions': expected shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_certain_is_refused_by_name(case, read):
    name, value, message = WRONG[case]
    with pytest.raises(InvalidEpisodes, match=message):
        read({**tree_of(), name: value})


def test_a_tree_that_lacks_an_array_is_refused_by_name(read):
    tree = tree_of()
    del tree["truncations"]
    with pytest.raises(InvalidDataset, match="found no truncations"):
        read(tree)


# ------------------------------------------------------------------------ sizes that are not true


@pytest.mark.parametrize("index", [0, -3, 2**31 - 1, 200_000])
def test_an_index_beyond_what_is_stored_is_refused_at_once(index, tmp_path, capsys):
    folder = write_vault(tmp_path / "foreign.vlt", tree_of())
    put_array(folder, "vault_index", np.array([index], np.int32))
    with pytest.raises(InvalidDataset, match=r"'vault_index'.*found (-?\d|1 chunks)"):
        disk.load(folder)


def test_a_vault_that_is_larger_than_the_memory_is_refused(tmp_path, capsys, monkeypatch):
    folder = write_vault(tmp_path / "foreign.vlt", tree_of())
    monkeypatch.setattr("jaxoff.runtime.free_memory_bytes", lambda: 2**20)
    message = r"Good: array 'observations': expected a chunk of at most 1,048,576 bytes"
    with pytest.raises(JaxoffError, match=message):
        disk.load(folder)


def test_an_array_of_other_streams_or_with_less_chunks_is_refused_by_name(tmp_path, capsys):
    folder = write_vault(tmp_path / "foreign.vlt", tree_of())
    put_array(folder, "terminals.", np.zeros((2, 6, 2), np.float32))
    with pytest.raises(InvalidDataset, match=r"'terminals': expected shape \(1, steps, \.\.\.\)"):
        disk.load(folder)
    put_array(folder, "terminals.", np.zeros((1, 6, 2), np.float32), rows=4)
    with pytest.raises(InvalidDataset, match=r"'terminals': .* in 6 chunks, found 4 chunks"):
        disk.load(folder)
