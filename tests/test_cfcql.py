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
from jaxoff.types import EnvSpec, TimeStep, Transition
from tests.reference import cfcql_numpy as ref
from tests.test_icq import along, flat, slope

B, T, N, S, WIDTH, A = 4, 3, 3, 3, 2, 3
LENGTHS = np.array([3, 3, 2, 1])
SIZES: dict[str, Any] = {"hidden": 6, "embed": 4, "hyper": 5, "window": -1}
# of the continuous form
REAL: dict[str, Any] = {"hidden": 6, "vae_hidden": 7, "num_samples": 4, "window": -1}


def spec_of(discrete: bool, n: int = N, horizon: int = T) -> EnvSpec:
    return EnvSpec("small", n, WIDTH, S, A, discrete, horizon)


def batch_of(discrete: bool, n: int = N) -> Transition:
    """Windows of lengths 3, 3, 2, 1, of which the first and third terminate; action 2 of every
    second is unavailable.
    """
    rng = np.random.default_rng(0)
    avail = np.ones((2, B, T, n, A))
    if discrete:
        avail[:, ::2, :, :, 2] = 0
    actions = np.where(
        avail[0, ..., 2] > 0, rng.integers(0, 3, (B, T, n)), rng.integers(0, 2, (B, T, n))
    ).astype(np.int32)
    last = np.arange(T) == LENGTHS[:, None] - 1
    ends = last * np.array([1, 0, 1, 0])[:, None]
    return Transition(
        obs=rng.normal(size=(B, T, n, WIDTH)),
        state=rng.normal(size=(B, T, S)),
        avail=avail[0],
        actions=actions if discrete else rng.uniform(-1, 1, (B, T, n, A)),
        reward=rng.normal(size=(B, T)),
        terminated=ends.astype(float),
        truncated=(last - ends).astype(float),
        valid=(np.arange(T) < LENGTHS[:, None]).astype(float),
        steps_before=np.tile(np.arange(T), (B, 1)),
        episode=np.tile(np.arange(B)[:, None], (1, T)),
        next_obs=rng.normal(size=(B, T, n, WIDTH)),
        next_state=rng.normal(size=(B, T, S)),
        next_avail=avail[1],
    )


