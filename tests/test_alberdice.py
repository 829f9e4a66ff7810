"""AlberDICE: its losses and gradients against float64 NumPy, the traps of its formulas, and the XOR
games.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxoff.baselines import alberdice

from jaxoff.batches import flatten
from jaxoff.config import checked
from jaxoff.data import recipes, samplers
from jaxoff.data.dataset import Dataset, place
from jaxoff.envs.games.matrix import XOR, joint_probabilities, make_matrix
from jaxoff.losses import stationary
from jaxoff.nets.behaviour import TeammateModel
from jaxoff.types import EnvSpec, Transition
from tests import toys
from tests.reference import alberdice_numpy as ref
from tests.reference.inspo_numpy import log_softmax

LENGTHS, T, A = (3, 3, 3, 3, 2, 1), 3, 3
DEFAULTS: dict[str, Any] = {"hidden": 8, "steps": 100, "window": -1, "limit": 5}

# ----------------------------------------------------------------------------------- small problems


def spec_of(n: int) -> EnvSpec:
    return toys.spec_of(num_agents=n, horizon=T)


def batch_of(n: int) -> Transition:
    """Windows of which every second terminates."""
    return toys.batch_of(spec_of(n), LENGTHS)


def method_of(n: int, **config: Any) -> alberdice.Method:
    """What `make` builds, from its own learner."""
    settings = alberdice.Config(**DEFAULTS | config)
    return alberdice.method_of(settings, spec_of(n))


def start(m: alberdice.Method) -> alberdice.State:
    """A first state in double precision, with policies far enough from uniform for every term to
    count.
    """
    state = jax.jit(lambda key: alberdice.first_state(m, key))(jax.random.key(1))
    rng = np.random.default_rng(7)
    moved = lambda x: (
        x + 0.3 * rng.normal(size=x.shape) if jnp.issubdtype(x.dtype, jnp.floating) else x
    )
    nets, mu = jax.tree.map(moved, (state.nets, state.behaviour_policy))
    return state._replace(nets=nets, behaviour_policy=mu)


# ------------------------------------------------------------------------ losses, in double
# precision


def numpy_losses(
    nets: list[Any],
    rows: dict[str, np.ndarray],
    agent: int,
    pi: np.ndarray,
    mu: np.ndarray,
    c: dict[str, Any],
) -> Any:
    """(constants, loss of each net as a function of its layers)."""
    mates = ref.mates_tables(nets[3], agent, rows)
    ratio, divergence = ref.ratio_and_divergence(pi, mates, agent, rows["actions"])
    c = c | {"ratio": ratio, "divergence": divergence, "counts": rows["valid"] * ratio}
    hat, e = ref.dual(nets[2], rows, c)[1], ref.e_table(nets[1], rows["state"], A)
    mine = mu[:, agent]
    return c, {
        "policy": lambda net: ref.policy(net, rows, agent, e, mine, c["counts"], c["alpha"]),
        "critic": lambda net: ref.value(
            net, rows, agent, hat, mine, c["counts"], c["conservative"]
        ),
        "dual": lambda net: ref.dual(net, rows, c)[0],
        "teammates": lambda net: ref.teammates(net, rows, agent),
    }


def probabilities(state: alberdice.State, rows: dict[str, np.ndarray], n: int) -> Any:
    """pi and mu [M, N, A] by NumPy; mu is one net that is told the agent's number."""
    obs, shared = rows["obs"], toys.layers_of(state.behaviour_policy)
    numbered = lambda j: np.concatenate([obs[:, j], np.tile(np.eye(n)[j], (len(obs), 1))], 1)
    of = lambda net, x, j: np.exp(log_softmax(ref.forward(net, x)[0], rows["avail"][:, j]))
    pi = [of(toys.layers_of(state.nets.policy, j), obs[:, j], j) for j in range(n)]
    return np.stack(pi, 1), np.stack([of(shared, numbered(j), j) for j in range(n)], 1)


