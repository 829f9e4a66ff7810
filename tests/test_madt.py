"""MADT: its net and loss against float64 NumPy, causality, windows, rollouts that agree with
training, its controls.
"""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines import madt
from scipy.special import log_softmax

from jaxoff.config import checked
from jaxoff.data import samplers
from jaxoff.data.dataset import Dataset, place
from jaxoff.data.returns import Returns, episode_returns, positivity, returns_of, share_of_best
from jaxoff.nets.transformer import MODES
from jaxoff.optimisers import linear_weights
from jaxoff.types import UNAVAILABLE, EnvSpec, TimeStep, Transition
from tests import toys
from tests.reference import madt_numpy as ref
from tests.reference.toy_episodes import toy_episodes, toy_spec

SIZES: dict[str, Any] = {"hidden": 8, "layers": 1, "heads": 2}
LENGTHS = (3, 1, 6, 5)  # returns 6, 11, 141, 165


@functools.cache
def data() -> Dataset:
    """Toy episodes in which agent 1 of episode 2 is dead from step 4 on, and some actions are
    unavailable elsewhere.
    """
    episodes = toy_episodes(LENGTHS)
    avail, actions = np.array(episodes.avail), np.array(episodes.actions)
    avail[0, :, 0, 2] = 0
    actions[0, :, 0] %= 2
    avail[2, 4:, 1], actions[2, 4:, 1] = [0, 1, 0], 1
    return place(episodes._replace(avail=avail * (episodes.avail > 0), actions=actions), toy_spec())


def method(mode: str = "rtg_state_action", window: int = -1, **changes: Any) -> madt.Method:
    return madt.method_of(madt.Config(mode=mode, window=window, **SIZES | changes), toy_spec())


def state_of(m: madt.Method, seed: int = 0, scale: float = 0.5) -> madt.State:
    """Random numbers in every parameter, tables and biases too."""
    state = jax.eval_shape(lambda: madt.init(m, returns_of(data()), jax.random.key(0)))
    rng = np.random.default_rng(seed)
    drawn = jax.tree.map(lambda x: scale * rng.normal(size=x.shape), state.policy)
    return madt.State(drawn, (), returns())


@functools.cache
def returns() -> Returns:
    return jax.jit(returns_of)(data())


@functools.partial(jax.jit, static_argnames="length")
def cut(dataset: Dataset, rows: jax.Array, length: int) -> tuple[Transition, jax.Array]:
    batch = toys.window(dataset, rows, length)
    return batch, returns_of(dataset).ahead(batch)


def windows(length: int = 6) -> Transition:
    """Every episode from its first step, padded."""
    return cut(data(), data().episode_row, length)[0]


def logits(m: madt.Method, params: Any, batch: Transition, to_go: jax.Array) -> np.ndarray:
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    return np.asarray(jax.jit(functools.partial(madt.logits_of, m))(params, batch, to_go))


# ------------------------------------------------------------------------------------ loss and net


@pytest.mark.parametrize(
    ("mode", "masked"), [("state_only", True), ("state_action", False), ("rtg_state_action", True)]
)
def test_loss_and_gradient_equal_float64_numpy(mode, masked):
    m, batch = method(mode, mask_loss=masked, layers=2 if mode == "state_action" else 1), windows()
    state, weight, to_go = state_of(m), madt.choosing(batch), returns().ahead(batch)

    def mean_loss(params):
        return madt.masked_mean(madt.cloning_loss(m, params, batch, to_go), weight)

    with jax.enable_x64(True):
        loss, grads = jax.jit(jax.value_and_grad(mean_loss))(state.policy)
    rows = {name: np.asarray(x) for name, x in batch._asdict().items() if x is not None}
    numpy_loss = lambda p: ref.loss(p, mode, 2, rows, np.asarray(to_go), masked)
    assert float(loss) == pytest.approx(numpy_loss(state.policy), rel=1e-6)
    rng = np.random.default_rng(1)
    way = jax.tree.map(lambda x: rng.normal(size=x.shape), state.policy)
    at = lambda h: numpy_loss(jax.tree.map(lambda x, d: x + h * d, state.policy, way))
    found = sum(
        float(np.vdot(g, d))
        for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(way), strict=True)
    )
    assert found == pytest.approx((at(1e-5) - at(-1e-5)) / 2e-5, rel=1e-5)


