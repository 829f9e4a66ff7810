"""Shared by the training tests: fast compilation, one cache of compiled programs, jobs trained
once.
"""

from __future__ import annotations

import gc
import os
import tempfile
from importlib import metadata
from pathlib import Path

_CACHE = tempfile.TemporaryDirectory(prefix="jaxoff-tests-")
# Before JAX starts, so that subprocesses and the command line use them too. Programs here run for
# milliseconds, and compiling is nearly all of a test's time.
os.environ["XDG_CACHE_HOME"] = _CACHE.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(_CACHE.name) / "jaxoff" / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling takes two thirds of the time without the emitters of fusions. Their code is faster, for
# the few tests that run long. XLA ends the process for a flag that it does not know, as those of
# later versions than the pinned one.
if metadata.version("jaxlib").startswith("0.10."):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {flags}"

import jax  # noqa: E402
import pytest  # noqa: E402

from jaxoff.training import Results, train  # noqa: E402
from tests import learners  # noqa: E402


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
