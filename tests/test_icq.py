"""ICQ: its losses and gradients against float64 NumPy, the traps of its formulas, and two games
with known answers.
"""

from __future__ import annotations

import functools
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jaxoff.baselines import icq

from jaxoff.config import checked
from jaxoff.distributions import normal
from jaxoff.types import EnvSpec, Transition
from tests import toys
from tests.reference import icq_numpy as ref

LENGTHS = np.array([3, 3, 3, 2, 1])
B, T, N, A = 5, 3, 2, 3
SIZES: dict[str, Any] = {"hidden": 6, "critic_hidden": 5, "embed": 4}


def spec_of(discrete: bool, horizon: int = T) -> EnvSpec:
    return toys.spec_of(discrete, num_agents=N, horizon=horizon)


def batch_of(discrete: bool) -> Transition:
    """Windows of which the first and the fourth terminate."""
    return toys.batch_of(spec_of(discrete), LENGTHS, (0, 3))


@functools.cache
def started(discrete: bool) -> Any:
    """A state with random parameters in double precision, so that slow copies differ and biases
    count.
    """
    m = icq.method_of(icq.Config(**SIZES), spec_of(discrete))
    state = jax.eval_shape(lambda: icq.init(m, jax.random.key(0)))
    rng = np.random.default_rng(1)
    names = ("policy", "critic", "mixer", "target_critic", "target_mixer")
    trees = {name: toys.drawn(getattr(state, name), k) for k, name in enumerate(names)}
    if not discrete:
        trees["policy"] = trees["policy"]._replace(
            log_std=rng.uniform(-2, -0.2, trees["policy"].log_std.shape)
        )
    return state._replace(**trees, policy_opt=(), critic_opt=(), updates=np.int32(3))


def pieces(config: icq.Config, discrete: bool, state: Any, batch: Transition) -> dict[str, Any]:
    """Target, mask, losses, gradients, and the samples of the baseline."""
    m, key = icq.method_of(config, spec_of(discrete)), jax.random.key(5)
    (target, rho), mask = icq.critic_target(m, state, batch), icq.usable(batch)
    critic = jax.value_and_grad(lambda p: icq.critic_loss(m, p, batch, target, mask))(
        (state.critic, state.mixer)
    )
    actor = jax.value_and_grad(lambda p: icq.actor_loss(m, p, state, batch, key)[0])(state.policy)
    out = {"target": target, "rho": rho, "mask": mask, "critic": critic, "actor": actor}
    if not discrete:
        dist = normal(m.actors.outputs(state.policy.net, batch)[0], state.policy.log_std)
        out["samples"] = jnp.clip(dist.sample(seed=key, sample_shape=4), -1, 1)
    return out


@pytest.mark.parametrize(
    ("discrete", "config"),
    [
        (True, {"beta_critic": 2.0, "beta_actor": 0.5, "trace": 0.6, "gamma": 0.9}),
        (
            True,
            {
                "actor_weight": "value",
                "epsilon_start": 0.5,
                "epsilon_end": 0.1,
                "epsilon_updates": 10,
            },
        ),
        (False, {"beta_critic": 3.0, "beta_actor": 0.7}),
    ],
    ids=["discrete", "as printed, with uniform actions mixed in", "continuous"],
)
def test_losses_and_gradients_equal_float64_numpy(discrete, config):
    full, state, batch = icq.Config(**SIZES | config), started(discrete), batch_of(discrete)
    with jax.enable_x64(True):
        found = jax.tree.map(
            np.asarray, jax.jit(lambda s, b: pieces(full, discrete, s, b))(state, batch)
        )
    rows, c = toys.arrays(batch), {k: getattr(full, k) for k in ("gamma", "trace", "beta_critic")}
    target, mask = ref.targets(state.target_critic, state.target_mixer, rows, discrete, **c)
    np.testing.assert_allclose(found["target"], target, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found["mask"], mask)
    value = lambda p: ref.critic_loss(p[0], p[1], rows, target, mask, discrete)
    # updates = 3 of 10: .5 + .3 (.1 - .5) = .38
    epsilon = 0.38 if full.epsilon_start > 0 else 0.0
    c = {"beta_actor": full.beta_actor, "actor_weight": full.actor_weight, "epsilon": epsilon}
    frozen = lambda p: ref.actor_loss(p, state.critic, state.mixer, rows, found.get("samples"), **c)
    assert found["critic"][0] == pytest.approx(value((state.critic, state.mixer)), rel=1e-7)
    # epsilon is in single precision
    assert found["actor"][0] == pytest.approx(frozen(state.policy), rel=1e-7)
    wanted, way = toys.slope(value, (state.critic, state.mixer), 2)
    assert toys.along(found["critic"][1], way) == pytest.approx(wanted, rel=1e-6)
    wanted, way = weighted_slope(state, rows, found, discrete, c)
    assert toys.along(found["actor"][1], way) == pytest.approx(wanted, rel=1e-6)


