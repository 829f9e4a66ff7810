"""The report, from small made-up result folders."""

from __future__ import annotations

import csv
import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxoff.cli import main
from jaxoff.report import (
    BrokenResult,
    figures,
    html,
    load_experiment,
    load_run,
    render,
    report,
    tables,
)
from jaxoff.report.gif import grid_gif
from jaxoff.report.load import SETTINGS, by_config, run_folders, select, told_apart, unfinished
from jaxoff.training.folder import GROWS, LOOSE
from jaxoff.training.spec import TrainSpec

STEPS = (0, 10, 20)


def make(folder: Path, method: str, task: str, finals: list[float | None], **extra: Any) -> Path:
    """A result folder with final returns `finals`; None is a failed run.

    The curve is 0, half the final, the final.
    """
    folder.mkdir(parents=True)
    points = extra.pop("points", [{}] * len(finals))
    seeds = extra.pop("seeds", list(range(len(finals))))
    joint = extra.pop("joint", None)
    head = {
        "config": {"steps": 100},
        "command": f"jaxoff train {method} {task}",
        "hardware": "2 cores of Example",
        "git_commit": "aaa111",
        "sampled": True,
        "eval_episodes": 32,
    }
    config = {"method": method, "variant": method, "task": task, **head, **extra}
    (folder / "config.json").write_text(json.dumps(config))
    level = [np.nan if value is None else value for value in finals]
    curve = np.outer(np.arange(len(STEPS)) / (len(STEPS) - 1), level)
    rows = [
        {
            "stage": "train",
            "stage_index": 0,
            "step": step,
            "run": run,
            "seed": seeds[run],
            "return_mean": None if finals[run] is None else curve[k, run],
        }
        for k, step in enumerate(STEPS)
        for run in range(len(finals))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = [
        {
            "run": run,
            "seed": seeds[run],
            "config": points[run],
            "return_mean": value,
            "score": None if value is None else 100 * value,
        }
        | {"failed_at": 7 if value is None else None}
        for run, value in enumerate(finals)
    ]
    (folder / "final.json").write_text(json.dumps({"runs": runs, "timing": {"train_s": 1.0}}))
    arrays = {
        "returns": np.zeros((len(finals), 4)),
        "steps": np.array(STEPS),
        "history/return_mean": curve,
    }
    if joint is not None:
        arrays["history/joint_policy"] = np.tile(joint, (len(STEPS), len(finals), 1, 1))
    np.savez(folder / "final.npz", **arrays)
    return folder


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    root = tmp_path / "xor"
    make(root / "bc-a", "bc", "matrix/xor/a", [0.1, 0.2, 0.3], joint=np.full((2, 2), 0.25))
    make(root / "inspo-a", "inspo", "matrix/xor/a", [1.0, 1.0, 1.0], joint=np.eye(2) / 2)
    make(root / "bc-b", "bc", "matrix/xor/b", [0.5, None, 0.7], git_commit="bbb222")
    make(root / "inspo-b", "inspo", "matrix/xor/b", [0.6, 0.7, 0.8], git_commit="bbb222")
    return root


# load


def test_a_failed_run_is_nan_and_the_others_are_kept(experiment: Path):
    np.testing.assert_array_equal(
        load_run(experiment / "bc-b").values("return_mean"), [0.5, np.nan, 0.7]
    )


def test_a_run_marked_failed_has_failed_even_with_a_number(tmp_path: Path):
    folder = make(tmp_path / "x", "bc", "matrix/xor/a", [1.0, 2.0])
    final = json.loads((folder / "final.json").read_text())
    final["runs"][0]["failed_at"] = 3
    (folder / "final.json").write_text(json.dumps(final))
    np.testing.assert_array_equal(load_run(folder).values("return_mean"), [np.nan, 2.0])


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "final.json", "final.npz"])
def test_a_missing_or_broken_file_is_named(experiment: Path, name: str):
    file = experiment / "bc-a" / name
    file.write_bytes(b"{ not what it should be")
    with pytest.raises(BrokenResult, match=rf"bc-a/{name}"):
        load_run(experiment / "bc-a")
    file.unlink()
    kind = "an archive of arrays" if name.endswith(".npz") else "a file"
    with pytest.raises(BrokenResult, match=rf"bc-a/{name}: expected {kind}, found none"):
        load_run(experiment / "bc-a")


