"""The command line, end to end: every command in a folder of its own, its errors, and what SIGTERM
does to it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import numpy as np
import pytest
from PIL import Image

import jaxoff
from jaxoff import cli, registry
from jaxoff.cli.common import console
from jaxoff.cli.data import _pool_info
from jaxoff.cli.train import _seeds
from jaxoff.config import config_fields, meanings_of
from jaxoff.names import Task
from jaxoff.types import Episodes
from tests.learners import QUICK_ENV, state_of

BRIDGE = "bc-grid-bridge-optimal-batch_size=8-hidden=16-data_episodes=4-steps=4"
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
    "hidden=16",
    "--set",
    "batch_size=8",
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Default folders are relative to where the command is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "_width", 200, raising=False)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A results folder with a job in Bridge and a grid in XOR: (folder, what was printed)."""
    folder = tmp_path_factory.mktemp("results")
    with console.capture() as printed:
        cli.main(
            [
                "train",
                "bc",
                "grid/bridge/optimal",
                *TINY,
                "--data-episodes",
                "4",
                "--results",
                str(folder),
            ]
        )
        cli.main(
            [
                "train",
                "bc",
                "matrix/xor/b",
                *TINY,
                "--grid",
                "lr=1e-3,1e-2",
                "--out",
                str(folder / "grid"),
            ]
        )
    return folder, printed.get()


def run(*args: str) -> str:
    """What a command prints."""
    with console.capture() as printed:
        cli.main([str(arg) for arg in args])
    return printed.get()


def test_train_writes_its_folder_and_prints_a_summary(job):
    folder, printed = job
    bridge = folder / "train" / BRIDGE
    found = {path.name for path in bridge.iterdir()}
    assert {
        "config.json",
        "metrics.jsonl",
        "final.json",
        "final.npz",
        "checkpoint",
        "curves.svg",
    } <= found
    assert [run["seed"] for run in json.loads((bridge / "final.json").read_text())["runs"]] == [
        0,
        1,
    ]
    assert "updates/s over all runs" in printed and BRIDGE in printed.replace("\n", "")


def test_a_grid_has_a_line_for_each_point(job):
    folder, printed = job
    record, final = (
        json.loads((folder / "grid" / f"{name}.json").read_text()) for name in ("config", "final")
    )
    assert record["grid"] == {"lr": [1e-3, 1e-2]} and record["config"]["hidden"] == 16
    assert [(run["config"]["lr"], run["seed"]) for run in final["runs"]] == [
        (1e-3, 0),
        (1e-3, 1),
        (1e-2, 0),
        (1e-2, 1),
    ]
    assert "lr=0.001" in printed and "lr=0.01" in printed


def test_processes_of_a_simulator_are_refused_where_none_is_played(job, capsys):
    with pytest.raises(SystemExit):
        run("evaluate", job[0] / "grid", "--episodes", "1", "--processes", "2")
    assert "--processes: expected for a simulator on the host, found 2" in capsys.readouterr().err
    assert not (job[0] / "grid" / "evaluations.json").exists()


def test_the_same_command_again_reads_the_result_back(job, capsys):
    before = (job[0] / "grid" / "final.json").stat().st_mtime_ns
    run("train", "bc", "matrix/xor/b", *TINY, "--grid", "lr=1e-3,1e-2", "--out", job[0] / "grid")
    assert (job[0] / "grid" / "final.json").stat().st_mtime_ns == before


def test_data_list_shows_a_row_for_each_scenario_with_its_qualities_and_filters():
    lines = run("data", "list").splitlines()
    text = "\n".join(lines)
    assert all(
        name in text
        for name in (
            "matrix/xor",
            "grid/bridge",
            "poly/sign",
            "alberdice:grid/bridge",
            "mpe/spread-n5-1d",
        )
    )
    row = next(k for k, line in enumerate(lines) if line.split()[:1] == ["matrix/xor"])
    assert "recipe" in lines[row] and lines[row + 1].split() == ["a", "b", "c", "d"]
    only = run("data", "list", "--family", "poly/")
    assert "poly/sign" in only and "uniform" in only and "matrix/" not in only


