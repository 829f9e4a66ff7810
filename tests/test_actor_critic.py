"""What MA-CQL, MA-TD3+BC and OMAR share: losses and gradients against float64 NumPy, normalised
inputs, targets, batches, samples.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxoff.baselines import maicq, td3bc
from jaxoff.baselines.cql import agents as cql_agents
from jaxoff.baselines.cql import continuous as cql
from jaxoff.baselines.omar import continuous as omar

from jaxoff import registry
from jaxoff.config import checked
from jaxoff.data.dataset import place
from jaxoff.learners.actor_critic import (
    AgentBatch,
    Agents,
    as_rows,
    learner,
    own_return,
    split_by_agent,
)
from jaxoff.losses.conservative import near_actions, sampled_logsumexp, uniform_actions
from jaxoff.names import DataOptions
from jaxoff.nets.normalised import Net
from jaxoff.training.spec import TrainSpec, resolve
from jaxoff.types import EnvSpec, Transition
from tests import toys
from tests.reference import actor_critic_numpy as ref

M, N, S, WIDTH, A = 7, 3, 4, 3, 2
SIZES: dict[str, Any] = {"hidden": 5, "num_samples": 4, "window": 0, "batch_size": M * N}
SPEC = toys.spec_of(False, obs_size=WIDTH, state_size=S, action_size=A)


@functools.cache
def nets_of(centralised: bool) -> dict[str, Net]:
    """Random parameters in double precision, so that slow copies differ and biases count."""
    agents = Agents(SPEC, SIZES["hidden"], centralised=centralised)
    policy, critic = jax.eval_shape(agents.init, jax.random.key(0))
    trees = {"policy": policy, "critic": critic}
    trees |= {f"target_{name}": tree for name, tree in trees.items()}
    return {name: toys.drawn(tree, seed) for seed, (name, tree) in enumerate(trees.items())}


def mine_of(nets: dict[str, Any], rows: Any, i: int, centralised: bool = False) -> AgentBatch:
    policies = nets["policy"], nets["target_policy"]
    policies = policies if centralised else toys.part(policies, i)
    return AgentBatch(i, rows, *policies, toys.part(nets["target_critic"], i))


# --------------------------------------------------------------------------------------------
# losses


@pytest.mark.parametrize(
    ("centralised", "plain", "samples"),
    [
        (False, True, "policy"),
        (False, False, "policy"),
        (True, False, "policy"),
        (True, False, "uniform"),
    ],
)
def test_cql_losses_and_gradients_equal_float64_numpy(centralised, plain, samples):
    i, nets, batch, key = 1, nets_of(centralised), toys.steps_of(SPEC, M), jax.random.key(2)
    given = {"cql": 0.3, "gamma": 0.9, "temperature": 1.5}
    config = cql.Config(
        **SIZES, **given, samples=samples, plain_density=plain, centralised=centralised
    )

    def losses(config: Any, nets: dict[str, Net], batch: Transition) -> Any:
        m, mine = cql_agents.method_of(config, SPEC), mine_of(nets, batch, i, centralised)
        critic, policy = toys.part(nets["critic"], i), toys.part(nets["policy"], i)
        of_critic = jax.value_and_grad(lambda p: cql_agents.critic_loss(m, p, mine, key)[0])(critic)
        of_actor = jax.value_and_grad(lambda p: cql_agents.actor_loss(m, p, critic, mine, key)[0])(
            policy
        )
        keys, shape = (
            jax.random.split(key, 3),
            (SIZES["num_samples"], M, A * (N if centralised else 1)),
        )
        draws = [
            jax.random.uniform(keys[0], shape, minval=-1, maxval=1),
            *(0.2 * jax.random.normal(k, shape) for k in keys[1:]),
        ]
        return of_critic, of_actor, draws if samples == "policy" else draws[:1]

    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, jax.jit(losses)(toys.double(config), nets, batch))
    (value, critic_grads), (policy_loss, policy_grads), draws = found
    rows, critic, policy = (
        toys.arrays(batch),
        toys.part(nets["critic"], i),
        toys.part(nets["policy"], i),
    )
    wanted = lambda p: ref.cql_critic_loss(
        nets, p, rows, i, draws, centralised, plain_density=plain, **given
    )
    assert float(value) == pytest.approx(wanted(critic), rel=1e-8)
    difference, way = toys.slope(wanted, critic, 3)
    assert toys.along(critic_grads, way) == pytest.approx(difference, rel=1e-5)
    wanted = lambda p: ref.actor_loss(p, critic, rows, i, None, centralised, 0.0, 1e-3)
    assert float(policy_loss) == pytest.approx(wanted(policy), rel=1e-7)
    difference, way = toys.slope(wanted, policy, 4)
    assert toys.along(policy_grads, way) == pytest.approx(difference, rel=1e-5)


def test_td3bc_losses_and_gradients_equal_float64_numpy():
    i, nets, batch, key = 2, nets_of(False), toys.steps_of(SPEC, M), jax.random.key(2)
    config = td3bc.Config(hidden=SIZES["hidden"], gamma=0.9)

    def losses(config: Any, nets: dict[str, Net], batch: Transition) -> Any:
        m, mine = td3bc.Method(config, Agents(SPEC, config.hidden)), mine_of(nets, batch, i)
        critic, policy = toys.part(nets["critic"], i), toys.part(nets["policy"], i)
        actor = jax.value_and_grad(lambda p: td3bc.actor_loss(m, p, critic, mine), has_aux=True)(
            policy
        )
        return jax.value_and_grad(lambda p: td3bc.critic_loss(m, p, mine, key)[0])(critic), actor

    with jax.enable_x64(True):
        (value, critic_grads), ((loss, told), grads) = jax.tree.map(
            np.asarray, jax.jit(losses)(toys.double(config), nets, batch)
        )
    rows, critic, policy = (
        toys.arrays(batch),
        toys.part(nets["critic"], i),
        toys.part(nets["policy"], i),
    )
    y = ref.target(nets, rows, i, 0.9, False)
    wanted = lambda p: float(((ref.data_values(p, rows, i, False) - y) ** 2).sum(0)[:-1].mean())
    assert float(value) == pytest.approx(wanted(critic), rel=1e-9)
    difference, way = toys.slope(wanted, critic, 3)
    assert toys.along(critic_grads, way) == pytest.approx(difference, rel=1e-5)
    assert float(loss) == pytest.approx(
        ref.td3bc_actor_loss(policy, critic, rows, i, 2.5, 1e-3), rel=1e-7
    )
    held = float(told["scale"])  # lambda is a constant of the gradient
    difference, way = toys.slope(
        lambda p: ref.td3bc_actor_loss(p, critic, rows, i, 2.5, 1e-3, held), policy, 4
    )
    assert toys.along(grads, way) == pytest.approx(difference, rel=1e-5)


def test_icq_losses_and_gradients_equal_float64_numpy():
    # Windows of three steps: the last has no target unless it terminates; row 0 of each window is
    # followed by row 1.
    i, nets = 1, nets_of(False)
    batch = jax.tree.map(lambda x: x.reshape(3, 3, *x.shape[1:]), toys.steps_of(SPEC, 9))
    batch = batch._replace(
        terminated=np.array([[0, 0, 1.0], [0, 1, 0], [0, 0, 0]]),
        valid=np.array([[1, 1, 1.0], [1, 1, 0], [1, 1, 1]]),
    )
    given = {"gamma": 0.9, "beta_q": 1.5, "beta_pi": 0.7, "alpha_w": 2.0}
    config = maicq.Config(hidden=5, **given)
    spread = np.random.default_rng(3).normal(size=(N, A))

    def losses(config: Any, nets: dict[str, Net], spread: Any, batch: Transition) -> Any:
        m, (rows, extras) = maicq.Method(config, Agents(SPEC, 5)), as_rows(*maicq.with_next(batch))
        mine, critic = mine_of(nets, rows, i)._replace(extras=extras), toys.part(nets["critic"], i)
        policy = maicq.Gaussian(toys.part(nets["policy"], i), spread[i])
        of_critic = jax.value_and_grad(lambda p: maicq.critic_loss(m, p, mine, None)[0])(critic)
        return (
            of_critic,
            jax.value_and_grad(lambda p: maicq.actor_loss(m, p, critic, mine)[0])(policy),
            rows.valid,
        )

    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, jax.jit(losses)(toys.double(config), nets, spread, batch))
    (value, critic_grads), (loss, grads), usable = found
    np.testing.assert_array_equal(usable, [1, 1, 1, 1, 1, 0, 1, 1, 0])
    rows = {
        name: np.asarray(x).reshape(9, *x.shape[2:])
        for name, x in batch._asdict().items()
        if x is not None
    }
    critic, policy = toys.part(nets["critic"], i), (toys.part(nets["policy"], i), spread[i])
    wanted = lambda p: ref.icq_losses(
        policy, p, critic, toys.part(nets["target_critic"], i), rows, 3, i, **given
    )[0]
    assert float(value) == pytest.approx(wanted(critic), rel=1e-8)
    difference, way = toys.slope(wanted, critic, 3)
    assert toys.along(critic_grads, way) == pytest.approx(difference, rel=1e-5)
    wanted = lambda p: ref.icq_losses(
        p, critic, critic, toys.part(nets["target_critic"], i), rows, 3, i, **given
    )[1]
    assert float(loss) == pytest.approx(wanted(policy), rel=1e-8)
    difference, way = toys.slope(wanted, policy, 4)
    assert toys.along(tuple(grads), way) == pytest.approx(difference, rel=1e-5)


def test_the_next_action_of_the_data_never_crosses_the_end_of_an_episode():
    # Episodes of 25 steps that only the clock ends: as whole windows and as windows of two, row 24
    # of each is left out.
    steps = 25
    whole = jax.tree.map(
        lambda x: np.broadcast_to(x[:1, None], (2, steps, *x.shape[1:])).copy(),
        toys.steps_of(SPEC, 2),
    )
    whole = whole._replace(
        valid=np.ones((2, steps)), terminated=np.zeros((2, steps)), truncated=np.zeros((2, steps))
    )
    whole.truncated[:, -1] = 1
    numbered = whole._replace(actions=np.arange(2 * steps * N * A).reshape(2, steps, N, A))
    usable, (actions, _) = maicq.with_next(numbered)
    np.testing.assert_array_equal(usable.valid, np.tile(np.arange(steps) < steps - 1, (2, 1)))
    np.testing.assert_array_equal(
        actions[:, :-1, 0, 0], np.arange(2 * steps).reshape(2, steps)[:, 1:] * N * A
    )
    pairs = jax.tree.map(lambda x: x[:, -2:], whole)
    np.testing.assert_array_equal(maicq.with_next(pairs)[0].valid, [[1, 0], [1, 0]])


# -------------------------------------------------------------------------------------
# normalisation


def mixed(values: Any, norm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of four rows alone, of each of them twice, and beside four far rows."""
    agents = Agents(SPEC, 5, norm)
    nets = nets_of(False)
    critic = (
        toys.part(nets["critic"], 0)
        if norm == "batch"
        else Net(toys.part(nets["critic"].net, 0), ())
    )
    rng = np.random.default_rng(5)
    context, actions = rng.normal(size=(4, WIDTH)), rng.uniform(-1, 1, (1, 4, A))
    run = jax.jit(lambda c, a: agents.values(critic, c, a, jnp.ones(c.shape[0]))[0, 0])
    twice = run(np.repeat(context, 2, 0), np.repeat(actions, 2, 1))[::2]
    far = run(np.concatenate([context, 9 + context]), np.concatenate([actions, actions], 1))[:4]
    return tuple(np.asarray(x) for x in (run(context, actions), twice, far))  # type: ignore[return-value]