def test_one_step_of_observation_is_a_per_step_mlp():
    # With one token, attention gives that token's own value: x + W_o W_v norm(x), then the wide
    # layer.
    m, batch = (
        method("state_only", window=1, layers=2),
        jax.jit(lambda d: d.steps(d.step_row))(data()),
    )
    state = state_of(m)
    features = jax.jit(
        lambda p: m.trunk.features(p, jax.tree.map(lambda x: x[:, None], batch), jnp.zeros((15, 1)))
    )
    out = np.asarray(features(state.policy["trunk"]))
    p = state.policy["trunk"]["params"]
    for row, agent in ((0, 0), (7, 1)):
        seen = np.concatenate([np.asarray(batch.obs)[row, agent], np.eye(2)[agent]])
        x = (
            np.tanh(ref.dense(p["obs"], seen))
            + p["slots"][0]
            + p["times"][int(batch.steps_before[row])]
        )
        for k in range(2):
            b = p[f"Block_{k}"]
            value = ref.dense(b["Dense_0"], ref.layer_norm(b["LayerNorm_0"], x))[16:]
            x = x + ref.dense(b["Dense_1"], value)
            x = x + ref.dense(
                b["Dense_3"],
                np.asarray(
                    jax.nn.gelu(ref.dense(b["Dense_2"], ref.layer_norm(b["LayerNorm_1"], x)), False)
                ),
            )
        np.testing.assert_allclose(
            out[row, 0, agent], ref.layer_norm(p["LayerNorm_0"], x), rtol=2e-5, atol=2e-5
        )


# ---------------------------------------------------------------------------------------- causality


@pytest.mark.parametrize("mode", MODES)
def test_nothing_leaks_from_later_steps_and_the_action_of_a_step_is_not_its_input(mode):
    m, batch = method(mode), windows()
    params, to_go = jax.tree.map(jnp.asarray, state_of(m).policy), returns().ahead(batch)
    run = jax.jit(lambda batch, to_go: madt.logits_of(m, params, batch, to_go))
    before = np.asarray(run(batch, to_go))
    for t in (1, 4):
        changed = {"obs": batch._replace(obs=batch.obs.at[:, t].add(1.0))}
        if mode != "state_only":
            changed["action"] = batch._replace(
                last_actions=batch.last_actions.at[:, t].set((batch.last_actions[:, t] + 1) % 3)
            )
        after = {name: np.asarray(run(other, to_go)) for name, other in changed.items()}
        if mode == "rtg_state_action":
            after["return"] = np.asarray(run(batch, to_go.at[:, t].add(1.0)))
        for name, found in after.items():
            np.testing.assert_array_equal(found[:, :t], before[:, :t], err_msg=name)
            assert (np.abs(found[:, t:] - before[:, t:]).max((-1, -2)) > 1e-6).all(), name
    label = batch._replace(actions=(batch.actions + 1) % 3)
    np.testing.assert_array_equal(run(label, to_go), before)


def test_previous_actions_are_shifted_and_known_at_the_first_step_of_a_window():
    whole, episodes = windows(), toy_episodes(LENGTHS)
    last, actions = np.asarray(whole.last_actions), np.asarray(whole.actions)
    np.testing.assert_array_equal(last[:, 0], -1)
    np.testing.assert_array_equal(last[:, 1:], actions[:, :-1])
    # From step 2 of episodes 0 and 2 on (rows 2 and 3 + 1 + 1 + 1 + 2): the action of step 1 of
    # that episode.
    middle = cut(data(), jnp.array([2, 8]), 3)[0]
    np.testing.assert_array_equal(middle.last_actions[:, 0], np.asarray(whole.actions)[[0, 2], 1])
    assert int(middle.steps_before[1, 0]) == 2 and episodes.reward[2, 2] == middle.reward[1, 0]
    # A first step is one even where another episode lies in the row before.
    np.testing.assert_array_equal(toys.steps(data(), data().episode_row).last_actions, -1)


