"""Somebody's own data: flat arrays, Minari's files and Vaults as episodes, saved as a folder."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import h5py
import numpy as np
import pytest

import jaxoff
from jaxoff.data import disk
from jaxoff.data.episodes import lengths_of, returns_of
from jaxoff.errors import (
    AlreadyThere,
    InvalidDataset,
    InvalidEpisodes,
    InvalidSetting,
    MissingProgram,
)
from jaxoff.names import UnknownName
from jaxoff.types import Episodes

M, N = 6, 2  # steps of two episodes, of 2 and 4 steps
DONE = np.array([0, 1, 0, 0, 0, 1])
OBS = np.arange(M * N * 3, dtype=np.float64).reshape(M, N, 3)
CHOICES = np.array([[0, 1], [2, 0], [1, 1], [0, 0], [2, 2], [1, 0]])
REWARD = np.arange(M) / 2


def made(**changes):
    fields = {"obs": OBS, "actions": CHOICES, "reward": REWARD, "done": DONE} | changes
    return Episodes.from_steps(**fields)


def test_flat_arrays_are_cut_where_episodes_end():
    episodes = made()
    assert lengths_of(episodes).tolist() == [2, 4]
    # rewards 0 + 1/2, and 1 + 3/2 + 2 + 5/2
    assert returns_of(episodes).tolist() == [0.5, 7.0]
    np.testing.assert_array_equal(episodes.obs[0, :2], OBS[:2])
    np.testing.assert_array_equal(episodes.obs[1, :4], OBS[2:])
    # what follows the last step is not in the arrays: the last observation again
    np.testing.assert_array_equal(episodes.obs[:, [2, 4]][[0, 1], [0, 1]], OBS[[1, 5]])
    np.testing.assert_array_equal(episodes.actions[1], CHOICES[2:])
    assert episodes.terminated.sum(1).tolist() == [1, 1] and not episodes.truncated.any()
    # the state is all observations side by side, and three choices are known of
    np.testing.assert_array_equal(episodes.state[1, 0], OBS[2].ravel())
    assert episodes.avail.shape == (2, 5, 2, 3) and episodes.agent_reward is None


def test_the_slots_after_ends_come_from_next_arrays():
    after = {"next_obs": OBS + 100, "state": OBS[:, 0], "next_state": -OBS[:, 1]}
    avail = np.ones((M, N, 4))
    masks = {"avail": avail, "next_avail": np.where(np.arange(4) == 3, avail, 0)}
    episodes = made(**after, **masks, done=None, truncated=DONE)
    np.testing.assert_array_equal(episodes.obs[0, 2], OBS[1] + 100)
    np.testing.assert_array_equal(episodes.state[0, 2], -OBS[1, 1])
    np.testing.assert_array_equal(episodes.state[0, 1], OBS[1, 0])
    np.testing.assert_array_equal(episodes.avail[0, 2], [[0, 0, 0, 1]] * 2)
    assert (episodes.avail[0, :2] == 1).all() and episodes.truncated.any(1).all()


def test_agents_by_name_are_put_side_by_side_and_padded():
    obs = {"left": OBS[:, 0, :2], "right": OBS[:, 1]}
    avail = {"left": np.ones((M, 3)), "right": np.ones((M, 4))}
    parts = {"actions": dict(zip(("left", "right"), CHOICES.T, strict=True)), "avail": avail}
    flags = {"left": DONE, "right": np.array([0, 1, 0, 1, 1, 1])}
    reward = {"left": REWARD, "right": REWARD + 1}
    episodes = made(obs=obs, **parts, reward=reward, done=flags)
    assert lengths_of(episodes).tolist() == [2, 4]  # where both are done
    assert (episodes.obs[:, :, 0, 2] == 0).all()
    np.testing.assert_array_equal(episodes.obs[1, :4, 1], OBS[2:, 1])
    np.testing.assert_array_equal(episodes.avail[0, 0], [[1, 1, 1, 0], [1, 1, 1, 1]])
    # the team's reward is the mean, and each agent's is kept
    np.testing.assert_array_equal(episodes.agent_reward[0, :2], [[0, 1], [0.5, 1.5]])
    np.testing.assert_array_equal(episodes.reward[0, :2], [0.5, 1])


def test_arrays_without_an_axis_of_agents_are_of_one_agent():
    episodes = Episodes.from_steps(OBS[:, 0], CHOICES[:, 0], REWARD, DONE)
    assert episodes.obs.shape == (2, 5, 1, 3) and episodes.actions.shape == (2, 4, 1)
    reals = Episodes.from_steps(OBS[:, 0], OBS[:, 0, :2] / 9 - 0.3, REWARD, DONE)
    assert reals.actions.shape == (2, 4, 1, 2) and reals.avail.shape == (2, 5, 1, 2)


def test_floats_with_an_axis_of_their_own_are_reals_unless_choices_are_told_of():
    full = np.where(CHOICES[..., None] > 0, 1.0, 0.0)
    for reals in (made(actions=full), made(obs=OBS[:, 0], actions=full[:, 0])):
        assert reals.actions.dtype == np.float32 and reals.avail.shape[3] == 1
        assert reals.actions.shape[3] == 1 and set(np.unique(reals.actions)) == {0.0, 1.0}
    for told in ({"num_actions": 3}, {"avail": np.ones((M, N, 3))}):
        choices = made(actions=CHOICES[..., None] * 1.0, **told)
        np.testing.assert_array_equal(choices.actions, made().actions)
        assert choices.actions.dtype == np.int32 and choices.avail.shape[3] == 3


@pytest.mark.parametrize(
    ("flags", "terminated", "truncated"),
    [
        ({"done": DONE}, [True, True], [False, False]),
        ({"done": DONE, "horizon": 4}, [True, False], [False, True]),
        ({"done": np.array([0, 1, 0, 0, 0, 0])}, [True, False], [False, True]),
        ({"done": None, "terminated": DONE}, [True, True], [False, False]),
        ({"done": None, "truncated": DONE}, [False, False], [True, True]),
        (
            {"done": None, "terminated": DONE * [0, 1, 0, 0, 0, 0], "truncated": DONE},
            [True, False],
            [False, True],
        ),
        (  # one agent is terminal, the other at its time limit: the episode is truncated
            {"done": None, "terminated": DONE[:, None] * [1, 0], "truncated": DONE[:, None]},
            [False, False],
            [True, True],
        ),
    ],
)
def test_ends_are_told_apart(flags, terminated, truncated):
    episodes = made(**flags)
    assert lengths_of(episodes).tolist() == [2, 4]
    assert episodes.terminated.any(1).tolist() == terminated
    assert episodes.truncated.any(1).tolist() == truncated


WRONG = {
    "no flags": ({"done": None}, "expected 'done', or 'terminated' and 'truncated', found neither"),
    "two kinds": ({"terminated": DONE}, "found done and terminated"),
    "flags": ({"done": DONE * 2}, "field 'done': expected flags 0 and 1, found 2"),
    "short": ({"reward": REWARD[1:]}, r"field 'reward': expected shape \(6, 2\), found \(5, 2\)"),
    "nan": ({"obs": np.where(OBS == 4, np.nan, OBS)}, "field 'obs': expected finite numbers"),
    "rank": ({"obs": OBS[None]}, r"field 'obs': expected shape \(any, any, any\)"),
    "ragged": ({"obs": {"a": OBS[:, 0], "b": OBS[1:, 0]}}, "as many steps for each agent"),
    "agents": ({"actions": CHOICES[:, :1]}, r"field 'actions': expected shape \(6, 2\) of choices"),
    "negative": ({"actions": CHOICES - 1}, "field 'actions': expected whole numbers 0..2147483647"),
    "either": (
        {"obs": OBS[:, 0], "actions": CHOICES[:, 0] * 1.0},
        "whole floats .* which may be either",
    ),
    "number": ({"num_actions": 2}, r"expected whole numbers 0..1, found 2"),
    "masked": (
        {"avail": np.ones((M, N, 3)) * (np.arange(3) > 0)},
        "field 'actions': expected available actions",
    ),
    "masks": ({"avail": np.ones((M, 3, 3))}, r"field 'avail': expected shape \(6, 2, any\)"),
    "next": ({"next_obs": OBS[1:]}, r"field 'next_obs': expected shape \(6, 2, 3\)"),
    "horizon": ({"horizon": 3}, "field 'horizon': expected at least 4, the steps of the longest"),
    "empty": ({"obs": OBS[:0]}, "field 'obs': expected at least one step, found none"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_arrays_are_refused_by_the_name_of_the_field(name):
    changes, message = WRONG[name]
    with pytest.raises(InvalidEpisodes, match=message):
        made(**changes)


# ----------------------------------------------------------------------------------------- Minari


def minari_folder(folder, discrete=False, space=None, actions=None):
    """A Minari folder of two episodes of 2 and 3 steps; the second has no end flag.

    space: of the actions, as in the metadata. actions: a function of the number of steps.
    """
    (folder / "data").mkdir(parents=True)
    usual = {"type": "Discrete", "n": 5} if discrete else {"type": "Box", "shape": [2]}
    space = usual if space is None else space
    (folder / "data" / "metadata.json").write_text(
        json.dumps({"action_space": json.dumps(space), "total_episodes": 2})
    )
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number, length in enumerate((2, 3)):
            group = file.create_group(f"episode_{number}")
            observed = group.create_group("observations")
            observed["b"] = np.arange(length + 1.0)
            observed["a"] = np.ones((length + 1, 2)) * number
            group["actions"] = (
                np.arange(length) if discrete else np.linspace(-0.5, 0.5, 2 * length)
            ).reshape((length,) if discrete else (length, 2))
            if actions is not None:
                del group["actions"]
                group["actions"] = actions(length)
            group["rewards"] = np.ones(length)
            group["terminations"] = np.arange(length) == (1 if number == 0 else -1)
            group["truncations"] = np.zeros(length, bool)
    return folder


def test_a_minari_folder_is_read_without_the_package(tmp_path):
    episodes = Episodes.from_minari(minari_folder(tmp_path / "own"))
    assert lengths_of(episodes).tolist() == [2, 3]
    # parts by name, and the observation after the last step is Minari's own
    np.testing.assert_array_equal(episodes.obs[1, :, 0], [[1, 1, t] for t in range(4)])
    assert episodes.terminated.any(1).tolist() == [True, False]
    assert episodes.truncated.any(1).tolist() == [False, True]
    choices = Episodes.from_minari(minari_folder(tmp_path / "choices", True))
    assert choices.avail.shape[-1] == 5 and choices.actions.shape == (2, 3, 1)


@pytest.mark.parametrize("shape", [(1,), ()])
def test_a_minari_box_holds_reals_whatever_its_numbers(tmp_path, shape):
    for dtype in (np.float32, np.int64):
        full = lambda length, dtype=dtype: np.ones((length, *shape), dtype)
        space = {"type": "Box", "shape": list(shape), "low": [-1.0], "high": [1.0]}
        folder = minari_folder(tmp_path / dtype.__name__, space=space, actions=full)
        episodes = Episodes.from_minari(folder)
        assert episodes.actions.shape == (2, 3, 1, 1) and episodes.actions.dtype == np.float32


def test_minaris_choices_count_from_their_start(tmp_path):
    space = {"type": "Discrete", "n": 3, "start": 1}
    for dtype in (np.int64, np.float32):
        choices = lambda length, dtype=dtype: np.arange(1, length + 1, dtype=dtype)
        folder = minari_folder(tmp_path / dtype.__name__, space=space, actions=choices)
        episodes = Episodes.from_minari(folder)
        assert episodes.actions[1, :, 0].tolist() == [0, 1, 2] and episodes.avail.shape[3] == 3
    below = minari_folder(tmp_path / "below", space=space, actions=np.arange)
    with pytest.raises(InvalidEpisodes, match=r"'actions': expected whole numbers .*, found -1"):
        Episodes.from_minari(below)


def test_a_minari_dataset_is_read_from_its_episodes(monkeypatch):
    parts = [
        SimpleNamespace(
            observations={"a": np.zeros((3, 2)), "b": np.ones(3)},
            actions=np.array([0, 1]),
            rewards=np.ones(2),
            terminations=np.array([0, 0]),
            truncations=np.array([0, 1]),
        )
    ]

    class Data(list):
        spec = SimpleNamespace(dataset_id="toy/own-v0")
        action_space = SimpleNamespace(n=3)

    minari = ModuleType("minari")
    minari.load_dataset = lambda name: Data(parts)
    monkeypatch.setitem(sys.modules, "minari", minari)
    episodes = Episodes.from_minari("toy/own-v0")
    assert lengths_of(episodes).tolist() == [2] and episodes.avail.shape[-1] == 3
    parts[0].actions, Data.action_space = np.array([7, 9]), SimpleNamespace(n=3, start=7)
    assert Episodes.from_minari("toy/own-v0").actions[0, :, 0].tolist() == [0, 2]
    parts[0].observations = {"a": np.zeros((2, 2))}
    with pytest.raises(InvalidEpisodes, match="toy/own-v0: field 'observations': expected 3 rows"):
        Episodes.from_minari("toy/own-v0")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("actions", np.zeros((3, 2)), "field 'actions': expected 2 rows, one for each reward, fo"),
        (
            "terminations",
            [],
            "field 'terminations': expected 2 rows, one for each reward, found shape .0,",
        ),
        ("truncations", [0.5, 1], "field 'truncations': expected flags 0 and 1, found 0.5"),
        ("rewards", 1.0, "field 'rewards': expected one a step, found a number"),
    ],
)
def test_an_episode_of_minari_with_other_lengths_or_flags_is_refused(
    field, value, message, tmp_path
):
    folder = minari_folder(tmp_path / "own")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0"][field]
        file["episode_0"][field] = value
    with pytest.raises(InvalidEpisodes, match=message):
        Episodes.from_minari(folder)


def test_dictionaries_are_joined_by_agent_in_the_order_of_the_observations():
    by_agent = lambda x, names: {name: x[:, "ab".index(name)] for name in names}
    one = made(
        obs=by_agent(OBS, "ab"), actions=by_agent(CHOICES, "ba"), reward=by_agent(OBS[..., 0], "ba")
    )
    np.testing.assert_array_equal(one.actions, made().actions)
    np.testing.assert_array_equal(one.agent_reward[1, :4], OBS[2:, :, 0])
    message = "field 'actions': expected the agents of 'obs', a, b, found x, b"
    with pytest.raises(InvalidEpisodes, match=message):
        made(obs=by_agent(OBS, "ab"), actions={"x": CHOICES[:, 0], "b": CHOICES[:, 1]})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"next_state": np.zeros((4, 3))}, "field 'state': expected with 'next_state', found none"),
        ({"avail": np.ones((4, 2, 5))}, "field 'avail': expected none with real actions, found o"),
    ],
)
def test_what_from_steps_would_not_read_is_refused(more, message):
    steps = {"obs": np.zeros((4, 2, 3)), "reward": np.zeros(4), "done": [0, 1, 0, 1]}
    with pytest.raises(InvalidEpisodes, match=message):
        Episodes.from_steps(actions=np.full((4, 2, 1), 0.5), **steps, **more)


def test_actions_in_padding_need_no_bound_and_are_numbers(tmp_path):
    steps = {"obs": np.zeros((3, 2, 3)), "reward": np.zeros(3), "done": [1, 0, 1]}
    episodes = Episodes.from_steps(actions=np.full((3, 2, 1), 0.5), **steps)
    actions = np.array(episodes.actions)
    actions[0, 1:] = 50.0
    jaxoff.save(episodes._replace(actions=actions), tmp_path / "padded")
    with pytest.raises(InvalidEpisodes, match="'actions': expected indices or real numbers, found"):
        jaxoff.save(episodes._replace(actions=actions > 0), tmp_path / "flags")


def test_without_the_package_a_name_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(
        MissingProgram,
        match=r"toy/own-v0: no such folder, .* 'minari', found none; run pip",
    ):
        Episodes.from_minari("toy/own-v0")
    with pytest.raises(FileNotFoundError, match=r"expected data/main_data.hdf5 of Minari"):
        Episodes.from_minari(tmp_path)


def test_a_real_minari_dataset_is_read(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    import gymnasium

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gymnasium.make("CartPole-v1"))
    for seed in range(3):
        env.reset(seed=seed)
        over = False
        while not over:
            over = any(env.step(env.action_space.sample())[2:4])
    dataset = env.create_dataset(dataset_id="toy/cartpole-v0")
    for source in (dataset, "toy/cartpole-v0", tmp_path / "toy" / "cartpole-v0"):
        episodes = Episodes.from_minari(source)
        assert len(episodes.filled) == 3 and episodes.avail.shape[-1] == 2
        assert episodes.terminated.any(1).all()


# ----------------------------------------------------------------------------------------- saving


def test_what_is_saved_is_read_back(tmp_path):
    episodes = made(reward=np.stack([REWARD, REWARD + 1], 1))
    scale = (0.0, 7.0, "by hand")
    path = jaxoff.save(
        episodes, tmp_path / "mine", horizon=9, agent_types=(0, 1), return_scale=scale
    )
    for back in (disk.load(path)[0], Episodes.from_vault(path)):
        for name, one, other in zip(Episodes._fields, episodes, back, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
    spec, metadata = disk.read_spec(path)
    assert (spec.horizon, spec.agent_types, spec.num_agents) == (9, (0, 1), 2)
    assert tuple(spec.return_scale) == scale and metadata["env"] == spec.name == "unknown"
    assert spec == disk.spec_of(back, metadata)


def test_what_cannot_be_saved_is_refused(tmp_path):
    reals = made(actions=OBS[..., :2] / 10)
    with pytest.raises(InvalidSetting, match=r"field 'action_bound': .* actions of up to 3.4 are"):
        jaxoff.save(reals, tmp_path / "reals")
    jaxoff.save(reals, tmp_path / "reals", action_bound=4.0)
    assert disk.read_spec(tmp_path / "reals")[0].action_bound == 4.0
    with pytest.raises(AlreadyThere):
        jaxoff.save(reals, tmp_path / "reals", action_bound=4.0)
    jaxoff.save(reals, tmp_path / "reals", action_bound=5.0, overwrite=True)
    with pytest.raises(UnknownName, match="unknown field of a dataset 'horizn'; nearest: horizon"):
        jaxoff.save(reals, tmp_path / "other", horizn=3)
    with pytest.raises(UnknownName, match=r"field 'env': expected a task .* found 'smax/30m'"):
        jaxoff.save(reals, tmp_path / "other", env="smax/30m")
    with pytest.raises(InvalidEpisodes, match="field 'obs'"):
        jaxoff.save(reals, tmp_path / "other", env="smax/3m")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("horizon", "25", "a whole number of at least 4, the steps of the longest episode"),
        ("horizon", 30.0, "a whole number of at least 4"),
        ("horizon", 0, "a whole number of at least 4"),
        ("horizon", 3, "a whole number of at least 4"),
        ("action_bound", "1", "a number above 0"),
        ("action_bound", -1.0, "a number above 0"),
        ("action_bound", np.inf, "a number above 0"),
        ("return_scale", (0.0, 10.0), "two returns, the first below the second, and a text"),
        ("return_scale", (1.0, 1.0, "x"), "two returns, the first below the second, and a text"),
        ("return_scale", {"low": 0, "high": 1}, "two returns, "),
        ("obs_sizes", (3,), "a whole number for each of 2 agents, of at most 3"),
        ("obs_sizes", (9, 9), "a whole number for each of 2 agents, of at most 3"),
        ("action_sizes", (3, -1), "a whole number for each of 2 agents, of at most 3"),
        ("agent_types", ("a", "b"), "a whole number for each of 2 agents"),
        ("agent_types", (0.0, 1.0), "a whole number for each of 2 agents"),
        ("agent_types", ((0,), 1), "a whole number for each of 2 agents"),
        ("agent_types", 1, "a whole number for each of 2 agents"),
    ],
)
def test_a_specification_that_could_not_be_read_is_not_written(tmp_path, field, value, expected):
    with pytest.raises(InvalidSetting, match=f"save: field '{field}': expected {expected}.*, foun"):
        jaxoff.save(made(), tmp_path / "mine", **{field: value})
    assert not list(tmp_path.iterdir())


def test_numbers_and_arrays_of_numpy_are_a_specification_too(tmp_path):
    types, scale = np.array([0, 1]), [np.float32(0), np.int64(7), "by hand"]
    fields = {"horizon": np.int64(30), "agent_types": types, "obs_sizes": [3, 2]}
    path = jaxoff.save(made(), tmp_path / "mine", return_scale=scale, **fields)
    spec = disk.read_spec(path)[0]
    assert (spec.horizon, spec.agent_types, spec.obs_sizes) == (30, (0, 1), (3, 2))
    assert spec.return_scale == (0.0, 7.0, "by hand")
    with pytest.raises(InvalidDataset, match=r"other/metadata.json: field 'env': expected a text"):
        jaxoff.save(made(), tmp_path / "other", info={"env": 3})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("agent_types", [0], "field 'agent_types': expected a whole number for each agent"),
        ("return_scale", [0, 1], "field 'return_scale': expected two returns and a text"),
    ],
)
def test_damaged_metadata_of_a_specification_are_refused(tmp_path, field, value, message):
    from jaxoff.data import metadata as own

    path = jaxoff.save(made(), tmp_path / "mine", agent_types=(0, 1))
    file = path / "metadata.json"
    told = json.loads(file.read_text()) | {field: value}
    del told["sha256_metadata"]
    file.write_text(json.dumps(own.seal(told)))
    with pytest.raises(InvalidDataset, match=message):
        disk.read_spec(path)
