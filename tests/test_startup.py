"""What a command costs before it runs: names of methods and tasks are known without JAX."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import jax
import pytest

from jaxoff import outlines, registry
from jaxoff.data import games, scenarios
from jaxoff.names import Family, Sizes, Task
from jaxoff.training import compiling

HEAVY = {"jax", "jaxmarl", "brax", "matplotlib", "flax", "distrax"}
CPU_S = 2.0  # of a process; on one core of today they take 0.3 to 0.5
COMMANDS = {
    "--help": 0,
    "train --help": 0,
    "methods": 0,
    "data --help": 0,
    "data list": 0,
    "train nonsense matrix/xor/b": 2,
    "train bc matrix/xor/nonsense": 2,
    "train bc grid/bridge/nonsense": 2,
    "train bc poly/sign/nonsense": 2,
    "train bc smax/3m/mix=[r]": 2,
    "train bc og_marl:smac_v1/3m/nonsense": 2,
    "train qmix mpe/spread/random": 2,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_computes_nothing_starts_at_once(command):
    code = f"""
import atexit, gc, sys, time
atexit.register(lambda: print(gc.get_freeze_count() > 0))
from jaxoff.cli import main
try:
    main({command.split()})
    status = 0
except SystemExit as stop:
    status = stop.code or 0