def test_a_missing_field_is_named(experiment: Path):
    file = experiment / "bc-a" / "config.json"
    config = json.loads(file.read_text())
    del config["git_commit"]
    file.write_text(json.dumps(config))
    with pytest.raises(BrokenResult, match=r"config\.json: field 'git_commit'"):
        load_run(experiment / "bc-a")


def test_a_missing_metric_is_named(experiment: Path):
    with pytest.raises(BrokenResult, match=r"final\.json: field 'runs': expected 'win_rate'"):
        load_run(experiment / "bc-a").values("win_rate")


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(BrokenResult, match="expected result folders"):
        load_experiment(tmp_path)


def test_links_are_followed_and_a_folder_is_found_once_in_each_experiment(tmp_path: Path):
    job = make(tmp_path / "far" / "bc", "bc", "matrix/xor/a", [1.0])
    root = tmp_path / "root"
    other = make(root / "mine" / "other", "omar", "matrix/xor/a", [2.0])
    (root / "mine" / "bc").symlink_to(job)
    (root / "mine" / "bc-again").symlink_to(job)
    (root / "mine" / "up").symlink_to(root)  # a loop
    (job / "self").symlink_to(job)
    (root / "a-link").symlink_to(root / "mine")  # an experiment that is there without the link
    (root / "far").symlink_to(tmp_path / "far")
    (other / "checkpoint").mkdir()
    (other / "checkpoint" / "0").symlink_to(job)
    found = [folder.relative_to(root).as_posix() for folder in run_folders(root)]
    assert found == ["far/bc", "mine/bc", "mine/other"]
    assert run_folders(root / "mine" / "bc") == [root / "mine" / "bc"]
    page = report(root / "mine").read_text()
    assert "2 result folders, 2 runs." in page and "<th>bc</th>" in page


def test_a_grid_becomes_a_variant_per_point(tmp_path: Path):
    points = [{"alpha": 0.5}, {"alpha": 0.5}, {"alpha": 5.0}, {"alpha": 5.0}]
    run = load_run(
        make(
            tmp_path / "x",
            "cql",
            "matrix/xor/a",
            [1.0, 2.0, 3.0, 4.0],
            points=points,
            seeds=[0, 1, 0, 1],
        )
    )
    low, high = by_config([run])
    assert (low.variant, high.variant) == ("cql (alpha=0.5)", "cql (alpha=5)")
    np.testing.assert_array_equal(high.values("return_mean"), [3.0, 4.0])
    np.testing.assert_array_equal(high.history("return_mean")[-1], [3.0, 4.0])
    assert {row["run"] for row in high.rows} == {2, 3}


def test_folders_of_one_task_and_method_are_told_apart_by_what_differs(tmp_path: Path):
    own = {"steps": 100, "lr": [0.1], "hidden": 8}
    make(tmp_path / "a", "bc", "matrix/xor/a", [1.0], config=own)
    make(tmp_path / "b", "bc", "matrix/xor/a", [2.0], config=own | {"lr": [0.2], "hidden": [4, 4]})
    make(tmp_path / "c", "bc", "matrix/xor/a", [3.0], config=own, seeds=[1])
    make(tmp_path / "d", "bc", "matrix/xor/b", [4.0], config=own | {"steps": 7})
    make(tmp_path / "e", "omar", "matrix/xor/a", [5.0], config=own | {"lr": [0.3]})
    grid = {"config": own | {"lr": [0.3, 0.4]}, "grid": {"lr": [0.3, 0.4]}}
    points = [{"lr": 0.3}, {"lr": 0.4}]
    make(tmp_path / "f", "bc", "matrix/xor/a", [6.0, 7.0], points=points, seeds=[0, 0], **grid)
    names = [run.variant for run in by_config(told_apart(load_experiment(tmp_path)))]
    same = "bc (lr=0.1, hidden=8)"
    assert names == [
        same,
        "bc (lr=0.2, hidden=4x4)",
        same,
        same,
        "omar",
        "bc (hidden=8, lr=0.3)",
        "bc (hidden=8, lr=0.4)",
    ]


