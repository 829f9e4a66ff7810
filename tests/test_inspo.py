"""InSPO: whole iterations against float64 NumPy, the traps of its formulas, and trained policies
against exact theory.
"""

from __future__ import annotations

import collections
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxoff.baselines import inspo
from jaxoff.experiments.inspo import tabular

from jaxoff.config import checked
from jaxoff.data import recipes, samplers
from jaxoff.data.dataset import Dataset, place
from jaxoff.data.episodes import lengths_of
from jaxoff.envs.games.matrix import XOR, joint_probabilities, make_matrix, mne
from jaxoff.nets.actors import Actors
from jaxoff.nets.mlp import MLP
from jaxoff.training import TrainSpec, train
from jaxoff.types import EnvSpec, Episodes, Transition
from tests import toys
from tests.reference import inspo_numpy as ref

LENGTHS, T, A = (3, 3, 3, 3, 2, 1), 3, 3
DEFAULTS: dict[str, Any] = {
    "hidden": 8,
    "steps": 100,
    "behaviour_steps": 100,
    "start_from_behaviour": False,
    "window": -1,
}


# ----------------------------------------------------------------------------------- small problems


def spec_of(n: int) -> EnvSpec:
    return toys.spec_of(num_agents=n, horizon=T)


def start(n: int, double: bool = False, **config: Any) -> tuple[Any, inspo.State]:
    """The main learner and a start whose nets are far enough apart for every term to count."""
    behaviour, main = inspo.make(inspo.Config(**DEFAULTS | config), spec_of(n))
    fitted = jax.jit(behaviour.learner.init)(jax.random.key(1))
    state = jax.jit(lambda fitted: main.prepare(fitted, None, jax.random.key(2)))(fitted)
    if double:
        state = toys.double(state)
    return main.learner, state


def agents_of(state: inspo.State, config: inspo.Config) -> list[dict[str, Any]]:
    """The same start, for the NumPy iteration."""
    own, lr, norm = state.own, float(config.lr), float(config.max_grad_norm)
    return [
        {
            "policy": toys.layers_of(own.policy, i),
            "critic": toys.layers_of(own.critic, i),
            "target": toys.layers_of(own.target_critic, i),
            "mu": toys.layers_of(state.behaviour_policy, i),
            "mates": toys.layers_of(state.teammates, i),
            "alpha": float(np.exp(own.log_alpha[i])),
            "policy_opt": ref.Adam(lr, norm),
            "critic_opt": ref.Adam(lr, norm),
        }
        for i in range(len(own.log_alpha))
    ]


