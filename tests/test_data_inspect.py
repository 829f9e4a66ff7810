"""What is said about a dataset."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxoff.data import inspect, recipes
from jaxoff.envs.games.matrix import XOR, make_matrix
from tests.reference.toy_episodes import toy_episodes, toy_spec


def test_numbers_of_a_small_dataset_by_hand():
    episodes = toy_episodes()._replace(actions=np.zeros((3, 5, 2), np.int32))
    found = inspect.describe(episodes, toy_spec())
    # returns 6, 11, 115; lengths 3, 1, 5; all nine states differ
    assert (found["episodes"], found["transitions"], found["return_mean"], found["return_min"], found["return_max"]) == (3, 9, 44, 6, 115)
    assert found["return_std"] == pytest.approx(np.std([6, 11, 115]))
    assert (found["length_mean"], found["length_min"], found["length_max"]) == (3, 1, 5)
    assert found["joint_saco"] == 1
    assert (found["share_terminated"], found["share_truncated"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found["action_counts"] == [[9, 0, 0], [9, 0, 0]]
    assert found["behaviour_levels"] == [{0: 1, 1: 1, 2: 1}, {1: 1, 2: 1, 3: 1}]


def test_coverage_counts_state_and_joint_action_once():
    # 1000 steps in one state: two joint actions
    found = inspect.describe(recipes.xor("b"), make_matrix("xor", XOR).spec)
    assert found["joint_saco"] == 2 / 1000
    assert found["action_counts"] == [[500, 500], [500, 500]]


def test_coverage_rounds_to_four_decimals():
    episodes = toy_episodes((4,), discrete=False)
    actions = np.zeros((1, 4, 2, 3), np.float32)
    actions[0, :, 0, 0] = [0.10001, 0.10002, -0.00001, 0.1002]  # 0.1, 0.1, 0, 0.1002
    same = episodes._replace(state=np.zeros_like(episodes.state), actions=actions)
    found = inspect.describe(same, toy_spec(discrete=False))
    assert found["joint_saco"] == 3 / 4
    assert found["action_mean"][0][0] == pytest.approx(actions[0, :, 0, 0].mean())
    assert found["action_std"][1] == [0, 0, 0]


def test_coverage_hash_agrees_with_a_count_of_rows(monkeypatch):
    monkeypatch.setattr(inspect, "_HASH_ROWS", 700)
    rng = np.random.default_rng(0)
    state, actions = rng.integers(4, size=(5000, 3)).astype(np.float32), rng.integers(3, size=(5000, 2))
    expected = len(np.unique(np.concatenate([state, actions], 1), axis=0)) / 5000
    assert inspect._joint_saco(state, actions) == expected < 0.2


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("agents", [2, 3])
def test_plot_writes_a_picture_for_every_kind_of_action(tmp_path, discrete, agents):
    import dataclasses

    episodes, spec = toy_episodes(discrete=discrete), toy_spec(discrete)
    if agents == 3:
        episodes = episodes._replace(actions=np.concatenate([episodes.actions, episodes.actions[:, :, :1]], 2))
        spec = dataclasses.replace(spec, num_agents=3)
    inspect.plot(episodes, spec, tmp_path / "toy.png")
    assert [p.name for p in tmp_path.iterdir()] == ["toy.png"]
    with Image.open(tmp_path / "toy.png") as image:
        assert image.size == (1080, 840)


def test_plot_of_two_real_actions_is_a_scatter_and_other_suffixes_are_refused(tmp_path):
    from matplotlib.figure import Figure

    episodes, spec = recipes.polynomial("sign", "uniform"), None
    from jaxoff.envs.games.polynomial import GAMES, make_polynomial

    spec = make_polynomial("sign", GAMES["sign"]).spec
    axis = Figure().subplots()
    inspect._plot_actions(axis.figure, axis, episodes.actions[episodes.filled], spec)
    np.testing.assert_array_equal(axis.collections[0].get_offsets(), episodes.actions[:, 0, :, 0])
    with pytest.raises(ValueError, match=r"ends in \.png, found '\.pdf'"):
        inspect.plot(episodes, spec, tmp_path / "x.pdf")
