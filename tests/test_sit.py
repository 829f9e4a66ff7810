"""SIT: what a known sum of rewards is taken apart into; losses against float64 NumPy; the traps of
its formulas.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jaxoff.baselines import sit
from scipy import stats

from jaxoff import registry
from jaxoff.config import checked
from jaxoff.data import samplers
from jaxoff.data.dataset import Dataset, place
from jaxoff.data.episodes import take
from jaxoff.learners.decomposition import Decomposed, Decomposition, decomposition_learner, fit
from jaxoff.losses import credit
from jaxoff.nets.gat import GraphAttention
from jaxoff.optimisers import rmsprop
from jaxoff.types import EnvSpec, Episodes, Transition
from tests import toys
from tests.reference import sit_numpy as ref
from tests.reference.credit_toy import credit_episodes, credit_spec

N, WIDTH, A, T = 3, 2, 3, 4
TYPES = (0, 0, 1)
LENGTHS = np.array([4, 2, 3, 1, 4, 3])
SIZES: dict[str, Any] = {
    "hidden": 6,
    "critic_hidden": 5,
    "decomposition_hidden": 4,
    "members": 3,
    "batch_size": 4,
}


# One program for each formula, and not one for each of its operations.
returns_to_go, episode_means = jax.jit(credit.returns_to_go), jax.jit(credit.episode_means)
rescaled = jax.jit(credit.rescaled)
certainty_weights = jax.jit(credit.certainty_weights, static_argnums=2)


@functools.partial(jax.jit, static_argnums=1)
def log_probs(priority: Any, types: tuple[int, ...], *numbers: Any) -> Any:
    return credit.trajectory_log_probs(priority, types, *numbers)


def spec_of(discrete: bool = True) -> EnvSpec:
    return toys.spec_of(discrete, agent_types=TYPES)


def episodes_of(discrete: bool = True) -> Episodes:
    """Episodes of which every second terminates, with rewards of the team alone."""
    data = toys.single(toys.episodes_of(spec_of(discrete), LENGTHS, (0, 2, 4)))
    return data._replace(agent_reward=None, reward=data.reward * data.filled)


@functools.cache
def dataset_of(discrete: bool = True) -> Dataset:
    return place(episodes_of(discrete), spec_of(discrete))


@functools.cache
def started(discrete: bool, **switches: Any) -> tuple[sit.Method, Any]:
    """The method, and a state with random parameters in double precision."""
    m = sit.method_of(sit.Config(**SIZES | switches), spec_of(discrete))
    state = jax.eval_shape(lambda d: sit.prepare(m, (), d, jax.random.key(0)), dataset_of(discrete))
    trees = {
        name: toys.drawn(getattr(state, name), seed)
        for seed, name in enumerate(("policy", "critic", "target_critic"))
    }
    if not discrete:
        trees["policy"] = trees["policy"]._replace(
            log_std=np.random.default_rng(5).uniform(-2, -0.2, (2, A))
        )
    return m, state._replace(**trees)


@functools.cache
def drawn(discrete: bool = True, seed: int = 0) -> Transition:
    """A batch of 4 trajectories for each agent, in double precision, with random rewards and
    weights.
    """
    rng, dataset = np.random.default_rng(seed), dataset_of(discrete)
    shape = (len(LENGTHS), T, N)
    tables = rng.normal(size=shape), rng.uniform(0.5, 2, shape)

    def gathered(tables: Any, dataset: Dataset, key: Any) -> Transition:
        sampler = samplers.trajectories(4, TYPES, jnp.full(shape[::2], -2.0), *tables)
        return sampler.gather(dataset, sampler.draw(sampler.init(dataset), dataset, key))

    batch = jax.jit(gathered)(tables, dataset, jax.random.key(seed))
    return jax.tree.map(
        lambda x: np.asarray(x, np.float64 if jnp.issubdtype(x.dtype, jnp.floating) else np.int32),
        batch,
    )


def by_agent(tree: Any) -> list[Any]:
    """Parameters of each agent, from those of each type."""
    return [jax.tree.map(lambda x, k=k: np.asarray(x)[k], tree) for k in TYPES]


def encode(discrete: bool) -> Any:
    return (lambda a: np.eye(A)[a]) if discrete else (lambda a: np.clip(a, -1, 1))


# ------------------------------------------------------------------------------------ I.
# decomposition


def test_a_known_sum_of_rewards_is_taken_apart(optimised):
    # Agents do the best of three things with probability 0, .5, .9 and else anything. The nets see
    # the sum of what they earn.
    spec, steps = credit_spec(), 1200
    model = Decomposition(spec, members=2, hidden=16)
    learner, sampler = decomposition_learner(model, rmsprop(3e-3, 10.0)), samplers.episodes(32)
    data, test = place(credit_episodes(600)[0], spec), credit_episodes(300, seed=1)

    def train(key: Any) -> Any:
        def step(state: Any, key: Any) -> Any:
            return learner.update(state, sampler.gather(data, sampler.draw((), data, key)), key)[
                0
            ], None

        state = lax.scan(step, learner.init(key), jax.random.split(key, steps))[0]
        return model.credit(state.params, place(test[0], spec), 0.99)

    real, earned = np.asarray(test[0].filled), test[1]
    for found in [
        jax.tree.map(np.asarray, jax.tree.map(lambda x, i=i: x[i], s))
        for s in [seeds(train, 2)]
        for i in range(2)
    ]:
        total, reward = found.reward.sum(-1)[real], test[0].reward[real]
        assert 1 - np.mean((total - reward) ** 2) / reward.var() >= 0.98
        assert (
            min(np.corrcoef(found.reward[real][:, i], earned[real][:, i])[0, 1] for i in range(3))
            >= 0.95
        )
        mean = found.reward[real].mean(0)
        assert mean[0] < mean[1] < mean[2], mean  # s1 < s2 < s3
        assert found.reward[~real].max() == found.spread[~real].max() == 0
        # Priority mass: the worst agent's trajectories are a third of the data, and drawn at least
        # three times less often.
        share = np.exp(
            np.asarray(credit.trajectory_log_probs(found.priority, (0, 0, 0), 20.0, 0.2))
        ).sum(0)
        assert share[0] <= (1 / 3) / 3 and share.sum() == pytest.approx(1, rel=1e-4)


def seeds(train: Any, count: int) -> Any:
    return jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), count))


@pytest.mark.parametrize("kind", ["attention", "sum", "monotonic"])
def test_the_decomposition_equals_float64_numpy(kind):
    # Eq. 1-3, value and slope; T6 and T28: own rewards add up to the total, unless it is a monotone
    # mix of them.
    model = Decomposition(spec_of(), 2, 4, kind)
    params = toys.drawn(jax.eval_shape(model.init, jax.random.key(0)), 3)
    data = episodes_of()
    whole = jax.tree.map(np.asarray, toys.window(dataset_of(), dataset_of().episode_row, T))
    rows = [
        (
            data.state[e, t],
            np.concatenate([data.obs[e, t], np.eye(A)[data.actions[e, t]]], -1),
            float(data.reward[e, t]),
        )
        for e, t in np.argwhere(data.filled)
    ]
    members = lambda p: [jax.tree.map(lambda x, k=k: x[k], p) for k in range(2)]
    with jax.enable_x64(True):
        both = jax.jit(
            lambda p: (
                jax.value_and_grad(lambda p: fit(model, p, whole), has_aux=True)(p),
                model.predict(p, whole),
            )
        )
        ((loss, told), grads), (own, totals) = both(params)
    wanted, way = toys.slope(lambda p: ref.decomposition_loss(members(p), rows, kind), params, 1)
    assert float(loss) == pytest.approx(
        ref.decomposition_loss(members(params), rows, kind), rel=1e-6
    )
    assert toys.along(grads, way) == pytest.approx(wanted, rel=1e-5)
    mean = np.mean(
        [[ref.own_rewards(p, s, x, kind)[0] for s, x, _ in rows] for p in members(params)], 0
    )
    np.testing.assert_allclose(np.asarray(own).mean(0)[data.filled], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([told[f"own_reward_{i}"] for i in range(N)], mean.mean(0), rtol=1e-5)
    if kind == "monotonic":
        more = jax.jit(jax.vmap(lambda p, o: model.net().apply(p, whole.state, o)[1]))
        up = jax.tree_util.tree_map_with_path(
            lambda k, x: x + 1.0 * ("reward" in str(k) and x.shape == (2, 1)), params
        )
        seen = np.concatenate([whole.obs, np.eye(A)[whole.actions]], -1)[None].repeat(2, 0)
        # every r_i a unit higher
        assert (np.asarray(more(up, seen)) >= np.asarray(totals) - 1e-5).all()
    else:
        np.testing.assert_allclose(own.sum(-1), totals, rtol=1e-5, atol=1e-6)


def test_a_fit_to_steps_is_one_to_the_episodes_they_are_of():
    # Stage I may draw single steps: none of them is padding, and all of them have the loss and the
    # slope of all episodes.
    model, data = Decomposition(spec_of(), 2, 4), dataset_of()
    params = toys.drawn(jax.eval_shape(model.init, jax.random.key(0)), 3)
    batches = toys.steps(data, data.step_row), toys.window(data, data.episode_row, T)
    of_steps, of_episodes = jax.jit(
        lambda p: [jax.value_and_grad(lambda p, b=b: fit(model, p, b)[0])(p) for b in batches]
    )(params)
    for found, wanted in zip(jax.tree.leaves(of_steps), jax.tree.leaves(of_episodes), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    for steps, shape in ((50, (50,)), (0, (4, T))):
        sampler = sit.make(sit.Config(**SIZES, decomposition_batch=steps), spec_of())[0].sampler(
            None
        )
        batch = jax.jit(lambda d, s=sampler: s.gather(d, s.draw(s.init(d), d, jax.random.key(0))))(
            data
        )
        assert batch.reward.shape == shape and bool(batch.valid.all()) == (steps > 0)


def test_attention_shares_one_among_the_agents():
    # T5. r_i = 1 for all, so own rewards are lambda: they add up to 1, go with their agents, and
    # are 1 for a single one.
    model = Decomposition(spec_of(), members=2, hidden=4)
    params = toys.drawn(jax.eval_shape(model.init, jax.random.key(0)), 0)
    last = params["params"]["reward"]["Dense_2"]
    params["params"]["reward"]["Dense_2"] = {
        "kernel": 0 * last["kernel"],
        "bias": 0 * last["bias"] + 1,
    }
    rows = toys.steps(dataset_of(), dataset_of().step_row)
    predict = jax.jit(model.predict)
    share, total = (np.asarray(x) for x in predict(params, rows))
    np.testing.assert_allclose(share.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    assert share.std(-1).min() > 1e-4
    order = np.array([2, 0, 1])
    turned = predict(params, rows._replace(obs=rows.obs[:, order], actions=rows.actions[:, order]))[
        0
    ]
    np.testing.assert_allclose(turned, share[..., order], rtol=1e-5)
    alone = predict(params, rows._replace(obs=rows.obs[:, :1], actions=rows.actions[:, :1]))[0]
    np.testing.assert_allclose(alone, 1)


def test_agents_that_see_nothing_get_no_reward_if_so_chosen():
    rows = toys.steps(dataset_of(), dataset_of().step_row)
    rows = rows._replace(obs=rows.obs.at[:, 1].set(0.0))
    for mask in (False, True):
        model = Decomposition(spec_of(), members=2, hidden=4, mask_dead=mask)
        own, total = jax.jit(model.predict)(
            toys.drawn(jax.eval_shape(model.init, jax.random.key(0)), 0), rows
        )
        assert (np.asarray(own)[..., 1] == 0).all() == mask
        np.testing.assert_allclose(own.sum(-1), total, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------ II.
# replay


def test_returns_to_go_discount_what_is_later():
    # T2. Rewards 1, 1, 1 and gamma .5: 1 + .5 + .25, 1 + .5, 1; their mean is the priority. T9:
    # padding does not count.
    reward, valid = np.ones((2, 5, 1), "f"), np.array([[1.0, 1, 1, 0, 0]] * 2, "f")
    reward[1, 3:] = 100.0
    gains = returns_to_go(reward, valid, 0.5)
    np.testing.assert_allclose(gains[..., 0], [[1.75, 1.5, 1, 0, 0]] * 2)
    np.testing.assert_allclose(episode_means(gains, valid), [[1.4166667]] * 2)
    short = episode_means(returns_to_go(reward[:1, :3], valid[:1, :3], 0.5), valid[:1, :3])
    np.testing.assert_allclose(short, [[1.4166667]])


def test_uncertainty_is_the_population_deviation():
    # T7. 1 ... 5: sqrt(2), not the sample's 1.5811.
    mean, spread = jax.jit(credit.moments)(np.arange(1.0, 6.0))
    assert (float(mean), float(spread)) == pytest.approx((3.0, np.sqrt(2)))


def test_weights_are_bounded_and_padding_does_not_move_their_floor():
    # T8. Members that agree everywhere: 100, not infinity. Real u 1 ... 100: the 5th percentile of
    # those is 5.95.
    valid = np.ones((10, 10), "f")
    none = certainty_weights(np.zeros((10, 10, 2), "f"), valid, (0, 0), 1.0, 1e-3, 100.0)
    np.testing.assert_array_equal(none, 100.0)
    u = np.arange(1.0, 101.0, dtype="f").reshape(10, 10, 1)
    found = np.asarray(certainty_weights(u, valid, (0,), 1.0, 1e-3, 100.0))
    np.testing.assert_allclose([found.max(), found[9, 9, 0]], [1 / 5.95, 1 / 100], rtol=1e-5)
    padded = certainty_weights(
        np.pad(u, ((0, 0), (0, 9), (0, 0))),
        np.pad(valid, ((0, 0), (0, 9))),
        (0,),
        1.0,
        1e-3,
        100.0,
    )
    np.testing.assert_allclose(padded[:, :10], found)


def test_probabilities_are_rescaled_by_type():
    # T10. Type 0 spans 0 ... 20, so 20 / .2 = 100 between its ends; type 1 is constant and thus
    # uniform. Shifts change nothing.
    priority = np.array([[-7.0, -3.0, 4.0], [-5.0, -7.0, 4.0]], "f")
    log_p = np.asarray(log_probs(priority, (0, 0, 1), 20.0, 0.2))
    np.testing.assert_allclose(rescaled(priority[:, :2], 20.0), [[0, 20], [10, 0]])
    np.testing.assert_allclose(log_p[0, 1] - log_p[0, 0], 100, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_p[:, 2]), 0.5)
    np.testing.assert_allclose(log_probs(priority - 50, (0, 0, 1), 20.0, 0.2), log_p, rtol=1e-4)


def test_a_far_trajectory_does_not_set_the_range_if_that_is_trimmed():
    # Ours: 0 ... 100 and one of 10,000; without its ends, 1 ... 99 span the range, and what lies
    # beyond stands at its end.
    priority = np.append(np.arange(100.0), 1e4).astype("f")[:, None]
    share = lambda trim: np.exp(np.asarray(log_probs(priority, (0,), 20.0, 0.2, trim)))[:, 0]
    scaled = lambda trim: np.asarray(rescaled(priority, 20.0, trim))[:, 0]
    np.testing.assert_allclose(scaled(0.0)[[0, -1]], [0, 20])
    np.testing.assert_allclose(scaled(0.01)[[0, 1, 50, 99, 100]], [0, 0, 10, 20, 20], rtol=1e-5)
    assert share(0.0)[-1] > 0.999
    next_to = np.exp(-20 / 98 / 0.2)  # two at the top, then each one this factor below
    np.testing.assert_allclose(share(0.01)[99:], 1 / (2 + next_to / (1 - next_to)), rtol=1e-3)


def test_a_unit_of_priority_is_a_factor_of_148():
    # T11. e^(1 / .2) = e^5 = 148.41; finite and of sum 1 in single precision; alpha = inf draws
    # uniformly.
    priority = np.array([[0.0], [19.0], [20.0]], "f")
    p = np.exp(np.asarray(log_probs(priority, (0,), 20.0, 0.2)))
    assert p.dtype == np.float32 and np.isfinite(p).all()
    assert float(p.sum()) == pytest.approx(1, rel=1e-5)
    assert float(p[2, 0] / p[1, 0]) == pytest.approx(np.exp(5), rel=1e-4)
    np.testing.assert_allclose(np.exp(log_probs(priority, (0,), 20.0, np.inf)), 1 / 3, rtol=1e-6)


@functools.cache
def many_draws() -> tuple[np.ndarray, np.ndarray]:
    """p [E, N], and 60,000 draws of each agent [N, draws]."""
    log_p = log_probs(np.random.default_rng(0).normal(size=(6, N)), TYPES, 20.0, 5.0)
    table = np.zeros((6, T, N), np.float32)

    def draw(log_p: Any, key: Any) -> Any:
        sampler = samplers.trajectories(60_000, TYPES, log_p, table, table)
        return sampler.draw(sampler.init(None), None, key)

    items = jax.jit(draw)(log_p, jax.random.key(0))
    return np.exp(np.asarray(log_p)), np.asarray(items).reshape(N, -1)


def test_draws_follow_their_probabilities_within_each_type():
    # T11, T12, T14. Chi-square at 60,000 draws; never another type; other agents' trajectories;
    # draws of agents independent.
    p, items = many_draws()
    for agent, kind in enumerate(TYPES):
        episode, drawn_agent = items[agent] // N, items[agent] % N
        mates = [j for j in range(N) if TYPES[j] == kind]
        assert set(drawn_agent) == set(mates)
        counts = np.stack([np.bincount(episode[drawn_agent == j], minlength=6) for j in mates], 1)
        wanted = p[:, mates].astype(np.float64)
        assert stats.chisquare(counts.ravel(), 60_000 * wanted.ravel() / wanted.sum()).pvalue > 1e-3
    assert abs(np.corrcoef(items[0], items[1])[0, 1]) < 0.02


def test_a_batch_is_of_the_trajectories_that_were_drawn():
    # T4. Rows of agent 0 come first; `own` of a view is what agent j saw and did in episode k.
    m, _ = started(True)
    data, dataset = episodes_of(), dataset_of()
    reward, weight = (
        np.random.default_rng(s).normal(size=(6, T, N)).astype(np.float32) for s in (0, 1)
    )
    sampler = samplers.trajectories(
        4, TYPES, jnp.full((6, N), -2.0), jnp.asarray(reward), jnp.asarray(weight)
    )
    items = np.array([0, 4, 10, 16, 1, 3, 9, 15, 2, 5, 11, 17])  # k N + j
    viewed = jax.jit(lambda dataset, items: sit.view_of(m, sampler.gather(dataset, items)))
    view = jax.tree.map(np.asarray, viewed(dataset, items))
    for place_, (k, j) in zip(
        np.ndindex(N, 4), np.stack([items // N, items % N], 1).tolist(), strict=True
    ):
        part = slice(0, LENGTHS[k])
        np.testing.assert_array_equal(view.team[place_][part], data.obs[k, part])
        np.testing.assert_array_equal(view.own[place_][part], data.obs[k, part, j])
        np.testing.assert_array_equal(view.action[place_][part], data.actions[k, part, j])
        # T18
        np.testing.assert_array_equal(
            view.before[place_][part], [-1, *data.actions[k, : LENGTHS[k] - 1, j]]
        )
        np.testing.assert_array_equal(view.avail[place_][part], data.avail[k, part, j])
        np.testing.assert_array_equal(view.reward[place_][part], reward[k, part, j])
        np.testing.assert_array_equal(view.weight[place_][part], weight[k, part, j])
        assert view.valid[place_].sum() == LENGTHS[k]


def replay(config: dict[str, Any], params: Any = ()) -> sit.Replay:
    m = sit.method_of(sit.Config(**SIZES | config), spec_of())
    fitted = Decomposed(params, ()) if config.get("decomposition") != "none" else ()
    return jax.tree.map(
        np.asarray, jax.jit(lambda f, d: sit.replay_of(m, f, d))(fitted, dataset_of())
    )


def test_the_replay_equals_float64_numpy():
    # Eq. 4-7 and the bounded weights, over a dataset of two types and ragged lengths.
    c = {"gamma": 0.9, "alpha": 3.0, "eta": 0.7, "u_floor": 0.01, "weight_max": 3.0}
    model = Decomposition(spec_of(), 3, 4)
    params = toys.drawn(jax.eval_shape(model.init, jax.random.key(0)), 3)
    found, data = replay(c, params), episodes_of()
    own = np.zeros((3, 6, T, N))
    for e, t in np.argwhere(data.filled):
        seen = np.concatenate([data.obs[e, t], np.eye(A)[data.actions[e, t]]], -1)
        own[:, e, t] = [
            ref.own_rewards(
                jax.tree.map(lambda x, k=k: x[k], params), data.state[e, t], seen, "attention"
            )[0]
            for k in range(3)
        ]
    mean, spread, priority = ref.credit(own, LENGTHS, 0.9)
    np.testing.assert_allclose(found.reward, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        np.exp(found.log_prob), ref.draw_probabilities(priority, TYPES, 20.0, 3.0), rtol=1e-4
    )
    weight = ref.certainty(spread, LENGTHS, TYPES, 0.7, 0.01, 3.0)
    for e, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found.weight[e, :length].T, weight[e], rtol=1e-4)
    p = np.exp(found.log_prob)
    share = [1 / (p[:, k] ** 2).sum() / p[:, k].size for k in ([0, 1], [2])]
    assert float(found.effective) == pytest.approx(np.mean(share), rel=1e-4)


def test_ablations_of_the_replay():
    # members=1: weights are 1. none: everybody is paid the team's reward, and the agents of an
    # episode tie. team: priorities stay.
    model = Decomposition(spec_of(), 3, 4)
    params, data = toys.drawn(jax.eval_shape(model.init, jax.random.key(0)), 3), episodes_of()
    single = replay({"members": 1}, jax.tree.map(lambda x: x[:1], params))
    assert (single.weight == 1).all()
    none = replay({"decomposition": "none"})
    assert (none.weight == 1).all()
    np.testing.assert_array_equal(none.reward, np.repeat(data.reward[..., None], N, -1))
    np.testing.assert_allclose(none.log_prob[:, 0], none.log_prob[:, 1])
    team, own = replay({"critic_reward": "team"}, params), replay({}, params)
    np.testing.assert_array_equal(team.reward, none.reward)
    np.testing.assert_array_equal(team.log_prob, own.log_prob)
    assert (team.weight == 1).all() and (own.weight != 1).any()
    np.testing.assert_allclose(
        np.exp(replay({"alpha": np.inf}, params).log_prob),
        np.tile([1 / 12, 1 / 12, 1 / 6], (6, 1)),
        rtol=1e-5,
    )


def test_labels_of_behaviour_reach_no_learner():
    # T29. They are not on the device at all.
    data = episodes_of()
    other = place(data._replace(behaviour_level=data.behaviour_level[::-1] + 1), spec_of())
    jax.tree.map(np.testing.assert_array_equal, other, dataset_of())


# -------------------------------------------------------------------------------------- III.
# learning


@pytest.mark.parametrize(
    ("discrete", "config"),
    [
        (True, {"beta": 0.5, "gamma": 0.9}),
        (
            True,
            {
                "actor_weight": "advantage",
                "actor_norm": "batch_time",
                "truncation": "skip",
                "gat": "mean",
                "beta": 0.4,
            },
        ),
        (False, {"beta": 0.7, "gat": "none"}),
    ],
    ids=["discrete", "our variants", "continuous"],
)
def test_losses_and_gradients_equal_float64_numpy(discrete, config):
    # T15, T16: ragged lengths, unavailable actions, weights; loops over steps. T1: the slope of the
    # policy's loss is not zero.
    (m, state), batch = started(discrete, **config), drawn(discrete)
    draws = ref.draws_of(batch, N, encode(discrete))

    def losses(state: Any, batch: Transition) -> Any:
        view = sit.view_of(m, batch)
        target, mask = sit.critic_target(m, state.target_critic, view)
        critic = jax.value_and_grad(lambda p: sit.critic_loss(m, p, view, target, mask)[0])(
            state.critic
        )
        actor = jax.value_and_grad(
            lambda p: sit.actor_loss(m, p, state.critic, view, jax.random.key(0))[0]
        )(state.policy)
        return critic, actor

    with jax.enable_x64(True):
        critic, actor = jax.tree.map(np.asarray, jax.jit(losses)(state, batch))
    c, gat, skip = m.config, m.config.gat, m.config.truncation == "skip"
    value = lambda p: ref.critic_loss(
        by_agent(p), by_agent(state.target_critic), draws, c.gamma, gat, skip
    )
    assert critic[0] == pytest.approx(value(state.critic), rel=1e-6)
    wanted, way = toys.slope(value, state.critic, 2)
    assert toys.along(critic[1], way) == pytest.approx(wanted, rel=1e-5)

    def policy_loss(p: Any) -> float:
        nets, log_std = (by_agent(p), None) if discrete else (by_agent(p.net), by_agent(p.log_std))
        return ref.actor_loss(
            nets, by_agent(state.critic), draws, c.beta, gat, c.actor_weight, c.actor_norm, log_std
        )

    assert actor[0] == pytest.approx(policy_loss(state.policy), rel=1e-6)
    if c.actor_weight == "value":  # an advantage's baseline moves with pi, but its weight is held
        wanted, way = toys.slope(policy_loss, state.policy, 3)
        assert toys.along(actor[1], way) == pytest.approx(wanted, rel=1e-5) and abs(wanted) > 1e-3


def test_the_graph_treats_mates_alike_and_the_one_that_looks_differently():
    # T4. Other agents in another order: the same value. Another agent looking: another value.
    net, rng = GraphAttention(5), np.random.default_rng(0)
    team = rng.normal(size=(7, N, WIDTH))
    params = toys.drawn(jax.eval_shape(net.init, jax.random.key(0), team, team[:, 0]), 0)
    value = jax.jit(net.apply)
    base = np.asarray(value(params, team, team[:, 0]))
    np.testing.assert_allclose(
        value(params, team[:, [0, 2, 1]], team[:, 0]), base, rtol=1e-5, atol=1e-6
    )
    assert np.abs(np.asarray(value(params, team, team[:, 1])) - base).max() > 0.01
    weights = jax.jit(functools.partial(net.apply, method="weights"))
    weights = np.asarray(weights(params, team, team[:, 0]))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert np.ptp(weights, -1).max() > 0.01


def test_an_agent_with_one_available_action_learns_nothing():
    # T19. log pi = log 1 = 0 whatever the logits, and the gradient is 0.
    (m, state), batch = started(True), drawn()
    batch = batch._replace(
        avail=np.tile([0.0, 1.0, 0.0], (*batch.valid.shape, N, 1)),
        actions=np.ones_like(batch.actions),
    )
    loss = lambda p, b: sit.actor_loss(m, p, state.critic, sit.view_of(m, b), jax.random.key(0))
    grads, told = jax.jit(jax.grad(loss, has_aux=True))(state.policy, batch)
    assert float(told["log_prob"]) == pytest.approx(0, abs=1e-6)
    assert np.abs(toys.flat(grads)).max() < 1e-6


def chain(ends: bool) -> tuple[EnvSpec, Episodes]:
    """Three steps that pay 0, 0, 1, seen as their number; the last one terminates or is cut.

    One agent, 4 copies.
    """
    spec = EnvSpec("chain", 1, 3, 3, 2, True, 3)
    obs = np.tile(
        np.concatenate([np.eye(3), np.zeros((1, 3))])[None, :, None], (4, 1, 1, 1)
    ).astype(np.float32)
    last = np.tile([False, False, True], (4, 1))
    parts = (
        np.tile(np.float32([0, 0, 1]), (4, 1)),
        last & ends,
        last & (not ends),
        np.ones((4, 3), bool),
        np.zeros((4, 1), np.int32),
    )
    return spec, Episodes(
        obs, obs[:, :, 0], np.ones((4, 4, 1, 2), np.float32), np.zeros((4, 3, 1), np.int32), *parts
    )


@functools.cache
def chain_views(ends: bool, **switches: Any) -> tuple[sit.Method, sit.View, Any]:
    """The method, a view of the chain, and fresh critics."""
    spec, data = chain(ends)
    m = sit.method_of(
        sit.Config(**SIZES | {"decomposition": "none", "critic_hidden": 32} | switches, gamma=0.9),
        spec,
    )
    table = jnp.asarray(data.reward[..., None])
    sampler, dataset = (
        samplers.trajectories(4, (0,), jnp.zeros((4, 1)), table, 0 * table + 1),
        place(data, spec),
    )
    critic = jax.jit(lambda d: sit.prepare(m, (), d, jax.random.key(0)).critic)(dataset)
    viewed = jax.jit(lambda dataset, items: sit.view_of(m, sampler.gather(dataset, items)))
    return m, viewed(dataset, np.arange(4)), critic


def test_values_of_a_chain():
    # T17. gamma .9: .81, .9, 1. Adam on the critic alone, its slow copy made every 10 steps.
    m, view, critic = chain_views(True)
    optimiser = optax.adam(5e-3)

    def step(carry: Any, number: Any) -> Any:
        critic, slow, opt = carry
        target, mask = sit.critic_target(m, slow, view)
        grads = jax.grad(lambda p: sit.critic_loss(m, p, view, target, mask)[0])(critic)
        changes, opt = optimiser.update(grads, opt)
        critic = optax.apply_updates(critic, changes)
        slow = jax.tree.map(lambda new, old: jnp.where(number % 10 == 0, new, old), critic, slow)
        return (critic, slow, opt), None

    train = lambda p: lax.scan(step, (p, p, optimiser.init(p)), jnp.arange(800))[0][0]
    q = jax.jit(lambda p: sit.values(m, train(p), view))(critic)
    np.testing.assert_allclose(np.asarray(q)[0, 0], [0.81, 0.9, 1.0], atol=0.02)


def test_a_cut_episode_ends_or_has_no_last_target():
    # T17. There is no action after a cut: its reward stands alone, or (skip) the step is no target.
    # Terminated: always one.
    masks = {}
    for ends in (True, False):
        for truncation in ("terminal", "skip"):
            m, view, critic = chain_views(ends, truncation=truncation)
            (target, mask), q = jax.jit(
                lambda p, m=m, v=view: (sit.critic_target(m, p, v), sit.values(m, p, v))
            )(critic)
            np.testing.assert_allclose(target[..., 2], 1.0)
            np.testing.assert_allclose(target[..., :2], 0.9 * q[..., 1:], rtol=1e-5)
            masks[ends, truncation] = np.asarray(mask)[0, 0].tolist()
    assert masks == {
        (True, "terminal"): [1, 1, 1],
        (True, "skip"): [1, 1, 1],
        (False, "terminal"): [1, 1, 1],
        (False, "skip"): [1, 1, 0],
    }


def test_an_agent_plays_what_its_mate_did_well():
    # T3. Agent 0 did 0, agent 1 did 1, and agent 1's trajectories are drawn: told its own number,
    # agent 0 then does 1 too.
    spec = EnvSpec("twins", 2, 1, 1, 2, True, 1, agent_types=(0, 0))
    ones, count = np.ones((8, 2, 2, 1), np.float32), 8
    actions = np.tile(np.array([0, 1], np.int32), (count, 1, 1))
    rest = (
        np.ones((count, 1), np.float32),
        np.ones((count, 1), bool),
        np.zeros((count, 1), bool),
        np.ones((count, 1), bool),
    )
    dataset = place(
        Episodes(
            ones,
            ones[:, :, 0],
            np.ones((8, 2, 2, 2), np.float32),
            actions,
            *rest,
            np.zeros((8, 2), np.int32),
        ),
        spec,
    )
    last = sit.make(sit.Config(**SIZES | {"decomposition": "none"}, lr=3e-3), spec)[-1]

    def train(key: Any, dataset: Dataset) -> Any:
        state = last.prepare((), dataset, key)
        log_p = jnp.log(jnp.tile(jnp.array([1e-6, 1.0]), (count, 1)) / (count * (1 + 1e-6)))
        sampler = samplers.trajectories(8, (0, 0), log_p, state.replay.reward, state.replay.weight)
        totals = sampler.init(dataset)

        def step(state: Any, key: Any) -> Any:
            return last.learner.update(
                state, sampler.gather(dataset, sampler.draw(totals, dataset, key)), key
            )[0], None

        return lax.scan(step, state, jax.random.split(key, 150))[0].policy

    m = sit.method_of(sit.Config(**SIZES | {"decomposition": "none"}), spec)
    policy = m.actors.policy(jax.jit(train)(jax.random.key(0), dataset))
    played = jax.jit(lambda step: policy.distribution(policy.initial(()), step)[1].probs)
    probs = np.asarray(played(toys.seen(spec)))
    assert (probs[:, 1] > 0.9).all(), probs


def test_whose_number_an_agent_is_told_is_its_own():
    # T3. Trajectories stored under another number of the same type: the same update, since j is an
    # address and no input.
    (m, state), batch = started(True), drawn()
    turn = np.array([1, 0, 2])
    swapped = batch._replace(
        agent=turn[batch.agent],
        **{
            name: np.take(getattr(batch, name), turn, 2)
            for name in ("obs", "avail", "actions", "agent_reward", "weight")
        },
    )
    loss = lambda b: sit.actor_loss(
        m, state.policy, state.critic, sit.view_of(m, b), jax.random.key(0)
    )[0]
    one, two = jax.jit(lambda a, b: (loss(a), loss(b)))(batch, swapped)
    assert float(one) == pytest.approx(float(two), rel=1e-5)
    rows = jax.jit(lambda b: sit.outputs(m, state.policy, sit.view_of(m, b)))(batch)
    # numbers 0 and 1 are told apart
    assert np.abs(np.asarray(rows[0, 0, 0] - rows[0, 0, 1])).max() > 0


def test_execution_is_decentralised_and_types_have_nets_of_their_own():
    # T34. What others see does not move agent i's distribution. Agent 2, of another type, has other
    # weights.
    m, state = started(True)
    policy, rng = sit.policy_of(m, state.policy), np.random.default_rng(0)
    obs = rng.normal(size=(N, WIDTH))
    logits = lambda step: policy.distribution(policy.initial(()), step)[1].logits
    program = jax.jit(logits)
    at = lambda obs: np.asarray(program(toys.seen(spec_of(), obs)))
    base, other = at(obs), at(np.concatenate([obs[:1], rng.normal(size=(2, WIDTH))]))
    np.testing.assert_array_equal(base[0], other[0])
    assert np.abs(base[1:] - other[1:]).min() > 0
    assert {x.shape[0] for x in jax.tree.leaves((state.policy, state.critic))} == {2}
    one = sit.method_of(sit.Config(types="one"), spec_of())
    assert one.types == (0, 0, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"decomposition": "qmix"},
            "field 'decomposition': expected one of attention, sum, monotonic, none, found 'qmix'",
        ),
        ({"window": 0}, "field 'window': expected -1, since trajectories are drawn whole, found 0"),
        ({"members": 0}, "field 'members': expected at least 1, found 0"),
        ({"decomposition_batch": -1}, "field 'decomposition_batch': expected at least 0, found -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        sit.make(checked(sit.Config(**config)), spec_of())


def test_a_sampler_beside_its_own_is_refused():
    from jaxoff.training import TrainSpec, train

    with pytest.raises(
        ValueError,
        match="field 'sampler': expected uniform, since sit draws by itself, found 'pjap'",
    ):
        train(TrainSpec("sit", "matrix/xor/b", sampler="pjap"))
    assert take(episodes_of(), np.array([0])).filled.shape == (1, T)
    assert registry.learner("sit", "grid/bridge/mixed") is sit
