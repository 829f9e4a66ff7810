"""Pools of policies: files, levels, mixtures, and how they come from training."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff import registry
from jaxoff.data import pools, recipes
from jaxoff.data.dataset import validate
from jaxoff.data.episodes import returns_of
from jaxoff.data.pools import InvalidPool, Member, Pool, level_of
from jaxoff.envs.mpe.prey import load_prey
from jaxoff.names import DataOptions, UnknownName
from jaxoff.training.pool import choose, train_pool
from jaxoff.training.prey import _layers, train_prey
from tests.reference.toy_episodes import toy_spec
from tests.test_rolling import CLOCK

KEY = jax.random.key(0)
RETURNS, LEVELS = (0.0, 1.0, 5.0, 10.0), ("random", "random", "medium", "expert")


def pool_of(
    spec,
    logits=None,
    recurrent=False,
    returns=RETURNS,
    levels=LEVELS,
    replay=(True, True, True, False),
) -> Pool:
    """A pool of as many members as there are returns, with random nets; logits [K, A]: policies
    that see nothing.
    """
    members = tuple(
        Member(100 * k, r, 0.5, None, level, again)
        for k, (r, level, again) in enumerate(zip(returns, levels, replay, strict=True))
    )
    pool = Pool(
        spec.name,
        {"hidden": 4, "recurrent": recurrent},
        0.1,
        None,
        members,
        0.0,
        (0.3, 0.7),
        7,
        {"seed": 3},
    )
    init = jax.jit(jax.vmap(pools.net_of(pool, spec).init))
    params = jax.tree.map(np.array, init(jax.random.split(KEY, len(members))))
    if logits is not None:
        last = params["params"]["Dense_1" if recurrent else "Dense_2"]
        last["kernel"][:], last["bias"][:] = 0, np.asarray(logits)
    return dataclasses.replace(pool, params=params)


@pytest.fixture
def path(tmp_path):
    pools.save(tmp_path / "toy" / "clock.npz", pool_of(CLOCK.spec))
    return tmp_path / "toy" / "clock.npz"


def rewrite(path, **changes):
    """Change arrays or entries of the description of a pool file; None removes one."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays["meta"]))
    for name, value in changes.items():
        target = meta if name in meta else arrays
        key = name if name in meta else next(k for k in arrays if k.endswith(f"{name}']"))
        if value is None:
            del target[key]
        else:
            target[key] = value(target[key]) if callable(value) else value
    arrays["meta"] = np.array(json.dumps(meta))
    np.savez(path, **arrays)


# ---------------------------------------------------------------------------------------------
# files


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_pool_comes_back_from_its_file_rounded_to_half_precision(tmp_path, recurrent):
    pool = pool_of(CLOCK.spec, recurrent=recurrent)
    pools.save(tmp_path / "a.npz", pool)
    found = pools.load(tmp_path / "a.npz", CLOCK.spec)
    for field in dataclasses.fields(Pool):
        if field.name != "params":
            assert getattr(found, field.name) == getattr(pool, field.name), field.name
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float16)),
        found.params,
        pool.params,
    )
    assert {x.dtype for x in jax.tree.leaves(found.params)} == {np.dtype(np.float32)}
    pools.save(tmp_path / "b.npz", found)
    again = pools.load(tmp_path / "b.npz", CLOCK.spec)
    jax.tree.map(np.testing.assert_array_equal, again.params, found.params)


def test_a_missing_pool_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(
        InvalidPool,
        match=(
            r"toy/none: expected a pool of policies, found none in the shipped ones; train "
            r"one with: jaxoff"
        ),
    ):
        pools.path_of("toy/none")
    with pytest.raises(
        InvalidPool,
        match=(
            rf"found none in {tmp_path} nor among the shipped ones; train one with: jaxoff "
            r"data pool toy/none"
        ),
    ):
        pools.path_of("toy/none", tmp_path)