def test_jobs_are_told_apart_by_every_setting_but_seeds_and_what_runs_of_one_job_may_differ_in():
    named = {"task", "variant", "config", "sampler_config", "env"}  # in ways of their own
    rest = {field.name for field in dataclasses.fields(TrainSpec)} - LOOSE - GROWS - named
    assert rest == {*SETTINGS, "evaluations"}  # no final number depends on these


def test_jobs_that_differ_in_their_evaluations_or_their_data_have_columns_of_their_own(
    tmp_path: Path,
):
    task = "matrix/xor/a"
    make(tmp_path / "a", "bc", task, [1.0], eval_episodes=8)
    make(tmp_path / "b", "bc", task, [2.0], eval_episodes=9)
    make(tmp_path / "c", "icq", task, [3.0], evaluations=2)
    make(tmp_path / "d", "icq", task, [4.0], evaluations=4)
    make(tmp_path / "e", "facmac", task, [5.0], evaluations=2, seeds=[0])
    make(tmp_path / "j", "facmac", task, [6.0], evaluations=4, seeds=[1])
    digests = {"f": "1" * 64, "g": "2" * 64, "h": "3" * 64}
    make(tmp_path / "f", "omar", task, [6.0], data={"sha256": digests["f"]}, data_seed=0)
    make(tmp_path / "g", "omar", task, [7.0], data={"sha256": digests["g"]}, data_seed=1)
    make(tmp_path / "h", "cql", task, [8.0], data={"sha256": digests["g"]}, data_seed=0)
    make(tmp_path / "i", "cql", task, [9.0], data={"sha256": digests["h"]}, data_seed=0)
    report(tmp_path)
    with (tmp_path / "table-return_mean.csv").open() as stream:
        found = {row["column"]: row["values"] for row in csv.DictReader(stream)}
    assert found == {
        "bc (eval_episodes=8)": "1",
        "bc (eval_episodes=9)": "2",
        "icq (in c)": "3",
        "icq (in d)": "4",
        "facmac": "5 6",
        "omar (data_seed=0)": "6",
        "omar (data_seed=1)": "7",
        "cql (data=22222222)": "8",
        "cql (data=33333333)": "9",
    }


# tables


def test_cells_have_hand_computed_numbers_and_marks(experiment: Path):
    table = tables.build(load_experiment(experiment))
    bc = table.cells["matrix/xor/b", "bc"]
    # 0.5 and 0.7 are left: mean 0.6, std sqrt(2 * 0.01)
    assert (bc.kept, bc.total) == (2, 3)
    assert bc.mean == pytest.approx(0.6) and bc.std == pytest.approx(0.02**0.5)
    # t = 0.1 / sqrt(0.01 / 3 + 0.02 / 2) = 0.87: no difference; 0.2 against a constant 1 is one
    assert bc.mark == "*" and table.cells["matrix/xor/b", "inspo"].mark == "best"
    assert table.cells["matrix/xor/a", "bc"].mark == ""


def test_markdown_shows_marks_failures_paper_and_provenance(experiment: Path):
    paper = {("matrix/xor/a", "bc"): "0.25"}
    text = render.markdown(tables.build(load_experiment(experiment), title="Table 1", paper=paper))
    rows = [line for line in text.splitlines() if line.startswith("| matrix")]
    assert rows[0] == "| matrix/xor/a | 0.20 ± 0.10<br>paper 0.25 | **1.00 ± 0.00** |"
    assert "0.600 ± 0.141 \\*" in rows[1] and "1 of 3 runs failed" in rows[1]
    assert (
        "- Git commits: aaa111, bbb222" in text
        and "- Seeds: 0–2" in text
        and "- Hardware: 2 cores of Example" in text
    )
    assert "- Command: `jaxoff train bc matrix/xor/a`" in text


def test_interquartile_means_are_folded_below_the_table(experiment: Path):
    text = render.markdown(tables.build(load_experiment(experiment)))
    before, fold = text.split("<details", 1)
    fold, after = fold.split("</details>")
    assert "# Results, mean return" in before and "IQM" not in before and "[" not in before
    # of 0.6, 0.7 and 0.8: nothing is left out below four values
    row = next(line for line in fold.splitlines() if line.startswith("| matrix/xor/b"))
    assert row.endswith("| 0.700 [0.600, 0.800] |")
    assert "Mean ± standard deviation over seeds." in after
    one = tables.build([select(run, [0], run.variant) for run in load_experiment(experiment)])
    assert "<details" not in render.markdown(one)  # one seed has no interval


