"""Settings to make before JAX starts, and descriptions of the machine that made a result."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def setup(cpu_devices: int | None = None, cache: bool = True) -> bool:
    """Set one host device per core, and the persistent compilation cache.

    Call it before the first array is made: once JAX has started, it keeps its devices. On a CPU,
    runs are sharded over host devices, so that each core trains its own runs (see
    training.mapping). cpu_devices: number of host devices; by default one per core, or what the
    user has told JAX. cache: keep compiled programs in the user's cache folder, or where the user
    has told JAX to. Returns whether the devices are those that were asked for.
    """
    import jax

    told: Any = jax.config  # its settings are attributes that type checkers do not know
    wanted, set_up = cpu_devices or len(os.sched_getaffinity(0)), True
    flag = "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if cpu_devices or not (flag or told.jax_num_cpu_devices >= 0):
        try:
            jax.config.update("jax_num_cpu_devices", wanted)
        except RuntimeError:  # JAX has already started
            set_up = jax.default_backend() != "cpu" or jax.local_device_count() >= wanted
    if cache and told.jax_compilation_cache_dir is None:
        from jax.experimental.compilation_cache import compilation_cache

        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "jaxoff" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        compilation_cache.reset_cache()  # JAX has no cache any more once it compiled without one
    return set_up


def hardware() -> str:
    """The machine in one line: devices, processor, cores."""
    import jax

    device = jax.devices()[0]
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass
    kind = "" if device.platform == "cpu" else f"{len(jax.devices())} x {device.device_kind}, "
    return f"{kind}{len(os.sched_getaffinity(0))} cores of {processor}"


def command() -> str:
    """The command line as it was typed, without the machine's paths to programs."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = (
        f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
    )
    return " ".join([program, *sys.argv[1:]])


@functools.cache
def git_commit() -> str:
    """The commit of jaxoff's own source tree, with `-dirty` if files were changed since.

    For an installed jaxoff it is the commit that pip installed, or else the version, and never the
    commit of a repository that happens to contain the Python environment.
    """
    root = Path(__file__).resolve().parent.parent
    if not ((root / ".git").exists() and (root / "pyproject.toml").exists()):
        origin = json.loads(metadata.distribution("jaxoff").read_text("direct_url.json") or "{}")
        commit = origin.get("vcs_info", {}).get("commit_id", "")
        return commit[:12] or f"version {metadata.version('jaxoff')}"
    call = functools.partial(subprocess.run, cwd=root, capture_output=True, text=True, check=True)
    try:
        commit = call(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        dirty = call(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("-dirty" if dirty else "")


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {
        name: metadata.version(name)
        for name in ("jaxoff", "jax", "jaxlib", "flax", "optax", "distrax", "jaxmarl", "flashbax")
    }