def weighted_slope(
    state: Any,
    rows: dict[str, np.ndarray],
    found: dict[str, Any],
    discrete: bool,
    c: dict[str, Any],
) -> tuple[float, Any]:
    """Slope of the policy loss with its weights held: they depend on pi through the baseline, but
    are constants.
    """
    held: list[np.ndarray] = []
    plain = ref.softmax_weights

    def hold(x: np.ndarray, valid: np.ndarray, temperature: float) -> np.ndarray:
        held.append(plain(x, valid, temperature)) if not held else None
        return held[0]

    ref.softmax_weights = hold
    try:
        loss = lambda p: ref.actor_loss(
            p, state.critic, state.mixer, rows, found.get("samples"), **c
        )
        loss(state.policy)
        return toys.slope(loss, state.policy, 3)
    finally:
        ref.softmax_weights = plain


# ----------------------------------------------------------------------------------------------
# traps


@functools.cache
def started_anew(discrete: bool, **switches: Any):
    """A compiled update, and its start."""
    learner = icq.make(icq.Config(**SIZES, **switches), spec_of(discrete))
    return jax.jit(learner.update), jax.jit(learner.init)(jax.random.key(0))


def test_critic_weights_are_nearly_equal_at_temperature_1000():
    # T22. Q from -20 to 20: e^(40 / 1000) = 1.041 between the extremes.
    assert (icq.Config().beta_critic, icq.Config().beta_actor) == (1000.0, pytest.approx(0.1))
    rho = icq.batch_weight(
        jnp.linspace(-20, 20, 9)[:, None], jnp.ones((9, 1)), icq.Config().beta_critic
    )
    assert 0.9 < rho.min() < rho.max() < 1.1


@functools.cache
def target_function():
    def function(leaves: dict[str, Any], state: Any, batch: Transition) -> Any:
        m = icq.method_of(icq.Config(**SIZES, **leaves), spec_of(True))
        return icq.critic_target(m, state, batch)[0]

    return jax.jit(function)


def target_of(batch: Transition, trace: float, beta_critic: float = 1e9) -> np.ndarray:
    leaves = {
        "trace": jnp.float32(trace),
        "gamma": jnp.float32(0.5),
        "beta_critic": jnp.float32(beta_critic),
    }
    return np.asarray(target_function()(leaves, started(True), batch))


def test_the_configured_lambda_is_the_one_used():
    # T23. Window 0 terminates after rewards r0, r1, r2; gamma .5. lambda 1: r0 + r1 / 2 + r2 / 4.
    # lambda 0: r0 + Q_tot(1) / 2.
    batch, state = batch_of(True), started(True)
    r = batch.reward[0]
    assert target_of(batch, 1.0)[0, 0] == pytest.approx(r[0] + r[1] / 2 + r[2] / 4, rel=1e-5)
    total = ref.total_values(state.target_critic, state.target_mixer, toys.arrays(batch), True)
    assert target_of(batch, 0.0)[0, 0] == pytest.approx(r[0] + total[0, 1] / 2, rel=1e-5)


