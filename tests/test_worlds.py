"""Tasks on simulators: what is listed, how their datasets are put together, and what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from jaxoff import data, registry
from jaxoff.data import compositions, pools, worlds
from jaxoff.data.dataset import validate
from jaxoff.data.episodes import returns_of
from jaxoff.data.pools import InvalidPool
from jaxoff.data.worlds import WORLDS, World, check, world_of
from jaxoff.envs.games.matrix import make_matrix
from jaxoff.names import DataOptions, Task, UnknownName
from tests import toys
from tests.test_pools import pool_of

NAMES = {family: list(make()) for family, make in WORLDS.items()}


# ---------------------------------------------------------------------------------------------
# tasks


def test_every_listed_task_has_a_scenario_and_a_quality():
    listed = [task for task in registry.tasks() if task.split("/")[0] in WORLDS]
    assert len(listed) == len(set(listed)) > 100
    for text in listed:
        assert (
            str(Task.parse(text)) == text
            and text.split("/")[2] in check(Task.parse(text)).qualities
        )


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("mpe/sprea/medium", "unknown scenario of mpe 'sprea'; nearest: .*spread"),
        ("smax/3n/medium", "unknown scenario of smax '3n'; nearest: .*3m"),
        ("mpe/spread/medum", "unknown quality 'medum'; nearest: medium, "),
        ("mpe/tag/imbalanced-low", "unknown quality 'imbalanced-low'"),
        # bands are of returns of SMAX
        ("mpe/spread/wspm-p50-n40", "unknown quality 'wspm-p50-n40'"),
        ("smax/3m/wspm-50-40", "unknown quality 'wspm-50-40'; nearest: wspm-p50-n40"),
        ("maze/umaze/medium", "unknown quality 'medium'; known: random, waypoint"),
    ],
)
def test_an_unknown_scenario_or_quality_is_refused_with_the_nearest_names(task, message):
    with pytest.raises(UnknownName, match=message):
        registry.make_data(task)


def test_other_compositions_and_sizes_are_accepted_and_wrong_ones_refused():
    for task in ("mpe/CN_3ls3l/mix=50%[r r m]+50%[m*3]", "smax/3m/wspm-p25-n8"):
        check(Task.parse(task))
    with pytest.raises(ValueError, match=r"expected 3 agents in \[r r\], found 2"):
        registry.make_env("mpe/CN_3ls3l/mix=[r r]")


SIT = {  # Tables 7-9 of SIT: the second half of `low` (its first half is all random), and `medium`
    "smax-x/2s_vs_1sc": ("rm", "re"),
    "smax/3s_vs_5z": ("rrm", "rre"),
    "smax/2s3z": ("rmrmm", "reree"),
    "smax/8m": ("rmmmmmmm", "reeeeeee"),
    "smax-x/1c3s5z": ("mrrmrrrrm", "errerrrre"),
    "smax/10m_vs_11m": ("rrrrmmmmmm", "rrrreeeeee"),  # q = 4
    "mpe/CN_3ls3l": ("rrm", "rme"),
    "mpe/CN_4ls4l": ("rrrm", "rree"),
    "mpe/PP_3p1p": ("rrm", "rme"),
}
# one part each
SIT_MUJOCO = {"mamujoco/HalfCheetah_2l": ("rm", "re"), "mamujoco/Walker_2l": ("rm", "re")}


@pytest.mark.parametrize("name", [*SIT, *SIT_MUJOCO])
def test_sits_compositions_are_as_printed(name):
    low, medium = (
        tuple("rme".index(letter) for letter in text) for text in (SIT | SIT_MUJOCO)[name]
    )
    found = world_of(Task.parse(f"{name}/imbalanced-low")).compositions
    halves = [(0.5, (0,) * len(low)), (0.5, low)] if name in SIT else [(1.0, low)]
    assert compositions.parse(found["imbalanced-low"], len(low)) == halves
    assert compositions.parse(found["imbalanced-medium"], len(low)) == [(1.0, medium)]


def test_every_map_of_sit_is_there_and_no_other():
    with_low = {
        f"{family}/{name}"
        for family in NAMES
        for name, world in WORLDS[family]().items()
        if "imbalanced-low" in world.compositions
    }
    assert with_low == set(SIT | SIT_MUJOCO)


@pytest.mark.parametrize("name", ["mpe/CN_3ls3l", "mpe/CN_4ls4l", "mpe/PP_3p1p"])
def test_sits_particle_maps_have_as_many_agents_as_their_compositions(name):
    assert registry.make_spec(f"{name}/imbalanced-low").num_agents == len(SIT[name][0])


def test_the_extreme_set_is_9950_episodes_and_50():
    parts = compositions.parse(WORLDS["smax"]()["2s3z"].compositions["extreme"], 5)
    assert [part.levels for part in parts] == [(0,) * 5, (1,) * 5]
    assert compositions.sizes(parts, 10_000) == [9950, 50]


@pytest.mark.parametrize(
    ("task", "episodes", "replay"),
    [
        ("mpe/spread", 40_000, 3_900),
        ("mpe/tag", 40_000, 2_500),
        ("mpe/world", 40_000, 3_200),
        ("mamujoco/halfcheetah-2x3", 1_000, 460),
        ("mpe/CN_3ls3l", 10_000, None),
        ("mamujoco/Walker_2l", 10_000, 460),
        ("smax/3m", 5_000, None),
    ],
)
def test_default_sizes_are_the_papers(task, episodes, replay):
    world = world_of(Task.parse(f"{task}/medium"))
    assert (world.episodes, world.replay_episodes) == (episodes, replay)


# ------------------------------------------------------------------------------------------
# datasets


def test_a_particle_world_is_composed_of_policies_with_memory(tmp_path):
    spec = registry.make_spec("mpe/CN_3ls3l/random")
    pools.save(tmp_path / "mpe" / "CN_3ls3l.npz", pool_of(spec, recurrent=True))
    episodes = registry.make_data(
        "mpe/CN_3ls3l/imbalanced-medium", DataOptions(episodes=4, pools=str(tmp_path))
    )
    validate(episodes, spec)
    assert episodes.reward.shape == (4, 25) and episodes.truncated[:, -1].all()
    np.testing.assert_array_equal(episodes.behaviour_level, [[0, 1, 2]] * 4)


# Returns tell who played: members 0 and 1 always play 0, member 2 always 1, and member 3 plays 1 or
# 2, evenly.
PAYOFF = np.array([[2, 9, 9], [9, 10, 18], [9, 19, 20]], np.float32)
LOGITS = [[50, 0, 0], [50, 0, 0], [0, 50, 0], [-50, 0, 0]]
PAIR = make_matrix("mpe/pair", PAYOFF)
QUALITIES = (
    *worlds._INSPO,
    *worlds.SIT_QUALITIES,
    "extreme",
    *worlds.BALANCED,
    *worlds.BANDS,
)
TEXTS = {
    "imbalanced-low": "50%[r r]+50%[r m]",
    "imbalanced-medium": "[m e]",
    "extreme": "99.5%[r r]+0.5%[m m]",
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A scenario mpe/pair with a pool: make(quality, episodes=..., seed=...) -> Episodes."""
    folder = tmp_path_factory.mktemp("pools")
    pools.save(
        folder / "mpe" / "pair.npz", pool_of(PAIR.spec, LOGITS, returns=(2.0, 2.5, 11.0, 20.0))
    )
    world = World(lambda: PAIR, QUALITIES, 60, 12, compositions=TEXTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            WORLDS,
            "mpe",
            lambda: {
                "pair": world,
                "lonely": world._replace(env=lambda: make_matrix("mpe/lonely", PAYOFF)),
            },
        )

        @functools.cache
        def make(quality, **options):
            return registry.make_data(
                f"mpe/pair/{quality}", DataOptions(pools=str(folder), **options)
            )

        make.folder = str(folder)
        yield make


