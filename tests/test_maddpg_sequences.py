"""MADDPG over windows: losses and gradients against float64 NumPy, the traps of its terms, and PJAP
on its policies.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flashbax.buffers import sum_tree
from jaxoff.baselines import maddpg, pjap

from jaxoff.config import checked, resolve_config
from jaxoff.data import samplers
from jaxoff.data.dataset import place
from jaxoff.names import Task
from jaxoff.optimisers import sonnet_rmsprop
from jaxoff.types import Feedback
from tests import toys
from tests.reference import deterministic_numpy as ref
from tests.reference.toy_episodes import toy_episodes, toy_spec

SPEC = toys.spec_of(discrete=False)
KEY = jax.random.key(5)
SMALL: dict[str, Any] = {"hidden": (5,), "actor_hidden": 4, "gamma": 0.9, "window": 4}
SEQUENCE: dict[str, Any] = SMALL | {"share": True, "num_samples": 2, "optimiser": "rmsprop"}
INDEPENDENT: dict[str, Any] = SMALL | {
    "independent": True,
    "actor": "mlp",
    "critics": 1,
    "action_penalty": 0.1,
}


def shaken(config: maddpg.Config, dtype: Any = np.float32) -> tuple[maddpg.Method, maddpg.State]:
    return toys.shaken_state(maddpg, config, SPEC, dtype)


def losses(m: maddpg.Method, state: maddpg.State, batch: Any) -> Any:
    """Losses and gradients of actor and critic."""
    actor = jax.value_and_grad(lambda p: maddpg.actor_loss(m, p, state.critic, batch)[0])(
        state.actor
    )
    return actor, jax.value_and_grad(lambda p: maddpg.critic_loss(m, p, state, batch, KEY)[0])(
        state.critic
    )


def test_sequence_losses_and_gradients_equal_float64():
    # One shared GRU policy, twin critics, conservative term with noise of every kind; ragged
    # windows.
    with jax.enable_x64(True):
        m, state = shaken(maddpg.Config(**SEQUENCE), np.float64)
        batch = toys.batch_of(SPEC, bound=1.3)
        (actor, critic) = jax.jit(functools.partial(losses, m))(state, batch)
        rows, c = toys.arrays(batch), m.config
        act = functools.partial(
            ref.policy_actions,
            batch=rows,
            recurrent=True,
            numbered=True,
            last=False,
            activated=True,
        )
        (now, then), (_, slow_next) = act(state.actor), act(state.target_actor)
        keys, shape = jax.random.split(KEY, 3), (2, *rows["actions"].shape)
        uniform = np.asarray(jax.random.uniform(keys[0], shape, minval=-1.0, maxval=1.0))
        noise = 0.3 * np.stack([jax.random.normal(k, shape) for k in keys[1:]])
        samples = np.concatenate([uniform, *np.clip(np.stack([now, then])[:, None] + noise, -1, 1)])
        gaussian = np.log(np.exp(-((noise / 0.3) ** 2) / 2) / (0.3 * np.sqrt(2 * np.pi))).sum(-1)
        log_density = np.concatenate([np.full(shape[:-1], -3 * np.log(2)), *gaussian])
        of_critic = lambda p: ref.maddpg_critic_loss(
            p, state.target_critic, slow_next, rows, 0.9, c.cql, samples, log_density
        )
        assert float(critic[0]) == pytest.approx(of_critic(state.critic), rel=1e-8)
        np.testing.assert_allclose(*toys.slopes(of_critic, state.critic, critic[1], 2), rtol=1e-5)
        of_actor = lambda p: ref.maddpg_actor_loss(act(p)[0], state.critic, rows, 1e-3)
        assert float(actor[0]) == pytest.approx(of_actor(state.actor), rel=1e-8)
        np.testing.assert_allclose(*toys.slopes(of_actor, state.actor, actor[1], 2), rtol=1e-5)


def test_independent_losses_and_gradients_equal_float64():
    # A policy and a critic of each agent, its own observation, action and reward.
    with jax.enable_x64(True):
        m, state = shaken(maddpg.Config(**INDEPENDENT), np.float64)
        batch = toys.batch_of(SPEC, bound=1.3)
        actor, critic = jax.jit(functools.partial(losses, m))(state, batch)
        rows = toys.arrays(batch)

        def act(params: Any) -> Any:
            each = [one_agent(ref.member(params, i), i) for i in range(3)]
            return [np.stack([x[k] for x in each], 2) for k in range(2)]

        def one_agent(params: Any, i: int) -> Any:
            own = {name: rows[name][:, :, i : i + 1] for name in ("obs", "next_obs", "actions")}
            found = ref.policy_actions(
                params, own, recurrent=False, numbered=False, last=False, activated=False
            )
            return [x[:, :, 0] for x in found]

        slow_next = act(state.target_actor)[1]
        of_critic = lambda p: ref.independent_critic_loss(
            p, state.target_critic, slow_next, rows, 0.9
        )
        assert float(critic[0]) == pytest.approx(of_critic(state.critic), rel=1e-8)
        np.testing.assert_allclose(*toys.slopes(of_critic, state.critic, critic[1], 2), rtol=1e-5)
        of_actor = lambda p: ref.maddpg_actor_loss(
            act(p)[0], state.critic, rows, 0.1, independent=1
        )
        assert float(actor[0]) == pytest.approx(of_actor(state.actor), rel=1e-8)
        np.testing.assert_allclose(*toys.slopes(of_actor, state.actor, actor[1], 2), rtol=1e-5)


# ---------------------------------------------------------------------------------------- traps


def constant_critic(m: maddpg.Method, c: float) -> Any:
    """Critics that say c everywhere."""
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape), jax.eval_shape(lambda: maddpg.init(m, KEY)).critic
    )
    zeros["params"]["Dense_1"]["bias"] += c
    return zeros


def penalty_of(m: maddpg.Method, state: Any, batch: Any, c: float) -> np.ndarray:
    @jax.jit
    def penalty(actor: Any, batch: Any) -> Any:
        critic = constant_critic(m, c)
        values = maddpg.joint_values(m, critic, batch.obs, batch.state, batch.actions)
        return maddpg.conservative_loss(m, critic, values, actor, batch, KEY)

    return np.asarray(penalty(state.actor, batch))


def test_the_logsumexp_is_over_samples_and_densities_are_before_clipping():
    # One sample of each kind, Q = c everywhere: log(sum_k exp(c - log p_k)) - c = log sum_k 1 / p_k
    # at each step and agent.
    m, state = shaken(maddpg.Config(**SEQUENCE | {"num_samples": 1, "noise": 2.0}))
    batch = toys.batch_of(SPEC, bound=1.3)
    found = penalty_of(m, state, batch, 7.0)
    assert found.shape == (2, 5, 4, 3)
    keys, shape = jax.random.split(KEY, 3), (1, 5, 4, 3, 3)
    # most actions of such noise are clipped
    z = np.stack([np.asarray(jax.random.normal(k, shape)[0], np.float64) for k in keys[1:]])
    density = np.exp(-0.5 * z**2).prod(-1) / (2 * np.sqrt(2 * np.pi)) ** 3
    wanted = np.log(8 + (1 / density).sum(0))
    np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), rtol=1e-5)


def test_the_density_of_many_dimensions_does_not_underflow():
    # 400 dimensions: the product of densities is 0 in float32, the sum of their logs is about 400
    # (-1.42 + log .05).
    m, _ = shaken(maddpg.Config(**SEQUENCE | {"actor": "constant", "noise": 20.0}))
    m = m._replace(spec=dataclasses.replace(SPEC, action_size=400))
    zeros = jnp.zeros((5, 4, 3, 400))
    batch = toys.batch_of(SPEC, bound=1.3)._replace(actions=zeros)
    found = penalty_of(m, maddpg.init(m, KEY), batch, 0.0)
    assert np.isfinite(found).all() and found.min() > 1000


def test_the_conservative_term_moves_the_critic_only():
    m, state = shaken(maddpg.Config(**SEQUENCE))
    batch = toys.batch_of(SPEC, bound=1.3)
    values = jnp.zeros((2, 5, 4, 1))
    grad = jax.jit(
        jax.grad(lambda p: maddpg.conservative_loss(m, state.critic, values, p, batch, KEY).sum())
    )(state.actor)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(grad))


def test_recorded_actions_beyond_the_bound_are_clipped_for_critic_and_distance():
    update, state = toys.stepper(maddpg, SPEC, **SEQUENCE)
    batch = toys.batch_of(SPEC, bound=1.3)
    cut = batch._replace(actions=np.clip(batch.actions, -1, 1))
    assert (batch.actions != cut.actions).any()
    (a, told), (b, other) = update(state, batch, KEY), update(state, cut, KEY)
    np.testing.assert_array_equal(toys.flat(a), toys.flat(b))
    assert float(told.metrics["distance"]) == float(other.metrics["distance"])


def test_both_losses_use_the_nets_before_the_update():
    # The policy's step doesn't depend on the critic's learning rate, nor the critic's on the
    # policy's.
    update, state = toys.stepper(maddpg, SPEC, **SEQUENCE)
    after = update(state, toys.batch_of(SPEC, bound=1.3), KEY)[0]
    for name, part in (("critic_lr", "actor"), ("actor_lr", "critic")):
        other = maddpg.make(maddpg.Config(**SEQUENCE | {name: 0.1}), SPEC)
        again = jax.jit(other.update)(state, toys.batch_of(SPEC, bound=1.3), KEY)[0]
        np.testing.assert_allclose(
            toys.flat(getattr(again, part)), toys.flat(getattr(after, part)), rtol=1e-6
        )


def test_no_target_of_a_window_looks_into_the_next_episode():
    # Two truncated episodes of 3 steps, one after the other: the second is changed, and no window
    # of the first notices.
    spec, lengths = toy_spec(discrete=False), (3, 3)
    first = toy_episodes(lengths, discrete=False)
    first = first._replace(
        terminated=np.zeros_like(first.terminated), truncated=np.tile([False, False, True], (2, 1))
    )
    second = first._replace(
        **{
            name: getattr(first, name) * np.array([1, 5]).reshape(2, *[1] * (x.ndim - 1))
            for name, x in (("obs", first.obs), ("state", first.state), ("reward", first.reward))
        }
    )
    learner = maddpg.make(maddpg.Config(**SEQUENCE | {"window": 2}), spec)
    sampler, state = samplers.windows(64, 2), learner.init(KEY)
    update, found = jax.jit(learner.update), []
    for episodes in (first, second):
        dataset = place(episodes, spec)
        items = sampler.draw(sampler.init(dataset), dataset, KEY)
        # never the last step of an episode as a start
        assert set(np.asarray(items).tolist()) == {0, 1, 3, 4}
        batch = sampler.gather(dataset, jnp.array([0, 1]))
        np.testing.assert_array_equal(batch.truncated, [[0, 0], [0, 1]])
        found.append(toys.flat(update(state, batch, KEY)[0]))
    np.testing.assert_array_equal(*found)


def test_another_agents_policy_is_no_part_of_an_agents_own_step():
    # Centralised, others from the data: agent 0's value is the same whatever agent 1's policy
    # plays.
    m, state = shaken(maddpg.Config(**SMALL))
    batch = toys.batch_of(SPEC, bound=1.3)
    own = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, batch.actions.shape), jnp.float32)
    values = jax.jit(lambda own: maddpg.policy_values(m, state.critic, batch, own))
    np.testing.assert_array_equal(values(own)[..., 0], values(own.at[..., 1, :].set(0.3))[..., 0])
    grad = jax.jit(jax.grad(lambda own: values(own)[..., 0].sum()))(own)
    assert np.asarray(grad[..., 0, :]).any() and not np.asarray(grad[..., 1:, :]).any()
    to_policies = m._replace(config=dataclasses.replace(m.config, others="policy"))
    responding = jax.jit(lambda own: maddpg.policy_values(to_policies, state.critic, batch, own))
    responses = [np.asarray(responding(x)[..., 0]) for x in (own, own.at[..., 1, :].set(0.3))]
    assert (responses[0] != responses[1]).any()
    grad = jax.jit(jax.grad(lambda own: responding(own)[..., 0].sum()))(own)
    assert not np.asarray(grad[..., 1:, :]).any()


def test_an_independent_agent_sees_nothing_of_the_others():
    m, state = shaken(maddpg.Config(**INDEPENDENT))
    batch = toys.batch_of(SPEC, bound=1.3)
    changed = {
        name: getattr(batch, name).copy() for name in ("obs", "next_obs", "actions", "agent_reward")
    }
    for x in changed.values():
        x[:, :, 1:] += 1
    other = batch._replace(
        state=batch.state + 1, next_state=batch.next_state + 1, reward=batch.reward + 1, **changed
    )

    @jax.jit
    def of(x: Any) -> Any:
        return maddpg.td_target(m, state, x), maddpg.joint_values(
            m, state.critic, x.obs, x.state, x.actions
        )

    for a, b in zip(of(batch), of(other), strict=True):
        assert a.shape[-1] == 3 and (np.asarray(a)[..., 1:] != np.asarray(b)[..., 1:]).any()
        np.testing.assert_array_equal(a[..., 0], b[..., 0])


def test_rmsprop_is_sonnets():
    # g = 1: v = .1, step lr / sqrt(.1 + 1e-10); then v = .19.
    optimiser, one = sonnet_rmsprop(1.0, 10.0), jnp.ones(())
    step, state = optimiser.update(one, optimiser.init(0 * one))
    assert float(step) == pytest.approx(-1 / np.sqrt(0.1), rel=1e-6)
    assert float(optimiser.update(one, state)[0]) == pytest.approx(-1 / np.sqrt(0.19), rel=1e-6)


def test_settings_that_cannot_work_are_refused_by_name():
    for change, message in (
        (
            {"window": 0, "actor": "recurrent"},
            r"'window': expected -1 \(episodes\) or a length with actor=recurrent, found 0",
        ),
        ({"others": "nobody"}, "'others': expected one of data, policy, found 'nobody'"),
        ({"critics": 3}, "'critics': expected one of 1, 2, found '3'"),
        ({"optimiser": "sgd"}, "'optimiser': expected one of adam, rmsprop, found 'sgd'"),
    ):
        with pytest.raises(ValueError, match=message):
            maddpg.make(checked(maddpg.Config(**SMALL | change)), SPEC)


# ------------------------------------------------------------------------------------ PJAP on
# windows


@functools.cache
def sequences() -> Any:
    """A dataset of two episodes of 6 steps with real actions, a learner with GRU policies, and its
    state after an update.
    """
    spec = dataclasses.replace(toy_spec(discrete=False), horizon=6)
    dataset = place(toy_episodes((6, 6), discrete=False), spec)
    learner = maddpg.make(maddpg.Config(**SEQUENCE | {"polyak": 0.5, "actor_lr": 0.1}), spec)
    state = jax.jit(learner.init)(KEY)
    state = jax.jit(learner.update)(state, toys.window(dataset, dataset.step_row[:2], 4), KEY)[0]
    return spec, dataset, learner, state


def told_of(learner: Any, state: Any, items: Any, updates: int = 1) -> Feedback:
    return Feedback(
        jnp.asarray(items),
        None,
        learner.target_policy(state),
        jnp.asarray(updates),
        KEY,
        learner.policy(state),
    )


def test_the_distance_unrolls_the_gru_as_training_does():
    # Memory is zero at the start of the window in both, though the window starts in the middle of
    # an episode.
    spec, dataset, learner, state = sequences()
    batch = toys.window(dataset, dataset.step_row[jnp.array([2, 7])], 4)
    found = jax.jit(lambda: pjap.joint_distance(learner.policy(state), batch, spec, clip=True))()
    m = maddpg.method_of(maddpg.Config(**SEQUENCE), spec)
    actions = jax.jit(lambda batch: maddpg.policy_actions(m, state.actor, batch)[0])(batch)
    wanted = np.abs(np.asarray(actions) - np.clip(batch.actions, -1, 1)).mean((1, 2, 3))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("policy", ["target", "online"])
def test_windows_of_the_training_batch_are_refreshed_by_the_chosen_policy_and_no_others(policy):
    spec, dataset, learner, state = sequences()
    sampler = pjap.make(pjap.Config(refresh=0, clip_actions=True, policy=policy), 3, 4)
    items = jnp.array([1, 7, 7])
    tree = jax.jit(
        lambda: sampler.feedback(sampler.init(dataset), dataset, told_of(learner, state, items))
    )()
    leaves = np.asarray(sum_tree.get_batch(tree, jnp.arange(12)))
    distances = {}
    for name, of in (("target", learner.target_policy), ("online", learner.policy)):
        distance = jax.jit(
            lambda of=of: pjap.joint_distance(
                of(state), toys.window(dataset, dataset.step_row[items], 4), spec, clip=True
            )
        )
        distances[name] = distance()
    assert np.abs(np.asarray(distances["target"]) - np.asarray(distances["online"])).min() > 1e-4
    fresh = np.maximum(np.exp(-16 * np.asarray(distances[policy]) ** 2), 1e-3)
    # 6 steps, windows of 4: starts 0, 1, 2 of each episode
    np.testing.assert_allclose(
        leaves, [1, fresh[0], 1, 0, 0, 0, 1, fresh[1], 1, 0, 0, 0], rtol=1e-4
    )


def test_the_ramp_raises_the_steepness_on_a_line():
    # s_k = 4 min(1, k / 150000): at 75000, alpha = 4; exp(-4 * .25) = exp(-1) at d = .5. Without a
    # ramp always 16.
    updates = jnp.array([75_000, 150_000, 600_000])
    np.testing.assert_allclose(
        16 * jnp.square(pjap.ramped(updates, 150_000.0)), [4, 16, 16], rtol=1e-6
    )
    np.testing.assert_array_equal(pjap.ramped(updates, 0.0), [1, 1, 1])
    _, dataset, learner, state = sequences()
    leaves = []
    for ramp in (0.0, 8.0):
        sampler = pjap.make(pjap.Config(refresh=-1, eps=1e-9, ramp=ramp), 2, 4)
        tree = jax.jit(
            lambda s=sampler: s.feedback(
                s.init(dataset), dataset, told_of(learner, state, [0, 1], updates=4)
            )
        )()
        leaves.append(np.asarray(sum_tree.get_batch(tree, jnp.array([0, 1, 2, 6, 7, 8]))))
    # half the steepness, a quarter of alpha
    np.testing.assert_allclose(np.log(leaves[1]), np.log(leaves[0]) / 4, rtol=1e-3)


def test_an_unknown_policy_is_refused_by_name():
    with pytest.raises(
        ValueError, match="field 'policy': expected one of target, online, found 'slow'"
    ):
        pjap.make(checked(pjap.Config(policy="slow")), 4, 4)


def test_robots_have_the_settings_of_the_papers_code():
    task = Task.parse("og_marl:mamujoco/2halfcheetah/Good")
    config, sampler = resolve_config(maddpg, task, {}), resolve_config(pjap, task, {})
    found = [
        float(getattr(config, name))
        for name in ("critic_lr", "actor_lr", "polyak", "gamma", "cql", "noise")
    ]
    np.testing.assert_allclose(found, [1e-3, 3e-4, 0.005, 0.99, 5, 0.3], rtol=1e-6)
    assert (config.actor, config.share, config.optimiser) == ("recurrent", True, "rmsprop")
    assert (config.hidden, config.actor_hidden) == ((256, 256), 64)
    assert (config.reset_gate, config.layer_init) == ("before", "sonnet")
    sizes = (config.num_samples, config.batch_size, config.window, config.steps)
    assert sizes == (10, 64, 20, 500_000)
    np.testing.assert_allclose(
        [sampler.alpha, sampler.eps, sampler.exponent, sampler.ramp],
        [16, 1e-3, 0.99, 150_000],
        rtol=1e-6,
    )
    assert sampler.refresh == 0 and sampler.clip_actions and sampler.policy == "target"