def expected_counts(key: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """In place of a draw: its expectation, up to a factor that every loss divides by."""
    return jnp.arange(weight.shape[0]), weight


@pytest.mark.parametrize(
    ("n", "order", "config"),
    [
        (3, (2, 0, 1), {"max_grad_norm": 0.05, "polyak": 0.2, "cql": 0.3}),
        (
            2,
            (1, 0),
            {
                "baseline": "soft",
                "normalise": False,
                "ratio_power": "n",
                "gamma": 0.5,
                "spo": "off_stale",
                "lr": 0.05,
            },
        ),
    ],
    ids=["three agents, clipped gradients", "soft baseline, not normalised, 1/n, stale teammates"],
)
def test_iterations_equal_float64_numpy(monkeypatch, n, order, config):
    # Two whole iterations in double precision, with padding and unavailable actions: every
    # parameter to 1e-7.
    monkeypatch.setattr(inspo, "resample", expected_counts)
    monkeypatch.setattr(inspo, "update_order", lambda key, kind, scores: jnp.array(order))
    full = inspo.Config(**DEFAULTS | {"lr": 0.01, "alpha": 0.3, "beta_start": 0.2} | config)
    with jax.enable_x64(True):
        learner, state = start(
            n, double=True, **{"lr": 0.01, "alpha": 0.3, "beta_start": 0.2} | config
        )
        agents, batch = agents_of(state, full), toys.batch_of(spec_of(n), LENGTHS)
        update = jax.jit(learner.update)
        for number in range(2):
            state, out = update(state, batch, jax.random.key(0))
            beta = 0.2 * (0.001 / 0.2) ** (number / 100)
            told = ref.iteration(
                agents,
                toys.rows_of(batch),
                list(order),
                beta,
                gamma=full.gamma,
                tau=full.polyak,
                cql=full.cql,
                power=n - 1 if full.ratio_power == "n-1" else n,
                normalise=full.normalise,
                baseline=full.baseline,
                spo=full.spo,
            )
            for name, value in told.items():
                assert float(out.metrics[name]) == pytest.approx(value, rel=1e-6), name
        for i, agent in enumerate(agents):
            for name, params in (
                ("policy", state.own.policy),
                ("critic", state.own.critic),
                ("target", state.own.target_critic),
            ):
                for layer, wanted in zip(toys.layers_of(params, i), agent[name], strict=True):
                    for x, y in zip(layer, wanted, strict=True):
                        np.testing.assert_allclose(
                            x, y, rtol=1e-5, atol=1e-7, err_msg=f"{name} of agent {i}"
                        )


def test_numpy_policy_gradient_equals_finite_differences():
    # The derivation above by hand, itself checked: (f(x + h) - f(x - h)) / 2h of a weighted
    # likelihood.
    rng = np.random.default_rng(0)
    net = [
        (rng.normal(size=(2, 4)), rng.normal(size=4)),
        (rng.normal(size=(4, 3)), rng.normal(size=3)),
    ]
    x, actions, weight = rng.normal(size=(7, 2)), rng.integers(0, 3, 7), rng.random(7)

    def loss(at: np.ndarray) -> float:
        log_pi = ref.log_softmax(ref.forward([(at, net[0][1]), net[1]], x)[0])
        return -(weight * log_pi[np.arange(7), actions]).sum()

    out, inputs = ref.forward(net, x)
    grad = ref.backward(
        net, inputs, weight[:, None] * (np.exp(ref.log_softmax(out)) - np.eye(3)[actions])
    )
    steps = 1e-6 * np.eye(8).reshape(8, 2, 4)
    differences = [(loss(net[0][0] + s) - loss(net[0][0] - s)) / 2e-6 for s in steps]
    np.testing.assert_allclose(grad[0][0].ravel(), differences, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------- one
# iteration


@functools.cache
def compiled(**switches: Any):
    """update(config leaves, state, batch, key) of two agents, compiled once for each combination of
    switches.
    """
    static = DEFAULTS | {"order": "fixed"} | switches

    @jax.jit
    def update(leaves: dict[str, Any], state: inspo.State, batch: Transition, key: jax.Array):
        return inspo.make(inspo.Config(**static | leaves), spec_of(2))[1].learner.update(
            state, batch, key
        )

    return update


@functools.cache
def first_state(start_from_behaviour: bool = False) -> inspo.State:
    return start(2, start_from_behaviour=start_from_behaviour)[1]


def stepper(start_from_behaviour: bool = False, **config: Any):
    """A compiled update of two agents in fixed order, its start, and a batch."""
    static = {k: v for k, v in config.items() if isinstance(v, str | bool)}
    leaves = {k: jnp.float32(v) for k, v in config.items() if k not in static}
    all_leaves = {
        "lr": 3e-4,
        "gamma": 0.99,
        "beta_start": 0.1,
        "cql": 0.1,
        "lr_alpha": 3e-4,
        "alpha_target": 0.2,
    } | leaves
    return (
        functools.partial(compiled(**static), all_leaves),
        first_state(start_from_behaviour),
        toys.batch_of(spec_of(2), LENGTHS),
    )


def test_drawn_rows_and_their_counts_are_the_same_update():
    # Equal draws: a mean over drawn rows is a mean over rows weighted by how often each was drawn.
    update, state, batch = stepper()
    by_rows, _, _ = stepper(resample="rows")
    weights, rows = (f(state, batch, jax.random.key(3)) for f in (update, by_rows))
    for name in ("value", "policy", "divergence"):
        assert float(weights[1].metrics[name]) == pytest.approx(
            float(rows[1].metrics[name]), rel=1e-5
        )
    np.testing.assert_allclose(
        toys.flat(weights[0].own.policy), toys.flat(rows[0].own.policy), atol=2e-6
    )
    np.testing.assert_allclose(
        toys.flat(weights[0].own.critic), toys.flat(rows[0].own.critic), atol=2e-6
    )


def test_without_tracking_every_valid_row_counts_alike():
    # (sum m)^2 / sum m^2 = 15 valid rows of 18; with tracking the ratios differ, so there are
    # effectively fewer.
    update, state, batch = stepper(spo="off_rho1")
    assert float(
        update(state, batch, jax.random.key(0))[1].metrics["effective_rows"]
    ) == pytest.approx(15)
    update, state, batch = stepper()
    assert float(update(state, batch, jax.random.key(0))[1].metrics["effective_rows"]) < 14.999


def test_later_agents_see_stepped_policies_unless_stale():
    # Fixed order: agent 0 meets the same teammates either way; agent 1 sees agent 0 stepped, or as
    # it was.
    results = {}
    for spo in ("on", "off_stale"):
        update, state, batch = stepper(spo=spo, lr=0.05)
        after, _ = update(state, batch, jax.random.key(0))
        results[spo] = [toys.flat(jax.tree.map(lambda x, i=i: x[i], after.own)) for i in range(2)]
    # two programs: to rounding
    np.testing.assert_allclose(results["on"][0], results["off_stale"][0], rtol=1e-5, atol=1e-7)
    assert np.abs(results["on"][1] - results["off_stale"][1]).max() > 0


@pytest.mark.parametrize("alpha", [1e-3, 100.0])
def test_extreme_temperatures_and_rewards_stay_finite(alpha):
    # alpha + beta = .001 and advantages of a thousand: the exponent is clipped before exp.
    update, state, batch = stepper()
    state = state._replace(
        own=state.own._replace(log_alpha=jnp.full(2, jnp.log(alpha))), updates=jnp.array(100)
    )
    batch = batch._replace(reward=1e3 * jnp.asarray(batch.reward))
    for number in range(3):
        state, out = update(state, batch, jax.random.key(number))
    assert np.isfinite(toys.flat(state.own)).all()
    assert all(np.isfinite(float(x)) for x in out.metrics.values())


def test_bridge_marks_the_time_limit_terminated():
    # Of 50 random steps few solve it: each episode still ends terminated, at its last step, and
    # none truncated.
    data = recipes.bridge("random", episodes=20)
    lengths = lengths_of(data)
    assert (lengths == 50).any()
    assert np.asarray(data.terminated)[np.arange(20), lengths - 1].all()
    assert not np.asarray(data.truncated).any()


def test_the_slot_after_the_last_step_is_never_a_row():
    # An episode of L steps has L + 1 slots; what a learner is given as valid are the L steps.
    data = recipes.bridge("optimal", episodes=4)
    dataset = place(data, recipes.make_bridge().spec)
    batch = toys.window(dataset, dataset.episode_row, 12)
    np.testing.assert_array_equal(batch.valid.sum(1), lengths_of(data))
    assert int(dataset.num_steps) == int(lengths_of(data).sum())


# -------------------------------------------------------------------------------------------
# schedules


def test_beta_decays_exponentially():
    # .1 -> .001 over 100 updates: half way is their geometric mean .01.
    config = inspo.Config(beta_start=0.1, beta_end=0.001, steps=100)
    np.testing.assert_allclose(
        [inspo.beta_at(config, jnp.array(k)) for k in (0, 50, 100)], [0.1, 0.01, 0.001], rtol=1e-5
    )


def test_beta_without_entropy_stays_zero():
    config = inspo.Config(beta_start=0.0, beta_end=0.001, steps=100)
    assert [float(inspo.beta_at(config, jnp.array(k))) for k in (0, 50, 100)] == [0.0, 0.0, 0.0]


def auto_alpha(alpha: float, target: float, pull: float = 1.0) -> float:
    """alpha of agent 0 after one update with lr_alpha = .1; pull scales pi's weights, so that it
    leaves mu.
    """
    update, state, batch = stepper(
        auto_alpha=True, start_from_behaviour=True, lr_alpha=0.1, alpha_target=target
    )
    own = state.own._replace(
        policy=jax.tree.map(lambda x: pull * x, state.own.policy),
        log_alpha=jnp.full(2, jnp.log(alpha)),
    )
    after, out = update(state._replace(own=own), batch, jax.random.key(0))
    assert (float(out.metrics["divergence"]) > target) == (pull > 1)
    return float(jnp.exp(after.own.log_alpha[0]))


def test_automatic_alpha_falls_while_the_policy_is_close_to_the_data():
    # pi = mu: KL = 0 < .2. Adam's first step is the whole rate, so log alpha moves by -.1.
    assert auto_alpha(1.0, target=0.2) == pytest.approx(np.exp(-0.1), rel=1e-4)


def test_automatic_alpha_grows_once_the_policy_is_too_far():
    assert auto_alpha(1.0, target=0.2, pull=4.0) == pytest.approx(np.exp(0.1), rel=1e-4)


def test_automatic_alpha_is_clamped():
    assert auto_alpha(1e-3, target=0.2) == pytest.approx(1e-3, rel=1e-5)
    assert auto_alpha(100.0, target=0.2, pull=4.0) == pytest.approx(100.0, rel=1e-5)


def orders(kind: str, scores: list[float], count: int = 6000) -> collections.Counter:
    keys = jax.random.split(jax.random.key(0), count)
    drawn = jax.jit(jax.vmap(lambda key: inspo.update_order(key, kind, jnp.array(scores))))(keys)
    return collections.Counter(map(tuple, np.asarray(drawn).tolist()))


def test_fixed_order_is_by_number():
    assert orders("fixed", [1.0, 3.0, 2.0], 10) == {(0, 1, 2): 10}


def test_random_order_is_uniform_over_permutations():
    # 6000 draws, 6 orders: 1000 each, standard deviation sqrt(6000 * 1/6 * 5/6) = 29; five of them
    # are 144.
    counts = orders("random", [1.0, 3.0, 2.0])
    assert set(counts) == set(itertools.permutations(range(3)))
    assert max(abs(c - 1000) for c in counts.values()) < 144


def test_semi_greedy_order_takes_the_largest_score_at_even_places():
    # Scores 1, 3, 2, 0: first agent 1; then one of 0, 2, 3 at random; then the largest left; then
    # the last.
    counts = orders("semi-greedy", [1.0, 3.0, 2.0, 0.0])
    assert set(counts) == {(1, 0, 2, 3), (1, 2, 0, 3), (1, 3, 2, 0)}
    assert max(abs(c - 2000) for c in counts.values()) < 5 * np.sqrt(6000 * 2 / 9)


def test_semi_greedy_scores_are_mean_absolute_advantages():
    # By NumPy: mean over valid rows of |q(a) - sum pi q| of each agent.
    config, state, batch = (
        inspo.Config(**DEFAULTS, order="semi-greedy"),
        first_state(),
        toys.batch_of(spec_of(2), LENGTHS),
    )
    method = inspo.Method(
        config, spec_of(2), Actors(spec_of(2), 8), None, MLP((8, 8, A)), None, None
    )
    found = jax.jit(lambda state, batch: inspo.advantage_size(method, state, batch))(state, batch)
    rows, wanted = toys.rows_of(batch), []
    for i, agent in enumerate(agents_of(state, config)):
        q = ref.forward(agent["target"], rows["state"])[0]
        pi = np.exp(
            ref.log_softmax(ref.forward(agent["policy"], rows["obs"][:, i])[0], rows["avail"][:, i])
        )
        size = np.abs(q[np.arange(len(q)), rows["actions"][:, i]] - (pi * q).sum(1))
        wanted.append((size * rows["valid"]).sum() / rows["valid"].sum())
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


# ------------------------------------------------------------------------------------------
# settings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"order": "greedy"},
            "field 'order': expected one of random, fixed, semi-greedy, found 'greedy'",
        ),
        ({"spo": "off"}, "field 'spo': expected one of on, off_rho1, off_stale, found 'off'"),
        ({"recurrent": True}, "recurrent=true: expected window != 0"),
        (
            {"recurrent": True, "window": -1, "resample": "rows"},
            "recurrent=true: expected window != 0",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        inspo.make(checked(inspo.Config(**config)), spec_of(2))


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="expected discrete actions"):
        inspo.make(inspo.Config(), EnvSpec("real", 2, 1, 1, 1, False, 1))


# --------------------------------------------------------------------- trained, against exact
# theory


def learn(
    data: list[Episodes], spec: EnvSpec, seeds: int, behaviour_steps: int, **config: Any
) -> np.ndarray:
    """Policies [datasets, seeds, N, A], mean over the last half of the updates; one program for
    datasets of one shape.
    """
    settings = inspo.Config(
        **{"hidden": 32, "polyak": 0.05, "behaviour_steps": behaviour_steps} | config
    )
    sampler = samplers.uniform(settings.batch_size)

    def one(key: jax.Array, dataset: Dataset) -> jax.Array:
        fit_key, train_key, prepare_key = jax.random.split(key, 3)
        behaviour, main = inspo.make(settings, spec)

        def run(learner, state, steps, key):
            def step(state, key):
                draw_key, update_key = jax.random.split(key)
                state, _ = learner.update(
                    state, sampler.gather(dataset, sampler.draw((), dataset, draw_key)), update_key
                )
                return state, learner.policy(state).distribution((), toys.seen(spec))[1].probs

            return lax.scan(step, state, jax.random.split(key, steps))

        fitted, _ = run(
            behaviour.learner, behaviour.learner.init(prepare_key), behaviour_steps, fit_key
        )
        _, policies = run(
            main.learner, main.prepare(fitted, dataset, prepare_key), settings.steps, train_key
        )
        return policies[settings.steps // 2 :].mean(0)

    program = jax.jit(lambda keys, dataset: lax.map(lambda key: one(key, dataset), keys))
    keys = jax.random.split(jax.random.key(0), seeds)
    return np.stack([program(keys, place(episodes, spec)) for episodes in data])


def episodes_of(payoff: np.ndarray, counts: np.ndarray) -> Episodes:
    """Every joint action as often as counts [A, A] say."""
    cells = np.array(
        [cell for cell, count in np.ndenumerate(counts) for _ in range(int(count))], np.int32
    )
    return recipes.replay(make_matrix("game", payoff), cells[:, None], jax.random.key(0))


def test_trained_policies_reach_the_equilibrium_of_theory(optimised):
    # M-NE, x = 0, alpha = 1, constant beta = 5. The data hold each joint action as often as mu_0
    # mu_1 says, of 1800, so mu is exact and the tabulated equilibria are those of these data. Not
    # normalised: dividing by a batch's own mean weight is a biased estimate: .022 to .049 in total
    # variation here, against .001 to .011 without.
    marginals = np.array([[1 / 3] * 3, [0.8, 0.1, 0.1]])
    data = [episodes_of(mne(0.0), np.round(1800 * np.outer(mu, mu))) for mu in marginals]
    found = learn(
        data,
        make_matrix("mne", mne(0.0)).spec,
        2,
        800,
        steps=2000,
        lr=1e-3,
        batch_size=512,
        patience=100,
        alpha=1.0,
        beta_start=5.0,
        beta_end=5.0,
        cql=0.0,
        normalise=False,
    )
    tabulated = np.array([[0.046, 0.048, 0.906], [0.071, 0.051, 0.878]])
    for policies, mu, row in zip(found, marginals, tabulated, strict=True):
        exact = tabular.fixed_point(mne(0.0), np.stack([mu, mu]), 1, 5)
        np.testing.assert_allclose(exact, np.stack([row, row]), atol=2e-3)
        distance = 0.5 * np.abs(policies - exact).sum(-1)  # [seeds, N]
        assert distance.max() < 0.02, distance


def xor_value(joint: np.ndarray) -> float:
    return float((joint * XOR).sum())


def test_trained_policies_on_xor_are_optimal_and_inside_the_data(optimised):
    # (b): AB, BA. (c): AA, AB, BA. The optimum is 1 and BC has 0 and 2/9; 600 episodes of each.
    data = [recipes.xor(name, episodes=600) for name in ("b", "c")]
    found = learn(
        data,
        make_matrix("xor", XOR).spec,
        2,
        300,
        steps=5000,
        lr=3e-3,
        alpha=0.05,
        beta_start=0.02,
        beta_end=0.001,
    )
    support = {"b": np.array([[0, 1], [1, 0]]), "c": np.array([[1, 1], [1, 0]])}
    for name, runs in zip("bc", found, strict=True):
        for policies in runs:
            joint = np.asarray(joint_probabilities(policies))
            assert xor_value(joint) >= 0.98, (name, joint)
            assert (joint * (1 - support[name])).sum() <= 0.01, (name, joint)


def test_training_without_teammate_tracking_leaves_the_data_on_xor_b():
    # Ablation of figure 5b, through the training loop: the marginals are uniform, so half of the
    # mass is on AA and BB.
    config = {"hidden": 32, "lr": 3e-3, "polyak": 0.05, "behaviour_steps": 200, "spo": "off_rho1"}
    results = train(
        TrainSpec("inspo", "matrix/xor/b", seeds=(0, 1), config=config, steps=400, evaluations=2)
    )
    joint = results.history["joint_policy"][-1]
    assert ((joint[:, 0, 0] + joint[:, 1, 1]) >= 0.3).all(), joint
    np.testing.assert_allclose(
        [run["exact_value"] for run in results.runs], [xor_value(j) for j in joint], atol=1e-5
    )
