"""Packages that are not installed: one line names the package and the command that brings it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from types import ModuleType
from unittest import mock

import pytest

from jaxoff import engines, runtime
from jaxoff.data import fetch
from jaxoff.data.convert import hdf5
from jaxoff.envs.mamujoco import c_physics, mabrax, mjx
from jaxoff.errors import MissingProgram
from jaxoff.eval import host, host_worker
from jaxoff.logs import WandB
from jaxoff.report import figures
from tests.test_house import ROOT, modules

ROBOT = "halfcheetah-2x3"
# Imported package -> (its name in pyproject.toml, what needs it, given an empty folder).
USES = {
    "brax": ("brax", lambda folder: without_brax(folder)),
    "mujoco": ("mujoco", lambda _: mjx.make_mamujoco.__wrapped__(f"mamujoco/{ROBOT}")),
    "mujoco.mjx": ("mujoco-mjx", lambda _: mjx.make_mamujoco.__wrapped__(ROBOT, physics="mjx")),
    "gymnasium": ("gymnasium-robotics", lambda _: mjx.load_model("half_cheetah.xml")),
    "mujoco.rollout": ("mujoco", lambda _: c_physics.CPhysics(None, 1)),
    "h5py": ("h5py", lambda folder: hdf5.read_hdf5(touch(folder / "a.h5"), "a")),
    "wandb": ("wandb", lambda folder: WandB("offline", "project", "group", folder)),
    "huggingface_hub": (
        "huggingface-hub",
        lambda folder: fetch.fetch("og_marl:smac_v1/3m/Good", folder, unverified=True),
    ),
    "matplotlib": ("matplotlib", lambda _: figures.style().__enter__()),
    "submitit": ("submitit", lambda _: engines.choose("slurm", {})),
    "ray": ("ray", lambda _: engines.choose("ray", {})),
    "jaxmarl": ("jaxmarl", lambda _: mabrax.make_mabrax.__wrapped__(f"mabrax/{ROBOT}")),
}


def touch(file):
    file.touch()
    return file


def without_brax(folder):
    """Make a robot with a JaxMARL that does nothing but import Brax, since the real one is slow."""
    inner = folder / "jaxmarl" / "environments"
    inner.mkdir(parents=True)
    touch(inner.parent / "__init__.py")
    touch(inner / "__init__.py")
    (inner / "mabrax.py").write_text("import brax")
    loaded = {name: sys.modules[name] for name in sys.modules if name.startswith("jaxmarl")}
    with mock.patch.dict(sys.modules), mock.patch.object(sys, "path", [str(folder), *sys.path]):
        for name in loaded:
            del sys.modules[name]
        mabrax.make_mabrax.__wrapped__(f"mabrax/{ROBOT}")


def needed() -> dict[str, str]:
    """Package -> the extra that brings it, or an empty text, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    name = lambda line: line.split(">")[0].split("[")[0].strip()
    return {name(line): extra for extra, lines in reversed(groups.items()) for line in lines}


@pytest.fixture
def without(monkeypatch):
    """Block the import of a package, as if it were not installed."""

    def block(package):
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return block


@pytest.mark.parametrize("package", USES)
def test_a_missing_package_is_named_with_the_command_that_brings_it(package, without, tmp_path):
    name, use = USES[package]
    extra = needed()[name]
    without(package)
    line = rf"pip install 'jaxoff\[{extra}\]'" if extra else f"pip install {name}"
    with pytest.raises(MissingProgram, match=f"expected the package '.*', found none; run {line}$"):
        use(tmp_path)


def test_every_package_of_an_extra_is_tried():
    # `cuda` is a plug-in of JAX, which reports it by itself; `dev` and `docs` are for this
    # repository, and no module of the library imports what they bring.
    others = ("", "cuda", "dev", "docs")
    extras = {name for name, extra in needed().items() if extra not in others}
    assert extras and extras <= {name for name, _ in USES.values()}


def test_a_package_of_another_version_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", ModuleType("h5py"))
    message = r"data: expected the package 'h5py', found another version .*; run pip install h5py"
    with pytest.raises(MissingProgram, match=message), runtime.needs("data"):
        from h5py import File  # noqa: F401


def test_an_absent_module_of_jaxoff_is_a_fault_of_the_program():
    with pytest.raises(ModuleNotFoundError), runtime.needs("data"):
        import jaxoff.absent  # noqa: F401


def test_every_late_import_of_a_package_says_what_is_missing():
    # Imported at the top of some module, so jaxoff does not start without them. The worker is a
    # process of its own, which imports nothing of jaxoff, as are the peers of the benchmark;
    # flashbax needs tensorstore.
    early, bare = {"tensorstore"}, []
    for module, file in modules().items():
        tree = ast.parse(file.read_text())
        early |= {name for node in tree.body for name in packages_of(node)}
        if module not in ("jaxoff.eval.host_worker", "jaxoff.experiments.bench.omar_public"):
            bare += [(module, name) for name in late(tree)]
    allowed = early | set(sys.stdlib_module_names) | {"jaxoff"}
    assert not [(module, name) for module, name in bare if name not in allowed]


def packages_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [str(node.module).partition(".")[0]] if isinstance(node, ast.ImportFrom) else []


def late(node: ast.AST) -> list[str]:
    """Packages that a tree imports inside its functions, and outside of `with needs(...)`."""
    found = []
    for child in ast.iter_child_nodes(node):
        checked = isinstance(child, ast.With) and "needs(" in ast.unparse(child.items[0])
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not checked and not typing:
            found += packages_of(child) if not isinstance(node, ast.Module) else []
            found += late(child)
    return found


# -------------------------------------------------------------------------- simulators on the host


@pytest.mark.parametrize("package", ["gymnasium", "mujoco"])
def test_a_worker_without_a_simulator_says_so(package, without, monkeypatch):
    for name in [name for name in sys.modules if f"{name}.".startswith("gymnasium.")]:
        monkeypatch.delitem(sys.modules, name)  # it may hold what an earlier test has loaded
    without(package)
    with pytest.raises(host_worker.Refused, match=r"run pip install 'jaxoff\[mujoco\]'\. Training"):
        host_worker.Robots("HalfCheetah-v5", {}, [0])


def test_a_refusal_of_a_worker_is_one_line_and_status_2(tmp_path, monkeypatch):
    (tmp_path / "gymnasium.py").write_text("raise ModuleNotFoundError('no', name='gymnasium')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingProgram, match="found no package 'gymnasium'; run pip install"):
        host.Workers(host.make_host(f"mamujoco/{ROBOT}"), 1, 1, str(tmp_path))


def test_the_command_line_prints_it_as_one_line(tmp_path):
    code = (
        "import sys; sys.modules['h5py'] = None\n"
        "from jaxoff.cli import main\n"
        "main(['data', 'make', 'd4rl:maze2d/umaze/v1', '--data-dir', sys.argv[1]])"
    )
    touch(tmp_path / "maze2d-umaze-sparse-v1.hdf5")
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert last.startswith("jaxoff: error: ") and last.endswith("run pip install h5py")
