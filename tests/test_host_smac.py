"""The adapter to SMAC, on a package of SMAC's interface with SMAX behind it; and what is said where
something is absent.
"""

from __future__ import annotations

from pathlib import Path

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.envs.smax import make_smax
from jaxoff.eval.final import evaluate_policy
from jaxoff.eval.host import evaluate_host, make_host
from jaxoff.registry import make_env
from jaxoff.types import Policy

# SMAC's StarCraft2Env as its users see it: lists of arrays, one flag for both ends, assertions on
# actions.
PACKAGE = """
import jax, numpy as np
from jaxoff.envs.smax import make_smax

class StarCraft2Env:
    def __init__(self, map_name, seed, continuing_episode):
        assert continuing_episode
        self.env, self.seed, self.battles = make_smax("smax", map_name), seed, 0
        self.start, self.go = jax.jit(self.env.reset), jax.jit(self.env.step)

    def get_env_info(self):
        spec = self.env.spec
        return {
            "n_agents": spec.num_agents, "obs_shape": spec.obs_size,
            "state_shape": spec.state_size, "n_actions": spec.action_size,
            "episode_limit": spec.horizon,
        }

    def reset(self):
        self.key, self.steps = jax.random.fold_in(jax.random.key(self.seed), self.battles), 0
        self.battles += 1
        self.state, self.seen = self.start(self.key)
        return self.get_obs(), self.get_state()

    def get_obs(self):
        return list(np.asarray(self.seen.obs))

    def get_state(self):
        return np.asarray(self.seen.state)

    def get_avail_actions(self):
        return np.asarray(self.seen.avail).astype(int).tolist()

    def step(self, actions):
        avail = self.get_avail_actions()
        for agent, action in enumerate(actions):
            assert avail[agent][action] == 1, "agent was told to do what it can't"
        self.steps += 1
        key = jax.random.fold_in(self.key, self.steps)
        self.state, self.seen = self.go(key, self.state, np.array(actions))
        over = bool(self.seen.terminated | self.seen.truncated)
        info = {"battle_won": over and bool(self.env.won(self.get_state()))}
        if self.seen.truncated:
            info["episode_limit"] = True
        return float(self.seen.reward), over, info

    def close(self):
        pass
"""


def _attack(memory, seen):
    """The last available action: an attack where one can be made; every third step the first one
    that moves.
    """
    last = seen.avail.shape[-1] - 1 - jnp.argmax(seen.avail[..., ::-1], -1)
    action = jnp.where((memory % 3 == 2)[..., None], jnp.argmax(seen.avail, -1), last)
    return memory + 1, distrax.Categorical(
        logits=jnp.where(jax.nn.one_hot(action, seen.avail.shape[-1]) > 0, 0.0, -1e10)
    )


ATTACK = Policy(lambda shape: jnp.zeros(shape, int), _attack)


def _package(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "smac" / "env").mkdir(parents=True)
    (folder / "smac" / "__init__.py").touch()
    (folder / "smac" / "env" / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_battles_equal_those_stepped_by_hand(tmp_path, monkeypatch):
    _package(tmp_path, monkeypatch, PACKAGE)
    env = make_smax("smax", "3m")
    out = evaluate_host(ATTACK, make_host("smac/3m", spec=env.spec), 3, seed=5, processes=1)
    seed = int(np.random.SeedSequence([5, 1]).spawn(1)[0].generate_state(1)[0])
    reset, step, act = jax.jit(env.reset), jax.jit(env.step), jax.jit(_attack)
    for battle in range(3):
        key = jax.random.fold_in(jax.random.key(seed), battle)
        (state, seen), memory, total, t = reset(key), jnp.zeros((), int), 0.0, 0
        while not (seen.terminated or seen.truncated):
            memory, dist = act(memory, seen)
            t += 1
            state, seen = step(jax.random.fold_in(key, t), state, dist.mode())
            total += float(seen.reward)
        assert out["lengths"][battle] == t
        assert out["returns"][battle] == pytest.approx(total, abs=1e-4)
        assert bool(out["won"][battle]) == bool(env.won(np.asarray(seen.state)))


def test_policy_of_public_data_is_evaluated_there_with_a_win_rate(tmp_path, monkeypatch):
    # Sizes of the public 3m data: 30 observations, 48 of the state, 9 actions. Every battle is won
    # at once, for a return of 20.
    text = """
class StarCraft2Env:
    def __init__(self, **kwargs): pass
    def get_env_info(self):
        return {"n_agents": 3, "obs_shape": 30, "state_shape": 48, "n_actions": 9}
    def reset(self): pass
    def get_obs(self): return [[0.0] * 30] * 3
    def get_state(self): return [0.0] * 48
    def get_avail_actions(self): return [[0, 1] + [0] * 7] * 3
    def step(self, actions):
        assert actions == [1, 1, 1]
        return 20.0, True, {"battle_won": True}
    def close(self): pass
"""
    _package(tmp_path, monkeypatch, text)
    found = evaluate_policy(make_env("og_marl:smac_v1/3m/Good"), ATTACK, 4, 0, processes=2)
    assert (found["simulator"], found["return_mean"], found["win_rate"]) == (
        "smac/3m on the host",
        20.0,
        1.0,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "smac: expected the package SMAC .* The package called smac on the Python "
            "index is a different program",
        ),
        (
            "class StarCraft2Env:\n    def __init__(self, **k): pass\n    def close(self): pass\n"
            "    def get_env_info(self): return dict(n_agents=3, obs_shape=42, "
            "state_shape=48, n_actions=9)",
            "smac/3m: field 'obs_shape': expected 30, as the policy was trained with, found 42",
        ),
        (
            "class SC2LaunchError(Exception): pass\n"
            "class StarCraft2Env:\n    def __init__(self, **k): pass\n    def close(self): pass\n"
            "    def get_env_info(self): return dict(n_agents=3, obs_shape=30, "
            "state_shape=48, n_actions=9)\n"
            "    def reset(self): raise SC2LaunchError('not installed')",
            r"smac: expected StarCraft II in the folder that SC2PATH names, found none "
            r"that starts \(not installed\)",
        ),
        (
            "class StarCraft2Env:\n    def __init__(self, **k): pass\n    def reset(self): "
            "pass\n    def close(self): pass\n"
            "    def get_env_info(self): return dict(n_agents=3, obs_shape=30, "
            "state_shape=48, n_actions=9)\n"
            "    def get_obs(self): return [[0.0] * 30] * 3\n    def get_state(self): "
            "return [0.0] * 48\n"
            "    def get_avail_actions(self): return [[1] * 9] * 3\n    def step(self, "
            "actions): return 0, True, {}",
            "the connection to StarCraft II broke in a battle",
        ),
    ],
)
def test_what_is_absent_or_broken_is_told_plainly(text, message, tmp_path, monkeypatch):
    _package(tmp_path, monkeypatch, text)
    with pytest.raises(RuntimeError, match=message):
        evaluate_policy(make_env("og_marl:smac_v1/3m/Good"), ATTACK, 1, 0, processes=1)


def test_a_map_needs_the_sizes_of_its_policy():
    with pytest.raises(
        ValueError, match="smac/3m: field 'spec': expected the sizes that a policy was trained with"
    ):
        make_host("smac/3m")