def test_the_length_of_padding_does_not_move_a_target():
    # T24. Four more slots of padding: the return of a window starts at its own last step.
    batch = batch_of(True)
    longer = jax.tree.map(lambda x: np.concatenate([x, x, x[:, :1]], 1), batch)
    longer = longer._replace(valid=np.arange(7) < LENGTHS[:, None])
    longer = longer._replace(
        valid=longer.valid.astype(float),
        terminated=np.concatenate([batch.terminated, np.ones((B, 4))], 1),
    )
    np.testing.assert_allclose(
        target_of(longer, 0.8, 2.0)[:, :3], target_of(batch, 0.8, 2.0), rtol=1e-5, atol=1e-6
    )


def test_a_cut_window_is_no_target_at_its_end_and_a_terminated_one_is_the_reward():
    batch = batch_of(True)
    np.testing.assert_array_equal(
        icq.usable(batch), [[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]
    )
    assert target_of(batch, 0.8)[3, 1] == pytest.approx(batch.reward[3, 1], rel=1e-6)


def test_a_cut_episode_may_end_like_a_terminated_one():
    # truncation=terminal: every real step is a target, and the last one of each row is its reward;
    # padding stays out.
    batch = batch_of(True)
    ended = icq.closed(batch)
    np.testing.assert_array_equal(icq.usable(ended), batch.valid)
    target, last = target_of(ended, 0.8), LENGTHS - 1
    real = LENGTHS > 0
    np.testing.assert_allclose(target[real, last[real]], batch.reward[real, last[real]], rtol=1e-6)
    assert (np.abs(target - target_of(batch, 0.8))[[1, 2], 0] > 1e-3).all() and (
        target[~real] == 0
    ).all()


def test_the_next_value_is_mixed_at_the_next_state():
    # T25. Another state at slot 1 changes the target of slot 0 (and 1 not: its own value is no part
    # of it).
    batch = batch_of(True)
    other = batch._replace(
        state=np.where(np.arange(T)[:, None] == 1, 1.0 - batch.state, batch.state)
    )
    before, after = target_of(batch, 0.8), target_of(other, 0.8)
    assert (np.abs(before - after)[:4, 0] > 1e-3).all()
    np.testing.assert_allclose(before[:, 1], after[:, 1], rtol=1e-6)


def test_the_policy_loss_moves_neither_critic_nor_mixer():
    # T25. Its gradient with respect to both is 0.
    m, state, batch = (
        icq.method_of(icq.Config(**SIZES), spec_of(True)),
        started(True),
        batch_of(True),
    )
    loss = lambda p: icq.actor_loss(
        m, state.policy, state._replace(critic=p[0], mixer=p[1]), batch, jax.random.key(0)
    )[0]
    assert np.abs(toys.flat(jax.jit(jax.grad(loss))((state.critic, state.mixer)))).max() == 0


def test_an_agent_with_one_available_action_learns_nothing():
    # T19. log pi = log 1 = 0 whatever the logits, and the gradient is 0.
    m, state, batch = (
        icq.method_of(icq.Config(**SIZES), spec_of(True)),
        started(True),
        batch_of(True),
    )
    batch = batch._replace(
        avail=np.tile([0.0, 1.0, 0.0], (B, T, N, 1)), actions=np.ones((B, T, N), np.int32)
    )
    grads, told = jax.jit(
        jax.grad(lambda p: icq.actor_loss(m, p, state, batch, jax.random.key(0)), has_aux=True)
    )(state.policy)
    assert float(told["log_prob"]) == pytest.approx(0, abs=1e-6)
    assert np.abs(toys.flat(grads)).max() < 1e-6


def test_a_gaussian_is_finite_at_the_bound_and_evaluated_at_its_mean():
    # T27. Actions of +-1 and beyond have the density at the bound; the mode is tanh of a net.
    m, state = icq.method_of(icq.Config(**SIZES), spec_of(False)), started(False)
    dist = icq.policy_of(m, state.policy).distribution(
        (), toys.seen(spec_of(False), batch_of(False).obs[0, 0])
    )[1]
    assert isinstance(dist, distrax.Independent)
    np.testing.assert_array_equal(dist.mode(), dist.distribution.loc)
    assert (np.abs(dist.mode()) <= 1).all()
    at = [icq.data_density(dist, jnp.full((N, A), x), 1.0) for x in (-1.0, 1.0, 1.5)]
    assert np.isfinite(at).all()
    np.testing.assert_array_equal(at[1], at[2])


def test_log_std_stays_in_its_range():
    # A first step of RMSprop is 10 lr = .005 in either direction: from .0001 inside, one of the two
    # ends would be passed.
    update, state = started_anew(False)
    for edge in (-2.9999, -0.0001):
        policy = state.policy._replace(log_std=jnp.full(A, edge))
        for sign in (1.0, 0.02):
            batch = batch_of(False)
            after, _ = update(
                state._replace(policy=policy),
                batch._replace(actions=sign * batch.actions),
                jax.random.key(0),
            )
            assert (after.policy.log_std >= -3).all() and (after.policy.log_std <= 0).all()
            assert np.abs(after.policy.log_std - policy.log_std).max() > 0


def test_with_a_step_for_each_time_the_copies_go_by_critic_steps():
    # As released: an update makes 3 critic steps here, so that 7 are reached, and passed, in the
    # third; counted anew from there.
    update, state = started_anew(True, per_timestep=True, target_every=7)
    copied = []
    for _ in range(6):
        before = state.target_critic
        state, _ = update(state, batch_of(True), jax.random.key(0))
        copied.append(bool(np.abs(toys.flat(state.target_critic) - toys.flat(before)).max() > 0))
    assert T == 3 and copied == [False, False, True, False, False, True]
    # Times that no episode reaches are no steps.
    state, _ = update(
        state._replace(critic_steps=jnp.int32(0)),
        batch_of(True)._replace(valid=np.eye(1, T).repeat(B, 0)),
        jax.random.key(0),
    )
    assert int(state.critic_steps) <= 1


def test_uniform_actions_are_mixed_in_before_or_after_the_mask():
    # Logits 0, 0, 0, the last action unavailable, epsilon .5. After the mask: .5 / 2 + .5 / 2 each.
    # Before: (.5 / 3 + .5 / 3) each, and what is left of the sum, 2 / 3, is divided out: the same
    # here; with logits log 2, 0, log 5 it is not.
    avail, logits = jnp.array([1.0, 1.0, 0.0]), jnp.log(jnp.array([2.0, 1.0, 5.0]))
    after = jnp.exp(icq.mixed_log_probs(logits, avail, 0.5))
    np.testing.assert_allclose(after, [0.5 * 2 / 3 + 0.25, 0.5 / 3 + 0.25, 0.0], rtol=1e-6)
    before = jnp.exp(icq.mixed_log_probs(logits, avail, 0.5, mask_first=False))
    raw = np.array([0.5 * 2 / 8 + 0.5 / 3, 0.5 * 1 / 8 + 0.5 / 3])
    np.testing.assert_allclose(before, [*raw / raw.sum(), 0.0], rtol=1e-6)
    np.testing.assert_allclose(  # of no share, the two are the same policy
        jnp.exp(icq.mixed_log_probs(logits, avail, 0.0)),
        jnp.exp(icq.mixed_log_probs(logits, avail, 0.0, mask_first=False)),
        rtol=1e-6,
    )


def test_a_first_step_of_rmsprop_is_ten_times_the_rate():
    # T30. g = 1: v = .01, so lr / (.1 + 1e-5); a norm of 10 is not clipped by 10.
    m = icq.method_of(icq.Config(lr=0.5), spec_of(True))
    step, _ = m.policy_opt.update(jnp.array([1.0]), m.policy_opt.init(jnp.array([0.0])))
    assert float(step[0]) == pytest.approx(-0.5 / (0.1 + 1e-5), rel=1e-6)


def test_a_critic_step_for_each_time_goes_through_the_times_in_order():
    # Targets once, then a step on each time alone, 0, 1, 2, each from where the last one ended.
    update, state = started_anew(True, per_timestep=True)
    m, batch = icq.method_of(icq.Config(**SIZES), spec_of(True)), batch_of(True)
    mask, target = icq.usable(batch), lambda: icq.critic_target(m, state, batch)[0]
    grad = jax.jit(jax.grad(lambda p, only: icq.critic_loss(m, p, batch, target(), only)))
    params, opt = (state.critic, state.mixer), state.critic_opt

    @jax.jit
    def stepped(grads, opt, params):
        changes, opt = m.critic_opt.update(grads, opt)
        return optax.apply_updates(params, changes), opt

    for t in range(T):
        params, opt = stepped(grad(params, mask * (np.arange(T) == t)), opt, params)
    after, _ = update(state, batch, jax.random.key(0))
    np.testing.assert_allclose(toys.flat((after.critic, after.mixer)), toys.flat(params), atol=2e-6)
    # Three steps of up to 10 lr = .001: not one.
    assert np.abs(toys.flat(after.critic) - toys.flat(state.critic)).max() > 1.5e-3
    empty, _ = update(state, batch._replace(valid=np.zeros((B, T))), jax.random.key(0))
    np.testing.assert_array_equal(
        toys.flat((empty.critic, empty.critic_opt)), toys.flat((state.critic, state.critic_opt))
    )


@pytest.mark.parametrize(
    ("config", "discrete", "message"),
    [
        (
            {"actor_weight": "q"},
            True,
            "field 'actor_weight': expected one of advantage, value, found 'q'",
        ),
        ({"window": 0}, True, "field 'window': expected -1 \\(episodes\\) or at least 2"),
        (
            {"window": 0, "recurrent": True},
            True,
            "field 'window': expected -1 .* with recurrent=true",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, discrete, message):
    with pytest.raises(ValueError, match=message):
        icq.make(checked(icq.Config(**config)), spec_of(discrete))


# ------------------------------------------------------------------------------------------ toy
# truths


def learn(
    spec: EnvSpec, actions: np.ndarray, reward: np.ndarray, steps: int, **config: Any
) -> distrax.Distribution:
    """The policy after `steps` updates on batches of 64 of the plays of a one-state game, [M, N,
    ...] and [M].
    """
    learner = icq.make(icq.Config(window=0, **SIZES | config), spec)

    def step(state, key):
        pick_key, key = jax.random.split(key)
        pick = jax.random.randint(pick_key, (64,), 0, actions.shape[0])
        batch = toys.plays(spec, jnp.asarray(actions)[pick], jnp.asarray(reward)[pick])
        return learner.update(state, batch, key)[0], None

    train = jax.jit(lambda key: lax.scan(step, learner.init(key), jax.random.split(key, steps))[0])
    return learner.policy(train(jax.random.key(0))).distribution((), toys.seen(spec))[1]


def test_the_better_action_of_the_data_is_chosen_and_an_unseen_one_never():
    # r = [a_0 = 1] + [a_1 = 1] over the data's actions 0 and 1. Action 2 is not in the data,
    # whatever it would pay.
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, (512, N)).astype(np.int32)
    dist = learn(
        spec_of(True, 1),
        actions,
        actions.sum(-1).astype(np.float32),
        500,
        lr=3e-3,
        critic_lr=3e-3,
    )
    assert (dist.probs[:, 1] > 0.9).all(), dist.probs
    assert (dist.probs[:, 2] < 0.02).all(), dist.probs


def test_a_gaussian_moves_to_the_better_part_of_the_data():
    # r = -2 sum |a_i - .4|^2, data uniform in [-.8, .8], mean 0: weights e^(A / beta) pull every
    # mean towards .4.
    actions = np.random.default_rng(0).uniform(-0.8, 0.8, (512, N, A)).astype(np.float32)
    reward = (-2 * np.square(actions - 0.4).sum((-2, -1))).astype(np.float32)
    dist = learn(
        spec_of(False, 1),
        actions,
        reward,
        600,
        lr=3e-3,
        critic_lr=3e-3,
        critic_hidden=32,
        hidden=16,
        beta_actor=0.02,
    )
    assert (dist.mode() > 0.2).all() and (dist.mode() < 0.6).all(), dist.mode()