def test_data_list_tells_public_data_and_recipes_whose_pool_is_not_there(monkeypatch, tmp_path):
    from jaxoff.data import pools

    monkeypatch.setattr(pools, "FOLDER", tmp_path)
    (tmp_path / "smax").mkdir()
    (tmp_path / "smax" / "8m.npz").touch()
    text = " ".join(run("data", "list", "--family", "smax/").split())
    assert "not shipped" in text.partition("smax/3m")[2].partition("smax/8m")[0]
    assert "not shipped" not in text.partition("smax/8m")[2].partition("smax/25m")[0]
    assert "not shipped" not in run("data", "list", "--family", "maze/")
    assert "public data" in run("data", "list", "--family", "cfcql")


def test_data_list_keeps_its_columns_in_a_narrow_terminal(monkeypatch):
    monkeypatch.setattr(console, "_width", 80)
    text = run("data", "list", "--family", "og_marl")
    assert "og_marl:smac_v2/terran_10_vs_10" in text and "public data" in text


def test_data_are_made_inspected_and_trained_on(tmp_path):
    made = run(
        "data",
        "make",
        "matrix/xor/c",
        "--episodes",
        "30",
        "--seed",
        "3",
        "--out",
        tmp_path / "data",
    )
    folder = tmp_path / "data" / "matrix-xor-c.vlt" / "seed-3"
    assert "30 episodes, 30 steps" in made and (folder / "metadata.json").exists()
    seen = run("data", "inspect", "matrix/xor/c", "--data", folder, "--out", tmp_path / "pictures")
    assert "30" in seen and (tmp_path / "pictures" / "matrix-xor-c.png").stat().st_size > 1000
    assert (tmp_path / "pictures" / "matrix-xor-c.svg").read_text().startswith("<?xml")
    run("train", "bc", "matrix/xor/c", *TINY, "--data", folder, "--out", tmp_path / "job")
    assert json.loads((tmp_path / "job" / "config.json").read_text())["data"]["episodes"] == 30


def test_making_tells_how_far_it_is_and_how_long_it_took(tmp_path, capsys):
    made = run("data", "make", "mpe/spread-n1/random", "--episodes", "2", "--out", tmp_path)
    assert re.search(r"2 episodes, 50 steps, \d+\.\d s", made)
    assert "mpe/spread-n1/random   2/2 (100%)" in capsys.readouterr().err


def test_a_dataset_made_of_a_pool_names_it_in_its_metadata(tmp_path, monkeypatch):
    from jaxoff.data import pools

    pool = dataclasses.make_dataclass("Fake", ["made"])({"command": "jaxoff data pool", "seed": 3})
    monkeypatch.setattr(pools, "load", lambda path, spec: pool)
    (tmp_path / "mpe").mkdir()
    (tmp_path / "mpe" / "spread.npz").write_bytes(b"weights")
    spec = registry.make_spec("mpe/spread/medium")
    found = _pool_info(Task.parse("mpe/spread/medium"), spec, tmp_path)["pool"]
    assert found == {
        "name": "mpe/spread",
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "made": pool.made,
    }
    assert _pool_info(Task.parse("mpe/spread/random"), spec, tmp_path) == {}


def test_inspect_draws_the_returns_in_the_terminal_and_reads_a_folder_alone(tmp_path):
    run("data", "make", "matrix/xor/c", "--episodes", "30", "--out", tmp_path)
    seen = run(
        "data", "inspect", tmp_path / "matrix-xor-c.vlt" / "seed-0", "--out", tmp_path / "pictures"
    )
    bars = [line for line in seen.splitlines() if "█" in line]
    # 10 episodes of return 0, 20 of return 1
    assert [line.count("█") for line in bars] == [18, 36] and [
        line.split()[-2] for line in bars
    ] == ["10", "20"]
    # of the actions of each agent; (0, 0), (0, 1), (1, 0) are there 10 times each
    assert "20, 10" in seen
    assert "unique episodes" in seen and "device mb" in seen and "agent 1: 0 100.0%" in seen
    assert (tmp_path / "pictures" / "matrix-xor-c-seed-0.png").exists()
    assert "20" in run(
        "data",
        "inspect",
        "matrix/xor/b",
        "--episodes",
        "20",
        "--seed",
        "1",
        "--out",
        tmp_path / "pictures",
    )


