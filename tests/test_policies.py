"""A trained policy stands alone: it is evaluated and played without its data, as the job's own
evaluations did, and what was found before is kept.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import jaxoff
from jaxoff import cli
from jaxoff.data import disk
from jaxoff.names import DataOptions
from jaxoff.training.restore import evaluate_runs, restore

SIZES = ["--seeds", "2", "--steps", "4", "--evaluations", "1", "--eval-episodes", "4"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The folder of a job whose data are gone, and whose task can't make them."""
    root = tmp_path_factory.mktemp("policies")
    task = "mpe/spread/random"
    data = jaxoff.make_data(task, DataOptions(0, 8, None))
    spec = jaxoff.make_env(task).spec
    folder = root / "data.vlt" / "seed-0"
    disk.save(folder, data, spec, {})
    settings = ["--set", "hidden=8", "--set", "batch_size=9"]
    out = root / "job"
    cli.main(["train", "omar", task, "--data", str(folder), "--out", str(out), *SIZES, *settings])
    shutil.rmtree(root / "data.vlt")
    return out


def without_data(monkeypatch):
    def refuse(*_):
        raise AssertionError("the data were asked for")

    monkeypatch.setattr(jaxoff.registry, "make_data", refuse)


def evaluations(folder) -> list[dict]:
    return json.loads((folder / "evaluations.json").read_text())["evaluations"]


def test_policies_are_evaluated_and_played_without_their_data(job, monkeypatch, capsys):
    without_data(monkeypatch)
    cli.main(["evaluate", str(job), "--episodes", "3"])
    cli.main(["play", str(job), "--run", "1"])
    assert not capsys.readouterr().err
    (found,) = evaluations(job)
    assert [row["run"] for row in found["runs"]] == [0, 1] and found["episodes"] == 3
    env, policy, _ = jaxoff.load_policy(job, 1)
    alone = jaxoff.evaluate(env, policy, 3, sampled=True)
    np.testing.assert_allclose(found["runs"][1]["returns"], alone["returns"], rtol=1e-5)


def test_an_evaluation_is_added_and_none_is_lost(job):
    before = len(evaluations(job)) if (job / "evaluations.json").exists() else 0
    cli.main(["evaluate", str(job), "--episodes", "2", "--runs", "1"])
    cli.main(["evaluate", str(job), "--episodes", "2", "--runs", "1", "--greedy", "--seed", "3"])
    *_, first, second = found = evaluations(job)
    assert len(found) == before + 2
    assert [row["run"] for row in first["runs"]] == [1]
    assert (first["sampled"], second["sampled"]) == (True, False)  # the job samples
    assert (first["seed"], second["seed"]) == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "2"], "field 'run': expected 0..1, found 2"),
        (["--runs", "x"], "--runs: expected all, or numbers of runs"),
        (["--greedy", "--sampled"], "expected one of the two, found both"),
        (["--episodes", "0"], "'episodes'"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(job, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", str(job), *arguments])
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize("arguments", [[], ["--greedy"]])
def test_actions_are_those_of_the_jobs_own_evaluations_by_default(tmp_path, arguments):
    out = tmp_path / "job"  # a policy that has hardly learned samples all four joint actions
    settings = ["--set", "hidden=8", *SIZES, *arguments]
    cli.main(["train", "bc", "matrix/xor/d", "--out", str(out), *settings])
    cli.main(["evaluate", str(out), "--episodes", "50"])
    (found,) = evaluations(out)
    assert found["sampled"] is (not arguments)
    spread = [row["return_std"] for row in found["runs"]]
    assert all(x == 0 for x in spread) if arguments else all(x > 0.5 for x in spread)


def test_an_unfinished_job_is_said_to_be_one(job, tmp_path, capsys):
    shutil.copytree(job, tmp_path / "job")
    (tmp_path / "job" / "final.json").unlink()
    cli.main(["evaluate", str(tmp_path / "job"), "--episodes", "1"])
    assert "this job has not ended; its last checkpoint plays" in capsys.readouterr().err
    assert not evaluations(tmp_path / "job")[-1]["finished"]


def test_several_runs_are_played_in_the_order_asked_for(job):
    found = restore(job)
    both, first = (evaluate_runs(found, runs, 2, 0, True) for runs in ([1, 0], [0]))
    assert found.failed_at.tolist() == [-1, -1]
    np.testing.assert_allclose(both[1]["returns"], first[0]["returns"], rtol=1e-5)