def test_windows_do_not_mix_episodes():
    # observations say which episode: windows of 4 hold one each, and what is beyond its end is not
    # valid
    sampler = samplers.windows(400, 4)
    batch = jax.jit(
        lambda d: sampler.gather(d, sampler.draw(sampler.init(d), d, jax.random.key(0)))
    )(data())
    numbers, valid = np.asarray(batch.state[..., 0]), np.asarray(batch.valid) > 0
    assert ((numbers == np.asarray(batch.episode)) | ~valid).all() and set(
        np.asarray(batch.episode[:, 0])
    ) == {0, 1, 2, 3}


def test_dead_units_and_padding_are_no_labels():
    batch = windows()
    weight = np.asarray(madt.choosing(batch))
    wanted = np.arange(6)[None, :, None] < np.array(LENGTHS)[:, None, None] + np.zeros((1, 1, 2))
    wanted[2, 4:, 1] = False
    np.testing.assert_array_equal(weight, wanted)


def test_returns_to_go_start_with_the_return_of_the_episode():
    batch, found = windows(), returns()
    np.testing.assert_allclose(found.ahead(batch)[:, 0], [6.0, 11.0, 141.0, 165.0])
    # rewards 1, 2, 3
    np.testing.assert_allclose(found.ahead(batch)[0], [6.0, 5.0, 3.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(
        found.whole(toys.steps(data(), data().step_row)),
        np.repeat([6.0, 11.0, 141.0, 165.0], LENGTHS),
    )
    np.testing.assert_allclose(
        episode_returns(data()), np.repeat([6.0, 11.0, 141.0, 165.0], LENGTHS)
    )


# ----------------------------------------------------------------------------------------- rollouts


@pytest.mark.parametrize(
    ("mode", "window"),
    [("state_only", 1), ("state_action", 3), ("rtg_state_action", 4), ("rtg_state_action", -1)],
)
def test_a_rollout_has_the_logits_of_the_offline_window(mode, window):
    # Episode 2 (6 steps) is fed step by step; the context of t + 1 <= C steps begins at 0, later
    # ones at t - C + 1.
    m = method(mode, window, target_return=141.0)
    state, row = state_of(m), int(data().episode_row[2])
    state = state._replace(policy=jax.tree.map(jnp.asarray, state.policy))
    batch, policy = cut(data(), jnp.array([row]), 6)[0], madt.policy_of(m, state)
    memory, step = policy.initial((1,)), jax.jit(policy.distribution)
    context, no = m.trunk.context, jnp.zeros(1, bool)
    run = jax.jit(lambda part, to_go: madt.logits_of(m, state.policy, part, to_go))
    for t in range(6):
        reward = jnp.zeros(1) if t == 0 else batch.reward[:, t - 1]
        seen = TimeStep(
            batch.obs[:, t],
            batch.state[:, t],
            batch.avail[:, t],
            reward,
            no,
            no,
            batch.last_actions[:, t],
        )
        memory, dist = step(memory, seen)
        offline = run(*cut(data(), jnp.array([row + max(t - context + 1, 0)]), context))[
            :, min(t, context - 1)
        ]
        wanted = log_softmax(np.where(batch.avail[:, t] > 0, offline, UNAVAILABLE), -1)
        np.testing.assert_allclose(dist.logits, wanted, atol=1e-5, rtol=1e-5)


def test_unavailable_actions_have_probability_zero_and_a_full_set_changes_nothing():
    m = method("state_only", 1)
    state, no = state_of(m), jnp.zeros(3, bool)
    state = state._replace(policy=jax.tree.map(jnp.asarray, state.policy))
    avail = jnp.ones((3, 2, 3)).at[0, 0, 1].set(0.0)
    seen = TimeStep(
        jnp.ones((3, 2, 4)), jnp.ones((3, 3)), avail, jnp.zeros(3), no, no, jnp.full((3, 2), -1)
    )
    policy = madt.policy_of(m, state)
    _, dist = jax.jit(policy.distribution)(policy.initial((3,)), seen)
    assert dist.probs[0, 0, 1] == 0.0 and (dist.probs.sum(-1) == pytest.approx(1.0))
    part = Transition(*[None] * len(Transition._fields))._replace(
        obs=seen.obs[:, None],
        last_actions=seen.last_actions[:, None],
        steps_before=jnp.zeros((3, 1), jnp.int32),
    )
    raw = logits(m, state.policy, part, jnp.zeros((3, 1)))[:, 0]
    np.testing.assert_allclose(dist.probs[1], jax.nn.softmax(raw[1]), rtol=1e-6)


# -------------------------------------------------------------------------- structure and controls


def test_permuting_windows_permutes_logits_and_agents_are_told_apart_by_their_number_alone():
    m, batch = method("state_action"), windows()
    state, to_go = state_of(m), returns().ahead(batch)
    run = lambda batch, to_go: logits(m, state.policy, batch, to_go)
    out, order = run(batch, to_go), jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        run(jax.tree.map(lambda x: x[order], batch), to_go[order]), out[order], atol=1e-5
    )
    swapped = batch._replace(obs=batch.obs[:, :, ::-1], last_actions=batch.last_actions[:, :, ::-1])
    assert not np.allclose(run(swapped, to_go)[:, :, ::-1], out, atol=1e-3)
    # with the numbers swapped as well, that is with the weights of the two numbers exchanged,
    # nothing changes
    kernel = jnp.asarray(state.policy["trunk"]["params"]["obs"]["kernel"])
    other = jax.tree.map(jnp.asarray, state.policy)
    other["trunk"]["params"]["obs"]["kernel"] = kernel[jnp.array([0, 1, 2, 3, 5, 4])]
    np.testing.assert_allclose(logits(m, other, swapped, to_go)[:, :, ::-1], out, atol=1e-5)
    blind = method("state_action", agent_id=False)
    params = state_of(blind).policy
    np.testing.assert_allclose(
        logits(blind, params, swapped, to_go)[:, :, ::-1],
        logits(blind, params, batch, to_go),
        atol=1e-5,
    )


def test_weights_of_linear_maps_decay_and_nothing_else():
    m = method()
    params = jax.eval_shape(lambda: madt.init(m, madt.no_returns(), jax.random.key(0))).policy
    decays = {
        jax.tree_util.keystr(path)
        for path, flag in jax.tree_util.tree_leaves_with_path(linear_weights(params))
        if flag
    }
    assert len(decays) == 4 + 2 + 1 and all(name.endswith("['kernel']") for name in decays)
    # Without a gradient a step of AdamW is -lr * decay * weight: 5e-4 * .1.
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), params)
    step = jax.jit(
        lambda p: m.optimiser.update(jax.tree.map(jnp.zeros_like, p), m.optimiser.init(p), p)[0]
    )
    wanted = jax.tree.map(
        lambda x, flag: np.full(x.shape, -5e-5 if flag else 0.0, np.float32),
        ones,
        linear_weights(ones),
    )
    chex.assert_trees_all_close(step(ones), wanted, rtol=1e-5)


