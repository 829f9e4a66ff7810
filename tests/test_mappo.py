"""MAPPO: advantages, clipped surrogate, who learns from what, memory, and that it learns."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxoff.baselines import mappo
from jaxoff.baselines.mappo import Config, advantages, policy_loss

from jaxoff import registry
from jaxoff.data.recipes import random_policy
from jaxoff.envs.mpe.omar import make_spread
from jaxoff.errors import InvalidSetting
from jaxoff.eval.rollout import evaluate
from jaxoff.nets.actors import Actors
from jaxoff.training import on_policy
from jaxoff.training.on_policy import Segments, collect, train_on_policy
from jaxoff.types import TimeStep
from tests.reference.toy_episodes import toy_spec
from tests.test_rolling import CLOCK, Clock

KEY = jax.random.key(0)
SMALL = Config(
    hidden=8,
    critic_hidden=8,
    recurrent=False,
    num_envs=4,
    segment=5,
    minibatches=1,
    epochs=1,
    iterations=4,
)


@functools.cache
def clock_segments(recurrent=False) -> Segments:
    """Two segments' worth of steps of an untrained policy on Clock, the second of them."""
    learner = mappo.make(SMALL.replace(recurrent=recurrent), CLOCK.spec)
    run = jax.jit(lambda: on_policy.start(learner, CLOCK, 4, KEY))()
    step = jax.jit(lambda now, key: collect(CLOCK, learner.behaviour(run.learner), now, 5, key))
    return step(step(run.collectors, KEY)[0], jax.random.key(1))[1]


@functools.cache
def compiled(**changes):
    """The first state and the update, jitted once, of SMALL with these changes."""
    learner = mappo.make(SMALL.replace(**changes), CLOCK.spec)
    return jax.jit(learner.init)(KEY), jax.jit(learner.update)


def updated(segments: Segments, **changes):
    state, update = compiled(**changes)
    return update(state, segments, KEY)


def entropy(segments: Segments, recurrent=False) -> np.ndarray:
    """Entropies [B, T, N] of the untrained policy at the steps of segments."""
    config = SMALL.replace(recurrent=recurrent)
    actor = compiled(recurrent=recurrent)[0].nets.actor
    unroll = jax.jit(mappo.actors(config, CLOCK.spec).unroll)
    logits = unroll(actor, segments.memory, segments.seen, segments.reset)
    log_p = np.asarray(jax.nn.log_softmax(logits), float)
    return -(np.exp(log_p) * log_p).sum(-1)


# --------------------------------------------------------------------------------------- advantages


@pytest.mark.parametrize(("terminated", "wanted"), [(1, [0.75, -1.0, 2.0]), (0, [1.125, 0.5, 2.0])])
def test_advantages_by_hand_of_an_episode_that_ends_in_the_middle(terminated, wanted):
    # discount .5, trace .5. delta_0 = 1 + .5 * 2 - 1 = 1 and delta_2 = 3 + .5 * 4 - 3 = 2; delta_1
    # = 1 - 2 = -1 if terminated, 1 + .5 * 3 - 2 = .5 if truncated. Nothing of step 2 is in step 1:
    # A_0 = delta_0 + .25 delta_1.
    values, beyond, reward = (
        jnp.array([1.0, 2.0, 3.0]),
        jnp.array([2.0, 3.0, 4.0]),
        jnp.array([1.0, 1.0, 3.0]),
    )
    end = jnp.array([0.0, 1.0, 0.0])
    np.testing.assert_allclose(
        advantages(values, beyond, reward, terminated * end, end, 0.5, 0.5), wanted
    )