def test_losses_and_gradients_equal_float64_numpy(monkeypatch):
    # Every loss to 1e-9; gradients along a random direction of each net against (f(x + h d) - f(x -
    # h d)) / 2h of that net's own loss, so a loss reaches no other net. The draw is replaced by its
    # expectation.
    monkeypatch.setattr(
        alberdice, "resample", lambda key, weight: (jnp.arange(len(weight)), weight)
    )
    settings = {"initial": "first", "conservative": 0.3, "penalty": 0.2, "gamma": 0.8}
    n, agent, alpha, key = 3, 1, 0.7, jax.random.key(0)
    with jax.enable_x64(True):
        m, batch = method_of(n, **settings), batch_of(n)
        state, rows = start(m), toys.rows_of(batch)
        nets = jax.tree.map(jnp.asarray, toys.part(state.nets, agent))

        @jax.jit
        def run(batch: Transition) -> Any:
            rows = flatten(batch)
            log_pi = jax.nn.log_softmax(m.actors.outputs(state.nets.policy, rows)[0])
            log_mu = jax.nn.log_softmax(m.behaviour.outputs(state.behaviour_policy, rows)[0])
            sample, by_draws = (
                alberdice.draw_sample(of, nets, agent, batch, log_pi, log_mu, key)
                for of in (m, method_of(n, samples=5000))
            )
            mu_loss = alberdice.behaviour_step(m, state, rows)[1]
            grads, told = jax.grad(alberdice.agent_losses, argnums=1, has_aux=True)(
                m, nets, agent, sample, alpha
            )
            return by_draws.divergence, mu_loss, sample, grads, told

        drawn, mu_loss, sample, grads, told = run(jax.tree.map(jnp.asarray, batch))
        from_data = alberdice.dual_losses(
            method_of(n, **settings | {"initial": "data"}), nets.dual, sample, alpha
        )[0]
    pi, mu = probabilities(state, rows, n)
    pair = tuple(map(np.asarray, sample.pair))
    c = {"alpha": alpha, "absorbing": ref.absorbing_count(rows, 5), "pair": pair, **settings}
    nets_np = [toys.layers_of(net) for net in nets]
    c, losses = numpy_losses(nets_np, rows, agent, pi, mu, c)

    assert c["absorbing"] == 2 + 2 + 3  # episodes 0 and 2 end after 3 of 5 steps, episode 4 after 2
    np.testing.assert_allclose(sample.ratio, c["counts"], rtol=1e-9)
    np.testing.assert_allclose(sample.divergence, c["divergence"], rtol=1e-9)
    # 5000 draws of standard deviation about 1: five errors are .07
    np.testing.assert_allclose(drawn, c["divergence"], atol=0.1)
    of_data = np.take_along_axis(mu, rows["actions"][..., None], -1)[rows["valid"] > 0]
    assert float(mu_loss) == pytest.approx(-np.log(of_data).mean(), rel=1e-9)
    assert float(from_data) == pytest.approx(
        ref.dual(nets_np[2], rows, c | {"initial": "data"})[0], rel=1e-9
    )
    names = {"policy": "policy", "critic": "value", "dual": "dual", "teammates": "teammates"}
    for k, (net, loss) in enumerate(losses.items()):
        assert float(told[names[net]]) == pytest.approx(loss(nets_np[k]), rel=1e-9), net
        difference, way = toys.slope(loss, nets_np[k], k)
        found = toys.along(toys.layers_of(grads[k]), way)
        assert found == pytest.approx(difference, rel=1e-5, abs=1e-7), net


# ------------------------------------------------------------------------------------ absorbing
# state


# the last is cut
EPISODES = [
    [(0, 1.0, 1), (1, -0.5, -1)],
    [(0, 0.2, 2), (2, 0.3, 1), (1, 0.1, -1)],
    [(2, 0.0, 0), (0, 0.4, 1)],
]


@functools.partial(jax.jit, static_argnums=1)
def tabular(nu: Any, limit: int, alpha: float, gamma: float) -> Any:
    """Dual of EPISODES with ratio 1 by our formulas, nu [S]."""
    steps = [(k, *step) for episode in EPISODES for k, step in enumerate(episode)]
    before, state, reward, after = (jnp.asarray(x) for x in zip(*steps, strict=True))
    ended = (after < 0).astype(float)
    value, ones = nu[state], jnp.ones(len(steps))
    hat = stationary.dual_advantage(reward, ended, value, nu[after], 0 * reward, alpha, gamma)
    absorbing = stationary.absorbing_steps(ended, ones, before, limit).sum()
    loss = stationary.dual_loss(hat, ones, jnp.float32(1), jnp.sum(ones), absorbing, alpha)
    return loss + (1 - gamma) * value.sum() / (len(steps) + absorbing)


