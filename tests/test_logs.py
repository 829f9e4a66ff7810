"""Logs: what is written, what is dropped on resume, and what is imported."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxoff.errors import BrokenResult
from jaxoff.logs import Guarded, JsonLines, Progress, Record, WandB
from jaxoff.logs.dashboard import aggregate

RUNS = [
    {"run": 0, "seed": 0, "config": {"alpha": 0.5}},
    {"run": 1, "seed": 1, "config": {"alpha": 0.5}},
    {"run": 2, "seed": 0, "config": {"alpha": 5.0}},
]


def record(step: int, stage_index: int = 0, value: float = 1.0, total: int = 100) -> Record:
    rows = [{"run": 0, "seed": 7, "return_mean": value}, {"run": 1, "seed": 8, "return_mean": 3.0}]
    return Record("train", stage_index, step, total, rows)


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_row_per_run_with_nan_as_null(tmp_path: Path):
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.start({})
    sink.record(record(10, value=float("nan")))
    assert rows_of(tmp_path / "metrics.jsonl") == [  # before finish: each record is flushed
        {"stage": "train", "stage_index": 0, "step": 10, "run": 0, "seed": 7, "return_mean": None},
        {"stage": "train", "stage_index": 0, "step": 10, "run": 1, "seed": 8, "return_mean": 3.0},
    ]
    sink.finish({})


def test_numpy_scalars_are_written_as_numbers(tmp_path: Path):
    sink = JsonLines(tmp_path / "m.jsonl")
    sink.start({})
    sink.record(
        Record(
            "train",
            0,
            1,
            1,
            [{"run": np.int64(0), "seed": 0, "a": np.float32(0.5), "b": np.float32("inf")}],
        )
    )
    sink.finish({})
    assert rows_of(tmp_path / "m.jsonl")[0] == {
        "stage": "train",
        "stage_index": 0,
        "step": 1,
        "run": 0,
        "seed": 0,
        "a": 0.5,
        "b": None,
    }


def test_resume_drops_rows_later_than_the_checkpoint(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    first = JsonLines(path)
    first.start({})
    for place in ((0, 50), (0, 100), (1, 10), (1, 20)):
        first.record(record(place[1], place[0]))
    first.finish({})
    there = [(0, 50), (0, 100), (1, 10)]
    second = JsonLines(path, [(*place, run) for place in there for run in range(2)])
    second.start({})
    second.record(record(30, 1))
    second.finish({})
    assert [(row["stage_index"], row["step"]) for row in rows_of(path) if row["run"] == 0] == [
        (0, 50),
        (0, 100),
        (1, 10),
        (1, 30),
    ]


def test_resume_forgives_a_half_written_last_line_only(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    good = '{"stage_index": 0, "step": 1, "run": 0}\n'
    path.write_text(good + '{"stage_index": 0, "st')
    JsonLines(path, [(0, 1, 0)]).start({})
    assert path.read_text() == good
    path.write_text('{"broken\n' + good)
    with pytest.raises(BrokenResult, match=r"m\.jsonl: line 1: expected the row of .*\(0, 1, 0\)"):
        JsonLines(path, [(0, 1, 0)]).start({})


@pytest.mark.parametrize("text", ["", '{"stage_index": 0, "step": 1, "run": 1}\n'])
def test_resume_is_refused_without_the_rows_of_the_checkpoint(tmp_path: Path, text):
    path = tmp_path / "m.jsonl"
    path.write_text(text)
    with pytest.raises(BrokenResult, match="can't go on without what it has logged"):
        JsonLines(path, [(0, 1, 0), (0, 1, 1)]).start({})
    assert path.read_text() == text


def test_without_resume_the_file_starts_anew(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"old": 1}\n')
    JsonLines(path).start({})
    assert path.read_text() == ""


def test_record_before_start_is_an_error(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"before start"):
        JsonLines(tmp_path / "m.jsonl").record(record(1))


def test_progress_without_a_terminal_writes_a_line_per_tenth():
    out = io.StringIO()
    sink = Progress("bc xor", Console(file=out, force_terminal=False, width=80))
    sink.start({})
    for step in range(1, 101):
        sink.record(record(step, total=100))
    sink.finish({})
    lines = out.getvalue().splitlines()
    # the first record, then 10, 20, ..., 100
    assert len(lines) == 11
    # mean of 1 and 3 is 2, std sqrt(2)
    assert (
        lines[-1].startswith("bc xor train  100/100 (100%)") and "return 2.000 ± 1.414" in lines[-1]
    )


def test_progress_says_how_many_runs_failed():
    out = io.StringIO()
    sink = Progress("bc", Console(file=out, force_terminal=False, width=80))
    sink.start({})
    # A failed run keeps its last finite state, whose return may be finite.
    entry = record(5, value=-2.0)
    sink.record(entry._replace(rows=[entry.rows[0] | {"failed_at": 0}, entry.rows[1]]))
    assert "return 3.000, 1 of 2 runs failed" in out.getvalue()


def test_a_task_without_simulator_is_not_said_to_have_failed_runs():
    out = io.StringIO()
    sink = Progress("bc", Console(file=out, force_terminal=False, width=80))
    sink.start({})
    rows = [{"run": run, "seed": run, "return_mean": float("nan")} for run in range(2)]
    sink.record(Record("train", 0, 5, 100, rows))
    assert "no simulator" in out.getvalue() and "failed" not in out.getvalue()
    sink.record(Record("train", 0, 10, 100, [row | {"length_mean": 3.0} for row in rows]))
    assert "returns that are not finite" in out.getvalue()


def test_progress_in_a_terminal_shows_every_stage():
    out = io.StringIO()
    sink = Progress("inspo", Console(file=out, force_terminal=True, width=160))
    sink.start({})
    sink.record(Record("behaviour", 0, 10, 10, []))
    sink.record(Record("policy", 1, 5, 10, [{"run": 0, "seed": 0, "return_mean": 0.25}]))
    sink.finish({})
    text = out.getvalue()
    assert (
        "inspo behaviour" in text
        and "inspo policy" in text
        and "return 0.250" in text
        and "50%" in text
    )


def test_disabled_dashboard_never_imports_wandb():
    code = (
        "import sys\nfrom jaxoff.logs import Record, WandB\nw = WandB('disabled', 'p', 'g')\n"
        "w.start({'runs': [{'run': 0, 'seed': 0}]})\nw.record(Record('s', 0, 1, 1, [{'run': 0, "
        "'seed': 0, 'return_mean': 1.0}]))\nw.finish({})\n"
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_dashboard_mode_is_refused():
    with pytest.raises(
        ValueError, match="field 'mode': expected one of disabled, offline, online, found 'on'"
    ):
        WandB("on", "p", "g")  # type: ignore[arg-type]


class FakeRun:
    """Keeps what a W&B run is told."""

    def __init__(self, **told) -> None:
        self.told, self.rows, self.summary, self.ended = told, [], {}, False

    def log(self, row) -> None:
        self.rows.append(row)

    def define_metric(self, *args, **options) -> None:
        """Nothing to keep."""

    def finish(self) -> None:
        self.ended = True


@pytest.fixture
def opened(monkeypatch):
    """Name of each W&B run that is opened -> the run."""
    import wandb

    found: dict[str, FakeRun] = {}

    def init(**told):
        return found.setdefault(told["name"], FakeRun(**told))

    monkeypatch.setattr(wandb, "init", init)
    return found


INFO = {
    "method": "bc",
    "task": "matrix/xor/b",
    "sampler": "uniform",
    "config": {"lr": [0.1], "alpha": [0.5, 5.0], "hidden": 4},
    "seeds": [0, 1],
    "runs": [run | {"settings": {"lr": 0.1, **run["config"]}} for run in RUNS],
}


def test_a_run_is_called_by_method_task_label_and_seed_and_has_its_own_settings(opened, tmp_path):
    sink = WandB(
        *("offline", "p", "train/job"), tmp_path, entity="team", label="small", tags=("train",)
    )
    sink.start(INFO)
    head = "bc/matrix/xor/b/small-alpha="
    assert set(opened) == {
        *(f"{head}0.5/seed-0", f"{head}0.5/seed-1", f"{head}0.5/mean"),
        *(f"{head}5/seed-0", f"{head}5/mean"),
    }
    told = opened[f"{head}5/seed-0"].told
    assert (told["project"], told["entity"], told["group"]) == ("p", "team", "train/job")
    assert told["tags"] == ["train", "bc", "matrix/xor/b", "small-alpha=5"]
    config = told["config"]
    assert (config["seed"], config["alpha"], config["method"]) == (0, 5.0, "bc")
    assert config["config"] == {"lr": 0.1, "alpha": 5.0, "hidden": 4}
    assert not {"runs", "seeds"} & set(config)
    mean = opened[f"{head}0.5/mean"].told
    assert mean["config"]["seeds"] == [0, 1] and mean["config"]["config"]["alpha"] == 0.5


def test_long_labels_leave_room_for_the_seed(opened, tmp_path):
    sink = WandB("offline", "p", "g" * 200, tmp_path, label="x" * 200)
    sink.start(INFO | {"sampler": "pjap", "runs": [{"run": 0, "seed": 77}]})
    for name, run in opened.items():
        assert len(name) == 128 and name.startswith("bc+pjap/matrix/xor/b/xxx")
        assert len(run.told["group"]) == 128
        assert all(1 <= len(tag) <= 64 for tag in run.told["tags"])
    assert {name.rpartition("/")[2] for name in opened} == {"seed-77", "mean"}


def test_in_a_sweep_the_mean_is_the_sweeps_own_run(opened, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    sink = WandB("online", "p", "g", tmp_path, entity="team")
    sink.start(INFO | {"runs": [{"run": k, "seed": k} for k in range(2)]})
    (run,) = opened.values()
    assert [run.told[name] for name in ("id", "project", "entity", "resume")] == [None] * 4
    sink.record(record(10))
    sink.finish({"runs": [{"run": 0, "seed": 0, "return_mean": 1.0}]})
    assert run.rows[0]["train/return_mean/mean"] == 2.0 and run.ended


def test_a_table_of_all_runs_and_a_gif_of_the_first_sound_one_are_logged(opened, tmp_path):
    asked: list[int] = []

    def gif(run):
        asked.append(run)
        Image.new("P", (8, 8)).save(tmp_path / "a.gif")
        return tmp_path / "a.gif"

    sink = WandB("offline", "p", "g", tmp_path, gif=gif)
    sink.start(INFO)
    runs = [run | {"return_mean": float("nan"), "failed_at": None} for run in RUNS]
    runs[0]["failed_at"] = 3
    sink.finish({"runs": runs})
    mean = {name: run for name, run in opened.items() if name.endswith("/mean")}
    tables = {name: run.rows[0]["final/runs"] for name, run in mean.items()}
    table = tables["bc/matrix/xor/b/alpha=0.5/mean"]
    assert table.columns == ["alpha", "run", "seed", "return_mean", "failed_at"]
    assert table.data == [[0.5, 0, 0, None, 3], [0.5, 1, 1, None, None]]
    assert len(tables["bc/matrix/xor/b/alpha=5/mean"].data) == 1
    assert asked == [1]
    shown = mean["bc/matrix/xor/b/alpha=0.5/mean"].rows[1]["final/episode"]
    assert shown._format == "gif"


def test_a_training_that_was_stopped_has_no_table(opened, tmp_path):
    sink = WandB("offline", "p", "g", tmp_path)
    sink.start(INFO)
    sink.finish({})
    assert all(run.ended and not run.rows for run in opened.values())


def test_offline_dashboard_writes_a_folder_per_run_and_per_grid_point(tmp_path):
    Image.new("P", (8, 8)).save(tmp_path / "a.gif")
    sink = WandB("offline", "jaxoff-test", "group", tmp_path, gif=lambda run: tmp_path / "a.gif")
    sink.start(INFO | {"leaves": np.array([1.0])})
    rows = [
        {"run": run["run"], "seed": run["seed"], "return_mean": 1.0, "alpha": 0.5} for run in RUNS
    ]
    sink.record(Record("train", 0, 10, 20, rows))
    sink.finish({"runs": [run | {"return_mean": 1.0, "failed_at": None} for run in RUNS]})
    ids = json.loads((tmp_path / "ids.json").read_text())
    # three runs; their two values of alpha have an aggregate each
    assert set(ids) == {"run-0", "run-1", "run-2", "seeds-alpha=0.5", "seeds-alpha=5"}
    places = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(places) == 5 and all(next(x.glob("*.wandb")).read_bytes() for x in places)
    kinds = {
        (place.name.rpartition("-")[2], path.suffix)
        for place in places
        for path in place.rglob("files/media/**/*.*")
    }
    first, second = ids["seeds-alpha=0.5"], ids["seeds-alpha=5"]
    assert kinds == {(first, ".json"), (first, ".gif"), (second, ".json")}
    table = next((tmp_path / "wandb").glob(f"offline-run-*-{first}/files/media/**/*.json"))
    assert len(json.loads(table.read_text())["data"]) == 2


def ids_of(folder, runs, resume=False):
    sink = WandB("offline", "p", "g", folder, resume=resume)
    sink._take(runs)
    return sink._ids()


def test_a_resumed_dashboard_keeps_its_ids(tmp_path: Path):
    ids = ids_of(tmp_path, RUNS)
    assert ids_of(tmp_path, RUNS, resume=True) == ids
    assert ids_of(tmp_path, RUNS) != ids


def test_added_runs_keep_the_ids_of_the_others_and_have_an_aggregate_of_their_own(tmp_path: Path):
    first = ids_of(tmp_path, [{"run": 0, "seed": 0}])
    added = ids_of(tmp_path, [{"run": 1, "seed": 1}], resume=True)
    assert added == {**first, **{name: added[name] for name in ("run-1", "from-1-seeds")}}


def test_aggregate_is_mean_and_std_over_runs():
    # 1 and 3: mean 2, std sqrt(2); a value that is not known is left out
    rows = [{"return_mean": 1.0}, {"return_mean": 3.0, "score": float("nan")}]
    assert aggregate(rows) == {
        "return_mean/mean": 2.0,
        "return_mean/std": pytest.approx(2**0.5),
        "runs": 2.0,
    }


def test_a_failed_run_is_no_part_of_the_mean(tmp_path, monkeypatch):
    sink, logged = WandB("offline", "p", "g", tmp_path), {}
    sink._take(RUNS)
    sink._open = {"run": None}
    monkeypatch.setattr(sink, "_stages", {"train"})
    monkeypatch.setattr(sink, "_log", lambda label, rec, numbers: logged.update({label: numbers}))
    rows = [{"run": 0, "return_mean": -2.0, "failed_at": 0}, {"run": 1, "return_mean": 3.0}]
    sink.record(Record("train", 0, 10, 20, rows))
    assert logged["seeds-alpha=0.5"] == {"return_mean/mean": 3.0, "runs": 1.0}


@pytest.mark.parametrize("place", ["start", "record", "finish"])
def test_wandb_is_given_up_after_an_error(place, tmp_path, monkeypatch):
    import wandb

    def lost(*_, **__):
        raise ConnectionResetError("Connection lost")

    given_up = []
    monkeypatch.setattr(wandb, "teardown", lambda exit_code: given_up.append(exit_code) or lost())
    monkeypatch.setattr(wandb, "init", lost)
    sink = WandB("offline", "p", "g", tmp_path)
    broken = SimpleNamespace(define_metric=lost, finish=lost)
    sink._open = {} if place == "start" else {"run-0": broken}
    calls = {
        "start": lambda: sink.start({"runs": RUNS}),
        "record": lambda: sink.record(record(1)),
        "finish": lambda: sink.finish({}),
    }
    with pytest.raises(ConnectionResetError):
        calls[place]()
    assert given_up == [1] and not sink._open
    calls["finish"]()  # nothing is left that could fail again
    assert given_up == [1]


def test_the_traceback_of_a_loggers_error_is_there_for_who_asks(caplog, capsys):
    class Broken(Progress):
        def start(self, info):
            raise OSError("no space left")

    with caplog.at_level(logging.DEBUG, "jaxoff"):
        Guarded(Broken("bc")).start({})
    assert "Broken is switched off" in capsys.readouterr().err
    assert "Traceback" in caplog.text and "no space left" in caplog.text
