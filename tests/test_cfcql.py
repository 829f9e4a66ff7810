"""CFCQL: its losses and gradients against float64 NumPy, the traps of its formulas, and games with
known answers.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxoff.baselines.cfcql import continuous as cfcql_continuous
from jaxoff.baselines.cfcql import discrete as cfcql

from jaxoff.config import checked
from jaxoff.losses.conservative import agent_weights
from jaxoff.types import EnvSpec, Transition
from tests import toys
from tests.reference import cfcql_numpy as ref

B, T, N, S, WIDTH, A = 4, 3, 3, 3, 2, 3
SIZES: dict[str, Any] = {"hidden": 6, "embed": 4, "hyper": 5, "window": -1}
# of the continuous form
REAL: dict[str, Any] = {"hidden": 6, "vae_hidden": 7, "num_samples": 4, "window": -1}


def spec_of(discrete: bool, n: int = N, horizon: int = T) -> EnvSpec:
    return toys.spec_of(discrete, num_agents=n, horizon=horizon)


def batch_of(discrete: bool, n: int = N) -> Transition:
    """Windows of which the first and the third terminate."""
    return toys.batch_of(spec_of(discrete, n), (3, 3, 2, 1), (0, 2))


@functools.cache
def discrete_state(n: int = N) -> cfcql.State:
    m = cfcql.method_of(cfcql.Config(**SIZES), spec_of(True, n))
    state = jax.eval_shape(
        lambda: cfcql.init(m, m.actors.init(jax.random.key(0)), jax.random.key(0))
    )
    return toys.drawn(state._replace(opt=(), updates=()))


# --------------------------------------------------------------------------------------------
# discrete


def discrete_values(leaves: dict[str, Any], state: cfcql.State, batch: Transition) -> Any:
    m = cfcql.method_of(cfcql.Config(**SIZES, **leaves), spec_of(True))
    return jax.value_and_grad(lambda p: cfcql.loss(m, p, state, batch), has_aux=True)(
        (state.critic, state.mixer)
    )


def test_discrete_loss_and_gradient_equal_float64_numpy():
    # Three agents, ragged windows, unavailable actions; tau 1.5, and argmax as tau = 100.
    state, batch = discrete_state(), batch_of(True)
    rows = batch._asdict()
    others = (state.target_critic, state.target_mixer, state.behaviour_policy, rows)
    with jax.enable_x64(True):
        function = jax.jit(discrete_values)
        for tau in (1.5, 100.0):
            leaves = {"tau": tau, "cql": 0.7, "gamma": 0.9, "trace": 0.6}
            (loss, _), grads = function({k: np.float64(x) for k, x in leaves.items()}, state, batch)
            wanted, held = ref.discrete_loss(state.critic, state.mixer, *others, embed=4, **leaves)
            assert float(loss) == pytest.approx(wanted, rel=1e-9)
            # Targets and weights are constants of the gradient.
            fixed = lambda p, held=held, leaves=leaves: ref.discrete_loss(
                *p, *others, held=held, embed=4, **leaves
            )[0]
            wanted, way = toys.slope(fixed, (state.critic, state.mixer), 2)
            assert toys.along(grads, way) == pytest.approx(wanted, rel=1e-6)


@functools.cache
def totals_and_term(n: int):
    def function(tau: Any, state: cfcql.State, batch: Transition) -> Any:
        m = cfcql.method_of(cfcql.Config(tau=tau, **SIZES), spec_of(True, n))
        q, _ = m.actors.outputs(state.critic, batch)
        log_mu = jax.nn.log_softmax(m.actors.outputs(state.behaviour_policy, batch)[0])
        total = m.mixer.apply(state.mixer, cfcql.taken(q, batch.actions), batch.state)
        term, apart = cfcql.conservative_loss(m, state.mixer, q, total, log_mu, batch)
        return q, total, cfcql.counterfactual_totals(m, state.mixer, q, batch), term, apart

    return jax.jit(function)


def test_replacing_an_action_by_itself_is_the_total_of_the_data_and_the_term_is_not_negative():
    # Trap 13. log sum_j exp Q_tot(i <- j) >= Q_tot(data), since the data's action is one of the j.
    batch = batch_of(True)
    _, total, totals, term, _ = totals_and_term(N)(jnp.float32(0.5), discrete_state(), batch)
    own = np.take_along_axis(np.asarray(totals), batch.actions[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        own, np.repeat(np.asarray(total)[..., None], N, -1), rtol=1e-5, atol=1e-6
    )
    assert (np.asarray(term)[batch.valid > 0] >= 0).all()


def test_of_one_agent_the_term_is_that_of_plain_cql():
    # Trap 13. log sum_a exp Q_tot(a) - Q_tot(data), with each Q_tot from the mixer on its own, at
    # any tau.
    batch, state = batch_of(True, 1), discrete_state(1)
    for tau in (0.0, 2.0, 100.0):
        q, total, _, term, _ = totals_and_term(1)(jnp.float32(tau), state, batch)
        for b, t in zip(*np.nonzero(batch.valid), strict=True):
            may = np.flatnonzero(batch.avail[b, t, 0])
            all_ = np.array(
                [ref.mix(state.mixer, np.asarray(q)[b, t, :, a], batch.state[b, t], 4) for a in may]
            )
            assert float(term[b, t]) == pytest.approx(
                ref.log_sum_exp(all_) - float(total[b, t]), rel=1e-4, abs=1e-5
            )


def test_agent_weights_are_equal_at_tau_0_one_hot_at_100_and_sum_to_1():
    # D = (.1, .7, .3). tau 2: e^.2, e^1.4, e^.6 over their sum 1.2214 + 4.0552 + 1.8221 = 7.0987.
    d = jnp.array([0.1, 0.7, 0.3])
    np.testing.assert_allclose(agent_weights(d, 0.0), 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(agent_weights(d, 100.0), [0, 1, 0])
    np.testing.assert_allclose(agent_weights(d, 2.0), [0.17206, 0.57126, 0.25668], rtol=1e-4)
    np.testing.assert_array_equal(jax.jacobian(agent_weights)(d, 2.0), np.zeros((3, 3)))


def test_deviation_is_zero_where_the_values_are_those_of_the_behaviour():
    # softmax of log mu is mu; an unavailable action adds nothing, whatever its value.
    log_mu = jnp.log(jnp.array([[0.2, 0.8, 1.0]])).at[0, 2].set(-1e10)
    totals = (
        jnp.array([[0.2, 0.8, 0.0]])
        .at[0, :2]
        .set(jnp.log(jnp.array([0.2, 0.8])))
        .at[0, 2]
        .set(50.0)
    )
    np.testing.assert_allclose(
        cfcql.deviation(totals, log_mu, jnp.array([[1.0, 1.0, 0.0]])), 0, atol=1e-6
    )


def test_deviation_by_hand():
    # p = (.5, .5), mu = (.2, .8): KL = .5 log(.5 / .2) + .5 log(.5 / .8) = .22314, and E_p[p / mu]
    # = .25 / .2 + .25 / .8 = 1.5625.
    totals, log_mu, avail = jnp.zeros((1, 2)), jnp.log(jnp.array([[0.2, 0.8]])), jnp.ones((1, 2))
    assert float(cfcql.deviation(totals, log_mu, avail)[0]) == pytest.approx(0.22314, rel=1e-3)
    assert float(cfcql.deviation(totals, log_mu, avail, "ratio")[0]) == pytest.approx(
        1.5625, rel=1e-3
    )


def test_the_mixer_is_monotone_in_every_value():
    # Trap 13, by differences of 1e-2 at random values and states, for mixer weights of both signs.
    rng, mixer = (
        np.random.default_rng(0),
        cfcql.method_of(cfcql.Config(**SIZES), spec_of(True)).mixer,
    )
    values, state = rng.normal(size=(50, 1, N)), rng.normal(size=(50, 1, S))
    total = jax.jit(mixer.apply)(
        discrete_state().mixer, np.concatenate([values, values + 1e-2 * np.eye(N)], 1), state
    )
    assert (total[:, 1:] >= total[:, :1]).all() and (total[:, 1:] > total[:, :1]).any()


@functools.cache
def target_function():
    def function(trace: Any, state: cfcql.State, batch: Transition) -> jax.Array:
        m = cfcql.method_of(cfcql.Config(trace=trace, gamma=0.5, **SIZES), spec_of(True))
        return cfcql.value_target(m, state, batch, m.actors.outputs(state.critic, batch)[1])

    return jax.jit(function)


def test_lambda_0_is_one_step_and_the_masked_tail_is_zero():
    # Traps 13, 14: r + gamma V(next) at every step but terminated ones, which are r; the last step
    # of a cut window has V too.
    batch, state = batch_of(True), discrete_state()
    found = np.asarray(target_function()(jnp.float32(0.0), state, batch))
    for b, t in np.ndindex(B, T):
        online, slow = (
            ref.outputs(p, batch.next_obs[b, t], batch.next_avail[b, t])
            for p in (state.critic, state.target_critic)
        )
        value = ref.mix(
            state.target_mixer, slow[np.arange(N), online.argmax(-1)], batch.next_state[b, t], 4
        )
        wanted = batch.valid[b, t] * (
            batch.reward[b, t] + 0.5 * (1 - batch.terminated[b, t]) * value
        )
        assert found[b, t] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


# ----------------------------------------------------------------------------------------- both
# forms


@functools.cache
def continuous_start() -> tuple[Any, Any]:
    """A compiled update of the second stage of the continuous form, and its start."""
    config = cfcql_continuous.Config(**REAL, input_norm="batch", samples="policy")
    first, second = cfcql_continuous.make(config, spec_of(False))

    def start(key: jax.Array) -> Any:
        return second.prepare(first.learner.init(key), None, key)

    return jax.jit(second.learner.update), jax.jit(start)(jax.random.key(0))


def test_policies_move_every_fifth_update_and_slow_nets_with_them():
    update, state = continuous_start()
    after, _ = update(state._replace(updates=jnp.int32(3)), batch_of(False), jax.random.key(0))
    kept = ("policy", "target_policy", "target_critic", "policy_opt", "vae")
    for name in kept:
        np.testing.assert_array_equal(
            toys.flat(getattr(after, name)), toys.flat(getattr(state, name)), err_msg=name
        )
    moved, _ = update(after, batch_of(False), jax.random.key(0))
    for name in kept[:-1]:
        assert (
            np.abs(toys.flat(getattr(moved, name)) - toys.flat(getattr(after, name))).max() > 0
        ), name


def mode_of(played: Any) -> Any:
    return played[0], played[1].mode()


def test_a_recurrent_policy_starts_each_episode_from_nothing():
    # Trap 16. Played step by step from zero memory with no previous action: the argmax of what
    # training unrolls.
    config = cfcql.Config(**SIZES, recurrent=True, weights="uniform")
    learner, m = cfcql.make(config, spec_of(True)), cfcql.method_of(config, spec_of(True))
    state, batch = jax.jit(learner.init)(jax.random.key(0)), batch_of(True)
    unrolled = jax.jit(m.actors.outputs)(state.critic, batch)[0]
    policy, play = (
        learner.policy(state),
        jax.jit(lambda memory, seen: mode_of(learner.policy(state).distribution(memory, seen))),
    )
    memory, last = policy.initial((B,)), jnp.full((B, N), -1)
    for t in range(T):
        seen = toys.seen(spec_of(True), batch.obs[:, t], avail=batch.avail[:, t], last_actions=last)
        memory, best = play(memory, seen)
        np.testing.assert_array_equal(best, np.asarray(unrolled)[:, t].argmax(-1))
        last = batch.actions[:, t]


# ------------------------------------------------------------------------------------------
# continuous


@functools.cache
def continuous_state() -> cfcql_continuous.State:
    m = cfcql_continuous.method_of(cfcql_continuous.Config(**REAL), spec_of(False))
    vae = jax.eval_shape(cfcql_continuous.behaviour_learner(m).init, jax.random.key(0)).vae
    state = jax.eval_shape(lambda vae: cfcql_continuous.init(m, vae, jax.random.key(0)), vae)
    return toys.drawn(state._replace(policy_opt=(), critic_opt=(), updates=()))


def draws_of(key: jax.Array, shape: tuple[int, ...]) -> dict[str, Any]:
    """The noise that a critic loss draws from a key."""
    noise_key, weight_key, sample_key = jax.random.split(key, 3)
    keys, samples = jax.random.split(sample_key, 3), (REAL["num_samples"], *shape)
    return {
        "target": 0.05 * jax.random.normal(noise_key, shape),
        "latent": jax.random.normal(weight_key, (20, shape[0], 2 * N * A)),
        "uniform": jax.random.uniform(keys[0], samples, minval=-1, maxval=1),
        "now": 0.2 * jax.random.normal(keys[1], samples),
        "next": 0.2 * jax.random.normal(keys[2], samples),
    }


def test_continuous_losses_and_gradients_equal_float64_numpy():
    # Batch statistics, three kinds of samples, weights from the VAE; the next action of a window's
    # last step counts nowhere.
    config = cfcql_continuous.Config(**REAL, samples="policy", tau=0.002, cql=0.4, gamma=0.9)
    state, batch, key = continuous_state(), batch_of(False), jax.random.key(4)
    rows = {
        name: x.reshape(B * T, *x.shape[2:]) for name, x in batch._asdict().items() if x is not None
    }

    def losses(config: Any, state: Any, batch: Transition) -> Any:
        m = cfcql_continuous.method_of(config, spec_of(False))
        vae = m.vae.loss(state.vae, rows["state"], rows["actions"], key)
        value = jax.value_and_grad(
            lambda p: cfcql_continuous.critic_loss(m, p, state, batch, key)[0]
        )(state.critic)
        policy = jax.value_and_grad(
            lambda p: cfcql_continuous.policy_loss(m, p, state.critic, batch)
        )(state.policy)
        noise = draws_of(key, rows["actions"].shape), jax.random.normal(key, (B * T, 2 * N * A))
        return value, policy, vae, noise

    with jax.enable_x64(True):
        out = jax.tree.map(np.asarray, jax.jit(losses)(toys.double(config), state, batch))
    (value, value_grads), (policy, grads), vae, (draws, latent) = out
    nets = {
        k: getattr(state, k) for k in ("policy", "critic", "target_policy", "target_critic", "vae")
    }
    follows = np.concatenate([batch.valid[:, 1:], np.zeros((B, 1))], 1).reshape(-1) > 0
    ahead = np.concatenate([batch.actions[:, 1:], batch.actions[:, :1]], 1).reshape(
        rows["actions"].shape
    )
    wanted = lambda p: ref.critic_loss(
        nets | {"critic": p}, rows, follows, ahead, draws, tau=0.002, cql=0.4, gamma=0.9
    )
    assert float(value) == pytest.approx(wanted(state.critic), rel=1e-8)
    difference, way = toys.slope(wanted, state.critic, 4)
    assert toys.along(value_grads, way) == pytest.approx(difference, rel=1e-5)
    assert float(vae[rows["valid"] > 0].mean()) == pytest.approx(
        ref.vae_loss(state.vae, rows, latent), rel=1e-9
    )
    wanted = lambda p: ref.policy_loss(p, state.critic, rows, 1e-3)
    assert float(policy) == pytest.approx(wanted(state.policy), rel=1e-9)
    difference, way = toys.slope(wanted, state.policy, 3)
    assert toys.along(grads, way) == pytest.approx(difference, rel=1e-5)


def test_policies_start_with_small_heads():
    _, state = continuous_start()
    head = np.abs(state.policy.net["params"]["Dense_2"]["kernel"])  # [N, hidden, A]
    assert 1e-3 < head.max() <= 3e-3


def test_critics_may_see_all_observations_and_values_the_reward_of_agent_0():
    batch = batch_of(False)
    m = cfcql_continuous.method_of(
        cfcql_continuous.Config(**REAL, critic_state="obs", reward="first"), spec_of(False)
    )
    np.testing.assert_array_equal(
        cfcql_continuous.seen(m, batch.obs, batch.state), batch.obs.reshape(B, T, -1)
    )
    state = jax.eval_shape(lambda: cfcql_continuous.init(m, (), jax.random.key(0)))
    assert state.critic.net["params"]["Dense_0"]["kernel"].shape == (
        2,
        N * WIDTH + N * A,
        SIZES["hidden"],
    )
    np.testing.assert_array_equal(cfcql_continuous.reward_of(m, batch), batch.agent_reward[..., 0])
    shared = batch._replace(agent_reward=None)
    np.testing.assert_array_equal(cfcql_continuous.reward_of(m, shared), batch.reward)
    team = cfcql_continuous.method_of(cfcql_continuous.Config(**REAL), spec_of(False))
    np.testing.assert_array_equal(cfcql_continuous.reward_of(team, batch), batch.reward)


def test_running_statistics_serve_execution():
    # One row: with its own statistics every input would be 0. With mean 1 and variance 4, x = 3 is
    # (3 - 1) / 2 = 1.
    m, state = (
        cfcql_continuous.method_of(cfcql_continuous.Config(**REAL), spec_of(False)),
        continuous_state(),
    )
    ones = jnp.ones((N, WIDTH))
    state = state._replace(stats=cfcql_continuous.Stats(ones, 4 * ones - 1e-5))
    play = lambda state, seen: cfcql_continuous.policy_of(m, state).distribution((), seen)[1].mode()
    found = jax.jit(play)(state, toys.seen(spec_of(False), 3 * ones))
    plain = state.policy.norm.scale * 1.0 + state.policy.norm.shift
    wanted = [np.tanh(ref.mlp(ref.of_twin(state.policy.net, i), plain[i])) for i in range(N)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_running_statistics_go_a_tenth_of_the_way_to_the_batch():
    # From mean 0: .1 of the mean of valid rows. From variance 1: .9 + .1 of the unbiased variance.
    batch = batch_of(False)
    weight = jnp.broadcast_to(batch.valid[..., None, None], (B, T, N, 1))
    found = cfcql_continuous.running(
        cfcql_continuous.Stats(jnp.zeros((N, WIDTH)), jnp.ones((N, WIDTH))),
        batch.obs,
        weight,
        (0, 1),
    )
    rows = batch.obs[batch.valid > 0]
    np.testing.assert_allclose(found.mean, 0.1 * rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.variance, 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "discrete", "message"),
    [
        (
            {"weights": "kl"},
            True,
            "field 'weights': expected one of deviation, ratio, uniform, found 'kl'",
        ),
        (
            {"weights": "ratio"},
            False,
            "field 'weights': expected one of deviation, uniform, found 'ratio'",
        ),
        (
            {"samples": "gauss"},
            False,
            "field 'samples': expected one of uniform, policy, found 'gauss'",
        ),
        (
            {"recurrent": True, "window": 0},
            True,
            "field 'window': expected -1 .* with recurrent=true, found 0",
        ),
        (
            {"recurrent": True, "window": -1},
            False,
            "field 'input_norm': expected none with recurrent=true",
        ),
        (
            {"samples": "policy", "window": 0},
            False,
            "field 'window': expected -1 or at least 2 with samples=policy",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, discrete, message):
    with pytest.raises(ValueError, match=message):
        form = cfcql if discrete else cfcql_continuous
        form.make(checked(form.Config(**config)), spec_of(discrete))


# ------------------------------------------------------------------------------------------ toy
# truths


def test_the_penalty_holds_policies_in_the_data():
    # r = sum of all actions, known for |a| < .3 only: without the penalty policies go to the bound
    # 1, with it they stay.
    n, spec = 2, spec_of(False, 2, 1)
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (512, n, A)).astype(np.float32)
    reward, static = (
        actions.sum((-2, -1)),
        {"window": 0, "hidden": 32, "weights": "uniform", "input_norm": "none", "policy_every": 1},
    )

    def learn(cql: jax.Array) -> jax.Array:
        config = cfcql_continuous.Config(lr=3e-3, cql=cql, **REAL | static)
        learner = cfcql_continuous.make(config, spec)

        def step(state: Any, key: jax.Array) -> Any:
            pick_key, key = jax.random.split(key)
            pick = jax.random.randint(pick_key, (64,), 0, 512)
            batch = toys.plays(spec, jnp.asarray(actions)[pick], jnp.asarray(reward)[pick])
            return learner.update(state, batch, key)[0], None

        state = lax.scan(
            step, learner.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 500)
        )[0]
        return learner.policy(state).distribution((), toys.seen(spec))[1].mode()

    free, held = jax.jit(jax.vmap(learn))(jnp.array([0.0, 5.0]))
    assert (free > 0.9).all(), free
    assert (np.abs(held) < 0.5).all(), held


def test_discrete_values_keep_away_from_an_action_outside_the_data():
    # r = [a_0 = 1] + [a_1 = 1], action 2 never seen: the greedy joint action is (1, 1) and Q_tot of
    # 2 lies below.
    rng, spec = np.random.default_rng(0), spec_of(True, 2, 1)
    actions = rng.integers(0, 2, (512, 2)).astype(np.int32)
    config = cfcql.Config(**SIZES | {"window": 0, "weights": "uniform"}, lr=3e-3, cql=0.5)
    learner, m = cfcql.make(config, spec), cfcql.method_of(config, spec)
    play = lambda rows: toys.plays(spec, rows, rows.sum(-1).astype(np.float32))

    def step(state: Any, key: jax.Array) -> Any:
        pick = jax.random.randint(key, (64,), 0, 512)
        return learner.update(state, play(jnp.asarray(actions)[pick]), key)[0], None

    train = jax.jit(lambda key: lax.scan(step, learner.init(key), jax.random.split(key, 1500))[0])
    state = train(jax.random.key(0))
    q, _ = m.actors.outputs(state.critic, play(actions[:1]))
    assert (q[0].argmax(-1) == 1).all(), q
    assert (q[0, :, 2] < q[0, :, 1]).all(), q