def test_a_table_of_many_methods_has_them_down_the_page(tmp_path: Path):
    for number in range(9):
        make(tmp_path / f"{number}", f"m{number}", "matrix/xor/a", [float(number)])
    lines = render.markdown(tables.build(load_experiment(tmp_path))).splitlines()
    assert lines[2] == "| method | matrix/xor/a |" and lines[12] == "| m8 | **8.00** |"


def test_a_table_is_read_back_from_its_csv(experiment: Path, tmp_path: Path):
    paper = {("matrix/xor/a", "bc"): "0.25 ± 0.1"}
    table = tables.build(load_experiment(experiment), paper=paper, average=True)
    render.write(table, tmp_path / "t")
    found = render.read(tmp_path / "t.csv")
    assert found is not None
    assert found.rows == ("matrix/xor/a", "matrix/xor/b") and found.columns == table.columns
    for place, cell in found.cells.items():
        np.testing.assert_array_equal(cell.tasks[0], table.cells[place].tasks[0])
        assert (cell.mark, cell.paper) == (table.cells[place].mark, table.cells[place].paper)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert render.read(tmp_path / "other.csv") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("-1.2 ± 0.1", -1.2), ("−.5", -0.5), ("20", 20.0), ("—", None), ("", None), ("+3.0*", 3.0)],
)
def test_a_printed_number_is_read(text: str, number: float | None):
    assert tables.number_of(text) == number


def test_rows_and_columns_are_chosen_ordered_and_named(experiment: Path):
    rows, columns = {"matrix/xor/b": "XOR (b)"}, {"inspo": "InSPO", "bc": "BC", "omar": "OMAR"}
    table = tables.build(load_experiment(experiment), rows, columns)
    assert table.rows == ("XOR (b)",) and table.columns == ("InSPO", "BC", "OMAR")
    # what was not run is an empty cell, and the command of a row that is not shown is not listed
    assert render.markdown(table).splitlines()[4].endswith("| — |")
    assert table.commands == ("jaxoff train bc matrix/xor/b", "jaxoff train inspo matrix/xor/b")


def test_the_average_row_weighs_tasks_equally(experiment: Path):
    table = tables.build(load_experiment(experiment), average=True)
    # bc: (0.2 + 0.6) / 2, though one task has fewer runs; inspo: (1 + 0.7) / 2
    assert table.cells["average", "bc"].mean == pytest.approx(0.4)
    assert table.cells["average", "inspo"].mean == pytest.approx(0.85)
    assert table.cells["average", "inspo"].mark == "best"


def test_the_best_average_is_the_smallest_where_smaller_is_better(tmp_path: Path):
    for method, values in (("bc", (0.1, 0.2)), ("inspo", (0.3, 0.4))):
        for task, value in zip("ab", values, strict=True):
            folder = make(tmp_path / f"{method}{task}", method, f"matrix/xor/{task}", [1.0])
            final = json.loads((folder / "final.json").read_text())
            final["runs"][0]["out_of_data"] = value
            (folder / "final.json").write_text(json.dumps(final))
    table = tables.build(load_experiment(tmp_path), metric="out_of_data", average=True)
    assert table.cells["average", "bc"].mark == "best"
    assert table.cells["average", "inspo"].mark != "best"


def test_grids_of_one_value_are_told_apart(tmp_path: Path):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        grid = {"config": {"steps": 100, "lr": [lr]}, "grid": {"lr": [lr]}}
        make(tmp_path / name, "bc", "matrix/xor/a", [lr], points=[{"lr": lr}], **grid)
    names = [run.variant for run in by_config(told_apart(load_experiment(tmp_path)))]
    assert names == ["bc (lr=0.1)", "bc (lr=0.2)"]


