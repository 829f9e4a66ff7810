"""The folder of a job: whose it is, what another command may make of it, and who writes in it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxoff import files, runtime
from jaxoff.config import BUDGETS
from jaxoff.data import folders
from jaxoff.data.edit import digest
from jaxoff.errors import InvalidSetting
from jaxoff.names import Task
from jaxoff.training import results
from jaxoff.training.results import ADDED, MERGED
from jaxoff.training.spec import Job
from jaxoff.types import Env, Episodes

# Fields of config.json that may differ between two runs of one job.
LOOSE = {
    "command",
    "hardware",
    "git_commit",
    "versions",
    "checkpoint_s",
    "mode",
    "size",  # what it sets is in `config`
    "data_dir",
    "folder",
    "grown_from",
}
# Fields that change when a job is extended.
GROWS = {"seeds", "grid", "num_runs", "steps", "config.steps", "parts", "order"}
FILES = ("config.json", "metrics.jsonl", "history.npz", "final.json", "final.npz")
# what to do where a folder holds another job
ANEW = "give --overwrite to start anew, or another folder, which --out names, or else --label"
STAGE = 1_000_000_000  # the number of a checkpoint is that of its stage times this, plus updates


def describe(job: Job, data: Episodes | None, env: Env) -> dict[str, Any]:
    """The content of config.json: the job, its data and machine, and the version of the code."""
    return _asked(job, env) | {
        "data": None
        if data is None
        else {
            "sha256": digest(data),
            "episodes": len(data.filled),
            "steps": int(np.sum(data.filled)),
            "longest": int(np.sum(data.filled, 1).max()),
            "individual": data.agent_reward is not None,
        },
        "command": runtime.command(),
        "hardware": runtime.hardware(),
        "git_commit": runtime.git_commit(),
        "versions": runtime.versions(),
    }


def _asked(job: Job, env: Env | None) -> dict[str, Any]:
    """What config.json tells of a job itself; env: only for a task that is a dataset folder."""
    spec = dataclasses.asdict(job.spec) | ({} if env is None else _own_data(job, env))
    if "folder" not in spec:
        del spec["env"]  # which is the task's own
    config = {f.name: getattr(job.config, f.name) for f in dataclasses.fields(job.config)}
    return spec | {
        "variant": job.spec.label,
        "seeds": list(job.spec.seeds),
        "config": {
            name: _typed(np.unique(value)) if hasattr(value, "shape") else value
            for name, value in config.items()
        },
        "sampler_config": {
            name: _typed(value) if hasattr(value, "shape") else value
            for name, value in vars(job.sampler_config).items()
        },
        "num_runs": job.num_runs,
    }


def _own_data(job: Job, env: Env) -> dict[str, Any]:
    """What config.json tells of a task that is a dataset folder, which may be gone later.

    task: its name. folder: its path. env: the task whose environment evaluates, "" if none does.
    env_spec: the specification.
    """
    task = Task.parse(job.spec.task)
    if not task.folder:
        return {}
    about = {"task": str(task), "folder": task.folder, "env": folders.named(task, job.spec.env)}
    return about | {"env_spec": folders.record_of(env.spec)}


def _typed(value: Any) -> Any:
    """Numbers of float32 in their shortest decimal form: .0003 and not .0003000000142."""
    found = np.asarray(value)
    return [float(str(x)) for x in found.ravel()] if found.ndim else float(str(found[()]))


def identity(record: dict[str, Any]) -> str:
    """SHA-256 that identifies a job: of its config.json without how and where it was run."""
    kept = {name: value for name, value in record.items() if name not in LOOSE}
    return hashlib.sha256(json.dumps(files.plain(kept), sort_keys=True).encode()).hexdigest()


class Plan(NamedTuple):
    """What a command makes of a folder.

    record: the content of config.json. grown: what it is once runs are added, if any are. order:
    which run of the job, in the order of its grid and seeds, is each run of the folder. held: how
    many runs the folder has; the rest are added to these. owners: the identities of the jobs whose
    files are this job's. steps: number of updates that the folder has, where the job is extended to
    more of them, else None. writes: whether config.json is still to be written.
    """

    record: dict[str, Any]
    grown: dict[str, Any] | None
    order: list[int]
    held: int
    owners: list[str]
    steps: int | None
    writes: bool

    def jobs(self, job: Job) -> tuple[Job, Job | None]:
        """The job of the runs that the folder has, and of those that are added, if any."""
        parts = tuple((int(steps), int(number)) for steps, number in self.record.get("parts", ()))
        job = dataclasses.replace(job, parts=parts)
        if self.order == list(range(job.num_runs)) and self.held == job.num_runs:
            return job, None
        added = self.order[self.held :]
        return job.select(self.order[: self.held]), job.select(added, self.held) if added else None


def plan(out: Path, wanted: dict[str, Any], extend: bool = False, fresh: bool = False) -> Plan:
    """What a job, whose config.json would be `wanted`, makes of a folder; nothing is written.

    extend: updates, seeds and grid points that the folder lacks are added. fresh: what the folder
    holds is replaced. Raises InvalidSetting if the folder holds another job, BrokenResult if its
    config.json is damaged.
    """
    wanted = json.loads(json.dumps(files.plain(wanted)))
    file, mine, count = out / "config.json", identity(wanted), wanted["num_runs"]
    new = Plan(wanted, None, list(range(count)), count, [mine], None, True)
    if fresh:
        return new
    if not file.exists():
        if (out / "final.json").exists():  # config.json was lost
            check_owner(
                out / "final.json", results.read_json(out / "final.json").get("job"), [mine]
            )
        return new
    held = results.read_config(out, ("config", "grid", "seeds", "evaluations"))
    if not _trained(out):  # a job that failed before its first checkpoint leaves its folder
        return new
    runs, there = _runs(file, wanted), _runs(file, held)
    steps, had = (record["config"].get("steps") or 0 for record in (wanted, held))
    if not isinstance(had, int):
        raise results.broken(f"{file}: field 'config'", "a whole number of steps", repr(had))
    longer = steps > had
    _check_same(file, wanted, held, {"evaluations"} if longer else set())
    missing = [run for run in runs if run not in there]
    if missing or longer or set(runs) != set(there) or steps != had:
        asked, holds = _told(wanted, runs), _told(held, there)
        less = set(there) - set(runs) or steps < had
        if less or not extend:
            mend = "ask for all that it holds" if less else "add --extend to train what is missing"
            raise InvalidSetting(
                f"{file}: you asked for {asked}; the folder holds {holds}; {mend}, or {ANEW}"
            )
        if missing and longer:
            raise InvalidSetting(
                f"{file}: you asked for {asked}; the folder holds {holds}; expected more updates "
                "or more runs, found both: extend to one of them first, and then to the other"
            )
    order = [runs.index(run) for run in (*there, *missing)]
    owners = [identity(held), mine, *held.get("grown_from", [])]
    if longer:
        return Plan(_longer(wanted, held), None, order, len(order), owners, had, True)
    grown = None
    if missing:
        grown = wanted | {name: held[name] for name in ("parts", "grown_from") if name in held}
        grown |= _origins(held, wanted)
        grown |= {"order": order} if order != sorted(order) else {}
    return Plan(held, grown, order, len(there), owners, None, False)


def _longer(wanted: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    """The record of a held job that is extended to the updates of another record."""
    part = [held["config"]["steps"], held["evaluations"]]
    changed = {
        "config": held["config"] | {"steps": wanted["config"]["steps"]},
        "parts": [*held.get("parts", []), part],
        "grown_from": [*held.get("grown_from", []), identity(held)],
    }
    same = {"steps", "evaluations", *LOOSE} - {"grown_from"}
    found = {name: wanted[name] for name in same if name in wanted}
    return held | found | changed | _origins(held, wanted)


def _origins(held: dict[str, Any], wanted: dict[str, Any]) -> dict[str, str]:
    """Command, hardware and commit of what a folder holds and, where they differ, of what a later
    command adds.
    """
    found = {}
    for name in ("command", "hardware", "git_commit"):
        before, now = held.get(name, ""), wanted.get(name, "")
        known = not before or not now or f", {now}," in f", {before},"
        found[name] = (before or now) if known else f"{before}, {now}"
    return found


def resumed(out: Path, held: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Write and return the record of a stopped job that this command continues, with its origin."""
    record = held | _origins(held, wanted)
    if record != held:
        results.write_json(out / "config.json", record)
    return record