def test_datasets_are_combined_split_and_subsampled_and_tell_from_what(tmp_path):
    run("data", "make", "grid/bridge/random", "--episodes", "10", "--out", tmp_path)
    made = tmp_path / "grid-bridge-random.vlt" / "seed-0"
    assert "510 episodes" in run(
        "data", "combine", made, "grid/bridge/optimal", "--out", tmp_path / "both"
    )
    both, source = (
        json.loads((folder / "metadata.json").read_text()) for folder in (tmp_path / "both", made)
    )
    assert both["statistics"]["episodes"] == 510 and both["env"] == source["env"] == "grid/bridge"
    assert [part["name"] for part in both["made_from"]] == [
        "grid-bridge-random.vlt/seed-0",
        "grid/bridge/optimal",
    ]
    assert [part["recipe"] for part in both["made_from"]] == [
        "grid/bridge/random",
        "grid/bridge/optimal",
    ]
    assert all(len(part["sha256"]) == 64 for part in both["made_from"])

    run("data", "split", made, "--share", "0.8", "--seed", "2", "--out", tmp_path / "parts")
    parts = {
        name: json.loads((tmp_path / "parts" / name / "metadata.json").read_text())
        for name in ("train", "validation")
    }
    assert [part["statistics"]["episodes"] for part in parts.values()] == [8, 2]
    assert parts["validation"]["made_by"] == {
        "command": "split",
        "share": 0.8,
        "seed": 2,
        "part": "validation",
    }

    text = run(
        "data",
        "subsample",
        tmp_path / "parts" / "train",
        "--steps",
        "200",
        "--out",
        tmp_path / "few",
    )
    steps = json.loads((tmp_path / "few" / "metadata.json").read_text())["statistics"][
        "transitions"
    ]
    assert 0 < steps <= 200 and f"{steps} steps" in text


def test_datasets_with_other_bounds_are_not_combined(tmp_path, capsys):
    steps = {"obs": np.zeros((4, 2, 3)), "reward": np.zeros(4), "done": [0, 1, 0, 1]}
    for name, bound in (("one", 1.0), ("two", 10.0)):
        episodes = Episodes.from_steps(actions=np.full((4, 2, 1), 0.45 * bound), **steps)
        jaxoff.save(episodes, tmp_path / name, action_bound=bound)
    parts = [str(tmp_path / name) for name in ("one", "two")]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["data", "combine", *parts, "--out", str(tmp_path / "both")])
    assert "field 'action_bound': expected 1.0 as in" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()


def test_a_dataset_that_is_there_is_kept_unless_told_otherwise(tmp_path, capsys):
    run("data", "subsample", "poly/sign/uniform", "--episodes", "5", "--out", tmp_path / "part")
    before = (tmp_path / "part" / "metadata.json").read_text()
    with pytest.raises(SystemExit):
        run("data", "split", "poly/sign/uniform", "--out", tmp_path, "--share", "2")
    with pytest.raises(SystemExit):
        run("data", "subsample", "poly/sign/uniform", "--episodes", "6", "--out", tmp_path / "part")
    assert "part: expected no dataset there, found one; pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "part" / "metadata.json").read_text() == before
    run(
        "data",
        "subsample",
        "poly/sign/uniform",
        "--episodes",
        "6",
        "--out",
        tmp_path / "part",
        "--overwrite",
    )
    assert (
        json.loads((tmp_path / "part" / "metadata.json").read_text())["statistics"]["episodes"] == 6
    )
    # of the split that failed, nothing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part"]


