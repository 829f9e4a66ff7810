"""Engines: what is sent, sent again, told and kept, whatever does the jobs."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from jaxoff.experiments import paper
from jaxoff.experiments.omar import runs as omar_runs
from jaxoff.experiments.omar import sources
from jaxoff.experiments.sit import runs as sit_runs

from jaxoff import engines, runtime
from jaxoff.engines import Assignment, End, local, marks, slurm
from jaxoff.engines.status import status
from jaxoff.errors import Interrupted, InvalidSetting, JaxoffError, JobsFailed, MissingProgram
from jaxoff.logs import Record
from jaxoff.names import UnknownName
from jaxoff.training import TrainSpec, train
from jaxoff.training.stop import Stop
from tests.learners import QUICK_ENV, StopAt, assert_same_results

SPEC = TrainSpec(
    "bc",
    "matrix/xor/b",
    seeds=(0, 1),
    config={"hidden": 8, "batch_size": 8},
    steps=6,
    evaluations=2,
    eval_episodes=2,
    checkpoint_s=0.0,
)


class Played:
    """An engine that ends assignments as it is told: label -> states, one for each sending."""

    def __init__(self, ends: dict[str, list[str]]) -> None:
        self.ends, self.waiting, self.sent, self.stopped = ends, [], [], False

    def send(self, assignments):
        self.waiting += assignments
        self.sent += [each.spec.label for each in assignments]

    def ended(self):
        each = self.waiting.pop(0)
        return [End(each, self.ends[each.spec.label].pop(0), "why")]

    def stop(self):
        self.stopped = True


def assigned(place: Path, *labels: str) -> list[Assignment]:
    return [Assignment(dataclasses.replace(SPEC, variant=label), place / label) for label in labels]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """The folder of an undisturbed job, trained by this process on one device."""
    return train(SPEC, tmp_path_factory.mktemp("alone") / "job").path


# ------------------------------------------------------------------------------- the protocol


def test_lost_jobs_are_sent_again_at_once_and_failed_ones_are_told_at_the_end(tmp_path):
    engine = Played({"a": ["lost", "lost", "done"], "b": ["failed"], "c": ["done"]})
    told = []
    with pytest.raises(JobsFailed, match=r"1 of 3 jobs have failed: .*/b \(failed\): why"):
        engines.run(assigned(tmp_path, "a", "b", "c"), engine, told.append)
    assert engine.sent == ["a", "b", "c", "a", "a"] and not engine.stopped
    assert "a on matrix/xor/b: lost, sent again: why" in told
    assert told[-1] == "3/3 a on matrix/xor/b: done"


def test_a_job_that_is_always_lost_and_one_that_is_cancelled_are_not_sent_for_ever(tmp_path):
    engine = Played({"a": ["lost"] * 9, "b": ["cancelled"]})
    with pytest.raises(JobsFailed, match=r"\(cancelled\).*lost 4 times"):
        engines.run(assigned(tmp_path, "a", "b"), engine)
    assert engine.sent == ["a", "b", "a", "a", "a"]


def test_every_job_is_checked_before_one_is_sent(tmp_path):
    engine = Played({})
    wrong = Assignment(dataclasses.replace(SPEC, config={"hiden": 8}), tmp_path / "wrong")
    with pytest.raises(UnknownName, match="hiden"):
        engines.run([*assigned(tmp_path, "a"), wrong], engine)
    assert not engine.sent and not list(tmp_path.iterdir())


def test_a_request_to_stop_ends_the_wait_and_stops_the_engine(tmp_path):
    class Waits(Played):
        def ended(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            return []

    engine, before = Waits({}), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        engines.run(assigned(tmp_path, "a"), engine)
    assert engine.stopped and signal.getsignal(signal.SIGTERM) is before


# ------------------------------------------------------------------------------- whether it is done


def test_a_job_is_done_when_its_folder_has_its_results(job, tmp_path):
    mine = Assignment(SPEC, job)
    assert mine.done() and not Assignment(SPEC, tmp_path / "none").done()
    engine = Played({})
    engines.run([mine], engine)
    assert not engine.sent
    other = dataclasses.replace(SPEC, config={**SPEC.config, "lr": 0.5})
    with pytest.raises(InvalidSetting, match=r"'config\.lr'.*another job"):
        Assignment(other, job).done()


def test_a_job_that_was_killed_before_its_last_checkpoint_is_not_done(job, tmp_path):
    import shutil

    shutil.copytree(job, tmp_path / "job")
    for checkpoint in (tmp_path / "job" / "checkpoint").glob("[0-9]*"):
        checkpoint.rename(checkpoint.with_name("3"))
    assert not Assignment(SPEC, tmp_path / "job").done()
    shutil.rmtree(tmp_path / "job" / "checkpoint")  # a copy of the results alone
    assert Assignment(SPEC, tmp_path / "job").done()


def test_a_part_of_a_job_is_refused_or_to_be_extended(job):
    more = dataclasses.replace(SPEC, seeds=(0, 1, 2))
    with pytest.raises(InvalidSetting, match="add --extend"):
        Assignment(more, job).done()
    assert not Assignment(more, job, extend=True).done()
    longer = dataclasses.replace(SPEC, steps=9)
    assert not Assignment(longer, job, extend=True).done()
    assert [each.state for each in status([Assignment(more, job)]).jobs] == ["to do"]


def test_the_budget_that_the_data_turn_into_updates_is_compared_as_a_budget(tmp_path):
    config = {"slots": 300, "window": -1, "hidden": 8, "batch_size": 2}
    spec = dataclasses.replace(
        SPEC, task="grid/bridge/optimal", steps=None, config=config, data_episodes=4
    )
    sent = Assignment(spec, tmp_path / "job")
    sent.train()
    assert sent.done()


# ------------------------------------------------------------------------------- marks and status


def test_a_mark_is_there_while_a_process_works_and_an_error_is_kept(tmp_path):
    with marks.marked(tmp_path) as watch:
        watch.start({"stages": [("one", 10), ("two", 30)]})
        watch.record(Record("two", 1, 10, 30, []))
        watch.progress(Record("two", 1, 20, 30, []))
        file = tmp_path / f"running-{socket.gethostname()}-{os.getpid()}.json"
        for _ in range(200):
            if file.exists():
                break
            time.sleep(0.05)
        assert marks.read(tmp_path) is not None
    assert (watch.began_at, watch.share) == (0.5, 0.75)
    assert not list(tmp_path.iterdir()) and marks.read(tmp_path) is None
    with pytest.raises(ZeroDivisionError), marks.marked(tmp_path):
        1 / 0  # noqa: B018
    assert marks.failure(tmp_path) == "ZeroDivisionError: division by zero"
    with pytest.raises(Interrupted), marks.marked(tmp_path):
        raise Interrupted("stop")
    assert marks.failure(tmp_path) == ""


def test_status_counts_jobs_and_tells_the_time_that_is_left(job, tmp_path):
    done = dataclasses.replace(Assignment(dataclasses.replace(SPEC, variant="bc"), job))
    running, failed, waiting = assigned(tmp_path, "bc", "b", "c")
    for each in (running, failed):
        each.folder.mkdir()
    host, ended = socket.gethostname(), subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mark = json.dumps(marks.Mark(10.0, 0.5, 0.6)._asdict())
    (running.folder / f"running-{host}-{os.getpid()}.json").write_text(mark)
    (failed.folder / f"running-{host}-{ended.pid}.json").write_text(mark)  # left over by a kill
    (failed.folder / marks.FAILED).write_text("Traceback\nValueError: no\n")
    found = status([done, running, failed, waiting])
    assert [each.state for each in found.jobs] == ["done", "running", "failed", "to do"]
    # a tenth took 10 s, so .4 take 40 s
    assert found.jobs[1].left_s == pytest.approx(40) and found.jobs[2].text == "ValueError: no"
    # the others last as the mean of all that tell: the done one, and 50 s
    mean = (found.jobs[0].seconds + 50) / 2
    assert found.left_s == pytest.approx(40 + 2 * mean) and found.jobs[0].seconds > 0
    assert status([waiting]).left_s is None


def test_marks_of_another_host_count_while_they_are_young(tmp_path):
    file = tmp_path / "running-elsewhere-1.json"
    file.write_text(json.dumps(marks.Mark(1.0, 0.0, 0.1)._asdict()))
    assert marks.read(tmp_path) == marks.Mark(1.0, 0.0, 0.1)
    os.utime(file, (0, 0))
    assert marks.read(tmp_path) is None


# ------------------------------------------------------------------------------- this machine


def test_processes_of_this_machine_end_as_this_one_even_where_one_is_killed(
    job, tmp_path, monkeypatch
):
    for name, value in QUICK_ENV.items():
        monkeypatch.setenv(name, value)
    engine = engines.choose("local", {"workers": "2"})
    assert isinstance(engine, local.Workers)
    sent, told = Assignment(SPEC, tmp_path / "job"), []

    def kill() -> None:
        while not (found := list(engine.processes)):
            time.sleep(0.01)
        found[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    engines.run([sent], engine, told.append)
    killer.join()
    engine.stop()
    assert told == [
        "bc on matrix/xor/b: lost, sent again: its process ended by signal 9",
        "1/1 bc on matrix/xor/b: done",
    ]
    assert_same_results(job, sent.folder)
    config = json.loads((sent.folder / "config.json").read_text())
    assert config["command"] == runtime.command()  # the user's, not the worker's


def test_a_process_that_fails_tells_why_and_is_not_sent_again(tmp_path):
    engine = engines.choose("local", {"workers": 2})
    # Its check needs no data, which are not there.
    spec = dataclasses.replace(SPEC, task="alberdice:grid/bridge/optimal", data_dir="nowhere")
    with pytest.raises(JobsFailed, match=r"1 of 1 jobs.*nowhere"):
        engines.run([Assignment(spec, tmp_path / "job")], engine)
    engine.stop()
    assert "nowhere" in marks.failure(tmp_path / "job")
    assert "nowhere" in (tmp_path / "job" / "log.txt").read_text()


def test_cores_and_gpus_are_shared_out(monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: list(range(5)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    engine = local.Workers(local.Config(workers=2, gpus=1))
    assert sorted(engine.shares.get() for _ in range(2)) == [(0, [0, 2, 4]), (1, [1, 3])]
    assert engine._gpu(1) == {
        "CUDA_VISIBLE_DEVICES": "0",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450",
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    engine = local.Workers(local.Config(workers=2, gpus=2))
    assert engine._gpu(1)["CUDA_VISIBLE_DEVICES"] == "6"
    assert local.Workers(local.Config())._gpu(0) == {}


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("lokal", {}, UnknownName, "unknown engine 'lokal'; nearest: local"),
        ("slurm", {"partion": "gpu"}, UnknownName, "'partion'; nearest: partition"),
        ("local", {"workers": "two"}, JaxoffError, "workers: expected int, found 'two'"),
        ("local", {"workers": 0}, InvalidSetting, "'workers': expected at least 1, found 0"),
        ("ray", {"num_gpus": -1.0}, InvalidSetting, "'num_gpus': expected at least 0"),
        ("slurm", {"cluster": "pbs"}, InvalidSetting, "'cluster': expected one of slurm, local"),
    ],
)
def test_engines_refuse_by_name(name, settings, error, message):
    with pytest.raises(error, match=message):
        engines.choose(name, settings)


# ------------------------------------------------------------------------------- Slurm


def test_signals_of_a_scheduler_ask_once_and_others_stop_at_the_second(monkeypatch):
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    try:
        with Stop() as stop:
            for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM):
                os.kill(os.getpid(), number)
        assert stop.received == [signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM]
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        with Stop() as stop, pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.fixture
def own_process(monkeypatch):
    """What a process that works for an engine sets for itself is as before after the test."""
    monkeypatch.setattr(runtime, "_SENT_BY", [])
    for name in ("NPROC", "PJRT_NPROC"):
        monkeypatch.setenv(name, "1")


def test_a_preempted_job_saves_and_then_has_submitit_queue_it_again(
    job, tmp_path, own_process, monkeypatch
):
    pytest.importorskip("submitit")
    sent = slurm.Sent(Assignment(SPEC, tmp_path / "job"), cores=1)
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    preempt = StopAt(0, 3)
    preempt.record = lambda rec: rec.step == 3 and os.kill(os.getpid(), signal.SIGUSR2)
    with monkeypatch.context() as patch:
        patch.setattr(marks.Watch, "record", lambda self, rec: preempt.record(rec))
        try:
            assert sent()[0] == "lost"  # submitit's own handler would end the process
        finally:
            signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2] and (tmp_path / "job" / "checkpoint" / "3").is_dir()
    again = pickle.loads(pickle.dumps(sent.checkpoint().function))
    assert again() == ("done", "")
    assert_same_results(job, tmp_path / "job")


def test_an_array_of_submitits_own_processes_ends_as_this_one(job, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    for name, value in QUICK_ENV.items():
        monkeypatch.setenv(name, value)
    engine = engines.choose("slurm", {"cluster": "local", "cpus": 1, "poll_s": 0.1})
    sent, told = Assignment(SPEC, tmp_path / "job"), []
    engines.run([sent], engine, told.append)
    assert told == ["1/1 bc on matrix/xor/b: done"]
    assert_same_results(job, sent.folder)


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A command squeue that prints what the file `answer` says, or fails if that says so."""
    program, answer = tmp_path / "bin" / "squeue", tmp_path / "answer"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ngrep -q fails {answer} && exit 1\ncat {answer}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    answer.write_text("")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return answer