def _told(record: dict[str, Any], runs: list[tuple[Any, int]]) -> str:
    grid = [
        f"{name}={','.join(f'{_number(value):g}' for value in values)}"
        for name, values in record["grid"].items()
    ]
    seeds = ", ".join(map(str, record["seeds"]))
    return ", ".join([f"{record['config'].get('steps')} updates", f"seeds {seeds}", *grid])


def _runs(file: Path, record: dict[str, Any]) -> list[tuple[Any, int]]:
    """Grid point and seed of every run of a folder, in the order of its runs."""
    try:
        names = list(record["grid"])
        points = [
            tuple(sorted(zip(names, map(_number, point), strict=True)))
            for point in itertools.product(*record["grid"].values())
        ]
        every = [(point, int(seed)) for point in points for seed in record["seeds"]]
        return [every[run] for run in record.get("order", range(len(every)))]
    except (LookupError, TypeError, ValueError) as error:
        raise results.broken(file, "seeds, grid and order of a job", error) from error


def _number(value: Any) -> float:
    """A value of a grid as float32 has it; JSON has null for infinity."""
    return float(np.float32(np.inf if value is None else value))


def _check_same(file: Path, wanted: dict[str, Any], held: dict[str, Any], free: set[str]) -> None:
    """Raise InvalidSetting for the first field, but those that grow, in which two jobs differ."""
    fields = set(wanted["grid"])
    same_grid = fields == set(held["grid"])
    free = free | GROWS | {f"config.{name}" for name in fields if same_grid}
    for name, expected, found in _differences(wanted, held):
        # Folders of earlier versions record less about the data.
        if found is None and name in ("data.longest", "data.individual"):
            continue
        grown = name in free or (same_grid and name.startswith("grid."))
        if name.partition(".")[0] not in LOOSE and not grown:
            raise InvalidSetting(
                f"{file}: field '{name}': expected {expected!r}, found {found!r}; the folder holds "
                f"another job: {ANEW}"
            )