def test_fetch_says_what_it_does_and_a_failure_is_one_line(tmp_path, monkeypatch, capsys):
    from jaxoff.data import fetch

    there = tmp_path / "og_marl" / "smac_v1" / "3m.vlt" / "Good"
    there.mkdir(parents=True)
    assert "already there" in run(
        "data", "fetch", "og_marl:smac_v1/3m/Good", "--data-dir", tmp_path
    )

    def fail(*args, **named):
        raise fetch.FetchError("3m.zip: could not be downloaded")

    monkeypatch.setattr(fetch, "fetch", fail)
    with pytest.raises(SystemExit) as stop:
        run("data", "fetch", "og_marl:smac_v1/3m/Good", "--data-dir", tmp_path)
    assert (
        stop.value.code == 2
        and capsys.readouterr().err == "jaxoff: error: 3m.zip: could not be downloaded\n"
    )


def test_report_makes_a_page_from_folders(job):
    text = run("report", job[0])
    page = Path(text.split("page:")[1].strip())
    assert page.name == "index.html" and "bc" in page.read_text()


def test_play_writes_a_gif_of_bridge_and_a_table_of_steps(job, tmp_path):
    bridge = job[0] / "train" / BRIDGE
    text = " ".join(run("play", bridge, "--run", "1", "--out", tmp_path / "episode.gif").split())
    assert "run 1, sampled actions: return -" in text and "animation:" in text
    with Image.open(tmp_path / "episode.gif") as picture:
        assert picture.format == "GIF" and 2 <= picture.n_frames <= 21  # reset and at most 20 steps