@pytest.mark.parametrize("constant", [0.0, -3.0])
def test_absorbing_steps_equal_episodes_that_are_filled_up(constant):
    # Written out, 5 + 4 + 2 steps of which 3 + 3... : whatever nu is in the absorbing state, only
    # differences to it count.
    nu = np.array([0.3, -1.0, 0.8])
    filled = ref.filled_dual(nu + constant, constant, EPISODES, 5, alpha=0.5, gamma=0.9)
    assert float(tabular(jnp.asarray(nu), 5, 0.5, 0.9)) == pytest.approx(filled, rel=1e-5)


def test_filled_episodes_have_all_steps_and_no_end():
    # Lengths 3, 2 and 3 (cut, so not filled) with limit 5: ends are followed by 2 and 3 steps; one
    # that ends at 5 by one.
    ended, valid = jnp.array([1.0, 1, 0, 1, 1]), jnp.array([1.0, 1, 1, 1, 0])
    found = stationary.absorbing_steps(ended, valid, jnp.array([2, 1, 2, 4, 0]), 5)
    np.testing.assert_array_equal(found, [2, 3, 0, 1, 0])


def test_gradient_of_the_dual_is_the_residual_of_the_flow():
    # w = exp(e^ / alpha) / sum is a distribution over steps. d loss / d nu(s) = (1 - gamma) p0(s) +
    # gamma * w into s - w out of s: zero where w is stationary. Without the gradient through nu(s')
    # the middle term would be missing.
    nu, alpha, gamma, limit = np.array([0.3, -1.0, 0.8]), 0.5, 0.9, 5
    steps = [step for episode in EPISODES for step in episode]
    value = lambda s: 0.0 if s < 0 else nu[s]
    weight = np.array(
        [np.exp((r + gamma * value(after) - value(s)) / alpha) for s, r, after in steps]
    )
    total = weight.sum() + 5  # 3 + 2 absorbing steps with e^ = 0
    residual = np.zeros(3)
    for (s, _, after), w in zip(steps, weight / total, strict=True):
        residual[s] += (1 - gamma) / (len(steps) + 5) - w
        if after >= 0:
            residual[after] += gamma * w
    np.testing.assert_allclose(
        jax.grad(tabular)(jnp.asarray(nu), limit, alpha, gamma), residual, rtol=1e-4, atol=1e-6
    )


