"""`jaxoff train --wandb`: what W&B is told, and the example of a sweep."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import yaml

from jaxoff import registry
from jaxoff.cli import main
from jaxoff.cli.train import _Dashboard
from jaxoff.training.spec import TrainSpec, resolve
from tests.test_logs import FakeRun

SWEEPS = Path(__file__).parents[1] / "docs" / "sweeps"
TINY = [
    *("--seeds", "2", "--steps", "4", "--evaluations", "2", "--eval-episodes", "2"),
    *("--set", "hidden=4", "--set", "batch_size=8", "--data-episodes", "30"),
]


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Name of each W&B run that is opened -> the run."""
    import wandb

    found: dict[str, FakeRun] = {}
    monkeypatch.setattr(
        wandb, "init", lambda **told: found.setdefault(told["name"], FakeRun(**told))
    )
    monkeypatch.chdir(tmp_path)
    return found


def error_of(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_job_is_a_group_with_an_evaluation_before_training_a_table_and_a_gif(opened, capsys):
    job = ["train", "bc", "grid/bridge/optimal", *TINY, "--set", "window=0"]
    where = ["--wandb-project", "mine", "--wandb-entity", "team", "--experiment", "look"]
    main([*job, "--wandb", "offline", *where, "--label", "small"])
    head = "bc/grid/bridge/optimal/small"
    assert set(opened) == {f"{head}/seed-0", f"{head}/seed-1", f"{head}/mean"}
    one, mean = opened[f"{head}/seed-1"], opened[f"{head}/mean"]
    told = one.told
    assert (told["project"], told["entity"]) == ("mine", "team")
    assert told["group"] == "look/small-grid-bridge-optimal" and "look" in told["tags"]
    assert told["config"]["seed"] == 1 and told["config"]["config"]["hidden"] == 4
    lr = registry.learner("bc", "grid/bridge/optimal").Config().lr
    assert isinstance(told["config"]["config"]["lr"], float) and lr > 0
    assert [row["train/step"] for row in one.rows] == [0, 2, 4]
    assert "train/return_mean" in one.rows[0] and "train/loss/policy" not in one.rows[0]
    assert "train/loss/policy" in one.rows[1]
    table, episode = (row for row in mean.rows if "train/step" not in row)
    assert len(table["final/runs"].data) == 2 and episode["final/episode"]._format == "gif"
    folder = Path("results/look/small-grid-bridge-optimal")
    assert (folder / "play-0.gif").read_bytes().startswith(b"GIF8")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {2, 4}
    assert "WandB is switched off" not in capsys.readouterr().err


def test_each_static_value_of_a_grid_is_a_group():
    dashboard = _Dashboard("offline", "", "", "look", "small")
    folder = Path("results/look/small-matrix-xor-b/hidden-4-window-0")
    sink = dashboard.sink(folder, "hidden=4, window=0", resume=False)
    assert sink.group == "look/small-matrix-xor-b/hidden-4-window-0"
    assert (sink.label, sink.project) == ("small-hidden=4-window=0", "jaxoff")


def test_options_without_effect_and_a_grid_in_a_sweep_are_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    job = ["train", "bc", "matrix/xor/b", *TINY]
    for option in ("--wandb-project", "--wandb-entity"):
        error = error_of([*job, option, "x"], capsys)
        assert f"{option}: expected with --wandb offline or online, found disabled" in error
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    error = error_of([*job, "--grid", "lr=1,2", "--wandb", "offline"], capsys)
    assert "--grid: expected --set in a sweep of W&B" in error
    assert not list(tmp_path.iterdir())


def test_the_agent_of_the_example_of_a_sweep_calls_jaxoff_with_settings_that_exist(tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((SWEEPS / "inspo.yaml").read_text())
    chosen = {"alpha": 0.05, "lr": 0.001}
    assert set(chosen) == set(sweep["parameters"])
    made = create_sweep_command_args({"args": {k: {"value": v} for k, v in chosen.items()}})
    command: list[str] = []
    for part in create_sweep_command(sweep["command"]):  # as wandb/wandb_agent.py puts it together
        macro = re.fullmatch(r"\$\{(.*)\}", part)
        command += made[macro[1]] if macro else [part]
    # what bash gives to jaxoff
    (tmp_path / "jaxoff").write_text(
        f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
    )
    (tmp_path / "jaxoff").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = subprocess.run(
        command, env=os.environ | path, capture_output=True, text=True, check=True
    )
    args = json.loads(told.stdout)
    assert args[-2:] == ["--set=alpha=0.05", "--set=lr=0.001"]
    # the settings and the metric exist
    job = resolve(TrainSpec("inspo", args[2], config=dict(x[6:].split("=") for x in args[-2:])))
    assert args[:3] == ["train", "inspo", "matrix/xor/c"] and float(job.config.alpha[0]) > 0
    config = jax.tree.map(lambda x: x[0], job.config)
    last = job.stages(config, job.spec.environment().spec)[-1]
    assert sweep["metric"]["name"] == f"{last.name}/return_mean/mean"
