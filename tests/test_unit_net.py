"""The actor of battles that treats units alike, against NumPy, and what it must not tell apart."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jaxoff.baselines import mappo

from jaxoff import registry
from jaxoff.data import pools
from jaxoff.envs.smax import FAMILIES, smax_spec
from jaxoff.errors import InvalidSetting
from jaxoff.nets.actors import Actors
from jaxoff.nets.units import PairNet, UnitNet, pairs_of, unit_list

MAPS = [(family, name) for family, maps in FAMILIES.items() for name in maps]
SPEC = smax_spec("smax", "2s3z")
UNITS = unit_list(SPEC)
NETS = {net: net(UNITS, 6, SPEC.action_size) for net in (UnitNet, PairNet)}
APPLY, APPLY_PAIRS = (jax.jit(net.apply) for net in NETS.values())


@pytest.fixture
def params():
    return started(UnitNet)


@pytest.fixture
def pair_params():
    return started(PairNet)


@functools.cache
def started(net):
    return jax.tree.map(np.array, jax.jit(NETS[net].init)(jax.random.key(0), observations()))


def observations(seed=1, count=7):
    """Random inputs [count, O + N] of units of random types, of which some are out of sight."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 1, (count, SPEC.obs_size + SPEC.num_agents)).astype(np.float32)
    units = x[:, : UNITS.size].reshape(count, -1, UNITS.numbers)  # a view
    kinds = np.eye(len(UNITS.types))
    units[..., 7:] = kinds[rng.integers(len(kinds), size=units.shape[:2])]
    units[rng.random(units.shape[:2]) < 0.3] = 0
    own = x[:, UNITS.size : -SPEC.num_agents]
    own[:, 4:] = kinds[rng.integers(len(kinds), size=count)]
    x[:, -SPEC.num_agents :] = np.eye(SPEC.num_agents)[np.arange(count) % SPEC.num_agents]
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
    params = jax.tree.map(np.copy, params)
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


@pytest.mark.parametrize("net", [UnitNet, PairNet])
def test_a_unit_without_health_is_not_seen(net):
    params, apply, x = started(net), jax.jit(NETS[net].apply), observations()
    other = x.copy()
    units = other[:, : UNITS.size].reshape(len(x), -1, UNITS.numbers)
    units[..., 1:] = np.where(units[..., :1] > 0, units[..., 1:], 0.7)
    assert not np.array_equal(x, other)
    np.testing.assert_array_equal(apply(params, x), apply(params, other))


@pytest.mark.parametrize("net", [UnitNet, PairNet])
def test_a_cooled_actor_has_logits_divided_by_the_temperature(net):
    hot, apply, x = started(net), jax.jit(NETS[net].apply), observations()
    cold = mappo.cooled(hot, 0.25)
    np.testing.assert_allclose(apply(cold, x), 4 * apply(hot, x), rtol=1e-4)


def test_a_pool_names_the_net_of_its_policies():
    net = {"hidden": 6, "recurrent": False, "units": True}
    pool = pools.Pool(SPEC.name, net, 0.1, None, (), 0.0, (0.3, 0.7), 1, {})
    assert isinstance(pools.net_of(pool, SPEC).net(), UnitNet)
    paired = dataclasses.replace(pool, net=net | {"pairs": True})
    assert isinstance(pools.net_of(paired, SPEC).net(), PairNet)
    former = dataclasses.replace(pool, net={"hidden": 6, "recurrent": True})
    assert not pools.net_of(former, SPEC).units


@pytest.mark.parametrize(
    ("scenario", "changes", "message"),
    [
        ("smax/3m/random", {"recurrent": True}, "'recurrent': expected false with units=true, f"),
        (
            "smax/3m/random",
            {"input_norm": "running"},
            "'input_norm': expected none with units=true, f",
        ),
        ("matrix/xor/b", {}, "'units': expected false, since observations of matrix/xor do not"),
        (
            "smax/3m/random",
            {"units": False, "pairs": True},
            "'pairs': expected false with units=false, found true",
        ),
    ],
)
def test_what_an_actor_of_units_does_not_read_is_refused(scenario, changes, message):
    config = mappo.Config(recurrent=False, units=True).replace(**changes)
    with pytest.raises(InvalidSetting, match=message):
        mappo.make(config, registry.make_spec(scenario))


@pytest.mark.parametrize("pairs", [False, True])
def test_actors_of_units_play_what_is_available(pairs):
    spec = SPEC
    actors = Actors(spec, 6, share=True, units=True, pairs=pairs)
    env = registry.make_env("smax/2s3z/random")
    _, seen = env.reset(jax.random.key(0))

    @jax.jit
    def chances(seen):
        policy = actors.policy(actors.init(jax.random.key(1)))
        return policy.distribution(policy.initial(()), seen)[1].probs

    assert (np.asarray(chances(seen))[np.asarray(seen.avail) == 0] == 0).all()