def test_advantages_equal_a_loop_over_episodes():
    rng, steps, discount, trace = np.random.default_rng(0), 12, 0.9, 0.7
    values, beyond, reward = rng.normal(size=(3, steps, 4, 2))
    kind = rng.choice(3, p=[0.7, 0.15, 0.15], size=(steps, 4, 1))  # 1: terminated, 2: truncated
    wanted = np.zeros_like(values)
    for e in range(4):
        for t in range(steps):
            weight = 1.0
            # Eq. 16: sum of (discount trace)^l delta_{t+l}, to the end of the episode
            for later in range(t, steps):
                follow = 0 if kind[later, e, 0] == 1 else beyond[later, e]
                wanted[t, e] += weight * (reward[later, e] + discount * follow - values[later, e])
                weight *= discount * trace
                if kind[later, e, 0]:
                    break
    found = advantages(
        *map(jnp.asarray, (values, beyond, reward, kind == 1, kind > 0)), discount, trace
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------- policy loss


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (0.5, 1.0, -0.5, -0.5),  # min(.5, .8): not clipped, for it would be better
        (1.1, 1.0, -1.1, -1.1),
        (1.5, 1.0, -1.2, 0.0),  # min(1.5, 1.2)
        (0.5, -1.0, 0.8, 0.0),  # min(-.5, -.8)
        (1.1, -1.0, 1.1, 1.1),
        (1.5, -1.0, 1.5, 1.5),  # min(-1.5, -1.2)
    ],
)
def test_the_surrogate_is_clipped_where_that_makes_it_worse(ratio, advantage, loss, slope):
    # slope in log pi: ratio times that in ratio
    found = jax.value_and_grad(policy_loss)(jnp.log(ratio), 0.0, advantage, 0.2)
    np.testing.assert_allclose(found, (loss, slope), rtol=1e-6)


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_before_the_first_step_the_ratio_is_one(recurrent):
    # so the first loss is minus the mean of standardised advantages: 0
    segments = clock_segments(recurrent)
    metrics = updated(segments, recurrent=recurrent)[1]
    assert float(metrics["policy_loss"]) == pytest.approx(0, abs=1e-6)
    assert float(metrics["entropy"]) == pytest.approx(entropy(segments, recurrent).mean(), rel=1e-4)


# ------------------------------------------------------------------------------------- who is left
# out


def with_dead_agent(reward_of_it: float) -> Segments:
    """Agent 1 can only take action 0, and is paid so much at every other step."""
    seg = clock_segments()
    avail = seg.seen.avail.at[:, :, 1].set(jnp.array([1.0, 0.0, 0.0]))
    paid = reward_of_it * (jnp.arange(5) % 2)
    return seg._replace(
        seen=seg.seen._replace(avail=avail),
        actions=seg.actions.at[:, :, 1].set(0),
        reward=seg.reward.at[:, :, 1].set(paid),
    )


def test_an_agent_with_one_action_moves_no_policy(monkeypatch):
    # without the clipping of gradients, the actor's do not depend on the critic's
    monkeypatch.setattr(mappo.optax, "clip_by_global_norm", lambda size: optax.identity())
    learner = mappo.make(SMALL, CLOCK.spec)
    start, update = jax.jit(learner.init)(KEY), jax.jit(learner.update)
    poor, rich = (update(start, with_dead_agent(reward), KEY) for reward in (0.0, 50.0))
    jax.tree.map(np.testing.assert_array_equal, poor[0].nets.actor, rich[0].nets.actor)
    # of the living one
    assert float(poor[1]["entropy"]) == pytest.approx(
        entropy(clock_segments())[:, :, 0].mean(), rel=1e-4
    )
    seg = clock_segments()  # where it is alive, its reward does move the policy
    alive = [
        update(start, seg._replace(reward=seg.reward.at[:, ::2, 1].add(more)), KEY)[0].nets.actor
        for more in (0.0, 50.0)
    ]
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, *alive)))


@pytest.mark.parametrize(("central", "values"), [(True, 2), (False, 1)], ids=["MAPPO", "IPPO"])
def test_only_the_central_critic_sees_the_state(central, values):
    seg = clock_segments()
    other = seg._replace(
        seen=seg.seen._replace(state=seg.seen.state + 1), next_state=seg.next_state + 1
    )
    a, b = (updated(part, central=central) for part in (seg, other))
    assert np.array_equal(a[1]["value_loss"], b[1]["value_loss"]) != central
    assert {layer["bias"].shape for layer in a[0].nets.critic["params"].values()} == {
        (8,),
        (values,),
    }


# ------------------------------------------------------------------------------------------- inputs