def drawn(tree: Any, seed: int = 1) -> Any:
    """Random numbers in double precision in place of every leaf."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.7 * rng.normal(size=x.shape), tree)


@functools.cache
def discrete_state(n: int = N) -> cfcql.State:
    m = cfcql.method_of(cfcql.Config(**SIZES), spec_of(True, n))
    state = jax.eval_shape(
        lambda: cfcql.init(m, m.actors.init(jax.random.key(0)), jax.random.key(0))
    )
    return drawn(state._replace(opt=(), updates=()))


def double(config: cfcql.Config) -> cfcql.Config:
    return jax.tree.map(np.float64, config)


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
            wanted, way = slope(fixed, (state.critic, state.mixer), 2)
            assert along(grads, way) == pytest.approx(wanted, rel=1e-6)


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
def stepper(discrete: bool, **switches: Any):
    """Compiled updates of both stages, and the start of the second."""
    form, own = (cfcql, SIZES) if discrete else (cfcql_continuous, REAL | {"input_norm": "batch"})
    first, second = form.make(form.Config(**own | switches), spec_of(discrete))
    fitted = jax.jit(first.learner.init)(jax.random.key(0))
    state = jax.jit(lambda fitted: second.prepare(fitted, None, jax.random.key(1)))(fitted)
    return jax.jit(first.learner.update), jax.jit(second.learner.update), fitted, state


def noisy(batch: Transition, discrete: bool) -> Transition:
    """Nonsense in invalid slots."""
    off = jnp.asarray(batch.valid) == 0
    wide = off[..., None, None]
    return batch._replace(
        obs=jnp.where(wide, 50.0, batch.obs),
        next_obs=jnp.where(wide, 50.0, batch.next_obs),
        state=jnp.where(off[..., None], -50.0, batch.state),
        next_state=jnp.where(off[..., None], -50.0, batch.next_state),
        reward=jnp.where(off, 1e6, batch.reward),
        avail=jnp.where(wide, 0.0, batch.avail),
        next_avail=jnp.where(wide, 0.0, batch.next_avail),
        actions=jnp.where(off[..., None], 1, batch.actions)
        if discrete
        else jnp.where(wide, 0.9, batch.actions),
    )


@pytest.mark.parametrize("discrete", [True, False])
def test_padding_changes_nothing_and_the_behaviour_model_is_frozen(discrete):
    # In the continuous form the padding also holds "next" actions of teammates: they are no part of
    # anything.
    fit, update, fitted, state = stepper(discrete, **({} if discrete else {"samples": "policy"}))
    batch, key = batch_of(discrete), jax.random.key(0)
    for function, start in ((fit, fitted), (update, state)):
        clean, dirty = (function(start, b, key)[0] for b in (batch, noisy(batch, discrete)))
        np.testing.assert_allclose(flat(clean), flat(dirty), rtol=1e-4, atol=1e-6)
        assert np.isfinite(flat(dirty)).all() and np.abs(flat(clean) - flat(start)).max() > 0
    after = update(state, batch, key)[0]
    name = "behaviour_policy" if discrete else "vae"
    np.testing.assert_array_equal(flat(getattr(after, name)), flat(getattr(state, name)))


def test_slow_values_are_copied_every_25_updates():
    _, update, _, state = stepper(True)
    state, _ = update(state._replace(updates=jnp.int32(23)), batch_of(True), jax.random.key(0))
    assert np.abs(flat(state.critic) - flat(state.target_critic)).max() > 0
    state, _ = update(state, batch_of(True), jax.random.key(0))
    np.testing.assert_array_equal(
        flat((state.critic, state.mixer)), flat((state.target_critic, state.target_mixer))
    )


def test_policies_move_every_fifth_update_and_slow_nets_with_them():
    _, update, _, state = stepper(False, samples="policy")
    after, _ = update(state._replace(updates=jnp.int32(3)), batch_of(False), jax.random.key(0))
    kept = ("policy", "target_policy", "target_critic", "policy_opt", "vae")
    for name in kept:
        np.testing.assert_array_equal(
            flat(getattr(after, name)), flat(getattr(state, name)), err_msg=name
        )
    moved, _ = update(after, batch_of(False), jax.random.key(0))
    for name in kept[:-1]:
        assert np.abs(flat(getattr(moved, name)) - flat(getattr(after, name))).max() > 0, name


def test_the_clocks_end_may_count_as_terminal():
    # The data of the robots mark it so. A batch whose steps are all cut by the clock gives the
    # targets of terminal ones.
    batch = batch_of(False)
    cut = batch._replace(
        terminated=jnp.zeros_like(batch.terminated), truncated=jnp.ones_like(batch.terminated)
    )
    ended = cut._replace(terminated=jnp.ones_like(batch.terminated))
    moved = {}
    for name, ends in (("plain", False), ("ends", True)):
        _, update, _, state = stepper(False, samples="uniform", truncated_ends=ends)
        moved[name] = [flat(update(state, b, jax.random.key(0))[0].critic) for b in (cut, ended)]
    assert np.abs(moved["plain"][0] - moved["plain"][1]).max() > 0
    np.testing.assert_array_equal(*moved["ends"])
    np.testing.assert_array_equal(moved["plain"][1], moved["ends"][1])


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
    memory, last, no = policy.initial((B,)), jnp.full((B, N), -1), jnp.zeros(B, bool)
    for t in range(T):
        seen = TimeStep(
            batch.obs[:, t], batch.state[:, t], batch.avail[:, t], jnp.zeros(B), no, no, last
        )
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
    return drawn(state._replace(policy_opt=(), critic_opt=(), updates=()))


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
        out = jax.tree.map(np.asarray, jax.jit(losses)(double(config), state, batch))
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
    difference, way = slope(wanted, state.critic, 3)
    assert along(value_grads, way) == pytest.approx(difference, rel=1e-5)
    assert float(vae[rows["valid"] > 0].mean()) == pytest.approx(
        ref.vae_loss(state.vae, rows, latent), rel=1e-9
    )
    wanted = lambda p: ref.policy_loss(p, state.critic, rows, 1e-3)
    assert float(policy) == pytest.approx(wanted(state.policy), rel=1e-9)
    difference, way = slope(wanted, state.policy, 3)
    assert along(grads, way) == pytest.approx(difference, rel=1e-5)


def test_policies_start_with_small_heads():
    _, _, _, state = stepper(False, samples="policy")
    head = np.abs(state.policy.net["params"]["Dense_2"]["kernel"])  # [N, hidden, A]
    assert 1e-3 < head.max() <= 3e-3
    np.testing.assert_array_equal(flat(state.policy), flat(state.target_policy))


def test_critics_may_see_all_observations_and_values_the_reward_of_agent_0():
    batch = batch_of(False)._replace(agent_reward=np.random.default_rng(2).normal(size=(B, T, N)))
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
    no = jnp.zeros((), bool)
    seen = TimeStep(
        3 * ones, jnp.zeros(S), jnp.ones((N, A)), jnp.zeros(()), no, no, jnp.zeros((N, A))
    )
    found = jax.jit(lambda s: cfcql_continuous.policy_of(m, s).distribution((), seen)[1].mode())(
        state
    )
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


def plays(actions: np.ndarray, reward: np.ndarray, pick: jax.Array) -> Transition:
    """Steps of a one-state game."""
    rows, n = pick.shape[0], actions.shape[1]
    one, state, full = jnp.ones((rows, n, WIDTH)), jnp.ones((rows, S)), jnp.ones(rows)
    avail, count = jnp.ones((rows, n, A)), jnp.zeros(rows, jnp.int32)
    actions, reward = jnp.asarray(actions)[pick], jnp.asarray(reward)[pick]
    return Transition(
        one, state, avail, actions, reward, full, 0 * full, full, count, count, one, state, avail
    )


def test_the_penalty_holds_policies_in_the_data():
    # r = sum of all actions, known for |a| < .3 only: without the penalty policies go to the bound
    # 1, with it they stay.
    n = 2
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (512, n, A)).astype(np.float32)
    reward, static = (
        actions.sum((-2, -1)),
        {"window": 0, "hidden": 32, "weights": "uniform", "input_norm": "none", "policy_every": 1},
    )

    def learn(cql: jax.Array) -> jax.Array:
        config = cfcql_continuous.Config(lr=3e-3, cql=cql, **REAL | static)
        learner = cfcql_continuous.make(config, spec_of(False, n, 1))

        def step(state: Any, key: jax.Array) -> Any:
            pick_key, key = jax.random.split(key)
            return learner.update(
                state, plays(actions, reward, jax.random.randint(pick_key, (64,), 0, 512)), key
            )[0], None

        state = lax.scan(
            step, learner.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 500)
        )[0]
        seen = jnp.ones((n, WIDTH))
        no = jnp.zeros((), bool)
        now = TimeStep(
            seen, jnp.ones(S), jnp.ones((n, A)), jnp.zeros(()), no, no, jnp.zeros((n, A))
        )
        return learner.policy(state).distribution((), now)[1].mode()

    free, held = jax.jit(jax.vmap(learn))(jnp.array([0.0, 5.0]))
    assert (free > 0.9).all(), free
    assert (np.abs(held) < 0.5).all(), held


def test_discrete_values_keep_away_from_an_action_outside_the_data():
    # r = [a_0 = 1] + [a_1 = 1], action 2 never seen: the greedy joint action is (1, 1) and Q_tot of
    # 2 lies below.
    n, rng = 2, np.random.default_rng(0)
    actions = rng.integers(0, 2, (512, n)).astype(np.int32)
    config = cfcql.Config(**SIZES | {"window": 0, "weights": "uniform"}, lr=3e-3, cql=0.5)
    learner, m = (
        cfcql.make(config, spec_of(True, n, 1)),
        cfcql.method_of(config, spec_of(True, n, 1)),
    )

    def step(state: Any, key: jax.Array) -> Any:
        pick = jax.random.randint(key, (64,), 0, 512)
        return learner.update(state, plays(actions, actions.sum(-1).astype(np.float32), pick), key)[
            0
        ], None

    train = jax.jit(lambda key: lax.scan(step, learner.init(key), jax.random.split(key, 1500))[0])
    state = train(jax.random.key(0))
    q, _ = m.actors.outputs(
        state.critic, plays(actions, actions.sum(-1).astype(np.float32), jnp.arange(1))
    )
    assert (q[0].argmax(-1) == 1).all(), q
    assert (q[0, :, 2] < q[0, :, 1]).all(), q
