"""OMAR on discrete actions: losses and gradients against float64 NumPy, the traps of its form, and
where its actor goes.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxoff.baselines.omar import discrete as omar

from jaxoff.types import Transition
from tests import toys
from tests.reference import omar_numpy as ref

B, T, N, S, A, SEEN = 5, 4, 2, 3, 3, 2
SPEC = toys.spec_of(num_agents=N)
LENGTHS = np.array([4, 4, 3, 2, 2])


# ----------------------------------------------------------------------------------- small problems


def batch_of() -> Transition:
    """Windows of which every second terminates."""
    return toys.batch_of(SPEC, LENGTHS)


def slots_of() -> dict[str, np.ndarray]:
    """The same, with obs, state and avail of T + 1 slots."""
    rows = toys.arrays(batch_of())
    after = lambda name: np.concatenate([rows[name], rows[f"next_{name}"][:, -1:]], 1)
    return rows | {name: after(name) for name in ("obs", "state", "avail")}


def method(**config: Any) -> omar.Method:
    return omar.method_of(omar.Config(**{"hidden": 8, "critic_hidden": 8} | config), SPEC)


@functools.cache
def first_state(recurrent: bool = False, twin_share_head: bool = True) -> omar.State:
    """Slow nets that differ from the present ones."""
    m = method(recurrent=recurrent, twin_share_head=twin_share_head)
    state, other = (jax.jit(lambda key: omar.init(m, key))(jax.random.key(k)) for k in (0, 1))
    return state._replace(target_policy=other.policy, target_critic=other.critic)


def layer_of(x: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.array(x["kernel"], float), np.array(x["bias"], float)


def actor_of(params: Any) -> Any:
    """The same parameters, for NumPy."""
    tree = params["params"]
    if "GRU_0" not in tree:
        return [layer_of(tree[f"Dense_{k}"]) for k in range(3)]
    gru = tree["GRU_0"]
    weights = (
        *layer_of(gru["input"]),
        np.array(gru["hidden"], float),
        np.array(gru["hidden_bias"], float),
    )
    return {"first": layer_of(tree["Dense_0"]), "gru": weights, "last": layer_of(tree["Dense_1"])}


def critic_of(params: Any) -> dict[str, Any]:
    tree = params["params"]
    heads = range(sum(name.startswith("of_action") for name in tree))
    return {
        "trunks": [
            [layer_of(tree[f"trunks_{k}"][f"Dense_{d}"]) for d in range(2)] for k in range(2)
        ],
        "of_action": [layer_of(tree[f"of_action_{k}"]) for k in heads],
        "of_state": [layer_of(tree[f"of_state_{k}"]) for k in heads],
    }


class Case:
    """A setting, with its losses, gradients and targets in double precision."""

    def __init__(self, **config: Any) -> None:
        self.config = {"gamma": 0.9, "trace": 0.6, "cql": 0.7, "mimic": 0.4} | config
        self.state = first_state(
            config.get("recurrent", False), config.get("twin_share_head", True)
        )
        with jax.enable_x64(True):
            m, batch = method(**self.config), batch_of()
            state = toys.double(self.state)

            @jax.jit
            def compute(state: omar.State):
                target = omar.td_target(m, state, batch)
                critic = jax.value_and_grad(lambda p: omar.critic_loss(m, p, target, batch)[0])(
                    state.critic
                )
                actor = jax.value_and_grad(lambda p: omar.actor_loss(m, p, state.critic, batch)[0])(
                    state.policy
                )
                return target, critic, actor

            self.target, (self.critic_loss, critic), (self.actor_loss, actor) = jax.device_get(
                compute(state)
            )
        self.critic_grad, self.actor_grad = critic_of(critic), actor_of(actor)

    def reference_critic(self, critic: dict[str, Any]) -> float:
        return ref.critic_loss(
            critic,
            self.target,
            slots_of(),
            self.config["cql"],
            self.config.get("mask_cql", True),
            list(range(T)),
        )

    def reference_actor(self, actor: Any) -> float:
        masks = self.config.get("mask_argmax", True), self.config.get("mask_mse", True)
        return ref.actor_loss(
            actor, critic_of(self.state.critic), slots_of(), self.config["mimic"], *masks
        )


@functools.cache
def case(name: str) -> Case:
    reference = {"mask_cql": False, "mask_argmax": False, "mask_mse": False}
    return Case(
        **{
            "clean": {"twin_share_head": False},
            "reference": reference,
            "recurrent": {"recurrent": True, "mask_mse": False},
        }[name]
    )


CASES = pytest.mark.parametrize("name", ["clean", "reference", "recurrent"])


@CASES
def test_targets_equal_float64_numpy(name):
    # Weighted n-step returns by definition, on episodes of 2 to 4 steps, terminated or truncated; 0
    # on padding.
    c = case(name)
    wanted = ref.targets(
        actor_of(c.state.target_policy), critic_of(c.state.target_critic), slots_of(), 0.9, 0.6
    )
    np.testing.assert_allclose(c.target, wanted, rtol=1e-6, atol=1e-9)


@CASES
def test_losses_equal_float64_numpy(name):
    c = case(name)
    assert float(c.critic_loss) == pytest.approx(
        c.reference_critic(critic_of(c.state.critic)), rel=1e-6
    )
    assert float(c.actor_loss) == pytest.approx(
        c.reference_actor(actor_of(c.state.policy)), rel=1e-6
    )


def arrays(tree: Any) -> list[np.ndarray]:
    parts = tree.values() if isinstance(tree, dict) else tree
    return [tree] if isinstance(tree, np.ndarray) else [x for part in parts for x in arrays(part)]


def test_critic_gradient_equals_finite_differences_of_the_numpy_loss():
    # Shared heads: entries of both trunks and of the one pair of heads, +-1e-5.
    c = case("reference")
    critic, rng = critic_of(c.state.critic), np.random.default_rng(2)
    for parameter, grad in zip(arrays(critic), arrays(c.critic_grad), strict=True):
        at = tuple(rng.integers(0, size) for size in parameter.shape)
        around = []
        for shift in (1e-5, -1e-5):
            parameter[at] += shift
            around.append(c.reference_critic(critic))
            parameter[at] -= shift
        assert grad[at] == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", ["clean", "recurrent"])
def test_actor_gradient_equals_finite_differences_with_the_advantage_held_fixed(name):
    # The advantage is a constant of the loss; in the NumPy loss it is held at the values of the
    # start.
    c, rng = case(name), np.random.default_rng(2)
    for number, grad in enumerate(arrays(c.actor_grad)):
        at = tuple(rng.integers(0, size) for size in grad.shape)
        around = []
        for shift in (1e-5, -1e-5):
            moved = actor_of(c.state.policy)
            arrays(moved)[number][at] += shift
            around.append(fixed_advantage_loss(c, moved))
        assert grad[at] == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-5, abs=1e-8)


def fixed_advantage_loss(c: Case, moved: Any) -> float:
    """The NumPy loss of a moved actor whose expected value E_pi Q1 stays that of the unmoved
    one.
    """
    batch, critic = slots_of(), critic_of(c.state.critic)
    mimic = c.config["mimic"]
    whole = c.reference_actor(moved)
    gap = 0.0
    for row in range(B):
        both = [
            ref.actor_logits(a, batch["obs"][row], batch["actions"][row], A)
            for a in (actor_of(c.state.policy), moved)
        ]
        for t in range(LENGTHS[row]):
            q = ref.critic_values(critic, batch["state"][row, t], batch["obs"][row, t])[0]
            for i in range(N):
                start, now = (
                    np.exp(ref.log_softmax(x[t, i], batch["avail"][row, t, i])) for x in both
                )
                # -(Q(a) - E_start Q) log pi in place of -(Q(a) - E_now Q) log pi
                gap += ((start - now) * q[i]).sum() * np.log(
                    now[batch["actions"][row, t, i]] + 1e-5
                )
    return whole + (1 - mimic) * gap / (batch["valid"].sum() * N)


# ------------------------------------------------------------------------------------- the formulas


def test_actor_loss_of_two_actions_by_hand():
    # pi = (.3, .7), Q = (1, 0), a = 0: advantage 1 - .3 = .7, -.7 log(.30001) = .842758;
    # regression (.7^2 + .7^2) / 2 = .49; half of each: .666379.
    logits, q = jnp.log(jnp.array([0.3, 0.7])), jnp.array([1.0, 0.0])
    gradient, regression = (
        omar.gradient_loss(logits, q, jnp.array(0)),
        omar.regression_loss(logits, q, jnp.ones(2)),
    )
    np.testing.assert_allclose([gradient, regression], [0.842758, 0.49], rtol=1e-5)
    assert 0.5 * float(gradient) + 0.5 * float(regression) == pytest.approx(0.666379, rel=1e-5)


def test_masked_argmax_is_always_an_available_action():
    # Action 2 has the largest value and is unavailable: the target is action 1 with the mask,
    # action 2 without.
    logits, q, avail = (
        jnp.array([0.0, 0.0, -1e10]),
        jnp.array([0.0, 1.0, 5.0]),
        jnp.array([1.0, 1.0, 0.0]),
    )
    assert float(omar.regression_loss(logits, q, avail)) == pytest.approx((0.25 + 0.25) / 3)
    assert float(omar.regression_loss(logits, q, jnp.ones(3))) == pytest.approx(
        (0.25 + 0.25 + 1) / 3
    )


def test_no_gradient_reaches_the_critic_or_passes_through_the_advantage():
    # d/dlogits of -(Q(a) - E Q) log(pi(a) + 1e-5) with the first factor fixed: -.7 * (1 - .3) * .3
    # / .30001 for a itself.
    logits, q, action = jnp.log(jnp.array([0.3, 0.7])), jnp.array([1.0, 0.0]), jnp.array(0)
    of_logits, of_q = jax.grad(omar.gradient_loss, (0, 1))(logits, q, action)
    np.testing.assert_allclose(of_logits, [-0.49 * 0.3 / 0.30001, 0.49 * 0.3 / 0.30001], rtol=1e-5)
    np.testing.assert_array_equal(of_q, [0.0, 0.0])
    np.testing.assert_array_equal(
        jax.grad(omar.regression_loss, 1)(logits, q, jnp.ones(2)), [0.0, 0.0]
    )


def test_twin_critics_share_heads_but_not_trunks():
    x = jnp.zeros(S + SEEN + N)
    shared, apart = (
        jax.eval_shape(omar.TwinCritic(A, 8, share).init, jax.random.key(0), x)["params"]
        for share in (True, False)
    )
    assert sorted(shared) == ["of_action_0", "of_state_0", "trunks_0", "trunks_1"]
    assert sorted(apart) == [
        "of_action_0",
        "of_action_1",
        "of_state_0",
        "of_state_1",
        "trunks_0",
        "trunks_1",
    ]


# ------------------------------------------------------------------------------------------ updates


@functools.cache
def compiled(recurrent: bool = False, **switches: Any):
    @jax.jit
    def update(leaves: dict[str, Any], state: omar.State, batch: Transition):
        return omar.update(
            method(recurrent=recurrent, target_every=2, **switches, **leaves), state, batch
        )

    return update


def step(
    state: omar.State,
    batch: Transition,
    *,
    recurrent: bool = False,
    per_timestep: bool = False,
    **changes: float,
):
    """One update; the numbers of the config are arguments of the compiled program."""
    leaves = {
        "lr": 1e-3,
        "critic_lr": 1e-3,
        "gamma": 0.99,
        "trace": 0.6,
        "cql": 5.0,
        "mimic": 0.5,
        "max_grad_norm": 10.0,
    }
    given = {name: jnp.float32(changes.get(name, x)) for name, x in leaves.items()}
    return compiled(recurrent, per_timestep=per_timestep)(given, state, batch)


def test_one_step_for_each_time_index_is_a_sequence_of_updates():
    # Steps 0, 1, 2, 3 of the window, each as a batch of its own with the targets of the start; then
    # the actor, by the new critic.
    batch, state = batch_of(), first_state()
    after, _ = step(state, batch, per_timestep=True)
    m = method()
    target = jax.jit(lambda state, batch: omar.td_target(m, state, batch))(state, batch)
    held = state.critic, state.critic_opt
    one = jax.jit(lambda held, target, batch: omar.critic_step(m, held, target, batch)[0])
    for t in range(T):
        held = one(held, target[:, t : t + 1], jax.tree.map(lambda x, t=t: x[:, t : t + 1], batch))
    np.testing.assert_allclose(toys.flat(after.critic), toys.flat(held[0]), rtol=1e-5, atol=1e-7)
    assert int(held[1][1][0].count) == int(after.critic_opt[1][0].count) == T


def test_time_indices_that_are_all_padding_make_no_step():
    # Only steps 0 and 1 of any episode are valid: two critic steps, and the parameters stay where
    # the second left them.
    batch = batch_of()
    short = batch._replace(valid=np.where(np.arange(T) < 2, batch.valid, 0.0))
    after, out = step(first_state(), short, per_timestep=True)
    assert int(after.critic_opt[1][0].count) == 2
    assert all(np.isfinite(float(x)) for x in out.metrics.values())


def test_share_of_the_regression_is_not_a_rate_of_the_slow_nets():
    # mimic = 1: no policy gradient; the slow nets neither follow at once nor stay for good.
    state, batch = first_state(), batch_of()
    once, out = step(state, batch, mimic=1.0)
    assert float(out.metrics["policy"]) == pytest.approx(float(out.metrics["regression"]), rel=1e-6)
    np.testing.assert_array_equal(toys.flat(once.target_policy), toys.flat(state.target_policy))
    twice, _ = step(once, batch, mimic=1.0)
    np.testing.assert_array_equal(toys.flat(twice.target_policy), toys.flat(twice.policy))


def test_executed_policies_never_take_unavailable_actions_and_start_from_empty_memory():
    avail = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    batch = slots_of()
    learner = omar.make(omar.Config(hidden=8, critic_hidden=8, recurrent=True), SPEC)
    policy = learner.policy(first_state(True))
    first = toys.seen(SPEC, batch["obs"][0, 0], avail=avail)
    probs = np.asarray(policy.distribution(policy.initial(()), first)[1].probs)
    np.testing.assert_array_equal(probs > 0, avail > 0)
    # The same policy as in the first slot of the unroll in training: zero memory, no previous
    # action.
    wanted = ref.actor_logits(
        actor_of(first_state(True).policy), batch["obs"][0], batch["actions"][0], A
    )[0]
    np.testing.assert_allclose(probs, np.exp(ref.log_softmax(wanted, np.asarray(avail))), rtol=1e-4)


# ------------------------------------------------------------------------------------------
# settings


def test_recurrent_nets_on_single_steps_are_refused():
    with pytest.raises(ValueError, match="field 'window': expected -1"):
        omar.make(omar.Config(recurrent=True, window=0), SPEC)


# ---------------------------------------------------------------------------------------- toy truth


def test_actor_moves_to_the_argmax_of_the_values_in_one_state():
    # One state, reward (a_0 + a_1) / 4, every joint action once, single steps that terminate, cql =
    # 0: Q is the mean reward given the own action, .25 + a / 4, whose argmax is 2.
    joint = (
        np.stack(np.meshgrid(np.arange(A), np.arange(A), indexing="ij"), -1)
        .reshape(-1, N)
        .astype(np.int32)
    )
    batch = toys.plays(SPEC, joint, (joint.sum(1) / 4).astype(np.float32))
    m = method(cql=0.0, lr=0.01, critic_lr=0.01)
    train = jax.jit(
        lambda state: lax.scan(lambda s, _: (omar.update(m, s, batch)[0], None), state, None, 500)[
            0
        ]
    )
    after = train(first_state())
    q = m.critic.apply(after.critic, omar.critic_input(jnp.ones(S), jnp.ones((N, SEEN))))[0]
    np.testing.assert_allclose(q, np.tile([0.25, 0.5, 0.75], (N, 1)), atol=0.02)
    probs = m.actors.policy(after.policy).distribution((), toys.seen(SPEC))[1].probs
    assert (probs[:, 2] > 0.95).all(), probs
