"""MA-CQL and OMAR with one critic for the team: losses against float64 NumPy, what each part of a
batch moves, what is refused.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxoff.baselines.cql import agents as cql_agents
from jaxoff.baselines.cql import continuous as cql
from jaxoff.baselines.cql import team as cql_team
from jaxoff.baselines.omar import continuous as omar

from jaxoff.config import checked
from jaxoff.learners.actor_critic import AgentBatch
from tests import toys
from tests.reference import actor_critic_numpy as ref
from tests.test_actor_critic import SIZES, SPEC, A, M, N, nets_of

TEAM: dict[str, Any] = {**SIZES, "shared_team": True}


def team_nets() -> dict[str, Any]:
    """Policies of all agents, and one twin critic."""
    return {
        name: toys.part(net, 0) if "critic" in name else net for name, net in nets_of(True).items()
    }


def mine_of(nets: dict[str, Any], batch: Any, i: int = 0) -> AgentBatch:
    return AgentBatch(
        jnp.asarray(i), batch, nets["policy"], nets["target_policy"], nets["target_critic"]
    )


def method(config: Any) -> cql_agents.Method:
    return cql_agents.method_of(config.replace(centralised=True), SPEC)


@pytest.mark.parametrize("samples", ["uniform", "policy"])
def test_critic_loss_and_gradient_equal_float64_numpy(samples):
    # The noise is large, so that the bound is met.
    nets, batch, key = team_nets(), toys.steps_of(SPEC, M), jax.random.key(2)
    config = cql.Config(**TEAM, samples=samples, cql=0.3, gamma=0.9, target_noise=0.8)

    def losses(config: Any, nets: Any, batch: Any) -> Any:
        found = jax.value_and_grad(
            lambda p: cql_team.critic_loss(method(config), p, mine_of(nets, batch), key)[0]
        )(nets["critic"])
        noise_key, rest = jax.random.split(key)
        keys, shape = jax.random.split(rest, 3), (SIZES["num_samples"], M, N * A)
        draws = [
            jax.random.uniform(keys[0], shape, minval=-1, maxval=1),
            *(0.2 * jax.random.normal(k, shape) for k in keys[1:]),
        ]
        return (
            found,
            0.8 * jax.random.normal(noise_key, shape[1:]),
            draws if samples == "policy" else draws[:1],
        )

    with jax.enable_x64(True):
        (value, grads), noise, draws = jax.tree.map(
            np.asarray, jax.jit(losses)(toys.double(config), nets, batch)
        )
    rows = toys.arrays(batch)
    wanted = lambda p: ref.team_critic_loss(nets, p, rows, draws, noise, 0.9, 0.3)
    assert float(value) == pytest.approx(wanted(nets["critic"]), rel=1e-8)
    difference, way = toys.slope(wanted, nets["critic"], 3)
    assert toys.along(grads, way) == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize("name", ["cql", "omar"])
def test_the_sum_of_the_agents_losses_and_its_gradient_equal_float64_numpy(name):
    nets, batch, key = team_nets(), toys.steps_of(SPEC, M), jax.random.key(4)
    config = omar.Config(**TEAM, mimic=0.6 if name == "omar" else 0.0)
    objective = omar.objective if name == "omar" else cql_agents.objective

    def losses(config: Any, nets: Any, batch: Any) -> Any:
        def team(policies: Any) -> Any:
            each = [
                cql_team.actor_loss(
                    method(config),
                    objective,
                    toys.part(policies, i),
                    nets["critic"],
                    mine_of(nets, batch, i),
                    key,
                )[0]
                for i in range(N)
            ]
            return sum(each)

        draws = [
            jax.random.normal(k, (config.search_samples, M, A))
            for k in jax.random.split(key, config.search_iterations)
        ]
        return jax.value_and_grad(team)(nets["policy"]), jnp.stack(draws)

    with jax.enable_x64(True):
        (loss, grads), noise = jax.tree.map(
            np.asarray, jax.jit(losses)(toys.double(config), nets, batch)
        )
    rows, keep, wanted = toys.arrays(batch), np.asarray(batch.valid) > 0, []
    for i in range(N):
        value = lambda a, i=i: ref.values(
            nets["critic"], rows["state"], ref.with_own(rows, i, a, True), keep
        )[0]
        own = ref.act(ref.of_agent(nets["policy"], i), rows["obs"][:, i], keep)
        found, q = ref.softmax_search(value, noise, 2.0)
        wanted.append(np.where((value(own[None])[0] >= q)[:, None], own, found))
    mimic = 0.6 if name == "omar" else 0.0
    of = lambda p: ref.team_actor_loss(p, nets["critic"], rows, np.stack(wanted), mimic, 1e-3)
    assert float(loss) == pytest.approx(of(nets["policy"]), rel=1e-7)
    difference, way = toys.slope(of, nets["policy"], 5)
    assert toys.along(grads, way) == pytest.approx(difference, rel=1e-5)


def test_policies_are_stepped_by_statistics_of_all_agents_rows_as_one_batch():
    # input_norm=batch: the critic is given M rows of each agent at once. Here they are stacked by
    # hand, N M of them, and the team's loss is differentiated as it stands; in the learner each
    # agent differentiates its part under vmap.
    config = cql.Config(**TEAM | {"input_norm": "batch"}, action_penalty=0.3)
    batch, key = toys.steps_of(SPEC, M), jax.random.key(4)

    def both(config: Any, batch: Any) -> Any:
        m, opts = method(config), (optax.sgd(1.0), optax.sgd(1.0))
        state = jax.jit(lambda key: cql_team.init(m, opts, key))(jax.random.key(0))
        state = jax.tree.map(
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state
        )
        after, _ = cql_team.actor_step(m, opts[0], cql_agents.objective, state, batch, key)

        def team(policies: Any) -> Any:
            # [N, M, A]
            own = jnp.stack(
                [
                    m.agents.act(toys.part(policies, i), batch.obs[:, i], batch.valid)
                    for i in range(N)
                ]
            )
            joint = [m.agents.replaced(i, own[i][None], batch.actions)[0] for i in range(N)]
            first = state.critic._replace(net=jax.tree.map(lambda x: x[:1], state.critic.net))
            valid = jnp.tile(batch.valid, N)
            q = m.agents.values(
                first, jnp.tile(batch.state, (N, 1)), jnp.concatenate(joint)[None], valid
            )[0, 0].reshape(N, M)
            size = jnp.sum(jnp.mean(jnp.square(own), -1), 0)
            return jnp.sum((0.3 * size - jnp.mean(q, 0)) * batch.valid) / jnp.sum(batch.valid)

        return jax.tree.map(lambda old, new: old - new, state.policy, after.policy), jax.grad(team)(
            state.policy
        )

    with jax.enable_x64(True):
        step, wanted = jax.jit(both)(toys.double(config), batch)
    np.testing.assert_allclose(toys.flat(step), toys.flat(wanted), rtol=1e-7, atol=2e-9)


def test_an_update_moves_policies_by_the_first_part_and_critics_and_their_slow_copies_by_all():
    learner = omar.make(omar.Config(**TEAM | {"critic_steps": 2}, mimic=0.6), SPEC)
    before, update = jax.jit(learner.init)(jax.random.key(0)), jax.jit(learner.update)
    batch = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32 if x.dtype == float else x.dtype),
        toys.steps_of(SPEC, 3 * M),
    )
    after, out = update(before, batch, jax.random.key(1))
    # Other rewards in the last part: only the critics see them.
    reward = batch.agent_reward.at[2 * M :].add(5.0)
    other, _ = update(before, batch._replace(agent_reward=reward), jax.random.key(1))
    for name in ("policy", "target_policy", "stats", "policy_opt"):
        np.testing.assert_array_equal(
            toys.flat(getattr(after, name)), toys.flat(getattr(other, name))
        )
    assert np.abs(toys.flat(after.critic) - toys.flat(other.critic)).max() > 1e-4
    assert np.abs(toys.flat(after.target_critic) - toys.flat(other.target_critic)).max() > 1e-6
    # Rewards of other agents count nowhere, those of the first do.
    changed, _ = update(
        before,
        batch._replace(agent_reward=batch.agent_reward.at[..., 1:].add(5.0)),
        jax.random.key(1),
    )
    np.testing.assert_array_equal(toys.flat(after.critic), toys.flat(changed.critic))
    # Slow nets went once, 1 % of the way, after the steps of the critics alone.
    np.testing.assert_allclose(
        toys.flat(after.target_critic),
        0.99 * toys.flat(before.critic) + 0.01 * toys.flat(after.critic),
        rtol=1e-4,
        atol=1e-6,
    )
    assert (
        int(after.updates) == 1
        and after.critic_opt[1][0].count == 3
        and np.all(after.policy_opt[1][0].count == 1)
    )
    np.testing.assert_allclose(
        toys.flat(after.target_policy),
        0.99 * toys.flat(before.policy) + 0.01 * toys.flat(after.policy),
        rtol=1e-4,
        atol=1e-6,
    )
    assert np.isfinite(out.metrics["policy"]) and 0 <= float(out.metrics["search_better"]) <= 1


@pytest.mark.parametrize(
    ("module", "change", "message"),
    [
        (
            omar,
            {"plain_density": True},
            "omar: field 'plain_density': expected false with shared_team=true",
        ),
        (
            cql,
            {"policy_steps": 2},
            "cql: field 'policy_steps': expected 1 with shared_team=true, found 2",
        ),
        (cql, {"critic_steps": -1}, "field 'critic_steps': expected at least 0, found -1"),
        (omar, {"search": "grid"}, "field 'search'"),
        (
            cql,
            {"batch_size": 7},
            "field 'batch_size': expected a multiple of 5, one part and critic_steps=4 "
            "more, found 7",
        ),
    ],
)
def test_forms_that_cannot_be_are_refused(module, change, message):
    with pytest.raises(ValueError, match=message):
        module.make(checked(module.Config(**TEAM | change)), SPEC)