def test_standardised_inputs_are_those_that_the_playing_policy_sees():
    # After an update the moments are those of its segments. Segments that are played then have the
    # densities that the update computes from standardised observations: the first loss is 0.
    learner = mappo.make(SMALL.replace(input_norm="running"), CLOCK.spec)
    step = jax.jit(lambda state, now, key: collect(CLOCK, learner.behaviour(state), now, 5, key))
    run = jax.jit(lambda: on_policy.start(learner, CLOCK, 4, KEY))()
    now, seg = step(run.learner, run.collectors, KEY)
    update = jax.jit(learner.update)
    state, _ = update(run.learner, seg, KEY)
    for k, x in enumerate((seg.seen.obs, seg.seen.state)):
        flat = np.asarray(x).reshape(-1, 2)
        np.testing.assert_allclose(state.inputs[k].mean, flat.mean(0), rtol=1e-4)
        np.testing.assert_allclose(state.inputs[k].variance, flat.var(0), rtol=1e-4)
    after = step(state, now, jax.random.key(1))[1]
    metrics = update(state, after, KEY)[1]
    assert float(metrics["policy_loss"]) == pytest.approx(0, abs=1e-6)
    m = mappo.method_of(SMALL.replace(input_norm="running"), CLOCK.spec)
    plain, seen = (
        mappo.log_prob_of(m, state.nets, part)[0]
        for part in (after, mappo.standardised(state, after))
    )
    memory, played = learner.behaviour(state).initial((4,)), after.seen
    dist = learner.behaviour(state).distribution(memory, jax.tree.map(lambda x: x[:, 0], played))[1]
    np.testing.assert_allclose(dist.log_prob(after.actions[:, 0]), seen[:, 0], rtol=1e-4)
    assert not np.allclose(plain, seen, rtol=1e-2)


# ----------------------------------------------------------------------------------- shuffled steps


def test_one_minibatch_of_steps_is_one_of_environments():
    one, other = (updated(clock_segments(), shuffle=by)[0] for by in ("environments", "steps"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.nets, other.nets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shuffle": "steps", "minibatches": 3}, "divisor of num_envs . segment = 20, found 3"),
        ({"recurrent": True, "shuffle": "steps"}, "'shuffle': expected environments with recurre"),
        ({"recurrent": True, "head": 0.1}, "field 'head': expected 0 with recurrent=true, found"),
    ],
)
def test_what_an_actor_with_memory_does_not_read_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mappo.make(SMALL.replace(**changes), CLOCK.spec)


@pytest.mark.parametrize(
    ("scenario", "changes", "message"),
    [
        ("matrix/xor/b", {"noise": 0.2}, "'noise': expected 0.1, since the discrete actions of"),
        ("matrix/xor/b", {"least_std": 0.1}, "'least_std': expected 0, since the discrete act"),
        ("mpe/spread/random", {"temperature": 0.5}, "'temperature': expected 1, since the contin"),
    ],
)
def test_what_a_kind_of_actions_does_not_read_is_refused(scenario, changes, message):
    with pytest.raises(InvalidSetting, match=message):
        mappo.make(SMALL.replace(**changes), registry.make_spec(scenario))