# ----------------------------------------------------------------------------------- pairs of units


def test_the_net_of_pairs_is_the_one_that_numpy_computes(pair_params):
    p, x = pair_params["params"], observations()
    relu = lambda x: np.maximum(x, 0)
    dense = lambda name, *x: np.concatenate(x) @ p[name]["kernel"] + p[name].get("bias", 0)
    seen = jax.tree.map(np.asarray, jax.jit(lambda x: pairs_of(UNITS, x))(x))
    wanted = []
    for row, ours, theirs, between in zip(x, *seen, strict=True):
        own, me = dense("own", row[UNITS.size :]), row[-SPEC.num_agents :].argmax()
        pairs = np.zeros((len(ours), len(theirs), 3))
        for a, ally in enumerate(ours):
            for e, enemy in enumerate(theirs):
                if ally[0] > 0 and enemy[0] > 0:
                    pairs[a, e] = relu(dense("pair", between[a, e], ally, enemy))
        teams = [
            np.stack(
                [
                    relu(dense("ally", ally, pairs[a].mean(0)) + own) * (ally[0] > 0)
                    for a, ally in enumerate(ours)
                ]
            ),
            np.stack(
                [
                    relu(dense("enemy", enemy, pairs[:, e].mean(0), pairs[me, e]) + own)
                    * (enemy[0] > 0)
                    for e, enemy in enumerate(theirs)
                ]
            ),
        ]
        pooled = [f(team, 0) for team in teams for f in (np.mean, np.max)]
        every = relu(dense("inner", relu(dense("all", own, *pooled))))
        logits = dense("action", every)
        for k, enemy in enumerate(teams[1]):
            logits[5 + k] += dense("attack", relu(dense("target", enemy) + dense("aim", every)))[0]
        wanted.append(logits)
    np.testing.assert_allclose(APPLY_PAIRS(pair_params, x), np.stack(wanted), rtol=1e-4, atol=1e-5)


def test_pairs_are_those_of_the_battle():
    env, steps, batch = registry.make_env("smax-x/MMM2/random"), 24, 4
    units, n = unit_list(env.spec), env.spec.num_agents
    step, script = jax.jit(jax.vmap(env.step)), jax.jit(env.script)
    state, seen = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), batch))
    find = jax.jit(jax.vmap(lambda x: pairs_of(units, x), 1, 1))
    numbers = np.broadcast_to(np.eye(n), (batch, n, n))
    reach, sight, damage = (
        np.array([getattr(unit, name) for unit in units.types])
        for name in ("range", "sight", "damage")
    )
    told = 0
    for k in range(steps):
        actions = script(seen)
        state, seen = step(jax.random.split(jax.random.key(k), batch), state, actions)
        if k % 3:
            continue
        found = jax.tree.map(np.asarray, find(np.concatenate([seen.obs, numbers], -1)))
        inner = jax.tree.map(np.asarray, state.state)
        position, alive, kind = inner.unit_positions, inner.unit_alive, inner.unit_types
        slot = inner.prev_attack_actions - 5
        for b in np.flatnonzero(~np.asarray(seen.terminated)):
            away = np.linalg.norm(position[b][:, None] - position[b], axis=-1)
            for i in np.flatnonzero(alive[b, :n]):
                visible = alive[b] & (away[i] < sight[kind[b, i]])
                ours, theirs = found.allies[b, i], found.enemies[b, i]
                np.testing.assert_array_equal(ours[:, 0] > 0, visible[:n])
                np.testing.assert_array_equal(theirs[:, 0] > 0, visible[n:])
                np.testing.assert_array_equal(ours[:, -2:].T, [np.arange(n) == i, np.arange(n) < i])
                for a in np.flatnonzero(visible[:n]):
                    for e in np.flatnonzero(visible[n:]):
                        gap = position[b, n + e] - position[b, a]
                        far = np.linalg.norm(gap)
                        edge = far - reach[kind[b, [a, n + e]]]
                        hits = slot[b, a] == e and a != i and damage[kind[b, a]] > 0
                        aimed = n - 1 - slot[b, n + e] == a and slot[b, n + e] >= 0
                        aimed = aimed and damage[kind[b, n + e]] > 0
                        told += hits + aimed
                        wanted = [*gap / sight[kind[b, i]], far / sight[kind[b, i]]]
                        wanted += [*np.clip(edge / 2, -1, 1), hits, aimed]
                        got = found.between[b, i, a, e]
                        np.testing.assert_allclose(got[[0, 1, 2, 3, 4, 7, 8]], wanted, atol=2e-3)
                        clear = np.abs(edge) > 1e-2
                        np.testing.assert_array_equal((got[5:7] > 0)[clear], (edge < 0)[clear])
    assert told > 100
