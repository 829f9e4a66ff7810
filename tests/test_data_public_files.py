"""The authors' own files of public datasets: each written here in exactly its layout, with its
traps, and damaged.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from jaxoff import torch_file
from jaxoff.data import public
from jaxoff.data.convert import cfcql, d4rl, omar, omiga
from jaxoff.data.convert.common import pad
from jaxoff.data.dataset import InvalidEpisodes, validate
from jaxoff.names import DataOptions, Task
from jaxoff.torch_file import InvalidFile, read_torch
from jaxoff.types import EnvSpec

ROOT = Path(
    os.environ.get("JAXOFF_PUBLIC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def padded(steps, spec):
    episodes = pad(steps, spec)
    validate(episodes, spec)
    return episodes


def write_hdf5(file, arrays):
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as out:
        for name, value in arrays.items():
            out[name] = value
    return file


# --------------------------------------------------------------------------------------------- OMAR

SPREAD = EnvSpec(
    "omar", num_agents=3, obs_size=4, state_size=12, action_size=2, discrete=False, horizon=3
)
CHEETAH = EnvSpec(
    "omar", num_agents=2, obs_size=4, state_size=10, action_size=3, discrete=False, horizon=3
)


def write_omar(folder, agents=3, rows=6, steps=3, states=0, dones=False, actions=2):
    """obs of agent i in row t is t + i / 10 everywhere, and next_obs t + 1 + i / 10, at the last
    row of an episode too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    t = np.arange(rows, dtype=np.float64)  # the authors' files are of double precision
    for i in range(agents):
        np.save(folder / f"obs_{i}.npy", np.repeat(t[:, None] + i / 10, 4, 1))
        np.save(folder / f"next_obs_{i}.npy", np.repeat(t[:, None] + 1 + i / 10, 4, 1))
        np.save(folder / f"acs_{i}.npy", np.full((rows, actions), 0.1 * i))
        np.save(folder / f"rews_{i}.npy", t + 1)
        np.save(folder / f"dones_{i}.npy", (t % steps == steps - 1).astype(float) * dones)
        if states:
            np.save(folder / f"states_{i}.npy", np.repeat(100 + t[:, None], states, 1))
            np.save(folder / f"next_states_{i}.npy", np.repeat(101 + t[:, None], states, 1))
    return folder


def test_omar_boundaries_come_from_the_length_as_dones_are_all_zero(tmp_path):
    episodes = padded(omar.read(write_omar(tmp_path), SPREAD, steps=3, states=False), SPREAD)
    np.testing.assert_array_equal(episodes.reward, [[1, 2, 3], [4, 5, 6]])
    assert not episodes.terminated.any()
    assert episodes.truncated.tolist() == [[False, False, True]] * 2
    assert episodes.agent_reward is None and episodes.obs.dtype == np.float32


def test_omar_last_rows_have_their_true_successor(tmp_path):
    episodes = padded(omar.read(write_omar(tmp_path), SPREAD, steps=3, states=False), SPREAD)
    # row 2 is the last of episode 0; its next_obs is 3 + i / 10; row 3 starts episode 1 at the same
    # numbers here
    np.testing.assert_allclose(episodes.obs[0, 3, :, 0], [3.0, 3.1, 3.2], rtol=1e-6)
    # there is no row 6
    np.testing.assert_allclose(episodes.obs[1, 3, :, 0], [6.0, 6.1, 6.2], rtol=1e-6)
    np.testing.assert_allclose(episodes.state[1, 3], np.repeat([6.0, 6.1, 6.2], 4), rtol=1e-6)


def test_omar_collisions_give_agents_rewards_of_their_own(tmp_path):
    folder = write_omar(tmp_path)
    rews = np.load(folder / "rews_0.npy")
    rews[1] -= 5  # agents 0 and 1 collide
    np.save(folder / "rews_0.npy", rews)
    np.save(folder / "rews_1.npy", rews)
    episodes = padded(omar.read(folder, SPREAD, steps=3, states=False), SPREAD)
    np.testing.assert_array_equal(episodes.agent_reward[0, 1], [-3, -3, 2])
    np.testing.assert_allclose(episodes.reward[0, 1], -4 / 3, rtol=1e-6)


def test_omar_prey_files_are_accepted_and_dropped(tmp_path):
    folder = write_omar(tmp_path)
    np.save(folder / "obs_3.npy", np.zeros((6, 2)))
    np.save(folder / "rews_3.npy", np.full(6, -1e6))
    episodes = padded(omar.read(folder, SPREAD, steps=3, states=False), SPREAD)
    assert episodes.obs.shape == (2, 4, 3, 4)
    np.testing.assert_array_equal(episodes.reward[0], [1, 2, 3])