@pytest.mark.parametrize(
    ("queue", "result", "state"),
    [
        ("7_0|RUNNING", None, None),
        ("7_0|PENDING", ("success", ("lost", "stopped")), None),  # requeued after a stop
        ("7_0|COMPLETED", ("success", ("done", "")), "done"),
        ("", ("success", ("done", "")), "done"),  # the queue has forgotten it
        ("7_0|COMPLETED", ("error", "Traceback\nValueError: no\n"), "failed"),
        ("7_0|NODE_FAIL", None, "lost"),
        ("7_0|TIMEOUT", None, "lost"),
        ("7_0|CANCELLED", None, "cancelled"),
        ("7_0|CANCELLED", ("success", ("lost", "stopped")), "cancelled"),
        ("7_0|COMPLETED", ("success", ("lost", "stopped")), "lost"),
        ("", None, "lost"),
        ("fails", None, None),
    ],
)
def test_how_a_job_of_slurm_has_ended(tmp_path, squeue, monkeypatch, queue, result, state):
    pytest.importorskip("submitit")
    monkeypatch.setattr(slurm, "GRACE_S", 0.0)
    engine, (sent,) = slurm.make(slurm.Config()), assigned(tmp_path, "a")
    if result is not None:
        (tmp_path / "result").write_bytes(pickle.dumps(result))
    paths = SimpleNamespace(result_pickle=tmp_path / "result")
    engine.open["7_0"] = SimpleNamespace(paths=paths), sent
    squeue.write_text(f"{queue}\n")
    end = engine._end_of("7_0", engine._states())
    assert (None if end is None else end.state) == state
    assert ("7_0" in engine.open) == (state is None)


