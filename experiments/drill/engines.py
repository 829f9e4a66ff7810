"""`python -m jaxoff.experiments.drill.engines ENGINE`: an experiment of four jobs by an engine,
whose processes are killed on the way, against the same experiment by processes of this machine.

With `slurm` a job is killed, one gets the signal to save, and the node goes down; run it by
`slurm.sh`. With `ray` and `local` two processes are killed, one by SIGKILL and one by SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxoff.experiments.drill import LIMIT_S, outcome, same

from jaxoff import engines, runtime
from jaxoff.engines import Assignment, experiment, table
from jaxoff.files import write_text
from jaxoff.report.load import load_run

FILE = """
title = "Two games"
tasks = ["matrix/xor/b", "matrix/xor/c"]
seeds = 2
steps = {steps}
checkpoint_s = 0.2
methods.BC = {{method = "bc"}}
methods.ICQ = {{method = "icq"}}
evaluation.evaluations = 4
"""
LONG, SHORT = 3000, 4  # updates of jobs that are killed, and of those whose overhead is measured
SETTINGS: dict[str, dict[str, Any]] = {
    "local": {"workers": 2},
    "slurm": {"cpus": 1, "time_min": 30, "poll_s": 0.5},
    "ray": {"num_cpus": 1},
}


class Told:
    """What an engine has told of jobs that have ended."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        print(f"  {text}", flush=True)
        self.lines.append(text)


def jobs(place: Path, steps: int) -> tuple[experiment.Experiment, list[Assignment]]:
    """The experiment with this many updates, its results below a folder."""
    place.mkdir(parents=True)
    file = Path(write_text(place / "experiment.toml", FILE.format(steps=steps)))
    found = experiment.read(file)
    return found, found.assignments(place / "jobs")