def test_omar_cheetah_has_states_and_terminal_ends(tmp_path):
    folder = write_omar(tmp_path, agents=2, states=5, dones=True, actions=3)
    episodes = padded(omar.read(folder, CHEETAH, steps=3, states=True), CHEETAH)
    np.testing.assert_array_equal(episodes.state[0, :, 0], [100, 101, 102, 103])
    assert episodes.state.shape == (2, 4, 10)
    assert (
        episodes.terminated.tolist() == [[False, False, True]] * 2 and not episodes.truncated.any()
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: np.save(f / "obs_1.npy", np.zeros((6, 5))),
            r"obs_1\.npy: field 'obs_1': expected shape \(6, 4\), found \(6, 5\)",
        ),
        (
            lambda f: np.save(f / "acs_0.npy", np.zeros((5, 2))),
            r"acs_0\.npy: field 'acs_0': expected shape \(6, 2\), found \(5, 2\)",
        ),
        (
            lambda f: np.save(f / "rews_2.npy", np.full(6, np.nan)),
            r"rews_2\.npy.*expected finite numbers, found 6",
        ),
        (
            lambda f: np.save(f / "obs_0.npy", np.array(["a"] * 24).reshape(6, 4)),
            r"obs_0\.npy.*expected numbers, found <U1",
        ),
        (
            lambda f: np.save(f / "rews_0.npy", np.zeros(5)),
            r"rews_0\.npy: expected a multiple of 3 rows, found 5",
        ),
        (
            lambda f: np.save(f / "rews_0.npy", np.zeros(0)),
            r"rews_0\.npy: expected a multiple of 3 rows, found 0",
        ),
        (
            lambda f: (
                np.save(f / "dones_0.npy", [1.0, 0, 0, 0, 0, 0])
                or np.save(f / "dones_1.npy", [1.0, 0, 0, 0, 0, 0])
                or np.save(f / "dones_2.npy", [1.0, 0, 0, 0, 0, 0])
            ),
            r"dones_0\.npy: expected ones only on every 3th row, found one on row 0",
        ),
        (
            lambda f: [np.save(f / f"next_obs_{i}.npy", np.zeros((6, 4))) for i in range(3)],
            "expected rows in time order",
        ),
        (
            lambda f: (f / "obs_2.npy").write_bytes((f / "obs_2.npy").read_bytes()[:-8]),
            r"obs_2\.npy: expected a whole \.npy array",
        ),
        (lambda f: (f / "obs_2.npy").write_bytes(b""), r"obs_2\.npy: expected a whole \.npy array"),
        (
            lambda f: np.save(f / "obs_2.npy", np.array([{}]), allow_pickle=True),
            r"obs_2\.npy: expected a whole \.npy array",
        ),
    ],
)
def test_omar_damage_is_refused_by_file(tmp_path, damage, message):
    damage(write_omar(tmp_path))
    with pytest.raises(InvalidEpisodes, match=message):
        omar.read(tmp_path, SPREAD, steps=3, states=False)


