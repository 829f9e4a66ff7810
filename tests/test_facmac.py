"""FACMAC: its losses and gradients against float64 NumPy, the traps of targets, masks and the joint
gradient, and two games.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxoff.baselines import facmac

from jaxoff.config import checked
from jaxoff.data import recipes, samplers
from jaxoff.data.dataset import place
from jaxoff.envs.games.matrix import XOR, make_matrix
from jaxoff.envs.games.polynomial import make_polynomial
from jaxoff.types import EnvSpec
from tests import toys
from tests.reference import deterministic_numpy as ref
from tests.reference import value_toys

KEY = jax.random.key(0)
SPEC = toys.spec_of(discrete=False)
SMALL: dict[str, Any] = {"hidden": 5, "critic_hidden": 5, "embed": 4, "hyper": 5, "gamma": 0.9}


@pytest.mark.parametrize("recurrent", [False, True])
def test_losses_and_gradients_equal_float64(recurrent):
    # Ragged windows, nonsense beyond them; a GRU sees the previous action, zero at first.
    with jax.enable_x64(True):
        config = facmac.Config(**SMALL, recurrent=recurrent, action_penalty=0.1)
        m, state = toys.shaken_state(facmac, config, SPEC, np.float64)
        batch = toys.batch_of(SPEC, bound=1.3)

        def losses(state: facmac.State, batch: Any) -> Any:
            critic = jax.value_and_grad(lambda p: facmac.critic_loss(m, p, state, batch)[0])(
                (state.critic, state.mixer)
            )
            return critic, jax.value_and_grad(
                lambda p: facmac.actor_loss(m, p, state.critic, state.mixer, batch)[0]
            )(state.policy)

        critic, actor = jax.jit(losses)(state, batch)
        rows = toys.arrays(batch)
        act = functools.partial(
            ref.policy_actions,
            batch=rows,
            recurrent=recurrent,
            numbered=True,
            last=True,
            activated=False,
        )
        slow, slow_next = (state.target_critic, state.target_mixer), act(state.target_policy)[1]
        of_critic = lambda p: ref.facmac_critic_loss(p, slow, slow_next, rows, 0.9)
        of_actor = lambda p: ref.facmac_actor_loss(act(p)[0], state.critic, state.mixer, rows, 0.1)
        for found, function, params in (
            (critic, of_critic, (state.critic, state.mixer)),
            (actor, of_actor, state.policy),
        ):
            assert float(found[0]) == pytest.approx(function(params), rel=1e-8)
            np.testing.assert_allclose(*toys.slopes(function, params, found[1], 2), rtol=1e-5)


# ------------------------------------------------------------------------------- targets, gradients


def test_the_target_is_mixed_at_the_next_state():
    m, state = toys.shaken_state(facmac, facmac.Config(**SMALL), SPEC)
    batch, target = toys.batch_of(SPEC), jax.jit(lambda batch: facmac.td_target(m, state, batch))
    np.testing.assert_array_equal(target(batch._replace(state=batch.state + 1)), target(batch))
    assert (
        np.abs(np.asarray(target(batch._replace(next_state=batch.next_state + 1)) - target(batch)))[
            batch.terminated == 0
        ].max()
        > 1e-3
    )


def test_the_policy_gradient_is_of_all_agents_at_once_and_of_policies_only():
    # The data's actions are no part of the policies' loss (beside `distance`), and their learning
    # rate moves no value.
    m, state = toys.shaken_state(facmac, facmac.Config(**SMALL), SPEC)
    batch, loss = (
        toys.batch_of(SPEC),
        jax.jit(lambda p, b: facmac.actor_loss(m, p, state.critic, state.mixer, b)[0]),
    )
    assert float(loss(state.policy, batch)) == float(
        loss(state.policy, batch._replace(actions=0 * batch.actions))
    )
    states = []
    for lr in (5e-4, 0.1):
        other = facmac.method_of(facmac.Config(**SMALL, lr=lr), SPEC)
        states.append(jax.jit(functools.partial(facmac.update, other))(state, batch)[0])
    np.testing.assert_array_equal(toys.flat(states[0][1:3]), toys.flat(states[1][1:3]))
    assert (toys.flat(states[0].policy) != toys.flat(states[1].policy)).any()


def test_the_team_value_never_falls_with_an_agents_value():
    m, state = toys.shaken_state(facmac, facmac.Config(**SMALL), SPEC)
    q, s = jax.random.normal(KEY, (200, 3)), jax.random.normal(jax.random.key(1), (200, 3))
    slopes = jax.vmap(jax.grad(lambda q, s: m.mixer.apply(state.mixer, q, s)))(3 * q, s)
    assert (np.asarray(slopes) >= 0).all() and np.asarray(slopes).any()


@pytest.mark.parametrize("recurrent", [False, True])
def test_policies_are_decentralised_greedy_and_bounded(recurrent):
    config = facmac.Config(**SMALL, recurrent=recurrent)
    m, state = toys.shaken_state(facmac, config, SPEC)
    policy = facmac.make(m.config, SPEC).policy(state)
    obs = 5 * jax.random.normal(KEY, (20, 3, 2))
    dists = [
        policy.distribution(policy.initial((20,)), toys.seen(SPEC, x))[1]
        for x in (obs, obs.at[:, 1:].set(0.3))
    ]
    first, other = (dist.mode() for dist in dists)
    np.testing.assert_array_equal(first[:, 0], other[:, 0])
    assert (first[:, 1:] != other[:, 1:]).any() and (np.abs(first) <= 1).all()
    np.testing.assert_array_equal(dists[0].sample(seed=KEY), first)


# ------------------------------------------------------------------------------------------- games


def test_the_optimum_of_a_quadratic_game_is_found():
    # R = -(x - .4)^2 - (y + .2)^2 on uniform data: every agent's best action is its own, (.4, -.2).
    env = make_polynomial(
        "quadratic", np.array([[-0.2, -0.4, -1.0], [0.8, 0, 0], [-1.0, 0, 0]], np.float32)
    )
    script = np.random.default_rng(0).uniform(-1, 1, (512, 1, 2, 1)).astype(np.float32)
    dataset = place(recipes.replay(env, script, KEY), env.spec)
    learner = facmac.make(
        facmac.Config(
            hidden=16, critic_hidden=32, embed=8, hyper=8, lr=2e-3, critic_lr=5e-3, optimiser="adam"
        ),
        env.spec,
    )
    sampler = samplers.uniform(64)

    def step(state: Any, key: Any) -> Any:
        return learner.update(state, sampler.gather(dataset, sampler.draw((), dataset, key)), key)[
            0
        ], None

    state, _ = jax.jit(lambda: lax.scan(step, learner.init(KEY), jax.random.split(KEY, 800)))()
    _, seen = env.reset(KEY)
    np.testing.assert_allclose(
        learner.policy(state).distribution((), seen)[1].mode()[:, 0], [0.4, -0.2], atol=0.1
    )


def test_values_of_a_chain_are_its_discounted_rewards():
    # Rewards 0, 0, 1 whatever is done, gamma .9: .81, .9, 1.
    batch = value_toys.chain()
    spec = EnvSpec("chain", 2, 3, 3, 2, discrete=False, horizon=3)
    config = facmac.Config(hidden=8, critic_hidden=16, embed=8, target_every=10, gamma=0.9, lr=0.0)
    m = facmac.method_of(config, spec)

    # actions anew, so that values are known at the policy's too; the rate falls to zero
    def step(state: Any, now: Any) -> Any:
        done, key = now
        rows = batch._replace(actions=jax.random.uniform(key, batch.avail.shape, minval=-1.0))
        return facmac.update(
            facmac.method_of(config.replace(critic_lr=3e-3 * (1 - done)), spec), state, rows
        )[0], None

    inputs = (jnp.linspace(0.0, 1.0, 1500), jax.random.split(KEY, 1500))
    state, _ = jax.jit(lambda: lax.scan(step, facmac.init(m, KEY), inputs))()
    values = jax.jit(
        lambda: facmac.agent_values(
            m, state.critic, batch.obs, m.actors.outputs(state.policy, batch)[0]
        )
    )()
    total = m.mixer.apply(state.mixer, values, batch.state)
    np.testing.assert_allclose(total[0], [0.81, 0.9, 1.0], atol=0.08)


def test_settings_that_cannot_work_are_refused_by_name():
    with pytest.raises(
        ValueError,
        match="facmac on 'xor': expected continuous actions, found discrete ones, which are qmix's",
    ):
        facmac.make(facmac.Config(), make_matrix("xor", XOR).spec)
    for change, message in (
        ({"recurrent": True, "window": 0}, r"'window': expected -1 \(episodes\) or a length"),
        ({"optimiser": "sgd"}, "'optimiser': expected one of rmsprop, adam, found 'sgd'"),
    ):
        with pytest.raises(ValueError, match=message):
            facmac.make(checked(facmac.Config(**SMALL | change)), SPEC)
