"""The actor of battles that treats units alike, against NumPy, and what it must not tell apart."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from jaxoff.baselines import mappo

from jaxoff import registry
from jaxoff.data import pools
from jaxoff.envs.smax import FAMILIES, smax_spec
from jaxoff.errors import InvalidSetting
from jaxoff.nets.actors import Actors
from jaxoff.nets.units import RecurrentUnitNet, UnitNet, unit_list

MAPS = [(family, name) for family, maps in FAMILIES.items() for name in maps]
SPEC = smax_spec("smax", "2s3z")
UNITS = unit_list(SPEC)
NET = UnitNet(UNITS, 6, SPEC.action_size)
APPLY = jax.jit(NET.apply)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.array, NET.init(jax.random.key(0), observations()))


def observations(seed=1, count=7):
    """Random inputs [count, O + N] in which some units are out of sight."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 1, (count, SPEC.obs_size + SPEC.num_agents)).astype(np.float32)
    units = x[:, : UNITS.size].reshape(count, -1, UNITS.numbers)  # a view
    units[rng.random(units.shape[:2]) < 0.3] = 0
    return x


@pytest.mark.parametrize(("family", "name"), MAPS)
def test_the_units_of_every_map_fill_its_observations_and_actions(family, name):
    spec, battle = smax_spec(family, name), FAMILIES[family][name]
    units = unit_list(spec)
    assert spec.obs_size == units.size + 4 + len(battle.units)
    assert (units.allies + 1, 5 + units.enemies) == (spec.num_agents, spec.action_size)


def test_it_is_the_one_that_numpy_computes(params):
    p, x = params["params"], observations()
    relu = lambda x: np.maximum(x, 0)
    dense = lambda name, x: x @ p[name]["kernel"] + p[name].get("bias", 0)
    wanted = []
    for row in x:
        listed, own = row[: UNITS.size].reshape(-1, UNITS.numbers), row[UNITS.size :]
        teams = []
        for name, team in (("ally", listed[: UNITS.allies]), ("enemy", listed[UNITS.allies :])):
            rows = [relu(dense(name, u) + dense("own", own)) * (u[0] > 0) for u in team]
            teams.append(np.stack(rows))
        pooled = [f(team, 0) for team in teams for f in (np.mean, np.max)]
        every = relu(
            dense("inner", relu(dense("all", np.concatenate([dense("own", own), *pooled]))))
        )
        logits = dense("action", every)
        for k, enemy in enumerate(teams[1]):
            logits[5 + k] += dense("attack", relu(dense("target", enemy) + dense("aim", every)))[0]
        wanted.append(logits)
    np.testing.assert_allclose(APPLY(params, x), np.stack(wanted), rtol=1e-4, atol=1e-5)


def test_enemies_in_another_order_are_attacked_in_that_order_and_allies_have_none(params):
    params["params"]["action"]["kernel"][:, 5:] = 0  # the part that knows an enemy's slot
    params["params"]["action"]["bias"][5:] = 0
    rng, x = np.random.default_rng(0), observations()
    allies, enemies = rng.permutation(UNITS.allies), rng.permutation(UNITS.enemies)
    order = np.concatenate([allies, UNITS.allies + enemies])
    moved = x.copy()
    units = x[:, : UNITS.size].reshape(len(x), -1, UNITS.numbers)
    moved[:, : UNITS.size] = units[:, order].reshape(len(x), -1)
    before, after = (np.asarray(APPLY(params, each)) for each in (x, moved))
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-5)
    np.testing.assert_allclose(after[:, 5:], before[:, 5 + enemies], atol=1e-5)
    assert np.ptp(before[:, 5:], 1).min() > 1e-3


def test_a_unit_without_health_is_not_seen(params):
    x = observations()
    other = x.copy()
    units = other[:, : UNITS.size].reshape(len(x), -1, UNITS.numbers)
    units[..., 1:] = np.where(units[..., :1] > 0, units[..., 1:], 0.7)
    assert not np.array_equal(x, other)
    np.testing.assert_array_equal(APPLY(params, x), APPLY(params, other))


def test_a_cooled_actor_has_logits_divided_by_the_temperature(params):
    hot, cold = params, mappo.cooled(params, 0.25)
    x = observations()
    np.testing.assert_allclose(APPLY(cold, x), 4 * APPLY(hot, x), rtol=1e-4)