def test_a_run_that_failed_is_part_of_no_curve(tmp_path: Path):
    folder = make(tmp_path / "x", "bc", "matrix/xor/a", [1.0, 3.0])
    final = json.loads((folder / "final.json").read_text())
    final["runs"][1]["failed_at"] = 15
    (folder / "final.json").write_text(json.dumps(final))
    run = load_run(folder)
    np.testing.assert_array_equal(
        figures.curve([run], "return_mean")[1], [[0, np.nan], [0.5, np.nan], [1, np.nan]]
    )
    final["runs"][0]["failed_at"] = 15
    (folder / "final.json").write_text(json.dumps(final))
    figures.curves([load_run(folder)], "return_mean", tmp_path / "curves")
    assert (tmp_path / "curves.png").exists()


def test_a_method_without_any_run_left_is_shown(tmp_path: Path):
    make(tmp_path / "a", "bc", "matrix/xor/a", [None, None])
    make(tmp_path / "b", "cql", "matrix/xor/a", [1.0, 1.0])
    assert "| —<br>2 of 2 runs failed |" in render.markdown(tables.build(load_experiment(tmp_path)))


def test_a_number_that_rounds_to_zero_has_no_sign():
    assert render.cell_lines(tables.Cell((np.array([-0.0001]),)), 2, False)[0] == "0.00"


def test_folders_with_other_seeds_are_pooled_and_with_the_same_refused(tmp_path: Path):
    make(tmp_path / "one", "bc", "matrix/xor/a", [1.0, 2.0])
    make(tmp_path / "two", "bc", "matrix/xor/a", [3.0], seeds=[2])
    cell = tables.build(load_experiment(tmp_path)).cells["matrix/xor/a", "bc"]
    assert cell.mean == 2.0 and cell.total == 3
    make(tmp_path / "three", "bc", "matrix/xor/a", [9.0], seeds=[1])
    with pytest.raises(
        BrokenResult,
        match=(
            r"field 'seed': expected seeds that .* does not have, for bc on matrix/xor/a, "
            r"found 1"
        ),
    ):
        tables.build(load_experiment(tmp_path))


def test_a_page_names_the_folders_of_a_point_that_is_there_twice(tmp_path: Path):
    points = [{"lr": 0.5}, {"lr": 1.0}]
    make(tmp_path / "grid", "bc", "matrix/xor/a", [1.0, 2.0], points=points, seeds=[0, 0])
    make(tmp_path / "alone", "bc", "matrix/xor/a", [4.0], points=[{"lr": 1.0}], seeds=[0])
    make(tmp_path / "again", "bc", "matrix/xor/a", [5.0], points=[{"lr": 1.0}], seeds=[0])
    report(tmp_path)
    head = (tmp_path / "table-return_mean.md").read_text().splitlines()[2]
    assert "bc (lr=0.5)" in head and "in alone)" in head and "in again)" in head


def test_write_makes_three_files_and_csv_has_every_seed(experiment: Path, tmp_path: Path):
    paths = render.write(
        tables.build(load_experiment(experiment), title="50% & more"), tmp_path / "out" / "t.1"
    )
    assert [path.name for path in paths] == ["t.1.md", "t.1.tex", "t.1.csv"]
    assert not list((tmp_path / "out").glob(".*"))  # no temporary file is left
    with paths[2].open() as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 4 and lines[0]["values"] == "0.1 0.2 0.3" and lines[2]["kept"] == "2"
    latex = paths[1].read_text()
    assert (
        r"\textbf{1.00 $\pm$ 0.00}" in latex
        and r"0.600 $\pm$ 0.141$^*$" in latex
        and r"50\% \& more" in latex
    )
    assert latex.count("{") == latex.count("}")


def test_paper_numbers_are_read_by_table(tmp_path: Path):
    file = tmp_path / "paper.csv"
    file.write_text(
        "table,row,column,value,source\n1,a,BC,0.5 ± 0.1,p. 7\n1,a,OMAR,,not recoverable\n"
        "2,a,BC,9,p. 8\n"
    )
    assert tables.read_paper(file, "1") == {("a", "BC"): "0.5 ± 0.1", ("a", "OMAR"): ""}
    file.write_text("row,value\n")
    with pytest.raises(
        BrokenResult,
        match=r"paper\.csv: header: expected table,row,column,value,source, found row,value",
    ):
        tables.read_paper(file, "1")


# figures