def test_omar_missing_file_is_named(tmp_path):
    (write_omar(tmp_path) / "next_obs_1.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"next_obs_1\.npy"):
        omar.read(tmp_path, SPREAD, steps=3, states=False)


# -------------------------------------------------------------------------------------------- CFCQL

MAP = EnvSpec(
    "cfcql", num_agents=2, obs_size=3, state_size=4, action_size=3, discrete=True, horizon=4
)


def cfcql_arrays(lengths=(4, 2), limit=4):
    """Episodes of these lengths; one that reaches the limit has no terminal; state[e, t] = 10 e +
    t.
    """
    count, slots = len(lengths), limit + 1
    at = np.arange(slots)
    filled = at <= np.array(lengths)[:, None]
    last = (at == np.array(lengths)[:, None] - 1) & (np.array(lengths)[:, None] < limit)
    state = (10 * np.arange(count)[:, None] + at)[..., None] * np.ones(4)
    return {
        "state": (state * filled[..., None]).astype(np.float32),
        "obs": np.repeat(state[:, :, None, :3], 2, 2).astype(np.float32),
        "actions": np.ones((count, slots, 2, 1), np.int64),
        "avail_actions": np.ones((count, slots, 2, 3), np.int32),
        "probs": np.full((count, slots, 2, 3), np.nan, np.float32),
        "reward": (np.ones((count, slots, 1)) * (at + 1)[:, None]).astype(np.float32),
        "terminated": last[..., None].astype(np.uint8),
        "filled": filled[..., None].astype(np.int64),
    }


def test_cfcql_time_limits_are_truncations_and_probs_are_ignored(tmp_path):
    episodes = padded(cfcql.read(write_hdf5(tmp_path / "m.h5", cfcql_arrays()), MAP), MAP)
    assert episodes.filled.sum(1).tolist() == [4, 2]
    # the final slot's reward is no step's
    np.testing.assert_array_equal(episodes.reward, [[1, 2, 3, 4], [1, 2, 0, 0]])
    assert episodes.terminated.tolist() == [[False] * 4, [False, True, False, False]]
    assert episodes.truncated.tolist() == [[False, False, False, True], [False] * 4]
    np.testing.assert_array_equal(episodes.state[:, :, 0], [[0, 1, 2, 3, 4], [10, 11, 12, 0, 0]])
    assert episodes.agent_reward is None


def test_cfcql_draws_at_most_5000_episodes_once_each(tmp_path, monkeypatch):
    monkeypatch.setattr(cfcql, "EPISODES", 6)
    file = write_hdf5(tmp_path / "m.h5", cfcql_arrays((2,) * 9))
    first = [cfcql.read(file, MAP, seed=seed).seen.state[::2, 0].tolist() for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]
    assert len(set(first[0])) == 6 and set(first[0]) <= {10.0 * e for e in range(9)}
    more = cfcql_arrays((2,) * 11)
    for name in ("obs", "reward"):  # refused although the drawn episodes are there
        wrong = write_hdf5(tmp_path / f"{name}.h5", cfcql_arrays((2,) * 9) | {name: more[name]})
        with pytest.raises(InvalidEpisodes, match=f"'{name}': expected shape .9, 5"):
            cfcql.read(wrong, MAP)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "obs",
            lambda x: x[..., :2],
            r"'obs': expected shape \(2, 5, 2, 3\), found \(2, 5, 2, 2\)",
        ),
        (
            "actions",
            lambda x: x[..., 0],
            r"'actions': expected shape \(2, 5, 2, 1\), found \(2, 5, 2\)",
        ),
        ("actions", lambda x: x + 2, r"'actions': expected whole numbers 0\.\.2, found 3\.\.3"),
        (
            "state",
            lambda x: np.where(x == 1, np.nan, x),
            r"'state': expected finite numbers, found 4",
        ),
        (
            "filled",
            lambda x: x[:, ::-1],
            r"'filled': expected two or more ones, then zeros, found otherwise in episode 1",
        ),
        (
            "filled",
            lambda x: x[:0],
            r"'filled': expected episodes \(E, T, 1\), found shape \(0, 5, 1\)",
        ),
        (
            "filled",
            lambda x: x[0, 0, 0],
            r"'filled': expected episodes \(E, T, 1\), found shape \(\)",
        ),
        (
            "terminated",
            np.ones_like,
            r"'terminated': expected a one in slot 3 of episode 0, or none, found slots "
            r"\[0, 1, 2, 3, 4\]",
        ),
    ],
)
def test_cfcql_wrong_datasets_are_refused_by_name(tmp_path, name, change, message):
    arrays = cfcql_arrays()
    arrays[name] = change(arrays[name])
    with pytest.raises(InvalidEpisodes, match=r"m\.h5: field " + message):
        cfcql.read(write_hdf5(tmp_path / "m.h5", arrays), MAP)


def test_cfcql_damaged_lacking_and_missing_files_are_refused(tmp_path):
    file = write_hdf5(tmp_path / "m.h5", cfcql_arrays())
    whole = file.read_bytes()
    for damaged in (b"", b"not hdf5", whole[: len(whole) // 2], whole[:200]):
        file.write_bytes(damaged)
        with pytest.raises(
            InvalidEpisodes, match=r"m\.h5: expected a whole HDF5 file, found a damaged file"
        ):
            cfcql.read(file, MAP)
    arrays = cfcql_arrays()
    del arrays["reward"]
    with pytest.raises(InvalidEpisodes, match=r"m\.h5: expected the datasets .*, found no reward"):
        cfcql.read(write_hdf5(tmp_path / "m.h5", arrays), MAP)
    with pytest.raises(FileNotFoundError, match=r"other\.h5"):
        cfcql.read(tmp_path / "other.h5", MAP)


# ------------------------------------------------------------------------------------ OMIGA, MuJoCo

ANT = EnvSpec(
    "omiga", num_agents=2, obs_size=3, state_size=3, action_size=1, discrete=False, horizon=4
)


def omiga_arrays(done=(0, 0, 1, 0, 0, 0)):
    rows = len(done)
    t = np.arange(rows, dtype=np.float64)
    o = np.repeat(np.repeat(t[:, None, None], 2, 1), 3, 2)
    s = o + np.array([0.0, 0.5])[:, None]
    return {
        "o": o,
        "s": s,
        "a": np.full((rows, 2, 1), 1.25),
        "r": t + 1,
        "d": np.array(done, float)[:, None],
    }


def test_omiga_final_rows_only_tell_what_follows(tmp_path):
    # rows 0 1 2* | 3 4 5: steps start at rows 0, 1 and 3, 4; step 1 leads to a done row, so it does
    # not bootstrap
    episodes = padded(omiga.read_mujoco(write_hdf5(tmp_path / "a.hdf5", omiga_arrays()), ANT), ANT)
    np.testing.assert_array_equal(episodes.reward, [[1, 2], [4, 5]])
    np.testing.assert_array_equal(episodes.obs[:, :, 0, 0], [[0, 1, 2], [3, 4, 5]])
    # the first agent's
    np.testing.assert_array_equal(episodes.state[:, :, 0], [[0, 1, 2], [3, 4, 5]])
    assert episodes.terminated.tolist() == [[False, True], [False, False]]
    assert episodes.truncated.tolist() == [[False, False], [False, True]]  # unfinished


def test_omiga_episodes_of_one_row_have_no_step_and_actions_are_clipped(tmp_path):
    episodes = padded(
        omiga.read_mujoco(write_hdf5(tmp_path / "a.hdf5", omiga_arrays((1, 0, 0, 1, 0))), ANT), ANT
    )
    np.testing.assert_array_equal(episodes.reward, [[2, 3]])
    assert (episodes.actions == 1).all()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("o", lambda x: x[..., :2], r"'o': expected shape \(6, 2, 3\), found \(6, 2, 2\)"),
        ("a", lambda x: x[:5], r"'a': expected shape \(6, 2, 1\), found \(5, 2, 1\)"),
        ("r", lambda x: x[:5], r"'r': expected 6 numbers, found shape \(5,\)"),
        ("s", lambda x: x * np.nan, r"'s': expected finite numbers, found 36"),
        ("d", lambda x: x[:1], r"'d': expected two or more rows, found 1"),
        ("d", lambda x: x[0, 0], r"'d': expected shape \(any, 1\), found \(\)"),
        ("d", np.ones_like, r"a\.hdf5: expected episodes of two or more rows, found none"),
    ],
)
def test_omiga_wrong_datasets_are_refused_by_name(tmp_path, name, change, message):
    arrays = omiga_arrays()
    arrays[name] = change(arrays[name])
    with pytest.raises(InvalidEpisodes, match=message):
        omiga.read_mujoco(write_hdf5(tmp_path / "a.hdf5", arrays), ANT)