def test_values_of_a_row_depend_on_the_other_rows_with_batch_statistics_only():
    alone, twice, far = mixed(None, "batch")
    np.testing.assert_allclose(twice, alone, rtol=1e-4, atol=1e-5)
    assert np.abs(far - alone).max() > 1e-2
    alone, twice, far = mixed(None, "none")
    np.testing.assert_allclose(twice, alone, rtol=1e-5)
    np.testing.assert_allclose(far, alone, rtol=1e-5)


def test_one_observation_alone_gives_a_constant_by_its_own_statistics_and_not_by_the_running_ones():
    agents, policy = Agents(SPEC, 5), nets_of(False)["policy"]
    state = jax.eval_shape(lambda: learner_of(agents).init(jax.random.key(0)))
    ones = jnp.ones((N, WIDTH))
    stats = type(state.stats)(ones, 4 * ones)

    def played(x: float) -> Any:
        seen = toys.seen(SPEC, x * ones)
        return agents.act(toys.part(policy, 0), seen.obs[:1], jnp.ones(1))[0], agents.policy(
            policy, stats
        ).distribution((), seen)[1].mode()[0]

    (first, one), (second, other) = jax.jit(played)(1.5), jax.jit(played)(3.0)
    np.testing.assert_array_equal(first, second)
    assert np.abs(one - other).max() > 1e-3
    # (3 - 1) / 2 = 1, then scale and shift
    net = toys.part(policy, 0)
    np.testing.assert_allclose(
        other, np.tanh(ref.mlp(net.net, net.norm.scale + net.norm.shift)), rtol=1e-3
    )