def page_of(place: Path, found: experiment.Experiment, sent: Sequence[Assignment]) -> str:
    """The table of the experiment as Markdown, without the lines that tell of this run."""
    table.write(found, [load_run(each.folder) for each in sent], place)
    lines = (place / "table.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


# ------------------------------------------------------------------------------------------ kills


class Victims:
    """The jobs that are still undisturbed."""

    def __init__(self, sent: Sequence[Assignment]) -> None:
        self.left = list(sent)

    def next(self) -> Assignment:
        """Wait until one of them has a checkpoint and still trains."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            for each in self.left:
                ended = (each.folder / "final.json").exists()
                if any(each.folder.glob("checkpoint/[0-9]*")) and not ended:
                    self.left.remove(each)
                    return each
            time.sleep(0.02)
        raise RuntimeError(f"no job could be disturbed within {LIMIT_S} s: use longer jobs")


def kill_process(assignment: Assignment, number: int) -> str:
    """Send a signal to the process of a job, found by its mark."""
    (mark,) = assignment.folder.glob(f"running-{socket.gethostname()}-*.json")
    os.kill(int(mark.stem.rpartition("-")[2]), number)
    return f"{signal.Signals(number).name} to the process of {assignment.name}"


def kill_in_queue(engine: Any, assignment: Assignment, word: str) -> str:
    """Have Slurm signal a job."""
    (key,) = [key for key, (_, sent) in engine.open.items() if sent is assignment]
    # KILL for a whole job would cancel it, which is not undone; for its step, it is a fault of it.
    key += ".0" if word == "KILL" else ""
    subprocess.run(["scancel", f"--signal={word}", key], check=True)
    return f"scancel --signal={word} to {assignment.name}"


def node_down(assignment: Assignment) -> str:
    """Take the node down while a job trains, and bring it back."""
    node = socket.gethostname().partition(".")[0]
    update = ["scontrol", "update", f"nodename={node}"]
    subprocess.run([*update, "state=down", "reason=drill"], check=True)
    time.sleep(2)
    # It may be back by itself, which is an error of the command then.
    subprocess.run([*update, "state=resume"], check=False, stderr=subprocess.DEVNULL)
    return f"the node went down with {assignment.name}"


def kills(name: str, engine: Any) -> list[Callable[[Assignment], str]]:
    """What is done to jobs, in this order."""
    if name == "slurm":
        return [
            lambda each: kill_in_queue(engine, each, "KILL"),
            lambda each: kill_in_queue(engine, each, "USR2"),
            node_down,
        ]
    return [
        lambda each: kill_process(each, signal.SIGKILL),
        lambda each: kill_process(each, signal.SIGTERM),
    ]


def disturbed(name: str, engine: Any, sent: Sequence[Assignment]) -> tuple[list[str], Told]:
    """Do all jobs while they are disturbed; what was done, and what the engine told."""
    told, errors = Told(), []

    def work() -> None:
        try:
            engines.run(sent, engine, told)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    done, victims = [], Victims(sent)
    try:
        for kill in kills(name, engine):
            done.append(kill(victims.next()))
            print(f"  {done[-1]}", flush=True)
    finally:
        thread.join()
    if errors:
        raise errors[0]
    return done, told


# --------------------------------------------------------------------------------------- overhead


def overhead_s(engine: Any, place: Path) -> float:
    """Seconds per job of an engine beyond compilation and training, of short jobs one by one.

    The first job is not counted: with it, the engine starts its cluster.
    """
    _, (first, *others) = jobs(place, SHORT)
    engines.run([first], engine)
    found = []
    for each in others:
        begin = time.perf_counter()
        engines.run([each], engine)
        whole, own = time.perf_counter() - begin, load_run(each.folder).timing
        found.append(whole - own["compile_s"] - own["train_s"])
    return sum(found) / len(found)


# ------------------------------------------------------------------------------------------- main


def main() -> None:
    """Run the drill, write its page, and fail where an outcome differs."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxoff.experiments.drill.engines", description=__doc__
    )
    parser.add_argument("engine", choices=engines.ENGINES)
    parser.add_argument("--out", type=Path, default=Path("results/engines"))
    parser.add_argument(
        "--overhead", action="store_true", help="measure the overhead of a job instead"
    )
    chosen = parser.parse_args()
    runtime.setup(cpu_devices=1)
    name, place = chosen.engine, Path(tempfile.mkdtemp(prefix="jaxoff-engines-"))
    lines = [
        f"# The engine `{name}`",
        "",
        f"{runtime.hardware()}; commit {runtime.git_commit()}.",
        "",
    ]
    try:
        if chosen.overhead:
            made, equal = measured(name, place), True
        else:
            made, equal = drill(name, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print("\n".join(made))
    stem = f"{name}-overhead" if chosen.overhead else name
    page = write_text(chosen.out / f"{stem}.md", "\n".join([*lines, *made]) + "\n")
    print(f"page: {page}")
    if not equal:
        raise SystemExit(1)


def drill(name: str, place: Path) -> tuple[list[str], bool]:
    """The lines of the page, and whether everything was equal."""
    plain, alone = jobs(place / "alone", LONG)
    print("undisturbed, by two processes of this machine", flush=True)
    engines.run(alone, engines.choose("local", {"workers": 2}), Told())
    engine = engines.choose(name, SETTINGS[name])
    found, sent = jobs(place / name, LONG)
    print(f"disturbed, by {name}", flush=True)
    done, told = disturbed(name, engine, sent)
    engine.stop()
    again = [line for line in told.lines if "sent again" in line]
    pairs = list(zip(alone, sent, strict=True))
    equal = [same(outcome(one.folder), outcome(other.folder)) for one, other in pairs]
    tables = [page_of(place / "alone", plain, alone), page_of(place / name, found, sent)]
    lines = [f"- {each}." for each in done] + [f"- Sent again by jaxoff: {len(again)}."]
    lines += [f"- Jobs that ended bit for bit as undisturbed: {sum(equal)} of {len(equal)}."]
    lines += [f"- Tables are equal: {'yes' if tables[0] == tables[1] else 'NO'}.", "", tables[1]]
    return lines, all(equal) and tables[0] == tables[1]


def measured(name: str, place: Path) -> list[str]:
    """The overhead of a job, in this process and by the engine."""
    engines.run(jobs(place / "warm", SHORT)[1], engines.choose("local", {}))  # keeps its programs
    here = overhead_s(engines.choose("local", {}), place / "here")
    engine = engines.choose(name, SETTINGS[name])
    each = overhead_s(engine, place / "short")
    engine.stop()
    return [
        f"- Seconds of a short job, alone, beside compilation and training: {each:.1f}; {here:.1f} "
        f"in this process. Settings: {SETTINGS[name]}."
    ]


if __name__ == "__main__":
    main()