# -------------------------------------------------------------------- torch files, written without
# torch


@pytest.fixture
def torch(monkeypatch):
    """Stand-ins for torch's names, so that pickle writes them; the reader never imports them."""
    module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage"):
        setattr(module, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2(*args):
        raise AssertionError("the reader ran torch's name")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
        "torch._utils",
        "_rebuild_tensor_v2",
    )
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return module


class Storage:
    def __init__(self, kind, key, values):
        self.kind, self.key, self.values = kind, key, values


class Tensor:
    """Pickled as torch pickles a tensor."""

    def __init__(self, storage, shape, strides, offset=0):
        self.args = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.args


class Pickler(pickle.Pickler):
    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.legacy, self.storages = legacy, {}

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[value.key] = value
        pid = ("storage", value.kind, value.key, "cpu", len(value.values))
        return (*pid, None) if self.legacy else pid


def save_torch(path, value, legacy=False):
    """What torch.save writes: a zip archive, or the older stream of pickles."""
    with path.with_suffix(".part").open("wb") as out:
        if legacy:
            for head in (
                0x1950A86A20F9469CFC6C,
                1001,
                {"protocol_version": 1001, "little_endian": True, "type_sizes": {}},
            ):
                pickle.dump(head, out, protocol=2)
        pickler = Pickler(out, legacy)
        pickler.dump(value)
        if legacy:
            pickle.dump(sorted(pickler.storages), out, protocol=2)
            for key in sorted(pickler.storages):
                values = pickler.storages[key].values
                out.write(struct.pack("<q", len(values)) + values.tobytes())
    part = path.with_suffix(".part")
    if legacy:
        part.replace(path)
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", part.read_bytes())
        archive.writestr("archive/byteorder", "little")
        for key, storage in pickler.storages.items():
            archive.writestr(f"archive/data/{key}", storage.values.tobytes())
        archive.writestr("archive/version", "3\n")
    part.unlink()
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_torch_files_give_arrays_numbers_and_containers(torch, tmp_path, legacy):
    floats = Storage(torch.FloatStorage, "0", np.arange(6, dtype="<f4"))
    value = {
        "rows": Tensor(floats, (2, 3), (3, 1)),
        "columns": Tensor(floats, (3, 2), (1, 3)),  # a transposed view of the same storage
        "part": [Tensor(floats, (2,), (1,), 4), (1, 2.5, True, None, "x")],
        "whole": Tensor(Storage(torch.LongStorage, "1", np.array([7], "<i8")), (), ()),
        "numpy": np.arange(4.0).reshape(2, 2).T,
        "scalar": np.float32(1.5),
        "named": collections.OrderedDict(a=np.array([1, 2], np.int16)),
    }
    found = read_torch(save_torch(tmp_path / "x.pt", value, legacy))
    np.testing.assert_array_equal(found["rows"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["columns"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found["part"][0], [4, 5])
    np.testing.assert_array_equal(found["numpy"], [[0, 2], [1, 3]])
    np.testing.assert_array_equal(found["named"]["a"], [1, 2])
    assert (found["part"][1], found["whole"].shape, int(found["whole"]), found["scalar"]) == (
        (1, 2.5, True, None, "x"),
        (),
        7,
        1.5,
    )
    assert found["rows"].dtype == np.float32 and found["rows"].flags.writeable


class Malicious:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (os.system, ("touch {marker}",), r"(posix|nt)\.system"),
        (eval, ("open({marker!r}, 'w')",), r"(__builtin__|builtins)\.eval"),
        (getattr, ({}, "pop"), r"(__builtin__|builtins)\.getattr"),
    ],
)
def test_a_malicious_pickle_is_refused_by_its_global_and_not_run(
    torch, tmp_path, function, args, name, legacy
):
    marker = tmp_path / "ran"
    attack = Malicious(
        function, *(a.format(marker=str(marker)) if isinstance(a, str) else a for a in args)
    )
    file = save_torch(tmp_path / "x.pt", [1, [attack]], legacy)
    with pytest.raises(
        InvalidFile, match=rf"x\.pt: expected tensors.*found the global '{name}', which is not run"
    ):
        read_torch(file)
    assert not marker.exists()