def test_play_says_where_there_is_no_picture(job):
    text = run("play", job[0] / "grid", "--run", "3")
    assert "matrix/xor/b has no picture to draw, so there is no GIF" in text
    assert not (job[0] / "grid" / "play-3.gif").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("train bcc matrix/xor/b", "unknown method 'bcc'; nearest: bc"),
        ("train bc matrix/xorr/b", "unknown task 'matrix/xorr/b'; nearest: matrix/xor/b"),
        ("train bc matrix/xor/b --set hiden=3", "'hiden'; nearest: hidden"),
        ("train bc matrix/xor/b --set hidden", "--set: expected NAME=VALUE, found 'hidden'"),
        (
            "train bc matrix/xor/b --set hidden=wide",
            "jaxoff.baselines.bc.Config.hidden: expected int, found 'wide'",
        ),
        ("train bc matrix/xor/b --grid lr=fast", "grid field 'lr': expected numbers, found 'fast'"),
        ("train bc matrix/xor/b --grid hidden=2,0", "field 'hidden': expected at least 1, found 0"),
        (
            "train bc matrix/xor/b --grid hidden=2 --set hidden=3",
            "field 'hidden': expected in --set, --steps or --grid, found in two",
        ),
        (
            "train bc matrix/xor/b --steps 4 --set steps=5",
            "field 'steps': expected once, found 4 and, among the method's settings, 5",
        ),
        (
            "train omar mpe/spread/random --grid trace=0.1,0.9",
            "unknown field of omar's Config 'trace'",
        ),
        (
            "train cql mpe/spread/random --set input_norm=banana",
            "field 'input_norm': expected one of batch, dataset, none, found 'banana'",
        ),
        (
            "train bc matrix/xor/b --seeds 0",
            "field 'seeds': expected distinct whole numbers in 0 .. 2**32 - 1, at least "
            "one, found []",
        ),
        ("train bc matrix/xor/b --seeds ,", "--seeds: expected a number of seeds, or seeds with"),
        ("train bc matrix/xor/b --data x --data-seed 3", "--data-seed: expected none with --data"),
        ("train bc matrix/xor/b --data-dir x", "--data-dir: expected with a task of public data"),
        (
            "train maddpg mpe/spread/random --sampler online --data-episodes 3",
            "'data_episodes': expected none with sampler 'online', which plays itself, found 3",
        ),
        (
            "train td3bc mpe/spread/random --sampler online --set input_norm=dataset",
            "sampler 'online': expected a method that starts without a dataset, found td3bc",
        ),
        (
            "train yanhui matrix/xor/b --set return_low=5 --set return_high=-5",
            "yanhui: field 'return_high': expected more than return_low=5, found -5",
        ),
        (
            "train yanhui matrix/xor/b --set return_high=1 --grid return_low=0,5",
            "yanhui: field 'return_high': expected more than return_low=5, found 1",
        ),
        (
            "train madt matrix/xor/b --set return_low=99 --grid weighting=none,return",
            "madt: field 'return_high': expected more than return_low=99, found 20",
        ),
        (
            "train maddpg mpe/spread/random --set independent=true --set others=policy",
            "maddpg: field 'others': expected data with independent=true",
        ),
        ("train icq matrix/xor/b --set epsilon_updates=0", "'epsilon_updates': expected at least"),
        ("train qmix matrix/xor/b --set target_every=0", "'target_every': expected at least 1"),
        (
            "train omiga poly/sign/uniform --set mask_actor=false",
            "omiga: field 'mask_actor': expected true, since the continuous actions of poly/sign",
        ),
        (
            "train icq poly/sign/uniform --set epsilon_start=0.5",
            "icq: field 'epsilon_start': expected 0.0, since the continuous actions of poly/sign",
        ),
        ("check-env matrix/xor/b --seed -1", "field 'seed': expected 0 to 4294967295, found -1"),
        ("check-learner bc --seed -1", "field 'seed': expected 0 to 4294967295, found -1"),
        ("train bc matrix/xor/b --sampler pjop", "unknown sampler 'pjop'; nearest: pjap"),
        (
            "train bc alberdice:matrix/xor/b",
            "expected the folder that holds mmdp_game_1_from_start/buffer_02_20, found none",
        ),
        ("train bc matrix/xor/b --data nowhere", "nowhere"),
        (
            "data make matrix/xor",
            "task 'matrix/xor': expected [source:]family/scenario/quality, found 2 part(s)",
        ),
        ("data inspect matrix/xor/b --data nowhere", "nowhere"),
        (
            "data inspect nowhere",
            "nowhere: no dataset folder is there, and as a task: task 'nowhere': expected "
            "[source:]family",
        ),
        ("data combine --out x", "combine: expected at least one dataset, found none"),
        (
            "data combine matrix/xor/a matrix/mne/balanced --out x",
            "field 'env': expected one environment, found matrix/xor in matrix/xor/a and",
        ),
        (
            "data split matrix/xor/a --out x",
            "split: expected at least two unique episodes, found 1",
        ),
        (
            "data subsample poly/sign/uniform --out x",
            "subsample: expected either episodes or steps, found both or none",
        ),
        (
            "data make smax/3m/medium --pools nowhere --out x",
            "nowhere: expected a folder of policy pools, found none",
        ),
        (
            "data fetch d4rl:maze2d/umaze/v1 --data-dir x",
            "expected a dataset that is published as a vault",
        ),
        ("report nowhere", "nowhere"),
        (
            "play nowhere",
            "nowhere/config.json: expected the folder of a training job, found no config.json",
        ),
    ],
)
def test_a_bad_input_ends_with_status_2_and_one_line_that_names_it(args, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        cli.main(args.split())
    *progress, error = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and all("%)" in line for line in progress)
    assert error.startswith("jaxoff: error: ") and message in error
    assert not list(tmp_path.rglob("config.json"))


def test_a_run_that_is_not_there_is_refused_by_number(job, capsys):
    with pytest.raises(SystemExit) as stop:
        run("play", job[0] / "grid", "--run", "4")
    assert stop.value.code == 2 and "field 'run': expected 0..3, found 4" in capsys.readouterr().err


def test_a_folder_of_another_job_is_refused(job, capsys):
    with pytest.raises(SystemExit) as stop:
        run("train", "bc", "matrix/xor/b", *TINY, "--out", job[0] / "grid")
    assert stop.value.code == 2 and "the folder holds another job" in capsys.readouterr().err


def test_sigterm_ends_training_with_143_and_a_hint_and_the_same_command_continues(tmp_path):
    options = [
        "--seeds",
        "1",
        "--set",
        "hidden=16",
        "--set",
        "batch_size=8",
        "--eval-episodes",
        "2",
    ]
    # 4000 evaluations take minutes, so the signal comes in the middle.
    long = [
        "train",
        "bc",
        "matrix/xor/b",
        *options,
        "--steps",
        "40000",
        "--evaluations",
        "4000",
        "--out",
        str(tmp_path / "job"),
    ]
    command = [sys.executable, "-m", "jaxoff.cli", *long]
    root = Path(__file__).parent.parent
    env = os.environ | QUICK_ENV | {"PYTHONPATH": str(root)}
    child = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        rows = tmp_path / "job" / "metrics.jsonl"
        end = time.monotonic() + 120
        while (
            not (rows.exists() and rows.read_text().count("\n") > 2)
            and child.poll() is None
            and time.monotonic() < end
        ):
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        _, error = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 143, error
    assert (
        "jaxoff: stopped on request: state saved in" in error
        and "give the same command again to continue" in error
    )
    stopped = json.loads(rows.read_text().splitlines()[-1])["step"]
    assert state_of(tmp_path / "job")["updates"].tolist() == [stopped] and stopped < 40000

    again = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + 120
        while (
            rows.read_text().count("\n") < stopped // 10 + 3
            and again.poll() is None
            and time.monotonic() < end
        ):
            time.sleep(0.05)
        again.send_signal(signal.SIGTERM)
        again.communicate(timeout=60)
    finally:
        again.kill()
    steps = [json.loads(line)["step"] for line in rows.read_text().splitlines()]
    # none lost, none twice
    assert steps == list(range(10, len(steps) * 10 + 1, 10)) and steps[-1] > stopped
    chex.assert_tree_all_finite(state_of(tmp_path / "job")["learner"])


def test_methods_lists_every_form_with_its_actions(capsys):
    cli.main(["methods", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in rows} == set(registry.learner_names())
    omar = [(row["actions"], row["code"]) for row in rows if row["method"] == "omar"]
    assert omar == [
        ("discrete", "jaxoff.baselines.omar.discrete"),
        ("continuous", "jaxoff.baselines.omar.continuous"),
    ]
    assert all(row["about"] and row["page"] == f"docs/methods/{row['method']}.md" for row in rows)
    cli.main(["methods"])
    assert "AlberDICE" in capsys.readouterr().out


def test_settings_tell_value_source_default_and_meaning(capsys):
    cli.main(["settings", "omar", "mpe/spread/random", "--set", "search=cem", "--json"])
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (found["mimic"]["value"], found["mimic"]["default"], found["mimic"]["source"]) == (
        1.0,
        0.5,
        "settings.toml",
    )
    assert (found["search"]["value"], found["search"]["source"], found["search"]["sweeps"]) == (
        "cem",
        "you",
        False,
    )
    assert found["search"]["words"] == ["softmax", "cem", "random"]
    assert (
        found["lr"]["sweeps"] and found["lr"]["meaning"] == "learning rate of the policies (Adam)"
    )
    cli.main(["settings", "omar", "mpe/spread/random"])
    assert "settings.toml" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        cli.main(["settings", "omar", "mpe/spread/random", "--set", "trace=0.5"])
    assert (
        "unknown field of jaxoff.baselines.omar.continuous.Config 'trace'"
        in capsys.readouterr().err
    )


def test_every_setting_has_a_meaning_or_a_name_that_tells_it():
    told = {
        "gamma",
        "lr",
        "steps",
        "batch_size",
        "window",
        "hidden",
        "embed",
        "layers",
        "heads",
        "max_grad_norm",
    }
    for name in registry.learner_names():
        for module in registry.forms(name).values():
            meanings = meanings_of(module.Config)
            assert set(meanings) == set(config_fields(module.Config))
            silent = {field for field, meaning in meanings.items() if not meaning} - told
            assert len(silent) <= 6, (module.__name__, silent)


def test_a_static_setting_is_swept_with_a_folder_a_value_and_one_table(tmp_path, capsys):
    small = ["--set", "batch_size=8", "--steps", "2", "--evaluations", "1", "--eval-episodes", "2"]
    cli.main(
        [
            "train",
            "bc",
            "matrix/xor/b",
            "--seeds",
            "3,7",
            "--grid",
            "hidden=4,8",
            *small,
            "--out",
            str(tmp_path / "job"),
        ]
    )
    shown = capsys.readouterr().out
    for width in (4, 8):
        record = json.loads((tmp_path / "job" / f"hidden-{width}" / "config.json").read_text())
        assert (record["config"]["hidden"], record["seeds"]) == (width, [3, 7])
        assert f"hidden={width}" in shown


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("3", (0, 1, 2)), ("3,7,11", (3, 7, 11)), ("7,", (7,))],
    ids=["a number", "a list", "a list of one"],
)
def test_seeds_are_a_number_or_a_list(text, wanted):
    assert _seeds(text) == wanted


