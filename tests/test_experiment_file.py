"""Experiments as files: what is read, what is refused, and the commands run, status and report."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import jax.numpy as jnp
import pytest

import jaxoff
from jaxoff import registry
from jaxoff.cli import main
from jaxoff.cli.common import console
from jaxoff.cli.experiment import _show
from jaxoff.engines import experiment, table
from jaxoff.envs.base import GameEnv
from jaxoff.errors import InvalidFile, InvalidSetting, JaxoffError
from jaxoff.names import Family, Task, UnknownName
from jaxoff.report import load_run
from jaxoff.training.spec import TrainSpec
from tests.test_report import make

WHOLE = """
title = "Games"
tasks = {"matrix/xor/b" = "XOR", "grid/bridge/optimal" = "Bridge"}
seeds = [3, 5]
steps = 20
data_episodes = 9
precision = "high"
[set]
hidden = 16
alpha = 0.5
[methods.bc]
[methods.InSPO]
method = "inspo"
set = {hidden = 32, window = 0}
grid = {behaviour_steps = [5, 10], lr = [1e-3, 1e-2]}
[methods.PJAP]
method = "bc"
sampler = "pjap"
sampler_set = {ramp = 7.0}
[evaluation]
evaluations = 4
sampled = false
[scale.smoke]
seeds = 1
steps = 2
evaluations = 1
set = {alpha = 0.1}
[table]
metric = "exact_value"
columns = ["InSPO", "bc"]
average = true
[engines.slurm]
partition = "gpu"
gpus = 1
"""
# Three methods, two datasets, five seeds, a table: the example of the documentation.
EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "games.toml"
TEN = EXAMPLE.read_text()


def read(place: Path, text: str, scale: str = "") -> experiment.Experiment:
    (place / "games.toml").write_text(text)
    return experiment.read(place / "games.toml", scale)


def test_ten_lines_are_methods_tasks_and_seeds(tmp_path):
    found = read(tmp_path, TEN).assignments(tmp_path / "out")
    assert [each.folder.name for each in found] == [
        f"{label}-matrix-xor-{game}" for game in "bc" for label in ("BC", "ICQ", "InSPO")
    ]
    assert found[1].spec == TrainSpec(
        "icq",
        "matrix/xor/b",
        seeds=(0, 1, 2, 3, 4),
        config={"steps": 300, "hidden": 64},
        variant="ICQ",
    )
    assert TEN.strip().count("\n") == 9
    assert f"```toml\n{TEN}```" in (EXAMPLE.parents[1] / "many-machines.md").read_text()


def test_everything_that_a_file_says_is_in_its_jobs(tmp_path):
    found = read(tmp_path, WHOLE)
    specs = found.specs()
    assert len(specs) == 8  # two tasks; two jobs of InSPO, whose behaviour_steps is a size
    bc, five, ten, pjap = specs[:4]
    shared = {"seeds": (3, 5), "evaluations": 4, "sampled": False, "data_episodes": 9}
    for spec in specs:
        assert {name: getattr(spec, name) for name in shared} == shared and spec.precision == "high"
    # bc has no alpha
    assert dict(bc.config) == {"steps": 20, "hidden": 16} and bc.label == "bc"
    assert dict(five.config) == {
        "steps": 20,
        "hidden": 32,
        "alpha": 0.5,
        "window": 0,
        "behaviour_steps": 5,
    }
    assert (five.label, ten.label) == (
        "InSPO (behaviour_steps=5)",
        "InSPO (behaviour_steps=10)",
    )
    assert dict(five.grid) == {"lr": [1e-3, 1e-2]}
    assert (pjap.sampler, dict(pjap.sampler_config)) == ("pjap", {"ramp": 7.0})
    assert found.tasks["grid/bridge/optimal"] == "Bridge" and found.table["average"]
    assert found.engines == {"slurm": {"partition": "gpu", "gpus": 1}}


def test_a_scale_replaces_what_it_names(tmp_path):
    spec = read(tmp_path, WHOLE, "smoke").specs()[1]
    assert (spec.seeds, spec.evaluations, spec.sampled) == ((0,), 1, False)
    assert (spec.config["steps"], spec.config["alpha"], spec.config["hidden"]) == (2, 0.1, 32)
    with pytest.raises(UnknownName, match=r"unknown scale of .*games\.toml 'smok'; nearest: smoke"):
        read(tmp_path, WHOLE, "smok")


def test_the_updates_of_a_scale_replace_those_of_the_file_wherever_it_has_them(tmp_path):
    scale = "[scale.smoke]\nsteps = 5\n"
    inside = TEN.replace("steps = 300\n", "").replace("{hidden = 64}", "{steps = 100}") + scale
    assert read(tmp_path, inside).specs()[0].config["steps"] == 100
    assert read(tmp_path, inside, "smoke").specs()[0].config["steps"] == 5
    above = TEN + "[scale.smoke]\nset = {steps = 7}\n"
    assert read(tmp_path, above, "smoke").specs()[0].config["steps"] == 7


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("{hidden = 64}", "{steps = 9}", InvalidSetting, "'steps': expected once, found 300 and"),
        (
            '{method = "bc"}',
            '{method = "bc", grid = {lr = 0.1}}',
            InvalidFile,
            "'methods.BC.grid.lr': expected list, found 0.1",
        ),
        (
            'tasks = ["matrix/xor/b", "matrix/xor/c"]',
            'tasks = {"matrix/xor/b" = 3}',
            InvalidFile,
            "'tasks.matrix/xor/b': expected text, found 3",
        ),
        (
            'tasks = ["matrix/xor/b", "matrix/xor/c"]',
            'tasks = {"matrix/xor/b" = "same", "matrix/xor/c" = "same"}',
            InvalidSetting,
            "'tasks': expected a label of its own .*'same' for matrix/xor/b and matrix/xor/c",
        ),
        ("[methods]", 'table = {columns = [["B"]]}\n[methods]', InvalidFile, "'table.columns'"),
        ("[methods]", 'table = {metric = "winrate"}\n[methods]', UnknownName, "nearest: win_rate"),
        ("seeds = 5", "seds = 5", UnknownName, "key in the top .*'seds'; nearest: seeds"),
        ('{method = "bc"}', '{metod = "bc"}', UnknownName, r"\[methods.BC\].*nearest: method"),
        ('"bc"', '"bcc"', InvalidSetting, "BC on matrix/xor/b: unknown method 'bcc'; nearest: bc"),
        ("xor/c", "xor/z", InvalidSetting, "BC on matrix/xor/z: unknown task"),
        ("behaviour_st", "behavior_st", InvalidSetting, "InSPO on .*behavior_steps.; nearest"),
        ("seeds = 5", "seeds = true", InvalidFile, "'seeds': expected whole number or list, found"),
        ("seeds = 5", "seeds = 5.5", InvalidFile, "'seeds': expected whole number or list, found"),
        ("{hidden = 64}", "{hiden = 3}", UnknownName, r"\[set\].*'hiden'; nearest"),
        ("[methods]", 'table = {columns = ["B"]}\n[methods]', UnknownName, "column of .*'B'"),
        (
            "[methods]",
            "engines.slrm = {}\n[methods]",
            UnknownName,
            r"\[engines\] of.*nearest: slurm",
        ),
        ("[methods]", "engines.ray.cpus = 1\n[methods]", UnknownName, "games.toml: .*ray 'cpus'"),
        ("steps = 300", "steps = ", InvalidFile, "games.toml: expected TOML"),
        ('tasks = ["matrix/xor/b", "matrix/xor/c"]', "", InvalidSetting, "'tasks': expected at"),
        ("steps = 300", 'precision = "low"', InvalidSetting, "'precision': expected one of"),
    ],
)
def test_what_a_file_can_not_say_is_refused_by_name(tmp_path, old, new, error, message):
    assert old in TEN
    with pytest.raises(error, match=message):
        read(tmp_path, TEN.replace(old, new, 1)).specs()


def test_jobs_that_would_have_one_folder_are_refused_before_they_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        jaxoff.save(jaxoff.make_data("matrix/xor/b"), tmp_path / name / "d", env="matrix/xor")
    made = read(tmp_path, 'tasks = ["./one/d", "./two/d"]\nmethods.bc = {}\n')
    message = r"games.toml: .*found bc on ./one/d and bc on ./two/d, both in 'bc-d'"
    with pytest.raises(InvalidSetting, match=message):
        made.assignments(tmp_path / "out")


@pytest.mark.parametrize(
    ("task", "metric", "message"),
    [
        ("matrix/xor/b", "nonsense", "metric in .*'nonsense'; known: exact_value, length_mean"),
        ("matrix/xor/b", "win_rate", "for its tasks, 'win_rate'; nearest"),
        ("matrix/xor/b", "joint_policy", "'joint_policy'"),  # an array, and no number
        ("matrix/xor/b", "out_of_data", ""),
        ("matrix/xor/b", "wall_s", ""),
        ("./own/d", "nonsense", "'nonsense'; known: exact_value"),
        ("./own/d", "win_rate", ""),  # which its cells say is not evaluated
        ("mine/game/x", "nonsense", "'nonsense'; known: length_mean, mine"),
        ("mine/game/x", "mine", ""),
        ("mine/hard/x", "nonsense", ""),  # whose probe needs a policy of its own
    ],
)
def test_a_number_that_no_task_of_a_table_has_is_refused(
    tmp_path, monkeypatch, task, metric, message
):
    monkeypatch.chdir(tmp_path)
    jaxoff.save(jaxoff.make_data("matrix/xor/b"), tmp_path / "own" / "d")
    game = registry.make_env("matrix/xor/b")

    def world(name: Task) -> GameEnv:
        def probe(policy):
            return {"mine": jnp.zeros(()), "more": jnp.zeros(3)} if "game" in str(name) else {}[0]

        return GameEnv(game.game, game.spec, probe)

    monkeypatch.setitem(
        registry._FAMILIES,
        ("", "mine"),
        Family("mine", lambda: ["mine/game/x", "mine/hard/x"], world, lambda task, options: None),
    )
    text = f'tasks = ["{task}"]\nmethods.bc = {{}}\ntable = {{metric = "{metric}"}}\n'
    made = read(tmp_path, text)
    with pytest.raises(UnknownName, match=message) if message else contextlib.nullcontext():
        made.check_metric()


TINY = """
tasks = {"matrix/xor/b" = "XOR"}
seeds = 2
steps = 4
set = {hidden = 8, batch_size = 8}
methods.BC = {method = "bc", grid = {lr = [1e-3, 1e-2]}}
evaluation = {evaluations = 2, eval_episodes = 2}
table = {title = "Cloning", note = "A trial."}
"""


def test_run_status_and_report_of_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "_width", 200, raising=False)
    Path("tiny.toml").write_text(TINY)
    with pytest.raises(SystemExit):
        main(["report", "tiny.toml"])
    assert "`jaxoff run tiny.toml` makes them" in capsys.readouterr().err
    main(["status", "tiny.toml"])
    assert (
        "1 jobs: 0 done, 0 running, 0 failed, 1 to do; time left: not known"
        in capsys.readouterr().out
    )
    assert not Path("results").exists()
    main(["run", "tiny.toml"])
    assert re.search(r"XOR.*±", capsys.readouterr().out)
    text = Path("results/tiny/table.md").read_text()
    assert "BC (lr=0.001)" in text and "A trial." in text and "Cloning" in text
    assert Path("results/tiny/curves.svg").exists() and Path("results/tiny/index.html").exists()
    assert json.loads(Path("results/tiny/BC-matrix-xor-b/config.json").read_text())["seeds"] == [
        0,
        1,
    ]
    main(["status", "tiny.toml"])
    assert "1 done, 0 running, 0 failed, 0 to do; time left: 0:00:00" in capsys.readouterr().out
    # a job that is done is not trained again, and one that has grown is extended when that is asked
    before = Path("results/tiny/BC-matrix-xor-b/final.json").stat().st_mtime_ns
    main(["run", "tiny.toml"])
    assert Path("results/tiny/BC-matrix-xor-b/final.json").stat().st_mtime_ns == before
    Path("tiny.toml").write_text(TINY.replace("seeds = 2", "seeds = 3"))
    with pytest.raises(SystemExit):
        main(["run", "tiny.toml"])
    assert "add --extend" in capsys.readouterr().err
    main(["run", "tiny.toml", "--extend"])
    assert len(json.loads(Path("results/tiny/BC-matrix-xor-b/final.json").read_text())["runs"]) == 6


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run", "none.toml"], "none.toml: expected an experiment, a TOML file, found none"),
        (["run", "tiny.toml", "--engine-set", "worker=2"], "'worker'; nearest: workers"),
        (["run", "tiny.toml", "--engine", "ray", "--workers", "2"], "engine ray 'workers'"),
        (
            ["run", "nonsense.toml"],
            "unknown metric in [table] of nonsense.toml, for its tasks, 'nonsense'",
        ),
        (["report", ".", "--scale", "smoke"], "--scale, --out: expected with a file"),
    ],
)
def test_commands_refuse_by_name(tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    Path("nonsense.toml").write_text(TINY.replace('title = "C', 'metric = "nonsense", title = "C'))
    with pytest.raises(SystemExit):
        main(command)
    assert message in capsys.readouterr().err and not Path("results").exists()


def unplayed(folder: Path) -> Path:
    """A result folder as it is without an environment that evaluates policies."""
    final = json.loads((folder / "final.json").read_text())
    for run in final["runs"]:
        run["return_mean"] = run["score"] = None
    (folder / "final.json").write_text(json.dumps(final))
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row | {"return_mean": None, "loss/nll": 1.0} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_jobs_without_an_environment_are_not_evaluated_and_not_failed(tmp_path):
    tasks = 'tasks = {"matrix/xor/b" = "XOR", "matrix/xor/c" = "Own"}\n'
    made = read(tmp_path, tasks + "methods.bc = {}\ntable = {average = true}\n")
    played = load_run(make(tmp_path / "b", "bc", "matrix/xor/b", [1.0, 3.0]))
    own = load_run(unplayed(make(tmp_path / "c", "bc", "matrix/xor/c", [0.0, 0.0])))
    with console.capture() as printed:
        page = table.write(made, [played, own], tmp_path / "out", tell=_show)
    assert re.search("Own .*not evaluated", printed.get()) and "failed" not in printed.get()
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| Own | not evaluated |" in text and "| average | **2.00 ± 1.41** |" in text
    assert "Not evaluated: no environment that can be played" in text and "ailed" not in text
    assert "Evaluation: last evaluation of training" in text
    assert "Policies on matrix/xor/c were not evaluated" in " ".join(page.read_text().split())
    assert "curves-losses.svg" in page.read_text()
    table.write(made, [own], tmp_path / "alone")  # no job was evaluated
    assert "| Own | not evaluated |" in (tmp_path / "alone" / "table.md").read_text()


def test_jobs_without_the_number_of_a_table_are_named(tmp_path):
    tasks = 'tasks = {"matrix/xor/b" = "XOR", "matrix/xor/c" = "Other"}\n'
    made = read(tmp_path, tasks + 'methods.bc = {}\ntable = {metric = "win_rate"}\n')
    won = make(tmp_path / "b", "bc", "matrix/xor/b", [1.0, 3.0])
    final = json.loads((won / "final.json").read_text())
    final["runs"] = [run | {"win_rate": 0.5} for run in final["runs"]]
    (won / "final.json").write_text(json.dumps(final))
    other = load_run(make(tmp_path / "c", "bc", "matrix/xor/c", [0.0, 0.0]))
    table.write(made, [load_run(won), other], tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| Other | — |" in text and "Without win_rate: bc on Other." in text
    with pytest.raises(
        InvalidSetting, match=r"games.toml: field 'table.metric': .*they have return_mean, score$"
    ):
        table.write(made, [other], tmp_path / "out")


def test_dataset_folders_have_rows_by_their_label(tmp_path):
    task = str(tmp_path / "mine")
    with pytest.raises(JaxoffError, match="mine"):  # there is none
        read(tmp_path, f'tasks = {{"{task}" = "Mine"}}\nmethods.bc = {{}}\n')


def test_a_seed_of_the_recipes_leaves_dataset_folders_whole(tmp_path):
    xor = registry.make_data("matrix/xor/b")
    jaxoff.save(xor, tmp_path / "own", env="matrix/xor")
    text = f'tasks = ["matrix/xor/a", "{tmp_path}/own"]\ndata_seed = 3\n[methods.bc]\n'
    assert [spec.data_seed for spec in read(tmp_path, text).specs()] == [3, 0]