def test_fresh_tables_are_zero_and_maps_are_small():
    trunk = jax.jit(
        lambda key: madt.init(method(), madt.no_returns(), key).policy["trunk"]["params"]
    )(jax.random.key(0))
    assert (
        not trunk["slots"].any()
        and not trunk["times"].any()
        and not trunk["Block_0"]["Dense_0"]["bias"].any()
    )
    assert float(trunk["Block_0"]["Dense_0"]["kernel"].std()) == pytest.approx(0.02, rel=0.2)
    # uniform within 1 / sqrt(4 + 2)
    assert 0.2 < float(jnp.abs(trunk["obs"]["kernel"]).max()) <= 6**-0.5
    assert trunk["slots"].shape == (18, 8) and trunk["times"].shape == (7, 8)


@pytest.mark.parametrize("window", [0, 2, -1])
def test_filter_draws_no_poor_episode_and_return_weights_follow_positivity(window):
    # returns 6, 11, 141, 165 on a scale 0..160: shares .04, .07, .88, 1; positivity .010, .013,
    # .978, .993
    counts = {}
    for weighting in ("filter", "return"):
        config = madt.Config(
            weighting=weighting, return_high=160.0, batch_size=20_000, window=window, **SIZES
        )
        (stage,) = madt.make(config, toy_spec())
        sampler = stage.sampler(None)
        items = jax.jit(
            lambda d, sampler=sampler: sampler.draw(sampler.init(d), d, jax.random.key(0))
        )(data())
        batch = jax.jit(sampler.gather)(data(), items[:5])
        assert batch.valid.shape == ((5,) if window == 0 else (5, 2) if window > 0 else (5, 6))
        counts[weighting] = (
            np.bincount(np.asarray(data().episode_of(data().step_row[items])), minlength=4) / 20_000
        )
    items_of = {0: np.array(LENGTHS), 2: np.array([2, 1, 5, 4]), -1: np.ones(4)}[window]
    good = items_of * [0, 0, 1, 1]
    np.testing.assert_allclose(counts["filter"], good / good.sum(), atol=0.02)
    soft = items_of * np.asarray(
        positivity(share_of_best(jnp.array([6.0, 11.0, 141.0, 165.0]), 0.0, 160.0), 10.0, 0.5)
    )
    np.testing.assert_allclose(counts["return"], soft / soft.sum(), atol=0.02)
    assert not counts["filter"][:2].any() and counts["return"][:2].all()


