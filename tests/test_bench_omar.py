"""The PyTorch learner that OMAR is timed beside: the same losses and steps from the same weights,
batch and random numbers.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines.omar import continuous as omar
from jaxoff.experiments.bench import omar as bench
from jaxoff.experiments.bench import speed

from jaxoff import registry
from jaxoff.learners.actor_critic import split_by_agent
from jaxoff.names import DataOptions
from jaxoff.training import TrainSpec
from jaxoff.training.spec import resolve
from jaxoff.types import Transition
from tests import toys

torch = pytest.importorskip("torch")
from jaxoff.experiments.bench import omar_torch as peer  # noqa: E402

M, N, OBS, A = 32, 3, 3, 2
SPEC = toys.spec_of(False, obs_size=OBS, state_size=4, action_size=A)


def full_batch(seed: int) -> Transition:
    """Rows without padding; those of the peer have none either."""
    batch = toys.steps_of(SPEC, M * N, seed)
    return batch._replace(valid=np.ones(M * N))


def fill(net: Any, layers: list[tuple[Any, Any]], norm: Any) -> None:
    """Copy linear layers (kernel, bias) and a norm into torch modules."""
    linear = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer, (kernel, bias) in zip(linear, layers, strict=True):
            layer.weight.copy_(torch.from_numpy(np.asarray(kernel).T.copy()))
            layer.bias.copy_(torch.from_numpy(np.array(bias)))
        for slot, value in zip((norm[0].weight, norm[0].bias), norm[1], strict=True):
            slot.copy_(torch.from_numpy(np.array(value)))


def actor_layers(net: Any) -> list[tuple[Any, Any]]:
    """Of one agent."""
    return [
        (net["params"][name]["kernel"], net["params"][name]["bias"])
        for name in sorted(net["params"])
    ]


def critic_layers(net: Any, twin: int) -> list[tuple[Any, Any]]:
    """Of one agent and twin: the two parts of the first layer are one in the peer."""
    p = toys.part(net["params"], twin)
    first = np.concatenate([p["context"]["kernel"], p["action"]["kernel"]]), p["context"]["bias"]
    return [first, *((p[name]["kernel"], p[name]["bias"]) for name in ("inner", "value"))]


def load(actor: Any, critics: Any, policy: Any, critic: Any) -> None:
    """Our parameters of one agent into the peer's nets."""
    fill(actor.net, actor_layers(policy.net), (actor.norm, policy.norm))
    for twin, net in enumerate((critics.first, critics.second)):
        fill(net, critic_layers(critic.net, twin), (critics.norm, critic.norm))


def weights_of(module: Any) -> np.ndarray:
    return np.concatenate([x.detach().numpy().ravel() for x in module.parameters()])


def draws_of(key: Any) -> tuple[np.ndarray, np.ndarray]:
    """The uniform and the normal numbers of one agent's update, [M, K, A] and [J, M, K, A]."""
    critic_key, actor_key = jax.random.split(key)
    uniform = jax.random.uniform(
        jax.random.split(critic_key, 3)[0], (peer.SAMPLES, M, A), minval=-1, maxval=1
    )
    normal = [
        jax.random.normal(k, (peer.SAMPLES, M, A))
        for k in jax.random.split(actor_key, peer.ITERATIONS)
    ]
    return np.array(jnp.moveaxis(uniform, 0, 1)), np.array(jnp.moveaxis(jnp.stack(normal), 1, 2))


@pytest.fixture
def in_double():
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)


def settings() -> Any:
    """Ours on the timed task, of one run."""
    return jax.tree.map(lambda x: x[0], resolve(TrainSpec("omar", bench.TASK)).config)


def test_settings_are_the_same():
    c, spec = settings(), registry.make_spec(bench.TASK)
    assert (
        c.batch_size == peer.BATCH * spec.num_agents
        and spec.num_agents == 3
        and c.hidden == peer.HIDDEN == 64
    )
    assert (
        c.num_samples == c.search_samples == peer.SAMPLES and c.search_iterations == peer.ITERATIONS
    )
    told = (
        c.lr,
        c.critic_lr,
        c.gamma,
        c.polyak,
        c.max_grad_norm,
        c.action_penalty,
        c.search_spread,
        c.temperature,
    )
    wanted = peer.LR, peer.LR, peer.GAMMA, peer.POLYAK, peer.CLIP, peer.PENALTY, 2.0, 1.0
    np.testing.assert_allclose(told, wanted, rtol=1e-6)
    words = c.input_norm, c.samples, c.search, c.own_batches, c.centralised, c.truncated_ends
    assert words == ("batch", "uniform", "softmax", True, False, False)