def check_owner(file: Path, found: Any, owners: list[str]) -> None:
    """Raise InvalidSetting unless `found`, the identity in a file, is one of the given ones."""
    if found not in owners:
        raise InvalidSetting(
            f"{file}: expected what this job has written, found what another has; "
            "choose another folder, or --overwrite to start anew"
        )


def _differences(
    wanted: dict[str, Any], found: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(field, wanted, found) for each field in which two records differ, in order.

    Names of nested fields are joined by dots, such as `config.lr`.
    """
    for name, value in wanted.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(dict.fromkeys(other) | value, other, f"{prefix}{name}.")
        elif not _same(value, other):
            yield prefix + name, value, other


def _same(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal; floats are compared as float32."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, float) and isinstance(other, float):
        return bool(np.float32(value) == np.float32(other))
    return bool(value == other)


# --------------------------------------------------------------------------- files of the folder


def checkpoints_in(out: Path) -> list[int]:
    """The numbers of the complete checkpoints of a folder."""
    folder = out / "checkpoint"
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())


def _trained(out: Path) -> bool:
    """Whether a folder has anything that a later command could use."""
    return (out / "final.json").exists() or bool(checkpoints_in(out))


def complete(out: Path, record: dict[str, Any], last: int) -> bool:
    """Whether a folder has the results of its job, not only those from before it was extended.

    last: the number of the last checkpoint. It may be missing only with all other checkpoints, as
    in a copy of results; otherwise the process was stopped while it was written.
    """
    if not (out / "final.json").exists():
        return False
    job = results.read_json(out / "final.json").get("job")
    saved = last in checkpoints_in(out) or not (out / "checkpoint").is_dir()
    return saved and job not in record.get("grown_from", [])


def finished(job: Job, out: Path, extend: bool = False) -> bool:
    """Whether a folder has the results of a job, told without its data and its programs.

    What only the data can tell is taken from the folder. extend: results of a part of the job are
    not those of another one. Raises InvalidSetting if the folder has another job, BrokenResult if a
    file is damaged.
    """
    if not ((out / "config.json").exists() and (out / "final.json").exists()):
        return False
    held = results.read_config(out, ("config", "grid", "seeds", "evaluations"))
    wanted = _asked(job, job.spec.environment() if Task.parse(job.spec.task).folder else None)
    wanted["data"] = held.get("data")
    for slots, updates in BUDGETS.items():
        if wanted["config"].get(slots):
            wanted["config"][updates] = held["config"].get(updates)
    made = plan(out, wanted, extend)
    if made.steps is not None or made.held < job.num_runs:
        return False
    runs = results.read_json(out / "final.json", {"runs": list})["runs"]
    saved = checkpoints_in(out)
    ended = bool(saved) and saved[-1] % STAGE == runs[0].get("updates")
    return complete(out, made.record, saved[-1] if ended else -1)


def begin(out: Path, made: Plan, fresh: bool = False) -> None:
    """Make a folder that of a plan's job."""
    if not made.writes:
        return
    if fresh or ((out / "config.json").exists() and not _trained(out)):
        for name in (*FILES, "evaluations.json"):
            (out / name).unlink(missing_ok=True)
        for name in ("checkpoint", ADDED, MERGED):
            if (out / name).exists():
                shutil.rmtree(out / name)
    results.write_json(out / "config.json", made.record)


def begin_added(out: Path, grown: dict[str, Any], last: int) -> None:
    """Make the folder of runs that are added to a job, whose last checkpoint is also needed.

    Raises InvalidSetting if the folder has other runs, BrokenResult without that checkpoint.
    """
    if last not in checkpoints_in(out):
        found = checkpoints_in(out) or "none"
        raise results.broken(out / "checkpoint", f"checkpoint {last} to add runs to", found)
    file = out / ADDED / "config.json"
    if not file.exists():
        results.write_json(file, grown)
    elif identity(results.read_config(out / ADDED)) != identity(grown):
        raise InvalidSetting(
            f"{file}: expected the runs that you asked for, found others that are still to be "
            f"added; complete these first, or remove {file.parent}"
        )


def clean(out: Path, certain: bool) -> None:
    """Remove what killed processes have left, and complete the addition of runs to the folder.

    certain: whether this process has the lock of the folder, so that no other writes checkpoints.
    """
    for place in (out, out / ADDED) if certain else ():
        files.clean(place)
        for path in (place / "checkpoint").glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)
    complete_addition(out)


