"""Datasets on disk: nothing is lost, others read ours, we read theirs, damage is refused by
name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxoff import registry, runtime
from jaxoff.data import disk, vault
from jaxoff.data.dataset import InvalidEpisodes
from jaxoff.errors import InvalidSetting
from tests.reference.toy_episodes import toy_episodes, toy_spec

_FIELDS = (
    *("jaxoff_schema", "sha256_metadata", "sha256", "sha256_final", "n_agents", "action_type"),
    *("num_actions", "action_bound", "horizon", "steps", "statistics", "made_with", "env"),
    "structure_shape",
)


def assert_equal(a, b):
    for name, x, y in zip(a._fields, a, b, strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype, name
        np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.fixture(params=[True, False], ids=["discrete", "continuous"])
def saved(request, tmp_path):
    path, episodes = tmp_path / "toy.vlt" / "mixed", toy_episodes(discrete=request.param)
    disk.save(
        path, episodes, toy_spec(request.param), {"scenario": "toy", "recipe": "by hand", "seed": 3}
    )
    return path, episodes


@pytest.fixture
def path(tmp_path):
    disk.save(tmp_path / "toy.vlt" / "mixed", toy_episodes(), toy_spec(), {})
    return tmp_path / "toy.vlt" / "mixed"


def test_round_trip_is_exact(saved):
    found, metadata = disk.load(saved[0])
    assert_equal(found, saved[1])
    assert (metadata["env"], metadata["scenario"], metadata["recipe"], metadata["seed"]) == (
        "toy",
        "toy",
        "by hand",
        3,
    )


@pytest.mark.parametrize(
    "name", ["50%[r r m]+50%[m*3]", "a#b", "a?b", "a|b", "a b", "~", "\u00e9\u5b57", "%zz", "x:y"]
)
def test_a_folder_may_have_any_name(tmp_path, name):
    folder = tmp_path / name / f"{name}.vlt" / "seed-0"
    disk.save(folder, toy_episodes(), toy_spec(), {})
    assert_equal(disk.load(folder)[0], toy_episodes())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_round_trip_keeps_padding_that_no_episode_needs(tmp_path):
    episodes = toy_episodes((2, 4))
    wide = episodes._replace(
        **{
            k: np.pad(v, [(0, 0), (0, 3)] + [(0, 0)] * (v.ndim - 2))
            for k, v in episodes._asdict().items()
            if k not in ("behaviour_level", "agent_reward")
        }
    )
    disk.save(tmp_path / "a" / "b", wide, toy_spec(), {})
    assert_equal(disk.load(tmp_path / "a" / "b")[0], wide)


def test_relative_paths_are_read_and_written(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    disk.save("../there/toy.vlt/x", toy_episodes(), toy_spec(), {})
    assert_equal(disk.load(os.path.join("..", "there", "toy.vlt", "x"))[0], toy_episodes())


def test_flashbax_reads_the_main_tree(saved, capsys):
    from flashbax.vault import Vault

    path, episodes = saved
    vault = Vault(path.parent.name, rel_dir=str(path.parent.parent), vault_uid=path.name)
    assert vault.vault_index == 9  # 3 + 1 + 5 steps
    tree = vault.read().experience
    filled = episodes.filled
    np.testing.assert_array_equal(tree["observations"][0], episodes.obs[:, :-1][filled])
    np.testing.assert_array_equal(tree["actions"][0], episodes.actions[filled])
    np.testing.assert_array_equal(tree["infos"]["state"][0], episodes.state[:, :-1][filled])
    np.testing.assert_array_equal(tree["rewards"][0], np.tile(episodes.reward[filled][:, None], 2))
    np.testing.assert_array_equal(tree["terminals"][0, :, 0], [0, 0, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(tree["truncations"][0, :, 1], [0, 0, 0, 0, 0, 0, 0, 0, 1])
    assert ("legals" in tree["infos"]) == (episodes.actions.ndim == 3)


def test_metadata_has_statistics_dimensions_and_hashes(path):
    metadata = json.loads((path / "metadata.json").read_text())
    # rewards 1+2+3 = 6, 11, 21+22+23+24+25 = 115: mean 44
    assert metadata["statistics"]["return_mean"] == pytest.approx(44)
    assert (metadata["statistics"]["return_min"], metadata["statistics"]["return_max"]) == (6, 115)
    assert (metadata["statistics"]["episodes"], metadata["statistics"]["transitions"]) == (3, 9)
    assert metadata["statistics"]["return_std"] == pytest.approx(np.std([6, 11, 115]))
    assert metadata["structure_shape"]["observations"] == "(1, 9, 2, 4)"
    assert (metadata["n_agents"], metadata["action_type"], metadata["num_actions"]) == (
        2,
        "discrete",
        3,
    )
    assert set(metadata["sha256"]) == {
        "observations",
        "actions",
        "rewards",
        "terminals",
        "truncations",
        "infos.state",
        "infos.legals",
    }
    assert "terminals" in metadata["done_semantics"]


def test_a_large_dataset_of_several_chunks_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(vault, "_CHUNK_BYTES", 64)  # two rows of observations a chunk
    disk.save(tmp_path / "a" / "b", toy_episodes(), toy_spec(), {})
    assert_equal(disk.load(tmp_path / "a" / "b")[0], toy_episodes())


# ------------------------------------------------------------------------------------------
# refusals


def data_files(folder):
    return sorted((f for f in (folder / "d").iterdir()), key=lambda f: -f.stat().st_size)


def test_every_lost_or_damaged_file_is_noticed_or_harmless(path):
    # the store keeps some superseded files: a dataset with one of them lost must come back
    # unchanged
    refused = 0
    for file in [
        *data_files(path),
        *data_files(path / "final"),
        path / "manifest.ocdbt",
        path / "final" / "manifest.ocdbt",
    ]:
        whole = file.read_bytes()
        for damaged in (
            None,
            whole[: len(whole) // 2],
            whole[:-9] + bytes(b ^ 255 for b in whole[-9:]),
        ):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            try:
                assert_equal(disk.load(path)[0], toy_episodes())
            except disk.InvalidDataset as error:
                assert str(path) in str(error)
                refused += 1
            file.write_bytes(whole)
    assert refused >= 30
    assert_equal(disk.load(path)[0], toy_episodes())


def test_changed_content_is_refused_by_array_and_hash(path):
    store = vault.open_array(path, "rewards.")
    import tensorstore

    store = tensorstore.open(store.spec(), open=True).result()
    store[0, 4, 0].write(99.0).result()
    with pytest.raises(disk.InvalidDataset, match="array 'rewards': expected content of hash"):
        disk.load(path)


def test_a_changed_length_is_refused(path):
    import tensorstore

    store = tensorstore.open(vault.open_array(path, "vault_index").spec(), open=True).result()
    store.write(np.array([8], np.int32)).result()
    with pytest.raises(disk.InvalidDataset, match=r"array 'vault_index': expected 9, .* found 8"):
        disk.load(path)


def test_missing_and_damaged_metadata_are_refused_by_file(path):
    file = path / "metadata.json"
    good = json.loads(file.read_text())
    file.write_text("{")
    with pytest.raises(disk.InvalidDataset, match=r"metadata\.json: expected the JSON metadata"):
        disk.load(path)
    file.write_text("[" * 100_000)
    with pytest.raises(disk.InvalidDataset, match=r"metadata\.json: expected the JSON metadata"):
        disk.load(path)
    file.write_text(json.dumps({**good, "version": 2.0}))
    with pytest.raises(disk.InvalidDataset, match=r"'version': expected 1\.x, found 2\.0"):
        disk.load(path)
    file.write_text(json.dumps({**good, "jaxoff_schema": 7}))
    with pytest.raises(disk.InvalidDataset, match="'jaxoff_schema': expected 1 or 2, found 7"):
        disk.load(path)


@pytest.mark.parametrize("folder", [".", "final"])
@pytest.mark.parametrize("name", [None, *_FIELDS])
def test_a_changed_or_lost_field_of_the_metadata_is_damage(path, folder, name):
    file = path / folder / "metadata.json"
    good = json.loads(file.read_text())
    if name is None:
        damaged = [good | {"new": 1}]
    elif name in good:
        lost = {key: value for key, value in good.items() if key != name}
        damaged = [lost, good | {name: 1}, good | {name: "x"}, good | {name: None}]
    else:
        damaged = []
        assert folder == "final"
    for metadata in damaged:
        file.write_text(json.dumps(metadata))
        with pytest.raises(disk.InvalidDataset, match=rf"{file.name}: "):
            disk.load(path)


def as_schema_1(path, **changes):
    """Make a dataset one that was written before metadata had a hash."""
    for file in (path / "metadata.json", path / "final" / "metadata.json"):
        metadata = json.loads(file.read_text())
        del metadata["sha256_metadata"]
        changed = changes if file.parent == path else {}
        file.write_text(json.dumps(metadata | {"jaxoff_schema": 1} | changed))


def test_a_dataset_of_schema_1_is_read(path):
    as_schema_1(path)
    assert_equal(disk.load(path)[0], toy_episodes())


@pytest.mark.parametrize(
    "changes",
    [
        *({"steps": value} for value in (0, "x", 10**9, 2.5, True, None, -1)),
        *({"n_agents": value} for value in (3, 0, "2")),
        {"num_actions": 4},
        {"action_type": "continuous"},
        {"action_type": 1},
        {"horizon": "x"},
        {"action_bound": "x"},
        {"env": 1},
        {"sha256": []},
        {"sha256": {"observations": 3}},
        {"structure_shape": {"observations": "(1, 9, 2)"}},
        {"structure_shape": "x"},
        {"structure_shape": {"observations": "9 ** 9 ** 9"}},
        {"jaxoff_schema": True},
        {"jaxoff_schema": "1"},
    ],
    ids=str,
)
def test_damage_to_metadata_of_schema_1_is_refused_by_field(path, changes):
    as_schema_1(path, **changes)
    (name,) = changes
    with pytest.raises(disk.InvalidDataset) as error:
        disk.load(path)
    assert any(place in str(error.value) for place in (f"'{name}'", "metadata.json: ", "array '"))


@pytest.mark.parametrize(
    ("length", "schema"),
    [(length, schema) for length in (2**31 - 1, -1) for schema in (1, 2, None)] + [(10, 1), (8, 1)],
)
def test_a_damaged_length_is_refused_before_anything_is_allocated(path, length, schema):
    import tensorstore

    if schema != 2:
        as_schema_1(path)
    if schema is None:  # as another program writes it
        file = path / "metadata.json"
        known = ("version", "structure_shape", "structure_dtype")
        file.write_text(json.dumps({k: json.loads(file.read_text())[k] for k in known}))
    store = tensorstore.open(vault.open_array(path, "vault_index").spec(), open=True).result()
    store.write(np.array([length], np.int32)).result()
    with pytest.raises(disk.InvalidDataset, match="vault_index"):
        disk.load(path)


def test_the_versions_of_what_made_a_dataset_are_recorded(tmp_path):
    spec = registry.make_spec("smax/3m/random")
    assert disk._made_with(spec).keys() == {"jaxoff", "jax", "jaxmarl", "commit"}
    assert "mujoco" in disk._made_with(registry.make_spec("mamujoco/halfcheetah-2x3/random"))
    disk.save(tmp_path / "x", toy_episodes(), toy_spec(), {})
    made = disk.load(tmp_path / "x")[1]["made_with"]
    assert made == runtime.versions("jaxoff", "jax") | {"commit": runtime.git_commit()}


def test_a_missing_dataset_lists_what_is_there(path):
    with pytest.raises(
        disk.InvalidDataset, match=r"other/metadata\.json.*folders beside it: mixed"
    ):
        disk.load(path.parent / "other")


def test_a_missing_final_vault_is_refused(path):
    (path / "final" / "metadata.json").unlink()
    with pytest.raises(disk.InvalidDataset, match=r"final/metadata\.json"):
        disk.load(path)


def test_saving_never_replaces_unasked_and_leaves_nothing_half_written(path, monkeypatch):
    with pytest.raises(FileExistsError, match="overwrite"):
        disk.save(path, toy_episodes(seed=1), toy_spec(), {})

    def fail(*args):
        raise OSError("disk full")

    write = disk.write_vault
    monkeypatch.setattr(
        disk,
        "write_vault",
        lambda folder, *rest: fail() if folder.name == "final" else write(folder, *rest),
    )
    with pytest.raises(OSError, match="disk full"):
        disk.save(path, toy_episodes(seed=1), toy_spec(), {}, overwrite=True)
    assert [p.name for p in path.parent.iterdir()] == ["mixed"]
    assert_equal(disk.load(path)[0], toy_episodes())
    monkeypatch.undo()
    disk.save(path, toy_episodes(seed=1), toy_spec(), {}, overwrite=True)
    assert_equal(disk.load(path)[0], toy_episodes(seed=1))
    assert [p.name for p in path.parent.iterdir()] == ["mixed"]


def test_only_a_dataset_is_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    disk.save(tmp_path / "mine", toy_episodes(), toy_spec(), {}, overwrite=True)  # it was empty
    (tmp_path / "mine" / "metadata.json").rename(tmp_path / "mine" / "letters")
    for place in ("mine", "mine/letters"):
        with pytest.raises(FileExistsError, match="expected a dataset to replace, found something"):
            disk.save(tmp_path / place, toy_episodes(), toy_spec(), {}, overwrite=True)
    assert (tmp_path / "mine" / "letters").is_file()


def test_a_dataset_behind_a_link_is_replaced_where_it_is(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    disk.save(tmp_path / "link", toy_episodes(seed=1), toy_spec(), {}, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert_equal(disk.load(path)[0], toy_episodes(seed=1))


def test_a_dataset_that_a_killed_writer_had_moved_aside_is_read(path):
    path.rename(path.with_name(f".old-{2**22 + 1}-0123abcd.{path.name}"))
    assert_equal(disk.load(path)[0], toy_episodes())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path):
    code = (
        "import resource, sys\n"
        "from jaxoff.data import disk\n"
        "from jaxoff.errors import NotWritten\n"
        "from tests.reference.toy_episodes import toy_episodes, toy_spec\n"
        "episodes = toy_episodes((5,) * 5000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "try:\n    disk.save(sys.argv[1], episodes, toy_spec(), {})\n"
        "except NotWritten as error:\n    print(error)\n"
    )
    path = tmp_path / "data" / "x"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout == f"{path}: could not be written: file too large; free some space\n"
    assert not list(tmp_path.iterdir()) and "Traceback" not in done.stderr


def test_info_may_not_replace_the_formats_own_fields(tmp_path):
    with pytest.raises(InvalidSetting, match=r"field 'info'.*'sha256'"):
        disk.save(tmp_path / "x" / "y", toy_episodes(), toy_spec(), {"sha256": {}})
    with pytest.raises(InvalidSetting, match=r"field 'info': expected values of JSON"):
        disk.save(tmp_path / "x" / "y", toy_episodes(), toy_spec(), {"recipe": object()})
    assert not list(tmp_path.iterdir())


def test_invalid_episodes_are_not_written(tmp_path):
    with pytest.raises(InvalidEpisodes, match="field 'reward'"):
        disk.save(
            tmp_path / "x" / "y", toy_episodes()._replace(reward=np.zeros((3, 4))), toy_spec(), {}
        )
    assert not list(tmp_path.iterdir())