def test_a_list_of_seeds_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", "bc", "matrix/xor/b", "--seeds", "many", "--out", str(tmp_path / "job")])
    assert "--seeds: expected a number of seeds, or seeds with commas" in capsys.readouterr().err


SMALL = ["--set", "batch_size=8", "--evaluations", "1", "--eval-episodes", "2", "--seeds", "1"]


def test_two_settings_have_two_folders_and_the_report_tells_them_apart(tmp_path):
    for more in (["--set", "hidden=4"], ["--set", "hidden=8"], ["--label", "wide bc"]):
        run("train", "bc", "matrix/xor/c", *SMALL, "--steps", "2", *more)
    names = {path.name for path in (tmp_path / "results" / "train").iterdir()}
    head = "bc-matrix-xor-c-batch_size=8"
    assert {f"{head}-hidden=4-steps=2", f"{head}-hidden=8-steps=2"} < names
    assert any(name.startswith("wide-bc-matrix-xor-c-") for name in names)
    run("report", "results/train")
    table = (tmp_path / "results" / "train" / "table-return_mean.md").read_text()
    assert all(column in table for column in ("bc (hidden=4)", "bc (hidden=8)", "wide bc"))


def test_a_job_is_extended_where_its_folder_is_and_is_named_after_its_updates(tmp_path, capsys):
    place = tmp_path / "results" / "train"
    command = ["train", "bc", "matrix/xor/c", *SMALL, "--set", "hidden=4"]
    run(*command, "--steps", "2")
    run(*command, "--steps", "4", "--extend")
    (folder,) = place.iterdir()
    assert folder.name == "bc-matrix-xor-c-batch_size=8-hidden=4-steps=4"
    assert json.loads((folder / "config.json").read_text())["parts"] == [[2, 1]]
    more = [*command, "--steps", "4", "--seeds", "2"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*more)
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]  # progress may stand before it
    assert "you asked for 4 updates, seeds 0, 1; the folder holds 4 updates, seeds 0;" in line
    assert all(option in line for option in ("--extend", "--overwrite", "--label"))
    run(*more, "--extend")
    assert len(json.loads((folder / "final.json").read_text())["runs"]) == 2
    run(*command, "--steps", "4", "--seeds", "3,", "--overwrite")
    runs = json.loads((folder / "final.json").read_text())["runs"]
    assert [each["seed"] for each in runs] == [3]
    with pytest.raises(SystemExit, match="2"):
        run(*more, "--extend", "--overwrite")
    assert "--extend and --overwrite: expected one of the two" in capsys.readouterr().err