def test_tensors_and_arrays_beyond_their_data_are_refused(torch, tmp_path):
    storage = Storage(torch.FloatStorage, "0", np.arange(6, dtype="<f4"))
    for shape, strides, offset in [
        ((7,), (1,), 0),
        ((2, 3), (3, 1), 1),
        ((10**9,), (0,), 0),
        ((3,), (-1,), 5),
        ((2,), (6,), 0),
    ]:
        with pytest.raises(InvalidFile, match="expected a tensor within its storage of 6"):
            read_torch(save_torch(tmp_path / "x.pt", Tensor(storage, shape, strides, offset)))
    with pytest.raises(InvalidFile, match="expected arrays of numbers, found object"):
        read_torch(save_torch(tmp_path / "x.pt", np.array([{}, None], object)))
    loop = []
    loop.append(loop)
    with pytest.raises(InvalidFile, match="damaged one"):
        read_torch(save_torch(tmp_path / "x.pt", loop))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_damaged_torch_files_are_refused(torch, tmp_path, legacy):
    file = save_torch(
        tmp_path / "x.pt",
        [Tensor(Storage(torch.FloatStorage, "0", np.ones(64, "<f4")), (64,), (1,)), 1.0],
        legacy,
    )
    whole = file.read_bytes()
    for damaged in (
        b"",
        b"\x80\x02",
        b"no pickle at all",
        *(whole[: len(whole) * k // 7] for k in range(1, 7)),
    ):
        file.write_bytes(damaged)
        with pytest.raises(
            InvalidFile, match=r"x\.pt: expected a whole torch file, found a damaged one"
        ):
            read_torch(file)
    with pytest.raises(FileNotFoundError, match=r"y\.pt"):
        read_torch(tmp_path / "y.pt")


def test_a_torch_file_changes_nothing_that_outlives_the_read(tmp_path):
    def names():
        return torch_file._Unpickler(io.BytesIO(), None).known

    for module, name in names():
        # BUILD with slots: setattr(what the name resolves to, "mark", 1)
        (tmp_path / "x.pt").write_bytes(
            f"\x80\x02c{module}\n{name}\n}}}}U\x04markK\x01s\x86b.".encode("latin1")
        )
        with pytest.raises(InvalidFile):
            read_torch(tmp_path / "x.pt")
    assert not [
        thing for thing in (*names().values(), *vars(torch_file).values()) if hasattr(thing, "mark")
    ]


@pytest.mark.parametrize("name", ["simple_tag", "simple_world"])
def test_a_published_torch_file_is_read(name):
    file = ROOT / "omar_prey" / f"{name}.pt"
    if not file.is_file():
        pytest.skip(f"public data not present: {file}")

    def arrays(value):
        if isinstance(value, dict | list | tuple):
            return [
                a
                for item in (value.values() if isinstance(value, dict) else value)
                for a in arrays(item)
            ]
        return [value] if isinstance(value, np.ndarray) else []

    found = arrays(read_torch(file))
    assert len(found) >= 40 and all(np.isfinite(a).all() for a in found)
    assert (64, 64) in {a.shape for a in found}


# -------------------------------------------------------------------------------------- OMIGA, SMAC

CORRIDOR = EnvSpec(
    "omiga", num_agents=2, obs_size=3, state_size=4, action_size=5, discrete=True, horizon=9
)


def omiga_episode(steps=3, done=True, state=None):
    """[agent][step] of [g, o, [a], [r], d, avail]; g as a list, o as an array, r as an array of
    one.
    """
    return [
        [
            [
                [float(10 * i + (t if state is None else state[t]))] * 2,
                np.full(3, t, np.float32),
                [np.int64(t % 5)],
                np.array([t + 1.0]),
                np.array([done and t == steps - 1]),
                np.ones(5, np.float32),
            ]
            for t in range(steps)
        ]
        for i in range(2)
    ]


def test_omiga_rewards_are_not_returns_to_go_and_files_are_episodes(torch, tmp_path):
    save_torch(tmp_path / "0.pt", omiga_episode(3))
    save_torch(tmp_path / "1.pt", omiga_episode(2, done=False), legacy=True)
    episodes = padded(omiga.read_smac(tmp_path, CORRIDOR), CORRIDOR)
    np.testing.assert_array_equal(episodes.reward, [[1, 2, 3], [1, 2, 0]])  # to go would be 6, 5, 3
    assert episodes.terminated.tolist() == [[False, False, True], [False] * 3]
    assert episodes.truncated.tolist() == [[False] * 3, [False, True, False]]
    # the last repeated
    np.testing.assert_array_equal(
        episodes.state[0], [[0, 0, 10, 10], [1, 1, 11, 11], [2, 2, 12, 12], [2, 2, 12, 12]]
    )
    np.testing.assert_array_equal(episodes.actions[0, :, 0], [0, 1, 2])


def test_omiga_a_state_that_stays_is_no_end(torch, tmp_path):
    # the released code infers an end after step 0
    save_torch(tmp_path / "0.pt", omiga_episode(3, state=[7, 7, 8]))
    episodes = padded(omiga.read_smac(tmp_path, CORRIDOR), CORRIDOR)
    assert episodes.terminated.tolist() == [[False, False, True]]


def change_step(episode, index, value):
    episode[1][2][index] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda e: e.pop(),
            r"0\.pt: expected a list of 2 agents, each a list of steps, found list of 1",
        ),
        (
            lambda e: e[1].pop(),
            r"0\.pt: expected the same number of steps, at least one, for all agents, "
            r"found \[2, 3\]",
        ),
        (lambda e: [s.clear() for s in e], r"for all agents, found \[0\]"),
        (
            lambda e: e[0][1].pop(),
            r"expected steps \[state, obs, action, reward, done, available\], found list of 5",
        ),
        (
            lambda e: change_step(e, 1, np.zeros(4)),
            r"0\.pt: field 'obs': expected numbers, as many in each step",
        ),
        (
            lambda e: change_step(e, 3, np.array([np.nan])),
            r"0\.pt: field 'reward': expected finite numbers, found 1",
        ),
        (
            lambda e: change_step(e, 2, [5]),
            r"0\.pt: field 'action': expected whole numbers 0\.\.4, found 0\.0\.\.5\.0",
        ),
        (
            lambda e: [change_row(s) for a in e for s in a],
            r"0\.pt: field 'available': expected shape \(3, 2, 5\), found \(3, 2, 6\)",
        ),
    ],
)
def test_omiga_wrong_episodes_are_refused_by_file(torch, tmp_path, change, message):
    episode = omiga_episode(3)
    change(episode)
    save_torch(tmp_path / "0.pt", episode)
    with pytest.raises(InvalidEpisodes, match=message):
        omiga.read_smac(tmp_path, CORRIDOR)


