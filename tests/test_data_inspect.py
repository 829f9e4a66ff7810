"""What is said about a dataset."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxoff.data import inspect, pools, recipes, worlds
from jaxoff.data.episodes import concatenate, take
from jaxoff.envs.games.matrix import XOR, make_matrix
from jaxoff.names import Task
from tests.reference.toy_episodes import toy_episodes, toy_spec


def test_numbers_of_a_small_dataset_by_hand():
    episodes = toy_episodes()._replace(actions=np.zeros((3, 5, 2), np.int32))
    found = inspect.describe(episodes, toy_spec())
    # returns 6, 11, 115; lengths 3, 1, 5; all nine states differ
    assert (
        found["episodes"],
        found["transitions"],
        found["return_mean"],
        found["return_min"],
        found["return_max"],
    ) == (3, 9, 44, 6, 115)
    assert found["return_std"] == pytest.approx(np.std([6, 11, 115]))
    assert (found["length_mean"], found["length_min"], found["length_max"]) == (3, 1, 5)
    assert found["joint_saco"] == 1
    assert (found["share_terminated"], found["share_truncated"]) == (
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
    )
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


def test_coverage_tells_huge_states_apart():
    episodes = toy_episodes((4,))
    state = np.broadcast_to(np.arange(5)[:, None] * 1e16, episodes.state[0].shape)
    taken = np.zeros((1, 4, 2), np.int32)
    found = inspect.describe(episodes._replace(state=state[None], actions=taken), toy_spec())
    assert found["joint_saco"] == 1


def test_coverage_hash_agrees_with_a_count_of_rows(monkeypatch):
    monkeypatch.setattr(inspect, "_HASH_ROWS", 700)
    rng = np.random.default_rng(0)
    episodes = toy_episodes(tuple(rng.integers(1, 6, 1500)))
    filled, shape = episodes.filled, episodes.state.shape
    # what is in padding, and the state after the last step, must not count
    few = episodes._replace(
        state=rng.integers(4, size=shape).astype(np.float32),
        actions=rng.integers(3, size=episodes.actions.shape),
    )
    rows = np.concatenate([few.state[:, :-1][filled], few.actions[filled]], 1)
    assert inspect.joint_saco(few) == len(np.unique(rows, axis=0)) / filled.sum() < 0.2


def test_a_win_is_read_from_the_state_after_the_last_step():
    # state[..., 1] is t: it is 3, 1 and 5 after the last steps, and 2, 0, 4 before them
    episodes = toy_episodes((3, 1, 5))
    assert inspect.win_rate(episodes, lambda state: state[..., 1] >= 3) == pytest.approx(2 / 3)
    assert "win_rate" not in inspect.describe(episodes, toy_spec())
    assert inspect.describe(episodes, toy_spec(), lambda state: state[..., 1] == 1)[
        "win_rate"
    ] == pytest.approx(1 / 3)


def test_an_episode_without_an_end_is_not_won():
    episodes = toy_episodes((3, 1))
    open_ended = episodes._replace(
        terminated=np.zeros_like(episodes.terminated), truncated=np.zeros_like(episodes.truncated)
    )
    assert inspect.win_rate(open_ended, lambda state: state[..., 1] >= 0) == 0


def test_copies_and_size_on_the_device():
    twice = concatenate([toy_episodes((3, 1)), toy_episodes((3, 1))])
    found = inspect.describe(twice, toy_spec())
    # rows: 8 steps, 4 last slots, 3 of padding; 8 + 3 + 6 + 2 + 4 numbers each; 4 bytes for 8 + 2 *
    # 4 indices
    assert found["unique_episodes"] == 0.5
    assert found["device_mb"] == pytest.approx((15 * 23 * 4 + 4 * 16) / 1e6)


def test_a_million_steps_are_described_in_seconds():
    import time

    base = toy_episodes((25,) * 400)
    episodes = take(base, np.arange(40_000) % 400)
    begin = time.process_time()
    assert inspect.describe(episodes, toy_spec())["unique_episodes"] == 0.01
    assert time.process_time() - begin < 20


def test_a_pool_is_needed_by_recipes_that_play_policies():
    tasks = {
        "smax/3m/expert": True,
        "smax/3m/random": False,
        "maze/umaze/waypoint": False,
        "matrix/xor/b": False,
        "mpe/tag/mix=[r*3]": True,
    }
    assert {text: worlds.needs_pool(Task.parse(text)) for text in tasks} == tasks
    assert not worlds.needs_pool(Task.parse("omar:mpe/simple_tag/Expert"))
    assert not pools.has("smax/none")


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("agents", [2, 3])
def test_plot_writes_a_picture_for_every_kind_of_action(tmp_path, discrete, agents):
    import dataclasses

    episodes, spec = toy_episodes(discrete=discrete), toy_spec(discrete)
    if agents == 3:
        episodes = episodes._replace(
            actions=np.concatenate([episodes.actions, episodes.actions[:, :, :1]], 2)
        )
        spec = dataclasses.replace(spec, num_agents=3)
        # unknown: no panel of levels
        episodes = episodes._replace(behaviour_level=np.full((3, 3), -1))
    paths = inspect.plot(episodes, spec, tmp_path / "toy.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy.png", "toy.svg"] and {
        p.suffix for p in paths
    } == {".png", ".svg"}
    with Image.open(tmp_path / "toy.png") as image:
        assert image.size == (1440 if agents == 2 else 1080, 840)


def test_levels_are_stacked_to_one_for_each_agent():
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    inspect._plot_levels(axis, np.array([[0, 2], [0, 2], [0, -1], [1, 2]]))
    found = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axis.containers}
    assert found == {
        "unknown": [0, 0.25],
        "level 0": [0.75, 0],
        "level 1": [0.25, 0],
        "level 2": [0, 0.75],
    }
    assert [bar.get_y() + bar.get_height() for bar in axis.containers[-1]] == [1, 1]


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
