"""What is installed: one name in site-packages, whatever folders lie around it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ("paper.csv", "references.csv", "plan.csv")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with what the wheel holds."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a checkout: the wheel of a copy with results or caches says nothing")
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, cwd: Path, code: str) -> str:
    """Standard output of a Python that has the wheel's files before all others."""
    env = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_top_level_name_without_reference_figures(site):
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"jaxoff"}
    assert not [path for path in site.rglob("*") if path.suffix in (".png", ".svg", ".md")]


def test_every_package_and_every_data_file_is_in_the_wheel(site):
    from tests.test_house import modules

    for module, path in modules().items():
        file = site / module.replace(".", "/")
        assert (
            file / "__init__.py" if path.stem == "__init__" else file.with_suffix(".py")
        ).exists()
    for folder in ("jaxoff", "baselines", "experiments"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".npz", ".toml", ".txtpb") or path.name in DATA:
                name = path.relative_to(ROOT)
                assert (site / (name if folder == "jaxoff" else "jaxoff" / name)).exists(), name


def test_folders_of_a_users_own_called_baselines_and_experiments_break_nothing(site, tmp_path):
    for name in ("baselines", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not the one')\n")
    code = """
from jaxoff import registry
from jaxoff.config import resolve_config
from jaxoff.names import Task
from jaxoff.experiments.paper import tuned
task = Task.parse("matrix/xor/b")
for name in registry.learner_names():
    for form in registry.forms(name).values():
        resolve_config(form, task, {})
print(registry.learner("inspo", task).__file__)
print(tuned("inspo", "cfcql", "matrix/xor/b"))
"""
    file, tuned = run(site, tmp_path, code).split("\n")
    assert file == str(site / "jaxoff" / "baselines" / "inspo.py")
    assert tuned != "{}"


def test_an_installed_jaxoff_tells_its_version_not_the_commit_around_it(site, tmp_path):
    environment = tmp_path / "repository" / "site"
    environment.parent.mkdir()
    environment.symlink_to(site)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], cwd=environment.parent, check=True)
    subprocess.run(
        [*git, "commit", "--quiet", "--allow-empty", "--message", "x"],
        cwd=environment.parent,
        check=True,
    )
    told = run(environment, tmp_path, "from jaxoff import runtime; print(runtime.git_commit())")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert told == f"version {version}"
