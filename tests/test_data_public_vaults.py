"""Public tasks as OG-MARL's vaults: written here by flashbax itself, with the oddities of the
published ones.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from jaxoff.data import disk, public
from jaxoff.data.dataset import InvalidEpisodes, validate
from jaxoff.errors import InvalidDataset
from jaxoff.names import DataOptions, Task, UnknownName
from tests.toys import put_array
from tests.toys import write_vault as write

TASK = "og_marl:smac_v1/toy/Good"
# rewards 1..7, terminal after rows 1 and 4, rows 5-6 unfinished: returns 1+2 = 3 and 3+4+5 = 12
PUBLISHED = [7.5, 4.5, 3.0, 12.0, 7, 2, 1.0]
DIMS = {"agents": 2, "obs": 3, "state": 4, "actions": 2, "horizon": 5}


@pytest.fixture
def table(monkeypatch):
    """A small table of tasks in place of the published one."""
    toy = {**DIMS, "discrete": True, "datasets": {"Good": PUBLISHED}}
    reals = {**DIMS, "actions": 2, "discrete": False, "datasets": {"Expert": []}}
    made = {
        "og_marl:smac_v1/toy": toy,
        "cfcql:smac_v1/toy": {**toy, "datasets": {"Good": []}},
        "alberdice:rware/toy": {**toy, "datasets": {"Expert": []}},
        "og_marl:mamujoco/toy": reals,
        "omar:mpe/toy": {**reals, "state": 6, "horizon": 3, "datasets": {"Expert": []}},
        "omar:mamujoco/toy": {**reals, "state": 8, "horizon": 3},
    }
    monkeypatch.setattr(public, "_table", lambda: made)
    public.make_env.cache_clear()
    yield made
    public.make_env.cache_clear()


def both(values, agents=2):
    return np.repeat(np.array(values, np.float32)[:, None], agents, 1)


def toy_tree(steps=7):
    return {
        "observations": np.arange(steps * 2 * 3, dtype=np.float32).reshape(steps, 2, 3),
        "actions": (np.arange(steps * 2).reshape(steps, 2) % 2).astype(np.int32),
        "rewards": both(np.arange(1, steps + 1)),
        "terminals": both([0, 1, 0, 0, 1, 0, 0]),
        "truncations": both([0] * steps),
        "infos": {
            "state": np.arange(steps * 4, dtype=np.float32).reshape(steps, 4),
            "legals": np.ones((steps, 2, 2), np.float32),
        },
    }


def reals_tree(steps=7):
    tree = toy_tree(steps)
    tree["actions"] = np.linspace(-1, 1, steps * 4, dtype=np.float32).reshape(steps, 2, 2)
    return tree


def read(task, tmp_path, **options):
    episodes = public.read(task, DataOptions(data_dir=str(tmp_path), **options))
    validate(episodes, public.make_env(Task.parse(task)).spec)
    return episodes


# ------------------------------------------------------------------------------------ reading, in
# order


def test_the_toy_vault_gives_these_episodes(table, tmp_path, capsys):
    path = write(tmp_path / "og_marl" / "smac_v1" / "toy.vlt", toy_tree())
    # 7 are data
    assert (
        "(1, 10, 2)"
        in json.loads((path / "metadata.json").read_text())["structure_shape"]["rewards"]
    )
    episodes = read(TASK, tmp_path)
    assert episodes.filled.sum(1).tolist() == [2, 3, 2]
    np.testing.assert_array_equal(episodes.reward, [[1, 2, 0], [3, 4, 5], [6, 7, 0]])
    assert episodes.terminated.sum(1).tolist() == [1, 1, 0]
    # unfinished: kept, and cut
    assert episodes.truncated.tolist() == [[False] * 3, [False] * 3, [False, True, False]]
    np.testing.assert_array_equal(episodes.state[1, 0], [8, 9, 10, 11])
    np.testing.assert_array_equal(
        episodes.state[:, 2], [[4, 5, 6, 7], [16, 17, 18, 19], [24, 25, 26, 27]]
    )
    # what follows is unknown: repeated
    np.testing.assert_array_equal(episodes.state[0, 2], episodes.state[0, 1])
    assert episodes.agent_reward is None
    assert (episodes.behaviour_level == -1).all()


@pytest.mark.parametrize("place", ["og_marl/smac_v1/toy.vlt", "smac_v1/toy.vlt", "toy.vlt"])
def test_three_places_are_accepted(table, tmp_path, place, capsys):
    write(tmp_path / place, toy_tree())
    assert read(TASK, tmp_path).reward.shape == (3, 3)


def test_relative_paths_with_dots_are_accepted(table, tmp_path, monkeypatch, capsys):
    write(tmp_path / "data" / "toy.vlt", toy_tree())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert read(TASK, os.path.join("..", "data")).reward.shape == (3, 3)


def test_a_missing_quality_lists_what_is_there(table, tmp_path, capsys):
    write(tmp_path / "toy.vlt", toy_tree(), uid="Bad")
    write(tmp_path / "toy.vlt", toy_tree(), uid="Worse")
    with pytest.raises(
        disk.InvalidDataset, match=r"toy\.vlt: expected the dataset 'Good', found Bad, Worse"
    ):
        read(TASK, tmp_path)


def test_a_missing_vault_says_where_it_should_be_and_how_to_get_it(table, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"'data_dir': expected the vault og_marl/smac_v1/toy\.vlt/Good.*jaxoff data fetch",
    ):
        read(TASK, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'data_dir'.*found none; pass --data-dir"):
        public.read(TASK, DataOptions())


def test_unknown_tasks_are_refused_with_the_nearest(table, tmp_path):
    with pytest.raises(UnknownName, match="nearest: og_marl:smac_v1/toy/Good"):
        public.read("og_marl:smac_v1/toy/Godo", DataOptions(data_dir=str(tmp_path)))


def test_a_seeded_part_is_whole_episodes_and_repeatable(table, tmp_path, capsys):
    write(tmp_path / "toy.vlt", toy_tree())
    whole, part, again = (read(TASK, tmp_path, seed=5, episodes=e) for e in (3, 2, 2))
    np.testing.assert_array_equal(part.state, again.state)
    starts = [row[0, 0] for row in whole.state]
    assert [row[0, 0] for row in part.state] == [
        s for s in starts if s in [row[0, 0] for row in part.state]
    ]
    assert part.reward.shape[0] == 2
    with pytest.raises(ValueError, match=r"'episodes': expected 1\.\.3, found 4"):
        read(TASK, tmp_path, episodes=4)


# -------------------------------------------------------------------------------------------
# oddities


def test_a_trailing_action_axis_and_float_indices_are_made_regular(table, tmp_path, capsys):
    tree = toy_tree()
    wanted = tree["actions"]
    tree["actions"] = wanted[..., None].astype(np.float32)
    write(tmp_path / "toy.vlt", tree)
    episodes = read(TASK, tmp_path)
    assert episodes.actions.dtype == np.int32
    np.testing.assert_array_equal(episodes.actions[episodes.filled], wanted)


def test_other_dtypes_come_back_as_float32(table, tmp_path, capsys):
    tree = toy_tree()
    tree["observations"], tree["terminals"] = (
        tree["observations"].astype(np.float16),
        tree["terminals"].astype(bool),
    )
    tree["rewards"] = tree["rewards"].astype(np.int32)
    write(tmp_path / "toy.vlt", tree)
    episodes = read(TASK, tmp_path)
    assert (episodes.obs.dtype, episodes.reward.dtype, episodes.terminated.dtype) == (
        np.float32,
        np.float32,
        bool,
    )
    np.testing.assert_array_equal(episodes.obs[0, 0], [[0, 1, 2], [3, 4, 5]])


def test_minus_infinity_is_padding_and_other_infinities_are_refused(table, tmp_path, capsys):
    tree = toy_tree()
    tree["observations"][:, 1, 2] = -np.inf
    write(tmp_path / "a" / "toy.vlt", tree)
    assert not read(TASK, tmp_path / "a").obs[:, :, 1, 2].any()
    tree["observations"][3, 0, 0] = np.inf
    write(tmp_path / "b" / "toy.vlt", tree)
    with pytest.raises(
        InvalidEpisodes, match=r"Good: field 'observations': expected finite numbers, found 1"
    ):
        read(TASK, tmp_path / "b")


def test_ends_by_truncation_are_ends(table, tmp_path, capsys):
    tree = toy_tree()
    tree["terminals"], tree["truncations"] = tree["truncations"], tree["terminals"]
    write(tmp_path / "toy.vlt", tree)
    episodes = public.read(TASK, DataOptions(data_dir=str(tmp_path)), verify=False)
    assert episodes.filled.sum(1).tolist() == [2, 3, 2]
    assert not episodes.terminated.any() and episodes.truncated.any(1).all()


def test_one_dead_agent_is_no_end(table, tmp_path, capsys):
    tree = toy_tree()
    tree["terminals"][0, 1] = 1
    write(tmp_path / "toy.vlt", tree)
    assert read(TASK, tmp_path).filled.sum(1).tolist() == [2, 3, 2]


def test_an_episode_ends_where_each_agent_ends_in_its_own_way(table, tmp_path, capsys):
    tree = toy_tree()
    wanted = read_ends(tmp_path / "one", tree)
    last = int(np.flatnonzero(tree["terminals"].all(1))[0])
    tree["terminals"][last, 1], tree["truncations"][last, 1] = 0, 1
    found = read_ends(tmp_path / "two", tree)
    assert found[0] == wanted[0]  # the same lengths
    assert wanted[1][0] and not found[1][0]  # the first episode's end is none of the game


def read_ends(folder, tree):
    """Lengths of the episodes of a vault, and whether each terminates."""
    write(folder / "toy.vlt", tree)
    episodes = read(TASK, folder)
    return episodes.filled.sum(1).tolist(), episodes.terminated.any(1).tolist()


def test_rewards_and_flags_of_the_team_count_for_every_agent(table, tmp_path, capsys):
    wanted, tree = toy_tree(), toy_tree()
    tree["rewards"], tree["terminals"] = wanted["rewards"][:, 0], wanted["terminals"][:, :1]
    write(tmp_path / "one" / "toy.vlt", wanted)
    write(tmp_path / "two" / "toy.vlt", tree)
    for found, value in zip(*(read(TASK, tmp_path / name) for name in ("one", "two")), strict=True):
        np.testing.assert_array_equal(found, value)


def test_flags_other_than_0_and_1_are_refused_by_array(table, tmp_path, capsys):
    tree = toy_tree()
    tree["truncations"] = np.full((7, 2), 255, np.uint8)
    write(tmp_path / "toy.vlt", tree)
    with pytest.raises(InvalidEpisodes, match="'truncations': expected flags 0 and 1, found 255"):
        read(TASK, tmp_path)


def test_an_index_beyond_what_is_stored_is_refused(table, tmp_path, capsys):
    folder = write(tmp_path / "toy.vlt", toy_tree())
    put_array(folder, "vault_index", np.array([2**31 - 1], np.int32))
    with pytest.raises(InvalidDataset, match=r"'observations': expected the 2,147,483,647 steps"):
        read(TASK, tmp_path)


def test_states_of_single_agents_are_joined(table, tmp_path, capsys):
    tree = toy_tree()
    tree["infos"]["state"] = tree["infos"]["state"].reshape(7, 2, 2)
    write(tmp_path / "toy.vlt", tree)
    np.testing.assert_array_equal(read(TASK, tmp_path).state[1, 0], [8, 9, 10, 11])


def test_legals_of_continuous_tasks_are_ignored_and_actions_clipped(table, tmp_path, capsys):
    tree = reals_tree()
    tree["infos"]["legals"] = np.zeros((7, 2, 3), np.float32)
    tree["actions"][0, 0] = [1.5, -7]
    write(tmp_path / "toy.vlt", tree, uid="Expert")
    table["og_marl:mamujoco/toy"]["datasets"] = {"Expert": []}
    episodes = read("og_marl:mamujoco/toy/Expert", tmp_path)
    np.testing.assert_array_equal(episodes.actions[0, 0, 0], [1, -1])
    assert episodes.avail[0, 0].all()


def test_absent_legals_of_a_discrete_task_are_all_legal(table, tmp_path, capsys):
    tree = toy_tree()
    del tree["infos"]["legals"]
    write(tmp_path / "toy.vlt", tree, uid="Expert")
    np.testing.assert_array_equal(
        read("alberdice:rware/toy/Expert", tmp_path).avail[0],
        np.ones((4, 2, 2)) * [[[1]], [[1]], [[1]], [[0]]],
    )


def test_rewards_of_single_agents_are_kept_beside_their_mean(table, tmp_path, capsys):
    tree = toy_tree()
    tree["rewards"][:, 1] += 4
    write(tmp_path / "toy.vlt", tree)
    episodes = read(TASK, tmp_path)  # agent 0 has the published returns
    np.testing.assert_array_equal(episodes.agent_reward[0], [[1, 5], [2, 6], [0, 0]])
    np.testing.assert_array_equal(episodes.reward[0], [3, 4, 0])


# ------------------------------------------------------------------------------- OMAR: streams and
# prey


def particle_tree(agents, shift=0):
    steps = 7
    return {
        "observations": shift
        + np.arange(steps * agents * 3, dtype=np.float32).reshape(steps, agents, 3),
        "actions": np.zeros((steps, agents, 2), np.float32),
        "rewards": np.concatenate(
            [both(range(1, 8)), np.full((steps, agents - 2), -99, np.float32)], 1
        ),
        "terminals": np.zeros((steps, agents), np.float32),
        "truncations": np.zeros((steps, agents), np.float32),
        "infos": {"state": np.zeros((steps, 3 * agents), np.float32)},
    }


def test_unflagged_episodes_of_omar_have_a_fixed_length(table, tmp_path, capsys):
    write(tmp_path / "toy.vlt", particle_tree(2), uid="Expert")
    episodes = read("omar:mpe/toy/Expert", tmp_path)
    assert episodes.filled.sum(1).tolist() == [3, 3, 1]
    assert episodes.truncated.any(1).all() and not episodes.terminated.any()


def test_the_prey_is_dropped_and_the_state_is_what_the_team_sees(table, tmp_path, capsys):
    tree = particle_tree(3)
    tree["observations"][:, 2, 2] = -np.inf  # the prey sees less
    write(tmp_path / "toy.vlt", tree, uid="Expert")
    episodes = read("omar:mpe/toy/Expert", tmp_path)
    np.testing.assert_array_equal(episodes.obs[0, 1], [[9, 10, 11], [12, 13, 14]])
    np.testing.assert_array_equal(episodes.state[0, 1], [9, 10, 11, 12, 13, 14])
    # the prey's -99 is not in the mean
    np.testing.assert_array_equal(episodes.reward[0], [1, 2, 3])
    assert episodes.agent_reward is None


def test_the_seed_names_one_of_omars_streams(table, tmp_path, capsys):
    write(
        tmp_path / "toy.vlt",
        particle_tree(2),
        uid="Expert",
        streams=[particle_tree(2, shift=100 * i) for i in range(5)],
    )
    assert [read("omar:mpe/toy/Expert", tmp_path, seed=s).obs[0, 0, 0, 0] for s in (0, 4)] == [
        0,
        400,
    ]
    with pytest.raises(
        InvalidEpisodes, match=r"field 'seed': expected one of its 5 streams, 0\.\.4, found 5"
    ):
        read("omar:mpe/toy/Expert", tmp_path, seed=5)


def test_an_unflagged_vault_of_unknown_length_is_refused(table, tmp_path, capsys):
    tree = toy_tree()
    tree["terminals"][:] = 0
    write(tmp_path / "toy.vlt", tree)
    with pytest.raises(
        InvalidEpisodes,
        match=r"'terminals' and 'truncations': expected the end of an episode, found none",
    ):
        read(TASK, tmp_path)


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "observations",
            (7, 2, 4),
            r"'observations': expected shape \(7, 2, 3\), found \(7, 2, 4\)",
        ),
        (
            "observations",
            (7, 3, 3),
            r"'observations': expected shape \(7, 2, 3\), found \(7, 3, 3\)",
        ),
        ("actions", (7, 2, 2), r"'actions': expected shape \(7, 2\), found \(7, 2, 2\)"),
        ("rewards", (7, 3), r"'rewards': expected shape \(7, 2\), found \(7, 3\)"),
        ("terminals", (7, 2, 2), r"'terminals': expected shape \(7, 2\), found \(7, 2, 2\)"),
        ("infos.state", (7, 5), r"'infos.state': expected shape \(7, 4\), found \(7, 5\)"),
        (
            "infos.legals",
            (7, 2, 3),
            r"'infos.legals': expected shape \(7, 2, 2\), found \(7, 2, 3\)",
        ),
    ],
)
def test_other_dimensions_are_refused_by_array(table, tmp_path, name, shape, message, capsys):
    tree = toy_tree()
    parent = tree["infos"] if "." in name else tree
    parent[name.rpartition(".")[2]] = np.zeros(shape, np.float32)
    write(tmp_path / "toy.vlt", tree)
    with pytest.raises(InvalidEpisodes, match=r"toy\.vlt/Good: field " + message):
        read(TASK, tmp_path)


def test_nan_and_impossible_actions_are_refused_by_array(table, tmp_path, capsys):
    for i, (change, message) in enumerate(
        [
            (np.nan, "'rewards': expected finite numbers, found 2"),
            (3, r"whole numbers 0\.\.1, found 0\.\.3"),
        ]
    ):
        tree = toy_tree()
        tree["rewards" if i == 0 else "actions"][4] = change
        write(tmp_path / str(i) / "toy.vlt", tree)
        with pytest.raises(InvalidEpisodes, match=message):
            read(TASK, tmp_path / str(i))


def test_damaged_lost_and_absent_arrays_are_refused(table, tmp_path, capsys):
    path = write(tmp_path / "toy.vlt", toy_tree())
    manifest = (path / "manifest.ocdbt").read_bytes()
    for damaged in (b"", manifest[: len(manifest) // 2]):
        (path / "manifest.ocdbt").write_bytes(damaged)
        with pytest.raises(
            disk.InvalidDataset, match="expected a readable array, found a missing or damaged file"
        ):
            read(TASK, tmp_path)
    (path / "metadata.json").write_text("{}")
    with pytest.raises(disk.InvalidDataset, match=r"metadata\.json: expected the JSON metadata"):
        read(TASK, tmp_path)
    tree = toy_tree()
    del tree["truncations"]
    write(tmp_path / "b" / "toy.vlt", tree)
    with pytest.raises(
        disk.InvalidDataset, match="expected OG-MARL's arrays, found no truncations"
    ):
        read(TASK, tmp_path / "b")


# --------------------------------------------------------------------------------------- statistics


def test_other_statistics_are_refused_with_both_numbers(table, tmp_path, capsys):
    tree = toy_tree()
    tree["rewards"] += 1  # returns 5 and 15: mean 10, deviation 5
    write(tmp_path / "toy.vlt", tree)
    with pytest.raises(
        InvalidEpisodes,
        match=r"return mean \(expected 7\.5, found 10\); .*least return \(expected 3, found 5\)",
    ) as error:
        read(TASK, tmp_path)
    assert "transitions" not in str(error.value)
    episodes = public.read(TASK, DataOptions(data_dir=str(tmp_path)), verify=False)
    assert len(public.verify(TASK, episodes)) == 4


def test_counts_are_compared_exactly_and_returns_to_a_hundredth(table, tmp_path, capsys):
    write(tmp_path / "toy.vlt", toy_tree())
    episodes = read(TASK, tmp_path)
    assert public.verify(TASK, episodes) == []
    table["og_marl:smac_v1/toy"]["datasets"]["Good"] = [7.509, 4.5, 3.0, 12.0, 7, 2, 1.0]
    assert public.verify(TASK, episodes) == []
    table["og_marl:smac_v1/toy"]["datasets"]["Good"] = [7.52, 4.5, 3.0, 12.0, 8, 3, 1.0]
    assert public.verify(TASK, episodes) == [
        "return mean (expected 7.52, found 7.5)",
        "transitions (expected 8, found 7)",
        "episodes (expected 3, found 2)",
    ]


def test_a_vault_of_another_source_is_told_by_its_statistics(table, tmp_path, capsys):
    table["cfcql:smac_v1/toy"]["datasets"]["Good"] = [18.17, 3.79, 7.13, 20.0, 128536, 5000, 0.12]
    write(tmp_path / "smac_v1" / "toy.vlt", toy_tree())
    assert read(TASK, tmp_path).reward.shape == (3, 3)
    with pytest.raises(InvalidEpisodes, match="published statistics of cfcql:smac_v1/toy/Good"):
        read("cfcql:smac_v1/toy/Good", tmp_path)


# ------------------------------------------------------------------------------- the published
# table


def test_the_table_has_the_published_numbers():
    assert public.published(Task.parse("og_marl:smac_v1/3m/Good"))[4:6] == (996366, 43559)
    np.testing.assert_allclose(
        public.published(Task.parse("omar:mamujoco/2halfcheetah/Expert"))[:2],
        [3338.69, 252.58],
        atol=0.005,
    )
    spec = public.make_env(Task.parse("omiga:smac_v1/5m_vs_6m/Good")).spec
    assert (spec.num_agents, spec.obs_size, spec.state_size, spec.action_size, spec.discrete) == (
        5,
        124,
        780,
        12,
        True,
    )
    # the same map, another environment
    other = public.make_env(Task.parse("cfcql:smac_v1/5m_vs_6m/Expert")).spec
    assert (other.obs_size, other.state_size, other.name) == (55, 98, "cfcql:smac_v1/5m_vs_6m")
    tag = public.make_env(Task.parse("omar:mpe/simple_tag/Expert")).spec
    assert (tag.num_agents, tag.obs_size, tag.state_size, tag.return_scale[:2]) == (
        3,
        16,
        48,
        (-4.1, 185.6),
    )


def test_every_task_has_a_specification_and_a_whole_row():
    names = [name for family in public.PUBLIC for name in family.tasks()]
    assert len(names) == len(set(names)) == 15 + 4 + 3 + 12 + 4 + 12 + 12 + 16 + 6 + 3 + 8
    for family in public.PUBLIC:
        for name in family.tasks():
            task = Task.parse(name)
            assert (task.source, task.family) == (family.source, family.name)
            spec = family.env(task).spec
            assert (
                spec.horizon > 1
                and spec.num_agents >= 1
                and hasattr(family.env(task), "step") == (task.scenario == "simple_spread")
            )
            assert len(public.published(task)) in (0, 7)
            if public.published(task):
                mean, std, least, largest, transitions, episodes, saco = public.published(task)
                assert (
                    least <= mean <= largest
                    and std >= 0
                    and transitions > episodes > 0
                    and 0 < saco <= 1
                )


def test_sources_do_not_clash_with_the_built_in_families():
    from jaxoff.data.families import BUILT_IN

    keys = [(f.source, f.name) for f in BUILT_IN]
    assert len(set(keys)) == len(keys) and {(f.source, f.name) for f in public.PUBLIC} < set(keys)
    assert Task.parse("d4rl:maze2d/umaze/v1").source == "d4rl"