@pytest.mark.parametrize(
    ("quality", "level", "actions"),
    [("random", 0, {0, 1, 2}), ("medium", 1, {1}), ("expert", 2, {1, 2})],
)
def test_a_quality_of_one_policy_is_that_policy_of_default_size(pair, quality, level, actions):
    episodes = pair(quality)
    validate(episodes, PAIR.spec)
    assert len(episodes.reward) == 60 and set(np.unique(episodes.actions)) == actions
    assert (episodes.behaviour_level == level).all()


def test_mixed_is_half_medium_and_then_half_expert(pair):
    episodes = pair("mixed", episodes=20)
    np.testing.assert_array_equal(episodes.behaviour_level, [[1, 1]] * 10 + [[2, 2]] * 10)
    assert (episodes.actions[:10] == 1).all() and (episodes.actions[10:] == 2).any()


def test_medium_replay_is_equal_shares_in_order_of_training(pair):
    episodes = pair("medium-replay")
    # members 0, 1 and 2 of levels random, random and medium: four episodes of each of 12
    np.testing.assert_array_equal(episodes.behaviour_level[:, 0], [0] * 8 + [1] * 4)
    np.testing.assert_array_equal(episodes.actions[:, 0, 0], [0] * 8 + [1] * 4)
    with pytest.raises(
        ValueError, match="episodes: expected at least one of each of 3 policies, found 2"
    ):
        pair("medium-replay", episodes=2)


def test_a_composition_gives_every_agent_of_every_episode_its_level(pair):
    episodes = pair("imbalanced-low", episodes=40)
    np.testing.assert_array_equal(episodes.behaviour_level, [[0, 0]] * 20 + [[0, 1]] * 20)
    # members play their level
    np.testing.assert_array_equal(episodes.actions[:, 0], episodes.behaviour_level)
    apart = pair("imbalanced-medium", episodes=40)
    assert (apart.actions[:, 0, 0] == 1).all() and set(apart.actions[:, 0, 1]) == {1, 2}
    assert apart.behaviour_level.tolist() == [[1, 2]] * 40