def test_a_folder_goes_before_the_shipped_ones(path, tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "FOLDER", tmp_path)
    assert pools.path_of("toy/clock") == path and pools.shipped() == ["toy/clock"]
    other = tmp_path / "mine" / "toy" / "clock.npz"
    pools.save(other, pool_of(CLOCK.spec))
    assert pools.path_of("toy/clock", tmp_path / "mine") == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "field 'schema': expected 1"),
        ({"name": "mpe/spread"}, "field 'name': expected toy/clock, found mpe/spread"),
        (
            {"bias": lambda x: x[:, :-1]},
            r"field 'params': expected shapes \{.*\(4, 4\).*found \{.*\(4, 3\)",
        ),
        ({"kernel": None}, "field 'params': expected shapes"),
        (
            {"kernel": lambda x: x * np.float16(np.nan)},
            r"field 'params\[.*'kernel'\]': expected finite numbers, found some that are not",
        ),
        ({"members": None}, "expected a pool file, found a damaged one"),
        ({"net": {"hidden": 4}}, "expected a pool file, found a damaged one"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_field(path, changes, message):
    rewrite(path, **changes)
    with pytest.raises(InvalidPool, match=f"{path}: {message}"):
        pools.load(path, CLOCK.spec)


def test_a_damaged_file_is_refused_by_name(path):
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InvalidPool, match=f"{path}: expected a pool file, found a damaged one"):
        pools.load(path, CLOCK.spec)


# --------------------------------------------------------------------------------------------
# levels


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (-5, "random"),
        (9.99, "random"),
        (10, "medium"),
        (17.99, "medium"),
        (18, "expert"),
        (30, "expert"),
    ],
)
def test_levels_begin_at_the_cuts(value, level):
    assert level_of(value, 0.0, 20.0, (0.5, 0.9)) == level  # cuts at 10 and 18


def test_members_are_found_by_level_share_and_replay():
    pool = pool_of(CLOCK.spec)
    assert [pool.of_level(level) for level in pools.LEVELS] == [[0, 1], [2], [3]]
    assert pool.best_return == 10 and pool.replay() == [0, 1, 2]
    # returns 0, 3.1, 7.4, 7.6, 10
    assert [pool.nearest(share) for share in (0.0, 0.31, 0.74, 0.76, 1.0)] == [0, 2, 2, 3, 3]
    poor = dataclasses.replace(pool, members=pool.members[:3])
    with pytest.raises(
        InvalidPool,
        match="pool toy/clock: expected members of level 'expert', found only medium, random",
    ):
        poor.of_level("expert")


# ------------------------------------------------------------------------------------------
# mixtures