def test_curve_joins_stages_and_keeps_missing_values_apart(experiment: Path):
    file = experiment / "bc-b" / "metrics.jsonl"
    more = [
        {"stage": "second", "stage_index": 1, "step": 5, "run": 0, "seed": 0, "return_mean": 2.0}
    ]
    file.write_text(file.read_text() + "".join(json.dumps(row) + "\n" for row in more))
    x, values = figures.curve([load_run(experiment / "bc-b")], "return_mean")
    np.testing.assert_array_equal(x, [0, 10, 20, 25])  # the second stage starts after update 20
    np.testing.assert_array_equal(values[2], [0.5, np.nan, 0.7])
    np.testing.assert_array_equal(values[3], [2.0, np.nan, np.nan])


def test_bands_by_hand():
    # of 1 and 3: mean 2, std sqrt(2); the bootstrap of two values reaches from 1 to 3
    middle, low, high = figures.band_of(np.array([[1.0, 3.0, np.nan]]), "std")
    np.testing.assert_allclose([middle[0], low[0], high[0]], [2, 2 - 2**0.5, 2 + 2**0.5])
    _, low, high = figures.band_of(np.array([[1.0, 3.0]]), "ci")
    assert (low[0], high[0]) == (1.0, 3.0)
    with pytest.raises(ValueError, match="expected 'ci' or 'std', found 'sem'"):
        figures.band_of(np.ones((1, 2)), "sem")


def test_only_the_power_of_ten_of_an_axis_is_mathematics():
    with figures.style() as new_figure:
        figure, (panel,) = figures.panels_of(new_figure, 1, (3.4, 2.6))
        panel.plot([0, 4e6], [-1, 1])
        figure.draw_without_rendering()
        labels = [
            label.get_text() for label in (*panel.get_xticklabels(), *panel.get_yticklabels())
        ]
        assert {"1", "−1.00"} <= set(labels) and not any("$" in label for label in labels)
        offsets = [axis.get_offset_text().get_text() for axis in (panel.xaxis, panel.yaxis)]
    assert r"\times" in offsets[0] and "10^{6}" in offsets[0] and not offsets[1]


def test_every_figure_writes_png_and_svg(experiment: Path, tmp_path: Path):
    runs = load_experiment(experiment)
    scores = {"bc": [[0.1, 0.2], [0.5]], "inspo": [[1.0, 1.0], [0.7]]}
    made = [
        *figures.curves(runs, "return_mean", tmp_path / "curves", reference={"optimum": 1.0}),
        *figures.profiles(scores, tmp_path / "profiles"),
        *figures.bar_iqm(scores, tmp_path / "bars"),
        *figures.heat_maps({"InSPO": np.eye(2) / 2}, ["A", "B"], tmp_path / "heat"),
    ]
    assert [path.name for path in made] == [
        f"{name}.{kind}"
        for name in ("curves", "profiles", "bars", "heat")
        for kind in ("png", "svg")
    ]
    for path in made[::2]:
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    svg = (tmp_path / "curves.svg").read_text()
    assert all(
        word in svg
        for word in ("matrix/xor/a", "inspo", "optimum", "mean return", "gradient updates")
    )
    assert (tmp_path / "heat.svg").read_text().count("0.50") == 2  # the two cells of the diagonal


def test_an_svg_is_the_same_file_each_time(experiment: Path, tmp_path: Path):
    runs = load_experiment(experiment)
    first, second = (
        figures.curves(runs, "return_mean", tmp_path / name)[1].read_bytes() for name in ("a", "b")
    )
    assert first == second


def test_a_heat_map_of_a_wrong_shape_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'InSPO': expected shape \(2, 2\), found \(3, 3\)"):
        figures.heat_maps({"InSPO": np.eye(3)}, ["A", "B"], tmp_path / "x")


def test_a_method_has_one_look_in_every_figure_and_labels_of_a_page_have_theirs():
    alone, others = figures.looks(["InSPO"]), figures.looks(["x", "y", "inspo", "bc"])
    assert alone["InSPO"] == others["inspo"] and len({str(x) for x in others.values()}) == 4
    assert figures.looks(["y"]) != {"y": others["y"]}
    with figures.same_looks(["x", "y", "inspo", "bc"]):
        assert figures.looks(["y"]) == {"y": others["y"]}
        assert figures.looks(["bc", "y"])["y"] == others["y"]