def test_dual_falls_to_a_stationary_distribution():
    # Gradient descent on three numbers: the loss falls in every step, and the residual of the flow
    # vanishes.
    def step(nu: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        loss, grad = jax.value_and_grad(tabular)(nu, 5, 0.5, 0.9)
        return nu - 1.0 * grad, loss

    nu, losses = jax.jit(lambda nu: jax.lax.scan(step, nu, None, 2000))(jnp.array([0.3, -1.0, 0.8]))
    assert (np.diff(losses) <= 1e-6).all()
    assert np.abs(jax.grad(tabular)(nu, 5, 0.5, 0.9)).max() < 1e-5


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_vanishing_temperature_does_not_overflow(sign):
    # exp(10 / .001) overflows; in logarithms the loss is the largest e^, and its gradient is one.
    counts, hat = jnp.array([1.0, 1.0, 0.0]), sign * jnp.array([10.0, -10.0, 1e3])
    loss, grad = jax.value_and_grad(stationary.dual_loss)(
        hat, counts, jnp.float32(1), jnp.float32(2), jnp.float32(0), 1e-3
    )
    assert float(loss) == pytest.approx(10.0, abs=1e-2)
    np.testing.assert_allclose(grad, [float(sign > 0), float(sign < 0), 0.0], atol=1e-6)


# -------------------------------------------------------------------------------------------
# formulas


def test_ratio_is_by_the_conditional_model():
    # XOR (c): mu(a_1 | A) = (1/2, 1/2), mu(a_1 | B) = (1, 0); pi_1 uniform. Rows AA, AB, BA: 1, 1,
    # 1/2. By the marginal (2/3, 1/3) it would be .75, 1.5, .75.
    log_pi = jnp.log(jnp.full((3, 2), 0.5))
    log_mates = jnp.log(jnp.array([[1.0, 0.5], [1.0, 0.5], [1.0, 1.0]]))
    np.testing.assert_allclose(stationary.joint_ratio(log_pi, log_mates, 0), [1, 1, 0.5], rtol=1e-6)


def test_ratio_multiplies_teammates_and_is_bounded():
    # Agent 1 of 3: (.5 / .25) * (.9 / .3) = 6; with 1e-6 in place of .3 it would be 1.8e6.
    log_pi, log_mates = (
        jnp.log(jnp.array([0.5, 0.1, 0.9])),
        jnp.log(jnp.array([[0.25, 1.0, 0.3], [0.25, 1.0, 1e-6]])),
    )
    np.testing.assert_allclose(
        stationary.joint_ratio(jnp.stack([log_pi] * 2), log_mates, 1), [6, 100], rtol=1e-5
    )


def test_sampled_divergence_has_the_exact_mean():
    # 2e4 draws of log(pi / mu), of standard deviation about .6: five errors of the mean are .02.
    log_pi = jnp.log(jnp.array([[0.2, 0.8, 1e-30], [0.5, 0.25, 0.25]]))
    log_mu = jnp.log(jnp.array([[0.5, 0.4, 0.1], [0.1, 0.1, 0.8]]))
    exact = 0.2 * np.log(0.2 / 0.5) + 0.8 * np.log(0.8 / 0.4)
    assert float(stationary.teammate_divergence(log_pi, log_mu, 1)) == pytest.approx(
        exact, rel=1e-5
    )
    assert float(
        stationary.sampled_divergence(jax.random.key(0), log_pi, log_mu, 1, 20000)
    ) == pytest.approx(exact, abs=0.02)


def test_policy_loss_is_least_at_mu_times_exp_e():
    # pi ~ mu exp(e / alpha) over available actions: the gradient there is zero.
    e, log_mu, alpha = jnp.array([1.0, -0.5, 3.0]), jnp.log(jnp.array([0.3, 0.7, 1e-30])), 0.5
    best = jnp.array([np.log(0.3) + 2.0, np.log(0.7) - 1.0, -1e10])
    np.testing.assert_allclose(
        jax.grad(stationary.improvement_loss)(best, e, log_mu, alpha), 0, atol=1e-6
    )
    assert float(stationary.improvement_loss(best, e, log_mu, alpha)) == pytest.approx(
        -alpha * np.log(0.3 * np.exp(2) + 0.7 * np.exp(-1)), rel=1e-5
    )


def test_conservative_term_is_against_the_behaviour_policy():
    # e = (1, 2, 9), action 2 unavailable, mu = (.5, .5): log(e + e^2) - 1.5 = .8133; squared error
    # (1 - 3)^2 = 4.
    loss = stationary.advantage_loss(
        jnp.array([1.0, 2.0, 9.0]),
        jnp.float32(3),
        jnp.int32(0),
        jnp.array([np.log(0.5)] * 2 + [-1e10]),
        jnp.array([1.0, 1, 0]),
        0.1,
    )
    assert float(loss) == pytest.approx(4 + 0.1 * (np.log(np.exp(1) + np.exp(2)) - 1.5), rel=1e-5)


def test_penalty_of_a_square_is_its_slope_between_the_states():
    # value |x|^2, gradient 2 x: at x = .25 (4, 0) + .75 (0, 4) = (1, 3) it is 4 (1 + 9) = 40.
    found = stationary.gradient_penalty(
        lambda x: jnp.sum(x**2, -1),
        jnp.array([[4.0, 0.0]]),
        jnp.array([[0.0, 4.0]]),
        jnp.array([0.25]),
    )
    np.testing.assert_allclose(found, [40.0], rtol=1e-6)


def test_penalty_pairs_halves_of_the_batch_at_one_permutation_of_times():
    batch = batch_of(2)
    one, other, _, real = alberdice.pairs_of_states(
        jax.random.key(0), jax.tree.map(jnp.asarray, batch)
    )
    np.testing.assert_allclose(np.asarray(one).reshape(3, T, -1), batch.state[:3], rtol=1e-6)
    turned = np.asarray(other).reshape(3, T, -1)
    order = [int(np.argmin(np.abs(batch.state[3] - turned[0, t]).sum(-1))) for t in range(T)]
    assert sorted(order) == list(range(T))
    np.testing.assert_allclose(turned, batch.state[3:][:, order], rtol=1e-6)
    np.testing.assert_array_equal(
        np.asarray(real).reshape(3, T), batch.valid[:3] * batch.valid[3:][:, order]
    )


def test_single_steps_are_paired_as_windows_of_one_step():
    steps = jax.tree.map(lambda x: jnp.asarray(x)[:, 0], batch_of(2))
    windows = jax.tree.map(lambda x: x[:, None], steps)
    for one, two in zip(
        *(alberdice.pairs_of_states(jax.random.key(0), x) for x in (steps, windows)), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_teammate_tables_are_distributions_that_hold_the_probability_of_the_data():
    model, batch = TeammateModel(spec_of(3), 4), toys.rows_of(batch_of(3))
    params = toys.part(jax.jit(model.init)(jax.random.key(0)), 1)
    arguments = [jnp.asarray(batch[name]) for name in ("state", "actions", "avail")]
    tables, taken = jax.jit(
        lambda *x: (model.log_probs(params, 1, *x), model.log_prob(params, 1, *x))
    )(*arguments)
    np.testing.assert_allclose(np.exp(tables[:, [0, 2]]).sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        np.take_along_axis(np.asarray(tables), batch["actions"][..., None], -1)[..., 0], taken
    )
    np.testing.assert_array_equal(taken[:, 1], 0)


# -------------------------------------------------------------------------------------- whole
# updates


@functools.cache
def compiled() -> Any:
    """update(lr, state, batch) of two agents with limit 2, and a first state."""

    def update(lr: Any, state: alberdice.State, batch: Transition) -> Any:
        config = alberdice.Config(**DEFAULTS | {"lr": lr, "limit": 2})
        return alberdice.make(config, spec_of(2)).update(state, batch, jax.random.key(0))

    return jax.jit(update), jax.jit(lambda key: alberdice.first_state(method_of(2), key))(
        jax.random.key(0)
    )


def test_what_follows_the_limit_changes_nothing():
    (update, state), batch = compiled(), toys.single(batch_of(2))
    off = (batch.valid == 0) | (batch.steps_before >= 2)
    assert int((off & (batch.valid > 0)).sum()) == 4
    noise = {
        "obs": jnp.where(off[..., None, None], 7.0, batch.obs),
        "state": jnp.where(off[..., None], 5.0, batch.state),
        "next_state": jnp.where(off[..., None], -7.0, batch.next_state),
        "reward": jnp.where(off, 1e6, batch.reward),
        "terminated": jnp.where(off, 1.0, batch.terminated),
        "actions": jnp.where(off[..., None], 2, batch.actions),
        "avail": jnp.where(off[..., None, None], 0.0, batch.avail),
    }
    clean, _ = update(0.01, state, batch)
    noisy, _ = update(0.01, state, batch._replace(**noise))
    np.testing.assert_array_equal(toys.flat(clean), toys.flat(noisy))


def test_first_steps_move_every_net_by_the_whole_rate_and_the_second_agent_sees_the_first_one():
    # Adam's first step is lr * sign(gradient). The second agent's ratio is by the policy that was
    # just stepped: with lr = 0 it is by the first one.
    (update, state), batch = compiled(), toys.single(batch_of(2))
    after, out = update(0.01, state, batch)
    for new, old in zip(after.nets, state.nets, strict=True):
        for agent in range(2):
            moved = np.abs(toys.flat(toys.part(new, agent)) - toys.flat(toys.part(old, agent)))
            assert moved.max() == pytest.approx(0.01, rel=1e-3)
    still, told = update(0.0, state, batch)
    np.testing.assert_array_equal(toys.flat(still.nets), toys.flat(state.nets))
    assert abs(float(out.metrics["effective_rows"]) - float(told.metrics["effective_rows"])) > 1e-4


def test_alpha_decays_exponentially():
    # 5 -> .05 over 100 updates: half way is their geometric mean .5.
    config = alberdice.Config(alpha_start=5.0, alpha_end=0.05, steps=100)
    np.testing.assert_allclose(
        [alberdice.alpha_at(config, jnp.array(k)) for k in (0, 50, 100)], [5, 0.5, 0.05], rtol=1e-5
    )


def test_first_policies_hardly_depend_on_what_they_see():
    # Head weights within .001; the bias is PyTorch's, so that a policy is not uniform.
    _, state = compiled()
    m, batch = method_of(2), toys.single(batch_of(2))
    probs = np.asarray(jax.nn.softmax(m.actors.outputs(state.nets.policy, batch)[0]))[1::2]
    np.testing.assert_allclose(probs, np.broadcast_to(probs[:1], probs.shape), atol=2e-3)
    assert np.abs(probs - 1 / 3).max() > 5e-3


def test_an_end_that_comes_after_the_limit_is_none():
    # Bridge data mark their own time limit, step 50, as terminal; the environment's is 20. Such an
    # episode has no end, and so no absorbing steps; the 8 steps of an optimal one are followed by
    # 12.
    before, ended = (
        jnp.tile(jnp.arange(50), (2, 1)),
        jnp.zeros((2, 50)).at[0, 49].set(1.0).at[1, 7].set(1.0),
    )
    batch = Transition(*[jnp.zeros((2, 50))] * 13)
    batch = batch._replace(
        terminated=ended, valid=(before < jnp.array([[50], [8]])).astype(float), steps_before=before
    )
    batch = alberdice.with_limit(batch, 20)
    np.testing.assert_array_equal(batch.valid.sum(1), [20, 8])
    found = stationary.absorbing_steps(batch.terminated, batch.valid, batch.steps_before, 20)
    np.testing.assert_array_equal(found.sum(1), [0, 12])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"initial": "all"}, "field 'initial': expected one of data, first, found 'all'"),
        ({"samples": -1}, "field 'samples': expected at least 0, found -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        alberdice.make(checked(alberdice.Config(**config)), spec_of(2))


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="expected discrete actions"):
        alberdice.make(alberdice.Config(), EnvSpec("real", 2, 1, 1, 1, False, 1))


