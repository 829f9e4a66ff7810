"""A dataset folder as a task: trained by its path, and evaluated only where an environment is
named.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import jaxoff
from jaxoff import registry
from jaxoff.cli import main
from jaxoff.data.episodes import lengths_of
from jaxoff.errors import InvalidDataset, InvalidSetting
from jaxoff.names import DataOptions, Task, UnknownName
from jaxoff.training.naming import folder_name
from jaxoff.training.spec import resolve
from tests import toys

QUICK = {"hidden": 4, "batch_size": 8}
TINY = [
    "--seeds",
    "2",
    "--steps",
    "4",
    "--evaluations",
    "2",
    "--eval-episodes",
    "2",
    "--set",
    "hidden=4",
]


@pytest.fixture
def xor(tmp_path):
    """Episodes of a game, saved without an environment."""
    return jaxoff.save(jaxoff.make_data("matrix/xor/b"), tmp_path / "data" / "mine")


def spec_of(folder, **changes):
    fields = {"steps": 4, "evaluations": 2, "eval_episodes": 2, "config": QUICK} | changes
    return jaxoff.TrainSpec("bc", folder, **fields)


def test_paths_are_tasks_with_a_short_name(tmp_path, xor, monkeypatch):
    task = Task.parse(str(xor))
    assert (str(task), task.slug, task.folder) == ("folder:mine", "mine", str(xor))
    monkeypatch.chdir(tmp_path)
    for text in ("data/mine", "./data/mine", f"../{tmp_path.name}/data/mine"):
        assert Task.parse(text) == task
    assert Task.parse("data/a.vlt/seed-0").folder == ""  # nothing is there
    assert Task.parse("./data/a.vlt/seed-0").slug == "a-seed-0"
    assert folder_name(spec_of("data/mine")).startswith("bc-mine-batch_size=8-hidden=4-steps=4")
    with pytest.raises(UnknownName, match=r"found 1 part.*, and no dataset folder there"):
        Task.parse("mine")


def test_a_folder_around_a_dataset_names_the_one_in_it(tmp_path, xor, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(xor, "data/cor/narrow.vlt/seed-0")
    there = "; there is one in data/cor/narrow.vlt/seed-0"
    for text in ("data/cor/narrow.vlt", "data/cor"):
        with pytest.raises(UnknownName, match=f"'{text}': expected .*{there}"):
            resolve(spec_of(text))
    with pytest.raises(InvalidDataset, match=f"found a folder without one; .*{there[-26:]}"):
        resolve(spec_of("./data/cor/narrow.vlt"))
    (tmp_path / "a/b/c").mkdir(parents=True)
    with pytest.raises(UnknownName, match=r"found a folder without a metadata.json$"):
        resolve(spec_of("a/b/c"))
    with pytest.raises(UnknownName, match="unknown task family 'a'"):
        resolve(spec_of("a/b/d"))


def test_a_folder_that_is_named_as_a_task_needs_a_path(tmp_path, xor, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(xor, "matrix/xor/a")
    with pytest.raises(InvalidSetting, match=r"expected '\./matrix/xor/a'.*, found both"):
        resolve(spec_of("matrix/xor/a"))
    assert resolve(spec_of("./matrix/xor/a")).spec.task_name == "folder:a"


def test_a_folder_is_trained_without_evaluation_and_used_without_its_data(xor, tmp_path):
    results = jaxoff.train(spec_of(xor), out=tmp_path / "job")
    assert "bc on folder:mine" in repr(results) and "no return" in repr(results)
    assert np.isnan(results.rows()[0]["return_mean"]) and results.history["loss/policy"].shape[1]
    file = tmp_path / "job" / "config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"data_seed": 3}))  # as earlier versions have written it
    assert (told["task"], told["folder"], told["env"]) == ("folder:mine", str(xor), "")
    shutil.rmtree(xor)
    env, policy, spec = jaxoff.load_policy(tmp_path / "job")
    assert env.spec.num_agents == 2 and spec.task == str(xor)
    seen = toys.seen(env.spec)
    assert policy.distribution(policy.initial(()), seen)[1].mode().shape == (2,)
    with pytest.raises(InvalidSetting, match="folder:mine: expected an environment with a simula"):
        jaxoff.evaluate(env, policy)
    # the data are needed to train on
    with pytest.raises(InvalidDataset, match=r"expected a dataset folder .* found no such folder"):
        jaxoff.train(spec_of(xor), out=tmp_path / "job")


def test_a_job_on_a_folder_is_continued_and_another_dataset_refused(xor, tmp_path):
    first = jaxoff.train(spec_of(xor), out=tmp_path / "job")
    again = jaxoff.train(spec_of(xor), out=tmp_path / "job")
    assert again.timing == first.timing  # it was read
    moved = shutil.move(xor, tmp_path / "mine")  # the same data elsewhere, by the same name
    jaxoff.train(spec_of(moved), out=tmp_path / "job")
    jaxoff.save(jaxoff.make_data("matrix/xor/c"), moved, overwrite=True)
    with pytest.raises(InvalidSetting, match=r"field 'data.sha256'"):
        jaxoff.train(spec_of(moved), out=tmp_path / "job")


@pytest.mark.parametrize("how", ["metadata", "recipe", "flag"])
def test_a_named_environment_evaluates(how, tmp_path, xor):
    data, flag = jaxoff.make_data("matrix/xor/b"), ""
    if how == "metadata":
        xor = jaxoff.save(data, tmp_path / "named", env="matrix/xor")
    elif how == "recipe":  # as `jaxoff data make` writes it
        main(["data", "make", "matrix/xor/b", "--out", str(tmp_path)])
        xor = tmp_path / "matrix-xor-b.vlt" / "seed-0"
    else:
        flag = "matrix/xor"
    results = jaxoff.train(spec_of(xor, env=flag), out=tmp_path / "job")
    ours = jaxoff.train(spec_of("matrix/xor/b", size="paper"))  # a folder has one size
    # the same data and environment: the same numbers as the task by its name
    assert results.runs[0]["exact_value"] == ours.runs[0]["exact_value"]
    assert results.runs[0]["return_mean"] == ours.runs[0]["return_mean"]
    env, policy, _ = results.policy()
    assert jaxoff.evaluate(env, policy, episodes=4)["episodes"] == 4
    if how != "flag":
        without = jaxoff.train(spec_of(xor, env="none"))
        assert np.isnan(without.runs[0]["return_mean"])


def test_an_environment_that_does_not_fit_is_refused(xor):
    for name, message in {
        "smax/3m": "field 'env': expected an environment with num_agents 2, .* found 3 in smax/3m",
        "smax/300m": "field 'env': expected a task or family/scenario that is registered",
    }.items():
        with pytest.raises((InvalidSetting, UnknownName), match=message):
            jaxoff.train(spec_of(xor, env=name))
    with pytest.raises(InvalidSetting, match="field 'env': expected for a task that is a dataset"):
        jaxoff.train(spec_of("matrix/xor/b", env="matrix/xor"))


def test_a_part_of_a_folder_is_drawn_with_a_seed(xor):
    task = str(xor)
    whole = registry.make_data(task)
    some, same, other = (registry.make_data(task, DataOptions(s, 9)) for s in (0, 0, 1))
    assert len(lengths_of(some)) == 9 < len(lengths_of(whole))
    np.testing.assert_array_equal(some.actions, same.actions)
    assert (some.actions != other.actions).any()
    assert resolve(spec_of(xor, data_episodes=9, data_seed=1)).spec.data_seed == 1
    with pytest.raises(InvalidSetting, match="field 'data_seed': expected with 'data_episodes'"):
        resolve(spec_of(xor, data_seed=1))
    with pytest.raises(InvalidSetting, match=r"folder:mine: field 'episodes': expected 1..\d+"):
        registry.make_data(task, DataOptions(0, 10**6))


def test_the_command_line_tells_that_policies_were_not_evaluated(
    xor, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    main(["train", "bc", "data/mine", *TINY])
    shown = " ".join(capsys.readouterr().out.split())
    assert "not evaluated: no environment that can be played here is named" in shown
    job = "results/train/bc-mine-hidden=4-steps=4"
    assert f"results: {job}" in shown
    for command in ("evaluate", "play"):
        with pytest.raises(SystemExit) as stop:
            main([command, job])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and "a dataset folder that names none" in error
    main(["train", "bc", "data/mine", *TINY, "--env", "matrix/xor"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 episodes per run" in shown and job.replace("-steps", "-env=matrix-xor-steps") in shown
    main(["report", "results"])
    page = " ".join((tmp_path / "results" / "index.html").read_text().split())
    assert "Policies on folder:mine were not evaluated: no environment" in page
    with pytest.raises(SystemExit) as stop:
        main(["train", "bc", "data/mine", "--data", "data/mine"])
    assert stop.value.code == 2 and "--data: expected with a task by its" in capsys.readouterr().err


def test_another_programs_vault_is_trained_by_its_path(tmp_path):
    tree = {
        "observations": np.random.default_rng(0).normal(size=(12, 2, 3)).astype(np.float32),
        "actions": np.tile(np.array([[0, 1], [1, 2]], np.int64), (6, 1)),
        "rewards": np.ones((12, 2), np.float32),
        "terminals": np.tile(np.array([0, 0, 1], bool)[:, None], (4, 2)),
        "truncations": np.zeros((12, 2), bool),
        "infos": {"state": np.zeros((12, 4), np.float32)},
    }
    vault = toys.write_vault(tmp_path / "theirs.vlt", tree, buffer=20)
    results = jaxoff.train(spec_of(vault))
    assert results.spec.task_name == "folder:theirs-Good"
    assert np.isfinite(results.history["loss/policy"]).all()


def test_a_job_without_environment_is_evaluated_in_one_that_is_named(xor, tmp_path, capsys):
    for name, flag in {"with": "matrix/xor", "without": "none"}.items():
        jaxoff.train(spec_of(xor, env=flag), out=tmp_path / name)
    more = ["--episodes", "8", "--seed", "3"]
    main(["evaluate", str(tmp_path / "with"), *more])
    main(["evaluate", str(tmp_path / "without"), *more, "--env", "matrix/xor"])
    told = [
        json.loads((tmp_path / x / "evaluations.json").read_text()) for x in ("with", "without")
    ]
    ours, named = (entry["evaluations"][0] for entry in told)
    assert named.pop("env") == "matrix/xor" and named["runs"] == ours["runs"]
    env, policy, _ = jaxoff.load_policy(tmp_path / "without", env="matrix/xor/b")
    assert jaxoff.evaluate(env, policy, episodes=4)["episodes"] == 4
    main(["play", str(tmp_path / "without"), "--env", "matrix/xor"])
    capsys.readouterr()
    for folder, name, message in (
        ("with", "matrix/xor", "expected for a job that was trained without an environment"),
        ("without", "smax/3m", "expected an environment with num_agents 2, as the dataset has"),
        ("without", "smax/300m", "expected a task or family/scenario that is registered"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", str(tmp_path / folder), "--env", name])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and f"field 'env': {message}" in error, error