def test_what_a_paper_prints_is_marked_in_its_panel(experiment: Path, tmp_path: Path):
    runs, place = load_experiment(experiment), ("matrix/xor/a", "bc")
    figures.curves(runs, "return_mean", tmp_path / "with", paper={place: 0.9})
    figures.curves(runs, "return_mean", tmp_path / "without", paper={("other", "bc"): 0.9})
    words = "the paper's number"
    assert words in (tmp_path / "with.svg").read_text()
    assert words not in (tmp_path / "without.svg").read_text()


def test_looks_are_all_different():
    assert (
        len({tuple(look.values()) for look in figures.looks([str(i) for i in range(40)]).values()})
        == 40
    )


# GIF


def test_gif_has_a_frame_per_slot_and_agents_move(tmp_path: Path):
    walls = np.array([[False, True, False]])
    path = grid_gif(
        np.array([[[0, 0]], [[0, 2]]]),
        walls,
        np.array([[0, 2]]),
        tmp_path / "a.gif",
        rewards=[1.5],
        text="bc",
    )
    with Image.open(path) as image:
        assert image.n_frames == 2
        frames = []
        for index in range(2):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
    agent, wall = np.array([0x00, 0x72, 0xB2]), np.array([0x4A, 0x4A, 0x4A])
    # beside the number on the disc, at three quarters of its radius above its centre, in cells of
    # 64 pixels
    at = lambda frame, column: frame[32 - 12, column * 64 + 32]
    assert (
        np.abs(at(frames[0], 0) - agent).max() < 12 and np.abs(at(frames[1], 2) - agent).max() < 12
    )
    assert np.abs(at(frames[0], 2) - 255).max() < 12 and np.abs(at(frames[0], 1) - wall).max() < 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((2, 2))}, "field 'positions': expected"),
        ({"positions": np.full((2, 1, 2), 9)}, r"expected cells of a grid \(2, 2\), found 9..9"),
        ({"goals": np.zeros((2, 2))}, "field 'goals': expected 1 of them, or none, found 2"),
        ({"rewards": [0.0, 0.0]}, "field 'rewards': expected 1 steps, found 2"),
    ],
)
def test_gif_names_a_wrong_array(tmp_path: Path, change: dict[str, Any], message: str):
    good = {
        "positions": np.zeros((2, 1, 2), int),
        "walls": np.zeros((2, 2)),
        "goals": np.zeros((1, 2)),
        "rewards": [0.0],
    }
    with pytest.raises(ValueError, match=message):
        grid_gif(path=tmp_path / "a.gif", **{**good, **change})


# page and report