def test_compositions_have_ten_thousand_episodes(pair):
    episodes = pair("extreme")
    assert np.unique(episodes.behaviour_level[:, 0], return_counts=True)[1].tolist() == [9950, 50]
    np.testing.assert_array_equal(episodes.actions[:, 0], episodes.behaviour_level)


def test_balanced_and_given_compositions_are_made_the_same_way(pair):
    balanced, mix = pair("balanced-medium", episodes=40), pair("mix=[m*2]", episodes=40)
    np.testing.assert_array_equal(balanced.behaviour_level, np.ones((40, 2)))
    for a, b in zip(balanced, mix, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("quality", "low", "high", "level"),
    [("poor", -np.inf, 10, 0), ("medium", 10, 18, 1), ("expert", 18, np.inf, 2)],
)
def test_a_band_has_only_returns_inside_it(pair, quality, low, high, level):
    # 64 episodes of each member a round, (2, 2), 10 and of the last one 10, 18, 19 or 20 evenly:
    # 128, 80 and 48 about
    episodes = pair(f"band-{quality}", episodes=100)
    returns = returns_of(episodes)
    assert len(returns) == 100 and (returns >= low).all() and (returns < high).all()
    assert (episodes.behaviour_level == level).all()
    assert low not in (10, 18) or (returns == low).any()  # the lower end is inside


def test_wspm_has_exactly_its_share_of_poor_episodes(pair):
    for percent, poor in ((0, 0), (25, 10), (50, 20), (100, 40)):
        returns = returns_of(pair(f"wspm-p{percent}-n40"))
        assert len(returns) == 40
        assert ((returns[:poor] < 10).all(), (returns[poor:] >= 18).all()) == (True, True)


def test_wspm_sets_of_one_seed_are_nested(pair):
    # the experts of the half poor set are the first ones of the set without poor ones, and so for a
    # longer set
    whole, half, longer = (pair(f"wspm-{name}") for name in ("p0-n40", "p50-n40", "p0-n100"))
    assert len(np.unique(whole.actions[:, 0], axis=0)) == 3  # they do differ among each other
    np.testing.assert_array_equal(half.actions[20:], whole.actions[:20])
    np.testing.assert_array_equal(longer.actions[:40], whole.actions)
    assert not np.array_equal(pair("wspm-p0-n40", seed=1).actions, whole.actions)


def test_wspm_takes_its_size_from_its_name_and_at_most_all_poor(pair):
    with pytest.raises(UnknownName, match="unknown quality 'wspm-p101-n8'"):
        pair("wspm-p101-n8")
    with pytest.raises(ValueError, match="expected none, since the name tells 8, found"):
        pair("wspm-p50-n8", episodes=8)


def test_a_band_that_no_policy_reaches_is_refused(pair, monkeypatch):
    monkeypatch.setitem(worlds.BANDS, "band-medium", (30.0, 40.0))
    message = (
        r"mpe/pair: expected \{'band-medium': 7\} episodes in the bands, found "
        r"\{'band-medium': 0\} in 10240 episodes of the pool"
    )
    with pytest.raises(ValueError, match=message):  # 40 rounds of 64 episodes of 4 members
        pair("band-medium", episodes=7)


def test_a_dataset_is_a_function_of_its_seed(pair):
    a, b = pair("expert", episodes=50), pair("expert", episodes=50, seed=1)
    again = registry.make_data("mpe/pair/expert", DataOptions(episodes=50, pools=pair.folder))
    assert np.array_equal(a.actions, again.actions) and not np.array_equal(a.actions, b.actions)


def test_load_puts_it_on_the_device(pair):
    dataset = data.load(
        "mpe/pair/imbalanced-medium", episodes=40, pools=pair.folder, obs_dtype="bfloat16"
    )
    assert (dataset.num_episodes, dataset.num_steps, dataset.spec.name) == (40, 40, "mpe/pair")
    np.testing.assert_array_equal(
        toys.steps(dataset, dataset.step_row).actions,
        pair("imbalanced-medium", episodes=40).actions[:, 0],
    )


def test_without_a_pool_the_error_names_the_command_that_trains_one(pair, tmp_path):
    message = (
        "mpe/lonely: expected a pool of policies, found none in {}the shipped ones; train "
        "one with: jaxoff data pool mpe/lonely"
    )
    with pytest.raises(InvalidPool, match=message.format("")):
        registry.make_data("mpe/lonely/medium")
    with pytest.raises(InvalidPool, match=message.format(f"{tmp_path} nor among ")):
        registry.make_data("mpe/lonely/balanced-expert", DataOptions(pools=str(tmp_path)))
    # needs none
    assert len(registry.make_data("mpe/lonely/random", DataOptions(episodes=3)).reward) == 3


def test_a_composition_needs_members_of_its_levels(pair, tmp_path):
    pools.save(
        tmp_path / "mpe" / "pair.npz",
        pool_of(PAIR.spec, LOGITS, levels=("random", "random", "random", "expert")),
    )
    with pytest.raises(
        InvalidPool,
        match="pool mpe/pair: expected members of level 'medium', found only expert, random",
    ):
        registry.make_data("mpe/pair/mix=[r m]", DataOptions(pools=str(tmp_path)))
