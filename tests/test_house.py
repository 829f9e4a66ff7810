"""Where things stand: imports point down, from the command line to the types, and never in a
circle.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from tests.learners import QUICK_ENV

ROOT = Path(__file__).parent.parent
# From the ground up. A module may import what stands on its own layer or below.
LAYERS = (
    "errors types files runtime torch_file numpy_file",
    "names batches blocks draw optimisers distributions",
    "losses envs registry outlines config",
    "nets eval",
    "data logs",
    "learners training",
    "baselines report conformance engines",
    "cli experiments",
)
# Packages that few modules may import, and which: what there is to change when one of them breaks,
# or what start-up does not pay for.
FEW = {
    "distrax": {"jaxoff.distributions"},
    "jaxmarl": {
        "jaxoff.envs.mamujoco.mabrax",
        "jaxoff.envs.smax.battle",
        "jaxoff.envs.to_jaxmarl",
    },
}
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names.split()}


def part_of(module: str) -> str:
    """The part of the house that a module belongs to: `jaxoff.data.disk` to `data`."""
    return [*module.split("."), module][1]


def installed(path: Path) -> str:
    """The module's name: baselines/ and experiments/ are installed below jaxoff."""
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    return name if name.split(".")[0] == "jaxoff" else f"jaxoff.{name}"


def modules() -> dict[str, Path]:
    """Module -> file, of all that is installed."""
    folders = [ROOT / name for name in ("jaxoff", "baselines", "experiments")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    return {installed(path.relative_to(ROOT)): path for path in files}


def imports() -> dict[str, set[str]]:
    """Module -> modules of the repository that it imports, inside functions too; imports for type
    checkers are none.
    """
    names = modules()
    found: dict[str, set[str]] = {}
    for module, path in names.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                node.body = []
        wanted = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                wanted |= {f"{node.module}.{alias.name}" for alias in node.names} | {
                    str(node.module)
                }
            elif isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
        inner = {
            f"{module}.{name.rpartition('.')[2]}"
            for name in names
            if name.rpartition(".")[0] == module
        }
        # A package that gathers its own parts is no circle with them.
        found[module] = {
            name
            for name in wanted
            if name in names and name != module and not (name in inner and path.stem == "__init__")
        }
    return found


def test_every_module_stands_on_a_layer():
    assert {part_of(module) for module in imports()} - {"jaxoff"} <= set(HEIGHT)


def test_no_import_points_upward():
    upward = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if "jaxoff" not in (part_of(module), part_of(other))
        and HEIGHT[part_of(other)] > HEIGHT[part_of(module)]
    ]
    assert not upward, upward


def test_no_imports_go_in_a_circle():
    graph = imports()
    packages = {module for module, path in modules().items() if path.stem == "__init__"}
    # `from package import part` names both; the part is what is used.
    used = {
        module: {other for other in others if other not in packages}
        for module, others in graph.items()
    }
    TopologicalSorter(used).prepare()  # raises CycleError with the modules of a circle


def test_few_modules_import_what_is_slow_or_frail():
    found: dict[str, set[str]] = {package: set() for package in FEW}
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for package in FEW.keys() & {name.split(".")[0] for name in names}:
                found[package].add(module)
    assert found == FEW


def test_training_in_our_own_worlds_needs_no_jaxmarl_and_without_figures_no_matplotlib(tmp_path):
    code = (
        "import sys, pathlib, jaxoff.training, jaxoff.registry, jaxoff.envs.from_jaxmarl\n"
        "for task in ('matrix/xor/b', 'grid/bridge/optimal', 'mpe/spread/random'):\n"
        "    jaxoff.registry.make_env(task)\n"
        "jaxoff.registry.make_spec('smax/3m/medium')\n"
        "slow = {'jaxmarl', 'brax', 'matplotlib'}\n"
        "found = (slow | {'distrax'}) & set(sys.modules)\n"
        "assert not found, found\n"
        "spec = jaxoff.TrainSpec('bc', 'matrix/xor/b', steps=2, evaluations=1)\n"
        "jaxoff.train(spec, out=pathlib.Path(sys.argv[1]))\n"
        "found = slow & set(sys.modules)\n"
        "assert not found, found"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "job")]
    done = subprocess.run(
        command, env=os.environ | QUICK_ENV, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_function_is_longer_than_80_lines():
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in [*modules().values(), *(ROOT / "tests").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 80
    ]
    assert not long, long