def test_one_agent_is_refused():
    with pytest.raises(ValueError, match="expected at least 2 agents, found 1"):
        alberdice.make(alberdice.Config(), EnvSpec("alone", 1, 1, 1, 2, True, 1))


@functools.cache
def solver() -> Any:
    """policies(dataset, conservative) [2, A] of two agents in one state; one program for datasets
    of one size.
    """
    spec = make_matrix("xor", XOR).spec
    base = alberdice.Config(
        hidden=16, lr=5e-3, alpha_start=1.0, alpha_end=0.05, steps=800, batch_size=128
    )
    sampler = samplers.uniform(base.batch_size)

    @jax.jit
    def program(dataset: Dataset, conservative: jax.Array) -> jax.Array:
        learner = alberdice.make(base.replace(conservative=conservative), spec)

        def step(state: Any, key: jax.Array) -> Any:
            draw_key, update_key = jax.random.split(key)
            return learner.update(
                state, sampler.gather(dataset, sampler.draw((), dataset, draw_key)), update_key
            )[0], ()

        state, _ = lax.scan(
            step, learner.init(jax.random.key(0)), jax.random.split(jax.random.key(1), base.steps)
        )
        return learner.policy(state).distribution((), toys.seen(spec))[1].probs

    return spec, program


@pytest.mark.parametrize(("data", "conservative"), [("a", 0.1), ("b", 0.0), ("c", 0.0), ("d", 0.1)])
def test_xor_is_solved(data, conservative):
    # The optimum is 1; cloning gets 1 on (a), where all that matters is not to leave the data, 0 on
    # (b), 2/9 on (c), 0 on (d).
    spec, program = solver()
    policies = program(place(recipes.xor(data, episodes=600), spec), jnp.float32(conservative))
    joint = np.asarray(joint_probabilities(policies))
    assert float((joint * XOR).sum()) >= 0.95