def test_a_pool_names_the_net_of_its_policies():
    net = {"hidden": 6, "recurrent": False, "units": True}
    pool = pools.Pool(SPEC.name, net, 0.1, None, (), 0.0, (0.3, 0.7), 1, {})
    assert isinstance(pools.net_of(pool, SPEC).net(), UnitNet)
    recurrent = dataclasses.replace(pool, net=net | {"recurrent": True})
    assert isinstance(pools.net_of(recurrent, SPEC).net(), RecurrentUnitNet)
    former = dataclasses.replace(pool, net={"hidden": 6, "recurrent": True})
    assert not pools.net_of(former, SPEC).units


@pytest.mark.parametrize(
    ("scenario", "changes", "message"),
    [
        (
            "smax/3m/random",
            {"input_norm": "running"},
            "'input_norm': expected none with units=true, f",
        ),
        ("matrix/xor/b", {}, "'units': expected false, since observations of matrix/xor do not"),
    ],
)
def test_what_an_actor_of_units_does_not_read_is_refused(scenario, changes, message):
    config = mappo.Config(recurrent=False, units=True).replace(**changes)
    with pytest.raises(InvalidSetting, match=message):
        mappo.make(config, registry.make_spec(scenario))


def test_with_a_memory_that_repeats_its_input_it_is_the_net_without(params):
    """A GRU whose update gate is closed and whose candidate is tanh of its input."""
    net, width = RecurrentUnitNet(UNITS, 6, SPEC.action_size), 12
    x, memory = observations().reshape(1, 7, -1), np.zeros((1, width), np.float32)
    own = jax.tree.map(np.array, net.init(jax.random.key(0), memory, x))
    gru = jax.tree.map(np.zeros_like, own["params"]["memory"])
    gru["input"]["bias"][width : 2 * width] = -100.0  # nothing is kept
    gru["input"]["kernel"][:, 2 * width :] = 1e-3 * np.eye(width)  # where tanh is linear
    same = {"params": params["params"] | {"memory": gru}}
    same["params"]["inner"] = dict(same["params"]["inner"])
    same["params"]["inner"]["kernel"] = same["params"]["inner"]["kernel"] * 1e3
    for name in ("aim", "action"):
        assert same["params"][name]["kernel"].shape == own["params"][name]["kernel"].shape
    after, logits = jax.jit(net.apply)(same, memory, x)
    np.testing.assert_allclose(logits[0], APPLY(params, x[0]), rtol=1e-3, atol=1e-4)
    assert after.shape == (1, width)


def test_its_memory_lasts_until_it_is_reset():
    net = RecurrentUnitNet(UNITS, 6, SPEC.action_size)
    x, memory = observations(count=5).reshape(1, 5, -1), np.zeros((1, 12), np.float32)
    params, apply = net.init(jax.random.key(0), memory, x), jax.jit(net.apply)
    reset = np.array([[False, False, True, False, False]])
    last, whole = apply(params, memory, x, reset)
    first, early = apply(params, memory, x[:, :2])
    np.testing.assert_allclose(whole[:, :2], early, atol=1e-6)
    np.testing.assert_allclose(whole[:, 2:], apply(params, memory, x[:, 2:])[1], atol=1e-6)
    _, kept = apply(params, first, x[:, 2:])
    assert np.abs(np.asarray(kept - whole[:, 2:])).max() > 1e-3
    np.testing.assert_allclose(last, apply(params, memory, x[:, 2:])[0], atol=1e-6)


@pytest.mark.parametrize("recurrent", [False, True])
def test_actors_of_units_play_what_is_available(recurrent):
    actors = Actors(SPEC, 6, share=True, units=True, recurrent=recurrent)
    env = registry.make_env("smax/2s3z/random")
    _, seen = env.reset(jax.random.key(0))
    policy = actors.policy(actors.init(jax.random.key(1)))
    memory, dist = policy.distribution(policy.initial(()), seen)
    assert (np.asarray(dist.probs)[np.asarray(seen.avail) == 0] == 0).all()
    assert jax.tree.map(np.shape, memory) == ((SPEC.num_agents, 12) if recurrent else ())