def test_omiga_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "0.pt").write_bytes(b"no pickle at all")
    with pytest.raises(
        InvalidEpisodes, match=r"0\.pt: expected a whole torch file, found a damaged one"
    ):
        omiga.read_smac(tmp_path, CORRIDOR)


def change_row(step):
    step[5] = np.ones(6, np.float32)


def test_omiga_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected one file an episode, found none"):
        omiga.read_smac(tmp_path, CORRIDOR)


# ---------------------------------------------------------------------------------------------
# mazes

MAZE = EnvSpec(
    "d4rl", num_agents=1, obs_size=4, state_size=4, action_size=2, discrete=False, horizon=300
)
POINT = EnvSpec(
    "minari", num_agents=1, obs_size=6, state_size=6, action_size=2, discrete=False, horizon=300
)


def maze_arrays(timeouts=(0, 0, 1, 0, 0, 1, 0)):
    rows = len(timeouts)
    t = np.arange(rows, dtype=np.float32)
    return {
        "observations": np.repeat(t[:, None], 4, 1),
        "actions": np.full((rows, 2), 0.5, np.float32),
        "rewards": t,
        "terminals": np.zeros(rows, bool),
        "timeouts": np.array(timeouts, bool),
    }


def test_maze_rows_of_a_timeout_tell_the_final_observation(tmp_path):
    # rows 0 1 2* | 3 4 5* | 6: steps 0, 1 and 3, 4; row 6 alone is no step
    episodes = padded(d4rl.read_maze2d(write_hdf5(tmp_path / "m.hdf5", maze_arrays()), MAZE), MAZE)
    np.testing.assert_array_equal(episodes.reward, [[0, 1], [3, 4]])
    np.testing.assert_array_equal(episodes.obs[:, :, 0, 0], [[0, 1, 2], [3, 4, 5]])
    assert episodes.truncated.tolist() == [[False, True]] * 2 and not episodes.terminated.any()
    assert episodes.actions.shape == (2, 2, 1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # as in version 0
        ({"timeouts": np.zeros(7, bool)}, "'timeouts': expected the end of an episode, found none"),
        (
            {"observations": np.zeros((7, 5))},
            r"'observations': expected shape \(7, 4\), found \(7, 5\)",
        ),
        ({"actions": np.full((7, 2), np.nan)}, "'actions': expected finite numbers, found 14"),
        ({"rewards": np.zeros(6)}, r"'terminals': expected shape \(6,\), found \(7,\)"),
    ],
)
def test_maze_wrong_datasets_are_refused_by_name(tmp_path, change, message):
    with pytest.raises(InvalidEpisodes, match=r"m\.hdf5: field " + message):
        d4rl.read_maze2d(write_hdf5(tmp_path / "m.hdf5", {**maze_arrays(), **change}), MAZE)