class Page(HTMLParser):
    """Collects links, and checks that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_writes_everything_and_every_link_leads_somewhere(experiment: Path):
    page = report(experiment)
    assert page == experiment / "index.html"
    names = {path.name for path in experiment.iterdir()}
    stems = (
        "table-return_mean",
        "table-score",
        "curves-matrix-xor-a",
        "curves-matrix-xor-b",
        "profiles",
        "aggregate",
        "policies-matrix-xor-a",
    )
    assert {f"{stem}.{'md' if stem.startswith('table') else 'svg'}" for stem in stems} <= names
    text = page.read_text()
    parsed = Page(text)
    assert not parsed.open
    assert all((experiment / link).is_file() for link in parsed.links if not link.startswith("#"))
    assert '<strong>1.00 <span class="n">± 0.00</span></strong>' in text
    assert "http" not in text
    # what all tables say stands once
    for words in ("Git commits: aaa111, bbb222", "Bold: best mean", "- Seeds: 0–2"[2:]):
        assert text.count(words) == 1
    # bc fails to differ from inspo on b (see above), where one of its runs failed
    assert "Best mean on 2 tasks: inspo on 2 (significantly on 1 of them)." in text
    assert text.index("summary.svg") < text.index("<h2 id")


def test_report_of_several_experiments_has_a_section_for_each(experiment: Path):
    make(experiment.parent / "bridge" / "bc", "bc", "grid/bridge/mixed", [-2.0, -1.0])
    text = report(experiment.parent).read_text()
    assert '<h2 id="s0">bridge</h2>' in text and '<h2 id="s1">xor</h2>' in text
    assert (experiment.parent / "bridge" / "table-return_mean.tex").exists()


def test_report_of_one_result_folder(experiment: Path):
    assert "curves-matrix-xor-a.svg" in report(experiment / "bc-a").read_text()


def test_report_names_what_has_not_ended(experiment: Path):
    (experiment / "inspo-b" / "final.json").unlink()
    assert unfinished(experiment) == [experiment / "inspo-b"]
    assert "3 result folders, 9 runs. Not ended yet: inspo-b." in report(experiment).read_text()


def test_report_of_a_folder_without_results_is_refused(tmp_path: Path):
    with pytest.raises(BrokenResult, match="found none"):
        report(tmp_path)


def test_page_by_itself_finds_tables_and_pictures(experiment: Path):
    report(experiment)
    (experiment / "notes.md").write_text("# not a table\n")
    [section] = html.scan(experiment)
    tables_first = ["checkpoints", "table-return_mean", "table-score"]
    assert section.stems[:3] == [Path(name) for name in tables_first]
    assert Path("profiles") in section.stems and Path("notes") not in section.stems
    assert "matrix/xor/b" in html.index(experiment, "All").read_text()


def test_page_escapes_what_it_is_given(tmp_path: Path):
    text = html.index(tmp_path, "a < b", [html.Section("<script>", "1 & 2")]).read_text()
    assert "a &lt; b" in text and "<script>" not in text and "1 &amp; 2" in text


def test_a_section_with_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing: expected a table"):
        html.index(tmp_path, "x", [html.Section("s", "", ["nothing"])])


def test_jobs_on_folders_of_one_name_are_told_apart_by_their_data(tmp_path):
    for name, digest in (("a", "1" * 64), ("b", "2" * 64)):
        make(tmp_path / name, "bc", "folder:mine", [1.0], data={"sha256": digest}, env="")
        file = tmp_path / name / "config.json"
        told = json.loads(file.read_text()) | {"folder": f"/data/{name}/mine"}
        file.write_text(json.dumps(told))
    runs = told_apart(load_experiment(tmp_path))
    assert [run.variant for run in runs] == ["bc (data=11111111)", "bc (data=22222222)"]


def test_a_page_says_which_policies_were_not_evaluated(tmp_path):
    make(tmp_path / "own", "bc", "folder:mine", [1.0, 2.0])
    final = json.loads((tmp_path / "own" / "final.json").read_text())
    for run in final["runs"]:
        run["return_mean"] = None
    (tmp_path / "own" / "final.json").write_text(json.dumps(final))
    rows = [json.loads(x) for x in (tmp_path / "own" / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"return_mean": None, "loss/nll": 1.0, "loss/other": 2.0} for row in rows]
    (tmp_path / "own" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert load_run(tmp_path / "own").curve_metric == "loss/nll"
    make(tmp_path / "ours", "bc", "matrix/xor/b", [1.0, 2.0])
    page = " ".join(report(tmp_path).read_text().split())
    assert "Policies on folder:mine were not evaluated: no environment that can be played" in page
    assert "32 episodes per run" in page and (tmp_path / "curves-folder-mine.png").exists()
    # a job whose runs have all failed was evaluated, and has a cell
    make(tmp_path / "failed", "icq", "matrix/xor/b", [None, None])
    assert not load_run(tmp_path / "failed").unplayed
    report(tmp_path)
    text = (tmp_path / "table-return_mean.md").read_text()
    assert "| matrix/xor/b | —<br>2 of 2 runs failed | **1.50 ± 0.71** |" in text
    # and so was one whose environment pays what is not a number
    for run in final["runs"]:
        run["length_mean"] = 3.0
    (tmp_path / "own" / "final.json").write_text(json.dumps(final))
    assert not load_run(tmp_path / "own").unplayed
    page = " ".join(report(tmp_path / "own").read_text().split())
    assert "No return of a policy on folder:mine is a finite number." in page


def test_the_table_in_a_terminal_tells_failed_runs(tmp_path, capsys):
    make(tmp_path / "bc", "bc", "matrix/xor/b", [1.0, None, 0.5])
    main(["report", str(tmp_path)])
    text = capsys.readouterr().out
    assert "failed runs" in text and "1 of 3" in text