def test_a_job_without_a_result_has_some_time_until_it_counts_as_lost(tmp_path, squeue):
    pytest.importorskip("submitit")
    engine, (sent,) = slurm.make(slurm.Config()), assigned(tmp_path, "a")
    paths = SimpleNamespace(result_pickle=tmp_path / "result")
    engine.open["7"] = SimpleNamespace(paths=paths), sent
    assert engine._end_of("7", {"7": "COMPLETED"}) is None
    engine.gone["7"] -= slurm.GRACE_S
    assert engine._end_of("7", {"7": "COMPLETED"}).state == "lost"


def test_slurm_refuses_a_machine_without_it_and_jobs_that_are_in_the_queue(
    tmp_path, squeue, monkeypatch
):
    pytest.importorskip("submitit")
    engine = slurm.make(slurm.Config())
    squeue.write_text("12_3\n")
    monkeypatch.setattr(
        engine.submitit,
        "AutoExecutor",
        lambda *a, **k: SimpleNamespace(update_parameters=lambda **settings: None),
    )
    with pytest.raises(InvalidSetting, match="none of its jobs in the queue, found 12_3"):
        engine.send(assigned(tmp_path, "a"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgram, match="expected Slurm's command 'squeue'"):
        slurm.make(slurm.Config())


# ------------------------------------------------------------------------------- Ray


def test_how_a_task_of_ray_has_ended(tmp_path, monkeypatch):
    class RayError(Exception):
        pass

    class Cancelled(RayError):
        pass

    class TaskError(RayError):
        pass

    outcomes = {"a": ("done", ""), "b": RayError("worker died"), "c": Cancelled(), "d": TaskError()}

    def get(task):
        if isinstance(outcomes[task], Exception):
            raise outcomes[task]
        return outcomes[task]

    def remote(**options):
        assert options == {"num_cpus": 3, "num_gpus": 0.5, "max_retries": 0}
        task = SimpleNamespace(remote=lambda sent, cores: sent.spec.label)
        return lambda function: SimpleNamespace(options=lambda name: task)

    errors = SimpleNamespace(
        RayError=RayError, TaskCancelledError=Cancelled, RayTaskError=TaskError
    )
    fake = SimpleNamespace(
        is_initialized=lambda: True,
        remote=remote,
        get=get,
        exceptions=errors,
        wait=lambda tasks, num_returns: (tasks[:1], tasks[1:]),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    engine = engines.choose("ray", {"num_cpus": "3", "num_gpus": "0.5"})
    engine.send(assigned(tmp_path, *outcomes))
    assert [engine.ended()[0].state for _ in "abc"] == ["done", "lost", "cancelled"]
    with pytest.raises(TaskError):
        engine.ended()


def test_an_engine_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingProgram, match=r"pip install 'jaxoff\[ray\]'"):
        engines.choose("ray", {})


# ------------------------------------------------------------------------------- papers


def test_what_papers_send_can_be_sent_to_other_processes(tmp_path):
    spec = sit_runs.exchanging("smax/3m/mix=[r r m]", "smoke")
    data = omar_runs.Data(paper.Job("omar", "smoke", tmp_path))
    rows = sources.Data(omar_runs.ROBOTS)
    for made in (spec, data, rows, rows.env):
        sent = Assignment(SPEC, tmp_path, made, rows.env)
        assert pickle.loads(pickle.dumps(sent)).folder == tmp_path
    assert pickle.loads(pickle.dumps(data)).folder == data.folder
    assert pickle.loads(pickle.dumps(rows)).own == rows.own


def test_the_jobs_of_a_paper_go_to_the_engine_of_its_command(tmp_path, job):
    engine = Played({"bc": ["failed"]})
    papers = paper.Job("inspo", "smoke", tmp_path, engine=engine)
    with pytest.raises(JobsFailed):
        papers.train({tmp_path / "one": SPEC})
    assert engine.sent == ["bc"]
    assert [run.path for run in papers.train({job: SPEC})] == [job] and len(engine.sent) == 1


def test_the_command_of_a_paper_takes_an_engine_and_its_settings():
    parser = paper.parser_of("omar", "about", ["mpe", "all"], "out", data_dir=True)
    assert paper.engine_of(parser.parse_args([])) is None
    chosen = parser.parse_args(["mpe", "--workers", "3", "--engine-set", "gpus=2"])
    engine = paper.engine_of(chosen)
    assert engine.config == local.Config(workers=3, gpus=2)
    with pytest.raises(UnknownName, match="'wrkers'"):
        paper.engine_of(parser.parse_args(["--engine-set", "wrkers=3"]))
