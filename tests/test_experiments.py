"""InSPO's experiments at smoke scale: what they write, and that a second call trains nothing."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import types

import pytest
from jaxoff.experiments import paper
from jaxoff.experiments.inspo import parts, runs, tuning
from jaxoff.experiments.sit import parts as sit

from jaxoff import registry
from jaxoff.config import config_fields
from jaxoff.names import Task
from jaxoff.report.html import index
from jaxoff.training.spec import resolve


def test_figure_3_draws_every_column_and_is_read_back_without_training(tmp_path, monkeypatch):
    # few, for the time that compiling takes
    columns = {name: runs.COLUMNS[name] for name in ("BC", "CFCQL", "InSPO")}
    monkeypatch.setattr(runs, "COLUMNS", columns)
    (section,) = parts.PAPER.make("fig3", "smoke", tmp_path)
    assert {path.stem for path in tmp_path.glob("fig3.*")} == {"fig3"}
    assert len(list((tmp_path / "runs").iterdir())) == len(runs.COLUMNS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("final.json")}
    parts.PAPER.make("fig3", "smoke", tmp_path)
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
    for spec in runs.specs([task], columns, scale):
        assert resolve(spec).config.steps >= 4


@pytest.mark.slow
def test_battles_give_tables_of_win_rates_and_of_training_times(tmp_path, monkeypatch):
    (section,) = parts.PAPER.make("table7", "smoke", tmp_path)
    assert "| 3s_vs_5z medium |" in (tmp_path / "table7.md").read_text()
    folders = {path.name for path in (tmp_path / "runs").iterdir()}
    assert folders == {"cfcql-smax-3s_vs_5z-medium", "inspo-smax-3s_vs_5z-medium"}
    # one is enough to see the table
    monkeypatch.setattr(runs, "ORDERS", {"semi-greedy": runs.ORDERS["semi-greedy"]})
    # the paper's maps are not in this scale: its own
    (section,) = parts.PAPER.make("table6", "smoke", tmp_path)
    text = (tmp_path / "table6.md").read_text()
    assert "semi-greedy" in text and "win rate" in text and "SMAX is not SMAC" in text
    assert section.stems == ["table6", "table6-return", "table6-curves"]


def test_tuning_keeps_the_best_point_of_a_grid_and_shows_all(tmp_path, monkeypatch):
    # Cloning with a learning rate of zero stays near the uniform policy, whose value on XOR (a) is
    # 0; the data's is 1.
    monkeypatch.setattr(tuning, "GRIDS", {"matrix": {"bc": {"lr": (0.0, 0.01)}}})
    job = paper.Job("inspo", "cpu", tmp_path)
    (stem,) = tuning.tune(job, {"matrix/xor/a": "matrix/xor/a"}).stems
    assert tomllib.loads((tmp_path / "tuned.toml").read_text()) == {
        "bc": {"matrix/xor/a": {"lr": 0.01}}
    }
    assert "| bc | matrix/xor/a | **lr 0.01** |" in (tmp_path / f"{stem}.md").read_text()
    assert "| bc | matrix/xor/a | lr 0 |" in (tmp_path / "tuning.md").read_text()


def test_tuned_coefficients_are_of_known_fields_and_points_of_the_grid():
    for method, tables in tomllib.loads(paper.file_of("inspo", "tuned.toml").read_text()).items():
        for task, chosen in tables.items():
            grid = tuning.GRIDS[Task.parse(task).family][method]
            assert {name: value in grid[name] for name, value in chosen.items()} == dict.fromkeys(
                chosen, True
            )
            assert set(chosen) <= set(config_fields(registry.forms(method)["discrete"].Config))


def test_lines_below_a_table_tell_seeds_hardware_commit_updates_and_command(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x/y.py", "fig1", "--out", "../results"])
    monkeypatch.setattr("sys.modules", {**sys.modules, "__main__": types.ModuleType("__main__")})
    names = ["Seeds", "Hardware", "Git commit", "Updates", "Command"]
    lines = paper.below(seeds="0–9", updates="100")
    assert [line.partition(":")[0] for line in lines] == names
    # paths as they were typed
    assert lines[-1] == "Command: `y.py fig1 --out ../results`"
    spec = runs.specs(["matrix/xor/b"], {"BC": runs.COLUMNS["BC"]}, "smoke")
    job = paper.Job("inspo", "smoke", tmp_path)
    done = job.run(spec)
    about = paper.below(done)
    assert [line.partition(":")[0] for line in about] == [*names[:4], "Evaluation", "Command"]
    assert f"{spec[0].eval_episodes} episodes per run, sampled actions" in about[4]
    assert [line.partition(":")[0] for line in paper.below(done, evaluation="")] == names
    job.text("found", ["# Found"], paper.below(done))
    assert (tmp_path / "found.md").read_text().splitlines()[-1] == f"- {lines[-1]}"


@pytest.mark.parametrize(
    ("part", "scale", "data_dir", "message"),
    [
        ("table1", "cpu", "data", "--data-dir: table1 reads no public data; parts that do: none"),
        ("tune", "full", None, "--scale: tune has cpu alone, found full"),
    ],
)
def test_a_setting_that_a_part_does_not_read_is_refused(tmp_path, part, scale, data_dir, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parts.PAPER.make(part, scale, tmp_path / "out", data_dir)
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_by_name_and_knows_groups_of_parts(monkeypatch, capsys):
    argv = ["omar", "landscape", "--data-dir", "data"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit):
        paper.main("omar")
    assert (
        "--data-dir: landscape reads no public data; parts that do: mujoco, maze"
        in capsys.readouterr().err
    )
    for name in ("omar", "pjap"):
        made = paper.load(name)
        assert {"mujoco", "fig6"} & {*made.parts} == {*made.public} - {"maze"}
    paper.load("omar").check("all", "cpu", "data")  # some of its parts read them
    assert "claim" in sit.PAPER.parts and "claim" not in sit.PAPER.groups["all"]


@pytest.mark.parametrize("name", ["inspo", "omar", "pjap", "sit", "yanhui"])
def test_papers_have_one_shape(name):
    files = ("__init__.py", "__main__.py", "runs.py", "figures.py", "parts.py", "claims.py")
    files = (*files, "paper.csv")
    assert all(paper.file_of(name, file).is_file() for file in files)
    made = paper.load(name)
    assert made.name == name and {*made.public, *made.scales} <= {*made.parts}
    assert all({*group} <= {*made.parts} for group in made.groups.values())
