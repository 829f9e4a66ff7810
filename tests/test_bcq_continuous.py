"""Continuous MABCQ: losses and gradients against float64 NumPy, candidates that stay by the data,
targets, copies and execution.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxoff.baselines.bcq import continuous as bcq

from jaxoff.config import checked
from jaxoff.types import EnvSpec, Transition
from tests import toys
from tests.reference import bcq_continuous_numpy as ref

SPEC = toys.spec_of(discrete=False)
SMALL: dict[str, Any] = {
    "hidden": 5,
    "critic_hidden": 5,
    "vae_hidden": 5,
    "embed": 4,
    "candidates": 3,
    "gamma": 0.9,
    "perturbation": 0.3,
}
LATENT = 2 * SPEC.action_size


@pytest.mark.parametrize("bias", [True, False])
def test_losses_and_gradients_equal_float64(bias):
    # Ragged windows with nonsense beyond them, some actions beyond the bound.
    with jax.enable_x64(True):
        m, state = toys.shaken_state(bcq, bcq.Config(**SMALL, mixer_bias=bias), SPEC, np.float64)
        batch, key = toys.batch_of(SPEC, bound=1.3), jax.random.key(3)

        @jax.jit
        def losses(state: bcq.State, batch: Transition) -> Any:
            of_critic = lambda p: bcq.critic_loss(m, p, state, batch, key)[0]
            of_actor = lambda p: bcq.actor_loss(
                m, p, state.critic, state.behaviour_policy, batch, key
            )
            of_vae = lambda p: bcq.behaviour_loss(m, p, batch, key)
            pairs = (
                (of_critic, (state.critic, state.mixer)),
                (of_actor, state.policy),
                (of_vae, state.behaviour_policy),
            )
            return [jax.value_and_grad(loss)(params) for loss, params in pairs]

        found = losses(state, batch)
        rows, shape = toys.arrays(batch), batch.actions.shape[:-1]
        noise = np.asarray(jax.random.normal(key, (np.prod(shape), LATENT))).reshape(*shape, LATENT)
        latents = lambda *axes: np.clip(
            np.asarray(jax.random.normal(key, (*axes, LATENT))), -0.5, 0.5
        )
        y = ref.targets(state._asdict(), rows, latents(3, *shape), 0.9, 0.3, 0.75)
        of_critic = lambda p: ref.critic_loss(p, y, rows)
        of_actor = lambda p: ref.actor_loss(
            p, state.critic, state.behaviour_policy, rows, latents(*shape), 0.3
        )
        of_vae = lambda p: ref.vae_loss(p, rows, noise)
        wanted = (
            (of_critic, (state.critic, state.mixer)),
            (of_actor, state.policy),
            (of_vae, state.behaviour_policy),
        )
        for (value, grads), (function, params) in zip(found, wanted, strict=True):
            assert float(value) == pytest.approx(function(params), rel=1e-8)
            np.testing.assert_allclose(*toys.slopes(function, params, grads, 2), rtol=1e-5)


# -----------------------------------------------------------------------------------------
# candidates


def test_the_soft_minimum_by_hand():
    # .75 * 1 + .25 * 5 = 2, whichever twin is the smaller; 1 is the minimum.
    values = jnp.array([[1.0, 5.0], [5.0, 1.0]])
    np.testing.assert_allclose(bcq.soft_minimum(values, 0.75), [2.0, 2.0])
    np.testing.assert_allclose(bcq.soft_minimum(values, 1.0), [1.0, 1.0])


def test_candidates_are_decoded_actions_moved_by_at_most_the_perturbation():
    m, state = toys.shaken_state(bcq, bcq.Config(**SMALL), SPEC)
    seen = bcq.numbered(toys.batch_of(SPEC).obs)
    latents = bcq.draw_latents(m, jax.random.key(1), (50, *seen.shape[:-1]))
    # of N(0, 1), .617 is beyond
    assert np.abs(latents).max() == 0.5 and 0.5 < (np.abs(latents) == 0.5).mean() < 0.7
    decoded = m.vae.decode(state.behaviour_policy, seen, latents)[..., 0, :]
    far = jax.tree.map(lambda x: 10 * x, state.policy)  # tanh is saturated
    moved = np.abs(bcq.candidates(m, state.behaviour_policy, far, seen, latents) - decoded)
    assert 0.25 < moved.max() <= 0.3 + 1e-6
    assert np.abs(bcq.candidates(m, state.behaviour_policy, far, seen, latents)).max() <= 1


def test_the_perturbation_alone_moves_by_the_actors_loss():
    m, state = toys.shaken_state(bcq, bcq.Config(**SMALL), SPEC)
    loss = lambda vae: bcq.actor_loss(
        m, state.policy, state.critic, vae, toys.batch_of(SPEC), jax.random.key(0)
    )
    assert not toys.flat(jax.jit(jax.grad(loss))(state.behaviour_policy)).any()


# ------------------------------------------------------------------------------------------
# execution


def test_the_policy_plays_the_candidate_of_the_largest_first_value():
    m, state = toys.shaken_state(bcq, bcq.Config(**SMALL), SPEC)
    obs = jnp.asarray(toys.batch_of(SPEC).obs[:, 0])  # [5, N, O]
    seen = toys.seen(SPEC, obs)
    policy = bcq.policy_of(m, state)
    _, dist = jax.jit(lambda seen: policy.distribution(policy.initial((5,)), seen))(seen)
    for b, i in np.ndindex(5, 3):
        x = ref.seen(np.asarray(obs[b]), i)
        found = [
            ref.candidate(state.behaviour_policy, state.policy, x, np.asarray(z), 0.3)
            for z in state.latents
        ]
        best = found[int(np.argmax([ref.twin(state.critic, 0, x, u) for u in found]))]
        np.testing.assert_allclose(dist.mode()[b, i], best, atol=1e-5)
    # leading axes are free
    one = jax.tree.map(lambda x: x[0], seen)
    np.testing.assert_allclose(policy.distribution((), one)[1].mode(), dist.mode()[0], atol=1e-6)


def test_values_of_actions_that_the_data_lack_are_not_followed():
    # One play of two agents; the data are within .2 of 0 and the reward is the sum of actions:
    # values grow to the bound, and the policy stays at the data's edge, .2 and at most .05 more.
    spec = EnvSpec("play", 2, 1, 1, 1, False, 1)
    made = bcq.make(
        bcq.Config(hidden=16, critic_hidden=16, vae_hidden=16, lr=3e-3, lr_behaviour=3e-3), spec
    )

    def one(state: Any, key: Any) -> tuple[Any, None]:
        batch_key, update_key = jax.random.split(key)
        actions = jax.random.uniform(batch_key, (64, 2, 1), minval=-0.2, maxval=0.2)
        batch = toys.plays(spec, actions, actions.sum((1, 2)))
        return made.update(state, batch, update_key)[0], None

    train = jax.jit(lambda key: lax.scan(one, made.init(key), jax.random.split(key, 1500))[0])
    for seed in range(2):
        state = train(jax.random.key(seed))
        now = toys.seen(spec)
        played = np.asarray(made.policy(state).distribution((), now)[1].mode())
        assert (played < 0.27).all() and (played > 0.02).all(), played
        m = bcq.method_of(bcq.Config(hidden=16, critic_hidden=16, vae_hidden=16), spec)
        seen, values = bcq.numbered(now.obs), []
        for action in (0.9, 0.3, 0.0):
            twins = bcq.twin_values(m, state.critic, seen, jnp.full((2, 1), action))
            values.append(float(twins[0].mean()))
        assert values[0] > values[1] > values[2]


# ---------------------------------------------------------------------------------------------
# errors


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"candidates": 0}, "field 'candidates': expected at least 1, found 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        bcq.make(checked(bcq.Config(**config)), SPEC)
