"""`jaxoff data push` and `jaxoff policy push`: what is uploaded, into a folder and to a hub."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

import jaxoff
from jaxoff.cli import main
from jaxoff.data import disk, hub
from jaxoff.errors import Interrupted
from jaxoff.training.restore import restore
from tests.learners import StopAt


def run(*args):
    main([str(arg) for arg in args])


def error_of(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        run(*args)
    text = capsys.readouterr().err
    assert stop.value.code == 2 and text.count("\n") == 1, text
    return text


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset without a card, of a game."""
    folder = tmp_path_factory.mktemp("data") / "mine"
    return jaxoff.save(jaxoff.make_data("matrix/xor/b"), folder, env="matrix/xor")


@pytest.fixture(scope="module")
def job(data, tmp_path_factory):
    """A job that was trained on it."""
    out = tmp_path_factory.mktemp("results") / "job"
    fields = {"steps": 4, "evaluations": 2, "eval_episodes": 2}
    grid = {"lr": [0.1, 0.2]}
    spec = jaxoff.TrainSpec(
        "bc", data, grid=grid, config={"hidden": 4, "batch_size": 8}, data_dir="/home/me", **fields
    )
    jaxoff.train(spec, out=out)
    (out / "wandb").mkdir()
    (out / "wandb" / "ids.json").write_text("{}")
    return out


@pytest.fixture
def no_network(monkeypatch):
    """A token, and an address where nobody answers."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_none")
    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint="http://127.0.0.1:9"))


@pytest.fixture
def a_hub(monkeypatch, tmp_path):
    """A hub that is a local folder, with a folder for each repository."""
    import huggingface_hub

    made: dict[str, tuple] = {}

    class LocalHub:
        def create_repo(self, name, *, repo_type, private, exist_ok):
            made[name] = (repo_type, private, exist_ok)

        def create_commit(self, name, operations, *, commit_message, repo_type):
            assert name in made and commit_message
            for each in operations:
                path = tmp_path / "hub" / repo_type / name / each.path_in_repo
                path.parent.mkdir(parents=True, exist_ok=True)
                with each.as_file() as content:
                    path.write_bytes(content.read())

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_none")
    monkeypatch.setattr(huggingface_hub, "HfApi", LocalHub)
    return tmp_path / "hub", made


def test_an_uploaded_dataset_is_the_same_and_has_a_card(data, a_hub, capsys):
    place, made = a_hub
    before = sorted(path.name for path in data.iterdir())
    run("data", "push", data, "me/xor", "--license", "cc-by-4.0", "--private")
    assert made["me/xor"] == ("dataset", True, True)
    assert "uploaded: https://huggingface.co/datasets/me/xor" in capsys.readouterr().out
    found = place / "dataset" / "me" / "xor"
    for one, other in zip(disk.load(data)[0], disk.load(found)[0], strict=True):
        np.testing.assert_array_equal(one, other)
    import huggingface_hub

    card = huggingface_hub.DatasetCard.load(found / "README.md")
    assert card.data.license == "cc-by-4.0" and "jaxoff" in card.data.tags
    told = json.loads((found / "croissant.json").read_text())
    assert told["url"] == told["citeAs"] == "https://huggingface.co/datasets/me/xor"
    assert (found / "card.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in data.iterdir()) == before  # the source stays as it is


def test_uploaded_policies_act_as_they_did_and_tell_no_paths(job, a_hub, capsys):
    place, made = a_hub
    run("policy", "push", job, "me/bc")
    assert made["me/bc"] == ("model", False, True)
    found = place / "model" / "me" / "bc"
    kept, again = (jax.tree.leaves(restore(x).learner) for x in (job, found))
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_array_equal(one, other)
    names = {path.relative_to(found).parts[0] for path in found.rglob("*") if path.is_file()}
    assert "wandb" not in names and {"config.json", "final.json", "checkpoint"} <= names
    told = json.loads((found / "config.json").read_text())
    assert told["data_dir"] is None and told["folder"] == "./mine"
    import huggingface_hub

    card = huggingface_hub.ModelCard.load(found / "README.md")
    assert card.data.library_name == "jaxoff"
    final = json.loads((job / "final.json").read_text())["runs"]
    for row in final:
        assert (
            f"| {row['run']} | 0 | {row['config']['lr']:.4g} | {row['return_mean']:.4g} |"
            in card.text
        )
    assert 'snapshot_download("me/bc"' in card.text


def test_local_writes_a_folder_and_uploads_nothing(data, job, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hub, "upload", lambda *_, **__: pytest.fail("uploaded"))
    run("data", "push", data, "me/xor", "--local", tmp_path / "data")
    run("policy", "push", job, "me/bc", "--local", tmp_path / "policy")
    shown = capsys.readouterr().out
    assert f"for me/xor: {tmp_path / 'data'}" in shown and f"for me/bc: {tmp_path}" in shown
    assert len(disk.load(tmp_path / "data")[0].filled) == 1000
    assert jaxoff.load_policy(tmp_path / "policy")[2].method == "bc"
    again = ("data", "push", data, "me/xor", "--local", tmp_path / "data")
    assert "expected nothing there, found something" in error_of(capsys, *again)
    assert "--private: expected for an upload" in error_of(capsys, *again, "--private")


def test_without_a_token_or_a_network_the_error_is_one_line(data, capsys, no_network, monkeypatch):
    error = error_of(capsys, "data", "push", data, "me/xor")
    assert "me/xor: could not be uploaded (" in error and "--local DIR writes" in error
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    error = error_of(capsys, "data", "push", data, "me/xor")
    assert "me/xor: expected a token of Hugging Face, found none; run `hf auth login`" in error


@pytest.mark.parametrize("name", ["xor", "a/b/c", "../up", "me/", "https://huggingface.co/me/xor"])
def test_a_wrong_name_is_refused_before_anything_is_read(name, capsys, tmp_path):
    for command in ("data", "policy"):
        error = error_of(capsys, command, "push", tmp_path / "none", name)
        assert f"repository: expected USER/NAME, found '{name}'" in error


def test_what_is_damaged_or_not_finished_is_refused(data, job, capsys, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    told = (copy / "metadata.json").read_text()
    (copy / "metadata.json").write_text(told.replace('"seed"', '"seeds"').replace("xor", "xxx"))
    assert "field was changed" in error_of(capsys, "data", "push", copy, "me/xor")
    spec = jaxoff.load_policy(job)[2]
    with pytest.raises(Interrupted):
        jaxoff.train(spec, out=tmp_path / "job", sinks=[StopAt(0, 2)])
    error = error_of(capsys, "policy", "push", tmp_path / "job", "me/bc")
    assert "expected a job that has ended" in error