print("\\n", status, time.process_time(), *sorted({HEAVY} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, told, frozen = done.stdout.splitlines()
    status, seconds, *heavy = told.split()
    assert int(status) == COMMANDS[command] and not heavy
    assert frozen == "True"  # the collector does not look through everything at the end
    assert float(seconds) < CPU_S


# ------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("name", registry.learner_names())
def test_the_source_of_a_method_tells_what_its_import_does(name, monkeypatch):
    forms = registry.forms(name)
    module = registry._entry("jaxoff.learners")[name].module
    monkeypatch.delitem(sys.modules, module)
    found = outlines.read(module, registry.KINDS)
    assert found is not None and list(found) == list(forms)
    for kind, form in forms.items():
        assert found[kind].module == form.__name__
        assert found[kind].doc.split() == form.__doc__.split()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package `somebody` whose import fails, with a module `method` of this source."""

    def write(source: str, **modules: str) -> str:
        (tmp_path / "somebody").mkdir()
        for name, text in {"__init__": "1 / 0", "method": source, **modules}.items():
            (tmp_path / "somebody" / f"{name}.py").write_text(text)
        return "somebody.method"

    monkeypatch.syspath_prepend(tmp_path)
    return write


def test_a_method_of_another_package_is_read_without_importing_that(package):
    found = outlines.read(package('"""Counts."""\nACTIONS = ("discrete",)\n'), registry.KINDS)
    assert found == {"discrete": outlines.Outline("somebody.method", "Counts.")}


def test_forms_may_be_imported_relatively(package):
    source = "from . import one as first\nFORMS: dict = {'continuous': first}\n"
    found = outlines.read(package(source, one='"""One."""'), registry.KINDS)
    assert found == {"continuous": outlines.Outline("somebody.one", "One.")}


@pytest.mark.parametrize(
    "source",
    [
        "ACTIONS = tuple(KINDS)",
        "FORMS = made()",
        "FORMS = {'discrete': lookup('one')}",
        "FORMS = {'discrete': one}",
        "from . import absent\nFORMS = {'discrete': absent}",
        "def",
    ],
)
def test_what_the_source_does_not_tell_is_left_to_the_import(source, package):
    assert outlines.read(package(source), registry.KINDS) is None


def test_a_module_without_source_or_that_is_imported_is_not_read():
    assert outlines.read("nowhere.method", registry.KINDS) is None
    assert outlines.read("math", registry.KINDS) is None
    assert outlines.read(__name__, registry.KINDS) is None


def test_packages_are_searched_for_methods_again_only_if_one_is_installed(tmp_path, monkeypatch):
    searched, search = [], metadata.entry_points
    monkeypatch.setattr(metadata, "entry_points", lambda: searched.append(1) or search())
    monkeypatch.syspath_prepend(tmp_path)
    for count, name in enumerate(("first", "second"), 1):
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[jaxoff.learners]\n{name} = somebody.{name}\n")
        for _ in range(3):
            assert registry._entry("jaxoff.learners")[name].module == f"somebody.{name}"
        assert len(searched) == count
    assert {"first", "second", "bc"} <= set(registry._entry("jaxoff.learners"))


# --------------------------------------------------------------------------------------- tasks


def test_sizes_are_those_of_the_environments():
    first = {task.rpartition("/")[0]: task for task in reversed(registry.tasks())}
    for scenario, task in first.items():
        assert registry.sizes(task) == Sizes.of(registry.make_spec(task)), scenario
    assert set(scenarios.table("scenarios")) <= set(first)


def test_every_scenario_of_a_simulator_is_named():
    from jaxoff.envs import smax
    from jaxoff.envs.games import matrix, polynomial
    from jaxoff.envs.mamujoco import layouts, mjx
    from jaxoff.envs.maze import MAZES

    for family, maps in smax.FAMILIES.items():
        assert scenarios.names(family) == list(maps)
    robots = {name: layouts.BODIES[name].splits for name in layouts.BODIES}
    splits = [f"{body}-{split}" for body, some in robots.items() for split in some]
    assert set(scenarios.names("mabrax")) == set(splits)
    ours = {name for name in splits if name.partition("-")[0] in mjx.TASKS}
    assert set(scenarios.names("mamujoco")) == ours | set(mjx.SIT)
    assert scenarios.names("maze") == list(MAZES)
    assert tuple(polynomial.GAMES) == games.POLYNOMIALS and polynomial.peak() == games.PEAK
    assert matrix.XOR.shape == (2, 2)


def test_sizes_of_a_family_that_does_not_tell_them_are_its_environments(monkeypatch):
    env = registry.make_env("matrix/xor/a")
    family = Family("matrix", lambda: ["matrix/xor/a"], lambda _: env, lambda *_: None)
    monkeypatch.setattr(registry, "families", lambda: {("", "matrix"): family})
    assert registry.sizes(Task.parse("matrix/xor/a")) == (2, 1, 2, True, 1)


# ------------------------------------------------------------------------------------- a training


def test_what_a_small_training_compiles_and_imports(tmp_path):
    """The second job, on data of the same shape, finds all its programs in the cache."""
    code = """
import pathlib, sys
import jax, jaxoff
from jax import monitoring
events = []
monitoring.register_event_listener(lambda name, **about: events.append(name.rpartition("/")[2]))
monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **about: events.append(name.rpartition("/")[2])
)
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
for quality in ("a", "b"):
    spec = jaxoff.TrainSpec(
        "inspo",
        f"matrix/xor/{quality}",
        config={"hidden": 8, "batch_size": 16, "behaviour_steps": 4},
        steps=4,
        evaluations=2,
    )
    events.clear()
    jaxoff.train(spec, progress=False)
    print(*(events.count(name) for name in ("backend_compile_duration", "cache_misses")))
import jaxoff.report.figures, jaxoff.report.load  # of the command
packages = {name.partition(".")[0] for name in sys.modules}
heavy = {"tensorflow_probability", "distrax", "scipy.stats", "matplotlib", "wandb", "markdown_it"}
print(*sorted(heavy & (packages | set(sys.modules))))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second, heavy = done.stdout.splitlines()[-3:]
    # `prepare`, `chunk` and `keep` of two stages, one `report`, and operations of the set-up.
    programs, _ = map(int, first.split())
    assert programs <= 12
    assert second.split()[1] == "0"
    assert not heavy


def test_a_program_compiles_where_xla_lacks_an_option():
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    assert compiling._compile(lowered, {"xla_absent": True})(1.0) == 2.0
    assert compiling._compile(lowered, compiling.QUICKLY)(1.0) == 2.0
