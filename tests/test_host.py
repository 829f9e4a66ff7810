"""Host simulators: every episode once, whatever the number of processes, and mazes as in jit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.data import recipes
from jaxoff.envs.maze import MazeState, make_maze, waypoint_policy
from jaxoff.eval import host as host_module
from jaxoff.eval.host import evaluate_host, make_host
from jaxoff.types import Policy

WALKER = make_host("mamujoco/walker2d-2x3")


def _wave(memory, seen):
    """Actions that depend on what is seen, on the last action and on a memory that counts the
    steps.
    """
    place = jnp.tanh(seen.obs[..., :3] + 0.5 * seen.last_actions + jnp.sin(memory)[..., None, None])
    return memory + 1, distrax.Deterministic(place)


WAVE = Policy(jnp.zeros, _wave)


def test_episodes_equal_a_simulator_stepped_by_hand(monkeypatch, tmp_path):
    import gymnasium

    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the current folder
    # three rounds, the last one half empty: memory starts anew in each
    monkeypatch.setattr(host_module, "WIDTH", 2)
    out = evaluate_host(WAVE, WALKER, 5, seed=3, processes=1)
    env = gymnasium.make("Walker2d-v5")
    step = jax.jit(_wave_by_hand)
    for e, child in enumerate(np.random.SeedSequence(3).spawn(5)):
        env.reset(seed=int(child.generate_state(1)[0]))
        total, t, last, over = 0.0, 0, np.zeros((2, 3), np.float32), False
        while not over:
            sim = np.concatenate([env.unwrapped.data.qpos, env.unwrapped.data.qvel]).astype(
                np.float32
            )
            last = np.asarray(step(sim, last, t))
            # agents in order: right leg, left leg
            _, reward, terminated, truncated, _ = env.step(last.reshape(-1))
            total, t, over = total + reward, t + 1, terminated or truncated
        assert (out["lengths"][e], out["returns"][e]) == (t, pytest.approx(total, rel=1e-3))


def _wave_by_hand(sim, last, t):
    own = [[5, 14, 4], [8, 17, 7]]  # foot angle, foot speed, leg angle
    return jnp.tanh(sim[jnp.array(own)] + 0.5 * last + jnp.sin(jnp.asarray(t, jnp.float32)))


def test_result_depends_on_the_seed_and_not_on_the_number_of_processes(monkeypatch):
    monkeypatch.setattr(host_module, "WIDTH", 4)
    random = recipes.random_policy(WALKER.spec)
    one, two = (
        evaluate_host(random, WALKER, 6, seed=1, processes=count, sampled=True) for count in (1, 2)
    )
    other = evaluate_host(random, WALKER, 6, seed=2, processes=2, sampled=True)
    assert one["returns"].shape == one["lengths"].shape == (6,)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert len(np.unique(one["returns"])) == 6
    assert (one["returns"] != other["returns"]).all()


def test_time_limit_of_sit_cuts_the_cheetah():
    still = Policy(
        lambda shape: (),
        lambda memory, seen: (memory, distrax.Deterministic(jnp.zeros_like(seen.last_actions))),
    )
    out = evaluate_host(still, make_host("mamujoco/HalfCheetah_2l"), 2, seed=0, processes=1)
    assert out["lengths"].tolist() == [200, 200]
    assert np.abs(out["returns"]).max() < 20  # it falls over and lies


def test_maze_on_the_host_flies_as_in_jit(tmp_path):
    env, host = make_maze("maze/umaze"), make_host("maze/umaze")
    start = host.start(np.random.default_rng(0))
    seen = host.state(start)
    state = MazeState(
        jnp.array(seen[:2], jnp.float32), jnp.array(seen[2:], jnp.float32), jnp.zeros((), int)
    )
    workers = host_module.Workers(host, 1, 1, str(tmp_path))
    try:
        np.testing.assert_allclose(workers.reset([(0, start)])[0], start, atol=1e-12)
        step, control = jax.jit(env.step), jax.jit(host.control)
        for action in np.random.default_rng(1).uniform(-1, 1, (20, 1, 2)).astype(np.float32):
            state, after = step(jax.random.key(0), state, action)
            sim, _, terminated, truncated = workers.step(
                np.array([0]), np.asarray(control(action))[None]
            )
            np.testing.assert_allclose(host.state(sim)[0], after.state, atol=1e-4)
            assert bool(host.reward(sim)[0]) == bool(after.reward)
            assert not (terminated[0] or truncated[0])
    finally:
        workers.close()


def test_controller_scores_alike_on_both_mazes():
    env = make_maze("maze/umaze")
    there = evaluate_host(waypoint_policy(env), make_host("maze/umaze"), 4, seed=0, processes=2)
    assert there["lengths"].tolist() == [300] * 4
    here = recipes.record(env, waypoint_policy(env), 64, jax.random.key(0)).reward.sum(1)
    # 64 episodes each gave 216 there and 224 here, with a standard deviation of about 45
    assert abs(there["returns"].mean() - here.mean()) < 60


def test_start_of_a_maze_is_d4rls():
    host, random = make_host("maze/large"), np.random.default_rng(0)
    starts = np.stack([host.state(host.start(random)) for _ in range(2000)])
    cells = np.round(starts[:, :2])
    assert np.abs(starts[:, :2] - cells).max() <= 0.1 + 1e-9
    assert {tuple(c) for c in cells.astype(int)} == {
        tuple(c) for c in make_maze("maze/large").game.free
    }
    np.testing.assert_allclose(starts[:, 2:].std(), 0.1, rtol=0.05)


def test_worker_imports_no_jax():
    file = Path(host_module.__file__).with_name("host_worker.py")
    code = (
        f"import runpy, sys; runpy.run_path({str(file)!r}); import gymnasium; print('jax' "
        "in sys.modules, 'jaxoff' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert out.stdout.split() == ["False", "False"]


def test_simulator_that_fails_is_reported_with_its_own_error():
    with pytest.raises(RuntimeError, match=r"failed during 'make'(?s:.*)NoSuchBody"):
        evaluate_host(WAVE, WALKER._replace(name="NoSuchBody-v0"), 1, seed=0, processes=1)


def test_worker_that_dies_is_reported(tmp_path):
    workers = host_module.Workers(WALKER, 2, 2, str(tmp_path))
    try:
        workers.reset([(0, None), (1, None)])
        workers.processes[1].kill()
        workers.processes[1].wait()
        with pytest.raises(
            RuntimeError,
            match=r"a simulator process died during 'step' \(exit codes: \[None, -9\]\)",
        ):
            workers.step(np.arange(2), np.zeros((2, 6)))
    finally:
        workers.close()
    assert [process.poll() for process in workers.processes] == [0, -9]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate_host(WAVE, WALKER, 0, 0), "episodes: expected at least one, found 0"),
        (
            lambda: evaluate_host(WAVE, WALKER, 1, 0, processes=0),
            "processes: expected at least one, found 0",
        ),
        (lambda: make_host("maze/huge"), "maze: expected one of maze/umaze, .* found 'maze/huge'"),
        (
            lambda: make_host("mamujoco/cat-2x3"),
            "mamujoco: expected one of .* found 'mamujoco/cat-2x3'|found 'cat-2x3'",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