def test_a_maze_file_of_another_size_is_refused(tmp_path):
    file = write_hdf5(tmp_path / "maze2d-umaze-sparse-v1.hdf5", maze_arrays())
    with pytest.raises(
        InvalidEpisodes,
        match=r"umaze-sparse-v1\.hdf5: field 'rewards': expected 1000000 rows, found 7",
    ):
        public.read("d4rl:maze2d/umaze/v1", DataOptions(data_dir=str(tmp_path)))
    assert public.read(
        "d4rl:maze2d/umaze/v1", DataOptions(data_dir=str(file.parent)), verify=False
    ).reward.shape == (2, 2)


def minari_arrays(lengths=(3, 2)):
    arrays = {}
    for i, length in enumerate(lengths):
        t = np.arange(length + 1, dtype=np.float64)
        arrays |= {
            f"episode_{i}/observations/observation": 100 * i + np.repeat(t[:, None], 4, 1),
            f"episode_{i}/observations/achieved_goal": np.zeros((length + 1, 2)),
            f"episode_{i}/observations/desired_goal": np.full((length + 1, 2), 9.0 + i),
            f"episode_{i}/actions": np.full((length, 2), 0.5, np.float32),
            f"episode_{i}/rewards": t[1:],
            f"episode_{i}/terminations": (t[1:] == length) & (i == 1),
            f"episode_{i}/truncations": (t[1:] == length) & (i == 0),
        }
    return arrays


def test_minari_episodes_have_the_goal_and_the_final_observation(tmp_path):
    file = write_hdf5(
        tmp_path / "pointmaze" / "umaze-v2" / "data" / "main_data.hdf5", minari_arrays()
    )
    episodes = public.read("minari:pointmaze/umaze/v2", DataOptions(data_dir=str(tmp_path)))
    validate(episodes, POINT)
    np.testing.assert_array_equal(episodes.reward, [[1, 2, 3], [1, 2, 0]])
    np.testing.assert_array_equal(episodes.obs[1, 2, 0], [102, 102, 102, 102, 10, 10])
    assert (episodes.terminated.any(1).tolist(), episodes.truncated.any(1).tolist()) == (
        [False, True],
        [True, False],
    )
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidEpisodes, match=r"main_data\.hdf5: expected a whole HDF5 file"):
        d4rl.read_minari(file, POINT)


def test_minari_a_goal_of_the_episode_before_is_told(tmp_path):
    arrays = minari_arrays()
    arrays["episode_1/observations/desired_goal"][0] = 9.0  # as in episode 0
    with pytest.warns(UserWarning, match=r"m\.hdf5: in 1 of 2 episodes the first observation has"):
        steps = d4rl.read_minari(write_hdf5(tmp_path / "m.hdf5", arrays), POINT)
    np.testing.assert_array_equal(steps.seen.state[3, 4:], [9, 9])


def test_maze_flags_that_wrapped_are_refused(tmp_path):
    arrays = maze_arrays() | {"terminals": np.full(7, 255, np.uint8)}  # with a timeout it is 0
    with pytest.raises(InvalidEpisodes, match="'terminals': expected flags 0 and 1, found 255"):
        d4rl.read_maze2d(write_hdf5(tmp_path / "m.hdf5", arrays), MAZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"episode_1/observations/observation": np.zeros((2, 4))},
            r"'episode_1/observations/observation': expected shape \(3, 4\), found \(2, 4\)",
        ),
        (
            {"episode_0/rewards": np.zeros(0)},
            "'episode_0/rewards': expected at least one step, found none",
        ),
        (
            {"episode_0/actions": np.full((3, 2), np.inf)},
            "'episode_0/actions': expected finite numbers, found 6",
        ),
        ({"episode_1/actions": None}, "expected the dataset 'episode_1/actions', found none"),
        (None, r"expected groups episode_0, episode_1, \.\.\., found none"),
    ],
)
def test_minari_wrong_datasets_are_refused_by_name(tmp_path, change, message):
    arrays = (
        {}
        if change is None
        else {k: v for k, v in {**minari_arrays(), **change}.items() if v is not None}
    )
    with pytest.raises(InvalidEpisodes, match=message):
        d4rl.read_minari(write_hdf5(tmp_path / "m.hdf5", arrays), POINT)


