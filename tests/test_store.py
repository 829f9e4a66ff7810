"""The results store: rows of runs, read back as results that give the same tables."""

from __future__ import annotations

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from jaxoff.experiments import paper
from jaxoff.experiments.inspo import parts

from jaxoff.cli import main
from jaxoff.errors import BrokenResult, InvalidSetting
from jaxoff.report import figures, render, store, store_file, tables
from jaxoff.report.load import load_run
from jaxoff.training import TrainSpec, train

SWEPT = TrainSpec(
    "bc",
    "matrix/xor/b",
    seeds=(0, 1),
    config={"hidden": 8, "batch_size": 32},
    grid={"lr": (1e-3, 1e-2)},
    steps=60,
    evaluations=30,
    size="paper",
    variant="BC",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folders of two jobs: BC over a grid of two rates, and a second label."""
    out = tmp_path_factory.mktemp("store")
    other = dataclasses.replace(SWEPT, grid={}, variant="BC, again")
    places = {spec.label: out / paper.folder_name(spec) for spec in (SWEPT, other)}
    for spec in (SWEPT, other):
        train(spec, places[spec.label])
    return places


@pytest.fixture
def file(tmp_path, trained):
    """A store with both jobs."""
    store.add(tmp_path / "runs.csv", trained.values(), "smoke", dirty=True)
    return tmp_path / "runs.csv"


def test_a_row_is_a_run_and_a_key_all_settings_but_the_seed(file):
    rows = store_file.read(file)
    assert len(rows) == 6 and len({row.key for row in rows}) == 3
    assert {(row.settings["lr"], row.seed) for row in rows if row.label == "BC"} == {
        (lr, seed) for lr in (1e-3, 1e-2) for seed in (0, 1)
    }
    row = rows[0]
    assert (row.steps, row.episodes, row.actions, row.scale) == (60, 32, "sampled", "smoke")
    assert row.settings == {"hidden": 8, "batch_size": 32, "steps": 60, "evaluations": 30} | {
        "lr": row.settings["lr"]
    }
    assert row.seconds > 0 and np.isfinite([row.return_mean, row.return_std, row.score]).all()
    assert 0 <= row.numbers["out_of_data"] <= 1 and len(row.data) == 12
    text = next(csv.reader(file.open()))
    assert tuple(text) == store_file.COLUMNS


def test_adding_again_changes_nothing_and_another_number_replaces(file, trained):
    before = file.read_bytes(), store_file.curves_of(file).read_bytes()
    assert store.add(file, trained.values(), "smoke", dirty=True) == (0, 0)
    assert (file.read_bytes(), store_file.curves_of(file).read_bytes()) == before
    row = store_file.read(file)[0]
    assert store.put(file, [dataclasses.replace(row, return_mean=7.0)], dirty=True) == (0, 1)
    assert store_file.read(file)[0].return_mean == 7.0 and len(store_file.read(file)) == 6


def test_curves_have_at_most_twenty_points_with_the_last(file, trained):
    curves = [x for x in store_file.read_curves(file) if x.metric == "exact_value"]
    assert len(curves) == 6 and {len(curve.steps) for curve in curves} == {store.POINTS}
    assert all(curve.steps[-1] == 60 for curve in curves)
    (whole,) = {len(load_run(path).arrays["steps"]) for path in trained.values()}
    assert whole == 31


def test_a_job_is_read_back_with_the_same_table_and_curve(file, trained):
    (found,) = [store.stored(file, SWEPT)]
    run = load_run(trained["BC"])
    assert found.seeds == run.seeds and found.variant == "BC" and found.config["grid"]
    for metric in ("return_mean", "exact_value", "score"):
        both = [
            render.comma_separated(tables.build([x], metric=metric)).splitlines()
            for x in (run, found)
        ]
        for one, other in zip(*both, strict=True):
            for a, b in zip(one.split(","), other.split(","), strict=True):
                assert a == b or np.allclose([*map(float, a.split())], [*map(float, b.split())])
        assert len(both[0]) == 3  # a head, and a line for each rate
    steps, values = figures.curve([found], "exact_value")
    all_steps, all_values = figures.curve([run], "exact_value")
    kept = np.isin(all_steps, steps)
    np.testing.assert_allclose(values, all_values[kept], rtol=1e-4)
    loaded = {(x.variant, x.config["config"].get("lr")): x for x in store.load(file)}
    np.testing.assert_allclose(
        np.sort(np.concatenate([x.values("return_mean") for x in loaded.values()])),
        np.sort([row.return_mean for row in store_file.read(file)]),
    )


def test_a_job_with_another_setting_seed_or_label_is_not_in_the_store(file):
    assert store.stored(file, SWEPT) is not None
    fewer = dataclasses.replace(SWEPT, seeds=(1,), grid={"lr": (1e-2,)})
    assert store.stored(file, fewer).seeds == [1]
    for change in (
        {"seeds": (0, 2)},
        {"steps": 61},
        {"eval_episodes": 16},
        {"sampled": False},
        {"variant": "BC, third"},
        {"grid": {"lr": (1e-3, 2e-2)}},
        {"task": "matrix/xor/c"},
        {"data_seed": 1},
    ):
        assert store.stored(file, dataclasses.replace(SWEPT, **change)) is None, change
    assert store.stored(file.with_name("none.csv"), SWEPT) is None


def test_an_experiment_takes_jobs_from_its_store(tmp_path, monkeypatch, trained, file, capsys):
    monkeypatch.setattr(paper, "store_of", lambda name: file)
    sent = []
    monkeypatch.setattr(paper.engines, "run", lambda jobs, *_: sent.extend(jobs))
    monkeypatch.setattr(paper, "load_run", lambda path: path.name)
    job = paper.Job("inspo", "smoke", tmp_path / "out")
    (run,) = job.run([SWEPT])
    assert run.path == file and "BC matrix/xor/b: from" in capsys.readouterr().out
    assert not (tmp_path / "out").exists() and not sent
    name = paper.folder_name(SWEPT)
    assert job.run([SWEPT], whole=True) == [name] and len(sent) == 1
    assert dataclasses.replace(job, use_store=False).run([SWEPT]) == [name] and len(sent) == 2
    (job.out / "runs" / name).mkdir(parents=True)  # what was begun there is continued
    assert job.run([SWEPT]) == [name] and len(sent) == 3


def test_what_the_store_lacks_is_trained_for_figures_of_policies(tmp_path, monkeypatch, file):
    seen = []
    monkeypatch.setattr(paper, "store_of", lambda name: file)
    monkeypatch.setattr(
        parts, "trained", lambda *_, **given: seen.append(given.get("whole", False)) or []
    )
    monkeypatch.setattr(parts.figures, "joint_policies", lambda *_: None)
    parts.fig3(paper.Job("inspo", "smoke", tmp_path))
    assert seen == [True]


def test_rows_of_a_changed_tree_are_refused_by_name_unless_said(tmp_path, file):
    row = dataclasses.replace(store_file.read(file)[0], commit="abc-dirty", source="folder")
    with pytest.raises(InvalidSetting, match=r"folder: field 'git_commit': .* found abc-dirty"):
        store.put(tmp_path / "new.csv", [row])
    assert not (tmp_path / "new.csv").exists()
    assert store.put(tmp_path / "new.csv", [row], dirty=True) == (1, 0)


def test_one_key_has_one_dataset(file):
    row = dataclasses.replace(store_file.read(file)[0], data="another", seed=9)
    with pytest.raises(InvalidSetting, match=r"field 'data': .* found another"):
        store.put(file, [row], dirty=True)


def test_rows_of_tables_give_way_to_runs(tmp_path, file):
    row = store_file.read(file)[0]
    old = [
        dataclasses.replace(row, key="table", seed=seed, source="a/table.csv") for seed in range(3)
    ]
    place = tmp_path / "new.csv"
    store.put(place, old, dirty=True)
    assert [x.of_table for x in store_file.read(place)] == [True] * 3
    store.put(place, [row], dirty=True)
    assert [x.place for x in store_file.read(place)] == [row.place]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("key,method", "key,way", "header: expected key,method"),
        (",sampled,32,", ",sampled,many,", "line 2: field 'episodes': expected a number"),
        ('"{""batch', '"[""batch', "line 2: field 'settings': expected an object"),
    ],
)
def test_a_damaged_store_is_refused_by_line_and_field(file, old, new, message):
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(BrokenResult, match=message):
        store_file.read(file)


def test_a_run_that_is_there_twice_is_refused(file):
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines, lines[1]]))
    with pytest.raises(BrokenResult, match="expected a run once, found BC"):
        store_file.read(file)


def test_two_folders_with_one_run_are_refused(tmp_path, trained):
    copied = tmp_path / "copied"
    shutil.copytree(trained["BC"], copied)
    with pytest.raises(InvalidSetting, match=r"copied: field 'seed': expected runs .* in both"):
        store.add(tmp_path / "runs.csv", [trained["BC"], copied], dirty=True)
    assert not (tmp_path / "runs.csv").exists()


def test_the_commands_add_and_list(tmp_path, trained, capsys):
    place = tmp_path / "runs.csv"
    folders = [str(path) for path in trained.values()]
    main(["store", "add", *folders, "--to", str(place), "--scale", "smoke", "--dirty"])
    assert "6 runs added, 0 replaced, of 2 jobs" in capsys.readouterr().out
    main(["store", "list", str(place)])
    shown = capsys.readouterr().out
    assert "matrix/xor/b" in shown and "BC, again" in shown
    waiting = tmp_path / "waiting" / "job"
    shutil.copytree(trained["BC"], waiting)
    (waiting / "final.json").unlink()
    main(["store", "add", str(waiting.parent), "--to", str(place), "--dirty"])
    assert "not ended, left out: job" in capsys.readouterr().out
    for wrong in (
        ["store", "add", str(tmp_path / "none"), "--to", str(place)],
        ["store", "list", "x"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2


def test_committed_stores_can_be_read_and_their_runs_have_commits():
    for name in ("inspo", "omar", "pjap"):
        rows = store_file.read(paper.store_of(name))
        assert rows and not any(row.commit.endswith("-dirty") for row in rows)
        assert {curve.key for curve in store_file.read_curves(paper.store_of(name))} <= {
            row.key for row in rows
        }
