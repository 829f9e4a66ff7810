"""Settings to make before JAX starts, and descriptions of the machine that made a result."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxoff.errors import InvalidFile, MissingProgram


def cores() -> list[int]:
    """The numbers of the cores that this process may use; all of them on a system that, such as
    macOS, does not bind processes to cores.
    """
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def setup(cpu_devices: int | None = None, cache: bool = True) -> bool:
    """Set one host device per core, the persistent compilation cache, and a garbage collector that
    rarely runs.

    Call it before the first array is made: once JAX has started, it keeps its devices. On a CPU,
    runs are sharded over host devices, so that each core trains its own runs (see
    training.mapping). cpu_devices: number of host devices; by default one per core, or what the
    user has told JAX. cache: keep compiled programs in the user's cache folder, or where the user
    has told JAX to. Returns whether the devices are those that were asked for.
    """
    import jax

    collect_rarely()
    told: Any = jax.config  # its settings are attributes that type checkers do not know
    wanted, set_up = cpu_devices or len(cores()), True
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


def collect_rarely() -> None:
    """Have the garbage collector run rarely.

    Imports and tracing make many objects at once, few of them garbage; to look for garbage among
    them took 5 % of the CPU time of a small training.
    """
    gc.set_threshold(100_000, 20, 100)


@functools.cache
def own_process() -> None:
    """Settings of a process that only runs a command of ours; call it before the imports.

    The garbage collector runs rarely, and not at the end: the system frees the memory of a process
    at once, and to look for garbage in what JAX and others have imported took 0.6 s.
    """
    collect_rarely()
    atexit.register(gc.freeze)


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
    count = len(cores())
    return f"{kind}{count} core{'' if count == 1 else 's'} of {processor}"


def free_bytes() -> int | None:
    """Bytes that a program may still allocate on the first device; None where nobody tells.

    On a CPU, that is the machine's available memory, which all host devices share.
    """
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return free_memory_bytes()


_SENT_BY: list[str] = []  # the command that this process works for, if it is a part of one


def work_for(line: str) -> None:
    """Have `command` give the line that was typed elsewhere, of which this process does a part."""
    _SENT_BY[:] = [line]


def command() -> str:
    """The command line as it was typed, without the machine's paths to programs."""
    if _SENT_BY:
        return _SENT_BY[0]
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


@contextlib.contextmanager
def needs(user: str) -> Iterator[None]:
    """Imports of packages that may be missing: raises MissingProgram, which says how to get one.

    user: what needs the package. A package that lacks a name is another version than the one that
    is needed. An import of one of jaxoff's own modules that fails is a fault of the program, and
    keeps its ImportError.
    """
    try:
        yield
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        if package in ("None", "jaxoff"):
            raise
        absent = isinstance(error, ModuleNotFoundError)
        found = "none" if absent else f"another version ({error})"
        raise MissingProgram(
            f"{user}: expected the package '{package}', found {found}; run {install_line(package)}"
        ) from error


def install_line(package: str) -> str:
    """The command that installs an imported package: by jaxoff's extra that brings it, if any."""
    name = _DISTRIBUTIONS.get(package, package)
    plain = lambda text: re.sub(r"[-_.]+", "-", text).lower()
    for line in metadata.requires("jaxoff") or []:
        wanted, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"](\w+)['\"]", line)
        if wanted and extra and extra[1] != "dev" and plain(wanted[0]) == plain(name):
            return f"pip install 'jaxoff[{extra[1]}]'"
    return f"pip install {plain(name)}"


# Imported names that are not those of the packages that bring them.
_DISTRIBUTIONS = {"PIL": "pillow", "gymnasium": "gymnasium-robotics"}


def free_memory_bytes() -> int | None:
    """Memory that this process may still allocate without swapping; None where it is not known."""
    free = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        free.append(1024 * int(line.split()[1]))
    with contextlib.suppress(OSError, ValueError):  # the limit of a container
        free.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(free, default=None)


def check_memory(source: str, size_bytes: int, what: str = "a size of") -> None:
    """Raise InvalidFile where `size_bytes` are more than the free memory. source: who claims it."""
    free = free_memory_bytes()
    if free is not None and size_bytes > free:
        raise InvalidFile(
            f"{source}: expected {what} at most {free:,} bytes, the free memory, found a claim of "
            f"{size_bytes:,}"
        )


def check_file(path: str | Path, kind: str) -> Path:
    """The path of a file that exists. Raises FileNotFoundError, or InvalidFile for a folder."""
    path = Path(path)
    if path.is_dir():
        raise InvalidFile(f"{path}: expected {kind}, found a folder")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected {kind}, found none")
    return path


def check_folder(path: str | Path, kind: str) -> Path:
    """The path of a folder that exists. Raises FileNotFoundError, or InvalidFile for a file."""
    path = Path(path)
    if path.is_file():
        raise InvalidFile(f"{path}: expected {kind}, found a file")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected {kind}, found none")
    return path