def test_without_a_good_episode_the_filter_keeps_all():
    sampler = samplers.weighted(4000, lambda d: jnp.zeros(d.num_steps))
    items = sampler.draw(sampler.init(data()), data(), jax.random.key(0))
    assert len(np.unique(items)) == sum(LENGTHS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mode": "state"},
            "field 'mode': expected one of state_only, state_action, rtg_state_action, "
            "found 'state'",
        ),
        (
            {"weighting": "some"},
            "field 'weighting': expected one of none, filter, return, found 'some'",
        ),
        ({"hidden": 9}, "field 'width': expected a multiple of 2 heads, found 9"),
    ],
)
def test_wrong_words_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        madt.method_of(checked(madt.Config(**SIZES | changes)), toy_spec())


def test_continuous_actions_and_windows_longer_than_the_context_are_refused():
    with pytest.raises(ValueError, match="transformer on 'toy': expected discrete actions"):
        madt.method_of(madt.Config(), toy_spec(discrete=False))
    m = method("state_only", window=2)
    with pytest.raises(
        ValueError, match="field 'context': expected at least the 6 steps of a window, found 2"
    ):
        madt.logits_of(m, state_of(m).policy, windows(), jnp.zeros((4, 6)))


def test_learns_a_task_that_needs_its_previous_action():
    # a_t = 1 - a_{t-1}, from a random first action, and nothing to see: the loss of a net without
    # memory stays at log 2.
    spec = EnvSpec("turns", 1, 1, 1, 2, True, 6)
    actions = (np.arange(6)[None] + np.arange(20)[:, None]) % 2
    episodes = toy_episodes((6,) * 20)
    episodes = episodes._replace(
        obs=np.zeros((20, 7, 1, 1), np.float32),
        state=np.zeros((20, 7, 1), np.float32),
        avail=np.ones((20, 7, 1, 2), np.float32),
        actions=actions[..., None].astype(np.int32),
        behaviour_level=np.zeros((20, 1), np.int32),
    )
    dataset = place(episodes, spec)
    batch, _ = cut(dataset, dataset.episode_row, 6)
    m = madt.method_of(madt.Config(lr=3e-3, mode="state_action", window=-1, **SIZES), spec)

    def step(state, _):
        state, out = madt.update(m, state, batch, None)
        return state, out.metrics["policy"]

    losses = jax.jit(
        lambda key: jax.lax.scan(step, madt.init(m, returns_of(dataset), key), None, 200)[1]
    )(jax.random.key(0))
    # The first action is still a coin: log 2 / 6 = .116 is the least.
    assert float(losses[-1]) == pytest.approx(np.log(2) / 6, abs=0.03)