def seen_by(spec, count=3, steps=4):
    """A few time steps of random views [count, N, O], the last actions [count, N] among them."""
    _, seen = jax.vmap(CLOCK.reset)(jax.random.split(KEY, count))
    rng = np.random.default_rng(0)
    for _ in range(steps):
        obs, last = (
            rng.normal(size=(count, spec.num_agents, spec.obs_size)),
            rng.integers(spec.action_size, size=(count, spec.num_agents)),
        )
        yield seen._replace(obs=jnp.asarray(obs, jnp.float32), last_actions=jnp.asarray(last))


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_each_agent_is_as_under_its_own_members_policy_and_memory(recurrent):
    # three episodes: agents follow members (1, 1), (1, 3), (3, 1) of the pool
    spec, pool = CLOCK.spec, pool_of(CLOCK.spec, recurrent=recurrent)
    mixed = pools.mixture(pool, spec, (1, 3))
    choice = np.array([[0, 0], [0, 1], [1, 0]])
    memory, step = pools.choices(pool, spec, choice, 2), jax.jit(mixed.distribution)
    alone = [
        pools.net_of(pool, spec).policy(jax.tree.map(lambda x, k=k: x[k], pool.params))
        for k in (1, 3)
    ]
    memories, steps = (
        [policy.initial((3,)) for policy in alone],
        [jax.jit(policy.distribution) for policy in alone],
    )
    for seen in seen_by(spec):
        memory, found = step(memory, seen)
        each = []
        for k in range(2):
            memories[k], dist = steps[k](memories[k], seen)
            each.append(np.asarray(dist.logits))
        wanted = np.where(choice[..., None] == 0, each[0], each[1])
        np.testing.assert_allclose(found.logits, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(memory[0], choice)


def test_real_actions_of_a_mixture_are_the_members_means():
    spec = toy_spec(False)
    pool = pool_of(spec, logits=[[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, -3]])
    _, seen = CLOCK.reset(KEY)
    seen = seen._replace(
        obs=jnp.zeros((2, 4)), avail=jnp.ones((2, 3)), last_actions=jnp.zeros((2, 3))
    )
    mixed = pools.mixture(pool, spec, (1, 3))
    _, dist = mixed.distribution(pools.choices(pool, spec, np.array([1, 0]), 2), seen)
    # in the bound of 1
    np.testing.assert_allclose(dist.mode(), np.tanh([[0, 0, -3], [1, 0, 0]]), rtol=1e-6)


def test_a_mixture_starts_with_its_first_member_and_is_made_once():
    pool = pool_of(CLOCK.spec, logits=9 * np.eye(3)[[0, 1, 2, 2]])
    mixed = pools.mixture(pool, CLOCK.spec, (2, 1))
    assert mixed is pools.mixture(pool, CLOCK.spec, (2, 1))
    episodes = recipes.record(CLOCK, mixed, 4, KEY)  # e^9 : 1 : 1 for the action
    assert (episodes.actions[episodes.filled] == 2).mean() > 0.9


def test_choices_stay_with_their_episodes():
    # members 0, 1, 2 always play 0, 1, 2; parts of two episodes each
    pool = pool_of(CLOCK.spec, logits=50 * np.eye(3)[[0, 1, 2, 2]])
    choice = np.array([[0, 1], [1, 0], [2, 2], [0, 2], [1, 1]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "_CHUNK", 2)
        memory = pools.choices(pool, CLOCK.spec, choice, 3)
        episodes = recipes.record(
            CLOCK, pools.mixture(pool, CLOCK.spec, (0, 1, 2)), 5, KEY, memory=memory
        )
    wanted = np.broadcast_to(choice[:, None], episodes.actions.shape) * episodes.filled[..., None]
    np.testing.assert_array_equal(episodes.actions, wanted)


# ------------------------------------------------------------------------------------------
# training


def test_of_each_level_some_are_kept_and_the_first_the_nearest_and_the_best():
    # [0, 10]: 0 and 1 are random, 4 and 5.5 medium, 10 and 8 expert; half the way is 5, nearest 5.5
    returns = [0.0, 1.0, 4.0, 5.5, 10.0, 8.0]
    assert choose(returns, 0.0, (0.3, 0.7), 0.5, per_level=1, replay=1) == ([0, 2, 3, 4], [0])
    assert choose(returns, 0.0, (0.3, 0.7), 0.5, per_level=2, replay=1) == ([0, 1, 2, 3, 4, 5], [0])


def test_medium_replay_goes_up_to_the_first_that_reaches_the_medium_level():
    # half the way is 5; it falls again after the first that reaches it
    returns = [0.0, 1.0, 6.0, 2.0, 5.0, 10.0]
    assert choose(returns, 0.0, (0.3, 0.7), 0.5, 3, replay=8)[1] == [0, 1, 2]
    assert choose(returns, 0.0, (0.3, 0.7), 0.5, 3, replay=2)[1] == [0, 2]
    # 7 is reached by the last: 0, 2.5 (even: 2), 5
    assert choose(returns, 0.0, (0.3, 0.7), 0.7, 3, replay=3)[1] == [0, 2, 5]
    # the nearest, in no other part
    assert 4 in choose(returns, 0.0, (0.3, 0.7), 0.5, 1, replay=2)[0]


@pytest.mark.parametrize("low", [3.0, 5.0])
def test_training_that_never_beats_random_makes_no_pool(low):
    with pytest.raises(
        ValueError,
        match=(
            rf"expected training to get above the random policy's return {low:.2f}, found at "
            r"best 3.00"
        ),
    ):
        choose([1.0, 3.0, 2.0], low, (0.3, 0.7), 0.5, 3, 8)


SMALL = {
    "iterations": 4,
    "snapshots": 2,
    "num_envs": 32,
    "hidden": 16,
    "critic_hidden": 16,
    "lr": 0.03,
}


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """A pool of mpe/spread-n1 from four iterations: (folder, pool, what was told)."""
    folder, told = tmp_path_factory.mktemp("pools"), []
    pool = train_pool(
        "mpe/spread-n1",
        folder / "mpe" / "spread-n1.npz",
        overrides=SMALL,
        tell=lambda s, total: told.append((s.env_steps, total)),
    )
    return folder, pool, told


def test_a_trained_pool_is_a_file_that_says_how_it_was_made(spread):
    folder, pool, told = spread
    found = pools.load(
        pools.path_of("mpe/spread-n1", folder), registry.make_spec("mpe/spread-n1/medium")
    )
    jax.tree.map(np.testing.assert_array_equal, found.params, pool.params)
    # nothing unfinished stays
    assert [file.name for file in (folder / "mpe").iterdir()] == ["spread-n1.npz"]
    # 0, 1 and 4 iterations of 25 steps in 32 environments
    assert told == [(0, 3200), (800, 3200), (3200, 3200)]
    assert (found.name, found.noise, found.net) == (
        "mpe/spread-n1",
        pytest.approx(0.1),
        {"hidden": 16, "recurrent": False, "units": False},
    )
    assert (
        found.made["command"].startswith(
            "jaxoff data pool mpe/spread-n1 --seed 0 --set iterations=4"
        )
        and found.made["seed"] == 0
    )
    curve = found.made["curve"]
    assert [point["env_steps"] for point in curve] == [0, 800, 3200]
    assert curve[-1]["cpu_minutes"] >= curve[0]["cpu_minutes"] >= 0
    # of settings.toml
    config = found.made["config"]
    assert config["iterations"] == 4 and config["gamma"] == pytest.approx(0.95)
    assert [member.env_steps for member in found.members] == sorted(
        {member.env_steps for member in found.members}
    )
    assert found.members[0].env_steps == 0 and found.random_return < found.best_return


def test_returns_of_members_are_those_of_their_levels_and_data(spread):
    folder, pool, _ = spread
    high = pool.best_return
    assert [m.level for m in pool.members] == [
        level_of(m.return_mean, pool.random_return, high, pool.cuts) for m in pool.members
    ]
    episodes = registry.make_data(
        "mpe/spread-n1/expert", DataOptions(episodes=256, pools=str(folder))
    )
    best = max(pool.members, key=lambda member: member.return_mean)
    # noise 0.1 both where it was measured (a standard deviation) and in data: five standard errors
    # of 512 and of 256
    error = 5 * best.return_std * np.sqrt(1 / 512 + 1 / 256)
    assert returns_of(episodes).mean() == pytest.approx(best.return_mean, abs=error)
    validate(episodes, registry.make_spec("mpe/spread-n1/expert"))
    assert (episodes.behaviour_level == 2).all()


def test_a_prey_is_trained_into_a_file_that_plays(tmp_path):
    told = []
    small = {
        "iterations": 1,
        "num_envs": 4,
        "segment": 5,
        "hidden": 8,
        "critic_hidden": 8,
        "epochs": 1,
    }
    path = train_prey(
        "tag",
        tmp_path / "prey.npz",
        rounds=1,
        overrides=small,
        tell=lambda who, value: told.append(who),
    )
    params = load_prey(path)
    assert (params["w1"].shape, params["w3"].shape) == ((14, 8), (8, 2)) and told == [
        "round 1: predators",
        "round 1: prey",
    ]
    with pytest.raises(UnknownName, match="unknown world 'spread'"):
        train_prey("spread", tmp_path / "prey.npz")


def test_the_number_of_a_lone_agent_goes_into_the_first_bias():
    # x = (o, 1): o w + 1 v + b = o w + (v + b)
    layer = {"kernel": np.array([[1.0, 2.0], [5.0, 7.0]]), "bias": np.array([0.5, 0.25])}
    (weight, bias), rest = _layers({"params": {"Dense_0": layer, "Dense_1": layer}})
    np.testing.assert_array_equal(weight, [[1, 2]])
    np.testing.assert_array_equal(bias, [5.5, 7.25])
    np.testing.assert_array_equal(rest[0], layer["kernel"])


def test_shipped_pools_fit_their_scenarios_and_have_every_level_in_30_mb():
    size = 0
    for name in pools.shipped():
        path = pools.path_of(name)
        pool = pools.load(path, registry.make_spec(f"{name}/medium"))
        assert all(pool.of_level(level) for level in pools.LEVELS), name
        size += path.stat().st_size
    assert size <= 30e6
