"""MATD3: what the buffer holds, its losses, when it trains what, and that it learns."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines import matd3
from jaxoff.baselines.matd3 import Config, Nets, Rows

from jaxoff.envs.mpe.omar import make_spread
from jaxoff.training.on_policy import Segments, train_on_policy
from jaxoff.types import TimeStep
from tests.reference.toy_episodes import toy_spec

KEY, SPEC = jax.random.key(0), toy_spec(False)
SMALL = Config(
    hidden=4,
    critic_hidden=4,
    num_envs=2,
    segment=3,
    rounds=2,
    batch_size=8,
    capacity=8,
    iterations=4,
    warmup=0.0,
)
METHOD = matd3.method_of(SMALL, SPEC)


def segments(start: float = 0.0, beyond: float = 1.0) -> Segments:
    """Six steps in two environments: everything observed and paid in step k is start + k, and its
    actions are `beyond` the bound.
    """
    number = start + jnp.arange(6.0).reshape(2, 3)
    wide = lambda *shape: jnp.broadcast_to(number.reshape(2, 3, *[1] * len(shape)), (2, 3, *shape))
    off, nothing = jnp.zeros((2, 3), bool), wide()
    seen = TimeStep(wide(2, 4), wide(3), wide(2, 3), nothing, off, off, wide(2, 3))
    reward = number[..., None] + jnp.array([-1.0, 1.0])  # of the agents; their mean is the number
    ends = number == start + 5
    actions = jnp.full((2, 3, 2, 3), beyond)
    return Segments(seen, actions, reward, ends, off, off, wide(2, 4) + 0.5, wide(3) + 0.5, ())


@functools.cache
def start():
    return jax.jit(matd3.make(SMALL, SPEC).init)(KEY)


def test_the_buffer_keeps_the_newest_steps_as_they_were_played():
    # 8 places: of steps 0-5 and then 10-15, the first four are overwritten
    state = start()
    for first in (0.0, 10.0):
        state = matd3.stored(METHOD, state, segments(first, beyond=3.0))
    assert int(state.stored) == 12
    rows = matd3.drawn(METHOD, state, jnp.arange(8))
    number = [12, 13, 14, 15, 4, 5, 10, 11]
    np.testing.assert_array_equal(rows.reward, number)
    np.testing.assert_array_equal(rows.terminated, np.isin(number, (5, 15)))
    for found, shape in ((rows.obs, (8, 2, 4)), (rows.state, (8, 3))):
        assert found.shape == shape and (found.reshape(8, -1)[:, 0] == jnp.array(number)).all()
    np.testing.assert_array_equal(rows.next_obs, rows.obs + 0.5)
    np.testing.assert_array_equal(rows.next_state, rows.state + 0.5)
    np.testing.assert_array_equal(rows.actions, np.ones((8, 2, 3)))  # 3, within the bound of 1


def constant(value: float, out: float) -> Nets:
    """An actor that always plays tanh(out), and critics with values `value` and value + 1."""
    nets = jax.tree.map(jnp.zeros_like, start().nets)
    nets.actor["params"]["Dense_2"]["bias"] = jnp.full(3, out)
    nets.critic["params"]["Dense_2"]["bias"] = jnp.array([[value], [value + 1]])
    return nets


def test_the_target_is_the_lesser_value_ahead_unless_the_step_terminated():
    # targets: 2 + .99 * 3 = 4.97, and 2; critics say 1 and 2.
    # twins' errors: ((3.97^2 + 1^2) / 2) + ((2.97^2 + 0^2) / 2) = 8.38045 + 4.41045
    rows = Rows(
        jnp.zeros((2, 2, 4)),
        jnp.zeros((2, 3)),
        jnp.zeros((2, 2, 3)),
        jnp.full(2, 2.0),
        jnp.array([0.0, 1.0]),
        jnp.zeros((2, 2, 4)),
        jnp.zeros((2, 3)),
    )
    critic = constant(1.0, 0.0).critic
    loss, metrics = matd3.critic_loss(METHOD, critic, constant(3.0, 0.0), rows, KEY)
    assert float(loss) == pytest.approx(12.7909, rel=1e-4)
    assert float(metrics["value"]) == pytest.approx(1.5)


def test_the_actor_climbs_the_first_critic_in_all_agents_actions():
    # Q_1 = sum of relu(a + 1) over the six numbers of a joint action; Q_2 falls in them.
    nets = constant(0.0, 0.0)
    first, middle = (np.zeros((2, *shape), np.float32) for shape in ((9, 4), (4, 4)))
    first[:, 3:, 0], middle[:, 0, 0] = 1, 1
    layers = {"Dense_0": {"kernel": jnp.asarray(first), "bias": jnp.ones((2, 4))}}
    layers["Dense_1"] = {"kernel": jnp.asarray(middle), "bias": jnp.zeros((2, 4))}
    head = np.zeros((2, 4, 1), np.float32)
    head[:, 0, 0] = 1, -1
    layers["Dense_2"] = {"kernel": jnp.asarray(head), "bias": jnp.zeros((2, 1))}
    rows = matd3.drawn(METHOD, matd3.stored(METHOD, start(), segments()), jnp.arange(4))
    loss, grads = jax.value_and_grad(
        lambda actor: matd3.actor_loss(METHOD, actor, {"params": layers}, rows)
    )(nets.actor)
    assert float(loss) == pytest.approx(-1)  # actions of 0, and a bias of one
    # each of two agents adds 1 to each of three biases' slopes
    np.testing.assert_allclose(grads["params"]["Dense_2"]["bias"], [-2, -2, -2], rtol=1e-5)


def test_nothing_is_trained_before_the_warmup_and_play_is_wide_until_then():
    learner = matd3.make(SMALL.replace(warmup=10.0, explore=0.25), SPEC)
    before = jax.jit(learner.init)(KEY)
    seen = jax.tree.map(lambda x: x[:, 0], segments().seen)
    update = jax.jit(learner.update)
    deviation = lambda state: float(
        learner.behaviour(state).distribution((), seen)[1].distribution.scale[0, 0, 0]
    )
    first, _ = update(before, segments(), KEY)
    assert deviation(before) == deviation(first) == pytest.approx(1)
    jax.tree.map(np.testing.assert_array_equal, first.nets, before.nets)
    second, metrics = update(first, segments(), KEY)
    assert deviation(second) == pytest.approx(0.25) and np.isfinite(metrics["critic_loss"])
    for old, new in zip(first.nets, second.nets, strict=True):
        assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, old, new)))


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (toy_spec(True), {}, "environment 'toy': expected continuous actions, found 3 discrete"),
        (SPEC, {"capacity": 5}, "field 'capacity': expected at least num_envs . segment = 6, fou"),
    ],
)
def test_what_it_cannot_train_is_refused(spec, changes, message):
    with pytest.raises(ValueError, match=message):
        matd3.make(SMALL.replace(**changes), spec)


def test_it_learns_to_cover_a_landmark_and_a_killed_training_goes_on_bit_for_bit(tmp_path):
    # Random and untrained policies return about 40, at most 250 is possible; here 199.
    env, file = make_spread(1), tmp_path / "unfinished.npz"
    sizes = {"num_envs": 8, "segment": 25, "iterations": 100, "snapshots": 2}
    config = Config(
        lr=1e-3,
        critic_lr=3e-3,
        gamma=0.9,
        polyak=0.02,
        hidden=32,
        critic_hidden=32,
        batch_size=128,
        capacity=10_000,
        rounds=20,
        warmup=1000.0,
        **sizes,
    )
    train = lambda file: train_on_policy(
        matd3.make(config, env.spec), env, seed=0, eval_episodes=64, **sizes, resume=file
    )
    whole = list(train(None))
    assert whole[0].evaluation["returns"].mean() < 60
    assert whole[-1].evaluation["returns"].mean() > 120
    broken = train(file)
    next(broken), next(broken)
    broken.close()
    for a, b in zip(train(file), whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a._replace(cpu_s=0), b._replace(cpu_s=0))
