"""InSPO's experiments at smoke scale: what they write, and that a second call trains nothing."""

from __future__ import annotations

import json

import pytest

from experiments.inspo import command, runs
from jaxoff import registry
from jaxoff.report.html import index


def test_figure_3_draws_every_column_and_is_read_back_without_training(tmp_path):
    (section,) = command.run_parts("fig3", "smoke", tmp_path)
    assert {path.stem for path in tmp_path.glob("fig3.*")} == {"fig3"}
    assert len(list((tmp_path / "runs").iterdir())) == len(runs.COLUMNS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("final.json")}
    command.run_parts("fig3", "smoke", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    page = index(tmp_path, "InSPO", [section])
    assert "fig3.svg" in page.read_text()
    config = json.loads((tmp_path / "runs" / "inspo-matrix-xor-c" / "config.json").read_text())
    assert (config["steps"], config["num_runs"], config["variant"]) == (None, 5, "InSPO") and config["config"]["steps"] == 20


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
@pytest.mark.parametrize("task", [*runs.XOR, *runs.MNE, *runs.BRIDGE])
def test_every_size_is_made_of_known_fields(task, scale):
    parsed = registry.Task.parse(task)
    for column in (runs.COLUMNS | runs.ENTROPY | runs.SEQUENTIAL).values():
        sizes = runs.SIZES[parsed.family][scale].get(column.method, {})
        config = registry.resolve(registry.learner(column.method), parsed, {**sizes, **column.config})
        assert config.steps >= 20