def test_slow_policies_are_played_with_the_same_statistics():
    agents, nets = Agents(SPEC, 5), nets_of(False)
    made = learner_of(agents)
    state = jax.eval_shape(made.init, jax.random.key(0))
    ones = jnp.ones((N, WIDTH))
    state = state._replace(
        policy=nets["policy"],
        target_policy=nets["target_policy"],
        stats=type(state.stats)(ones, 2 * ones),
    )
    seen = toys.seen(SPEC, 3 * ones)
    slow, fast = (
        jax.jit(lambda f=f: f(state).distribution((), seen)[1].mode())()
        for f in (made.target_policy, made.policy)
    )
    net, x = toys.part(nets["target_policy"], 2), (3 - 1) / np.sqrt(2 + 1e-5) * np.ones(WIDTH)
    np.testing.assert_allclose(
        slow[2], np.tanh(ref.mlp(net.net, net.norm.scale * x + net.norm.shift)), rtol=1e-4
    )
    assert np.abs(slow - fast).max() > 1e-3


def learner_of(agents: Agents, passes: tuple[str, ...] = ("obs",), **more: Any) -> Any:
    """A learner whose critic fits 0 and whose policy climbs Q_1, by plain gradient steps."""
    critic = lambda p, mine, key: (jnp.mean(jnp.square(agents.data_values(p, mine))), {})

    def actor(policy: Any, critic: Any, mine: AgentBatch, key: Any) -> Any:
        own = agents.act(policy, jnp.take(mine.rows.obs, mine.agent, 1), mine.rows.valid)
        return -jnp.mean(agents.first_critic(critic, mine)(own[None])), {"own": jnp.mean(own)}

    return learner(
        agents, (optax.sgd(0.1), optax.sgd(0.1)), 0.01, critic, actor, passes=passes, **more
    )


