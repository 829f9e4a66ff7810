"""Policies of all agents, their memory, and the models of teammates."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxoff import blocks
from jaxoff.batches import flatten
from jaxoff.data.dataset import place
from jaxoff.learners.behaviour import behaviour_learner
from jaxoff.losses.in_sample import log_ratio
from jaxoff.nets.actors import Actors, greedy
from jaxoff.nets.behaviour import TeammateModel
from jaxoff.nets.mlp import MLP, ActionCritic, embedding
from jaxoff.nets.normalised import Norm, folded
from jaxoff.nets.recurrent import GRU
from jaxoff.types import EnvSpec, TimeStep, Transition
from tests import toys
from tests.reference import inspo_numpy as ref
from tests.reference.toy_episodes import toy_episodes, toy_spec

SPEC = toy_spec()
THREE = EnvSpec(
    "three", num_agents=3, obs_size=2, state_size=2, action_size=4, discrete=True, horizon=1
)


def windows(discrete: bool = True) -> Transition:
    """Two whole episodes of 6 and 4 steps, [2, 6, ...]; agent 1 may not take action 2 unless it
    did.
    """
    dataset = place(toy_episodes((6, 4), discrete), toy_spec(discrete))
    batch = dataset.window(dataset.episode_row, 6)
    forbid = jnp.ones((2, 3)).at[1, 2].set(0.0)
    taken = jax.nn.one_hot(batch.actions, 3) if discrete else 1.0
    return batch._replace(
        avail=jnp.maximum(forbid, taken) * jnp.ones((2, 6, 2, 3)),
        next_avail=forbid * jnp.ones((2, 6, 2, 3)),
    )


def seen_at(batch: Transition, t: int) -> TimeStep:
    """What the policy sees before step t of windows."""
    last = jnp.full_like(batch.actions[:, 0], -1) if t == 0 else batch.actions[:, t - 1]
    no = jnp.zeros(batch.valid.shape[0], bool)
    return TimeStep(
        batch.obs[:, t], batch.state[:, t], batch.avail[:, t], batch.reward[:, t], no, no, last
    )


# ---------------------------------------------------------------------------------------------
# layers


def test_mlp_is_dense_relu_dense():
    net, x = MLP((5, 4, 2)), jnp.linspace(-1, 1, 9).reshape(3, 3)
    params = net.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        net.apply(params, x),
        ref.forward(toys.layers_of(params), np.asarray(x, float))[0],
        rtol=1e-5,
        atol=1e-6,
    )


def gru(seed: int = 0) -> tuple[GRU, dict, np.ndarray]:
    net, x = GRU(4), np.random.default_rng(seed).normal(size=(7, 3))
    params = net.init(jax.random.key(seed), jnp.zeros(4), jnp.asarray(x))
    return net, jax.tree.map(lambda p: p + 0.1, params), x  # so that no bias is zero


def test_gru_equals_a_plain_cell_stepped_by_hand():
    net, params, x = gru()
    p = {
        name: np.asarray(v, float)
        for name, v in (params["params"] | params["params"]["input"]).items()
        if name != "input"
    }
    h, wanted = np.zeros(4), []
    for row in x:
        h = ref.gru_cell(h, row, p["kernel"], p["bias"], p["hidden"], p["hidden_bias"])
        wanted.append(h)
    memory, out = net.apply(params, jnp.zeros(4), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(memory, wanted[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("restarts", [False, True])
def test_an_accelerators_gradient_of_a_gru_is_that_of_the_plain_scan(restarts, monkeypatch):
    net, params, _ = gru()
    x = jax.random.normal(jax.random.key(1), (2, 3, 7, 3))  # runs, rows, steps
    memory = jax.random.normal(jax.random.key(2), (2, 3, 4))
    reset = (jnp.arange(7) % 3 == 1) & (jnp.arange(3)[:, None] > 0) if restarts else None

    def loss(params, memory, x):
        last, out = net.apply(params, memory, x, reset)
        return jnp.sum(jnp.sin(3 * out)) + jnp.sum(last**2)

    slopes = lambda: jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1, 2)), (None, 0, 0)))(
        params, memory, x
    )
    wanted = slopes()
    monkeypatch.setattr(blocks, "fits_cache", lambda: False)
    chex.assert_trees_all_close(slopes(), wanted, rtol=1e-5, atol=1e-5)


def test_an_accelerators_action_critic_is_the_plain_one(monkeypatch):
    net, keys = ActionCritic(5), jax.random.split(jax.random.key(0), 3)
    context, actions = (
        jax.random.normal(key, shape) for key, shape in zip(keys, ((6, 3), (4, 6, 2)), strict=False)
    )
    params = net.init(keys[2], context, actions)
    loss = lambda params, actions: jnp.sum(jnp.square(net.apply(params, context, actions)))
    slopes = lambda: jax.jit(jax.value_and_grad(loss, (0, 1)))(params, actions)
    wanted = slopes()
    monkeypatch.setattr(blocks, "fits_cache", lambda: False)
    chex.assert_trees_all_close(slopes(), wanted, rtol=1e-5, atol=1e-6)


def test_a_folded_norm_scales_and_shifts_the_inputs():
    net, keys = ActionCritic(5), jax.random.split(jax.random.key(0), 5)
    context, actions = jax.random.normal(keys[0], (6, 3)), jax.random.normal(keys[1], (4, 6, 2))
    params = net.init(keys[2], context, actions)
    norm = Norm(jax.random.normal(keys[3], (5,)), jax.random.normal(keys[4], (5,)))
    moved = (norm.scale[:3] * context + norm.shift[:3], norm.scale[3:] * actions + norm.shift[3:])
    wanted, plain = net.apply(params, *moved), folded(norm, params)
    chex.assert_trees_all_close(net.apply(plain, context, actions), wanted, rtol=1e-5, atol=1e-6)
    known = net.apply(plain, embedding(plain, context), actions, embedded=True)
    chex.assert_trees_all_close(known, wanted, rtol=1e-5, atol=1e-6)


def test_gru_has_flaxs_gate_convention():
    net, params, x = gru()
    p = params["params"]
    split = lambda v: jnp.split(v, 3, -1)
    inputs = {
        f"i{g}": {"kernel": k, "bias": b}
        for g, k, b in zip(
            "rzn", split(p["input"]["kernel"]), split(p["input"]["bias"]), strict=True
        )
    }
    hidden = {f"h{g}": {"kernel": k} for g, k in zip("rzn", split(p["hidden"]), strict=True)}
    hidden["hn"]["bias"] = p["hidden_bias"]
    h = jnp.zeros(4)
    for row in jnp.asarray(x, jnp.float32):
        h, _ = nn.GRUCell(4).apply({"params": inputs | hidden}, h, row)
    np.testing.assert_allclose(
        net.apply(params, jnp.zeros(4), jnp.asarray(x, jnp.float32))[0], h, rtol=1e-5, atol=1e-6
    )


def test_gru_with_sonnets_gate_resets_before_the_recurrent_product():
    # z, r from the memory; candidate tanh(x W + b + (r h) U); no bias inside, which PyTorch's has.
    net, x = GRU(4, reset_gate="before"), np.random.default_rng(0).normal(size=(7, 3))
    params = jax.tree.map(
        lambda p: p + 0.1, net.init(jax.random.key(0), jnp.zeros(4), jnp.asarray(x))
    )
    p = jax.tree.map(lambda v: np.asarray(v, float), params["params"])
    sigmoid, h, wanted = lambda v: 1 / (1 + np.exp(-v)), np.zeros(4), []
    for row in x:
        gates = row @ p["input"]["kernel"] + p["input"]["bias"]
        reset = sigmoid(gates[:4] + h @ p["hidden"][:, :4])
        keep = sigmoid(gates[4:8] + h @ p["hidden"][:, 4:8])
        h = (1 - keep) * np.tanh(gates[8:] + (reset * h) @ p["hidden"][:, 8:]) + keep * h
        wanted.append(h)
    np.testing.assert_allclose(
        net.apply(params, jnp.zeros(4), jnp.asarray(x, jnp.float32))[1],
        wanted,
        rtol=1e-5,
        atol=1e-6,
    )
    assert "hidden_bias" not in p


# ---------------------------------------------------------------------------------------------
# actors


@pytest.mark.parametrize("share", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_actor_outputs_on_windows_equal_stepping_the_policy(recurrent, share):
    # Step t sees the action of step t-1, none at t = 0; `next` of slot t is what is seen at t + 1.
    actors, batch = Actors(SPEC, 5, recurrent=recurrent, share=share), windows()
    params = actors.init(jax.random.key(0))
    now, after = jax.jit(actors.outputs)(params, batch)
    policy = actors.policy(params)
    memory, step = policy.initial((2,)), jax.jit(policy.distribution)
    for t in range(6):
        memory, dist = step(memory, seen_at(batch, t))
        np.testing.assert_allclose(dist.probs, jax.nn.softmax(now[:, t]), rtol=1e-4, atol=1e-6)
        # both episodes are in their steps, so avail and next_avail describe the same slot
        if 0 < t < 4:
            raw = jnp.where(
                batch.avail[:, t] * batch.next_avail[:, t - 1] > 0, now[:, t] - after[:, t - 1], 0.0
            )
            np.testing.assert_allclose(raw, 0.0, atol=1e-5)


def test_recurrent_policy_starts_an_episode_with_empty_memory():
    # Zero memory and an all-zero previous action: the first output is that of a window of one step.
    actors, batch = Actors(SPEC, 5, recurrent=True), windows()
    params = actors.init(jax.random.key(0))
    memory = actors.policy(params).initial((2,))
    np.testing.assert_array_equal(memory, np.zeros((2, 2, 5)))
    one = jax.tree.map(lambda x: x[:, :1], batch)
    _, dist = actors.policy(params).distribution(memory, seen_at(batch, 0))
    np.testing.assert_allclose(
        dist.probs, jax.nn.softmax(actors.outputs(params, one)[0][:, 0]), rtol=1e-5, atol=1e-6
    )


def test_recurrent_policy_uses_the_previous_action():
    actors, batch = Actors(SPEC, 5, recurrent=True), windows()
    params = actors.init(jax.random.key(0))
    other = batch._replace(actions=batch.actions.at[:, 2, 0].set((batch.actions[:, 2, 0] + 1) % 3))
    outputs = jax.jit(actors.outputs)
    now, changed = (outputs(params, b)[0][..., 0, :] for b in (batch, other))
    np.testing.assert_array_equal(now[:, :3], changed[:, :3])  # action 2 is seen from slot 3 on
    assert (jnp.abs(now[:, 3:] - changed[:, 3:]).max((0, 2)) > 0).all()


def test_a_window_that_begins_inside_an_episode_sees_the_action_before_it():
    # Training on the window equals execution, which is given that action; the memory is empty in
    # both.
    actors, dataset = Actors(SPEC, 5, recurrent=True), place(toy_episodes((6, 4)), toy_spec())
    params, begin = actors.init(jax.random.key(0)), dataset.episode_row[0] + 2
    window = dataset.window(begin[None], 3)
    before = dataset.window(dataset.episode_row[:1], 6).actions[:, 1]
    np.testing.assert_array_equal(window.last_actions[:, 0], before)
    memory = actors.policy(params).initial((1,))
    _, dist = actors.policy(params).distribution(
        memory, seen_at(window, 0)._replace(last_actions=before)
    )
    now = actors.outputs(params, window)[0][:, 0]
    np.testing.assert_allclose(dist.probs, jax.nn.softmax(now), rtol=1e-5, atol=1e-6)
    other = actors.outputs(
        params, window._replace(last_actions=jnp.full_like(window.last_actions, -1))
    )[0][:, 0]
    assert np.abs(other - now).max() > 1e-4


@pytest.mark.parametrize("scale", [1e11, 1e30])
def test_a_masked_action_is_never_chosen_whatever_the_values(scale):
    # Values of -1e11 are below the mask that was -1e10, and an argmax chose the masked action.
    actors, batch = Actors(SPEC, 5), windows()
    params = jax.tree.map(lambda x: -scale * jnp.ones_like(x), actors.init(jax.random.key(0)))
    params["params"]["Dense_2"]["kernel"] *= 0.0
    avail = jnp.zeros_like(batch.avail).at[..., 1].set(1.0)
    batch = batch._replace(avail=avail, next_avail=avail)
    for out in actors.outputs(params, batch):
        np.testing.assert_array_equal(jnp.argmax(out, -1), 1)
        np.testing.assert_array_equal(jax.nn.softmax(out)[..., 1], 1.0)
    _, dist = greedy(actors.policy(params)).distribution((), seen_at(batch, 0))
    np.testing.assert_array_equal(dist.probs[..., 1], 1.0)


def test_outputs_of_both_slots_in_one_product_are_those_of_two(monkeypatch):
    actors, batch = Actors(SPEC, 5), windows()
    params = actors.init(jax.random.key(0))
    wanted = actors.outputs(params, batch)
    monkeypatch.setattr(blocks, "fits_cache", lambda: False)
    found = actors.outputs(params, batch, both=True)
    chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_padding_does_not_change_outputs_of_earlier_slots():
    actors, batch = Actors(SPEC, 5, recurrent=True), windows()
    params = actors.init(jax.random.key(0))
    noisy = batch._replace(
        obs=batch.obs + 9.0 * (1 - batch.valid)[..., None, None],
        actions=jnp.where(batch.valid[..., None] > 0, batch.actions, 2),
    )
    outputs = jax.jit(actors.outputs)
    now, changed = (outputs(params, b)[0] for b in (batch, noisy))
    np.testing.assert_array_equal(now[1, :4], changed[1, :4])
    assert float(jnp.abs(now[1, 4:] - changed[1, 4:]).max()) > 0


@pytest.mark.parametrize("recurrent", [False, True])
def test_unavailable_actions_have_probability_zero(recurrent):
    actors = Actors(SPEC, 5, recurrent=recurrent)
    batch = windows()._replace(avail=jnp.ones((2, 6, 2, 3)).at[..., 0, 0].set(0.0))
    now, _ = actors.outputs(actors.init(jax.random.key(0)), batch)
    probs = jax.nn.softmax(now)
    np.testing.assert_array_equal(probs[..., 0, 0], 0.0)
    assert float(probs[..., 1, :].min()) > 0


def test_shared_net_appends_the_agents_number():
    # Equal observations: the input of agent i is obs followed by row i of the identity.
    actors, obs = Actors(SPEC, 5, share=True), jnp.array([0.3, -1.0, 2.0, 0.5])
    params = actors.init(jax.random.key(0))
    assert toys.layers_of(params)[0][0].shape == (4 + 2, 5)
    batch = windows()._replace(
        obs=jnp.broadcast_to(obs, (2, 6, 2, 4)), avail=jnp.ones((2, 6, 2, 3))
    )
    now, _ = actors.outputs(params, batch)
    for agent in range(2):
        wanted = ref.forward(
            toys.layers_of(params), np.concatenate([np.asarray(obs, float), np.eye(2)[agent]])
        )[0]
        np.testing.assert_allclose(now[0, 0, agent], wanted, rtol=1e-5, atol=1e-6)


def test_own_nets_depend_on_their_own_parameters_only():
    actors, batch = Actors(SPEC, 5), windows()
    params = actors.init(jax.random.key(0))
    now = actors.outputs(params, batch)[0]
    moved = actors.outputs(jax.tree.map(lambda x: x.at[1].add(0.1), params), batch)[0]
    np.testing.assert_array_equal(now[..., 0, :], moved[..., 0, :])
    assert float(jnp.abs(now[..., 1, :] - moved[..., 1, :]).max()) > 0


def test_continuous_actions_lie_in_the_bound():
    spec = EnvSpec("bounded", 2, 4, 3, 3, discrete=False, horizon=6, action_bound=0.4)
    actors = Actors(spec, 5)
    params = jax.tree.map(lambda x: 50 * x, actors.init(jax.random.key(0)))
    now, _ = actors.outputs(params, windows(discrete=False))
    assert float(jnp.abs(now).max()) == pytest.approx(0.4)


# ---------------------------------------------------------------------------------- behaviour
# models


def rows_of_three(seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 3, size=(12, 3))
    avail = np.ones((12, 3, 4))
    avail[::2, :, 3] = 0
    return (
        jnp.asarray(rng.normal(size=(12, 2)), jnp.float32),
        jnp.asarray(actions),
        jnp.asarray(avail),
    )


@pytest.mark.parametrize("anchor", range(3))
def test_teammate_model_equals_a_plain_loop(anchor):
    model = TeammateModel(THREE, 6)
    params = model.init(jax.random.key(0))
    found = jax.jit(model.log_prob)(
        jax.tree.map(lambda x: x[anchor], params), anchor, *rows_of_three()
    )
    wanted = ref.teammates_log_prob(
        toys.layers_of(params, anchor), anchor, *map(np.asarray, rows_of_three())
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("anchor", "depends"),
    # depends[j]: whose actions move log mu(a_j | ...), besides a_j itself: the anchor's, and
    # teammates before j.
    [(0, {1: {0}, 2: {0, 1}}), (1, {0: {1}, 2: {0, 1}}), (2, {0: {2}, 1: {0, 2}})],
)
def test_teammate_model_sees_the_anchor_and_earlier_teammates_only(anchor, depends):
    model = TeammateModel(THREE, 6)
    params = jax.tree.map(lambda x: x[anchor], model.init(jax.random.key(0)))
    state, actions, _ = rows_of_three()
    avail = jnp.ones((12, 3, 4))
    log_prob = jax.jit(model.log_prob)
    before = log_prob(params, anchor, state, actions, avail)
    np.testing.assert_array_equal(before[:, anchor], 0.0)
    for target, sources in depends.items():
        for source in {0, 1, 2} - {target}:
            after = log_prob(
                params,
                anchor,
                state,
                actions.at[:, source].set((actions[:, source] + 1) % 4),
                avail,
            )
            assert (float(jnp.abs(after - before)[:, target].max()) > 1e-6) == (
                source in sources
            ), (target, source)


def test_teammate_model_needs_a_teammate():
    with pytest.raises(ValueError, match="expected at least 2 agents, found 1"):
        TeammateModel(EnvSpec("alone", 1, 2, 2, 2, True, 1), 4)


def one_state_batch(actions: np.ndarray, episode: np.ndarray | None = None) -> Transition:
    """Rows of a one-state game from joint actions [M, N] of two choices."""
    m, n = actions.shape
    zero, obs, avail = jnp.zeros(m), jnp.ones((m, n, 1)), jnp.ones((m, n, 2))
    # of 0..18, none is held out
    episode = jnp.arange(m) % 19 if episode is None else jnp.asarray(episode)
    after = (obs, jnp.ones((m, 1)), avail)
    return Transition(
        *after,
        jnp.asarray(actions),
        zero,
        zero + 1,
        zero,
        zero + 1,
        jnp.zeros(m, int),
        episode,
        *after,
    )


ONE_STATE = EnvSpec("one-state", 2, 1, 1, 2, True, 1)


@functools.cache
def fitter():
    """init and update of a fit with a check at each update (100 in 100) and a patience of 3."""
    learner = behaviour_learner(
        Actors(ONE_STATE, 8), TeammateModel(ONE_STATE, 8), optax.adam(0.03), 100, 3
    )
    return jax.jit(learner.init), jax.jit(learner.update)


def fit(batches: list[Transition]):
    """States before and after each update on the batches in turn, and the metrics."""
    init, update = fitter()
    state, told = init(jax.random.key(0)), []
    states = [state]
    for batch in batches:
        state, out = update(state, batch, jax.random.key(0))
        states.append(state)
        told.append(out.metrics)
    return states, told


def test_behaviour_stage_learns_the_conditional_of_teammates():
    # XOR (c): after fitting AA, AB, BA, anchor 0 and uniform pi_1 give the ratios (1, 1, 1/2).
    batch = one_state_batch(np.array([[0, 0], [0, 1], [1, 0]] * 4))
    states, _ = fit([batch] * 300)
    rows = flatten(batch)
    own = jax.tree.map(lambda x: x[0], states[-1].teammates)
    log_mates = TeammateModel(ONE_STATE, 8).log_prob(own, 0, rows.state, rows.actions, rows.avail)
    ratio = jnp.exp(log_ratio(jnp.log(jnp.full((12, 2), 0.5)), log_mates, 0))
    np.testing.assert_allclose(ratio, [1, 1, 0.5] * 4, atol=0.01)


def test_behaviour_stage_gives_held_out_episodes_no_gradient():
    # Episode 19 of 20 is held out: other actions there change nothing that is trained, those of
    # episode 18 do.
    kept, episode = np.array([[0, 0], [0, 1], [1, 0], [0, 0]] * 3), np.array([0, 1, 18, 19] * 3)
    other_held, other_kept = kept.copy(), kept.copy()
    other_held[3::4], other_kept[2::4] = 1, 1
    first, second, third = (
        fit([one_state_batch(a, episode)])[0][-1] for a in (kept, other_held, other_kept)
    )
    trained = lambda s: np.concatenate(
        [np.ravel(x) for x in jax.tree.leaves((s.policy, s.teammates))]
    )
    np.testing.assert_array_equal(trained(first), trained(second))
    assert float(first.best) != float(second.best)
    assert np.abs(trained(first) - trained(third)).max() > 0


def test_behaviour_stage_stops_for_good_after_patience_without_improvement():
    # Training says A and the held-out episodes say B, so each check is worse: the first sets the
    # best, checks 2, 3 and 4 are bad, and with patience 3 nothing moves from update 5 on, even if a
    # later check is better.
    episode = np.array([0, 1, 2, 19] * 3)
    worse, better = (
        one_state_batch(np.array([[0, 0], [0, 0], [0, 0], [a, a]] * 3), episode) for a in (1, 0)
    )
    states, told = fit([worse] * 6 + [better] * 3)
    assert [int(s.bad_checks) for s in states] == [0, 0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert [float(m["behaviour_training"]) for m in told] == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    same = lambda a, b: all(
        np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )
    assert not same(states[3].policy, states[4].policy)
    assert same(states[4].policy, states[9].policy)
    assert same(states[4].teammates, states[9].teammates)