def test_two_steps_from_the_same_weights_batches_and_random_numbers_are_the_same(in_double):
    # mimic below 1, so that the critic's gradient reaches the policy as well
    config = toys.double(settings().replace(mimic=0.7, batch_size=M * N))
    made = omar.make(config, SPEC)
    state = jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x,
        jax.jit(made.init)(jax.random.key(0)),
    )
    # slow nets that differ, and norms that matter
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), state[:4])
    state = state._replace(**dict(zip(state._fields[:4], shaken, strict=True)))
    agents = [peer.Agent(OBS, A) for _ in range(N)]
    for i, agent in enumerate(agents):
        load(agent.actor, agent.critics, toys.part(state.policy, i), toys.part(state.critic, i))
        load(
            agent.slow_actor,
            agent.slow_critics,
            toys.part(state.target_policy, i),
            toys.part(state.target_critic, i),
        )
    step = jax.jit(made.update)
    for number in range(2):
        batch, key = full_batch(number), jax.random.key(number + 5)
        before = state
        state, out = step(state, batch, key)
        rows, _ = split_by_agent(batch, N)
        losses = []
        for i, (agent, own_key) in enumerate(zip(agents, jax.random.split(key, N), strict=True)):
            own = (
                rows.obs[i, :, i],
                rows.actions[i, :, i],
                rows.agent_reward[i, :, i],
                rows.next_obs[i, :, i],
                rows.terminated[i],
            )
            given = tuple(torch.from_numpy(np.array(x, np.float64)) for x in own)
            drawn, noise = map(torch.from_numpy, draws_of(own_key))
            losses.append(
                [
                    float(x.detach())
                    for x in peer.update(agent, given, drawn, noise, float(config.cql), 0.7)
                ]
            )
        for agent in agents:
            agent.follow()
        of_critics, of_actors = np.mean(losses, 0)
        assert of_critics == pytest.approx(
            float(out.metrics["value"] + config.cql * out.metrics["conservative"]), rel=1e-5
        )
        assert of_actors == pytest.approx(float(out.metrics["policy"]), rel=1e-5)
        for i, agent in enumerate(agents):
            ours = peer.Agent(OBS, A)
            load(ours.actor, ours.critics, toys.part(state.policy, i), toys.part(state.critic, i))
            load(
                ours.slow_actor,
                ours.slow_critics,
                toys.part(state.target_policy, i),
                toys.part(state.target_critic, i),
            )
            for name in ("actor", "critics", "slow_actor", "slow_critics"):
                np.testing.assert_allclose(
                    weights_of(getattr(agent, name)),
                    weights_of(getattr(ours, name)),
                    rtol=1e-5,
                    atol=1e-6,
                )
        assert (
            np.abs(jax.tree.leaves(state.policy)[0] - jax.tree.leaves(before.policy)[0]).max()
            > 1e-3
        )


def public_checkout(folder: Any) -> Any:
    """Files with the names and signatures that are used of the authors' repository, which check
    what they are given.
    """
    learner = """
import torch
class MATD3:
    def __init__(
        self, sizes, kinds, agent_max_actions, batch_size, env_id, cql, cql_alpha,
        num_sampled_actions, omar, omar_coe, **search
    ):
        assert sizes == [{"num_in_pol": 18, "num_out_pol": 2, "num_in_critic": 20}] * 3
        assert kinds == ["td3"] * 3
        assert (cql_alpha, omar_coe, batch_size, env_id) == (5.0, 1.0, 1024, "simple_spread")
        self.nagents, self.seen = 3, []
        self.held = torch.cuda.FloatTensor(2, 2).zero_().cuda()
    def prep_training(self, device):
        assert device == "cpu"
    def update(self, sample, agent):
        self.seen.append(agent)
        assert sample == 1024
    def update_all_targets(self):
        assert self.seen == [0, 1, 2]
        self.seen = []
"""
    buffer = """
import numpy as np
class ReplayBuffer:
    def __init__(self, rows, agents, obs, actions):
        make = lambda *shape: [np.zeros((rows, *shape)) for _ in range(agents)]
        self.obs_buffs, self.next_obs_buffs, self.ac_buffs = make(18), make(18), make(2)
        self.rew_buffs, self.done_buffs = make(), make()
    def __len__(self):
        return self.filled_i
    def sample(self, size, to_gpu):
        filled = self.obs_buffs + self.next_obs_buffs + self.ac_buffs + self.rew_buffs
        assert not to_gpu and all(np.abs(x).sum() > 0 for x in filled)
        return size
"""
    for name, text in (("algorithms/maddpg.py", learner), ("utils/buffer.py", buffer)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


def test_the_page_at_tiny_sizes(tmp_path, monkeypatch):
    # 40 episodes in the place of 40,000; ours, whose measurement is tested elsewhere, isn't
    # compiled
    episodes = registry.make_data(bench.TASK, DataOptions(episodes=40))
    monkeypatch.setattr(speed, "episodes_of", lambda task: episodes)
    monkeypatch.setattr(speed, "ways", lambda: {"vmap": ()})
    checkout = public_checkout(tmp_path / "public")
    monkeypatch.setattr(
        speed,
        "measure",
        lambda name, case, way, count: speed.Row(
            name, case.task, way, count, 8.0, 1.0, 1.0, 2e9, 40.0, 90.0
        ),
    )
    python = os.environ.get("PEER_PYTHON", sys.executable)
    bench.main(
        [
            "--rounds",
            "1",
            "--runs",
            "1",
            "2",
            "--out",
            str(tmp_path),
            "--peer-python",
            python,
            "--public",
            str(checkout),
        ]
    )
    text = (tmp_path / "omar.md").read_text()
    assert "The data have 1,000 transitions." in text
    for row in (
        "| PyTorch, written here | torch ",
        "| the authors' code, threads: 1 | torch ",
        "| jaxoff | sequence | 1 |",
        "| jaxoff | vmap | 2 |",
    ):
        assert row in text


def test_an_interpreter_without_torch_is_named(monkeypatch):
    episodes = registry.make_data(bench.TASK, DataOptions(episodes=2))
    monkeypatch.setattr(speed, "episodes_of", lambda task: episodes)
    with pytest.raises(
        RuntimeError,
        match="peer-python false: expected an interpreter that has torch and numpy, found",
    ):
        bench.peers("false", None, 1)