# ------------------------------------------------------------------------- files found through
# their task


@pytest.fixture
def small(monkeypatch):
    """Small dimensions for real task names."""
    base = {"agents": 2, "obs": 3, "state": 4, "actions": 3, "discrete": True, "horizon": 4}
    particles = {
        **base,
        "agents": 3,
        "obs": 4,
        "state": 12,
        "actions": 2,
        "discrete": False,
        "horizon": 3,
    }
    # returns 1+2+3+4 = 10 and 1+2 = 3: mean 6.5, deviation 3.5
    table = {
        "cfcql:smac_v1/5m_vs_6m": {
            **base,
            "datasets": {
                "Expert": [6.5, 3.5, 3.0, 10.0, 6, 2, 1.0],
                "Medium-Replay": [18.0, 1, 1, 1, 9, 9, 1],
            },
        },
        "omar:mpe/simple_spread": {**particles, "datasets": {"Medium-Replay": []}},
        "omar:mamujoco/2halfcheetah": {
            **particles,
            "agents": 2,
            "state": 10,
            "actions": 3,
            "datasets": {"Expert": []},
        },
        "omiga:mamujoco/2ant": {
            **base,
            "state": 3,
            "actions": 1,
            "discrete": False,
            "datasets": {"Expert": [0.0] * 7},
        },
        "omiga:smac_v1/corridor": {**base, "actions": 5, "datasets": {"Good": []}},
    }
    monkeypatch.setattr(public, "_table", lambda: table)
    public.make_env.cache_clear()
    yield
    public.make_env.cache_clear()


@pytest.mark.parametrize("base", ["", "SOURCE"])
def test_a_task_finds_the_authors_files(torch, tmp_path, small, base):
    def place(source):
        return tmp_path / base.replace("SOURCE", source)

    write_hdf5(place("cfcql") / "5m_vs_6m_expert.h5", cfcql_arrays())
    write_omar(place("omar") / "simple_spread" / "medium-replay" / "seed_2_data")
    write_omar(
        place("omar") / "HalfCheetah-v2" / "expert" / "seed_2_data",
        agents=2,
        states=5,
        dones=True,
        actions=3,
    )
    write_hdf5(place("omiga") / "Ant-v2-2x4-expert.hdf5", omiga_arrays())
    (place("omiga") / "corridor" / "good").mkdir(parents=True)
    save_torch(place("omiga") / "corridor" / "good" / "0.pt", omiga_episode(3))
    options = DataOptions(seed=2, data_dir=str(tmp_path))
    for name in (
        "cfcql:smac_v1/5m_vs_6m/Expert",
        "omar:mpe/simple_spread/Medium-Replay",
        "omar:mamujoco/2halfcheetah/Expert",
        "omiga:mamujoco/2ant/Expert",
        "omiga:smac_v1/corridor/Good",
    ):
        task = Task.parse(name)
        validate(public.read(task, options), public.make_env(task).spec)


def test_the_vault_comes_before_the_files(tmp_path, small):
    write_hdf5(tmp_path / "5m_vs_6m_expert.h5", cfcql_arrays())
    task, options = Task.parse("cfcql:smac_v1/5m_vs_6m/Expert"), DataOptions(data_dir=str(tmp_path))
    assert public.locate(task, options) == (tmp_path / "5m_vs_6m_expert.h5", False)
    (tmp_path / "cfcql" / "smac_v1" / "5m_vs_6m.vlt" / "Expert").mkdir(parents=True)
    assert public.locate(task, options) == (
        tmp_path / "cfcql" / "smac_v1" / "5m_vs_6m.vlt" / "Expert",
        True,
    )


def test_files_with_other_statistics_are_read_with_a_warning(tmp_path, small):
    write_hdf5(tmp_path / "5m_vs_6m_medium_replay.h5", cfcql_arrays())
    with pytest.warns(
        UserWarning,
        match=(
            r"published statistics of cfcql:.*found other return mean \(expected 18, found "
            r"6\.5\)"
        ),
    ):
        public.read("cfcql:smac_v1/5m_vs_6m/Medium-Replay", DataOptions(data_dir=str(tmp_path)))


def test_a_missing_seed_of_omar_lists_those_there(tmp_path, small):
    write_omar(tmp_path / "omar" / "simple_spread" / "medium-replay" / "seed_2_data")
    with pytest.raises(
        FileNotFoundError, match=r"authors' simple_spread/medium-replay/seed_0_data.*seed_2_data"
    ):
        public.read("omar:mpe/simple_spread/Medium-Replay", DataOptions(data_dir=str(tmp_path)))
