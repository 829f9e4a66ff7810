"""Settings to make before JAX starts, and descriptions of the machine that made a result."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def setup(cpu_devices: int | None = None, cache: bool = True) -> None:
    """Set one host device per core, and the persistent compilation cache.

    Call it once, before the first array is made: once JAX has started, it keeps its devices. On a
    CPU, runs are sharded over host devices, so that each core trains its own runs (see
    training.mapping). cache: keep compiled programs in the user's cache folder.
    """
    import jax

    with contextlib.suppress(RuntimeError):  # raised if JAX has already started
        jax.config.update("jax_num_cpu_devices", cpu_devices or len(os.sched_getaffinity(0)))
    if cache:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "jaxoff" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


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


_PACKAGES = ("jaxoff", "jax", "jaxlib", "flax", "optax", "distrax", "jaxmarl", "flashbax")


def versions(*packages: str) -> dict[str, str]:
    """Versions of the named packages; by default of those that results depend on."""
    found = {}
    for name in packages or _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