def complete_addition(out: Path) -> None:
    """Move the files of a folder with added runs to their places; may be stopped at any time."""
    merged, added = out / MERGED, out / ADDED
    if merged.exists():
        for name in ("checkpoint", "metrics.jsonl", "final.npz", "final.json", "config.json"):
            if (merged / name).exists():
                if (out / name).is_dir():
                    shutil.rmtree(out / name)
                (merged / name).replace(out / name)
        merged.rmdir()
    if added.exists() and (out / "config.json").exists():
        owned = [(each / "config.json") for each in (added, out)]
        if all(file.exists() for file in owned):
            mine, whole = (identity(results.read_config(file.parent)) for file in owned)
            if mine == whole:  # these runs are in the folder
                shutil.rmtree(added)


_warned = False


@contextlib.contextmanager
def locked(out: Path) -> Iterator[bool]:
    """Keep other processes from writing in a folder; gives whether that is certain.

    The kernel releases the lock when this process ends in any way. Where the file system has no
    locks, a warning is printed once, and the value is False, as it is for a folder that can only be
    read. Raises InvalidSetting while another process holds the lock.
    """
    global _warned
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        yield False
        return
    file, certain = out / ".lock", True
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InvalidSetting(
                f"{out}: expected a folder that no other process writes in, found one that a "
                "process is training in; wait until it ends, or choose another folder"
            ) from None
        except OSError as error:
            certain = False
            if not _warned:
                print(f"jaxoff: {out}: can't be locked ({error.strerror})", file=sys.stderr)
            _warned = True
        if not certain or _is(file, handle):
            break
        os.close(handle)  # its last owner has removed the file in the meantime
    try:
        yield certain
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def _is(file: Path, handle: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False
