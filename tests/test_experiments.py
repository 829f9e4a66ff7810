"""InSPO's experiments at smoke scale: what they write, and that a second call trains nothing."""

from __future__ import annotations

import json
import tomllib

import pytest
from jaxoff.experiments.inspo import command, runs, tuning

from jaxoff import registry
from jaxoff.config import config_fields
from jaxoff.names import Task
from jaxoff.report.html import index
from jaxoff.training.spec import resolve


def test_figure_3_draws_every_column_and_is_read_back_without_training(tmp_path, monkeypatch):
    # few, for the time that compiling takes
    columns = {name: runs.COLUMNS[name] for name in ("BC", "CFCQL", "InSPO")}
    monkeypatch.setattr(runs, "COLUMNS", columns)
    (section,) = command.run_parts("fig3", "smoke", tmp_path)
    assert {path.stem for path in tmp_path.glob("fig3.*")} == {"fig3"}
    assert len(list((tmp_path / "runs").iterdir())) == len(runs.COLUMNS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("final.json")}
    command.run_parts("fig3", "smoke", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    page = index(tmp_path, "InSPO", [section])
    assert "fig3.svg" in page.read_text()
    config = json.loads((tmp_path / "runs" / "inspo-matrix-xor-c" / "config.json").read_text())
    assert (config["steps"], config["num_runs"], config["variant"]) == (
        None,
        5,
        "InSPO",
    ) and config["config"]["steps"] == 20


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
@pytest.mark.parametrize("task", [*runs.XOR, *runs.MNE, *runs.BRIDGE, "smax/2s3z/medium"])
def test_every_job_is_made_of_known_fields(task, scale):
    columns = (
        runs.SMAX_COLUMNS | runs.ALPHAS | runs.ORDERS
        if task.startswith("smax")
        else runs.COLUMNS | runs.ENTROPY | runs.SEQUENTIAL
    )
    for label, column in columns.items():
        assert resolve(runs.job(task, label, column, scale)).config.steps >= 4


@pytest.mark.slow
def test_battles_give_tables_of_win_rates_and_of_training_times(tmp_path, monkeypatch):
    (section,) = command.run_parts("table7", "smoke", tmp_path)
    assert "| 3s_vs_5z medium |" in (tmp_path / "table7.md").read_text()
    folders = {path.name for path in (tmp_path / "runs").iterdir()}
    assert folders == {"cfcql-smax-3s_vs_5z-medium", "inspo-smax-3s_vs_5z-medium"}
    # one is enough to see the table
    monkeypatch.setattr(runs, "ORDERS", {"semi-greedy": runs.ORDERS["semi-greedy"]})
    # the paper's maps are not in this scale: its own
    (section,) = command.run_parts("table6", "smoke", tmp_path)
    text = (tmp_path / "table6.md").read_text()
    assert "semi-greedy" in text and "win rate" in text and "SMAX is not SMAC" in text
    assert section.stems == ["table6", "table6-return", "table6-curves"]


def test_tuning_keeps_the_best_point_of_a_grid_and_shows_all(tmp_path, monkeypatch):
    # Cloning with a learning rate of zero stays near the uniform policy, whose value on XOR (a) is
    # 0; the data's is 1.
    monkeypatch.setattr(tuning, "GRIDS", {"matrix": {"bc": {"lr": (0.0, 0.01)}}})
    file = tuning.tune(tmp_path, {"matrix/xor/a": "matrix/xor/a"})
    assert tomllib.loads(file.read_text()) == {"bc": {"matrix/xor/a": {"lr": 0.01}}}
    assert "| bc | matrix/xor/a | **lr 0.01** |" in (tmp_path / "tuning.md").read_text()
    assert "| bc | matrix/xor/a | lr 0 |" in (tmp_path / "tuning.md").read_text()


def test_tuned_coefficients_are_of_known_fields_and_points_of_the_grid():
    for method, tables in tomllib.loads(runs.TUNED.read_text()).items():
        for task, chosen in tables.items():
            grid = tuning.GRIDS[Task.parse(task).family][method]
            assert {name: value in grid[name] for name, value in chosen.items()} == dict.fromkeys(
                chosen, True
            )
            assert set(chosen) <= set(config_fields(registry.forms(method)["discrete"].Config))
