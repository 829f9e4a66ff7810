"""The public AlberDICE buffers: read exactly, and replayed through our environments."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff import registry
from jaxoff.data import recipes
from jaxoff.data.convert import alberdice
from jaxoff.data.dataset import InvalidEpisodes, validate
from jaxoff.data.episodes import lengths_of
from jaxoff.envs.games.bridge import make_bridge
from jaxoff.names import DataOptions, Task

ROOT = Path(
    os.environ.get("JAXOFF_PUBLIC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)
BRIDGE = "alberdice:grid/bridge/optimal"


def public(task):
    """Episodes of a published buffer; the test is skipped where that is not on this machine."""
    try:
        return registry.make_data(task, DataOptions(data_dir=str(ROOT)))
    except FileNotFoundError as error:
        pytest.skip(f"public data not present: {error}")


# ------------------------------------------------------------------------------------ the real
# buffers


@pytest.mark.parametrize("task", registry.family_of(Task.parse(BRIDGE)).tasks())
def test_bridge_replays_the_public_buffer_without_a_mismatch(task):
    data = public(task)
    ours = recipes.replay(make_bridge(horizon=50), data.actions, jax.random.key(0))
    for name in ("state", "obs", "avail", "actions", "reward", "terminated", "truncated", "filled"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(data, name), err_msg=name)


@pytest.mark.parametrize("task", registry.family_of(Task.parse("alberdice:matrix/xor/b")).tasks())
def test_xor_replays_the_public_buffer_without_a_mismatch(task):
    data = public(task)
    ours = recipes.replay(registry.make_env(task), data.actions, jax.random.key(0))
    for name in ("state", "obs", "avail", "actions", "reward", "terminated", "truncated", "filled"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(data, name), err_msg=name)


def test_public_bridge_optimal_has_the_published_returns():
    data = public(BRIDGE)
    returns, counts = np.unique(data.reward.sum(1).round(4), return_counts=True)
    np.testing.assert_allclose(returns, [-1.2904, -1.2591, -1.2355])
    assert (counts.tolist(), lengths_of(data).tolist()) == ([173, 160, 167], [8] * 500)


def test_our_bridge_optimal_takes_the_ways_of_the_public_one():
    ways = [
        {tuple(path) for path in e.state[:, :, [0, 1, 4, 5]].reshape(len(e.state), -1)}
        for e in (public(BRIDGE), recipes.bridge("optimal"))
    ]
    assert len(ways[0]) == 16 and ways[0] == ways[1]


def test_public_xor_uses_its_joint_actions_only():
    used = {tuple(row) for row in public("alberdice:matrix/xor/b").actions.reshape(-1, 2).tolist()}
    assert used == {(0, 1), (1, 0)}


# --------------------------------------------------------------------------------- a buffer made by
# hand


def write_buffer(folder: Path, lengths=(3, 5), horizon=5, n=2, a=5, s=8) -> dict[str, np.ndarray]:
    """A buffer in the published layout, with an action at the last filled slot that was never
    executed.
    """
    rng, count, slots = np.random.default_rng(0), len(lengths), horizon + 1
    filled = (np.arange(slots) <= np.array(lengths)[:, None]).astype(np.int64)
    actions = rng.integers(a, size=(count, slots, n, 1)) * filled[..., None, None]
    ended = np.arange(slots) == np.array(lengths)[:, None] - 1
    arrays = {
        "filled": filled[..., None],
        "actions": actions,
        "actions_onehot": ((actions == np.arange(a)) & (filled[..., None, None] > 0)).astype(
            np.float32
        ),
        "avail_actions": np.ones((count, slots, n, a), np.int32)
        * filled[..., None, None].astype(np.int32),
        "state": (rng.normal(size=(count, slots, s)) * filled[..., None]).astype(np.float32),
        "obs": (rng.normal(size=(count, slots, n, s)) * filled[..., None, None]).astype(np.float32),
        "reward": (rng.normal(size=(count, slots, 1)) * (filled[..., None] > 0)).astype(np.float32),
        "terminated": ended[..., None].astype(np.uint8),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "meta.json").write_text(
        json.dumps({"buffer_index": 0, "episodes_in_buffer": count, "buffer_size": count})
    )
    return arrays


@pytest.fixture
def buffer(tmp_path):
    return tmp_path / "buffer", write_buffer(tmp_path / "buffer")


SPEC = make_bridge().spec


def test_the_action_of_the_final_slot_is_no_transition(buffer):
    folder, arrays = buffer
    episodes = alberdice.read(folder, SPEC)
    validate(episodes, SPEC)
    assert lengths_of(episodes).tolist() == [3, 5]
    assert arrays["reward"][0, 3] != 0 and episodes.reward[0, 3] == 0
    assert not episodes.actions[0, 3:].any()
    np.testing.assert_array_equal(episodes.actions[0, :3], arrays["actions"][0, :3, :, 0])


def test_the_final_slot_holds_the_last_observation(buffer):
    folder, arrays = buffer
    episodes = alberdice.read(folder, SPEC)
    np.testing.assert_array_equal(episodes.obs, arrays["obs"])
    np.testing.assert_array_equal(episodes.state[0, 3], arrays["state"][0, 3])
    np.testing.assert_array_equal(episodes.terminated.argmax(1), [2, 4])


def damage(folder, name, change):
    array = np.load(folder / f"{name}.npy")
    np.save(folder / f"{name}.npy", change(array))


def gap(filled):
    filled[1, 2] = 0
    return filled


def late(terminated):
    terminated[0] = np.roll(terminated[0], 1)
    return terminated


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "state",
            lambda x: x[..., :7],
            r"state\.npy: expected shape \(2, 6, 8\), found \(2, 6, 7\)",
        ),
        ("obs", lambda x: x[:1], r"obs\.npy: expected shape \(2, 6, 2, 8\), found \(1, 6, 2, 8\)"),
        (
            "actions",
            lambda x: x[..., 0],
            r"actions\.npy: expected shape \(2, 6, 2, 1\), found \(2, 6, 2\)",
        ),
        (
            "filled",
            gap,
            r"filled\.npy: expected two or more ones, then zeros, found otherwise in episode 1",
        ),
        (
            "terminated",
            late,
            r"terminated\.npy: expected a single one in slot 2 of episode 0, found slots \[3\]",
        ),
        (
            "terminated",
            np.zeros_like,
            r"terminated\.npy: expected a single one in slot 2 of episode 0, found slots \[\]",
        ),
        ("reward", lambda x: x + 1j, r"reward\.npy: expected numbers, found complex64"),
        ("actions", lambda x: (x + 1) % 5, r"actions_onehot\.npy: expected actions"),
    ],
)
def test_a_wrong_array_is_refused_by_file(buffer, name, change, message):
    damage(buffer[0], name, change)
    with pytest.raises(InvalidEpisodes, match=message):
        alberdice.read(buffer[0], SPEC)


@pytest.mark.parametrize("keep", [0, 20, 200])
def test_a_truncated_array_is_refused_by_file(buffer, keep):
    file = buffer[0] / "reward.npy"
    file.write_bytes(file.read_bytes()[: min(keep, file.stat().st_size - 4)])
    with pytest.raises(InvalidEpisodes, match=r"reward\.npy: expected a whole \.npy array"):
        alberdice.read(buffer[0], SPEC)


def test_a_missing_array_and_wrong_metadata_are_refused_by_file(buffer):
    (buffer[0] / "meta.json").write_text("{}")
    with pytest.raises(
        InvalidEpisodes, match=r"meta\.json: expected JSON with an integer 'episodes_in_buffer'"
    ):
        alberdice.read(buffer[0], SPEC)
    (buffer[0] / "obs.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"obs\.npy"):
        alberdice.read(buffer[0], SPEC)


# -------------------------------------------------------------------------------------------- tasks


def test_without_data_the_error_names_the_expected_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"data_dir.*bridge_from_start/buffer_optimal.*--data-dir"
    ):
        registry.make_data(BRIDGE)
    with pytest.raises(
        FileNotFoundError, match=f"{tmp_path}/mmdp_game_1_from_start/buffer_00_02_20"
    ):
        registry.make_data("alberdice:matrix/xor/c", DataOptions(data_dir=str(tmp_path)))


def test_episodes_option_draws_a_seeded_part_and_the_cut_applies(tmp_path):
    arrays = write_buffer(
        tmp_path / "alberdice" / "bridge_from_start" / "buffer_optimal",
        lengths=tuple(range(1, 6)) * 4,
    )
    options = DataOptions(seed=3, episodes=6, data_dir=str(tmp_path))
    part, again = (registry.make_data(BRIDGE + "-h3", options) for _ in range(2))
    assert part.reward.shape == (6, 3)
    np.testing.assert_array_equal(part.state, again.state)
    starts = {tuple(row) for row in arrays["state"][:, 0]}
    assert len({tuple(row) for row in part.state[:, 0]} & starts) == 6
    with pytest.raises(ValueError, match=r"expected 1\.\.20, found 21"):
        registry.make_data(BRIDGE, options._replace(episodes=21))


def test_environments_of_the_source_are_those_of_the_paper():
    xor, bridge = registry.make_env("alberdice:matrix/xor/a"), registry.make_env(BRIDGE)
    assert (xor.spec.horizon, bridge.spec.horizon) == (50, 20)
    np.testing.assert_array_equal(
        xor.reset(jax.random.key(0))[1].state, jnp.array([0.0, 1.0, 0.0, 1.0])
    )
