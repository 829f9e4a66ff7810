"""Bad input: each kind ends with status 2 and one line that names it, and leaves no file behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from jaxoff.experiments.drill import Drill

PROGRESS = "%)"  # how a line of progress ends, which may stand before an error
REFUSED_S = 90  # longest time in which bad input must be refused
TINY = "--seeds 2 --steps 4 --evaluations 2 --eval-episodes 2 --set hidden=4 --set batch_size=8"


class Kind(NamedTuple):
    """A kind of bad input: a command line, what its line must say, and the damage done before."""

    name: str
    args: str
    says: str
    damage: Callable[[Path], object] | None = None


def _write(name: str, content: bytes | str) -> Callable[[Path], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def _cut(name: str) -> Callable[[Path], object]:
    """Keep the first half of a file."""

    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def _field(name: str, field: str, value: object) -> Callable[[Path], object]:
    """Replace a field of a JSON file."""

    def damage(folder: Path) -> None:
        record = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(record | {field: value}))

    return damage


def _garbage(name: str) -> Callable[[Path], object]:
    """Overwrite every file below a folder."""

    def damage(folder: Path) -> None:
        for path in (folder / name).rglob("*"):
            if path.is_file():
                path.write_bytes(b"x")

    return damage


def _module(name: str) -> Callable[[Path], object]:
    """A package that cannot be imported, as if it were not installed."""
    text = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
    return _write(f"{name}.py", text)


XOR, DATA = "train bc matrix/xor/c", "train bc matrix/xor/c --data data"
JOB = f"train bc matrix/xor/c {TINY} --out job"
KINDS = (
    # names
    Kind("unknown method", "train nosuch matrix/xor/c", "unknown method 'nosuch'"),
    Kind("unknown family", "train bc nosuch/xor/c", "unknown task family 'nosuch'"),
    Kind("unknown scenario", "train bc smax/4m/medium", "4m"),
    Kind("unknown quality", "train bc matrix/xor/q", "matrix/xor/q"),
    Kind("composition of too few agents", "train bc smax/3m/mix=[r]", "expected 3 agents"),
    Kind("method without a form for the task", "train cql matrix/xor/c", "cql"),
    Kind("unknown sampler", f"{XOR} --sampler nosuch", "unknown sampler 'nosuch'"),
    # settings
    Kind("unknown setting", f"{XOR} --set nosuch=1", "nosuch"),
    Kind("setting of another form", "train omar mpe/spread/random --grid trace=.1,.9", "'trace'"),
    Kind("word for a number", f"{XOR} --set lr=fast", "lr: expected float, found 'fast'"),
    Kind("unknown word", f"{XOR} --set layer_init=torhc", "found 'torhc'; nearest: torch"),
    Kind("not a number", f"{XOR} --set lr=nan", "'lr': expected a finite number"),
    Kind("infinity", f"{XOR} --set lr=1e400", "'lr': expected a finite number"),
    Kind("too large for float32", f"{XOR} --set lr=1e39", "'lr': expected a number that float32"),
    Kind("negative rate", f"{XOR} --set lr=-1", "'lr': expected at least 0"),
    Kind("empty batch", f"{XOR} --set batch_size=0", "'batch_size': expected at least 1"),
    Kind("fraction for a whole number", f"{XOR} --set batch_size=2.5", "batch_size: expected int"),
    Kind("batch beyond 32 bits", f"{XOR} --set batch_size=1000000000000", "'batch_size'"),
    Kind("impossible window", f"{XOR} --set window=-7", "'window': expected at least -1"),
    Kind("discount above 1", "train qmix matrix/xor/c --set gamma=7", "'gamma': expected 0 to 1"),
    Kind("no updates", f"{XOR} --steps 0", "'steps': expected a whole number of at least 1"),
    Kind("updates given twice", f"{XOR} --steps 4 --set steps=5", "'steps': expected once"),
    Kind("set and swept", f"{XOR} --set lr=.1 --grid lr=.1,.2", "'lr': expected in --set,"),
    Kind("equal values in a grid", f"{XOR} --grid lr=.001,.0010000000001", "'lr': expected values"),
    Kind("equal sizes in a grid", f"{XOR} --grid hidden=64,064", "'hidden': expected values"),
    Kind("equal seeds", f"{XOR} --seeds 3,3", "'seeds': expected distinct"),
    Kind("seed beyond 32 bits", f"{XOR} --seeds 4294967296,", "'seeds': expected distinct"),
    Kind("negative seed", f"{XOR} --seeds=-1,", "'seeds': expected distinct"),
    Kind("priorities of nan", f"{XOR} --sampler pjap --sampler-set alpha=nan", "'alpha'"),
    Kind("negative floor", f"{XOR} --sampler pjap --sampler-set eps=-1", "'eps': expected at"),
    Kind("setting of no sampler", f"{XOR} --sampler-set alpha=1", "'alpha'"),
    Kind("sampler beside a method's own", "train sit mpe/CN_3ls3l/random --sampler pjap", "'samp"),
    # datasets
    Kind("no dataset", f"{XOR} --data nowhere", "nowhere"),
    Kind("file for a dataset", f"{XOR} --data file", "file", _write("file", "x")),
    Kind("metadata cut", DATA, "metadata.json", _cut("data/metadata.json")),
    Kind("metadata not text", DATA, "metadata.json", _write("data/metadata.json", b"\xff\xfe")),
    Kind("metadata a list", DATA, "metadata.json", _write("data/metadata.json", "[]")),
    Kind("a word for a length", DATA, "metadata.json", _field("data/metadata.json", "steps", "x")),
    Kind("an absurd length", DATA, "metadata.json", _field("data/metadata.json", "steps", 10**9)),
    Kind("arrays damaged", DATA, "data", _garbage("data/d")),
    Kind("data of another task", "train bc grid/bridge/mixed --data data", "expected"),
    Kind("dataset in the way", "data make matrix/xor/c --out made", "made"),
    Kind("file for a folder", "data make matrix/xor/c --out file", "file", _write("file", "x")),
    Kind("name too long", f"data make matrix/xor/c --out {'n' * 300}", "n" * 300),
    Kind("folder that takes no files", "data make matrix/xor/c --out /proc/data", "/proc/data"),
    Kind("dataset without episodes", "data make matrix/xor/c --episodes 0", "episodes"),
    Kind("no folder of pools", "data make smax/3m/medium --pools nowhere", "nowhere"),
    Kind("task without policies", "data pool grid/bridge", "grid/bridge"),
    Kind("no public data", "train bc og_marl:smac_v1/3m/Good", "data"),
    # results
    Kind("no results", "evaluate nowhere", "nowhere"),
    Kind("report of nothing", "report nowhere", "nowhere"),
    Kind("no such run", "evaluate job --runs 7", "7"),
    Kind("word for a run", "evaluate job --runs x", "--runs"),
    Kind("no episodes", "evaluate job --episodes 0", "'episodes': expected at least 1"),
    Kind("two protocols", "evaluate job --greedy --sampled", "expected one of the two"),
    Kind("folder of another job", f"{JOB} --set lr=.5", "lr"),
    Kind("record cut", "evaluate job", "config.json", _cut("job/config.json")),
    Kind("record empty", "play job", "config.json", _write("job/config.json", "{}")),
    Kind("results cut", JOB, "final.json", _cut("job/final.json")),
    Kind("results of another type", JOB, "final.json", _write("job/final.json", '{"runs": 5}')),
    Kind("arrays cut", JOB, "final.npz", _cut("job/final.npz")),
    Kind("checkpoint damaged", "play job", "checkpoint", _garbage("job/checkpoint")),
    Kind("evaluations damaged", "evaluate job", "evaluations", _write("job/evaluations.json", "[")),
    # programs
    Kind("W&B not installed", f"{XOR} {TINY} --wandb offline", "wandb", _module("wandb")),
)


def drill(out: Path) -> Drill:
    """Give every kind of bad input once, each in a folder of its own."""
    base = out / "base"
    base.mkdir(parents=True)
    for args in (JOB, "data make matrix/xor/c --out made"):
        done = _command(args.split(), base)
        if done.returncode:
            raise RuntimeError(f"jaxoff {args}: {done.stderr[-2000:]}")
    shutil.copytree(base / "made/matrix-xor-c.vlt/seed-0", base / "data")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda kind: _try(kind, base, out), KINDS))
    rows = [
        (kind.name, f"`{_short(kind.args)}`", text, "yes" if held else "NO")
        for kind, (held, text) in zip(KINDS, found, strict=True)
    ]
    return Drill(
        "kinds of bad input",
        "status 2, one line that names it, no file left behind",
        len(KINDS),
        sum(held for held, _ in found),
        ("kind", "command", "what it says", "held"),
        rows,
    )


def _try(kind: Kind, base: Path, out: Path) -> tuple[bool, str]:
    """Whether a kind of bad input is refused as it must be, and what was said."""
    folder = out / f"input-{kind.name.replace(' ', '-')}"
    shutil.copytree(base, folder)
    if kind.damage is not None:
        kind.damage(folder)
    before = _files(folder)
    try:
        done = _command(kind.args.split(), folder)
    except subprocess.TimeoutExpired:
        return False, f"no end within {REFUSED_S} s"
    lines, left = done.stderr.strip().splitlines(), _files(folder) - before
    while len(lines) > 1 and lines[0].endswith(PROGRESS):
        del lines[0]
    right = done.returncode == 2 and len(lines) == 1 and kind.says in lines[0] and not left
    text = lines[-1].removeprefix("jaxoff: error: ") if lines else "nothing"
    if not right:
        text = f"status {done.returncode}, {len(lines)} lines, left {sorted(left)}: {text}"
    return right, _short(text.replace(f"{folder}/", ""))


def _command(args: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jaxoff.cli", *args],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=REFUSED_S,
    )


def _files(folder: Path) -> set[tuple[str, int]]:
    """Every file below a folder with its size, without what Python keeps for itself."""
    paths = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {(str(p.relative_to(folder)), p.stat().st_size if p.is_file() else -1) for p in paths}


def _short(text: str) -> str:
    text = text.replace("|", r"\|")
    return text if len(text) <= 160 else f"{text[:157]}..."
