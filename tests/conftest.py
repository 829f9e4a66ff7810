"""Shared by the training tests: fast compilation, one cache of compiled programs that is kept, jobs
trained once.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import platform
import re
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any


def _kept() -> Path:
    """The folder of the compiled programs, which all processes share, and the next run of the
    tests. JAX finds a program by what it computes, versions, and flags, but not by the instructions
    that this processor has. `make clean` removes the folder.
    """
    file = Path("/proc/cpuinfo")
    told = file.read_text() if file.exists() else platform.machine()
    cpu = re.search(r"^(flags|Features)\s*:.*$", told, re.MULTILINE)
    name = hashlib.sha256((cpu[0] if cpu else told).encode()).hexdigest()[:8]
    return Path(__file__).parents[1] / ".pytest_cache" / f"xla-{metadata.version('jaxlib')}-{name}"


_KEPT, _KEPT_BYTES = _kept(), 2 * 2**30
_CACHE = tempfile.TemporaryDirectory(prefix="jaxoff-tests-")
# Before JAX starts, so that subprocesses and the command line use them too. Programs here run for
# milliseconds, and compiling is nearly all of a test's time.
os.environ["XDG_CACHE_HOME"] = _CACHE.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_KEPT)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling takes two thirds of the time without the emitters of fusions, and of that three quarters
# where a program's code is one piece. The code is slower, for the few tests that run long. XLA ends
# the process for a flag that it does not know, as those of later versions than the pinned one.
if metadata.version("jaxlib").startswith("0.10."):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"

import jax  # noqa: E402
import pytest  # noqa: E402

from jaxoff import registry  # noqa: E402
from jaxoff.names import DataOptions, Task  # noqa: E402
from jaxoff.training import Results, growth, loop, program, restore, train  # noqa: E402
from tests import learners  # noqa: E402

# What is imported stays, so that the collector need not look through it, and tracing makes many
# objects that are gone soon.
gc.freeze()
gc.set_threshold(100_000, 20, 100)


def pytest_configure(config):
    """Drop the programs that were read least lately, and those whose writing was broken off; by the
    process that starts the others.
    """
    if hasattr(config, "workerinput") or not _KEPT.exists():
        return
    files = sorted((file.stat().st_atime, file.stat().st_size, file) for file in _KEPT.iterdir())
    extra = sum(size for _, size, _ in files) - _KEPT_BYTES
    for _, size, file in files:
        if extra > 0 or size == 0:
            file.unlink(missing_ok=True)
            extra -= size


@pytest.fixture(autouse=True, scope="module")
def fast_compilation():
    """Without XLA's optimisations: most programs here are run a few times only, so that compiling
    them is the cost.

    A file's programs go with it: each holds memory mappings, and a process may have 65,530 of them,
    beyond which it crashes.
    """
    with learners.quick():
        yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def optimised():
    """With XLA's optimisations, for thousands of updates."""
    with learners.quick(False):
        yield


@pytest.fixture(scope="module")
def kept_programs():
    """Stages of equal trainings are traced once in a file, for tests that train the same job again
    and again. Not for tests that change what is traced.
    """
    kept: dict[Any, program.Program] = {}

    def made(job, env, index, updates, mesh, mode, evaluates):
        spec = dataclasses.replace(job.spec, seeds=(0,), evaluations=1, checkpoint_s=60.0)
        static = jax.tree.structure((job.config, job.sampler_config))
        known = (repr(spec), static, job.longest, id(job.module), id(job.sampler_module))
        key = (*known, index, updates, mesh, mode, evaluates)
        if key not in kept:
            kept[key] = program.Program(job, env, index, updates, mesh, mode, evaluates)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (growth, loop, restore):
            patch.setattr(module, "Program", made)
        yield


_MADE: dict[Any, Any] = {}  # datasets by what they are made from


@pytest.fixture(scope="module")
def kept_data():
    """Datasets of recipes are made once, for tests that train on the same ones again and again;
    nobody can change them. Not for tests of how they are made.
    """
    make = registry.make_data

    def made(task, options=DataOptions()):  # noqa: B008 (immutable)
        parsed = Task.parse(task) if isinstance(task, str) else task
        if parsed.source or parsed.folder:
            return make(task, options)
        key = (registry.family_of(parsed), parsed, options._replace(progress=None))
        if key not in _MADE:
            _MADE[key] = make(task, options)
            for array in jax.tree.leaves(_MADE[key]):
                array.setflags(write=False)
        elif options.progress:
            options.progress(len(_MADE[key].filled), len(_MADE[key].filled))
        return _MADE[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "make_data", made)
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """name of a form -> (results, folder) of its unbroken job, trained when first asked for."""
    done: dict[str, Results] = {}

    def get(name: str) -> Results:
        if name not in done:
            with learners.quick():
                done[name] = train(learners.FORMS[name].spec, tmp_path_factory.mktemp(name) / "job")
        return done[name]

    return get