@pytest.mark.parametrize("passes", [("obs",), ("obs", "next_obs", "obs")])
def test_running_statistics_of_policies_see_each_pass_and_slow_nets_only_move_scale_and_shift(
    passes,
):
    made, batch = learner_of(Agents(SPEC, 5), passes), toys.steps_of(SPEC, 6)
    before = jax.jit(made.init)(jax.random.key(0))
    after, _ = jax.jit(made.update)(before, batch, jax.random.key(1))
    dealt, _ = split_by_agent(batch, N)
    for i in range(N):
        mean, variance = np.zeros(WIDTH), np.ones(WIDTH)
        for field in passes:
            kept = np.asarray(getattr(dealt, field))[i, np.asarray(dealt.valid)[i] > 0, i]
            mean = 0.9 * mean + 0.1 * kept.mean(0)
            variance = 0.9 * variance + 0.1 * (kept.var(0, ddof=1) if len(kept) > 1 else 0.0)
        np.testing.assert_allclose(after.stats.mean[i], mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(after.stats.variance[i], variance, rtol=1e-4)
    for slow, old, new in zip(
        *(jax.tree.leaves(x) for x in (after.target_policy, before.policy, after.policy)),
        strict=True,
    ):
        np.testing.assert_allclose(slow, 0.99 * old + 0.01 * new, rtol=1e-4, atol=1e-6)
    assert np.abs(toys.flat(after.policy.norm) - toys.flat(before.policy.norm)).max() > 0


def test_dataset_norm_standardises_by_the_moments_of_all_real_steps():
    config = {"input_norm": "dataset", "hidden": 4, "batch_size": 8}
    job = resolve(TrainSpec("td3bc", "poly/sign/uniform", config=config))
    env = registry.make_env("poly/sign/uniform")
    episodes = registry.make_data("poly/sign/uniform", DataOptions(0, 10))
    episodes = episodes._replace(
        obs=np.random.default_rng(0).normal(3.0, 2.0, episodes.obs.shape).astype(np.float32)
    )
    (stage,) = job.stages(jax.tree.map(lambda x: x[0], job.config), env.spec)
    dataset, key = place(episodes, env.spec), jax.random.key(0)
    state = jax.jit(lambda dataset, key: stage.prepare(None, dataset, key))(dataset, key)
    np.testing.assert_allclose(state.stats.mean, episodes.obs[:, 0].mean(0), rtol=1e-4)
    np.testing.assert_allclose(state.stats.variance, episodes.obs[:, 0].var(0), rtol=1e-3)
    obs = episodes.obs[0, 0]
    seen = toys.seen(env.spec, obs)
    policy = jax.jit(lambda s: stage.learner.policy(s).distribution((), seen)[1].mode())(state)
    net, x = (
        toys.part(state.policy.net, 0),
        (obs[0] - episodes.obs[:, 0].mean(0)[0]) / np.sqrt(episodes.obs[:, 0].var(0)[0] + 1e-5),
    )
    np.testing.assert_allclose(policy[0], np.tanh(ref.mlp(net, x)), rtol=1e-3, atol=1e-7)


# ----------------------------------------------------------------------------------- targets,
# batches


def test_bootstrap_goes_through_the_clock_and_stops_where_it_counts_as_an_end():
    # r = 1, min Q' = 2, gamma = .95: 1 + .95 * 2 = 2.9; 1 where the episode ended. Row 0 is cut,
    # row 1 terminates.
    rows = toys.steps_of(SPEC, 2)._replace(reward=np.ones(2), agent_reward=np.ones((2, N)))
    rows = rows._replace(terminated=np.array([0.0, 1.0]), truncated=np.array([1.0, 0.0]))
    for ends, wanted in ((False, [2.9, 1.0]), (True, [1.0, 1.0])):
        agents = Agents(SPEC, 5, "none", own_batches=False, truncated_ends=ends)

        def critic(p: Any, mine: AgentBatch, key: Any, agents: Agents = agents) -> Any:
            y = agents.target(mine, jnp.zeros((2, A)), 0.95)
            return jnp.sum(agents.data_values(p, mine)), {"cut": y[0], "end": y[1]}

        made = learner(
            agents,
            (optax.sgd(0.0),) * 2,
            0.0,
            critic,
            lambda p, c, mine, key: (jnp.sum(p.net["params"]["Dense_0"]["bias"]), {}),
        )
        state = jax.eval_shape(made.init, jax.random.key(0))
        state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
        state.target_critic.net["params"]["value"]["bias"] = jnp.full((N, 2, 1), 2.0)
        _, out = jax.jit(made.update)(state, rows, jax.random.key(0))
        assert [float(out.metrics[k]) for k in ("cut", "end")] == pytest.approx(wanted)


def test_gamma_of_the_settings_is_that_of_the_released_code():
    for task in ("mpe/world/expert", "mamujoco/halfcheetah-2x3/medium"):
        for method in ("omar", "cql", "td3bc", "maicq"):
            assert float(resolve(TrainSpec(method, task)).config.gamma[0]) == pytest.approx(0.95)


@pytest.mark.parametrize("method", ["omar", "cql", "td3bc", "maicq"])
def test_updates_are_gradient_rounds_and_batches_are_of_each_agent(method):
    rounds = {
        "mpe/spread/random": 6001,
        "mpe/spread/expert": 2001,
        "mpe/tag/medium-replay": 1001,
        "mpe/tag/random": 2001,
        "mpe/world/medium": 1001,
        "mamujoco/halfcheetah-2x3/expert": 100001,
    }
    for task, count in rounds.items():
        config, spec = resolve(TrainSpec(method, task)).config, registry.make_spec(task)
        each = 256 if task.startswith("mamujoco") else 1024
        assert (config.steps, config.batch_size) == (count, each * spec.num_agents), task
        assert float(config.polyak[0]) == pytest.approx(0.005 if each == 256 else 0.01)


def test_coefficients_are_those_of_the_published_table():
    wanted = {
        "mpe/spread/medium": (1.0, 5.0),
        "mpe/tag/medium": (0.7, 5.0),
        "mpe/world/medium": (0.1, 0.5),
        "mpe/world/medium-replay": (0.7, 1.0),
    }
    for task, (mimic, weight) in wanted.items():
        config = resolve(TrainSpec("omar", task)).config
        assert (float(config.mimic[0]), float(config.cql[0])) == pytest.approx((mimic, weight))
        assert float(resolve(TrainSpec("cql", task)).config.cql[0]) == pytest.approx(weight)
    assert resolve(TrainSpec("omar", "mamujoco/halfcheetah-2x3/random")).config.search == "cem"


def test_each_agent_learns_from_rows_and_a_reward_of_its_own():
    batch = toys.steps_of(SPEC, 6)
    dealt, _ = split_by_agent(batch, N)
    for i in range(N):  # rows i and i + 3
        np.testing.assert_array_equal(dealt.agent_reward[i, :, i], batch.agent_reward[i::N, i])
        np.testing.assert_array_equal(
            own_return(i, toys.part(dealt, i), jnp.zeros(2), 0.9),
            batch.agent_reward[i::N, i].astype(np.float32),
        )
    windows = jax.tree.map(lambda x: np.stack([x, x + 1], 1), batch)  # [B, T, ...]
    np.testing.assert_allclose(
        split_by_agent(windows, N)[0].obs[1],
        np.concatenate([windows.obs[1], windows.obs[4]]),
        rtol=1e-6,
    )
    with pytest.raises(
        ValueError,
        match="field 'batch_size': expected a multiple of 3, the number of agents, found 7",
    ):
        split_by_agent(toys.steps_of(SPEC, 7), N)


def test_agents_with_the_same_nets_and_rows_draw_different_samples():
    agents = Agents(SPEC, 5, own_batches=False)

    def critic(p: Any, mine: AgentBatch, key: Any) -> Any:
        drawn = uniform_actions(key, (1,), 1.0)[0][0]
        return jnp.sum(agents.data_values(p, mine)), {
            f"of{i}": jnp.where(mine.agent == i, drawn, 0.0) for i in range(N)
        }

    made = learner(
        agents,
        (optax.sgd(0.1),) * 2,
        0.01,
        critic,
        lambda p, c, mine, key: (jnp.sum(p.norm.scale), {}),
    )

    def run(key: Any) -> Any:
        state = made.init(key)
        policy, critic = jax.tree.map(
            lambda x: jnp.broadcast_to(x[:1], x.shape), (state.policy, state.critic)
        )
        return made.update(
            state._replace(policy=policy, critic=critic), toys.steps_of(SPEC, 3), key
        )[1].metrics

    metrics = jax.jit(run)(jax.random.key(0))
    assert len({float(metrics[f"of{i}"]) for i in range(N)}) == N
    # and the groups of the conservative term: uniform, near o', near o
    keys = jax.random.split(jax.random.key(0), 3)
    near = [near_actions(k, jnp.zeros((4, A)), 3, 0.2, 1.0)[0] for k in keys]
    assert np.abs(near[0] - near[1]).min() > 0


def test_policies_wait_for_their_turn_and_slow_nets_with_them():
    made, batch = learner_of(Agents(SPEC, 5), policy_every=2), toys.steps_of(SPEC, 6)
    before = jax.jit(made.init)(jax.random.key(0))
    step = jax.jit(made.update)
    after, _ = step(before, batch, jax.random.key(1))
    for name in ("policy", "target_policy", "target_critic"):
        np.testing.assert_array_equal(
            toys.flat(getattr(after, name)), toys.flat(getattr(before, name))
        )
    assert np.abs(toys.flat(after.critic) - toys.flat(before.critic)).max() > 0
    later, _ = step(after, batch, jax.random.key(1))
    assert all(
        np.abs(toys.flat(getattr(later, k)) - toys.flat(getattr(after, k))).max() > 0
        for k in ("policy", "target_policy", "target_critic")
    )


# ----------------------------------------------------------------------------------- conservative
# term


def test_conservative_term_of_constant_values():
    # MPE: 2 ln 2 + ln 10 = 3.688879 for each critic, and no gradient in the constant.
    def term(level: Any) -> Any:
        _, log_p = uniform_actions(jax.random.key(0), (10, 1, 2), 1.0)
        return sampled_logsumexp(jnp.full(10, level), jnp.full(10, log_p)) - level

    value, slope_ = jax.value_and_grad(term)(3.0)
    assert (
        float(value) == pytest.approx(2 * np.log(2) + np.log(10), rel=1e-6)
        and abs(float(slope_)) < 1e-6
    )
    # HalfCheetah, d = 3, 10 + 20 samples: the expected term is 4.4365 with densities and 4.8111
    # with their logarithms.
    uniform = np.full((20000, 10), 3 * np.log(2))
    _, log_p = near_actions(jax.random.key(1), jnp.zeros((20000, 3)), 20, 0.2, 1.0)
    log_p = np.asarray(log_p, np.float64).T
    assert log_p.max() < 2.07150 + 1e-4  # the peak, 7.93670, in logarithms
    for taken, wanted in ((np.exp(log_p), 4.4365), (log_p, 4.8111)):
        found = np.log(np.exp(np.concatenate([uniform, -taken], 1)).sum(1)).mean()
        assert found == pytest.approx(wanted, abs=0.01)


def test_samples_of_the_next_policy_are_valued_at_the_present_observation():
    # Where the policy is constant, no next observation may change the term.
    config = cql.Config(**SIZES, samples="policy", input_norm="none")
    m, nets = cql_agents.method_of(config, SPEC), jax.tree.map(jnp.asarray, nets_of(False))
    nets = {k: v._replace(norm=()) for k, v in nets.items()}
    constant = jax.tree.map(jnp.zeros_like, nets["policy"])

    @jax.jit
    def value(b: Transition) -> Any:
        mine = mine_of(nets | {"policy": constant}, b, 0)
        actions, density = cql_agents.sampled(m, mine, jax.random.key(0))
        held = m.agents.valued(toys.part(nets["critic"], 0), b.obs[:, 0], actions)
        return cql_agents.conservative_loss(m, jnp.zeros((2, M)), held, density)

    batch = toys.steps_of(SPEC, M)
    np.testing.assert_array_equal(
        value(batch), value(batch._replace(next_obs=batch.next_obs + 5.0))
    )
    assert np.abs(value(batch) - value(batch._replace(obs=batch.obs + 5.0))).max() > 1e-3


def test_centralised_critics_leave_the_others_actions_to_the_batch():
    i, nets, batch = 1, nets_of(True), toys.steps_of(SPEC, M)
    m = cql_agents.method_of(cql.Config(**SIZES, centralised=True), SPEC)

    def loss(policies: Any) -> Any:
        mine = mine_of(nets | {"policy": policies}, batch, i, True)
        return cql_agents.actor_loss(
            m, toys.part(policies, i), toys.part(nets["critic"], i), mine, jax.random.key(0)
        )[0]

    grads = jax.jit(jax.grad(loss))(nets["policy"])
    for leaf in jax.tree.leaves(grads):
        assert np.abs(leaf[i]).max() > 0 and not np.any(np.delete(leaf, i, 0))
    # the batch's joint action with own actions in slot i
    own = np.full((2, M, A), 0.5)
    joint = np.asarray(m.agents.replaced(i, own, batch.actions)).reshape(2, M, N, A)
    assert (joint[:, :, i] == 0.5).all()
    np.testing.assert_allclose(
        np.delete(joint, i, 2), np.delete(np.stack([batch.actions] * 2), i, 2), rtol=1e-6
    )


# --------------------------------------------------------------------------------------------
# errors


@pytest.mark.parametrize(
    ("module", "config", "message"),
    [
        (
            cql,
            {"samples": "gauss"},
            "field 'samples': expected one of uniform, policy, found 'gauss'",
        ),
        (
            omar,
            {"search": "grid"},
            "field 'search': expected one of softmax, cem, random, found 'grid'",
        ),
        (
            omar,
            {"search": "cem", "search_samples": 3},
            "field 'search_elites': expected 2 to search_samples=3, found 5",
        ),
        (
            td3bc,
            {"input_norm": "layer"},
            "field 'input_norm': expected one of batch, dataset, none, found 'layer'",
        ),
        (td3bc, {"policy_every": 0}, "field 'policy_every': expected at least 1, found 0"),
        (
            td3bc,
            {"input_norm": "dataset", "centralised": True},
            "expected batch or none with centralised=true",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(module, config, message):
    with pytest.raises(ValueError, match=message):
        module.make(checked(module.Config(**config)), SPEC)


def test_environments_that_have_no_such_form_are_refused():
    for spec, message in (
        (
            EnvSpec("d", 2, 1, 1, 2, True, 1),
            "environment 'd': expected continuous actions, found discrete",
        ),
        (
            EnvSpec("h", 2, 1, 1, 2, False, 1, action_sizes=(2, 1)),
            "environment 'h': expected actions of one size",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            td3bc.make(td3bc.Config(), spec)