def test_the_actors_last_layer_starts_as_small_as_asked():
    start = compiled(head=0.01)[0].nets.actor["params"]
    largest = {name: float(jnp.abs(layer["kernel"]).max()) for name, layer in start.items()}
    assert largest["Dense_2"] <= 0.01 < min(largest["Dense_0"], largest["Dense_1"])


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("recurrent", "discrete"),
    [(False, True), (True, True), (True, False)],
    ids=["MLP", "GRU", "GRU, real actions"],
)
def test_unroll_equals_stepping_the_policy_with_memory_emptied_at_resets(recurrent, discrete):
    spec, rng = toy_spec(discrete), np.random.default_rng(0)
    net = Actors(spec, 5, recurrent=recurrent, share=True)
    params, batch, steps = jax.jit(net.init)(KEY), 3, 6
    draw = lambda *shape: jnp.asarray(rng.normal(size=(batch, steps, *shape)), jnp.float32)
    last = jnp.asarray(rng.integers(-1, 3, (batch, steps, 2))) if discrete else draw(2, 3)
    avail = (
        jnp.asarray(rng.random((batch, steps, 2, 3)) < 0.7).at[..., 0].set(True).astype(jnp.float32)
    )
    no = jnp.zeros((batch, steps), bool)
    seen = TimeStep(draw(2, 4), draw(3), avail, draw(), no, no, last)
    reset = jnp.asarray([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
    policy = net.policy(params)
    # in the middle of an episode
    start = jax.tree.map(lambda x: x + draw()[:, 0].reshape(batch, 1, 1), policy.initial((batch,)))
    memory, wanted, step = start, [], jax.jit(policy.distribution)
    for t in range(steps):
        memory = jax.tree.map(lambda m, t=t: jnp.where(reset[:, t, None, None], 0.0, m), memory)
        memory, dist = step(memory, jax.tree.map(lambda x, t=t: x[:, t], seen))
        wanted.append(dist.logits if discrete else dist.mode())
    unroll = jax.jit(net.unroll)
    found = unroll(params, start, seen, reset)
    wanted = np.stack(wanted, 1)
    if discrete:  # the policy's logits are normalised
        found = jax.nn.log_softmax(found)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert recurrent == (
        not np.allclose(unroll(params, start, seen, no), unroll(params, start, seen, ~no))
    )


# ------------------------------------------------------------------------------------- real actions


def test_a_real_action_has_its_gaussian_density_and_data_a_noise_of_their_own():
    spec = make_spread(1).spec
    learner = mappo.make(SMALL.replace(log_std=-1.0, noise=0.3), spec)
    state = jax.jit(learner.init)(KEY)
    _, seen = make_spread(1).reset(KEY)
    behaviour, kept = (
        p.distribution((), seen)[1]
        for p in (learner.behaviour(state), learner.policy_of(learner.actor(state)))
    )
    mean, action = np.asarray(kept.mode()), np.array([[0.3, -0.9]])
    for dist, std in ((behaviour, np.exp(-1)), (kept, 0.3)):
        # log N(a; mu, std), summed over the two dimensions
        wanted = (-0.5 * ((action - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(
            -1
        )
        np.testing.assert_allclose(dist.log_prob(action), wanted, rtol=1e-4)
    assert (np.abs(mean) <= spec.action_bound).all()


def test_the_noise_of_training_does_not_fall_below_its_least():
    spec, seen = make_spread(1).spec, make_spread(1).reset(KEY)[1]
    for start, least, wanted in ((-3.0, 0.2, 0.2), (-1.0, 0.2, np.exp(-1)), (-3.0, 0, np.exp(-3))):
        learner = mappo.make(SMALL.replace(log_std=start, least_std=least, noise=0.3), spec)
        state = learner.init(KEY)
        policies = learner.behaviour(state), learner.policy_of(learner.actor(state))
        deviations = [
            float(policy.distribution((), seen)[1].distribution.scale[0, 0]) for policy in policies
        ]
        assert deviations == pytest.approx([wanted, 0.3])


@pytest.mark.parametrize("recurrent", [False, True])
def test_choices_in_data_have_a_temperature_of_their_own(recurrent):
    learner = mappo.make(SMALL.replace(temperature=0.5, recurrent=recurrent), CLOCK.spec)
    state = jax.jit(learner.init)(KEY)
    _, seen = CLOCK.reset(KEY)
    hot, cold = (
        p.distribution(p.initial(()), seen)[1].logits
        for p in (learner.behaviour(state), learner.policy_of(learner.actor(state)))
    )
    np.testing.assert_allclose(jax.nn.log_softmax(2 * hot), jax.nn.log_softmax(cold), atol=1e-5)


# ---------------------------------------------------------------------------------------- imitation


def twos(seen: TimeStep) -> jax.Array:
    """A script for Clock: always action 2."""
    return jnp.full(seen.avail.shape[:-1], 2)


def test_weights_of_imitation_and_surrogate_over_a_training():
    # 10 updates: 2 of cloning, then a weight that falls from .5 by a fifth of it in each, to 0
    config = SMALL.replace(iterations=10, clone=0.2, imitation=0.5, imitation_until=0.5)
    shares = [mappo.shares_at(config, jnp.asarray(k)) for k in range(7)]
    assert [float(share.surrogate) for share in shares] == [0, 0, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(
        [float(share.imitation) for share in shares], [1, 1, 0.3, 0.2, 0.1, 0, 0], atol=1e-6
    )
    off = mappo.shares_at(SMALL, jnp.asarray(0))
    assert (float(off.surrogate), float(off.imitation)) == (1, 0)


def test_cloning_raises_the_scripts_actions_whatever_they_are_paid():
    # Action 2 is the best of Clock, so it is paid worst here, and the surrogate would avoid it.
    seg = clock_segments()
    seg = seg._replace(reward=-seg.reward)
    config = SMALL.replace(iterations=100, epochs=8, lr=1e-2)
    logits = {}
    for clone in (0.0, 1.0):
        learner = mappo.make(config.replace(clone=clone), CLOCK.spec, twos)
        state = jax.jit(learner.init)(KEY)
        after, metrics = jax.jit(learner.update)(state, seg, KEY)
        assert ("imitation_loss" in metrics) == (clone > 0)
        chosen = [
            learner.behaviour(s).distribution((), seg.seen)[1].probs[..., 2].mean()
            for s in (state, after)
        ]
        logits[clone] = float(chosen[1] - chosen[0])
        critic = jax.tree.map(np.array_equal, state.nets.critic, after.nets.critic)
        assert not all(jax.tree.leaves(critic))  # the critic learns in both
    assert logits[1.0] > 0.1 > 0 > logits[0.0]


def test_a_script_sees_states_as_they_are_where_nets_see_standardised_ones():
    seg, heard = clock_segments(), []

    def script(seen: TimeStep) -> jax.Array:
        heard.append(seen.state)
        if len(heard) > 1:
            raise StopIteration
        return twos(seen)

    config = SMALL.replace(clone=1.0, input_norm="running")
    learner = mappo.make(config, CLOCK.spec, script)
    state, _ = jax.jit(learner.update)(learner.init(KEY), seg, KEY)  # inputs have moments now
    with pytest.raises(StopIteration):
        learner.update(state, seg, KEY)
    np.testing.assert_array_equal(heard[1], seg.seen.state)


@pytest.mark.parametrize("field", ["clone", "imitation"])
def test_imitation_without_a_script_is_refused_by_field(field):
    with pytest.raises(
        ValueError,
        match=f"field '{field}': expected 0, since toy/clock has no script to imitate, found 0.1",
    ):
        mappo.make(SMALL.replace(**{field: 0.1}), CLOCK.spec)


# --------------------------------------------------------------------------------- config, training


def test_parts_have_to_divide_the_environments():
    with pytest.raises(
        ValueError, match="field 'minibatches': expected a divisor of num_envs = 4, found 3"
    ):
        mappo.make(SMALL.replace(minibatches=3), CLOCK.spec)


def test_the_learning_rate_falls_to_zero_by_the_last_iteration():
    # four iterations of one step: rates of 4, 3, 2 and 1 quarters, and the fifth would be zero
    state, update = compiled(recurrent=False)
    actors = [state.nets]
    for _ in range(5):
        state = update(state, clock_segments(), KEY)[0]
        actors.append(state.nets)
    moved = [
        any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), *pair)))
        for pair in itertools.pairwise(actors)
    ]
    assert moved == [True] * 4 + [False] and int(state.updates) == 5


def test_value_targets_are_standardised_by_what_was_seen_of_them():
    # The first update knows its own targets only, with weight 0.1; so they have variance 1, against
    # values near 0.
    rich = clock_segments()._replace(reward=1000.0 * clock_segments().reward)
    state, metrics = updated(rich, recurrent=False)
    assert float(state.moments.weight) == pytest.approx(0.1) and float(metrics["value_loss"]) < 2


def test_it_learns_to_cover_a_landmark():
    # Random and untrained policies return about 32, at most 250 is possible, and 30 iterations gave
    # 190 and more.
    env = make_spread(1)
    sizes = {"num_envs": 32, "segment": 25, "iterations": 30, "snapshots": 1}
    config = Config(
        lr=1e-2,
        hidden=16,
        critic_hidden=16,
        recurrent=False,
        gamma=0.9,
        entropy=0.0,
        minibatches=2,
        **sizes,
    )
    first, last = train_on_policy(
        mappo.make(config, env.spec), env, seed=0, eval_episodes=128, **sizes
    )
    chance = float(
        jax.jit(
            lambda: evaluate(env, random_policy(env.spec), KEY, 128, sampled=True)["returns"].mean()
        )()
    )
    assert first.evaluation["returns"].mean() < 60 and chance < 60
    assert last.evaluation["returns"].mean() > 120


def test_agents_that_are_paid_apart_learn_apart_and_a_killed_training_goes_on_bit_for_bit(tmp_path):
    # IPPO with memory. Clock pays each agent its own action: both learn to play 2 of 0, 1, 2
    env, file = Clock(lengths=(2,)), tmp_path / "unfinished.npz"
    sizes = {"num_envs": 16, "segment": 8, "iterations": 30, "snapshots": 2}
    config = Config(
        lr=1e-2, hidden=8, critic_hidden=8, central=False, recurrent=True, minibatches=2, **sizes
    )
    train = lambda file: train_on_policy(
        mappo.make(config, env.spec), env, seed=0, eval_episodes=64, **sizes, resume=file
    )
    whole = list(train(None))
    assert whole[-1].evaluation["returns"].mean() > 7  # of 2 steps * 2 agents * 2 = 8; by chance 4
    broken = train(file)
    next(broken), next(broken)
    broken.close()
    for a, b in zip(train(file), whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a._replace(cpu_s=0), b._replace(cpu_s=0))
