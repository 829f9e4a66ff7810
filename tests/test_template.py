"""The package in docs/template: installed as anybody would, found by its entry points, checked and
trained through the command line.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.learners import QUICK_ENV

TEMPLATE = Path(__file__).parent.parent / "docs" / "template"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the package is installed in, for PYTHONPATH."""
    source, target = tmp_path_factory.mktemp("source") / "template", tmp_path_factory.mktemp("site")
    shutil.copytree(TEMPLATE, source)
    if importlib.util.find_spec("pip") and importlib.util.find_spec("setuptools"):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-build-isolation", "--disable-pip-version-check"]
        command += ["--target", str(target), str(source)]
        subprocess.run(command, check=True, timeout=240, capture_output=True)
    else:  # what an installer would have written
        project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
        shutil.copytree(source / "jaxoff_corridor", target / "jaxoff_corridor")
        info = target / "jaxoff_corridor-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: jaxoff-corridor\nVersion: 0.1.0\n"
        )
        lines = []
        for group, points in project["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {place}" for name, place in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return target


def run(installed: Path, folder: Path, *args: object) -> str:
    """What a command prints; its status must be 0."""
    done = subprocess.run(
        [sys.executable, "-m", "jaxoff.cli", *map(str, args)],
        env=os.environ | QUICK_ENV | {"PYTHONPATH": str(installed)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_the_template_keeps_the_contracts(installed, tmp_path):
    text = run(installed, tmp_path, "check-env", "corridor/wide/random")
    assert text.rstrip().endswith("corridor/wide/random: keeps the contract"), text
    text = run(installed, tmp_path, "check-learner", "frequencies")
    assert text.rstrip().endswith("frequencies, discrete actions: keeps the contract"), text


def test_the_template_is_trained_with_its_three_parts(installed, tmp_path):
    args = ["train", "frequencies", "corridor/narrow/together", "--sampler", "recent"]
    args += ["--seeds", "2", "--grid", "prior=1,100", "--evaluations", "2", "--out", "job"]
    run(installed, tmp_path, *args)
    runs = json.loads((tmp_path / "job" / "final.json").read_text())["runs"]
    assert [(run["config"], run["seed"]) for run in runs] == [
        ({"prior": prior}, seed) for prior in (1.0, 100.0) for seed in (0, 1)
    ]
    # Episodes pay between 8 steps without meeting and meeting at once.
    assert all(-0.8 <= run["return_mean"] <= 1.0 for run in runs)
    rows = (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(row)["loss/steps_seen"] for row in rows} == {32.0}


def test_a_method_of_jaxoff_learns_the_templates_dataset(installed, tmp_path):
    args = ["train", "bc", "corridor/narrow/together", "--seeds", "1", "--steps", "200"]
    args += ["--set", "hidden=16", "--set", "lr=0.01", "--evaluations", "1", "--out", "job"]
    run(installed, tmp_path, *args)
    (only,) = json.loads((tmp_path / "job" / "final.json").read_text())["runs"]
    # The first agent walks to the second: at most 4 steps, so at least 1 - 3 * 0.1.
    assert only["return_mean"] > 0.7
